"""The buffers that one batch size needs: made once, written by every step."""

from __future__ import annotations

from collections.abc import Sequence

from bpengine.activations import Activation
from bpengine.backends import Array, Backend
from bpengine.parameters import padded

__all__ = ["Workspace", "example_rows"]


class Workspace:
    """Activations, weighted inputs and errors of one batch.

    An example is one row of memory, ``[x | 1 | 0 | y]``: a shuffled mini-batch is a gather of whole
    rows. Seen from the equations, `extended[0]` and `targets` are its transposes, with examples as
    columns.

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

    Attributes
    ----------
    rows : array of shape (m, K_1 + n_L)
        The batch: inputs, 1, padding, targets.
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
    ) -> None:
        m = batch_size
        width = padded(sizes[0] + 1, backend, dtype)
        self.rows = backend.empty((m, width + sizes[-1]), dtype)
        self.extended: list[Array] = [self.rows[:, :width].mT]
        self.targets: Array = self.rows[:, width:].mT
        self.z: list[Array] = []
        self.a: list[Array] = []
        for n, σ in zip(sizes[1:-1], activations, strict=False):
            extended = backend.empty((*stack, padded(n + 1, backend, dtype), m), dtype)
            extended[..., n:, :] = 0.0
            extended[..., n, :] = 1.0
            self.extended.append(extended)
            self.a.append(extended[..., :n, :])
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


def example_rows(
    X: Array, Y: Array | None, outputs: int, backend: Backend, dtype: str, out: Array | None = None
) -> Array:
    """Examples as the rows ``[x | 1 | 0 | y]`` that a `Workspace` takes: shape (m, K_1 + n_L).

    Without Y the part of the targets keeps any value. `X` has shape (n_1, m), `Y` (n_L, m).
    """
    n, m = X.shape
    width = padded(n + 1, backend, dtype)
    rows = backend.empty((m, width + outputs), dtype) if out is None else out
    rows[:, :n] = backend.asarray(X, dtype).mT
    rows[:, n:width] = 0.0
    rows[:, n] = 1.0
    if Y is not None:
        rows[:, width:] = backend.asarray(Y, dtype).mT
    return rows
