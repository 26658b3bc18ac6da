"""Compiled kernels of elementwise operations.

A kernel is called with the address of its instruction, whose fields are integers: field 0 is the
kernel's address, the others are its operands. Its second argument is never read: its type says whether
the numbers are float32 or float64.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import carray, njit
from numba.extending import register_jitable

from bpengine.backends.numba.intrinsics import pointer, real, series, widest
from bpengine.backends.numba.vector_math import exp, expm1, log1p, sigmoid, tanh

__all__ = ["ELEMENTWISE", "KERNELS", "elementwise", "helper", "inlined", "kernel", "number", "view"]

KERNELS: dict[str, Callable[..., None]] = {}
ELEMENTWISE: dict[str, str] = {}
"""Which inputs of an operation are the arrays x, y and the number s of its kernel, in that order."""
helper = njit(error_model="numpy")
inlined = register_jitable(error_model="numpy")


def kernel(name: str) -> Callable[..., Any]:
    """Register a function as the kernel of a name."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        KERNELS[name] = function
        return function

    return register


def formula(name: str, operands: str) -> Callable[..., Any]:
    """Register ``output = f(x, y, s)`` as the elementwise kernel of a name."""

    def register(f: Callable[..., Any]) -> Callable[..., Any]:
        inlined(f)

        def run(instruction, like):
            elementwise(f, instruction, like)

        run.__qualname__ = f.__qualname__  # Numba's cache on disk has a file for each
        KERNELS[name], ELEMENTWISE[name] = run, operands
        return f

    return register


@helper
def view(address, size, like):
    """The array at an address."""
    return carray(pointer(address, like), size)


@helper
def number(address, like):
    """The number at an address."""
    return carray(pointer(address, like), 1)[0]


# Fields of an elementwise instruction: 1, 2 the shape; 3, 4, 5 the output's address, its stride in bytes
# from row to row, and in elements within a row; 6 to 8, 9 to 11 and 12 to 14 the same of x, y and s.


@helper
def elementwise(f, instruction, like):
    """``output = f(x, y, s)``: in vectors where x and y are contiguous and s is one number."""
    widest()
    rows, columns = instruction[1], instruction[2]
    out, out_row, out_step = instruction[3], instruction[4], instruction[5]
    x, x_row, x_step = instruction[6], instruction[7], instruction[8]
    y, y_row, y_step = instruction[9], instruction[10], instruction[11]
    s, s_row, s_step = instruction[12], instruction[13], instruction[14]
    if out_step == 1 and x_step == 1 and y_step == 1 and s_row == 0 and s_step == 0:
        value = pointer(s, like)[0]
        for i in range(rows):
            outs, ys = pointer(out + i * out_row, like), pointer(y + i * y_row, like)
            if out == x:  # said to the compiler, which else assumes that a write may change later x
                for j in range(columns):
                    outs[j] = f(outs[j], ys[j], value)
            else:
                xs = pointer(x + i * x_row, like)
                for j in range(columns):
                    outs[j] = f(xs[j], ys[j], value)
    else:
        for i in range(rows):
            outs, xs = pointer(out + i * out_row, like), pointer(x + i * x_row, like)
            ys, ss = pointer(y + i * y_row, like), pointer(s + i * s_row, like)
            for j in range(columns):
                outs[j * out_step] = f(xs[j * x_step], ys[j * y_step], ss[j * s_step])


_root_of_tiny = series([1.0842021724855044e-19], [1.4916681462400413e-154])


@inlined
def _sign(x):
    # a zero and a NaN stay what they are
    return math.copysign(real(1, x), x) if abs(x) > real(0, x) else x


@inlined
def _at_least(x, least):
    # a NaN stays one
    return least if x < least else x


@inlined
def _at_most(x, most):
    return most if x > most else x


@formula("copy", "x")
def _first(x, y, s):
    return x


@formula("add", "xy")
def _add(x, y, s):
    return x + y


