"""Activation functions σ, their slopes σ', and the operations of a layer.

The expressions use array-API functions. A backend's in-place kernels of the same names are tested
against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any, Literal

from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.validation import check_function, check_instance, choose, interval

__all__ = ["ACTIVATIONS", "Activation", "ActivationLike", "PerNeuron", "per_layer", "resolve"]


@dataclass(frozen=True, repr=False)
class Activation:
    """An activation function σ and its slope.

    Parameters
    ----------
    name : str
        Its name in messages, plans and files.
    function : callable
        ``a = σ(z)``, elementwise, on arrays of any shape.
    derivative : callable
        ``σ'``, elementwise, as a function of z or of a.
    of : {"z", "a"}, optional
        What `derivative` takes: the weighted input z, or the activation a = σ(z).
    range : tuple of float, optional
        The least and the greatest value that σ can take.
    second_derivative : callable, optional
        ``σ''``, with the argument of `derivative`; used by `Curvature` only.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> sine = bp.Activation("sine", np.sin, np.cos)
    >>> net = bp.Network([2, 3, 1], activations=[sine, "linear"], dtype="float64", rng=0)
    >>> bp.check_gradient(net, np.ones((2, 4)), np.ones((1, 4))).passed
    True
    """

    name: str
    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    of: Literal["z", "a"] = "z"
    range: tuple[float, float] = (-math.inf, math.inf)
    second_derivative: Callable[[Array], Array] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_instance(self.name, str, "name", "a str")
        check_function(self.function, "function", "numpy.sin")
        check_function(self.derivative, "derivative", "numpy.cos")
        if self.second_derivative is not None:
            check_function(self.second_derivative, "second_derivative", "numpy.sin")
        choose(self.of, {"z": None, "a": None}, "of")
        object.__setattr__(self, "range", interval(self.range, "range"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def slope(self, upstream: Array, x: Array) -> Array:
        """``upstream ⊙ σ'``, where x is z or a according to `of`."""
        return upstream * self.derivative(x)

    @property
    def operation(self) -> str:
        """Name of its operations; backends have kernels for built-in names only."""
        return self.name if ACTIVATIONS.get(self.name) is self else f"custom {self.name}"

    def forward(self, z: Array, a: Array) -> Iterator[Operation]:
        """Operations for a = σ(z)."""
        yield Operation(self.operation, "feedforward", self.function, (z,), a)

    def backward(
        self, equation: str, upstream: Array, z: Array, a: Array, delta: Array
    ) -> Iterator[Operation]:
        """Operations for δ = upstream ⊙ σ', from z or a according to `of`."""
        inputs = (upstream, z if self.of == "z" else a)
        yield Operation(f"{self.operation} slope", equation, self.slope, inputs, delta)

    def __reduce__(self) -> tuple[Any, ...]:
        if ACTIVATIONS.get(self.name) is self:
            return resolve, (self.name,)
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


class Softmax(Activation):
    """a_j = e^{z_j} / Σ_k e^{z_k}: each activation depends on all weighted inputs of the layer."""

    def slope(self, upstream: Array, x: Array) -> Array:
        """``δ_j = a_j (g_j - Σ_k a_k g_k)`` for g = upstream: the Jacobian's product."""
        xp = array_namespace(x)
        return x * (upstream - xp.sum(upstream * x, axis=-2, keepdims=True))


