"""Faults put into the package on purpose, to see which of them the check catches.

    python benchmarks/perf.py campaign

runs the check, in new processes, once for each fault: ten kinds, four of each. An injected function
counts as one of the package. Kernels that are made slower are drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

HERE = Path(__file__).parent
SLOWDOWN = 1.3
FAULTS: dict[str, Callable[[], None]] = {}


def fault(kind: str, what: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that patches the package."""

    def register(patch: Callable[[], None]) -> Callable[[], None]:
        FAULTS[f"{kind}: {what}"] = patch
        return patch

    return register


def inside(function: Any) -> Any:
    """The function, its code as if it were in a file of the package."""
    import bpengine

    path = str(Path(bpengine.__file__).parent / "injected.py")

    def placed(code: CodeType) -> CodeType:
        constants = [placed(x) if isinstance(x, CodeType) else x for x in code.co_consts]
        return code.replace(co_filename=path, co_consts=tuple(constants))

    function.__code__ = placed(function.__code__)
    return function


def replace(owner: Any, name: str, make: Callable[[Any], FunctionType]) -> None:
    """Replace an attribute, or an entry of a dict, by what `make` makes of it."""
    if isinstance(owner, dict):
        owner[name] = inside(make(owner[name]))
    else:
        setattr(owner, name, inside(make(getattr(owner, name))))


def after_kernel(name: str, calls: Callable[..., list[Any]]) -> None:
    """More calls after those of one of NumPy's kernels."""
    from bpengine.backends.numpy.kernels import KERNELS

    replace(KERNELS, name, lambda kernel: lambda k, *ops: [*kernel(k, *ops), *calls(k, *ops)])


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


@fault("pass", "sigmoid, NumPy")
def _() -> None:
    import numpy as np

    after_kernel("sigmoid", lambda k, z, a: [(np.positive, (a, a))])


@fault("pass", "Adam, NumPy")
def _() -> None:
    import numpy as np

    after_kernel("adam", lambda k, θ, g, G, *_: [(np.positive, (G, G))])


@fault("pass", "tanh twice, Numba")
def _() -> None:
    from bpengine.backends.numba.lowering import Lowering

    def twice(lower: Any) -> Any:
        return lambda self, op: (lower(self, op) or []) * (2 if op.name == "tanh" else 1)

    replace(Lowering, "lower", twice)


@fault("pass", "over each batch of fit")
def _() -> None:
    import numpy as np

    from bpengine.backends.numpy.backend import NumPyBackend

    def passing(take: Any) -> Any:
        return lambda self, rows, indices, out: (take(self, rows, indices, out), np.positive(out, out))

    replace(NumPyBackend, "take", passing)


@fault("copy", "tanh, NumPy")
def _() -> None:
    import numpy as np

    after_kernel("tanh", lambda k, z, a: [(np.copy, (a,))])


@fault("copy", "of each batch of fit")
def _() -> None:
    from bpengine.backends.numpy.backend import NumPyBackend

    def taking(self: Any, rows: Any, indices: Any, out: Any) -> None:
        out[...] = rows.take(indices, 0).copy()

    replace(NumPyBackend, "take", lambda take: taking)


@fault("copy", "of the inputs of feedforward")
def _() -> None:
    from bpengine.model.model import Model

    replace(Model, "check_inputs", lambda check: lambda self, X: check(self, X).copy())


@fault("copy", "that is superfluous, Numba")
def _() -> None:
    from bpengine.backends.numba import lowering

    replace(lowering, "location", lambda location: lambda x: object())


@fault("allocation", "momentum, NumPy")
def _() -> None:
    import numpy as np

    after_kernel("momentum", lambda k, θ, g, v, μ, out: [(np.multiply, (v, μ))])


@fault("allocation", "within a call of softmax, NumPy")
def _() -> None:
    import numpy as np

    def hidden(a: Any) -> None:
        np.copyto(a, np.empty_like(a) * 0 + np.asarray(a))

    after_kernel("softmax", lambda k, z, a: [(hidden, (a,))])


@fault("allocation", "in each run of a program, NumPy")
def _() -> None:
    import numpy as np

    from bpengine.backends.numpy.backend import QuietReplay

    replace(QuietReplay, "run", lambda run: lambda self, steps: (np.empty(100_000), run(self, steps))[1])


