"""Examples of a memory map, read from disk at each step."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend, Slices
from bpengine.data.source import Chunk, IndexedSource
from bpengine.model.model import Model
from bpengine.model.packed_examples import pack_examples

__all__ = ["MemoryMapped"]

MAPPED_BYTES = 2**28  # larger memory maps are not copied into memory


class MemoryMapped(IndexedSource):
    """Examples of a memory map, or of some of its columns, read from disk at each step.

    `Y` and `weights` are those of the columns.
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
        self.network, self.weights, self.columns = network, weights, columns
        self.x = X.T
        self.y = (network.backend.to_numpy(Y) if network.backend.owns(Y) else Y).T

    @staticmethod
    def is_needed(X: Array) -> bool:
        """Whether X is a memory map too large to be copied into memory."""
        return isinstance(X, np.memmap) and X.nbytes > MAPPED_BYTES

    def chunk(self, indices: Array, m: int) -> Chunk:
        """Steps on the examples at `indices`, m at a time."""
        load = partial(self.write, self.network.backend)
        outcomes = partial(self._outcomes, indices, m)
        return Chunk(m, self.weights is not None, Slices(indices, m), load, outcomes)

    def write(self, backend: Backend, indices: Array, rows: Array) -> None:
        """Write examples into packed rows of `backend`."""
        network = self.network
        columns = indices if self.columns is None else self.columns[indices]
        x = self.x[columns]
        bad = ~np.isfinite(x).all(axis=1)
        if bad.any():
            raise ValueError(
                f"X has a value that is NaN or infinite in column {columns[bad.argmax()]}; all must be "
                "finite."
            )
        y = network.smoothed(self.y[indices].T)
        if backend is not network.backend and network.backend.owns(y):
            y = network.backend.to_numpy(y)
        weights = None if self.weights is None else self.weights[indices]
        pack_examples(x.T, y, backend, network.dtype, out=rows, weights=weights)

    def _outcomes(self, indices: Array, m: int) -> tuple[Array, Array | None]:
        network = self.network
        shared = (1,) * len(network.stack)
        y = self.y[indices].reshape(-1, *shared, m, network.sizes[-1]).swapaxes(-1, -2)
        as_array = partial(network.backend.asarray, dtype=network.dtype)
        weights = None
        if self.weights is not None:
            weights = as_array(self.weights[indices].reshape(-1, *shared, m))
        return as_array(network.smoothed(y)), weights
