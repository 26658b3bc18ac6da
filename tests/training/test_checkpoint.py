"""Checkpoints: a training that is killed, at any moment, and run again ends as if it had not been."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, looped, stored
from trainings import (
    OPTIMIZERS,
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
from bpengine.model import files, storage

DRIVER = '''
"""Trains in child processes that are killed again and again, and prints what came of it."""
import json, mmap, os, pathlib, random, signal, sys, time
import numpy as np
import bpengine as bp
from bpengine import callbacks
from bpengine.data import resident, source
from bpengine.model import files, safetensors
from bpengine.network import fit
from bpengine.training import checkpoint, loop, steps

MODULES = [callbacks, checkpoint, safetensors, fit, files, resident, source, loop, steps]
FILES = {module.__file__: module.__name__.rpartition(".")[2] for module in MODULES}
LINES = 12_000  # of these modules that a killed child runs at most: to resume, and some epochs
EPOCHS = 40
# modules in which the first kills come: in steps, in writing a checkpoint, in logs and early stopping
FIRST = "steps", "files", "callbacks", "source"


def train(folder, suffix):
    net = bp.Network(
        [2, 8, 2], "tanh", "quadratic", backend="numpy", rng=1, dropout=[0.1, 0.2], l2=1e-3
    )
    X, labels = bp.datasets.circles(400, rng=0)
    path = folder / f"run{suffix}"
    history = net.fit(
        X,
        bp.one_hot(labels, 2),
        epochs=EPOCHS,
        batch_size=16,
        optimizer=bp.Adam(bp.schedules.Cosine(0.02, epochs=EPOCHS), averaging=0.9),
        validation=0.25,
        shuffle=50,
        monitor=7,
        callbacks=[
            bp.EarlyStopping(patience=3, min_delta=3e-3),
            bp.CSVLog(folder / "log.csv"),
            bp.JSONLinesLog(folder / "log.jsonl"),
            bp.Checkpoint(path),
        ],
        resume=path,
        progress=False,
    )
    found = {name: value for name, value in history.as_dict().items() if name != "seconds"}
    (folder / "history.json").write_text(json.dumps(found))
    net.save(folder / "net.npz")


def kill_at(line, place, only):
    """This process kills itself as that line of training is about to run, counted as they are run.

    With a module `only`, lines of that module are counted.
    """
    left = [line]

    def trace(frame, event, argument):
        name = FILES.get(frame.f_code.co_filename)
        if name is None or only not in (None, name):
            return None
        if event == "line":
            left[0] -= 1
            if not left[0]:
                place[:] = name.ljust(len(place)).encode()
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def child(folder, suffix, line=None, place=None, only=None):
    pid = os.fork()
    if pid:
        return pid
    try:
        if line is not None:
            kill_at(line, place, only)
        train(folder, suffix)
        sys.settrace(None)
        os._exit(0)
    except BaseException:
        sys.settrace(None)
        import traceback

        traceback.print_exc()
    os._exit(1)


def completed(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def by_the_clock(folder, suffix, rng, whole):
    """Kill children at random times; gives how many there were before one came to the end."""
    for kills in range(1000):
        pid = child(folder, suffix)
        # longer and longer, so that one comes to the end however busy the machine is
        time.sleep(whole * rng.random() * (0.4 + 0.05 * kills))
        os.kill(pid, signal.SIGKILL)
        if completed(pid):
            return kills


def by_the_line(folder, suffix, rng, places):
    place = mmap.mmap(-1, 20)
    for kills in range(1000):
        only = FIRST[kills] if kills < len(FIRST) else None
        line = rng.randint(1, LINES if only is None else 80)
        if completed(child(folder, suffix, line, place, only)):
            return kills
        places.append(place[:].decode().strip())


def main(folder, suffix, seed, least):
    folder, rng = pathlib.Path(folder), random.Random(seed)
    (folder / "straight").mkdir()
    start = time.perf_counter()
    assert completed(child(folder / "straight", suffix))
    whole = time.perf_counter() - start
    kills, places, runs = {"clock": 0, "line": 0}, [], 0
    while min(kills.values()) < least:
        for how in kills:
            runs += 1
            here = folder / f"{how} {runs}"
            here.mkdir()
            if how == "clock":
                kills[how] += by_the_clock(here, suffix, rng, whole)
            else:
                kills[how] += by_the_line(here, suffix, rng, places)
            # once more, when all is done
            assert completed(child(here, suffix))
    print(json.dumps({"kills": kills, "runs": runs, "places": {p: places.count(p) for p in places}}))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
'''


def without_times(path):
    """A log without the column of seconds."""
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column = rows[0].index("seconds")
    return [row[:column] + row[column + 1 :] for row in rows]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")
@pytest.mark.parametrize(("suffix", "least"), [(".npz", 10), (".safetensors", 4)])
def test_a_training_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, suffix, least):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    driver = tmp_path / "driver.py"
    driver.write_text(textwrap.dedent(DRIVER), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "utf8", driver, tmp_path, suffix, "0", str(least)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    calls = json.loads(done.stdout)
    assert min(calls["kills"].values()) >= least
    assert {"steps", "files", "callbacks", "source"} <= set(calls["places"])

    straight = tmp_path / "straight"
    expected = json.loads((straight / "history.json").read_text())
    assert 5 < len(expected["cost"]) < 40  # it has stopped early
    assert 0 < expected["best_epoch"] == len(expected["cost"]) - 3
    steps = [(entry["epoch"], entry["step"]) for entry in expected["monitored"]]
    assert steps[-1][0] == len(expected["cost"])
    net = bp.load(straight / "net.npz")
    _, checkpoint = stored(straight / f"run{suffix}")
    assert any(name.startswith("state_callback") for name in checkpoint)
    folders = [path for path in tmp_path.iterdir() if path.is_dir() and path != straight]
    assert len(folders) == calls["runs"]
    for folder in folders:
        np.testing.assert_array_equal(bp.load(folder / "net.npz").vector, net.vector)
        assert json.loads((folder / "history.json").read_text()) == expected
        for log in ("log.csv", "log.jsonl"):
            assert without_times(folder / log) == without_times(straight / log)
        assert not list(folder.glob(f"run{suffix}*.part"))
        _, found = stored(folder / f"run{suffix}")
        assert found.keys() == checkpoint.keys()
        for name, array in checkpoint.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


class Crash(bp.Callback):
    """Ends the training with an error after an epoch."""

    def __init__(self, after):
        self.after = after

    def epoch(self, training):
        if training.epoch == self.after:
            raise ZeroDivisionError


class Anew:
    """Batches without a length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@given(
    optimizer=optimizers,
    dropout=st.sampled_from([0.0, 0.4]),
    dtype=st.sampled_from(["float32", "float64"]),
    suffix=st.sampled_from([".npz", ".safetensors"]),
    source=st.sampled_from(["shuffled", "windows", "batches"]),
    validation=st.sampled_from([None, 0.3]),
    monitor=st.sampled_from([None, "epoch", 4]),
    every=st.integers(1, 3),
    crashes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    generator=st.sampled_from(["PCG64", "MT19937", "Philox", "SFC64"]),
)
@examples(40)
def test_a_resumed_training_ends_as_one_in_one_go(
    lab,
    tmp_path_factory,
    optimizer,
    dropout,
    dtype,
    suffix,
    source,
    validation,
    monitor,
    every,
    crashes,
    generator,
):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("run") / f"run{suffix}"
    X, Y = data(11)

    def run(*callbacks, resume=None):
        rng = np.random.Generator(getattr(np.random, generator)(5))
        net = network(lab, dtype=dtype, dropout=dropout, rng=rng)
        options = {
            "epochs": 6,
            "optimizer": optimizer,
            "monitor": monitor,
            "callbacks": [bp.EarlyStopping(patience=2, min_delta=1e-4), *callbacks],
            "resume": resume,
        }
        if source == "batches":
            stream = [tuple(lab.array(x[:, i : i + 4]) for x in (X, Y)) for i in (0, 4, 8)]
            return net, net.fit(Anew(stream), progress=False, **options)
        options |= {"shuffle": source == "shuffled" or 3, "validation": validation}
        return net, fit(lab, net, X, Y, **options)

    expected, history = run()
    for after in crashes:
        try:
            run(bp.Checkpoint(path, every=every), Crash(after), resume=path)
        except ZeroDivisionError:
            continue
        break
    net, found = run(bp.Checkpoint(path, every=every), resume=path)
    assert_alike(lab, net, expected)
    assert in_steps(found) == in_steps(history)
    assert len(found.seconds) == len(found.cost)
    for _ in range(2):  # done: nothing is left to do
        again, same = run(bp.Checkpoint(path, every=every), resume=path)
        assert_same(lab, again, arrays(lab, expected))
        assert same.as_dict() == found.as_dict()


