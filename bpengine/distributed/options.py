"""Options of distributed training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bpengine.validation import convert_fields, flag, positive_integer, positive_number

__all__ = ["DataParallel"]


@dataclass(frozen=True)
class DataParallel:
    """Options of distributed training, for the argument ``comm`` of `Network.fit`.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks.
    sync_every : int, optional
        1: sum the gradient of every step over the ranks. k above 1: after k local steps, average
        parameters and optimizer state, weighted by each rank's examples (local SGD).
    accumulate : int, optional
        Number of parts in which a rank processes the examples of a step, summing their gradients:
        activations take less memory by this factor.
    overlap : bool, optional
        Whether the sum of a layer's gradient begins while earlier layers are computed; otherwise all
        are summed after the last.
    timeout : float, optional
        Seconds that a rank waits for the others before it aborts the program.

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
