"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bpengine.backends import Array, Operation
from bpengine.model.suggestions import known_keywords
from bpengine.optimizers.base import Optimizer, State, scalar, zeros_like
from bpengine.validation import convert_fields, flag, fraction

__all__ = ["SGD"]


@known_keywords
@dataclass(frozen=True, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent, θ ← θ - η ∇C, optionally with momentum.

    Parameters
    ----------
    learning_rate : float, Schedule or function of the epochs passed, optional
        The step η along the gradient of the batch's average cost; above 0.
    momentum : float, optional
        μ from 0 to below 1: v ← μ v - η ∇C, θ ← θ + v.
    nesterov : bool, optional
        Nesterov's form, which looks one velocity ahead: θ ← θ + μ v - η ∇C with the new v.
    clip_norm, weight_decay, max_norm, averaging
        As for `Optimizer`.

    Raises
    ------
    ValueError
        If the learning rate is not above 0 and finite, or another value is out of its range.

    Notes
    -----
    All of backpropagation is linear in the output error. η is therefore multiplied into that
    error, the smallest array of the step, and the update is a plain difference of two vectors.

    References
    ----------
    B. Polyak, 1964; Y. Nesterov, 1983, in the form of Sutskever et al., 2013.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.SGD(0.5)
    SGD(learning_rate=0.5)
    >>> bp.SGD(bp.schedules.Cosine(0.5, epochs=30), momentum=0.9)
    SGD(learning_rate=Cosine(initial=0.5, epochs=30, final=0.0), momentum=0.9)
    """

    momentum: float = 0.0
    nesterov: bool = False

    takes_scaled_gradient = True

    def __post_init__(self) -> None:
        super().__post_init__()
        convert_fields(self, momentum=fraction, nesterov=flag)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0, such as momentum=0.9.")

    def init(self, parameters: Array) -> State:
        """The velocity v, with momentum."""
        return {"velocity": zeros_like(parameters)} if self.momentum else {}

    def update(
        self, parameters: Array, gradient: Array, state: State, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        if not self.momentum:
            yield Operation("descend", "update", _descend, (parameters, gradient), parameters)
            return
        v = state["velocity"]
        inputs = parameters, gradient, v, scalar(self.momentum, parameters)
        name, rule = ("nesterov", _nesterov) if self.nesterov else ("momentum", _momentum)
        yield Operation(name, "update", rule, inputs, parameters, (v,))


def _descend(θ: Array, step: Array) -> Array:
    return θ - step


def _momentum(θ: Array, step: Array, v: Array, μ: Array) -> tuple[Array, ...]:
    v = μ * v - step
    return θ + v, v


def _nesterov(θ: Array, step: Array, v: Array, μ: Array) -> tuple[Array, ...]:
    v = μ * v - step
    return θ + μ * v - step, v
