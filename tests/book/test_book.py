"""The book's programs: the numbers of a loop over examples, and their prints."""
# ruff: noqa: NPY002  the book's programs draw from np.random

from __future__ import annotations

import copy
import doctest
import inspect
import json
import pickle
import random
import struct
import sys
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpengine import book, datasets
from bpengine.backends import NumPyBackend
from bpengine.book import costs, mnist_loader, network, network2

ROOT = Path(__file__).resolve().parents[2]
COSTS = [costs.QuadraticCost, costs.CrossEntropyCost]


class Quartic:
    """A custom cost, whose functions take a single column."""

    @staticmethod
    def fn(a, y):
        return np.linalg.norm((a - y) ** 2) ** 2

    @staticmethod
    def delta(z, a, y):
        assert z.shape == a.shape == y.shape == (len(z), 1)
        return 4 * (a - y) ** 3 * a * (1 - a)


class Loop:
    """What the book describes, one example at a time: what the engine's numbers are checked by."""

    def __init__(self, sizes, cost, scaled):
        self.b = [np.random.randn(n, 1) for n in sizes[1:]]
        self.w = [np.random.randn(n, k) / (np.sqrt(k) if scaled else 1) for k, n in pairwise(sizes)]
        self.cost = cost

    def forward(self, x):
        zs, outputs = [], [x]
        for w, b in zip(self.w, self.b, strict=True):
            zs.append(w @ outputs[-1] + b)
            outputs.append(1 / (1 + np.exp(-zs[-1])))
        return zs, outputs

    def gradient(self, x, y):
        zs, outputs = self.forward(x)
        z, a = zs[-1], outputs[-1]
        if self.cost is Quartic:
            delta = Quartic.delta(z, a, y)
        else:
            delta = (a - y) * (a * (1 - a) if self.cost is costs.QuadraticCost else 1)
        by_b, by_w = [delta], [delta @ outputs[-2].T]
        for l in range(len(self.w) - 1, 0, -1):
            a = outputs[l]
            delta = self.w[l].T @ delta * a * (1 - a)
            by_b.insert(0, delta)
            by_w.insert(0, delta @ outputs[l - 1].T)
        return by_b, by_w

    def step(self, batch, eta, shrink=1.0):
        gradients = [self.gradient(x, y) for x, y in batch]
        for l in range(len(self.w)):
            total_b, total_w = (sum(g[which][l] for g in gradients) for which in (0, 1))
            self.b[l] = self.b[l] - eta / len(batch) * total_b
            self.w[l] = shrink * self.w[l] - eta / len(batch) * total_w

    def train(self, pairs, epochs, m, eta, lmbda=0.0):
        pairs, n = list(pairs), len(pairs)
        for _ in range(epochs):
            random.shuffle(pairs)
            for start in range(0, n, m):
                self.step(pairs[start : start + m], eta, 1 - eta * lmbda / n)
        return pairs

    def total_cost(self, pairs, lmbda):
        losses = []
        for x, y in pairs:
            a = self.forward(x)[1][-1]
            if self.cost is costs.CrossEntropyCost:
                losses.append(-(y * np.log(a) + (1 - y) * np.log(1 - a)).sum())
            else:
                losses.append(
                    0.5 * ((a - y) ** 2).sum() if self.cost is not Quartic else Quartic.fn(a, y)
                )
        return np.mean(losses) + lmbda / (2 * len(pairs)) * sum((w**2).sum() for w in self.w)

    def accuracy(self, pairs):
        return sum(self.forward(x)[1][-1].argmax() == y for x, y in pairs)


def column_of(label, n):
    y = np.zeros((n, 1))
    y[label] = 1
    return y


def data(sizes, count, seed=0):
    """Pairs with columns, and the same with labels."""
    rng = np.random.default_rng(seed)
    xs = [rng.standard_normal((sizes[0], 1)) for _ in range(count)]
    labels = [int(label) for label in rng.integers(0, sizes[-1], count)]
    return (
        [(x, column_of(label, sizes[-1])) for x, label in zip(xs, labels, strict=True)],
        list(zip(xs, labels, strict=True)),
    )


def pair(sizes, cost=costs.QuadraticCost, program=2, seed=0):
    """Our network and the loop, from the same seed."""
    np.random.seed(seed)
    net = network.Network(sizes) if program == 1 else network2.Network(sizes, cost)
    np.random.seed(seed)
    return net, Loop(sizes, cost, scaled=program == 2)


def assert_equal(net, loop, tolerance=1e-11):
    for found, expected in ((net.weights, loop.w), (net.biases, loop.b)):
        assert [x.shape for x in found] == [x.shape for x in expected]
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.abs(y).max())


SIZES = st.lists(st.integers(2, 6), min_size=2, max_size=4)


def test_the_default_start_does_not_depend_on_the_other_initializer():
    class Large(network2.Network):
        def large_weight_initializer(self):
            raise AssertionError("the book's default_weight_initializer does not call it")

    np.random.seed(0)
    net = Large([2, 3, 1])
    np.random.seed(0)
    assert_equal(net, Loop([2, 3, 1], None, scaled=True), 0.0)


