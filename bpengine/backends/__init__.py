"""Backends by name: looked up, registered, or inferred from an array."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import entry_points

import array_api_compat

from bpengine.backends.array_api import ArrayAPIBackend
from bpengine.backends.base import Array, Backend, BackendUnavailableError, Batches, Operation, Program
from bpengine.backends.numpy import NumPyBackend

__all__ = [
    "Array",
    "ArrayAPIBackend",
    "Backend",
    "BackendUnavailableError",
    "Batches",
    "NumPyBackend",
    "Operation",
    "Program",
    "get",
    "infer",
    "names",
    "register",
]

ENTRY_POINTS = "bpengine.backends"


def _cupy() -> Backend:
    if importlib.util.find_spec("cupy") is None:
        raise BackendUnavailableError(
            "backend 'cupy' needs CuPy, which is not installed: pip install cupy-cuda13x (or "
            "cupy-cuda12x, to match your CUDA driver), or use backend='numpy'."
        )
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise BackendUnavailableError(
            f"backend 'cupy': CuPy is installed, but it can't be imported: {error}. Install the CuPy "
            "that matches your CUDA version, or use backend='numpy'."
        ) from error
    if not cupy.is_available():
        raise BackendUnavailableError(
            "backend 'cupy': CuPy is installed, but it finds no CUDA device. Check the driver with "
            "nvidia-smi, or use backend='numpy'."
        )
    return _library("cupy")


def _numba() -> Backend:
    if importlib.util.find_spec("numba") is None:
        raise BackendUnavailableError(
            "backend 'numba' needs Numba, which is not installed: pip install bpengine[numba], or use "
            "backend='numpy'."
        )
    try:
        module = importlib.import_module("bpengine.backends.numba")
    except ImportError as error:
        raise BackendUnavailableError(
            f"backend 'numba': Numba is installed, but it can't be imported: {error}. Install the Numba "
            "that goes with your Python and NumPy: pip install bpengine[numba]."
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
    xp = array_api_compat.array_namespace(module.zeros(1))
    return ArrayAPIBackend(xp, name=name)


_factories: dict[str, Callable[[], Backend]] = {
    "numpy": NumPyBackend,
    "numba": _numba,
    "cupy": _cupy,
    "torch": lambda: _library("torch"),
    "array_api_strict": lambda: _library("array_api_strict"),
}


def register(name: str, factory: Callable[[], Backend]) -> None:
    """Make a backend known by name.

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
    return sorted({*_factories, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def get(backend: str | Backend) -> Backend:
    """The backend of a name, or the object itself.

    Parameters
    ----------
    backend : str or Backend
        A name out of `names`, or a backend object.

    Raises
    ------
    ValueError
        If no backend has that name.
    BackendUnavailableError
        If what the backend needs is missing; the message says what to install.
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise TypeError(
            f"backend must be a name or a Backend, got {type(backend).__name__}. "
            f"Names: {', '.join(names())}."
        )
    if backend in _factories:
        return _made_by(_factories[backend], f"factory of {backend!r}")
    for point in entry_points(group=ENTRY_POINTS, name=backend):
        return _made_by(point.load(), f"entry point {point.value!r}")
    near = difflib.get_close_matches(backend, names(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown backend {backend!r}.{hint} Known: {', '.join(names())}.")


def _made_by(factory: Callable[[], object], what: str) -> Backend:
    found = factory()
    if not isinstance(found, Backend):
        raise TypeError(f"{what} gave a {type(found).__name__}, no Backend.")
    return found


def infer(x: object) -> Backend:
    """The backend for an array: its library, on its device; NumPy for anything that is no array.

    Parameters
    ----------
    x : object
        The first array that a network was given.
    """
    if not array_api_compat.is_array_api_obj(x) or array_api_compat.is_numpy_array(x):
        return NumPyBackend()
    if array_api_compat.is_cupy_array(x):
        return _cupy()
    xp = array_api_compat.array_namespace(x)
    return ArrayAPIBackend(xp, array_api_compat.device(x), xp.__name__.rpartition(".")[2])
