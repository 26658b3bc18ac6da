"""Operations as rows of a table of numbers, each with the address of the kernel that carries it out."""

from __future__ import annotations

import functools
import logging
import math
import time
from dataclasses import replace
from typing import Any

import numba
import numpy as np
from numba import types

from bpengine.backends.numba.custom import computes, own_kernel
from bpengine.backends.numba.elementwise import ELEMENTWISE, KERNELS
from bpengine.backends.numba.gather import GATHER, KEEP, SET
from bpengine.backends.numba.instruction import Row
from bpengine.backends.numba.matmul import cheapest, panel
from bpengine.backends.numba.random import DRAWS, draws
from bpengine.backends.numba.simd import WIDTH
from bpengine.backends.numba.strides import address_of, contiguous, for_each, one_matrix, planes, same
from bpengine.backends.numba.updates import PASSES, UPDATES
from bpengine.backends.numpy import blas
from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Batches, Settings

__all__ = ["Maker", "tell"]

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
        if name == "copy" and same(op.inputs[0], op.output):
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
        # its last bits may depend on which numbers are one vector: it is not cut
        return [Row(row) for row in self._elementwise(kernel.address, operands, op)]

    def _elementwise(self, kernel: int, operands: str, op: Operation) -> list[Row]:
        inputs = dict(zip(operands, op.inputs, strict=False))
        shape = op.output.shape
        one = self._constant(1.0, op.output.dtype)
        rows: list[Row] = []
        for name, x in inputs.items():
            # what networks share, and whose rows are not contiguous, is copied once for all
            if x.ndim == len(shape) - 1 > 1 and not contiguous(x):
                self.kept.append(packed := np.empty(x.shape, x.dtype))
                copying = replace(op, inputs=(x,), output=packed)
                rows += self._elementwise(address("copy", x.dtype), "x", copying)
                inputs[name] = packed
        parts = [op.output, inputs["x"], inputs.get("y", inputs["x"]), inputs.get("s", one)]
        views = [np.broadcast_to(x, shape) for x in parts]
        for shape, steps in planes(views):
            words, size = [kernel, *shape], op.output.itemsize
            for place, (outer, inner) in steps:
                words += [place, outer, inner // size]
            rows.append(Row(words, "line", size))
        return rows

    def _products(self, op: Operation) -> list[Row] | None:
        a, b, c = op.inputs[0], op.inputs[1], op.output
        if c.ndim < 2 or (c.strides[-1] != c.itemsize and c.shape[-1] > 1):
            return None
        zero, one = (self._constant(x, c.dtype) for x in (0.0, 1.0))
        α, β = op.inputs[3:] if op.name == "add product" else (one, zero)
        # a stack of networks that share their input: one product for all
        whole_a, whole_c = one_matrix(a), one_matrix(c)
        if b.ndim == 2 and a.ndim == c.ndim and whole_a is not None and whole_c is not None:
            a, c = whole_a, whole_c
        a, b = (for_each(c.shape[:-2], x) for x in (a, b))
        if c.ndim == 2:
            a, b, c = a[None], b[None], c[None]
        return [self._product(op, a[i], b[i], c[i], α, β) for i in np.ndindex(*c.shape[:-3])]

    def _product(self, op: Operation, a: Array, b: Array, c: Array, α: Array, β: Array) -> Row:
        """The row of a product for each network of a stack: all operands have three axes."""
        (count, m, k), n, size = a.shape, b.shape[2], c.itemsize
        function, bits = blas.library(str(c.dtype))
        plain = b.strides[2] == size or n == 1
        packed = 0 if plain else k * n // (1 if b.strides[0] else count)
        dots, lanes = contiguous(a) and contiguous(b.mT), WIDTH // size
        readable = bool(function) and all(blas.readable(x[0]) for x in (a, b, c))
        name = cheapest(m, n, k, lanes, packed=packed, dots=dots, library=readable)
        scratch = width = 0
        if name == "rows product" and not plain:
            width = -(-n // lanes) * WIDTH
            self.kept.append(rows := np.empty((k, width // size), c.dtype))
            scratch = address_of(rows)
        places = [address_of(x) for x in (a, b, c, α, β)]
        matrices = [places[0], *a.strides[1:], places[1], *b.strides[1:], places[2], c.strides[1]]
        steps = [x.strides[0] for x in (a, b, c)]
        words = [self._kernel(name, op), m, n, k, *matrices, *places[3:], function, bits]
        words += [count, *steps, scratch, width, panel(name, k, size)]
        return Row(words, "library" if name == "library product" else "product", size)

    def _norms(self, op: Operation) -> list[Row] | None:
        """Of each column: of the product of its parts of two matrices, or over the rows of one."""
        if any(x.ndim != 2 or x.itemsize not in x.strides for x in op.inputs):
            return None
        if not op.output.flags.c_contiguous:
            return None
        self.kept.append(scratch := np.empty_like(op.output))
        row = [self._kernel(op.name, op), op.output.size, address_of(op.output)]
        for x in op.inputs:
            row += [x.shape[0], address_of(x), *x.strides]
        return [Row([*row, address_of(scratch)])]

    def _max_norm(self, op: Operation) -> list[Row] | None:
        in_place, (w, bound) = same(op.inputs[0], op.output), op.inputs
        w = one_matrix(w)
        if w is None or not in_place or not contiguous(w):
            return None
        places = address_of(w), w.strides[0], address_of(bound)
        return [Row([self._kernel("max norm", op), *w.shape, *places])]

    def _add_squares(self, op: Operation) -> list[Row] | None:
        _, w, factor = op.inputs
        w = one_matrix(w)
        if w is None or not contiguous(w) or op.output.dtype != FLOAT64:
            return None
        places = address_of(w), w.strides[0], address_of(factor), address_of(op.output)
        return [Row([address("add squares", w.dtype), *w.shape, *places])]

    def _share(self, op: Operation) -> list[Row] | None:
        (weights,) = op.inputs
        places = address_of(weights), weights.strides[-1], address_of(op.output)
        return [Row([self._kernel("share", op), weights.shape[-1], *places])]

    def _softmax(self, op: Operation) -> list[Row] | None:
        arrays = *op.inputs, op.output
        if not all(x.flags.c_contiguous for x in arrays):
            return None
        *stack, n, m = op.output.shape
        self.kept.append(scratch := np.empty((math.prod(stack), m), op.output.dtype))
        kernel, size, ends = self._kernel(op.name, op), scratch.itemsize, range(3, 3 + len(arrays))
        return [
            Row(
                [kernel, n, m, *(address_of(x[i]) for x in arrays), address_of(own)],
                "member",
                size,
                ends,
                (p, len(scratch)),
            )
            for p, (i, own) in enumerate(zip(np.ndindex(*stack), scratch, strict=True))
        ]

    def _draw(self, op: Operation) -> list[Row] | None:
        rows = draws(op, self.kept, self.locks)
        return None if rows is None else [Row([self._kernel(name, op), *words]) for name, words in rows]

    def _clip_factor(self, op: Operation) -> list[Row] | None:
        """Of one network, or of each of a stack whose parameters are some blocks."""
        (*blocks, bound), out = op.inputs, op.output
        if not all(x.flags.c_contiguous for x in (*blocks, out)):
            return None
        parts = [(x.size // out.size, address_of(x), x.nbytes // out.size) for x in blocks]
        self.kept.append(places := np.array(parts, np.int64))
        bounds = address_of(bound), bound.strides[0] if bound.size > 1 else 0
        kernel = self._kernel("clip factor", op)
        return [Row([kernel, out.size, address_of(out), *bounds, len(blocks), address_of(places)])]

    def _update(self, op: Operation) -> list[Row] | None:
        if len(op.inputs) != UPDATES[op.name] or not all(x.flags.c_contiguous for x in op.inputs):
            return None
        arrays = *op.inputs, op.output
        n, places = arrays[0].size, [address_of(x) for x in arrays]
        words = [self._kernel(op.name, op), n, *places]
        if op.name not in PASSES:
            return [Row(words)]
        vectors = [i for i, x in enumerate(arrays, 2) if x.size == n]
        first = [self._kernel("adam weights", op), *places[4:6]]
        before = [Row(first)] if op.name in ("adam", "adam each") else []
        return [*before, Row(words, "update", arrays[0].itemsize, vectors)]

    def gather(self, batches: Batches) -> Row | None:
        """The row that loads the next batch; the address of its numbers, word 2, is still to be set."""
        source, target = batches.examples, batches.rows
        if source is None or not (contiguous(source) and contiguous(target)):
            return None
        if source.dtype != target.dtype or source.shape[1] != target.shape[1]:
            return None
        places = address_of(source), source.strides[0], address_of(target), target.strides[0]
        kernel = address(GATHER, target.dtype)
        return Row([kernel, target.shape[0], 0, target.shape[1], *places])

    def set(self, settings: Settings) -> Row | None:
        """The row that sets a step's numbers; the address of these, word 2, is still to be set."""
        targets = settings.targets
        if any(x.dtype != targets[0].dtype or x.shape for x in targets):
            return None
        places = np.array([address_of(x) for x in targets], np.int64)
        self.kept.append(places)
        kernel, count = address(SET, targets[0].dtype), len(targets)
        return Row([kernel, count, 0, address_of(places), count * targets[0].itemsize])

    def keep(self, batches: Batches, count: Array) -> Row | None:
        """The row that keeps a step's output and counts it; word 3, where to, is still to be set."""
        output, slots = batches.output, batches.slots
        # parts of one array, in order: an address takes too long to ask each for its own
        first, last = address_of(slots[0]), address_of(slots[-1])
        step = address_of(slots[1]) - first if len(slots) > 1 else 0
        if last != first + (len(slots) - 1) * step or any(x.base is not slots[0].base for x in slots):
            return None
        if any(not x.flags.c_contiguous or x.dtype != output.dtype for x in (output, *slots)):
            return None
        kernel = address(KEEP, output.dtype)
        return Row([kernel, output.size, address_of(output), first, step, address_of(count)])

    def _constant(self, value: float, dtype: Any) -> Array:
        key = value, dtype
        if key not in self._constants:
            self._constants[key] = np.array(value, dtype)
        return self._constants[key]

    def _kernel(self, name: str, op: Operation) -> int:
        return address(name, op.output.dtype)


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
