"""Weighted inputs and activations of one example, and checks, for other reference networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpengine.reference.per_example import PerExampleNetwork

__all__ = ["check_entry", "layers"]

Array = np.ndarray[Any, Any]


def layers(net: PerExampleNetwork, x: Array, y: Array) -> tuple[list[Array], list[Array]]:
    """Weighted inputs and activations of one example.

    Parameters
    ----------
    net : PerExampleNetwork
    x : array of shape (n_1, 1)
    y : array of shape (n_L, 1)
        Its target; only its shape is checked.

    Returns
    -------
    zs : list of arrays of shape (n_l, 1)
        One for each layer after the input.
    activations : list of arrays of shape (n_l, 1)
        One for each layer, x first.

    Raises
    ------
    ValueError
        If x or y is not one column that fits the network.

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.reference.forward import layers
    >>> from bpengine.reference.per_example import PerExampleNetwork
    >>> net = PerExampleNetwork([np.array([[2.0]])], [np.array([[1.0]])], ["relu"], "quadratic")
    >>> zs, activations = layers(net, np.array([[-3.0]]), np.array([[0.0]]))
    >>> float(zs[0][0, 0]), float(activations[0][0, 0]), float(activations[1][0, 0])
    (-5.0, -3.0, 0.0)
    """
    for name, column, rows in (("x", x, net.weights[0].shape[1]), ("y", y, net.weights[-1].shape[0])):
        if np.shape(column) != (rows, 1):
            raise ValueError(
                f"{name} has shape {np.shape(column)}, expected ({rows}, 1): one example, as a column. "
                "Take one of a batch by X[:, [j]]."
            )
    zs, activations = [], [x]
    for w, b, (σ, _) in zip(net.weights, net.biases, net.activations, strict=True):
        zs.append(w @ activations[-1] + b)
        activations.append(σ(zs[-1]))
    return zs, activations


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
