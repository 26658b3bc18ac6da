"""Per-network examples, or shared examples in per-network order."""

from __future__ import annotations

import copy
from functools import cached_property, partial
from typing import Any

import numpy as np

from bpengine.backends import Array, Slices
from bpengine.data.source import Chunk, IndexedSource
from bpengine.model.model import Model
from bpengine.model.packed_examples import PARTS, contiguous_columns, pack_examples

__all__ = ["PerNetwork"]


class PerNetwork(IndexedSource):
    """Batches with the rows of the first network, then of the second, …, of a stack of P.

    Inputs, targets and weights may have a leading axis of P; `shuffle` may be "each".
    """

    def __init__(
        self,
        network: Model,
        X: Array,
        Y: Array,
        weights: Array | None,
        batch_size: int,
        shuffle: bool | int | str,
    ) -> None:
        N, P = int(X.shape[-1]), network.stack[0]
        self.per_network_order = isinstance(shuffle, str)
        super().__init__(N, batch_size, True if isinstance(shuffle, str) else shuffle)
        self.backend, self.outputs, self.rngs = network.backend, network.sizes[-1], network.rngs
        self.weighted = weights is not None
        as_rows = partial(pack_examples, backend=self.backend, dtype=network.dtype)
        Y = network.smoothed(Y)
        if X.ndim == 3 or (Y.ndim == 2 and getattr(weights, "ndim", 1) == 1):
            self.heads, self.tails = as_rows(X, Y, weights=weights), None
        else:
            # inputs are stored once; targets and weights, which are small, per network
            self.heads = as_rows(X, None)
            xp, as_array = self.backend.xp, partial(self.backend.asarray, dtype=network.dtype)
            parts = [xp.broadcast_to(as_array(Y), (P, self.outputs, N)).mT]
            if weights is not None:
                parts.append(xp.broadcast_to(as_array(weights), (P, N))[..., None])
            self.tails = xp.reshape(xp.concat(parts, axis=-1), (P * N, -1))
        # first row of each network in heads and tails
        starts = N * np.arange(P)[:, None]
        self.head_starts, self.tail_starts = starts if X.ndim == 3 else 0 * starts, starts

    def for_networks(self, numbers: np.ndarray[Any, Any]) -> PerNetwork:
        """The source for some networks of the stack."""
        some = copy.copy(self)
        some.rngs = [self.rngs[i] for i in numbers]
        some.head_starts, some.tail_starts = self.head_starts[numbers], self.tail_starts[numbers]
        return some

    def _order(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Indices of each network's examples, (P, n)."""
        if self.per_network_order:
            return np.stack([rng.permutation(self.examples) for rng in self.rngs])
        return np.broadcast_to(super()._order(rng), (len(self.rngs), self.examples))

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

    @cached_property
    def _targets(self) -> Array:
        """Targets and weights of the rows."""
        if self.tails is not None:
            return self.tails
        return contiguous_columns(self.heads, self.heads.shape[1] - self.outputs - self.weighted)

    def _outcomes(self, indices: Array, m: int) -> tuple[Array, Array | None]:
        xp, width = self.backend.xp, self.outputs + self.weighted
        rows = xp.take(self._targets, xp.reshape(indices, (-1,)), axis=0)
        rows = xp.reshape(rows, (indices.shape[0], -1, m, width))
        return rows[..., : self.outputs].mT, rows[..., self.outputs] if self.weighted else None
