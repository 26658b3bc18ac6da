"""L-BFGS: all examples at once, by SciPy."""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.optimize
from sklearn.utils.optimize import _check_optimize_result

from bpengine.estimators.base import BaseMLP
from bpengine.estimators.callbacks import CallbackRunner, Task
from bpengine.estimators.data import Data, Host, pack_examples
from bpengine.estimators.losses import Loss
from bpengine.network.network import Network
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.training.full_batch import Objective, Part

__all__ = ["minimize"]

DENSE_ELEMENTS = 2**24  # of sparse X converted to dense at a time
LEAST = float(np.finfo("float64").tiny)


class _Stopped(Exception):  # noqa: N818
    """A callback has ended the minimization."""


def minimize(estimator: BaseMLP, data: Data, task: Task) -> None:
    """Minimize the average cost over all examples."""
    est, net = estimator, estimator.network_
    n, weights = len(data.Y), data.weights
    net.l2 = float(est.alpha) / (n if weights is None else float(np.sum(weights)))
    if weights is not None:
        data = data._replace(weights=weights * (n / np.sum(weights)))
    objective = Objective(net, _parts(net, data), weights is not None)
    rule = LBFGS(tolerance=max(float(est.tol), LEAST), max_evaluations=est.max_fun)
    with CallbackRunner(est, rule, None, 1) as runner:
        followed = est.verbose or runner.training or task.context
        at, iterations = objective.vector(), 0

        def after(θ: Host) -> None:
            nonlocal at, iterations
            at, iterations = θ.copy(), iterations + 1
            if not followed:
                return
            task.begin()
            objective.set(θ)
            est.n_iter_, est.loss_ = iterations, np.float64(_loss(objective, est._loss))
            if est.verbose:
                print(f"Iteration {iterations}, loss = {est.loss_:.8f}")
            stopped = runner.note(float(est.loss_), 1.0)
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
                runner.interrupted()
        objective.set(at)
        with np.errstate(all="ignore"):
            est.loss_ = np.float64(_loss(objective, est._loss))


def _parts(network: Network, data: Data) -> list[Part]:
    """The examples; sparse ones in chunks that are converted to dense in turn."""
    chunk = n = len(data.Y)
    if hasattr(data.X, "tocsr"):
        chunk = max(1, min(n, DENSE_ELEMENTS // data.X.shape[1]))
        data = data._replace(X=data.X.tocsr())
    parts = [data.take(slice(i, i + chunk)) for i in range(0, n, chunk)]
    return [(len(part.Y), partial(pack_examples, network, *part)) for part in parts]


def _loss(objective: Objective, loss: Loss) -> float:
    """The average loss, and the penalty."""
    model = objective.model
    xp = model.backend.xp
    total: float = model.penalty.value(model.parameters)
    for share, plan in objective.run():
        ws = plan.workspace
        weights = None if ws.weights is None else ws.weights[0, :]
        total += share * float(xp.mean(loss(plan.output, ws.targets, weights)))
    return total
