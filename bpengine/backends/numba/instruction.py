"""An operation as an instruction of compiled programs, and the part of it that a thread executes.

An instruction holds addresses only. What it reads and writes follows from them: two threads wait for
each other only where one writes what the other needs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["BARRIER", "FIELDS", "Access", "Instruction", "partition"]

FIELDS = 24  # integers of an instruction
BARRIER = 23  # the field that says whether all threads wait for each other after the instruction
MIN_PART = 16  # numbers of a thread's part where an instruction with one row is split along it
Span = tuple[int, int]  # of bytes: first, and one past the last


@dataclass
class Access:
    """The bytes that parts of instructions read, and those that they write."""

    reads: list[Span] = field(default_factory=list)
    writes: list[Span] = field(default_factory=list)

    def __iadd__(self, other: Access) -> Access:
        for mine, theirs in ((self.reads, other.reads), (self.writes, other.writes)):
            for start, stop in theirs:
                # arrays of a stack's networks follow each other: few spans are enough for all of them
                before = (i for i in range(-1, -1 - min(len(mine), 8), -1) if mine[i][1] == start)
                i = next(before, None)
                if i is None:
                    mine.append((start, stop))
                else:
                    mine[i] = mine[i][0], stop
        return self

    def conflicts(self, other: Access) -> bool:
        """Whether one writes what the other reads or writes."""
        pairs = itertools.chain(
            itertools.product(self.writes, other.writes + other.reads),
            itertools.product(self.reads, other.writes),
        )
        return any(a < d and c < b for (a, b), (c, d) in pairs)


class Instruction(list[int]):
    """The integers of an instruction, and how it can be split.

    Parameters
    ----------
    fields : sequence of int
        The kernel's address and its operands, as the kernel documents them.
    form : {"", "elementwise", "product", "update", "network", "library"}
        The layout of the fields: an elementwise operation, a product of each network, a pass over
        vectors, one network's part of an operation, a product by the library. "" is anything else.
    itemsize : int
        Bytes of a number.
    arrays : sequence of int
        The fields that are addresses of an update's vectors, or of the arrays of a network's part.
    network : (int, int)
        Of a network's part: its index, and the number of networks.
    """

    def __init__(
        self,
        fields: Sequence[int],
        form: str = "",
        itemsize: int = 0,
        arrays: Sequence[int] = (),
        network: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__([*fields, *[0] * (FIELDS - len(fields))])
        self.form, self.itemsize, self.arrays, self.network = form, itemsize, arrays, network

    @property
    def work(self) -> float:
        """Estimated time in nanoseconds."""
        match self.form:
            case "elementwise":
                return 0.3 * self[1] * self[2]
            case "product":
                return self[16] * (30 + 0.03 * self[1] * self[2] * self[3])
            case "update":
                return 0.5 * self[1]
            case "network":
                return 1.0 * self[1] * self[2]
        return 0.0

    def part(self, i: int, threads: int, keep_alive: list[Any]) -> Instruction | None:
        """What thread i of so many executes; None if nothing. New arrays are added to `keep_alive`."""
        match self.form:
            case "elementwise" if self[1] >= threads:
                return self._slice(1, {at: self[at + 1] for at in (3, 6, 9, 12)}, i, threads)
            case "elementwise" if self[1] == 1 and self[2] >= MIN_PART * threads:
                steps = {at: self[at + 2] * self.itemsize for at in (3, 6, 9, 12)}
                return self._slice(2, steps, i, threads)
            case "product" if self[16] >= threads:
                return self._slice(16, {4: self[17], 7: self[18], 10: self[19]}, i, threads, keep_alive)
            case "product" if self[16] == 1 and self[1] >= threads:
                return self._slice(1, {4: self[5], 10: self[11]}, i, threads, keep_alive)
            case "update" if self[1] >= MIN_PART * threads:
                return self._slice(1, dict.fromkeys(self.arrays, self.itemsize), i, threads)
            case "network":
                index, count = self.network
                return self if count * i // threads <= index < count * (i + 1) // threads else None
        return self if i == 0 else None

    def _slice(
        self,
        count: int,
        steps: dict[int, int],
        i: int,
        threads: int,
        keep_alive: list[Any] | None = None,
    ) -> Instruction:
        """The i-th part along the field `count`; addresses advance by so many bytes per unit of it."""
        start, stop = (self[count] * j // threads for j in (i, i + 1))
        part = copy.copy(self)
        part[count] = stop - start
        for at, step in steps.items():
            part[at] += start * step
        if keep_alive is not None and self[20]:  # a thread's scratch array for copies of b
            keep_alive.append(scratch := np.empty(self[3] * self[21], np.uint8))
            part[20] = scratch.ctypes.data
        return part

    def access(self) -> Access:
        """The bytes that it reads and writes; none where the other threads wait for it anyway."""
        size = self.itemsize
        match self.form:
            case "elementwise":
                spans = [
                    _span(self[at], (self[1], self[at + 1]), (self[2], self[at + 2] * size), size=size)
                    for at in (3, 6, 9, 12)
                ]
                return Access(spans[1:], spans[:1])
            case "product":
                _, m, n, k = self[:4]
                a = _span(self[4], (m, self[5]), (k, self[6]), (self[16], self[17]), size=size)
                b = _span(self[7], (k, self[8]), (n, self[9]), (self[16], self[18]), size=size)
                c = _span(self[10], (m, self[11]), (n, size), (self[16], self[19]), size=size)
                return Access([a, b, *((self[at], self[at] + size) for at in (12, 13))], [c])
            case "update":
                scalars = [at for at in range(2, 12) if self[at] and at not in self.arrays]
                return Access(
                    [(self[at], self[at] + 2 * size) for at in scalars],
                    [(self[at], self[at] + self[1] * size) for at in self.arrays],
                )
            case "network":
                return Access(
                    [], [(self[at], self[at] + self[1] * self[2] * size) for at in self.arrays]
                )
        return Access()


def _span(address: int, *axes: tuple[int, int], size: int) -> Span:
    """The bytes of an array: for each axis its length and its stride."""
    offsets = [(n - 1) * stride for n, stride in axes]
    low, high = (sum(f(0, x) for x in offsets) for f in (min, max))
    return address + low, address + high + size


def partition(
    instructions: Sequence[Instruction], threads: int, keep_alive: list[Any]
) -> list[list[Instruction]]:
    """The parts of each instruction for so many threads, with `BARRIER` set where all have to wait."""
    done: list[list[Instruction]] = []
    since = [Access() for _ in range(threads)]  # the last barrier, per thread
    for instruction in instructions:
        alone = instruction.form in ("", "library")
        parts = [instruction.part(i, threads, keep_alive) or Instruction([]) for i in range(threads)]
        accesses = [part.access() for part in parts]
        if any(a.conflicts(b) for a, b in itertools.combinations(accesses, 2)):  # as far as spans show
            parts = [instruction, *(Instruction([]) for _ in range(1, threads))]
            accesses = [part.access() for part in parts]
        pairs = itertools.permutations(range(threads), 2)
        if alone or any(since[i].conflicts(accesses[j]) for i, j in pairs):
            _set_barrier(done)
            since = [Access() for _ in range(threads)]
        for i, access in enumerate(accesses):
            since[i] += access
        done.append(parts)
        if alone:
            _set_barrier(done)
    _set_barrier(done)  # before the next step
    return done


def _set_barrier(done: list[list[Instruction]]) -> None:
    if done:
        # an instruction that was not split may be in a program for one thread too
        done[-1] = [copy.copy(part) for part in done[-1]]
        for part in done[-1]:
            part[BARRIER] = 1
