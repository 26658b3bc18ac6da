"""Examples packed as rows of memory, [x | 1 | 0 | y | weight]."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bpengine.backends import Array, Backend
from bpengine.backends.namespace import array_namespace
from bpengine.model.parameters import padded

__all__ = [
    "PARTS",
    "TargetColumns",
    "contiguous_columns",
    "in_stack",
    "pack_examples",
    "per_network_parts",
]

PARTS = "inputs", "targets", "weights"  # what may be per-network in a stack


def per_network_parts(X: Array, Y: Array, weights: Array | None) -> tuple[str, ...]:
    """Which of the arrays are per-network, by their number of axes."""
    axes = X.ndim > 2, Y.ndim > 2, len(getattr(weights, "shape", ())) > 1
    return tuple(name for name, per_network in zip(PARTS, axes, strict=True) if per_network)


def in_stack(rows: Array, stack: tuple[int, ...]) -> Array:
    """Rows (…, m, P n) as columns (…, P, n, m), or with no stack (…, m, n) as (…, n, m)."""
    if not stack:
        return rows.mT
    shape = *rows.shape[:-1], *stack, rows.shape[-1] // math.prod(stack)
    xp = array_namespace(rows)
    return xp.moveaxis(xp.reshape(rows, shape), -3, -1)


def pack_examples(
    X: Array,
    Y: Array | None,
    outputs: int,
    backend: Backend,
    dtype: str,
    out: Array | None = None,
    weights: Array | None = None,
) -> Array:
    """Examples as the rows ``[x | 1 | 0 | y]`` that a `Workspace` takes: shape (m, K_1 + n_L).

    Without Y the targets are left unset. `X` has shape (n_1, m), `Y` (n_L, m); `weights` of shape (m,)
    make a last entry in each row. `Y` of shape (P, n_L, m) and `weights` of shape (P, m) are
    concatenated within a row; with `X` of shape (P, n_1, m) there are m rows per network.
    """
    if X.ndim == 3:
        P, n, m = X.shape
        width = padded(n + 1, backend, dtype) + outputs + (weights is not None)
        rows = backend.empty((P * m, width), dtype) if out is None else out
        for p in range(P):
            y = Y[p, ...] if Y is not None and Y.ndim == 3 else Y
            w = weights[p, ...] if weights is not None and weights.ndim == 2 else weights
            part = rows[p * m : (p + 1) * m, :]
            pack_examples(X[p, ...], y, outputs, backend, dtype, out=part, weights=w)
        return rows
    n, m = X.shape
    width = padded(n + 1, backend, dtype)
    y = None if Y is None else _flattened(backend.asarray(Y, dtype), m)
    weight = None if weights is None else _flattened(backend.asarray(weights, dtype), m)
    end = width + (outputs if y is None else y.shape[0])
    if out is None:
        out = backend.empty((m, end + (0 if weight is None else weight.shape[0])), dtype)
    out[:, :n] = backend.asarray(X, dtype).mT
    out[:, n:width] = 0.0
    out[:, n] = 1.0
    if y is not None:
        out[:, width:end] = y.mT
    if weight is not None:
        out[:, end:] = weight.mT
    return out


def contiguous_columns(rows: Array, start: int, stop: int | None = None) -> Array:
    """A copy of some columns, to take rows from: NumPy's `take` copies a strided array as a whole."""
    return array_namespace(rows).asarray(rows[:, start:stop], copy=True)


def _flattened(x: Array, m: int) -> Array:
    return x if x.ndim == 2 else array_namespace(x).reshape(x, (-1, m))


class TargetColumns:
    """The columns of targets and weights, some of them `per_network`, at the end of packed rows."""

    def __init__(
        self, outputs: int, weighted: bool, stack: tuple[int, ...], per_network: Sequence[str] = ()
    ) -> None:
        self._targets, self._weights = (
            stack and (stack if part in per_network else (1,)) for part in ("targets", "weights")
        )
        self._outputs = outputs * math.prod(self._targets)
        self._weighted = weighted * math.prod(self._weights)
        self.width = self._outputs + self._weighted

    def outcomes(self, rows: Array) -> tuple[Array, Array | None]:
        """Targets and weights of rows (steps, m, …), as `Chunk.outcomes` returns them."""
        end = rows.shape[-1] - self._weighted
        y = in_stack(rows[..., end - self._outputs : end], self._targets)
        weights = in_stack(rows[..., end:], self._weights)[..., 0, :] if self._weighted else None
        return y, weights
