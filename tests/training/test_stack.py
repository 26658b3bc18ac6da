"""Stacks: every network of one is the same network trained alone."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import operator
import pickle
import sys

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ALONGSIDE, OPTIMIZERS, Case, cases, examples, looped, stored, targets

import bpengine as bp
from bpengine.model import files
from bpengine.model.packed_examples import PARTS

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}
per_network_parts = st.sets(st.sampled_from(PARTS))


def stack_of(lab, case, P, **options):
    """A stack, and its networks by themselves, all from the seeds 0 … P - 1."""
    shared = {
        "activations": case.activations,
        "cost": case.cost,
        "dtype": case.dtype,
        "backend": lab.backend,
    }
    entry = [
        {name: value[i] if isinstance(value, list) else value for name, value in options.items()}
        for i in range(P)
    ]
    alone = [bp.Network(case.sizes, rng=i, **shared, **entry[i]) for i in range(P)]
    if "dropout" in options:
        shares = options.pop("dropout")
        options["dropout"] = [0.0, *[shares] * (case.layers - 1)]
    return bp.Network(case.sizes, stack=P, rng=list(range(P)), **shared, **options), alone


def examples_of(case, P, per_network, m=None):
    """X, Y and weights, with a leading axis for those that each network is to have for itself."""
    m = case.batch if m is None else m
    parts = [one_batch(case, m, seed) for seed in range(P if per_network else 1)]
    found = []
    for i, part in enumerate(PARTS):
        values = [entry[i] for entry in parts]
        found.append(np.stack(values) if part in per_network else values[0])
    return found


def one_batch(case, m, seed):
    rng = np.random.default_rng([case.seed, seed])
    X = rng.standard_normal((case.sizes[0], m)).astype(case.dtype)
    Y = targets(rng, case.cost, case.sizes[-1], m, case.dtype)
    return X, Y, rng.random(m) + 0.5


def of(arrays, per_network, i):
    """What network i is given of the examples of a stack."""
    return [x[i] if part in per_network else x for part, x in zip(PARTS, arrays, strict=True)]


def assert_member(lab, net, alone, tolerance):
    for found, wanted in zip((*net.weights, *net.biases), (*alone.weights, *alone.biases), strict=True):
        lab.assert_close(found, lab.numpy(wanted), tolerance)


@given(
    case=cases(max_layers=3, dtypes=("float32", "float64")),
    P=st.integers(1, 4),
    per_network=per_network_parts,
)
@examples(40)
def test_gradients_and_outputs_are_those_of_each_network_alone(lab, case, P, per_network):
    nets, alone = stack_of(lab, case, P)
    arrays = examples_of(case, P, per_network)
    X, Y, weights = map(lab.array, arrays)
    gradient, outputs = nets.backprop(X, Y, weights), nets.feedforward(X)
    figures = nets.evaluate(X, Y, weights)
    tolerance = TOLERANCE[case.dtype]
    for i, one in enumerate(alone):
        x, y, w = map(lab.array, of(arrays, per_network, i))
        lab.assert_close(outputs[i, ...], lab.numpy(one.feedforward(x)), tolerance)
        expected = one.backprop(x, y, w)
        for found, wanted in zip(gradient.blocks, expected.blocks, strict=True):
            lab.assert_close(found[i, ...], lab.numpy(wanted), tolerance)
        assert gradient.cost[i] == pytest.approx(expected.cost, rel=tolerance)
        for name, value in one.evaluate(x, y, w).items():
            # one accuracy for all, since it is not defined where targets are not all classes
            assert name not in figures or figures[name][i] == pytest.approx(value, rel=tolerance)


@given(
    case=cases(max_layers=3, dtypes=("float64",)),
    P=st.integers(1, 4),
    per_network=per_network_parts,
    shuffle=st.sampled_from([False, "each"]),
    optimizer=st.sampled_from(OPTIMIZERS),
    dropout=st.sampled_from([0.0, 0.25]),
    penalty=st.sampled_from([{}, {"l2": 0.1}, {"l2": 0.1, "l1": 0.01}]),
)
@examples(25)
def test_training_is_that_of_each_network_alone(
    lab, case, P, per_network, shuffle, optimizer, dropout, penalty
):
    nets, alone = stack_of(lab, case, P, dropout=dropout, **penalty)
    arrays = examples_of(case, P, per_network, m=7)
    options = {"epochs": 3, "batch_size": 3, "optimizer": optimizer, "progress": False}
    X, Y, weights = map(lab.array, arrays)
    history = nets.fit(X, Y, sample_weight=weights, shuffle=shuffle, **options)
    for i, one in enumerate(alone):
        x, y, w = map(lab.array, of(arrays, per_network, i))
        expected = one.fit(x, y, sample_weight=w, shuffle=bool(shuffle), **options)
        assert_member(lab, nets[i], one, 1e-8)
        assert [cost[i] for cost in history.cost] == pytest.approx(expected.cost, rel=1e-8)


@looped(
    ("kind", "beside"),
    [
        *itertools.product(
            [bp.SGD, bp.Adam, bp.AdamW, bp.RMSprop, bp.Adagrad],
            [{}, *({name: value} for name, value in ALONGSIDE.items())],
        ),
        (bp.SGD, {"momentum": 0.5}),
    ],
)
def test_each_network_may_have_a_rate_and_strengths_of_its_own(lab, kind, beside):
    P = 3
    case = Case([3, 4, 2], ["tanh", "sigmoid"], "binary_cross_entropy", seed=3)
    rates = [0.1, 0.02, 0.3]
    dropout, l2, l1, scale = [0.0, 0.2, 0.4], [0.0, 0.1, 0.2], [0.01, 0.0, 0.0], [1.0, 0.5, 2.0]
    nets, alone = stack_of(lab, case, P, dropout=dropout, l2=l2, l1=l1, initial_scale=scale)
    whole, extra = beside, [beside] * P
    if "weight_decay" in beside:
        whole = beside | {"weight_decay": rates}
        extra = [beside | {"weight_decay": rate} for rate in rates]
    X, Y, _ = examples_of(case, P, (), m=7)
    options = {"epochs": 3, "batch_size": 3, "progress": False}
    history = nets.fit(
        lab.array(X), lab.array(Y), shuffle="each", optimizer=kind(rates, **whole), **options
    )
    for i, one in enumerate(alone):
        expected = one.fit(lab.array(X), lab.array(Y), optimizer=kind(rates[i], **extra[i]), **options)
        assert_member(lab, nets[i], one, 1e-9)
        assert [cost[i] for cost in history.cost] == pytest.approx(expected.cost)
        assert [rate[i] for rate in history.learning_rate] == expected.learning_rate


def small(lab, P=5, **options):
    return bp.Network(
        [2, 6, 2],
        activations=["tanh", "sigmoid"],
        cost="binary_cross_entropy",
        backend=lab.backend,
        dtype="float64",
        stack=P,
        rng=list(range(P)),
        **options,
    )


def single(lab, i, **options):
    return bp.Network(
        [2, 6, 2],
        activations=["tanh", "sigmoid"],
        cost="binary_cross_entropy",
        backend=lab.backend,
        dtype="float64",
        rng=i,
        **options,
    )


def rings(lab, m=60):
    X, labels = bp.datasets.circles(m, rng=0)
    return lab.array(X.astype("float64")), lab.array(labels)


RATES = [0.3, 1.0, 3.0, 10.0, 30.0]


@pytest.mark.parametrize("averaging", [None, 0.9])
def test_each_network_stops_for_itself(lab, averaging):
    X, labels = rings(lab)
    options = {"epochs": 40, "batch_size": 9, "validation": (X, labels), "progress": False}
    stop = bp.EarlyStopping(patience=3, min_delta=0.01)
    nets = small(lab)
    optimizer = bp.SGD(RATES, momentum=0.5, averaging=averaging)
    history = nets.fit(X, labels, shuffle="each", optimizer=optimizer, callbacks=[stop], **options)
    stops = set()
    for i, rate in enumerate(RATES):
        one, stop = single(lab, i), bp.EarlyStopping(patience=3, min_delta=0.01)
        optimizer = bp.SGD(rate, momentum=0.5, averaging=averaging)
        expected = one.fit(X, labels, optimizer=optimizer, callbacks=[stop], **options)
        count = len(expected.cost)
        stops.add(count)
        assert history.best_epoch[i] == expected.best_epoch
        assert_member(lab, nets[i], one, 1e-8)
        for name in ("cost", "validation_cost", "validation_accuracy"):
            found = [figures[i] for figures in getattr(history, name)]
            wanted = getattr(expected, name)
            assert found[:count] == pytest.approx(wanted, rel=1e-8)
            # one that has stopped keeps its last figures
            assert found[count:] == pytest.approx([wanted[-1]] * (len(found) - count), rel=1e-8)
    assert len(stops) > 2, "they stop one after the other"


def test_the_plan_shrinks_when_half_of_the_networks_have_stopped(lab):
    X, labels = rings(lab)
    sizes = []

    def stop_one(training):
        sizes.append(len(training.runner.model))
        training.stop_networks(training.epoch - 1)

    before = {}

    def remember(training):
        before[training.epoch] = np.array(lab.numpy(training.network.weights[0]))

    nets = small(lab, P=8)
    nets.fit(X, labels, epochs=9, callbacks=[stop_one, remember], progress=False)
    # 8, then 7 at the first stop, then half of those that are left
    assert sizes == [8, 7, 7, 7, 7, 3, 3, 1]
    for i in range(8):
        np.testing.assert_array_equal(lab.numpy(nets.weights[0])[i], before[i + 1][i])


@pytest.mark.parametrize(
    "per_network", [(), ("targets",), ("weights",), ("targets", "weights"), ("inputs",), PARTS]
)
@pytest.mark.parametrize("shuffle", [False, "each"])
def test_those_that_go_on_keep_their_own_examples(lab, per_network, shuffle):
    rng = np.random.default_rng(0)
    P, m = 5, 20
    arrays = [rng.standard_normal((P, 2, m)), rng.random((P, 2, m)), rng.random((P, m)) + 0.5]
    arrays = [x if part in per_network else x[0] for part, x in zip(PARTS, arrays, strict=True)]
    X, Y, weights = map(lab.array, arrays)
    options = {"batch_size": 6, "optimizer": bp.Adam(0.01), "progress": False}

    def stop_some(training):
        training.stop_networks([1, 2] if training.epoch == 2 else [0])

    nets = small(lab, P)
    nets.fit(X, Y, sample_weight=weights, epochs=4, shuffle=shuffle, callbacks=[stop_some], **options)
    for i, epochs in enumerate([1, 2, 2, 4, 4]):
        one = single(lab, i)
        x, y, w = map(lab.array, of(arrays, per_network, i))
        one.fit(x, y, sample_weight=w, epochs=epochs, shuffle=bool(shuffle), **options)
        assert_member(lab, nets[i], one, 1e-9)


def test_one_that_diverges_stops_and_the_others_go_on(lab):
    rng = np.random.default_rng(0)
    X, Y = lab.array(rng.standard_normal((2, 30))), lab.array(rng.standard_normal((1, 30)))
    options = {"epochs": 20, "batch_size": 7, "progress": False}
    shared = {"activations": "linear", "backend": lab.backend, "dtype": "float64"}
    rates = [0.01, 1e6, 0.02]
    nets = bp.Network([2, 3, 1], stack=3, rng=[0, 1, 2], **shared)
    with pytest.warns(RuntimeWarning, match="network 1 of the stack is no longer finite in epoch"):
        history = nets.fit(X, Y, shuffle="each", optimizer=bp.SGD(rates), **options)
    for i, rate in enumerate(rates):
        one = bp.Network([2, 3, 1], rng=i, **shared)
        if i == 1:
            with pytest.raises(bp.NonFiniteCostError):
                one.fit(X, Y, optimizer=bp.SGD(rate), **options)
        else:
            expected = one.fit(X, Y, optimizer=bp.SGD(rate), **options)
            assert [cost[i] for cost in history.cost] == pytest.approx(expected.cost)
        assert_member(lab, nets[i], one, 1e-9)
    assert np.isfinite(lab.numpy(nets.vector)).all()
    with pytest.raises(bp.NonFiniteCostError), pytest.warns(RuntimeWarning):
        nets.fit(X, Y, optimizer=bp.SGD([1e3, 1e6, 1e9]), **options)
    assert np.isfinite(lab.numpy(nets.vector)).all()


def test_a_member_is_a_network_that_shares_memory(lab):
    X, labels = rings(lab)
    nets = small(lab)
    one = nets[-1]
    assert not one.stack
    assert len(nets) == 5
    assert [net.sizes for net in nets] == [(2, 6, 2)] * 5
    one.biases[0] = one.biases[0] + 1.0
    np.testing.assert_array_equal(lab.numpy(nets.biases[0])[4], lab.numpy(one.biases[0]))
    np.testing.assert_array_equal(lab.numpy(nets.feedforward(X))[4], lab.numpy(one.feedforward(X)))
    assert bp.check_gradient(one, X, labels).passed
    alone = copy.deepcopy(one)
    options = {"epochs": 3, "optimizer": bp.Adam(0.01), "progress": False}
    before = np.array(lab.numpy(nets.vector))
    assert one.fit(X, labels, **options).cost == alone.fit(X, labels, **options).cost
    assert_member(lab, nets[4], alone, 0.0)
    changed = before != lab.numpy(nets.vector)
    count = sum(n * (fan_in + 1) for fan_in, n in itertools.pairwise(one.sizes))
    assert changed.sum() == count, "of its own parameters, and no others"
    with pytest.raises(ValueError, match=r"use nets\[i\].fit, or copy.deepcopy"):
        one.plan(4, bp.SGD())
    with pytest.raises(ValueError, match=r"fit, or copy"):
        one.partial_fit(X, labels)
    with pytest.raises(IndexError):
        nets[5]
    with pytest.raises(TypeError, match="one network, not a stack"):
        len(one)
    assert bool(one)


def test_a_member_stays_where_its_stack_is():
    nets = bp.Network([2, 3], stack=2)  # the first array is to decide the backend
    with pytest.raises(TypeError, match="this network's backend is 'numpy'"):
        nets[0].feedforward(array_api_strict.ones((2, 4)))
    nets.feedforward(array_api_strict.ones((2, 4)))
    assert nets[0].feedforward(array_api_strict.ones((2, 4))).shape == (3, 4)


def test_stacking_networks_that_are_there(lab):
    X, labels = rings(lab)
    networks = [single(lab, i, dropout=[0.0, i / 10], l2=i / 10) for i in range(3)]
    nets = bp.stack(networks)
    for i, net in enumerate(networks):
        assert (nets[i].dropout, nets[i].l2) == (net.dropout, net.l2)
    options = {"epochs": 3, "optimizer": bp.Adam(0.01), "progress": False}
    nets.fit(X, labels, shuffle="each", **options)
    for i, net in enumerate(networks):
        net.fit(X, labels, **options)
        assert_member(lab, nets[i], net, 1e-10)
    again = bp.stack(nets)
    np.testing.assert_array_equal(lab.numpy(again.vector), lab.numpy(nets.vector))
    with pytest.raises(ValueError, match="networks is empty"):
        bp.stack([])
    with pytest.raises(TypeError, match=r"networks\[1\] is a stack"):
        bp.stack([networks[0], nets])
    with pytest.raises(ValueError, match=r"networks\[1\] has sizes \(2, 3\)"):
        bp.stack([networks[0], bp.Network([2, 3], backend=lab.backend)])


def test_the_best_network(lab):
    X, labels = rings(lab)
    nets = small(lab)
    with pytest.raises(ValueError, match="no training has been run"):
        nets.best()
    history = nets.fit(X, labels, epochs=3, progress=False)
    assert_member(lab, nets.best(), nets[int(np.argmin(history.cost[-1]))], 0.0)
    with pytest.raises(ValueError, match=r"has no validation_cost: give fit\(validation"):
        nets.best("validation_cost")
    history = nets.fit(X, labels, epochs=3, validation=(X, labels), progress=False)
    most = int(np.argmax(history.validation_accuracy[-1]))
    assert_member(lab, nets.best("validation_accuracy"), nets[most], 0.0)
    assert_member(lab, nets.best(), nets[int(np.argmin(history.validation_cost[-1]))], 0.0)
    assert_member(lab, nets.best([0, 1, 5, 2, float("nan")]), nets[2], 0.0)
    evaluated = nets.best(lambda net: net.evaluate(X, labels)["accuracy"])
    assert_member(lab, evaluated, nets[int(np.argmax(nets.evaluate(X, labels)["accuracy"]))], 0.0)
    with pytest.raises(ValueError, match="expected 5 scores"):
        nets.best([1, 2])
    with pytest.raises(ValueError, match=r"unknown metric 'costs'.* Did you mean 'cost'"):
        nets.best("costs")


def test_what_the_networks_say_together(lab):
    X, _ = rings(lab)
    nets = small(lab)
    outputs = lab.numpy(nets.feedforward(X))
    mean, spread = nets.ensemble(X)
    lab.assert_close(mean, outputs.mean(axis=0), 1e-12)
    lab.assert_close(spread, outputs.std(axis=0), 1e-12)


def test_files_pickles_and_other_dtypes(lab, tmp_path):
    X, labels = rings(lab)
    nets = small(lab, dropout=[0.0, [0.0, 0.1, 0.2, 0.3, 0.4]], l2=[0.1, 0.2, 0.3, 0.4, 0.5])
    nets.save(tmp_path / "nets.npz")
    loaded = bp.load(tmp_path / "nets.npz", backend=lab.backend)
    for net in (loaded, pickle.loads(pickle.dumps(nets)), copy.deepcopy(nets)):
        np.testing.assert_array_equal(lab.numpy(net.vector), lab.numpy(nets.vector))
        assert (net.dropout, list(net.l2), net.stack) == (nets.dropout, list(nets.l2), (5,))
    twin = pickle.loads(pickle.dumps(nets))
    for net in (nets, twin):
        net.fit(X, labels, epochs=2, progress=False)
    np.testing.assert_array_equal(lab.numpy(twin.vector), lab.numpy(nets.vector))
    single_precision = nets.astype("float32")
    assert (single_precision.dtype, single_precision.stack) == ("float32", (5,))
    lab.assert_close(single_precision.vector, lab.numpy(nets.vector), 1e-6)


@pytest.mark.parametrize("shuffle", [True, "each"])
@pytest.mark.parametrize("optimizer", [bp.Adam(0.05), bp.SGD(RATES, momentum=0.5, averaging=0.9)])
def test_a_training_of_which_some_have_stopped_is_resumed_bit_for_bit(lab, tmp_path, shuffle, optimizer):
    X, labels = rings(lab)
    path = tmp_path / "run.npz"
    options = {"validation": (X, labels), "optimizer": optimizer, "shuffle": shuffle, "progress": False}

    def stop_one(training):
        if training.epoch in (2, 4):
            training.stop_networks(training.epoch)

    def callbacks():
        return [stop_one, bp.EarlyStopping(patience=30), bp.Checkpoint(path)]

    whole = small(lab, dropout=0.2)
    expected = whole.fit(X, labels, epochs=6, callbacks=callbacks(), **options)
    for stop in range(1, 6):
        path.unlink(missing_ok=True)
        for epochs in (stop, 6):
            nets = small(lab, dropout=0.2)
            history = nets.fit(X, labels, epochs=epochs, callbacks=callbacks(), resume=path, **options)
        np.testing.assert_array_equal(lab.numpy(nets.vector), lab.numpy(whole.vector))
        np.testing.assert_array_equal(history.cost, expected.cost)
        np.testing.assert_array_equal(history.validation_cost, expected.validation_cost)


def test_logs_and_statistics(lab, tmp_path):
    X, labels = rings(lab)
    nets = small(lab, P=2)
    callbacks = [bp.CSVLog(tmp_path / "log.csv"), bp.JSONLinesLog(tmp_path / "log.jsonl")]
    history = nets.fit(X, labels, epochs=2, callbacks=callbacks, monitor="epoch", progress=True)
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,cost[0],cost[1],")
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    found = history.monitored[0]
    for i in range(2):
        one = single(lab, i).fit(X, labels, epochs=1, shuffle=False, monitor=1, progress=False)
        # weights before the first step do not depend on the order of the examples
        for layer, norms in enumerate(found.weight_norms):
            assert norms[i] == pytest.approx(one.monitored[0].weight_norms[layer])
    values = json.loads(json.dumps(history.as_dict()))
    assert values["cost"] == [cost.tolist() for cost in history.cost]
    assert bp.History.from_dict(values).as_dict() == values


def test_plans_and_partial_fit(lab):
    X, labels = rings(lab, m=8)
    nets = small(lab, P=3)
    plan = nets.plan(8, bp.SGD([0.1, 0.2, 0.3]))
    plan.load(X, labels)
    costs = plan.run(steps=3).cost
    assert costs.shape == (3,)
    assert plan.counts["matmul"] == 5
    assert "stack of 3" in str(plan)
    plan.learning_rate = [0.0, 0.0, 0.5]
    before = np.array(lab.numpy(nets.weights[0]))
    plan.run()
    changed_networks = (lab.numpy(nets.weights[0]) != before).any(axis=(1, 2))
    assert changed_networks.tolist() == [False, False, True]
    with pytest.raises(ValueError, match="learning_rate has 1 values; this plan takes 3"):
        plan.learning_rate = 0.5
    entry = lab.array(np.stack([lab.numpy(X)] * 3))
    with pytest.raises(
        ValueError, match=r"the inputs are those of 3 networks.*per_network=\['inputs'\]"
    ):
        plan.load(entry, labels)
    per_network = nets.plan(8, per_network=["inputs"])
    per_network.load(X, labels)
    first = per_network.run().cost
    per_network.load(entry, labels)
    np.testing.assert_array_equal(per_network.run().cost, first)
    twin = copy.deepcopy(nets)
    for _ in range(2):
        cost = nets.partial_fit(X, labels, batch_size=8, shuffle=False, optimizer=bp.Adam(0.1))
    twin.fit(X, labels, epochs=2, batch_size=8, shuffle=False, optimizer=bp.Adam(0.1), progress=False)
    np.testing.assert_array_equal(lab.numpy(nets.vector), lab.numpy(twin.vector))
    np.testing.assert_array_equal(cost, twin.history.cost[-1])


def test_streams_and_class_weights(lab):
    X, labels = rings(lab, m=12)
    host_x, host_y = lab.numpy(X), lab.numpy(labels)
    nets, twin = small(lab, P=3), small(lab, P=3)
    batches = [(lab.array(host_x[:, i : i + 4]), lab.array(host_y[i : i + 4])) for i in (0, 4, 8)]
    nets.fit(batches, epochs=2, progress=False)
    twin.fit(X, labels, epochs=2, batch_size=4, shuffle=False, progress=False)
    lab.assert_close(nets.vector, lab.numpy(twin.vector), 1e-12)
    entry = lab.array(np.stack([host_x] * 3))
    with pytest.raises(ValueError, match="share the batches of an iterable"):
        nets.fit([(entry, labels)], progress=False)
    per_network = lab.array(np.stack([host_y, 1 - host_y, host_y]))
    nets.fit(
        X, per_network, class_weight={0: 2.0}, epochs=1, batch_size=4, shuffle="each", progress=False
    )


def refusals(lab):
    X, labels = rings(lab, m=8)
    nets = small(lab, P=3)
    host = lab.numpy(X)
    three = {"stack": 3, "backend": lab.backend}
    return [
        (lambda: bp.Network([2, 2], stack=0), "stack must be 1 or more"),
        (lambda: bp.Network([2, 2], rng=[1, 2], **three), "rng has 2 values; this is a stack of 3"),
        (lambda: bp.Network([2, 2], l2=[1, 2], **three), "l2 has 2 values; this is a stack of 3"),
        (lambda: bp.Network([2, 2], l2=[1, 2]), "l2 has 2 values; this is one network"),
        (lambda: bp.Network([2, 2], l1=[1, -2, 3], **three), r"l1\[1\] must be 0 or more"),
        (lambda: bp.Network([2, 3, 2], dropout=[0, [0.1]], **three), r"dropout\[1\] has 1 values"),
        (lambda: nets.plan(4, bp.SGD([1, 2])), "learning_rate has 2 values; this is a stack of 3"),
        (lambda: single(lab, 0).plan(4, bp.SGD([1, 2])), "learning_rate has 2 values; this is one"),
        (lambda: nets.plan(4, bp.AdamW(weight_decay=[1, 2])), "weight_decay has 2 values"),
        (lambda: bp.SGD([0.1, 0.0]), r"learning_rate\[1\] must be above 0"),
        (
            lambda: nets.plan(4, per_network=["input"]),
            "unknown per_network 'input'. Did you mean 'inputs'",
        ),
        (lambda: single(lab, 0).plan(4, per_network=["inputs"]), "is for stacks; this is one network"),
        (
            lambda: nets.feedforward(lab.array(np.stack([host] * 2))),
            r"or \(3, 2, m\), with per-network inputs",
        ),
        (
            lambda: nets.backprop(X, lab.array(np.ones((2, 2, 8)))),
            r"Per-network targets have shape \(3, 2, 8\)",
        ),
        (lambda: nets.backprop(X, labels, np.ones((2, 8))), r"expected \(8,\).* or \(3, 8\)"),
        (lambda: nets.backprop(X, labels, per_example="norms"), "per_example is for one network"),
        (lambda: nets.plan(4, per_example="norms"), "per_example is for one network"),
        (lambda: bp.check_gradient(nets, X, labels), r"use nets\[i\]"),
        (lambda: bp.input_gradients(nets, X, labels), r"use nets\[i\]"),
        (lambda: bp.jacobians(nets, X), r"use nets\[i\]"),
        (lambda: bp.per_example_gradients(nets, X, labels), r"use nets\[i\]"),
        (lambda: bp.Curvature(nets, X, labels), r"use nets\[i\]"),
        (lambda: nets.fit(X, labels, optimizer=bp.LBFGS()), "LBFGS is for one network"),
        (lambda: nets.fit(X, labels, optimizer=bp.DPSGD(1.0, 1.0, 1.0)), "DPSGD is for one network"),
        (lambda: nets.fit(X, labels, batch_size=4, shuffle="all"), "shuffle must be a whole number"),
        (lambda: nets.fit([(X, labels)], shuffle="each"), "shuffle='each' needs X and Y as arrays"),
        (
            lambda: nets.fit(X, lab.array(np.ones((2, 8), int))),
            r"per-network labels have shape \(3, 8\), and targets",
        ),
        (
            lambda: nets.fit(X, lab.array(np.ones((4, 8)))),
            r"Per-network targets have shape \(3, 2, 8\), labels \(3, 8\)",
        ),
        (lambda: nets[0:2], "index i .* must be a whole number"),
        (lambda: nets[0].ensemble(X), "ensemble is for a stack of networks"),
        (lambda: nets[0].best(lambda net: 1.0), "best is for a stack of networks"),
        (lambda: single(lab, 0).fit(X, labels, batch_size=4, shuffle="each"), "is for a stack"),
    ]


def test_what_does_not_fit_raises(lab):
    for call, message in refusals(lab):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


def test_figures_on_validation_data_of_each_networks_own(lab):
    rng = np.random.default_rng(0)
    P, m = 4, 12
    X, Y, weights = rng.standard_normal((P, 2, m)), rng.random((P, 2, m)), rng.random((P, m)) + 0.5

    def stop_some(training):
        training.stop_networks([0] if training.epoch == 1 else [2, 3])

    for per_network in (("inputs",), ("targets",), ("weights",), PARTS):
        held = [
            x if part in per_network else x[0] for part, x in zip(PARTS, (X, Y, weights), strict=True)
        ]
        held = tuple(map(lab.array, held[:2])) + tuple(held[2:])
        nets = small(lab, P)
        history = nets.fit(
            lab.array(X[0]),
            lab.array(Y[0]),
            epochs=3,
            batch_size=5,
            validation=held,
            callbacks=[stop_some],
            progress=False,
        )
        np.testing.assert_allclose(history.validation_cost[-1], nets.evaluate(*held)["cost"], rtol=1e-12)


def test_partial_fit_with_other_examples_and_after_some_have_stopped(lab):
    X, labels = rings(lab, m=8)
    host = lab.numpy(X)
    entry = lab.array(np.stack([host] * 3))
    nets, twin = small(lab, P=3), small(lab, P=3)
    options = {"batch_size": 8, "shuffle": False, "optimizer": bp.Adam(0.1)}
    for net, second in ((nets, entry), (twin, X)):
        net.partial_fit(X, labels, **options)
        net.partial_fit(second, labels, **options)
    lab.assert_close(nets.vector, lab.numpy(twin.vector), 1e-12)
    nets._training.stop_networks([1])
    before = np.array(lab.numpy(nets.weights[0]))
    for x in (X, entry):
        cost = nets.partial_fit(x, labels, **options)
        assert cost.shape == (3,)
    changed_networks = (lab.numpy(nets.weights[0]) != before).any(axis=(1, 2))
    assert changed_networks.tolist() == [True, False, True]
    nets._training.stop_networks([0, 2])
    with pytest.raises(ValueError, match="all networks of the stack have stopped"):
        nets.partial_fit(X, labels, **options)


@pytest.mark.parametrize("averaging", [None, 0.5])
def test_parameters_that_a_callback_sets_are_gone_on_from(lab, averaging):
    X, labels = rings(lab, m=8)
    seen = []

    def set_parameters(training):
        if training.epoch == 1:
            training.stop_networks([0])
        if training.epoch == 3:
            training.network.weights[0][...] = 5.0
        seen.append(np.array(lab.numpy(training.network.weights[0])))

    optimizer = bp.SGD(1e-12, averaging=averaging)
    small(lab, 3).fit(
        X,
        labels,
        batch_size=8,
        epochs=5,
        optimizer=optimizer,
        callbacks=[set_parameters],
        progress=False,
    )
    np.testing.assert_allclose(seen[-1], 5.0, rtol=1e-9)


@pytest.mark.parametrize("frozen", [[], [0]])
def test_parameters_set_in_one_network_leave_the_steps_of_the_others(lab, frozen):
    X, labels = rings(lab, m=12)

    def run(network, one, averaging):
        """The vectors after each epoch, of a step; `one` gives a network whose weights are set in it."""
        seen = []

        def look(training):
            networks = training.network if training.network.stack else [training.network]
            seen.append([np.array(lab.numpy(net.vector)) for net in networks])
            if training.epoch == 1 and frozen and training.network.stack:
                training.stop_networks(frozen)
            if training.epoch == 2 and one is not None:
                one(training.network).weights[0] = lab.array(np.full((6, 2), 0.25))

        optimizer = bp.SGD(0.5, momentum=0.5, averaging=averaging)
        options = {"batch_size": 12, "shuffle": False, "callbacks": [look], "progress": False}
        network.fit(X, labels, epochs=4, optimizer=optimizer, **options)
        return seen

    stack = run(small(lab, 3), lambda nets: nets[1], 0.999)
    alone = run(single(lab, 1), lambda net: net, 0.999)
    steps = np.array(run(single(lab, 2), None, None))[:, 0]
    for epoch in range(4):
        np.testing.assert_allclose(stack[epoch][1], alone[epoch][0], rtol=1e-9)
    # the average of all begins anew where that of one does
    np.testing.assert_allclose(stack[1][2], steps[:2].mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stack[3][2], steps[2:].mean(axis=0), rtol=1e-9)


def test_ctrl_c_in_an_epoch_after_some_have_stopped(lab):
    X, labels = rings(lab)
    stored = {}

    class Interrupting(bp.Callback):
        def epoch(self, training):
            if training.epoch == 1:
                training.stop_networks([1])
                stored[1] = np.array(lab.numpy(training.network.weights[0])[1])

        def steps(self, training, count):
            if training.epoch == 2:
                raise KeyboardInterrupt

    nets = small(lab, 3)
    history = nets.fit(X, labels, batch_size=7, epochs=5, callbacks=[Interrupting()], progress=False)
    assert (history.interrupted, len(history.cost)) == (True, 2)
    np.testing.assert_array_equal(lab.numpy(nets.weights[0])[1], stored[1])
    assert np.isfinite(lab.numpy(nets.vector)).all()


def interrupted_copy(lab, at=None):
    """Ctrl-C at a line that copies set parameters: the network, those from before, lines run."""
    seen, lines, done = [], [], []

    def trace(frame, event, argument):
        if frame.f_code.co_name not in ("_copy_from_stack", "_write"):
            return trace
        if event == "return" and frame.f_code.co_name == "_copy_from_stack":
            done.append(True)
        if event == "line" and not done:
            lines.append(frame.f_lineno)
            if len(lines) == at:
                raise KeyboardInterrupt
        return trace

    def set_parameters(training):
        if training.epoch == 1:
            training.stop_networks([1])
        elif training.epoch == 2:
            seen.append(np.array(lab.numpy(training.network.vector)))
            training.network.vector[...] = 0.25
            sys.settrace(trace)

    nets, before = small(lab, 3), sys.gettrace()
    try:
        nets.fit(*rings(lab), batch_size=12, epochs=3, callbacks=[set_parameters], progress=False)
    finally:
        sys.settrace(before)
    return nets, seen[0], lines


def test_ctrl_c_leaves_whole_networks_of_parameters_that_callbacks_have_set(lab):
    if lab.name != "numpy":
        return  # these lines are the same for all, and tracing is slow
    lines = interrupted_copy(lab)[2]
    assert len(lines) > 10
    for at in range(1, len(lines) + 1):
        nets, before, _ = interrupted_copy(lab, at)
        for p in (0, 2):
            found = [lab.numpy(block)[p] for block in nets.parameters.blocks]
            old = [block[p] for block in nets.parameters.split(before)]
            assert all((x == 0.25).all() for x in found) or all(map(np.array_equal, found, old)), at


def test_a_schedule_that_watches_goes_by_the_mean_cost(lab):
    X, labels = rings(lab)
    nets = small(lab, 3)
    schedule = bp.schedules.OnPlateau(0.5, factor=0.5, patience=1, min_delta=1e9)
    history = nets.fit(X, labels, epochs=4, optimizer=bp.SGD(schedule), progress=False)
    assert history.learning_rate == [0.5, 0.5, 0.25, 0.125]


def test_a_checkpoint_of_another_stack_is_refused(lab, tmp_path):
    X, labels = rings(lab)
    path = tmp_path / "run.npz"
    small(lab, 4).fit(X, labels, epochs=1, callbacks=[bp.Checkpoint(path)], progress=False)
    with pytest.raises(ValueError, match="the file's network has stack 4, this one 3"):
        small(lab, 3).fit(X, labels, epochs=2, resume=path, progress=False)


def test_no_value_of_a_stack_s_checkpoint_is_believed(lab, tmp_path):
    X, labels = rings(lab)
    path, stop = tmp_path / "run.npz", bp.EarlyStopping()
    small(lab, 3).fit(
        X, labels, epochs=2, callbacks=[bp.Checkpoint(path), stop], monitor="epoch", progress=False
    )
    before, content = copy.deepcopy(vars(stop)), path.read_bytes()
    cases = {
        ("callbacks", 0, 1, "best"): ([0.5, 0.5], 0.5, [[0.5] * 3], [0.5, 0.5, float("nan")]),
        ("callbacks", 0, 1, "best_epoch"): ([1, 1], 1, [1, 1, 3], [1.0, 1.0, 1.5]),
        ("callbacks", 0, 1, "waited"): ([0, 0, -1], 0),
        ("history", "cost"): ([[0.5] * 3, [0.5] * 2], [0.5, 0.5], [[0.5] * 3, 0.5]),
        ("history", "monitored", 0, "cost"): (0.5, [0.5] * 2),
        ("history", "monitored", 0, "weight_norms"): ([], [[0.5] * 3], [0.5, 0.5]),
        ("networks", "random"): ([], [None] * 3),
        ("networks", "running"): ([True] * 2, [1, 1, 1], True, [False] * 3),
        ("networks", "active"): ([0, 1], [0, 1, 3], [0, 1, 1], [2, 1, 0], [0, 1, 2.0], [], [-1, 0, 1]),
    }
    nets = small(lab, 3)
    vector = lab.numpy(nets.vector).copy()
    for (*keys, last), values in cases.items():
        for value in values:
            path.write_bytes(content)
            description, held = stored(path)
            functools.reduce(operator.getitem, keys, description["training"])[last] = value
            files.write(path, description, held)
            with pytest.raises(ValueError, match="no checkpoint to resume from"):
                nets.fit(X, labels, epochs=3, callbacks=[stop], resume=path, progress=False)
                pytest.fail(f"{keys} {last}: {value}")
    np.testing.assert_array_equal(lab.numpy(nets.vector), vector)
    assert vars(stop).keys() == before.keys()
    np.testing.assert_equal(stop._best.epoch, before["_best"].epoch)


def test_clipping_of_single_examples_is_not_that_of_a_stack(lab):
    X, labels = rings(lab)
    one = single(lab, 0)
    clipped = one.backprop(X, labels, per_example="clip", max_norm=1e9)
    lab.assert_close(clipped.vector, lab.numpy(one.backprop(X, labels).vector), 1e-9)


def test_each_network_keeps_its_rate_when_others_stop_one_after_the_other(lab):
    """Rates, momentum and weight decay of those that go on are theirs after a second stop too."""
    X, Y = map(lab.array, examples_of(Case([3, 5, 2], ["tanh"] * 2, "quadratic", batch=6), 1, ())[:2])
    rates, decay, epochs = [0.1, 0.3, 0.2, 0.5], [0.0, 0.1, 0.02, 0.05], [1, 4, 2, 3]

    def stop(training):
        training.stop_networks([p for p, last in enumerate(epochs) if last == training.epoch])

    options = {"batch_size": 2, "shuffle": False, "progress": False}
    common = [3, 5, 2], "tanh", "quadratic", lab.backend, "float64"
    nets = bp.Network(*common, stack=4, rng=[3, 4, 5, 6])
    rule = bp.SGD(rates, momentum=0.9, weight_decay=decay)
    nets.fit(X, Y, epochs=4, optimizer=rule, callbacks=[stop], **options)
    for p, net in enumerate(nets):
        alone = bp.Network(*common, rng=3 + p)
        rule = bp.SGD(rates[p], momentum=0.9, weight_decay=decay[p])
        alone.fit(X, Y, epochs=epochs[p], optimizer=rule, **options)
        lab.assert_close(net.vector, lab.numpy(alone.vector), 1e-12)
