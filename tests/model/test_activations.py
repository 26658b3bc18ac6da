"""Every activation is what its name says, its slope is its derivative, and users may bring theirs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ACTIVATIONS, ELEMENTWISE, assert_close, examples, looped

import bpengine as bp
from bpengine.model.activations import ACTIVATIONS as BUILT_IN
from bpengine.model.activations import PerNeuron, resolve

# each as one writes it down for one number
FORMULAS = {
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "tanh": math.tanh,
    "relu": lambda z: max(z, 0.0),
    "leaky_relu": lambda z: z if z > 0 else z / 100,
    "linear": lambda z: z,
    "softplus": lambda z: math.log(1 + math.exp(z)),
    "exponential": math.exp,
    "gelu": lambda z: z / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "swish": lambda z: z / (1 + math.exp(-z)),
}
EXTREMES = [1e4, -1e4, 710.0, -710.0, 89.0, -89.0, 0.0, -0.0, 1e-310, -1e-310, 1e-40, -1e-40]

matrices = st.builds(
    lambda seed, n, m, spread: np.random.default_rng(seed).normal(0, spread, (n, m)),
    st.integers(0, 2**20),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([0.5, 2.0, 8.0]),
)


def softsign(z):
    """A custom function, in operators that every array library has."""
    return z / (1 + abs(z))


# one object for each slope: Numba compiles a function once
SOFTSIGN = {
    "z": bp.Activation("softsign", softsign, lambda z: 1 / (1 + abs(z)) ** 2),
    "a": bp.Activation("softsign", softsign, lambda a: (1 - abs(a)) ** 2, "a"),
}


def slope(σ, lab, upstream, z):
    """``upstream ⊙ σ'``, by way of z or a as the activation has it."""
    argument = z if σ.of == "z" else lab.numpy(σ.function(lab.array(z)))
    return lab.numpy(σ.slope(lab.array(upstream), lab.array(argument)))


def test_the_strategies_know_every_built_in_activation():
    assert list(BUILT_IN) == list(dict.fromkeys(BUILT_IN)) and set(BUILT_IN) == set(ACTIVATIONS)
    assert set(FORMULAS) == set(ELEMENTWISE)


@looped("name", ELEMENTWISE)
@given(z=matrices)
@examples(10)
def test_each_is_its_formula(lab, name, z):
    expected = np.vectorize(FORMULAS[name])(z)
    found = lab.numpy(BUILT_IN[name].function(lab.array(z)))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15 * np.abs(z).max())


@looped("name", ELEMENTWISE)
@given(z=matrices)
@examples(10)
def test_the_slope_is_the_derivative(lab, name, z):
    σ, h = BUILT_IN[name], 1e-5
    z = np.where(np.abs(z) < 2 * h, 2 * h, z)  # no nudge across a kink
    above, below = (lab.numpy(σ.function(lab.array(z + nudge))) for nudge in (h, -h))
    upstream = np.random.default_rng(0).standard_normal(z.shape)
    numerical = upstream * (above - below) / (2 * h)
    np.testing.assert_allclose(slope(σ, lab, upstream, z), numerical, rtol=1e-7, atol=1e-9)


@given(z=matrices)
@examples(20)
def test_the_slope_of_softmax_is_the_product_with_its_jacobian(lab, z):
    σ = BUILT_IN["softmax"]
    g = np.random.default_rng(0).standard_normal(z.shape)
    numerical = np.empty(z.shape)
    for j in range(len(z)):
        nudge = np.zeros(z.shape)
        nudge[j] = 1e-5
        above, below = (lab.numpy(σ.function(lab.array(x))) for x in (z + nudge, z - nudge))
        numerical[j] = (g * (above - below)).sum(axis=0) / 2e-5
    np.testing.assert_allclose(slope(σ, lab, g, z), numerical, rtol=1e-7, atol=1e-9)


