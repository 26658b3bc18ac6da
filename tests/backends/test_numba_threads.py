"""Plans shared out over cores: the same bits as on one, and waits wherever one core needs another's."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import bpengine as bp

pytest.importorskip("numba", reason="Numba is not installed")

from bpengine.backends.numba import threads
from bpengine.backends.numba.instruction import WAIT, Row, shared
from bpengine.backends.numba.threads import Team

OPTIMIZERS = {
    "descent": bp.SGD(0.1),
    "momentum": bp.SGD(0.1, momentum=0.9),
    "adam": bp.Adam(0.01),
    "rmsprop": bp.RMSprop([0.01, 0.02, 0.01, 0.03, 0.01]),
    "clipped": bp.SGD(0.1, clip_norm=0.01, averaging=0.9),
}


@pytest.fixture
def cores(monkeypatch):
    """Set how many cores share everything they can, however small."""

    def choose(count):
        monkeypatch.setattr(threads.openblas, "threads", lambda: count)
        for name in ("WORTH", "WAITING", "WORTH_STARTING"):
            monkeypatch.setattr(threads, name, 0 if count > 1 else 1e12)
        monkeypatch.setattr(threads, "SAVED", 1.0)
        monkeypatch.setattr(threads.Team, "_together_is_faster", lambda self: True)

    return choose


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("count", [2, 3])
def test_cores_together_make_the_same_bits_as_one(cores, monkeypatch, rule, output, count):
    cost = "softmax_cross_entropy" if output == "softmax" else "quadratic"
    rng = np.random.default_rng(0)
    X, Y = rng.random((6, 40)), np.eye(3)[:, rng.integers(0, 3, 40)]
    found, times = [], []
    together = Team._run_together
    monkeypatch.setattr(Team, "_run_together", lambda *args: times.append(1) or together(*args))
    for number in (1, count):
        cores(number)
        nets = bp.Network(
            [6, 7, 5, 3], ["tanh", "sigmoid", output], cost, "numba", rng=0, stack=5, dropout=0.2
        )
        nets.fit(X, Y, epochs=3, batch_size=4, optimizer=OPTIMIZERS[rule], progress=False)
        plan = nets.plan(40, OPTIMIZERS[rule])
        plan.load(X, Y)
        plan.run(50)
        found.append(nets.vector.copy())
        assert bool(times) == (number > 1)
    np.testing.assert_array_equal(*found)


def line(rows, columns):
    """An elementwise line that is not run."""
    x = np.zeros((rows, columns), np.float32)
    words = [1, rows, columns]
    for _ in range(4):
        words += [x.ctypes.data, x.strides[0], 1]
    return Row(words, "line", 4)


def test_what_is_shared_out(monkeypatch):
    """A step that is long enough, in which no product is the library's, and more cores than one."""
    long, short, library = line(64, 4000), line(64, 4), Row([1], "library")
    for cores, rows, size in [
        (2, [long], 2),
        (2, [long, short], 2),
        (20, [long], 8),
        (1, [long], None),
        (2, [short], None),
        (2, [long, library], None),
        (2, [long, *[Row([1])] * 100], None),
    ]:
        monkeypatch.setattr(threads.openblas, "threads", lambda cores=cores: cores)
        parts, team = threads.share(rows)
        assert getattr(team, "size", None) == size
        assert len(parts) == len(rows) * (size or 1)


lines = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=8
)


