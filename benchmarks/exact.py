"""The exact part of the performance check: what a step or a call does, as integers without noise."""

from __future__ import annotations

import dis
import importlib.util
import sys
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import variations

import bpengine as bp
from bpengine import counting, openblas
from bpengine.counting import CALLS, PRODUCTS_NUMPY, WITHOUT_OUTPUT, counted

BATCHES = (1, 64, 1024)
# In bytes. A row of the largest batch is the smallest array that grows with a batch. Python's own
# objects in a step, which differ between its versions, take about a quarter of it.
ROW = 4 * BATCHES[-1]

BACKENDS = ("numpy", "numba") if importlib.util.find_spec("numba") else ("numpy",)
PRODUCTS_GEMM, UNSEEN = "products by gemm", "calls unseen"
COUNTED = CALLS, PRODUCTS_NUMPY, PRODUCTS_GEMM, WITHOUT_OUTPUT, UNSEEN
OTHER_TYPES, PEAK = "calls in other types", "peak bytes"
STEP, EPOCH, CALL = (f"operations of {what}" for what in ("a step", "an epoch", "a call"))
TOLERANCE = 0.05  # of the operations of a call, most of which check arguments
TRIES = 3  # at counts of Python's operations: compiled steps come back to Python also by the clock
PACKAGE = str(Path(bp.__file__).parent)
INSTRUCTIONS = {  # of Python: calls, and operators and subscripts, which make arrays from arrays
    dis.opmap[name]
    for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "BINARY_OP", "BINARY_SUBSCR", "BINARY_SLICE")
    if name in dis.opmap
}


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


def peak_bytes(call: Callable[[], object]) -> int:
    """Memory that a warm call takes and gives back, to the nearest `ROW`."""
    return ROW * round(counting.peak_bytes(call) / ROW)


class EpochPeak(bp.Callback):
    """Memory that the last epoch of a training took and gave back."""

    def epoch(self, training: bp.Training) -> None:
        current, peak = tracemalloc.get_traced_memory()
        self.bytes = ROW * round((peak - self.before) / ROW) if training.epoch > 1 else 0
        self.before = current
        tracemalloc.reset_peak()


def epoch_peak(training: Training) -> int:
    """Memory that a warm epoch of large batches takes and gives back."""
    look = EpochPeak()
    tracemalloc.start()
    try:
        training(8, BATCHES[-1], 4, callbacks=[look])()
    finally:
        tracemalloc.stop()
    return look.bytes


def in_other_types(plan: bp.Plan) -> int:
    """Calls of a step with floating-point arrays of another type than the network's."""

    def found(x: Any) -> bool:
        if isinstance(x, (tuple, list)):
            return any(map(found, x))
        return isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.dtype != plan.network.dtype

    calls = ((*operands, *getattr(f, "keywords", {}).values()) for f, operands in plan.program.calls)
    return sum(map(found, calls))


