"""Weight penalties and dropout probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.model.parameters import Parameters
from bpengine.validation import check_count, check_entries, fraction

__all__ = ["Penalty", "probabilities"]

PerNetwork = float | np.ndarray[Any, Any]


class Penalty:
    """λ₂/2 Σ w² + λ₁ Σ |w| over the weights and not the biases, λ₁ and λ₂ shared or per-network."""

    def __init__(self, l1: PerNetwork, l2: PerNetwork) -> None:
        self.l1, self.l2 = l1, l2
        self._has_l1, self._has_l2 = (
            bool(strength.any()) if isinstance(strength, np.ndarray) else strength != 0
            for strength in (l1, l2)
        )

    def value(self, parameters: Parameters) -> Any:
        """The penalty, in float64; for a stack of shape (P,)."""
        total: Any = 0.0
        if not (self._has_l1 or self._has_l2):
            return total
        backend = parameters.backend
        for w in parameters.weights:
            xp = array_namespace(w)
            if self._has_l2:
                squares = xp.sum(w * w, axis=(-2, -1), dtype=xp.float64)
                total = total + self.l2 / 2 * backend.to_float(squares)
            if self._has_l1:
                total = total + self.l1 * backend.to_float(
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


def probabilities(
    dropout: float | Sequence[Any], sizes: Sequence[int], stack: tuple[int, ...] = ()
) -> tuple[float | tuple[float, ...], ...]:
    """Dropout of each layer before the output; a single number applies to the hidden layers.

    In a stack an entry may be per-network.
    """
    hidden = len(sizes) - 2
    if isinstance(dropout, Sequence) and not isinstance(dropout, str):
        if len(dropout) != hidden + 1:
            raise ValueError(
                f"dropout has {len(dropout)} entries; a network of sizes {list(sizes)} takes "
                f"{hidden + 1}, one for each layer before the output, input first."
            )
        shares = tuple(check_entries(p, fraction, f"dropout[{l}]") for l, p in enumerate(dropout))
        for l, share in enumerate(shares):
            check_count(share, stack, f"dropout[{l}]")
        return shares
    share = fraction(dropout, "dropout")  # type: ignore[arg-type]
    return (0.0, *[share] * hidden)


def _l2(g: Array, w: Array, strength: Array) -> Array:
    return g + strength * w


def _l1(g: Array, w: Array, strength: Array) -> Array:
    return g + strength * array_namespace(w).sign(w)
