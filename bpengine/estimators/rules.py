"""scikit-learn's training rules: optimizer, batches, learning rate and stopping."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
from sklearn.model_selection import train_test_split

from bpengine.estimators.base import BaseMLP
from bpengine.estimators.data import Data, Host
from bpengine.estimators.steps import HatAdam
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.sgd import SGD

__all__ = [
    "batch_size",
    "converged",
    "next_rate",
    "optimizer",
    "record_epoch",
    "restore_best",
    "shuffled",
    "split",
]

LEAST_RATE = 1e-6  # below it, an adaptive learning rate ends training


class Rated(Protocol):
    """An object with a learning rate."""

    learning_rate: float


def optimizer(est: BaseMLP) -> Optimizer:
    """The optimizer of `solver`."""
    η = float(est.learning_rate_init)
    if est.solver == "adam":
        betas = float(est.beta_1), float(est.beta_2)
        return HatAdam(η, *betas, float(est.epsilon), max_norm=est.max_norm)
    momentum = min(float(est.momentum), float(np.nextafter(1.0, 0.0)))
    nesterov = bool(est.nesterovs_momentum) and momentum > 0
    return SGD(η, momentum, nesterov, max_norm=est.max_norm)


def split(est: BaseMLP, order: Host, Y: Host) -> tuple[Host, Host]:
    """Indices of training and validation examples."""
    # a class with one example, as a bootstrap sample may have, can't be in both parts
    stratified = est.n_outputs_ == 1 and Y.dtype == bool and Y.sum() != 1 and (~Y).sum() != 1
    train, chosen = train_test_split(
        order,
        random_state=est._random_state,
        test_size=est.validation_fraction,
        stratify=Y if stratified else None,
    )
    if len(chosen) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your "
            "dataset."
        )
    return train, chosen


def batch_size(est: BaseMLP, examples: int) -> int:
    """Examples per step."""
    if est.batch_size == "auto":
        return min(200, examples)
    if est.batch_size > examples:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=6,
        )
    return min(int(est.batch_size), examples)


def shuffled(est: BaseMLP, order: Host) -> Host:
    """The order of the next epoch, a permutation of the last."""
    if not est.shuffle:
        return order
    # as sklearn.utils.shuffle, which takes longer than a small step
    permutation = np.arange(len(order))
    est._random_state.shuffle(permutation)
    return order[permutation]


def record_epoch(est: BaseMLP, loss: float, examples: int, held_out: Data | None) -> None:
    """Record an epoch, and count epochs without an improvement of the loss or validation score."""
    est.loss_ = np.float64(loss)
    est.n_iter_ += 1
    est.t_ += examples
    est.loss_curve_.append(est.loss_)
    if est.verbose:
        print(f"Iteration {est.n_iter_}, loss = {loss:.8f}")
    if held_out is not None:
        score = est._score(*held_out)
        est.validation_scores_.append(score)
        if est.verbose:
            print(f"Validation score: {score:f}")
    if est.early_stopping:
        missed = score < est.best_validation_score_ + est.tol
    else:
        missed = loss > est.best_loss_ - est.tol
        est.best_loss_ = min(est.best_loss_, est.loss_)
    est._no_improvement_count = est._no_improvement_count + 1 if missed else 0
    if held_out is not None and score > est.best_validation_score_:
        est.best_validation_score_ = score
        if est.early_stopping:
            est._best = est.network_.backend.to_numpy(est.network_.vector).copy()


def restore_best(est: BaseMLP) -> None:
    """Set the best parameters of this `fit`, if `early_stopping` has found some."""
    if est._best is not None:
        est.network_.vector[...] = est.network_.backend.asarray(est._best, est.network_.dtype)
        est._best = None


def next_rate(est: BaseMLP, rate: float) -> float:
    """The learning rate of the next epoch."""
    if est.solver == "sgd" and est.learning_rate == "invscaling":
        return float(est.learning_rate_init / (est.t_ + 1) ** est.power_t)
    return rate


def converged(est: BaseMLP, steps: Rated) -> bool:
    """Whether training has converged; lowers an adaptive learning rate."""
    if not est._no_improvement_count > est.n_iter_no_change:
        return False
    what = "Validation score" if est.early_stopping else "Training loss"
    epochs = f"{est.n_iter_no_change} consecutive epochs."
    message = f"{what} did not improve more than tol={est.tol:f} for {epochs}"
    adaptive = est.solver == "sgd" and est.learning_rate == "adaptive"
    ends = not adaptive or steps.learning_rate <= LEAST_RATE
    if not ends:
        steps.learning_rate /= 5.0
        est._no_improvement_count = 0
        message += f" Setting learning rate to {steps.learning_rate:f}"
    else:
        message += " Learning rate too small. Stopping." if adaptive else " Stopping."
    if est.verbose:
        print(message)
    return ends
