"""Where training takes its examples from: arrays, memory maps, batches of the user's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpengine.backends import Array

__all__ = ["Chunk", "IndexedSource", "Source"]

Most = Callable[[int, int], int]


@dataclass(frozen=True)
class Chunk:
    """Some steps, of as many examples each.

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
        Gives the targets (steps, n_L, size) and the weights (steps, size), or None, of all batches. In
        a stack there is an axis for the networks after that for the steps, of 1 where they share.
    examples : array, optional
        Where `load` is a gather: the array whose rows a batch numbers.
    total : int, optional
        How many examples there are in all, where some of a step's are fillings of weight 0.
    own : tuple of str
        What each network of a stack has for itself.
    """

    size: int
    weighted: bool
    batches: Sequence[Any]
    load: Callable[[Any, Array], None]
    outcomes: Callable[[], tuple[Array, Array | None]]
    examples: Array | None = None
    total: int | None = None
    per_network: tuple[str, ...] = ()


class Source(ABC):
    """Examples in an order that is new in each epoch.

    Attributes
    ----------
    examples, steps, batch_size : int or None
        Of an epoch, and examples a step, where that is known beforehand.
    """

    examples: int | None
    steps: int | None
    batch_size: int | None = None

    @abstractmethod
    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch; a chunk is of ``most(step, size)`` steps or fewer, from that step on."""

    def for_networks(self, numbers: np.ndarray[Any, Any]) -> Source:
        """The same examples for some networks of a stack."""
        return self


class IndexedSource(Source):
    """Examples that can be taken by their numbers."""

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
        """All examples as they are, in chunks of one step on `most` examples or fewer."""
        numbers = [np.arange(i, min(i + most, self.examples)) for i in range(0, self.examples, most)]
        return [self.chunk(self._placed(some), len(some)) for some in numbers]

    def _order(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        N = self.examples
        if self.shuffle is True:
            return rng.permutation(N)
        if self.shuffle is False:
            return np.arange(N)
        # windows in random order, and the examples of each; the last is filled up with none
        count = -(-N // self.shuffle)
        windows = rng.permuted(np.arange(count * self.shuffle).reshape(count, -1), axis=1)
        order = windows[rng.permutation(count)].ravel()
        return order[order < N]

    def _parts(self, order: Array, most: Most) -> Iterator[tuple[Array, int]]:
        """The examples of each chunk's steps, and how many a step."""
        m, step = self.batch_size, 0
        full = self.examples // m
        while step < full:
            steps = min(most(step, m), full - step)
            yield order[..., step * m : (step + steps) * m], m
            step += steps
        if self.examples % m:
            yield order[..., full * m :], self.examples % m

    def _placed(self, numbers: np.ndarray[Any, Any]) -> Array:
        """Numbers as `chunk` takes them."""
        return numbers

    @abstractmethod
    def chunk(self, indices: Array, m: int) -> Chunk:
        """Steps on the examples of these numbers, m at a time."""