@pytest.mark.parametrize("crash", [1, 2, 3])
def test_a_schedule_goes_on_over_batches_of_unknown_number(lab, tmp_path, crash):
    """Its fractions of an epoch are of as many steps as the epoch before had."""
    path, rates = tmp_path / "run.npz", []

    def run(*callbacks, resume=None):
        stream = [tuple(lab.array(x[:, i : i + 4]) for x in data(12)) for i in (0, 4, 8)]

        def rate(epoch):
            rates.append(epoch)
            return 0.1 / (1 + epoch)

        net = network(lab)
        del rates[:]
        net.fit(
            Anew(stream),
            epochs=4,
            optimizer=bp.SGD(rate),
            callbacks=callbacks,
            resume=resume,
            progress=False,
        )
        return net, sorted(rates)[2:]  # the first is asked for beforehand, and by the plan

    expected, asked = run()
    np.testing.assert_allclose(asked[:3] + asked[-3:], [0, 0, 0, 3, 3 + 1 / 3, 3 + 2 / 3])
    with pytest.raises(ZeroDivisionError):
        run(bp.Checkpoint(path), Crash(crash + 1), resume=path)
    net, again = run(bp.Checkpoint(path), resume=path)
    assert_same(lab, net, arrays(lab, expected))
    assert again == asked[-len(again) :]


