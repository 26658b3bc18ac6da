"""Public calls in which one argument is replaced by a wrong one: the error must name the argument."""

import importlib
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import chdir, suppress
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import bpengine as bp
from bpengine import book, datasets, distributed, estimators, plots, schedules
from fuzz import Finding

RIGHT = (TypeError, ValueError, OSError, MemoryError, ImportError, IndexError)
NAN = float("nan")
SHAPES: list[Any] = [(), 0, 1, 5, (0, 3), (3, 0), (2, 3, 4), (1, 1, 1, 1), (5, 3)]
DTYPES = ["complex128", "bool", "int64", "M8[s]", "S3", "float16", "f2,i4"]
# numbers that are too large for a size are beyond 2**63: smaller ones are right, but take for ever
WRONG: list[Any] = [
    *(None, "", "abc", b"x", "a\0b", "\ud800", True, -1, 0, 0.5, -0.5, 1j, 2**63, 10**400),
    *(NAN, float("inf"), -float("inf"), 1e308, 5e-324, Decimal("0.5"), Decimal("NaN"), Fraction(1, 3)),
    *([], {}, (), set(), [None], ["a", "b"], [[1.0], [1.0, 2.0]], [NAN, 1]),
    *([10**400, 1], [2**62, 2**62]),
    *({0: None}, {"a": 1}, {None: 5}, range(3), object(), len, bp.SGD, Path("/proc/nothing/here")),
    *(np.float32(NAN), np.uint8(200), np.datetime64("2020-01-01"), np.str_("a"), bytearray(b"12")),
    *map(np.array, ("text", 0.5, None, [None, None], ["a"], 2**63, [1 + 2j, 0], [NAN, 1])),
    *map(np.zeros, SHAPES),
    *(np.zeros((3, 4), dtype) for dtype in DTYPES),
    *(np.full((3, 4), NAN), np.ma.masked_array([1.0, 2.0], [True, False]), memoryview(b"1234")),
    *(lambda *arguments: None, lambda *arguments: "text", bp.History()),
    *(bp.Network([3, 4, 2], rng=0), bp.Network([3, 2], stack=2, rng=0)),
]
for library in ("array_api_strict", "jax.numpy", "torch"):
    with suppress(ImportError):
        xp = importlib.import_module(library)
        WRONG += [
            xp.zeros((3, 4)),
            xp.ones((4,)),
            xp.asarray(0.5),
            xp.full((3, 4), NAN),
            xp.asarray([0, 1]),
        ]
# arguments that are not replaced by a number
SIZES = {"epochs", "max_iter", "examples", "n_estimators", "sizes", "hidden_layer_sizes", "resolution"}
PATHS = {"path", "filename", "folder", "resume"}
# their names in messages
ALSO = {
    "model": "network",
    "activations": "activation",
    "name": "entry",
    "hidden_layer_sizes": "sizes",
    "classes": "labels",
    "training_data": "one network",
    "values": "parameters",
    "l": "layer",
    "learning_rate_init": "non-finite parameter weights",
    "sample_weight": "non-finite parameter weights",  # as scikit-learn says
}


