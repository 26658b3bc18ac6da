"""Steps with BLAS's threads ÷ steps with one, while other processes keep the cores busy.

    python benchmarks/busy.py --processes 4

Each pair is taken in turn in this process; with `--processes 0` the machine is as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
from bpengine import openblas  # isort: skip

import ladder
import pages

from bpengine.timing import measure

BURN = "while True: pass"


def pair(rung: str, backend: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step as it is, and within the limit of one thread."""
    threaded, single = (ladder.plan(rung, backend=backend) for _ in range(2))

    def alone() -> None:
        with openblas.one_thread:
            single.run()

    return threaded.run, alone


def table(processes: int, rungs: Sequence[str], backends: Sequence[str], pairs: int) -> str:
    """Markdown: the ratios by backend and network, with so many busy processes."""
    others = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(processes)]
    rows = {}
    try:
        for backend in backends:
            rows[f"{backend}, {processes} busy processes"] = [
                pages.cell(measure(*pair(rung, backend), pairs=5 if rung == "large" else pairs, rng=0))
                for rung in rungs
            ]
    finally:
        for other in others:
            other.kill()
    return pages.table("", [str(ladder.LADDER[rung]) for rung in rungs], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rungs", nargs="+", choices=ladder.LADDER, default=list(ladder.LADDER))
    parser.add_argument("--backends", nargs="+", default=["numpy", "numba"])
    parser.add_argument("--pairs", type=int, default=41)
    chosen = parser.parse_args()
    print(table(chosen.processes, chosen.rungs, chosen.backends, chosen.pairs))


if __name__ == "__main__":
    main()
