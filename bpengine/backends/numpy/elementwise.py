"""NumPy: elementwise operations and products as ufuncs with preallocated outputs, no temporaries.

A kernel gets constants and scratch arrays from its `Scratch`, and yields the (ufunc, operands) pairs of
an operation, outputs positional: the fastest way to call a ufunc from Python.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from bpengine.backends.array_api import Call, Calls
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.numpy.strided import Kernel, location, rows_per_product
from bpengine.backends.operation import Array

__all__ = ["ELEMENTWISE", "by_ufunc", "maximum"]

GELU_SCALE = math.sqrt(2 / math.pi)


def by_ufunc(ufunc: np.ufunc) -> Kernel:
    """The kernel that is a ufunc of the operands."""
    return lambda k, *operands: [(ufunc, operands)]


def _matmul(k: Scratch, a: Array, b: Array, out: Array) -> Calls:
    if a.shape[-1] == 1 and a.ndim > 2:  # outer products, which BLAS has no call for over a stack
        yield np.multiply, (a, b, out)
        return
    rows = rows_per_product(a, b, out)
    if rows < len(out):
        a, out = (x.reshape(-1, rows, x.shape[1]) for x in (a, out))
    yield np.matmul, (a, b, out)


def _difference(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> Calls:
    yield np.subtract, (a, y, out)
    yield np.multiply, (out, scale, out)


def _linear(k: Scratch, z: Array, a: Array) -> Calls:
    if location(z) != location(a):
        yield np.copyto, (a, z)


def _sigmoid(k: Scratch, z: Array, a: Array) -> Calls:
    # σ(z) = 1 / (1 + e⁻ᶻ): where e⁻ᶻ overflows, 1/∞ is the 0 that is wanted
    one = k.constant(1, a)
    yield _negate(k, z, a)
    yield np.exp, (a, a)
    yield np.add, (a, one, a)
    yield np.reciprocal, (a, a)


def _sigmoid_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> Calls:
    # σ' = a (1 - a)
    slope = k.scratch(a)
    yield np.subtract, (k.constant(1, a), a, slope)
    yield np.multiply, (slope, a, slope)
    yield np.multiply, (upstream, slope, out)


def _tanh_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> Calls:
    # tanh' = 1 - a²
    slope = k.scratch(a)
    yield np.multiply, (a, a, slope)
    yield np.subtract, (k.constant(1, a), slope, slope)
    yield np.multiply, (upstream, slope, out)


def _relu_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> Calls:
    # a ≥ 0, so that its sign is the slope: 0 or 1
    slope = k.scratch(a)
    yield np.sign, (a, slope)
    yield np.multiply, (upstream, slope, out)


def _leaky_relu(k: Scratch, z: Array, a: Array) -> Calls:
    # max(z, z/100), in place
    slope = k.scratch(z)
    yield np.multiply, (z, k.constant(0.01, a), slope)
    yield maximum(z, slope, a)


def _leaky_relu_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> Calls:
    # the sign of a is that of z: max(sign, 1/100) is the slope
    slope = k.scratch(a)
    yield np.sign, (a, slope)
    yield maximum(slope, k.constant(0.01, a), slope)
    yield np.multiply, (upstream, slope, out)


def _softmax(k: Scratch, z: Array, a: Array) -> Calls:
    # e^(z - max z) / Σ: the largest exponent is 0
    column = k.scratch(z[..., :1, :])
    yield np.maximum.reduce, (z, -2, None, column, True)
    yield np.subtract, (z, column, a)
    yield np.exp, (a, a)
    yield np.add.reduce, (a, -2, None, column, True)
    yield np.divide, (a, column, a)


def _softmax_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> Calls:
    # δ = a ⊙ (g - Σ_j a_j g_j)
    column, product = k.scratch(a[..., :1, :]), k.scratch(a)
    yield np.multiply, (upstream, a, product)
    yield np.add.reduce, (product, -2, None, column, True)
    yield np.subtract, (upstream, column, out)
    yield np.multiply, (out, a, out)


def _softplus_slope(k: Scratch, upstream: Array, a: Array, out: Array) -> Calls:
    # softplus' = σ(z) = 1 - e⁻ᵃ
    slope = k.scratch(a)
    yield _negate(k, a, slope)
    yield np.expm1, (slope, slope)
    yield np.multiply, (upstream, slope, out)
    yield _negate(k, out, out)


def _swish(k: Scratch, z: Array, a: Array) -> Calls:
    yield from _sigmoid(k, z, a)
    yield np.multiply, (z, a, a)


def _swish_slope(k: Scratch, upstream: Array, z: Array, out: Array) -> Calls:
    # (z σ)' = σ (1 + z (1 - σ))
    sigmoid, slope = k.scratch(z), k.scratch(z, 1)
    one = k.constant(1, z)
    yield from _sigmoid(k, z, sigmoid)
    yield np.subtract, (one, sigmoid, slope)
    yield np.multiply, (slope, z, slope)
    yield np.add, (slope, one, slope)
    yield np.multiply, (slope, sigmoid, slope)
    yield np.multiply, (upstream, slope, out)


def _gelu_tanh(k: Scratch, z: Array, square: Array, t: Array) -> Calls:
    # t = tanh(√(2/π) (z + 0.044715 z³)), leaving z² in `square`
    yield np.multiply, (z, z, square)
    yield np.multiply, (square, k.constant(0.044715 * GELU_SCALE, z), t)
    yield np.add, (t, k.constant(GELU_SCALE, z), t)
    yield np.multiply, (t, z, t)
    yield np.tanh, (t, t)


def _gelu(k: Scratch, z: Array, a: Array) -> Calls:
    # z/2 (1 + t)
    t = k.scratch(z)
    yield from _gelu_tanh(k, z, a, t)
    yield np.add, (t, k.constant(1, z), t)
    yield np.multiply, (t, k.constant(0.5, z), t)
    yield np.multiply, (t, z, a)


def _gelu_slope(k: Scratch, upstream: Array, z: Array, out: Array) -> Calls:
    # (1 + t)/2 + z/2 (1 - t²) √(2/π) (1 + 3 · 0.044715 z²) = (1 + t)/2 · (1 + (1 - t) z u')
    t, inner, slope = k.scratch(z), k.scratch(z, 1), k.scratch(z, 2)
    one = k.constant(1, z)
    # beyond ±10 the slope is 1 or 0 to all digits; the cut keeps z² from overflowing
    yield _minimum(z, k.constant(10, z), slope)
    yield maximum(slope, k.constant(-10, z), slope)
    yield from _gelu_tanh(k, slope, inner, t)
    yield np.multiply, (inner, k.constant(3 * 0.044715 * GELU_SCALE, z), inner)
    yield np.add, (inner, k.constant(GELU_SCALE, z), inner)
    yield np.multiply, (inner, slope, inner)
    yield np.multiply, (upstream, k.constant(0.5, z), out)
    yield np.multiply, (t, inner, slope)
    yield np.subtract, (inner, slope, inner)
    yield np.add, (inner, one, inner)
    yield np.add, (t, one, t)
    yield np.multiply, (inner, t, inner)
    yield np.multiply, (out, inner, out)


def _absolute_error_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> Calls:
    # in place, np.sign takes twenty times as long, as it is not in vector instructions
    error = k.scratch(a)
    yield np.subtract, (a, y, error)
    yield np.sign, (error, out)
    yield np.multiply, (out, scale, out)


def _huber_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> Calls:
    # a - y, cut at ±1
    yield np.subtract, (a, y, out)
    yield _minimum(out, k.constant(1, out), out)
    yield maximum(out, k.constant(-1, out), out)
    yield np.multiply, (out, scale, out)


def _poisson_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> Calls:
    # (a - y) / a, the denominator kept off 0 by √tiny
    mean = k.scratch(a)
    yield maximum(a, k.constant(math.sqrt(np.finfo(a.dtype).tiny), a), mean)
    yield from _difference(k, a, y, scale, out)
    yield np.divide, (out, mean, out)


def _binary_cross_entropy_slope(k: Scratch, a: Array, y: Array, scale: Array, out: Array) -> Calls:
    # (a - y) / (a (1 - a)), the denominator kept off 0 by √tiny
    variance = k.scratch(a)
    yield np.subtract, (k.constant(1, a), a, variance)
    yield np.multiply, (variance, a, variance)
    yield maximum(variance, k.constant(math.sqrt(np.finfo(a.dtype).tiny), a), variance)
    yield from _difference(k, a, y, scale, out)
    yield np.divide, (out, variance, out)


def _negate(k: Scratch, x: Array, out: Array) -> Call:
    # by a product: since NumPy 2.1, np.negative is wrong for some pairs of strides
    return np.multiply, (x, k.constant(-1, x), out)


def maximum(x: Array, y: Array, out: Array) -> Call:
    """The call of ``np.maximum``: it and ``minimum`` alone deprecate a positional output."""
    return partial(np.maximum, out=out), (x, y)


def _minimum(x: Array, y: Array, out: Array) -> Call:
    return partial(np.minimum, out=out), (x, y)


ELEMENTWISE: dict[str, Kernel] = {
    "matmul": _matmul,
    "difference": _difference,
    "descend": by_ufunc(np.subtract),
    "linear": _linear,
    "linear slope": lambda k, upstream, a, out: _linear(k, upstream, out),
    "sigmoid": _sigmoid,
    "sigmoid slope": _sigmoid_slope,
    "tanh": by_ufunc(np.tanh),
    "tanh slope": _tanh_slope,
    "relu": lambda k, z, a: [maximum(z, k.constant(0, a), a)],
    "relu slope": _relu_slope,
    "leaky_relu": _leaky_relu,
    "leaky_relu slope": _leaky_relu_slope,
    "softmax": _softmax,
    "softmax slope": _softmax_slope,
    "softplus": lambda k, z, a: [(np.logaddexp, (z, k.constant(0, a), a))],
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
