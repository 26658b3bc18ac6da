"""NumPy kernels of updates: optimizers, penalties, clipping, dropout.

An optimizer makes some ten passes over vectors with an entry for each parameter. They are processed in
blocks, so that all passes but the first read a block from the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bpengine.backends.array_api import Calls
from bpengine.backends.norms import least_norm, limit_factors
from bpengine.backends.numpy.elementwise import by_ufunc, maximum
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.operation import Array

__all__ = ["UPDATES"]

BLOCK = 2**15  # elements: five such arrays fit a core's cache


def _blocks(k: Scratch, *vectors: Array) -> Iterator[tuple[Array, ...]]:
    """For each block its part of every vector, and scratch memory of its length."""
    for start in range(0, vectors[0].size, BLOCK):
        parts = [vector[start : start + BLOCK] for vector in vectors]
        yield *parts, k.scratch(parts[0])


def _momentum(k: Scratch, θ: Array, step: Array, v: Array, μ: Array, out: Array) -> Calls:
    # v ← μ v - step, θ ← θ + v
    for θ_, g, v_, _ in _blocks(k, θ, step, v):
        yield np.multiply, (v_, μ, v_)
        yield np.subtract, (v_, g, v_)
        yield np.add, (θ_, v_, θ_)


def _nesterov(k: Scratch, θ: Array, step: Array, v: Array, μ: Array, out: Array) -> Calls:
    # v ← μ v - step, θ ← θ + μ v - step
    for θ_, g, v_, s in _blocks(k, θ, step, v):
        yield np.multiply, (v_, μ, v_)
        yield np.subtract, (v_, g, v_)
        yield np.multiply, (v_, μ, s)
        yield np.subtract, (s, g, s)
        yield np.add, (θ_, s, θ_)


def _adam(
    k: Scratch,
    θ: Array,
    g: Array,
    gradients: Array,
    squares: Array,
    weights: Array,
    betas: Array,
    ε: Array,
    η: Array,
    out: Array,
) -> Calls:
    # η m̂ / (√v̂ + ε) = α G / (√S + ε') for sums G, S of weights W, α = η √W₂ / W₁, ε' = ε √W₂
    root, α, ε_ = (np.empty((), θ.dtype) for _ in range(3))
    yield np.multiply, (weights, betas, weights)
    yield np.add, (weights, k.constant(1, θ), weights)
    yield np.sqrt, (weights[1, ...], root)
    yield np.multiply, (ε, root, ε_)
    # a vector η is multiplied in `_divided_step`
    yield (np.copyto, (α, root)) if η.ndim else (np.multiply, (η, root, α))
    yield np.divide, (α, weights[0, ...], α)
    for θ_, g_, G, S, *rates, s in _blocks(k, θ, g, gradients, squares, *_vectors(η)):
        yield np.multiply, (G, betas[0, ...], G)
        yield np.add, (G, g_, G)
        yield np.multiply, (g_, g_, s)
        yield np.multiply, (S, betas[1, ...], S)
        yield np.add, (S, s, S)
        yield from _divided_step(θ_, G, S, ε_, [α, *rates], s)


def _rmsprop(
    k: Scratch, θ: Array, g: Array, v: Array, ρ: Array, rest: Array, ε: Array, η: Array, out: Array
) -> Calls:
    for θ_, g_, v_, *rates, s in _blocks(k, θ, g, v, *_vectors(η)):
        yield np.multiply, (g_, g_, s)
        yield np.multiply, (s, rest, s)
        yield np.multiply, (v_, ρ, v_)
        yield np.add, (v_, s, v_)
        yield from _divided_step(θ_, g_, v_, ε, rates or [η], s)


def _adagrad(k: Scratch, θ: Array, g: Array, squares: Array, ε: Array, η: Array, out: Array) -> Calls:
    for θ_, g_, v_, *rates, s in _blocks(k, θ, g, squares, *_vectors(η)):
        yield np.multiply, (g_, g_, s)
        yield np.add, (v_, s, v_)
        yield from _divided_step(θ_, g_, v_, ε, rates or [η], s)


def _vectors(η: Array) -> list[Array]:
    """η where it is a vector, with a rate for each parameter."""
    return [η] if η.ndim else []


def _divided_step(θ: Array, m: Array, v: Array, ε: Array, factors: list[Array], s: Array) -> Calls:
    # θ ← θ - α m / (√v + ε), where α is the product of the factors
    yield np.sqrt, (v, s)
    yield np.add, (s, ε, s)
    yield np.divide, (m, s, s)
    for α in factors:
        yield np.multiply, (s, α, s)
    yield np.subtract, (θ, s, θ)


def _average(k: Scratch, average: Array, θ: Array, count: Array, least: Array, out: Array) -> Calls:
    # θ̄ ← θ̄ + max(1/n, least) (θ - θ̄)
    share = np.empty((), θ.dtype)
    yield np.add, (count, k.constant(1, θ), count)
    yield np.reciprocal, (count, share)
    yield maximum(share, least, share)
    for average_, θ_, s in _blocks(k, average, θ):
        yield np.subtract, (θ_, average_, s)
        yield np.multiply, (s, share, s)
        yield np.add, (average_, s, average_)


def _clip_factor(k: Scratch, g: Array, bound: Array, out: Array) -> Calls:
    # bound / max(‖g‖, bound)
    yield np.dot, (g, g, out)
    yield _limit_factor, (out, g, bound, least_norm(g))


def _limit_factor(out: Array, g: Array, bound: Array, least: float) -> None:
    # numbers of Python: each call of a ufunc on a single number takes longer than all of them
    limit = bound.item()
    norm = max(math.sqrt(out.item()), limit)
    out[...] = limit / norm if least <= norm < math.inf else limit_factors([g], bound, None)


def _clip_factors(k: Scratch, *operands: Array) -> Calls:
    # of each network of a stack
    *blocks, bound, out = operands
    total, part = out[:, 0, 0], k.scratch(out[:, 0, 0])
    yield out.fill, (0.0,)
    for block in blocks:
        g = block.reshape(len(block), -1)
        yield np.vecdot, (g, g, part)
        yield np.add, (total, part, total)
    yield from _bounded(out, blocks, bound, (-2, -1))


def _bounded(factors: Array, vectors: Sequence[Array], bound: Array, axis: Any) -> Calls:
    # ‖x‖² becomes bound / max(‖x‖, bound)
    yield np.sqrt, (factors, factors)
    yield maximum(factors, bound, factors)
    yield np.divide, (bound, factors, factors)
    yield _rescale, (factors, vectors, bound, axis, least_norm(factors))


def _rescale(factors: Array, vectors: Sequence[Array], bound: Array, axis: Any, least: float) -> None:
    """Factors bound / max(‖x‖, bound) again, where squares overflow or may underflow."""
    smallest = bound.min() if bound.ndim else bound.item()
    if np.count_nonzero(factors) < factors.size or smallest < least:
        factors[...] = limit_factors(vectors, bound, axis)


def _epsilon(k: Scratch, correction: Array, β: Array, rest: Array, ε: Array, out: Array) -> Calls:
    # ε / √c for c = 1 - βᵗ, which is updated
    yield np.multiply, (correction, β, correction)
    yield np.add, (correction, rest, correction)
    yield np.sqrt, (correction, out)
    yield np.divide, (ε, out, out)


def _share(k: Scratch, weights: Array, out: Array) -> Calls:
    yield np.add.reduce, (weights[0], 0, None, out)
    yield np.divide, (k.constant(weights.shape[-1], out), out, out)


def _add_squares(k: Scratch, total: Array, w: Array, factor: Array, out: Array) -> Calls:
    norms, part = k.scratch(w[..., 0]), np.empty((), total.dtype)
    yield np.vecdot, (w, w, norms)
    yield np.add.reduce, (norms, 0, total.dtype, part)
    yield np.multiply, (part, factor, part)
    yield np.add, (total, part, out)


def _max_norm(k: Scratch, w: Array, bound: Array, out: Array) -> Calls:
    norms = k.scratch(w[..., 0])
    yield np.vecdot, (w, w, norms)
    yield from _bounded(norms[..., None], [w], bound, -1)
    yield np.multiply, (w, norms[..., None], out)


def _l2(k: Scratch, g: Array, w: Array, strength: Array, out: Array) -> Calls:
    s = k.scratch(w)
    yield np.multiply, (w, strength, s)
    yield np.add, (g, s, out)


def _l1(k: Scratch, g: Array, w: Array, strength: Array, out: Array) -> Calls:
    s = k.scratch(w)
    yield np.sign, (w, s)
    yield np.multiply, (s, strength, s)
    yield np.add, (g, s, out)


def _dropout_mask(k: Scratch, uniform: Array, keep: Array, out: Array) -> Calls:
    inverse = np.array(1 / keep, keep.dtype)
    yield np.less, (uniform, keep, out)
    yield np.multiply, (out, inverse, out)


UPDATES: dict[str, Any] = {
    "add squares": _add_squares,
    "epsilon": _epsilon,
    "share": _share,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
    "adam per parameter": _adam,
    "rmsprop": _rmsprop,
    "rmsprop per parameter": _rmsprop,
    "adagrad": _adagrad,
    "adagrad per parameter": _adagrad,
    "average": _average,
    "clip factor": _clip_factor,
    "clip factor per network": _clip_factors,
    "clip": by_ufunc(np.multiply),
    "decay": by_ufunc(np.multiply),
    "max norm": _max_norm,
    "l2": _l2,
    "l1": _l1,
    "dropout mask": _dropout_mask,
    "dropout": by_ufunc(np.multiply),
    "weigh": by_ufunc(np.multiply),
}
