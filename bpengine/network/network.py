"""Network: a model with methods for prediction, training, evaluation and saving."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, SupportsIndex, overload

import numpy as np

from bpengine import optimizers
from bpengine.backends import AnyArray, Array
from bpengine.backprop import forward
from bpengine.backprop import plan as plans
from bpengine.backprop.per_example import ExampleNorms, reduction
from bpengine.backprop.plan import Plan
from bpengine.backprop.reduction import Mean
from bpengine.derivatives import per_example as of_examples
from bpengine.model import files
from bpengine.model.model import Model, contiguous
from bpengine.model.parameters import Gradient
from bpengine.model.suggestions import known_keywords
from bpengine.network import ensemble, fit
from bpengine.network.ensemble import Ensemble
from bpengine.optimizers.base import Optimizer
from bpengine.optimizers.lbfgs import LBFGS
from bpengine.optimizers.sgd import SGD
from bpengine.privacy.dpsgd import DPSGD
from bpengine.privacy.noise import Noisy
from bpengine.training.history import History
from bpengine.training.loop import Callback, Training
from bpengine.validation import file_path

__all__ = ["Network"]

# public for the modules of the package, not for users
INTERNAL = {
    "accepts_labels",
    "backend_was_given",
    "bind_backend",
    "check_examples",
    "check_inputs",
    "network_rngs",
    "penalty",
    "recent",
    "smoothed",
    "step_key",
}


class Network(Model):
    """A multilayer perceptron, trained by backpropagation over batches with columns as examples.

    Parameters
    ----------
    sizes : sequence of int
        Neurons per layer, input first: two layers or more.
    activations : str, Activation, or a list with one per layer after the input, optional
        Built in: sigmoid, tanh, relu, leaky_relu, linear, softmax, softplus, exponential, gelu,
        swish. Within the list, a list of names gives the activation of each neuron of that layer.
    cost : str or Cost, optional
        Built in: quadratic, absolute_error, huber, poisson, binary_cross_entropy,
        softmax_cross_entropy; their formulas are in `bpengine.model.costs`.
    backend : str or Backend, optional
        None infers it from the first array.
    device : int or str, optional
        With ``backend="cupy"``, the GPU: its number, or ``"cuda:1"``. The current one where not given.
    precision : {"full", "tf32"}, optional
        Of products of float32 numbers on a GPU: "tf32" rounds their factors to 10 bits of mantissa.
    dtype : float32 or float64, optional
        By name or as NumPy's type. Of all parameters and computations.
    initializer : str, optional
        "scaled_gaussian": weights of standard deviation 1/√n_{l-1}, biases 0. "gaussian": the
        chapter's, weights and biases of standard deviation 1. Also, with biases 0: glorot_uniform,
        glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, orthogonal; see
        `bpengine.model.initializers`.
    rng : int or numpy.random.Generator, optional
        Seed for the initial parameters, the shuffling and dropout: the same on every backend. For a
        stack also a list of P: its network i then starts as the network of seed ``rng[i]`` does.
    dropout : float or list of float, optional
        Share of the hidden activations that a training step leaves out at random; in a list, that
        of each layer before the output, input first.
    l1, l2 : float, optional
        λ₁ and λ₂ of the penalty λ₁ Σ|w| + λ₂/2 Σw² of the weights, not the biases, which is added
        to the average cost.
    label_smoothing : float, optional
        ε of smoothed training targets (1 - ε) y + ε/n.
    initial_scale : float, optional
        Factor of the initial parameters.
    stack : int, optional
        P independent networks, trained together by the same equations: all arrays then have a
        leading axis of P, `len` is P, and ``nets[i]`` is a `Network` that shares the stack's memory.
        `l1`, `l2`, `initial_scale` and the entries of a list of `dropout` may then be P numbers.

    Attributes
    ----------
    sizes : tuple of int
    activations : tuple of Activation
    cost : Cost
    backend : Backend
    dtype : str
    dropout : tuple of float
        Of each layer before the output.
    l1, l2, label_smoothing : float
    stack : tuple of int
        (P,) for a stack, else ().
    history : History or None
        Of the last call of `fit`.
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

    history: History | None
    _training: Training | None  # of `partial_fit`

    def _reset(self) -> None:
        super()._reset()
        self.history = self._training = None

    @overload
    def feedforward(self, X: np.ndarray[Any, Any]) -> AnyArray: ...
    @overload
    def feedforward(self, X: Array) -> Array: ...
    def feedforward(self, X: Array) -> Array:
        """Output activations for every column of X.

        Several threads may call this at once.

        Parameters
        ----------
        X : array of shape (n_1, m)
            Examples as columns. For a stack of P networks also (P, n_1, m).

        Returns
        -------
        array of shape (n_L, m), of a stack (P, n_L, m)

        Raises
        ------
        ValueError, TypeError
            If X does not fit the network.
        """
        return forward.feedforward(self, X)

    @overload
    def __call__(self, X: np.ndarray[Any, Any]) -> AnyArray: ...
    @overload
    def __call__(self, X: Array) -> Array: ...
    def __call__(self, X: Array) -> Array:
        """As `feedforward`."""
        return self.feedforward(X)

    @overload
    def predict(self, X: np.ndarray[Any, Any]) -> AnyArray: ...
    @overload
    def predict(self, X: Array) -> Array: ...
    def predict(self, X: Array) -> Array:
        """Predicted classes; for a regression the outputs, as of `feedforward`.

        Parameters
        ----------
        X : array of shape (n_1, m)
            Examples as columns. For a stack of P networks also (P, n_1, m).

        Returns
        -------
        array of shape (m,), of a stack (P, m)
            Integers, where targets may be labels: the greatest output's index; with one output, whether
            it is ½ or more.

        Raises
        ------
        ValueError, TypeError
            If X does not fit the network.

        Examples
        --------
        >>> import bpengine as bp
        >>> X, labels = bp.datasets.circles(200, rng=0)
        >>> bp.Network([2, 8, 2], rng=0).predict(X).shape
        (200,)
        """
        return forward.predict(self, X)

    @overload
    def backprop(self, X: Array, Y: Array, sample_weight: Array | None = None) -> Gradient: ...
    @overload
    def backprop(self, X: Array, Y: Array, *, per_example: Literal["norms"]) -> ExampleNorms: ...
    @overload
    def backprop(
        self, X: Array, Y: Array, *, per_example: str, max_norm: float | None = None
    ) -> Gradient: ...
    def backprop(
        self,
        X: Array,
        Y: Array,
        sample_weight: Array | None = None,
        *,
        per_example: str | None = None,
        max_norm: float | None = None,
    ) -> Gradient | ExampleNorms:
        """Gradient of the average cost over the columns of X, by one forward and one backward pass.

        Parameters
        ----------
        X : array of shape (n_1, m)
            Examples as columns.
        Y : array of shape (n_L, m), or m integer labels
            As for `fit`.
        sample_weight : array of shape (m,), optional
            How much each example counts in the average, relative to the others.
        per_example : {"norms", "gradients", "clip"}, optional
            Norms of each example's gradient; all these gradients, ``.weights[l]`` of shape
            (m, n_l, n_{l-1}); or their average, with those longer than `max_norm` scaled down to it.
        max_norm : float, optional
            For "clip".

        Returns
        -------
        Gradient or ExampleNorms
            ``.weights[l]``, ``.biases[l]``, ``.vector`` and ``.cost``; with "norms" ``.total``,
            ``.layers`` and ``.cost``.

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
        if per_example is None and max_norm is None:
            return plans.gradient(self, X, Y, sample_weight)
        return of_examples.backprop(self, X, Y, per_example, max_norm, sample_weight)

    @known_keywords
    def plan(
        self,
        batch_size: SupportsIndex,
        optimizer: Optimizer | DPSGD | str | None = None,
        *,
        weighted: bool = False,
        per_example: str | None = None,
        max_norm: float | None = None,
        per_network: Collection[str] = (),
    ) -> Plan:
        """Record a step for batches of `batch_size` examples; see `Plan`.

        Parameters
        ----------
        batch_size : int
            Number of examples in the batch, m.
        optimizer : Optimizer or str, optional
            The update; without one, a step computes the gradient, without dropout and label smoothing.
        weighted : bool, optional
            Whether examples have weights.
        per_example, max_norm : optional
            As for `backprop`: results are ``plan.norms`` and ``plan.gradient``. With "clip" an
            optimizer follows the average of clipped gradients.
        per_network : collection of {"inputs", "targets", "weights"}, optional
            The parts of a batch that differ between the networks of a stack.
        """
        self.bind_backend(self.backend)  # the plan has buffers on it
        gradient: Mean | None = None
        rule: Any = optimizers.resolve(optimizer)
        if isinstance(rule, DPSGD):
            if per_example is not None or max_norm is not None:
                raise ValueError("DPSGD sets max_norm: leave out per_example and max_norm.")
            gradient = Noisy(rule, rule.generator(self.rng))
            rule = rule.rule
        elif per_example is not None or max_norm is not None:
            gradient = reduction(per_example, max_norm)
            if rule is not None and per_example != "clip":
                raise ValueError(
                    f"per_example={per_example!r} gives no average gradient: leave the optimizer out."
                )
        return Plan(
            self, batch_size, rule, gradient=gradient, weighted=weighted, per_network=per_network
        )

    @known_keywords
    def fit(
        self,
        X: Array | Iterable[tuple[Array, ...]],
        Y: Array | None = None,
        *,
        epochs: SupportsIndex = 30,
        batch_size: SupportsIndex | None = None,
        optimizer: Optimizer | LBFGS | DPSGD | str | None = None,
        validation: tuple[Array, ...] | float | None = None,
        sample_weight: Array | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        shuffle: bool | int | str = True,
        callbacks: Sequence[Callback | Callable[[Training], None]] = (),
        monitor: int | str | None = None,
        resume: str | os.PathLike[str] | None = None,
        progress: bool = True,
        comm: Any = None,
    ) -> History:
        """Train by mini-batches.

        Parameters
        ----------
        X : array of shape (n_1, N), or iterable of batches
            Training examples as columns, preferably the transpose of a C-ordered (N, n_1) array; a
            memory map may be larger than memory. Or an iterable, once an epoch, of batches (X, Y) or
            (X, Y, sample_weight), whose weights are not relative to the batch's mean, on the network's
            backend: NumPy unless it has another.
        Y : array of shape (n_L, N), or N integer labels
            Targets; labels where outputs are from 0 to 1, as of "sigmoid" and "softmax", and the cost is
            not "poisson". None with an iterable. In a stack of P networks X, Y and `sample_weight` may
            have a leading axis of P.
        epochs : int, optional
            Passes over all examples.
        batch_size : int, optional
            Examples a step, at most N; by default 32, or N if that is less. The last step of an epoch
            takes what is left.
        optimizer : Optimizer, LBFGS, DPSGD or str, optional
            SGD() where not given. By name, with default settings: "sgd", "adam", "adamw", "rmsprop",
            "adagrad" or "lbfgs".
        validation : pair (X, Y), triple (X, Y, sample_weight) or float, optional
            Data to evaluate on after each epoch, or the share of the examples to hold out at random.
        sample_weight : array of shape (N,), optional
            How much each example counts, relative to their mean.
        class_weight : dict or "balanced", optional
            A factor of the examples' weights for each label; "balanced" gives classes equal totals.
        shuffle : bool or int, optional
            Whether to shuffle in each epoch. A whole number shuffles windows of that many neighbours,
            and within them, for contiguous reads of a memory map. In a stack "each" gives every network
            the order that it would have if trained alone.
        callbacks : sequence, optional
            `Callback` objects, or functions of the `Training`, called after each epoch.
        monitor : int or "epoch", optional
            Record the statistics of every so many steps, or of each epoch's first step, in
            ``History.monitored``.
        resume : path, optional
            A file of `Checkpoint` to continue from; if it does not exist, training starts with the first
            epoch.
        progress : bool, optional
            Whether to show progress: a bar where tqdm is installed, else ten lines or so.
        comm : mpi4py.MPI.Comm or bpengine.distributed.DataParallel, optional
            Ranks for distributed training. Each rank passes its part of the examples and validation
            data; `batch_size` is per rank. Initial parameters are those of rank 0, which alone shows
            progress and writes checkpoints and logs.

        Returns
        -------
        History
            Costs per epoch, of a stack as arrays of shape (P,). Ctrl-C ends the training and returns the
            complete epochs; the network has all steps taken.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        NonFiniteCostError
            If the cost is NaN or infinite; the network has the last finite parameters. In a stack such a
            network stops with a warning; the error is raised when all have stopped.
        RankError
            If training failed on another rank.
        """
        options = {
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": SGD() if optimizer is None else optimizers.resolve(optimizer),
            "validation": validation,
            "sample_weight": sample_weight,
            "class_weight": class_weight,
            "shuffle": shuffle,
            "callbacks": callbacks,
            "monitor": monitor,
            "resume": resume,
            "progress": progress,
            "comm": comm,
        }
        with contiguous(self) as network, fit.prepared(network, X, Y, **options) as training:
            self._training = None
            self.history = fit.run(training)
        return self.history

    @known_keywords
    def partial_fit(
        self,
        X: Array,
        Y: Array,
        *,
        batch_size: SupportsIndex = 32,
        optimizer: Optimizer | str | None = None,
        sample_weight: Array | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        shuffle: bool | int | str = True,
    ) -> Any:
        """Train by one pass over some examples; the optimizer's state persists between calls.

        Parameters
        ----------
        X, Y, sample_weight, class_weight, shuffle
            As for `fit`.
        batch_size : int, optional
            Examples a step; with fewer examples than that, all of them, in the order given.
        optimizer : Optimizer or str, optional
            By default that of the previous call, or SGD(). Another one, or a call of `fit`, resets the
            state.

        Returns
        -------
        float
            Average cost of the examples during the pass; of a stack an array of shape (P,).

        Raises
        ------
        ValueError, TypeError, NonFiniteCostError
            As for `fit`.
        """
        self._training, cost = fit.partial_fit(
            self,
            self._training,
            X,
            Y,
            batch_size=batch_size,
            optimizer=optimizers.resolve(optimizer),
            sample_weight=sample_weight,
            class_weight=class_weight,
            shuffle=shuffle,
        )
        return cost

    def evaluate(self, X: Array, Y: Array, sample_weight: Array | None = None) -> dict[str, Any]:
        """Average cost and, where the targets are classes, accuracy.

        Parameters
        ----------
        X, Y, sample_weight
            As for `backprop`.

        Returns
        -------
        dict
            ``"cost"``, penalties included, and ``"accuracy"`` if Y holds labels or columns of zeros
            with a single 1: the share of columns whose greatest output (with one output: whether it
            is ½ or more) is the right one. Floats, or for a stack arrays of shape (P,).

        Raises
        ------
        ValueError, TypeError
            If X or Y does not fit the network.
        """
        X, Y = self.check_examples(X, Y)
        return forward.evaluate(self, X, Y, sample_weight)

    def best(self, metric: str | Sequence[float] | Callable[[Network], float] | None = None) -> Network:
        """The network of a stack that is best by some metric.

        Parameters
        ----------
        metric : {"validation_cost", "validation_accuracy", "cost"}, callable or sequence, optional
            A figure of the last `fit`; by default the validation cost, else the training cost. Or a
            function of a network, or scores, of which the greatest is best.

        Returns
        -------
        Network
            As ``nets[i]``.

        Examples
        --------
        >>> import bpengine as bp
        >>> X, labels = bp.datasets.circles(200, rng=0)
        >>> nets = bp.Network([2, 8, 2], cost="binary_cross_entropy", stack=5, rng=0)
        >>> history = nets.fit(X, labels, epochs=20, optimizer=bp.Adam(0.02), progress=False)
        >>> nets.evaluate(X, labels)["cost"].round(2)
        array([1.38, 1.37, 1.36, 1.36, 1.33])
        >>> round(nets.best().evaluate(X, labels)["cost"], 2)
        1.33
        """
        found: Network = ensemble.best(self, self.history, metric)
        return found

    def ensemble(self, X: Array) -> Ensemble:
        """Mean and spread of the outputs of a stack's networks.

        Parameters
        ----------
        X : array of shape (n_1, m), or (P, n_1, m)

        Returns
        -------
        Ensemble
            ``.mean`` and ``.spread``, the standard deviation, both of shape (n_L, m).

        Examples
        --------
        >>> import numpy as np
        >>> import bpengine as bp
        >>> nets = bp.Network([3, 4, 2], stack=10, rng=0)
        >>> mean, spread = nets.ensemble(np.ones((3, 5)))
        >>> mean.shape, spread.shape
        ((2, 5), (2, 5))
        """
        return ensemble.ensemble(self, X)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file, which `load` reads on any backend.

        Parameters
        ----------
        path : path
            Ends in ``.safetensors`` for that format, with the extra `safetensors`; else the file is an
            ``.npz``. The suffix of another format, such as ``.h5``, is an error.

        Notes
        -----
        Activations and costs are stored by name. The file is written atomically.
        """
        files.write(file_path(path, "path"), *files.describe(self))

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in INTERNAL]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_training": None}
