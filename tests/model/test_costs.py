"""Every cost is what its name says; the simplified output error is the general one."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    CANONICAL,
    ELEMENTWISE,
    PAIRS,
    REGRESSIONS,
    assert_close,
    deep,
    examples,
    looped,
    targets,
)

import bpengine as bp
from bpengine.model.activations import ACTIVATIONS
from bpengine.model.costs import COSTS, resolve

# C_x of one column, as one writes it down
FORMULAS = {
    "quadratic": lambda a, y: sum((y - a) ** 2 for a, y in zip(a, y, strict=True)) / 2,
    "absolute_error": lambda a, y: sum(abs(y - a) for a, y in zip(a, y, strict=True)),
    "huber": lambda a, y: sum(
        (y - a) ** 2 / 2 if abs(y - a) <= 1 else abs(y - a) - 1 / 2 for a, y in zip(a, y, strict=True)
    ),
    "poisson": lambda a, y: sum(a - y * math.log(a) for a, y in zip(a, y, strict=True)),
    "binary_cross_entropy": lambda a, y: (
        -sum(y * math.log(a) + (1 - y) * math.log(1 - a) for a, y in zip(a, y, strict=True))
    ),
    "softmax_cross_entropy": lambda a, y: -sum(y * math.log(a) for a, y in zip(a, y, strict=True)),
}
NAMES = sorted(FORMULAS)
SHAPES = st.tuples(st.integers(2, 5), st.integers(1, 6), st.integers(0, 2**20))


def outputs(name, shape):
    """Output activations within where a cost is defined, with targets."""
    n, m, seed = shape
    rng = np.random.default_rng(seed)
    if name in REGRESSIONS:
        a = rng.standard_normal((n, m))
    else:
        a = rng.uniform(0.05, 4 if name == "poisson" else 0.95, (n, m))
    return a, targets(rng, name, n, m)


def quartic_slope(a, y):
    """At the top of the module: Numba compiles a function once."""
    return 4 * (a - y) ** 3


def custom(xp, name="quartic", **options):
    return bp.Cost(name, lambda a, y: xp.sum((a - y) ** 4, axis=-2), quartic_slope, **options)


def test_the_pairs_of_the_strategies_are_those_that_a_network_takes():
    def fits(σ, cost):
        try:
            bp.Network([2, 2], σ, cost)
        except ValueError:
            return False
        return True

    any_output = {(σ, cost) for σ in ACTIVATIONS for cost in REGRESSIONS}
    taken = {(σ, cost) for σ in ACTIVATIONS for cost in COSTS if fits(σ, cost)}
    assert taken == set(PAIRS) | any_output | {("relu", "poisson")}
    canonical = {(cost.canonical, cost.name) for cost in COSTS.values() if cost.canonical}
    assert canonical == set(CANONICAL)
    assert sorted(COSTS) == NAMES


@looped("name", NAMES)
@given(shape=SHAPES)
@examples(10)
def test_each_is_its_formula_for_every_column(lab, name, shape):
    a, y = outputs(name, shape)
    found = lab.numpy(COSTS[name].function(lab.array(a), lab.array(y)))
    expected = [FORMULAS[name](*columns) for columns in zip(a.T, y.T, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


@looped("name", NAMES)
@given(shape=SHAPES)
@examples(10)
def test_the_derivative_is_the_slope_of_the_function(lab, name, shape):
    a, y = outputs(name, shape)
    cost = COSTS[name]
    numerical = np.empty(a.shape)
    for j in range(len(a)):
        nudge = np.zeros(a.shape)
        nudge[j] = 1e-6
        above, below = (
            lab.numpy(cost.function(lab.array(x), lab.array(y))) for x in (a + nudge, a - nudge)
        )
        numerical[j] = (above - below) / 2e-6
    found = lab.numpy(cost.derivative(lab.array(a), lab.array(y)))
    np.testing.assert_allclose(found, numerical, rtol=1e-6, atol=1e-7)


@looped(("σ", "name"), CANONICAL)
@given(shape=SHAPES)
@examples(10)
def test_the_simplified_output_error_is_the_general_one(lab, σ, name, shape):
    n, m, seed = shape
    rng = np.random.default_rng(seed)
    z, y = rng.standard_normal((n, m)), targets(rng, name, n, m)
    cost, σ = COSTS[name], ACTIVATIONS[σ]
    assert cost.is_canonical(σ)
    Z, Y = lab.array(z), lab.array(y)
    a = σ.function(Z)
    δ = lab.backend.empty((n, m), "float64")
    scale = lab.backend.asarray(np.array(1.0), "float64")
    operations = list(cost.output_error(σ, Z, a, Y, scale, δ))
    assert [op.name for op in operations] == ["difference"]
    lab.backend.compile(operations).run(1)
    general = σ.slope(cost.derivative(a, Y), Z if σ.of == "z" else a)
    assert_close(lab.numpy(δ), lab.numpy(a) - y, 1e-15)
    assert_close(lab.numpy(δ), lab.numpy(general), 1e-13, scale=1.0)


@looped(("σ", "name"), PAIRS)
@given(shape=SHAPES)
@examples(6)
def test_the_cost_from_weighted_inputs_is_that_of_the_activations(lab, σ, name, shape):
    n, m, seed = shape
    rng = np.random.default_rng(seed)
    z, y = lab.array(rng.standard_normal((n, m))), lab.array(targets(rng, name, n, m))
    cost, σ = COSTS[name], ACTIVATIONS[σ]
    a = σ.function(z)
    found = lab.numpy(cost.per_example(σ, z, a, y))
    assert_close(found, lab.numpy(cost.function(a, y)), 1e-13)


@looped(("σ", "name"), PAIRS)
def test_the_cost_of_a_batch_is_the_average_of_its_columns(lab, σ, name):
    case = deep(σ, name)
    net = case.network(lab)
    X, Y = case.host_data()
    a = lab.numpy(net.feedforward(lab.array(X)))
    entry = [FORMULAS[name](*columns) for columns in zip(a.T, Y.T, strict=True)]
    gradient = net.backprop(lab.array(X), lab.array(Y))
    assert gradient.cost == pytest.approx(np.mean(entry), rel=1e-12)


@looped("dtype", ["float32", "float64"])
@looped("name", NAMES)
def test_outputs_at_the_ends_of_the_range_have_finite_costs_and_slopes(lab, name, dtype):
    a = np.array([[0, 1, 0, 1, 0.5], [1, 0, 1, 0, 0.5]], dtype)
    y = np.array([[0, 1, 1, 0, 0], [1, 0, 0, 1, 1]], dtype)
    cost = COSTS[name]
    values = lab.numpy(cost.function(lab.array(a), lab.array(y)))
    assert np.isfinite(values).all()
    assert np.isfinite(lab.numpy(cost.derivative(lab.array(a), lab.array(y)))).all()
    # right outputs cost nothing, but for the 1 of a - y log a at a = y = 1; wrong ones a lot
    np.testing.assert_array_equal(values[:2], 1 if name == "poisson" else 0)
    assert (values[2:4] >= (1 if name in REGRESSIONS else 80)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
@pytest.mark.parametrize(
    "σ, name", [("softmax", "softmax_cross_entropy"), ("sigmoid", "binary_cross_entropy")]
)
def test_classes_cost_what_they_do_in_longer_floats_for_logits_of_any_size(lab, σ, name, dtype, offset):
    """With a common offset of the logits, which does not change a softmax."""
    z = np.random.default_rng(0).integers(-80, 80, (3, 50)) / 4 + offset
    if dtype == "float32":
        z = np.concatenate([z, [[2e38, -2e38], [-2e38, -2e38], [2e38, 0]]], axis=1)
    y = np.eye(3)[np.arange(z.shape[1]) % 3].T
    cost = COSTS[name]
    with np.errstate(over="ignore"):
        found = cost.per_example(ACTIVATIONS[σ], *(lab.array(x, dtype) for x in (z, z, y)))
    exact = z.astype(np.longdouble)
    if name == "softmax_cross_entropy":
        exact = exact - exact.max(0)
        expected = (y * (np.log(np.exp(exact).sum(0)) - exact)).sum(0)
    else:
        expected = (np.maximum(exact, 0) - y * exact + np.log1p(np.exp(-abs(exact)))).sum(0)
    # a cost beyond the greatest number is that number
    expected = np.minimum(expected, np.finfo(dtype).max).astype(dtype)
    eps = np.finfo(dtype).eps
    # the greatest exponential of a softmax is 1: its sum has that many digits
    absolute = eps if σ == "softmax" else 1e-40
    np.testing.assert_allclose(lab.numpy(found), expected, rtol=20 * eps, atol=absolute)


@looped("name", NAMES)
@looped("which", [0, 1])
def test_nan_is_never_hidden(lab, name, which):
    arrays = [np.full((2, 3), 0.5), np.full((2, 3), 0.5)]
    arrays[which][0, 1] = np.nan
    a, y = (lab.array(x) for x in arrays)
    cost = COSTS[name]
    assert np.isnan(lab.numpy(cost.function(a, y))).tolist() == [False, True, False]
    assert np.isnan(lab.numpy(cost.derivative(a, y)))[0, 1]
    if cost.function_of_z is not None:
        assert np.isnan(lab.numpy(cost.function_of_z(a, y))).tolist() == [False, True, False]


@pytest.mark.parametrize(("σ", "name"), CANONICAL[-2:])
def test_integer_labels_stand_for_one_hot_targets(lab, σ, name):
    net = bp.Network([3, 4], σ, name, backend=lab.backend, dtype="float64", rng=0)
    X = lab.array(np.random.default_rng(0).standard_normal((3, 6)))
    labels = np.array([0, 3, 1, 1, 2, 0])
    Y = lab.array(np.eye(4)[:, labels])
    expected = net.backprop(X, Y)
    for given_labels in (labels, lab.array(labels), labels.tolist()):
        found = net.backprop(X, given_labels)
        assert found.cost == expected.cost
        np.testing.assert_array_equal(lab.numpy(found.vector), lab.numpy(expected.vector))


def test_one_sigmoid_output_takes_the_labels_0_and_1(lab):
    net = bp.Network([2, 1], "sigmoid", "binary_cross_entropy", backend=lab.backend, rng=0)
    X = lab.array(np.eye(2, dtype="float32"))
    found = net.backprop(X, np.array([1, 0]))
    expected = net.backprop(X, lab.array(np.array([[1, 0]], dtype="float32")))
    np.testing.assert_array_equal(lab.numpy(found.vector), lab.numpy(expected.vector))


@pytest.mark.parametrize("cost", [*REGRESSIONS, "binary_cross_entropy"])
@pytest.mark.parametrize("n", [1, 3])
def test_labels_are_one_hot_targets_where_outputs_are_from_0_to_1(lab, cost, n):
    labels = [True, False, True, True] if n == 1 else [0, 2, 1, 2]
    X = lab.array(np.random.default_rng(0).standard_normal((2, 4)))
    Y = lab.array(np.eye(max(n, 2))[-n:, labels] if n > 1 else np.array([labels], float))
    net = bp.Network([2, n], cost=cost, backend=lab.backend, dtype="float64", rng=0)
    assert net.backprop(X, labels).cost == net.backprop(X, Y).cost
    found = lab.numpy(net.predict(X))
    outputs = lab.numpy(net(X))
    expected = outputs.argmax(axis=0) if n > 1 else outputs[0] >= 0.5
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


def test_a_regression_takes_no_labels_and_predicts_its_outputs(lab):
    for σ, cost in (("linear", "quadratic"), ("tanh", "huber"), ("exponential", "poisson")):
        net = bp.Network([2, 3], σ, cost, backend=lab.backend)
        X = lab.array(np.eye(2, dtype="float32"))
        with pytest.raises(ValueError, match=r"a regression's.*\(3, 2\).*one_hot\(labels, 3\)"):
            net.backprop(X, np.array([0, 2]))
        np.testing.assert_array_equal(lab.numpy(net.predict(X)), lab.numpy(net.feedforward(X)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cost_of_ones_own_works_with_any_activation(lab, dtype):
    rng = np.random.default_rng(0)
    X, Y = lab.array(rng.standard_normal((3, 5))), lab.array(rng.standard_normal((2, 5)))
    for σ in (*ELEMENTWISE, "softmax", ["tanh", "gelu"]):
        net = bp.Network(
            [3, 4, 2],
            ["tanh", σ],
            custom(lab.backend.xp),
            backend=lab.backend,
            dtype=dtype,
            rng=1,
        )
        assert bp.check_gradient(net, X, Y).passed
        a = lab.numpy(net.feedforward(X))
        expected = ((a - lab.numpy(Y)) ** 4).sum(axis=0).mean()
        assert net.backprop(X, Y).cost == pytest.approx(expected, rel=1e-5)


def test_a_cost_of_ones_own_may_have_a_canonical_activation(lab):
    xp = lab.backend.xp
    doubled = bp.Cost(
        "logistic",
        lambda a, y: -xp.sum(y * xp.log(a) + (1 - y) * xp.log(1 - a), axis=-2),
        lambda a, y: (a - y) / (a * (1 - a)),
        canonical="sigmoid",
        within=(0, 1),
    )
    net = bp.Network([3, 2], "sigmoid", doubled, backend=lab.backend, dtype="float64", rng=0)
    assert "difference" in net.plan(4).counts
    rng = np.random.default_rng(0)
    X, Y = lab.array(rng.standard_normal((3, 5))), lab.array(rng.random((2, 5)))
    assert bp.check_gradient(net, X, Y).passed


@looped("name", ["sigmoid", "softmax", "gelu", "matmul"])
def test_a_cost_of_ones_own_may_have_any_name_but_those_of_costs(lab, name):
    """Whatever a backend calls its kernels, it computes the function that it was given."""
    cost = custom(lab.backend.xp, name)
    rng = np.random.default_rng(0)
    X, Y = lab.array(rng.standard_normal((3, 5))), lab.array(rng.standard_normal((2, 5)))
    net = bp.Network([3, 4, 2], "tanh", cost, backend=lab.backend, dtype="float64", rng=0)
    assert bp.check_gradient(net, X, Y).passed


@looped("name", NAMES)
def test_a_built_in_cost_as_files_of_older_versions_hold_it(name):
    """Such as those of skops, which stored no second derivative."""
    old = dataclasses.replace(COSTS[name], second_derivative=None)
    assert resolve(old) is COSTS[name]


@looped("name", NAMES)
def test_a_cost_of_ones_own_can_not_take_the_name_of_a_built_in_one(name):
    with pytest.raises(ValueError, match=f"{name!r} is built in; give a custom one another name"):
        bp.Network([2, 2], cost=custom(np, name))


@pytest.mark.parametrize(
    ("σ", "cost", "message"),
    [
        (
            "sigmoid",
            "softmax_cross_entropy",
            "needs a softmax output layer; the last activation is 's",
        ),
        ("tanh", "binary_cross_entropy", "from 0 to 1; those of 'tanh' go from -1 to 1. Use 'sigmoid'"),
        ("relu", "binary_cross_entropy", "those of 'relu' go from 0 to inf"),
        ([["sigmoid", "tanh"]], "binary_cross_entropy", "those of 'sigmoid, tanh' go from -1 to 1"),
        (bp.Activation("mine", abs, abs), "binary_cross_entropy", "those of 'mine' go from -inf to inf"),
        ("tanh", "poisson", "from 0 to inf; those of 'tanh' go from -1 to 1. Use 'exponential' in the"),
        ("linear", "poisson", "those of 'linear' go from -inf to inf"),
        ([["softplus", "gelu"]], "poisson", "those of 'softplus, gelu' go from -inf to inf"),
        ("tanh", custom(np, within=(0, 1)), "Use one that fits in the last layer, or cost='quadratic'"),
        ("sigmoid", "quadric", "unknown cost 'quadric'. Did you mean 'quadratic'?"),
        ("sigmoid", "hubert", "unknown cost 'hubert'. Did you mean 'huber'?"),
    ],
)
def test_an_output_activation_that_a_cost_is_not_defined_for_is_refused(σ, cost, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bp.Network([2, 2], σ, cost)


def test_what_is_no_cost_is_refused():
    with pytest.raises(TypeError, match=r"cost must be a name or a bpengine\.Cost, got int"):
        bp.Network([2, 2], cost=3)


@looped(
    ("σ", "cost", "Y", "message"),
    [
        ("sigmoid", "binary_cross_entropy", [[0, 1.5], [1, 0]], "Y has values from 0.0 to 1.5"),
        ("sigmoid", "binary_cross_entropy", [[0, 1], [-0.5, 0]], "Y has values from -0.5 to 1.0"),
        ("softmax", "softmax_cross_entropy", [[0, 2], [1, -1]], "Y has values from -1.0 to 2.0"),
        ("softmax", "softmax_cross_entropy", [[0, 0.5], [1, 0.25]], "Y[:, 1] sums to 0.75"),
        ("softmax", "softmax_cross_entropy", [[0, 1], [0, 0]], "Y[:, 0] sums to 0.0"),
        ("exponential", "poisson", [[0, 3], [-1, 0]], "from -1.0 to 3.0; cost 'poisson' takes targets"),
        ("relu", "poisson", [[0, -0.5], [7, 0]], "takes targets from 0 to inf"),
    ],
)
def test_targets_that_a_cost_is_not_defined_for_are_refused(lab, σ, cost, Y, message):
    net = bp.Network([2, 2], σ, cost, backend=lab.backend)
    X, Y = lab.array(np.eye(2)), lab.array(Y, "float64")
    plan = net.plan(2)
    for call in (net.backprop, net.evaluate, plan.load):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(X, Y)


@looped("name", REGRESSIONS)
def test_any_targets_will_do_for_a_regression(lab, name):
    net = bp.Network([2, 2], cost=name, backend=lab.backend)
    assert net.backprop(lab.array(np.eye(2)), lab.array(np.full((2, 2), -7.0))).cost > 0


def test_names_and_objects_are_the_same_thing():
    assert resolve("quadratic") is COSTS["quadratic"] is resolve(COSTS["quadratic"])
    mine = custom(np)
    assert bp.Network([2, 2], cost=mine).cost is mine


@pytest.mark.parametrize("axis", [None, 0, -1], ids=["all", "first", "examples"])
def test_a_cost_of_the_wrong_shape_is_named(lab, axis):
    xp = lab.backend.xp
    wrong = bp.Cost("wrong", lambda a, y: xp.sum((a - y) ** 2, axis=axis), lambda a, y: 2 * (a - y))
    net = bp.Network([2, 3], cost=wrong, backend=lab.backend, dtype="float64")
    X, Y = lab.array(np.ones((2, 5))), lab.array(np.ones((3, 5)))
    if axis == 0:
        net.evaluate(X, Y)  # right for one network; wrong for the stacks of a gradient check
        with pytest.raises(ValueError, match=r"'wrong' gave shape .*one cost for each example"):
            bp.check_gradient(net, X, Y)
    else:
        with pytest.raises(ValueError, match=r"'wrong' gave shape .*one cost for each example"):
            net.evaluate(X, Y)


def test_one_softmax_output_is_refused():
    with pytest.raises(ValueError, match="its softmax is always 1"):
        bp.Network([3, 1], "softmax", "softmax_cross_entropy")


@given(shape=SHAPES)
@examples(10)
def test_huber_is_quadratic_up_to_1_and_an_absolute_error_beyond(lab, shape):
    n, m, seed = shape
    rng = np.random.default_rng(seed)
    y, sign = rng.standard_normal((n, m)), rng.choice([-1.0, 1.0], (n, m))
    near, far = (y + sign * rng.uniform(*ends, (n, m)) for ends in ((0, 1), (1, 100)))
    huber, quadratic, absolute = (COSTS[name] for name in ("huber", "quadratic", "absolute_error"))

    def both(cost, a):
        a, t = lab.array(a), lab.array(y)
        return lab.numpy(cost.function(a, t)), lab.numpy(cost.derivative(a, t))

    for found, expected in zip(both(huber, near), both(quadratic, near), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-16)
    value, slope = both(absolute, far)
    np.testing.assert_allclose(both(huber, far)[0], value - n / 2, rtol=1e-14)
    np.testing.assert_array_equal(both(huber, far)[1], slope)


@looped("dtype", ["float32", "float64"])
@looped("name", REGRESSIONS)
def test_an_output_that_is_right_has_no_error(lab, name, dtype):
    """At the kink of the absolute error too, where its slope is taken to be 0."""
    net = bp.Network([3, 2], "linear", name, backend=lab.backend, dtype=dtype, rng=0)
    X = lab.array(np.random.default_rng(0).standard_normal((3, 4)).astype(dtype))
    gradient = net.backprop(X, net.feedforward(X))
    assert gradient.cost == 0
    np.testing.assert_array_equal(lab.numpy(gradient.vector), 0)


@pytest.mark.parametrize(
    ("name", "best"),
    [("quadratic", 21.9), ("absolute_error", 3.0), ("huber", 17 / 6)],
    ids=REGRESSIONS,
)
def test_what_each_regression_makes_of_an_outlier(lab, name, best):
    """The mean, the median, and what an outlier pulls by no more than 1."""
    y = np.array([[1.0, 2.0, 3.0, 3.5, 100.0]])
    net = bp.Network([1, 1], "linear", name, backend=lab.backend, dtype="float64", rng=0)
    costs = []
    for b in (best - 0.01, best, best + 0.01):
        net.biases[0] = lab.array([[b]])
        gradient = net.backprop(lab.array(np.zeros((1, 5))), lab.array(y))
        costs.append(gradient.cost)
        if b == best:
            assert abs(float(gradient.biases[0][0, 0])) < 1e-14
    assert costs[1] < min(costs[0], costs[2])


def test_poisson_regression_finds_the_maximum_of_the_likelihood(lab):
    """One layer is the generalized linear model with its canonical link: Newton's method agrees."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((2, 200))
    y = rng.poisson(np.exp(np.array([[0.5, -0.8]]) @ X + 0.3)).astype("float64")
    extended, θ = np.vstack([X, np.ones((1, 200))]), np.zeros((1, 3))
    for _ in range(20):
        a = np.exp(θ @ extended)
        θ = θ - (a - y) @ extended.T @ np.linalg.inv((a * extended) @ extended.T)
    net = bp.Network([2, 1], "exponential", "poisson", backend=lab.backend, dtype="float64", rng=0)
    plan = net.plan(200, bp.SGD(0.1))
    plan.load(lab.array(X), lab.array(y))
    plan.run(steps=500)
    assert_close(lab.numpy(net.weights[0]), θ[:, :2], 1e-8)
    assert_close(lab.numpy(net.biases[0]), θ[:, 2:], 1e-8)
    a = lab.numpy(net.feedforward(lab.array(X)))
    assert plan.cost == pytest.approx((a - y * np.log(a)).mean(), rel=1e-12)
    # the fitted means have the sum of the counts, as the intercept of a Poisson regression makes them
    assert a.sum() == pytest.approx(y.sum(), rel=1e-9)


