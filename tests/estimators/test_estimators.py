"""Estimators: equal to scikit-learn's to rounding, and at home wherever scikit-learn takes one."""

from __future__ import annotations

import _thread
import pickle
import tracemalloc
import warnings
from decimal import Decimal
from functools import partial
from inspect import signature

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="needs scikit-learn")

import joblib
import pandas as pd
import scipy.sparse
import sklearn
import sklearn.neural_network as reference
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bpengine as bp
from bpengine import estimators
from bpengine.estimators import MLPClassifier, MLPRegressor, lbfgs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, LABELS = (array[:300] for array in load_digits(return_X_y=True))
X = X / 16
WEIGHTS = np.random.default_rng(0).random(300)
XR, YR = make_regression(120, 8, n_targets=2, random_state=0)
YR = YR / YR.std(axis=0)
XM, YM = make_multilabel_classification(120, random_state=0)
DATA = {
    "classes": ("MLPClassifier", X, LABELS),
    "two classes": ("MLPClassifier", X, np.where(LABELS == 3, "three", "other")),
    "labels": ("MLPClassifier", XM, YM),
    "numbers": ("MLPRegressor", XR, YR[:, 0]),
    "outputs": ("MLPRegressor", XR, YR),
    "counts": ("MLPRegressor", XR, np.abs(3 * YR[:, 0]).round()),
}
BOTH = [MLPClassifier, MLPRegressor]


def pair(kind, **options):
    """scikit-learn's estimator and ours, with the same parameters."""
    options = {"random_state": 3, "max_iter": 12, "hidden_layer_sizes": (16,)} | options
    if kind == "counts":
        options["loss"] = "poisson"
    name = DATA[kind][0]
    return getattr(reference, name)(**options), getattr(estimators, name)(**options)


def assert_alike(theirs, ours, tolerance=1e-10):
    for a, b in zip(theirs.coefs_ + theirs.intercepts_, ours.coefs_ + ours.intercepts_, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.abs(a - b).max() <= tolerance * np.abs(a).max()
    for name in (
        "n_iter_",
        "t_",
        "n_layers_",
        "n_outputs_",
        "out_activation_",
        "n_features_in_",
    ):
        assert getattr(theirs, name) == getattr(ours, name), name
    for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(theirs, name) == hasattr(ours, name), name
        if getattr(theirs, name, None) is None:
            assert getattr(ours, name, None) is None, name
        else:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), tolerance)


def small(name, **options):
    """An estimator, an ensemble or a search that is fitted quickly."""
    if name == "StackSearchCV":
        return estimators.StackSearchCV(
            small("MLPClassifier", **options), {"alpha": [0.1]}, cv=2, error_score="raise"
        )
    counts = {"n_estimators": 2} if "Ensemble" in name else {}
    options = {"hidden_layer_sizes": (4,), "max_iter": 2} | options
    return getattr(estimators, name)(**counts, **options)


SETTINGS = [
    ("classes", {}),
    ("classes", {"batch_size": 32, "hidden_layer_sizes": (10, 6), "activation": "tanh"}),
    ("classes", {"activation": "logistic", "early_stopping": True, "max_iter": 40, "tol": 0.01}),
    ("classes", {"hidden_layer_sizes": [], "alpha": 0.5}),
    ("classes", {"solver": "sgd", "learning_rate_init": 0.1, "shuffle": False}),
    ("classes", {"solver": "sgd", "momentum": 0.0, "learning_rate": "invscaling", "alpha": 0.0}),
    (
        "classes",
        {"solver": "sgd", "nesterovs_momentum": False, "power_t": 0.3, "activation": "identity"},
    ),
    (
        "classes",
        {
            "solver": "sgd",
            "learning_rate": "adaptive",
            "learning_rate_init": 0.5,
            "tol": 0.05,
            "n_iter_no_change": 2,
            "max_iter": 200,
        },
    ),
    ("classes", {"tol": 0.5, "n_iter_no_change": 3, "max_iter": 100}),
    ("classes", {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-4, "learning_rate_init": 0.01}),
    ("classes", {"solver": "lbfgs", "alpha": 0.1}),
    ("two classes", {}),
    ("two classes", {"early_stopping": True, "max_iter": 40, "validation_fraction": 0.3}),
    ("two classes", {"solver": "lbfgs"}),
    ("labels", {"batch_size": 50}),
    ("labels", {"early_stopping": True, "tol": 0.02, "max_iter": 30}),
    ("labels", {"solver": "lbfgs", "max_iter": 8}),
    ("numbers", {"batch_size": 17}),
    ("numbers", {"early_stopping": True, "max_iter": 40}),
    ("numbers", {"solver": "lbfgs", "max_iter": 8}),
    ("outputs", {"alpha": 0.1}),
    ("outputs", {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4}),
    ("counts", {}),
    ("counts", {"solver": "lbfgs", "max_iter": 6}),
]
ids = [f"{kind} {options}" for kind, options in SETTINGS]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize(("kind", "options"), SETTINGS, ids=ids)
def test_equal_to_scikit_learn(kind, options, weighted):
    theirs, ours = pair(kind, **options)
    _, X, y = DATA[kind]
    weights = WEIGHTS[: len(X)] if weighted else None
    theirs.fit(X, y, sample_weight=weights)
    ours.fit(X, y, sample_weight=weights)
    assert_alike(theirs, ours)
    np.testing.assert_allclose(*(model.score(X, y, weights) for model in (theirs, ours)))
    if kind in ("numbers", "outputs", "counts"):
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), 1e-6)
    else:
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), 1e-6)
        np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), 1e-6)
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(list(DATA)),
    options=st.fixed_dictionaries(
        {
            "hidden_layer_sizes": st.lists(st.integers(1, 9), max_size=3),
            "activation": st.sampled_from(["identity", "logistic", "tanh", "relu"]),
            "solver": st.sampled_from(["sgd", "adam"]),
            "alpha": st.sampled_from([0.0, 1e-4, 1.0]),
            "batch_size": st.sampled_from(["auto", 1, 7, 20, 64]),
            "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive"]),
            "shuffle": st.booleans(),
            "momentum": st.sampled_from([0.0, 0.5, 0.9]),
            "nesterovs_momentum": st.booleans(),
            "early_stopping": st.booleans(),
            "tol": st.sampled_from([0.0, 1e-4, 0.1]),
            "n_iter_no_change": st.sampled_from([1, 3]),
            "random_state": st.integers(0, 2**32 - 1),
        }
    ),
    examples=st.integers(20, 90),
    weighted=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:Got `batch_size`:UserWarning")
