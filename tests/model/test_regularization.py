"""Penalties, dropout, smoothed labels, weights of examples: where they count and where they do not."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import CHAINABLE, Case, assert_close, cases, chain, deep, examples, flat, loop, sigma

import bpengine as bp
from bpengine.backprop.reduction import Mean
from bpengine.derivatives import gradient_check
from bpengine.model import regularization
from bpengine.model.labels import class_weights

CLASSIFIERS = [
    Case([3, 5, 4, 3], ["tanh", "tanh", "softmax"], "softmax_cross_entropy", batch=6, seed=7),
    Case([3, 5, 4, 3], ["tanh", "tanh", "sigmoid"], "binary_cross_entropy", batch=6, seed=7),
    Case([3, 5, 4, 1], ["tanh", "tanh", "sigmoid"], "binary_cross_entropy", batch=6, seed=7),
]
every_classifier = pytest.mark.parametrize(
    "case", CLASSIFIERS, ids=["softmax", "sigmoid", "one sigmoid"]
)
strengths = st.sampled_from([0.0, 0.01, 0.3])
shares = st.sampled_from([0.0, 0.2, 0.5, 0.9])


def weights_of(case, seed=3, least=0.0):
    """Random weights of a case's examples."""
    return least + np.random.default_rng([case.seed, seed]).exponential(size=case.batch)


def padding_free(blocks, case, lab):
    """``[w b]`` of each layer as one flat vector, without the padding."""
    return flat([lab.numpy(block)[:, : n + 1] for block, n in zip(blocks, case.sizes, strict=False)])


# penalties


@given(case=cases(max_layers=3), l1=strengths, l2=strengths)
@examples(30)
def test_the_penalty_is_in_the_gradient_of_the_weights_alone(lab, case, l1, l2):
    plain = case.network(lab).backprop(*case.data(lab))
    net = case.network(lab, l1=l1, l2=l2)
    found = net.backprop(*case.data(lab))
    for l in range(case.layers):
        w = lab.numpy(net.weights[l])
        lab.assert_close(found.weights[l], lab.numpy(plain.weights[l]) + l2 * w + l1 * np.sign(w), 1e-13)
        np.testing.assert_array_equal(lab.numpy(found.biases[l]), lab.numpy(plain.biases[l]))


def penalty(net, lab):
    w = flat(net.weights, lab).astype("float64")
    return net.l2 / 2 * np.sum(w**2) + net.l1 * np.sum(np.abs(w))


@given(case=cases(max_layers=3, dtypes=("float32", "float64")), l1=strengths, l2=strengths)
@examples(30)
def test_the_penalty_is_in_every_cost(lab, case, l1, l2):
    X, Y = case.data(lab)
    net = case.network(lab, l1=l1, l2=l2)
    plan = net.plan(case.batch)
    plan.load(X, Y)
    expected = case.network(lab).evaluate(X, Y)["cost"] + penalty(net, lab)
    rounding = 1e-6 if case.dtype == "float32" else 1e-12
    for found in (net.evaluate(X, Y)["cost"], net.backprop(X, Y).cost, plan.run().cost):
        assert found == pytest.approx(expected, rel=rounding, abs=rounding)


def test_while_training_the_penalty_is_that_of_the_weights_as_they_now_are(lab):
    case = deep("tanh", "quadratic")
    X, Y = case.data(lab)
    data_cost = case.network(lab).evaluate(X, Y)["cost"]
    net = case.network(lab, l1=0.1, l2=0.3)
    before = penalty(net, lab)
    plan = net.plan(case.batch, bp.SGD(0.1))
    plan.load(X, Y)
    assert plan.run().cost == pytest.approx(data_cost + penalty(net, lab), rel=1e-12)
    fitted = case.network(lab, l1=0.1, l2=0.3)
    history = fitted.fit(X, Y, epochs=1, batch_size=case.batch, optimizer=bp.SGD(0.1), progress=False)
    assert history.cost[0] == pytest.approx(plan.cost, rel=1e-12)
    assert before > penalty(net, lab) * 1.01


def test_l1_leaves_a_weight_of_0_where_it_is(lab):
    net = bp.Network([2, 2], "linear", backend=lab.backend, dtype="float64", l1=0.5)
    net.weights[0] = lab.array([[0.0, -0.0], [1.0, -1.0]])
    net.biases[0] = lab.array([[0.0], [3.0]])
    plan = net.plan(1, bp.SGD(0.5))
    # the outputs are right: no gradient but the penalty's
    plan.load(lab.array([[0.0], [0.0]]), lab.array([[0.0], [3.0]]))
    plan.run()
    np.testing.assert_array_equal(lab.numpy(net.weights[0]), [[0, 0], [0.75, -0.75]])
    np.testing.assert_array_equal(lab.numpy(net.biases[0]), [[0], [3]])


# gradients against finite differences


