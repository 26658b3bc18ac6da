"""Dropout masks, drawn by operations of each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend, Operation
from bpengine.backends.namespace import array_namespace

__all__ = ["Dropout", "Uniform", "in_blocks"]


class Uniform:
    """Draws uniform random numbers on the host, the same on every backend.

    There is a generator for each network; None, for a network without dropout, gives zeros.
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
        """Calls (function, operands) that write numbers in [0, 1) into a NumPy array."""
        parts = zip(self.rngs, out if len(self.rngs) > 1 else out[None], strict=True)
        # random(size, dtype, out)
        return [
            (part.fill, (0.0,)) if rng is None else (rng.random, (None, out.dtype, part))
            for rng, part in parts
        ]

    def __call__(self) -> Array:
        """Numbers in [0, 1)."""
        out = np.empty(self.shape, self.dtype)
        for function, operands in self.calls(out):
            function(*operands)
        return self.backend.asarray(out, self.dtype)


class Dropout:
    """Random masks of activations.

    Remaining activations are divided by their probability, which preserves the expected value.
    `probabilities` and `shapes` are those of the layers before the output, input first.

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
        """Draw the mask of layer l, and write a ⊙ mask into `dropped`."""
        mask, keep, draw = self._masks[l]
        yield Operation("uniform", "dropout", draw, (), mask)
        yield Operation("dropout mask", "dropout", _mask, (mask, keep), mask)
        yield Operation("dropout", "dropout", _multiply, (a, mask), dropped)

    def backward(self, l: int, delta: Array) -> Iterator[Operation]:
        """δ ← δ ⊙ mask."""
        if l in self._masks:
            yield Operation("dropout", "dropout", _multiply, (delta, self._masks[l][0]), delta)


def _mask(uniform: Array, keep: Array) -> Array:
    xp = array_namespace(uniform)
    return xp.where(uniform < keep, 1 / keep, xp.zeros_like(keep))


def _multiply(a: Array, mask: Array) -> Array:
    return a * mask


def in_blocks(values: Any) -> np.ndarray[Any, Any]:
    """P numbers as an array (P, 1, 1), which broadcasts with blocks; a single one as ()."""
    found = np.asarray(values)
    return np.reshape(found, (*found.shape, *((1, 1) * found.ndim)))
