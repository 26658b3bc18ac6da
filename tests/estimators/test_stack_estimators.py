"""Estimators trained as stacks: each equals the one that is fitted alone; ensembles and the search."""

from __future__ import annotations

import pickle
import warnings
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="needs scikit-learn")

import pandas as pd
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bpengine as bp
from bpengine.estimators import (
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    StackSearchCV,
    search,
    stacked,
    workers,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
alone_is_faster = stacked._alone_is_faster

X, LABELS = (array[:240] for array in load_digits(return_X_y=True))
X = X / 16
WEIGHTS = np.random.default_rng(0).random(240)
XR, YR = make_regression(120, 8, n_targets=2, random_state=0)
YR = YR / YR.std(axis=0)
XM, YM = make_multilabel_classification(120, random_state=0)
DATA = {
    "classes": (MLPClassifier, X, LABELS),
    "two classes": (MLPClassifier, X[:100], np.where(LABELS % 2 == 0, "even", "odd")[:100]),
    "labels": (MLPClassifier, XM, YM),
    "numbers": (MLPRegressor, XR, YR[:, 0]),
    "outputs": (MLPRegressor, XR, YR),
}
FITTED = ["loss_curve_", "n_iter_", "t_", "best_loss_", "validation_scores_", "best_validation_score_"]


@pytest.fixture(autouse=True)
def no_choice_by_time(monkeypatch):
    """Stacks, and one process: which is faster depends on what else the machine does."""
    monkeypatch.setattr(stacked, "_alone_is_faster", lambda *arguments: False)
    monkeypatch.setattr(workers, "START", np.inf)


def assert_alike(one, other, tolerance=1e-9):
    for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
    for name in FITTED:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=tolerance, err_msg=name)


def train_together(models, X, y, parts, weights=None):
    """Train each model on its part of the data; gives the sizes of the stacks."""
    found = []
    for model, part in zip(models, parts, strict=True):
        data = model._prepare(X[part], y[part], None if weights is None else weights[part])
        found.append(stacked.StackedFit(model, part, data.Y, data.weights))
    groups = stacked.stacks(found)
    stacked.train(groups, X)
    return sorted(map(len, groups))


shared = st.fixed_dictionaries(
    {
        "hidden_layer_sizes": st.lists(st.integers(1, 9), max_size=2),
        "activation": st.sampled_from(["logistic", "tanh", "relu"]),
        "solver": st.sampled_from(["sgd", "adam"]),
        "batch_size": st.sampled_from(["auto", 7, 20]),
        "momentum": st.sampled_from([0.0, 0.9]),
        "nesterovs_momentum": st.booleans(),
    }
)
local = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 1e-4, 1.0]),
        "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive"]),
        "learning_rate_init": st.sampled_from([0.001, 0.01]),
        "shuffle": st.booleans(),
        "early_stopping": st.booleans(),
        "tol": st.sampled_from([1e-4, 0.1]),
        "n_iter_no_change": st.sampled_from([1, 3]),
        "max_iter": st.integers(1, 7),
        "random_state": st.integers(0, 2**32 - 1),
        "dropout": st.sampled_from([0.0, 0.0, 0.3]),
    }
)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(list(DATA)),
    alike=shared,
    apart=st.lists(local, min_size=1, max_size=4),
    parts=st.lists(st.sampled_from([60, 61, 64]), min_size=4, max_size=4),
    weighted=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:Got `batch_size`:UserWarning")
def test_each_of_a_stack_is_as_if_fitted_alone(kind, alike, apart, parts, weighted):
    Estimator, X, y = DATA[kind]
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(len(y))[:n] for n in parts[: len(apart)]]
    weights = 0.1 + rng.random(len(y)) if weighted else None
    models = [Estimator(**alike, **options) for options in apart]
    alone = [clone(model) for model in models]
    train_together(models, X, y, chosen, weights)
    for model, other, part in zip(models, alone, chosen, strict=True):
        other.fit(X[part], y[part], None if weights is None else weights[part])
        assert_alike(model, other, 1e-8)
        assert not model.network_.stack


