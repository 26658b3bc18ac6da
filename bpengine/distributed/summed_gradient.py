"""Training steps whose gradient is summed over the ranks of an MPI communicator.

The gradient is one vector, summed by one all-reduce, or by a few that overlap with the computation of
earlier layers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend, Batches, Operation, Program, Settings
from bpengine.backends.base import warn_once
from bpengine.backends.operation import itemsize, size
from bpengine.backprop.plan import Plan
from bpengine.backprop.reduction import Mean
from bpengine.distributed.collectives import Group, HostSum, Parts, StagedSum
from bpengine.model.parameters import Parameters

__all__ = ["AccumulatedPlan", "Summed", "SummedProgram", "summing"]

BUCKET_BYTES = 2**20  # consecutive layers share an all-reduce up to this size


class Summed(Mean):
    """The mean over the examples of all ranks; the penalty is added after the sum over the ranks."""

    def __init__(self, group: Group, overlap: bool) -> None:
        self.group, self.overlap = group, overlap

    def compile(self, operations: Sequence[Operation], backend: Backend) -> SummedProgram:
        """The program: segments that each end with a bucket of layers, sums, the update."""
        buckets = _buckets(self.average, self.overlap)
        # products of BP3 and BP4, last layer first
        ends = [i for i, op in enumerate(operations, 1) if op.equation == "BP3, BP4"]
        cuts = [0, *(ends[len(ends) - 1 - first] for first, _, _ in buckets)]
        segments = [backend.compile(operations[i:j]) for i, j in pairwise(cuts)]
        parts = [(start, stop) for _, start, stop in buckets]

        def gradient(begin: Callable[[int], None]) -> None:
            for part, segment in enumerate(segments):
                segment.run(1)
                begin(part)

        vector = self.average.vector
        sums = summing(self.group, backend, vector, parts, self.model.dtype)
        return SummedProgram(gradient, sums, parts, vector, backend.compile(operations[cuts[-1] :]))


@dataclass(eq=False)
class SummedProgram:
    """A gradient, its sum over the ranks, and the update.

    `gradient` computes this rank's gradient, `vector`, and calls its argument with the index of each
    part when written; `sums` is a `HostSum`, or an object with the same methods, of these `parts`.
    """

    gradient: Callable[[Callable[[int], None]], None]
    sums: Any
    parts: Parts
    vector: Array
    update: Program
    _begun: int = 0
    _done: int = 0

    @property
    def calls(self) -> Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The calls of the update."""
        return self.update.calls

    def run(self, steps: int) -> None:
        """Steps on the loaded batch."""
        for _ in range(steps):
            self.gradient(self._begin)
            self._end()
            self.update.run(1)

    def forget_batches(self) -> None:
        """Nothing: batches are not kept."""

    def run_batches(self, batches: Batches, taken: list[int]) -> None:
        """A step on each batch."""
        for step, (batch, slot) in enumerate(zip(batches.batches, batches.slots, strict=False)):
            if batches.settings is not None:
                batches.settings.set(step)
            batches.load(batch, batches.rows)
            self.run(1)
            taken[0] += 1
            slot[...] = batches.output

    def step_without_examples(self) -> None:
        """A step of a rank without examples left."""
        self.vector[...] = 0.0
        self._rest()
        self.update.run(1)

    def count(self) -> None:
        """Reset the count of steps, for `finish`."""
        self._begun = self._done = 0

    def finish(self, steps: int) -> None:
        """Take part in the remaining sums of `steps` steps."""
        while self._done < steps:
            self._rest()

    def _rest(self) -> None:
        for part in range(self._begun, len(self.parts)):
            self._begin(part)
        self._end()

    def _begin(self, part: int) -> None:
        self._begun = part + 1
        self.sums.begin(part)

    def _end(self) -> None:
        self.sums.end()
        self._begun, self._done = 0, self._done + 1


