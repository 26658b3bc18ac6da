"""Report of this machine's matrix-product rates, with advice: ``bpengine doctor``."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpengine import backends, openblas
from bpengine.training import backend_choice

__all__ = [
    "Measurement",
    "Setting",
    "advise",
    "main",
    "measure",
    "other_load",
    "rates",
    "report",
    "settings",
]

SQUARE = (768, 768, 768)
NARROW = (100, 785, 128)  # a layer of 100 neurons on 784 pixels and the bias, 128 examples
PRODUCTS = [(dtype, shape) for dtype in ("float32", "float64") for shape in (SQUARE, NARROW)]
ROUNDS = 3
SECONDS = 0.04  # for each product of each round
BUDGET = 14.0  # for all rounds; the first is always finished
TIMEOUT = 60.0  # for one child process
GAIN = 1.1  # less is noise
VARIABLES = (openblas.CORETYPE, "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", openblas.OPT_OUT)
CORES = {openblas.CORE: openblas.SKYLAKEX_NEEDS, "Haswell": frozenset({"avx2", "fma"})}  # best first
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
LEVELS = ["sse4_2", "avx", "avx2", "fma", *sorted(openblas.SKYLAKEX_NEEDS - {"avx2", "fma"})]
LEVELS += ["avx512_bf16", "amx_tile", "asimd", "sve"]


@dataclass(frozen=True)
class Setting:
    """An environment to measure in: variables to set, or unset (None), and the shell command for it."""

    variables: Mapping[str, str | None]
    line: str = ""
    single: bool = False  # thread


@dataclass
class Measurement:
    """Results of a setting's child processes; `rounds` are rates of `PRODUCTS` in GFLOP/s."""

    core: str | None = None
    threads: int | None = None
    rounds: list[list[float]] = field(default_factory=list)
    failure: str = ""

    def gain(self, other: Measurement) -> float:
        """Speed relative to `other`: the least of the rounds' geometric means; 0 if either failed."""
        if self.failure or other.failure:
            return 0.0
        pairs = zip(self.rounds, other.rounds, strict=False)
        ratios = [math.prod(a / b for a, b in zip(*pair, strict=True)) for pair in pairs]
        return min((ratio ** (1 / len(PRODUCTS)) for ratio in ratios), default=0.0)


def main() -> int:
    """Print the report; return the exit status."""
    for line in report():
        print(line, flush=True)
    return 0


def report() -> Iterator[str]:
    """The lines of the report; the last is the advice. This takes some seconds."""
    yield from _machine()
    yield ""
    busy = other_load()
    tried = settings(openblas.processor())
    found = measure(tried)
    yield from _table(tried, found)
    if busy:
        yield f"(not alone: {busy})"
    yield ""
    usable = {name: _backend(name) for name in backends.names()}
    if usable.get("numba") == "usable":
        usable["numba"] = f"usable; {backend_choice.rule()}"
    yield from _aligned("backends", list(usable.items()))
    yield from _aligned("extras", _extras())
    yield ""
    lacking = [text for text in usable.values() if "CUDA" in text]
    gpu = lacking[0] if lacking and shutil.which("nvidia-smi") else ""
    yield f"advice: {advise(tried, found, busy, gpu)}"


def settings(processor: openblas.Processor) -> list[Setting]:
    """Settings to measure: first the current environment, then others, all also with one thread.

    Only cores that the processor has the instructions for are included.
    """
    core = openblas.taken_core()
    ways: list[tuple[dict[str, str | None], str]] = [({}, "")]
    if core is not None and openblas.chooses():
        if openblas.CORETYPE in os.environ:
            ways.append(({openblas.CORETYPE: None}, f"unset {openblas.CORETYPE}"))
        for name, needs in CORES.items():
            # a lesser core is measured for comparison if there is no other
            if needs <= processor.flags and name != core and (core in openblas.LESSER or len(ways) == 1):
                ways.append(({openblas.CORETYPE: name}, f"export {openblas.CORETYPE}={name}"))
                break
    one = dict.fromkeys(THREAD_VARIABLES, "1")
    tried = []
    for variables, line in ways:
        if openblas.threads() != 1:
            tried.append(Setting(variables, line))
        tried.append(Setting({**variables, **one}, line, single=True))
    return tried


