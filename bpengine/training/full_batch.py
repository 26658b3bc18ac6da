"""L-BFGS on the flat vector, through SciPy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from bpengine.backends import Array
from bpengine.backprop.forward import chunk_size
from bpengine.backprop.plan import Plan
from bpengine.data.source import IndexedSource
from bpengine.model.model import Model
from bpengine.optimizers.lbfgs import LBFGS, scipy_optimize
from bpengine.training.loop import Training
from bpengine.training.steps import NonFiniteCostError, first_non_finite_layer

__all__ = ["Objective", "check", "minimize"]

Part = tuple[int, Callable[[Array], object]]


def check(network: Model, monitor: int | str | None) -> None:
    """Raise ImportError without SciPy, ValueError for options of steps on batches."""
    scipy_optimize()
    if any(network.dropout):
        raise ValueError(
            "LBFGS needs a deterministic cost, and dropout makes it random: "
            "train with bp.Adam() or bp.SGD(), or without dropout."
        )
    if monitor is not None:
        raise ValueError("monitor is for steps on batches; LBFGS takes none. Leave it out.")


def minimize(training: Training) -> None:
    """Run L-BFGS, one iteration an epoch."""
    optimizer, network = training.optimizer, training.network
    assert isinstance(optimizer, LBFGS)
    if training.is_last:
        return
    objective = _TrainingObjective(training)
    start = time.perf_counter()

    def epoch(θ: np.ndarray[Any, Any], cost: float) -> None:
        nonlocal start
        objective.accept(θ)
        seconds = time.perf_counter() - start
        for callback in training.callbacks:
            callback.steps(training, 1)
        training.end_epoch(cost - network.penalty.value(network.parameters), seconds)
        start = time.perf_counter()

    def after_iteration(intermediate_result: Any) -> None:
        epoch(intermediate_result.x, float(intermediate_result.fun))
        if training.is_last:
            raise StopIteration

    try:
        scipy_optimize().minimize(
            objective,
            objective.last,
            jac=True,
            method="L-BFGS-B",
            callback=after_iteration,
            options={
                "maxiter": training.epochs - training.epoch,
                "maxfun": optimizer.max_evaluations,
                "maxcor": optimizer.memory,
                "gtol": optimizer.tolerance,
                "ftol": 64 * np.finfo(float).eps,
            },
        )
        if not training.history.cost:  # a minimum from the start, or too few evaluations for a step
            epoch(objective.last, objective(objective.last)[0])
    finally:
        objective.accept(objective.last)  # not a point of an unfinished line search


class Objective:
    """The average cost over all examples and its gradient, for SciPy: functions of a float64 vector.

    The model's parameters become those of the last call. `parts` are the examples whose gradient is
    taken at a time: their number, and what writes them into the rows of a workspace.
    """

    def __init__(self, model: Model, parts: Sequence[Part], weighted: bool) -> None:
        self.model, self._parts = model, parts
        self._examples = sum(size for size, _ in parts)
        self._plans = {size: Plan(model, size, weighted=weighted) for size, _ in parts}
        if len(parts) == 1:
            [(size, load)] = parts
            load(self._plans[size].workspace.rows)

    def vector(self) -> np.ndarray[Any, Any]:
        """The parameters, in float64."""
        return np.array(self.model.backend.to_numpy(self.model.vector), "float64")

    def set(self, θ: np.ndarray[Any, Any]) -> None:
        """Give the model these parameters."""
        self.model.vector[...] = self.model.backend.asarray(θ, self.model.dtype)

    def run(self) -> Iterator[tuple[float, Plan]]:
        """Run the plan of each part; gives its share of the examples, and the plan."""
        for size, load in self._parts:
            plan = self._plans[size]
            if len(self._parts) > 1:
                load(plan.workspace.rows)
            yield size / self._examples, plan.run_loaded()

    def __call__(self, θ: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        """The cost and its gradient."""
        self.set(θ)
        cost, gradient = 0.0, np.zeros_like(θ)
        for share, plan in self.run():
            found = plan.gradient
            cost += share * found.cost
            gradient += share * self.model.backend.to_numpy(found.vector)
            if not (math.isfinite(cost) and np.isfinite(gradient).all()):
                self.handle_non_finite(plan)
        return cost, gradient

    def handle_non_finite(self, plan: Plan) -> None:
        """What is done where the cost or the gradient is not finite."""


class _TrainingObjective(Objective):
    """That of a training, which ends where the cost or the gradient is not finite."""

    def __init__(self, training: Training) -> None:
        source, sizes = training.source, training.network.sizes
        assert isinstance(source, IndexedSource)
        chunks = source.in_order(chunk_size(training.network))
        parts = [(chunk.size, partial(chunk.load, chunk.batches[0])) for chunk in chunks]
        super().__init__(training.network, parts, chunks[0].weighted)
        self.training, self.layers = training, len(sizes)
        self.evaluations = 0  # since the last iteration
        self.last = self.vector()

    def accept(self, θ: np.ndarray[Any, Any]) -> None:
        """An iteration has come to θ: the network is to have these parameters."""
        self.set(θ)
        self.last, self.evaluations = np.array(θ), 0

    def __call__(self, θ: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        """The cost and its gradient."""
        self.evaluations += 1
        return super().__call__(θ)

    def handle_non_finite(self, plan: Plan) -> None:
        """End the training."""
        layer = first_non_finite_layer(plan, plan.gradient.blocks) or self.layers
        raise NonFiniteCostError(self.training.epoch + 1, self.evaluations, layer)
