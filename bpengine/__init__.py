"""Vectorized, batched backpropagation for multilayer perceptrons, on NumPy or another array library."""
# ruff: noqa: E402

from bpengine import blas_core

blas_core.prepare()  # before anything loads NumPy

from bpengine import backends, datasets
from bpengine.activations import Activation
from bpengine.backends import BackendUnavailableError
from bpengine.checking import GradientCheck, check_gradient, numerical_gradient
from bpengine.costs import Cost
from bpengine.datasets import one_hot
from bpengine.network import Network, load
from bpengine.optimizers import SGD
from bpengine.parameters import Gradient
from bpengine.plan import Plan
from bpengine.training import History, NonFiniteCostError

__all__ = [
    "SGD",
    "Activation",
    "BackendUnavailableError",
    "Cost",
    "Gradient",
    "GradientCheck",
    "History",
    "Network",
    "NonFiniteCostError",
    "Plan",
    "backends",
    "check_gradient",
    "datasets",
    "load",
    "numerical_gradient",
    "one_hot",
]
__version__ = "0.1.0"