@settings(max_examples=40)
@given(SIZES, st.integers(0, 2**31))
def test_a_seed_gives_the_same_start(sizes, seed):
    for program in (1, 2):
        net, loop = pair(sizes, program=program, seed=seed)
        assert_equal(net, loop, 0.0)
        assert (net.num_layers, net.sizes) == (len(sizes), sizes)
    np.random.seed(seed)
    net.large_weight_initializer()
    np.random.seed(seed)
    assert_equal(net, Loop(sizes, None, scaled=False), 0.0)
    assert {x.dtype for x in (*net.weights, *net.biases)} == {np.dtype("float64")}


@settings(max_examples=60)
@given(
    sizes=SIZES,
    count=st.integers(1, 12),
    epochs=st.integers(0, 3),
    m=st.integers(1, 14),
    eta=st.floats(-1, 5),
    seed=st.integers(0, 1000),
)
def test_the_first_program_trains_as_the_loop_does(sizes, count, epochs, m, eta, seed):
    net, loop = pair(sizes, program=1, seed=seed)
    pairs, _ = data(sizes, count, seed)
    random.seed(seed)
    order = loop.train(pairs, epochs, m, eta)
    random.seed(seed)
    assert net.SGD(pairs, epochs, m, eta) is None
    assert_equal(net, loop)
    assert all(ours is theirs for ours, theirs in zip(pairs, order, strict=True))  # in place


@settings(max_examples=60)
@given(
    sizes=SIZES,
    count=st.integers(1, 12),
    epochs=st.integers(0, 3),
    m=st.integers(1, 14),
    eta=st.floats(-1, 2),
    lmbda=st.floats(0, 2) | st.just(0),
    cost=st.sampled_from([*COSTS, Quartic]),
    seed=st.integers(0, 1000),
)
def test_the_second_program_trains_as_the_loop_does(sizes, count, epochs, m, eta, lmbda, cost, seed):
    net, loop = pair(sizes, cost, seed=seed)
    pairs, _ = data(sizes, count, seed)
    random.seed(seed)
    order = loop.train(pairs, epochs, m, eta, lmbda)
    random.seed(seed)
    assert net.SGD(pairs, epochs, m, eta, lmbda) == ([], [], [], [])
    assert_equal(net, loop)
    assert all(ours is theirs for ours, theirs in zip(pairs, order, strict=True))


@pytest.mark.parametrize("cost", [*COSTS, Quartic])
def test_one_step_and_one_gradient(cost):
    net, loop = pair([4, 3, 2], cost)
    pairs, _ = data([4, 3, 2], 7)
    for found, expected in zip(net.backprop(*pairs[0]), loop.gradient(*pairs[0]), strict=True):
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12)
    for batch, eta, lmbda, n in ((pairs[:4], 0.5, 0.3, 7), (pairs[4:], 2.0, 0.0, 7), (pairs, 1, 5, 50)):
        net.update_mini_batch(batch, eta, lmbda, n)
        loop.step(batch, eta, 1 - eta * lmbda / n)
        assert_equal(net, loop, 1e-13)
    np.testing.assert_allclose(net.feedforward(pairs[0][0]), loop.forward(pairs[0][0])[1][-1])


def test_one_step_of_the_first_program():
    net, loop = pair([4, 3, 2], program=1)
    pairs, _ = data([4, 3, 2], 5)
    net.update_mini_batch(iter(pairs), 3.0)
    loop.step(pairs, 3.0)
    assert_equal(net, loop, 1e-13)
    (x, y), nabla = pairs[0], loop.gradient(*pairs[0])
    nabla_b, nabla_w = net.backprop(x, y)
    np.testing.assert_allclose(nabla_b[0], nabla[0][0])
    np.testing.assert_allclose(nabla_w[1], nabla[1][1])
    assert (net.cost_derivative(x, x / 2) == x / 2).all()


def test_inputs_side_by_side_are_fed_forward_too():
    net, _ = pair([3, 4, 2])
    X = np.random.default_rng(0).random((3, 5))
    losses = np.hstack([net.feedforward(X[:, j : j + 1]) for j in range(5)])
    np.testing.assert_allclose(net.feedforward(X), losses)


def test_data_of_other_numbers_and_kinds():
    net, loop = pair([2, 3, 1])
    columns = [(np.array([[a], [b]]), np.array([[float(a ^ b)]])) for a in (0, 1) for b in (0, 1)]
    random.seed(1)
    loop.train(columns, 3, 2, 1.0)
    others = [
        [(x, y) for x, y in columns],
        [(x.tolist(), int(y.item())) for x, y in columns],
        [[x.astype("float32"), y.astype(bool)] for x, y in columns],
        tuple(columns),
        zip(*zip(*columns, strict=True), strict=True),
    ]
    start = net.weights, net.biases
    for training_data in others:
        net.weights, net.biases = start
        random.seed(1)
        net.SGD(training_data, 3, 2, 1.0)
        assert_equal(net, loop)
    assert net.total_cost(others[1], 0.0) == pytest.approx(loop.total_cost(columns, 0.0))
    assert net.total_cost(others[1], 0.0, convert=True) == net.total_cost(others[1], 0.0)