def test_what_may_differ_shares_a_stack_and_what_may_not_does_not():
    base = MLPClassifier((5,), max_iter=2, batch_size=40)
    free = [
        {"alpha": 1.0},
        {"learning_rate_init": 0.1},
        {"random_state": 3},
        {"early_stopping": False, "tol": 0.1, "n_iter_no_change": 2, "max_iter": 3},
        {"shuffle": False},
        {"early_stopping": True},
    ]
    bound = [
        {"hidden_layer_sizes": (6,)},
        {"activation": "tanh"},
        {"solver": "sgd"},
        {"batch_size": 20},
        {"beta_1": 0.5},
        {"dropout": 0.5},
        {"early_stopping": True, "validation_fraction": 0.3},  # leaves fewer steps
    ]
    models = [clone(base).set_params(**options) for options in free + bound]
    parts = [np.arange(180 + i % 2) for i in range(len(models))]
    assert train_together(models, X, LABELS, parts) == [1] * len(bound) + [len(free)]


@pytest.mark.parametrize(("alone", "together"), [(1.0, 2.5), (1.0, 4.0)])
def test_networks_are_trained_alone_where_a_step_takes_less_time(monkeypatch, alone, together):
    models = [MLPClassifier((5,), max_iter=1, batch_size=40, random_state=i) for i in range(3)]
    times = iter([alone + np.arange(3), together + np.arange(3)])
    monkeypatch.setattr(stacked, "timeit", SimpleNamespace(repeat=lambda *_, **__: next(times)))
    member = stacked.StackedFit(models[0], np.arange(240), models[0]._prepare(X, LABELS, None).Y, None)
    assert alone_is_faster(member, 3, 3) == (together > 3 * alone)
    assert alone_is_faster(member, 1, 1)


def test_a_stack_holds_no_more_than_so_many_bytes(monkeypatch):
    monkeypatch.setattr(stacked, "STACK_BYTES", 3 * 40 * (64 + 5 + 10) * 8)
    models = [MLPClassifier((5,), max_iter=1, batch_size=40, random_state=i) for i in range(8)]
    alone = [clone(model).fit(X, LABELS) for model in models]
    assert train_together(models, X, LABELS, [np.arange(240)] * 8) == [2, 3, 3]
    for model, other in zip(models, alone, strict=True):
        assert_alike(model, other)


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"backend": "array_api_strict"}])
def test_float32_and_other_backends(options):
    models = [MLPClassifier((5,), max_iter=3, random_state=i, **options) for i in range(3)]
    parts = [np.arange(n) for n in (220, 220, 219)]
    alone = [clone(model).fit(X[part], LABELS[part]) for model, part in zip(models, parts, strict=True)]
    assert train_together(models, X, LABELS, parts) == [3]
    for model, other in zip(models, alone, strict=True):
        assert_alike(model, other, 1e-4 if "dtype" in options else 1e-9)


def test_one_that_diverges_leaves_the_others_alone():
    rates = [1e-3, 1e200, 1e-2]
    models = [
        MLPRegressor(hidden_layer_sizes=(5,), solver="sgd", learning_rate_init=η, random_state=0)
        for η in rates
    ]
    alone = clone(models[2]).fit(XR, YR)
    train_together(models, XR, YR, [np.arange(120)] * 3)
    assert_alike(models[2], alone)
    assert not np.isfinite(models[1].network_.vector).all()
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        models[1]._check_trained()


def test_one_of_a_stack_goes_on_with_partial_fit():
    models = [MLPClassifier((5,), max_iter=3, random_state=i) for i in range(2)]
    train_together(models, X, LABELS, [np.arange(240)] * 2)
    model = pickle.loads(pickle.dumps(models[1]))
    loss = model.loss_
    assert model.partial_fit(X, LABELS).loss_ < loss


# ensembles

