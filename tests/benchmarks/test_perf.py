"""The performance check, shown to work: damage of each kind is caught by the part meant for it.

Where times matter, the clock is made up. One test measures real times, of the same step run three times
and twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bpengine import timing
from bpengine.backends.numpy import kernels as numpy_backend
from bpengine.timing import Ratio

ROOT = Path(__file__).parents[2]


with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "benchmarks")
    import exact
    import frozen
    import frozen_kernels
    import injections
    import kernels
    import ladder
    import perf
    import revisions
    import study
    import timed
    import variations

ALL_NAMES, ALL_CASES = exact.NAMES, timed.CASES
NAMES = ("numpy base", "numpy adam", "numpy feedforward", "numba base", "numpy fit")


@pytest.fixture(scope="module", autouse=True)
def a_few():
    """Damage shows in a few counts and cases as well as in all, and sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "NAMES", tuple(name for name in NAMES if name in ALL_NAMES))
        patch.setattr(timed, "CASES", {name: ALL_CASES[name] for name in ("tiny", "kernel adam")})
        yield


def pretend(*slowdowns: float, control: tuple[float, ...] = (1.0,)):
    """Measurements: so many times the 0.5 that is stored, one after the other; the last one stays."""
    factors, controls, measured = [*slowdowns], [*control], []

    def measure(names, seed):
        names = list(names)
        measured.append(names)
        ratio, steady = (values[min(len(measured), len(values)) - 1] for values in (factors, controls))
        return {
            name: Ratio(*[0.5 * ratio] * 3, 5, 1.0, 2.0, Ratio(*[steady] * 3, 5, 2.0, 2.0))
            for name in names
        }

    measure.measured = measured
    return measure


@pytest.fixture
def compared(monkeypatch):
    """Sets what is found where times are compared with those of unchanged code."""

    def quotients(*found: float, control: tuple[float, ...] = (1.0,)):
        measure = pretend(*(2.0 * quotient for quotient in found), control=control)
        monkeypatch.setattr(perf, "revision_of", lambda baseline: "HEAD")
        monkeypatch.setattr(perf, "tree_of", lambda revision: perf.contextlib.nullcontext(ROOT))
        monkeypatch.setattr(timed, "measure_against", lambda tree: measure)
        return measure

    return quotients


