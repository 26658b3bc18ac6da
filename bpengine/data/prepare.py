"""Checked examples, a source and validation data from the arguments of `fit`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bpengine.backends import Array, Backend
from bpengine.data.memmap import MemoryMapped
from bpengine.data.offload import Offloaded, fits_on_device
from bpengine.data.per_network import PerNetwork
from bpengine.data.resident import InMemory, SingleBatch
from bpengine.data.source import Source
from bpengine.model.examples import sample_weights
from bpengine.model.labels import class_weights
from bpengine.model.model import Model
from bpengine.model.packed_examples import PARTS, per_network_parts
from bpengine.validation import fraction, positive_integer

__all__ = [
    "Pair",
    "Totals",
    "checked_examples",
    "checked_validation",
    "make_source",
    "some_weights",
    "split",
    "take_columns",
]

Pair = tuple[Array, ...]  # X, Y and perhaps weights


class Totals:
    """Sums over all examples of a training, here of a single process."""

    alone = True

    def check_per_network(self, per_network: Collection[str]) -> None:
        """Raise ValueError if this can't be per-network."""

    def count(self, counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Counts over all processes."""
        return counts

    def relative(self, weights: Any, N: int) -> Any:
        """Weights of N examples, relative to the mean of all."""
        return weights


def checked_examples(
    network: Model, X: Any, Y: Any, sample_weight: Any, class_weight: Any, totals: Totals
) -> tuple[Array, Array, Array | None]:
    """Examples, targets and weights, relative to their mean; with several ranks as given."""
    if Y is None:
        raise TypeError("Y is missing: fit takes X and Y, or an iterable of batches (X, Y).")
    X, Y = network.check_examples(X, Y, read=not MemoryMapped.is_needed(X))
    by_class = class_weights(class_weight, Y, network.backend, totals.count)
    if sample_weight is None and by_class is None:
        return X, Y, None
    m, backend, stack = int(X.shape[-1]), network.backend, network.stack
    weights = sample_weights(sample_weight, m, backend, relative=totals.alone, stack=stack)
    if by_class is not None:
        weights = weights * by_class
        if totals.alone:
            weights = sample_weights(weights, m, backend, stack=stack)
    return X, Y, weights


def make_source(
    network: Model,
    X: Array,
    Y: Array,
    weights: Array | None,
    columns: np.ndarray[Any, Any] | None,
    m: int,
    shuffle: bool | int | str,
    totals: Totals,
    passes: int | None = None,
) -> Source:
    """The source of batches of m of the examples in `columns`, for a number of passes if known."""
    if isinstance(shuffle, str) and shuffle == "each":
        if not network.stack:
            raise ValueError("shuffle='each' is for a stack of networks; this is one network.")
    elif not isinstance(shuffle, bool):
        shuffle = positive_integer(shuffle, "shuffle")  # type: ignore[arg-type]
    N = int(X.shape[-1]) if columns is None else len(columns)
    if m > N:
        raise ValueError(
            f"batch_size={m} is more than the {N} examples of X; use batch_size={N} or less."
        )
    if columns is not None:
        Y = take_columns(network.backend, Y, columns)
        weights = some_weights(network.backend, weights, columns, totals)
    per_network = per_network_parts(X, Y, weights)
    totals.check_per_network(PARTS if shuffle == "each" else per_network)
    weights = totals.relative(weights, N)
    mapped = MemoryMapped.is_needed(X)
    if mapped and (per_network or isinstance(shuffle, str)):
        raise ValueError(
            "a memory map this large is read batch by batch and shared by the networks of a stack: "
            "give X, Y and sample_weight without an axis for the networks, and no shuffle='each'."
        )
    if columns is not None and not mapped:
        X = take_columns(network.backend, X, columns)
    if isinstance(shuffle, str) or "inputs" in per_network:
        return PerNetwork(network, X, Y, weights, m, shuffle)
    if mapped:
        kind = MemoryMapped if network.backend.memory_left() is None else Offloaded
        return kind(network, X, Y, weights, m, shuffle, columns)
    if passes == 1 and m == N and not per_network:
        return SingleBatch(network, X, Y, weights)
    if per_network or fits_on_device(network, N, weights is not None):
        return InMemory(network, X, Y, weights, m, shuffle)
    return Offloaded(network, X, Y, weights, m, shuffle)


def split(network: Model, N: int, share: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Columns to train on, and a random share of columns to validate on."""
    share = fraction(share, "validation")
    count = max(1, round(share * N))
    if not share or count >= N:
        what = "train" if share else "validate"
        raise ValueError(f"validation={share} of {N} examples leaves none to {what} on.")
    order = network.rng.permutation(N)
    return np.sort(order[count:]), np.sort(order[:count])


def take_columns(backend: Backend, x: Array, columns: np.ndarray[Any, Any]) -> Array:
    """Some columns of x, in memory."""
    if isinstance(x, np.ndarray):
        return x[..., columns]  # np.take would first copy all of a memory map
    return backend.xp.take(x, backend.asarray(columns, "int64"), axis=-1)


def some_weights(
    backend: Backend, weights: Array | None, columns: np.ndarray[Any, Any], totals: Totals
) -> Array | None:
    """Weights of some examples, relative to their mean; with several ranks as given."""
    if weights is None:
        return None
    some = weights[..., columns]
    return sample_weights(some, len(columns), backend, relative=totals.alone, stack=some.shape[:-1])


def checked_validation(network: Model, validation: Any) -> Pair | None:
    """The validation data, checked."""
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise TypeError(
            "validation must be a pair (X, Y) of examples and targets, a triple (X, Y, sample_weight), "
            f"or a share of the examples such as 0.1; got {_short(validation)}."
        )
    X, Y, *weights = validation
    X, Y = network.check_examples(
        X, Y, ("validation X", "validation Y"), read=not MemoryMapped.is_needed(X)
    )
    m, backend, stack = int(X.shape[-1]), network.backend, network.stack
    name = "validation sample_weight"
    for w in weights:
        sample_weights(w, m, backend, name, stack=stack)  # not all 0
    return X, Y, *(sample_weights(w, m, backend, name, relative=False, stack=stack) for w in weights)


def _short(value: object) -> str:
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return (
        f"{value!r:.60}" if isinstance(value, (int, float, str)) else f"{type(value).__name__}{length}"
    )
