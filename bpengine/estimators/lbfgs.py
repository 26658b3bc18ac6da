"""L-BFGS: all examples at once, by SciPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.optimize
from sklearn.utils.optimize import _check_optimize_result

from bpengine.backprop.plan import Plan
from bpengine.estimators.base import BaseMLP
from bpengine.estimators.callbacks import Task, Watch
from bpengine.estimators.data import Data, Host, pack_examples
from bpengine.estimators.losses import Loss
from bpengine.network.network import Network
from bpengine.optimizers.lbfgs import LBFGS

__all__ = ["minimize"]

DENSE_ELEMENTS = 2**24  # inputs of sparse data that are made dense at a time
LEAST = float(np.finfo("float64").tiny)


class _Stopped(Exception):  # noqa: N818
    """A callback has ended the minimization."""


def minimize(estimator: BaseMLP, data: Data, task: Task) -> None:
    """Minimize the average cost over all examples."""
    est, net = estimator, estimator.network_
    objective = _Objective(net, data, float(est.alpha))
    rule = LBFGS(tolerance=max(float(est.tol), LEAST), max_evaluations=est.max_fun)
    with Watch(est, rule, None, 1) as watch:
        followed = est.verbose or watch.training or task.context
        at, iterations = objective.vector(), 0

        def after(θ: Host) -> None:
            nonlocal at, iterations
            at, iterations = θ.copy(), iterations + 1
            if not followed:
                return
            task.begin()
            objective.set(θ)
            est.n_iter_, est.loss_ = iterations, objective.loss(est._loss)
            if est.verbose:
                print(f"Iteration {iterations}, loss = {est.loss_:.8f}")
            stopped = watch.note(est.loss_, 1.0)
            if task.end() or stopped:
                raise _Stopped

        try:
            with np.errstate(all="ignore"):
                found = scipy.optimize.minimize(
                    objective,
                    at,
                    method="L-BFGS-B",
                    jac=True,
                    callback=after,
                    options={"maxfun": est.max_fun, "maxiter": est.max_iter, "gtol": est.tol},
                )
            at = found.x
            est.n_iter_ = _check_optimize_result("lbfgs", found, est.max_iter)
        except (_Stopped, KeyboardInterrupt) as end:
            est.n_iter_ = iterations
            if isinstance(end, KeyboardInterrupt):
                watch.interrupted()
        objective.set(at)
        with np.errstate(all="ignore"):
            est.loss_ = objective.loss(est._loss)


class _Objective:
    """The average cost over all examples and its gradient, as functions of the flat vector."""

    def __init__(self, network: Network, data: Data, alpha: float) -> None:
        self.network = network
        n = len(data.Y)
        weights = data.weights
        network.l2 = alpha / (n if weights is None else float(np.sum(weights)))
        if weights is not None:
            weights = weights * (n / np.sum(weights))
        sparse = hasattr(data.X, "tocsr")
        chunk = max(1, min(n, DENSE_ELEMENTS // data.X.shape[1])) if sparse else n
        data = Data(data.X.tocsr() if sparse else data.X, data.Y, weights)
        self._parts = [data.take(slice(i, i + chunk)) for i in range(0, n, chunk)]
        self._plans = {
            m: Plan(network, m, weighted=weights is not None)
            for m in {len(part.Y) for part in self._parts}
        }
        if len(self._parts) == 1:
            self._load(self._parts[0])

    def _load(self, part: Data) -> Plan:
        plan = self._plans[len(part.Y)]
        pack_examples(self.network, *part, out=plan.workspace.rows)
        return plan

    def __call__(self, θ: Host) -> tuple[float, Host]:
        """The cost and its gradient."""
        self.set(θ)
        cost, gradient = 0.0, np.zeros_like(θ)
        for share, plan in self._run():
            found = plan.gradient
            cost += share * found.cost
            gradient += share * self.network.backend.to_numpy(found.vector)
        return cost, gradient

    def loss(self, loss: Loss) -> float:
        """The average loss, and the penalty."""
        net = self.network
        total: float = net.penalty.value(net.parameters)
        for share, plan in self._run():
            ws, xp = plan.workspace, net.backend.xp
            values = loss(plan.output, ws.targets)
            if ws.weights is not None:
                values = values * ws.weights[0, :]
            total += share * float(xp.mean(values))
        return total

    def _run(self) -> Iterator[tuple[float, Plan]]:
        """Run each part's plan; gives the share of the examples it had."""
        n = sum(len(part.Y) for part in self._parts)
        for part in self._parts:
            plan = self._load(part) if len(self._parts) > 1 else self._plans[n]
            yield len(part.Y) / n, plan.run_loaded()

    def vector(self) -> Host:
        """The parameters, in float64."""
        return self.network.backend.to_numpy(self.network.vector).astype("float64")

    def set(self, θ: Host) -> None:
        """Give the network these parameters."""
        self.network.vector[...] = self.network.backend.asarray(θ, self.network.dtype)
