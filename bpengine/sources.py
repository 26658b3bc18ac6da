"""Where training takes its examples from: arrays, memory maps, batches of the user's own."""

from __future__ import annotations

import copy
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bpengine.backends import Array, Backend, Slices
from bpengine.parameters import padded
from bpengine.validation import sample_weights
from bpengine.workspace import example_rows, in_stack, own_parts

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["Chunk", "Indexed", "Mapped", "Resident", "Source", "Stream", "Tail"]

MAPPED_BYTES = 2**28  # a memory map above this is read as it is needed
STREAM_ELEMENTS = 2**22  # inputs of streamed batches that are held at a time

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
    own: tuple[str, ...] = ()


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

    def of(self, numbers: np.ndarray[Any, Any]) -> Source:
        """The same examples for some networks of a stack."""
        return self


class Indexed(Source):
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


class Resident(Indexed):
    """Examples prepared once as rows ``[x | 1 | 0 | y]``: a batch is a gather of whole rows."""

    def __init__(
        self,
        network: Network,
        X: Array,
        Y: Array,
        weights: Array | None,
        batch_size: int,
        shuffle: bool | int,
    ) -> None:
        super().__init__(int(X.shape[1]), batch_size, shuffle)
        self.backend, self.outputs, self.stack = network.backend, network.sizes[-1], network.stack
        self.weighted = weights is not None
        self.own = own_parts(X, Y, weights) if self.stack else ()
        self.rows = example_rows(
            X, network.smoothed(Y), self.outputs, network.backend, network.dtype, weights=weights
        )

    def of(self, numbers: np.ndarray[Any, Any]) -> Resident:
        """The same examples for some networks of the stack, in the order that is drawn for all."""
        if not self.own:
            return self
        some = copy.copy(self)
        some.stack = (len(numbers),)
        P, n = self.stack[0], self.outputs
        weights = self.weighted * (P if "weights" in self.own else 1)
        start = self.rows.shape[1] - weights - n * (P if "targets" in self.own else 1)
        parts = [np.arange(start)]
        targets = np.arange(start, self.rows.shape[1] - weights)
        parts.append(targets.reshape(-1, n)[numbers].ravel() if "targets" in self.own else targets)
        last = np.arange(self.rows.shape[1] - weights, self.rows.shape[1])
        parts.append(last[numbers] if "weights" in self.own else last)
        columns = self.backend.asarray(np.concatenate(parts), "int64")
        some.rows = self.backend.xp.take(self.rows, columns, axis=1)
        return some

    def _placed(self, numbers: np.ndarray[Any, Any]) -> Array:
        return self.backend.asarray(numbers, "int64")

    def chunk(self, indices: Array, m: int) -> Chunk:
        """Steps on the examples of these numbers, m at a time."""
        load = partial(self.backend.take, self.rows)
        outcomes = partial(self._outcomes, indices, m)
        batches = Slices(indices, m)
        return Chunk(m, self.weighted, batches, load, outcomes, self.rows, own=self.own)

    def _outcomes(self, indices: Array, m: int) -> tuple[Array, Array | None]:
        xp = self.backend.xp
        tail = Tail(self.outputs, self.weighted, self.stack, self.own)
        rows = xp.take(self.rows[:, self.rows.shape[1] - tail.width :], indices, axis=0)
        return tail.outcomes(xp.reshape(rows, (-1, m, rows.shape[1])))


