"""Checks of what a checkpoint holds, whose file may come from anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpengine.model.files import plain

__all__ = ["count", "numbers", "same_generator"]

# NumPy's generators index buffers by positions that their setters do not check
NUMPY = {"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
BOUNDS = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}


def numbers(
    value: Any,
    name: str,
    shape: tuple[int, ...] | None = (),
    bounds: tuple[float, float] | None = None,
    whole: bool = False,
) -> Any:
    """A number, or an array of float64 or int64 from nested lists of numbers.

    With `shape` None any shape is allowed, without `bounds` any number and NaN. Raises ValueError for
    anything else.
    """
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError):  # lists of different lengths
        found = np.asarray("")
    kinds, dtype = ("i", "int64") if whole else ("if", "float64")
    fits = found.dtype.kind in kinds and shape in (None, found.shape)
    if not fits or (bounds and not ((found >= bounds[0]) & (found <= bounds[1])).all()):
        what = "whole number" if whole else "number"
        shaped = f"{what}s of shape {shape}" if shape else f"a {what}"
        limits = f" from {bounds[0]:g} to {bounds[1]:g}" if bounds else ""
        raise ValueError(f"its {name} is {value!r:.60}, expected {shaped}{limits}")
    found = found.astype(dtype)
    return found if found.ndim else found.item()


def count(value: Any, name: str) -> int:
    """A whole number from 0 to those that are exact in float64."""
    found: int = numbers(value, name, bounds=(0, 2**53), whole=True)
    return found


def same_generator(rng: np.random.Generator, state: Any) -> np.random.BitGenerator:
    """A bit generator of the class of rng's, in a stored state.

    Raises ValueError for a state of another class, or of none.
    """
    kind: Any = type(rng.bit_generator)
    generator: np.random.BitGenerator = kind()
    expected, found = kind.__name__, state["bit_generator"]
    if found != expected:
        raise ValueError(f"it is of a training with random numbers from {found!s:.60}, not {expected}")
    generator.state = state
    whole = plain(generator.state)
    positions = {**whole, **whole["state"]} if expected in NUMPY else {}
    within = all(0 <= positions.get(name, 0) <= most for name, most in BOUNDS.items())
    if not within or whole != plain(state):
        raise ValueError(f"its random state is none of {expected}")
    return generator
