"""The buffers that one batch size needs: made once, written by every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bpengine.activations import Activation
from bpengine.backends import Array, Backend, Operation
from bpengine.parameters import padded
from bpengine.regularization import Dropout

__all__ = ["Workspace", "example_bytes", "example_rows"]


class Workspace:
    """Activations, weighted inputs and errors of one batch.

    An example is one row of memory, ``[x | 1 | 0 | y]``, with its weight as a last entry where
    examples have weights: a shuffled mini-batch is a gather of whole rows. Seen from the equations,
    `extended[0]` and `targets` are its transposes, with examples as columns.

    Parameters
    ----------
    sizes : sequence of int
        Neurons per layer, input first.
    activations : sequence of Activation
        One per layer after the input.
    batch_size : int
        Number of examples, m.
    backend : Backend
    dtype : str
    errors : bool, optional
        Whether to make the buffers of the backward pass too.
    stack : tuple of int, optional
        Leading axes: one network for each index of them. All share the examples.
    weighted : bool, optional
        Whether each example has a weight.
    dropout : sequence of float, optional
        For each layer before the output, the share of activations that a step leaves out.
    rng : numpy.random.Generator, optional
        What draws them.

    Attributes
    ----------
    rows : array of shape (m, K_1 + n_L), or one more where examples have weights
        The batch: inputs, 1, padding, targets, weight.
    extended : list of arrays of shape (…, K_l, m)
        ``[a; 1; 0]`` of every layer but the last: what ``[w b 0]`` of the next is applied to.
    z, a : lists of arrays of shape (…, n_l, m)
        Weighted inputs and activations of the layers after the input; where the slope of a hidden
        layer follows from a, its z shares a's memory.
    delta : list of arrays of shape (…, n_l, m)
        Errors of the layers after the input.
    targets : array of shape (n_L, m)
    scale : array of shape ()
        What the output error is multiplied by: 1/m for the gradient of the average cost.
    example_scale : array of shape () or (1, m)
        `scale`, or where examples have weights, `scale` times the weight of each.
    dropout : Dropout
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activations: Sequence[Activation],
        batch_size: int,
        backend: Backend,
        dtype: str,
        *,
        errors: bool = True,
        stack: tuple[int, ...] = (),
        weighted: bool = False,
        dropout: Sequence[float] = (),
        rng: np.random.Generator | None = None,
    ) -> None:
        m = batch_size
        width = padded(sizes[0] + 1, backend, dtype)
        end = width + sizes[-1]
        self.rows = backend.empty((m, end + weighted), dtype)
        self.inputs: Array = self.rows[:, : sizes[0]]
        self.extended: list[Array] = [self.rows[:, :width].mT]
        self.targets: Array = self.rows[:, width:end].mT
        self.weights: Array | None = self.rows[:, end:].mT if weighted else None
        shapes = [(m, sizes[0]), *((*stack, n, m) for n in sizes[1:-1])]
        self.dropout = Dropout(dropout, shapes, rng or np.random.default_rng(), backend, dtype)
        if 0 in self.dropout:
            # what is left of the inputs is another array: a batch stays as it was loaded
            left = backend.empty((m, width), dtype)
            left[:, sizes[0] :] = 0.0
            left[:, sizes[0]] = 1.0
            self.extended[0] = left.mT
        self.z: list[Array] = []
        self.a: list[Array] = []
        for l, (n, σ) in enumerate(zip(sizes[1:-1], activations, strict=False), 1):
            extended = backend.empty((*stack, padded(n + 1, backend, dtype), m), dtype)
            extended[..., n:, :] = 0.0
            extended[..., n, :] = 1.0
            self.extended.append(extended)
            # what is left of a after dropout is another array: the slope is taken from a itself
            whole = extended[..., :n, :]
            self.a.append(backend.empty(whole.shape, dtype) if l in self.dropout else whole)
            keeps_z = σ.of == "z"
            self.z.append(backend.empty((*stack, n, m), dtype) if keeps_z else self.a[-1])
        # the cost of an output is exact from z alone, so the last layer keeps its z
        self.z.append(backend.empty((*stack, sizes[-1], m), dtype))
        self.a.append(backend.empty((*stack, sizes[-1], m), dtype))
        self.delta: list[Array] = (
            [backend.empty((*stack, n, m), dtype) for n in sizes[1:]] if errors else []
        )
        self.scale = backend.empty((), dtype)
        self.scale[...] = 1 / m
        self.example_scale = backend.empty((1, m), dtype) if weighted else self.scale

    def weigh(self) -> Iterator[Operation]:
        """Where examples have weights: the scale of each."""
        if self.weights is not None:
            inputs = self.weights, self.scale
            yield Operation("weigh", "BP1", _weigh, inputs, self.example_scale)

    def drop(self, l: int) -> Iterator[Operation]:
        """Where layer l, counted from the input, has dropout: leave activations out of ``[a; 1]``."""
        if l in self.dropout:
            a = self.a[l - 1] if l else self.inputs
            x = self.extended[l]
            kept = x[..., : a.shape[-2], :] if l else x.mT[:, : a.shape[-1]]
            yield from self.dropout.draw(l, a, kept)


def _weigh(weights: Array, scale: Array) -> Array:
    return weights * scale


def example_rows(
    X: Array,
    Y: Array | None,
    outputs: int,
    backend: Backend,
    dtype: str,
    out: Array | None = None,
    weights: Array | None = None,
) -> Array:
    """Examples as the rows ``[x | 1 | 0 | y]`` that a `Workspace` takes: shape (m, K_1 + n_L).

    Without Y the part of the targets keeps any value. `X` has shape (n_1, m), `Y` (n_L, m);
    `weights` of shape (m,) make a last entry in each row.
    """
    n, m = X.shape
    width = padded(n + 1, backend, dtype)
    end = width + outputs
    shape = m, end + (weights is not None)
    rows = backend.empty(shape, dtype) if out is None else out
    rows[:, :n] = backend.asarray(X, dtype).mT
    rows[:, n:width] = 0.0
    rows[:, n] = 1.0
    if Y is not None:
        rows[:, width:end] = backend.asarray(Y, dtype).mT
    if weights is not None:
        rows[:, end] = backend.asarray(weights, dtype)
    return rows


def example_bytes(
    sizes: Sequence[int], backend: Backend, dtype: str, dropout: Sequence[float] = ()
) -> int:
    """Bytes that a `Workspace` takes for each example, at most."""
    entries = padded(sizes[0] + 1, backend, dtype) + sizes[-1] + 1
    for n in sizes[1:]:
        entries += padded(n + 1, backend, dtype) + 2 * n  # [a; 1], z and δ
    for p, n in zip(dropout, sizes, strict=False):
        entries += 2 * (n + 1) if p else 0  # the mask, and what is left
    return entries * (8 if dtype == "float64" else 4)
