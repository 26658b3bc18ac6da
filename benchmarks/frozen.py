"""The yardstick. NEVER EDIT THIS FILE: every stored ratio is relative to its steps as they are.

Backpropagation in plain NumPy, as one writes it first and well: whole batches with examples as
columns, weights and biases apart, a new array for every result. A faster or a tidier version here
would make bpengine look slower or faster than it was, and no stored ratio would mean anything.
"""

import numpy as np


def sigmoid(z):
    """σ(z) = 1 / (1 + e⁻ᶻ)."""
    return 1 / (1 + np.exp(-z))


def softmax(z):
    """Columns of e^z, each divided by its sum."""
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def predict(weights, biases, X):
    """Output activations of a network of sigmoids."""
    a = X
    for w, b in zip(weights, biases, strict=True):
        a = sigmoid(w @ a + b)
    return a


def step(weights, biases, X, Y, learning_rate):
    """One step of gradient descent in place: sigmoids, quadratic cost, average over the batch."""
    m = X.shape[1]
    activations = [X]
    for w, b in zip(weights, biases, strict=True):
        activations.append(sigmoid(w @ activations[-1] + b))
    a = activations[-1]
    delta = (a - Y) * a * (1 - a)
    for l in range(len(weights) - 1, -1, -1):
        a = activations[l]
        gradient_w = delta @ a.T / m
        gradient_b = delta.sum(axis=1, keepdims=True) / m
        if l > 0:
            delta = (weights[l].T @ delta) * a * (1 - a)
        weights[l] -= learning_rate * gradient_w
        biases[l] -= learning_rate * gradient_b


def softmax_step(weights, biases, X, Y, learning_rate):
    """One step of gradient descent in place: ReLU, then softmax with its cross-entropy."""
    m = X.shape[1]
    activations = [X]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        activations.append(np.maximum(w @ activations[-1] + b, 0))
    delta = softmax(weights[-1] @ activations[-1] + biases[-1]) - Y
    for l in range(len(weights) - 1, -1, -1):
        a = activations[l]
        gradient_w = delta @ a.T / m
        gradient_b = delta.sum(axis=1, keepdims=True) / m
        if l > 0:
            delta = (weights[l].T @ delta) * (a > 0)
        weights[l] -= learning_rate * gradient_w
        biases[l] -= learning_rate * gradient_b


def epoch(weights, biases, X, Y, batch_size, learning_rate, rng):
    """`step` over all examples once, in random order."""
    order = rng.permutation(X.shape[1])
    for start in range(0, X.shape[1], batch_size):
        chosen = order[start : start + batch_size]
        step(weights, biases, X[:, chosen], Y[:, chosen], learning_rate)
