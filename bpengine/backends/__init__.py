"""Arrays of one library on one device, and how operations run on them."""

from bpengine.backends.array_api import ArrayAPIBackend
from bpengine.backends.base import Backend, BackendUnavailableError, DeviceMemoryError
from bpengine.backends.numpy.backend import NumPyBackend
from bpengine.backends.operation import AnyArray, Array, Operation
from bpengine.backends.program import Batches, Entries, Program, Settings, SideBySide, Slices
from bpengine.backends.registry import get, infer, names, register

__all__ = [
    "AnyArray",
    "Array",
    "ArrayAPIBackend",
    "Backend",
    "BackendUnavailableError",
    "Batches",
    "DeviceMemoryError",
    "Entries",
    "NumPyBackend",
    "Operation",
    "Program",
    "Settings",
    "SideBySide",
    "Slices",
    "get",
    "infer",
    "names",
    "register",
]