def measure(tried: Sequence[Setting]) -> list[Measurement]:
    """Measure the settings in turn, in child processes, which an unsupported core may crash."""
    found = [Measurement() for _ in tried]
    start = time.monotonic()
    for done in range(1, ROUNDS + 1):
        for setting, measurement in zip(tried, found, strict=True):
            if not measurement.failure:
                _try(setting, measurement)
        if (time.monotonic() - start) * (done + 1) / done > BUDGET:
            break
    return found


def _try(setting: Setting, measurement: Measurement) -> None:
    # OPT_OUT: the child's `import bpengine` must not choose another core
    merged = {**os.environ, **setting.variables, openblas.OPT_OUT: "0"}
    environment = {name: value for name, value in merged.items() if value is not None}
    code = f"from bpengine.cli import doctor; print(doctor.rates({SECONDS}))"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        measurement.failure = f"could not be measured: {error}"
        return
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        measurement.failure = (
            f"ended by {name}: this OpenBLAS is not safe on this processor with that core"
        )
    elif child.returncode:
        lines = child.stderr.strip().splitlines() or ["no message"]
        measurement.failure = f"could not be measured: {lines[-1]}"
    else:
        answer = json.loads(child.stdout.strip().splitlines()[-1])
        measurement.core, measurement.threads = answer["core"], answer["threads"]
        measurement.rounds.append(answer["rates"])


def rates(seconds: float) -> str:
    """Measure `PRODUCTS`, each for `seconds`: core, threads and median rates in GFLOP/s, as JSON."""
    core, threads = _blas()
    found = [_rate(dtype, shape, seconds) for dtype, shape in PRODUCTS]
    return json.dumps({"core": core, "threads": threads, "rates": found})


def _rate(dtype: str, shape: tuple[int, int, int], seconds: float) -> float:
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.random((m, k)).astype(dtype), rng.random((k, n)).astype(dtype)
    c = np.matmul(a, b)  # warms up
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        times.append(timeit.timeit(lambda: np.matmul(a, b, out=c), number=1))
    return 2e-9 * m * k * n / statistics.median(times)


def advise(tried: Sequence[Setting], found: Sequence[Measurement], busy: str, gpu: str) -> str:
    """Advice on what to change, if anything.

    Parameters
    ----------
    tried, found : sequences of Setting and Measurement
        From `settings` and `measure`.
    busy : str
        Other load of the processor, or empty.
    gpu : str
        What a GPU needs to be used, or empty.
    """
    if found[0].failure:
        return f"reinstall NumPy (pip install --force-reinstall numpy): its products {found[0].failure}"
    # cores are compared with one thread, which other load affects least
    singles = [(s, f) for s, f in zip(tried, found, strict=True) if s.single]
    gains = [f.gain(singles[0][1]) for _, f in singles]
    best = next(i for i, gain in enumerate(gains) if gain >= max(gains) / GAIN)
    if gains[best] > GAIN:
        line = singles[best][0].line
        return f"{line} (before Python starts): products then are {gains[best]:.1f} times as fast"
    gain = singles[0][1].gain(found[0])
    if gain > GAIN:
        than = f"one thread is {gain:.1f} times as fast as {found[0].threads}"
        if busy:
            return f"run this again when nothing else runs: now {than}, but {busy}"
        return f"export OPENBLAS_NUM_THREADS=1 (before Python starts): {than}"
    if gpu:
        return f"for the GPU: {gpu}"
    if openblas.decision == "set":
        gain = max(singles[0][1].gain(other) for _, other in singles)
        if gain > GAIN:
            return (
                f"nothing to change; bpengine sets {openblas.CORETYPE}={openblas.CORE} itself and is "
                f"{gain:.1f} times as fast with it; other programs need it in the environment"
            )
    return "nothing to change"


