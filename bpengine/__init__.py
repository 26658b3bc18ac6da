"""Vectorized, batched backpropagation for multilayer perceptrons, on NumPy or another array library."""
# ruff: noqa: E402

from bpengine import blas_core

blas_core.prepare()  # before anything loads NumPy

from bpengine import backends, callbacks, datasets, schedules
from bpengine.activations import Activation
from bpengine.backends import BackendUnavailableError
from bpengine.callbacks import Callback, Checkpoint, CSVLog, EarlyStopping, JSONLinesLog
from bpengine.checking import GradientCheck, check_gradient, numerical_gradient
from bpengine.costs import Cost
from bpengine.curvature import Curvature
from bpengine.datasets import one_hot
from bpengine.history import History, Statistics
from bpengine.loading import load
from bpengine.members import Ensemble
from bpengine.network import Network
from bpengine.optimizers import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from bpengine.parameters import Gradient
from bpengine.per_example_plans import ExampleNorms, PerExamplePlan, per_example_gradients
from bpengine.plan import Plan
from bpengine.private import DPSGD
from bpengine.private_training import privacy_spent
from bpengine.sensitivity import input_gradients, jacobians
from bpengine.stacking import stack
from bpengine.training import NonFiniteCostError, Training

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
    "PerExamplePlan",
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
