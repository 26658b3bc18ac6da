"""Checkpoints: the state of a training in a file."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from bpengine.model import files
from bpengine.model.parameters import with_padding, without_padding
from bpengine.training.history import History
from bpengine.training.loop import Training

__all__ = ["resume", "save"]


def save(training: Training, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint; `load` can read the network from it."""
    backend = training.network.backend
    description, arrays = files.describe(training.network)
    for name, array in _arrays(training).items():
        arrays[f"state_{name}"] = _without_padding(backend.to_numpy(array), training)
    memories: list[tuple[str, dict[str, Any]]] = []
    for callback in training.callbacks:
        memory = dict(callback.state_dict())
        for name in [name for name, value in memory.items() if hasattr(value, "shape")]:
            value = memory.pop(name)
            host = backend.to_numpy(value) if backend.owns(value) else np.asarray(value)
            arrays[f"state_callback_{len(memories)}_{name}"] = _without_padding(host, training)
        memories.append((type(callback).__name__, memory))
    description["training"] = {
        "optimizer": type(training.optimizer).__name__,
        "epoch": training.epoch,
        "steps": training.steps,
        "taken": training.steps_taken,
        "stopped": training.stopped,
        "history": training.history.as_dict(),
        "random": training.network.rng.bit_generator.state,
        "callbacks": memories,
    }
    description["training"] |= training.state_dict()
    files.write(path, description, arrays)


def _without_padding(array: np.ndarray[Any, Any], training: Training) -> np.ndarray[Any, Any]:
    """An array without padding if it has the layout of the network's vector."""
    for network in (training.runner.model, training.network):
        if array.shape == tuple(network.vector.shape):
            return without_padding(array, network.parameters)
    return array


def _with_padding(array: Any, training: Training) -> Any:
    """The inverse of `_without_padding`."""
    array = np.array(array)
    for network in (training.runner.model, training.network):
        sizes = zip(network.parameters.blocks, network.sizes, strict=False)
        if array.shape == (sum(math.prod(b.shape[:-1]) * (n + 1) for b, n in sizes),):
            return with_padding(array, network.parameters)
    return array


def _arrays(training: Training) -> dict[str, Any]:
    """Arrays of a training besides its network's, by name."""
    runner = training.runner
    arrays = {} if runner.state is None else dict(runner.state.arrays)
    if "average" in arrays:
        raw = runner.raw_parameters
        arrays["stepping"] = runner.model.vector if raw is None else raw
    return arrays


def resume(training: Training, path: str | os.PathLike[str]) -> None:
    """Continue from what `save` wrote.

    Raises
    ------
    ValueError
        If the file is no checkpoint of such a training; the network is unchanged.
    """
    description, arrays = files.read(path)
    network = training.network
    try:
        found = description["training"]
        generator = type(network.rng.bit_generator)()
        for what, expected, stored in (
            ("optimizer", type(training.optimizer).__name__, found["optimizer"]),
            ("random numbers from", type(generator).__name__, found["random"]["bit_generator"]),
        ):
            if stored != expected:
                raise ValueError(f"it is of a training with {what} {stored}, not {expected}")
        training.load_state_dict(found)
        state = {
            name: _fitting(name, array, arrays, training) for name, array in _arrays(training).items()
        }
        memories = _memories(found["callbacks"], arrays, training)
        history = History.from_dict(found["history"])
        epoch, steps, taken = (int(found[name]) for name in ("epoch", "steps", "taken"))
        stopped = bool(found["stopped"])
        generator.state = found["random"]
        for callback, memory in zip(training.callbacks, memories, strict=True):
            callback.load_state_dict(memory)
        files.restore(network, description, arrays)
    except Exception as error:  # arbitrary file content fails in many ways
        raise ValueError(
            f"{os.fspath(path)} is no checkpoint to resume from: {files.in_short(error)}."
        ) from None
    network.rng.bit_generator.state = generator.state
    training.runner.raw_parameters = state.pop("stepping", None)
    for name, array in state.items():
        assert training.runner.state is not None
        training.runner.state.arrays[name][...] = array
    training.resume()
    training.history, training.epoch, training.stopped = history, epoch, stopped
    training.steps, training.steps_taken = steps, taken


def _fitting(name: str, current: Any, arrays: dict[str, Any], training: Training) -> Any:
    """The file's array `name` on the network's backend, if shape and dtype match."""
    value, network = _with_padding(arrays[f"state_{name}"], training), training.network
    shape = tuple(current.shape)
    if value.shape != shape or str(value.dtype) != network.dtype:
        raise ValueError(
            f"state_{name} has shape {value.shape} and dtype {value.dtype}, expected {shape} and "
            f"{network.dtype}"
        )
    return network.backend.asarray(np.array(value), network.dtype)


def _memories(
    found: list[tuple[str, dict[str, Any]]], arrays: dict[str, Any], training: Training
) -> list[dict[str, Any]]:
    """The stored state of each callback: {} if there is none."""
    backend = training.network.backend
    left: list[tuple[str, dict[str, Any]]] = []
    for number, (name, memory) in enumerate(found):
        prefix = f"state_callback_{number}_"
        held = {
            key.removeprefix(prefix): backend.asarray(_with_padding(value, training), str(value.dtype))
            for key, value in arrays.items()
            if key.startswith(prefix)
        }
        if memory or held:
            left.append((name, memory | held))
    memories = []
    for callback in training.callbacks:
        kind = type(callback).__name__
        at = next((i for i, (name, _) in enumerate(left) if name == kind), None)
        memories.append({} if at is None else left.pop(at)[1])
    if left:
        raise ValueError(
            f"it holds what a callback {left[0][0]} remembers, and this training has none of that kind"
        )
    return memories