def python_operations(call: Callable[[], object]) -> int:
    """Calls, operators and subscripts that bpengine's Python code executes."""
    count, codes = 0, cache(lambda code: code.co_code)

    def local(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if event == "opcode":
            count += codes(frame.f_code)[frame.f_lasti] in INSTRUCTIONS
        return local

    def enter(frame: Any, *_: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


Training = Callable[..., Callable[[], object]]  # of steps, batch size, epochs


def _fit(backend: str, optimizer: Any, name: str = "base") -> Training:
    def training(steps: int, m: int, epochs: int, **options: Any) -> Callable[[], object]:
        net = variations.network(name, backend)
        options |= {"epochs": epochs, "batch_size": m, "optimizer": optimizer, "progress": False}
        return partial(net.fit, *variations.examples(net, steps * m), **options)

    return training


def _estimator(backend: str) -> Training:
    from bpengine.estimators import MLPClassifier

    def training(steps: int, m: int, epochs: int) -> Callable[[], object]:
        X, Y = variations.examples(variations.network("base"), steps * m)
        options = {"max_iter": epochs, "batch_size": m, "tol": 0.0, "n_iter_no_change": 100}
        model = MLPClassifier(SIZES, backend=backend, random_state=0, **options)
        return partial(model.fit, X.T, Y.argmax(axis=0))

    return training


SIZES = (30,)
TRAININGS: dict[str, Callable[[str], Training]] = {
    "fit": lambda backend: _fit(backend, bp.SGD(0.1)),
    "fit, schedule": lambda backend: _fit(backend, bp.Adam(bp.schedules.StepDecay(0.1, 0.9))),
    "fit, stack": lambda backend: _fit(backend, bp.SGD(0.1), "stack"),
}
if importlib.util.find_spec("sklearn"):
    TRAININGS["MLPClassifier"] = _estimator
METHODS: dict[str, Callable[..., object]] = {
    "feedforward": lambda net, X, Y: net.feedforward(X),
    "predict": lambda net, X, Y: net.predict(X),
    "evaluate": lambda net, X, Y: net.evaluate(X, Y),
    "backprop": lambda net, X, Y: net.backprop(X, Y),
    "partial_fit": lambda net, X, Y: net.partial_fit(X, Y, optimizer=bp.SGD(0.1)),
    "fit, lbfgs": lambda net, X, Y: variations.network("base", net.backend).fit(
        X, Y, epochs=1, optimizer=bp.LBFGS(), progress=False
    ),
}
NAMES = tuple(
    f"{backend} {what}"
    for backend in BACKENDS
    for what in (*variations.VARIATIONS, *TRAININGS, *METHODS)
)


def counts(name: str) -> dict[str, Any]:
    """What a step, a training or a call does, by what is counted.

    A step's counts are those of the batch sizes `BATCHES`: a list where they differ.
    """
    with openblas.one_thread:  # with several, compiled steps choose between ways by the clock
        return _counts(name)


def _counts(name: str) -> dict[str, Any]:
    backend, _, what = name.partition(" ")
    if what in TRAININGS:
        training = TRAININGS[what](backend)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            found = _operations_of(training)
            # estimators take no callbacks
            whole = what == "MLPClassifier"
            peak = peak_bytes(training(8, BATCHES[-1], 1)) if whole else epoch_peak(training)
        return {**found, PEAK: peak}
    if what in METHODS:
        net = variations.network("base", backend)
        call = partial(METHODS[what], net, *variations.examples(net, BATCHES[-1]))
        call()
        return {CALL: python_operations(call), PEAK: peak_bytes(call)}
    plans = [variations.plan(what, m, backend) for m in BATCHES]
    found = {"products in the plan": [plan.counts["matmul"] for plan in plans]}
    if backend == "numpy":
        replays = [replay(plan.program.calls) for plan in plans]
        found |= {what: [record[what] for record in replays] for what in COUNTED}
        found[OTHER_TYPES] = [in_other_types(plan) for plan in plans]
    else:
        found |= _tables(plans)
    peak = peak_bytes(plans[-1].run)
    return {key: values if len({*values}) > 1 else values[0] for key, values in found.items()} | {
        PEAK: peak
    }


def _tables(plans: list[bp.Plan]) -> dict[str, list[int]]:
    """What steps are where tables of kernels are replayed: one table, and nothing in Python."""
    tables = [
        [  # rows for each of some cores
            len(operands[0]) // getattr(function, "size", 1)
            for function, operands in plan.program.calls
            if getattr(function, "__name__", "") == "replay" or hasattr(function, "size")
        ]
        for plan in plans
    ]
    return {
        CALLS: [len(plan.program.calls) for plan in plans],
        "tables": [len(made) for made in tables],
        "rows of tables": [sum(made) for made in tables],
    }


def _operations_of(training: Training) -> dict[str, Any]:
    """Operations of one more step and of one more epoch, for two batch sizes, and of the rest."""
    steps, epochs, calls = [], [], []
    training(4, 16, 1)()
    for m in (16, 64):
        n = {(s, e): python_operations(training(s, m, e)) for s in (8, 4) for e in (1, 2)}
        longer, shorter = (n[s, 2] - n[s, 1] for s in (8, 4))
        step = (longer - shorter) / 4
        steps.append(step)
        epochs.append(longer - 8 * step)
        calls.append(n[8, 1] - longer)
    return {
        STEP: steps if steps[0] != steps[1] else steps[0],
        EPOCH: epochs if epochs[0] != epochs[1] else epochs[0],
        CALL: calls[-1],
    }


def broken_rules(name: str, found: Mapping[str, Any]) -> list[str]:
    """What must hold whatever is stored: nothing grows with the batch."""
    return [
        f"{name}: {what}: {values}, must be equal for the larger batches"
        for what, values in found.items()
        if isinstance(values, list) and values[-1] > values[-2]
    ]


def differences(
    stored: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]], python: bool = True
) -> list[str]:
    """Where the counts are not the stored ones; one that is missing or not stored is a difference.

    Operations of Python are left out if they are those of another version of Python.
    """
    return [
        f"{name}: {what}: {before.get(what, 'none')} stored, {after.get(what, 'none')} found"
        for name in {**stored, **found}
        for before, after in [(stored.get(name, {}), found.get(name, {}))]
        for what in {**before, **after}
        if python or not what.startswith("operations")
        if not _agree(what, before, after)
    ]


def _agree(what: str, stored: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    before, after = stored.get(what), found.get(what)
    if before is None or after is None or what not in (CALL, PEAK) or CALL not in found:
        return bool(before == after)
    # Python's own objects are in the memory of a call
    return abs(after - before) <= (TOLERANCE * before if what == CALL else ROW)


def packed(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Counts as a baseline stores them: by what is counted, values alone."""
    tables: dict[str, dict[str, list[Any]]] = {}
    for name, counts in found.items():
        tables.setdefault(", ".join(counts), {})[name] = [*counts.values()]
    return tables


def unpacked(tables: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, dict[str, Any]]:
    """The inverse of `packed`."""
    return {
        name: dict(zip(whats.split(", "), values, strict=True))
        for whats, table in tables.items()
        for name, values in table.items()
    }
