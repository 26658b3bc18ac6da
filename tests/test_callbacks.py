"""Callbacks: when each is called, what it may do, and what logs and progress show."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import signal
import sys

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples, looped
from trainings import OPTIMIZERS, arrays, assert_same, blobs, data, fit, in_steps, network, vector

import bpengine as bp
from bpengine import callbacks
from bpengine.callbacks import Progress


class Calls(bp.Callback):
    """Notes in a list that others may share what it is called with, and when."""

    def __init__(self, notes, name="", fails=None, at=None):
        self.notes, self.name, self.fails, self.at = notes, name, fails, at

    def note(self, what, training, *more):
        self.notes.append((self.name, what, training.epoch, *more))
        if what == self.fails and self.at in (None, training.epoch):
            raise ZeroDivisionError(f"{self.name} in {what}")

    def start(self, training):
        self.note("start", training)

    def steps(self, training, count):
        self.note("steps", training, count)

    def epoch(self, training):
        self.note("epoch", training)

    def end(self, training):
        self.note("end", training)


def test_the_order_of_calls(lab, monkeypatch):
    monkeypatch.setattr("bpengine.training.steps.READBACK_STEPS", (2, 2))
    notes = []
    X, Y = data(10)
    pair = lab.array(X), lab.array(Y)
    fit(
        lab,
        network(lab),
        X,
        Y,
        epochs=2,
        batch_size=3,
        validation=pair,
        callbacks=[
            Calls(notes),
            lambda training: notes.append(("function", len(training.history.validation_cost))),
        ],
    )
    epoch = [("", "steps", 0, 2), ("", "steps", 0, 1), ("", "steps", 0, 1), ("", "epoch", 1)]
    assert notes == [
        ("", "start", 0),
        *epoch,
        ("function", 1),
        *[(name, what, at + 1, *more) for name, what, at, *more in epoch],
        ("function", 2),
        ("", "end", 2),
    ]


def test_what_a_training_shows(lab):
    seen = []

    def look(training):
        seen.append((training.epoch, training.epochs, training.steps, training.steps_taken))
        assert training.network is net
        assert training.optimizer is optimizer
        assert len(training.history.cost) == training.epoch

    net, optimizer = network(lab), bp.SGD(0.25)
    fit(lab, net, *data(10), epochs=3, batch_size=4, optimizer=optimizer, callbacks=[look])
    assert seen == [(1, 3, 3, 3), (2, 3, 3, 6), (3, 3, 3, 9)]


def test_checkpoints_come_last(lab, tmp_path):
    """They hold what the others have seen."""
    notes = []

    class Noting(bp.Checkpoint):
        def epoch(self, training):
            notes.append("checkpoint")

    fit(
        lab,
        network(lab),
        *data(),
        epochs=1,
        callbacks=[Noting(tmp_path / "run.npz"), lambda training: notes.append("function")],
    )
    assert notes == ["function", "checkpoint"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_callback_ends_training(lab, at):
    notes = []

    def stop(training):
        if training.epoch == at:
            training.stop()

    net, twin = network(lab), network(lab)
    history = fit(lab, net, *data(), epochs=3, callbacks=[stop, Calls(notes)])
    assert len(history.cost) == at
    assert not history.interrupted
    assert notes[-2:] == [("", "epoch", at), ("", "end", at)]
    fit(lab, twin, *data(), epochs=at)
    assert_same(lab, net, arrays(lab, twin))


def test_training_that_is_stopped_as_it_starts_takes_no_step(lab):
    class Stop(bp.Callback):
        def start(self, training):
            training.stop()

    net = network(lab)
    before = arrays(lab, net)
    assert fit(lab, net, *data(), callbacks=[Stop()]).cost == []
    assert_same(lab, net, before)


@pytest.mark.parametrize(
    ("fails", "at", "ended"),
    [
        ("start", None, ["first"]),
        ("steps", 0, ["first", "second", "third"]),
        ("epoch", 2, ["first", "second", "third"]),
        ("end", None, ["first", "second", "third"]),
    ],
)
def test_an_error_in_a_callback_is_raised_and_the_others_are_ended(lab, fails, at, ended):
    notes = []
    callbacks = [Calls(notes, "first"), Calls(notes, "second", fails, at), Calls(notes, "third")]
    net, twin = network(lab), network(lab)
    with pytest.raises(ZeroDivisionError, match=f"second in {fails}"):
        fit(lab, net, *data(8), epochs=3, callbacks=callbacks)
    assert [name for name, what, *_ in notes if what == "end"] == ended
    epochs = {"start": 0, "steps": 1, "epoch": 2, "end": 3}[fails]
    if epochs:
        fit(lab, twin, *data(8), epochs=epochs)
    assert_same(lab, net, arrays(lab, twin))


def test_callbacks_are_ended_after_a_cost_that_is_not_finite(lab):
    notes = []
    with pytest.raises(bp.NonFiniteCostError):
        fit(
            lab,
            network(lab, activations="linear", dtype="float32"),
            *data(),
            epochs=50,
            optimizer=bp.SGD(1e30),
            callbacks=[Calls(notes)],
        )
    assert notes[-1][1] == "end"


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (
            [bp.EarlyStopping],
            r"callbacks must be bpengine.Callback objects or functions .*EarlyStopping",
        ),
        ([3], "got 3"),
        ([None], "got None"),
        (bp.EarlyStopping(), r"callbacks must be a list, such as \[bp.EarlyStopping\(\)\]"),
        (print, "callbacks must be a list"),
        ("log.csv", "callbacks must be a list"),
    ],
)
def test_what_is_no_list_of_callbacks_is_refused(lab, callbacks, message):
    with pytest.raises(TypeError, match=message):
        fit(lab, network(lab), *data(), callbacks=callbacks)


class Script(bp.Callback):
    """Writes the figures that others are to see, and keeps the parameters of each epoch."""

    def __init__(self, lab, name, figures):
        self.lab, self.name, self.figures = lab, name, figures
        self.seen = []

    def epoch(self, training):
        getattr(training.history, self.name)[-1] = self.figures[training.epoch - 1]
        self.seen.append(vector(self.lab, training.network))


def stopped_by_hand(figures, patience, min_delta, greatest):
    """The epoch after which training stops, and the best one."""
    best, at, waited = None, 0, 0
    for epoch, figure in enumerate(figures, 1):
        figure = figure if greatest else -figure
        if math.isnan(figure):
            figure = -math.inf
        if best is None or figure > best + min_delta:
            best, at, waited = figure, epoch, 0
        else:
            waited += 1
        if waited == patience:
            break
    return epoch, at


figures = st.lists(
    st.sampled_from([0.1, 0.2, 0.3, 0.35, 0.5, 0.9, math.inf, math.nan]), min_size=6, max_size=6
)


@given(
    monitor=st.sampled_from([None, "cost", "validation_cost", "validation_accuracy"]),
    figures=figures,
    patience=st.integers(1, 4),
    min_delta=st.sampled_from([0.0, 0.06, 0.2]),
    validated=st.booleans(),
    averaging=st.sampled_from([None, 0.9]),
    restore=st.booleans(),
)
@example(
    monitor=None,
    figures=[math.nan, 0.3, 0.2, 0.4, 0.4, 0.4],
    patience=2,
    min_delta=0.0,
    validated=False,
    averaging=None,
    restore=True,
)
@examples(60)
def test_early_stopping(lab, monitor, figures, patience, min_delta, validated, averaging, restore):
    X, labels = blobs(12)
    validated = validated or monitor in ("validation_cost", "validation_accuracy")
    pair = tuple(lab.array(x) for x in (X, labels)) if validated else None
    net = network(lab, (2, 2), activations="softmax", cost="softmax_cross_entropy")
    name = monitor or ("validation_cost" if validated else "cost")
    script = Script(lab, name, figures)
    stop = bp.EarlyStopping(patience, min_delta, monitor, restore)
    history = fit(
        lab,
        net,
        X,
        labels,
        epochs=6,
        validation=pair,
        optimizer=bp.SGD(0.5, averaging=averaging),
        callbacks=[script, stop],
    )
    last, best = stopped_by_hand(figures, patience, min_delta, name == "validation_accuracy")
    assert len(history.cost) == last
    assert history.best_epoch == (best if restore else None)
    wanted = script.seen[best - 1] if restore else script.seen[-1]
    np.testing.assert_array_equal(vector(lab, net), wanted)


def test_early_stopping_can_be_used_again(lab):
    X, Y = data()
    stop = bp.EarlyStopping(patience=1)
    for _ in range(2):
        net = network(lab)
        script = Script(lab, "cost", [0.5, 0.1, 0.4])
        history = fit(lab, net, X, Y, epochs=3, callbacks=[script, stop])
        assert (len(history.cost), history.best_epoch) == (3, 2)
        np.testing.assert_array_equal(vector(lab, net), script.seen[1])


def test_ctrl_c_with_early_stopping_leaves_the_best_parameters(lab):
    script = Script(lab, "cost", [0.5, 0.1, 0.4, 0.4, 0.4])

    def press(training):
        if training.epoch == 4:
            signal.raise_signal(signal.SIGINT)

    net = network(lab)
    history = fit(lab, net, *data(), epochs=5, callbacks=[script, bp.EarlyStopping(), press])
    assert history.interrupted
    assert history.best_epoch == 2
    np.testing.assert_array_equal(vector(lab, net), script.seen[1])


FIGURES = {  # of epochs; the best is another in the third, where interrupts come
    None: [0.5, 0.4, 0.3],
    3: np.array([[0.5, 0.5, 0.5], [0.4, 0.6, 0.4], [0.3, 0.4, 0.45]]),
}


def interrupted_fit(lab, P, averaging, at=None):
    """Ctrl-C at a line of the third epoch or the end: network, history, parameters, lines run."""
    armed, lines = [], []

    def trace(frame, event, argument):
        if frame.f_code.co_filename != callbacks.__file__:
            return None
        if event == "line" and armed:
            lines.append(frame.f_lineno)
            if len(lines) == at:
                raise KeyboardInterrupt
        return trace

    def arm(training):
        if training.epoch == 2:  # of a stack, one network has stopped when the next begins
            armed.append(True)

    net = network(lab, (2, 2, 1), stack=P, rng=0)
    script, stop = Script(lab, "cost", FIGURES[P]), bp.EarlyStopping(patience=1)
    options = {"epochs": 3, "batch_size": 6, "optimizer": bp.SGD(0.5, averaging=averaging)}
    before, history = sys.gettrace(), None
    sys.settrace(trace)
    try:
        history = fit(lab, net, *data(6, 2, 1), callbacks=[script, arm, stop], **options)
    except KeyboardInterrupt:
        assert at is not None
    finally:
        sys.settrace(before)
    return net, history, script.seen, lines


@looped(("P", "averaging"), [(None, 0.9), (3, None)])
def test_ctrl_c_at_any_line_leaves_the_parameters_of_the_best_epoch(lab, P, averaging):
    """Of every network of a stack, whole; or training had ended, and those of some epoch are there."""
    if lab.name != "numpy":
        return  # these lines are the same for all, and tracing is slow
    net, history, seen, lines = interrupted_fit(lab, P, averaging)
    assert len(lines) > 20
    split = net.parameters.split if P else lambda θ: [θ[None]]
    epochs = [split(θ) for θ in seen]
    whole = 0
    for at in range(1, len(lines) + 1):
        net, history, *_ = interrupted_fit(lab, P, averaging, at)
        for p in range(P or 1):
            found = [block[p] for block in split(net.vector)]
            same = [
                all((a == b[p]).all() for a, b in zip(found, blocks, strict=True)) for blocks in epochs
            ]
            assert any(same), lines[at - 1]
            if history is not None:
                assert same[np.ravel(history.best_epoch)[p] - 1], lines[at - 1]
                whole += 1
    assert whole > len(lines) / 2


@pytest.mark.parametrize("monitor", ["validation_cost", "validation_accuracy"])
def test_early_stopping_without_what_it_watches_says_what_to_give(lab, monitor):
    net = network(lab)
    before = arrays(lab, net)
    with pytest.raises(ValueError, match=rf"EarlyStopping\(monitor='{monitor}'\) .*fit\(validation=…\)"):
        fit(lab, net, *data(), callbacks=[bp.EarlyStopping(monitor=monitor)])
    assert_same(lab, net, before)


def test_early_stopping_on_the_accuracy_needs_classes(lab):
    pair, net = tuple(map(lab.array, data())), network(lab)
    before = arrays(lab, net)
    with pytest.raises(ValueError, match=r"nothing to monitor: .* with classes as targets"):
        fit(
            lab,
            net,
            *data(),
            validation=pair,
            callbacks=[bp.EarlyStopping(monitor="validation_accuracy")],
        )
    assert_same(lab, net, before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience must be 1 or more"),
        ({"patience": 1.5}, TypeError, "patience must be a whole number"),
        ({"min_delta": -1}, ValueError, "min_delta must be 0 or more"),
        (
            {"monitor": "validation_loss"},
            ValueError,
            "unknown monitor .* Here it is 'validation_cost'",
        ),
    ],
)
def test_arguments_of_early_stopping_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        bp.EarlyStopping(**options)


def test_a_checkpoint_is_written_every_so_many_epochs_and_at_the_end(lab, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(
        "bpengine.training.checkpoint.save",
        lambda training, path: written.append((training.epoch, path)),
    )
    path = tmp_path / "run.npz"
    fit(lab, network(lab), *data(), epochs=7, callbacks=[bp.Checkpoint(path, every=3)])
    assert written == [(3, path), (6, path), (7, path)]
    del written[:]
    stop = [lambda training: training.epoch == 2 and training.stop(), bp.Checkpoint(path, every=3)]
    fit(lab, network(lab), *data(), epochs=7, callbacks=stop)
    assert written == [(2, path)]
    for every, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="every"):
            bp.Checkpoint(path, every=every)


LOGS = {"csv": bp.CSVLog, "jsonl": bp.JSONLinesLog}


def read(path):
    """A log's lines as dicts of floats, None for what is not finite."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":

        def refuse(constant):
            raise AssertionError(f"{constant} is not JSON")

        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [
        {name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())
    ]