def test_equal_to_scikit_learn_whatever_the_settings(kind, options, examples, weighted):
    _, X, y = DATA[kind]
    if kind == "two classes":
        y = LABELS % 2 == 0  # enough of both in any part
    weights = WEIGHTS[:examples] if weighted else None
    models = pair(kind, max_iter=5, learning_rate_init=0.002, **options)
    for model in models:
        model.fit(X[:examples], y[:examples], sample_weight=weights)
    assert_alike(*models, tolerance=1e-8)


GATHERED = [
    ("classes", False, {"batch_size": 32, "early_stopping": True}),
    ("outputs", True, {}),
    ("classes", True, {"dropout": [0.2, 0.5], "solver": "sgd"}),
    ("classes", False, {"dtype": "float32"}),
]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("kind", "weighted", "options"), GATHERED)
def test_a_step_reads_large_x_in_place_with_the_same_result(
    monkeypatch, kind, weighted, options, backend
):
    if backend == "numba":
        pytest.importorskip("numba")
    _, X, y = DATA[kind]
    weights = WEIGHTS[: len(X)] if weighted else None
    found = []
    for limit, order in ((2**24, "C"), (0, "C"), (0, "F")):
        monkeypatch.setattr("bpengine.estimators.data.PACKED_BYTES", limit)
        ours = pair(kind)[1].set_params(backend=backend, **options)
        ours.fit(np.array(X, order=order), y, sample_weight=weights)
        found.append((ours.network_.vector, ours.loss_curve_))
    for vector, losses in found[1:]:
        np.testing.assert_array_equal(vector, found[0][0])
        assert losses == found[0][1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fit_copies_large_x_only_for_validation(monkeypatch, dtype):
    monkeypatch.setattr("bpengine.estimators.data.PACKED_BYTES", 0)
    X = np.random.default_rng(0).random((2000, 500), dtype)
    ours = MLPClassifier((4,), batch_size=20, max_iter=1, random_state=0)
    stopped = clone(ours).set_params(early_stopping=True, validation_fraction=0.2)
    calls = (ours.fit, 0), (ours.partial_fit, 0), (stopped.fit, 0.2), (ours.predict, 0.1)
    for call, share in calls:
        arguments = (X,) if call == ours.predict else (X, np.arange(2000) % 2)
        call(*arguments)  # imports
        tracemalloc.start()
        call(*arguments)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < (share + 0.1) * X.nbytes, call


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_float32_computes_in_float32(kind, solver):
    theirs, ours = pair(kind, solver=solver)
    _, X, y = DATA[kind]
    X = X.astype("float32")
    assert_alike(theirs.fit(X, y), ours.fit(X, y), tolerance=2e-4)
    assert ours.network_.dtype == "float32"
    assert ours.set_params(dtype="float64").fit(X, y).coefs_[0].dtype == "float64"


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["classes", "two classes", "labels", "numbers"])
def test_partial_fit_equal_to_scikit_learn_also_after_pickling(kind, solver):
    _, X, y = DATA[kind]
    theirs, ours = pair(kind, solver=solver, batch_size=30)
    for i, part in enumerate(np.split(np.arange(120), 4)):
        options = {"classes": np.unique(y)} if kind.endswith("classes") and i == 0 else {}
        if kind == "labels":
            options = {"classes": range(y.shape[1])}
        theirs.partial_fit(X[part], y[part], WEIGHTS[part], **options)
        ours.partial_fit(X[part], y[part], WEIGHTS[part], **options)
        assert_alike(theirs, ours)
        ours = pickle.loads(pickle.dumps(ours))
    assert ours._optimizer.network is ours.network_


def test_partial_fit_of_ever_new_sizes():
    models = pair("numbers")
    for model in models:
        for size in range(20, 60, 3):
            model.partial_fit(XR[:size], YR[:size, 0])
    assert_alike(*models)
    assert len(models[1]._optimizer.runner._plans) == 8


def test_partial_fit_goes_on_from_fit():
    models = pair("classes", solver="sgd")
    for model in models:
        model.fit(X, LABELS).set_params(alpha=0.0).partial_fit(X[:50], LABELS[:50])
    assert_alike(*models)


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "lbfgs", "max_iter": 5}])
def test_warm_start_equal_to_scikit_learn(options):
    models = pair("classes", warm_start=True, **options)
    for _ in range(3):
        for model in models:
            model.fit(X, LABELS)
        assert_alike(*models)


def test_warm_start_restores_the_best_of_its_fit():
    options = {"early_stopping": True, "learning_rate_init": 0.01, "warm_start": True}
    models = pair("classes", max_iter=1, **options)
    for i in range(24):
        for model in models:
            model.fit(X[i % 3 :], LABELS[i % 3 :]).set_params(max_iter=1 + i % 4)
        assert_alike(*models)
        assert models[1]._best is None  # as it would be pickled
    model = models[1].set_params(validation=(X[:9], LABELS[:9]), max_iter=5)
    before = model.coefs_[0].copy()
    assert np.abs(model.fit(X, LABELS).coefs_[0] - before).max() > 0


