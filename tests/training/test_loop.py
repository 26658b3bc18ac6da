"""Training: the order of examples, what is reported, and what is left when it is stopped."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import looped
from trainings import (
    OPTIMIZERS,
    SUM,
    arrays,
    assert_same,
    batches,
    blobs,
    by_hand,
    data,
    fit,
    network,
    total,
    uncompiled,
    vector,
)

import bpengine as bp
from bpengine import schedules
from bpengine.model.activations import ACTIVATIONS
from bpengine.network import fit as fitting
from bpengine.optimizers.update import OptimizerState
from bpengine.training import loop
from bpengine.training import steps as training_steps

few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_separable_data_is_learned(lab):
    X, labels = blobs()
    net = network(
        lab, (2, 4, 2), activations=["tanh", "softmax"], cost="softmax_cross_entropy", dtype="float32"
    )
    history = fit(
        lab,
        net,
        X,
        labels,
        epochs=10,
        batch_size=8,
        optimizer=bp.SGD(0.5),
        validation=(lab.array(X), lab.array(labels)),
    )
    assert history.validation_accuracy[-1] == 1.0
    assert history.cost[-1] < 0.1 < history.cost[0]
    assert not history.interrupted


@few
@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 3), st.integers(0, 99))
def test_steps_are_those_of_the_permutation(lab, examples, batch_size, epochs, seed):
    batch_size = min(batch_size, examples)
    X, Y = data(examples)
    net, twin = network(lab, rng=seed), network(lab, rng=seed)
    optimizer = bp.SGD(0.3)
    history = fit(lab, net, X, Y, epochs=epochs, batch_size=batch_size, optimizer=optimizer)
    costs = [0.0] * epochs
    for epoch, _, plan in by_hand(lab, twin, X, Y, epochs, batch_size, optimizer):
        costs[epoch - 1] += plan.cost * plan.batch_size / examples
    for found, expected in zip(arrays(lab, net), arrays(lab, twin), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(history.cost, costs, rtol=1e-13)
    assert net.rng.bit_generator.state == twin.rng.bit_generator.state


@few
@given(st.integers(1, 17), st.integers(1, 17), st.integers(0, 99))
def test_an_epoch_uses_each_example_once_and_averages_over_each_batch(lab, examples, batch_size, seed):
    # with unit vectors as examples and the sum of outputs as the cost, column i of the weights moves
    # by -η/m each time that example i is in a batch of m
    batch_size = min(batch_size, examples)
    net = network(lab, (examples, 1), activations="linear", cost=SUM, rng=seed)
    before = arrays(lab, net)[0]
    fit(
        lab,
        net,
        np.eye(examples),
        np.zeros((1, examples)),
        epochs=1,
        batch_size=batch_size,
        optimizer=bp.SGD(1.0),
    )
    difference = (before - arrays(lab, net)[0])[0]
    last = examples % batch_size
    expected = np.full(examples, 1 / batch_size)
    order = np.random.default_rng(seed)
    order.standard_normal((1, examples))  # the initial weights
    if last:
        expected[order.permutation(examples)[-last:]] = 1 / last
    np.testing.assert_allclose(difference, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_seed_says_all(lab, dtype):
    X, Y = data(23)
    nets = [network(lab, dtype=dtype, rng=rng) for rng in (5, 5, np.random.default_rng(5), 6)]
    histories = [fit(lab, net, X, Y, epochs=3) for net in nets]
    first, second, third, other = (arrays(lab, net) for net in nets)
    for again in (second, third):
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert histories[0].cost == histories[1].cost == histories[2].cost
    assert not np.array_equal(first[0], other[0])
    # the same on every backend
    numpy_net = bp.Network((3, 4, 2), backend="numpy", dtype=dtype, rng=5)
    numpy_net.fit(X, Y, epochs=3, batch_size=4, progress=False)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for a, b in zip(first, [*numpy_net.weights, *numpy_net.biases], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_each_epoch_is_shuffled_anew(lab):
    X, Y = data(12)
    once, twice = network(lab), network(lab)
    fit(lab, once, X, Y, epochs=1, batch_size=1)
    once.rng = np.random.default_rng(7)
    once.rng.standard_normal(3 * 4 + 4 * 2)  # as in the first epoch
    fit(lab, once, X, Y, epochs=1, batch_size=1)
    fit(lab, twice, X, Y, epochs=2, batch_size=1)
    assert not np.array_equal(arrays(lab, once)[0], arrays(lab, twice)[0])


@few
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7))
def test_epochs_add_up(lab, first, second, batch_size):
    X, Y = data(9)
    Xv, Yv = (lab.array(a) for a in data(6, seed=1))
    whole, parts = network(lab), network(lab)
    options = {"batch_size": batch_size, "validation": (Xv, Yv), "optimizer": bp.SGD(0.4)}
    history = fit(lab, whole, X, Y, epochs=first + second, **options)
    one = fit(lab, parts, X, Y, epochs=first, **options)
    assert one.validation_cost[-1] == parts.evaluate(Xv, Yv)["cost"]
    two = fit(lab, parts, X, Y, epochs=second, **options)
    assert two.validation_cost[-1] == parts.evaluate(Xv, Yv)["cost"]
    assert_same(lab, whole, arrays(lab, parts))
    assert history.cost == one.cost + two.cost
    assert history.validation_cost == one.validation_cost + two.validation_cost


def test_history(lab):
    X, labels = blobs(21)
    options = {"activations": "softmax", "cost": "softmax_cross_entropy"}
    net = network(lab, (2, 2), **options)
    plain = fit(lab, net, X, labels, epochs=3)
    assert (len(plain.cost), len(plain.seconds)) == (3, 3)
    assert plain.validation_cost == plain.validation_accuracy == []
    assert all(seconds > 0 for seconds in plain.seconds)
    pair = (lab.array(X), lab.array(labels))
    validated = fit(lab, net, X, labels, epochs=4, validation=pair)
    assert len(validated.cost) == len(validated.seconds) == 4
    assert len(validated.validation_cost) == len(validated.validation_accuracy) == 4
    found = net.evaluate(*pair)
    assert found == {
        "cost": validated.validation_cost[-1],
        "accuracy": validated.validation_accuracy[-1],
    }
    assert validated.interrupted is False
    Xr, Yr = data(8)
    regression = fit(lab, network(lab), Xr, Yr, epochs=2, validation=[lab.array(Xr), lab.array(Yr)])
    assert len(regression.validation_cost) == 2
    assert regression.validation_accuracy == []


@few
@given(
    st.integers(1, 40),
    st.integers(1, 7),
    st.sampled_from(list(OPTIMIZERS.values())),
    st.lists(
        st.sampled_from([((8, 256), 2**18), ((2, 2), 1), ((1, 1), 1), ((1, 256), 2 * 3 * 3)]),
        min_size=1,
        max_size=3,
    ),
)
def test_chunks_of_steps_change_nothing(lab, examples, batch_size, optimizer, readback):
    """Not even the last digit of a cost: what is monitored must not depend on them."""
    X, Y = data(examples)
    found = []
    for steps, elements in [((64, 64), 1), *readback]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training_steps, "READBACK_STEPS", steps)
            patch.setattr(training_steps, "READBACK_ELEMENTS", elements)
            net = network(lab, dropout=0.3)
            history = fit(lab, net, X, Y, batch_size=min(batch_size, examples), optimizer=optimizer)
        found.append((vector(lab, net), history.cost))
    for one, cost in found[1:]:
        np.testing.assert_array_equal(one, found[0][0])
        assert cost == found[0][1]


def test_a_cost_is_finite_where_each_step_s_is(lab):
    # float32 holds what each example costs, but not the sum over a chunk of them
    Y = np.full((1, 8), 1.5e19)
    net = network(lab, (1, 1), activations="linear", dtype="float32")
    history = fit(lab, net, np.zeros((1, 8)), Y, epochs=1, batch_size=1, optimizer=bp.SGD(1e-30))
    np.testing.assert_allclose(history.cost, [1.5e19**2 / 2], rtol=1e-5)


LINE = r"epoch {}/2: cost \S+, validation cost \S+, accuracy [01]\.\d{{4}}"


def fit_with_progress(lab, **options):
    X, labels = blobs(10)
    net = network(lab, (2, 2), activations="softmax", cost="softmax_cross_entropy")
    pair = (lab.array(X), lab.array(labels))
    return fit(lab, net, X, labels, validation=pair, **options)


def test_progress_as_a_bar(lab, capsys):
    fit_with_progress(lab, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "6/6" in err  # of 2 epochs of 3 steps
    assert re.search(LINE.format(2), err)


def test_progress_in_lines_where_there_is_no_tqdm(lab, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    fit_with_progress(lab, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch("".join(LINE.format(i) + r"\n" for i in (1, 2)), err)


@pytest.mark.usefixtures("called_once")
@pytest.mark.parametrize("tqdm", [True, False])
def test_no_progress_where_none_is_asked_for(lab, capsys, monkeypatch, tqdm):
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    fit_with_progress(lab, progress=False)
    with interrupt_at(lab, 1) as σ:
        fit(lab, network(lab, activations=[σ, "sigmoid"]), *data())
    assert capsys.readouterr() == ("", "")


def tanh(z):
    return array_namespace(z).tanh(z)


TANH = tanh, lambda a: 1 - a * a, "a"


@contextmanager
def interrupt_at(lab, call):
    """A hidden layer's tanh in whose `call`-th forward pass the user presses Ctrl-C."""
    calls = itertools.count(1)

    def function(z):
        lab.each_time(z)
        if next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return tanh(z)

    yield bp.Activation("interrupting", uncompiled(function), *TANH[1:])