@given(case=cases(max_width=4, max_batch=4), l1=strengths, l2=strengths)
@examples(30)
def test_gradients_with_penalties_and_weights_pass_the_check(lab, case, l1, l2):
    net = case.network(lab, l1=l1, l2=l2)
    X, Y = case.data(lab)
    weights = weights_of(case)
    check = bp.check_gradient(net, X, Y, sample_weight=lab.array(weights))
    assert check.passed and check.relative_error < 1e-7
    numerical = bp.numerical_gradient(net, X, Y, sample_weight=weights)
    assert numerical.cost == pytest.approx(net.evaluate(X, Y, weights)["cost"], rel=1e-12)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numerical_gradients_hold_the_penalty(lab, dtype, two_sided):
    case = dataclasses.replace(deep("tanh", "quadratic"), dtype=dtype)
    X, Y = case.data(lab)
    net = case.network(lab, l1=0.125, l2=0.25)
    with_, without = (
        bp.numerical_gradient(entry, X, Y, two_sided=two_sided) for entry in (net, case.network(lab))
    )
    for l in range(case.layers):
        w = lab.numpy(net.weights[l]).astype("float64")
        expected = lab.numpy(without.weights[l]) + 0.25 * w + 0.125 * np.sign(w)
        lab.assert_close(with_.weights[l], expected, 1e-9 if two_sided else 1e-5)
        np.testing.assert_array_equal(lab.numpy(with_.biases[l]), lab.numpy(without.biases[l]))
    assert with_.cost - without.cost == pytest.approx(penalty(net, lab), rel=1e-12)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("least", [0.0, 1e-9, -1e-9, 1e-300])
def test_the_kink_of_l1_is_no_failure(lab, least, two_sided):
    case = deep("tanh", "quadratic")
    net = case.network(lab, l1=0.5)
    net.weights[1][2, 3] = least
    net.weights[0][...] = least
    check = bp.check_gradient(net, *case.data(lab), two_sided=two_sided)
    assert check.passed
    gradient = net.backprop(*case.data(lab))
    data_gradient = case.network(lab)
    data_gradient.vector[...] = net.vector
    data_gradient = data_gradient.backprop(*case.data(lab))
    slope = float(gradient.weights[1][2, 3]) - float(data_gradient.weights[1][2, 3])
    assert slope == pytest.approx(0.5 * np.sign(least), abs=1e-15)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ({"l2": 0.3}, {}),
        ({"l1": 0.3}, {}),
        ({"l1": 0.3}, {"l1": -0.3}),
        ({"l2": 0.3}, {"l2": 0.6}),
        ({"l1": 0.3, "l2": 0.2}, {"l1": 0.2, "l2": 0.3}),
    ],
)
def test_a_wrong_penalty_fails_the_check(lab, monkeypatch, right, wrong, two_sided):
    case = deep("tanh", "quadratic")
    operations = regularization.Penalty.operations

    def other(self, parameters, gradient, strengths):
        strengths[0] = wrong.get("l1", 0.0)
        strengths[1] = wrong.get("l2", 0.0)
        penalty = regularization.Penalty(wrong.get("l1", 0.0), wrong.get("l2", 0.0))
        return operations(penalty, parameters, gradient, strengths)

    net = case.network(lab, **right)
    assert bp.check_gradient(net, *case.data(lab), two_sided=two_sided).passed
    monkeypatch.setattr(regularization.Penalty, "operations", other)
    monkeypatch.setattr(Mean, "scalars", scale)
    net = case.network(lab, **right)
    check = bp.check_gradient(net, *case.data(lab), two_sided=two_sided)
    assert not check.passed
    assert check.worst.parameter.startswith("weights")


def scale(mean, factor):
    """What `Mean.scalars` gives, without the strengths of penalties."""
    yield mean.scale, factor / mean.examples


def test_weights_that_backpropagation_left_out_would_fail_the_check(lab, monkeypatch):
    case = deep("tanh", "quadratic")
    right = gradient_check.gradient
    monkeypatch.setattr(gradient_check, "gradient", lambda net, X, Y, weights=None: right(net, X, Y))
    net = case.network(lab)
    assert bp.check_gradient(net, *case.data(lab)).passed
    assert not bp.check_gradient(net, *case.data(lab), sample_weight=weights_of(case)).passed