@given(lines=lines, count=st.integers(2, 4), rows=st.integers(1, 9), columns=st.integers(1, 70))
@examples(60)
def test_whoever_needs_what_another_writes_waits(lines, count, rows, columns):
    """Lines between arrays, some transposed: between waits no core touches what another writes."""
    arrays = [np.zeros((rows, columns), np.float32) for _ in range(4)]

    def row(source, target, turned, alone):
        x, out = arrays[source], arrays[target]
        x = x.reshape(columns, rows).T if turned else x
        words = [1, rows, columns]
        for y in (out, x, x, x):
            words += [y.ctypes.data, y.strides[0], y.strides[1] // 4]
        return Row(words, "" if alone else "line", 4)

    def touched(part):
        """Which numbers a part of a line reads and writes, one by one."""
        if not part[0] or not part.form:
            return set(), set()
        _, m, n, *words = part
        of = [
            {words[at] + i * words[at + 1] + 4 * j * words[at + 2] for i in range(m) for j in range(n)}
            for at in (0, 3)
        ]
        return of[1], of[0]

    whole = [row(*line) for line in lines]
    reads, writes = ([set() for _ in range(count)] for _ in range(2))
    done = list(shared(whole, count, []))
    assert done[-1][0][WAIT]
    for line, parts in zip(whole, done, strict=True):
        if not line.form:
            assert parts[0][0] and not any(part[0] for part in parts[1:])
            assert not any(map(bool, reads + writes)), "others may still be busy"
        of_parts = list(map(touched, parts))
        assert set().union(*(w for _, w in of_parts)) == touched(line)[1]
        for i, (r, w) in enumerate(of_parts):
            reads[i] |= r
            writes[i] |= w
        for i in range(count):
            for j in range(count):
                assert i == j or not writes[i] & (reads[j] | writes[j])
        assert len({part[WAIT] for part in parts}) == 1
        assert line.form or parts[0][WAIT], "others may begin before it is done"
        if parts[0][WAIT]:
            reads, writes = ([set() for _ in range(count)] for _ in range(2))


@pytest.mark.parametrize(
    ("error", "done"), [(RuntimeError("can't start new thread"), 50), (KeyboardInterrupt(), 0)]
)
def test_where_a_thread_cannot_start_nobody_waits_for_ever(cores, monkeypatch, error, done):
    """One core does it all where there are no more threads; after Ctrl-C none has begun."""
    start, started, found = threading.Thread.start, [], []

    def refusing(thread):
        if started:
            raise error
        started.append(thread)
        start(thread)

    for number, steps in ((1, 1 + done), (3, 1)):
        cores(number)
        nets = bp.Network([6, 7, 3], backend="numba", rng=0, stack=6)
        plan = nets.plan(40, bp.SGD(0.1))
        plan.load(np.ones((6, 40)), np.ones((3, 40)))
        plan.run(steps)
        found.append(nets.vector)
    [(team, (table, _))] = plan.program.calls
    monkeypatch.setattr(threading.Thread, "start", refusing)
    with contextlib.nullcontext() if done else pytest.raises(KeyboardInterrupt):
        team(table, 50)
    assert len(started) == 1 and not started[0].is_alive()
    np.testing.assert_array_equal(*found)


def test_a_core_that_fails_before_it_begins_is_not_waited_for(cores, monkeypatch):
    found, part = [], threads._part_of_core
    for number in (1, 3):
        cores(number)
        nets = bp.Network([6, 7, 3], backend="numba", rng=0, stack=6)
        plan = nets.plan(40, bp.SGD(0.1))
        plan.load(np.ones((6, 40)), np.ones((3, 40)))
        found.append((nets, plan))

    def failing(*arguments):
        if arguments[-1] == 2:
            raise MemoryError
        return part(*arguments)

    (_, alone), (_, plan) = found
    alone.run(50)
    monkeypatch.setattr(threads, "_part_of_core", failing)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    plan.run(50)
    np.testing.assert_array_equal(*(nets.vector for nets, _ in found))


def test_the_way_that_is_faster_is_taken_and_the_other_tried_again(monkeypatch):
    monkeypatch.setattr(threads.openblas, "threads", lambda: 2)
    team, ways, clock = Team(2), [], [0.0]
    cost = {"alone": 2.0, "together": 1.0}

    def run(way):
        def steps(table, count):
            ways.append((way, count))
            clock[0] += cost[way] * count
            return True

        return steps

    monkeypatch.setattr(threads, "replay", run("alone"))
    monkeypatch.setattr(team, "_run_together", run("together"))
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])
    assert team.steps_in(0.1) == 1, "never timed"
    for _ in range(17):
        team(None, 160)
    assert ways[:16] == [("alone", 160), *[("together", 160)] * 15]
    assert ways[16:] == [("alone", 10), ("together", 150)], "a few steps of what is slower"
    assert team.steps_in(30.0) == 30
    cost["together"] = 30.0  # a core is busy
    ways.clear()
    for _ in range(100):
        team(None, 160)
    assert ways[:2] == [("together", 160), ("alone", 160)]
    assert 2 <= ways.count(("together", 10)) <= 3, "ever more seldom"
    assert team.steps_in(30.0) == 15


def test_a_step_longer_than_what_threads_are_started_for_is_a_step(monkeypatch):
    monkeypatch.setattr(threads.openblas, "threads", lambda: 2)
    team, counts, clock = Team(2), [], [0.0]

    def run(table, count):
        counts.append(count)
        clock[0] += count
        return True

    monkeypatch.setattr(threads, "replay", run)
    monkeypatch.setattr(team, "_run_together", run)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])
    for _ in range(40):
        team(None, 1)
    assert counts == [1] * 40
