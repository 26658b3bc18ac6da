"""Who replays the plans of a training on NumPy's arrays, where no backend has been named: a rule."""

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise

from bpengine.backends import Backend, BackendUnavailableError, get
from bpengine.model.model import Model

__all__ = ["for_training", "rule"]

SAVED = 10e-6  # seconds that compiled code saves a step and layer of weights: 10 to 60 were measured
SAVED_EACH = 2e-9  # and with an optimizer that remembers, for each parameter: 2 to 4
START = 2.0  # seconds that a training has to save: so long may importing Numba and its kernels take
LARGEST = 2**28  # multiplications a step: in larger ones products take nearly all the time on both


def for_training(network: Model, batch_size: int, steps: int, remembers: bool) -> Backend:
    """The network's backend or, where that is NumPy's and compiled plans save time, Numba's.

    It is a function of what is to be trained and of what is installed alone: a training that is
    repeated or resumed is given the same.

    Parameters
    ----------
    network : Network
        One with an activation or a cost of the user's own stays where it is: their compilation may
        take longer than it saves.
    batch_size, steps : int
        Examples a step, and steps of the whole training.
    remembers : bool
        Whether the optimizer has more to update than the parameters.
    """
    backend, sizes = network.backend, network.sizes
    names = [*(σ.operation for σ in network.activations), network.cost.operation]
    own = any(name.startswith("own ") for name in names)
    if own or backend.name != "numpy" or importlib.util.find_spec("numba") is None:
        return backend
    weights = math.prod(network.stack) * sum(n * m for n, m in pairwise(sizes))
    saved = SAVED * (len(sizes) - 1) + SAVED_EACH * weights * remembers
    if 3 * batch_size * weights > LARGEST or steps * saved < START:
        return backend
    try:
        return get("numba")
    except BackendUnavailableError:
        return backend  # it was not asked for, so that it may be broken


def rule() -> str:
    """The rule in words."""
    return (
        f"replays trainings of networks with no backend named, where it saves {START:g} s or more: "
        f"{SAVED * 1e6:g} µs a step and layer, with momentum, Adam and the like {SAVED_EACH * 1e9:g} ns "
        f"for each weight besides; in steps of {LARGEST / 1e6:.0f} million multiplications or fewer"
    )
