"""A plan does what its equations say, can be counted and priced, and allocates nothing."""

from __future__ import annotations

import dataclasses
import functools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    ALONGSIDE,
    ELEMENTWISE,
    OPTIMIZERS,
    PAIRS,
    REGULARIZED,
    Case,
    cases,
    chain,
    deep,
    examples,
    optimizer_name,
)

import bpengine as bp
from bpengine.backends.numpy import updates

BATCH = 50_000
# one row of a batch of float32: no array of a step is smaller
SMALLEST_ARRAY = 4 * BATCH
# where strides differ, NumPy's iterator copies 8192 elements at a time through a buffer
ITERATOR_BUFFER = 4 * 8192
SGD = bp.SGD(0.01)
PARTS = [["sigmoid", "tanh", "gelu"], ["sigmoid", "sigmoid"]]


@given(
    case=cases(max_layers=4),
    steps=st.integers(1, 5),
    learning_rate=st.floats(0.001, 0.2),
)
@examples(20)
def test_replaying_is_taking_plain_steps(lab, case, steps, learning_rate):
    net, plain = case.network(lab), case.network(lab)
    X, Y = case.data(lab)
    plan = net.plan(case.batch, bp.SGD(learning_rate))
    plan.load(X, Y)
    assert plan.run(steps=steps) is plan
    for _ in range(steps):
        gradient = plain.backprop(X, Y)
        plain.vector[...] = plain.vector - learning_rate * gradient.vector
    lab.assert_close(net.vector, lab.numpy(plain.vector), 1e-12)
    # the cost is that of the last step, before its update
    assert plan.cost == pytest.approx(gradient.cost, rel=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_replaying_is_taking_plain_steps_for_every_pair(lab, σ, cost, dtype):
    case = deep(σ, cost, dtype)
    net, plain = case.network(lab), case.network(lab)
    X, Y = case.data(lab)
    plan = net.plan(case.batch, bp.SGD(0.05))
    plan.load(X, Y)
    plan.run(steps=2).run()
    for _ in range(3):
        plain.vector[...] = plain.vector - 0.05 * plain.backprop(X, Y).vector
    lab.assert_close(net.vector, lab.numpy(plain.vector), 32 * float(np.finfo(dtype).eps))


@given(case=cases(max_layers=4, dtypes=("float32", "float64")))
@examples(20)
def test_without_an_optimizer_a_plan_is_backprop_and_leaves_the_parameters(lab, case):
    net = case.network(lab)
    before = lab.numpy(net.vector).copy()
    X, Y = case.data(lab)
    plan = net.plan(case.batch)
    plan.load(X, Y)
    gradient, expected = plan.run(steps=3).gradient, net.backprop(X, Y)
    np.testing.assert_array_equal(lab.numpy(net.vector), before)
    np.testing.assert_array_equal(lab.numpy(gradient.vector), lab.numpy(expected.vector))
    assert gradient.cost == expected.cost == plan.cost


def test_a_plan_can_be_loaded_again_and_copies_what_it_is_given(lab):
    case = deep("sigmoid", "quadratic")
    net = case.network(lab)
    X, Y = case.host_data()
    plan = net.plan(case.batch)
    plan.load(lab.array(X), lab.array(Y))
    first = lab.numpy(plan.run().gradient.vector).copy()
    plan.load(lab.array(2 * X), lab.array(Y))
    second = lab.numpy(plan.run().gradient.vector).copy()
    expected = net.backprop(lab.array(2 * X), lab.array(Y))
    np.testing.assert_array_equal(second, lab.numpy(expected.vector))
    assert np.abs(first - second).max() > 1e-3
    theirs = np.array(X)
    plan.load(theirs, Y)
    theirs[...] = 0
    np.testing.assert_array_equal(lab.numpy(plan.run().gradient.vector), first)


def test_plans_work_on_the_networks_own_parameters(lab):
    case = deep("tanh", "quadratic")
    net = case.network(lab)
    X, Y = case.data(lab)
    step, gradient = net.plan(case.batch, bp.SGD(0.1)), net.plan(case.batch)
    step.load(X, Y)
    gradient.load(X, Y)
    before = gradient.run().cost
    step.run(steps=5)
    assert gradient.run().cost < before
    net.vector[...] = 0.0
    assert (lab.numpy(net.plan(1).network.vector) == 0).all()
    lab.assert_close(gradient.run().workspace.a[-1], np.zeros((3, case.batch)), 1e-15)


def test_two_plans_of_one_network_do_not_share_buffers(lab):
    case = deep("sigmoid", "quadratic")
    net = case.network(lab)
    X, Y = case.host_data()
    one, other = net.plan(case.batch), net.plan(case.batch)
    one.load(lab.array(X), lab.array(Y))
    other.load(lab.array(-X), lab.array(Y))
    first = one.run().gradient.vector
    saved = lab.numpy(first).copy()
    other.run()
    np.testing.assert_array_equal(lab.numpy(first), saved)
    np.testing.assert_array_equal(lab.numpy(one.run().gradient.vector), saved)


@given(case=cases(), other=st.integers(1, 50))
@examples(20)
def test_the_operations_do_not_depend_on_the_number_of_examples(lab, case, other):
    net = case.network(lab)
    for optimizer in (None, bp.SGD(0.1)):
        plan = net.plan(case.batch, optimizer)
        assert plan.counts["matmul"] == 3 * case.layers - 1
        assert plan.counts == net.plan(other, optimizer).counts
        assert sum(plan.counts.values()) == len(plan.operations)


@given(case=cases())
@examples(20)
def test_products_cost_two_operations_for_each_multiplication(lab, case):
    net = case.network(lab)
    plan = net.plan(case.batch)
    m, n, w = case.batch, case.sizes, net.parameters.blocks
    # [w b] [a; 1] and δ [aᵀ 1] take as much as each other; wᵀ δ leaves out the biases
    expected = sum(2 * 2 * size(block) * m for block in w)
    expected += sum(2 * n[l] * n[l + 1] * m for l in range(1, case.layers))
    assert sum(op.flops for op in plan.operations if op.name == "matmul") == expected
    rest = [op for op in plan.operations if op.name != "matmul"]
    assert plan.flops == expected + sum(size(op.output) for op in rest)


def size(array):
    return int(np.prod(array.shape))


@given(case=cases(dtypes=("float32", "float64")))
@examples(10)
def test_bytes_are_those_of_all_inputs_and_the_output(lab, case):
    plan = case.network(lab).plan(case.batch, bp.SGD(0.1))
    itemsize = np.dtype(case.dtype).itemsize
    for op in plan.operations:
        assert op.bytes == itemsize * sum(size(x) for x in (*op.inputs, op.output))
    assert plan.bytes == sum(op.bytes for op in plan.operations)


@given(case=cases(min_layers=2))
@examples(10)
def test_a_printed_plan_names_every_equation_and_adds_up(lab, case):
    plan = case.network(lab).plan(case.batch, bp.SGD(0.25))
    title, _, *lines, total = str(plan).splitlines()
    for part in ("-".join(map(str, case.sizes)), str(case.batch), case.dtype, "0.25"):
        assert part in title
    assert lab.backend.name in title
    assert len(lines) == len(plan.operations)
    for line, op in zip(lines, plan.operations, strict=True):
        assert op.equation in line and op.name in line
    for equation in ("feedforward", "BP1", "BP2", "BP3", "BP4", "update"):
        assert any(equation in line for line in lines)
    numbers = [[int(cell.replace(",", "")) for cell in line.split()[-2:]] for line in lines]
    found = [int(cell.replace(",", "")) for cell in total.split()[-2:]]
    assert found == np.sum(numbers, axis=0).tolist() == [plan.flops, plan.bytes]
    assert f"{3 * case.layers - 1} matrix products" in total


def test_a_printed_plan_without_an_optimizer_has_no_update(lab):
    text = str(deep("sigmoid", "quadratic").network(lab).plan(4))
    assert text.startswith("gradient: 3-5-4-3, batch 4, float64")
    assert "update" not in text


def test_a_plan_runs_only_when_a_batch_is_loaded(lab):
    with pytest.raises(ValueError, match=r"plan\.load\(X, Y\) before plan\.run"):
        deep("sigmoid", "quadratic").network(lab).plan(4).run()


@pytest.mark.parametrize("result", ["cost", "gradient"])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_plan_that_has_not_run_has_no_results(lab, result, loaded):
    case = deep("sigmoid", "quadratic")
    plan = case.network(lab).plan(case.batch)
    if loaded:
        plan.load(*case.data(lab))
    with pytest.raises(ValueError, match=r"plan\.run\(\)"):
        getattr(plan, result)


def test_a_training_plan_keeps_no_gradient(lab):
    case = deep("sigmoid", "quadratic")
    plan = case.network(lab).plan(case.batch, bp.SGD(0.1))
    plan.load(*case.data(lab))
    with pytest.raises(ValueError, match=r"net\.plan\(batch_size=6\)"):
        _ = plan.run().gradient


def test_a_batch_of_another_size_is_refused(lab):
    case = deep("sigmoid", "quadratic")
    plan = case.network(lab).plan(case.batch + 1)
    with pytest.raises(ValueError, match=r"X has 6 examples; .* batches of 7.*batch_size=6\)"):
        plan.load(*case.data(lab))


def test_what_does_not_fit_the_network_is_refused(lab):
    case = deep("sigmoid", "quadratic")
    X, Y = case.host_data()
    plan = case.network(lab).plan(case.batch)
    with pytest.raises(ValueError, match=r"X\.T"):
        plan.load(lab.array(X.T), lab.array(Y))
    with pytest.raises(ValueError, match=r"Y\.T"):
        plan.load(lab.array(X), lab.array(Y.T))
    with pytest.raises(ValueError, match="no batch is loaded"):
        plan.run()


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_batch_size_and_steps_are_whole_numbers_of_one_or_more(lab, value, error):
    case = deep("sigmoid", "quadratic")
    net = case.network(lab)
    with pytest.raises(error, match="batch_size"):
        net.plan(value)
    plan = net.plan(case.batch)
    plan.load(*case.data(lab))
    with pytest.raises(error, match="steps"):
        plan.run(steps=value)


def test_a_plan_made_before_the_first_array_stays_the_networks_own(lab):
    """A plan's buffers are on the network's backend, which is settled by making one."""
    net = bp.Network([3, 2], dtype="float64", rng=0)
    plan = net.plan(4, bp.SGD(0.5))
    X, Y = lab.array(np.ones((3, 4))), lab.array(np.ones((2, 4)))
    if lab.inferred != "numpy":
        with pytest.raises(TypeError, match="this network's backend is 'numpy'"):
            plan.load(X, Y)
        X, Y = np.ones((3, 4)), np.ones((2, 4))
    before = net.vector.copy()
    plan.load(X, Y)
    plan.run()
    assert np.abs(net.vector - before).max() > 1e-3


def numpy_plan(case, optimizer=SGD, *, weighted=False, **options):
    net = bp.Network(
        case.sizes,
        activations=case.activations,
        cost=case.cost,
        backend="numpy",
        dtype=case.dtype,
        rng=0,
        **options,
    )
    plan = net.plan(case.batch, optimizer, weighted=weighted)
    plan.load(*case.host_data(), np.arange(1, case.batch + 1) if weighted else None)
    return plan


def wide(σ, cost):
    hidden, output = (PARTS[:1] * 2, PARTS[1]) if isinstance(σ, list) else (chain(σ), σ)
    return Case([3, 3, 3, 2], [*hidden, output], cost, batch=BATCH, dtype="float32", seed=1)


STEPS = [*(wide(σ, cost) for σ, cost in PAIRS), wide(PARTS[0], "quadratic")]


def step_name(case):
    return (
        f"{'per neuron' if isinstance(case.activations[0], list) else case.activations[0]}-{case.cost}"
    )


# arrays of parameters are the large ones here, those of activations there
MANY = Case([2, BATCH, 2], ["tanh", "sigmoid"], "quadratic", batch=2, dtype="float32", seed=1)
UPDATES = {
    optimizer_name(rule) + " " + name: (dataclasses.replace(rule, **alongside), options)
    for rule in OPTIMIZERS
    for name, alongside, options in [
        ("alone", {}, {}),
        ("decaying", {"weight_decay": 0.1}, {}),
        ("with l2", {}, {"l2": 0.1}),
        ("with all", ALONGSIDE, {**REGULARIZED, "dropout": [0.25, 0.25], "weighted": True}),
    ]
}
every_update = pytest.mark.parametrize(("optimizer", "options"), UPDATES.values(), ids=UPDATES)


def output(function, operands):
    """The array that a call writes, or None where BLAS writes where its last pointer points."""
    if type(function).__name__ == "_FuncPtr":
        return None
    if isinstance(function, functools.partial):
        assert isinstance(function.func, np.ufunc)
        return function.keywords["out"]
    if isinstance(function, np.ufunc):
        assert len(operands) == function.nin + function.nout
        return operands[-1]
    if function in (np.copyto, updates._rescale, updates._limit_factor):  # of few numbers, or rare
        return operands[0]
    if function is np.dot or isinstance(getattr(function, "__self__", None), np.random.Generator):
        return operands[-1]
    # a reduction, (array, axis, dtype, out, keepdims)
    assert isinstance(getattr(function, "__self__", None), np.ufunc), function
    return operands[3]


def assert_calls_have_outputs(plan):
    for function, operands in plan.program.calls:
        out = output(function, operands)
        if out is None:
            continue
        assert isinstance(out, np.ndarray)
        arrays = [x for x in operands if isinstance(x, np.ndarray)]
        assert {x.dtype for x in (out, *arrays)} == {np.dtype(plan.network.dtype)}


def assert_warm_steps_allocate_no_array(plan, buffers=1):
    """Only the iterator's buffers, for as many operands as it may have to copy."""
    plan.run(steps=2)
    tracemalloc.start()
    try:
        plan.run()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        plan.run(steps=3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < buffers * ITERATOR_BUFFER + 4096 < SMALLEST_ARRAY / 1.5


@pytest.mark.parametrize("case", STEPS, ids=step_name)
def test_on_numpy_every_call_of_a_step_is_a_ufunc_with_its_output(case):
    assert_calls_have_outputs(numpy_plan(case))


@every_update
def test_on_numpy_every_call_of_an_update_has_its_output(optimizer, options):
    assert_calls_have_outputs(numpy_plan(MANY, optimizer, **options))


@pytest.mark.parametrize("case", STEPS, ids=step_name)
def test_on_numpy_a_warm_step_allocates_no_array(case):
    assert_warm_steps_allocate_no_array(numpy_plan(case))


@every_update
@pytest.mark.parametrize("case", [MANY, wide("tanh", "quadratic")], ids=["parameters", "examples"])
def test_on_numpy_no_optimizer_allocates_an_array_in_a_warm_step(case, optimizer, options):
    if "dropout" in options:
        options = {**options, "dropout": [0.25] * case.layers}
    assert_warm_steps_allocate_no_array(numpy_plan(case, optimizer, **options), buffers=3)


def test_the_allocation_test_sees_an_array_of_one_row():
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        np.empty(BATCH, "float32")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before >= SMALLEST_ARRAY


def test_every_elementwise_activation_is_among_the_steps():
    assert {*ELEMENTWISE, "softmax"} == {case.activations[0] for case in STEPS[:-1]}
