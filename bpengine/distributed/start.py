"""How ranks begin to train together: what is checked, and what all take from rank 0."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bpengine.data.prepare import Totals
from bpengine.distributed.agreement import BEGIN, COUNTS, DRAW, SAME, START, WEIGHTS, derive, generators
from bpengine.distributed.collectives import Group
from bpengine.distributed.options import DataParallel
from bpengine.distributed.strategy import DataParallelTraining
from bpengine.model import files
from bpengine.model.model import Model
from bpengine.optimizers.base import Optimizer
from bpengine.training import checkpoint
from bpengine.training.history import History
from bpengine.training.loop import Callback

__all__ = ["Ranks", "take_up"]


@dataclass(frozen=True)
class Ranks(Totals):
    """What `fit` needs of the other ranks before training begins.

    Parameters
    ----------
    group : Group
    options : DataParallel
    """

    group: Group
    options: DataParallel
    alone = False

    def start(
        self, network: Model, optimizer: object, callbacks: list[Callback], is_stream: bool
    ) -> list[Callback]:
        """Check what is asked for; gives the callbacks that this rank is to have.

        Raises
        ------
        ValueError
            If ranks can't train together in this way.
        """
        if not isinstance(optimizer, Optimizer):
            raise ValueError(
                f"{type(optimizer).__name__} trains on one machine: leave out comm, or take another "
                "optimizer, such as bp.Adam()."
            )
        streams = self.group.agree(START, is_stream)[:, 0]
        if streams.any() and not streams.all():
            raise self.group.settled(
                ValueError("give arrays on all ranks or iterables of batches on all; some have either.")
            )
        for rng in generators(network):
            derive(self.group, rng, DRAW)
        return [x for x in callbacks if self.group.rank == 0 or not x.main_rank_only]

    def check_own(self, own: Collection[str]) -> None:
        """Raise ValueError if networks of a stack can't have this for themselves on several ranks."""
        if own and (list(own) != ["targets"] or self.options.accumulate > 1):
            raise ValueError(
                f"the {' and the '.join(own)} are each network's own; with comm the networks of a stack "
                "share inputs, order and sample_weight, and with accumulate above 1 targets too."
            )

    def count(self, counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Counts over all ranks."""
        self.group.agree(COUNTS)
        self.group.sum(counts)
        return counts

    def relative(self, weights: np.ndarray[Any, Any] | None, N: int) -> np.ndarray[Any, Any] | None:
        """The weights of N examples, relative to the mean of all ranks'; None where no rank has any."""
        own = N if weights is None else float(weights.sum())
        table = self.group.agree(WEIGHTS, weights is not None, own, N)
        if not table[:, 0].any():
            return None
        total, examples = table[:, 1:3].sum(axis=0)
        if total == 0:
            raise self.group.settled(
                ValueError("sample_weight is 0 for every example; at least one must count.")
            )
        return np.asarray((np.ones(N) if weights is None else weights) / (total / examples))


def take_up(training: DataParallelTraining, resume: str | os.PathLike[str] | None) -> None:
    """Take up what rank 0 has: parameters, or a checkpoint's training."""
    group, network = training.group, training.network
    if group.rank == 0 and resume is not None and Path(resume).exists():
        checkpoint.resume(training, resume)
    steps = group.agree(BEGIN, training.source.steps or 0)[:, 0]
    # the progress of an epoch, for schedules: that of the rank that has the most steps
    training.source.steps = int(steps.max()) if steps.all() else None
    if group.size == 1:
        return
    shared = [x for x in training.callbacks if not x.main_rank_only]
    description, _ = files.describe(network)
    own = {
        **description,
        "optimizer": type(training.optimizer).__name__,
        "learning_rate": np.asarray(training.rate).tolist(),
        "epochs": training.epochs,
        "sync_every": training.options.sync_every,
        "accumulate": training.options.accumulate,
        "overlap": training.options.overlap,
        "callbacks": [type(x).__name__ for x in shared],
    }
    own = {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in own.items()}
    told = group.broadcast_object(own)
    for name, value in told.items():
        if own[name] != value:
            raise ValueError(
                f"{name} is {own[name]!r:.80} on rank {group.rank} and {value!r:.80} on rank 0; "
                "ranks that train together need the same."
            )
    group.agree(SAME)
    memories = (
        [_moved(x.memory(), network.backend.owns, training.to_host) for x in shared]
        if training.epoch
        else None
    )
    numbers = (
        training.epoch,
        training.steps,
        training.taken,
        training.stopped,
        training.stepping is not None,
    )
    found = group.broadcast_object((numbers, training.history.as_dict(), memories))
    (training.epoch, training.steps, training.taken, training.stopped, averaged), history, memories = (
        found
    )
    assert training.state is not None
    arrays = [network.vector, *training.state.arrays.values()]
    if averaged:
        if training.stepping is None:
            training.stepping = network.backend.xp.asarray(network.vector, copy=True)
        arrays.append(training.stepping)
    for array in arrays:
        training.on_host(array, group.broadcast)
    if group.rank:
        training.history = History.from_dict(history)
        for callback, memory in zip(shared, memories or (), strict=bool(memories)):
            callback.recall(_moved(memory, _is_array, training.from_host))


def _moved(memory: dict[str, Any], is_meant: Any, move: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: move(x) if is_meant(x) else x for name, x in memory.items()}


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray)
