"""Control points of distributed training, and random states of the ranks."""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum

import numpy as np

from bpengine.distributed.collectives import Group
from bpengine.model.model import Model

__all__ = ["Phase", "generators", "seed_of_rank"]


# control points of a training
Phase = IntEnum(
    "Phase",
    "START DRAW COUNTS WEIGHTS BEGIN SAME EPOCH ROUND COSTS LAYER VALIDATION STOP RANDOM",
)


def generators(network: Model) -> list[np.random.Generator]:
    """The random generators of a network, or of the networks of a stack."""
    return [network.rng, *network.network_rngs]


def seed_of_rank(group: Group, rng: np.random.Generator, phase: Phase) -> None:
    """Seed the generators of all ranks but 0 from the state of rank 0's."""
    state = json.dumps(rng.bit_generator.state, sort_keys=True, default=str)
    key = hashlib.sha256(state.encode()).digest()
    parts = (int.from_bytes(key[i : i + 6], "big") for i in (0, 6))  # exact in float64
    seed = [int(x) for x in group.agree(phase, *parts)[0, :2]]
    if group.rank:
        rng.bit_generator.state = type(rng.bit_generator)([*seed, group.rank]).state
