"""cuBLAS by ctypes, from the library that CuPy itself depends on.

CuPy's own calls of cuBLAS refuse to be captured in a graph; these do not.

References
----------
The declarations in NVIDIA's cublas_v2.h and cublas_api.h, of CUDA 12 and 13.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

__all__ = ["COMPUTE_32F", "COMPUTE_32F_FAST_TF32", "COMPUTE_64F", "Cublas", "CublasError", "load"]

COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F = 68, 77, 70  # cublasComputeType_t
POINTER_MODE_DEVICE = 1  # cublasPointerMode_t: α and β are read on the device
GEMM_DEFAULT = -1  # cublasGemmAlgo_t

I, L, P = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
MATRIX = (P, I, I)  # address, cudaDataType_t, leading dimension
SIZES = (P, I, I, I, I, I)  # handle, cublasOperation_t of A and B, m, n, k
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (P,),
    "cublasDestroy_v2": (P,),
    "cublasSetPointerMode_v2": (P, I),
    "cublasSetStream_v2": (P, P),
    "cublasSetWorkspace_v2": (P, P, ctypes.c_size_t),
    "cublasGemmEx": (*SIZES, P, *MATRIX, *MATRIX, P, *MATRIX, I, I),
    "cublasGemmStridedBatchedEx": (*SIZES, P, *MATRIX, L, *MATRIX, L, P, *MATRIX, L, I, I, I),
}


class CublasError(RuntimeError):
    """A function of cuBLAS gave another status than success."""


class Cublas:
    """The functions of cuBLAS that products need.

    Parameters
    ----------
    library : ctypes.CDLL
        libcublas.

    Raises
    ------
    AttributeError
        If the library does not have a function.
    """

    def __init__(self, library: Any) -> None:
        self._library = library  # which the functions need
        functions = [self._function(name) for name in SIGNATURES]
        self._create, self.destroy, self._set_pointer_mode, self.set_stream = functions[:4]
        self.set_workspace, self.gemm, self.gemm_strided_batched = functions[4:]

    def _function(self, name: str) -> Any:
        function = getattr(self._library, name)
        function.argtypes, function.errcheck = SIGNATURES[name], _check
        return function

    def create(self) -> int:
        """A handle that reads α and β on the device."""
        handle = ctypes.c_void_p()
        self._create(ctypes.byref(handle))
        self._set_pointer_mode(handle, POINTER_MODE_DEVICE)
        return int(handle.value or 0)


def _check(status: int, function: Any, operands: tuple[Any, ...]) -> None:
    if status:
        raise CublasError(f"{function.__name__}{operands} gave cublasStatus_t {status}.")


def load() -> Cublas:
    """CuPy's cuBLAS.

    Raises
    ------
    Exception
        If there is none: cuda-pathfinder's error says where it looked.
    """
    pathfinder = importlib.import_module("cuda.pathfinder")
    return Cublas(ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path))
