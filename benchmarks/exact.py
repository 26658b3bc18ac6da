"""The exact part of the performance check: what a step does, as integers that no noise can move."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import ladder
import numpy as np

import bpengine as bp
from bpengine import counting
from bpengine.counting import CALLS, PRODUCTS_NUMPY, WITHOUT_OUTPUT, counted

BATCHES = (1, 64, 1024)
# In bytes. A row of the largest batch is the smallest array that grows with a batch. Python's own
# objects in a step, which differ between its versions, take about a quarter of it.
ROW = 4 * BATCHES[-1]

NETWORKS = ("tiny", "nielsen", "small", "medium", "softmax")
# the same steps by compiled code, where Numba is installed
COMPILED = tuple(f"numba {name}" for name in NETWORKS) if importlib.util.find_spec("numba") else ()
PRODUCTS_GEMM, UNSEEN = "products by gemm", "calls unseen"
COUNTED = CALLS, PRODUCTS_NUMPY, PRODUCTS_GEMM, WITHOUT_OUTPUT, UNSEEN


def replay(calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Counter[str]:
    """Carry out a program's calls once on counted arrays.

    Calls of BLAS's gemm are made with addresses, which no array type gets to see. They are products
    that write into their operand by nature, and are counted separately. Any other call that the
    arrays did not see is counted as unseen.
    """
    record: Counter[str] = Counter()
    with np.errstate(all="ignore"):
        for function, operands in calls:
            before = record[CALLS]
            counted(function, record)(*counted(operands, record))
            if record[CALLS] == before:
                gemm = "gemm" in getattr(function, "__name__", "")
                record[PRODUCTS_GEMM if gemm else UNSEEN] += 1
                record[CALLS] += 1
    return record


def peak_bytes(plan: bp.Plan) -> int:
    """Memory that a warm step takes and gives back, to the nearest `ROW`."""
    return ROW * round(counting.peak_bytes(plan.run) / ROW)


def counts(name: str) -> dict[str, list[int]]:
    """What one training step of a rung of the ladder does, for each of the batch sizes in turn."""
    backend, _, rung = name.rpartition(" ")
    if backend:
        return _compiled_counts(rung, backend)
    plans = [ladder.plan(name, m) for m in BATCHES]
    replays = [replay(plan.program.calls) for plan in plans]
    return {
        "products in the plan": [plan.counts["matmul"] for plan in plans],
        **{what: [record[what] for record in replays] for what in COUNTED},
        "peak bytes of the largest": [peak_bytes(plans[-1])],
    }


def _compiled_counts(rung: str, backend: str) -> dict[str, list[int]]:
    """What a step is where tables of kernels are replayed: one table, and nothing in Python."""
    plans = [ladder.plan(rung, m, backend) for m in BATCHES]
    calls = [plan.program.calls for plan in plans]
    tables = [
        [  # rows for each of some cores
            len(operands[0]) // getattr(function, "size", 1)
            for function, operands in made
            if getattr(function, "__name__", "") == "replay" or hasattr(function, "size")
        ]
        for made in calls
    ]
    return {
        "products in the plan": [plan.counts["matmul"] for plan in plans],
        CALLS: [len(made) for made in calls],
        "tables": [len(made) for made in tables],
        "rows of tables": [sum(made) for made in tables],
        "peak bytes of the largest": [peak_bytes(plans[-1])],
    }


def broken_rules(name: str, found: dict[str, list[int]]) -> list[str]:
    """What must hold whatever is stored: outputs given, nothing unseen, no batch size unlike another."""
    broken = [
        f"{name}: {what}: {found[what]}, must be 0"
        for what in (WITHOUT_OUTPUT, UNSEEN)
        if any(found.get(what, ()))
    ]
    broken += [
        f"{name}: {what}: {values}, must be equal for batches of {BATCHES}"
        for what, values in found.items()
        if len(set(values)) > 1
    ]
    return broken


def differences(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Where the counts are not the stored ones; one that is missing or not stored is a difference."""
    return [
        f"{name}: {what}: {before.get(what, 'none')} stored, {after.get(what, 'none')} found"
        for name in stored | found
        for before, after in [(stored.get(name, {}), found.get(name, {}))]
        for what in before | after
        if before.get(what) != after.get(what)
    ]


def table(found: dict[str, dict[str, list[int]]]) -> list[str]:
    """The counts as lines to print, a count for each batch size only where they differ."""
    whats = list(dict.fromkeys(what for counts in found.values() for what in counts))
    lines = [["", *whats]]
    for name, counts in found.items():
        values = [dict.fromkeys(counts.get(what, ())) for what in whats]
        lines.append([name, *(" / ".join(map(str, value)) for value in values)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
    ]
