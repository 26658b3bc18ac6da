"""NumPy kernels of per-example gradients: norms and scaled columns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bpengine.backends.array_api import Call
from bpengine.backends.base import Array

if TYPE_CHECKING:
    from bpengine.backends.numpy import Kernels

__all__ = ["PER_EXAMPLE", "gaussian_noise"]

BLOCK = 2**15  # elements of noise drawn at a time: which number goes where rests on it


def _square_sums(x: Array, out: Array) -> Call:
    """‖x‖² of every column, without a temporary."""
    if x.strides[-2] == x.itemsize:  # examples contiguous
        return np.vecdot, (x.mT, x.mT, out)
    return partial(np.einsum, out=out), ("kx,kx->x", x, x)


def _product_norms(k: Kernels, δ: Array, x: Array, out: Array) -> list[Call]:
    # ‖δ‖ ‖x‖, column by column
    squares = k.scratch(out)
    return [
        _square_sums(δ, out),
        (np.sqrt, (out, out)),
        _square_sums(x, squares),
        (np.sqrt, (squares, squares)),
        (np.multiply, (out, squares, out)),
    ]


def _total_norms(k: Kernels, layers: Array, out: Array) -> list[Call]:
    return [(np.hypot.reduce, (layers, 0, None, out))]


def _clip_factors(k: Kernels, total: Array, bound: Array, scale: Array, out: Array) -> list[Call]:
    # scale · bound / max(total, bound)
    return [
        (partial(np.maximum, out=out), (total, bound)),
        (np.divide, (bound, out, out)),
        (np.multiply, (out, scale, out)),
    ]


def _scale_columns(k: Kernels, δ: Array, factors: Array, out: Array) -> list[Call]:
    return [(np.multiply, (δ, factors, out))]


def _column_products(k: Kernels, δ: Array, x: Array, out: Array) -> list[Call]:
    return [(np.multiply, (δ.mT[..., :, None], x.mT[..., None, :], out))]


def gaussian_noise(k: Kernels, fill: Any, g: Array, strength: Array) -> list[Call]:
    """Add noise to g block by block: what has been drawn is added while a core's cache has it.

    `fill` writes normal numbers of some strength into a block.
    """
    if not g.flags.c_contiguous:  # rows that are padded: all at once, in the same order
        return [(_add_noise, (g, strength, np.empty(g.size, g.dtype), fill))]
    calls: list[Call] = []
    whole = g.reshape(-1)
    for start in range(0, whole.size, BLOCK):
        part = whole[start : start + BLOCK]
        noise = k.scratch(part)
        calls += [(fill, (noise, strength)), (np.add, (part, noise, part))]
    return calls


def _add_noise(g: Array, strength: Array, noise: Array, fill: Any) -> None:
    for start in range(0, noise.size, BLOCK):
        fill(noise[start : start + BLOCK], strength)
    np.add(g, noise.reshape(g.shape), g)


PER_EXAMPLE: dict[str, Any] = {
    "product norms": _product_norms,
    "total norms": _total_norms,
    "clip factors": _clip_factors,
    "scale columns": _scale_columns,
    "column products": _column_products,
}
