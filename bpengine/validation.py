"""What comes from outside, checked once at the door: names, sizes, shapes, dtypes, labels."""

from __future__ import annotations

import difflib
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

import array_api_compat
import numpy as np
from numpy.typing import DTypeLike

from bpengine.backends import Array, Backend
from bpengine.datasets import one_hot

__all__ = [
    "choose",
    "class_weights",
    "each",
    "examples",
    "fraction",
    "layer_sizes",
    "non_negative_number",
    "positive_integer",
    "positive_number",
    "sample_weights",
    "targets",
]

T = TypeVar("T")


def choose(name: object, table: Mapping[str, T], kind: str) -> T:
    """The entry of `table` under `name`; the error for an unknown name gives the nearest."""
    if isinstance(name, str) and name in table:
        return table[name]
    if not isinstance(name, str):
        objects = {"activation": " or a bpengine.Activation", "cost": " or a bpengine.Cost"}
        raise TypeError(
            f"{kind} must be a name{objects.get(kind, '')}, got {type(name).__name__} {name!r}. "
            f"Names: {', '.join(table)}."
        )
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(table)}.")


def dtype_name(dtype: DTypeLike) -> str:
    """The name of a dtype that networks compute in."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    return choose(name, {"float32": "float32", "float64": "float64"}, "dtype")


def layer_sizes(sizes: Sequence[SupportsIndex]) -> tuple[int, ...]:
    """The sizes as ints: two layers or more, each of one neuron or more."""
    try:
        checked = tuple(operator.index(n) for n in sizes)
    except TypeError:
        raise TypeError(
            f"sizes must be a sequence of whole numbers such as [784, 100, 10], got {sizes!r}."
        ) from None
    if len(checked) < 2:
        raise ValueError(
            f"sizes must name 2 layers or more, input and output among them; got {list(checked)}."
        )
    if min(checked) < 1:
        raise ValueError(f"sizes must be 1 or more in every layer, got {list(checked)}.")
    return checked


def positive_integer(value: SupportsIndex, name: str) -> int:
    """`value` as an int of at least 1."""
    try:
        checked = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}.") from None
    if checked < 1:
        raise ValueError(f"{name} must be 1 or more, got {checked}.")
    return checked


def positive_number(value: float, name: str, which: str = "above 0") -> float:
    """`value` as a finite float above 0."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__") or shape:
        raise TypeError(f"{name} must be a number, got {value!r}.")
    checked = float(value)
    if not 0 < checked < float("inf"):
        raise ValueError(f"{name} must be {which} and finite, got {checked}.")
    return checked


