"""A line of a plan as a row of whole numbers, and the part of it that a core takes.

A row holds addresses alone. What it reads and writes is told from them: two cores have to wait for each
other only where one writes what the other needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["WAIT", "WORDS", "Access", "Row", "shared"]

WORDS = 24  # in a row
WAIT = 23  # the word that says whether all cores wait for each other after the row
LEAST_PART = 16  # numbers of a line that is cut across its only row
Span = tuple[int, int]  # of bytes: first, and one past the last


@dataclass
class Access:
    """The bytes that parts of lines read, and those that they write."""

    reads: list[Span] = field(default_factory=list)
    writes: list[Span] = field(default_factory=list)

    def __iadd__(self, other: Access) -> Access:
        for mine, theirs in ((self.reads, other.reads), (self.writes, other.writes)):
            for start, stop in theirs:
                # the rows of a stack's networks follow each other: a few spans are all of them
                before = (i for i in range(-1, -1 - min(len(mine), 8), -1) if mine[i][1] == start)
                i = next(before, None)
                if i is None:
                    mine.append((start, stop))
                else:
                    mine[i] = mine[i][0], stop
        return self

    def meets(self, other: Access) -> bool:
        """Whether one writes what the other reads or writes."""
        pairs = itertools.chain(
            itertools.product(self.writes, other.writes + other.reads),
            itertools.product(self.reads, other.writes),
        )
        return any(a < d and c < b for (a, b), (c, d) in pairs)


class Row(list[int]):
    """The words of a row, and how it may be shared out.

    Parameters
    ----------
    words : sequence of int
    form : {"", "line", "product", "update", "member", "library"}
        What the words mean, as the kernels say: an elementwise line, a product of each network, a
        pass over vectors, a network's own row, a product by the library. "" is anything else.
    size : int
        Bytes of a number.
    arrays : sequence of int
        The words of an update that are addresses of vectors, or of a member that are of its arrays.
    which : (int, int)
        Of a member: which it is, and of how many.
    """

    def __init__(
        self,
        words: Sequence[int],
        form: str = "",
        size: int = 0,
        arrays: Sequence[int] = (),
        which: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__([*words, *[0] * (WORDS - len(words))])
        self.form, self.size, self.arrays, self.which = form, size, arrays, which

    @property
    def work(self) -> float:
        """About how many nanoseconds it takes."""
        match self.form:
            case "line":
                return 0.3 * self[1] * self[2]
            case "product":
                return self[16] * (30 + 0.03 * self[1] * self[2] * self[3])
            case "update":
                return 0.5 * self[1]
            case "member":
                return 1.0 * self[1] * self[2]
        return 0.0

    def part(self, i: int, of: int, kept: list[Any]) -> Row | None:
        """What the i-th of so many cores takes; None if nothing. `kept` is where new arrays stay."""
        match self.form:
            case "line" if self[1] >= of:
                return self._cut(1, {at: self[at + 1] for at in (3, 6, 9, 12)}, i, of)
            case "line" if self[1] == 1 and self[2] >= LEAST_PART * of:
                return self._cut(2, {at: self[at + 2] * self.size for at in (3, 6, 9, 12)}, i, of)
            case "product" if self[16] >= of:
                return self._cut(16, {4: self[17], 7: self[18], 10: self[19]}, i, of, kept)
            case "product" if self[16] == 1 and self[1] >= of:
                return self._cut(1, {4: self[5], 10: self[11]}, i, of, kept)
            case "update" if self[1] >= LEAST_PART * of:
                return self._cut(1, dict.fromkeys(self.arrays, self.size), i, of)
            case "member":
                which, count = self.which
                return self if count * i // of <= which < count * (i + 1) // of else None
        return self if i == 0 else None

    def copied(self) -> Row:
        """A row like it."""
        return Row(self, self.form, self.size, self.arrays, self.which)

    def _cut(
        self, word: int, steps: dict[int, int], i: int, of: int, kept: list[Any] | None = None
    ) -> Row:
        """The part of what `word` counts, with addresses that move by so many bytes for each."""
        start, stop = (self[word] * j // of for j in (i, i + 1))
        part = self.copied()
        part[word] = stop - start
        for at, step in steps.items():
            part[at] += start * step
        if kept is not None and self[20]:  # memory to copy to, of each core's own
            kept.append(copy := np.empty(self[3] * self[21], np.uint8))
            part[20] = copy.ctypes.data
        return part

    def access(self) -> Access:
        """The bytes that it reads and writes; none where the others wait for it anyway."""
        size = self.size
        match self.form:
            case "line":
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
            case "member":
                return Access(
                    [], [(self[at], self[at] + self[1] * self[2] * size) for at in self.arrays]
                )
        return Access()


def _span(address: int, *axes: tuple[int, int], size: int) -> Span:
    """The bytes of an array: for each axis its length and its stride."""
    offsets = [(n - 1) * stride for n, stride in axes]
    low, high = (sum(f(0, x) for x in offsets) for f in (min, max))
    return address + low, address + high + size


def shared(rows: Sequence[Row], cores: int, kept: list[Any]) -> Iterator[list[Row]]:
    """The parts of each row for so many cores, with `WAIT` set in those after which all have to wait."""
    done: list[list[Row]] = []
    since = [Access() for _ in range(cores)]
    for row in rows:
        alone = row.form in ("", "library")
        parts = [row.part(i, cores, kept) or Row([]) for i in range(cores)]
        accesses = [part.access() for part in parts]
        if any(a.meets(b) for a, b in itertools.combinations(accesses, 2)):  # for all that spans tell
            parts = [row, *(Row([]) for _ in range(1, cores))]
            accesses = [part.access() for part in parts]
        pairs = itertools.permutations(range(cores), 2)
        if alone or any(since[i].meets(accesses[j]) for i, j in pairs):
            _wait_after(done)
            since = [Access() for _ in range(cores)]
        for i, access in enumerate(accesses):
            since[i] += access
        done.append(parts)
        if alone:
            _wait_after(done)
    _wait_after(done)  # before the next step
    yield from done


def _wait_after(done: list[list[Row]]) -> None:
    if done:
        # a row that is whole, one core's, may stand in a table of one core too
        done[-1] = [part.copied() for part in done[-1]]
        for part in done[-1]:
            part[WAIT] = 1
