"""Per-example gradients as a 3-D array, by matmul or einsum, then their sum.

This takes m times the memory of the gradient: for 784-100-10 (79,510 parameters) and a batch of 128,
41 MB in float32. BP4 as one product, δ aᵀ, never forms the array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bpengine.reference.per_example import PerExampleNetwork

__all__ = ["StackedNetwork"]

Array = np.ndarray[Any, Any]
By = Literal["matmul", "einsum"]


class StackedNetwork(PerExampleNetwork):
    """A network that forms the gradients of all examples at once, then averages them.

    Parameters
    ----------
    weights, biases, activations, cost
        As for `PerExampleNetwork`; not softmax.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> from bpengine.reference.stacked import StackedNetwork
    >>> net = bp.Network([3, 4, 2], dtype="float64", rng=0)
    >>> stacked = StackedNetwork(net.weights, net.biases, ["sigmoid", "sigmoid"], "quadratic")
    >>> X, Y = np.ones((3, 5)), np.zeros((2, 5))
    >>> nabla_w, nabla_b = stacked.per_example(X, Y)
    >>> nabla_w[0].shape
    (5, 4, 3)
    >>> nabla_w[0].mean(axis=0)[0].round(4), net.backprop(X, Y).weights[0][0].round(4)
    (array([-0.0189, -0.0189, -0.0189]), array([-0.0189, -0.0189, -0.0189]))
    """

    def __init__(
        self, weights: Sequence[Array], biases: Sequence[Array], activations: Sequence[str], cost: str
    ) -> None:
        if "softmax" in activations:
            raise ValueError("this form takes elementwise activations; softmax is not one.")
        super().__init__(weights, biases, activations, cost)

    def per_example(self, X: Array, Y: Array, by: By = "matmul") -> tuple[list[Array], list[Array]]:
        """Gradients of C_x for every column x of X.

        Parameters
        ----------
        X : array of shape (n_1, m)
        Y : array of shape (n_L, m)
        by : {"matmul", "einsum"}, optional
            ``(m, n, 1) @ (m, 1, n')``, or ``"jm,km->mjk"``.

        Returns
        -------
        nabla_w : list of arrays of shape (m, n_l, n_{l-1})
        nabla_b : list of arrays of shape (m, n_l, 1)

        Raises
        ------
        ValueError
            If `by` is neither.
        """
        if by not in ("matmul", "einsum"):
            raise ValueError(f"by is {by!r}, expected 'matmul' or 'einsum'.")
        activations, deltas = self.errors(X, Y)
        nabla_b = [δ.T[:, :, np.newaxis] for δ in deltas]
        if by == "matmul":
            rows = [a.T[:, np.newaxis, :] for a in activations[:-1]]
            return [δ @ a for δ, a in zip(nabla_b, rows, strict=True)], nabla_b
        pairs = zip(deltas, activations[:-1], strict=True)
        return [np.einsum("jm,km->mjk", δ, a) for δ, a in pairs], nabla_b

    def gradient(self, X: Array, Y: Array, by: By = "matmul") -> tuple[list[Array], list[Array]]:
        """Averages over the columns of X and Y: the stacks of `per_example` summed, divided by m."""
        nabla_w, nabla_b = self.per_example(X, Y, by)
        return [dw.mean(axis=0) for dw in nabla_w], [db.mean(axis=0) for db in nabla_b]

    def update_mini_batch(self, X: Array, Y: Array, learning_rate: float, by: By = "matmul") -> None:
        """One step of gradient descent on the columns of X and Y."""
        nabla_w, nabla_b = self.gradient(X, Y, by)
        for w, b, dw, db in zip(self.weights, self.biases, nabla_w, nabla_b, strict=True):
            w -= learning_rate * dw
            b -= learning_rate * db
