"""Gradients of single examples: their norms, the gradients themselves, averages of clipped ones.

What example x gives to ``[∂C/∂w ∂C/∂b]`` of a layer is ``δ [aᵀ 1]`` of its own columns of δ and a. Such
a product of two vectors has the norm ``‖δ‖ ‖[a; 1]‖``: all norms follow from the errors and the
activations of one backward pass, and no gradient is formed. Scaling a column of δ scales its
example's gradient, so that BP3 and BP4 of scaled columns average clipped gradients.

References
----------
I. Goodfellow, Efficient per-example gradient computations, arXiv:1510.01799.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

from array_api_compat import array_namespace

from bpengine.backends import Array, Backend, Operation
from bpengine.backprop.workspace import Workspace
from bpengine.model.parameters import Parameters

__all__ = ["KINDS", "Clipping", "clipped", "errors", "gradients", "norms"]

KINDS = "norms", "gradients", "clip"


class Clipping:
    """Norms of per-example gradients, and the factors that bring them within a bound.

    Parameters
    ----------
    layers : int
        Layers after the input.
    batch_size : int
    backend : Backend
    dtype : str
    max_norm : float, optional
        The bound c.

    Attributes
    ----------
    layers : array of shape (L, m)
        Norm of each example's gradient, layer by layer.
    total : array of shape (m,)
        Norm of each example's gradient as one vector.
    factors : array of shape (m,)
        ``scale · min(1, c / total)``.
    scale : array of shape ()
        1/m, for the average.
    """

    def __init__(
        self, layers: int, batch_size: int, backend: Backend, dtype: str, max_norm: float | None = None
    ) -> None:
        self.layers = backend.empty((layers, batch_size), dtype)
        self.total = backend.empty((batch_size,), dtype)
        self.factors = backend.empty((batch_size,), dtype)
        self.scale, self.bound = backend.empty((), dtype), backend.empty((), dtype)
        self.scale[...] = 1 / batch_size
        self.bound[...] = max_norm or 1.0


def errors(backprop: Iterable[Operation]) -> Iterator[Operation]:
    """BP1 and BP2 alone of the operations of `equations.backprop`."""
    return (op for op in backprop if op.equation != "BP3, BP4")


def norms(workspace: Workspace, clipping: Clipping) -> Iterator[Operation]:
    """Norms of the gradients of ``C_x``, where the errors are those of ``C_x``."""
    for l, (δ, x) in enumerate(zip(workspace.delta, workspace.extended, strict=True)):
        # ‖[∂C_x/∂w  ∂C_x/∂b]‖ = ‖δ‖ ‖[a; 1]‖
        yield Operation("product norms", "norms", _product_norms, (δ, x), clipping.layers[l, :])
    yield Operation("total norms", "norms", _total_norms, (clipping.layers,), clipping.total)


def gradients(workspace: Workspace, each: Parameters) -> Iterator[Operation]:
    """The gradients of ``C_x``, one for each index of the leading axis of `each`."""
    for δ, x, block in zip(workspace.delta, workspace.extended, each.blocks, strict=True):
        # BP3, BP4   [∂C_x/∂w  ∂C_x/∂b] = δ [aᵀ 1], column by column
        yield Operation("column products", "BP3, BP4", _column_products, (δ, x), block)


def clipped(
    backprop: Iterable[Operation], workspace: Workspace, clipping: Clipping
) -> Iterator[Operation]:
    """Average of the gradients of ``C_x``, each scaled down to the bound where it is longer.

    The operations of `equations.backprop`, with the products of BP3 and BP4 after all of BP2: errors
    have to be known in every layer before an example's norm is.
    """
    operations = list(backprop)
    yield from errors(operations)
    yield from norms(workspace, clipping)
    inputs = clipping.total, clipping.bound, clipping.scale
    yield Operation("clip factors", "clip", _clip_factors, inputs, clipping.factors)
    for δ in workspace.delta:
        # δ ← δ min(1, c / ‖∂C_x‖)
        yield Operation("scale columns", "clip", _scale_columns, (δ, clipping.factors), δ)
    yield from (op for op in operations if op.equation == "BP3, BP4")


def _product_norms(δ: Array, x: Array) -> Array:
    # each root on its own: the product of two squares leaves the range sooner
    xp = array_namespace(δ)
    return xp.sqrt(xp.sum(δ * δ, axis=-2)) * xp.sqrt(xp.sum(x * x, axis=-2))


def _total_norms(layers: Array) -> Array:
    # without squares of norms, which leave the range where norms do not
    return reduce(array_namespace(layers).hypot, [layers[l, ...] for l in range(layers.shape[0])])


def _clip_factors(total: Array, bound: Array, scale: Array) -> Array:
    return scale * (bound / array_namespace(total).maximum(total, bound))


def _scale_columns(δ: Array, factors: Array) -> Array:
    return δ * factors


def _column_products(δ: Array, x: Array) -> Array:
    return δ.mT[..., :, None] * x.mT[..., None, :]
