"""NVIDIA's runtime compiler, by ctypes: it compiles for any GPU, and needs neither one nor a driver."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
from pathlib import Path


@functools.cache
def library():
    """NVRTC of a wheel such as nvidia-cuda-nvrtc-cu12, or of the system; None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else spec.submodule_search_locations
    found = [str(path) for place in places for path in sorted(Path(place).rglob("libnvrtc.so.*"))]
    system = ctypes.util.find_library("nvrtc")
    for path in [*found, *([system] if system else [])]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


def compiled(source, architecture, options):
    """PTX of a CUDA source for an architecture such as sm_90; the log is in the error."""
    nvrtc, program = library(), ctypes.c_void_p()
    assert (
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        == 0
    )
    try:
        flags = [option.encode() for option in (f"--gpu-architecture={architecture}", *options)]
        status = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        assert status == 0, _text(program, "ProgramLog") + source
        assert _size(program, "CUBIN") > 0
        return _text(program, "PTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _size(program, what):
    size = ctypes.c_size_t()
    assert getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    return size.value


def _text(program, what):
    buffer = ctypes.create_string_buffer(_size(program, what))
    assert getattr(library(), f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.value.decode()
