"""The training loop: epochs of steps on a source's examples, validation, history, callbacks."""

from __future__ import annotations

import inspect
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np

from bpengine import schedules
from bpengine.backends import Array
from bpengine.backprop.forward import evaluate
from bpengine.data.source import Chunk, Source
from bpengine.model.labels import true_classes
from bpengine.model.model import Model
from bpengine.optimizers.base import Optimizer
from bpengine.training.backend_choice import for_training
from bpengine.training.history import History, Statistics
from bpengine.training.step_statistics import Monitor
from bpengine.training.steps import (
    NonFiniteCostError,
    PlanFactory,
    Snapshot,
    StepRunner,
    first_non_finite_layer,
    plain_plan,
    steps_per_readback,
)

__all__ = ["Callback", "SingleProcess", "Training"]

# as the callbacks of other libraries are named
LIKE_A_HOOK = re.compile(r"on_\w+|(epoch|batch|step|train|training)_(begin|start|end)")


class Training:
    """The state of a training; passed to callbacks.

    Parameters
    ----------
    rule : Optimizer, optional
        The update rule, where `optimizer` is none.
    make_plan : callable, optional
        As for `StepRunner`.

    Attributes
    ----------
    network, optimizer, source, epochs
        As for `Network.fit`, the examples as a source of batches.
    validation : tuple of arrays, or None
        X, Y and perhaps weights, checked.
    callbacks : sequence of Callback
        Sorted, with those that `runs_last` at the end.
    strategy : SingleProcess
        A single process, or several.
    history : History
    epoch : int
        Number of complete epochs.
    steps, steps_taken : int
        Steps of the last epoch, and of all complete ones.
    runner : StepRunner
        Runs the steps; in a stack, of the networks that have not stopped.
    rate : float or array
        The learning rate of the last step.
    figures : tuple of str
        Names of the costs and accuracies that the history will have.
    """

    def __init__(
        self,
        network: Model,
        optimizer: Any,
        source: Source,
        epochs: int = 1,
        *,
        validation: tuple[Array, ...] | None = None,
        callbacks: Sequence[Callback] = (),
        monitor: int | str | None = None,
        rule: Optimizer | None = None,
        make_plan: PlanFactory = plain_plan,
        strategy: SingleProcess | None = None,
    ) -> None:
        self.network, self.optimizer, self.source, self.epochs = network, optimizer, source, epochs
        self.validation, self.callbacks = validation, callbacks
        self.figures = _figures(network, validation)
        self.history = History()
        self.epoch = self.steps = self.steps_taken = 0
        self.stopped = False
        self._monitor = None if monitor is None else Monitor(monitor)
        self.strategy = strategy or SingleProcess()
        if rule is None and isinstance(optimizer, Optimizer):
            rule = optimizer
        self.rate: Any = None
        if rule is not None:
            self.schedule = schedules.resolve(rule.learning_rate)
            self.rate = self.schedule.rate(0.0)
        factory = self.strategy.plan_factory(make_plan)
        self.runner = StepRunner.recent(network, rule, factory)
        if not network.backend_was_given and rule is not None and source.batch_size and source.steps:
            has_state = bool(self.runner.state.arrays)
            self.runner.use(for_training(network, source.batch_size, source.steps * epochs, has_state))

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.network.sizes))
        return f"{type(self).__name__}({sizes}, epoch {self.epoch} of {self.epochs})"

    def stop(self) -> None:
        """End the training after this epoch."""
        self.stopped = True

    @property
    def is_last(self) -> bool:
        """Whether no epoch follows."""
        return self.stopped or self.epoch >= self.epochs

    def set_source(self, source: Source) -> None:
        """Continue with another source."""
        self.source = source

    def run(self) -> None:
        """Run epochs until the last one or a stop."""
        with self.strategy.running(self):
            while not self.is_last:
                start = time.perf_counter()
                cost = self.pass_over_examples()
                self.end_epoch(cost, time.perf_counter() - start)

    def pass_over_examples(self) -> Any:
        """Run an epoch's steps; returns the average cost, without penalties."""
        self.runner.swap_out_average()
        self.strategy.begin_epoch(self)
        total, examples, step = np.zeros(self.runner.model.stack), 0, 0
        chunks = self.source.chunks(self.network.rng, self._most)
        for chunk, steps, count in self.strategy.rounds(self, chunks):
            monitor = self._monitor
            if chunk is not None and monitor is not None and not monitor.wait(self.steps_taken, step):
                self.history.monitored.append(self._statistics(monitor, chunk, step))
            costs = self.strategy.take_steps(self, chunk, steps, step)
            # sequential, so that the sum does not depend on the chunks
            total = np.add.accumulate(np.concatenate([total[None], costs]))[-1]
            step, examples = step + steps, examples + count
            for callback in self.callbacks:
                callback.steps(self, steps)
        self.steps, self.steps_taken = step, self.steps_taken + step
        average = total / max(examples, 1)
        return average if average.ndim else float(average)

    def _most(self, step: int, m: int) -> int:
        """Most steps on m examples before the costs are read back."""
        steps = self.strategy.most(step, steps_per_readback(self.runner.model, m))
        if self._monitor is not None:
            steps = int(min(steps, 1 + self._monitor.wait(self.steps_taken, step + 1)))
        return steps

    def _statistics(self, monitor: Monitor, chunk: Chunk, step: int) -> Statistics:
        """The statistics of a chunk's first step."""
        return monitor.look(self.runner.model, chunk, self.epoch + 1, step + 1)

    def rates(self, step: int, count: int) -> list[float] | None:
        """The learning rate of each step, or None if it is constant."""
        if isinstance(self.schedule, schedules.Constant):
            return None
        costs, length = self.history.monitored_costs, self.source.steps or self.steps or math.inf
        if self.network.stack:  # a schedule gives one rate
            costs = [float(np.nanmean(entry)) for entry in costs]
        return [
            self.schedule.rate(self.epoch + min((step + i) / length, 1.0), costs) for i in range(count)
        ]

    def find_non_finite(
        self, plan: Any, start: Snapshot, chunk: Chunk, rates: list[float] | None, step: int
    ) -> None:
        """Repeat a chunk's steps from `start`; raise before the first with non-finite results."""
        runner = self.runner
        runner.restore(start)
        for i in range(len(chunk.batches)):
            before = runner.snapshot()
            runner.step(plan, chunk, i, rates)
            layer = first_non_finite_layer(plan, runner.model.parameters.blocks)
            if layer is not None:
                runner.restore(before)
                raise NonFiniteCostError(self.epoch + 1, step + i + 1, layer)

    def end_epoch(self, cost: Any, seconds: float) -> None:
        """Validate, record the figures and call the callbacks."""
        history, model = self.history, self.runner.model
        history.seconds.append(seconds)
        if self.rate is not None:
            history.learning_rate.append(self.rate)
        self.show_parameters()
        cost += model.penalty.value(model.parameters)
        result = None if self.validation is None else evaluate(model, *self.validation)
        result = self.strategy.validated(self, result)
        if result is not None:
            history.validation_cost.append(self._of_all(result["cost"], "validation_cost"))
            if "accuracy" in result:
                accuracy = self._of_all(result["accuracy"], "validation_accuracy")
                history.validation_accuracy.append(accuracy)
        history.cost.append(self._of_all(cost, "cost"))  # the last: an epoch that has it is complete
        self.epoch += 1
        for callback in self.callbacks:
            if not callback.runs_last:
                callback.epoch(self)
        self.stopped = self.strategy.agreed(self.stopped)
        for callback in self.callbacks:
            if callback.runs_last:
                callback.epoch(self)

    def end_partial_fit(self, cost: Any) -> Any:
        """Count an epoch of `partial_fit`; returns its cost with the penalty."""
        model = self.runner.model
        cost = self._of_all(cost + model.penalty.value(model.parameters), "cost")
        self.history.cost.append(cost)
        self.epoch += 1
        return cost

    def show_parameters(self) -> None:
        """Set the network's parameters to the current ones, or to their average."""
        self.runner.swap_in_average()

    def _of_all(self, figure: Any, name: str) -> Any:
        """A figure as the history records it; `StackTraining` adds stopped networks."""
        return figure

    def state_dict(self) -> dict[str, Any]:
        """Additional state for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, but not the network."""

    def resume(self) -> None:
        """Called after a checkpoint's parameters were restored."""