@given(
    case=cases(max_layers=3, max_width=3, max_batch=3),
    dropout=st.lists(shares, min_size=3, max_size=3),
    l1=strengths,
    l2=strengths,
)
@examples(25)
def test_every_gradient_of_training_passes_the_check(lab, case, dropout, l1, l2):
    """With masks that stay as they were drawn, weights of examples and penalties on the weights."""
    net = case.network(lab, dropout=dropout[: case.layers], l1=l1, l2=l2)
    plan = net.plan(case.batch, bp.SGD(1.0), weighted=True)
    plan.load(*case.data(lab), weights_of(case, least=0.1))
    step = [op for op in plan.operations if op.equation != "update"]
    lab.backend.compile(step).run(1)
    plan.program = lab.backend.compile([op for op in step if op.name not in ("uniform", "dropout mask")])
    plan.run()
    products = [op.output for op in step if op.equation == "BP3, BP4"]
    backprop = padding_free(products[::-1], case, lab)
    numerical = []
    for block, n in zip(net.parameters.blocks, case.sizes, strict=False):
        for j, k in np.ndindex(block.shape[0], n + 1):
            retained, costs = float(block[j, k]), []
            for nudge in (1e-5, -1e-5):
                block[j, k] = retained + nudge
                costs.append(plan.run().cost)
            block[j, k] = retained
            numerical.append((costs[0] - costs[1]) / 2e-5)
    norm = np.linalg.norm
    # costs are rounded: no difference of two is better than this
    noise = 1e-10 * max(1.0, plan.cost) * np.sqrt(len(numerical))
    assert norm(numerical - backprop) <= 1e-7 * (norm(numerical) + norm(backprop)) + noise


# dropout


def masks_of(plan, lab):
    """The masks of a plan's last step, (n_l, m) by layer, the input being 0."""
    drawn = [lab.numpy(op.output).copy() for op in plan.operations if op.name == "dropout mask"]
    layers = [l for l, p in enumerate(plan.network.dropout) if p]
    return {l: mask if l else mask.T for l, mask in zip(layers, drawn, strict=True)}


def masked_gradient(case, one, X, Y, masks, weights):
    """The average over examples, computed separately: activations, and what comes back, times masks."""
    σs = [sigma(layer) for layer in case.activations]
    totals = [np.zeros((n, k + 1)) for k, n in zip(case.sizes, case.sizes[1:], strict=False)]
    for j in range(X.shape[1]):
        mask = {l: entry[:, j : j + 1] for l, entry in masks.items()}
        a = X[:, j : j + 1]
        xs, zs = [], []
        for l, (w, b, (σ, _)) in enumerate(zip(one.weights, one.biases, σs, strict=True)):
            xs.append(a * mask.get(l, 1.0))
            zs.append(w @ xs[-1] + b)
            a = σ(zs[-1])
        y = Y[:, j : j + 1]
        g = a - y if one.simplified else σs[-1][1](one.cost_derivative(a, y), zs[-1])
        for l in range(case.layers - 1, -1, -1):
            totals[l] += weights[j] * g @ np.append(xs[l], [[1.0]], axis=0).T
            if l:
                back = (one.weights[l].T @ g) * mask.get(l, 1.0)
                g = σs[l - 1][1](back, zs[l - 1])
    return [total / weights.sum() for total in totals]


@given(
    case=cases(max_layers=4),
    dropout=st.lists(shares, min_size=4, max_size=4),
    steps=st.integers(1, 3),
    weighted=st.booleans(),
)
@examples(40)
def test_a_step_leaves_out_what_its_masks_say(lab, case, dropout, steps, weighted):
    net = case.network(lab, dropout=dropout[: case.layers])
    one = loop(case, net, lab)
    X, Y = case.host_data()
    weights = weights_of(case, least=0.1) if weighted else np.ones(case.batch)
    plan = net.plan(case.batch, bp.SGD(0.05), weighted=weighted)
    plan.load(lab.array(X), lab.array(Y), weights if weighted else None)
    for _ in range(steps):
        plan.run()
        masks = masks_of(plan, lab)
        blocks = masked_gradient(case, one, X, Y, masks, weights)
        for l, block in enumerate(blocks):
            one.weights[l] = one.weights[l] - 0.05 * block[:, :-1]
            one.biases[l] = one.biases[l] - 0.05 * block[:, -1:]
    expected = [np.append(w, b, axis=1) for w, b in zip(one.weights, one.biases, strict=True)]
    assert_close(padding_free(net.parameters.blocks, case, lab), flat(expected), 1e-11)


@pytest.mark.parametrize("σ", CHAINABLE)
def test_slopes_are_those_of_what_was_there_before_it_was_left_out(lab, σ):
    case = Case([3, 6, 5, 2], [*chain(σ), "linear"], "quadratic", batch=4, seed=9)
    net = case.network(lab, dropout=0.5)
    one = loop(case, net, lab)
    X, Y = case.host_data()
    plan = net.plan(4, bp.SGD(1.0))
    plan.load(lab.array(X), lab.array(Y))
    before = padding_free(net.parameters.blocks, case, lab)
    plan.run()
    masks = masks_of(plan, lab)
    assert all((mask == 0).any() and (mask > 0).any() for mask in masks.values())
    gradient = before - padding_free(net.parameters.blocks, case, lab)
    assert_close(gradient, flat(masked_gradient(case, one, X, Y, masks, np.ones(4))), 1e-11)


