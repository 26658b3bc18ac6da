"""CuPy on a GPU."""

from bpengine.backends.cupy.backend import CuPyBackend, with_options

__all__ = ["CuPyBackend", "on", "with_options"]

on = with_options  # its name in pickles of version 0.1
