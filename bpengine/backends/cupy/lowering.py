"""Operations of a step as kernels and products, with the scalars and scratch arrays that they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bpengine.backends.cupy.cuda_source import ELEMENTWISE
from bpengine.backends.cupy.device import Device
from bpengine.backends.cupy.elementwise import THREADS, ElementwiseOp, Launch, View, special
from bpengine.backends.cupy.matmul import Product, product
from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Batches, Entries

__all__ = ["Item", "Lowering"]

Item = ElementwiseOp | Launch | Product
COLUMNS = 128  # threads of a block, where a thread computes a column
SUMS = 512  # parts of a sum over a vector, at most


class Lowering:
    """Lowers operations to kernels and products.

    Parameters
    ----------
    device : Device

    Attributes
    ----------
    keep_alive : list
        The arrays whose addresses are arguments.
    random : numpy.random.Generator or None
        What the step draws from.
    state : array of 6 int64
        Its state on the device.
    drawn, halves : int, bool
        Numbers that a step draws, and whether they have 32 random bits.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.keep_alive: list[Any] = []
        self.random: Any = None
        self.state: Array = None
        self.drawn, self.halves = 0, False
        self._numbers: dict[tuple[float, str], int] = {}

    def view(self, x: Array) -> View:
        """An array as kernels use it; it is kept alive."""
        self.keep_alive.append(x)
        return self._device.view(x)

    def new(self, shape: tuple[int, ...], dtype: str) -> View:
        """Scratch memory."""
        return self.view(self._device.empty(shape, dtype))

    def number(self, value: float, dtype: str) -> int:
        """The address of a constant on the device."""
        if (value, dtype) not in self._numbers:
            array = self._device.asarray(np.array(value), dtype)
            self._numbers[value, dtype] = self.view(array).address
        return self._numbers[value, dtype]

    def lower(self, op: Operation) -> Sequence[Item] | None:
        """What computes `op`, in order; None where there is no kernel for it."""
        arrays = *op.inputs, op.output, *op.state
        views = [self.view(x) for x in arrays]
        dtype = views[-1].dtype
        if dtype not in ("float32", "float64") or any(x.dtype != dtype for x in views):
            return None
        inputs, output = views[: len(op.inputs)], views[len(op.inputs)]
        if op.name in SPECIAL:
            made: Sequence[Item] | None = SPECIAL[op.name](self, op, inputs, output)
            return made
        if op.name in ELEMENTWISE:
            return [ElementwiseOp(op.name, tuple(inputs), output)]
        return None

    def _uniform(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item] | None:
        rngs: Any = getattr(op.expression, "rngs", ())
        rng = rngs[0] if len(rngs) == 1 else None  # those of a stack draw on the host
        bits = getattr(rng, "bit_generator", None)
        if type(bits).__name__ != "PCG64" or self.random not in (None, rng):
            return None
        if self.state is None:
            self.random = rng
            # of unsigned integers, which the array API need not support
            self.state = self._device.empty((6,), "int64")
        drawing = ElementwiseOp("uniform", (), output, (self.view(self.state).address, self.drawn))
        self.drawn, self.halves = self.drawn + output.size, output.dtype == "float32"
        return [drawing]

    def end_of_step(self, dtype: str) -> Sequence[Launch]:
        """The kernel that advances the generator after all operations."""
        if not self.drawn:
            return []
        arguments = self.view(self.state).address, self.drawn
        return [special("advance_state", dtype, 1, arguments, 1)]

    def _matmul(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item] | None:
        if len(output.shape) < 2 or not all(x.size for x in (*inputs, output)):
            return None
        a, b = inputs[:2]
        if op.name == "matmul":
            α, β = self.number(1.0, output.dtype), self.number(0.0, output.dtype)
        else:  # "add product": of a, b, c, scale, β
            α, β = (x.address for x in inputs[3:])
        made = product(a, b, output, α, β)
        return None if made is None else [made]

    def _adam(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item]:
        θ, g, gradients, squares, weights, betas, ε, η = inputs
        α, ε_ = (self.new((), θ.dtype) for _ in range(2))
        sums, β = ([x.at(0, i) for i in range(2)] for x in (weights, betas))
        return [
            ElementwiseOp("adam weights", (*sums, *β, η, ε, ε_), α),
            ElementwiseOp("adam", (θ, g, gradients, squares, *β, ε_, α), output),
        ]

    def _average(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item]:
        average, θ, count, least = inputs
        share = self.new((), θ.dtype)
        return [
            ElementwiseOp("average share", (count, least), share),
            ElementwiseOp("average", (average, θ, share), output),
        ]

    def _clip_factor(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item] | None:
        g, bound = inputs
        if not g.contiguous:
            return None
        count = max(1, min(-(-g.size // (4 * THREADS)), SUMS))
        sums = self.new((count,), g.dtype).address
        arguments = count, sums, g.size, g.address, bound.address, output.address
        return [
            special("square_sums", g.dtype, count, (g.size, g.address, sums)),
            special("clip_factor", g.dtype, 1, arguments),
        ]

    def _max_norm(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item] | None:
        w, bound = inputs
        w_step, step = w.even(1), output.even(1)
        if w_step is None or step is None:
            return None
        rows, n = w.size // w.shape[-1], w.shape[-1]
        given = w.address, w_step, w.strides[-1], bound.address
        arguments = rows, n, *given, output.address, step, output.strides[-1]
        return [special("max_norm", w.dtype, rows, arguments, COLUMNS)]

    def _softmax(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item] | None:
        n, m = output.shape[-2:]
        count = output.size // n
        arguments = [n, m, count]
        for x in (*inputs, output):
            planes = _planes(x.broadcast(output.shape))
            if planes is None:
                return None
            arguments += planes
        name = op.name.replace(" ", "_")
        return [special(name, output.dtype, -(-count // COLUMNS), arguments, COLUMNS)]

    def _product_norms(
        self, op: Operation, inputs: Sequence[View], output: View
    ) -> Sequence[Item] | None:
        lead, m = output.shape[:-1], output.shape[-1]
        δ, x = (x.broadcast((*lead, *x.shape[-2:])) for x in inputs)
        rows = output._replace(
            shape=(*lead, 1, m), strides=(*output.strides[:-1], 0, output.strides[-1])
        )
        left, right, out = (_planes(x) for x in (δ, x, rows))
        if left is None or right is None or out is None:
            return None
        address, plane, _, column = out
        arguments = [δ.shape[-2], x.shape[-2], m, output.size, *left, *right, address, plane, column]
        return [special("product_norms", δ.dtype, output.size, arguments, COLUMNS)]

    def _total_norms(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item]:
        first, *rest = (inputs[0].at(0, l) for l in range(inputs[0].shape[0]))
        sums = (ElementwiseOp("hypot", (output, x), output) for x in rest)
        return [ElementwiseOp("linear", (first,), output), *sums]

    def _column_products(self, op: Operation, inputs: Sequence[View], output: View) -> Sequence[Item]:
        # δ (…, n, m) and x (…, K, m) as (…, m, n, 1) and (…, m, 1, K)
        δ, x = (x.mT for x in inputs)
        left = View(δ.address, (*δ.shape, 1), (*δ.strides, 0), δ.dtype)
        right = View(
            x.address, (*x.shape[:-1], 1, x.shape[-1]), (*x.strides[:-1], 0, x.strides[-1]), x.dtype
        )
        return [ElementwiseOp("column products", (left, right), output)]

    def batches(self, batches: Batches, numbers: View, at: View) -> tuple[Launch, Launch] | None:
        """The kernels that load a batch and store a step's output, of the step numbers in `at`."""
        if batches.examples is None or not isinstance(batches.slots, Entries):
            return None
        arrays = batches.examples, batches.rows, batches.output, batches.slots.whole
        source, rows, output, slots = map(self._device.view, arrays)
        m, width = rows.shape
        if source.dtype != rows.dtype or source.strides[1] != 1 or rows.strides[1] != 1:
            return None
        if not (slots.contiguous and output.contiguous) or output.dtype != slots.dtype:
            return None
        gather = m, width, source.address, source.strides[0], rows.address, rows.strides[0]
        store = output.size, output.address, slots.address, slots.strides[0], at.address
        return (
            special("gather", rows.dtype, m, (*gather, numbers.address, at.address), COLUMNS),
            special("store", output.dtype, -(-output.size // THREADS), store),
        )

    def settings(self, table: Array, targets: Array, count: int, at: View) -> Launch:
        """The kernel that writes row ``at[0]`` of a table to the addresses in `targets`."""
        values, places = map(self._device.view, (table, targets))
        arguments = count, values.address, places.address, at.address
        return special("settings", values.dtype, 1, arguments, 32)


def _planes(x: View) -> list[int] | None:
    """Address and strides of evenly spaced matrices; None where they are not."""
    step = x.even(2)
    return None if step is None else [x.address, step, *x.strides[-2:]]


SPECIAL: dict[str, Callable[..., Sequence[Item] | None]] = {
    "matmul": Lowering._matmul,
    "add product": Lowering._matmul,
    "uniform": Lowering._uniform,
    "adam": Lowering._adam,
    "average": Lowering._average,
    "clip factor": Lowering._clip_factor,
    "max norm": Lowering._max_norm,
    "softmax": Lowering._softmax,
    "softmax slope": Lowering._softmax,
    "product norms": Lowering._product_norms,
    "total norms": Lowering._total_norms,
    "column products": Lowering._column_products,
}
