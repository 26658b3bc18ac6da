"""Reductions of the gradients of a batch's examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend, Operation, Program
from bpengine.backprop.workspace import Workspace
from bpengine.model.model import Model
from bpengine.model.parameters import Gradient
from bpengine.optimizers.update import scalar_writes

__all__ = ["Mean"]


class Mean:
    """The gradient of the average cost, with that of the penalty; base class of all reductions.

    A reduction defines the operations of backprop and around the update, their scalars, and how they are
    compiled. A plan calls `prepare`, which creates the buffers, on a copy.

    Attributes
    ----------
    examples : float
        The divisor of the sum over examples: the batch size, unless ranks sum their gradients or
        batches differ in size.
    scale : array of shape () or (P, 1, 1)
        ``1/examples`` times the factor of the gradient.
    average : Gradient
        The result of BP3 and BP4.
    gradient : Gradient or None
        `average`, or another result; None if no gradient is formed.
    norms : tuple of arrays of shape (m,) and (L, m), or None
        Norms of the examples' gradients, over all layers and layer by layer.
    """

    norms: tuple[Array, Array] | None = None

    def prepare(self, model: Model, workspace: Workspace) -> None:
        """Create the buffers for batches of `workspace`."""
        self.model, self.workspace = model, workspace
        self.examples: float = workspace.batch_size
        self.scale = workspace.scale
        self.average = Gradient(model.sizes, model.backend, model.dtype, model.stack)
        self.gradient: Gradient | None = self.average
        per_network = self.scale.ndim or any(map(np.ndim, (model.l1, model.l2)))
        shape = (2, *model.stack, 1, 1) if per_network else (2,)
        self.penalty_coefficients = model.backend.empty(shape, model.dtype)

    def operations(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """Operations of `equations.backprop` and of the reduction."""
        yield from backprop
        yield from self.penalty()

    def penalty(self) -> Iterator[Operation]:
        """Operations that add the penalty's gradient to the average."""
        model = self.model
        return model.penalty.operations(model.parameters, self.average, self.penalty_coefficients)

    def update(self, update: Iterable[Operation]) -> Iterable[Operation]:
        """Operations of the optimizer's update and of the reduction."""
        return update

    def scalars(self, factor: Any) -> Iterator[tuple[Array, float]]:
        """Arrays of scalars, and their values if the gradient is multiplied by `factor`, 1 or η."""
        yield from scalar_writes(self.scale, np.divide(factor, self.examples))
        for i, strength in enumerate((self.model.l1, self.model.l2)):
            yield from scalar_writes(self.penalty_coefficients[i, ...], np.multiply(factor, strength))

    def compile(self, operations: Sequence[Operation], backend: Backend) -> Program:
        """The program of all operations of a step."""
        return backend.compile(operations)