CHANGES = [
    ("activation", "tanh"),
    ("activations", ["gelu"]),
    ("loss", "poisson"),
    ("cost", "huber"),
    ("dropout", 0.5),
    ("dtype", "float32"),
    ("backend", "array_api_strict"),
    ("hidden_layer_sizes", (5,)),
]


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("name", "value"), CHANGES, ids=[name for name, _ in CHANGES])
def test_another_network_than_the_fitted_one_is_refused(name, value, method):
    y = np.abs(YR)
    model = MLPRegressor(hidden_layer_sizes=(4,), warm_start=True, max_iter=2).fit(XR, y)
    before = model.network_.vector.copy()
    with pytest.raises(ValueError, match=f"{name}=.*warm_start=False"):
        getattr(model.set_params(**{name: value}), method)(XR, y)
    np.testing.assert_array_equal(model.network_.vector, before)
    model.set_params(warm_start=False).fit(XR, y)


def test_equal_functions_are_the_same_network():
    mixed = [["tanh", "tanh", "relu", "relu"]]
    model = MLPRegressor(hidden_layer_sizes=(4,), activations=mixed, warm_start=True, max_iter=2)
    model.fit(XR, YR).set_params(activations=[tuple(mixed[0])]).fit(XR, YR)
    model = MLPRegressor(hidden_layer_sizes=(4,), warm_start=True, max_iter=2).fit(XR, YR)
    model.set_params(activations="relu", dropout=[0.0, 0.0], dtype=np.float64).fit(XR, YR)


def test_max_norm_between_fits():
    model = MLPRegressor(hidden_layer_sizes=(4,), warm_start=True, max_iter=2).fit(XR, YR)
    with pytest.raises(ValueError, match=r"max_norm=0\.5.*or call fit"):
        model.set_params(max_norm=0.5).partial_fit(XR, YR)
    model.fit(XR, YR)
    assert np.linalg.norm(model.coefs_[0], axis=0).max() < 0.5001


def test_other_numbers_of_targets_are_refused():
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2).fit(XR, YR)
    with pytest.raises(ValueError, match="y makes 1 targets; the fitted network has 2 outputs"):
        model.partial_fit(XR, YR[:, 0])
    assert model.partial_fit(XR, YR).n_outputs_ == 2
    with pytest.raises(ValueError, match=r"validation has 1 targets .* has 2"):
        MLPRegressor(validation=(XR, YR[:, 0])).fit(XR, YR)
    model = MLPClassifier(max_iter=1, warm_start=True, validation=(XM, YM[:, 0]))
    with pytest.raises(ValueError, match="y of validation must be an indicator matrix"):
        model.fit(XM, YM)
    with pytest.raises(ValueError, match="mismatch with the labels"):
        model.set_params(validation=(XM, YM[:, 1:])).fit(XM, YM)
    with pytest.raises(ValueError, match="y must be an indicator matrix"):
        model.set_params(validation=None).fit(XM, YM).partial_fit(XM, np.arange(120) % 5)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_from_lbfgs_to_adam(method):
    model = MLPClassifier((4,), solver="lbfgs", warm_start=True, max_iter=2).fit(X, LABELS)
    getattr(model.set_params(solver="adam"), method)(X, LABELS)
    assert model.best_loss_ == min(model.loss_curve_)
    assert len(model.loss_curve_) == model.n_iter_


def test_a_score_of_outputs_that_are_not_finite_is_no_best():
    model = MLPClassifier((4,), max_iter=1).fit(X, LABELS)
    model.coefs_[0][...] = np.nan
    with np.errstate(all="ignore"):
        assert np.isnan(model._score(X, np.eye(10, dtype=bool)[LABELS], None))


def test_losses_are_numbers_of_numpy():
    for options in ({}, {"solver": "lbfgs"}):
        model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, **options).fit(XR, YR)
        assert type(model.loss_) is np.float64


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("learning_rate", ["constant", "adaptive"])
def test_says_what_scikit_learn_says(capsys, learning_rate, early_stopping):
    options = {"learning_rate": learning_rate, "early_stopping": early_stopping, "solver": "sgd"}
    said = []
    for model in pair("classes", verbose=True, tol=0.5, n_iter_no_change=1, max_iter=50, **options):
        model.fit(X, LABELS)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_lbfgs_says_the_loss_of_each_iteration(capsys):
    model = MLPClassifier((4,), solver="lbfgs", max_iter=3, verbose=True, random_state=0)
    model.fit(X, LABELS)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Iteration 1", "Iteration 2", "Iteration 3"]
    assert lines[-1].endswith(f"{model.loss_:.8f}")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_warns_when_it_has_not_converged(solver):
    with pytest.warns(ConvergenceWarning, match=r"(?i)iterations") as caught:
        MLPClassifier((4,), solver=solver, max_iter=2).fit(X, LABELS)
    assert caught[0].filename == __file__ or solver == "lbfgs"


@pytest.mark.filterwarnings("ignore:overflow")
def test_divergence_is_an_error():
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        MLPRegressor(hidden_layer_sizes=(5,)).fit(1e306 * np.abs(XR), YR)


