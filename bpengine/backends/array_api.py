"""Any array-API library whose arrays can be written to: the generic backend."""

from __future__ import annotations

import contextvars
import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

from bpengine.backends.base import Backend
from bpengine.backends.blas_threads import BLASThreads
from bpengine.backends.namespace import array_namespace
from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Batches, Program

__all__ = ["ArrayAPIBackend", "Call", "Calls", "Replay", "fallback", "library_name", "repeat"]

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Calls = Iterator[Call]


def repeat(calls: Iterable[Call], steps: int) -> None:
    """Make calls ``function(*operands)`` in order, `steps` times."""
    for _ in range(steps):
        for function, operands in calls:
            function(*operands)


class Replay:
    """A program as a list of (function, operands), without NumPy's warnings.

    A saturated exp overflows to infinity, as it should, and OpenBLAS's products raise the flag of an
    invalid operation for numbers that they read and don't use. NumPy has its error state in a context
    variable; running in a context costs a tenth of what entering ``np.errstate`` at every step would.

    Parameters
    ----------
    calls : list of (callable, tuple)
    operations : sequence of Operation, optional
        Of NumPy arrays, which the calls compute; BLAS's threads are chosen by them. They stay alive, as
        calls may hold their arrays' addresses.
    """

    def __init__(self, calls: list[Call], operations: Sequence[Operation] = ()) -> None:
        self.calls, self.threads = calls, BLASThreads(operations)
        self._operations = operations
        self._context = contextvars.Context()  # not the error state of whoever calls first
        self._context.run(np.seterr, all="ignore")

    def run(self, steps: int) -> None:
        """Make all calls in order, `steps` times."""
        if self.threads.used:
            self._context.run(self.threads.run, functools.partial(repeat, self.calls), steps)
        else:
            self._context.run(repeat, self.calls, steps)

    def run_batches(self, batches: Batches, steps_taken: list[int]) -> None:
        """A step on each of some batches."""
        steps = self._steps(batches, steps_taken)

        def take(count: int) -> None:
            for _ in itertools.islice(steps, count):
                pass

        self._context.run(self.threads.run, take, len(batches.batches))

    def _steps(self, batches: Batches, steps_taken: list[int]) -> Iterator[None]:
        calls, load, rows, output = self.calls, batches.load, batches.rows, batches.output
        settings = batches.settings
        for batch, slot in zip(batches.batches, batches.slots, strict=False):
            if settings is not None:
                settings.set(steps_taken[0])
            load(batch, rows)
            for function, operands in calls:
                function(*operands)
            steps_taken[0] += 1
            slot[...] = output
            yield

    def forget_batches(self) -> None:
        """Nothing: batches are not kept."""


def _has_views(array: Array) -> bool:
    """Whether what is written into a view is written into the array: not in JAX, nor in Dask."""
    try:
        array_namespace(array).reshape(array[1:], (1, 1), copy=False)[...] = 1.0
        return bool(array[1] == 1.0)
    except Exception:  # each library has errors of its own
        return False


def library_name(xp: ModuleType) -> str:
    """The name of a namespace's library, such as "jax" of ``jax.numpy``."""
    return xp.__name__.removeprefix("array_api_compat.").partition(".")[0]


class ArrayAPIBackend(Backend):
    """Evaluates the operations' expressions and writes the results to their outputs.

    Parameters
    ----------
    xp : module
        A namespace of the array API standard, such as ``array_api_strict``.
    device : object, optional
        A device of that library; its default where None.
    name : str, optional
        The name in messages; the namespace's where not given.

    Raises
    ------
    TypeError
        If the library's arrays can't be written to, such as JAX's: the engine writes its results to
        arrays that it allocates once.
    """

    def __init__(self, xp: ModuleType, device: Any = None, name: str | None = None) -> None:
        probe = xp.zeros(2, device=device)
        if not _has_views(probe):
            raise TypeError(
                f"backend {name or xp.__name__!r}: its arrays can't be written to, and bpengine writes "
                "every result into an array that exists already. Use NumPy, CuPy or PyTorch arrays."
            )
        self.xp = array_namespace(probe)
        self.device = array_api_compat.device(probe)
        self.name = name or xp.__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.xp.__name__, self.device, self.name)

    def with_options(self, device: Any = None, precision: str | None = None) -> Backend:
        """The library's backend on another of its devices."""
        if type(self) is not ArrayAPIBackend or device is None or str(device) == str(self.device):
            return super().with_options(device, precision)
        super().with_options(None, precision)
        return ArrayAPIBackend(self.xp, device, self.name)

    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this library."""
        return array_api_compat.is_array_api_obj(x) and array_namespace(x) is self.xp

    def device_of(self, x: Array) -> object:
        """The device that `x` is on."""
        return array_api_compat.device(x)

    def asarray(self, x: Array, dtype: str) -> Array:
        """Array of `dtype` on this backend's device, from one of the library's or a host array."""
        if array_api_compat.is_torch_array(x):
            x = x.detach()  # the engine computes gradients itself
        elif array_api_compat.is_numpy_array(x) and not x.flags.writeable:
            x = x.copy()  # PyTorch refuses read-only memory
        return self.xp.asarray(x, dtype=getattr(self.xp, dtype), device=self.device)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array, uninitialized."""
        return self.xp.empty(shape, dtype=getattr(self.xp, dtype), device=self.device)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` as a NumPy array on the host."""
        devices = self.xp.__array_namespace_info__().devices()
        host = next(device for device in devices if "cpu" in str(device).lower())
        return np.asarray(array_api_compat.to_device(x, host))

    def synchronize(self) -> None:
        """Do nothing: the generic backend waits for all of its results."""

    def take(self, rows: Array, indices: Array, out: Array) -> None:
        """Write ``rows[indices]`` to `out`."""
        out[...] = self.xp.take(rows, indices, axis=0)

    def compile(self, operations: Iterable[Operation]) -> Program:
        """Compile operations to calls of their expressions."""
        return Replay([fallback(op) for op in operations])


def _restore(module: str, device: Any, name: str) -> ArrayAPIBackend:
    return ArrayAPIBackend(importlib.import_module(module), device, name)


def fallback(op: Operation) -> Call:
    """The call that evaluates an operation's expression and writes the result to its output."""
    if op.state:
        return _assign_all, (op.expression, op.inputs, (op.output, *op.state))
    return _assign, (op, op.expression, op.inputs, op.output)


def _assign(
    op: Operation, expression: Callable[..., Array], inputs: tuple[Array, ...], output: Array
) -> None:
    result = expression(*inputs)
    if result.shape != output.shape:
        raise ValueError(
            f"{op.name} gave an array of shape {tuple(result.shape)} for inputs of shapes "
            f"{[tuple(x.shape) for x in inputs]}; expected {tuple(output.shape)}."
        )
    output[...] = result


def _assign_all(
    expression: Callable[..., tuple[Array, ...]], inputs: tuple[Array, ...], outputs: tuple[Array, ...]
) -> None:
    for result, output in zip(expression(*inputs), outputs, strict=True):
        output[...] = result
