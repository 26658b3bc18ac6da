"""Callbacks of an estimator's training: bpengine's and scikit-learn's."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from bpengine.backends import Array
from bpengine.callbacks import Function
from bpengine.data.source import Chunk, Most, Source
from bpengine.estimators.base import BaseMLP
from bpengine.estimators.data import Data, columns
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.training.loop import Callback, Training
from bpengine.training.steps import StepRunner

__all__ = ["CallbackRunner", "EstimatorTraining", "Task"]


class EstimatorSource(Source):
    """A source with a number of steps but no chunks: an estimator runs its steps itself."""

    examples = None

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """No chunks."""
        return iter(())


class EstimatorTraining(Training):
    """The training that `bpengine.Callback` objects of an estimator receive, with its ``estimator``."""

    estimator: BaseMLP


class CallbackRunner:
    """Calls an estimator's `bpengine.Callback` objects during its training, if there are any.

    An epoch has `steps` steps; after each, the data `held_out` are evaluated. Without callbacks, or if
    `silent`, the attribute `training` is None.
    """

    def __init__(
        self,
        estimator: BaseMLP,
        optimizer: Optimizer | LBFGS,
        runner: StepRunner | None,
        steps: int,
        held_out: Data | None = None,
        silent: bool = False,
    ) -> None:
        self.training: EstimatorTraining | None = None
        callbacks = [] if silent else _callbacks(estimator.callbacks)
        if not callbacks:
            return
        net = estimator.network_
        validation: tuple[Array, ...] | None = None
        if held_out is not None:
            weights = () if held_out.weights is None else (held_out.weights,)
            validation = columns(net, held_out.X), columns(net, held_out.Y), *weights
        source, epochs = EstimatorSource(steps), int(estimator.max_iter)
        self.training = EstimatorTraining(
            net, optimizer, source, epochs, validation=validation, callbacks=callbacks
        )
        self.training.estimator = estimator
        if runner is not None:
            self.training.runner = runner
        self._clock = time.perf_counter()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            if self.training is not None:
                for callback in self.training.callbacks:
                    callback.check(self.training)
                for callback in self.training.callbacks:
                    ends.callback(callback.end, self.training)
                    callback.start(self.training)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.close()

    def note(self, loss: float, rate: float) -> bool:
        """Call the callbacks after an epoch; return whether one of them stops training."""
        training = self.training
        if training is None:
            return False
        for callback in training.callbacks:
            callback.steps(training, training.source.steps or 1)
        training.rate = rate
        net, seconds = training.network, time.perf_counter() - self._clock
        training.end_epoch(loss - net.penalty.value(net.parameters), seconds)
        self._clock = time.perf_counter()
        return training.stopped

    def interrupted(self) -> None:
        """Warn that Ctrl-C has ended training."""
        warnings.warn("Training interrupted by user.", stacklevel=6)
        if self.training is not None:
            self.training.history.interrupted = True


def _callbacks(given: Any) -> list[Callback]:
    given = [given] if callable(given) or isinstance(given, Callback) else given or ()
    for callback in given:
        if not (callable(callback) or isinstance(callback, Callback)) or isinstance(callback, type):
            raise TypeError(
                "callbacks must be bpengine.Callback objects or functions of the training; got "
                f"{callback!r}. Pass callbacks of scikit-learn's protocol to set_callbacks."
            )
    return [c if isinstance(c, Callback) else Function(c) for c in given]


class Task:
    """Calls scikit-learn's callbacks during `fit`, with its arguments, if there are any."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self.estimator = estimator
        self.data: dict[str, Any] = {"estimator": estimator, "X": X, "y": y}
        if sample_weight is not None:
            self.data["metadata"] = {"sample_weight": sample_weight}
        self.context: Any = None
        self._iteration: Any = None
        if getattr(estimator, "_skl_callbacks", None) or hasattr(estimator, "_parent_callback_ctx"):
            self.context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
            self.context.call_on_fit_task_begin(**self.data)

    def begin(self) -> None:
        """Begin an iteration."""
        if self.context is not None:
            self._iteration = self.context.subcontext(task_name="iteration")
            self._iteration.call_on_fit_task_begin(**self.data)

    def end(self) -> bool:
        """End an iteration; return whether a callback stops training."""
        if self._iteration is None:
            return False
        iteration, self._iteration = self._iteration, None
        attributes = lambda: {"network_": copy.deepcopy(self.estimator.network_)}  # noqa: E731
        return bool(iteration.call_on_fit_task_end(**self.data, reconstruction_attributes=attributes))

    def close(self) -> None:
        """End `fit`."""
        if self.context is not None:
            self.context.call_on_fit_task_end(**self.data, reconstruction_attributes={})
