"""L-BFGS comes to minima that are known otherwise, and is a training like any other."""

from __future__ import annotations

import signal
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from trainings import arrays, assert_same, blobs, data, fit, in_steps, network, uncompiled, vector

import bpengine as bp
from bpengine.backprop import forward
from bpengine.data import memmap

pytest.importorskip("scipy")


def least_squares(lab, m=20, l2=0.0, seed=0, **options):
    """A linear network and data, and the parameters [w b] that make the cost least."""
    X, Y = data(m, seed=seed)
    net = network(lab, (3, 2), activations="linear", l2=l2, **options)
    weights = np.ones(m)
    A = np.vstack([X, np.ones(m)])
    penalty = l2 * m * np.diag([1.0, 1.0, 1.0, 0.0])
    return net, X, Y, lambda w=weights: np.linalg.solve((A * w) @ A.T + penalty, (A * w) @ Y.T).T


def slope(a):
    return 1 - a * a


def found(lab, net):
    return np.hstack([lab.numpy(net.weights[0]), lab.numpy(net.biases[0])])


@given(seed=st.integers(0, 99), l2=st.sampled_from([0.0, 0.3]), weighted=st.booleans())
@examples(10)
def test_least_squares_are_solved(lab, seed, l2, weighted):
    net, X, Y, minimum = least_squares(lab, l2=l2, seed=seed)
    weights = np.random.default_rng(seed).random(20) + 0.1
    weights = weights / weights.mean() if weighted else None
    optimizer = bp.LBFGS(tolerance=1e-9)
    history = fit(lab, net, X, Y, epochs=100, optimizer=optimizer, sample_weight=weights)
    np.testing.assert_allclose(
        found(lab, net), minimum() if weights is None else minimum(weights), atol=1e-7
    )
    assert len(history.cost) < 50
    assert history.learning_rate == []
    weights = () if weights is None else (lab.array(weights),)
    assert history.cost[-1] == pytest.approx(
        net.evaluate(lab.array(X), lab.array(Y), *weights)["cost"], rel=1e-12
    )


def test_logistic_regression_is_solved(lab):
    """At the minimum the gradient vanishes: Σ (a - y) [x; 1] / N + λ w = 0."""
    X, labels = blobs()
    net = network(lab, (2, 1), cost="binary_cross_entropy", l2=0.1)
    fit(lab, net, X, labels, epochs=200, optimizer=bp.LBFGS(tolerance=1e-10))
    w, b = lab.numpy(net.weights[0]), lab.numpy(net.biases[0])
    a = 1 / (1 + np.exp(-(w @ X + b)))
    np.testing.assert_allclose((a - labels) @ X.T / 40 + 0.1 * w, 0, atol=1e-8)
    np.testing.assert_allclose((a - labels).mean(), 0, atol=1e-8)
    assert np.abs(w).max() > 0.1


@given(
    N=st.integers(1, 20),
    elements=st.sampled_from([1, 30, 60, 10**6]),
    weighted=st.booleans(),
    where=st.sampled_from(["arrays", "map"]),
)
@examples(20)
def test_a_gradient_in_chunks_is_that_of_the_whole(lab, tmp_path, N, elements, weighted, where):
    X, Y = data(N)
    weights = np.random.default_rng(0).random(N) + 0.1 if weighted else None
    net, whole = network(lab), network(lab)
    options = {"epochs": 3, "optimizer": bp.LBFGS(), "sample_weight": weights, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "CHUNK_ELEMENTS", elements)
        given_X = lab.array(X)
        if where == "map":
            X.T.tofile(tmp_path / "X")
            given_X = np.memmap(tmp_path / "X", "float64", "r", shape=(N, 3)).T
            patch.setattr(memmap, "MAPPED_BYTES", 0)
        history = net.fit(given_X, lab.array(Y), **options)
    expected = whole.fit(lab.array(X), lab.array(Y), **options)
    lab.assert_close(net.vector, vector(lab, whole), 1e-6)
    np.testing.assert_allclose(history.cost, expected.cost, rtol=1e-8)


