"""What a user holds: a network, its verbs, and networks from files."""

from bpengine.network.network import Network

__all__ = ["Network"]
