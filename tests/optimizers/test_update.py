"""Updates on NumPy: kernels equal their expressions, and folding them into products changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import types

import numpy as np
import pytest
from strategies import ALONGSIDE, OPTIMIZERS, REGULARIZED, Case, assert_close, deep, optimizer_name

import bpengine as bp
from bpengine import backends
from bpengine.backends.numpy import blas, updates

NUMPY = types.SimpleNamespace(backend=backends.get("numpy"), array=np.array, numpy=np.asarray)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=optimizer_name)
# of the networks here; sizes that no alignment divides
CASE = Case([3, 9, 7, 5], ["tanh", "relu", "softmax"], "softmax_cross_entropy", batch=6, seed=7)


def everything(optimizer, lab, dtype="float64"):
    """A plan of all kinds of operations around an optimizer, a batch loaded and some steps taken."""
    case = dataclasses.replace(CASE, dtype=dtype)
    net = case.network(lab, **{**REGULARIZED, "dropout": [0.25] * 3})
    optimizer = dataclasses.replace(optimizer, **{**ALONGSIDE, "max_norm": 0.5})
    plan = net.plan(case.batch, optimizer, weighted=True)
    plan.load(*case.data(lab), np.arange(1.0, case.batch + 1))
    return plan.run(steps=3)


def scramble(plan, lab, rng):
    """Random parameters, gradient and memory, of magnitudes that matter to each other."""
    dtype = plan.network.dtype

    def put(array, values):
        array[...] = lab.array(values.astype(dtype))

    size = plan.network.vector.shape
    put(plan.network.vector, rng.standard_normal(size))
    put(plan.reduction.average.vector, rng.standard_normal(size) * 10.0 ** rng.integers(-3, 2, size))
    for name, array in plan.state.arrays.items():
        if name in ("square", "squares"):
            put(array, rng.exponential(size=size))
        elif array.shape == size:
            put(array, rng.standard_normal(size))
        else:
            put(array, rng.uniform(1, 10, array.shape))


def own_operations(plan):
    """Those that do not belong to the gradient of a plain network."""
    return [
        op
        for op in plan.operations
        if op.equation in ("update", "penalty", "dropout") or op.name == "weigh"
    ]


@every_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("block", [1, 7, 2**15])
def test_every_kernel_of_an_update_is_its_expression(lab, monkeypatch, optimizer, dtype, block):
    """Memory and all, on views of the weights, whatever the length of the blocks."""
    monkeypatch.setattr(updates, "BLOCK", block)
    plan, rng = everything(optimizer, lab, dtype), np.random.default_rng(0)
    eps, xp = float(np.finfo(dtype).eps), lab.backend.xp
    of_update = own_operations(plan)
    assert {"weigh", "l1", "l2", "clip", "max norm", "average"} < {op.name for op in of_update}
    for op in of_update:
        scramble(plan, lab, rng)
        if op.name == "dropout mask":
            op.output[...] = lab.array(rng.random(op.output.shape).astype(dtype))
        inputs = tuple(xp.asarray(x, copy=True) for x in op.inputs)
        state = plan.network.rng.bit_generator.state
        expected = op.expression(*inputs)
        after = plan.network.rng.bit_generator.state
        plan.network.rng.bit_generator.state = state
        lab.backend.compile([op]).run(1)
        assert plan.network.rng.bit_generator.state == after
        written = op.output, *op.state
        for found, value in zip(written, expected if op.state else (expected,), strict=True):
            assert_close(lab.numpy(found), lab.numpy(value), 32 * eps)
        for before, x in zip(inputs, op.inputs, strict=True):
            if isinstance(x, np.ndarray) and not any(np.shares_memory(x, entry) for entry in written):
                np.testing.assert_array_equal(lab.numpy(before), lab.numpy(x), err_msg=op.name)


@every_optimizer
def test_no_kernel_of_an_update_writes_beyond_the_weights_it_is_given(lab, optimizer):
    """Weights are views; between them lie the biases."""
    plan, rng = everything(optimizer, lab), np.random.default_rng(0)
    net = plan.network
    for op in plan.operations:
        if op.name in ("decay", "max norm"):
            scramble(plan, lab, rng)
            before = lab.numpy(net.vector).copy()
            lab.backend.compile([op]).run(1)
            changed = lab.numpy(net.vector) != before
            w = np.zeros(before.shape, bool)
            for view, mine in zip(net.weights, views(net, w), strict=True):
                mine[...] = view is op.output
            assert (changed <= w).all()
            assert changed.any()


def views(net, vector):
    """The parts of a vector that the weights are of the network's."""
    start, parts = 0, []
    for block, n in zip(net.parameters.blocks, net.sizes, strict=False):
        stop = start + block.shape[0] * block.shape[1]
        parts.append(vector[start:stop].reshape(block.shape)[:, :n])
        start = stop
    return parts


