"""A step of DPSGD: clipped gradients and noise, as operations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import SupportsIndex

import numpy as np

from bpengine.backends import Array, Operation
from bpengine.backprop.per_example_plan import PerExamplePlan, given
from bpengine.backprop.plan import Plan
from bpengine.model.model import Model
from bpengine.model.parameters import Parameters
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.update import State
from bpengine.privacy.dpsgd import DPSGD
from bpengine.privacy.noise import Noise

__all__ = ["PrivatePlan", "plan"]


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
        network: Model,
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
    network: Model,
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
