"""What else was tried for a step on NumPy, and what it is worth: `python benchmarks/tried.py`.

Each row is another way to carry out the same plan. The figure is its time ÷ the time of the plan as
it is, taken in turn: above 1 the other way loses. Medians with 95 % intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from ladder import LEARNING_RATE, RUNGS, examples, network

import bpengine as bp
from bpengine.backends import Backend, NumPyBackend, Operation
from bpengine.backends.folded_sgd import fold
from bpengine.backends.numpy import blas
from bpengine.backends.numpy.kernels import calls as calls_of
from bpengine.backends.numpy.scratch import Scratch
from bpengine.timing import measure

Call = tuple[Callable[..., Any], tuple[Any, ...]]
BLOCK = 2**14  # elements: 64 KiB of float32, which a core's own cache holds


def folded_calls(operations: list[Operation], kernels: Scratch) -> dict[int, list[Call]]:
    """The calls that fold the update into the gradient's products, by the operation they replace."""
    assert blas.library(str(operations[-1].output.dtype))[0], "needs the C interface of NumPy's BLAS"
    folded = fold(operations, blas.NUMPY)
    return {i: [call for op in ops for call in calls_of(kernels, op)] for i, ops in folded.items()}


def step(name: str, backend: Backend) -> bp.Plan:
    """The rung's training step, loaded, its network on `backend`."""
    net, (X, Y) = network(name), examples(name)
    net = bp.Network(net.sizes, net.activations, net.cost, backend=backend, rng=0)
    plan = net.plan(RUNGS[name].batch, bp.SGD(LEARNING_RATE))
    plan.load(X, Y)
    return plan


class Variant(NumPyBackend):
    """The plan as it is, but for the calls of some operations."""

    def calls(self, op: Operation, kernels: Scratch) -> list[Call]:
        return calls_of(kernels, op)

    def replaced(self, operations: list[Operation], kernels: Scratch) -> dict[int, list[Call]]:
        """The calls of operations that are not carried out by themselves."""
        return folded_calls(operations, kernels)

    def compile(self, operations):
        operations, kernels = list(operations), Scratch()
        replaced = self.replaced(operations, kernels)
        program = super().compile(operations)
        program.calls = [
            call
            for i, op in enumerate(operations)
            for call in (replaced[i] if i in replaced else self.calls(op, kernels))
        ]
        return program


class Unfolded(Variant):
    """A gradient array and an update pass, instead of the update within the gradient's product."""

    def replaced(self, operations: list[Operation], kernels: Scratch) -> dict[int, list[Call]]:
        return {}


class Dot(Variant):
    """ndarray.dot for the products that are left, instead of the ufunc matmul."""

    def calls(self, op: Operation, kernels: Scratch) -> list[Call]:
        if op.name == "matmul":
            a, b = op.inputs
            return [(a.dot, (b, op.output))]
        return calls_of(kernels, op)


class TanhSigmoid(Variant):
    """σ(z) = (1 + tanh(z/2)) / 2, instead of 1 / (1 + e⁻ᶻ)."""

    def calls(self, op: Operation, kernels: Scratch) -> list[Call]:
        if op.name == "sigmoid":
            (z,), a = op.inputs, op.output
            half = kernels.constant(0.5, a)
            return [
                (np.multiply, (z, half, a)),
                (np.tanh, (a, a)),
                (np.multiply, (a, half, a)),
                (np.add, (a, half, a)),
            ]
        return calls_of(kernels, op)


class Blocked(Variant):
    """Elementwise operations in blocks that a core's own cache holds, block after block."""

    def calls(self, op: Operation, kernels: Scratch) -> list[Call]:
        whole = calls_of(kernels, op)
        if op.name not in ("sigmoid", "sigmoid slope") or op.output.size <= BLOCK:
            return whole
        rows = max(1, BLOCK // op.output.shape[-1])
        return [
            (function, tuple(x[i : i + rows] if x.ndim == 2 else x for x in operands))
            for i in range(0, op.output.shape[0], rows)
            for function, operands in whole
        ]


class Fortran(NumPyBackend):
    """Activations and errors with examples contiguous, as the inputs are."""

    def empty(self, shape, dtype):
        if len(shape) == 2 and shape[0] != self.batch:
            return np.empty(shape[::-1], dtype).T
        return super().empty(shape, dtype)


class FortranOutput(NumPyBackend):
    """The output layer alone with examples contiguous, as the targets are."""

    def empty(self, shape, dtype):
        if len(shape) == 2 and shape == (self.outputs, self.batch):
            return np.empty(shape[::-1], dtype).T
        return super().empty(shape, dtype)


class Aligned(NumPyBackend):
    """Rows of [w b] and of [a; 1] padded to a multiple of 64 bytes."""

    alignment = 64


class Negated(Variant):
    """Hidden sigmoids fed with -z, which BLAS gives for nothing: one pass less."""

    def replaced(self, operations: list[Operation], kernels: Scratch) -> dict[int, list[Call]]:
        calls = folded_calls(operations, kernels)
        for i, (product, op) in enumerate(pairwise(operations)):
            if (
                op.name == "sigmoid"
                and op.inputs[0] is product.output
                and _same(op.inputs[0], op.output)
            ):
                calls[i] = _negative_product(kernels, *product.inputs, product.output)
                calls[i + 1] = calls_of(kernels, op)[1:]
        return calls


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    return x.__array_interface__ == y.__array_interface__


def _negative_product(kernels: Scratch, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> list[Call]:
    scale, β = np.full(1, -1.0, c.dtype), np.zeros((), c.dtype)
    return list(blas.FOLDED["add product"](kernels, a, b, c, scale, β, c))


VARIANTS: dict[str, Callable[[], NumPyBackend]] = {
    "unchanged (the noise)": NumPyBackend,
    "gradient array and update pass": Unfolded,
    "ndarray.dot for products": Dot,
    "sigmoid by tanh": TanhSigmoid,
    "elementwise operations in blocks": Blocked,
    "activations and errors in Fortran order": Fortran,
    "the output layer in Fortran order": FortranOutput,
    "rows padded to 64 bytes": Aligned,
    "hidden sigmoids from a negated product": Negated,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rungs", nargs="*", default=["tiny", "nielsen", "small", "medium", "large"])
    parser.add_argument("--pairs", type=int, default=41)
    options = parser.parse_args()
    print("| | " + " | ".join(options.rungs) + " |\n|---" + "|---" * len(options.rungs) + "|")
    for label, make in VARIANTS.items():
        cells = []
        for name in options.rungs:
            backend = make()
            backend.batch, backend.outputs = RUNGS[name].batch, RUNGS[name].sizes[-1]
            steps = {"tiny": 100, "nielsen": 50}.get(name, 2)
            pairs = 7 if name == "large" else options.pairs
            ours, other = step(name, NumPyBackend()), step(name, backend)
            cells.append(
                str(measure(partial(other.run, steps), partial(ours.run, steps), pairs=pairs, rng=0))
            )
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
