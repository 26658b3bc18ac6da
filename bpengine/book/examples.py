"""The book's data, lists of pairs (x, y) of columns, as matrices."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bpengine.backends import Array
from bpengine.model.model import Model
from bpengine.model.packed_examples import pack_examples
from bpengine.model.parameters import padded
from bpengine.validation import shown

__all__ = ["Examples", "no_column"]

CHUNK = 128  # examples converted at a time
SHAPE = operator.attrgetter("shape")


class Examples(list[Any]):
    """Pairs (x, y), and cached matrices of all x and all y.

    x is a column of shape (n, 1); y is a column or a label. Error messages have the `name` of the data.
    """

    def __init__(self, data: Iterable[Any], name: str) -> None:
        try:
            super().__init__(data)
        except TypeError:
            raise TypeError(f"{name} must be a list of pairs (x, y), got {shown(data)}.") from None
        self.name = name
        self._inputs: Array | None = None
        self._targets: Array | None = None
        if set(map(type, self)) <= {tuple, list} and set(map(len, self)) <= {2}:
            return
        for i, pair in enumerate(self):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"{name}[{i}] must be a pair (x, y), got {shown(pair)}.")

    @classmethod
    def of(cls, data: Iterable[Any], name: str) -> Examples:
        """`data` as an instance of this class."""
        return data if isinstance(data, Examples) else cls(data, name)

    def check_not_empty(self) -> None:
        """Raise ValueError if there are no examples."""
        if not self:
            raise ValueError(
                f"{self.name} holds no example. An iterator such as a zip can be read only once: make "
                "it a list."
            )

    def inputs(self, n: int) -> Array:
        """All x as rows: float64 (m, n)."""
        if self._inputs is None:
            columns = self._columns(0, n)
            self._inputs = np.concatenate([_rows(columns[chunk]) for chunk in _chunks(len(self))])
        return self._inputs

    def targets(self, n: int, hint: str) -> Array:
        """All y, given as columns, as rows: float64 (m, n)."""
        if self._targets is None:
            self._targets = _rows(self._columns(1, n, hint))
        return self._targets

    def labels(self, hint: str) -> Array:
        """All y, given as labels: (m,)."""
        self.check_not_empty()
        for i, (_, y) in enumerate(self):
            if not isinstance(y, int) and np.size(y) != 1:
                raise ValueError(
                    f"{self.name}[{i}]: y has shape {_shape(y)}; expected a label, a whole number. "
                    f"{hint}."
                )
        return np.array([y if isinstance(y, int) else np.reshape(y, ()) for _, y in self])

    def targets_of_labels(self, n: int, hint: str) -> Array:
        """One-hot rows of labels from 0 to n - 1: float64 (m, n); for n = 1 the labels 0 and 1."""
        labels, classes = self.labels(hint), max(n, 2)
        bad = np.flatnonzero(~np.isin(labels, np.arange(classes)))
        if bad.size:
            raise ValueError(
                f"{self.name}[{bad[0]}]: y is {labels[bad[0]]}; expected a label from 0 to "
                f"{classes - 1}."
            )
        return np.eye(n)[labels.astype(int)] if n > 1 else labels.reshape(-1, 1).astype("float64")

    def rows(self, network: Model) -> Array:
        """The examples in the row layout of a workspace, ``[x | 1 | 0 | y]``."""
        n, outputs, backend, dtype = network.sizes[0], network.sizes[-1], network.backend, network.dtype
        xs, ys = self._columns(0, n), self._columns(1, outputs, "vectorized_result makes one of a label")
        rows = backend.empty((len(self), padded(n + 1, backend, dtype) + outputs), dtype)
        for chunk in _chunks(len(self)):
            X, Y = _rows(xs[chunk]).T, _rows(ys[chunk]).T
            pack_examples(X, Y, backend, dtype, out=rows[chunk])
        self._inputs, self._targets = rows[:, :n], rows[:, -outputs:]
        return rows

    def _columns(self, which: int, n: int, hint: str = "") -> list[Any]:
        """All x or all y as columns of n numbers; with n = 1, y may be a number."""
        self.check_not_empty()
        columns = [pair[which] for pair in self]
        if which and n == 1:
            columns = [np.reshape(y, (1, 1)) if np.ndim(y) == 0 else y for y in columns]
        if any(type(a) is not np.ndarray for a in columns) or set(map(SHAPE, columns)) != {(n, 1)}:
            for i, a in enumerate(columns):
                if _shape(a) != (n, 1):
                    raise no_column(a, n, f"{self.name}[{i}]: {'xy'[which]}", hint)
        return columns


def no_column(a: Any, n: int, name: str, hint: str = "") -> ValueError:
    """The error for `a`, which is not a column of n numbers."""
    shape = _shape(a)
    if math.prod(shape) == n:
        hint = f"Did you mean its column, .reshape({n}, 1)?"
    elif hint:
        hint = f"{hint}."
    what = f"has shape {shape}" if shape else f"is {a!r:.80}"
    return ValueError(f"{name} {what}; expected a column of shape ({n}, 1). {hint}".rstrip())


def _shape(a: Any) -> tuple[int, ...]:
    """The shape of an array or of nested lists; () where the lists have different lengths."""
    try:
        return np.shape(a)
    except ValueError:
        return ()


def _rows(columns: list[Any]) -> Array:
    return np.concatenate(columns).reshape(len(columns), -1).astype("float64", copy=False)


def _chunks(m: int) -> Iterator[slice]:
    for start in range(0, m, CHUNK):
        yield slice(start, start + CHUNK)
