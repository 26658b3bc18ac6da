"""The book's σ and costs, and the engine's costs for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpengine.backends import Array, Operation
from bpengine.model.activations import Activation
from bpengine.model.costs import Cost

__all__ = ["CrossEntropyCost", "QuadraticCost", "engine_cost", "sigmoid", "sigmoid_prime"]


def sigmoid(z: ArrayLike) -> Any:
    """σ(z) = 1 / (1 + e⁻ᶻ), elementwise.

    Examples
    --------
    >>> float(sigmoid(0.0))
    0.5
    """
    with np.errstate(over="ignore"):  # 1/∞ is 0
        return 1 / (1 + np.exp(-np.asarray(z, "float64")))


def sigmoid_prime(z: ArrayLike) -> Any:
    """σ'(z) = σ(z) (1 - σ(z)), elementwise.

    Examples
    --------
    >>> float(sigmoid_prime(0.0))
    0.25
    """
    a = sigmoid(z)
    return a * (1 - a)


class QuadraticCost:
    """½ ‖a - y‖² of an output a and a target y, both columns.

    Examples
    --------
    >>> QuadraticCost.fn(np.array([[1.0], [0.0]]), np.array([[0.0], [0.0]]))
    0.5
    """

    @staticmethod
    def fn(a: Array, y: Array) -> float:
        """The cost of one example."""
        return 0.5 * float(np.sum((a - y) ** 2))

    @staticmethod
    def delta(z: Array, a: Array, y: Array) -> Any:
        """The output error δ, from the weighted inputs z and a = σ(z)."""
        return (a - y) * sigmoid_prime(z)


class CrossEntropyCost:
    """``Σ_j -y_j log a_j - (1 - y_j) log(1 - a_j)`` of an output a and a target y, both columns.

    0 log 0 counts as 0, and an infinite cost as the largest float.

    Examples
    --------
    >>> round(CrossEntropyCost.fn(np.array([[0.5], [0.0]]), np.array([[1.0], [0.0]])), 6)
    0.693147
    """

    @staticmethod
    def fn(a: Array, y: Array) -> float:
        """The cost of one example."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            terms = y * np.log(a) + (1 - y) * np.log(1 - a)
            return float(np.nan_to_num(-np.sum(np.where(np.isnan(terms), 0.0, terms))))

    @staticmethod
    def delta(z: Array, a: Array, y: Array) -> Any:
        """The output error δ; z is not needed."""
        return a - y


class CustomCost(Cost):
    """The engine's cost of a custom cost in the book's form, called one column at a time."""

    cost: Any

    def __init__(self, cost: Any) -> None:
        name = getattr(cost, "__name__", type(cost).__name__)
        super().__init__(f"custom {name}", self._function, self._derivative)
        object.__setattr__(self, "cost", cost)

    def _function(self, a: Array, y: Array) -> Array:
        columns = range(a.shape[1])
        return np.array([float(self.cost.fn(a[:, j : j + 1], y[:, j : j + 1])) for j in columns])

    def _derivative(self, a: Array, y: Array) -> Array:
        raise NotImplementedError("a cost of the book's form gives delta instead")

    def _delta(self, z: Array, a: Array, y: Array, scale: Array) -> Array:
        columns = [slice(j, j + 1) for j in range(a.shape[1])]
        return scale * np.hstack([self.cost.delta(z[:, j], a[:, j], y[:, j]) for j in columns])

    def output_error(
        self, σ: Activation, z: Array, a: Array, y: Array, scale: Array, delta: Array
    ) -> Iterator[Operation]:
        """Operations for BP1."""
        yield Operation("custom delta", "BP1", self._delta, (z, a, y, scale), delta)


def engine_cost(cost: Any) -> str | Cost:
    """The engine's cost for one of the book's, or for a custom one in its form.

    Raises
    ------
    TypeError
        If `cost` has no ``fn`` and ``delta``.
    """
    if cost is QuadraticCost:
        return "quadratic"
    if cost is CrossEntropyCost:
        return "binary_cross_entropy"
    for name, arguments in (("fn", "a, y"), ("delta", "z, a, y")):
        if not callable(getattr(cost, name, None)):
            raise TypeError(
                f"cost has no {name}({arguments}); expected QuadraticCost, CrossEntropyCost or a class "
                f"with the static methods fn(a, y) and delta(z, a, y), got {cost!r:.80}."
            )
    return CustomCost(cost)
