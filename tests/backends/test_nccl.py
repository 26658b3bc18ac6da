"""NCCL's logic with a double of CuPy's module: what is asked of it, in which order, by whom."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import ranks

from bpengine.backends.cupy.nccl import NCCLSum
from bpengine.distributed import collectives


class Vector:
    """An array with an address, as CuPy's have, whose memory is the host's."""

    def __init__(self, host):
        self.host, self.dtype, self.size = host, host.dtype, host.size
        self.data = SimpleNamespace(ptr=host.ctypes.data)

    def __getitem__(self, key):
        return Vector(self.host[key])


class Double:
    """Of ``cupy.cuda.nccl``: sums of host memory over threads."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0

    def __init__(self):
        self.barriers, self.given, self.calls = {}, {}, []

    def get_unique_id(self):
        return ("identity", 1, 2)

    def NcclCommunicator(self, size, identity, rank):  # noqa: N802
        assert identity == ("identity", 1, 2)
        barrier = self.barriers.setdefault(identity, threading.Barrier(size))

        def all_reduce(source, target, count, kind, operation, stream):
            assert source == target and operation == self.NCCL_SUM
            dtype = {7: np.float32, 8: np.float64}[kind]
            memory = np.ctypeslib.as_array(
                (np.ctypeslib.as_ctypes_type(dtype) * count).from_address(target)
            )
            self.calls.append((rank, count, stream))
            self.given[rank] = memory.copy()
            barrier.wait()
            total = sum(self.given[r] for r in range(size))
            barrier.wait()
            memory[...] = total

        return SimpleNamespace(allReduce=all_reduce)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_part_is_summed_in_place_on_the_steps_stream(dtype):
    double = Double()
    parts = [(4, 9), (0, 4)]

    def rank(comm):
        vector = np.arange(9, dtype=dtype) * (comm.rank + 1)
        with collectives.Group(comm, 9.0) as group:
            sums = NCCLSum(group, Vector(vector), parts, double, SimpleNamespace(ptr=77))
            for part in range(2):
                sums.begin(part)
            sums.end()
        return vector

    for vector in ranks.results(3, rank):
        np.testing.assert_array_equal(vector, np.arange(9) * 6)
    for r in range(3):
        assert [call[1:] for call in double.calls if call[0] == r] == [(5, 77), (4, 77)]


def test_a_backend_with_sums_of_its_own_is_asked_first():
    from bpengine import backends
    from bpengine.distributed.summed_gradient import summing

    class Elsewhere(backends.NumPyBackend):
        def all_reduce(self, group, vector, parts):
            return "its own"

    group = SimpleNamespace(rank=0)
    vector = np.zeros(3)
    assert summing(group, Elsewhere(), vector, [(0, 3)], "float64") == "its own"
    assert isinstance(
        summing(group, backends.get("numpy"), vector, [(0, 3)], "float64"), collectives.HostSum
    )
