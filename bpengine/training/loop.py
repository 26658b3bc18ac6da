"""Mini-batch training: take examples, step, add up the costs; validation and callbacks each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from bpengine import schedules
from bpengine.backends import Array, Batches, Entries
from bpengine.backprop.forward import evaluate
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk, Source
from bpengine.model.model import Model
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.optimizers.update import State
from bpengine.training.compilation import for_training
from bpengine.training.history import History, Statistics
from bpengine.training.monitor import Monitor
from bpengine.training.steps import PLANS, NonFiniteCostError, beginning, finite, kept_steps

__all__ = ["Callback", "Training"]


class Training:
    """A training under way: what callbacks are given.

    Attributes
    ----------
    network : Network
    optimizer : Optimizer or LBFGS
    source : Source
        Where the examples come from.
    trained : Network
        What steps are taken on: `network`, but for a stack of which some networks have stopped.
    history : History
    epochs, epoch : int
        How many epochs there are to be, and how many are complete.
    steps, taken : int
        Steps of the last epoch, and of all complete ones.
    """

    def __init__(
        self,
        network: Model,
        optimizer: Optimizer | LBFGS,
        source: Source,
        epochs: int = 1,
        *,
        validation: tuple[Array, ...] | None = None,
        callbacks: Sequence[Callback] = (),
        monitor: int | str | None = None,
    ) -> None:
        self.network, self.optimizer, self.source, self.epochs = network, optimizer, source, epochs
        self.trained = network
        self.validation, self.callbacks = validation, callbacks
        self.history = History()
        self.epoch = self.steps = self.taken = 0
        self.stopped = False
        self.state: State | None = None
        if isinstance(optimizer, Optimizer):
            self.state = State(optimizer, network.parameters)
            self.schedule = schedules.resolve(optimizer.learning_rate)
            self.rate = self.schedule.rate(0.0)
        self.stepping: Array | None = None  # parameters that steps go on from; None: the network's
        self._monitor = None if monitor is None else Monitor(monitor)
        self._plans: dict[Any, tuple[Plan, Entries, Array]] = {}
        self._replayer = network.backend
        if (
            not network.backend_was_given
            and source.batch_size
            and source.steps
            and self.state is not None
        ):
            steps, remembers = source.steps * epochs, bool(self.state.arrays)
            self._replayer = for_training(network, source.batch_size, steps, remembers)

    def stop(self) -> None:
        """End the training after this epoch."""
        self.stopped = True

    @property
    def is_last(self) -> bool:
        """Whether no epoch follows."""
        return self.stopped or self.epoch >= self.epochs

    def feed(self, source: Source) -> None:
        """Go on with examples from somewhere else."""
        self.source = source

    def memory(self) -> dict[str, Any]:
        """What a checkpoint is to hold besides what every training has."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` gave, the network left as it is."""

    def go_on(self) -> None:
        """Start where a checkpoint has left off, now that the network's parameters are its."""

    def run(self) -> None:
        """Epochs until the last one or until something stops them."""
        while not self.is_last:
            start = time.perf_counter()
            cost = self.pass_over_examples()
            self.end_epoch(cost, time.perf_counter() - start)

    def end_epoch(self, cost: float, seconds: float) -> None:
        """Validate, note the figures and tell the callbacks."""
        history = self.history
        history.seconds.append(seconds)
        if self.state is not None:
            history.learning_rate.append(self.rate)
        self.show_average()
        cost += self.trained.penalty.value(self.trained.parameters)
        result = self._validate()
        if result is not None:
            history.validation_cost.append(self._of_all(result["cost"], "validation_cost"))
            if "accuracy" in result:
                accuracy = self._of_all(result["accuracy"], "validation_accuracy")
                history.validation_accuracy.append(accuracy)
        history.cost.append(self._of_all(cost, "cost"))  # the last: an epoch that has it is complete
        self.epoch += 1
        for callback in self.callbacks:
            callback.epoch(self)

    def complete(self, cost: Any) -> Any:
        """Count an epoch of `partial_fit`; gives its cost with the penalty."""
        cost = self._of_all(cost + self.trained.penalty.value(self.trained.parameters), "cost")
        self.history.cost.append(cost)
        self.epoch += 1
        return cost

    def _of_all(self, figure: Any, name: str) -> Any:
        """A figure of `trained` as the history has it, under `name`."""
        return figure

    def _validate(self) -> dict[str, Any] | None:
        """The figures of the validation data, where there are any."""
        return None if self.validation is None else evaluate(self.trained, *self.validation)

    def show_average(self) -> None:
        """Where parameters are averaged, let the network have the average until steps go on."""
        if self.state is not None and "average" in self.state.arrays:
            if self.stepping is None:
                self.stepping = self.trained.backend.xp.asarray(self.trained.vector, copy=True)
            self.trained.vector[...] = self.state.arrays["average"]

    def _hide_average(self) -> None:
        """Let each network go on from its own steps, or from parameters that someone has set since."""
        if self.stepping is None or self.state is None:
            return
        parameters, arrays = self.trained.parameters, self.state.arrays
        xp, blocks = self.trained.backend.xp, parameters.blocks
        same = [
            xp.all(own == average, axis=(-2, -1), keepdims=True)
            for own, average in zip(blocks, parameters.split(arrays["average"]), strict=True)
        ]
        left_alone = reduce(xp.logical_and, same)
        for own, stepping in zip(blocks, parameters.split(self.stepping), strict=True):
            own[...] = xp.where(left_alone, stepping, own)
        if not bool(xp.all(left_alone)):
            # these are the first of a new average: of all networks, as they share the count of steps
            arrays["average"][...] = parameters.vector
            arrays["averaged"][...] = 0.0
        self.stepping = None

    def pass_over_examples(self) -> Any:
        """Steps over all examples; gives their average cost, without penalties."""
        self._hide_average()
        total, examples, step = np.zeros(self.trained.stack), 0, 0
        for chunk in self.source.chunks(self.network.rng, self._most):
            if self._monitor is not None and not self._monitor.wait(self.taken, step):
                self.history.monitored.append(self._look(self._monitor, chunk, step))
            costs = self._run(chunk, step)
            # one after the other: the sum does not depend on where chunks end
            total = np.add.accumulate(np.concatenate([total[None], costs]))[-1]
            steps = len(chunk.batches)
            examples += steps * chunk.size if chunk.total is None else chunk.total
            step += steps
            for callback in self.callbacks:
                callback.steps(self, steps)
        return self._passed(total, examples, step)

    def _passed(self, total: np.ndarray[Any, Any], examples: int, steps: int) -> Any:
        """Count the steps of an epoch; gives the average cost of its examples."""
        self.steps, self.taken = steps, self.taken + steps
        average = total / max(examples, 1)
        return average if average.ndim else float(average)

    def _look(self, monitor: Monitor, chunk: Chunk, step: int) -> Statistics:
        """The statistics of a chunk's first step."""
        return monitor.look(self.trained, chunk, self.epoch + 1, step + 1)

    def _most(self, step: int, m: int) -> int:
        """How many steps on m examples may be taken before the costs are looked at."""
        steps = kept_steps(self.trained, m)
        if self._monitor is not None:
            steps = int(min(steps, 1 + self._monitor.wait(self.taken, step + 1)))
        return steps

    def _plan(self, chunk: Chunk) -> tuple[Plan, Entries, Array]:
        """The plan for a chunk's batches, and a place for the output of each of its steps."""
        key = chunk.size, chunk.weighted, tuple(chunk.own)
        if key not in self._plans:
            if len(self._plans) == PLANS:
                del self._plans[next(iter(self._plans))]
            net, m = self.trained, chunk.size
            plan = self._new_plan(chunk)
            most = kept_steps(net, m)
            kept = net.backend.empty((most, *net.stack, net.sizes[-1], m), net.dtype)
            self._plans[key] = plan, Entries(kept), kept
        return self._plans[key]

    def _new_plan(self, chunk: Chunk) -> Plan:
        assert isinstance(self.optimizer, Optimizer)
        assert self.state is not None
        options: Any = {"state": self.state, "weighted": chunk.weighted, "own": chunk.own}
        optimizer = self.state.optimizer
        return Plan(self.trained, chunk.size, optimizer, **options, replayer=self._replayer)

    def _watched(self) -> list[float]:
        """The costs that a schedule goes by."""
        return self.history.watched

    def _rates(self, step: int, count: int) -> list[float] | None:
        """The learning rate of each step, where it is not always the same."""
        if isinstance(self.schedule, schedules.Constant):
            return None
        watched, each = self._watched(), self.source.steps or self.steps or math.inf
        return [
            self.schedule.rate(self.epoch + min((step + i) / each, 1.0), watched) for i in range(count)
        ]

    def _run(self, chunk: Chunk, step: int) -> np.ndarray[Any, Any]:
        """Take a chunk's steps; gives the sum of the costs of each step's examples.

        What the cost is taken from is kept of every step, so that all costs are added up in one go.
        """
        plan, slots, kept = self._plan(chunk)
        net, rows = self.trained, plan.workspace.rows
        xp, σ = net.backend.xp, net.activations[-1]
        rates = self._rates(step, len(chunk.batches))
        start = self._snapshot()
        taken = [0]
        try:
            settings = None if rates is None else plan.settings(rates)
            batches = Batches(
                chunk.load, chunk.batches, rows, plan.output, slots, chunk.examples, settings
            )
            plan.program.run_batches(batches, taken)
            if rates is not None:
                plan.learning_rate = self.rate = rates[-1]
            y, weights = chunk.outcomes()
            x = kept[: len(chunk.batches), ...]
            values = xp.astype(net.cost.per_example(σ, x, x, y), xp.float64)
            if weights is not None:
                values = values * xp.astype(weights, xp.float64)
            costs = net.backend.to_numpy(xp.sum(values, axis=-1))
            if not self._is_finite(costs):
                self._find_non_finite(plan, chunk, rates, start, step)
        except KeyboardInterrupt:
            # the interrupt may have come in the middle of a step: take those again that were complete
            self._restore(start)
            for i, batch in enumerate(chunk.batches[: taken[0]]):
                self._step(plan, chunk, batch, rates, i)
            if not self._is_finite():
                self._restore(start)
            raise
        return costs

    def _is_finite(self, costs: np.ndarray[Any, Any] | None = None) -> bool:
        """Whether the parameters are, and the costs of steps."""
        found = costs is None or bool(np.isfinite(costs).all())
        return found and finite(self.trained.backend.xp, self.trained.vector)

    def _step(
        self, plan: Plan, chunk: Chunk, batch: Any, rates: list[float] | None, number: int
    ) -> None:
        if rates is not None:
            plan.learning_rate = rates[number]
        chunk.load(batch, plan.workspace.rows)
        plan.program.run(1)

    def _snapshot(self) -> tuple[dict[str, Array], Any]:
        """All that a step changes: parameters, what the optimizer remembers, random state."""
        xp, net = self.trained.backend.xp, self.trained
        assert self.state is not None
        arrays = {"": net.vector, **self.state.arrays}
        dropout = any(map(np.any, net.dropout))
        states = [rng.bit_generator.state for rng in net.rngs] if dropout else None
        return {name: xp.asarray(array, copy=True) for name, array in arrays.items()}, states

    def _restore(self, snapshot: tuple[dict[str, Array], Any]) -> None:
        arrays, random = snapshot
        assert self.state is not None
        for name, array in {"": self.trained.vector, **self.state.arrays}.items():
            array[...] = arrays[name]
        for rng, state in zip(self.trained.rngs, random or (), strict=False):
            rng.bit_generator.state = state

    def _find_non_finite(
        self, plan: Plan, chunk: Chunk, rates: list[float] | None, start: Any, step: int
    ) -> None:
        """Replay the steps from `start` one by one, and stop before the one that went wrong."""
        self._restore(start)
        for i, batch in enumerate(chunk.batches):
            before = self._snapshot()
            self._step(plan, chunk, batch, rates, i)
            layer = beginning(plan, self.trained.parameters.blocks)
            if layer is not None:
                self._restore(before)
                raise NonFiniteCostError(self.epoch + 1, step + i + 1, layer)


