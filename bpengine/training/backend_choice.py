"""The choice between NumPy and Numba for a training with no backend named."""

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise

import numpy as np

from bpengine.backends import Backend, BackendUnavailableError, get
from bpengine.model.model import Model

__all__ = ["for_training", "rule", "saved_by_step"]

# seconds saved by a step
SAVED = 10e-6  # for each layer of weights; measured: 5e-6 to 15e-6
SAVED_BY_STATE = 2e-9  # for each weight, with a stateful optimizer; measured: 1e-9 to 4e-9
SAVED_BY_BYTE = 5e-10  # for each byte of activations; measured: 3e-10 to 5e-10
CACHED, SAVED_BEYOND = 2**20, 2e-9  # and for each beyond so many, which no cache holds; to 3e-9
# seconds: importing Numba and its kernels takes 0.4 to 0.6, and half of the estimate may be saved
START = 1.2
LARGEST = 2**28  # multiplications a step; beyond, matrix products dominate on both


def for_training(network: Model, batch_size: int, steps: int, remembers: bool) -> Backend:
    """The network's backend, or Numba's where compiled plans save time over NumPy's.

    The choice depends only on the training and on installed packages, so that repeated and resumed
    trainings agree.

    With a custom activation or cost the backend is not changed: compilation may take longer than it
    saves. `steps` are those of the whole training, or of all trainings of a search; `remembers` is
    whether the optimizer has a state.
    """
    backend = network.backend
    names = [*(σ.operation for σ in network.activations), network.cost.operation]
    custom = any(name.startswith("custom ") for name in names)
    if custom or backend.name != "numpy" or importlib.util.find_spec("numba") is None:
        return backend
    multiplications = 3 * batch_size * _weights(network)
    if multiplications > LARGEST or steps * saved_by_step(network, batch_size, remembers) < START:
        return backend
    try:
        return get("numba")
    except BackendUnavailableError:
        return backend  # a broken Numba is no error, as the user did not name it


def saved_by_step(network: Model, batch_size: int, remembers: bool) -> float:
    """Seconds that a compiled step is assumed to save."""
    values = math.prod(network.stack) * batch_size * sum(network.sizes[1:])
    activations = values * np.dtype(network.dtype).itemsize
    saved = SAVED * (len(network.sizes) - 1) + SAVED_BY_STATE * _weights(network) * remembers
    return saved + SAVED_BY_BYTE * activations + SAVED_BEYOND * max(0, activations - CACHED)


def _weights(network: Model) -> int:
    return math.prod(network.stack) * sum(n * m for n, m in pairwise(network.sizes))


def rule() -> str:
    """A description of the rule."""
    return (
        f"replays trainings of networks with no backend named, where it saves {START:g} s or more: "
        f"{SAVED * 1e6:g} µs a step and layer, {SAVED_BY_BYTE * 1e9:g} ns for each byte of activations, "
        f"{SAVED_BEYOND * 1e9:g} ns more for each beyond {CACHED:,}, "
        f"with momentum, Adam and the like {SAVED_BY_STATE * 1e9:g} ns for each weight; in steps of "
        f"{LARGEST / 1e6:.0f} million multiplications or fewer"
    )