class Mapped(Indexed):
    """Examples of a memory map, read when their step comes.

    Parameters
    ----------
    network : Network
    X : array of shape (n_1, …)
        The map.
    Y, weights : arrays of shape (n_L, N) and (N,)
    batch_size, shuffle
        As for `Network.fit`.
    columns : array of shape (N,), optional
        Which of the map's columns are the examples; all where not given.
    """

    def __init__(
        self,
        network: Network,
        X: Array,
        Y: Array,
        weights: Array | None,
        batch_size: int,
        shuffle: bool | int,
        columns: np.ndarray[Any, Any] | None = None,
    ) -> None:
        super().__init__(int(Y.shape[1]), batch_size, shuffle)
        self.network, self.weights, self.columns = network, weights, columns
        self.x = X.T
        self.y = (network.backend.to_numpy(Y) if network.backend.owns(Y) else Y).T

    @staticmethod
    def is_meant(X: Array) -> bool:
        """Whether X is a memory map too large to be copied into memory."""
        return isinstance(X, np.memmap) and X.nbytes > MAPPED_BYTES

    def chunk(self, indices: Array, m: int) -> Chunk:
        """Steps on the examples of these numbers, m at a time."""
        load = partial(self.write, self.network.backend)
        outcomes = partial(self._outcomes, indices, m)
        return Chunk(m, self.weights is not None, Slices(indices, m), load, outcomes)

    def write(self, backend: Backend, indices: Array, rows: Array) -> None:
        """Write the rows of some examples into an array of `backend`."""
        network = self.network
        columns = indices if self.columns is None else self.columns[indices]
        x = self.x[columns]
        bad = ~np.isfinite(x).all(axis=1)
        if bad.any():
            raise ValueError(
                f"X has a value that is NaN or infinite in column {columns[bad.argmax()]}; all must be "
                "finite."
            )
        y = network.smoothed(self.y[indices].T)
        if backend is not network.backend and network.backend.owns(y):
            y = network.backend.to_numpy(y)
        weights = None if self.weights is None else self.weights[indices]
        outputs = network.sizes[-1]
        example_rows(x.T, y, outputs, backend, network.dtype, out=rows, weights=weights)

    def _outcomes(self, indices: Array, m: int) -> tuple[Array, Array | None]:
        network = self.network
        shared = (1,) * len(network.stack)
        y = self.y[indices].reshape(-1, *shared, m, network.sizes[-1]).swapaxes(-1, -2)
        as_array = partial(network.backend.asarray, dtype=network.dtype)
        weights = None
        if self.weights is not None:
            weights = as_array(self.weights[indices].reshape(-1, *shared, m))
        return as_array(network.smoothed(y)), weights


class Stream(Source):
    """Batches as an iterable gives them, in its own order: (X, Y) or (X, Y, sample_weight)."""

    def __init__(self, network: Network, batches: Iterable[tuple[Array, ...]]) -> None:
        self.network, self.batches = network, batches
        self.examples = None
        self.steps = operator.length_hint(batches) or None

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch."""
        step = 0
        held: list[Array] = []
        for number, batch in enumerate(self.batches):
            rows = self._rows(batch, number)
            if held and held[0].shape != rows.shape:
                yield self._chunk(held)
                step, held = step + len(held), []
            held.append(rows)
            m, width = rows.shape
            if len(held) >= min(most(step, m), max(1, STREAM_ELEMENTS // (m * width))):
                yield self._chunk(held)
                step, held = step + len(held), []
        if held:
            yield self._chunk(held)
        elif not step:
            raise ValueError("X gave no batch: an iterable of batches (X, Y) must hold 1 or more.")

    def _rows(self, batch: Any, number: int) -> Array:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            what = type(batch).__name__
            what += f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise TypeError(f"batch {number} of X is {what}; expected (X, Y) or (X, Y, sample_weight).")
        net = self.network
        names = f"batch {number}: X", f"batch {number}: Y"
        X, Y = net.check_examples(batch[0], batch[1], names)
        if own_parts(X, Y, None):
            raise ValueError(
                f"batch {number} of X has examples for each network; those of a stack share the "
                "batches of an iterable. Give X and Y as arrays for that."
            )
        weights = None
        if len(batch) == 3:
            name = f"batch {number}: sample_weight"
            weights = sample_weights(batch[2], int(X.shape[1]), net.backend, name, relative=False)
        return example_rows(X, net.smoothed(Y), net.sizes[-1], net.backend, net.dtype, weights=weights)

    def _chunk(self, held: list[Array]) -> Chunk:
        m, width = held[0].shape
        net = self.network
        weighted = width > padded(net.sizes[0] + 1, net.backend, net.dtype) + net.sizes[-1]
        xp, tail = net.backend.xp, Tail(net.sizes[-1], weighted, net.stack)
        return Chunk(m, weighted, held, _copy, lambda: tail.outcomes(xp.stack(held)))


def _copy(batch: Array, rows: Array) -> None:
    rows[...] = batch


class Tail:
    """Where targets and weights are at the end of rows of examples.

    Parameters
    ----------
    outputs : int
    weighted : bool
    stack : tuple of int
    own : sequence of str
        Whose targets and weights there are as many of as networks.
    """

    def __init__(
        self, outputs: int, weighted: bool, stack: tuple[int, ...], own: Sequence[str] = ()
    ) -> None:
        self._targets, self._weights = (
            stack and (stack if part in own else (1,)) for part in ("targets", "weights")
        )
        self._outputs = outputs * math.prod(self._targets)
        self._weighted = weighted * math.prod(self._weights)
        self.width = self._outputs + self._weighted

    def outcomes(self, rows: Array) -> tuple[Array, Array | None]:
        """Targets and weights out of rows (steps, m, …), as `Chunk.outcomes` gives them."""
        end = rows.shape[-1] - self._weighted
        y = in_stack(rows[..., end - self._outputs : end], self._targets)
        weights = in_stack(rows[..., end:], self._weights)[..., 0, :] if self._weighted else None
        return y, weights
