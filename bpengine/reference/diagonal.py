"""Backpropagation with Σ'(z) as a matrix, equations 33 to 35 of the chapter.

Per example and layer of n neurons, it takes a matrix of n² numbers, and products of order n³; the
Hadamard product ⊙ σ'(z) costs n.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from bpengine.reference.per_example import PerExampleNetwork, check_example

__all__ = ["DiagonalNetwork", "slopes"]

Array = np.ndarray[Any, Any]


def slopes(slope: Callable[[Array, Array], Array], z: Array) -> Array:
    """Σ'(z), whose entry (j, k) is ∂a_k/∂z_j.

    Parameters
    ----------
    slope : callable
        ``g ↦ Σ'(z) g``, as in ``ACTIVATIONS`` of the per-example network.
    z : array of shape (n, 1)

    Returns
    -------
    array of shape (n, n)
        Diagonal, with σ'(z_j), where σ is elementwise; full for softmax.

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.reference.diagonal import slopes
    >>> from bpengine.reference.per_example import ACTIVATIONS
    >>> _, slope = ACTIVATIONS["sigmoid"]
    >>> slopes(slope, np.zeros((2, 1))).tolist()
    [[0.25, 0.0], [0.0, 0.25]]
    """
    units = np.eye(len(z), dtype=z.dtype)
    return np.hstack([slope(units[:, [k]], z) for k in range(len(z))])


class DiagonalNetwork(PerExampleNetwork):
    """A network whose errors are products of matrices from the layer to the cost.

    Parameters
    ----------
    weights, biases, activations, cost
        As for `PerExampleNetwork`.

    References
    ----------
    M. Nielsen, *Neural Networks and Deep Learning*, chapter 2, equations 33 to 35.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> from bpengine.reference.diagonal import DiagonalNetwork
    >>> net = bp.Network([3, 4, 2], dtype="float64", rng=0)
    >>> diagonal = DiagonalNetwork(net.weights, net.biases, ["sigmoid", "sigmoid"], "quadratic")
    >>> X, Y = np.ones((3, 5)), np.zeros((2, 5))
    >>> nabla_w, nabla_b = diagonal.gradient(X, Y)
    >>> nabla_w[0][0].round(4), net.backprop(X, Y).weights[0][0].round(4)
    (array([-0.0189, -0.0189, -0.0189]), array([-0.0189, -0.0189, -0.0189]))
    """

    def errors(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """Activations of every layer, x first, and δ of every layer after the input."""
        check_example(self, x, y)
        zs, activations = self.forward(x)
        # Σ'(z[1]), w[2]ᵀ, Σ'(z[2]), …, w[L]ᵀ, Σ'(z[L]), ∇_a C
        factors = [slopes(self.activations[0][1], zs[0])]
        for w, (_, slope), z in zip(self.weights[1:], self.activations[1:], zs[1:], strict=True):
            factors += [w.T, slopes(slope, z)]
        factors.append(self.cost_derivative(activations[-1], y))
        # δ[l] = Σ'(z[l]) w[l+1]ᵀ … Σ'(z[L-1]) w[L]ᵀ Σ'(z[L]) ∇_a C, from the left
        return activations, [reduce(np.matmul, factors[2 * l :]) for l in range(len(zs))]
