"""Constants and scratch arrays that the kernels of a step share."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpengine.backends.operation import Array

__all__ = ["Scratch"]


class Scratch:
    """Constants and scratch arrays, shared between the kernels of a step."""

    def __init__(self) -> None:
        self._scratch: dict[Any, Array] = {}
        self._constants: dict[Any, Array] = {}

    def scratch(self, like: Array, which: int = 0) -> Array:
        """An array of the shape and dtype of `like`, for use within one operation.

        An operation that needs several at once distinguishes them by `which`.
        """
        key = like.shape, like.dtype, which
        if key not in self._scratch:
            self._scratch[key] = np.empty(like.shape, like.dtype)
        return self._scratch[key]

    def constant(self, value: float, like: Array) -> Array:
        """`value` as a 0-d array: as an operand a third of the cost of a Python number."""
        key = value, like.dtype
        if key not in self._constants:
            self._constants[key] = np.array(value, like.dtype)
        return self._constants[key]
