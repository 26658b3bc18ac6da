"""Ensembles of networks that are trained as one stack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from bpengine.estimators import lbfgs, stochastic
from bpengine.estimators.base import BaseMLP
from bpengine.estimators.callbacks import Task
from bpengine.estimators.classifier import CLASS_WEIGHT, MLPClassifier, MultilabelMixin
from bpengine.estimators.data import Data, Host, check_weights
from bpengine.estimators.parameters import Estimator
from bpengine.estimators.regressor import LOSS, MLPRegressor
from bpengine.estimators.stacked import StackedFit, is_for_stacks, stacks, train
from bpengine.estimators.workers import cores, fit_alone

__all__ = ["MLPEnsembleClassifier", "MLPEnsembleRegressor"]

SEEDS = np.iinfo(np.int32).max


@dataclass(eq=False, repr=False)
class FirstParameter:
    """Last base of `BaseEnsemble`: dataclasses take the fields of their last base first."""

    n_estimators: int = 10


@dataclass(eq=False, repr=False, kw_only=True)
class BaseEnsemble(Estimator, FirstParameter):
    """Base class of `MLPEnsembleClassifier` and `MLPEnsembleRegressor`."""

    bootstrap: bool = False
    n_jobs: int | None = None

    _single: ClassVar[type[BaseMLP]]
    _averaged: ClassVar[str]  # method
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        "n_jobs": [Integral, None],
    }

    def _train(self, X: Any, y: Any, sample_weight: Any) -> None:
        X, y = self._checked_pair(X, y, numeric=self._single is MLPRegressor)
        sample_weight = check_weights(sample_weight, X)
        draws = check_random_state(self.random_state)
        self._seeds = draws.randint(SEEDS, size=(self.n_estimators, 2))
        self._examples = X.shape[0]
        parameters = self.get_params(deep=False)
        for name in ("n_estimators", "bootstrap", "n_jobs", "random_state"):
            del parameters[name]
        if self.validation:  # by its column names, which the estimators don't have
            parameters["validation"] = (self._checked(self.validation[0]), *self.validation[1:])
        estimators = [self._single(**parameters, random_state=int(seed)) for seed in self._seeds[:, 0]]
        samples, workers = self.estimators_samples_, cores(self.n_jobs)
        numbers_of = {}
        for i, est in enumerate(estimators):
            if is_for_stacks(est, X):
                est = clone(est)
                data = _prepared(est, X, y, sample_weight, samples[i])
                member = StackedFit(est, samples[i], data.Y[samples[i]], data.weights)
                if member.steps_each_time:
                    numbers_of[member] = i
        groups = stacks(list(numbers_of), workers)
        for group in groups:
            estimators[numbers_of[group[0]]]._all_steps = group[0].all_steps // workers
        groups = [group for group in groups if len(group) > 1]
        train(groups, X, workers)
        stacked = {numbers_of[member]: member.estimator for group in groups for member in group}
        alone = [i for i in range(len(estimators)) if i not in stacked]
        fits = [partial(_fit, estimators[i], X, y, sample_weight, samples[i]) for i in alone]
        fitted = fit_alone([estimators[i] for i in alone], fits, workers)
        stacked |= dict(zip(alone, fitted, strict=True))
        self.estimators_ = [stacked[i] for i in range(len(estimators))]
        for est in self.estimators_:
            est._check_trained()
            est._all_steps = 0
        self.n_iter_ = max(est.n_iter_ for est in self.estimators_)
        self.n_outputs_ = self.estimators_[0].n_outputs_

    @property
    def estimators_samples_(self) -> list[Host]:
        """Indices of each network's training examples, with repetitions."""
        check_is_fitted(self, "_seeds")
        n = self._examples
        if not self.bootstrap:
            return [np.arange(n)] * len(self._seeds)
        return [np.random.RandomState(seed).randint(0, n, n) for seed in self._seeds[:, 1]]

    @property
    def loss_curves_(self) -> list[list[float]]:
        """The loss of each epoch, for each network."""
        check_is_fitted(self)
        if not hasattr(self.estimators_[0], "loss_curve_"):
            raise AttributeError(
                f"{type(self).__name__} with solver='lbfgs' has no loss_curves_, as estimators of "
                "scikit-learn have no loss_curve_ then: estimators_[i].loss_ is the last loss."
            )
        return [est.loss_curve_ for est in self.estimators_]

    def _mean(self, X: Any, return_std: bool = False) -> Any:
        check_is_fitted(self)
        X = self._checked(X)
        found = np.stack([getattr(est, self._averaged)(X) for est in self.estimators_])
        mean = found.mean(axis=0)
        return (mean, found.std(axis=0)) if return_std else mean


def _fit(est: BaseMLP, X: Any, y: Any, sample_weight: Any, numbers: Host) -> BaseMLP:
    """The estimator, fitted alone on the examples with these indices."""
    data = _prepared(est, X, y, sample_weight, numbers)
    data = Data(data.X[numbers], data.Y[numbers], data.weights)
    task = Task(est, X, y, sample_weight)
    (lbfgs.minimize if est.solver == "lbfgs" else stochastic.train)(est, data, task)
    return est