@pytest.mark.usefixtures("called_once")
@looped("call", [1, 3, 4, 5, 10, 12])
def test_ctrl_c_keeps_the_steps_taken_and_the_epochs_done(lab, call):
    X, Y = data(11)
    optimizer = bp.SGD(0.3)
    with interrupt_at(lab, call) as σ:
        net = network(lab, activations=[σ, "sigmoid"])
        history = fit(lab, net, X, Y, epochs=100, batch_size=4, optimizer=optimizer)
    assert history.interrupted is True
    assert len(history.cost) == len(history.seconds) == (call - 1) // 3
    twin = network(lab, activations=["tanh", "sigmoid"])
    for _ in itertools.islice(by_hand(lab, twin, X, Y, 100, 4, optimizer), call - 1):
        pass
    for found, expected in zip(arrays(lab, net), arrays(lab, twin), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    again = fit(lab, net, X, Y, epochs=1)
    assert not again.interrupted
    assert np.isfinite(again.cost).all()


@pytest.mark.usefixtures("called_once")
@pytest.mark.parametrize("tqdm", [True, False])
def test_ctrl_c_is_acknowledged(lab, capsys, monkeypatch, tqdm):
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with interrupt_at(lab, 5) as σ:
        fit(lab, network(lab, activations=[σ, "sigmoid"]), *data(), epochs=100, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("interrupted: the network keeps what it has learned.\n") == 1


@pytest.mark.usefixtures("called_once")
def test_ctrl_c_in_the_validation(lab):
    X, Y = data(8)
    # 2 steps an epoch, then one forward pass for the validation data
    with interrupt_at(lab, 6) as σ:
        net = network(lab, activations=[σ, "sigmoid"])
        pair = (lab.array(X), lab.array(Y))
        history = fit(lab, net, X, Y, epochs=9, validation=pair)
    assert history.interrupted
    assert len(history.cost) == len(history.seconds) == len(history.validation_cost) == 1


def test_ctrl_c_at_any_moment(lab):
    timers = []

    def function(z):
        if not timers:
            timers.append(threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]))
            timers[0].start()
        return array_namespace(z).tanh(z)

    σ = bp.Activation("timed", uncompiled(function), *TANH[1:])
    net = network(lab, activations=[σ, "sigmoid"])
    history = fit(lab, net, *data(64), epochs=10**6)
    timers[0].join()
    assert history.interrupted
    assert len(history.cost) == len(history.seconds) < 10**6
    assert all(np.isfinite(array).all() for array in arrays(lab, net))