# prints and what is returned


def test_prints_of_the_first_program(capsys):
    net, loop = pair([4, 3, 3], program=1)
    pairs, test = data([4, 3, 3], 20)
    random.seed(0)
    net.SGD(pairs, 2, 6, 1.0, test_data=iter(test))
    random.seed(0)
    expected = ""
    shuffled = data([4, 3, 3], 20)[0]
    for epoch in range(2):
        shuffled = loop.train(shuffled, 1, 6, 1.0)
        expected += f"Epoch {epoch}: {loop.accuracy(test)} / 20\n"
    assert capsys.readouterr().out == expected
    assert net.evaluate(test) == loop.accuracy(test)
    assert isinstance(net.evaluate(test), int)
    net.SGD(pairs, 2, 6, 1.0)
    assert capsys.readouterr().out == "Epoch 0 complete\nEpoch 1 complete\n"


@pytest.mark.parametrize("cost", [*COSTS, Quartic])
def test_monitoring(capsys, cost):
    sizes, lmbda = [4, 3, 3], 0.7
    net, loop = pair(sizes, cost)
    pairs, labelled = data(sizes, 20)
    columns, held = data(sizes, 9, seed=1)
    random.seed(0)
    found = net.SGD(pairs, 3, 6, 1.0, lmbda, zip(*zip(*held, strict=True), strict=True), *[True] * 4)
    text = capsys.readouterr().out
    random.seed(0)
    expected: list[list] = [[], [], [], []]
    shuffled = data(sizes, 20)[0]
    for _ in range(3):
        shuffled = loop.train(shuffled, 1, 6, 1.0, lmbda)
        expected[0].append(loop.total_cost(columns, lmbda))
        expected[1].append(loop.accuracy(held))
        expected[2].append(loop.total_cost(pairs, lmbda))
        expected[3].append(loop.accuracy(labelled))
    assert found[0] == pytest.approx(expected[0], rel=1e-11)
    assert found[2] == pytest.approx(expected[2], rel=1e-11)
    assert [found[1], found[3]] == [expected[1], expected[3]]
    assert json.loads(json.dumps(found)) == list(found)
    assert text == "".join(
        f"Epoch {j} training complete\n"
        f"Cost on training data: {found[2][j]}\n"
        f"Accuracy on training data: {found[3][j]} / 20\n"
        f"Cost on evaluation data: {found[0][j]}\n"
        f"Accuracy on evaluation data: {found[1][j]} / 9\n\n"
        for j in range(3)
    )


def test_without_monitoring_only_the_epochs_are_printed(capsys):
    net, _ = pair([4, 3, 3])
    pairs, test = data([4, 3, 3], 5)
    assert net.SGD(pairs, 2, 2, 1.0, evaluation_data=test) == ([], [], [], [])
    assert capsys.readouterr().out == "Epoch 0 training complete\n\nEpoch 1 training complete\n\n"


def test_costs_and_accuracies_of_data():
    net, loop = pair([4, 3, 3], costs.CrossEntropyCost)
    columns, labelled = data([4, 3, 3], 11)
    for lmbda in (0, 0.0, 3):
        expected = pytest.approx(loop.total_cost(columns, lmbda), rel=1e-12)
        assert net.total_cost(iter(columns), lmbda) == expected
        assert net.total_cost(labelled, lmbda, convert=True) == expected
        assert isinstance(net.total_cost(columns, lmbda), float)
    assert net.accuracy(columns, convert=True) == net.accuracy(labelled) == loop.accuracy(labelled)
    of_arrays = [(x, np.int64(y)) for x, y in labelled]
    assert net.accuracy(of_arrays) == loop.accuracy(labelled)


def test_a_saturated_output_has_a_finite_cost():
    net = network2.Network([1, 1])
    net.weights, net.biases = [np.array([[800.0]])], [np.array([[0.0]])]
    assert net.total_cost([(np.ones((1, 1)), 0)], 0.0) == pytest.approx(800)


@pytest.mark.parametrize(
    ("accuracies", "n", "epochs"),
    [
        ([1, 2, 2, 1, 9, 9], 2, 4),
        ([0, 0, 0], 2, 2),
        ([3, 1, 4, 4, 4, 5], 3, 6),
        ([3, 2, 4, 4], 1, 2),
        ([1, 1, 1, 1], 0, 4),
    ],
)
@pytest.mark.parametrize("on", ["training", "evaluation"])
def test_early_stopping(accuracies, n, epochs, on):
    class Scripted(network2.Network):
        seen = iter(accuracies)

        def accuracy(self, data, convert=False):
            return next(self.seen)

    net = Scripted([2, 2])
    pairs, test = data([2, 2], 3)
    lists = net.SGD(
        pairs,
        len(accuracies),
        2,
        0.1,
        evaluation_data=test,
        early_stopping_n=n,
        **{f"monitor_{on}_accuracy": True},
    )
    assert lists[1 if on == "evaluation" else 3] == accuracies[:epochs]


