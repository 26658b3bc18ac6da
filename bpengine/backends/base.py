"""The interface of backends: arrays on a device, and compiled lists of operations."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Program

__all__ = ["Backend", "BackendUnavailableError", "DeviceMemoryError", "warn_once"]


class BackendUnavailableError(ImportError):
    """Something that a backend needs is missing."""


class DeviceMemoryError(MemoryError):
    """A device has not enough memory for an array.

    Attributes
    ----------
    left : int
        Bytes still available to arrays on the device.
    """

    def __init__(self, message: str, left: int) -> None:
        self.left = left
        super().__init__(f"{message}; {left:,} bytes are left on the device.")


class Backend(ABC):
    """Arrays of one library on one device, and the kernels that work on them.

    A backend for another library implements the methods below and is registered with
    `bpengine.backends.register` or an entry point in the group ``bpengine.backends``.

    Attributes
    ----------
    name : str
        The name in messages and in ``backend=``.
    xp : module
        The library's namespace, as array-api-compat gives it.
    device : object
        The library's device object of arrays; None is the library's default.
    alignment : int
        Bytes to a multiple of which the rows of ``[w b]`` are padded; 1 is no padding.
    steps_per_readback : int
        Factor by which training stores the outputs of more steps than on a host before it reads back
        their costs, because copying a number from a device takes long.
    """

    name: str
    xp: ModuleType
    device: Any = None
    alignment: int = 1
    steps_per_readback: int = 1

    def __repr__(self) -> str:
        device = "" if self.device is None else f" on {self.device}"
        return f"<{type(self).__name__} {self.name!r}{device}>"

    @abstractmethod
    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this library."""

    @abstractmethod
    def device_of(self, x: Array) -> object:
        """The device that `x`, an array of this library, is on."""

    @abstractmethod
    def asarray(self, x: Array, dtype: str) -> Array:
        """Array of `dtype` on this backend's device, from one of the library's or a host array."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array, uninitialized."""

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` as a NumPy array on the host."""

    def to_float(self, x: Array) -> Any:
        """`x` on the host in float64: a float, or a NumPy array where it has axes."""
        host = np.asarray(self.to_numpy(x), "float64")
        return host if host.ndim else float(host)

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all queued work of the device is done."""

    @abstractmethod
    def take(self, rows: Array, indices: Array, out: Array) -> None:
        """Write ``rows[indices]`` to `out`; indices are in range."""

    def all_reduce(self, group: Any, vector: Array, parts: Sequence[tuple[int, int]]) -> Any:
        """A sum of `vector` over the ranks of a group on the device; None where there is none.

        It has the methods of `bpengine.distributed.collectives.HostSum`, and its arguments.
        """
        return None

    @abstractmethod
    def compile(self, operations: Iterable[Operation]) -> Program:
        """Compile operations to a program, which works on their arrays."""

    def with_options(self, device: Any = None, precision: str | None = None) -> Backend:
        """The library's backend on a device, with products of a precision.

        Raises
        ------
        ValueError
            If it has no such device, or products of one precision alone.
        """
        if not (precision is None or (isinstance(precision, str) and precision == "full")):
            raise ValueError(
                f"precision={precision!r:.80}: products of backend {self.name!r} are as precise as its "
                "dtype. Leave it out; 'tf32' is for backend='cupy'."
            )
        if device is None or str(device) == str(self.device):
            return self
        raise ValueError(
            f"device={device!r:.80}: backend {self.name!r} can't be moved to a device. Give a backend "
            "object that is on it, and device=None."
        )

    def memory_left(self) -> int | None:
        """Bytes still available to arrays; None where that is not known, as on a host."""
        return None

    def prefetcher(self, shape: tuple[int, int], dtype: str) -> Any:
        """A sender of rows to a device that can't hold all of them, as data.offload uses it."""
        raise NotImplementedError(f"backend {self.name!r} has no device to send rows to.")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning the first time that it is given."""
    logging.getLogger("bpengine").warning(message)
