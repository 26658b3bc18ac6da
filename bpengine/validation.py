"""Validation of arguments: names, sizes, numbers, dtypes."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import DTypeLike

__all__ = [
    "check_count",
    "check_entries",
    "choose",
    "convert_fields",
    "did_you_mean",
    "flag",
    "fraction",
    "layer_sizes",
    "non_negative_number",
    "optional",
    "positive_integer",
    "positive_number",
]

T = TypeVar("T")

# names elsewhere, and those here
VALUES = {
    "activation": {
        "silu": "swish",
        "lrelu": "leaky_relu",
        "leakyrelu": "leaky_relu",
        "exp": "exponential",
    },
    "cost": {
        "mse": "quadratic",
        "squared_error": "quadratic",
        "mean_squared_error": "quadratic",
        "mae": "absolute_error",
        "l1": "absolute_error",
        "mean_absolute_error": "absolute_error",
        "smooth_l1": "huber",
        "bce": "binary_cross_entropy",
        "binary_crossentropy": "binary_cross_entropy",
        "log_loss": "softmax_cross_entropy",
        "nll": "softmax_cross_entropy",
        "cross_entropy": "softmax_cross_entropy",
        "categorical_crossentropy": "softmax_cross_entropy",
        "sparse_categorical_crossentropy": "softmax_cross_entropy",
    },
    "initializer": {
        "xavier": "glorot_uniform",
        "xavier_uniform": "glorot_uniform",
        "xavier_normal": "glorot_normal",
        "kaiming": "he_normal",
        "kaiming_uniform": "he_uniform",
        "kaiming_normal": "he_normal",
        "normal": "gaussian",
    },
}


def choose(name: object, table: Mapping[str, T], kind: str) -> T:
    """The entry of `table` under `name`; the error suggests the nearest name."""
    if isinstance(name, str) and name in table:
        return table[name]
    if not isinstance(name, str):
        objects = {"activation": " or a bpengine.Activation", "cost": " or a bpengine.Cost"}
        raise TypeError(
            f"{kind} must be a name{objects.get(kind, '')}, got {type(name).__name__} {name!r}. "
            f"Names: {', '.join(table)}."
        )
    hint = did_you_mean(name, table, VALUES.get(kind, {}))
    raise ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(table)}.")


def did_you_mean(name: str, names: Collection[str], elsewhere: Mapping[str, str]) -> str:
    """A hint at the one of `names` that `name` may stand for, here or in other libraries."""
    here = elsewhere.get(name.lower().replace(" ", "_"), "")
    if here in names:
        return f" Here it is {here!r}."
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def dtype_name(dtype: DTypeLike) -> str:
    """The name of a dtype, "float32" or "float64"."""
    try:
        name = str(dtype) if dtype is None else np.dtype(dtype).name
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
        raise TypeError(f"{name} must be a whole number, got {value!r:.60}.") from None
    if not 1 <= checked < 2**63:
        limit = "1 or more" if checked < 1 else "below 2^63"
        raise ValueError(f"{name} must be {limit}, got {checked!r:.60}.")
    return checked


def positive_number(value: float, name: str) -> float:
    """`value` as a finite float above 0."""
    checked = _number(value, name)
    if not 0 < checked < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {checked}.")
    return checked


def _number(value: Any, name: str) -> float:
    if isinstance(value, (np.ndarray, np.generic)):
        real = value.dtype.kind in "biuf" and value is not np.ma.masked
    else:
        real = isinstance(value, numbers.Real) or not isinstance(value, (numbers.Number, str, bytes))
    shape: tuple[int, ...] = getattr(value, "shape", ())
    if not real or not hasattr(value, "__float__") or shape:
        raise TypeError(f"{name} must be a number, got {value!r:.60}.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r:.60}.") from None
    except OverflowError:
        raise ValueError(f"{name} must be a number that float64 holds, got {value!r:.60}.") from None


def flag(value: object, name: str) -> bool:
    """`value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r:.60}.")
    return bool(value)


def convert_fields(instance: object, **checks: Callable[[Any, str], Any]) -> None:
    """Set the fields of a frozen dataclass to their checked values."""
    for name, check in checks.items():
        object.__setattr__(instance, name, check(getattr(instance, name), name))


def optional(check: Callable[[Any, str], T]) -> Callable[[Any, str], T | None]:
    """A check that lets None be None."""
    return lambda value, name: None if value is None else check(value, name)


def check_entries(
    value: Any, check: Callable[[Any, str], float], name: str
) -> float | tuple[float, ...]:
    """`value` checked, entry by entry if it is a sequence."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(check(entry, f"{name}[{i}]") for i, entry in enumerate(value))
    if len(getattr(value, "shape", ())) == 1:
        return check_entries(np.asarray(value).tolist(), check, name)
    return check(value, name)


def non_negative_number(value: float, name: str) -> float:
    """`value` as a finite float of at least 0."""
    checked = _number(value, name)
    if not 0 <= checked < math.inf:
        raise ValueError(f"{name} must be 0 or more and finite, got {checked}.")
    return checked + 0.0  # without the sign of -0.0


def fraction(value: float, name: str) -> float:
    """`value` as a float from 0 to below 1."""
    checked = non_negative_number(value, name)
    if checked >= 1:
        raise ValueError(f"{name} must be from 0 to below 1, got {checked}.")
    return checked


def check_count(values: Any, stack: tuple[int, ...], name: str) -> None:
    """Raise ValueError unless there is one value, or one for each network of a stack."""
    count = np.shape(values)
    if count and count != stack:
        has = f"a stack of {stack[0]} networks" if stack else "one network"
        raise ValueError(
            f"{name} has {count[0]} values; this is {has}. Give one number, or in a stack one for each."
        )
