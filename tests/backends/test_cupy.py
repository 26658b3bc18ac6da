"""The CuPy backend: kernels, products, graphs; on a stand-in, and on a GPU where there is one."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import logging
import pickle
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import nvrtc
import pytest
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st
from strategies import ALONGSIDE, OPTIMIZERS, REGULARIZED, Case, examples, looped

import bpengine as bp
from bpengine import backends
from bpengine.backends import Operation
from bpengine.backends.base import warn_once
from bpengine.backends.cupy import backend as cupy_backend
from bpengine.backends.cupy import cuda_source, elementwise, random
from bpengine.backends.cupy.cublas import CublasError
from bpengine.backends.cupy.device import OPTIONS, Device
from bpengine.backends.cupy.elementwise import View
from bpengine.backends.cupy.lowering import Lowering
from bpengine.backprop.per_example import KINDS
from bpengine.data import offload, prepare

double = pytest.importorskip("cuda_double")
needs_compiler = pytest.mark.skipif(double.COMPILER is None, reason="no C++ compiler")
needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed")
NAMES = [*cuda_source.ELEMENTWISE, "uniform"]
# the backend's options and those that CuPy adds
NVRTC_OPTIONS = *OPTIONS, "-ftz=true", "--device-as-default-execution-space"
OPTIMIZED = [dataclasses.replace(optimizer, **ALONGSIDE) for optimizer in OPTIMIZERS]


def on_stand_in():
    if double.COMPILER is None:
        pytest.skip("no C++ compiler")
    return double.Double()


def on_gpu():
    try:
        return backends.get("cupy")
    except backends.BackendUnavailableError:
        pytest.skip("no CUDA device")


@pytest.fixture(params=[on_stand_in, on_gpu], ids=["stand-in", "gpu"])
def gpu(request):
    return request.param()


@pytest.fixture
def stand_in():
    return on_stand_in()


@pytest.fixture(autouse=True)
def warn_again():
    warn_once.cache_clear()


def data(rows=5, m=43, outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, m)), rng.random((outputs, m))


def network(backend, sizes=(5, 7, 6, 3), **options):
    options = {"activations": "tanh", "dtype": "float64", "rng": 3, **options}
    return bp.Network(sizes, backend=backend, **options)


def trained(backend, optimizer=None, epochs=2, batch_size=4, X=None, Y=None, fit=None, **options):
    net = network(backend, **options)
    X, Y = data() if X is None else (X, Y)
    optimizer = optimizer or bp.SGD(0.3)
    history = net.fit(
        X,
        Y,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        progress=False,
        **(fit or {}),
    )
    return net, history


def parameters(net):
    arrays = (*net.weights, *net.biases)
    return np.concatenate([np.ravel(net.backend.to_numpy(x)) for x in arrays])


def plain(backend):
    """The same backend without graphs: every step call by call."""
    backend.gpu.capture = lambda *of: (_ for _ in ()).throw(RuntimeError("switched off"))
    return backend


# kernels


def lone_kernel(name, dtype):
    """A kernel of one operation, on matrices."""
    if name in cuda_source.SPECIAL:
        return elementwise.special(name, dtype, 1, ())
    views = [View(4096 * (i + 1), (5, 7), (7, 1), dtype) for i in range(10)]
    if name == "uniform":
        return elementwise.fuse([elementwise.ElementwiseOp(name, (), views[0], (4096, 0))])[0]
    count = 1 + max(int(i) for i in re.findall(r"\$(\d)", cuda_source.ELEMENTWISE[name]))
    return elementwise.fuse([elementwise.ElementwiseOp(name, tuple(views[:count]), views[9])])[0]


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@looped("name", [*NAMES, *cuda_source.SPECIAL])
def test_every_kernel_compiles_for_a_gpu(name, dtype, architecture):
    source = lone_kernel(name, dtype).source
    ptx = nvrtc.compiled(source, architecture, NVRTC_OPTIONS)
    # a double constant would make the whole formula's arithmetic double
    assert dtype == "float64" or not re.search(r"\.f64\b", ptx)


@needs_nvrtc
@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_of_whole_steps_compiles_for_a_gpu(dtype):
    sources = {}
    for optimizer in OPTIMIZED:
        backend = on_stand_in()
        backend.gpu.as_call = lambda item, as_call=backend.gpu.as_call: (
            sources.setdefault(getattr(item, "source", ""), item),
            as_call(item),
        )[1]
        network(backend, dtype=dtype, **REGULARIZED).plan(4, optimizer, weighted=True)
    assert len(sources) > 20
    for source in filter(None, sources):
        nvrtc.compiled(source, "sm_90", NVRTC_OPTIONS)


@needs_nvrtc
def test_the_compiler_rejects_a_wrong_source():
    source = lone_kernel("sigmoid", "float32").source.replace("exp(", "exq(")
    with pytest.raises(AssertionError, match="exq"):
        nvrtc.compiled(source, "sm_90", NVRTC_OPTIONS)


@needs_compiler
@pytest.mark.parametrize("optimizer", [bp.SGD(0.1), *OPTIMIZED], ids=str)
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_every_operation_of_a_plan_has_a_kernel(kind, optimizer):
    net = network(STAND_IN, **REGULARIZED)
    bound = {"max_norm": 1.0} if kind == "clip" else {}
    plan = net.plan(4, None if kind in ("norms", "gradients") else optimizer, per_example=kind, **bound)
    lowering = Lowering(STAND_IN.gpu)
    assert all(lowering.lower(op) is not None for op in plan.operations)


def laid_out(backend, host, layout):
    """An array of these values in one of several memory layouts."""
    host = np.asarray(host)
    if host.ndim < 2 or layout == "plain":
        return backend.asarray(host, host.dtype.name)
    if layout == "transposed":
        return backend.asarray(np.ascontiguousarray(np.swapaxes(host, -1, -2)), host.dtype.name).mT
    wide = backend.empty((*host.shape[:-2], host.shape[-2] + 2, host.shape[-1] + 3), host.dtype.name)
    part = wide[..., 1:-1, 2:-1]
    part[...] = backend.asarray(host, host.dtype.name)
    return part


LAYOUTS = st.sampled_from(["plain", "transposed", "padded"])
STAND_IN = None if double.COMPILER is None else double.Double()


@needs_compiler
@pytest.mark.parametrize("optimizer", [bp.SGD(0.1), *OPTIMIZED], ids=str)
def test_fused_operations_compute_what_separate_ones_do(optimizer):
    """A whole step as it is compiled, against the same operations compiled alone."""
    found = []
    for alone in (False, True):
        backend = on_stand_in()
        net = network(backend, **{**REGULARIZED, "dropout": 0.0})
        plan = net.plan(4, optimizer)
        plan.load(*(x[:, :4] for x in data()))
        if alone:
            programs = [backend.compile([op]) for op in plan.operations]
            for _ in range(3):
                for program in programs:
                    program.run(1)
        else:
            plan.run(3)
        found.append(parameters(net))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-15)


def test_how_many_kernels_a_step_is(stand_in):
    """nielsen: 5 products and 3 kernels; the update is in the products of BP3 and BP4."""
    plan = network(stand_in, (784, 30, 10), activations="sigmoid", dtype="float32").plan(10, bp.SGD(0.5))
    names = [getattr(function, "name", "product") for function, _ in plan.program.calls]
    # the last activation, the cost's slope and the activation's are one kernel
    last = "elementwise_sigmoid_reverse_difference_sigmoid_slope"
    kernels = [name for name in names if name != "product"]
    assert kernels == ["elementwise_sigmoid", last, "elementwise_sigmoid_slope"]
    assert names.count("product") == 5


def test_a_kernel_does_not_mix_arrays_that_overlap_otherwise():
    x, y = (View(start, (4, 4), (4, 1), "float32") for start in (64, 68))
    out = View(4096, (4, 4), (4, 1), "float32")
    one, two = (
        elementwise.ElementwiseOp("linear", (x,), out),
        elementwise.ElementwiseOp("linear", (out,), y),
    )
    assert not two.can_follow([one]) and not one.can_follow([two])
    assert len(elementwise.fuse([one, two])) == 2
    assert elementwise.ElementwiseOp("tanh", (out,), x).can_follow([one])


# products


@needs_compiler
@given(
    m=st.integers(1, 5),
    k=st.integers(1, 5),
    n=st.integers(1, 5),
    stacks=st.sampled_from([((), ()), ((3,), ()), ((), (3,)), ((3,), (3,)), ((2, 3), ())]),
    layouts=st.lists(LAYOUTS, min_size=3, max_size=3),
    dtype=st.sampled_from(["float32", "float64"]),
)
@examples(150)
def test_products_of_arrays_of_any_layout(m, k, n, stacks, layouts, dtype):
    backend = STAND_IN
    rng = np.random.default_rng(m + 7 * k + 49 * n)
    hosts = rng.standard_normal((*stacks[0], m, k)), rng.standard_normal((*stacks[1], k, n))
    a, b = (
        laid_out(backend, x.astype(dtype), layout) for x, layout in zip(hosts, layouts, strict=False)
    )
    expected = hosts[0] @ hosts[1]
    layout = "plain" if layouts[2] == "transposed" else layouts[2]
    out = laid_out(backend, np.zeros(expected.shape, dtype), layout)
    before = backend.cublas.products
    backend.compile([Operation("matmul", "", lambda x, y: x @ y, (a, b), out)]).run(1)
    assert backend.cublas.products == before + 1
    np.testing.assert_allclose(backend.to_numpy(out), expected, rtol=1e-4, atol=1e-4)


def test_a_shared_input_of_a_stack_is_one_product(stand_in):
    a, b = (stand_in.asarray(np.ones(shape), "float64") for shape in ((6, 4, 3), (3, 5)))
    out = stand_in.empty((6, 4, 5), "float64")
    stand_in.compile([Operation("matmul", "", lambda x, y: x @ y, (a, b), out)]).run(1)
    assert (stand_in.cublas.products, stand_in.cublas.batched) == (1, 0)
    np.testing.assert_array_equal(stand_in.to_numpy(out), 3)


def test_products_that_do_not_follow_each_other_evenly_go_through_expressions(stand_in):
    rng = np.random.default_rng(0)
    hosts = rng.standard_normal((2, 1, 4, 3)), rng.standard_normal((2, 3, 3, 5))
    a, b = (stand_in.asarray(x, "float64") for x in hosts)
    out = stand_in.empty((2, 3, 4, 5), "float64")
    stand_in.compile([Operation("matmul", "", lambda x, y: x @ y, (a, b), out)]).run(3)
    assert stand_in.cublas.products == 0
    np.testing.assert_allclose(stand_in.to_numpy(out), hosts[0] @ hosts[1])


def test_an_empty_product(stand_in):
    a, b = (stand_in.asarray(np.ones(shape), "float64") for shape in ((4, 0), (0, 5)))
    out = stand_in.empty((4, 5), "float64")
    stand_in.compile([Operation("matmul", "", lambda x, y: x @ y, (a, b), out)]).run(1)
    np.testing.assert_array_equal(stand_in.to_numpy(out), 0)


# random numbers


@given(
    draws=st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.integers(0, 2)), max_size=6),
    seed=st.integers(0, 2**32),
)
@examples(60)
def test_an_advanced_generator_is_one_that_has_drawn(draws, seed):
    rng, advanced = (np.random.default_rng(seed) for _ in range(2))
    for count, halves, other in draws:
        rng.random(count, np.float32 if halves else np.float64)
        random.advance(advanced, count, halves)
        for one in (rng, advanced):
            if other:
                one.permutation(5)
            if other == 2:
                one.random(1, np.float32)
    assert rng.bit_generator.state == advanced.bit_generator.state


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("odd", [False, True])
def test_the_device_draws_what_numpy_draws(gpu, dtype, odd):
    """Masks of several steps in graphs, also where half of an output of the generator is left."""
    nets = [network(backend, dtype=dtype, dropout=[0.25, 0.5, 0.5]) for backend in ("numpy", gpu)]
    masks = []
    for net in nets:
        if odd:
            net.rng.random(3, np.float32)
        plan = net.plan(7, bp.SGD(0.1))
        plan.load(*(x[:, :7] for x in data()))
        plan.run(12)
        drawn = [op.output for op in plan.operations if op.name == "dropout mask"]
        masks.append([net.backend.to_numpy(mask) for mask in drawn])
    for found, expected in zip(*masks, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert nets[0].rng.bit_generator.state == nets[1].rng.bit_generator.state


def test_another_generator_draws_on_the_host(gpu, caplog):
    rng = lambda: np.random.Generator(np.random.MT19937(5))  # noqa: E731
    with caplog.at_level(logging.WARNING):
        nets = [trained(b, dropout=0.5, rng=rng())[0] for b in ("numpy", gpu)]
    np.testing.assert_allclose(parameters(nets[1]), parameters(nets[0]), rtol=1e-10)
    assert "drawn on the host" in caplog.text


# graphs


@pytest.mark.parametrize("optimizer", [bp.SGD(0.3), *OPTIMIZED], ids=str)
@pytest.mark.parametrize("options", [{}, REGULARIZED], ids=["plain", "regularized"])
def test_a_step_is_captured_and_its_replay_is_the_plain_step_bit_for_bit(
    gpu, caplog, optimizer, options
):
    with caplog.at_level(logging.WARNING, "bpengine"):
        net, history = trained(gpu, optimizer, **options)
    assert not caplog.text, "all of it is in graphs"
    other = plain(type(gpu)(gpu.gpu.number, gpu.gpu.precision))
    twin, plainly = trained(other, optimizer, **options)
    np.testing.assert_array_equal(parameters(net), parameters(twin))
    assert history.cost == plainly.cost
    expected, truth = trained("numpy", optimizer, **options)
    np.testing.assert_allclose(parameters(net), parameters(expected), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.cost, truth.cost, rtol=1e-11)
    assert net.rng.bit_generator.state == expected.rng.bit_generator.state


@pytest.mark.parametrize("kind", KINDS)
def test_per_example_plans_are_captured(gpu, caplog, kind):
    bound = {"max_norm": 0.1} if kind == "clip" else {}
    found = []
    with caplog.at_level(logging.WARNING, "bpengine"):
        for backend in ("numpy", gpu):
            net = network(backend)
            plan = net.plan(4, bp.SGD(0.1) if kind == "clip" else None, per_example=kind, **bound)
            plan.load(*(x[:, :4] for x in data()))
            plan.run(4)
            if kind == "clip":
                result = net.weights[0]
            else:
                result = plan.norms.total if kind == "norms" else plan.gradient.weights[0]
            found.append(net.backend.to_numpy(result))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)
    assert not caplog.text


def test_an_epoch_is_graph_launches_alone(stand_in):
    """No array is made and no kernel launched by itself between the first step and the epoch's end."""
    X, Y = data(m=400)
    net = network(stand_in)
    plans = []
    compile_ = stand_in.compile
    stand_in.compile = lambda operations: plans.append(compile_(operations)) or plans[-1]
    schedule = bp.schedules.Cosine(0.3, epochs=3)
    before = {}

    def note(training):
        before.setdefault(training.epoch, (stand_in.cuda.launches, stand_in.cuda.graph_launches))

    net.fit(X, Y, epochs=3, batch_size=4, optimizer=bp.Adam(schedule), callbacks=[note], progress=False)
    assert before[3][0] == before[2][0], "kernels outside of graphs"
    assert before[3][1] - before[2][1] == 100 // 8 + 100 % 8