class PerNeuron(Activation):
    """A layer whose neurons have different activations.

    Parameters
    ----------
    activations : sequence of str or Activation
        One for each neuron of the layer, in order; not softmax, a function of the whole layer.

    Examples
    --------
    >>> import bpengine as bp
    >>> net = bp.Network([2, 3, 1], activations=[["sigmoid", "tanh", "tanh"], "linear"], rng=0)
    >>> net.activations[0].name
    'sigmoid, 2 tanh'
    """

    def __init__(self, activations: Sequence[str | Activation]) -> None:
        members = [resolve(activation) for activation in activations]
        for member in members:
            if isinstance(member, (Softmax, PerNeuron)):
                raise ValueError(
                    f"activation {member.name!r} is for a whole layer; a single neuron takes an "
                    "elementwise one such as 'sigmoid'."
                )
        runs = [(member, len(list(run))) for member, run in groupby(members)]
        object.__setattr__(self, "members", tuple(members))
        object.__setattr__(self, "runs", runs)
        name = ", ".join(f"{n} {member.name}" if n > 1 else member.name for member, n in runs)
        low = min((member.range[0] for member in members), default=0.0)
        high = max((member.range[1] for member in members), default=0.0)
        of: Literal["z", "a"] = "z" if any(member.of == "z" for member in members) else "a"
        super().__init__(name, self._function, self._derivative, of, (low, high))

    members: tuple[Activation, ...]
    runs: list[tuple[Activation, int]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerNeuron) and self.members == other.members

    def __hash__(self) -> int:
        return hash(self.members)

    def slices(self) -> Iterator[tuple[Activation, slice]]:
        """Runs of equal activations, and their rows."""
        start = 0
        for member, n in self.runs:
            yield member, slice(start, start + n)
            start += n

    def _function(self, z: Array) -> Array:
        xp = array_namespace(z)
        return xp.concat([σ.function(z[..., rows, :]) for σ, rows in self.slices()], axis=-2)

    def _derivative(self, x: Array) -> Array:
        parts = []
        for σ, rows in self.slices():
            part = x[..., rows, :]
            parts.append(σ.derivative(part if σ.of == self.of else σ.function(part)))
        return array_namespace(x).concat(parts, axis=-2)

    def forward(self, z: Array, a: Array) -> Iterator[Operation]:
        """Operations for a = σ(z), one for each run of equal activations."""
        for σ, rows in self.slices():
            yield from σ.forward(z[..., rows, :], a[..., rows, :])

    def backward(
        self, equation: str, upstream: Array, z: Array, a: Array, delta: Array
    ) -> Iterator[Operation]:
        """Operations for δ = upstream ⊙ σ', one for each run of equal activations."""
        for σ, rows in self.slices():
            parts = (x[..., rows, :] for x in (upstream, z, a, delta))
            yield from σ.backward(equation, *parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return PerNeuron, (list(self.members),)


def _sigmoid(z: Array) -> Array:
    # 1 / (1 + e⁻ᶻ) for z ≥ 0 and eᶻ / (1 + eᶻ) for z < 0: no exponent is positive
    xp = array_namespace(z)
    e = xp.exp(-xp.abs(z))
    return xp.where(z >= 0, xp.ones_like(z), e) / (1 + e)


def _product(a: Array) -> Array:
    return a * (1 - a)


def _sigmoid_second(a: Array) -> Array:
    return a * (1 - a) * (1 - 2 * a)


def _tanh(z: Array) -> Array:
    return array_namespace(z).tanh(z)


def _tanh_derivative(a: Array) -> Array:
    return 1 - a * a


def _tanh_second(a: Array) -> Array:
    return -2 * a * (1 - a * a)


def _relu(z: Array) -> Array:
    xp = array_namespace(z)
    return xp.maximum(z, xp.zeros_like(z))


def _relu_derivative(a: Array) -> Array:
    return array_namespace(a).sign(a)


def _leaky_relu(z: Array) -> Array:
    return array_namespace(z).maximum(z, 0.01 * z)


def _leaky_relu_derivative(a: Array) -> Array:
    # sign(a) = sign(z); NaN propagates
    xp = array_namespace(a)
    return xp.maximum(xp.sign(a), 0.01 * xp.ones_like(a))


def _same(z: Array) -> Array:
    return z


def _one(a: Array) -> Array:
    return array_namespace(a).ones_like(a)


def _zero(a: Array) -> Array:
    return array_namespace(a).zeros_like(a)


def _softmax(z: Array) -> Array:
    # shifted so that the greatest exponent is 0
    xp = array_namespace(z)
    e = xp.exp(z - xp.max(z, axis=-2, keepdims=True))
    return e / xp.sum(e, axis=-2, keepdims=True)


def _softplus(z: Array) -> Array:
    # log(1 + eᶻ) = max(z, 0) + log(1 + e^{-|z|})
    xp = array_namespace(z)
    return xp.maximum(z, xp.zeros_like(z)) + xp.log1p(xp.exp(-xp.abs(z)))


def _softplus_derivative(a: Array) -> Array:
    # σ(z) = 1 - e⁻ᵃ
    return -array_namespace(a).expm1(-a)


def _softplus_second(a: Array) -> Array:
    # s (1 - s) for the sigmoid s = 1 - e⁻ᵃ
    return _softplus_derivative(a) * array_namespace(a).exp(-a)


def _exponential(z: Array) -> Array:
    # overflow gives inf: clipping would hide divergence
    return array_namespace(z).exp(z)


def _gelu_tanh(z: Array) -> Array:
    return array_namespace(z).tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z))


