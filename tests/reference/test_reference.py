"""The loop over examples is right by itself, and the engine gives what it gives."""

from __future__ import annotations

import copy
import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    ACTIVATIONS,
    CANONICAL,
    HIDDEN,
    PAIRS,
    Case,
    assert_close,
    cases,
    deep,
    examples,
    flat,
    loop,
    targets,
)

import bpengine as bp
from bpengine.reference import nudges, paths, per_example
from bpengine.reference.diagonal import DiagonalNetwork, slopes
from bpengine.reference.linear import collapse
from bpengine.reference.paths import Path, PathNetwork
from bpengine.reference.per_example import PerExampleNetwork
from bpengine.reference.stacked import StackedNetwork

COSTS = {
    "quadratic": lambda a, y: ((a - y) ** 2).sum() / 2,
    "absolute_error": lambda a, y: np.abs(a - y).sum(),
    "huber": lambda a, y: np.where(np.abs(a - y) <= 1, (a - y) ** 2 / 2, np.abs(a - y) - 0.5).sum(),
    "poisson": lambda a, y: (a - y * np.log(np.maximum(a, 1e-300))).sum(),
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
                saved, costs = array[entry], []
                for nudge in (1e-5, -1e-5):
                    array[entry] = saved + nudge
                    costs.append(COSTS[cost](net.feedforward(x), y))
                array[entry] = saved
                numerical[entry] = (costs[0] - costs[1]) / 2e-5
            np.testing.assert_allclose(nabla[kind][l], numerical, rtol=1e-6, atol=1e-8)


def test_every_activation_and_cost_of_the_engine_has_its_reference():
    from bpengine.model import activations, costs

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
    singles = [net.backprop(X[:, [j]], Y[:, [j]]) for j in range(m)]
    for kind, found in enumerate(net.gradient(X, Y)):
        expected = np.mean([flat(one[kind]) for one in singles], axis=0)
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
    single_examples = PerExampleNetwork(net.weights, net.biases, activations, cost)
    stacked = StackedNetwork(net.weights, net.biases, activations, cost)
    found = stacked.per_example(X, Y, by)
    for j in range(6):
        expected = single_examples.backprop(X[:, j : j + 1], Y[:, j : j + 1])
        for layers, ours in zip(expected, found, strict=True):
            for layer, stack in zip(layers, ours, strict=True):
                np.testing.assert_allclose(stack[j], layer, rtol=1e-12, atol=1e-15)
    single_examples.update_mini_batch(X, Y, 0.5)
    stacked.update_mini_batch(X, Y, 0.5, by)
    for theirs, ours in zip(
        single_examples.weights + single_examples.biases, stacked.weights + stacked.biases, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_a_stack_refuses_softmax():
    with pytest.raises(ValueError, match="elementwise"):
        StackedNetwork([np.ones((2, 2))], [np.ones((2, 1))], ["softmax"], "softmax_cross_entropy")


@pytest.mark.parametrize("by", ["matmul", "einsum"])
@given(case=cases().filter(lambda case: "softmax" not in case.activations))
@examples(15)
def test_the_sum_of_the_stack_is_the_gradient_of_the_batch(lab, by, case):
    net = case.network(lab)
    one = loop(case, net, lab)
    found = rewritten(StackedNetwork, one).gradient(*case.host_data(), by)
    assert_gradients(lab, found, one.gradient(*case.host_data()), net.backprop(*case.data(lab)))


def test_the_stack_is_made_by_matmul_or_einsum():
    net = StackedNetwork([np.ones((2, 2))], [np.ones((2, 1))], ["tanh"], "quadratic")
    with pytest.raises(ValueError, match="by is 'loop', expected 'matmul' or 'einsum'"):
        net.gradient(np.ones((2, 3)), np.ones((2, 3)), "loop")


def rewritten(form, one):
    """The per-example network `one` in another form."""
    other = object.__new__(form)
    vars(other).update(vars(one))
    return other


def assert_gradients(lab, found, expected, engine):
    for ours, theirs, of_engine in zip(found, expected, (engine.weights, engine.biases), strict=True):
        for one, two, three in zip(ours, theirs, of_engine, strict=True):
            # softmax slopes cancel for equal errors: only the rounding of terms near 1 is left
            assert_close(one, two, 1e-12, scale=1e-3)
            assert_close(one, lab.numpy(three), 1e-12, scale=1e-3)


@pytest.mark.parametrize("form", [DiagonalNetwork, PathNetwork])
@given(case=cases(max_layers=4, max_width=3, max_batch=3))
@examples(15)
def test_matrices_multiplied_out_and_sums_over_paths_give_the_gradient(lab, form, case):
    net = case.network(lab)
    one = loop(case, net, lab)
    found = rewritten(form, one).gradient(*case.host_data())
    assert_gradients(lab, found, one.gradient(*case.host_data()), net.backprop(*case.data(lab)))


@pytest.mark.parametrize("σ", ACTIVATIONS)
def test_the_matrix_of_slopes_is_diagonal_but_for_softmax(σ):
    function, slope = per_example.ACTIVATIONS[σ]
    z = np.array([[0.3], [-1.2], [2.0]])
    numerical = np.empty((3, 3))
    for j in range(3):
        nudged = np.zeros((3, 1))
        nudged[j] = 1e-6
        numerical[j] = ((function(z + nudged) - function(z - nudged)) / 2e-6)[:, 0]
    found = slopes(slope, z)
    assert_close(found, numerical, 1e-8)
    assert (np.count_nonzero(found - np.diag(np.diag(found))) == 0) == (σ != "softmax")


@given(case=cases(max_layers=4, max_width=3, max_batch=1), data=st.data())
@examples(30)
def test_every_path_of_a_weight_is_listed_once_and_their_products_add_up_to_its_gradient(case, data):
    net = host(case, PathNetwork)
    layer = data.draw(st.integers(0, case.layers - 1))
    n, inputs = net.weights[layer].shape
    j, k = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, inputs))
    x, y = case.host_data()
    listed = net.paths(x, y, layer, (j, k))
    first = range(n) if case.activations[layer] == "softmax" else [j]
    later = [range(size) for size in case.sizes[layer + 2 :]]
    assert [path.neurons for path in listed] == list(product(first, *later))
    assert len(listed) == net.count(layer) == len(first) * math.prod(case.sizes[layer + 2 :])
    nabla_w, nabla_b = PerExampleNetwork.backprop(net, x, y)
    expected = np.hstack([nabla_w[layer], nabla_b[layer]])
    scale = max(np.abs(expected).max(), sum(abs(path.product) for path in listed))
    assert abs(sum(path.product for path in listed) - expected[j, k]) <= 1e-13 * scale


