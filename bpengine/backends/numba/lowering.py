"""Operations as instructions: the address of a compiled kernel and those of its operands."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numba import types

from bpengine.backends.numba.cache import cached_cfunc
from bpengine.backends.numba.custom import custom_kernel, matches
from bpengine.backends.numba.elementwise import ELEMENTWISE, KERNELS
from bpengine.backends.numba.gather import GATHER, SET, STORE
from bpengine.backends.numba.instruction import Instruction
from bpengine.backends.numba.matmul import cheapest, panel
from bpengine.backends.numba.norms import PER_EXAMPLE
from bpengine.backends.numba.random import DRAWS, draws
from bpengine.backends.numba.simd import WIDTH
from bpengine.backends.numba.strides import (
    address_of,
    as_matrix,
    broadcast_stack,
    contiguous_rows,
    planes,
)
from bpengine.backends.numba.updates import PASSES, UPDATES
from bpengine.backends.numpy import blas
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.numpy.strided import location
from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Batches, Settings, SideBySide

__all__ = ["Lowering", "log_compilation"]

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


class Lowering:
    """Lowers operations to instructions, and keeps alive what these hold addresses of."""

    def __init__(self) -> None:
        self.keep_alive: list[Any] = []
        self.locks: dict[int, Any] = {}  # of the generators that instructions draw from
        self.scratch = Scratch()

    def lower(self, op: Operation) -> list[Instruction] | None:
        """The instructions that carry out `op`; None where there is no kernel for it."""
        arrays = *op.inputs, op.output, *op.state
        self.keep_alive.append(arrays)
        if op.name == "add squares":
            return self._add_squares(op)
        dtype = op.output.dtype
        if dtype not in REALS or any(x.dtype != dtype for x in arrays):
            return None
        if op.name in SPECIAL:
            return SPECIAL[op.name](self, op)
        if op.name.startswith("custom "):
            return self._custom(op)
        name = KERNEL_OF.get(op.name, op.name)
        if name not in ELEMENTWISE:
            return None
        if name == "copy" and location(op.inputs[0]) == location(op.output):
            return []
        return self._elementwise(self._kernel(name, op), ELEMENTWISE[name][0], op)

    def _custom(self, op: Operation) -> list[Instruction] | None:
        found = custom_kernel(op)
        if found is None:
            return None
        kernel, operands = found
        self.keep_alive.append(kernel)
        # compiled code may differ from what Python computes: it is tried on random numbers
        rng = np.random.default_rng(0)
        inputs = [rng.uniform(0.1, 0.9, x.shape).astype(x.dtype) for x in op.inputs]
        trial = replace(op, inputs=tuple(inputs), output=np.empty_like(op.output))
        try:
            with np.errstate(all="ignore"):
                expected = op.expression(*inputs)
        except Exception:  # raised again where the plan calls it
            return None
        tried = self._elementwise(kernel.address, operands, trial)
        if len(tried) != 1 or not matches(kernel, tried[0], trial.output, expected):
            return None
        # its last bits may depend on which numbers share a vector: it is not split between threads
        return [Instruction(fields) for fields in self._elementwise(kernel.address, operands, op)]

    def _elementwise(self, kernel: int, operands: str, op: Operation) -> list[Instruction]:
        inputs = dict(zip(operands, op.inputs, strict=False))
        shape = op.output.shape
        one = self.scratch.constant(1.0, op.output)
        instructions: list[Instruction] = []
        for name, x in inputs.items():
            # arrays that networks share are copied once for all if their rows are not contiguous
            if x.ndim == len(shape) - 1 > 1 and not contiguous_rows(x):
                self.keep_alive.append(packed := np.empty(x.shape, x.dtype))
                copying = replace(op, inputs=(x,), output=packed)
                instructions += self._elementwise(address("copy", x.dtype), "x", copying)
                inputs[name] = packed
        parts = [op.output, inputs["x"], inputs.get("y", inputs["x"]), inputs.get("s", one)]
        views = [np.broadcast_to(x, shape) for x in parts]
        for shape, steps in planes(views):
            fields, size = [kernel, *shape], op.output.itemsize
            for place, (outer, inner) in steps:
                fields += [place, outer, inner // size]
            instructions.append(Instruction(fields, "elementwise", size))
        return instructions

    def _products(self, op: Operation) -> list[Instruction] | None:
        a, b, c = op.inputs[0], op.inputs[1], op.output
        if c.ndim < 2 or (c.strides[-1] != c.itemsize and c.shape[-1] > 1):
            return None
        zero, one = (self.scratch.constant(x, c) for x in (0.0, 1.0))
        α, β = op.inputs[3:] if op.name == "add product" else (one, zero)
        # a stack of networks that share their input: one product for all
        whole_a, whole_c = as_matrix(a), as_matrix(c)
        if b.ndim == 2 and a.ndim == c.ndim and whole_a is not None and whole_c is not None:
            a, c = whole_a, whole_c
        a, b = (broadcast_stack(c.shape[:-2], x) for x in (a, b))
        if c.ndim == 2:
            a, b, c = a[None], b[None], c[None]
        return [self._product(op, a[i], b[i], c[i], α, β) for i in np.ndindex(*c.shape[:-3])]

    def _product(self, op: Operation, a: Array, b: Array, c: Array, α: Array, β: Array) -> Instruction:
        """The instruction of a product for each network of a stack: all operands have three axes."""
        (count, m, k), n, size = a.shape, b.shape[2], c.itemsize
        function, bits = blas.library(str(c.dtype))
        plain = b.strides[2] == size or n == 1
        packed = 0 if plain else k * n // (1 if b.strides[0] else count)
        dots, lanes = contiguous_rows(a) and contiguous_rows(b.mT), WIDTH // size
        readable = bool(function) and all(blas.NUMPY.readable(x[0]) for x in (a, b, c))
        name = cheapest(m, n, k, lanes, packed=packed, dots=dots, library=readable)
        scratch = width = 0
        if name == "rows product" and not plain:
            width = -(-n // lanes) * WIDTH
            self.keep_alive.append(copies := np.empty((k, width // size), c.dtype))
            scratch = address_of(copies)
        places = [address_of(x) for x in (a, b, c, α, β)]
        matrices = [places[0], *a.strides[1:], places[1], *b.strides[1:], places[2], c.strides[1]]
        steps = [x.strides[0] for x in (a, b, c)]
        fields = [self._kernel(name, op), m, n, k, *matrices, *places[3:], function, bits]
        fields += [count, *steps, scratch, width, panel(name, k, size)]
        return Instruction(fields, "library" if name == "library product" else "product", size)

    def _norms(self, op: Operation) -> list[Instruction] | None:
        """Norms of columns: products of those of two matrices, or those over the rows of one."""
        if any(x.ndim != 2 or x.itemsize not in x.strides for x in op.inputs):
            return None
        if not op.output.flags.c_contiguous:
            return None
        self.keep_alive.append(scratch := np.empty_like(op.output))
        fields = [self._kernel(op.name, op), op.output.size, address_of(op.output)]
        for x in op.inputs:
            fields += [x.shape[0], address_of(x), *x.strides]
        return [Instruction([*fields, address_of(scratch)])]

    def _max_norm(self, op: Operation) -> list[Instruction] | None:
        (w, bound), in_place = op.inputs, location(op.inputs[0]) == location(op.output)
        w = as_matrix(w)
        if w is None or not in_place or not contiguous_rows(w):
            return None
        places = address_of(w), w.strides[0], address_of(bound)
        return [Instruction([self._kernel("max norm", op), *w.shape, *places])]

    def _add_squares(self, op: Operation) -> list[Instruction] | None:
        _, w, factor = op.inputs
        w = as_matrix(w)
        if w is None or not contiguous_rows(w) or op.output.dtype != FLOAT64:
            return None
        places = address_of(w), w.strides[0], address_of(factor), address_of(op.output)
        return [Instruction([address("add squares", w.dtype), *w.shape, *places])]

    def _share(self, op: Operation) -> list[Instruction] | None:
        (weights,) = op.inputs
        places = address_of(weights), weights.strides[-1], address_of(op.output)
        return [Instruction([self._kernel("share", op), weights.shape[-1], *places])]

    def _softmax(self, op: Operation) -> list[Instruction] | None:
        arrays = *op.inputs, op.output
        if not all(x.flags.c_contiguous for x in arrays):
            return None
        *stack, n, m = op.output.shape
        self.keep_alive.append(scratch := np.empty((math.prod(stack), m), op.output.dtype))
        kernel, size, ends = self._kernel(op.name, op), scratch.itemsize, range(3, 3 + len(arrays))
        made = []
        for p, i in enumerate(np.ndindex(*stack)):
            fields = [kernel, n, m, *(address_of(x[i]) for x in arrays), address_of(scratch[p])]
            made.append(Instruction(fields, "network", size, ends, (p, len(scratch))))
        return made

    def _draw(self, op: Operation) -> list[Instruction] | None:
        found = draws(op, self.keep_alive, self.locks)
        if found is None:
            return None
        return [Instruction([self._kernel(name, op), *fields]) for name, fields in found]

    def _clip_factor(self, op: Operation) -> list[Instruction] | None:
        """Of one network, or of the networks of a stack, whose gradients are some blocks."""
        (*blocks, bound), out = op.inputs, op.output
        if not all(x.flags.c_contiguous for x in (*blocks, out)):
            return None
        parts = [(x.size // out.size, address_of(x), x.nbytes // out.size) for x in blocks]
        self.keep_alive.append(places := np.array(parts, np.int64))
        bounds = address_of(bound), bound.strides[0] if bound.size > 1 else 0
        kernel, more = self._kernel("clip factor", op), (len(blocks), address_of(places))
        return [Instruction([kernel, out.size, address_of(out), *bounds, *more])]

    def _update(self, op: Operation) -> list[Instruction] | None:
        if len(op.inputs) != UPDATES[op.name] or not all(x.flags.c_contiguous for x in op.inputs):
            return None
        arrays = *op.inputs, op.output
        n, places = arrays[0].size, [address_of(x) for x in arrays]
        fields = [self._kernel(op.name, op), n, *places]
        if op.name not in PASSES:
            return [Instruction(fields)]
        vectors = [i for i, x in enumerate(arrays, 2) if x.size == n]
        first = [self._kernel("adam weights", op), *places[4:6]]
        before = [Instruction(first)] if op.name in ("adam", "adam per parameter") else []
        return [*before, Instruction(fields, "update", arrays[0].itemsize, vectors)]

    def gathers(self, batches: Batches) -> list[Instruction | None]:
        """The instructions that load the next batch; None for what Python has to load."""
        examples, rows = batches.examples, batches.rows
        if not isinstance(examples, SideBySide):
            return [None if examples is None else self._gather(examples, rows)]
        return [self._gather(x, rows[:, i : i + x.shape[1]]) for i, x in examples.parts]

    def _gather(self, source: Array, target: Array) -> Instruction | None:
        """The instruction that takes rows; field 2, the address of their indices, is open."""
        if not (contiguous_rows(source) and contiguous_rows(target)):
            return None
        if source.dtype != target.dtype or source.shape[1] != target.shape[1]:
            return None
        places = address_of(source), source.strides[0], address_of(target), target.strides[0]
        kernel = address(GATHER, target.dtype)
        return Instruction([kernel, target.shape[0], 0, target.shape[1], *places])

    def set(self, settings: Settings) -> Instruction | None:
        """The instruction that sets a step's settings; field 2, their address, is open."""
        targets = settings.targets
        if any(x.dtype != targets[0].dtype or x.shape for x in targets):
            return None
        places = np.array([address_of(x) for x in targets], np.int64)
        self.keep_alive.append(places)
        kernel, count = address(SET, targets[0].dtype), len(targets)
        return Instruction([kernel, count, 0, address_of(places), count * targets[0].itemsize])

    def store(self, batches: Batches, count: Array) -> Instruction | None:
        """The instruction that stores a step's output and counts the step; field 3 is its target."""
        output, slots = batches.output, batches.slots
        # parts of one array, in order: asking all of them for their addresses takes too long
        first, last = address_of(slots[0]), address_of(slots[-1])
        step = address_of(slots[1]) - first if len(slots) > 1 else 0
        if last != first + (len(slots) - 1) * step or any(x.base is not slots[0].base for x in slots):
            return None
        if any(not x.flags.c_contiguous or x.dtype != output.dtype for x in (output, *slots)):
            return None
        kernel = address(STORE, output.dtype)
        return Instruction([kernel, output.size, address_of(output), first, step, address_of(count)])

    def _kernel(self, name: str, op: Operation) -> int:
        return address(name, op.output.dtype)