# parameters that are read and changed


def test_what_was_read_stays_and_what_is_written_counts():
    net, loop = pair([3, 4, 2])
    pairs, _ = data([3, 4, 2], 6)
    weights, first = net.weights, net.weights[0]
    saved = [w.copy() for w in weights]
    net.update_mini_batch(pairs, 1.0, 0.0, 6)
    net.SGD(pairs, 1, 6, 1.0)
    assert all((w == k).all() for w, k in zip(weights, saved, strict=True))
    assert first is weights[0] and not np.allclose(net.weights[0], first)
    trained, bias = net.weights[0], net.biases[0]
    values, bias_values = trained.copy(), bias.copy()
    net.update_mini_batch(pairs, 1.0, 0.0, 6)
    net.SGD(pairs, 1, 6, 1.0)
    assert (trained == values).all() and (bias == bias_values).all()

    net.weights, net.biases = weights, [b * 0 + 0.25 for b in net.biases]
    net.weights[1] = np.full((2, 4), 0.5)
    net.weights[0][2, 1] = 7.0
    net.biases[0] += 1
    loop.w = [w.copy() for w in weights]
    loop.b = [np.full((4, 1), 1.25), np.full((2, 1), 0.25)]
    assert loop.w[0][2, 1] == 7 and loop.w[1][0, 0] == 0.5
    x, y = pairs[0]
    np.testing.assert_allclose(net.feedforward(x), loop.forward(x)[1][-1], rtol=1e-12)
    np.testing.assert_allclose(net.backprop(x, y)[1][0], loop.gradient(x, y)[1][0], rtol=1e-12)
    assert net.total_cost(pairs, 0.1) == pytest.approx(loop.total_cost(pairs, 0.1), rel=1e-12)
    random.seed(0)
    loop.train(pairs, 2, 4, 0.5)
    random.seed(0)
    net.SGD(pairs, 2, 4, 0.5)
    assert_equal(net, loop)


def test_the_cost_can_be_changed():
    net, _ = pair([3, 4, 2])
    pairs, _ = data([3, 4, 2], 6)
    net.update_mini_batch(pairs, 1.0, 0.0, 6)
    other = copy.deepcopy(net)
    net.cost = costs.CrossEntropyCost
    _, loop = pair([3, 4, 2], costs.CrossEntropyCost)
    loop.w, loop.b = [w.copy() for w in other.weights], [b.copy() for b in other.biases]
    net.update_mini_batch(pairs, 1.0, 0.0, 6)
    loop.step(pairs, 1.0)
    assert_equal(net, loop, 1e-13)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_networks_of_their_own(again):
    net, loop = pair([3, 4, 2])
    pairs, _ = data([3, 4, 2], 6)
    net.update_mini_batch(pairs, 1.0, 0.0, 6)
    other = again(net)
    net.update_mini_batch(pairs, 1.0, 0.0, 6)
    loop.step(pairs, 1.0)
    assert_equal(other, loop, 1e-13)
    other.update_mini_batch(pairs, 1.0, 0.0, 6)
    loop.step(pairs, 1.0)
    assert_equal(other, loop, 1e-13)
    assert_equal(net, loop, 1e-13)


def test_batches_of_many_sizes():
    net, loop = pair([3, 4, 2])
    pairs, _ = data([3, 4, 2], 30)
    for m in [*range(1, 30), 1]:
        net.update_mini_batch(pairs[:m], 0.1, 0.0, 30)
        loop.step(pairs[:m], 0.1)
    assert_equal(net, loop)
    assert len(net._plans) <= 8


def test_another_learning_rate_and_regularization_at_each_step():
    net, loop = pair([3, 4, 2])
    pairs, _ = data([3, 4, 2], 5)
    for eta, lmbda in ((0.5, 0.0), (0.1, 2.0), (3.0, 1.0), (1.0, 0.0), (0.0, 0.5)):
        net.update_mini_batch(pairs, eta, lmbda, 5)
        loop.step(pairs, eta, 1 - eta * lmbda / 5)
        nabla_w = loop.gradient(*pairs[0])[1]
        np.testing.assert_allclose(net.backprop(*pairs[0])[1][0], nabla_w[0], rtol=1e-11)
    assert_equal(net, loop)


def test_an_interrupt_keeps_the_steps_so_far(monkeypatch):
    net, loop = pair([3, 4, 2])
    pairs, _ = data([3, 4, 2], 10)
    random.seed(3)
    shuffled = list(pairs)
    random.shuffle(shuffled)
    loop.step(shuffled[:2], 1.0)
    loop.step(shuffled[2:4], 1.0)
    take, calls = NumPyBackend.take, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        take(self, *arguments)

    monkeypatch.setattr(NumPyBackend, "take", interrupted)
    random.seed(3)
    with pytest.raises(KeyboardInterrupt):
        net.SGD(pairs, 1, 2, 1.0)
    assert_equal(net, loop)


