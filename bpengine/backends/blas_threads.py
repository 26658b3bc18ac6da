"""Whether steps use the threads of BLAS: not while other processes keep the cores busy."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from bpengine import openblas
from bpengine.backends.operation import Operation, size

__all__ = ["BLASThreads"]

# Of a product that OpenBLAS computes with one thread (interface/gemm.c: SMP_THRESHOLD_MIN times
# GEMM_MULTITHREAD_THRESHOLD).
MULTIPLICATIONS = 2**18
BLOCK = 5e-3  # seconds of steps that are timed together
SLOWDOWN = 2.0  # over the best time, from which threads are seen to lose
SHARE, BYTES = 0.5, 2e9  # of one thread's products, and a second: if there was never a better time
SIZE = 200  # of the products by which the rate is measured
RETRY, MAX_RETRY = 16, 1024  # blocks until threads are tried again; doubled if they lose


class BLASThreads:
    """Runs steps with BLAS's threads, or with one where these are seen to lose.

    The threads of a product wait for each other. Where one waits for its core, as other processes use
    it, a step may take forty times as long as with a single thread. One thread rounds differently from
    several, so it is not tried unless two of the last three blocks of steps were much slower than they
    can be.

    Parameters
    ----------
    operations : sequence of Operation
        Of a step.

    Attributes
    ----------
    used : bool
        Whether one of its products is so large that OpenBLAS may use several.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.used, self._flops, self._traffic, self._slowest = False, 0, 0, 0.0
        for op in operations:
            self.include(op)
        self._best, self._last = math.inf, BLOCK  # seconds of a step
        self._recent: deque[float] = deque(maxlen=3)
        self._single, self._alone = False, 0.0
        self._pause, self._wait = RETRY, 0

    def include(self, op: Operation) -> None:
        """Count an operation, and whether it is a product that OpenBLAS may share out."""
        self._flops, self._traffic = self._flops + op.flops, self._traffic + op.bytes
        if op.name == "matmul":
            self.used |= op.inputs[0].shape[-1] * size(op.output) > MULTIPLICATIONS

    def run(self, call: Callable[[int], None], steps: int) -> None:
        """Call ``call(count)``, which runs so many steps, for all of them."""
        if not self.used or openblas.threads() in (None, 1):
            call(steps)
            return
        if not self._slowest:
            self._slowest = self._flops / (SHARE * rate_of_one_thread()) + self._traffic / BYTES
        while steps:
            count = max(1, min(steps, int(BLOCK / self._last)))
            single = self._single and self._wait > 0
            with openblas.one_thread if single else openblas.within_cores:
                start = time.perf_counter()
                call(count)
                self._last = max((time.perf_counter() - start) / count, 1e-9)
            self._compare(single)
            steps -= count

    def _compare(self, single: bool) -> None:
        seconds = self._last
        if single:
            self._alone, self._wait = seconds, self._wait - 1
        elif self._single:  # the threads, tried again
            self._single = seconds > self._alone
            self._pause = min(2 * self._pause, MAX_RETRY) if self._single else RETRY
            self._wait = self._pause
        else:
            self._best = min(self._best, seconds)
            self._recent.append(seconds)
            typical = statistics.median(self._recent)
            if len(self._recent) == 3 and typical > min(SLOWDOWN * self._best, self._slowest):
                self._single, self._wait = True, RETRY
                self._recent.clear()


@functools.cache
def rate_of_one_thread() -> float:
    """Floating-point operations a second of products of this machine by one thread, in float64."""
    x = np.ones((SIZE, SIZE))
    times = []
    with openblas.one_thread:
        for _ in range(5):
            start = time.perf_counter()
            x @ x
            times.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(times)
