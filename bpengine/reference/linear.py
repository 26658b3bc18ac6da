"""Networks of linear neurons as a single affine map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["collapse"]

Array = np.ndarray[Any, Any]


def collapse(weights: Sequence[Array], biases: Sequence[Array]) -> tuple[Array, Array]:
    """Weights and biases of the single layer that equals all layers of a linear network.

    Parameters
    ----------
    weights : sequence of arrays of shape (…, n_l, n_{l-1})
        Leading axes are a stack of networks.
    biases : sequence of arrays of shape (…, n_l, 1)

    Returns
    -------
    w : array of shape (…, n_L, n_1)
        The product ``w[L] … w[2]``.
    b : array of shape (…, n_L, 1)
        The biases of all layers, multiplied by the weights of later layers.

    Raises
    ------
    ValueError
        If there is no layer, or shapes do not follow each other.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> from bpengine.reference.linear import collapse
    >>> net = bp.Network([3, 8, 5, 2], activations="linear", dtype="float64", rng=0)
    >>> w, b = collapse(net.weights, net.biases)
    >>> X = np.ones((3, 4))
    >>> net.feedforward(X)[:, 0].round(4), (w @ X + b)[:, 0].round(4)
    (array([ 0.8481, -0.1037]), array([ 0.8481, -0.1037]))
    """
    if not weights or len(weights) != len(biases):
        raise ValueError(
            f"got {len(weights)} weights and {len(biases)} biases, expected one of each for every "
            "layer after the input, at least one."
        )
    n = weights[0].shape[-1]
    W, c = np.eye(n, dtype=weights[0].dtype), np.zeros((n, 1), weights[0].dtype)
    for l, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if w.shape[-1] != c.shape[-2] or b.shape[-2:] != (w.shape[-2], 1):
            raise ValueError(
                f"weights[{l}] and biases[{l}] have shapes {w.shape} and {b.shape}, expected "
                f"(…, n, {c.shape[-2]}) and (…, n, 1): one column for each neuron before them."
            )
        # w (W x + c) + b
        W, c = w @ W, w @ c + b
    return W, c
