"""Optimizers: `init` returns the state for some parameters, `update` the operations of a step."""

from bpengine.optimizers.adam import Adam, AdamW
from bpengine.optimizers.adaptive import Adagrad, RMSprop
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.optimizers.sgd import SGD

__all__ = ["LBFGS", "SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop"]
