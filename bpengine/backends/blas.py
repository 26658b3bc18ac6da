"""NumPy's own BLAS through its C interface: C ← α A B + β C, which no NumPy function offers.

With β = 1 the gradient's product can add itself to the parameters: plain gradient descent then has
no gradient array and no update pass. The library is the one that NumPy's extension module is linked
with; where it can't be found, nothing here is used.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call
from bpengine.backends.base import Array, Operation

__all__ = ["fold_descent"]

ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112
SYMBOLS = (  # as NumPy's wheels name it, as other builds do; the width of its integers
    ("scipy_cblas_{}gemm64_", ctypes.c_int64),
    ("cblas_{}gemm64_", ctypes.c_int64),
    ("cblas_{}gemm", ctypes.c_int),
)
REALS: dict[str, tuple[str, Any]] = {
    "float32": ("s", ctypes.c_float),
    "float64": ("d", ctypes.c_double),
}


def fold_descent(operations: Sequence[Operation]) -> dict[int, list[Call]]:
    """Calls by which the products of BP3 and BP4 add themselves to the parameters, or to a velocity.

    θ ← θ - η ∇C, or v ← μ v - η ∇C and then θ ← θ + v, with l2 penalties and decay where there are any.

    Parameters
    ----------
    operations : sequence of Operation
        A step. Nothing is folded unless it has a "descend" or a "momentum", all of the gradient comes
        from plain products and l2 penalties, and what a product adds itself to is not read again.

    Returns
    -------
    dict
        By index into `operations`, the calls that take the operation's place; empty where nothing
        can be folded.
    """
    at = next((i for i, op in enumerate(operations) if op.name in ("descend", "momentum")), None)
    if at is None:
        return {}
    step, rule = operations[:at], operations[at]
    parameters, gradient = rule.inputs[:2]
    target, β = parameters, 1.0
    calls_of_rule: list[Call] = []
    if rule.name == "momentum":
        target, β = rule.inputs[2], float(rule.inputs[3])
        calls_of_rule = [(np.add, (parameters, target, parameters))]
    products = {i: op for i, op in enumerate(step) if _within(op.output, gradient)}
    shrinking = {i: products.pop(i) for i in list(products) if products[i].name == "l2"}
    shrinking |= {i: op for i, op in enumerate(step) if op.name == "decay" and target is parameters}
    if len({op.name for op in shrinking.values()}) > 1:
        return {}
    if any(op.name != "matmul" or op.output.ndim != 2 for op in products.values()):
        return {}
    if sum(op.output.size for op in products.values()) != gradient.size:
        return {}
    scale, calls = _lift_scale(step)
    for i, op in products.items():
        block, home = (_same_place(op.output, gradient, x) for x in (target, parameters))
        call = _gemm(*op.inputs, block, scale, β)
        later = (other for j, other in enumerate(step) if j > i and j not in shrinking)
        if call is None or any(np.may_share_memory(x, block) for other in later for x in other.inputs):
            return {}
        calls[i] = [call]
        for j, other in shrinking.items():
            if _within(other.inputs[-2], home):
                # of w as it is before the step: a product that writes into w comes after
                w, factor = other.inputs[-2:]
                first = calls[i] if target is parameters else calls.setdefault(j, [])
                first[:0] = _shrink(other.name, w, factor, block[:, : w.shape[1]])
                calls.setdefault(j, [])
    return {**calls, at: calls_of_rule}


def _shrink(name: str, w: Array, factor: Array, target: Array) -> list[Call]:
    """Calls of w ← factor · w for "decay", of target ← target - factor · w for "l2"."""
    if name == "decay":
        return [(np.multiply, (w, factor, w))]
    part = np.empty(w.shape, w.dtype)
    return [(np.multiply, (w, factor, part)), (np.subtract, (target, part, target))]


def _lift_scale(step: Sequence[Operation]) -> tuple[Array | None, dict[int, list[Call]]]:
    """Take the scale out of the output error, where everything after it is linear in it.

    The error is then y - a: its sign turned, so that the scale itself is what the products need.
    """
    linear = ("matmul", "dropout", "l2", "decay")
    for i, op in enumerate(step):
        if op.name == "difference":
            a, y, scale = op.inputs
            rest = (x.name for x in step[i + 1 :])
            if scale.ndim or any(x not in linear and not x.endswith(" slope") for x in rest):
                break
            return scale, {i: [(np.subtract, (y, a, op.output))]}
    return None, {}


def _gemm(a: Array, b: Array, c: Array, scale: Array | None, β: float) -> Call | None:
    """The call of c ← β c + scale · a b, or of c ← β c - a b where there is no scale."""
    name = str(c.dtype)
    function, integer = _library(name)
    layouts = [_layout(x) for x in (a, b, c)]
    if function is None or None in layouts or layouts[2][0] != NO_TRANSPOSE:  # type: ignore[index]
        return None
    real = REALS[name][1]
    alpha = real(-1.0) if scale is None else real.from_buffer(scale)
    (transpose_a, lda), (transpose_b, ldb), (_, ldc) = layouts  # type: ignore[misc]
    (m, k), n = a.shape, b.shape[1]
    operands = (
        *map(ctypes.c_int, (ROW_MAJOR, transpose_a, transpose_b)),
        *map(integer, (m, n, k)),
        alpha,
        a.ctypes.data_as(ctypes.c_void_p),
        integer(lda),
        b.ctypes.data_as(ctypes.c_void_p),
        integer(ldb),
        real(β),
        c.ctypes.data_as(ctypes.c_void_p),
        integer(ldc),
    )
    return function, operands


def _layout(x: Array) -> tuple[int, int] | None:
    """Whether a matrix is stored transposed, and its leading dimension; None if BLAS can't read it."""
    if x.ndim != 2 or any(stride % x.itemsize or stride <= 0 for stride in x.strides):
        return None
    rows, columns = (stride // x.itemsize for stride in x.strides)
    if columns == 1 and rows >= x.shape[1]:
        return NO_TRANSPOSE, rows
    if rows == 1 and columns >= x.shape[0]:
        return TRANSPOSE, columns
    return None


@functools.cache
def _library(dtype: str) -> tuple[Callable[..., None] | None, Any]:
    """NumPy's gemm for a dtype, tried on a small product first; (None, None) where there is none."""
    letter, real = REALS[dtype]
    try:
        library = ctypes.CDLL(sys.modules["numpy._core._multiarray_umath"].__file__)
    except (KeyError, OSError, TypeError):
        return None, None
    for symbol, integer in SYMBOLS:
        function = getattr(library, symbol.format(letter), None)
        if function is None:
            continue
        function.restype = None
        a, b = np.arange(6.0, dtype=dtype).reshape(2, 3), np.arange(12.0, dtype=dtype).reshape(3, 4)
        c = np.ones((2, 4), dtype)
        pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (a, b, c)]
        codes = map(ctypes.c_int, (ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE))
        m, n, k, lda, ldb, ldc = map(integer, (2, 4, 3, 3, 4, 4))
        one = real(1.0)
        function(*codes, m, n, k, one, pointers[0], lda, pointers[1], ldb, one, pointers[2], ldc)
        if np.array_equal(c, a @ b + 1):
            return function, integer
    return None, None


def _within(x: Array, whole: Array) -> bool:
    start, end = np.lib.array_utils.byte_bounds(whole)
    low, high = np.lib.array_utils.byte_bounds(x)
    return bool(start <= low and high <= end)


def _same_place(x: Array, whole: Array, other: Array) -> Array:
    """The part of `other` that lies in it as x, contiguous, lies in `whole`."""
    offset = (x.ctypes.data - whole.ctypes.data) // x.itemsize
    return other[offset : offset + x.size].reshape(x.shape)
