"""Estimators against scikit-learn's of the same names: `python benchmarks/estimators.py`.

Writes docs/benchmarks-estimators.md: time of scikit-learn's `fit` ÷ time of ours, on the same data with
the same parameters and as many epochs, both taken in turn in this process; and accuracy over seeds.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pages
from scipy import stats
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning

import bpengine as bp
from bpengine import estimators
from bpengine.timing import Ratio, measure

Data = tuple[np.ndarray, np.ndarray]
SIZES = {"digits, 64-100-10": (100,)} | {f"MNIST-like, 784-{n}-10": (n,) for n in (50, 100, 512)}
DTYPES = ("float64", "float32")
BATCHES = ("auto", 32)
BACKENDS = ("numpy", "numba")
VARIANTS: dict[str, dict[str, Any]] = {
    "solver='sgd'": {"solver": "sgd"},
    "solver='lbfgs'": {"solver": "lbfgs"},
    "early_stopping=True": {"early_stopping": True},
    "sample_weight": {},
    "activation='logistic'": {"activation": "logistic"},
    "alpha=0": {"alpha": 0.0},
}
SEEDS = 10


def digits(dtype: str) -> Data:
    """Real digits: 1,797 of 64 pixels."""
    X, y = bp.datasets.digits()
    return np.ascontiguousarray(X.T, dtype), y


def mnist_like(dtype: str, examples: int) -> Data:
    """Pixels of which 81 % are 0, as MNIST's are, and random classes: they take the same time."""
    rng = np.random.default_rng(0)
    X = rng.random((examples, 784), "float32")
    return np.where(X < 0.81, 0, X).astype(dtype), rng.integers(10, size=examples)


def times(
    data: Data, backend: str, *, pairs: int, weights: np.ndarray | None = None, **parameters: Any
) -> Ratio:
    """Time of scikit-learn's fit ÷ bpengine's."""
    theirs, ours = fits(data, backend, weights, **parameters)
    return measure(theirs, ours, pairs=pairs, rng=0)


def fits(data: Data, backend: str, weights: np.ndarray | None = None, **parameters: Any) -> Any:
    """scikit-learn's fit and bpengine's."""
    parameters = {"random_state": 0, "tol": 0.0, "n_iter_no_change": np.inf} | parameters
    theirs = neural_network.MLPClassifier(**parameters)
    ours = estimators.MLPClassifier(backend=backend, **parameters)
    return [partial(model.fit, *data, sample_weight=weights) for model in (theirs, ours)]


