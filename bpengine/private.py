"""Differentially private gradient descent: the optimizer, its noise, and its plan."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from bpengine.backends import Array, Operation
from bpengine.gaussian import Noise
from bpengine.optimizers import SGD, Optimizer, Rate
from bpengine.parameters import Parameters
from bpengine.per_example_plans import PerExamplePlan, given
from bpengine.plan import Plan
from bpengine.updates import State
from bpengine.validation import non_negative_number, positive_number

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["DPSGD", "PrivatePlan", "plan"]


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


class PrivatePlan(PerExamplePlan):
    """A step of `DPSGD`, recorded.

    Parameters
    ----------
    network : Network
    batch_size : int
        Number of columns, m. Those beyond a batch's examples have weight 0.
    optimizer : DPSGD
    state, weighted
        As for `Plan`.
    expected : float, optional
        Examples that a batch has on average, by which sums are divided; m where not given.
    rng : numpy.random.Generator, optional
        What draws the noise; where not given, as the optimizer says.
    """

    def __init__(
        self,
        network: Network,
        batch_size: SupportsIndex,
        optimizer: DPSGD,
        *,
        state: State | None = None,
        weighted: bool = False,
        expected: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._divisor = expected
        # where the gradient itself is the step, noise can come after it: products of BP3 and BP4 that
        # add themselves to the parameters then still do
        self._last = not optimizer.momentum and optimizer.averaging is None
        self._noise = optimizer.noise_multiplier * optimizer.max_norm
        self._strength = network.backend.empty((), network.dtype)
        self._rng = optimizer.generator(network.rng) if rng is None else rng
        super().__init__(
            network,
            batch_size,
            "clip",
            optimizer.max_norm,
            optimizer.rule,
            state=state,
            weighted=weighted,
        )

    def _clipped(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        yield from super()._clipped(backprop)
        if not self._last:
            yield from self._add_noise(self._gradient)

    def _update(self, state: State) -> Iterator[Operation]:
        yield from super()._update(state)
        if self._last:
            yield from self._add_noise(self.network.parameters)

    def _add_noise(self, to: Parameters) -> Iterator[Operation]:
        draw = Noise(self._rng, self.network.backend, self.network.dtype)
        for block, n in zip(to.blocks, self.network.sizes, strict=False):
            # [w b] and not the padding
            x = block[..., : n + 1]
            if self._noise:
                yield Operation("gaussian noise", "noise", draw, (x, self._strength), x)

    def _units(self, unit: float) -> Iterator[tuple[Array, float]]:
        share = unit / (self._divisor or self.batch_size)
        for array, value in super()._units(unit):
            yield array, share if array is self._clipping.scale else value
        yield self._strength, -share * self._noise if self._last else share * self._noise


def plan(
    network: Network,
    batch_size: SupportsIndex,
    optimizer: Optimizer | DPSGD | None,
    kind: str | None,
    max_norm: float | None,
    *,
    weighted: bool,
    own: Collection[str] = (),
) -> Plan:
    """The plan that `Network.plan` gives."""
    if isinstance(optimizer, DPSGD):
        if kind is not None or max_norm is not None:
            raise ValueError("DPSGD has its own max_norm: leave out per_example and max_norm.")
        return PrivatePlan(network, batch_size, optimizer, weighted=weighted)
    if kind is None and max_norm is None:
        return Plan(network, batch_size, optimizer, weighted=weighted, own=own)
    return PerExamplePlan(network, batch_size, given(kind), max_norm, optimizer, weighted=weighted)
