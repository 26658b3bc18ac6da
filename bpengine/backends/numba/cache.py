"""Compiled kernels from Numba's cache on disk, without the modules that only compilation needs."""

# mypy: disable-error-code="attr-defined, no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.runtime import rtsys
from numba.core.sigutils import normalize_signature

__all__ = ["cached_cfunc", "cached_njit"]


class Cache(FunctionCache):
    """Numba's cache, which imports all that Numba can compile only where there is something to compile.

    That import takes longer than reading the kernels of a training. Machine code needs none of it, but
    the functions of Numba's runtime.
    """

    def load_overload(self, sig, target_context):
        """The compiled function of a signature; None if it has to be compiled."""
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def _index_key(self, sig, codegen):
        """The key in a function's file, without its closure: that is as constant as the source."""
        return sig, codegen.magic_tuple()


def cached_cfunc(function: Callable[..., Any], signature: Any, **options: Any) -> Any:
    """As ``numba.cfunc(signature, cache=True, **options)(function)``."""
    kernel = CFunc(function, normalize_signature(signature), {}, options)
    kernel._cache = Cache(function)
    kernel.compile()
    return kernel


def cached_njit(function: Callable[..., Any]) -> Any:
    """As ``numba.njit(cache=True, nogil=True)(function)``."""
    dispatcher = numba.njit(nogil=True)(function)
    dispatcher._cache = Cache(function)
    return dispatcher