def _gelu(z: Array) -> Array:
    # the tanh form of Hendrycks and Gimpel, arXiv:1606.08415
    return 0.5 * z * (1 + _gelu_tanh(z))


def _gelu_derivative(z: Array) -> Array:
    # beyond ±10 the slope is 1 or 0 to all digits; clipping avoids overflow of z²
    z = array_namespace(z).clip(z, -10.0, 10.0)
    t = _gelu_tanh(z)
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner


def _gelu_second(z: Array) -> Array:
    # ½ z (1 + t), t = tanh u: t' + ½ z t''; beyond ±10 it is 0 to all digits
    z = array_namespace(z).clip(z, -10.0, 10.0)
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = _gelu_tanh(z)
    u1, u2 = k * (1 + 3 * c * z * z), 6 * k * c * z
    return (1 - t * t) * (u1 + 0.5 * z * (u2 - 2 * t * u1 * u1))


def _swish(z: Array) -> Array:
    return z * _sigmoid(z)


def _swish_derivative(z: Array) -> Array:
    s = _sigmoid(z)
    return s * (1 + z * (1 - s))


def _swish_second(z: Array) -> Array:
    s = _sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


# functions with names, by which some formats store them
ACTIVATIONS: dict[str, Activation] = {
    σ.name: σ
    for σ in (
        Activation("sigmoid", _sigmoid, _product, "a", (0, 1), _sigmoid_second),
        Activation("tanh", _tanh, _tanh_derivative, "a", (-1, 1), _tanh_second),
        Activation("relu", _relu, _relu_derivative, "a", (0, math.inf), _zero),
        Activation("leaky_relu", _leaky_relu, _leaky_relu_derivative, "a", second_derivative=_zero),
        Activation("linear", _same, _one, "a", second_derivative=_zero),
        Softmax("softmax", _softmax, _product, "a", (0, 1)),
        Activation("softplus", _softplus, _softplus_derivative, "a", (0, math.inf), _softplus_second),
        Activation("exponential", _exponential, _same, "a", (0, math.inf), _same),
        Activation("gelu", _gelu, _gelu_derivative, second_derivative=_gelu_second),
        Activation("swish", _swish, _swish_derivative, second_derivative=_swish_second),
    )
}


SYNONYMS = {"logistic": "sigmoid", "identity": "linear"}


def resolve(activation: str | Activation | Sequence[str | Activation]) -> Activation:
    """The activation of a name; a list with one for each neuron gives a `PerNeuron`."""
    if isinstance(activation, Activation):
        found = ACTIVATIONS.get(activation.name, activation)
        if found != activation:
            raise ValueError(
                f"activation {activation.name!r} is built in; give a custom one another name."
            )
        return found  # the built-in one also for a copy of it
    if isinstance(activation, (list, tuple)):
        return PerNeuron(activation)
    name = SYNONYMS.get(activation, activation) if isinstance(activation, str) else activation
    return choose(name, ACTIVATIONS, "activation")


ActivationLike = str | Activation | Sequence[str | Activation]


def per_layer(
    activations: ActivationLike | Sequence[ActivationLike], sizes: Sequence[int]
) -> tuple[Activation, ...]:
    """One activation per layer after the input, from one for all or a list."""
    layers = len(sizes) - 1
    if isinstance(activations, (str, Activation)):
        return (resolve(activations),) * layers
    if not isinstance(activations, Sequence):
        raise TypeError(
            f"activations must be a name such as 'sigmoid', an Activation, or a list with one per "
            f"layer, got {type(activations).__name__} {activations!r:.80}."
        )
    resolved = tuple(resolve(σ) for σ in activations)
    if len(resolved) != layers:
        raise ValueError(
            f"activations has {len(resolved)} entries; a network of sizes {list(sizes)} takes "
            f"{layers}, one per layer after the input."
        )
    for σ, n in zip(resolved, sizes[1:], strict=True):
        if isinstance(σ, PerNeuron) and len(σ.members) != n:
            raise ValueError(f"a layer of {n} neurons takes {n} activations, got {len(σ.members)}.")
    # equal activations throughout: an ordinary layer
    return tuple(σ.members[0] if isinstance(σ, PerNeuron) and len(σ.runs) == 1 else σ for σ in resolved)
