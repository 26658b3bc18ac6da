"""Backends are found by name or by array; their kernels equal the expressions of the operations."""

from __future__ import annotations

import dataclasses
import sys
import types

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from strategies import (
    ALONGSIDE,
    CHAINABLE,
    ELEMENTWISE,
    OPTIMIZERS,
    PAIRS,
    REGULARIZED,
    Case,
    cases,
    deep,
    examples,
    targets,
)

import bpengine as bp
from bpengine import backends
from bpengine.backends.numpy import blas
from bpengine.backends.numpy.kernels import KERNELS
from bpengine.backprop.per_example import KINDS

TINY = np.finfo("float32").smallest_subnormal
EXTREMES = np.array(
    [1e4, -1e4, 0, -0.0, TINY, -TINY, 1e-310, -1e-310, 1, -1, 88.5, -88.5, 20, -20, 710, -710, 5, -5]
)
PER_NEURON = [
    Case([3, 9, 8, 8], [ELEMENTWISE, CHAINABLE, CHAINABLE], "quadratic"),
    Case([3, 9, 8, 2], [ELEMENTWISE[::-1], CHAINABLE, ["sigmoid"] * 2], "binary_cross_entropy"),
]
CASES = [deep(σ, cost) for σ, cost in PAIRS] + PER_NEURON


def case_name(case):
    σ = case.activations[0]
    return f"{'per neuron' if isinstance(σ, list) else σ}-{case.cost}"


every_case = pytest.mark.parametrize("case", CASES, ids=case_name)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(backends.registry, "_factories", dict(backends.registry._factories))


def recorded(case, lab, dtype, m):
    """A training plan on the lab, with a batch loaded."""
    net = bp.Network(
        case.sizes, case.activations, case.cost, backend=lab.backend, dtype=dtype, rng=case.seed
    )
    plan = net.plan(m, bp.SGD(0.01))
    rng = np.random.default_rng(case.seed)
    X = rng.standard_normal((case.sizes[0], m))
    plan.load(lab.array(X), lab.array(targets(rng, case.cost, case.sizes[-1], m)))
    return plan


def extremes(shape, dtype):
    """Extreme values, every row in another order."""
    return np.array([np.roll(EXTREMES, 5 * j) for j in range(shape[0])]).astype(dtype)


def rounding(op, inputs, expected, eps):
    """Bound of the rounding errors: relative to the result, or to what cancels in it."""
    cancelling = np.zeros(expected.shape)
    if op.name == "gelu" or op.name.startswith(("gelu slope", "swish slope")):
        cancelling = np.abs(inputs[0])
    elif op.name.startswith("softmax slope"):
        upstream, a = inputs
        # g - Σ a g
        cancelling = np.abs(a) * (np.abs(upstream) + np.sum(np.abs(a * upstream), axis=0))
    elif op.name in ("binary_cross_entropy slope", "poisson slope"):
        cancelling = np.ones(expected.shape)  # where a is subnormal, the quotient of two such
    tiny = float(np.finfo(expected.dtype).smallest_normal)
    with np.errstate(over="ignore"):
        size = np.maximum(
            1, np.max([np.broadcast_to(np.abs(x), expected.shape) for x in inputs], axis=0)
        )
    return 64 * eps * (np.abs(expected) + cancelling) + tiny * size


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_is_its_expression(lab, case, dtype):
    """Operation by operation through recorded steps, in place where they are, on extreme inputs."""
    m = len(EXTREMES)
    plan = recorded(case, lab, dtype, m)
    eps, xp = float(np.finfo(dtype).eps), lab.backend.xp
    for op in plan.operations:
        if op.name == "exponential":
            op.inputs[0][...] = xp.clip(op.inputs[0], -1e4, 20.0)  # eᶻ of more overflows, if not here
        inputs = tuple(xp.asarray(x, copy=True) for x in op.inputs)
        expected = lab.numpy(op.expression(*inputs))
        lab.backend.compile([op]).run(1)
        found = lab.numpy(op.output)
        assert np.isfinite(found).all(), op.name
        if op.name == "matmul":
            scale = np.abs(lab.numpy(inputs[0])) @ np.abs(lab.numpy(inputs[1]))
            bound = 64 * eps * scale
        else:
            bound = rounding(op, [lab.numpy(x) for x in inputs], expected, eps)
        assert (np.abs(found - expected) <= bound).all(), op.name
        for before, x in zip(inputs, op.inputs, strict=True):
            if isinstance(x, np.ndarray) and not np.shares_memory(x, op.output):
                np.testing.assert_array_equal(lab.numpy(before), lab.numpy(x), err_msg=op.name)
        if op.name == "matmul" and op.equation in ("feedforward", "BP2"):
            op.output[...] = lab.backend.asarray(extremes(op.output.shape, dtype), dtype)


