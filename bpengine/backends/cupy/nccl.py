"""NCCL: sums over ranks made between GPUs, for vectors that live there.

Not yet run on GPUs: its logic is tested with a double of CuPy's module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bpengine.backends.operation import Array

__all__ = ["NCCLSum"]

CODES = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64"}


class NCCLSum:
    """The sum over the ranks of a vector on a GPU, part by part: each rank's own GPU.

    NCCL's calls are put on the stream that the step's kernels are on, so that they come after those
    that write a part and before the update; they don't overlap with kernels.

    Parameters
    ----------
    group : bpengine.distributed.collectives.Group
        Carries the communicator's identity to the ranks.
    vector : array of shape (size,)
        Contiguous.
    parts : sequence of (int, int)
        Where each part begins and ends.
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
        """A part is written on this rank, or will be when the stream comes to it."""
        x = self._parts[part]
        address = x.data.ptr
        self._communicator.allReduce(address, address, x.size, self._type, self._sum, self._stream.ptr)

    def end(self) -> None:
        """Nothing to wait for: what comes after is on the same stream."""
