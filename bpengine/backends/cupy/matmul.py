"""Matrix products by cuBLAS on strided arrays, without copies: C ← α A B + β C, over any leading axes.

cuBLAS is column-major: for row-major arrays it computes Cᵀ = Bᵀ Aᵀ.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

from bpengine.backends.cupy.cublas import COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F, GEMM_DEFAULT
from bpengine.backends.cupy.elementwise import View

__all__ = ["Library", "Product", "product"]

WORKSPACE = 2**25  # bytes; what NVIDIA recommends for Hopper
REALS = {"float32": 0, "float64": 1}  # cudaDataType_t: CUDA_R_32F, CUDA_R_64F
LARGEST = 2**31 - 1  # of the sizes, as cuBLAS takes them


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
            shared = View(b.address, b.shape[-2:], b.strides[-2:], b.dtype)
            one = product(tall_a, shared, tall_c, α, β)
            if one is not None:
                return one
    in_a, in_b, in_c = (_matrix(x) for x in (a, b, c))
    if in_a is None or in_b is None or in_c is None or in_c.transposed:
        return None
    (m, k), n, count = a.shape[-2:], b.shape[-1], math.prod(lead)
    if max(m, k, n, count, *(x.leading for x in (in_a, in_b, in_c))) > LARGEST:
        return None
    transposed = in_b.transposed, in_a.transposed
    return Product(transposed, (n, m, k), α, in_b, in_a, β, in_c, count, c.dtype)


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


class Workspace(NamedTuple):
    """Memory for cuBLAS on the device."""

    array: Any
    address: int


class Library:
    """cuBLAS with a handle and a workspace for each thread.

    Parameters
    ----------
    cublas : Cublas
    workspace : callable
        Gives an array of so many bytes on the device, and its address.
    tf32 : bool
        Whether float32 products may round their factors to TF32.
    lock : threading.RLock
        Held while handles are created and destroyed, which synchronizes the device.
    """

    def __init__(self, cublas: Any, workspace: Any, tf32: bool, lock: Any) -> None:
        self._cublas, self._workspace, self._lock = cublas, workspace, lock
        single = COMPUTE_32F_FAST_TF32 if tf32 else COMPUTE_32F
        self._compute = {"float32": single, "float64": COMPUTE_64F}
        self._local = threading.local()
        self._unused: list[int] = []  # handles, to be destroyed

    def workspace(self) -> Workspace:
        """A workspace, for the products of a thread or of a graph."""
        return Workspace(*self._workspace(WORKSPACE))

    def enter(self, stream: int, workspace: Workspace | None = None) -> object:
        """Let this thread's products run on a stream; returns what must stay alive as long.

        Parameters
        ----------
        stream : int
        workspace : Workspace, optional
            The thread's where not given.
        """
        local = self._local
        if not hasattr(local, "handle"):
            memory = self.workspace()
            with self._lock:
                while self._unused:
                    self._cublas.destroy(self._unused.pop())
                local.handle = _Handle(self._cublas.create(), self._unused)
            local.workspace, local.entered = memory, None
        memory = workspace or local.workspace
        if local.entered != (stream, memory.address):
            self._cublas.set_stream(local.handle.value, stream)
            # setting the stream resets a handle to the library's workspace
            self._cublas.set_workspace(local.handle.value, memory.address, WORKSPACE)
            local.entered = stream, memory.address
        return local.handle, memory

    def multiply(self, p: Product) -> None:
        """Compute a product on the stream that was entered last."""
        real, compute = REALS[p.dtype], self._compute[p.dtype]
        a, b, c = p.a, p.b, p.c
        first = self._local.handle.value, *p.transposed, *p.sizes, p.α, a.address, real, a.leading
        second, out = (b.address, real, b.leading), (c.address, real, c.leading)
        last = compute, GEMM_DEFAULT
        if p.matrices == 1:
            self._cublas.gemm(*first, *second, p.β, *out, *last)
            return
        self._cublas.gemm_strided_batched(
            *first, a.step, *second, b.step, p.β, *out, c.step, p.matrices, *last
        )


class _Handle:
    """A handle that goes with the thread, or with the last program that uses it.

    It is not destroyed at once: the garbage collector may find it while a graph is captured.
    """

    def __init__(self, value: int, unused: list[int]) -> None:
        self.value, self._unused = value, unused

    def __del__(self) -> None:
        self._unused.append(self.value)
