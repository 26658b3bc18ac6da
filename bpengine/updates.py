"""The update of a step: what every optimizer has around its own rule, and what it remembers."""

from __future__ import annotations

from collections.abc import Iterator

from array_api_compat import array_namespace

from bpengine.backends import Array, Operation
from bpengine.optimizers import Optimizer, limits, scalar
from bpengine.parameters import Parameters

__all__ = ["State"]


class State:
    """What an optimizer remembers about one network, and the scalars of its next step, as arrays.

    Parameters
    ----------
    optimizer : Optimizer
    parameters : Parameters

    Attributes
    ----------
    arrays : dict
        What moves with the steps, by name: what a checkpoint has to hold.
    learning_rate : float
        η, and as an array of shape () `rate`.
    """

    def __init__(self, optimizer: Optimizer, parameters: Parameters) -> None:
        θ = parameters.vector
        self.optimizer = optimizer
        self.parameters = parameters
        self.arrays = dict(optimizer.memory(θ))
        if optimizer.averaging is not None:
            self.arrays["average"] = array_namespace(θ).asarray(θ, copy=True)
            self.arrays["averaged"] = scalar(0.0, θ)
        self.rate, self._bound, self._shrink = (scalar(0.0, θ) for _ in range(3))
        self._limits = limits(θ)
        self.learning_rate = 0.0

    def unit(self, η: float) -> float:
        """What the gradient is to be multiplied by at the learning rate η: η or 1."""
        return η if self.optimizer.takes_step else 1.0

    def settings(self, η: float) -> Iterator[tuple[Array, float]]:
        """The scalars of a step at the learning rate η, and the arrays that hold them."""
        optimizer, unit = self.optimizer, self.unit(η)
        least, most = self._limits
        yield self.rate, min(η, most)
        # never 0, not even where η is: the gradient's norm may be that too, and 0 / 0 is no number
        yield self._bound, min(max(unit * (optimizer.clip_norm or 0.0), least), most)
        yield self._shrink, max(1.0 - η * optimizer.weight_decay, -most)

    def operations(self, gradient: Parameters) -> Iterator[Operation]:
        """Operations of an update, after those that write the gradient."""
        optimizer, θ, g = self.optimizer, self.parameters.vector, gradient.vector
        if optimizer.clip_norm is not None:
            factor = scalar(1.0, θ)
            yield Operation("clip factor", "update", _clip_factor, (g, self._bound), factor)
            yield Operation("clip", "update", _multiply, (g, factor), g)
        if optimizer.weight_decay:
            for w in self.parameters.weights:
                yield Operation("decay", "update", _multiply, (w, self._shrink), w)
        yield from optimizer.update(θ, g, self.arrays, self.rate)
        if optimizer.max_norm is not None:
            bound = scalar(optimizer.max_norm, θ)
            for w in self.parameters.weights:
                yield Operation("max norm", "update", _max_norm, (w, bound), w)
        if optimizer.averaging is not None:
            average, count = self.arrays["average"], self.arrays["averaged"]
            inputs = average, θ, count, scalar(1 - optimizer.averaging, θ)
            yield Operation("average", "update", _average, inputs, average, (count,))


def _clip_factor(g: Array, bound: Array) -> Array:
    xp = array_namespace(g)
    norm = xp.sqrt(xp.sum(g * g))
    return bound / xp.maximum(norm, bound)


def _multiply(x: Array, factor: Array) -> Array:
    return x * factor


def _max_norm(w: Array, bound: Array) -> Array:
    xp = array_namespace(w)
    norms = xp.sqrt(xp.sum(w * w, axis=-1, keepdims=True))
    return w * (bound / xp.maximum(norms, bound))


def _average(average: Array, θ: Array, count: Array, least: Array) -> tuple[Array, ...]:
    count = count + 1
    return average + array_namespace(θ).maximum(1 / count, least) * (θ - average), count
