"""Every kernel is its array-API expression on arrays as they lie in memory, on each backend."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ALONGSIDE, OPTIMIZERS, REGULARIZED, cases, examples

import bpengine as bp
from bpengine.backends import Operation
from bpengine.backprop.per_example import KINDS
from bpengine.model.activations import ACTIVATIONS

OPTIMIZED = [bp.SGD(0.1), *(dataclasses.replace(optimizer, **ALONGSIDE) for optimizer in OPTIMIZERS)]
dtypes = st.sampled_from(["float32", "float64"])


def operations():
    """Of each name one operation, as plans have it; if any is in place, one that is."""
    options = {"backend": "numpy", "dtype": "float64", "rng": 0}
    plans = [bp.Network([5, 7, 3], **REGULARIZED, **options).plan(4, rule) for rule in OPTIMIZED]
    plans += [bp.Network([5, 7, 3], σ, "absolute_error", **options).plan(4) for σ in ACTIVATIONS]
    for σ, cost in (("exponential", "poisson"), ("sigmoid", "binary_cross_entropy"), ("tanh", "huber")):
        plans.append(bp.Network([5, 7, 3], σ, cost, **options).plan(4, weighted=True))
    net = bp.Network([5, 7, 3], **options)
    for kind in KINDS:
        plans.append(net.plan(4, per_example=kind, **({"max_norm": 1.0} if kind == "clip" else {})))
    found = [op for plan in plans for op in plan.operations]
    return {op.name: op for op in sorted(found, key=in_place)}


def in_place(op):
    """Whether an operation writes to where its first input is."""
    return np.shares_memory(op.inputs[0], op.output) if op.inputs else False


OPERATIONS = operations()
REDUCTIONS = ["clip factor", "max norm", "product norms", "total norms"]
ELEMENTWISE = sorted(
    name
    for name, op in OPERATIONS.items()
    if op.output.ndim == 2 and not op.state and name not in ("matmul", "uniform", *REDUCTIONS)
)


@st.composite
def layouts(draw):
    """Makes an array of some values that lies in memory as a view of a larger one may."""
    steps = draw(st.tuples(st.sampled_from([1, 1, 2]), *[st.sampled_from([1, 1, 2, 3, 4, 8])] * 2))
    spare, turned = draw(st.sampled_from([0, 0, 1, 3, 7])), draw(st.booleans())

    def laid_out(backend, host):
        if not host.ndim:
            return backend.asarray(host, host.dtype.name)
        *lead, n, m = (1,) * (2 - host.ndim) + host.shape
        if turned:
            n, m = m, n
        wide = [k * steps[0] for k in lead] + [n * steps[1], m * steps[2] + spare]
        whole = backend.empty(tuple(wide), host.dtype.name)
        ends = tuple(slice(0, k * steps[0], steps[0]) for k in lead)
        part = whole[(*ends, slice(0, None, steps[1]), slice(0, m * steps[2], steps[2]))]
        part = part.mT if turned else part
        part = part[0, ...] if host.ndim == 1 else part
        part[...] = backend.asarray(host, host.dtype.name)
        return part

    return laid_out


def shape_of(name, x, stack, n, m):
    """The shape of an operand where matrices are (n, m)."""
    if x.ndim == 0:
        return ()
    if name == "weigh":
        return (1, m)
    return (m,) if x.ndim == 1 else (*stack, n, m)


def compare(backend, op, hosts, output, tolerance):
    inputs = [f(backend, x) for f, x in hosts]
    expected = op.expression(*(x for _, x in hosts))
    out = inputs[0] if output is None else output(backend, np.zeros_like(expected))
    backend.compile([Operation(op.name, "", op.expression, tuple(inputs), out)]).run(1)
    found = backend.to_numpy(out)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(
    n=st.integers(1, 9),
    m=st.one_of(st.just(1), st.integers(1, 9), st.integers(1, 300)),
    stack=st.sampled_from([(), (1,), (2,), (3, 1, 2)]),
    laid=st.lists(layouts(), min_size=4, max_size=4),
    fresh=st.booleans(),
    dtype=dtypes,
    seed=st.integers(0, 99),
)
@examples(6)
def test_an_elementwise_kernel_takes_any_view(backend, name, n, m, stack, laid, fresh, dtype, seed):
    """Rows of a layer, one column, one row, transposes, stacks of one and many, in place and not."""
    op = OPERATIONS[name]
    rng = np.random.default_rng(seed)
    shapes = [shape_of(name, x, stack, n, m) for x in op.inputs]
    hosts = [rng.uniform(0.1, 0.9, shape).astype(dtype) for shape in shapes]
    output = None if in_place(op) and not fresh else laid[-1]
    tolerance = 64 * np.finfo(dtype).eps
    compare(backend, op, list(zip(laid, hosts, strict=False)), output, tolerance)


STRIDES = 1, 2, 3, 4, 5, 8, 9, 16


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elementwise_kernel_takes_every_pair_of_strides(backend, name, dtype):
    """One column: that of a layer whose batch is one example, or one neuron's of all networks."""
    op, rng = OPERATIONS[name], np.random.default_rng(0)
    for stride, target in [*itertools.product(STRIDES, STRIDES), *((s, None) for s in STRIDES)]:
        if target is None and not in_place(op):
            continue
        hosts = [rng.uniform(0.1, 0.9, shape_of(name, x, (), 17, 1)).astype(dtype) for x in op.inputs]
        output = None if target is None else column(target)
        compare(backend, op, [(column(stride), x) for x in hosts], output, 64 * np.finfo(dtype).eps)


