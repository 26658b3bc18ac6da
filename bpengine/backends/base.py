"""What a backend is: how it makes and moves arrays, and how it runs a list of operations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import array_api_compat
import numpy as np

__all__ = [
    "Array",
    "Backend",
    "BackendUnavailableError",
    "Batches",
    "DeviceMemoryError",
    "Entries",
    "Operation",
    "Program",
    "Settings",
    "Slices",
    "size",
]

Array = Any  # an array of any library that follows the array API standard


def size(array: Array) -> int:
    """Number of elements of `array`."""
    return math.prod(array.shape)


class BackendUnavailableError(ImportError):
    """A backend was asked for by name, and something it needs is missing."""


class DeviceMemoryError(MemoryError):
    """A device has no room for an array.

    Attributes
    ----------
    left : int
        Bytes that arrays may still take on the device.
    """

    def __init__(self, message: str, left: int) -> None:
        self.left = left
        super().__init__(f"{message}; {left:,} bytes are left on the device.")


@dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """One line of a training step, as plain data: what, on which arrays.

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
    bits: int = array_api_compat.array_namespace(array).finfo(array.dtype).bits
    return bits // 8


class Slices(Sequence[Array]):
    """An array in pieces of as many rows each.

    Parameters
    ----------
    whole : array
    each : int
        Rows of a piece; the last may have fewer.
    """

    def __init__(self, whole: Array, each: int) -> None:
        self.whole, self.each = whole, each

    def __len__(self) -> int:
        return -(-int(self.whole.shape[0]) // self.each)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        start = i % len(self) * self.each
        return self.whole[start : start + self.each]

    def __iter__(self) -> Iterator[Array]:
        whole, each = self.whole, self.each
        return (whole[i : i + each] for i in range(0, int(whole.shape[0]), each))


class Entries(Sequence[Array]):
    """The parts of an array along its first axis.

    Parameters
    ----------
    whole : array
    """

    def __init__(self, whole: Array) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return int(self.whole.shape[0])

    def __getitem__(self, i: Any) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self.whole[i, ...]

    def __iter__(self) -> Iterator[Array]:
        whole = self.whole
        return (whole[i, ...] for i in range(int(whole.shape[0])))


@dataclass(frozen=True, eq=False, slots=True)
class Settings:
    """Numbers that differ from step to step, such as the learning rate.

    Parameters
    ----------
    targets : sequence of arrays of shape ()
        Where a step reads them.
    values : NumPy array of shape (steps, len(targets))
    """

    targets: Sequence[Array]
    values: np.ndarray[Any, Any]

    def set(self, step: int) -> None:
        """Write the numbers of a step where it reads them."""
        for target, value in zip(self.targets, self.values[step].tolist(), strict=True):
            target[...] = value


@dataclass(frozen=True, eq=False, slots=True)
class Batches:
    """Batches for the steps of a program, and where to keep what each step has put out.

    Parameters
    ----------
    load : callable
        ``load(batch, rows)`` writes a batch into the rows of the program's workspace.
    batches : sequence
        What `load` takes, one a step.
    rows : array
        Where batches go.
    output : array
        What is kept of each step.
    slots : sequence of arrays
        Where it is kept, one a step.
    examples : array, optional
        Where `load` is a gather: the array whose rows ``batch`` numbers.
    settings : Settings, optional
        Numbers to set before each step.
    """

    load: Callable[[Any, Array], None]
    batches: Sequence[Any]
    rows: Array
    output: Array
    slots: Sequence[Array]
    examples: Array | None = None
    settings: Settings | None = None


class Program(Protocol):
    """Operations made ready to be run again and again on the same arrays."""

    @property
    def calls(self) -> Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The (function, operands) pairs of one step, in order."""

    def run(self, steps: int) -> None:
        """Run all operations, in order, `steps` times."""

    def run_batches(self, batches: Batches, taken: list[int]) -> None:
        """A step on each of some batches; counts in ``taken[0]`` those that are complete."""


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

        It has the methods of `bpengine.collectives.HostSum`, and its arguments.
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
        """What brings rows to a device that has no room for all of them; see `Streamed`."""
        raise NotImplementedError(f"backend {self.name!r} has no device to feed.")
