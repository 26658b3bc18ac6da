"""The ladder: networks from tiny to large, and the same step on each by bpengine and in plain NumPy.

Sigmoid, quadratic cost, SGD, float32, the batch resident. What is timed against each other starts from
the same parameters and trains on the same examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import frozen
import numpy as np

import bpengine as bp

LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Rung:
    """A network, and the batch it is trained with."""

    sizes: tuple[int, ...]
    batch: int
    activations: str | tuple[str, ...] = "sigmoid"
    cost: str = "quadratic"

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch}"


LADDER = {
    "tiny": Rung((2, 3, 3, 1), 50),
    "nielsen": Rung((784, 30, 10), 10),
    "small": Rung((784, 100, 10), 128),
    "medium": Rung((784, 512, 512, 10), 256),
    "large": Rung((2048,) * 5, 1024),
}
RUNGS = LADDER | {
    "softmax": Rung((784, 100, 10), 128, ("relu", "softmax"), "softmax_cross_entropy"),
    "xlarge": Rung((4096,) * 5, 8192),  # of a GPU
}


def network(name: str, backend: str | bp.backends.Backend = "numpy") -> bp.Network:
    """The network of a rung, with the same parameters at every call."""
    rung = RUNGS[name]
    return bp.Network(rung.sizes, rung.activations, rung.cost, backend=backend, rng=0)


def examples(name: str, m: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """X (n_1, m) and Y (n_L, m) for a rung: pixels from 0 to 1, and a random class for each column."""
    inputs, *_, outputs = RUNGS[name].sizes
    m = m or RUNGS[name].batch
    rng = np.random.default_rng(1)
    X = rng.random((m, inputs), "float32").T
    if outputs == 1:
        return X, rng.integers(2, size=(1, m)).astype("float32")
    return X, bp.one_hot(rng.integers(outputs, size=m), outputs)


def plan(name: str, m: int | None = None, backend: str = "numpy") -> bp.Plan:
    """A rung's training step by bpengine, its batch loaded."""
    X, Y = examples(name, m)
    made = network(name, backend).plan(batch_size=X.shape[1], optimizer=bp.SGD(LEARNING_RATE))
    made.load(X, Y)
    return made


def plain_parameters(name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The parameters that `network` starts with, weights and biases as separate arrays."""
    net = network(name)
    return [w.copy() for w in net.weights], [b.copy() for b in net.biases]


def frozen_step(name: str) -> Callable[[], None]:
    """A rung's training step in plain NumPy, on the batch that `plan` has and from where it starts."""
    weights, biases = plain_parameters(name)
    X, Y = examples(name)
    step = frozen.softmax_step if RUNGS[name].cost == "softmax_cross_entropy" else frozen.step
    return lambda: step(weights, biases, X, Y, LEARNING_RATE)
