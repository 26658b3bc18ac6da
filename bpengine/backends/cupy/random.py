"""NumPy's PCG64 advanced by many numbers at once, after a device has drawn them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["advance", "packed_state"]

MASK64 = (1 << 64) - 1


def packed_state(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """The state of a PCG64: (high, low) of x and of c, whether half an output is left, and that half."""
    state: Any = rng.bit_generator.state
    x, c = state["state"]["state"], state["state"]["inc"]
    half = state["has_uint32"], state["uinteger"]
    return np.array([x >> 64, x & MASK64, c >> 64, c & MASK64, *half], np.uint64)


def advance(rng: np.random.Generator, count: int, halves: bool) -> None:
    """Skip `count` uniform numbers, of 32 random bits (`halves`) or of 64."""
    bits: Any = rng.bit_generator
    left, half = bits.state["has_uint32"], bits.state["uinteger"]
    steps = (count - left + 1) // 2 if halves else count
    if steps:
        bits.advance(steps - 1)
        last = bits.random_raw()
    if halves:
        left, half = (count - left) % 2, last >> 32 if steps else half
    bits.state = {**bits.state, "has_uint32": left, "uinteger": half}
