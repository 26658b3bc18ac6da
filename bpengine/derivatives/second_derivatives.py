"""Second derivatives of activations and costs, for products with the Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bpengine.backends import Array
from bpengine.backends.namespace import array_namespace
from bpengine.model.activations import ACTIVATIONS, Activation, PerNeuron, Softmax
from bpengine.model.costs import COSTS, Cost

__all__ = ["cost_curvature", "slope_change"]


def slope_change(σ: Activation, g: Array, Rg: Array, Rz: Array, z: Array, a: Array) -> Array:
    """R{g ⊙ σ'(z)} from Rg and Rz; for softmax, of the Jacobian times g.

    Raises
    ------
    ValueError
        If a custom activation has no second derivative.
    """
    x = z if σ.of == "z" else a
    if isinstance(σ, Softmax):
        # δ = a ⊙ (g - Σ a g), by the product rule
        sum_ = array_namespace(a).sum
        Ra = σ.slope(Rz, a)
        mean = sum_(a * g, axis=-2, keepdims=True)
        change = sum_(Ra * g + a * Rg, axis=-2, keepdims=True)
        return Ra * (g - mean) + a * (Rg - change)
    return σ.slope(Rg, x) + g * second_derivative(σ)(x) * Rz


def second_derivative(σ: Activation) -> Callable[[Array], Array]:
    """``σ''`` of what ``σ.derivative`` takes."""
    if isinstance(σ, PerNeuron):
        return lambda x: _per_neuron(σ, x)
    if ACTIVATIONS.get(σ.name) is σ:
        return SECOND[σ.name]
    if σ.second_derivative is None:
        raise ValueError(
            f"activation {σ.name!r} has no second derivative, which the Hessian needs: give it "
            "second_derivative=, a function of what its derivative takes; or use Gauss-Newton products."
        )
    return σ.second_derivative


def cost_curvature(cost: Cost) -> Callable[[Array, Array], Array]:
    """``∂²C_x/∂a²``, output by output."""
    if COSTS.get(cost.name) is cost:
        return CURVATURE[cost.name]
    if cost.second_derivative is None:
        raise ValueError(
            f"cost {cost.name!r} has no second derivative, which curvature needs: give it "
            "second_derivative=, a function of a and y."
        )
    return cost.second_derivative


def _per_neuron(layer: PerNeuron, x: Array) -> Array:
    parts, start = [], 0
    for σ, count in layer.runs:
        part = x[..., start : start + count, :]
        parts.append(second_derivative(σ)(part if σ.of == layer.of else σ.function(part)))
        start += count
    return array_namespace(x).concat(parts, axis=-2)


def _zero(a: Array) -> Array:
    return array_namespace(a).zeros_like(a)


def _softplus(a: Array) -> Array:
    # σ' = 1 - e⁻ᵃ is a sigmoid s of z: s (1 - s)
    xp = array_namespace(a)
    return -xp.expm1(-a) * xp.exp(-a)


def _gelu(z: Array) -> Array:
    # ½ z (1 + t), t = tanh u: t' + ½ z t''; beyond ±10 it is 0 to all digits
    xp = array_namespace(z)
    z = xp.clip(z, -10.0, 10.0)
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = xp.tanh(k * (z + c * z * z * z))
    u1, u2 = k * (1 + 3 * c * z * z), 6 * k * c * z
    return (1 - t * t) * (u1 + 0.5 * z * (u2 - 2 * t * u1 * u1))


def _swish(z: Array) -> Array:
    s = ACTIVATIONS["sigmoid"].function(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


SECOND: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda a: a * (1 - a) * (1 - 2 * a),
    "tanh": lambda a: -2 * a * (1 - a * a),
    "relu": _zero,
    "leaky_relu": _zero,
    "linear": _zero,
    "softplus": _softplus,
    "exponential": lambda a: a,
    "gelu": _gelu,
    "swish": _swish,
}


def _square(a: Array) -> Array:
    xp = array_namespace(a)
    return xp.maximum(a * a, float(xp.finfo(a.dtype).smallest_normal) * xp.ones_like(a))


CURVATURE: dict[str, Callable[[Any, Any], Any]] = {
    "quadratic": lambda a, y: array_namespace(a).ones_like(a),
    "absolute_error": lambda a, y: _zero(a),
    "huber": lambda a, y: array_namespace(a).astype(array_namespace(a).abs(a - y) <= 1, a.dtype),
    "poisson": lambda a, y: y / _square(a),
    "binary_cross_entropy": lambda a, y: y / _square(a) + (1 - y) / _square(1 - a),
    "softmax_cross_entropy": lambda a, y: y / _square(a),
}
