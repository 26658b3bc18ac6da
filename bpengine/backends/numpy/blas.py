"""The BLAS that NumPy is linked with, through its C interface: C ← α A B + β C, which NumPy lacks.

Where the library can't be found, nothing here is used.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bpengine import openblas
from bpengine.backends.array_api import Calls
from bpengine.backends.folded_sgd import Layout
from bpengine.backends.numpy.elementwise import by_ufunc
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.numpy.strided import Kernel
from bpengine.backends.operation import Array

__all__ = ["FOLDED", "NUMPY", "library"]

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


class _NumPyLayout(Layout):
    """The memory layout of NumPy's arrays."""

    def bounds(self, x: Array) -> tuple[int, int]:
        low = _address(x)
        extent = sum((n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True))
        return low, low + int(extent) + x.itemsize

    def scalar(self, value: float, like: Array) -> Array:
        return np.full((), value, like.dtype)

    def readable(self, x: Array) -> bool:
        return _layout(x) is not None


NUMPY = _NumPyLayout()


def _add_product(k: Scratch, a: Array, b: Array, c: Array, scale: Array, β: Array, out: Array) -> Calls:
    # c ← β c + scale · a b; `scale` is read at each call
    name = str(c.dtype)
    function, integer = _library(name)
    real = REALS[name][1]
    (transpose_a, lda), (transpose_b, ldb), (_, ldc) = map(_layout, (a, b, c))  # type: ignore[misc]
    (m, inner), n = a.shape, b.shape[1]
    operands = (
        *map(ctypes.c_int, (ROW_MAJOR, transpose_a, transpose_b)),
        *map(integer, (m, n, inner)),
        real.from_buffer(scale),
        ctypes.c_void_p(_address(a)),
        integer(lda),
        ctypes.c_void_p(_address(b)),
        integer(ldb),
        real(float(β)),
        ctypes.c_void_p(_address(c)),
        integer(ldc),
    )
    assert function is not None
    yield function, operands


def _address(x: Array) -> int:
    address: int = x.__array_interface__["data"][0]  # `x.ctypes` takes four times as long
    return address


def _shrink(k: Scratch, target: Array, w: Array, factor: Array, out: Array) -> Calls:
    part = k.scratch(w)
    yield np.multiply, (w, factor, part)
    yield np.subtract, (target, part, out)


FOLDED: dict[str, Kernel] = {
    "add product": _add_product,
    "shrink": _shrink,
    "add": by_ufunc(np.add),
    "reverse difference": by_ufunc(np.subtract),
}
"""Kernels of the operations that `fold` makes."""


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
    """NumPy's gemm for a dtype, after a test on a small product; (None, None) where there is none."""
    letter, real = REALS[dtype]
    library = openblas.numpy_library()
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
