"""NumPy's PCG64 advanced by many numbers at once, after a device has drawn them.

References
----------
M. O'Neill, PCG: a family of simple fast space-efficient statistically good algorithms for random number
generation, 2014; F. Brown, Random number generation with arbitrary strides, 1994.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["advance", "packed_state"]

A = (2549297995355413924 << 64) | 4865540595714422341
MASK128, MASK64 = (1 << 128) - 1, (1 << 64) - 1


def packed_state(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """The state of a PCG64: (high, low) of x and of c, whether half an output is left, and that half."""
    state: Any = rng.bit_generator.state
    x, c = state["state"]["state"], state["state"]["inc"]
    half = state["has_uint32"], state["uinteger"]
    return np.array([x >> 64, x & MASK64, c >> 64, c & MASK64, *half], np.uint64)


def advance(rng: np.random.Generator, count: int, halves: bool) -> None:
    """Skip `count` uniform numbers, of 32 random bits (`halves`) or of 64."""
    if not count:
        return
    state: Any = rng.bit_generator.state
    steps = count
    if halves:
        left = count - state["has_uint32"]
        steps = (left + 1) // 2
        state["has_uint32"] = left % 2
    if steps:
        x = _after(state["state"]["state"], state["state"]["inc"], steps)
        state["state"]["state"] = x
        if halves:
            state["uinteger"] = _output(x) >> 32
    rng.bit_generator.state = state


def _after(x: int, c: int, steps: int) -> int:
    """A^k x + c (A^k - 1) / (A - 1), by squaring."""
    a, times, plus = A, 1, 0
    while steps:
        if steps & 1:
            times, plus = times * a & MASK128, (plus * a + c) & MASK128
        c, a = (a + 1) * c & MASK128, a * a & MASK128
        steps >>= 1
    return (times * x + plus) & MASK128


def _output(x: int) -> int:
    """The 64 bits that a state gives: its halves xored, and rotated by its highest bits."""
    folded, rotation = (x >> 64) ^ (x & MASK64), x >> 122
    return (folded >> rotation | folded << (64 - rotation)) & MASK64
