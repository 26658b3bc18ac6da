"""Network files: arrays and a JSON description, no code; written atomically."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from bpengine.model import safetensors
from bpengine.model.activations import Activation, PerNeuron
from bpengine.model.model import Model

__all__ = [
    "check_names",
    "check_shapes",
    "describe",
    "fill",
    "in_place_of",
    "in_short",
    "read",
    "replacing",
    "restore",
    "write",
]

FORMAT = "bpengine network 2"
FORMATS = ("bpengine network 1", FORMAT)
OPTIONS = ("dropout", "l1", "l2", "label_smoothing")
STATE = "state_"  # prefix of arrays of a training's state
Arrays = dict[str, np.ndarray[Any, Any]]


def describe(network: Model) -> tuple[dict[str, Any], Arrays]:
    """A network's description, ready for JSON, and its arrays, as `write` takes them.

    The arrays are ``weights_l`` (…, n_{l+1}, n_l) and ``biases_l`` (…, n_{l+1}, 1), counted from 0;
    views on NumPy.
    """
    description: dict[str, Any] = {
        "sizes": list(network.sizes),
        "activations": [_names(σ) for σ in network.activations],
        "cost": network.cost.name,
        "dtype": network.dtype,
        "dropout": list(network.dropout),
        "l1": network.l1,
        "l2": network.l2,
        "label_smoothing": network.label_smoothing,
        **({"stack": network.stack[0]} if network.stack else {}),
    }
    arrays = {
        f"{kind}_{l}": network.backend.to_numpy(array)
        for kind, views in (("weights", network.weights), ("biases", network.biases))
        for l, array in enumerate(views)
    }
    return description, arrays


def restore(network: Model, description: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write the parameters that `read` gave into a network of the same kind.

    Raises
    ------
    ValueError
        If sizes, activations, cost or dtype differ, or arrays are missing; the network is unchanged.
    """
    expected, _ = describe(network)
    for key in ("sizes", "activations", "cost", "dtype", "stack"):
        found, ours = description.get(key), expected.get(key)
        if found != ours:
            raise ValueError(f"the file's network has {key} {found!r:.100}, this one {ours!r:.100}")
    check_shapes(arrays, network.sizes, network.dtype, network.stack)
    fill(network, arrays)


def fill(network: Model, arrays: Mapping[str, Any]) -> None:
    """Write arrays, which `check_shapes` has passed, into the network's parameters."""
    for kind, views in (("weights", network.weights), ("biases", network.biases)):
        for l, view in enumerate(views):
            view[...] = network.backend.asarray(arrays[f"{kind}_{l}"], network.dtype)


