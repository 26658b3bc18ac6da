"""Networks and training steps that differ from one another in one thing: everything that is built in."""

from __future__ import annotations

from typing import Any

import numpy as np

import bpengine as bp
from bpengine.model.activations import ACTIVATIONS
from bpengine.model.costs import COSTS

SIZES = (20, 30, 10)
STACK = 3
# of costs whose output error is not a - y: an output activation with which it is not
OTHER_OUTPUT = {"poisson": "softplus", "binary_cross_entropy": "softmax"}


def _activations(σ: str) -> dict[str, Any]:
    return {"activations": ("sigmoid", σ) if σ == "softmax" else σ}


def _cost(name: str) -> dict[str, Any]:
    output = COSTS[name].canonical
    return {"cost": name, "activations": ("sigmoid", output or "sigmoid")}


# keyword arguments of the network; `optimizer`, `per_example`, `max_norm` and `weighted` of the plan
VARIATIONS: dict[str, dict[str, Any]] = {
    "base": {},  # sigmoid, quadratic cost, SGD
    "gradient": {"optimizer": None},
    "three layers": {"sizes": (20, 30, 30, 10)},
    "float64": {"dtype": "float64"},
    **{σ: _activations(σ) for σ in ACTIVATIONS if σ != "sigmoid"},
    "per neuron": {"activations": (["sigmoid"] * 10 + ["tanh"] * 20, "sigmoid")},
    **{cost: _cost(cost) for cost in COSTS},
    **{
        f"{cost}, {σ}": {"cost": cost, "activations": ("sigmoid", σ)} for cost, σ in OTHER_OUTPUT.items()
    },
    "momentum": {"optimizer": bp.SGD(0.1, momentum=0.9)},
    "nesterov": {"optimizer": bp.SGD(0.1, momentum=0.9, nesterov=True)},
    "adam": {"optimizer": bp.Adam()},
    "adamw": {"optimizer": bp.AdamW()},
    "rmsprop": {"optimizer": bp.RMSprop()},
    "adagrad": {"optimizer": bp.Adagrad()},
    "dpsgd": {"optimizer": bp.DPSGD(0.1, 1.0, 1.0)},
    "clip_norm": {"optimizer": bp.SGD(0.1, clip_norm=1.0)},
    "weight_decay": {"optimizer": bp.SGD(0.1, weight_decay=0.01)},
    "max_norm": {"optimizer": bp.SGD(0.1, max_norm=3.0)},
    "averaging": {"optimizer": bp.SGD(0.1, averaging=0.99)},
    "l1": {"l1": 1e-3},
    "l2": {"l2": 1e-3},
    "l2, adam": {"l2": 1e-3, "optimizer": bp.Adam()},
    "dropout": {"dropout": (0.2, 0.5)},
    "weighted": {"weighted": True},
    "norms": {"per_example": "norms", "optimizer": None},
    "gradients": {"per_example": "gradients", "optimizer": None},
    "clip": {"per_example": "clip", "max_norm": 1.0},
    "stack": {"stack": STACK},
    "stack, adam": {"stack": STACK, "optimizer": bp.Adam()},
    "stack, rates": {"stack": STACK, "optimizer": bp.Adam([0.1] * STACK), "l2": [0.1] * STACK},
    "stack, clip_norm": {"stack": STACK, "optimizer": bp.SGD(0.1, clip_norm=1.0)},
}
OF_PLAN = ("optimizer", "per_example", "max_norm", "weighted")


def network(name: str, backend: str = "numpy", sizes: tuple[int, ...] = SIZES) -> bp.Network:
    """A variation's network, with the same parameters at every call."""
    options = {key: value for key, value in VARIATIONS[name].items() if key not in OF_PLAN}
    return bp.Network(options.pop("sizes", sizes), backend=backend, rng=0, **options)


def examples(net: bp.Network, m: int) -> tuple[np.ndarray, np.ndarray]:
    """X and Y for a network: numbers from 0 to 1, and a random class for each column."""
    rng = np.random.default_rng(1)
    X = rng.random((m, net.sizes[0]), "float32").T
    return X, bp.one_hot(rng.integers(net.sizes[-1], size=m), net.sizes[-1])


def plan(name: str, m: int, backend: str = "numpy", sizes: tuple[int, ...] = SIZES) -> bp.Plan:
    """A variation's step, its batch loaded."""
    net = network(name, backend, sizes)
    options = {key: value for key, value in VARIATIONS[name].items() if key in OF_PLAN}
    made = net.plan(m, **{"optimizer": bp.SGD(0.1), **options})
    made.load(*examples(net, m))
    return made