def logged(history):
    """What a log of that history is to hold."""
    names = ("cost", "validation_cost", "validation_accuracy", "learning_rate", "seconds")
    columns = {name: getattr(history, name) for name in names if getattr(history, name)}
    return [
        {"epoch": i + 1, **{name: column[i] for name, column in columns.items()}}
        for i in range(len(history.cost))
    ]


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("kind", LOGS)
def test_a_log_holds_the_figures_of_each_epoch_as_it_is_over(lab, tmp_path, kind, validated):
    X, labels = blobs(12)
    pair = tuple(map(lab.array, (X, labels))) if validated else None
    net = network(lab, (2, 2), activations="softmax", cost="softmax_cross_entropy")
    path = tmp_path / f"log.{kind}"
    path.write_text("what was there before", encoding="utf-8")
    lengths = []
    history = fit(
        lab,
        net,
        X,
        labels,
        epochs=3,
        validation=pair,
        optimizer=bp.SGD(bp.schedules.Cosine(0.5, epochs=3)),
        monitor="epoch",
        callbacks=[LOGS[kind](path), lambda training: lengths.append(len(read(path)))],
    )
    assert lengths == [1, 2, 3]
    assert read(path) == logged(history)
    assert list(read(path)[0]) == [
        "epoch",
        "cost",
        *(["validation_cost", "validation_accuracy"] if validated else []),
        "learning_rate",
        "seconds",
    ]
    again = fit(lab, net, X, labels, epochs=2, callbacks=[LOGS[kind](path)])
    assert read(path) == logged(again)


