"""Optimizers: rules that move the flat parameter vector along the flat gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from array_api_compat import array_namespace, device

from bpengine import schedules
from bpengine.backends import Array, Operation
from bpengine.schedules import Schedule
from bpengine.validation import each, fraction, non_negative_number, positive_integer, positive_number

__all__ = [
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "check_optimizer",
]

Rate = float | Sequence[float] | Schedule | Callable[[float], float]
Memory = dict[str, Array]


@dataclass(frozen=True, repr=False)
class Optimizer(ABC):
    """A rule θ ← θ + step, with what it remembers from step to step given to it as arrays.

    Derive from it for a rule of your own: `memory` and `update` are what it has to say.

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
        which a step's share falls by this factor with every later step. The first 1 / (1 - averaging)
        steps count alike. Where a callback sets parameters, a new average begins with them; in a
        stack all networks then begin a new one, though only those that were set leave their course.
    """

    learning_rate: Rate = 0.1
    _: KW_ONLY
    clip_norm: float | None = None
    weight_decay: float | Sequence[float] = 0.0
    max_norm: float | None = None
    averaging: float | None = None

    takes_step: ClassVar[bool] = False
    """Whether `update` is given η ∇C for the gradient, not ∇C."""

    def __post_init__(self) -> None:
        rate = schedules.resolve(self.learning_rate)
        if isinstance(rate, schedules.Constant):
            object.__setattr__(self, "learning_rate", rate.value)
        decay = each(self.weight_decay, non_negative_number, "weight_decay")
        object.__setattr__(self, "weight_decay", decay)
        for name in ("clip_norm", "max_norm"):
            if getattr(self, name) is not None:
                positive_number(getattr(self, name), name)
        if self.averaging is not None:
            fraction(self.averaging, "averaging")

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name == "learning_rate" or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @abstractmethod
    def memory(self, parameters: Array) -> Memory:
        """What the rule remembers, as it is before the first step: arrays by name."""

    @abstractmethod
    def update(
        self, parameters: Array, gradient: Array, memory: Memory, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step.

        Parameters
        ----------
        parameters, gradient : arrays of shape (size,)
            The flat vectors θ, which is moved, and ∇C, or η ∇C if the class `takes_step`.
        memory : dict
            What `memory` gave, moved on by the steps so far.
        rate : array of shape (), or of that of the parameters
            The learning rate η, which may differ from step to step.

        Notes
        -----
        On a GPU the vectors have zeros between the rows of ``[w b]``, with gradient 0. A rule has to
        leave them 0, as any does that takes no step where the gradient has always been 0.
        """


