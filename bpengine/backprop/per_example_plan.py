"""Per-example gradients of a network: recorded as a plan, in one go, or in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import SupportsIndex

from bpengine.backends import Array, Operation
from bpengine.backprop import per_example
from bpengine.backprop.per_example import KINDS, Clipping
from bpengine.backprop.plan import Plan
from bpengine.model.model import Model, check_single
from bpengine.model.parameters import Gradient
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.update import State
from bpengine.validation import choose, positive_number

__all__ = ["ExampleNorms", "PerExamplePlan", "given"]


@dataclass(frozen=True)
class ExampleNorms:
    """Norms of the gradients of ``C_x``, one for each example x.

    Attributes
    ----------
    total : array of shape (m,)
        Norm over all weights and biases.
    layers : array of shape (L, m)
        Norm over the weights and biases of one layer after the input.
    cost : float
        The average cost, as of `Gradient`.
    """

    total: Array
    layers: Array
    cost: float


class PerExamplePlan(Plan):
    """What single examples give to a gradient, recorded for one batch size.

    Made by `Network.plan` with ``per_example=``.

    Parameters
    ----------
    network : Network
    batch_size : int
    kind : {"norms", "gradients", "clip"}
    max_norm : float, optional
        With "clip": the greatest norm that an example's gradient keeps.
    optimizer, state, weighted
        As for `Plan`; an optimizer, with "clip", moves along the average of clipped gradients.

    Notes
    -----
    Penalties on the weights are the same whatever the examples are. They are not part of the gradient
    of ``C_x``; an average of clipped gradients has theirs added, unclipped.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> net = bp.Network([784, 30, 10], rng=0)
    >>> plan = net.plan(batch_size=10, per_example="norms")
    >>> plan.counts["matmul"], net.plan(batch_size=10).counts["matmul"]
    (3, 5)
    >>> plan.load(np.ones((784, 10)), np.zeros((10, 10)))
    >>> plan.run().norms.total.shape
    (10,)
    """

    def __init__(
        self,
        network: Model,
        batch_size: SupportsIndex,
        kind: str,
        max_norm: float | None = None,
        optimizer: Optimizer | None = None,
        *,
        state: State | None = None,
        weighted: bool = False,
    ) -> None:
        check_single(network, "per_example")
        self.kind = choose(kind, {kind: kind for kind in KINDS}, "per_example")
        self.max_norm = checked_bound(self.kind, max_norm)
        if optimizer is not None and kind != "clip":
            raise ValueError(
                f"per_example={kind!r} makes no gradient to move along: leave the optimizer out."
            )
        super().__init__(network, batch_size, optimizer, state=state, weighted=weighted)

    def _backward(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        net, ws, m = self.network, self.workspace, self.batch_size
        self._clipping = Clipping(len(ws.delta), m, net.backend, net.dtype, self.max_norm)
        if self.kind == "clip":
            yield from super()._backward(self._clipped(backprop))
            return
        yield from per_example.errors(backprop)
        if self.kind == "norms":
            yield from per_example.norms(ws, self._clipping)
        else:
            self._each = Gradient(net.sizes, net.backend, net.dtype, stack=(m,))
            yield from per_example.gradients(ws, self._each)

    def _clipped(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        return per_example.clipped(backprop, self.workspace, self._clipping)

    def _units(self, unit: float) -> Iterator[tuple[Array, float]]:
        # errors are those of C_x; what scales an average comes in with the clipping
        for array, value in super()._units(unit):
            yield array, 1.0 if array is self.workspace.scale else value
        yield self._clipping.scale, unit / self.batch_size

    @property
    def norms(self) -> ExampleNorms:
        """Norms of the loaded batch's examples, before clipping; buffers that the next step rewrites.

        Raises
        ------
        ValueError
            For "gradients", which takes no norms, or if no step has run on the loaded batch.
        """
        if self.kind == "gradients":
            raise ValueError("this plan takes gradients; make one with per_example='norms'.")
        return ExampleNorms(self._clipping.total, self._clipping.layers, self.cost)

    @property
    def gradient(self) -> Gradient:
        """Average of clipped gradients; or all gradients, with a leading axis for the examples.

        Raises
        ------
        ValueError
            For "norms", which forms no gradient, and as for `Plan`.
        """
        if self.kind == "norms":
            raise ValueError("this plan takes norms and forms no gradient: see plan.norms.")
        if self.kind == "clip":
            return super().gradient
        self._each.cost = self.cost
        return self._each


def checked_bound(kind: str, max_norm: float | None) -> float | None:
    """The bound that "clip" needs and the others do not take."""
    if (kind == "clip") == (max_norm is None):
        wanted = "needs a bound: give max_norm=" if max_norm is None else "takes no max_norm"
        raise ValueError(f"per_example={kind!r} {wanted}.")
    return None if max_norm is None else positive_number(max_norm, "max_norm")


def given(kind: str | None) -> str:
    """The kind, where a bound has been given."""
    if kind is None:
        raise ValueError("max_norm is a bound for per_example='clip'; give that too.")
    return kind
