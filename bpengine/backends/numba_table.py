"""Operations as rows of a table of numbers, each with the address of the kernel that carries it out."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numba
import numpy as np
from numba import types

from bpengine import blas_core
from bpengine.backends import blas
from bpengine.backends.base import Array, Batches, Operation, Settings
from bpengine.backends.numba_kernels import ELEMENTWISE, KERNELS, WORDS
from bpengine.backends.numba_own import computes, own_kernel
from bpengine.backends.numba_products import cheapest, panel
from bpengine.backends.numba_random import DRAWS, draws
from bpengine.backends.numba_updates import UPDATES
from bpengine.backends.numba_vectors import WIDTH

__all__ = ["Maker", "Row"]

KERNEL_OF = {  # where it is not the operation's own name
    "descend": "subtract",
    "clip": "scale",
    "decay": "scale",
    "weigh": "scale",
    "scale columns": "multiply",
    "dropout": "multiply",
    "reverse difference": "subtract",
    "linear": "copy",
    "linear slope": "copy",
    "exponential slope": "multiply",
}
FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
REALS = {FLOAT32: types.float32, FLOAT64: types.float64}

Row = list[int]


class Maker:
    """Makes the rows of operations, and keeps what their addresses lead to."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.locks: dict[int, Any] = {}  # of the generators that rows draw from
        self._constants: dict[Any, Array] = {}

    def rows(self, op: Operation) -> list[Row] | None:
        """The rows that carry out `op`; None where there is no kernel for it."""
        arrays = *op.inputs, op.output, *op.state
        if op.name == "add squares":
            return self._add_squares(op)
        dtype = op.output.dtype
        if dtype not in REALS or any(x.dtype != dtype for x in arrays):
            return None
        self.kept.append(arrays)
        if op.name in ("matmul", "add product"):
            return self._products(op)
        if op.name == "share":
            return self._share(op)
        if op.name in ("product norms", "total norms"):
            return self._norms(op)
        if op.name == "max norm":
            return self._max_norm(op)
        if op.name in ("softmax", "softmax slope"):
            return self._softmax(op)
        if op.name in DRAWS:
            return self._draw(op)
        if op.name in ("clip factor", "clip factor each"):
            return self._clip_factor(op)
        if op.name in UPDATES:
            return self._update(op)
        if op.name.startswith("own "):
            return self._own(op)
        name = KERNEL_OF.get(op.name, op.name)
        if name not in ELEMENTWISE:
            return None
        if name == "copy" and _same(op.inputs[0], op.output):
            return []
        return self._elementwise(self._kernel(name, op), ELEMENTWISE[name], op)

    def _own(self, op: Operation) -> list[Row] | None:
        found = own_kernel(op)
        if found is None:
            return None
        kernel, operands = found
        self.kept.append(kernel)
        # compiled code may not be what Python computes: it is tried on numbers of any value
        rng = np.random.default_rng(0)
        inputs = [rng.uniform(0.1, 0.9, x.shape).astype(x.dtype) for x in op.inputs]
        trial = replace(op, inputs=tuple(inputs), output=np.empty_like(op.output))
        try:
            expected = op.expression(*inputs)
        except Exception:  # which comes again, where the plan calls it
            return None
        rows = self._elementwise(kernel.address, operands, trial)
        if len(rows) != 1 or not computes(kernel, rows[0], trial.output, expected):
            return None
        return self._elementwise(kernel.address, operands, op)

    def _elementwise(self, kernel: int, operands: str, op: Operation) -> list[Row]:
        inputs = dict(zip(operands, op.inputs, strict=False))
        shape = op.output.shape
        one = self._constant(1.0, op.output.dtype)
        rows = []
        for name, x in inputs.items():
            # what networks share, and whose rows are not contiguous, is copied once for all
            if x.ndim == len(shape) - 1 > 1 and not _contiguous(x):
                self.kept.append(packed := np.empty(x.shape, x.dtype))
                (copy,) = self._elementwise(
                    address("copy", x.dtype), "x", replace(op, inputs=(x,), output=packed)
                )
                rows.append(copy)
                inputs[name] = packed
        parts = [op.output, inputs["x"], inputs.get("y", inputs["x"]), inputs.get("s", one)]
        views = [np.broadcast_to(x, shape) for x in parts]
        for shape, steps in _planes(views):
            row = [kernel, *shape]
            for place, (outer, inner) in steps:
                row += [place, outer, inner // op.output.itemsize]
            rows.append(row)
        return rows

    def _products(self, op: Operation) -> list[Row] | None:
        a, b, c = op.inputs[0], op.inputs[1], op.output
        if c.ndim < 2 or (c.strides[-1] != c.itemsize and c.shape[-1] > 1):
            return None
        zero, one = (self._constant(x, c.dtype) for x in (0.0, 1.0))
        α, β = op.inputs[3:] if op.name == "add product" else (one, zero)
        # a stack of networks that share their input: one product for all
        whole_a, whole_c = _one_matrix(a), _one_matrix(c)
        if b.ndim == 2 and a.ndim == c.ndim and whole_a is not None and whole_c is not None:
            a, c = whole_a, whole_c
        a, b = (_for_each(c.shape[:-2], x) for x in (a, b))
        if c.ndim == 2:
            a, b, c = a[None], b[None], c[None]
        return [self._product(op, a[i], b[i], c[i], α, β) for i in np.ndindex(*c.shape[:-3])]

    def _product(self, op: Operation, a: Array, b: Array, c: Array, α: Array, β: Array) -> Row:
        """The row of a product for each network of a stack: all operands have three axes."""
        (count, m, k), n, size = a.shape, b.shape[2], c.itemsize
        function, bits = blas.library(str(c.dtype))
        contiguous = b.strides[2] == size or n == 1
        packed = 0 if contiguous else k * n // (1 if b.strides[0] else count)
        dots, lanes = _contiguous(a) and _contiguous(b.mT), WIDTH // size
        readable = bool(function) and all(blas.readable(x[0]) for x in (a, b, c))
        threads = (blas_core.threads() or 1) if readable else 0
        name = cheapest(m, n, k, lanes, packed=packed, dots=dots, threads=threads)
        scratch = width = 0
        if name == "rows product" and not contiguous:
            width = -(-n // lanes) * WIDTH
            self.kept.append(rows := np.empty((k, width // size), c.dtype))
            scratch = _address(rows)
        places = [_address(x) for x in (a, b, c, α, β)]
        matrices = [places[0], *a.strides[1:], places[1], *b.strides[1:], places[2], c.strides[1]]
        steps = [x.strides[0] for x in (a, b, c)]
        return [
            *(self._kernel(name, op), m, n, k, *matrices, *places[3:], function, bits),
            *(count, *steps, scratch, width, panel(name, k, size)),
        ]

    def _norms(self, op: Operation) -> list[Row] | None:
        """Of each column: of the product of its parts of two matrices, or over the rows of one."""
        if any(x.ndim != 2 or x.itemsize not in x.strides for x in op.inputs):
            return None
        if not op.output.flags.c_contiguous:
            return None
        self.kept.append(scratch := np.empty_like(op.output))
        row = [self._kernel(op.name, op), op.output.size, _address(op.output)]
        for x in op.inputs:
            row += [x.shape[0], _address(x), *x.strides]
        return [[*row, _address(scratch)]]

    def _max_norm(self, op: Operation) -> list[Row] | None:
        same, (w, bound) = _same(op.inputs[0], op.output), op.inputs
        w = _one_matrix(w)
        if w is None or not same or not _contiguous(w):
            return None
        return [[self._kernel("max norm", op), *w.shape, _address(w), w.strides[0], _address(bound)]]

    def _add_squares(self, op: Operation) -> list[Row] | None:
        _, w, factor = op.inputs
        w = _one_matrix(w)
        if w is None or not _contiguous(w) or op.output.dtype != FLOAT64:
            return None
        places = _address(w), w.strides[0], _address(factor), _address(op.output)
        return [[address("add squares", w.dtype), *w.shape, *places]]

    def _share(self, op: Operation) -> list[Row] | None:
        (weights,) = op.inputs
        places = _address(weights), weights.strides[-1], _address(op.output)
        return [[self._kernel("share", op), weights.shape[-1], *places]]

    def _softmax(self, op: Operation) -> list[Row] | None:
        arrays = *op.inputs, op.output
        if not all(x.flags.c_contiguous for x in arrays):
            return None
        n, m = op.output.shape[-2:]
        scratch = np.empty(m, op.output.dtype)
        self.kept.append(scratch)
        return [
            [self._kernel(op.name, op), n, m, *(_address(x[i]) for x in arrays), _address(scratch)]
            for i in np.ndindex(*op.output.shape[:-2])
        ]

    def _draw(self, op: Operation) -> list[Row] | None:
        rows = draws(op, self.kept, self.locks)
        return None if rows is None else [[self._kernel(name, op), *words] for name, words in rows]

    def _clip_factor(self, op: Operation) -> list[Row] | None:
        """Of one network, or of each of a stack whose parameters are some blocks."""
        (*blocks, bound), out = op.inputs, op.output
        if not all(x.flags.c_contiguous for x in (*blocks, out)):
            return None
        parts = [(x.size // out.size, _address(x), x.nbytes // out.size) for x in blocks]
        self.kept.append(places := np.array(parts, np.int64))
        bounds = _address(bound), bound.strides[0] if bound.size > 1 else 0
        kernel = self._kernel("clip factor", op)
        return [[kernel, out.size, _address(out), *bounds, len(blocks), _address(places)]]

    def _update(self, op: Operation) -> list[Row] | None:
        if len(op.inputs) != UPDATES[op.name] or not all(x.flags.c_contiguous for x in op.inputs):
            return None
        places = map(_address, (*op.inputs, op.output))
        return [[self._kernel(op.name, op), op.inputs[0].size, *places]]

    def gather(self, batches: Batches) -> Row | None:
        """The row that loads the next batch; the address of its numbers, word 2, is still to be set."""
        source, target = batches.examples, batches.rows
        if source is None or not (_contiguous(source) and _contiguous(target)):
            return None
        if source.dtype != target.dtype or source.shape[1] != target.shape[1]:
            return None
        places = _address(source), source.strides[0], _address(target), target.strides[0]
        kernel = address("gather", target.dtype)
        return [kernel, target.shape[0], 0, target.shape[1], *places]

    def set(self, settings: Settings) -> Row | None:
        """The row that sets a step's numbers; the address of these, word 2, is still to be set."""
        targets = settings.targets
        if any(x.dtype != targets[0].dtype or x.shape for x in targets):
            return None
        places = np.array([_address(x) for x in targets], np.int64)
        self.kept.append(places)
        kernel, count = address("set", targets[0].dtype), len(targets)
        return [kernel, count, 0, _address(places), count * targets[0].itemsize]

    def keep(self, batches: Batches, count: Array) -> Row | None:
        """The row that keeps a step's output and counts it; word 3, where to, is still to be set."""
        output, slots = batches.output, batches.slots
        # parts of one array, in order: an address takes too long to ask each for its own
        first, last = _address(slots[0]), _address(slots[-1])
        step = _address(slots[1]) - first if len(slots) > 1 else 0
        if last != first + (len(slots) - 1) * step or any(x.base is not slots[0].base for x in slots):
            return None
        if any(not x.flags.c_contiguous or x.dtype != output.dtype for x in (output, *slots)):
            return None
        kernel = address("keep", output.dtype)
        return [kernel, output.size, _address(output), first, step, _address(count)]

    def _constant(self, value: float, dtype: Any) -> Array:
        key = value, dtype
        if key not in self._constants:
            self._constants[key] = np.array(value, dtype)
        return self._constants[key]

    def _kernel(self, name: str, op: Operation) -> int:
        return address(name, op.output.dtype)

    def table(self, rows: Sequence[Row]) -> Array:
        """Rows as an array, filled up with zeros."""
        return np.array([row + [0] * (WORDS - len(row)) for row in rows], np.int64)


class _Compiling:
    """Adds up the seconds that compilation takes, and says so where they are many."""

    seconds, kernels = 0.0, 0


@functools.cache
def compiled(name: str, dtype: np.dtype[Any]) -> Any:
    """A kernel as machine code: compiled now, or read from Numba's cache on disk."""
    pointer = types.CPointer
    signature = types.void(pointer(types.int64), pointer(REALS[dtype]))
    start = time.perf_counter()
    kernel = numba.cfunc(signature, cache=True, error_model="numpy")(KERNELS[name])
    if not kernel.cache_hits:
        _Compiling.seconds += time.perf_counter() - start
        _Compiling.kernels += 1
    return kernel


def address(name: str, dtype: np.dtype[Any]) -> int:
    """Where the machine code of a kernel is."""
    return int(compiled(name, dtype).address)


def tell() -> None:
    """Say that compilation took a while, if it did since this was called last."""
    if _Compiling.seconds > 1:
        logging.getLogger("bpengine").warning(
            "bpengine compiled %d kernels in %.1f s; from now on they are read from disk",
            _Compiling.kernels,
            _Compiling.seconds,
        )
    _Compiling.seconds, _Compiling.kernels = 0.0, 0


def _planes(views: Sequence[Array]) -> Iterator[tuple[tuple[int, int], list[tuple[int, Any]]]]:
    """Arrays of one shape as one plane or several: rows and columns; addresses and strides in bytes."""
    shape = list(views[0].shape)
    strides = [list(x.strides) for x in views]
    # an axis goes into the one before it where all arrays allow that
    axis = len(shape) - 1
    while axis > 0:
        if shape[axis - 1] == 1 or all(s[axis - 1] == shape[axis] * s[axis] for s in strides):
            shape[axis - 1] *= shape[axis]
            for s in strides:
                s[axis - 1] = s[axis]
        elif shape[axis] == 1:
            pass
        else:
            axis -= 1
            continue
        del shape[axis]
        for s in strides:
            del s[axis]
        axis -= 1
    while len(shape) < 2:
        shape.insert(0, 1)
        for s in strides:
            s.insert(0, 0)
    *outer, rows, columns = shape
    for index in np.ndindex(*outer):
        offsets = [sum(i * step for i, step in zip(index, s, strict=False)) for s in strides]
        yield (
            (rows, columns),
            [(_address(x) + o, s[-2:]) for x, o, s in zip(views, offsets, strides, strict=True)],
        )


def _one_matrix(x: Array) -> Array | None:
    """A stack of matrices as one with all their rows; None where these are not evenly spaced."""
    outer = range(x.ndim - 2)
    if x.ndim < 2 or any(x.strides[i] != x.shape[i + 1] * x.strides[i + 1] for i in outer):
        return None
    rows = math.prod(x.shape[:-1])
    return np.lib.stride_tricks.as_strided(x, (rows, x.shape[-1]), x.strides[-2:])


def _for_each(stack: tuple[int, ...], x: Array) -> Array:
    """A matrix, or a stack of them, as a stack of so many: with all strides as they are, or 0."""
    steps = [0] * (len(stack) + 2 - x.ndim) + list(x.strides)
    shape = [1] * (len(stack) + 2 - x.ndim) + list(x.shape)
    steps[:-2] = [step if n > 1 else 0 for n, step in zip(shape[:-2], steps[:-2], strict=True)]
    return np.lib.stride_tricks.as_strided(x, (*stack, *x.shape[-2:]), steps)


def _contiguous(x: Array) -> bool:
    return bool(x.strides[-1] == x.itemsize or x.shape[-1] == 1)


def _address(x: Array) -> int:
    return int(x.__array_interface__["data"][0])


def _same(x: Array, y: Array) -> bool:
    return bool(x.__array_interface__ == y.__array_interface__)
