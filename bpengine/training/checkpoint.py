"""Checkpoints: the state of a training in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bpengine.model import files, npz
from bpengine.model.parameters import not_padding
from bpengine.training.checkpoint_checks import count, same_generator
from bpengine.training.history import History, check_history
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
            return np.asarray(array[not_padding(network.parameters)])
    return array


def _with_padding(array: Any, training: Training) -> Any:
    """The inverse of `_without_padding`."""
    for network in (training.runner.model, training.network):
        mask = not_padding(network.parameters)
        if array.shape == (np.count_nonzero(mask),):
            whole = np.zeros(mask.shape, array.dtype)
            whole[mask] = array
            return whole
    return np.array(array)


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

    Raises ValueError if it is no checkpoint of such a training; the network is unchanged.
    """
    network = training.network
    with files.reading(path) as stored:
        with _refusing(path):
            found = stored.description["training"]
            if found["optimizer"] != type(training.optimizer).__name__:
                raise ValueError(
                    f"it is of a training with optimizer {found['optimizer']!s:.60}, not "
                    f"{type(training.optimizer).__name__}"
                )
            generator = same_generator(network.rng, found["random"])
            files.check_kind(network, stored.description, stored.outlines)
            training.load_state_dict(found)  # a stack's arrays depend on which networks have stopped
            for name, current in _arrays(training).items():
                _check_fits(name, current, stored.outlines, training)
            _load_progress(training, found)
        arrays = stored.arrays()
    with _refusing(path):
        for name, array in arrays.items():
            if not name.startswith(files.STATE) and not np.isfinite(array).all():
                raise ValueError(f"its {name} are not all finite")
        for name in _arrays(training) if not network.stack else ():  # stopped networks may have any
            if np.isnan(arrays[f"state_{name}"]).any():
                raise ValueError(f"its state_{name} has NaN")
        state = {name: _on_backend(name, arrays, training) for name in _arrays(training)}
        _load_callbacks(training, _memories(found["callbacks"], arrays, training))
    files.fill(network, arrays)
    network.rng.bit_generator.state = generator.state
    training.runner.raw_parameters = state.pop("stepping", None)
    for name, array in state.items():
        assert training.runner.state is not None
        training.runner.state.arrays[name][...] = array
    training.resume()


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # arbitrary file content fails in many ways
        raise ValueError(
            f"{os.fspath(path)} is no checkpoint to resume from: {files.in_short(error)}."
        ) from None


def _load_callbacks(training: Training, memories: list[dict[str, Any]]) -> None:
    """Restore the states of all callbacks, or of none."""
    before = [dict(vars(callback)) for callback in training.callbacks]
    try:
        for callback, memory in zip(training.callbacks, memories, strict=True):
            callback.load_state_dict(memory)
            callback.check(training)
    except BaseException:
        for callback, attributes in zip(training.callbacks, before, strict=True):
            vars(callback).clear()
            vars(callback).update(attributes)
        raise


def _load_progress(training: Training, found: dict[str, Any]) -> None:
    """Set a training's history and counts."""
    network, history = training.network, History.from_dict(found["history"])
    epoch = count(found["epoch"], "epoch")
    check_history(history, epoch, len(network.sizes) - 1, network.stack)
    if not isinstance(found["stopped"], bool):
        raise ValueError(f"its stopped is {found['stopped']!r:.60}, expected true or false")
    training.history, training.epoch, training.stopped = history, epoch, found["stopped"]
    training.steps, training.steps_taken = count(found["steps"], "steps"), count(found["taken"], "taken")


def _check_fits(name: str, current: Any, outlines: dict[str, Any], training: Training) -> None:
    """Raise ValueError if the file's array `name` has another dtype, or shape without padding."""
    value = outlines[f"state_{name}"]
    shape = _without_padding(npz.outline(training.network.dtype, current.shape), training).shape
    if value.shape != shape or str(value.dtype) != training.network.dtype:
        raise ValueError(
            f"state_{name} has shape {value.shape} and dtype {value.dtype}, expected {shape} and "
            f"{training.network.dtype}"
        )


def _on_backend(name: str, arrays: dict[str, Any], training: Training) -> Any:
    value = _with_padding(arrays[f"state_{name}"], training)
    return training.network.backend.asarray(value, training.network.dtype)


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
