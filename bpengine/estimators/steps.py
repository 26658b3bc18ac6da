"""Epochs of training steps with scikit-learn's definitions of gradient and loss.

They differ from `Network.fit`: gradient and penalty are divided by the sum of the batch's weights,
and the caller gives the order of the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bpengine.backends import Array, Batches, Operation
from bpengine.backends.namespace import array_namespace
from bpengine.backprop.plan import Plan
from bpengine.backprop.reduction import Mean
from bpengine.backprop.workspace import Workspace
from bpengine.estimators.data import Examples, Host
from bpengine.model.model import Model
from bpengine.network.network import Network
from bpengine.optimizers.adam import Adam
from bpengine.optimizers.base import Optimizer, State, scalar
from bpengine.optimizers.update import OptimizerState
from bpengine.training.steps import PLANS, steps_per_readback

__all__ = ["HatAdam", "Steps"]

Loss = Callable[[Array, Array], Array]


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
    """

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


class Steps:
    """Training steps on one network, with the optimizer's state.

    Parameters
    ----------
    network : Network
    optimizer : Optimizer
    learning_rate : float
    loss : callable
        The loss of every example, of shape (…, m), from outputs and targets of shape (…, n_L, m).

    Attributes
    ----------
    learning_rate : float
        η; may be set between epochs.
    replayer : Backend
        Runs the plans.
    """

    def __init__(self, network: Network, optimizer: Optimizer, learning_rate: float, loss: Loss) -> None:
        self.network, self.optimizer, self.loss = network, optimizer, loss
        self.learning_rate = learning_rate
        self.state = OptimizerState(optimizer, network.parameters)
        self.replayer = network.backend
        self._plans: dict[tuple[int, bool, bool], tuple[Plan, Array, list[Array]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        to_numpy = self.network.backend.to_numpy
        arrays = {name: to_numpy(array) for name, array in self.state.arrays.items()}
        return {**vars(self), "_plans": {}, "state": arrays, "replayer": self.network.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("state")
        vars(self).update(state)
        self.state = OptimizerState(self.optimizer, self.network.parameters)
        for name, array in self.state.arrays.items():
            array[...] = self.network.backend.asarray(arrays[name], self.network.dtype)

    def epoch(self, examples: Examples, order: Host, batch_size: int, alpha: float) -> float:
        """Steps on the examples of `order`, `batch_size` at a time; return the average loss.

        Parameters
        ----------
        examples : Examples
        order : array of int
        batch_size : int
        alpha : float
            Strength of the penalty, divided by the sum of a batch's weights.
        """
        full = len(order) - len(order) % batch_size
        total = 0.0
        for part, m in ((order[:full], batch_size), (order[full:], len(order) - full)):
            if len(part):
                total += self._run(m, examples, part, alpha)
        self.network.l2 = alpha / batch_size
        return total / len(order)

    def rest(self) -> None:
        """Free the buffers; further steps create new plans."""
        self._plans.clear()

    def _plan(self, m: int, examples: Examples, alpha: float) -> tuple[Plan, Array, list[Array]]:
        """The plan for batches of m, and an output buffer with a slot per step."""
        net, weighted = self.network, examples.weights is not None
        net.l2 = alpha / m
        key = m, weighted, bool(alpha)
        if key not in self._plans:
            if len(self._plans) == PLANS:
                del self._plans[next(iter(self._plans))]
            options: dict[str, Any] = {"state": self.state, "weighted": weighted}
            options |= {"gradient": WeightedMean(), "replayer": self.replayer}
            plan = Plan(net, m, self.optimizer, **options)
            steps = steps_per_readback(net, m)
            outputs = net.backend.empty((steps, net.sizes[-1], m), net.dtype)
            self._plans[key] = plan, outputs, [outputs[i, ...] for i in range(steps)]
        plan = self._plans[key][0]
        plan.learning_rate = self.learning_rate
        return self._plans[key]

    def _run(self, m: int, examples: Examples, order: Host, alpha: float) -> float:
        """Steps of one batch size; return the sum of the losses of their examples."""
        net = self.network
        plan, outputs, slots = self._plan(m, examples, alpha)
        rows, xp = plan.workspace.rows, net.backend.xp
        weights = None
        if examples.weights is not None:
            order, weights = _with_weight(order, examples.weights, m)
        indices = examples.indices(order)
        assert isinstance(plan.reduction, WeightedMean)
        squares = plan.reduction.squares
        squares[...] = total = 0.0
        for start in range(0, len(order), m * len(slots)):
            stop = min(start + m * len(slots), len(order))
            chosen = indices[start:stop]
            batches = [indices[i : i + m] for i in range(start, stop, m)]
            given = Batches(examples.load, batches, rows, plan.output, slots, examples.rows)
            plan.program.run_batches(given, [0])
            values = self.loss(outputs[: len(batches), ...], examples.targets(chosen, m))
            if weights is not None:
                share = weights[start // m : stop // m]
                values = values * net.backend.asarray(share, net.dtype)
            total += float(xp.sum(values, dtype=xp.float64))
        return total + alpha / 2 * float(squares)


def _with_weight(order: Host, weights: Host, m: int) -> tuple[Host, Host]:
    """The batches of `order` with a non-zero weight, and their weights relative to the batch mean."""
    batches = order.reshape(-1, m)
    batches = batches[weights[batches].sum(axis=1) != 0]
    found = weights[batches]
    return batches.ravel(), found / found.mean(axis=1, keepdims=True)
