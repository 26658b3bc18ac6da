"""Public calls ÷ the same work in the plain NumPy of frozen.py, in one process.

    OPENBLAS_NUM_THREADS=1 python benchmarks/calls.py --backend numpy

The calls that a loop that a user writes makes: prediction, evaluation, gradients, an update by hand,
`partial_fit`, an epoch of `fit`, an estimator's `predict`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import frozen
import ladder
import numpy as np

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
    sgd, rng = bp.SGD(RATE), np.random.default_rng(0)

    def update_by_hand() -> None:
        vector = by_hand.vector
        vector -= RATE * by_hand.backprop(X, Y).vector

    def step() -> None:
        frozen.step(weights, biases, X, Y, RATE)

    return {
        "feedforward": (lambda: net.feedforward(X), lambda: frozen.predict(weights, biases, X)),
        "evaluate": (lambda: net.evaluate(X, Y), lambda: plain_evaluate(weights, biases, X, Y)),
        "backprop": (lambda: net.backprop(X, Y), lambda: plain_gradient(weights, biases, X, Y)),
        "backprop, update by hand": (update_by_hand, step),
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
            lambda: plan.run(10 * (long_X.shape[1] // batch)),
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--calls", nargs="+")
    parser.add_argument("--pairs", type=int, default=51)
    chosen = parser.parse_args(arguments)
    print(f"| network, batch; {chosen.backend} | call | ÷ plain NumPy | µs | µs plain |")
    print("|---|---|---|---|---|")
    for size in chosen.sizes:
        for call, (ours, plain) in pairs(*SIZES[size], chosen.backend).items():
            if chosen.calls is None or call in chosen.calls:
                found = measure(ours, plain, pairs=chosen.pairs, rng=0)
                times = f"{found.ours:,.0f} | {found.reference:,.0f}"
                print(f"| {size} | {call} | {found} | {times} |", flush=True)


if __name__ == "__main__":
    main()
