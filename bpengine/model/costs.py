"""Costs: averages over examples of functions of the output activations, C = (1/m) Σ_x C_x.

Built in, by name, each with its ``C_x`` as a sum over the outputs:

- quadratic: ``½ (a - y)²``.
- absolute_error: ``|a - y|``.
- huber: ``½ r²`` up to ``r = |a - y| = 1`` and ``r - ½`` beyond.
- poisson: ``a - y log a``, the negative Poisson log-likelihood of the mean a, without its constant.
- binary_cross_entropy: ``-y log a - (1 - y) log(1 - a)``.
- softmax_cross_entropy: ``-y log a``, the log-likelihood of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.model.activations import ACTIVATIONS, Activation
from bpengine.validation import check_function, check_instance, choose, flag, interval

__all__ = ["COSTS", "Cost", "resolve"]


@dataclass(frozen=True, repr=False)
class Cost:
    """A cost that is an average over examples and a function of the output activations.

    Parameters
    ----------
    name : str
        Its name in messages, plans and files.
    function : callable
        ``C_x`` from the activations a and the targets y, both (…, n_L, m): shape (…, m).
    derivative : callable
        ``∇_a C_x`` from a and y: shape (…, n_L, m).
    canonical : str, optional
        Name of the output activation for which the output error is a - y.
    function_of_z : callable, optional
        ``C_x`` from z and y with the canonical activation, in a numerically stable form.
    classification : bool, optional
        Whether targets may be given as integer labels.
    within : tuple of float, optional
        The least and greatest output activation and target that the cost is defined for.
    second_derivative : callable, optional
        ``∂²C_x/∂a_j²`` from a and y, shape (…, n_L, m), of a cost that is a sum over outputs j;
        used by `Curvature` only.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> quartic = bp.Cost(
    ...     "quartic",
    ...     lambda a, y: ((a - y) ** 4).sum(axis=-2),
    ...     lambda a, y: 4 * (a - y) ** 3,
    ... )
    >>> net = bp.Network([2, 3, 1], cost=quartic, dtype="float64", rng=0)
    >>> bp.check_gradient(net, np.ones((2, 4)), np.ones((1, 4))).passed
    True
    """

    name: str
    function: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array]
    canonical: str | None = None
    function_of_z: Callable[[Array, Array], Array] | None = None
    classification: bool = False
    within: tuple[float, float] = (-math.inf, math.inf)
    second_derivative: Callable[[Array, Array], Array] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_instance(self.name, str, "name", "a str")
        for name in ("function", "derivative", "function_of_z", "second_derivative"):
            function = getattr(self, name)
            if function is not None or name in ("function", "derivative"):
                check_function(function, name, "one of a and y")
        if self.canonical is not None:
            choose(self.canonical, ACTIVATIONS, "canonical activation")
        object.__setattr__(self, "classification", flag(self.classification, "classification"))
        object.__setattr__(self, "within", interval(self.within, "within"))

    def __reduce__(self) -> tuple[Any, ...]:
        if COSTS.get(self.name) is self:
            return resolve, (self.name,)
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def operation(self) -> str:
        """Name of its operations; backends have kernels for built-in names only."""
        return self.name if COSTS.get(self.name) is self else f"custom {self.name}"

    def is_canonical(self, σ: Activation) -> bool:
        """Whether the output error with the output activation σ is a - y."""
        return self.canonical is not None and ACTIVATIONS[self.canonical] is σ

    def is_of_z(self, σ: Activation) -> bool:
        """Whether the cost of outputs a = σ(z) is computed from z."""
        return self.function_of_z is not None and self.is_canonical(σ)

    def per_example(self, σ: Activation, z: Array, a: Array, y: Array) -> Array:
        """``C_x`` for every column, shape (…, m); reads z if `is_of_z`, else a."""
        if self.function_of_z is not None and self.is_of_z(σ):
            return self.function_of_z(z, y)
        values = self.function(a, y)
        expected = (*a.shape[:-2], a.shape[-1])
        if tuple(getattr(values, "shape", ())) != expected:
            raise ValueError(
                f"cost {self.name!r} gave shape {tuple(getattr(values, 'shape', ()))} for outputs of "
                f"shape {tuple(a.shape)}, expected {expected}: one cost for each example, of every "
                "batch where there are several. Sum over axis -2, the outputs."
            )
        return values

    def scaled_derivative(self, a: Array, y: Array, scale: Array) -> Array:
        """``scale ∇_a C_x``."""
        return self.derivative(a, y) * scale

    def output_error(
        self, σ: Activation, z: Array, a: Array, y: Array, scale: Array, delta: Array
    ) -> Iterator[Operation]:
        """Operations for BP1, δ[L] = scale · ∇_a C ⊙ σ'(z[L])."""
        if self.is_canonical(σ):
            yield Operation("difference", "BP1", _difference, (a, y, scale), delta)
            return
        name = "difference" if self is COSTS["quadratic"] else f"{self.operation} slope"
        yield Operation(name, "BP1", self.scaled_derivative, (a, y, scale), delta)
        yield from σ.backward("BP1", delta, z, a, delta)

    def check(self, σ: Activation, outputs: int) -> None:
        """Raise ValueError if outputs of the activation σ can leave the cost's domain."""
        if self.name == "softmax_cross_entropy" and not self.is_canonical(σ):
            raise ValueError(
                f"cost 'softmax_cross_entropy' needs a softmax output layer; the last activation is "
                f"{σ.name!r}. Use activations=[…, 'softmax'], or cost='binary_cross_entropy'."
            )
        if self.canonical == "softmax" and outputs == 1:
            raise ValueError(
                f"cost {self.name!r} with one output is always 0: its softmax is always 1. Use two "
                "outputs, or one with 'sigmoid' and cost='binary_cross_entropy'."
            )
        if σ.range[0] < self.within[0] or σ.range[1] > self.within[1]:
            fits = "one that fits" if self.canonical is None else repr(self.canonical)
            raise ValueError(
                f"cost {self.name!r} is defined for output activations from {self.within[0]:g} to "
                f"{self.within[1]:g}; those of {σ.name!r} go from {σ.range[0]:g} to {σ.range[1]:g}. "
                f"Use {fits} in the last layer, or cost='quadratic'."
            )

    def check_targets(self, y: Array, name: str) -> None:
        """Raise ValueError if targets of shape (…, n_L, m) are outside the cost's domain."""
        xp = array_namespace(y)
        low, high = self.within
        bounded = (low, high) != (-math.inf, math.inf)
        if bounded and bool(xp.any((y < low) | (y > high))):
            raise ValueError(
                f"{name} has values from {float(xp.min(y))} to {float(xp.max(y))}; cost "
                f"{self.name!r} takes targets from {low:g} to {high:g}."
            )
        if self.name == "softmax_cross_entropy":
            sums = xp.reshape(xp.sum(y, axis=-2), (-1,))
            wrong = xp.abs(sums - 1) > 1e-3
            if bool(xp.any(wrong)):
                i = int(xp.argmax(xp.astype(wrong, xp.int32)))
                raise ValueError(
                    f"{name}[:, {i % y.shape[-1]}] sums to {float(sums[i])}; the targets of each "
                    "example must sum to 1, as one-hot columns do."
                )


