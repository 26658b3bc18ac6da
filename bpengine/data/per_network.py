"""Per-network examples, or shared examples in per-network order."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np

from bpengine.backends import Array, Slices
from bpengine.backends.namespace import array_namespace
from bpengine.data.source import Chunk, IndexedSource
from bpengine.model.model import Model
from bpengine.model.packed_examples import PARTS, pack_examples

__all__ = ["PerNetwork"]


class PerNetwork(IndexedSource):
    """Batches with the rows of the first network, then of the second, ….

    Parameters
    ----------
    network : Network
        A stack of P networks.
    X : array of shape (n_1, N), or (P, n_1, N)
    Y : array of shape (n_L, N), or (P, n_L, N)
    weights : array of shape (N,), or (P, N), or None
    batch_size : int
        Examples a step, for each network.
    shuffle : bool, int or "each"
        As for `Network.fit`.
    columns : array of shape (P, n), optional
        Examples of each network; all by default.
    """

    def __init__(
        self,
        network: Model,
        X: Array,
        Y: Array,
        weights: Array | None,
        batch_size: int,
        shuffle: bool | int | str,
        columns: np.ndarray[Any, Any] | None = None,
    ) -> None:
        N, P = int(X.shape[-1]), network.stack[0]
        super().__init__(N if columns is None else columns.shape[1], batch_size, shuffle is not False)
        self.per_network_order = shuffle == "each"
        if not self.per_network_order:
            self.shuffle = shuffle  # type: ignore[assignment]
        self.rngs, self.columns = network.rngs, columns
        self.backend, self.outputs = network.backend, network.sizes[-1]
        self.weighted = weights is not None
        as_rows = partial(pack_examples, backend=self.backend, dtype=network.dtype)
        Y = network.smoothed(Y)
        if X.ndim == 3 or (Y.ndim == 2 and getattr(weights, "ndim", 1) == 1):
            self.heads, self.tails = as_rows(X, Y, self.outputs, weights=weights), None
        else:
            # inputs are stored once; targets and weights, which are small, per network
            self.heads = as_rows(X, None, 0)
            as_array = partial(self.backend.asarray, dtype=network.dtype)
            parts = [as_array(self._broadcast(Y, 3, P).mT)]
            if weights is not None:
                parts.append(self._broadcast(as_array(weights), 2, P)[..., None])
            tails = self.backend.xp.concat(parts, axis=-1)
            self.tails = self.backend.xp.reshape(tails, (P * N, -1))
        # first row of each network in heads and tails
        starts = N * np.arange(P)[:, None]
        self.head_starts, self.tail_starts = starts if X.ndim == 3 else 0 * starts, starts

    def _broadcast(self, x: Array, axes: int, P: int) -> Array:
        xp = array_namespace(x)
        return x if x.ndim == axes else xp.broadcast_to(x, (P, *x.shape))

    def for_networks(self, numbers: np.ndarray[Any, Any]) -> PerNetwork:
        """The source for some networks of the stack."""
        some = copy.copy(self)
        some.rngs = [self.rngs[i] for i in numbers]
        some.head_starts, some.tail_starts = self.head_starts[numbers], self.tail_starts[numbers]
        some.columns = None if self.columns is None else self.columns[numbers]
        return some

    def _order(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Indices of each network's examples, (P, n)."""
        if self.per_network_order:
            order = np.stack([rng.permutation(self.examples) for rng in self.rngs])
        else:
            order = np.broadcast_to(super()._order(rng), (len(self.rngs), self.examples))
        return order if self.columns is None else np.take_along_axis(self.columns, order, axis=1)

    def chunk(self, indices: np.ndarray[Any, Any], m: int) -> Chunk:
        """Steps on the examples at `indices` (P, …), m of each network at a time."""
        P = len(self.rngs)
        heads, tails = (
            self.backend.asarray(
                np.moveaxis((indices + starts).reshape(P, -1, m), 0, 1).reshape(-1, P * m), "int64"
            )
            for starts in (self.head_starts, self.tail_starts)
        )
        outcomes = partial(self._outcomes, heads if self.tails is None else tails, m)
        if self.tails is None:
            numbers = Slices(self.backend.xp.reshape(heads, (-1,)), P * m)
            load: Any = partial(self.backend.take, self.heads)
            return Chunk(m, self.weighted, numbers, load, outcomes, self.heads, per_network=PARTS)
        batches = [(heads[i, ...], tails[i, ...]) for i in range(heads.shape[0])]
        return Chunk(m, self.weighted, batches, self._load, outcomes, per_network=PARTS)

    def _load(self, batch: tuple[Array, Array], rows: Array) -> None:
        heads, tails = batch
        width = self.heads.shape[1]
        self.backend.take(self.heads, heads, rows[:, :width])
        self.backend.take(self.tails, tails, rows[:, width:])

    def _outcomes(self, indices: Array, m: int) -> tuple[Array, Array | None]:
        xp, width = self.backend.xp, self.outputs + self.weighted
        table = self.heads[:, self.heads.shape[1] - width :] if self.tails is None else self.tails
        rows = xp.take(table, xp.reshape(indices, (-1,)), axis=0)
        rows = xp.reshape(rows, (indices.shape[0], -1, m, width))
        return rows[..., : self.outputs].mT, rows[..., self.outputs] if self.weighted else None
