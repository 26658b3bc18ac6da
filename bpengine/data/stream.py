"""Batches of an iterable."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bpengine.backends import Array
from bpengine.data.source import Chunk, Most, Source
from bpengine.model.examples import sample_weights
from bpengine.model.model import Model
from bpengine.model.packed_examples import TargetColumns, pack_examples, per_network_parts
from bpengine.model.parameters import padded

__all__ = ["BatchStream"]

STREAM_ELEMENTS = 2**22  # of the batches in a chunk


class BatchStream(Source):
    """Batches of an iterable, (X, Y) or (X, Y, sample_weight), in its order."""

    def __init__(self, network: Model, batches: Iterable[tuple[Array, ...]]) -> None:
        self.network, self.batches = network, batches
        self.examples = None
        self.steps = operator.length_hint(batches) or None

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch."""
        step = 0
        held: list[Array] = []
        for number, batch in enumerate(self.batches):
            rows = self._rows(batch, number)
            if held and held[0].shape != rows.shape:
                yield self._chunk(held)
                step, held = step + len(held), []
            held.append(rows)
            m, width = rows.shape
            if len(held) >= min(most(step, m), max(1, STREAM_ELEMENTS // (m * width))):
                yield self._chunk(held)
                step, held = step + len(held), []
        if held:
            yield self._chunk(held)
        elif not step:
            raise ValueError("X gave no batch: an iterable of batches (X, Y) must hold 1 or more.")

    def _rows(self, batch: Any, number: int) -> Array:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            what = type(batch).__name__
            what += f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise TypeError(f"batch {number} of X is {what}; expected (X, Y) or (X, Y, sample_weight).")
        net = self.network
        names = f"batch {number}: X", f"batch {number}: Y"
        X, Y = net.check_examples(batch[0], batch[1], names)
        if per_network_parts(X, Y, None):
            raise ValueError(
                f"batch {number} of X has per-network examples; the networks of a stack share the "
                "batches of an iterable. Give X and Y as arrays for that."
            )
        weights = None
        if len(batch) == 3:
            name = f"batch {number}: sample_weight"
            weights = sample_weights(batch[2], int(X.shape[1]), net.backend, name, relative=False)
        return pack_examples(X, net.smoothed(Y), net.backend, net.dtype, weights=weights)

    def _chunk(self, held: list[Array]) -> Chunk:
        m, width = held[0].shape
        net = self.network
        weighted = width > padded(net.sizes[0] + 1, net.backend, net.dtype) + net.sizes[-1]
        xp, tail = net.backend.xp, TargetColumns(net.sizes[-1], weighted, net.stack)
        return Chunk(m, weighted, held, _copy, lambda: tail.outcomes(xp.stack(held)))


def _copy(batch: Array, rows: Array) -> None:
    rows[...] = batch