def test_a_run_of_many_steps_launches_graphs_of_several(stand_in):
    plan = network(stand_in).plan(4, bp.SGD(0.1))
    plan.load(*(x[:, :4] for x in data()))
    plan.run(1 + 3 * 8 + 2)
    assert stand_in.cuda.graph_launches == 3 + 2


def test_a_plan_that_runs_once_is_not_captured(stand_in):
    network(stand_in).backprop(*data())
    assert stand_in.cuda.graph_launches == 0


def sine(z):
    return array_namespace(z).sin(z)


def cosine(z):
    return array_namespace(z).cos(z)


def test_a_custom_activation_is_captured_by_its_expression(gpu, caplog):
    custom = bp.Activation("sine", sine, cosine)
    with caplog.at_level(logging.WARNING, "bpengine"):
        nets = [trained(b, activations=[custom, "tanh", "tanh"])[0] for b in ("numpy", gpu)]
    np.testing.assert_allclose(parameters(nets[1]), parameters(nets[0]), rtol=1e-10)
    assert not caplog.text


def test_a_graph_keeps_its_memory_alive(stand_in, monkeypatch):
    """Also where a step runs without a graph again, for the second buffer of prefetched data."""
    monkeypatch.setattr(offload, "BUFFER_BYTES", 2000)
    monkeypatch.setattr(prepare, "fits_on_device", lambda *of: False)
    custom = bp.Activation("sine", sine, cosine)
    trained(stand_in, activations=[custom, "tanh", "tanh"], epochs=3)
    assert stand_in.cuda.graph_launches > 10


