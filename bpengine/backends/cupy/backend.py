"""CuPy: arrays on a GPU, a fused kernel for each elementwise line, steps replayed as CUDA graphs."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from bpengine.backends import fusion
from bpengine.backends.array_api import ArrayAPIBackend, Call, fallback
from bpengine.backends.base import Backend, BackendUnavailableError, DeviceMemoryError
from bpengine.backends.cupy.elementwise import Launch, Line, View, fused
from bpengine.backends.cupy.lowering import Item, Maker, gather
from bpengine.backends.cupy.matmul import Library, Product
from bpengine.backends.cupy.nccl import NCCLSum
from bpengine.backends.cupy.prefetch import Feeder
from bpengine.backends.cupy.program import CUDAProgram, say_once
from bpengine.backends.operation import Array, Operation

__all__ = ["CuPyBackend", "on"]

OPTIONS = ("--std=c++17", "--device-int128")
DRAWN = "uniform", "gaussian noise"  # operations that are no functions of their inputs
RESERVE = 2**28  # bytes of the device that are left to others


class CuPyBackend(ArrayAPIBackend):
    """CuPy arrays on one NVIDIA GPU.

    Parameters
    ----------
    device : int, optional
        The number of the GPU, from 0 on; CuPy's current one where not given. Work with a network makes
        its device the thread's current one.
    precision : {"full", "tf32"}, optional
        "tf32" lets float32 products round their factors to 10 bits of mantissa, for the speed of
        tensor cores; sums are kept in float32.

    Raises
    ------
    BackendUnavailableError
        If CuPy, the driver or the device is missing: the message says which.
    """

    alignment = 16
    patience = 64

    def __init__(self, device: Any = None, precision: str | None = None) -> None:
        self.name, self.precision = "cupy", _precision(precision)
        self.cupy, cublas = self._modules()
        count = self._devices()
        self.xp: ModuleType = self._namespace()
        self.number = self.cupy.cuda.runtime.getDevice() if device is None else _number(device)
        if not 0 <= self.number < count:
            raise BackendUnavailableError(
                f"device={device!r}: this machine has {count} CUDA device{'s' * (count > 1)}, "
                f"numbered from 0{f' to {count - 1}' if count > 1 else ''}."
            )
        self.enter()
        self.device = self.cupy.cuda.Device(self.number)
        self._kernels: dict[str, Any] = {}
        self._capturing, self._lock = self.cupy.cuda.Stream(non_blocking=True), threading.Lock()
        self._zeros = self.asarray(np.zeros(2, np.int64), "int64")
        self.library = None
        if cublas is None:
            say_once(
                "nvmath-python is missing: products go through CuPy, and steps are not captured as CUDA "
                "graphs. Install it: pip install 'bpengine[cuda13]' (or [cuda12])"
            )
        else:
            self.library = Library(cublas, self._workspace, self.precision == "tf32")

    def __reduce__(self) -> tuple[Any, ...]:
        return on, (self.number, self.precision)

    def on(self, device: Any = None, precision: str | None = None) -> Backend:
        """CuPy on another GPU, or with products of another precision."""
        if device is None and precision is None:
            return self
        return on(self.number if device is None else device, precision or self.precision)

    def over_ranks(self, group: Any, vector: Array, parts: Sequence[tuple[int, int]]) -> Any:
        """NCCL's sum over the ranks; None where CuPy comes without it."""
        nccl = self._nccl()
        if nccl is None:
            return None
        return NCCLSum(group, vector, parts, nccl, self.cupy.cuda.get_current_stream())

    def _nccl(self) -> Any:
        """CuPy's bindings of NCCL, where there are any."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy's own, of a library that is not there
            nccl: Any = importlib.import_module("cupy.cuda.nccl")
        return nccl if nccl.available else None

    def _modules(self) -> tuple[Any, Any]:
        """CuPy, and cuBLAS's bindings where there are any."""
        if importlib.util.find_spec("cupy") is None:
            raise BackendUnavailableError(
                "backend 'cupy' needs CuPy, which is not installed: pip install 'bpengine[cuda13]' (or "
                "[cuda12], to match your CUDA driver: cupy-cuda13x or cupy-cuda12x), or use "
                "backend='numpy'."
            )
        try:
            cupy = importlib.import_module("cupy")
        except ImportError as error:
            raise BackendUnavailableError(
                f"backend 'cupy': CuPy is installed, but it can't be imported: {error}. Install the "
                "CuPy that matches your CUDA version, or use backend='numpy'."
            ) from error
        try:
            cublas = importlib.import_module("nvmath.bindings.cublas")
        except ImportError:
            cublas = None
        return cupy, cublas

    def _namespace(self) -> ModuleType:
        return importlib.import_module("array_api_compat.cupy")

    def _devices(self) -> int:
        """How many devices there are; the error says what is missing where there is none."""
        runtime = self.cupy.cuda.runtime
        try:
            driver = runtime.driverGetVersion()
        except runtime.CUDARuntimeError:
            driver = 0
        if not driver:
            raise BackendUnavailableError(
                "backend 'cupy': CuPy is installed, but there is no CUDA driver, and so no CUDA device "
                "that it could use. Install NVIDIA's driver and check it with nvidia-smi, or use "
                "backend='numpy'."
            )
        try:
            count = int(runtime.getDeviceCount())
        except runtime.CUDARuntimeError as error:
            if "InsufficientDriver" in str(error):
                needed, found = (
                    f"{version // 1000}.{version % 1000 // 10}"
                    for version in (runtime.runtimeGetVersion(), driver)
                )
                raise BackendUnavailableError(
                    f"backend 'cupy': this CuPy is for CUDA {needed}, and the driver is for CUDA "
                    f"{found}. Install a newer driver, or the CuPy for your driver: pip install "
                    f"cupy-cuda{found.partition('.')[0]}x."
                ) from None
            if "NoDevice" not in str(error):
                raise BackendUnavailableError(
                    f"backend 'cupy': the driver gives no CUDA device: {error}. Check it with "
                    "nvidia-smi, or use backend='numpy'."
                ) from None
            count = 0
        if not count:
            raise BackendUnavailableError(
                "backend 'cupy': CuPy and the driver are there, but it finds no CUDA device. See what "
                "nvidia-smi and the variable CUDA_VISIBLE_DEVICES say, or use backend='numpy'."
            )
        return count

    def enter(self) -> None:
        """Make this backend's device the thread's current one."""
        runtime = self.cupy.cuda.runtime
        if runtime.getDevice() != self.number:
            runtime.setDevice(self.number)

    def enter_library(self) -> object:
        """Let products run on the current stream; gives what has to stay as long."""
        if self.library is None:
            return None
        return self.library.enter(self.cupy.cuda.get_current_stream().ptr)

    def _workspace(self, size: int) -> tuple[Array, int]:
        memory = self.empty((size // 4,), "float32")
        return memory, self.view(memory).address

    def owns(self, x: object) -> bool:
        """Whether `x` is a CuPy array."""
        return isinstance(x, self.cupy.ndarray)

    def device_of(self, x: Array) -> object:
        """The device that `x` is on."""
        return x.device

    def asarray(self, x: Array, dtype: str) -> Array:
        """Array of `dtype` on this device, from one of its own or a host array."""
        self.enter()
        with _Told(self):
            return self.cupy.asarray(x, dtype)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array with contents of any value."""
        self.enter()
        with _Told(self):
            return self.cupy.empty(shape, dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` as a NumPy array on the host: waits for all work that it rests on."""
        self.enter()
        return np.asarray(self.cupy.asnumpy(x))

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done."""
        self.enter()
        self.cupy.cuda.runtime.deviceSynchronize()

    def take(self, rows: Array, indices: Array, out: Array) -> None:
        """Write ``rows[indices]`` into `out`, by one kernel and without an array in between."""
        self.enter()
        source, numbers, target = map(self.view, (rows, indices, out))
        launch = gather(source, target, numbers, self.view(self._zeros))
        if launch is None or numbers.dtype != "int64" or not numbers.contiguous:
            out[...] = self.xp.take(rows, indices, axis=0)
            return
        kernel, operands = self.as_call(launch)
        kernel(*operands)

    def memory_left(self) -> int:
        """Bytes that arrays may still take: those the device has, and those that CuPy keeps unused."""
        self.enter()
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        kept: int = self.cupy.get_default_memory_pool().free_bytes()
        return max(0, int(free) + kept - RESERVE)

    def feeder(self, shape: tuple[int, int], dtype: str) -> Feeder:
        """Two buffers of rows here and two on the device, for data that does not fit on it."""
        return Feeder(self, shape, dtype)

    def view(self, x: Array) -> View:
        """An array as kernels see it."""
        strides = tuple(stride // x.itemsize for stride in x.strides)
        return View(x.data.ptr, tuple(x.shape), strides, str(x.dtype))

    def compile(self, operations: Iterable[Operation]) -> CUDAProgram:
        """Make operations ready to be replayed: kernels, products, else expressions."""
        operations = list(operations)
        self.enter()
        maker = Maker(self, self.view)
        folded = {} if self.library is None else fusion.fold(operations, _Layout(self))
        step = [line for i, op in enumerate(operations) for line in folded.get(i, [op])]
        items: list[Item | Call] = []
        capturable = True
        for op in step:
            made = maker.items(op)
            if made is None or (self.library is None and any(isinstance(x, Product) for x in made)):
                capturable &= self._may_be_captured(op)
                items.append(fallback(op))
            else:
                items += made
        if step:
            items += maker.end_of_step(self.view(step[-1].output).dtype)
        calls = [self.as_call(item) for item in fused(items)]
        flops = sum(op.flops for op in operations)
        return CUDAProgram(self, calls, maker, [step, operations], capturable, flops)

    def _may_be_captured(self, op: Operation) -> bool:
        if op.name == "matmul" and self.library is not None:
            say_once(
                f"a product of {op.equation!r} has arrays that cuBLAS can't read as they lie, and goes "
                "through CuPy: such steps are not captured as CUDA graphs"
            )
        if op.name in DRAWN:
            say_once(
                f"{op.name!r} is drawn on the host in each step: such steps are not captured as CUDA "
                "graphs"
            )
        return op.name not in ("matmul", *DRAWN)

    def as_call(self, item: Item | Call) -> Call:
        """A kernel or a product as a function and its operands."""
        if isinstance(item, Product):
            assert self.library is not None
            return self.library.multiply, (item,)
        if not isinstance(item, Launch):
            assert not isinstance(item, Line)
            return item
        if item.source not in self._kernels:
            module = self.cupy.RawModule(code=item.source, options=OPTIONS)
            self._kernels[item.source] = module.get_function(item.name)
        return self._kernels[item.source], ((item.grid,), (item.block,), item.arguments)

    def capture(self, run: Callable[[], None]) -> tuple[Any, object]:
        """What `run` does, as a graph, and what has to stay as long as that."""
        cuda, stream = self.cupy.cuda, self._capturing
        # what expressions allocate is theirs for good: a replay writes there again
        pool = cuda.MemoryPool()
        with self._lock, stream, cuda.using_allocator(pool.malloc):
            held = self.enter_library()
            stream.begin_capture()
            try:
                run()
            except BaseException:
                _abandon(stream)
                raise
            graph = stream.end_capture()
        graph.upload()
        return graph, (pool, held)


class _Told:
    """Turns CuPy's out-of-memory error into ours, which says what there is."""

    def __init__(self, backend: CuPyBackend) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, self._backend.cupy.cuda.memory.OutOfMemoryError):
            left = self._backend.memory_left()
            raise DeviceMemoryError(str(error).strip().rstrip("."), left) from None


def _abandon(stream: Any) -> None:
    """End a capture that has failed."""
    try:
        stream.end_capture()
    except Exception:  # an invalid capture says so once more where it ends
        return


_made: dict[tuple[int, str], CuPyBackend] = {}


def on(device: Any = None, precision: str | None = None) -> CuPyBackend:
    """CuPy on a GPU: always the same object, so that all its networks share kernels and cuBLAS."""
    number, precision = None if device is None else _number(device), _precision(precision)
    if number is not None and (number, precision) in _made:
        return _made[number, precision]
    backend = CuPyBackend(number, precision)
    return _made.setdefault((backend.number, precision), backend)


def _precision(precision: str | None) -> str:
    if precision not in (None, "full", "tf32"):
        raise ValueError(f"precision must be 'full' or 'tf32', got {precision!r}.")
    return precision or "full"


def _number(device: object) -> int:
    """The number of a device: itself, or of CuPy's object."""
    number = getattr(device, "id", device)
    if isinstance(number, str) and number.removeprefix("cuda:").isdecimal():
        return int(number.removeprefix("cuda:"))
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
        raise TypeError(f"device must be the number of a GPU, such as 0, or 'cuda:0'; got {device!r}.")
    return int(number)


class _Layout(fusion.Layout):
    """Where CuPy's arrays lie, for `fold`."""

    def __init__(self, backend: CuPyBackend) -> None:
        self._backend = backend

    def bounds(self, x: Array) -> tuple[int, int]:
        return self._backend.view(x).bounds

    def number(self, value: float, like: Array) -> Array:
        return self._backend.asarray(np.array(value), self._backend.view(like).dtype)

    def readable(self, x: Array) -> bool:
        return True
