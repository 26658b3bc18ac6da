"""NumPy: every elementwise line as ufuncs with preallocated outputs, no temporaries.

A kernel takes the constants and scratch arrays it needs from its `Kernels`, and gives the line's
(ufunc, operands) pairs, outputs positional: the fastest way to call a ufunc from Python.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import array_api_compat.numpy
import numpy as np

from bpengine.backends.array_api import ArrayAPIBackend, Call, Replay, fallback
from bpengine.backends.base import Array, Backend, Batches, Operation
from bpengine.backends.blas import fold_descent
from bpengine.backends.numpy_per_example import PER_EXAMPLE, gaussian_noise
from bpengine.backends.numpy_stacks import Kernel, packed, place, rows_at_a_time
from bpengine.backends.numpy_updates import UPDATES

__all__ = ["NumPyBackend"]

GELU_SCALE = math.sqrt(2 / math.pi)


class NumPyBackend(ArrayAPIBackend):
    """NumPy arrays on the host."""

    def __init__(self) -> None:
        super().__init__(array_api_compat.numpy, name="numpy")

    def __reduce__(self) -> tuple[Any, ...]:
        return NumPyBackend, ()

    def on(self, device: Any = None, precision: str | None = None) -> Backend:
        """Give this backend, which has one device: the CPU."""
        if device is not None and str(device) != str(self.device):
            raise ValueError(
                f"device={device!r}: NumPy computes on the CPU. Use device=None, or another backend."
            )
        return super().on(None, precision)

    def asarray(self, x: Array, dtype: str) -> Array:
        """`x` in `dtype`: itself where it has it already."""
        return np.asarray(x, dtype)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """New array with contents of any value."""
        return np.empty(shape, dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """`x` itself."""
        return np.asarray(x)

    def take(self, rows: Array, indices: Array, out: Array) -> None:
        """Write ``rows[indices]`` into `out`, without the bounds check that costs a copy."""
        rows.take(indices, 0, out, "clip")

    def compile(self, operations: Iterable[Operation]) -> Replay:
        """Make operations ready to be replayed: ufuncs where there is a kernel."""
        kernels = Kernels()
        operations = list(operations)
        folded = fold_descent(operations)
        calls: list[Call] = []
        for i, op in enumerate(operations):
            calls += folded[i] if i in folded else kernels.calls(op)
        return QuietReplay(calls, keep=operations)


class QuietReplay(Replay):
    """A replay in which a saturated exp may overflow to infinity, as it should, without a warning.

    NumPy keeps its error state in a context variable; a context of our own costs a tenth of what
    entering ``np.errstate`` at every step would.
    """

    def __init__(self, calls: list[Call], keep: object) -> None:
        super().__init__(calls)
        self._keep = keep  # calls into BLAS hold addresses alone; the arrays must stay
        self._context = contextvars.copy_context()
        self._context.run(np.seterr, over="ignore", invalid="ignore", divide="ignore")

    def run(self, steps: int) -> None:
        """Walk over the calls `steps` times."""
        self._context.run(super().run, steps)

    def run_batches(self, batches: Batches, taken: list[int]) -> None:
        """A step on each of some batches."""
        self._context.run(super().run_batches, batches, taken)


class Kernels:
    """Makes the calls of operations, with constants and scratch memory shared between them."""

    def __init__(self) -> None:
        self._scratch: dict[Any, Array] = {}
        self._constants: dict[Any, Array] = {}

    def scratch(self, like: Array, which: int = 0) -> Array:
        """Array of the shape and dtype of `like`, free to use within one operation.

        An operation that needs two or three at once numbers them by `which`.
        """
        key = like.shape, like.dtype, which
        if key not in self._scratch:
            self._scratch[key] = np.empty(like.shape, like.dtype)
        return self._scratch[key]

    def constant(self, value: float, like: Array) -> Array:
        """`value` as a 0-d array: a third of the price of a Python number as an operand."""
        key = value, like.dtype
        if key not in self._constants:
            self._constants[key] = np.array(value, like.dtype)
        return self._constants[key]

    def calls(self, op: Operation) -> list[Call]:
        """The calls that carry out `op`."""
        if op.name == "uniform":
            return op.expression.calls(op.output)  # type: ignore[attr-defined, no-any-return]
        if op.name == "gaussian noise":
            return gaussian_noise(self, op.expression.fill, *op.inputs)  # type: ignore[attr-defined]
        kernel = KERNELS.get(op.name)
        if kernel is None:
            return [fallback(op)]
        calls = kernel(self, *op.inputs, op.output)
        if op.output.ndim < 3 or op.name == "matmul":
            return calls
        return packed(self, kernel, op, calls)


def _matmul(k: Kernels, a: Array, b: Array, out: Array) -> list[Call]:
    if a.shape[-1] == 1 and a.ndim > 2:  # outer products, which BLAS has no call for over a stack
        return [(np.multiply, (a, b, out))]
    rows = rows_at_a_time(a, b, out)
    if rows < len(out):
        a, out = (x.reshape(-1, rows, x.shape[1]) for x in (a, out))
    return [(np.matmul, (a, b, out))]


def _difference(k: Kernels, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    return [(np.subtract, (a, y, out)), (np.multiply, (out, scale, out))]


def _descend(k: Kernels, parameters: Array, step: Array, out: Array) -> list[Call]:
    return [(np.subtract, (parameters, step, out))]


def _linear(k: Kernels, z: Array, a: Array) -> list[Call]:
    return [] if _same(z, a) else [(np.copyto, (a, z))]


def _linear_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    return _linear(k, upstream, out)


def _sigmoid(k: Kernels, z: Array, a: Array) -> list[Call]:
    # σ(z) = 1 / (1 + e⁻ᶻ): where e⁻ᶻ overflows, 1/∞ is the 0 that is wanted
    one = k.constant(1, a)
    return [
        (np.negative, (z, a)),
        (np.exp, (a, a)),
        (np.add, (a, one, a)),
        (np.reciprocal, (a, a)),
    ]


def _sigmoid_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    # σ' = a (1 - a)
    slope = k.scratch(a)
    return [
        (np.subtract, (k.constant(1, a), a, slope)),
        (np.multiply, (slope, a, slope)),
        (np.multiply, (upstream, slope, out)),
    ]


def _tanh(k: Kernels, z: Array, a: Array) -> list[Call]:
    return [(np.tanh, (z, a))]


def _tanh_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    # tanh' = 1 - a²
    slope = k.scratch(a)
    return [
        (np.multiply, (a, a, slope)),
        (np.subtract, (k.constant(1, a), slope, slope)),
        (np.multiply, (upstream, slope, out)),
    ]


def _relu(k: Kernels, z: Array, a: Array) -> list[Call]:
    return [_maximum(z, k.constant(0, a), a)]


def _relu_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    # a ≥ 0, so that its sign is the slope: 0 or 1
    slope = k.scratch(a)
    return [(np.sign, (a, slope)), (np.multiply, (upstream, slope, out))]


def _leaky_relu(k: Kernels, z: Array, a: Array) -> list[Call]:
    # max(z, z/100), in place
    slope = k.scratch(z)
    return [(np.multiply, (z, k.constant(0.01, a), slope)), _maximum(z, slope, a)]


def _leaky_relu_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    # the sign of a is that of z: max(sign, 1/100) is the slope
    slope = k.scratch(a)
    return [
        (np.sign, (a, slope)),
        _maximum(slope, k.constant(0.01, a), slope),
        (np.multiply, (upstream, slope, out)),
    ]


def _softmax(k: Kernels, z: Array, a: Array) -> list[Call]:
    # e^(z - max z) / Σ: the largest exponent is 0
    column = k.scratch(z[..., :1, :])
    return [
        (np.maximum.reduce, (z, -2, None, column, True)),
        (np.subtract, (z, column, a)),
        (np.exp, (a, a)),
        (np.add.reduce, (a, -2, None, column, True)),
        (np.divide, (a, column, a)),
    ]


def _softmax_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    # δ = a ⊙ (g - Σ_j a_j g_j)
    column, product = k.scratch(a[..., :1, :]), k.scratch(a)
    return [
        (np.multiply, (upstream, a, product)),
        (np.add.reduce, (product, -2, None, column, True)),
        (np.subtract, (upstream, column, out)),
        (np.multiply, (out, a, out)),
    ]


def _softplus(k: Kernels, z: Array, a: Array) -> list[Call]:
    return [(np.logaddexp, (z, k.constant(0, a), a))]


def _softplus_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    # softplus' = σ(z) = 1 - e⁻ᵃ
    slope = k.scratch(a)
    return [
        (np.negative, (a, slope)),
        (np.expm1, (slope, slope)),
        (np.multiply, (upstream, slope, out)),
        (np.negative, (out, out)),
    ]


def _exponential(k: Kernels, z: Array, a: Array) -> list[Call]:
    return [(np.exp, (z, a))]


def _exponential_slope(k: Kernels, upstream: Array, a: Array, out: Array) -> list[Call]:
    return [(np.multiply, (upstream, a, out))]


def _swish(k: Kernels, z: Array, a: Array) -> list[Call]:
    return [*_sigmoid(k, z, a), (np.multiply, (z, a, a))]


def _swish_slope(k: Kernels, upstream: Array, z: Array, out: Array) -> list[Call]:
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


def _gelu_tanh(k: Kernels, z: Array, square: Array, t: Array) -> list[Call]:
    # t = tanh(√(2/π) (z + 0.044715 z³)), leaving z² in `square`
    return [
        (np.multiply, (z, z, square)),
        (np.multiply, (square, k.constant(0.044715 * GELU_SCALE, z), t)),
        (np.add, (t, k.constant(GELU_SCALE, z), t)),
        (np.multiply, (t, z, t)),
        (np.tanh, (t, t)),
    ]


def _gelu(k: Kernels, z: Array, a: Array) -> list[Call]:
    # z/2 (1 + t)
    t = k.scratch(z)
    return [
        *_gelu_tanh(k, z, a, t),
        (np.add, (t, k.constant(1, z), t)),
        (np.multiply, (t, k.constant(0.5, z), t)),
        (np.multiply, (t, z, a)),
    ]


def _gelu_slope(k: Kernels, upstream: Array, z: Array, out: Array) -> list[Call]:
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


def _absolute_error_slope(k: Kernels, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    return [
        (np.subtract, (a, y, out)),
        (np.sign, (out, out)),
        (np.multiply, (out, scale, out)),
    ]


def _huber_slope(k: Kernels, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    # a - y, cut at ±1
    return [
        (np.subtract, (a, y, out)),
        _minimum(out, k.constant(1, out), out),
        _maximum(out, k.constant(-1, out), out),
        (np.multiply, (out, scale, out)),
    ]


def _poisson_slope(k: Kernels, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    # (a - y) / a, the denominator kept off 0 by √tiny
    mean = k.scratch(a)
    return [
        _maximum(a, k.constant(math.sqrt(np.finfo(a.dtype).tiny), a), mean),
        *_difference(k, a, y, scale, out),
        (np.divide, (out, mean, out)),
    ]


def _binary_cross_entropy_slope(k: Kernels, a: Array, y: Array, scale: Array, out: Array) -> list[Call]:
    # (a - y) / (a (1 - a)), the denominator kept off 0 by √tiny
    variance = k.scratch(a)
    return [
        (np.subtract, (k.constant(1, a), a, variance)),
        (np.multiply, (variance, a, variance)),
        _maximum(variance, k.constant(math.sqrt(np.finfo(a.dtype).tiny), a), variance),
        *_difference(k, a, y, scale, out),
        (np.divide, (out, variance, out)),
    ]


def _maximum(x: Array, y: Array, out: Array) -> Call:
    # maximum and minimum alone deprecate a positional output
    return partial(np.maximum, out=out), (x, y)


def _minimum(x: Array, y: Array, out: Array) -> Call:
    return partial(np.minimum, out=out), (x, y)


def _same(x: Array, y: Array) -> bool:
    return place(x) == place(y)


KERNELS: dict[str, Kernel] = {
    "matmul": _matmul,
    "difference": _difference,
    "descend": _descend,
    "linear": _linear,
    "linear slope": _linear_slope,
    "sigmoid": _sigmoid,
    "sigmoid slope": _sigmoid_slope,
    "tanh": _tanh,
    "tanh slope": _tanh_slope,
    "relu": _relu,
    "relu slope": _relu_slope,
    "leaky_relu": _leaky_relu,
    "leaky_relu slope": _leaky_relu_slope,
    "softmax": _softmax,
    "softmax slope": _softmax_slope,
    "softplus": _softplus,
    "softplus slope": _softplus_slope,
    "exponential": _exponential,
    "exponential slope": _exponential_slope,
    "swish": _swish,
    "swish slope": _swish_slope,
    "gelu": _gelu,
    "gelu slope": _gelu_slope,
    "absolute_error slope": _absolute_error_slope,
    "huber slope": _huber_slope,
    "poisson slope": _poisson_slope,
    "binary_cross_entropy slope": _binary_cross_entropy_slope,
    **PER_EXAMPLE,
    **UPDATES,
}