def positions(op, which):
    """Entries of one input, and where in the output each must show."""
    x, shape = op.inputs[which], op.output.shape
    if x.ndim == 0:
        return [((), (slice(None),) * len(shape))]
    if "softmax" in op.name and "entropy" not in op.name:
        return [((0, 1), (slice(None), 1)), ((shape[0] - 1, 2), (slice(None), 2))]
    entry = (shape[0] - 1, *([2] if len(shape) > 1 else []))
    return [(entry, entry)]


@every_case
def test_no_kernel_hides_nan(lab, case):
    plan = recorded(case, lab, "float64", 4)
    plan.run()
    xp = lab.backend.xp
    for op in plan.operations:
        if op.name == "matmul":
            continue
        for which, x in enumerate(op.inputs):
            if op.name.startswith("linear slope") and which == 1:
                continue  # 1 whatever a is
            for entry, shows in positions(op, which):
                saved = [xp.asarray(item, copy=True) for item in op.inputs]
                x[entry] = float("nan")
                lab.backend.compile([op]).run(1)
                assert np.isnan(lab.numpy(op.output)[shows]).all(), (op.name, which)
                for item, before in zip(op.inputs, saved, strict=True):
                    item[...] = before


def test_numpy_has_no_kernel_that_nothing_uses():
    numpy = types.SimpleNamespace(backend=backends.get("numpy"), array=np.array)
    used = {op.name for case in CASES for op in recorded(case, numpy, "float32", 4).operations}
    for optimizer in OPTIMIZERS:
        net = deep("tanh", "quadratic").network(numpy, **REGULARIZED)
        plan = net.plan(4, dataclasses.replace(optimizer, **ALONGSIDE), weighted=True)
        used |= {op.name for op in plan.operations}
    nets = bp.Network([2, 3, 2], backend="numpy", stack=2)
    for optimizer in (bp.Adam, bp.RMSprop, bp.Adagrad):
        used |= {op.name for op in nets.plan(4, optimizer([0.1, 0.2], clip_norm=1.0)).operations}
    for kind in KINDS:
        plan = net.plan(4, per_example=kind, max_norm=1.0 if kind == "clip" else None)
        used |= {op.name for op in plan.operations}
    steps = pytest.importorskip("bpengine.estimators.steps")
    plan = bp.Plan(net, 4, steps.HatAdam(0.1), gradient=steps.WeightedMean(), weighted=True)
    used |= {op.name for op in plan.operations}
    assert set(KERNELS) <= used | set(blas.FOLDED)


@every_case
def test_a_step_without_blas_is_the_same_step(monkeypatch, case):
    """Where NumPy's BLAS can't be called by way of C, kernels alone do the same."""
    numpy = types.SimpleNamespace(backend=backends.get("numpy"), array=np.array)
    results = []
    for library in (blas._library, lambda dtype: (None, None)):
        monkeypatch.setattr(blas, "_library", library)
        plan = recorded(case, numpy, "float64", 6)
        plan.run(steps=3)
        results.append(plan.network.vector)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12, atol=1e-14)


@every_case
def test_a_step_may_take_its_products_in_any_order_that_the_equations_allow(lab, case):
    """BP3 and BP4 of a layer before BP2 reads its weights, or after: no weight is moved too soon."""
    results = []
    for products_first in (False, True):
        plan = recorded(case, lab, "float64", 6)
        operations, later = [], None
        for op in plan.operations:
            if products_first and op.equation == "BP2":
                later = later or len(operations)
            if products_first and op.equation == "BP3, BP4" and later:
                operations.insert(later, op)
                later = None
            else:
                operations.append(op)
        assert (operations == plan.operations) != products_first
        lab.backend.compile(operations).run(3)
        results.append(lab.numpy(plan.network.vector))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12, atol=1e-14)