SPECIAL: dict[str, Callable[[Lowering, Operation], list[Instruction] | None]] = {
    "matmul": Lowering._products,
    "add product": Lowering._products,
    "share": Lowering._share,
    "max norm": Lowering._max_norm,
    "softmax": Lowering._softmax,
    "softmax slope": Lowering._softmax,
    "clip factor": Lowering._clip_factor,
    "clip factor per network": Lowering._clip_factor,
    **dict.fromkeys(PER_EXAMPLE, Lowering._norms),
    **dict.fromkeys(DRAWS, Lowering._draw),
    **dict.fromkeys(UPDATES, Lowering._update),
}


class _Compiling:
    """Totals of compilation, for the log."""

    seconds, kernels = 0.0, 0


@functools.cache
def compiled(name: str, dtype: np.dtype[Any]) -> Any:
    """A kernel as machine code: compiled now, or read from Numba's cache on disk."""
    pointer = types.CPointer
    signature = types.void(pointer(types.int64), pointer(REALS[dtype]))
    start = time.perf_counter()
    kernel = cached_cfunc(KERNELS[name], signature, error_model="numpy")
    if not kernel.cache_hits:
        _Compiling.seconds += time.perf_counter() - start
        _Compiling.kernels += 1
    return kernel


def address(name: str, dtype: np.dtype[Any]) -> int:
    """The address of a kernel's machine code."""
    return int(compiled(name, dtype).address)


def log_compilation() -> None:
    """Log that compilation took long, if it did since the last call."""
    if _Compiling.seconds > 1:
        logging.getLogger("bpengine").info(
            "bpengine compiled %d kernels in %.1f s; from now on they are read from disk",
            _Compiling.kernels,
            _Compiling.seconds,
        )
    _Compiling.seconds, _Compiling.kernels = 0.0, 0
