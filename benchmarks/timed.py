"""The timed part of the performance check: our times ÷ those of the frozen steps, case by case.

    python benchmarks/timed.py nielsen "kernel adam"

measures in this process, under whatever settings the environment has, and prints JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import frozen
import kernels
import ladder
import numpy as np

from bpengine import timing
from bpengine.data.resident import InMemory
from bpengine.timing import Ratio

ROOT = Path(__file__).resolve().parents[1]
# from the study in docs/performance-check.md; kernels vary more between processes
TOLERANCE, KERNEL_TOLERANCE = 1.15, 1.2
BEYOND = 1.08  # of the highest ratio that was stored for unchanged code
CONFIRMATIONS, ROUNDS = 4, 7  # fresh processes that must say slower, and how many are tried
PAIRS, KERNEL_PAIRS = 151, 61
SLOW, SLOW_PAIRS = {"medium"}, 31  # of 10 ms a call
EXAMPLES, BATCH = 200, 10  # of the epoch that is timed
# With these a ratio repeats within a few per cent. BLAS threads that wait for each other on a busy
# machine throw single ratios off by factors. Memory that glibc gives back to the system is new pages
# when it is asked for again: what had been allocated before decided whether the frozen step paid for
# that, and whether medium came out as 0.63 or as 0.82.
SETTINGS = {
    **{f"{what}_THREADS": "1" for what in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM")},
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the highest that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}

Pair = tuple[Callable[[], object], Callable[[], object]]
Measure = Callable[[Iterable[str], int], dict[str, Ratio]]
Stored = tuple[float, float, float]  # median, lowest and highest of some processes
SAME: Stored = (1.0, 1.0, 1.0)  # of a quotient of two trees with the same code


def step(rung: str, backend: str = "numpy") -> Pair:
    """A training step."""
    return ladder.plan(rung, backend=backend).run, ladder.frozen_step(rung)


def epoch(backend: str = "numpy") -> Pair:
    """An epoch of a training under way: shuffled, gathered, trained on, costs added up."""
    X, Y = ladder.examples("nielsen", EXAMPLES)
    net = ladder.network("nielsen", backend)
    source = InMemory(net, X, Y, None, BATCH, shuffle=True)
    training = bp.Training(net, bp.SGD(ladder.LEARNING_RATE), source, epochs=10**9)
    return training.pass_over_examples, frozen_epoch(X, Y)


def fit(backend: str = "numpy") -> Pair:
    """A whole call of `fit`, for one epoch: data taken in and a plan made besides."""
    X, Y = ladder.examples("nielsen", EXAMPLES)
    η, net = ladder.LEARNING_RATE, ladder.network("nielsen", backend)
    options = {"epochs": 1, "batch_size": BATCH, "optimizer": bp.SGD(η), "progress": False}
    return partial(net.fit, X, Y, **options), frozen_epoch(X, Y)


def frozen_epoch(X: np.ndarray, Y: np.ndarray) -> Callable[[], object]:
    (weights, biases), rng = ladder.plain_parameters("nielsen"), np.random.default_rng(0)
    return lambda: frozen.epoch(weights, biases, X, Y, BATCH, ladder.LEARNING_RATE, rng)


def predict() -> Pair:
    """A whole call of `feedforward` on one batch."""
    (X, _), net = ladder.examples("small"), ladder.network("small")
    weights, biases = ladder.plain_parameters("small")
    return lambda: net.feedforward(X), lambda: frozen.predict(weights, biases, X)


CASES: dict[str, Callable[[], Pair]] = {
    **{rung: partial(step, rung) for rung in ("tiny", "nielsen", "small", "medium", "softmax")},
    "epoch": epoch,
    "fit": fit,
    "predict": predict,
    "gather": kernels.gather,
    **{f"kernel {name}": partial(kernels.kernel, name) for name in kernels.variation_of()},
}
if importlib.util.find_spec("numba"):
    CASES |= {f"numba {rung}": partial(step, rung, "numba") for rung in ("tiny", "nielsen", "softmax")}
    CASES |= {"numba epoch": partial(epoch, "numba"), "numba fit": partial(fit, "numba")}
    CASES |= {
        f"numba kernel {name}": partial(kernels.kernel, name, "numba") for name in kernels.variation_of()
    }


def _pairs(name: str) -> int:
    if "kernel" in name or "fit" in name:
        return KERNEL_PAIRS
    return SLOW_PAIRS if name in SLOW else PAIRS


def measure_here(
    names: Iterable[str],
    seed: int,
    pairs: int | None = None,
    cases: Mapping[str, Callable[[], Pair]] = CASES,
) -> dict[str, Ratio]:
    """Measure in this process, one case after the other."""
    rng = np.random.default_rng(seed)
    return {
        name: timing.measure(*cases[name](), pairs=pairs or _pairs(name), control=True, rng=rng)
        for name in names
    }


def measure_fresh(
    names: Iterable[str], seed: int, pairs: int | None = None, root: Path = ROOT
) -> dict[str, Ratio]:
    """Measure in a process of its own, under `SETTINGS`, with the package and the cases of a tree."""
    more = [] if pairs is None else [f"--pairs={pairs}"]
    printed = run(root, *names, f"--seed={seed}", *more)
    found = {name: Ratio(**numbers) for name, numbers in printed.items()}
    return {name: replace(ratio, control=Ratio(**ratio.control)) for name, ratio in found.items()}


def run(root: Path, *arguments: str) -> Any:
    """What this script of a tree prints."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, root / "benchmarks" / "timed.py", *arguments],
        env=os.environ | SETTINGS | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)


