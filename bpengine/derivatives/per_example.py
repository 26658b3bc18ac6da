"""Gradients of single examples: their norms, themselves, or their average after clipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import SupportsIndex

from bpengine.backends import Array
from bpengine.backprop.per_example_plan import ExampleNorms, PerExamplePlan, given
from bpengine.model.model import Model, check_single
from bpengine.model.parameters import Gradient
from bpengine.validation import positive_integer

__all__ = ["backprop", "chunks", "per_example_gradients"]

CHUNK_ELEMENTS = 2**22  # of all activations that are held at a time


def backprop(
    network: Model,
    X: Array,
    Y: Array,
    kind: str | None,
    max_norm: float | None,
    sample_weight: Array | None = None,
) -> Gradient | ExampleNorms:
    """What `Network.backprop` gives with ``per_example=``; X and Y are checked."""
    if sample_weight is not None:
        raise ValueError(
            "sample_weight weighs examples in the average gradient; per-example gradients are of C_x, "
            "without weights. Leave it out, or multiply what comes back by the weights."
        )
    kind, m = given(kind), int(X.shape[1])
    if kind != "norms":
        plan = PerExamplePlan(network, m, kind, max_norm)
        plan.load(X, Y)
        return plan.run().gradient
    backend = network.backend
    total = backend.empty((m,), network.dtype)
    layers = backend.empty((len(network.sizes) - 1, m), network.dtype)
    cost = 0.0
    for columns, plan in chunks(network, X, Y, "norms", CHUNK_ELEMENTS // sum(network.sizes), max_norm):
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
        Examples at a time; where not given, as many as make 4 million entries of gradients.

    Yields
    ------
    columns : slice
        Which examples.
    gradient : Gradient
        ``.weights[l]`` of shape (examples, n_l, n_{l-1}) and ``.biases[l]`` of shape
        (examples, n_l, 1); their buffers are those of the next chunk, too.

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
    parameters = int(network.vector.shape[0])
    most = CHUNK_ELEMENTS // parameters if chunk is None else positive_integer(chunk, "chunk")
    return ((columns, plan.run().gradient) for columns, plan in chunks(network, X, Y, "gradients", most))


def chunks(
    network: Model, X: Array, Y: Array, kind: str, most: int, max_norm: float | None = None
) -> Iterator[tuple[slice, PerExamplePlan]]:
    """Plans that hold `most` examples or fewer, loaded; the same one where the size is."""
    m = int(X.shape[1])
    chunk = max(1, min(m, most))
    plan = PerExamplePlan(network, chunk, kind, max_norm)
    for start in range(0, m, chunk):
        columns = slice(start, min(m, start + chunk))
        count = columns.stop - columns.start
        if count != plan.batch_size:
            plan = PerExamplePlan(network, count, kind, max_norm)
        plan.load(X[:, columns], Y[:, columns])
        yield columns, plan
