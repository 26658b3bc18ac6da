"""Stacks of existing networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from bpengine.network.network import Network
from bpengine.validation import shown

__all__ = ["stack"]

SHARED = "sizes", "activations", "cost", "dtype", "label_smoothing"


def stack(networks: Iterable[Network]) -> Network:
    """Make a stack of copies of networks.

    Parameters
    ----------
    networks : iterable of Network
        One or more, alike in sizes, activations, cost, backend, dtype and label smoothing. Dropout,
        penalties and random generators are per-network.

    Returns
    -------
    Network
        The stack; network i of it is a copy of ``networks[i]``.

    Raises
    ------
    ValueError, TypeError
        If they are not alike.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> nets = bp.stack([bp.Network([3, 4, 2], rng=seed) for seed in range(5)])
    >>> nets.feedforward(np.ones((3, 10))).shape
    (5, 2, 10)
    """
    try:
        members = list(networks)
    except TypeError:
        raise TypeError(f"networks must be a list of bpengine.Network, got {shown(networks)}.") from None
    if not members:
        raise ValueError("networks is empty: a stack has 1 or more.")
    first = members[0]
    for i, net in enumerate(members):
        if not isinstance(net, Network) or net.stack:
            what = "a stack" if isinstance(net, Network) else shown(net)
            raise TypeError(f"networks[{i}] is {what}; expected one Network.")
        for name in SHARED:
            expected, found = getattr(first, name), getattr(net, name)
            if found != expected:
                raise ValueError(
                    f"networks[{i}] has {name} {found!r:.100}, networks[0] {expected!r:.100}; they "
                    "must be alike."
                )
        if net.backend.name != first.backend.name:
            raise ValueError(
                f"networks[{i}] is on backend {net.backend.name!r}, networks[0] on "
                f"{first.backend.name!r}; they must be alike."
            )
    of_layers = zip(*(net.dropout for net in members), strict=True)
    nets = Network(
        first.sizes,
        first.activations,
        first.cost,
        first.backend,
        first.dtype,
        label_smoothing=first.label_smoothing,
        dropout=[_shared_or_list(shares) for shares in of_layers],
        l1=_shared_or_list([net.l1 for net in members]),
        l2=_shared_or_list([net.l2 for net in members]),
        rng=0,
        stack=len(members),
    )
    nets.network_rngs = [copy.deepcopy(net.rng) for net in members]
    for i, net in enumerate(members):
        for whole, block in zip(nets.parameters.blocks, net.parameters.blocks, strict=True):
            whole[i, ...] = block
    return nets


def _shared_or_list(values: Any) -> Any:
    """The value if all are equal, else the list."""
    found = np.array(values).tolist()
    return found[0] if len(set(found)) == 1 else found
