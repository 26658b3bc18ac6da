"""The performance check, shown to work: damage of each kind is caught by the part meant for it.

Where times matter the clock is the work: each call of a step takes a unit of it. One test measures
real times, of the same step run three times and twice.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bpengine import timing
from bpengine.backends.numpy import kernels as numpy_backend
from bpengine.backprop import equations
from bpengine.timing import Ratio

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the later ones import the earlier
    spec.loader.exec_module(module)
    return module


frozen, ladder, exact, timed, study, perf = map(
    load, ("frozen", "ladder", "exact", "timed", "study", "perf")
)


ALL_NETWORKS, ALL_COMPILED = exact.NETWORKS, exact.COMPILED


@pytest.fixture(scope="module", autouse=True)
def two_networks():
    """Damage shows in two networks as well as in five, and sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "NETWORKS", ("tiny", "nielsen"))
        patch.setattr(exact, "COMPILED", exact.COMPILED[:1])
        yield


class WorkClock:
    """Measures by counting calls: a step takes as many units as it makes calls, times `slowdown`."""

    def __init__(self, slowdown: float = 1.0, control: float = 1.0) -> None:
        self.now = 0.0
        self.slowdown, self.control = slowdown, control
        self.measured: list[str] = []

    def priced(self, units: float):
        def call() -> None:
            self.now += units

        return call

    def measure(self, names, seed: int) -> dict[str, Ratio]:
        found = {}
        for name in names:
            self.measured.append(name)
            _, control, rung = name.rpartition("control ")
            if control:
                ours = self.priced(40 * self.control)
            elif rung in ladder.RUNGS:
                ours = self.priced(len(ladder.plan(rung).program.calls) * self.slowdown)
            else:  # an epoch or a prediction: any number will do, if it is the same each time
                ours = self.priced(30 * self.slowdown)
            found[name] = timing.measure(
                ours, self.priced(40), pairs=5, rng=seed, clock=lambda: self.now
            )
        return found


@pytest.fixture(scope="module")
def clean() -> dict[str, dict[str, list[int]]]:
    return {name: exact.counts(name) for name in ALL_NETWORKS}


