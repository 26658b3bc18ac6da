"""Checks of the arguments of reference networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpengine.reference.per_example import PerExampleNetwork

__all__ = ["check_entry", "check_example"]

Array = np.ndarray[Any, Any]


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
