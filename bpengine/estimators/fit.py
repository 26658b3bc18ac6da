"""Fitting an estimator: validation, then a solver."""

from __future__ import annotations

from typing import Any

from bpengine.estimators.base import BaseMLP
from bpengine.estimators.callbacks import Task
from bpengine.estimators.lbfgs import minimize
from bpengine.estimators.stochastic import train

__all__ = ["fit"]


def fit(estimator: BaseMLP, X: Any, y: Any, sample_weight: Any, incremental: bool) -> None:
    """Train `estimator`; with `incremental` for one more epoch."""
    data = estimator._prepare(X, y, sample_weight, incremental)
    task = None
    if not incremental:
        task = Task(estimator, X, y, sample_weight, max_subtasks=estimator.max_iter)
    if task is not None and estimator.solver == "lbfgs":
        minimize(estimator, data, task)
    else:
        train(estimator, data, task)
    estimator._check_trained()
    if task is not None:
        task.close()
