"""StackSearchCV: a grid search that trains candidates and folds as stacks."""

from __future__ import annotations

import time
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import product
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context, clone, is_classifier
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.model_selection._validation import (
    _fit_and_score,
    _insert_error_scores,
    _warn_or_raise_about_fit_failures,
)
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, indexable
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _check_method_params

from bpengine.estimators.base import BaseMLP
from bpengine.estimators.stacked import StackedFit, is_for_stacks, stacks, train
from bpengine.estimators.workers import cores, fit_alone
from bpengine.validation import check_unmasked

__all__ = ["StackSearchCV"]


@dataclass(eq=False, repr=False)
class StackSearchCV(GridSearchCV):  # type: ignore[misc]
    """Grid search with cross-validation that trains many networks at a time.

    Interface and scores equal scikit-learn's `GridSearchCV`, to rounding. Candidates and folds whose
    networks have the same shapes are trained as one stack. Learning rates, `alpha`, `dropout`,
    `random_state`, `tol`, `n_iter_no_change`, `max_iter`, `class_weight`, `early_stopping` may differ
    within a stack; other parameters, such as `hidden_layer_sizes`, need further stacks. Fits with
    ``solver="lbfgs"``, sparse X, callbacks, `verbose`, or so many weights of 0 that a batch may have
    no other, are not stacked.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Of `bpengine.estimators`; not a pipeline, but the search can be the last step of one.
    param_grid : dict of str to sequence, or a list of such dicts
        The values to try, by parameter.
    scoring : str, callable, list, tuple or dict, default=None
        One metric or several, as for `GridSearchCV`; None: the estimator's `score`.
    refit : bool, str or callable, default=True
        Whether to fit `best_estimator_` on all data; with several metrics the name of the deciding
        one; or a function of `cv_results_` that returns the index of the best.
    cv : int, cross-validation generator or iterable, default=None
        As for `GridSearchCV`; None: 5 folds.
    n_jobs : int, default=None
        Number of workers: threads that train stacks, and processes that fit the networks that are faster
        alone, if that saves time. None means all cores; for `GridSearchCV` it means 1.
    verbose : int, default=0
        Above 0, print the number of fits; above 1, also their times, and above 2 their scores.
    error_score : 'raise' or numeric, default=np.nan
        The score of a fit that fails.
    return_train_score : bool, default=False
        Whether `cv_results_` includes the scores on the training data.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As of `GridSearchCV`. The time of a stack is divided equally among its networks.
    best_estimator_ : MLPClassifier or MLPRegressor
        The best, fitted on all data, with `refit`; the search has its `n_features_in_` too.
    best_score_ : float
        Its mean score over the folds.
    best_params_ : dict
    best_index_ : int
        Its index in `cv_results_`.
    scorer_ : function or dict
    n_splits_ : int
    refit_time_ : float
        Seconds.
    multimetric_ : bool
    classes_ : ndarray
        With `refit`, of a classifier.
    feature_names_in_ : ndarray of str
        For X with column names.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from bpengine.estimators import MLPClassifier, StackSearchCV
    >>> X, y = load_digits(return_X_y=True)
    >>> grid = {"learning_rate_init": [0.001, 0.01], "alpha": [1e-4, 10.0]}
    >>> model = MLPClassifier((20,), tol=0.01, random_state=0)
    >>> search = StackSearchCV(model, grid, cv=3).fit(X[:500] / 16, y[:500])
    >>> search.best_params_
    {'alpha': 0.0001, 'learning_rate_init': 0.01}
    """

    estimator: Any
    param_grid: Any
    _: KW_ONLY
    scoring: Any = None
    refit: Any = True
    cv: Any = None
    n_jobs: Any = None
    verbose: int = 0
    error_score: Any = np.nan
    return_train_score: bool = False

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        name: constraint
        for name, constraint in GridSearchCV._parameter_constraints.items()
        if name != "pre_dispatch"
    }

    @_fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, **params: Any) -> StackSearchCV:
        """Run the search.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        **params : dict
            `sample_weight`, split as X; `groups`, for `cv`.

        Returns
        -------
        self : StackSearchCV
        """
        if isinstance(self.estimator, Pipeline):
            raise TypeError(
                "estimator is a pipeline, whose networks StackSearchCV can't train together. Put the "
                "search at the end of the pipeline, as in make_pipeline(StandardScaler(), "
                "StackSearchCV(MLPClassifier(), {'alpha': [1e-4, 1e-2]})), or use "
                "sklearn.model_selection.GridSearchCV."
            )
        if not isinstance(self.estimator, BaseMLP):
            raise TypeError(
                "estimator must be an MLPClassifier or MLPRegressor of bpengine.estimators, got "
                f"{self.estimator!r:.100}. For others there is sklearn.model_selection.GridSearchCV."
            )
        if getattr(self, "_skl_callbacks", None):
            raise ValueError(
                "StackSearchCV takes no callbacks: with set_callbacks give them to its estimator, whose "
                "fits are then alone, or use sklearn.model_selection.GridSearchCV."
            )
        scorers, refit_metric = self._get_scorers()
        check_unmasked(X=X, y=y, **params)
        X, y = indexable(X, y)
        params = _check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        fit_params, split_params = routed.estimator.fit, routed.splitter.split
        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        self.n_splits_ = cv.get_n_splits(X, y, **split_params)
        splits = [_numbered(*split) for split in cv.split(X, y, **split_params)]
        if len(splits) != self.n_splits_:
            raise ValueError(
                f"cv.split gives {len(splits)} splits, cv.get_n_splits says {self.n_splits_}."
            )
        candidates = list(ParameterGrid(self.param_grid))
        if self.verbose > 0:
            print(
                f"Fitting {len(splits)} folds for each of {len(candidates)} candidates, totalling "
                f"{len(splits) * len(candidates)} fits"
            )
        fits = [Fit(self.estimator, *pair) for pair in product(candidates, splits)]
        workers = cores(self.n_jobs)
        _train_in_stacks(fits, X, y, fit_params, workers)
        options = {
            "scorer": scorers,
            "fit_params": fit_params,
            "score_params": routed.scorer.score,
            "return_train_score": self.return_train_score,
            "return_n_test_samples": True,
            "return_times": True,
            "error_score": self.error_score,
            "verbose": self.verbose,
        }
        calls = {}
        for i, fit in enumerate(fits):
            candidate, split = divmod(i, len(splits))
            options["candidate_progress"] = candidate, len(candidates)
            options["split_progress"] = split, len(splits)
            calls[fit] = partial(fit.score, X, y, **options)
        alone = [fit for fit in fits if fit.member is None]
        scored = fit_alone([fit.estimator for fit in alone], [calls[fit] for fit in alone], workers)
        found = dict(zip(alone, scored, strict=True))
        out = [found[fit] if fit in found else calls[fit]() for fit in fits]
        _warn_or_raise_about_fit_failures(out, self.error_score)
        if callable(self.scoring):
            _insert_error_scores(out, self.error_score)
        first = out[0]["test_scores"]
        self.multimetric_ = isinstance(first, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first)
            refit_metric = self.refit
        results = self._format_results(candidates, self.n_splits_, out)
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self._refit(X, y, fit_params)
        self.scorer_ = getattr(scorers, "_scorers", scorers)
        self.cv_results_ = results
        return self

    def _refit(self, X: Any, y: Any, fit_params: dict[str, Any]) -> None:
        best = clone(self.estimator).set_params(**clone(self.best_params_, safe=False))
        start = time.perf_counter()
        self.best_estimator_ = best.fit(X, y, **fit_params)
        self.refit_time_ = time.perf_counter() - start
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_


