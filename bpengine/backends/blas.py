"""NumPy's own BLAS through its C interface: C ← α A B + β C, which no NumPy function offers.

With β = 1 the gradient's product can add itself to the parameters: plain gradient descent then has
no gradient array and no update pass. The library is the one that NumPy's extension module is linked
with; where it can't be found, nothing here is used.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat
import numpy as np

from bpengine.backends.array_api import Call
from bpengine.backends.base import Array, Operation, size

__all__ = ["Memory", "fold", "fold_descent", "library", "readable"]

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


class Memory:
    """What `fold` has to know of arrays: where they lie in memory. NumPy's; others derive from it."""

    def bounds(self, x: Array) -> tuple[int, int]:
        """Address of the first byte, and of the first behind the last."""
        low, high = np.lib.array_utils.byte_bounds(x)
        return low, high

    def number(self, value: float, like: Array) -> Array:
        """An array of shape () of the dtype, and on the device, of `like`."""
        return np.full((), value, like.dtype)

    def readable(self, x: Array) -> bool:
        """Whether a product can read x as it lies."""
        return readable(x)

    def within(self, x: Array, whole: Array) -> bool:
        """Whether x lies in the memory of `whole`."""
        (low, high), (start, end) = self.bounds(x), self.bounds(whole)
        return start <= low and high <= end

    def overlap(self, x: Array, y: Array) -> bool:
        """Whether the two may have memory in common."""
        (low, high), (start, end) = self.bounds(x), self.bounds(y)
        return start < high and low < end

    def same_place(self, x: Array, whole: Array, other: Array) -> Array:
        """The part of `other` that lies in it as x, contiguous, lies in `whole`."""
        start, end = self.bounds(whole)
        itemsize = (end - start) // int(whole.shape[0])
        offset = (self.bounds(x)[0] - start) // itemsize
        xp = array_api_compat.array_namespace(other)
        return xp.reshape(other[offset : offset + math.prod(x.shape)], x.shape, copy=False)


NUMPY = Memory()


def fold(operations: Sequence[Operation], memory: Memory = NUMPY) -> dict[int, list[Operation]]:
    """Operations by which the products of BP3 and BP4 add themselves to parameters, or to a velocity.

    θ ← θ - η ∇C, or v ← μ v - η ∇C and then θ ← θ + v, with l2 penalties and decay where there are any.

    Parameters
    ----------
    operations : sequence of Operation
        A step. Nothing is folded unless it has a "descend" or a "momentum", all of the gradient comes
        from plain products and l2 penalties, and what a product adds itself to is not read again. Of a
        stack it is the first layer's product, where the networks share their inputs.
    memory : Memory, optional
        Of the library whose arrays they are.

    Returns
    -------
    dict
        By index into `operations`, what takes the operation's place; empty where nothing can be
        folded. "add product" is c ← β c + scale · a b, of a, b, c, scale and β; "reverse difference"
        is y - a, "shrink" w ← w - factor · x, "add" θ ← θ + v.
    """
    at = next((i for i, op in enumerate(operations) if op.name in ("descend", "momentum")), None)
    if at is None:
        return {}
    step, rule = operations[:at], operations[at]
    parameters, gradient = rule.inputs[:2]
    target, β = parameters, memory.number(1.0, parameters)
    of_rule: list[Operation] = []
    if rule.name == "momentum":
        target, β = rule.inputs[2:]
        of_rule = [Operation("add", rule.equation, np.add, (parameters, target), parameters)]
    products = {i: op for i, op in enumerate(step) if memory.within(op.output, gradient)}
    if any(op.name == "matmul" and op.output.ndim > 2 for op in products.values()):
        return _fold_first(step, products, rule, memory)
    shrinking = {i: products.pop(i) for i in list(products) if products[i].name == "l2"}
    shrinking |= {i: op for i, op in enumerate(step) if op.name == "decay" and target is parameters}
    if len({op.name for op in shrinking.values()}) > 1:
        return {}
    if any(op.name != "matmul" or op.output.ndim != 2 for op in products.values()):
        return {}
    if sum(size(op.output) for op in products.values()) != size(gradient):
        return {}
    scale, folded = _lift_scale(step, memory)
    for i, op in products.items():
        block, home = (memory.same_place(op.output, gradient, x) for x in (target, parameters))
        later = (other for j, other in enumerate(step) if j > i and j not in shrinking)
        if not all(map(memory.readable, op.inputs)) or any(
            memory.overlap(x, block) for other in later for x in other.inputs
        ):
            return {}
        inputs = *op.inputs, block, scale, β
        folded[i] = [Operation("add product", op.equation, _add_product, inputs, block)]
        for j, other in shrinking.items():
            if memory.within(other.inputs[-2], home):
                # of w as it is before the step: a product that writes into w comes after
                first = folded[i] if target is parameters else folded.setdefault(j, [])
                first[:0] = [_shrinking(other, block)]
                folded.setdefault(j, [])
    return {**folded, at: of_rule}


