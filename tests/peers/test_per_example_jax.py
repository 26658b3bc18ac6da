"""JAX: its vmap, jacobians and nested derivatives as a second opinion on per-example results."""

from __future__ import annotations

import numpy as np
import pytest

import bpengine as bp
from bpengine.derivatives.curvature import Curvature
from bpengine.derivatives.inputs import input_gradients, jacobians

jax = pytest.importorskip("jax")
jnp = jax.numpy

THEIRS = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.01),
    "linear": lambda z: z,
    "softmax": jax.nn.softmax,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "swish": jax.nn.swish,
}
COSTS = {
    "quadratic": lambda a, y: ((a - y) ** 2).sum() / 2,
    "binary_cross_entropy": lambda a, y: -(y * jnp.log(a) + (1 - y) * jnp.log(1 - a)).sum(),
    "softmax_cross_entropy": lambda a, y: -(y * jnp.log(a)).sum(),
}
CASES = [
    *((σ, "linear", "quadratic") for σ in THEIRS),
    *((σ, "tanh", "quadratic") for σ in ("tanh", "gelu")),
    ("softplus", "sigmoid", "binary_cross_entropy"),
    ("tanh", "softmax", "binary_cross_entropy"),
    ("swish", "softmax", "softmax_cross_entropy"),
]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Both:
    """A network and the same in JAX, one example at a time, on the flat vector of its parameters."""

    def __init__(self, hidden, output, cost):
        self.net = bp.Network(
            [4, 5, 4, 3], [hidden, hidden, output], cost, dtype="float64", rng=0, l2=0.0
        )
        rng = np.random.default_rng(1)
        for b in self.net.biases:
            b[...] = 0.5 * rng.standard_normal(b.shape)
        self.X = rng.standard_normal((4, 6))
        Y = rng.random((3, 6))
        self.Y = Y / Y.sum(axis=0)
        self.v = rng.standard_normal(self.net.vector.shape)
        self.σ, self.cost = [THEIRS[hidden], THEIRS[hidden], THEIRS[output]], COSTS[cost]
        self.θ = jnp.asarray(self.net.vector)
        self.x, self.y = jnp.asarray(self.X.T), jnp.asarray(self.Y.T)

    def before(self, θ, x):
        """The last z of one example."""
        start = 0
        for l, (n, k) in enumerate(zip(self.net.sizes[1:], self.net.sizes[:-1], strict=True)):
            block = θ[start : start + n * (k + 1)].reshape(n, k + 1)
            start += n * (k + 1)
            x = block[:, :-1] @ (x if l == 0 else self.σ[l - 1](x)) + block[:, -1]
        return x

    def outputs(self, θ, x):
        return self.σ[-1](self.before(θ, x))

    def item(self, θ, x, y):
        return self.cost(self.outputs(θ, x), y)

    def average(self, θ):
        return jax.vmap(self.item, (None, 0, 0))(θ, self.x, self.y).mean()


@pytest.fixture(params=CASES, ids="-".join)
def both(request):
    return Both(*request.param)


def test_per_example_gradients_and_their_norms(both):
    expected = jax.vmap(jax.grad(both.item), (None, 0, 0))(both.θ, both.x, both.y)
    found = both.net.backprop(both.X, both.Y, per_example="gradients")
    rows = np.concatenate([block.reshape(6, -1) for block in found.blocks], axis=1)
    np.testing.assert_allclose(rows, expected, rtol=1e-10, atol=1e-13)
    norms = both.net.backprop(both.X, both.Y, per_example="norms").total
    np.testing.assert_allclose(norms, np.linalg.norm(expected, axis=1), rtol=1e-10)


def test_input_gradients_and_jacobians(both):
    gradients = jax.vmap(jax.grad(both.item, 1), (None, 0, 0))(both.θ, both.x, both.y)
    found = input_gradients(both.net, both.X, both.Y)
    np.testing.assert_allclose(found.T, gradients, rtol=1e-10, atol=1e-13)
    J = jax.vmap(jax.jacrev(both.outputs, 1), (None, 0))(both.θ, both.x)
    found = np.moveaxis(jacobians(both.net, both.X), -1, 0)
    np.testing.assert_allclose(found, J, rtol=1e-10, atol=1e-13)


def test_hessian_products(both):
    _, expected = jax.jvp(jax.grad(both.average), (both.θ,), (jnp.asarray(both.v),))
    found = Curvature(both.net, both.X, both.Y).hessian_vector(both.v)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_gauss_newton_products(both):
    canonical = both.net.cost.is_canonical(both.net.activations[-1])

    def product(x, y):
        of = both.before if canonical else both.outputs
        output, pushed = jax.jvp(lambda θ: of(θ, x), (both.θ,), (jnp.asarray(both.v),))
        inner = (lambda z: both.cost(both.σ[-1](z), y)) if canonical else (lambda a: both.cost(a, y))
        _, bent = jax.jvp(jax.grad(inner), (output,), (pushed,))
        return jax.vjp(lambda θ: of(θ, x), both.θ)[1](bent)[0]

    expected = jax.vmap(product)(both.x, both.y).mean(axis=0)
    found = Curvature(both.net, both.X, both.Y).gauss_newton_vector(both.v)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
