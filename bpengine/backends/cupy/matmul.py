"""Matrix products by cuBLAS on strided arrays, without copies: C ← α A B + β C, over any leading axes.

cuBLAS is column-major: for row-major arrays it computes Cᵀ = Bᵀ Aᵀ.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

from bpengine.backends.cupy.elementwise import View

__all__ = ["Library", "Product", "product"]

WORKSPACE = 2**25  # bytes; what NVIDIA recommends for Hopper
REALS = {"float32": 0, "float64": 1}  # cudaDataType_t: CUDA_R_32F, CUDA_R_64F
DEVICE_POINTERS = 1  # cublasPointerMode_t: α and β are read on the device
DEFAULT_ALGORITHM = -1


class Matrix(NamedTuple):
    """Matrices in memory; strides in elements."""

    address: int
    transposed: int  # whether it is column-major
    leading: int  # from one row, or column, to the next
    step: int  # from one matrix to the next


class Product(NamedTuple):
    """A call of cuBLAS: everything but the handle."""

    transposed: tuple[int, int]
    sizes: tuple[int, int, int]
    α: int
    a: Matrix
    b: Matrix
    β: int
    c: Matrix
    matrices: int
    dtype: str


def product(a: View, b: View, c: View, α: int, β: int) -> Product | None:
    """One call for c ← α a b + β c; None if cuBLAS can't read the arrays without a copy.

    `α` and `β` are addresses of numbers on the device.
    """
    lead = c.shape[:-2]
    a, b = (x.broadcast((*lead, *x.shape[-2:])) for x in (a, b))
    if lead and not any(b.strides[:-2]):
        # the right factor is shared: the left ones are one matrix with all their rows
        tall_a, tall_c = _tall(a), _tall(c)
        if tall_a is not None and tall_c is not None:
            return product(tall_a, View(b.address, b.shape[-2:], b.strides[-2:], b.dtype), tall_c, α, β)
    in_a, in_b, in_c = (_matrix(x) for x in (a, b, c))
    if in_a is None or in_b is None or in_c is None:
        return None
    if in_c.transposed:
        return None
    (m, k), n = a.shape[-2:], b.shape[-1]
    transposed = in_b.transposed, in_a.transposed
    return Product(transposed, (n, m, k), α, in_b, in_a, β, in_c, math.prod(lead), c.dtype)


def _tall(x: View) -> View | None:
    """Matrices that follow each other in memory as one matrix with all their rows."""
    row = x.even(1)
    if row is None:
        return None
    return View(x.address, (math.prod(x.shape[:-1]), x.shape[-1]), (row, x.strides[-1]), x.dtype)


def _matrix(x: View) -> Matrix | None:
    """Matrices as cuBLAS reads them; None if it can't."""
    step, layout = x.even(2), _layout(x)
    return None if step is None or layout is None else Matrix(x.address, *layout, step)


def _layout(x: View) -> tuple[int, int] | None:
    """Whether a matrix is stored transposed, and its leading dimension; None if cuBLAS can't read it."""
    (n, k), (row, column) = x.shape[-2:], x.strides[-2:]
    if k == 1 and n == 1:
        return 0, 1
    if (column == 1 or k == 1) and (row >= k or n == 1):
        return 0, max(row if n > 1 else k, k, 1)
    if (row == 1 or n == 1) and (column >= n or k == 1):
        return 1, max(column if k > 1 else n, n, 1)
    return None


class Library:
    """cuBLAS through nvmath-python, with a handle and a workspace for each thread.

    CuPy's local calls of cuBLAS refuse to be captured in a graph; these do not.

    Parameters
    ----------
    cublas : module
        ``nvmath.bindings.cublas``.
    workspace : callable
        Gives an array of so many bytes on the device, and its address.
    tf32 : bool
        Whether float32 products may round their factors to TF32.
    """

    def __init__(self, cublas: Any, workspace: Any, tf32: bool) -> None:
        self._cublas, self._workspace = cublas, workspace
        compute = cublas.ComputeType
        single = compute.COMPUTE_32F_FAST_TF32 if tf32 else compute.COMPUTE_32F
        self._compute = {"float32": int(single), "float64": int(compute.COMPUTE_64F)}
        self._local = threading.local()

    def enter(self, stream: int) -> object:
        """Let this thread's products run on a stream; returns what must stay alive as long."""
        local = self._local
        if not hasattr(local, "handle"):
            local.handle = _Handle(self._cublas, self._cublas.create())
            local.memory, local.address = self._workspace(WORKSPACE)
            self._cublas.set_pointer_mode(local.handle.value, DEVICE_POINTERS)
            local.stream = None
        if local.stream != stream:
            self._cublas.set_stream(local.handle.value, stream)
            # setting the stream resets a handle to the library's workspace
            self._cublas.set_workspace(local.handle.value, local.address, WORKSPACE)
            local.stream = stream
        return local.handle, local.memory

    def multiply(self, p: Product) -> None:
        """Compute a product on the stream that was entered last."""
        real, compute = REALS[p.dtype], self._compute[p.dtype]
        a, b, c = p.a, p.b, p.c
        first = self._local.handle.value, *p.transposed, *p.sizes, p.α, a.address, real, a.leading
        second, out = (b.address, real, b.leading), (c.address, real, c.leading)
        last = compute, DEFAULT_ALGORITHM
        if p.matrices == 1:
            self._cublas.gemm_ex(*first, *second, p.β, *out, *last)
            return
        self._cublas.gemm_strided_batched_ex(
            *first, a.step, *second, b.step, p.β, *out, c.step, p.matrices, *last
        )


class _Handle:
    """A handle that is destroyed with the thread, or with the last program that uses it."""

    def __init__(self, cublas: Any, value: int) -> None:
        self._cublas, self.value = cublas, value

    def __del__(self) -> None:
        try:
            self._cublas.destroy(self.value)
        except Exception:  # at the interpreter's exit the driver may be unloaded already
            return