def test_json_has_no_word_for_infinity(lab, tmp_path):
    net = network(lab, (1, 1), activations="linear", dtype="float32")
    pair = lab.array(np.array([[1e30]])), lab.array(np.zeros((1, 1)))
    path = tmp_path / "log.jsonl"
    callbacks = [bp.JSONLinesLog(path), bp.CSVLog(tmp_path / "log.csv")]
    fit(lab, net, np.zeros((1, 4)), np.zeros((1, 4)), validation=pair, callbacks=callbacks)
    assert [line["validation_cost"] for line in read(path)] == [None, None]
    assert [row["validation_cost"] for row in read(tmp_path / "log.csv")] == [math.inf, math.inf]


@given(
    first=st.integers(1, 3),
    epochs=st.integers(1, 4),
    every=st.integers(1, 2),
    killed=st.sampled_from(["", "1,0.5,0.1", "half a li"]),
)
@pytest.mark.parametrize("kind", LOGS)
@examples(12)
def test_a_resumed_log_has_each_epoch_once(lab, tmp_path_factory, kind, first, epochs, every, killed):
    """Whatever was written after the checkpoint that training goes on from."""
    folder = tmp_path_factory.mktemp("logs")
    path, log = folder / "run.npz", folder / f"log.{kind}"
    options = {"callbacks": [bp.Checkpoint(path, every=every), LOGS[kind](log)], "resume": path}
    options["optimizer"] = OPTIMIZERS["adam"]

    class Kill(bp.Callback):
        def epoch(self, training):
            if training.epoch == first:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(
            lab,
            network(lab),
            *data(),
            epochs=9,
            **{**options, "callbacks": [*options["callbacks"], Kill()]},
        )
    with open(log, "a", encoding="utf-8") as file:
        file.write(killed)
    net = network(lab)
    history = fit(lab, net, *data(), epochs=first + epochs, **options)
    assert read(log) == logged(history)
    assert len(history.cost) == first + epochs
    twin = network(lab)
    straight = fit(lab, twin, *data(), epochs=first + epochs, optimizer=OPTIMIZERS["adam"])
    assert_same(lab, net, arrays(lab, twin))
    assert in_steps(history) == in_steps(straight)


