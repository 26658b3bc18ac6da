"""MLPRegressor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from bpengine.estimators.fit import MLP, stochastic_only
from bpengine.model.costs import Cost

__all__ = ["LOSS", "MLPRegressor"]

LOSS = {"loss": [StrOptions({"squared_error", "poisson"})]}


@dataclass(eq=False, repr=False)
class FirstParameter:
    """Last base of `MLPRegressor`: dataclasses take the fields of their last base first."""

    loss: str = "squared_error"


@dataclass(eq=False, repr=False)
class MLPRegressor(MultiOutputMixin, RegressorMixin, MLP, FirstParameter):  # type: ignore[misc]
    """Multilayer perceptron regressor, with the interface of scikit-learn's.

    Parameters
    ----------
    loss : {'squared_error', 'poisson'}, default='squared_error'
        Half the squared error; or half the Poisson deviance, for targets of 0 or more, with the
        exponential of the last layer's weighted inputs as output.
    hidden_layer_sizes : array-like of int, default=(100,)
    activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun, backend, device, dtype, \
dropout, activations, validation, callbacks, max_norm
        As for `MLPClassifier`; the score is R².
    cost : str or Cost, default=None
        Replaces `loss`, for example 'huber'; see `bpengine.Network`.

    Attributes
    ----------
    network_ : bpengine.Network
        The network, which takes examples as columns.
    coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_
        As for `MLPClassifier`; the squared error in the losses is averaged over the outputs.
    t_, n_iter_, n_layers_, n_outputs_, n_features_in_, feature_names_in_, out_activation_
        As for `MLPClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from bpengine.estimators import MLPRegressor
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> model = MLPRegressor(solver="lbfgs", max_iter=500, tol=0.1, random_state=1)
    >>> round(model.fit(X[:150], y[:150]).score(X[150:], y[150:]), 2)
    1.0
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {**MLP._parameter_constraints, **LOSS}

    @stochastic_only  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one more epoch.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : MLPRegressor
        """
        self._train(X, y, sample_weight, incremental=True)
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """The network's outputs.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        check_is_fitted(self)
        outputs = self._outputs(self._checked(X))
        return outputs.ravel() if self.n_outputs_ == 1 else outputs

    def _check_targets(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        X, y = self._checked_pair(X, y, numeric=True, reset=reset)
        if self.loss == "poisson" and self.cost is None and y.min() < 0:
            raise ValueError(f"loss='poisson' needs targets of 0 or more, got {y.min()}.")
        return X, y

    def _output(self, hidden: int) -> tuple[str, str | Cost, str | None]:
        if self.cost is not None:
            return "identity", self.cost, None
        if self.loss == "poisson":
            return "exponential", "poisson", "poisson"
        return "identity", "quadratic", "squared_error"

    def _score(self, X: Any, Y: Any, sample_weight: Any) -> float:
        outputs = self._outputs(X)
        if not np.isfinite(outputs).all():
            return float("nan")
        return float(r2_score(Y, outputs, sample_weight=sample_weight))