def options(path, **more):
    return {"callbacks": [bp.Checkpoint(path)], "resume": path, **more}


def test_where_there_is_no_checkpoint_training_starts_at_the_first_epoch(lab, tmp_path):
    net, twin = network(lab), network(lab)
    path = tmp_path / "run.npz"
    history = fit(lab, net, *data(), **options(path))
    assert len(history.cost) == 2
    fit(lab, twin, *data())
    assert_same(lab, net, arrays(lab, twin))
    assert_same(lab, bp.load(path, backend=lab.backend), arrays(lab, net))


@looped("optimizer", OPTIMIZERS)
@looped("callbacks", [[], [bp.EarlyStopping()]])
def test_more_epochs_than_before(lab, tmp_path, optimizer, callbacks):
    """A run that was complete goes on where it ended."""
    path = tmp_path / "run.npz"
    path.unlink(missing_ok=True)
    optimizer = OPTIMIZERS[optimizer]
    for epochs in (2, 3, 3, 5):
        net = network(lab, dropout=0.2)
        history = fit(
            lab,
            net,
            *data(),
            epochs=epochs,
            optimizer=optimizer,
            callbacks=[bp.Checkpoint(path), *callbacks],
            resume=path,
        )
        assert len(history.cost) == epochs
    twin = network(lab, dropout=0.2)
    straight = fit(lab, twin, *data(), epochs=5, optimizer=optimizer, callbacks=callbacks)
    assert_alike(lab, net, twin)
    assert in_steps(history) == in_steps(straight)


def test_fewer_epochs_than_before_train_no_further(lab, tmp_path):
    path = tmp_path / "run.npz"
    net, again = network(lab), network(lab)
    history = fit(lab, net, *data(), epochs=4, **options(path))
    found = fit(lab, again, *data(), epochs=2, **options(path))
    assert_same(lab, again, arrays(lab, net))
    assert found.as_dict() == history.as_dict()


def test_a_run_that_has_stopped_early_trains_no_further(lab, tmp_path):
    path = tmp_path / "run.npz"
    X, labels = blobs(8)
    # what is learned from one half of the labels is wrong for the other
    pair = tuple(map(lab.array, (X, 1 - labels)))

    def run(epochs):
        net = network(lab, (2, 2), activations="softmax", cost="softmax_cross_entropy")
        callbacks = [bp.Checkpoint(path), bp.EarlyStopping(patience=2)]
        return net, fit(
            lab, net, X, labels, epochs=epochs, validation=pair, callbacks=callbacks, resume=path
        )

    net, history = run(10)
    assert (len(history.cost), history.best_epoch) == (3, 1)
    for epochs in (10, 50):
        again, found = run(epochs)
        assert_same(lab, again, arrays(lab, net))
        assert found.as_dict() == history.as_dict()


