"""Networks in files: numbers, names and nothing that is run; whole or not there at all."""

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
STATE = "state_"  # begins the names of arrays that belong to a training, not to its network
Arrays = dict[str, np.ndarray[Any, Any]]


def describe(network: Model) -> tuple[dict[str, Any], Arrays]:
    """What `write` needs of a network: its description, ready for JSON, and its arrays.

    The arrays are ``weights_l`` (…, n_{l+1}, n_l) and ``biases_l`` (…, n_{l+1}, 1), counted from 0; on
    NumPy they are views of the network's own.
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
        If sizes, activations, cost or dtype are others, or the arrays are not all there; the network
        is then left as it was.
    """
    own, _ = describe(network)
    for key in ("sizes", "activations", "cost", "dtype", "stack"):
        if description.get(key) != own.get(key):
            its, ours = description.get(key), own.get(key)
            raise ValueError(f"the file's network has {key} {its!r:.100}, this one {ours!r:.100}")
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

    The file is written beside `path` under another name and renamed when complete. It keeps the
    permissions of the file that it replaces, and replaces none that may not be written.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors`` for that format; else the file is an ``.npz``.
    description : mapping
        Of strings to what JSON can hold, NumPy's numbers and arrays included (as lists). A
        checkpoint has a dict under "training".
    arrays : mapping
        Of `describe`, and others whose names begin with "state_".

    Raises
    ------
    OSError
        If the file can't be written.
    ImportError
        If safetensors is asked for and not installed.
    """
    text = json.dumps({"format": FORMAT, **description}, default=_plain)
    with replacing(path) as file:
        if safetensors.is_meant(path):
            safetensors.write(file, text, arrays)
        else:
            np.savez(file, description=np.array(text), **arrays)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of the one at `path` when it is complete.

    It is written beside `path` under another name; of what is at `path`, nothing is lost before.

    Raises
    ------
    OSError
        If the file can't be written, or `path` is there and is no regular file, such as a device.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        kind = IsADirectoryError if stat.S_ISDIR(mode) else OSError
        raise kind(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "no regular file", str(path))
    if mode is not None and not os.access(path, os.W_OK):  # renaming would not ask
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
    """The name of a file to write beside `path`, whose place it takes when it is complete."""
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
    """Put the new name on the disk too, on systems that can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some file systems can't; the file itself is complete
    finally:
        os.close(descriptor)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Arrays]:
    """The description and the arrays of a file that `write` made.

    Of another program's safetensors file, the description has sizes and dtype alone.

    Raises
    ------
    OSError
        If the file can't be read.
    ImportError
        If it is a safetensors file and that package is not installed.
    ValueError
        If the file is anything else than such a file. Nothing in it is run, and it takes memory in
        proportion to its own size, whatever it claims.
    """
    if Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)} is no network that bpengine can read, but a folder.")
    content = Path(path).read_bytes()
    tensors = safetensors.is_meant(path)
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
    """An error's message in one line of a length to read, whatever the file made it say."""
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
    """An array as `numpy.savez` stores it: uncompressed, so that it is as long as it claims."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename} is compressed, which bpengine's files are not")
    file = io.BytesIO(archive.read(entry))
    # the third version differs from the second in the names of fields, which no array here has
    first = npy.read_magic(file) == (1, 0)
    shape, fortran_order, dtype = (
        npy.read_array_header_1_0(file) if first else npy.read_array_header_2_0(file)
    )
    data = file.read()
    if dtype.kind not in "biufU" or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry.filename} holds {len(data)} bytes for shape {shape} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def _check(description: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError if a field is missing or no field of its kind."""
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
    """A value, or the entries of lists of them, one for each layer or network."""
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
                f"it has {name!r} of its maker's own, and a file holds no code: pass {argument}= to load"
            )


def _names(σ: Activation) -> str | list[str]:
    return [member.name for member in σ.members] if isinstance(σ, PerNeuron) else σ.name
