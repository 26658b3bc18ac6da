"""Files that the version before this layout has written: networks, checkpoints and pickles of before."""

from __future__ import annotations

import importlib
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

import bpengine as bp

HERE = Path(__file__).with_name("before")


def data():
    """X (3, 40), labels (40,), and inputs (3, 6) to predict from."""
    rng = np.random.default_rng(2024)
    X = rng.standard_normal((3, 40))
    labels = (X[0] * X[1] + 0.3 * X[2] > 0).astype(int)
    return X, labels, rng.standard_normal((3, 6))


X, LABELS, NEW = data()
VALIDATION = X[:, :10], LABELS[:10]


def expected(name):
    return np.load(HERE / f"{name}.npy")


def close(found, wanted, dtype="float64"):
    """To the rounding of other processors' BLAS kernels."""
    np.testing.assert_allclose(found, wanted, 1e-5 if dtype == "float32" else 1e-9, 1e-12)


@pytest.mark.parametrize("file", sorted(p.name for p in HERE.glob("network_*.[ns][pa][zf]*")))
def test_networks_in_files(file):
    net = bp.load(HERE / file)
    close(net.feedforward(NEW), expected(f"{Path(file).stem}_feedforward"), "float32")


# of every run the options of the network, and those of fit: functions, since callbacks have a state
RUNS = {
    "momentum": (lambda: {}, lambda: {"optimizer": bp.SGD(0.3, momentum=0.9)}),
    "adam_averaging": (lambda: {"l2": 1e-3}, lambda: {"optimizer": bp.Adam(0.02, averaging=0.9)}),
    "schedule": (
        lambda: {"dropout": 0.25},
        lambda: {
            "optimizer": bp.RMSprop(
                bp.schedules.WarmUp(bp.schedules.Cosine(0.05, epochs=5), epochs=1.5)
            ),
            "monitor": "epoch",
            "validation": VALIDATION,
        },
    ),
    "early_stopping": (
        lambda: {"rng": 6},
        lambda: {
            "optimizer": bp.SGD(2.0, momentum=0.8, nesterov=True),
            "validation": 0.25,
            "callbacks": [bp.EarlyStopping(patience=2, min_delta=0.1)],
        },
    ),
    # network 0 has stopped when the checkpoint is written
    "stack_stopped": (
        lambda: {"stack": 3, "rng": [1, 2, 3], "dropout": 0.1},
        lambda: {
            "optimizer": bp.SGD([1e-9, 0.5, 2.0], momentum=0.5),
            "validation": VALIDATION,
            "callbacks": [bp.EarlyStopping(patience=1, min_delta=1e-6)],
        },
    ),
    # here it has been left out of the third epoch's steps too
    "stack_narrowed": (
        lambda: {"stack": 3, "rng": [1, 2, 3]},
        lambda: {
            "optimizer": bp.Adam([1e-9, 0.02, 0.05], averaging=0.8),
            "callbacks": [bp.EarlyStopping(patience=1, min_delta=1e-6)],
        },
    ),
    "dpsgd": (
        lambda: {},
        lambda: {
            "optimizer": bp.DPSGD(0.5, noise_multiplier=0.8, max_norm=1.0, momentum=0.5, delta=None)
        },
    ),
}
BEST_EPOCHS = {"early_stopping": 3, "stack_stopped": [1, 4, 2], "stack_narrowed": [1, 4, 4]}


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_is_resumed(name):
    path = HERE / f"checkpoint_{name}.npz"
    assert bp.load(path).sizes == (3, 5, 2)
    options, training = RUNS[name]
    settings = {"backend": "numpy", "dtype": "float64", "rng": 11, **options()}
    net, straight = (
        bp.Network([3, 5, 2], ["tanh", "sigmoid"], "binary_cross_entropy", **{**settings, **options()})
        for _ in range(2)
    )
    common = {"epochs": 4, "batch_size": 8, "progress": False}
    net.fit(X, LABELS, resume=path, **common, **training())
    if name == "stack_stopped":  # version 0.1 mixed up the networks' rates when a second one stopped
        straight.fit(X, LABELS, **common, **training())
        close(net.vector, straight.vector)
    else:
        close(net.vector, expected(f"checkpoint_{name}_final"))
    if name in BEST_EPOCHS:
        np.testing.assert_array_equal(net.history.best_epoch, BEST_EPOCHS[name])


