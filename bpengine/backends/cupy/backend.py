"""CuPy: arrays on a GPU, fused kernels of elementwise operations, steps replayed as CUDA graphs."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bpengine.backends import folded_sgd
from bpengine.backends.array_api import ArrayAPIBackend, Call, fallback
from bpengine.backends.base import Backend, warn_once
from bpengine.backends.cupy.device import Device, check_precision, device_number
from bpengine.backends.cupy.elementwise import fuse
from bpengine.backends.cupy.lowering import Item, Lowering
from bpengine.backends.cupy.matmul import Product
from bpengine.backends.cupy.nccl import NCCLSum
from bpengine.backends.cupy.prefetch import Prefetcher
from bpengine.backends.cupy.program import REPORT, CUDAProgram
from bpengine.backends.operation import Array, Operation

__all__ = ["CuPyBackend", "with_options"]

RANDOM = "uniform", "gaussian noise"  # operations that are no functions of their inputs


class CuPyBackend(ArrayAPIBackend):
    """CuPy arrays on one NVIDIA GPU.

    Parameters
    ----------
    device : int, optional
        The number of the GPU, from 0 on; CuPy's current one where not given. Work with a network makes
        its device the thread's current one.
    precision : {"full", "tf32"}, optional
        "tf32" lets float32 products round their factors to 10 bits of mantissa, for the speed of
        tensor cores; sums are accumulated in float32.

    Raises
    ------
    BackendUnavailableError
        If CuPy, the driver or the device is missing: the message says which.
    """

    alignment = 16
    steps_per_readback = 64
    _device_class: Callable[..., Device] = Device
    _fallback = staticmethod(fallback)

    def __init__(self, device: Any = None, precision: str | None = None) -> None:
        self.name, self.gpu = "cupy", self._device_class(device, precision)
        self.xp, self.device = self.gpu.xp, self.gpu.handle

    def __reduce__(self) -> tuple[Any, ...]:
        return with_options, (self.gpu.number, self.gpu.precision)

    def with_options(self, device: Any = None, precision: str | None = None) -> Backend:
        """CuPy on another GPU, or with products of another precision."""
        if device is None and precision is None:
            return self
        return with_options(
            self.gpu.number if device is None else device, precision or self.gpu.precision
        )

    def all_reduce(self, group: Any, vector: Array, parts: Sequence[tuple[int, int]]) -> Any:
        """NCCL's sum over the ranks; None where CuPy comes without it."""
        nccl = self._nccl()
        if nccl is None:
            return None
        self.gpu.enter()
        return NCCLSum(group, vector, parts, nccl, self.gpu.cupy.cuda.get_current_stream())

    def _nccl(self) -> Any:
        """CuPy's bindings of NCCL, where there are any."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy's, of a missing library
            nccl: Any = importlib.import_module("cupy.cuda.nccl")
        return nccl if nccl.available else None

    def owns(self, x: object) -> bool:
        """Whether `x` is a CuPy array."""
        return isinstance(x, self.gpu.cupy.ndarray)

    def device_of(self, x: Array) -> object:
        """The device that `x` is on."""
        return x.device

    def asarray(self, x: Array, dtype: str) -> Array:
        """Array of `dtype` on this device, from one of its arrays or a host array."""
        return self.gpu.asarray(x, dtype)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array, uninitialized."""
        return self.gpu.empty(shape, dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` as a NumPy array on the host: waits for the work that computes it."""
        return self.gpu.to_numpy(x)

    def synchronize(self) -> None:
        """Wait until all queued work of the device is done."""
        self.gpu.synchronize()

    def take(self, rows: Array, indices: Array, out: Array) -> None:
        """Write ``rows[indices]`` to `out`, by one kernel, without a temporary array."""
        self.gpu.enter()
        self.gpu.cupy.take(rows, indices, 0, out)

    def memory_left(self) -> int:
        """Bytes still available to arrays: free on the device, or unused in CuPy's pool."""
        return self.gpu.memory_left()

    def prefetcher(self, shape: tuple[int, int], dtype: str) -> Prefetcher:
        """A sender of rows to the device, for data that does not fit on it."""
        return Prefetcher(self.gpu, shape, dtype)

    def compile(self, operations: Iterable[Operation]) -> CUDAProgram:
        """Compile operations: to kernels and products, where these exist, else to expressions."""
        operations = list(operations)
        self.gpu.enter()
        expressions = [self._fallback(op) for op in operations]
        lowering = Lowering(self.gpu)
        try:
            calls, step, capturable, custom = self._lowered(operations, lowering)
        except MemoryError:
            raise
        except Exception as error:  # of NVIDIA's compiler, or of ours
            self.gpu.distrust(
                "the CUDA kernels of a step can't be compiled, and such steps are computed by CuPy's "
                f"functions instead. {REPORT}: {type(error).__name__}: {error}"
            )
            calls, step, capturable, custom = expressions, [], False, False
            lowering = Lowering(self.gpu)
        return CUDAProgram(self.gpu, operations, calls, expressions, lowering, step, capturable, custom)

    def _lowered(
        self, operations: Sequence[Operation], lowering: Lowering
    ) -> tuple[list[Call], list[Operation], bool, bool]:
        """The calls of a step, the operations that they are of, and whether these may be captured."""
        folded = {} if self.gpu.library is None else folded_sgd.fold(operations, _Layout(self.gpu))
        step = [op for i, whole in enumerate(operations) for op in folded.get(i, [whole])]
        items: list[Item | Call] = []
        capturable, custom = True, False
        for op in step:
            made = lowering.lower(op)
            custom |= made is None
            if made is None or (self.gpu.library is None and any(isinstance(x, Product) for x in made)):
                capturable &= self._may_be_captured(op)
                items.append(self._fallback(op))
            else:
                items += made
        if step:
            items += lowering.end_of_step(self.gpu.view(step[-1].output).dtype)
        return [self.gpu.as_call(item) for item in fuse(items)], step, capturable, custom

    def _may_be_captured(self, op: Operation) -> bool:
        if op.name == "matmul" and self.gpu.library is not None:
            warn_once(
                f"a product of {op.equation!r} has arrays that cuBLAS can't read without a copy, and "
                "goes through CuPy: such steps are not captured as CUDA graphs"
            )
        if op.name in RANDOM:
            warn_once(
                f"{op.name!r} is drawn on the host in each step: such steps are not captured as CUDA "
                "graphs"
            )
        return op.name not in ("matmul", *RANDOM)


_made: dict[tuple[int, str], CuPyBackend] = {}


def with_options(device: Any = None, precision: str | None = None) -> CuPyBackend:
    """CuPy on a GPU: always the same object, so that all its networks share kernels and cuBLAS."""
    number, precision = None if device is None else device_number(device), check_precision(precision)
    if number is None and _made:
        number = next(iter(_made.values())).gpu.cupy.cuda.runtime.getDevice()
    if number is not None and (number, precision) in _made:
        return _made[number, precision]
    backend = CuPyBackend(number, precision)
    return _made.setdefault((backend.gpu.number, precision), backend)


class _Layout(folded_sgd.Layout):
    """The memory layout of CuPy's arrays, for `fold`."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def bounds(self, x: Array) -> tuple[int, int]:
        return self._device.view(x).bounds

    def scalar(self, value: float, like: Array) -> Array:
        return self._device.asarray(np.array(value), self._device.view(like).dtype)

    def readable(self, x: Array) -> bool:
        return True
