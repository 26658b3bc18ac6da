"""Norms of vectors whose squares may overflow or underflow."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpengine.backends.namespace import array_namespace
from bpengine.backends.operation import Array

__all__ = ["least_norm", "limit_factors", "norms", "overflow_unit"]


def overflow_unit(greatest: float) -> float:
    """A power of two by which vectors whose squares overflow are multiplied.

    With the greatest number 2ᵉ of a dtype it is u = 2^(-3e/4): squares of the products are below
    2^(e/2), and the greatest of them are normal numbers. Vectors with norms below √u, whose squares
    may underflow, are divided by it.
    """
    return 2.0 ** (-3 * math.frexp(greatest)[1] // 4)


def least_norm(x: np.ndarray[Any, Any]) -> float:
    """√u of `overflow_unit` for the dtype of `x`: smaller norms come from scaled vectors."""
    return math.sqrt(overflow_unit(float(np.finfo(x.dtype).max)))


def norms(
    *vectors: Array, axis: int | tuple[int, ...] | None = None, least: Array | None = None
) -> tuple[Array, Array]:
    """Norms over the axes of some vectors taken together, each multiplied by a unit, and the units.

    The unit is 1, but `overflow_unit` where squares may overflow, and its inverse where they may
    underflow. Norms below `least` may have any value below it. The axes have length 1 in the result.
    """
    xp = array_namespace(*vectors)
    most = float(xp.finfo(vectors[0].dtype).max)
    unit = overflow_unit(most)
    axes = {"axis": axis, "keepdims": axis is not None}
    top = functools.reduce(xp.maximum, (xp.max(xp.abs(x), **axes) for x in vectors))
    if least is not None:
        top = xp.maximum(top, least)
    one = xp.ones_like(top)
    units = xp.where(top < math.sqrt(unit), one / unit, one)
    # squares of 2^32 numbers up to here have a finite sum
    units = xp.where(top > math.sqrt(most) * 2.0**-16, unit * one, units)
    return xp.sqrt(sum(xp.sum((x * units) ** 2, **axes) for x in vectors)), units


def limit_factors(vectors: Sequence[Array], bound: Array, axis: int | tuple[int, ...] | None) -> Array:
    """Factors bound / max(‖x‖, bound) over the axes of some vectors taken together."""
    found, units = norms(*vectors, axis=axis, least=bound)
    bound = bound * units
    return bound / array_namespace(bound).maximum(found, bound)