def drawn(lab, dropout, dtype="float64", m=100, seed=0):
    net = bp.Network(
        [50, 80, 60, 2], "tanh", backend=lab.backend, dtype=dtype, dropout=dropout, rng=seed
    )
    plan = net.plan(m, bp.SGD(0.1))
    plan.load(lab.array(np.ones((50, m), dtype)), lab.array(np.ones((2, m), dtype)))
    return plan


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.95])
def test_masks_leave_out_the_share_that_is_asked_for(lab, p, dtype):
    """Of all activations, independently of each other; what is kept is scaled up."""
    masks = masks_of(drawn(lab, [p, p, p], dtype).run(), lab)
    assert [mask.shape for mask in masks.values()] == [(50, 100), (80, 100), (60, 100)]
    for mask in masks.values():
        retained = np.array(1 / np.array(1 - p, dtype), dtype)
        assert np.isin(mask, [0, retained]).all()
        left_out = mask == 0
        assert left_out.mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / mask.size))
        for axis in (0, 1):
            spread = np.sqrt(p * (1 - p) / mask.shape[axis])
            assert left_out.mean(axis=axis).std() == pytest.approx(spread, rel=0.4)
    if p >= 0.3:
        first, second = (masks[l][:50] == 0 for l in (0, 1))
        agreement = (first == second).mean()
        assert agreement == pytest.approx(p**2 + (1 - p) ** 2, abs=0.05)


def test_retained_activations_are_scaled_to_the_same_expectation(lab):
    """Of an example repeated many times, each with its own mask, through linear layers."""
    m = 4000
    sizes, rng = [20, 30, 3], np.random.default_rng(2)
    net = bp.Network(sizes, "linear", backend=lab.backend, dtype="float64", dropout=[0.2, 0.5], rng=1)
    x = rng.standard_normal((20, 1))
    plan = net.plan(m, bp.SGD(0.1))
    plan.load(lab.array(np.repeat(x, m, axis=1)), lab.array(np.zeros((3, m))))
    expected = lab.numpy(net.feedforward(lab.array(x)))
    outputs = lab.numpy(plan.run().workspace.a[-1])
    spread = outputs.std(axis=1, keepdims=True)
    assert (spread > 0.1).all()
    assert (np.abs(outputs.mean(axis=1, keepdims=True) - expected) < 5 * spread / np.sqrt(m)).all()


