"""Start of distributed training: checks, and the state broadcast from rank 0."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bpengine.data.prepare import Totals
from bpengine.distributed.agreement import Phase, generators, seed_of_rank
from bpengine.distributed.collectives import Group, Host
from bpengine.distributed.options import DataParallel
from bpengine.distributed.strategy import on_host, to_host
from bpengine.model import files
from bpengine.model.model import Model
from bpengine.optimizers.base import Optimizer
from bpengine.training import checkpoint
from bpengine.training.history import History
from bpengine.training.loop import Callback, Training

__all__ = ["Ranks", "start_together"]


@dataclass(frozen=True)
class Ranks(Totals):
    """Totals over the ranks, and checks, before training begins."""

    group: Group
    options: DataParallel
    alone = False

    def start(
        self, network: Model, optimizer: object, callbacks: list[Callback], is_stream: bool
    ) -> list[Callback]:
        """Check the arguments; return the callbacks of this rank.

        Raises
        ------
        ValueError
            If an argument is not possible in distributed training.
        """
        if not isinstance(optimizer, Optimizer):
            raise ValueError(
                f"{type(optimizer).__name__} trains on one machine: leave out comm, or take another "
                "optimizer, such as bp.Adam()."
            )
        streams = self.group.agree(Phase.START, is_stream)[:, 0]
        if streams.any() and not streams.all():
            raise self.group.as_agreed(
                ValueError("give arrays on all ranks or iterables of batches on all; some have either.")
            )
        for rng in generators(network):
            seed_of_rank(self.group, rng, Phase.DRAW)
        return [x for x in callbacks if self.group.rank == 0 or not x.main_rank_only]

    def check_per_network(self, parts: Collection[str]) -> None:
        """Raise ValueError if `parts` can't differ between the networks of a stack."""
        if parts and (list(parts) != ["targets"] or self.options.accumulate > 1):
            raise ValueError(
                f"the {' and the '.join(parts)} differ between networks; with comm those of a stack "
                "share inputs, order and sample_weight, and with accumulate above 1 targets too."
            )

    def count(self, counts: Host) -> Host:
        """Sum counts over all ranks."""
        self.group.agree(Phase.COUNTS)
        self.group.sum(counts)
        return counts

    def relative(self, weights: Host | None, N: int) -> Host | None:
        """The weights of N examples, relative to the mean of all ranks; None if no rank has any."""
        total = N if weights is None else float(weights.sum())
        table = self.group.agree(Phase.WEIGHTS, weights is not None, total, N)
        if not table[:, 0].any():
            return None
        total, examples = table[:, 1:3].sum(axis=0)
        if total == 0:
            raise self.group.as_agreed(
                ValueError("sample_weight is 0 for every example; at least one must count.")
            )
        return np.asarray((np.ones(N) if weights is None else weights) / (total / examples))


def start_together(training: Training, ranks: Ranks, resume: str | os.PathLike[str] | None) -> None:
    """Broadcast rank 0's state, which may be a checkpoint's.

    Raises
    ------
    ValueError
        If the ranks' arguments differ.
    """
    group, network = ranks.group, training.network
    given = [name in training.figures for name in ("validation_cost", "validation_accuracy")]
    steps, *validated = group.agree(Phase.BEGIN, training.source.steps or 0, *given).T[:3]
    # schedules follow the rank with the most steps
    training.source.steps = int(steps.max()) if steps.all() else None
    if validated[0].any():  # accuracies need classes on every rank with validation data
        accuracy = ["validation_accuracy"] if (validated[0] == validated[1]).all() else []
        training.figures = ("cost", "validation_cost", *accuracy)
    shared = [x for x in training.callbacks if not x.main_rank_only]
    here = {
        **files.describe(network)[0],
        "random numbers": [type(rng.bit_generator).__name__ for rng in generators(network)],
        **dict(settings("optimizer", training.optimizer, training.epochs)),
        "epochs": training.epochs,
        "sync_every": ranks.options.sync_every,
        "accumulate": ranks.options.accumulate,
        "overlap": ranks.options.overlap,
        "callbacks": [type(x).__name__ for x in shared],
        **{
            f"callbacks[{i}].{name}": getattr(x, name)
            for i, x in enumerate(shared)
            for name in x.equal_on_ranks
        },
    }
    here = {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in here.items()}
    for name, value in group.broadcast_object(here).items() if group.size > 1 else ():
        if here[name] != value:
            raise ValueError(
                f"{name} is {here[name]!r:.80} on rank {group.rank} and {value!r:.80} on rank 0; "
                "ranks that train together need the same."
            )
    for callback in training.callbacks:
        callback.check(training)
    if group.rank == 0 and resume is not None and Path(resume).exists():
        checkpoint.resume(training, resume)
    group.agree(Phase.SAME)
    if group.size > 1:
        _broadcast_state(training, group, shared)


def settings(name: str, value: Any, epochs: int) -> Iterator[tuple[str, Any]]:
    """All that decides the steps of an optimizer and the rates of a schedule, by name."""
    if dataclasses.is_dataclass(value):
        yield name, type(value).__name__
        for field in dataclasses.fields(value):
            yield from settings(f"{name}.{field.name}", getattr(value, field.name), epochs)
    elif callable(value):  # a schedule: functions of different processes are compared by their values
        yield name, [value(epoch) for epoch in np.linspace(0, epochs, 9).tolist()]
    else:
        yield name, value


def _broadcast_state(training: Training, group: Group, shared: Sequence[Callback]) -> None:
    """Broadcast rank 0's progress, parameters, optimizer state and callbacks' states."""
    network, runner = training.network, training.runner
    backend = network.backend
    states = None
    if training.epoch:
        states = [_converted(x.state_dict(), backend.owns, partial(to_host, network)) for x in shared]
    numbers = training.epoch, training.steps, training.steps_taken, training.stopped
    averaged = runner.raw_parameters is not None
    found = group.broadcast_object((numbers, averaged, training.history.as_dict(), states))
    numbers, averaged, history, states = found
    training.epoch, training.steps, training.steps_taken, training.stopped = numbers
    arrays = [network.vector, *runner.state.arrays.values()]
    if averaged:
        if runner.raw_parameters is None:
            runner.raw_parameters = backend.xp.asarray(network.vector, copy=True)
        arrays.append(runner.raw_parameters)
    for array in arrays:
        on_host(network, array, group.broadcast)
    if group.rank:
        training.history = History.from_dict(history)
        for callback, state in zip(shared, states or (), strict=bool(states)):
            arrays_here = _converted(
                state, lambda x: isinstance(x, np.ndarray), lambda x: backend.asarray(x, str(x.dtype))
            )
            callback.load_state_dict(arrays_here)


def _converted(
    state: dict[str, Any], is_meant: Callable[[Any], bool], convert: Callable[[Any], Any]
) -> dict[str, Any]:
    return {name: convert(x) if is_meant(x) else x for name, x in state.items()}
