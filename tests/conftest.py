"""The `lab` fixture: every test that computes runs once on each backend that is present."""

from __future__ import annotations

import functools
import importlib.util
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from bpengine import backends
from bpengine.backends import registry

settings.register_profile("bpengine", deadline=None, derandomize=True)
settings.load_profile("bpengine")


@dataclass
class Lab:
    """Makes the arrays that a test hands to the engine, and reads those it gets back."""

    name: str
    backend: backends.Backend

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """An array of the backend; NumPy's are read-only, so that no test misses a write to them."""
        host = np.array(values, dtype)
        if self.backend.name == "numpy":
            host.flags.writeable = False
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


def _quicken_strict() -> None:
    """Let array-api-strict make the same checks in less time, which is most of that of its tests."""
    from array_api_strict import _array_object, _creation_functions
    from array_api_strict._dtypes import DType

    equal = DType.__eq__

    def quick(self: Any, other: object) -> bool:
        return self._np_dtype == other._np_dtype if type(other) is DType else equal(self, other)

    class Index(type):
        def __instancecheck__(cls, x: object) -> bool:
            return hasattr(type(x), "__index__")

    class Known(tuple[Any, ...]):
        def __contains__(self, dtype: object) -> bool:
            return dtype in known

    known = frozenset(_array_object._all_dtypes)
    DType.__eq__ = quick
    for module in (_array_object, _creation_functions):
        module._all_dtypes = Known(known)  # a tuple that is searched for each array
    _array_object.SupportsIndex = Index("SupportsIndex", (), {})  # a protocol, slow before Python 3.12
    np.lib.NumpyVersion = functools.cache(np.lib.NumpyVersion)  # parsed anew for each array


if importlib.util.find_spec("array_api_strict"):
    _quicken_strict()


def _strict() -> Lab:
    import array_api_strict

    device = array_api_strict.Device("device1")
    return Lab("strict", backends.ArrayAPIBackend(array_api_strict, device))


def _double() -> Lab:
    import cuda_double

    return Lab("cuda double", cuda_double.Double())


LABS: dict[str, Callable[[], Lab]] = {
    "numpy": lambda: Lab("numpy", backends.get("numpy")),
    "numba": lambda: Lab("numba", backends.get("numba")),
    "strict-device1": _strict,
    "cuda-double": _double,
    "cupy": lambda: Lab("cupy", backends.get("cupy")),
}


@functools.cache
def present(cuda_double: bool) -> list[str]:
    """The names in LABS of what is installed here."""
    found = ["numpy"]
    found += ["numba"] if importlib.util.find_spec("numba") else []
    found += ["strict-device1"] if importlib.util.find_spec("array_api_strict") else []
    found += ["cuda-double"] if cuda_double else []
    try:
        backends.get("cupy")
    except backends.BackendUnavailableError:
        return found
    return [*found, "cupy"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lab" in metafunc.fixturenames:
        names = present(metafunc.config.getoption("--cuda-double"))
        metafunc.parametrize("lab", names, indirect=True)


def pytest_configure() -> None:
    # a job in the background of a script inherits that Ctrl-C is ignored, and some tests press it
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = LABS[request.param]()
    if lab.backend.name == "cupy":
        # by name the tests' own backend too, and chunks of steps as long as a test says
        monkeypatch.setitem(registry._factories, "cupy", lambda: lab.backend)
        monkeypatch.setattr(type(lab.backend), "steps_per_readback", 1)
    yield lab
    # no kernel and no graph was found to compute anything else than its operations
    assert not getattr(getattr(lab.backend, "gpu", None), "distrusted", ())


@pytest.fixture
def called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Custom functions are called once a step, as a GPU's first steps are not compared."""
    monkeypatch.setenv("BPENGINE_TRUST", "1")
