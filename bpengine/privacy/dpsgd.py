"""Differentially private gradient descent: the optimizer."""

from __future__ import annotations

import secrets
from dataclasses import KW_ONLY, dataclass, fields

import numpy as np

from bpengine.optimizers.base import Rate
from bpengine.optimizers.sgd import SGD
from bpengine.validation import non_negative_number, positive_number

__all__ = ["DPSGD"]


@dataclass(frozen=True, repr=False)
class DPSGD:
    """Private gradient descent: each example's gradient is clipped, and noise hides what is left of it.

    A step takes every example with the same probability q = batch size / N, clips each gradient to the
    norm c, and moves by -η/(q N) (Σ_x clipped ∇C_x + σ c · noise), with standard normal noise. Give it
    to `Network.fit`: the batch size is then that of a batch on average, and `shuffle` has no part.

    Parameters
    ----------
    learning_rate : float, Schedule or function of the epochs passed
        η.
    noise_multiplier : float
        σ, the noise's standard deviation in units of `max_norm`; 0 is no noise and no privacy.
    max_norm : float
        c, the greatest norm that an example's gradient keeps.
    momentum, weight_decay, averaging
        As for `SGD`. They work on noisy gradients and cost no privacy.
    delta : float or None, optional
        δ of the (ε, δ) that `fit` reports in ``History.epsilon`` after each epoch, by the accountant of
        the extra ``privacy``. Below 1/N to mean anything. None: no report, and the extra is not needed.
    secure : bool, optional
        Whether batches and noise come from a generator that the operating system's cryptographic
        source has seeded. Without, they come from ``network.rng``, and whoever knows its seed can
        take the noise away.

    Raises
    ------
    ValueError, TypeError
        If a value is out of its range.

    Notes
    -----
    The promise is about the parameters alone. Costs, accuracies and norms that training reports are
    computed from the examples without noise. NumPy's generators are made for simulation: `secure`
    makes their start unpredictable, not their algorithm cryptographic, and noise in floating point
    is open to the attack of Mironov, CCS 2012.

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
    >>> history.cost[-1] < history.cost[0]
    True
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
        non_negative_number(self.noise_multiplier, "noise_multiplier")
        positive_number(self.max_norm, "max_norm")
        if self.delta is not None and not 0 < positive_number(self.delta, "delta") < 1:
            raise ValueError(f"delta must be above 0 and below 1, got {self.delta}.")
        _ = self.rule

    def __repr__(self) -> str:
        values = ((field, getattr(self, field.name)) for field in fields(self))
        shown = [f"{field.name}={value!r}" for field, value in values if value != field.default]
        return f"DPSGD({', '.join(shown)})"

    @property
    def rule(self) -> SGD:
        """The update that noisy gradients are given to."""
        return SGD(
            self.learning_rate,
            self.momentum,
            weight_decay=self.weight_decay,
            averaging=self.averaging,
        )

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        """What batches and noise are drawn from: `rng`, or a new one where `secure` asks for it."""
        return np.random.default_rng(secrets.randbits(256)) if self.secure else rng
