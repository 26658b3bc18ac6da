"""Faults put into the package on purpose, to see which of them the check catches.

    python benchmarks/perf.py campaign

runs the check, in new processes, once for each fault: ten kinds, four of each. An injected function
counts as one of the package. Kernels that are made slower are drawn at random.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from types import CodeType
from typing import Any

import bpengine  # isort: skip  before NumPy

import frozen_kernels
import numpy as np

HERE = Path(__file__).resolve().parent
PACKAGE = Path(bpengine.__file__).parent
SLOWDOWN = 1.3
Make = Callable[[Any], Any]
KERNELS = "backends.numpy.kernels:KERNELS"
TAKE = "backends.numpy.backend:NumPyBackend.take"
LOWERING = "backends.numba.lowering:"


def inside(function: Any) -> Any:
    """The function, its code as if it were in a file of the package; not if it only takes longer."""
    if hasattr(function, "__wrapped__"):
        return function

    def placed(code: CodeType) -> CodeType:
        constants = [placed(x) if isinstance(x, CodeType) else x for x in code.co_consts]
        return code.replace(co_filename=str(PACKAGE / "injected.py"), co_consts=tuple(constants))

    function.__code__ = placed(function.__code__)
    return function


def at(place: str, make: Make, entry: str | None = None) -> Callable[[], None]:
    """Replaces an attribute, ``module:path``, or an entry of it, by what `make` makes of it."""

    def patch() -> None:
        module, _, path = place.partition(":")
        *owners, name = path.split(".")
        owner = importlib.import_module(f"bpengine.{module}")
        for part in owners:
            owner = getattr(owner, part)
        if entry is not None:
            table = getattr(owner, name)
            table[entry] = inside(make(table[entry]))
        else:
            setattr(owner, name, inside(make(getattr(owner, name))))

    return patch


def after(name: str, calls: Callable[..., list[Any]]) -> Callable[[], None]:
    """More calls after those of one of NumPy's kernels."""
    return at(KERNELS, lambda kernel: lambda k, *ops: [*kernel(k, *ops), *calls(k, *ops)], name)


def again(name: str) -> Callable[[], None]:
    """The calls of one of NumPy's kernels twice."""
    return at(KERNELS, lambda kernel: lambda k, *ops: [*kernel(k, *ops)] * 2, name)


