"""L-BFGS on the flat vector, through SciPy: for data small enough to take all of it in every step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from bpengine.plan import Plan
from bpengine.sources import Chunk, Resident

if TYPE_CHECKING:
    from bpengine.training import Training

__all__ = ["minimize"]

CHUNK_ELEMENTS = 2**22  # activations of the examples whose gradient is taken in one go


def minimize(training: Training) -> None:
    """Iterations of L-BFGS, an epoch each, until the last or until the gradient is small."""
    try:
        from scipy import optimize
    except ImportError:
        raise ImportError('bp.LBFGS needs SciPy. Install it: pip install "bpengine[scipy]"') from None
    optimizer, network = training.optimizer, training.network
    objective = _Objective(training)
    start = time.perf_counter()

    def epoch(intermediate_result: Any) -> None:
        nonlocal start
        objective.put(intermediate_result.x)
        penalty = network.penalty.value(network.parameters)
        seconds = time.perf_counter() - start
        training.end_epoch(float(intermediate_result.fun) - penalty, seconds)
        start = time.perf_counter()
        if training.is_last:
            raise StopIteration

    try:
        result = optimize.minimize(
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
        objective.put(result.x)
    except KeyboardInterrupt:
        objective.put(objective.last)
        raise


class _Objective:
    """The cost of all examples and its gradient, as SciPy asks for them: float64 on the host."""

    def __init__(self, training: Training) -> None:
        self.network = network = training.network
        source = training.source
        assert isinstance(source, Resident)
        N = source.examples
        m = max(1, min(N, CHUNK_ELEMENTS // sum(network.sizes)))
        order = network.backend.asarray(np.arange(N), "int64")
        self.chunks: list[Chunk] = [
            source.chunk(order[i : i + m], min(m, N - i)) for i in range(0, N, m)
        ]
        self.examples = N
        self.plans = {
            chunk.size: Plan(network, chunk.size, weighted=chunk.weighted) for chunk in self.chunks
        }
        self.last = self.get()

    def get(self) -> np.ndarray[Any, Any]:
        """The parameters."""
        return np.array(self.network.backend.to_numpy(self.network.vector), "float64")

    def put(self, x: np.ndarray[Any, Any]) -> None:
        """Set the parameters, to which an interrupt returns."""
        self.network.vector[...] = self.network.backend.asarray(x, self.network.dtype)
        self.last = np.array(x)

    def __call__(self, x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        network = self.network
        network.vector[...] = network.backend.asarray(x, network.dtype)
        cost, gradient = 0.0, np.zeros_like(x)
        for chunk in self.chunks:
            plan = self.plans[chunk.size]
            chunk.load(chunk.batches[0], plan.workspace.rows)
            found = plan.run_loaded().gradient
            share = chunk.size / self.examples
            cost += share * found.cost
            gradient += share * network.backend.to_numpy(found.vector)
        return cost, gradient
