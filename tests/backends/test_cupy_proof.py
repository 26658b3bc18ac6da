"""A plan on CuPy proves itself: whatever is wrong with its kernels and graphs, the numbers are right."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import bpengine as bp
from bpengine.backends import DeviceMemoryError
from bpengine.backends.base import warn_once
from bpengine.backends.cupy import cuda_source, proof
from bpengine.backends.cupy.program import REPORT

double = pytest.importorskip("cuda_double")
pytestmark = pytest.mark.skipif(double.COMPILER is None, reason="no C++ compiler")

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((5, 44)), RNG.random((3, 44))
SCHEDULED = bp.SGD(bp.schedules.Cosine(0.3, epochs=3))


@pytest.fixture(autouse=True)
def warn_again():
    warn_once.cache_clear()


@pytest.fixture
def backend():
    return double.Double()


def network(backend, **options):
    options = {"activations": "tanh", "dtype": "float64", "rng": 3, **options}
    return bp.Network([5, 7, 6, 3], backend=backend, **options)


def trained(backend, optimizer=SCHEDULED, **options):
    net = network(backend, **options)
    history = net.fit(X, Y, epochs=3, batch_size=4, optimizer=optimizer, progress=False)
    arrays = (*net.weights, *net.biases)
    return np.concatenate([np.ravel(net.backend.to_numpy(x)) for x in arrays]), history.cost, net.rng


def is_right(backend, optimizer=SCHEDULED, **options):
    found, expected = trained(backend, optimizer, **options), trained("numpy", optimizer, **options)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9)
    assert found[2].bit_generator.state == expected[2].bit_generator.state


def is_right_with_reports(backend, caplog, optimizer=SCHEDULED, reports=1, **options):
    with caplog.at_level(logging.WARNING, "bpengine"):
        for _ in range(2):  # the second network has the structure of the first
            is_right(backend, optimizer, **options)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == reports and all(REPORT in text for text in found)


# kernels

NEGATED = {
    "tanh": bp.SGD(0.3),
    "tanh slope": bp.SGD(0.3),
    "reverse difference": bp.SGD(0.3),
    "add": bp.SGD(0.1, momentum=0.9),
    "adam": bp.Adam(0.01),
    "rmsprop": bp.RMSprop(0.01),
    "clip": bp.SGD(0.3, clip_norm=0.1),
    "average": bp.SGD(0.3, averaging=0.9),
}


@pytest.mark.parametrize("name", NEGATED)
def test_a_kernel_with_a_wrong_sign(backend, caplog, monkeypatch, name):
    monkeypatch.setitem(cuda_source.ELEMENTWISE, name, cuda_source.ELEMENTWISE[name] + " $o = -$o;")
    is_right_with_reports(backend, caplog, NEGATED[name])


@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop"])
def test_a_kernel_with_a_wrong_state(backend, caplog, monkeypatch, name):
    monkeypatch.setitem(cuda_source.ELEMENTWISE, name, cuda_source.ELEMENTWISE[name] + " $2 *= 2;")
    optimizers = {"momentum": bp.SGD(0.1, momentum=0.5, clip_norm=9.0), **NEGATED}
    is_right_with_reports(backend, caplog, optimizers[name])


WRONG = {
    "gather": ("numbers[first + r]", "numbers[first]"),
    "store": ("slot[i] = x[i]", "slot[i] = x[0]"),
    "settings": ("table[at[0] * n + i]", "table[i]"),
    "advance_state": ("s[1] = (u64)x", "s[1] = s[1]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_of_batches_settings_and_random_numbers(backend, caplog, monkeypatch, name):
    source = cuda_source.SPECIAL[name]
    right, wrong = WRONG[name]
    assert right in source
    monkeypatch.setitem(cuda_source.SPECIAL, name, source.replace(right, wrong))
    is_right_with_reports(backend, caplog, dropout=0.25)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_kernel_that_writes_past_its_rows(backend, caplog, monkeypatch, rows):
    """Over the row of ones, which products read, and no operation writes."""

    def as_call(item, as_call=backend.gpu.as_call):
        if getattr(item, "name", "") == "elementwise_tanh":
            count, *rest = item.arguments
            item = dataclasses.replace(item, arguments=(count + 4 * rows, *rest))
        return as_call(item)

    monkeypatch.setattr(backend.gpu, "as_call", as_call)
    is_right_with_reports(backend, caplog)


def test_a_kernel_that_can_not_be_compiled(backend, caplog, monkeypatch):
    def as_call(item, as_call=backend.gpu.as_call):
        if "tanh" in getattr(item, "name", ""):
            raise RuntimeError("cannot open source file cuda_fp16.h")
        return as_call(item)

    monkeypatch.setattr(backend.gpu, "as_call", as_call)
    is_right_with_reports(backend, caplog, dropout=0.25)
    assert "cuda_fp16.h" in caplog.text


def test_a_kernel_that_fails_at_random_is_used_after_all(backend, caplog, monkeypatch):
    def once(kernel, *of, call=double.Kernel.__call__):
        monkeypatch.setattr(double.Kernel, "__call__", call)
        raise double.OutOfMemoryError("Out of memory allocating 1 bytes.")

    monkeypatch.setattr(double.Kernel, "__call__", once)
    with caplog.at_level(logging.WARNING, "bpengine"):
        is_right(backend, dropout=0.25)
    assert not caplog.text and backend.cuda.graph_launches


# products


class WrongLeading(double.Cublas):
    """Rows that follow each other without a gap."""

    def gemm(self, handle, ta, tb, m, n, k, α, a, ra, lda, b, rb, ldb, *rest):
        lda, ldb = k if ta else m, n if tb else k
        super().gemm(handle, ta, tb, m, n, k, α, a, ra, lda, b, rb, ldb, *rest)


class Refused(double.Cublas):
    def gemm(self, *operands):
        raise RuntimeError("cublasGemmEx gave cublasStatus_t 13.")


@pytest.mark.parametrize("cublas", [WrongLeading, Refused])
def test_a_product_with_a_wrong_leading_dimension_or_that_fails(caplog, cublas):
    is_right_with_reports(double.Double(cublas=cublas), caplog)


# graphs


@pytest.mark.parametrize("what", ["parameters", "learning rate", "batch"])
def test_a_graph_that_replays_stale_numbers(backend, caplog, monkeypatch, what):
    plans = []

    def capture(run, workspace, capture=backend.gpu.capture):
        graph, plan = capture(run, workspace), plans[-1]
        arrays = {"parameters": plan.network.vector, "batch": plan.workspace.rows}
        array = arrays.get(what, plan.workspace.scale)
        stale = array._array.copy()

        def launch(launch=graph.launch):
            array._array[...] = stale
            launch()

        graph.launch = launch
        return graph

    monkeypatch.setattr(backend.gpu, "capture", capture)
    found = []
    for where in ("numpy", backend):
        plans.append(network(where).plan(4, bp.SGD(0.3)))
        for i in range(4):
            plans[-1].load(X[:, i : i + 4], Y[:, i : i + 4])
            plans[-1].learning_rate = 0.3 / (i + 1)
            with caplog.at_level(logging.WARNING, "bpengine"):
                plans[-1].run(5)
        found.append(plans[-1].network.backend.to_numpy(plans[-1].network.weights[0]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-8)
    assert caplog.text.count(REPORT) == 1 and "CUDA graph" in caplog.text


@pytest.mark.parametrize("times", [1, 10**6])
def test_a_capture_that_fails_is_tried_once_more(backend, caplog, monkeypatch, times):
    failed = []

    def end_capture(stream, end_capture=double.Stream.end_capture):
        graph = end_capture(stream)
        if len(failed) < times:
            failed.append(stream)
            raise double.RefusedError("cudaErrorStreamCaptureInvalidated")
        return graph

    monkeypatch.setattr(double.Stream, "end_capture", end_capture)
    with caplog.at_level(logging.WARNING, "bpengine"):
        is_right(backend, dropout=0.25)
    assert bool(caplog.text) == (times > 1) == (not backend.cuda.graph_launches)
    assert not backend.cuda.captures and not backend.gpu.distrusted


def test_a_graph_without_memory_for_its_workspace(backend, caplog, monkeypatch):
    def workspace():
        raise DeviceMemoryError("Out of memory allocating 33,554,432 bytes", 0)

    monkeypatch.setattr(backend.gpu.library, "workspace", workspace)
    with caplog.at_level(logging.WARNING, "bpengine"):
        is_right(backend)
    assert "can't be captured" in caplog.text and "33,554,432 bytes" in caplog.text
    assert backend.cuda.graph_launches == 0


# the comparison


def test_a_first_step_whose_expressions_need_too_much_memory_changes_nothing(backend):
    def sine(z):
        raise double.OutOfMemoryError("Out of memory allocating 1 bytes.")

    net = network(backend, activations=[bp.Activation("sine", sine, sine), "tanh", "tanh"], dropout=0.5)
    plan = net.plan(4, bp.SGD(0.1))
    plan.load(X[:, :4], Y[:, :4])
    before, state = backend.to_numpy(net.vector), net.rng.bit_generator.state
    with pytest.raises(DeviceMemoryError, match="BPENGINE_TRUST=1 skips"):
        plan.run()
    np.testing.assert_array_equal(backend.to_numpy(net.vector), before)
    assert net.rng.bit_generator.state == state


def test_a_step_that_diverges_proves_nothing(backend, caplog):
    net = network(backend, activations=["relu", "relu", "linear"], dtype="float32")
    plan = net.plan(4, bp.SGD(1e30))
    plan.load(X[:, :4], Y[:, :4])
    with caplog.at_level(logging.WARNING, "bpengine"), np.errstate(all="ignore"):
        plan.run(12)
    assert not caplog.text and not np.isfinite(backend.to_numpy(net.vector)).all()
    assert not any(plan.program._loaded.runs), "no graph is proven"


def test_ctrl_c_in_a_comparison_leaves_whole_steps(backend):
    expected = [network("numpy").vector.copy()]
    twin = network("numpy")
    note = bp.Callback()
    note.steps = lambda training, steps: expected.append(twin.vector.copy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpengine.training.steps.READBACK_STEPS", (1, 1))
        patch.setattr("bpengine.training.steps.READBACK_ELEMENTS", 1)
        twin.fit(X, Y, epochs=1, batch_size=4, callbacks=[note], progress=False)
    assert len(expected) == 12
    for call in (1, 2, 3, 5, 8, 21):
        calls = []

        def tanh(z, calls=calls, call=call):
            calls.append(z)
            if len(calls) == call:
                raise KeyboardInterrupt
            return array_namespace(z).tanh(z)

        σ = bp.Activation("interrupted", tanh, lambda a: 1 - a * a, "a")
        net = network(backend, activations=[σ, "tanh", "tanh"])
        net.fit(X, Y, epochs=1, batch_size=4, progress=False)
        found = net.to("numpy").vector
        assert min(np.abs(found - x).max() for x in expected) < 1e-12


def test_trust_skips_the_comparison(backend, monkeypatch):
    monkeypatch.setenv("BPENGINE_TRUST", "1")
    monkeypatch.setattr(proof.Proof, "compare", None)
    is_right(backend, dropout=0.25)
    assert backend.cuda.graph_launches


def test_a_structure_is_compared_once(backend, monkeypatch):
    compared = []
    compare = proof.Proof.compare
    monkeypatch.setattr(
        proof.Proof, "compare", lambda *of, **by: compared.append(of) or compare(*of, **by)
    )
    trained(backend)
    first = len(compared)
    trained(backend)
    assert 3 <= first == len(compared), "calls, a graph of eight steps, one of one step"
    trained(backend, bp.SGD(0.3, momentum=0.5))
    assert len(compared) == 2 * first


def test_custom_functions_are_compared_in_every_plan(backend, caplog):
    """Names and shapes don't say what they compute; here what they computed when they were captured."""
    steps = []

    def fading(z):
        steps.append(z)
        return z * (1 / len(steps))

    custom = bp.Activation("fading", fading, lambda z: array_namespace(z).ones_like(z))
    net = network(backend, activations=[custom, "tanh", "tanh"])
    with caplog.at_level(logging.WARNING, "bpengine"):
        net.fit(X, Y, epochs=2, batch_size=4, progress=False)
    assert REPORT in caplog.text
    before = len(steps)
    net.fit(X, Y, epochs=1, batch_size=4, progress=False)
    assert len(steps) >= before + 11


