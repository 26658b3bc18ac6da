"""What is monitored: the right figures of the right steps, and nothing else is changed by looking."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, columns, examples, flat, looped, sigma
from trainings import assert_alike, batches, data, fit, in_steps, network, optimizers, uncompiled

import bpengine as bp
from bpengine.model.activations import ACTIVATIONS

every = st.integers(1, 12) | st.just("epoch")


def is_due(every, number, step):
    """Whether a step is monitored: the one of this number among all, and within its epoch."""
    return step == 0 if every == "epoch" else number % every == 0


def ends(layer):
    """The range of an activation or of each of a layer's neurons, as two columns."""
    names = [layer] if isinstance(layer, str) else layer
    return tuple(np.array([[ACTIVATIONS[name].range[i]] for name in names]) for i in (0, 1))


def by_hand(case, lab, net, X, Y, weights):
    """Figures of a batch, one example after the other in NumPy; gradients by `Network.backprop`."""
    saturated, means, x = [], [], X
    for w, b, layer in zip(net.weights, net.biases, case.activations, strict=True):
        x = columns(sigma(layer)[0], lab.numpy(w) @ x + lab.numpy(b))
        low, high = ends(layer)
        with np.errstate(invalid="ignore"):
            margin = np.where(np.isfinite(high - low), (high - low) / 100, 0.01)
        saturated.append(((x < low + margin) | (x > high - margin)).mean())
        means.append(np.abs(x).mean())
    gradient = net.backprop(lab.array(X), lab.array(Y), *map(lab.array, weights))
    return {
        "cost": gradient.cost,
        "gradient_norms": [
            np.linalg.norm(flat(pair, lab))
            for pair in zip(gradient.weights, gradient.biases, strict=True)
        ],
        "weight_norms": [np.linalg.norm(lab.numpy(w)) for w in net.weights],
        "saturated": saturated,
        "mean_activations": means,
    }


@given(
    case=cases(max_layers=3, max_batch=12),
    batch_size=st.integers(1, 5),
    every=every,
    weighted=st.booleans(),
    l2=st.sampled_from([0.0, 0.1]),
)
@examples(25)
def test_figures_are_those_of_the_step_before_its_update(lab, case, batch_size, every, weighted, l2):
    (X, Y), N = case.host_data(), case.batch
    m = min(batch_size, N)
    weights = np.random.default_rng(case.seed).random(N) + 0.1
    weights = weights / weights.mean() if weighted else None
    net, twin = case.network(lab), case.network(lab)
    net.l2 = twin.l2 = l2
    optimizer = bp.SGD(1e-3)
    history = fit(
        lab,
        net,
        X,
        Y,
        epochs=2,
        batch_size=m,
        shuffle=False,
        optimizer=optimizer,
        monitor=every,
        sample_weight=weights,
    )
    found = iter(history.monitored)
    steps = itertools.product((1, 2), enumerate(range(0, N, m)))
    for number, (epoch, (step, i)) in enumerate(steps):
        x, y = X[:, i : i + m], Y[:, i : i + m]
        part = [] if weights is None else [weights[i : i + m]]
        if is_due(every, number, step):
            statistics = next(found)
            assert (statistics.epoch, statistics.step) == (epoch, step + 1)
            # relative to all examples: the batch's own mean is a factor
            factor = part[0].mean() if part else 1.0
            expected = by_hand(case, lab, twin, x, y, part)
            if part:
                penalty = twin.penalty.value(twin.parameters)
                expected["cost"] = (expected["cost"] - penalty) * factor + penalty
            if part and l2:
                del expected["gradient_norms"]
            elif part:
                expected["gradient_norms"] = [factor * norm for norm in expected["gradient_norms"]]
            for name, values in expected.items():
                np.testing.assert_allclose(
                    getattr(statistics, name), values, rtol=1e-9, atol=1e-12, err_msg=name
                )
        plan = bp.Plan(twin, x.shape[1], optimizer, weighted=True)
        plan.load(lab.array(x), lab.array(y))
        plan.workspace.weights[...] = lab.array(part[0][None] if part else np.ones((1, x.shape[1])))
        plan.run()
    assert next(found, None) is None


