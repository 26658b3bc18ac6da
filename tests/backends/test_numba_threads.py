"""Steps on several threads: the same bits as on one, and barriers where one needs another's results."""

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
from bpengine.backends.numba.instruction import BARRIER, Instruction, partition
from bpengine.backends.numba.threads import ThreadPool

OPTIMIZERS = {
    "descent": bp.SGD(0.1),
    "momentum": bp.SGD(0.1, momentum=0.9),
    "adam": bp.Adam(0.01),
    "rmsprop": bp.RMSprop([0.01, 0.02, 0.01, 0.03, 0.01]),
    "clipped": bp.SGD(0.1, clip_norm=0.01, averaging=0.9),
}


@pytest.fixture
def use_threads(monkeypatch):
    """Set how many threads share all work that can be split, however little."""

    def choose(count):
        for name in ("threads", "usable_cores"):
            monkeypatch.setattr(threads.openblas, name, lambda: count)
        for name in ("MIN_WORK", "BARRIER_WORK", "MIN_SECONDS"):
            monkeypatch.setattr(threads, name, 0 if count > 1 else 1e12)
        monkeypatch.setattr(threads, "MAX_SHARE", 1.0)
        monkeypatch.setattr(threads.ThreadPool, "_parallel_is_faster", lambda self: True)

    return choose


@pytest.mark.parametrize(
    ("rule", "output", "count"),
    [
        ("descent", "sigmoid", 2),
        ("momentum", "softmax", 3),
        ("adam", "sigmoid", 3),
        ("rmsprop", "softmax", 2),
        ("clipped", "softmax", 3),
    ],
)
def test_several_threads_compute_the_same_bits_as_one(use_threads, monkeypatch, rule, output, count):
    cost = "softmax_cross_entropy" if output == "softmax" else "quadratic"
    rng = np.random.default_rng(0)
    X, Y = rng.random((6, 40)), np.eye(3)[:, rng.integers(0, 3, 40)]
    found, times = [], []
    parallel = ThreadPool._run_parallel
    monkeypatch.setattr(ThreadPool, "_run_parallel", lambda *args: times.append(1) or parallel(*args))
    for number in (1, count):
        use_threads(number)
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


def elementwise(rows, columns):
    """An elementwise instruction that is not run."""
    x = np.zeros((rows, columns), np.float32)
    fields = [1, rows, columns]
    for _ in range(4):
        fields += [x.ctypes.data, x.strides[0], 1]
    return Instruction(fields, "elementwise", 4)


def test_which_steps_are_distributed(monkeypatch):
    """Those that are long enough and have no product of the library, if there are several threads."""
    long, short = elementwise(64, 4000), elementwise(64, 4)
    library, other = Instruction([1], "library"), Instruction([1])
    for count, instructions, size in [
        (2, [long], 2),
        (2, [long, short], 2),
        (20, [long], 8),
        (1, [long], None),
        (2, [short], None),
        (2, [long, library], None),
        (2, [long, *[other] * 100], None),
    ]:
        for name in ("threads", "usable_cores"):
            monkeypatch.setattr(threads.openblas, name, lambda count=count: count)
        parts, pool = threads.distribute(instructions)
        assert getattr(pool, "size", None) == size
        assert len(parts) == len(instructions) * (size or 1)


steps = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=8
)


