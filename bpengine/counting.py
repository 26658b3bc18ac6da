"""What a computation asks of NumPy: its calls and its memory, as integers that no noise can change."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

__all__ = ["Counts", "count"]

PRODUCTS = {"matmul", "dot", "inner", "einsum", "tensordot", "vdot", "vecdot", "matvec", "vecmat"}
CALLS, PRODUCTS_NUMPY, WITHOUT_OUTPUT = "calls", "products by NumPy", "calls without an output"


class Counted(np.ndarray):
    """An array that records each NumPy function it is given to, and whether that had an output."""

    record: Counter[str]

    def __array_finalize__(self, parent: object) -> None:
        self.record = parent.record if isinstance(parent, Counted) else Counter()

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: tuple[Any, ...] = (), **options: Any
    ) -> Any:
        options = {key: _plain(value) for key, value in options.items()}
        if out:
            options["out"] = _plain(out)
        self._note(ufunc.__name__, bool(out))
        result = getattr(ufunc, method)(*_plain(inputs), **options)
        return out[0] if len(out) == 1 else counted(result, self.record)

    def __array_function__(self, function: Any, types: Any, operands: Any, options: Any) -> Any:
        self._note(function.__name__, function is np.copyto or options.get("out") is not None)
        options = {key: _plain(value) for key, value in options.items()}
        return counted(function(*_plain(operands), **options), self.record)

    def _note(self, name: str, has_output: bool) -> None:
        self.record[CALLS] += 1
        self.record[PRODUCTS_NUMPY] += name in PRODUCTS
        self.record[WITHOUT_OUTPUT] += not has_output


@dataclass(frozen=True)
class Counts:
    """The result of `count`.

    Attributes
    ----------
    calls : int
        Calls of NumPy's functions and operators.
    products : int
        Those that are matrix products, or other sums of products.
    without_output : int
        Those without ``out``, which make a new array.
    peak_bytes : int
        The most memory in use at a time beyond what was in use before the call.
    """

    calls: int
    products: int
    without_output: int
    peak_bytes: int


def count(function: Callable[..., object], *arrays: Any) -> Counts:
    """Count what a function of arrays asks of NumPy.

    Parameters
    ----------
    function : callable
        Called four times. Methods that copy (``x.copy()``, ``x.astype()``) and indexing are no calls of
        NumPy's functions; their memory is in `Counts.peak_bytes`.
    *arrays : numpy.ndarray
        Its arguments, of any shape.

    Returns
    -------
    Counts

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.counting import count
    >>> found = count(lambda x: np.exp(x @ x), np.ones((20, 20)))
    >>> found.calls, found.products, found.without_output
    (2, 1, 2)
    """
    peak = peak_bytes(lambda: function(*arrays))
    record: Counter[str] = Counter()
    function(*counted(arrays, record))
    return Counts(record[CALLS], record[PRODUCTS_NUMPY], record[WITHOUT_OUTPUT], peak)


def counted(x: Any, record: Counter[str]) -> Any:
    """`x` with every array in it replaced by a `Counted` view of the same memory."""
    if isinstance(x, (tuple, list)):
        return _like(x, [counted(item, record) for item in x])
    if isinstance(x, partial):
        options = {key: counted(value, record) for key, value in x.keywords.items()}
        return partial(x.func, *counted(x.args, record), **options)
    if isinstance(x, np.ndarray):
        x = x.view(Counted)
        x.record = record
    return x


def _plain(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return _like(x, [_plain(item) for item in x])
    return x.view(np.ndarray) if isinstance(x, Counted) else x


def _like(x: Any, items: list[Any]) -> Any:
    """A tuple or list of the type of `x`; results such as numpy.linalg.eigh's are named tuples."""
    return x._make(items) if hasattr(x, "_make") else type(x)(items)


def peak_bytes(call: Callable[[], object]) -> int:
    """Memory that a warm call takes beyond what was in use, in bytes.

    NumPy reports its memory to tracemalloc: new arrays, and the buffers of ufuncs. `call` is called
    three times, and the last is measured.
    """
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        for _ in range(2):
            call()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not tracing:
            tracemalloc.stop()
    return peak - before