def test_each_step_draws_anew(lab):
    plan = drawn(lab, [0.5, 0.5, 0.5])
    first, second = masks_of(plan.run(), lab), masks_of(plan.run(), lab)
    for l in range(3):
        assert 0.4 < (first[l] != second[l]).mean() < 0.6
    again = drawn(lab, [0.5, 0.5, 0.5])
    for masks in (first, second):
        found = masks_of(again.run(), lab)
        for l in range(3):
            np.testing.assert_array_equal(found[l], masks[l])
    other = masks_of(drawn(lab, [0.5, 0.5, 0.5], seed=1).run(), lab)
    assert (other[0] != first[0]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_seed_gives_the_same_masks_and_the_same_training_on_every_backend(lab, dtype):
    case = dataclasses.replace(deep("tanh", "quadratic"), dtype=dtype)
    numpy = dataclasses.replace(lab, backend=bp.backends.get("numpy"))
    masks = []
    for one in (lab, numpy):
        plan = drawn(one, [0.25, 0.5, 0.75], dtype)
        masks.append(masks_of(plan.run(steps=2), one))
    for l in range(3):
        np.testing.assert_array_equal(masks[0][l], masks[1][l])
    nets = []
    for one in (lab, numpy):
        net = case.network(one, dropout=[0.25, 0.5, 0.25])
        net.fit(*case.data(one), epochs=4, batch_size=4, progress=False)
        nets.append(net)
    for found, expected in zip(nets[0].weights, nets[1].weights, strict=True):
        lab.assert_close(found, expected, 1e-5 if dtype == "float32" else 1e-12)


def test_masks_go_on_where_the_networks_random_numbers_are(lab):
    plan = drawn(lab, [0.0, 0.5, 0.0])
    rng = copy.deepcopy(plan.network.rng)
    retained = rng.random((80, 100)) < 0.5
    np.testing.assert_array_equal(masks_of(plan.run(), lab)[1] > 0, retained)
    assert plan.network.rng.bit_generator.state == rng.bit_generator.state


@given(case=cases(max_layers=3), dropout=st.lists(shares, min_size=3, max_size=3))
@examples(12)
def test_nothing_is_left_out_but_in_training(lab, case, dropout):
    X, Y = case.data(lab)
    plain, net = case.network(lab), case.network(lab, dropout=dropout[: case.layers])
    state = net.rng.bit_generator.state
    plan = net.plan(case.batch)
    plan.load(X, Y)
    pairs = [
        (net.feedforward(X), plain.feedforward(X)),
        (net.backprop(X, Y).vector, plain.backprop(X, Y).vector),
        (plan.run().gradient.vector, plain.backprop(X, Y).vector),
    ]
    for found, expected in pairs:
        np.testing.assert_array_equal(lab.numpy(found), lab.numpy(expected))
    assert net.evaluate(X, Y) == plain.evaluate(X, Y)
    assert bp.check_gradient(net, X, Y).relative_error < 1e-7
    assert plan.counts == plain.plan(case.batch).counts
    assert net.rng.bit_generator.state == state


def test_dropout_of_nothing_is_none(lab):
    case = deep("tanh", "quadratic")
    plans = [
        case.network(lab, dropout=dropout).plan(4, bp.SGD(0.1)) for dropout in (0.0, [0, 0.0, 0], 0.5)
    ]
    assert plans[0].counts == plans[1].counts == case.network(lab).plan(4, bp.SGD(0.1)).counts
    assert plans[2].counts["dropout mask"] == 2
    assert plans[2].counts["dropout"] == 4  # forward and back


@pytest.mark.parametrize(
    ("sizes", "dropout", "expected"),
    [
        ([3, 4, 4, 2], 0.5, (0.0, 0.5, 0.5)),
        ([3, 4, 4, 2], [0.25, 0.5, 0], (0.25, 0.5, 0.0)),
        ([3, 4, 4, 2], (0.25, 0.5, 0), (0.25, 0.5, 0.0)),
        ([3, 2], 0.5, (0.0,)),
        ([3, 2], [0.5], (0.5,)),
    ],
)
def test_one_share_is_that_of_the_hidden_layers(sizes, dropout, expected):
    assert bp.Network(sizes, dropout=dropout).dropout == expected


@pytest.mark.parametrize("hidden", [0.0, 0.5])
def test_a_loaded_batch_stays_as_it_is(lab, hidden):
    """Dropout of inputs too: or a second step would leave out inputs that the first has left out."""
    case = deep("tanh", "quadratic")
    plan = case.network(lab, dropout=[0.5, hidden, 0.0]).plan(case.batch, bp.SGD(0.1))
    X, Y = case.data(lab)
    plan.load(X, Y)
    rows = lab.numpy(plan.workspace.rows).copy()
    plan.run(steps=3)
    np.testing.assert_array_equal(lab.numpy(plan.workspace.rows), rows)
    np.testing.assert_array_equal(lab.numpy(plan.workspace.inputs).T, lab.numpy(X))


@pytest.mark.parametrize("p", [1, 1.5, -0.1, float("nan"), float("inf")])
def test_shares_are_from_0_to_below_1(p):
    with pytest.raises(ValueError, match=r"^dropout must be "):
        bp.Network([3, 4, 2], dropout=p)
    with pytest.raises(ValueError, match=r"^dropout\[1\] must be "):
        bp.Network([3, 4, 2], dropout=[0.5, p])


@pytest.mark.parametrize("p", ["0.5", None, {}, [{}, 0], [["0.5"], 0]], ids=str)
def test_shares_are_numbers(p):
    with pytest.raises(TypeError, match=r"^dropout(\[0\])*( must be a number, got )"):
        bp.Network([3, 4, 2], dropout=p)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_there_is_one_share_for_each_layer_before_the_output(count):
    expected = rf"dropout has {count} entries; a network of sizes \[3, 4, 2\] takes 2, one for each"
    with pytest.raises(ValueError, match=expected):
        bp.Network([3, 4, 2], dropout=[0.5] * count)


@pytest.mark.parametrize("name", ["l1", "l2"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-0.1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("0.1", TypeError),
        (None, TypeError),
    ],
)
def test_strengths_are_0_or_more(name, value, error):
    with pytest.raises(error, match=rf"^{name} must be "):
        bp.Network([3, 2], **{name: value})


# smoothed labels


@every_classifier
def test_labels_are_smoothed_for_training_alone(lab, case):
    ε = 0.25
    X, Y = case.host_data()
    n = case.sizes[-1]
    share = 1 / n if case.cost == "softmax_cross_entropy" else 1 / 2
    smoothed = lab.array((1 - ε) * Y + ε * share)
    X, Y = lab.array(X), lab.array(Y)
    net, plain = case.network(lab, label_smoothing=ε), case.network(lab)
    # not here
    np.testing.assert_array_equal(
        lab.numpy(net.backprop(X, Y).vector), lab.numpy(plain.backprop(X, Y).vector)
    )
    assert net.backprop(X, Y).cost == plain.backprop(X, Y).cost
    assert net.evaluate(X, Y) == plain.evaluate(X, Y)
    assert bp.check_gradient(net, X, Y).passed
    plans = [net.plan(case.batch), plain.plan(case.batch)]
    for plan in plans:
        plan.load(X, Y)
    np.testing.assert_array_equal(*(lab.numpy(plan.run().gradient.vector) for plan in plans))
    # but here
    plans = [entry.plan(case.batch, bp.SGD(0.5)) for entry in (net, plain)]
    plans[0].load(X, Y)
    plans[1].load(X, smoothed)
    np.testing.assert_allclose(*(plan.run(steps=3).cost for plan in plans), rtol=1e-12)
    lab.assert_close(net.vector, lab.numpy(plain.vector), 1e-12)
    options = {"epochs": 2, "batch_size": 4, "progress": False}
    histories = [
        case.network(lab, label_smoothing=ε).fit(X, Y, **options),
        case.network(lab).fit(X, smoothed, **options),
    ]
    np.testing.assert_allclose(*(history.cost for history in histories), rtol=1e-12)


@every_classifier
@pytest.mark.parametrize("ε", [0.05, 0.3])
def test_labels_are_smoothed_in_the_networks_own_precision(lab, case, ε):
    n = max(case.sizes[-1], 2)
    labels = np.arange(case.batch) % n
    Y = np.eye(n)[-case.sizes[-1] :, labels]
    share = 1 / n if case.cost == "softmax_cross_entropy" else 1 / 2
    X, _ = case.data(lab)
    expected = case.network(lab).backprop(X, lab.array((1 - ε) * Y + ε * share)).cost
    for given_Y in (labels, lab.array(Y.astype("float32"))):
        plan = case.network(lab, label_smoothing=ε).plan(case.batch, bp.SGD(1e-6))
        plan.load(X, given_Y)
        assert plan.run().cost == pytest.approx(expected, rel=1e-13)


@given(ε=st.floats(0.0, 0.99), n=st.integers(2, 6), m=st.integers(1, 5), seed=st.integers(0, 99))
def test_smoothed_labels_are_distributions_still_and_name_the_same_class(ε, n, m, seed):
    Y = np.eye(n)[:, np.random.default_rng(seed).integers(0, n, m)]
    exclusive, apart = (
        bp.Network([2, n], σ, f"{cost}_cross_entropy", dtype="float64", label_smoothing=ε).smoothed(Y)
        for σ, cost in (("softmax", "softmax"), ("sigmoid", "binary"))
    )
    np.testing.assert_allclose(exclusive.sum(axis=0), 1, rtol=1e-12)
    np.testing.assert_array_equal(exclusive.argmax(axis=0), Y.argmax(axis=0))
    np.testing.assert_allclose(exclusive.max(axis=0) - exclusive.min(axis=0), 1 - ε, rtol=1e-9)
    np.testing.assert_allclose(np.unique(apart), [ε / 2, 1 - ε / 2], rtol=1e-9)


@pytest.mark.parametrize("value", [1, 1.5, -0.1, float("nan")])
def test_smoothing_is_from_0_to_below_1(value):
    with pytest.raises(ValueError, match=r"^label_smoothing must be "):
        bp.Network([3, 2], "softmax", "softmax_cross_entropy", label_smoothing=value)


def test_smoothing_is_a_number():
    with pytest.raises(TypeError, match=r"^label_smoothing must be a number, got '0\.1'"):
        bp.Network([3, 2], "softmax", "softmax_cross_entropy", label_smoothing="0.1")


@pytest.mark.parametrize(
    ("σ", "cost"),
    [("linear", "quadratic"), ("tanh", "absolute_error"), ("relu", "huber"), ("exponential", "poisson")],
)
def test_only_labels_are_smoothed(σ, cost):
    with pytest.raises(ValueError, match=rf"label_smoothing is for a classification's cost.*'{cost}'"):
        bp.Network([3, 2], σ, cost, label_smoothing=0.1)


# weights of examples


@given(case=cases(max_layers=3), data=st.data())
@examples(25)
def test_a_weight_of_2_is_the_example_twice_and_of_0_not_at_all(lab, case, data):
    assume("exponential" not in str(case.activations))  # with which steps may overflow
    weights = data.draw(st.lists(st.integers(0, 3), min_size=case.batch, max_size=case.batch))
    assume(any(weights))
    dtype = data.draw(st.sampled_from(["int64", "float64"]))
    X, Y = case.host_data()
    repeated = [lab.array(np.repeat(entry, weights, axis=1)) for entry in (X, Y)]
    X, Y, weights = lab.array(X), lab.array(Y), lab.array(weights, dtype)
    net = case.network(lab, l2=0.1)
    found, expected = net.backprop(X, Y, weights), net.backprop(*repeated)
    assert_close(lab.numpy(found.vector), lab.numpy(expected.vector), 1e-11, scale=1e-6)
    assert found.cost == pytest.approx(expected.cost, rel=1e-12)
    found, expected = net.evaluate(X, Y, weights), net.evaluate(*repeated)
    assert found["cost"] == pytest.approx(expected["cost"], rel=1e-12)
    if "accuracy" in found:  # an example that does not count may be no class
        assert found["accuracy"] == pytest.approx(expected["accuracy"])
    nets = [case.network(lab, l2=0.1) for _ in range(2)]
    plan = nets[0].plan(case.batch, bp.SGD(0.05), weighted=True)
    plan.load(X, Y, weights)
    twin = nets[1].plan(repeated[0].shape[1], bp.SGD(0.05))
    twin.load(*repeated)
    costs = [entry.run(steps=3).cost for entry in (plan, twin)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-11)
    lab.assert_close(nets[0].vector, lab.numpy(nets[1].vector), 1e-11)


@given(case=cases(max_layers=3), factor=st.floats(1e-3, 1e3))
@examples(20)
def test_weights_count_relative_to_each_other(lab, case, factor):
    net, (X, Y), weights = case.network(lab), case.data(lab), weights_of(case, least=0.1)
    one, other = (net.backprop(X, Y, lab.array(entry)) for entry in (weights, factor * weights))
    assert_close(lab.numpy(one.vector), lab.numpy(other.vector), 1e-12, scale=1e-6)
    assert one.cost == pytest.approx(other.cost, rel=1e-12)
    plain, equal = net.backprop(X, Y), net.backprop(X, Y, lab.array(np.full(case.batch, factor)))
    assert_close(lab.numpy(equal.vector), lab.numpy(plain.vector), 1e-12, scale=1e-6)


@every_classifier
def test_an_example_that_does_not_count_does_nothing(lab, case):
    X, Y = case.host_data()
    weights = np.array([1.0, 0, 2, 0, 0.5, 1])
    absurd = X.copy()
    absurd[:, weights == 0] = 1e6
    net = case.network(lab)
    found, expected = (
        net.backprop(lab.array(entry), lab.array(Y), lab.array(weights)) for entry in (absurd, X)
    )
    lab.assert_close(found.vector, lab.numpy(expected.vector), 1e-12)
    assert found.cost == pytest.approx(expected.cost, rel=1e-12)


def test_a_weighted_plan_without_weights_counts_all_alike(lab):
    case = deep("tanh", "quadratic")
    nets = [case.network(lab) for _ in range(2)]
    for net, weighted in zip(nets, (True, False), strict=True):
        plan = net.plan(case.batch, bp.SGD(0.1), weighted=weighted)
        plan.load(*case.data(lab), weights_of(case) if weighted else None)
        plan.load(*case.data(lab))
        plan.run()
    lab.assert_close(nets[0].vector, lab.numpy(nets[1].vector), 1e-13)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0] * 5, ValueError, r"sample_weight has shape \(5,\); expected \(6,\)"),
        ([[1.0] * 6], ValueError, r"sample_weight has shape \(1, 6\); expected \(6,\)"),
        ([1, 1, -0.5, 1, 1, 1], ValueError, r"sample_weight\[2\] is -0\.5; .* 0 or more"),
        ([1, 1, 1, 1, np.nan, 1], ValueError, r"sample_weight\[4\] is nan"),
        ([np.inf, 1, 1, 1, 1, 1], ValueError, r"sample_weight\[0\] is inf"),
        ([0] * 6, ValueError, "sample_weight is 0 for every example"),
        (["a"] * 6, TypeError, "sample_weight must be numbers, got"),
        ("balanced", TypeError, "sample_weight must be numbers, got"),
    ],
)
def test_weights_are_one_for_each_example(lab, weights, error, message):
    case = deep("tanh", "quadratic")
    net, (X, Y) = case.network(lab), case.data(lab)
    plan = net.plan(case.batch, weighted=True)
    for call in (net.backprop, net.evaluate, plan.load):
        with pytest.raises(error, match=message):
            call(X, Y, weights)
    for call in (net.fit, net.partial_fit):
        with pytest.raises(error, match=message):
            call(X, Y, batch_size=3, sample_weight=weights)
    for call in (bp.check_gradient, bp.numerical_gradient):
        with pytest.raises(error, match=message):
            call(net, X, Y, sample_weight=weights)