@given(case=cases(max_layers=4))
@examples(20)
def test_every_backend_gives_the_gradient_that_numpy_gives(lab, case):
    X, Y = case.host_data()
    expected = case.network(lab, "numpy")
    net = case.network(lab)
    for l in range(case.layers):
        np.testing.assert_array_equal(lab.numpy(net.weights[l]), expected.weights[l])
    gradient, truth = net.backprop(lab.array(X), lab.array(Y)), expected.backprop(X, Y)
    assert gradient.cost == pytest.approx(truth.cost, rel=1e-12)
    for l in range(case.layers):
        lab.assert_close(gradient.weights[l], truth.weights[l], 1e-12)
        lab.assert_close(gradient.biases[l], truth.biases[l], 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("initializer", ["gaussian", "scaled_gaussian"])
def test_a_seed_gives_the_same_network_and_the_same_batches_on_every_backend(lab, initializer, dtype):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((3, 10)), rng.standard_normal((2, 10))
    nets = [
        bp.Network([3, 4, 2], backend=backend, initializer=initializer, dtype=dtype, rng=5)
        for backend in ("numpy", lab.backend)
    ]
    for l in range(2):
        np.testing.assert_array_equal(lab.numpy(nets[1].weights[l]), nets[0].weights[l])
        np.testing.assert_array_equal(lab.numpy(nets[1].biases[l]), nets[0].biases[l])
    options = {"epochs": 3, "batch_size": 4, "progress": False}
    nets[0].fit(X, Y, **options)
    nets[1].fit(lab.array(X), lab.array(Y), **options)
    for l in range(2):
        lab.assert_close(nets[1].weights[l], nets[0].weights[l], 32 * float(np.finfo(dtype).eps))


def test_results_are_arrays_of_the_backend_on_its_device(lab):
    case = deep("tanh", "quadratic")
    net, (X, Y) = case.network(lab), case.data(lab)
    gradient = net.backprop(X, Y)
    for found in (net.feedforward(X), net.vector, gradient.vector, gradient.weights[0]):
        assert lab.backend.owns(found)
        assert lab.backend.device_of(found) == lab.backend.device
    assert type(gradient.cost) is float


def test_numpy_inputs_are_taken_in_by_every_backend(lab):
    case = deep("tanh", "quadratic")
    net, (X, Y) = case.network(lab), case.host_data()
    expected = net.backprop(lab.array(X), lab.array(Y))
    for x, y in ((X, Y), (X, lab.array(Y)), (lab.array(X), Y), (X.tolist(), Y.tolist())):
        found = net.backprop(x, y)
        np.testing.assert_array_equal(lab.numpy(found.vector), lab.numpy(expected.vector))
    assert lab.backend.owns(net.feedforward(X))


def test_a_network_without_a_backend_takes_that_of_its_first_array_and_keeps_it(lab):
    net = bp.Network([3, 4, 2], dtype="float64", rng=0)
    before = [w.copy() for w in net.weights]
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
    out = net.feedforward(lab.array(X))
    assert lab.backend.owns(out) and lab.backend.owns(net.vector)
    assert net.backend.device_of(net.vector) == lab.backend.device
    for l in range(2):
        np.testing.assert_array_equal(lab.numpy(net.weights[l]), before[l])
    # kept: host arrays are converted from now on, those of another library refused
    assert lab.backend.owns(net.backprop(X, Y).vector)
    saved = net.backend
    if lab.backend.name == "numpy":
        with pytest.raises(TypeError, match=r"X is an array of array_api_strict.* 'numpy'"):
            net.feedforward(array_api_strict.asarray(X))
    assert net.backend is saved


@pytest.mark.parametrize("first", [np.ones((3, 2)), [[1.0, 2], [3, 4], [5, 6]]])
def test_host_data_means_numpy(first):
    net = bp.Network([3, 2], rng=0)
    assert isinstance(net.feedforward(first), np.ndarray)
    with pytest.raises(TypeError, match="this network's backend is 'numpy'"):
        net.feedforward(array_api_strict.ones((3, 2)))


def test_a_named_backend_is_not_changed_by_the_first_array():
    net = bp.Network([3, 2], backend="numpy")
    with pytest.raises(TypeError, match="this network's backend is 'numpy'"):
        net.feedforward(array_api_strict.ones((3, 2)))


def test_infer_gives_the_library_and_the_device_of_an_array(lab):
    found = backends.infer(lab.array(np.ones(3)))
    assert isinstance(lab.backend, type(found))
    assert found.xp is lab.backend.xp and found.device == lab.backend.device


@pytest.mark.parametrize("x", [3, [1.0, 2.0], None, "text", np.float32(1)])
def test_infer_gives_numpy_for_what_is_no_array(x):
    assert isinstance(backends.infer(x), backends.NumPyBackend)


def test_arrays_of_two_devices_are_not_mixed():
    one, other = (array_api_strict.Device(name) for name in ("device1", "device2"))
    net = bp.Network([2, 2], backend=backends.ArrayAPIBackend(array_api_strict, one))
    here, there = (array_api_strict.ones((2, 2), device=device) for device in (one, other))
    with pytest.raises(ValueError, match=r"X is on device .*device2.*network is on .*device1"):
        net.feedforward(there)
    with pytest.raises(ValueError, match=r"Y is on device .*device2"):
        net.backprop(here, there)


def test_an_empty_program_does_nothing(lab):
    lab.backend.compile([]).run(3)


def test_take_gathers_rows_in_the_given_order(lab):
    rows = lab.array(np.arange(12.0).reshape(4, 3))
    out = lab.backend.empty((5, 3), "float64")
    lab.backend.take(rows, lab.backend.asarray(np.array([3, 0, 0, 2, 1]), "int64"), out)
    np.testing.assert_array_equal(lab.numpy(out)[:, 0], [9, 0, 0, 6, 3])


def test_conversions_go_there_and_back(lab):
    backend, host = lab.backend, np.arange(6.0).reshape(2, 3)
    there = backend.asarray(host, "float32")
    assert backend.owns(there) and backend.device_of(there) == backend.device
    back = backend.to_numpy(there)
    assert type(back) is np.ndarray and back.dtype == np.float32
    np.testing.assert_array_equal(back, host)
    assert backend.empty((2, 0, 3), "float64").shape == (2, 0, 3)
    assert not backend.owns([1.0]) and not backend.owns(3.0)
    backend.synchronize()


def test_get_takes_names_and_objects():
    assert isinstance(backends.get("numpy"), backends.NumPyBackend)
    assert backends.get("array_api_strict").xp is array_api_strict
    backend = backends.NumPyBackend()
    assert backends.get(backend) is backend
    assert bp.Network([2, 2], backend=backend).backend is backend


def test_names_are_those_that_get_takes():
    found = backends.names()
    assert {"numpy", "cupy"} <= set(found) and found == sorted(set(found))
    for name in found:
        try:
            assert isinstance(backends.get(name), backends.Backend)
        except backends.BackendUnavailableError as error:
            assert "pip install" in str(error) or "nvidia-smi" in str(error)


@pytest.mark.parametrize(
    ("name", "hint"), [("numpi", "Did you mean 'numpy'?"), ("cuppy", "'cupy'"), ("xyzzy", "Known: ")]
)
def test_an_unknown_name_gives_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"unknown backend {name!r}") as caught:
        bp.Network([2, 2], backend=name)
    assert hint in str(caught.value) and "numpy" in str(caught.value)
    assert ("Did you mean" in str(caught.value)) == (name != "xyzzy")


