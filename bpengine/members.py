"""The networks of a stack: one of them, some of them, and what they say together."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bpengine.backends import Array
from bpengine.parameters import Member, Parameters
from bpengine.updates import check_count
from bpengine.validation import choose

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["Ensemble", "best", "ensemble", "generators", "in_one_piece", "member", "one_network", "part"]

FIGURES = {"cost": min, "validation_cost": min, "validation_accuracy": max}


class Ensemble(NamedTuple):
    """What the networks of a stack say together.

    Attributes
    ----------
    mean : array of shape (n_L, m)
        Mean of their outputs.
    spread : array of shape (n_L, m)
        Standard deviation of their outputs, around that mean.
    """

    mean: Array
    spread: Array


def generators(
    rng: Any, stack: tuple[int, ...]
) -> tuple[np.random.Generator, list[np.random.Generator]]:
    """What draws for a whole network or stack, and for each network in it.

    From a sequence of P seeds or generators, network i is drawn as ``Network(…, rng=rng[i])`` is; from
    a single one, each network of a stack has a stream of its own.
    """
    if stack and isinstance(rng, (Sequence, np.ndarray)) and not isinstance(rng, str):
        check_count(rng, stack, "rng")
        each = [_generator(seed) for seed in rng]
        return each[0].spawn(1)[0], each
    whole = _generator(rng)
    return whole, whole.spawn(stack[0]) if stack else []


def _generator(rng: Any) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng must be None, a whole number of 0 or more, or a numpy.random.Generator, got {rng!r}."
        ) from None


def one_network(network: Network, what: str) -> None:
    """Raise ValueError if `network` is a stack."""
    if network.stack:
        raise ValueError(
            f"{what} is for one network, and this is a stack of {len(network)}: use nets[i], which "
            "shares its memory."
        )


def _many_networks(network: Network, what: str) -> None:
    if not network.stack:
        raise ValueError(f"{what} is for a stack of networks, and this is one network.")


def member(network: Network, i: int) -> Network:
    """Network i of a stack: its weights and biases are views of the stack's."""
    one = _like(network, i)
    one.stack, one.parameters = (), Member(network.parameters, i)
    one.rng = network.rngs[i]
    return one


@contextmanager
def in_one_piece(network: Network) -> Iterator[Network]:
    """`network` itself; for a network of a stack a copy, whose parameters it has in the end."""
    if not isinstance(network.parameters, Member):
        yield network
        return
    alone = copy.copy(network)
    try:
        yield alone
    finally:
        for own, new in zip(network.parameters.blocks, alone.parameters.blocks, strict=True):
            own[...] = new


def part(network: Network, numbers: np.ndarray[Any, Any]) -> Network:
    """A stack of some networks of a stack, with parameters of its own."""
    some = _like(network, numbers)
    some.stack = (len(numbers),)
    some.own_rngs = [network.rngs[i] for i in numbers]
    some.parameters = Parameters(network.sizes, network.backend, network.dtype, some.stack)
    for own, whole in zip(some.parameters.blocks, network.parameters.blocks, strict=True):
        own[...] = picked(network, whole, numbers)
    return some


def picked(network: Network, x: Array, numbers: np.ndarray[Any, Any]) -> Array:
    """The parts of some networks of an array with a leading axis for the networks."""
    return network.backend.xp.take(x, network.backend.asarray(numbers, "int64"), axis=0)


def _like(network: Network, which: int | np.ndarray[Any, Any]) -> Network:
    """A network with the options of one, or of some, of a stack; what they share is shared."""
    new = object.__new__(type(network))
    vars(new).update(vars(network))
    new.l1, new.l2 = (_chosen(value, which) for value in (network.l1, network.l2))
    new.dropout = tuple(_chosen(share, which) for share in network.dropout)
    new.forward_programs, new.partial, new.history = threading.local(), None, None
    return new


def _chosen(value: Any, which: int | np.ndarray[Any, Any]) -> Any:
    if not np.ndim(value):
        return value
    chosen = np.asarray(value)[which]
    return tuple(chosen.tolist()) if isinstance(value, tuple) and np.ndim(chosen) else chosen[()]


def best(network: Network, metric: str | Sequence[float] | Callable[[Network], float] | None) -> Network:
    """See `Network.best`."""
    _many_networks(network, "best")
    if callable(metric):
        scores = [metric(one) for one in network]
    elif metric is None or isinstance(metric, str):
        scores = _scores(network, metric)
    else:
        scores = list(metric)
    figures = np.asarray(scores, "float64")
    if figures.shape != network.stack:
        raise ValueError(f"metric gives shape {figures.shape}; expected {len(network)} scores.")
    if np.isnan(figures).all():
        raise ValueError("no network of the stack has a score that is a number.")
    return network[int(np.nanargmax(figures))]


def _scores(network: Network, metric: str | None) -> Any:
    """The last figures of a training, the greater the better."""
    history = network.history
    if history is None or not history.cost:
        raise ValueError(
            "there has been no training whose figures could tell: call fit first, or give a function of "
            "a network, or a score for each."
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


def ensemble(network: Network, X: Array) -> Ensemble:
    """See `Network.ensemble`."""
    _many_networks(network, "ensemble")
    xp = network.backend.xp
    outputs = network.feedforward(X)
    return Ensemble(xp.mean(outputs, axis=0), xp.std(outputs, axis=0))