ENSEMBLES = {
    "classes": MLPEnsembleClassifier,
    "two classes": MLPEnsembleClassifier,
    "labels": MLPEnsembleClassifier,
    "numbers": MLPEnsembleRegressor,
    "outputs": MLPEnsembleRegressor,
}


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"early_stopping": True, "batch_size": 32, "n_iter_no_change": 2, "tol": 0.05}]
)
@pytest.mark.parametrize("kind", DATA)
def test_an_ensemble_is_its_estimators_fitted_alone(kind, options, bootstrap):
    Estimator, X, y = DATA[kind]
    model = ENSEMBLES[kind](4, (6,), bootstrap=bootstrap, max_iter=9, random_state=1, **options)
    model.fit(X, y)
    assert len({est.random_state for est in model.estimators_}) == 4
    for est, part in zip(model.estimators_, model.estimators_samples_, strict=True):
        assert type(est) is Estimator
        assert len(set(part)) < len(part) if bootstrap else (part == np.arange(len(y))).all()
        assert_alike(est, clone(est).fit(X[part], y[part]))
    method = "predict_proba" if Estimator is MLPClassifier else "predict"
    item = [getattr(est, method)(X) for est in model.estimators_]
    mean, std = getattr(model, method)(X, return_std=True)
    np.testing.assert_allclose(mean, np.mean(item, axis=0), 1e-12)
    np.testing.assert_allclose(std, np.std(item, axis=0), 1e-9, 1e-12)
    np.testing.assert_array_equal(getattr(model, method)(X), mean)
    assert model.loss_curves_ == [est.loss_curve_ for est in model.estimators_]
    assert model.n_iter_ == max(map(len, model.loss_curves_))
    if kind == "labels":
        np.testing.assert_array_equal(model.predict(X), mean > 0.5)
    elif Estimator is MLPClassifier:
        np.testing.assert_array_equal(model.predict(X), model.classes_[mean.argmax(axis=1)])
        np.testing.assert_allclose(model.predict_log_proba(X), np.log(mean))


def test_an_ensemble_by_lbfgs_has_no_loss_curves():
    model = MLPEnsembleRegressor(2, (3,), solver="lbfgs", max_iter=2).fit(XR, YR)
    assert not hasattr(model, "loss_curves_")
    with pytest.raises(AttributeError, match=r"solver='lbfgs' has no loss_curves_"):
        _ = model.loss_curves_
    with pytest.raises(NotFittedError):
        _ = MLPEnsembleRegressor(2).loss_curves_


def test_a_bootstrap_knows_the_classes_that_it_has_not_drawn():
    y = np.where(np.arange(120) == 7, "rare", "frequent")
    y[:3] = "other"
    model = MLPEnsembleClassifier(6, (4,), bootstrap=True, max_iter=2, random_state=0)
    model.fit(X[:120], y)
    assert any("rare" not in y[part] for part in model.estimators_samples_)
    assert all(list(est.classes_) == ["frequent", "other", "rare"] for est in model.estimators_)
    assert model.predict_proba(X).shape == (240, 3)


def test_a_bootstrap_of_a_rare_class_stops_early():
    y = (np.arange(60) < 3).astype(int)
    for seed in range(8):
        model = MLPEnsembleClassifier(2, (3,), bootstrap=True, early_stopping=True, max_iter=2)
        model.set_params(random_state=seed).fit(X[:60], y)


def test_balanced_weights_are_those_of_the_bootstrap_sample():
    model = MLPEnsembleClassifier(3, (4,), bootstrap=True, class_weight="balanced", random_state=0)
    model.set_params(max_iter=3).fit(X, LABELS, WEIGHTS)
    for est, part in zip(model.estimators_, model.estimators_samples_, strict=True):
        assert_alike(est, clone(est).fit(X[part], LABELS[part], WEIGHTS[part]))


FRAME = pd.DataFrame(XM, columns=[f"feature {i}" for i in range(XM.shape[1])])


@pytest.mark.parametrize(
    ("inputs", "y"),
    [
        (XM, np.full(len(XM), "only")),
        (XM, scipy.sparse.csr_array(YM)),
        (scipy.sparse.csc_array(XM), scipy.sparse.coo_matrix(YM)),
        (FRAME, pd.Series(YM[:, 0]).map({0: "no", 1: "yes"}).astype("category")),
    ],
    ids=["one class", "sparse labels", "all sparse", "frames"],
)
def test_ensembles_and_searches_take_what_estimators_take(inputs, y):
    single = MLPClassifier((4,), max_iter=2, validation=(inputs, y), class_weight="balanced")
    options = {"validation": (inputs, y), "class_weight": "balanced", "bootstrap": True}
    expected = single.fit(inputs, y).predict(inputs)
    for model in (
        MLPEnsembleClassifier(2, (4,), max_iter=2, **options),
        StackSearchCV(single, {"alpha": [0.1]}, cv=2, error_score="raise"),
    ):
        found = model.fit(inputs, y).predict(inputs)
        assert (type(found), found.shape, found.dtype) == (
            type(expected),
            expected.shape,
            expected.dtype,
        )


def test_columns_of_validation_data_of_ensembles():
    model = MLPEnsembleClassifier(2, (4,), max_iter=2)
    model.set_params(validation=(FRAME[FRAME.columns[::-1]], YM))
    with pytest.raises(ValueError, match="feature names"):
        model.fit(FRAME, YM)