@pytest.fixture(scope="module")
def clean() -> dict[str, dict[str, object]]:
    exact.counts(exact.NAMES[-1])  # what only a first call does
    return {name: exact.counts(name) for name in exact.NAMES}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A baseline of this machine and these versions, by the command that writes one."""
    path = tmp_path_factory.mktemp("perf") / "baseline.json"
    status, lines = perf.refresh(path, pretend(1.0))
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
    status, lines = perf.check(baseline, pretend(1.0))
    assert status == 0
    assert lines[-1].startswith("PASS")


def test_all_that_is_built_in_is_counted():
    import bpengine as bp
    from bpengine.model import activations, costs

    assert {*activations.ACTIVATIONS} <= {*variations.VARIATIONS, "sigmoid"}
    assert {*costs.COSTS} <= {*variations.VARIATIONS}
    optimizers = {type(options.get("optimizer")) for options in variations.VARIATIONS.values()}
    assert optimizers >= {bp.Adam, bp.AdamW, bp.Adagrad, bp.RMSprop, bp.SGD, bp.DPSGD}
    done = {op.name for name in variations.VARIATIONS for op in variations.plan(name, 4).operations}
    # those of folds, and of gradient norms of ranks
    assert {*numpy_backend.KERNELS} - done <= {
        "add product",
        "shrink",
        "add",
        "reverse difference",
        "add squares",
        "epsilon",
        "share",
        "rmsprop per parameter",
        "adagrad per parameter",
    }


@pytest.mark.parametrize("name", kernels.variation_of())
def test_a_frozen_kernel_computes_the_operation(name):
    op, _ = kernels.operation(name, "numpy", kernels.Memory())
    if name in kernels.RANDOM:
        inputs = (*(op.inputs or (op.output.shape,)), np.random.default_rng(0))
        assert frozen_kernels.TWINS[name](*inputs).shape == op.output.shape
        return
    expected, found = op.expression(*op.inputs), frozen_kernels.TWINS[name](*op.inputs)
    if op.state:
        expected, found = expected[0], found[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_the_ufuncs_of_a_twin_are_replayed_on_the_same_arrays():
    x, memory = np.full((3, 2), 2.0), kernels.Memory()
    calls: list[object] = []
    result = (kernels.traced(x, calls, memory) * 3 - 1).max(axis=0)
    x[:, 1] = 5.0
    for call in calls:
        call()
    assert result.tolist() == [5.0, 14.0] and len(calls) == 3
    offsets = [memory(x).ctypes.data % kernels.PAGE for _ in range(3)]
    assert np.diff(offsets).tolist() == [kernels.OFFSET] * 2


@pytest.mark.parametrize("name", ["tiny", "predict", "gather", "epoch"])
def test_both_sides_of_a_case_run(name):
    for side in ALL_CASES[name]():
        side()


@pytest.mark.parametrize("name", ["tiny", "nielsen", "softmax"])
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


@pytest.mark.skipif("numba base" not in ALL_NAMES, reason="Numba is not installed")
def test_a_compiled_step_is_one_table_and_nothing_in_python(clean):
    counts = clean["numba base"]
    assert counts[exact.CALLS] == counts["tables"] == 1 and counts[exact.PEAK] == 0


@pytest.mark.skipif("numba base" not in ALL_NAMES, reason="Numba is not installed")
def test_a_step_that_returns_to_python_is_caught(monkeypatch, baseline):
    from bpengine.backends.numba import elementwise

    monkeypatch.delitem(elementwise.ELEMENTWISE, "sigmoid slope")
    status, lines = perf.check(baseline, pretend(1.0))
    assert status == 1
    assert "numba base" in lines[-1]


def test_what_needs_numba_is_skipped_without_it_and_that_is_said(monkeypatch, baseline):
    monkeypatch.setattr(exact, "NAMES", tuple(name for name in NAMES if name.startswith("numpy")))
    status, lines = perf.check(baseline, pretend(1.0))
    assert status == 0
    assert any("SKIPPED, for Numba" in line for line in lines)


def test_operations_of_another_python_are_not_compared(baseline):
    edit(baseline, lambda content: content["environment"].update(Python="3.9.1"))
    whats = "operations of a call, peak bytes"
    edit(baseline, lambda content: content["counts"][whats]["numpy feedforward"].__setitem__(0, 1))
    status, lines = perf.check(baseline, pretend(1.0))
    assert status == 0 and any("Python 3.9.1" in line for line in lines)


def test_a_counted_replay_computes_what_the_plan_does():
    plans = [ladder.plan("nielsen"), ladder.plan("nielsen")]
    plans[0].run()
    exact.replay(plans[1].program.calls)
    np.testing.assert_array_equal(*(plan.network.vector for plan in plans))


def test_every_fault_can_be_injected():
    pytest.importorskip("numba")
    code = "; ".join(
        [
            f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})",
            "import bpengine, injections",
            "[patch() for patch in injections.FAULTS.values()]",
        ]
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(injections.FAULTS) == 40


def copies(k, z, a):
    return [(np.copy, (z,))]


def copies_behind_the_array_type(k, z, a):
    return [(lambda z: np.asarray(z).view(np.ndarray).copy(), (z,))]


@pytest.mark.parametrize(
    ("damage", "what"),
    [(copies, exact.WITHOUT_OUTPUT), (copies_behind_the_array_type, exact.UNSEEN)],
)
def test_a_stray_copy_is_caught_by_the_counts(monkeypatch, clean, damage, what):
    sigmoid = numpy_backend.KERNELS["sigmoid"]
    monkeypatch.setitem(
        numpy_backend.KERNELS, "sigmoid", lambda *args: [*damage(*args), *sigmoid(*args)]
    )
    found = {"numpy base": exact.counts("numpy base")}
    differ = exact.differences({"numpy base": clean["numpy base"]}, found)
    assert {fault.split(": ")[1] for fault in differ} == {exact.CALLS, what, exact.PEAK}


def test_a_copy_within_a_call_that_has_an_output_is_caught_by_the_memory(monkeypatch, clean):
    sigmoid = numpy_backend.KERNELS["sigmoid"]

    def hidden(z, a):
        np.copyto(a, np.asarray(z).copy())

    monkeypatch.setitem(
        numpy_backend.KERNELS, "sigmoid", lambda k, z, a: [(hidden, (z, a)), *sigmoid(k, z, a)]
    )
    after = exact.counts("numpy base")
    assert after[exact.PEAK] > clean["numpy base"][exact.PEAK]
    assert after[exact.PEAK] % exact.ROW == 0


def test_numbers_of_another_type_are_counted(monkeypatch, clean):
    constant = exact.bp.backends.numpy.scratch.Scratch.constant
    monkeypatch.setattr(
        exact.bp.backends.numpy.scratch.Scratch,
        "constant",
        lambda self, value, like: constant(self, value, np.empty(0)),
    )
    assert clean["numpy base"][exact.OTHER_TYPES] == 0
    assert exact.counts("numpy base")[exact.OTHER_TYPES] > 0


def test_more_calls_for_a_larger_batch_break_a_rule(clean):
    counts = clean["numpy base"] | {exact.CALLS: [20, 20, 21]}
    [broken] = exact.broken_rules("numpy base", counts)
    assert broken == "numpy base: calls: [20, 20, 21], must be equal for the larger batches"
    assert exact.broken_rules("numpy base", counts | {exact.CALLS: [20, 21, 21]}) == []


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


def test_operations_of_python_are_counted_in_the_package_alone():
    x = np.ones(3)

    def call(n):
        return [x + 1 for _ in range(n)]

    assert exact.python_operations(partial(call, 5)) == 0
    one, six = (exact.python_operations(partial(injections.inside(call), n)) for n in (1, 6))
    assert six - one == 5


def test_a_slowdown_is_caught_and_confirmed_by_fresh_processes(baseline, compared):
    again = compared(1.3)
    status, lines = perf.check(baseline, pretend(1.3))
    assert status == 1
    assert lines[-1] == "FAIL: tiny, kernel adam"
    assert len(again.measured) == timed.CONFIRMATIONS
    again = compared(1.3)
    assert perf.check(baseline, pretend(1.05))[0] == 0 and not again.measured


@pytest.mark.parametrize("quotients", [(1.0,), (1.5, 1.0), (1.5, 1.5, 1.0)])
def test_a_ratio_that_is_as_high_for_unchanged_code_is_not_red(baseline, compared, quotients):
    compared(*quotients)
    status, lines = perf.check(baseline, pretend(1.5))
    assert status == 0
    assert any("of unchanged code's" in line for line in lines)
    assert lines[-1].startswith("PASS")


def test_a_case_is_measured_again_while_its_control_is_off(baseline, compared):
    again = compared(1.3, control=(1.2, 0.9, 1.0))
    assert perf.check(baseline, pretend(1.0, control=(1.1,)))[0] == 1
    assert len(again.measured) == 2 + timed.CONFIRMATIONS  # the first two do not count


@pytest.mark.parametrize(("inconclusive", "expected"), [("pass", 0), ("fail", 1)])
@pytest.mark.parametrize("why", ["the machine is busy", "there is nothing to compare with"])
def test_what_can_not_be_judged_is_said_and_the_caller_decides(
    baseline, compared, why, inconclusive, expected
):
    if why == "the machine is busy":
        compared(1.3, control=(1.2,))
    status, lines = perf.check(baseline, pretend(1.3), inconclusive)
    assert status == expected
    assert lines[-1].startswith("INCONCLUSIVE") and lines[-1].endswith("tiny, kernel adam")


def test_another_processor_is_noted(baseline):
    edit(baseline, lambda content: content["environment"].update(processor="another"))
    _, lines = perf.check(baseline, pretend(1.0))
    assert any("note: processor was 'another'" in line for line in lines)


def test_unchanged_code_is_the_commit_that_stored_the_ratios(tmp_path):
    def git(*command: str, folder: Path = tmp_path) -> str:
        options = ["-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *options, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def store(**content) -> str:
        path.write_text(json.dumps(content), encoding="utf-8")
        git("add", "-A")
        git("commit", "-qm", "stored", "--allow-empty")
        return git("rev-parse", "HEAD")

    path = tmp_path / "baseline.json"
    path.write_text('{"ratios": {}}', encoding="utf-8")
    assert revisions.revision_of(path) is None  # not in a repository
    git("init", "-q")
    first = store(ratios={"tiny": 1})
    second = store(ratios={"tiny": 2}, counts=1)
    store(ratios={"tiny": 2}, counts=2)
    store(ratios={"tiny": 2}, counts=2)
    assert first != revisions.revision_of(path) == second
    path.write_text('{"ratios": {"tiny": 3}}', encoding="utf-8")
    assert revisions.revision_of(path) is None  # not committed
    git("clone", "-q", "--depth", "1", tmp_path.as_uri(), str(tmp_path / "shallow"))
    assert revisions.revision_of(tmp_path / "shallow" / "baseline.json") is None


def test_a_case_that_varied_when_it_was_stored_has_a_higher_limit():
    assert timed.limit("tiny", (1.0, 0.9, 1.05)) == pytest.approx(1.15)
    assert timed.limit("tiny", (1.0, 0.9, 1.4)) == pytest.approx(1.4 * timed.BEYOND)
    assert timed.limit("kernel adam", (1.0, 1.0, 1.0)) == timed.KERNEL_TOLERANCE


def test_a_quotient_of_two_trees():
    control = Ratio(1.0, 0.99, 1.01, 5, 2.0, 2.0)
    off = Ratio(0.9, 0.8, 1.0, 5, 2.0, 2.0)
    found = timed.quotient(
        Ratio(0.6, 0.5, 0.7, 5, 1.2, 2.0, control), Ratio(0.5, 0.4, 0.6, 5, 1.0, 2.0, off)
    )
    assert (found.median, found.low, found.high) == pytest.approx((1.2, 0.5 / 0.6, 0.7 / 0.4))
    assert found.control is off


def test_times_are_compared_with_those_of_another_tree(baseline, compared, monkeypatch):
    compared(1.3)
    monkeypatch.setattr(timed, "run", lambda root, *arguments: ["tiny", "gone"])
    status, lines = perf.check(baseline, against="main")
    assert status == 1 and lines[-1] == "FAIL: tiny"
    monkeypatch.setattr(timed, "run", lambda root, *arguments: [])
    assert perf.check(baseline, against="main")[0] == 0


def test_the_files_of_a_revision_are_in_a_folder_of_their_own():
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("not a clone")
    with perf.tree_of("HEAD") as tree:
        assert (tree / "bpengine" / "__init__.py").exists()
    assert not tree.exists()


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


def test_counts_are_red_and_no_time_is_then_measured(baseline):
    def change(content):
        for table in content["counts"].values():
            if "numpy base" in table:
                table["numpy base"][1] = 19

    edit(baseline, change)
    measure = pretend(1.0)
    status, lines = perf.check(baseline, measure)
    assert status == 1 and not measure.measured
    assert lines[-2:] == ["  numpy base: calls: 19 stored, 20 found", "FAIL: numpy base"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda b: b["ratios"].pop("tiny"), "tiny: measured, but not stored"),
        (lambda b: b["ratios"].update(gone=b["ratios"]["tiny"]), "gone: stored, not measured"),
        (lambda b: b["counts"].popitem(), "none stored"),
        (lambda b: b["counts"].update(x={"gone": [1]}), "gone: x: 1 stored, none found"),
        (lambda b: b["yardsticks"].update({"frozen.py": "0"}), "frozen.py: was edited"),
        (lambda b: b["yardsticks"].pop("frozen_kernels.py"), "frozen_kernels.py: was edited"),
        (lambda b: b.update(schema=0), "has schema 0, this check reads 2"),
    ],
)
def test_a_baseline_of_other_cases_is_red(baseline, change, fault):
    edit(baseline, change)
    status, lines = perf.check(baseline, pretend(1.0))
    assert status == 1
    assert any(fault in line for line in lines)
    assert lines[-1].startswith("FAIL")


def test_refresh_writes_counts_ratios_and_environment(baseline, clean):
    content = json.loads(baseline.read_text(encoding="utf-8"))
    assert content["schema"] == perf.SCHEMA
    assert exact.unpacked(content["counts"]) == clean
    assert content["ratios"] == {"tiny": [0.5] * 3, "kernel adam": [0.5] * 3}
    assert {*perf.NAMED, "cores", "date"} <= set(content["environment"])
    edit(baseline, lambda content: content.update(counts={}))
    assert perf.refresh(baseline, only_counts=True)[0] == 0
    again = json.loads(baseline.read_text(encoding="utf-8"))
    assert again["counts"] == content["counts"] and again["ratios"] == content["ratios"]


def test_refresh_keeps_no_baseline_of_a_busy_machine(tmp_path):
    path = tmp_path / "baseline.json"
    status, lines = perf.refresh(path, pretend(1.0, control=(0.9,)))
    assert status == 1 and not path.exists()
    assert lines[-1].startswith("INCONCLUSIVE")


def test_refresh_keeps_no_baseline_with_a_broken_rule(tmp_path, monkeypatch, clean):
    grown = clean["numpy base"] | {exact.CALLS: [1, 2, 3]}
    monkeypatch.setattr(exact, "counts", lambda name: grown)
    status, lines = perf.refresh(tmp_path / "baseline.json", pretend(1.0))
    assert status == 1 and not (tmp_path / "baseline.json").exists()
    assert lines[-1].startswith("FAIL")


def test_the_baseline_of_the_repository_is_complete():
    content = json.loads(perf.BASELINE.read_text(encoding="utf-8"))
    assert content["schema"] == perf.SCHEMA
    assert content["yardsticks"] == {name: perf.yardstick(name) for name in perf.FROZEN}
    assert {*ALL_CASES} <= {*content["ratios"]} and {*ALL_NAMES} <= {*exact.unpacked(content["counts"])}
    for median, low, high in content["ratios"].values():
        assert 0 < low <= median <= high


def test_a_line_is_recorded_for_a_commit(tmp_path):
    for _ in range(2):
        perf.record(tmp_path / "records.jsonl", pretend(1.0))
    first, second = (tmp_path / "records.jsonl").read_text("utf-8").splitlines()
    entry = json.loads(second)
    assert entry["ratios"] == {"tiny": 0.5, "kernel adam": 0.5}
    assert first == second and {"commit", "environment", "counts"} <= {*entry}


def test_a_fresh_process_measures_under_the_settings():
    found = timed.measure_fresh(["tiny", "kernel relu"], seed=0, pairs=3)
    assert list(found) == ["tiny", "kernel relu"]
    assert all(ratio.pairs == 3 and ratio.control.pairs == 3 for ratio in found.values())


@pytest.mark.parametrize(("slowdown", "expected"), [(1.0, 0), (1.5, 1)])
def test_the_command_prints_and_gives_the_exit_status(
    baseline, compared, monkeypatch, tmp_path, capsys, slowdown, expected
):
    compared(slowdown)
    monkeypatch.setattr(perf, "check", partial(perf.check, measure=pretend(slowdown)))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert perf.main(["--baseline", str(baseline), "check"]) == expected
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("FAIL" if expected else "PASS")
    assert printed in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_study_counts_alarms_and_can_be_continued(baseline, tmp_path, monkeypatch, capsys):
    page, records = tmp_path / "page.md", tmp_path / "records.jsonl"
    page.write_text(f"before\n{study.BEGIN}\nold\n{study.END}\nafter\n", encoding="utf-8")
    made = []

    def one_run(stored, again):
        made.append(len(made))
        # run 1 is slower, run 2 can't be judged, the others are as stored
        control = 1.2 if made[-1] == 2 else 1.0
        measure = pretend(1.3 if made[-1] == 1 else 1.0, control=(control,))
        return judged(stored, measure, pretend(2.6, control=(control,)))

    judged = study.one_run
    monkeypatch.setattr(study, "one_run", one_run)
    monkeypatch.setattr(study, "tree_of", lambda revision: perf.contextlib.nullcontext(ROOT))
    for runs in ("2", "5"):
        arguments = ["study", "--cases", "tiny", "--page", str(page), "--records", str(records)]
        assert perf.main(["--baseline", str(baseline), *arguments, "--runs", runs]) == 0
    assert made == [0, 1, 2, 3, 4]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "5 runs on unchanged code of 1 cases each: 1 with an alarm" in text
    assert "1 of 5 not judged" in text
    assert "| steps and calls | 1.00 to 1.24 | 1 of 1 | 1 of 1 |" in text

    edit(baseline, lambda content: content["ratios"].update(tiny=[1, 1, 1]))
    assert perf.main(["--baseline", str(baseline), *arguments]) == 1
    assert "another baseline" in capsys.readouterr().out


def test_the_bound_on_a_rate_of_no_alarms_is_the_exact_one():
    assert study.upper_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-5)
    assert study.upper_bound(100, 100) == 1.0
