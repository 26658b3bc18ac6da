"""`bpengine.book` against a loop over examples: `python benchmarks/book.py`.

784-30-10, batches of 10, float64, on the 10,000 test images of MNIST where the folder of its files is
there, else on random numbers. Both sides are timed in turn: a call of SGD, which converts the list of
pairs and then takes its epochs, and an epoch of the loop. The loop is that of `bpengine.reference`; its
sigmoid, which overflows nowhere, takes longer than 1 / (1 + e⁻ᶻ), with which it is timed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import bpengine as bp  # isort: skip  before NumPy

import numpy as np

from bpengine.book import costs, network
from bpengine.reference.per_example import PerExampleNetwork
from bpengine.timing import Ratio, measure

SIZES, BATCH, ETA = [784, 30, 10], 10, 3.0
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist-t10k"


def examples(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray, str]:
    """X, Y as float64 columns, and where they come from."""
    if folder.is_dir():
        X, labels = bp.datasets.mnist(folder, part="test")
        X, labels, source = X[:, :count], labels[:count], "MNIST"
    else:
        rng = np.random.default_rng(0)
        X, labels, source = rng.random((count, 784)).T, rng.integers(0, 10, count), "random"
    return X.astype("float64"), bp.one_hot(labels, 10, "float64"), source


def ours(net: network.Network, X: np.ndarray, Y: np.ndarray, epochs: int) -> Callable[[], object]:
    """A call of SGD by the drop-in."""
    pairs = list(zip(X.T[..., None], Y.T[..., None], strict=True))

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            net.SGD(pairs, epochs, BATCH, ETA)

    return run


def loop(net: network.Network, X: np.ndarray, Y: np.ndarray, plain: bool) -> Callable[[], object]:
    """An epoch one example at a time, with the plain sigmoid if asked for."""
    slow = PerExampleNetwork(net.weights, net.biases, ["sigmoid", "sigmoid"], "quadratic")
    if plain:
        slow.activations = [(costs.sigmoid, lambda g, z: g * costs.sigmoid_prime(z))] * 2
    rng = np.random.default_rng(0)
    return lambda: slow.fit(X, Y, epochs=1, batch_size=BATCH, learning_rate=ETA, rng=rng)


def line(what: str, ratio: Ratio, epochs: int) -> str:
    """The loop's time as a multiple of ours."""
    middle, low, high = (epochs / x for x in (ratio.median, ratio.high, ratio.low))
    return f"{what}: {middle:.1f} times ours [{low:.1f}, {high:.1f}], {ratio.pairs} pairs"


def main() -> None:
    parser = argparse.ArgumentParser(description="bpengine.book against the loop over examples.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of MNIST's test files")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 10], help="of a call of SGD")
    parser.add_argument("--pairs", type=int, default=11)
    options = parser.parse_args()
    X, Y, source = examples(options.data, options.examples)
    print(f"{X.shape[1]:,} {source} examples, 784-30-10, batches of {BATCH}, float64")
    for plain, sigmoid in ((False, "the loop of bpengine.reference"), (True, "with the plain sigmoid")):
        for epochs in options.epochs:
            net = network.Network(SIZES)
            sides = ours(net, X, Y, epochs), loop(net, X, Y, plain)
            ratio = measure(*sides, pairs=options.pairs, rng=0)
            print(line(f"{sigmoid}, SGD with epochs={epochs}", ratio, epochs), flush=True)


if __name__ == "__main__":
    main()
