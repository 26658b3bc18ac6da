"""Examples in memory, packed once as rows."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bpengine.backends import Array, Slices
from bpengine.data.source import Chunk, IndexedSource, Most, Source
from bpengine.model.model import Model
from bpengine.model.packed_examples import (
    PARTS,
    TargetColumns,
    contiguous_columns,
    pack_examples,
    per_network_parts,
)

__all__ = ["InMemory", "SingleBatch"]


class InMemory(IndexedSource):
    """Examples packed once as rows ``[x | 1 | 0 | y]``: a batch is a gather of rows."""

    def __init__(
        self,
        network: Model,
        X: Array,
        Y: Array,
        weights: Array | None,
        batch_size: int,
        shuffle: bool | int,
    ) -> None:
        super().__init__(int(X.shape[1]), batch_size, shuffle)
        self.backend, self.outputs, self.stack = network.backend, network.sizes[-1], network.stack
        self.weighted = weights is not None
        self.per_network = per_network_parts(X, Y, weights) if self.stack else ()
        Y = network.smoothed(Y)
        self.rows = pack_examples(X, Y, network.backend, network.dtype, weights=weights)

    def for_networks(self, numbers: np.ndarray[Any, Any]) -> InMemory:
        """The source for some networks of the stack, in the same order."""
        if not self.per_network:
            return self
        some = copy.copy(self)
        some.stack = (len(numbers),)
        width = int(self.rows.shape[1])
        tail = self._target_columns()
        # the columns of targets and weights, by network
        named = zip(PARTS[1:], tail.outcomes(np.arange(width)[None, None]), strict=True)
        parts = [
            (found[:, numbers] if part in self.per_network else found).ravel()
            for part, found in named
            if found is not None
        ]
        columns = np.concatenate([np.arange(width - tail.width), *parts])
        some.rows = self.backend.xp.take(self.rows, self._placed(columns), axis=1)
        vars(some).pop("_tails", None)
        return some

    def _target_columns(self) -> TargetColumns:
        return TargetColumns(self.outputs, self.weighted, self.stack, self.per_network)

    @functools.cached_property
    def _tails(self) -> Array:
        """Targets and weights of the rows."""
        return contiguous_columns(self.rows, self.rows.shape[1] - self._target_columns().width)

    def _placed(self, numbers: np.ndarray[Any, Any]) -> Array:
        return self.backend.asarray(numbers, "int64")

    def chunk(self, indices: Array, m: int) -> Chunk:
        """Steps on the examples at `indices`, m at a time."""
        load = partial(self.backend.take, self.rows)
        outcomes = partial(self._outcomes, indices, m)
        batches = Slices(indices, m)
        return Chunk(m, self.weighted, batches, load, outcomes, self.rows, per_network=self.per_network)

    def _outcomes(self, indices: Array, m: int) -> tuple[Array, Array | None]:
        xp = self.backend.xp
        rows = xp.take(self._tails, indices, axis=0)
        return self._target_columns().outcomes(xp.reshape(rows, (-1, m, rows.shape[1])))


class SingleBatch(Source):
    """Examples that are one batch, in order."""

    def __init__(self, network: Model, X: Array, Y: Array, weights: Array | None) -> None:
        self.network, self.X, self.Y, self.weights = network, X, network.smoothed(Y), weights
        self.m = self.examples = self.batch_size = int(X.shape[-1])
        self.steps = 1

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """A single step."""
        weighted = self.weights is not None
        yield Chunk(self.m, weighted, [None], self._load, self._outcomes)

    def _load(self, batch: None, rows: Array) -> None:
        net = self.network
        pack_examples(self.X, self.Y, net.backend, net.dtype, out=rows, weights=self.weights)

    def _outcomes(self) -> tuple[Array, Array | None]:
        net = self.network
        arrays = (x if x is None else net.backend.asarray(x, net.dtype) for x in (self.Y, self.weights))
        # axes for the steps, and in a stack for the networks, which share the batch
        y, weights = (x if x is None else x[(*(None,) * (1 + len(net.stack)), ...)] for x in arrays)
        return y, weights