def test_what_is_compared(backend):
    plan = network(backend, dropout=0.25).plan(4, bp.Adam())
    ws, net = plan.workspace, plan.network
    compared = {id(x.array) for x in proof.compared(backend.gpu, plan.operations)}
    for array in (net.vector, *plan.state.arrays.values(), ws.a[-1]):
        assert id(array) in compared
    assert not {id(x) for x in (plan.reduction.average.vector, *ws.z, *ws.delta)} & compared
    gradient = network(backend).plan(4)
    compared = proof.compared(backend.gpu, gradient.operations)
    blocks = {backend.gpu.view(x) for x in gradient.reduction.average.blocks}
    assert blocks <= {backend.gpu.view(x.array) for x in compared}
    constant = [x.array.shape for x in compared if not x.written and x.array.shape[1:] == (4,)]
    assert {(1, 4), (2, 4)} < set(constant), "1 and 0 beside both hidden layers"


@given(
    n=st.integers(1, 300),
    scale=st.floats(1e-6, 1e3),
    dtype=st.sampled_from(["float32", "float64"]),
    wrong=st.sampled_from(["nothing", "sign", "not written", "not finite"]),
    seed=st.integers(0, 2**16),
)
@examples(60)
def test_rounding_agrees_and_a_defect_does_not(n, scale, dtype, wrong, seed):
    rng = np.random.default_rng(seed)
    start, change = rng.standard_normal(n).astype(dtype), rng.standard_normal(n) * scale + scale
    expected = (start + change).astype(dtype)
    eps = np.finfo(dtype).eps
    found = (start + change * (1 + 30 * eps * rng.standard_normal(n))).astype(dtype)
    i = rng.integers(n)
    if wrong == "sign":
        found = (start - change).astype(dtype)
    elif wrong == "not written":
        change[i] = np.abs(change[i]) + 2 * scale
        expected, found[i] = (start + change).astype(dtype), start[i]
    elif wrong == "not finite":
        found[i] = np.inf
    visible = scale > 100 * eps * np.abs(start).max()
    if wrong == "nothing" or visible:
        assert proof.agree(found, expected, start) == (wrong == "nothing")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_whose_squares_overflow_or_underflow(dtype):
    x = np.linspace(-1, 1, 9, dtype=dtype)
    for scale in (np.finfo(dtype).max, np.sqrt(np.finfo(dtype).tiny)):
        right, rounded, wrong = (x * part * scale for part in (1, 1 - 4 * np.finfo(dtype).eps, -0.9))
        with np.errstate(all="raise"):
            assert proof.agree(rounded, right, -right) and not proof.agree(wrong, right, -right)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_of_nothing_but_rounding_is_right(backend, dtype):
    """At a minimum, where the terms of its sums cancel."""
    rng, penalty = np.random.default_rng(0), np.diag([2.0, 2, 2, 0])
    reported = []
    for _ in range(20):
        one = np.vstack([rng.standard_normal((3, 20)), np.ones(20)])
        Y = rng.standard_normal((2, 20))
        minimum = np.linalg.solve(one @ one.T + penalty, one @ Y.T).T
        net = bp.Network([3, 2], activations="linear", l2=0.1, dtype=dtype, backend=backend)
        net.weights[0], net.biases[0] = (
            backend.asarray(x, dtype) for x in np.split(minimum, [3], axis=1)
        )
        gradient = net.backprop(one[:3].astype(dtype), Y.astype(dtype)).vector
        assert np.abs(backend.to_numpy(gradient)).max() < 100 * np.finfo(dtype).eps
        backend.gpu.proven.clear()
        reported += backend.gpu.distrusted
    assert not reported


def test_non_finite_results_agree():
    x = np.array([1.0, np.nan, np.inf])
    assert proof.agree(x, x, np.ones(3)) and proof.agree(x * np.nan, x * np.nan)
    assert not proof.agree(np.ones(3), x)
    assert proof.agree(np.ones(0), np.ones(0))


def test_tf32_is_rounding_where_it_was_asked_for():
    x = np.linspace(1, 2, 100, dtype="float32")
    y = x * np.float32(1 + 1e-2)
    assert proof.agree(y, x, tf32=True) and not proof.agree(y, x)
    assert not proof.agree(-x, x, tf32=True)


def test_a_prediction_leaves_the_parameters_alone_while_it_is_compared(backend, monkeypatch):
    # other threads may predict, or train
    net, seen = network(backend), []
    before, write = backend.to_numpy(net.vector), proof.Proof._write

    def and_look(*arguments, **options):
        write(*arguments, **options)
        seen.append(backend.to_numpy(net.vector))

    monkeypatch.setattr(proof.Proof, "_write", and_look)
    for _ in range(3):
        net.feedforward(X)
        net.backprop(X, Y)
    assert len(seen) >= 4  # calls and graphs of both
    np.testing.assert_array_equal(seen, [before] * len(seen))
