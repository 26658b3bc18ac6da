"""The compiled backend: its functions, its kernels and products, and what it makes of a plan."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cases, examples

import bpengine as bp
from bpengine import backends
from bpengine.backends.operation import Operation
from bpengine.backends.program import Batches
from bpengine.optimizers.norm_limits import _clip_factors

numba = pytest.importorskip("numba", reason="Numba is not installed")

from bpengine.backends.array_api import Replay  # noqa: E402
from bpengine.backends.numba import custom, lowering, matmul, vector_math  # noqa: E402
from bpengine.backends.numba.threads import replay  # noqa: E402
from bpengine.training import backend_choice  # noqa: E402

NETWORKS = {
    "penalties": {"l1": 0.01, "l2": 0.02},
    "dropout": {"dropout": [0.2, 0.5]},
    "plain": {},
}
OPTIMIZERS = {
    "descent": bp.SGD(0.1),
    "clipped": bp.SGD(0.1, clip_norm=0.01, max_norm=1.0, averaging=0.9),
    "decay": bp.SGD(0.1, weight_decay=0.1),
    "momentum": bp.SGD(0.1, momentum=0.9),
    "nesterov": bp.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": bp.Adam(0.01),
    "adamw": bp.AdamW(0.01),
    "rmsprop": bp.RMSprop(0.01),
    "adagrad": bp.Adagrad(0.01),
}
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


FUNCTIONS = {"exp": 2, "expm1": 2, "log1p": 2, "sigmoid": 2.5, "tanh": 2.5}  # units in the last place


def exactly(name, x, wider):
    """A function of x in a wider type; σ is 0 where e⁻ˣ overflows in x's own, as NumPy has it."""
    with np.errstate(all="ignore"):
        y = x.astype(wider)
        if name != "sigmoid":
            return getattr(np, name)(y)
        return np.where(y < -np.log(np.finfo(x.dtype).max.astype(wider)), 0, 1 / (1 + np.exp(-y)))


@pytest.fixture(scope="module")
def compiled():
    """Loops over arrays, as a kernel has them, of each function."""

    def loop(f):
        @numba.njit(error_model="numpy")
        def run(x, out):
            for i in range(x.size):
                out[i] = f(x[i])

        return run

    return {name: loop(getattr(vector_math, name)) for name in FUNCTIONS}


