"""Model: sizes, activations, cost, parameters and backend of a network or a stack."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Self, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from bpengine import validation
from bpengine.backends import AnyArray, Array, Backend, get, infer
from bpengine.model import costs
from bpengine.model.activations import ActivationLike, per_layer, resolve
from bpengine.model.costs import Cost
from bpengine.model.examples import examples, is_ready, targets
from bpengine.model.initializers import INITIALIZERS, initialize, random_generators
from bpengine.model.parameters import Parameters, ParameterSlice, Views
from bpengine.model.recent import Recent
from bpengine.model.regularization import Penalty, probabilities
from bpengine.model.suggestions import ATTRIBUTES, known_keywords
from bpengine.model.tables import as_html, as_text

__all__ = ["Model", "check_single", "contiguous", "take_networks"]

M = TypeVar("M", bound="Model")

# attributes under their names in pickles of version 0.1
OLD_NAMES = {
    "own_rngs": "network_rngs",
    "named": "backend_was_given",
    "_settled": "_bound",
    "partial": "_training",
}


class Model:
    """The data of a multilayer perceptron; `bpengine.Network` adds the methods.

    Parameters
    ----------
    sizes, activations, cost, backend, dtype, initializer, rng, dropout, l1, l2, label_smoothing,
    initial_scale, stack, device, precision
        As for `bpengine.Network`.

    Attributes
    ----------
    backend_was_given : bool
        Whether the constructor was given a backend.
    recent : Recent
        Each thread's last programs and plans.
    """

    @known_keywords
    def __init__(
        self,
        sizes: Sequence[SupportsIndex],
        activations: ActivationLike | Sequence[ActivationLike] = "sigmoid",
        cost: str | Cost = "quadratic",
        backend: str | Backend | None = None,
        dtype: DTypeLike = "float32",
        initializer: str = "scaled_gaussian",
        rng: int | np.random.Generator | Sequence[Any] | None = None,
        *,
        dropout: float | Sequence[Any] = 0.0,
        l1: float | Sequence[float] = 0.0,
        l2: float | Sequence[float] = 0.0,
        label_smoothing: float = 0.0,
        initial_scale: float | Sequence[float] = 1.0,
        stack: SupportsIndex | None = None,
        device: int | str | None = None,
        precision: str | None = None,
    ) -> None:
        self.sizes = validation.layer_sizes(sizes)
        self.stack: tuple[int, ...] = (
            () if stack is None else (validation.positive_integer(stack, "stack"),)
        )
        self.activations = per_layer(activations, self.sizes)
        self.cost = costs.resolve(cost)
        self.cost.check(self.activations[-1], self.sizes[-1])
        self.dtype = validation.dtype_name(dtype)
        self.dropout = probabilities(dropout, self.sizes, self.stack)
        self.l1 = self._per_network(l1, validation.non_negative_number, "l1")
        self.l2 = self._per_network(l2, validation.non_negative_number, "l2")
        scale = self._per_network(initial_scale, validation.positive_number, "initial_scale")
        if np.max(scale) > float(np.finfo(self.dtype).max):
            raise ValueError(f"initial_scale={initial_scale!r:.80} is beyond what {self.dtype} holds.")
        self.label_smoothing = validation.fraction(label_smoothing, "label_smoothing")
        if self.label_smoothing and not self.cost.classification:
            raise ValueError(
                f"label_smoothing is for a classification's cost, such as 'softmax_cross_entropy'; "
                f"this network's is {self.cost.name!r}."
            )
        draw = validation.choose(initializer, INITIALIZERS, "initializer")
        self.rng, self.network_rngs = random_generators(rng, self.stack)
        self.backend_was_given = self._bound = backend is not None
        if backend is None and (device, precision) != (None, None):
            raise ValueError("device and precision are a backend's: name the backend too.")
        self.backend = get("numpy" if backend is None else backend, device, precision)
        self.parameters = Parameters(self.sizes, self.backend, self.dtype, self.stack)
        self._reset()
        initialize(self.parameters, draw, self.rngs, scale, self.dtype)

    def _reset(self) -> None:
        """Clear what is cached between calls."""
        self.recent = Recent()

    def _per_network(
        self, value: Any, check: Callable[[Any, str], float], name: str
    ) -> float | np.ndarray[Any, Any]:
        checked = validation.check_entries(value, check, name)
        validation.check_count(checked, self.stack, name)
        return np.array(checked) if isinstance(checked, tuple) else checked

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # a property that raised an AttributeError
            return object.__getattribute__(self, name)
        here = f" Here it is {ATTRIBUTES[name]}." if name in ATTRIBUTES else ""
        message = f"{type(self).__name__} has no attribute {name!r}.{here}"
        raise AttributeError(message, name=name, obj=self)

    def __len__(self) -> int:
        """Networks in the stack."""
        if not self.stack:
            raise TypeError("this is one network, not a stack: it has no len() and no nets[i].")
        return self.stack[0]

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, i: SupportsIndex) -> Self:
        """Network i of the stack, which shares its memory.

        All methods work but a plan with an optimizer, which needs contiguous parameters; `fit` trains a
        copy and writes it back.
        """
        count = len(self)
        try:
            p = range(count)[operator.index(i)]
        except TypeError:
            raise TypeError(f"index i of nets[i] must be a whole number, got {i!r:.60}.") from None
        except IndexError:
            raise IndexError(
                f"index i of nets[i] must be from {-count} to {count - 1}, got {i!r:.60}."
            ) from None
        one = self._like(p)
        one.stack, one.parameters, one.rng = (), ParameterSlice(self.parameters, p), self.rngs[p]
        one._bound = True  # a conversion would no longer share memory
        return one

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def take(self, numbers: np.ndarray[Any, Any]) -> Self:
        """A new stack with copies of the networks of some `numbers`, counted from 0."""
        numbers = validation.indices(numbers, len(self), "numbers")
        some = self._like(numbers)
        some.stack = (len(numbers),)
        some.network_rngs = [self.rngs[i] for i in numbers]
        some.parameters = Parameters(self.sizes, self.backend, self.dtype, some.stack)
        for block, whole in zip(some.parameters.blocks, self.parameters.blocks, strict=True):
            block[...] = take_networks(self.backend, whole, numbers)
        return some

    def _like(self, which: int | np.ndarray[Any, Any]) -> Self:
        """A shallow copy with the per-network options of some networks."""
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        new.l1, new.l2 = (_chosen(value, which) for value in (self.l1, self.l2))
        new.dropout = tuple(_chosen(share, which) for share in self.dropout)
        new._reset()
        return new

    @property
    def weights(self) -> Views:
        """``weights[l]``, (n_{l+1}, n_l) counted from 0: views, set by ``net.weights[l] = w``."""
        return self.parameters.weights

    @property
    def biases(self) -> Views:
        """``biases[l]`` of shape (n, 1): views; ``net.biases[l] = b`` writes into it."""
        return self.parameters.biases

    @property
    def vector(self) -> AnyArray:
        """All parameters as one flat vector; what is written into its entries is not checked."""
        return self.parameters.vector

    @property
    def rngs(self) -> list[np.random.Generator]:
        """Generators of parameters and dropout, one per network."""
        return self.network_rngs if self.stack else [self.rng]

    @property
    def penalty(self) -> Penalty:
        """The L1 and L2 penalty of the cost."""
        return Penalty(self.l1, self.l2)

    @property
    def step_key(self) -> tuple[Any, ...]:
        """What the steps of backpropagation depend on, to be compared."""
        penalties = tuple(np.ravel(self.l1)), tuple(np.ravel(self.l2))
        return self.parameters, self.activations, self.cost, penalties

    @property
    def accepts_labels(self) -> bool:
        """Whether targets may be labels: outputs are from 0 to 1, or the cost is a classification's."""
        low, high = self.activations[-1].range
        any_target = self.cost.within == (-math.inf, math.inf)
        return self.cost.classification or (any_target and low >= 0 and high <= 1)

    def smoothed(self, Y: Array) -> Array:
        """Targets with label smoothing ε: (1 - ε) y + ε/n for n exclusive classes, else (1 - ε) y + ε/2.

        References
        ----------
        C. Szegedy et al., arXiv:1512.00567, section 7.
        """
        ε = self.label_smoothing
        if not ε:
            return Y
        exclusive = self.cost.canonical == "softmax"
        return (1 - ε) * self.backend.asarray(Y, self.dtype) + ε / (Y.shape[-2] if exclusive else 2)

    def check_inputs(self, X: Array) -> Array:
        """X, checked; the first array sets the backend of a model without one."""
        if self._bound and is_ready(X, self.sizes[0], self.dtype):
            return X
        backend = self._backend_for(X)
        X = examples(X, self.sizes[0], backend, self.dtype, stack=self.stack)
        self.bind_backend(backend)
        return X

    def check_examples(
        self, X: Array, Y: Array, names: tuple[str, str] = ("X", "Y"), *, read: bool = True
    ) -> tuple[Array, Array]:
        """X and Y, checked against this network; labels become one-hot columns.

        The first array sets the backend of a network without one. Without `read`, X is not checked for
        NaN and infinity.
        """
        rows, outputs, dtype = self.sizes[0], self.sizes[-1], self.dtype
        ready = self._bound and is_ready(Y, outputs, dtype) and is_ready(X, rows, dtype)
        if ready and X.shape[1] == Y.shape[1]:
            self.cost.check_targets(Y, names[1])
            return X, Y
        backend, stack = self._backend_for(X), self.stack
        X = examples(X, rows, backend, dtype, names[0], read=read, stack=stack)
        labels, m = self.accepts_labels, X.shape[-1]
        Y = targets(Y, outputs, m, backend, dtype, labels=labels, names=names, stack=stack)
        self.cost.check_targets(Y, names[1])
        self.bind_backend(backend)
        return X, Y

    def astype(self, dtype: DTypeLike) -> Self:
        """A copy of the network that computes in `dtype`.

        Parameters
        ----------
        dtype : float32 or float64
        """
        net = self._copy_to(self.backend if self._bound else None, dtype)
        net.backend_was_given = self.backend_was_given
        return net

    def to(
        self,
        backend: str | Backend | None = None,
        *,
        device: int | str | None = None,
        precision: str | None = None,
    ) -> Self:
        """A copy of the network on another backend, another device or in another precision.

        Parameters
        ----------
        backend : str or Backend, optional
            By default the network's backend.
        device, precision : optional
            As for `Network`.

        Raises
        ------
        ValueError, BackendUnavailableError
            If there is no such backend, or it can't be used here.

        Examples
        --------
        >>> import bpengine as bp
        >>> net = bp.Network([3, 4, 2], backend="numpy", rng=0)
        >>> there_and_back = net.to("array_api_strict").to("numpy")
        >>> float(abs(there_and_back.vector - net.vector).max())
        0.0
        """
        backend = get(self.backend if backend is None else backend, device, precision)
        return self._copy_to(backend, self.dtype)

    def _copy_to(self, backend: Backend | None, dtype: DTypeLike) -> Self:
        """A copy on `backend` that computes in `dtype`."""
        new = type(self)(
            self.sizes,
            self.activations,
            self.cost,
            backend,
            dtype,
            dropout=self.dropout,
            l1=self.l1,  # type: ignore[arg-type]
            l2=self.l2,  # type: ignore[arg-type]
            label_smoothing=self.label_smoothing,
            stack=self.stack[0] if self.stack else None,
        )
        new.rng, new.network_rngs = copy.deepcopy((self.rng, self.network_rngs))
        for kind in ("weights", "biases"):
            for x, copied in zip(getattr(self, kind), getattr(new, kind), strict=True):
                copied[...] = new.backend.asarray(self.backend.to_numpy(x), new.dtype)
        return new

    def _backend_for(self, X: Array) -> Backend:
        return self.backend if self._bound else infer(X)

    def bind_backend(self, backend: Backend) -> None:
        """Fix the backend; a model without one is converted to it."""
        if not self._bound and backend.name != self.backend.name:
            new = self._copy_to(backend, self.dtype)
            self.backend, self.parameters = new.backend, new.parameters
        self._bound = True

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "vector": self.backend.to_numpy(self.vector)}
        del state["parameters"], state["recent"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vector = state.pop("vector")
        self._reset()
        vars(self).update({OLD_NAMES.get(name, name): value for name, value in state.items()})
        # not by identity in formats other than pickle
        self.activations = tuple(map(resolve, self.activations))
        self.cost = costs.resolve(self.cost)
        self.parameters = Parameters(self.sizes, self.backend, self.dtype, self.stack)
        self.vector[...] = self.backend.asarray(vector, self.dtype)

    def __repr__(self) -> str:
        return as_text(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[tuple[str, ...]]]:
        """The network's settings, and its layers."""
        settings = {name: getattr(self, name) for name in ("l1", "l2", "label_smoothing")}
        title = (
            f"{type(self).__name__}: cost {self.cost.name}, {self.dtype}, backend {self.backend.name}"
            + "".join(f", stack of {P}" for P in self.stack)
            + "".join(f", {name} {_numbers(value)}" for name, value in settings.items() if np.any(value))
        )
        header = "layer", "neurons", "activation", "weights", "parameters", "dropout"
        shares = [_numbers(share) if np.any(share) else "" for share in (*self.dropout, 0.0)]
        rows: list[tuple[str, ...]] = [header, ("input", f"{self.sizes[0]:,}", "", "", "", shares[0])]
        counts = [n * (before + 1) for before, n in pairwise(self.sizes)]
        for l, (before, n) in enumerate(pairwise(self.sizes)):
            shape, σ, count = f"{n} × {before}", self.activations[l].name, f"{counts[l]:,}"
            rows.append((str(l + 1), f"{n:,}", σ, shape, count, shares[l + 1]))
        rows.append(("total", "", "", "", f"{sum(counts):,}", ""))
        if not any(row[-1] for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        return title, rows


def _numbers(value: Any) -> str:
    """A number, or those of a stack's networks."""
    return ", ".join(f"{x:g}" for x in np.ravel(value))


def _chosen(value: Any, which: int | np.ndarray[Any, Any]) -> Any:
    if not np.ndim(value):
        return value
    chosen = np.asarray(value)[which]
    return tuple(chosen.tolist()) if isinstance(value, tuple) and np.ndim(chosen) else chosen[()]


def take_networks(backend: Backend, x: Array, numbers: np.ndarray[Any, Any]) -> Array:
    """Entries of some networks of an array with a leading axis of networks."""
    return backend.xp.take(x, backend.asarray(numbers, "int64"), axis=0)


def check_model(network: object) -> None:
    """Raise TypeError if `network` is none."""
    validation.check_instance(network, Model, "network", "a bpengine.Network")


def check_single(network: Model, what: str) -> None:
    """Raise TypeError if `network` is none, ValueError if it is a stack."""
    check_model(network)
    if network.stack:
        raise ValueError(
            f"{what} is for one network, and network is a stack of {len(network)}: use nets[i], which "
            "shares its memory."
        )


@contextmanager
def contiguous(model: M) -> Iterator[M]:
    """`model`, or for a network of a stack a contiguous copy that is written back at the end."""
    if not isinstance(model.parameters, ParameterSlice):
        yield model
        return
    copied = copy.copy(model)
    try:
        yield copied
    finally:
        for block, new in zip(model.parameters.blocks, copied.parameters.blocks, strict=True):
            block[...] = new
