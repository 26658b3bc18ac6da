"""Programs: operations made ready to be run again and again, and the batches they run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bpengine.backends.operation import Array

__all__ = ["Batches", "Entries", "Program", "Settings", "Slices"]


class Slices(Sequence[Array]):
    """An array in pieces of as many rows each.

    Parameters
    ----------
    whole : array
    each : int
        Rows of a piece; the last may have fewer.
    """

    def __init__(self, whole: Array, each: int) -> None:
        self.whole, self.each = whole, each

    def __len__(self) -> int:
        return -(-int(self.whole.shape[0]) // self.each)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        start = i % len(self) * self.each
        return self.whole[start : start + self.each]

    def __iter__(self) -> Iterator[Array]:
        whole, each = self.whole, self.each
        return (whole[i : i + each] for i in range(0, int(whole.shape[0]), each))


class Entries(Sequence[Array]):
    """The parts of an array along its first axis.

    Parameters
    ----------
    whole : array
    """

    def __init__(self, whole: Array) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return int(self.whole.shape[0])

    def __getitem__(self, i: Any) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self.whole[i, ...]

    def __iter__(self) -> Iterator[Array]:
        whole = self.whole
        return (whole[i, ...] for i in range(int(whole.shape[0])))


@dataclass(frozen=True, eq=False, slots=True)
class Settings:
    """Numbers that differ from step to step, such as the learning rate.

    Parameters
    ----------
    targets : sequence of arrays of shape ()
        Where a step reads them.
    values : NumPy array of shape (steps, len(targets))
    """

    targets: Sequence[Array]
    values: np.ndarray[Any, Any]

    def set(self, step: int) -> None:
        """Write the numbers of a step where it reads them."""
        for target, value in zip(self.targets, self.values[step].tolist(), strict=True):
            target[...] = value


@dataclass(frozen=True, eq=False, slots=True)
class Batches:
    """Batches for the steps of a program, and where to keep what each step has put out.

    Parameters
    ----------
    load : callable
        ``load(batch, rows)`` writes a batch into the rows of the program's workspace.
    batches : sequence
        What `load` takes, one a step.
    rows : array
        Where batches go.
    output : array
        What is kept of each step.
    slots : sequence of arrays
        Where it is kept, one a step.
    examples : array, optional
        Where `load` is a gather: the array whose rows ``batch`` numbers.
    settings : Settings, optional
        Numbers to set before each step.
    """

    load: Callable[[Any, Array], None]
    batches: Sequence[Any]
    rows: Array
    output: Array
    slots: Sequence[Array]
    examples: Array | None = None
    settings: Settings | None = None


class Program(Protocol):
    """Operations made ready to be run again and again on the same arrays."""

    @property
    def calls(self) -> Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The (function, operands) pairs of one step, in order."""

    def run(self, steps: int) -> None:
        """Run all operations, in order, `steps` times."""

    def run_batches(self, batches: Batches, taken: list[int]) -> None:
        """A step on each of some batches; counts in ``taken[0]`` those that are complete."""
