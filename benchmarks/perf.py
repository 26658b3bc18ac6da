"""The performance check: `python benchmarks/perf.py check | refresh | study`.

See docs/performance-check.md.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
from bpengine import openblas  # isort: skip

import exact
import numpy as np
import study
import timed

from bpengine.timing import Ratio, steady

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
SCHEMA = 1
PROCESSES = 5  # whose median ratio is stored: one process may have its arrays lie luckily in memory
NAMED = ("processor", "BLAS core", "Python", "NumPy", "BLAS")  # what a ratio may depend on


def check(path: Path, measure: timed.Measure = timed.measure_fresh) -> tuple[int, list[str]]:
    """Both parts against the stored baseline: the exit status, and the lines to print."""
    baseline = json.loads(path.read_text(encoding="utf-8"))
    if baseline.get("schema") != SCHEMA:
        found = baseline.get("schema")
        return 1, [f"FAIL: {path} has schema {found}, this check reads {SCHEMA}. Refresh it."]
    skipped = [] if exact.COMPILED else _without_numba(baseline)
    counts = _counts()
    wrong = [fault for name, found in counts.items() for fault in exact.broken_rules(name, found)]
    wrong += exact.differences(baseline["counts"], counts)
    if baseline["yardstick"] != yardstick():
        wrong.append("frozen.py: was edited; no stored ratio means anything now. Put it back.")
    lines = [f"exact, for batches of {exact.BATCHES}:"]
    lines += [line for part in _alike(counts) for line in exact.table(part)]
    if skipped:
        lines.append(f"SKIPPED, for Numba is not installed: {', '.join(skipped)}")

    stored = {name: ratio["median"] for name, ratio in baseline["ratios"].items()}
    wrong += [f"{name}: measured, but not stored" for name in timed.CASES if name not in stored]
    wrong += [f"{name}: stored, but no longer measured" for name in stored if name not in timed.CASES]
    result = timed.part({name: stored[name] for name in timed.CASES if name in stored}, measure)
    lines += ["timed:", *result.lines]
    here, there = environment(), baseline["environment"]
    lines += [
        f"  note: {key} was {there.get(key)!r} for the stored ratios, is {here[key]!r}"
        for key in NAMED
        if here[key] != there.get(key)
    ]
    wrong += result.slower
    return int(bool(wrong)), [*lines, *_verdict(wrong, result.off)]


def _counts() -> dict[str, dict[str, list[int]]]:
    return {name: exact.counts(name) for name in (*exact.NETWORKS, *exact.COMPILED)}


def _alike(counts: dict[str, dict[str, list[int]]]) -> list[dict[str, dict[str, list[int]]]]:
    """The counts of NumPy's steps and those of compiled ones, which are counts of other things."""
    compiled = {name: found for name, found in counts.items() if name in exact.COMPILED}
    others = {name: found for name, found in counts.items() if name not in compiled}
    return [part for part in (others, compiled) if part]


def _without_numba(baseline: dict[str, Any]) -> list[str]:
    """Take what needs Numba out of a baseline; gives the names."""
    parts = baseline["counts"], baseline["ratios"]
    names = [name for part in parts for name in part if name.startswith("numba ")]
    for part in parts:
        for name in names:
            part.pop(name, None)
    return list(dict.fromkeys(names))


def _verdict(wrong: Sequence[str], off: Sequence[str]) -> list[str]:
    if wrong:
        names = dict.fromkeys(fault.partition(":")[0] for fault in wrong)
        return [*(f"  {fault}" for fault in wrong), f"FAIL: {', '.join(names)}"]
    if off:
        return [
            "INCONCLUSIVE: the counts are right; the machine is too busy for times to mean anything, "
            f"as a step against itself shows: {', '.join(off)}"
        ]
    return ["PASS: counts as stored, no case slower"]


def refresh(path: Path, measure: timed.Measure = timed.measure_fresh) -> tuple[int, list[str]]:
    """Measure anew and write the baseline; the exit status, and the lines to print."""
    counts = _counts()
    broken = [fault for name, found in counts.items() for fault in exact.broken_rules(name, found)]
    if broken:
        return 1, [*broken, f"FAIL: {path} is left as it is: no baseline may hold these"]
    runs: list[dict[str, Ratio]] = []
    for seed in range(2 * PROCESSES):
        found = measure([*timed.CONTROLS, *timed.CASES], seed)
        if all(steady(found[name]) for name in timed.CONTROLS):
            runs.append(found)
        if len(runs) == PROCESSES:
            break
    else:
        return 1, [
            f"INCONCLUSIVE: {path} is left as it is: only {len(runs)} of {2 * PROCESSES} processes had "
            "steady controls, too few for a ratio that others are compared with"
        ]
    baseline = {
        "schema": SCHEMA,
        "environment": environment(),
        "yardstick": yardstick(),
        "counts": counts,
        "ratios": {name: _summary([run[name] for run in runs]) for name in timed.CASES},
    }
    text = json.dumps(baseline, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda list_: "[" + " ".join(list_[1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")
    return 0, [f"wrote {path}: look at the difference before it goes in"]


def _summary(found: Sequence[Ratio]) -> dict[str, Any]:
    """The median process; an interval that covers those of all processes."""
    return {
        "median": round(statistics.median(ratio.median for ratio in found), 4),
        "low": round(min(ratio.low for ratio in found), 4),
        "high": round(max(ratio.high for ratio in found), 4),
        "pairs": sum(ratio.pairs for ratio in found),
        "microseconds ours": round(statistics.median(ratio.ours for ratio in found), 1),
        "microseconds frozen": round(statistics.median(ratio.reference for ratio in found), 1),
    }


def yardstick() -> str:
    """What the frozen file is recognised by, whatever its line ends."""
    text = (HERE / "frozen.py").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def environment() -> dict[str, Any]:
    """What was measured on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[call-overload]
    return {
        "processor": openblas.processor().name or platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "BLAS": f"{blas['name']} {blas['version']}",
        "BLAS core": openblas.taken_core(),
        "settings": timed.SETTINGS,
        "date": datetime.date.today().isoformat(),
    }


def print_lines(lines: Iterable[str]) -> None:
    """Print, and add to the summary page of a GitHub workflow where there is one."""
    text = "\n".join(lines)
    print(text, flush=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a", encoding="utf-8") as page:
            page.write(f"### Performance check\n\n```text\n{text}\n```\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; gives the exit status."""
    parser = argparse.ArgumentParser(prog="perf.py", description=__doc__)
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="compare with the baseline; exit status 1 if worse")
    commands.add_parser("refresh", help="measure and write the baseline")
    study.add_arguments(commands.add_parser("study", help="how often the check errs on unchanged code"))
    chosen = parser.parse_args(arguments)
    if chosen.command == "study":
        return study.run(chosen, environment())
    status, lines = {"check": check, "refresh": refresh}[chosen.command](chosen.baseline)
    print_lines(lines)
    return status


if __name__ == "__main__":
    sys.exit(main())