@pytest.fixture(scope="module")
def stored() -> dict[str, float]:
    return {name: ratio.median for name, ratio in WorkClock().measure(timed.CASES, 0).items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A baseline of this machine and these versions, by the command that writes one."""
    path = tmp_path_factory.mktemp("perf") / "baseline.json"
    status, lines = perf.refresh(path, WorkClock().measure)
    assert status == 0, lines
    return path.read_text(encoding="utf-8")


@pytest.fixture
def baseline(tmp_path: Path, written: str) -> Path:
    path = tmp_path / "baseline.json"
    path.write_text(written, encoding="utf-8")
    return path


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_unchanged_code_passes(baseline):
    status, lines = perf.check(baseline, WorkClock().measure)
    assert status == 0
    assert lines[-1].startswith("PASS")


def test_every_call_has_an_output_and_batches_of_all_sizes_make_the_same_calls(clean):
    for name, counts in clean.items():
        assert exact.broken_rules(name, counts) == []
        assert counts[exact.WITHOUT_OUTPUT] == counts[exact.UNSEEN] == [0, 0, 0]
        assert counts["products in the plan"] == [3 * len(ladder.RUNGS[name].sizes[1:]) - 1] * 3
        products = zip(counts[exact.PRODUCTS_NUMPY], counts[exact.PRODUCTS_GEMM], strict=True)
        assert [sum(pair) for pair in products] == counts["products in the plan"]
        assert counts[exact.CALLS] == [len(ladder.plan(name).program.calls)] * 3


@pytest.mark.parametrize("name", ALL_COMPILED)
def test_a_compiled_step_is_one_table_and_nothing_in_python(name):
    counts = exact.counts(name)
    assert exact.broken_rules(name, counts) == []
    assert counts[exact.CALLS] == counts["tables"] == [1, 1, 1]
    assert counts["peak bytes of the largest"] == [0]


def test_a_step_that_returns_to_python_is_caught(monkeypatch, baseline):
    kernels = pytest.importorskip("bpengine.backends.numba.elementwise", reason="Numba is not installed")
    monkeypatch.delitem(kernels.ELEMENTWISE, "sigmoid slope")
    status, lines = perf.check(baseline, WorkClock().measure)
    assert status == 1
    assert lines[-1] == "FAIL: numba tiny"


def test_what_needs_numba_is_skipped_without_it_and_that_is_said(monkeypatch, baseline):
    if not exact.COMPILED:
        pytest.skip("Numba is not installed")
    monkeypatch.setattr(exact, "COMPILED", ())
    cases = {name: case for name, case in timed.CASES.items() if not name.startswith("numba")}
    monkeypatch.setattr(timed, "CASES", cases)
    status, lines = perf.check(baseline, WorkClock().measure)
    assert status == 0
    [said] = [line for line in lines if "SKIPPED" in line]
    assert "numba tiny" in said and "numba epoch" in said


def test_a_counted_replay_computes_what_the_plan_does():
    plans = [ladder.plan("nielsen"), ladder.plan("nielsen")]
    plans[0].run()
    exact.replay(plans[1].program.calls)
    np.testing.assert_array_equal(*(plan.network.vector for plan in plans))


@pytest.mark.parametrize("name", ALL_NETWORKS)
def test_the_frozen_step_is_the_same_step(name):
    plan, weights = ladder.plan(name), ladder.plain_parameters(name)
    step = frozen.softmax_step if name == "softmax" else frozen.step
    for _ in range(3):
        plan.run()
        step(*weights, *ladder.examples(name), ladder.LEARNING_RATE)
    for ours, plain in zip(
        (*plan.network.weights, *plan.network.biases), (*weights[0], *weights[1]), strict=True
    ):
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", timed.CASES)
def test_both_sides_of_every_case_run_and_stay_finite(name):
    for side in timed.CASES[name]():
        side()
    assert len(timed.CASES) <= 11


def copies(k, z, a):
    return [(np.copy, (z,))]


def forgets_the_output(k, z, a):
    return [(np.negative, (z,))]


def copies_behind_the_array_type(k, z, a):
    return [(lambda z: np.asarray(z).view(np.ndarray).copy(), (z,))]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (copies, exact.WITHOUT_OUTPUT),
        (forgets_the_output, exact.WITHOUT_OUTPUT),
        (copies_behind_the_array_type, exact.UNSEEN),
    ],
)
def test_a_stray_copy_is_caught_by_the_counts_alone(monkeypatch, clean, stored, damage, what):
    sigmoid = numpy_backend.KERNELS["sigmoid"]
    monkeypatch.setitem(
        numpy_backend.KERNELS, "sigmoid", lambda *args: [*damage(*args), *sigmoid(*args)]
    )
    found = {"nielsen": exact.counts("nielsen")}
    changed = {fault.split(": ")[1] for fault in exact.differences({"nielsen": clean["nielsen"]}, found)}
    assert changed == {exact.CALLS, what, "peak bytes of the largest"}
    assert any(what in fault for fault in exact.broken_rules("nielsen", found["nielsen"]))
    assert timed.part({"nielsen": stored["nielsen"]}, WorkClock().measure).slower == []


def test_a_copy_within_a_call_that_has_an_output_is_caught_by_the_memory(monkeypatch, clean):
    sigmoid = numpy_backend.KERNELS["sigmoid"]

    def hidden(z, a):
        np.copyto(a, np.asarray(z).copy())

    monkeypatch.setitem(
        numpy_backend.KERNELS, "sigmoid", lambda k, z, a: [(hidden, (z, a)), *sigmoid(k, z, a)]
    )
    before, after = clean["tiny"], exact.counts("tiny")
    assert after["peak bytes of the largest"] > before["peak bytes of the largest"]
    assert after["peak bytes of the largest"][0] % exact.ROW == 0


def test_an_extra_product_is_caught_by_the_counts_alone(monkeypatch, clean, stored, baseline):
    feedforward = equations.feedforward

    def twice(parameters, activations, workspace):
        first, *rest = feedforward(parameters, activations, workspace)
        return iter([first, first, *rest])

    monkeypatch.setattr(equations, "feedforward", twice)
    found = exact.counts("nielsen")
    assert found["products in the plan"] == [6, 6, 6]
    changed = {
        fault.split(": ")[1]
        for fault in exact.differences({"nielsen": clean["nielsen"]}, {"nielsen": found})
    }
    assert changed == {"products in the plan", exact.PRODUCTS_NUMPY, exact.CALLS}
    assert timed.part({"nielsen": stored["nielsen"]}, WorkClock().measure).slower == []

    status, lines = perf.check(baseline, WorkClock().measure)
    assert status == 1
    assert lines[-1] == f"FAIL: {', '.join(['tiny', 'nielsen', *exact.COMPILED])}"


def test_more_calls_for_a_larger_batch_break_a_rule(clean):
    counts = clean["tiny"] | {exact.CALLS: [30, 30, 31]}
    assert exact.broken_rules("tiny", counts) == [
        "tiny: calls: [30, 30, 31], must be equal for batches of (1, 64, 1024)"
    ]


def test_all_ways_of_calling_numpy_are_seen():
    x = np.ones((2, 2))
    seen = exact.replay(
        [
            (np.add, (x, x, x)),
            (np.add.reduce, (x, 0, None, np.empty((1, 2)), True)),
            (partial(np.maximum, out=x), (x, x)),
            (np.copyto, (x, x)),
            (partial(np.concatenate, out=np.empty((4, 2))), ([x, x],)),
            (np.matmul, (x, x)),
            (np.sum, (x,)),
            (id, (x,)),
        ]
    )
    assert seen[exact.CALLS] == 8
    assert seen[exact.PRODUCTS_NUMPY] == 1
    assert seen[exact.WITHOUT_OUTPUT] == 2  # the matmul and the sum
    assert seen[exact.UNSEEN] == 1  # the id


def test_a_slowdown_is_caught_by_the_times_alone(baseline, stored):
    clock = WorkClock(slowdown=1.5)
    status, lines = perf.check(baseline, clock.measure)
    assert status == 1
    assert lines[-1] == f"FAIL: {', '.join(timed.CASES)}"
    assert sum("SLOWER" in line for line in lines) == len(timed.CASES)
    assert clock.measured[-len(timed.CASES) :] == list(timed.CASES)  # measured again, separately

    assert perf.check(baseline, WorkClock(slowdown=1.2).measure)[0] == 0


def test_a_real_slowdown_is_caught_by_the_times():
    def case(repeats: int):
        plan, step = ladder.plan("nielsen"), ladder.frozen_step("nielsen")
        return partial(plan.run, steps=repeats), lambda: (step(), step())

    measure = partial(timed.measure_here, pairs=101)
    unchanged = partial(measure, cases={"nielsen": lambda: case(2)})
    slowed = partial(measure, cases={"nielsen": lambda: case(3)})
    stored = unchanged(["nielsen"], 0)["nielsen"].median
    assert timing.judge(slowed(["nielsen"], 1)["nielsen"], stored) == "slower"
    assert timing.judge(unchanged(["nielsen"], 2)["nielsen"], stored) != "slower"


def test_a_slowdown_that_a_fresh_process_does_not_confirm_is_not_red(baseline):
    def measure(names, seed):
        return WorkClock(slowdown=1.5 if seed == 0 else 1.0).measure(names, seed)

    status, lines = perf.check(baseline, measure)
    assert status == 0
    assert sum("slower, but in a fresh process" in line for line in lines) == len(timed.CASES)
    assert lines[-1].startswith("PASS")


def test_a_control_that_is_off_is_said_and_not_red(baseline):
    status, lines = perf.check(baseline, WorkClock(slowdown=1.5, control=1.06).measure)
    assert status == 0
    assert lines[-1].startswith("INCONCLUSIVE") and "control tiny 1.060" in lines[-1]
    assert sum("not judged" in line for line in lines) == len(timed.CASES)


def test_counts_are_red_whatever_the_controls(baseline):
    edit(baseline, lambda content: content["counts"]["tiny"].update(calls=[29, 29, 29]))
    status, lines = perf.check(baseline, WorkClock(control=1.2).measure)
    assert status == 1
    assert lines[-2:] == ["  tiny: calls: [29, 29, 29] stored, [30, 30, 30] found", "FAIL: tiny"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda b: b["ratios"].pop("epoch"), "epoch: measured, but not stored"),
        (lambda b: b["ratios"].update(gone=b["ratios"]["tiny"]), "gone: stored, but no longer measured"),
        (lambda b: b["counts"].pop("tiny"), "tiny: calls: none stored, [30, 30, 30] found"),
        (lambda b: b["counts"]["tiny"].pop("calls"), "tiny: calls: none stored, [30, 30, 30] found"),
        (lambda b: b["counts"].update(gone={"calls": [1]}), "gone: calls: [1] stored, none found"),
        (lambda b: b.update(yardstick="0"), "frozen.py: was edited"),
        (lambda b: b.update(schema=0), "has schema 0, this check reads 1"),
    ],
)
def test_a_baseline_of_other_cases_is_red(baseline, change, fault):
    edit(baseline, change)
    status, lines = perf.check(baseline, WorkClock().measure)
    assert status == 1
    assert any(fault in line for line in lines)
    assert lines[-1].startswith("FAIL")


def test_refresh_writes_counts_ratios_and_environment(baseline, clean, stored):
    content = json.loads(baseline.read_text(encoding="utf-8"))
    assert content["schema"] == perf.SCHEMA
    counts = content["counts"]
    compiled = {name: counts.pop(name) for name in exact.COMPILED}
    assert counts == {name: clean[name] for name in exact.NETWORKS}
    assert compiled == {name: exact.counts(name) for name in exact.COMPILED}
    assert {name: ratio["median"] for name, ratio in content["ratios"].items()} == pytest.approx(stored)
    assert {*perf.NAMED, "cores", "date"} <= set(content["environment"])


def test_refresh_keeps_no_baseline_of_a_busy_machine(tmp_path):
    path = tmp_path / "baseline.json"
    status, lines = perf.refresh(path, WorkClock(control=0.9).measure)
    assert status == 1 and not path.exists()
    assert lines[-1].startswith("INCONCLUSIVE")


def test_refresh_keeps_no_baseline_with_a_broken_rule(tmp_path, monkeypatch, clean):
    monkeypatch.setattr(exact, "counts", lambda name: clean["tiny"] | {exact.WITHOUT_OUTPUT: [1] * 3})
    status, lines = perf.refresh(tmp_path / "baseline.json", WorkClock().measure)
    assert status == 1 and not (tmp_path / "baseline.json").exists()
    assert lines[-1].startswith("FAIL")


def test_the_baseline_of_the_repository_is_complete():
    content = json.loads(perf.BASELINE.read_text(encoding="utf-8"))
    assert content["schema"] == perf.SCHEMA
    assert content["yardstick"] == perf.yardstick()
    assert list(content["ratios"]) == list(timed.CASES)
    assert list(content["counts"]) == [*ALL_NETWORKS, *ALL_COMPILED]
    for ratio in content["ratios"].values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_a_fresh_process_measures_under_the_settings():
    found = timed.measure_fresh(["tiny", "control tiny"], seed=0, pairs=3)
    assert list(found) == ["tiny", "control tiny"]
    assert all(ratio.pairs == 3 for ratio in found.values())


@pytest.mark.parametrize(("slowdown", "expected"), [(1.0, 0), (1.5, 1)])
def test_the_command_prints_and_gives_the_exit_status(
    baseline, monkeypatch, tmp_path, capsys, slowdown, expected
):
    measure = WorkClock(slowdown).measure
    monkeypatch.setattr(perf, "check", partial(perf.check, measure=measure))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert perf.main(["--baseline", str(baseline), "check"]) == expected
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("FAIL" if expected else "PASS")
    assert printed in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_study_counts_alarms_and_can_be_taken_up_again(baseline, tmp_path, monkeypatch, capsys):
    page, records = tmp_path / "page.md", tmp_path / "records.jsonl"
    page.write_text(f"before\n{study.BEGIN}\nold\n{study.END}\nafter\n", encoding="utf-8")
    made = []

    def one_run(stored, number):
        made.append(number)
        # run 1 seems slower at first, run 2 is slower, run 3 can't be judged, the others are as stored
        first = {1: 1.2, 2: 1.2}.get(number, 1.0)
        again = 1.2 if number == 2 else 1.0
        clocks = [WorkClock(first, control=1.1 if number == 3 else 1.0), WorkClock(again)]
        return study_run(stored, number, lambda names, seed: clocks.pop(0).measure(names, seed))

    study_run = study.one_run
    monkeypatch.setattr(study, "one_run", one_run)
    for runs in ("2", "6"):
        arguments = ["study", "--cases", "tiny", "--page", str(page), "--records", str(records)]
        assert perf.main(["--baseline", str(baseline), *arguments, "--runs", runs]) == 0
    assert made == [0, 1, 2, 3, 4, 5]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "6 runs on unchanged code, 1 of them inconclusive, 5 judged" in text
    assert "| 1.15 | 2 | 1 | 20.0% | 65.7% |" in text
    assert "| 1.25 | 0 | 0 | 0.0% | 45.1% |" in text
    assert re.search(r"\| tiny \| 0\.750 \| 1\.000 to 1\.\d+ \| 1\.200 \| × 1\.25 \|", text)

    edit(baseline, lambda content: content["ratios"]["tiny"].update(median=0.5))
    assert perf.main(["--baseline", str(baseline), *arguments]) == 1
    assert "another baseline" in capsys.readouterr().out


def test_the_bound_on_a_rate_of_no_alarms_is_the_exact_one():
    assert study.upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-5)
    assert study.upper_bound(100, 100) == 1.0


@pytest.fixture
def example(tmp_path, monkeypatch) -> ModuleType:
    """The example of docs/performance-check.md, as the file it is meant to be."""
    text = (ROOT / "docs" / "performance-check.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    path = tmp_path / "test_speed.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_stores_its_ratio(example):
    example.store()
    assert json.loads(example.STORED.read_text())["step"] > 0


def test_the_example_fails_for_a_slower_step_and_skips_on_a_busy_machine(example, monkeypatch):
    example.STORED.write_text('{"step": 1.0}')

    def pretend(ratio, control=1.0):
        answers = [control, ratio, ratio]
        monkeypatch.setattr(
            example, "measure", lambda *_: Ratio(*[answers.pop(0)] * 3, pairs=1, ours=1, reference=1)
        )
        example.test_step_is_not_slower()

    pretend(1.2)
    with pytest.raises(AssertionError, match="slower"):
        pretend(1.3)
    with pytest.raises(pytest.skip.Exception):
        pretend(1.3, control=1.1)
