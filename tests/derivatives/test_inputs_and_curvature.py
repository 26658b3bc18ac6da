"""Input gradients, Jacobians and products with curvature, against finite differences and matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import PAIRS, Case, assert_close, cases, columns, deep, examples, loop, sigma

import bpengine as bp
from bpengine.derivatives.curvature import Curvature
from bpengine.derivatives.inputs import input_gradients, jacobians
from bpengine.model.activations import ACTIVATIONS
from bpengine.model.costs import COSTS
from bpengine.model.parameters import Parameters

SMOOTH = [
    (σ, cost)
    for σ, cost in PAIRS
    if σ not in ("relu", "leaky_relu") and cost not in ("absolute_error", "huber")
]


def forward(case, net, lab, x):
    one = loop(case, net, lab)
    return columns(one.feedforward, x)


def reference_jacobian(case, net, lab, x):
    """By the chain of full Jacobian matrices, for one column x."""
    J, a = np.eye(case.sizes[0]), x
    for w, b, layer in zip(net.weights, net.biases, case.activations, strict=True):
        function, slope = sigma(layer)
        z = lab.numpy(w) @ a + lab.numpy(b)
        n = len(z)
        rows = [slope(np.eye(n)[:, j : j + 1], z) for j in range(n)]
        J = np.concatenate(rows, axis=1).T @ lab.numpy(w) @ J
        a = function(z)
    return J


@given(case=cases())
@examples(25)
def test_jacobians_are_products_of_each_layer_s(lab, case):
    net = case.network(lab)
    X, _ = case.host_data()
    found = lab.numpy(jacobians(net, lab.array(X)))
    expected = np.stack(
        [reference_jacobian(case, net, lab, X[:, x : x + 1]) for x in range(case.batch)], axis=-1
    )
    assert_close(found, expected, 1e-12, scale=1e-12)


def test_jacobians_of_many_examples_are_taken_in_chunks(lab, monkeypatch):
    case = Case([3, 4, 2], ["tanh", "softmax"], "quadratic", batch=7)
    net, (X, _) = case.network(lab), case.data(lab)
    whole = lab.numpy(jacobians(net, X))
    monkeypatch.setattr("bpengine.backprop.forward.CHUNK_ELEMENTS", 20)
    assert_close(lab.numpy(jacobians(net, X)), whole, 1e-13)


@given(case=cases())
@examples(25)
def test_input_gradients_are_errors_taken_one_layer_further(lab, case):
    net = case.network(lab)
    X, Y = case.host_data()
    one = loop(case, net, lab)
    first = lab.numpy(net.weights[0])
    expected = [
        first.T @ one.backprop(X[:, x : x + 1], Y[:, x : x + 1])[1][0] for x in range(case.batch)
    ]
    found = lab.numpy(input_gradients(net, *case.data(lab)))
    assert_close(found, np.concatenate(expected, axis=1), 1e-12)


@pytest.mark.parametrize(("σ", "cost"), SMOOTH)
def test_input_gradients_equal_finite_differences(lab, σ, cost):
    case = deep(σ, cost)
    net = case.network(lab)
    X, Y = case.host_data()
    found = lab.numpy(input_gradients(net, *case.data(lab)))
    ε = 1e-6
    for i in range(case.sizes[0]):
        up, down = X.copy(), X.copy()
        up[i] += ε
        down[i] -= ε
        costs = [
            net.cost.function(forward(case, net, lab, change), Y.astype("float64"))
            for change in (up, down)
        ]
        difference = (costs[0] - costs[1]) / (2 * ε)
        assert_close(found[i], difference, 1e-6, scale=max(1.0, np.abs(costs).max()))


def test_a_linear_network_has_one_jacobian_for_all_inputs(lab):
    case = Case([3, 4, 2], ["linear", "linear"], "quadratic", batch=5)
    net, (X, _) = case.network(lab), case.data(lab)
    J = lab.numpy(net.weights[1]) @ lab.numpy(net.weights[0])
    assert_close(lab.numpy(jacobians(net, X)), np.repeat(J[:, :, None], 5, axis=2), 1e-13)


def directions(case, net, lab, count=2):
    rng = np.random.default_rng([case.seed, 3])
    return [rng.standard_normal(net.vector.shape[0]) for _ in range(count)]


def gradient_difference(net, lab, X, Y, v, ε=1e-5):
    """(∇C(θ + εv) - ∇C(θ - εv)) / 2ε, with the step that cancels the ε² term besides."""
    start = lab.numpy(net.vector).copy()

    def at(step):
        net.vector[...] = lab.backend.asarray(start + step * v, net.dtype)
        return lab.numpy(net.backprop(X, Y).vector).copy()

    near, far = ((at(h) - at(-h)) / (2 * h) for h in (ε, 2 * ε))
    net.vector[...] = lab.backend.asarray(start, net.dtype)
    return (4 * near - far) / 3


def assert_hessian_is_that_of_differences(lab, case, **options):
    net = case.network(lab, **options)
    X, Y = case.data(lab)
    (v,) = directions(case, net, lab, 1)
    v *= 1 / max(1.0, np.linalg.norm(v))
    expected = gradient_difference(net, lab, X, Y, v, ε=1e-4)
    found = lab.numpy(Curvature(net, X, Y).hessian_vector(lab.backend.asarray(v, net.dtype)))
    gradient = np.abs(lab.numpy(net.backprop(X, Y).vector)).max()
    assert_close(found, expected, 1e-7, scale=max(gradient, 1e-3))


@pytest.mark.parametrize(("σ", "cost"), SMOOTH)
def test_hessian_products_equal_differences_of_the_gradient(lab, σ, cost):
    assert_hessian_is_that_of_differences(lab, deep(σ, cost))


@given(case=cases(max_layers=4))
@examples(25)
def test_hessian_products_of_random_networks(lab, case):
    names = {
        name for layer in case.activations for name in ([layer] if isinstance(layer, str) else layer)
    }
    assume(not names & {"relu", "leaky_relu"})
    assume(case.cost not in ("absolute_error", "huber"))
    assume(not {"exponential"} & names)
    assert_hessian_is_that_of_differences(lab, case, l2=0.1)


@pytest.mark.parametrize("σ", ["relu", "leaky_relu"])
def test_hessian_products_off_the_kink(lab, σ):
    assert_hessian_is_that_of_differences(lab, deep(σ, "quadratic"))


def dense(curvature, size, product, backend):
    eye = np.eye(size)
    columns = [getattr(curvature, product)(backend.asarray(eye[i], "float64")) for i in range(size)]
    return np.stack([backend.to_numpy(column) for column in columns], axis=1)


@given(case=cases(max_layers=3, max_width=3, max_batch=4))
@examples(15)
def test_both_matrices_are_symmetric(lab, case):
    net = case.network(lab, l2=0.05)
    curvature = Curvature(net, *case.data(lab))
    for product in ("hessian_vector", "gauss_newton_vector"):
        u, v = (lab.backend.asarray(w, "float64") for w in directions(case, net, lab))
        Hu, Hv = (lab.numpy(getattr(curvature, product)(w)) for w in (u, v))
        scale = np.linalg.norm(Hu) * np.linalg.norm(lab.numpy(v)) + 1e-12
        assert abs(lab.numpy(v) @ Hu - lab.numpy(u) @ Hv) <= 1e-11 * scale


def parameter_jacobian(net, case, lab, x, of_z):
    """∂z[L]/∂θ or ∂a[L]/∂θ of one column x, by two-sided differences."""
    start = lab.numpy(net.vector).copy()
    ε = 1e-6

    def outputs(step):
        net.vector[...] = lab.backend.asarray(start + step, "float64")
        a = x
        for l, (w, b, layer) in enumerate(zip(net.weights, net.biases, case.activations, strict=True)):
            z = lab.numpy(w) @ a + lab.numpy(b)
            a = sigma(layer)[0](z)
            if of_z and l == case.layers - 1:
                a = z
        return a[:, 0]

    eye = np.eye(len(start)) * ε
    J = np.stack([(outputs(e) - outputs(-e)) / (2 * ε) for e in eye], axis=1)
    net.vector[...] = lab.backend.asarray(start, "float64")
    return J


@pytest.mark.parametrize(
    ("σ", "cost"), [(σ, cost) for σ, cost in SMOOTH if cost != "softmax_cross_entropy" or σ == "softmax"]
)
def test_the_gauss_newton_matrix_is_made_of_jacobians(lab, σ, cost):
    case = Case([2, 3, 2], ["tanh", σ], cost, batch=3, seed=11)
    net = case.network(lab, l2=0.1)
    X, Y = case.host_data()
    found = dense(
        Curvature(net, *case.data(lab)), net.vector.shape[0], "gauss_newton_vector", lab.backend
    )
    weight = np.zeros(net.vector.shape[0])
    mask = Parameters(net.sizes, lab.backend, "float64")
    for w in mask.weights:
        w[...] = 1.0
    weight[:] = lab.numpy(mask.vector)
    expected = 0.1 * np.diag(weight)
    of_z = net.cost.is_canonical(net.activations[-1])
    for x in range(case.batch):
        column, y = X[:, x : x + 1], Y[:, x : x + 1]
        J = parameter_jacobian(net, case, lab, column, of_z)
        a = forward(case, net, lab, column)
        if of_z:
            z = a if σ == "linear" else (np.log(a) if σ != "sigmoid" else np.log(a / (1 - a)))
            slope = sigma(σ)[1]
            H = np.concatenate([slope(np.eye(2)[:, j : j + 1], z) for j in range(2)], axis=1)
        else:
            H = np.diag(COSTS[cost].second_derivative(a, y)[:, 0])
        expected += J.T @ H @ J / case.batch
    assert_close(found, expected, 1e-7)


def test_linear_least_squares_has_the_hessian_of_the_textbook(lab):
    case = Case([3, 1], ["linear"], "quadratic", batch=6)
    net, (X, Y) = case.network(lab), case.data(lab)
    x = np.concatenate([lab.numpy(X), np.ones((1, 6))])
    expected = x @ x.T / 6
    for product in ("hessian_vector", "gauss_newton_vector"):
        assert_close(dense(Curvature(net, X, Y), 4, product, lab.backend), expected, 1e-13)


@given(case=cases(max_layers=3, max_batch=4))
@examples(10)
def test_weights_scale_each_example_s_part(lab, case):
    net = case.network(lab)
    X, Y = case.data(lab)
    weights = np.random.default_rng(case.seed).random(case.batch) + 0.1
    (v,) = directions(case, net, lab, 1)
    v = lab.backend.asarray(v, "float64")
    found = lab.numpy(Curvature(net, X, Y, weights).hessian_vector(v))
    expected = sum(
        weight * lab.numpy(Curvature(net, X[:, x : x + 1], Y[:, x : x + 1]).hessian_vector(v))
        for x, weight in enumerate(weights / weights.sum())
    )
    assert_close(found, expected, 1e-11, scale=1e-9)


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_the_top_eigenvalue_is_that_of_the_matrix(lab, matrix):
    pytest.importorskip("scipy")
    case = Case([3, 4, 2], ["tanh", "softmax"], "softmax_cross_entropy", batch=6, seed=4)
    net = case.network(lab)
    curvature = Curvature(net, *case.data(lab))
    full = dense(curvature, net.vector.shape[0], f"{matrix}_vector", lab.backend)
    values = np.linalg.eigvalsh((full + full.T) / 2)
    top = values[np.abs(values).argmax()]
    assert curvature.top_eigenvalue(matrix) == pytest.approx(top, rel=1e-5)
    operator = curvature.operator(matrix)
    assert_close(operator @ np.eye(net.vector.shape[0]), full, 1e-12)
    if matrix == "gauss_newton":
        assert values.min() > -1e-12


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"softmax"}))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_second_derivatives_are_those_of_the_derivatives(lab, name, dtype):
    σ = ACTIVATIONS[name]
    z = np.array([-40.0, -12.0, -9.9, -3.0, -1.2, -0.3, 0.2, 0.7, 1.5, 4.0, 9.9, 12.0, 40.0])
    ε = 1e-4

    def slope(z):
        return σ.derivative(z if σ.of == "z" else σ.function(z))

    expected = (8 * (slope(z + ε) - slope(z - ε)) - slope(z + 2 * ε) + slope(z - 2 * ε)) / (12 * ε)
    x = lab.array(z[:, None], dtype)
    found = lab.numpy(σ.second_derivative(x if σ.of == "z" else σ.function(x)))
    assert found.dtype == dtype
    tolerance = 1e-9 if dtype == "float64" else 2e-6
    assert (np.abs(found[:, 0] - expected) <= tolerance * np.maximum(1, np.abs(expected))).all()


@pytest.mark.parametrize("name", sorted(COSTS))
def test_second_derivatives_of_costs_are_those_of_the_derivatives(lab, name):
    cost = COSTS[name]
    a = np.array([[0.1, 0.3, 0.5, 0.8, 0.95]])
    y = np.array([[0.0, 1.0, 0.25, 0.5, 1.0]])
    if name == "huber":
        a, y = 3 * a, -2 * y
    ε = 1e-5
    expected = (cost.derivative(a + ε, y) - cost.derivative(a - ε, y)) / (2 * ε)
    found = lab.numpy(cost.second_derivative(lab.array(a), lab.array(y)))
    assert_close(found, expected, 1e-6, scale=1.0)


def quartic(second=None):
    return bp.Cost(
        "quartic",
        lambda a, y: ((a - y) ** 4).sum(axis=-2),
        lambda a, y: 4 * (a - y) ** 3,
        second_derivative=second,
    )


def test_functions_of_the_users_own_bring_their_second_derivative():
    sine = bp.Activation("sine", np.sin, np.cos, second_derivative=lambda z: -np.sin(z))
    cost = quartic(lambda a, y: 12 * (a - y) ** 2)
    net = bp.Network([2, 3, 2], [[sine, "tanh", sine], sine], cost, dtype="float64", rng=0)
    rng = np.random.default_rng(1)
    X, Y, v = rng.standard_normal((2, 5)), rng.standard_normal((2, 5)), rng.standard_normal(17)

    class Host:
        backend, numpy = net.backend, staticmethod(np.asarray)

    expected = gradient_difference(net, Host, X, Y, v, ε=1e-4)
    assert_close(Curvature(net, X, Y).hessian_vector(v), expected, 1e-8)


def test_a_second_derivative_that_is_missing_is_named():
    sine = bp.Activation("sine", np.sin, np.cos)
    X = Y = np.ones((2, 3))
    net = bp.Network([2, 2, 2], [sine, "linear"], dtype="float64", rng=0)
    with pytest.raises(ValueError, match="activation 'sine' has no second derivative"):
        Curvature(net, X, Y).hessian_vector(net.vector)
    assert np.isfinite(Curvature(net, X, Y).gauss_newton_vector(net.vector)).all()
    other = bp.Network([2, 2], "tanh", quartic(), dtype="float64", rng=0)
    with pytest.raises(ValueError, match="cost 'quartic' has no second derivative"):
        Curvature(other, X, Y).gauss_newton_vector(other.vector)


def test_arguments_that_do_not_fit():
    net = bp.Network([2, 2], rng=0)
    X = Y = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"v has shape \(5,\); expected \(6,\)"):
        Curvature(net, X, Y).hessian_vector(np.ones(5))
    with pytest.raises(ValueError, match="unknown matrix 'fisher'"):
        Curvature(net, X, Y).operator("fisher")
    with pytest.raises(ValueError, match="this network takes 2 rows"):
        jacobians(net, np.ones((3, 2)))
    with pytest.raises(ValueError, match="this network takes 2 rows"):
        input_gradients(net, np.ones((3, 2)), Y)


@given(seed=st.integers(0, 2**16))
@examples(5)
def test_curvature_is_of_the_parameters_it_was_made_with(seed):
    net = bp.Network([3, 4, 2], "tanh", dtype="float64", rng=seed)
    rng = np.random.default_rng(seed)
    X, Y, v = rng.standard_normal((3, 5)), rng.standard_normal((2, 5)), np.ones(26)
    curvature = Curvature(net, X, Y)
    before = curvature.hessian_vector(v)
    net.vector[...] = 0.0
    assert (curvature.hessian_vector(v) == before).all()
