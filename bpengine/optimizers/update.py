"""The update of a step: an optimizer's state, its operations, decay, limits of norms, averaging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bpengine import schedules
from bpengine.backends import Array, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.model.parameters import Parameters, ParameterSlice
from bpengine.optimizers.base import Optimizer, limits, scalar, zeros_like
from bpengine.optimizers.norm_limits import clip, limit_weights, multiply
from bpengine.validation import check_count

__all__ = ["OptimizerState", "scalar_writes"]


class OptimizerState:
    """An optimizer's state for a network, and the scalars of its next step, as arrays.

    Attributes
    ----------
    arrays : dict
        The state by name, as a checkpoint stores it.
    learning_rate : float, or NumPy array of shape (P,)
        η, shared or per-network; `rate` is the array, of shape () or that of the flat vector.
    """

    def __init__(self, optimizer: Optimizer, parameters: Parameters) -> None:
        if isinstance(parameters, ParameterSlice):
            raise ValueError(
                "a network of a stack takes no plan with an optimizer, as its parameters are not "
                "contiguous: use nets[i].fit, or copy.deepcopy(nets[i]), an independent network."
            )
        θ, stack = parameters.vector, parameters.stack
        schedule = schedules.resolve(optimizer.learning_rate)
        self.initial_rate = schedule.rate(0.0)
        rate = np.asarray(schedule.value if isinstance(schedule, schedules.Constant) else 0.0)
        for name, value in (("learning_rate", rate), ("weight_decay", optimizer.weight_decay)):
            check_count(value, stack, name)
        self.optimizer = optimizer
        self.parameters = parameters
        self.arrays = self._initial()
        # rules on the flat vector need a rate for every parameter
        self._rates = bool(rate.ndim)
        self.rate = (
            zeros_like(θ) if rate.ndim and not optimizer.takes_scaled_gradient else scalar(0.0, θ)
        )
        shape = (*stack, 1, 1) if self._rates or isinstance(optimizer.weight_decay, tuple) else ()
        self._bound, self._shrink = (parameters.backend.empty(shape, parameters.dtype) for _ in range(2))
        self._limits = limits(θ)
        self.learning_rate: Any = rate * 0.0

    def _initial(self) -> dict[str, Array]:
        θ = self.parameters.vector
        arrays = dict(self.optimizer.init(θ))
        if self.optimizer.averaging is not None:
            arrays |= {"average": array_namespace(θ).asarray(θ, copy=True), "averaged": scalar(0.0, θ)}
        return arrays

    def reset(self) -> None:
        """Set the state to the initial one."""
        for name, x in self._initial().items():
            self.arrays[name][...] = x

    @property
    def scale_per_network(self) -> bool:
        """Whether the gradient has a per-network scale."""
        return self._rates and self.optimizer.takes_scaled_gradient

    def gradient_scale(self, η: Any) -> Any:
        """Factor of the gradient at the learning rate η: η or 1."""
        return η if self.optimizer.takes_scaled_gradient else 1.0

    def settings(self, η: Any) -> Iterator[tuple[Array, float]]:
        """The scalars of a step at the learning rate η, or P of them, and the arrays that hold them."""
        optimizer, gradient_scale = self.optimizer, self.gradient_scale(η)
        least, most = self._limits
        rates = self.parameters.split(self.rate) if self.rate.ndim else [self.rate]
        for rate in rates if not self.scale_per_network else ():
            yield from scalar_writes(rate, np.minimum(η, most))
        # above 0 even for η = 0, as the gradient's norm may be 0
        bound = np.clip(np.multiply(gradient_scale, optimizer.clip_norm or 0.0), least, most)
        yield from scalar_writes(self._bound, bound)
        shrink = np.maximum(1.0 - np.multiply(η, optimizer.weight_decay), -most)
        yield from scalar_writes(self._shrink, shrink)

    def operations(self, gradient: Parameters) -> Iterator[Operation]:
        """Operations of an update, after those that write the gradient."""
        optimizer, θ, g = self.optimizer, self.parameters.vector, gradient.vector
        if optimizer.clip_norm is not None:
            yield from clip(gradient, self._bound)
        if np.any(optimizer.weight_decay):
            for w in self.parameters.weights:
                yield Operation("decay", "update", multiply, (w, self._shrink), w)
        yield from optimizer.update(θ, g, self.arrays, self.rate)
        if optimizer.max_norm is not None:
            yield from limit_weights(self.parameters.weights, optimizer.max_norm)
        if optimizer.averaging is not None:
            average, count = self.arrays["average"], self.arrays["averaged"]
            inputs = average, θ, count, scalar(1 - optimizer.averaging, θ)
            yield Operation("average", "update", _average, inputs, average, (count,))


def scalar_writes(array: Array, values: Any) -> Iterator[tuple[Array, float]]:
    """Writes (array, value) of a shared or per-network scalar."""
    if not array.ndim:
        yield array, float(values)
        return
    P = array.shape[0]
    for p, value in enumerate(np.broadcast_to(values, (P,)).tolist()):
        is_scalar = tuple(array.shape[1:]) == (1, 1)
        yield array[(p, 0, 0, ...) if is_scalar else (p, ...)], value


def _average(average: Array, θ: Array, count: Array, least: Array) -> tuple[Array, ...]:
    count = count + 1
    return average + array_namespace(θ).maximum(1 / count, least) * (θ - average), count