@pytest.mark.parametrize("case", ["lbfgs", "sparse", "weights of 0"], ids=["lbfgs", "sparse", "weights"])
def test_what_is_not_for_stacks_is_trained_alone(case):
    model = MLPEnsembleClassifier(3, (4,), bootstrap=True, max_iter=4, random_state=0)
    data, weights = X, None
    if case == "lbfgs":
        model.set_params(solver="lbfgs", tol=0.1)
    elif case == "sparse":
        data = scipy.sparse.csr_array(X)
    else:
        weights = WEIGHTS * (np.arange(240) % 4 == 0)
        model.set_params(batch_size=17)
    model.fit(data, LABELS, weights)
    for est, part in zip(model.estimators_, model.estimators_samples_, strict=True):
        other = clone(est).fit(data[part], LABELS[part], None if weights is None else weights[part])
        np.testing.assert_allclose(est.predict_proba(data), other.predict_proba(data), 1e-8)
    assert model.predict(data).shape == (240,)


def test_ensembles_of_data_frames_pickled_and_in_pipelines():
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    labels = pd.Series(LABELS).map("digit {}".format)
    model = MLPEnsembleClassifier(3, (8,), max_iter=20, random_state=0).fit(frame, labels)
    assert list(model.feature_names_in_) == list(frame)
    assert set(model.predict(frame)) <= set(labels)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"pixel 3": "3"}))
    pipe = make_pipeline(StandardScaler(), clone(model))
    assert len(cross_val_score(pipe, X, LABELS, cv=2)) == 2


def test_spread_is_greater_where_there_are_no_data():
    x = np.linspace(-1, 1, 60)[:, None]
    model = MLPEnsembleRegressor(10, (20,), learning_rate_init=0.01, random_state=0)
    _, std = model.fit(x, np.sin(3 * x[:, 0])).predict([[0.0], [4.0]], return_std=True)
    assert std[1] > 3 * std[0]


def test_ensembles_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="n_estimators"):
        MLPEnsembleClassifier(0).fit(X, LABELS)
    with pytest.raises(NotFittedError):
        MLPEnsembleRegressor().predict(XR)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        MLPEnsembleRegressor(2, (5,), solver="sgd", learning_rate_init=1e200).fit(XR, YR)


@pytest.mark.parametrize(
    ("Ensemble", "Single"),
    [(MLPEnsembleClassifier, MLPClassifier), (MLPEnsembleRegressor, MLPRegressor)],
)
def test_parameters_of_ensembles_are_those_of_their_estimators(Ensemble, Single):
    single, whole = Single().get_params(), Ensemble().get_params()
    assert set(whole) - set(single) == {"n_estimators", "bootstrap", "n_jobs"}
    assert set(single) - set(whole) == {"warm_start", "verbose", "callbacks"}
    assert all(single[name] == whole[name] for name in set(single) & set(whole))
    assert set(Ensemble._parameter_constraints) == set(whole)
    positional = Ensemble(3, (8,), "tanh")
    assert (positional.n_estimators, positional.hidden_layer_sizes) == (3, (8,))
    assert positional.activation == "tanh"


# the search


def assert_same_results(ours, theirs):
    a, b = ours.cv_results_, theirs.cv_results_
    assert list(a) == list(b)
    for name in a:
        if name == "params":
            assert a[name] == b[name]
        elif name.startswith("param_"):
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name].mask, b[name].mask)
            assert a[name].tolist() == b[name].tolist()
        elif "time" not in name:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_allclose(a[name], b[name], rtol=1e-7, atol=1e-9, err_msg=name)
    for name in ("best_index_", "best_params_", "n_splits_", "multimetric_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert hasattr(ours, "best_score_") == hasattr(theirs, "best_score_")
    theirs_has = {name for name in vars(theirs) if name.endswith("_")}
    assert {name for name in vars(ours) if name.endswith("_")} == theirs_has


values = {
    "learning_rate_init": [0.001, 0.003, 0.03],
    "alpha": [0.0, 1e-4, 10.0],
    "hidden_layer_sizes": [(), (4,), (5, 3)],
    "activation": ["relu", "tanh"],
    "batch_size": ["auto", 16],
    "random_state": [0, 5],
    "early_stopping": [False, True],
    "dropout": [0.0, 0.2],
    "solver": ["adam", "sgd", "lbfgs"],
    "max_iter": [1, 6],
}
grids = st.lists(st.sampled_from(list(values)), unique=True, max_size=3).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: st.lists(st.sampled_from(values[name]), min_size=1, max_size=2) for name in names}
    )
)


