"""The timed part of the performance check: our times ÷ those of the frozen steps, case by case.

    python benchmarks/timed.py nielsen "control nielsen"

measures in this process, under whatever settings the environment has, and prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
import bpengine as bp  # isort: skip

import exact
import frozen
import ladder
import numpy as np

from bpengine import timing
from bpengine.timing import Ratio

TOLERANCE = 1.25  # from the study in docs/performance-check.md
PAIRS = 151
SLOW, SLOW_PAIRS = {"medium", "control medium", "epoch"}, 31  # of 5 to 20 ms a call
EXAMPLES, BATCH = 500, 10  # of the epoch that is timed
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


def control(rung: str) -> Pair:
    """The frozen step against itself."""
    step = ladder.frozen_step(rung)
    return step, step


def step(rung: str, backend: str = "numpy") -> Pair:
    """A training step."""
    return ladder.plan(rung, backend=backend).run, ladder.frozen_step(rung)


def epoch(backend: str = "numpy") -> Pair:
    """A whole call of `fit`: data taken in, shuffled, gathered, trained on, costs added up."""
    X, Y = ladder.examples("nielsen", EXAMPLES)
    fit, (weights, biases) = ladder.network("nielsen", backend).fit, ladder.plain_parameters("nielsen")
    rng, η = np.random.default_rng(0), ladder.LEARNING_RATE
    options = {"epochs": 1, "batch_size": BATCH, "optimizer": bp.SGD(η), "progress": False}
    return (
        lambda: fit(X, Y, **options),
        lambda: frozen.epoch(weights, biases, X, Y, BATCH, η, rng),
    )


def predict() -> Pair:
    """A whole call of `feedforward` on one batch."""
    (X, _), net = ladder.examples("small"), ladder.network("small")
    weights, biases = ladder.plain_parameters("small")
    return lambda: net.feedforward(X), lambda: frozen.predict(weights, biases, X)


STEPS = ("tiny", "nielsen", "small", "medium")
CONTROLS: dict[str, Callable[[], Pair]] = {f"control {rung}": partial(control, rung) for rung in STEPS}
CASES: dict[str, Callable[[], Pair]] = {
    **{rung: partial(step, rung) for rung in (*STEPS, "softmax")},
    "epoch": epoch,
    "predict": predict,
}
if exact.COMPILED:
    CASES |= {f"numba {rung}": partial(step, rung, "numba") for rung in ("tiny", "nielsen", "softmax")}
    CASES["numba epoch"] = partial(epoch, "numba")


def measure_here(
    names: Iterable[str],
    seed: int,
    pairs: int | None = None,
    cases: Mapping[str, Callable[[], Pair]] = CONTROLS | CASES,
) -> dict[str, Ratio]:
    """Measure in this process, one case after the other."""
    rng = np.random.default_rng(seed)
    return {
        name: timing.measure(
            *cases[name](), pairs=pairs or (SLOW_PAIRS if name in SLOW else PAIRS), rng=rng
        )
        for name in names
    }


def measure_fresh(names: Iterable[str], seed: int, pairs: int | None = None) -> dict[str, Ratio]:
    """Measure in a process of its own, under `SETTINGS`."""
    more = [] if pairs is None else [f"--pairs={pairs}"]
    done = subprocess.run(
        [sys.executable, Path(__file__), *names, f"--seed={seed}", *more],
        env=os.environ | SETTINGS,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    return {name: Ratio(**numbers) for name, numbers in json.loads(done.stdout).items()}


@dataclass
class Timed:
    """What the timed part found: lines to print, cases that are slower, controls that are off."""

    lines: list[str] = field(default_factory=list)
    slower: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)


def part(
    stored: Mapping[str, float], measure: Measure = measure_fresh, tolerance: float = TOLERANCE
) -> Timed:
    """Measure controls, then the cases that have a stored ratio, and judge them.

    A case is slower only if a second measurement, in a fresh process, says so too. With a control that
    is off, nothing is called slower.
    """
    found = measure([*CONTROLS, *stored], 0)
    result = Timed([f"{'':16}stored  ours ÷ frozen           µs ours    µs frozen"])
    for name in CONTROLS:
        verdict = "steady" if timing.steady(found[name]) else "OFF"
        if verdict == "OFF":
            result.off.append(f"{name} {found[name]}")
        result.lines.append(_line(name, 1.0, found[name], verdict))
    for name, ratio in stored.items():
        verdict = timing.judge(found[name], ratio, tolerance)
        if verdict == "slower" and result.off:
            verdict = "not judged"
        elif verdict == "slower":
            again = measure([name], 1)[name]
            verdict = f"slower, but in a fresh process {again}"
            if timing.judge(again, ratio, tolerance) == "slower":
                verdict = f"SLOWER, and in a fresh process {again}"
                result.slower.append(
                    f"{name}: {found[name]}, then {again}; stored {ratio:.3f}, so that it takes "
                    f"{again.median / ratio:.2f} times as long"
                )
        result.lines.append(_line(name, ratio, found[name], verdict))
    return result


def _line(name: str, stored: float, found: Ratio, verdict: str) -> str:
    return f"{name:16}{stored:6.3f}  {found!s:22}{found.ours:9,.1f}{found.reference:13,.1f}  {verdict}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure cases in this process; prints JSON.")
    parser.add_argument("names", nargs="+", choices=[*CONTROLS, *CASES], metavar="name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int)
    arguments = parser.parse_args()
    found = measure_here(arguments.names, arguments.seed, arguments.pairs)
    print(json.dumps({name: asdict(ratio) for name, ratio in found.items()}))
