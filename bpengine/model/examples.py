"""Validation of examples, targets and sample weights."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from bpengine.backends import Array, Backend
from bpengine.backends.array_api import library_name
from bpengine.backends.namespace import array_namespace, sum_of_squares
from bpengine.model.labels import one_hot
from bpengine.validation import check_unmasked, host_numbers

__all__ = ["examples", "is_ready", "sample_weights", "targets"]

# greatest sums of squares of numbers that are certainly finite in a dtype
SQUARES = {"float32": float(np.finfo("float32").max) ** 2, "float64": float(np.finfo("float64").max)}


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
    """`X` as a floating array (rows, m), m ≥ 1, finite in `dtype`, which `backend` can convert.

    Integers and bools are converted. With a `stack` (P,) it may be (P, rows, m), per-network inputs.
    Without `read`, as for a memory map, values are neither checked nor converted.
    """
    if read and is_ready(X, rows, dtype):
        return X
    X = _array(X, backend, name)
    expected = f"this network takes {rows} rows, one column an example"
    if stack:
        P = stack[0]
        expected = (
            f"this stack takes ({rows}, m), one column an example, or ({P}, {rows}, m), with "
            "per-network inputs"
        )
    if X.ndim == 1:
        shape = "one example" if X.shape[0] == rows else "no batch"
        hint = "" if X.shape[0] % rows else f" Give it two axes: {name}.reshape({rows}, -1)."
        raise ValueError(f"{name} has shape {tuple(X.shape)}: {shape}; {expected}.{hint}")
    if tuple(X.shape[:-1]) not in {(rows,), (*stack, rows)}:
        hint = f" Did you mean {name}.T?" if X.ndim == 2 and X.shape[1] == rows else ""
        raise ValueError(f"{name} has shape {tuple(X.shape)}; {expected}.{hint}")
    if X.shape[-1] == 0:
        raise ValueError(f"{name} has shape {tuple(X.shape)}: an empty batch; give 1 example or more.")
    X = _floating(X, name, dtype if read else None)
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
    `stack` (P,) targets and labels may have a leading axis of P.
    """
    if is_ready(Y, outputs, dtype) and Y.shape[1] == m:
        return Y
    X_name, name = names
    Y = _array(Y, backend, name)
    per_network_labels = (
        stack and labels and tuple(Y.shape) == (*stack, m) and _is_integer(Y) and not _is_bool(Y)
    )
    if per_network_labels and tuple(Y.shape) == (outputs, m):
        raise ValueError(
            f"{name} has shape {tuple(Y.shape)} and dtype {Y.dtype}: per-network labels or targets of "
            f"all networks. Give targets as floating point: {name}.astype('float32')."
        )
    if per_network_labels or (stack and tuple(Y.shape) == (*stack, outputs, m)):
        checked = [
            targets(Y[p, ...], outputs, m, backend, dtype, labels=labels, names=(X_name, f"{name}[{p}]"))
            for p in range(stack[0])
        ]
        return array_namespace(*checked).stack(checked)
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
                f"{name} has one axis, as labels have, but this network's cost and output layer are "
                f"a regression's: it needs targets of shape ({outputs}, {m}). "
                + (
                    f"bpengine.one_hot(labels, {outputs}) makes them."
                    if outputs > 1
                    else f"Give {name}.reshape(1, -1).astype('float32')."
                )
            )
        host = backend.to_numpy(Y) if backend.owns(Y) else Y
        host = host.astype(np.int64) if host.dtype == bool else host
        classes = max(outputs, 2)
        wrong = np.flatnonzero((host < 0) | (host >= classes))
        if wrong.size:
            raise ValueError(
                f"{name}[{wrong[0]}] is {host[wrong[0]]}; the labels of a network of {outputs} "
                f"output{'s' * (outputs > 1)} must be from 0 to {classes - 1}."
            )
        return one_hot(host, outputs) if outputs > 1 else one_hot(host, 2)[1:]
    if tuple(Y.shape) != (outputs, m):
        hint = f" Did you mean {name}.T?" if tuple(Y.shape) == (m, outputs) else ""
        if stack:
            hint += f" Per-network targets have shape ({stack[0]}, {outputs}, {m})"
            hint += f", labels ({stack[0]}, {m})." if labels else "."
        raise ValueError(
            f"{name} has shape {tuple(Y.shape)}; expected ({outputs}, {m}): one row an output, "
            f"one column an example of {X_name}.{hint}"
        )
    if stack and labels and _is_integer(Y):
        raise TypeError(
            f"{name} has shape {tuple(Y.shape)} and dtype {Y.dtype}; per-network labels have "
            f"shape ({stack[0]}, {m}), and targets are floating point: {name}.astype('float32')."
        )
    Y = _floating(Y, name, dtype)
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

    Without `relative`, they are as given, and may all be 0. With a `stack` (P,) they may have shape
    (P, m).
    """
    if weights is None:
        return np.ones(m)
    check_unmasked(**{name: weights})  # which conversion to the host would lose
    host = host_numbers(backend.to_numpy(weights) if backend.owns(weights) else weights, name)
    if stack and host.shape == (*stack, m):
        arguments = ((w, m, backend, f"{name}[{p}]") for p, w in enumerate(host))
        return np.stack([sample_weights(*one, relative=relative) for one in arguments])
    if host.shape != (m,):
        raise ValueError(
            f"{name} has shape {host.shape}; expected ({m},), a weight for each example of X"
            + (f", or ({stack[0]}, {m}), as many for each network." if stack else ".")
        )
    bad = np.flatnonzero(~(host >= 0) | np.isinf(host))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {host[bad[0]]}; weights must be 0 or more and finite.")
    greatest = float(host.max(initial=0.0))
    if not relative:
        if greatest * m > np.finfo("float32").max:
            raise ValueError(f"{name} has weights up to {greatest:g}, whose sum overflows; scale them.")
        return host
    if greatest == 0:
        raise ValueError(f"{name} is 0 for every example; at least one must count.")
    if not 1e-300 < greatest * m < np.inf:  # the sum would overflow, or the mean lose its digits
        host = host / greatest
    return host / float(host.mean())


def is_ready(x: Array, rows: int, dtype: str) -> bool:
    """Whether x is certainly an array (rows, m) of NumPy's floats that are finite in `dtype`.

    The checks in full take longer than a small network.
    """
    if type(x) is not np.ndarray or x.dtype.char not in "fd" or x.ndim != 2 or len(x) != rows:
        return False
    return x.size > 0 and sum_of_squares(x) <= SQUARES[dtype]


def _array(x: Array, backend: Backend, name: str) -> Array:
    check_unmasked(**{name: x})
    if backend.owns(x):
        if backend.device_of(x) != backend.device:
            raise ValueError(
                f"{name} is on device {backend.device_of(x)}; this network is on {backend.device}. "
                "Move one of them: arrays of two devices can't be mixed."
            )
        return x
    if array_api_compat.is_array_api_obj(x) and not array_api_compat.is_numpy_array(x):
        library = library_name(array_namespace(x))
        raise TypeError(
            f"{name} is an array of {library}; this network's backend is {backend.name!r}. Convert "
            f"{name}, or make the network with that library's backend."
        )
    if hasattr(x, "toarray"):
        raise TypeError(f"{name} is sparse, a {type(x).__name__}; pass {name}.toarray().")
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


def _is_bool(x: Array) -> bool:
    return bool(array_namespace(x).isdtype(x.dtype, "bool"))


def _is_integer(x: Array) -> bool:
    return bool(array_namespace(x).isdtype(x.dtype, ("bool", "integral")))


def _floating(x: Array, name: str, dtype: str | None) -> Array:
    """`x` if it is floating point; integers and bools converted to `dtype`, if there is one."""
    xp = array_namespace(x)
    if xp.isdtype(x.dtype, "real floating"):
        return x
    if dtype is None or not _is_integer(x):
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected floating point (float32 or float64). "
            f"Convert it: {name}.astype('float32')."
        )
    digits = 24 if dtype == "float32" else 53
    if not _is_bool(x) and _exceeds(x, 2**digits):
        advice = ", or make the network with dtype='float64'" if dtype == "float32" else ""
        raise ValueError(
            f"{name} holds integers beyond 2^{digits}, which {dtype} can't represent exactly; "
            f"scale them{advice}."
        )
    return xp.astype(x, getattr(xp, dtype))


def _exceeds(x: Array, most: int) -> bool:
    """Whether integers are beyond ±most."""
    xp = array_namespace(x)
    info = xp.iinfo(x.dtype)
    return info.max > most and bool(xp.any(x > most) or (info.min < 0 and xp.any(x < -most)))


def _finite(x: Array, name: str, dtype: str) -> None:
    xp = array_namespace(x)
    good = xp.isfinite(x)
    what = "NaN or infinite value{s}"
    advice = "all must be finite. Remove those examples or fill the values in"
    most = float(np.finfo(dtype).max)
    if bool(xp.all(good)) and float(xp.finfo(x.dtype).max) > most:
        good = xp.abs(x) <= most
        what, advice = f"value{{s}} beyond what {dtype} holds", "scale them"
        advice += ", or make the network with dtype='float64'" if dtype == "float32" else ""
    if not bool(xp.all(good)):
        bad = xp.any(~good, axis=tuple(range(x.ndim - 1)))
        column = int(xp.argmax(xp.astype(bad, xp.int32)))
        count = int(xp.sum(xp.astype(~good, xp.int64)))
        what = what.format(s="s" if count > 1 else "")
        raise ValueError(f"{name} holds {count} {what}, the first in column {column}; {advice}.")
