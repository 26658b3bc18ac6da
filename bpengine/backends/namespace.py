"""The namespace of array-API functions of an array."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

__all__ = ["NUMPY", "all_finite", "array_namespace", "sum_of_squares"]

# NumPy follows the standard from 2.1 on, which has `unstack`; the wrapper takes long to import
NUMPY: Any = np if hasattr(np, "unstack") else array_api_compat.array_namespace(np.zeros(1))


def array_namespace(*arrays: Any) -> Any:
    """As `array_api_compat.array_namespace`, with NumPy itself for its arrays."""
    for x in arrays:
        if not isinstance(x, (np.ndarray, np.generic)):
            return array_api_compat.array_namespace(*arrays)
    return NUMPY


def all_finite(x: Any) -> bool:
    """Whether an array has no NaN and no infinity."""
    if isinstance(x, np.ndarray) and math.isfinite(sum_of_squares(x)):
        return True
    xp = array_namespace(x)
    return bool(xp.all(xp.isfinite(x)))


def sum_of_squares(x: Any) -> float:
    """Of a NumPy array, by BLAS; where it is finite, so are all entries."""
    flat = x.ravel("K")
    return float(np.vdot(flat, flat))  # `np.dot` would warn of overflow
