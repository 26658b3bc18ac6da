"""How the cost and the outputs change with the inputs, example by example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpengine.backends import Array
from bpengine.members import one_network
from bpengine.per_example_plans import CHUNK_ELEMENTS, chunks
from bpengine.prediction import forward_chunks

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["input_gradients", "jacobians"]


def input_gradients(network: Network, X: Array, Y: Array) -> Array:
    """``∂C_x/∂x`` of every example: which inputs its cost depends on most (its saliency).

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
    one_network(network, "input_gradients")
    X, Y = network.check_examples(X, Y)
    out = network.backend.empty(tuple(X.shape), network.dtype)
    most = CHUNK_ELEMENTS // sum(network.sizes)
    for columns, plan in chunks(network, X, Y, "norms", most):
        # BP2 once more, to the input, which has no σ
        out[:, columns] = network.weights[0].mT @ plan.run().workspace.delta[0]
    return out


def jacobians(network: Network, X: Array) -> Array:
    """``∂a[L]/∂x`` of every example: how each output changes with each input.

    Parameters
    ----------
    network : Network
    X : array of shape (n_1, m)

    Returns
    -------
    array of shape (n_L, n_1, m)
        Entry (j, i, x) is the rate at which output j changes with input i at example x.

    Raises
    ------
    ValueError, TypeError
        If X does not fit the network.

    Notes
    -----
    One forward pass, and one backward pass for all outputs at once: they are a leading axis.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> net = bp.Network([3, 4, 2], rng=0)
    >>> bp.jacobians(net, np.ones((3, 5))).shape
    (2, 3, 5)
    """
    one_network(network, "jacobians")
    net = network
    net.feedforward(X)  # which checks X, and settles where the network lives
    X = net.backend.asarray(X, net.dtype)
    outputs, inputs = net.sizes[-1], net.sizes[0]
    xp = net.backend.xp
    out = net.backend.empty((outputs, inputs, int(X.shape[1])), net.dtype)
    eye = xp.eye(outputs, dtype=out.dtype, device=net.backend.device)[:, :, None]
    for columns, ws in forward_chunks(net, X):
        count = columns.stop - columns.start
        δ = xp.broadcast_to(eye, (outputs, outputs, count))
        for l in range(len(net.activations) - 1, -1, -1):
            σ = net.activations[l]
            δ = σ.slope(δ, ws.z[l] if σ.of == "z" else ws.a[l])
            δ = net.weights[l].mT @ δ
        out[:, :, columns] = δ
    return out
