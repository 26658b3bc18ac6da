"""Numba: NumPy's arrays, and plans replayed by compiled code without the interpreter.

A plan becomes a table: a row of plain numbers for each line, with the address of a compiled kernel and
those of its operands. Replaying it is a loop that calls the kernels one after the other. What has no
kernel, such as a user's own activation, is called in Python between tables.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call, Replay
from bpengine.backends.fusion import fold
from bpengine.backends.numba.instruction import Row
from bpengine.backends.numba.lowering import Maker, tell
from bpengine.backends.numba.threads import Team, replay, share
from bpengine.backends.numpy.backend import NumPyBackend, QuietReplay
from bpengine.backends.numpy.blas import NUMPY
from bpengine.backends.numpy.kernels import calls
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Batches

__all__ = ["NumbaBackend"]

SECONDS = 0.1  # that compiled code runs at a time: then Python looks for Ctrl-C


class NumbaBackend(NumPyBackend):
    """NumPy arrays, and compiled kernels that work on them."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "numba"

    def __reduce__(self) -> tuple[Any, ...]:
        return NumbaBackend, ()

    def compile(self, operations: Iterable[Operation]) -> CompiledReplay:
        """Make operations ready to be replayed: rows of tables, and calls where there is no kernel."""
        operations = list(operations)
        maker, scratch = Maker(), Scratch()
        folded = fold(operations, NUMPY)
        lines: list[Row | Call] = []
        for i, op in enumerate(operations):
            for line in folded.get(i, [op]):
                rows = maker.rows(line)
                if rows is None:
                    _say_once(line.name)
                lines += calls(scratch, line) if rows is None else rows
        tell()
        return CompiledReplay(lines, maker, operations)


@functools.cache
def _say_once(name: str) -> None:
    logging.getLogger("bpengine").warning(
        "%r has no compiled kernel: NumPy carries it out, at the price of Python calls in each step",
        name,
    )


class CompiledReplay(QuietReplay):
    """A program as tables, with calls between them where there are any.

    Parameters
    ----------
    lines : sequence of rows and calls
        In order.
    maker : Maker
        What made them.
    keep : object
        What has to stay because rows hold addresses alone.
    """

    def __init__(self, lines: Sequence[Row | Call], maker: Maker, keep: object) -> None:
        self._lines, self._maker = lines, maker
        self._gathering: _Gathering | None = None
        super().__init__(_parts(lines, maker), keep)

    def run(self, steps: int) -> None:
        """Run the step `steps` times."""
        if steps == 1 and len(self.calls) == 1:
            function, operands = self.calls[0]
            function(*operands)
        else:
            self._context.run(_replay, self.calls, steps)

    def run_batches(self, batches: Batches, taken: list[int]) -> None:
        """A step on each of some batches, which compiled code gathers where it can."""
        if not batches.batches:
            return
        if self._gathering is None or not self._gathering.serves(batches):
            self._gathering = _Gathering(batches, self._lines, self._maker)
        gathering = self._gathering
        if not gathering.calls:
            super().run_batches(batches, taken)
            return
        gathering.start(batches)
        before = taken[0]
        try:
            self._context.run(_replay, gathering.calls, len(batches.batches))
        finally:
            taken[0] = before + int(gathering.count[0])


class _Gathering:
    """A program that loads its batches and keeps its outputs itself; without calls where it can't."""

    def __init__(self, batches: Batches, lines: Sequence[Row | Call], maker: Maker) -> None:
        self.count = np.zeros(1, np.int64)
        self.calls: list[Call] = []
        self._batches = batches  # rows hold addresses alone: the arrays must stay
        load, keep = maker.gather(batches), maker.keep(batches, self.count)
        before: list[Row | None] = [load]
        if batches.settings is not None:
            before.append(maker.set(batches.settings))
        ready = [row for row in before if row is not None]
        if len(ready) < len(before) or keep is None or batches.batches[0].dtype != np.int64:
            return
        self.calls = _parts([*ready, *lines, keep], maker)

    def serves(self, other: Batches) -> bool:
        """Whether other batches come from the same array, and go to the same."""
        names = "examples", "rows", "output", "slots"
        targets = [batches.settings and batches.settings.targets for batches in (self._batches, other)]
        same = all(getattr(self._batches, name) is getattr(other, name) for name in names)
        return same and targets[0] is targets[1]

    def start(self, batches: Batches) -> None:
        """Begin with the first of some batches and with the first slot."""
        self._numbers = np.concatenate(batches.batches)
        first, last = (self.calls[i][1][0] for i in (0, -1))
        cores = getattr(self.calls[0][0], "size", 1)  # so many rows for each of ours
        first[0, 2] = self._numbers.ctypes.data
        if batches.settings is not None:
            dtype = batches.settings.targets[0].dtype
            self._values = np.ascontiguousarray(batches.settings.values, dtype)
            first[cores, 2] = self._values.ctypes.data
        last[-cores, 3] = batches.slots[0].ctypes.data
        self.count[0] = 0


def _parts(lines: Sequence[Row | Call], maker: Maker) -> list[Call]:
    """Rows that follow each other as the replay of a table; calls as they are."""
    parts: list[Call] = []
    rows: list[Row] = []
    for line in [*lines, None]:
        if isinstance(line, Row):
            rows.append(line)
            continue
        if rows:
            rows, team = share(rows) if len(rows) == len(lines) else (rows, None)
            run: Any = team or replay
            if maker.locks:
                run = _Drawing(maker.locks, run)
            parts.append((run, (np.array(rows, np.int64), 1)))
            rows = []
        if line is not None:
            parts.append(line)
    return parts


class _Drawing:
    """Replays a table while nobody else draws from its generators, whose locks NumPy takes too.

    Parameters
    ----------
    locks : dict
        By their identity: all programs take them in the same order.
    run : Team or callable
        What replays it.
    """

    def __init__(self, locks: dict[int, Any], run: Any) -> None:
        self._locks, self._run = [lock for _, lock in sorted(locks.items())], run
        self.size = getattr(run, "size", 1)

    def steps_in(self, seconds: float) -> int:
        """How many steps take so long."""
        return self._run.steps_in(seconds) if isinstance(self._run, Team) else 1

    def __call__(self, table: Array, steps: int) -> None:
        """Call the kernels of a table in order, `steps` times."""
        with contextlib.ExitStack() as held:
            for lock in self._locks:
                held.enter_context(lock)
            self._run(table, steps)


def _replay(calls: Sequence[Call], steps: int) -> None:
    run = calls[0][0] if len(calls) == 1 else None
    if steps == 1 or not (run is replay or isinstance(run, (Team, _Drawing))):
        Replay(calls).run(steps)
        return
    table, left = calls[0][1][0], steps
    most = 1 if run is replay else run.steps_in(SECONDS)
    while left:
        count = min(most, left)
        start = time.perf_counter()
        run(table, count)
        seconds = time.perf_counter() - start
        left -= count
        most = max(1, min(8 * most, int(count * SECONDS / max(seconds, 1e-9))))
