"""Programs: compiled operations that run any number of times, and the batches they run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bpengine.backends.operation import Array

__all__ = ["Batches", "Entries", "Program", "Settings", "SideBySide", "Slices"]


class Slices(Sequence[Array]):
    """An array in slices of the same number of rows.

    Parameters
    ----------
    whole : array
    size : int
        Rows of a slice; the last may have fewer.
    """

    def __init__(self, whole: Array, size: int) -> None:
        self.whole, self.size = whole, size

    def __len__(self) -> int:
        return -(-int(self.whole.shape[0]) // self.size)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        start = i % len(self) * self.size
        return self.whole[start : start + self.size]

    def __iter__(self) -> Iterator[Array]:
        whole, size = self.whole, self.size
        return (whole[i : i + size] for i in range(0, int(whole.shape[0]), size))


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


class SideBySide:
    """NumPy arrays whose rows belong together: in some columns, each at its first.

    Parameters
    ----------
    parts : sequence of (int, NumPy array of shape (N, n))
        The first column of an array, and the array.
    """

    def __init__(self, parts: Sequence[tuple[int, Array]]) -> None:
        self.parts = parts

    def take(self, indices: Array, out: Array) -> None:
        """Write the rows at `indices` to `out`, whose other columns stay."""
        for first, x in self.parts:
            out[:, first : first + x.shape[1]] = x.take(indices, 0)


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
        """Write a step's numbers to where it reads them."""
        for target, value in zip(self.targets, self.values[step].tolist(), strict=True):
            target[...] = value


@dataclass(frozen=True, eq=False, slots=True)
class Batches:
    """Batches for the steps of a program, and where to store the outputs of these.

    Parameters
    ----------
    load : callable
        ``load(batch, rows)`` writes a batch to the rows of the program's workspace.
    batches : sequence
        What `load` takes, one a step.
    rows : array
        The target of `load`.
    output : array
        The array that is stored after each step.
    slots : sequence of arrays
        Where it is stored, one a step.
    examples : array or SideBySide, optional
        Where `load` is a gather: the array whose rows the indices of a batch refer to, or NumPy arrays.
    settings : Settings, optional
        Numbers to set before each step.
    """

    load: Callable[[Any, Array], None]
    batches: Sequence[Any]
    rows: Array
    output: Array
    slots: Sequence[Array]
    examples: Array | SideBySide | None = None
    settings: Settings | None = None

    def same_arrays(self, other: Batches) -> bool:
        """Whether other batches are read from and written to the same arrays."""
        names = "examples", "rows", "output", "slots"
        one, two = (batches.settings and batches.settings.targets for batches in (self, other))
        return one is two and all(getattr(self, name) is getattr(other, name) for name in names)


class Program(Protocol):
    """Compiled operations, which run on the same arrays each time."""

    @property
    def calls(self) -> Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The (function, operands) pairs of one step, in order."""

    def run(self, steps: int) -> None:
        """Run all operations, in order, `steps` times."""

    def run_batches(self, batches: Batches, steps_taken: list[int]) -> None:
        """A step on each of some batches; counts in ``steps_taken[0]`` those that are complete."""

    def forget_batches(self) -> None:
        """Hold no reference to the last batches."""