@pytest.mark.parametrize("options", [{}, {"max_iter": 30, "early_stopping": True}, {"solver": "lbfgs"}])
@pytest.mark.parametrize("container", ["csr_matrix", "csc_matrix", "csr_array", "csc_array"])
def test_sparse_is_as_dense(monkeypatch, container, options):
    monkeypatch.setattr(lbfgs, "DENSE_ELEMENTS", 40 * X.shape[1])  # 300 examples in 8 parts
    sparse = getattr(scipy.sparse, container)(X)
    model = MLPClassifier((8,), random_state=0, batch_size=64, max_iter=8).set_params(**options)
    dense = clone(model).fit(X, LABELS, WEIGHTS)
    model.fit(sparse, LABELS, WEIGHTS)
    np.testing.assert_allclose(model.predict_proba(sparse), dense.predict_proba(X), 1e-8)
    monkeypatch.setattr(estimators.base, "PREDICTED_ELEMENTS", 1000)
    np.testing.assert_allclose(model.predict_proba(sparse), dense.predict_proba(X), 1e-8)


@parametrize_with_checks([MLPClassifier(max_iter=50), MLPRegressor(max_iter=50)])
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("Estimator", BOTH)
def test_parameters_are_those_of_scikit_learn_and_some_more(Estimator):
    theirs = getattr(reference, Estimator.__name__)().get_params()
    ours = Estimator().get_params()
    assert theirs.items() <= ours.items()
    assert list(theirs) == [name for name in ours if name in theirs]
    positional = [
        [p.name for p in signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for kind in (Estimator, getattr(reference, Estimator.__name__))
    ]
    assert positional[0] == positional[1]
    more = {
        "backend",
        "device",
        "dtype",
        "dropout",
        "activations",
        "cost",
        "validation",
        "callbacks",
        "max_norm",
    }
    assert set(ours) - set(theirs) == more | ({"class_weight"} & set(ours))
    assert set(Estimator._parameter_constraints) == set(ours)


def test_data_frames():
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(X.shape[1])])
    labels = pd.Series(LABELS).map("digit {}".format)
    model = MLPClassifier((8,), max_iter=3, early_stopping=True).fit(frame, labels)
    assert list(model.feature_names_in_) == list(frame)
    assert set(model.predict(frame)) <= set(labels)
    assert model.predict_proba(frame).shape == (300, 10)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"pixel 3": "3"}))


def test_in_a_pipeline_a_grid_search_and_cross_validation():
    model = make_pipeline(StandardScaler(), MLPClassifier((16,), learning_rate_init=0.03, max_iter=15))
    grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__dropout": [0.0, 0.1]}
    search = GridSearchCV(model, grid, cv=3, n_jobs=2).fit(X, LABELS)
    assert search.best_score_ > 0.7
    assert len(cross_val_score(search.best_estimator_, X, LABELS, cv=3)) == 3
    assert cross_val_predict(model, X, LABELS, cv=3, method="predict_proba").shape == (300, 10)
    calibrated = CalibratedClassifierCV(model, cv=2).fit(X, LABELS)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_dumped_and_loaded(tmp_path, solver):
    model = MLPClassifier((8,), solver=solver, max_iter=3, random_state=0).fit(X, LABELS)
    joblib.dump(model, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.loss_ == model.loss_


def test_coefs_are_views_that_can_be_set():
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(XR, YR)
    net = model.network_
    assert isinstance(model.coefs_, list)
    assert np.shares_memory(model.coefs_[0], net.weights[0])
    assert model.coefs_[1].shape == (4, 2)
    assert model.intercepts_[1].shape == (2,)
    model.coefs_[0] = np.ones((8, 4))
    model.intercepts_[1] += 1.0
    assert (net.weights[0] == 1).all()
    model.coefs_ = [2 * w for w in model.coefs_]
    assert (net.weights[0] == 2).all()
    np.testing.assert_allclose(model.predict(XR), net.feedforward(XR.T).T)
    with pytest.raises(ValueError, match=r"shape \(8, 4\) can't be set to an array of shape \(4, 8\)"):
        model.coefs_[0] = np.ones((4, 8))
    with pytest.raises(ValueError, match="finite"):
        model.coefs_ = [np.ones((8, 4)), np.full((4, 2), np.nan)]
    assert (net.weights[0] == 2).all()
    copied = pickle.loads(pickle.dumps(model.coefs_))
    np.testing.assert_array_equal(copied[0], model.coefs_[0])


@pytest.mark.parametrize("Estimator", BOTH)
def test_not_fitted(Estimator):
    model = Estimator()
    assert not hasattr(model, "coefs_")
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(AttributeError, match="not fitted yet, and has no intercepts_"):
        model.intercepts_  # noqa: B018


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_an_interrupt_keeps_what_was_learned(solver):
    def interrupt(training):
        if training.epoch == 3:
            _thread.interrupt_main()

    model = MLPClassifier((8,), solver=solver, callbacks=interrupt, random_state=0)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, LABELS)
    assert model.n_iter_ == 3
    model.set_params(callbacks=None, max_iter=3)
    np.testing.assert_allclose(model.predict_proba(X), clone(model).fit(X, LABELS).predict_proba(X))


class Recorder(bp.Callback):
    def __init__(self):
        self.said = []

    def start(self, training):
        self.said.append(("start", training.epochs, training.source.steps))

    def epoch(self, training):
        same = np.isclose(training.history.cost[-1], training.estimator.loss_, 1e-12)
        self.said.append((training.epoch, same))
        if training.epoch == 4:
            training.stop()

    def end(self, training):
        self.said.append(("end", training.history))


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_callbacks_of_bpengine(tmp_path, solver):
    record, path = Recorder(), tmp_path / "net.npz"
    log, saved = bp.JSONLinesLog(tmp_path / "log"), bp.Checkpoint(path)
    model = MLPClassifier((8,), solver=solver, callbacks=[record, log, saved], max_iter=9)
    model.set_params(validation=(X, LABELS), random_state=0).fit(X, LABELS)
    assert model.n_iter_ == 4
    steps = 1 if solver == "lbfgs" else 2
    start, *epochs, (_, history) = record.said
    assert start == ("start", 9, steps)
    assert [epoch for epoch, _ in epochs] == [1, 2, 3, 4]
    assert all(same for _, same in epochs)
    if solver != "lbfgs":
        np.testing.assert_allclose(history.cost, model.loss_curve_)
        np.testing.assert_allclose(history.validation_accuracy, model.validation_scores_)
    assert len((tmp_path / "log").read_text().splitlines()) == 4
    np.testing.assert_allclose(bp.load(path).feedforward(X.T).T, model.predict_proba(X), rtol=1e-6)