@pytest.mark.parametrize("kind", LOGS)
def test_a_resumed_log_that_is_gone_begins_where_training_does(lab, tmp_path, kind):
    path, log = tmp_path / "run.npz", tmp_path / f"log.{kind}"
    options = {"callbacks": [bp.Checkpoint(path), LOGS[kind](log)], "resume": path}
    fit(lab, network(lab), *data(), epochs=2, **options)
    log.unlink()
    history = fit(lab, network(lab), *data(), epochs=4, **options)
    assert read(log) == logged(history)[2:]


@pytest.mark.parametrize("kind", LOGS)
def test_a_log_that_can_t_be_written_is_an_error_before_training(lab, tmp_path, kind):
    net = network(lab)
    before = arrays(lab, net)
    with pytest.raises(OSError, match="absent"):
        fit(lab, net, *data(), callbacks=[LOGS[kind](tmp_path / "absent" / "log")])
    assert_same(lab, net, before)


@pytest.mark.parametrize("kind", LOGS)
def test_a_log_that_can_t_be_continued_leaves_the_network_as_it_was(lab, tmp_path, kind, monkeypatch):
    path, log = tmp_path / "run.npz", tmp_path / f"log.{kind}"
    options = {"callbacks": [bp.Checkpoint(path), LOGS[kind](log)], "resume": path}
    fit(lab, network(lab), *data(), **options)
    log.unlink()
    log.mkdir()
    net = network(lab)
    before = arrays(lab, net)
    with pytest.raises(OSError, match="a folder"):
        fit(lab, net, *data(), epochs=4, **options)
    log.rmdir()
    log.write_bytes(b"\xff, no text" if kind == "csv" else b"a line without an end")
    monkeypatch.setattr(callbacks, "LINE_BYTES", 8)
    with pytest.raises(ValueError, match="no log of a training"):
        fit(lab, net, *data(), epochs=4, **options)
    assert_same(lab, net, before)


