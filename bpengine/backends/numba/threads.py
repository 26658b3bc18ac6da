"""A pool of threads that execute the instructions of a step, each instruction in parts.

Threads are started for many steps at a time; between instructions they wait for each other without the
interpreter.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpengine import openblas
from bpengine.backends.numba.cache import cached_njit
from bpengine.backends.numba.instruction import BARRIER, FIELDS, Instruction, partition
from bpengine.backends.numba.intrinsics import atomic_add_one, atomic_load, call
from bpengine.backends.operation import Array

__all__ = ["ThreadPool", "distribute", "replay"]

MAX_THREADS = 8  # with more, barriers take longer than steps as short as these gain
MIN_WORK = 20e3  # nanoseconds of a step from which several threads are faster
BARRIER_WORK = 1e3  # nanoseconds of a barrier
MAX_SHARE = 0.8  # of the time of one thread that several may take at most
MIN_SECONDS = 2e-3  # of work for which threads are started
RETRY, MAX_RETRY = 16, 1024  # runs until the slower way is timed again; doubled if it lost
SPINS = 200  # polls of a barrier before a waiting thread yields


def distribute(instructions: Sequence[Instruction]) -> tuple[list[Instruction], ThreadPool | None]:
    """The parts of instructions for as many threads as BLAS may use, and the pool that executes them.

    The instructions as they are and None for one thread, where products are the library's, which has
    threads of its own, or where there is too little work.
    """
    threads = min(openblas.threads() or 1, openblas.usable_cores(), MAX_THREADS)
    work = sum(instruction.work for instruction in instructions)
    library = any(instruction.form == "library" for instruction in instructions)
    if threads == 1 or work < MIN_WORK or library:
        return list(instructions), None
    keep_alive: list[Any] = []
    partitioned = partition(instructions, threads, keep_alive)
    barriers = sum(parts[0][BARRIER] for parts in partitioned)
    serial = sum(
        instruction.work
        for instruction, parts in zip(instructions, partitioned, strict=True)
        if not any(part[0] for part in parts[1:])
    )
    if serial + (work - serial) / threads + barriers * BARRIER_WORK > MAX_SHARE * work:
        return list(instructions), None
    return [part for parts in partitioned for part in parts], ThreadPool(threads, keep_alive)


@cached_njit
def replay(instructions: Array, steps: int) -> None:
    """Execute instructions in order, `steps` times."""
    first = instructions.ctypes.data
    for _ in range(steps):
        for i in range(instructions.shape[0]):
            if instructions[i, 0]:
                call(instructions[i, 0], (first + i * 8 * instructions.shape[1], 0))


class ThreadPool:
    """Executes instructions that have parts for so many threads.

    Where a core is busy with other work all threads wait for its thread, and a single thread may be
    faster. So both ways are timed, and the faster one is used: the results are the same, bit for bit.
    """

    def __init__(self, size: int, keep_alive: object = None) -> None:
        self.size, self._keep_alive = size, keep_alive  # the arrays of threads
        self._seconds = [0.0, 0.0]  # of a step: serial, parallel
        self._runs, self._pause, self._retry = 0, RETRY, RETRY
        # compiled, or read from disk, before it is timed
        _run_thread(np.zeros((1, FIELDS), np.int64), 0, 1, np.zeros(2, np.int64), 0, 0)

    def __call__(self, instructions: Array, steps: int) -> None:
        """Execute instructions in order, `steps` times."""
        serial = self._seconds[0]
        too_few = min(openblas.threads() or 1, openblas.usable_cores(), MAX_THREADS) < self.size
        if steps * serial <= MIN_SECONDS or too_few:
            self._run(instructions, steps, parallel=False)
            return
        self._runs += 1
        if self._runs == self._retry:  # time the slower way, for few steps: it may be much slower
            slower = not self._parallel_is_faster()
            few = min(steps, max(1, steps // RETRY, int(MIN_SECONDS / serial)))
            self._run(instructions, few, parallel=slower)
            steps -= few
            lost = self._parallel_is_faster() != slower
            self._pause = min(2 * self._pause, MAX_RETRY) if lost else RETRY
            self._retry = self._runs + self._pause
        if steps:
            self._run(instructions, steps, parallel=self._parallel_is_faster())

    def _parallel_is_faster(self) -> bool:
        return self._seconds[1] < self._seconds[0]

    def _run(self, instructions: Array, steps: int, *, parallel: bool) -> None:
        start = time.perf_counter()
        if not (parallel and self._run_parallel(instructions, steps)):
            replay(instructions, steps)
        self._seconds[parallel] = (time.perf_counter() - start) / steps

    def _run_parallel(self, instructions: Array, steps: int) -> bool:
        """False, with nothing done, if not all threads could start."""
        state = np.zeros(2, np.int64)  # arrivals at barriers, and whether to stop
        arguments = instructions, steps, self.size, state, _yield_address()

        def work(thread: int) -> None:
            try:
                _run_thread(*arguments, thread)
            except BaseException:  # out of memory, say: the others must not wait for this thread
                state[1] = 1
                raise

        others = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(1, self.size)]
        started: list[threading.Thread] = []
        try:
            for other in others:
                other.start()
                started.append(other)
            return bool(_run_thread(*arguments, 0))
        except RuntimeError:  # the system has no more threads; those that started are at the barrier
            return False
        finally:
            state[1] = 1
            for other in started:
                other.join()


@cached_njit
def _run_thread(
    instructions: Array, steps: int, threads: int, state: Array, yield_address: int, thread: int
) -> bool:
    """Execute one thread's parts; False if it was stopped before the end."""
    first, width, arrivals = instructions.ctypes.data, 8 * instructions.shape[1], threads
    if not _wait(state, arrivals, yield_address):  # no thread begins before all have started
        return False
    for _ in range(steps):
        for i in range(thread, instructions.shape[0], threads):
            if instructions[i, 0]:
                call(instructions[i, 0], (first + i * width, 0))
            if instructions[i, BARRIER]:
                arrivals += threads
                if not _wait(state, arrivals, yield_address):
                    return False
    return True


@cached_njit
def _wait(state: Array, arrivals: int, yield_address: int) -> bool:
    """Wait at a barrier until so many threads have arrived in all; False if stopped before."""
    place, spins = state.ctypes.data, 0
    atomic_add_one(place)
    while atomic_load(place) < arrivals:
        if atomic_load(place + 8):
            return False
        spins += 1
        if spins > SPINS and yield_address:
            call(yield_address, ())
    return True


@functools.cache
def _yield_address() -> int:
    """The address of the system's function that lets another thread run; 0 if there is none."""
    try:
        if sys.platform == "win32":
            function: Any = ctypes.windll.kernel32.SwitchToThread
        else:
            function = ctypes.CDLL(None).sched_yield
    except (AttributeError, OSError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0