def calls(folder: Path) -> tuple[list[bp.Network], list[partial[Any]]]:
    """Networks that no failing call may change, and right calls by keywords."""
    rng = np.random.default_rng(0)
    X, Y, labels, w = rng.random((3, 4)), rng.random((2, 4)), np.array([0, 1, 1, 0]), np.ones(4)
    net, nets = bp.Network([3, 4, 2], rng=0), bp.Network([3, 4, 2], stack=2, rng=0)
    small: Any = {"epochs": 1, "progress": False}
    history = net.fit(X, Y, validation=(X, Y), monitor=1, **small)
    nets.fit(X, Y, **small)
    curvature, check, plan = bp.Curvature(net, X, Y), bp.check_gradient(net, X, Y), net.plan(4)
    plan.load(X, Y)
    path, json = folder / "net.npz", folder / "net.json"
    net.save(path)
    nielsen, pairs = book.Network([3, 2]), [(X[:, :1], Y[:, :1]), (X[:, 1:2], Y[:, 1:2])]
    nielsen.save(json)
    weights: Any = {"sample_weight": w, "class_weight": None, "shuffle": True}
    batches: Any = {"batch_size": 2, "optimizer": bp.SGD(), **weights}
    more: Any = {"validation": (X, Y), "monitor": 1, "resume": None, "comm": None, **batches, **small}
    more["callbacks"] = [bp.EarlyStopping()]
    shared: Any = {"clip_norm": 1.0, "weight_decay": 0.0, "max_norm": 1.0, "averaging": 0.5}
    options: Any = {"dropout": 0.1, "l1": 0.0, "l2": 0.0, "label_smoothing": 0.0, "initial_scale": 1.0}
    options |= {"backend": "numpy", "device": None, "precision": None, "stack": None, "rng": 0}
    data: Any = {"network": net, "X": X, "Y": Y}
    step: Any = {"epochs": 1, "mini_batch_size": 2, "eta": 0.1}
    function: Any = {
        "name": "custom",
        "function": np.add,
        "derivative": np.add,
    }
    mlp: Any = {"hidden_layer_sizes": (2,), "activation": "relu", "alpha": 0.1, "batch_size": 2}
    mlp |= {"learning_rate_init": 0.1, "max_iter": 1, "random_state": 0, "tol": 1e-4, "dropout": 0.1}
    return [net, nets], [
        partial(bp.Network, sizes=[3, 4, 2], activations="tanh", cost="quadratic", **options),
        partial(bp.Network, sizes=[3, 2], dtype="float32", initializer="he_normal"),
        partial(net.fit, X=X, Y=Y, **more),
        partial(net.fit, X=X, Y=labels, **more | {"class_weight": "balanced"}),
        partial(nets.fit, X=X, Y=Y, **more),
        partial(net.fit, X=X, Y=Y, optimizer=bp.LBFGS(), **small),
        partial(net.partial_fit, X=X, Y=Y, **batches),
        partial(nets.partial_fit, X=X, Y=Y, **batches),
        partial(_set, net.weights, l=0, values=X.T),
        partial(_set, nets[0].biases, l=0, values=0.5),
        partial(net.backprop, X=X, Y=Y, sample_weight=w),
        partial(net.backprop, X=X, Y=Y, sample_weight=None, per_example="clip", max_norm=1.0),
        partial(net.feedforward, X=X),
        partial(net.predict, X=X),
        partial(net.evaluate, X=X, Y=Y, sample_weight=w),
        partial(net.plan, batch_size=4, optimizer=bp.SGD(), per_example=None, max_norm=None),
        partial(bp.Plan, model=net, batch_size=4, optimizer=None, weighted=False, per_network=()),
        partial(plan.load, X=X, Y=Y, sample_weight=None),
        partial(plan.run, steps=1),
        partial(net.astype, dtype="float64"),
        partial(net.to, backend="numpy", device=None, precision=None),
        partial(net.save, path=path),
        partial(nets.best, metric="cost"),
        partial(nets.ensemble, X=X),
        partial(bp.load, path=path, activations=None, cost=None, backend=None),
        partial(bp.stack, networks=[net, net]),
        partial(bp.one_hot, labels=labels, classes=3, dtype="float32"),
        partial(bp.check_gradient, **data, sample_weight=w, epsilon=1e-5, tolerance=None),
        partial(bp.numerical_gradient, **data, sample_weight=w, epsilon=1e-5, two_sided=True),
        partial(bp.jacobians, network=net, X=X),
        partial(bp.input_gradients, **data),
        partial(bp.per_example_gradients, **data, chunk=2),
        partial(bp.Curvature, **data, sample_weight=w),
        partial(curvature.hessian_vector, v=net.vector),
        partial(curvature.gauss_newton_vector, v=net.vector),
        partial(curvature.top_eigenvalue, matrix="hessian", tolerance=1e-3),
        partial(bp.Activation, **function, second_derivative=None, of="z", range=(0.0, 9.0)),
        partial(bp.Cost, **function, canonical=None, function_of_z=None, within=(0.0, 1.0)),
        partial(bp.SGD, learning_rate=0.1, momentum=0.5, nesterov=False, **shared),
        partial(bp.Adam, learning_rate=0.1, beta_1=0.9, beta_2=0.9, epsilon=1e-8, **shared),
        partial(bp.RMSprop, learning_rate=0.1, decay=0.9, epsilon=1e-8, **shared),
        partial(bp.LBFGS, memory=10, tolerance=1e-5, max_evaluations=100),
        partial(bp.DPSGD, learning_rate=0.1, noise_multiplier=1.0, max_norm=1.0, delta=1e-5),
        partial(bp.privacy_spent, spent=[(0.1, 1.0, 10)], delta=1e-5),
        partial(bp.EarlyStopping, patience=5, min_delta=0.0, monitor="cost", restore=True),
        partial(bp.Checkpoint, path=folder / "run.npz", every=1),
        partial(bp.CSVLog, path=folder / "log.csv"),
        partial(bp.JSONLinesLog, path=folder / "log.jsonl"),
        partial(bp.callbacks.Function, function=print),
        partial(schedules.StepDecay, initial=0.1, factor=0.5, every=2),
        partial(schedules.Cosine, initial=0.1, epochs=5, final=0.0),
        partial(schedules.InverseScaling, initial=0.1, power=0.5),
        partial(schedules.OnPlateau, initial=0.1, factor=0.5, patience=2, min_delta=0.0),
        partial(schedules.WarmUp, after=0.1, epochs=2),
        partial(schedules.Cosine(0.1, 5).rate, epoch=1.0),
        partial(history.__getitem__, name="cost"),
        partial(distributed.DataParallel, comm=SimpleNamespace(rank=0), accumulate=1, timeout=1.0),
        partial(bp.backends.get, backend="numpy", device=None, precision=None),
        partial(datasets.circles, examples=5, inner=0.5, noise=0.1, rng=0),
        partial(datasets.step, examples=5, rng=0),
        partial(datasets.idx, path=folder / "no.idx"),
        partial(datasets.mnist, folder=folder / "no folder", part="train"),
        partial(
            plots.decision_regions, network=bp.Network([2, 2]), X=X[:2], labels=labels, resolution=4
        ),
        partial(plots.first_layer, network=net, shape=(1, 3), neurons=2),
        partial(plots.nudges, network=net, x=X[:, :1], y=Y[:, :1], layer=0, entry=(0, 0), amounts=[0.1]),
        *(
            partial(plot, history=history)
            for plot in (plots.training_curves, plots.norms, plots.saturation)
        ),
        partial(plots.gradient_check, check=check),
        partial(plots.plan, plan=plan),
        partial(plots.throughput, curves={"a": ([1, 2], [3.0, 4.0])}, title=""),
        partial(plots.ratios, ratios={}),
        partial(book.Network, sizes=[3, 2], cost=book.CrossEntropyCost),
        partial(nielsen.feedforward, a=X[:, :1]),
        partial(nielsen.SGD, training_data=pairs, lmbda=0.0, **step),
        partial(book.network.Network([3, 2]).SGD, training_data=pairs, **step),
        partial(nielsen.backprop, x=X[:, :1], y=Y[:, :1]),
        partial(book.load, filename=json, cost=None),
        partial(nielsen.save, filename=json),
        partial(book.vectorized_result, j=2),
        *(
            partial(_fit, kind, method, X=X.T, y=labels, sample_weight=w, **mlp)
            for method in ("fit", "partial_fit")
            for kind in (estimators.MLPClassifier, estimators.MLPRegressor)
        ),
        *(
            partial(_fit, kind, "fit", X=X.T, y=labels, sample_weight=w, n_estimators=2, **mlp)
            for kind in (estimators.MLPEnsembleClassifier, estimators.MLPEnsembleRegressor)
        ),
        partial(_search, X=X.T, y=labels, sample_weight=w, **mlp),
    ]


