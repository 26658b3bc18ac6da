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
helper = njit(error_model="numpy")
inlined = register_jitable(error_model="numpy")


def kernel(name: str) -> Callable[..., Any]:
    """Register a function of an instruction's fields, and of `like`, as the kernel of a name."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        KERNELS[name] = function
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


def _swish_slope(x, y, s):
    a, one = sigmoid(y), real(1, x)
    return x * (a * (one + y * (one - a)))


@inlined
def _gelu_sigmoid(x):
    # σ(2u) = (1 + tanh u) / 2 for u = √(2/π) (x + 0.044715 x³)
    cubic = real(0.044715, x) * x * x
    return sigmoid(real(2 * math.sqrt(2 / math.pi), x) * (x + cubic * x))


def _gelu_slope(x, y, s):
    # beyond ±30 the slope is 1 or 0; the cut keeps z² from overflowing
    z = _at_most(_at_least(y, real(-30, x)), real(30, x))
    one, a = real(1, x), _gelu_sigmoid(z)
    inner = real(2 * math.sqrt(2 / math.pi), x) * (one + real(3 * 0.044715, x) * z * z)
    return x * (a * (one + z * (one - a) * inner))


ELEMENTWISE = {
    "copy": ("x", lambda x, y, s: x),
    "add": ("xy", lambda x, y, s: x + y),
    "subtract": ("xy", lambda x, y, s: x - y),
    "multiply": ("xy", lambda x, y, s: x * y),
    "scale": ("xs", lambda x, y, s: x * s),
    "shrink": ("xys", lambda x, y, s: x - s * y),
    "l2": ("xys", lambda x, y, s: x + s * y),
    "l1": ("xys", lambda x, y, s: x + s * _sign(y)),
    "dropout mask": ("xs", lambda x, y, s: real(1, x) / s if x < s else real(0, x)),
    "difference": ("xys", lambda x, y, s: (x - y) * s),
    "sigmoid": ("x", lambda x, y, s: sigmoid(x)),
    "sigmoid slope": ("xy", lambda x, y, s: x * (y * (real(1, x) - y))),
    "tanh": ("x", lambda x, y, s: tanh(x)),
    "tanh slope": ("xy", lambda x, y, s: x * (real(1, x) - y * y)),
    "relu": ("x", lambda x, y, s: _at_least(x, real(0, x))),
    "relu slope": ("xy", lambda x, y, s: x * _sign(y)),
    "leaky_relu": ("x", lambda x, y, s: _at_least(x, real(0.01, x) * x)),
    "leaky_relu slope": ("xy", lambda x, y, s: x * _at_least(_sign(y), real(0.01, x))),
    "softplus": ("x", lambda x, y, s: _at_least(x, real(0, x)) + log1p(exp(-abs(x)))),
    "softplus slope": ("xy", lambda x, y, s: x * -expm1(-y)),
    "exponential": ("x", lambda x, y, s: exp(x)),
    "swish": ("x", lambda x, y, s: x * sigmoid(x)),
    "swish slope": ("xy", _swish_slope),
    "gelu": ("x", lambda x, y, s: x * _gelu_sigmoid(x)),
    "gelu slope": ("xy", _gelu_slope),
    "absolute_error slope": ("xys", lambda x, y, s: _sign(x - y) * s),
    "huber slope": ("xys", lambda x, y, s: _at_most(_at_least(x - y, real(-1, x)), real(1, x)) * s),
    "clip factors": ("xys", lambda x, y, s: s * (y / (y if x < y else x))),
    "poisson slope": ("xys", lambda x, y, s: ((x - y) * s) / _at_least(x, _root_of_tiny(x))),
    "binary_cross_entropy slope": (
        "xys",
        lambda x, y, s: ((x - y) * s) / _at_least(x * (real(1, x) - x), _root_of_tiny(x)),
    ),
}
"""The inputs of an operation that are the arrays x and y and the number s, and output = f(x, y, s)."""


def _kernel_of(name: str, f: Callable[..., Any]) -> Callable[..., None]:
    inlined(f)

    def run(instruction, like):
        elementwise(f, instruction, like)

    run.__qualname__ = name.replace(" ", "_")  # Numba's cache on disk has a file for each
    return run


KERNELS |= {name: _kernel_of(name, f) for name, (_, f) in ELEMENTWISE.items()}
