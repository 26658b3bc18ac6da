"""One flat vector, its views, and the padding that nobody notices."""

from __future__ import annotations

import copy

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import PAIRS, cases, deep, examples

import bpengine as bp
from bpengine.model.parameters import Gradient, Parameters, padded

SIZES = st.lists(st.integers(1, 6), min_size=2, max_size=6)
STACKS = st.sampled_from([(), (1,), (3,), (2, 2)])


def aligned(backend, alignment):
    """The same backend with rows padded to a multiple of `alignment` bytes."""
    padding = copy.copy(backend)
    padding.alignment = alignment
    return padding


@given(
    sizes=SIZES,
    stack=STACKS,
    dtype=st.sampled_from(["float32", "float64"]),
    alignment=st.sampled_from([1, 16, 64]),
)
@examples(20)
def test_the_views_have_the_shapes_of_the_chapter_and_tile_the_vector(
    lab, sizes, stack, dtype, alignment
):
    backend = aligned(lab.backend, alignment)
    parameters = Parameters(sizes, backend, dtype, stack)
    assert (lab.numpy(parameters.vector) == 0).all()
    assert parameters.vector.dtype == getattr(backend.xp, dtype)
    assert backend.device_of(parameters.vector) == backend.device
    # numbered entries: where each view looks in the vector
    numbers = np.arange(parameters.vector.shape[0], dtype=dtype)
    parameters.vector[...] = lab.backend.asarray(numbers, dtype)
    start = 0
    layers = zip(parameters.weights, parameters.biases, parameters.blocks, strict=True)
    for l, (w, b, block) in enumerate(layers):
        n, fan_in = sizes[l + 1], sizes[l]
        K = padded(fan_in + 1, backend, dtype)
        assert (w.shape, b.shape) == ((*stack, n, fan_in), (*stack, n, 1))
        size = int(np.prod((*stack, n, K)))
        expected = numbers[start : start + size].reshape(*stack, n, K)
        np.testing.assert_array_equal(lab.numpy(block), expected)
        np.testing.assert_array_equal(lab.numpy(w), expected[..., :fan_in])
        np.testing.assert_array_equal(lab.numpy(b), expected[..., fan_in : fan_in + 1])
        start += size
    assert start == parameters.vector.shape[0]


@given(width=st.integers(1, 200), alignment=st.sampled_from([1, 4, 8, 16, 32, 128]))
@examples(40)
def test_padded_is_the_least_multiple_of_the_alignment(lab, width, alignment):
    backend = aligned(lab.backend, alignment)
    for dtype, itemsize in (("float32", 4), ("float64", 8)):
        found = padded(width, backend, dtype)
        assert found * itemsize % min(alignment, found * itemsize) == 0
        assert found * itemsize % alignment == 0 or alignment < itemsize
        assert 0 <= found - width < max(1, alignment / itemsize)


@given(case=cases(max_layers=3, dtypes=("float32", "float64")))
@examples(15)
def test_weights_and_biases_are_views_of_the_vector_both_ways(lab, case):
    net = case.network(lab)
    for l in range(case.layers):
        for view in (net.weights[l], net.biases[l]):
            before = lab.numpy(net.vector).copy()
            view[-1, -1] = 12345.0
            changed = np.flatnonzero(lab.numpy(net.vector) != before)
            assert lab.numpy(net.vector)[changed].tolist() == [12345]
            net.vector[int(changed[0])] = -5.0
            assert float(view[-1, -1]) == -5


@given(case=cases(max_layers=3, dtypes=("float32", "float64")))
@examples(15)
def test_the_gradient_is_laid_out_as_the_parameters_are(lab, case):
    net = case.network(lab)
    gradient = net.backprop(*case.data(lab))
    assert isinstance(gradient, Gradient)
    assert gradient.vector.shape == net.vector.shape
    assert gradient.vector.dtype == net.vector.dtype
    for kind in ("weights", "biases", "blocks"):
        ours, theirs = getattr(gradient, kind), getattr(net.parameters, kind)
        assert [x.shape for x in ours] == [x.shape for x in theirs]
    gradient.vector[...] = 3.0
    assert all((lab.numpy(x) == 3).all() for x in (*gradient.weights, *gradient.biases))


def paddings(lab, parameters):
    blocks = zip(parameters.blocks, parameters.sizes[:-1], strict=True)
    return [lab.numpy(block)[..., n + 1 :] for block, n in blocks]