def with_product(z):
    return z + 0 * (z @ z.mT @ z)


def with_a_number_on_the_host(z):
    return sine(z) if float(array_namespace(z).sum(z)) < 1e9 else z


@pytest.mark.parametrize("function", [with_product, with_a_number_on_the_host])
def test_a_step_that_can_not_be_captured_is_replayed_by_calls_with_one_warning(gpu, caplog, function):
    custom = bp.Activation("custom", function, cosine)
    with caplog.at_level(logging.WARNING, "bpengine"):
        nets = [trained(b, activations=[custom, "tanh", "tanh"])[0] for b in ("numpy", gpu)]
    np.testing.assert_allclose(parameters(nets[1]), parameters(nets[0]), rtol=1e-10)
    assert "can't be captured as a CUDA graph" in caplog.text
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == len(set(texts))


def missing(cuda):
    raise OSError("libcublas.so.13: cannot open shared object file")


class WithoutContext(double.Cublas):
    def create(self):
        raise CublasError("cublasCreate_v2 gave cublasStatus_t 1.")


@needs_compiler
@pytest.mark.parametrize("cublas", [missing, WithoutContext])
@pytest.mark.parametrize("optimizer", [bp.SGD(0.3), bp.Adam(0.01)], ids=str)
def test_without_cublas_steps_are_plain_calls_with_one_warning(caplog, optimizer, cublas):
    with caplog.at_level(logging.WARNING, "bpengine"):
        backend = double.Double(cublas=cublas)
        nets = [trained(b, optimizer)[0] for b in ("numpy", backend)]
        trained(double.Double(cublas=cublas), optimizer)
    np.testing.assert_allclose(parameters(nets[1]), parameters(nets[0]), rtol=1e-10)
    assert caplog.text.count("cuBLAS can't be used") == 1
    assert "libcublas.so.13" in caplog.text or "cublasStatus_t 1" in caplog.text
    assert backend.cuda.graph_launches == 0 and not backend.gpu.distrusted