def units(found, exact):
    """Distance in units of the last place of the exact result, taken in its wider type."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(found.dtype)
    unit = np.spacing(np.abs(rounded)).astype(exact.dtype)
    with np.errstate(invalid="ignore"):
        distance = np.abs(found.astype(exact.dtype) - exact) / unit
    same = (np.isnan(found) & np.isnan(exact)) | (found == rounded)
    return np.where(same, 0.0, distance)


def arguments(name, dtype):
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    extremes = [0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, -info.tiny]
    extremes += [info.smallest_subnormal, -info.smallest_subnormal, 1, -1, 104, -104, 746, -746]
    if dtype == "float32":
        every = np.arange(0, 2**32, 4093, dtype=np.uint32).view("float32")
    else:
        every = rng.integers(0, 2**64, 5 * 10**5, dtype=np.uint64).view("float64")
    near = [rng.normal(0, width, 10**5) for width in (0.1, 1, 30, 300)]
    x = np.concatenate([every, *near, extremes], dtype=dtype, casting="same_kind")
    return x[~((x < 0) | (x > 1))] if name == "log1p" else x


@dtypes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_right_to_the_last_places(compiled, name, dtype):
    x = arguments(name, dtype)
    out = np.empty_like(x)
    compiled[name](x, out)
    wider = {"float32": np.float64, "float64": np.longdouble}[dtype]
    exact = exactly(name, x, wider)
    worst = units(out, exact)
    assert worst.max() <= FUNCTIONS[name], (
        name,
        x[worst.argmax()],
        out[worst.argmax()],
        exact[worst.argmax()],
    )


@pytest.mark.skipif("BPENGINE_EXHAUSTIVE" not in os.environ, reason="takes minutes: nox -s exhaustive")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_float32_there_is(compiled, name):
    worst, part = 0.0, 2**24
    for start in range(0, 2**32, part):
        x = np.arange(start, start + part, dtype=np.uint32).view("float32")
        x = x[~((x < 0) | (x > 1))] if name == "log1p" else x
        out = np.empty_like(x)
        compiled[name](x, out)
        exact = exactly(name, x, "float64")
        worst = max(worst, units(out, exact).max(initial=0.0))
    assert worst <= FUNCTIONS[name]


@dtypes
@pytest.mark.parametrize("name", ["tanh", "log1p"])
def test_zeros_keep_their_sign(compiled, name, dtype):
    x = np.array([0.0, -0.0], dtype)
    out = np.empty_like(x)
    compiled[name](x, out)
    np.testing.assert_array_equal(np.signbit(out), [False, True])


def numba_network(dtype="float64", backend="numba", sizes=(5, 7, 3), **options):
    return bp.Network(sizes, ["tanh", "sigmoid"], backend=backend, dtype=dtype, rng=0, **options)


@dtypes
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_kernel_of_a_step_is_its_expression(rule, network, dtype):
    """Operation by operation, with what an optimizer remembers, and nothing of it in Python."""
    net = numba_network(dtype, **NETWORKS[network])
    plan = net.plan(6, OPTIMIZERS[rule], weighted=True)
    rng = np.random.default_rng(0)
    plan.load(rng.random((5, 6)), rng.random((3, 6)), rng.random(6) + 0.5)
    plan.run(2)
    for op in plan.operations:
        program = net.backend.compile([op])
        if op.name == "uniform":
            program.run(1)
            continue
        assert [function for function, _ in program.calls] in ([replay], []), op.name
        expected = op.expression(*(x.copy() for x in op.inputs))
        program.run(1)
        expected = expected if op.state else (expected,)
        tolerance = 64 * np.finfo(dtype).eps
        for found, wanted in zip((op.output, *op.state), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance, err_msg=op.name)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_training_is_that_of_numpy(rule, network):
    """The same masks, batches, averages: `fit` with all that a step can have."""
    rng = np.random.default_rng(1)
    X, Y, weights = rng.random((5, 47)), rng.random((3, 47)), rng.random(47) + 0.5
    found = []
    for backend in ("numpy", "numba"):
        net = numba_network(backend=backend, **NETWORKS[network])
        options = {"epochs": 3, "batch_size": 6, "optimizer": OPTIMIZERS[rule], "progress": False}
        history = net.fit(X, Y, sample_weight=weights, **options)
        found.append((net.vector, history.cost))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-9)


def test_partial_fit_takes_new_arrays_each_time():
    rng, vectors = np.random.default_rng(0), []
    data = [(rng.random((5, 12)), rng.random((3, 12))) for _ in range(5)]
    for backend in ("numpy", "numba"):
        net = numba_network(backend=backend)
        for X, Y in data:
            net.partial_fit(X.copy(), Y.copy(), batch_size=4)
        vectors.append(net.vector)
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-10)


@pytest.mark.parametrize(
    "kind", [bp.SGD, bp.Adam, bp.AdamW, lambda rate: bp.SGD(rate, momentum=0.5, clip_norm=0.1)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_schedule_is_followed_without_a_call_of_python_in_each_step(kind, dtype, monkeypatch):
    rng, vectors = np.random.default_rng(0), []
    X, Y = rng.random((5, 22)), rng.random((3, 22))
    optimizer = kind(bp.schedules.WarmUp(bp.schedules.Cosine(0.3, epochs=3), epochs=1))
    for backend in ("numpy", "numba"):
        net = numba_network(backend=backend, dtype=dtype, l2=0.01)
        net.fit(X, Y, epochs=3, batch_size=4, optimizer=optimizer, progress=False)
        vectors.append(net.vector)

        def never(*_):
            raise AssertionError("a step in Python")

        monkeypatch.setattr(Replay, "run_batches", never)
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-3 if dtype == "float32" else 1e-10)


@given(case=cases(max_layers=4))
@examples(20)
def test_steps_are_those_of_numpy(case):
    X, Y = case.host_data()
    vectors = []
    for backend in ("numpy", "numba"):
        net = bp.Network(
            case.sizes, case.activations, case.cost, backend=backend, dtype="float64", rng=case.seed
        )
        plan = net.plan(X.shape[1], bp.SGD(0.01, momentum=0.5))
        plan.load(X, Y)
        plan.run(3)
        vectors.append(net.vector)
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-9, atol=1e-10)


def matrix(rng, shape, transposed, spare, dtype):
    """A matrix in memory as one of a plan may lie: within wider rows, or as a transpose."""
    rows, columns = shape[::-1] if transposed else shape
    made = rng.standard_normal((rows, columns + spare)).astype(dtype)[:, :columns]
    return made.T if transposed else made


@dtypes
@given(
    shape=st.tuples(*[st.integers(1, 70)] * 3),
    transposed=st.tuples(st.booleans(), st.booleans()),
    spare=st.integers(0, 2),
    β=st.sampled_from([0.0, 1.0, 0.9]),
)
@examples(60)
def test_products_of_any_shape_and_layout(dtype, shape, transposed, spare, β):
    rng = np.random.default_rng(0)
    m, n, k = shape
    a = matrix(rng, (m, k), transposed[0], spare, dtype)
    b = matrix(rng, (k, n), transposed[1], spare, dtype)
    c = matrix(rng, (m, n), False, spare, dtype)
    around = c.base.copy()
    if β == 0:
        c[...] = np.nan  # is not to be read
    α, β_ = np.array(-0.5, dtype), np.array(β, dtype)
    expected = -0.5 * (a @ b) + (β * c if β else 0)
    op = Operation("add product", "", None, (a, b, c, α, β_), c)
    backends.get("numba").compile([op]).run(1)
    np.testing.assert_allclose(c, expected, rtol=0, atol=200 * np.finfo(dtype).eps * k**0.5)
    np.testing.assert_array_equal(c.base[:, n:], around[:, n:])


@dtypes
@pytest.mark.parametrize("kernel", [None, "rows product", "dots product", "library product"])
@given(
    shape=st.tuples(*[st.integers(1, 70)] * 3),
    networks=st.integers(1, 4),
    shared=st.tuples(st.booleans(), st.booleans()),
    spare=st.integers(0, 2),
    transposed=st.booleans(),
)
@examples(20)
def test_a_stack_of_products_is_one_instruction(
    kernel, dtype, shape, networks, shared, spare, transposed
):
    """By each of the kernels that can."""
    rng = np.random.default_rng(0)
    m, n, k = shape
    transposed |= kernel == "dots product"
    lead_a, lead_b = (() if one else (networks,) for one in shared)
    a = rng.standard_normal((*lead_a, m, k + spare)).astype(dtype)[..., :k]
    columns, rows = (k, n) if transposed else (n, k)
    b = rng.standard_normal((*lead_b, rows, columns + spare)).astype(dtype)[..., :columns]
    b = np.swapaxes(b, -1, -2) if transposed else b
    c = np.full((networks, m, n + spare), np.nan, dtype)[:, :, :n]
    with pytest.MonkeyPatch.context() as patch:
        if kernel is not None:
            patch.setattr(matmul, "cheapest", lambda *args, **options: kernel)
        program = backends.get("numba").compile([Operation("matmul", "", None, (a, b), c)])
    program.run(1)
    expected = np.broadcast_to(a @ b, c.shape)
    np.testing.assert_allclose(c, expected, rtol=0, atol=200 * np.finfo(dtype).eps * k**0.5)
    [(function, (instructions, _))] = program.calls
    assert function is replay and len(instructions) == 1


def test_what_networks_share_is_made_contiguous_once():
    """Targets, say, whose rows are columns in memory."""
    rng = np.random.default_rng(0)
    a, y, out = rng.random((4, 3, 5)), rng.random((5, 7)).T[:3], np.empty((4, 3, 5))
    scale = np.array(0.5)
    instructions = lowering.Lowering().lower(Operation("difference", "", None, (a, y, scale), out))
    assert len(instructions) == 2
    backends.get("numba").compile([Operation("difference", "", None, (a, y, scale), out)]).run(1)
    np.testing.assert_allclose(out, (a - y) * scale)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_a_step_of_a_stack_is_compiled_as_a_whole(rule, output):
    """Networks share the batch; all operations have leading axes."""
    rng, vectors = np.random.default_rng(0), []
    cost = "softmax_cross_entropy" if output == "softmax" else "quadratic"
    X, Y = rng.random((5, 6)), np.eye(3)[:, rng.integers(0, 3, 6)]
    for backend in ("numpy", "numba"):
        nets = bp.Network([5, 7, 3], ["tanh", output], cost, backend, "float64", rng=0, stack=4)
        plan = nets.plan(6, OPTIMIZERS[rule])
        plan.load(X, Y)
        plan.run(steps=3)
        vectors.append(nets.vector)
    functions = [function for function, _ in plan.program.calls]
    assert functions == [replay]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("steps", [1, 3])
def test_programs_without_instructions(steps):
    x, y = np.zeros((1, 2)), np.zeros((1, 2))
    backend = backends.get("numba")
    backend.compile([]).run(steps)
    backend.compile([Operation("linear", "", None, (x,), x)]).run(steps)
    backend.compile([Operation("custom function", "", lambda x: x + np.size(x), (y,), y)]).run(steps)
    np.testing.assert_array_equal(y, [[2.0 * steps] * 2])


@dtypes
@pytest.mark.parametrize("bound", [0.5, [0.1, 1e9, 2.0]])
def test_each_network_of_a_stack_is_clipped_by_itself(bound, dtype):
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal(shape).astype(dtype) for shape in ((3, 40, 30), (3, 7, 41))]
    blocks[0][1] = blocks[1][1] = 0  # no gradient, and so no factor but 1
    bound = np.array(bound, dtype)
    bound = bound.reshape(3, 1, 1) if bound.ndim else bound
    factor = np.empty((3, 1, 1), dtype)
    op = Operation("clip factor per network", "", _clip_factors, (*blocks, bound), factor)
    program = backends.get("numba").compile([op])
    program.run(1)
    assert [function for function, _ in program.calls] == [replay]
    np.testing.assert_allclose(factor, op.expression(*op.inputs), rtol=64 * np.finfo(dtype).eps)
    assert factor[1] == 1
    blocks[1][2, 0, 0] = np.nan
    program.run(1)
    np.testing.assert_array_equal(np.isnan(factor.ravel()), [False, False, True])


@pytest.mark.parametrize("library", [(0, 0), None], ids=["without", "with"])
def test_large_products_with_and_without_the_library(monkeypatch, library):
    if library is not None:
        monkeypatch.setattr(lowering.blas, "library", lambda dtype: library)
    monkeypatch.setattr(matmul, "LIBRARY_FROM", 0)
    rng = np.random.default_rng(0)
    for a, b in [
        (rng.random((9, 40)), rng.random((40, 50))),
        (rng.random((40, 9)).T, rng.random((50, 40)).T),
    ]:
        c = np.empty((9, 50))
        backends.get("numba").compile([Operation("matmul", "", None, (a, b), c)]).run(1)
        np.testing.assert_allclose(c, a @ b)


def squared(a, y):
    return np.sum((a - y) ** 2, axis=-2)


OFFSET = 0.0
CUSTOM = {
    "a ufunc": ({"function": np.sin, "derivative": np.cos}, "quadratic"),
    "formulas": ({"function": lambda z: z**3, "derivative": lambda z: 3 * z * z}, "quadratic"),
    "of a": ({"function": np.exp, "derivative": lambda a: a, "of": "a"}, "quadratic"),
    "a cost": ({"function": np.tanh, "derivative": lambda z: 1 - np.tanh(z) ** 2}, "custom"),
}


def test_equal_custom_functions_are_compiled_once():
    """By code, closure, defaults and globals, not by the object; NumPy computes further ones."""

    def steps(factor, shift=0.0):
        def function(z):
            return np.sin(factor * z) + shift + OFFSET

        custom_activation = bp.Activation("a function", function, lambda z: factor * np.cos(factor * z))
        net = bp.Network([2, 2], [custom_activation], "quadratic", backend="numba", rng=0)
        return net.feedforward(np.ones((2, 1)))[0, 0]

    with mock.patch.object(custom, "_compile", side_effect=custom._compile) as compiled:
        first = steps(1.5)
        count = compiled.call_count
        assert steps(1.5) == first
        assert compiled.call_count == count
        with mock.patch.dict(globals(), OFFSET=1.0):
            assert steps(1.5) == pytest.approx(first + 1, rel=1e-6)
        assert compiled.call_count == count + 1
        with mock.patch.object(custom, "LIMIT", len(custom._kernels) + 1):
            for shift in (0.5, 0.75, 0.875):
                assert steps(1.5, shift) == pytest.approx(first + shift, rel=1e-6)
            assert steps(1.5) == first
        assert compiled.call_count == count + 2


@pytest.mark.parametrize(
    ("which", "dtype"),
    [("a ufunc", "float64"), ("formulas", "float32"), ("of a", "float64"), ("a cost", "float32")],
)
def test_custom_functions_are_compiled(which, dtype):
    functions, cost = CUSTOM[which]
    rng = np.random.default_rng(0)
    X, Y, weights = rng.random((5, 12)), rng.random((3, 12)), rng.random(12) + 0.5
    custom = bp.Activation("a function", **functions)
    if cost == "custom":
        cost = bp.Cost("a cost", squared, lambda a, y: 2 * (a - y))
    vectors = []
    for backend in ("numpy", "numba"):
        net = bp.Network([5, 4, 3], [custom, "sigmoid"], cost, backend=backend, dtype=dtype, rng=0)
        net.fit(X, Y, epochs=3, batch_size=4, sample_weight=weights, progress=False)
        vectors.append(net.vector)
        plan = net.plan(4, bp.SGD(0.1))
    assert [function for function, _ in plan.program.calls] == [replay]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e3 * np.finfo(dtype).eps)


def test_a_function_that_numba_can_not_compile_is_called_in_python_with_one_warning(caplog):
    rng = np.random.default_rng(0)
    X, Y = rng.random((5, 12)), rng.random((3, 12))

    def sine(z):
        return getattr(np, "sin".strip())(z)  # no compiler knows what that is

    custom = bp.Activation("uncompiled sine", sine, np.cos)
    vectors = []
    for backend in ("numpy", "numba", "numba"):
        net = bp.Network([5, 4, 3], [custom, "sigmoid"], backend=backend, dtype="float64", rng=0)
        net.fit(X, Y, epochs=2, batch_size=4, progress=False)
        vectors.append(net.vector)
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-10)
    messages = (record.getMessage() for record in caplog.records)
    warned = [text.partition(" has")[0] for text in messages if "custom uncompiled sine' has" in text]
    assert warned == ["'custom uncompiled sine'"]


def test_a_function_that_numba_computes_differently_is_called_in_python():
    """A function of whole columns that takes single numbers too: the trial finds it."""
    custom = bp.Activation("by size", lambda z: z * np.size(z), lambda z: z * 0 + 1)
    net = bp.Network([2, 2], [custom], "quadratic", backend="numba", rng=0)
    plan = net.plan(3, bp.SGD(0.1))
    assert any(call is not replay for call, _ in plan.program.calls)


@pytest.mark.parametrize("shape", [(3,), ()])
def test_a_custom_function_of_the_wrong_shape_is_an_error_as_on_numpy(shape):
    custom = bp.Activation("of another shape", lambda z: np.zeros(shape), np.cos)
    for backend in ("numpy", "numba"):
        net = bp.Network([2, 4, 1], [custom, "sigmoid"], backend=backend, rng=0)
        with pytest.raises(ValueError, match="expected"):
            net.feedforward(np.ones((2, 5)))


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no way to send oneself Ctrl-C")
def test_ctrl_c_between_steps_and_their_number_is_right():
    """Compiled code returns to Python every few tenths of a second; complete steps are counted."""

    def training():
        net = numba_network(sizes=(300, 200, 3), dtype="float32")
        return net, net.plan(50, bp.SGD(1e-3))

    (net, plan), (again, repeated) = training(), training()
    ws, rng = plan.workspace, np.random.default_rng(0)
    rows = rng.random((100, ws.rows.shape[1]), "float32")
    batches = [rng.integers(0, 100, 50)] * 100_000
    saved = np.empty((3, 50), "float32")
    given = Batches(None, batches, ws.rows, ws.a[-1], [saved] * len(batches), rows)
    taken = [5]
    first = net.vector.copy()

    def interrupt():
        while (net.vector == first).all():
            time.sleep(0.01)
        time.sleep(0.3)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        plan.program.run_batches(given, taken)
    assert 5 < taken[0] < len(batches)
    for batch in batches[: taken[0] - 5]:
        repeated.workspace.rows[...] = rows[batch]
        repeated.program.run(1)
    np.testing.assert_allclose(net.vector, again.vector, rtol=1e-6)


FRESH = """
import numpy as np, bpengine as bp
from bpengine.backends.numba import backend, lowering
net = bp.Network([3, 4, 2], backend="numba", rng=0)
backend.log_compilation = lambda: None
net.fit(np.ones((3, 8)), np.ones((2, 8)), epochs=2, batch_size=4, progress=False)
print(lowering._Compiling.kernels)
"""


def test_a_second_process_compiles_nothing(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiled = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", FRESH],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        compiled.append(int(done.stdout))
    assert compiled[0] > 3 and compiled[1] == 0


def test_long_compilation_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(lowering._Compiling, "seconds", 3.21)
    monkeypatch.setattr(lowering._Compiling, "kernels", 7)
    with caplog.at_level(logging.INFO, "bpengine"):
        lowering.log_compilation()
        lowering.log_compilation()
    assert [record.getMessage() for record in caplog.records] == [
        "bpengine compiled 7 kernels in 3.2 s; from now on they are read from disk"
    ]


def test_a_missing_numba_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(backends.BackendUnavailableError, match=r"pip install 'bpengine\[numba\]'"):
        bp.Network([2, 2], backend="numba")


def test_the_name_and_pickles():
    import pickle

    net = numba_network()
    again = pickle.loads(pickle.dumps(net))
    assert again.backend.name == net.backend.name == "numba"
    assert "numba" in str(net.plan(3))


def test_the_rule_takes_long_trainings_of_small_networks(monkeypatch):
    long, short = 200_000, 1_000

    def taken(sizes, *arguments, activations="sigmoid", stack=None):
        net = bp.Network(sizes, activations, stack=stack)
        return backend_choice.for_training(net, *arguments).name

    assert taken((784, 30, 10), 10, long, False) == "numba"
    assert taken((784, 30, 10), 10, short, False) == "numpy"
    assert taken((784, 100, 10), 32, 20 * short, False) == "numpy"
    assert taken((784, 100, 10), 32, 20 * short, True) == "numba"  # Adam
    assert taken((64, 100, 10), 200, short, True) == "numpy"
    assert taken((64, 100, 10), 200, short, True, stack=20) == "numba"  # too large for a cache
    assert taken((2048,) * 5, 1024, long, True) == "numpy"
    custom = bp.Activation("a function", np.sin, np.cos)
    assert taken((784, 30, 10), 10, long, False, activations=custom) == "numpy"
    monkeypatch.setitem(sys.modules, "bpengine.backends.numba.backend", None)  # there, and broken
    assert taken((784, 30, 10), 10, long, False) == "numpy"
    monkeypatch.setattr(backend_choice.importlib.util, "find_spec", lambda name: None)
    assert taken((784, 30, 10), 10, long, False) == "numpy"


@pytest.mark.parametrize(("named", "expected"), [(None, "numba"), ("numpy", "numpy")])
def test_a_training_without_a_named_backend_follows_the_rule(monkeypatch, named, expected):
    """The network stays NumPy's: its name, its arrays, its pickles."""
    monkeypatch.setattr(backend_choice, "START", 0.0)
    rng, seen = np.random.default_rng(0), []
    net = bp.Network([5, 4, 3], backend=named, rng=0)
    X, Y = rng.random((5, 12)), rng.random((3, 12))
    original = numba_network().backend.compile
    monkeypatch.setattr(
        "bpengine.backends.numba.backend.NumbaBackend.compile",
        lambda self, operations: seen.append("numba") or original(operations),
    )
    net.fit(X, Y, epochs=2, batch_size=4, progress=False)
    assert bool(seen) == (expected == "numba")
    assert net.backend.name == "numpy"
    assert net.astype("float64").backend_was_given == net.backend_was_given == (named is not None)