@given(step=steps, count=st.integers(2, 4), rows=st.integers(1, 9), columns=st.integers(1, 70))
@examples(60)
def test_a_thread_that_needs_what_another_writes_waits(step, count, rows, columns):
    """Operations on arrays, some transposed: between barriers no thread uses what another writes."""
    arrays = [np.zeros((rows, columns), np.float32) for _ in range(4)]

    def instruction(source, target, transposed, alone):
        x, out = arrays[source], arrays[target]
        x = x.reshape(columns, rows).T if transposed else x
        fields = [1, rows, columns]
        for y in (out, x, x, x):
            fields += [y.ctypes.data, y.strides[0], y.strides[1] // 4]
        return Instruction(fields, "" if alone else "elementwise", 4)

    def touched(part):
        """The addresses of the numbers that a part reads and writes."""
        if not part[0] or not part.form:
            return set(), set()
        _, m, n, *fields = part
        of = [
            {
                fields[at] + i * fields[at + 1] + 4 * j * fields[at + 2]
                for i in range(m)
                for j in range(n)
            }
            for at in (0, 3)
        ]
        return of[1], of[0]

    whole = [instruction(*arguments) for arguments in step]
    reads, writes = ([set() for _ in range(count)] for _ in range(2))
    done = list(partition(whole, count, []))
    assert done[-1][0][BARRIER]
    for one, parts in zip(whole, done, strict=True):
        if not one.form:
            assert parts[0][0] and not any(part[0] for part in parts[1:])
            assert not any(map(bool, reads + writes)), "other threads may still be busy"
        of_parts = list(map(touched, parts))
        assert set().union(*(w for _, w in of_parts)) == touched(one)[1]
        for i, (r, w) in enumerate(of_parts):
            reads[i] |= r
            writes[i] |= w
        for i in range(count):
            for j in range(count):
                assert i == j or not writes[i] & (reads[j] | writes[j])
        assert len({part[BARRIER] for part in parts}) == 1
        assert one.form or parts[0][BARRIER], "other threads may begin before it is done"
        if parts[0][BARRIER]:
            reads, writes = ([set() for _ in range(count)] for _ in range(2))


@pytest.mark.parametrize(
    ("error", "done"), [(RuntimeError("can't start new thread"), 50), (KeyboardInterrupt(), 0)]
)
def test_no_thread_waits_for_one_that_can_not_start(use_threads, monkeypatch, error, done):
    """One thread does it all where the system has no more; after Ctrl-C none has begun."""
    start, started, found = threading.Thread.start, [], []

    def refusing(thread):
        if started:
            raise error
        started.append(thread)
        start(thread)

    for number, steps in ((1, 1 + done), (3, 1)):
        use_threads(number)
        nets = bp.Network([6, 7, 3], backend="numba", rng=0, stack=6)
        plan = nets.plan(40, bp.SGD(0.1))
        plan.load(np.ones((6, 40)), np.ones((3, 40)))
        plan.run(steps)
        found.append(nets.vector)
    [(pool, (instructions, _))] = plan.program.calls
    monkeypatch.setattr(threading.Thread, "start", refusing)
    with contextlib.nullcontext() if done else pytest.raises(KeyboardInterrupt):
        pool(instructions, 50)
    assert len(started) == 1 and not started[0].is_alive()
    np.testing.assert_array_equal(*found)


def test_no_thread_waits_for_one_that_fails_at_its_start(use_threads, monkeypatch):
    found, part = [], threads._run_thread
    for number in (1, 3):
        use_threads(number)
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
    monkeypatch.setattr(threads, "_run_thread", failing)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    plan.run(50)
    np.testing.assert_array_equal(*(nets.vector for nets, _ in found))


def test_the_faster_way_is_used_and_the_other_timed_again(monkeypatch):
    monkeypatch.setattr(threads.openblas, "threads", lambda: 2)
    pool, ways, clock = ThreadPool(2), [], [0.0]
    cost = {"serial": 2.0, "parallel": 1.0}

    def run(way):
        def steps(instructions, count):
            ways.append((way, count))
            clock[0] += cost[way] * count
            return True

        return steps

    monkeypatch.setattr(threads, "replay", run("serial"))
    monkeypatch.setattr(pool, "_run_parallel", run("parallel"))
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])
    for _ in range(17):
        pool(None, 160)
    assert ways[:16] == [("serial", 160), *[("parallel", 160)] * 15]
    assert ways[16:] == [("serial", 10), ("parallel", 150)], "a few steps the slower way"
    cost["parallel"] = 30.0  # a core is busy
    ways.clear()
    for _ in range(100):
        pool(None, 160)
    assert ways[:2] == [("parallel", 160), ("serial", 160)]
    assert 2 <= ways.count(("parallel", 10)) <= 3, "less and less often"


def test_steps_longer_than_the_least_work_of_threads(monkeypatch):
    monkeypatch.setattr(threads.openblas, "threads", lambda: 2)
    pool, counts, clock = ThreadPool(2), [], [0.0]

    def run(instructions, count):
        counts.append(count)
        clock[0] += count
        return True

    monkeypatch.setattr(threads, "replay", run)
    monkeypatch.setattr(pool, "_run_parallel", run)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])
    for _ in range(40):
        pool(None, 1)
    assert counts == [1] * 40
