"""Safetensors files with PyTorch's names of the arrays."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from bpengine.model.npz import Arrays, Read, outline

__all__ = ["contents", "describe", "is_safetensors", "package", "parse", "renamed", "write"]

KEY = "bpengine"  # of the description in the file's metadata
HEADER_BYTES = 100_000_000  # as in the package
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "U64": "<u8",
    "U32": "<u4",
    "U8": "|u1",
    "BOOL": "|b1",
}
PARAMETER = re.compile(r"(.*?)(?<![0-9])([0-9]{1,9})\.(weight|bias)", re.DOTALL)


def is_safetensors(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of safetensors files."""
    return Path(path).suffix.lower() == ".safetensors"


def package() -> Any:
    """The optional package safetensors, for NumPy's arrays."""
    try:
        return importlib.import_module("safetensors.numpy")
    except ImportError:
        raise ImportError(
            "files that end in .safetensors need the package safetensors. Install it: "
            'pip install "bpengine[safetensors]"'
        ) from None


def write(file: BinaryIO, text: str, arrays: Mapping[str, Any]) -> None:
    """Write the arrays with the names of ``torch.nn.Sequential(Linear, σ, Linear, …)``.

    ``weights_l`` becomes ``"{2l}.weight"``, and ``biases_l`` ``"{2l}.bias"`` of one axis less.
    """
    tensors = {}
    for name, array in arrays.items():
        kind, _, l = name.rpartition("_")
        if kind in ("weights", "biases"):
            name = f"{2 * int(l)}.{'weight' if kind == 'weights' else 'bias'}"
            array = array if kind == "weights" else array[..., 0]
        tensors[name] = np.asarray(array, order="C")
    file.write(package().save(tensors, metadata={KEY: text}))


def contents(file: io.BufferedReader) -> tuple[str | None, Arrays, Read]:
    """The description, outlines of the tensors by name, and a function that reads one.

    The description is None in a file of another program. Only the header is read, and lengths compared
    with the file's.
    """
    size = os.fstat(file.fileno()).st_size
    start = 8 + int.from_bytes(file.read(8), "little")
    if start > min(size, HEADER_BYTES):
        raise ValueError(f"it claims a header of {start - 8} bytes, and has {size}")
    header = parse(file.read(start - 8))
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not all text")
    places = {name: _place(name, **tensor) for name, tensor in header.items()}
    stop = 0
    for place in sorted(places.values(), key=lambda place: place.offsets):
        if place.offsets[0] != stop:
            raise ValueError("its tensors overlap or have gaps between them")
        stop = place.offsets[1]
    if start + stop != size:
        raise ValueError(f"its header lists {stop} bytes of tensors, and it has {size - start}")

    def read(name: str) -> np.ndarray[Any, Any]:
        dtype, shape, (first, last) = places[name]
        file.seek(start + first)
        array = np.frombuffer(file.read(last - first), DTYPES[dtype]).reshape(shape)
        # a bfloat16 is the upper half of a float32
        return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array

    outlines = {
        name: outline("<f4" if place.dtype == "BF16" else DTYPES[place.dtype], place.shape)
        for name, place in places.items()
    }
    return metadata.get(KEY), outlines, read


def parse(text: str | bytes) -> Any:
    """Parse JSON; ValueError for duplicate keys."""
    return json.loads(text, object_pairs_hook=_without_doubles)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names one thing twice")
    return found


class _Place(NamedTuple):
    """Where a tensor is in the file, in bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]


def _place(name: str, dtype: str, shape: list[int], data_offsets: list[int]) -> _Place:
    if dtype not in DTYPES:
        raise ValueError(f"{name} is of {dtype}, expected F32, F64, F16 or BF16")
    first, last = data_offsets
    if not all(type(n) is int and n >= 0 for n in (first, last, *shape)):
        raise ValueError(f"{name} has shape {shape} at {data_offsets}")
    if last - first != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
        raise ValueError(f"{name} has {last - first} bytes for shape {shape} of {dtype}")
    return _Place(dtype, tuple(shape), (first, last))


def renamed(tensors: Mapping[str, np.ndarray[Any, Any]], stack: tuple[int, ...] = ()) -> Arrays:
    """Tensors of Linear layers as ``weights_l`` (…, n_{l+1}, n_l) and ``biases_l`` (…, n_{l+1}, 1).

    Names are a common prefix such as "layers.", an increasing index, and ".weight" or ".bias". A layer
    without a bias has none in the result. Raises ValueError for a tensor of another name or shape.
    """
    layers: dict[int, dict[str, str]] = {}
    prefixes: dict[str, str] = {}
    for name in tensors:
        match = PARAMETER.fullmatch(name)
        if match is None:
            raise ValueError(f"{name} is no tensor of a Linear layer, such as 0.weight or 0.bias")
        prefix, index, kind = match.groups()
        prefixes.setdefault(prefix, name)
        if layers.setdefault(int(index), {}).setdefault(kind, name) != name:
            raise ValueError(f"{layers[int(index)][kind]} and {name} are of the same layer")
    if len(prefixes) > 1:
        raise ValueError(f"{' and '.join(list(prefixes.values())[:2])} do not begin alike")
    arrays = {}
    for l, (_, names) in enumerate(sorted(layers.items())):
        if "weight" not in names:
            raise ValueError(f"{names['bias']} has no weight beside it")
        w = tensors[names["weight"]]
        if w.ndim != len(stack) + 2:
            axes = "three axes, (P, n_out, n_in)" if stack else "two axes, (n_out, n_in)"
            raise ValueError(f"{names['weight']} has shape {w.shape}; a Linear layer's has {axes}")
        arrays[f"weights_{l}"] = w
        if "bias" in names:
            b, expected = tensors[names["bias"]], w.shape[:-1]
            if stack and b.shape == (math.prod(expected),):  # a stack's in version 0.1
                b = b.reshape(expected)
            if b.shape != expected:
                raise ValueError(
                    f"{names['bias']} has shape {b.shape}, expected {expected} beside "
                    f"{names['weight']} of shape {w.shape}"
                )
            arrays[f"biases_{l}"] = b[..., None]
    return arrays


def describe(tensors: Mapping[str, np.ndarray[Any, Any]]) -> tuple[dict[str, Any], Arrays]:
    """Sizes, dtype and arrays of a network from another program's tensors.

    The dtype is float64 where one tensor's is, else float32; the arrays are not converted. A missing
    bias is 0. Raises ValueError for tensors that are not of a sequence of Linear layers.
    """
    for name, array in tensors.items():
        if array.dtype.kind != "f":
            raise ValueError(f"{name} has dtype {array.dtype}, expected floating point")
    arrays = renamed(tensors)
    weights = [array for name, array in arrays.items() if name.startswith("weights")]
    if not weights:
        raise ValueError("it holds no tensors")
    for l, (one, next_one) in enumerate(pairwise(weights), 1):
        if next_one.shape[1] != one.shape[0]:
            raise ValueError(
                f"its Linear layer {l} gives {one.shape[0]} numbers and layer {l + 1} takes "
                f"{next_one.shape[1]}"
            )
    double = any(array.dtype == "float64" for array in arrays.values())
    dtype = "float64" if double else "float32"
    for l, w in enumerate(weights):
        arrays.setdefault(f"biases_{l}", outline(dtype, (w.shape[0], 1)))  # zeros
    sizes = [weights[0].shape[1], *(w.shape[0] for w in weights)]
    return {"sizes": sizes, "dtype": dtype}, arrays
