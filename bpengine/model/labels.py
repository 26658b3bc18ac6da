"""Class labels: one-hot targets, predicted classes, class weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from bpengine.backends import Array, Backend
from bpengine.validation import check_unmasked, choose, non_negative_number, positive_integer, shown

__all__ = ["class_weights", "one_hot"]


def one_hot(labels: ArrayLike, classes: int, dtype: DTypeLike = "float32") -> NDArray[Any]:
    """Turn integer labels into columns with a single 1.

    Parameters
    ----------
    labels : (m,)
        Integers from 0 to classes - 1.
    classes : int
        Number of rows.
    dtype : the result's

    Returns
    -------
    Y : (classes, m)
        1 where the row is the column's label; the transpose of a C-ordered array.

    Raises
    ------
    ValueError
        More or fewer than one axis, or a label that is no integer or out of range.

    Examples
    --------
    >>> one_hot([2, 0], classes=3, dtype=int)
    array([[0, 1],
           [0, 0],
           [1, 0]])
    """
    classes = positive_integer(classes, "classes")
    allowed = f"integers from 0 to {classes - 1}"
    check_unmasked(labels=labels)
    try:
        found = np.asarray(labels)
    except (TypeError, ValueError):
        raise ValueError(f"labels must have one axis, (m,), of {allowed}.") from None
    try:
        kind = np.dtype(dtype).kind
    except (TypeError, ValueError):
        kind = "O"
    if kind not in "biufc":
        raise TypeError(f"dtype must be a type of numbers, such as 'float32', got {shown(dtype)}.")
    if found.ndim != 1:
        raise ValueError(f"labels has shape {found.shape}; expected one axis, (m,), of {allowed}")
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(
            f"labels[0] is {found[0]!s:.60}, of dtype {found.dtype}; expected {allowed}. "
            "Convert with labels.astype(int) if they are whole numbers"
        )
    bad = np.flatnonzero((found < 0) | (found >= classes))
    if bad.size:
        raise ValueError(f"labels[{bad[0]}] is {found[bad[0]]}; expected {allowed}")
    columns = np.zeros((found.size, classes), dtype)
    columns[np.arange(found.size), found.astype(np.int64)] = 1
    return columns.T


def class_weights(
    class_weight: Mapping[int, float] | str | None,
    Y: Array,
    backend: Backend,
    count: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None = None,
) -> np.ndarray[Any, Any] | None:
    """A weight for each example by its class, from targets `Y` of shape (n_L, m).

    `count` sums the class counts over all processes.
    """
    if class_weight is None:
        return None
    if Y.ndim > 2:
        found = [class_weights(class_weight, Y[p, ...], backend, count) for p in range(Y.shape[0])]
        return np.stack([weights for weights in found if weights is not None])
    host = backend.to_numpy(Y) if backend.owns(Y) else Y
    labels = true_classes(np, host)
    if labels is None:
        raise ValueError("class_weight needs classes: integer labels, or columns with a single 1.")
    labels, classes = labels.astype(int), max(len(host), 2)
    if isinstance(class_weight, str):
        choose(class_weight, {"balanced": None}, "class_weight")
        counts = np.bincount(labels, minlength=classes)
        if count is not None:
            counts = count(counts)
        table = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        if not isinstance(class_weight, Mapping):
            raise TypeError(
                "class_weight must be a dict of labels and weights, or 'balanced'; got "
                f"{shown(class_weight)}."
            )
        table = np.ones(classes)
        for label, weight in class_weight.items():
            if label not in range(classes):
                raise ValueError(f"class_weight has label {label!r}; labels are 0 to {classes - 1}.")
            table[int(label)] = non_negative_number(weight, f"class_weight[{label}]")
    return np.asarray(table[labels])


def classes(xp: Any, a: Array) -> Array:
    """The class of each column: the row of the greatest output; with one output, whether it is ≥ ½."""
    return xp.argmax(a, axis=-2) if a.shape[-2] > 1 else a[..., 0, :] >= 0.5


def true_classes(xp: Any, y: Array) -> Array | None:
    """The class that each column of targets stands for, or None where they are not classes."""
    columns = math.prod(y.shape) // y.shape[-2]
    if y.shape[-2] == 1:
        are_classes = xp.count_nonzero((y == 0) | (y == 1)) == columns
    else:  # a 1 in each column, and no other entry
        are_classes = (
            xp.count_nonzero(y) == columns and xp.count_nonzero(xp.max(y, axis=-2) == 1) == columns
        )
    return classes(xp, y) if are_classes else None
