"""Stacks made of networks that are there already."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from bpengine.network.network import Network

__all__ = ["stack"]

SHARED = "sizes", "activations", "cost", "dtype", "label_smoothing"


def stack(networks: Iterable[Network]) -> Network:
    """Make a stack of copies of networks, to train or to ask them together.

    Parameters
    ----------
    networks : iterable of Network
        One or more, alike in sizes, activations, cost, backend, dtype and label smoothing. Each keeps
        its own dropout, penalties and random numbers.

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
    members = list(networks)
    if not members:
        raise ValueError("networks is empty: a stack has 1 or more.")
    first = members[0]
    for i, net in enumerate(members):
        if not isinstance(net, Network) or net.stack:
            what = "a stack" if isinstance(net, Network) else type(net).__name__
            raise TypeError(f"networks[{i}] is {what}; expected one Network.")
        for name in SHARED:
            own, its = getattr(first, name), getattr(net, name)
            if own != its:
                raise ValueError(
                    f"networks[{i}] has {name} {its!r:.100}, networks[0] {own!r:.100}; those of a "
                    "stack are alike."
                )
        if net.backend.name != first.backend.name:
            raise ValueError(
                f"networks[{i}] is on backend {net.backend.name!r}, networks[0] on "
                f"{first.backend.name!r}; those of a stack are alike."
            )
    of_layers = zip(*(net.dropout for net in members), strict=True)
    nets = Network(
        first.sizes,
        first.activations,
        first.cost,
        first.backend,
        first.dtype,
        label_smoothing=first.label_smoothing,
        dropout=[_one_or_each(shares) for shares in of_layers],
        l1=_one_or_each([net.l1 for net in members]),
        l2=_one_or_each([net.l2 for net in members]),
        rng=0,
        stack=len(members),
    )
    nets.network_rngs = [copy.deepcopy(net.rng) for net in members]
    for i, net in enumerate(members):
        for own, block in zip(nets.parameters.blocks, net.parameters.blocks, strict=True):
            own[i, ...] = block
    return nets


def _one_or_each(values: Any) -> Any:
    """A value that all share, or the values."""
    found = np.array(values).tolist()
    return found[0] if len(set(found)) == 1 else found
