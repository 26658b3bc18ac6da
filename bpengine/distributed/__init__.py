"""Training on several machines: each rank trains on its share of the examples."""

from bpengine.distributed.collectives import RankError
from bpengine.distributed.options import DataParallel

__all__ = ["DataParallel", "RankError"]
