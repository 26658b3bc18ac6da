"""Per-example gradients: norms, the gradients themselves and clipped averages, against the loop."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import PAIRS, Case, assert_close, cases, deep, examples, loop

import bpengine as bp
from bpengine.backends.array_api import fallback
from bpengine.backends.numpy.kernels import calls as calls_of
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backprop.per_example import ExampleNorms
from bpengine.derivatives.per_example import per_example_gradients
from bpengine.optimizers.update import OptimizerState

KINDS = ["norms", "gradients", "clip"]


def each_gradient(case, net, lab):
    """∂C_x/∂w and ∂C_x/∂b of every layer by the loop, each with the examples as the first axis."""
    X, Y = case.host_data()
    one = loop(case, net, lab)
    pairs = [one.backprop(X[:, x : x + 1], Y[:, x : x + 1]) for x in range(case.batch)]
    w, b = zip(*pairs, strict=True)
    return [np.stack(layer) for layer in zip(*w, strict=True)], [
        np.stack(layer) for layer in zip(*b, strict=True)
    ]


def layer_norms(case, net, lab):
    """Norms (L, m) of the loop's gradients."""
    return np.array(
        [
            np.sqrt((w**2).sum(axis=(1, 2)) + (b**2).sum(axis=(1, 2)))
            for w, b in zip(*each_gradient(case, net, lab), strict=True)
        ]
    )


def assert_norms_are_those_of_the_loop(lab, case):
    net = case.network(lab)
    found = net.backprop(*case.data(lab), per_example="norms")
    expected = layer_norms(case, net, lab)
    assert isinstance(found, ExampleNorms)
    assert_close(lab.numpy(found.layers), expected, 1e-12)
    assert_close(lab.numpy(found.total), np.sqrt((expected**2).sum(axis=0)), 1e-12)
    assert found.cost == pytest.approx(net.backprop(*case.data(lab)).cost, rel=1e-12)


@given(case=cases())
@examples(25)
def test_norms_are_those_of_the_loop_s_gradients(lab, case):
    assert_norms_are_those_of_the_loop(lab, case)


@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_norms_of_every_pair(lab, σ, cost):
    assert_norms_are_those_of_the_loop(lab, deep(σ, cost))


@given(case=cases())
@examples(25)
def test_gradients_are_those_of_the_loop(lab, case):
    net = case.network(lab)
    found = net.backprop(*case.data(lab), per_example="gradients")
    w, b = each_gradient(case, net, lab)
    for l in range(case.layers):
        assert_close(lab.numpy(found.weights[l]), w[l], 1e-12)
        assert_close(lab.numpy(found.biases[l]), b[l], 1e-12)
    plain = net.backprop(*case.data(lab))
    assert found.cost == pytest.approx(plain.cost, rel=1e-12)


def clipped_average(case, net, lab, bound):
    w, b = each_gradient(case, net, lab)
    total = np.sqrt((layer_norms(case, net, lab) ** 2).sum(axis=0))
    factors = np.minimum(1, bound / np.maximum(total, 1e-300))[:, None, None]
    return [(x * factors).mean(axis=0) for x in w], [(x * factors).mean(axis=0) for x in b]


def assert_clipped_average_is_that_of_the_loop(lab, case, quantile):
    net = case.network(lab)
    norms = np.sqrt((layer_norms(case, net, lab) ** 2).sum(axis=0))
    bound = max(float(np.quantile(norms, quantile)), 1e-6)
    found = net.backprop(*case.data(lab), per_example="clip", max_norm=bound)
    w, b = clipped_average(case, net, lab, bound)
    for l in range(case.layers):
        assert_close(lab.numpy(found.weights[l]), w[l], 1e-12, scale=bound)
        assert_close(lab.numpy(found.biases[l]), b[l], 1e-12, scale=bound)


@given(case=cases(), quantile=st.floats(0, 1))
@examples(25)
def test_the_average_of_clipped_gradients_is_that_of_the_loop(lab, case, quantile):
    assert_clipped_average_is_that_of_the_loop(lab, case, quantile)


@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_the_average_of_clipped_gradients_of_every_pair(lab, σ, cost):
    assert_clipped_average_is_that_of_the_loop(lab, deep(σ, cost), 0.5)


@given(case=cases(dtypes=("float32", "float64")), bound=st.floats(1e-3, 10))
@examples(20)
def test_an_average_of_clipped_gradients_is_no_longer_than_the_bound(lab, case, bound):
    gradient = case.network(lab).backprop(*case.data(lab), per_example="clip", max_norm=bound)
    norm = np.linalg.norm(lab.numpy(gradient.vector).astype("float64"))
    assert norm <= bound * (1 + 16 * float(np.finfo(case.dtype).eps))


