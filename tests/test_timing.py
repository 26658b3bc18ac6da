"""Ratios by a clock that the callables move themselves: no test here depends on real time."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

from bpengine.timing import Ratio, judge, measure, steady

OURS, REFERENCE = 3e-5, 2e-5  # seconds
TRUTH = OURS / REFERENCE


class Bench:
    """A clock, and callables that take as long as specified, give or take some noise."""

    def __init__(self, noise: float = 0.0, seed: int = 0) -> None:
        self.now = 0.0
        self.pace = 1.0
        self.called: list[str] = []
        self.noise, self.rng = noise, np.random.default_rng(seed)

    def clock(self) -> float:
        return self.now

    def takes(self, seconds: float, name: str = "") -> object:
        def call() -> None:
            self.called.append(name)
            self.now += seconds * self.pace * math.exp(self.noise * self.rng.standard_normal())

        return call

    def ratio(self, **options) -> Ratio:
        ours, reference = self.takes(OURS, "ours"), self.takes(REFERENCE, "reference")
        return measure(ours, reference, clock=self.clock, **{"pairs": 31, "rng": 0, **options})


def a_ratio(median=1.0, low=None, high=None):
    return Ratio(median, low or median, high or median, pairs=31, ours=1.0, reference=1.0)


def test_a_known_ratio_is_found_exactly():
    ratio = Bench().ratio()
    assert [ratio.median, ratio.low, ratio.high] == pytest.approx([TRUTH] * 3)
    assert (ratio.ours, ratio.reference) == pytest.approx((1e6 * OURS, 1e6 * REFERENCE))
    assert ratio.pairs == 31


def test_a_control_is_the_reference_timed_twice_in_each_pair():
    bench = Bench(noise=0.1)
    ratio = bench.ratio(control=True, seconds=OURS / 2, pairs=200)
    assert ratio.median == pytest.approx(TRUTH, rel=0.05)
    assert ratio.control.median == pytest.approx(1.0, rel=0.05) and steady(ratio.control)
    assert (ratio.control.pairs, ratio.control.control) == (200, None)
    timed = bench.called[-600:]
    assert timed.count("ours") * 2 == timed.count("reference") == 400
    assert bench.ratio().control is None


def test_what_slows_both_sides_of_a_pair_changes_nothing():
    bench = Bench()
    ours, reference = bench.takes(OURS, "ours"), bench.takes(REFERENCE, "reference")
    readings = 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        bench.pace = 1.0 if readings < 100 else 8.0
        return bench.now

    ratio = measure(ours, reference, pairs=61, rng=0, clock=clock)
    assert ratio.median == pytest.approx(TRUTH)
    assert ratio.ours > 2e6 * OURS


def test_interruptions_of_single_timings_do_not_move_the_median():
    bench = Bench()
    ours, reference = bench.takes(OURS), bench.takes(REFERENCE)
    readings = 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        bench.now += 0.01 * (readings % 7 == 0)  # another process's turn
        return bench.now

    ratio = measure(ours, reference, pairs=61, rng=0, clock=clock)
    assert ratio.median == pytest.approx(TRUTH, rel=0.02)


def test_the_order_within_pairs_is_random():
    bench = Bench()
    bench.ratio(pairs=200, seconds=OURS / 2)  # one call a timing, so that the calls show the order
    timed = bench.called[-400:]
    firsts = timed[::2]
    assert all({*pair} == {"ours", "reference"} for pair in zip(firsts, timed[1::2], strict=True))
    assert 70 < firsts.count("ours") < 130
    assert firsts[:100] != firsts[100:]


def test_a_seed_repeats_the_order_and_the_interval():
    ratios = [Bench(noise=0.1).ratio(rng=seed) for seed in (5, 5, 6)]
    assert ratios[0] == ratios[1] != ratios[2]


@pytest.mark.parametrize("seconds", [1e-4, 5e-4, 3e-3])
def test_a_timing_lasts_about_as_long_as_asked(seconds):
    bench, calls = Bench(), [0, 0]
    for i, pairs in enumerate((10, 110)):
        bench.called.clear()
        bench.ratio(pairs=pairs, seconds=seconds)
        calls[i] = bench.called.count("ours")
    assert (calls[1] - calls[0]) / 100 * OURS == pytest.approx(seconds, rel=0.2)


def test_the_interval_contains_the_truth_about_as_often_as_it_says():
    found = [Bench(noise=0.3, seed=seed).ratio(rng=seed, seconds=OURS / 2) for seed in range(200)]
    hits = sum(ratio.low <= TRUTH <= ratio.high for ratio in found)
    assert 180 <= hits <= 199  # 190 expected, standard deviation 3


def test_the_garbage_collector_is_off_while_timing_and_on_again_after():
    states = []
    assert gc.isenabled()
    measure(lambda: states.append(gc.isenabled()), lambda: None, pairs=2, seconds=1e-5)
    assert gc.isenabled()
    assert states and not any(states)


def test_the_garbage_collector_is_on_again_after_an_error():
    def broken() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measure(broken, lambda: None)
    assert gc.isenabled()


def test_a_garbage_collector_that_was_off_stays_off():
    gc.disable()
    try:
        Bench().ratio()
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{"pairs": 0}, {"seconds": 0.0}])
def test_no_pairs_and_no_time_are_refused(options):
    with pytest.raises(ValueError, match="must be above 0; got"):
        Bench().ratio(**options)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.01, 1.1, "slower"),
        (1.0, 1.1, "unchanged"),  # exactly 1.25 times the stored 0.8 is not over it
        (0.7, 2.0, "unchanged"),
        (0.64, 0.64, "unchanged"),
        (0.5, 0.63, "faster"),
    ],
)
def test_slower_or_faster_only_with_the_whole_interval(low, high, verdict):
    assert judge(a_ratio(low, low, high), stored=0.8, tolerance=1.25) == verdict


@pytest.mark.parametrize("bad", [{"stored": 0.0}, {"stored": math.nan}, {"stored": 1, "tolerance": 0.9}])
def test_stored_ratios_and_tolerances_are_checked(bad):
    with pytest.raises(ValueError, match="stored must be above 0 and tolerance 1 or more; got"):
        judge(a_ratio(), **bad)


@pytest.mark.parametrize(
    ("median", "expected"), [(1.0, True), (1.049, True), (1.051, False), (0.953, True), (0.952, False)]
)
def test_a_control_is_steady_within_five_per_cent(median, expected):
    assert steady(a_ratio(median)) is expected
