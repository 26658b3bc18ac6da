"""Penalties on the weights and dropout, as operations of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from bpengine.backends import Array, Backend, Operation
from bpengine.parameters import Parameters
from bpengine.updates import check_count, in_blocks
from bpengine.validation import each, fraction

PerNetwork = float | np.ndarray[Any, Any]

__all__ = ["Dropout", "Penalty", "Uniform", "probabilities", "smoothed"]


class Penalty:
    """λ₂/2 Σ w² + λ₁ Σ |w|, over the weights and not the biases.

    Parameters
    ----------
    l1, l2 : float, or arrays of shape (P,)
        λ₁ and λ₂, of all networks or of each.
    """

    def __init__(self, l1: PerNetwork, l2: PerNetwork) -> None:
        self.l1, self.l2 = l1, l2
        self._has_l1, self._has_l2 = (bool(np.any(strength)) for strength in (l1, l2))

    def value(self, parameters: Parameters) -> Any:
        """The penalty of a network's weights, or of each network's, added up in float64."""
        total: Any = 0.0
        backend = parameters.backend
        for w in parameters.weights:
            xp = array_namespace(w)
            if self._has_l2:
                squares = xp.sum(w * w, axis=(-2, -1), dtype=xp.float64)
                total = total + self.l2 / 2 * backend.figure(squares)
            if self._has_l1:
                total = total + self.l1 * backend.figure(
                    xp.sum(xp.abs(w), axis=(-2, -1), dtype=xp.float64)
                )
        return total

    def operations(
        self, parameters: Parameters, gradient: Parameters, strengths: Array
    ) -> Iterator[Operation]:
        """Add the penalty's gradient, λ₂ w + λ₁ sign w, times a unit.

        `strengths` is an array of shape (2,) or (2, P, 1, 1): λ₁ and λ₂ times the unit.
        """
        for w, g in zip(parameters.weights, gradient.weights, strict=True):
            if self._has_l2:
                yield Operation("l2", "penalty", _l2, (g, w, strengths[1, ...]), g)
            if self._has_l1:
                yield Operation("l1", "penalty", _l1, (g, w, strengths[0, ...]), g)


class Uniform:
    """Draws uniform random numbers on the host, so that a seed gives the same on every backend.

    Parameters
    ----------
    rngs : sequence of numpy.random.Generator or None
        One for each network; None, which has no dropout here, gives zeros.
    shape : tuple of int
    backend : Backend
    dtype : str
    """

    def __init__(
        self,
        rngs: Sequence[np.random.Generator | None],
        shape: tuple[int, ...],
        backend: Backend,
        dtype: Any,
    ) -> None:
        self.rngs, self.shape, self.backend, self.dtype = rngs, shape, backend, dtype

    def calls(self, out: np.ndarray[Any, Any]) -> list[tuple[Any, tuple[Any, ...]]]:
        """The (function, operands) that write numbers from 0 to below 1 into an array of NumPy's."""
        parts = zip(self.rngs, out if len(self.rngs) > 1 else out[None], strict=True)
        # NumPy's generators write into an array: random(size, dtype, out)
        return [
            (part.fill, (0.0,)) if rng is None else (rng.random, (None, out.dtype, part))
            for rng, part in parts
        ]

    def __call__(self) -> Array:
        """Numbers from 0 to below 1."""
        out = np.empty(self.shape, self.dtype)
        for function, operands in self.calls(out):
            function(*operands)
        return self.backend.asarray(out, self.dtype)


class Dropout:
    """Masks that leave out activations at random, anew in each step.

    What is kept is divided by the probability of being kept: the expected activation stays.

    Parameters
    ----------
    probabilities : sequence of float or of P floats
        For each layer before the output, input first: the share that is left out, of all networks
        or of each.
    shapes : sequence of tuple
        The shapes of those layers' activations.
    rngs : sequence of numpy.random.Generator
        What draws, one for each network.
    backend : Backend
    dtype : str

    References
    ----------
    N. Srivastava et al., Journal of Machine Learning Research 15, 2014.
    """

    def __init__(
        self,
        probabilities: Sequence[float | tuple[float, ...]],
        shapes: Sequence[tuple[int, ...]],
        rngs: Sequence[np.random.Generator],
        backend: Backend,
        dtype: str,
    ) -> None:
        self._masks: dict[int, tuple[Array, Array, Any]] = {}
        for l, (p, shape) in enumerate(zip(probabilities, shapes, strict=False)):
            if np.any(p):
                keep = backend.asarray(1 - in_blocks(p), dtype)
                draws = [rng if share else None for rng, share in np.broadcast(np.array(rngs), p)]
                draw = Uniform(draws, shape, backend, dtype)
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


def probabilities(
    dropout: float | Sequence[Any], sizes: Sequence[int], stack: tuple[int, ...] = ()
) -> tuple[float | tuple[float, ...], ...]:
    """Shares left out of each layer before the output; a single one is that of the hidden layers.

    In a stack each may be one for all networks or as many as there are networks.
    """
    hidden = len(sizes) - 2
    if isinstance(dropout, Sequence) and not isinstance(dropout, str):
        if len(dropout) != hidden + 1:
            raise ValueError(
                f"dropout has {len(dropout)} entries; a network of sizes {list(sizes)} takes "
                f"{hidden + 1}, one for each layer before the output, input first."
            )
        shares = tuple(each(p, fraction, f"dropout[{l}]") for l, p in enumerate(dropout))
        for l, share in enumerate(shares):
            check_count(share, stack, f"dropout[{l}]")
        return shares
    return (0.0, *(fraction(dropout, "dropout") for _ in range(hidden)))  # type: ignore[arg-type]


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
