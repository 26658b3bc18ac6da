"""Gradient checks pass where backpropagation is right, and say where it is wrong."""

from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ACTIVATIONS, PAIRS, Case, cases, chain, deep, examples, looped

import bpengine as bp
from bpengine.derivatives import gradient_check

LAYERS = [(kind, l) for l in range(3) for kind in ("weights", "biases")]


@looped(
    ("hidden", "σ", "cost"),
    [
        *((hidden, "sigmoid", "quadratic") for hidden in ACTIVATIONS),
        *(("tanh", σ, cost) for σ, cost in PAIRS),
    ],
)
def test_every_activation_and_every_cost_passes(lab, hidden, σ, cost):
    case = Case([3, 4, 3, 3], [*chain(hidden), σ], cost, batch=5, seed=11)
    check = bp.check_gradient(case.network(lab), *case.data(lab))
    assert check.passed
    assert 0 < check.relative_error < 1e-7
    assert len(check.per_layer) == 3


@given(case=cases(max_width=4, max_batch=4))
@examples(40)
def test_random_networks_of_one_to_five_layers_pass(lab, case):
    check = bp.check_gradient(case.network(lab), *case.data(lab))
    assert check.relative_error < 1e-7
    assert check.passed


@looped(("σ", "cost"), PAIRS)
def test_one_sided_differences_agree_to_the_order_of_epsilon(lab, σ, cost):
    case = deep(σ, cost)
    net, (X, Y) = case.network(lab), case.data(lab)
    check = bp.check_gradient(net, X, Y, two_sided=False)
    assert check.passed and check.tolerance == pytest.approx(1e-4)
    assert check.relative_error < 1e-4
    finer = bp.check_gradient(net, X, Y, two_sided=False, epsilon=1e-6)
    assert finer.passed and finer.tolerance == pytest.approx(1e-5)
    if σ not in ("linear", "relu", "leaky_relu"):  # whose costs are nearly quadratic
        # a tenth of ε gives a tenth of the error; two-sided differences are far better
        assert finer.relative_error < check.relative_error / 5
        assert bp.check_gradient(net, X, Y).relative_error < check.relative_error / 100


@looped("seed", range(3))
@looped(("σ", "cost"), [("sigmoid", "quadratic"), ("tanh", "quadratic"), *PAIRS[-3:]])
def test_the_chapters_epsilon_passes_on_ordinary_networks(lab, σ, cost, seed):
    case = Case([4, 6, 3], [σ, σ], cost, batch=20, seed=seed)
    check = bp.check_gradient(case.network(lab), *case.data(lab), epsilon=1e-7)
    assert check.passed
    assert check.tolerance == 1e-7


def test_the_relative_error_is_that_of_the_book(lab):
    case = deep("tanh", "quadratic")
    net, (X, Y) = case.network(lab), case.data(lab)
    num = lab.numpy(bp.numerical_gradient(net, X, Y).vector)
    found = lab.numpy(net.backprop(X, Y).vector)
    norm = np.linalg.norm
    expected = norm(num - found) / (norm(num) + norm(found))
    # alignment puts zeros into both vectors, which no norm sees
    assert bp.check_gradient(net, X, Y).relative_error == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("two_sided", [True, False])