def test_all_callbacks_end_even_if_one_fails():
    class Failing(bp.Callback):
        def end(self, training):
            raise RuntimeError("disk full")

    first, last = Recorder(), Recorder()
    with pytest.raises(RuntimeError, match="disk full"):
        MLPClassifier((4,), max_iter=2, callbacks=[first, Failing(), last]).fit(X, LABELS)
    assert first.said[-1][0] == last.said[-1][0] == "end"


def test_callbacks_are_checked():
    model = MLPClassifier((4,), max_iter=2, callbacks=bp.EarlyStopping()).fit(X, LABELS)
    for wrong in (["progress"], [bp.EarlyStopping], [Steps()]):
        with pytest.raises(TypeError, match="Callback objects or functions of the training"):
            model.set_params(callbacks=wrong).fit(X, LABELS)


def test_early_stopping_of_bpengine_restores_the_best():
    stop = bp.EarlyStopping(patience=2, min_delta=1.0)
    model = MLPClassifier((8,), callbacks=[stop], random_state=0).fit(X, LABELS)
    assert model.n_iter_ == 3
    model.set_params(callbacks=None, max_iter=1)
    np.testing.assert_allclose(model.predict_proba(X), clone(model).fit(X, LABELS).predict_proba(X))


class Steps:
    """A callback of scikit-learn's protocol that stops after some iterations."""

    def __init__(self, last=None):
        self.last, self.said, self.scores = last, [], []

    def setup(self, estimator, context):
        self.said.append(("setup", context.max_subtasks))

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        assert len(X) == len(y)
        self.said.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None
    ):
        self.said.append(("end", context.task_name, context.task_id, metadata))
        self.scores.append(fitted_estimator.score(X, y))
        return context.task_id == self.last and context.task_name == "iteration"

    def teardown(self, estimator, context):
        self.said.append(("teardown",))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_of_scikit_learn(solver):
    pytest.importorskip("sklearn.callback", reason="needs scikit-learn 1.9 or later")
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(X.shape[1])])
    callback = Steps(last=1)
    model = MLPClassifier((8,), solver=solver, max_iter=9, random_state=0).set_callbacks(callback)
    model.fit(frame, LABELS)
    iterations = [(when, "iteration", i) for i in range(2) for when in ("begin", "end")]
    said = [entry[:3] for entry in callback.said]
    assert said == [
        ("setup", 9),
        ("begin", "fit", 0),
        *iterations,
        ("end", "fit", 0),
        ("teardown",),
    ]
    assert model.n_iter_ == 2
    assert callback.scores[1] == callback.scores[2] == model.score(frame, LABELS)
    callback.said.clear()
    model.fit(frame, LABELS, WEIGHTS)
    assert callback.said[3][3]["sample_weight"] is WEIGHTS


def test_scikit_learn_monitors_the_score():
    callback = pytest.importorskip("sklearn.callback", reason="needs scikit-learn 1.9 or later")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = MLPClassifier((8,), max_iter=5, random_state=0).set_callbacks(monitor).fit(X, LABELS)
    scores = [
        entry["accuracy"] for entry in monitor.get_logs().data if entry["task_name"] == "iteration"
    ]
    assert len(scores) == 5
    assert scores[-1] == model.score(X, LABELS)


def test_validation_data():
    train, held = slice(0, 200), slice(200, 300)
    data = X[held], LABELS[held]
    model = MLPClassifier((16,), max_iter=40, random_state=0, validation=data)
    model.fit(X[train], LABELS[train])
    assert model.n_iter_ == len(model.validation_scores_) == 40
    assert model.validation_scores_[-1] == model.score(*data)
    plain = clone(model).set_params(validation=None).fit(X[train], LABELS[train])
    np.testing.assert_array_equal(plain.coefs_[0], model.coefs_[0])

    model.set_params(early_stopping=True, tol=0.02, n_iter_no_change=2).fit(X[train], LABELS[train])
    assert model.n_iter_ < 40
    assert model.score(*data) == model.best_validation_score_ == max(model.validation_scores_)

    weighted = clone(model).set_params(validation=(*data, WEIGHTS[held])).fit(X[train], LABELS[train])
    assert weighted.score(*data, WEIGHTS[held]) == weighted.best_validation_score_
    with pytest.raises(ValueError, match=r"must be \(X, y\) or \(X, y, sample_weight\), got 1"):
        clone(model).set_params(validation=(X,)).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"classes \[11\] that y has not"):
        model.set_params(validation=(X[:1], [11])).fit(X, LABELS)
    regressor = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, validation=(XR, YR)).fit(XR, YR)
    assert regressor.validation_scores_[-1] == regressor.score(XR, YR)


