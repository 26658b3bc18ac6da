"""`Network`, loading and stacking."""

from bpengine.network.network import Network

__all__ = ["Network"]