def each(value: Any, check: Callable[[Any, str], float], name: str) -> float | tuple[float, ...]:
    """`value` checked; where it is a sequence, such as of one number for each network, each entry."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(check(entry, f"{name}[{i}]") for i, entry in enumerate(value))
    if len(getattr(value, "shape", ())) == 1:
        return each(np.asarray(value).tolist(), check, name)
    return check(value, name)


def non_negative_number(value: float, name: str) -> float:
    """`value` as a finite float of at least 0."""
    zero = isinstance(value, numbers.Number) and not value
    return 0.0 if zero else positive_number(value, name, "0 or more")


def fraction(value: float, name: str) -> float:
    """`value` as a float from 0 to below 1."""
    checked = non_negative_number(value, name)
    if checked >= 1:
        raise ValueError(f"{name} must be from 0 to below 1, got {checked}.")
    return checked


def examples(
    X: Array,
    rows: int,
    backend: Backend,
    dtype: str,
    name: str = "X",
    *,
    read: bool = True,
    stack: tuple[int, ...] = (),
) -> Array:
    """`X` as a floating array (rows, m), m ≥ 1, finite in `dtype`, that `backend` can take in.

    With a `stack` (P,) it may be (P, rows, m) too: other inputs for each network. Without `read`, as
    for a memory map, its values are not looked at.
    """
    X = _array(X, backend, name)
    expected = f"this network takes {rows} rows, one column an example"
    if stack:
        P = stack[0]
        expected = (
            f"this stack takes ({rows}, m), one column an example, or ({P}, {rows}, m), with inputs of "
            "each network's own"
        )
    if X.ndim == 1:
        shape = "one example" if X.shape[0] == rows else "no batch"
        hint = "" if X.shape[0] % rows else f" Give it two axes: {name}.reshape({rows}, -1)."
        raise ValueError(f"{name} has shape {tuple(X.shape)}: {shape}; {expected}.{hint}")
    if X.ndim < 2 or tuple(X.shape[:-1]) not in {(rows,), (*stack, rows)}:
        hint = f" Did you mean {name}.T?" if X.ndim == 2 and X.shape[1] == rows else ""
        raise ValueError(f"{name} has shape {tuple(X.shape)}; {expected}.{hint}")
    if X.shape[-1] == 0:
        raise ValueError(f"{name} has shape {tuple(X.shape)}: an empty batch; give 1 example or more.")
    _floating(X, name)
    if read:
        _finite(X, name, dtype)
    return X


def targets(
    Y: Array,
    outputs: int,
    m: int,
    backend: Backend,
    dtype: str,
    *,
    labels: bool,
    names: tuple[str, str] = ("X", "Y"),
    stack: tuple[int, ...] = (),
) -> Array:
    """`Y` as a floating array (outputs, m); with `labels` allowed, m whole numbers become one-hot.

    One output takes labels 0 and 1 as they are; more outputs take labels 0 … outputs - 1. With a
    `stack` (P,) there may be such an array, or m labels, for each network.
    """
    X_name, name = names
    Y = _array(Y, backend, name)
    each_has_labels = stack and Y.ndim == 2 and tuple(Y.shape) == (*stack, m) and _is_integer(Y)
    if each_has_labels or (stack and Y.ndim == 3 and tuple(Y.shape) == (*stack, outputs, m)):
        checked = [
            targets(Y[p, ...], outputs, m, backend, dtype, labels=labels, names=(X_name, f"{name}[{p}]"))
            for p in range(stack[0])
        ]
        return array_api_compat.array_namespace(*checked).stack(checked)
    if Y.ndim == 1:
        if Y.shape[0] != m:
            raise ValueError(f"{name} has {Y.shape[0]} labels and {X_name} has {m} examples.")
        if not _is_integer(Y):
            raise TypeError(
                f"{name} has shape {tuple(Y.shape)} and dtype {Y.dtype}: one axis is for integer "
                f"labels. Give labels as integers, or targets of shape ({outputs}, {m})."
            )
        if not labels:
            raise ValueError(
                f"{name} has one axis, as labels have, but this network's cost is not a "
                f"classification's: it needs targets of shape ({outputs}, {m}). "
                + (
                    f"bpengine.one_hot(labels, {outputs}) makes them."
                    if outputs > 1
                    else f"Give {name}.reshape(1, -1).astype('float32')."
                )
            )
        host = backend.to_numpy(Y) if backend.owns(Y) else Y
        classes = max(outputs, 2)
        wrong = np.flatnonzero((host < 0) | (host >= classes))
        if wrong.size:
            raise ValueError(
                f"{name}[{wrong[0]}] is {host[wrong[0]]}; the labels of a network of {outputs} "
                f"output{'s' * (outputs > 1)} must be from 0 to {classes - 1}."
            )
        return one_hot(host, outputs) if outputs > 1 else one_hot(host, 2)[1:]
    if Y.ndim != 2 or tuple(Y.shape) != (outputs, m):
        transposed = Y.ndim == 2 and tuple(Y.shape) == (m, outputs)
        hint = f" Did you mean {name}.T?" if transposed else ""
        if stack:
            hint += f" Targets of each network's own have shape ({stack[0]}, {outputs}, {m})"
            hint += f", labels ({stack[0]}, {m})." if labels else "."
        raise ValueError(
            f"{name} has shape {tuple(Y.shape)}; expected ({outputs}, {m}): one row an output, "
            f"one column an example of {X_name}.{hint}"
        )
    if stack and labels and _is_integer(Y):
        raise TypeError(
            f"{name} has shape {tuple(Y.shape)} and dtype {Y.dtype}; labels of each network's own have "
            f"shape ({stack[0]}, {m}), and targets are floating point: {name}.astype('float32')."
        )
    _floating(Y, name)
    _finite(Y, name, dtype)
    return Y


def sample_weights(
    weights: Array | None,
    m: int,
    backend: Backend,
    name: str = "sample_weight",
    *,
    relative: bool = True,
    stack: tuple[int, ...] = (),
) -> np.ndarray[Any, Any]:
    """Weights of m examples on the host, relative to their mean; ones where there are none.

    Without `relative`, they are as given, and may all be 0. With a `stack` (P,) there may be m for each
    network.
    """
    if weights is None:
        return np.ones(m)
    weights = backend.to_numpy(weights) if backend.owns(weights) else weights
    try:
        host = np.asarray(weights, "float64")
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers, one an example, got {weights!r}.") from None
    if stack and host.shape == (*stack, m):
        options: Any = {"relative": relative}
        each_weights = [
            sample_weights(w, m, backend, f"{name}[{p}]", **options) for p, w in enumerate(host)
        ]
        return np.stack(each_weights)
    if host.shape != (m,):
        raise ValueError(
            f"{name} has shape {host.shape}; expected ({m},), a weight for each example of X"
            + (f", or ({stack[0]}, {m}), as many for each network." if stack else ".")
        )
    bad = np.flatnonzero(~(host >= 0) | np.isinf(host))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {host[bad[0]]}; weights must be 0 or more and finite.")
    if not relative:
        return host
    mean = float(host.mean())
    if mean == 0:
        raise ValueError(f"{name} is 0 for every example; at least one must count.")
    return host / mean


def class_weights(
    class_weight: Mapping[int, float] | str | None,
    Y: Array,
    backend: Backend,
    count: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None = None,
) -> np.ndarray[Any, Any] | None:
    """A weight for each example, from those of its class; `Y` holds targets of shape (n_L, m).

    Where there are more examples elsewhere, `count` makes the counts of all classes from those here.
    """
    if class_weight is None:
        return None
    if Y.ndim > 2:
        found = [class_weights(class_weight, Y[p, ...], backend, count) for p in range(Y.shape[0])]
        return np.stack([weights for weights in found if weights is not None])
    host = backend.to_numpy(Y) if backend.owns(Y) else Y
    labels = host.argmax(axis=0) if len(host) > 1 else (host[0] >= 0.5).astype(int)
    classes = max(len(host), 2)
    if not (((host == 0) | (host == 1)).all() and (len(host) == 1 or (host.sum(axis=0) == 1).all())):
        raise ValueError("class_weight needs classes: integer labels, or columns with a single 1.")
    if isinstance(class_weight, str):
        choose(class_weight, {"balanced": None}, "class_weight")
        counts = np.bincount(labels, minlength=classes)
        if count is not None:
            counts = count(counts)
        table = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        table = np.ones(classes)
        for label, weight in class_weight.items():
            if label not in range(classes):
                raise ValueError(f"class_weight has label {label!r}; labels are 0 to {classes - 1}.")
            table[label] = non_negative_number(weight, f"class_weight[{label}]")
    return np.asarray(table[labels])


def _array(x: Array, backend: Backend, name: str) -> Array:
    if backend.owns(x):
        if backend.device_of(x) != backend.device:
            raise ValueError(
                f"{name} is on device {backend.device_of(x)}; this network is on {backend.device}. "
                "Move one of them: arrays of two devices can't be mixed."
            )
        return x
    if array_api_compat.is_array_api_obj(x) and not array_api_compat.is_numpy_array(x):
        library = array_api_compat.array_namespace(x).__name__.rpartition(".")[2]
        raise TypeError(
            f"{name} is an array of {library}; this network's backend is {backend.name!r}. Convert "
            f"{name}, or make the network with that library's backend."
        )
    try:
        x = np.asanyarray(x) if isinstance(x, np.memmap) else np.asarray(x)
    except ValueError:
        raise ValueError(
            f"{name} can't be made an array; give it every row of the same length, one number for each "
            "example."
        ) from None
    if x.dtype.kind in "OSUVMm":
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected floating point. Every entry must be a number and "
            "every row of the same length."
        )
    return x


def _is_integer(x: Array) -> bool:
    return bool(array_api_compat.array_namespace(x).isdtype(x.dtype, "integral"))


def _floating(x: Array, name: str) -> None:
    if not array_api_compat.array_namespace(x).isdtype(x.dtype, "real floating"):
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected floating point (float32 or float64). "
            f"Convert it: {name}.astype('float32')"
            + (", with / 255 for pixels from 0 to 255." if "int8" in str(x.dtype) else ".")
        )


def _finite(x: Array, name: str, dtype: str) -> None:
    xp = array_api_compat.array_namespace(x)
    good = xp.isfinite(x)
    what = "NaN or infinite; all must be finite. Remove those examples or fill the values in"
    if bool(xp.all(good)) and dtype == "float32" and x.dtype == xp.float64:
        good = xp.abs(x) <= float(np.finfo(dtype).max)
        what = "beyond what float32 holds; scale them, or make the network with dtype='float64'"
    if not bool(xp.all(good)):
        bad = xp.any(~good, axis=tuple(range(x.ndim - 1)))
        column = int(xp.argmax(xp.astype(bad, xp.int32)))
        count = int(xp.sum(xp.astype(~good, xp.int64)))
        raise ValueError(
            f"{name} holds {count} value{'s' * (count > 1)} that {'are' if count > 1 else 'is'}, "
            f"the first in column {column}, {what}."
        )
