"""Losses as scikit-learn reports them."""

from __future__ import annotations

import math

import numpy as np

from bpengine.backends import Array
from bpengine.model.activations import ACTIVATIONS
from bpengine.network.network import Network

__all__ = ["Loss"]


class Loss:
    """The loss of every example.

    Parameters
    ----------
    network : Network
    name : str or None
        "log_loss", with probabilities clipped to [ε, 1 - ε]; "squared_error", the average over the
        outputs; "poisson", the deviance. None: the network's cost.
    """

    def __init__(self, network: Network, name: str | None) -> None:
        self.network, self.name = network, name
        ε = float(np.finfo(network.dtype).eps)
        self._bounds = -math.log1p(-ε), -math.log(ε)

    def __call__(self, x: Array, y: Array, weights: Array | None = None) -> Array:
        """Losses of shape (…, m).

        Parameters
        ----------
        x, y : arrays of shape (…, n_L, m)
            Weighted inputs or activations, as `Plan.output`; and targets.
        weights : array of shape (…, m), optional
            Factors of the losses.
        """
        losses = self._of(x, y)
        return losses if weights is None else losses * weights

    def _of(self, x: Array, y: Array) -> Array:
        xp = self.network.backend.xp
        if self.name == "log_loss":
            if self.network.activations[-1] is ACTIVATIONS["softmax"]:
                return self._bounded(self._costs(x, y))
            # independent probabilities
            per_output = self._costs(x[..., None, :], y[..., None, :])
            return xp.sum(self._bounded(per_output), axis=-2)
        values = self._costs(x, y)
        if self.name == "squared_error":
            return values / self.network.sizes[-1]
        if self.name == "poisson":
            # the deviance has y log y - y besides, which is 0 log 0 = 0 for y = 0
            return values + xp.sum(y * xp.log(xp.where(y > 0, y, xp.ones_like(y))) - y, axis=-2)
        return values

    def _costs(self, x: Array, y: Array) -> Array:
        return self.network.cost.per_example(self.network.activations[-1], x, x, y)

    def _bounded(self, values: Array) -> Array:
        backend, dtype = self.network.backend, self.network.dtype
        least, most = (backend.asarray(np.asarray(x), dtype) for x in self._bounds)
        return backend.xp.minimum(backend.xp.maximum(values, least), most)