def _figures(network: Model, validation: tuple[Array, ...] | None) -> tuple[str, ...]:
    if validation is None:
        return ("cost",)
    backend, Y = network.backend, validation[1]
    are_classes = true_classes(np, backend.to_numpy(Y) if backend.owns(Y) else np.asarray(Y)) is not None
    return ("cost", "validation_cost", *(("validation_accuracy",) if are_classes else ()))


class SingleProcess:
    """Training in a single process; `bpengine.distributed` has a strategy for several."""

    def plan_factory(self, make_plan: PlanFactory) -> PlanFactory:
        """The plan factory, from that of a single process."""
        return make_plan

    def running(self, training: Training) -> AbstractContextManager[None]:
        """A context around all epochs."""
        return nullcontext()

    def begin_epoch(self, training: Training) -> None:
        """Called before the first step of an epoch."""

    def most(self, step: int, steps: int) -> int:
        """How many of `steps` steps may follow `step` without synchronization."""
        return steps

    def rounds(
        self, training: Training, chunks: Iterator[Chunk]
    ) -> Iterator[tuple[Chunk | None, int, int]]:
        """Rounds of steps: this process's chunk, the number of steps, and of all examples."""
        for chunk in chunks:
            steps = len(chunk.batches)
            yield chunk, steps, steps * chunk.size if chunk.total is None else chunk.total

    def take_steps(
        self, training: Training, chunk: Chunk | None, steps: int, step: int
    ) -> np.ndarray[Any, Any]:
        """Take the steps of a round; returns the summed costs of each step."""
        assert chunk is not None
        rates = training.rates(step, steps)
        costs = training.runner.run(
            chunk,
            rates,
            lambda plan, start: training.find_non_finite(plan, start, chunk, rates, step),
        )
        if rates is not None:
            training.rate = rates[-1]
        return costs

    def validated(self, training: Training, result: dict[str, Any] | None) -> dict[str, Any] | None:
        """The validation figures, from those of this process."""
        return result

    def agreed(self, stopped: bool) -> bool:
        """Whether training ends after this epoch."""
        return stopped


