"""Compiled kernels of norms: clipping, max-norm, penalties, per-example gradients.

The comment at each kernel lists the fields of its instruction after its address, which is field 0.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from bpengine.backends.numba.elementwise import helper, kernel, number, view
from bpengine.backends.numba.intrinsics import overflow_unit, pointer, real, widest

__all__ = ["PER_EXAMPLE"]

PER_EXAMPLE = "product norms", "total norms"


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def squares(x):
    """Σ x², in any order, so that it is computed in vectors."""
    total = x[0] * x[0]
    for i in range(1, x.size):
        total += x[i] * x[i]
    return total


@njit(fastmath={"contract", "reassoc"}, error_model="numpy")
def scaled_squares(x, unit):
    """Σ (x · unit)², where Σ x² overflows or underflows."""
    total = (x[0] * unit) * (x[0] * unit)
    for i in range(1, x.size):
        total += (x[i] * unit) * (x[i] * unit)
    return total


@helper
def unit_of(norm):
    """What vectors with such a norm, or less, are multiplied by, so that squares are in range."""
    unit = overflow_unit(norm)
    if math.isinf(norm):
        return unit
    return real(1, norm) / unit if norm * norm < unit else real(1, norm)


@kernel("clip factor")
def clip_factor(r, like):
    # networks, factors, bound, its stride; number of blocks, their lengths, addresses and strides
    widest()
    factors, blocks = view(r[2], r[1], like), carray(pointer(r[6], np.int64), 3 * r[5])
    for p in range(r[1]):
        bound = number(r[3] + p * r[4], like)
        total = real(0, bound)
        for l in range(0, 3 * r[5], 3):
            total += squares(view(blocks[l + 1] + p * blocks[l + 2], blocks[l], like))
        norm = math.sqrt(total)
        unit = unit_of(bound if norm < bound else norm)
        if unit != real(1, bound):
            total, bound = real(0, bound), bound * unit
            for l in range(0, 3 * r[5], 3):
                x = view(blocks[l + 1] + p * blocks[l + 2], blocks[l], like)
                total += scaled_squares(x, unit)
            norm = math.sqrt(total)
        factors[p] = bound / (bound if norm < bound else norm)


@kernel("add squares")
def add_squares(r, like):
    # rows, columns, w, its stride in bytes, factor, total in float64
    widest()
    total = 0.0
    for i in range(r[1]):
        total += squares(view(r[3] + i * r[4], r[2], like))
    pointer(r[6], np.float64)[0] += number(r[5], like) * total


@kernel("max norm")
def max_norm(r, like):
    # rows, columns, w, its stride in bytes, bound
    widest()
    bound = number(r[5], like)
    for i in range(r[1]):
        w = view(r[3] + i * r[4], r[2], like)
        norm, most = math.sqrt(squares(w)), bound
        unit = unit_of(bound if norm < bound else norm)
        if unit != real(1, bound):
            norm, most = math.sqrt(scaled_squares(w, unit)), bound * unit
        factor = most / (most if norm < most else norm)
        for j in range(r[2]):
            w[j] *= factor


@kernel("product norms")
def product_norms(r, like):
    # columns, norms; of δ and of x: rows, address, strides in bytes; scratch
    widest()
    norms, others = view(r[2], r[1], like), view(r[11], r[1], like)
    _square_sums(r, 3, norms, like)
    _square_sums(r, 7, others, like)
    for j in range(r[1]):
        # separate roots: the product of two squares overflows sooner
        norms[j] = _root(r, 3, norms[j], j, like) * _root(r, 7, others[j], j, like)


@helper
def _root(r, at, total, j, like):
    """√Σ x² of column j of a matrix, from scaled numbers where squares overflow or underflow."""
    unit = unit_of(math.sqrt(total))
    if unit == real(1, total):
        return math.sqrt(total)
    total = real(0, total)
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
def total_norms(r, like):
    # columns, norms; layers, address, strides in bytes
    norms = view(r[2], r[1], like)
    for j in range(r[1]):
        total = number(r[4] + j * r[6], like)
        for i in range(1, r[3]):
            # without squares of norms, which overflow where norms do not
            total = math.hypot(total, number(r[4] + i * r[5] + j * r[6], like))
        norms[j] = total
