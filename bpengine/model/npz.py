"""Archives of arrays as `numpy.savez` writes them."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib import format as npy

__all__ = ["contents", "outline"]

READ_BYTES = 2**22  # of a header, or of an archive's list of entries
TEXT_BYTES = 2**30  # of a description, of 4 bytes a character
Arrays = dict[str, np.ndarray[Any, Any]]
Read = Callable[[str], np.ndarray[Any, Any]]


def outline(dtype: Any, shape: Any) -> np.ndarray[Any, Any]:
    """An array of some dtype and shape without memory for its elements."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def contents(file: io.BufferedReader) -> tuple[str, Arrays, Read]:
    """The description, outlines of the arrays by name, and a function that reads one.

    Only headers are read, and lengths compared with the file's.
    """
    archive = zipfile.ZipFile(_Bounded(file.raw))
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name in entries:
            raise ValueError(f"it holds {name} twice")
        # as numpy.savez stores it: uncompressed, so that its length can be checked
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"{entry.filename} is compressed, which bpengine's files are not")
        entries[name] = entry
    held, size = sum(entry.file_size for entry in entries.values()), os.fstat(file.fileno()).st_size
    if held > size:
        raise ValueError(f"it lists arrays of {held} bytes, and has {size}")
    if entries["description"].file_size > TEXT_BYTES:
        raise ValueError("its description is too long")

    def read(name: str) -> np.ndarray[Any, Any]:
        with archive.open(entries[name]) as member:
            dtype, shape, fortran_order = _header(member, entries[name])
            data = np.empty(entries[name].file_size - member.seek(0, os.SEEK_CUR), "uint8")
            for start in range(0, data.size, READ_BYTES):
                part = data[start : start + READ_BYTES]
                part[...] = np.frombuffer(member.read(part.size), "uint8")
        return data.view(dtype).reshape(shape, order="F" if fortran_order else "C")

    outlines = {}
    for name, entry in entries.items():
        with archive.open(entry) as member:
            outlines[name] = outline(*_header(member, entry)[:2])
    del outlines["description"]
    return str(read("description")), outlines, read


class _Bounded(io.BufferedReader):
    """A file that is read in small parts, whatever length of a header or list of entries it claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > READ_BYTES:
            raise ValueError(f"it claims a header of {size} bytes")
        return super().read(READ_BYTES if size is None or size < 0 else size)


def _header(member: Any, entry: zipfile.ZipInfo) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    # version 3 differs from 2 only in structured dtypes
    first = npy.read_magic(member) == (1, 0)
    shape, fortran_order, dtype = (
        npy.read_array_header_1_0(member) if first else npy.read_array_header_2_0(member)
    )
    length = entry.file_size - member.seek(0, os.SEEK_CUR)
    if dtype.kind not in "biufU" or length != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry.filename} holds {length} bytes for shape {shape} of {dtype}")
    return dtype, shape, fortran_order
