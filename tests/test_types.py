"""What editors and type checkers know of results; mypy reads this file."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np

import bpengine as bp
from bpengine.backends import AnyArray

X, Y = np.zeros((2, 4)), np.zeros((1, 4))


def test_results_for_arrays_of_numpy() -> None:
    net = bp.Network([2, 3, 1], rng=0)
    gradient = net.backprop(X, Y)
    results = [
        assert_type(net.feedforward(X), AnyArray),
        assert_type(net(X), AnyArray),
        assert_type(net.predict(X), AnyArray),
        assert_type(net.vector, AnyArray),
        assert_type(net.weights[0], AnyArray),
        assert_type(net.biases[-1], AnyArray),
        assert_type(gradient.vector, AnyArray),
        assert_type(gradient.weights[0], AnyArray),
        assert_type(net.backprop(X, Y, per_example="norms").total, AnyArray),
        assert_type(bp.input_gradients(net, X, Y), AnyArray),
        assert_type(bp.Network([2, 1], stack=2).ensemble(X).mean, AnyArray),
    ]
    assert all(isinstance(array, np.ndarray) for array in results)


def test_results_for_other_arrays_are_not_taken_for_those_of_numpy() -> None:
    net = bp.Network([2, 3, 1], rng=0)
    array: Any = X
    assert_type(net.feedforward(array), Any)
    assert_type(net(array), Any)
    assert_type(net.predict(array), Any)
