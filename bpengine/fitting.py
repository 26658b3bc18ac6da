"""What `Network.fit` is given: checked once, made a training, and run."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from bpengine import checkpoints, lbfgs
from bpengine.backends import Array, Backend
from bpengine.callbacks import Callback, Checkpoint, Function, Progress
from bpengine.collectives import Group
from bpengine.distributed import DataParallel
from bpengine.distributed_training import DataParallelStackTraining, DataParallelTraining
from bpengine.history import History
from bpengine.joining import Ranks, take_up
from bpengine.members import one_network
from bpengine.optimizers import LBFGS, SGD, Optimizer, check_optimizer
from bpengine.private import DPSGD
from bpengine.private_training import PrivateTraining
from bpengine.sources import Mapped, Resident, Source, Stream
from bpengine.stack_sources import Each
from bpengine.stack_training import StackTraining
from bpengine.streaming import fits, sent
from bpengine.training import Training
from bpengine.validation import class_weights, fraction, positive_integer, sample_weights
from bpengine.workspace import OWN, own_parts

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["fit", "partial_fit"]

Pair = tuple[Array, ...]  # X, Y and perhaps weights


def fit(network: Network, X: Any, Y: Any, *, comm: Any, **options: Any) -> History:
    """Train `network`; see `Network.fit`."""
    if comm is None:
        return _fit(network, X, Y, **options)
    data_parallel = DataParallel.of(comm)
    with Group(data_parallel.comm, data_parallel.timeout) as group:
        return _fit(network, X, Y, ranks=Ranks(group, data_parallel), **options)


def _fit(
    network: Network,
    X: Array | Iterable[Pair],
    Y: Array | None,
    *,
    epochs: SupportsIndex,
    batch_size: SupportsIndex,
    optimizer: Optimizer | LBFGS | DPSGD,
    validation: Pair | float | None,
    sample_weight: Array | None,
    class_weight: Mapping[int, float] | str | None,
    shuffle: bool | int | str,
    callbacks: Sequence[Callback | Callable[[Training], None]],
    monitor: int | str | None,
    resume: str | os.PathLike[str] | None,
    progress: bool,
    ranks: Ranks | None = None,
) -> History:
    epochs = positive_integer(epochs, "epochs")
    m = positive_integer(batch_size, "batch_size")
    listeners = _listeners(callbacks, progress)
    if isinstance(optimizer, (LBFGS, DPSGD)):
        one_network(network, type(optimizer).__name__)
    if isinstance(optimizer, LBFGS):
        lbfgs.check(network, monitor)
    elif not isinstance(optimizer, DPSGD):
        check_optimizer(optimizer)
    if ranks is not None:
        listeners = ranks.start(network, optimizer, listeners, Y is None and not hasattr(X, "shape"))
    if monitor != "epoch" and monitor is not None:
        monitor = positive_integer(monitor, "monitor")  # type: ignore[arg-type]
    source: Source
    if Y is None and not hasattr(X, "shape"):
        if isinstance(validation, numbers.Real):
            raise ValueError("a share of the examples for validation needs X and Y as arrays.")
        if sample_weight is not None or class_weight is not None:
            raise ValueError(
                "with an iterable of batches, give weights in the batches: (X, Y, sample_weight)."
            )
        if isinstance(shuffle, str):
            raise ValueError(
                "shuffle='each' needs X and Y as arrays: an iterable gives the same batches to all."
            )
        source, held = _stream(network, X, epochs, optimizer), validation
    else:
        X, Y, weights = _examples(network, X, Y, sample_weight, class_weight, ranks)
        columns, held = None, validation
        if isinstance(validation, numbers.Real):
            columns, rest = _split(network, int(X.shape[-1]), validation)
            share = _share(network.backend, weights, rest, ranks)
            held = tuple(_taken(network.backend, x, rest) for x in (X, Y))
            held += () if share is None else (share,)
        whole = isinstance(optimizer, LBFGS)
        source = _source(network, X, Y, weights, columns, None if whole else m, shuffle, ranks)
    held = _validation(network, held)
    options: Any = {"validation": held, "callbacks": listeners, "monitor": monitor}
    training: Training
    if ranks is not None:
        parallel = DataParallelStackTraining if network.stack else DataParallelTraining
        training = parallel(ranks.group, ranks.options, network, optimizer, source, epochs, **options)
        take_up(training, resume)
    elif isinstance(optimizer, DPSGD):
        training = PrivateTraining(network, optimizer, source, epochs, **options)
    else:
        kind = StackTraining if network.stack else Training
        training = kind(network, optimizer, source, epochs, **options)
    if ranks is None and resume is not None and Path(resume).exists():
        checkpoints.resume(training, resume)
    network.partial = None
    _run(training)
    return training.history


def _run(training: Training) -> None:
    """Train between the callbacks' start and end, until all epochs are complete or Ctrl-C."""
    started: list[Callback] = []
    # a cost that overflows is told by NonFiniteCostError, not by warnings
    with np.errstate(all="ignore"):
        try:
            for callback in training.callbacks:
                callback.start(training)
                started.append(callback)
            if isinstance(training.optimizer, LBFGS):
                lbfgs.minimize(training)
            else:
                training.run()
        except KeyboardInterrupt:
            training.history.interrupted = True
            training.history.keep_complete()
        finally:
            training.show_average()
            with ExitStack() as ends:  # which comes to each, whatever happens in another
                for callback in reversed(started):
                    ends.callback(callback.end, training)


