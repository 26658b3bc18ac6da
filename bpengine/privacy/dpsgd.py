"""Differentially private gradient descent: the optimizer."""

from __future__ import annotations

import secrets
from dataclasses import KW_ONLY, dataclass

import numpy as np

from bpengine.model.suggestions import known_keywords
from bpengine.optimizers.base import Optimizer, Rate
from bpengine.optimizers.sgd import SGD
from bpengine.validation import convert_fields, flag, non_negative_number, optional, positive_number

__all__ = ["DPSGD"]


@known_keywords
@dataclass(frozen=True, repr=False)
class DPSGD:
    """Private gradient descent: clipped per-example gradients, with noise.

    A step samples every example with probability q = batch size / N, clips each gradient to the norm
    c, and adds -η/(q N) (Σ_x clipped ∇C_x + σ c · noise), with standard normal noise. With
    `Network.fit`, `batch_size` is the expected batch size, and `shuffle` is ignored.

    Parameters
    ----------
    learning_rate : float, Schedule or function of the epochs passed
        η.
    noise_multiplier : float
        σ, the noise's standard deviation in units of `max_norm`; 0: no noise and no privacy.
    max_norm : float
        c, the maximum norm of an example's gradient.
    momentum, weight_decay, averaging
        As for `SGD`. They work on noisy gradients and cost no privacy.
    delta : float or None, optional
        δ of the (ε, δ) that `fit` records in ``History.epsilon`` after each epoch; it should be below
        1/N. Needs the extra ``privacy``, unless None, which records nothing.
    secure : bool, optional
        Whether to seed the generator of batches and noise from the operating system's cryptographic
        source. Otherwise they are drawn from ``network.rng``: its seed is enough to remove the noise.

    Raises
    ------
    ValueError, TypeError
        If a value is out of its range.

    Notes
    -----
    Only the parameters are private. Costs, accuracies and norms that training reports are computed
    without noise. NumPy's generators are not cryptographic, `secure` only makes their seed
    unpredictable, and floating-point noise is open to the attack of Mironov, CCS 2012.

    References
    ----------
    M. Abadi et al., Deep learning with differential privacy, arXiv:1607.00133.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> X, labels = bp.datasets.circles(500, rng=0)
    >>> net = bp.Network([2, 16, 2], cost="binary_cross_entropy", rng=0)
    >>> private = bp.DPSGD(2.0, noise_multiplier=1.0, max_norm=1.0, delta=None)
    >>> history = net.fit(X, labels, epochs=20, batch_size=50, optimizer=private, progress=False)
    >>> round(history.cost[0], 1), round(history.cost[-1], 1)
    (1.5, 1.1)
    """

    learning_rate: Rate
    noise_multiplier: float
    max_norm: float
    _: KW_ONLY
    momentum: float = 0.0
    weight_decay: float = 0.0
    averaging: float | None = None
    delta: float | None = 1e-5
    secure: bool = False

    def __post_init__(self) -> None:
        convert_fields(
            self,
            noise_multiplier=non_negative_number,
            max_norm=positive_number,
            delta=optional(positive_number),
            secure=flag,
        )
        if self.delta is not None and self.delta >= 1:
            raise ValueError(f"delta must be above 0 and below 1, got {self.delta}.")
        rule = self.rule
        for name in ("learning_rate", "momentum", "weight_decay", "averaging"):
            object.__setattr__(self, name, getattr(rule, name))

    __repr__ = Optimizer.__repr__

    @property
    def rule(self) -> SGD:
        """The update rule of noisy gradients."""
        η, μ, λ = self.learning_rate, self.momentum, self.weight_decay
        return SGD(η, μ, weight_decay=λ, averaging=self.averaging)

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        """The generator of batches and noise: `rng`, or with `secure` a new one."""
        return np.random.default_rng(secrets.randbits(256)) if self.secure else rng
