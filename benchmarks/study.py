"""The A/A study: how often the timed part errs when nothing has changed.

Each run is what `check` does: controls and cases in a fresh process, and one more fresh process for a
case that seems slower. Runs are written as they end, so that a study can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timed

from bpengine import timing

ROOT = Path(__file__).parents[1]
TOLERANCES = (1.10, 1.15, 1.25, 1.50)
BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--runs", type=int, default=100, help="in all, those on record included")
    parser.add_argument("--cases", nargs="+", choices=timed.CASES, default=list(timed.CASES))
    parser.add_argument("--records", type=Path, default=ROOT / "build" / "performance-study.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance-check.md")


def run(options: argparse.Namespace, environment: Mapping[str, Any]) -> int:
    """Make the runs that are still missing, then write the tables into the page."""
    baseline = json.loads(options.baseline.read_text(encoding="utf-8"))
    stored = {name: baseline["ratios"][name]["median"] for name in options.cases}
    options.records.parent.mkdir(parents=True, exist_ok=True)
    options.records.touch()
    records = [json.loads(line) for line in options.records.read_text("utf-8").splitlines()]
    if any(record["stored"] != stored for record in records):
        print(f"{options.records} is of another baseline or other cases: move it away first.")
        return 1
    for number in range(len(records), options.runs):
        records.append(one_run(stored, number))
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
    stored: Mapping[str, float], number: int, measure: timed.Measure = timed.measure_fresh
) -> dict[str, Any]:
    """Measure everything once, and again what is over the smallest of the tolerances."""
    found = measure([*timed.CONTROLS, *stored], number)
    again = {
        name: measure([name], number)[name].low
        for name in stored
        if timing.judge(found[name], stored[name], min(TOLERANCES)) == "slower"
    }
    return {
        "stored": stored,
        "steady": all(timing.steady(found[name]) for name in timed.CONTROLS),
        "median": {name: found[name].median for name in stored},
        "low": {name: found[name].low for name in stored},
        "again": again,
    }


def tables(records: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> list[str]:
    """The study as Markdown: false alarms by tolerance, and how far each case strays."""
    judged = [record for record in records if record["steady"]]
    n = len(judged)
    fields = ("processor", "cores", "Python", "NumPy", "BLAS", "BLAS core", "date")
    where = ", ".join(f"{key} {environment[key]}" for key in fields)
    lines = [
        f"{len(records)} runs on unchanged code, {len(records) - n} of them inconclusive, {n} judged; "
        f"command: `python benchmarks/perf.py study --runs {len(records)}`; {where}.",
        "",
        "| tolerance | runs with an alarm | confirmed alarm | rate | at most (95 %) |",
        "|---|---|---|---|---|",
    ]
    if n == 0:
        return [*lines[:1], "", "No run was judged."]
    for tolerance in TOLERANCES:
        first = sum(bool(_alarms(record, "low", tolerance)) for record in judged)
        confirmed = sum(
            bool(_alarms(record, "low", tolerance) & _alarms(record, "again", tolerance))
            for record in judged
        )
        bound = upper_bound(confirmed, n)
        lines.append(f"| {tolerance:.2f} | {first} | {confirmed} | {confirmed / n:.1%} | {bound:.1%} |")
    lines += [
        "",
        "| case | stored | measured ÷ stored, middle 90 % of runs | highest lower end ÷ stored "
        f"| slowdown that every run would catch at {timed.TOLERANCE} |",
        "|---|---|---|---|---|",
    ]
    for name, ratio in records[0]["stored"].items():
        medians = np.quantile([record["median"][name] / ratio for record in judged], (0.05, 0.95))
        lows = [record["low"][name] / ratio for record in judged]
        lines.append(
            f"| {name} | {ratio:.3f} | {medians[0]:.3f} to {medians[1]:.3f} | {max(lows):.3f} "
            f"| × {timed.TOLERANCE / min(lows):.2f} |"
        )
    return lines


def _alarms(record: Mapping[str, Any], which: str, tolerance: float) -> set[str]:
    """Cases of a run whose lower end is over the tolerance."""
    stored = record["stored"]
    return {name for name, low in record[which].items() if low > tolerance * stored[name]}


def upper_bound(alarms: int, runs: int, confidence: float = 0.95) -> float:
    """The highest rate at which so few alarms are not yet improbable, after Clopper and Pearson."""

    def so_few(rate: float) -> float:
        return sum(math.comb(runs, k) * rate**k * (1 - rate) ** (runs - k) for k in range(alarms + 1))

    low, high = alarms / runs, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if so_few(middle) > 1 - confidence else (low, middle)
    return high
