"""Compiled kernels of optimizers, a single pass over the parameters, and of norms and softmax.

The comment at each kernel lists the fields of its instruction after its address, which is field 0, and,
for those in `UPDATES`, after the length in field 1.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import math

from numba import carray, njit

from bpengine.backends.numba.elementwise import helper, inlined, kernel, number, view
from bpengine.backends.numba.instruction import FIELDS
from bpengine.backends.numba.intrinsics import doubles, overflow_unit, pointer, real, widest
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
PASSES = (
    "momentum",
    "nesterov",
    "adam",
    "adam per parameter",
    "rmsprop",
    "rmsprop per parameter",
    "adagrad",
    "adagrad per parameter",
)
"""Those that treat every number alike, so that threads can take parts."""


@kernel("momentum")
def momentum(instruction, like):
    # θ, step, v, μ
    widest()
    r = carray(instruction, FIELDS)
    n, μ = r[1], number(r[5], like)
    θ, step, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = μ * v[i] - step[i]
        θ[i] += v[i]


@kernel("nesterov")
def nesterov(instruction, like):
    # θ, step, v, μ
    widest()
    r = carray(instruction, FIELDS)
    n, μ = r[1], number(r[5], like)
    θ, step, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = μ * v[i] - step[i]
        θ[i] += μ * v[i] - step[i]


@kernel("adam weights")
def adam_weights(instruction, like):
    # the sums' weights, β
    r = carray(instruction, FIELDS)
    weights, β = view(r[1], 2, like), view(r[2], 2, like)
    weights[0] = β[0] * weights[0] + real(1, β[0])
    weights[1] = β[1] * weights[1] + real(1, β[0])


@kernel("adam")
def adam(instruction, like):
    # θ, g, Σ g, Σ g², the sums' weights, β, ε, η
    widest()
    r = carray(instruction, FIELDS)
    n, ε, η = r[1], number(r[8], like), number(r[9], like)
    θ, g, gradients, squares = (
        view(r[2], n, like),
        view(r[3], n, like),
        view(r[4], n, like),
        view(r[5], n, like),
    )
    weights, β = view(r[6], 2, like), view(r[7], 2, like)
    # η m̂ / (√v̂ + ε) = α G / (√S + ε') for sums G, S of weights W, α = η √W₂ / W₁, ε' = ε √W₂
    root = math.sqrt(weights[1])
    α, ε = η * root / weights[0], ε * root
    β1, β2 = β[0], β[1]
    for i in range(n):
        gradients[i] = β1 * gradients[i] + g[i]
        squares[i] = β2 * squares[i] + g[i] * g[i]
        θ[i] -= α * gradients[i] / (math.sqrt(squares[i]) + ε)


@kernel("adam per parameter")
def adam_per_parameter(instruction, like):
    # the same with η for each parameter
    widest()
    r = carray(instruction, FIELDS)
    n, ε, η = r[1], number(r[8], like), view(r[9], r[1], like)
    θ, g, gradients, squares = (
        view(r[2], n, like),
        view(r[3], n, like),
        view(r[4], n, like),
        view(r[5], n, like),
    )
    weights, β = view(r[6], 2, like), view(r[7], 2, like)
    root = math.sqrt(weights[1])
    share, ε = root / weights[0], ε * root
    β1, β2 = β[0], β[1]
    for i in range(n):
        gradients[i] = β1 * gradients[i] + g[i]
        squares[i] = β2 * squares[i] + g[i] * g[i]
        θ[i] -= η[i] * share * gradients[i] / (math.sqrt(squares[i]) + ε)


@kernel("epsilon")
def epsilon(instruction, like):
    # 1 - βᵗ, β, 1 - β, ε, and ε / √(1 - βᵗ)
    r = carray(instruction, FIELDS)
    correction, out = view(r[2], 1, like), view(r[6], 1, like)
    correction[0] = number(r[3], like) * correction[0] + number(r[4], like)
    out[0] = number(r[5], like) / math.sqrt(correction[0])


@kernel("rmsprop")
def rmsprop(instruction, like):
    # θ, g, v, ρ, 1 - ρ, ε, η
    widest()
    r = carray(instruction, FIELDS)
    n, ρ, rest = r[1], number(r[5], like), number(r[6], like)
    ε, η = number(r[7], like), number(r[8], like)
    θ, g, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = ρ * v[i] + rest * (g[i] * g[i])
        θ[i] -= η * g[i] / (math.sqrt(v[i]) + ε)


@kernel("rmsprop per parameter")
def rmsprop_per_parameter(instruction, like):
    # the same with η for each parameter
    widest()
    r = carray(instruction, FIELDS)
    n, ρ, rest = r[1], number(r[5], like), number(r[6], like)
    ε, η = number(r[7], like), view(r[8], r[1], like)
    θ, g, v = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        v[i] = ρ * v[i] + rest * (g[i] * g[i])
        θ[i] -= η[i] * g[i] / (math.sqrt(v[i]) + ε)


@kernel("adagrad")
def adagrad(instruction, like):
    # θ, g, s, ε, η
    widest()
    r = carray(instruction, FIELDS)
    n, ε, η = r[1], number(r[5], like), number(r[6], like)
    θ, g, s = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        s[i] += g[i] * g[i]
        θ[i] -= η * g[i] / (math.sqrt(s[i]) + ε)


@kernel("adagrad per parameter")
def adagrad_per_parameter(instruction, like):
    # the same with η for each parameter
    widest()
    r = carray(instruction, FIELDS)
    n, ε, η = r[1], number(r[5], like), view(r[6], r[1], like)
    θ, g, s = view(r[2], n, like), view(r[3], n, like), view(r[4], n, like)
    for i in range(n):
        s[i] += g[i] * g[i]
        θ[i] -= η[i] * g[i] / (math.sqrt(s[i]) + ε)


@kernel("average")
def average(instruction, like):
    # θ̄, θ, count, least
    widest()
    r = carray(instruction, FIELDS)
    n, count, least = r[1], view(r[4], 1, like), number(r[5], like)
    mean, θ = view(r[2], n, like), view(r[3], n, like)
    count[0] += real(1, least)
    share = real(1, least) / count[0]
    share = least if share < least else share
    for i in range(n):
        mean[i] += share * (θ[i] - mean[i])


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def squares(x):
    """Σ x², in any order, so that it is computed in vectors."""
    total = x[0] * x[0]
    for i in range(1, x.size):
        total += x[i] * x[i]
    return total


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def scaled_squares(x, unit):
    """Σ (x · unit)², where Σ x² overflows."""
    total = (x[0] * unit) * (x[0] * unit)
    for i in range(1, x.size):
        total += (x[i] * unit) * (x[i] * unit)
    return total


@kernel("clip factor")
def clip_factor(instruction, like):
    # networks, factors, bound, its stride; number of blocks, their lengths, addresses and strides
    widest()
    r = carray(instruction, FIELDS)
    factors, blocks = view(r[2], r[1], like), carray(pointer(r[6], instruction), 3 * r[5])
    for p in range(r[1]):
        bound = number(r[3] + p * r[4], like)
        total = real(0, bound)
        for l in range(0, 3 * r[5], 3):
            total += squares(view(blocks[l + 1] + p * blocks[l + 2], blocks[l], like))
        if math.isinf(total):
            unit = overflow_unit(bound)
            total, bound = real(0, bound), bound * unit
            for l in range(0, 3 * r[5], 3):
                x = view(blocks[l + 1] + p * blocks[l + 2], blocks[l], like)
                total += scaled_squares(x, unit)
        norm = math.sqrt(total)
        factors[p] = bound / (bound if norm < bound else norm)


@kernel("add squares")
def add_squares(instruction, like):
    # rows, columns, w, its stride in bytes, factor, total in float64
    widest()
    r = carray(instruction, FIELDS)
    total = 0.0
    for i in range(r[1]):
        total += squares(view(r[3] + i * r[4], r[2], like))
    carray(doubles(r[6]), 1)[0] += number(r[5], like) * total


@kernel("share")
def share(instruction, like):
    # m, weights, their stride in bytes, and m / Σ weights
    r = carray(instruction, FIELDS)
    total = 0.0
    for i in range(r[1]):
        total += number(r[2] + i * r[3], like)
    view(r[4], 1, like)[0] = r[1] / total


@kernel("max norm")
def max_norm(instruction, like):
    # rows, columns, w, its stride in bytes, bound
    widest()
    r = carray(instruction, FIELDS)
    bound = number(r[5], like)
    for i in range(r[1]):
        w = view(r[3] + i * r[4], r[2], like)
        norm, most = math.sqrt(squares(w)), bound
        if math.isinf(norm):
            unit = overflow_unit(bound)
            norm, most = math.sqrt(scaled_squares(w, unit)), bound * unit
        factor = most / (most if norm < most else norm)
        for j in range(r[2]):
            w[j] *= factor


@kernel("product norms")
def product_norms(instruction, like):
    # columns, norms; of δ and of x: rows, address, strides in bytes; scratch
    widest()
    r = carray(instruction, FIELDS)
    norms, others = view(r[2], r[1], like), view(r[11], r[1], like)
    _square_sums(r, 3, norms, like)
    _square_sums(r, 7, others, like)
    for j in range(r[1]):
        # separate roots: the product of two squares overflows sooner
        norms[j] = _root(r, 3, norms[j], j, like) * _root(r, 7, others[j], j, like)


@helper
def _root(r, at, total, j, like):
    """√Σ x² of column j of a matrix, from scaled numbers where the sum overflows."""
    if not math.isinf(total):
        return math.sqrt(total)
    unit, total = overflow_unit(total), real(0, total)
    for i in range(r[at]):
        x = number(r[at + 1] + i * r[at + 2] + j * r[at + 3], like) * unit
        total += x * x
    return math.sqrt(total) / unit


@helper
def _square_sums(r, at, sums, like):
    """‖x‖² of every column of a matrix whose rows or whose columns are contiguous."""
    rows, address, row_step, column_step = r[at], r[at + 1], r[at + 2], r[at + 3]
    if column_step != sums.itemsize:
        for j in range(sums.size):
            sums[j] = squares(view(address + j * column_step, rows, like))
        return
    for j in range(sums.size):
        sums[j] = real(0, sums[j])
    for i in range(rows):
        x = view(address + i * row_step, sums.size, like)
        for j in range(sums.size):
            sums[j] += x[j] * x[j]


@kernel("total norms")
def total_norms(instruction, like):
    # columns, norms; layers, address, strides in bytes
    r = carray(instruction, FIELDS)
    norms = view(r[2], r[1], like)
    for j in range(r[1]):
        total = number(r[4] + j * r[6], like)
        for i in range(1, r[3]):
            # without squares of norms, which overflow where norms do not
            total = math.hypot(total, number(r[4] + i * r[5] + j * r[6], like))
        norms[j] = total


@kernel("softmax")
def softmax(instruction, like):
    # rows, columns, z, a, scratch memory of a row
    widest()
    r = carray(instruction, FIELDS)
    rows, m, total = r[1], r[2], view(r[5], r[2], like)
    step = m * total.itemsize
    _accumulate(_assign, r[3], 0, total, 1, like)
    _accumulate(_greatest, r[3], step, total, rows, like)
    for i in range(rows):
        z, a = view(r[3] + i * step, m, like), view(r[4] + i * step, m, like)
        for j in range(m):
            # the largest exponent is 0
            a[j] = exp(z[j] - total[j])
    _accumulate(_assign, r[4], 0, total, 1, like)
    _accumulate(_sum, r[4] + step, step, total, rows - 1, like)
    for i in range(rows):
        a = view(r[4] + i * step, m, like)
        for j in range(m):
            a[j] /= total[j]


@inlined
def _assign(total, x):
    return x


@inlined
def _sum(total, x):
    return total + x


@inlined
def _greatest(total, x):
    return x if not x <= total else total  # NaN too


@helper
def _accumulate(f, start, step, total, rows, like):
    """``total = f(total, x)`` for the rows x of an array, in order."""
    for i in range(rows):
        x = view(start + i * step, total.size, like)
        for j in range(total.size):
            total[j] = f(total[j], x[j])


@kernel("softmax slope")
def softmax_slope(instruction, like):
    # rows, columns, g, a, δ, scratch memory of a row
    widest()
    r = carray(instruction, FIELDS)
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