@formula("subtract", "xy")
def _subtract(x, y, s):
    return x - y


@formula("multiply", "xy")
def _multiply(x, y, s):
    return x * y


@formula("scale", "xs")
def _scale(x, y, s):
    return x * s


@formula("shrink", "xys")
def _shrink(x, y, s):
    return x - s * y


@formula("l2", "xys")
def _l2(x, y, s):
    return x + s * y


@formula("l1", "xys")
def _l1(x, y, s):
    return x + s * _sign(y)


@formula("dropout mask", "xs")
def _dropout_mask(x, y, s):
    return real(1, x) / s if x < s else real(0, x)


@formula("difference", "xys")
def _difference(x, y, s):
    return (x - y) * s


@formula("sigmoid", "x")
def _sigmoid(x, y, s):
    return sigmoid(x)


@formula("sigmoid slope", "xy")
def _sigmoid_slope(x, y, s):
    return x * (y * (real(1, x) - y))


@formula("tanh", "x")
def _tanh(x, y, s):
    return tanh(x)


@formula("tanh slope", "xy")
def _tanh_slope(x, y, s):
    return x * (real(1, x) - y * y)


@formula("relu", "x")
def _relu(x, y, s):
    return _at_least(x, real(0, x))


@formula("relu slope", "xy")
def _relu_slope(x, y, s):
    return x * _sign(y)


@formula("leaky_relu", "x")
def _leaky_relu(x, y, s):
    return _at_least(x, real(0.01, x) * x)


@formula("leaky_relu slope", "xy")
def _leaky_relu_slope(x, y, s):
    return x * _at_least(_sign(y), real(0.01, x))


@formula("softplus", "x")
def _softplus(x, y, s):
    return _at_least(x, real(0, x)) + log1p(exp(-abs(x)))


@formula("softplus slope", "xy")
def _softplus_slope(x, y, s):
    return x * -expm1(-y)


@formula("exponential", "x")
def _exponential(x, y, s):
    return exp(x)


@formula("swish", "x")
def _swish(x, y, s):
    return x * sigmoid(x)


@formula("swish slope", "xy")
def _swish_slope(x, y, s):
    a, one = sigmoid(y), real(1, x)
    return x * (a * (one + y * (one - a)))


@inlined
def _gelu_sigmoid(x):
    # σ(2u) = (1 + tanh u) / 2 for u = √(2/π) (x + 0.044715 x³)
    cubic = real(0.044715, x) * x * x
    return sigmoid(real(2 * math.sqrt(2 / math.pi), x) * (x + cubic * x))


@formula("gelu", "x")
def _gelu(x, y, s):
    return x * _gelu_sigmoid(x)


@formula("gelu slope", "xy")
def _gelu_slope(x, y, s):
    # beyond ±30 the slope is 1 or 0; the cut keeps z² from overflowing
    z = _at_most(_at_least(y, real(-30, x)), real(30, x))
    one, a = real(1, x), _gelu_sigmoid(z)
    inner = real(2 * math.sqrt(2 / math.pi), x) * (one + real(3 * 0.044715, x) * z * z)
    return x * (a * (one + z * (one - a) * inner))


@formula("absolute_error slope", "xys")
def _absolute_error_slope(x, y, s):
    return _sign(x - y) * s


@formula("huber slope", "xys")
def _huber_slope(x, y, s):
    return _at_most(_at_least(x - y, real(-1, x)), real(1, x)) * s


@formula("clip factors", "xys")
def _clip_factor(x, y, s):
    return s * (y / (y if x < y else x))


@formula("poisson slope", "xys")
def _poisson_slope(x, y, s):
    return ((x - y) * s) / _at_least(x, _root_of_tiny(x))


@formula("binary_cross_entropy slope", "xys")
def _binary_cross_entropy_slope(x, y, s):
    return ((x - y) * s) / _at_least(x * (real(1, x) - x), _root_of_tiny(x))
