"""Grid searches against scikit-learn's on the same cores: `python benchmarks/search.py`.

Prints a table in Markdown: the time of `GridSearchCV.fit` over scikit-learn's estimator, with as many
jobs as cores, divided by that of `StackSearchCV.fit` with default settings, over the same 12 candidates
and 5 folds, without the fit in the end; and that of a `BaggingClassifier` by that of
`MLPEnsembleClassifier`. Both in turn in this process, after a first run of each, if that takes less
than a minute.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pages
from sklearn import neural_network
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import bpengine as bp
from bpengine import estimators

GRID = {"alpha": [1e-4, 1e-3, 1e-2], "learning_rate_init": [3e-4, 1e-3, 3e-3, 1e-2]}
FOLDS = 5
MEMBERS = 20
LONG = 60.0  # seconds of a first round that is the only one
NETWORKS: dict[str, tuple[int, tuple[int, ...]]] = {
    "64-20-10": (64, (20,)),
    "64-100-10": (64, (100,)),
    "64-100-100-10": (64, (100, 100)),
    "784-512-10": (784, (512,)),
}


def examples(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The digits; with 784 pixels each of them three and a half times as large, and as many."""
    X, y = bp.datasets.digits()
    X = X.T.astype("float64")
    if pixels == 784:
        X = np.kron(X.reshape(-1, 8, 8), np.ones((4, 4)))[:, 2:30, 2:30].reshape(len(X), -1)
    return X, y


def pairs(name: str, epochs: int) -> dict[str, tuple[Any, Any]]:
    """Our estimator, and scikit-learn's for the same work."""
    hidden = NETWORKS[name][1]
    options: dict[str, Any] = {"hidden_layer_sizes": hidden, "random_state": 0, "tol": 0.0}
    options |= {"n_iter_no_change": epochs, "max_iter": epochs}
    theirs, jobs = neural_network.MLPClassifier(**options), os.cpu_count()
    member = options | {"random_state": None}
    return {
        "search": (
            estimators.StackSearchCV(estimators.MLPClassifier(**options), GRID, cv=FOLDS, refit=False),
            GridSearchCV(theirs, GRID, cv=FOLDS, refit=False, n_jobs=jobs),
        ),
        "ensemble": (
            estimators.MLPEnsembleClassifier(MEMBERS, bootstrap=True, **options),
            BaggingClassifier(
                neural_network.MLPClassifier(**member), MEMBERS, random_state=0, n_jobs=jobs
            ),
        ),
    }


def table(names: Iterable[str], epochs: int, rounds: int) -> str:
    """Markdown: a row for each network, with scikit-learn's time ÷ ours."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # of other processes
    rows = {}
    for name in names:
        X, y = examples(NETWORKS[name][0])
        cells = []
        for models in pairs(name, epochs).values():
            first = [[seconds(model, X, y) for model in models]]  # starts processes
            more = []
            while len(more) < rounds - 1 and sum(first[0]) < LONG:
                more.append([seconds(model, X, y) for model in models])
            ours, theirs = np.array(more or first).T
            cells += [f"**{np.median(theirs / ours):.2f}**", f"{ours.min():.2f}", f"{theirs.min():.2f}"]
        rows[name] = cells
        print(name, *cells, file=sys.stderr, flush=True)
    columns = [
        f"{what}{unit}" for what in ("search", "ensemble") for unit in ("", ", s", ", scikit-learn, s")
    ]
    return pages.table("", columns, rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    print(table(given.names or NETWORKS, given.epochs, given.rounds))


def seconds(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    """Time of a fit."""
    start = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