class Callback:
    """Base class of callbacks: override the methods of interest.

    Their argument is the `Training`, with ``network``, ``history``, ``optimizer``, ``epochs``, the
    number of complete epochs ``epoch``, and ``stop()``, which ends the training after this epoch; for
    a stack also ``stop_networks(numbers)``.

    Examples
    --------
    >>> import bpengine as bp
    >>> class Patient(bp.Callback):
    ...     def epoch(self, training):
    ...         if training.history.cost[-1] < 0.1:
    ...             training.stop()
    """

    runs_last: ClassVar[bool] = False
    """Whether it is called after the others, as checkpoints are, which store their states."""
    main_rank_only: ClassVar[bool] = False
    """Whether it runs on rank 0 only, in distributed training."""
    equal_on_ranks: ClassVar[tuple[str, ...]] = ()
    """Attributes that must be equal on all ranks, in distributed training."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, value in vars(cls).items():
            if LIKE_A_HOOK.fullmatch(name) and callable(value):
                warnings.warn(
                    f"{cls.__name__}.{name} is never called: a callback has the methods check, start, "
                    "steps, epoch, end, state_dict and load_state_dict.",
                    stacklevel=2,
                )

    def __repr__(self) -> str:
        options = {name: vars(self).get(name) for name in inspect.signature(type(self)).parameters}
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items() if name in vars(self))
        return f"{type(self).__name__}({shown})"

    def check(self, training: Training) -> None:
        """Raise an error if it can't run in this training; change nothing.

        Called before the network changes, and once more in a resumed training, with the state that
        was restored.
        """

    def start(self, training: Training) -> None:
        """Called before the first step; ``training.epoch`` is above 0 in a resumed run."""

    def steps(self, training: Training, count: int) -> None:
        """Called after every `count` steps, some dozens or hundreds at a time."""

    def epoch(self, training: Training) -> None:
        """Called after each epoch and its validation."""

    def end(self, training: Training) -> None:
        """Called after training, also if it was interrupted or failed."""

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: arrays and numbers by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, or {}, before a resumed training starts."""