@looped("dtype", ["float32", "float64"])
def test_the_poisson_cost_of_an_exponential_output_is_exact_where_it_underflows(lab, dtype):
    net = bp.Network([3, 3], "exponential", "poisson", backend=lab.backend, dtype=dtype)
    z = np.array([[-1e4, -800, 3], [-95, 0, -1e4], [5, -30, 20]])
    net.vector[...] = 0.0
    net.weights[0][...] = lab.backend.asarray(z, dtype)
    Y = np.array([[2, 0, 7], [1, 1, 0], [0, 3, 4]], dtype)
    gradient = net.backprop(lab.array(np.eye(3, dtype=dtype)), lab.array(Y))
    tolerance = 8 * float(np.finfo(dtype).eps)
    assert gradient.cost == pytest.approx((np.exp(z) - Y * z).sum(axis=0).mean(), rel=tolerance)
    # X is the identity: the gradient of the weights is δ itself
    lab.assert_close(gradient.weights[0], (np.exp(z) - Y) / 3, tolerance)


def test_poisson_takes_relu_outputs(lab):
    """With biases that keep them off 0 here, where log a is too steep for finite differences."""
    net = bp.Network([3, 4, 2], ["tanh", "relu"], "poisson", backend=lab.backend, dtype="float64", rng=0)
    net.biases[1] = lab.array(np.full((2, 1), 3.0))
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((3, 5)), targets(rng, "poisson", 2, 5)
    a = lab.numpy(net.feedforward(lab.array(X)))
    gradient = net.backprop(lab.array(X), lab.array(Y))
    assert gradient.cost == pytest.approx((a - Y * np.log(a)).sum(axis=0).mean(), rel=1e-12)
    lab.assert_close(gradient.biases[1], (1 - Y / a).mean(axis=1, keepdims=True), 1e-12)
    assert bp.check_gradient(net, lab.array(X), lab.array(Y)).passed


@looped("dtype", ["float32", "float64"])
@looped("σ", ["relu", "softplus", "sigmoid", "softmax", ["softplus", "exponential"]])
def test_poisson_outputs_of_0_have_finite_costs_and_gradients(lab, σ, dtype):
    net = bp.Network([2, 2], [σ], "poisson", backend=lab.backend, dtype=dtype, rng=0)
    net.vector[...] = 0.0
    net.weights[0][...] = lab.backend.asarray(np.array([[-1e4, 2.0], [1.0, -1e4]]), dtype)
    X, Y = np.eye(2, dtype=dtype), np.array([[300, 0], [1, 50]], dtype)
    assert (lab.numpy(net.feedforward(lab.array(X))) == 0).any()
    gradient = net.backprop(lab.array(X), lab.array(Y))
    assert np.isfinite(gradient.cost) and gradient.cost > 1000
    assert np.isfinite(lab.numpy(gradient.vector)).all()
