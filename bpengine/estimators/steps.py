"""Epochs of training steps as scikit-learn takes them, each step a replay of a plan.

What differs from `Network.fit`: a batch's gradient and penalty are divided by the sum of the batch's
own weights, the order of the examples is given, and the loss is reported as scikit-learn defines it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bpengine.backends import Array, Batches, Operation
from bpengine.estimators.data import Examples, Host
from bpengine.network import Network
from bpengine.optimizers import Adam, Memory, Optimizer, scalar
from bpengine.plan import Plan
from bpengine.updates import State

__all__ = ["HatAdam", "Steps"]

KEPT_ELEMENTS = 2**18  # outputs of training steps kept until their losses are added up
KEPT_STEPS = 8, 256  # at least and at most
PLANS = 8  # of batches of different sizes that are kept at a time

Loss = Callable[[Array, Array], Array]


@dataclass(frozen=True, repr=False)
class HatAdam(Adam):
    """Adam with ε beside √v, not beside √v̂: θ ← θ - η √(1 - β₂ᵗ) / (1 - β₁ᵗ) m / (√v + ε).

    References
    ----------
    D. Kingma and J. Ba, arXiv:1412.6980, the end of section 2; it is scikit-learn's form.
    """

    def memory(self, parameters: Array) -> Memory:
        """What Adam remembers, and 1 - β₂ᵗ."""
        return {**super().memory(parameters), "correction": scalar(0.0, parameters)}

    def update(
        self, parameters: Array, gradient: Array, memory: Memory, rate: Array
    ) -> Iterator[Operation]:
        """Operations of a step: ε / √(1 - β₂ᵗ) takes the place of ε."""
        correction = memory["correction"]
        constants = (scalar(x, parameters) for x in (self.beta_2, 1 - self.beta_2, self.epsilon))
        inputs = correction, *constants
        for op in super().update(parameters, gradient, memory, rate):
            *_, ε, _ = op.inputs
            yield Operation("epsilon", "update", _epsilon, inputs, ε, (correction,))
            yield op


def _epsilon(correction: Array, β: Array, rest: Array, ε: Array) -> tuple[Array, Array]:
    # 1 - βᵗ = β (1 - βᵗ⁻¹) + (1 - β), which loses no digits
    correction = β * correction + rest
    return ε / correction**0.5, correction


class Steps:
    """Training steps on one network, with what the optimizer remembers from epoch to epoch.

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
        η; set it to use another from the next epoch on.
    """

    def __init__(self, network: Network, optimizer: Optimizer, learning_rate: float, loss: Loss) -> None:
        self.network, self.optimizer, self.loss = network, optimizer, loss
        self.learning_rate = learning_rate
        self.state = State(optimizer, network.parameters)
        self._plans: dict[tuple[int, bool, bool], Plan] = {}

    def __getstate__(self) -> dict[str, Any]:
        to_numpy = self.network.backend.to_numpy
        arrays = {name: to_numpy(array) for name, array in self.state.arrays.items()}
        return {**vars(self), "_plans": {}, "state": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("state")
        vars(self).update(state)
        self.state = State(self.optimizer, self.network.parameters)
        for name, array in self.state.arrays.items():
            array[...] = self.network.backend.asarray(arrays[name], self.network.dtype)

    def epoch(self, examples: Examples, order: Host, batch_size: int, alpha: float) -> float:
        """Steps on the examples of `order`, `batch_size` at a time; gives the average loss.

        Parameters
        ----------
        examples : Examples
        order : array of int
        batch_size : int
        alpha : float
            The strength of the penalty, which is divided by the sum of a batch's weights.
        """
        full = len(order) - len(order) % batch_size
        total = 0.0
        for part, m in ((order[:full], batch_size), (order[full:], len(order) - full)):
            if len(part):
                total += self._run(self._plan(m, examples, alpha), examples, part, alpha)
        self.network.l2 = alpha / batch_size
        return total / len(order)

    def rest(self) -> None:
        """Let go of buffers: plans are made anew where steps go on."""
        self._plans.clear()

    def _plan(self, m: int, examples: Examples, alpha: float) -> Plan:
        weighted = examples.weights is not None
        self.network.l2 = alpha / m
        key = m, weighted, bool(alpha)
        if key not in self._plans:
            if len(self._plans) == PLANS:
                del self._plans[next(iter(self._plans))]
            plan = Plan(self.network, m, self.optimizer, state=self.state, weighted=weighted)
            self._plans[key] = plan
        plan = self._plans[key]
        plan.learning_rate = self.learning_rate
        return plan

    def _run(self, plan: Plan, examples: Examples, order: Host, alpha: float) -> float:
        """Steps of one size; gives the sum of the losses of their examples."""
        net, m = self.network, plan.batch_size
        least, most = KEPT_STEPS
        chunk = m * min(most, max(least, KEPT_ELEMENTS // (net.sizes[-1] * m)))
        parts = [order[i : i + chunk] for i in range(0, len(order), chunk)]
        kept = net.backend.empty((len(parts[0]) // m, net.sizes[-1], m), net.dtype)
        return sum(self._run_part(plan, examples, part, alpha, kept) for part in parts)

    def _run_part(self, plan: Plan, examples: Examples, order: Host, alpha: float, kept: Array) -> float:
        """As many steps as outputs can be kept of, until their losses are added up in one go."""
        net, ws, m = self.network, plan.workspace, plan.batch_size
        xp = net.backend.xp
        weights = None
        if examples.weights is not None:
            order, weights = _with_weight(order, examples.weights, m)
        steps = len(order) // m
        if not steps:
            return 0.0
        totals = None if weights is None else iter(weights.sum(axis=1))
        penalties: list[Any] = []

        def load(indices: Any, rows: Array) -> None:
            examples.load(indices, rows)
            if totals is not None:
                total = float(next(totals))
                rows[:, -1] *= m / total
                net.l2 = alpha / total
                plan.learning_rate = self.learning_rate
            if alpha:
                penalties.append(_squares(net) * net.l2)

        indices = examples.indices(order)
        plain = totals is None and not alpha
        batches = Batches(
            examples.load if plain else load,
            [indices[i : i + m] for i in range(0, len(order), m)],
            ws.rows,
            ws.z[-1] if net.cost.is_of_z(net.activations[-1]) else ws.a[-1],
            [kept[i, ...] for i in range(steps)],
            examples.rows if plain else None,
        )
        plan.program.run_batches(batches, [0])
        values = self.loss(kept[:steps, ...], examples.targets(indices, m))
        if weights is not None:
            weights *= m / weights.sum(axis=1, keepdims=True)
            values = values * net.backend.asarray(weights, net.dtype)
        return float(xp.sum(values, dtype=xp.float64)) + m / 2 * sum(map(float, penalties))


def _with_weight(order: Host, weights: Host, m: int) -> tuple[Host, Host]:
    """The batches of `order` that have any weight, and the weights of their examples, (steps, m)."""
    batches = order.reshape(-1, m)
    found = weights[batches]
    some = found.sum(axis=1) != 0
    return batches[some].ravel(), found[some]


def _squares(network: Network) -> Any:
    """Σ w² over the weights: that of all parameters, less that of the biases."""
    xp, vector = network.backend.xp, network.parameters.vector
    biases = (b[:, 0] for b in network.parameters.biases)
    return xp.vecdot(vector, vector) - sum(xp.vecdot(b, b) for b in biases)