def _machine() -> Iterator[str]:
    processor = openblas.processor()
    name = processor.name or platform.processor() or platform.machine() or "unknown"
    levels = " ".join(level for level in LEVELS if level in processor.flags) or "unknown"
    config: Any = np.show_config(mode="dicts") or {}
    simd = config.get("SIMD Extensions", {})
    library = config.get("Build Dependencies", {}).get("blas", {})
    core, threads = _blas()
    chosen = {"set": "set by bpengine", "given": f"{openblas.CORETYPE} is set"}.get(
        openblas.decision, "OpenBLAS's own choice"
    )
    usable = f"{os.cpu_count()} cores, {openblas.usable_cores()} for this process"
    yield from _aligned("processor", [(name, usable)])
    yield from _aligned(
        "SIMD", [("processor", levels), ("NumPy", " ".join(simd.get("found", [])) or "unknown")]
    )
    yield from _aligned("Python", [(platform.python_version(), sys.executable)])
    yield from _aligned("NumPy", [(np.__version__, os.path.dirname(np.__file__))])
    of_core = f"core {core} ({chosen})" if core else "core unknown"
    blas = f"{library.get('name', 'unknown')} {library.get('version', '')}".strip()
    yield from _aligned("BLAS", [(blas, f"{of_core}, {_threads(threads)}")])
    values = {name: os.environ.get(name, "unset") for name in VARIABLES}
    if openblas.decision == "set":
        values[openblas.CORETYPE] += " (by bpengine)"
    yield from _aligned("environment", list(values.items()))


def other_load() -> str:
    """Other load of the processor, or empty; call before measuring."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return ""
    cores = os.cpu_count() or 1
    return f"the load average was {load:.1f} on {cores} cores" if load > cores / 4 else ""


def _threads(n: int | None) -> str:
    return "threads unknown" if n is None else "1 thread" if n == 1 else f"{n} threads"


def _blas() -> tuple[str | None, int | None]:
    """Core and threads of NumPy's BLAS, as far as it or threadpoolctl reports them."""
    core, threads = openblas.taken_core(), openblas.threads()
    if threads is None and importlib.util.find_spec("threadpoolctl") is not None:
        for pool in importlib.import_module("threadpoolctl").threadpool_info():
            if pool["user_api"] == "blas":
                return pool.get("architecture"), pool["num_threads"]
    return core, threads


def _table(tried: Sequence[Setting], found: Sequence[Measurement]) -> Iterator[str]:
    labels = [_label(setting, measurement) for setting, measurement in zip(tried, found, strict=True)]
    width = max(len(label) for label in labels) + 2
    yield f"{'product rates, GFLOP/s':<{width}}{'float32':>18}{'float64':>18}"
    yield f"{'':<{width}}" + f"{'square':>9}{'narrow':>9}" * 2
    for label, measurement in zip(labels, found, strict=True):
        if measurement.failure:
            yield f"{label:<{width}}  {measurement.failure}"
        else:
            medians = [statistics.median(column) for column in zip(*measurement.rounds, strict=True)]
            yield f"{label:<{width}}" + "".join(
                f"{rate:>9.{0 if rate >= 10 else 1}f}" for rate in medians
            )
    rounds = max(len(measurement.rounds) for measurement in found)
    of = "1 round" if rounds == 1 else f"medians of {rounds} rounds"
    square, narrow = (f"{m}×{k} · {k}×{n}" for m, k, n in (SQUARE, NARROW))
    yield f"({square} and {narrow}; {of} of child processes, taken in turn)"


def _label(setting: Setting, measurement: Measurement) -> str:
    name = "as it is"
    if openblas.CORETYPE in setting.variables:
        value = setting.variables[openblas.CORETYPE]
        name = f"{openblas.CORETYPE} unset" if value is None else f"{openblas.CORETYPE}={value}"
    if measurement.failure:
        return f"{name}, 1 thread" if setting.single else name
    return f"{name}: {measurement.core or 'core unknown'}, {_threads(measurement.threads)}"


def _backend(name: str) -> str:
    try:
        backends.get(name)
    except Exception as error:  # third-party backends may raise any error
        message = " ".join(str(error).split()) or type(error).__name__
        return re.sub(rf"^backend '{re.escape(name)}':? ", "", message)
    return "usable"


def _extras() -> list[tuple[str, str]]:
    """Extras with the installed versions of their packages, or missing."""
    try:
        requirements = importlib.metadata.requires("bpengine") or []
    except importlib.metadata.PackageNotFoundError:
        return [("unknown", "bpengine runs from its source and is not installed")]
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w.-]+)['\"]", requirement)
        if found and found[1] != "bpengine":
            extras.setdefault(found[2], []).append(_installed(found[1]))
    return [(extra, ", ".join(packages)) for extra, packages in extras.items()]


def _installed(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} missing"


def _aligned(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(name) for name, _ in rows), default=0)
    for i, (name, text) in enumerate(rows):
        yield f"{title if i == 0 else '':<13}{name:<{width}}  {text}".rstrip()
