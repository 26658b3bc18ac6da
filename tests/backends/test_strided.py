"""NumPy's calls for the operations of a stack: other calls, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import REGULARIZED, Case, cases, examples, targets

import bpengine as bp
from bpengine import openblas
from bpengine.backends.numpy import blas, elementwise, kernels, per_example, updates
from bpengine.backends.numpy.scratch import Scratch
from bpengine.backends.numpy.strided import has_gaps, rows_per_product
from bpengine.backends.operation import Operation

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def run(case, P, options):
    nets = bp.Network(
        case.sizes,
        case.activations,
        case.cost,
        backend="numpy",
        dtype=case.dtype,
        stack=P,
        rng=case.seed,
        **options,
    )
    plan = nets.plan(case.batch, bp.SGD(0.01))
    rng = np.random.default_rng(case.seed)
    X = rng.standard_normal((case.sizes[0], case.batch))
    plan.load(X, targets(rng, case.cost, case.sizes[-1], case.batch))
    plan.run(steps=2)
    return plan


@given(
    case=cases(max_layers=4, dtypes=("float32", "float64")),
    P=st.integers(1, 4),
    options=st.sampled_from([{}, {"l2": 0.1}, REGULARIZED]),
)
@examples(60)
def test_copies_without_gaps_change_no_result(case, P, options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "without_gaps", lambda k, kernel, op, calls: calls)
        expected = run(case, P, options)
    found = run(case, P, options)
    pairs = [(found.network.vector, expected.network.vector)]
    for name in ("z", "a", "delta"):
        pairs += zip(getattr(found.workspace, name), getattr(expected.workspace, name), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=TOLERANCE[case.dtype], atol=1e-12)


def test_a_sigmoid_of_a_stack_is_computed_without_gaps():
    plan = run(Case([2, 3, 3, 1], ["sigmoid"] * 3, "quadratic", batch=50), 4, {})
    gaps = [call[0] for call in plan.program.calls if has_gaps(call)]
    # into [a; 1; 0] twice, out of it where z is there too and for two slopes, and the shared targets
    assert gaps.count(np.copyto) == 6
    assert np.exp not in gaps


@given(
    rows=st.integers(1, 700),
    inner=st.integers(1, 900),
    columns=st.integers(1, 16),
    dtype=st.sampled_from(["float32", "float64"]),
    threads=st.sampled_from([1, 1, 1, 2, None]),
)
@examples(60)
def test_a_product_in_blocks_is_the_product(rows, inner, columns, dtype, threads):
    rng = np.random.default_rng(rows)
    a = rng.standard_normal((rows, inner)).astype(dtype)
    b = rng.standard_normal((columns, inner)).astype(dtype).T
    out = np.empty((rows, columns), dtype)
    op = Operation("matmul", "feedforward", np.matmul, (a, b), out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openblas, "threads", lambda: threads)
        ((function, operands),) = kernels.calls(Scratch(), op)
    function(*operands)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(out, a @ b, atol=float(inner * eps * (abs(a) @ abs(b)).max()))


def test_only_products_of_one_thread_with_few_columns_are_in_blocks(monkeypatch):
    a, few, many = np.ones((1920, 785), "f4"), np.ones((785, 10), "f4"), np.ones((785, 32), "f4")
    out, wide = np.empty((1920, 10), "f4"), np.empty((1920, 32), "f4")
    monkeypatch.setattr(openblas, "threads", lambda: 1)
    assert rows_per_product(a, few, out) == 120
    assert rows_per_product(a, many, wide) == 1920
    assert rows_per_product(a[:, ::2], few[::2], out) == 1920
    assert rows_per_product(a[:1919], few, out[:1919]) == 101, "1919 is 19 times 101"
    assert rows_per_product(a[:1913], few, out[:1913]) == 1913, "a prime"
    monkeypatch.setattr(openblas, "threads", lambda: 2)
    assert rows_per_product(a, few, out) == 1920


def test_no_kernel_takes_the_place_of_another():
    tables = elementwise.ELEMENTWISE, per_example.PER_EXAMPLE, updates.UPDATES, blas.FOLDED
    assert sum(map(len, tables)) == len(kernels.KERNELS)
    nets = bp.Network([2, 3, 2], backend="numpy", stack=2)
    clipping = nets.plan(4, bp.SGD(clip_norm=1.0)).counts
    assert clipping["clip factor per network"] == 1
    assert set(clipping) <= set(kernels.KERNELS)
