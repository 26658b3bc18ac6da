"""The command line: ``python -m bpengine train digits``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from bpengine import datasets
from bpengine.cli import doctor
from bpengine.cli.predict import predict
from bpengine.distributed import scaling
from bpengine.model.files import check_writable
from bpengine.network.network import Network
from bpengine.optimizers import BY_NAME
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.optimizers.sgd import SGD
from bpengine.reference.per_example import PerExampleNetwork, parts_of
from bpengine.validation import (
    file_path,
    layer_sizes,
    non_negative_number,
    positive_integer,
    positive_number,
)

__all__ = ["main"]

LOOP_SECONDS = 1.0  # of the per-example loop
RATE = 0.5  # of SGD


@dataclass(frozen=True)
class Task:
    """A data set and default settings."""

    help: str
    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    epochs: int
    holdout: int | None


TASKS = {
    "digits": Task("the 1,797 packaged digits of 8 × 8", (64, 100, 10), ("sigmoid",), 50, 297),
    "mnist": Task("MNIST, from --data or downloaded", (784, 100, 10), ("sigmoid",), 30, None),
    "circles": Task("two concentric circles", (2, 8, 1), ("tanh", "sigmoid"), 50, 200),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: ``sys.argv[1:]``.
    """
    options = _parser().parse_args(arguments)
    try:
        run = {"doctor": lambda _: doctor.main(), "predict": predict, "scale": scale, "train": train}
        return run[options.command](options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        print(f"bpengine: {error}", file=sys.stderr)
        return 1


class Help(argparse.HelpFormatter):
    """Help with defaults as typed on the command line."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if any(default is none for none in (None, False, argparse.SUPPRESS)):
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        return f"{action.help} (default: {shown})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bpengine", description="Vectorized, batched backpropagation.")
    parser.add_argument("--version", action="version", version=f"bpengine {version('bpengine')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _command(commands, "doctor", "show what this machine offers, and what to change")
    command = _command(commands, "train", "train a network and test it")
    data = command.add_subparsers(dest="task", required=True, metavar="DATA")
    for name, task in TASKS.items():
        add = _command(data, name, task.help).add_argument
        folder = "folder of the IDX files, instead of downloading them"
        add("--data", metavar="DIR", help=folder if name == "mnist" else argparse.SUPPRESS)
        add(
            "--sizes",
            type=int,
            nargs="+",
            default=task.sizes,
            metavar="N",
            help="neurons per layer, input first",
        )
        add(
            "--activations",
            nargs="+",
            default=task.activations,
            metavar="NAME",
            help="one name, or one per layer after the input",
        )
        add("--cost", default="binary_cross_entropy", metavar="NAME", help="cost function")
        add("--epochs", type=int, default=task.epochs, metavar="N", help="passes over the examples")
        add("--batch-size", type=int, default=10, metavar="M", help="examples per step")
        add("--optimizer", choices=list(BY_NAME), default="sgd", help="update rule")
        rate = "step of the optimizer; its default if not given, 0.5 for SGD"
        add("--learning-rate", type=float, metavar="ETA", help=rate)
        add("--backend", metavar="NAME", help="array library; NumPy if not given")
        add("--dtype", default="float32", choices=["float32", "float64"], help="of all numbers")
        add("--seed", type=int, default=0, help="for the first parameters and the shuffling")
        add(
            "--save", metavar="FILE", help="write the trained network to this file, .npz or .safetensors"
        )
        why = "shuffled first" if task.holdout else "without it, on MNIST's own test images"
        holdout = f"test on the last N examples and train on the others; {why}"
        validation = "share of the training examples to validate on after each epoch"
        add("--validation", type=float, metavar="SHARE", help=validation)
        add("--quiet", action="store_true", help="show no progress")
        add("--holdout", type=int, default=task.holdout, metavar="N", help=holdout)
    add = _command(commands, "predict", "print what a saved network says of examples").add_argument
    add("network", metavar="NETWORK", help="file of the network, as `train --save` writes it")
    add("examples", metavar="EXAMPLES", help=".npy with examples as columns, or CSV with one a line")
    _add_scale(commands)
    return parser


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    description = f"{what[0].upper()}{what[1:]}."
    added = commands.add_parser(name, help=what, description=description, formatter_class=Help)
    assert isinstance(added, argparse.ArgumentParser)
    return added


def _add_scale(commands: Any) -> None:
    add = _command(commands, "scale", "estimate times of training steps on many machines").add_argument
    add("sizes", type=int, nargs="+", metavar="N", help="neurons per layer, input first")
    add("--batch-size", type=int, default=256, metavar="M", help="examples per step")
    powers = [2**i for i in range(11)]
    add("--ranks", type=int, nargs="+", default=powers, metavar="R", help="numbers of ranks")
    add("--bandwidth", type=float, default=10.0, metavar="GBIT", help="of a link, in Gbit/s")
    add("--latency", type=float, default=20.0, metavar="US", help="of a message, in microseconds")
    add("--gflops", type=float, metavar="RATE", help="of a rank, in GFLOP/s; measured here if not given")
    add("--dtype", default="float32", choices=["float32", "float64"], help="of all numbers")
    add("--no-overlap", action="store_true", help="sum gradients after the last layer's is written")


def scale(options: argparse.Namespace) -> int:
    """Print times of a training step by number of ranks, and the largest useful number."""
    sizes = layer_sizes(options.sizes)
    batch_size = positive_integer(options.batch_size, "--batch-size")
    ranks = [positive_integer(R, "--ranks") for R in options.ranks]
    latency = non_negative_number(options.latency, "--latency")
    bandwidth = positive_number(options.bandwidth, "--bandwidth")
    link = scaling.Link(latency * 1e-6, bandwidth * 1e9 / 8)
    how = "as given"
    if options.gflops is not None:
        rate = positive_number(options.gflops, "--gflops")
    else:
        if busy := doctor.other_load():
            raise ValueError(f"the speed can't be measured now: {busy}. Wait, or pass --gflops RATE.")
        rate, how = scaling.measured_rate(sizes, batch_size, options.dtype) / 1e9, "measured here"
    itemsize = np.dtype(options.dtype).itemsize
    step = scaling.Step(sizes, rate * 1e9, link, itemsize, overlap=not options.no_overlap)
    print(
        f"{'-'.join(map(str, sizes))}, {options.dtype}, batch {batch_size}: a rank with "
        f"{rate:.4g} GFLOP/s ({how}), links of {options.bandwidth:g} Gbit/s and {options.latency:g} µs"
    )
    print(scaling.table(step, batch_size, ranks))
    most = scaling.useful_ranks(step, batch_size)
    print(f"largest useful number of ranks for this batch, with an efficiency of ½ or more: {most}")
    print(scaling.CHECKED)
    return 0


def train(options: argparse.Namespace) -> int:
    """Train on one of `TASKS`, test, and compare with the per-example loop."""
    if options.data is not None and options.task != "mnist":
        raise ValueError(f"--data is for mnist; {options.task} needs no folder.")
    if options.save is not None:
        check_writable(file_path(options.save, "--save"))
    activations = options.activations[0] if len(options.activations) == 1 else options.activations
    net = Network(
        options.sizes,
        activations=activations,
        cost=options.cost,
        backend=options.backend,
        dtype=options.dtype,
        rng=options.seed,
    )
    (X, Y), (X_test, Y_test) = _examples(options, np.random.default_rng(options.seed))
    optimizer = _optimizer(options)
    print(f"{net}\n{X.shape[1]} examples to learn from, {X_test.shape[1]} to test on")
    loop = PerExampleNetwork(*parts_of(net))  # copies the untrained parameters
    history = net.fit(
        X,
        Y,
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer=optimizer,
        validation=options.validation,
        progress=not options.quiet,
    )
    if not history.seconds:
        print("interrupted before the end of the first epoch", file=sys.stderr)
        return 130
    if options.save:
        net.save(options.save)
        print(f"saved to {options.save}")
    ours = float(np.median(history.seconds)) / X.shape[1]  # of an epoch without compilation
    theirs = _seconds_per_example(loop, X, Y, options)
    print(f"test accuracy {net.evaluate(X_test, Y_test)['accuracy']:.4f}")
    print(f"{theirs / ours:.1f} times the per-example loop (measured here)")
    return 0


def _optimizer(options: argparse.Namespace) -> Any:
    """The optimizer of --optimizer and --learning-rate."""
    kind, rate = BY_NAME[options.optimizer], options.learning_rate
    if kind is LBFGS and rate is not None:
        raise ValueError("--learning-rate is not for lbfgs, which searches along its steps.")
    if kind is SGD and rate is None:
        rate = RATE
    return kind() if rate is None else kind(rate)


def _examples(options: argparse.Namespace, rng: np.random.Generator) -> Any:
    """Training and test data (X, Y), with one-hot columns Y."""
    if options.task == "mnist":
        X, labels, test = _mnist(options)
    else:
        X, labels = datasets.digits() if options.task == "digits" else datasets.circles(rng=rng)
        order = rng.permutation(X.shape[1])
        X, labels, test = X.T[order].T, labels[order], None
    outputs, classes = options.sizes[-1], int(labels.max()) + 1
    if outputs != classes and (outputs, classes) != (1, 2):  # two classes have one output or two
        raise ValueError(
            f"--sizes ends in {outputs} and {options.task} has {classes} classes: end it in {classes}."
        )
    Y = datasets.one_hot(labels, outputs) if outputs > 1 else datasets.one_hot(labels, 2)[1:]
    if test is not None:
        return (X, Y), (test[0], datasets.one_hot(test[1], outputs))
    n = options.holdout
    if not 0 < n < X.shape[1]:
        raise ValueError(f"--holdout must be from 1 to {X.shape[1] - 1}, got {n}.")
    return (X[:, :-n], Y[:, :-n]), (X[:, -n:], Y[:, -n:])


def _mnist(options: argparse.Namespace) -> Any:
    if options.holdout is None:
        try:
            return *datasets.mnist(options.data, "train"), datasets.mnist(options.data, "test")
        except FileNotFoundError as error:
            hint = "; with one part alone, pass --holdout N to test on its last N images"
            raise FileNotFoundError(f"{error}{hint}") from None
    try:
        return *datasets.mnist(options.data, "train"), None
    except FileNotFoundError:
        # with --holdout, the test images alone are enough
        return *datasets.mnist(options.data, "test"), None


def _seconds_per_example(loop: PerExampleNetwork, X: Any, Y: Any, options: argparse.Namespace) -> float:
    """Time of the loop per example, over as many mini-batches as fit into `LOOP_SECONDS`."""
    m, examples = options.batch_size, 0
    X, Y = X.astype(options.dtype), Y.astype(options.dtype)
    start = time.perf_counter()
    while not examples or time.perf_counter() - start < LOOP_SECONDS:
        batch = slice(examples % (X.shape[1] - m + 1), None)
        loop.update_mini_batch(X[:, batch][:, :m], Y[:, batch][:, :m], RATE)
        examples += m
    return (time.perf_counter() - start) / examples
