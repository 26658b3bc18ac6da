"""Network files: arrays and a JSON description, no code; written atomically."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bpengine.model import npz, safetensors
from bpengine.model.activations import Activation, PerNeuron
from bpengine.model.model import Model
from bpengine.model.npz import Arrays
from bpengine.model.storage import check_regular, check_replaceable, replacing
from bpengine.validation import shown

__all__ = [
    "check_kind",
    "check_names",
    "check_shapes",
    "check_writable",
    "describe",
    "fill",
    "in_short",
    "plain",
    "reading",
    "write",
]

FORMAT = "bpengine network 2"
# that a user may take for the format of saved networks
OTHER_FORMATS = {".h5", ".hdf5", ".json", ".keras", ".npy", ".onnx", ".pickle", ".pkl", ".pt", ".pth"}
FORMATS = ("bpengine network 1", FORMAT)
OPTIONS = ("dropout", "l1", "l2", "label_smoothing")
STATE = "state_"  # prefix of arrays of a training's state


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


def check_kind(network: Model, description: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Raise ValueError if a file, or outlines of its arrays, are not of a network like this one."""
    expected, _ = describe(network)
    for key in ("sizes", "activations", "cost", "dtype", "stack"):
        found, ours = description.get(key), expected.get(key)
        if found != ours:
            raise ValueError(f"the file's network has {key} {found!r:.100}, this one {ours!r:.100}")
    check_shapes(arrays, network.sizes, network.dtype, network.stack)


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
    replaces; a read-only file is not replaced. A path that ends in ``.safetensors`` is of that format,
    else the file is an ``.npz``.

    The description may have NumPy's numbers and arrays; a checkpoint has a dict under "training". Arrays
    besides those of `describe` have names that begin with "state_".

    Raises ValueError for the suffix of another format, OSError if the file can't be written, and
    ImportError if a ``.safetensors`` lacks its package.
    """
    _check_suffix(path)
    text = json.dumps({"format": FORMAT, **description}, default=plain)
    with replacing(path) as file:
        if safetensors.is_safetensors(path):
            safetensors.write(file, text, arrays)
        else:
            np.savez(file, description=np.array(text), **arrays)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise the error that `write` would, as far as it is known; nothing is changed."""
    _check_suffix(path)
    if safetensors.is_safetensors(path):
        safetensors.package()
    check_replaceable(path)


def _check_suffix(path: str | os.PathLike[str]) -> None:
    if Path(path).suffix.lower() in OTHER_FORMATS:
        raise ValueError(
            f"{os.fspath(path)!r} is the name of another format's file; networks are saved as .npz or "
            ".safetensors."
        )


def plain(value: Any) -> Any:
    """Arrays as lists, within lists, tuples and dicts; raises TypeError for what JSON can't hold."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(x) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if not (value is None or isinstance(value, (bool, int, float, str))):
        raise TypeError(f"a description holds what JSON can hold, not {shown(value)}.")
    return value


class Stored:
    """A file that is open: what it says of its arrays is known before memory is taken for them.

    Attributes
    ----------
    description : dict
        For a safetensors file of another program, sizes and dtype only.
    outlines : dict
        Arrays of the shapes and dtypes of the file's, without memory for elements.
    """

    def __init__(self, path: Path, file: io.BufferedReader) -> None:
        self._path, self._tensors = path, safetensors.is_safetensors(path)
        with self._damage():
            contents = safetensors.contents if self._tensors else npz.contents
            text, self._found, self._read = contents(file)
            self._foreign = text is None
            if text is None:
                self.description, outlines = safetensors.describe(self._found)
                dtype = self.description["dtype"]
                self.outlines = {n: npz.outline(dtype, a.shape) for n, a in outlines.items()}
                return
            self.description = safetensors.parse(text)
            if self.description["format"] not in FORMATS:
                raise ValueError(f"its format is {self.description['format']!r}, expected {FORMAT!r}")
            _check(self.description)
            self.outlines = self._arranged(self._found)

    def arrays(self, state: bool = True) -> Arrays:
        """The arrays, without or with those of a training's state."""
        with self._damage():
            names = [name for name in self._found if state or not name.startswith(STATE)]
            arrays = self._arranged({name: self._read(name) for name in names})
            if self._foreign:
                return {n: a.astype(self.description["dtype"], copy=False) for n, a in arrays.items()}
            return arrays

    def _arranged(self, arrays: Arrays) -> Arrays:
        """The arrays of the file by the names of `describe`."""
        if not self._tensors:
            return arrays
        if self._foreign:
            return safetensors.describe(arrays)[1]
        state = {name: array for name, array in arrays.items() if name.startswith(STATE)}
        layers = {name: array for name, array in arrays.items() if name not in state}
        stack = (self.description["stack"],) if "stack" in self.description else ()
        return state | safetensors.renamed(layers, stack)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        # damaged or hostile bytes make zipfile and json raise almost anything
        except Exception as error:
            raise ValueError(
                f"{self._path} is no network that bpengine can read, or it is damaged: "
                f"{in_short(error)}."
            ) from None


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[Stored]:
    """A file, open, of which the description has been read.

    No code in it is run, and memory is bounded by its size. Raises OSError if it can't be read or is no
    regular file, and ValueError for another format.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is no network that bpengine can read, but a folder.")
    check_regular(path)
    with open(path, "rb") as file:
        yield Stored(path, file)


def in_short(error: BaseException) -> str:
    """An error's message on a single line of at most 400 characters."""
    text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    text = " ".join(text.split()).removesuffix(".")
    return text if len(text) <= 400 else f"{text[:400]} …"


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