def measure_against(root: Path) -> Measure:
    """Measures this tree's time ÷ that of another tree, each against the frozen steps."""

    def measure(names: Iterable[str], seed: int) -> dict[str, Ratio]:
        names = list(names)
        trees = [ROOT, root] if seed % 2 else [root, ROOT]
        found = {tree: measure_fresh(names, seed, root=tree) for tree in trees}
        return {name: quotient(found[ROOT][name], found[root][name]) for name in names}

    return measure


def quotient(ours: Ratio, other: Ratio) -> Ratio:
    """A ratio of two ratios; the control is that which is further from 1."""
    control = max(ours.control, other.control, key=lambda ratio: abs(math.log(ratio.median)))
    low, high = ours.low / other.high, ours.high / other.low
    median = ours.median / other.median
    return Ratio(median, low, high, ours.pairs, ours.ours, other.ours, control)


@dataclass
class Timed:
    """What the timed part found: lines to print, cases that are slower, and those not judged."""

    lines: list[str] = field(default_factory=list)
    slower: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)


def limit(name: str, stored: Stored) -> float:
    """The ratio above which a case is slower."""
    median, _, high = stored
    return max((KERNEL_TOLERANCE if "kernel" in name else TOLERANCE) * median, BEYOND * high)


def part(
    stored: Mapping[str, Stored], measure: Measure = measure_fresh, again: Measure | None = None
) -> Timed:
    """Measure the cases that have a stored ratio, and judge them.

    A ratio also grows where other programs use the processor and its caches. So a case above its limit
    is slower only if it is slower than unchanged code, too: `again` measures both in turn, in fresh
    processes. What is measured while its control is off does not count. A case that is never
    measured without that, or can't be measured again, is not judged.
    """
    result = Timed([f"{'':40}stored  measured                     µs  µs reference"])
    result.ratios = found = measure(list(stored), 0) if stored else {}
    said: dict[str, list[Ratio]] = {
        name: []
        for name, ratios in stored.items()
        if found[name].median > 0.95 * limit(name, ratios) or not timing.steady(found[name].control)
    }
    left = [*said]
    for number in range(1, ROUNDS + 1):
        if left and again:
            for name, ratio in again(left, number).items():
                if timing.steady(ratio.control):
                    said[name].append(ratio)
        left = [name for name in left if not _decided(name, said[name])]
    result.open += left
    for name, ratios in stored.items():
        verdict = "unchanged"
        if found[name].high < ratios[1] / TOLERANCE:
            verdict = "faster"
        if name in left:
            verdict = f"NOT JUDGED: its control was off, {found[name].control} and later"
            if again is None:
                verdict = "NOT JUDGED: looks slower, or its control was off"
        elif name in said:
            last, medians = said[name][-1], ", ".join(f"{ratio.median:.2f}" for ratio in said[name])
            verdict = f"unchanged, in fresh processes {medians} of unchanged code's"
            if last.median > limit(name, SAME):
                verdict = f"SLOWER, in fresh processes {medians} of unchanged code's"
                result.slower.append(
                    f"{name}: {found[name]}, stored {ratios[0]:.3f}; in fresh processes it takes "
                    f"{medians} times as long as unchanged code"
                )
        if verdict != "unchanged" or "kernel" not in name:
            result.lines.append(_line(name, ratios[0], found[name], verdict))
    kernels = sum("kernel" in name for name in stored)
    result.lines.append(f"and {len(stored) + 1 - len(result.lines)} of {kernels} kernels, unchanged")
    return result


def _decided(name: str, said: Sequence[Ratio]) -> bool:
    """Whether measurements in fresh processes are enough: one not above the limit, or all above."""
    return any(ratio.median <= limit(name, SAME) for ratio in said) or len(said) >= CONFIRMATIONS


def _line(name: str, stored: float, found: Ratio, verdict: str) -> str:
    return f"{name:40}{stored:6.3f}  {found!s:22}{found.ours:9,.1f}{found.reference:13,.1f}  {verdict}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure cases in this process; prints JSON.")
    parser.add_argument(
        "names", nargs="*", choices=[*CASES, []], metavar="name", help="none: prints all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int)
    arguments = parser.parse_args()
    if not arguments.names:
        print(json.dumps([*CASES]))
        sys.exit()
    found = measure_here(arguments.names, arguments.seed, arguments.pairs)
    print(json.dumps({name: asdict(ratio) for name, ratio in found.items()}))
