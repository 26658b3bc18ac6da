"""NCCL: sums over ranks made between GPUs, for vectors that live there.

Not yet run on GPUs: its logic is tested with a stand-in for CuPy's module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bpengine.backends.operation import Array

__all__ = ["NCCLSum"]

CODES = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64"}


class NCCLSum:
    """The sum of a vector over the ranks, which have a GPU each, part by part.

    NCCL's calls are queued on the stream of the step's kernels, after those that write a part and before
    the update; they don't overlap with kernels.

    Parameters
    ----------
    group : bpengine.distributed.collectives.Group
        Carries the communicator's identity to the ranks.
    vector : array of shape (size,)
        Contiguous.
    parts : sequence of (int, int)
        Start and end of every part.
    nccl : module
        ``cupy.cuda.nccl``.
    stream : cupy.cuda.Stream
    """

    def __init__(
        self, group: Any, vector: Array, parts: Sequence[tuple[int, int]], nccl: Any, stream: Any
    ) -> None:
        identity = group.broadcast_object(nccl.get_unique_id() if group.rank == 0 else None)
        self._communicator = nccl.NcclCommunicator(group.size, identity, group.rank)
        self._parts = [vector[start:stop] for start, stop in parts]
        self._type, self._sum = getattr(nccl, CODES[str(vector.dtype)]), nccl.NCCL_SUM
        self._stream = stream

    def begin(self, part: int) -> None:
        """Sum a part, whose writes on this rank are done or queued."""
        x = self._parts[part]
        address = x.data.ptr
        self._communicator.allReduce(address, address, x.size, self._type, self._sum, self._stream.ptr)

    def end(self) -> None:
        """Do nothing: later work is queued on the same stream."""
