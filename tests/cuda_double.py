"""A stand-in for a GPU: the `CuPyBackend` on NumPy and C++ in place of CuPy and cuBLAS.

Arrays are array-api-strict's on a device that can't be read from the host. Kernels are the sources for a
GPU, compiled for the host. A capture records launches and refuses what a real one refuses; its graph
replays the records. CUDA, CuPy and cuBLAS themselves stay untested.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import array_api_strict
import numpy as np
from array_api_strict import _array_object
from array_api_strict._array_object import Array as StrictArray

from bpengine.backends.array_api import fallback
from bpengine.backends.cupy import backend
from bpengine.backends.cupy.device import Device
from bpengine.backends.cupy.elementwise import View
from bpengine.backends.cupy.matmul import WORKSPACE

HOST = Path(__file__).with_name("cuda")
COMPILER = shutil.which("g++") or shutil.which("clang++")
DEVICES = array_api_strict.Device("device1"), array_api_strict.Device("device2")
SPACE = 2**34  # bytes of the device
NAMES = {np.dtype(name): name for name in ("float32", "float64", "int64", "bool")}
# a tuple, in which the dtype of every new array is looked up by a slow ==
_array_object._all_dtypes = frozenset(_array_object._all_dtypes)


class RefusedError(RuntimeError):
    """A call that CUDA does not allow while a stream is captured."""


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class CUDARuntimeError(RuntimeError):
    """CuPy's."""


