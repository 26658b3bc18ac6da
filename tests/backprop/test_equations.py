"""The four equations, each on its own, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import PAIRS, Case, assert_close, cases, columns, deep, examples, sigma, targets

import bpengine as bp
from bpengine.backprop import equations
from bpengine.backprop.workspace import Workspace
from bpengine.model.costs import COSTS
from bpengine.model.parameters import Gradient, Parameters
from bpengine.reference import per_example
from bpengine.reference.linear import collapse


class Pass:
    """One forward and backward pass of the engine, its buffers read back."""

    def __init__(self, lab, case):
        net = case.network(lab)
        plan = net.plan(case.batch)
        plan.load(*case.data(lab))
        plan.run()
        ws = plan.workspace
        self.X, self.Y = case.host_data()
        self.m, self.σ = case.batch, [sigma(layer) for layer in case.activations]
        self.w, self.b = ([lab.numpy(x) for x in arrays] for arrays in (net.weights, net.biases))
        self.a = [lab.numpy(a) for a in ws.a]
        self.before = [self.X, *self.a[:-1]]
        self.z = [w @ a + b for w, a, b in zip(self.w, self.before, self.b, strict=True)]
        self.δ = [lab.numpy(δ) for δ in ws.delta]
        self.gradient = plan.gradient


@given(case=cases())
@examples(20)
def test_feedforward_is_the_activation_of_the_weighted_input(lab, case):
    run = Pass(lab, case)
    for l, (σ, _) in enumerate(run.σ):
        assert_close(run.a[l], columns(σ, run.z[l]), 1e-13)


@given(case=cases())
@examples(20)
def test_bp1_the_error_of_the_output_layer(lab, case):
    run = Pass(lab, case)
    _, slope = run.σ[-1]
    nabla = per_example.COSTS[case.cost](run.a[-1], run.Y)
    assert_close(run.δ[-1], columns(slope, nabla, run.z[-1]) / run.m, 1e-12)


@given(case=cases(min_layers=2))
@examples(20)
def test_bp2_the_error_in_terms_of_the_error_of_the_next_layer(lab, case):
    run = Pass(lab, case)
    for l in range(case.layers - 1):
        _, slope = run.σ[l]
        back = run.w[l + 1].T @ run.δ[l + 1]
        expected = columns(slope, back, run.z[l])
        assert_close(run.δ[l], expected, 1e-13, scale=np.abs(back).max())


@given(case=cases())
@examples(20)
def test_bp3_the_rate_of_change_with_the_biases_is_the_error(lab, case):
    run = Pass(lab, case)
    for l, δ in enumerate(run.δ):
        found = lab.numpy(run.gradient.biases[l])
        assert_close(found, δ.sum(axis=1, keepdims=True), 1e-14, scale=np.abs(δ).sum())


@given(case=cases())
@examples(20)
def test_bp4_the_rate_of_change_with_the_weights_is_error_times_activation(lab, case):
    run = Pass(lab, case)
    for l, (δ, a) in enumerate(zip(run.δ, run.before, strict=True)):
        found = lab.numpy(run.gradient.weights[l])
        assert_close(found, δ @ a.T, 1e-14, scale=(np.abs(δ) @ np.abs(a).T).max())


@given(case=cases(max_layers=3))
@examples(20)
def test_the_bias_is_the_weight_of_an_input_that_is_always_one(lab, case):
    net = case.network(lab)
    for l, n in enumerate(case.sizes[:-1]):
        a = np.random.default_rng(case.seed).standard_normal((n, case.batch))
        w, b = lab.numpy(net.weights[l]), lab.numpy(net.biases[l])
        block = lab.numpy(net.parameters.blocks[l])
        extended = np.zeros((block.shape[-1], case.batch))
        extended[:n], extended[n] = a, 1
        assert_close(block @ extended, w @ a + b, 1e-14)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    seed=st.integers(0, 2**20),
)
@examples(20)
def test_a_linear_network_of_any_depth_is_one_affine_map(lab, sizes, seed):
    case = Case(sizes, ["linear"] * (len(sizes) - 1), "quadratic", batch=5, seed=seed)
    net = case.network(lab)
    W, c = collapse([lab.numpy(w) for w in net.weights], [lab.numpy(b) for b in net.biases])
    single = bp.Network([sizes[0], sizes[-1]], "linear", backend=lab.backend, dtype="float64")
    single.weights[0][...] = lab.backend.asarray(W, "float64")
    single.biases[0][...] = lab.backend.asarray(c, "float64")
    X, _ = case.data(lab)
    out = lab.numpy(single.feedforward(X))
    lab.assert_close(net.feedforward(X), out, 1e-13)
    assert_close(out, W @ case.host_data()[0] + c, 1e-13)


def stacked_pass(lab, case, networks, stack):
    """The same equations on parameters and buffers with leading axes."""
    first = networks[0]
    parameters = Parameters(case.sizes, lab.backend, case.dtype, stack)
    for kind in ("weights", "biases"):
        for l, view in enumerate(getattr(parameters, kind)):
            members = [lab.numpy(getattr(net, kind)[l]) for net in networks]
            host = np.stack(members).reshape(stack + members[0].shape)
            view[...] = lab.backend.asarray(host, case.dtype)
    workspace = Workspace(
        case.sizes, first.activations, case.batch, lab.backend, case.dtype, stack=stack
    )
    workspace.fill(*case.data(lab))
    gradient = Gradient(case.sizes, lab.backend, case.dtype, stack)
    σ = first.activations
    operations = [
        *equations.feedforward(parameters, σ, workspace),
        *equations.backprop(parameters, σ, first.cost, workspace, gradient),
    ]
    lab.backend.compile(operations).run(1)
    costs = first.cost.per_example(σ[-1], workspace.z[-1], workspace.a[-1], workspace.targets)
    return workspace, gradient, operations, costs


def assert_members_are_single_networks(lab, case, stack):
    count = int(np.prod(stack))
    seeds = [
        Case(case.sizes, case.activations, case.cost, dtype=case.dtype, seed=seed)
        for seed in range(count)
    ]
    networks = [item.network(lab) for item in seeds]
    workspace, gradient, operations, costs = stacked_pass(lab, case, networks, stack)
    X, Y = case.data(lab)
    for p, net in enumerate(networks):
        at = np.unravel_index(p, stack)
        assert_close(lab.numpy(workspace.a[-1])[at], lab.numpy(net.feedforward(X)), 1e-13)
        single = net.backprop(X, Y)
        assert lab.numpy(costs)[at].mean() == pytest.approx(single.cost, rel=1e-12)
        for l in range(case.layers):
            for kind in ("weights", "biases"):
                found = lab.numpy(getattr(gradient, kind)[l])[at]
                assert_close(found, lab.numpy(getattr(single, kind)[l]), 1e-12)
    plain = [(op.name, op.equation) for op in networks[0].plan(case.batch).operations]
    assert [(op.name, op.equation) for op in operations] == plain


@given(case=cases(max_layers=4), stack=st.sampled_from([(1,), (3,), (2, 2)]))
@examples(20)
def test_a_leading_axis_is_a_stack_of_independent_networks(lab, case, stack):
    assert_members_are_single_networks(lab, case, stack)


@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_a_leading_axis_is_a_stack_of_networks_for_every_pair(lab, σ, cost):
    assert_members_are_single_networks(lab, deep(σ, cost), (3,))


@given(case=cases(max_layers=3, dtypes=("float32", "float64")))
@examples(15)
def test_the_gradient_does_not_depend_on_the_order_of_the_examples(lab, case):
    net = case.network(lab)
    X, Y = case.host_data()
    order = np.random.default_rng(case.seed).permutation(case.batch)
    one = net.backprop(lab.array(X), lab.array(Y))
    other = net.backprop(lab.array(X[:, order]), lab.array(Y[:, order]))
    eps = np.finfo(case.dtype).eps
    assert_close(lab.numpy(other.vector), lab.numpy(one.vector), 16 * eps, scale=np.abs(X).max())
    assert other.cost == pytest.approx(one.cost, rel=16 * float(eps))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("σ", "cost"), [pair for pair in PAIRS if pair[0] != "exponential"])
def test_saturated_networks_give_finite_costs_and_gradients_without_a_warning(lab, σ, cost, dtype):
    case = deep(σ, cost, dtype)
    net = case.network(lab)
    net.vector[...] = net.vector * 1000.0
    X, Y = case.data(lab)
    gradient = net.backprop(X, Y)
    assert np.isfinite(lab.numpy(net.feedforward(X))).all()
    assert np.isfinite(gradient.cost)
    assert np.isfinite(lab.numpy(gradient.vector)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cost", ["binary_cross_entropy", "softmax_cross_entropy"])
def test_the_cost_and_error_of_a_saturated_output_are_exact(lab, cost, dtype):
    σ = "sigmoid" if cost == "binary_cross_entropy" else "softmax"
    net = bp.Network([4, 4], σ, cost, backend=lab.backend, dtype=dtype)
    z = np.array([[1e4, -1e4, 800, 90], [-1e4, 1e4, -800, 30], [0, 1e4, 700, -30], [5, 0, -700, 0]])
    net.vector[...] = 0.0
    net.weights[0][...] = lab.backend.asarray(z, dtype)
    X = np.eye(4, dtype=dtype)
    Y = np.eye(4, dtype=dtype)[:, [1, 2, 0, 2]]
    if cost == "binary_cross_entropy":
        expected = np.logaddexp(0, z) - Y * z
        a = np.exp(-np.logaddexp(0, -z))
    else:
        log_sum = np.logaddexp.reduce(z, axis=0)
        expected = Y * (log_sum - z)
        a = np.exp(z - z.max(axis=0))
        a /= a.sum(axis=0)
    gradient = net.backprop(lab.array(X), lab.array(Y))
    tolerance = 8 * float(np.finfo(dtype).eps)
    assert gradient.cost == pytest.approx(expected.sum(axis=0).mean(), rel=tolerance)
    # X is the identity: the gradient of the weights is δ itself
    lab.assert_close(gradient.weights[0], (a - Y) / 4, tolerance)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_nan_in_a_weight_is_never_hidden(lab, σ, cost, layer):
    case = Case([3, 4, 3], [σ, σ], cost, batch=5, seed=3)
    net = case.network(lab)
    net.weights[layer][0, 0] = float("nan")
    X, Y = case.data(lab)
    gradient = net.backprop(X, Y)
    assert np.isnan(lab.numpy(net.feedforward(X))).any(axis=0).all()
    assert np.isnan(gradient.cost)
    assert np.isnan(lab.numpy(gradient.weights[layer])).any()


def test_targets_of_the_strategy_are_those_that_each_cost_is_defined_for():
    for cost in {cost for _, cost in PAIRS}:
        Y = targets(np.random.default_rng(0), cost, 4, 9)
        COSTS[cost].check_targets(Y, "Y")
