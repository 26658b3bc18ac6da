"""Mini-batch training: take examples, step, add up the costs; validation and callbacks each epoch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from bpengine import lbfgs, persistence, schedules
from bpengine.backends import Array, Batches
from bpengine.callbacks import Callback, Checkpoint, Function
from bpengine.history import History
from bpengine.monitoring import statistics
from bpengine.optimizers import LBFGS, SGD, Optimizer, check_optimizer
from bpengine.plan import Plan
from bpengine.prediction import evaluate
from bpengine.sources import Chunk, Mapped, Resident, Source, Stream
from bpengine.updates import State
from bpengine.validation import class_weights, fraction, positive_integer, sample_weights

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["NonFiniteCostError", "Training", "fit", "partial_fit"]

KEPT_ELEMENTS = 2**18  # outputs of training steps kept until their costs are added up
KEPT_STEPS = 8, 256  # at least and at most
PLANS = 8  # of batches of different sizes that are kept at a time


class NonFiniteCostError(ArithmeticError):
    """Training met a cost that is NaN or infinite.

    Attributes
    ----------
    epoch, step : int
        Where, counted from 1; the step is within the epoch.
    layer : int
        The layer whose numbers were the first to be non-finite; layer 1 is the input.
    """

    def __init__(self, epoch: int, step: int, layer: int) -> None:
        self.epoch, self.step, self.layer = epoch, step, layer
        super().__init__(
            f"the cost is no longer finite: epoch {epoch}, step {step}, beginning in layer {layer} "
            "(layer 1 is the input). The network keeps the last finite parameters. Try a smaller "
            "learning rate."
        )


class Training:
    """A training under way: what callbacks are given.

    Attributes
    ----------
    network : Network
    optimizer : Optimizer or LBFGS
    source : Source
        Where the examples come from.
    history : History
    epochs, epoch : int
        How many epochs there are to be, and how many are complete.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer | LBFGS,
        source: Source,
        epochs: int = 1,
        *,
        validation: tuple[Array, ...] | None = None,
        callbacks: Sequence[Callback] = (),
        monitor: int | str | None = None,
    ) -> None:
        self.network, self.optimizer, self.source, self.epochs = network, optimizer, source, epochs
        self.validation, self.callbacks, self.monitor = validation, callbacks, monitor
        self.history = History()
        self.epoch = 0
        self.stopped = False
        self.state: State | None = None
        if isinstance(optimizer, Optimizer):
            self.state = State(optimizer, network.parameters)
            self.schedule = schedules.resolve(optimizer.learning_rate)
            self.rate = self.schedule.rate(0.0)
        self._plans: dict[tuple[int, bool], tuple[Plan, list[Array], Array]] = {}
        self._gradient_plans: dict[tuple[int, bool], Plan] = {}
        self._steps = source.steps

    def stop(self) -> None:
        """End the training after this epoch."""
        self.stopped = True

    @property
    def is_last(self) -> bool:
        """Whether no epoch follows."""
        return self.stopped or self.epoch >= self.epochs

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
        self._exchange_average()
        cost += self.network.penalty.value(self.network.parameters)
        if self.validation is not None:
            result = evaluate(self.network, *self.validation)
            history.validation_cost.append(result["cost"])
            if "accuracy" in result:
                history.validation_accuracy.append(result["accuracy"])
        history.cost.append(cost)  # the last: an epoch that has a cost is complete
        self.epoch += 1
        for callback in self.callbacks:
            callback.epoch(self)
        if not self.is_last:
            self._exchange_average()

    def _exchange_average(self) -> None:
        """Where parameters are averaged: let the network have the average, or take it back."""
        if self.state is not None and "average" in self.state.arrays:
            vector, average = self.network.vector, self.state.arrays["average"]
            kept = self.network.backend.xp.asarray(vector, copy=True)
            vector[...] = average
            average[...] = kept

    def pass_over_examples(self) -> float:
        """Steps over all examples; gives their average cost, without penalties."""
        total, examples, step = 0.0, 0, 0
        for chunk in self.source.chunks(self.network.rng, self._most):
            if self._is_monitored(step):
                self._monitor(chunk, step)
            total += self._run(chunk, step)
            steps = len(chunk.batches)
            examples += steps * chunk.size
            step += steps
            for callback in self.callbacks:
                callback.steps(self, steps)
        self._steps = step
        return total / examples

    def _kept(self, m: int) -> int:
        """Of how many steps on m examples the outputs are kept."""
        least, most = KEPT_STEPS
        return min(most, max(least, KEPT_ELEMENTS // (self.network.sizes[-1] * m)))

    def _most(self, step: int, m: int) -> int:
        """How many steps on m examples may be taken before the costs are looked at."""
        steps = self._kept(m)
        if isinstance(self.monitor, int):
            taken = self.epoch * (self._steps or 0) + step
            steps = min(steps, self.monitor - taken % self.monitor)
        return steps

    def _is_monitored(self, step: int) -> bool:
        if isinstance(self.monitor, int):
            return (self.epoch * (self._steps or 0) + step) % self.monitor == 0
        return self.monitor is not None and step == 0

    def _monitor(self, chunk: Chunk, step: int) -> None:
        key = chunk.size, chunk.weighted
        if key not in self._gradient_plans:
            self._gradient_plans[key] = Plan(self.network, chunk.size, weighted=chunk.weighted)
        plan = self._gradient_plans[key]
        chunk.load(chunk.batches[0], plan.workspace.rows)
        self.history.monitored.append(statistics(plan.run_loaded(), self.epoch + 1, step + 1))

    def _plan(self, chunk: Chunk) -> tuple[Plan, list[Array], Array]:
        """The plan for a chunk's batches, and a place for the output of each of its steps."""
        key = chunk.size, chunk.weighted
        if key not in self._plans:
            if len(self._plans) == PLANS:
                del self._plans[next(iter(self._plans))]
            net, m = self.network, chunk.size
            plan = Plan(net, m, self.optimizer, state=self.state, weighted=chunk.weighted)
            most = self._kept(m)
            kept = net.backend.empty((most, net.sizes[-1], m), net.dtype)
            self._plans[key] = plan, [kept[i, ...] for i in range(most)], kept
        return self._plans[key]

    def _rates(self, step: int, count: int) -> list[float] | None:
        """The learning rate of each step, where it is not always the same."""
        if isinstance(self.schedule, schedules.Constant):
            return None
        watched, each = self.history.watched, self._steps or math.inf
        return [
            self.schedule.rate(self.epoch + min((step + i) / each, 1.0), watched) for i in range(count)
        ]

    def _run(self, chunk: Chunk, step: int) -> float:
        """Take a chunk's steps; gives the sum of its examples' costs.

        What the cost is taken from is kept of every step, so that all costs are added up in one go.
        """
        plan, slots, kept = self._plan(chunk)
        net, ws = self.network, plan.workspace
        xp, σ = net.backend.xp, net.activations[-1]
        output = ws.z[-1] if net.cost.is_of_z(σ) else ws.a[-1]
        rates = self._rates(step, len(chunk.batches))
        start = self._snapshot()
        taken = [0]
        try:
            if rates is None:
                batches = Batches(chunk.load, chunk.batches, ws.rows, output, slots, chunk.examples)
                plan.program.run_batches(batches, taken)
            else:
                for batch, slot, η in zip(chunk.batches, slots, rates, strict=False):
                    plan.learning_rate = self.rate = η
                    chunk.load(batch, ws.rows)
                    plan.program.run(1)
                    taken[0] += 1
                    slot[...] = output
            y, weights = chunk.outcomes()
            x = kept[: len(chunk.batches), ...]
            values = xp.astype(net.cost.per_example(σ, x, x, y), xp.float64)
            if weights is not None:
                values = values * xp.astype(weights, xp.float64)
            cost = float(xp.sum(values))
            if not (math.isfinite(cost) and _finite(xp, net.vector)):
                self._find_non_finite(plan, chunk, rates, start, step)
        except KeyboardInterrupt:
            # the interrupt may have come in the middle of a step: take those again that were complete
            self._restore(start)
            for i, batch in enumerate(chunk.batches[: taken[0]]):
                self._step(plan, chunk, batch, rates, i)
            if not _finite(xp, net.vector):
                self._restore(start)
            raise
        return cost

    def _step(
        self, plan: Plan, chunk: Chunk, batch: Any, rates: list[float] | None, number: int
    ) -> None:
        if rates is not None:
            plan.learning_rate = rates[number]
        chunk.load(batch, plan.workspace.rows)
        plan.program.run(1)

    def _snapshot(self) -> tuple[dict[str, Array], Any]:
        """All that a step changes: parameters, what the optimizer remembers, random state."""
        xp, net = self.network.backend.xp, self.network
        assert self.state is not None
        arrays = {"": net.vector, **self.state.arrays}
        state = net.rng.bit_generator.state if any(net.dropout) else None
        return {name: xp.asarray(array, copy=True) for name, array in arrays.items()}, state

    def _restore(self, snapshot: tuple[dict[str, Array], Any]) -> None:
        arrays, random = snapshot
        assert self.state is not None
        for name, array in {"": self.network.vector, **self.state.arrays}.items():
            array[...] = arrays[name]
        if random is not None:
            self.network.rng.bit_generator.state = random

    def _find_non_finite(
        self, plan: Plan, chunk: Chunk, rates: list[float] | None, start: Any, step: int
    ) -> None:
        """Replay the steps from `start` one by one, and stop before the one that went wrong."""
        net, ws = self.network, plan.workspace
        xp = net.backend.xp
        self._restore(start)
        for i, batch in enumerate(chunk.batches):
            before = self._snapshot()
            self._step(plan, chunk, batch, rates, i)
            forward = [_finite(xp, z) for z in ws.z]
            backward = [_finite(xp, block) for block in net.parameters.blocks]
            values = net.cost.per_example(net.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
            if all(forward) and all(backward) and _finite(xp, values):
                continue
            self._restore(before)
            if not all(forward):
                layer = forward.index(False)
            elif not all(backward):
                layer = len(backward) - 1 - backward[::-1].index(False)
            else:
                layer = len(forward) - 1
            raise NonFiniteCostError(self.epoch + 1, step + i + 1, layer + 2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: all that training needs to go on, in a file that `load` reads too."""
        to_numpy = self.network.backend.to_numpy
        description, arrays = persistence.describe(self.network)
        memories: list[dict[str, Any]] = []
        if self.state is not None:
            for name, array in self.state.arrays.items():
                arrays[f"state_{name}"] = to_numpy(array)
        for number, callback in enumerate(self.callbacks):
            memory = callback.memory()
            memories.append({k: v for k, v in memory.items() if not hasattr(v, "shape")})
            for name, value in memory.items():
                if hasattr(value, "shape"):
                    arrays[f"state_callback_{number}_{name}"] = to_numpy(value)
        description["training"] = {
            "optimizer": type(self.optimizer).__name__,
            "epoch": self.epoch,
            "steps": self._steps,
            "stopped": self.stopped,
            "history": self.history.as_dict(),
            "random": self.network.rng.bit_generator.state,
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
            "memories": memories,
        }
        persistence.write(path, description, arrays)

    def resume(self, path: str | os.PathLike[str]) -> list[dict[str, Any]]:
        """Take up what `save` wrote; gives what each callback is to recall.

        Raises
        ------
        ValueError
            If the file is no checkpoint of such a training.
        """
        description, arrays = persistence.read(path)
        backend = self.network.backend
        try:
            found = description["training"]
            names = [type(callback).__name__ for callback in self.callbacks]
            for what, own in (("optimizer", type(self.optimizer).__name__), ("callbacks", names)):
                if found[what] != own:
                    raise ValueError(f"it is of a training with {what} {found[what]}, not {own}")
            state = {} if self.state is None else self.state.arrays
            for name, array in state.items():
                value = arrays[f"state_{name}"]
                if value.shape != tuple(array.shape):
                    raise ValueError(f"state_{name} has shape {value.shape}, not {tuple(array.shape)}")
            memories = [dict(memory) for memory in found["memories"]]
            for name, value in arrays.items():
                if name.startswith("state_callback_"):
                    number, _, key = name.removeprefix("state_callback_").partition("_")
                    memories[int(number)][key] = backend.asarray(value, self.network.dtype)
            history = History.from_dict(found["history"])
            epoch, steps, stopped = int(found["epoch"]), found["steps"], bool(found["stopped"])
            generator = type(self.network.rng.bit_generator)()
            generator.state = found["random"]
            persistence.restore(self.network, description, arrays)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{os.fspath(path)} is no checkpoint to resume from: {persistence.in_short(error)}."
            ) from None
        for name, array in state.items():
            array[...] = backend.asarray(arrays[f"state_{name}"], self.network.dtype)
        self.network.rng.bit_generator.state = generator.state
        self.history, self.epoch, self._steps, self.stopped = history, epoch, steps, stopped
        if not self.is_last:
            self._exchange_average()
        return memories


def _finite(xp: Any, array: Array) -> bool:
    return bool(xp.all(xp.isfinite(array)))


def fit(
    network: Network,
    X: Array | Iterable[tuple[Array, ...]],
    Y: Array | None,
    *,
    epochs: SupportsIndex,
    batch_size: SupportsIndex,
    optimizer: Optimizer | LBFGS,
    validation: tuple[Array, ...] | float | None,
    sample_weight: Array | None,
    class_weight: Mapping[int, float] | str | None,
    shuffle: bool | int,
    callbacks: Sequence[Callback | Callable[[Training], None]],
    monitor: int | str | None,
    resume: str | os.PathLike[str] | None,
) -> History:
    """Train `network`; see `Network.fit`."""
    epochs = positive_integer(epochs, "epochs")
    m = positive_integer(batch_size, "batch_size")
    if not isinstance(optimizer, LBFGS):
        check_optimizer(optimizer)
    if monitor != "epoch" and monitor is not None:
        monitor = positive_integer(monitor, "monitor")  # type: ignore[arg-type]
    if not isinstance(shuffle, bool):
        shuffle = positive_integer(shuffle, "shuffle")
    listeners = [_callback(callback) for callback in callbacks]
    # a checkpoint holds what the others remember, once they have seen the epoch
    listeners.sort(key=lambda callback: isinstance(callback, Checkpoint))
    source: Source
    if Y is None and not hasattr(X, "shape"):
        source = _batches(network, X, epochs, validation, sample_weight, class_weight, optimizer)
        held = validation
    else:
        X, Y, weights = _checked(network, X, Y, sample_weight, class_weight)
        if isinstance(validation, float):
            X, Y, weights, held = _split(network, X, Y, weights, validation)
        else:
            held = validation
        if m > X.shape[1] and not isinstance(optimizer, LBFGS):
            raise ValueError(
                f"batch_size={m} is more than the {X.shape[1]} examples of X; "
                f"use batch_size={X.shape[1]} or less."
            )
        kind = Mapped if Mapped.is_meant(X) else Resident
        source = kind(network, X, Y, weights, m, shuffle)
    training = Training(
        network,
        optimizer,
        source,
        epochs,
        validation=_validation(network, held),
        callbacks=listeners,
        monitor=monitor,
    )
    memories = []
    if resume is not None and Path(resume).exists():
        memories = training.resume(resume)
    started: list[Callback] = []
    # a cost that overflows is told by NonFiniteCostError, not by warnings
    with np.errstate(all="ignore"):
        try:
            for callback in listeners:
                started.append(callback)
                callback.start(training)
            for callback, memory in zip(listeners, memories, strict=False):
                callback.recall(memory)
            if isinstance(optimizer, LBFGS):
                lbfgs.minimize(training)
            else:
                training.run()
        except KeyboardInterrupt:
            training.history.interrupted = True
            training.history.keep_complete()
        finally:
            for callback in started:
                callback.end(training)
    return training.history


def _callback(callback: Any) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if callable(callback) and not isinstance(callback, type):
        return Function(callback)
    raise TypeError(
        f"callbacks must be bpengine.Callback objects or functions of the training; got {callback!r}."
    )


def _batches(
    network: Network,
    X: Any,
    epochs: int,
    validation: Any,
    sample_weight: Any,
    class_weight: Any,
    optimizer: Any,
) -> Stream:
    """An iterable of batches as a source, after refusing what goes with whole arrays alone."""
    if not isinstance(X, Iterable):
        raise TypeError(
            f"X must be an array of shape (n_1, N), with Y, or an iterable of batches (X, Y); "
            f"got {type(X).__name__}."
        )
    if isinstance(validation, float):
        raise ValueError("a share of the examples for validation needs X and Y as arrays.")
    if sample_weight is not None or class_weight is not None:
        raise ValueError(
            "with an iterable of batches, give weights in the batches: (X, Y, sample_weight)."
        )
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS takes all examples in every step: give X and Y as arrays.")
    return Stream(network, X, epochs)


def _checked(
    network: Network, X: Any, Y: Any, sample_weight: Any, class_weight: Any
) -> tuple[Array, Array, Array | None]:
    """Examples, targets and, where there are any, weights relative to their mean."""
    if Y is None:
        raise TypeError("Y is missing: fit takes X and Y, or an iterable of batches (X, Y).")
    X, Y = network.check_examples(X, Y, read=not Mapped.is_meant(X))
    each = class_weights(class_weight, Y, network.backend)
    if sample_weight is None and each is None:
        return X, Y, None
    weights = sample_weights(sample_weight, int(X.shape[1]), network.backend)
    if each is not None:
        weights = sample_weights(weights * each, int(X.shape[1]), network.backend)
    return X, Y, weights


def _split(
    network: Network, X: Any, Y: Array, weights: Any, share: float
) -> tuple[Array, Array, Any, tuple[Array, ...]]:
    """Examples to train on, and a random share of them to validate on."""
    fraction(share, "validation")
    N = int(X.shape[1])
    count = max(1, round(share * N))
    if share <= 0 or count >= N:
        raise ValueError(
            f"validation={share} of {N} examples leaves none to "
            f"{'train' if count >= N else 'validate'} on."
        )
    backend = network.backend
    order = network.rng.permutation(N)
    index: Callable[[Any], Any] = (
        (lambda i: backend.asarray(i, "int64")) if backend.owns(X) else (lambda i: i)
    )
    xp = backend.xp if backend.owns(X) else np
    parts = [np.sort(order[count:]), np.sort(order[:count])]
    xs = [xp.take(X, index(part), axis=1) for part in parts]
    xp = backend.xp if backend.owns(Y) else np
    index_y = (lambda i: backend.asarray(i, "int64")) if backend.owns(Y) else (lambda i: i)
    ys = [xp.take(Y, index_y(part), axis=1) for part in parts]
    if weights is None:
        return xs[0], ys[0], None, (xs[1], ys[1])
    train, held = (weights[part] for part in parts)
    return xs[0], ys[0], train / train.mean(), (xs[1], ys[1], held)


def _validation(network: Network, validation: Any) -> tuple[Array, ...] | None:
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise TypeError(
            "validation must be a pair (X, Y) of examples and targets, a triple (X, Y, sample_weight), "
            f"or a share of the examples such as 0.1; got {validation!r:.60}."
        )
    X, Y = network.check_examples(*validation[:2], names=("validation X", "validation Y"))
    if len(validation) == 3:
        sample_weights(validation[2], int(X.shape[1]), network.backend)
    return X, Y, *validation[2:]


def partial_fit(
    network: Network,
    X: Array,
    Y: Array,
    *,
    batch_size: SupportsIndex,
    optimizer: Optimizer | None,
    sample_weight: Array | None,
    class_weight: Mapping[int, float] | str | None,
    shuffle: bool | int,
) -> float:
    """One pass over some examples; see `Network.partial_fit`."""
    m = positive_integer(batch_size, "batch_size")
    if optimizer is not None:
        check_optimizer(optimizer)
    X, Y, weights = _checked(network, X, Y, sample_weight, class_weight)
    source = Resident(network, X, Y, weights, min(m, int(X.shape[1])), shuffle)
    training = network.partial
    if training is None or optimizer not in (None, training.optimizer):
        training = network.partial = Training(network, optimizer or SGD(), source)
    training.source = source
    with np.errstate(all="ignore"):
        cost = training.pass_over_examples()
    training.epoch += 1
    return cost + network.penalty.value(network.parameters)