def test_an_estimator_without_a_named_backend_follows_the_rule(monkeypatch):
    neural_network = pytest.importorskip("bpengine.estimators")
    monkeypatch.setattr(backend_choice, "START", 0.0)
    rng, coefs = np.random.default_rng(0), []
    X, y = rng.random((40, 5)), np.arange(40) % 3
    for backend in (None, "numba", "numpy"):
        model = neural_network.MLPClassifier((4,), max_iter=12, tol=0, backend=backend, random_state=0)
        with pytest.warns(Warning, match="converged"):
            coefs.append(model.fit(X, y).coefs_[0])
        assert model.network_.backend.name == (backend or "numpy")
    np.testing.assert_array_equal(coefs[0], coefs[1])
    np.testing.assert_allclose(coefs[0], coefs[2], rtol=1e-9)


@dtypes
@pytest.mark.parametrize("kind", ["norms", "clip"])
def test_per_example_norms_and_clipping_are_compiled(kind, dtype):
    rng, vectors = np.random.default_rng(0), []
    X, Y = rng.random((5, 6)), rng.random((3, 6))
    for backend in ("numpy", "numba"):
        net = numba_network(dtype, backend)
        bound, rule = (0.02, bp.SGD(0.1)) if kind == "clip" else (None, None)
        plan = net.plan(6, rule, per_example=kind, max_norm=bound)
        plan.load(X, Y)
        vectors.append([*plan.run().norms.total, *plan.norms.layers.ravel(), *net.vector])
    assert [function for function, _ in plan.program.calls] == [replay]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=200 * np.finfo(dtype).eps)


def test_total_norms_stay_in_range():
    layers, total = np.array([[1e200, 0.0], [1e200, 0.0]]), np.empty(2)
    op = Operation("total norms", "", None, (layers,), total)
    backends.get("numba").compile([op]).run(1)
    np.testing.assert_allclose(total, [2**0.5 * 1e200, 0.0])


def test_kernels_are_read_from_disk_without_what_only_compilation_needs(monkeypatch):
    from numba.core.registry import cpu_target

    lowering.compiled("gather", np.dtype("float32"))  # on disk from now on
    monkeypatch.setattr(cpu_target.target_context, "refresh", lambda: pytest.fail("refreshed"))
    again = lowering.compiled.__wrapped__("gather", np.dtype("float32"))
    assert again.cache_hits == 1
    assert again.address


def test_every_kernel_has_its_file_on_disk():
    files = {
        (f.__module__, f.__qualname__, f.__code__.co_firstlineno) for f in lowering.KERNELS.values()
    }
    assert len(files) == len(lowering.KERNELS)