def test_ctrl_c_and_on(lab, tmp_path):
    """Steps since the last checkpoint are taken again."""
    path = tmp_path / "run.npz"

    class Press(bp.Callback):
        def steps(self, training, count):
            if training.epoch == 2:
                raise KeyboardInterrupt

    net, twin = network(lab), network(lab)
    history = fit(lab, net, *data(), epochs=5, callbacks=[bp.Checkpoint(path), Press()], resume=path)
    assert (history.interrupted, len(history.cost)) == (True, 2)
    again = network(lab)
    found = fit(lab, again, *data(), epochs=5, **options(path))
    fit(lab, twin, *data(), epochs=5)
    assert_same(lab, again, arrays(lab, twin))
    assert (found.interrupted, len(found.cost)) == (False, 5)


def test_callbacks_without_a_memory_may_come_and_go(lab, tmp_path, capsys):
    path = tmp_path / "run.npz"
    fit(lab, network(lab), *data(), epochs=1, progress=True, **options(path))
    net, twin = network(lab), network(lab)
    seen = []
    callbacks = [lambda training: seen.append(training.epoch), bp.Checkpoint(path), bp.EarlyStopping()]
    fit(lab, net, *data(), epochs=3, callbacks=callbacks, resume=path)
    assert seen == [2, 3]
    fit(lab, twin, *data(), epochs=3)
    lab.assert_close(net.vector, vector(lab, twin), 1e-2)


def test_early_stopping_that_comes_later_begins_then(lab, tmp_path):
    path = tmp_path / "run.npz"
    fit(lab, network(lab), *data(), epochs=2, **options(path))
    stop = bp.EarlyStopping(patience=1, min_delta=100)
    fit(lab, network(lab), *data(), epochs=5, callbacks=[stop])  # what it saw there is no matter
    callbacks = [bp.Checkpoint(path), stop]
    history = fit(lab, network(lab), *data(), epochs=9, callbacks=callbacks, resume=path)
    assert (len(history.cost), history.best_epoch) == (4, 3)


class Counter(bp.Callback):
    """Remembers a number, an array of integers and one of floats."""

    def __init__(self):
        self.count, self.whole, self.real = 0, np.zeros(2, "int64"), np.zeros((1, 3), "float32")
        self.calls = []

    def start(self, training):
        self.calls.append(("start", training.epoch, self.count))

    def epoch(self, training):
        self.count += 1
        self.whole, self.real = self.whole + 1, self.real + 0.5

    def state_dict(self):
        return {"count": self.count, "whole": self.whole, "real": self.real}

    def load_state_dict(self, memory):
        self.calls.append(("recall", sorted(memory)))
        self.count = memory.get("count", 0)
        self.whole = memory.get("whole", self.whole)
        self.real = memory.get("real", self.real)


def test_a_callback_of_ones_own_remembers(lab, tmp_path):
    path = tmp_path / "run.npz"
    first, second = [[Counter(), Counter()] for _ in range(2)]
    first[1].count = 10
    fit(lab, network(lab), *data(), epochs=2, callbacks=[*first, bp.Checkpoint(path)])
    fit(lab, network(lab), *data(), epochs=3, callbacks=[*second, bp.Checkpoint(path)], resume=path)
    assert [callback.count for callback in second] == [3, 13]
    for callback in second:
        assert callback.calls == [
            ("recall", ["count", "real", "whole"]),
            ("start", 2, callback.count - 1),
        ]
        for found, value, dtype in ((callback.whole, 3, "int64"), (callback.real, 1.5, "float32")):
            assert dtype in str(found.dtype)
            assert (np.asarray(lab.numpy(found) if lab.backend.owns(found) else found) == value).all()
    assert first[0].calls == [("start", 0, 0)]


def refused(lab, path, message, net=None, **more):
    """The error of a resumed training names the file, and the network is left as it was."""
    net = network(lab, dropout=0.1) if net is None else net
    before, state = arrays(lab, net), copy.deepcopy(net.rng.bit_generator.state)
    with pytest.raises(ValueError, match=message) as caught:
        fit(lab, net, *data(), epochs=9, resume=path, **{"optimizer": bp.Adam(), **more})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_same(lab, net, before)
    np.testing.assert_equal(net.rng.bit_generator.state, state)


