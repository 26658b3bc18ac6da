"""Feedforward over many examples in chunks of bounded memory, and what is told from the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bpengine import equations
from bpengine.backends import Array, Program
from bpengine.validation import sample_weights
from bpengine.workspace import Workspace, example_rows, own_parts

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["evaluate", "forward_chunks"]

CHUNK_ELEMENTS = 2**22  # elements of all activations that a prediction holds at a time


def forward_chunks(
    network: Network, X: Array, Y: Array | None = None
) -> Iterator[tuple[slice, Workspace]]:
    """Feed X forward in chunks of bounded memory: the columns of each, and its workspace.

    The workspace holds the chunk's z, a and targets until the next one is asked for.
    """
    m = int(X.shape[-1])
    chunk = max(1, min(m, CHUNK_ELEMENTS // (sum(network.sizes) * math.prod(network.stack))))
    outputs, backend, dtype = network.sizes[-1], network.backend, network.dtype
    own = own_parts(X, X if Y is None else Y, None)
    for start in range(0, m, chunk):
        columns = slice(start, min(m, start + chunk))
        workspace, program = _forward_program(network, columns.stop - columns.start, own)
        y = None if Y is None else Y[..., columns]
        example_rows(X[..., columns], y, outputs, backend, dtype, out=workspace.rows)
        program.run(1)
        yield columns, workspace


def _forward_program(network: Network, m: int, own: tuple[str, ...]) -> tuple[Workspace, Program]:
    """Feedforward for m examples; each thread keeps the one that it used last."""
    kept = network.forward_programs
    parameters, activations, *size = getattr(kept, "made_for", (None, None))
    if (
        parameters is not network.parameters
        or activations is not network.activations
        or size != [m, own]
    ):
        σ, backend = network.activations, network.backend
        workspace = Workspace(
            network.sizes, σ, m, backend, network.dtype, errors=False, stack=network.stack, own=own
        )
        operations = equations.feedforward(network.parameters, σ, workspace)
        kept.program = workspace, backend.compile(operations)
        kept.made_for = network.parameters, σ, m, own
    found: tuple[Workspace, Program] = kept.program
    return found


def evaluate(network: Network, X: Array, Y: Array, sample_weight: Array | None = None) -> dict[str, Any]:
    """Average cost and, where the targets are classes, accuracy; see `Network.evaluate`."""
    backend, m = network.backend, int(X.shape[-1])
    xp = backend.xp
    weights = None
    if sample_weight is not None:
        found = sample_weights(sample_weight, m, backend, stack=network.stack)
        weights = backend.asarray(found, "float64")
    cost: Any = 0.0
    right: Any = 0.0
    for columns, ws in forward_chunks(network, X, Y):
        σ = network.activations[-1]
        with np.errstate(over="ignore", invalid="ignore"):
            values = network.cost.per_example(σ, ws.z[-1], ws.a[-1], ws.targets)
        values = xp.astype(values, xp.float64)
        some = None if weights is None else weights[..., columns]
        cost = cost + backend.figure(xp.sum(values if some is None else values * some, axis=-1))
        wanted = None if right is None else true_classes(xp, ws.targets)
        if right is None or wanted is None:
            right = None
            continue
        hits = xp.astype(classes(xp, ws.a[-1]) == wanted, xp.float64)
        right = right + backend.figure(xp.sum(hits if some is None else hits * some, axis=-1))
    result = {"cost": cost / m + network.penalty.value(network.parameters)}
    if right is not None:
        result["accuracy"] = right / m
    return result


def classes(xp: Any, a: Array) -> Array:
    """The class of each column: the row of the greatest output; with one output, whether it is ≥ ½."""
    return xp.argmax(a, axis=-2) if a.shape[-2] > 1 else a[..., 0, :] >= 0.5


def true_classes(xp: Any, y: Array) -> Array | None:
    """The class that each column of targets stands for, or None where they are not classes."""
    one_hot = xp.all((y == 0) | (y == 1))
    if y.shape[-2] > 1:
        one_hot = one_hot & xp.all(xp.sum(y, axis=-2) == 1)
    return classes(xp, y) if bool(one_hot) else None
