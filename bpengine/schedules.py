"""Schedules: the learning rate as a function of the epochs passed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpengine.validation import (
    check_entries,
    convert_fields,
    fraction,
    non_negative_number,
    positive_integer,
    positive_number,
)

__all__ = ["Cosine", "InverseScaling", "OnPlateau", "Schedule", "StepDecay", "WarmUp", "resolve"]


@dataclass(frozen=True)
class Schedule(ABC):
    """A learning rate that changes as training goes on.

    Given to an optimizer as its learning rate. A function of the epochs passed works too:
    ``bp.SGD(lambda epoch: 0.5 / (1 + epoch))``.
    """

    @abstractmethod
    def rate(self, epoch: float, costs: Sequence[float] = ()) -> float:
        """The learning rate η.

        Parameters
        ----------
        epoch : float
            Epochs passed; fractional within an epoch.
        costs : sequence of float
            The cost after each complete epoch, of the validation data if given.
        """


@dataclass(frozen=True)
class Constant(Schedule):
    """A constant learning rate, shared or per-network."""

    value: float | tuple[float, ...]

    def rate(self, epoch: float, costs: Sequence[float] = ()) -> Any:
        """η."""
        return np.array(self.value) if isinstance(self.value, tuple) else self.value


@dataclass(frozen=True)
class Function(Schedule):
    """A custom function of the epochs passed."""

    function: Callable[[float], float]

    def rate(self, epoch: float, costs: Sequence[float] = ()) -> float:
        """The function's value, 0 or more and finite."""
        return non_negative_number(self.function(epoch), f"learning_rate at epoch {epoch:g}")


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiply the rate by a factor every few epochs: η = initial · factor^⌊epoch / every⌋.

    Parameters
    ----------
    initial : float
        The first learning rate.
    factor : float, optional
    every : int, optional
        In epochs.

    Examples
    --------
    >>> import bpengine as bp
    >>> decay = bp.schedules.StepDecay(0.5, factor=0.1, every=10)
    >>> decay.rate(9.9), decay.rate(10.0)
    (0.5, 0.05)
    """

    initial: float
    factor: float = 0.1
    every: int = 10

    def __post_init__(self) -> None:
        convert_fields(self, initial=positive_number, factor=positive_number, every=positive_integer)

    def rate(self, epoch: float, costs: Sequence[float] = ()) -> float:
        """η at an epoch."""
        epoch = non_negative_number(epoch, "epoch")
        return self.initial * self.factor ** math.floor(epoch / self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `initial` down to `final`, and `final` from then on.

    Parameters
    ----------
    initial : float
    epochs : int
        After how many epochs `final` is reached.
    final : float, optional

    References
    ----------
    I. Loshchilov and F. Hutter, SGDR, arXiv:1608.03983, without restarts.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.schedules.Cosine(1.0, epochs=30).rate(15)
    0.5
    """

    initial: float
    epochs: int
    final: float = 0.0

    def __post_init__(self) -> None:
        convert_fields(self, initial=positive_number, epochs=positive_integer, final=non_negative_number)

    def rate(self, epoch: float, costs: Sequence[float] = ()) -> float:
        """η at an epoch."""
        epoch = non_negative_number(epoch, "epoch")
        share = 0.5 + 0.5 * math.cos(math.pi * min(epoch / self.epochs, 1.0))
        return self.final + (self.initial - self.final) * share


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """η = initial / (1 + epoch)^power.

    Parameters
    ----------
    initial : float
    power : float, optional

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.schedules.InverseScaling(0.6).rate(3)
    0.3
    """

    initial: float
    power: float = 0.5

    def __post_init__(self) -> None:
        convert_fields(self, initial=positive_number, power=positive_number)

    def rate(self, epoch: float, costs: Sequence[float] = ()) -> float:
        """η at an epoch."""
        epoch = non_negative_number(epoch, "epoch")
        return self.initial / math.pow(1.0 + epoch, self.power)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear warm-up to a rate or another schedule.

    Parameters
    ----------
    after : float or Schedule
        The rate after the warm-up; a schedule's epochs count from the start of training.
    epochs : float
        Length of the warm-up; it starts near 0.

    Examples
    --------
    >>> import bpengine as bp
    >>> warm = bp.schedules.WarmUp(bp.schedules.Cosine(1.0, epochs=30), epochs=2)
    >>> round(warm.rate(1.0), 3), warm.rate(15)
    (0.499, 0.5)
    """

    after: float | Schedule
    epochs: float

    def __post_init__(self) -> None:
        if not (isinstance(self.after, Schedule) or callable(self.after)):
            convert_fields(self, after=positive_number)  # one for all networks of a stack
        convert_fields(self, epochs=positive_number)

    def rate(self, epoch: float, costs: Sequence[float] = ()) -> float:
        """η at an epoch; a thousandth of the full rate to begin with."""
        epoch = non_negative_number(epoch, "epoch")
        share = min(max(epoch / self.epochs, 1e-3), 1.0)
        return share * resolve(self.after).rate(epoch, costs)


@dataclass(frozen=True)
class OnPlateau(Schedule):
    """Multiply the rate by a factor whenever the cost has stopped falling; in a stack, its mean.

    Parameters
    ----------
    initial : float
    factor : float, optional
        Below 1.
    patience : int, optional
        Epochs without an improvement after which the rate is lowered.
    min_delta : float, optional
        What counts as an improvement: the cost must fall below the best by more than this.

    Examples
    --------
    >>> import bpengine as bp
    >>> plateau = bp.schedules.OnPlateau(0.5, factor=0.1, patience=2)
    >>> plateau.rate(3, costs=[1.0, 0.5, 0.4]), plateau.rate(5, costs=[1.0, 0.5, 0.4, 0.4, 0.4])
    (0.5, 0.05)
    """

    initial: float
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4

    def __post_init__(self) -> None:
        fraction(self.factor, "factor")
        convert_fields(
            self,
            initial=positive_number,
            factor=positive_number,
            patience=positive_integer,
            min_delta=non_negative_number,
        )

    def rate(self, epoch: float, costs: Sequence[float] = ()) -> float:
        """η after the epochs whose costs are given."""
        epoch = non_negative_number(epoch, "epoch")
        best, waited, rate = math.inf, 0, self.initial
        for cost in costs:
            if cost < best - self.min_delta:
                best, waited = cost, 0
            else:
                waited += 1
            if waited == self.patience:
                rate, waited = rate * self.factor, 0
        return rate


def resolve(rate: object) -> Schedule:
    """The schedule of a number, a function or a schedule itself."""
    if isinstance(rate, Schedule):
        return rate
    if callable(rate):
        return Function(rate)
    return Constant(check_entries(rate, positive_number, "learning_rate"))
