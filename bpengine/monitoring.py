"""The figures of one step that tell how a network learns: norms and saturation, layer by layer."""

from __future__ import annotations

import math

from bpengine.activations import Activation, PerNeuron
from bpengine.backends import Array
from bpengine.history import Statistics
from bpengine.plan import Plan

__all__ = ["statistics"]

MARGIN = 0.01  # of the range: an activation nearer than this to an end is saturated


def statistics(plan: Plan, epoch: int, step: int) -> Statistics:
    """Figures of a gradient plan that has run.

    Parameters
    ----------
    plan : Plan
        Without an optimizer.
    epoch, step : int
        Where training is.
    """
    network, workspace = plan.network, plan.workspace
    xp, gradient = network.backend.xp, plan.gradient
    return Statistics(
        epoch=epoch,
        step=step,
        cost=gradient.cost,
        gradient_norms=tuple(_norm(xp, block) for block in gradient.blocks),
        weight_norms=tuple(_norm(xp, w) for w in network.weights),
        saturated=tuple(
            _saturated(xp, σ, a) for σ, a in zip(network.activations, workspace.a, strict=True)
        ),
        mean_activations=tuple(float(xp.mean(xp.abs(a))) for a in workspace.a),
    )


def _norm(xp: Array, x: Array) -> float:
    return math.sqrt(float(xp.sum(x * x, dtype=xp.float64)))


def _saturated(xp: Array, σ: Activation, a: Array) -> float:
    if isinstance(σ, PerNeuron):
        shares = (_saturated(xp, member, a[j : j + 1, :]) for j, member in enumerate(σ.members))
        return sum(shares) / len(σ.members)
    low, high = σ.range
    # of a range that is open at one end, such as relu's, the margin is that of a unit
    margin = MARGIN * (high - low if math.isfinite(high - low) else 1.0)
    at_end = (a < low + margin) | (a > high - margin)
    return float(xp.mean(xp.astype(at_end, a.dtype)))
