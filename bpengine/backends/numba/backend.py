"""Numba: NumPy's arrays, and plans replayed by compiled code without the interpreter.

A plan becomes an array of instructions, each of integers: the address of a compiled kernel and those of
its operands. Replaying it is a loop that calls the kernels in order. Operations without a kernel, such
as a custom activation that Numba can't compile, are called in Python in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call, Replay, repeat
from bpengine.backends.base import warn_once
from bpengine.backends.folded_sgd import fold
from bpengine.backends.numba.instruction import Instruction
from bpengine.backends.numba.lowering import Lowering, log_compilation
from bpengine.backends.numba.threads import ThreadPool, distribute, replay
from bpengine.backends.numpy.backend import NumPyBackend
from bpengine.backends.numpy.blas import NUMPY
from bpengine.backends.numpy.kernels import calls
from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Batches

__all__ = ["NumbaBackend"]

SECONDS = 0.1  # that compiled code runs at a time: then Python handles Ctrl-C


class NumbaBackend(NumPyBackend):
    """NumPy arrays, and compiled kernels that work on them."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "numba"

    def __reduce__(self) -> tuple[Any, ...]:
        return NumbaBackend, ()

    def compile(self, operations: Iterable[Operation]) -> CompiledProgram:
        """Compile operations to instructions, or to calls where there is no kernel."""
        operations = list(operations)
        lowering = Lowering()
        folded = fold(operations, NUMPY)
        step: list[Instruction | Call] = []
        for op in (op for i, whole in enumerate(operations) for op in folded.get(i, [whole])):
            instructions = lowering.lower(op)
            if instructions is None:
                warn_once(
                    f"{op.name!r} has no compiled kernel: NumPy carries it out, at the price of Python "
                    "calls in each step"
                )
            step += calls(lowering.scratch, op) if instructions is None else instructions
        log_compilation()
        return CompiledProgram(step, lowering, operations)


class CompiledProgram(Replay):
    """A step as arrays of instructions, with calls between them where there are any.

    `lowering` and `operations` hold the arrays and the random generators whose addresses are in them.
    """

    def __init__(
        self, step: Sequence[Instruction | Call], lowering: Lowering, operations: Sequence[Operation]
    ) -> None:
        self._step, self._lowering = step, lowering
        self._batched: BatchedProgram | None = None
        self._most = 1  # steps that compiled code takes at a time
        super().__init__(_calls(step, lowering), operations)

    def run(self, steps: int) -> None:
        """Run the step `steps` times."""
        if steps == 1 and len(self.calls) == 1 and isinstance(self._step[0], Instruction):
            function, operands = self.calls[0]  # compiled code warns of nothing
            self.threads.run(lambda count: function(*operands), 1)
        else:
            self._context.run(self.threads.run, partial(self._replay, self.calls), steps)

    def run_batches(self, batches: Batches, steps_taken: list[int]) -> None:
        """A step on each of some batches, which compiled code gathers where possible."""
        if not batches.batches:
            return
        if self._batched is None or not self._batched.batches.same_arrays(batches):
            self._batched = BatchedProgram(batches, self._step, self._lowering)
        batched = self._batched
        if not batched.calls:
            super().run_batches(batches, steps_taken)
            return
        batched.start(batches)
        before = steps_taken[0]
        try:
            step = partial(self._replay, batched.calls)
            self._context.run(self.threads.run, step, len(batches.batches))
        finally:
            steps_taken[0] = before + int(batched.count[0])

    def forget_batches(self) -> None:
        """Drop the instructions that load them."""
        self._batched = None

    def _replay(self, calls: Sequence[Call], steps: int) -> None:
        run = calls[0][0] if len(calls) == 1 else None
        if steps == 1 or not (run is replay or isinstance(run, (ThreadPool, LockedReplay))):
            repeat(calls, steps)
            return
        instructions = calls[0][1][0]
        while steps:
            count = min(self._most, steps)
            start = time.perf_counter()
            run(instructions, count)
            seconds = time.perf_counter() - start
            steps -= count
            self._most = max(1, min(8 * self._most, int(count * SECONDS / max(seconds, 1e-9))))


class BatchedProgram:
    """A step that also loads its batch and stores its output; without calls where it can't."""

    def __init__(self, batches: Batches, step: Sequence[Instruction | Call], lowering: Lowering) -> None:
        self.batches = batches  # instructions hold addresses of its arrays
        self.count = np.zeros(1, np.int64)
        self.calls: list[Call] = []
        before: list[Instruction | None] = [*lowering.gathers(batches)]
        self._gathers = len(before)
        if batches.settings is not None:
            before.append(lowering.set(batches.settings))
        ready = [instruction for instruction in before if instruction is not None]
        store = lowering.store(batches, self.count)
        if len(ready) < len(before) or store is None or batches.batches[0].dtype != np.int64:
            return
        self.calls = _calls([*ready, *step, store], lowering)

    def start(self, batches: Batches) -> None:
        """Begin with the first of some batches and with the first slot."""
        self._numbers = np.concatenate(batches.batches)
        first, last = (self.calls[i][1][0] for i in (0, -1))
        threads = getattr(self.calls[0][0], "size", 1)  # parts of an instruction
        loading = self._gathers * threads
        first[:loading:threads, 2] = self._numbers.ctypes.data
        if batches.settings is not None:
            dtype = batches.settings.targets[0].dtype
            self._values = np.ascontiguousarray(batches.settings.values, dtype)
            first[loading, 2] = self._values.ctypes.data
        last[-threads, 3] = batches.slots[0].ctypes.data
        self.count[0] = 0


def _calls(step: Sequence[Instruction | Call], lowering: Lowering) -> list[Call]:
    """Successive instructions as the replay of an array; calls as they are."""
    found: list[Call] = []
    instructions: list[Instruction] = []
    for item in [*step, None]:
        if isinstance(item, Instruction):
            instructions.append(item)
            continue
        if instructions:
            pool = None
            if len(instructions) == len(step):
                instructions, pool = distribute(instructions)
            run: Any = pool or replay
            if lowering.locks:
                run = LockedReplay(lowering.locks, run)
            found.append((run, (np.array(instructions, np.int64), 1)))
            instructions = []
        if item is not None:
            found.append(item)
    return found


class LockedReplay:
    """Replays instructions while it holds the locks of their generators, as NumPy does."""

    def __init__(self, locks: dict[int, Any], run: Any) -> None:
        # by their identity: all programs acquire them in the same order
        self._locks, self._run = [lock for _, lock in sorted(locks.items())], run
        self.size = getattr(run, "size", 1)

    def __call__(self, instructions: Array, steps: int) -> None:
        """Execute instructions in order, `steps` times."""
        with contextlib.ExitStack() as held:
            for lock in self._locks:
                held.enter_context(lock)
            self._run(instructions, steps)
