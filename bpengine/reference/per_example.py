"""The network of the chapter, with a loop over examples: the baseline of tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["PerExampleNetwork", "check_entry", "check_example", "parts_of"]

Array = np.ndarray[Any, Any]


def sigmoid(z: Array) -> Any:
    # e^-|z| does not overflow
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def softmax(z: Array) -> Any:
    e = np.exp(z - z.max())
    return e / e.sum()


def gelu(z: Array) -> Any:
    return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def gelu_prime(z: Array) -> Any:
    t = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    return (1 + t) / 2 + z / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)


def poisson_prime(a: Array, y: Array) -> Any:
    # 1 - y / a, and finite where relu gives 0
    return (a - y) / np.maximum(a, np.sqrt(np.finfo(a.dtype).tiny))


# name: (σ, Jacobian-vector product g ↦ δ at z)
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "sigmoid": (sigmoid, lambda g, z: g * sigmoid(z) * (1 - sigmoid(z))),
    "tanh": (np.tanh, lambda g, z: g * (1 - np.tanh(z) ** 2)),
    "relu": (lambda z: np.maximum(z, 0), lambda g, z: g * (z > 0)),
    "leaky_relu": (lambda z: np.where(z > 0, z, z / 100), lambda g, z: g * np.where(z > 0, 1, 0.01)),
    "linear": (lambda z: z, lambda g, z: g),
    "softmax": (softmax, lambda g, z: softmax(z) * (g - (g * softmax(z)).sum())),
    "softplus": (lambda z: np.logaddexp(z, 0), lambda g, z: g * sigmoid(z)),
    "exponential": (np.exp, lambda g, z: g * np.exp(z)),
    "gelu": (gelu, lambda g, z: g * gelu_prime(z)),
    "swish": (
        lambda z: z * sigmoid(z),
        lambda g, z: g * (sigmoid(z) + z * sigmoid(z) * (1 - sigmoid(z))),
    ),
}
# name: ∇_a C_x
COSTS: dict[str, Callable[[Array, Array], Array]] = {
    "quadratic": lambda a, y: a - y,
    "absolute_error": lambda a, y: np.sign(a - y),
    "huber": lambda a, y: np.where(np.abs(a - y) <= 1, a - y, np.sign(a - y)),
    "poisson": poisson_prime,
    "binary_cross_entropy": lambda a, y: (a - y) / (a * (1 - a)),
    "softmax_cross_entropy": lambda a, y: -y / a,
}
# where ∇_a C ⊙ σ' is a - y
SIMPLIFIED = {
    ("quadratic", "linear"),
    ("poisson", "exponential"),
    ("binary_cross_entropy", "sigmoid"),
    ("softmax_cross_entropy", "softmax"),
}


def parts_of(network: Any) -> tuple[list[Array], list[Array], list[str], str]:
    """Weights, biases, activations and cost of a `bpengine.Network`, for reference networks."""
    to_numpy = network.backend.to_numpy
    return (
        [to_numpy(w) for w in network.weights],
        [to_numpy(b) for b in network.biases],
        [σ.name for σ in network.activations],
        network.cost.name,
    )


class PerExampleNetwork:
    """A network that computes gradients in a loop over examples.

    Parameters
    ----------
    weights : sequence of arrays of shape (n_l, n_{l-1})
        Copied, in their dtype.
    biases : sequence of arrays of shape (n_l, 1)
    activations : sequence of str
        One name per layer after the input.
    cost : str

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> from bpengine.reference.per_example import PerExampleNetwork
    >>> net = bp.Network([3, 4, 2], dtype="float64", rng=0)
    >>> loop = PerExampleNetwork(net.weights, net.biases, ["sigmoid", "sigmoid"], "quadratic")
    >>> X, Y = np.ones((3, 5)), np.zeros((2, 5))
    >>> nabla_w, nabla_b = loop.gradient(X, Y)
    >>> nabla_w[0][0].round(4), net.backprop(X, Y).weights[0][0].round(4)
    (array([-0.0189, -0.0189, -0.0189]), array([-0.0189, -0.0189, -0.0189]))
    """

    def __init__(
        self, weights: Sequence[Array], biases: Sequence[Array], activations: Sequence[str], cost: str
    ) -> None:
        self.weights = [w.copy() for w in weights]
        self.biases = [b.copy() for b in biases]
        self.activations = [ACTIVATIONS[name] for name in activations]
        self.cost_derivative = COSTS[cost]
        self.simplified = (cost, activations[-1]) in SIMPLIFIED

    def forward(self, x: Array) -> tuple[list[Array], list[Array]]:
        """Weighted inputs of every layer after the input, and activations, x first."""
        zs, activations = [], [x]
        for w, b, (σ, _) in zip(self.weights, self.biases, self.activations, strict=True):
            zs.append(np.dot(w, activations[-1]) + b)
            activations.append(σ(zs[-1]))
        return zs, activations

    def feedforward(self, x: Array) -> Array:
        """Output for one column x."""
        return self.forward(x)[1][-1]

    def errors(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """Activations of every layer, x first, and δ of every layer after the input."""
        zs, activations = self.forward(x)
        if self.simplified:
            delta = activations[-1] - y
        else:
            g = self.cost_derivative(activations[-1], y)
            delta = self.activations[-1][1](g, zs[-1])
        deltas = [delta]
        for l in range(len(self.weights) - 1, 0, -1):
            delta = self.activations[l - 1][1](np.dot(self.weights[l].T, delta), zs[l - 1])
            deltas.append(delta)
        return activations, deltas[::-1]

    def backprop(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """∂C_x/∂w and ∂C_x/∂b of every layer, for one column x with target y."""
        activations, deltas = self.errors(x, y)
        return [np.dot(δ, a.T) for δ, a in zip(deltas, activations[:-1], strict=True)], deltas

    def gradient(self, X: Array, Y: Array) -> tuple[list[Array], list[Array]]:
        """Averages of `backprop` over the columns of X and Y."""
        m = X.shape[1]
        nabla_w = [np.zeros_like(w) for w in self.weights]
        nabla_b = [np.zeros_like(b) for b in self.biases]
        for j in range(m):
            one_w, one_b = self.backprop(X[:, j : j + 1], Y[:, j : j + 1])
            nabla_w = [total + one for total, one in zip(nabla_w, one_w, strict=True)]
            nabla_b = [total + one for total, one in zip(nabla_b, one_b, strict=True)]
        return [w / m for w in nabla_w], [b / m for b in nabla_b]

    def update_mini_batch(self, X: Array, Y: Array, learning_rate: float) -> None:
        """One step of gradient descent on the columns of X and Y."""
        nabla_w, nabla_b = self.gradient(X, Y)
        self.weights = [
            w - learning_rate * nabla for w, nabla in zip(self.weights, nabla_w, strict=True)
        ]
        self.biases = [b - learning_rate * nabla for b, nabla in zip(self.biases, nabla_b, strict=True)]

    def fit(
        self,
        X: Array,
        Y: Array,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        rng: np.random.Generator,
    ) -> None:
        """Mini-batch gradient descent, the columns shuffled anew in each epoch."""
        examples = X.shape[1]
        ends = [*range(0, examples, batch_size), examples]
        for _ in range(epochs):
            order = rng.permutation(examples)
            for start, stop in pairwise(ends):
                batch = order[start:stop]
                self.update_mini_batch(X[:, batch], Y[:, batch], learning_rate)


def check_example(net: PerExampleNetwork, x: Array, y: Array) -> None:
    """Raise ValueError if x or y is not one column that fits the network."""
    for name, column, rows in (("x", x, net.weights[0].shape[1]), ("y", y, net.weights[-1].shape[0])):
        if np.shape(column) != (rows, 1):
            raise ValueError(
                f"{name} has shape {np.shape(column)}, expected ({rows}, 1): one example, as a column. "
                "Take one of a batch by X[:, [j]]."
            )


def check_entry(net: PerExampleNetwork, layer: int, entry: tuple[int, int]) -> None:
    """Raise IndexError if ``entry`` is not one of ``[w b]`` of ``layer``, both counted from 0."""
    if not 0 <= layer < len(net.weights):
        raise IndexError(
            f"layer is {layer}, expected 0 to {len(net.weights) - 1}: weights[layer] has the weight."
        )
    (n, inputs), (j, k) = net.weights[layer].shape, entry
    if not (0 <= j < n and 0 <= k <= inputs):
        raise IndexError(
            f"entry is {entry}, expected (j, k) with j from 0 to {n - 1} and k from 0 to {inputs - 1} "
            f"for a weight, {inputs} for a bias: weights[{layer}] has shape {(n, inputs)}."
        )