def test_numerical_derivatives_are_differences_of_the_cost(lab, two_sided):
    case = Case([2, 3, 2], ["tanh", "sigmoid"], "quadratic", batch=4, seed=5)
    net, (X, Y) = case.network(lab), case.data(lab)
    ε = 1e-3
    found = bp.numerical_gradient(net, X, Y, epsilon=ε, two_sided=two_sided)
    assert found.cost == pytest.approx(net.evaluate(X, Y)["cost"], rel=1e-14)
    for kind in ("weights", "biases"):
        for l, view in enumerate(getattr(net, kind)):
            for j, k in np.ndindex(tuple(view.shape)):
                saved, costs = float(view[j, k]), []
                for nudge in (ε, -ε if two_sided else 0.0):
                    view[j, k] = saved + nudge
                    costs.append(net.evaluate(X, Y)["cost"])
                view[j, k] = saved
                expected = (costs[0] - costs[1]) / (2 * ε if two_sided else ε)
                assert float(getattr(found, kind)[l][j, k]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("elements", [1, 300, 1000])
def test_nudging_fewer_networks_at_a_time_gives_the_same(lab, monkeypatch, elements):
    case = deep("sigmoid", "quadratic")
    net, (X, Y) = case.network(lab), case.data(lab)
    at_once = lab.numpy(bp.numerical_gradient(net, X, Y).vector)
    monkeypatch.setattr(gradient_check, "STACK_ELEMENTS", elements)
    lab.assert_close(bp.numerical_gradient(net, X, Y).vector, at_once, 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_check_is_in_float64_and_leaves_the_network_as_it_is(lab, dtype):
    case = deep("gelu", "quadratic", dtype)
    net, (X, Y) = case.network(lab), case.data(lab)
    before, state = lab.numpy(net.vector).copy(), net.rng.bit_generator.state
    check = bp.check_gradient(net, X, Y)
    assert check.relative_error < 1e-7
    assert bp.numerical_gradient(net, X, Y).vector.dtype == lab.backend.xp.float64
    np.testing.assert_array_equal(lab.numpy(net.vector), before)
    assert net.dtype == dtype and net.rng.bit_generator.state == state


right_gradient = gradient_check.gradient


def plant(monkeypatch, change):
    """Let `change` have its way with every gradient before it is handed out."""

    def wrong(*args):
        gradient = right_gradient(*args)
        change(gradient)
        return gradient

    monkeypatch.setattr(gradient_check, "gradient", wrong)


@looped("error", [1e-4, -0.5, float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "l"), LAYERS)
def test_a_single_wrong_entry_fails_the_check_and_is_named(lab, monkeypatch, kind, l, error):
    case = deep("tanh", "quadratic")
    net, (X, Y) = case.network(lab), case.data(lab)
    view = getattr(net, kind)[l]
    j, k = view.shape[0] - 1, view.shape[1] // 2
    right = float(getattr(net.backprop(X, Y), kind)[l][j, k])

    def change(gradient):
        getattr(gradient, kind)[l][j, k] = right + error

    plant(monkeypatch, change)
    check = bp.check_gradient(net, X, Y)
    assert not check.passed
    assert check.worst.parameter == f"{kind}[{l}][{j}, {k}]"
    assert check.worst.numerical == pytest.approx(right, rel=1e-6)
    np.testing.assert_equal(check.worst.backprop, right + error)
    good = [item <= 1e-7 for item in check.per_layer]
    assert good == [item != l for item in range(3)]
    assert str(check).startswith("FAILED: ") and check.worst.parameter in str(check)


@looped(("kind", "l"), LAYERS)
def test_a_gradient_that_was_not_computed_at_all_fails(lab, monkeypatch, kind, l):
    case = deep("sigmoid", "quadratic")

    def change(gradient):
        getattr(gradient, kind)[l][...] = 0.0

    plant(monkeypatch, change)
    check = bp.check_gradient(case.network(lab), *case.data(lab))
    assert not check.passed
    assert check.worst.parameter.startswith(f"{kind}[{l}]") and check.worst.backprop == 0


def test_a_sum_where_the_average_is_meant_fails(lab, monkeypatch):
    case = deep("sigmoid", "quadratic")

    def change(gradient):
        gradient.vector[...] = gradient.vector * case.batch

    plant(monkeypatch, change)
    check = bp.check_gradient(case.network(lab), *case.data(lab))
    m = case.batch
    assert check.relative_error == pytest.approx((m - 1) / (m + 1), rel=1e-6)
    assert not check.passed


SOFTSIGN = bp.Activation("softsign", lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2)


@looped("l", range(3))
@looped("factor", [0.9, 1 + 1e-5, float("nan")])
def test_a_wrong_slope_fails_from_its_layer_down_to_the_input(lab, l, factor):
    # Numba does not compile a partial function, which it would do anew for each
    slope = functools.partial(lambda k, z: k * SOFTSIGN.derivative(z), factor)
    wrong = dataclasses.replace(SOFTSIGN, name="wrong", derivative=slope)
    case = deep("tanh", "quadratic")
    net = bp.Network(
        case.sizes,
        [wrong if item == l else SOFTSIGN for item in range(3)],
        backend=lab.backend,
        dtype="float64",
        rng=0,
    )
    check = bp.check_gradient(net, *case.data(lab))
    assert not check.passed
    assert [item <= 1e-7 for item in check.per_layer] == [False] * (l + 1) + [True] * (2 - l)
    assert int(re.match(r"\w+\[(\d)\]", check.worst.parameter)[1]) <= l


def test_a_network_whose_gradient_vanishes_passes(lab):
    net = bp.Network([2, 3, 2], "relu", backend=lab.backend, dtype="float64", rng=0)
    for b in net.biases:
        b[...] = -100.0
    check = bp.check_gradient(net, lab.array(np.eye(2)), lab.array(np.ones((2, 2))))
    assert check.passed and check.relative_error == 0
    assert check.per_layer == (0, 0)
    assert str(check).startswith("passed: ")


def test_a_gradient_where_there_is_none_fails(lab, monkeypatch):
    net = bp.Network([2, 3, 2], "relu", backend=lab.backend, dtype="float64", rng=0)
    for b in net.biases:
        b[...] = -100.0

    def change(gradient):
        gradient.weights[0][1, 1] = 1e-3

    plant(monkeypatch, change)
    check = bp.check_gradient(net, lab.array(np.eye(2)), lab.array(np.ones((2, 2))))
    assert not check.passed and check.worst.parameter == "weights[0][1, 1]"


@pytest.mark.parametrize("tolerance", [1e-12, 0.5])
def test_the_tolerance_is_ones_own(lab, tolerance):
    case = deep("sigmoid", "quadratic")
    check = bp.check_gradient(case.network(lab), *case.data(lab), tolerance=tolerance)
    assert check.tolerance == tolerance
    assert check.passed == (check.relative_error <= tolerance) == (tolerance == 0.5)


@looped("name", ["epsilon", "tolerance"])
@looped(
    ("value", "error"),
    [(0, ValueError), (-1e-5, ValueError), (float("nan"), ValueError), ("small", TypeError)],
)
def test_epsilon_and_tolerance_are_positive_numbers(lab, name, value, error):
    case = deep("sigmoid", "quadratic")
    with pytest.raises(error, match=name):
        bp.check_gradient(case.network(lab), *case.data(lab), **{name: value})


def test_labels_are_checked_as_targets_are(lab):
    net = bp.Network([3, 4], "softmax", "softmax_cross_entropy", backend=lab.backend, rng=0)
    X = lab.array(np.random.default_rng(0).standard_normal((3, 6)))
    assert bp.check_gradient(net, X, np.array([0, 3, 1, 1, 2, 0])).passed
    with pytest.raises(ValueError, match=r"X\.T"):
        bp.check_gradient(net, lab.array(np.ones((6, 3))), np.array([0, 3, 1, 1, 2, 0]))


@given(epsilon=st.sampled_from([1e-3, 1e-4, 1e-5]))
@examples(3)
def test_two_sided_errors_fall_with_the_square_of_epsilon(lab, epsilon):
    case = deep("tanh", "quadratic")
    net, (X, Y) = case.network(lab), case.data(lab)
    coarse = bp.check_gradient(net, X, Y, epsilon=1e-2, tolerance=1).relative_error
    fine = bp.check_gradient(net, X, Y, epsilon=epsilon, tolerance=1).relative_error
    assert fine < 2 * coarse * (epsilon / 1e-2) ** 2 + 1e-9
