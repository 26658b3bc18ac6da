"""Single operations as they are in a step, each to be timed against its frozen twin.

Where the arrays are in memory decides: at addresses that do not suit each other, np.multiply takes twice
as long as at others. So all arrays of both sides start at cache lines, at different offsets in a page.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import frozen_kernels
import numpy as np
import variations

from bpengine.backends import Operation
from bpengine.backends.numpy.scratch import Scratch

SIZES, BATCH = (100, 150, 100), 128
SMALLEST = 5_000  # numbers in an output: a shorter operation is mostly the call
RANDOM = {"uniform", "gaussian noise"}  # whose twins take a generator
PAGE, OFFSET = 4096, 640  # bytes
Pair = tuple[Callable[[], object], Callable[[], object]]


class Memory:
    """Copies of arrays, the i-th of which starts at i offsets into a page."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        buffer = np.empty(x.nbytes + 2 * PAGE, np.uint8)
        start = -buffer.ctypes.data % PAGE + self.count * OFFSET % PAGE
        self.count += 1
        axes = np.argsort([-stride for stride in x.strides], kind="stable")  # in the same order
        flat = buffer[start : start + x.nbytes].view(x.dtype)
        placed = flat.reshape([x.shape[i] for i in axes]).transpose(np.argsort(axes))
        placed[...] = x
        return placed

    @contextmanager
    def scratch(self):
        """Meanwhile, kernels get their scratch arrays from here."""
        before = Scratch.scratch

        def placed(scratch: Scratch, like: np.ndarray, which: int = 0) -> np.ndarray:
            key = like.shape, like.dtype, which
            if key not in scratch._scratch:
                scratch._scratch[key] = self(np.empty(like.shape, like.dtype))
            return scratch._scratch[key]

        Scratch.scratch = placed
        try:
            yield
        finally:
            Scratch.scratch = before


class Traced(np.ndarray):
    """An array that writes down the ufuncs it is given to, and puts their results in a `Memory`."""

    def __array_finalize__(self, parent: object) -> None:
        self.calls, self.memory = (getattr(parent, name, None) for name in ("calls", "memory"))

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        function = getattr(ufunc, method)
        inputs = [x.view(np.ndarray) if isinstance(x, Traced) else x for x in inputs]
        options = {key: value for key, value in options.items() if value is not np._NoValue}
        result = self.memory(np.asarray(function(*inputs, **options)))
        self.calls.append(partial(function, *inputs, out=result, **options))
        return traced(result, self.calls, self.memory)


def traced(x: np.ndarray, calls: list[Callable[[], object]], memory: Memory) -> Traced:
    """A view of the same memory."""
    x = x.view(Traced)
    x.calls, x.memory = calls, memory
    return x


def twin(function: Callable[..., object], inputs: tuple[np.ndarray, ...], memory: Memory) -> Any:
    """The ufuncs that a function applies to arrays, as a callable."""
    calls: list[Callable[[], object]] = []
    function(*(traced(x, calls, memory) for x in inputs))

    def run() -> None:
        for call in calls:
            call()

    return run


def _batch(variation: str) -> int:
    return 4 if variation == "gradients" else BATCH  # whose output has all gradients


@cache
def variation_of() -> dict[str, str]:
    """A variation that has the operation, for each that is large enough to be timed."""
    found: dict[str, str] = {}
    for name in variations.VARIATIONS:
        if name not in ("float64", "per neuron") and not name.startswith("stack"):
            for op in variations.plan(name, _batch(name), sizes=SIZES).operations:
                if op.output.size >= SMALLEST or op.name == "clip factor":
                    found.setdefault(op.name, name)
    return {name: found[name] for name in frozen_kernels.TWINS if name in found}


def operation(name: str, backend: str, memory: Memory) -> tuple[Operation, Any]:
    """An operation on arrays of its own, as it is in a step, and its backend."""
    variation = variation_of()[name]
    plan = variations.plan(variation, _batch(variation), backend, SIZES)
    op = max((op for op in plan.operations if op.name == name), key=lambda op: op.output.size)
    arrays = {id(x): memory(x) if x.size > 2 else x for x in (*op.inputs, *op.state)}
    rng = np.random.default_rng(0)
    for x in arrays.values():
        if x.size > 2:  # else a setting of the step
            x[...] = rng.uniform(0.1, 0.9, x.shape)
    output = memory(op.output)
    if op.equation in ("update", "penalty", "noise"):  # works in place
        output = arrays.get(id(op.output), output)
    inputs, state = (tuple(arrays[id(x)] for x in group) for group in (op.inputs, op.state))
    return replace(op, inputs=inputs, output=output, state=state), plan.network.backend


def kernel(name: str, backend: str = "numpy") -> Pair:
    """An operation by a backend, and its twin."""
    memory = Memory()
    op, engine = operation(name, backend, memory)
    function, inputs = frozen_kernels.TWINS[name], op.inputs
    if name in RANDOM:
        reference = partial(function, *(inputs or (op.output.shape,)), np.random.default_rng(0))
    else:
        reference = twin(function, inputs, memory)
    with memory.scratch():
        ours = partial(engine.compile([op]).run, 1)
    ours.operation = op  # whose random generator compiled code uses
    return ours, reference


def gather() -> Pair:
    """A batch of rows, in random order."""
    rng = np.random.default_rng(0)
    rows, out = rng.random((5000, SIZES[0]), "float32"), np.empty((BATCH, SIZES[0]), "float32")
    indices = rng.permutation(len(rows))[:BATCH]
    take = variations.network("base").backend.take
    return partial(take, rows, indices, out), partial(frozen_kernels.gather, rows, indices)
