"""Running the steps of a training: chunks, snapshots, and the search for non-finite steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from bpengine.backends import Array, Backend, Batches, Entries
from bpengine.backends.namespace import all_finite
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk
from bpengine.model.model import Model, take_networks
from bpengine.optimizers import BY_NAME
from bpengine.optimizers.base import Optimizer, zeros_like
from bpengine.optimizers.update import OptimizerState

__all__ = ["NonFiniteCostError", "PlanFactory", "StepRunner", "first_non_finite_layer", "plain_plan"]

READBACK_ELEMENTS = 2**18  # outputs that are buffered until costs are read back
READBACK_STEPS = 8, 256  # least and greatest number
PLANS = 8  # cached, for different batch sizes

PlanFactory = Callable[[Model, Chunk, OptimizerState, Backend], Any]


class NonFiniteCostError(ArithmeticError):
    """Raised when the cost is NaN or infinite.

    Attributes
    ----------
    epoch, step : int
        Counted from 1; the step within the epoch.
    layer : int
        The layer of the first non-finite numbers; layer 1 is the input.
    """

    def __init__(self, epoch: int, step: int, layer: int) -> None:
        self.epoch, self.step, self.layer = epoch, step, layer
        super().__init__(
            f"the cost is no longer finite: epoch {epoch}, step {step}, beginning in layer {layer} "
            "(layer 1 is the input). The network keeps the last finite parameters. Try a smaller "
            "learning rate."
        )


def plain_plan(model: Model, chunk: Chunk, state: OptimizerState, executor: Backend) -> Plan:
    """The plan of steps along the average gradient."""
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
    """A copy of all that a step changes."""

    arrays: dict[str, Array]
    random: list[Any]


class StepRunner:
    """Runs steps with an optimizer state and a plan for each batch size.

    Plans are made by ``make_plan(model, chunk, state, executor)``, and run by `executor`, by default the
    model's backend. With LBFGS there is no optimizer.

    Attributes
    ----------
    state : OptimizerState or None
    running : sequence of int, or None
        Positions of the networks that are checked for non-finite numbers; None: all.
    raw_parameters : array or None
        The parameters for the next step, while the model has the average.
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
        self._plans: dict[Any, tuple[Any, Entries, Array]] = {}
        self._start: Snapshot | None = None  # of the last chunk, whose memory the next one takes
        self._key: Any = None

    @classmethod
    def recent(cls, model: Model, optimizer: Optimizer | None, make_plan: PlanFactory) -> StepRunner:
        """The runner that the last training like this one left, as if it were new; or a new one."""
        if type(optimizer) not in BY_NAME.values() or make_plan is not plain_plan:
            return cls(model, optimizer, make_plan)  # no optimizer, or perhaps not comparable
        key = cls, optimizer, model.step_key, model.dropout, model.rngs
        runner: StepRunner | None = model.recent.take(key)
        if runner is None:
            runner = cls(model, optimizer, make_plan)
            runner._key = key
        else:
            runner.state.reset()
            runner.raw_parameters = runner.running = None
            for plan, *_ in runner._plans.values():
                plan.learning_rate = runner.state.initial_rate
        return runner

    def keep(self) -> None:
        """Leave this runner to the next training."""
        if self._key is not None:
            for plan, *_ in self._plans.values():
                plan.program.forget_batches()
            size = sum(plan.memory for plan, *_ in self._plans.values())
            # the optimizer's state, and a snapshot of it and of the parameters
            entries = int(self.model.vector.shape[0]) * (1 + 2 * len(self.state.arrays))
            size += entries * np.dtype(self.model.dtype).itemsize
            self.model.recent.keep(self._key, self, size)

    def use(self, executor: Backend) -> None:
        """Run plans by another backend."""
        if executor is not self.executor:
            self.clear()
            self.executor = executor

    def plan(self, chunk: Chunk) -> tuple[Any, Entries, Array]:
        """The plan for a chunk's batches, and a buffer for its outputs."""
        key = chunk.size, chunk.weighted, tuple(chunk.per_network)
        if key not in self._plans:
            if len(self._plans) == PLANS:
                del self._plans[next(iter(self._plans))]
            net, m = self.model, chunk.size
            plan = self.make_plan(net, chunk, self.state, self.executor)
            shape = steps_per_readback(net, m), *net.stack, net.sizes[-1], m
            outputs = net.backend.empty(shape, net.dtype)
            self._plans[key] = plan, Entries(outputs), outputs
        return self._plans[key]

    def clear(self) -> None:
        """Free the plans and their buffers; further steps create new ones."""
        self._plans.clear()

    def outputs(
        self, chunk: Chunk, rates: list[float] | None = None, completed: list[int] | None = None
    ) -> tuple[Array, Array, Array | None]:
        """Take a chunk's steps; returns outputs, targets and weights of all of its examples.

        The number of complete steps is added to ``completed[0]``.
        """
        plan, slots, outputs = self.plan(chunk)
        settings = None if rates is None else plan.settings(rates)
        batches = Batches(
            chunk.load,
            chunk.batches,
            plan.workspace.rows,
            plan.output,
            slots,
            chunk.examples,
            settings,
        )
        plan.program.run_batches(batches, [0] if completed is None else completed)
        if rates is not None:
            plan.learning_rate = rates[-1]
        return outputs[: len(chunk.batches), ...], *chunk.outcomes()

    def take(self, positions: np.ndarray[Any, Any]) -> StepRunner:
        """A runner for some networks of the stack, with copies of their parameters and states."""
        backend, before, optimizer = self.model.backend, self.model.parameters, self.state.optimizer
        options: Any = {
            name: tuple(np.asarray(value)[positions].tolist())
            for name in ("learning_rate", "weight_decay")
            if isinstance(value := getattr(optimizer, name), tuple)
        }
        rule = dataclasses.replace(optimizer, **options)
        new = StepRunner(self.model.take(positions), rule, self.make_plan, self.executor)
        arrays, olds = {**new.state.arrays}, {**self.state.arrays}
        if self.raw_parameters is not None:
            olds["raw"] = self.raw_parameters
            new.raw_parameters = arrays["raw"] = zeros_like(new.model.vector)
        for name, x in olds.items():
            if x.shape == before.vector.shape:
                blocks = zip(new.model.parameters.split(arrays[name]), before.split(x), strict=True)
                for block, whole in blocks:
                    block[...] = take_networks(backend, whole, positions)
            else:
                arrays[name][...] = x
        return new

    def run(
        self,
        chunk: Chunk,
        rates: list[float] | None,
        find_non_finite: Callable[[Any, Snapshot], None],
        start: Snapshot | None = None,
    ) -> np.ndarray[Any, Any]:
        """Take a chunk's steps; returns the summed costs of each step, computed once at the end.

        `rates` are the learning rates of the steps, or None if constant. If parameters or costs are not
        finite, `find_non_finite` is called with the plan and the snapshot before the steps: `start`, if
        it was taken already.
        """
        plan, net = self.plan(chunk)[0], self.model
        xp, σ = net.backend.xp, net.activations[-1]
        start = start or self.snapshot(self._start)
        self._start = start
        completed = [0]
        try:
            x, y, weights = self.outputs(chunk, rates, completed)
            values = net.cost.per_example(σ, x, x, y)
            if weights is not None:
                values = xp.astype(values, xp.float64) * xp.astype(weights, xp.float64)
            costs = net.backend.to_numpy(xp.sum(values, axis=-1, dtype=xp.float64))
            if not self._is_finite(costs):
                find_non_finite(plan, start)
        except KeyboardInterrupt:
            # the interrupt may have come within a step: repeat the complete steps
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

    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        """Copies of parameters and optimizer state, and the states of the generators that steps use."""
        xp, net = self.model.backend.xp, self.model
        arrays = {"": net.vector, **self.state.arrays}
        draws = self.make_plan is not plain_plan or any(share != 0.0 for share in net.dropout)
        random = [rng.bit_generator.state for rng in net.rngs] if draws else []
        if out is None:
            return Snapshot({k: xp.asarray(x, copy=True) for k, x in arrays.items()}, random)
        for name, x in arrays.items():
            out.arrays[name][...] = x
        return Snapshot(out.arrays, random)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a snapshot."""
        for name, array in {"": self.model.vector, **self.state.arrays}.items():
            array[...] = snapshot.arrays[name]
        for rng, state in zip(self.model.rngs, snapshot.random, strict=False):
            rng.bit_generator.state = state

    def _is_finite(self, costs: np.ndarray[Any, Any] | None = None) -> bool:
        """Whether the parameters and costs are finite."""
        parameters, running = self.model.parameters, self.running
        if running is None:
            found = costs is None or bool(np.isfinite(costs).all())
            return found and all_finite(parameters.vector)
        if costs is not None and not np.isfinite(costs[:, running]).all():
            return False
        return all_finite(parameters.vector) or all(
            all_finite(block[int(i), ...]) for block in parameters.blocks for i in running
        )

    def swap_in_average(self) -> None:
        """Set the model's parameters to their average, until the next step."""
        if self.state is not None and "average" in self.state.arrays:
            if self.raw_parameters is None:
                self.raw_parameters = self.model.backend.xp.asarray(self.model.vector, copy=True)
            self.model.vector[...] = self.state.arrays["average"]

    def swap_out_average(self) -> None:
        """Set the parameters back, for networks where no callback has set others."""
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
            # a new average, for all networks, as they share the count of steps
            arrays["average"][...] = parameters.vector
            arrays["averaged"][...] = 0.0
        self.raw_parameters = None


def steps_per_readback(model: Model, m: int) -> int:
    """Number of steps on m examples whose outputs are buffered until costs are read back."""
    (least, most), times = READBACK_STEPS, model.backend.steps_per_readback
    elements = math.prod(model.stack) * model.sizes[-1] * m
    return min(most * times, max(least, READBACK_ELEMENTS * times // elements))


def first_non_finite_layer(plan: Any, results: Sequence[Array], p: int | None = None) -> int | None:
    """The layer of a step's first non-finite numbers; None where all are finite.

    `results` are the blocks of updated parameters or gradients; `p` is a network of a stack.
    """
    net, ws = plan.network, plan.workspace
    at = ... if p is None else (p, ...)
    forward = [all_finite(z[at]) for z in ws.z]
    backward = [all_finite(block[at]) for block in results]
    if not all(forward):
        return forward.index(False) + 2
    if not all(backward):
        return len(backward) + 1 - backward[::-1].index(False)
    values = net.cost.per_example(net.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
    return None if all_finite(values[at]) else len(forward) + 1
