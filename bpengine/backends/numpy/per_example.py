"""NumPy kernels of per-example gradients: norms and scaled columns."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call, Calls
from bpengine.backends.norms import least_norm, norms
from bpengine.backends.numpy.elementwise import by_ufunc, maximum
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.operation import NOISE_BLOCK, Array

__all__ = ["PER_EXAMPLE", "gaussian_noise"]


def _square_sums(x: Array, out: Array) -> Call:
    """‖x‖² of every column, without a temporary."""
    if x.strides[-2] == x.itemsize:  # examples contiguous
        return np.vecdot, (x.mT, x.mT, out)
    return partial(np.einsum, out=out), ("kx,kx->x", x, x)


def _product_norms(k: Scratch, δ: Array, x: Array, out: Array) -> Calls:
    # ‖δ‖ ‖x‖, column by column
    both = np.empty((2, *out.shape), out.dtype)
    ends = (k.constant(end, out) for end in (least_norm(out), math.inf))
    yield _square_sums(δ, both[0])
    yield _square_sums(x, both[1])
    yield np.sqrt, (both, both)
    yield np.multiply, (both[0], both[1], out)
    yield _rescale_norms, (out, both, δ, x, *ends)


def _rescale_norms(out: Array, both: Array, δ: Array, x: Array, least: Array, inf: Array) -> None:
    """Norms again, where squares in columns overflow or may underflow, from scaled columns."""
    if not np.count_nonzero(both < least) and not np.count_nonzero(both == inf):
        return
    (first, unit), (second, other_unit) = norms(δ, axis=-2), norms(x, axis=-2)
    out[...] = (first * second / unit / other_unit)[..., 0, :]


def _total_norms(k: Scratch, layers: Array, out: Array) -> Calls:
    yield np.hypot.reduce, (layers, 0, None, out)


def _clip_factors(k: Scratch, total: Array, bound: Array, scale: Array, out: Array) -> Calls:
    # scale · bound / max(total, bound)
    yield maximum(total, bound, out)
    yield np.divide, (bound, out, out)
    yield np.multiply, (out, scale, out)


def _column_products(k: Scratch, δ: Array, x: Array, out: Array) -> Calls:
    yield np.multiply, (δ.mT[..., :, None], x.mT[..., None, :], out)


def gaussian_noise(k: Scratch, fill: Any, g: Array, strength: Array) -> Calls:
    """Add noise to g, contiguous, block by block, so that the noise is still in the cache.

    `fill` writes normal numbers of some strength to a block.
    """
    whole = g.reshape(-1)
    for start in range(0, whole.size, NOISE_BLOCK):
        part = whole[start : start + NOISE_BLOCK]
        noise = k.scratch(part)
        yield fill, (noise, strength)
        yield np.add, (part, noise, part)


PER_EXAMPLE: dict[str, Any] = {
    "product norms": _product_norms,
    "total norms": _total_norms,
    "clip factors": _clip_factors,
    "scale columns": by_ufunc(np.multiply),
    "column products": _column_products,
}
