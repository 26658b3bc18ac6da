"""Vectorized, batched backpropagation for multilayer perceptrons, on NumPy or another array library."""
# ruff: noqa: E402

from bpengine import openblas

openblas.prepare()  # before anything loads NumPy

import importlib
from typing import TYPE_CHECKING

from bpengine import legacy

if TYPE_CHECKING:
    from bpengine import backends, callbacks, datasets, schedules
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

# modules, which are imported when one of their names is used, and what is in them
MODULES = {
    "backends": ("BackendUnavailableError",),
    "backprop.per_example": ("ExampleNorms",),
    "backprop.plan": ("Plan",),
    "callbacks": ("Checkpoint", "CSVLog", "EarlyStopping", "JSONLinesLog"),
    "datasets": ("one_hot",),
    "derivatives.curvature": ("Curvature",),
    "derivatives.gradient_check": ("GradientCheck", "check_gradient", "numerical_gradient"),
    "derivatives.inputs": ("input_gradients", "jacobians"),
    "derivatives.per_example": ("per_example_gradients",),
    "model.activations": ("Activation",),
    "model.costs": ("Cost",),
    "model.parameters": ("Gradient",),
    "network": ("Network",),
    "network.ensemble": ("Ensemble",),
    "network.load": ("load",),
    "network.stack": ("stack",),
    "optimizers": ("LBFGS", "SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop"),
    "privacy.accountant": ("privacy_spent",),
    "privacy.dpsgd": ("DPSGD",),
    "training.history": ("History", "Statistics"),
    "training.loop": ("Callback", "Training"),
    "training.steps": ("NonFiniteCostError",),
}
PACKAGES = {"backends", "book", "callbacks", "datasets", "estimators", "plots", "schedules", "timing"}


def __getattr__(name: str) -> object:
    if name in PACKAGES:
        return importlib.import_module(f"bpengine.{name}")
    for module, names in MODULES.items():
        if name in names:
            globals()[name] = getattr(importlib.import_module(f"bpengine.{module}"), name)
            return globals()[name]
    if name in {"MLPClassifier", "MLPRegressor"}:
        raise AttributeError(f"module 'bpengine' has no attribute {name!r}: see bpengine.estimators")
    here = importlib.import_module(__name__)  # with it, Python suggests a similar name
    raise AttributeError(f"module 'bpengine' has no attribute {name!r}", name=name, obj=here)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
