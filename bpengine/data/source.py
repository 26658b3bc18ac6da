"""Base classes of sources of examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpengine.backends import Array, SideBySide

__all__ = ["Chunk", "IndexedSource", "Source"]

Most = Callable[[int, int], int]


@dataclass(frozen=True)
class Chunk:
    """Consecutive steps of the same batch size.

    Attributes
    ----------
    size : int
        Examples a step.
    weighted : bool
        Whether they have weights.
    batches : sequence
        What `load` takes, one a step.
    load : callable
        ``load(batch, rows)`` writes a batch into the rows of a workspace.
    outcomes : callable
        Returns the targets (steps, n_L, size) and the weights (steps, size), or None, of all batches.
        In a stack the second axis is that of networks, of length 1 where shared.
    examples : array or SideBySide, optional
        Where `load` is a gather: the array whose rows a batch indexes, or NumPy arrays.
    total : int, optional
        Number of examples without padding, which has weight 0.
    per_network : tuple of str
        What is per-network in a stack.
    """

    size: int
    weighted: bool
    batches: Sequence[Any]
    load: Callable[[Any, Array], None]
    outcomes: Callable[[], tuple[Array, Array | None]]
    examples: Array | SideBySide | None = None
    total: int | None = None
    per_network: tuple[str, ...] = ()


class Source(ABC):
    """Examples in an order that is new in each epoch.

    Attributes
    ----------
    examples, steps, batch_size : int or None
        Examples and steps of an epoch, and examples a step, if known.
    """

    examples: int | None
    steps: int | None
    batch_size: int | None = None

    @abstractmethod
    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch, in chunks of at most ``most(step, size)`` steps."""

    def for_networks(self, numbers: np.ndarray[Any, Any]) -> Source:
        """The source for some networks of the stack."""
        return self


class IndexedSource(Source):
    """Examples that can be indexed."""

    def __init__(self, examples: int, batch_size: int, shuffle: bool | int) -> None:
        self.examples: int = examples
        self.batch_size: int = batch_size
        self.shuffle = shuffle
        self.steps: int = -(-examples // batch_size)

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch."""
        for indices, m in self._parts(self._placed(self._order(rng)), most):
            yield self.chunk(indices, m)

    def in_order(self, most: int) -> list[Chunk]:
        """All examples in order, in chunks of a single step on at most `most` examples."""
        numbers = [np.arange(i, min(i + most, self.examples)) for i in range(0, self.examples, most)]
        return [self.chunk(self._placed(some), len(some)) for some in numbers]

    def _order(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        N = self.examples
        if self.shuffle is True:
            return rng.permutation(N)
        if self.shuffle is False:
            return np.arange(N)
        # windows in random order, shuffled within; the last is padded, and the padding dropped
        count = -(-N // self.shuffle)
        windows = rng.permuted(np.arange(count * self.shuffle).reshape(count, -1), axis=1)
        order = windows[rng.permutation(count)].ravel()
        return order[order < N]

    def _parts(self, order: Array, most: Most) -> Iterator[tuple[Array, int]]:
        """Indices of each chunk, and examples a step."""
        m, step = self.batch_size, 0
        full = self.examples // m
        while step < full:
            steps = min(most(step, m), full - step)
            yield order[..., step * m : (step + steps) * m], m
            step += steps
        if self.examples % m:
            yield order[..., full * m :], self.examples % m

    def _placed(self, numbers: np.ndarray[Any, Any]) -> Array:
        """Indices as `chunk` takes them."""
        return numbers

    @abstractmethod
    def chunk(self, indices: Array, m: int) -> Chunk:
        """Steps on the examples at `indices`, m at a time."""
