"""A pytest plugin: ratios of times against stored ones, and counts of NumPy calls.

It lies beside the package and not in it, since that would import NumPy in every run of pytest.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bpengine.counting import Counts
    from bpengine.timing import Ratio

RESULTS = "BPENGINE_PERF_RESULTS"  # the file that a measuring process writes its ratios to
PROCESSES = 3  # whose median is stored
# one thread, and memory that glibc does not give back: without these a ratio does not repeat
SETTINGS = {
    **{f"{what}_THREADS": "1" for what in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM")},
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
LINES = pytest.StashKey[list[str]]()
Found = dict[str, dict[str, Any]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("perf", "ratios of times (bpengine)")
    group.addoption("--perf-baseline", default="perf-baseline.json", help="file of the stored ratios")
    group.addoption("--perf-update", action="store_true", help="measure the ratios and store them")
    group.addoption(
        "--perf-inconclusive",
        choices=["skip", "xfail", "fail"],
        default="skip",
        help="what a test becomes if the machine is too busy to judge",
    )


@pytest.fixture
def numpy_counts() -> Callable[..., Counts]:
    """``numpy_counts(function, *arrays)``: its calls, products, calls without output, peak bytes."""
    return _bpengine("counting").count  # type: ignore[no-any-return]


@pytest.fixture
def perf_ratio(request: pytest.FixtureRequest) -> Callable[..., Ratio]:
    """``perf_ratio(name, new, reference, tolerance=1.25)``: fails if new is slower than stored."""
    if hasattr(request.config, "workerinput"):
        pytest.skip("times measured beside other pytest-xdist workers mean nothing; use -n 0")
    timing, config = _bpengine("timing"), request.config
    path = config.rootpath / config.getoption("--perf-baseline")
    results, found = os.environ.get(RESULTS), {}

    def here(
        name: str, new: Callable[[], object], reference: Callable[[], object], tolerance: float = 1.25
    ) -> Any:
        control, ratio = timing.measure(reference, reference), timing.measure(new, reference)
        found[name] = {"ratio": vars(ratio), "control": vars(control)}
        Path(str(results)).write_text(json.dumps(found), encoding="utf-8")
        return ratio

    def measured(name: str) -> tuple[Any, bool]:
        """The ratio from a fresh process, and whether its control is steady; tried again if not."""
        for _ in range(2):
            sides = measure_fresh(request.node)[name]
            ratio, control = (timing.Ratio(**sides[side]) for side in ("ratio", "control"))
            if timing.steady(control):
                return ratio, True
        return ratio, False

    def check(
        name: str, new: Callable[[], object], reference: Callable[[], object], tolerance: float = 1.25
    ) -> Any:
        lines = config.stash.setdefault(LINES, [])
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if config.getoption("--perf-update"):
            runs = [measured(name) for _ in range(PROCESSES)]
            if not all(steady for _, steady in runs):
                pytest.fail(f"{name}: the machine is too busy; {path} is unchanged. Try again later.")
            ratio = sorted((run for run, _ in runs), key=lambda run: run.median)[PROCESSES // 2]
            middle = statistics.median(run.median for run, _ in runs)
            stored[name] = {"ratio": round(middle, 4), "environment": environment()}
            text = json.dumps(stored, indent=2, sort_keys=True, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
            lines.append(f"{name}: {ratio} stored")
            return ratio
        if name not in stored:
            pytest.fail(f"{name}: no ratio is stored in {path}. Run with --perf-update.")
        expected, there = stored[name]["ratio"], stored[name]["environment"]
        ratio, steady = measured(name)
        verdict = timing.judge(ratio, expected, tolerance)
        if steady and verdict == "slower":  # a second process has to agree
            ratio, steady = measured(name)
            verdict = timing.judge(ratio, expected, tolerance)
        line = f"{name}: {ratio}, stored {expected:.3f}: {verdict if steady else 'inconclusive'}"
        notes = [
            f"{key} was {there.get(key)!r}, is {value!r}"
            for key, value in environment().items()
            if value != there.get(key)
        ]
        line += f" ({'; '.join(notes)})" if notes else ""
        lines.append(line)
        if not steady:
            getattr(pytest, config.getoption("--perf-inconclusive"))(f"{line}; the machine is too busy")
        if verdict == "slower":
            pytest.fail(f"{line}; {ratio.median / expected:.2f} times as long, in two processes")
        return ratio

    return here if results else check


def measure_fresh(node: pytest.Item) -> Found:
    """Run one test in a fresh process, under `SETTINGS`: its ratios and their controls."""
    config = node.config
    options = ["-n0"] if config.pluginmanager.hasplugin("xdist") else []
    options += ["--no-cov"] if config.pluginmanager.hasplugin("_cov") else []
    if config.inipath:
        options += ["-c", str(config.inipath)]
    dropped = ("COV_CORE", "COVERAGE_PROCESS", "PYTEST_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "ratios.json")
        command = [sys.executable, "-m", "pytest", "-p", "bpengine_pytest", node.nodeid]
        done = subprocess.run(
            [*command, f"--rootdir={config.rootpath}", *options],
            cwd=config.rootpath,
            env=inherited | SETTINGS | {RESULTS: str(results)},
            capture_output=True,
            text=True,
        )
        if done.returncode or not results.exists():
            pytest.fail(f"The measuring process of {node.nodeid} failed:\n{done.stdout}{done.stderr}")
        return json.loads(results.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def environment() -> dict[str, str]:
    """What a ratio may depend on."""
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "processor": _bpengine("openblas").processor().name or platform.processor(),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "BLAS": f"{blas['name']} {blas['version']}",
    }


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show the ratios."""
    if lines := config.stash.get(LINES, []):
        terminalreporter.section("ratios of times")
        for line in lines:
            terminalreporter.line(line)


def _bpengine(module: str) -> Any:
    """A module of bpengine, imported here first; its advice on OpenBLAS is not for other projects."""
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"bpengine.{module}")
