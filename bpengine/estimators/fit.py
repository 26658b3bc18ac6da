"""Fitting a single network: validation, then a solver."""

from __future__ import annotations

from typing import Any

from sklearn.utils.metaestimators import available_if

from bpengine.estimators.base import BaseMLP
from bpengine.estimators.callbacks import Task
from bpengine.estimators.lbfgs import minimize
from bpengine.estimators.stochastic import train

__all__ = ["MLP", "stochastic_only"]


class MLP(BaseMLP):
    """An estimator of one network that can be trained; the solvers import `BaseMLP`."""

    def _train(self, X: Any, y: Any, sample_weight: Any, incremental: bool = False) -> None:
        """Train; with `incremental` for one more epoch."""
        data = self._prepare(X, y, sample_weight, incremental)
        if incremental:
            train(self, data, None)
            self._check_trained()
            return
        task = Task(self, X, y, sample_weight)
        (minimize if self.solver == "lbfgs" else train)(self, data, task)
        self._check_trained()
        task.close()


def _is_stochastic(est: BaseMLP) -> bool:
    if est.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
        )
    return True


stochastic_only = available_if(_is_stochastic)
