"""Epochs of SGD or Adam, with scikit-learn's rules of when to stop and how to lower the rate."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from bpengine.backends.choice import for_training
from bpengine.estimators.data import Data, Examples, Host
from bpengine.estimators.steps import HatAdam, Steps
from bpengine.estimators.watching import Task, Watch
from bpengine.optimizers import SGD, Optimizer

if TYPE_CHECKING:
    from bpengine.estimators.base import BaseMLP

__all__ = ["train"]

LEAST_RATE = 1e-6  # below it the adaptive learning rate ends training


def train(estimator: BaseMLP, data: Data, task: Task | None) -> None:
    """Epochs of SGD or Adam; without a task a single one, for `partial_fit`."""
    est = estimator
    incremental = task is None
    if not incremental or not hasattr(est, "_optimizer"):
        est._optimizer = Steps(est.network_, _rule(est), float(est.learning_rate_init), est._loss)
    steps: Steps = est._optimizer
    if est.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    order = np.arange(len(data.Y))
    held_out = None if incremental else est._held_out()
    if est.early_stopping and held_out is None:
        order, chosen = _split(est, order, data.Y)
        held_out = data.take(chosen)
    _expect(est, held_out)
    batch_size = _batch_size(est, len(order))
    examples = Examples(est.network_, data)
    count = -(-len(order) // batch_size)
    if est.backend is None and not incremental:
        most, remembers = count * est.max_iter, bool(steps.state.arrays)
        steps.replayer = for_training(est.network_, batch_size, most, remembers)
    with Watch(est, steps.optimizer, steps.state, count, held_out, silent=incremental) as watch:
        try:
            est.n_iter_ = 0
            for _ in range(1 if incremental else est.max_iter):
                if task is not None:
                    task.begin()
                if est.shuffle:
                    # the order that sklearn.utils.shuffle gives, which takes longer than a small step
                    shuffled = np.arange(len(order))
                    est._random_state.shuffle(shuffled)
                    order = order[shuffled]
                with np.errstate(all="ignore"):
                    est.loss_ = steps.epoch(examples, order, batch_size, float(est.alpha))
                est.n_iter_ += 1
                est.t_ += len(order)
                est.loss_curve_.append(est.loss_)
                if est.verbose:
                    print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
                _count(est, held_out)
                stopped = watch.note(est.loss_, steps.learning_rate)
                if est.solver == "sgd" and est.learning_rate == "invscaling":
                    steps.learning_rate = est.learning_rate_init / (est.t_ + 1) ** est.power_t
                if task is not None and task.end():
                    break
                if stopped or _converged(est, steps):
                    break
                if not incremental and est.n_iter_ == est.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the "
                        "optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=5,
                    )
        except KeyboardInterrupt:
            watch.interrupted()
        if not incremental:
            steps.rest()
        if est.early_stopping and est._best is not None:
            est.network_.vector[...] = est.network_.backend.asarray(est._best, est.network_.dtype)


def _expect(est: BaseMLP, held_out: Data | None) -> None:
    """Make room for scores and losses that a warm start finds missing."""
    if held_out is not None and est.validation_scores_ is None:
        est.validation_scores_, est.best_validation_score_ = [], -np.inf
    if not est.early_stopping and est.best_loss_ is None:
        est.best_loss_ = np.inf


def _rule(est: BaseMLP) -> Optimizer:
    η = float(est.learning_rate_init)
    if est.solver == "adam":
        betas = float(est.beta_1), float(est.beta_2)
        return HatAdam(η, *betas, float(est.epsilon), max_norm=est.max_norm)
    momentum = min(float(est.momentum), float(np.nextafter(1.0, 0.0)))
    nesterov = bool(est.nesterovs_momentum) and momentum > 0
    return SGD(η, momentum, nesterov, max_norm=est.max_norm)


def _split(est: BaseMLP, order: Host, Y: Host) -> tuple[Host, Host]:
    """Numbers of the examples to train on and of those to validate on."""
    single = est.n_outputs_ == 1 and Y.dtype == bool
    train, chosen = train_test_split(
        order,
        random_state=est._random_state,
        test_size=est.validation_fraction,
        stratify=Y if single else None,  # several outputs are not stratified
    )
    if len(chosen) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your "
            "dataset."
        )
    return train, chosen


def _batch_size(est: BaseMLP, examples: int) -> int:
    if est.batch_size == "auto":
        return min(200, examples)
    if est.batch_size > examples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=6,
        )
    return min(int(est.batch_size), examples)


def _count(est: BaseMLP, held_out: Data | None) -> None:
    """Count the epochs without an improvement, of the score where it decides, else of the loss."""
    if held_out is not None:
        score = est._score(*held_out)
        est.validation_scores_.append(score)
        if est.verbose:
            print(f"Validation score: {score:f}")
    if est.early_stopping:
        missed = score < est.best_validation_score_ + est.tol
    else:
        missed = est.loss_curve_[-1] > est.best_loss_ - est.tol
        est.best_loss_ = min(est.best_loss_, est.loss_curve_[-1])
    est._no_improvement_count = est._no_improvement_count + 1 if missed else 0
    if held_out is not None and score > est.best_validation_score_:
        est.best_validation_score_ = score
        est._best = est.network_.backend.to_numpy(est.network_.vector).copy()


def _converged(est: BaseMLP, steps: Steps) -> bool:
    """Whether to end after these epochs without an improvement, or go on at a lower rate."""
    if not est._no_improvement_count > est.n_iter_no_change:
        return False
    what = "Validation score" if est.early_stopping else "Training loss"
    epochs = f"{est.n_iter_no_change} consecutive epochs."
    said = f"{what} did not improve more than tol={est.tol:f} for {epochs}"
    adaptive = est.solver == "sgd" and est.learning_rate == "adaptive"
    ends = not adaptive or steps.learning_rate <= LEAST_RATE
    if not ends:
        steps.learning_rate /= 5.0
        est._no_improvement_count = 0
        said += f" Setting learning rate to {steps.learning_rate:f}"
    else:
        said += " Learning rate too small. Stopping." if adaptive else " Stopping."
    if est.verbose:
        print(said)
    return ends
