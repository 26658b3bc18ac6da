"""The buffers of a step for one batch size."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from bpengine.backends import Array, Backend, Operation
from bpengine.backprop.dropout import Dropout
from bpengine.model.activations import Activation
from bpengine.model.packed_examples import PARTS, in_stack
from bpengine.model.parameters import padded

__all__ = ["Workspace", "example_bytes"]


class Workspace:
    """Activations, weighted inputs and errors of one batch.

    An example is a row of memory, ``[x | 1 | 0 | y]``, followed by its weight if examples have weights:
    a shuffled mini-batch is a gather of rows. `extended[0]` and `targets` are transposes.

    Targets or weights that differ between the networks of a stack are adjacent in the row. If inputs
    differ, every network has separate rows, the first network's first.

    Parameters
    ----------
    sizes, activations, batch_size, backend, dtype, stack, dropout, rngs
        As for `Model` and `Network.plan`.
    rows : bool, optional
        Whether to create the rows of examples. Without them, whatever uses the workspace writes z of the
        first layer after the input, and there are no targets and no dropout.
    errors : bool, optional
        Whether to create the buffers of the backward pass.
    per_network : collection of {"inputs", "targets", "weights"}, optional
        The parts that differ between the networks of a stack.
    weighted : bool, optional
        Whether each example has a weight.
    scales : bool, optional
        Whether `scale` differs between the networks of a stack.

    Attributes
    ----------
    batch_size : int
    rows : array of shape (m, K_1 + n_L), or with weights (m, K_1 + n_L + 1)
        The batch: inputs, 1, padding, targets, weight. With per-network inputs (P m, …).
    extended : list of arrays of shape (…, K_l, m)
        ``[a; 1; 0]`` of every layer but the last, the factor of ``[w b 0]`` of the next. The first has
        no leading axis if the networks share their inputs.
    z, a : lists of arrays of shape (…, n_l, m)
        Weighted inputs and activations of the layers after the input; z shares a's memory if the slope
        of a hidden layer follows from a.
    delta : list of arrays of shape (…, n_l, m)
        Errors of the layers after the input.
    targets : array of shape (n_L, m), or (P, n_L, m)
    scale : array of shape (), or (P, 1, 1)
        The factor of the output error: 1/m for the gradient of the average cost.
    example_scale : array of the shape of scale, or (1, m) or (P, 1, m)
        `scale`, times the examples' weights, if any.
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
        rows: bool = True,
        errors: bool = True,
        stack: tuple[int, ...] = (),
        per_network: Collection[str] = (),
        weighted: bool = False,
        dropout: Sequence[float | tuple[float, ...]] = (),
        rngs: Sequence[np.random.Generator] = (),
        scales: bool = False,
    ) -> None:
        m = self.batch_size = batch_size
        self.backend, self.dtype = backend, dtype
        self.extended: list[Array] = [None]
        self.weights: Array | None = None
        if rows:
            self._create_rows(sizes, stack, per_network, weighted)
        shapes = [(*stack, m, sizes[0]), *((*stack, n, m) for n in sizes[1:-1])]
        self.dropout = Dropout(dropout, shapes, rngs, backend, dtype)
        if 0 in self.dropout:
            # another array, as a batch must not change
            left = backend.empty((*stack, m, padded(sizes[0] + 1, backend, dtype)), dtype)
            left[..., sizes[0] :] = 0.0
            left[..., sizes[0]] = 1.0
            self.extended[0] = left.mT
        one_product = stack and "inputs" not in per_network and 0 not in self.dropout
        self.z: list[Array] = []
        self.a: list[Array] = []
        for l, (n, σ) in enumerate(zip(sizes[1:-1], activations, strict=False), 1):
            extended = backend.empty((*stack, padded(n + 1, backend, dtype), m), dtype)
            extended[..., n:, :] = 0.0
            extended[..., n, :] = 1.0
            self.extended.append(extended)
            # a separate array for dropout, as the slope needs a
            whole = extended[..., :n, :]
            self.a.append(backend.empty(whole.shape, dtype) if l in self.dropout else whole)
            # one product for all networks writes a contiguous z
            keeps_z = σ.of == "z" or (l == 1 and one_product)
            self.z.append(backend.empty((*stack, n, m), dtype) if keeps_z else self.a[-1])
        # costs are exact only from z
        self.z.append(backend.empty((*stack, sizes[-1], m), dtype))
        self.a.append(backend.empty((*stack, sizes[-1], m), dtype))
        self.delta: list[Array] = (
            [backend.empty((*stack, n, m), dtype) for n in sizes[1:]] if errors else []
        )
        self.scale = backend.empty((*stack, 1, 1) if scales else (), dtype)
        self.scale[...] = 1 / m
        self.example_scale = self.scale
        if weighted:
            scales = scales or (self.weights is not None and self.weights.ndim > 2)
            self.example_scale = backend.empty((*stack, 1, m) if scales else (1, m), dtype)

    def _create_rows(
        self, sizes: Sequence[int], stack: tuple[int, ...], per_network: Collection[str], weighted: bool
    ) -> None:
        m, backend, dtype = self.batch_size, self.backend, self.dtype
        x_stack, y_stack, weights_stack = (stack if part in per_network else () for part in PARTS)
        if x_stack:  # separate rows for each network
            y_stack = weights_stack = ()
        width = padded(sizes[0] + 1, backend, dtype)
        end = width + sizes[-1] * math.prod(y_stack)
        rows = backend.empty((*x_stack, m, end + weighted * math.prod(weights_stack)), dtype)
        self.rows = backend.xp.reshape(rows, (-1, rows.shape[-1]), copy=False) if x_stack else rows
        x = rows[..., :width]
        x[..., sizes[0] :] = 0.0
        x[..., sizes[0]] = 1.0
        self.inputs: Array = x[..., : sizes[0]]
        self.extended = [x.mT]
        self.targets: Array = in_stack(rows[..., width:end], y_stack)
        self.weights = in_stack(rows[..., end:], weights_stack) if weighted else None

    def fill(self, X: Array, Y: Array | None = None, weights: Array | None = None) -> None:
        """Write checked examples to the rows, whose constants are there."""
        self.inputs[...] = self.backend.asarray(X, self.dtype).mT
        if Y is not None:
            self.targets[...] = self.backend.asarray(Y, self.dtype)
        if self.weights is not None:
            self.weights[..., 0, :] = self.backend.asarray(weights, self.dtype)

    @functools.cached_property
    def bytes(self) -> int:
        """Of the largest buffers."""
        rows = () if self.extended[0] is None else (self.rows,)
        arrays = *rows, *self.extended[1:], *self.z, *self.a, *self.delta
        entries: int = sum(math.prod(x.shape) for x in arrays)
        return entries * np.dtype(self.dtype).itemsize

    def weigh(self) -> Iterator[Operation]:
        """Multiply the scale by the examples' weights, if any."""
        if self.weights is not None:
            inputs = self.weights, self.scale
            yield Operation("weigh", "BP1", _weigh, inputs, self.example_scale)

    def drop(self, l: int) -> Iterator[Operation]:
        """Dropout of layer l, counted from the input, if any."""
        if l in self.dropout:
            a = self.a[l - 1] if l else self.inputs
            x = self.extended[l]
            dropped = x[..., : a.shape[-2], :] if l else x.mT[..., : a.shape[-1]]
            yield from self.dropout.draw(l, a, dropped)


def _weigh(weights: Array, scale: Array) -> Array:
    return weights * scale


def example_bytes(
    sizes: Sequence[int],
    backend: Backend,
    dtype: str,
    dropout: Sequence[float | tuple[float, ...]] = (),
    stack: tuple[int, ...] = (),
) -> int:
    """Maximum bytes of a `Workspace` per example."""
    P = math.prod(stack)
    entries = P * (padded(sizes[0] + 1, backend, dtype) + sizes[-1] + 1)
    for n in sizes[1:]:
        entries += P * (padded(n + 1, backend, dtype) + 2 * n)  # [a; 1], z and δ
    for p, n in zip(dropout, sizes, strict=False):
        entries += 2 * P * (n + 1) if p else 0  # mask and result
    return entries * np.dtype(dtype).itemsize
