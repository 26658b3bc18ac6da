"""Limits of norms: `clip_norm` of the gradient, `max_norm` of the weights into a neuron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bpengine.backends import Array, Operation
from bpengine.backends.norms import limit_factors
from bpengine.model.parameters import Parameters
from bpengine.optimizers.base import scalar

__all__ = ["clip", "limit_weights", "multiply"]


def clip(gradient: Parameters, bound: Array) -> Iterator[Operation]:
    """Operations that scale a gradient down to the norm `bound`; in a stack, of each network."""
    g, stack = gradient.vector, gradient.stack
    if not stack:
        factor = scalar(1.0, g)
        yield Operation("clip factor", "update", _clip_factor, (g, bound), factor)
        yield Operation("clip", "update", multiply, (g, factor), g)
        return
    factor = gradient.backend.empty((*stack, 1, 1), gradient.dtype)
    inputs = *gradient.blocks, bound
    yield Operation("clip factor per network", "update", _clip_factors, inputs, factor)
    for block in gradient.blocks:
        yield Operation("clip", "update", multiply, (block, factor), block)


def limit_weights(weights: Sequence[Array], max_norm: float) -> Iterator[Operation]:
    """Operations that scale the weights into each neuron down to the norm `max_norm`."""
    for w in weights:
        yield Operation("max norm", "update", _max_norm, (w, scalar(max_norm, w)), w)


def _clip_factor(*operands: Array) -> Array:
    *vectors, bound = operands
    return limit_factors(vectors, bound, None)


def _clip_factors(*operands: Array) -> Array:
    *blocks, bound = operands
    return limit_factors(blocks, bound, (-2, -1))


def _max_norm(w: Array, bound: Array) -> Array:
    return w * limit_factors([w], bound, -1)


def multiply(x: Array, factor: Array) -> Array:
    """The expression of a scaling."""
    return x * factor
