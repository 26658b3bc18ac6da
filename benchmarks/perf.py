"""The performance check: `python benchmarks/perf.py check | refresh | record | study | campaign`.

See docs/performance-check.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# before NumPy, so that OpenBLAS takes the core that bpengine asks it for
from bpengine import openblas  # isort: skip

import exact
import injections
import numpy as np
import study
import timed
from revisions import revision_of, tree_of

from bpengine.timing import steady

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
RECORDS = HERE.parent / "build" / "performance.jsonl"
SCHEMA = 2
PROCESSES = 7  # whose median ratio is stored: one process may have its arrays lie luckily in memory
FROZEN = ("frozen.py", "frozen_kernels.py")
PARTS = {  # of a baseline, that need a package
    "Numba": lambda name: name.startswith("numba "),
    "scikit-learn": lambda name: name.endswith("MLPClassifier"),
}
NAMED = ("processor", "BLAS core", "NumPy", "BLAS")  # what a ratio depends on


def check(
    path: Path,
    measure: timed.Measure = timed.measure_fresh,
    inconclusive: str = "pass",
    against: str | None = None,
    only_counts: bool = False,
) -> tuple[int, list[str]]:
    """Both parts against the stored baseline: the exit status, and the lines to print.

    Times are compared with the stored ratios, and where they look slower with the code that these are
    of; with the revision `against` alone, where one is given.
    """
    baseline = json.loads(path.read_text(encoding="utf-8"))
    if baseline.get("schema") != SCHEMA:
        found = baseline.get("schema")
        return 1, [f"FAIL: {path} has schema {found}, this check reads {SCHEMA}. Refresh it."]
    stored = exact.unpacked(baseline["counts"])
    ratios = {name: tuple(numbers) for name, numbers in baseline["ratios"].items()}
    lines = []
    for package, ours in PARTS.items():
        if not any(map(ours, exact.NAMES)):
            stored, ratios = (
                {name: x for name, x in part.items() if not ours(name)} for part in (stored, ratios)
            )
            lines.append(f"SKIPPED, for {package} is not installed: what needs it")
    here, there = environment(), baseline["environment"]
    same_python = here["Python"].split(".")[:2] == there["Python"].split(".")[:2]
    if not same_python:
        lines.append(f"SKIPPED, for they are those of Python {there['Python']}: operations of Python")
    wrong = counted(stored, same_python)
    lines.append(f"exact: {len(exact.NAMES)} steps and calls counted, {len(wrong)} differences")
    for name in FROZEN:
        if baseline["yardsticks"].get(name) != yardstick(name):
            wrong.append(f"{name}: was edited; no stored ratio means anything now. Put it back.")
    if only_counts or wrong:
        return int(bool(wrong)), [*lines, *_verdict(wrong, [])]

    if against is None:
        wrong += [f"{name}: measured, but not stored" for name in timed.CASES if name not in ratios]
        wrong += [f"{name}: stored, not measured" for name in ratios if name not in timed.CASES]
        other = [key for key in NAMED if here[key] != there.get(key)]
        lines += [f"note: {key} was {there.get(key)!r}, is {here[key]!r}" for key in other]
        ratios = {name: ratios[name] for name in timed.CASES if name in ratios}
    revision = against or revision_of(path)
    with tree_of(revision) if revision else contextlib.nullcontext() as tree:
        again = timed.measure_against(tree) if tree else None
        if against and tree:
            measure, ratios = timed.measure_against(tree), dict.fromkeys(common_cases(tree), timed.SAME)
            lines.append(f"this tree ÷ {against}, which has {len(ratios)} of these cases:")
        result = timed.part(ratios, measure, again)
    lines += ["timed:", *result.lines]
    wrong += result.slower
    status = int(bool(wrong) or (bool(result.open) and inconclusive == "fail"))
    return status, [*lines, *_verdict(wrong, result.open)]


def counted(stored: Mapping[str, Any], python: bool = True) -> list[str]:
    """Broken rules and differences of the counts; what differs is counted again."""
    found = {name: exact.counts(name) for name in exact.NAMES}
    for _ in range(exact.TRIES - 1):
        differ = exact.differences(stored, found, python)
        names = {fault.partition(":")[0] for fault in differ}
        found |= {name: exact.counts(name) for name in names & {*stored} & {*found}}
    wrong = [fault for name, counts in found.items() for fault in exact.broken_rules(name, counts)]
    return wrong + exact.differences(stored, found, python)


def _verdict(wrong: Sequence[str], open_: Sequence[str]) -> list[str]:
    if wrong:
        names = dict.fromkeys(fault.partition(":")[0] for fault in wrong)
        return [*(f"  {fault}" for fault in wrong), f"FAIL: {', '.join(names)}"]
    if open_:
        return [
            "INCONCLUSIVE: the counts are right, and no case is known to be slower; not judged, because "
            "the machine was too busy, or git has no commit of this baseline to compare with: "
            f"{', '.join(open_)}"
        ]
    return ["PASS: counts as stored, no case slower"]


def common_cases(tree: Path) -> list[str]:
    """The cases that another tree has too, timed against the same frozen steps."""
    if any(not (tree / "benchmarks" / name).exists() for name in ("kernels.py", *FROZEN)):
        return []
    theirs = timed.run(tree)
    return [name for name in timed.CASES if name in theirs]


def refresh(
    path: Path, measure: timed.Measure = timed.measure_fresh, only_counts: bool = False
) -> tuple[int, list[str]]:
    """Measure anew and write the baseline; the exit status, and the lines to print."""
    counts = {name: exact.counts(name) for name in exact.NAMES}
    broken = [fault for name, found in counts.items() for fault in exact.broken_rules(name, found)]
    if broken:
        return 1, [*broken, f"FAIL: {path} is left as it is: no baseline may hold these"]
    baseline: dict[str, Any] = {"schema": SCHEMA, "environment": environment()}
    baseline["yardsticks"] = {name: yardstick(name) for name in FROZEN}
    baseline["counts"] = exact.packed(counts)
    if only_counts:
        before = json.loads(path.read_text(encoding="utf-8"))
        baseline["environment"], baseline["ratios"] = before["environment"], before["ratios"]
        baseline["environment"]["Python"] = platform.python_version()
    else:
        runs: dict[str, list[float]] = {name: [] for name in timed.CASES}
        for seed in range(2 * PROCESSES):
            left = [name for name in runs if len(runs[name]) < PROCESSES]
            for name, ratio in measure(left, seed).items() if left else ():
                if steady(ratio.control):
                    runs[name].append(ratio.median)
        few = [name for name in runs if len(runs[name]) < PROCESSES]
        if few:
            return 1, [
                f"INCONCLUSIVE: {path} is left as it is: in too many of {2 * PROCESSES} processes the "
                f"controls of these were off: {', '.join(few)}"
            ]
        baseline["ratios"] = {
            name: [round(f(found), 4) for f in (statistics.median, min, max)]
            for name, found in runs.items()
        }
    path.write_text(_text(baseline) + "\n", encoding="utf-8")
    return 0, [f"wrote {path}: look at the difference before it goes in"]


def _text(x: Any, indent: str = "") -> str:
    """JSON with each list on one line."""
    if not isinstance(x, dict):
        return json.dumps(x, ensure_ascii=False)
    inner = indent + " "
    entries = [f"{inner}{json.dumps(key)}: {_text(value, inner)}" for key, value in x.items()]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def record(path: Path, measure: timed.Measure = timed.measure_fresh) -> tuple[int, list[str]]:
    """Append the counts and the ratios of this commit to a file, as a line of JSON."""
    git = subprocess.run(["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True)
    found = measure(timed.CASES, 0)
    entry = {
        "commit": git.stdout.strip(),
        "environment": environment(),
        "ratios": {
            name: round(ratio.median, 4) for name, ratio in found.items() if steady(ratio.control)
        },
        "counts": exact.packed({name: exact.counts(name) for name in exact.NAMES}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return 0, [f"added a line to {path}: {len(entry['ratios'])} ratios, {len(exact.NAMES)} counts"]


def yardstick(name: str) -> str:
    """What a frozen file is recognised by, whatever its line ends."""
    text = (HERE / name).read_text(encoding="utf-8")
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
    checking = commands.add_parser("check", help="compare with the baseline; exit status 1 if worse")
    checking.add_argument(
        "--inconclusive", choices=["pass", "fail"], default="pass", help="if a time can't be judged"
    )
    checking.add_argument("--against", metavar="REV", help="compare times with those of a revision")
    refreshing = commands.add_parser("refresh", help="measure and write the baseline")
    for command in (checking, refreshing):
        command.add_argument("--only-counts", action="store_true", help="measure no times")
    recording = commands.add_parser("record", help="add a line of JSON for this commit to a file")
    recording.add_argument("--to", type=Path, default=RECORDS)
    study.add_arguments(commands.add_parser("study", help="how often the check errs on unchanged code"))
    injections.add_arguments(commands.add_parser("campaign", help="which injected faults are caught"))
    chosen = parser.parse_args(arguments)
    if chosen.command == "study":
        return study.run(chosen, environment())
    if chosen.command == "campaign":
        return injections.run(chosen, environment())
    if chosen.command == "check":
        status, lines = check(
            chosen.baseline,
            inconclusive=chosen.inconclusive,
            against=chosen.against,
            only_counts=chosen.only_counts,
        )
    elif chosen.command == "refresh":
        status, lines = refresh(chosen.baseline, only_counts=chosen.only_counts)
    else:
        status, lines = record(chosen.to)
    print_lines(lines)
    return status


if __name__ == "__main__":
    sys.exit(main())