def write(
    path: str | os.PathLike[str], description: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write a description and arrays to `path`, all or nothing.

    A temporary file beside `path` is renamed when complete. It has the permissions of the file that it
    replaces; a read-only file is not replaced.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors`` for that format; else the file is an ``.npz``.
    description : mapping
        From strings to JSON values, or NumPy's numbers and arrays. A checkpoint has a dict under
        "training".
    arrays : mapping
        Those of `describe`, and others whose names begin with "state_".

    Raises
    ------
    OSError
        If the file can't be written.
    ImportError
        If the path ends in ``.safetensors`` and safetensors is not installed.
    """
    text = json.dumps({"format": FORMAT, **description}, default=_plain)
    with replacing(path) as file:
        if safetensors.is_safetensors(path):
            safetensors.write(file, text, arrays)
        else:
            np.savez(file, description=np.array(text), **arrays)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A temporary file to write, which replaces `path` atomically when complete.

    Raises
    ------
    OSError
        If the file can't be written, or `path` exists and is no regular file.
    """
    path = Path(os.path.realpath(path))  # write through a symbolic link
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        kind = IsADirectoryError if stat.S_ISDIR(mode) else OSError
        raise kind(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "no regular file", str(path))
    if mode is not None and not os.access(path, os.W_OK):  # which os.replace does not check
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    with in_place_of(path) as temporary, open(temporary, "xb") as file:
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        yield file
        file.flush()
        os.fsync(file.fileno())
    _flush_folder(path.parent)


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path`, which is renamed to `path` at the end."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _plain(value: object) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"a description holds what JSON can hold, not {type(value).__name__} {value!r}")


def _flush_folder(folder: Path) -> None:
    """Flush the folder's entry to disk, where the system can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # not supported by some file systems; the file itself is complete
    finally:
        os.close(descriptor)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Arrays]:
    """The description and the arrays of a file.

    For a safetensors file of another program the description has sizes and dtype only.

    Raises
    ------
    OSError
        If the file can't be read.
    ImportError
        If it is a safetensors file and that package is not installed.
    ValueError
        If the file has another format. No code in it is run, and memory is bounded by its size.
    """
    if Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)} is no network that bpengine can read, but a folder.")
    content = Path(path).read_bytes()
    tensors = safetensors.is_safetensors(path)
    if tensors:
        safetensors.package()
    try:
        text, arrays = safetensors.read(content) if tensors else _unzipped(content)
        if text is None:
            return safetensors.describe(arrays)
        description = safetensors.parse(text)
        if description["format"] not in FORMATS:
            raise ValueError(f"its format is {description['format']!r}, expected {FORMAT!r}")
        _check(description)
        if tensors:
            state = {name: array for name, array in arrays.items() if name.startswith(STATE)}
            layers = {name: array for name, array in arrays.items() if name not in state}
            stack = (description["stack"],) if "stack" in description else ()
            arrays = state | safetensors.renamed(layers, stack)
    except Exception as error:  # damaged or hostile bytes make zipfile and json raise almost anything
        raise ValueError(
            f"{os.fspath(path)} is no network that bpengine can read, or it is damaged: "
            f"{in_short(error)}."
        ) from None
    return description, arrays


def in_short(error: BaseException) -> str:
    """An error's message on a single line of at most 400 characters."""
    text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    text = " ".join(text.split()).removesuffix(".")
    return text if len(text) <= 400 else f"{text[:400]} …"


def _unzipped(content: bytes) -> tuple[str, Arrays]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        arrays: Arrays = {}
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"it holds {name} twice")
            arrays[name] = _array(archive, entry)
    return str(arrays.pop("description")), arrays


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    """An array as `numpy.savez` stores it: uncompressed, so that its length can be checked."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename} is compressed, which bpengine's files are not")
    file = io.BytesIO(archive.read(entry))
    # version 3 differs from 2 only in structured dtypes
    first = npy.read_magic(file) == (1, 0)
    shape, fortran_order, dtype = (
        npy.read_array_header_1_0(file) if first else npy.read_array_header_2_0(file)
    )
    data = file.read()
    if dtype.kind not in "biufU" or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry.filename} holds {len(data)} bytes for shape {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def _check(description: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError if a field is missing or has a wrong type."""
    for key, kind in (("sizes", list), ("activations", list), ("cost", str), ("dtype", str)):
        if not isinstance(description[key], kind):
            raise TypeError(f"its {key} are no {kind.__name__}: {description[key]!r}")
    for σ in description["activations"]:
        if not (isinstance(σ, str) or (isinstance(σ, list) and all(isinstance(n, str) for n in σ))):
            raise TypeError(f"its activations are no names: {σ!r}")
    for key in OPTIONS:
        value = description.get(key, 0.0)
        if not all(type(number) in (int, float) and math.isfinite(number) for number in _entries(value)):
            raise TypeError(f"its {key} is no number: {value!r:.100}")
    P = description.get("stack", 1)
    if type(P) is not int or P < 1:
        raise TypeError(f"its stack is no number of networks: {P!r:.100}")
    if not isinstance(description.get("training", {}), dict):
        raise TypeError("its training is no object of JSON")


def _entries(value: Any) -> Iterator[Any]:
    """A value, or the entries of nested lists."""
    if isinstance(value, list):
        for entry in value:
            yield from _entries(entry)
    else:
        yield value


def check_shapes(
    arrays: Mapping[str, Any], sizes: Sequence[int], dtype: str, stack: tuple[int, ...] = ()
) -> None:
    """Raise ValueError if a network's parameters are not all there, in `dtype`."""
    for l, (fan_in, n) in enumerate(pairwise(sizes)):
        shapes = {f"weights_{l}": (*stack, n, fan_in), f"biases_{l}": (*stack, n, 1)}
        for name, expected in shapes.items():
            if name not in arrays:
                raise ValueError(f"it has no {name}")
            shape, found = arrays[name].shape, str(arrays[name].dtype)
            if shape != expected or found != dtype:
                raise ValueError(
                    f"{name} has shape {shape} and dtype {found}, expected {expected} and {dtype}"
                )


def check_names(names: Sequence[str | list[str]], table: Mapping[str, object], argument: str) -> None:
    """Raise ValueError if a name, or one within lists of them, is not in `table`."""
    for name in names:
        if isinstance(name, list):
            check_names(name, table, argument)
        elif name not in table:
            raise ValueError(
                f"it has a custom {name!r}, and a file holds no code: pass {argument}= to load"
            )


def _names(σ: Activation) -> str | list[str]:
    return [member.name for member in σ.members] if isinstance(σ, PerNeuron) else σ.name
