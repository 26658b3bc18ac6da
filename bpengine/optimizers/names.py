"""Optimizers by name, with their default settings."""

from __future__ import annotations

from typing import Any

from bpengine.optimizers.adam import Adam, AdamW
from bpengine.optimizers.adaptive import Adagrad, RMSprop
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.optimizers.sgd import SGD
from bpengine.validation import choose

__all__ = ["resolve"]

BY_NAME: dict[str, type] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "lbfgs": LBFGS,
}


def resolve(optimizer: Any) -> Any:
    """The optimizer of a name, such as "adam"; anything else as it is."""
    return choose(optimizer, BY_NAME, "optimizer")() if isinstance(optimizer, str) else optimizer