def partial_fit(
    network: Network,
    X: Array,
    Y: Array,
    *,
    batch_size: SupportsIndex,
    optimizer: Optimizer | None,
    sample_weight: Array | None,
    class_weight: Mapping[int, float] | str | None,
    shuffle: bool | int | str,
) -> Any:
    """One pass over some examples; see `Network.partial_fit`."""
    m = positive_integer(batch_size, "batch_size")
    if optimizer is not None:
        check_optimizer(optimizer)
    X, Y, weights = _examples(network, X, Y, sample_weight, class_weight)
    source = _source(network, X, Y, weights, None, min(m, int(X.shape[-1])), shuffle)
    training = network.partial
    if training is None or optimizer not in (None, training.optimizer):
        kind = StackTraining if network.stack else Training
        training = network.partial = kind(network, optimizer or SGD(), source)
    training.feed(source)
    with np.errstate(all="ignore"):
        try:
            cost = training.pass_over_examples()
        finally:
            training.show_average()
    return training.complete(cost)


def _listeners(callbacks: Any, progress: bool) -> list[Callback]:
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str):
        raise TypeError(f"callbacks must be a list, such as [bp.EarlyStopping()]; got {callbacks!r}.")
    found: list[Callback] = []
    for callback in callbacks:
        if isinstance(callback, Callback):
            found.append(callback)
        elif callable(callback) and not isinstance(callback, type):
            found.append(Function(callback))
        else:
            raise TypeError(
                "callbacks must be bpengine.Callback objects or functions of the training; "
                f"got {callback!r}."
            )
    if progress:
        found.append(Progress())
    # a checkpoint holds what the others remember, once they have seen the epoch
    return sorted(found, key=lambda callback: isinstance(callback, Checkpoint))


def _stream(network: Network, X: Any, epochs: int, optimizer: object) -> Stream:
    """An iterable of batches as a source."""
    if not isinstance(X, Iterable):
        raise TypeError(
            f"X must be an array of shape (n_1, N), with Y, or an iterable of batches (X, Y); "
            f"got {type(X).__name__}."
        )
    if isinstance(X, Iterator) and epochs > 1:
        raise TypeError(
            f"X is an iterator, which can be read once, and epochs={epochs}. Give an iterable that "
            "starts anew in each epoch, such as a list or an object with __iter__, or epochs=1."
        )
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS takes all examples in every step: give X and Y as arrays.")
    return Stream(network, X)


def _examples(
    network: Network,
    X: Any,
    Y: Any,
    sample_weight: Any,
    class_weight: Any,
    ranks: Ranks | None = None,
) -> tuple[Array, Array, Array | None]:
    """Examples, targets and, where there are any, weights relative to their mean.

    Those of several ranks are as given: their mean is known when all have theirs.
    """
    if Y is None:
        raise TypeError("Y is missing: fit takes X and Y, or an iterable of batches (X, Y).")
    X, Y = network.check_examples(X, Y, read=not Mapped.is_meant(X))
    each = class_weights(class_weight, Y, network.backend, None if ranks is None else ranks.count)
    if sample_weight is None and each is None:
        return X, Y, None
    m, stack = int(X.shape[-1]), network.stack
    relative = ranks is None
    weights = sample_weights(sample_weight, m, network.backend, relative=relative, stack=stack)
    if ranks is not None:
        return X, Y, weights if each is None else weights * each
    if each is not None:
        weights = sample_weights(weights * each, m, network.backend, stack=stack)
    return X, Y, weights


