"""How ranks train together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bpengine.validation import convert_fields, flag, positive_integer, positive_number

__all__ = ["DataParallel"]


@dataclass(frozen=True)
class DataParallel:
    """How ranks train together: what `Network.fit` takes as ``comm`` besides a communicator alone.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks.
    sync_every : int, optional
        1: every step's gradient is summed over the ranks. k above 1: each rank takes k steps of its
        own, and then parameters, and what the optimizer remembers, are averaged, each rank's counting
        as its examples since the last time. That is another algorithm (local SGD), which needs one
        k-th of the all-reduces of parameters.
    accumulate : int, optional
        In how many parts, one after the other, a rank works through the examples of a step, adding up
        their gradients: activations then take as many times less memory.
    overlap : bool, optional
        Whether the sum of a layer's gradient begins as soon as it is written, while those of the
        layers before are computed; otherwise all are summed after the last.
    timeout : float, optional
        Seconds that a rank waits for the others before it ends the program on all ranks.

    Raises
    ------
    ValueError, TypeError
        If a value is out of its range.

    References
    ----------
    S. Li et al., PyTorch distributed: experiences on accelerating data parallel training, VLDB 2020;
    S. U. Stich, Local SGD converges fast and communicates little, ICLR 2019.
    """

    comm: Any
    sync_every: int = 1
    accumulate: int = 1
    overlap: bool = True
    timeout: float = 300.0

    def __post_init__(self) -> None:
        convert_fields(
            self,
            sync_every=positive_integer,
            accumulate=positive_integer,
            overlap=flag,
            timeout=positive_number,
        )
        if self.sync_every > 1 and self.accumulate > 1:
            raise ValueError(
                f"sync_every={self.sync_every} and accumulate={self.accumulate} don't go together: one "
                "has fewer sums of gradients, the other none. Leave one of them out."
            )

    @classmethod
    def of(cls, comm: Any) -> DataParallel:
        """Itself, or the defaults for a communicator."""
        return comm if isinstance(comm, cls) else cls(comm)
