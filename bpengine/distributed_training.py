"""Mini-batch training on the ranks of a `Group`: rounds of steps that all of them take together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bpengine import checkpoints, persistence
from bpengine.backends import Array
from bpengine.callbacks import Callback, Checkpoint, CSVLog, JSONLinesLog, Progress
from bpengine.collectives import Group, RankError
from bpengine.distributed import AccumulatedPlan, DataParallel, SummedPlan
from bpengine.history import History
from bpengine.optimizers import Optimizer
from bpengine.plan import Plan
from bpengine.sources import Chunk
from bpengine.training import NonFiniteCostError, Training, beginning
from bpengine.validation import sample_weights

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["DataParallelTraining", "Ranks"]

FIRST_ALONE = Checkpoint, CSVLog, JSONLinesLog, Progress  # callbacks that rank 0 alone has
# control points
(
    START,
    DRAW,
    COUNTS,
    WEIGHTS,
    BEGIN,
    SAME,
    EPOCH,
    ROUND,
    COSTS,
    LAYER,
    VALIDATION,
    STOP,
    RANDOM,
) = range(1, 14)


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
        first = [x for x in self.callbacks if not isinstance(x, Checkpoint)]
        last = [x for x in self.callbacks if isinstance(x, Checkpoint)]
        self.callbacks = [*first, _Agreement(), *last]

    @property
    def _summed(self) -> bool:
        """Whether gradients are summed; else steps are this rank's own."""
        options = self.options
        return options.sync_every == 1 and (self.group.size > 1 or options.accumulate > 1)

    def begin(self, resume: str | os.PathLike[str] | None) -> None:
        """Take up what rank 0 has: parameters, or a checkpoint's training."""
        group, network = self.group, self.network
        if group.rank == 0 and resume is not None and Path(resume).exists():
            checkpoints.resume(self, resume)
        steps = group.agree(BEGIN, self.source.steps or 0)[:, 0]
        # the progress of an epoch, for schedules: that of the rank that has the most steps
        self.source.steps = int(steps.max()) if steps.all() else None
        if group.size == 1:
            return
        shared = [x for x in self.callbacks if not isinstance(x, FIRST_ALONE)]
        description, _ = persistence.describe(network)
        own = {
            **description,
            "optimizer": type(self.optimizer).__name__,
            "learning_rate": self.rate,
            "epochs": self.epochs,
            "sync_every": self.options.sync_every,
            "accumulate": self.options.accumulate,
            "overlap": self.options.overlap,
            "callbacks": [type(x).__name__ for x in shared],
        }
        told = group.broadcast_object(own)
        for name, value in told.items():
            if own[name] != value:
                raise ValueError(
                    f"{name} is {own[name]!r:.80} on rank {group.rank} and {value!r:.80} on rank 0; "
                    "ranks that train together need the same."
                )
        group.agree(SAME)
        memories = (
            [_moved(x.memory(), network.backend.owns, self._to_host) for x in shared]
            if self.epoch
            else None
        )
        numbers = self.epoch, self.steps, self.taken, self.stopped, self.stepping is not None
        found = group.broadcast_object((numbers, self.history.as_dict(), memories))
        (self.epoch, self.steps, self.taken, self.stopped, averaged), history, memories = found
        assert self.state is not None
        arrays = [network.vector, *self.state.arrays.values()]
        if averaged:
            if self.stepping is None:
                self.stepping = network.backend.xp.asarray(network.vector, copy=True)
            arrays.append(self.stepping)
        for array in arrays:
            self._on_host(array, group.broadcast)
        if group.rank:
            self.history = History.from_dict(history)
            for callback, memory in zip(shared, memories or (), strict=bool(memories)):
                callback.recall(_moved(memory, _is_array, self._from_host))

    def _to_host(self, array: Array) -> np.ndarray[Any, Any]:
        return np.array(self.network.backend.to_numpy(array), order="C")

    def _from_host(self, array: Array) -> Array:
        return self.network.backend.asarray(array, str(array.dtype))

    def _on_host(self, array: Array, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
        """Let `change` write into a copy of the array in the host's memory, and take that back."""
        host = self._to_host(array)
        change(host)
        array[...] = self.network.backend.asarray(host, self.network.dtype)

    def run(self) -> None:
        """Epochs until the last one or until something stops them."""
        try:
            super().run()
        except KeyboardInterrupt as interrupt:
            if not self.group.knows(interrupt):
                self.group.interrupt()
            raise
        self._share_random_state()

    def _share_random_state(self) -> None:
        generator = self.network.rng.bit_generator
        self.group.agree(RANDOM)
        if self.group.size > 1:
            generator.state = self.group.broadcast_object(generator.state)

    def pass_over_examples(self) -> float:
        """Steps over all examples of all ranks; gives their average cost, without penalties."""
        group = self.group
        self._hide_average()
        _derive(group, self.network.rng, EPOCH)
        total, examples, step = 0.0, 0, 0
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
                self.history.monitored.append(monitor.look(now, self.epoch + 1, step + 1))
            costs = self._round(now, steps, step)
            # one after the other: the sum does not depend on where rounds end
            total = float(np.add.accumulate(np.append(total, costs))[-1])
            step, examples = step + steps, examples + steps * self._examples
            if self.options.sync_every > 1:
                self._since += steps * mine[0], steps * self._examples
                if step % self.options.sync_every == 0:
                    self._average()
            for callback in self.callbacks:
                callback.steps(self, steps)
        self._average()
        self.steps, self.taken = step, self.taken + step
        return total / max(examples, 1)

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
        costs, finite = np.zeros(steps), True
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
            plan.share(self._examples)
            plan.learning_rate = η
            plan.program.idle()

    def _plan(self, chunk: Chunk) -> tuple[Plan, list[Array], Array]:
        found = super()._plan(chunk)
        if self._summed:
            self._shared = found[0]
            self._shared.share(self._examples)
            self._shared.program.count()
        return found

    def _new_plan(self, chunk: Chunk) -> Any:
        if not self._summed:
            return super()._new_plan(chunk)
        optimizer = self.optimizer
        assert isinstance(optimizer, Optimizer)

        def make(m: int) -> SummedPlan:
            return SummedPlan(
                self.network,
                m,
                optimizer,
                self.group,
                state=self.state,
                weighted=chunk.weighted,
                overlap=self.options.overlap,
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
                layer = beginning(plan, self.network.parameters.blocks)
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
            for array in (self.network.vector, *self.state.arrays.values()):
                array *= float(own / total)
                self._on_host(array, self.group.sum)
        self._since[:] = 0.0

    def _validate(self) -> dict[str, float] | None:
        """The figures of all ranks' validation data together."""
        own = super()._validate()
        share = 0.0
        if self.validation is not None:
            X, _, *weights = self.validation
            m, backend = int(X.shape[1]), self.network.backend
            counts = [sample_weights(w, m, backend, relative=False) for w in weights]
            share = float(counts[0].sum()) if counts else float(m)
        figures = own or {}
        accuracy = figures.get("accuracy")
        known = own is None or accuracy is not None
        sent = share, figures.get("cost", 0.0), accuracy or 0.0, known, self._checksum()
        table = self.group.agree(VALIDATION, *sent)
        if (table[:, 4] != table[0, 4]).any():
            raise self.group.settled(
                RuntimeError(
                    "the ranks' parameters are no longer the same. Do callbacks change them, or "
                    "learning rates differ, on some ranks alone?"
                )
            )
        shares = table[:, 0]
        if not shares.any():
            return None
        found = {"cost": float(shares @ table[:, 1] / shares.sum())}
        if table[:, 3].all():
            found["accuracy"] = float(shares @ table[:, 2] / shares.sum())
        return found

    def _checksum(self) -> int:
        host = self.network.backend.to_numpy(self.network.vector)
        return zlib.crc32(host.tobytes()) if self.group.size > 1 else 0


@dataclasses.dataclass(frozen=True)
class Ranks:
    """What `fit` needs of the other ranks before training begins.

    Parameters
    ----------
    group : Group
    options : DataParallel
    """

    group: Group
    options: DataParallel

    def start(
        self, network: Network, optimizer: object, callbacks: list[Callback], is_stream: bool
    ) -> list[Callback]:
        """Check what is asked for; gives the callbacks that this rank is to have.

        Raises
        ------
        ValueError
            If ranks can't train together in this way.
        """
        if not isinstance(optimizer, Optimizer):
            raise ValueError(
                f"{type(optimizer).__name__} trains on one machine: leave out comm, or take another "
                "optimizer, such as bp.Adam()."
            )
        streams = self.group.agree(START, is_stream)[:, 0]
        if streams.any() and not streams.all():
            raise self.group.settled(
                ValueError("give arrays on all ranks or iterables of batches on all; some have either.")
            )
        _derive(self.group, network.rng, DRAW)
        return [x for x in callbacks if self.group.rank == 0 or not isinstance(x, FIRST_ALONE)]

    def count(self, counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Counts over all ranks."""
        self.group.agree(COUNTS)
        self.group.sum(counts)
        return counts

    def relative(self, weights: np.ndarray[Any, Any] | None, N: int) -> np.ndarray[Any, Any] | None:
        """The weights of N examples, relative to the mean of all ranks'; None where no rank has any."""
        own = N if weights is None else float(weights.sum())
        table = self.group.agree(WEIGHTS, weights is not None, own, N)
        if not table[:, 0].any():
            return None
        total, examples = table[:, 1:3].sum(axis=0)
        if total == 0:
            raise self.group.settled(
                ValueError("sample_weight is 0 for every example; at least one must count.")
            )
        return np.asarray((np.ones(N) if weights is None else weights) / (total / examples))

    def training(self, *arguments: Any, **named: Any) -> DataParallelTraining:
        """The training of this rank."""
        return DataParallelTraining(self.group, self.options, *arguments, **named)


class _NonFiniteError(Exception):
    """A cost of this rank is not finite: for the others to know."""


class _Agreement(Callback):
    """Training ends on all ranks where a callback of one has stopped it."""

    def epoch(self, training: Training) -> None:
        assert isinstance(training, DataParallelTraining)
        training.stopped = bool(training.group.agree(STOP, training.stopped)[:, 0].any())


def _derive(group: Group, rng: np.random.Generator, kind: float) -> None:
    """Rank 0's random numbers go on as they are; those of every other rank begin anew, from them."""
    state = json.dumps(rng.bit_generator.state, sort_keys=True, default=str)
    key = hashlib.sha256(state.encode()).digest()
    parts = (int.from_bytes(key[i : i + 6], "big") for i in (0, 6))  # which a float64 holds exactly
    seed = [int(x) for x in group.agree(kind, *parts)[0, :2]]
    if group.rank:
        rng.bit_generator.state = type(rng.bit_generator)([*seed, group.rank]).state


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


def _moved(memory: dict[str, Any], is_meant: Any, move: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: move(x) if is_meant(x) else x for name, x in memory.items()}


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray)
