"""NumPy on the host."""

from bpengine.backends.numpy.backend import NumPyBackend

__all__ = ["NumPyBackend"]
