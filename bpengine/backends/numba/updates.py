"""Compiled kernels of optimizers, a single pass over the parameters, and of softmax.

The comment at each kernel lists the fields of its instruction after its address, which is field 0, and,
for those in `UPDATES`, after the length in field 1.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import math

from bpengine.backends.numba.elementwise import helper, inlined, kernel, number, view
from bpengine.backends.numba.intrinsics import real, widest
from bpengine.backends.numba.vector_math import exp

__all__ = ["PASSES", "UPDATES"]

UPDATES = {
    "epsilon": 4,
    "momentum": 4,
    "nesterov": 4,
    "adam": 8,
    "adam per parameter": 8,
    "rmsprop": 7,
    "rmsprop per parameter": 7,
    "adagrad": 5,
    "adagrad per parameter": 5,
    "average": 4,
}
"""How many inputs an operation has: fields 2, 3, … of its instruction, followed by the output. Field 1
is the length of the first."""
PASSES = UPDATES.keys() - {"epsilon", "average"}
"""Those that treat every number alike, so that threads can take parts."""


@kernel("momentum")
def momentum(r, like):
    # θ, step, v, μ
    widest()
    n, μ = r[1], number(r[5], like)
    θ, step, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = μ * v[i] - step[i]
        θ[i] += v[i]


@kernel("nesterov")
def nesterov(r, like):
    # θ, step, v, μ
    widest()
    n, μ = r[1], number(r[5], like)
    θ, step, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = μ * v[i] - step[i]
        θ[i] += μ * v[i] - step[i]


@kernel("adam weights")
def adam_weights(r, like):
    # the sums' weights, β
    weights, β = view(r[1], 2, like), view(r[2], 2, like)
    weights[0] = β[0] * weights[0] + real(1, β[0])
    weights[1] = β[1] * weights[1] + real(1, β[0])


@kernel("adam")
def adam(r, like):
    # θ, g, Σ g, Σ g², the sums' weights, β, ε, η
    widest()
    n, ε, η = r[1], number(r[8], like), number(r[9], like)
    θ, g, G, S = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like), view(r[5], n, like)
    weights, β = view(r[6], 2, like), view(r[7], 2, like)
    # η m̂ / (√v̂ + ε) = α G / (√S + ε') for sums G, S of weights W, α = η √W₂ / W₁, ε' = ε √W₂
    root = math.sqrt(weights[1])
    α, ε = η * root / weights[0], ε * root
    β1, β2 = β[0], β[1]
    for i in range(n):
        G[i] = β1 * G[i] + g[i]
        S[i] = β2 * S[i] + g[i] * g[i]
        θ[i] -= α * G[i] / (math.sqrt(S[i]) + ε)


@kernel("adam per parameter")
def adam_per_parameter(r, like):
    # the same with η for each parameter
    widest()
    n, ε, η = r[1], number(r[8], like), view(r[9], r[1], like)
    θ, g, G, S = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like), view(r[5], n, like)
    weights, β = view(r[6], 2, like), view(r[7], 2, like)
    root = math.sqrt(weights[1])
    share, ε = root / weights[0], ε * root
    β1, β2 = β[0], β[1]
    for i in range(n):
        G[i] = β1 * G[i] + g[i]
        S[i] = β2 * S[i] + g[i] * g[i]
        θ[i] -= η[i] * share * G[i] / (math.sqrt(S[i]) + ε)


@kernel("epsilon")
def epsilon(r, like):
    # 1 - βᵗ, β, 1 - β, ε, and ε / √(1 - βᵗ)
    correction, out = view(r[2], 1, like), view(r[6], 1, like)
    correction[0] = number(r[3], like) * correction[0] + number(r[4], like)
    out[0] = number(r[5], like) / math.sqrt(correction[0])


@kernel("rmsprop")
def rmsprop(r, like):
    # θ, g, v, ρ, 1 - ρ, ε, η
    widest()
    n, ρ, rest = r[1], number(r[5], like), number(r[6], like)
    ε, η = number(r[7], like), number(r[8], like)
    θ, g, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = ρ * v[i] + rest * (g[i] * g[i])
        θ[i] -= η * g[i] / (math.sqrt(v[i]) + ε)


@kernel("rmsprop per parameter")
def rmsprop_per_parameter(r, like):
    # the same with η for each parameter
    widest()
    n, ρ, rest = r[1], number(r[5], like), number(r[6], like)
    ε, η = number(r[7], like), view(r[8], r[1], like)
    θ, g, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = ρ * v[i] + rest * (g[i] * g[i])
        θ[i] -= η[i] * g[i] / (math.sqrt(v[i]) + ε)


@kernel("adagrad")
def adagrad(r, like):
    # θ, g, s, ε, η
    widest()
    n, ε, η = r[1], number(r[5], like), number(r[6], like)
    θ, g, s = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        s[i] += g[i] * g[i]
        θ[i] -= η * g[i] / (math.sqrt(s[i]) + ε)


@kernel("adagrad per parameter")
def adagrad_per_parameter(r, like):
    # the same with η for each parameter
    widest()
    n, ε, η = r[1], number(r[5], like), view(r[6], r[1], like)
    θ, g, s = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        s[i] += g[i] * g[i]
        θ[i] -= η[i] * g[i] / (math.sqrt(s[i]) + ε)


@kernel("average")
def average(r, like):
    # θ̄, θ, count, least
    widest()
    n, count, least = r[1], view(r[4], 1, like), number(r[5], like)
    mean, θ = view(r[2], n, like), view(r[3], n, like)
    count[0] += real(1, least)
    share = real(1, least) / count[0]
    share = least if share < least else share
    for i in range(n):
        mean[i] += share * (θ[i] - mean[i])


@kernel("share")
def share(r, like):
    # m, weights, their stride in bytes, and m / Σ weights
    total = 0.0
    for i in range(r[1]):
        total += number(r[2] + i * r[3], like)
    view(r[4], 1, like)[0] = r[1] / total


@kernel("softmax")
def softmax(r, like):
    # rows, columns, z, a, scratch memory of a row
    widest()
    rows, m, total = r[1], r[2], view(r[5], r[2], like)
    step = m * total.itemsize
    _accumulate(_greatest, r[3], step, total, rows, like)
    for i in range(rows):
        z, a = view(r[3] + i * step, m, like), view(r[4] + i * step, m, like)
        for j in range(m):
            # the largest exponent is 0
            a[j] = exp(z[j] - total[j])
    _accumulate(_sum, r[4], step, total, rows, like)
    for i in range(rows):
        a = view(r[4] + i * step, m, like)
        for j in range(m):
            a[j] /= total[j]


@inlined
def _sum(total, x):
    return total + x


@inlined
def _greatest(total, x):
    return x if not x <= total else total  # NaN too


@helper
def _accumulate(f, start, step, total, rows, like):
    """The first row of an array, then ``total = f(total, x)`` for the other rows x, in order."""
    for i in range(rows):
        x = view(start + i * step, total.size, like)
        for j in range(total.size):
            total[j] = f(total[j], x[j]) if i else x[j]


@kernel("softmax slope")
def softmax_slope(r, like):
    # rows, columns, g, a, δ, scratch memory of a row
    widest()
    rows, m, total = r[1], r[2], view(r[6], r[2], like)
    step = m * total.itemsize
    # a ⊙ (g - Σ_j a_j g_j)
    for i in range(rows):
        g, a = view(r[3] + i * step, m, like), view(r[4] + i * step, m, like)
        for j in range(m):
            total[j] = (total[j] if i else real(0, g[j])) + g[j] * a[j]
    for i in range(rows):
        g, a = view(r[3] + i * step, m, like), view(r[4] + i * step, m, like)
        δ = view(r[5] + i * step, m, like)
        for j in range(m):
            δ[j] = (g[j] - total[j]) * a[j]
