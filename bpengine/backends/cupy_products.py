"""Matrix products by cuBLAS, on arrays as they lie in memory: C ← α A B + β C, over any leading axes.

cuBLAS counts in columns: of arrays whose rows follow each other it is asked for Cᵀ = Bᵀ Aᵀ.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from bpengine.backends.cupy_lines import View

__all__ = ["Library", "Product", "product"]

WORKSPACE = 2**25  # bytes; what NVIDIA recommends for Hopper
REALS = {"float32": 0, "float64": 1}  # cudaDataType_t: CUDA_R_32F, CUDA_R_64F
DEVICE_POINTERS = 1  # cublasPointerMode_t: α and β are read on the device
DEFAULT_ALGORITHM = -1


class Product(NamedTuple):
    """A call of cuBLAS: everything but the handle."""

    transposed: tuple[int, int]
    sizes: tuple[int, int, int]
    α: int
    a: tuple[int, int, int]  # address, leading dimension, stride from one matrix to the next
    b: tuple[int, int, int]
    β: int
    c: tuple[int, int, int]
    count: int
    dtype: str


def product(a: View, b: View, c: View, α: int, β: int) -> Product | None:
    """c ← α a b + β c as one call; None if cuBLAS can't take the arrays as they lie.

    `α` and `β` are addresses of numbers on the device.
    """
    lead = c.shape[:-2]
    stacked = [x.broadcast((*lead, *x.shape[-2:])) for x in (a, b, c)]
    if lead and not any(stacked[1].strides[: len(lead)]):
        # the right factor is shared: the rows of all the left ones are those of one matrix
        tall = [_tall(x) for x in (stacked[0], stacked[2])]
        if None not in tall:
            return product(tall[0], b.broadcast(b.shape[-2:]) if b.shape == b.shape[-2:] else _first(b), tall[1], α, β)  # type: ignore[arg-type]
    steps = [_step(x) for x in stacked]
    layouts = [_layout(x) for x in (a, b, c)]
    if None in steps or None in layouts:
        return None
    (ta, lda), (tb, ldb), (tc, ldc) = layouts  # type: ignore[misc]
    if tc:  # the output lies transposed: its transpose is the product of the transposes
        return product(b.mT, a.mT, c.mT, α, β) if not _layout(c.mT)[0] else None  # type: ignore[index]
    (m, k), n = a.shape[-2:], b.shape[-1]
    count = 1
    for size in lead:
        count *= size
    return Product(
        (tb, ta),
        (n, m, k),
        α,
        (b.address, ldb, steps[1]),  # type: ignore[arg-type]
        (a.address, lda, steps[0]),  # type: ignore[arg-type]
        β,
        (c.address, ldc, steps[2]),  # type: ignore[arg-type]
        count,
        c.dtype,
    )


def _first(x: View) -> View:
    while len(x.shape) > 2:
        x = x.at(0, 0)
    return x


def _tall(x: View) -> View | None:
    """Matrices that follow each other in memory as one whose rows are all of theirs."""
    *lead, n, k = x.shape
    *steps, row, column = x.strides
    rows = n
    for size, step in zip(reversed(lead), reversed(steps), strict=True):
        if size > 1 and step != rows * row:
            return None
        rows *= size
    return View(x.address, (rows, k), (row, column), x.dtype)


def _step(x: View) -> int | None:
    """Elements from one matrix to the next, 0 where they are the same; None if that changes."""
    step: int | None = None
    behind = 1
    for size, own in zip(reversed(x.shape[:-2]), reversed(x.strides[:-2]), strict=True):
        if size == 1:
            continue
        if step is None:
            step = own
        elif own != step * behind:
            return None
        behind *= size
    return step or 0


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
    """cuBLAS through nvmath-python: a handle and a workspace of our own for each thread.

    CuPy's own calls of cuBLAS refuse to be captured in a graph; these do not.

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
        """Let this thread's products run on a stream; gives what has to stay while they may run."""
        own = self._local
        if not hasattr(own, "handle"):
            own.handle = _Handle(self._cublas, self._cublas.create())
            own.memory, own.address = self._workspace(WORKSPACE)
            self._cublas.set_pointer_mode(own.handle.value, DEVICE_POINTERS)
            own.stream = None
        if own.stream != stream:
            self._cublas.set_stream(own.handle.value, stream)
            # a handle that is given a stream goes back to the library's own workspace
            self._cublas.set_workspace(own.handle.value, own.address, WORKSPACE)
            own.stream = stream
        return own.handle, own.memory

    def multiply(self, p: Product) -> None:
        """Carry out a product on the stream that was entered last."""
        real, compute = REALS[p.dtype], self._compute[p.dtype]
        (a, lda, step_a), (b, ldb, step_b), (c, ldc, step_c) = p.a, p.b, p.c
        first = (self._local.handle.value, *p.transposed, *p.sizes, p.α, a, real, lda)
        if p.count == 1:
            self._cublas.gemm_ex(
                *first, b, real, ldb, p.β, c, real, ldc, compute, DEFAULT_ALGORITHM
            )
            return
        self._cublas.gemm_strided_batched_ex(
            *first,
            step_a,
            b,
            real,
            ldb,
            step_b,
            p.β,
            c,
            real,
            ldc,
            step_c,
            p.count,
            compute,
            DEFAULT_ALGORITHM,
        )


class _Handle:
    """A handle that is given back with the thread, or with the last program that uses it."""

    def __init__(self, cublas: Any, value: int) -> None:
        self._cublas, self.value = cublas, value

    def __del__(self) -> None:
        try:
            self._cublas.destroy(self.value)
        except Exception:  # the driver may have gone first, where the interpreter ends
            return
