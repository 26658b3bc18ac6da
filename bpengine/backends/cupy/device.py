"""A GPU as kernels and products need it: memory, streams, compiled kernels, cuBLAS, captures."""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from bpengine.backends.array_api import Call
from bpengine.backends.base import BackendUnavailableError, DeviceMemoryError, warn_once
from bpengine.backends.cupy import cublas
from bpengine.backends.cupy.elementwise import Launch, View
from bpengine.backends.cupy.matmul import Library, Product, Workspace
from bpengine.backends.operation import Array

__all__ = ["Device", "check_precision", "device_number"]

OPTIONS = ("--std=c++17", "--device-int128")
RESERVE = 2**28  # bytes of the device that are not used


class Device:
    """One NVIDIA GPU.

    Parameters
    ----------
    number, precision
        As for `CuPyBackend`.

    Attributes
    ----------
    number : int
    precision : str
    cupy : module
    xp : module
        CuPy's namespace, as array-api-compat gives it.
    handle : cupy.cuda.Device
    library : Library or None
        cuBLAS; None where it can't be used.
    lock : threading.RLock
        The device's, held during what CUDA does not allow while a stream of the device is captured.
    proven : set
        The keys of `bpengine.backends.cupy.proof` that need no comparison any more.
    failures : dict
        How often others have failed.

    Raises
    ------
    BackendUnavailableError
        If CuPy, the driver or the device is missing: the message says which.
    """

    _locks: ClassVar[dict[int, Any]] = {}

    def __init__(self, number: Any = None, precision: str | None = None) -> None:
        self.precision = check_precision(precision)
        self.cupy = self._cupy()
        count = self._devices()
        self.xp: ModuleType = self._namespace()
        self.number = self.cupy.cuda.runtime.getDevice() if number is None else device_number(number)
        if not 0 <= self.number < count:
            raise BackendUnavailableError(
                f"device={number!r}: this machine has {count} CUDA device{'s' * (count > 1)}, "
                f"numbered from 0{f' to {count - 1}' if count > 1 else ''}."
            )
        self.enter()
        self.handle = self.cupy.cuda.Device(self.number)
        self._kernels: dict[str, Any] = {}
        self.lock = self._locks.setdefault(self.number, threading.RLock())
        self.proven: set[Any] = set()
        self.failures: dict[Any, int] = {}
        self._capturing = self.cupy.cuda.Stream(non_blocking=True)
        self.library: Library | None = None
        try:
            self.library = Library(self._cublas(), self._workspace, self.precision == "tf32", self.lock)
            self.enter_library()
        except Exception as error:  # a library that is missing, or of another CUDA
            self.library = None
            warn_once(
                "cuBLAS can't be used: products go through CuPy, and steps are not captured as CUDA "
                "graphs. Install it: pip install 'bpengine[cuda13]' (or [cuda12]). "
                f"{type(error).__name__}: {error}"
            )

    def _cupy(self) -> Any:
        if importlib.util.find_spec("cupy") is None:
            raise BackendUnavailableError(
                "backend 'cupy' needs CuPy, which is not installed: pip install 'bpengine[cuda13]' (or "
                "[cuda12], to match your CUDA driver), or use backend='numpy'."
            )
        try:
            return importlib.import_module("cupy")
        except ImportError as error:
            raise BackendUnavailableError(
                f"backend 'cupy': CuPy is installed, but it can't be imported: {error}. Install the "
                "CuPy that matches your CUDA version, or use backend='numpy'."
            ) from error

    def _cublas(self) -> Any:
        return cublas.load()

    def _namespace(self) -> ModuleType:
        return importlib.import_module("array_api_compat.cupy")

    def _devices(self) -> int:
        """The number of devices; the error says what is missing if there is none."""
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
                    f"'bpengine[cuda{found.partition('.')[0]}]'."
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
        """Make this GPU the thread's current device."""
        runtime = self.cupy.cuda.runtime
        if runtime.getDevice() != self.number:
            runtime.setDevice(self.number)

    def synchronize(self) -> None:
        """Wait until all queued work of the device is done."""
        self.enter()
        with self.lock:
            self.cupy.cuda.runtime.deviceSynchronize()

    def enter_library(self, workspace: Workspace | None = None) -> object:
        """Let products run on the current stream; returns what must stay alive as long."""
        if self.library is None:
            return None
        return self.library.enter(self.cupy.cuda.get_current_stream().ptr, workspace)

    def _workspace(self, size: int) -> tuple[Array, int]:
        memory = self.empty((size // 4,), "float32")
        return memory, self.view(memory).address

    def asarray(self, x: Array, dtype: str) -> Array:
        """Array of `dtype` on this device, from one of its arrays or a host array."""
        self.enter()
        with self.memory_errors():
            return self.cupy.asarray(x, dtype)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array, uninitialized."""
        self.enter()
        with self.memory_errors():
            return self.cupy.empty(shape, dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` on the host: waits for the work that computes it."""
        self.enter()
        return np.asarray(self.cupy.asnumpy(x))

    def distrust(self, message: str) -> None:
        """Log that something does not compute what it should, and is not used."""
        warn_once(message)

    @contextmanager
    def memory_errors(self, where: str = "") -> Iterator[None]:
        """Raise CuPy's out-of-memory error as ours, which says how much memory there is."""
        try:
            yield
        except self.cupy.cuda.memory.OutOfMemoryError as error:
            message = str(error).strip().rstrip(".") + where
            raise DeviceMemoryError(message, self.memory_left()) from None

    def memory_left(self) -> int:
        """Bytes still available to arrays: free on the device, or unused in CuPy's pool."""
        self.enter()
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        unused: int = self.cupy.get_default_memory_pool().free_bytes()
        return max(0, int(free) + unused - RESERVE)

    def view(self, x: Array) -> View:
        """An array as kernels use it."""
        strides = tuple(stride // x.itemsize for stride in x.strides)
        return View(x.data.ptr, tuple(x.shape), strides, str(x.dtype))

    def as_call(self, item: Launch | Product | Call) -> Call:
        """A kernel or a product as a function and its operands."""
        if isinstance(item, Product):
            assert self.library is not None
            return self.library.multiply, (item,)
        if not isinstance(item, Launch):
            return item
        if item.source not in self._kernels:
            module = self.cupy.RawModule(code=item.source, options=OPTIONS)
            self._kernels[item.source] = module.get_function(item.name)
        return self._kernels[item.source], ((item.grid,), (item.block,), item.arguments)

    def capture(self, run: Callable[[], None], workspace: Workspace | None = None) -> Graph:
        """A graph of what `run` launches.

        Parameters
        ----------
        run : callable
        workspace : Workspace, optional
            For its products, which graphs that may be replayed at the same time must not share.
        """
        cuda, stream = self.cupy.cuda, self._capturing
        # the memory that expressions allocate is not reused by others: a replay writes there again
        pool = cuda.MemoryPool()
        with self.lock, stream, cuda.using_allocator(pool.malloc), _without_collector():
            held = self.enter_library(workspace)
            try:
                stream.begin_capture()
                run()
            except BaseException:
                _abandon(stream)
                raise
            graph = stream.end_capture()
        graph.upload()
        return Graph(graph, pool, held, self.lock)


class Graph:
    """A CUDA graph, and what it works on.

    Parameters
    ----------
    graph : cupy.cuda.Graph
    pool : cupy.cuda.MemoryPool
        Of its temporary arrays.
    held : object
        What else it holds addresses of.
    lock : threading.RLock
        The device's.
    """

    def __init__(self, graph: Any, pool: Any, held: object, lock: Any) -> None:
        self._graph, self._pool, self._held, self._lock = graph, pool, held, lock

    def launch(self) -> None:
        """Queue the work on the current stream."""
        self._graph.launch()

    def __del__(self) -> None:
        self._graph = None
        try:
            with self._lock:
                self._pool.free_all_blocks()  # a pool that is deleted does not free them
        except Exception:  # at the interpreter's exit the driver may be unloaded already
            return


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's garbage collector off: what it frees may call what a capture does not allow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _abandon(stream: Any) -> None:
    """End a capture that has failed."""
    try:
        stream.end_capture()
    except Exception:  # an invalid capture raises again where it ends, and one that did not begin
        return


def check_precision(precision: str | None) -> str:
    """The precision of float32 products: "full" where none is given."""
    if precision not in (None, "full", "tf32"):
        raise ValueError(f"precision must be 'full' or 'tf32', got {precision!r}.")
    return precision or "full"


def device_number(device: object) -> int:
    """The number of a device: itself, or of CuPy's object."""
    number = getattr(device, "id", device)
    if isinstance(number, str) and number.removeprefix("cuda:").isdecimal():
        return int(number.removeprefix("cuda:"))
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
        raise TypeError(f"device must be the number of a GPU, such as 0, or 'cuda:0'; got {device!r}.")
    return int(number)
