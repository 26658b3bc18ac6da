"""What all estimators share: parameters, and the validation of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.neural_network import MLPClassifier
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from bpengine.backends import Backend
from bpengine.model.activations import Activation
from bpengine.model.costs import Cost
from bpengine.validation import check_unmasked, finite_number, whole_number

__all__ = ["Estimator"]

SPARSE = ["csr", "csc"]


@dataclass(eq=False, repr=False)
class Estimator(BaseEstimator, ABC):  # type: ignore[misc]
    """The parameters of all estimators, and validation, for single networks and ensembles."""

    hidden_layer_sizes: Any = (100,)
    activation: str = "relu"
    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: int | Literal["auto"] = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    backend: Any = None
    device: Any = None
    dtype: Any = None
    dropout: Any = 0.0
    activations: Any = None
    cost: str | Cost | None = None
    validation: Any = None
    max_norm: float | None = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: constraint
            for name, constraint in MLPClassifier._parameter_constraints.items()
            if name not in ("verbose", "warm_start")
        },
        "activation": [StrOptions({"identity", "logistic", "tanh", "relu", "linear", "sigmoid"})],
        "backend": [str, Backend, None],
        "device": "no_validation",
        "dtype": "no_validation",
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "activations": [str, Activation, list, tuple, None],
        "cost": [str, Cost, None],
        "validation": [list, tuple, None],
        "max_norm": [Interval(Real, 0, None, closed="neither"), None],
    }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the network, or all networks of an ensemble.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Of a classifier the class labels; for multilabel classification an indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : estimator
        """
        self._train(X, y, sample_weight)
        return self

    @abstractmethod
    def _train(self, X: Any, y: Any, sample_weight: Any) -> None:
        """Validate the data and train."""

    def _check_limits(self) -> None:
        """Raise ValueError if a number is more than float64 or int64 holds."""
        names = "alpha", "learning_rate_init", "power_t", "tol", "momentum", "validation_fraction"
        for name in (*names, "beta_1", "beta_2", "epsilon"):
            finite_number(getattr(self, name), name)
        for name in ("max_iter", "max_fun"):
            whole_number(getattr(self, name), name)
        if self.max_norm is not None:
            finite_number(self.max_norm, "max_norm")

    def _checked(self, X: Any) -> Any:
        check_unmasked(X=X)
        return validate_data(self, X, accept_sparse=SPARSE, reset=False)

    def _checked_pair(
        self, X: Any, y: Any, *, numeric: bool = False, reset: bool = True
    ) -> tuple[Any, Any]:
        """Validated X and y of `fit`; y of shape (n, 1) becomes (n,)."""
        check_unmasked(X=X, y=y)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=SPARSE,
            multi_output=True,
            y_numeric=numeric,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
