"""Feedforward over many examples in chunks of bounded memory; average cost and accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bpengine.backends import Array, Program
from bpengine.backprop import equations
from bpengine.backprop.workspace import Workspace
from bpengine.model.examples import sample_weights
from bpengine.model.labels import classes, true_classes
from bpengine.model.model import Model
from bpengine.model.packed_examples import pack_examples, per_network_parts

__all__ = ["evaluate", "feedforward", "forward_chunks", "predict"]

CHUNK_ELEMENTS = 2**22  # of a chunk of many examples


def feedforward(model: Model, X: Array) -> Array:
    """Output activations for every column of X; see `bpengine.Network.feedforward`."""
    X = model.check_inputs(X)
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


def forward_chunks(
    network: Model, X: Array, Y: Array | None = None
) -> Iterator[tuple[slice, Workspace]]:
    """Feed X forward in chunks; yields the columns of a chunk and its workspace, which is reused."""
    m = int(X.shape[-1])
    chunk = min(m, chunk_size(network))
    outputs, backend, dtype = network.sizes[-1], network.backend, network.dtype
    per_network = per_network_parts(X, X if Y is None else Y, None)
    for start in range(0, m, chunk):
        columns = slice(start, min(m, start + chunk))
        workspace, program = _forward_program(network, columns.stop - columns.start, per_network)
        y = None if Y is None else Y[..., columns]
        pack_examples(X[..., columns], y, outputs, backend, dtype, out=workspace.rows)
        program.run(1)
        yield columns, workspace


def _forward_program(network: Model, m: int, per_network: tuple[str, ...]) -> tuple[Workspace, Program]:
    """Feedforward for m examples; every thread caches its last program."""
    cache, σ = network.forward_programs, network.activations
    key = network.parameters, σ, m, per_network
    if getattr(cache, "key", None) != key:
        sizes, backend, dtype, stack = network.sizes, network.backend, network.dtype, network.stack
        workspace = Workspace(
            sizes, σ, m, backend, dtype, errors=False, stack=stack, per_network=per_network
        )
        operations = equations.feedforward(network.parameters, σ, workspace)
        cache.program, cache.key = (workspace, backend.compile(operations)), key
    found: tuple[Workspace, Program] = cache.program
    return found


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
        values = xp.astype(values, xp.float64)
        values = values if weights is None else values * weights[..., columns]
        return backend.to_float(xp.sum(values, axis=-1))

    cost: Any = 0.0
    right: Any = 0.0
    for columns, ws in forward_chunks(network, X, Y):
        with np.errstate(all="ignore"):
            values = network.cost.per_example(network.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
        cost = cost + total(values, columns)
        wanted = None if right is None else true_classes(xp, ws.targets)
        right = None if wanted is None else right + total(classes(xp, ws.a[-1]) == wanted, columns)
    result = {"cost": cost / m + network.penalty.value(network.parameters)}
    if right is not None:
        result["accuracy"] = right / m
    return result