def built(text, *options, standard="c++17"):
    """The path of a shared library of a source in C++, or in C of a standard."""
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(HOST.iterdir()))
    digest = hashlib.sha256(f"{text}{sources}{options}".encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"bpengine-cuda-on-host-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{digest}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as folder_of_source:
            made = Path(folder_of_source, "kernel.cpp")
            made.write_text(text, encoding="utf-8")
            flags = [
                f"-std={standard}",
                "-O1",
                "-fPIC",
                "-shared",
                "-fno-strict-aliasing",
                "-w",
                f"-I{HOST}",
            ]
            command = [COMPILER, *flags, *options, str(made), "-o", str(made.with_suffix(".so"))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{done.stderr}\n{text}"
            made.with_suffix(".so").replace(path)
    return path


@functools.cache
def host():
    """The library that runs blocks of threads, for all kernels."""
    path = built((HOST / "host.cpp").read_text(encoding="utf-8"))
    return ctypes.PyDLL(str(path), ctypes.RTLD_GLOBAL)


@functools.cache
def compiled(source, name):
    """A kernel of a CUDA source, as a function of grid, block and arguments."""
    host()
    parameters = re.search(rf"__global__ void {name}\((.*?)\)\s*{{", source, re.S)[1].split(",")
    types = [re.sub(r"\w+$", "", parameter.strip()) for parameter in parameters]
    casts = ", ".join(f"({kind})arguments[{i}]" for i, kind in enumerate(types))
    waits = str("__syncthreads" in source).lower()
    text = f"""#include "host.hpp"
{source}
static const long long* arguments;
static void called() {{ {name}({casts}); }}
extern "C" void call(unsigned int grid, unsigned int block, const long long* given) {{
    arguments = given;
    run_on_host(grid, block, {waits}, called);
}}
"""
    # not CDLL, which lets other threads run: the host's blocks and threads are global variables
    # what it uses is in the process: a link to libraries takes as long as the compiler
    path = built(text, "-nostdlib", "-fno-exceptions", "-fno-asynchronous-unwind-tables")
    function = ctypes.PyDLL(str(path)).call
    function.restype = None

    def kernel(grid, block, arguments):
        assert all(isinstance(x, int) for x in arguments) and len(arguments) == len(types)
        function(
            ctypes.c_uint(*grid), ctypes.c_uint(*block), (ctypes.c_longlong * len(arguments))(*arguments)
        )

    return kernel


class CUDA:
    """``cupy.cuda`` of one process: streams, graphs, events, memory."""

    def __init__(self, devices=1):
        self.local = threading.local()
        self.captures = set()  # the streams, in all threads
        self.launches = self.graph_launches = 0
        self.free = SPACE
        self.pinned = 0
        self.null = Stream(self)
        self.Stream = lambda non_blocking=False: Stream(self)
        self.Event = lambda disable_timing=False: Event()
        self.Device = lambda number: DEVICES[number]
        self.MemoryPool, self.pool = Pool, None
        self.memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
        self.runtime = SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            memcpyHostToDevice=1,
            getDevice=lambda: getattr(self.local, "device", 0),
            setDevice=lambda number: setattr(self.local, "device", number),
            getDeviceCount=lambda: devices,
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            memGetInfo=lambda: (self.free, SPACE),
            deviceSynchronize=self._synchronize,
            memcpyAsync=self._copy,
        )

    @contextmanager
    def using_allocator(self, allocator):
        self.pool = weakref.ref(allocator.__self__)
        yield
        self.pool = None

    @property
    def capturing(self):
        return getattr(self.local, "capturing", None)

    def get_current_stream(self):
        return getattr(self.local, "stream", None) or self.null

    @np.errstate(all="ignore")  # a device has no flags
    def do(self, function, *operands):
        """Work handed to the current stream."""
        stream = self.get_current_stream()
        if self.capturing is not None:
            if stream is not self.capturing:
                raise RefusedError("work on another stream than the one that is captured")
            stream.recorded.append((function, operands))
        else:
            self.launches += 1
            function(*operands)

    def refuse(self, what, anywhere=False):
        """Refuse a call while this thread captures, or any does."""
        if self.capturing is not None or (anywhere and self.captures):
            raise RefusedError(f"cudaErrorStreamCaptureUnsupported: {what}")

    def alloc_pinned_memory(self, size):
        self.pinned += size
        return bytearray(size)

    def _synchronize(self):
        self.refuse("deviceSynchronize", anywhere=True)

    def _copy(self, target, source, size, kind, stream):
        """A copy is delayed until a wait for it or for later work."""
        assert kind == 1
        stream = Stream.all[stream]
        stream.waiting.append(lambda: ctypes.memmove(target, source, size))


class Pool:
    """``cupy.cuda.MemoryPool``."""

    freed = 0

    def free_all_blocks(self):
        type(self).freed += 1

    def malloc(self, size):
        raise AssertionError("never called: arrays are NumPy's")


class Stream:
    """A stream: all work runs at once, except copies."""

    all: ClassVar[dict] = {}

    def __init__(self, cuda):
        self.cuda, self.recorded, self.waiting = cuda, None, []
        self.ptr = len(self.all) + 1
        self.all[self.ptr] = self

    def __enter__(self):
        self.before = self.cuda.get_current_stream()
        self.cuda.local.stream = self

    def __exit__(self, *args):
        self.cuda.local.stream = self.before

    def begin_capture(self):
        assert self.cuda.capturing is None and self is not self.cuda.null
        assert not gc.isenabled()
        self.recorded, self.cuda.local.capturing = [], self
        self.cuda.captures.add(self)

    def end_capture(self):
        if self.cuda.capturing is not self:
            raise RefusedError("cudaErrorIllegalState: the stream is not captured")
        recorded, self.recorded, self.cuda.local.capturing = self.recorded, None, None
        self.cuda.captures.discard(self)
        return Graph(self.cuda, recorded)

    def wait_event(self, event):
        event.synchronize()


class Event:
    """An event: the work that its stream had when it was recorded is done when it is waited for."""

    def __init__(self):
        self.work = []

    def record(self, stream=None):
        self.work = [] if stream is None else stream.waiting
        if stream is not None:
            stream.waiting = []

    def synchronize(self):
        work, self.work = self.work, []
        for do in work:
            do()


class Graph:
    """Recorded launches, to be repeated."""

    def __init__(self, cuda, recorded):
        self.cuda, self.recorded, self.pool = cuda, recorded, cuda.pool

    def upload(self):
        self.cuda.refuse("upload")

    @np.errstate(all="ignore")
    def launch(self):
        self.cuda.refuse("launch")
        assert self.pool() is not None, "the memory of what was allocated in the capture has gone"
        self.cuda.graph_launches += 1
        for function, operands in self.recorded:
            function(*operands)


class Kernel:
    """``cupy.RawKernel``."""

    def __init__(self, cuda, code, name):
        self.cuda, self.code, self.name = cuda, code, name

    def __call__(self, grid, block, arguments):
        self.cuda.do(compiled(self.code, self.name), grid, block, arguments)


def matrix(address, rows, columns, leading, real):
    """A column-major matrix in memory."""
    kind = (ctypes.c_float, ctypes.c_double)[real]
    assert leading >= max(rows, 1)
    count = leading * (columns - 1) + rows
    memory, size = (kind * count).from_address(address), ctypes.sizeof(kind)
    return np.ndarray((rows, columns), kind, memory, strides=(size, leading * size))


class Cublas:
    """What `bpengine.backends.cupy.cublas.Cublas` has."""

    def __init__(self, cuda):
        self.cuda, self.handles = cuda, {}
        self.computes = set()
        self.products = self.batched = 0
        self.workspaces = []  # of the products that were captured

    def create(self):
        self.cuda.refuse("cublasCreate", anywhere=True)
        handle = 100 + len(self.handles)
        self.handles[handle] = {}
        return handle

    def destroy(self, handle):
        self.cuda.refuse("cublasDestroy", anywhere=True)
        self.handles[handle] = None

    def set_stream(self, handle, stream):
        self.handles[handle].update({"stream": stream, "workspace": None})

    def set_workspace(self, handle, address, size):
        self.handles[handle]["workspace"] = address, size

    def gemm(self, handle, ta, tb, m, n, k, α, a, ra, lda, b, rb, ldb, β, c, rc, ldc, compute, algo):
        shapes = ta, tb, m, n, k
        self._do(handle, shapes, α, (a, lda, 0), (b, ldb, 0), β, (c, ldc, 0), 1, (ra, rb, rc), compute)

    def gemm_strided_batched(self, handle, ta, tb, m, n, k, α, *rest):
        a, ra, lda, sa, b, rb, ldb, sb, β, c, rc, ldc, sc, count, compute, _ = rest
        shapes = ta, tb, m, n, k
        self.batched += 1
        self._do(
            handle, shapes, α, (a, lda, sa), (b, ldb, sb), β, (c, ldc, sc), count, (ra, rb, rc), compute
        )

    def _do(self, handle, shapes, α, a, b, β, c, count, reals, compute):
        state = self.handles[handle]
        assert state["workspace"], "or a capture fails"
        assert state["stream"] == self.cuda.get_current_stream().ptr
        assert len(set(reals)) == 1 and (compute == 70) == (reals[0] == 1)
        if self.cuda.capturing is not None:
            self.workspaces.append(state["workspace"])
        self.computes.add(compute)
        self.products += 1
        self.cuda.do(self._multiply, shapes, α, a, b, β, c, count, reals[0])

    def _multiply(self, shapes, α, a, b, β, c, count, real):
        ta, tb, m, n, k = shapes
        size = 8 if real else 4
        for i in range(count):
            left, right, out = (address + i * step * size for address, _, step in (a, b, c))
            A = matrix(left, k, m, a[1], real).T if ta else matrix(left, m, k, a[1], real)
            B = matrix(right, n, k, b[1], real).T if tb else matrix(right, k, n, b[1], real)
            C = matrix(out, m, n, c[1], real)
            x, y = (matrix(number, 1, 1, 1, real)[0, 0] for number in (α, β))
            result = x * (A @ B)
            C[...] = result if y == 0 else result + y * C


class DoubleDevice(Device):
    """The device on the stand-in."""

    def __init__(self, number=None, precision=None, *, cublas=Cublas, devices=2):
        self.cuda = CUDA(devices)
        self._cublas_class = cublas
        self.distrusted = []
        super().__init__(number, precision)

    def _cublas(self):
        self.cublas = self._cublas_class(self.cuda)
        return self.cublas

    def distrust(self, message):
        self.distrusted.append(message)
        super().distrust(message)

    def _cupy(self):
        cuda = self.cuda
        return SimpleNamespace(
            ndarray=StrictArray,
            cuda=cuda,
            asarray=self._asarray,
            empty=self._empty,
            take=self._take,
            asnumpy=self._asnumpy,
            get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
            RawModule=lambda code, options: SimpleNamespace(
                get_function=lambda name: Kernel(cuda, code, name)
            ),
        )

    def _namespace(self):
        return array_api_strict

    def _asarray(self, x, dtype):
        real = getattr(array_api_strict, dtype)
        if isinstance(x, StrictArray):
            assert x.device == self.handle, "an array of another device"
            return x if x.dtype == real else array_api_strict.astype(x, real)
        self.cuda.refuse("a copy from the host")
        return self._array(np.array(x, dtype))

    def _empty(self, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > self.cuda.free:
            raise OutOfMemoryError(
                f"Out of memory allocating {size:,} bytes (allocated so far: 0 bytes)."
            )
        host = np.empty(shape, dtype)
        if size < WORKSPACE:  # numbers that were not written are recognised
            host.fill(-7 if dtype == "int64" else np.nan)
        return self._array(host)

    def _array(self, host):
        """What ``array_api_strict.asarray`` gives, without its checks."""
        return StrictArray._new(host, device=self.handle)

    def _take(self, rows, indices, axis, out):
        assert out.dtype == rows.dtype, "CuPy raises"
        assert out.shape == (*indices.shape, *rows.shape[1:]), "CuPy raises"
        self.cuda.do(np.take, rows._array, indices._array, axis, out._array)

    def _asnumpy(self, x):
        self.cuda.refuse("a copy to the host")
        return np.array(x._array)

    def view(self, x):
        assert x.device == self.handle, "an array of another device"
        a = x._array
        strides = tuple(stride // a.itemsize for stride in a.strides)
        return View(a.__array_interface__["data"][0], a.shape, strides, NAMES[a.dtype])


class Double(backend.CuPyBackend):
    """The backend on the stand-in."""

    def __init__(self, device=None, precision=None, **options):
        self._device_class = functools.partial(DoubleDevice, **options)
        super().__init__(device, precision)
        self.cuda, self.cublas = self.gpu.cuda, getattr(self.gpu, "cublas", None)

    def __reduce__(self):
        return Double, (self.gpu.number, self.gpu.precision)

    def with_options(self, device=None, precision=None):
        if device is None and precision is None:
            return self
        return Double(self.gpu.number if device is None else device, precision or self.gpu.precision)

    def _nccl(self):
        return None

    def _fallback(self, op):
        """An operation's expression: kernels of CuPy's, which a capture records too."""
        call = fallback(op)

        @np.errstate(all="ignore")
        def evaluate(function, operands):
            if self.cuda.capturing is None:
                function(*operands)
                return
            with self._unreadable():
                op.expression(*(array_api_strict.asarray(x, copy=True) for x in op.inputs))
            self.cuda.do(function, *operands)

        return evaluate, call

    @contextmanager
    def _unreadable(self):
        """Refuse copies of numbers to the host, and products by CuPy's cuBLAS, in this thread."""
        try:
            CAPTURING.cuda = self.cuda
            yield
        finally:
            CAPTURING.cuda = None


# once and for all: a patch during a capture would stay if Ctrl-C came between
CAPTURING = threading.local()


def refusing(function, error=""):
    """A method of arrays that a capture does not allow."""

    @functools.wraps(function)
    def method(x, *args):
        cuda = getattr(CAPTURING, "cuda", None)
        if cuda is not None and cuda.capturing is not None:
            if error:
                raise NotImplementedError(error)
            cuda.refuse("a copy to the host")
        return function(x, *args)

    return method


for name in ("__bool__", "__float__", "__int__", "__index__"):
    setattr(StrictArray, name, refusing(getattr(StrictArray, name)))
StrictArray.__matmul__ = refusing(
    StrictArray.__matmul__, "calling cuBLAS API during stream capture is currently unsupported"
)
