"""Public calls ÷ the same work in the plain NumPy of frozen.py, in one process.

    python benchmarks/calls.py --print

What a user calls: prediction, evaluation, gradients, an update by hand,
`partial_fit`, an epoch of `fit`, an estimator's `predict`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import busy
import contenders
import frozen
import ladder
import numpy as np
import pages
import resources
import search
from sklearn import neural_network

from bpengine import openblas
from bpengine.data.resident import InMemory
from bpengine.estimators import MLPClassifier
from bpengine.timing import measure

Pair = tuple[Callable[[], object], Callable[[], object]]
SIZES: dict[str, tuple[str, int | None]] = {
    "2-3-3-1, 50": ("tiny", None),
    "784-30-10, 10": ("nielsen", None),
    "784-100-10, 1": ("small", 1),
    "784-100-10, 128": ("small", None),
    "784-512-512-10, 256": ("medium", None),
}
EXAMPLES = 500, 50  # of an epoch: this many, or this many batches if that is less
IN_MEMORY = 40_000  # examples for which memory is measured
LONG = 30  # batches of the epochs that are compared with replays
RATE = ladder.LEARNING_RATE


def plain_evaluate(weights: list, biases: list, X: np.ndarray, Y: np.ndarray) -> tuple[float, float]:
    """Average quadratic cost and accuracy."""
    a = frozen.predict(weights, biases, X)
    cost = 0.5 * ((a - Y) ** 2).sum() / X.shape[1]
    right = a.round() == Y if len(Y) == 1 else a.argmax(axis=0) == Y.argmax(axis=0)
    return float(cost), float(right.mean())


def plain_gradient(weights: list, biases: list, X: np.ndarray, Y: np.ndarray) -> tuple[list, list]:
    """The gradient of `frozen.step`, without its update."""
    m = X.shape[1]
    activations = [X]
    for w, b in zip(weights, biases, strict=True):
        activations.append(frozen.sigmoid(w @ activations[-1] + b))
    a = activations[-1]
    delta = (a - Y) * a * (1 - a)
    gradients_w, gradients_b = [], []
    for l in range(len(weights) - 1, -1, -1):
        a = activations[l]
        gradients_w.append(delta @ a.T / m)
        gradients_b.append(delta.sum(axis=1, keepdims=True) / m)
        if l > 0:
            delta = (weights[l].T @ delta) * a * (1 - a)
    return gradients_w[::-1], gradients_b[::-1]


def pairs(name: str, m: int | None, backend: str) -> dict[str, Pair]:
    """The calls at a rung of the ladder, and what each is measured against."""
    X, Y = ladder.examples(name, m)
    net, by_hand, trained = (ladder.network(name, backend) for _ in range(3))
    weights, biases = ladder.plain_parameters(name)
    batch = X.shape[1]
    N = min(EXAMPLES[0], EXAMPLES[1] * batch)
    many_X, many_Y = ladder.examples(name, N)
    long_X, long_Y = ladder.examples(name, LONG * batch)
    plan = ladder.plan(name, m, backend)
    options = {"hidden_layer_sizes": net.sizes[1:-1], "activation": "logistic", "max_iter": 1}
    estimator = MLPClassifier(**options, backend=backend)
    theirs = neural_network.MLPClassifier(**options)
    rows = X.T.copy()
    with warnings.catch_warnings(action="ignore"):  # they have not converged
        for model in (estimator, theirs):
            model.fit(long_X.T, np.arange(long_X.shape[1]) % max(2, net.sizes[-1]))
    sgd, rng = bp.SGD(RATE), np.random.default_rng(0)

    def update_by_hand() -> None:
        vector = by_hand.vector
        vector -= RATE * by_hand.backprop(X, Y).vector

    def step() -> None:
        frozen.step(weights, biases, X, Y, RATE)

    def replays() -> None:
        plan.run(10 * LONG)

    source = InMemory(net, long_X, long_Y, None, batch, shuffle=True)
    gathered = ladder.plan(name, m, backend)

    def gathers_and_replays() -> None:
        for order in (rng.permutation(LONG * batch) for _ in range(10)):
            for chosen in order.reshape(LONG, batch):
                source.rows.take(chosen, 0, gathered.workspace.rows, "clip")
                gathered.program.run(1)

    return {
        "feedforward": (lambda: net.feedforward(X), lambda: frozen.predict(weights, biases, X)),
        "evaluate": (lambda: net.evaluate(X, Y), lambda: plain_evaluate(weights, biases, X, Y)),
        "backprop": (lambda: net.backprop(X, Y), lambda: plain_gradient(weights, biases, X, Y)),
        "backprop, update by hand": (update_by_hand, step),
        "predict of MLPClassifier": (
            lambda: estimator.predict(rows),
            lambda: frozen.predict(weights, biases, X).argmax(axis=0),
        ),
        "predict of MLPClassifier ÷ scikit-learn's": (
            lambda: estimator.predict(rows),
            lambda: theirs.predict(rows),
        ),
        "partial_fit": (
            lambda: trained.partial_fit(X, Y, batch_size=batch, optimizer=sgd, shuffle=False),
            step,
        ),
        "fit, one epoch": (
            lambda: trained.fit(
                many_X, many_Y, epochs=1, batch_size=min(batch, N), optimizer=sgd, progress=False
            ),
            lambda: frozen.epoch(weights, biases, many_X, many_Y, batch, RATE, rng),
        ),
        "ten epochs of fit ÷ their replays": (
            lambda: trained.fit(
                long_X, long_Y, epochs=10, batch_size=batch, optimizer=sgd, progress=False
            ),
            replays,
        ),
        "gathers and replays of ten epochs ÷ replays": (gathers_and_replays, replays),
    }


def predictions(name: str, m: int | None, backend: str) -> dict[str, Pair]:
    """`feedforward`, and predictions of other libraries."""
    X, net = ladder.examples(name, m)[0], ladder.network(name, backend)
    return {
        f"feedforward ÷ {peer}'s": (lambda: net.feedforward(X), predict(name, m))
        for peer, predict in contenders.installed(contenders.PREDICTIONS).items()
    }


def tables(sizes: Sequence[str], backend: str, count: int) -> str:
    """Markdown: the ratios by call and network."""
    rows: dict[str, list[str]] = {}
    for size in sizes:
        for made, threads in ((pairs, openblas.one_thread), (predictions, nullcontext())):
            for call, sides in made(*SIZES[size], backend).items():
                with threads:
                    found = measure(*sides, pairs=count, rng=0)
                print(f"{backend} {size:22} {call:36} {found}", file=sys.stderr, flush=True)
                rows.setdefault(call, []).append(pages.cell(found))
    return pages.table(backend, sizes, rows)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    pages.options(parser)
    parser.add_argument("--backends", nargs="+", default=["numpy", "numba"])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--pairs", type=int, default=51)
    parser.add_argument("--searches", nargs="*", default=list(search.NETWORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rungs", nargs="+", choices=ladder.LADDER, default=list(ladder.LADDER))
    parser.add_argument("--processes", type=int, default=11)
    chosen = parser.parse_args()
    found = [tables(chosen.sizes, name, chosen.pairs) for name in chosen.backends]
    searches = search.table(chosen.searches, 30, chosen.rounds)
    costs = resources.starts(chosen.processes), resources.memory(IN_MEMORY)
    busy_steps = [busy.table(n, chosen.rungs, chosen.backends, chosen.pairs) for n in (0, 4)]
    pages.write(
        "calls",
        "what you get, call by call",
        [
            *pages.first_lines(
                "Public calls, relative to what they replace: plain NumPy, and for searches and "
                "ensembles scikit-learn.",
                "In the tables of calls, above 1 bpengine is slower.",
                ["numba", "scikit-learn", "jax", "torch"],
            ),
            "## Calls, relative to plain NumPy",
            "Plain NumPy is backpropagation as one writes it first and well "
            "(`benchmarks/frozen.py`), with one BLAS thread on both sides. It checks nothing; each of "
            "these calls checks shapes, types, NaN and infinity, and returns arrays that the next call "
            f"does not overwrite. `fit` is an epoch of {EXAMPLES[0]} examples, or of {EXAMPLES[1]} "
            "batches if that is less. Replays are steps of a plan on one batch, which stays in the "
            "processor's cache; gathers load another batch of the examples before each of them. "
            "In the rows of JAX and PyTorch, which have the batch in arrays of those libraries, each "
            "uses as many threads as by default.",
            *found,
            "## Searches and ensembles, relative to scikit-learn",
            "The time of scikit-learn's `GridSearchCV` with as many jobs as cores, divided by that of "
            "`StackSearchCV`: the digits, 12 candidates, 5 folds, 30 epochs, without the last fit. The "
            "time of a `BaggingClassifier` divided by that of `MLPEnsembleClassifier`, both of "
            f"{search.MEMBERS} networks. Above 1, bpengine is faster.",
            searches,
            "## A busy machine",
            "A step with as many BLAS threads as bpengine uses, divided by a step with one thread, with "
            "no other process and with four on two cores. See "
            "[threads](threads-and-reproducibility.md).",
            *busy_steps,
            "## Imports, and a first `fit`",
            "In fresh processes, by `python benchmarks/resources.py`; compiled kernels are on disk. The "
            "first `fit` of 784-30-10 with 500 examples loads modules and compiled kernels.",
            costs[0],
            "## Memory of the estimators",
            "The most that `fit` and `partial_fit` of `MLPClassifier` allocate besides X, relative to "
            f"X, which has {IN_MEMORY:,} rows of 784 numbers. Rows in C order are read in place. Of an "
            "array in Fortran order, bpengine makes a copy once, and scikit-learn gathers each batch.",
            costs[1],
        ],
        chosen.print,
    )


if __name__ == "__main__":
    main()