def test_noise_is_drawn_on_the_host(gpu, caplog):
    private = bp.DPSGD(0.5, 1.0, 1.0, delta=None)
    with caplog.at_level(logging.WARNING, "bpengine"):
        nets = [trained(b, private)[0] for b in ("numpy", gpu)]
    np.testing.assert_allclose(parameters(nets[1]), parameters(nets[0]), rtol=1e-9, atol=1e-12)
    assert "'gaussian noise' is drawn on the host" in caplog.text


def test_a_gpu_stores_the_costs_of_many_steps(stand_in):
    seen = []
    callback = bp.Callback()
    callback.steps = lambda training, steps: seen.append(steps)
    X, Y = data(m=1200)
    trained(stand_in, X=X, Y=Y, epochs=1, batch_size=2, fit={"callbacks": [callback]})
    assert seen == [600]


def test_five_thousand_steps_leave_the_memory_as_it_was():
    backend = on_gpu()
    pool = backend.gpu.cupy.get_default_memory_pool()
    plan = network(backend, (784, 100, 10), dtype="float32").plan(128, bp.Adam())
    plan.load(np.ones((784, 128)), np.zeros((10, 128)))
    plan.run(20)
    backend.synchronize()
    gc.collect()
    used, total = pool.used_bytes(), pool.total_bytes()
    for _ in range(50):
        plan.run(100)
    backend.synchronize()
    gc.collect()
    assert (pool.used_bytes(), pool.total_bytes()) == (used, total)


# data


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_streamed_is_resident(gpu, monkeypatch, weighted, smoothing):
    options = {"dropout": 0.25, "label_smoothing": smoothing, "activations": "sigmoid"}
    options["cost"] = "binary_cross_entropy"
    weights = {"sample_weight": np.linspace(0.5, 1.5, 43)} if weighted else {}
    results = []
    monkeypatch.setattr(offload, "BUFFER_BYTES", 2000)
    for fits in (offload.fits_on_device, lambda *of: False):
        monkeypatch.setattr(prepare, "fits_on_device", fits)
        net, history = trained(gpu, bp.Adam(0.01), epochs=3, fit=weights, **options)
        results.append((parameters(net), history.cost))
    np.testing.assert_array_equal(results[1][0], results[0][0])
    assert results[1][1] == results[0][1]


def test_data_too_large_for_the_device_is_streamed(stand_in, monkeypatch):
    sent = []
    monkeypatch.setattr(prepare, "Offloaded", lambda *of: sent.append(of) or offload.Offloaded(*of))
    trained(stand_in)
    assert not sent
    stand_in.cuda.free = 2**28 + 1000
    trained(stand_in)
    assert sent