def _numbered(*parts: Any) -> tuple[Any, ...]:
    """Indices of training and test examples, also from masks."""
    return tuple(np.flatnonzero(x) if np.asarray(x).dtype == bool else np.asarray(x) for x in parts)


class Fit:
    """A candidate, the parameters to set, on a fold: indices of the training and test examples."""

    def __init__(self, estimator: BaseMLP, candidate: dict[str, Any], split: tuple[Any, Any]) -> None:
        self.estimator, self.candidate, (self.train, self.test) = clone(estimator), candidate, split
        self.member: StackedFit | None = None
        self.seconds = 0.0

    def prepare(self, X: Any, y: Any, sample_weight: Any) -> None:
        """Prepare for training in a stack, if possible."""
        est = clone(self.estimator).set_params(**clone(self.candidate, safe=False))
        if not is_for_stacks(est, X):
            return
        try:
            est._validate_params()
            data = est._prepare(X, y, sample_weight)
            member = StackedFit(est, self.train, data.Y, data.weights)
        except Exception:
            return  # the separate fit raises the error
        if member.steps_each_time:
            self.member = member

    def score(self, X: Any, y: Any, **options: Any) -> dict[str, Any]:
        """Fit, unless trained in a stack, and score."""
        est = self.estimator
        if self.member is not None:
            est = self.member.estimator
            est.fit = partial(_trained, est)
        options |= {"train": self.train, "test": self.test, "parameters": self.candidate}
        found: dict[str, Any] = _fit_and_score(est, X, y, **options)
        vars(est).pop("fit", None)
        found["fit_time"] += self.seconds
        return found


def _trained(estimator: BaseMLP, *data: Any, **params: Any) -> BaseMLP:
    """Replaces `fit` of a trained estimator."""
    estimator._check_trained()
    return estimator


def _train_in_stacks(fits: list[Fit], X: Any, y: Any, fit_params: dict[str, Any], workers: int) -> None:
    if set(fit_params) - {"sample_weight"} or y is None:
        return  # the separate fits raise the errors
    by_split: dict[int, list[Fit]] = {}
    for fit in fits:
        by_split.setdefault(id(fit.train), []).append(fit)
    for some in by_split.values():
        inputs, targets = _safe_split(some[0].estimator, X, y, some[0].train)
        weights = _check_method_params(X, params=fit_params, indices=some[0].train)
        for fit in some:
            fit.prepare(inputs, targets, weights.get("sample_weight"))
    found = {fit.member: fit for fit in fits if fit.member is not None}
    if not found:
        return
    whole = check_array(X, dtype=(np.float64, np.float32), ensure_all_finite=False)
    groups = stacks(list(found), workers)
    for group in groups:
        if len(group) == 1:
            fit = found[group[0]]
            fit.member, fit.estimator._all_steps = None, group[0].all_steps // workers
    groups = [group for group in groups if len(group) > 1]
    for group, seconds in zip(groups, train(groups, whole, workers), strict=True):
        for member in group:
            found[member].seconds = seconds / len(group)
