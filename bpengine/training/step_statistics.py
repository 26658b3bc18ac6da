"""Statistics of single steps: norms and saturation per layer."""

from __future__ import annotations

import math
from itertools import repeat
from typing import Any

from bpengine.backends import Array, Backend
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk
from bpengine.model.activations import Activation, PerNeuron
from bpengine.model.model import Model
from bpengine.training.history import Statistics

__all__ = ["Monitor"]

MARGIN = 0.01  # of the range: an activation nearer than this to an end is saturated


class Monitor:
    """Computes the statistics of every so many steps, or with "epoch" of each epoch's first."""

    def __init__(self, every: int | str) -> None:
        self.every = every
        self._key: tuple[Model, int, bool] | None = None

    def wait(self, taken: int, step: int) -> float:
        """Number of steps before the next monitored step, after `taken` steps of the epochs before."""
        if isinstance(self.every, int):
            return -(taken + step) % self.every
        return math.inf if step else 0

    def look(self, network: Model, chunk: Chunk, epoch: int, step: int) -> Statistics:
        """Statistics of a chunk's first step, before it is taken."""
        key = network, chunk.size, chunk.weighted
        if self._key != key:
            plan = Plan(network, chunk.size, weighted=chunk.weighted, per_network=chunk.per_network)
            self._key, self._plan = key, plan
        plan = self._plan
        chunk.load(chunk.batches[0], plan.workspace.rows)
        plan.run_loaded()
        workspace, gradient, backend = plan.workspace, plan.gradient, network.backend
        xp, σ = backend.xp, network.activations
        activations = [xp.astype(a, xp.float64) for a in workspace.a]
        return Statistics(
            epoch=epoch,
            step=step,
            cost=gradient.cost,
            gradient_norms=tuple(_norm(backend, block) for block in gradient.blocks),
            weight_norms=tuple(_norm(backend, w) for w in network.weights),
            saturated=tuple(map(_saturated, repeat(backend), σ, activations)),
            mean_activations=tuple(
                backend.to_float(xp.mean(xp.abs(a), axis=(-2, -1))) for a in activations
            ),
        )


def _norm(backend: Backend, x: Array) -> Any:
    xp = backend.xp
    x = xp.astype(x, xp.float64)
    return backend.to_float(xp.sqrt(xp.sum(x * x, axis=(-2, -1))))


def _saturated(backend: Backend, σ: Activation, a: Array) -> Any:
    if isinstance(σ, PerNeuron):
        rows = (a[..., j : j + 1, :] for j in range(len(σ.members)))
        return sum(map(_saturated, repeat(backend), σ.members, rows)) / len(σ.members)
    xp = backend.xp
    low, high = σ.range
    # relative to 1 for an unbounded range such as relu's
    margin = MARGIN * (high - low if math.isfinite(high - low) else 1.0)
    at_end = (a < low + margin) | (a > high - margin)
    return backend.to_float(xp.mean(xp.astype(at_end, a.dtype), axis=(-2, -1)))
