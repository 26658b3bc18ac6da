"""Collective operations on any mpi4py communicator: agree, sum, broadcast, and common errors.

Every call polls up to a deadline, which detects a rank that does not respond. At control points all
ranks exchange a fixed number of values. A rank that fails completes the pending sums and reports the
error at the next control point; all ranks then raise it, with no MPI request pending.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, Self

import numpy as np

from bpengine.backends import Array, Backend

__all__ = ["Group", "Host", "HostSum", "Parts", "RankError", "StagedSum", "pieces"]

Host = np.ndarray[Any, Any]
Parts = Sequence[tuple[int, int]]  # start and stop of each part of a vector

PIECE_BYTES = 2**22  # of one all-reduce: larger ones exceed the cache
SPINS = 100  # polls before a waiting rank yields its core
FLUSH_SECONDS = 0.3  # for the launcher to print a message before Abort
WIDTH = 8  # values of a rank at a control point
FAILED, INTERRUPTED = -1.0, -2.0  # control points of errors
_yield: Callable[[], None] = getattr(os, "sched_yield", partial(time.sleep, 0))  # not on Windows


class RankError(RuntimeError):
    """Training has ended because of an error on another rank.

    Attributes
    ----------
    rank : int
        The rank of the error.
    """

    def __init__(self, rank: int, message: str) -> None:
        self.rank = rank
        super().__init__(message)


class Group:
    """The ranks that train together, with a duplicate of the communicator; a context manager.

    The duplicate separates the messages from the user's. A rank waits `timeout` seconds for the others
    before it aborts the program.
    """

    def __init__(self, comm: Any, timeout: float) -> None:
        self._mpi = _module(comm)
        self.rank, self.size, self.timeout = int(comm.Get_rank()), int(comm.Get_size()), timeout
        self.interrupts = 0  # how often Ctrl-C was pressed on this rank
        self.where = "the start"  # the position in training, for messages
        # takes part in the other ranks' sums before their next control point
        self.finish: Callable[[], None] = _nothing
        self._given = comm
        self._agreed: BaseException | None = None
        self._ended = False
        self.comm, request = comm.Idup()
        self.wait(request)

    def __enter__(self) -> Self:
        self._restore_signal = _listen(self._interrupt)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self.agree(0.0)
            elif not (self._ended or self.knows(error)):
                self._notify(error)
        finally:
            self._restore_signal()
        self.comm.Free()

    def as_agreed(self, error: BaseException) -> BaseException:
        """Register `error` as the one that all ranks raise."""
        self._agreed = error
        return error

    def knows(self, error: BaseException) -> bool:
        """Whether all ranks raise `error`."""
        return error is self._agreed

    def agree(self, kind: float, *values: float) -> Host:
        """A control point: gather the values of all ranks, shape (ranks, 7).

        Parameters
        ----------
        kind : float
            The control point, 0 or above, the same on all ranks.
        *values : float
            At most 7.

        Raises
        ------
        RankError, KeyboardInterrupt
            If another rank has failed or was interrupted.
        """
        table = self._gather(kind, *values)
        kinds = table[:, 0]
        if (kinds == FAILED).any():
            failed = int(np.argmax(kinds == FAILED))
            raise self.as_agreed(RankError(failed, self.broadcast_object("", failed)))
        if (kinds == INTERRUPTED).any():
            raise self.as_agreed(KeyboardInterrupt())
        if (kinds != kind).any():
            other = int(np.argmax(kinds != kind))
            raise self.as_agreed(
                RankError(
                    other,
                    f"rank {other} is elsewhere in its training than rank {self.rank}, which is in "
                    f"{self.where}. Training ends on all ranks. Were they given the same arguments?",
                )
            )
        return table[:, 1:]

    def interrupt(self) -> None:
        """Notify the others that this rank was interrupted."""
        self.finish()
        self._gather(INTERRUPTED)

    def sum(self, array: Host) -> None:
        """Sum a contiguous array over the ranks in place, bitwise equal on all of them."""
        if self.size > 1:
            for piece in pieces(array.reshape(-1)):
                self.wait(self.start_sum(piece))

    def start_sum(self, piece: Host) -> Any:
        """Begin the sum of a piece over the ranks, in place; return the request to `wait` for."""
        return self.comm.Iallreduce(self._mpi.IN_PLACE, piece)

    def broadcast(self, array: Host) -> None:
        """Broadcast rank 0's contiguous array into that of every rank."""
        for piece in pieces(array.reshape(-1)):
            self.wait(self.comm.Ibcast(piece, 0))

    def broadcast_object(self, thing: Any, root: int = 0) -> Any:
        """Broadcast a picklable object from `root`."""
        data = np.frombuffer(pickle.dumps(thing), "uint8").copy()
        length = np.array([data.size], "int64")
        self.wait(self.comm.Ibcast(length, root))
        if self.rank != root:
            data = np.empty(int(length[0]), "uint8")
        for piece in pieces(data):
            self.wait(self.comm.Ibcast(piece, root))
        return pickle.loads(data.tobytes())

    def wait(self, request: Any) -> None:
        """Poll until a request is complete; abort the program after `timeout`."""
        spins, deadline = 0, 0.0
        try:
            while not request.Test():
                spins += 1
                if spins < SPINS:
                    continue
                _yield()
                if spins == SPINS:
                    deadline = time.monotonic() + self.timeout
                elif spins % 16 == 0 and time.monotonic() > deadline:
                    self.end(
                        f"rank {self.rank} has waited {self.timeout:g} s for the others: one of them "
                        "has died or fallen silent"
                    )
        except getattr(self._mpi, "Exception", ()) as error:
            self.end(f"rank {self.rank} can't reach the others any more ({error})")

    def end(self, reason: str) -> NoReturn:
        """Abort the program on all ranks, with one message."""
        time.sleep(min(2 * FLUSH_SECONDS * self.rank, 5.0))  # the first to print aborts the others
        sys.stdout.flush()
        print(
            f"bpengine: {reason}. Training ends on all {self.size} ranks, in {self.where}; go on from "
            "the last checkpoint with fit(…, resume=path).",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(FLUSH_SECONDS)
        self._ended = True
        self._given.Abort(1)
        raise SystemExit(1)  # if Abort returns

    def _gather(self, *sent: float) -> Host:
        values, table = np.zeros(WIDTH), np.empty((self.size, WIDTH))
        values[: len(sent)] = sent
        self.wait(self.comm.Iallgather(values, table))
        return table

    def _notify(self, error: BaseException) -> None:
        """Report the error at the others' next control point."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.end(f"rank {self.rank} was ended by {type(error).__name__}")
        self.finish()
        kinds = self._gather(FAILED)[:, 0]
        text = (
            f"rank {self.rank} of {self.size} has failed in {self.where}: {type(error).__name__}: "
            f"{error} Training ends on all ranks."
        )
        self.broadcast_object(text, int(np.argmax(kinds == FAILED)))

    def _interrupt(self) -> None:
        self.interrupts += 1
        if self.interrupts > 1:
            self.end(f"rank {self.rank} was interrupted twice")


class HostSum:
    """The sum over the ranks of a vector in host memory, part by part.

    It overwrites this rank's `vector`; `parts` are the start and stop of each part.
    """

    def __init__(self, group: Group, vector: Host, parts: Parts) -> None:
        self.group = group
        self._parts = [list(pieces(vector[start:stop])) for start, stop in parts]
        self._waiting: list[Host] = []
        self._request: Any = None

    def begin(self, part: int) -> None:
        """Begin the sum of a part that this rank has written."""
        # one request at a time: pieces in sequence are faster than concurrent ones
        self._waiting += self._parts[part]
        if self._request is None or self._request.Test():
            self._next()

    def end(self) -> None:
        """Wait until all parts that have begun are summed."""
        while self._request is not None:
            self.group.wait(self._request)
            self._next()

    def _next(self) -> None:
        self._request = self.group.start_sum(self._waiting.pop(0)) if self._waiting else None


class StagedSum(HostSum):
    """The sum over the ranks of a vector on a device, through a copy in host memory."""

    def __init__(self, group: Group, vector: Array, parts: Parts, backend: Backend, dtype: str) -> None:
        self.vector, self.backend, self.dtype, self.parts = vector, backend, dtype, parts
        self.host = np.empty(vector.shape, dtype)
        super().__init__(group, self.host, parts)

    def begin(self, part: int) -> None:
        """Begin the sum of a part that this rank has written."""
        start, stop = self.parts[part]
        self.host[start:stop] = self.backend.to_numpy(self.vector[start:stop])
        super().begin(part)

    def end(self) -> None:
        """Wait until all parts that have begun are summed."""
        super().end()
        self.vector[...] = self.backend.asarray(self.host, self.dtype)


def pieces(vector: Host) -> Iterator[Host]:
    """A vector in pieces of `PIECE_BYTES` or less: contiguous views."""
    length = PIECE_BYTES // vector.itemsize
    return (vector[i : i + length] for i in range(0, vector.size, length))


def _module(comm: Any) -> Any:
    """The MPI module of a communicator, which has its constants."""
    for kind in type(comm).__mro__:
        module = sys.modules.get(kind.__module__)
        if hasattr(module, "IN_PLACE") and hasattr(comm, "Iallreduce"):
            if not getattr(comm, "is_inter", False):
                return module
            break
    raise TypeError(
        "comm must be an mpi4py communicator within one group, such as mpi4py.MPI.COMM_WORLD, or a "
        f"bpengine.distributed.DataParallel of one; got {comm!r:.60}."
    )


def _listen(interrupt: Callable[[], None]) -> Callable[[], object]:
    """Let Ctrl-C call `interrupt`, in the main thread; return a function that undoes this."""
    default = signal.default_int_handler
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not default:
        return _nothing
    signal.signal(signal.SIGINT, lambda *_: interrupt())
    return partial(signal.signal, signal.SIGINT, default)


def _nothing() -> None:
    pass
