"""The compiled backend's table: `python benchmarks/compiled.py` writes docs/benchmarks-numba.md.

Every figure is a ratio of times taken in turn in this process: time of the alternative ÷ time of
bpengine with ``backend="numba"``, median over pairs with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import contenders
import numpy as np
import pages
from ladder import LADDER, LEARNING_RATE, examples, plain_parameters
from report import MEANS, against

from bpengine.data.resident import InMemory
from bpengine.reference.per_example import PerExampleNetwork
from bpengine.timing import Ratio, measure
from bpengine.training.loop import Training

CONTENDERS = {
    "JAX scan": ("jax", contenders.jax_scan),
    "bpengine, NumPy": ("numpy", contenders.engine),
    "per-example loop": ("numpy", contenders.per_example_loop),
    "products alone, by NumPy": ("numpy", contenders.products_alone),
}
EXAMPLES, BATCH = 8000, 10
LOOPED = 500  # examples on which the loop is timed


def epochs() -> dict[str, Ratio]:
    """An epoch on 8,000 digits in random order, 784-30-10 in batches of 10, ÷ bpengine's by `fit`."""
    makers = contenders.installed(
        {
            "JAX: scan over a shuffled epoch, gather included": ("jax", _jax_epoch),
            "bpengine, NumPy": ("numpy", partial(_epoch, "numpy")),
        }
    )
    found = {name: measure(make(), _epoch(), pairs=21, rng=0) for name, make in makers.items()}
    loop = measure(_loop(), _epoch(), pairs=11, rng=0)
    return found | {"per-example loop": pages.per_step(loop, LOOPED, EXAMPLES)}


def _epoch(backend: str = "numba") -> Callable[[], object]:
    """Epochs of one `fit`: shuffling, gathering, steps, costs."""
    X, Y = examples("nielsen", EXAMPLES)
    net = bp.Network(LADDER["nielsen"].sizes, backend=backend, rng=0)
    source = InMemory(net, X, Y, None, BATCH, True)
    training = Training(net, bp.SGD(LEARNING_RATE), source, epochs=10**9)
    training.pass_over_examples()
    return training.pass_over_examples


def _loop() -> Callable[[], object]:
    """The per-example loop on some of the examples."""
    X, Y = examples("nielsen", LOOPED)
    weights, biases = plain_parameters("nielsen")
    loop = PerExampleNetwork(weights, biases, ["sigmoid"] * 2, "quadratic")

    def run() -> None:
        order = np.random.default_rng(0).permutation(LOOPED)
        for start in range(0, LOOPED, BATCH):
            chosen = order[start : start + BATCH]
            loop.update_mini_batch(X[:, chosen], Y[:, chosen], LEARNING_RATE)

    return run


def _jax_epoch() -> Callable[[], object]:
    import jax

    X, Y = (jax.numpy.asarray(np.ascontiguousarray(x.T)) for x in examples("nielsen", EXAMPLES))

    def step(state: Any, chosen: Any) -> Any:
        cost, gradient = jax.value_and_grad(contenders.jax_cost)(state, X[chosen].T, Y[chosen].T)
        return contenders.jax_update(state, gradient), cost

    @jax.jit
    def epoch(state: Any) -> Any:
        order = jax.random.permutation(jax.random.PRNGKey(0), EXAMPLES).reshape(-1, BATCH)
        return jax.lax.scan(step, state, order)[0]

    return contenders.advancing(epoch, contenders.jax_state("nielsen"))


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rungs", nargs="+", default=list(LADDER), choices=list(LADDER))
    pages.options(parser)
    options = parser.parse_args()
    found = against(contenders.installed(CONTENDERS), options.rungs, contenders.compiled_engine)
    of_epochs = epochs()
    parts = [
        *pages.first_lines(
            "How much time a training step takes relative to bpengine's plan compiled by Numba "
            '(`backend="numba"`).',
            MEANS,
            ["numba", "jax"],
            options.rungs,
        ),
        pages.step_table("× time of the compiled step", found, options.rungs),
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
