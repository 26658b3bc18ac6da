"""Norms of vectors whose squares may overflow."""

from __future__ import annotations

import functools
import math

from bpengine.backends.namespace import array_namespace
from bpengine.backends.operation import Array

__all__ = ["norms", "overflow_unit"]


def overflow_unit(greatest: float) -> float:
    """A power of two by which vectors whose squares overflow are multiplied.

    With the greatest number 2ᵉ of a dtype it is 2^(-3e/4): squares of the products are below 2^(e/2),
    and the greatest of them are normal numbers.
    """
    return 2.0 ** (-3 * math.frexp(greatest)[1] // 4)


def norms(*vectors: Array, axis: int | tuple[int, ...] | None = None) -> tuple[Array, Array]:
    """Norms over the axes of some vectors taken together, each multiplied by a unit, and the units.

    The unit is 1, and `overflow_unit` where squares may overflow. The axes have length 1 in the result.
    """
    xp = array_namespace(*vectors)
    most = float(xp.finfo(vectors[0].dtype).max)
    axes = {"axis": axis, "keepdims": axis is not None}
    top = functools.reduce(xp.maximum, (xp.max(xp.abs(x), **axes) for x in vectors))
    one = xp.ones_like(top)
    # squares of 2^32 numbers up to here have a finite sum
    units = xp.where(top > math.sqrt(most) * 2.0**-16, overflow_unit(most) * one, one)
    return xp.sqrt(sum(xp.sum((x * units) ** 2, **axes) for x in vectors)), units