def column(stride):
    """Makes an array of one column whose numbers are so far apart."""

    def laid_out(backend, host):
        if host.ndim != 2 or host.shape[1] != 1:
            return backend.asarray(host, host.dtype.name)
        part = backend.empty((len(host), stride), host.dtype.name)[:, :1]
        part[...] = backend.asarray(host, host.dtype.name)
        return part

    return laid_out


@pytest.mark.parametrize("name", REDUCTIONS)
@given(
    n=st.integers(1, 700),
    k=st.integers(1, 9),
    m=st.integers(1, 9),
    laid=st.lists(layouts(), min_size=3, max_size=3),
    dtype=dtypes,
)
@examples(12)
def test_a_reduction_takes_any_view(backend, name, n, k, m, laid, dtype):
    op, rng = OPERATIONS[name], np.random.default_rng(n)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    hosts = {
        "product norms": lambda: (draw(n, m), draw(k, m)),
        "total norms": lambda: (abs(draw(k, n)),),
        "max norm": lambda: (draw(k, n), np.array(0.5, dtype)),
        "clip factor": lambda: (draw(17 * n), np.array(0.5, dtype)),
    }[name]()
    output = None if in_place(op) and m % 2 else laid[-1]
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    compare(backend, op, list(zip(laid, hosts, strict=False)), output, tolerance)


@given(
    case=cases(max_layers=4, max_width=9, max_batch=9, dtypes=("float32", "float64")),
    stack=st.sampled_from([None, 1, 2, 5]),
    rule=st.sampled_from([None, *OPTIMIZED]),
    options=st.sampled_from([{}, REGULARIZED]),
    weighted=st.booleans(),
)
@examples(50)
def test_every_operation_of_a_plan_is_its_expression(backend, case, stack, rule, options, weighted):
    """On the very arrays of plans: of any layers, one neuron, one example, a stack of one or many."""
    net = bp.Network(
        case.sizes,
        case.activations,
        case.cost,
        backend=backend,
        dtype=case.dtype,
        rng=case.seed,
        stack=stack,
        **options,
    )
    plan = net.plan(case.batch, rule, weighted=weighted)
    X, Y = case.host_data()
    plan.load(X, Y, *([np.linspace(0.5, 1.5, case.batch)] if weighted else []))
    plan.run(1)
    for op in plan.operations:
        if op.name == "uniform":
            continue
        hosts = [backend.to_numpy(x).copy() for x in op.inputs]
        expected = op.expression(*hosts)
        backend.compile([op]).run(1)
        scale = max(1.0, *(np.abs(x).max(initial=0.0) for x in hosts))
        tolerance = 256 * np.finfo(case.dtype).eps
        for x, wanted in zip((op.output, *op.state), expected if op.state else (expected,), strict=True):
            found = backend.to_numpy(x)
            np.testing.assert_allclose(found, wanted, tolerance, tolerance * scale, err_msg=op.name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [4, 8])
def test_a_neuron_of_its_own_activation_in_a_stack_has_the_gradient_that_it_has_alone(backend, n, dtype):
    """One example, and n numbers from one network's neuron to the next's: np.negative's wrong stride."""
    σ = [*["tanh"] * (n - 1), "softplus"]
    nets = bp.Network([2, n, 1], [σ, "linear"], backend=backend, dtype=dtype, stack=3, rng=0)
    batch = np.ones((2, 1)), np.zeros((1, 1))
    found = nets.backprop(*batch)
    for p in range(3):
        alone = nets[p].backprop(*batch)
        np.testing.assert_allclose(
            *(backend.to_numpy(w) for w in (found.weights[0][p, ...], alone.weights[0])), rtol=1e-5
        )
