"""`Network.fit` and `partial_fit`: checks of arguments, and the training."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, SupportsIndex

import numpy as np

from bpengine.backends import Array
from bpengine.callbacks import Function, Progress
from bpengine.data.prepare import (
    Pair,
    Totals,
    checked_examples,
    checked_validation,
    make_source,
    some_weights,
    split,
    take_columns,
)
from bpengine.data.source import Source
from bpengine.data.stream import BatchStream
from bpengine.distributed.collectives import Group
from bpengine.distributed.options import DataParallel
from bpengine.distributed.start import Ranks, start_together
from bpengine.distributed.strategy import DataParallelStrategy
from bpengine.model.model import Model, check_single
from bpengine.optimizers.base import Optimizer, check_optimizer
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.optimizers.sgd import SGD
from bpengine.privacy.dpsgd import DPSGD
from bpengine.privacy.training import private_training
from bpengine.training import checkpoint, full_batch
from bpengine.training.history import History
from bpengine.training.loop import Callback, Training
from bpengine.training.stack import StackTraining
from bpengine.validation import file_path, flag, positive_integer, shown

__all__ = ["partial_fit", "prepared", "run"]

BATCH_SIZE = 32


@contextmanager
def prepared(model: Model, X: Any, Y: Any, *, comm: Any, **options: Any) -> Iterator[Training]:
    """The training of the arguments of `Network.fit`."""
    if comm is None:
        yield _training(model, X, Y, **options)
        return
    data_parallel = comm if isinstance(comm, DataParallel) else DataParallel(comm)
    with Group(data_parallel.comm, data_parallel.timeout) as group:
        yield _training(model, X, Y, ranks=Ranks(group, data_parallel), **options)


def _training(
    network: Model,
    X: Array | Iterable[Pair],
    Y: Array | None,
    *,
    epochs: SupportsIndex,
    batch_size: SupportsIndex | None,
    optimizer: Optimizer | LBFGS | DPSGD,
    validation: Pair | float | None,
    sample_weight: Array | None,
    class_weight: Mapping[int, float] | str | None,
    shuffle: bool | int | str,
    callbacks: Sequence[Callback | Callable[[Training], None]],
    monitor: int | str | None,
    resume: str | os.PathLike[str] | None,
    progress: bool,
    ranks: Ranks | None = None,
) -> Training:
    epochs = positive_integer(epochs, "epochs")
    resume = None if resume is None else file_path(resume, "resume")
    m = None if batch_size is None else positive_integer(batch_size, "batch_size")
    checked = _checked_callbacks(callbacks, progress)
    if isinstance(optimizer, (LBFGS, DPSGD)):
        check_single(network, type(optimizer).__name__)
    if isinstance(optimizer, LBFGS):
        full_batch.check(network, monitor)
    elif not isinstance(optimizer, DPSGD):
        check_optimizer(optimizer)
    if ranks is not None:
        checked = ranks.start(network, optimizer, checked, Y is None and not hasattr(X, "shape"))
    if monitor is not None and not (isinstance(monitor, str) and monitor == "epoch"):
        monitor = positive_integer(monitor, "monitor")  # type: ignore[arg-type]
    source: Source
    if Y is None and not hasattr(X, "shape"):
        if isinstance(validation, numbers.Real):
            raise ValueError("a share of the examples for validation needs X and Y as arrays.")
        if sample_weight is not None or class_weight is not None:
            raise ValueError(
                "with an iterable of batches, give weights in the batches: (X, Y, sample_weight)."
            )
        if isinstance(shuffle, str):
            raise ValueError(
                "shuffle='each' needs X and Y as arrays: an iterable gives the same batches to all."
            )
        source, held_out = _stream(network, X, epochs, optimizer), validation
    else:
        X, Y, weights = checked_examples(network, X, Y, sample_weight, class_weight, ranks or Totals())
        columns, held_out = None, validation
        if isinstance(validation, numbers.Real):
            columns, rest = split(network, int(X.shape[-1]), validation)
            share = some_weights(network.backend, weights, rest, ranks or Totals())
            held_out = tuple(take_columns(network.backend, x, rest) for x in (X, Y))
            held_out += () if share is None else (share,)
        N = int(X.shape[-1]) if columns is None else len(columns)
        if isinstance(optimizer, LBFGS):
            m = N
        elif m is None:
            m = BATCH_SIZE if ranks is not None else min(BATCH_SIZE, N)
        source = make_source(network, X, Y, weights, columns, m, shuffle, ranks or Totals())
    held_out = checked_validation(network, held_out)
    options: Any = {"validation": held_out, "callbacks": checked, "monitor": monitor}
    if ranks is not None:
        options["strategy"] = DataParallelStrategy(ranks.group, ranks.options)
    if isinstance(optimizer, DPSGD):
        training = private_training(network, optimizer, source, epochs, **options)
    else:
        kind = StackTraining if network.stack else Training
        training = kind(network, optimizer, source, epochs, **options)
    if ranks is not None:
        start_together(training, ranks, resume)
        return training
    for callback in training.callbacks:
        callback.check(training)
    if resume is not None and resume.exists():
        checkpoint.resume(training, resume)
    return training


def run(training: Training) -> History:
    """Train until all epochs are complete or Ctrl-C."""
    started: list[Callback] = []
    # overflow raises NonFiniteCostError instead of warnings
    with np.errstate(all="ignore"):
        try:
            for callback in training.callbacks:
                callback.start(training)
                started.append(callback)
            if isinstance(training.optimizer, LBFGS):
                full_batch.minimize(training)
            else:
                training.run()
        except BaseException as error:
            training.show_parameters()  # after an epoch callbacks may have set others
            if not isinstance(error, KeyboardInterrupt):
                raise
            training.history.interrupted = True
            training.history.drop_incomplete()
        finally:
            with ExitStack() as ends:  # all are called, even if one fails
                for callback in reversed(started):
                    ends.callback(callback.end, training)
    training.runner.keep()
    return training.history


def partial_fit(
    model: Model,
    training: Training | None,
    X: Array,
    Y: Array,
    *,
    batch_size: SupportsIndex,
    optimizer: Optimizer | None,
    sample_weight: Array | None,
    class_weight: Mapping[int, float] | str | None,
    shuffle: bool | int | str,
) -> tuple[Training, Any]:
    """One pass over some examples; returns the training for the next call, and the cost."""
    m = positive_integer(batch_size, "batch_size")
    if optimizer is not None:
        check_optimizer(optimizer)
    X, Y, weights = checked_examples(model, X, Y, sample_weight, class_weight, Totals())
    N = int(X.shape[-1])
    source = make_source(model, X, Y, weights, None, min(m, N), shuffle, Totals(), passes=1)
    if training is None or optimizer not in (None, training.optimizer):
        kind = StackTraining if model.stack else Training
        training = kind(model, optimizer or SGD(), source)
    training.set_source(source)
    with np.errstate(all="ignore"):
        try:
            cost = training.pass_over_examples()
        finally:
            training.show_parameters()
    return training, training.end_partial_fit(cost)


def _checked_callbacks(callbacks: Any, progress: bool) -> list[Callback]:
    try:
        given = None if isinstance(callbacks, str) else list(callbacks)
    except TypeError:
        given = None
    if given is None:
        raise TypeError(
            f"callbacks must be a list, such as [bp.EarlyStopping()]; got {shown(callbacks)}."
        )
    found: list[Callback] = []
    for callback in given:
        if isinstance(callback, Callback):
            found.append(callback)
        elif callable(callback) and not isinstance(callback, (type, Model)):
            found.append(Function(callback))
        else:
            raise TypeError(
                "callbacks must be bpengine.Callback objects or functions of the training; "
                f"got {shown(callback)}."
            )
    if flag(progress, "progress"):
        found.append(Progress())
    # a checkpoint stores the states of the others after the epoch
    return sorted(found, key=lambda callback: callback.runs_last)


def _stream(network: Model, X: Any, epochs: int, optimizer: object) -> BatchStream:
    """An iterable of batches as a source."""
    if not isinstance(X, Iterable):
        raise TypeError(
            f"X must be an array of shape (n_1, N), with Y, or an iterable of batches (X, Y); "
            f"got {type(X).__name__}."
        )
    if isinstance(X, Iterator) and epochs > 1:
        raise TypeError(
            f"X is an iterator, which can be read once, and epochs={epochs}. Give an iterable that "
            "starts anew in each epoch, such as a list or an object with __iter__, or epochs=1."
        )
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS takes all examples in every step: give X and Y as arrays.")
    network.bind_backend(network.backend)  # the steps are prepared before the first batch comes
    return BatchStream(network, X)
