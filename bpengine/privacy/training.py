"""Training with `DPSGD`."""

from __future__ import annotations

from typing import Any

from bpengine.backends import Backend
from bpengine.backprop.plan import Plan
from bpengine.data.resident import InMemory
from bpengine.data.source import Chunk, Source
from bpengine.model.model import Model
from bpengine.optimizers.update import OptimizerState
from bpengine.privacy.accountant import Accountant
from bpengine.privacy.dpsgd import DPSGD
from bpengine.privacy.noise import Noisy
from bpengine.privacy.sampling import Poisson
from bpengine.training.loop import Training

__all__ = ["private_training"]


def private_training(
    model: Model,
    optimizer: DPSGD,
    source: Source,
    epochs: int,
    *,
    callbacks: Any = (),
    monitor: int | str | None = None,
    **options: Any,
) -> Training:
    """A training with Poisson-sampled batches and clipped, noisy gradients.

    Raises
    ------
    ValueError
        If an argument is not possible in private training.
    """
    if monitor is not None:
        raise ValueError("monitor shows what DPSGD hides: gradients of single batches. Leave it out.")
    if not isinstance(source, InMemory):
        raise ValueError("DPSGD draws each batch from all examples: give X and Y as arrays in memory.")
    if source.weighted:
        raise ValueError(
            "DPSGD takes no sample_weight and no class_weight: in its promise examples count alike."
        )
    rng = optimizer.generator(model.rng)
    batches = Poisson(source, model.dtype, rng, optimizer.noise_multiplier)

    def make_plan(model: Model, chunk: Chunk, state: OptimizerState, executor: Backend) -> Plan:
        return Plan(
            model,
            chunk.size,
            optimizer.rule,
            gradient=Noisy(optimizer, rng, batches.batch_size),
            state=state,
            weighted=True,
        )

    if optimizer.delta is not None:
        callbacks = [Accountant(batches, optimizer.delta), *callbacks]
    return Training(
        model,
        optimizer,
        batches,
        epochs,
        callbacks=callbacks,
        rule=optimizer.rule,
        make_plan=make_plan,
        **options,
    )
