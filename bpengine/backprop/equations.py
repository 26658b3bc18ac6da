"""Backpropagation over a batch: the four equations in matrix form, with examples as columns.

Layers after the input are counted from 0: `W[l]` is ``[w b]`` of layer l, `a[l]`, `z[l]` and `δ[l]`
are (n_l, m), and `x[l]`, the input of layer l, is ``[a; 1]`` of the layer before it. A leading axis is a
stack of networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.backprop.workspace import Workspace
from bpengine.model.activations import Activation
from bpengine.model.costs import Cost
from bpengine.model.parameters import Parameters

__all__ = ["backprop", "feedforward"]


def feedforward(
    parameters: Parameters, activations: Sequence[Activation], workspace: Workspace
) -> Iterator[Operation]:
    """Weighted inputs and activations; z of the first layer is there if there are no rows."""
    W, x, z, a = parameters.blocks, workspace.extended, workspace.z, workspace.a
    for l, σ in enumerate(activations):
        if l > 0 or x[0] is not None:
            yield from workspace.drop(l)  # with dropout: a ← a ⊙ mask
            # z = w a + b = [w b] [a; 1]
            yield product("feedforward", W[l], x[l], z[l])
        # a = σ(z)
        yield from σ.forward(z[l], a[l])


def backprop(
    parameters: Parameters,
    activations: Sequence[Activation],
    cost: Cost,
    workspace: Workspace,
    gradient: Parameters,
) -> Iterator[Operation]:
    """Errors from the last layer to the first, and the gradient of the average cost."""
    w, x, z, a = parameters.weights, workspace.extended, workspace.z, workspace.a
    δ, y, σ = workspace.delta, workspace.targets, activations
    L = len(activations) - 1
    # BP1   δ[L] = ∇_a C ⊙ σ'(z[L]), where C is the average over the batch
    yield from workspace.weigh()
    yield from cost.output_error(σ[L], z[L], a[L], y, workspace.example_scale, δ[L])
    for l in range(L, -1, -1):
        if l > 0:
            # BP2   δ[l-1] = (w[l]ᵀ δ[l]) ⊙ σ'(z[l-1])
            yield product("BP2", w[l].mT, δ[l], δ[l - 1])
            yield from workspace.dropout.backward(l, δ[l - 1])
            yield from σ[l - 1].backward("BP2", δ[l - 1], z[l - 1], a[l - 1], δ[l - 1])
        # BP3, BP4   [∂C/∂w  ∂C/∂b] = δ [aᵀ 1], summed over the batch by the product
        yield product("BP3, BP4", δ[l], x[l].mT, gradient.blocks[l])


def product(equation: str, a: Array, b: Array, out: Array) -> Operation:
    """The matrix product a b over the last two axes; a single one where a stack shares b."""
    if a.ndim > b.ndim:
        reshape = array_namespace(a).reshape
        a, out = (reshape(x, (-1, x.shape[-1]), copy=False) for x in (a, out))
    return Operation("matmul", equation, _matmul, (a, b), out)


def _matmul(a: Array, b: Array) -> Array:
    return a @ b
