"""Epochs of training steps with scikit-learn's definitions of gradient and loss.

They differ from `Network.fit`: gradient and penalty are divided by the sum of the batch's weights,
and the caller gives the order of the examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bpengine.backends import Array, Backend, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.backprop.plan import Plan
from bpengine.backprop.reduction import Mean
from bpengine.backprop.workspace import Workspace
from bpengine.data.source import Chunk
from bpengine.estimators.data import Examples, Host
from bpengine.estimators.losses import Loss
from bpengine.model.model import Model
from bpengine.network.network import Network
from bpengine.optimizers.adam import Adam
from bpengine.optimizers.base import Optimizer, State, scalar
from bpengine.optimizers.update import OptimizerState
from bpengine.training.steps import StepRunner

__all__ = ["HatAdam", "Steps"]


@dataclass(frozen=True, repr=False)
class HatAdam(Adam):
    """Adam with ε added to √v, not to √v̂: θ ← θ - η √(1 - β₂ᵗ) / (1 - β₁ᵗ) m / (√v + ε).

    References
    ----------
    D. Kingma and J. Ba, arXiv:1412.6980, end of section 2; scikit-learn's form.
    """

    def init(self, parameters: Array) -> State:
        """Adam's state, and 1 - β₂ᵗ."""
        return {**super().init(parameters), "correction": scalar(0.0, parameters)}

    def update(
        self, parameters: Array, gradient: Array, state: State, rate: Array
    ) -> Iterator[Operation]:
        """Adam's operations with ε / √(1 - β₂ᵗ) in place of ε."""
        correction = state["correction"]
        constants = (scalar(x, parameters) for x in (self.beta_2, 1 - self.beta_2, self.epsilon))
        inputs = correction, *constants
        for op in super().update(parameters, gradient, state, rate):
            *_, ε, _ = op.inputs
            yield Operation("epsilon", "update", _epsilon, inputs, ε, (correction,))
            yield op


def _epsilon(correction: Array, β: Array, rest: Array, ε: Array) -> tuple[Array, Array]:
    # 1 - βᵗ = β (1 - βᵗ⁻¹) + (1 - β), without cancellation
    correction = β * correction + rest
    return ε / correction**0.5, correction


class WeightedMean(Mean):
    """The gradient of scikit-learn's loss: its penalty is divided by the sum of the batch's weights.

    Attributes
    ----------
    squares : array of shape ()
        Σ w² before each step, summed over the steps in float64; with sample weights, times the batch
        size over their sum.
    settings : tuple of float, or None
        The learning rate and α that the scalars were last computed for.
    """

    settings: tuple[float, float] | None = None

    def prepare(self, model: Model, workspace: Workspace) -> None:
        """As `Mean.prepare`."""
        super().prepare(model, workspace)
        empty = model.backend.empty
        self.squares = empty((), "float64")
        self._share, self._scale, self._l2 = (empty((), model.dtype) for _ in range(3))
        self._share[...] = 1.0

    def operations(self, backprop: Iterable[Operation]) -> Iterator[Operation]:
        """As `Mean.operations`, after those for the weights and the squares."""
        weights, l2 = self.workspace.weights, self.penalty_coefficients[1, ...]
        if weights is not None:
            yield Operation("share", "weights", _share, (weights,), self._share)
            for x, out in ((self._scale, self.scale), (self._l2, l2)):
                yield Operation("weigh", "weights", _multiply, (x, self._share), out)
        for w in self.model.weights if self.model.l2 else ():
            inputs = self.squares, w, self._share
            yield Operation("add squares", "loss", _add_squares, inputs, self.squares)
        yield from super().operations(backprop)

    def scalars(self, factor: Any) -> Iterator[tuple[Array, float]]:
        """As `Mean.scalars`, and the factors of the batch's share."""
        yield from super().scalars(factor)
        yield self._scale, float(factor / self.examples)
        yield self._l2, float(factor * self.model.l2)


def _share(weights: Array) -> Array:
    return weights.shape[-1] / array_namespace(weights).sum(weights)


def _multiply(x: Array, share: Array) -> Array:
    return x * share


def _add_squares(total: Array, w: Array, share: Array) -> Array:
    xp = array_namespace(w)
    return total + xp.astype(share * xp.sum(w * w), xp.float64)


def weighted_plan(model: Model, chunk: Chunk, state: OptimizerState, executor: Backend) -> Plan:
    """The plan of steps along the gradient of scikit-learn's loss."""
    options: dict[str, Any] = {"state": state, "weighted": chunk.weighted, "replayer": executor}
    return Plan(model, chunk.size, state.optimizer, gradient=WeightedMean(), **options)


class Steps:
    """Training steps on one network, with the optimizer's state.

    `learning_rate` may be set between epochs.
    """

    def __init__(self, network: Network, optimizer: Optimizer, learning_rate: float, loss: Loss) -> None:
        self.network, self.optimizer, self.loss = network, optimizer, loss
        self.learning_rate = learning_rate
        self.runner = StepRunner(network, optimizer, weighted_plan)

    def __getstate__(self) -> dict[str, Any]:
        to_numpy = self.network.backend.to_numpy
        arrays = {name: to_numpy(array) for name, array in self.runner.state.arrays.items()}
        return {**vars(self), "runner": None, "state": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = "network", "optimizer", "learning_rate", "loss"
        Steps.__init__(self, *(state[name] for name in names))
        for name, array in self.runner.state.arrays.items():
            array[...] = self.network.backend.asarray(state["state"][name], self.network.dtype)

    def epoch(self, examples: Examples, order: Host, batch_size: int, alpha: float) -> float:
        """Steps on the examples of `order`, `batch_size` at a time; return the average loss.

        The penalty's strength is `alpha` divided by the sum of a batch's weights.
        """
        if bool(alpha) != bool(self.network.l2):
            self.runner.clear()  # the plans are with a penalty, or without
        full = len(order) - len(order) % batch_size
        total = 0.0
        for part, m in ((order[:full], batch_size), (order[full:], len(order) - full)):
            if len(part):
                total += self._run(m, examples, part, alpha)
        self.network.l2 = alpha / batch_size
        return total / len(order)

    def _run(self, m: int, examples: Examples, order: Host, alpha: float) -> float:
        """Steps of one batch size; return the sum of the losses of their examples."""
        net, plan, total = self.network, None, 0.0
        net.l2 = alpha / m
        for chunk in examples.chunks(order, m):
            if plan is None:
                plan = self.runner.plan(chunk)[0]
                settings = self.learning_rate, alpha
                if plan.reduction.settings != settings:
                    plan.learning_rate = self.learning_rate
                    plan.reduction.settings = settings
                plan.reduction.squares[...] = 0.0
            losses = self.loss(*self.runner.outputs(chunk))
            total += float(net.backend.xp.sum(losses, dtype=net.backend.xp.float64))
        return total if plan is None else total + alpha / 2 * float(plan.reduction.squares)
