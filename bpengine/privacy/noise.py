"""Normal noise of private training, drawn on the host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend, Operation
from bpengine.backends.operation import NOISE_BLOCK
from bpengine.backprop.per_example import Clipped
from bpengine.backprop.workspace import Workspace
from bpengine.model.model import Model
from bpengine.model.parameters import Parameters
from bpengine.privacy.dpsgd import DPSGD

__all__ = ["Noise", "Noisy"]


class Noise:
    """Draws normal numbers from a NumPy generator; the same on every backend.

    In float32 by the vectorized Box-Muller transform of 32-bit integers, several times as fast as
    ``rng.standard_normal``; no value exceeds 6.8 standard deviations. In float64 by
    ``rng.standard_normal``.

    References
    ----------
    G. Box and M. Muller, A note on the generation of random normal deviates, Annals of Mathematical
    Statistics 29, 1958.
    """

    def __init__(self, rng: np.random.Generator, backend: Backend, dtype: str) -> None:
        self.rng, self.backend, self.dtype = rng, backend, dtype
        self._radius, self._angle = np.empty((2, NOISE_BLOCK // 2), "float32")

    def fill(self, out: np.ndarray[Any, Any], strength: Any) -> None:
        """Write noise of standard deviation `strength` into `out`, of one axis, at most a block."""
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


class Noisy(Clipped):
    """Average of clipped gradients with noise, for a plan whose optimizer is ``DPSGD.rule``.

    Parameters
    ----------
    optimizer : DPSGD
    rng : numpy.random.Generator
    expected : float, optional
        Expected batch size, which sums are divided by; default: the batch size.
    """

    def __init__(
        self, optimizer: DPSGD, rng: np.random.Generator, expected: float | None = None
    ) -> None:
        super().__init__(optimizer.max_norm)
        self._rng, self._expected = rng, expected
        self._deviation = optimizer.noise_multiplier * optimizer.max_norm
        # plain SGD adds the noise after the update, so that BP3 and BP4 can still be folded into it
        self._last = not optimizer.momentum and optimizer.averaging is None

    def prepare(self, model: Model, workspace: Workspace) -> None:
        """As `Mean.prepare`."""
        super().prepare(model, workspace)
        self.examples = self._expected or self.examples
        self._strength = model.backend.empty((), model.dtype)

    def clipped(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """As `Clipped.clipped`, then noise unless it follows the update."""
        yield from super().clipped(backprop)
        if not self._last:
            yield from self._add_noise(self.average)

    def update(self, update: Iterable[Operation]) -> Iterator[Operation]:
        """The update, then noise if it follows."""
        yield from update
        if self._last:
            yield from self._add_noise(self.model.parameters)

    def scalars(self, factor: Any) -> Iterator[tuple[Array, float]]:
        """As `Mean.scalars`, and the strength of the noise."""
        yield from super().scalars(factor)
        share = factor / self.examples
        yield self._strength, -share * self._deviation if self._last else share * self._deviation

    def _add_noise(self, to: Parameters) -> Iterator[Operation]:
        draw = Noise(self._rng, self.model.backend, self.model.dtype)
        for block, n in zip(to.blocks, self.model.sizes, strict=False):
            x = block[..., : n + 1]  # [w b] without padding
            if self._deviation:
                yield Operation("gaussian noise", "noise", draw, (x, self._strength), x)