def test_class_weight():
    y = np.where(LABELS == 3, "three", "other")
    model = MLPClassifier((8,), max_iter=5, random_state=0)
    weights = np.where(LABELS == 3, 4.0, 0.5)
    model.fit(X, y, weights * WEIGHTS)
    weighted = clone(model).set_params(class_weight={"three": 4.0, "other": 0.5}).fit(X, y, WEIGHTS)
    np.testing.assert_allclose(weighted.coefs_[0], model.coefs_[0])

    weights = np.where(LABELS == 3, 150 / (LABELS == 3).sum(), 150 / (LABELS != 3).sum())
    balanced = clone(model).set_params(class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(balanced.coefs_[0], model.fit(X, y, weights).coefs_[0])

    with pytest.raises(ValueError, match="needs all examples at once"):
        balanced.partial_fit(X, y)
    with pytest.raises(ValueError, match="class_weight"):
        model.set_params(class_weight={"tree": 2.0}).fit(X, y)
    labels = [{0: 1.0, 1: 2.0}] * YM.shape[1]
    factors = (2.0**YM).prod(axis=1)
    model = MLPClassifier((8,), max_iter=5, random_state=0)
    expected = clone(model).fit(XM, YM, factors).coefs_[0]
    np.testing.assert_allclose(model.set_params(class_weight=labels).fit(XM, YM).coefs_[0], expected)


@pytest.mark.parametrize("keys", [(False, True), (0, 1), (0.0, 1.0), (np.int8(0), np.True_)])
@pytest.mark.parametrize("dtype", [bool, int, float])
def test_keys_of_class_weight(keys, dtype):
    y = (LABELS > 6).astype(dtype)
    model = MLPClassifier((4,), max_iter=2, random_state=0)
    expected = clone(model).fit(X, y, np.where(LABELS > 6, 5.0, 1.0))
    model.set_params(class_weight=dict(zip(keys, (1.0, 5.0), strict=True))).fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=30, max_size=30).filter(any))
def test_balanced_class_weight_with_sample_weight(weights):
    weights, labels = np.array(weights), LABELS[:30] % 3
    model = MLPClassifier((), class_weight="balanced")
    model._prepare(X[:30], labels, None)
    found = model._weights(np.eye(3, dtype=bool)[labels], weights)
    totals = np.bincount(labels, found, minlength=3)
    present = np.bincount(labels, weights, minlength=3) > 0
    np.testing.assert_allclose(totals[present], weights.sum() / present.sum())
    assert not totals[~present].any()


WRONG_CLASS_WEIGHTS = [
    (LABELS, [{0: 2.0}], "a list of dicts is for multilabel"),
    (LABELS, {"0": 2.0}, r"has \['0'\], which are not in classes"),
    (LABELS, {0: -1.0}, r"class_weight\[0\] must be 0 or more"),
    (LABELS, {0: np.nan}, r"class_weight\[0\] must be 0 or more"),
    (np.eye(10)[LABELS] + np.eye(10)[LABELS - 1], {0: 2.0}, "a list of 10 dicts"),
    (np.eye(10)[LABELS] + np.eye(10)[LABELS - 1], [{0: 2.0}], "a list of 10 dicts"),
]


@pytest.mark.parametrize(("y", "given", "message"), WRONG_CLASS_WEIGHTS)
def test_wrong_class_weights(y, given, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier((4,), max_iter=1, class_weight=given).fit(X, y)


WRONG_WEIGHTS = [
    (WEIGHTS.astype(str), "must be numbers"),
    (WEIGHTS.astype(str).astype(object), "must be numbers"),
    ((1e6 * WEIGHTS).astype("M8[s]"), "must be numbers"),
    (WEIGHTS.astype([("weight", float)]), "must be numbers"),
    (WEIGHTS + 0j, "must be numbers"),
    (np.ma.array(WEIGHTS, mask=WEIGHTS > 0.9), r"sample_weight has \d+ masked values"),
    (np.full(300, 1e308), "finite sum"),
]


@pytest.mark.parametrize(("weights", "message"), WRONG_WEIGHTS)
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPEnsembleClassifier", "StackSearchCV"])
def test_sample_weights_are_finite_numbers(name, weights, message):
    model = small(name)
    with pytest.raises((TypeError, ValueError), match=message):
        model.fit(X, LABELS, sample_weight=weights)
    with pytest.raises((TypeError, ValueError), match=message):
        MLPClassifier((4,), validation=(X, LABELS, weights)).fit(X, LABELS)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPEnsembleRegressor", "StackSearchCV"])
def test_masked_values_are_refused(name):
    model, inputs, y = small(name), np.ma.array(X), np.ma.array(LABELS)
    model.fit(inputs, y)
    inputs[2, 3] = np.ma.masked
    y[5] = np.ma.masked
    with pytest.raises(ValueError, match="X has 1 masked value;"):
        model.predict(inputs)
    for data, message in (
        ((inputs, LABELS), "X has 1 masked"),
        ((list(inputs), LABELS), "X has 1 masked"),
        ((X, y), "y has 1 masked"),
    ):
        with pytest.raises(ValueError, match=message):
            small(name).fit(*data)
        with pytest.raises(ValueError, match=message):
            small(name, validation=data).fit(X, LABELS)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MLPClassifier", {}),
        ("MLPClassifier", {"early_stopping": True, "dropout": 0.1}),
        ("MLPClassifier", {"solver": "lbfgs", "activations": [["tanh", "gelu", "relu", "relu"]]}),
        ("MLPRegressor", {"loss": "poisson"}),
        ("MLPRegressor", {"cost": "huber", "solver": "sgd"}),
        ("MLPEnsembleClassifier", {"activation": "logistic"}),
        ("MLPEnsembleRegressor", {}),
        ("StackSearchCV", {"activations": "swish"}),
    ],
)
def test_dumped_and_loaded_by_skops(name, options):
    skops = pytest.importorskip("skops.io")
    model = small(name, random_state=0, **options).fit(X, LABELS)
    data = skops.dumps(model)
    loaded = skops.loads(data, trusted=skops.get_untrusted_types(data=data))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    for again in (loaded, model):
        again.fit(X, LABELS)
        if hasattr(again, "partial_fit") and not options.get("early_stopping"):
            again.partial_fit(X, LABELS)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_activations():
    model = MLPClassifier((6, 5), max_iter=2, activations=["gelu", "logistic"], random_state=0)
    model.fit(X, LABELS)
    names = [σ.name for σ in model.network_.activations]
    assert names == ["gelu", "sigmoid", "softmax"]
    model.set_params(activations=["tanh", bp.Activation("sine", np.sin, np.cos), "sigmoid"])
    model.fit(X, LABELS)
    assert [σ.name for σ in model.network_.activations] == ["tanh", "sine", "sigmoid"]
    assert (model.out_activation_, model.network_.cost.name) == ("logistic", "binary_cross_entropy")
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert model.set_params(activations="swish").fit(X, LABELS).network_.activations[1].name == "swish"
    for wrong in (["tanh"], ["tanh"] * 4):
        with pytest.raises(ValueError, match=r"takes 2, one for each hidden layer, or 3"):
            model.set_params(activations=wrong).fit(X, LABELS)


