"""Normal random numbers on the host: the noise of private training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend
from bpengine.backends.operation import NOISE_BLOCK

__all__ = ["Noise"]


class Noise:
    """Draws normal numbers from a NumPy generator: a seed gives the same on every backend.

    In float32 by the method of Box and Muller on 32-bit integers, whose logarithms, roots and sines
    NumPy takes many at a time: several times as fast as the generator's own method, which goes from
    number to number. None is above 6.8 standard deviations, where of 10¹¹ normal ones about one is.
    In float64 by the generator's own method.

    Parameters
    ----------
    rng : numpy.random.Generator
    backend : Backend
    dtype : str

    References
    ----------
    G. Box and M. Muller, A note on the generation of random normal deviates, Annals of Mathematical
    Statistics 29, 1958.
    """

    def __init__(self, rng: np.random.Generator, backend: Backend, dtype: str) -> None:
        self.rng, self.backend, self.dtype = rng, backend, dtype
        self._radius, self._angle = np.empty((2, NOISE_BLOCK // 2), "float32")

    def fill(self, out: np.ndarray[Any, Any], strength: Any) -> None:
        """Normal numbers of standard deviation `strength` into `out`, of one axis, at most a block."""
        if out.dtype != np.float32:
            self.rng.standard_normal(None, np.float64, out)
            np.multiply(out, strength, out)
            return
        half = (out.size + 1) // 2
        bits = self.rng.integers(0, 2**64 - 1, half, np.uint64, endpoint=True).view(np.uint32)
        r, φ = self._radius[:half], self._angle[:half]
        # r = strength √(-2 log u), u from 2⁻³³ to 1
        np.copyto(r, bits[:half], casting="unsafe")
        np.add(r, HALF, r)
        np.multiply(r, UNIT, r)
        np.log(r, r)
        np.multiply(r, MINUS_TWO, r)
        np.sqrt(r, r)
        np.multiply(r, strength, r)
        # φ from -π to π
        np.copyto(φ, bits[half:].view(np.int32), casting="unsafe")
        np.multiply(φ, TURN, φ)
        first, second = out[:half], out[half:]
        np.cos(φ, first)
        np.multiply(first, r, first)
        rest = second.size
        np.sin(φ[:rest], second)
        np.multiply(second, r[:rest], second)

    def __call__(self, g: Array, strength: Array) -> Array:
        """``g + strength · noise``."""
        noise = np.empty(math.prod(g.shape), self.dtype)
        host = np.asarray(self.backend.to_numpy(strength))
        for start in range(0, noise.size, NOISE_BLOCK):
            self.fill(noise[start : start + NOISE_BLOCK], host)
        return g + self.backend.asarray(noise.reshape(g.shape), self.dtype)


HALF, UNIT, MINUS_TWO, TURN = (np.float32(x) for x in (0.5, 2.0**-32, -2.0, math.pi * 2.0**-31))
