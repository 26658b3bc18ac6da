"""Cores that walk over a table of rows together, each over its parts.

Python's threads are started for many steps at a time; between rows they wait for each other without
Python.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from bpengine import openblas
from bpengine.backends.numba.instruction import WAIT, WORDS, Row, shared
from bpengine.backends.numba.intrinsics import arrive, call, give_way, seen
from bpengine.backends.operation import Array

__all__ = ["Team", "replay", "share"]

MOST = 8  # cores: more wait for each other longer than they gain in steps this short
WORTH = 20e3  # nanoseconds of a step from which sharing it out pays
WAITING = 1e3  # of each wait
SAVED = 0.8  # of the time of one core, that several may take at most
WORTH_STARTING = 2e-3  # seconds of work for which threads are started
AGAIN, LONGEST = 16, 1024  # times after which the slower way is tried again; twice as many if it lost
SPINS = 200  # looks at the count before a waiting core is given to others


def share(rows: Sequence[Row]) -> tuple[list[Row], Team | None]:
    """The parts of rows, one after the other, and the cores that they are for.

    As many cores as BLAS may use; the rows as they are, for one, where products are the library's, which
    has threads of its own, or where there is too little to do.
    """
    cores = min(openblas.threads() or 1, MOST)
    work = sum(row.work for row in rows)
    if cores == 1 or work < WORTH or any(row.form == "library" for row in rows):
        return list(rows), None
    kept: list[Any] = []
    parts = list(shared(rows, cores, kept))
    waits = sum(each[0][WAIT] for each in parts)
    alone = sum(
        row.work for row, each in zip(rows, parts, strict=True) if not any(part[0] for part in each[1:])
    )
    if alone + (work - alone) / cores + waits * WAITING > SAVED * work:
        return list(rows), None
    return [part for each in parts for part in each], Team(cores, kept)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def replay(table: Array, steps: int) -> None:
    """Call the kernels of a table in order, `steps` times."""
    first = table.ctypes.data
    for _ in range(steps):
        for i in range(table.shape[0]):
            if table[i, 0]:
                call(table[i, 0], first + i * 8 * table.shape[1])


class Team:
    """Replays a table whose rows have parts for so many cores.

    Where a core is busy with something else the others wait for it, and one alone may be faster. So both
    are timed, and the faster way is taken: they compute the same, bit for bit.

    Parameters
    ----------
    size : int
        How many cores.
    keep : object
        What has to stay because rows hold addresses alone.
    """

    def __init__(self, size: int, keep: object = None) -> None:
        self.size, self._keep = size, keep
        self._seconds = [0.0, 0.0]  # of a step: alone, together
        self._turn, self._pause, self._again = 0, AGAIN, AGAIN
        # compiled, or read from disk, before it is timed
        _part_of_core(np.zeros((1, WORDS), np.int64), 0, 1, np.zeros(2, np.int64), 0, 0)

    def __call__(self, table: Array, steps: int) -> None:
        """Call the kernels of a table in order, `steps` times."""
        alone = self._seconds[0]
        if steps * alone <= WORTH_STARTING or min(openblas.threads() or 1, MOST) < self.size:
            self._run(table, steps, together=False)
            return
        self._turn += 1
        if self._turn == self._again:  # a few steps the slower way: much slower it may be
            slower = not self._together_is_faster()
            few = min(steps, max(1, steps // AGAIN, int(WORTH_STARTING / alone)))
            self._run(table, few, together=slower)
            steps -= few
            lost = self._together_is_faster() != slower
            self._pause = min(2 * self._pause, LONGEST) if lost else AGAIN
            self._again = self._turn + self._pause
        if steps:
            self._run(table, steps, together=self._together_is_faster())

    def steps_in(self, seconds: float) -> int:
        """How many steps take so long, by those that were timed; 1 before there are any."""
        latest = self._seconds[self._together_is_faster() and self._seconds[1] > 0]
        return max(1, int(seconds / latest)) if latest else 1

    def _together_is_faster(self) -> bool:
        return self._seconds[1] < self._seconds[0]

    def _run(self, table: Array, steps: int, *, together: bool) -> None:
        start = time.perf_counter()
        if not (together and self._run_together(table, steps)):
            replay(table, steps)
        self._seconds[together] = (time.perf_counter() - start) / steps

    def _run_together(self, table: Array, steps: int) -> bool:
        """False, with nothing done, where the cores did not all come."""
        state = np.zeros(2, np.int64)  # arrivals at waits, and whether all is over
        arguments = table, steps, self.size, state, _yield()

        def work(core: int) -> None:
            try:
                _part_of_core(*arguments, core)
            except BaseException:  # out of memory, say: nobody is to wait for it
                state[1] = 1
                raise

        others = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(1, self.size)]
        started: list[threading.Thread] = []
        try:
            for other in others:
                other.start()
                started.append(other)
            return bool(_part_of_core(*arguments, 0))
        except RuntimeError:  # the system has no more threads: those that wait have done nothing yet
            return False
        finally:
            state[1] = 1
            for other in started:
                other.join()


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _part_of_core(
    table: Array, steps: int, cores: int, state: Array, giving_way: int, core: int
) -> bool:
    """The parts of one core, waiting for the others where they have to; false if all is over before."""
    first, width, arrivals = table.ctypes.data, 8 * table.shape[1], cores
    if not _meet(state, arrivals, giving_way):  # nobody begins before all are there
        return False
    for _ in range(steps):
        for i in range(core, table.shape[0], cores):
            if table[i, 0]:
                call(table[i, 0], first + i * width)
            if table[i, WAIT]:
                arrivals += cores
                if not _meet(state, arrivals, giving_way):
                    return False
    return True


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _meet(state: Array, arrivals: int, giving_way: int) -> bool:
    """Wait until so many have arrived; false where all is over before."""
    place, spins = state.ctypes.data, 0
    arrive(place)
    while seen(place) < arrivals:
        if seen(place + 8):
            return False
        spins += 1
        if spins > SPINS and giving_way:
            give_way(giving_way)
    return True


@functools.cache
def _yield() -> int:
    """The address of the system's function that gives a core to another thread; 0 if there is none."""
    try:
        if sys.platform == "win32":
            function: Any = ctypes.windll.kernel32.SwitchToThread
        else:
            function = ctypes.CDLL(None).sched_yield
    except (AttributeError, OSError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0