def _difference(a: Array, y: Array, scale: Array) -> Array:
    return (a - y) * scale


def _quadratic(a: Array, y: Array) -> Array:
    r = a - y
    return 0.5 * array_namespace(r).vecdot(r, r, axis=-2)


def _quadratic_derivative(a: Array, y: Array) -> Array:
    return a - y


def _quadratic_second(a: Array, y: Array) -> Array:
    return array_namespace(a).ones_like(a)


def _absolute_error(a: Array, y: Array) -> Array:
    xp = array_namespace(a)
    return xp.sum(xp.abs(a - y), axis=-2)


def _absolute_error_derivative(a: Array, y: Array) -> Array:
    # 0 at the kink
    return array_namespace(a).sign(a - y)


def _absolute_error_second(a: Array, y: Array) -> Array:
    return array_namespace(a).zeros_like(a)


def _huber(a: Array, y: Array) -> Array:
    # P. J. Huber, Robust estimation of a location parameter, 1964: c²/2 + (r - c) c for c = min(r, 1).
    # as PyTorch's HuberLoss; scikit-learn's HuberRegressor minimizes twice this for residuals in units
    # of an estimated scale, with threshold 1.35
    xp = array_namespace(a)
    r = xp.abs(a - y)
    c = xp.minimum(r, xp.ones_like(r))
    return xp.sum(c * (r - 0.5 * c), axis=-2)


def _huber_derivative(a: Array, y: Array) -> Array:
    return array_namespace(a).clip(a - y, -1.0, 1.0)


def _huber_second(a: Array, y: Array) -> Array:
    xp = array_namespace(a)
    return xp.astype(xp.abs(a - y) <= 1, a.dtype)


def _at_least(a: Array, least: float) -> Array:
    xp = array_namespace(a)
    return xp.maximum(a, least * xp.ones_like(a))


def _tiny(a: Array) -> float:
    return float(array_namespace(a).finfo(a.dtype).smallest_normal)


def _log_likelihood_second(a: Array, y: Array) -> Array:
    # of -y log a
    return y / _at_least(a * a, _tiny(a))


