"""The pytest plugin, in runs of pytest on small projects; times are stood in for, but for one test."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bpengine_pytest
from bpengine.counting import count

PAGE = (Path(__file__).parents[1] / "docs" / "performance-of-your-project.md").read_text(
    encoding="utf-8"
)
TEST = """
def test_speed(perf_ratio):
    perf_ratio("sum", lambda: sum(range(1000)), lambda: sum(range(1000)))
"""


def sides(ratio, control=1.0):
    def numbers(median):
        return {
            "median": median,
            "low": median * 0.99,
            "high": median * 1.01,
            "pairs": 9,
            "ours": 1.0,
            "reference": 1.0,
        }

    return {"sum": {"ratio": numbers(ratio), "control": numbers(control)}}


@pytest.fixture
def project(pytester, monkeypatch):
    """Runs the test above; what fresh processes measure is given."""
    pytester.makepyfile(TEST)

    def run(measured, *options, stored=None, environment=None):
        if stored is not None:
            entry = {"ratio": stored, "environment": environment or bpengine_pytest.environment()}
            Path("perf-baseline.json").write_text(json.dumps({"sum": entry}), encoding="utf-8")
        rest = iter(measured)
        monkeypatch.setattr(bpengine_pytest, "measure_fresh", lambda node: next(rest))
        result = pytester.runpytest_inprocess("-p", "bpengine_pytest", *options)
        assert next(rest, None) is None, "measured less often than expected"
        return result

    return run


def test_stored_then_updated_then_compared(project):
    project([sides(r) for r in (0.5, 0.7, 0.6)], "--perf-update").assert_outcomes(passed=1)
    stored = json.loads(Path("perf-baseline.json").read_text(encoding="utf-8"))
    assert stored == {"sum": {"ratio": 0.6, "environment": bpengine_pytest.environment()}}
    result = project([sides(0.61)])
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*ratios of times*", "sum: 0.610*stored 0.600: unchanged"])


def test_slower_only_if_a_second_process_agrees(project):
    result = project([sides(1.0), sides(1.2)], stored=0.5)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*2.40 times as long*"])
    project([sides(1.0), sides(0.5)], stored=0.5).assert_outcomes(passed=1)


def test_faster(project):
    result = project([sides(0.1)], stored=0.5)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["sum: *: faster"])


@pytest.mark.parametrize(
    ("choice", "outcome"), [("skip", "skipped"), ("xfail", "xfailed"), ("fail", "failed")]
)
def test_inconclusive_after_two_tries(project, choice, outcome):
    busy = [sides(3.0, control=1.4)] * 2
    project(busy, f"--perf-inconclusive={choice}", stored=0.5).assert_outcomes(**{outcome: 1})


def test_a_busy_machine_stores_nothing(project):
    project([sides(1.0, control=1.4)] * 6, "--perf-update").assert_outcomes(failed=1)
    assert not Path("perf-baseline.json").exists()


def test_missing_baseline(project):
    result = project([])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no ratio is stored*--perf-update*"])


def test_another_environment_is_shown(project):
    here = bpengine_pytest.environment()
    result = project([sides(0.5)], stored=0.5, environment=here | {"NumPy": "1.0"})
    result.stdout.fnmatch_lines([f"*NumPy was '1.0', is '{np.__version__}'*"])


@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist")
def test_workers_measure_nothing(pytester):
    pytester.makepyfile(TEST)
    result = pytester.runpytest_subprocess("-p", "bpengine_pytest", "-n1", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*use -n 0*"])


def test_a_failing_process_is_shown(pytester):
    pytester.makepyfile("def test_speed(perf_ratio):\n    perf_ratio('x', lambda: 1 / 0, lambda: 0)")
    result = pytester.runpytest_inprocess("-p", "bpengine_pytest", "--perf-update")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*measuring process*", "*ZeroDivisionError*"])


def test_the_page_s_example_runs(pytester, monkeypatch):
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    pytester.makepyfile(example)
    short = "import bpengine.timing as t\nfull = t.measure\nt.steady = lambda control: True\n"
    short += "t.measure = lambda a, b: full(a, b, pairs=3)\n"
    pytester.makeconftest(short)
    steady = bpengine_pytest._bpengine("timing")
    monkeypatch.setattr(steady, "steady", steady.steady)
    monkeypatch.setattr(steady, "measure", steady.measure)
    monkeypatch.setattr(bpengine_pytest, "PROCESSES", 1)
    result = pytester.runpytest_inprocess("-p", "bpengine_pytest", "--perf-update")
    result.assert_outcomes(passed=2)
    assert "moving average" in Path("perf-baseline.json").read_text(encoding="utf-8")


def test_the_page_s_workflow_is_yaml():
    yaml = pytest.importorskip("yaml")
    [workflow] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    jobs = yaml.safe_load(workflow)["jobs"]
    assert all({"runs-on", "steps"} <= set(job) for job in jobs.values())


def test_loading_it_imports_nothing():
    loaded = "import sys, bpengine_pytest; print({'numpy', 'bpengine'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_counts_differ():
    x, out = np.ones((20, 20)), np.empty((20, 20))
    copies, in_place = count(lambda x: x + x, x), count(lambda x: np.add(x, x, out=out), x)
    assert (copies.calls, copies.without_output, in_place.without_output) == (1, 1, 0)
    assert copies.peak_bytes >= x.nbytes > in_place.peak_bytes
    assert count(lambda x: np.linalg.eigh(x).eigenvalues.sum(), x).calls == 2  # through a named tuple
