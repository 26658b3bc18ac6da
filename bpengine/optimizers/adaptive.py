"""RMSprop and Adagrad: a rate for each parameter, from the squares of its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.model.suggestions import known_keywords
from bpengine.optimizers.base import Optimizer, Rate, State, scalar, suffix, zeros_like
from bpengine.validation import convert_fields, fraction, positive_number

__all__ = ["Adagrad", "RMSprop"]


@known_keywords
@dataclass(frozen=True, repr=False)
class RMSprop(Optimizer):
    """v ← ρ v + (1 - ρ) ∇C², θ ← θ - η ∇C / (√v + ε).

    Parameters
    ----------
    learning_rate : float, Schedule or function of the epochs passed, optional
    decay : float, optional
        ρ, from 0 to below 1.
    epsilon : float, optional
    clip_norm, weight_decay, max_norm, averaging
        As for `Optimizer`.

    References
    ----------
    T. Tieleman and G. Hinton, Neural Networks for Machine Learning, lecture 6.5, 2012.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.RMSprop(0.001)
    RMSprop(learning_rate=0.001)
    """

    learning_rate: Rate = 0.01
    decay: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        convert_fields(self, decay=fraction, epsilon=positive_number)

    def init(self, parameters: Array) -> State:
        """The average square v."""
        return {"square": zeros_like(parameters)}

    def update(
        self, parameters: Array, gradient: Array, state: State, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        constants = (scalar(x, parameters) for x in (self.decay, 1 - self.decay, self.epsilon))
        v = state["square"]
        inputs = parameters, gradient, v, *constants, rate
        yield Operation(f"rmsprop{suffix(rate)}", "update", _rmsprop, inputs, parameters, (v,))


@known_keywords
@dataclass(frozen=True, repr=False)
class Adagrad(Optimizer):
    """s ← s + ∇C², θ ← θ - η ∇C / (√s + ε).

    Parameters
    ----------
    learning_rate : float, Schedule or function of the epochs passed, optional
    epsilon : float, optional
    clip_norm, weight_decay, max_norm, averaging
        As for `Optimizer`.

    References
    ----------
    J. Duchi, E. Hazan and Y. Singer, Journal of Machine Learning Research 12, 2011.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.Adagrad(0.1)
    Adagrad(learning_rate=0.1)
    """

    learning_rate: Rate = 0.01
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        convert_fields(self, epsilon=positive_number)

    def init(self, parameters: Array) -> State:
        """The sum of squares s."""
        return {"squares": zeros_like(parameters)}

    def update(
        self, parameters: Array, gradient: Array, state: State, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        s = state["squares"]
        inputs = parameters, gradient, s, scalar(self.epsilon, parameters), rate
        yield Operation(f"adagrad{suffix(rate)}", "update", _adagrad, inputs, parameters, (s,))


def _rmsprop(
    θ: Array, g: Array, v: Array, ρ: Array, rest: Array, ε: Array, η: Array
) -> tuple[Array, ...]:
    v = ρ * v + rest * g * g
    return θ - η * g / (array_namespace(v).sqrt(v) + ε), v


def _adagrad(θ: Array, g: Array, s: Array, ε: Array, η: Array) -> tuple[Array, ...]:
    s = s + g * g
    return θ - η * g / (array_namespace(s).sqrt(s) + ε), s
