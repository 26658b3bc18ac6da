"""Norms of vectors whose squares overflow or underflow, against longer floats."""

from __future__ import annotations

import numpy as np
import pytest

import bpengine as bp
from bpengine.backends import Operation
from bpengine.backprop.per_example import _product_norms
from bpengine.optimizers.norm_limits import _clip_factor, _clip_factors, _max_norm

# the greatest powers of ten, less some for sums and products of a few numbers
GREATEST = {"float32": 36, "float64": 300}
dtypes = pytest.mark.parametrize("dtype", GREATEST)
exponents = pytest.mark.parametrize("exponent", np.linspace(-1, 1, 9).tolist())


def scaled(lab, dtype, exponent, *shape):
    """Numbers up to a power of the greatest, on the backend and in longer floats."""
    size = 10.0 ** (exponent * GREATEST[dtype])
    host = (np.random.default_rng(0).uniform(-1, 1, shape) * size).astype(dtype)
    array = lab.backend.empty(shape, dtype)
    array[...] = lab.array(host)
    return array, host.astype(np.longdouble)


def norm(x, *axes):
    return np.sqrt((x**2).sum(axes or None, keepdims=bool(axes)))


def check(lab, name, expression, inputs, output, expected):
    """A kernel and its expression against longer floats."""
    with np.errstate(over="ignore"):
        by_expression = lab.numpy(expression(*inputs))
    lab.backend.compile([Operation(name, "update", expression, tuple(inputs), output)]).run(1)
    for found in (by_expression, lab.numpy(output)):
        np.testing.assert_allclose(found, expected.astype(found.dtype), 20 * np.finfo(found.dtype).eps)


@dtypes
@exponents
@pytest.mark.parametrize("bound", [0.5, 1e15, "half the norm"])
def test_clip(lab, dtype, exponent, bound):
    (g, exact), out = scaled(lab, dtype, exponent, 37), lab.backend.empty((), dtype)
    bound = np.dtype(dtype).type(norm(exact) / 2 if isinstance(bound, str) else bound)
    inputs = g, lab.array(bound, dtype)
    check(lab, "clip factor", _clip_factor, inputs, out, np.minimum(1, bound / norm(exact)))


@dtypes
@exponents
@pytest.mark.parametrize("small", [False, True])
def test_clip_per_network(lab, dtype, exponent, small):
    (g, exact), (h, other) = scaled(lab, dtype, exponent, 2, 3, 4), scaled(lab, dtype, 0, 2, 3, 1)
    if small:
        h[...], other[...] = 0.0, 0.0
    norms = np.hypot(norm(exact, 1, 2), norm(other, 1, 2))
    bound = np.dtype(dtype).type(norms.min() / 2 if small else 0.5)
    out, inputs = lab.backend.empty((2, 1, 1), dtype), (g, h, lab.array(bound, dtype))
    check(lab, "clip factor per network", _clip_factors, inputs, out, np.minimum(1, bound / norms))


@dtypes
@exponents
@pytest.mark.parametrize("stack", [(), (2,)])
@pytest.mark.parametrize("small", [False, True])
def test_max_norm(lab, dtype, exponent, stack, small):
    w, exact = scaled(lab, dtype, exponent, *stack, 3, 5)
    bound = np.dtype(dtype).type(norm(exact).min() / 4 if small else 2)
    expected = exact * np.minimum(1, bound / norm(exact, -1))
    check(lab, "max norm", _max_norm, (w, lab.array(bound, dtype)), w, expected)


@dtypes
@exponents
def test_norms_of_per_example_gradients(lab, dtype, exponent):
    (δ, exact), (x, other) = scaled(lab, dtype, exponent, 3, 4), scaled(lab, dtype, 0, 5, 4)
    out, expected = lab.backend.empty((4,), dtype), norm(exact, 0) * norm(other, 0)
    for inputs in ((δ, x), (x, δ)):
        check(lab, "product norms", _product_norms, inputs, out, expected[0])


def step(lab, optimizer, size, stack=None):
    """Weights after a step from 0 with a gradient of this size."""
    net = bp.Network([1, 1], activations=["linear"], backend=lab.backend, stack=stack, rng=0)
    for w, b in zip(net.weights, net.biases, strict=True):
        w[...], b[...] = 0.0, 0.0
    plan = net.plan(1, optimizer)
    plan.load(lab.array([[1.0]], "float32"), lab.array([[3 * size]], "float32"))
    with np.errstate(over="ignore"):
        plan.run()
    return lab.numpy(net.weights[0])


@pytest.mark.parametrize("rule", [bp.Adam, bp.RMSprop, bp.Adagrad])
def test_a_parameter_whose_squares_overflow_stands_still(lab, rule):
    assert step(lab, rule(0.1), 1e24) == 0
    assert step(lab, rule(0.1, clip_norm=1.0), 1e24) > 0


@pytest.mark.parametrize("optimizer", [bp.SGD(0.1, clip_norm=1.0), bp.Adam(0.1, clip_norm=1.0)])
@pytest.mark.parametrize("stack", [None, 2])
def test_a_step_is_as_long_as_the_clipped_gradient(lab, optimizer, stack):
    """Of a gradient of 1e24, whose square float32 does not hold."""
    steps = [step(lab, optimizer, size, stack) for size in (1.0, 1e24)]
    assert np.all(steps[0] > 0.01)
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-6)