def test_each_iteration_is_an_epoch(lab):
    X, labels = blobs()
    net = network(lab, (2, 4, 1), cost="binary_cross_entropy")
    pair = lab.array(X), lab.array(labels)
    seen = []
    history = fit(
        lab,
        net,
        X,
        labels,
        epochs=5,
        optimizer=bp.LBFGS(),
        validation=pair,
        callbacks=[lambda training: seen.append((training.epoch, vector(lab, net)))],
    )
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5]
    for name in ("cost", "validation_cost", "validation_accuracy", "seconds"):
        assert len(getattr(history, name)) == 5
    np.testing.assert_allclose(history.cost, history.validation_cost, rtol=1e-12)
    assert (np.diff(history.cost) < 0).all()
    np.testing.assert_array_equal(seen[-1][1], vector(lab, net))
    # the same again, one epoch at a time, is as far as one epoch
    one = network(lab, (2, 4, 1), cost="binary_cross_entropy")
    fit(lab, one, X, labels, epochs=1, optimizer=bp.LBFGS())
    np.testing.assert_array_equal(vector(lab, one), seen[0][1])


def test_training_ends_where_the_gradient_is_small_or_evaluations_are_spent(lab):
    net, X, Y, _ = least_squares(lab)
    far = fit(lab, net, X, Y, epochs=100, optimizer=bp.LBFGS(tolerance=1e-9))
    net = least_squares(lab)[0]
    near = fit(lab, net, X, Y, epochs=100, optimizer=bp.LBFGS(tolerance=0.1))
    assert len(near.cost) < len(far.cost) < 100
    gradient = net.backprop(lab.array(X), lab.array(Y))
    assert np.abs(lab.numpy(gradient.vector)).max() <= 0.1
    few = fit(lab, least_squares(lab)[0], X, Y, epochs=100, optimizer=bp.LBFGS(max_evaluations=2))
    assert 1 <= len(few.cost) <= 2


@pytest.mark.parametrize("epochs", [1, 9])
def test_training_that_is_at_the_minimum_stays_there(lab, tmp_path, epochs):
    net, X, Y, minimum = least_squares(lab, l2=0.1)
    net.weights[0], net.biases[0] = (lab.array(x) for x in np.split(minimum(), [3], axis=1))
    before, path = arrays(lab, net), tmp_path / "run.npz"
    options = {"epochs": epochs, "optimizer": bp.LBFGS(), "callbacks": [bp.Checkpoint(path)]}
    history = fit(lab, net, X, Y, **options)
    assert history.cost == pytest.approx([net.evaluate(lab.array(X), lab.array(Y))["cost"]])
    assert_same(lab, net, before)
    assert_same(lab, bp.load(path, backend=lab.backend), before)
    assert fit(lab, net, X, Y, resume=path, **options).cost == history.cost


def test_float32_comes_near(lab):
    net, X, Y, minimum = least_squares(lab, dtype="float32")
    fit(lab, net, X, Y, epochs=100, optimizer=bp.LBFGS())
    np.testing.assert_allclose(found(lab, net), minimum(), atol=1e-3)


def test_training_can_be_stopped(lab):
    X, labels = blobs()
    net = network(lab, (2, 4, 1), cost="binary_cross_entropy")
    seen = []

    def stop(training):
        seen.append(vector(lab, net))
        if training.epoch == 3:
            training.stop()

    history = fit(lab, net, X, labels, epochs=50, optimizer=bp.LBFGS(), callbacks=[stop])
    assert len(history.cost) == 3
    np.testing.assert_array_equal(vector(lab, net), seen[-1])


def test_early_stopping_restores_the_best(lab):
    X, labels = blobs(8)
    # labels at random can't be learned: on other data the cost rises
    pair = tuple(map(lab.array, (X, 1 - labels)))
    net = network(lab, (2, 4, 1), cost="binary_cross_entropy")
    first = []
    history = fit(
        lab,
        net,
        X,
        labels,
        epochs=50,
        optimizer=bp.LBFGS(),
        validation=pair,
        callbacks=[
            bp.EarlyStopping(patience=2),
            lambda training: first.append(vector(lab, net)),
        ],
    )
    assert history.best_epoch == 1 + int(np.argmin(history.validation_cost))
    assert len(history.cost) == history.best_epoch + 2
    np.testing.assert_array_equal(vector(lab, net), first[history.best_epoch - 1])


