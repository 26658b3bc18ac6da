"""When steps use BLAS's threads: as the times say, on a clock of the test; the number is set back."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import bpengine as bp
from bpengine import openblas
from bpengine.backends import blas_threads
from bpengine.backends.blas_threads import RETRY, BLASThreads


@pytest.fixture
def machine(monkeypatch):
    """A machine of two cores, on which a step takes `seconds[threads]`, and OpenBLAS has two threads."""

    class Machine:
        def __init__(self):
            self.threads, self.cores, self.now = 2, 2, 0.0
            self.seconds, self.used = {1: 2e-3, 2: 1e-3}, []

        def steps(self, count):
            self.used += [self.threads] * count
            self.now += count * self.seconds[self.threads]

    found = Machine()
    functions = {
        "get_num_threads": lambda: found.threads,
        "set_num_threads": lambda number: setattr(found, "threads", number),
    }
    monkeypatch.setattr(openblas, "FOUND", functions)
    monkeypatch.setattr(openblas, "usable_cores", lambda: found.cores)
    monkeypatch.setattr(openblas, "within_cores", openblas.Limit(lambda: found.cores))
    monkeypatch.setattr(blas_threads, "rate_of_one_thread", lambda: 2e10)
    monkeypatch.setattr(blas_threads.time, "perf_counter", lambda: found.now)
    return found


def small():
    """The threads of steps with large products."""
    return BLASThreads(bp.Network([784, 100, 10], rng=0).plan(128, bp.SGD()).operations)


def test_a_quiet_machine_uses_the_threads_alone(machine):
    small().run(machine.steps, 1000)
    assert set(machine.used) == {2}


def test_threads_that_lose_are_given_up_and_tried_again(machine):
    threads = small()
    threads.run(machine.steps, 100)
    machine.used.clear()
    machine.seconds[2] = 0.04
    threads.run(machine.steps, 2000)
    assert machine.used.count(2) < 20
    assert machine.threads == 2
    machine.seconds[2] = 1e-3
    machine.used.clear()
    threads.run(machine.steps, 5000)
    assert machine.used[-1000:] == [2] * 1000


def test_threads_that_lose_from_the_first_step_on(machine):
    machine.seconds[2] = 0.04
    small().run(machine.steps, RETRY)
    assert machine.used == [2] * 3 + [1] * (RETRY - 3)


def test_a_single_slow_step_changes_nothing(machine):
    threads = small()
    for _ in range(50):
        threads.run(machine.steps, 20)
        machine.seconds[2] = 0.04
        threads.run(machine.steps, 1)
        machine.seconds[2] = 1e-3
    assert set(machine.used) == {2}


def test_small_products_have_no_threads(machine):
    machine.seconds[2] = 1.0
    threads = BLASThreads(bp.Network([784, 30, 10], rng=0).plan(10, bp.SGD()).operations)
    threads.run(machine.steps, 100)
    assert set(machine.used) == {2}


@pytest.mark.parametrize("fails", [False, True])
def test_no_more_threads_than_cores_and_the_number_set_back(machine, fails):
    machine.cores = 1

    def steps(count):
        machine.steps(count)
        if fails:
            raise KeyboardInterrupt

    try:
        small().run(steps, 10)
    except KeyboardInterrupt:
        assert fails
    assert set(machine.used) == {1}
    assert machine.threads == 2


def test_limits_within_limits_in_several_threads(machine):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with openblas.one_thread:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with openblas.one_thread, openblas.within_cores:
        assert machine.threads == 1
    assert machine.threads == 1  # the other is still inside
    leave.set()
    thread.join()
    assert machine.threads == 2


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 1", None)])
def test_the_quota_of_a_container(monkeypatch, tmp_path, text, cores):
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(openblas, "QUOTA_FILE", str(file))
    assert openblas._quota.__wrapped__() is None
    file.write_text(text)
    assert openblas._quota.__wrapped__() == cores


def test_the_number_of_threads_is_openblas_own():
    before = openblas.threads()
    if before is None:
        pytest.skip("NumPy has no OpenBLAS here")
    with openblas.one_thread:
        assert openblas.threads() == 1
        np.ones((300, 300)) @ np.ones((300, 300))
    assert openblas.threads() == before
