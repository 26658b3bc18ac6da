"""Views of arrays in memory: as planes, as one matrix, at an address."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bpengine.backends.operation import Array

__all__ = ["address_of", "as_matrix", "broadcast_stack", "contiguous_rows", "planes"]


def planes(views: Sequence[Array]) -> Iterator[tuple[tuple[int, int], list[tuple[int, Any]]]]:
    """Arrays of one shape as planes: rows and columns; addresses and strides in bytes of the arrays."""
    # lengths of axes and steps of all arrays; an axis goes into the one before it where all allow that
    none = [0] * len(views)
    axes: list[tuple[int, list[int]]] = [(1, none)]
    for n, *steps in zip(views[0].shape, *(x.strides for x in views), strict=True):
        length, before = axes[-1]
        if length == 1 or all(a == n * b for a, b in zip(before, steps, strict=True)):
            axes[-1] = length * n, steps
        elif n > 1:
            axes.append((n, steps))
    if len(axes) == 1:
        axes.insert(0, (1, none))
    *outer, (rows, row_steps), (columns, column_steps) = axes
    starts, inner = [address_of(x) for x in views], list(zip(row_steps, column_steps, strict=True))
    for index in np.ndindex(*(n for n, _ in outer)):
        places = list(starts)
        for i, (_, steps) in zip(index, outer, strict=True):
            places = [place + i * step for place, step in zip(places, steps, strict=True)]
        yield (rows, columns), list(zip(places, inner, strict=True))


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