# redefined methods


@pytest.mark.parametrize("program", [1, 2])
@pytest.mark.parametrize("way", ["subclass", "instance"])
def test_methods_of_a_readers_own_are_called(capsys, program, way):
    module = (network, network2)[program - 1]
    calls = []

    def noting(name):
        ours = getattr(module.Network, name)

        def method(self, *arguments, **options):
            calls.append(name)
            return ours(self, *arguments, **options)

        return method

    names = ["backprop", "update_mini_batch", "feedforward"]
    names += ["evaluate"] if program == 1 else ["accuracy", "total_cost"]
    for name in names:
        net, loop = pair([3, 4, 2], program=program)
        if way == "subclass":
            net.__class__ = type("Own", (module.Network,), {name: noting(name)})
        else:
            setattr(net, name, types.MethodType(noting(name), net))
        pairs, test = data([3, 4, 2], 6)
        lmbda = 0.3 * (program == 2)
        random.seed(5)
        loop.train(pairs, 2, 4, 0.5, lmbda)
        random.seed(5)
        calls.clear()
        if program == 1:
            net.SGD(pairs, 2, 4, 0.5, test)
            assert capsys.readouterr().out.endswith(f"Epoch 1: {loop.accuracy(test)} / 6\n")
        else:
            lists = net.SGD(pairs, 2, 4, 0.5, lmbda, test, True, True)
            assert lists[0][-1] == pytest.approx(loop.total_cost(pairs, lmbda))
            assert lists[1][-1] == loop.accuracy(test)
        assert_equal(net, loop)
        assert set(calls) == {name}
        expected = {"backprop": 12, "update_mini_batch": 4, "feedforward": 12 * program}
        assert len(calls) == expected.get(name, 2)


def test_a_cost_derivative_of_a_readers_own():
    class Custom(network.Network):
        def cost_derivative(self, output_activations, y):
            assert output_activations.shape == y.shape == (2, 1)
            return 4 * (output_activations - y) ** 3

    net, loop = pair([3, 4, 2], Quartic, program=1)
    local = Custom([3, 4, 2])
    local.weights, local.biases = net.weights, net.biases
    pairs, _ = data([3, 4, 2], 6)
    random.seed(0)
    loop.train(pairs, 2, 4, 0.5)
    random.seed(0)
    local.SGD(pairs, 2, 4, 0.5)
    assert_equal(local, loop)
    np.testing.assert_allclose(local.backprop(*pairs[0])[1][0], loop.gradient(*pairs[0])[1][0])


def test_a_cost_object_may_be_an_instance():
    net, loop = pair([3, 4, 2], Quartic)
    net.cost = Quartic()
    pairs, _ = data([3, 4, 2], 6)
    net.update_mini_batch(pairs, 0.5, 0.0, 6)
    loop.step(pairs, 0.5)
    assert_equal(net, loop, 1e-13)


# functions and classes beside the networks


def test_functions():
    z = np.array([[-1000.0, -1.0], [0.0, 3.0]])
    σ = 1 / (1 + np.exp(-np.maximum(z, -700)))
    for module in (book, network, network2):
        np.testing.assert_allclose(module.sigmoid(z), σ, atol=1e-300)
        np.testing.assert_allclose(module.sigmoid_prime(z), σ * (1 - σ), atol=1e-300)
        assert module.sigmoid(0) == 0.5
    for module in (book, network2, mnist_loader):
        assert (module.vectorized_result(3) == np.eye(10)[:, 3:4]).all()


def test_cost_classes():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((4, 1)), rng.random((4, 1))
    a = costs.sigmoid(z)
    quadratic, cross = COSTS
    assert quadratic.fn(a, y) == pytest.approx(np.linalg.norm(a - y) ** 2 / 2)
    assert cross.fn(a, y) == pytest.approx(-(y * np.log(a) + (1 - y) * np.log(1 - a)).sum())
    np.testing.assert_allclose(quadratic.delta(z, a, y), (a - y) * a * (1 - a))
    np.testing.assert_allclose(cross.delta(None, a, y), a - y)
    ends = np.array([[0.0], [1.0]])
    assert cross.fn(ends, ends) == 0.0
    assert cross.fn(np.array([[0.0], [0.5]]), ends) == pytest.approx(np.log(2))
    assert cross.fn(ends, 1 - ends) == np.finfo(float).max
    for cost in COSTS:
        assert isinstance(cost.fn(a, y), float)


