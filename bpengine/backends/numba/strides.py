"""Views of arrays in memory: as planes, as one matrix, at an address."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bpengine.backends.operation import Array

__all__ = ["address_of", "as_matrix", "broadcast_stack", "contiguous_rows", "is_same", "planes"]


def planes(views: Sequence[Array]) -> Iterator[tuple[tuple[int, int], list[tuple[int, Any]]]]:
    """Arrays of one shape as planes: rows and columns; addresses and strides in bytes of the arrays."""
    shape = list(views[0].shape)
    strides = [list(x.strides) for x in views]
    # an axis goes into the one before it where all arrays allow that
    axis = len(shape) - 1
    while axis > 0:
        if shape[axis - 1] == 1 or all(s[axis - 1] == shape[axis] * s[axis] for s in strides):
            shape[axis - 1] *= shape[axis]
            for s in strides:
                s[axis - 1] = s[axis]
        elif shape[axis] == 1:
            pass
        else:
            axis -= 1
            continue
        del shape[axis]
        for s in strides:
            del s[axis]
        axis -= 1
    while len(shape) < 2:
        shape.insert(0, 1)
        for s in strides:
            s.insert(0, 0)
    *outer, rows, columns = shape
    for index in np.ndindex(*outer):
        offsets = [sum(i * step for i, step in zip(index, s, strict=False)) for s in strides]
        yield (
            (rows, columns),
            [(address_of(x) + o, s[-2:]) for x, o, s in zip(views, offsets, strides, strict=True)],
        )


def as_matrix(x: Array) -> Array | None:
    """A stack of matrices as one with all their rows; None where these are not evenly spaced."""
    outer = range(x.ndim - 2)
    if x.ndim < 2 or any(x.strides[i] != x.shape[i + 1] * x.strides[i + 1] for i in outer):
        return None
    rows = math.prod(x.shape[:-1])
    return np.lib.stride_tricks.as_strided(x, (rows, x.shape[-1]), x.strides[-2:])


def broadcast_stack(stack: tuple[int, ...], x: Array) -> Array:
    """A matrix, or a stack of them, as a view of a stack's shape."""
    steps = [0] * (len(stack) + 2 - x.ndim) + list(x.strides)
    shape = [1] * (len(stack) + 2 - x.ndim) + list(x.shape)
    steps[:-2] = [step if n > 1 else 0 for n, step in zip(shape[:-2], steps[:-2], strict=True)]
    return np.lib.stride_tricks.as_strided(x, (*stack, *x.shape[-2:]), steps)


def contiguous_rows(x: Array) -> bool:
    """Whether the rows of an array are contiguous."""
    return bool(x.strides[-1] == x.itemsize or x.shape[-1] == 1)


def address_of(x: Array) -> int:
    """The address of an array's first element."""
    return int(x.__array_interface__["data"][0])


def is_same(x: Array, y: Array) -> bool:
    """Whether two arrays are the same view of the same memory."""
    return bool(x.__array_interface__ == y.__array_interface__)
