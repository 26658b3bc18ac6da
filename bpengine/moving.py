"""Moving: a network's like on another backend or in another dtype."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from numpy.typing import DTypeLike

from bpengine.backends import Backend

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["moved"]


def moved(network: Network, backend: str | Backend | None, dtype: DTypeLike) -> Network:
    """A copy of `network` that lives on `backend` and computes in `dtype`."""
    net = type(network)(
        network.sizes,
        network.activations,
        network.cost,
        backend,
        dtype,
        dropout=network.dropout,
        l1=network.l1,  # type: ignore[arg-type]
        l2=network.l2,  # type: ignore[arg-type]
        label_smoothing=network.label_smoothing,
        stack=network.stack[0] if network.stack else None,
    )
    net.rng, net.own_rngs = copy.deepcopy((network.rng, network.own_rngs))
    for kind in ("weights", "biases"):
        for old, new in zip(getattr(network, kind), getattr(net, kind), strict=True):
            new[...] = net.backend.asarray(network.backend.to_numpy(old), net.dtype)
    return net