def _fold_first(
    step: Sequence[Operation], products: dict[int, Operation], rule: Operation, memory: Memory
) -> dict[int, list[Operation]]:
    """`fold` for a stack: its first layer, which has most of the parameters, in one product."""
    parameters, gradient = rule.inputs[:2]
    i, first = list(products.items())[-1]
    if rule.name != "descend" or any(op.name != "matmul" for op in products.values()):
        return {}
    if first.output.ndim != 2 or not all(map(memory.readable, first.inputs)):
        return {}
    block, n = memory.same_place(first.output, gradient, parameters), size(first.output)
    if any(memory.overlap(x, block) for op in step[i + 1 :] for x in op.inputs):
        return {}
    inputs = *first.inputs, block, memory.number(-1.0, block), memory.number(1.0, block)
    rest = parameters[n:], gradient[n:]
    return {
        i: [Operation("add product", first.equation, _add_product, inputs, block)],
        len(step): [Operation(rule.name, rule.equation, rule.expression, rest, rest[0])],
    }


def fold_descent(operations: Sequence[Operation]) -> dict[int, list[Call]]:
    """`fold` as calls, by way of C for the products; empty where there is no such way."""
    if any(_library(str(op.output.dtype))[0] is None for op in operations[-1:]):
        return {}
    return {i: [call for op in ops for call in _calls(op)] for i, ops in fold(operations).items()}


def _calls(op: Operation) -> list[Call]:
    if op.name == "add product":
        return [_gemm(*op.inputs)]
    if op.name == "shrink":
        target, w, factor = op.inputs
        part = np.empty(w.shape, w.dtype)
        return [(np.multiply, (w, factor, part)), (np.subtract, (target, part, target))]
    function = {
        "add": np.add,
        "decay": np.multiply,
        "descend": np.subtract,
        "reverse difference": np.subtract,
    }[op.name]
    return [(function, (*op.inputs, op.output))]


def _shrinking(op: Operation, block: Array) -> Operation:
    """The "decay" itself; the "shrink" of `block` that stands for an "l2"."""
    if op.name == "decay":
        return op
    w, factor = op.inputs[-2:]
    target = block[:, : w.shape[1]]
    return Operation("shrink", op.equation, _shrink, (target, w, factor), target)


def _lift_scale(step: Sequence[Operation], memory: Memory) -> tuple[Array, dict[int, list[Operation]]]:
    """Take the scale out of the output error, where everything after it is linear in it.

    The error is then y - a: its sign turned, so that the scale itself is what the products need.
    Otherwise what they need is -1.
    """
    linear = ("matmul", "dropout", "l2", "decay")
    for i, op in enumerate(step):
        if op.name == "difference":
            a, y, scale = op.inputs
            rest = (x.name for x in step[i + 1 :])
            if scale.ndim or any(x not in linear and not x.endswith(" slope") for x in rest):
                break
            return scale, {
                i: [Operation("reverse difference", op.equation, np.subtract, (y, a), op.output)]
            }
    return memory.number(-1.0, step[-1].output), {}


def _add_product(a: Array, b: Array, c: Array, scale: Array, β: Array) -> Array:
    return β * c + scale * (a @ b)


def _shrink(target: Array, w: Array, factor: Array) -> Array:
    return target - factor * w


def _gemm(a: Array, b: Array, c: Array, scale: Array, β: Array) -> Call:
    """The call of c ← β c + scale · a b; `scale` is read anew each time."""
    name = str(c.dtype)
    function, integer = _library(name)
    real = REALS[name][1]
    (transpose_a, lda), (transpose_b, ldb), (_, ldc) = map(_layout, (a, b, c))  # type: ignore[misc]
    (m, k), n = a.shape, b.shape[1]
    operands = (
        *map(ctypes.c_int, (ROW_MAJOR, transpose_a, transpose_b)),
        *map(integer, (m, n, k)),
        real.from_buffer(scale),
        a.ctypes.data_as(ctypes.c_void_p),
        integer(lda),
        b.ctypes.data_as(ctypes.c_void_p),
        integer(ldb),
        real(float(β)),
        c.ctypes.data_as(ctypes.c_void_p),
        integer(ldc),
    )
    assert function is not None
    return function, operands


def readable(x: Array) -> bool:
    """Whether BLAS can read `x` as it lies in memory, as a matrix or its transpose."""
    return _layout(x) is not None


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


def library(dtype: str) -> tuple[int, int]:
    """Address of NumPy's gemm for a dtype and the bits of its integers; (0, 0) where there is none."""
    function, integer = _library(dtype)
    if function is None:
        return 0, 0
    address: Any = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    return address, 8 * ctypes.sizeof(integer)


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
