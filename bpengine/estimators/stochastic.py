"""Epochs of SGD or Adam, with scikit-learn's rules of stopping and of the learning rate."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bpengine.estimators import rules
from bpengine.estimators.base import BaseMLP
from bpengine.estimators.callbacks import CallbackRunner, Task
from bpengine.estimators.data import Data, Examples
from bpengine.estimators.steps import Steps
from bpengine.training.backend_choice import for_training

__all__ = ["train"]


def train(estimator: BaseMLP, data: Data, task: Task | None) -> None:
    """Train by SGD or Adam; without a task for a single epoch, as `partial_fit` does."""
    est = estimator
    incremental = task is None
    if not incremental or not hasattr(est, "_optimizer"):
        η = float(est.learning_rate_init)
        est._optimizer = Steps(est.network_, rules.optimizer(est), η, est._loss)
    steps: Steps = est._optimizer
    if incremental and est.max_norm != steps.optimizer.max_norm:
        raise ValueError(
            f"max_norm={est.max_norm} is not that of the training so far, {steps.optimizer.max_norm}. "
            "Set it back, or call fit."
        )
    if est.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    order = np.arange(len(data.Y))
    held_out = None if incremental else est._held_out()
    if est.early_stopping and held_out is None:
        order, chosen = rules.split(est, order, data.Y)
        held_out = data.take(chosen)
    # a warm start may lack scores or losses
    if held_out is not None and est.validation_scores_ is None:
        est.validation_scores_, est.best_validation_score_ = [], -np.inf
    if not est.early_stopping and est.best_loss_ is None:
        est.best_loss_ = np.inf
    batch_size = rules.batch_size(est, len(order))
    examples = Examples(est.network_, data)
    count = -(-len(order) // batch_size)
    if est.backend is None and not incremental:
        most, remembers = max(count * est.max_iter, est._all_steps), bool(steps.runner.state.arrays)
        steps.runner.executor = for_training(est.network_, batch_size, most, remembers)
    with CallbackRunner(
        est, steps.optimizer, steps.runner, count, held_out, silent=incremental
    ) as runner:
        try:
            est.n_iter_, est._best = 0, None
            for _ in range(1 if incremental else est.max_iter):
                if task is not None:
                    task.begin()
                order = rules.shuffled(est, order)
                with np.errstate(all="ignore"):
                    loss = steps.epoch(examples, order, batch_size, float(est.alpha))
                rules.record_epoch(est, loss, len(order), held_out)
                stopped = runner.note(loss, steps.learning_rate)
                steps.learning_rate = rules.next_rate(est, steps.learning_rate)
                if task is not None and task.end():
                    break
                if stopped or rules.converged(est, steps):
                    break
                if not incremental and est.n_iter_ == est.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the "
                        "optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=5,
                    )
        except KeyboardInterrupt:
            runner.interrupted()
        if not incremental:
            steps.runner.clear()
        rules.restore_best(est)
