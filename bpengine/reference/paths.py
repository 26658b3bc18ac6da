"""The gradient as a sum over all paths from a weight to the cost, equation 53 of the chapter.

The number of paths from a weight is the product of the sizes of all later layers, n^(L-l) for layers of
n neurons; backprop costs n² per layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from bpengine.reference.diagonal import slopes
from bpengine.reference.per_example import ACTIVATIONS, PerExampleNetwork, check_entry, check_example

__all__ = ["MOST_PATHS", "Path", "PathNetwork"]

Array = np.ndarray[Any, Any]
MOST_PATHS = 100_000  # of one call


@dataclass(frozen=True)
class Path:
    """A path from a weight to the cost, one neuron in each layer.

    Attributes
    ----------
    neurons : tuple of int
        From the output layer of the weight to that of the network, counted from 0.
    factors : tuple of float
        ``∂a/∂w`` of the first neuron, ``∂a/∂a`` from each neuron to the next, ``∂C_x/∂a`` of the last.
    product : float
        Their product, a term of ``∂C_x/∂w``.
    """

    neurons: tuple[int, ...]
    factors: tuple[float, ...]

    @property
    def product(self) -> float:
        """The product of the rate factors."""
        return math.prod(self.factors)

    def __str__(self) -> str:
        way = " → ".join(["w", *map(str, self.neurons), "C"])
        return f"{way}: {' · '.join(f'{factor:.4g}' for factor in self.factors)} = {self.product:.4g}"


class PathNetwork(PerExampleNetwork):
    """A tiny network whose gradient is summed over all paths.

    Parameters
    ----------
    weights, biases, activations, cost
        As for `PerExampleNetwork`.

    References
    ----------
    M. Nielsen, *Neural Networks and Deep Learning*, chapter 2, equation 53.

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.reference.paths import PathNetwork
    >>> weights = [np.array([[1.0], [2.0]]), np.array([[3.0, -1.0]])]
    >>> biases = [np.zeros((2, 1)), np.zeros((1, 1))]
    >>> net = PathNetwork(weights, biases, ["linear", "linear"], "quadratic")
    >>> x, y = np.array([[2.0]]), np.array([[0.0]])
    >>> for path in net.paths(x, y, layer=0, entry=(1, 0)):
    ...     print(path)
    w → 1 → 0 → C: 2 · -1 · 2 = -4
    >>> float(net.backprop(x, y)[0][0][1, 0])
    -4.0
    """

    def count(self, layer: int) -> int:
        """How many paths lead to the cost from each weight of ``weights[layer]``."""
        sizes = [len(b) for b in self.biases]
        # in softmax every activation depends on every weighted input
        first = sizes[layer] if self.activations[layer] is ACTIVATIONS["softmax"] else 1
        return first * math.prod(sizes[layer + 1 :])

    def paths(self, x: Array, y: Array, layer: int, entry: tuple[int, int]) -> list[Path]:
        """List every path from one weight to the cost of one example.

        Parameters
        ----------
        x : array of shape (n_1, 1)
        y : array of shape (n_L, 1)
        layer : int
            ``weights[layer]`` has the weight; counted from 0.
        entry : (int, int)
            (j, k), counted from 0; k = n_{l-1} is the bias of neuron j.

        Returns
        -------
        list of Path
            `count` (layer) of them, whose products add up to ``∂C_x/∂w_jk``.

        Raises
        ------
        ValueError
            If x or y is not one column that fits, or there are more paths than `MOST_PATHS`.
        IndexError
            If there is no such layer or entry.
        """
        check_entry(self, layer, entry)
        self._check_count(self.count(layer))
        check_example(self, x, y)
        zs, activations = self.forward(x)
        j, k = entry
        whole = [slopes(slope, z).T for (_, slope), z in zip(self.activations, zs, strict=True)]
        # ∂a/∂w_jk, with a one after the activations for the bias
        start = whole[layer][:, j] * np.append(activations[layer], 1)[k]
        # ∂a[l]/∂a[l-1] = Σ'(z[l])ᵀ w[l]
        rates = [dσ @ w for dσ, w in zip(whole[layer + 1 :], self.weights[layer + 1 :], strict=True)]
        end = self.cost_derivative(activations[-1], y)[:, 0]
        firsts: Sequence[int] = [j]
        if self.activations[layer] is ACTIVATIONS["softmax"]:
            firsts = range(len(start))
        return [
            Path(
                neurons,
                (
                    float(start[neurons[0]]),
                    *(float(r[n, m]) for r, (m, n) in zip(rates, pairwise(neurons), strict=True)),
                    float(end[neurons[-1]]),
                ),
            )
            for neurons in product(firsts, *(range(len(r)) for r in rates))
        ]

    def backprop(self, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """∂C_x/∂w and ∂C_x/∂b of every layer, for one column x with target y.

        Raises
        ------
        ValueError
            If x or y is not one column that fits, or there are more paths in all than `MOST_PATHS`.
        """
        blocks = [(len(w), w.shape[1] + 1) for w in self.weights]
        self._check_count(sum(n * K * self.count(l) for l, (n, K) in enumerate(blocks)))
        gradients = [np.empty(shape) for shape in blocks]
        for l, gradient in enumerate(gradients):
            for entry in np.ndindex(gradient.shape):
                j, k = entry
                gradient[entry] = math.fsum(path.product for path in self.paths(x, y, l, (j, k)))
        return [g[:, :-1] for g in gradients], [g[:, -1:] for g in gradients]

    def _check_count(self, count: int) -> None:
        if count > MOST_PATHS:
            sizes = [self.weights[0].shape[1], *(len(b) for b in self.biases)]
            raise ValueError(
                f"a network of sizes {sizes} has {count:,} paths here, expected at most "
                f"{MOST_PATHS:,}. Take a smaller network, or PerExampleNetwork, which lists none."
            )