@dataclass(frozen=True, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent, θ ← θ - η ∇C, with momentum if asked for.

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

    takes_step = True

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self.momentum, "momentum")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0, such as momentum=0.9.")

    def memory(self, parameters: Array) -> Memory:
        """The velocity v, where there is momentum."""
        return {"velocity": zeros_like(parameters)} if self.momentum else {}

    def update(
        self, parameters: Array, gradient: Array, memory: Memory, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        if not self.momentum:
            yield Operation("descend", "update", _descend, (parameters, gradient), parameters)
            return
        v = memory["velocity"]
        inputs = parameters, gradient, v, scalar(self.momentum, parameters)
        name, rule = ("nesterov", _nesterov) if self.nesterov else ("momentum", _momentum)
        yield Operation(name, "update", rule, inputs, parameters, (v,))


@dataclass(frozen=True, repr=False)
class Adam(Optimizer):
    """Adam: a step along the average gradient, divided by the root of the average square.

    θ ← θ - η m̂ / (√v̂ + ε), where m̂ is the average of the gradients ∇C so far, and v̂ that of their
    squares, with weights that fall by β₁ and by β₂ with every later step.

    Parameters
    ----------
    learning_rate : float, Schedule or function of the epochs passed, optional
    beta_1, beta_2 : float, optional
        From 0 to below 1.
    epsilon : float, optional
    clip_norm, weight_decay, max_norm, averaging
        As for `Optimizer`.

    References
    ----------
    D. Kingma and J. Ba, arXiv:1412.6980.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.Adam()
    Adam(learning_rate=0.001)
    """

    learning_rate: Rate = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self.beta_1, "beta_1")
        fraction(self.beta_2, "beta_2")
        positive_number(self.epsilon, "epsilon")

    def memory(self, parameters: Array) -> Memory:
        """Weighted sums of the gradients and of their squares, and the two sums of the weights."""
        return {
            "gradients": zeros_like(parameters),
            "squares": zeros_like(parameters),
            "weights": zeros_like(parameters[:2]),
        }

    def update(
        self, parameters: Array, gradient: Array, memory: Memory, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        state = memory["gradients"], memory["squares"], memory["weights"]
        betas = array_of([self.beta_1, self.beta_2], parameters)
        inputs = parameters, gradient, *state, betas, scalar(self.epsilon, parameters), rate
        yield Operation(f"adam{_each(rate)}", "update", _adam, inputs, parameters, state)


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam with decoupled weight decay: the weights, not the biases, shrink by 1 - η λ each step.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        As for `Adam`.
    weight_decay : float, optional
        λ.
    clip_norm, max_norm, averaging
        As for `Optimizer`.

    References
    ----------
    I. Loshchilov and F. Hutter, arXiv:1711.05101.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.AdamW(0.002, weight_decay=0.1)
    AdamW(learning_rate=0.002, weight_decay=0.1)
    """

    _: KW_ONLY
    weight_decay: float | Sequence[float] = 0.01


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
        fraction(self.decay, "decay")
        positive_number(self.epsilon, "epsilon")

    def memory(self, parameters: Array) -> Memory:
        """The average square v."""
        return {"square": zeros_like(parameters)}

    def update(
        self, parameters: Array, gradient: Array, memory: Memory, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        constants = (scalar(x, parameters) for x in (self.decay, 1 - self.decay, self.epsilon))
        v = memory["square"]
        inputs = parameters, gradient, v, *constants, rate
        yield Operation(f"rmsprop{_each(rate)}", "update", _rmsprop, inputs, parameters, (v,))


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
        positive_number(self.epsilon, "epsilon")

    def memory(self, parameters: Array) -> Memory:
        """The sum of squares s."""
        return {"squares": zeros_like(parameters)}

    def update(
        self, parameters: Array, gradient: Array, memory: Memory, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        s = memory["squares"]
        inputs = parameters, gradient, s, scalar(self.epsilon, parameters), rate
        yield Operation(f"adagrad{_each(rate)}", "update", _adagrad, inputs, parameters, (s,))


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS over all examples at once, by SciPy, for small data: `fit` alone takes it.

    Each iteration counts as an epoch; the batch size is not used. In a checkpoint there are the
    parameters and not the method's memory, which starts anew when training is resumed.

    Parameters
    ----------
    memory : int, optional
        Pairs of steps and gradients remembered.
    tolerance : float, optional
        Training ends where no entry of the gradient is larger.
    max_evaluations : int, optional
        Of the gradient over all examples.

    References
    ----------
    R. Byrd, P. Lu, J. Nocedal and C. Zhu, SIAM Journal on Scientific Computing 16, 1995.

    Examples
    --------
    >>> import bpengine as bp
    >>> bp.LBFGS(tolerance=1e-6)
    LBFGS(memory=10, tolerance=1e-06, max_evaluations=15000)
    """

    memory: int = 10
    tolerance: float = 1e-5
    max_evaluations: int = 15000

    def __post_init__(self) -> None:
        positive_integer(self.memory, "memory")
        non_negative_number(self.tolerance, "tolerance")
        positive_integer(self.max_evaluations, "max_evaluations")


def check_optimizer(optimizer: object) -> None:
    """Raise TypeError if `optimizer` is no optimizer that takes steps."""
    if not isinstance(optimizer, Optimizer):
        if isinstance(optimizer, LBFGS):
            raise TypeError("LBFGS takes all examples in every step: give it to net.fit.")
        what = optimizer.__name__ if isinstance(optimizer, type) else repr(optimizer)
        raise TypeError(f"optimizer must be one such as bp.SGD(0.5) or bp.Adam(); got {what}.")


def _each(rate: Array) -> str:
    """What is said of a rule whose rate is a vector, with η for each parameter."""
    return " each" if rate.ndim else ""


def zeros_like(array: Array) -> Array:
    """An array of zeros of the same shape, dtype and device."""
    return array_namespace(array).zeros_like(array)


def array_of(values: Any, like: Array) -> Array:
    """Host numbers as an array of the dtype and on the device of `like`."""
    return array_namespace(like).asarray(values, dtype=like.dtype, device=device(like))


def scalar(value: float, like: Array) -> Array:
    """A number as an array of shape () of the dtype and on the device of `like`.

    One above 0 that the dtype does not hold becomes the nearest that it does, which is not 0.
    """
    least, most = limits(like)
    return array_of(min(max(value, least), most) if value else 0.0, like)


def limits(like: Array) -> tuple[float, float]:
    """The least normal number above 0 and the greatest that the dtype of `like` holds."""
    info = array_namespace(like).finfo(like.dtype)
    return float(info.smallest_normal), float(info.max)


def _descend(θ: Array, step: Array) -> Array:
    return θ - step


def _momentum(θ: Array, step: Array, v: Array, μ: Array) -> tuple[Array, ...]:
    v = μ * v - step
    return θ + v, v


def _nesterov(θ: Array, step: Array, v: Array, μ: Array) -> tuple[Array, ...]:
    v = μ * v - step
    return θ + μ * v - step, v


def _adam(
    θ: Array,
    g: Array,
    gradients: Array,
    squares: Array,
    weights: Array,
    betas: Array,
    ε: Array,
    η: Array,
) -> tuple[Array, ...]:
    gradients = betas[0] * gradients + g
    squares = betas[1] * squares + g * g
    weights = betas * weights + 1  # Kingma and Ba's (1 - βᵗ) / (1 - β)
    m, v = gradients / weights[0], squares / weights[1]
    return θ - η * m / (array_namespace(v).sqrt(v) + ε), gradients, squares, weights


def _rmsprop(
    θ: Array, g: Array, v: Array, ρ: Array, rest: Array, ε: Array, η: Array
) -> tuple[Array, ...]:
    v = ρ * v + rest * g * g
    return θ - η * g / (array_namespace(v).sqrt(v) + ε), v


def _adagrad(θ: Array, g: Array, s: Array, ε: Array, η: Array) -> tuple[Array, ...]:
    s = s + g * g
    return θ - η * g / (array_namespace(s).sqrt(s) + ε), s