@fault("allocation", "in each run of a program, Numba")
def _() -> None:
    import numpy as np

    from bpengine.backends.numba.backend import CompiledProgram

    replace(
        CompiledProgram, "run", lambda run: lambda self, steps: (np.empty(100_000), run(self, steps))[1]
    )


@fault("product", "of feedforward twice")
def _() -> None:
    from bpengine.backprop import equations

    def twice(feedforward: Any) -> Any:
        def operations(*arguments: Any) -> Any:
            first, *rest = feedforward(*arguments)
            return iter([first, first, *rest])

        return operations

    replace(equations, "feedforward", twice)


@fault("product", "folded product twice, NumPy")
def _() -> None:
    after_kernel("add product", _again("add product"))


@fault("product", "norms of gradients twice, NumPy")
def _() -> None:
    after_kernel("product norms", _again("product norms"))


@fault("product", "twice, Numba")
def _() -> None:
    from bpengine.backends.numba.lowering import Lowering

    def twice(products: Any) -> Any:
        return lambda self, op: (products(self, op) or []) * (2 if op.equation == "BP2" else 1)

    from bpengine.backends.numba import lowering

    replace(Lowering, "_products", twice)
    lowering.SPECIAL["matmul"] = Lowering._products


def _again(name: str) -> Callable[..., list[Any]]:
    from bpengine.backends.numpy.kernels import KERNELS

    kernel = KERNELS[name]
    return lambda k, *operands: list(kernel(k, *operands))


@fault("loop", "softmax by columns, NumPy")
def _() -> None:
    from bpengine.backends.numpy.kernels import KERNELS

    def by_columns(kernel: Any) -> Any:
        def calls(k: Any, z: Any, a: Any) -> list[Any]:
            columns = [(..., slice(i, i + 1)) for i in range(z.shape[-1])]
            return [call for column in columns for call in kernel(k, z[column], a[column])]

        return calls

    replace(KERNELS, "softmax", by_columns)


@fault("loop", "over the examples of a batch of fit")
def _() -> None:
    from bpengine.backends.numpy.backend import NumPyBackend

    def taking(self: Any, rows: Any, indices: Any, out: Any) -> None:
        for i, index in enumerate(indices):
            out[i] = rows[index]

    replace(NumPyBackend, "take", lambda take: taking)


@fault("loop", "over the examples of feedforward")
def _() -> None:
    import numpy as np

    from bpengine.model.model import Model

    def by_columns(check: Any) -> Any:
        def checked(self: Any, X: Any) -> Any:
            X = check(self, X)
            return np.stack([X[..., i] for i in range(X.shape[-1])], axis=-1)

        return checked

    replace(Model, "check_inputs", by_columns)


@fault("loop", "over the costs of examples in fit")
def _() -> None:
    import numpy as np

    from bpengine.model.costs import Cost

    def by_columns(per_example: Any) -> Any:
        def costs(self: Any, σ: Any, z: Any, a: Any, y: Any) -> Any:
            parts = [
                per_example(self, σ, *(x[..., i : i + 1] for x in (z, a, y))) for i in range(z.shape[-1])
            ]
            return np.concatenate(parts, axis=-1)

        return costs

    replace(Cost, "per_example", by_columns)


@fault("float64", "constants, NumPy")
def _() -> None:
    import numpy as np

    from bpengine.backends.numpy.scratch import Scratch

    replace(Scratch, "constant", lambda constant: lambda self, value, like: np.array(value, "float64"))


@fault("float64", "scratch arrays, NumPy")
def _() -> None:
    import numpy as np

    from bpengine.backends.numpy.scratch import Scratch

    def wide(scratch: Any) -> Any:
        return lambda self, like, which=0: scratch(self, np.empty(like.shape), which)

    replace(Scratch, "scratch", wide)


@fault("float64", "decay rates of Adam")
def _() -> None:
    from bpengine.optimizers import adam

    replace(adam, "array_of", lambda array_of: lambda v, like: array_of(v, like.astype("float64")))


@fault("float64", "momentum")
def _() -> None:
    from bpengine.optimizers import sgd

    replace(sgd, "zeros_like", lambda zeros_like: lambda x: zeros_like(x.astype("float64")))


