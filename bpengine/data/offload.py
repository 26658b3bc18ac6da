"""Examples that exceed device memory: rows are transferred ahead of their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from bpengine.backends import Array, NumPyBackend, Slices
from bpengine.data.memmap import MemoryMapped
from bpengine.data.source import Chunk, IndexedSource, Most
from bpengine.model.model import Model
from bpengine.model.packed_examples import TargetColumns, pack_examples
from bpengine.model.parameters import padded

__all__ = ["Offloaded", "fits_on_device"]

BUFFER_BYTES = 2**26  # of each transfer buffer
Write = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], Any]  # of examples into rows


class Offloaded(IndexedSource):
    """Examples in host memory, or in columns of a memory map.

    They are transferred while the device computes on the previous part.
    """

    def __init__(
        self,
        network: Model,
        X: Array,
        Y: Array,
        weights: Array | None,
        batch_size: int,
        shuffle: bool | int,
        columns: np.ndarray[Any, Any] | None = None,
    ) -> None:
        super().__init__(int(Y.shape[1]), batch_size, shuffle)
        backend, dtype = network.backend, network.dtype
        self.network, self.backend, self.weighted = network, backend, weights is not None
        self._width, itemsize = _row(network, self.weighted)
        host = NumPyBackend()
        host.alignment = backend.alignment
        X, Y = (backend.to_numpy(x) if backend.owns(x) else x for x in (X, Y))
        if MemoryMapped.is_needed(X):
            mapped = MemoryMapped(network, X, Y, weights, batch_size, shuffle, columns)
            self._write: Write = partial(mapped.write, host)
        else:
            if network.label_smoothing:
                Y = backend.to_numpy(network.smoothed(Y))
            packed = np.empty((self.examples, self._width), dtype)
            pack_examples(X, Y, host, dtype, out=packed, weights=weights)
            self._write = lambda indices, rows: packed.take(indices, 0, rows, "clip")
        self._steps = max(1, BUFFER_BYTES // (self._width * itemsize * batch_size))
        shape = min(self._steps, self.steps) * batch_size, self._width
        self._prefetcher = backend.prefetcher(shape, dtype)
        self._numbers = backend.asarray(np.arange(shape[0]), "int64")

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch; a chunk has at most the steps that fit in a buffer."""

        def limit(step: int, m: int) -> int:
            return min(most(step, m), self._steps)

        pending = None
        try:
            for indices, m in self._parts(self._order(rng), limit):
                previous, pending = pending, (self._send(indices), m)
                if previous is not None:
                    yield self._received(*previous)
            if pending is not None:
                yield self._received(*pending)
        finally:
            self._prefetcher.finish()

    def _send(self, indices: np.ndarray[Any, Any]) -> Any:
        def fill(rows: np.ndarray[Any, Any]) -> int:
            self._write(indices, rows[: len(indices)])
            return len(indices)

        return self._prefetcher.send(fill)

    def _received(self, sending: Any, m: int) -> Chunk:
        rows, count = self._prefetcher.receive(sending)
        load = partial(self.backend.take, rows)
        outcomes = partial(self._outcomes, rows, count, m)
        return Chunk(m, self.weighted, Slices(self._numbers[:count], m), load, outcomes, rows)

    def _outcomes(self, rows: Array, count: int, m: int) -> tuple[Array, Array | None]:
        tail = TargetColumns(self.network.sizes[-1], self.weighted, self.network.stack)
        last = rows[:count, self._width - tail.width :]
        return tail.outcomes(self.backend.xp.reshape(last, (-1, m, tail.width)))

    def chunk(self, indices: Array, m: int) -> Chunk:
        """Steps on the examples at `indices`, m at a time, each read on demand."""

        def read(some: np.ndarray[Any, Any]) -> Array:
            rows = np.empty((len(some), self._width), self.network.dtype)
            self._write(some, rows)
            return self.backend.asarray(rows, self.network.dtype)

        def load(some: np.ndarray[Any, Any], rows: Array) -> None:
            rows[...] = read(some)

        def outcomes() -> tuple[Array, Array | None]:
            return self._outcomes(read(indices), len(indices), m)

        return Chunk(m, self.weighted, Slices(indices, m), load, outcomes)


def fits_on_device(network: Model, examples: int, weighted: bool) -> bool:
    """Whether the packed examples and X fit in the backend's memory."""
    left = network.backend.memory_left()
    width, itemsize = _row(network, weighted)
    return left is None or 2 * examples * width * itemsize <= left


def _row(network: Model, weighted: bool) -> tuple[int, int]:
    """Elements of an example's row, and bytes per element."""
    width = padded(network.sizes[0] + 1, network.backend, network.dtype)
    return width + network.sizes[-1] + weighted, np.dtype(network.dtype).itemsize
