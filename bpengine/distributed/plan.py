"""Training on several machines: a step's gradient is summed over the ranks of an MPI communicator.

The flat gradient vector makes that one all-reduce a step, or one for each of a few parts of it, which
begin while earlier layers' gradients are still computed.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend, Batches, Operation, Program, Settings
from bpengine.backends.operation import itemsize, size
from bpengine.backprop.plan import Plan
from bpengine.distributed.collectives import Group, HostSum, RankError, StagedSum
from bpengine.model.model import Model
from bpengine.model.parameters import Parameters
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.update import State

__all__ = ["AccumulatedPlan", "RankError", "SummedPlan", "SummedProgram", "summing"]

BUCKET_BYTES = 2**20  # layers that follow each other share an all-reduce until it is as large as this


class SummedPlan(Plan):
    """A training step whose gradient is summed over the ranks before its update.

    Parameters
    ----------
    network, batch_size, optimizer, state, weighted, own
        As for `Plan`; the batch is this rank's.
    group : Group
    overlap : bool
        As for `DataParallel`.
    """

    def __init__(
        self,
        network: Model,
        batch_size: int,
        optimizer: Optimizer,
        group: Group,
        *,
        state: State | None = None,
        weighted: bool = False,
        own: Collection[str] = (),
        overlap: bool = True,
    ) -> None:
        self.group, self.overlap = group, overlap
        super().__init__(network, batch_size, optimizer, state=state, weighted=weighted, own=own)

    def share(self, examples: int) -> None:
        """From the next step on, take the average over so many examples of all ranks together."""
        if examples != self.averaged:
            self.averaged = examples
            self.learning_rate = self.learning_rate  # which sets what the gradient is multiplied by

    def _backward(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        yield from backprop

    def _update(self, state: State) -> Iterator[Operation]:
        # a penalty is no average over examples: it comes once, after the sum
        network, gradient = self.network, self._gradient
        yield from network.penalty.operations(network.parameters, gradient, self._strengths)
        yield from state.operations(gradient)

    def _compile(self) -> SummedProgram:
        operations, backend = self.operations, self.network.backend
        buckets = _buckets(self._gradient, self.overlap)
        # the products of BP3 and BP4, from the last layer's to the first's
        ends = [i for i, op in enumerate(operations, 1) if op.equation == "BP3, BP4"]
        cuts = [0, *(ends[len(ends) - 1 - first] for first, _, _ in buckets)]
        self.segments = [backend.compile(operations[i:j]) for i, j in pairwise(cuts)]
        self.parts = [(start, stop) for _, start, stop in buckets]
        self.vector = self._gradient.vector
        sums = summing(self.group, backend, self.vector, self.parts, self.network.dtype)
        update = backend.compile(operations[cuts[-1] :])
        return SummedProgram(self._run_segments, sums, len(self.parts), self.vector, update)

    def _run_segments(self, begin: Callable[[int], None]) -> None:
        for part, segment in enumerate(self.segments):
            segment.run(1)
            begin(part)


class SummedProgram:
    """A gradient, its sum over the ranks, and the update.

    Parameters
    ----------
    gradient : callable
        Writes this rank's; calls what it is given with the number of each part, in order, as soon as
        that is written.
    sums : HostSum, or another such
    parts : int
    vector : array of shape (size,)
        The gradient.
    update : Program
    """

    def __init__(
        self,
        gradient: Callable[[Callable[[int], None]], None],
        sums: Any,
        parts: int,
        vector: Array,
        update: Program,
    ) -> None:
        self._gradient, self.sums, self._parts = gradient, sums, parts
        self._vector, self.update = vector, update
        self._begun = self._done = 0

    @property
    def calls(self) -> Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The update's; those before it are in plans of their own."""
        return self.update.calls

    def run(self, steps: int) -> None:
        """Steps on the batch that is loaded."""
        for _ in range(steps):
            self._gradient(self._begin)
            self._end()
            self.update.run(1)

    def run_batches(self, batches: Batches, taken: list[int]) -> None:
        """A step on each of some batches."""
        for step, (batch, slot) in enumerate(zip(batches.batches, batches.slots, strict=False)):
            if batches.settings is not None:
                batches.settings.set(step)
            batches.load(batch, batches.rows)
            self.run(1)
            taken[0] += 1
            slot[...] = batches.output

    def idle(self) -> None:
        """A step of a rank that has no examples left."""
        self._vector[...] = 0.0
        self._rest()
        self.update.run(1)

    def count(self) -> None:
        """Steps are counted from here on: for `finish`."""
        self._begun = self._done = 0

    def finish(self, steps: int) -> None:
        """Take part in the sums that are left of so many steps, with no matter what."""
        while self._done < steps:
            self._rest()

    def _rest(self) -> None:
        for part in range(self._begun, self._parts):
            self._begin(part)
        self._end()

    def _begin(self, part: int) -> None:
        self._begun = part + 1
        self.sums.begin(part)

    def _end(self) -> None:
        self.sums.end()
        self._begun, self._done = 0, self._done + 1


