"""Training with `DPSGD`: batches drawn at random, and the privacy that the steps have spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bpengine.backends import Array
from bpengine.backprop.plan import Plan
from bpengine.data.resident import Resident
from bpengine.data.source import Chunk, Source
from bpengine.model.model import Model
from bpengine.privacy.accountant import Accountant, Spent
from bpengine.privacy.dpsgd import DPSGD
from bpengine.privacy.noise import Noisy
from bpengine.privacy.sampling import Poisson
from bpengine.training.loop import Callback, Training

__all__ = ["PrivateTraining"]


class PrivateTraining(Training):
    """Training by `DPSGD`.

    Attributes
    ----------
    spent : list of (float, float, int)
        Sampling rate, noise multiplier and number of steps taken with them: what privacy is counted
        from. A step counts when it begins.
    """

    optimizer: Any
    source: Poisson

    def __init__(
        self,
        network: Model,
        optimizer: DPSGD,
        source: Source,
        epochs: int,
        *,
        validation: tuple[Array, ...] | None = None,
        callbacks: Sequence[Callback] = (),
        monitor: int | str | None = None,
    ) -> None:
        if monitor is not None:
            raise ValueError(
                "monitor shows what DPSGD hides: gradients of single batches. Leave it out."
            )
        if not isinstance(source, Resident):
            raise ValueError(
                "DPSGD draws each batch from all examples: give X and Y as arrays in memory."
            )
        if source.weighted:
            raise ValueError(
                "DPSGD takes no sample_weight and no class_weight: in its promise examples count alike."
            )
        accountant = [] if optimizer.delta is None else [Accountant()]
        rng = optimizer.generator(network.rng)
        super().__init__(
            network,
            optimizer.rule,
            Poisson(source, network.dtype, rng),
            epochs,
            validation=validation,
            callbacks=[*accountant, *callbacks],
        )
        self.optimizer = optimizer
        self.spent: list[Spent] = []

    def _new_plan(self, chunk: Chunk) -> Plan:
        return Plan(
            self.network,
            chunk.size,
            self.optimizer.rule,
            gradient=Noisy(self.optimizer, self.source.rng, self.source.batch_size),
            state=self.state,
            weighted=True,
        )

    def _run(self, chunk: Chunk, step: int) -> np.ndarray[Any, Any]:
        self._spend(len(chunk.batches))
        return super()._run(chunk, step)

    def _spend(self, steps: int) -> None:
        now = self.source.rate, self.optimizer.noise_multiplier
        if self.spent and self.spent[-1][:2] == now:
            steps += self.spent.pop()[2]
        self.spent.append((*now, steps))

    def _snapshot(self) -> tuple[dict[str, Array], Any]:
        arrays, random = super()._snapshot()
        rng = self.network.rng
        # steps that are taken again get the same noise; from a generator of its own they get new noise
        return arrays, rng.bit_generator.state if self.source.rng is rng else random