# of every module of before what pickles refer to: of the files beside this one, and of others' objects
NAMES = {
    "activations": "Activation PerNeuron resolve",
    "backends.array_api": "_restore",
    "backends.numba": "NumbaBackend",
    "backends.numpy": "NumPyBackend",
    "book.costs": "CrossEntropyCost QuadraticCost",
    "book.network": "Network",
    "book.network2": "Network",
    "callbacks": "CSVLog Callback Checkpoint EarlyStopping Function JSONLinesLog Progress",
    "checking": "GradientCheck WorstEntry",
    "costs": "Cost resolve",
    "curvature": "Curvature",
    "distributed": "DataParallel",
    "estimators.classifier": "MLPClassifier",
    "estimators.ensembles": "MLPEnsembleClassifier MLPEnsembleRegressor",
    "estimators.losses": "Loss",
    "estimators.regressor": "MLPRegressor",
    "estimators.search": "StackSearchCV",
    "estimators.steps": "HatAdam Steps",
    "history": "History Statistics",
    "members": "Ensemble",
    "network": "Network",
    "optimizers": "Adagrad Adam AdamW LBFGS RMSprop SGD",
    "parameters": "Gradient Parameters Views",
    "per_example_plans": "ExampleNorms",
    "private": "DPSGD",
    "regularization": "Dropout",
    "schedules": "Constant Cosine Function InverseScaling OnPlateau StepDecay WarmUp",
    "workspace": "Workspace",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_in_pickles_are_found(module):
    if module.startswith("estimators"):
        pytest.importorskip("sklearn")
    if module == "backends.numba":
        pytest.importorskip("numba")
    found = importlib.import_module(f"bpengine.{module}")
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def unpickled(name):
    with warnings.catch_warnings():
        # a fitted estimator of another version of scikit-learn
        warnings.filterwarnings("ignore", "Trying to unpickle")
        return pickle.loads((HERE / f"pickle_{name}.pkl").read_bytes())


def test_pickled_networks():
    nets = unpickled("networks")
    assert sorted(nets) == ["f32", "f64", "fitted", "fitted stack", "stack"]
    for name in ("f32", "f64", "stack"):
        close(nets[name].feedforward(NEW), expected(f"network_{name}_feedforward"), "float32")
    assert (nets["f64"].l1, nets["f64"].l2, nets["f64"].label_smoothing) == (1e-3, 1e-2, 0.1)
    for name in ("fitted", "fitted stack"):
        net = nets[name]
        assert np.isfinite(net.evaluate(X, LABELS)["cost"]).all()
        epochs = len(net.history.cost)
        net.fit(X, LABELS, epochs=1, progress=False)
        assert epochs > 1 and len(net.history.cost) == 1


def test_pickled_networks_on_other_backends():
    pytest.importorskip("numba")
    pytest.importorskip("array_api_strict")
    for net in unpickled("backends").values():
        found = net.feedforward(net.backend.asarray(NEW, net.dtype))
        close(net.backend.to_numpy(found), expected("network_f32_feedforward"), "float32")


def test_pickled_settings_train():
    """Optimizers and schedules of before take the steps that those made today take."""
    settings = unpickled("settings")
    assert repr(settings["optimizers"]["AdamW"]) == repr(
        bp.AdamW(bp.schedules.Cosine(0.01, epochs=9), weight_decay=0.1)
    )
    for name, optimizer in settings["optimizers"].items():
        stack = 2 if name == "SGD of a stack" else None
        net = bp.Network([3, 4, 2], backend="numpy", rng=0, stack=stack)
        net.fit(X, np.eye(2)[LABELS].T, epochs=2, optimizer=optimizer, progress=False)
    for name, schedule in settings["schedules"].items():
        assert np.isfinite(schedule.rate(1.5, [1.0])), name
    for name, activation in settings["activations"].items():
        sizes = [3, 4, 5] if name == "per neuron" else [3, 4]
        activations = [activation, "linear"] if name == "per neuron" else activation
        net = bp.Network(sizes, activations, backend="numpy", dtype="float64", rng=0)
        assert bp.check_gradient(net, X, np.full((sizes[-1], 40), 0.25)).passed, name
    assert settings["costs"].pop("own").function is np.hypot
    for name, cost in settings["costs"].items():
        outputs = {"softmax_cross_entropy": "softmax"}.get(name, "sigmoid")
        net = bp.Network([3, 2], outputs, cost, backend="numpy", dtype="float64", rng=0)
        assert np.isfinite(net.backprop(X, np.eye(2)[LABELS].T).vector).all(), name


def test_pickled_callbacks(tmp_path, monkeypatch):
    callbacks = unpickled("callbacks")
    assert sorted(type(callback).__name__ for callback in callbacks.values()) == sorted(
        [
            "EarlyStopping",
            "Checkpoint",
            "CSVLog",
            "JSONLinesLog",
            "EarlyStopping",
            "CSVLog",
            "Checkpoint",
        ]
    )
    monkeypatch.chdir(tmp_path)  # where the logs and the checkpoint are written
    for name, callback in callbacks.items():
        net = bp.Network([3, 2], backend="numpy", rng=0)
        net.fit(X, np.eye(2)[LABELS].T, epochs=2, progress=False, callbacks=[callback])
        assert len(net.history.cost) == 2, name


def test_pickled_results():
    found = unpickled("results")
    net = unpickled("networks")["f64"]
    close(found["Gradient"].vector, net.backprop(X, LABELS).vector)
    close(found["ExampleNorms"].total, net.backprop(X, LABELS, per_example="norms").total)
    assert found["GradientCheck"].passed and str(found["GradientCheck"]).startswith("passed")
    assert len(found["History"].cost) == 3 and len(found["History"].validation_cost) == 3
    assert "cost" in found["History of a stack"].as_dict()
    assert np.isfinite(found["Ensemble"].mean).all()


@pytest.mark.parametrize("name", ["classifier", "regressor", "ensemble"])
def test_pickled_estimators(name):
    pytest.importorskip("sklearn")
    estimator = unpickled(name)
    predict = estimator.predict if name == "regressor" else estimator.predict_proba
    close(predict(NEW.T), expected(f"pickle_{name}_output"))
