"""An operation of a step, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from bpengine.backends.namespace import array_namespace

__all__ = ["NOISE_BLOCK", "AnyArray", "Array", "Operation", "size"]

Array = Any  # an array of any library that follows the array API standard
# A result: editors show NumPy's attributes, and type checkers allow other libraries' arrays.
AnyArray: TypeAlias = np.ndarray[Any, Any] | Any
NOISE_BLOCK = 2**15  # elements of noise drawn at a time: it decides which number goes where


def size(array: Array) -> int:
    """Number of elements of `array`."""
    return math.prod(array.shape)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Operation:
    """One operation of a training step, as plain data: what, on which arrays.

    Parameters
    ----------
    name : str
        What is done, and the key by which a backend finds its kernel: ``"matmul"``, ``"sigmoid"``, …
    equation : str
        The equation it belongs to: ``"feedforward"``, ``"BP1"``, …, ``"update"``.
    expression : callable
        The array-API function of `inputs` that `output` is to equal; where there is a state it gives
        a tuple, the output and then the state. A backend without a kernel of this name evaluates it;
        every kernel is tested against it.
    inputs : tuple of arrays
        What is read.
    output : array
        What is written; it may be one of the inputs.
    state : tuple of arrays
        Those inputs that are written besides, such as the velocity of an update rule.
    """

    name: str
    equation: str
    expression: Callable[..., Array]
    inputs: tuple[Array, ...]
    output: Array
    state: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        return f"Operation({self.name!r}, {self.equation!r}: {self.shapes})"

    @property
    def shapes(self) -> str:
        """The shapes of inputs and output, as text."""
        *inputs, output = ("×".join(map(str, x.shape)) or "scalar" for x in (*self.inputs, self.output))
        return " · ".join(inputs) + " → " + output

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 m n k for a product, one an element for anything else."""
        elements = size(self.output)
        return 2 * elements * int(self.inputs[0].shape[-1]) if self.name == "matmul" else elements

    @property
    def bytes(self) -> int:
        """Bytes moved if every input is read once, and output and state are written once."""
        return sum(size(x) * itemsize(x) for x in (*self.inputs, self.output, *self.state))


def itemsize(array: Array) -> int:
    """Bytes an element of `array`, of a floating-point type, takes."""
    bits: int = array_namespace(array).finfo(array.dtype).bits
    return bits // 8