@contextmanager
def keyboard_interrupt_at_line(n):
    """Ctrl-C arrives as line n of the training modules, counted as they are run, is about to run."""
    lines = itertools.count(1)
    reached = []

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in (loop.__file__, fitting.__file__):
            return None
        if event == "line" and next(lines) == n:
            reached.append((frame.f_code.co_name, frame.f_lineno))
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield reached
    finally:
        sys.settrace(before)


CASES = {
    "learning": (bp.SGD(0.5), 0.0),
    "diverging": (bp.SGD(1e30), 0.0),
    "averaging": (bp.Adam(0.1, averaging=0.9), 0.5),
}


def fit_with_ctrl_c(lab, n, case):
    """The network, its history or the error if there is one, and the line at which Ctrl-C came."""
    optimizer, dropout = CASES[case]
    net = network(lab, activations="linear", dtype="float32", dropout=dropout)
    pair = tuple(lab.array(a) for a in data(3))
    options = {"epochs": 2, "batch_size": 2, "optimizer": optimizer, "validation": pair}
    with keyboard_interrupt_at_line(n) as reached:
        try:
            return net, fit(lab, net, *data(3), **options), reached
        except (KeyboardInterrupt, bp.NonFiniteCostError) as error:
            return net, type(error), reached


@pytest.mark.parametrize("case", CASES)
def test_ctrl_c_at_every_line(lab, case):
    """The network is left with what some number of whole steps have made of it."""
    optimizer, dropout = CASES[case]
    twin = network(lab, activations="linear", dtype="float32", dropout=dropout)
    after = [vector(lab, twin)]
    with np.errstate(all="ignore"):
        for _, _, plan in by_hand(lab, twin, *data(3), 2, 2, optimizer):
            last = twin.vector if optimizer.averaging is None else plan.state.arrays["average"]
            after.append(np.array(lab.numpy(last)))
    after = [one for one in after if np.isfinite(one).all()]
    assert (len(after) == 5) is (case != "diverging")
    for n in itertools.count(1, 1 if lab.name == "numpy" else 19):
        # a thread of its own, since Python may take an exception out of a trace for one being handled
        with ThreadPoolExecutor(1) as pool:
            net, history, reached = pool.submit(fit_with_ctrl_c, lab, n, case).result()
        where = f"line {reached}"
        matches = [np.array_equal(vector(lab, net), one) for one in after]
        assert any(matches), where
        if history is KeyboardInterrupt:  # before training has begun, or when all of it is done
            assert matches[0] or matches[-1], where
        elif history is bp.NonFiniteCostError:
            assert case == "diverging"
        else:
            lengths = set(map(len, (history.cost, history.seconds, history.validation_cost)))
            assert len(lengths) == 1, where
            assert history.interrupted is bool(reached), where
            # all steps of the epochs that are complete, and no more than one epoch besides
            assert 2 * min(lengths) <= max(np.flatnonzero(matches)), where
        if not reached:
            break
    assert n > 100