@given(z=matrices, shift=st.sampled_from([-1e4, -3.0, 0.0, 1e4]))
@examples(20)
def test_the_columns_of_softmax_are_probabilities_and_know_no_shift(lab, z, shift):
    softmax = BUILT_IN["softmax"].function
    a = lab.numpy(softmax(lab.array(z)))
    assert (a >= 0).all()
    np.testing.assert_allclose(a.sum(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(lab.numpy(softmax(lab.array(z + shift))), a, rtol=1e-10)
    entry = [np.exp(x) / np.exp(x).sum() for x in z.T]
    np.testing.assert_allclose(a, np.transpose(entry), rtol=1e-13)


@looped("dtype", ["float32", "float64"])
@looped("name", ACTIVATIONS)
def test_extreme_inputs_give_finite_values_in_range_and_finite_slopes(lab, name, dtype):
    σ = BUILT_IN[name]
    z = np.array([EXTREMES, np.roll(EXTREMES, 1), np.roll(EXTREMES, 5)]).astype(dtype)
    if name == "exponential":
        z = np.minimum(z, 88)  # beyond which eᶻ overflows
    a = σ.function(lab.array(z))
    assert a.dtype == getattr(lab.backend.xp, dtype)
    a = lab.numpy(a)
    assert np.isfinite(a).all()
    assert (a >= σ.range[0]).all() and (a <= σ.range[1]).all()
    assert np.isfinite(slope(σ, lab, np.ones_like(z), z)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exponential_that_overflows_is_infinite_and_stops_the_training(dtype):
    net = bp.Network([1, 1], "exponential", "poisson", backend="numpy", dtype=dtype, rng=0)
    net.weights[0] = [[1000.0]]
    X, Y = np.array([[1.0, -1.0]]), np.array([[1.0, 0.0]])
    assert net.feedforward(X).tolist() == [[np.inf, 0]]
    assert net.backprop(X, Y).cost == np.inf
    with pytest.raises(bp.NonFiniteCostError, match="beginning in layer 2") as caught:
        net.fit(X, Y, epochs=1, batch_size=2, progress=False)
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert net.weights[0].tolist() == [[1000.0]]


def test_the_slope_of_gelu_is_1_or_0_where_squares_overflow(lab):
    net = bp.Network([1, 2, 2], ["gelu", "linear"], "absolute_error", lab.backend, rng=0)
    net.weights[0][...] = lab.array([[1.0], [-1.0]], "float32")
    net.weights[1][...] = lab.array(np.eye(2), "float32")
    X, Y = lab.array([[1e30]], "float32"), lab.array([[0.0], [1.0]], "float32")
    with np.errstate(over="ignore", invalid="ignore"):  # z³ of the forward pass overflows: its tanh is 1
        gradient = net.backprop(X, Y)
    np.testing.assert_array_equal(lab.numpy(gradient.biases[0]), [[1.0], [0.0]])


@looped("name", ACTIVATIONS)
def test_nan_is_never_hidden(lab, name):
    σ = BUILT_IN[name]
    z = np.array([[np.nan, 1.0], [0.5, -1.0]])
    ones = np.ones_like(z)
    assert np.isnan(lab.numpy(σ.function(lab.array(z)))[0, 0])
    assert np.isnan(slope(σ, lab, z, ones)[0, 0])
    if name != "linear":  # whose slope is 1 whatever z is
        assert np.isnan(slope(σ, lab, ones, z)[0, 0])


@given(
    names=st.lists(st.sampled_from(ELEMENTWISE), min_size=1, max_size=7),
    seed=st.integers(0, 2**20),
)
@examples(25)
def test_a_layer_of_different_neurons_is_each_of_them_on_its_own_row(lab, names, seed):
    rng = np.random.default_rng(seed)
    z, g = rng.normal(0, 2, (2, len(names), 4))
    layer = PerNeuron(names)
    rows = [slice(j, j + 1) for j in range(len(names))]
    functions = [
        lab.numpy(BUILT_IN[σ].function(lab.array(z[r]))) for σ, r in zip(names, rows, strict=True)
    ]
    assert_close(lab.numpy(layer.function(lab.array(z))), np.concatenate(functions), 1e-15)
    slopes = [slope(BUILT_IN[σ], lab, g[r], z[r]) for σ, r in zip(names, rows, strict=True)]
    assert_close(slope(layer, lab, g, z), np.concatenate(slopes), 1e-14)


def test_a_layer_of_equal_neurons_is_a_layer_of_that_activation(lab):
    X, Y = lab.array(np.eye(3)), lab.array(np.ones((2, 3)))
    one = bp.Network([3, 4, 2], "tanh", backend=lab.backend, dtype="float64", rng=0)
    other = bp.Network(
        [3, 4, 2], [["tanh"] * 4, ["tanh"] * 2], backend=lab.backend, dtype="float64", rng=0
    )
    expected = one.backprop(X, Y)
    found = other.backprop(X, Y)
    assert found.cost == pytest.approx(expected.cost, rel=1e-14)
    lab.assert_close(found.vector, lab.numpy(expected.vector), 1e-14)


def test_saturated_outputs_of_different_neurons_still_learn(lab):
    """A layer of sigmoids is a layer of sigmoids, also where it is written neuron by neuron."""
    gradients = []
    for output in ("sigmoid", ["sigmoid", "sigmoid"]):
        net = bp.Network([2, 2], [output], "binary_cross_entropy", backend=lab.backend, rng=0)
        net.weights[0][...] = lab.backend.asarray(40 * np.eye(2), "float32")
        X, Y = lab.array(np.eye(2, dtype="float32")), lab.array(np.eye(2, dtype="float32")[::-1])
        gradients.append(lab.numpy(net.backprop(X, Y).vector))
    assert np.abs(gradients[0]).max() > 0.4
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5)


def test_runs_of_equal_neurons_are_one_operation(lab):
    net = bp.Network([2, 5], [["tanh", "tanh", "relu", "relu", "relu"]], backend=lab.backend)
    assert [op.name for op in net.plan(3).operations][1:3] == ["tanh", "relu"]
    assert net.activations[0].name == "2 tanh, 3 relu"


@pytest.mark.parametrize("of", ["z", "a"])
def test_a_slope_may_be_a_function_of_z_or_of_a(lab, of):
    rng = np.random.default_rng(0)
    X, Y = lab.array(rng.standard_normal((3, 5))), lab.array(rng.standard_normal((2, 5)))
    σ, other = SOFTSIGN[of], SOFTSIGN["a" if of == "z" else "z"]
    for activations in ([σ, σ, σ], ["tanh", σ, "sigmoid"], [σ, [σ, "tanh", σ], "linear"]):
        net = bp.Network([3, 4, 3, 2], activations, backend=lab.backend, dtype="float64", rng=1)
        assert bp.check_gradient(net, X, Y).passed
        swapped = [
            [other if entry is σ else entry for entry in layer] if isinstance(layer, list) else layer
            for layer in activations
        ]
        swapped = [other if layer is σ else layer for layer in swapped]
        twin = bp.Network([3, 4, 3, 2], swapped, backend=lab.backend, dtype="float64", rng=1)
        expected = lab.numpy(twin.backprop(X, Y).vector)
        lab.assert_close(net.backprop(X, Y).vector, expected, 1e-14)


@looped("name", sorted(BUILT_IN))
def test_ones_own_activation_can_not_take_the_name_of_a_built_in_one(name):
    with pytest.raises(ValueError, match=f"{name!r} is built in; give a custom one another name"):
        bp.Network([2, 2], bp.Activation(name, abs, abs))


@looped("name", sorted(BUILT_IN))
def test_a_built_in_activation_as_files_of_older_versions_hold_it(name):
    """Such as those of skops, which stored no second derivative."""
    old = dataclasses.replace(BUILT_IN[name], second_derivative=None)
    assert resolve(old) is BUILT_IN[name]


@looped("name", ["matmul", "difference", "descend", "sigmoid slope"])
def test_ones_own_activation_may_have_any_other_name(lab, name):
    """Whatever a backend calls its kernels, it computes the function that it was given."""
    σ = dataclasses.replace(SOFTSIGN["z"], name=name)
    rng = np.random.default_rng(0)
    X, Y = lab.array(rng.standard_normal((3, 4))), lab.array(rng.standard_normal((2, 4)))
    net = bp.Network([3, 4, 2], [σ, "linear"], backend=lab.backend, dtype="float64", rng=0)
    assert bp.check_gradient(net, X, Y).passed


def test_a_function_that_changes_the_shape_is_named_with_the_shapes(lab):
    σ = bp.Activation("halves", lambda z: z[..., :1, :], lambda z: z)
    net = bp.Network([2, 3, 1], [σ, "linear"], backend=lab.backend)
    with pytest.raises(ValueError, match=r"shape \(1, 4\).*\(3, 4\).*expected \(3, 4\)"):
        net.feedforward(lab.array(np.ones((2, 4))))


@pytest.mark.parametrize(
    ("activations", "error", "message"),
    [
        ("sigmoidal", ValueError, "unknown activation 'sigmoidal'. Did you mean 'sigmoid'?"),
        (["tanh"], ValueError, "1 entries; .* takes 2, one per layer after the input"),
        ([["tanh", "relu"], "linear"], ValueError, "a layer of 3 neurons takes 3 activations, got"),
        ([["softmax"] * 3, "linear"], ValueError, "'softmax' is for a whole layer"),
        ([["tanh", ["relu"], "relu"], "linear"], ValueError, "is for a whole layer"),
        (["tanh", 3], TypeError, "activation must be a name or a bpengine.Activation, got int"),
        (["tanh", abs], TypeError, "got builtin_function_or_method"),
    ],
)
def test_what_is_no_activation_is_refused(activations, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        bp.Network([2, 3, 1], activations)


def test_names_and_objects_are_the_same_thing():
    assert resolve("tanh") is BUILT_IN["tanh"] is resolve(BUILT_IN["tanh"])
    σ = SOFTSIGN["z"]
    assert resolve(σ) is σ
    assert bp.Network([2, 3, 1], σ).activations == (σ, σ)
