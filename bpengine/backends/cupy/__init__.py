"""CuPy on a GPU."""

from bpengine.backends.cupy.backend import CuPyBackend, on

__all__ = ["CuPyBackend", "on"]