@given(case=cases())
@examples(10)
def test_one_example_changes_the_sum_of_clipped_gradients_by_the_bound_at_most(lab, case):
    bound, net = 0.1, case.network(lab)
    X, Y = case.host_data()
    X = np.concatenate([X, 100 * X[:, :1]], axis=1)
    Y = np.concatenate([Y, Y[:, :1]], axis=1)
    m = X.shape[1]
    sums = [
        n
        * lab.numpy(
            net.backprop(
                lab.array(X[:, :n]), lab.array(Y[:, :n]), per_example="clip", max_norm=bound
            ).vector
        )
        for n in (m - 1, m)
    ]
    assert np.linalg.norm(sums[1] - sums[0]) <= bound * (1 + 1e-9)


@given(case=cases(max_layers=3))
@examples(15)
def test_without_a_bound_that_binds_clipping_gives_the_plain_gradient(lab, case):
    net = case.network(lab, l1=0.01, l2=0.1)
    plain = net.backprop(*case.data(lab))
    clipped = net.backprop(*case.data(lab), per_example="clip", max_norm=1e9)
    lab.assert_close(clipped.vector, lab.numpy(plain.vector), 1e-12)
    assert clipped.cost == plain.cost
    item = net.backprop(*case.data(lab), per_example="gradients")
    bare = case.network(lab).backprop(*case.data(lab))
    for found, expected in zip(item.weights, bare.weights, strict=True):
        assert_close(lab.numpy(found).mean(axis=0), lab.numpy(expected), 1e-12, scale=1e-9)


def test_padding_has_no_part_in_norms(lab):
    class Aligned(type(lab.backend)):
        alignment = 64

        def __init__(self):
            vars(self).update(vars(lab.backend))

    case = Case([3, 5, 2], ["tanh", "sigmoid"], "quadratic", batch=4, seed=5)
    net = case.network(lab, backend=Aligned())
    found = net.backprop(*case.data(lab), per_example="norms")
    assert_close(lab.numpy(found.layers), layer_norms(case, net, lab), 1e-13)
    item = net.backprop(*case.data(lab), per_example="gradients")
    assert_close(lab.numpy(item.weights[0]), each_gradient(case, net, lab)[0][0], 1e-13)


@given(case=cases(max_layers=3), chunk=st.integers(1, 4))
@examples(15)
def test_chunks_are_parts_of_all_gradients(lab, case, chunk):
    net = case.network(lab)
    X, Y = case.data(lab)
    whole = net.backprop(X, Y, per_example="gradients")
    seen = []
    for columns, gradient in per_example_gradients(net, X, Y, chunk=chunk):
        seen.append((columns.start, columns.stop))
        for found, expected in zip(gradient.weights, whole.weights, strict=True):
            assert_close(lab.numpy(found), lab.numpy(expected)[columns], 1e-12, scale=1e-9)
        assert found.shape[0] <= chunk
    starts = list(range(0, case.batch, chunk))
    assert seen == [(start, min(start + chunk, case.batch)) for start in starts]


def test_norms_of_many_examples_are_taken_in_chunks(lab, monkeypatch):
    monkeypatch.setattr("bpengine.backprop.forward.CHUNK_ELEMENTS", 20)
    case = Case([3, 4, 2], ["sigmoid", "sigmoid"], "quadratic", batch=7)
    assert_norms_are_those_of_the_loop(lab, case)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_is_replayed_and_counted(lab, kind):
    case = deep("tanh", "quadratic")
    net = case.network(lab)
    bound = {"max_norm": 0.1} if kind == "clip" else {}
    plan = net.plan(case.batch, per_example=kind, **bound)
    assert plan.counts["matmul"] == (8 if kind == "clip" else 5)
    plan.load(*case.data(lab))
    result = (lambda: plan.norms.total) if kind == "norms" else (lambda: plan.gradient.vector)
    plan.run()
    first = lab.numpy(result()).copy()
    assert (lab.numpy(plan.run(3) and result()) == first).all()
    assert "norms" in str(plan) or kind == "gradients"


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_run_allocates_no_array(kind):
    net = bp.Network([300, 300, 300], ["tanh", "sigmoid"], backend="numpy", rng=0)
    plan = net.plan(128, per_example=kind, **({"max_norm": 0.1} if kind == "clip" else {}))
    plan.load(np.ones((300, 128), "float32"), np.zeros((300, 128), "float32"))
    plan.run(2)
    tracemalloc.start()
    try:
        plan.run(5)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        plan.run(5)
        # NumPy's iterator may allocate buffers; no temporary of a layer's 153,600 bytes
        assert tracemalloc.get_traced_memory()[1] - before < 80_000
    finally:
        tracemalloc.stop()


