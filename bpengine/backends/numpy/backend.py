"""NumPy arrays on the host, and the replay of a step as NumPy calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bpengine.backends import namespace
from bpengine.backends.array_api import ArrayAPIBackend, Call, Replay
from bpengine.backends.base import Backend
from bpengine.backends.folded_sgd import fold
from bpengine.backends.numpy.blas import NUMPY, library
from bpengine.backends.numpy.kernels import calls as calls_of
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.operation import Array, Operation

__all__ = ["NumPyBackend"]


class NumPyBackend(ArrayAPIBackend):
    """NumPy arrays on the host."""

    def __init__(self) -> None:
        super().__init__(namespace.NUMPY, name="numpy")

    def __reduce__(self) -> tuple[Any, ...]:
        return NumPyBackend, ()

    def with_options(self, device: Any = None, precision: str | None = None) -> Backend:
        """The backend itself: its only device is the CPU."""
        if device is not None and str(device) != str(self.device):
            raise ValueError(
                f"device={device!r:.80}: NumPy computes on the CPU. Use device=None, or another backend."
            )
        return super().with_options(None, precision)

    def asarray(self, x: Array, dtype: str) -> Array:
        """`x` in `dtype`; `x` itself if that is its dtype."""
        return np.asarray(x, dtype)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array, uninitialized."""
        return np.empty(shape, dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` itself."""
        return np.asarray(x)

    def take(self, rows: Array, indices: Array, out: Array) -> None:
        """Write ``rows[indices]`` to `out`, without the bounds check that costs a copy."""
        rows.take(indices, 0, out, "clip")

    def compile(self, operations: Iterable[Operation]) -> Replay:
        """Compile operations to ufuncs, or to their expressions where there is no kernel."""
        scratch = Scratch()
        operations = list(operations)
        by_blas = all(library(str(op.output.dtype))[0] for op in operations[-1:])
        folded = fold(operations, NUMPY) if by_blas else {}
        calls: list[Call] = []
        for i, whole in enumerate(operations):
            for op in folded.get(i, [whole]):
                calls += calls_of(scratch, op)
        return Replay(calls, operations)
