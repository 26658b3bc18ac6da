"""Custom activations and costs as compiled elementwise kernels, where Numba can compile them.

A function that works on arrays element by element, by arithmetic and NumPy's ufuncs, works on single
numbers too: that is how it is compiled. One that does more, such as a sum over a column, is not.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import ctypes
import functools
import logging
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import types

from bpengine.backends.numba.elementwise import elementwise, inlined
from bpengine.backends.operation import Operation

__all__ = ["custom_kernel", "matches"]


def custom_kernel(op: Operation) -> tuple[Any, str] | None:
    """The kernel of an operation that calls a user's function, and its operands as in `ELEMENTWISE`.

    None where Numba can't compile it. The operation is the function itself, or a method of the
    activation or cost whose ``derivative`` it is.
    """
    owner = getattr(op.expression, "__self__", None)
    function = op.expression if owner is None else getattr(owner, "derivative", None)
    form, operands = (_function, "x") if owner is None else (_slope, "xy")
    if hasattr(owner, "scaled_derivative"):
        form, operands = _cost_slope, "xys"
    if len(op.inputs) != len(operands) or not isinstance(function, (FunctionType, np.ufunc)):
        return None
    kernel = _compiled(form, function, op.output.dtype, op.name)
    return None if kernel is None else (kernel, operands)


def matches(kernel: Any, instruction: list[int], found: Any, expected: Any) -> bool:
    """Whether a kernel, tried on an instruction that writes to `found`, computes what Python does."""
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(kernel.address)
    fields = np.array(instruction, np.int64)
    call(fields.ctypes.data, None)
    tolerance = 1e3 * np.finfo(found.dtype).eps
    return np.shape(expected) == found.shape and np.allclose(found, expected, tolerance, tolerance)


@functools.lru_cache(maxsize=256)
def _compiled(
    form: Callable[..., Any], function: Callable[..., Any], dtype: np.dtype[Any], name: str
) -> Any:
    of_type = types.float32 if dtype == np.float32 else types.float64
    signature = types.void(types.CPointer(types.int64), types.CPointer(of_type))
    start = time.perf_counter()
    try:
        if not isinstance(function, np.ufunc):
            function = numba.njit(error_model="numpy")(function)
        f = inlined(form(function))
        kernel = numba.cfunc(signature, error_model="numpy")(lambda i, like: elementwise(f, i, like))
    except Exception:  # any error that its compiler raises for a user's code
        return None
    seconds = time.perf_counter() - start
    if seconds > 1:
        logging.getLogger("bpengine").warning(
            "bpengine compiled %r in %.1f s, as it does once in each process", name, seconds
        )
    return kernel


def _function(f):
    return lambda x, y, s: f(x)


def _slope(derivative):
    return lambda x, y, s: x * derivative(y)


def _cost_slope(derivative):
    return lambda x, y, s: derivative(x, y) * s
