"""What a backend is: how it makes and moves arrays, and how it runs a list of operations."""

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
    """A backend was asked for by name, and something it needs is missing."""


class DeviceMemoryError(MemoryError):
    """A device has not enough memory for an array.

    Attributes
    ----------
    left : int
        Bytes that arrays may still take on the device.
    """

    def __init__(self, message: str, left: int) -> None:
        self.left = left
        super().__init__(f"{message}; {left:,} bytes are left on the device.")


class Backend(ABC):
    """Arrays of one library on one device, and the kernels that work on them.

    A backend for another library implements the methods below and is made known with
    `bpengine.backends.register` or an entry point in the group ``bpengine.backends``.

    Attributes
    ----------
    name : str
        The name in messages and in ``backend=``.
    xp : module
        The library's namespace, as array-api-compat gives it.
    device : object
        Where arrays live, in the library's own words; None is the library's default.
    alignment : int
        Bytes to a multiple of which the rows of ``[w b]`` are padded; 1 is no padding.
    patience : int
        By how much longer than on a host training keeps the outputs of steps until it adds up their
        costs, because asking a device for a number is dear.
    """

    name: str
    xp: ModuleType
    device: Any = None
    alignment: int = 1
    patience: int = 1

    @abstractmethod
    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this library."""

    @abstractmethod
    def device_of(self, x: Array) -> object:
        """The device that `x`, an array of this library, is on."""

    @abstractmethod
    def asarray(self, x: Array, dtype: str) -> Array:
        """Array of `dtype` on this backend's device, from one of its own or a host array."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array with contents of any value."""

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` as a NumPy array on the host."""

    def figure(self, x: Array) -> Any:
        """`x` on the host in float64: a float, or where it has axes an array of NumPy's."""
        host = np.asarray(self.to_numpy(x), "float64")
        return host if host.ndim else float(host)

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work handed to the device is done."""

    @abstractmethod
    def take(self, rows: Array, indices: Array, out: Array) -> None:
        """Write ``rows[indices]`` into `out`; indices are in range."""

    def over_ranks(self, group: Any, vector: Array, parts: Sequence[tuple[int, int]]) -> Any:
        """What adds up `vector` over the ranks of a group on the device itself; None where nothing does.

        It has the methods of `bpengine.distributed.collectives.HostSum`, and its arguments.
        """
        return None

    @abstractmethod
    def compile(self, operations: Iterable[Operation]) -> Program:
        """Make operations ready to be replayed. The arrays they name stay theirs."""

    def on(self, device: Any = None, precision: str | None = None) -> Backend:
        """Give this library's backend on a device, with products of a precision.

        Raises
        ------
        ValueError
            If it has no such device, or products of one precision alone.
        """
        if precision not in (None, "full"):
            raise ValueError(
                f"precision={precision!r}: products of backend {self.name!r} are as precise as its "
                "dtype. Leave it out; 'tf32' is for backend='cupy'."
            )
        if device is None or str(device) == str(self.device):
            return self
        raise ValueError(
            f"device={device!r}: backend {self.name!r} can't be moved to a device. Give a backend "
            "object that is on it, and device=None."
        )

    def memory_left(self) -> int | None:
        """Bytes that arrays may still take; None where that is no limit to go by, as on a host."""
        return None

    def feeder(self, shape: tuple[int, int], dtype: str) -> Any:
        """What brings rows to a device without enough memory for all of them; see `Streamed`."""
        raise NotImplementedError(f"backend {self.name!r} has no device to feed.")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, such as of something that costs speed, the first time that it is given."""
    logging.getLogger("bpengine").warning(message)
