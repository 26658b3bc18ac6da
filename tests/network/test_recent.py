"""What calls leave for the next: the results are those of a network that has left nothing."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpengine as bp
from bpengine.model import recent
from bpengine.model.recent import Recent


def data(m, seed, classes=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, m)), np.eye(classes)[:, rng.integers(classes, size=m)]


CALLS = ["feedforward", "predict", "evaluate", "backprop", "weighted", "partial_fit", "fit", "jacobians"]
CHANGES = ["nothing", "l2", "weights", "dropout", "rng", "cost"]


def call(net, what, X, Y, optimizer):
    """The numbers that a call gives, and the parameters after it."""
    if what in ("feedforward", "predict"):
        found = getattr(net, what)(X)
    elif what == "evaluate":
        found = list(net.evaluate(X, Y).values())
    elif what in ("backprop", "weighted"):
        weights = np.arange(1.0, X.shape[1] + 1) if what == "weighted" else None
        gradient = net.backprop(X, Y, weights)
        found = [*gradient.vector, gradient.cost]
    elif what == "partial_fit":
        found = net.partial_fit(X, Y, batch_size=3, optimizer=optimizer)
    elif what == "fit":
        found = net.fit(
            X, Y, epochs=2, batch_size=min(3, X.shape[1]), optimizer=optimizer, progress=False
        ).cost
    else:
        found = bp.jacobians(net, X)
    return np.array(found), net.vector.copy()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(CALLS), st.integers(1, 7), st.sampled_from(CHANGES), st.sampled_from([0, 1])
        ),
        min_size=2,
        max_size=8,
    )
)
@settings(max_examples=40)
def test_calls_in_any_order_are_those_of_a_copy_without_a_past(calls):
    optimizers = bp.SGD(0.1), bp.Adam(0.01, averaging=0.9)
    net = bp.Network([4, 5, 3], backend="numpy", dtype="float64", rng=0)
    for seed, (what, m, change, which) in enumerate(calls):
        if change == "l2":
            net.l2 = 0.1 * seed
        elif change == "weights":
            net.weights[0] = np.full((5, 4), 0.1 * seed)
        elif change == "dropout":
            net.dropout = (0.0, 0.5 * which)
        elif change == "rng":
            net.rng = np.random.default_rng(seed)
        elif change == "cost":
            net.cost = bp.Network([1, 1], cost=["quadratic", "huber"][which]).cost
        X, Y = data(m, seed)
        if what == "partial_fit":
            net._training = None  # which a copy lacks
        twin = copy.deepcopy(net)
        for found, expected in zip(
            call(net, what, X, Y, optimizers[which]),
            call(twin, what, X, Y, optimizers[which]),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)


def test_results_are_not_overwritten_by_the_next_call():
    net = bp.Network([4, 5, 3], backend="numpy", rng=0)
    (X, Y), (other, targets) = data(6, 0), data(6, 1)
    output, gradient = net.feedforward(X), net.backprop(X, Y)
    before = output.copy(), gradient.vector.copy(), gradient.weights[0].copy()
    net.feedforward(other), net.backprop(other, targets)
    for found, expected in zip((output, gradient.vector, gradient.weights[0]), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_call_within_a_call_of_the_same_shape():
    def function(a, y):
        nets[0].feedforward(np.zeros((4, a.shape[-1])))
        return ((a - y) ** 2).sum(axis=-2)

    cost = bp.Cost("calls the network", function, lambda a, y: 2 * (a - y))
    plain = bp.Cost("plain", lambda a, y: ((a - y) ** 2).sum(axis=-2), cost.derivative)
    nets = [bp.Network([4, 5, 3], cost=cost, backend="numpy", rng=0) for cost in (cost, plain)]
    X, Y = data(6, 0)
    assert nets[0].evaluate(X, Y) == nets[1].evaluate(X, Y)


def test_a_call_that_fails_leaves_nothing_behind():
    fails = [True]

    def function(z):
        if fails:
            raise KeyboardInterrupt
        return np.tanh(z)

    σ = bp.Activation("interrupted", function, lambda a: 1 - a**2, of="a")
    net = bp.Network([4, 5, 3], [σ, "linear"], backend="numpy", rng=0)
    X, _ = data(6, 0)
    fails.clear()
    expected = net.feedforward(X)
    fails.append(True)
    with pytest.raises(KeyboardInterrupt):
        net.feedforward(X + 1)
    fails.clear()
    np.testing.assert_array_equal(net.feedforward(X), expected)


def test_few_are_retained_and_no_more_bytes_than_the_bound(monkeypatch):
    found = Recent()
    for i in range(2 * recent.COUNT):
        found.keep(i, str(i), 1)
    assert [found.take(i) for i in range(2 * recent.COUNT)].count(None) == recent.COUNT
    monkeypatch.setattr(recent, "BYTES", 10)
    for i, size in enumerate((4, 5, 11, 3, 4, 4)):
        found.keep(i, str(i), size)
    assert [found.take(i) for i in range(6)] == [None] * 4 + ["4", "5"]
    assert found.take(5) is None  # it is in use


def test_arrays_of_the_user_are_let_go():
    net = bp.Network([4, 5, 3], rng=0)
    X, Y = data(6, 0)
    X = X.astype("float32")
    references = weakref.ref(X), weakref.ref(Y)
    net.feedforward(X), net.evaluate(X, Y), net.backprop(X, Y)
    net.fit(X, Y, epochs=1, batch_size=2, progress=False)
    del X, Y
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_threads_copies_and_pickles_start_with_nothing():
    net = bp.Network([4, 5, 3], backend="numpy", rng=0)
    X, _ = data(6, 0)
    net.feedforward(X)
    [(key, _, _)] = net.recent._entries
    for twin in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.recent.take(key) is None
    found = []
    thread = threading.Thread(target=lambda: found.append(net.recent.take(key)))
    thread.start()
    thread.join()
    assert found == [None]
    assert net.recent.take(key) is not None
