"""What ranks agree on: the phases of a training, and random numbers that go together."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from bpengine.distributed.collectives import Group
from bpengine.model.model import Model

__all__ = ["derive", "generators"]

# control points
(
    START,
    DRAW,
    COUNTS,
    WEIGHTS,
    BEGIN,
    SAME,
    EPOCH,
    ROUND,
    COSTS,
    LAYER,
    VALIDATION,
    STOP,
    RANDOM,
) = range(1, 14)


def generators(network: Model) -> list[np.random.Generator]:
    """All that draws in a training: the network's, and those of each network of a stack."""
    return [network.rng, *network.network_rngs]


def derive(group: Group, rng: np.random.Generator, kind: float) -> None:
    """Rank 0's random numbers go on as they are; those of every other rank begin anew, from them."""
    state = json.dumps(rng.bit_generator.state, sort_keys=True, default=str)
    key = hashlib.sha256(state.encode()).digest()
    parts = (int.from_bytes(key[i : i + 6], "big") for i in (0, 6))  # which a float64 holds exactly
    seed = [int(x) for x in group.agree(kind, *parts)[0, :2]]
    if group.rank:
        rng.bit_generator.state = type(rng.bit_generator)([*seed, group.rank]).state
