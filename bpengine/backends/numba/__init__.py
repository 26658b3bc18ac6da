"""Steps compiled by Numba, on NumPy's arrays."""

from bpengine.backends.numba.backend import NumbaBackend

__all__ = ["NumbaBackend"]