@looped("dtype", ["float32", "float64"])
def test_norms_too_small_or_large_for_squares_of_float32(lab, dtype):
    net = network(lab, (1, 1), activations="linear", dtype=dtype)
    net.weights[0][...], net.biases[0][...] = 1e25, 0.0
    X = np.array([[1e-25]])
    [statistics] = fit(
        lab, net, X, X * 0 + 1 - 1e-3, epochs=1, batch_size=1, monitor=1, optimizer=bp.SGD(1e-9)
    ).monitored
    np.testing.assert_allclose(statistics.weight_norms, [1e25], rtol=1e-6)
    np.testing.assert_allclose(statistics.gradient_norms, [1e-3], rtol=1e-3)
    net.weights[0][...], net.biases[0][...] = 1e-25, 0.0
    Y = np.array([[-1e-25]])
    [statistics] = fit(
        lab, net, X * 0, Y, epochs=1, batch_size=1, monitor=1, optimizer=bp.SGD(1e-9)
    ).monitored
    np.testing.assert_allclose(statistics.gradient_norms, [1e-25], rtol=1e-6)


SATURATED = {
    # inside by a hair and outside by one; ranges (0, 1), (-1, 1), [0, ∞), (-∞, ∞)
    "sigmoid": ([0.0099, 0.0101, 0.5, 0.9899, 0.9901], 2 / 5),
    "tanh": ([-0.981, -0.979, 0.0, 0.979, 0.981], 2 / 5),
    "relu": ([-3.0, 0.0, 0.0099, 0.0101, 100.0], 3 / 5),
    "linear": ([-1e9, -1.0, 0.0, 1.0, 1e9], 0.0),
}
INVERSE = {"sigmoid": lambda a: np.log(a / (1 - a)), "tanh": np.arctanh}


@looped("name", SATURATED)
@looped("among", [False, True])
def test_saturated_is_within_a_hundredth_of_an_end(lab, name, among):
    values, share = SATURATED[name]
    z = np.array([INVERSE.get(name, np.array)(np.array(values))])
    net = network(lab, (1, 2), activations=[[name, "linear"]] if among else [name])
    net.weights[0][...], net.biases[0][...] = 1.0, 0.0
    [statistics] = fit(
        lab, net, z, np.zeros((2, 5)), epochs=1, batch_size=5, monitor="epoch", optimizer=bp.SGD(1e-9)
    ).monitored
    assert statistics.saturated == pytest.approx((share / 2 if among else share,))


@given(
    N=st.integers(1, 30),
    batch_size=st.integers(1, 8),
    epochs=st.integers(1, 4),
    every=every,
    optimizer=optimizers,
    dropout=st.sampled_from([0.0, 0.4]),
    source=st.sampled_from(["shuffled", "in order", "windows", "batches"]),
    readback=st.sampled_from([1, 3, 256]),
)
@examples(40)
def test_looking_changes_nothing_and_comes_at_the_right_steps(
    lab, N, batch_size, epochs, every, optimizer, dropout, source, readback
):
    X, Y = data(N)
    m = min(batch_size, N)
    stop = {"patience": 2, "min_delta": 1e-3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpengine.training.steps.READBACK_STEPS", (readback, readback))
        nets, histories = [], []
        for monitor in (None, every):
            net = network(lab, dropout=dropout)
            options = {"epochs": epochs, "optimizer": optimizer, "monitor": monitor}
            options["callbacks"] = [bp.EarlyStopping(**stop)]
            if source == "batches":
                stream = [tuple(lab.array(x[:, i : i + m]) for x in (X, Y)) for i in range(0, N, m)]
                histories.append(net.fit(stream, progress=False, **options))
            else:
                shuffle = {"shuffled": True, "in order": False, "windows": 4}[source]
                options |= {"batch_size": m, "shuffle": shuffle, "validation": None}
                histories.append(fit(lab, net, X, Y, **options))
            nets.append(net)
    assert_alike(lab, *nets)
    plain, monitored = map(in_steps, histories)
    assert plain.pop("monitored") == []
    found = [(entry["epoch"], entry["step"]) for entry in monitored.pop("monitored")]
    assert plain == monitored
    steps = -(-N // m)
    every_step = itertools.product(range(len(plain["cost"])), range(steps))
    assert found == [
        (epoch + 1, step + 1)
        for number, (epoch, step) in enumerate(every_step)
        if is_due(every, number, step)
    ]


@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), every=every)
@examples(25)
def test_steps_are_equally_far_apart_when_epochs_differ_in_length(lab, lengths, every):
    class Changing:
        """As many batches as the epoch has."""

        def __init__(self):
            self.epochs = iter(lengths)

        def __iter__(self):
            X, Y = (lab.array(x) for x in data(2))
            return iter([(X, Y)] * next(self.epochs))

    history = network(lab).fit(Changing(), epochs=len(lengths), monitor=every, progress=False)
    steps = [(epoch, step) for epoch, length in enumerate(lengths) for step in range(length)]
    assert [(found.epoch, found.step) for found in history.monitored] == [
        (epoch + 1, step + 1)
        for number, (epoch, step) in enumerate(steps)
        if is_due(every, number, step)
    ]