def products(data: Data, hidden: tuple[int, ...], batch: int, epochs: int) -> Callable[[], None]:
    """The matrix products of a fit and nothing else: no library on this BLAS can be faster."""
    X, y = data
    sizes = (X.shape[1], *hidden, len(np.unique(y)))
    steps = [batch] * (len(y) // batch) + [m for m in [len(y) % batch] if m]
    calls: dict[int, list[Any]] = {}
    for m in set(steps):
        made = calls.setdefault(m, [])
        x = np.ones((m, sizes[0] + 1), X.dtype).T  # examples contiguous, as both libraries have them
        for l, (n, k) in enumerate(zip(sizes[1:], sizes, strict=False)):
            w, δ = np.ones((n, k + 1), X.dtype), np.ones((n, m), X.dtype)
            made += [(w, x, np.empty_like(δ)), (δ, x.T, np.empty_like(w))]
            if l:
                made.append((w[:, :k].T, δ, np.empty((k, m), X.dtype)))
            x = np.ones((n + 1, m), X.dtype)

    def run() -> None:
        for m in steps * epochs:
            for operands in calls[m]:
                np.matmul(*operands)

    return run


def sizes_table(pairs: int, examples: int, networks: list[str]) -> str:
    """Markdown: networks, batches and dtypes; bpengine by each backend, and how far any could get."""
    rows = {}
    for name in networks:
        hidden = SIZES[name]
        small = name.startswith("digits")
        for batch in BATCHES:
            shown = "'auto' (200)" if batch == "auto" else batch
            for dtype in DTYPES:
                data = digits(dtype) if small else mnist_like(dtype, examples)
                epochs = 10 if small else 5
                options = {"hidden_layer_sizes": hidden, "batch_size": batch, "max_iter": epochs}
                found = [times(data, backend, pairs=pairs, **options) for backend in BACKENDS]
                alone = products(data, hidden, 200 if batch == "auto" else int(batch), epochs)
                found.append(measure(fits(data, "numpy", **options)[0], alone, pairs=pairs, rng=0))
                print(name, batch, dtype, *found, file=sys.stderr, flush=True)
                rows[f"{name} | {shown} | {dtype}"] = [pages.cell(ratio) for ratio in found]
    return pages.table("network", ["batch", "dtype", "NumPy", "Numba", "products alone"], rows)


def variants_table(pairs: int) -> str:
    """Markdown: other parameters, on digits."""
    rows, data = {}, digits("float64")
    for name, options in VARIANTS.items():
        weights = np.linspace(0.5, 1.5, len(data[1])) if name == "sample_weight" else None
        found = [
            times(data, backend, pairs=pairs, weights=weights, max_iter=10, **options)
            for backend in BACKENDS
        ]
        print(name, *found, file=sys.stderr, flush=True)
        rows[name] = [pages.cell(ratio) for ratio in found]
    return pages.table("digits, 64-100-10, float64", ["NumPy", "Numba"], rows)


def accuracy_table(epochs: int) -> str:
    """Markdown: accuracy on 500 digits after training on the others, over different seeds."""
    rows = {}
    for dtype in DTYPES:
        found: list[list[float]] = [[], []]
        differing = 0
        for seed in range(SEEDS):
            theirs, at = accuracy(neural_network, dtype, seed, epochs)
            _, same = accuracy(estimators, dtype, seed, epochs)
            other, _ = accuracy(estimators, dtype, SEEDS + seed, epochs)
            found[0].append(theirs)
            found[1].append(other)
            differing += int(np.count_nonzero(at != same))
        interval = stats.ttest_ind(found[1], found[0], equal_var=False).confidence_interval()
        difference = np.mean(found[1]) - np.mean(found[0])
        p = stats.mannwhitneyu(*found).pvalue
        rows[dtype] = [
            *(f"{np.mean(accuracies):.4f}" for accuracies in found),
            f"{difference:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]",
            f"{p:.2f}",
            f"{differing} of {SEEDS * 500:,}",
        ]
        print(dtype, *rows[dtype], file=sys.stderr, flush=True)
    columns = ["scikit-learn, mean", "bpengine, mean", "difference, 95 % interval", "Mann–Whitney p"]
    return pages.table("", [*columns, "same seeds: differing predictions"], rows)


def accuracy(library: Any, dtype: str, seed: int, epochs: int) -> tuple[float, np.ndarray]:
    """Share of right predictions on 500 digits, and the predictions."""
    X, y = digits(dtype)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[500:], order[:500]
    model = library.MLPClassifier(max_iter=epochs, random_state=seed).fit(X[train], y[train])
    predicted = model.predict(X[test])
    return float(np.mean(predicted == y[test])), predicted


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--examples", type=int, default=10_000, help="of the MNIST-like data")
    parser.add_argument("--epochs", type=int, default=100, help="of the comparison of accuracies")
    parser.add_argument("--networks", nargs="+", choices=[*SIZES], default=[*SIZES], metavar="name")
    pages.options(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    sizes = sizes_table(options.pairs, options.examples, options.networks)
    variants, accuracies = variants_table(options.pairs), accuracy_table(options.epochs)
    fitted = (
        f"Ten epochs of the 1,797 digits; five of {options.examples:,} examples of 784 pixels, of which "
        '81 % are 0. The solver is Adam. The columns are bpengine with `backend="numpy"` and '
        '`backend="numba"`. The last column is the time of scikit-learn\'s fit divided by that of its '
        "matrix products alone, by NumPy with data in the cache: with the same BLAS, no library that "
        "computes these products can reach more, and with data in main memory it reaches less."
    )
    compared = (
        f"On 500 digits after {options.epochs} epochs or fewer on the others; {SEEDS} seeds each, 0 to "
        f"{SEEDS - 1} for scikit-learn and {SEEDS} to {2 * SEEDS - 1} for bpengine, compared as two "
        "samples. The last column has the same seeds on both sides, where the weights should be the "
        "same too, up to rounding."
    )
    parts = [
        *pages.first_lines(
            "How much time scikit-learn's `MLPClassifier.fit` takes relative to bpengine's estimator of "
            "the same name, on the same data with the same parameters and epochs.",
            f"Above 1, bpengine's is faster. {options.pairs} pairs of fits.",
            ["numba", "scikit-learn"],
        ),
        sizes,
        fitted,
        "## Other parameters",
        variants,
        "## Accuracy",
        compared,
        accuracies,
    ]
    pages.write("estimators", "estimators", parts, options.print)


if __name__ == "__main__":
    main()