def test_the_rate_factors_of_a_path_are_the_chapter_s():
    w, b = [np.array([[0.5], [-0.4]]), np.array([[0.3, 0.7]])], [np.zeros((2, 1)), np.zeros((1, 1))]
    net = PathNetwork(w, b, ["sigmoid", "tanh"], "quadratic")
    x, y = np.array([[2.0]]), np.array([[1.0]])
    (path,) = net.paths(x, y, layer=0, entry=(1, 0))
    a = per_example.sigmoid(w[0] @ x)
    out = math.tanh((w[1] @ a).item())
    expected = (a[1, 0] * (1 - a[1, 0]) * 2, (1 - out**2) * 0.7, out - 1)
    assert path.neurons == (1, 0)
    assert path.factors == pytest.approx(expected, rel=1e-14)
    assert path.product == pytest.approx(math.prod(expected), rel=1e-14)
    (of_bias,) = net.paths(x, y, layer=0, entry=(1, 1))
    assert of_bias.factors == pytest.approx((expected[0] / 2, *expected[1:]), rel=1e-14)


def test_a_path_prints_as_its_way_and_its_product():
    assert str(Path((2, 0), (0.5, -2.0, 3.0))) == "w → 2 → 0 → C: 0.5 · -2 · 3 = -3"


def test_too_many_paths_are_refused(monkeypatch):
    net = host(Case([2, 3, 4, 5], ["tanh"] * 3, "quadratic", batch=1), PathNetwork)
    x, y = np.zeros((2, 1)), np.zeros((5, 1))
    assert [net.count(l) for l in range(3)] == [20, 5, 1]
    # 9 · 20 + 16 · 5 + 25 · 1 in all
    monkeypatch.setattr(paths, "MOST_PATHS", 285)
    net.backprop(x, y)
    monkeypatch.setattr(paths, "MOST_PATHS", 284)
    with pytest.raises(ValueError, match=r"sizes \[2, 3, 4, 5\] has 285 paths .* at most 284\. Take"):
        net.backprop(x, y)
    monkeypatch.setattr(paths, "MOST_PATHS", 19)
    with pytest.raises(ValueError, match="20 paths here"):
        net.paths(x, y, 0, (0, 0))
    assert len(net.paths(x, y, 1, (0, 0))) == 5


