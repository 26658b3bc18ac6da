"""Per-example gradients: their norms, the gradients, averages of clipped ones.

The gradient ``[∂C_x/∂w ∂C_x/∂b]`` of a layer is ``δ [aᵀ 1]``, from column x of δ and a. Its norm is
``‖δ‖ ‖[a; 1]‖``: all norms follow from one backward pass without forming gradients. Scaling a column
of δ scales its example's gradient: BP3 and BP4 of scaled columns average clipped gradients.

References
----------
I. Goodfellow, Efficient per-example gradient computations, arXiv:1510.01799.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

from bpengine.backends import AnyArray, Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.backends.norms import norms
from bpengine.backprop.reduction import Mean
from bpengine.backprop.workspace import Workspace
from bpengine.model.model import Model, check_single
from bpengine.model.parameters import Gradient
from bpengine.optimizers.base import limits
from bpengine.validation import choose, positive_number

__all__ = ["KINDS", "AllGradients", "Clipped", "ExampleNorms", "Norms", "reduction"]


@dataclass(frozen=True)
class ExampleNorms:
    """Norms of the gradients of ``C_x``, one for each example x.

    Attributes
    ----------
    total : array of shape (m,)
        Norms over all weights and biases.
    layers : array of shape (L, m)
        Norms by layer.
    cost : float
        The average cost.
    """

    total: AnyArray
    layers: AnyArray
    cost: float


class PerExample(Mean):
    """Base class of reductions of ``C_x``, whose errors are not divided by the batch size."""

    def prepare(self, model: Model, workspace: Workspace) -> None:
        """As `Mean.prepare`."""
        check_single(model, "per_example")
        super().prepare(model, workspace)
        workspace.scale[...] = 1.0
        self.scale = model.backend.empty((), model.dtype)

    def errors(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """BP1 and BP2 alone."""
        return (op for op in backprop if op.equation != "BP3, BP4")


class AllGradients(PerExample):
    """The gradients of ``C_x``, with a leading axis for the examples."""

    def prepare(self, model: Model, workspace: Workspace) -> None:
        """As `Mean.prepare`."""
        super().prepare(model, workspace)
        stack = (workspace.batch_size,)
        self.gradients = self.gradient = Gradient(model.sizes, model.backend, model.dtype, stack)

    def operations(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """Errors, and the products of BP3 and BP4 column by column."""
        ws = self.workspace
        yield from self.errors(backprop)
        for δ, x, block in zip(ws.delta, ws.extended, self.gradients.blocks, strict=True):
            # BP3, BP4   [∂C_x/∂w  ∂C_x/∂b] = δ [aᵀ 1]
            yield Operation("column products", "BP3, BP4", _column_products, (δ, x), block)


class Norms(PerExample):
    """Norms of the gradients of ``C_x``; no gradient is formed."""

    def prepare(self, model: Model, workspace: Workspace) -> None:
        """As `Mean.prepare`."""
        super().prepare(model, workspace)
        self.gradient = None
        L, m = len(workspace.delta), workspace.batch_size
        self.layers = model.backend.empty((L, m), model.dtype)
        self.total = model.backend.empty((m,), model.dtype)
        self.norms = self.total, self.layers

    def operations(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """Errors and norms."""
        ws = self.workspace
        yield from self.errors(backprop)
        for l, (δ, x) in enumerate(zip(ws.delta, ws.extended, strict=True)):
            # ‖[∂C_x/∂w  ∂C_x/∂b]‖ = ‖δ‖ ‖[a; 1]‖
            yield Operation("product norms", "norms", _product_norms, (δ, x), self.layers[l, :])
        yield Operation("total norms", "norms", _total_norms, (self.layers,), self.total)


class Clipped(Norms):
    """Average of the gradients of ``C_x``, clipped to the norm c = `max_norm`, and the norms."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = positive_number(max_norm, "max_norm")

    def prepare(self, model: Model, workspace: Workspace) -> None:
        """As `Mean.prepare`."""
        super().prepare(model, workspace)
        self.gradient = self.average
        self._factors = model.backend.empty((workspace.batch_size,), model.dtype)
        self._bound = model.backend.empty((), model.dtype)
        self._bound[...] = min(self.max_norm, limits(self._bound)[1])

    def operations(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """The clipped average, plus the penalty, which is not clipped."""
        yield from self.clipped(backprop)
        yield from self.penalty()

    def clipped(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """Norms, which need the errors of all layers, clipping, then BP3 and BP4."""
        operations = list(backprop)
        yield from super().operations(operations)
        inputs = self.total, self._bound, self.scale
        yield Operation("clip factors", "clip", _clip_factors, inputs, self._factors)
        for δ in self.workspace.delta:
            # δ ← δ min(1, c / ‖∂C_x‖)
            yield Operation("scale columns", "clip", _scale_columns, (δ, self._factors), δ)
        yield from (op for op in operations if op.equation == "BP3, BP4")


KINDS: dict[str, type[Mean]] = {"norms": Norms, "gradients": AllGradients, "clip": Clipped}


def reduction(kind: str | None, max_norm: float | None) -> Mean:
    """The reduction of ``per_example=kind``."""
    if kind is None:
        raise ValueError("max_norm is a bound for per_example='clip'; give that too.")
    found = choose(kind, KINDS, "per_example")
    if (found is Clipped) == (max_norm is None):
        wanted = "needs a bound: give max_norm=" if max_norm is None else "takes no max_norm"
        raise ValueError(f"per_example={kind!r} {wanted}.")
    return found() if max_norm is None else Clipped(max_norm)


def _product_norms(δ: Array, x: Array) -> Array:
    # a root of each factor: the product of squares may overflow
    (first, units), (second, other_units) = norms(δ, axis=-2), norms(x, axis=-2)
    product = first * second / units / other_units
    return array_namespace(δ).squeeze(product, axis=-2)


def _total_norms(layers: Array) -> Array:
    # without squares of norms, which may overflow
    return reduce(array_namespace(layers).hypot, [layers[l, ...] for l in range(layers.shape[0])])


def _clip_factors(total: Array, bound: Array, scale: Array) -> Array:
    return scale * (bound / array_namespace(total).maximum(total, bound))


def _scale_columns(δ: Array, factors: Array) -> Array:
    return δ * factors


def _column_products(δ: Array, x: Array) -> Array:
    return δ.mT[..., :, None] * x.mT[..., None, :]
