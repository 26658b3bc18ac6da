"""Training of a stack: its networks stop one by one, and those that have are left out of the steps."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bpengine import schedules
from bpengine.backends import Array
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk, Source
from bpengine.model.model import take_networks
from bpengine.optimizers.base import Optimizer, zeros_like
from bpengine.optimizers.update import State
from bpengine.training.history import Statistics
from bpengine.training.loop import Training
from bpengine.training.monitor import Monitor
from bpengine.training.steps import NonFiniteCostError, beginning, finite

__all__ = ["StackTraining"]


class StackTraining(Training):
    """A training of many networks at once.

    Attributes
    ----------
    active : array of int
        Which networks of the stack those of `trained` are.
    running : array of bool, shape (P,)
        Which networks have not stopped.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.active = np.arange(len(self.network))
        self.running = np.ones(len(self.network), bool)
        self._last_finite: dict[int, list[Array]] = {}  # parameters before a step that went wrong

    def freeze(self, numbers: Any) -> None:
        """End the training of some networks: they keep the parameters that they have now."""
        self.running[numbers] = False
        if not self.running.any():
            self.stop()

    def feed(self, source: Source) -> None:
        """Go on with examples from somewhere else, for the networks that are still in the steps."""
        super().feed(source if self.trained is self.network else source.of(self.active))

    def memory(self) -> dict[str, Any]:
        """Which networks have stopped, and what the others' random numbers go on from."""
        return {
            "networks": {
                "random": [rng.bit_generator.state for rng in self.network.rngs],
                "active": self.active,
                "running": self.running,
            }
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` gave, the network left as it is."""
        found, P = memory["networks"], len(self.network)
        if len(found["random"]) != P:
            raise ValueError(f"it is of a stack of {len(found['random'])} networks, not {P}")
        active, running = np.array(found["active"], int), np.array(found["running"], bool)
        generators = [type(rng.bit_generator)() for rng in self.network.rngs]
        for generator, state in zip(generators, found["random"], strict=True):
            generator.state = state
        if running.shape != (P,) or not set(active.tolist()) <= set(range(P)):
            raise ValueError(f"it says which of {running.size} networks have stopped, of a stack of {P}")
        if len(active) < P:
            self.narrow(active)
        self.running, self._generators = running, generators

    def go_on(self) -> None:
        """Start where a checkpoint has left off, now that the network's parameters are its."""
        for rng, generator in zip(self.network.rngs, self._generators, strict=True):
            rng.bit_generator.state = generator.state
        if self.trained is self.network:
            return
        assert self.state is not None
        parameters = self.trained.parameters
        # one that has stopped and is still in the steps goes on there, whatever the stack has of it
        for own, shown in zip(
            parameters.blocks,
            parameters.split(self.state.arrays.get("average", parameters.vector)),
            strict=True,
        ):
            own[...] = shown
        self._take_up()

    def _take_up(self) -> None:
        """Go on from the parameters that the stack has, which may have been set meanwhile."""
        own, whole = self.trained.parameters.blocks, self.network.parameters.blocks
        for position, p in self._still_running():
            _write(own, position, [block[p, ...] for block in whole])

    def pass_over_examples(self) -> Any:
        """Steps over all examples, by the networks that have not stopped."""
        if self.trained is not self.network:
            self._take_up()
        self._hide_average()
        left = self.running[self.active]
        if not left.any():
            raise ValueError(
                "all networks of the stack have stopped; fit, or partial_fit with another optimizer, "
                "starts anew."
            )
        # at the first stop they part from the stack; later it pays when half of them are gone
        if not left.all() and (self.trained is self.network or left.sum() <= len(left) / 2):
            self.narrow(np.flatnonzero(left))
        cost = super().pass_over_examples()
        left = self.running[self.active]
        if self._last_finite and left.any():
            self.narrow(np.flatnonzero(left))
            return cost[left]
        return cost

    def _still_running(self) -> list[tuple[int, int]]:
        """Where among those of `trained` the networks are that have not stopped, and their numbers."""
        return [(position, p) for position, p in enumerate(self.active.tolist()) if self.running[p]]

    def narrow(self, positions: np.ndarray[Any, Any]) -> None:
        """Go on with some of the networks alone, in a stack of their own."""
        before, network, optimizer = self.trained.parameters, self.trained, self.optimizer
        assert isinstance(optimizer, Optimizer)
        assert self.state is not None
        self.trained = network.take(positions)
        options: Any = {
            name: tuple(np.asarray(value)[positions].tolist())
            for name in ("learning_rate", "weight_decay")
            if isinstance(value := getattr(optimizer, name), tuple)
        }
        own_optimizer = dataclasses.replace(optimizer, **options)
        state = State(own_optimizer, self.trained.parameters)
        arrays = {**state.arrays}
        olds = {**self.state.arrays}
        if self.stepping is not None:
            olds["stepping"] = self.stepping
            self.stepping = arrays["stepping"] = zeros_like(self.trained.vector)
        for name, old in olds.items():
            if old.shape == before.vector.shape:
                for new, whole in zip(
                    self.trained.parameters.split(arrays[name]), before.split(old), strict=True
                ):
                    new[...] = take_networks(network.backend, whole, positions)
            else:
                arrays[name][...] = old
        self.state, self.active = state, self.active[positions]
        self.schedule = schedules.resolve(own_optimizer.learning_rate)
        self.source = self.source.of(positions)
        if self.validation is not None:
            X, Y, *weights = self.validation
            self.validation = (
                *(take_networks(network.backend, x, positions) if x.ndim > 2 else x for x in (X, Y)),
                *(w[positions] if w.ndim > 1 else w for w in weights),
            )
        self._plans.clear()

    def _watched(self) -> list[float]:
        """The mean of the networks' costs: a schedule gives one rate."""
        return [float(np.nanmean(costs)) for costs in self.history.watched]

    def show_average(self) -> None:
        """Let the stack have the parameters that training has come to, or their average."""
        super().show_average()
        whole = self.network.parameters.blocks
        if self.trained is not self.network:
            own = self.trained.parameters.blocks
            for position, p in self._still_running():
                _write(whole, p, [block[position, ...] for block in own])
        for p, blocks in self._last_finite.items():
            _write(whole, p, blocks)
        self._last_finite.clear()

    def _of_all(self, figure: Any, name: str) -> Any:
        """Of all networks; one that has stopped keeps its last."""
        before = getattr(self.history, name)
        return self._spread(figure, before[-1] if before else np.nan)

    def _look(self, monitor: Monitor, chunk: Chunk, step: int) -> Statistics:
        """The statistics of a chunk's first step; NaN for networks that have stopped."""
        found = super()._look(monitor, chunk, step)
        layers = ("gradient_norms", "weight_norms", "saturated", "mean_activations")
        figures: Any = {name: tuple(map(self._spread, getattr(found, name))) for name in layers}
        return dataclasses.replace(found, cost=self._spread(found.cost), **figures)

    def _spread(self, figure: Any, others: Any = np.nan) -> Any:
        """A figure of `trained` among those of all networks."""
        figures = np.full(len(self.network), others)
        running = self.running[self.active]
        figures[self.active[running]] = np.asarray(figure)[running]
        return figures

    def _is_finite(self, costs: np.ndarray[Any, Any] | None = None) -> bool:
        running = np.flatnonzero(self.running[self.active])
        if costs is not None and not np.isfinite(costs[:, running]).all():
            return False
        xp, parameters = self.trained.backend.xp, self.trained.parameters
        return finite(xp, parameters.vector) or all(
            finite(xp, block[int(i), ...]) for block in parameters.blocks for i in running
        )

    def _find_non_finite(
        self, plan: Plan, chunk: Chunk, rates: list[float] | None, start: Any, step: int
    ) -> None:
        """Replay the steps from `start`; each network stops before its step that went wrong."""
        self._restore(start)
        blocks = self.trained.parameters.blocks
        stopped: list[int] = []
        error: NonFiniteCostError | None = None
        for i, batch in enumerate(chunk.batches):
            before, _ = self._snapshot()
            self._step(plan, chunk, batch, rates, i)
            for position, p in self._still_running():
                layer = beginning(plan, blocks, position)
                if layer is not None:
                    error = NonFiniteCostError(self.epoch + 1, step + i + 1, layer)
                    old = self.trained.parameters.split(before[""])
                    self._last_finite[p] = [block[position, ...] for block in old]
                    self.freeze(p)
                    stopped.append(p)
        if error is not None and not self.running.any():
            raise error
        if stopped:
            warnings.warn(
                f"the cost of network {', '.join(map(str, stopped))} of the stack is no longer finite "
                f"in epoch {self.epoch + 1}; each keeps its last finite parameters, and the others go "
                "on. Try a smaller learning rate.",
                RuntimeWarning,
                stacklevel=2,
            )


def _write(blocks: Sequence[Array], p: int, values: Sequence[Array]) -> None:
    """Set the parameters of network p."""
    for block, value in zip(blocks, values, strict=True):
        block[p, ...] = value