@pytest.fixture
def checkpoint(lab, tmp_path):
    """A checkpoint of `network(lab)`, of Adam and early stopping."""
    path = tmp_path / "run.npz"
    callbacks = [bp.Checkpoint(path), bp.EarlyStopping()]
    fit(lab, network(lab, dropout=0.1), *data(), optimizer=bp.Adam(), callbacks=callbacks)
    return path


STOP = {"callbacks": [bp.EarlyStopping()]}
ANOTHER = {
    "sizes": (
        lambda lab: {"net": network(lab, (3, 5, 2)), **STOP},
        r"no checkpoint to resume from: the file's network has sizes \[3, 4, 2\], this one \[3, 5, 2\]",
    ),
    "sizes, without a memory": (
        lambda lab: {"net": network(lab, (3, 4, 4, 2)), **STOP},
        "no checkpoint to resume from: the file's network has sizes",
    ),
    "dtype": (
        lambda lab: {"net": network(lab, dtype="float32"), **STOP},
        "the file's network has dtype 'float64', this one 'float32'",
    ),
    "activations": (
        lambda lab: {"net": network(lab, activations="tanh"), **STOP},
        r"the file's network has activations \['sigmoid', 'sigmoid'\], this one \['tanh', 'tanh'\]",
    ),
    "cost": (
        lambda lab: {"net": network(lab, cost="binary_cross_entropy"), **STOP},
        "the file's network has cost 'quadratic', this one 'binary_cross_entropy'",
    ),
    "generator": (
        lambda lab: {"net": network(lab, rng=np.random.Generator(np.random.SFC64(0))), **STOP},
        "it is of a training with random numbers from PCG64, not SFC64",
    ),
    "optimizer": (
        lambda lab: {"optimizer": bp.SGD(), **STOP},
        "it is of a training with optimizer Adam, not SGD",
    ),
    "averaging": (lambda lab: {"optimizer": bp.Adam(averaging=0.9), **STOP}, "it has no .state_average"),
    "callbacks": (
        lambda lab: {},
        "it holds what a callback EarlyStopping remembers, and this training has none of that kind",
    ),
}


@pytest.mark.parametrize("case", ANOTHER)
def test_a_checkpoint_of_another_training_is_refused(lab, checkpoint, case):
    make, message = ANOTHER[case]
    refused(lab, checkpoint, message, **make(lab))


def test_sgd_of_other_sizes_is_refused_too(lab, tmp_path):
    path = tmp_path / "run.npz"
    fit(lab, network(lab), *data(), **options(path))
    refused(
        lab,
        path,
        r"the file's network has sizes \[3, 4, 2\], this one \[3, 5, 2\]",
        net=network(lab, (3, 5, 2)),
        optimizer=bp.SGD(),
    )


def test_a_network_is_no_checkpoint(lab, tmp_path):
    path = tmp_path / "net.npz"
    network(lab).save(path)
    refused(lab, path, "no checkpoint to resume from: it has no .training")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 nor this"])
def test_a_foreign_file_is_refused(lab, tmp_path, content):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    refused(lab, path, "is no network that bpengine can read")


