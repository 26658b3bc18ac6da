"""Mini-batch training on the ranks of a `Group`: rounds of steps that all of them take together."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bpengine.backends import Array, Entries
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk
from bpengine.distributed.agreement import (
    COSTS,
    EPOCH,
    LAYER,
    RANDOM,
    ROUND,
    STOP,
    VALIDATION,
    derive,
    generators,
)
from bpengine.distributed.collectives import Group, RankError
from bpengine.distributed.options import DataParallel
from bpengine.distributed.plan import AccumulatedPlan, Summed
from bpengine.model.examples import sample_weights
from bpengine.training.loop import Callback, Training
from bpengine.training.stack import StackTraining
from bpengine.training.steps import NonFiniteCostError, beginning

__all__ = ["DataParallelStackTraining", "DataParallelTraining"]


class DataParallelTraining(Training):
    """A training whose steps are those of all ranks of a group.

    Parameters
    ----------
    group : Group
    options : DataParallel
    network, optimizer, source, epochs, validation, callbacks, monitor
        As for `Training`; source and validation are this rank's.
    """

    def __init__(self, group: Group, options: DataParallel, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.group, self.options = group, options
        group.finish = self._finish
        self._shared: Any = None  # the plan that was run last
        self._examples = 0  # of all ranks, in each step of this round
        self._left = 0  # steps of this round whose gradients are summed
        self._start: Any = None
        self._since = np.zeros(2)  # this rank's examples and those of all since the last average
        # checkpoints come last, and hold what all ranks have agreed on
        first = [x for x in self.callbacks if not x.runs_last]
        last = [x for x in self.callbacks if x.runs_last]
        self.callbacks = [*first, _Agreement(), *last]

    @property
    def _summed(self) -> bool:
        """Whether gradients are summed; else steps are this rank's own."""
        options = self.options
        return options.sync_every == 1 and (self.group.size > 1 or options.accumulate > 1)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """A contiguous copy in the host's memory."""
        return np.array(self.network.backend.to_numpy(array), order="C")

    def from_host(self, array: Array) -> Array:
        """What `to_host` gave, on the network's backend."""
        return self.network.backend.asarray(array, str(array.dtype))

    def on_host(self, array: Array, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
        """Let `change` write into a copy of the array in the host's memory, and take that back."""
        host = self.to_host(array)
        change(host)
        array[...] = self.network.backend.asarray(host, self.network.dtype)

    def run(self) -> None:
        """Epochs until the last one or until something stops them."""
        try:
            super().run()
        except KeyboardInterrupt as interrupt:
            if not self.group.knows(interrupt):
                self.group.interrupt()
            self._average()
            self._share_random_state()
            raise
        self._share_random_state()

    def _share_random_state(self) -> None:
        bits = [rng.bit_generator for rng in generators(self.network)]
        self.group.agree(RANDOM)
        if self.group.size > 1:
            states = self.group.broadcast_object([generator.state for generator in bits])
            for generator, state in zip(bits, states, strict=True):
                generator.state = state

    def pass_over_examples(self) -> Any:
        """Steps over all examples of all ranks; gives their average cost, without penalties."""
        group = self.group
        self._hide_average()
        for rng in generators(self.network):
            derive(group, rng, EPOCH)
        total, examples, step = np.zeros(self.trained.stack), 0, 0
        chunks = self.source.chunks(self.network.rng, self._most)
        chunk: Chunk | None = None
        while True:
            group.where = f"epoch {self.epoch + 1}, step {step + 1}"
            if chunk is None:
                chunk = next(chunks, None)
            mine = (0, 0) if chunk is None else (chunk.size, len(chunk.batches))
            table = group.agree(ROUND, *mine, group.interrupts)
            if table[:, 2].any():
                raise group.settled(KeyboardInterrupt())
            if not table[:, 1].any():
                break
            steps = int(table[table[:, 1] > 0, 1].min())
            if self.options.sync_every > 1:
                steps = min(steps, self.options.sync_every - step % self.options.sync_every)
            self._examples = int(table[:, 0].sum())
            now, chunk = (None, None) if chunk is None else _split(chunk, steps)
            monitor = self._monitor
            if now is not None and monitor is not None and not monitor.wait(self.taken, step):
                self.history.monitored.append(self._look(monitor, now, step))
            costs = self._round(now, steps, step)
            # one after the other: the sum does not depend on where rounds end
            total = np.add.accumulate(np.concatenate([total[None], costs]))[-1]
            step, examples = step + steps, examples + steps * self._examples
            if self.options.sync_every > 1:
                self._since += steps * mine[0], steps * self._examples
                if step % self.options.sync_every == 0:
                    self._average()
            for callback in self.callbacks:
                callback.steps(self, steps)
        self._average()
        return self._passed(total, examples, step)

    def _most(self, step: int, m: int) -> int:
        each = self.options.sync_every
        most = super()._most(step, m)
        return most if each == 1 else min(most, each - step % each)

    def _round(self, chunk: Chunk | None, steps: int, step: int) -> np.ndarray[Any, Any]:
        """Take some steps with the other ranks, without a chunk as one that has no examples left.

        Gives the sum of the costs of each step's examples, of all ranks.
        """
        group = self.group
        start = self._start = super()._snapshot()
        costs, finite = np.zeros((steps, *self.trained.stack)), True
        self._left = steps if self._summed else 0
        if self._shared is not None and self._summed:
            self._shared.program.count()
        try:
            if chunk is not None:
                costs = self._run(chunk, step)
            else:
                for η in self._rates(step, steps) or [self.rate] * steps:
                    self._idle(η)
        except _NonFiniteError:
            finite = False
        finally:
            self._start = None
        self._left = 0
        try:
            finite = bool(group.agree(COSTS, finite)[:, 0].all())
        except RankError:
            self._restore(start)  # where all ranks were together
            raise
        if not finite:
            self._find(chunk, start, steps, step)
        group.sum(costs)
        return costs

    def _idle(self, η: float) -> None:
        self.rate = η
        if self._summed:
            plan = self._shared
            plan.average_over(self._examples)
            plan.learning_rate = η
            plan.program.idle()

    def _plan(self, chunk: Chunk) -> tuple[Plan, Entries, Array]:
        found = super()._plan(chunk)
        if self._summed:
            self._shared = found[0]
            self._shared.average_over(self._examples)
            self._shared.program.count()
        return found

    def _new_plan(self, chunk: Chunk) -> Any:
        if not self._summed:
            return super()._new_plan(chunk)
        state = self.state
        assert state is not None

        def make(m: int) -> Plan:
            return Plan(
                self.trained,
                m,
                state.optimizer,
                gradient=Summed(self.group, self.options.overlap),
                state=state,
                weighted=chunk.weighted,
                own=chunk.own,
            )

        parts = self.options.accumulate
        return make(chunk.size) if parts == 1 else AccumulatedPlan(make, chunk.size, parts)

    def _finish(self) -> None:
        if self._left and self._shared is not None:
            self._shared.program.finish(self._left)

    def _snapshot(self) -> tuple[dict[str, Array], Any]:
        return super()._snapshot() if self._start is None else self._start

    def _find_non_finite(self, *_: Any) -> None:
        raise _NonFiniteError

    def _find(self, chunk: Chunk | None, start: Any, steps: int, step: int) -> None:
        """Replay the steps from `start` one by one, and stop before the one that went wrong."""
        self._restore(start)
        rates = self._rates(step, steps)
        plan = None if chunk is None else self._plan(chunk)[0]
        for i in range(steps):
            before = super()._snapshot()
            if chunk is not None and plan is not None:
                self._step(plan, chunk, chunk.batches[i], rates, i)
                layer = beginning(plan, self.trained.parameters.blocks)
            else:
                self._idle(rates[i] if rates else self.rate)
                layer = None
            layers = self.group.agree(LAYER, layer or 0)[:, 0]
            if layers.any():
                self._restore(before if self.options.sync_every == 1 else start)
                self._average()
                found = int(layers[layers > 0][0])
                raise self.group.settled(NonFiniteCostError(self.epoch + 1, step + i + 1, found))

    def _average(self) -> None:
        """The ranks' parameters, and what their optimizers remember, each by its share of examples."""
        own, total = self._since
        if total and self.group.size > 1:
            assert self.state is not None
            for array in (self.trained.vector, *self.state.arrays.values()):
                array *= float(own / total)
                self.on_host(array, self.group.sum)
        self._since[:] = 0.0

    def _validate(self) -> dict[str, Any] | None:
        """The figures of all ranks' validation data together."""
        own = super()._validate()
        share = 0.0
        if self.validation is not None:
            X, _, *weights = self.validation
            m, backend = int(X.shape[-1]), self.network.backend
            counts = [sample_weights(w, m, backend, relative=False) for w in weights]
            share = float(counts[0].sum()) if counts else float(m)
        accuracy_is_known = own is None or "accuracy" in own
        sent = share, accuracy_is_known, self._checksum()
        table = self.group.agree(VALIDATION, *sent)
        if (table[:, 2] != table[0, 2]).any():
            raise self.group.settled(
                RuntimeError(
                    "the ranks' parameters are no longer the same. Do callbacks change them, or "
                    "learning rates differ, on some ranks alone?"
                )
            )
        total = float(table[:, 0].sum())
        if not total:
            return None
        names = ["cost", "accuracy"] if table[:, 1].all() else ["cost"]
        sums = np.zeros((len(names), *self.trained.stack))
        if own is not None:
            sums += share / total * np.array([own[name] for name in names])
        self.group.sum(sums)
        return {name: x if x.ndim else float(x) for name, x in zip(names, sums, strict=True)}

    def _checksum(self) -> int:
        host = self.network.backend.to_numpy(self.network.vector)
        return zlib.crc32(host.tobytes()) if self.group.size > 1 else 0


class DataParallelStackTraining(StackTraining, DataParallelTraining):
    """A training of a stack whose steps are those of all ranks; a cost that is not finite ends it."""

    def narrow(self, positions: np.ndarray[Any, Any]) -> None:
        """Go on with some of the networks alone, in a stack of their own."""
        super().narrow(positions)
        self._shared = None

    def _find_non_finite(self, *_: Any) -> None:
        raise _NonFiniteError


class _NonFiniteError(Exception):
    """A cost of this rank is not finite: for the others to know."""


class _Agreement(Callback):
    """Training ends on all ranks where a callback of one has stopped it."""

    def epoch(self, training: Training) -> None:
        assert isinstance(training, DataParallelTraining)
        training.stopped = bool(training.group.agree(STOP, training.stopped)[:, 0].any())


def _split(chunk: Chunk, steps: int) -> tuple[Chunk, Chunk | None]:
    """A chunk's first steps, and the rest where there is one."""
    if steps == len(chunk.batches):
        return chunk, None
    return _part(chunk, slice(0, steps)), _part(chunk, slice(steps, None))


def _part(chunk: Chunk, steps: slice) -> Chunk:
    def outcomes() -> tuple[Array, Array | None]:
        y, weights = chunk.outcomes()
        return y[steps, ...], None if weights is None else weights[steps, ...]

    return dataclasses.replace(chunk, batches=chunk.batches[steps], outcomes=outcomes)
