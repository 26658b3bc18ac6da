"""The namespace of array-API functions of an array."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

__all__ = ["NUMPY", "array_namespace"]

# NumPy follows the standard from 2.1 on, which has `unstack`; the wrapper takes long to import
NUMPY: Any = np if hasattr(np, "unstack") else array_api_compat.array_namespace(np.zeros(1))


def array_namespace(*arrays: Any) -> Any:
    """As `array_api_compat.array_namespace`, with NumPy itself for its arrays."""
    for x in arrays:
        if not isinstance(x, (np.ndarray, np.generic)):
            return array_api_compat.array_namespace(*arrays)
    return NUMPY
