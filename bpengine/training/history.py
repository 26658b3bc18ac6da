"""Costs per epoch, and the statistics of monitored steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpengine.model.files import plain
from bpengine.training.checkpoint_checks import numbers
from bpengine.validation import choose

__all__ = ["History", "Statistics", "check_history"]

FIGURES = ("cost", "validation_cost", "validation_accuracy", "learning_rate", "seconds", "epsilon")
LAYERS = ("gradient_norms", "weight_norms", "saturated", "mean_activations")


@dataclass(frozen=True)
class Statistics:
    """Statistics of a step before its update, per layer after the input, without dropout.

    In a stack they are arrays of shape (P,), with NaN for networks that have stopped.

    Attributes
    ----------
    epoch, step : int
        Counted from 1; the step within the epoch.
    cost : float
        The batch's cost.
    gradient_norms : tuple of float
        Norm of ∂C/∂w and ∂C/∂b together.
    weight_norms : tuple of float
        Norm of w.
    saturated : tuple of float
        Share of activations within 1 % of a finite end of the activation's range, where weights learn
        slowly.
    mean_activations : tuple of float
        Mean of ``|a|``: weights learn slowly as well where their input activation is small.
    """

    epoch: int
    step: int
    cost: float
    gradient_norms: tuple[float, ...]
    weight_norms: tuple[float, ...]
    saturated: tuple[float, ...]
    mean_activations: tuple[float, ...]


@dataclass(repr=False)
class History:
    """The record of `fit`, one entry an epoch.

    For a stack of P networks entries and `best_epoch` are arrays of shape (P,); networks that have
    stopped repeat their last figures.

    Attributes
    ----------
    cost : list of float
        Average cost over the epoch's training examples, computed during the epoch, plus the penalty of
        the epoch's last weights.
    validation_cost, validation_accuracy : list of float
        Cost and share of right classes on the validation data; empty without such data or classes.
    learning_rate : list of float
        η of each epoch's last step.
    seconds : list of float
        Time of each epoch's training, without the validation.
    epsilon : list of float
        Privacy spent up to each epoch's end, with `DPSGD`; one more entry if Ctrl-C ended training
        within an epoch.
    monitored : list of Statistics
        Of the monitored steps.
    best_epoch : int or None
        The epoch whose parameters early stopping has restored.
    interrupted : bool
        Whether Ctrl-C ended the training.
    """

    cost: list[Any] = field(default_factory=list)
    validation_cost: list[Any] = field(default_factory=list)
    validation_accuracy: list[Any] = field(default_factory=list)
    learning_rate: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    epsilon: list[float] = field(default_factory=list)
    monitored: list[Statistics] = field(default_factory=list)
    best_epoch: Any = None
    interrupted: bool = False

    @property
    def monitored_costs(self) -> list[Any]:
        """The costs for schedules and early stopping: of validation, else of training."""
        return self.validation_cost or self.cost

    def __getitem__(self, name: str) -> Any:
        """``history["cost"]`` is ``history.cost``."""
        return getattr(self, choose(name, {entry: entry for entry in vars(self)}, "entry"))

    def to_frame(self) -> Any:
        """The figures of each epoch as a pandas DataFrame, epochs counted from 1.

        In a stack, the columns are named ``cost_0``, ``cost_1`` … by network.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("History.to_frame needs pandas: pip install pandas.") from None
        columns: dict[str, Any] = {}
        for name in self.last():
            entries = np.asarray(getattr(self, name)[: len(self.cost)])
            names = [name] if entries.ndim == 1 else [f"{name}_{i}" for i in range(entries.shape[1])]
            columns |= dict(zip(names, entries.reshape(len(entries), -1).T, strict=True))
        return pd.DataFrame(columns, index=pd.RangeIndex(1, len(self.cost) + 1, name="epoch"))

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {short(value)}" for name, value in self.last().items())
        return f"History({len(self.cost)} epochs; the last: {last})" if last else "History()"

    def drop_incomplete(self) -> None:
        """Drop entries of an interrupted epoch, whose cost is not recorded yet."""
        for name in ("seconds", "learning_rate", "validation_cost", "validation_accuracy"):
            del getattr(self, name)[len(self.cost) :]

    def last(self) -> dict[str, Any]:
        """The last epoch's figures by name."""
        return {
            name: entries[-1]
            for name, entries in vars(self).items()
            if isinstance(entries, list) and entries and name != "monitored"
        }

    def as_dict(self) -> dict[str, Any]:
        """Lists, dicts and numbers, for JSON."""
        found: dict[str, Any] = plain(dataclasses.asdict(self))
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> History:
        """The inverse of `as_dict`; raises an error if an entry is missing or is no figure."""
        history = cls()
        for name in FIGURES:
            entries = values.get(name, ()) if name == "epsilon" else values[name]
            getattr(history, name).extend(numbers(x, name, None) for x in entries)
        for entry in values["monitored"]:
            named: dict[str, Any] = {
                name: tuple(numbers(x, name, None) for x in value)
                if name in LAYERS
                else numbers(value, name, None, whole=name != "cost")
                for name, value in dict(entry).items()
            }
            history.monitored.append(Statistics(**named))
        if values["best_epoch"] is not None:
            history.best_epoch = numbers(values["best_epoch"], "best_epoch", None, whole=True)
        return history


def short(value: Any, digits: str = ".4g") -> str:
    """A figure as text; of a stack the range, without NaN."""
    if np.ndim(value):
        return f"{np.fmin.reduce(value):{digits}} to {np.fmax.reduce(value):{digits}}"
    return f"{value:{digits}}"


def check_history(history: History, epochs: int, layers: int, stack: tuple[int, ...]) -> None:
    """Raise ValueError unless it is of so many epochs, layers after the input, and networks."""
    networks = f"a stack of {stack[0]} networks" if stack else "one network"
    for name in FIGURES:
        entries = getattr(history, name)
        # validation, rates and privacy may be missing in some epochs: one may resume with others
        if len(entries) > epochs or (name in ("cost", "seconds") and len(entries) < epochs):
            raise ValueError(f"its history has {len(entries)} entries of {name} in {epochs} epochs")
        shapes = {() if name in ("seconds", "epsilon") else stack}
        if name == "learning_rate":  # may be shared by the networks
            shapes.add(())
        if not {np.shape(x) for x in entries} <= shapes:
            raise ValueError(f"its history has a {name} that is not of {networks}")
    for found in history.monitored:
        groups = [getattr(found, name) for name in LAYERS]
        shapes = {np.shape(found.cost), *(np.shape(x) for group in groups for x in group)}
        if {len(group) for group in groups} != {layers} or shapes != {stack}:
            raise ValueError(f"its monitored figures are not of {layers} layers of {networks}")
        if not (1 <= found.epoch <= epochs and found.step >= 1):
            raise ValueError(f"it has monitored step {found.step} of epoch {found.epoch} of {epochs}")
    if history.best_epoch is not None:
        numbers(np.asarray(history.best_epoch), "best_epoch", stack, (0, epochs), whole=True)
