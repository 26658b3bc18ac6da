"""Selects OpenBLAS's AVX-512 kernels on processors where it does not detect them.

OpenBLAS chooses its kernels while NumPy loads, so this runs first and imports no NumPy.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

__all__ = [
    "Decision",
    "Processor",
    "better_core",
    "chooses",
    "numpy_library",
    "one_thread",
    "parse",
    "prepare",
    "processor",
    "set_threads",
    "taken_core",
    "threads",
    "usable_cores",
    "within_cores",
]

CPUINFO = "/proc/cpuinfo"
CORETYPE = "OPENBLAS_CORETYPE"
OPT_OUT = "BPENGINE_BLAS_CORE"
CORE = "SkylakeX"
# OpenBLAS compiles its SkylakeX kernels for these; one that is missing is an illegal instruction.
SKYLAKEX_NEEDS = frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
# For these vendors OpenBLAS (driver/others/dynamic.c, get_coretype) checks AVX-512 in family 19h and in
# unknown families only: 17h and 18h become Zen, an alias of Haswell in NumPy's wheels, and 15h an older
# core. Virtual machines may report an old family for a new processor. Intel's models with AVX-512 are
# detected.
BY_FAMILY = frozenset({"AuthenticAMD", "HygonGenuine"})
# Cores without AVX-512 (NumPy's wheels call Prescott Katmai); an unknown name may be a better one.
LESSER = frozenset(
    {"Katmai", "Prescott", "Nehalem", "Barcelona", "Sandybridge", "Excavator", "Haswell", "Zen"}
)
Decision = Literal["opted out", "given", "set", "too late", "not needed"]
QUOTA_FILE = "/sys/fs/cgroup/cpu.max"
FOUND: dict[str, Callable[..., Any]] = {}  # functions of the library
decision: Decision = "not needed"


class Processor(NamedTuple):
    """The first processor in ``/proc/cpuinfo``; empty where unknown."""

    vendor: str = ""
    name: str = ""
    flags: frozenset[str] = frozenset()


def parse(lines: Iterable[str]) -> Processor:
    """The first processor in the lines of ``/proc/cpuinfo``."""
    fields = {}
    for line in lines:
        if not line.strip():
            break
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags", fields.get("Features", ""))  # the second on ARM
    return Processor(fields.get("vendor_id", ""), fields.get("model name", ""), frozenset(flags.split()))


def processor() -> Processor:
    """The processor as Linux describes it; empty elsewhere."""
    try:
        # The file is generated while it is read: stop after the first of perhaps hundreds.
        with open(CPUINFO, encoding="utf-8", errors="replace") as file:
            return parse(file)
    except OSError:
        return Processor()


def better_core(processor: Processor) -> str | None:
    """The core to set for OpenBLAS, or None to leave the choice to it."""
    qualified = processor.vendor in BY_FAMILY and processor.flags >= SKYLAKEX_NEEDS
    return CORE if qualified else None


def prepare() -> Decision:
    """Set ``OPENBLAS_CORETYPE`` for this process where that helps and NumPy is not loaded yet.

    A value in the environment has priority, and ``BPENGINE_BLAS_CORE=0`` disables this.

    Returns
    -------
    str
        "opted out", "given" (set in the environment), "set" (by this call), "too late" (NumPy was
        loaded first and took a lesser core) or "not needed"; also stored in `decision`.

    Warns
    -----
    RuntimeWarning
        Once in a process, where it is too late.
    """
    global decision
    decision = _decide()
    if decision == "set":
        os.environ[CORETYPE] = CORE
    elif decision == "too late":
        _warn()
    return decision


def _decide() -> Decision:
    if os.environ.get(OPT_OUT, "").strip().lower() in {"0", "no", "off", "false"}:
        return "opted out"
    if CORETYPE in os.environ:
        return "given"
    if not _linux_x86_64() or better_core(processor()) is None:
        return "not needed"
    if "numpy" not in sys.modules:
        return "set"
    return "too late" if taken_core() in LESSER and chooses() else "not needed"


def _linux_x86_64() -> bool:
    return sys.platform == "linux" and os.uname().machine == "x86_64"


@functools.cache
def _warn() -> None:
    warnings.warn(
        f"OpenBLAS takes this processor for a {taken_core()} and leaves its AVX-512 unused, which may "
        "halve the speed of matrix products. NumPy was loaded before bpengine, so it is too late to "
        f"change that here. Set in the environment:\n    export {CORETYPE}={CORE}\n"
        f"or import bpengine before NumPy. To silence this message: export {OPT_OUT}=0",
        RuntimeWarning,
        stacklevel=4,  # past `prepare` and bpengine's import of it, to the user's import
    )


def taken_core() -> str | None:
    """The core that the loaded NumPy's OpenBLAS took; None without NumPy or OpenBLAS."""
    name = _openblas("get_corename", ctypes.c_char_p)
    return None if name is None else name.decode()


def chooses() -> bool:
    """Whether the loaded OpenBLAS selects its core at run time."""
    return b"DYNAMIC_ARCH" in (_openblas("get_config", ctypes.c_char_p) or b"")


def threads() -> int | None:
    """The number of threads of the loaded NumPy's OpenBLAS; None without NumPy or OpenBLAS."""
    found: int | None = _openblas("get_num_threads", ctypes.c_int)
    return found


def set_threads(number: int) -> None:
    """Set the number of threads of the loaded NumPy's OpenBLAS, if it has one."""
    _openblas("set_num_threads", None, number)


def usable_cores() -> int:
    """Cores that this process may use now: those of its affinity mask, as many as its quota is worth."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(allowed, _quota() or allowed)


@functools.cache
def _quota() -> int | None:
    """Cores of the control group's quota, rounded up; None where there is none."""
    try:
        with open(QUOTA_FILE, encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return None


class Limit:
    """While entered, OpenBLAS has no more threads than `most` says; the number before is set back.

    More threads than cores wait for each other on the same core, which may take a hundred times as
    long. The cores may be fewer than when OpenBLAS counted them.
    """

    _lock, _inside, _before = threading.Lock(), 0, 0

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most

    def __enter__(self) -> None:
        number, most = threads() or 1, self._most()
        with Limit._lock:
            Limit._inside += 1
            if number > most:
                Limit._before = max(Limit._before, number)
                set_threads(most)

    def __exit__(self, *error: object) -> None:
        with Limit._lock:
            Limit._inside -= 1
            if Limit._before and not Limit._inside:
                set_threads(Limit._before)
                Limit._before = 0


within_cores = Limit(usable_cores)
one_thread = Limit(lambda: 1)


def _openblas(name: str, result: Any, *operands: Any) -> Any:
    """What a function of NumPy's OpenBLAS returns; None where there is no such function."""
    function = FOUND.get(name) or _find(name, result)
    return None if function is None else function(*operands)


def _find(name: str, result: Any) -> Callable[..., Any] | None:
    library = numpy_library()
    for prefix in ("scipy_openblas_", "openblas_"):
        for suffix in ("64_", ""):
            function = getattr(library, f"{prefix}{name}{suffix}", None)
            if function is not None:
                function.restype = result
                FOUND[name] = function
                return FOUND[name]
    return None


def numpy_library() -> ctypes.CDLL | None:
    """NumPy's extension module, which names its BLAS: other packages may have loaded another OpenBLAS.

    None where NumPy is not loaded yet, or not from a file.
    """
    path = getattr(sys.modules.get("numpy._core._multiarray_umath"), "__file__", None)
    try:
        return None if path is None else _opened(path)
    except OSError:
        return None


@functools.cache
def _opened(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)