@pytest.mark.parametrize("call", [1, 2, 9, 15])
def test_ctrl_c_keeps_the_last_iteration(lab, call):
    calls = [0]

    def function(z):
        calls[0] += 1
        if calls[0] == call:
            signal.raise_signal(signal.SIGINT)
        return lab.backend.xp.tanh(z)

    σ = bp.Activation("interrupting", uncompiled(function), slope, "a")
    X, Y = data()
    net = network(lab, activations=[σ, "sigmoid"])
    start, seen = vector(lab, net), []
    history = fit(
        lab,
        net,
        X,
        Y,
        epochs=100,
        optimizer=bp.LBFGS(),
        callbacks=[lambda training: seen.append(vector(lab, net))],
    )
    assert history.interrupted
    assert len(history.cost) == len(history.seconds) == len(seen) < call
    assert (len(seen) > 0) is (call > 2)
    np.testing.assert_array_equal(vector(lab, net), [start, *seen][-1])


@pytest.mark.parametrize("at", [0, 4])
def test_a_cost_that_is_not_finite_is_an_error_that_says_where(lab, at):
    seen = []

    def function(z):
        far = len(seen) == at
        return lab.backend.xp.tanh(z) * (np.inf if far else 1.0)

    σ = bp.Activation("diverging", uncompiled(function), slope, "a")
    X, Y = data()
    net = network(lab, (3, 4, 4, 2), activations=["tanh", σ, "sigmoid"])
    start = vector(lab, net)
    with pytest.raises(bp.NonFiniteCostError) as caught:
        fit(
            lab,
            net,
            X,
            Y,
            epochs=100,
            optimizer=bp.LBFGS(),
            callbacks=[lambda training: seen.append(vector(lab, net))],
        )
    error = caught.value
    assert (error.epoch, error.step, error.layer) == (at + 1, 1, 3)
    np.testing.assert_array_equal(vector(lab, net), [start, *seen][-1])


def test_a_resumed_training_goes_on_with_the_parameters(lab, tmp_path):
    X, labels = blobs()
    path = tmp_path / "run.npz"
    options = {"optimizer": bp.LBFGS(), "callbacks": [bp.Checkpoint(path)], "resume": path}
    net = network(lab, (2, 4, 1), cost="binary_cross_entropy")
    first = fit(lab, net, X, labels, epochs=3, **options)
    twin = network(lab, (2, 4, 1), cost="binary_cross_entropy")
    resumed = fit(lab, twin, X, labels, epochs=3, **options)
    assert_same(lab, twin, arrays(lab, net))
    assert in_steps(resumed) == in_steps(first)
    more = fit(lab, twin, X, labels, epochs=5, **options)
    assert len(more.cost) == 5
    assert more.cost[:3] == first.cost
    assert more.cost[4] < more.cost[2]


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_counts_iterations(lab, capsys, monkeypatch, tqdm):
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    X, labels = blobs()
    net = network(lab, (2, 4, 1), cost="binary_cross_entropy")
    fit(lab, net, X, labels, epochs=3, optimizer=bp.LBFGS(), progress=True)
    err = capsys.readouterr().err
    assert "epoch 3/3: cost" in err
    assert "3/3 [" in err or not tqdm


def test_the_error_without_scipy_names_the_extra(lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    net = network(lab)
    before = arrays(lab, net)
    with pytest.raises(ImportError, match=r'bp\.LBFGS needs SciPy.*pip install "bpengine\[scipy\]"'):
        fit(lab, net, *data(), optimizer=bp.LBFGS())
    assert_same(lab, net, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.5}, "LBFGS needs a deterministic cost"),
        ({}, "monitor is for steps on batches"),
    ],
)
def test_what_goes_with_batches_alone_is_refused(lab, options, message):
    net = network(lab, **options)
    monitor = None if options else "epoch"
    with pytest.raises(ValueError, match=message):
        fit(lab, net, *data(), optimizer=bp.LBFGS(), monitor=monitor)


def test_a_batch_size_of_more_than_all_examples_is_no_matter(lab):
    net, X, Y, minimum = least_squares(lab)
    fit(lab, net, X, Y, epochs=100, batch_size=1000, optimizer=bp.LBFGS(tolerance=1e-9))
    np.testing.assert_allclose(found(lab, net), minimum(), atol=1e-7)


def test_partial_fit_takes_steps_alone(lab):
    with pytest.raises(TypeError, match="LBFGS takes all examples in every step"):
        network(lab).partial_fit(*map(lab.array, data()), optimizer=bp.LBFGS())
