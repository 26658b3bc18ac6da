"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.model.suggestions import known_keywords
from bpengine.optimizers.base import Optimizer, Rate, State, array_of, scalar, suffix, zeros_like
from bpengine.validation import convert_fields, fraction, positive_number

__all__ = ["Adam", "AdamW"]


@known_keywords
@dataclass(frozen=True, repr=False)
class Adam(Optimizer):
    """Adam: a step along the average gradient, divided by the root of the average square.

    θ ← θ - η m̂ / (√v̂ + ε), where m̂ and v̂ are exponential moving averages of ∇C and ∇C² with the
    decay rates β₁ and β₂.

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
        convert_fields(self, beta_1=fraction, beta_2=fraction, epsilon=positive_number)

    def init(self, parameters: Array) -> State:
        """Weighted sums of gradients and of their squares, and the sums of their weights."""
        return {
            "gradients": zeros_like(parameters),
            "squares": zeros_like(parameters),
            "weights": zeros_like(parameters[:2]),
        }

    def update(
        self, parameters: Array, gradient: Array, state: State, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step."""
        arrays = state["gradients"], state["squares"], state["weights"]
        betas = array_of([self.beta_1, self.beta_2], parameters)
        inputs = parameters, gradient, *arrays, betas, scalar(self.epsilon, parameters), rate
        yield Operation(f"adam{suffix(rate)}", "update", _adam, inputs, parameters, arrays)


@known_keywords
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