def test_a_plan_that_is_not_weighted_takes_no_weights(lab):
    case = deep("tanh", "quadratic")
    plan = case.network(lab).plan(case.batch, bp.SGD(0.1))
    with pytest.raises(ValueError, match=r"takes no sample_weight; .*batch_size=6, …, weighted=True"):
        plan.load(*case.data(lab), np.ones(case.batch))


# weights of classes


def labelled(case, lab, counts):
    """A network and examples with labels, as many of each class as `counts` says."""
    labels = np.repeat(np.arange(len(counts)), counts)
    X = np.random.default_rng(4).standard_normal((case.sizes[0], len(labels)))
    return case.network(lab), lab.array(X), labels


def step(net, X, Y, lab, **options):
    """The step of one epoch in which all examples are a single batch, and its cost."""
    before = lab.numpy(net.vector).copy()
    m = X.shape[1]
    history = net.fit(X, Y, epochs=1, batch_size=m, optimizer=bp.SGD(0.5), progress=False, **options)
    return lab.numpy(net.vector) - before, history.cost[0]


def counts_for(case):
    return [7, 2, 4] if case.sizes[-1] == 3 else [7, 2]


@every_classifier
def test_balanced_classes_count_as_scikit_learn_has_them(lab, case):
    """n / (k n_c) for each of n_c examples of class c, of n examples and k classes in all."""
    counts = np.array(counts_for(case))
    net, X, labels = labelled(case, lab, counts)
    weights = (counts.sum() / (len(counts) * counts))[labels]
    gradient = net.backprop(X, labels, weights)
    found, cost = step(net, X, labels, lab, class_weight="balanced")
    assert_close(found, -0.5 * lab.numpy(gradient.vector), 1e-12)
    assert cost == pytest.approx(gradient.cost, rel=1e-12)
    # all classes have the same weight in all
    totals = np.bincount(labels, weights)
    np.testing.assert_allclose(totals, totals[0])