def test_too_many_paths_are_counted_not_listed():
    net = host(Case([2, *[50] * 9, 1], ["tanh"] * 10, "quadratic"), PathNetwork)
    with pytest.raises(ValueError, match="has 39,062,500,000,000 paths"):
        net.paths(np.zeros((2, 1)), np.zeros((1, 1)), 0, (0, 0))


@pytest.mark.parametrize(
    ("layer", "entry", "message"),
    [
        (2, (0, 0), "layer is 2, expected 0 to 1"),
        (-1, (0, 0), "layer is -1"),
        (0, (4, 0), r"entry is \(4, 0\), expected \(j, k\) with j from 0 to 3 and k from 0 to 1"),
        (0, (0, 3), r"2 for a bias: weights\[0\] has shape \(4, 2\)"),
        (1, (0, -1), r"entry is \(0, -1\)"),
        (1, (-1, 0), r"entry is \(-1, 0\)"),
    ],
)
def test_a_weight_that_is_not_there_is_an_error(layer, entry, message):
    with pytest.raises(IndexError, match=message):
        per_example.check_entry(network("tanh", "quadratic"), layer, entry)


@pytest.mark.parametrize("form", [DiagonalNetwork, PathNetwork])
def test_one_example_is_a_column(form):
    net = rewritten(form, network("tanh", "quadratic"))
    x, y = batch("quadratic", 1)
    for wrong in (x[:, 0], x.T, np.hstack([x, x])):
        with pytest.raises(ValueError, match=r"x has shape .*, expected \(2, 1\): one example"):
            net.backprop(wrong, y)
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected \(3, 1\)"):
        net.backprop(x, y[:, 0])


def test_layers_are_those_of_feedforward():
    net = network("swish", "quadratic")
    x, _ = batch("quadratic", 1)
    zs, activations = net.forward(x)
    np.testing.assert_array_equal(activations[0], x)
    np.testing.assert_array_equal(activations[-1], net.feedforward(x))
    for l, z in enumerate(zs):
        np.testing.assert_array_equal(z, net.weights[l] @ activations[l] + net.biases[l])


def host(case, form=PerExampleNetwork):
    """The network of a case on NumPy, in one of the forms."""
    net = case.network(None, backend="numpy")
    return rewritten(form, loop(case, net, SimpleNamespace(numpy=np.asarray)))


def nudged(case, **arguments):
    """What `nudge` finds in the network and the example of a case."""
    net = host(case)
    x, y = case.host_data()
    return nudges.nudge(net.weights, net.biases, case.activations, case.cost, x, y, **arguments)


@st.composite
def one_weight(draw):
    """A network of whole layers with one example, and a layer and an entry of its weights."""
    cost, σ = draw(st.sampled_from([(cost, σ) for σ, cost in PAIRS]))
    layers = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 4), min_size=layers, max_size=layers))
    sizes.append(draw(st.integers(2, 4)))
    hidden = draw(st.lists(st.sampled_from(HIDDEN), min_size=layers - 1, max_size=layers - 1))
    case = Case(sizes, [*hidden, σ], cost, batch=1, seed=draw(st.integers(0, 2**20)))
    layer = draw(st.integers(0, layers - 1))
    # [w b] of the layer has one column more than w
    entry = draw(st.integers(0, sizes[layer + 1] - 1)), draw(st.integers(0, sizes[layer]))
    return case, layer, entry


