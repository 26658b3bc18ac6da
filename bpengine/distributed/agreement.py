"""What ranks agree on: the phases of a training, and random numbers that go together."""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum

import numpy as np

from bpengine.distributed.collectives import Group
from bpengine.model.model import Model

__all__ = ["Phase", "generators", "seed_of_rank"]


class Phase(IntEnum):
    """Where in a training ranks agree on something."""

    START = 1
    DRAW = 2
    COUNTS = 3
    WEIGHTS = 4
    BEGIN = 5
    SAME = 6
    EPOCH = 7
    ROUND = 8
    COSTS = 9
    LAYER = 10
    VALIDATION = 11
    STOP = 12
    RANDOM = 13


def generators(network: Model) -> list[np.random.Generator]:
    """All that draws in a training: the network's, and those of each network of a stack."""
    return [network.rng, *network.network_rngs]


def seed_of_rank(group: Group, rng: np.random.Generator, phase: Phase) -> None:
    """Rank 0's random numbers go on as they are; those of every other rank begin anew, from them."""
    state = json.dumps(rng.bit_generator.state, sort_keys=True, default=str)
    key = hashlib.sha256(state.encode()).digest()
    parts = (int.from_bytes(key[i : i + 6], "big") for i in (0, 6))  # which a float64 holds exactly
    seed = [int(x) for x in group.agree(phase, *parts)[0, :2]]
    if group.rank:
        rng.bit_generator.state = type(rng.bit_generator)([*seed, group.rank]).state