class AccumulatedPlan:
    """A step of `SummedPlan` whose examples are worked through in parts, one after the other.

    It stands for a plan where training runs one: `workspace` has the rows and `output` of the whole
    batch, and hidden layers of the last part.

    Parameters
    ----------
    make : callable
        Gives the `SummedPlan` for a number of examples.
    batch_size : int
    parts : int
        How many, at most.
    """

    def __init__(self, make: Callable[[int], SummedPlan], batch_size: int, parts: int) -> None:
        each = -(-batch_size // parts)
        columns = [slice(i, min(i + each, batch_size)) for i in range(0, batch_size, each)]
        plans = {m: make(m) for m in {s.stop - s.start for s in columns}}
        self._parts = [(plans[s.stop - s.start], s) for s in columns]
        last = self._last = self._parts[-1][0]
        self.network, self.plans, self.batch_size = last.network, list(plans.values()), batch_size
        backend, dtype = self.network.backend, self.network.dtype
        ws = last.workspace
        rows = backend.empty((batch_size, ws.rows.shape[1]), dtype)
        self.output = backend.empty((*last.output.shape[:-1], batch_size), dtype)
        self._total = backend.empty(last.vector.shape, dtype)
        start = ws.extended[0].shape[-2]
        targets = rows[:, start : start + self.network.sizes[-1]].mT
        whole = (*ws.z[:-1], self.output), (*ws.a[:-1], self.output)
        self.workspace = SimpleNamespace(rows=rows, z=whole[0], a=whole[1], targets=targets)
        program = last.program
        assert isinstance(program, SummedProgram)
        self.program = SummedProgram(
            self._accumulate, program.sums, len(last.parts), last.vector, program.update
        )

    def share(self, examples: int) -> None:
        """As `SummedPlan.share`."""
        for plan in self.plans:
            plan.share(examples)

    @property
    def learning_rate(self) -> Any:
        """The step η."""
        return self._last.learning_rate

    @learning_rate.setter
    def learning_rate(self, η: Any) -> None:
        for plan in self.plans:
            plan.learning_rate = η

    def settings(self, rates: Sequence[float]) -> Settings:
        """As `Plan.settings`."""
        each = [plan.settings(rates) for plan in self.plans]
        targets = [target for settings in each for target in settings.targets]
        return Settings(targets, np.concatenate([settings.values for settings in each], axis=1))

    def _accumulate(self, begin: Callable[[int], None]) -> None:
        total, last = self._total, len(self._parts) - 1
        for number, (plan, columns) in enumerate(self._parts):
            plan.workspace.rows[...] = self.workspace.rows[columns, :]
            for part, segment in enumerate(plan.segments):
                segment.run(1)
                if number == last:
                    if number:
                        i, j = plan.parts[part]
                        plan.vector[i:j] += total[i:j]
                    begin(part)
            if number == 0:
                total[...] = plan.vector
            elif number < last:
                total += plan.vector
            self.output[..., columns] = plan.output


def summing(
    group: Group, backend: Backend, vector: Array, parts: Sequence[tuple[int, int]], dtype: str
) -> Any:
    """What adds up a vector over the ranks: on the device where the backend can, else on the host."""
    found = backend.over_ranks(group, vector, parts)
    if found is not None:
        return found
    if isinstance(vector, np.ndarray):
        return HostSum(group, vector, parts)
    if group.rank == 0:
        _say_once(backend.name)
    return StagedSum(group, vector, parts, backend, dtype)


@functools.cache
def _say_once(name: str) -> None:
    logging.getLogger("bpengine").warning(
        "gradients on backend %r go over the ranks by way of the host's memory: two copies a step", name
    )


def _buckets(gradient: Parameters, overlap: bool) -> list[tuple[int, int, int]]:
    """Layers whose gradients are summed together, from the last: the first of them, begin and end."""
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