def assert_padding_changes_nothing(lab, case, alignment):
    plain = case.network(lab, aligned(lab.backend, 1))
    net = case.network(lab, aligned(lab.backend, alignment))
    X, Y = case.data(lab)
    optimizer = bp.SGD(0.1)
    for entry in (plain, net):
        entry.trained = entry.plan(case.batch, optimizer)
        entry.trained.load(X, Y)
    for _ in range(3):
        expected, gradient = plain.backprop(X, Y), net.backprop(X, Y)
        assert gradient.cost == pytest.approx(expected.cost, rel=1e-12)
        lab.assert_close(net.feedforward(X), lab.numpy(plain.feedforward(X)), 1e-12)
        for l in range(case.layers):
            lab.assert_close(gradient.weights[l], lab.numpy(expected.weights[l]), 1e-12)
            lab.assert_close(gradient.biases[l], lab.numpy(expected.biases[l]), 1e-12)
        plain.trained.run()
        net.trained.run()
        for padding in (*paddings(lab, gradient), *paddings(lab, net.parameters)):
            assert (padding == 0).all()
    return net


@given(case=cases(max_layers=4), alignment=st.sampled_from([16, 64]))
@examples(20)
def test_padding_changes_no_result_and_stays_zero(lab, case, alignment):
    assert_padding_changes_nothing(lab, case, alignment)


@pytest.mark.parametrize(("σ", "cost"), PAIRS)
def test_padding_changes_no_result_for_every_pair(lab, σ, cost):
    net = assert_padding_changes_nothing(lab, deep(σ, cost), 64)
    assert all(padding.size for padding in paddings(lab, net.parameters))


def test_fit_leaves_the_padding_at_zero(lab):
    net = bp.Network([3, 4, 2], backend=aligned(lab.backend, 64), rng=0)
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((3, 20)), rng.random((2, 20))
    net.fit(lab.array(X), lab.array(Y), epochs=2, batch_size=8, progress=False)
    assert all(padding.size and (padding == 0).all() for padding in paddings(lab, net.parameters))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_of_either_dtype_is_computed_in_that_of_the_network(lab, dtype):
    net = bp.Network([3, 4, 2], backend=lab.backend, dtype=dtype, rng=0)
    for given_dtype in ("float32", "float64"):
        X = lab.array(np.ones((3, 4)), given_dtype)
        Y = lab.array(np.zeros((2, 4)), given_dtype)
        expected = getattr(lab.backend.xp, dtype)
        assert net.feedforward(X).dtype == expected
        assert net.backprop(X, Y).vector.dtype == expected


@pytest.mark.parametrize(
    "values",
    [None, float("nan"), "7", 1e300, 1j, 10**400, [[1, 2, "x"]], [[1], [1, 2]]],
    ids=str,
)
@pytest.mark.parametrize("views", ["weights", "biases"])
def test_parameters_set_by_hand_are_finite_numbers(lab, values, views):
    net = bp.Network([3, 3, 1], backend=lab.backend, rng=0)
    before = lab.numpy(net.vector).copy()
    with pytest.raises((TypeError, ValueError), match="parameters must be"):
        getattr(net, views)[0] = values
    with pytest.raises(
        ValueError, match=r"parameters of shape \(3, .\) can't be set to an array of shape \(5,\)"
    ):
        getattr(net, views)[0] = lab.array([1.0] * 5)
    np.testing.assert_array_equal(lab.numpy(net.vector), before)
    masked = np.ma.array([1.0], mask=[1])
    for rows in (masked, [[1.0], masked, [2.0]]):
        with pytest.raises(ValueError, match="parameters has 1 masked"):
            getattr(net, views)[0] = rows
    for l in (7, -3, "a", None, slice(None)):
        with pytest.raises((TypeError, IndexError), match=r"must be a whole number from -2 to 1, got"):
            getattr(net, views)[l] = 0.0
    getattr(net, views)[0] = [[1], [2], [3]]
    getattr(net, views)[0] += 0.5
    assert lab.numpy(getattr(net, views)[0])[:, 0].tolist() == [1.5, 2.5, 3.5]


def test_parameters_are_arrays_of_the_backend_or_the_host(lab):
    net = bp.Network([3, 3, 1], backend=lab.backend, rng=0)
    strict = type(net.vector).__module__.startswith("array_api_strict")  # also of a stand-in for a GPU
    other = pytest.importorskip("torch") if strict else array_api_strict
    with pytest.raises(TypeError, match=r"parameters are arrays of .*, got one of .*; convert it first"):
        net.weights[0] = other.zeros((3, 3))
