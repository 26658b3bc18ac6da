"""What a step saves with Numba, beside what the rule assumes by which `fit` uses it.

    python benchmarks/numba_rule.py

Steps of NumPy's plans and of compiled ones are timed in turn in this process, with one BLAS thread: the
difference of their medians beside what the rule assumes, with plain gradient descent and Adam, and the
numbers that the rule counts. Savings are differences: what is small beside a step is mostly noise.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import numpy as np
import pages

from bpengine import openblas
from bpengine.timing import measure
from bpengine.training import backend_choice

SHAPES: dict[str, tuple[tuple[int, ...], int, int]] = {  # layers, batch, networks
    "2-3-3-1, batch 50": ((2, 3, 3, 1), 50, 1),
    "784-30-10, batch 10": ((784, 30, 10), 10, 1),
    "784-100-10, batch 128": ((784, 100, 10), 128, 1),
    "64-100-10, batch 200": ((64, 100, 10), 200, 1),
    "64-100-100-10, batch 200": ((64, 100, 100, 10), 200, 1),
    "1000-1000-10, batch 20": ((1000, 1000, 10), 20, 1),
    "10 × 64-20-10, batch 200": ((64, 20, 10), 200, 10),
    "30 × 64-100-10, batch 200": ((64, 100, 10), 200, 30),
}


def network(name: str, backend: str) -> bp.Network:
    """A network or a stack."""
    sizes, _, networks = SHAPES[name]
    return bp.Network(sizes, backend=backend, stack=networks if networks > 1 else None, rng=0)


def saved(name: str, optimizer: bp.optimizers.Optimizer, pairs: int) -> float:
    """Microseconds that a compiled step takes less than one on NumPy."""
    sizes, batch, _ = SHAPES[name]
    rng, runs = np.random.default_rng(0), []
    X, Y = rng.random((sizes[0], batch)), rng.random((sizes[-1], batch))
    for backend in ("numpy", "numba"):
        plan = network(name, backend).plan(batch, optimizer)
        plan.load(X, Y)
        runs.append(plan.run)
    with openblas.one_thread:
        ratio = measure(*runs, pairs=pairs, rng=0)
    return ratio.ours - ratio.reference


def row(name: str, pairs: int) -> list[str]:
    """What the rule counts, and what was measured and is assumed for both optimizers."""
    sizes, batch, networks = SHAPES[name]
    weights = networks * sum(n * m for n, m in pairwise(sizes))
    cells = [f"{x:,}" for x in (len(sizes) - 1, 4 * networks * batch * sum(sizes[1:]), weights)]
    for optimizer, remembers in ((bp.SGD(0.01), False), (bp.Adam(), True)):
        assumed = backend_choice.saved_by_step(network(name, "numpy"), batch, remembers)
        cells += [f"{saved(name, optimizer, pairs):.1f}", f"{1e6 * assumed:.1f}"]
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="shape")
    parser.add_argument("--pairs", type=int, default=41)
    options = parser.parse_args()
    columns = ["layers", "bytes of activations", "weights"]
    columns += ["SGD, µs", "by the rule", "Adam, µs", "by the rule"]
    print(pages.table("", columns, {name: row(name, options.pairs) for name in options.shapes}))


if __name__ == "__main__":
    main()