@given(chosen=one_weight())
@examples(40)
def test_without_a_nudge_all_is_as_fed_forward_and_the_cost_is_the_engine_s(lab, chosen):
    case, layer, entry = chosen
    found = nudged(case, layer=layer, entry=entry, amounts=[0.0])
    zs, activations = host(case).forward(case.host_data()[0])
    for l in range(case.layers):
        np.testing.assert_array_equal(found.z[l], zs[l])
        np.testing.assert_array_equal(found.a[l], activations[l + 1])
    net = case.network(lab)
    gradient = net.backprop(*case.data(lab))
    np.testing.assert_allclose(found.cost, [gradient.cost], rtol=1e-12)
    np.testing.assert_array_equal(found.predicted, found.cost)
    lab.assert_close(net.feedforward(case.data(lab)[0]), found.a[-1], 1e-12)
    blocks = [*gradient.weights, *gradient.biases]
    nabla = np.hstack([lab.numpy(blocks[l]) for l in (layer, layer + case.layers)])
    assert abs(found.slope - nabla[entry]) <= 1e-12 * np.abs(nabla).max()


@given(chosen=one_weight())
@examples(40)
def test_the_slope_of_the_cost_at_no_nudge_is_the_gradient(chosen):
    case, layer, entry = chosen
    h = 1e-5
    found = nudged(case, layer=layer, entry=entry, amounts=[h, -h])
    above, below = found.cost
    np.testing.assert_allclose((above - below) / (2 * h), found.slope, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.predicted[0] - found.predicted[1], 2 * h * found.slope, atol=1e-14)


@given(chosen=one_weight(), amount=st.floats(-2, 2))
@examples(20)
def test_a_nudge_moves_one_neuron_of_its_layer_and_none_before(chosen, amount):
    case, layer, (j, k) = chosen
    found = nudged(case, layer=layer, entry=(j, k), amounts=[0.0, amount])
    for l in range(layer):
        np.testing.assert_array_equal(found.z[l][:, 0], found.z[l][:, 1])
        np.testing.assert_array_equal(found.a[l][:, 0], found.a[l][:, 1])
    _, activations = host(case).forward(case.host_data()[0])
    expected = np.zeros(case.sizes[layer + 1])
    expected[j] = amount * np.append(activations[layer], 1)[k]
    shift = found.z[layer][:, 1] - found.z[layer][:, 0]
    np.testing.assert_allclose(shift, expected, rtol=1e-12, atol=1e-14)


def test_nudges_are_columns_and_leave_the_network_as_it_was():
    case = Case([2, 4, 3], ["tanh", "sigmoid"], "quadratic", batch=1)
    net, (x, y) = host(case), case.host_data()
    before = copy.deepcopy(net.weights)
    amounts = np.linspace(-1, 1, 7)
    arguments = (net.weights, net.biases, case.activations, case.cost, x, y)
    found = nudges.nudge(*arguments, layer=0, entry=(1, 1), amounts=amounts)
    np.testing.assert_array_equal(flat(net.weights), flat(before))
    np.testing.assert_array_equal(found.amounts, amounts)
    assert [z.shape for z in found.z] == [a.shape for a in found.a] == [(4, 7), (3, 7)]
    assert found.cost.shape == found.predicted.shape == (7,)
    for i, amount in enumerate(amounts):
        net.weights[0][1, 1] = before[0][1, 1] + amount
        np.testing.assert_array_equal(found.a[-1][:, [i]], net.feedforward(x))


@pytest.mark.parametrize(
    ("cost", "σ", "y"),
    [
        ("binary_cross_entropy", "sigmoid", [[0.0], [1.0]]),
        ("softmax_cross_entropy", "softmax", [[0.0], [1.0]]),
    ],
)
def test_the_cost_of_saturated_outputs_loses_no_digits(cost, σ, y):
    w, b, x = [np.array([[0.0], [-1.0]])], [np.zeros((2, 1))], np.array([[1.0]])
    amounts = [50.0, 1000.0]
    found = nudges.nudge(w, b, [σ], cost, x, np.array(y), layer=0, entry=(0, 0), amounts=amounts)
    rest = math.log1p(math.e) if σ == "sigmoid" else 1.0
    np.testing.assert_allclose(found.cost, np.array(amounts) + rest, rtol=1e-14)


