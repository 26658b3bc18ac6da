"""NumPy on a stack's arrays: copies without gaps between networks, products in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bpengine import openblas
from bpengine.backends.array_api import Call
from bpengine.backends.operation import Array, Operation

__all__ = ["Kernel", "has_gaps", "location", "rows_per_product", "without_gaps"]

Kernel = Callable[..., Iterable[Call]]
MAX_COLUMNS, MAX_UNPACKED, MIN_ROWS, MAX_ROWS = 12, 10**6, 16, 128


def without_gaps(k: Any, kernel: Kernel, op: Operation, calls: list[Call]) -> list[Call]:
    """The calls on contiguous copies of operands that have gaps, where that is less work.

    In a stack the constant rows of ``[a; 1; 0]`` are between the activations of two networks: a ufunc
    then loops over networks, or over rows, which takes twice the time.
    """
    gapped = {location(x): x for x in (*op.inputs, op.output) if _has_gaps(x)}
    read = dict.fromkeys(at for at in map(location, op.inputs) if at in gapped)
    written = [at for at in (location(op.output),) if at in gapped]
    copied = sum(gapped[at].size for at in (*read, *written))
    if sum(map(has_gaps, calls)) * op.output.size <= copied:
        return calls
    copies = {at: k.scratch(x, -1 - i) for i, (at, x) in enumerate(gapped.items())}
    inputs = (copies.get(location(x), x) for x in op.inputs)
    return [
        *((np.copyto, (copies[at], gapped[at])) for at in read),
        *kernel(k, *inputs, copies.get(location(op.output), op.output)),
        *((np.copyto, (gapped[at], copies[at])) for at in written),
    ]


def rows_per_product(a: Array, b: Array, out: Array) -> int:
    """The rows of the blocks that a product with few columns is computed in: all, or a divisor of them.

    OpenBLAS's AVX-512 kernels read the operands of up to 10⁶ multiplications in place; those of a larger
    product they copy first, which takes longer than the product where the columns are few. Several
    threads share one large product, though.
    """
    all_rows = len(out)
    if a.ndim > 2 or not 1 < b.shape[-1] <= MAX_COLUMNS or openblas.threads() != 1:
        return all_rows
    if not (a.flags.c_contiguous and out.flags.c_contiguous):
        return all_rows
    most = min(MAX_ROWS, MAX_UNPACKED // b.size)
    found = max((n for n in range(1, most + 1) if all_rows % n == 0), default=0)
    return found if found >= MIN_ROWS else all_rows


def location(x: Array) -> tuple[Any, ...]:
    """Address, shape and strides of an array."""
    return x.ctypes.data, x.shape, x.strides


def _has_gaps(x: Array) -> bool:
    return x.ndim > 1 and not x.flags.c_contiguous


def has_gaps(call: Call) -> bool:
    """Whether a call works on an array with gaps."""
    function, operands = call
    arrays = (*operands, *getattr(function, "keywords", {}).values())
    return any(_has_gaps(x) for x in arrays if isinstance(x, np.ndarray))