def _log(a: Array) -> Array:
    # where a has underflowed to 0: the logarithm of the smallest normal number, which is finite
    return array_namespace(a).log(_at_least(a, _tiny(a)))


def _quotient(error: Array, a: Array) -> Array:
    # √tiny as least denominator: the quotient times a learning rate stays finite
    return error / _at_least(a, math.sqrt(_tiny(a)))


def _poisson(a: Array, y: Array) -> Array:
    # -log(e⁻ᵃ aʸ / y!) without log y!, as PyTorch's PoissonNLLLoss; scikit-learn's Poisson deviance
    # is twice the excess over its minimum, y - y log y
    return array_namespace(a).sum(a - y * _log(a), axis=-2)


def _poisson_of_z(z: Array, y: Array) -> Array:
    # a - y log a for a = eᶻ
    xp = array_namespace(z)
    return xp.sum(xp.exp(z) - y * z, axis=-2)


def _poisson_derivative(a: Array, y: Array) -> Array:
    # 1 - y / a
    return _quotient(a - y, a)


def _binary_cross_entropy(a: Array, y: Array) -> Array:
    return -array_namespace(a).sum(y * _log(a) + (1 - y) * _log(1 - a), axis=-2)


def _binary_cross_entropy_of_z(z: Array, y: Array) -> Array:
    # -y log σ(z) - (1 - y) log(1 - σ(z)) = log(1 + eᶻ) - y z, where
    # log(1 + eᶻ) = max(z, 0) + log(1 + e^-|z|); max(z, 0) - y z is exact for labels
    xp = array_namespace(z)
    linear = xp.maximum(z, xp.zeros_like(z)) - y * z
    return xp.sum(linear + xp.log1p(xp.exp(-xp.abs(z))), axis=-2)


def _binary_cross_entropy_derivative(a: Array, y: Array) -> Array:
    return _quotient(a - y, a * (1 - a))


def _binary_cross_entropy_second(a: Array, y: Array) -> Array:
    return _log_likelihood_second(a, y) + _log_likelihood_second(1 - a, 1 - y)


def _softmax_cross_entropy(a: Array, y: Array) -> Array:
    return -array_namespace(a).sum(y * _log(a), axis=-2)


def _softmax_cross_entropy_of_z(z: Array, y: Array) -> Array:
    # -Σ_j y_j log a_j = Σ_j y_j (log Σ_k e^{z_k} - z_j), with differences to the greatest z: its digits
    # are lost in the logarithm
    xp = array_namespace(z)
    least = -float(xp.finfo(z.dtype).max) * xp.ones_like(z)
    z = xp.maximum(z - xp.max(z, axis=-2, keepdims=True), least)
    return xp.sum(y * (xp.log(xp.sum(xp.exp(z), axis=-2, keepdims=True)) - z), axis=-2)


def _softmax_cross_entropy_derivative(a: Array, y: Array) -> Array:
    return -y / _at_least(a, _tiny(a))


# functions with names, by which some formats store them
COSTS: dict[str, Cost] = {
    cost.name: cost
    for cost in (
        Cost(
            "quadratic",
            _quadratic,
            _quadratic_derivative,
            canonical="linear",
            second_derivative=_quadratic_second,
        ),
        Cost(
            "absolute_error",
            _absolute_error,
            _absolute_error_derivative,
            second_derivative=_absolute_error_second,
        ),
        Cost("huber", _huber, _huber_derivative, second_derivative=_huber_second),
        Cost(
            "poisson",
            _poisson,
            _poisson_derivative,
            canonical="exponential",
            function_of_z=_poisson_of_z,
            within=(0, math.inf),
            second_derivative=_log_likelihood_second,
        ),
        Cost(
            "binary_cross_entropy",
            _binary_cross_entropy,
            _binary_cross_entropy_derivative,
            canonical="sigmoid",
            function_of_z=_binary_cross_entropy_of_z,
            classification=True,
            within=(0, 1),
            second_derivative=_binary_cross_entropy_second,
        ),
        Cost(
            "softmax_cross_entropy",
            _softmax_cross_entropy,
            _softmax_cross_entropy_derivative,
            canonical="softmax",
            function_of_z=_softmax_cross_entropy_of_z,
            classification=True,
            within=(0, 1),
            second_derivative=_log_likelihood_second,
        ),
    )
}


def resolve(cost: str | Cost) -> Cost:
    """The cost of a name, or the object itself."""
    if isinstance(cost, Cost):
        found = COSTS.get(cost.name, cost)
        if found != cost:
            raise ValueError(f"cost {cost.name!r} is built in; give a custom one another name.")
        return found  # the built-in one also for a copy of it
    return choose(cost, COSTS, "cost")
