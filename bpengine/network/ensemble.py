"""The best network of a stack, and the mean and spread of outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bpengine.backends import AnyArray, Array
from bpengine.backprop.forward import feedforward
from bpengine.model.model import Model
from bpengine.training.history import History
from bpengine.validation import choose, host_numbers

__all__ = ["Ensemble", "best", "ensemble"]

FIGURES = {"cost": min, "validation_cost": min, "validation_accuracy": max}


class Ensemble(NamedTuple):
    """Mean and spread of the outputs of a stack's networks.

    Attributes
    ----------
    mean : array of shape (n_L, m)
        Mean of their outputs.
    spread : array of shape (n_L, m)
        Standard deviation of their outputs, around that mean.
    """

    mean: AnyArray
    spread: AnyArray


def _check_stack(network: Model, what: str) -> None:
    if not network.stack:
        raise ValueError(f"{what} is for a stack of networks, and this is one network.")


def best(network: Model, history: History | None, metric: Any) -> Any:
    """See `Network.best`."""
    _check_stack(network, "best")
    if callable(metric):
        scores = [metric(one) for one in network]
    elif metric is None or isinstance(metric, str):
        scores = _scores(network, history, metric)
    else:
        scores = metric
    figures = host_numbers(scores, "metric")
    if figures.shape != network.stack:
        raise ValueError(f"metric gives shape {figures.shape}; expected {len(network)} scores.")
    if np.isnan(figures).all():
        raise ValueError("metric is NaN for all networks of the stack.")
    return network[int(np.nanargmax(figures))]


def _scores(network: Model, history: History | None, metric: str | None) -> Any:
    """The last figures of a training, greater is better."""
    if history is None or not history.cost:
        raise ValueError(
            "no training has been run: call fit first, or give a function of a network, or a score for "
            "each network."
        )
    if metric is None:
        metric = "validation_cost" if history.validation_cost else "cost"
    choose(metric, FIGURES, "metric")
    figures = getattr(history, metric)
    if not figures:
        raise ValueError(f"the last training has no {metric}: give fit(validation=…).")
    # with early stopping the parameters are those of each network's best epoch
    rows = np.asarray(figures)
    last = rows[-1]
    if history.best_epoch is not None:
        last = rows[np.asarray(history.best_epoch) - 1, np.arange(len(network))]
    return last if FIGURES[metric] is max else -last


def ensemble(network: Model, X: Array) -> Ensemble:
    """See `Network.ensemble`."""
    _check_stack(network, "ensemble")
    xp = network.backend.xp
    outputs = feedforward(network, X)
    return Ensemble(xp.mean(outputs, axis=0), xp.std(outputs, axis=0))