class AccumulatedPlan:
    """A plan that processes the examples of a batch in parts.

    `make` makes a plan, with a gradient of `Summed`, for a number of examples. There are at most `parts`
    parts. `workspace` holds rows, targets and output of the whole batch, and hidden layers of the last
    part.
    """

    def __init__(self, make: Callable[[int], Plan], batch_size: int, parts: int) -> None:
        most = -(-batch_size // parts)
        columns = [slice(i, min(i + most, batch_size)) for i in range(0, batch_size, most)]
        plans = {m: make(m) for m in {s.stop - s.start for s in columns}}
        self.plans, self.batch_size = list(plans.values()), batch_size
        self._parts = [(plans[s.stop - s.start], s) for s in columns]
        last = self._last = self._parts[-1][0]
        network = self.network = last.network
        empty, dtype = network.backend.empty, network.dtype
        self.output = empty((*last.output.shape[:-1], batch_size), dtype)
        ws = self.workspace = copy.copy(last.workspace)
        ws.batch_size, ws.rows = batch_size, empty((batch_size, ws.rows.shape[1]), dtype)
        start = ws.extended[0].shape[-2]
        ws.targets = ws.rows[:, start : start + network.sizes[-1]].mT
        ws.z, ws.a = [*ws.z[:-1], self.output], [*ws.a[:-1], self.output]
        program = _program(last)
        self._total = empty(program.vector.shape, dtype)
        self.program = SummedProgram(
            self._accumulate, program.sums, program.parts, program.vector, program.update
        )

    def average_over(self, examples: int) -> None:
        """As `Plan.average_over`."""
        for plan in self.plans:
            plan.average_over(examples)

    @property
    def learning_rate(self) -> Any:
        """The learning rate η."""
        return self._last.learning_rate

    @learning_rate.setter
    def learning_rate(self, η: Any) -> None:
        for plan in self.plans:
            plan.learning_rate = η

    def settings(self, rates: Sequence[float]) -> Settings:
        """As `Plan.settings`."""
        found = [plan.settings(rates) for plan in self.plans]
        targets = [target for settings in found for target in settings.targets]
        return Settings(targets, np.concatenate([settings.values for settings in found], axis=1))

    def _accumulate(self, begin: Callable[[int], None]) -> None:
        total, last = self._total, len(self._parts) - 1

        def add(part: int) -> None:
            if last:
                i, j = self.program.parts[part]
                self.program.vector[i:j] += total[i:j]
            begin(part)

        for number, (plan, columns) in enumerate(self._parts):
            program = _program(plan)
            plan.workspace.rows[...] = self.workspace.rows[columns, :]
            program.gradient(add if number == last else lambda part: None)
            if number == 0:
                total[...] = program.vector
            elif number < last:
                total += program.vector
            self.output[..., columns] = plan.output


def _program(plan: Plan) -> SummedProgram:
    assert isinstance(plan.program, SummedProgram)
    return plan.program


def summing(group: Group, backend: Backend, vector: Array, parts: Parts, dtype: str) -> Any:
    """The sum of a vector over the ranks: on the device if the backend can, else on the host."""
    found = backend.all_reduce(group, vector, parts)
    if found is not None:
        return found
    if isinstance(vector, np.ndarray):
        return HostSum(group, vector, parts)
    if group.rank == 0:
        warn_once(
            f"gradients on backend {backend.name!r} are summed over the ranks in host memory: two "
            "copies a step"
        )
    return StagedSum(group, vector, parts, backend, dtype)


def _buckets(gradient: Parameters, overlap: bool) -> list[tuple[int, int, int]]:
    """Buckets of layers, from the last: index of the first layer, start and stop."""
    sizes = [size(block) for block in gradient.blocks]
    least = BUCKET_BYTES // itemsize(gradient.vector) if overlap else math.inf
    stop = start = sum(sizes)
    buckets = []
    for l in range(len(sizes) - 1, -1, -1):
        start -= sizes[l]
        if stop - start >= least or l == 0:
            buckets.append((l, start, stop))
            stop = start
    return buckets