class Callback:
    """What is told how training goes; derive from it and write the methods of interest.

    Each is given the `Training`: its ``network``, ``history``, ``optimizer``, ``epochs``, the number
    of complete epochs ``epoch``, and ``stop()``, which ends the training after this epoch; where the
    network is a stack, also ``freeze(numbers)``, which ends that of some of its networks.

    Examples
    --------
    >>> import bpengine as bp
    >>> class Patient(bp.Callback):
    ...     def epoch(self, training):
    ...         if training.history.cost[-1] < 0.1:
    ...             training.stop()
    """

    runs_last: ClassVar[bool] = False
    """Whether it is called after the others: a checkpoint holds what they remember of the epoch."""
    main_rank_only: ClassVar[bool] = False
    """Whether rank 0 alone has it, where ranks train together."""

    def start(self, training: Training) -> None:
        """Before the first step; with ``training.epoch`` above 0 where a run is resumed."""

    def steps(self, training: Training, count: int) -> None:
        """After every `count` steps, some dozens or hundreds at a time."""

    def epoch(self, training: Training) -> None:
        """After each epoch and its validation."""

    def end(self, training: Training) -> None:
        """After training, also if it was interrupted or has failed."""

    def memory(self) -> dict[str, Any]:
        """What a checkpoint is to hold for it: arrays and numbers by name."""
        return {}

    def recall(self, memory: dict[str, Any]) -> None:
        """Before the start of a resumed training: take up what `memory` gave, {} if there was none."""