def _set(views: Any, l: Any, values: Any) -> None:
    before = [np.array(view) for view in views]
    views[l] = values
    for view, array in zip(views, before, strict=True):
        view[...] = array


def _fit(kind: Any, method: str, X: Any, y: Any, sample_weight: Any, **parameters: Any) -> Any:
    warnings.filterwarnings("ignore", message=".*Maximum iterations|.*batch_size")
    estimator = kind(**parameters)
    classes: Any = {"classes": [0, 1]} if "partial" in method and hasattr(kind, "predict_proba") else {}
    return getattr(estimator, method)(X, y, sample_weight=sample_weight, **classes).predict(X)


def _search(X: Any, y: Any, sample_weight: Any, **parameters: Any) -> Any:
    warnings.filterwarnings("ignore", message=".*Maximum iterations|.*batch_size")
    grid = {name: [value] for name, value in parameters.items()}
    search = estimators.StackSearchCV(estimators.MLPClassifier(), grid, cv=2, error_score="raise")
    return search.fit(X, y, sample_weight=sample_weight).predict(X)


def _state(networks: list[bp.Network]) -> list[Any]:
    generators = [rng.bit_generator.state for net in networks for rng in (net.rng, *net.rngs)]
    return [[(net.vector.tobytes(), repr(net.history)) for net in networks], repr(generators)]


def one(rng: np.random.Generator) -> None:
    """One call with one wrong argument."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        networks, table = calls(Path(folder))
        call = table[rng.integers(len(table))]
        argument = sorted(call.keywords)[rng.integers(len(call.keywords))]
        wrong = WRONG[rng.integers(len(WRONG))]
        if argument == "metric" and callable(wrong):  # whose errors are its own
            wrong = "abc"
        if argument in SIZES and not isinstance(wrong, (str, bytes, list)):
            wrong = "abc"
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of names of types
        before, complaint = _state(networks), ""
        try:
            result = call(**{argument: wrong})
            _ = list(result) if isinstance(result, Iterator) else result
        except Exception as error:
            complaint = judge(error, argument, wrong)
            if _state(networks) != before:
                complaint = f"changed the network; {complaint}"
            if complaint:
                last, name = traceback.extract_tb(error.__traceback__)[-1], type(error).__name__
                complaint += f": {name}: {str(error)[:200]} [{Path(last.filename).name}:{last.lineno}]"
        if complaint:
            name = getattr(call.func, "__qualname__", call.func)
            raise Finding(f"{name}({argument}={repr(wrong)[:80]}): {complaint}")


def judge(error: Exception, argument: str, value: Any) -> str:
    """What is wrong with an error; an empty string if nothing is."""
    message = str(error)
    if "sklearn" in traceback.extract_tb(error.__traceback__)[-1].filename:
        return ""
    if isinstance(error, Warning):
        return "a warning in place of an error"
    if not isinstance(error, RIGHT) and not type(error).__module__.startswith("bpengine"):
        return "wrong type"
    if len(message) > 500:
        return f"{len(message)} characters"
    named = bool(re.search(rf"\b({argument}|{ALSO.get(argument, argument)})\b", message))
    if isinstance(value, (str, bytes, Path)) and argument in PATHS:
        named = named or os.fsdecode(value) in message
    return "" if named or isinstance(error, OSError) else f"{argument!r} not named"
