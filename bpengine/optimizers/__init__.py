"""Optimizers: `init` returns the state for some parameters, `update` the operations of a step."""

from typing import Any

from bpengine.optimizers.adam import Adam, AdamW
from bpengine.optimizers.adaptive import Adagrad, RMSprop
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.optimizers.sgd import SGD
from bpengine.validation import choose

__all__ = ["LBFGS", "SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "resolve"]

BY_NAME: dict[str, type] = {
    kind.__name__.lower(): kind for kind in (SGD, Adam, AdamW, RMSprop, Adagrad, LBFGS)
}


def resolve(optimizer: Any) -> Any:
    """The optimizer of a name, such as "adam", with default settings; anything else as it is."""
    return choose(optimizer, BY_NAME, "optimizer")() if isinstance(optimizer, str) else optimizer
