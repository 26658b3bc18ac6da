"""NumPy's kernels by name, and the calls that carry out an operation."""

from __future__ import annotations

from bpengine.backends.array_api import Call, fallback
from bpengine.backends.numpy.blas import FOLDED
from bpengine.backends.numpy.elementwise import ELEMENTWISE
from bpengine.backends.numpy.per_example import PER_EXAMPLE, gaussian_noise
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.numpy.strided import Kernel, without_gaps
from bpengine.backends.numpy.updates import UPDATES
from bpengine.backends.operation import Operation

__all__ = ["KERNELS", "calls"]

KERNELS: dict[str, Kernel] = {**ELEMENTWISE, **PER_EXAMPLE, **UPDATES, **FOLDED}


def calls(scratch: Scratch, op: Operation) -> list[Call]:
    """The calls that carry out `op`: its kernel's or, where it has none, its array-API expression."""
    if op.name == "uniform":
        return op.expression.calls(op.output)  # type: ignore[attr-defined, no-any-return]
    if op.name == "gaussian noise" and op.output.flags.c_contiguous:
        return list(gaussian_noise(scratch, op.expression.fill, *op.inputs))  # type: ignore[attr-defined]
    kernel = KERNELS.get(op.name)
    if kernel is None:
        return [fallback(op)]
    found = list(kernel(scratch, *op.inputs, op.output))
    if op.output.ndim < 3 or op.name == "matmul":
        return found
    return without_gaps(scratch, kernel, op, found)