@pytest.mark.parametrize(("name", "synonym"), [("logistic", "sigmoid"), ("identity", "linear")])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_the_names_of_networks_are_known(name, synonym, hidden):
    settings = {"hidden_layer_sizes": hidden, "max_iter": 2, "random_state": 0}
    models = [MLPClassifier(activation=σ, **settings).fit(X, LABELS) for σ in (name, synonym)]
    assert_alike(*models)
    assert models[0].out_activation_ == models[1].out_activation_
    assert type(models[1].out_activation_) is str


def test_converters_find_no_other_activations_than_the_parameter():
    table = {"logistic": "Sigmoid", "softmax": "Softmax"}  # as converters to ONNX have
    model = MLPClassifier((6, 5), max_iter=1, activations=["tanh", "relu"]).fit(X, LABELS)
    with pytest.raises(TypeError, match=r"network_\.activations"):
        table[model.out_activation_]
    for options in ({"activations": ["relu", "relu"]}, {"activations": None}):
        assert table[model.set_params(**options).fit(X, LABELS).out_activation_] == "Softmax"


def test_activations_start_as_those_of_scikit_learn():
    models = pair("classes", activation="logistic", hidden_layer_sizes=(5, 4))
    models[1].set_params(activation="relu", activations=["sigmoid", "sigmoid"])
    for model in models:
        model.fit(X, LABELS)
    assert_alike(*models)


@pytest.mark.parametrize(
    ("cost", "out"), [("quadratic", "softmax"), ("binary_cross_entropy", "logistic")]
)
def test_cost_of_a_classifier(cost, out):
    model = MLPClassifier((16,), cost=cost, max_iter=60, learning_rate_init=0.02, random_state=0).fit(
        X, LABELS
    )
    assert (model.network_.cost.name, model.out_activation_) == (cost, out)
    assert model.score(X, LABELS) > 0.9
    expected = model.network_.evaluate(X.T, np.eye(10)[LABELS].T)["cost"]
    assert abs(expected - model.loss_) < 0.05 * expected
    MLPClassifier((4,), cost="quadratic", max_iter=2).fit(X, LABELS == 3)


def test_cost_of_a_regressor():
    model = MLPRegressor(hidden_layer_sizes=(16,), cost="huber", max_iter=30, random_state=0).fit(XR, YR)
    assert model.network_.cost.name == "huber"
    assert np.isfinite(model.loss_)
    local = bp.Cost("custom", lambda a, y: ((a - y) ** 4).sum(axis=-2), lambda a, y: 4 * (a - y) ** 3)
    MLPRegressor(hidden_layer_sizes=(4,), cost=local, max_iter=2).fit(XR, YR)
    with pytest.raises(ValueError, match="Did you mean 'huber'"):
        model.set_params(cost="hubert").fit(XR, YR)
    with pytest.raises(ValueError, match="targets of 0 or more, got -"):
        MLPRegressor(loss="poisson").fit(XR, YR)


def test_dropout():
    model = MLPClassifier((32,), dropout=0.5, max_iter=5, random_state=0).fit(X, LABELS)
    assert model.network_.dropout == (0.0, 0.5)
    again = clone(model).fit(X, LABELS)
    np.testing.assert_array_equal(again.coefs_[0], model.coefs_[0])
    plain = clone(model).set_params(dropout=0.0).fit(X, LABELS)
    assert np.abs(plain.coefs_[0] - model.coefs_[0]).max() > 1e-4
    assert clone(model).set_params(dropout=[0.1, 0.0]).fit(X, LABELS).network_.dropout == (0.1, 0.0)
    with pytest.raises(ValueError, match="dropout needs solver='sgd' or 'adam'"):
        model.set_params(solver="lbfgs").fit(X, LABELS)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_max_norm(solver):
    model = MLPClassifier((8,), solver=solver, max_norm=0.4, max_iter=5, random_state=0)
    model.fit(X, LABELS)
    for w in model.coefs_:
        assert np.linalg.norm(w, axis=0).max() <= 0.4 * (1 + 1e-12)
    with pytest.raises(ValueError, match="max_norm needs solver"):
        model.set_params(solver="lbfgs").fit(X, LABELS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["classes", "labels", "counts"])
