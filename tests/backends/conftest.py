"""The `backend` fixture: NumPy, Numba and the stand-in for a GPU, where they can be had."""

from __future__ import annotations

import importlib.util

import cuda_double
import pytest

from bpengine import backends

BACKENDS = {"numpy": backends.get("numpy")}
if importlib.util.find_spec("numba"):
    BACKENDS["numba"] = backends.get("numba")
if cuda_double.COMPILER:
    BACKENDS["stand-in"] = cuda_double.Double()


@pytest.fixture(params=BACKENDS)
def backend(request):
    return BACKENDS[request.param]