def _prepared(est: BaseMLP, X: Any, y: Any, sample_weight: Any, numbers: Host) -> Data:
    """All examples, for an initialized estimator, and the weights of those with these indices."""
    data = est._prepare(X, y, sample_weight)
    weights = None if sample_weight is None else sample_weight[numbers]
    return data._replace(weights=est._weights(data.Y[numbers], weights))


@dataclass(eq=False, repr=False, kw_only=True)
class MLPEnsembleClassifier(MultilabelMixin, BaseEnsemble):
    """Ensemble of multilayer perceptron classifiers.

    The networks are trained as one stack. Each equals, to rounding, an `MLPClassifier` with its
    `random_state` that is fitted alone on its examples: initial parameters, shuffling, the split of
    `early_stopping` and the number of epochs differ between networks. With ``solver="lbfgs"`` or
    sparse X, they are trained in turn.

    Parameters
    ----------
    n_estimators : int, default=10
        Number of networks.
    hidden_layer_sizes : array-like of int, default=(100,)
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
    bootstrap : bool, default=False
        Whether each network is trained on a bootstrap sample of the examples.
    n_jobs : int, default=None
        As for `StackSearchCV`; None: all cores.
    random_state : int, RandomState instance, default=None
        For the `random_state` of each network, and the bootstrap.
    solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, tol, \
momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \
n_iter_no_change, max_fun, backend, device, dtype, dropout, activations, cost, class_weight, \
validation, max_norm
        As for `MLPClassifier`.

    Attributes
    ----------
    estimators_ : list of MLPClassifier
        The fitted networks.
    estimators_samples_ : list of ndarray of int
        Indices of each network's training examples.
    loss_curves_ : list of list of float
        The loss of each epoch, for each network; not with ``solver="lbfgs"``.
    classes_ : ndarray or list of ndarray of shape (n_classes,)
    n_iter_ : int
        The greatest number of epochs of a network.
    n_outputs_, n_features_in_ : int
    feature_names_in_ : ndarray of str
        For X with column names.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel, C. Blundell, Simple and scalable predictive uncertainty estimation
    using deep ensembles, NeurIPS 2017, arXiv:1612.01474.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from bpengine.estimators import MLPEnsembleClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MLPEnsembleClassifier(5, (20,), learning_rate_init=0.01, tol=0.01, random_state=0)
    >>> model = model.fit(X[:1500] / 16, y[:1500])
    >>> round(model.score(X[1500:] / 16, y[1500:]), 2)
    0.91
    >>> mean, std = model.predict_proba(X[1500:] / 16, return_std=True)
    >>> wrong = model.predict(X[1500:] / 16) != y[1500:]
    >>> round(float(std[wrong].max(axis=1).mean()), 2), round(float(std[~wrong].max(axis=1).mean()), 2)
    (0.11, 0.02)
    """

    class_weight: Any = None

    _single, _averaged = MLPClassifier, "predict_proba"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEnsemble._parameter_constraints,
        **CLASS_WEIGHT,
    }

    @property
    def classes_(self) -> Any:
        """The classes, as of the networks."""
        return self.estimators_[0].classes_

    def predict(self, X: Any) -> Host:
        """The most probable class of each example, by the mean of the networks.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        mean = self._mean(X)
        single = self.estimators_[0]
        labels: Host = single._labels(mean[:, 1:] if single.n_outputs_ == 1 else mean)
        return labels

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Mean of the networks' probabilities, in the order of `classes_`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return their standard deviation too.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or two of them
        """
        return self._mean(X, return_std)


@dataclass(eq=False, repr=False, kw_only=True)
class MLPEnsembleRegressor(MultiOutputMixin, RegressorMixin, BaseEnsemble):  # type: ignore[misc]
    """Ensemble of multilayer perceptron regressors.

    The networks are trained as one stack; see `MLPEnsembleClassifier`.

    Parameters
    ----------
    n_estimators : int, default=10
        Number of networks.
    hidden_layer_sizes : array-like of int, default=(100,)
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
    bootstrap, random_state
        As for `MLPEnsembleClassifier`.
    loss : {'squared_error', 'poisson'}, default='squared_error'
        As for `MLPRegressor`.
    solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, tol, \
momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \
n_iter_no_change, max_fun, backend, device, dtype, dropout, activations, cost, validation, \
max_norm
        As for `MLPRegressor`.

    Attributes
    ----------
    estimators_ : list of MLPRegressor
    estimators_samples_, loss_curves_, n_iter_, n_outputs_, n_features_in_, feature_names_in_
        As for `MLPEnsembleClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.estimators import MLPEnsembleRegressor
    >>> X = np.linspace(-1, 1, 100)[:, None]
    >>> settings = {"learning_rate_init": 0.01, "batch_size": 20, "max_iter": 500}
    >>> model = MLPEnsembleRegressor(20, (20,), **settings, random_state=0).fit(X, np.sin(3 * X[:, 0]))
    >>> mean, std = model.predict([[0.5], [3.0]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(1.5)) < 0.1), bool(std[1] > 5 * std[0])  # 3 is far from the data
    (True, True)
    """

    loss: str = "squared_error"

    _single, _averaged = MLPRegressor, "predict"
    _parameter_constraints: ClassVar[dict[str, Any]] = {**BaseEnsemble._parameter_constraints, **LOSS}

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Mean of the networks' predictions.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return their standard deviation too.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs), or two of them
        """
        return self._mean(X, return_std)
