"""The steps of a training: run chunk by chunk, undone, and searched for the one that was not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from bpengine.backends import Array, Backend, Batches, Entries
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk
from bpengine.model.model import Model
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.update import OptimizerState

__all__ = ["NonFiniteCostError", "PlanFactory", "StepRunner", "first_non_finite_layer", "plain_plan"]

KEPT_ELEMENTS = 2**18  # outputs of training steps that are held until their costs are added up
KEPT_STEPS = 8, 256  # at least and at most
PLANS = 8  # for batches of different sizes, held at a time

PlanFactory = Callable[[Model, Chunk, OptimizerState, Backend], Any]


class NonFiniteCostError(ArithmeticError):
    """Training met a cost that is NaN or infinite.

    Attributes
    ----------
    epoch, step : int
        Where, counted from 1; the step is within the epoch.
    layer : int
        The layer whose numbers were the first to be non-finite; layer 1 is the input.
    """

    def __init__(self, epoch: int, step: int, layer: int) -> None:
        self.epoch, self.step, self.layer = epoch, step, layer
        super().__init__(
            f"the cost is no longer finite: epoch {epoch}, step {step}, beginning in layer {layer} "
            "(layer 1 is the input). The network keeps the last finite parameters. Try a smaller "
            "learning rate."
        )


def plain_plan(model: Model, chunk: Chunk, state: OptimizerState, executor: Backend) -> Plan:
    """The plan of steps that take the average gradient of their batch."""
    return Plan(
        model,
        chunk.size,
        state.optimizer,
        state=state,
        weighted=chunk.weighted,
        per_network=chunk.per_network,
        replayer=executor,
    )


class Snapshot(NamedTuple):
    """All that a step changes."""

    arrays: dict[str, Array]
    random: list[Any]


class StepRunner:
    """Takes steps on the chunks of a source, with one optimizer state and a plan for each batch size.

    Parameters
    ----------
    model : Model
        What steps are taken on.
    optimizer : Optimizer or None
        None for a training that takes no steps on batches.
    make_plan : callable
        ``make_plan(model, chunk, state, executor)`` gives the plan for a chunk's batches.
    executor : Backend
        What replays the plans.

    Attributes
    ----------
    state : State or None
        The optimizer's.
    running : sequence of int, or None
        Of a stack, the positions of those networks whose numbers have to be finite; None: all.
    raw_parameters : array or None
        Where parameters are averaged and the model has the average: those that steps go on from.
    last_plan : Plan or None
        The plan of the last chunk.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer | None,
        make_plan: PlanFactory = plain_plan,
        executor: Backend | None = None,
    ) -> None:
        self.model, self.make_plan = model, make_plan
        self.executor = executor or model.backend
        self.state: Any = None if optimizer is None else OptimizerState(optimizer, model.parameters)
        self.running: Sequence[int] | None = None
        self.raw_parameters: Array | None = None
        self.last_plan: Any = None
        self._plans: dict[Any, tuple[Any, Entries, Array]] = {}

    def plan(self, chunk: Chunk) -> tuple[Any, Entries, Array]:
        """The plan for a chunk's batches, and a place for the output of each of its steps."""
        key = chunk.size, chunk.weighted, tuple(chunk.per_network)
        if key not in self._plans:
            if len(self._plans) == PLANS:
                del self._plans[next(iter(self._plans))]
            net, m = self.model, chunk.size
            plan = self.make_plan(net, chunk, self.state, self.executor)
            shape = kept_steps(net, m), *net.stack, net.sizes[-1], m
            outputs = net.backend.empty(shape, net.dtype)
            self._plans[key] = plan, Entries(outputs), outputs
        self.last_plan = self._plans[key][0]
        return self._plans[key]

    def run(
        self,
        chunk: Chunk,
        rates: list[float] | None,
        find_non_finite: Callable[[Any, Snapshot], None],
        start: Snapshot | None = None,
    ) -> np.ndarray[Any, Any]:
        """Take a chunk's steps; gives the sum of the costs of each step's examples.

        What the cost is taken from is held for every step, so that all costs are added up in one go.

        Parameters
        ----------
        chunk : Chunk
        rates : list of float, or None
            The learning rate of each step; None where it is always the same.
        find_non_finite : callable
            Called where parameters or costs are no longer finite, with the plan and the snapshot of
            before the steps.
        start : Snapshot, optional
            That snapshot, where there is one already.
        """
        plan, slots, outputs = self.plan(chunk)
        net, rows = self.model, plan.workspace.rows
        xp, σ = net.backend.xp, net.activations[-1]
        start = start or self.snapshot()
        completed = [0]
        try:
            settings = None if rates is None else plan.settings(rates)
            batches = Batches(
                chunk.load, chunk.batches, rows, plan.output, slots, chunk.examples, settings
            )
            plan.program.run_batches(batches, completed)
            if rates is not None:
                plan.learning_rate = rates[-1]
            y, weights = chunk.outcomes()
            x = outputs[: len(chunk.batches), ...]
            values = xp.astype(net.cost.per_example(σ, x, x, y), xp.float64)
            if weights is not None:
                values = values * xp.astype(weights, xp.float64)
            costs = net.backend.to_numpy(xp.sum(values, axis=-1))
            if not self._is_finite(costs):
                find_non_finite(plan, start)
        except KeyboardInterrupt:
            # the interrupt may have come in the middle of a step: repeat those that were complete
            self.restore(start)
            for i in range(completed[0]):
                self.step(plan, chunk, i, rates)
            if not self._is_finite():
                self.restore(start)
            raise
        return costs

    def step(self, plan: Any, chunk: Chunk, i: int, rates: list[float] | None) -> None:
        """Take step i of a chunk."""
        if rates is not None:
            plan.learning_rate = rates[i]
        chunk.load(chunk.batches[i], plan.workspace.rows)
        plan.program.run(1)

    def snapshot(self) -> Snapshot:
        """Copies of parameters and optimizer state, and the states of the random generators."""
        xp, net = self.model.backend.xp, self.model
        arrays = {"": net.vector, **self.state.arrays}
        copies = {name: xp.asarray(array, copy=True) for name, array in arrays.items()}
        return Snapshot(copies, [rng.bit_generator.state for rng in net.rngs])

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        for name, array in {"": self.model.vector, **self.state.arrays}.items():
            array[...] = snapshot.arrays[name]
        for rng, state in zip(self.model.rngs, snapshot.random, strict=True):
            rng.bit_generator.state = state

    def _is_finite(self, costs: np.ndarray[Any, Any] | None = None) -> bool:
        """Whether the parameters are, and the costs of steps."""
        xp, parameters, running = self.model.backend.xp, self.model.parameters, self.running
        if running is None:
            found = costs is None or bool(np.isfinite(costs).all())
            return found and finite(xp, parameters.vector)
        if costs is not None and not np.isfinite(costs[:, running]).all():
            return False
        return finite(xp, parameters.vector) or all(
            finite(xp, block[int(i), ...]) for block in parameters.blocks for i in running
        )

    def swap_in_average(self) -> None:
        """Where parameters are averaged, let the model have the average until steps go on."""
        if self.state is not None and "average" in self.state.arrays:
            if self.raw_parameters is None:
                self.raw_parameters = self.model.backend.xp.asarray(self.model.vector, copy=True)
            self.model.vector[...] = self.state.arrays["average"]

    def swap_out_average(self) -> None:
        """Let each network go on from its own steps, or from parameters that someone has set since."""
        if self.raw_parameters is None:
            return
        parameters, arrays = self.model.parameters, self.state.arrays
        xp, blocks = self.model.backend.xp, parameters.blocks
        same = [
            xp.all(block == average, axis=(-2, -1), keepdims=True)
            for block, average in zip(blocks, parameters.split(arrays["average"]), strict=True)
        ]
        unchanged = reduce(xp.logical_and, same)
        for block, raw in zip(blocks, parameters.split(self.raw_parameters), strict=True):
            block[...] = xp.where(unchanged, raw, block)
        if not bool(xp.all(unchanged)):
            # these are the first of a new average: of all networks, as they share the count of steps
            arrays["average"][...] = parameters.vector
            arrays["averaged"][...] = 0.0
        self.raw_parameters = None


def kept_steps(model: Model, m: int) -> int:
    """Of how many steps on m examples the outputs are held until their costs are added up."""
    (least, most), times = KEPT_STEPS, model.backend.patience
    elements = math.prod(model.stack) * model.sizes[-1] * m
    return min(most * times, max(least, KEPT_ELEMENTS * times // elements))


def first_non_finite_layer(plan: Any, results: Sequence[Array], p: int | None = None) -> int | None:
    """The layer where a step's first non-finite numbers are; None where all are finite.

    `results` are what the step has made, a block for each layer after the input: parameters or
    gradients. With a number `p`, those of network p of a stack are looked at.
    """
    net, ws = plan.network, plan.workspace
    xp, at = net.backend.xp, ... if p is None else (p, ...)
    forward = [finite(xp, z[at]) for z in ws.z]
    backward = [finite(xp, block[at]) for block in results]
    if not all(forward):
        return forward.index(False) + 2
    if not all(backward):
        return len(backward) + 1 - backward[::-1].index(False)
    values = net.cost.per_example(net.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
    return None if finite(xp, values[at]) else len(forward) + 1


def finite(xp: Any, array: Array) -> bool:
    """Whether there is no NaN and no infinity."""
    return bool(xp.all(xp.isfinite(array)))
