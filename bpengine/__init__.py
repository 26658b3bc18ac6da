"""Vectorized, batched backpropagation for multilayer perceptrons, on NumPy or another array library."""
# ruff: noqa: E402

from bpengine import openblas

openblas.prepare()  # before anything loads NumPy

from bpengine import backends, callbacks, datasets, legacy, schedules
from bpengine.backends import BackendUnavailableError
from bpengine.backprop.per_example import ExampleNorms
from bpengine.backprop.plan import Plan
from bpengine.callbacks import Checkpoint, CSVLog, EarlyStopping, JSONLinesLog
from bpengine.datasets import one_hot
from bpengine.derivatives.curvature import Curvature
from bpengine.derivatives.gradient_check import GradientCheck, check_gradient, numerical_gradient
from bpengine.derivatives.inputs import input_gradients, jacobians
from bpengine.derivatives.per_example import per_example_gradients
from bpengine.model.activations import Activation
from bpengine.model.costs import Cost
from bpengine.model.parameters import Gradient
from bpengine.network import Network
from bpengine.network.ensemble import Ensemble
from bpengine.network.load import load
from bpengine.network.stack import stack
from bpengine.optimizers import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from bpengine.privacy.accountant import privacy_spent
from bpengine.privacy.dpsgd import DPSGD
from bpengine.training.history import History, Statistics
from bpengine.training.loop import Callback, Training
from bpengine.training.steps import NonFiniteCostError

legacy.add_old_names()

__all__ = [
    "DPSGD",
    "LBFGS",
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "BackendUnavailableError",
    "CSVLog",
    "Callback",
    "Checkpoint",
    "Cost",
    "Curvature",
    "EarlyStopping",
    "Ensemble",
    "ExampleNorms",
    "Gradient",
    "GradientCheck",
    "History",
    "JSONLinesLog",
    "Network",
    "NonFiniteCostError",
    "Optimizer",
    "Plan",
    "RMSprop",
    "Statistics",
    "Training",
    "backends",
    "callbacks",
    "check_gradient",
    "datasets",
    "input_gradients",
    "jacobians",
    "load",
    "numerical_gradient",
    "one_hot",
    "per_example_gradients",
    "privacy_spent",
    "schedules",
    "stack",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    import importlib

    if name in {"book", "estimators", "plots", "timing"}:  # which need more than NumPy, or take time
        return importlib.import_module(f"bpengine.{name}")
    if name in {"MLPClassifier", "MLPRegressor"}:
        raise AttributeError(f"module 'bpengine' has no attribute {name!r}: see bpengine.estimators")
    here = importlib.import_module(__name__)  # with it, Python suggests a similar name
    raise AttributeError(f"module 'bpengine' has no attribute {name!r}", name=name, obj=here)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
