"""Compiled kernels of elementwise lines: each reads its operands from a row of words.

A kernel is called with the address of its row. Word 0 of the row is the kernel's own address; what the
others say is at the head of each group below. The second argument is never read: its type says
whether the numbers are float32 or float64.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import carray, njit
from numba.extending import register_jitable

from bpengine.backends.numba.instruction import WORDS
from bpengine.backends.numba.intrinsics import pointer, real, series, widest
from bpengine.backends.numba.vector_math import exp, expm1, log1p, sigmoid, tanh

__all__ = ["ELEMENTWISE", "KERNELS", "kernel", "number", "view"]

KERNELS: dict[str, Callable[..., None]] = {}
ELEMENTWISE: dict[str, str] = {}
"""Which inputs of an operation are the arrays x, y and the number s of its kernel, in that order."""
helper = njit(error_model="numpy")
formula = register_jitable(error_model="numpy")


def kernel(name: str, operands: str = "") -> Callable[..., Any]:
    """Make a function known as the kernel of a name, of an elementwise line if it has operands."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        KERNELS[name] = function
        if operands:
            ELEMENTWISE[name] = operands
        return function

    return register


@helper
def view(address, size, like):
    """The array at an address."""
    return carray(pointer(address, like), size)


@helper
def number(address, like):
    """The number at an address."""
    return carray(pointer(address, like), 1)[0]


# Elementwise: 1, 2 the shape; 3, 4, 5 the output's address, its stride in bytes from row to row, and in
# elements within a row; 6 to 8, 9 to 11 and 12 to 14 the same of x, y and s.


@helper
def each(f, row, like):
    """``output = f(x, y, s)``: in vectors where x and y are contiguous and s is one number."""
    widest()
    r = carray(row, WORDS)
    rows, columns = r[1], r[2]
    out, out_row, out_step = r[3], r[4], r[5]
    x, x_row, x_step = r[6], r[7], r[8]
    y, y_row, y_step = r[9], r[10], r[11]
    s, s_row, s_step = r[12], r[13], r[14]
    if out_step == 1 and x_step == 1 and y_step == 1 and s_row == 0 and s_step == 0:
        value = number(s, like)
        for i in range(rows):
            outs = view(out + i * out_row, columns, like)
            ys = view(y + i * y_row, columns, like)
            if out == x:  # the compiler has to know: else it fears that writing changes what comes next
                for j in range(columns):
                    outs[j] = f(outs[j], ys[j], value)
            else:
                xs = view(x + i * x_row, columns, like)
                for j in range(columns):
                    outs[j] = f(xs[j], ys[j], value)
    else:
        for i in range(rows):
            outs = view(out + i * out_row, columns * out_step, like)
            xs = view(x + i * x_row, columns * x_step + 1, like)
            ys = view(y + i * y_row, columns * y_step + 1, like)
            ss = view(s + i * s_row, columns * s_step + 1, like)
            for j in range(columns):
                outs[j * out_step] = f(xs[j * x_step], ys[j * y_step], ss[j * s_step])


_root_of_tiny = series([1.0842021724855044e-19], [1.4916681462400413e-154])


@formula
def _sign(x):
    return real(1, x) if x > real(0, x) else (real(-1, x) if x < real(0, x) else x)


@formula
def _at_least(x, least):
    # a NaN stays one
    return least if x < least else x


@formula
def _at_most(x, most):
    return most if x > most else x


@formula
def _first(x, y, s):
    return x


@kernel("copy", "x")
def copy(row, like):
    each(_first, row, like)


@formula
def _add(x, y, s):
    return x + y


@kernel("add", "xy")
def add(row, like):
    each(_add, row, like)


@formula
def _subtract(x, y, s):
    return x - y


@kernel("subtract", "xy")
def subtract(row, like):
    each(_subtract, row, like)


@formula
def _multiply(x, y, s):
    return x * y


@kernel("multiply", "xy")
def multiply(row, like):
    each(_multiply, row, like)


@formula
def _scale(x, y, s):
    return x * s


@kernel("scale", "xs")
def scale(row, like):
    each(_scale, row, like)


@formula
def _shrink(x, y, s):
    return x - s * y


@kernel("shrink", "xys")
def shrink(row, like):
    each(_shrink, row, like)


@formula
def _l2(x, y, s):
    return x + s * y


@kernel("l2", "xys")
def l2(row, like):
    each(_l2, row, like)


@formula
def _l1(x, y, s):
    return x + s * _sign(y)


@kernel("l1", "xys")
def l1(row, like):
    each(_l1, row, like)


@formula
def _dropout_mask(x, y, s):
    return real(1, x) / s if x < s else real(0, x)


@kernel("dropout mask", "xs")
def dropout_mask(row, like):
    each(_dropout_mask, row, like)


@formula
def _difference(x, y, s):
    return (x - y) * s