@pytest.mark.usefixtures("called_once")
@looped("call", [1, 2, 4, 8, 9, 11])
@looped("name", OPTIMIZERS)
def test_ctrl_c_leaves_whole_steps_in_all_that_is_remembered(lab, name, call):
    """Parameters, what the optimizer remembers, and the random numbers that dropout takes."""
    X, Y = data(11)
    seen = []

    class Start(bp.Callback):
        def start(self, training):
            seen.append(training)

    def run(σ):
        net = network(lab, activations=[σ, "sigmoid"], dropout=[0.2, 0.5])
        history = fit(lab, net, X, Y, epochs=4, optimizer=optimizer, callbacks=[Start()], shuffle=True)
        return net, history

    optimizer = OPTIMIZERS[name]
    with interrupt_at(lab, call) as σ:
        net, history = run(σ)
    assert history.interrupted
    twin = network(lab, activations=[bp.Activation("own", *TANH), "sigmoid"], dropout=[0.2, 0.5])
    schedule = schedules.resolve(optimizer.learning_rate)
    plans, state, taken = {}, OptimizerState(optimizer, twin.parameters), 0
    for epoch in range(4):
        for step, chosen in enumerate(batches(twin.rng, 11, 4)):
            if taken == call - 1:
                break
            m = len(chosen)
            if m not in plans:
                plans[m] = bp.Plan(twin, m, optimizer, state=state)
            plans[m].learning_rate = schedule.rate(epoch + step / 3)
            plans[m].load(lab.array(X[:, chosen]), lab.array(Y[:, chosen]))
            plans[m].run()
            taken += 1
        else:
            continue
        break
    [training] = seen
    for key, array in state.arrays.items():
        np.testing.assert_array_equal(
            lab.numpy(training.runner.state.arrays[key]), lab.numpy(array), key
        )
    last = twin.vector if optimizer.averaging is None else state.arrays["average"]
    np.testing.assert_array_equal(vector(lab, net), lab.numpy(last))
    assert net.rng.bit_generator.state == twin.rng.bit_generator.state


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Ctrl-C is sent in another way on Windows")
def test_ctrl_c_from_outside(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            """
            import numpy as np
            import bpengine as bp

            def tanh(z):
                global interrupted_once
                if not interrupted_once:
                    interrupted_once = True
                    print("training", flush=True)
                return np.tanh(z)

            interrupted_once = False
            σ = bp.Activation("telling", tanh, lambda a: 1 - a * a, "a")
            net = bp.Network([3, 4, 2], activations=[σ, "sigmoid"], rng=0)
            X, Y = np.ones((3, 50)), np.zeros((2, 50))
            history = net.fit(X, Y, epochs=10**9, batch_size=5, progress=False)
            print(history.interrupted, len(history.cost) == len(history.seconds))
            print(bool(np.isfinite(net.feedforward(X)).all()))
            """
        ),
        encoding="utf-8",
    )
    command = [sys.executable, "-X", "utf8", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "training\n"
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("True True\nTrue\n", "", 0)


def linear(lab, weights, cost="quadratic"):
    """A linear network of these weights, biases 0, in float32."""
    sizes = [np.shape(weights[0])[1], *(len(w) for w in weights)]
    net = network(lab, sizes, activations="linear", cost=cost, dtype="float32", rng=3)
    for view, w, b in zip(net.weights, weights, net.biases, strict=True):
        view[...] = net.backend.asarray(np.array(w), "float32")
        b[...] = 0.0
    return net


@looped("layer", [2, 3, 4])
@looped(("examples", "batch_size"), [(7, 3), (8, 4), (5, 1)])
@looped("position", [0, 3, -1])
@looped("held_steps", [256, 1])
def test_overflow_in_a_forward_pass(lab, monkeypatch, layer, examples, batch_size, position, held_steps):
    monkeypatch.setattr(training_steps, "READBACK_STEPS", (held_steps, held_steps))
    weights = [[[1e10 if l == layer else 1.0]] for l in (2, 3, 4)]
    net, twin = linear(lab, weights), linear(lab, weights)
    order = copy.deepcopy(net.rng).permutation(examples)
    X, Y = np.zeros((1, examples)), np.ones((1, examples))
    X[0, order[position]] = 3e38  # · 10¹⁰ is more than float32 holds
    step = (position % examples) // batch_size + 1
    optimizer = bp.SGD(1e-22)
    with pytest.raises(bp.NonFiniteCostError) as caught:
        fit(lab, net, X, Y, batch_size=batch_size, optimizer=optimizer)
    error = caught.value
    assert (error.epoch, error.step, error.layer) == (1, step, layer)
    for part in ("no longer finite", "epoch 1,", f"step {step},", f"layer {layer} ", "learning rate"):
        assert part in str(error)
    assert error.__cause__ is None
    for _ in itertools.islice(by_hand(lab, twin, X, Y, 1, batch_size, optimizer), step - 1):
        pass
    assert_same(lab, net, arrays(lab, twin))
    if step > 1:
        assert any(array.any() for array in map(lab.numpy, net.biases))


def test_overflow_beyond_the_first_chunk(lab):
    examples, position = 300, 280
    assert position > training_steps.READBACK_STEPS[1]
    net, twin = linear(lab, [[[1e30]]]), linear(lab, [[[1e30]]])
    order = copy.deepcopy(net.rng).permutation(examples)
    X, Y = np.zeros((1, examples)), np.ones((1, examples))
    X[0, order[position]] = 1e20
    with pytest.raises(bp.NonFiniteCostError) as caught:
        fit(lab, net, X, Y, batch_size=1, optimizer=bp.SGD(1e-3))
    assert (caught.value.epoch, caught.value.step, caught.value.layer) == (1, position + 1, 2)
    for _ in itertools.islice(by_hand(lab, twin, X, Y, 1, 1, bp.SGD(1e-3)), position):
        pass
    assert_same(lab, net, arrays(lab, twin))


SLOPE = bp.Cost("negative sum", lambda a, y: -total(a, y), lambda a, y: -array_namespace(a).ones_like(a))


@pytest.mark.parametrize(
    ("weights", "bias", "x", "y", "cost", "learning_rate", "layer"),
    [
        # the product δ a of the last layer
        ([[[1e30]], [[1e-30]]], 0, [1], 1e10, "quadratic", 1, 3),
        # the product δ x of the layer before it
        ([[[1e-30]], [[1]]], 0, [1e30], 1e10, "quadratic", 1, 2),
        # the error that BP2 hands back
        ([[[0]], [[1e30]]], 0, [1], 1e10, "quadratic", 1, 2),
        # the cost alone: (10²⁰)²
        ([[[1]], [[1]]], 0, [1e20], 0, "quadratic", 1e-30, 3),
        # the sum of parameters and update, 2·10³⁸ + 2·10³⁸, in one layer and in the other
        ([[[2e38, -2e38]], [[1]]], 0, [1, 1], 0, SLOPE, 2e38, 2),
        ([[[1]], [[0]]], 2e38, [1], 0, SLOPE, 2e38, 3),
    ],
    ids=["BP4", "BP4 below", "BP2", "cost", "update of layer 2", "update of layer 3"],
)
def test_overflow_elsewhere(lab, weights, bias, x, y, cost, learning_rate, layer):
    net = linear(lab, weights, cost)
    net.biases[-1][...] = bias
    before = arrays(lab, net)
    X, Y = np.array(x, "float32").reshape(-1, 1), np.array([[y]], "float32")
    with pytest.raises(bp.NonFiniteCostError) as caught:
        fit(lab, net, X, Y, batch_size=1, optimizer=bp.SGD(learning_rate))
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert_same(lab, net, before)
    assert caught.value.layer == layer


def finite(lab, array):
    return bool(np.isfinite(lab.numpy(array)).all())


@few
@given(
    st.sampled_from(["linear", "relu", "swish", "sigmoid"]),
    st.floats(1, 1e6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_divergence_keeps_the_step_before(lab, name, learning_rate, batch_size, readback_steps, seed):
    X, Y = data(9, seed=seed)
    activations, optimizer = [name, "linear"], bp.SGD(learning_rate)
    net, twin = (network(lab, activations=activations, dtype="float32", rng=seed) for _ in range(2))
    expected = None
    before = arrays(lab, twin)
    with np.errstate(all="ignore"):
        for epoch, step, plan in by_hand(lab, twin, X, Y, 12, batch_size, optimizer):
            if not (np.isfinite(plan.cost) and finite(lab, twin.vector)):
                expected = epoch, step
                break
            before = arrays(lab, twin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_steps, "READBACK_STEPS", (readback_steps, readback_steps))
        try:
            fit(lab, net, X, Y, epochs=12, batch_size=batch_size, optimizer=optimizer)
            found = None
        except bp.NonFiniteCostError as error:
            found = error.epoch, error.step
    assert found == expected
    assert_same(lab, net, before)


def test_a_learning_rate_beyond_float32(lab):
    net = network(lab, dtype="float32")
    before = arrays(lab, net)
    with pytest.raises((bp.NonFiniteCostError, ValueError)):
        fit(lab, net, *data(), optimizer=bp.SGD(1e300))
    assert_same(lab, net, before)


def test_validation_data_may_cost_infinitely_much(lab):
    net = linear(lab, [[[1]]])
    pair = (lab.array(np.array([[1e25]])), lab.array(np.zeros((1, 1))))
    history = fit(lab, net, np.zeros((1, 4)), np.zeros((1, 4)), validation=pair)
    assert history.validation_cost == [np.inf, np.inf]
    assert history.cost == [0, 0]


@looped("cost", ["quadratic", "binary_cross_entropy", "softmax_cross_entropy"])
@looped("dtype", ["float32", "float64"])
@looped("name", ACTIVATIONS)
def test_saturation_gives_no_warning(lab, name, cost, dtype):
    last = {
        "quadratic": name,
        "binary_cross_entropy": "sigmoid",
        "softmax_cross_entropy": "softmax",
    }[cost]
    net = network(lab, (2, 4, 2), activations=[name, last], cost=cost, dtype=dtype)
    for w in net.weights:
        w *= 1e4
    X, labels = blobs(10)
    with suppress(bp.NonFiniteCostError):
        fit(lab, net, X, bp.one_hot(labels, 2), optimizer=bp.SGD(10.0))
    assert all(np.isfinite(array).all() for array in arrays(lab, net))


LAYOUTS = {
    "C-ordered": lambda lab, host: lab.array(np.ascontiguousarray(host)),
    "F-ordered": lambda lab, host: lab.array(np.asfortranarray(host)),
    "transposed": lambda lab, host: lab.array(np.ascontiguousarray(host.T)).T,
    "every other column": lambda lab, host: lab.array(np.repeat(host, 2, axis=1))[:, ::2],
    "every other row": lambda lab, host: lab.array(np.repeat(host, 2, axis=0))[::2, :],
    "backwards": lambda lab, host: lab.array(np.ascontiguousarray(host[:, ::-1]))[:, ::-1],
    "float32": lambda lab, host: lab.array(host, "float32"),
    "lists": lambda lab, host: host.tolist(),
}


@looped("dtype", ["float32", "float64"])
@looped("layout", LAYOUTS)
def test_data_of_any_layout_is_read_and_not_written(lab, layout, dtype):
    host = [np.asarray(a, "float32").astype("float64") for a in data(11)]
    expected = network(lab, dtype=dtype)
    history = fit(lab, expected, *host, validation=[lab.array(a) for a in host])
    X, Y = given_arrays = [LAYOUTS[layout](lab, a) for a in host]
    net = network(lab, dtype=dtype)
    found = net.fit(X, Y, epochs=2, batch_size=4, progress=False, validation=(X, Y))
    assert_same(lab, net, arrays(lab, expected))
    assert found.cost == history.cost
    assert found.validation_cost == history.validation_cost
    for array, original in zip(given_arrays, host, strict=True):
        np.testing.assert_array_equal(array if layout == "lists" else lab.numpy(array), original)


def test_read_only_views_are_enough(lab):
    X, labels = blobs(12)
    net = network(lab, (2, 2), activations="softmax", cost="softmax_cross_entropy")
    given_X, given_labels = lab.array(X), lab.array(labels)
    net.fit(given_X, given_labels, epochs=2, batch_size=5, progress=False)
    np.testing.assert_array_equal(lab.numpy(given_X), X)
    np.testing.assert_array_equal(lab.numpy(given_labels), labels)


@pytest.mark.usefixtures("called_once")
def test_ctrl_c_in_the_middle_of_a_step_leaves_whole_steps(lab):
    """Layers are updated one after the other: an interrupt between two must not leave half a step."""
    presses = {"at": None, "seen": 0}

    def derivative(z):
        lab.each_time(z)
        presses["seen"] += 1
        if presses["seen"] == presses["at"]:
            raise KeyboardInterrupt
        return lab.backend.xp.cos(z)

    sine = bp.Activation("sine", lab.backend.xp.sin, uncompiled(derivative))
    X, Y = (lab.array(a) for a in (np.linspace(-1, 1, 24).reshape(2, 12), np.zeros((1, 12))))

    def trained(at):
        net = bp.Network(
            [2, 3, 3, 1], [sine, sine, "linear"], backend=lab.backend, dtype="float64", rng=0
        )
        presses.update(at=at, seen=0)
        history = net.fit(X, Y, epochs=1, batch_size=4, progress=False)
        return net, history

    for at, steps in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2)):
        net, history = trained(at)
        assert history.interrupted
        # the same batches, in the same order, as many as were complete
        reference = bp.Network(
            [2, 3, 3, 1], [sine, sine, "linear"], backend=lab.backend, dtype="float64", rng=0
        )
        presses.update(at=None)
        order = reference.rng.permutation(12)
        plan = reference.plan(4, bp.SGD())
        for i in range(steps):
            chosen = lab.backend.asarray(order[4 * i : 4 * i + 4], "int64")
            plan.load(lab.backend.xp.take(X, chosen, axis=1), lab.backend.xp.take(Y, chosen, axis=1))
            plan.run()
        np.testing.assert_array_equal(lab.numpy(net.vector), lab.numpy(reference.vector))


@given(
    calls=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 14), st.booleans()), min_size=1, max_size=5
    ),
    optimizer=st.sampled_from(list(OPTIMIZERS.values())),
    l2=st.sampled_from([0.0, 0.1]),
)
@few
def test_passes_over_some_examples_go_on_from_each_other(lab, calls, optimizer, l2):
    """As one plan would whose batches they are: what the optimizer remembers is kept."""
    net, twin = (network(lab, dropout=0.3, l2=l2) for _ in range(2))
    state, schedule = (
        OptimizerState(optimizer, twin.parameters),
        schedules.resolve(optimizer.learning_rate),
    )
    for call, (N, batch_size, shuffle) in enumerate(calls):
        X, Y = data(N, seed=call)
        given_optimizer = optimizer if call in (0, 3) else None  # the same one again is no other
        found = net.partial_fit(
            lab.array(X),
            lab.array(Y),
            batch_size=batch_size,
            optimizer=given_optimizer,
            shuffle=shuffle,
        )
        m = min(batch_size, N)
        order = twin.rng.permutation(N) if shuffle and m < N else np.arange(N)
        cost, starts = 0.0, range(0, N, m)
        for step, i in enumerate(starts):
            chosen = order[i : i + m]
            plan = bp.Plan(twin, len(chosen), optimizer, state=state)
            plan.learning_rate = schedule.rate(call + step / len(starts))
            plan.load(lab.array(X[:, chosen]), lab.array(Y[:, chosen]))
            plan.run()
            cost += (plan.cost - twin.penalty.value(twin.parameters)) * len(chosen) / N
        last = twin.vector if optimizer.averaging is None else state.arrays["average"]
        lab.assert_close(net.vector, lab.numpy(last), 1e-12)
        assert found == pytest.approx(cost + net.penalty.value(net.parameters), rel=1e-10)