@fault("fold", "lost, NumPy")
def _() -> None:
    from bpengine.backends.numpy import backend

    replace(backend, "fold", lambda fold: lambda *arguments: {})


@fault("fold", "lost, Numba")
def _() -> None:
    from bpengine.backends.numba import backend

    replace(backend, "fold", lambda fold: lambda *arguments: {})


@fault("fold", "lost with momentum")
def _() -> None:
    _lost_with("momentum")


@fault("fold", "lost with weight decay")
def _() -> None:
    _lost_with("decay")


def _lost_with(name: str) -> None:
    from bpengine.backends.numba import backend as compiled
    from bpengine.backends.numpy import backend

    def losing(fold: Any) -> Any:
        return lambda ops, layout: {} if any(op.name == name for op in ops) else fold(ops, layout)

    for module in (backend, compiled):
        replace(module, "fold", losing)


@fault("cache", "of the program of feedforward")
def _() -> None:
    from bpengine.model.recent import Recent

    replace(Recent, "take", lambda take: lambda self, key: None)


@fault("cache", "of the plan of fit")
def _() -> None:
    from bpengine.training.steps import StepRunner

    def missing(plan: Any) -> Any:
        return lambda self, chunk: (self._plans.clear(), plan(self, chunk))[1]

    replace(StepRunner, "plan", missing)


@fault("cache", "of the compiled program with batches")
def _() -> None:
    from bpengine.backends.program import Batches

    replace(Batches, "same_arrays", lambda same: lambda self, other: False)


@fault("cache", "of the addresses of compiled kernels")
def _() -> None:
    from bpengine.backends.numba import lowering

    alive, compile_ = [], lowering.compiled.__wrapped__

    def compiling(name: str, dtype: Any) -> Any:
        alive.append(compile_(name, dtype))
        return alive[-1]

    lowering.compiled = inside(compiling)


def _slow_kernel(name: str, backend: str) -> None:
    if backend == "numpy":
        from bpengine.backends.numpy import backend as module

        def slowed(calls: Any) -> Any:
            return lambda scratch, op: [
                (slower(function) if op.name == name else function, operands)
                for function, operands in calls(scratch, op)
            ]

        replace(module, "calls_of", slowed)
        return
    from bpengine.backends.numba.backend import NumbaBackend

    def compiling(compile_: Any) -> Any:
        def made(self: Any, operations: Any) -> Any:
            operations = list(operations)
            program = compile_(self, operations)
            if [op.name for op in operations] == [name]:  # what is compiled can't be patched within
                program.run = slower(program.run)
            return program

        return made

    replace(NumbaBackend, "compile", compiling)


def kernels() -> list[tuple[str, str]]:
    """Four kernels, two of each backend, in random order."""
    sys.path.insert(0, str(HERE))
    from frozen_kernels import TWINS

    rng = random.Random(0)
    return [(name, backend) for backend in ("numpy", "numba") for name in rng.sample([*TWINS], 2)]


for _name, _backend in kernels():
    FAULTS[f"slower kernel: {_name}, {_backend}"] = partial(_slow_kernel, _name, _backend)


@fault("slower fit", "in the epoch")
def _() -> None:
    from bpengine.training.loop import Training

    Training.pass_over_examples = slower(Training.pass_over_examples)


@fault("slower fit", "as a whole")
def _() -> None:
    from bpengine.network.network import Network

    Network.fit = slower(Network.fit)


@fault("slower fit", "in the steps, NumPy")
def _() -> None:
    from bpengine.backends.numpy.backend import QuietReplay

    QuietReplay.run_batches = slower(QuietReplay.run_batches)


@fault("slower fit", "in the steps, Numba")
def _() -> None:
    from bpengine.backends.numba.backend import CompiledProgram

    CompiledProgram.run_batches = slower(CompiledProgram.run_batches)


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
        code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import bpengine, injections\n"
        (Path(folder) / "sitecustomize.py").write_text(f"{code}injections.FAULTS[{name!r}]()\n", "utf-8")
        path = os.pathsep.join(filter(None, [folder, str(HERE.parent), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, HERE / "perf.py", "--baseline", baseline, "check"],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return done.returncode, done.stdout.splitlines() or [""]