@kernel("difference", "xys")
def difference(row, like):
    each(_difference, row, like)


@formula
def _sigmoid_line(x, y, s):
    return sigmoid(x)


@kernel("sigmoid", "x")
def sigmoid_kernel(row, like):
    each(_sigmoid_line, row, like)


@formula
def _sigmoid_slope(x, y, s):
    return x * (y * (real(1, x) - y))


@kernel("sigmoid slope", "xy")
def sigmoid_slope(row, like):
    each(_sigmoid_slope, row, like)


@formula
def _tanh_line(x, y, s):
    return tanh(x)


@kernel("tanh", "x")
def tanh_kernel(row, like):
    each(_tanh_line, row, like)


@formula
def _tanh_slope(x, y, s):
    return x * (real(1, x) - y * y)


@kernel("tanh slope", "xy")
def tanh_slope(row, like):
    each(_tanh_slope, row, like)


@formula
def _relu(x, y, s):
    return _at_least(x, real(0, x))


@kernel("relu", "x")
def relu(row, like):
    each(_relu, row, like)


@formula
def _relu_slope(x, y, s):
    return x * _sign(y)


@kernel("relu slope", "xy")
def relu_slope(row, like):
    each(_relu_slope, row, like)


@formula
def _leaky_relu(x, y, s):
    return _at_least(x, real(0.01, x) * x)


@kernel("leaky_relu", "x")
def leaky_relu(row, like):
    each(_leaky_relu, row, like)


@formula
def _leaky_relu_slope(x, y, s):
    return x * _at_least(_sign(y), real(0.01, x))


@kernel("leaky_relu slope", "xy")
def leaky_relu_slope(row, like):
    each(_leaky_relu_slope, row, like)


@formula
def _softplus(x, y, s):
    return _at_least(x, real(0, x)) + log1p(exp(-abs(x)))


@kernel("softplus", "x")
def softplus(row, like):
    each(_softplus, row, like)


@formula
def _softplus_slope(x, y, s):
    return x * -expm1(-y)


@kernel("softplus slope", "xy")
def softplus_slope(row, like):
    each(_softplus_slope, row, like)


@formula
def _exponential(x, y, s):
    return exp(x)


@kernel("exponential", "x")
def exponential(row, like):
    each(_exponential, row, like)


@formula
def _swish(x, y, s):
    return x * sigmoid(x)


@kernel("swish", "x")
def swish(row, like):
    each(_swish, row, like)


@formula
def _swish_slope(x, y, s):
    a, one = sigmoid(y), real(1, x)
    return x * (a * (one + y * (one - a)))


@kernel("swish slope", "xy")
def swish_slope(row, like):
    each(_swish_slope, row, like)


@formula
def _gelu_tanh(x):
    cubic = real(0.044715, x) * x * x
    return tanh(real(math.sqrt(2 / math.pi), x) * (x + cubic * x))


@formula
def _gelu(x, y, s):
    return real(0.5, x) * x * (real(1, x) + _gelu_tanh(x))


@kernel("gelu", "x")
def gelu(row, like):
    each(_gelu, row, like)


@formula
def _gelu_slope(x, y, s):
    # beyond ±10 the slope is 1 or 0 to all digits; the cut keeps z² from overflowing
    z = _at_most(_at_least(y, real(-10, x)), real(10, x))
    one, half, t = real(1, x), real(0.5, x), _gelu_tanh(z)
    inner = real(math.sqrt(2 / math.pi), x) * (one + real(3 * 0.044715, x) * z * z)
    return x * (half * (one + t) + half * z * (one - t * t) * inner)


@kernel("gelu slope", "xy")
def gelu_slope(row, like):
    each(_gelu_slope, row, like)


@formula
def _absolute_error_slope(x, y, s):
    return _sign(x - y) * s


@kernel("absolute_error slope", "xys")
def absolute_error_slope(row, like):
    each(_absolute_error_slope, row, like)


@formula
def _huber_slope(x, y, s):
    return _at_most(_at_least(x - y, real(-1, x)), real(1, x)) * s


@kernel("huber slope", "xys")
def huber_slope(row, like):
    each(_huber_slope, row, like)


@formula
def _clip_factor(x, y, s):
    return s * (y / (y if x < y else x))


@kernel("clip factors", "xys")
def clip_factors(row, like):
    each(_clip_factor, row, like)


@formula
def _poisson_slope(x, y, s):
    return ((x - y) * s) / _at_least(x, _root_of_tiny(x))


@kernel("poisson slope", "xys")
def poisson_slope(row, like):
    each(_poisson_slope, row, like)


@formula
def _binary_cross_entropy_slope(x, y, s):
    return ((x - y) * s) / _at_least(x * (real(1, x) - x), _root_of_tiny(x))


@kernel("binary_cross_entropy slope", "xys")
def binary_cross_entropy_slope(row, like):
    each(_binary_cross_entropy_slope, row, like)