SIGNATURES = {
    network.Network: "self, sizes",
    network.Network.feedforward: "self, a",
    network.Network.SGD: "self, training_data, epochs, mini_batch_size, eta, test_data",
    network.Network.update_mini_batch: "self, mini_batch, eta",
    network.Network.backprop: "self, x, y",
    network.Network.evaluate: "self, test_data",
    network.Network.cost_derivative: "self, output_activations, y",
    network2.Network: "self, sizes, cost",
    network2.Network.SGD: "self, training_data, epochs, mini_batch_size, eta, lmbda, evaluation_data, "
    "monitor_evaluation_cost, monitor_evaluation_accuracy, monitor_training_cost, "
    "monitor_training_accuracy, early_stopping_n",
    network2.Network.update_mini_batch: "self, mini_batch, eta, lmbda, n",
    network2.Network.accuracy: "self, data, convert",
    network2.Network.total_cost: "self, data, lmbda, convert",
    network2.Network.save: "self, filename",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signatures(function):
    code = function.__init__ if inspect.isclass(function) else function
    assert ", ".join(inspect.signature(code).parameters) == SIGNATURES[function]


def test_the_package_has_the_second_programs_names():
    assert book.Network is network2.Network
    assert set(network2.__all__) < set(book.__all__)
    assert all(getattr(book, name) is getattr(network2, name) for name in network2.__all__)


# files


@pytest.mark.parametrize("cost", COSTS)
def test_save_and_load(tmp_path, cost):
    net, loop = pair([3, 4, 2], cost)
    path = tmp_path / "net"
    net.save(str(path))
    written = json.loads(path.read_text())
    assert written == {
        "sizes": [3, 4, 2],
        "weights": [w.tolist() for w in loop.w],
        "biases": [b.tolist() for b in loop.b],
        "cost": cost.__name__,
    }
    again = network2.load(path)
    assert_equal(again, loop, 0.0)
    assert (again.cost, again.sizes, again.num_layers) == (cost, [3, 4, 2], 3)
    pairs, _ = data([3, 4, 2], 6)
    again.update_mini_batch(pairs, 0.5, 0.1, 6)
    loop.step(pairs, 0.5, 1 - 0.5 * 0.1 / 6)
    assert_equal(again, loop)


def test_a_cost_of_a_readers_own_in_a_file(tmp_path):
    net, loop = pair([3, 4, 2], Quartic)
    net.save(tmp_path / "net")
    with pytest.raises(ValueError, match="cost 'Quartic' is none of QuadraticCost, CrossEntropyCost"):
        network2.load(tmp_path / "net")
    again = network2.load(tmp_path / "net", cost=Quartic)
    assert_equal(again, loop, 0.0)
    net.cost = Quartic()
    net.save(tmp_path / "net")
    assert json.loads((tmp_path / "net").read_text())["cost"] == "Quartic"


GOOD = {"sizes": [1, 1], "weights": [[[1.0]]], "biases": [[[2.0]]], "cost": "QuadraticCost"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[]", "no network"),
        ("{}", "it has no 'cost'"),
        (json.dumps(GOOD | {"sizes": [10**9, 10**9]}), "do not fit a network of sizes"),
        (json.dumps(GOOD | {"weights": [[[1.0], [2.0, 3.0]]]}), "no network"),
        (json.dumps(GOOD | {"biases": [[1.0]]}), "do not fit a network of sizes"),
        (json.dumps(GOOD | {"weights": []}), "do not fit a network of sizes"),
        (json.dumps(GOOD | {"sizes": 3}), "no network"),
        (json.dumps(GOOD | {"cost": "os"}), "cost 'os' is none of"),
        ("[" * 100_000, "no network"),
    ],
)
def test_damaged_files(tmp_path, text, said):
    path = tmp_path / "net"
    path.write_text(text)
    with pytest.raises(ValueError, match="no network of the book's form") as caught:
        network2.load(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


# errors


def training(pairs):
    return lambda net: net.SGD(pairs, 1, 2, 0.1)


X, Y = np.ones((3, 1)), np.ones((2, 1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            training([(X, Y), (np.ones(3), Y)]),
            "training_data[1]: x has shape (3,); expected a column of shape (3, 1). "
            "Did you mean its column, .reshape(3, 1)?",
        ),
        (training([(X.T, Y)]), "x has shape (1, 3); expected a column of shape (3, 1). Did you mean"),
        (training([(np.ones((4, 1)), Y)]), "x has shape (4, 1); expected a column of shape (3, 1)."),
        (
            training([(X, 1)]),
            "training_data[0]: y is 1; expected a column of shape (2, 1). "
            "vectorized_result makes one of a label.",
        ),
        (training([(X, np.ones((3, 1)))]), "y has shape (3, 1); expected a column of shape (2, 1)."),
        (training([(X, Y), X]), "training_data[1] must be a pair (x, y), got ndarray array("),
        (training([(X, Y, Y)]), "training_data[0] must be a pair (x, y), got (array("),
        (training([1]), "training_data[0] must be a pair (x, y), got 1."),
        (training([]), "training_data holds no example"),
        (training(zip([], [], strict=True)), "can be read only once: make it a list"),
        (lambda net: net.SGD([(X, Y)], 1, 0, 0.1), "mini_batch_size must be 1 or more"),
        (lambda net: net.SGD([(X, Y)], 1, 1, float("nan")), "eta must be finite, got nan"),
        (lambda net: net.update_mini_batch([], 1.0, 0.0, 1), "mini_batch holds no example"),
        (lambda net: net.update_mini_batch([(X[:, 0], Y)], 1.0, 0.0, 1), "mini_batch[0]: x has shape"),
        (lambda net: net.backprop(X[:, 0], Y), "x has shape (3,); expected a column of shape (3, 1)"),
        (lambda net: net.backprop(X, Y[:, 0]), "y has shape (2,); expected a column of shape (2, 1)"),
        (lambda net: net.feedforward(X[:, 0]), "a has shape (3,); expected a column of shape (3, 1)"),
        (lambda net: net.feedforward(X.T), "a has shape (1, 3); expected a column of shape (3, 1)"),
        (
            lambda net: net.accuracy([(X, Y)]),
            "data[0]: y has shape (2, 1); expected a label, a whole number. With columns, pass "
            "convert=True.",
        ),
        (lambda net: net.accuracy([(X, 1)], convert=True), "With labels, pass convert=False."),
        (lambda net: net.accuracy([]), "data holds no example"),
        (lambda net: net.total_cost([], 0.0), "data holds no example"),
        (lambda net: net.total_cost([(X, 1)], 0.0), "With labels, pass convert=True."),
        (lambda net: net.total_cost([(X, Y)], 0.0, convert=True), "With columns, pass convert=False."),
        (
            lambda net: net.total_cost([(X, 1), (X, 2)], 0.0, convert=True),
            "data[1]: y is 2; expected a label from 0 to 1.",
        ),
        (
            lambda net: net.SGD([(X, Y)], 1, 1, 0.1, monitor_evaluation_cost=True),
            "there is no evaluation_data to monitor",
        ),
        (
            lambda net: net.SGD([(X, Y)], 1, 1, 0.1, early_stopping_n=3),
            "early_stopping_n needs an accuracy: pass monitor_evaluation_accuracy=True",
        ),
    ],
)
def test_errors_say_what_was_expected(call, said):
    net = network2.Network([3, 4, 2])
    before = [w.copy() for w in net.weights]
    with pytest.raises(ValueError) as caught:
        call(net)
    assert said in str(caught.value)
    assert all((w == b).all() for w, b in zip(net.weights, before, strict=True))