def slower(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, which then works on for some of its time."""

    @wraps(call)
    def slowed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments, **options)
        end = time.perf_counter()
        end += (SLOWDOWN - 1) * (end - start)
        while time.perf_counter() < end:
            pass
        return result

    return slowed


def twice_if(test: Callable[[Any], bool]) -> Make:
    """The instructions of some operations twice."""
    return lambda lower: lambda self, op: (lower(self, op) or []) * (2 if test(op) else 1)


def first_twice(feedforward: Any) -> Any:
    def operations(*arguments: Any) -> Iterator[Any]:
        first, *rest = feedforward(*arguments)
        yield from (first, first, *rest)

    return operations


def hidden(a: Any) -> None:
    np.copyto(a, np.asarray(a) * 1)


def copied(take: Any) -> Any:
    def taking(self: Any, rows: Any, indices: Any, out: Any) -> None:
        out[...] = rows.take(indices, 0).copy()

    return taking


def looped(take: Any) -> Any:
    def taking(self: Any, rows: Any, indices: Any, out: Any) -> None:
        for i, index in enumerate(indices):
            out[i] = rows[index]

    return taking


def softmax_by_columns(kernel: Any) -> Any:
    def calls(k: Any, z: Any, a: Any) -> list[Any]:
        columns = [(..., slice(i, i + 1)) for i in range(z.shape[-1])]
        return [call for column in columns for call in kernel(k, z[column], a[column])]

    return calls


def inputs_by_columns(check: Any) -> Any:
    def checked(self: Any, X: Any) -> Any:
        X = check(self, X)
        return np.stack([X[..., i] for i in range(X.shape[-1])], axis=-1)

    return checked


def costs_by_columns(per_example: Any) -> Any:
    def costs(self: Any, σ: Any, z: Any, a: Any, y: Any) -> Any:
        columns = [slice(i, i + 1) for i in range(z.shape[-1])]
        parts = [per_example(self, σ, *(x[..., at] for x in (z, a, y))) for at in columns]
        return np.concatenate(parts, axis=-1)

    return costs


def allocating(run: Any) -> Any:
    return lambda self, steps: (np.empty(100_000), run(self, steps))[1]


def wide(function: Any) -> Any:
    """A function of some values and an array like which it makes another one."""
    return lambda *arguments: function(*arguments[:-1], np.empty(arguments[-1].shape))


def no_fold_with(name: str) -> Make:
    return lambda fold: (
        lambda operations, layout: (
            {} if any(op.name == name for op in operations) else fold(operations, layout)
        )
    )


def without_cache(compiled: Any) -> Any:
    alive: list[Any] = []  # code whose addresses are in use

    def compiling(name: str, dtype: Any) -> Any:
        alive.append(compiled.__wrapped__(name, dtype))
        return alive[-1]

    return compiling


def slower_calls(name: str) -> Make:
    return lambda calls: (
        lambda scratch, op: [
            (slower(function) if op.name == name else function, operands)
            for function, operands in calls(scratch, op)
        ]
    )


def slower_program(name: str) -> Make:
    def compiling(compile_: Any) -> Any:
        def made(self: Any, operations: Any) -> Any:
            operations = list(operations)
            program = compile_(self, operations)
            if [op.name for op in operations] == [name]:  # within a step it can't be made slower
                program.run = slower(program.run)
            return program

        return made

    return compiling


def no_fold(fold: Any) -> Any:
    return lambda *arguments: {}


RANDOM = random.Random(0)
RUNS = {
    "NumPy": "backends.array_api:Replay.run",
    "Numba": "backends.numba.backend:CompiledProgram.run",
}
FOLDS = ["backends.numpy.backend:fold", "backends.numba.backend:fold"]
FAULTS: dict[str, Callable[[], Any]] = {
    "pass: sigmoid, NumPy": after("sigmoid", lambda k, z, a: [(np.positive, (a, a))]),
    "pass: Adam, NumPy": after("adam", lambda k, θ, g, G, *_: [(np.positive, (G, G))]),
    "pass: tanh twice, Numba": at(LOWERING + "Lowering.lower", twice_if(lambda op: op.name == "tanh")),
    "pass: over each batch of fit": at(
        TAKE, lambda f: lambda self, rows, at, out: (f(self, rows, at, out), np.positive(out, out))
    ),
    "copy: tanh, NumPy": after("tanh", lambda k, z, a: [(np.copy, (a,))]),
    "copy: of each batch of fit": at(TAKE, copied),
    "copy: of the inputs of feedforward": at(
        "model.model:Model.check_inputs", lambda f: lambda self, X: f(self, X).copy()
    ),
    "copy: that is superfluous, Numba": at(LOWERING + "location", lambda f: lambda x: object()),
    "allocation: momentum, NumPy": after("momentum", lambda k, θ, g, v, μ, out: [(np.multiply, (v, μ))]),
    "allocation: within a call of softmax, NumPy": after("softmax", lambda k, z, a: [(hidden, (a,))]),
    **{f"allocation: in each run of a program, {b}": at(run, allocating) for b, run in RUNS.items()},
    "product: of feedforward twice": at("backprop.equations:feedforward", first_twice),
    "product: folded product twice, NumPy": again("add product"),
    "product: norms of gradients twice, NumPy": again("product norms"),
    "product: twice, Numba": at(
        LOWERING + "SPECIAL", twice_if(lambda op: op.equation == "BP2"), "matmul"
    ),
    "loop: softmax by columns, NumPy": at(KERNELS, softmax_by_columns, "softmax"),
    "loop: over the examples of a batch of fit": at(TAKE, looped),
    "loop: over the examples of feedforward": at("model.model:Model.check_inputs", inputs_by_columns),
    "loop: over the costs of examples in fit": at("model.costs:Cost.per_example", costs_by_columns),
    "float64: constants, NumPy": at("backends.numpy.scratch:Scratch.constant", wide),
    "float64: scratch arrays, NumPy": at(
        "backends.numpy.scratch:Scratch.scratch",
        lambda f: lambda self, like, which=0: f(self, np.empty(like.shape), which),
    ),
    "float64: decay rates of Adam": at("optimizers.adam:array_of", wide),
    "float64: state of RMSprop and Adagrad": at("optimizers.adaptive:zeros_like", wide),
    "fold: lost, NumPy": at(FOLDS[0], no_fold),
    "fold: lost, Numba": at(FOLDS[1], no_fold),
    **{
        f"fold: lost with {name}": lambda name=name: [at(f, no_fold_with(name))() for f in FOLDS]
        for name in ("momentum", "decay")
    },
    "cache: of the program of feedforward": at(
        "model.recent:Recent.take", lambda f: lambda self, key: None
    ),
    "cache: of the plan of fit": at(
        "training.steps:StepRunner.plan", lambda f: lambda self, x: (self._plans.clear(), f(self, x))[1]
    ),
    "cache: of the compiled program with batches": at(
        "backends.program:Batches.same_arrays", lambda f: lambda self, other: False
    ),
    "cache: of the addresses of compiled kernels": at(LOWERING + "compiled", without_cache),
    **{
        f"slower kernel: {name}, NumPy": at("backends.numpy.backend:calls_of", slower_calls(name))
        for name in RANDOM.sample([*frozen_kernels.TWINS], 2)
    },
    **{
        f"slower kernel: {name}, Numba": at(
            "backends.numba.backend:NumbaBackend.compile", slower_program(name)
        )
        for name in RANDOM.sample([*frozen_kernels.TWINS], 2)
    },
    "slower fit: in the epoch": at("training.loop:Training.pass_over_examples", slower),
    "slower fit: as a whole": at("network.network:Network.fit", slower),
    **{f"slower fit: in the steps, {b}": at(f"{run}_batches", slower) for b, run in RUNS.items()},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--faults", nargs="+", choices=[*FAULTS], default=[*FAULTS], metavar="fault")
    parser.add_argument("--records", type=Path, default=HERE.parent / "build" / "campaign.jsonl")


def run(options: argparse.Namespace, environment: Mapping[str, Any]) -> int:
    """Run the check with each fault; 0 if all but one are caught."""
    results = []
    for name in options.faults:
        start = time.perf_counter()
        status, lines = check_with(name, options.baseline)
        caught = status == 1 and lines[-1].startswith("FAIL")  # a crash is no verdict
        seconds = round(time.perf_counter() - start)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        entry = {"fault": name, "caught": caught, "verdict": lines[-1], "seconds": seconds, "load": load}
        results.append(entry)
        options.records.parent.mkdir(parents=True, exist_ok=True)
        with options.records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        print(
            f"{'caught' if caught else 'MISSED'} {seconds:4} s  {name}: {lines[-1]:.120}",
            flush=True,
        )
    count = sum(entry["caught"] for entry in results)
    print(f"{count} of {len(results)} caught")
    return int(count < len(results) - 1)


def check_with(name: str, baseline: Path) -> tuple[int, list[str]]:
    """The status of a check in which the package has a fault, and the lines it prints."""
    with tempfile.TemporaryDirectory() as folder:
        # not into unchanged code, which is imported from another folder
        code = f"""
import sys, bpengine
if bpengine.__file__.startswith({str(HERE.parent)!r}):
    sys.path.insert(0, {str(HERE)!r})
    import injections
    injections.FAULTS[{name!r}]()
"""
        (Path(folder) / "sitecustomize.py").write_text(code, "utf-8")
        path = os.pathsep.join(filter(None, [folder, str(HERE.parent), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, HERE / "perf.py", "--baseline", baseline, "check"],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return done.returncode, done.stdout.splitlines() or [""]
