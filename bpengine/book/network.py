"""The book's first program, network.py: quadratic cost, plain stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bpengine.backends import Array
from bpengine.book.costs import QuadraticCost, sigmoid, sigmoid_prime
from bpengine.book.examples import Examples
from bpengine.book.program import Program

__all__ = ["Network", "sigmoid", "sigmoid_prime"]


class Network(Program):
    """A network of sigmoid neurons with the quadratic cost.

    Biases and weights are drawn by ``np.random.randn``, biases first.

    Parameters
    ----------
    sizes : sequence of int
        Neurons per layer, input first.

    Attributes
    ----------
    num_layers, sizes
    biases, weights : lists of arrays of shapes (n, 1) and (n, n_prev)
        One for each layer after the input, float64; they may be replaced.

    References
    ----------
    M. Nielsen, Neural Networks and Deep Learning, chapter 1.

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.book import network
    >>> np.random.seed(0)
    >>> net = network.Network([2, 3, 1])
    >>> net.feedforward(np.array([[0.0], [1.0]])).shape
    (1, 1)
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(sizes)
        self._draw_parameters()

    def SGD(  # noqa: N802
        self,
        training_data: Iterable[Any],
        epochs: int,
        mini_batch_size: int,
        eta: float,
        test_data: Iterable[Any] | None = None,
    ) -> None:
        """Train by mini-batches, and print after each epoch.

        Parameters
        ----------
        training_data : list of pairs (x, y)
            Columns of shapes (n_1, 1) and (n_L, 1). A list is shuffled in place by
            ``random.shuffle``; other iterables are copied to a list.
        epochs : int
        mini_batch_size : int
            The last mini-batch of an epoch may be smaller.
        eta : float
            Learning rate.
        test_data : list of pairs (x, label), optional
            For a test after each epoch.

        Raises
        ------
        ValueError, TypeError
            If an example does not fit the network.
        """
        data = Examples(training_data, "training_data")
        test = None if test_data is None else Examples(test_data, "test_data")

        def update(mini_batch: list[Any]) -> None:
            self.update_mini_batch(mini_batch, eta)

        for j in self._epochs(training_data, data, epochs, mini_batch_size, eta, 0.0, update):
            if test:
                print(f"Epoch {j}: {self.evaluate(test)} / {len(test)}")
            else:
                print(f"Epoch {j} complete")

    def update_mini_batch(self, mini_batch: Iterable[Any], eta: float) -> None:
        """One step of gradient descent.

        Parameters
        ----------
        mini_batch : list of pairs (x, y)
        eta : float
            Learning rate.
        """
        self._take_step(mini_batch, eta, 0.0, 1)

    def evaluate(self, test_data: Iterable[Any]) -> int:
        """The number of examples whose greatest output is the one of their label.

        Parameters
        ----------
        test_data : list of pairs (x, label)
        """
        data = Examples.of(test_data, "test_data")
        return self._hits(data, data.labels("argmax makes labels of columns"))

    def cost_derivative(self, output_activations: Array, y: Array) -> Any:
        """∂C_x/∂a, for outputs and targets that are columns."""
        return output_activations - y

    def _cost(self) -> Any:
        if self._redefined("cost_derivative"):
            return _OfDerivative(self.cost_derivative)
        return QuadraticCost


@dataclass(frozen=True)
class _OfDerivative:
    """The cost of a redefined `cost_derivative`."""

    derivative: Callable[[Array, Array], Any]

    def fn(self, a: Array, y: Array) -> float:
        return math.nan  # not used by this program

    def delta(self, z: Array, a: Array, y: Array) -> Any:
        return self.derivative(a, y) * sigmoid_prime(z)