def test_a_prefetcher_has_two_buffers_on_host_and_device(stand_in):
    prefetcher = stand_in.prefetcher((6, 3), "float64")
    assert stand_in.cuda.pinned == 2 * 6 * 3 * 8

    def rows(value):
        def fill(out):
            out[:4] = value
            return 4

        return fill

    futures = [prefetcher.send(rows(1.0)), prefetcher.send(rows(2.0))]
    for value, future in zip((1.0, 2.0), futures, strict=True):
        received, count = prefetcher.receive(future)
        np.testing.assert_array_equal(stand_in.to_numpy(received)[:count], np.full((4, 3), value))
    received, _ = prefetcher.receive(prefetcher.send(rows(3.0)))
    np.testing.assert_array_equal(stand_in.to_numpy(received)[:4], 3.0)
    prefetcher.finish()


def test_copies_end_before_their_buffers_go(stand_in, monkeypatch):
    """Also where a training ends early: the generator of chunks is closed."""
    monkeypatch.setattr(offload, "BUFFER_BYTES", 2000)
    source = offload.Offloaded(network(stand_in), *data(m=400), None, 4, True)
    write, may_write, calls = source._write, threading.Event(), []

    def slow(*of):
        calls.append(of)
        assert len(calls) < 3 or may_write.wait(10)
        write(*of)

    source._write = slow
    parts = source.chunks(np.random.default_rng(0), lambda step, m: 100)
    next(parts)
    next(parts)
    threading.Timer(0.01, may_write.set).start()
    parts.close()
    assert source._prefetcher._sent[-1].done()
    assert not any(event.work for event in source._prefetcher._copied)


