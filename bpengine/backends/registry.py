"""Backends by name: looked up, registered, or inferred from an array."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import array_api_compat

from bpengine.backends.array_api import ArrayAPIBackend, library_name
from bpengine.backends.base import Backend, BackendUnavailableError
from bpengine.backends.namespace import array_namespace
from bpengine.backends.numpy.backend import NumPyBackend
from bpengine.validation import did_you_mean

__all__ = ["get", "infer", "names", "register"]

# names of other libraries for devices, and the backends here
ELSEWHERE = {"cuda": "cupy", "gpu": "cupy", "cpu": "numpy", "np": "numpy", "pytorch": "torch"}

ENTRY_POINTS = "bpengine.backends"


def _cupy(device: Any = None, precision: str | None = None) -> Backend:
    made: Backend = importlib.import_module("bpengine.backends.cupy.backend").with_options(
        device, precision
    )
    return made


def _numba() -> Backend:
    if importlib.util.find_spec("numba") is None:
        raise BackendUnavailableError(
            "backend 'numba' needs Numba, which is not installed: pip install 'bpengine[numba]', or use "
            "backend='numpy'."
        )
    try:
        module = importlib.import_module("bpengine.backends.numba.backend")
    except ImportError as error:
        raise BackendUnavailableError(
            f"backend 'numba': Numba is installed, but it can't be imported: {error}. Install the Numba "
            "that goes with your Python and NumPy: pip install 'bpengine[numba]'."
        ) from error
    made: Backend = module.NumbaBackend()
    return made


def _library(name: str) -> Backend:
    if importlib.util.find_spec(name) is None:
        raise BackendUnavailableError(
            f"backend {name!r} needs the package {name}, which is not installed: pip install {name}, "
            "or use backend='numpy'."
        )
    module = importlib.import_module(name)
    xp = array_namespace(module.zeros(1))
    return ArrayAPIBackend(xp, name=name)


_factories: dict[str, Callable[[], Backend]] = {
    "numpy": NumPyBackend,
    "numba": _numba,
    "cupy": _cupy,
    "torch": lambda: _library("torch"),
    "array_api_strict": lambda: _library("array_api_strict"),
}


def register(name: str, factory: Callable[[], Backend]) -> None:
    """Register a backend under a name.

    Parameters
    ----------
    name : str
        The name for ``backend=``.
    factory : callable
        Called without arguments when the name is asked for; gives a `Backend`.

    Raises
    ------
    ValueError
        If the name is taken.

    Examples
    --------
    >>> import array_api_strict
    >>> from bpengine import backends
    >>> second = array_api_strict.Device("device1")
    >>> backends.register("second", lambda: backends.ArrayAPIBackend(array_api_strict, second))
    >>> backends.get("second").device
    array_api_strict.Device('device1')
    """
    if name in names():
        raise ValueError(f"backend {name!r} is registered already; choose another name.")
    _factories[name] = factory


def names() -> list[str]:
    """Names that `get` takes: built in, registered, and from installed packages' entry points."""
    return sorted({*_factories, *(point.name for point in _entry_points())})


def _entry_points() -> Any:
    from importlib.metadata import entry_points  # long to import, and seldom needed

    return entry_points(group=ENTRY_POINTS)


def get(backend: str | Backend, device: Any = None, precision: str | None = None) -> Backend:
    """The backend of a name, or the object itself.

    Parameters
    ----------
    backend : str or Backend
        A name out of `names`, or a backend object.
    device : int or str, optional
        The GPU to compute on, for ``"cupy"``: its number, or ``"cuda:1"``. CuPy's current one where not
        given. ``"cpu"`` is what the backends of the host take.
    precision : {"full", "tf32"}, optional
        Of products of float32 numbers, for ``"cupy"``: "tf32" rounds their factors to 10 bits of
        mantissa.

    Raises
    ------
    ValueError
        If no backend has that name, or it has no such device or precision.
    BackendUnavailableError
        If what the backend needs is missing; the message says what to install.
    """
    if isinstance(backend, Backend):
        return backend.with_options(device, precision)
    if not isinstance(backend, str):
        raise TypeError(
            f"backend must be a name or a Backend, got {type(backend).__name__}. "
            f"Names: {', '.join(names())}."
        )
    factory = _factories.get(backend)
    if factory is _cupy:
        return _cupy(device, precision)
    if factory is not None:
        return _made_by(factory, f"factory of {backend!r}").with_options(device, precision)
    for point in _entry_points().select(name=backend):
        return _made_by(point.load(), f"entry point {point.value!r}").with_options(device, precision)
    hint = did_you_mean(backend, names(), ELSEWHERE)
    raise ValueError(f"unknown backend {backend!r}.{hint} Known: {', '.join(names())}.")


def _made_by(factory: Callable[[], object], what: str) -> Backend:
    found = factory()
    if not isinstance(found, Backend):
        raise TypeError(f"{what} gave a {type(found).__name__}, no Backend.")
    return found


def infer(x: object, name: str = "X") -> Backend:
    """The backend of an array: its library, on its device; NumPy for anything that is not an array.

    Parameters
    ----------
    x : object
        The first array that a network was given.
    name : str, optional
        Its name in messages.
    """
    if not array_api_compat.is_array_api_obj(x) or array_api_compat.is_numpy_array(x):
        return NumPyBackend()
    if array_api_compat.is_cupy_array(x):
        return _cupy(array_api_compat.device(x))
    xp = array_namespace(x)
    try:
        return ArrayAPIBackend(xp, array_api_compat.device(x), library_name(xp))
    except TypeError as error:
        raise TypeError(f"{name} is an array that can't be used: {error}") from None
