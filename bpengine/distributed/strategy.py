"""Mini-batch training on the ranks of a `Group`, in rounds of steps."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk
from bpengine.distributed.agreement import Phase, generators, seed_of_rank
from bpengine.distributed.collectives import Group, Host, RankError
from bpengine.distributed.options import DataParallel
from bpengine.distributed.summed_gradient import AccumulatedPlan, Summed
from bpengine.model.examples import sample_weights
from bpengine.model.model import Model
from bpengine.optimizers.update import OptimizerState
from bpengine.training.loop import SingleProcess, Training
from bpengine.training.steps import NonFiniteCostError, PlanFactory, Snapshot, first_non_finite_layer

__all__ = ["DataParallelStrategy", "on_host", "to_host"]


class DataParallelStrategy(SingleProcess):
    """Steps of all ranks of a group, with summed gradients or averaged parameters."""

    def __init__(self, group: Group, options: DataParallel) -> None:
        self.group, self.options = group, options
        group.finish = self._finish
        self._summed_plan: Any = None  # of the last round
        self._examples = 0  # of all ranks, in a step of this round
        self._left = 0  # steps of this round with summed gradients
        self._since = np.zeros(2)  # examples of this rank and of all ranks since the last average

    @property
    def _sums(self) -> bool:
        """Whether gradients are summed; otherwise steps are local."""
        options = self.options
        return options.sync_every == 1 and (self.group.size > 1 or options.accumulate > 1)

    def plan_factory(self, make_plan: PlanFactory) -> PlanFactory:
        """A factory of plans whose gradients are summed over the ranks."""
        if not self._sums:
            return make_plan
        parts = self.options.accumulate

        def summed(model: Model, chunk: Chunk, state: OptimizerState, executor: Backend) -> Any:
            def make(m: int) -> Plan:
                return Plan(
                    model,
                    m,
                    state.optimizer,
                    gradient=Summed(self.group, self.options.overlap),
                    state=state,
                    weighted=chunk.weighted,
                    per_network=chunk.per_network,
                )

            return make(chunk.size) if parts == 1 else AccumulatedPlan(make, chunk.size, parts)

        return summed

    @contextmanager
    def running(self, training: Training) -> Iterator[None]:
        """Context of all epochs; at the end all ranks have the same random states."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if not self.group.knows(interrupt):
                self.group.interrupt()
            self._average(training)
            self._share_random_state(training)
            raise
        self._share_random_state(training)

    def _share_random_state(self, training: Training) -> None:
        bits = [rng.bit_generator for rng in generators(training.network)]
        self.group.agree(Phase.RANDOM)
        if self.group.size > 1:
            states = self.group.broadcast_object([generator.state for generator in bits])
            for generator, state in zip(bits, states, strict=True):
                generator.state = state

    def begin_epoch(self, training: Training) -> None:
        """Seed the generators of the other ranks from rank 0's."""
        for rng in generators(training.network):
            seed_of_rank(self.group, rng, Phase.EPOCH)

    def most(self, step: int, steps: int) -> int:
        """At most `steps`, up to the next average of the parameters."""
        every = self.options.sync_every
        return steps if every == 1 else min(steps, every - step % every)

    def rounds(
        self, training: Training, chunks: Iterator[Chunk]
    ) -> Iterator[tuple[Chunk | None, int, int]]:
        """Rounds of as many steps as every rank with examples left can take."""
        group, step = self.group, 0
        chunk: Chunk | None = None
        while True:
            group.where = f"epoch {training.epoch + 1}, step {step + 1}"
            if chunk is None:
                chunk = next(chunks, None)
            mine = (0, 0) if chunk is None else (chunk.size, len(chunk.batches))
            table = group.agree(Phase.ROUND, *mine, group.interrupts)
            if table[:, 2].any():
                raise group.as_agreed(KeyboardInterrupt())
            if not table[:, 1].any():
                break
            steps = self.most(step, int(table[table[:, 1] > 0, 1].min()))
            self._examples = int(table[:, 0].sum())
            now, chunk = (None, None) if chunk is None else _split(chunk, steps)
            yield now, steps, steps * self._examples
            step += steps
        self._average(training)

    def take_steps(self, training: Training, chunk: Chunk | None, steps: int, step: int) -> Host:
        """Take the steps of a round, without a chunk if no examples are left.

        Returns the sum of the costs of each step's examples, of all ranks.
        """
        group, runner = self.group, training.runner
        if self._summed_plan is not None and self._summed_plan.network is not runner.model:
            self._summed_plan = None  # some networks have stopped since
        start = runner.snapshot()
        rates = training.rates(step, steps)
        costs, finite = np.zeros((steps, *runner.model.stack)), True
        self._left = steps if self._sums else 0
        try:
            if chunk is not None:
                self._prepare(training, chunk)
                costs = runner.run(chunk, rates, _raise_non_finite, start)
                if rates is not None:
                    training.rate = rates[-1]
            else:
                if self._sums:
                    self._summed_plan.program.count()
                for η in rates or [training.rate] * steps:
                    self._step_without_examples(training, η)
        except _NonFiniteError:
            finite = False
        self._left = 0
        try:
            finite = bool(group.agree(Phase.COSTS, finite)[:, 0].all())
        except RankError:
            runner.restore(start)  # the state of all ranks
            raise
        if not finite:
            self._find_non_finite(training, chunk, start, steps, step)
        group.sum(costs)
        if self.options.sync_every > 1:
            m = 0 if chunk is None else chunk.size
            self._since += steps * m, steps * self._examples
            if (step + steps) % self.options.sync_every == 0:
                self._average(training)
        return costs

    def _prepare(self, training: Training, chunk: Chunk) -> None:
        """Let the plan of a chunk average over all ranks' examples."""
        if self._sums:
            self._summed_plan = training.runner.plan(chunk)[0]
            self._summed_plan.average_over(self._examples)
            self._summed_plan.program.count()

    def _step_without_examples(self, training: Training, η: Any) -> None:
        """A step of a rank without examples left."""
        training.rate = η
        if self._sums:
            plan = self._summed_plan
            plan.average_over(self._examples)
            plan.learning_rate = η
            plan.program.step_without_examples()

    def _finish(self) -> None:
        if self._left and self._summed_plan is not None:
            self._summed_plan.program.finish(self._left)

    def _find_non_finite(
        self, training: Training, chunk: Chunk | None, start: Snapshot, steps: int, step: int
    ) -> None:
        """Repeat the steps from `start`, and stop all ranks before the non-finite one."""
        runner = training.runner
        runner.restore(start)
        rates = training.rates(step, steps)
        if chunk is not None:
            self._prepare(training, chunk)
            plan = runner.plan(chunk)[0]
        for i in range(steps):
            before, layer = runner.snapshot(), None
            if chunk is not None:
                runner.step(plan, chunk, i, rates)
                layer = first_non_finite_layer(plan, runner.model.parameters.blocks)
            else:
                self._step_without_examples(training, rates[i] if rates else training.rate)
            layers = self.group.agree(Phase.LAYER, layer or 0)[:, 0]
            if layers.any():
                runner.restore(before if self.options.sync_every == 1 else start)
                self._average(training)
                found = int(layers[layers > 0][0])
                raise self.group.as_agreed(NonFiniteCostError(training.epoch + 1, step + i + 1, found))

    def _average(self, training: Training) -> None:
        """Average parameters and optimizer states, weighted by the ranks' examples."""
        mine, total = self._since
        runner = training.runner
        if total and self.group.size > 1:
            for array in (runner.model.vector, *runner.state.arrays.values()):
                array *= float(mine / total)
                on_host(runner.model, array, self.group.sum)
        self._since[:] = 0.0

    def validated(self, training: Training, result: dict[str, Any] | None) -> dict[str, Any] | None:
        """The metrics over all ranks' validation data."""
        share = 0.0
        if training.validation is not None:
            X, _, *weights = training.validation
            m, backend = int(X.shape[-1]), training.network.backend
            counts = [sample_weights(w, m, backend, relative=False) for w in weights]
            share = float(counts[0].sum()) if counts else float(m)
        accuracy_is_known = result is None or "accuracy" in result
        table = self.group.agree(Phase.VALIDATION, share, accuracy_is_known, self._checksum(training))
        if (table[:, 2] != table[0, 2]).any():
            raise self.group.as_agreed(
                RuntimeError(
                    "the ranks' parameters are no longer the same. Do callbacks change them, or "
                    "learning rates differ, on some ranks alone?"
                )
            )
        total = float(table[:, 0].sum())
        if not total:
            return None
        names = ["cost", "accuracy"] if table[:, 1].all() else ["cost"]
        sums = np.zeros((len(names), *training.runner.model.stack))
        if result is not None:
            sums += share / total * np.array([result[name] for name in names])
        self.group.sum(sums)
        return {name: x if x.ndim else float(x) for name, x in zip(names, sums, strict=True)}

    def _checksum(self, training: Training) -> int:
        host = training.network.backend.to_numpy(training.network.vector)
        return zlib.crc32(host.tobytes()) if self.group.size > 1 else 0

    def agreed(self, stopped: bool) -> bool:
        """Whether a callback has stopped training on any rank."""
        return bool(self.group.agree(Phase.STOP, stopped)[:, 0].any())


def to_host(model: Model, array: Array) -> Host:
    """A contiguous copy in host memory."""
    return np.array(model.backend.to_numpy(array), order="C")


def on_host(model: Model, array: Array, change: Callable[[Host], None]) -> None:
    """Apply `change`, in place, to a copy in host memory, and copy it back."""
    host = to_host(model, array)
    change(host)
    array[...] = model.backend.asarray(host, model.dtype)


class _NonFiniteError(Exception):
    """A cost of this rank is not finite."""


def _raise_non_finite(plan: Any, start: Snapshot) -> None:
    raise _NonFiniteError


def _split(chunk: Chunk, steps: int) -> tuple[Chunk, Chunk | None]:
    """A chunk's first steps, and the rest, if any."""
    if steps == len(chunk.batches):
        return chunk, None
    return _part(chunk, slice(0, steps)), _part(chunk, slice(steps, None))


def _part(chunk: Chunk, steps: slice) -> Chunk:
    def outcomes() -> tuple[Array, Array | None]:
        y, weights = chunk.outcomes()
        return y[steps, ...], None if weights is None else weights[steps, ...]

    return dataclasses.replace(chunk, batches=chunk.batches[steps], outcomes=outcomes)
