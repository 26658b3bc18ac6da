"""Derivatives of the cost and of the outputs by the inputs, per example."""

from __future__ import annotations

import numpy as np

from bpengine.backends import AnyArray, Array
from bpengine.backprop.forward import chunk_size, forward_chunks
from bpengine.backprop.per_example import Norms
from bpengine.derivatives.per_example import chunks
from bpengine.model.model import Model, check_single

__all__ = ["input_gradients", "jacobians"]


@np.errstate(all="ignore")
def input_gradients(network: Model, X: Array, Y: Array) -> AnyArray:
    """``∂C_x/∂x`` of every example, its saliency.

    Parameters
    ----------
    network : Network
    X : array of shape (n_1, m)
    Y : array of shape (n_L, m), or m integer labels

    Returns
    -------
    array of shape (n_1, m)

    Raises
    ------
    ValueError, TypeError
        If X or Y does not fit the network.

    References
    ----------
    K. Simonyan, A. Vedaldi and A. Zisserman, arXiv:1312.6034.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> net = bp.Network([3, 4, 2], rng=0)
    >>> bp.input_gradients(net, np.ones((3, 5)), np.zeros((2, 5))).shape
    (3, 5)
    """
    check_single(network, "input_gradients")
    X, Y = network.check_examples(X, Y)
    out = network.backend.empty(tuple(X.shape), network.dtype)
    for columns, plan in chunks(network, X, Y, Norms(), chunk_size(network)):
        # BP2 for the input, which has no σ
        out[:, columns] = network.weights[0].mT @ plan.run().workspace.delta[0]
    return out


@np.errstate(all="ignore")
def jacobians(network: Model, X: Array) -> AnyArray:
    """``∂a[L]/∂x`` of every example.

    Parameters
    ----------
    network : Network
    X : array of shape (n_1, m)

    Returns
    -------
    array of shape (n_L, n_1, m)
        Entry (j, i, x) is the derivative of output j by input i at example x.

    Raises
    ------
    ValueError, TypeError
        If X does not fit the network.

    Notes
    -----
    One forward pass, and one backward pass with the outputs as a leading axis.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> net = bp.Network([3, 4, 2], rng=0)
    >>> bp.jacobians(net, np.ones((3, 5))).shape
    (2, 3, 5)
    """
    check_single(network, "jacobians")
    X = network.backend.asarray(network.check_inputs(X), network.dtype)
    outputs, inputs = network.sizes[-1], network.sizes[0]
    xp = network.backend.xp
    out = network.backend.empty((outputs, inputs, int(X.shape[1])), network.dtype)
    eye = xp.eye(outputs, dtype=out.dtype, device=network.backend.device)[:, :, None]
    for columns, ws in forward_chunks(network, X):
        count = columns.stop - columns.start
        δ = xp.broadcast_to(eye, (outputs, outputs, count))
        for l in range(len(network.activations) - 1, -1, -1):
            σ = network.activations[l]
            δ = σ.slope(δ, ws.z[l] if σ.of == "z" else ws.a[l])
            δ = network.weights[l].mT @ δ
        out[:, :, columns] = δ
    return out
