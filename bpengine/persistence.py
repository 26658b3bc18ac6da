"""Networks in files: a plain ``.npz`` that holds numbers and names, and nothing that is run."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

__all__ = ["check_names", "check_shapes", "read", "write"]

FORMAT = "bpengine network 1"


def write(path: str | os.PathLike[str], description: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write a description (JSON) and arrays to `path`, all or nothing.

    The file is written beside `path` under another name and renamed when complete.
    """
    path = Path(path)
    text = json.dumps({"format": FORMAT, **description})
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            np.savez(file, description=np.array(text), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The description and the arrays of a file that `write` made.

    Raises
    ------
    OSError
        If the file can't be read.
    ValueError
        If the file is anything else than such a file. Nothing in it is run, and it takes no more
        memory than a few times its own size, whatever it claims.
    """
    if Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)} is no network that bpengine saved, but a folder.")
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = {
                entry.filename.removesuffix(".npy"): _array(archive, entry)
                for entry in archive.infolist()
            }
        description = json.loads(str(arrays.pop("description")))
        if description["format"] != FORMAT:
            raise ValueError(f"its format is {description['format']!r}, expected {FORMAT!r}")
    except Exception as error:  # damaged or hostile bytes make zipfile and json raise almost anything
        raise ValueError(
            f"{os.fspath(path)} is no network that bpengine saved, or it is damaged: {error}."
        ) from None
    return description, arrays


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    """An array as `numpy.savez` stores it: uncompressed, so that it is as long as it claims."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename} is compressed, which bpengine's files are not")
    file = io.BytesIO(archive.read(entry))
    version = npy.read_magic(file)
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, fortran_order, dtype = header(file)
    data = file.read()
    if dtype.kind not in "fiuU" or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry.filename} holds {len(data)} bytes for shape {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def check_shapes(arrays: Mapping[str, Any], sizes: Sequence[int], dtype: str) -> None:
    """Raise KeyError or ValueError if a network's parameters are not all there, in `dtype`."""
    for l, (fan_in, n) in enumerate(pairwise(sizes)):
        for name, expected in ((f"weights_{l}", (n, fan_in)), (f"biases_{l}", (n, 1))):
            shape, found = arrays[name].shape, str(arrays[name].dtype)
            if shape != expected or found != dtype:
                raise ValueError(
                    f"{name} has shape {shape} and dtype {found}, expected {expected} and {dtype}"
                )


def check_names(names: Any, table: Mapping[str, object], argument: str) -> None:
    """Raise ValueError if a name, or one within lists of them, is not in `table`."""
    if isinstance(names, list):
        for name in names:
            check_names(name, table, argument)
    elif isinstance(names, str) and names not in table:
        raise ValueError(
            f"it has {names!r} of its maker's own, and a file holds no code: pass {argument}= to load"
        )
