"""L-BFGS on the flat vector, through SciPy."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from bpengine.backprop.forward import chunk_size
from bpengine.backprop.plan import Plan
from bpengine.data.source import IndexedSource
from bpengine.model.model import Model
from bpengine.optimizers.lbfgs import LBFGS, scipy_optimize
from bpengine.training.loop import Training
from bpengine.training.steps import NonFiniteCostError, first_non_finite_layer

__all__ = ["check", "minimize"]


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
    objective = _Objective(training)
    start = time.perf_counter()

    def epoch(intermediate_result: Any) -> None:
        nonlocal start
        objective.accept(intermediate_result.x)
        penalty = network.penalty.value(network.parameters)
        seconds = time.perf_counter() - start
        for callback in training.callbacks:
            callback.steps(training, 1)
        training.end_epoch(float(intermediate_result.fun) - penalty, seconds)
        start = time.perf_counter()
        if training.is_last:
            raise StopIteration

    try:
        scipy_optimize().minimize(
            objective,
            objective.last,
            jac=True,
            method="L-BFGS-B",
            callback=epoch,
            options={
                "maxiter": training.epochs - training.epoch,
                "maxfun": optimizer.max_evaluations,
                "maxcor": optimizer.memory,
                "gtol": optimizer.tolerance,
                "ftol": 64 * np.finfo(float).eps,
            },
        )
    finally:
        objective.accept(objective.last)  # not a point of an unfinished line search


class _Objective:
    """The cost of all examples and its gradient, in float64 on the host."""

    def __init__(self, training: Training) -> None:
        self.training, self.network = training, training.network
        source = training.source
        assert isinstance(source, IndexedSource)
        self.chunks = source.in_order(chunk_size(self.network))
        self.examples = source.examples
        self.plans = {
            chunk.size: Plan(self.network, chunk.size, weighted=chunk.weighted) for chunk in self.chunks
        }
        self.step = 0  # evaluations since the last iteration
        self.last = np.array(self.network.backend.to_numpy(self.network.vector), "float64")

    def accept(self, x: np.ndarray[Any, Any]) -> None:
        """Set the parameters to x, the result of an iteration."""
        self._set(x)
        self.last, self.step = np.array(x), 0

    def _set(self, x: np.ndarray[Any, Any]) -> None:
        self.network.vector[...] = self.network.backend.asarray(x, self.network.dtype)

    def __call__(self, x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        self._set(x)
        self.step += 1
        cost, gradient = 0.0, np.zeros_like(x)
        for chunk in self.chunks:
            plan = self.plans[chunk.size]
            chunk.load(chunk.batches[0], plan.workspace.rows)
            found = plan.run_loaded().gradient
            share = chunk.size / self.examples
            cost += share * found.cost
            gradient += share * self.network.backend.to_numpy(found.vector)
            if not (math.isfinite(cost) and np.isfinite(gradient).all()):
                layer = first_non_finite_layer(plan, found.blocks) or len(self.network.sizes)
                raise NonFiniteCostError(self.training.epoch + 1, self.step, layer)
        return cost, gradient
