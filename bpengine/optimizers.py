"""Optimizers: rules that move the flat parameter vector along the flat gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bpengine.backends import Array, Operation
from bpengine.validation import positive_number

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, θ ← θ - η ∇C.

    Parameters
    ----------
    learning_rate : float, optional
        The step η along the gradient of the batch's average cost; above 0.

    Raises
    ------
    ValueError
        If the learning rate is not above 0 and finite.

    Notes
    -----
    All of backpropagation is linear in the output error. η is therefore multiplied into that
    error, the smallest array of the step, and the update is a plain difference of two vectors.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.SGD(0.5)
    SGD(learning_rate=0.5)
    """

    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        positive_number(self.learning_rate, "learning_rate")

    @staticmethod
    def check(optimizer: object) -> None:
        """Raise TypeError if `optimizer` is no optimizer."""
        if not isinstance(optimizer, SGD):
            what = optimizer.__name__ if isinstance(optimizer, type) else repr(optimizer)
            raise TypeError(f"optimizer must be an SGD, such as bp.SGD(0.5); got {what}.")

    def update(self, parameters: Array, scaled_gradient: Array) -> Iterator[Operation]:
        """Operations for θ ← θ - η ∇C, from the gradient times η."""
        inputs = (parameters, scaled_gradient)
        yield Operation("descend", "update", _descend, inputs, parameters)


def _descend(parameters: Array, step: Array) -> Array:
    return parameters - step
