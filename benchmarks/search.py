"""Grid searches as stacks against scikit-learn's: `python benchmarks/search.py`.

Prints a table in Markdown: the time of `GridSearchCV.fit` divided by that of `StackSearchCV.fit`, over
the same settings and folds of the digits, without the fit in the end, taken in turn in this process.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial
from typing import Any

from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import bpengine as bp
from bpengine import estimators
from bpengine.timing import measure

GRID = {"alpha": [1e-4, 1e-3, 1e-2, 0.1], "learning_rate_init": [1e-4, 3e-4, 1e-3, 3e-3]}
FOLDS = 5
NETWORKS: dict[str, dict[str, Any]] = {
    "64-10-10, batch 32": {"hidden_layer_sizes": (10,), "batch_size": 32},
    "64-30-10, batch 32": {"hidden_layer_sizes": (30,), "batch_size": 32},
    "64-10-10, batch 200": {"hidden_layer_sizes": (10,)},
    "64-100-10, batch 200": {"hidden_layer_sizes": (100,)},
}
PEERS: dict[str, tuple[Any, int]] = {
    "scikit-learn, n_jobs=1": (neural_network.MLPClassifier, 1),
    "scikit-learn, n_jobs=2": (neural_network.MLPClassifier, 2),
    "MLPClassifier of bpengine, n_jobs=1": (estimators.MLPClassifier, 1),
    "MLPClassifier of bpengine, n_jobs=2": (estimators.MLPClassifier, 2),
}


def table(pairs: int, epochs: int, dtype: str) -> str:
    """Markdown: a row for each network, a column for each way without stacks."""
    X, y = bp.datasets.digits()
    X = X.T.astype(dtype)
    lines = [f"| {dtype} | {' | '.join(PEERS)} |", "|---" * (len(PEERS) + 1) + "|"]
    for name, options in NETWORKS.items():
        parameters = {"random_state": 0, "tol": 0.0, "n_iter_no_change": epochs, "max_iter": epochs}
        parameters |= options
        model = estimators.MLPClassifier(**parameters)
        ours = estimators.StackSearchCV(model, GRID, cv=FOLDS, refit=False)
        cells = []
        for peer, (Estimator, n_jobs) in PEERS.items():
            theirs = GridSearchCV(Estimator(**parameters), GRID, cv=FOLDS, refit=False, n_jobs=n_jobs)
            ratio = measure(partial(theirs.fit, X, y), partial(ours.fit, X, y), pairs=pairs, rng=0)
            print(f"{name} {peer} {ratio}", file=sys.stderr, flush=True)
            cells.append(f"**{ratio.median:.2f}** {ratio.low:.2f}–{ratio.high:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dtype", default="float64")
    given = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(table(given.pairs, given.epochs, given.dtype))


if __name__ == "__main__":
    main()
