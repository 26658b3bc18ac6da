"""The loop over examples is right by itself, and the engine gives what it gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ACTIVATIONS, CANONICAL, PAIRS, cases, deep, examples, flat, loop, targets

import bpengine as bp
from bpengine.reference import per_example
from bpengine.reference.per_example import PerExampleNetwork
from bpengine.reference.stacked import StackedNetwork

COSTS = {
    "quadratic": lambda a, y: ((a - y) ** 2).sum() / 2,
    "binary_cross_entropy": lambda a, y: -(y * np.log(a) + (1 - y) * np.log(1 - a)).sum(),
    "softmax_cross_entropy": lambda a, y: -(y * np.log(a)).sum(),
}


def network(σ, cost, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [2, 4, 3]
    return PerExampleNetwork(
        [rng.standard_normal(shape) for shape in zip(sizes[1:], sizes, strict=False)],
        [rng.standard_normal((n, 1)) for n in sizes[1:]],
        [σ, σ],
        cost,
    )


def batch(cost, m, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, m)), targets(rng, cost, 3, m)


@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_backprop_of_one_example_is_the_slope_of_its_cost(σ, cost):
    net = network(σ, cost)
    x, y = batch(cost, 1)
    nabla = net.backprop(x, y)
    for kind, arrays in enumerate((net.weights, net.biases)):
        for l, array in enumerate(arrays):
            numerical = np.empty(array.shape)
            for entry in np.ndindex(array.shape):
                kept, costs = array[entry], []
                for nudge in (1e-5, -1e-5):
                    array[entry] = kept + nudge
                    costs.append(COSTS[cost](net.feedforward(x), y))
                array[entry] = kept
                numerical[entry] = (costs[0] - costs[1]) / 2e-5
            np.testing.assert_allclose(nabla[kind][l], numerical, rtol=1e-6, atol=1e-8)


def test_every_activation_and_cost_of_the_engine_has_its_reference():
    from bpengine import activations, costs

    assert set(per_example.ACTIVATIONS) == set(activations.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(per_example.COSTS) == set(costs.COSTS)
    assert {(σ, cost) for cost, σ in per_example.SIMPLIFIED} == set(CANONICAL)


@pytest.mark.parametrize(("σ", "cost"), CANONICAL)
def test_the_simplified_output_error_changes_nothing(σ, cost):
    net = network(σ, cost)
    x, y = batch(cost, 1)
    simplified = net.backprop(x, y)
    net.simplified = False
    np.testing.assert_allclose(flat(simplified[0]), flat(net.backprop(x, y)[0]), rtol=1e-12, atol=1e-13)


@given(m=st.integers(1, 8))
def test_the_gradient_of_a_batch_is_the_average_over_its_columns(m):
    net = network("sigmoid", "quadratic")
    X, Y = batch("quadratic", m)
    each = [net.backprop(X[:, [j]], Y[:, [j]]) for j in range(m)]
    for kind, found in enumerate(net.gradient(X, Y)):
        expected = np.mean([flat(one[kind]) for one in each], axis=0)
        np.testing.assert_allclose(flat(found), expected, rtol=1e-12, atol=1e-15)


def test_update_mini_batch_goes_down_the_gradient():
    net = network("tanh", "quadratic")
    X, Y = batch("quadratic", 5)
    w, b = copy.deepcopy(net.weights), copy.deepcopy(net.biases)
    nabla_w, nabla_b = net.gradient(X, Y)
    net.update_mini_batch(X, Y, 0.3)
    np.testing.assert_array_equal(flat(net.weights), flat(w) - 0.3 * flat(nabla_w))
    np.testing.assert_array_equal(flat(net.biases), flat(b) - 0.3 * flat(nabla_b))


def test_fit_visits_every_example_once_an_epoch_in_the_order_of_the_generator(monkeypatch):
    net = network("sigmoid", "quadratic")
    X, Y = batch("quadratic", 7)
    seen = []
    monkeypatch.setattr(net, "update_mini_batch", lambda X, Y, η: seen.append((X, Y, η)))
    net.fit(X, Y, epochs=2, batch_size=3, learning_rate=0.5, rng=np.random.default_rng(4))
    rng = np.random.default_rng(4)
    order = np.concatenate([rng.permutation(7), rng.permutation(7)])
    assert [x.shape[1] for x, _, _ in seen] == [3, 3, 1, 3, 3, 1]
    assert {η for _, _, η in seen} == {0.5}
    np.testing.assert_array_equal(np.hstack([x for x, _, _ in seen]), X[:, order])
    np.testing.assert_array_equal(np.hstack([y for _, y, _ in seen]), Y[:, order])


def test_weights_and_biases_are_copies():
    w, b = [np.ones((1, 2))], [np.ones((1, 1))]
    net = PerExampleNetwork(w, b, ["linear"], "quadratic")
    net.update_mini_batch(np.ones((2, 1)), np.zeros((1, 1)), 0.1)
    assert w[0].tolist() == [[1, 1]] and b[0].tolist() == [[1]]


@given(case=cases())
@examples(40)
def test_the_engine_gives_the_average_of_the_loop(lab, case):
    net = case.network(lab)
    X, Y = case.host_data()
    one = loop(case, net, lab)
    outputs = [one.feedforward(X[:, [j]]) for j in range(case.batch)]
    lab.assert_close(net.feedforward(lab.array(X)), np.hstack(outputs), 1e-12)
    gradient = net.backprop(*case.data(lab))
    nabla_w, nabla_b = one.gradient(X, Y)
    for l in range(case.layers):
        lab.assert_close(gradient.weights[l], nabla_w[l], 1e-12)
        lab.assert_close(gradient.biases[l], nabla_b[l], 1e-12)


@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_the_engine_gives_the_average_of_the_loop_for_every_pair(lab, σ, cost):
    case = deep(σ, cost)
    net = case.network(lab)
    gradient = net.backprop(*case.data(lab))
    nabla_w, nabla_b = loop(case, net, lab).gradient(*case.host_data())
    for l in range(case.layers):
        lab.assert_close(gradient.weights[l], nabla_w[l], 1e-12)
        lab.assert_close(gradient.biases[l], nabla_b[l], 1e-12)


def test_ten_epochs_on_concentric_circles_give_the_same_weights(lab):
    X, labels = bp.datasets.circles(1000, rng=0)
    X, Y = X.astype("float64"), labels[np.newaxis].astype("float64")
    net = bp.Network([2, 3, 3, 1], backend=lab.backend, dtype="float64", rng=0)
    one = PerExampleNetwork(
        [lab.numpy(w) for w in net.weights],
        [lab.numpy(b) for b in net.biases],
        ["sigmoid"] * 3,
        "quadratic",
    )
    start = lab.numpy(net.vector).copy()
    one.fit(X, Y, epochs=10, batch_size=50, learning_rate=0.01, rng=copy.deepcopy(net.rng))
    net.fit(lab.array(X), lab.array(Y), epochs=10, batch_size=50, optimizer=bp.SGD(0.01), progress=False)
    assert np.abs(lab.numpy(net.vector) - start).max() > 1e-3
    for l in range(3):
        lab.assert_close(net.weights[l], one.weights[l], 1e-12)
        lab.assert_close(net.biases[l], one.biases[l], 1e-12)


@pytest.mark.parametrize("by", ["matmul", "einsum"])
@pytest.mark.parametrize(
    ("last", "cost"),
    [("tanh", "quadratic"), ("linear", "quadratic"), ("sigmoid", "binary_cross_entropy")],
)
def test_the_stack_of_per_example_gradients_holds_each_one_s(by, last, cost):
    activations = ["gelu", "sigmoid", last]
    net = bp.Network([4, 5, 3, 2], activations, cost, dtype="float64", rng=3)
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((4, 6)), rng.random((2, 6))
    one_by_one = PerExampleNetwork(net.weights, net.biases, activations, cost)
    stacked = StackedNetwork(net.weights, net.biases, activations, cost)
    found = stacked.per_example(X, Y, by)
    for j in range(6):
        expected = one_by_one.backprop(X[:, j : j + 1], Y[:, j : j + 1])
        for layers, ours in zip(expected, found, strict=True):
            for layer, stack in zip(layers, ours, strict=True):
                np.testing.assert_allclose(stack[j], layer, rtol=1e-12, atol=1e-15)
    one_by_one.update_mini_batch(X, Y, 0.5)
    stacked.update_mini_batch(X, Y, 0.5, by)
    for theirs, ours in zip(
        one_by_one.weights + one_by_one.biases, stacked.weights + stacked.biases, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_a_stack_refuses_softmax():
    with pytest.raises(ValueError, match="elementwise"):
        StackedNetwork([np.ones((2, 2))], [np.ones((2, 1))], ["softmax"], "softmax_cross_entropy")
