"""Data that does not fit on the device: rows on their way to it while it computes on others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from bpengine.backends.cupy.device import Device
from bpengine.backends.operation import Array

__all__ = ["Feeder"]

Fill = Callable[[np.ndarray[Any, Any]], int]


class Feeder:
    """Two pinned buffers on the host, two on the device, and a stream that copies from one to the other.

    Parameters
    ----------
    device : Device
    shape : tuple of int
        Rows of a buffer, and numbers in a row.
    dtype : str
    """

    def __init__(self, device: Device, shape: tuple[int, int], dtype: str) -> None:
        self._device, cuda = device, device.cupy.cuda
        device.enter()
        self._stream = cuda.Stream(non_blocking=True)
        self._here = [_pinned(cuda, shape, dtype) for _ in range(2)]
        self._there = [device.empty(shape, dtype) for _ in range(2)]
        self._copied = [cuda.Event(disable_timing=True) for _ in range(2)]
        self._read = [cuda.Event(disable_timing=True) for _ in range(2)]
        self._worker = ThreadPoolExecutor(1, "bpengine-feeder")
        self._next = 0

    def send(self, fill: Fill) -> Future[tuple[int, int]]:
        """Let `fill` write rows into a buffer, and copy those many to the device, in another thread.

        The buffer is one whose rows are no longer needed: the last but one that was received.
        """
        which, self._next = self._next, 1 - self._next
        # the device is done with it once all that is queued now is
        self._read[which].record()
        return self._worker.submit(self._send, which, fill)

    def _send(self, which: int, fill: Fill) -> tuple[int, int]:
        self._device.enter()
        self._copied[which].synchronize()  # the copy before has left the pinned buffer
        here = self._here[which]
        count = fill(here)
        self._stream.wait_event(self._read[which])
        runtime, target = self._device.cupy.cuda.runtime, self._device.view(self._there[which])
        size = here[:count].nbytes
        kind = runtime.memcpyHostToDevice
        runtime.memcpyAsync(target.address, here.ctypes.data, size, kind, self._stream.ptr)
        self._copied[which].record(self._stream)
        return which, count

    def receive(self, sent: Future[tuple[int, int]]) -> tuple[Array, int]:
        """The device's buffer with the rows of `send`, and how many: for the current stream."""
        which, count = sent.result()
        self._device.cupy.cuda.get_current_stream().wait_event(self._copied[which])
        return self._there[which], count

    def close(self) -> None:
        """Let the thread go."""
        self._worker.shutdown()


def _pinned(cuda: Any, shape: tuple[int, int], dtype: str) -> np.ndarray[Any, Any]:
    """Memory of the host that the device can copy from by itself."""
    size = shape[0] * shape[1]
    memory = cuda.alloc_pinned_memory(size * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, size).reshape(shape)
