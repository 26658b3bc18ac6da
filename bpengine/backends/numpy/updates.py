"""NumPy kernels of updates: optimizers, penalties, clipping, dropout.

An optimizer makes some ten passes over vectors with an entry for each parameter. They are processed in
blocks, so that all passes but the first read a block from the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call
from bpengine.backends.norms import overflow_unit
from bpengine.backends.numpy.elementwise import by_ufunc
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.operation import Array

__all__ = ["UPDATES"]

BLOCK = 2**15  # elements: five such arrays fit a core's cache


def _blocks(k: Scratch, *vectors: Array) -> Iterator[tuple[Array, ...]]:
    """For each block its part of every vector, and scratch memory of its length."""
    for start in range(0, vectors[0].size, BLOCK):
        parts = [vector[start : start + BLOCK] for vector in vectors]
        yield *parts, k.scratch(parts[0])


def _momentum(k: Scratch, θ: Array, step: Array, v: Array, μ: Array, out: Array) -> list[Call]:
    # v ← μ v - step, θ ← θ + v
    calls: list[Call] = []
    for θ_, g, v_, _ in _blocks(k, θ, step, v):
        calls += [
            (np.multiply, (v_, μ, v_)),
            (np.subtract, (v_, g, v_)),
            (np.add, (θ_, v_, θ_)),
        ]
    return calls


def _nesterov(k: Scratch, θ: Array, step: Array, v: Array, μ: Array, out: Array) -> list[Call]:
    # v ← μ v - step, θ ← θ + μ v - step
    calls: list[Call] = []
    for θ_, g, v_, s in _blocks(k, θ, step, v):
        calls += [
            (np.multiply, (v_, μ, v_)),
            (np.subtract, (v_, g, v_)),
            (np.multiply, (v_, μ, s)),
            (np.subtract, (s, g, s)),
            (np.add, (θ_, s, θ_)),
        ]
    return calls


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
) -> list[Call]:
    # η m̂ / (√v̂ + ε) = α G / (√S + ε') for sums G, S of weights W, α = η √W₂ / W₁, ε' = ε √W₂
    root, α, ε_ = (np.empty((), θ.dtype) for _ in range(3))
    calls: list[Call] = [
        (np.multiply, (weights, betas, weights)),
        (np.add, (weights, k.constant(1, θ), weights)),
        (np.sqrt, (weights[1, ...], root)),
        (np.multiply, (ε, root, ε_)),
        (np.multiply, (η, root, α)),
        (np.divide, (α, weights[0, ...], α)),
    ]
    if η.ndim:  # a vector: without it α is √W₂ / W₁
        calls[4] = np.copyto, (α, root)
    for θ_, g_, G, S, *rates, s in _blocks(k, θ, g, gradients, squares, *_vectors(η)):
        calls += [
            (np.multiply, (G, betas[0, ...], G)),
            (np.add, (G, g_, G)),
            (np.multiply, (g_, g_, s)),
            (np.multiply, (S, betas[1, ...], S)),
            (np.add, (S, s, S)),
            *_divided_step(θ_, G, S, ε_, [α, *rates], s),
        ]
    return calls


def _rmsprop(
    k: Scratch, θ: Array, g: Array, v: Array, ρ: Array, rest: Array, ε: Array, η: Array, out: Array
) -> list[Call]:
    calls: list[Call] = []
    for θ_, g_, v_, *rates, s in _blocks(k, θ, g, v, *_vectors(η)):
        calls += [
            (np.multiply, (g_, g_, s)),
            (np.multiply, (s, rest, s)),
            (np.multiply, (v_, ρ, v_)),
            (np.add, (v_, s, v_)),
            *_divided_step(θ_, g_, v_, ε, rates or [η], s),
        ]
    return calls


def _adagrad(
    k: Scratch, θ: Array, g: Array, squares: Array, ε: Array, η: Array, out: Array
) -> list[Call]:
    calls: list[Call] = []
    for θ_, g_, v_, *rates, s in _blocks(k, θ, g, squares, *_vectors(η)):
        calls += [
            (np.multiply, (g_, g_, s)),
            (np.add, (v_, s, v_)),
            *_divided_step(θ_, g_, v_, ε, rates or [η], s),
        ]
    return calls


def _vectors(η: Array) -> list[Array]:
    """η where it is a vector, with a rate for each parameter."""
    return [η] if η.ndim else []


def _divided_step(θ: Array, m: Array, v: Array, ε: Array, factors: list[Array], s: Array) -> list[Call]:
    # θ ← θ - α m / (√v + ε), where α is the product of the factors
    return [
        (np.sqrt, (v, s)),
        (np.add, (s, ε, s)),
        (np.divide, (m, s, s)),
        *((np.multiply, (s, α, s)) for α in factors),
        (np.subtract, (θ, s, θ)),
    ]


def _average(k: Scratch, average: Array, θ: Array, count: Array, least: Array, out: Array) -> list[Call]:
    # θ̄ ← θ̄ + max(1/n, least) (θ - θ̄)
    share = np.empty((), θ.dtype)
    calls: list[Call] = [
        (np.add, (count, k.constant(1, θ), count)),
        (np.reciprocal, (count, share)),
        (partial(np.maximum, out=share), (share, least)),
    ]
    for average_, θ_, s in _blocks(k, average, θ):
        calls += [
            (np.subtract, (θ_, average_, s)),
            (np.multiply, (s, share, s)),
            (np.add, (average_, s, average_)),
        ]
    return calls


def _clip_factor(k: Scratch, g: Array, bound: Array, out: Array) -> list[Call]:
    # bound / max(‖g‖, bound)
    return [
        (np.dot, (g, g, out)),
        (np.sqrt, (out, out)),
        (partial(np.maximum, out=out), (out, bound)),
        (np.divide, (bound, out, out)),
        (_rescale, (out, [g], bound)),
    ]


def _clip_factors(k: Scratch, *operands: Array) -> list[Call]:
    # bound / max(‖g‖, bound) of each network of a stack
    *blocks, bound, out = operands
    total, part = out[:, 0, 0], k.scratch(out[:, 0, 0])
    gradients = [block.reshape(len(block), -1) for block in blocks]
    calls: list[Call] = [(out.fill, (0.0,))]
    for g in gradients:
        calls += [(np.vecdot, (g, g, part)), (np.add, (total, part, total))]
    return [
        *calls,
        (np.sqrt, (out, out)),
        (partial(np.maximum, out=out), (out, bound)),
        (np.divide, (bound, out, out)),
        (_rescale, (total, gradients, bound[:, 0, 0] if bound.ndim else bound)),
    ]


def _rescale(factors: Array, vectors: Sequence[Array], bound: Array) -> None:
    """Factors bound / ‖x‖ that are 0 as squares overflow, from scaled vectors."""
    if np.count_nonzero(factors) == factors.size:
        return
    unit = overflow_unit(float(np.finfo(factors.dtype).max))
    scaled = (x * factors.dtype.type(unit) for x in vectors)
    norms = np.sqrt(sum(np.vecdot(x, x) for x in scaled))
    bound = bound * factors.dtype.type(unit)
    np.copyto(factors, bound / np.maximum(norms, bound), where=factors == 0)


def _epsilon(k: Scratch, correction: Array, β: Array, rest: Array, ε: Array, out: Array) -> list[Call]:
    # ε / √c for c = 1 - βᵗ, which is updated
    return [
        (np.multiply, (correction, β, correction)),
        (np.add, (correction, rest, correction)),
        (np.sqrt, (correction, out)),
        (np.divide, (ε, out, out)),
    ]


def _share(k: Scratch, weights: Array, out: Array) -> list[Call]:
    return [
        (np.add.reduce, (weights[0], 0, None, out)),
        (np.divide, (k.constant(weights.shape[-1], out), out, out)),
    ]


def _add_squares(k: Scratch, total: Array, w: Array, factor: Array, out: Array) -> list[Call]:
    norms, part = k.scratch(w[..., 0]), np.empty((), total.dtype)
    return [
        (np.vecdot, (w, w, norms)),
        (np.add.reduce, (norms, 0, total.dtype, part)),
        (np.multiply, (part, factor, part)),
        (np.add, (total, part, out)),
    ]


def _max_norm(k: Scratch, w: Array, bound: Array, out: Array) -> list[Call]:
    norms = k.scratch(w[..., 0])
    return [
        (np.vecdot, (w, w, norms)),
        (np.sqrt, (norms, norms)),
        (partial(np.maximum, out=norms), (norms, bound)),
        (np.divide, (bound, norms, norms)),
        (_rescale, (norms, [w], bound)),
        (np.multiply, (w, norms[..., None], out)),
    ]


def _l2(k: Scratch, g: Array, w: Array, strength: Array, out: Array) -> list[Call]:
    s = k.scratch(w)
    return [(np.multiply, (w, strength, s)), (np.add, (g, s, out))]


def _l1(k: Scratch, g: Array, w: Array, strength: Array, out: Array) -> list[Call]:
    s = k.scratch(w)
    return [(np.sign, (w, s)), (np.multiply, (s, strength, s)), (np.add, (g, s, out))]


def _dropout_mask(k: Scratch, uniform: Array, keep: Array, out: Array) -> list[Call]:
    inverse = np.array(1 / keep, keep.dtype)
    return [(np.less, (uniform, keep, out)), (np.multiply, (out, inverse, out))]


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
