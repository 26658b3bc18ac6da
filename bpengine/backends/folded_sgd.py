"""Plain gradient descent folded into the products of BP3 and BP4.

With β = 1 in C ← α A B + β C, the gradient's product adds itself to the parameters: there is then no
gradient array and no update pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from bpengine.backends.namespace import array_namespace
from bpengine.backends.operation import Array, Operation, size

__all__ = ["Layout", "fold"]


class Layout(ABC):
    """What `fold` needs to know of a library's arrays: their memory layout."""

    @abstractmethod
    def bounds(self, x: Array) -> tuple[int, int]:
        """Address of the first byte, and of the first one after the last."""

    @abstractmethod
    def scalar(self, value: float, like: Array) -> Array:
        """An array of shape () of the dtype, and on the device, of `like`."""

    @abstractmethod
    def readable(self, x: Array) -> bool:
        """Whether a product can read x without a copy."""

    def within(self, x: Array, whole: Array) -> bool:
        """Whether x is in the memory of `whole`."""
        (low, high), (start, end) = self.bounds(x), self.bounds(whole)
        return start <= low and high <= end

    def overlap(self, x: Array, y: Array) -> bool:
        """Whether the two may have memory in common."""
        (low, high), (start, end) = self.bounds(x), self.bounds(y)
        return start < high and low < end

    def corresponding(self, x: Array, whole: Array, other: Array) -> Array:
        """The part of `other` at the offset that x, contiguous, has in `whole`."""
        start, end = self.bounds(whole)
        itemsize = (end - start) // int(whole.shape[0])
        offset = (self.bounds(x)[0] - start) // itemsize
        xp = array_namespace(other)
        return xp.reshape(other[offset : offset + math.prod(x.shape)], x.shape, copy=False)


def fold(operations: Sequence[Operation], layout: Layout) -> dict[int, list[Operation]]:
    """Operations by which the products of BP3 and BP4 add themselves to parameters, or to a velocity.

    θ ← θ - η ∇C, or v ← μ v - η ∇C and then θ ← θ + v, with l2 penalties and decay where there are any.

    Parameters
    ----------
    operations : sequence of Operation
        A step. Nothing is folded unless it has a "descend" or a "momentum", all of the gradient comes
        from plain products and l2 penalties, and what a product is added to is not read again. In a
        stack only the first layer's product is folded, where the networks share their inputs.
    layout : Layout
        Of the library whose arrays they are.

    Returns
    -------
    dict
        By index into `operations`, what replaces the operation; empty where nothing can be folded. "add
        product" is c ← β c + scale · a b, of a, b, c, scale and β; "reverse difference" is y - a,
        "shrink" w ← w - factor · x, "add" θ ← θ + v.
    """
    at = next((i for i, op in enumerate(operations) if op.name in ("descend", "momentum")), None)
    if at is None:
        return {}
    step, rule = operations[:at], operations[at]
    parameters, gradient = rule.inputs[:2]
    target, β = parameters, layout.scalar(1.0, parameters)
    of_rule: list[Operation] = []
    if rule.name == "momentum":
        target, β = rule.inputs[2:]
        of_rule = [Operation("add", rule.equation, np.add, (parameters, target), parameters)]
    products = {i: op for i, op in enumerate(step) if layout.within(op.output, gradient)}
    if any(op.name == "matmul" and op.output.ndim > 2 for op in products.values()):
        return _fold_first(step, products, rule, layout)
    shrinking = {i: products.pop(i) for i in list(products) if products[i].name == "l2"}
    shrinking |= {i: op for i, op in enumerate(step) if op.name == "decay" and target is parameters}
    if len({op.name for op in shrinking.values()}) > 1:
        return {}
    if any(op.name != "matmul" or op.output.ndim != 2 for op in products.values()):
        return {}
    if sum(size(op.output) for op in products.values()) != size(gradient):
        return {}
    scale, folded = _lift_scale(step, layout)
    for i, op in products.items():
        block, weights = (layout.corresponding(op.output, gradient, x) for x in (target, parameters))
        later = (other for j, other in enumerate(step) if j > i and j not in shrinking)
        if not all(map(layout.readable, op.inputs)) or any(
            layout.overlap(x, block) for other in later for x in other.inputs
        ):
            return {}
        inputs = *op.inputs, block, scale, β
        folded[i] = [Operation("add product", op.equation, _add_product, inputs, block)]
        for j, other in shrinking.items():
            if layout.within(other.inputs[-2], weights):
                # of w before the step: a product that writes to w comes after
                first = folded[i] if target is parameters else folded.setdefault(j, [])
                first[:0] = [_shrinking(other, block)]
                folded.setdefault(j, [])
    return {**folded, at: of_rule}


def _fold_first(
    step: Sequence[Operation], products: dict[int, Operation], rule: Operation, layout: Layout
) -> dict[int, list[Operation]]:
    """`fold` for a stack: only its first layer, which has most of the parameters."""
    parameters, gradient = rule.inputs[:2]
    i, first = list(products.items())[-1]
    if rule.name != "descend" or any(op.name != "matmul" for op in products.values()):
        return {}
    if first.output.ndim != 2 or not all(map(layout.readable, first.inputs)):
        return {}
    block, n = layout.corresponding(first.output, gradient, parameters), size(first.output)
    if any(layout.overlap(x, block) for op in step[i + 1 :] for x in op.inputs):
        return {}
    inputs = *first.inputs, block, layout.scalar(-1.0, block), layout.scalar(1.0, block)
    rest = parameters[n:], gradient[n:]
    return {
        i: [Operation("add product", first.equation, _add_product, inputs, block)],
        len(step): [Operation(rule.name, rule.equation, rule.expression, rest, rest[0])],
    }


def _shrinking(op: Operation, block: Array) -> Operation:
    """A "decay" as it is; for an "l2" the "shrink" of `block` that replaces it."""
    if op.name == "decay":
        return op
    w, factor = op.inputs[-2:]
    # with the axis of a stack, whose networks' product is one
    xp = array_namespace(block)
    target = xp.reshape(block, (*w.shape[:-1], -1), copy=False)[..., : w.shape[-1]]
    return Operation("shrink", op.equation, _shrink, (target, w, factor), target)


def _lift_scale(step: Sequence[Operation], layout: Layout) -> tuple[Array, dict[int, list[Operation]]]:
    """Take the scale out of the output error, where everything after it is linear in it.

    The error is then y - a, of the opposite sign, and the products are multiplied by the scale, not
    by -1.
    """
    linear = ("matmul", "dropout", "l2", "decay")
    for i, op in enumerate(step):
        if op.name == "difference":
            a, y, scale = op.inputs
            rest = (x.name for x in step[i + 1 :])
            if scale.ndim or any(x not in linear and not x.endswith(" slope") for x in rest):
                break
            return scale, {
                i: [Operation("reverse difference", op.equation, np.subtract, (y, a), op.output)]
            }
    return layout.scalar(-1.0, step[-1].output), {}


def _add_product(a: Array, b: Array, c: Array, scale: Array, β: Array) -> Array:
    return β * c + scale * (a @ b)


def _shrink(target: Array, w: Array, factor: Array) -> Array:
    return target - factor * w