def _source(
    network: Network,
    X: Array,
    Y: Array,
    weights: Array | None,
    columns: np.ndarray[Any, Any] | None,
    batch_size: int | None,
    shuffle: bool | int | str,
    ranks: Ranks | None = None,
) -> Source:
    """The examples of these columns as a source; without a batch size, of all of them at once."""
    if shuffle == "each":
        if not network.stack:
            raise ValueError("shuffle='each' is for a stack of networks; this is one network.")
    elif not isinstance(shuffle, bool):
        shuffle = positive_integer(shuffle, "shuffle")  # type: ignore[arg-type]
    N = int(X.shape[-1]) if columns is None else len(columns)
    m = batch_size or N
    if m > N:
        raise ValueError(
            f"batch_size={m} is more than the {N} examples of X; use batch_size={N} or less."
        )
    if columns is not None:
        Y = _taken(network.backend, Y, columns)
        weights = _share(network.backend, weights, columns, ranks)
    own = own_parts(X, Y, weights)
    if ranks is not None:
        ranks.check_own(OWN if shuffle == "each" else own)
        weights = ranks.relative(weights, N)
    if own or isinstance(shuffle, str):
        if Mapped.is_meant(X):
            raise ValueError(
                "a memory map this large is read batch by batch, for all networks of the stack alike: "
                "give X, Y and sample_weight without an axis for the networks, and no shuffle='each'."
            )
        X = X if columns is None else _taken(network.backend, X, columns)
        if isinstance(shuffle, str) or "inputs" in own:
            return Each(network, X, Y, weights, m, shuffle)
        return Resident(network, X, Y, weights, m, shuffle)
    on_host = network.backend.memory_left() is None
    if Mapped.is_meant(X):
        if on_host:
            return Mapped(network, X, Y, weights, m, shuffle, columns)
        return sent(network, X, Y, weights, m, shuffle, columns)
    if columns is not None:
        X = _taken(network.backend, X, columns)
    if not fits(network, N, weights is not None):
        return sent(network, X, Y, weights, m, shuffle)
    return Resident(network, X, Y, weights, m, shuffle)


def _split(network: Network, N: int, share: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The examples to train on and, a random share of them, those to validate on: their columns."""
    share = fraction(share, "validation")
    count = max(1, round(share * N))
    if not share or count >= N:
        what = "train" if share else "validate"
        raise ValueError(f"validation={share} of {N} examples leaves none to {what} on.")
    order = network.rng.permutation(N)
    return np.sort(order[count:]), np.sort(order[:count])


def _taken(backend: Backend, x: Array, columns: np.ndarray[Any, Any]) -> Array:
    """Some columns of x, in memory."""
    if isinstance(x, np.ndarray):
        return x[..., columns]  # np.take would first copy all of a memory map
    return backend.xp.take(x, backend.asarray(columns, "int64"), axis=-1)


def _share(
    backend: Backend,
    weights: Array | None,
    columns: np.ndarray[Any, Any],
    ranks: Ranks | None = None,
) -> Array | None:
    """The weights of some examples, relative to their own mean; of several ranks, as given."""
    if weights is None:
        return None
    some = weights[..., columns]
    return sample_weights(some, len(columns), backend, relative=ranks is None, stack=some.shape[:-1])


def _validation(network: Network, validation: Any) -> Pair | None:
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        raise TypeError(
            "validation must be a pair (X, Y) of examples and targets, a triple (X, Y, sample_weight), "
            f"or a share of the examples such as 0.1; got {_short(validation)}."
        )
    X, Y, *weights = validation
    X, Y = network.check_examples(X, Y, ("validation X", "validation Y"), read=not Mapped.is_meant(X))
    m, backend, stack = int(X.shape[-1]), network.backend, network.stack
    for each in weights:
        sample_weights(each, m, backend, stack=stack)
    return X, Y, *(sample_weights(w, m, backend, relative=False, stack=stack) for w in weights)


def _short(value: object) -> str:
    """What something is, in a few words."""
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return (
        f"{value!r:.60}" if isinstance(value, (int, float, str)) else f"{type(value).__name__}{length}"
    )
