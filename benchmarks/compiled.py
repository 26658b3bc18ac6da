"""The compiled backend's table: `python benchmarks/compiled.py` writes docs/benchmarks-numba.md.

Every figure is a ratio of times taken in turn in this process: time of the alternative ÷ time of
bpengine with ``backend="numba"``, median over pairs with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import contenders
import numpy as np
import pages
from ladder import LADDER, LEARNING_RATE, examples, plain_parameters, plan
from report import PAIRS, SKIPPED, STEPS

from bpengine.data.resident import InMemory
from bpengine.reference.per_example import PerExampleNetwork
from bpengine.timing import Ratio, measure
from bpengine.training.loop import Training

CONTENDERS = {
    "JAX scan": contenders.jax_scan,
    "bpengine, NumPy": contenders.engine,
    "per-example loop": contenders.per_example_loop,
    "products alone, by NumPy": contenders.products_alone,
}
EXAMPLES, BATCH = 8000, 10


def step_ratio(name: str, rung: str) -> Ratio:
    """Time of a contender's step ÷ bpengine's."""
    theirs = 1 if name == "per-example loop" else STEPS[rung]
    ours = plan(rung, backend="numba")
    found = measure(
        CONTENDERS[name](rung, theirs), lambda: ours.run(STEPS[rung]), pairs=PAIRS[rung], rng=0
    )
    return scaled(found, STEPS[rung] / theirs)


def scaled(found: Ratio, factor: float) -> Ratio:
    """A ratio of times for different numbers of steps, as one for the same number."""
    low, high = found.low * factor, found.high * factor
    return Ratio(found.median * factor, low, high, found.pairs, found.ours, found.reference)


def epochs() -> dict[str, Ratio]:
    """An epoch on 8,000 digits in random order, 784-30-10 in batches of 10, ÷ bpengine's by `fit`."""
    return {
        "JAX: scan over a shuffled epoch, gather included": measure(
            _jax_epoch(), _epoch(), pairs=21, rng=0
        ),
        "bpengine, NumPy": measure(_epoch("numpy"), _epoch(), pairs=21, rng=0),
        "per-example loop": scaled(measure(_loop(), _epoch(), pairs=11, rng=0), EXAMPLES / 500),
    }


def _epoch(backend: str = "numba") -> Callable[[], object]:
    """Epochs of one `fit`: shuffling, gathering, steps, costs."""
    X, Y = examples("nielsen", EXAMPLES)
    net = bp.Network(LADDER["nielsen"].sizes, backend=backend, rng=0)
    source = InMemory(net, X, Y, None, BATCH, True)
    training = Training(net, bp.SGD(LEARNING_RATE), source, epochs=10**9)
    training.pass_over_examples()
    return training.pass_over_examples


def _loop() -> Callable[[], object]:
    """The per-example loop on 500 examples; an epoch takes 16 times as long."""
    X, Y = examples("nielsen", 500)
    weights, biases = plain_parameters("nielsen")
    loop = PerExampleNetwork(weights, biases, ["sigmoid"] * 2, "quadratic")

    def run() -> None:
        order = np.random.default_rng(0).permutation(500)
        for start in range(0, 500, BATCH):
            chosen = order[start : start + BATCH]
            loop.update_mini_batch(X[:, chosen], Y[:, chosen], LEARNING_RATE)

    return run


def _jax_epoch() -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    X, Y = (jnp.asarray(np.ascontiguousarray(x.T)) for x in examples("nielsen", EXAMPLES))
    weights, biases = plain_parameters("nielsen")
    state = [(jnp.array(w), jnp.array(b)) for w, b in zip(weights, biases, strict=True)]

    def cost(state: Any, x: Any, y: Any) -> Any:
        a = x.T
        for w, b in state:
            a = jax.nn.sigmoid(w @ a + b)
        return 0.5 * jnp.sum((a - y.T) ** 2) / x.shape[0]

    def step(state: Any, chosen: Any) -> Any:
        value, gradient = jax.value_and_grad(cost)(state, X[chosen], Y[chosen])
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, state, gradient), value

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, EXAMPLES).reshape(-1, BATCH)
        return jax.lax.scan(step, state, order)

    key, box = jax.random.PRNGKey(0), [state]

    def run() -> None:
        box[0], _ = jax.block_until_ready(epoch(box[0], key))

    run()
    return run


WHAT = (
    "How much time a training step takes relative to bpengine's plan compiled by Numba "
    '(`backend="numba"`).'
)
MEANS = (
    "Above 1, the compiled plan is faster. A step is plain SGD on a resident batch, update included: "
    "float32, sigmoid, quadratic cost."
)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rungs", nargs="+", default=list(LADDER), choices=list(LADDER))
    pages.options(parser)
    options = parser.parse_args()
    found: dict[str, dict[str, Ratio]] = {name: {} for name in CONTENDERS}
    for name in CONTENDERS:
        for rung in options.rungs:
            if (name, rung) not in SKIPPED:
                found[name][rung] = step_ratio(name, rung)
                print(f"{rung:8} {name:24} {found[name][rung]}", file=sys.stderr, flush=True)
    rows = {name: [pages.cell(of.get(rung)) for rung in options.rungs] for name, of in found.items()}
    rows["*bpengine with Numba, µs a step*"] = [
        f"*{min(of[rung].reference for of in found.values() if rung in of) / STEPS[rung]:.4g}*"
        for rung in options.rungs
    ]
    of_epochs = epochs()
    parts = [
        *pages.first_lines(WHAT, MEANS, ["numba", "jax"], options.rungs),
        pages.table("× time of the compiled step", options.rungs, rows),
        pages.losses(found, ["products alone, by NumPy"]),
        f"An epoch of training on {EXAMPLES:,} examples of 784 in random order, 784-30-10 in batches of "
        f"{BATCH}: shuffling, gathering, steps, costs.",
        pages.table(
            "", ["× time of the epoch"], {name: [pages.cell(r)] for name, r in of_epochs.items()}
        ),
        pages.losses({name: {"an epoch": ratio} for name, ratio in of_epochs.items()}),
    ]
    pages.write("numba", "compiled plans", parts, options.print)


if __name__ == "__main__":
    main()
