"""The model of steps on many machines: its closed forms, its limits, and what the command prints."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpengine as bp
from bpengine.cli import main
from bpengine.distributed import scaling
from bpengine.distributed.scaling import Link, Step, ring, tree

positive = st.floats(1e-6, 1e6)
links = st.builds(Link, st.floats(0, 1e-3), st.floats(1e6, 1e11))
sizes = st.lists(st.integers(1, 3000), min_size=2, max_size=6)


@given(st.floats(1, 1e9), st.integers(1, 1024), links)
def test_all_reduces_by_messages_one_by_one(n, R, link):
    chunk = link.latency + n / R / link.bandwidth
    around = sum(chunk for phase in ("sum", "gather") for _ in range(R - 1))
    assert math.isclose(ring(n, R, link), around, rel_tol=1e-9, abs_tol=0)
    levels, reached = 0, 1
    while reached < R:
        reached, levels = 2 * reached, levels + 1
    assert math.isclose(
        tree(n, R, link), 2 * levels * (link.latency + n / link.bandwidth), rel_tol=1e-9, abs_tol=0
    )


def test_two_ranks_exchange_halves_or_all_of_it():
    link = Link(1e-6, 1e9)
    assert math.isclose(ring(1e6, 2, link), 2e-6 + 1e-3)
    assert math.isclose(tree(1e6, 2, link), 2e-6 + 2e-3)
    assert ring(1e9, 64, link) < tree(1e9, 64, link)
    assert ring(1, 64, link) > tree(1, 64, link)


@given(sizes, st.integers(1, 64))
def test_operations_are_those_of_a_plan(sizes, m):
    sizes = [min(n, 20) for n in sizes]
    plan = bp.Network(sizes, rng=0).plan(m)
    products = sum(op.flops for op in plan.operations if op.name == "matmul")
    assert Step(sizes, 1.0, Link(0, 1.0)).flops(m) == products


@given(sizes, st.integers(1, 512), st.integers(1, 300), links, st.floats(1e8, 1e13))
def test_a_step_lies_between_its_parts_and_their_sum(sizes, m, R, link, rate):
    whole = Step(sizes, rate, link, overlap=False).price(m, R)
    assert math.isclose(whole.step, whole.gradient + whole.sums)
    n = sum(b * (a + 1) * 4 for a, b in itertools.pairwise(sizes))
    assert math.isclose(whole.sums, min(ring(n, R, link), tree(n, R, link)), abs_tol=1e-300)
    found = Step(sizes, rate, link).price(m, R)
    assert math.isclose(found.gradient, whole.gradient)
    assert max(found.gradient, found.sums) <= found.step <= (found.gradient + found.sums) * (1 + 1e-12)
    if R == 1:
        assert found.sums == 0 and found.step == found.gradient


def test_what_is_hidden_in_a_network_of_equal_layers():
    # every layer a bucket. A product takes 1 s, so that backward steps take 2 s, the first's 1 s
    n = 1000
    rate = 2 * n * (n + 1)
    sums = {"fast": 0.5, "slow": 10.0}
    for kind, seconds in sums.items():
        link = Link(0.0, n * (n + 1) * 4 / seconds)  # a bucket over two ranks takes 2 · ½ of that
        price = Step([n] * 4, rate, link).price(1, 2)
        through = 2 * n * n / rate
        backward = [1 + through, 1 + through, 1.0]
        assert math.isclose(price.gradient, 3 + sum(backward))
        expected = {
            "fast": price.gradient + 0.5,  # all but the last sum is hidden
            "slow": 3 + backward[0] + 3 * 10.0,  # the link is busy from the first on
        }
        assert math.isclose(price.step, expected[kind])


@given(sizes, st.integers(1, 2000), links, st.floats(1e8, 1e13))
def test_the_largest_useful_number_of_ranks(sizes, B, link, rate):
    step = Step(sizes, rate, link)
    most = scaling.useful_ranks(step, B)
    one = step.price(B, 1).step

    def efficiency(R):
        return one / (R * step.price(-(-B // R), R).step)

    assert 1 <= most <= min(B, 1024)
    assert efficiency(most) >= 0.5
    assert all(efficiency(R) < 0.5 for R in range(most + 1, min(B, 1024, most + 50) + 1))


def test_the_command(capsys):
    arguments = ["scale", "784", "512", "512", "10", "--gflops", "200", "--bandwidth", "25"]
    assert main.main(arguments) == 0
    printed = capsys.readouterr().out
    title, names, *rows = printed.splitlines()
    assert "784-512-512-10, float32, batch 256: a rank with 200 GFLOP/s (as given)" in title
    assert names.split()[:3] == ["ranks", "examples", "gradient"]
    assert [row.split()[0] for row in rows[:11]] == [str(2**i) for i in range(11)]
    assert rows[0].split()[-2:] == ["100%", "100%"]
    assert rows[10].split()[1] == "–", "256 examples are not enough for 1,024 ranks"
    assert "largest useful number of ranks" in rows[11]
    assert "docs/benchmarks-distributed.md" in rows[12]
    step = Step([784, 512, 512, 10], 200e9, Link(20e-6, 25e9 / 8))
    assert rows[11].endswith(f" {scaling.useful_ranks(step, 256)}")


def test_the_command_measures_the_rate(capsys, monkeypatch):
    monkeypatch.setattr(scaling, "MEASURE_SECONDS", 0.01)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    assert main.main(["scale", "8", "9", "2", "--ranks", "1", "2", "--dtype", "float64"]) == 0
    assert "GFLOP/s (measured here)" in capsys.readouterr().out
    assert np.isfinite(scaling.measured_rate([8, 9, 2], 4))


def test_the_command_does_not_measure_beside_other_work(capsys, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (1e3, 0.0, 0.0), raising=False)
    assert main.main(["scale", "8", "9", "2"]) == 1
    assert "the load average was 1000.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["8"], "2 layers or more"),
        (["8", "0"], "sizes"),
        (["8", "2", "--batch-size", "0"], "--batch-size must be"),
        (["8", "2", "--gflops", "0"], "--gflops must be"),
        (["8", "2", "--bandwidth", "-1"], "--bandwidth must be above 0 and finite, got -1"),
        (["8", "2", "--latency", "-1"], "latency must be"),
        (["8", "2", "--gflops", "1", "--ranks", "0"], "--ranks must be"),
    ],
)
def test_the_command_says_what_is_wrong(capsys, arguments, said):
    assert main.main(["scale", *arguments]) == 1
    assert said in capsys.readouterr().err
