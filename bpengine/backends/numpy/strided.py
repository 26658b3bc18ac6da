"""How NumPy takes the lines of a stack: without gaps between networks, products in fitting pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpengine import openblas
from bpengine.backends.array_api import Call
from bpengine.backends.operation import Array, Operation

__all__ = ["Kernel", "has_gaps", "packed", "place", "rows_at_a_time"]

Kernel = Callable[..., list[Call]]
FEW_COLUMNS, UNPACKED, LEAST_ROWS, MOST_ROWS = 12, 10**6, 16, 128


def packed(k: Any, kernel: Kernel, op: Operation, calls: list[Call]) -> list[Call]:
    """The calls on contiguous copies of operands that have gaps, where that is less work.

    In a stack the activations of two networks have the rows of ``[a; 1; 0]`` that stay as they are
    between them: a ufunc goes over each network, or each row, by itself, at twice the price.
    """
    gapped = {place(x): x for x in (*op.inputs, op.output) if x.ndim > 1 and not _dense(x)}
    read = dict.fromkeys(at for at in map(place, op.inputs) if at in gapped)
    written = [at for at in (place(op.output),) if at in gapped]
    copied = sum(gapped[at].size for at in (*read, *written))
    if sum(map(has_gaps, calls)) * op.output.size <= copied:
        return calls
    local = {at: k.scratch(x, -1 - i) for i, (at, x) in enumerate(gapped.items())}
    inputs = (local.get(place(x), x) for x in op.inputs)
    return [
        *((np.copyto, (local[at], gapped[at])) for at in read),
        *kernel(k, *inputs, local.get(place(op.output), op.output)),
        *((np.copyto, (gapped[at], local[at])) for at in written),
    ]


def rows_at_a_time(a: Array, b: Array, out: Array) -> int:
    """Into how many rows a product of many with few columns is cut: all, or a divisor of their number.

    OpenBLAS's AVX-512 kernels take a product of up to 10⁶ multiplications as it lies in memory; a larger
    one they first copy, which costs more than the product where the columns are few. Several threads
    share one large product, though.
    """
    all_rows = len(out)
    if a.ndim > 2 or not 1 < b.shape[-1] <= FEW_COLUMNS or openblas.threads() != 1:
        return all_rows
    if not (a.flags.c_contiguous and out.flags.c_contiguous):
        return all_rows
    most = min(MOST_ROWS, UNPACKED // b.size)
    found = max((n for n in range(1, most + 1) if all_rows % n == 0), default=0)
    return found if found >= LEAST_ROWS else all_rows


def place(x: Array) -> tuple[Any, ...]:
    """Where an array lies."""
    return x.ctypes.data, x.shape, x.strides


def _dense(x: Array) -> bool:
    return bool(x.flags.c_contiguous)


def has_gaps(call: Call) -> bool:
    """Whether a call works on an array with gaps."""
    function, operands = call
    arrays = (*operands, *getattr(function, "keywords", {}).values())
    return any(x.ndim > 1 and not _dense(x) for x in arrays if isinstance(x, np.ndarray))