def test_other_errors():
    for module in (network, network2):
        with pytest.raises(ValueError, match="2 layers or more"):
            module.Network([3])
        with pytest.raises(TypeError, match="training_data must be a list of pairs"):
            module.Network([3, 2]).SGD(None, 1, 1, 1.0)
    with pytest.raises(TypeError, match=r"cost has no fn\(a, y\)"):
        network2.Network([3, 2], cost="quadratic")
    with pytest.raises(ValueError, match="argmax makes labels of columns"):
        network.Network([3, 2]).evaluate([(X, Y)])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda net: net.weights.pop(), "weights has 1 arrays; this network has 2"),
        (lambda net: net.weights.__setitem__(0, np.ones((3, 4))), "weights[0] has shape (3, 4)"),
        (lambda net: net.biases.__setitem__(1, np.ones(2)), "biases[1] has shape (2,); this network"),
    ],
)
def test_parameters_that_do_not_fit(spoil, said):
    net = network2.Network([3, 4, 2])
    spoil(net)
    with pytest.raises(ValueError) as caught:
        net.SGD([(X, Y)], 1, 1, 0.1)
    assert said in str(caught.value)


# data


@pytest.fixture
def little_mnist(tmp_path, monkeypatch):
    """A folder with the four files, of a few images, of which the last 20 are for validation."""
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for part, count in (("train", 120), ("t10k", 30)):
        images[part] = rng.integers(0, 256, (count, 28, 28), dtype="uint8")
        labels[part] = rng.integers(0, 10, count, dtype="uint8")
        header = struct.pack(">4i", 0x803, count, 28, 28), struct.pack(">2i", 0x801, count)
        stems = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        (tmp_path / stems[0]).write_bytes(header[0] + images[part].tobytes())
        (tmp_path / stems[1]).write_bytes(header[1] + labels[part].tobytes())
    monkeypatch.setattr(mnist_loader, "VALIDATION", 20)
    return tmp_path, images, labels


def test_mnist_in_the_books_shapes(little_mnist):
    folder, images, labels = little_mnist
    training, validation, test = mnist_loader.load_data_wrapper(folder)
    assert [len(part) for part in (training, validation, test)] == [100, 20, 30]
    for part in (training, validation, test):
        assert isinstance(part, list)
        assert {(x.shape, x.dtype.name) for x, _ in part} == {((784, 1), "float32")}
    assert {y.shape for _, y in training} == {(10, 1)}
    assert {type(y) for _, y in validation + test} == {int}
    assert [y.argmax() for _, y in training] == labels["train"][:100].tolist()
    assert [y for _, y in validation] == labels["train"][100:].tolist()
    assert [y for _, y in test] == labels["t10k"].tolist()
    assert (training[7][0][:, 0] == images["train"][7].ravel() / 256).all()
    assert (test[7][0][:, 0] == images["t10k"][7].ravel() / 256).all()