LINE = r"epoch {}/3: cost \S+, validation cost \S+, accuracy [01]\.\d{{4}}"


def shown(lab, capsys, **options):
    X, labels = blobs(10)
    net = network(lab, (2, 2), activations="softmax", cost="softmax_cross_entropy")
    pair = tuple(map(lab.array, (X, labels)))
    options = {"epochs": 3, "progress": True, "validation": pair, **options}
    fit(lab, net, X, labels, **options)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_progress_is_a_bar_of_steps(lab, capsys):
    err = shown(lab, capsys)
    assert "9/9 [" in err  # 3 epochs of 3 steps
    assert re.search(LINE.format(3), err)
    assert err.endswith("\n")


def test_progress_is_a_line_an_epoch_without_tqdm(lab, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    err = shown(lab, capsys)
    assert re.fullmatch("".join(LINE.format(i) + r"\n" for i in (1, 2, 3)), err)
    assert re.fullmatch(r"epoch 1/1: cost \S+\n", shown(lab, capsys, epochs=1, validation=None))


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_of_a_resumed_run_starts_where_it_is(lab, capsys, monkeypatch, tmp_path, tqdm):
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    path = tmp_path / "run.npz"
    options = {"callbacks": [bp.Checkpoint(path)], "resume": path}
    shown(lab, capsys, epochs=2, **options)
    err = shown(lab, capsys, **options)
    assert ("6/9 [" in err and "9/9 [" in err) if tqdm else err.count("\n") == 1
    assert "epoch 3/3: " in err and "epoch 2/3: " not in err


def test_progress_over_batches_of_unknown_number_has_no_end(lab, capsys):
    X, Y = map(lab.array, data(4))
    network(lab).fit((pair for pair in [(X, Y)] * 5), epochs=1)
    err = capsys.readouterr().err
    assert "5step [" in err
    assert "epoch 1/1: cost" in err


def test_progress_can_be_given_as_a_callback(lab, capsys):
    assert "9/9 [" in shown(lab, capsys, progress=False, callbacks=[Progress()])


def test_the_bar_is_closed_after_an_error(lab, capsys):
    def fail(training):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shown(lab, capsys, callbacks=[fail])
    assert capsys.readouterr().err.endswith("\n")


def test_a_callback_that_changes_parameters_trains_on_from_them(lab):
    class Halve(bp.Callback):
        def epoch(self, training):
            training.network.vector[...] = training.network.vector / 2

    X, Y = data()
    net, twin = network(lab), network(lab)
    fit(lab, net, X, Y, epochs=3, callbacks=[Halve()])
    for _ in range(3):
        fit(lab, twin, X, Y, epochs=1)
        twin.vector[...] = twin.vector / 2
    assert_same(lab, net, arrays(lab, twin))


@looped(("P", "averaging"), [(None, None), (None, 0.9), (3, None), (3, 0.9)])
def test_parameters_set_after_the_last_epoch_stay(lab, P, averaging):
    def set_parameters(training):
        if P and training.epoch == 1:
            training.stop_networks([0])
        if training.is_last:
            training.network.vector[...] = 0.5

    net = network(lab, stack=P)
    fit(lab, net, *data(), callbacks=[set_parameters], optimizer=bp.SGD(0.5, averaging=averaging))
    assert (vector(lab, net) == 0.5).all()


def test_a_callback_that_changes_averaged_parameters_begins_a_new_average(lab):
    seen = []

    class Set(bp.Callback):
        def epoch(self, training):
            if training.epoch == 2:
                training.network.vector[...] = 0.5
            seen.append(vector(lab, training.network))

    X, Y = data(6)
    net, twin = network(lab), network(lab)
    optimizer = bp.SGD(0.1, averaging=0.999)
    options = {"batch_size": 6, "shuffle": False}
    fit(lab, net, X, Y, epochs=4, optimizer=optimizer, callbacks=[Set()], **options)
    twin.vector[...] = 0.5
    after = []
    fit(
        lab,
        twin,
        X,
        Y,
        epochs=2,
        optimizer=bp.SGD(0.1),
        callbacks=[lambda training: after.append(vector(lab, twin))],
        **options,
    )
    np.testing.assert_array_equal(seen[1], 0.5)
    np.testing.assert_allclose(seen[2], after[0], rtol=1e-14)
    np.testing.assert_allclose(seen[3], (after[0] + after[1]) / 2, rtol=1e-14)
    np.testing.assert_array_equal(vector(lab, net), seen[3])


def test_a_function_is_called_once_an_epoch_on_every_kind_of_training(lab):
    counts = itertools.count()
    net = network(lab, activations=[bp.Activation("own", tanh, lambda a: 1 - a * a, "a"), "sigmoid"])
    fit(lab, net, *data(), epochs=5, callbacks=(lambda training: next(counts),))
    assert next(counts) == 5


def tanh(z):
    return array_namespace(z).tanh(z)
