"""Checkpoints: a training in a file, with all that it needs to go on."""

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
    """Write a checkpoint, a file that `load` reads the network from too."""
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
    """An array as a file has it: vectors like the network's without what pads them on this backend."""
    for network in (training.runner.model, training.network):
        if array.shape == tuple(network.vector.shape):
            return without_padding(array, network.parameters)
    return array


def _with_padding(array: Any, training: Training) -> Any:
    """What `_without_padding` was given."""
    array = np.array(array)
    for network in (training.runner.model, training.network):
        sizes = zip(network.parameters.blocks, network.sizes, strict=False)
        if array.shape == (sum(math.prod(b.shape[:-1]) * (n + 1) for b, n in sizes),):
            return with_padding(array, network.parameters)
    return array


def _arrays(training: Training) -> dict[str, Any]:
    """All arrays by name that a training has besides its network's."""
    runner = training.runner
    arrays = {} if runner.state is None else dict(runner.state.arrays)
    if "average" in arrays:
        raw = runner.raw_parameters
        arrays["stepping"] = runner.model.vector if raw is None else raw
    return arrays


def resume(training: Training, path: str | os.PathLike[str]) -> None:
    """Take up what `save` wrote.

    Raises
    ------
    ValueError
        If the file is no checkpoint of such a training; the network is then left as it was.
    """
    description, arrays = files.read(path)
    network = training.network
    try:
        found = description["training"]
        generator = type(network.rng.bit_generator)()
        for what, own, its in (
            ("optimizer", type(training.optimizer).__name__, found["optimizer"]),
            ("random numbers from", type(generator).__name__, found["random"]["bit_generator"]),
        ):
            if its != own:
                raise ValueError(f"it is of a training with {what} {its}, not {own}")
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
    except Exception as error:  # what else may be in such a file fails in many ways
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


def _fitting(name: str, own: Any, arrays: dict[str, Any], training: Training) -> Any:
    """The file's array `name` on the network's backend, if it is like the training's own."""
    value, network = _with_padding(arrays[f"state_{name}"], training), training.network
    shape = tuple(own.shape)
    if value.shape != shape or str(value.dtype) != network.dtype:
        raise ValueError(
            f"state_{name} has shape {value.shape} and dtype {value.dtype}, expected {shape} and "
            f"{network.dtype}"
        )
    return network.backend.asarray(np.array(value), network.dtype)


def _memories(
    found: list[tuple[str, dict[str, Any]]], arrays: dict[str, Any], training: Training
) -> list[dict[str, Any]]:
    """What each callback is to recall: {} for one that the file knows nothing of."""
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
        own = type(callback).__name__
        at = next((i for i, (name, _) in enumerate(left) if name == own), None)
        memories.append({} if at is None else left.pop(at)[1])
    if left:
        raise ValueError(
            f"it holds what a callback {left[0][0]} remembers, and this training has none of that kind"
        )
    return memories