@pytest.mark.parametrize("what", [3, np, ["numpy"], array_api_strict])
def test_what_is_neither_a_name_nor_a_backend_is_refused(what):
    with pytest.raises(TypeError, match=r"backend must be a name or a Backend, got .*numpy"):
        bp.Network([2, 2], backend=what)


class Counting(backends.NumPyBackend):
    """NumPy, and a count of the programs it made."""

    compiled = 0

    def compile(self, operations):
        Counting.compiled += 1
        return super().compile(operations)


@pytest.mark.usefixtures("registry")
def test_a_registered_backend_is_known_by_name():
    backends.register("counting", Counting)
    assert "counting" in backends.names()
    net = bp.Network([2, 2], backend="counting", rng=0)
    before = Counting.compiled
    net.feedforward(np.ones((2, 3)))
    assert Counting.compiled == before + 1


@pytest.mark.usefixtures("registry")
def test_a_name_is_registered_once():
    backends.register("counting", Counting)
    for name in ("counting", "numpy"):
        with pytest.raises(ValueError, match=f"backend {name!r} is registered already"):
            backends.register(name, Counting)


def install(tmp_path, monkeypatch, factory, name="counting"):
    """A distribution on the path that brings a backend by entry point."""
    (tmp_path / "other_arrays.py").write_text(
        f"from bpengine.backends import NumPyBackend\n{factory}\n", encoding="utf-8"
    )
    info = tmp_path / "other_arrays-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-arrays\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bpengine.backends]\n{name} = other_arrays:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "other_arrays", raising=False)


def test_an_installed_package_brings_its_backend_by_entry_point(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "class make(NumPyBackend): pass")
    assert "counting" in backends.names()
    net = bp.Network([2, 2], backend="counting")
    assert type(net.backend).__module__ == "other_arrays"
    assert net.feedforward(np.ones((2, 3))).shape == (2, 3)
    with pytest.raises(ValueError, match="'counting' is registered already"):
        backends.register("counting", Counting)
    with pytest.raises(ValueError, match="Did you mean 'counting'"):
        backends.get("countin")


