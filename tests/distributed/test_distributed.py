"""Training over ranks: the same as in one process, whatever each rank brings; and ends together."""

from __future__ import annotations

import itertools
import logging
import time

import numpy as np
import pytest
import ranks
import trainings
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import bpengine as bp
from bpengine.backends.base import warn_once
from bpengine.distributed import collectives, summed_gradient
from bpengine.distributed.collectives import RankError
from bpengine.distributed.options import DataParallel
from bpengine.privacy.dpsgd import DPSGD

SIZES = [3, 5, 4, 2]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Gradients of the small networks here go over the ranks in several buckets and pieces."""
    monkeypatch.setattr(summed_gradient, "BUCKET_BYTES", 100)
    monkeypatch.setattr(collectives, "PIECE_BYTES", 48)
    monkeypatch.setattr(collectives, "SPINS", 3)


@pytest.fixture(autouse=True)
def one_thread_on_the_double(request):
    """Ranks are threads here, and the stand-in for a GPU runs one at a time."""
    if "lab" in request.fixturenames and request.getfixturevalue("lab").name == "cuda double":
        pytest.skip("the stand-in for a GPU runs one thread at a time")


def data(N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((SIZES[0], N)), rng.integers(0, SIZES[-1], N)


def network(lab, seed=3, **options):
    options = {"cost": "binary_cross_entropy", "dtype": "float64", **options}
    activations = ["tanh", "tanh", "sigmoid"]
    return bp.Network(SIZES, activations, rng=seed, backend=lab.backend, **options)


def global_batches(shards, batch_sizes):
    """What all ranks take together, step by step: columns of X, Y and weights."""
    steps = max(-(-x[0].shape[1] // m) for x, m in zip(shards, batch_sizes, strict=True))
    return [
        tuple(
            np.concatenate(
                [s[i][..., step * m : (step + 1) * m] for s, m in zip(shards, batch_sizes, strict=True)],
                axis=-1,
            )
            for i in range(len(shards[0]))
        )
        for step in range(steps)
    ]


def fit(lab, net, X, Y, comm, **options):
    options = {"epochs": 2, "batch_size": 4, "progress": False, "shuffle": False, **options}
    return net.fit(lab.array(X), lab.array(Y), comm=comm, **options)


@examples(12)
@given(
    shards=st.lists(st.tuples(st.integers(4, 14), st.integers(1, 4)), min_size=1, max_size=3),
    optimizer=st.sampled_from(list(trainings.OPTIMIZERS)),
    options=st.sampled_from([{}, {"overlap": False}, {"accumulate": 2}, {"accumulate": 3}]),
    weighted=st.booleans(),
    regularized=st.booleans(),
    seed=st.integers(0, 100),
)
def test_ranks_are_one_process_with_the_same_global_batches(
    lab, shards, optimizer, options, weighted, regularized, seed
):
    optimizer = trainings.OPTIMIZERS[optimizer]
    extra = {"l1": 1e-3, "l2": 1e-2, "label_smoothing": 0.1} if regularized else {}
    counts, batch_sizes = zip(*shards, strict=True)
    X, Y = data(sum(counts), seed)
    W = np.random.default_rng(seed).random(sum(counts)) + 0.1 if weighted else np.ones(sum(counts))
    local = list(zip(*(ranks.parts(x, counts) for x in (X, Y, W)), strict=True))

    def rank(comm):
        x, y, w = local[comm.rank]
        net = network(lab, seed + comm.rank, **extra)
        history = fit(
            lab,
            net,
            x,
            y,
            DataParallel(comm, **options),
            batch_size=batch_sizes[comm.rank],
            optimizer=optimizer,
            sample_weight=lab.array(w) if weighted else None,
            validation=(lab.array(x), lab.array(y)),
        )
        return trainings.vector(lab, net), history, net.rng.bit_generator.state

    found = ranks.results(len(shards), rank)
    one = network(lab, seed, **extra)
    W = W / W.mean()
    local = list(zip(*(ranks.parts(x, counts) for x in (X, Y, W)), strict=True))
    batches = [
        tuple(lab.array(x) for x in (batch if weighted else batch[:2]))
        for batch in global_batches(local, batch_sizes)
    ]
    expected = one.fit(
        batches,
        epochs=2,
        optimizer=optimizer,
        validation=(lab.array(X), lab.array(Y)),
        progress=False,
    )
    for vector, history, state in found:
        np.testing.assert_array_equal(vector, found[0][0])
        lab.assert_close(lab.array(vector), trainings.vector(lab, one), 1e-9)
        assert trainings.in_steps(history) == trainings.in_steps(found[0][1])
        np.testing.assert_equal(state, found[0][2])
        for name in ("cost", "validation_cost", "validation_accuracy", "learning_rate"):
            np.testing.assert_allclose(getattr(history, name), getattr(expected, name), rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"overlap": False}, {"accumulate": 2}, {"sync_every": 100}])
def test_a_stack_is_trained_as_one_network_is(lab, options):
    """Networks with different rates, of which some stop early."""
    X, Y = data(18)
    parts = list(zip(*(ranks.parts(x, (10, 8)) for x in (X, Y)), strict=True))
    optimizer = bp.Adam([0.3, 0.01, 0.1])

    def stop():
        return [bp.EarlyStopping(patience=1, min_delta=0.02)]

    def rank(comm):
        x, y = parts[comm.rank]
        net = network(lab, comm.rank, stack=3, l2=[0.0, 0.01, 0.1])
        shared = {"validation": (lab.array(x), lab.array(y)), "callbacks": stop()}
        given = {"epochs": 8, "batch_size": 5, "optimizer": optimizer, **shared}
        return net, fit(lab, net, x, y, DataParallel(comm, **options), **given)

    found = ranks.results(2, rank)
    for net, history in found:
        trainings.assert_alike(lab, net, found[0][0])
        assert np.asarray(history.cost).shape == (len(history.cost), 3)
        np.testing.assert_array_equal(history.cost, found[0][1].cost)
    if "sync_every" in options:
        return  # another algorithm
    one = network(lab, 0, stack=3, l2=[0.0, 0.01, 0.1])
    batches = [tuple(lab.array(x) for x in batch) for batch in global_batches(parts, (5, 5))]
    expected = one.fit(
        batches,
        epochs=8,
        optimizer=optimizer,
        validation=(lab.array(X), lab.array(Y)),
        callbacks=stop(),
        progress=False,
    )
    lab.assert_close(found[0][0].vector, lab.numpy(one.vector), 1e-9)
    for name in ("cost", "validation_cost", "validation_accuracy"):
        np.testing.assert_allclose(getattr(found[0][1], name), getattr(expected, name), rtol=1e-9)
    np.testing.assert_array_equal(found[0][1].best_epoch, expected.best_epoch)
    assert len(set(expected.best_epoch.tolist())) > 1


@pytest.mark.parametrize("options", [{}, {"sync_every": 3}])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_rank_is_a_training_without_ranks_bit_for_bit(lab, options, weighted):
    X, Y = data(11)
    given = {"shuffle": True}
    given |= {"sample_weight": lab.array(np.arange(1.0, 12.0))} if weighted else {"validation": 0.2}

    def rank(comm):
        net = network(lab, dropout=0.25)
        return net, fit(lab, net, X, Y, DataParallel(comm, **options), **given)

    [(net, history)] = ranks.results(1, rank)
    one = network(lab, dropout=0.25)
    expected = fit(lab, one, X, Y, None, **given)
    trainings.assert_alike(lab, net, one)
    assert trainings.in_steps(history) == trainings.in_steps(expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "averaging"])
def test_every_few_steps_parameters_are_averaged(lab, optimizer):
    optimizer, counts, k = trainings.OPTIMIZERS[optimizer], (12, 5), 2
    X, Y = data(sum(counts))
    local = list(zip(ranks.parts(X, counts), ranks.parts(Y, counts), strict=True))

    def rank(comm):
        net = network(lab)
        fit(lab, net, *local[comm.rank], DataParallel(comm, sync_every=k), optimizer=optimizer, epochs=1)
        return trainings.vector(lab, net)

    found = ranks.results(2, rank)

    nets = [network(lab) for _ in local]
    states: list[dict] = [{}, {}]
    plans: list[dict] = [{}, {}]
    for start in range(0, 12, 4 * k):  # by hand: both go on alone for k steps of 4 examples
        seen = np.zeros(2)
        for r, (x, y) in enumerate(local):
            for i in range(start, min(start + 4 * k, x.shape[1]), 4):
                m = min(4, x.shape[1] - i)
                if m not in plans[r]:
                    plans[r][m] = bp.Plan(nets[r], m, optimizer, state=states[r].get("state"))
                    states[r]["state"] = plans[r][m].state
                plans[r][m].load(lab.array(x[:, i : i + m]), lab.array(y[i : i + m]))
                plans[r][m].run()
                seen[r] += m
        both = [[net.vector, *states[r]["state"].arrays.values()] for r, net in enumerate(nets)]
        for one, other in zip(*both, strict=True):
            share = float(seen[0] / seen.sum())
            average = one * share + other * (1.0 - share)
            one[...], other[...] = average, average
    expected = nets[0].vector
    if "average" in states[0]["state"].arrays:
        expected = states[0]["state"].arrays["average"]
    for vector in found:
        lab.assert_close(lab.array(vector), lab.numpy(expected), 1e-12)


def test_class_weights_are_balanced_over_all_ranks(lab):
    counts = 9, 4
    X, _ = data(13)
    Y = np.array([0] * 9 + [1] * 4)  # each rank has one class alone
    local = list(zip(ranks.parts(X, counts), ranks.parts(Y, counts), strict=True))

    def rank(comm):
        net = network(lab)
        fit(lab, net, *local[comm.rank], comm, class_weight="balanced", batch_size=4, epochs=1)
        return trainings.vector(lab, net)

    found = ranks.results(2, rank)
    weights = np.where(Y == 0, 13 / 18, 13 / 8)
    one = network(lab)
    shards = list(
        zip(ranks.parts(X, counts), ranks.parts(Y, counts), ranks.parts(weights, counts), strict=True)
    )
    one.fit(
        [tuple(lab.array(x) for x in batch) for batch in global_batches(shards, (4, 4))],
        epochs=1,
        progress=False,
    )
    lab.assert_close(lab.array(found[1]), trainings.vector(lab, one), 1e-10)


def test_ranks_draw_other_numbers_than_each_other_and_the_same_each_time(lab):
    X, Y = data(8)
    seen = {}

    def rank(comm):
        net = network(lab, dropout=0.5)
        fit(lab, net, X, Y, comm, shuffle=True, epochs=1, batch_size=8)
        mask = np.random.Generator(type(net.rng.bit_generator)())
        mask.bit_generator.state = net.rng.bit_generator.state
        return trainings.vector(lab, net)

    first, second = ranks.results(2, rank), ranks.results(2, rank)
    np.testing.assert_array_equal(first, second)
    generators = [np.random.default_rng(5) for _ in range(3)]

    def draw(comm):
        from bpengine.distributed.agreement import seed_of_rank

        with collectives.Group(comm, 9.0) as group:
            seed_of_rank(group, generators[comm.rank], 1.0)
            seen[comm.rank] = generators[comm.rank].random()

    ranks.results(3, draw)
    assert len(set(seen.values())) == 3 and seen[0] == np.random.default_rng(5).random()


def test_streams_of_different_length(lab):
    lengths = 5, 2
    streams = [
        [tuple(lab.array(x) for x in data(3 + i, 10 * r + i)) for i in range(n)]
        for r, n in enumerate(lengths)
    ]

    def rank(comm):
        net = network(lab)
        net.fit(streams[comm.rank], epochs=2, progress=False, comm=comm, monitor=2)
        return trainings.vector(lab, net)

    found = ranks.results(2, rank)
    one = network(lab)
    steps = [[s[i] for s in streams if i < len(s)] for i in range(max(lengths))]
    joined = [
        tuple(
            lab.array(np.concatenate([lab.numpy(x) for x in xs], -1)) for xs in zip(*some, strict=True)
        )
        for some in steps
    ]
    one.fit(joined, epochs=2, progress=False)
    for vector in found:
        lab.assert_close(lab.array(vector), trainings.vector(lab, one), 1e-10)


class FailingError(Exception):
    pass


def fail_at(epoch):
    def callback(training):
        if training.epoch == epoch:
            raise FailingError("on purpose")

    return callback


def failing_stream(lab, at):
    def batches():
        for i in range(4):
            if i == at:
                raise FailingError("on purpose")
            yield tuple(lab.array(x) for x in data(3, i))

    class Batches:
        def __iter__(self):
            return batches()

    return Batches()


@pytest.mark.parametrize("where", ["arguments", "callback", "stream", "step", "end"])
@pytest.mark.parametrize("at", [0, 2])
def test_a_rank_that_fails_ends_all_with_what_it_said(lab, where, at, monkeypatch):
    class End(bp.Callback):
        def end(self, training):
            raise FailingError("on purpose")

    def rank(comm):
        net = network(lab)
        options = {"epochs": 3, "progress": False, "comm": comm, "batch_size": 2, "shuffle": False}
        mine = comm.rank == at
        if where == "stream":
            stream = failing_stream(lab, 2 if mine else None)
            return net.fit(stream, **{**options, "batch_size": 1})
        X, Y = data(7)
        if where == "arguments" and mine:
            X = X[:2]
        callbacks = []
        if where == "callback":
            callbacks = [fail_at(2 if mine else None)]
        if where == "end":
            callbacks = [End() if mine else bp.callbacks.Callback()]
        if where == "step" and mine:
            take, count = lab.backend.take, itertools.count()

            def some(rows, indices, out):
                if next(count) == 5:
                    raise FailingError("on purpose")
                take(rows, indices, out)

            net.backend = _With(lab.backend, take=some)
        return net.fit(lab.array(X), lab.array(Y), callbacks=callbacks, **options)

    found = ranks.run(3, rank)
    if where == "end":  # names of callbacks are compared at the start
        assert isinstance(found[at], ValueError if at else RankError)
        return
    for r, error in enumerate(found):
        if r == at:
            assert isinstance(error, ValueError if where == "arguments" else FailingError)
        else:
            assert isinstance(error, RankError) and error.rank == at
            said = "X has shape (2, 7)" if where == "arguments" else "FailingError: on purpose"
            assert f"rank {at} of 3 has failed" in str(error) and said in str(error)


class _With:
    """A backend with some other methods."""

    def __init__(self, backend, **methods):
        vars(self).update(methods)
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)


def test_a_cost_that_is_not_finite_on_one_rank_ends_all_alike(lab):
    X, Y = data(12)
    Y = np.stack([Y, 1.0 - Y]) * 1e3
    sizes = 8, 4

    def build():
        # with l1 the update is not folded into products: it then overflows where the ranks' does
        options = {"backend": lab.backend, "dtype": "float64", "rng": 1, "l1": 1e-12}
        return bp.Network([3, 4, 2], ["tanh", "linear"], **options)

    local = list(zip(ranks.parts(X, sizes), ranks.parts(Y, sizes), strict=True))
    options = {"optimizer": bp.SGD(1e6), "epochs": 200, "batch_size": 2}

    def rank(comm):
        net = build()
        with pytest.raises(bp.NonFiniteCostError) as caught:
            fit(lab, net, *local[comm.rank], comm, **options)
        return caught.value, trainings.vector(lab, net)

    found = ranks.results(2, rank)
    batches = [tuple(lab.array(x) for x in batch) for batch in global_batches(local, (2, 2))]
    one = build()
    with pytest.raises(bp.NonFiniteCostError) as expected:
        one.fit(batches, epochs=200, optimizer=options["optimizer"], progress=False)
    for error, vector in found:
        assert (error.epoch, error.step) == (expected.value.epoch, expected.value.step)
        assert error.layer == found[0][0].layer
        np.testing.assert_array_equal(vector, found[0][1])
        assert np.isfinite(vector).all()


@pytest.mark.parametrize("options", [{}, {"sync_every": 3}])
@pytest.mark.parametrize("at", [0, 1])
def test_an_interrupt_of_one_rank_ends_all(lab, at, options):
    X, Y = data(8)

    class Interrupting(bp.Callback):
        def steps(self, training, count):
            if training.strategy.group.rank == at and training.epoch == 2:
                raise KeyboardInterrupt

    def rank(comm):
        net = network(lab)
        mine = np.arange(comm.rank, 8, 3)
        history = fit(
            lab,
            net,
            X[:, mine],
            Y[mine],
            DataParallel(comm, **options),
            epochs=5,
            batch_size=1,
            monitor=1,  # a look at each step: rounds of one
            callbacks=[Interrupting()],
        )
        return history, trainings.vector(lab, net), net.rng.bit_generator.state

    found = ranks.results(3, rank)
    for history, vector, state in found:
        assert history.interrupted and len(history.cost) == 2
        np.testing.assert_array_equal(vector, found[0][1])
        np.testing.assert_equal(state, found[0][2])


def test_a_stop_of_one_rank_stops_all_and_the_checkpoint_knows(lab, tmp_path):
    X, Y = data(8)

    def stopping(training):
        if training.strategy.group.rank == 1 and training.epoch == 3:
            training.stop()

    def rank(comm):
        net = network(lab)
        path = tmp_path / f"{comm.rank}.npz"
        return fit(
            lab,
            net,
            X,
            Y,
            comm,
            epochs=9,
            callbacks=[
                stopping,
                bp.Checkpoint(path, every=100),
                bp.CSVLog(tmp_path / f"{comm.rank}.csv"),
            ],
        )

    assert [len(history.cost) for history in ranks.results(2, rank)] == [3, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.csv", "0.npz"]


def test_early_stopping_is_the_same_everywhere(lab):
    X, Y = data(20)
    V = data(10, 9)

    def rank(comm):
        net = network(lab)
        mine = slice(10 * comm.rank, 10 * comm.rank + 10)
        validation = tuple(lab.array(x) for x in V) if comm.rank else None
        stop = bp.EarlyStopping(patience=2, min_delta=0.01)
        history = fit(
            lab, net, X[:, mine], Y[mine], comm, epochs=99, validation=validation, callbacks=[stop]
        )
        return trainings.vector(lab, net), trainings.in_steps(history)

    (one, first), (other, second) = ranks.results(2, rank)
    np.testing.assert_array_equal(one, other)
    assert first == second and len(first["cost"]) < 99 and first["best_epoch"] is not None


def test_validation_data_of_any_rank_is_monitored(lab):
    """And without any, all ranks end before the first step."""
    X, Y = data(8)

    def rank(comm, given):
        stop = bp.EarlyStopping(monitor="validation_cost")
        pair = (lab.array(X), lab.array(Y)) if comm.rank in given else None
        return fit(lab, network(lab), X, Y, comm, validation=pair, callbacks=[stop])

    for result in ranks.results(2, lambda comm: rank(comm, [1])):
        assert result is not None
    for error in ranks.run(2, lambda comm: rank(comm, [])):
        assert "nothing to monitor" in str(error)


@pytest.mark.parametrize("optimizer", ["momentum", "averaging"])
def test_a_checkpoint_goes_on_with_as_many_ranks_bit_for_bit_and_with_any_number(
    lab, optimizer, tmp_path
):
    X, Y = data(24)
    path = tmp_path / "run.npz"

    def train(size, epochs, *, checkpoint):
        def rank(comm):
            net = network(lab, seed=comm.rank, dropout=0.25)
            mine = np.arange(comm.rank, 24, size)
            callbacks = [bp.EarlyStopping(patience=50)]
            if checkpoint:
                callbacks.append(bp.Checkpoint(path))
            history = fit(
                lab,
                net,
                X[:, mine],
                Y[mine],
                comm,
                epochs=epochs,
                optimizer=trainings.OPTIMIZERS[optimizer],
                shuffle=True,
                callbacks=callbacks,
                resume=path if checkpoint else None,
            )
            return trainings.vector(lab, net), trainings.in_steps(history)

        return ranks.results(size, rank)

    whole = train(2, 5, checkpoint=False)
    train(2, 2, checkpoint=True)
    saved = path.read_bytes()
    for size in (2, 1, 3):
        path.write_bytes(saved)
        found = train(size, 5, checkpoint=True)
        for vector, history in found:
            assert history == found[0][1] and len(history["cost"]) == 5
            np.testing.assert_array_equal(vector, found[0][0])
        assert found[0][1]["cost"][:2] == whole[0][1]["cost"][:2]
        if size == 2:
            np.testing.assert_array_equal(found[0][0], whole[0][0])
            assert found[0][1] == whole[0][1]


def test_a_rank_that_is_given_something_else_is_named(lab):
    X, Y = data(8)

    def rank(comm):
        options = {"l2": 0.1} if comm.rank == 1 else {}
        return fit(lab, network(lab, **options), X, Y, comm)

    found = ranks.run(2, rank)
    assert isinstance(found[1], ValueError) and "l2 is 0.1 on rank 1 and 0.0 on rank 0" in str(found[1])
    assert isinstance(found[0], RankError) and "l2 is 0.1 on rank 1" in str(found[0])

    def mixed(comm):
        net = network(lab)
        if comm.rank:
            return net.fit([(lab.array(X), lab.array(Y))], progress=False, comm=comm)
        return fit(lab, net, X, Y, comm)

    assert [type(error) for error in ranks.run(2, mixed)] == [ValueError, ValueError]

    def other_rates(comm):
        return fit(lab, network(lab), X, Y, comm, optimizer=bp.SGD(0.1 + comm.rank))

    for error in ranks.run(2, other_rates):
        assert "learning_rate is 1.1 on rank 1 and 0.1 on rank 0" in str(error)

    for name, pair in {
        "averaging": (bp.SGD(0.1), bp.SGD(0.1, averaging=0.9)),
        "clip_norm": (bp.Adam(0.1, clip_norm=1.0), bp.Adam(0.1, clip_norm=2.0)),
        "weight_decay": (bp.SGD(0.1), bp.SGD(0.1, weight_decay=0.1)),
        "momentum": (bp.SGD(0.1), bp.SGD(0.1, momentum=0.5)),
        "epochs": (
            bp.SGD(bp.schedules.Cosine(0.1, epochs=3)),
            bp.SGD(bp.schedules.Cosine(0.1, epochs=4)),
        ),
        "optimizer": (bp.SGD(0.1), bp.Adam(0.1)),
        "learning_rate": (bp.SGD(lambda t: 1 / (1 + t)), bp.SGD(lambda t: 1 / (2 + t))),
    }.items():
        nets = {}

        def other_optimizers(comm, pair=pair, nets=nets):
            net = nets[comm.rank] = network(lab)
            return fit(lab, net, X, Y, comm, optimizer=pair[comm.rank])

        for rank, error in enumerate(ranks.run(2, other_optimizers)):
            assert isinstance(error, ValueError if rank else RankError)
            assert f"{name} is " in str(error) and "need the same" in str(error)
            np.testing.assert_array_equal(lab.numpy(nets[rank].vector), lab.numpy(network(lab).vector))

    for name in ("patience", "min_delta", "monitor", "restore"):
        nets = {}

        def other_callbacks(comm, name=name, nets=nets):
            net = nets[comm.rank] = network(lab)
            values = {"patience": 3, "min_delta": 0.5, "monitor": "cost", "restore": False}
            stop = bp.EarlyStopping(**({name: values[name]} if comm.rank else {}))
            return fit(lab, net, X, Y, comm, callbacks=[stop])

        for rank, error in enumerate(ranks.run(2, other_callbacks)):
            assert isinstance(error, ValueError if rank else RankError)
            assert f"callbacks[0].{name} is " in str(error) and "need the same" in str(error)
            np.testing.assert_array_equal(lab.numpy(nets[rank].vector), lab.numpy(network(lab).vector))

    def other_generators(comm):
        bits = (np.random.PCG64, np.random.SFC64)[comm.rank](0)
        return fit(lab, network(lab, np.random.Generator(bits)), X, Y, comm)

    for error in ranks.run(2, other_generators):
        assert "random numbers is ['SFC64'" in str(error)

    def other_parameters(comm):
        def change(training):
            if comm.rank:
                training.network.vector[...] = 0.0

        return fit(lab, network(lab), X, Y, comm, callbacks=[change])

    for error in ranks.run(2, other_parameters):
        assert isinstance(error, RuntimeError) and "no longer the same" in str(error)

    def no_weights(comm):
        weights = lab.array(np.zeros(8))
        return fit(lab, network(lab), X, Y, comm, sample_weight=weights)

    for error in ranks.run(2, no_weights):
        assert isinstance(error, ValueError) and "at least one must count" in str(error)


def test_a_rank_that_falls_silent_ends_the_program_in_time(lab, capsys):
    X, Y = data(8)

    def rank(comm):
        def silent(training):
            if comm.rank == 1 and training.epoch == 1:
                time.sleep(1.5)

        return fit(
            lab, network(lab), X, Y, DataParallel(comm, timeout=0.3), epochs=3, callbacks=[silent]
        )

    found = ranks.run(3, rank)
    assert all(isinstance(error, (SystemExit, ranks.AbortedError)) for error in found)
    said = capsys.readouterr().err
    assert "has waited 0.3 s for the others: one of them has died or fallen silent" in said
    assert "fit(…, resume=path)" in said


def test_bytes_of_a_step_are_the_parameters_and_no_more(lab):
    X, Y = data(16)

    def rank(comm):
        net = network(lab)
        sent = []

        def note(training):
            sent.append(comm.calls["steps' sums"])

        fit(lab, net, X, Y, comm, epochs=3, batch_size=4, callbacks=[note])
        return sent, net.vector.shape[0] * 8

    for sent, parameters in ranks.results(2, rank):
        steps = 4
        costs = 8 * steps  # an epoch's costs: one float64 a step
        assert np.diff(sent).tolist() == [steps * parameters + costs] * 2


def test_what_does_not_go_together(lab):
    [comm] = ranks.Communicator.world(1)
    for options, message in (
        ({"sync_every": 2, "accumulate": 2}, "don't go together"),
        ({"sync_every": 0}, "sync_every must be"),
        ({"accumulate": 1.5}, "accumulate must be"),
        ({"timeout": 0}, "timeout must be"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            DataParallel(comm, **options)
    X, Y = data(8)
    for wrong in (3, "world", object()):
        with pytest.raises(TypeError, match="comm must be an mpi4py communicator"):
            fit(lab, network(lab), X, Y, wrong)
    private = DPSGD(0.1, noise_multiplier=1.0, max_norm=1.0, delta=None)
    for optimizer in (bp.LBFGS(), private):
        with pytest.raises(ValueError, match="leave out comm"):
            fit(lab, network(lab), X, Y, comm, optimizer=optimizer)


def test_a_backend_without_all_reduce_warns_of_copies_to_host_memory(lab, caplog):
    warn_once.cache_clear()
    X, Y = data(8)
    with caplog.at_level(logging.WARNING, "bpengine"):
        ranks.results(2, lambda comm: fit(lab, network(lab), X, Y, comm, epochs=1))
    messages = [record for record in caplog.records if "in host memory" in record.message]
    assert len(messages) == (lab.backend.name not in ("numpy", "numba"))
