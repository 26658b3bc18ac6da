"""Penalties on the weights and dropout, as operations of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from bpengine.backends import Array, Backend, Operation
from bpengine.parameters import Parameters
from bpengine.validation import fraction

__all__ = ["Dropout", "Penalty", "Uniform", "probabilities", "smoothed"]


class Penalty:
    """λ₂/2 Σ w² + λ₁ Σ |w|, over the weights and not the biases.

    Parameters
    ----------
    l1, l2 : float
        λ₁ and λ₂.
    """

    def __init__(self, l1: float, l2: float) -> None:
        self.l1, self.l2 = l1, l2

    def __bool__(self) -> bool:
        return bool(self.l1 or self.l2)

    def value(self, parameters: Parameters) -> float:
        """The penalty of a network's weights, added up in float64."""
        total = 0.0
        for w in parameters.weights if self else ():
            xp = array_namespace(w)
            if self.l2:
                total += self.l2 / 2 * float(xp.sum(w * w, dtype=xp.float64))
            if self.l1:
                total += self.l1 * float(xp.sum(xp.abs(w), dtype=xp.float64))
        return total

    def operations(
        self, parameters: Parameters, gradient: Parameters, strengths: Array
    ) -> Iterator[Operation]:
        """Add the penalty's gradient, λ₂ w + λ₁ sign w, times a unit.

        `strengths` is an array of shape (2,): λ₁ and λ₂ times the unit.
        """
        for w, g in zip(parameters.weights, gradient.weights, strict=True):
            if self.l2:
                yield Operation("l2", "penalty", _l2, (g, w, strengths[1, ...]), g)
            if self.l1:
                yield Operation("l1", "penalty", _l1, (g, w, strengths[0, ...]), g)


class Uniform:
    """Draws uniform random numbers on the host, so that a seed gives the same on every backend."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], backend: Backend, dtype: Any):
        self.rng, self.shape, self.backend, self.dtype = rng, shape, backend, dtype

    def __call__(self) -> Array:
        """Numbers from 0 to below 1."""
        return self.backend.asarray(self.rng.random(self.shape, self.dtype), self.dtype)


class Dropout:
    """Masks that leave out activations at random, anew in each step.

    What is kept is divided by the probability of being kept: the expected activation stays.

    Parameters
    ----------
    probabilities : sequence of float
        For each layer before the output, input first: the share that is left out.
    shapes : sequence of tuple
        The shapes of those layers' activations.
    rng : numpy.random.Generator
    backend : Backend
    dtype : str

    References
    ----------
    N. Srivastava et al., Journal of Machine Learning Research 15, 2014.
    """

    def __init__(
        self,
        probabilities: Sequence[float],
        shapes: Sequence[tuple[int, ...]],
        rng: np.random.Generator,
        backend: Backend,
        dtype: str,
    ) -> None:
        self._masks: dict[int, tuple[Array, Array, Any]] = {}
        for l, (p, shape) in enumerate(zip(probabilities, shapes, strict=False)):
            if p:
                keep = backend.empty((), dtype)
                keep[...] = 1 - p
                draw = Uniform(rng, shape, backend, dtype)
                self._masks[l] = backend.empty(shape, dtype), keep, draw

    def __contains__(self, l: int) -> bool:
        return l in self._masks

    def draw(self, l: int, a: Array, dropped: Array) -> Iterator[Operation]:
        """Draw the mask of layer l, and put a ⊙ mask into `dropped`."""
        if l in self._masks:
            mask, keep, draw = self._masks[l]
            yield Operation("uniform", "dropout", draw, (), mask)
            yield Operation("dropout mask", "dropout", _mask, (mask, keep), mask)
            yield Operation("dropout", "dropout", _multiply, (a, mask), dropped)

    def backward(self, l: int, delta: Array) -> Iterator[Operation]:
        """δ ← δ ⊙ mask."""
        if l in self._masks:
            yield Operation("dropout", "dropout", _multiply, (delta, self._masks[l][0]), delta)


def probabilities(dropout: float | Sequence[float], sizes: Sequence[int]) -> tuple[float, ...]:
    """Shares left out of each layer before the output; a single one is that of the hidden layers."""
    hidden = len(sizes) - 2
    if isinstance(dropout, Sequence) and not isinstance(dropout, str):
        if len(dropout) != hidden + 1:
            raise ValueError(
                f"dropout has {len(dropout)} entries; a network of sizes {list(sizes)} takes "
                f"{hidden + 1}, one for each layer before the output, input first."
            )
        return tuple(fraction(p, f"dropout[{l}]") for l, p in enumerate(dropout))
    return (0.0, *(fraction(dropout, "dropout") for _ in range(hidden)))


def smoothed(Y: Array, smoothing: float, exclusive: bool) -> Array:
    """Targets (1 - ε) y + ε/n, where one of n classes is right; (1 - ε) y + ε/2 otherwise.

    References
    ----------
    C. Szegedy et al., arXiv:1512.00567, section 7.
    """
    return (1 - smoothing) * Y + smoothing / (Y.shape[-2] if exclusive else 2)


def _l2(g: Array, w: Array, strength: Array) -> Array:
    return g + strength * w


def _l1(g: Array, w: Array, strength: Array) -> Array:
    return g + strength * array_namespace(w).sign(w)


def _mask(uniform: Array, keep: Array) -> Array:
    xp = array_namespace(uniform)
    return xp.where(uniform < keep, 1 / keep, xp.zeros_like(keep))


def _multiply(a: Array, mask: Array) -> Array:
    return a * mask
