"""Feedforward over many examples in chunks of bounded memory; average cost and accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bpengine.backends import Array
from bpengine.backends.array_api import Replay
from bpengine.backprop import equations
from bpengine.backprop.workspace import Workspace
from bpengine.model.examples import sample_weights
from bpengine.model.labels import classes, true_classes
from bpengine.model.model import Model

__all__ = ["evaluate", "feedforward", "forward_chunks", "predict"]

CHUNK_ELEMENTS = 2**22  # of a chunk of many examples


def feedforward(model: Model, X: Array) -> Array:
    """Output activations for every column of X; see `bpengine.Network.feedforward`."""
    X = model.check_inputs(X)
    if X.shape[-1] <= chunk_size(model):
        forward = _run(model, X)
        out = model.backend.xp.asarray(forward.workspace.a[-1], copy=True)
        forward.keep()
        return out
    out = model.backend.empty((*model.stack, model.sizes[-1], X.shape[-1]), model.dtype)
    for columns, workspace in forward_chunks(model, X):
        out[..., columns] = workspace.a[-1]
    return out


def predict(model: Model, X: Array) -> Array:
    """Classes, or outputs of a regression; see `bpengine.Network.predict`."""
    a = feedforward(model, X)
    if not model.accepts_labels:
        return a
    xp = model.backend.xp
    return xp.astype(classes(xp, a), xp.int64)


def chunk_size(model: Model) -> int:
    """The number of examples in a chunk."""
    return max(1, CHUNK_ELEMENTS // (sum(model.sizes) * math.prod(model.stack)))


def forward_chunks(model: Model, X: Array) -> Iterator[tuple[slice, Workspace]]:
    """Feed X forward in chunks; yields the columns of a chunk and its workspace, which is reused."""
    m, chunk = int(X.shape[-1]), chunk_size(model)
    for start in range(0, m, chunk):
        columns = slice(start, min(m, start + chunk))
        forward = _run(model, X if m <= chunk else X[..., columns])
        yield columns, forward.workspace
        forward.keep()


def _run(model: Model, X: Array) -> Forward:
    """Feed X forward by what the last call for this shape used."""
    key = Forward, model.parameters, model.activations, X.shape
    forward: Forward = model.recent.take(key) or Forward(model, X, key)
    forward.run(X)
    return forward


class Forward:
    """Feedforward for arrays of the shape of X, which are read in place."""

    def __init__(self, model: Model, X: Array, key: Any) -> None:
        self._recent, self._key = model.recent, key
        self._backend, self._dtype = backend, dtype = model.backend, model.dtype
        ws = self.workspace = Workspace(
            model.sizes,
            model.activations,
            int(X.shape[-1]),
            backend,
            dtype,
            rows=False,
            errors=False,
            stack=model.stack,
            per_network=("inputs",) if X.ndim > 2 else (),
        )
        self._program = backend.compile(equations.feedforward(model.parameters, model.activations, ws))
        w, b, z = model.weights[0], model.biases[0], ws.z[0]
        if X.ndim < z.ndim:  # one product for all networks of a stack
            w, b, z = (backend.xp.reshape(x, (-1, x.shape[-1]), copy=False) for x in (w, b, z))
        self._first = w, b, z
        self._calls = None
        if isinstance(self._program, Replay) and isinstance(z, np.ndarray):
            self._calls = self._program.calls
            self._calls[:0] = (np.matmul, ()), (np.add, (z, b, z))
            self._program.threads.include(equations.product("feedforward", w, X, z))

    def run(self, X: Array) -> None:
        """Write weighted inputs and activations to the workspace."""
        w, b, z = self._first
        x = self._backend.asarray(X, self._dtype)
        if self._calls is None:
            with np.errstate(all="ignore"):
                z[...] = w @ x + b
        else:
            self._calls[0] = np.matmul, (w, x, z)
        self._program.run(1)

    def keep(self) -> None:
        """Leave it to the next call, without X."""
        if self._calls is not None:
            self._calls[0] = np.matmul, ()
        self._recent.keep(self._key, self, self.workspace.bytes)


def evaluate(network: Model, X: Array, Y: Array, sample_weight: Array | None = None) -> dict[str, Any]:
    """Average cost and, where the targets are classes, accuracy; see `Network.evaluate`."""
    backend, m = network.backend, int(X.shape[-1])
    xp = backend.xp
    weights = None
    if sample_weight is not None:
        found = sample_weights(sample_weight, m, backend, stack=network.stack)
        weights = backend.asarray(found, "float64")

    def total(values: Array, columns: slice) -> Any:
        """The sum over the examples in some columns."""
        if weights is not None:
            values = xp.astype(values, xp.float64) * weights[..., columns]
        return backend.to_float(xp.sum(values, axis=-1, dtype=xp.float64))

    cost: Any = 0.0
    right: Any = 0.0
    for columns, ws in forward_chunks(network, X):
        y = backend.asarray(Y[..., columns], network.dtype)
        with np.errstate(all="ignore"):
            values = network.cost.per_example(network.activations[-1], ws.z[-1], ws.a[-1], y)
        cost = cost + total(values, columns)
        wanted = None if right is None else true_classes(xp, y)
        if wanted is None:
            right = None
        else:
            hits = classes(xp, ws.a[-1]) == wanted
            if weights is None:
                hits = xp.count_nonzero(hits, axis=-1 if network.stack else None)
                right = right + backend.to_float(hits)
            else:
                right = right + total(xp.astype(hits, xp.float64), columns)
    result = {"cost": cost / m + network.penalty.value(network.parameters)}
    if right is not None:
        result["accuracy"] = right / m
    return result