def test_a_folder_is_refused(lab, tmp_path):
    refused(lab, tmp_path, "but a folder")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(lab, checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    refused(lab, checkpoint, "or it is damaged", **STOP)


def test_a_file_with_any_byte_changed_is_refused_or_as_good(lab, checkpoint):
    content = checkpoint.read_bytes()
    rng = np.random.default_rng(0)
    whole = network(lab, dropout=0.1)
    fit(lab, whole, *data(), epochs=3, optimizer=bp.Adam(), resume=checkpoint, **STOP)
    outcomes = set()
    for position in rng.choice(len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        checkpoint.write_bytes(damaged)
        net = network(lab, dropout=0.1)
        before = arrays(lab, net)
        try:
            fit(lab, net, *data(), epochs=3, optimizer=bp.Adam(), resume=checkpoint, **STOP)
        except ValueError as error:
            assert str(checkpoint) in str(error)
            assert_same(lab, net, before)
            outcomes.add("refused")
        else:  # such as a date in the archive, which nothing depends on
            assert_same(lab, net, arrays(lab, whole))
    assert outcomes == {"refused"}


def changed(path, change):
    """Write a checkpoint anew with its description and its arrays changed."""
    description, held = stored(path)
    change(description["training"], held)
    files.write(path, description, held)


WRONG = {
    "no epoch": (lambda t, a: t.pop("epoch"), "it has no .epoch"),
    "no history": (lambda t, a: t.pop("history"), "it has no .history"),
    "an epoch of text": (
        lambda t, a: t.update(epoch="two"),
        "its epoch is 'two', expected a whole number",
    ),
    "a history of text": (lambda t, a: t.update(history="text"), ""),
    "a cost of text": (lambda t, a: t["history"].update(cost=["x"]), "its cost is 'x'"),
    "figures that are none": (lambda t, a: t["history"].update(monitored=[{"a": 1}]), "argument"),
    "no random state": (lambda t, a: t.update(random={}), ""),
    "callbacks of another form": (lambda t, a: t.update(callbacks=3), ""),
    "a best that is none": (
        lambda t, a: t["callbacks"][0][1].update(best="x"),
        "its best figure is 'x'",
    ),
    "no state": (
        lambda t, a: [a.pop(name) for name in list(a) if name.startswith("state_g")],
        "it has no .state_",
    ),
    "a state of another shape": (
        lambda t, a: a.update({name: a[name][:-1] for name in a if name.startswith("state_w")}),
        r"state_\w+ has shape \(1,\)",
    ),
    "a state of text": (
        lambda t, a: a.update({name: a[name].astype(str) for name in a if name.startswith("state_w")}),
        r"state_\w+ has shape \(2,\) and dtype",
    ),
    "no weights": (lambda t, a: a.pop("weights_0"), "it has no .?weights_0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_of_another_content_is_refused(lab, checkpoint, case):
    change, message = WRONG[case]
    changed(checkpoint, change)
    refused(lab, checkpoint, f"no checkpoint to resume from: .*{message}", **STOP)


BEST = "state_callback_0_parameters"  # of early stopping
NO_COUNT = (-3, 10**30, 2.7, True, None, "2", [2], {})
NO_FIGURE = (True, None, "0.5", [[0.5]], {})
VALUES = {  # of a training: which of its values is replaced, and by what
    ("epoch",): (*NO_COUNT, 1, 3),
    ("steps",): NO_COUNT,
    ("taken",): NO_COUNT,
    ("stopped",): (0, 1, "no", None),
    ("optimizer",): (None, 3, "SGD"),
    ("history", "cost"): ([], [0.5], [0.5] * 3, 2, None, *([0.5, x] for x in NO_FIGURE)),
    ("history", "seconds"): ([], [0.5], [0.5] * 3, *([0.5, x] for x in NO_FIGURE)),
    ("history", "validation_cost"): ([0.5] * 3, *([x] for x in NO_FIGURE)),
    ("history", "learning_rate"): ([0.5] * 3, [[0.5, 0.1]]),
    ("history", "best_epoch"): (-1, 3, 1.5, [1], "1"),
    ("callbacks", 0, 1, "best"): (float("nan"), *NO_FIGURE),
    ("callbacks", 0, 1, "best_epoch"): (*NO_COUNT, 3),
    ("callbacks", 0, 1, "waited"): NO_COUNT,
    ("callbacks", 0, 1): ([], 3, None),
    ("callbacks",): ([3], [["EarlyStopping"]], {"EarlyStopping": 3}),
    ("random", "state", "state"): (-1, 2**128, 0.5, None),
    ("random", "has_uint32"): (-1, 2, 0.5),
    ("random", "uinteger"): (-1, 2**32),
}


def replaced(training, keys, value):
    *path, last = keys
    for key in path:
        training = training[key]
    training[last] = value


def test_no_value_of_a_checkpoint_is_believed(lab, checkpoint):
    content = checkpoint.read_bytes()
    stop = bp.EarlyStopping()
    before = copy.deepcopy(vars(stop))
    # numbers are read alike on all backends
    for keys, values in VALUES.items() if lab.name == "numpy" else ():
        for value in values:
            checkpoint.write_bytes(content)
            changed(checkpoint, lambda t, a, k=keys, v=value: replaced(t, k, v))
            try:
                refused(lab, checkpoint, "no checkpoint to resume from", callbacks=[stop])
            except BaseException as error:
                error.add_note(f"{keys}: {value!r}")
                raise
    arrays_ = {
        BEST: (np.zeros(1), np.full(26, np.nan), np.zeros(26, "float32"), np.zeros((26, 1))),
        "weights_0": (np.full((4, 3), np.nan), np.zeros((3, 4))),
    }
    for name, values in arrays_.items():
        for value in values:
            checkpoint.write_bytes(content)
            changed(checkpoint, lambda t, a, n=name, v=value: a.update({n: v}))
            refused(lab, checkpoint, "no checkpoint to resume from", callbacks=[stop])
    assert vars(stop) == before


POSITIONS = {
    "MT19937": ("state", "pos", 624),
    "Philox": ("buffer_pos", 4),
    "SFC64": ("has_uint32", 1),
    "PCG64DXSM": ("uinteger", 2**32 - 1),
}


@looped("generator", POSITIONS)
def test_positions_of_generators_are_within_their_buffers(lab, tmp_path, generator):
    path = tmp_path / f"{generator}.npz"
    *keys, most = POSITIONS[generator]

    def net():
        return network(lab, rng=np.random.Generator(getattr(np.random, generator)(5)))

    fit(lab, net(), *data(), callbacks=[bp.Checkpoint(path)])
    for value in (most + 1, most + 10**9, -1, 1.5, 10**30):
        changed(path, lambda t, a, v=value: replaced(t["random"], keys, v))
        refused(lab, path, "no checkpoint to resume from", net=net(), optimizer=bp.SGD())
    changed(path, lambda t, a: replaced(t["random"], keys, most))
    assert len(fit(lab, net(), *data(), epochs=3, resume=path).cost) == 3


def test_callbacks_are_restored_all_or_none(lab, checkpoint):
    changed(checkpoint, lambda t, a: t["callbacks"].insert(0, ["Counter", {"count": 7}]))
    changed(checkpoint, lambda t, a: a.update({BEST.replace("_0_", "_1_"): a.pop(BEST)}))
    changed(checkpoint, lambda t, a: replaced(t, ("callbacks", 1, 1, "waited"), -1))
    counter = Counter()
    refused(lab, checkpoint, "epochs? waited|waited is -1", callbacks=[counter, bp.EarlyStopping()])
    assert counter.count == 0


def test_leftovers_of_killed_runs_are_removed_but_not_of_others(lab, tmp_path):
    path = tmp_path / "run.npz"
    names = ["run.npz.0123abcd.part", "run.npz.ABCD0123.part", "other.npz.0123abcd.part", "run.npz.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"half of it")
    with storage.replacing(path) as file:  # of another run, which is not killed
        fit(lab, network(lab), *data(), epochs=1, callbacks=[bp.Checkpoint(path)])
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert sorted(os.listdir(tmp_path)) == sorted([*names[1:], "run.npz"])


def test_a_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    fcntl, flock = pytest.importorskip("fcntl"), storage.fcntl.flock
    removed = []

    def remove_first(file, how):
        if not removed:
            removed.append(file.name)
            os.unlink(file.name)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    bp.Network([2, 1]).save(tmp_path / "net.npz")
    assert removed and os.listdir(tmp_path) == ["net.npz"]


@looped("name", ["absent/run.npz", ".", "pipe"])
def test_a_checkpoint_that_can_t_be_written_is_an_error_before_training(lab, tmp_path, name):
    log, other = tmp_path / "log.csv", network(lab)
    log.write_text("of the run before", encoding="utf-8")
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    before, random = arrays(lab, other), copy.deepcopy(other.rng.bit_generator.state)
    with pytest.raises(OSError, match=name.partition("/")[0]):
        fit(lab, other, *data(), callbacks=[bp.CSVLog(log), bp.Checkpoint(tmp_path / name)])
    assert_same(lab, other, before)
    np.testing.assert_equal(other.rng.bit_generator.state, random)
    assert log.read_text(encoding="utf-8") == "of the run before"


def test_a_checkpoint_replaces_the_one_before_and_leaves_nothing_else(lab, tmp_path):
    path = tmp_path / "run.npz"
    seen = []

    def look(training):
        found = bp.load(path, backend=lab.backend) if path.exists() else None
        seen.append(None if found is None else vector(lab, found))
        seen.append(vector(lab, training.network))

    fit(lab, network(lab), *data(), epochs=3, callbacks=[look, bp.Checkpoint(path)])
    assert os.listdir(tmp_path) == ["run.npz"]
    # before an epoch's checkpoint is written, the file is the epoch's before it
    before, after = seen[::2], seen[1::2]
    assert before[0] is None
    for found, expected in zip(before[1:], after, strict=False):
        np.testing.assert_array_equal(found, expected)
