"""An MPI of threads: each rank is one, and its communicator has the calls of mpi4py's that are used."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

IN_PLACE = object()
WAIT = 0.001  # seconds that an incomplete request's test gives to the other threads


class Communicator:
    """A rank's end of a communicator.

    Every collective call checks that all ranks make the same call with as many elements.
    """

    is_inter = False

    def __init__(self, rank, size, shared=None):
        self.rank, self.size = rank, size
        self.shared = shared
        self.calls = Counter()  # bytes that were handed over, by kind of call
        self.count = 0

    @classmethod
    def world(cls, size):
        shared = Shared(size)
        return [cls(rank, size, shared) for rank in range(size)]

    def Get_rank(self):  # noqa: N802
        return self.rank

    def Get_size(self):  # noqa: N802
        return self.size

    def Idup(self):  # noqa: N802
        new = Communicator(self.rank, self.size)
        new.calls = self.calls

        def done(shareds):
            new.shared = shareds[0]

        return new, self._call("dup", Shared(self.size), 0, done)

    def Free(self):  # noqa: N802
        self.shared.freed += 1

    def Abort(self, status):  # noqa: N802
        with self.shared.condition:
            self.shared.aborted = status

    def Iallgather(self, sent, table):  # noqa: N802
        def done(rows):
            table[...] = rows

        return self._call("allgather", sent.copy(), sent.nbytes, done)

    def Iallreduce(self, in_place, array):  # noqa: N802
        assert in_place is IN_PLACE and array.flags.c_contiguous
        self.calls["steps' sums"] += array.nbytes

        def done(arrays):
            array[...] = sum(arrays[1:], arrays[0])

        return self._call("allreduce", array.copy(), array.nbytes, done)

    def Ibcast(self, array, root):  # noqa: N802
        assert array.flags.c_contiguous

        def done(arrays):
            array[...] = arrays[root]

        return self._call("bcast", array.copy(), array.nbytes, done)

    def _call(self, kind, value, nbytes, done):
        self.calls[kind] += nbytes
        number, self.count = self.count, self.count + 1
        return self.shared.join(number, self.rank, kind, value, done)


class Shared:
    """What the ranks of a communicator have in common."""

    def __init__(self, size):
        self.size = size
        self.condition = threading.Condition()
        self.given = {}
        self.aborted = None
        self.freed = 0

    def join(self, number, rank, kind, value, done):
        with self.condition:
            call = self.given.setdefault(number, {})
            call[rank] = kind, value
            kinds = {(k, getattr(v, "nbytes", 0)) for k, v in call.values()}
            if len(kinds) > 1:
                self.aborted = f"ranks make different calls: {kinds}"
            self.condition.notify_all()
        return Request(self, number, done)


class Request:
    def __init__(self, shared, number, done):
        self.shared, self.number, self.done = shared, number, done

    def Test(self):  # noqa: N802
        shared = self.shared
        if self.done is None:
            return True
        with shared.condition:
            call = shared.given[self.number]
            if len(call) < shared.size:
                shared.condition.wait(WAIT)
            if shared.aborted is not None:
                raise AbortedError(shared.aborted)
            if len(call) < shared.size:
                return False
        self.done([call[rank][1] for rank in range(shared.size)])
        self.done = None
        return True


class AbortedError(BaseException):
    """What a rank ends with when another one aborts."""


def run(size, function):
    """``function(comm)`` on each rank: what it gives, or what it raises."""
    world = Communicator.world(size)

    def guarded(comm):
        try:
            return function(comm)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(guarded, world))


def results(size, function):
    """The same, where no rank may fail."""
    found = run(size, function)
    for thing in found:
        if isinstance(thing, BaseException):
            raise thing
    return found


def parts(array, sizes):
    """Columns of an array, so many for each rank."""
    return np.split(array, np.cumsum(sizes)[:-1], axis=-1)
