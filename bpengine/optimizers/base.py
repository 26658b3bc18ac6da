"""Base class of optimizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from array_api_compat import device

from bpengine import schedules
from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.schedules import Schedule
from bpengine.validation import (
    check_entries,
    convert_fields,
    fraction,
    non_negative_number,
    optional,
    positive_number,
)

__all__ = ["Optimizer", "check_optimizer"]

Rate = float | Sequence[float] | Schedule | Callable[[float], float]
State = dict[str, Array]


@dataclass(frozen=True, repr=False)
class Optimizer(ABC):
    """An update rule of the parameters θ, with its state in arrays.

    For a custom rule derive from it and define `init` and `update`.

    Parameters
    ----------
    learning_rate : float, Schedule or function of the epochs passed
        The step's length η. For a stack of P networks also P numbers, one for each.
    clip_norm : float, optional
        Greatest norm of the gradient as one vector; a longer one is scaled down to it.
    weight_decay : float, optional
        λ of decoupled decay: each step multiplies the weights, not the biases, by 1 - η λ. For a
        stack of P networks also P numbers.
    max_norm : float, optional
        Greatest norm of the weights into one neuron; longer ones are scaled down to it.
    averaging : float, optional
        Below 1, such as 0.999: training ends with an average of the parameters of all steps, in
        which a step's weight decays by this factor per later step; the first 1 / (1 - averaging)
        steps have equal weights. If a callback sets parameters, a new average starts from them, in a
        stack for all networks.

    Notes
    -----
    Adam, AdamW, RMSprop and Adagrad sum squares of gradients. A square overflows where the gradient is
    beyond 1.8e19 in float32 and 1.3e154 in float64. The sum stays infinite, and that parameter takes no
    more steps. `clip_norm` prevents this: norms are computed without overflow and underflow.
    """

    learning_rate: Rate = 0.1
    _: KW_ONLY
    clip_norm: float | None = None
    weight_decay: float | Sequence[float] = 0.0
    max_norm: float | None = None
    averaging: float | None = None

    takes_scaled_gradient: ClassVar[bool] = False
    """Whether `update` is given η ∇C for the gradient, not ∇C."""

    def __post_init__(self) -> None:
        rate = schedules.resolve(self.learning_rate)
        if isinstance(rate, schedules.Constant):
            object.__setattr__(self, "learning_rate", rate.value)
        decay = check_entries(self.weight_decay, non_negative_number, "weight_decay")
        object.__setattr__(self, "weight_decay", decay)
        norm = optional(positive_number)
        convert_fields(self, clip_norm=norm, max_norm=norm, averaging=optional(fraction))

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name == "learning_rate" or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @abstractmethod
    def init(self, parameters: Array) -> State:
        """The initial state: arrays by name."""

    @abstractmethod
    def update(
        self, parameters: Array, gradient: Array, state: State, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step.

        Parameters
        ----------
        parameters, gradient : arrays of shape (size,)
            The flat vectors θ, which is updated, and ∇C, or η ∇C if the class `takes_scaled_gradient`.
        state : dict
            The arrays of `init`, as updated so far.
        rate : array of shape (), or of that of the parameters
            The learning rate η, which may differ from step to step.

        Notes
        -----
        On a GPU the vectors have padding, zeros with gradient 0, between the rows of ``[w b]``. A rule
        must leave it 0, by taking no step where the gradient has always been 0.
        """


def check_optimizer(optimizer: object) -> None:
    """Raise TypeError if `optimizer` is no optimizer that takes steps."""
    if not isinstance(optimizer, Optimizer):
        if isinstance(optimizer, LBFGS):
            raise TypeError("LBFGS takes all examples in every step: give it to net.fit.")
        what = optimizer.__name__ if isinstance(optimizer, type) else repr(optimizer)
        raise TypeError(f"optimizer must be one such as bp.SGD(0.5) or bp.Adam(); got {what}.")


def suffix(rate: Array) -> str:
    """Suffix of the operation's name where the rate is a vector."""
    return " per parameter" if rate.ndim else ""


def zeros_like(array: Array) -> Array:
    """Zeros of the same shape, dtype and device."""
    return array_namespace(array).zeros_like(array)


def array_of(values: Any, like: Array) -> Array:
    """Host numbers as an array of the dtype and on the device of `like`."""
    return array_namespace(like).asarray(values, dtype=like.dtype, device=device(like))


def scalar(value: float, like: Array) -> Array:
    """A number as an array of shape () of the dtype and on the device of `like`.

    A value above 0 is clipped to the normal numbers of the dtype, so that it is not 0.
    """
    least, most = limits(like)
    return array_of(min(max(value, least), most) if value else 0.0, like)


def limits(like: Array) -> tuple[float, float]:
    """The smallest normal and the largest number of the dtype of `like`."""
    info = array_namespace(like).finfo(like.dtype)
    return float(info.smallest_normal), float(info.max)