@pytest.mark.usefixtures("called_once")
@given(
    every=st.none() | every,
    N=st.integers(1, 40),
    batch_size=st.integers(1, 8),
    readback=st.sampled_from([2, 256]),
)
@examples(25)
def test_other_steps_do_no_more_work(lab, every, N, batch_size, readback):
    """A look is one pass forward and one backward of its own; the other steps are as without it."""
    passes = {"forward": 0, "backward": 0}

    def tanh(z):
        lab.each_time(z)
        passes["forward"] += 1
        return array_namespace(z).tanh(z)

    def slope(a):
        lab.each_time(a)
        passes["backward"] += 1
        return 1 - a * a

    m = min(batch_size, N)
    σ = bp.Activation("counted", uncompiled(tanh), uncompiled(slope), "a")
    net = network(lab, activations=[σ, "sigmoid"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpengine.training.steps.READBACK_STEPS", (readback, readback))
        history = fit(lab, net, *data(N), epochs=3, batch_size=m, monitor=every)
    steps = 3 * -(-N // m)
    looks = {None: 0, "epoch": 3}.get(every) if not isinstance(every, int) else -(-steps // every)
    assert len(history.monitored) == looks
    assert passes == {"forward": steps + looks, "backward": steps + looks}


@pytest.mark.parametrize("monitor", [None, 7])
def test_a_step_is_the_same_calls_with_monitoring_and_without(lab, monkeypatch, monitor):
    """What is replayed for a step is counted, and is the plan of `Network.plan`."""
    recorded, counts = bp.Network((3, 4, 2), backend=lab.backend).plan(4, bp.SGD()), []

    class Noted(bp.Plan):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            counts.append((self.batch_size, self.counts, len(self.program.calls)))

    monkeypatch.setattr("bpengine.training.steps.Plan", Noted)
    fit(lab, network(lab, dtype="float32"), *data(40), monitor=monitor, optimizer=bp.SGD())
    assert counts == [(4, recorded.counts, len(recorded.program.calls))]


@looped(
    ("monitor", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("step", TypeError), (True, None)],
)
def test_what_to_monitor_is_a_number_of_steps_or_epoch(lab, monitor, error):
    if error is None:
        history = fit(lab, network(lab), *data(8), epochs=1, monitor=monitor)
        assert len(history.monitored) == 2
        return
    with pytest.raises(error, match="monitor"):
        fit(lab, network(lab), *data(8), monitor=monitor)


def test_a_monitored_step_is_shown_without_dropout(lab):
    case = Case([3, 5, 2], ["tanh", "sigmoid"], "quadratic", batch=6, seed=3)
    X, Y = case.host_data()
    net, twin = case.network(lab), case.network(lab)
    net.dropout = (0.5, 0.5)
    [statistics] = fit(lab, net, X, Y, epochs=1, batch_size=6, monitor="epoch").monitored
    [order] = batches(twin.rng, 6, 6)
    expected = by_hand(case, lab, twin, X[:, order], Y[:, order], [])
    np.testing.assert_allclose(statistics.mean_activations, expected["mean_activations"], rtol=1e-12)
    np.testing.assert_allclose(statistics.cost, expected["cost"], rtol=1e-12)