def test_mnist_as_arrays(little_mnist):
    folder, images, labels = little_mnist
    training, validation, test = mnist_loader.load_data(folder)
    assert [part[0].shape for part in (training, validation, test)] == [(100, 784), (20, 784), (30, 784)]
    assert {part[0].dtype.name for part in (training, validation, test)} == {"float32"}
    assert (validation[0] == images["train"][100:].reshape(20, 784) / 256).all()
    assert (validation[1] == labels["train"][100:]).all()


def test_mnist_is_split_as_the_books_file_is():
    assert mnist_loader.VALIDATION == 10_000


def test_digits_in_the_books_shapes():
    training, validation, test = mnist_loader.load_digits_wrapper()
    assert [len(part) for part in (training, validation, test)] == [1197, 300, 300]
    images, labels = datasets.digits()
    assert (np.hstack([x for x, _ in training + validation + test]) == images).all()
    assert [y.argmax() for _, y in training] == labels[:1197].tolist()
    assert [y for _, y in validation + test] == labels[1197:].tolist()
    assert training[0][1].shape == (10, 1) and type(test[0][1]) is int


# scripts

CHAPTER_1 = """
import random
import numpy as np
import mnist_loader
import network

np.random.seed(4)
random.seed(4)
training_data, validation_data, test_data = mnist_loader.load_data_wrapper()
training_data = list(training_data)
net = network.Network([784, 12, 10])
net.SGD(training_data, 3, 10, 3.0, test_data=test_data)
right = sum(int(np.argmax(net.feedforward(x)) == y) for x, y in test_data)
weights, biases = net.weights, net.biases
"""

CHAPTER_3 = """
import json
import random
import numpy as np
import mnist_loader
import network2

np.random.seed(4)
random.seed(4)
training_data, validation_data, test_data = mnist_loader.load_data_wrapper()
net = network2.Network([784, 12, 10], cost=network2.CrossEntropyCost)
net.large_weight_initializer()
costs = net.SGD(training_data[:60], 3, 7, 0.5, lmbda=5.0, evaluation_data=validation_data,
    monitor_evaluation_accuracy=True, monitor_training_cost=True)
text = json.dumps(costs)
net.save(path)
again = network2.load(path)
right = again.accuracy(test_data)
assert right == net.accuracy(test_data)
weights, biases = again.weights, again.biases
"""


@pytest.fixture
def books_names(little_mnist, monkeypatch):
    """The modules under the names that the book's programs have, and MNIST where none is given."""
    folder, images, labels = little_mnist
    mnist = datasets.mnist
    monkeypatch.setattr(datasets, "mnist", lambda _, part: mnist(folder, part))
    for name in ("mnist_loader", "network", "network2"):
        monkeypatch.setitem(sys.modules, name, getattr(book, name))
    columns = {part: x.reshape(len(x), 784, 1) / 256 for part, x in images.items()}
    return columns, labels


@pytest.mark.parametrize("imports", ["unchanged", "changed"])
@pytest.mark.parametrize("chapter", [1, 3])
def test_a_script_made_for_the_book(books_names, tmp_path, capsys, chapter, imports):
    script = CHAPTER_1 if chapter == 1 else CHAPTER_3
    if imports == "changed":
        for name in ("mnist_loader", "network", "network2"):
            script = script.replace(f"import {name}\n", f"import bpengine.book.{name} as {name}\n")
        assert script.count("bpengine.book") == 2
    names = {"path": str(tmp_path / "net.json")}
    exec(script, names)
    columns, labels = books_names
    columns_of_labels = np.eye(10)[labels["train"]].reshape(-1, 10, 1)
    pairs = list(zip(columns["train"], columns_of_labels, strict=True))
    test = list(zip(columns["t10k"], labels["t10k"], strict=True))
    np.random.seed(4)
    random.seed(4)
    if chapter == 1:
        loop = Loop([784, 12, 10], costs.QuadraticCost, scaled=False)
        loop.train(pairs[:100], 3, 10, 3.0)
    else:
        network2.Network([784, 12, 10])  # whose first weights the script replaces
        loop = Loop([784, 12, 10], costs.CrossEntropyCost, scaled=False)
        loop.train(pairs[:60], 3, 7, 0.5, 5.0)
        assert len(names["costs"][1]) == len(names["costs"][2]) == 3
    assert_equal(types.SimpleNamespace(**names), loop, 1e-10)
    assert names["right"] == loop.accuracy(test)
    assert capsys.readouterr().out.count("Epoch") == 3


def test_the_guide_page():
    failed, tried = doctest.testfile(str(ROOT / "docs" / "book.md"), module_relative=False)
    assert tried and not failed