def test_numpy_has_a_kernel_for_every_operation_and_it_equals_the_expression():
    net = bp.Network([6, 5, 3], ["tanh", "sigmoid"], backend="numpy", dtype="float64", rng=0)
    rng = np.random.default_rng(0)
    for kind in KINDS:
        plan = net.plan(4, per_example=kind, **({"max_norm": 0.1} if kind == "clip" else {}))
        plan.load(rng.standard_normal((6, 4)), rng.standard_normal((3, 4)))
        plan.run()
        for op in plan.operations:
            if op.equation in ("norms", "clip") or op.name == "column products":
                expected = op.expression(*op.inputs)
                calls = calls_of(Scratch(), op)
                assert calls[0][0] is not fallback(op)[0]
                for function, operands in calls:
                    function(*operands)
                assert_close(op.output, expected, 1e-14)


@pytest.mark.parametrize("optimizer", [bp.SGD(0.5), bp.SGD(0.5, momentum=0.9), bp.Adam(0.1)])
def test_a_step_along_clipped_gradients(lab, optimizer):
    case = deep("tanh", "quadratic")
    net, other = case.network(lab, l2=0.01), case.network(lab, l2=0.01)
    plan = net.plan(case.batch, optimizer, per_example="clip", max_norm=0.2)
    plan.load(*case.data(lab))
    state = OptimizerState(optimizer, other.parameters)
    gradient = bp.Gradient(other.sizes, other.backend, other.dtype)
    for array, value in state.settings(optimizer.learning_rate):
        array[...] = value
    unit = state.gradient_scale(optimizer.learning_rate)
    update = lab.backend.compile(state.operations(gradient))
    for _ in range(3):
        plan.run()
        found = other.backprop(*case.data(lab), per_example="clip", max_norm=0.2)
        gradient.vector[...] = found.vector * unit
        update.run(1)
        lab.assert_close(net.vector, lab.numpy(other.vector), 1e-12)


def test_extreme_gradients_stay_within_the_bound():
    net = bp.Network([2, 2], "linear", backend="numpy", rng=0)
    X = np.array([[1e15, 0.0, 1e-20], [0.0, 0.0, 0.0]], "float32")
    Y = np.array([[1e12, 0.0, 0.0], [0.0, 0.0, 0.0]], "float32")
    gradient = net.backprop(X, Y, per_example="clip", max_norm=1.0)
    assert np.isfinite(gradient.vector).all()
    assert np.linalg.norm(gradient.vector) <= 1.001
    assert np.isfinite(net.backprop(X, Y, per_example="norms").total).all()


def test_an_example_without_error_has_norm_zero_and_stays():
    net = bp.Network([2, 2], "linear", backend="numpy", dtype="float64", rng=0)
    X = np.ones((2, 3))
    Y = net.feedforward(X)
    assert (net.backprop(X, Y, per_example="norms").total == 0).all()
    assert (net.backprop(X, Y, per_example="clip", max_norm=1e-9).vector == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_example": "norm"}, "unknown per_example 'norm'. Did you mean 'norms'?"),
        ({"per_example": "clip"}, "per_example='clip' needs a bound: give max_norm=."),
        ({"per_example": "norms", "max_norm": 1.0}, "per_example='norms' takes no max_norm."),
        ({"per_example": "clip", "max_norm": 0.0}, "max_norm must be above 0 and finite, got 0.0."),
        ({"max_norm": 1.0}, "max_norm is a bound for per_example='clip'; give that too."),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    net = bp.Network([2, 2], rng=0)
    with pytest.raises(ValueError) as error:
        net.backprop(np.ones((2, 3)), np.ones((2, 3)), **arguments)
    assert message in str(error.value)
    with pytest.raises(ValueError) as error:
        net.plan(3, **arguments)
    assert message in str(error.value)


def test_weights_go_with_averages_alone():
    net = bp.Network([2, 2], rng=0)
    with pytest.raises(ValueError, match="per-example gradients are of C_x"):
        net.backprop(np.ones((2, 3)), np.ones((2, 3)), np.ones(3), per_example="norms")


def test_each_kind_gives_its_own_result():
    net = bp.Network([2, 2], rng=0)
    X = Y = np.ones((2, 3))
    norms, gradients = net.plan(3, per_example="norms"), net.plan(3, per_example="gradients")
    for plan in (norms, gradients):
        plan.load(X, Y)
    with pytest.raises(ValueError, match="forms no gradient"):
        norms.run().gradient  # noqa: B018
    with pytest.raises(ValueError, match="this plan takes gradients"):
        gradients.run().norms  # noqa: B018
    with pytest.raises(ValueError, match="leave the optimizer out"):
        net.plan(3, bp.SGD(0.1), per_example="norms")
