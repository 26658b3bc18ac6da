"""Network: what a user holds. Sizes, parameters and the calls that use them."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from bpengine import activations as activations_
from bpengine import costs, persistence, training, validation
from bpengine.activations import Activation, PerNeuron
from bpengine.backends import Array, Backend, get, infer
from bpengine.costs import Cost
from bpengine.initializers import INITIALIZERS, initialize
from bpengine.optimizers import SGD
from bpengine.parameters import Gradient, Parameters, Views
from bpengine.plan import Plan
from bpengine.training import History

__all__ = ["Network", "load"]

ActivationLike = str | Activation | Sequence[str | Activation]


class Network:
    """A multilayer perceptron, trained by backpropagation over batches with columns as examples.

    Parameters
    ----------
    sizes : sequence of int
        Neurons per layer, input first: two layers or more.
    activations : str, Activation, or a list with one per layer after the input, optional
        Built in: sigmoid, tanh, relu, leaky_relu, linear, softmax, softplus, gelu, swish. Within
        the list, a list of names gives each neuron of that layer its own.
    cost : str or Cost, optional
        Built in: quadratic, binary_cross_entropy, softmax_cross_entropy.
    backend : str or Backend, optional
        Whose arrays to compute on. None infers it from the first array and keeps it.
    dtype : float32 or float64, optional
        By name or as NumPy's type. Of all parameters and computations.
    initializer : str, optional
        "scaled_gaussian": weights of standard deviation 1/√n_{l-1}, biases 0. "gaussian": the
        chapter's, weights and biases of standard deviation 1.
    rng : int or numpy.random.Generator, optional
        Seed for the initial parameters and the shuffling: the same on every backend.

    Attributes
    ----------
    sizes : tuple of int
    activations : tuple of Activation
    cost : Cost
    backend : Backend
    dtype : str
    parameters : Parameters
        All weights and biases; `weights`, `biases` and `vector` are its views.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described; the message says what was expected and what came.

    References
    ----------
    M. Nielsen, Neural Networks and Deep Learning, chapter 2, http://neuralnetworksanddeeplearning.com

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> X = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], "float32")  # a column for each example
    >>> Y = np.array([[0, 1, 1, 0]], "float32")
    >>> net = bp.Network([2, 8, 1], activations=["tanh", "sigmoid"], rng=0)
    >>> history = net.fit(X, Y, epochs=500, batch_size=4, optimizer=bp.SGD(2.0), progress=False)
    >>> net.feedforward(X).round()
    array([[0., 1., 1., 0.]], dtype=float32)
    """

    def __init__(
        self,
        sizes: Sequence[SupportsIndex],
        activations: ActivationLike | Sequence[ActivationLike] = "sigmoid",
        cost: str | Cost = "quadratic",
        backend: str | Backend | None = None,
        dtype: DTypeLike = "float32",
        initializer: str = "scaled_gaussian",
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self.sizes = validation.layer_sizes(sizes)
        self.activations = _per_layer(activations, self.sizes)
        self.cost = costs.resolve(cost)
        self.cost.check(self.activations[-1], self.sizes[-1])
        self.dtype = validation.dtype_name(dtype)
        draw = validation.choose(initializer, INITIALIZERS, "initializer")
        try:
            self.rng = np.random.default_rng(rng)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"rng must be None, a whole number of 0 or more, or a numpy.random.Generator, "
                f"got {rng!r}."
            ) from None
        self._settled = backend is not None
        self.backend = get("numpy" if backend is None else backend)
        self.parameters = Parameters(self.sizes, self.backend, self.dtype)
        self.forward_programs = threading.local()
        initialize(self.parameters, draw, self.rng, self.backend, self.dtype)

    @property
    def weights(self) -> Views:
        """``weights[l]``, (n_{l+1}, n_l) counted from 0: views, set by ``net.weights[l] = w``."""
        return self.parameters.weights

    @property
    def biases(self) -> Views:
        """``biases[l]`` of shape (n, 1): views; ``net.biases[l] = b`` writes into it."""
        return self.parameters.biases

    @property
    def vector(self) -> Array:
        """All parameters as one flat vector, of which weights and biases are views."""
        return self.parameters.vector

    def feedforward(self, X: Array) -> Array:
        """Output activations for every column of X.

        Several threads may call this at once.

        Parameters
        ----------
        X : array of shape (n_1, m)
            Examples as columns, floating point.

        Returns
        -------
        array of shape (n_L, m)

        Raises
        ------
        ValueError, TypeError
            If X does not fit the network.
        """
        backend = self._backend_for(X)
        X = validation.examples(X, self.sizes[0], backend, self.dtype)
        self._settle(backend)
        out = self.backend.empty((self.sizes[-1], X.shape[1]), self.dtype)
        for columns, workspace in training.forward_chunks(self, X):
            out[:, columns] = workspace.a[-1]
        return out

    def backprop(self, X: Array, Y: Array) -> Gradient:
        """Gradient of the average cost over the columns of X, by one forward and one backward pass.

        Parameters
        ----------
        X : array of shape (n_1, m)
            Examples as columns.
        Y : array of shape (n_L, m), or m integer labels
            Targets; labels where the cost is a classification's.

        Returns
        -------
        Gradient
            ``.weights[l]``, ``.biases[l]``, ``.vector`` and ``.cost``.

        Raises
        ------
        ValueError, TypeError
            If X or Y does not fit the network.

        Examples
        --------
        >>> import numpy as np
        >>> import bpengine as bp
        >>> net = bp.Network([3, 4, 2], rng=0)
        >>> gradient = net.backprop(np.ones((3, 5)), np.zeros((2, 5)))
        >>> [w.shape for w in gradient.weights]
        [(4, 3), (2, 4)]
        """
        X, Y = self.check_examples(X, Y)
        plan = Plan(self, X.shape[1])
        plan.load(X, Y)
        return plan.run().gradient

    def plan(self, batch_size: SupportsIndex, optimizer: SGD | None = None) -> Plan:
        """Record a step for batches of `batch_size` examples; see `Plan`.

        Parameters
        ----------
        batch_size : int
        optimizer : SGD, optional
            Without one, the plan is feedforward and gradient only.
        """
        self._settle(self.backend)  # the plan's buffers are there
        return Plan(self, batch_size, optimizer)

    def fit(
        self,
        X: Array,
        Y: Array,
        *,
        epochs: SupportsIndex = 30,
        batch_size: SupportsIndex = 32,
        optimizer: SGD | None = None,
        validation: tuple[Array, Array] | None = None,
        progress: bool = True,
    ) -> History:
        """Train by mini-batches, shuffled anew in each epoch.

        Parameters
        ----------
        X : array of shape (n_1, N)
            Training examples as columns. The transpose of a C-ordered (N, n_1) array is taken in
            fastest.
        Y : array of shape (n_L, N), or N integer labels
            Targets; labels where the cost is a classification's.
        epochs : int, optional
            Passes over all examples.
        batch_size : int, optional
            Examples a step, at most N. The last step of an epoch takes what is left.
        optimizer : SGD, optional
            SGD() where not given.
        validation : pair (X, Y), optional
            Data to evaluate on after each epoch.
        progress : bool, optional
            Whether to show progress: a bar where tqdm is installed, else a line an epoch.

        Returns
        -------
        History
            Costs per epoch. Ctrl-C ends the training and gives the epochs that were complete; the
            network keeps all steps taken.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        NonFiniteCostError
            If the cost turns NaN or infinite; the network keeps the last finite parameters.
        """
        return training.fit(
            self,
            X,
            Y,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=SGD() if optimizer is None else optimizer,
            validation=validation,
            progress=progress,
        )

    def evaluate(self, X: Array, Y: Array) -> dict[str, float]:
        """Average cost and, where the targets are classes, accuracy.

        Parameters
        ----------
        X : array of shape (n_1, m)
        Y : array of shape (n_L, m), or m integer labels

        Returns
        -------
        dict
            ``"cost"``, and ``"accuracy"`` if Y holds labels or columns of zeros with a single 1: the
            share of columns whose greatest output (with one output: whether it is ½ or more) is the
            right one.

        Raises
        ------
        ValueError, TypeError
            If X or Y does not fit the network.
        """
        X, Y = self.check_examples(X, Y)
        return training.evaluate(self, X, Y)

    def check_examples(
        self, X: Array, Y: Array, names: tuple[str, str] = ("X", "Y")
    ) -> tuple[Array, Array]:
        """X and Y, checked against this network; labels become one-hot columns.

        The first array that a network without a backend takes decides its backend.
        """
        backend = self._backend_for(X)
        X = validation.examples(X, self.sizes[0], backend, self.dtype, names[0])
        Y = validation.targets(
            Y,
            self.sizes[-1],
            X.shape[1],
            backend,
            self.dtype,
            labels=self.cost.classification,
            names=names,
        )
        self.cost.check_targets(Y, names[1])
        self._settle(backend)
        return X, Y

    def astype(self, dtype: DTypeLike) -> Network:
        """A copy of the network that computes in `dtype`.

        Parameters
        ----------
        dtype : float32 or float64
        """
        backend = self.backend if self._settled else None
        net = Network(self.sizes, self.activations, self.cost, backend, dtype)
        net.rng = copy.deepcopy(self.rng)
        self._copy_parameters(net)
        return net

    def _copy_parameters(self, to: Network) -> None:
        for kind in ("weights", "biases"):
            for old, new in zip(getattr(self, kind), getattr(to, kind), strict=True):
                new[...] = to.backend.asarray(self.backend.to_numpy(old), to.dtype)

    def _backend_for(self, X: Array) -> Backend:
        return self.backend if self._settled else infer(X)

    def _settle(self, backend: Backend) -> None:
        if not self._settled and backend.name != self.backend.name:
            net = Network(self.sizes, self.activations, self.cost, backend, self.dtype)
            self._copy_parameters(net)
            self.backend, self.parameters = net.backend, net.parameters
        self._settled = True

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a ``.npz`` file, which `load` reads on any backend.

        Activations and costs are kept by name; a file is complete or not there at all.
        """
        description = {
            "sizes": self.sizes,
            "activations": [_names(σ) for σ in self.activations],
            "cost": self.cost.name,
            "dtype": self.dtype,
        }
        arrays = {
            f"{kind}_{l}": self.backend.to_numpy(array)
            for kind, views in (("weights", self.weights), ("biases", self.biases))
            for l, array in enumerate(views)
        }
        persistence.write(path, description, arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        vector = self.backend.to_numpy(self.vector)
        backend = self.backend if self._settled else None
        return _rebuild, (
            (self.sizes, self.activations, self.cost, backend, self.dtype),
            self.rng,
            vector,
        )

    def __repr__(self) -> str:
        names = [σ.name for σ in self.activations]
        return (
            f"Network({list(self.sizes)}, activations={names}, cost={self.cost.name!r}, "
            f"backend={self.backend.name!r}, dtype={self.dtype!r})"
        )


def load(
    path: str | os.PathLike[str],
    *,
    activations: ActivationLike | Sequence[ActivationLike] | None = None,
    cost: str | Cost | None = None,
    backend: str | Backend | None = None,
) -> Network:
    """Read a network that `Network.save` wrote.

    Parameters
    ----------
    path : path
    activations, cost : optional
        Needed where the network has activations or a cost of the user's own: a file holds names,
        never code.
    backend : str or Backend, optional
        As for `Network`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no such network, is damaged, or names activations that have to be given.
    """
    description, arrays = persistence.read(path)
    try:
        sizes, dtype = validation.layer_sizes(description["sizes"]), description["dtype"]
        persistence.check_shapes(arrays, sizes, dtype)
        if activations is None:
            activations = description["activations"]
            persistence.check_names(activations, activations_.ACTIVATIONS, "activations")
        if cost is None:
            cost = description["cost"]
            persistence.check_names(cost, costs.COSTS, "cost")
        net = Network(sizes, activations=activations, cost=cost, dtype=dtype, backend=backend)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} can't be made a network: {error}") from None
    for kind, views in (("weights", net.weights), ("biases", net.biases)):
        for l, view in enumerate(views):
            view[...] = net.backend.asarray(arrays[f"{kind}_{l}"], net.dtype)
    return net


