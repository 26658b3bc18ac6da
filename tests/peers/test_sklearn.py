"""scikit-learn's multilayer perceptron: the same steps from the same weights."""

from __future__ import annotations

import numpy as np
import pytest

import bpengine as bp

pytest.importorskip("sklearn")
from sklearn.neural_network import MLPClassifier, MLPRegressor

NAMES = {"linear": "identity", "tanh": "tanh", "relu": "relu", "sigmoid": "logistic"}
M, RATE = 30, 0.2


def theirs(kind, net, activation, batch_size, X, Y, **options):
    """Their network with the weights of ours, not yet trained."""
    model = kind(
        hidden_layer_sizes=net.sizes[1:-1],
        activation=NAMES[activation],
        solver="sgd",
        alpha=0.0,
        batch_size=batch_size,
        learning_rate="constant",
        learning_rate_init=RATE,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
    )
    model.partial_fit(X.T, Y, **options)  # makes the arrays
    model.loss_curve_.clear()
    for w, b, coefs, intercepts in zip(
        net.weights, net.biases, model.coefs_, model.intercepts_, strict=True
    ):
        coefs[...], intercepts[...] = w.T, b[:, 0]
    return model


def assert_same(net, model):
    for w, b, coefs, intercepts in zip(
        net.weights, net.biases, model.coefs_, model.intercepts_, strict=True
    ):
        np.testing.assert_allclose(w, coefs.T, rtol=0, atol=1e-12)
        np.testing.assert_allclose(b[:, 0], intercepts, rtol=0, atol=1e-12)


def network(sizes, activation, last, cost):
    layers = [*[activation] * (len(sizes) - 2), last]
    return bp.Network(sizes, activations=layers, cost=cost, backend="numpy", dtype="float64", rng=1)


def regression(outputs):
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, M)), rng.standard_normal((outputs, M))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("activation", NAMES)
def test_one_gradient(activation, outputs):
    X, Y = regression(outputs)
    net = network([5, 6, 4, outputs], activation, "linear", "quadratic")
    given_Y = Y.T if outputs > 1 else Y[0]
    model = theirs(MLPRegressor, net, activation, M, X, given_Y)
    before = [
        (coefs.T.copy(), b.copy()) for coefs, b in zip(model.coefs_, model.intercepts_, strict=True)
    ]
    model.partial_fit(X.T, given_Y)
    gradient = net.backprop(X, Y)
    for l, (w, b) in enumerate(before):
        change = (w - model.coefs_[l].T) / RATE, (b - model.intercepts_[l]) / RATE
        np.testing.assert_allclose(gradient.weights[l], change[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(gradient.biases[l][:, 0], change[1], rtol=0, atol=1e-12)
    # theirs is halved too, and averaged over the outputs
    np.testing.assert_allclose(model.loss_, gradient.cost / outputs, rtol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("activation", NAMES)
def test_epochs_of_full_batches(activation, outputs):
    X, Y = regression(outputs)
    net = network([5, 6, outputs], activation, "linear", "quadratic")
    given_Y = Y.T if outputs > 1 else Y[0]
    model = theirs(MLPRegressor, net, activation, M, X, given_Y)
    for _ in range(7):
        model.partial_fit(X.T, given_Y)
    history = net.fit(X, Y, epochs=7, batch_size=M, optimizer=bp.SGD(RATE), progress=False)
    assert_same(net, model)
    np.testing.assert_allclose(history.cost, np.array(model.loss_curve_) * outputs, rtol=1e-12)
    np.testing.assert_allclose(net.feedforward(X).T.squeeze(), model.predict(X.T), atol=1e-12)


class InOrder(np.random.Generator):
    """Shuffles nothing."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def permutation(self, n):
        return np.arange(n)


@pytest.mark.parametrize("batch_size", [1, 7, 10])
def test_epochs_of_mini_batches(batch_size):
    X, Y = regression(2)
    net = network([5, 6, 2], "tanh", "linear", "quadratic")
    model = theirs(MLPRegressor, net, "tanh", batch_size, X, Y.T)
    net.rng = InOrder()
    for _ in range(3):
        model.partial_fit(X.T, Y.T)
    net.fit(X, Y, epochs=3, batch_size=batch_size, optimizer=bp.SGD(RATE), progress=False)
    assert_same(net, model)


@pytest.mark.parametrize(
    ("classes", "cost"), [(4, "softmax_cross_entropy"), (2, "binary_cross_entropy")]
)
@pytest.mark.parametrize("activation", NAMES)
def test_classification(activation, classes, cost):
    X, _ = regression(1)
    labels = np.arange(M) % classes
    outputs, last = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    net = network([5, 6, outputs], activation, last, cost)
    model = theirs(MLPClassifier, net, activation, M, X, labels, classes=np.arange(classes))
    for _ in range(7):
        model.partial_fit(X.T, labels)
    history = net.fit(X, labels, epochs=7, batch_size=M, optimizer=bp.SGD(RATE), progress=False)
    assert_same(net, model)
    np.testing.assert_allclose(history.cost, model.loss_curve_, rtol=1e-12)
    assert net.evaluate(X, labels)["accuracy"] == model.score(X.T, labels)