@every_optimizer
@pytest.mark.parametrize("which", [0, 1])
def test_no_kernel_of_an_update_hides_nan(lab, optimizer, which):
    plan, rng = everything(optimizer, lab), np.random.default_rng(0)
    tried = set()
    for op in own_operations(plan):
        if op.name in ("uniform", "dropout mask") or len(op.inputs) <= which:
            continue
        scramble(plan, lab, rng)
        x = op.inputs[which]
        copies = [plan.network.backend.xp.asarray(entry, copy=True) for entry in op.inputs]
        x[(0,) * x.ndim] = float("nan")
        lab.backend.compile([op]).run(1)
        assert np.isnan(lab.numpy(op.output)[(0,) * op.output.ndim]).all(), op.name
        for entry, before in zip(op.inputs, copies, strict=True):
            entry[...] = before
        tried.add(op.name)
    assert {"clip", "clip factor", "max norm", "decay", "l1", "l2", "average", "dropout"} <= tried


FOLDED = [
    (dataclasses.replace(rule, weight_decay=decay), {"l2": l2, **options})
    for rule, decay, l2, options in itertools.product(
        OPTIMIZERS[:3], [0.0, 0.2], [0.0, 0.2], [{}, {"dropout": 0.25}]
    )
]
FOLDED += [(dataclasses.replace(rule, **ALONGSIDE), REGULARIZED) for rule in OPTIMIZERS]
FOLDED += [
    (dataclasses.replace(rule, **{name: value}), {})
    for rule in OPTIMIZERS[:2]
    for name, value in ALONGSIDE.items()
]
every_folding = pytest.mark.parametrize(
    ("optimizer", "options"),
    FOLDED,
    ids=[f"{rule!r} {options}" for rule, options in FOLDED],
)


def steps(case, optimizer, options, weighted, compile_as=None):
    """Parameters and memory after three steps on NumPy."""
    net = case.network(NUMPY, **options)
    plan = net.plan(case.batch, optimizer, weighted=weighted)
    plan.load(*case.host_data(), np.arange(1.0, case.batch + 1) if weighted else None)
    if compile_as is not None:
        plan.program = compile_as(plan.operations)
    plan.run().run(steps=2)
    return [net.vector, *plan.state.arrays.values()]


@every_folding
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", [CASE, deep("tanh", "quadratic")], ids=["canonical", "not"])
def test_folding_into_products_changes_no_step(monkeypatch, case, optimizer, options, weighted):
    """Operation by operation, kernels from each other apart, it is the same."""

    def scalar_writes(operations):
        programs = [NUMPY.backend.compile([op]) for op in operations]

        class Apart:
            def run(self, count):
                for _ in range(count):
                    for program in programs:
                        program.run(1)

        return Apart()

    folded = steps(case, optimizer, options, weighted)
    apart = steps(case, optimizer, options, weighted, scalar_writes)
    by_expression = steps(case, optimizer, options, weighted, generic)
    monkeypatch.setattr(blas, "_library", lambda dtype: (None, None))
    without = steps(case, optimizer, options, weighted)
    for expected, *others in zip(by_expression, folded, apart, without, strict=True):
        for found in others:
            assert_close(found, expected, 1e-12)


def generic(operations):
    """What a backend without kernels does: each operation by its expression."""
    return backends.ArrayAPIBackend(NUMPY.backend.xp).compile(operations)


@every_folding
def test_products_may_come_in_any_order_that_the_equations_allow(optimizer, options):
    """BP3 and BP4 of a layer before BP2 reads its weights: no weight is moved too soon."""

    def products_first(operations):
        reordered, later = [], None
        for op in operations:
            if op.equation == "BP2":
                later = later or len(reordered)
            if op.equation == "BP3, BP4" and later:
                reordered.insert(later, op)
                later = None
            else:
                reordered.append(op)
        assert reordered != operations
        return NUMPY.backend.compile(reordered)

    case = deep("tanh", "quadratic")
    usual = steps(case, optimizer, options, False)
    for found, expected in zip(
        steps(case, optimizer, options, False, products_first), usual, strict=True
    ):
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize(
    ("optimizer", "options", "is_folded"),
    [
        (bp.SGD(0.1), {}, True),
        (bp.SGD(0.1), {"l2": 0.1}, True),
        (bp.SGD(0.1, weight_decay=0.1), {}, True),
        (bp.SGD(0.1, momentum=0.9), {}, True),
        (bp.SGD(0.1, momentum=0.9), {"l2": 0.1}, True),
        (bp.SGD(0.1, momentum=0.9, weight_decay=0.1), {}, True),
        (bp.SGD(0.1, momentum=0.9, averaging=0.9), {"dropout": 0.25}, True),
        (bp.SGD(0.1, max_norm=1.0), {}, True),
        (bp.SGD(0.1, clip_norm=1.0), {}, False),
        (bp.SGD(0.1), {"l1": 0.1}, False),
        (bp.Adam(0.1), {}, False),
    ],
    ids=repr,
)
def test_gradients_that_nothing_else_reads_are_folded(optimizer, options, is_folded):
    if blas._library("float64")[0] is None:
        pytest.skip("NumPy's BLAS can't be called by way of C")
    plan = CASE.network(NUMPY, **options).plan(4, optimizer)
    called = [function for function, _ in plan.program.calls]
    assert (blas._library("float64")[0] in called) == is_folded
