"""What the pages of benchmarks have in common: first lines, tables, where bpengine is slower."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ladder import RUNGS

from bpengine import openblas
from bpengine.timing import Ratio

DOCS = Path(__file__).resolve().parents[1] / "docs"
END = "<!-- end of what is measured -->"  # what follows is written by hand


def _git(*command: str) -> str:
    done = subprocess.run(["git", "-C", DOCS.parent, *command], capture_output=True, text=True)
    return done.stdout.strip()


# before anything is measured; the pages that are written are no change of what is measured
COMMIT = _git("rev-parse", "--short", "HEAD")
if _git("status", "--porcelain", "--", "bpengine", "benchmarks"):
    COMMIT += ", changed"


def options(parser: argparse.ArgumentParser) -> None:
    """The options that all scripts have."""
    parser.add_argument("--print", action="store_true", help="print the page, write nothing")


def parsed_with_threads(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, with those options and a number of threads, which is set."""
    options(parser)
    parser.add_argument("--threads", type=int, help="of BLAS and of the peers; else as many as cores")
    chosen = parser.parse_args()
    number = chosen.threads
    if number is not None:  # peers are not loaded yet
        openblas.set_threads(number)
        os.environ |= {f"{name}_NUM_THREADS": str(number) for name in ("MKL", "OMP", "NUMBA")}
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(number > 1).lower()}"
    return chosen


def first_lines(
    what: str,
    means: str,
    packages: Iterable[str] = (),
    names: Iterable[str] = (),
    threads: int | None = None,
    interval: str = "the median, and a 95 % interval",
) -> list[str]:
    """Paragraphs: what was measured and what it means; on what, when, at which commit."""
    command = " ".join(["python", *map(str, sys.argv)]).replace(str(DOCS.parent) + os.sep, "")
    threads = threads or openblas.threads() or "unknown"
    cores = f"{os.cpu_count()} cores, threads of BLAS and peers: {threads}"
    load = f", load average {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    machine = [processor(), cores, f"Python {platform.python_version()}", *versions(packages)]
    sizes = [
        f"`{name}` is {'-'.join(map(str, RUNGS[name].sizes))} with batches of {RUNGS[name].batch}"
        for name in names
    ]
    return [
        f"{what} {means}",
        *([f"{', '.join(sizes)}."] if sizes else []),
        f"Measured on {datetime.date.today().isoformat()} at commit {COMMIT or 'unknown'}, with "
        f"`{command}`, on {', '.join(machine)}{load}. Figures are ratios of times that were taken in "
        f"turn in one process: {interval}.",
    ]


def versions(packages: Iterable[str]) -> list[str]:
    """Package and version, for those that are installed."""
    found = []
    for package in ("numpy", *packages):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return found


def processor() -> str:
    """The processor's name, as Linux gives it."""
    return openblas.processor().name or platform.processor() or platform.machine()


def per_step(ratio: Ratio, theirs: int, ours: int) -> Ratio:
    """The ratio for one step, where a call took `theirs` on one side and `ours` on bpengine's."""
    median, low, high = (x * ours / theirs for x in (ratio.median, ratio.low, ratio.high))
    times = {"ours": ratio.ours / theirs, "reference": ratio.reference / ours}
    return replace(ratio, median=median, low=low, high=high, **times)


def cell(ratio: Ratio | None) -> str:
    """Median and interval; a dash where nothing was measured."""
    if ratio is None:
        return "–"
    digits = 0 if ratio.median >= 20 else 2
    return f"**{ratio.median:.{digits}f}** {ratio.low:.{digits}f}–{ratio.high:.{digits}f}"


def table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def step_table(corner: str, found: Mapping[str, Mapping[str, Ratio]], rungs: Sequence[str]) -> str:
    """A table of ratios by contender and network, and in the last row bpengine's times."""
    rows = {name: [cell(of.get(rung)) for rung in rungs] for name, of in found.items()}
    times = [min(of[rung].reference for of in found.values() if rung in of) for rung in rungs]
    rows["*bpengine, µs a step*"] = [f"*{time:.4g}*" for time in times]
    return table(corner, rungs, rows)


def losses(found: Mapping[str, Mapping[str, Ratio]], bounds: Iterable[str] = ()) -> str:
    """A sentence on those that take less time than bpengine: whose whole interval is below 1.

    `bounds` are not alternatives: what they measure is a part of the same step.
    """
    faster = [
        f"{name} for {column} ({ratio.median:.2f} times as long)"
        for name, ratios in found.items()
        if name not in bounds
        for column, ratio in ratios.items()
        if ratio.high < 1
    ]
    if not faster:
        return "None of these was faster than bpengine."
    return f"Faster than bpengine: {', '.join(faster)}."


def write(name: str, title: str, parts: Sequence[str], only_print: bool = False) -> None:
    """Print a page; and write it, before what its file has after `END`."""
    text = "\n\n".join([f"# Benchmarks: {title}", *parts, END])
    print(text)
    if not only_print:
        path = DOCS / f"benchmarks-{name}.md"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        _, _, rest = before.partition(END)
        path.write_text(text + (rest.rstrip() or "") + "\n", encoding="utf-8")
