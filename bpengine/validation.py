"""Validation of arguments: names, sizes, numbers, dtypes."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import DTypeLike

__all__ = [
    "check_count",
    "check_entries",
    "check_function",
    "check_instance",
    "check_unmasked",
    "choose",
    "convert_fields",
    "did_you_mean",
    "file_path",
    "finite_number",
    "flag",
    "fraction",
    "generator",
    "host_numbers",
    "indices",
    "interval",
    "layer_sizes",
    "non_negative_number",
    "optional",
    "pair",
    "positive_integer",
    "positive_number",
    "shown",
    "whole_number",
]

T = TypeVar("T")

LARGEST = 2**63 - 1  # of an array's size

FIGURES = {
    "loss": "cost",
    "loss_curve": "cost",
    "val_loss": "validation_cost",
    "validation_loss": "validation_cost",
    "accuracy": "validation_accuracy",
    "val_accuracy": "validation_accuracy",
    "val_acc": "validation_accuracy",
    "lr": "learning_rate",
}
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
        "he": "he_normal",
        "xavier": "glorot_uniform",
        "xavier_uniform": "glorot_uniform",
        "xavier_normal": "glorot_normal",
        "kaiming": "he_normal",
        "kaiming_uniform": "he_uniform",
        "kaiming_normal": "he_normal",
        "normal": "gaussian",
    },
    "entry": FIGURES,
    "monitor": FIGURES,
}


def choose(name: object, table: Mapping[str, T], kind: str) -> T:
    """The entry of `table` under `name`; the error suggests the nearest name."""
    if isinstance(name, str) and name in table:
        return table[name]
    if not isinstance(name, str):
        objects = {"activation": " or a bpengine.Activation", "cost": " or a bpengine.Cost"}
        raise TypeError(
            f"{kind} must be a name{objects.get(kind, '')}, got {type(name).__name__} {name!r:.80}. "
            f"Names: {', '.join(table)}."
        )
    hint = did_you_mean(name, table, VALUES.get(kind, {}))
    raise ValueError(f"unknown {kind} {name!r:.80}.{hint} Known: {', '.join(table)}.")


def did_you_mean(name: str, names: Collection[str], elsewhere: Mapping[str, str]) -> str:
    """A hint at the one of `names` that `name` may stand for, here or in other libraries."""
    plain = name.lower().replace(" ", "_")
    here = elsewhere.get(plain, "")
    if here in names:
        return f" Here it is {here!r}."
    near = difflib.get_close_matches(plain, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def dtype_name(dtype: DTypeLike) -> str:
    """The name of a dtype, "float32" or "float64"."""
    try:
        # NumPy would take None and arrays
        name = np.dtype(dtype).name if isinstance(dtype, (str, type, np.dtype)) else str(dtype)
    except (TypeError, ValueError):
        name = str(dtype)
    return choose(name, {"float32": "float32", "float64": "float64"}, "dtype")


def layer_sizes(sizes: Sequence[SupportsIndex]) -> tuple[int, ...]:
    """The sizes as ints: two layers or more, each of one neuron or more."""
    try:
        checked = tuple(operator.index(n) for n in sizes)
    except TypeError:
        raise TypeError(
            f"sizes must be a sequence of whole numbers such as [784, 100, 10], got {shown(sizes)}."
        ) from None
    if len(checked) < 2:
        raise ValueError(
            f"sizes must name 2 layers or more, input and output among them; got {list(checked)}."
        )
    if min(checked) < 1:
        raise ValueError(f"sizes must be 1 or more in every layer, got {list(checked)}.")
    if sum((n + 1) * after for n, after in pairwise(checked)) > LARGEST // 8:
        raise ValueError(f"sizes make more parameters than memory can hold, got {shown(sizes)}.")
    return checked


def positive_integer(value: SupportsIndex, name: str) -> int:
    """`value` as an int of at least 1."""
    checked = whole_number(value, name)
    if checked < 1:
        raise ValueError(f"{name} must be 1 or more, got {checked}.")
    return checked


def whole_number(value: SupportsIndex, name: str) -> int:
    """`value` as an int of 64 bits."""
    try:
        checked = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {shown(value)}.") from None
    if abs(checked) > LARGEST:
        raise ValueError(f"{name} must be at most 2⁶³ - 1, got {shown(value)}.")
    return checked


def _number(value: Any, name: str) -> float:
    if isinstance(value, (np.ndarray, np.generic)):
        real = value.dtype.kind in "biuf" and not np.ma.is_masked(value)
    else:
        real = isinstance(value, numbers.Real) or not isinstance(value, (numbers.Number, str, bytes))
    shape: tuple[int, ...] = getattr(value, "shape", ())
    if not real or not hasattr(value, "__float__") or shape:
        raise TypeError(f"{name} must be a number, got {shown(value)}.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {shown(value)}.") from None
    except OverflowError:
        raise ValueError(f"{name} must be a number that float64 holds, got {shown(value)}.") from None


def finite_number(value: float, name: str) -> float:
    """`value` as a finite float."""
    checked = _number(value, name)
    if not math.isfinite(checked):
        raise ValueError(f"{name} must be finite, got {checked}.")
    return checked


def positive_number(value: float, name: str) -> float:
    """`value` as a finite float above 0."""
    checked = _number(value, name)
    if not 0 < checked < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {checked}.")
    return checked


def pair(value: Any, name: str) -> tuple[int, int]:
    """`value` as two ints."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be two whole numbers, got {shown(value)}.")
    return whole_number(value[0], f"{name}[0]"), whole_number(value[1], f"{name}[1]")