@given(counts=st.lists(st.integers(0, 6), min_size=2, max_size=5))
def test_balanced_weights_are_those_of_the_formula(counts):
    assume(any(counts))
    present = [count for count in counts if count]
    expected = [sum(counts) / (len(present) * count) for count in present for _ in range(count)]
    labels = np.repeat(np.arange(len(counts)), counts)
    backend = bp.backends.get("numpy")
    Y = np.eye(len(counts))[:, labels]
    np.testing.assert_allclose(class_weights("balanced", Y, backend), expected, rtol=1e-14)
    if len(counts) == 2:
        np.testing.assert_allclose(class_weights("balanced", Y[1:], backend), expected, rtol=1e-14)


def test_a_class_without_examples_is_no_class_to_balance(lab):
    case = CLASSIFIERS[0]
    net, X, labels = labelled(case, lab, [6, 0, 2])
    gradient = net.backprop(X, labels, np.where(labels == 0, 8 / (2 * 6), 8 / (2 * 2)))
    found, _ = step(net, X, labels, lab, class_weight="balanced")
    assert_close(found, -0.5 * lab.numpy(gradient.vector), 1e-12)


@every_classifier
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("class_weight", [{0: 2.0, 1: 0.5}, {1: 3}, {0: 0.0}, {}])
def test_classes_have_the_weights_they_are_given(lab, case, class_weight, one_hot):
    """1 where none is; and an example's own weight is multiplied by that of its class."""
    net, X, labels = labelled(case, lab, counts_for(case))
    given_weights = np.random.default_rng(5).exponential(size=len(labels))
    table = np.array([class_weight.get(label, 1.0) for label in range(3)])
    n = case.sizes[-1]
    Y = lab.array(np.eye(max(n, 2))[-n:, labels]) if one_hot else labels
    for sample_weight, weights in (
        (None, table[labels]),
        (given_weights, given_weights * table[labels]),
    ):
        gradient = net.backprop(X, labels, weights)
        found, cost = step(net, X, Y, lab, class_weight=class_weight, sample_weight=sample_weight)
        assert_close(found, -0.5 * lab.numpy(gradient.vector), 1e-12)
        assert cost == pytest.approx(gradient.cost, rel=1e-12)