@settings(max_examples=20)
@given(
    kind=st.sampled_from(["classes", "two classes", "numbers"]),
    grid=grids,
    cv=st.sampled_from([2, 3, KFold(4, shuffle=True, random_state=0)]),
    weighted=st.booleans(),
)
def test_results_are_those_of_grid_search(kind, grid, cv, weighted):
    Estimator, X, y = DATA[kind]
    X, y = X[:91], y[:91]  # folds of different lengths
    base = Estimator(hidden_layer_sizes=(4,), max_iter=5, random_state=1)
    options = {"cv": cv, "return_train_score": True}
    weights = {"sample_weight": 0.1 + WEIGHTS[:91]} if weighted else {}
    ours = StackSearchCV(base, grid, **options).fit(X, y, **weights)
    theirs = GridSearchCV(base, grid, **options).fit(X, y, **weights)
    assert_same_results(ours, theirs)
    np.testing.assert_allclose(ours.predict(X) == y, theirs.predict(X) == y)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-9)


def test_splits_may_be_masks_or_lists():
    mask = np.arange(240) % 3 == 0
    splits = [(mask, ~mask), (list(range(150)), list(range(100, 240)))]
    base, grid = MLPClassifier((4,), max_iter=3, random_state=0), {"alpha": [1e-3, 1.0]}
    ours = StackSearchCV(base, grid, cv=splits).fit(X.tolist(), LABELS.tolist())
    assert_same_results(ours, GridSearchCV(base, grid, cv=splits).fit(X.tolist(), LABELS.tolist()))


