"""Callbacks: early stopping, checkpoints, logs and progress."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from bpengine.backends import Array
from bpengine.model import files
from bpengine.model.model import Model
from bpengine.model.storage import check_regular, remove_leftovers
from bpengine.model.suggestions import known_keywords
from bpengine.training import checkpoint
from bpengine.training.checkpoint_checks import numbers
from bpengine.training.history import short
from bpengine.training.loop import Callback, Training
from bpengine.validation import (
    check_function,
    choose,
    file_path,
    flag,
    non_negative_number,
    positive_integer,
)

__all__ = ["CSVLog", "Checkpoint", "EarlyStopping", "Function", "JSONLinesLog", "Progress"]

LINE_BYTES = 2**26  # more than the figures of a stack of any size


class Function(Callback):
    """A function that is given the training after each epoch."""

    def __init__(self, function: Callable[[Training], None]) -> None:
        check_function(function, "function", "print")
        self.function = function

    def epoch(self, training: Training) -> None:
        """Call it."""
        self.function(training)


@known_keywords
class EarlyStopping(Callback):
    """End training when the cost has stopped falling, and restore the best parameters.

    In a stack, networks stop independently.

    Parameters
    ----------
    patience : int, optional
        Epochs without an improvement after which training ends.
    min_delta : float, optional
        What counts as an improvement: the figure must be better than the best by more than this.
    monitor : {"validation_cost", "validation_accuracy", "cost"}, optional
        The figure of `History` to monitor; by default the validation cost, else the training cost.
    restore : bool, optional
        Whether the network ends with the parameters of the best epoch.

    Examples
    --------
    >>> import bpengine as bp
    >>> X, labels = bp.datasets.circles(200, rng=0)
    >>> net = bp.Network([2, 8, 2], cost="binary_cross_entropy", rng=0)
    >>> stop = bp.EarlyStopping(patience=3, min_delta=0.01)
    >>> history = net.fit(X, labels, epochs=500, validation=0.2, callbacks=[stop], progress=False)
    >>> len(history.cost) < 500, history.best_epoch == len(history.cost) - 3
    (True, True)
    """

    equal_on_ranks = "patience", "min_delta", "monitor", "restore"

    def __init__(
        self,
        patience: int = 10,
        min_delta: float = 0.0,
        monitor: str | None = None,
        restore: bool = True,
    ) -> None:
        self.patience = positive_integer(patience, "patience")
        self.min_delta = non_negative_number(min_delta, "min_delta")
        names = ("validation_cost", "validation_accuracy", "cost")
        self.monitor = None if monitor is None else choose(monitor, {n: n for n in names}, "monitor")
        self.restore = flag(restore, "restore")
        self._best = Best()

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = {"min_change": "min_delta"}  # in pickles of version 0.1
        vars(self).update({names.get(name, name): value for name, value in state.items()})
        if not isinstance(self._best, Best):
            attributes = ("_best", "_best_epoch", "_waited", "_parameters")
            self._best = Best(*(vars(self).pop(name) for name in attributes))

    def check(self, training: Training) -> None:
        """Raise if there is nothing to monitor, or restored parameters are not the network's."""
        if self.monitor not in training.figures and self.monitor is not None:
            raise ValueError(
                f"EarlyStopping(monitor={self.monitor!r}) has nothing to monitor: give fit(validation=…)"
                + (" with classes as targets." if self.monitor == "validation_accuracy" else ".")
            )
        network, xp, θ = training.network, training.network.backend.xp, self._best.parameters
        if not training.epoch or θ is None:
            return
        if (
            tuple(θ.shape) != tuple(network.vector.shape)
            or θ.dtype != network.vector.dtype
            or not bool(xp.all(xp.isfinite(θ)))
        ):
            raise ValueError(
                f"early stopping's best parameters have shape {tuple(θ.shape)} and dtype {θ.dtype}, "
                f"expected finite ones of shape {tuple(network.vector.shape)} and {network.vector.dtype}"
            )
        numbers(self._best.figure, "best figure", network.stack, (-math.inf, math.inf))
        for name in ("epoch", "waited"):
            numbers(getattr(self._best, name), name, network.stack, (0, training.epoch), whole=True)

    def start(self, training: Training) -> None:
        """Reset at the start of a new training."""
        if not training.epoch:
            self.load_state_dict({})

    def epoch(self, training: Training) -> None:
        """Compare with the best so far."""
        history, network, best = training.history, training.network, self._best
        figures = history.monitored_costs if self.monitor is None else getattr(history, self.monitor)
        figure = figures[-1] if self.monitor == "validation_accuracy" else -figures[-1]
        figure = np.where(np.isnan(figure), -math.inf, figure)
        better = (figure > best.figure + self.min_delta) | (best.parameters is None)
        # one assignment: whenever Ctrl-C comes, epoch and parameters belong together
        self._best = best = Best(
            _number(np.where(better, figure, best.figure)),
            _number(np.where(better, training.epoch, best.epoch)),
            _number(np.where(better, 0, best.waited + 1)),
            _updated(best.parameters, network, better),
        )
        if network.stack:
            training.stop_networks(best.waited >= self.patience)  # type: ignore[attr-defined]
        elif best.waited >= self.patience:
            training.stop()

    def end(self, training: Training) -> None:
        """Restore the best parameters."""
        if self.restore and self._best.parameters is not None:
            training.network.vector[...] = self._best.parameters
            training.history.best_epoch = self._best.epoch

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        best = self._best
        figures = {"best": best.figure, "best_epoch": best.epoch, "waited": best.waited}
        found: dict[str, Any] = {name: np.asarray(x).tolist() for name, x in figures.items()}
        return found if best.parameters is None else {**found, "parameters": best.parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best so far."""
        found = {"best": -math.inf, "best_epoch": 0, "waited": 0, **state}
        self._best = Best(
            numbers(found["best"], "best figure", None),
            numbers(found["best_epoch"], "best epoch", None, whole=True),
            numbers(found["waited"], "epochs waited", None, whole=True),
            state.get("parameters"),
        )


class Best(NamedTuple):
    """The best figure so far, higher being better; of a stack, arrays of shape (P,)."""

    figure: Any = -math.inf
    epoch: Any = 0
    waited: Any = 0  # epochs since
    parameters: Array | None = None


def _number(array: np.ndarray[Any, Any]) -> Any:
    return array if array.ndim else array.item()


def _updated(best: Array | None, network: Model, better: np.ndarray[Any, Any]) -> Array:
    """A copy of the best parameters with the current ones of the networks that are better."""
    copy = partial(network.backend.xp.asarray, copy=True)
    if best is None or better.all():
        return copy(network.vector)
    if better.any():
        best = copy(best)
        for stored, block in zip(network.parameters.split(best), network.parameters.blocks, strict=True):
            for p in np.flatnonzero(better).tolist():
                stored[p, ...] = block[p, ...]
    return best


@known_keywords
class Checkpoint(Callback):
    """Write the state of training to a file, atomically.

    ``fit(…, resume=path)`` continues from it, with the same result, bit for bit, as an uninterrupted
    run. `load` reads the network from it.

    Parameters
    ----------
    path : path
    every : int, optional
        Write every so many epochs, and after the last.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import bpengine as bp
    >>> X, labels = bp.datasets.circles(200, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "run.npz"
    ...     options = {"callbacks": [bp.Checkpoint(path)], "resume": path, "progress": False}
    ...     for epochs in (3, 10):  # a run that ends after 3 epochs, and goes on to 10
    ...         net = bp.Network([2, 8, 2], cost="binary_cross_entropy", rng=0)
    ...         history = net.fit(X, labels, epochs=epochs, **options)
    >>> len(history.cost)
    10
    """

    runs_last = True
    main_rank_only = True

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        self.path = file_path(path, "path")
        self.every = positive_integer(every, "every")

    def check(self, training: Training) -> None:
        """Raise if the file can't be written."""
        files.check_writable(self.path)

    def start(self, training: Training) -> None:
        """Remove what killed runs left of unfinished files."""
        remove_leftovers(self.path)

    def epoch(self, training: Training) -> None:
        """Write a checkpoint if it is due."""
        if training.epoch % self.every == 0 or training.is_last:
            checkpoint.save(training, self.path)


class _Log(Callback):
    """A line for each epoch, after `header` lines."""

    main_rank_only = True
    header = 0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file_path(path, "path")

    def check(self, training: Training) -> None:
        """Raise if the file can't be written, or continued."""
        is_new = check_regular(self.path) is None
        with open(self.path, "a+b") as file:
            self._skip(file, training.epoch)
        if is_new:
            self.path.unlink()

    def start(self, training: Training) -> None:
        """Create the file; drop lines of epochs that a resumed training repeats."""
        with open(self.path, "a+b") as file:
            self._skip(file, training.epoch)
            file.truncate(file.seek(0, os.SEEK_CUR))

    def _skip(self, file: BinaryIO, epochs: int) -> None:
        file.seek(0)
        for _ in range(epochs and epochs + self.header):
            if len(file.readline(LINE_BYTES)) == LINE_BYTES:
                raise ValueError(
                    f"{file.name} is no log of a training: it has a line of {LINE_BYTES} bytes."
                )


class CSVLog(_Log):
    """Write each epoch's figures as a line of a CSV file.

    Parameters
    ----------
    path : path
        Overwritten; a resumed training appends to it.
    """

    header = 1

    def check(self, training: Training) -> None:
        """Raise if the file can't be written, or continued."""
        super().check(training)
        if training.epoch:
            self._columns()

    def start(self, training: Training) -> None:
        """Create the file; drop lines of epochs that a resumed training repeats."""
        super().start(training)
        self._names = self._columns()

    def _columns(self) -> list[str]:
        """The names in the first line; none without a file."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            header = file.readline(LINE_BYTES)
        try:
            return next(csv.reader([header.decode()]), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{self.path} is no log of a training: {error}.") from None

    def epoch(self, training: Training) -> None:
        """Write a line, after a header."""
        figures = {"epoch": training.epoch, **_in_columns(training.history.last())}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not self._names:
                self._names = list(figures)
                writer.writerow(self._names)
            writer.writerow([figures.get(name, "") for name in self._names])


class JSONLinesLog(_Log):
    """Write each epoch's figures as a line of JSON.

    Parameters
    ----------
    path : path
        As for `CSVLog`.
    """

    def epoch(self, training: Training) -> None:
        """Write a line, with null for numbers that are not finite."""
        figures = {"epoch": training.epoch, **training.history.last()}
        line = {name: _in_json(value) for name, value in figures.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _in_columns(figures: dict[str, Any]) -> dict[str, float]:
    """Figures by name; per-network ones as cost[0], cost[1], …."""
    columns: dict[str, float] = {}
    for name, value in figures.items():
        if np.ndim(value):
            columns |= {f"{name}[{p}]": figure for p, figure in enumerate(value)}
        else:
            columns[name] = value
    return columns


def _in_json(value: Any) -> Any:
    if np.ndim(value):
        return [_in_json(figure) for figure in value.tolist()]
    return value if math.isfinite(value) else None


class Progress(Callback):
    """A tqdm bar where tqdm is installed, else ten lines or so, on standard error."""

    main_rank_only = True

    def start(self, training: Training) -> None:
        """Open the bar."""
        self._bar: Any = None
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        steps = training.source.steps
        total = None if steps is None else training.epochs * steps
        done = 0 if steps is None else training.epoch * steps
        self._bar = tqdm(total=total, initial=done, unit="step", leave=True)

    def steps(self, training: Training, count: int) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update(count)

    def epoch(self, training: Training) -> None:
        """Show the epoch's figures."""
        shown = {"cost": "cost", "validation_cost": "validation cost", "validation_accuracy": "accuracy"}
        figures = training.history.last()
        parts = [
            f"{text} {short(figures[name], '.4f' if text == 'accuracy' else '.4g')}"
            for name, text in shown.items()
            if name in figures
        ]
        line = f"epoch {training.epoch}/{training.epochs}: {', '.join(parts)}"
        every = max(1, training.epochs // 10)
        if self._bar is not None:
            self._bar.set_postfix_str(line)
        elif training.stopped or training.epoch % every == 0 or training.epoch == training.epochs:
            print(line, file=sys.stderr, flush=True)

    def end(self, training: Training) -> None:
        """Close the bar."""
        text = "interrupted: the network keeps what it has learned."
        if self._bar is not None:
            if training.history.interrupted:
                self._bar.write(text, file=sys.stderr)
            self._bar.close()
        elif training.history.interrupted:
            print(text, file=sys.stderr, flush=True)
