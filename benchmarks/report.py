"""The benchmark table and pictures: `python benchmarks/report.py core` or `peers`.

Every figure is a ratio of times taken in turn in this process: time of the alternative ÷ time of
bpengine's plan, median over pairs with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial

import contenders
import numpy as np
import pages
from ladder import LADDER, RUNGS, Rung, examples, network, plan

import bpengine as bp
from bpengine import plots
from bpengine.data.resident import InMemory
from bpengine.timing import Ratio, measure

STEPS = {"tiny": 100, "nielsen": 100, "small": 100, "medium": 100, "large": 10}
PAIRS = {"tiny": 41, "nielsen": 41, "small": 41, "medium": 11, "large": 5}
BATCHES = 1, 4, 16, 64, 256, 1024
SINGLE = {"per-example loop", "3-D stack, matmul", "3-D stack, einsum"}
SKIPPED = {
    ("per-example loop", "large"),
    ("3-D stack, matmul", "large"),
    ("3-D stack, einsum", "large"),
    ("3-D stack, einsum", "medium"),
}
MEANS = (
    "Above 1, bpengine is faster; below 1, the alternative is. A step is plain SGD on a resident batch, "
    "update included: float32, sigmoid, quadratic cost."
)
WHAT = {
    "core": "How much time a training step takes in other forms of the same computation, in NumPy, "
    "relative to bpengine's plan on NumPy.",
    "peers": "How much time a training step takes in other libraries, and compiled by Numba, relative "
    "to bpengine's plan on NumPy.",
}


def main() -> None:
    """Measure, and write the Markdown page and the pictures into docs/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["core", "peers"])
    parser.add_argument("--rungs", nargs="+", default=list(LADDER), choices=list(LADDER))
    pages.options(parser)
    options = parser.parse_args()
    what, rungs = options.what, options.rungs
    makers = contenders.PARTS if what == "core" else contenders.installed(contenders.PEERS)
    ratios = against(makers, rungs)
    sections = [
        pages.step_table("× time of bpengine's step", ratios, rungs),
        pages.losses(ratios, ["products alone"]),
    ]
    if what == "core":
        sections += [
            '"Products alone" are the matrix products of the step and nothing else.',
            *gradient_table(),
            fit_table(),
        ]
    throughput = samples_per_second(
        {"bpengine": contenders.engine}
        | {
            name: makers[name]
            for name in ("per-example loop", "batched NumPy", "JAX scan", "PyTorch eager")
            if name in makers
        },
        (16,) if options.print else BATCHES,
    )
    if not options.print:
        title = "Training 784-100-10, float32, by batch size"
        path = pages.DOCS / f"benchmarks-{what}-throughput.svg"
        plots.throughput(throughput, title=title).savefig(path)
        plots.ratios(ratios).savefig(pages.DOCS / f"benchmarks-{what}-ratios.svg")
    packages = ["numba", "jax", "torch", "scikit-learn"] if what == "peers" else []
    parts = [
        *pages.first_lines(WHAT[what], MEANS, packages, rungs),
        f"![Ratios with intervals](benchmarks-{what}-ratios.svg)",
        *sections,
        "## Examples per second",
        f"![Examples per second against batch size](benchmarks-{what}-throughput.svg)",
    ]
    title = "other forms of backpropagation" if what == "core" else "other libraries"
    pages.write(what, title, parts, options.print)


def against(
    makers: Mapping[str, contenders.Maker],
    rungs: list[str],
    engine: contenders.Maker = contenders.engine,
) -> dict[str, dict[str, Ratio]]:
    """Time of each contender ÷ time of bpengine, for a step at each rung."""
    found: dict[str, dict[str, Ratio]] = {name: {} for name in makers}
    for rung in rungs:
        for name, make in makers.items():
            if (name, rung) in SKIPPED:
                continue
            theirs, ours = (1, min(STEPS[rung], 20)) if name in SINGLE else (STEPS[rung],) * 2
            ratio = measure(make(rung, theirs), engine(rung, ours), pairs=PAIRS[rung], rng=0)
            found[name][rung] = pages.per_step(ratio, theirs, ours)
            print(f"{rung:8} {name:24} {found[name][rung]}", file=sys.stderr, flush=True)
    return found


def gradient_table() -> list[str]:
    """Parts of the page: gradient ÷ feedforward, and finite differences ÷ backprop."""
    from test_costs import forward

    rows = {}
    for rung in ("tiny", "nielsen", "small", "medium"):
        step, program = network(rung).plan(LADDER[rung].batch), forward(rung)
        step.load(*examples(rung))
        ratio = measure(step.run, partial(program.run, 1), rng=0)
        flops = sum(op.flops for op in step.operations if op.equation == "feedforward")
        rows[rung] = [str(ratio), f"{step.flops / flops:.2f}"]
    net = bp.Network([20, 15, 10], dtype="float64", rng=0, backend="numpy")
    rng = np.random.default_rng(0)
    X, Y = rng.random((20, 50)), rng.random((10, 50))
    ratio = measure(
        lambda: bp.numerical_gradient(net, X, Y), lambda: net.backprop(X, Y), pairs=11, rng=0
    )
    return [
        "## Cost of a gradient",
        "Chapter 2 of the book says: all derivatives for about the price of two passes. A gradient here "
        "is feedforward and backward pass together; finite differences take two passes for each "
        "parameter.",
        pages.table("", [f"gradient ÷ feedforward, {unit}" for unit in ("time", "FLOPs")], rows),
        f"Finite differences ÷ backprop, 20-15-10 ({net.vector.size} parameters), batch 50: {ratio}.",
    ]


def fit_table() -> str:
    """Markdown: an epoch of fit ÷ its steps alone."""
    rows = {}
    for rung in ("nielsen", "small"):
        net, (X, Y), m = network(rung), examples(rung, m=8000), LADDER[rung].batch
        step, steps = plan(rung), 8000 // m
        source = InMemory(net, X, Y, None, m, shuffle=True)
        training = bp.Training(net, bp.SGD(0.1), source)  # what fit does after it has prepared the data
        ratio = measure(training.pass_over_examples, partial(step.run, steps), pairs=21, rng=0)
        rows[f"{rung}: shuffle, gather, steps, costs, on 8,000 examples"] = [str(ratio)]
    return "## An epoch of `fit`\n\n" + pages.table("", ["fit ÷ steps alone"], rows)


def samples_per_second(
    makers: Mapping[str, contenders.Maker], batches: Sequence[int]
) -> dict[str, tuple[list[int], list[float]]]:
    """Examples trained on in a second, by batch size, 784-100-10."""
    found: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in makers}
    for m in batches:
        RUNGS[f"batch {m}"] = Rung((784, 100, 10), m)
        for name, make in makers.items():
            steps = 1 if name in SINGLE else 20
            ratio = measure(
                make(f"batch {m}", steps), contenders.engine(f"batch {m}", 20), pairs=11, rng=0
            )
            found[name][0].append(m)
            found[name][1].append(steps * m / ratio.ours * 1e6)
    return found


if __name__ == "__main__":
    main()
