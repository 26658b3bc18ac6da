"""The `lab` fixture: every test that computes runs once for each kind of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import settings

from bpengine import backends

settings.register_profile("bpengine", deadline=None, derandomize=True)
settings.load_profile("bpengine")


@dataclass
class Lab:
    """Makes the arrays that a test hands to the engine, and reads those it gets back."""

    name: str
    backend: backends.Backend
    read_only: bool = False

    def array(self, values: Any, dtype: str | None = None) -> Any:
        host = np.array(values, dtype)
        if self.backend.name == "numpy":
            host.flags.writeable = not self.read_only
            return host
        return self.backend.xp.asarray(host, device=self.backend.device)

    @property
    def inferred(self) -> str:
        """Name of the backend that a network without one takes for these arrays."""
        return {"numba": "numpy", "cuda double": "array_api_strict"}.get(self.name, self.backend.name)

    def each_time(self, array: Any) -> None:
        """Read an array: what does so can't be captured in a graph, and is called in every step."""
        self.numpy(array)

    def numpy(self, array: Any) -> np.ndarray:
        return self.backend.to_numpy(array)

    def assert_close(self, found: Any, expected: Any, tolerance: float) -> None:
        """Relative error of the whole array: rounding is relative to its largest entries."""
        found, expected = self.numpy(found), np.asarray(expected)
        assert found.shape == expected.shape
        scale = np.abs(expected).max(initial=np.finfo(float).tiny)
        assert np.abs(found - expected).max(initial=0.0) <= tolerance * scale


def _numpy() -> Lab:
    return Lab("numpy", backends.get("numpy"))


def _read_only() -> Lab:
    return Lab("numpy, read-only", backends.get("numpy"), read_only=True)


def _strict() -> Lab:
    device = array_api_strict.Device("device1")
    return Lab("strict", backends.ArrayAPIBackend(array_api_strict, device))


def _cupy() -> Lab:
    try:
        return Lab("cupy", backends.get("cupy"))
    except backends.BackendUnavailableError:
        pytest.skip("no CUDA device")


def _double() -> Lab:
    double = pytest.importorskip("cuda_double")
    if double.COMPILER is None:
        pytest.skip("no C++ compiler to compile CUDA kernels for the host with")
    return Lab("cuda double", double.Double())


def _numba() -> Lab:
    pytest.importorskip("numba", reason="Numba is not installed")
    return Lab("numba", backends.get("numba"))


LABS = {
    "numpy": _numpy,
    "numba": _numba,
    "numpy-read-only": _read_only,
    "strict-device1": _strict,
    "cuda-double": _double,
    "cupy": _cupy,
}


@pytest.fixture(params=LABS)
def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = LABS[request.param]()
    if lab.backend.name == "cupy":
        # by name the tests' own backend too, and chunks of steps as long as a test says
        monkeypatch.setitem(backends._factories, "cupy", lambda: lab.backend)
        monkeypatch.setattr(type(lab.backend), "patience", 1)
    return lab
