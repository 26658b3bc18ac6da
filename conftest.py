"""Keeps the search for examples in docstrings away from rooms whose package is not installed."""

import importlib.util

collect_ignore = ["tests/mpi/program.py"]  # what its neighbours run under mpiexec
collect_ignore_glob = [] if importlib.util.find_spec("numba") else ["bpengine/backends/numba/*.py"]
