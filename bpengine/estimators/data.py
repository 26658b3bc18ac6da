"""Training data: checks, and the engine's layout: dense, examples as rows of memory, in one dtype."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from bpengine.backends import Array, NumPyBackend, SideBySide
from bpengine.data.source import Chunk
from bpengine.model.packed_examples import contiguous_columns
from bpengine.model.packed_examples import pack_examples as rows_of_columns
from bpengine.model.parameters import padded
from bpengine.network.network import Network
from bpengine.training.steps import steps_per_readback
from bpengine.validation import host_numbers

__all__ = ["Data", "Examples", "Host", "check_weights", "columns", "pack_examples"]

Host = np.ndarray[Any, Any]
PACKED_BYTES = 2**24  # of X that is copied: up to it, which caches hold, gathers from a copy are faster


class Data(NamedTuple):
    """Checked examples: X (N, n_1), targets (N, n_L), weights (N,) or None."""

    X: Any
    Y: Host
    weights: Host | None

    def take(self, chosen: Any) -> Data:
        """Select examples by index."""
        weights = None if self.weights is None else self.weights[chosen]
        return Data(self.X[chosen], self.Y[chosen], weights)


def check_weights(sample_weight: Any, X: Any) -> Any:
    """Validated weights of the examples X, or None."""
    if sample_weight is None:
        return None
    host_numbers(sample_weight, "sample_weight")
    weights = _check_sample_weight(sample_weight, X)
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError(f"sample_weight must have a finite sum, got {total}. Divide it by its maximum.")
    return weights


def columns(network: Network, X: Any) -> Array:
    """Convert X (N, n), dense or sparse, to columns (n, N) on the network's backend."""
    dense = X.toarray() if hasattr(X, "toarray") else X
    return network.backend.asarray(dense.astype(network.dtype, copy=False), network.dtype).mT


def pack_examples(
    network: Network, X: Any, Y: Host, weights: Host | None, out: Array | None = None
) -> Array:
    """Examples in the row layout of a workspace."""
    X, Y = columns(network, X), columns(network, Y)
    return rows_of_columns(X, Y, network.backend, network.dtype, out=out, weights=weights)


class Examples:
    """Training data prepared once.

    Large X is not copied where its rows are contiguous; sparse X is made dense batch by batch.

    Parameters
    ----------
    network : Network
    data : Data

    Attributes
    ----------
    rows : array, SideBySide or None
        All examples in the row layout of a workspace, or the arrays of its parts; None for sparse X.
    weights : array of shape (N,) or None
        On the host.
    """

    def __init__(self, network: Network, data: Data) -> None:
        self.network = network
        self.rows: Array | SideBySide | None = None
        self.weights = data.weights
        self._data = data
        on_host = isinstance(network.backend, NumPyBackend)
        if hasattr(data.X, "tocsr"):
            self._data = data._replace(X=data.X.tocsr())
        elif on_host and data.X.flags.c_contiguous and data.X.nbytes > PACKED_BYTES:
            self._targets = np.asarray(data.Y, network.dtype)
            self.rows = _side_by_side(network, data._replace(Y=self._targets))
        else:
            self.rows = rows = pack_examples(network, *data)
            end = rows.shape[1] - (data.weights is not None)
            self._targets = contiguous_columns(rows, end - network.sizes[-1], end)

    def chunks(self, order: Host, m: int) -> Iterator[Chunk]:
        """The examples of `order`, m at a time, but for batches without weight."""
        net, weights = self.network, None
        if self.weights is not None:
            batches = order.reshape(-1, m)
            batches = batches[self.weights[batches].sum(axis=1) != 0]
            weights = self.weights[batches]
            weights = weights / weights.mean(axis=1, keepdims=True)
            order = batches.ravel()
        indices: Any = order if self.rows is None else net.backend.asarray(order, "int64")
        steps = steps_per_readback(net, m)
        for start in range(0, len(order) // m, steps):
            stop = min(start + steps, len(order) // m)
            some = indices[start * m : stop * m]
            parts = [some[i : i + m] for i in range(0, (stop - start) * m, m)]
            shares = None if weights is None else net.backend.asarray(weights[start:stop], net.dtype)
            outcomes = partial(self._outcomes, some, m, shares)
            yield Chunk(m, weights is not None, parts, self._load, outcomes, self.rows)

    def _load(self, indices: Any, rows: Array) -> None:
        if self.rows is None:
            pack_examples(self.network, *self._data.take(indices), out=rows)
        elif isinstance(self.rows, SideBySide):
            self.rows.take(indices, rows)
        else:
            self.network.backend.take(self.rows, indices, rows)

    def _outcomes(self, indices: Any, m: int, shares: Array | None) -> tuple[Array, Array | None]:
        net = self.network
        xp, n = net.backend.xp, net.sizes[-1]
        if self.rows is None:
            Y = columns(net, self._data.Y[indices]).mT
        else:
            Y = xp.take(self._targets, indices, axis=0)
        return xp.reshape(Y, (-1, m, n)).mT, shares


def _side_by_side(network: Network, data: Data) -> SideBySide:
    X, Y, weights = data
    width = padded(X.shape[1] + 1, network.backend, network.dtype)
    parts = [(0, X), (width, Y)]
    if weights is not None:
        parts.append((width + Y.shape[1], np.asarray(weights, network.dtype)[:, None]))
    return SideBySide(parts)
