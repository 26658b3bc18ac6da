"""Callbacks: early stopping, checkpoints, logs and progress."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bpengine.backends import Array
from bpengine.model.other_libraries import known_keywords
from bpengine.training import checkpoint
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
        self._best: Any = -math.inf
        self._best_epoch: Any = 0
        self._waited: Any = 0
        self._parameters: Array | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = {"min_change": "min_delta"}  # in pickles of version 0.1
        vars(self).update({names.get(name, name): value for name, value in state.items()})

    def start(self, training: Training) -> None:
        """Reset at the start of a new training."""
        if not training.epoch:
            self.load_state_dict({})

    def epoch(self, training: Training) -> None:
        """Compare with the best so far."""
        history = training.history
        figures = history.monitored_costs if self.monitor is None else getattr(history, self.monitor)
        if not figures:
            raise ValueError(
                f"EarlyStopping(monitor={self.monitor!r}) has nothing to monitor: give fit(validation=…)"
                + (" with classes as targets." if self.monitor == "validation_accuracy" else ".")
            )
        figure = figures[-1] if self.monitor == "validation_accuracy" else -figures[-1]
        if training.network.stack:
            self._epoch_of_stack(training, np.where(np.isnan(figure), -math.inf, figure))
            return
        figure = -math.inf if math.isnan(figure) else figure
        if figure > self._best + self.min_delta or self._parameters is None:
            self._best, self._best_epoch, self._waited = figure, training.epoch, 0
            network = training.network
            self._parameters = network.backend.xp.asarray(network.vector, copy=True)
        else:
            self._waited += 1
        if self._waited >= self.patience:
            training.stop()

    def _epoch_of_stack(self, training: Any, figures: np.ndarray[Any, Any]) -> None:
        network = training.network
        if self._parameters is None:
            shape, xp = network.stack, network.backend.xp
            self._best = np.full(shape, -math.inf)
            self._best_epoch, self._waited = np.ones(shape, int), np.zeros(shape, int)
            self._parameters = xp.asarray(network.vector, copy=True)
        better = figures > self._best + self.min_delta
        self._best = np.where(better, figures, self._best)
        self._best_epoch = np.where(better, training.epoch, self._best_epoch)
        self._waited = np.where(better, 0, self._waited + 1)
        best = network.parameters.split(self._parameters)
        for p in np.flatnonzero(better).tolist():
            for stored, block in zip(best, network.parameters.blocks, strict=True):
                stored[p, ...] = block[p, ...]
        training.stop_networks(self._waited >= self.patience)

    def end(self, training: Training) -> None:
        """Restore the best parameters."""
        if self.restore and self._parameters is not None:
            training.network.vector[...] = self._parameters
            training.history.best_epoch = self._best_epoch

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        numbers = {"best": self._best, "best_epoch": self._best_epoch, "waited": self._waited}
        found: dict[str, Any] = {name: np.asarray(x).tolist() for name, x in numbers.items()}
        return found if self._parameters is None else {**found, "parameters": self._parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best so far."""
        found = {"best": -math.inf, "best_epoch": 0, "waited": 0, **state}
        self._best = _as_figure(found["best"], "float64")
        self._best_epoch, self._waited = (
            _as_figure(found[name], "int64") for name in ("best_epoch", "waited")
        )
        self._parameters = state.get("parameters")


def _as_figure(value: Any, dtype: str) -> Any:
    """A number, or for a stack an array."""
    host = np.asarray(value, dtype)
    return host if host.ndim else host.item()


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

    def epoch(self, training: Training) -> None:
        """Write a checkpoint if it is due."""
        if training.epoch % self.every == 0 or training.is_last:
            checkpoint.save(training, self.path)


class CSVLog(Callback):
    """Write each epoch's figures as a line of a CSV file.

    Parameters
    ----------
    path : path
        Overwritten; a resumed training appends to it.
    """

    main_rank_only = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file_path(path, "path")

    def start(self, training: Training) -> None:
        """Create the file; drop lines of epochs that a resumed training repeats."""
        header = _truncate(self.path, training.epoch and training.epoch + 1)
        self._names: list[str] = next(csv.reader([header]), [])

    def epoch(self, training: Training) -> None:
        """Write a line, after a header."""
        figures = {"epoch": training.epoch, **_in_columns(training.history.last())}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not self._names:
                self._names = list(figures)
                writer.writerow(self._names)
            writer.writerow([figures.get(name, "") for name in self._names])


class JSONLinesLog(Callback):
    """Write each epoch's figures as a line of JSON.

    Parameters
    ----------
    path : path
        Overwritten; a resumed training appends to it.
    """

    main_rank_only = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file_path(path, "path")

    def start(self, training: Training) -> None:
        """Create the file; drop lines of epochs that a resumed training repeats."""
        _truncate(self.path, training.epoch)

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


def _truncate(path: Path, count: int) -> str:
    """Truncate a file after `count` lines; returns the first."""
    with open(path, "a+b") as file:
        file.seek(0)
        lines = list(itertools.islice(file, count))
        file.truncate(sum(map(len, lines)))
    return lines[0].decode() if lines else ""


def _shown(value: Any, digits: str) -> str:
    """A figure as text; of a stack the range."""
    if np.ndim(value):
        return f"{np.nanmin(value):{digits}} to {np.nanmax(value):{digits}}"
    return f"{value:{digits}}"


class Progress(Callback):
    """A tqdm bar where tqdm is installed, else a line an epoch, on standard error."""

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
            f"{text} {_shown(figures[name], '.4f' if text == 'accuracy' else '.4g')}"
            for name, text in shown.items()
            if name in figures
        ]
        line = f"epoch {training.epoch}/{training.epochs}: {', '.join(parts)}"
        if self._bar is not None:
            self._bar.set_postfix_str(line)
        else:
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
