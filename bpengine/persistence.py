"""Networks in files: a plain ``.npz`` that holds numbers and names, and nothing that is run."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read", "write"]

FORMAT = "bpengine network 1"


def write(path: str | os.PathLike[str], description: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write a description (JSON) and arrays to `path`, all or nothing.

    The file is written beside `path` under another name and renamed when complete.
    """
    path = Path(path)
    text = json.dumps({"format": FORMAT, **description})
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, description=np.array(text), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The description and the arrays of a file that `write` made.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is anything else than such a file; nothing in it is run.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays.pop("description")))
        if description["format"] != FORMAT:
            raise ValueError(f"its format is {description['format']!r}, expected {FORMAT!r}")
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{os.fspath(path)} is no network that bpengine saved, or it is damaged: {error}."
        ) from None
    return description, arrays
