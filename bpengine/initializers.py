"""Where training starts: random weights and biases, drawn on the host so that a seed says all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bpengine.backends import Backend
from bpengine.parameters import Parameters

__all__ = ["INITIALIZERS", "initialize"]

Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def _gaussian(rng: np.random.Generator, n: int, fan_in: int) -> Any:
    # the chapter's: weights and biases with mean 0 and standard deviation 1
    return rng.standard_normal((n, fan_in)), rng.standard_normal((n, 1))


def _scaled_gaussian(rng: np.random.Generator, n: int, fan_in: int) -> Any:
    # standard deviation 1/√fan_in, so that z does not grow with the number of inputs; biases 0
    return rng.standard_normal((n, fan_in)) / math.sqrt(fan_in), np.zeros((n, 1))


INITIALIZERS: dict[str, Draw] = {"gaussian": _gaussian, "scaled_gaussian": _scaled_gaussian}


def initialize(
    parameters: Parameters, draw: Draw, rng: np.random.Generator, backend: Backend, dtype: str
) -> None:
    """Fill `parameters`, layer by layer, from the input on."""
    for weights, biases in zip(parameters.weights, parameters.biases, strict=True):
        w, b = draw(rng, *weights.shape[-2:])
        weights[...] = backend.asarray(w, dtype)
        biases[...] = backend.asarray(b, dtype)