@pytest.mark.parametrize(
    "options",
    [
        {"scoring": "neg_log_loss"},
        {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"},
        {"scoring": {"a": "accuracy", "b": "f1_macro"}, "refit": "a", "return_train_score": True},
        {"scoring": lambda est, X, y: {"a": est.score(X, y), "b": 1.0}, "refit": "a"},
        {"refit": lambda results: 1},
        {"refit": False},
    ],
    ids=["one", "list", "dict", "function", "refit function", "no refit"],
)
def test_scoring_and_refit_are_those_of_grid_search(options):
    grid = [{"alpha": [1e-3, 1.0]}, {"hidden_layer_sizes": [(3,)], "learning_rate_init": [0.01, 0.02]}]
    base = MLPClassifier((4,), max_iter=8, random_state=1)
    ours = StackSearchCV(base, grid, cv=3, **options).fit(X, LABELS)
    assert_same_results(ours, GridSearchCV(base, grid, cv=3, **options).fit(X, LABELS))
    if options.get("refit", True):
        np.testing.assert_array_equal(ours.classes_, range(10))
        assert ours.n_features_in_ == 64
        assert ours.refit_time_ > 0
        assert ours.predict_proba(X).shape == (240, 10)
        lambdas = any(map(callable, options.values()))
        again = ours if lambdas else pickle.loads(pickle.dumps(ours))
        np.testing.assert_array_equal(again.predict(X), ours.predict(X))


def count_alone(monkeypatch):
    """The number of fits outside stacks."""
    count = []
    fit = MLPClassifier.fit

    def counted(self, *args, **options):
        count.append(self)
        return fit(self, *args, **options)

    monkeypatch.setattr(MLPClassifier, "fit", counted)
    return count


def test_all_fits_are_those_of_stacks_but_the_last(monkeypatch):
    sizes, train = [], search.train

    def counted(groups, *others):
        sizes.extend(map(len, groups))
        return train(groups, *others)

    monkeypatch.setattr(search, "train", counted)
    alone = count_alone(monkeypatch)
    grid = {"alpha": [1e-3, 1.0], "learning_rate_init": [0.01, 0.02], "hidden_layer_sizes": [3, (4, 2)]}
    found = StackSearchCV(MLPClassifier(max_iter=2, random_state=0), grid, cv=4, n_jobs=1).fit(X, LABELS)
    assert sizes == [16, 16]
    assert alone == [found.best_estimator_]


@pytest.mark.parametrize("what", ["search", "ensemble"])
def test_networks_that_are_faster_alone_are_fitted_at_the_same_time(monkeypatch, what):
    base = MLPClassifier((4,), max_iter=3, random_state=0)
    if what == "search":
        model = StackSearchCV(base, {"alpha": [1e-3, 1.0]}, cv=3, n_jobs=2)
    else:
        model = MLPEnsembleClassifier(5, (4,), max_iter=3, random_state=0, n_jobs=2)
    together = clone(model).fit(X, LABELS)
    monkeypatch.setattr(stacked, "_alone_is_faster", lambda *arguments: True)
    monkeypatch.setattr(workers, "START", 0.0)
    with joblib.parallel_config("threading"):
        alone = clone(model).fit(X, LABELS)
    if what == "search":
        assert_same_results(alone, together)
    else:
        np.testing.assert_allclose(alone.predict_proba(X), together.predict_proba(X), rtol=1e-9)


def test_the_steps_of_a_kind_are_those_of_all_its_fits():
    models = [MLPClassifier((5,), max_iter=n, batch_size=40, random_state=0) for n in (10, 20_000)]
    models.append(MLPClassifier((6,), max_iter=10, batch_size=40, random_state=0))
    found = []
    for model in models:
        data = model._prepare(X, LABELS, None)
        found.append(stacked.StackedFit(model, np.arange(240), data.Y, data.weights))
    stacked.stacks(found)
    assert [member.all_steps for member in found] == [6 * 20_010, 6 * 20_010, 6 * 10]


@pytest.mark.parametrize("what", ["stacks", "alone"])
def test_many_fits_are_compiled_where_that_is_worth_it_for_all_of_them(monkeypatch, what):
    pytest.importorskip("numba")
    from bpengine.backends.numba.backend import NumbaBackend
    from bpengine.training import backend_choice

    base = MLPClassifier((4,), max_iter=3, random_state=0)
    models = [
        StackSearchCV(base, {"alpha": [1e-3, 1.0]}, cv=3, n_jobs=1, refit=False),
        MLPEnsembleClassifier(6, (4,), max_iter=3, random_state=0, n_jobs=1),
    ]
    monkeypatch.setattr(stacked, "_alone_is_faster", lambda *arguments: what == "alone")
    expected = [clone(model).fit(X, LABELS) for model in models]
    compiled, original = [], NumbaBackend.compile
    monkeypatch.setattr(
        NumbaBackend, "compile", lambda *arguments: compiled.append(1) or original(*arguments)
    )
    monkeypatch.setattr(backend_choice, "START", 1.5e-4)  # between what one fit saves and what six do
    clone(base).fit(X[:160], LABELS[:160])
    assert not compiled
    search, ensemble = (clone(model).fit(X, LABELS) for model in models)
    # in the ensemble a program for batches of 200 and one for the rest of 40
    assert len(compiled) == (6 + 6 * 2 if what == "alone" else 1 + 2)
    assert_same_results(search, expected[0])
    for one, other in zip(ensemble.estimators_, expected[1].estimators_, strict=True):
        assert_alike(one, other)
        compiled.clear()
        one.fit(X[:160], LABELS[:160])  # one fit again
        assert not compiled


def test_the_number_of_workers():
    assert workers.cores(None) == joblib.cpu_count()
    assert [workers.cores(n) for n in (1, 3, -1)] == [1, 3, joblib.cpu_count()]
    inside = joblib.Parallel(2, prefer="threads")(joblib.delayed(workers.cores)(None) for _ in range(2))
    assert inside == [1, 1]


@pytest.mark.parametrize("case", ["lbfgs", "sparse", "callbacks"])
def test_what_can_be_no_part_of_a_stack_is_fitted_alone(monkeypatch, case):
    alone = count_alone(monkeypatch)
    base, data = MLPClassifier((3,), max_iter=3, random_state=0), X
    if case == "lbfgs":
        base.set_params(solver="lbfgs")
    elif case == "sparse":
        data = scipy.sparse.csr_matrix(X)
    else:
        base.set_params(callbacks=[bp.EarlyStopping(patience=1)])
    grid = {"alpha": [1e-3, 1.0]}
    ours = StackSearchCV(base, grid, cv=2).fit(data, LABELS)
    assert len(alone) == 5
    assert_same_results(ours, GridSearchCV(base, grid, cv=2).fit(data, LABELS))


@pytest.mark.parametrize("error_score", [np.nan, -1e6])
@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
def test_fits_that_fail_have_the_error_score(error_score):
    base = MLPRegressor(hidden_layer_sizes=(3,), solver="sgd", max_iter=4, random_state=0)
    grid = {"learning_rate_init": [1e200, 0.01], "momentum": [0.0, 2.0]}
    options = {"cv": 2, "error_score": error_score}
    with pytest.warns(FitFailedWarning, match="6 fits failed out of a total of 8"):
        ours = StackSearchCV(base, grid, **options).fit(XR, YR)
    with pytest.warns(FitFailedWarning):
        assert_same_results(ours, GridSearchCV(base, grid, **options).fit(XR, YR))
    with pytest.raises(ValueError, match=r"non-finite|momentum"):
        StackSearchCV(base, grid, cv=2, error_score="raise").fit(XR, YR)


def test_says_what_grid_search_says(capsys):
    base, grid = MLPClassifier((3,), max_iter=2, random_state=0), {"alpha": [1e-3, 1.0]}
    said = []
    for Search in (StackSearchCV, GridSearchCV):
        Search(base, grid, cv=2, verbose=3).fit(X, LABELS)
        said.append([line.partition("total time")[0] for line in capsys.readouterr().out.splitlines()])
    assert [line.rstrip(".") for line in said[0]] == [line.rstrip(".") for line in said[1]]


def test_warns_once_of_networks_that_have_not_converged():
    base, grid = MLPClassifier((3,), random_state=0), {"max_iter": [2, 200], "tol": [0.5]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        StackSearchCV(base, grid, cv=2, refit=False).fit(X, LABELS)
    (warning,) = [w for w in caught if w.category is ConvergenceWarning]
    assert "2 of 4 networks" in str(warning.message)
    assert warning.filename == __file__


def test_search_over_data_frames_and_nested():
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    labels = pd.Series(LABELS).map("digit {}".format)
    base, grid = MLPClassifier((5,), max_iter=5, random_state=0), {"alpha": [1e-3, 1.0]}
    found = StackSearchCV(base, grid, cv=2).fit(frame, labels)
    assert list(found.feature_names_in_) == list(frame)
    pipe = make_pipeline(StandardScaler(), StackSearchCV(base, grid, cv=2))
    assert len(cross_val_score(pipe, X, LABELS, cv=2)) == 2


def test_the_search_refuses_what_it_cannot_do():
    with pytest.raises(TypeError, match=r"LogisticRegression.*GridSearchCV"):
        StackSearchCV(LogisticRegression(), {"C": [1.0]}).fit(X, LABELS)
    pipe = make_pipeline(StandardScaler(), MLPClassifier())
    with pytest.raises(TypeError, match=r"at the end of the pipeline"):
        StackSearchCV(pipe, {"mlpclassifier__alpha": [1.0]}).fit(X, LABELS)
    with pytest.raises(ValueError, match="nonsense"):
        StackSearchCV(MLPClassifier(max_iter=1), {"nonsense": [1]}, cv=2).fit(X, LABELS)
    callback = pytest.importorskip("sklearn.callback", reason="needs scikit-learn 1.9 or later")
    found = StackSearchCV(MLPClassifier(), {"alpha": [1.0]})
    found.set_callbacks(callback.ScoringMonitor(scoring=None))
    with pytest.raises(ValueError, match="takes no callbacks"):
        found.fit(X, LABELS)


def test_parameters_of_the_search_are_those_of_grid_search():
    theirs = GridSearchCV(MLPClassifier(), {}).get_params(deep=False)
    ours = StackSearchCV(MLPClassifier(), {}).get_params(deep=False)
    assert set(theirs) - set(ours) == {"pre_dispatch"}
    assert ours.keys() == StackSearchCV._parameter_constraints.keys()
    assert list(ParameterGrid({"alpha": [1]})) == [{"alpha": 1}]


SMALL = {"hidden_layer_sizes": (12,), "learning_rate_init": 0.05, "max_iter": 12}


@parametrize_with_checks(
    [
        MLPEnsembleClassifier(3, **SMALL),
        MLPEnsembleRegressor(3, **SMALL),
        StackSearchCV(MLPClassifier(**SMALL, random_state=0), {"alpha": [1e-3, 1e-2]}, cv=2),
        StackSearchCV(MLPRegressor(**SMALL, random_state=0), {"alpha": [1e-3, 1e-2]}, cv=2),
    ]
)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)
