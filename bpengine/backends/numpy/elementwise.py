"""NumPy: elementwise operations and products as ufuncs with preallocated outputs, no temporaries.

A kernel gets constants and scratch arrays from its `Scratch`, and returns the (ufunc, operands) pairs of
an operation, outputs positional: the fastest way to call a ufunc from Python.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from bpengine.backends.array_api import Call
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.numpy.strided import Kernel, location, rows_per_product
from bpengine.backends.operation import Array

__all__ = ["ELEMENTWISE", "by_ufunc"]

GELU_SCALE = math.sqrt(2 / math.pi)


def by_ufunc(ufunc: np.ufunc) -> Kernel:
    """The kernel that is a ufunc of the operands."""
    return lambda k, *operands: [(ufunc, operands)]


def _matmul(k: Scratch, a: Array, b: Array, out: Array) -> list[Call]:
    if a.shape[-1] == 1 and a.ndim > 2:  # outer products, which BLAS has no call for over a stack
        return [(np.multiply, (a, b, out))]
    rows = rows_per_product(a, b, out)
    if rows < len(out):
        a, out = (x.reshape(-1, rows, x.shape[1]) for x in (a, out))
    return [(np.matmul, (a, b, out))]


def _difference(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    return [(np.subtract, (a, y, out)), (np.multiply, (out, scale, out))]


def _linear(k: Scratch, z: Array, a: Array) -> list[Call]:
    return [] if _same(z, a) else [(np.copyto, (a, z))]


def _linear_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> list[Call]:
    return _linear(k, upstream, out)


def _sigmoid(k: Scratch, z: Array, a: Array) -> list[Call]:
    # σ(z) = 1 / (1 + e⁻ᶻ): where e⁻ᶻ overflows, 1/∞ is the 0 that is wanted
    one = k.constant(1, a)
    return [
        _negate(k, z, a),
        (np.exp, (a, a)),
        (np.add, (a, one, a)),
        (np.reciprocal, (a, a)),
    ]


def _sigmoid_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> list[Call]:
    # σ' = a (1 - a)
    slope = k.scratch(a)
    return [
        (np.subtract, (k.constant(1, a), a, slope)),
        (np.multiply, (slope, a, slope)),
        (np.multiply, (upstream, slope, out)),
    ]


def _tanh_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> list[Call]:
    # tanh' = 1 - a²
    slope = k.scratch(a)
    return [
        (np.multiply, (a, a, slope)),
        (np.subtract, (k.constant(1, a), slope, slope)),
        (np.multiply, (upstream, slope, out)),
    ]


def _relu(k: Scratch, z: Array, a: Array) -> list[Call]:
    return [_maximum(z, k.constant(0, a), a)]


def _relu_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> list[Call]:
    # a ≥ 0, so that its sign is the slope: 0 or 1
    slope = k.scratch(a)
    return [(np.sign, (a, slope)), (np.multiply, (upstream, slope, out))]


def _leaky_relu(k: Scratch, z: Array, a: Array) -> list[Call]:
    # max(z, z/100), in place
    slope = k.scratch(z)
    return [(np.multiply, (z, k.constant(0.01, a), slope)), _maximum(z, slope, a)]


def _leaky_relu_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> list[Call]:
    # the sign of a is that of z: max(sign, 1/100) is the slope
    slope = k.scratch(a)
    return [
        (np.sign, (a, slope)),
        _maximum(slope, k.constant(0.01, a), slope),
        (np.multiply, (upstream, slope, out)),
    ]


def _softmax(k: Scratch, z: Array, a: Array) -> list[Call]:
    # e^(z - max z) / Σ: the largest exponent is 0
    column = k.scratch(z[..., :1, :])
    return [
        (np.maximum.reduce, (z, -2, None, column, True)),
        (np.subtract, (z, column, a)),
        (np.exp, (a, a)),
        (np.add.reduce, (a, -2, None, column, True)),
        (np.divide, (a, column, a)),
    ]


def _softmax_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> list[Call]:
    # δ = a ⊙ (g - Σ_j a_j g_j)
    column, product = k.scratch(a[..., :1, :]), k.scratch(a)
    return [
        (np.multiply, (upstream, a, product)),
        (np.add.reduce, (product, -2, None, column, True)),
        (np.subtract, (upstream, column, out)),
        (np.multiply, (out, a, out)),
    ]


def _softplus(k: Scratch, z: Array, a: Array) -> list[Call]:
    return [(np.logaddexp, (z, k.constant(0, a), a))]


def _softplus_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> list[Call]:
    # softplus' = σ(z) = 1 - e⁻ᵃ
    slope = k.scratch(a)
    return [
        _negate(k, a, slope),
        (np.expm1, (slope, slope)),
        (np.multiply, (upstream, slope, out)),
        _negate(k, out, out),
    ]


def _swish(k: Scratch, z: Array, a: Array) -> list[Call]:
    return [*_sigmoid(k, z, a), (np.multiply, (z, a, a))]


def _swish_slope(k: Scratch, upstream: Array, z: Array, out: Array) -> list[Call]:
    # (z σ)' = σ (1 + z (1 - σ))
    sigmoid, slope = k.scratch(z), k.scratch(z, 1)
    one = k.constant(1, z)
    return [
        *_sigmoid(k, z, sigmoid),
        (np.subtract, (one, sigmoid, slope)),
        (np.multiply, (slope, z, slope)),
        (np.add, (slope, one, slope)),
        (np.multiply, (slope, sigmoid, slope)),
        (np.multiply, (upstream, slope, out)),
    ]


def _gelu_tanh(k: Scratch, z: Array, square: Array, t: Array) -> list[Call]:
    # t = tanh(√(2/π) (z + 0.044715 z³)), leaving z² in `square`
    return [
        (np.multiply, (z, z, square)),
        (np.multiply, (square, k.constant(0.044715 * GELU_SCALE, z), t)),
        (np.add, (t, k.constant(GELU_SCALE, z), t)),
        (np.multiply, (t, z, t)),
        (np.tanh, (t, t)),
    ]


def _gelu(k: Scratch, z: Array, a: Array) -> list[Call]:
    # z/2 (1 + t)
    t = k.scratch(z)
    return [
        *_gelu_tanh(k, z, a, t),
        (np.add, (t, k.constant(1, z), t)),
        (np.multiply, (t, k.constant(0.5, z), t)),
        (np.multiply, (t, z, a)),
    ]


def _gelu_slope(k: Scratch, upstream: Array, z: Array, out: Array) -> list[Call]:
    # (1 + t)/2 + z/2 (1 - t²) √(2/π) (1 + 3 · 0.044715 z²) = (1 + t)/2 · (1 + (1 - t) z u')
    t, inner, slope = k.scratch(z), k.scratch(z, 1), k.scratch(z, 2)
    one = k.constant(1, z)
    # beyond ±10 the slope is 1 or 0 to all digits; the cut keeps z² from overflowing
    return [
        _minimum(z, k.constant(10, z), slope),
        _maximum(slope, k.constant(-10, z), slope),
        *_gelu_tanh(k, slope, inner, t),
        (np.multiply, (inner, k.constant(3 * 0.044715 * GELU_SCALE, z), inner)),
        (np.add, (inner, k.constant(GELU_SCALE, z), inner)),
        (np.multiply, (inner, slope, inner)),
        (np.multiply, (upstream, k.constant(0.5, z), out)),
        (np.multiply, (t, inner, slope)),
        (np.subtract, (inner, slope, inner)),
        (np.add, (inner, one, inner)),
        (np.add, (t, one, t)),
        (np.multiply, (inner, t, inner)),
        (np.multiply, (out, inner, out)),
    ]


def _absolute_error_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    return [
        (np.subtract, (a, y, out)),
        (np.sign, (out, out)),
        (np.multiply, (out, scale, out)),
    ]


def _huber_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    # a - y, cut at ±1
    return [
        (np.subtract, (a, y, out)),
        _minimum(out, k.constant(1, out), out),
        _maximum(out, k.constant(-1, out), out),
        (np.multiply, (out, scale, out)),
    ]


def _poisson_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    # (a - y) / a, the denominator kept off 0 by √tiny
    mean = k.scratch(a)
    return [
        _maximum(a, k.constant(math.sqrt(np.finfo(a.dtype).tiny), a), mean),
        *_difference(k, a, y, scale, out),
        (np.divide, (out, mean, out)),
    ]


def _binary_cross_entropy_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    # (a - y) / (a (1 - a)), the denominator kept off 0 by √tiny
    variance = k.scratch(a)
    return [
        (np.subtract, (k.constant(1, a), a, variance)),
        (np.multiply, (variance, a, variance)),
        _maximum(variance, k.constant(math.sqrt(np.finfo(a.dtype).tiny), a), variance),
        *_difference(k, a, y, scale, out),
        (np.divide, (out, variance, out)),
    ]


def _negate(k: Scratch, x: Array, out: Array) -> Call:
    # by a product: np.negative itself is wrong for some pairs of strides in NumPy 2.1 to 2.4
    return np.multiply, (x, k.constant(-1, x), out)


def _maximum(x: Array, y: Array, out: Array) -> Call:
    # maximum and minimum alone deprecate a positional output
    return partial(np.maximum, out=out), (x, y)


def _minimum(x: Array, y: Array, out: Array) -> Call:
    return partial(np.minimum, out=out), (x, y)


def _same(x: Array, y: Array) -> bool:
    return location(x) == location(y)


ELEMENTWISE: dict[str, Kernel] = {
    "matmul": _matmul,
    "difference": _difference,
    "descend": by_ufunc(np.subtract),
    "linear": _linear,
    "linear slope": _linear_slope,
    "sigmoid": _sigmoid,
    "sigmoid slope": _sigmoid_slope,
    "tanh": by_ufunc(np.tanh),
    "tanh slope": _tanh_slope,
    "relu": _relu,
    "relu slope": _relu_slope,
    "leaky_relu": _leaky_relu,
    "leaky_relu slope": _leaky_relu_slope,
    "softmax": _softmax,
    "softmax slope": _softmax_slope,
    "softplus": _softplus,
    "softplus slope": _softplus_slope,
    "exponential": by_ufunc(np.exp),
    "exponential slope": by_ufunc(np.multiply),
    "swish": _swish,
    "swish slope": _swish_slope,
    "gelu": _gelu,
    "gelu slope": _gelu_slope,
    "absolute_error slope": _absolute_error_slope,
    "huber slope": _huber_slope,
    "poisson slope": _poisson_slope,
    "binary_cross_entropy slope": _binary_cross_entropy_slope,
}