def test_another_backend(kind, solver, weighted):
    _, X, y = DATA[kind]
    _, model = pair(kind, solver=solver, max_iter=3, early_stopping=True)
    other = clone(model).set_params(backend="array_api_strict")
    weights = WEIGHTS[: len(X)] if weighted else None
    model.fit(X, y, weights)
    other.fit(X, y, weights)
    assert other.network_.backend.name == "array_api_strict"
    assert type(other.coefs_[0]) is np.ndarray
    np.testing.assert_allclose(other.coefs_[0], model.coefs_[0], 1e-7)
    np.testing.assert_allclose(other.predict(X), model.predict(X), 1e-7)
    other.coefs_[0] = 0 * other.coefs_[0]
    assert float(other.network_.backend.xp.sum(other.network_.weights[0])) == 0.0
    loaded = pickle.loads(pickle.dumps(other))
    np.testing.assert_allclose(loaded.predict(X), other.predict(X))
    if solver != "lbfgs":
        loaded.set_params(early_stopping=False).partial_fit(X, y)


def test_device():
    model = MLPClassifier((4,), max_iter=1)
    for device in (None, "cpu"):
        model.set_params(device=device).fit(X, LABELS)
    with pytest.raises(ValueError, match="NumPy computes on the CPU"):
        model.set_params(device="cuda").fit(X, LABELS)
    import array_api_strict

    device = array_api_strict.Device("device1")
    model.set_params(backend="array_api_strict", device=device).fit(X, LABELS)
    assert model.network_.backend.device == device
    assert model.predict(X).shape == (300,)

    class Custom(bp.backends.ArrayAPIBackend):
        pass

    with pytest.raises(ValueError, match="can't be moved to a device"):
        model.set_params(backend=Custom(array_api_strict, name="custom")).fit(X, LABELS)


def test_errors_of_parameters():
    for options, match in [
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be > 0"),
        ({"solver": "rmsprop"}, "'solver' parameter"),
        ({"dropout": 1.5}, "'dropout' parameter"),
        ({"backend": "nump"}, "Did you mean 'numpy'"),
        ({"dtype": "float16"}, "float16"),
    ]:
        with pytest.raises(ValueError, match=match):
            MLPClassifier(**options).fit(X, LABELS)
    with pytest.raises(AttributeError, match="partial_fit"):
        MLPClassifier(solver="lbfgs").partial_fit(X, LABELS)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping"):
        MLPRegressor(early_stopping=True).partial_fit(XR, YR)
    with pytest.warns(UserWarning, match="Got `batch_size`"):
        MLPRegressor(batch_size=1000, max_iter=1).fit(XR, YR)


def test_a_batch_without_weight_is_no_step():
    weights = np.r_[np.ones(30), np.zeros(30)]
    options = {"shuffle": False, "batch_size": 30, "max_iter": 4, "random_state": 0}
    model = MLPClassifier((4,), **options).fit(X[:60], LABELS[:60] % 2, weights)
    without = MLPClassifier((4,), **options).fit(X[:30], LABELS[:30] % 2)
    np.testing.assert_allclose(model.coefs_[0], without.coefs_[0])


def test_sample_weight_by_routing():
    with sklearn.config_context(enable_metadata_routing=True):
        network = MLPClassifier((8,), max_iter=3, random_state=0).set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        model = make_pipeline(scaler, network).fit(X, LABELS, sample_weight=WEIGHTS)
    scaled = StandardScaler().fit_transform(X)
    expected = clone(network).fit(scaled, LABELS, WEIGHTS).predict_proba(scaled)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_shown_in_a_notebook():
    model = MLPClassifier((8,), max_iter=3, dropout=0.1)
    assert "dropout" in model._repr_html_()
    assert "dropout" in model.fit(X, LABELS)._repr_html_()
    assert repr(model) == "MLPClassifier(dropout=0.1, hidden_layer_sizes=(8,), max_iter=3)"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "classes",
    [["b"], ["b", "a"], [True, False], [2.0, -1.0], ["c", "a", "b"], [3, 1, 2], [(0, 0, 1), (1, 1, 0)]],
    ids=str,
)
def test_predicted_classes_are_those_of_the_label_binarizer(classes, dtype):
    rng = np.random.default_rng(0)
    y = np.array([classes[i % len(classes)] for i in range(12)])
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model = MLPClassifier((3,), max_iter=1, random_state=0).fit(rng.random((12, 2)), y)
    outputs = rng.random((20, model.n_outputs_)).astype(dtype)
    outputs[:2], outputs[2] = 0.5, np.nan
    single = outputs.ravel() if model.n_outputs_ == 1 else outputs
    with np.errstate(invalid="ignore"):
        expected = model._label_binarizer.inverse_transform(single)
    found = model._labels(outputs)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_many_threads_predict_at_once():
    model = MLPClassifier((16,), max_iter=2, random_state=0).fit(X, LABELS)
    expected = model.predict_proba(X)
    found = joblib.Parallel(4, "threading")([joblib.delayed(model.predict_proba)(X)] * 20)
    for probabilities in found:
        np.testing.assert_array_equal(probabilities, expected)


def test_quiet_when_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = partial(MLPClassifier((8,), tol=0.5, max_iter=100).fit, X, LABELS)
        assert fit().n_iter_ < 100


NUMERIC = ["alpha", "learning_rate_init", "power_t", "tol", "momentum", "validation_fraction"]
NUMERIC += ["beta_1", "beta_2", "epsilon", "max_norm", "dropout", "max_iter", "max_fun"]


@pytest.mark.parametrize("parameter", NUMERIC)
def test_parameters_are_numbers_that_float64_holds(parameter):
    for value in (10**400, -(10**400), float("nan"), 1j, "7", Decimal("0.5"), np.array(["a"])):
        for name in ("MLPClassifier", "MLPRegressor", "MLPEnsembleClassifier"):
            with pytest.raises((TypeError, ValueError), match=rf"\b{parameter}\b"):
                small(name, solver="sgd", **{parameter: value}).fit(X, LABELS)
        with pytest.raises((TypeError, ValueError), match=rf"\b{parameter}\b"):
            small("MLPRegressor", **{parameter: value}).partial_fit(X, LABELS)
