"""Prefetching: rows of data that does not fit on the device, sent while it computes on others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from bpengine.backends.cupy.device import Device
from bpengine.backends.operation import Array

__all__ = ["Prefetcher"]

Fill = Callable[[np.ndarray[Any, Any]], int]


class Prefetcher:
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
        self._host_buffers = [_pinned(cuda, shape, dtype) for _ in range(2)]
        self._device_buffers = [device.empty(shape, dtype) for _ in range(2)]
        self._copied = [cuda.Event(disable_timing=True) for _ in range(2)]
        self._read = [cuda.Event(disable_timing=True) for _ in range(2)]
        self._worker = ThreadPoolExecutor(1, "bpengine-prefetch")
        self._next = 0
        self._sent: list[Future[tuple[int, int]]] = []

    def send(self, fill: Fill) -> Future[tuple[int, int]]:
        """Let `fill` write rows to a buffer, and copy as many to the device, in another thread.

        The rows that were received before the last ones are overwritten.
        """
        which, self._next = self._next, 1 - self._next
        # the device has read it once all work that is queued now is done
        self._read[which].record()
        sent = self._worker.submit(self._send, which, fill)
        self._sent = [*self._sent[-1:], sent]
        return sent

    def _send(self, which: int, fill: Fill) -> tuple[int, int]:
        self._device.enter()
        self._copied[which].synchronize()  # the last copy from the pinned buffer is complete
        buffer = self._host_buffers[which]
        count = fill(buffer)
        self._stream.wait_event(self._read[which])
        runtime, target = self._device.cupy.cuda.runtime, self._device.view(self._device_buffers[which])
        size = buffer[:count].nbytes
        kind = runtime.memcpyHostToDevice
        runtime.memcpyAsync(target.address, buffer.ctypes.data, size, kind, self._stream.ptr)
        self._copied[which].record(self._stream)
        return which, count

    def receive(self, sent: Future[tuple[int, int]]) -> tuple[Array, int]:
        """The device's buffer with the rows of `send`, and their number, for the current stream."""
        which, count = sent.result()
        self._device.cupy.cuda.get_current_stream().wait_event(self._copied[which])
        return self._device_buffers[which], count

    def finish(self) -> None:
        """Wait for all that is under way, as the buffers must not be freed before."""
        wait(self._sent)
        for copied in self._copied:
            copied.synchronize()


def _pinned(cuda: Any, shape: tuple[int, int], dtype: str) -> np.ndarray[Any, Any]:
    """Page-locked memory of the host, which the device copies from asynchronously."""
    size = shape[0] * shape[1]
    memory = cuda.alloc_pinned_memory(size * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, size).reshape(shape)