def test_an_output_that_is_right_to_rounding_costs_nothing():
    w, b, x = [np.array([[0.0], [-1.0]])], [np.zeros((2, 1))], np.array([[1.0]])
    arguments = (w, b, ["softmax"], "binary_cross_entropy", x, np.array([[1.0], [0.0]]))
    found = nudges.nudge(*arguments, layer=0, entry=(0, 0), amounts=[1000.0])
    assert found.a[0].tolist() == [[1.0], [0.0]] and found.cost.tolist() == [0.0]


def test_every_cost_has_its_values():
    assert set(nudges.OF_A) == set(per_example.COSTS)
    assert {pair for pair in per_example.SIMPLIFIED if pair[0] != "quadratic"} == set(nudges.OF_Z)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": ["tanh", "sine"]}, "unknown activation 'sine', expected one of sigmoid, tanh"),
        ({"cost": "cubic"}, "unknown cost 'cubic', expected one of quadratic"),
        ({"amounts": []}, "one or more finite numbers"),
        ({"amounts": 0.1}, r"shape \(k,\); got 0\.1"),
        ({"amounts": [0.1, math.nan]}, "finite"),
        ({"x": np.ones((2, 3))}, r"x has shape \(2, 3\), expected \(2, 1\)"),
        ({"y": np.ones(3)}, r"y has shape \(3,\), expected \(3, 1\)"),
    ],
)
def test_a_nudge_of_what_does_not_fit_is_an_error(change, message):
    net = network("tanh", "quadratic")
    fitting = {"activations": ["tanh", "tanh"], "cost": "quadratic", "amounts": [0.1]}
    fitting |= {"x": np.ones((2, 1)), "y": np.ones((3, 1)), "layer": 0, "entry": (0, 0)}
    nudges.nudge(net.weights, net.biases, **fitting)
    with pytest.raises(ValueError, match=message):
        nudges.nudge(net.weights, net.biases, **fitting | change)
    with pytest.raises(IndexError, match="layer is 2"):
        nudges.nudge(net.weights, net.biases, **fitting | {"layer": 2})


def test_a_stack_of_linear_networks_collapses_each_for_itself():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((6, *shape)) for shape in [(4, 3), (2, 4), (5, 2)]]
    biases = [rng.standard_normal((6, n, 1)) for n in (4, 2, 5)]
    w, b = collapse(weights, biases)
    for i in range(6):
        one_w, one_b = collapse([w[i] for w in weights], [b[i] for b in biases])
        np.testing.assert_allclose(w[i], one_w, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(b[i], one_b, rtol=1e-13, atol=1e-15)


def test_one_linear_layer_collapses_to_itself_in_its_dtype():
    w, b = np.float32([[1.5, -2.0]]), np.float32([[0.25]])
    found = collapse([w], [b])
    assert [array.dtype for array in found] == [np.float32, np.float32]
    np.testing.assert_array_equal(found[0], w)
    np.testing.assert_array_equal(found[1], b)


@pytest.mark.parametrize(
    ("weights", "biases", "message"),
    [
        ([], [], "got 0 weights and 0 biases"),
        ([(2, 2)], [(2, 1), (2, 1)], "got 1 weights and 2 biases"),
        ([(3, 2), (2, 4)], [(3, 1), (2, 1)], r"weights\[1\] .* \(2, 4\) .* expected \(…, n, 3\)"),
        ([(3, 2)], [(3,)], r"weights\[0\] and biases\[0\] have shapes \(3, 2\) and \(3,\)"),
        ([(3, 2)], [(2, 1)], r"and \(…, n, 1\)"),
    ],
)
def test_layers_that_do_not_follow_each_other_are_an_error(weights, biases, message):
    with pytest.raises(ValueError, match=message):
        collapse([np.ones(shape) for shape in weights], [np.ones(shape) for shape in biases])
