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
    backend: Backend,
    dtype: str,
    out: Array | None = None,
    weights: Array | None = None,
) -> Array:
    """Examples as the rows ``[x | 1 | 0 | y]`` that a `Workspace` takes: shape (m, K_1 + n_L).

    Without Y there are no targets. `X` has shape (n_1, m), `Y` (n_L, m); `weights` of shape (m,) make a
    last entry in each row. `Y` of shape (P, n_L, m) and `weights` of shape (P, m) are concatenated
    within a row; with `X` of shape (P, n_1, m) there are m rows per network.
    """
    n, m = X.shape[-2:]
    width = end = padded(n + 1, backend, dtype)
    tails = []
    for part in (Y, weights):
        if part is not None:
            x = backend.asarray(part, dtype)
            x = x[..., None, :] if part is weights else x
            x = backend.xp.reshape(x, (-1, m)) if x.ndim > X.ndim else x
            start, end = end, end + x.shape[-2]
            tails.append((x, start, end))
    if out is None:
        out = backend.empty((m if X.ndim == 2 else X.shape[0] * m, end), dtype)
    rows = out if X.ndim == 2 else backend.xp.reshape(out, (-1, m, end), copy=False)
    rows[..., :n] = backend.asarray(X, dtype).mT
    rows[..., n:width] = 0.0
    rows[..., n] = 1.0
    for x, start, end in tails:
        rows[..., start:end] = x.mT
    return out


def contiguous_columns(rows: Array, start: int, stop: int | None = None) -> Array:
    """A copy of some columns, to take rows from: NumPy's `take` copies a strided array as a whole."""
    return array_namespace(rows).asarray(rows[:, start:stop], copy=True)


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
