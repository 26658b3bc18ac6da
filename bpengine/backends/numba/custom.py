"""Custom activations and costs as compiled elementwise kernels, where Numba can compile them.

A function that works on arrays element by element, by arithmetic and NumPy's ufuncs, works on single
numbers too: that is how it is compiled. One that does more, such as a sum over a column, is not.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import numba
import numpy as np
from numba import types

from bpengine.backends.base import warn_once
from bpengine.backends.numba.elementwise import elementwise
from bpengine.backends.operation import Operation

__all__ = ["custom_kernel", "matches"]

# Compiled code, of 1 to 2 MB with what its compiler leaves behind, is there as long as the process is.
LIMIT = 128
_kernels: dict[tuple[Any, ...], Any] = {}  # by form, `_key` of the function, and dtype
inlined = numba.njit(error_model="numpy", inline="always")


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
    try:
        key = form, _key(function), op.output.dtype
    except ValueError:  # a variable of its closure is not yet set
        return None
    if key not in _kernels:
        if len(_kernels) >= LIMIT:
            warn_once(
                f"{LIMIT} custom functions are compiled, and their memory can't be freed: NumPy carries "
                "out further ones"
            )
            return None
        _kernels[key] = _compile(form, function, op)
    kernel = _kernels[key]
    return None if kernel is None else (kernel, operands)


def matches(kernel: Any, instruction: list[int], found: Any, expected: Any) -> bool:
    """Whether a kernel, tried on an instruction that writes to `found`, computes what Python does."""
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(kernel.address)
    fields = np.array(instruction, np.int64)
    call(fields.ctypes.data, None)
    tolerance = 1e3 * np.finfo(found.dtype).eps
    return np.shape(expected) == found.shape and np.allclose(found, expected, tolerance, tolerance)


class _Same:
    """An object as a key: equal to itself alone, and alive as long as the key is."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _key(x: Any, inside: tuple[Any, ...] = ()) -> Any:
    """Equal for functions that compile to the same: of equal code, closure and globals."""
    if isinstance(x, (bool, int, float, complex, str, np.generic, type(None))):
        return type(x), repr(x)  # 0.0 and -0.0 differ, NaN is itself
    if isinstance(x, tuple):
        return tuple(_key(entry, inside) for entry in x)
    if not isinstance(x, FunctionType) or any(x is function for function in inside):
        return _Same(x)
    if inside and x.__globals__ is not inside[0].__globals__:
        return _Same(x)  # of a library
    code, inside = x.__code__, (*inside, x)
    cells = [cell.cell_contents for cell in x.__closure__ or ()]
    used = [x.__globals__[name] for name in sorted(_names(code)) if name in x.__globals__]
    # wherever it is in a file
    plain = code.replace(co_firstlineno=1, co_linetable=b"")
    defaults = x.__defaults__, tuple((x.__kwdefaults__ or {}).items())
    return plain, *(_key(value, inside) for value in (*cells, *used, *defaults))


def _names(code: CodeType) -> set[str]:
    nested = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, nested))


def _compile(form: Callable[..., Any], function: Any, op: Operation) -> Any:
    of_type = types.float32 if op.output.dtype == np.float32 else types.float64
    signature = types.void(types.CPointer(types.int64), types.CPointer(of_type))
    start = time.perf_counter()
    try:
        if not isinstance(function, np.ufunc):
            function = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
                function
            )
        # a part of the kernel: what is compiled by itself takes its share of memory
        f, run = inlined(form(function)), inlined(elementwise.py_func)
        kernel = numba.cfunc(signature, error_model="numpy")(lambda i, like: run(f, i, like))
    except Exception:  # any error that its compiler raises for a user's code
        return None
    seconds = time.perf_counter() - start
    if seconds > 1:
        logging.getLogger("bpengine").info(
            "bpengine compiled %r in %.1f s, as it does once in each process", op.name, seconds
        )
    return kernel


def _function(f):
    return lambda x, y, s: f(x)


def _slope(derivative):
    return lambda x, y, s: x * derivative(y)


def _cost_slope(derivative):
    return lambda x, y, s: derivative(x, y) * s
