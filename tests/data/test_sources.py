"""Examples from arrays, memory maps and iterables of batches: the same training, in the same order."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from trainings import (
    OPTIMIZERS,
    SUM,
    arrays,
    assert_alike,
    assert_same,
    blobs,
    data,
    fit,
    in_steps,
    network,
    optimizers,
    vector,
)

import bpengine as bp
from bpengine.backprop import forward
from bpengine.data import memmap, resident
from bpengine.data import stream as streams
from bpengine.data.per_network import PerNetwork
from bpengine.data.source import Chunk, IndexedSource


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """Makes a memory map, which any size of is too large for memory."""
    monkeypatch.setattr(memmap, "MAPPED_BYTES", 0)
    numbers = itertools.count()

    def make(X, transposed=True):
        path = tmp_path / f"{next(numbers)}"
        rows = np.ascontiguousarray(X.T if transposed else X)
        rows.tofile(path)
        found = np.memmap(path, rows.dtype, "r", shape=rows.shape)
        return found.T if transposed else found

    return make


class Anew:
    """Gives the same batches each time it is iterated over, and no length."""

    def __init__(self, batches):
        self.batches = batches
        self.times = 0

    def __iter__(self):
        self.times += 1
        return iter(self.batches)


def cut(batch_size, *columns):
    """Batches of neighbours; what has one axis is cut along it."""
    N = columns[0].shape[1]
    return [tuple(x[..., i : i + batch_size] for x in columns) for i in range(0, N, batch_size)]


@given(
    N=st.integers(1, 17),
    batch_size=st.integers(1, 17),
    weighted=st.booleans(),
    dropout=st.sampled_from([0.0, 0.5]),
    optimizer=optimizers,
    transposed=st.booleans(),
    held=st.sampled_from([1, 30, 2**22]),
    readback=st.sampled_from([1, 3, 256]),
)
@examples(25)
def test_it_is_the_same_training_wherever_examples_come_from(
    lab, mapped, N, batch_size, weighted, dropout, optimizer, transposed, held, readback
):
    batch_size = min(batch_size, N)
    X, Y = data(N, seed=N)
    weights = np.random.default_rng(N).random(N) + 0.1 if weighted else None
    options = {"epochs": 3, "optimizer": optimizer, "progress": False}
    from_arrays, from_map, from_batches = nets = [network(lab, dropout=dropout) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "STREAM_ELEMENTS", held)
        patch.setattr("bpengine.training.steps.READBACK_STEPS", (readback, readback))
        given_arrays = {"batch_size": batch_size, "shuffle": False, "sample_weight": weights, **options}
        histories = [
            fit(lab, from_arrays, X, Y, **given_arrays),
            from_map.fit(mapped(X, transposed), lab.array(Y), **given_arrays),
        ]
        columns = [X, Y] if weights is None else [X, Y, weights / weights.mean()]
        batches = [tuple(map(lab.array, batch)) for batch in cut(batch_size, *columns)]
        if isinstance(optimizer.learning_rate, float):
            batches = Anew(batches)
        histories.append(from_batches.fit(batches, **options))
    for net in nets[1:]:
        assert_alike(lab, net, from_arrays)
    assert in_steps(histories[0]) == in_steps(histories[1]) == in_steps(histories[2])


@given(
    N=st.integers(2, 17),
    batch_size=st.integers(1, 17),
    shuffle=st.just(True) | st.integers(1, 20),
    weighted=st.booleans(),
    validation=st.sampled_from([None, 0.3]),
    dtype=st.sampled_from(["float32", "float64"]),
)
@examples(25)
def test_a_map_is_shuffled_and_split_as_an_array_is(
    lab, mapped, N, batch_size, shuffle, weighted, validation, dtype
):
    batch_size = min(batch_size, N - 1)
    X, Y = (x.astype("float32") for x in data(N, seed=N))
    weights = np.random.default_rng(N).random(N) + 0.1 if weighted else None
    options = {
        "epochs": 2,
        "batch_size": min(batch_size, N - round((validation or 0) * N)),
        "shuffle": shuffle,
        "sample_weight": weights,
        "validation": validation,
        "progress": False,
    }
    nets = [network(lab, dtype=dtype) for _ in range(2)]
    histories = [
        net.fit(x, lab.array(Y), **options)
        for net, x in zip(nets, (lab.array(X), mapped(X)), strict=True)
    ]
    assert_alike(lab, *nets)
    assert in_steps(histories[0]) == in_steps(histories[1])
    assert len(histories[0].validation_cost) == (2 if validation else 0)


class Recorded(IndexedSource):
    """Notes the numbers that its chunks are made of."""

    def chunk(self, indices, m):
        steps = [indices[i : i + m].tolist() for i in range(0, len(indices), m)]
        return Chunk(m, False, steps, None, None)

    def epoch(self, rng, most=lambda step, m: 3):
        return list(self.chunks(rng, most))


@given(
    N=st.integers(1, 40),
    m=st.integers(1, 40),
    shuffle=st.booleans() | st.integers(1, 50),
    seed=st.integers(0, 999),
)
@examples(100)
def test_an_epoch_holds_each_example_once_in_batches_of_one_size(N, m, shuffle, seed):
    source = Recorded(N, min(m, N), shuffle)
    chunks = source.epoch(np.random.default_rng(seed))
    steps = [step for chunk in chunks for step in chunk.batches]
    assert len(steps) == source.steps
    sizes = [len(step) for step in steps]
    assert sizes[:-1] == [source.batch_size] * (len(steps) - 1)
    assert sizes == [chunk.size for chunk in chunks for _ in chunk.batches]
    order = list(itertools.chain(*steps))
    assert sorted(order) == list(range(N))
    if shuffle is False:
        assert order == sorted(order)
    elif shuffle is not True:
        # a window is left for good before the next is begun
        windows = [window for window, _ in itertools.groupby(i // shuffle for i in order)]
        assert len(windows) == len(set(windows)) == -(-N // shuffle)


@pytest.mark.parametrize(("N", "window", "orders"), [(6, 2, 48), (5, 2, 24), (4, 4, 24), (3, 1, 6)])
def test_every_order_of_windows_and_within_them_comes_up_alike(N, window, orders):
    rng, times = np.random.default_rng(0), 400
    source = Recorded(N, N, window)
    seen = Counter(tuple(source.epoch(rng)[0].batches[0]) for _ in range(times * orders))
    assert len(seen) == orders
    # five standard deviations
    assert max(abs(count - times) for count in seen.values()) < 5 * times**0.5


@given(
    N=st.integers(1, 60),
    m=st.integers(1, 9),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    held=st.integers(1, 1000),
    stream=st.booleans(),
)
@examples(50)
def test_chunks_are_no_longer_than_they_are_asked_to_be(lab, N, m, lengths, held, stream):
    m = min(m, N)
    asked = {}

    def most(step, size):
        assert size in (m, N % m)
        return asked.setdefault(step, lengths[step % len(lengths)])

    net, (X, Y) = network(lab), data(N)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "STREAM_ELEMENTS", held)
        if stream:
            source = streams.BatchStream(net, cut(m, X, Y))
        else:
            source = resident.InMemory(net, X, Y, None, m, False)
        step = 0
        for chunk in source.chunks(net.rng, most):
            if step in asked:
                assert len(chunk.batches) <= asked[step]
            step += len(chunk.batches)
    assert step == -(-N // m)
    assert stream or set(asked) <= set(range(step))


def test_an_array_or_a_small_map_is_taken_into_memory(lab, tmp_path):
    path = tmp_path / "X"
    np.zeros((4, 3)).tofile(path)
    X = np.memmap(path, "float64", "r", shape=(4, 3)).T
    assert not memmap.MemoryMapped.is_needed(X)
    assert not memmap.MemoryMapped.is_needed(np.zeros((3, 4)))
    seen = []
    network(lab).fit(
        X,
        lab.array(np.zeros((2, 4))),
        epochs=1,
        batch_size=4,
        progress=False,
        callbacks=[lambda training: seen.append(type(training.source))],
    )
    assert seen == [resident.InMemory]


def test_a_map_takes_no_more_memory_than_its_batches(lab, mapped, monkeypatch):
    if lab.backend.name == "cupy":
        pytest.skip("tracemalloc sees the host's memory alone")
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", 2**14)
    N, rows = 4_000, 500
    rng = np.random.default_rng(0)
    X = mapped(rng.random((rows, N), "float32"))
    Y = lab.array(rng.random((1, N), "float32"))
    net = network(lab, (rows, 1), dtype="float32")
    options = {"epochs": 1, "batch_size": 50, "progress": False, "shuffle": 500}
    net.fit(X, Y, **options)  # a first pass makes what is kept for good
    tracemalloc.start()
    net.fit(X, Y, validation=(X, Y), **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 8
    tracemalloc.start()
    net.fit(X, Y, validation=0.01, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_in_a_map_that_is_not_finite_is_found_when_its_step_comes(lab, mapped, bad, monkeypatch):
    monkeypatch.setattr("bpengine.data.offload.BUFFER_BYTES", 1)  # to a device, step by step
    X, Y = data(10)
    net, twin = network(lab), network(lab)
    wrong = X.copy()
    wrong[1, 7] = bad
    with pytest.raises(ValueError, match="NaN or infinite in column 7; all must be finite"):
        net.fit(mapped(wrong), lab.array(Y), epochs=1, batch_size=2, shuffle=False, progress=False)
    # the three steps before it have been taken
    fit(lab, twin, X[:, :6], Y[:, :6], epochs=1, batch_size=2, shuffle=False)
    assert_same(lab, net, arrays(lab, twin))


def test_the_column_is_the_maps_own_where_some_are_held_out(lab, mapped):
    X, Y = data(10)
    net = network(lab)
    held = set(np.random.default_rng(3).permutation(10)[:4].tolist())
    for column in set(range(10)) - held:
        wrong = X.copy()
        wrong[0, column] = np.nan
        net.rng = np.random.default_rng(3)
        with pytest.raises(ValueError, match=f"in column {column};"):
            net.fit(mapped(wrong), lab.array(Y), epochs=1, batch_size=2, validation=0.4, progress=False)


def test_an_iterator_is_read_once(lab):
    pairs = [tuple(map(lab.array, pair)) for pair in cut(4, *data(12))]
    for once in (iter(pairs), (pair for pair in pairs), map(tuple, pairs)):
        net = network(lab)
        before = arrays(lab, net)
        with pytest.raises(TypeError, match=r"X is an iterator.*epochs=2.*__iter__, or epochs=1"):
            net.fit(once, epochs=2, progress=False)
        assert_same(lab, net, before)
        net.fit(once, epochs=1, progress=False)
        twin = network(lab)
        twin.fit(pairs, epochs=1, progress=False)
        assert_same(lab, net, arrays(lab, twin))


def test_an_iterable_is_read_once_an_epoch_and_not_before(lab):
    batches = Anew([tuple(map(lab.array, pair)) for pair in cut(4, *data(12))])
    seen = []
    network(lab).fit(
        batches,
        epochs=3,
        progress=False,
        callbacks=[lambda training: seen.append(batches.times)],
    )
    assert seen == [1, 2, 3]


def test_no_more_batches_are_held_than_asked_for(lab, monkeypatch):
    """What is read ahead of its steps is bounded."""
    monkeypatch.setattr(streams, "STREAM_ELEMENTS", 3 * (3 + 1 + 2) * 4)  # three batches
    pairs = [tuple(map(lab.array, pair)) for pair in cut(4, *data(40))]
    steps, ahead = [0], []

    def stream():
        for number, pair in enumerate(pairs):
            ahead.append(number - steps[0])
            yield pair

    class Count(bp.Callback):
        def steps(self, training, count):
            steps[0] += count

    network(lab).fit(stream(), epochs=1, progress=False, callbacks=[Count()])
    assert steps == [10]
    assert max(ahead) == 2


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    weighted=st.lists(st.booleans(), min_size=12, max_size=12),
    optimizer=optimizers,
    readback=st.sampled_from([1, 2, 256]),
    plans=st.sampled_from([1, 8]),
)
@examples(25)
def test_batches_may_differ_in_size_and_some_have_weights(
    lab, sizes, weighted, optimizer, readback, plans
):
    rng = np.random.default_rng(0)
    host = [(*data(m, seed=i), rng.random(m)) for i, m in enumerate(sizes)]
    stream = [
        tuple(map(lab.array, batch[: 3 if has else 2]))
        for batch, has in zip(host, weighted, strict=False)
    ]
    net, twin = network(lab), network(lab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpengine.training.steps.READBACK_STEPS", (readback, readback))
        patch.setattr("bpengine.training.steps.PLANS", plans)
        history = net.fit(stream, epochs=1, optimizer=optimizer, progress=False)
    state, cost = None, 0.0
    for i, (batch, has) in enumerate(zip(host, weighted, strict=False)):
        m = batch[0].shape[1]
        plan = bp.Plan(twin, m, optimizer, state=state, weighted=True)
        state = plan.state
        if not isinstance(optimizer.learning_rate, float):
            plan.learning_rate = optimizer.learning_rate.rate(i / len(sizes))
        plan.load(*map(lab.array, batch[:2]))
        # weights of a batch count as they are
        plan.workspace.weights[...] = lab.array(batch[2][None] if has else np.ones((1, m)))
        cost += plan.run().cost * m
    expected = twin.vector if optimizer.averaging is None else state.arrays["average"]
    lab.assert_close(net.vector, lab.numpy(expected), 1e-12)
    np.testing.assert_allclose(history.cost, [cost / sum(sizes)], rtol=1e-12)


def test_a_batch_whose_weights_are_all_0_does_not_count(lab):
    X, Y = data(4)
    net = network(lab)
    before = arrays(lab, net)
    net.fit([tuple(map(lab.array, (X, Y, np.zeros(4))))], epochs=2, progress=False)
    assert_same(lab, net, before)


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_iterable_without_batches_is_refused(lab, epochs):
    net = network(lab)
    before = arrays(lab, net)
    with pytest.raises(ValueError, match="X gave no batch"):
        net.fit(Anew([]), epochs=epochs, progress=False)
    assert_same(lab, net, before)


def test_an_iterable_that_runs_dry_is_refused_where_it_does(lab):
    class Once:
        batches = iter(cut(4, *data(8)))

        def __iter__(self):
            yield from self.batches

    net, twin = network(lab), network(lab)
    with pytest.raises(ValueError, match="X gave no batch"):
        net.fit(Once(), epochs=2, progress=False)
    fit(lab, twin, *data(8), epochs=1, batch_size=4, shuffle=False)
    assert_same(lab, net, arrays(lab, twin))


X, Y = data(4)
BAD = {
    "an array": (X, TypeError, r"batch 2 of X is \w+; expected \(X, Y\) or \(X, Y, sample_weight"),
    "X alone": ((X,), TypeError, r"batch 2 of X is tuple of 1; expected \(X, Y\)"),
    "four things": ((X, Y, X, Y), TypeError, "batch 2 of X is tuple of 4;"),
    "nothing": (None, TypeError, "batch 2 of X is NoneType;"),
    "X's transpose": ((X.T, Y), ValueError, r"batch 2: X has shape .*Did you mean batch 2: X\.T"),
    "Y's transpose": ((X, Y.T), ValueError, r"batch 2: Y has shape .*Did you mean batch 2: Y\.T"),
    "no examples": ((X[:, :0], Y[:, :0]), ValueError, r"batch 2: X .* an empty batch"),
    "NaN": (
        (X * np.nan, Y),
        ValueError,
        "batch 2: X holds 12 NaN or infinite values, the first in column 0",
    ),
    "complex": ((X.astype(complex), Y), TypeError, r"batch 2: X has dtype .*complex128"),
    "labels": ((X, np.full(4, 7)), ValueError, r"batch 2: Y\[0\] is 7"),
    "few weights": ((X, Y, np.ones(3)), ValueError, r"batch 2: sample_weight has shape \(3,\)"),
    "a negative weight": ((X, Y, -np.ones(4)), ValueError, r"batch 2: sample_weight\[0\] is -1.0"),
    "weights of text": ((X, Y, ["a"] * 4), TypeError, "batch 2: sample_weight must be numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_batch_is_named_by_its_number(lab, case):
    bad, error, message = BAD[case]
    if isinstance(bad, tuple):
        bad = tuple(lab.array(x) if isinstance(x, np.ndarray) else x for x in bad)
    good = lab.array(X), lab.array(Y)
    with pytest.raises(error, match=message):
        network(lab).fit([good, good, bad, good], epochs=1, progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation": 0.5}, ValueError, "a share of the examples .* needs X and Y as arrays"),
        ({"sample_weight": [1, 1]}, ValueError, r"give weights in the batches: \(X, Y, sample_weight"),
        ({"class_weight": "balanced"}, ValueError, "give weights in the batches"),
        ({"optimizer": bp.LBFGS()}, ValueError, "LBFGS takes all examples in every step"),
    ],
)
def test_what_needs_all_examples_at_once_is_refused_with_batches(lab, options, error, message):
    if "optimizer" in options:
        pytest.importorskip("scipy")
    with pytest.raises(error, match=message):
        network(lab).fit(cut(4, *data(8)), epochs=1, progress=False, **options)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (7, r"X must be an array .* or an iterable of batches \(X, Y\); got int"),
        (np.ones((3, 4)), r"Y is missing: fit takes X and Y, or an iterable of batches"),
    ],
)
def test_what_is_neither_an_array_with_targets_nor_an_iterable_is_refused(lab, X, message):
    with pytest.raises(TypeError, match=message):
        network(lab).fit(X, progress=False)


@pytest.mark.parametrize(
    ("shuffle", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), ("all", TypeError)]
)
def test_a_window_is_a_whole_number(lab, shuffle, error):
    with pytest.raises(error, match="shuffle"):
        fit(lab, network(lab), *data(), shuffle=shuffle)


def spied(lab, net, X, Y, **options):
    """Train, and give the training that callbacks see."""
    seen = []
    history = fit(lab, net, X, Y, epochs=1, callbacks=[seen.append], **options)
    return seen[0], history


@given(
    N=st.integers(2, 40),
    share=st.floats(0.01, 0.99),
    kind=st.sampled_from([float, np.float32, np.float64]),
    seed=st.integers(0, 99),
)
@examples(40)
def test_a_share_held_out_is_apart_from_the_rest_and_as_large_as_asked(lab, N, share, kind, seed):
    share = kind(share)
    count = max(1, round(float(share) * N))
    net = network(lab, (1, 1), rng=seed)
    numbers = np.arange(N, dtype="float64")[None]
    if count == N:
        with pytest.raises(ValueError, match=f"of {N} examples leaves none to train on"):
            fit(lab, net, numbers, numbers, validation=share, batch_size=1)
        return
    training, history = spied(lab, net, numbers, -numbers, validation=share, batch_size=1)
    held, targets = map(lab.numpy, training.validation)
    rows = lab.numpy(training.source.rows)
    assert held.shape == (1, count)
    assert training.source.examples == N - count
    assert sorted([*held[0], *rows[:, 0]]) == list(range(N))
    np.testing.assert_array_equal(held, -targets)
    np.testing.assert_array_equal(rows[:, 0], -rows[:, -1])
    assert history.validation_cost == [net.evaluate(*training.validation)["cost"]]
    # the network's own generator has drawn it
    again, _ = spied(
        lab, network(lab, (1, 1), rng=seed), numbers, -numbers, validation=share, batch_size=1
    )
    np.testing.assert_array_equal(lab.numpy(again.validation[0]), held)


def test_every_example_is_held_out_now_and_then(lab):
    numbers = np.arange(9.0)[None]
    net, seen = network(lab, (1, 1)), Counter()
    for _ in range(60):
        training, _ = spied(lab, net, numbers, numbers, validation=0.3)
        seen.update(lab.numpy(training.validation[0])[0].tolist())
    assert len(seen) == 9


@pytest.mark.parametrize(
    ("validation", "error", "message"),
    [
        (0.0, ValueError, "validation=0.0 of 11 examples leaves none to validate on"),
        (0.99, ValueError, "validation=0.99 of 11 examples leaves none to train on"),
        (1, ValueError, "validation must be from 0 to below 1, got 1.0"),
        (-0.1, ValueError, "validation must be 0 or more"),
        (float("nan"), ValueError, "validation"),
        ("half", TypeError, r"validation must be a pair \(X, Y\).*or a share .* got 'half'"),
        ((1, 2, 3, 4), TypeError, "validation must be a pair"),
        (([[1.0]] * 3,) * 2, ValueError, r"validation Y has shape \(3, 1\)"),
    ],
)
def test_what_is_no_validation_is_refused(lab, validation, error, message):
    net = network(lab)
    before = arrays(lab, net)
    with pytest.raises(error, match=message):
        fit(lab, net, *data(), validation=validation)
    assert_same(lab, net, before)


def test_the_batch_is_no_larger_than_what_is_left_to_train_on(lab):
    with pytest.raises(ValueError, match=r"batch_size=8 is more than the 7 examples of X; .*=7 or less"):
        fit(lab, network(lab), *data(10), batch_size=8, validation=0.3)


@given(weights=st.lists(st.floats(0, 5), min_size=11, max_size=11).filter(any))
@examples(15)
def test_validation_with_weights_is_evaluate_with_weights(lab, weights):
    X, labels = blobs(11)
    options = {"activations": "softmax", "cost": "softmax_cross_entropy"}
    net = network(lab, (2, 2), **options)
    triple = tuple(map(lab.array, (X, labels, np.array(weights))))
    history = fit(lab, net, X, labels, epochs=1, validation=triple)
    found = net.evaluate(*triple)
    assert history.validation_cost == [found["cost"]]
    assert history.validation_accuracy == [found["accuracy"]]
    relative = np.array(weights) / np.mean(weights)
    a = lab.numpy(net.feedforward(triple[0]))
    np.testing.assert_allclose(
        found["cost"], -np.mean(relative * np.log(a[labels, np.arange(11)])), rtol=1e-9
    )
    np.testing.assert_allclose(found["accuracy"], np.mean(relative * (a.argmax(0) == labels)), rtol=1e-9)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(np.ones(3), r"shape \(3,\); expected \(11,\)"), (np.zeros(11), "0 for every example")],
)
def test_weights_of_validation_are_checked_before_training(lab, weights, message):
    net = network(lab)
    before = arrays(lab, net)
    pair = tuple(map(lab.array, data(11)))
    with pytest.raises(ValueError, match=message):
        fit(lab, net, *data(), validation=(*pair, lab.array(weights)))
    assert_same(lab, net, before)


@given(seed=st.integers(0, 99), share=st.sampled_from([0.2, 0.5]))
@examples(15)
def test_weights_stay_with_their_examples_when_some_are_held_out(lab, seed, share):
    X, Y = data(10, seed=seed)
    weights = np.random.default_rng(seed).random(10) + 0.1
    net, twin = network(lab, rng=seed), network(lab, rng=seed)
    history = fit(lab, net, X, Y, validation=share, sample_weight=weights)
    order = twin.rng.permutation(10)
    count = round(share * 10)
    held, rest = np.sort(order[:count]), np.sort(order[count:])
    validation = tuple(lab.array(x[..., held]) for x in (X, Y, weights))
    part = partial(fit, lab, twin, X[:, rest], Y[:, rest], sample_weight=weights[rest])
    expected = part(validation=validation)
    lab.assert_close(net.vector, vector(lab, twin), 1e-12)
    np.testing.assert_allclose(history.cost, expected.cost, rtol=1e-12)
    np.testing.assert_allclose(history.validation_cost, expected.validation_cost, rtol=1e-12)


@given(
    counts=st.lists(st.integers(0, 4), min_size=6, max_size=6).filter(any),
    optimizer=st.sampled_from([OPTIMIZERS["sgd"], OPTIMIZERS["momentum"]]),
)
@examples(15)
def test_a_weighted_example_is_that_example_repeated(lab, counts, optimizer):
    X, Y = data(6)
    options = {"epochs": 3, "optimizer": optimizer}
    net, twin = network(lab), network(lab)
    history = fit(lab, net, X, Y, batch_size=6, sample_weight=np.array(counts), **options)
    columns = np.repeat(np.arange(6), counts)
    repeated = fit(lab, twin, X[:, columns], Y[:, columns], batch_size=len(columns), **options)
    lab.assert_close(net.vector, vector(lab, twin), 1e-11)
    np.testing.assert_allclose(history.cost, repeated.cost, rtol=1e-11)


def test_weights_are_relative_to_all_examples_and_not_to_their_batch(lab):
    # with unit vectors as examples and the sum of outputs as the cost, weight i moves by -η/m · w_i
    net = network(lab, (5, 1), activations="linear", cost=SUM)
    before = arrays(lab, net)[0][0]
    weights = np.array([1.0, 2.0, 3.0, 4.0, 0.0])
    fit(
        lab,
        net,
        np.eye(5),
        np.zeros((1, 5)),
        epochs=1,
        batch_size=1,
        optimizer=bp.SGD(1.0),
        sample_weight=weights,
    )
    np.testing.assert_allclose(before - arrays(lab, net)[0][0], weights / 2, atol=1e-12)


def test_class_weights_multiply_the_weights_of_the_examples(lab):
    X, labels = blobs(10)
    weights = np.random.default_rng(0).random(10)
    options = {"activations": "softmax", "cost": "softmax_cross_entropy"}
    nets = [network(lab, (2, 2), **options) for _ in range(2)]
    fit(lab, nets[0], X, labels, sample_weight=weights, class_weight={0: 0.5, 1: 3})
    fit(lab, nets[1], X, labels, sample_weight=weights * np.where(labels, 3, 0.5))
    lab.assert_close(nets[0].vector, vector(lab, nets[1]), 1e-12)


EXAMPLE = Path(__file__).parents[2] / "examples" / "larger_than_memory.py"


@pytest.mark.skipif(sys.platform != "linux", reason="uses limits and figures of Linux's memory")
def test_a_map_is_trained_on_in_less_memory_than_it_is_long(tmp_path):
    """The system limits the private memory of the process."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--gib", "0.3", "--limit", "0.25", "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "in which an array of that length does not fit" in done.stdout
    anonymous = float(re.search(r"RssAnon\): (\S+) GiB", done.stdout)[1])
    assert 0 < anonymous < 0.2
    assert float(re.search(r"accuracy on the first 10,000: (\S+)", done.stdout)[1]) > 0.9
    assert not list(tmp_path.iterdir())


def test_batches_are_of_the_networks_backend(lab):
    batches = [(lab.array(np.ones((2, 3))), lab.array(np.zeros((1, 3))))]
    net = bp.Network([2, 1], rng=0)
    before = net.vector.copy()
    if lab.backend.name in ("numpy", "numba"):
        net.fit(batches, epochs=1, progress=False)
        return
    with pytest.raises(
        TypeError, match=r"batch 0: X is an array of .*; this network's backend is 'numpy'"
    ):
        net.fit(batches, epochs=1, progress=False)
    np.testing.assert_array_equal(net.vector, before)


@pytest.mark.parametrize("source", ["in memory", "per network"])
def test_the_targets_of_a_chunk_take_no_copy_of_all(source):
    N = 20_000
    X, Y = np.zeros((3, N), "float32"), np.zeros((10, N), "float32")
    if source == "in memory":
        found = resident.InMemory(bp.Network([3, 10]), X, Y, None, 10, True)
    else:
        found = PerNetwork(bp.Network([3, 10], stack=2), X, Y, None, 10, "each")
    first, *_, last = found.chunks(np.random.default_rng(0), lambda step, size: 20)
    first.outcomes()  # what all chunks share
    tracemalloc.start()
    last.outcomes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < Y.nbytes / 10
