"""Poisson sampling of batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from bpengine.backends import Slices
from bpengine.data.resident import InMemory
from bpengine.data.source import Chunk, IndexedSource, Most

__all__ = ["Poisson", "Spent"]


Spent = tuple[float, float, int]  # sampling rate q, noise multiplier σ, steps


class Poisson(InMemory):
    """Batches that include each example independently with the same probability.

    Batches of a chunk are padded to the same size with an example of weight 0.

    Parameters
    ----------
    source : InMemory
        The examples, without weights; its batch size is the expected one.
    dtype : str
    rng : numpy.random.Generator
    noise_multiplier : float
        σ of the steps.

    Attributes
    ----------
    spent : list of (float, float, int)
        Sampling rate, noise multiplier and number of steps, for privacy accounting. A step counts
        when its batch is drawn.
    """

    def __init__(
        self, source: InMemory, dtype: str, rng: np.random.Generator, noise_multiplier: float
    ) -> None:
        IndexedSource.__init__(self, source.examples, source.batch_size, True)
        self.backend, self.outputs, self.weighted = source.backend, source.outputs, True
        self.stack, self.per_network = source.stack, source.per_network
        self.rng, self.rate = rng, source.batch_size / source.examples
        self.noise_multiplier = noise_multiplier
        self.spent: list[Spent] = []
        N, width = source.rows.shape
        self.rows = self.backend.empty((N + 1, width + 1), dtype)
        self.rows[:N, :width] = source.rows
        self.rows[:N, width] = 1.0
        # padding: inputs of 0, targets of an example, weight 0
        self.rows[N, :] = 0.0
        self.rows[N, width - self.outputs : width] = source.rows[0, width - self.outputs :]

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch of as many steps as there are batches of the expected size."""
        N = self.examples
        sizes = self.rng.binomial(N, self.rate, self.steps)
        step = 0
        while step < self.steps:
            width = self._width(int(sizes[step:].max()))
            some = sizes[step : step + most(step, width)]
            width = self._width(int(some.max()))
            numbers = np.full((len(some), width), N)
            for row, size in zip(numbers, some, strict=True):
                row[:size] = self.rng.choice(N, size, replace=False, shuffle=False)
            indices = self._placed(numbers.ravel())
            load = partial(self.backend.take, self.rows)
            outcomes, total = partial(self._outcomes, indices, width), int(some.sum())
            chunk = Chunk(width, True, Slices(indices, width), load, outcomes, self.rows, total)
            self._spend(len(some))
            yield chunk
            step += len(some)

    def _spend(self, steps: int) -> None:
        now = self.rate, self.noise_multiplier
        if self.spent and self.spent[-1][:2] == now:
            steps += self.spent.pop()[2]
        self.spent.append((*now, steps))

    def _width(self, size: int) -> int:
        """The padded size: a multiple of √m, so that few plans are needed."""
        grain = max(1, math.isqrt(self.batch_size))
        return max(1, -(-size // grain)) * grain