@looped("between", ["another optimizer", "fit", "a copy", "a pickle"])
def test_what_starts_anew(lab, between):
    X, Y = map(lab.array, data())
    optimizer = bp.SGD(0.1, momentum=0.9)
    net = network(lab)
    net.partial_fit(X, Y, batch_size=4, optimizer=optimizer)
    if between == "another optimizer":
        net.partial_fit(X, Y, batch_size=4, optimizer=bp.SGD(0.2, momentum=0.9))
    elif between == "fit":
        net.fit(X, Y, epochs=1, batch_size=4, progress=False)
    elif between == "a copy":
        net = copy.deepcopy(net)
    else:
        net = pickle.loads(pickle.dumps(net))
    twin = copy.deepcopy(net)
    for one in (net, twin):
        one.partial_fit(X, Y, batch_size=4, optimizer=optimizer)
    assert_same(lab, net, arrays(lab, twin))


@looped("how", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_of_a_network_under_training_trains_itself(lab, how):
    """And not the network that it is a copy of."""
    X, Y = map(lab.array, data())
    net = network(lab)
    net.partial_fit(X, Y, batch_size=4, optimizer=bp.Adam())
    twin = how(net)
    before = vector(lab, net)
    twin.partial_fit(X, Y, batch_size=4, optimizer=bp.Adam())
    np.testing.assert_array_equal(vector(lab, net), before)
    assert (vector(lab, twin) != before).any()
    # the first goes on with what its optimizer remembers
    again = network(lab)
    for one, calls in ((net, 1), (again, 2)):
        for _ in range(calls):
            one.partial_fit(X, Y, batch_size=4, shuffle=False, optimizer=bp.Adam())
    assert net.rng.bit_generator.state != again.rng.bit_generator.state
    assert net._training.epoch == again._training.epoch == 2


def test_a_first_pass_without_an_optimizer_is_of_sgd(lab):
    X, Y = map(lab.array, data())
    net, twin = network(lab), network(lab)
    costs = [net.partial_fit(X, Y) for _ in range(2)]
    assert costs == [twin.partial_fit(X, Y, optimizer=bp.SGD()) for _ in range(2)]
    assert_same(lab, net, arrays(lab, twin))


def test_on_a_plateau_of_the_costs_of_passes_the_rate_falls(lab):
    X, Y = map(lab.array, data())
    net, rates = network(lab), []
    plateau = bp.schedules.OnPlateau(0.5, factor=0.5, patience=1, min_delta=100)
    for _ in range(4):
        net.partial_fit(X, Y, optimizer=bp.SGD(plateau))
        rates.append(net._training.rate)
    assert rates == [0.5, 0.5, 0.25, 0.125]


def test_between_passes_the_network_has_the_average(lab):
    X, Y = map(lab.array, data(6))
    net, plain = network(lab), network(lab)
    seen = []
    for _ in range(3):
        plain.partial_fit(X, Y, optimizer=bp.SGD(0.3), shuffle=False)
        seen.append(vector(lab, plain))
        net.partial_fit(X, Y, optimizer=bp.SGD(0.3, averaging=0.999), shuffle=False)
        lab.assert_close(net.vector, np.mean(seen, axis=0), 1e-13)
    # parameters that someone sets are gone on from
    for one in (net, plain):
        one.vector[...] = 0.5
    plain.partial_fit(X, Y, optimizer=bp.SGD(0.3), shuffle=False)
    net.partial_fit(X, Y, shuffle=False)
    lab.assert_close(net.vector, vector(lab, plain), 1e-13)


@pytest.mark.usefixtures("called_once")
@looped("call", [1, 3, 4])
def test_ctrl_c_in_a_pass_is_raised_and_leaves_whole_steps(lab, call):
    X, Y = data(12)
    with interrupt_at(lab, call + 3) as σ:
        net = network(lab, activations=[σ, "sigmoid"])
        options = {"batch_size": 4, "optimizer": bp.Adam(0.1), "shuffle": False}
        net.partial_fit(lab.array(X), lab.array(Y), **options)
        if call < 4:
            with pytest.raises(KeyboardInterrupt):
                net.partial_fit(lab.array(X), lab.array(Y), **options)
        else:
            net.partial_fit(lab.array(X), lab.array(Y), **options)
    twin = network(lab, activations=[bp.Activation("own", *TANH), "sigmoid"])
    plan = twin.plan(4, bp.Adam(0.1))
    for step in range(3 + call - 1):
        i = 4 * (step % 3)
        plan.load(lab.array(X[:, i : i + 4]), lab.array(Y[:, i : i + 4]))
        plan.run()
    assert_same(lab, net, arrays(lab, twin))


def test_a_pass_whose_cost_is_not_finite_keeps_the_last_finite_parameters(lab):
    net = network(lab, activations="linear", dtype="float32")
    before = arrays(lab, net)
    X, Y = data()
    with pytest.raises(bp.NonFiniteCostError) as caught:
        net.partial_fit(lab.array(1e25 * X), lab.array(Y))
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert_same(lab, net, before)


@given(
    name=st.sampled_from(["momentum", "adam", "averaging", "schedule"]),
    position=st.integers(0, 10),
    batch_size=st.integers(1, 5),
    readback=st.sampled_from([1, 2, 256]),
    dropout=st.sampled_from([0.0, 0.05]),  # of more, a mask may leave out the whole layer
)
@few
def test_all_that_is_remembered_is_of_the_step_before(
    lab, name, position, batch_size, readback, dropout
):
    """Where a cost is not finite: parameters, the optimizer's state and the random numbers."""
    X, Y = data(11)
    X[:, position] = 1e200  # whose square is more than float64 holds
    net, twin = (network(lab, activations=["linear", "linear"], dropout=dropout) for _ in range(2))
    optimizer, seen = OPTIMIZERS[name], []

    class Start(bp.Callback):
        def start(self, training):
            seen.append(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_steps, "READBACK_STEPS", (readback, readback))
        with pytest.raises(bp.NonFiniteCostError) as caught:
            fit(
                lab,
                net,
                X,
                Y,
                batch_size=batch_size,
                shuffle=False,
                optimizer=optimizer,
                callbacks=[Start()],
            )
    last = position // batch_size
    assert (caught.value.epoch, caught.value.step) == (1, last + 1)
    state, schedule = (
        OptimizerState(optimizer, twin.parameters),
        schedules.resolve(optimizer.learning_rate),
    )
    for step in range(last):
        i = step * batch_size
        plan = bp.Plan(twin, batch_size, optimizer, state=state)
        plan.learning_rate = schedule.rate(step / -(-11 // batch_size))
        plan.load(lab.array(X[:, i : i + batch_size]), lab.array(Y[:, i : i + batch_size]))
        plan.run()
    for key, array in state.arrays.items():
        np.testing.assert_array_equal(lab.numpy(seen[0].runner.state.arrays[key]), lab.numpy(array), key)
    final = twin.vector if optimizer.averaging is None else state.arrays["average"]
    np.testing.assert_array_equal(vector(lab, net), lab.numpy(final))
    assert net.rng.bit_generator.state == twin.rng.bit_generator.state


def test_averaged_parameters_are_validated_and_interrupted_training_ends_with_them(lab):
    X, Y = data(8)
    pair = lab.array(X), lab.array(Y)
    seen = []

    class Press(bp.Callback):
        def steps(self, training, count):
            if training.epoch == 2:
                seen.append(np.array(lab.numpy(training.runner.state.arrays["average"])))
                raise KeyboardInterrupt

        def epoch(self, training):
            found = net.evaluate(*pair)["cost"]
            assert training.history.validation_cost[-1] == found
            average = training.runner.state.arrays["average"]
            np.testing.assert_array_equal(vector(lab, net), lab.numpy(average))
            assert (vector(lab, net) != lab.numpy(training.runner.raw_parameters)).any()

    net = network(lab)
    history = fit(
        lab,
        net,
        X,
        Y,
        epochs=9,
        validation=pair,
        optimizer=bp.SGD(0.3, averaging=0.9),
        callbacks=[Press()],
    )
    assert (history.interrupted, len(history.validation_cost)) == (True, 2)
    np.testing.assert_array_equal(vector(lab, net), seen[0])
