"""Cores that walk over a table of rows together, each over its parts.

Python's threads are started for about a tenth of a second's steps at a time; between rows they wait for
each other without Python.
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

from bpengine import blas_core
from bpengine.backends.base import Array
from bpengine.backends.numba_llvm import arrive, call, give_way, seen
from bpengine.backends.numba_rows import WAIT, Row, shared

__all__ = ["Team", "replay", "share"]

MOST = 8  # cores: more wait for each other longer than they gain in steps this short
WORTH = 20e3  # nanoseconds of a step from which sharing it out pays
WAITING = 1e3  # of each wait
SAVED = 0.8  # of the time of one core, that several may take at most
LEAST = 2e-3  # seconds of work for which threads are started
AGAIN = 16  # times after which the slower way is tried again
SPINS = 200  # looks at the count before a waiting core is given to others


def share(rows: Sequence[Row], kept: list[Any]) -> tuple[list[Row], int]:
    """The parts of rows, one after the other, and for how many cores they are.

    As many cores as BLAS may use; one where products are the library's, which has threads of its own,
    or where there is too little to do.
    """
    cores = min(blas_core.threads() or 1, MOST)
    work = sum(row.work for row in rows)
    if cores == 1 or work < WORTH or any(row.form == "library" for row in rows):
        return list(rows), 1
    parts = list(shared(rows, cores, kept))
    waits = sum(first[0][WAIT] for first in parts)
    alone = sum(
        row.work for row, each in zip(rows, parts, strict=True) if not any(part[0] for part in each[1:])
    )
    if alone + (work - alone) / cores + waits * WAITING > SAVED * work:
        return list(rows), 1
    return [part for each in parts for part in each], cores


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
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._seconds = [0.0, 0.0]  # of a step: alone, together
        self._turn = 0

    def __call__(self, table: Array, steps: int) -> None:
        """Call the kernels of a table in order, `steps` times."""
        alone, together = self._seconds
        way = 0
        if steps * alone > LEAST and min(blas_core.threads() or 1, MOST) >= self.size:
            self._turn += 1
            way = int((together < alone) ^ (self._turn % AGAIN == 0))
        start = time.perf_counter()
        (self._together if way else replay)(table, steps)
        self._seconds[way] = (time.perf_counter() - start) / steps

    def steps_in(self, seconds: float) -> int:
        """How many steps take so long, by those that were timed; 1 before there are any."""
        slowest = max(self._seconds)
        return max(1, int(seconds / slowest)) if slowest else 1

    def _together(self, table: Array, steps: int) -> None:
        state = np.zeros(2, np.int64)  # arrivals at waits, and whether all is over
        arguments = table, steps, self.size, state, _yield()
        others = [
            threading.Thread(target=_together, args=(*arguments, i), daemon=True)
            for i in range(1, self.size)
        ]
        started: list[threading.Thread] = []
        refused = False
        try:
            for other in others:
                other.start()
                started.append(other)
            _together(*arguments, 0)
        except RuntimeError:  # the system has no more threads: those that wait have done nothing yet
            refused = True
        finally:
            state[1] = 1
            for other in started:
                other.join()
        if refused:
            replay(table, steps)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _together(table: Array, steps: int, cores: int, state: Array, giving_way: int, core: int) -> None:
    """The parts of one core, waiting for the others where they have to."""
    first, width, arrivals = table.ctypes.data, 8 * table.shape[1], cores
    if not _meet(state, arrivals, giving_way):  # nobody begins before all are there
        return
    for _ in range(steps):
        for i in range(core, table.shape[0], cores):
            if table[i, 0]:
                call(table[i, 0], first + i * width)
            if table[i, WAIT]:
                arrivals += cores
                if not _meet(state, arrivals, giving_way):
                    return


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
