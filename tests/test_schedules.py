"""Schedules give the learning rates of their formulas, and training uses them step by step."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import deep

import bpengine as bp
from bpengine.schedules import Cosine, InverseScaling, OnPlateau, Schedule, StepDecay, WarmUp, resolve

rates = st.floats(1e-6, 10.0)
epochs = st.floats(0.0, 100.0)
counts = st.integers(1, 40)
costs = st.lists(st.floats(-10.0, 10.0), max_size=40)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (StepDecay(0.5), {0: 0.5, 9.99: 0.5, 10: 0.05, 19.5: 0.05, 20: 0.005, 35: 0.0005}),
        (StepDecay(2, factor=0.5, every=1), {0: 2, 0.5: 2, 1: 1, 2.5: 0.5, 10: 2**-9}),
        (Cosine(1.0, epochs=4), {0: 1, 1: 0.5 + math.sqrt(0.125), 2: 0.5, 3: 0.5 - math.sqrt(0.125)}),
        (Cosine(1.0, epochs=4), {4: 0, 4.5: 0, 400: 0}),
        (Cosine(0.25, epochs=2, final=0.05), {0: 0.25, 1: 0.15, 2: 0.05, 7: 0.05}),
        (Cosine(0.25, epochs=2, final=0.75), {0: 0.25, 1: 0.5, 2: 0.75, 3: 0.75}),
        (InverseScaling(0.5), {0: 0.5, 3: 0.25, 0.5625: 0.4, 99: 0.05}),
        (InverseScaling(0.5, power=1), {0: 0.5, 1: 0.25, 4: 0.1}),
        (WarmUp(0.5, epochs=4), {0: 0.0005, 0.001: 0.0005, 1: 0.125, 2: 0.25, 4: 0.5, 9: 0.5}),
        (WarmUp(0.5, epochs=0.5), {0.25: 0.25, 0.5: 0.5}),
        (WarmUp(StepDecay(1.0, every=2), epochs=4), {1: 0.25, 2: 0.05, 3: 0.075, 4: 0.01}),
        (WarmUp(lambda epoch: 1 + epoch, epochs=2), {1: 1, 3: 4}),
        (OnPlateau(0.5), {0: 0.5, 50: 0.5}),
    ],
    ids=lambda x: re.sub(r" at 0x\w+", "", repr(x)),
)
def test_rates_at_some_epochs(schedule, values):
    found = {epoch: schedule.rate(epoch) for epoch in values}
    assert found == pytest.approx(values, rel=1e-12, abs=1e-15)


@given(initial=rates, factor=st.floats(0.01, 1.0), every=counts, epoch=epochs)
def test_step_decay_multiplies_once_in_so_many_epochs(initial, factor, every, epoch):
    decay = StepDecay(initial, factor, every)
    assert decay.rate(0.0) == initial
    assert decay.rate(epoch + every) == pytest.approx(factor * decay.rate(epoch), rel=1e-9)
    within = math.floor(epoch / every) * every
    assert decay.rate(epoch) == decay.rate(within)


@given(initial=rates, length=counts, final=rates, a=epochs, b=epochs)
def test_cosine_goes_from_the_first_to_the_last_and_stays_there(initial, length, final, a, b):
    cosine = Cosine(initial, length, final)
    assert cosine.rate(0.0) == pytest.approx(initial)
    assert cosine.rate(length + a) == pytest.approx(final)
    low, high = sorted((initial, final))
    early, late = cosine.rate(min(a, b)), cosine.rate(max(a, b))
    assert low * (1 - 1e-9) <= late <= high * (1 + 1e-9)
    # never away from `final`
    assert abs(late - final) <= abs(early - final) + 1e-9 * high
    # the curve is that of half a turn: symmetric about its middle
    mirrored = cosine.rate(length - min(a, length))
    assert cosine.rate(min(a, length)) + mirrored == pytest.approx(initial + final)


@given(initial=rates, power=st.floats(0.01, 2.0), a=epochs, b=epochs)
def test_inverse_scaling_falls_as_a_power(initial, power, a, b):
    scaling = InverseScaling(initial, power)
    assert scaling.rate(0.0) == initial
    expected = ((1 + a) / (1 + b)) ** power
    assert scaling.rate(b) / scaling.rate(a) == pytest.approx(expected, rel=1e-9)


@given(after=rates, length=st.floats(0.1, 20.0), a=epochs, b=epochs)
def test_a_warm_up_rises_in_a_straight_line_and_is_then_over(after, length, a, b):
    warm = WarmUp(after, length)
    assert 0 < warm.rate(0.0) <= after / 1000 * (1 + 1e-12)
    assert warm.rate(min(a, b)) <= warm.rate(max(a, b))
    assert warm.rate(length + a) == after
    if 1e-3 <= a / length <= 1:
        assert warm.rate(a) == pytest.approx(after * a / length)


@given(initial=rates, every=counts, length=st.floats(0.1, 20.0), epoch=epochs, seen=costs)
def test_a_warm_up_hands_over_to_the_schedule_as_it_then_is(initial, every, length, epoch, seen):
    for after in (StepDecay(initial, 0.5, every), OnPlateau(initial, 0.5, every)):
        later = length + epoch
        assert WarmUp(after, length).rate(later, seen) == after.rate(later, seen)


@pytest.mark.parametrize(
    ("seen", "rate"),
    [
        ([], 1.0),
        ([3.0, 2.0, 1.0], 1.0),
        ([3.0, 2.0, 2.0], 1.0),
        ([3.0, 2.0, 2.0, 2.0], 0.5),
        ([3.0, 2.0, 2.5, 2.6], 0.5),
        ([3.0, 2.0, 2.5, 1.0, 2.0], 1.0),
        ([3.0, 2.0, 2.0, 2.0, 2.0], 0.5),
        ([3.0, 2.0, 2.0, 2.0, 2.0, 2.0], 0.25),
        ([3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0], 0.25),
        # the best is 2.0 still, after the rate was lowered too
        ([3.0, 2.0, 5.0, 5.0, 4.0, 3.0], 0.25),
        # falling by 0.25 or less in all is no improvement
        ([3.0, 2.9, 2.8], 0.5),
        ([3.0, 2.75, 2.75], 0.5),
        ([3.0, 2.7, 2.7], 1.0),
        # NaN is none either
        ([3.0, float("nan"), float("nan")], 0.5),
    ],
)
def test_the_rate_falls_when_the_cost_does_not(seen, rate):
    plateau = OnPlateau(1.0, factor=0.5, patience=2, min_delta=0.25)
    assert plateau.rate(len(seen), seen) == rate
    assert plateau.rate(len(seen) + 0.5, seen) == rate  # the cost decides, not the epoch


@given(initial=rates, factor=st.floats(0.01, 0.99), patience=st.integers(1, 5), seen=costs)
def test_the_rate_on_a_plateau_falls_by_its_factor_and_no_sooner_than_patience_allows(
    initial, factor, patience, seen
):
    plateau = OnPlateau(initial, factor, patience)
    along = [plateau.rate(n, seen[:n]) for n in range(len(seen) + 1)]
    assert along[0] == initial
    falls = [n for n, (a, b) in enumerate(itertools.pairwise(along), 1) if a != b]
    for n in falls:
        assert along[n] == pytest.approx(along[n - 1] * factor)
        # each of the epochs waited for was no better than the best before it
        waited, before = seen[n - patience : n], seen[: n - patience]
        assert min(waited) >= min(before, default=math.inf) - plateau.min_delta
    assert all(later - earlier >= patience for earlier, later in itertools.pairwise(falls))
    assert len(falls) <= len(seen) // patience


@given(initial=rates, patience=counts, seen=st.lists(st.floats(0, 10), unique=True, max_size=40))
def test_the_rate_stays_while_the_cost_falls(initial, patience, seen):
    falling = sorted(seen, reverse=True)
    plateau = OnPlateau(initial, patience=patience, min_delta=0.0)
    assert plateau.rate(len(seen), falling) == initial
    # and then the patience runs out, once
    flat = [*falling, *[10.0] * patience]
    assert plateau.rate(len(flat), flat) == pytest.approx((initial * 0.1) if falling else initial)


def record(lab, rate, *, epochs=3, batch_size=2, rule=bp.SGD):
    """The learning rate of every step of a training on 6 examples, and the network."""
    seen = []

    def noted(epoch):
        seen.append(epoch)
        return resolve(rate).rate(epoch)

    case = deep("tanh", "quadratic")
    net = case.network(lab)
    net.fit(
        *case.data(lab),
        epochs=epochs,
        batch_size=batch_size,
        shuffle=False,
        optimizer=rule(noted),
        progress=False,
    )
    return seen, net


def test_a_function_is_asked_before_every_step_for_the_epochs_passed(lab):
    seen, _ = record(lab, 0.1, epochs=3, batch_size=2)
    steps = [step / 3 for step in range(9)]
    assert sorted(set(seen)) == pytest.approx(steps)
    seen, _ = record(lab, 0.1, epochs=2, batch_size=4)  # the last batch of an epoch is a smaller one
    assert sorted(set(seen)) == pytest.approx([0.0, 0.5, 1.0, 1.5])


@pytest.mark.parametrize("rule", [bp.SGD, bp.Adam])
@pytest.mark.parametrize(
    "schedule",
    [
        StepDecay(0.5, every=1),
        Cosine(0.5, epochs=2),
        InverseScaling(0.5),
        WarmUp(0.5, epochs=2),
    ],
    ids=repr,
)
def test_training_takes_each_step_with_its_rate(lab, rule, schedule):
    case = deep("tanh", "quadratic")
    X, Y = case.host_data()
    net = case.network(lab)
    plan = net.plan(2, rule(1.0))
    for step in range(9):
        start = 2 * (step % 3)
        plan.load(lab.array(X[:, start : start + 2]), lab.array(Y[:, start : start + 2]))
        plan.learning_rate = schedule.rate(step / 3)
        plan.run()
    trained = case.network(lab)
    trained.fit(
        lab.array(X),
        lab.array(Y),
        epochs=3,
        batch_size=2,
        shuffle=False,
        optimizer=rule(schedule),
        progress=False,
    )
    lab.assert_close(trained.vector, lab.numpy(net.vector), 1e-12)
    _, by_function = record(lab, schedule, rule=rule)
    lab.assert_close(by_function.vector, lab.numpy(net.vector), 1e-12)


@pytest.mark.parametrize("validated", [False, True])
def test_on_a_plateau_of_the_watched_cost_training_slows_down(lab, validated):
    """Of the validation cost, where there is one: here it cannot fall."""
    case = deep("tanh", "quadratic")
    X, Y = case.data(lab)
    options = {}
    if validated:
        # the cost of outputs between -1 and 1 is nearly the same whatever they are
        options["validation"] = X, lab.array(np.full((3, case.batch), 1e9))
    net = case.network(lab)
    plateau = OnPlateau(0.01, factor=0.5, patience=2, min_delta=1e-12)
    if validated:
        plateau = dataclasses.replace(plateau, min_delta=1e12)
    history = net.fit(X, Y, epochs=7, batch_size=6, optimizer=bp.SGD(plateau), progress=False, **options)
    costs = history.validation_cost if validated else history.cost
    expected = [plateau.rate(n, costs[:n]) for n in range(7)]
    assert history.learning_rate == expected
    assert expected == ([0.01] * 3 + [0.005] * 2 + [0.0025] * 2 if validated else [0.01] * 7)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (StepDecay(0.5), "StepDecay(initial=0.5, factor=0.1, every=10)"),
        (Cosine(0.5, 30), "Cosine(initial=0.5, epochs=30, final=0.0)"),
        (InverseScaling(0.5), "InverseScaling(initial=0.5, power=0.5)"),
        (WarmUp(Cosine(0.5, 30), 2), f"WarmUp(after={Cosine(0.5, 30)!r}, epochs=2.0)"),
        (OnPlateau(0.5), "OnPlateau(initial=0.5, factor=0.1, patience=10, min_delta=0.0001)"),
    ],
)
def test_a_schedule_is_shown_as_it_is_written(schedule, text):
    assert repr(schedule) == text
    assert eval(text, vars(bp.schedules)) == schedule
    assert hash(schedule) == hash(dataclasses.replace(schedule))


NAN, INF = float("nan"), float("inf")
RIGHT = {
    StepDecay: {"initial": 0.5, "factor": 0.1, "every": 10},
    Cosine: {"initial": 0.5, "epochs": 30, "final": 0.0},
    InverseScaling: {"initial": 0.5, "power": 0.5},
    WarmUp: {"after": 0.5, "epochs": 2},
    OnPlateau: {"initial": 0.5, "factor": 0.1, "patience": 10, "min_delta": 1e-4},
}
POSITIVE = [0, -0.5, NAN, INF]
OUT_OF_RANGE = {
    "initial": POSITIVE,
    "factor": POSITIVE,
    "power": POSITIVE,
    "after": POSITIVE,
    "every": [0, -1],
    "patience": [0, -1],
    "epochs": [0, -1],
    "final": [-0.1, NAN, INF],
    "min_delta": [-0.1, NAN, INF],
}
ARGUMENTS = [(schedule, name) for schedule, right in RIGHT.items() for name in right]


@pytest.mark.parametrize(
    ("schedule", "name", "value"),
    [
        *((schedule, name, value) for schedule, name in ARGUMENTS for value in OUT_OF_RANGE[name]),
        (OnPlateau, "factor", 1.0),
        (OnPlateau, "factor", 1.5),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(schedule, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        schedule(**{**RIGHT[schedule], name: value})


@pytest.mark.parametrize(("schedule", "name"), ARGUMENTS)
@pytest.mark.parametrize("value", ["0.5", None, [[0.5]]], ids=str)
def test_a_value_of_another_kind_is_refused_by_name(schedule, name, value):
    with pytest.raises(TypeError, match=rf"^{name}(\[0\])? must be a (whole )?number, got "):
        schedule(**{**RIGHT[schedule], name: value})


@pytest.mark.parametrize(
    ("schedule", "name"), [(StepDecay, "every"), (Cosine, "epochs"), (OnPlateau, "patience")]
)
def test_epochs_are_counted_in_whole_numbers(schedule, name):
    with pytest.raises(TypeError, match=rf"^{name} must be a whole number, got 2\.5"):
        schedule(**{**RIGHT[schedule], name: 2.5})


@pytest.mark.parametrize("value", [-0.5, NAN, INF])
def test_a_functions_value_is_checked_with_its_epoch(lab, value):
    def rate(epoch):
        return 0.1 if epoch < 1 else value

    case = deep("tanh", "quadratic")
    net = case.network(lab)
    with pytest.raises(ValueError, match=r"^learning_rate at epoch 1 must be 0 or more and finite"):
        net.fit(*case.data(lab), epochs=3, batch_size=6, optimizer=bp.SGD(rate), progress=False)
    with pytest.raises(ValueError, match=r"^learning_rate at epoch 1\.5 must be 0 or more and finite"):
        resolve(rate).rate(1.5)


def test_a_function_may_begin_and_end_with_0(lab):
    case = deep("tanh", "quadratic")
    net = case.network(lab)
    before = lab.numpy(net.vector).copy()
    options = {"batch_size": 6, "progress": False}
    net.fit(*case.data(lab), epochs=1, optimizer=bp.SGD(lambda epoch: 0.1 * epoch), **options)
    np.testing.assert_array_equal(lab.numpy(net.vector), before)
    net.fit(*case.data(lab), epochs=2, optimizer=bp.SGD(lambda epoch: 0.1 * epoch), **options)
    assert (lab.numpy(net.vector) != before).any()


def test_a_function_that_gives_no_number_is_refused(lab):
    net = bp.Network([2, 2], backend=lab.backend)
    with pytest.raises(TypeError, match=r"^learning_rate at epoch 0 must be a number, got None"):
        net.plan(4, bp.SGD(lambda epoch: None))


def test_numbers_functions_and_schedules_are_made_schedules():
    assert resolve(0.5).rate(7.0) == 0.5
    assert resolve(lambda epoch: 2.0 + epoch).rate(0.5) == 2.5
    decay = StepDecay(0.5)
    assert resolve(decay) is decay
    with pytest.raises(TypeError, match="abstract"):
        Schedule()


class Sawtooth(Schedule):
    """A custom schedule, which needs no more than its rate."""

    def rate(self, epoch, costs=()):
        return 0.5 - 0.4 * (epoch % 1.0)


def test_a_schedule_of_ones_own(lab):
    _, net = record(lab, Sawtooth())
    case = deep("tanh", "quadratic")
    custom = case.network(lab)
    custom.fit(
        *case.data(lab),
        epochs=3,
        batch_size=2,
        shuffle=False,
        optimizer=bp.SGD(Sawtooth()),
        progress=False,
    )
    np.testing.assert_array_equal(lab.numpy(custom.vector), lab.numpy(net.vector))
    assert WarmUp(Sawtooth(), epochs=1).rate(0.5) == pytest.approx(0.15)
