"""Random numbers drawn by compiled code: NumPy's, with the generator left in NumPy's state."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import bpengine as bp
from bpengine import backends
from bpengine.backends.base import warn_once
from bpengine.backends.operation import NOISE_BLOCK, Operation
from bpengine.backprop.dropout import Uniform
from bpengine.privacy.noise import Noise

pytest.importorskip("numba", reason="Numba is not installed")

from bpengine.backends.array_api import Replay
from bpengine.backends.numba import backend as numba_backend
from bpengine.backends.numba import random, threads


class Derived(np.random.PCG64):
    """A subclass of PCG64, which compiled code must not assume to be one."""


class Hidden(np.random.PCG64):
    """A bit generator without the C interface."""

    ctypes = None


KINDS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]
generators = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def generator(kind, seed=0):
    return np.random.Generator(getattr(np.random, kind)(seed))


def uniform(rngs, out):
    """The program that draws uniform numbers into an array."""
    op = Operation("uniform", "", Uniform(rngs, out.shape, None, out.dtype), (), out)
    return backends.get("numba").compile([op])


def noisy(rng, x, strength, backend="numba"):
    """The program that adds noise to an array."""
    x_strength = x, np.array(strength, x.dtype)
    op = Operation("gaussian noise", "", Noise(rng, None, x.dtype), x_strength, x)
    return backends.get(backend).compile([op])


def assert_compiled(program):
    """A step is one replay of instructions, without calls of Python in between."""
    [(function, _)] = program.calls
    assert function is threads.replay or isinstance(function, numba_backend.LockedReplay)


def assert_same_state(*rngs):
    first, *others = (rng.bit_generator.state for rng in rngs)
    for other in others:
        np.testing.assert_equal(other, first)


draws = st.lists(
    st.tuples(st.sampled_from(["float32", "float64", "integers"]), st.integers(1, 70)),
    min_size=1,
    max_size=6,
)


@generators
@given(draws=draws, seed=st.integers(0, 2**32))
@examples(15)
def test_uniform_numbers_are_numpys_to_the_last_bit(kind, draws, seed):
    """Of any number and in any order: half an output of 64 bits may be left between them."""
    ours, numpys = generator(kind, seed), generator(kind, seed)
    for what, count in draws:
        if what == "integers":  # drawn by NumPy in between
            found, expected = (rng.integers(0, 2**32, count, np.uint32) for rng in (ours, numpys))
        else:
            found = np.full(count, np.nan, what)
            program = uniform([ours], found)
            assert_compiled(program)
            program.run(1)
            expected = numpys.random(count, what)
        np.testing.assert_array_equal(found, expected)
        assert_same_state(ours, numpys)


@generators
@dtypes
def test_a_network_of_a_stack_draws_from_its_generator_or_not_at_all(kind, dtype):
    rngs, others = [[generator(kind, seed) for seed in range(2)] for _ in range(2)]
    found = np.full((3, 5, 7), np.nan, dtype)
    program = uniform([rngs[0], None, rngs[1]], found)
    assert_compiled(program)
    for _ in range(3):
        program.run(1)
        expected = [others[0].random((5, 7), dtype), np.zeros((5, 7)), others[1].random((5, 7), dtype)]
        np.testing.assert_array_equal(found, expected)
    for pair in zip(rngs, others, strict=True):
        assert_same_state(*pair)


def test_many_steps_of_one_run_draw_new_numbers():
    ours, numpys = generator("PCG64"), generator("PCG64")
    found = np.empty((1, 333), "float32")
    uniform([ours], found).run(1000)
    for _ in range(1000):
        expected = numpys.random((1, 333), "float32")
    np.testing.assert_array_equal(found, expected)
    assert_same_state(ours, numpys)


@generators
@dtypes
@pytest.mark.parametrize(
    "size", [1, 2, 3, 31, 1000, 1001, NOISE_BLOCK, NOISE_BLOCK + 1, 2 * NOISE_BLOCK + 4097]
)
def test_noise_is_numpys_to_rounding(kind, dtype, size):
    arrays, rngs = [], []
    for backend in ("numpy", "numba"):
        rng = generator(kind, 5)
        x = np.zeros(size, dtype)
        program = noisy(rng, x, 0.5, backend)
        program.run(2)
        arrays.append(x)
        rngs.append(rng)
    assert_compiled(program)
    np.testing.assert_allclose(*arrays, rtol=0, atol=8 * np.finfo(dtype).eps)
    assert_same_state(*rngs)


def test_noise_of_any_bits():
    """Logarithms down to 2⁻³³, and angles on both sides of each eighth of a turn."""

    class Bits:
        def __init__(self, bits):
            self.bits = bits

        def integers(self, low, high, size, dtype, endpoint):
            return self.bits.view(np.uint64)

    rng = np.random.default_rng(0)
    ends = np.array([0, 1, 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1], np.uint32)
    eighths = (np.arange(8) * 2**29)[:, None] + np.arange(-3, 4)
    angles = np.concatenate([ends, eighths.ravel().astype(np.uint32), rng.integers(0, 2**32, 400, "u4")])
    radii = np.concatenate(
        [ends, 2 ** np.arange(32, dtype=np.uint32), rng.integers(0, 2**32, 424, "u4")]
    )
    bits = np.concatenate([radii, angles])
    expected, found = np.empty(bits.size, "float32"), np.zeros((2, radii.size), "float32")
    Noise(Bits(bits), None, "float32").fill(expected, np.float32(1))
    random._add_circles(*found, *bits.view("float32").reshape(2, -1), np.float32(1))
    np.testing.assert_allclose(found.ravel(), expected, rtol=0, atol=4e-6)
    u = (radii.astype("float32") + np.float32(0.5)).astype("float64") / 2**32
    φ = angles.view(np.int32).astype("float32").astype("float64") * (np.pi / 2**31)
    exact = np.sqrt(-2 * np.log(u)) * [np.cos(φ), np.sin(φ)]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)


@pytest.mark.skipif(sys.platform == "win32", reason="NumPy's state has another layout there")
def test_a_pcg64_is_recognised_and_nothing_else():
    def known(bit_generator):
        return random._has_known_layout(bit_generator, bit_generator.ctypes.state_address)

    assert known(np.random.PCG64(3)) == bool(random.FEATURES.get("avx2"))
    for other in (np.random.PCG64DXSM(3), np.random.SFC64(3), Derived(3)):
        assert not known(other)


@dtypes
@pytest.mark.parametrize("which", ["derived", "narrow"])
def test_an_unknown_pcg64_is_called_for_every_number(monkeypatch, which, dtype):
    if which == "narrow":
        monkeypatch.setattr(random, "FEATURES", {})
    ours = np.random.Generator((Derived if which == "derived" else np.random.PCG64)(0))
    numpys = generator("PCG64")
    found, x = np.empty((1, 77), dtype), np.zeros(77, dtype)
    uniform([ours], found).run(1)
    np.testing.assert_array_equal(found, numpys.random((1, 77), dtype))
    noisy(ours, x, 1.0).run(1)
    noise = Noise(numpys, bp.backends.get("numpy"), dtype)(np.zeros(77, dtype), np.array(1.0, dtype))
    np.testing.assert_allclose(x, noise, rtol=0, atol=16 * np.finfo(dtype).eps)
    assert ours.random(1) == numpys.random(1)


def test_numpy_draws_what_compiled_code_can_not_with_one_warning(monkeypatch, caplog):
    warn_once.cache_clear()
    ours, numpys = np.random.Generator(Hidden(0)), generator("PCG64")
    found = np.empty((1, 9))
    for _ in range(2):
        uniform([ours], found).run(3)
    for _ in range(6):
        expected = numpys.random((1, 9))
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(random, "_normal", lambda: None)
    x = np.zeros(9)
    noisy(ours, x, 0.5).run(1)
    np.testing.assert_allclose(x, 0.5 * numpys.standard_normal(9))
    names = [record.getMessage().partition(" has no")[0] for record in caplog.records]
    assert names == ["'uniform'", "'gaussian noise'"]


def test_a_generator_whose_state_is_set_goes_on_from_there():
    rng, found = generator("MT19937"), np.empty((1, 9))
    program = uniform([rng], found)
    program.run(1)
    first, rng.bit_generator.state = found.copy(), generator("MT19937").bit_generator.state
    program.run(1)
    np.testing.assert_array_equal(found, first)


def test_a_program_holds_the_locks_of_its_generators():
    """Two threads that draw from one state without its lock would get the same numbers, or worse."""
    rng = generator("MT19937")
    program = uniform([rng, rng], np.empty((2, 9)))  # one generator, whose lock is acquired once
    program.run(1)
    other = threading.Thread(target=program.run, args=(1,), daemon=True)
    with rng.bit_generator.lock:
        other.start()
        other.join(0.2)
        assert other.is_alive()
    other.join(60)
    assert not other.is_alive()


def data(dtype="float64", N=22):
    rng = np.random.default_rng(0)
    return rng.random((5, N)).astype(dtype), rng.random((3, N)).astype(dtype)


def network(backend, dtype="float64", **options):
    options = {"rng": np.random.default_rng(3), **options}
    return bp.Network([5, 7, 3], ["tanh", "sigmoid"], backend=backend, dtype=dtype, **options)


@dtypes
def test_steps_with_random_numbers_or_clipping_are_compiled_as_a_whole(dtype):
    X, Y = data(dtype)
    rule = bp.SGD(0.1, clip_norm=0.1)
    for net, optimizer in (
        (network("numba", dtype, dropout=[0.2, 0.5]), rule),
        (network("numba", dtype), bp.DPSGD(0.1, 1.0, 1.0)),
        (network("numba", dtype, dropout=0.5), bp.DPSGD(0.1, 1.0, 1.0, momentum=0.9, secure=True)),
        (network("numba", dtype, stack=3, dropout=[0.0, (0.5, 0.0, 0.2)], rng=0), rule),
    ):
        plan = net.plan(22, optimizer)
        plan.load(X, Y)
        assert_compiled(plan.run(3).program)


@dtypes
@pytest.mark.parametrize("what", ["dropout", "noise", "both"])
def test_training_is_numpys_without_a_step_in_python(what, dtype, monkeypatch):
    X, Y = data(dtype)
    vectors, rngs = [], []
    private = bp.DPSGD(0.5, 0.7, 0.2, delta=None)
    for backend in ("numpy", "numba"):
        net = network(backend, dtype, dropout=0.0 if what == "noise" else [0.2, 0.5])
        rule = bp.SGD(0.5) if what == "dropout" else private
        net.fit(X, Y, epochs=3, batch_size=4, optimizer=rule, progress=False)
        vectors.append(net.vector)
        rngs.append(net.rng)

        def never(*_):
            raise AssertionError("a step in Python")

        monkeypatch.setattr(Replay, "run_batches", never)
    tolerance = 2e-4 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(*vectors, rtol=tolerance, atol=tolerance)
    assert_same_state(*rngs)


def test_a_stack_with_dropout_trains_as_numpy():
    X, Y = data()
    vectors, rngs = [], []
    for backend in ("numpy", "numba"):
        nets = network(backend, stack=3, dropout=[0.0, (0.5, 0.0, 0.2)], rng=0)
        optimizer = bp.SGD(0.5, clip_norm=0.05)
        nets.fit(X, Y, epochs=3, batch_size=4, optimizer=optimizer, progress=False)
        vectors.append(nets.vector)
        rngs.append(nets.rngs)
    np.testing.assert_allclose(*vectors, rtol=1e-10, atol=1e-12)
    for pair in zip(*rngs, strict=True):
        assert_same_state(*pair)


def test_secure_noise_is_drawn_from_the_generator_that_it_is_given(monkeypatch):
    monkeypatch.setattr("secrets.randbits", lambda bits: 17)
    X, Y = data("float32")
    vectors = []
    for backend in ("numpy", "numba"):
        net = network(backend, "float32")
        plan = net.plan(22, bp.DPSGD(0.5, 1.0, 0.5, secure=True))
        plan.load(X, Y)
        before = net.rng.bit_generator.state
        plan.run(5)
        assert net.rng.bit_generator.state == before
        vectors.append(net.vector)
    np.testing.assert_allclose(*vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["PCG64", "MT19937"])
@dtypes
def test_a_resumed_training_draws_the_masks_that_were_to_come(kind, dtype, tmp_path):
    X, Y = data(dtype, N=21)

    def training(epochs, path, seed):
        net = network("numba", dtype, dropout=[0.2, 0.5], rng=generator(kind, seed))
        options = {"callbacks": [bp.Checkpoint(path)], "resume": path, "progress": False}
        net.fit(X, Y, epochs=epochs, batch_size=5, **options)
        return net

    whole = training(5, tmp_path / "whole.npz", 1)
    training(2, tmp_path / "parts.npz", 1)
    resumed = training(5, tmp_path / "parts.npz", 2)
    np.testing.assert_array_equal(resumed.vector, whole.vector)
    assert_same_state(resumed.rng, whole.rng)


def test_a_network_that_is_given_another_generator_draws_from_it():
    X, Y = data()
    vectors = []
    for backend in ("numpy", "numba"):
        net = network(backend, dropout=0.5)
        for seed in (4, 5):
            net.rng = np.random.default_rng(seed)
            net.fit(X, Y, epochs=1, batch_size=4, progress=False)
        vectors.append(net.vector)
        assert_same_state(net.rng, net.rngs[0])
    np.testing.assert_allclose(*vectors, rtol=1e-10)


def test_a_program_holds_the_generators_whose_addresses_it_has():
    generator = np.random.default_rng(0)
    alone = sys.getrefcount(generator)
    net = bp.Network([4, 5, 3], backend="numba", dropout=0.5, rng=generator)
    program = net.plan(8, bp.SGD(0.1)).program
    del net
    gc.collect()
    assert sys.getrefcount(generator) > alone
    program.run(1)