def interval(value: Any, name: str) -> tuple[float, float]:
    """`value` as its two ends, the lower first; they may be infinite."""
    ends = host_numbers(value, name)
    if ends.shape != (2,) or not ends[0] <= ends[1]:
        raise ValueError(f"{name} must be two numbers, the lower first, got {shown(value)}.")
    return float(ends[0]), float(ends[1])


def indices(values: Any, count: int, name: str) -> np.ndarray[Any, Any]:
    """`values` as an array of whole numbers from 0 to below `count`."""
    try:
        checked = np.asarray(values)
    except ValueError:
        raise TypeError(f"{name} must be whole numbers on one axis, got nested lists.") from None
    if checked.ndim != 1 or checked.dtype.kind not in "iu":
        came = f"shape {checked.shape} of {checked.dtype}"
        raise TypeError(f"{name} must be whole numbers on one axis, got {came}.")
    wrong = checked[(checked < 0) | (checked >= count)]
    if wrong.size:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {wrong[0]}.")
    return checked


def flag(value: object, name: str) -> bool:
    """`value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}.")
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
        listed = value if hasattr(value, "tolist") else np.asarray(value)  # masked numbers are None
        return check_entries(listed.tolist(), check, name)
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


def shown(value: object) -> str:
    """The repr of a wrong value in short, and its type unless that is evident."""
    kind = type(value)
    try:
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(value).split()))
    except Exception:  # of an object that is not ours, or of an int of more digits than Python writes
        return kind.__name__
    text = text if len(text) <= 80 else text[:79] + "…"
    evident = value is None or kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set)
    return text if evident else f"{kind.__name__} {text}"


def check_instance(value: object, kind: type, name: str, expected: str) -> None:
    """Raise TypeError unless `value` is of the class `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {expected}, got {shown(value)}.")


def check_function(value: object, name: str, example: str) -> None:
    """Raise TypeError unless `value` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, such as {example}, got {shown(value)}.")


def file_path(value: Any, name: str) -> Path:
    """`value` as the path of a file or folder."""
    try:
        text = os.fsdecode(value)
        os.fsencode(text)
    except TypeError:
        raise TypeError(f"{name} must be a path, got {shown(value)}.") from None
    except UnicodeError:
        text = ""
    if not text or "\0" in text:
        raise ValueError(f"{name} must be a path, got {shown(value)}.")
    return Path(text)


def host_numbers(values: Any, name: str) -> np.ndarray[Any, Any]:
    """`values` of a sequence or of an array as a float64 NumPy array."""
    check_unmasked(**{name: values})
    try:
        array = np.asarray(values)
        of_objects = array.dtype.kind == "O" and all(isinstance(x, numbers.Real) for x in array.flat)
        if of_objects or array.dtype.kind in "biuf":
            with np.errstate(over="ignore"):  # of longdouble
                return array.astype("float64")
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError of other devices
        pass
    raise TypeError(f"{name} must be numbers, got {shown(values)}.")


def check_unmasked(**arrays: Any) -> None:
    """Raise ValueError if an array of `np.ma`, or one within lists, has masked values."""
    for name, values in arrays.items():
        masked = _masked(values)
        if masked:
            raise ValueError(
                f"{name} has {masked} masked value{'s' * (masked > 1)}; remove those examples, or fill "
                f"the values in, as {name}.filled(0) does."
            )


def _masked(values: Any) -> int:
    if isinstance(values, (list, tuple)):
        return sum(_masked(x) for x in values if not isinstance(x, (float, int)))
    return int(np.ma.getmaskarray(values).sum()) if isinstance(values, np.ma.MaskedArray) else 0


def generator(rng: Any) -> np.random.Generator:
    """The random generator of a seed, or the generator itself."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            "rng must be None, a whole number of 0 or more, or a numpy.random.Generator, got "
            f"{shown(rng)}."
        ) from None
