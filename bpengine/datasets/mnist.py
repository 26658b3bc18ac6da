"""MNIST: IDX files from a folder or downloaded and verified."""

from __future__ import annotations

import gzip
import importlib.util
import io
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpengine.model.storage import check_regular
from bpengine.validation import choose, file_path

__all__ = ["idx", "mnist"]

_Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]
MOST_IMAGES = 1_000_000  # more than in any set of this form
_Check = Callable[[np.dtype[Any], tuple[int, ...]], None]
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MIRRORS = [
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
]
_PARTS = {"train": "train-", "test": "t10k-"}
_SHA256 = {  # of the compressed files
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, ValueError)


def mnist(folder: str | os.PathLike[str] | None = None, part: str = "train") -> _Labelled:
    """Return MNIST: 60,000 training or 10,000 test digits of 28 x 28 pixels.

    Parameters
    ----------
    folder : path, optional
        Holds the IDX files, each with or without ``.gz``, as ``train-images-idx3-ubyte`` or
        ``train-images.idx3-ubyte``. None: the user's cache, downloaded on first use.
    part : "train" or "test"

    Returns
    -------
    X : float32 (784, m)
        Ink from 0 to 1, row by row; the transpose of a C-ordered array.
    labels : int64 (m,)
        0 to 9.

    Raises
    ------
    FileNotFoundError
        The folder lacks a file.
    ValueError
        Unknown part, damaged file, or images and labels that do not belong together.
    ConnectionError
        No mirror delivered a file with the right digest.
    ImportError
        A download without pooch.

    References
    ----------
    Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits.

    Examples
    --------
    >>> import pathlib, struct, tempfile
    >>> header = struct.pack(">4i", 0x803, 2, 28, 28), struct.pack(">2i", 0x801, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder)
    ...     _ = (path / "t10k-images-idx3-ubyte").write_bytes(header[0] + bytes(2 * 784))
    ...     _ = (path / "t10k-labels-idx1-ubyte").write_bytes(header[1] + bytes([7, 2]))
    ...     X, labels = mnist(folder, part="test")
    >>> X.shape, labels.tolist()
    ((784, 2), [7, 2])
    """
    prefix = choose(part, _PARTS, "part")
    folder = None if folder is None else file_path(folder, "folder")
    stems = [stem for stem in _SHA256 if stem.startswith(prefix)]
    paths = [_cached(stem) if folder is None else _find(folder, stem) for stem in stems]

    def check_images(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if dtype != np.uint8 or shape[1:] != (28, 28) or shape[0] > MOST_IMAGES:
            raise ValueError(
                f"{paths[0]}: expected uint8 images of shape (m, 28, 28), m up to {MOST_IMAGES}, got "
                f"{dtype} of shape {shape}"
            )

    def check_labels(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if dtype != np.uint8 or shape != (len(images),):
            raise ValueError(
                f"{paths[1]}: expected uint8 labels of shape ({len(images)},), one for each image in "
                f"{paths[0].name}, got {dtype} of shape {shape}; take both files from the same download"
            )

    images = _read(paths[0], check_images)
    labels = _read(paths[1], check_labels)
    pixels = images.reshape(len(images), 784).astype(np.float32)
    pixels /= 255
    return pixels.T, labels.astype(np.int64)


def idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read one IDX file, MNIST's format, compressed with gzip or not.

    Parameters
    ----------
    path : path
        Two zero bytes, a type code, the number of dimensions, the sizes as big-endian 32-bit
        integers, then the values, big-endian, last dimension fastest.

    Returns
    -------
    array : uint8, int8, int16, int32, float32 or float64, of the sizes in the header
        In native byte order.

    Raises
    ------
    OSError
        No regular file.
    ValueError
        Not an IDX file, an unknown type, or a wrong number of bytes.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "three")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    ...     idx(path)
    array([7, 8, 9], dtype=uint8)
    """
    return _read(file_path(path, "path"))


def _read(path: Path, check: _Check | None = None) -> NDArray[Any]:
    """The array of a file, whose header `check` is given before memory is taken."""
    check_regular(path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else path.open("rb") as opened:
        try:
            shape, dtype = _header(opened)
        except _DAMAGE as error:
            raise _damaged(path, error) from None
        if check is not None:
            check(dtype, shape)
        try:
            if not zipped:
                _check_length(path.stat().st_size - opened.seek(0, os.SEEK_CUR), shape, dtype)
            return _values(opened, shape, dtype)
        except _DAMAGE as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"{path}: {error}. Is it damaged? Delete it and get it again")


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], np.dtype[Any]]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        came = f"the bytes {head.hex(' ')}" if head else "no byte"
        raise ValueError(f"expected an IDX file, with 00 00 and two more bytes first, got {came}")
    if head[2] not in _TYPES:
        known = ", ".join(f"0x{code:02x}" for code in _TYPES)
        raise ValueError(f"expected an IDX type code among {known}, got 0x{head[2]:02x}")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ValueError(f"expected {head[3]} sizes in {4 * head[3]} bytes, got {len(sizes)} bytes")
    return struct.unpack(f">{head[3]}I", sizes), np.dtype(_TYPES[head[2]])


def _values(file: io.BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    expected = math.prod(shape) * dtype.itemsize
    data = bytearray()  # memory is bounded by the file's size, not by its header
    while block := file.read(min(1 << 20, expected + 1 - len(data))):
        data += block
    _check_length(len(data), shape, dtype)
    array: NDArray[Any] = np.ndarray(shape, dtype, buffer=data)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _check_length(found: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        came = "more" if found > expected else f"{found} bytes"
        raise ValueError(f"expected {expected} bytes for {dtype.name} of shape {shape}, got {came}")


def _find(folder: Path, stem: str) -> Path:
    dotted = stem.replace("-idx", ".idx")
    names = [stem, f"{stem}.gz", dotted, f"{dotted}.gz"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    held = "no folder"
    if folder.is_dir():
        entries = sorted(os.listdir(folder))
        held = ", ".join(entries[:20]) or "an empty folder"
        held += f" and {len(entries) - 20} more" if len(entries) > 20 else ""
    raise FileNotFoundError(
        f"looked for {' or '.join(names)} in {folder}, found {held}. "
        "Expected the folder with MNIST's IDX files; without a folder they are downloaded"
    )


def _cached(stem: str) -> Path:
    """A file in the user's cache, downloaded if it is not there."""
    try:
        import pooch
    except ImportError:
        raise ImportError(
            'downloading MNIST needs pooch: pip install "bpengine[data]", or pass the folder that holds '
            "its files (on the command line --data DIR)"
        ) from None
    name, folder, failures = f"{stem}.gz", pooch.os_cache("bpengine") / "mnist", []
    has_bar = importlib.util.find_spec("tqdm") is not None
    for url in (mirror + name for mirror in _MIRRORS):
        try:
            return Path(pooch.retrieve(url, _SHA256[stem], name, folder, progressbar=has_bar))
        except (OSError, ValueError) as error:  # those of requests are OSErrors
            failures.append(f"{url}: {error}")
    raise ConnectionError(
        f"cannot download {name} to {folder} ({'; '.join(failures)}). Download MNIST's files by hand "
        "into a folder and pass it (on the command line --data DIR)"
    )
