"""The A/A study: how often the timed part errs when nothing has changed.

Each run is the timed part of a check. Runs are written as they end, so that a study can be stopped and
continued.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timed
from revisions import tree_of

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--runs", type=int, default=300, help="in all, those on record included")
    parser.add_argument(
        "--cases", nargs="+", choices=timed.CASES, default=list(timed.CASES), metavar="case"
    )
    parser.add_argument("--records", type=Path, default=ROOT / "build" / "performance-study.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance-check.md")


def run(options: argparse.Namespace, environment: Mapping[str, Any]) -> int:
    """Make the runs that are still missing, then write the tables into the page."""
    baseline = json.loads(options.baseline.read_text(encoding="utf-8"))
    stored = {name: baseline["ratios"][name] for name in options.cases}
    options.records.parent.mkdir(parents=True, exist_ok=True)
    options.records.touch()
    records = [json.loads(line) for line in options.records.read_text("utf-8").splitlines()]
    if any(record["stored"] != stored for record in records):
        print(f"{options.records} is of another baseline or other cases: move it away first.")
        return 1
    for number in range(len(records), options.runs):
        with tree_of("HEAD") as tree:
            records.append(one_run(stored, again=timed.measure_against(tree)))
        with options.records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(records[-1]) + "\n")
        print(f"run {number + 1} of {options.runs}", flush=True)
    text = options.page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    written = "\n".join(tables(records, environment))
    options.page.write_text(f"{before}{BEGIN}\n{written}\n{END}{after}", encoding="utf-8")
    print(written)
    return 0


def one_run(
    stored: Mapping[str, timed.Stored],
    measure: timed.Measure = timed.measure_fresh,
    again: timed.Measure | None = None,
) -> dict[str, Any]:
    """Judge all cases once."""
    start = time.perf_counter()
    result = timed.part(stored, measure, again)
    return {
        "stored": stored,
        "slower": [fault.partition(":")[0] for fault in result.slower],
        "open": result.open,
        "medians": {name: round(ratio.median, 4) for name, ratio in result.ratios.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def tables(records: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> list[str]:
    """The study as Markdown: false alarms, and from which factor on a slower case is caught."""
    n, stored = len(records), records[0]["stored"]
    fields = ("processor", "cores", "Python", "NumPy", "BLAS", "BLAS core", "date")
    where = ", ".join(f"{key} {environment[key]}" for key in fields)
    alarms = sum(bool(record["slower"]) for record in records)
    undecided = sum(len(record["open"]) for record in records)
    seconds, loads = ([record[key] for record in records] for key in ("seconds", "load"))
    load = "" if None in loads else f" Load averages were {min(loads):.1f} to {max(loads):.1f}."
    lines = [
        f"{n} runs on unchanged code of {len(stored)} cases each: {alarms} with an alarm, a rate of "
        f"at most {upper_bound(alarms, n):.1%} (95 %); {undecided} of {n * len(stored):,} not judged; "
        f"median time {np.median(seconds):.0f} s.{load} Command: `python benchmarks/perf.py study "
        f"--runs {n}`; {where}.",
        "",
        "| cases | first measurement ÷ stored, middle 90 % | caught if slower by 1.3 | by 1.5 |",
        "|---|---|---|---|",
    ]
    for group, belongs in GROUPS.items():
        names = [name for name in stored if belongs(name)]
        if names:
            medians = [r["medians"][name] / stored[name][0] for r in records for name in names]
            low, high = np.quantile(medians, (0.05, 0.95))
            factors = [timed.limit(name, stored[name]) / stored[name][0] for name in names]
            caught = (sum(factor < by for factor in factors) for by in (1.3, 1.5))
            shares = " | ".join(f"{number} of {len(names)}" for number in caught)
            lines.append(f"| {group} | {low:.2f} to {high:.2f} | {shares} |")
    return lines


GROUPS = {
    "steps and calls": lambda name: "kernel" not in name,
    "kernels, NumPy": lambda name: name.startswith("kernel"),
    "kernels, Numba": lambda name: name.startswith("numba kernel"),
}


def upper_bound(alarms: int, runs: int, confidence: float = 0.95) -> float:
    """The highest rate at which so few alarms are not yet improbable, after Clopper and Pearson."""

    def so_few(rate: float) -> float:
        return sum(math.comb(runs, k) * rate**k * (1 - rate) ** (runs - k) for k in range(alarms + 1))

    low, high = alarms / runs, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if so_few(middle) > 1 - confidence else (low, middle)
    return high
