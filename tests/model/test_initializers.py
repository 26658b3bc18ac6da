"""Initial weights have the distributions that their names promise, the same on every backend."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import bpengine as bp
from bpengine.model.initializers import INITIALIZERS

# variance of the weights of n neurons with fan_in inputs
VARIANCES = {
    "gaussian": lambda n, fan_in: 1,
    "scaled_gaussian": lambda n, fan_in: 1 / fan_in,
    "lecun_normal": lambda n, fan_in: 1 / fan_in,
    "lecun_uniform": lambda n, fan_in: 1 / fan_in,
    "glorot_normal": lambda n, fan_in: 2 / (fan_in + n),
    "glorot_uniform": lambda n, fan_in: 2 / (fan_in + n),
    "he_normal": lambda n, fan_in: 2 / fan_in,
    "he_uniform": lambda n, fan_in: 2 / fan_in,
    "orthogonal": lambda n, fan_in: 1 / max(n, fan_in),
}
UNIFORM = {
    "lecun_uniform": lambda n, fan_in: np.sqrt(3 / fan_in),
    "glorot_uniform": lambda n, fan_in: np.sqrt(6 / (fan_in + n)),
    "he_uniform": lambda n, fan_in: np.sqrt(6 / fan_in),
}
NORMAL = sorted(set(VARIANCES) - set(UNIFORM) - {"orthogonal"})
SHAPES = [(400, 250), (60, 1000), (1000, 60)]


def draw(name, n, fan_in, seed=0):
    return INITIALIZERS[name](np.random.default_rng(seed), n, fan_in)


def test_every_initializer_is_tested():
    assert set(VARIANCES) == set(INITIALIZERS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(VARIANCES))
def test_moments(name, shape):
    w, b = draw(name, *shape)
    assert w.shape == shape and b.shape == (shape[0], 1)
    w = w / np.sqrt(VARIANCES[name](*shape))
    # five standard errors; the kurtosis of uniform numbers is 9/5
    kurtosis = 9 / 5 if name in UNIFORM else 3
    assert abs(w.mean()) < 5 / np.sqrt(w.size)
    assert abs(w.var() - 1) < 5 * np.sqrt((kurtosis - 1) / w.size)
    assert abs((w**3).mean()) < 5 * np.sqrt(15 / w.size)
    assert abs((w**4).mean() - kurtosis) < 5 * np.sqrt(96 / w.size)
    # no row and no column is apart from the others
    for axis in (0, 1):
        assert np.abs(w.mean(axis=axis)).max() < 6 / np.sqrt(shape[axis])
    if name == "gaussian":
        assert abs(b.mean()) < 5 / np.sqrt(b.size)
        assert abs(b.var() - 1) < 5 * np.sqrt(2 / b.size)
    else:
        assert not b.any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(UNIFORM))
def test_uniform_weights_fill_their_range_evenly(name, shape):
    w, _ = draw(name, *shape)
    limit = UNIFORM[name](*shape)
    counts, _ = np.histogram(w, bins=20, range=(-limit, limit))
    assert counts.sum() == w.size
    expected = w.size / 20
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("name", NORMAL)
def test_normal_weights_are_not_truncated(name):
    w, _ = draw(name, 400, 250)
    w = np.abs(w) / np.sqrt(VARIANCES[name](400, 250))
    # a normal number is beyond 2 with probability 0.0455, beyond 3 with 0.0027
    for beyond, share in ((2, 0.0455), (3, 0.0027)):
        assert abs((w > beyond).mean() - share) < 5 * np.sqrt(share / w.size)


@given(n=st.integers(1, 40), fan_in=st.integers(1, 40), seed=st.integers(0, 2**20))
def test_orthogonal_rows_or_columns_are_orthonormal(n, fan_in, seed):
    w, _ = draw("orthogonal", n, fan_in, seed)
    assert w.shape == (n, fan_in)
    product = w @ w.T if n <= fan_in else w.T @ w
    np.testing.assert_allclose(product, np.eye(len(product)), rtol=0, atol=1e-14)


def test_orthogonal_matrices_are_uniform_over_the_group():
    """Their trace has mean 0 and variance 1, and reflections are half of them."""
    drawn = [draw("orthogonal", 4, 4, seed)[0] for seed in range(2000)]
    traces, signs = np.array([(np.trace(w), np.linalg.det(w)) for w in drawn]).T
    assert abs(traces.mean()) < 5 / np.sqrt(2000)
    assert abs(traces.var() - 1) < 5 * np.sqrt(2 / 2000)
    assert abs(signs.mean()) < 5 / np.sqrt(2000)
    # without the correction of signs, QR leaves some diagonal entries negative always
    assert np.abs(np.mean(drawn, axis=0)).max() < 5 * np.sqrt(1 / 4 / 2000)


@given(n=st.integers(1, 20), fan_in=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_lecun_normal_is_another_name_of_scaled_gaussian(n, fan_in, seed):
    expected = np.random.default_rng(seed).standard_normal((n, fan_in)) / np.sqrt(fan_in)
    for name in ("lecun_normal", "scaled_gaussian"):
        np.testing.assert_array_equal(draw(name, n, fan_in, seed)[0], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(VARIANCES))
def test_a_seed_gives_the_same_network_on_every_backend(lab, name, dtype):
    rng = np.random.default_rng(7)
    sizes = (5, 7, 3)
    net = bp.Network(sizes, initializer=name, backend=lab.backend, dtype=dtype, rng=7)
    for l in range(2):
        w, b = INITIALIZERS[name](rng, sizes[l + 1], sizes[l])
        np.testing.assert_array_equal(lab.numpy(net.weights[l]), w.astype(dtype))
        np.testing.assert_array_equal(lab.numpy(net.biases[l]), b.astype(dtype))
    other = bp.Network(sizes, initializer=name, backend=lab.backend, dtype=dtype, rng=8)
    assert (lab.numpy(other.weights[0]) != lab.numpy(net.weights[0])).all()


@pytest.mark.parametrize("name", sorted(VARIANCES))
@given(n=st.integers(1, 3), fan_in=st.integers(1, 3))
@examples(9)
def test_the_smallest_layers_have_finite_weights(name, n, fan_in):
    w, b = draw(name, n, fan_in)
    assert np.isfinite(w).all() and np.isfinite(b).all()
    assert w.any()


def size_through(name, activation, layers=30, n=200):
    """Root mean square of the activations after many layers, relative to that of the inputs."""
    net = bp.Network([n] * (layers + 1), activation, initializer=name, dtype="float64", rng=0)
    X = np.random.default_rng(1).standard_normal((n, 20))
    return np.sqrt((net.feedforward(X) ** 2).mean() / (X**2).mean())


def test_he_keeps_the_size_of_relu_s_activations_and_lecun_does_not():
    for name in ("he_normal", "he_uniform"):
        assert 0.3 < size_through(name, "relu") < 3
    assert size_through("lecun_normal", "relu") < 1e-3


@pytest.mark.parametrize("name", ["lecun_normal", "lecun_uniform", "glorot_normal", "glorot_uniform"])
def test_lecun_and_glorot_keep_the_size_of_linear_activations(name):
    assert 0.3 < size_through(name, "linear") < 3


def test_orthogonal_weights_keep_lengths_exactly():
    assert size_through("orthogonal", "linear", layers=10, n=50) == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("he_norm", "he_normal"),
        ("glorot_unifrom", "glorot_uniform"),
        ("orthogonl", "orthogonal"),
        ("lecun-normal", "lecun_normal"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"unknown initializer '{name}'.*Did you mean '{nearest}'"):
        bp.Network([2, 2], initializer=name)


def test_what_is_no_name_is_refused():
    with pytest.raises(TypeError, match="initializer must be a name, got int 3"):
        bp.Network([2, 2], initializer=3)
