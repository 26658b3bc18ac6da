"""What imports, a first `fit` and the estimators' data cost: `python benchmarks/resources.py`.

Prints two tables in Markdown: seconds in fresh processes, and memory that `fit` and `partial_fit` of
MLPClassifier take besides X, here and in scikit-learn.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pages
from sklearn import neural_network

from bpengine import estimators

IMPORTS = ("bpengine", "bpengine.estimators", "sklearn.neural_network", "jax", "torch")
IMPORT = """
import time, {0}
start = time.perf_counter()
import {1}
print(time.perf_counter() - start)
"""
FITS = """
import time
import numpy as np, bpengine as bp
X, Y, seconds = np.ones((784, 500), "float32"), np.ones((10, 500), "float32"), []
for _ in range(2):
    start = time.perf_counter()
    net = bp.Network([784, 30, 10], backend="{0}", rng=0)
    net.fit(X, Y, epochs=1, batch_size=10, progress=False)
    seconds.append(time.perf_counter() - start)
print(seconds[0] - seconds[1])
"""
LAYOUTS = {
    "float64, C order": ("float64", "C"),
    "float32, C order": ("float32", "C"),
    "float64, Fortran order": ("float64", "F"),
    "float32, Fortran order": ("float32", "F"),
}


def seconds(code: str, processes: int) -> str:
    """The median of what a program prints, in milliseconds, after one run that fills caches on disk."""
    command = [sys.executable, "-c", code]
    printed = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(processes + 1)
    ]
    return f"{1e3 * statistics.median(printed[1:]):.0f}"


def starts(processes: int) -> str:
    """Markdown: milliseconds of imports, and of a first `fit` more than of a second."""
    rows = {"`import numpy`": [seconds(IMPORT.format("sys", "numpy"), processes)]}
    for name in IMPORTS:
        if importlib.util.find_spec(name.partition(".")[0]):
            rows[f"`import {name}`, after NumPy"] = [seconds(IMPORT.format("numpy", name), processes)]
    for backend in ("numpy", "numba"):
        rows[f"a first `fit` more than a second, {backend}"] = [seconds(FITS.format(backend), processes)]
    return pages.table("", ["ms"], rows)


def added(model: object, method: str, X: np.ndarray, y: np.ndarray) -> str:
    """The peak of memory that a method allocates, relative to X."""
    tracemalloc.start()
    getattr(model, method)(X, y, **({"classes": np.unique(y)} if method == "partial_fit" else {}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"{peak / X.nbytes:.2f}"


def memory(examples: int) -> str:
    """Markdown: memory besides X, relative to X, by its layout."""
    rng, rows = np.random.default_rng(0), {}
    y = rng.integers(0, 10, examples)
    options = {"hidden_layer_sizes": (30,), "max_iter": 1, "random_state": 0}
    classifiers = {"bpengine": estimators, "scikit-learn": neural_network}
    for layout, (dtype, order) in LAYOUTS.items():
        X = rng.random((examples, 784)).astype(dtype, order)
        rows[layout] = [
            added(module.MLPClassifier(**options), method, X, y)
            for method in ("fit", "partial_fit")
            for module in classifiers.values()
        ]
    columns = [f"{method}, {name}" for method in ("fit", "partial_fit") for name in classifiers]
    return pages.table("X", columns, rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=11)
    parser.add_argument("--examples", type=int, default=40_000)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # one epoch is no convergence
    print(starts(chosen.processes), memory(chosen.examples), sep="\n\n")


if __name__ == "__main__":
    main()
