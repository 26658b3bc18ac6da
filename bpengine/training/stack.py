"""Training of a stack, whose networks may stop at different times."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bpengine import schedules
from bpengine.backends import Array
from bpengine.data.source import Chunk, Source
from bpengine.model.model import take_networks
from bpengine.training.checkpoint_checks import numbers, same_generator
from bpengine.training.history import LAYERS, Statistics
from bpengine.training.loop import Training
from bpengine.training.step_statistics import Monitor
from bpengine.training.steps import NonFiniteCostError, Snapshot, first_non_finite_layer

__all__ = ["StackTraining"]


class StackTraining(Training):
    """A training of a stack.

    Attributes
    ----------
    numbers : array of int
        Indices of the runner's networks in the stack.
    running : array of bool, shape (P,)
        Networks that have not stopped.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.numbers = np.arange(len(self.network))
        self.running = np.ones(len(self.network), bool)
        self.runner.running = list(range(len(self.network)))
        self._last_finite: dict[int, list[Array]] = {}  # parameters before a step that went wrong

    def stop_networks(self, numbers: Any) -> None:
        """End the training of some networks, with their current parameters."""
        self.running[numbers] = False
        self.runner.running = np.flatnonzero(self.running[self.numbers]).tolist()
        if not self.running.any():
            self.stop()

    def set_source(self, source: Source) -> None:
        """Continue with another source, for the runner's networks."""
        whole = self.runner.model is self.network
        super().set_source(source if whole else source.for_networks(self.numbers))

    def state_dict(self) -> dict[str, Any]:
        """Stopped networks and states of all random generators."""
        return {
            "networks": {
                "random": [rng.bit_generator.state for rng in self.network.rngs],
                "active": self.numbers,
                "running": self.running,
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, but not the network."""
        found, P = state["networks"], len(self.network)
        if len(found["random"]) != P:
            raise ValueError(f"it is of a stack of {len(found['random'])} networks, not {P}")
        generators = [
            same_generator(rng, random)
            for rng, random in zip(self.network.rngs, found["random"], strict=True)
        ]
        active, running = found["active"], np.array(found["running"])
        if running.shape != (P,) or running.dtype != bool:
            raise ValueError(f"it says which of {running.size} networks have stopped, of a stack of {P}")
        indices = numbers(active, "active networks", (len(active),), (0, P - 1), whole=True)
        left = set(np.flatnonzero(running).tolist())
        if sorted(set(active)) != active or not left <= set(active) or not (left or state["stopped"]):
            raise ValueError(f"its active networks {active!r:.60} are not those that have not stopped")
        if len(indices) < P:
            self._select(indices)
        self.running, self._generators = running, generators
        self.runner.running = np.flatnonzero(running[self.numbers]).tolist()

    def resume(self) -> None:
        """Called after a checkpoint's parameters were restored."""
        for rng, generator in zip(self.network.rngs, self._generators, strict=True):
            rng.bit_generator.state = generator.state
        runner = self.runner
        if runner.model is self.network:
            return
        parameters = runner.model.parameters
        # a stopped network that the runner still has continues from the optimizer's state
        shown = runner.state.arrays.get("average", parameters.vector)
        for block, value in zip(parameters.blocks, parameters.split(shown), strict=True):
            block[...] = value
        self._copy_from_stack()

    def _copy_from_stack(self) -> None:
        """Copy the stack's parameters, which callbacks may have set, to the runner."""
        parameters, whole = self.runner.model.parameters, self.network.parameters.blocks
        vector = parameters.backend.xp.asarray(parameters.vector, copy=True)
        for position, p in self._still_running():
            _write(parameters.split(vector), position, [block[p, ...] for block in whole])
        parameters.vector[...] = vector  # one assignment: Ctrl-C leaves all or none of it

    def pass_over_examples(self) -> Any:
        """Run an epoch's steps of the networks that have not stopped."""
        if self.runner.model is not self.network:
            self._copy_from_stack()
        self.runner.swap_out_average()
        left = self.running[self.numbers]
        if not left.any():
            raise ValueError(
                "all networks of the stack have stopped; fit, or partial_fit with another optimizer, "
                "starts anew."
            )
        # copy to a smaller stack at the first stop, and later when half of the networks have stopped
        is_copy = self.runner.model is not self.network
        if not left.all() and (not is_copy or left.sum() <= len(left) / 2):
            self._select(np.flatnonzero(left))
        cost = super().pass_over_examples()
        left = self.running[self.numbers]
        if self._last_finite and left.any():
            self._select(np.flatnonzero(left))
            return cost[left]
        return cost

    def _still_running(self) -> list[tuple[int, int]]:
        """Positions in the runner's stack, and indices, of networks that have not stopped."""
        return [(position, p) for position, p in enumerate(self.numbers.tolist()) if self.running[p]]

    def _select(self, positions: np.ndarray[Any, Any]) -> None:
        """Continue with some of the runner's networks, copied to a new stack."""
        backend = self.runner.model.backend
        self.runner, self.numbers = self.runner.take(positions), self.numbers[positions]
        self.runner.running = np.flatnonzero(self.running[self.numbers]).tolist()
        self.schedule = schedules.resolve(self.runner.state.optimizer.learning_rate)
        self.source = self.source.for_networks(positions)
        if self.validation is not None:
            X, Y, *weights = self.validation
            self.validation = (
                *(take_networks(backend, x, positions) if x.ndim > 2 else x for x in (X, Y)),
                *(w[positions] if w.ndim > 1 else w for w in weights),
            )

    def show_parameters(self) -> None:
        """Set the stack's parameters to the current ones, or to their average."""
        super().show_parameters()
        whole = self.network.parameters.blocks
        if self.runner.model is not self.network:
            blocks = self.runner.model.parameters.blocks
            for position, p in self._still_running():
                _write(whole, p, [block[position, ...] for block in blocks])
        for p, last in self._last_finite.items():
            _write(whole, p, last)
        self._last_finite.clear()

    def _of_all(self, figure: Any, name: str) -> Any:
        """The figure of all networks, with the last one of those that have stopped."""
        before = getattr(self.history, name)
        return self._spread(figure, before[-1] if before else np.nan)

    def _statistics(self, monitor: Monitor, chunk: Chunk, step: int) -> Statistics:
        """The statistics of a chunk's first step; NaN for networks that have stopped."""
        found = super()._statistics(monitor, chunk, step)
        figures: Any = {name: tuple(map(self._spread, getattr(found, name))) for name in LAYERS}
        return dataclasses.replace(found, cost=self._spread(found.cost), **figures)

    def _spread(self, figure: Any, others: Any = np.nan) -> Any:
        """A figure of the runner's networks as one of all networks."""
        figures = np.full(len(self.network), others)
        running = self.running[self.numbers]
        figures[self.numbers[running]] = np.asarray(figure)[running]
        return figures

    def find_non_finite(
        self, plan: Any, start: Snapshot, chunk: Chunk, rates: list[float] | None, step: int
    ) -> None:
        """Repeat a chunk's steps from `start`; a network stops before its first non-finite step."""
        runner = self.runner
        runner.restore(start)
        parameters = runner.model.parameters
        stopped: list[int] = []
        error: NonFiniteCostError | None = None
        for i in range(len(chunk.batches)):
            before = runner.snapshot()
            runner.step(plan, chunk, i, rates)
            for position, p in self._still_running():
                layer = first_non_finite_layer(plan, parameters.blocks, position)
                if layer is not None:
                    error = NonFiniteCostError(self.epoch + 1, step + i + 1, layer)
                    blocks = parameters.split(before.arrays[""])
                    self._last_finite[p] = [block[position, ...] for block in blocks]
                    self.stop_networks(p)
                    stopped.append(p)
        if error is not None and not self.running.any():
            raise error
        if stopped:
            warnings.warn(
                f"the cost of network {', '.join(map(str, stopped))} of the stack is no longer finite "
                f"in epoch {self.epoch + 1}; each keeps its last finite parameters, and the others "
                "continue. Try a smaller learning rate.",
                RuntimeWarning,
                stacklevel=2,
            )


def _write(blocks: Sequence[Array], p: int, values: Sequence[Array]) -> None:
    for block, value in zip(blocks, values, strict=True):
        block[p, ...] = value
