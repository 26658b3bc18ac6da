"""Per-example gradients: their norms, the gradients, or their average after clipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import SupportsIndex

from bpengine.backends import Array
from bpengine.backprop import forward
from bpengine.backprop.per_example import AllGradients, ExampleNorms, reduction
from bpengine.backprop.plan import Plan
from bpengine.backprop.reduction import Mean
from bpengine.model.model import Model, check_single
from bpengine.model.parameters import Gradient
from bpengine.validation import positive_integer

__all__ = ["backprop", "chunks", "per_example_gradients"]


def backprop(
    network: Model,
    X: Array,
    Y: Array,
    kind: str | None,
    max_norm: float | None,
    sample_weight: Array | None = None,
) -> Gradient | ExampleNorms:
    """Result of `Network.backprop` with ``per_example=``."""
    X, Y = network.check_examples(X, Y)
    if sample_weight is not None:
        raise ValueError(
            "sample_weight weighs examples in the average gradient; per-example gradients are of C_x, "
            "without weights. Leave it out, or multiply the result by the weights."
        )
    gradient, m = reduction(kind, max_norm), int(X.shape[-1])
    if kind != "norms":
        [(_, plan)] = chunks(network, X, Y, gradient, m)
        return plan.run().gradient
    backend = network.backend
    total = backend.empty((m,), network.dtype)
    layers = backend.empty((len(network.sizes) - 1, m), network.dtype)
    cost = 0.0
    for columns, plan in chunks(network, X, Y, gradient, forward.chunk_size(network)):
        found = plan.run().norms
        total[columns], layers[:, columns] = found.total, found.layers
        cost += found.cost * found.total.shape[0] / m
    return ExampleNorms(total, layers, cost)


def per_example_gradients(
    network: Model, X: Array, Y: Array, *, chunk: SupportsIndex | None = None
) -> Iterator[tuple[slice, Gradient]]:
    """Gradients of ``C_x`` of many examples, in chunks of bounded memory.

    Parameters
    ----------
    network : Network
    X : array of shape (n_1, m)
    Y : array of shape (n_L, m), or m integer labels
        As for `Network.backprop`.
    chunk : int, optional
        Examples at a time; default: as many as make 4 million entries of gradients.

    Yields
    ------
    columns : slice
        The examples.
    gradient : Gradient
        ``.weights[l]`` of shape (examples, n_l, n_{l-1}) and ``.biases[l]`` of shape
        (examples, n_l, 1), in buffers that the next chunk overwrites.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> net = bp.Network([3, 4, 2], rng=0)
    >>> X, Y = np.ones((3, 5)), np.zeros((2, 5))
    >>> for columns, gradient in bp.per_example_gradients(net, X, Y, chunk=2):
    ...     print(columns, gradient.weights[0].shape)
    slice(0, 2, None) (2, 4, 3)
    slice(2, 4, None) (2, 4, 3)
    slice(4, 5, None) (1, 4, 3)
    """
    check_single(network, "per_example_gradients")
    X, Y = network.check_examples(X, Y)
    size = int(network.vector.shape[0])
    most = forward.CHUNK_ELEMENTS // size if chunk is None else positive_integer(chunk, "chunk")
    found = chunks(network, X, Y, AllGradients(), most)
    return ((columns, plan.run().gradient) for columns, plan in found)


def chunks(
    network: Model, X: Array, Y: Array, gradient: Mean, most: int
) -> Iterator[tuple[slice, Plan]]:
    """Loaded plans of at most `most` examples, reused for chunks of the same size."""
    m = int(X.shape[-1])
    chunk = max(1, min(m, most))
    plan = Plan(network, chunk, gradient=gradient)
    for start in range(0, m, chunk):
        columns = slice(start, min(start + chunk, m))
        count = columns.stop - columns.start
        if count != plan.batch_size:
            plan = Plan(network, count, gradient=gradient)
        plan.load(X[:, columns], Y[:, columns])
        yield columns, plan