@every_classifier
def test_a_pass_over_some_examples_weighs_classes_too(lab, case):
    counts = np.array(counts_for(case))
    nets = []
    for options in ({"class_weight": "balanced"}, {"sample_weight": (1 / counts).repeat(counts)}):
        net, X, labels = labelled(case, lab, counts)
        net.partial_fit(X, labels, batch_size=4, **options)
        nets.append(net)
    lab.assert_close(nets[0].vector, lab.numpy(nets[1].vector), 1e-12)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({3: 1.0}, "class_weight has label 3; labels are 0 to 2"),
        ({-1: 1.0}, "class_weight has label -1; labels are 0 to 2"),
        ({"cat": 1.0}, "class_weight has label 'cat'; labels are 0 to 2"),
        ({0: -1.0}, r"class_weight\[0\] must be 0 or more"),
        ({2: float("nan")}, r"class_weight\[2\] must be 0 or more"),
        ({0: 0, 1: 0, 2: 0}, "sample_weight is 0 for every example"),
        ("balance", "unknown class_weight 'balance'. Did you mean 'balanced'?"),
    ],
    ids=str,
)
def test_class_weights_are_of_labels_that_there_are(lab, class_weight, message):
    net, X, labels = labelled(CLASSIFIERS[0], lab, [3, 2, 1])
    for call in (net.fit, net.partial_fit):
        with pytest.raises(ValueError, match=message):
            call(X, labels, batch_size=3, class_weight=class_weight)


@every_classifier
def test_class_weights_need_classes(lab, case):
    X, Y = case.data(lab)  # of which some are no classes
    with pytest.raises(ValueError, match="class_weight needs classes: integer labels, or columns"):
        case.network(lab).fit(X, Y, batch_size=3, class_weight="balanced", progress=False)
