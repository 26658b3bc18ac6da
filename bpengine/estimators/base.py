"""Base class of the estimators of a single network: the network, and fitted attributes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from bpengine import backends
from bpengine.backends import Backend
from bpengine.estimators.attributes import Layers, OutputName
from bpengine.estimators.data import Data, Host, check_weights, columns
from bpengine.estimators.losses import Loss
from bpengine.estimators.parameters import Estimator
from bpengine.model import costs
from bpengine.model.activations import Activation, per_layer
from bpengine.model.costs import Cost
from bpengine.model.regularization import probabilities
from bpengine.network.network import Network
from bpengine.training.loop import Callback
from bpengine.validation import check_entries, dtype_name, fraction

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: scikit-learn has callbacks from version 1.9 on."""


__all__ = ["BaseMLP"]

ENGINE_NAMES = {"identity": "linear", "logistic": "sigmoid"}
SCIKIT_NAMES = {"linear": "identity", "sigmoid": "logistic", "exponential": "exp"}
SCORES = "validation_scores_", "best_validation_score_", "best_loss_"
PREDICTED_ELEMENTS = 2**22  # of sparse X converted to dense at a time in prediction


@dataclass(eq=False, repr=False, kw_only=True)
class BaseMLP(CallbackSupportMixin, Estimator):  # type: ignore[misc]
    """A multilayer perceptron as a scikit-learn estimator; use `MLPClassifier` or `MLPRegressor`."""

    verbose: bool | int = False
    warm_start: bool = False
    callbacks: Any = None

    _all_steps = 0  # of the fits like this one in a process, which loads Numba once for all of them

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, callable, Callback, None],
    }

    @property
    def coefs_(self) -> list[np.ndarray[Any, Any]]:
        """Weights per layer, each of shape (n_in, n_out)."""
        net = self._fitted_network("coefs_")
        return Layers(net, [w.mT for w in net.weights])

    @coefs_.setter
    def coefs_(self, arrays: Sequence[Any]) -> None:
        self.coefs_[:] = arrays

    @property
    def intercepts_(self) -> list[np.ndarray[Any, Any]]:
        """Biases per layer, each of shape (n_out,)."""
        net = self._fitted_network("intercepts_")
        return Layers(net, [b[:, 0] for b in net.biases])

    @intercepts_.setter
    def intercepts_(self, arrays: Sequence[Any]) -> None:
        self.intercepts_[:] = arrays

    @property
    def out_activation_(self) -> str:
        """Name of the output activation."""
        activations = self._fitted_network("out_activation_").activations
        *hidden, out = (SCIKIT_NAMES.get(σ.name, σ.name) for σ in activations)
        of_all = SCIKIT_NAMES.get(self.activation, self.activation)
        return out if {*hidden} <= {of_all} else OutputName(out)

    def _fitted_network(self, name: str) -> Network:
        message = f"this %(name)s is not fitted yet, and has no {name}: call fit first."
        check_is_fitted(self, msg=message)
        return self.network_

    @abstractmethod
    def _check_targets(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """Validated X, and the targets of the network."""

    def _check_held_out(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Validated X and the network's targets of `validation`."""
        return self._check_targets(X, y, incremental=False, reset=False)

    def _weights(self, Y: Host, sample_weight: Any, incremental: bool = False) -> Any:
        """The weight of each example, or None, from targets Y (n, n_L) and checked weights."""
        return sample_weight

    @abstractmethod
    def _output(self, hidden: int) -> tuple[str, str | Cost, str | None]:
        """scikit-learn's name of the output activation, the cost, and the loss to report."""

    @abstractmethod
    def _score(self, X: Any, Y: Any, sample_weight: Any) -> float:
        """The score on validated data."""

    def _prepare(self, X: Any, y: Any, sample_weight: Any, incremental: bool = False) -> Data:
        """Validate the data, and create the network unless training continues."""
        self._check_limits()
        hidden = self._hidden()
        for name in ("dropout", "max_norm") if self.solver == "lbfgs" else ():
            if np.any(getattr(self, name)):
                raise ValueError(f"{name} needs solver='sgd' or 'adam'; solver is 'lbfgs'.")
        first = "network_" not in vars(self) or not (self.warm_start or incremental)
        X, Y = self._check_targets(X, y, incremental, reset=first)
        Y = Y.reshape(len(Y), -1)
        weights = self._weights(Y, check_weights(sample_weight, X), incremental)
        sizes = (X.shape[1], *hidden, Y.shape[1])
        if not first:
            self._check_unchanged(sizes)
        self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize(sizes, X.dtype)
        if self.solver != "lbfgs" and not hasattr(self, "loss_curve_"):
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            scored = self.early_stopping or self.validation is not None
            self.validation_scores_: Any = [] if scored else None
            self.best_validation_score_: Any = -np.inf if scored else None
            self.best_loss_: Any = None if self.early_stopping else np.inf
        return Data(X, Y, weights)

    def _check_unchanged(self, sizes: tuple[int, ...]) -> None:
        """Raise ValueError if the parameters make another network than the fitted one."""
        net = self.network_
        if sizes[-1] != net.sizes[-1]:
            raise ValueError(
                f"y makes {sizes[-1]} targets; the fitted network has {net.sizes[-1]} outputs. Give y "
                "as in the first call, or a new estimator."
            )
        if sizes != net.sizes:
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes} makes a network of sizes {list(sizes)}; "
                f"the fitted one has {list(net.sizes)}. Use warm_start=False."
            )
        activations, cost, loss = self._functions(len(sizes) - 2)
        backend = self._backend()
        dtype = net.dtype if self.dtype is None else dtype_name(self.dtype)
        pairs = {
            "loss" if self.cost is None else "cost": (
                (costs.resolve(cost), loss),
                (net.cost, self._loss.name),
            ),
            "activation" if self.activations is None else "activations": (
                per_layer(activations, sizes),
                net.activations,
            ),
            "dropout": (probabilities(self._dropout(), sizes), net.dropout),
            "dtype": (dtype, net.dtype),
            "backend": (
                (backend.name, str(backend.device)),
                (net.backend.name, str(net.backend.device)),
            ),
        }
        for name, (new, old) in pairs.items():
            if new != old:
                raise ValueError(
                    f"{name}={getattr(self, name, None)!r} makes another network than the fitted one, "
                    "which network_ shows. Set it back, or fit a new one with warm_start=False."
                )

    def _check_trained(self) -> None:
        """Raise ValueError if a parameter is not finite."""
        net = self.network_
        if not bool(net.backend.xp.all(net.backend.xp.isfinite(net.vector))):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if not all(isinstance(size, (int, float, np.number)) and 0 < size < 2**63 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes!r:.100}.")
        return sizes

    def _initialize(self, sizes: tuple[int, ...], dtype: Any) -> None:
        """Create a network with the initial parameters that scikit-learn draws."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        activations, cost, loss = self._functions(len(sizes) - 2)
        if self.dtype is not None:
            dtype = dtype_name(self.dtype)
        else:  # SciPy's L-BFGS works in float64
            dtype = "float32" if dtype == np.float32 and self.solver != "lbfgs" else "float64"
        net = Network(
            sizes,
            activations,
            cost,
            self._backend(),
            dtype,
            "glorot_uniform",  # the fastest to draw; replaced below
            rng=0,
            dropout=self._dropout(),
        )
        self.n_outputs_ = sizes[-1]
        names = [σ.name for σ in net.activations[:-1]]
        names.append(names[-1] if names else ENGINE_NAMES.get(self.activation, self.activation))
        coefs, intercepts = [], []
        for (n, m), name in zip(pairwise(sizes), names, strict=True):
            # X. Glorot and Y. Bengio, 2010
            bound = np.sqrt((2.0 if name == "sigmoid" else 6.0) / (n + m))
            coefs.append(self._random_state.uniform(-bound, bound, (n, m)))
            intercepts.append(self._random_state.uniform(-bound, bound, m))
        if np.any(self.dropout):
            net.rng = np.random.default_rng(self._random_state.randint(2**31))
        self.network_ = net
        self.coefs_, self.intercepts_ = coefs, intercepts
        self._loss = Loss(net, loss)
        for name in ("_optimizer", "loss_curve_", *SCORES):
            self.__dict__.pop(name, None)

    def _backend(self) -> Backend:
        return backends.get("numpy" if self.backend is None else self.backend, self.device)

    def _dropout(self) -> float | tuple[float, ...]:
        return check_entries(self.dropout, fraction, "dropout")

    def _functions(self, hidden: int) -> tuple[list[Any], str | Cost, str | None]:
        """Activations of the layers, the cost, and the loss to report."""
        out, cost, loss = self._output(hidden)
        return self._layer_activations(hidden, out), cost, loss

    def _layer_activations(self, hidden: int, out: Any) -> list[Any]:
        """The engine's activations of the hidden layers and the output; `out` unless one is given."""
        chosen = self.activation if self.activations is None else self.activations
        if isinstance(chosen, (str, Activation)):
            chosen = [chosen] * hidden
        if len(chosen) not in (hidden, hidden + 1):
            raise ValueError(
                f"activations has {len(chosen)} entries; with hidden_layer_sizes="
                f"{self.hidden_layer_sizes} it takes {hidden}, one for each hidden layer, or "
                f"{hidden + 1} with the output layer's."
            )
        names = [*chosen, out][: hidden + 1]
        return [ENGINE_NAMES.get(σ, σ) if isinstance(σ, str) else σ for σ in names]

    def _held_out(self) -> Data | None:
        """Validated `validation`."""
        given = self.validation
        if given is None:
            return None
        if len(given) not in (2, 3):
            raise ValueError(
                f"validation must be (X, y) or (X, y, sample_weight), got {len(given)} of them."
            )
        X, Y = self._check_held_out(*given[:2])
        Y = Y.reshape(len(Y), -1)
        if Y.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y of validation has {Y.shape[1]} targets for each example; that of the training "
                f"data has {self.n_outputs_}."
            )
        return Data(X, Y, check_weights(given[2] if len(given) == 3 else None, X))

    def _outputs(self, X: Any) -> np.ndarray[Any, Any]:
        """Output activations for validated X, of shape (n_samples, n_outputs)."""
        net = self.network_
        if not hasattr(X, "tocsr"):
            return _forward(net, X)
        X = X.tocsr()
        chunk = max(1, PREDICTED_ELEMENTS // X.shape[1])
        parts = [_forward(net, X[i : i + chunk].toarray()) for i in range(0, X.shape[0], chunk)]
        return np.concatenate(parts)


def _forward(network: Network, X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    outputs = network.feedforward(columns(network, X))
    return np.ascontiguousarray(network.backend.to_numpy(outputs).T)