def _rebuild(
    arguments: tuple[Any, ...], rng: np.random.Generator, vector: np.ndarray[Any, Any]
) -> Network:
    net = Network(*arguments)
    net.vector[...] = net.backend.asarray(vector, net.dtype)
    net.rng = rng
    return net


def _names(σ: Activation) -> str | list[str]:
    return [member.name for member in σ.members] if isinstance(σ, PerNeuron) else σ.name


def _per_layer(
    activations: ActivationLike | Sequence[ActivationLike], sizes: tuple[int, ...]
) -> tuple[Activation, ...]:
    layers = len(sizes) - 1
    if isinstance(activations, (str, Activation)):
        return (activations_.resolve(activations),) * layers
    if not isinstance(activations, Sequence):
        raise TypeError(
            f"activations must be a name such as 'sigmoid', an Activation, or a list with one per "
            f"layer, got {type(activations).__name__} {activations!r}."
        )
    resolved = tuple(activations_.resolve(σ) for σ in activations)
    if len(resolved) != layers:
        raise ValueError(
            f"activations has {len(resolved)} entries; a network of sizes {list(sizes)} takes "
            f"{layers}, one per layer after the input."
        )
    for σ, n in zip(resolved, sizes[1:], strict=True):
        if isinstance(σ, PerNeuron) and len(σ.members) != n:
            raise ValueError(
                f"a layer of {n} neurons takes {n} activations, one each; got {len(σ.members)}."
            )
    # neurons that are all alike make an ordinary layer
    return tuple(σ.members[0] if isinstance(σ, PerNeuron) and len(σ.runs) == 1 else σ for σ in resolved)