def test_an_error_in_reading_is_raised_by_receive(stand_in):
    prefetcher = stand_in.prefetcher((6, 3), "float64")
    with pytest.raises(ZeroDivisionError):
        prefetcher.receive(prefetcher.send(lambda out: 1 // 0))


# copies between backends


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_networks_are_copied_to_a_device_and_back_and_by_file(gpu, tmp_path, dtype, suffix):
    """Rows are padded on a device, and not on the host."""
    net = network("numpy", dtype=dtype)
    there = net.to(gpu)
    back = there.to("numpy")
    assert there.vector.shape[0] > net.vector.shape[0]
    for copy in (there, back):
        np.testing.assert_array_equal(parameters(copy), parameters(net))
        assert copy.rng.bit_generator.state == net.rng.bit_generator.state
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    for source, backend in ((there, "numpy"), (net, gpu)):
        path = tmp_path / f"net{suffix}"
        source.save(path)
        loaded = bp.load(path, backend=backend)
        np.testing.assert_array_equal(parameters(loaded), parameters(net))
        X, _ = data()
        np.testing.assert_allclose(
            loaded.backend.to_numpy(loaded.feedforward(X)), net.feedforward(X), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("optimizer", [bp.SGD(0.1, momentum=0.9), bp.Adam(0.01, averaging=0.9)], ids=str)
@pytest.mark.parametrize("way", ["to the device", "from the device"])
def test_a_training_is_resumed_on_the_other(gpu, tmp_path, optimizer, way):
    path = tmp_path / "checkpoint.npz"
    first, second = ("numpy", gpu) if way == "to the device" else (gpu, "numpy")
    whole, history = trained("numpy", optimizer, epochs=4, dropout=0.25)
    keep = {"callbacks": [bp.Checkpoint(path), bp.EarlyStopping(patience=10, monitor="cost")]}
    trained(first, optimizer, epochs=2, dropout=0.25, fit=keep)
    again = {"callbacks": [bp.EarlyStopping(patience=10, monitor="cost")], "resume": path}
    net, resumed = trained(second, optimizer, epochs=4, dropout=0.25, fit=again)
    np.testing.assert_allclose(parameters(net), parameters(whole), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(resumed.cost, history.cost, rtol=1e-10)


def test_pickling(gpu):
    net = network(gpu)
    copied = pickle.loads(pickle.dumps(net))
    assert (copied.backend.gpu.number, copied.backend.gpu.precision) == (
        gpu.gpu.number,
        gpu.gpu.precision,
    )
    np.testing.assert_array_equal(parameters(copied), parameters(net))


# devices and precision


def test_arrays_of_two_devices_are_not_mixed(stand_in):
    other = stand_in.with_options(1)
    assert other.device != stand_in.device
    here, there = network(stand_in), network(other)
    X, Y = data()
    with pytest.raises(ValueError, match=r"X is on device .*network is on"):
        here.feedforward(there.backend.asarray(X, "float64"))
    with pytest.raises(ValueError, match="Y is on device"):
        here.backprop(X, there.backend.asarray(Y, "float64"))
    np.testing.assert_allclose(parameters(here.to(stand_in, device="cuda:1")), parameters(here), rtol=0)


@pytest.mark.parametrize("device", ["cuda:x", 1.5, True, "gpu", object()])
def test_a_device_is_a_number(device):
    if double.COMPILER is None:
        pytest.skip("no C++ compiler")
    with pytest.raises(TypeError, match="device must be the number of a GPU"):
        double.Double(device)


@needs_compiler
def test_a_device_that_is_not_there():
    with pytest.raises(backends.BackendUnavailableError, match="2 CUDA devices, numbered from 0 to 1"):
        double.Double(2)
    with pytest.raises(backends.BackendUnavailableError, match="1 CUDA device, numbered from 0"):
        double.Double(-1, devices=1)


def test_tf32_is_asked_for(stand_in):
    rough = stand_in.with_options(precision="tf32")
    X, Y = (x.astype("float32") for x in data())
    for backend, compute in ((stand_in, {68}), (rough, {77})):
        network(backend, dtype="float32").backprop(X, Y)
        assert backend.cublas.computes == compute
    network(rough).backprop(*data())
    assert rough.cublas.computes == {77, 70}, "float64 stays what it is"
    with pytest.raises(ValueError, match="precision must be 'full' or 'tf32', got 'half'"):
        double.Double(precision="half")


def test_tf32_is_within_what_the_docs_say():
    """Of a GPU with tensor cores: gradients within 1e-2 of the largest entry, relatively."""
    backend = on_gpu()
    net = network(backend, (784, 512, 512, 10), activations="sigmoid", dtype="float32")
    rough = net.to(precision="tf32")
    X, Y = (x.astype("float32") for x in data(784, 256, 10))
    one, other = (x.backend.to_numpy(x.backprop(X, Y).vector) for x in (net, rough))
    assert 0 < np.abs(one - other).max() <= 1e-2 * np.abs(one).max()


@pytest.mark.parametrize("options", [{"device": 0}, {"precision": "tf32"}])
def test_device_and_precision_need_a_backend(options):
    with pytest.raises(ValueError, match="name the backend too"):
        bp.Network([2, 2], **options)


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_the_host_has_one_device_and_one_precision(name):
    if name == "numba":
        pytest.importorskip("numba")
    assert bp.Network([2, 2], backend=name, device="cpu", precision="full").backend.name == name
    with pytest.raises(ValueError, match="NumPy computes on the CPU"):
        bp.Network([2, 2], backend=name, device=1)
    with pytest.raises(ValueError, match=r"precision='tf32'.*as its dtype"):
        bp.Network([2, 2], backend=name, precision="tf32")


# errors


class Fake(Device):
    """A GPU whose CuPy's runtime answers as a test says."""

    answers: SimpleNamespace

    def _cupy(self):
        return SimpleNamespace(cuda=SimpleNamespace(runtime=self.answers))

    def _namespace(self):
        return np


def answers(driver, count):
    class CUDARuntimeError(RuntimeError):
        pass

    def number(value):
        if isinstance(value, str):
            raise CUDARuntimeError(value)
        return value

    return SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        driverGetVersion=lambda: number(driver),
        runtimeGetVersion=lambda: 13000,
        getDeviceCount=lambda: number(count),
        getDevice=lambda: 0,
    )


@pytest.mark.parametrize(
    ("driver", "count", "message"),
    [
        (0, "cudaErrorInsufficientDriver: …", "no CUDA driver, and so no CUDA device.*nvidia-smi"),
        ("cudaErrorUnknown", 0, "there is no CUDA driver"),
        (12020, "cudaErrorInsufficientDriver: …", r"CUDA 13\.0, .*for CUDA 12\.2.*bpengine\[cuda12\]"),
        (13000, "cudaErrorNoDevice: …", "driver are there, but it finds no CUDA device.*CUDA_VISIBLE"),
        (13000, 0, "the driver are there, but it finds no CUDA device"),
        (13000, "cudaErrorInitializationError: …", "gives no CUDA device: cudaErrorInit.*nvidia-smi"),
    ],
)  # fmt: skip
def test_the_error_says_what_is_missing(monkeypatch, driver, count, message):
    monkeypatch.setattr(Fake, "answers", answers(driver, count), raising=False)
    with pytest.raises(backends.BackendUnavailableError, match=message):
        Fake()


def test_a_cupy_without_a_driver():
    """CuPy itself, where it is installed and there is no GPU."""
    cupy = pytest.importorskip("cupy")
    if cupy.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(backends.BackendUnavailableError, match="there is no CUDA driver"):
        bp.Network([2, 2], backend="cupy")


def test_no_cupy_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(backends.BackendUnavailableError, match=r"not installed.*bpengine\[cuda13\]"):
        bp.Network([2, 2], backend="cupy", device=1)


def test_out_of_memory_says_the_bytes_and_what_would_fit(stand_in):
    net = network(stand_in, dtype="float32")
    stand_in.cuda.free = 2**28 + 2**20
    with pytest.raises(backends.DeviceMemoryError) as caught:
        net.plan(2**24, bp.SGD())
    text = str(caught.value)
    assert "a batch of 16777216 examples needs" in text and "Out of memory allocating" in text
    assert caught.value.left == 2**20 and "1,048,576 bytes are left" in text
    fits = int(re.search(r"A batch of (\d+) would fit", text)[1])
    ws = net.plan(8).workspace
    arrays = (ws.rows, *ws.extended[1:], *ws.z, *ws.delta)
    assert fits * sum(x._array.nbytes // 8 for x in arrays) <= 2**20
    assert isinstance(caught.value, MemoryError)
    with pytest.raises(backends.DeviceMemoryError, match=r"allocating.*bytes are left on the device"):
        stand_in.empty((2**30,), "float32")


def test_several_threads_may_predict(gpu):
    net, (X, _) = network(gpu), data()
    expected = gpu.to_numpy(net.feedforward(X))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(net.feedforward, [X] * 40):
            np.testing.assert_array_equal(gpu.to_numpy(found), expected)


def test_several_threads_may_train(gpu):
    """Their captures are undisturbed by the calls that CUDA refuses meanwhile in the others."""
    expected = parameters(trained(gpu)[0])
    with ThreadPoolExecutor(4) as pool:
        for found, _ in pool.map(lambda _: (trained(gpu), gpu.synchronize())[0], range(8)):
            np.testing.assert_array_equal(parameters(found), expected)


def test_others_wait_for_a_capture(stand_in):
    """With what CUDA refuses meanwhile: synchronization, and handles of cuBLAS made and destroyed."""
    gpu, done = stand_in.gpu, []

    def synchronized():
        gpu.enter_library()
        stand_in.synchronize()
        done.append(True)

    unused = gpu.cublas.create()
    gpu.library._unused.append(unused)
    threads = [threading.Thread(target=synchronized) for _ in range(2)]

    def run():
        assert not gc.isenabled(), "it may free what a capture does not allow"
        for thread in threads:
            thread.start()
            thread.join(0.01)
        assert not done

    gpu.capture(run)
    for thread in threads:
        thread.join()
    assert len(done) == 2 and gc.isenabled() and unused not in gpu.library._unused


def test_a_handle_is_not_destroyed_where_the_collector_finds_it(stand_in):
    thread = threading.Thread(target=stand_in.gpu.enter_library)
    thread.start()
    thread.join()
    gc.collect()
    assert len(stand_in.gpu.library._unused) == 1
    assert None not in stand_in.cublas.handles.values()


def test_graphs_of_different_plans_have_different_workspaces(stand_in):
    for _ in range(2):
        plan = network(stand_in).plan(4, bp.SGD(0.1))
        plan.load(*(x[:, :4] for x in data()))
        plan.run(10)
    captured = stand_in.cublas.workspaces
    assert len(set(captured[: len(captured) // 2])) == 1 and len(set(captured)) == 2


def test_the_memory_of_a_graph_is_freed_with_it(stand_in):
    plan = network(stand_in).plan(4, bp.SGD(0.1))
    plan.load(*(x[:, :4] for x in data()))
    plan.run(10)
    gc.collect()
    before = double.Pool.freed
    del plan
    gc.collect()
    assert double.Pool.freed == before + 2, "a graph of eight steps, and one of one step"


def test_a_backend_is_made_once(stand_in, monkeypatch):
    made = {}
    monkeypatch.setattr(cupy_backend, "_made", made)
    monkeypatch.setattr(cupy_backend, "CuPyBackend", lambda *of: made.setdefault(None, of) and stand_in)
    assert backends.get("cupy") is stand_in
    made.pop(None)
    assert backends.get("cupy") is stand_in and list(made) == [(0, "full")]
    assert backends.get("cupy", device="cuda:0", precision="full") is stand_in


def test_sums_over_ranks_are_of_the_backends_device(stand_in, monkeypatch):
    other, entered = stand_in.with_options(1), []
    monkeypatch.setattr(other, "_nccl", lambda: "nccl")
    current = other.cuda.runtime.getDevice
    monkeypatch.setattr(cupy_backend, "NCCLSum", lambda *of: entered.append(current()))
    other.cuda.runtime.setDevice(0)
    other.all_reduce(None, None, [])
    assert entered == [1]


def test_a_case_of_every_activation_and_cost_in_float32(gpu):
    for σ in ("sigmoid", "relu", "gelu", "softmax"):
        case = Case([5, 7, 4], [σ, "softmax"], "softmax_cross_entropy", batch=6, dtype="float32")
        lab = SimpleNamespace(backend=gpu, array=lambda x, dtype=None: gpu.asarray(x, "float32"))
        net = case.network(lab)
        found = net.backprop(*case.data(lab))
        expected = case.network(lab, "numpy").backprop(*case.host_data())
        for w, v in zip(found.weights, expected.weights, strict=True):
            np.testing.assert_allclose(gpu.to_numpy(w), v, rtol=1e-3, atol=1e-5)


# the benchmark


@pytest.fixture(scope="module")
def benchmark_script():
    """benchmarks/gpu.py as a module, with those beside it."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    names = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("gpu")
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - names:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def made_up(benchmark_script, rungs):
    """Ratios that were never measured: of 2 at each rung, with an interval."""
    return {
        name: {rung: benchmark_script.Ratio(2.0, 1.9, 2.1, 5, 20.0, 10.0) for rung in rungs}
        for name in ("torch.compile", "JAX scan", "NumPy")
    }


def test_the_benchmarks_page(benchmark_script):
    rungs = ["tiny", "xlarge"]
    ratios = made_up(benchmark_script, rungs)
    del ratios["JAX scan"]["xlarge"]
    parts = benchmark_script.page(ratios, rungs, "a made-up card", "tf32", 5e13, (2e-6, 1e-6))
    text = "\n\n".join(parts)
    assert "| torch.compile | **2.00** 1.90–2.10 | **2.00** 1.90–2.10 |" in text
    assert "| JAX scan | **2.00** 1.90–2.10 | – |" in text
    assert "| *bpengine, µs a step* | *10* | *10* |" in text
    assert "a made-up card" in text and "TF32" in text and "50.0 TFLOP/s" in text
    assert "ahead of NumPy on the same machine at tiny, xlarge." in text


def test_the_benchmarks_arguments(benchmark_script, capsys):
    assert benchmark_script.options([]).rungs[-1] == "xlarge"
    chosen = benchmark_script.options(["--rungs", "tiny", "--precision", "tf32", "--print"])
    assert (chosen.rungs, chosen.precision, chosen.print) == (["tiny"], "tf32", True)
    for wrong in (["--rungs", "huge"], ["--precision", "half"], ["--pairs", "0"]):
        with pytest.raises(SystemExit):
            benchmark_script.options(wrong)
    assert "huge" in capsys.readouterr().err


def test_the_benchmark_says_that_it_needs_a_gpu(benchmark_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit, match=r"benchmarks/gpu\.py needs a GPU: backend 'cupy' needs CuPy"):
        benchmark_script.main(["--print"])


def test_the_benchmarks_table_is_there_only_if_it_was_measured():
    docs = Path(__file__).resolve().parents[2] / "docs"
    page = docs / "benchmarks-gpu.md"
    assert page.exists() == (docs / "benchmarks-gpu-ratios.svg").exists()
    assert not page.exists() or "CUDA" in page.read_text(encoding="utf-8")


def test_the_benchmarks_parts_run(benchmark_script, stand_in, monkeypatch):
    """All that has no need of a real clock: on the stand-in, whose times are no times of a GPU."""
    monkeypatch.setattr(backends, "get", lambda name, **options: stand_in)
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    stand_in.cuda.Event = lambda: event
    ticks = iter(range(10**9))
    stand_in.cuda.get_elapsed_time = lambda start, end: float(next(ticks))
    monkeypatch.setattr(benchmark_script, "SQUARE", 8)
    monkeypatch.setattr(benchmark_script, "PAIRS", 2)
    monkeypatch.setattr(benchmark_script, "PEERS", {**benchmark_script.PEERS, "JAX scan": "no_such"})
    card = benchmark_script.Card("full")
    plan = card.plan("tiny")
    before = plan.cost if plan._ran else None
    card.ours("tiny", 10)()
    card.products_alone("tiny", 10)()
    assert before is None and card.rate() > 0
    assert len(card.launch_cost()) == 2


def test_the_benchmark_leaves_a_page_after_every_rung(benchmark_script, monkeypatch, tmp_path):
    """Its clock sums short times in float64, as CUDA gives long ones to 31 µs."""
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    times = SimpleNamespace(Event=lambda: event, get_elapsed_time=lambda start, end: np.float32(0.25))
    card = benchmark_script.Card.__new__(benchmark_script.Card)
    card.cuda, card._last, card._seconds = times, event, 3600.0
    assert np.diff([card.clock() for _ in range(5)]) == pytest.approx(0.00025, rel=1e-6)
    monkeypatch.setattr(benchmark_script, "PEERS", dict.fromkeys(benchmark_script.PEERS, "no_such"))
    run = lambda name, steps: lambda: name == "small" and 1 / 0  # noqa: E731
    card.ours = card.products_alone = card.numpy = run
    monkeypatch.setattr(benchmark_script, "Card", lambda precision: card)
    card.backend = SimpleNamespace(gpu=SimpleNamespace(library=1))
    card.rate, card.launch_cost, card.describe = lambda: 1e12, lambda: (1e-6, 1e-6), lambda: "a card"
    monkeypatch.setattr(benchmark_script.pages, "DOCS", tmp_path)
    with pytest.raises(ZeroDivisionError):
        benchmark_script.main(["--rungs", "tiny", "nielsen", "small", "--pairs", "5"])
    text = (tmp_path / "benchmarks-gpu.md").read_text("utf-8")
    assert "tiny | nielsen |" in text and "small" not in text


def test_a_run_on_a_gpu_leaves_what_was_printed_before_its_limit(benchmark_script, tmp_path, capsys):
    gpu_run = importlib.import_module("gpu_run")
    path = tmp_path / "tests.txt"
    endless = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
    assert gpu_run.run([sys.executable, "-c", endless], 0.5, path) != 0
    assert re.fullmatch(r"begun\n(.*\n)*exit code .*, ended after 0.5 s\n", path.read_text("utf-8"))
    assert gpu_run.run([sys.executable, "-c", "print('done')"], 60, path) == 0
    assert path.read_text("utf-8") == "done\nexit code 0\n"
    assert "begun" in capsys.readouterr().out


def test_the_parts_of_a_run_on_a_gpu(benchmark_script, tmp_path, monkeypatch):
    gpu_run = importlib.import_module("gpu_run")
    ran = []
    monkeypatch.setattr(gpu_run, "run", lambda *of: ran.append(of) or len(ran) % 2 == 0)
    assert gpu_run.main(["smoke", "tests", "--out", str(tmp_path), "--maxfail", "3"]) == 1
    assert [path.name for *_, path in ran] == ["doctor.txt", "smoke.txt", "tests.txt"]
    assert ran[2][0][-2:] == ["--maxfail", "3"] and ran[2][1] == gpu_run.LIMITS["tests"]
    gpu_run.main(["--maxfail", "3", "--limit", "9", "--out", str(tmp_path)])
    assert [limit for _, limit, _ in ran[4:]] == [9] * len(gpu_run.LIMITS)


def test_a_run_without_a_gpu_ends_at_the_smoke_test(benchmark_script, tmp_path, monkeypatch, capsys):
    gpu_run, gpu_smoke = map(importlib.import_module, ("gpu_run", "gpu_smoke"))

    def unavailable(name):
        raise backends.BackendUnavailableError("there is no CUDA driver.")

    monkeypatch.setattr(gpu_smoke.backends, "get", unavailable)
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py"])
    assert gpu_smoke.main() == gpu_run.NO_GPU
    assert "gpu_smoke.py needs a GPU: there is no CUDA driver." in capsys.readouterr().err
    ran = []
    monkeypatch.setattr(gpu_run, "run", lambda *of: ran.append(of[-1].name) or gpu_run.NO_GPU)
    assert gpu_run.main(["--out", str(tmp_path)]) == 1
    assert ran == ["doctor.txt", "smoke.txt"]