def test_an_entry_point_that_gives_no_backend_is_named(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "def make(): return 3")
    with pytest.raises(TypeError, match="entry point 'other_arrays:make' gave a int, no Backend"):
        backends.get("counting")


def test_an_entry_point_does_not_take_the_place_of_a_built_in_backend(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "class make(NumPyBackend): pass", name="numpy")
    assert type(backends.get("numpy")) is backends.NumPyBackend


def test_a_missing_cupy_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        backends.BackendUnavailableError, match=r"CuPy.*not installed.*bpengine\[cuda1\d\]"
    ):
        bp.Network([2, 2], backend="cupy")
    assert issubclass(backends.BackendUnavailableError, ImportError)


def without_device(tmp_path, monkeypatch, source):
    """A CuPy that was installed where there is no GPU."""
    package = tmp_path / "cupy"
    package.mkdir()
    (package / "__init__.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    # afterwards the stand-in, which the test imports, goes as well
    monkeypatch.setitem(sys.modules, "cupy", None)
    del sys.modules["cupy"]


def test_cupy_without_a_device_is_distinguished_from_no_cupy(tmp_path, monkeypatch):
    source = """
class cuda:
    class runtime:
        CUDARuntimeError = RuntimeError
        driverGetVersion = getDeviceCount = lambda: 0
"""
    without_device(tmp_path, monkeypatch, source)
    with pytest.raises(backends.BackendUnavailableError, match="no CUDA device") as caught:
        backends.get("cupy")
    assert "pip install" not in str(caught.value) and "nvidia-smi" in str(caught.value)


def test_a_cupy_that_can_not_be_imported_is_an_unavailable_backend(tmp_path, monkeypatch):
    """Its libraries are missing, or are those of another CUDA: importing it fails."""
    source = "raise ImportError('libcudart.so.13: cannot open shared object file')\n"
    without_device(tmp_path, monkeypatch, source)
    with pytest.raises(backends.BackendUnavailableError, match="libcudart"):
        backends.get("cupy")


@pytest.mark.parametrize("name", ["torch"])
def test_another_missing_library_is_named_with_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(backends.BackendUnavailableError, match=f"pip install {name}"):
        backends.get(name)


def frozen_zeros(*args, **options):
    array = np.zeros(1)
    array.flags.writeable = False
    return array


def test_a_library_whose_arrays_can_not_be_written_to_is_refused():
    frozen = types.SimpleNamespace(__name__="frozen", zeros=frozen_zeros)
    with pytest.raises(TypeError, match=r"backend 'frozen': its arrays can't be written to.*Use NumPy"):
        backends.ArrayAPIBackend(frozen)
    with pytest.raises(TypeError, match="backend 'mine'"):
        backends.ArrayAPIBackend(frozen, name="mine")


def test_a_library_without_views_is_refused_by_the_name_of_the_argument(monkeypatch):
    """As JAX's arrays, and Dask's, whose slices are no views."""
    reshape = array_api_strict.reshape
    monkeypatch.setattr(array_api_strict, "reshape", lambda x, shape, copy: reshape(x, shape, copy=True))
    with pytest.raises(TypeError, match="X is an array that can't be used: backend 'array_api_strict'"):
        bp.Network([1, 1]).feedforward(array_api_strict.ones((1, 1)))


def test_no_program_depends_on_the_error_state_of_the_first_call(lab):
    """Programs, and what is compiled of a custom activation, are the same whatever NumPy's settings."""
    steep = bp.Activation("steep", lambda z: np.exp(-z * z), lambda z: -2 * z * np.exp(-z * z), of="z")
    for σ in ("sigmoid", steep) if lab.name in ("numpy", "numba") else ("sigmoid",):
        net = bp.Network([1, 2, 1], activations=[σ, "linear"], backend=lab.backend, rng=0)
        net.weights[0][...] = 1.0
        with np.errstate(all="raise"):
            try:
                net.feedforward(lab.array([[1.0]], "float32"))
            except FloatingPointError:
                assert lab.name == "strict-device1"
        with np.errstate(all="ignore"):
            assert np.isfinite(lab.numpy(net.feedforward(lab.array([[200.0]], "float32")))).all()


def test_an_operation_without_a_kernel_gives_no_warnings(lab):
    x, out = lab.array([1e30, 2.0], "float32"), lab.backend.empty((2,), "float32")
    program = lab.backend.compile([backends.Operation("a square", "", lambda x: x * x, (x,), out)])
    for _ in range(2):
        program.run(1)
        np.testing.assert_array_equal(lab.numpy(out), np.array([np.inf, 4], "float32"))
