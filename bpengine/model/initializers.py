"""Initial weights and biases, drawn on the host: the same for a seed on every backend.

By name, for a layer of n neurons with fan_in inputs. The biases are 0 but for "gaussian". Normal
distributions are not truncated, as in PyTorch (Keras cuts them at two standard deviations).

- gaussian: the chapter's, weights and biases of standard deviation 1.
- scaled_gaussian, lecun_normal: synonyms, variance 1/fan_in; lecun_uniform: up to ±√(3/fan_in),
  the same variance.
- glorot_normal: variance 2/(fan_in + n), for tanh and its like; glorot_uniform: up to
  ±√(6/(fan_in + n)).
- he_normal: variance 2/fan_in, for relu and its like; he_uniform: up to ±√(6/fan_in).
- orthogonal: orthonormal rows where n ≤ fan_in, orthonormal columns where n ≥ fan_in.

References
----------
- Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, Efficient BackProp, 1998, section 4.6.
- X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural networks,
  AISTATS 2010, equations 12 and 16.
- K. He, X. Zhang, S. Ren, J. Sun, Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852,
  equation 10.
- A. Saxe, J. McClelland, S. Ganguli, Exact solutions to the nonlinear dynamics of learning in deep
  linear neural networks, ICLR 2014, arXiv:1312.6120.
- F. Mezzadri, How to generate random matrices from the classical compact groups, Notices of the AMS 54,
  2007, arXiv:math-ph/0609050.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from bpengine.model.parameters import Parameters
from bpengine.validation import check_count, generator

__all__ = ["INITIALIZERS", "initialize", "random_generators"]

Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
Precision = Callable[[int, int], float]


def _gaussian(rng: np.random.Generator, n: int, fan_in: int) -> Any:
    return rng.standard_normal((n, fan_in)), rng.standard_normal((n, 1))


def _normal(precision: Precision, rng: np.random.Generator, n: int, fan_in: int) -> Any:
    return rng.standard_normal((n, fan_in)) / math.sqrt(precision(n, fan_in)), np.zeros((n, 1))


def _uniform(precision: Precision, rng: np.random.Generator, n: int, fan_in: int) -> Any:
    # uniform on [-r, r] has variance r²/3
    r = math.sqrt(3 / precision(n, fan_in))
    return rng.uniform(-r, r, (n, fan_in)), np.zeros((n, 1))


def _orthogonal(rng: np.random.Generator, n: int, fan_in: int) -> Any:
    q, r = np.linalg.qr(rng.standard_normal((max(n, fan_in), min(n, fan_in))))
    # with the diagonal of r made positive, q is uniform among all such matrices (Mezzadri)
    q *= np.copysign(1, np.diagonal(r))
    return q if n >= fan_in else q.T, np.zeros((n, 1))


PRECISIONS: dict[str, Precision] = {  # 1 / variance
    # the variance of z does not depend on fan_in
    "lecun": lambda n, fan_in: fan_in,
    # between fan_in, which preserves the variance of activations, and n, which preserves that of errors
    "glorot": lambda n, fan_in: (fan_in + n) / 2,
    # relu halves the variance
    "he": lambda n, fan_in: fan_in / 2,
}
INITIALIZERS: dict[str, Draw] = {
    "gaussian": _gaussian,
    "scaled_gaussian": partial(_normal, PRECISIONS["lecun"]),
    **{
        f"{name}_{shape}": partial(draw, precision)
        for name, precision in PRECISIONS.items()
        for shape, draw in (("normal", _normal), ("uniform", _uniform))
    },
    "orthogonal": _orthogonal,
}


def initialize(
    parameters: Parameters,
    draw: Draw,
    rngs: Sequence[np.random.Generator],
    scale: float | np.ndarray[Any, Any],
    dtype: str,
) -> None:
    """Fill `parameters` with draws of each network's generator in `rngs`, times `scale`."""
    as_array = partial(parameters.backend.asarray, dtype=dtype)
    for p, (rng, factor) in enumerate(np.broadcast(np.array(rngs), scale)):
        for weights, biases in zip(parameters.weights, parameters.biases, strict=True):
            w, b = draw(rng, *weights.shape[-2:])
            of_network: Any = (p, ...) if parameters.stack else ...
            weights[of_network] = as_array(factor * w)
            biases[of_network] = as_array(factor * b)


def random_generators(
    rng: Any, stack: tuple[int, ...]
) -> tuple[np.random.Generator, list[np.random.Generator]]:
    """The generator of the network or stack, and those of the networks in a stack.

    With P seeds or generators, network i is initialized as ``Network(…, rng=rng[i])``; with a single
    one, each network has an independent stream.
    """
    if stack and isinstance(rng, (Sequence, np.ndarray)) and not isinstance(rng, str):
        check_count(rng, stack, "rng")
        per_network = [generator(seed) for seed in rng]
        return per_network[0].spawn(1)[0], per_network
    whole = generator(rng)
    return whole, whole.spawn(stack[0]) if stack else []
