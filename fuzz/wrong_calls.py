"""Public calls in which one argument is replaced by a wrong one: the error must name the argument."""

import inspect
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

import bpengine as bp
from bpengine import book, distributed, estimators, plots, schedules
from fuzz import Finding

RIGHT = (TypeError, ValueError, OSError, MemoryError, ImportError, IndexError)
WRONG: list[Callable[[], Any]] = [
    *(lambda v=v: v for v in (None, "", "abc", b"x", True, -1, 0, 0.5, -0.5, 1j, 2**63, 10**400)),
    *(
        lambda v=v: v
        for v in (float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, "\ud800", "a\0b")
    ),
    *(lambda v=v: v for v in (Decimal("0.5"), Decimal("NaN"), Fraction(1, 3), bp.SGD, len)),
    *(lambda v=v: v for v in ([], {}, (), set(), [None], ["a", "b"], [[1.0], [1.0, 2.0]], [10**400, 1])),
    *(
        lambda v=v: v
        for v in ([2**62, 2**62], {0: None}, {"a": 1}, {None: 5}, [float("nan")] * 2, range(3))
    ),
    *(
        lambda v=v: v
        for v in (np.float32("nan"), np.uint8(200), np.datetime64("2020-01-01"), np.str_("a"))
    ),
    *(lambda v=v: np.array(v) for v in ("text", 0.5, None, [None, None], ["a"], 2**63, [1 + 2j, 0])),
    *(lambda s=s: np.zeros(s) for s in ((), 0, 1, 5, (0, 3), (3, 0), (2, 3, 4), (1, 1, 1, 1), (5, 3))),
    *(
        lambda d=d: np.zeros((3, 4), d)
        for d in ("complex128", "bool", "int64", "M8[s]", "S3", "f2", "f2,i4")
    ),
    lambda: np.full((3, 4), np.nan),
    lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    lambda: iter([1, 2]),
    lambda: object(),
    lambda: lambda *arguments: None,
    lambda: lambda *arguments: "text",
    lambda: bp.Network([3, 4, 2], rng=0),
    lambda: bp.Network([3, 2], stack=2, rng=0),
    lambda: bp.History(),
    lambda: Path("/proc/nothing/here"),
    lambda: bytearray(b"12"),
    lambda: memoryview(b"1234"),
]
# arguments whose large values are right, and would take hours or gigabytes
LARGE = {"epochs", "max_iter", "examples", "n_estimators", "sizes", "hidden_layer_sizes", "resolution"}
# where a wrong argument has another name in the message
ALSO = {"networks": ["network"], "X": ["x"], "model": ["network"]}


def calls(folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Public names with right arguments; `network` and `nets` are what must not change."""
    rng = np.random.default_rng(0)
    X, Y, labels, w = rng.random((3, 4)), rng.random((2, 4)), np.array([0, 1, 1, 0]), np.ones(4)
    net, nets = bp.Network([3, 4, 2], rng=0), bp.Network([3, 4, 2], stack=2, rng=0)
    small: dict[str, Any] = {"epochs": 1, "progress": False}
    history = net.fit(X, Y, validation=(X, Y), monitor=1, **small)
    nets.fit(X, Y, **small)
    curvature, check = bp.Curvature(net, X, Y), bp.check_gradient(net, X, Y)
    plan, path = net.plan(4, bp.SGD(0.1)), folder / "net.npz"
    plan.load(X, Y)
    net.save(path)
    book_net = book.Network([3, 2])
    book_net.save(folder / "book.json")
    pairs = [(x[:, None], y[:, None]) for x, y in zip(X.T, Y.T, strict=True)]
    shared: dict[str, Any] = {"clip_norm": 1.0, "weight_decay": 0.0, "max_norm": 1.0, "averaging": 0.5}
    fit = small | {
        "batch_size": 2,
        "optimizer": bp.SGD(0.1),
        "validation": (X, Y),
        "sample_weight": w,
        "class_weight": None,
        "shuffle": True,
        "callbacks": [bp.EarlyStopping()],
        "monitor": 1,
        "resume": None,
        "comm": None,
    }
    found: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "Network": (
            bp.Network,
            {"sizes": [3, 4, 2], "activations": "tanh", "cost": "quadratic", "backend": "numpy"}
            | {"dtype": "float32", "initializer": "he_normal", "rng": 0, "dropout": 0.1, "l1": 0.0}
            | {"l2": 0.0, "label_smoothing": 0.0, "initial_scale": 1.0, "stack": None}
            | {"device": None, "precision": None},
        ),
        "fit": (net.fit, {"X": X, "Y": Y, **fit}),
        "fit of labels": (net.fit, {"X": X, "Y": labels, **fit, "class_weight": "balanced"}),
        "fit of a stack": (nets.fit, {"X": X, "Y": Y, **fit}),
        "partial_fit": (
            net.partial_fit,
            {"X": X, "Y": Y, "batch_size": 2, "optimizer": bp.SGD(0.1), "sample_weight": w}
            | {"class_weight": None, "shuffle": True},
        ),
        "fit with LBFGS": (net.fit, {"X": X, "Y": Y, "optimizer": bp.LBFGS(), **small}),
        "backprop": (net.backprop, {"X": X, "Y": Y, "sample_weight": w}),
        "backprop per example": (
            net.backprop,
            {"X": X, "Y": Y, "sample_weight": None, "per_example": "clip", "max_norm": 1.0},
        ),
        "feedforward": (net.feedforward, {"X": X}),
        "predict": (net.predict, {"X": X}),
        "evaluate": (net.evaluate, {"X": X, "Y": Y, "sample_weight": w}),
        "plan": (
            net.plan,
            {"batch_size": 4, "optimizer": bp.SGD(0.1), "weighted": False, "per_example": None}
            | {"max_norm": None, "per_network": ()},
        ),
        "Plan": (bp.Plan, {"model": net, "batch_size": 4, "optimizer": None, "weighted": False}),
        "load into a plan": (plan.load, {"X": X, "Y": Y, "sample_weight": None}),
        "run a plan": (plan.run, {"steps": 1}),
        "astype": (net.astype, {"dtype": "float64"}),
        "to": (net.to, {"backend": "numpy", "device": None, "precision": None}),
        "save": (net.save, {"path": path}),
        "best": (nets.best, {"metric": "cost"}),
        "ensemble": (nets.ensemble, {"X": X}),
        "load": (bp.load, {"path": path, "activations": None, "cost": None, "backend": None}),
        "stack": (bp.stack, {"networks": [net, net]}),
        "one_hot": (bp.one_hot, {"labels": labels, "classes": 3, "dtype": "float32"}),
        "check_gradient": (
            bp.check_gradient,
            {"network": net, "X": X, "Y": Y, "sample_weight": w, "epsilon": 1e-5, "two_sided": True}
            | {"tolerance": None},
        ),
        "numerical_gradient": (
            bp.numerical_gradient,
            {"network": net, "X": X, "Y": Y, "sample_weight": w, "epsilon": 1e-5, "two_sided": True},
        ),
        "jacobians": (bp.jacobians, {"network": net, "X": X}),
        "input_gradients": (bp.input_gradients, {"network": net, "X": X, "Y": Y}),
        "per_example_gradients": (
            bp.per_example_gradients,
            {"network": net, "X": X, "Y": Y, "chunk": 2},
        ),
        "Curvature": (bp.Curvature, {"network": net, "X": X, "Y": Y, "sample_weight": w}),
        "hessian_vector": (curvature.hessian_vector, {"v": net.vector}),
        "gauss_newton_vector": (curvature.gauss_newton_vector, {"v": net.vector}),
        "operator": (curvature.operator, {"matrix": "hessian"}),
        "top_eigenvalue": (curvature.top_eigenvalue, {"matrix": "hessian", "tolerance": 1e-3}),
        "Activation": (
            bp.Activation,
            {"name": "square", "function": np.square, "derivative": np.sign, "of": "z"}
            | {"range": (0.0, 9.0), "second_derivative": None},
        ),
        "Cost": (
            bp.Cost,
            {"name": "cubic", "function": np.add, "derivative": np.add, "canonical": None}
            | {"function_of_z": None, "classification": False, "within": (0.0, 1.0)}
            | {"second_derivative": None},
        ),
        "SGD": (bp.SGD, {"learning_rate": 0.1, "momentum": 0.5, "nesterov": False, **shared}),
        "Adam": (
            bp.Adam,
            {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.9, "epsilon": 1e-8, **shared},
        ),
        "RMSprop": (bp.RMSprop, {"learning_rate": 0.1, "decay": 0.9, "epsilon": 1e-8, **shared}),
        "Adagrad": (bp.Adagrad, {"learning_rate": 0.1, "epsilon": 1e-8, **shared}),
        "LBFGS": (bp.LBFGS, {"memory": 10, "tolerance": 1e-5, "max_evaluations": 100}),
        "DPSGD": (
            bp.DPSGD,
            {"learning_rate": 0.1, "noise_multiplier": 1.0, "max_norm": 1.0, "momentum": 0.0}
            | {"weight_decay": 0.0, "averaging": None, "delta": 1e-5, "secure": False},
        ),
        "privacy_spent": (bp.privacy_spent, {"spent": [(0.1, 1.0, 10)], "delta": 1e-5}),
        "EarlyStopping": (
            bp.EarlyStopping,
            {"patience": 5, "min_delta": 0.0, "monitor": "cost", "restore": True},
        ),
        "Checkpoint": (bp.Checkpoint, {"path": folder / "run.npz", "every": 1}),
        "CSVLog": (bp.CSVLog, {"path": folder / "log.csv"}),
        "JSONLinesLog": (bp.JSONLinesLog, {"path": folder / "log.jsonl"}),
        "callbacks.Function": (bp.callbacks.Function, {"function": print}),
        "StepDecay": (schedules.StepDecay, {"initial": 0.1, "factor": 0.5, "every": 2}),
        "Cosine": (schedules.Cosine, {"initial": 0.1, "epochs": 5, "final": 0.0}),
        "InverseScaling": (schedules.InverseScaling, {"initial": 0.1, "power": 0.5}),
        "OnPlateau": (
            schedules.OnPlateau,
            {"initial": 0.1, "factor": 0.5, "patience": 2, "min_delta": 0.0},
        ),
        "WarmUp": (schedules.WarmUp, {"after": 0.1, "epochs": 2}),
        "rate": (schedules.Cosine(0.1, 5).rate, {"epoch": 1.0}),
        "history[…]": (history.__getitem__, {"name": "cost"}),
        "DataParallel": (
            distributed.DataParallel,
            {"comm": SimpleNamespace(rank=0, size=1), "sync_every": 1, "accumulate": 1}
            | {"overlap": True, "timeout": 1.0},
        ),
        "backends.get": (bp.backends.get, {"backend": "numpy", "device": None, "precision": None}),
        "backends.infer": (bp.backends.infer, {"x": X}),
        "circles": (bp.datasets.circles, {"examples": 5, "inner": 0.5, "noise": 0.1, "rng": 0}),
        "step": (bp.datasets.step, {"examples": 5, "rng": 0}),
        "idx": (bp.datasets.idx, {"path": folder / "no.idx"}),
        "mnist": (bp.datasets.mnist, {"folder": folder / "no folder", "part": "train"}),
        "decision_regions": (
            plots.decision_regions,
            {"network": bp.Network([2, 2], rng=0), "X": X[:2], "labels": labels, "resolution": 4},
        ),
        "first_layer": (plots.first_layer, {"network": net, "shape": (1, 3), "neurons": 2}),
        "nudges": (
            plots.nudges,
            {"network": net, "x": X[:, :1], "y": Y[:, :1], "layer": 0, "entry": (0, 0)}
            | {"amounts": [0.1, 0.2]},
        ),
        "training_curves": (plots.training_curves, {"history": history}),
        "norms": (plots.norms, {"history": history}),
        "saturation": (plots.saturation, {"history": history}),
        "plots.gradient_check": (plots.gradient_check, {"check": check}),
        "plots.plan": (plots.plan, {"plan": plan}),
        "throughput": (plots.throughput, {"curves": {"a": ([1, 2], [3.0, 4.0])}, "title": ""}),
        "ratios": (plots.ratios, {"ratios": {}}),
        "book.Network": (book.Network, {"sizes": [3, 2], "cost": book.CrossEntropyCost}),
        "book.feedforward": (book_net.feedforward, {"a": X[:, :1]}),
        "book.SGD": (
            book_net.SGD,
            {"training_data": pairs, "epochs": 1, "mini_batch_size": 2, "eta": 0.1, "lmbda": 0.0},
        ),
        "book.network.SGD": (
            book.network.Network([3, 2]).SGD,
            {"training_data": pairs, "epochs": 1, "mini_batch_size": 2, "eta": 0.1},
        ),
        "book.backprop": (book_net.backprop, {"x": X[:, :1], "y": Y[:, :1]}),
        "book.load": (book.load, {"filename": folder / "book.json", "cost": None}),
        "book.save": (book_net.save, {"filename": folder / "book.json"}),
        "vectorized_result": (book.vectorized_result, {"j": 2}),
    }
    small = {"hidden_layer_sizes": (2,), "max_iter": 1, "random_state": 0, "tol": 1e-4}
    for kind in (estimators.MLPClassifier, estimators.MLPRegressor, estimators.MLPEnsembleClassifier):
        defaults = {k: p.default for k, p in inspect.signature(kind).parameters.items()}
        found[kind.__name__] = (_fitting(kind, X.T, labels), defaults | small)
    state = net, nets, book_net
    return {name: (_unchanged(function, state), given) for name, (function, given) in found.items()}


def _fitting(kind: Any, X: Any, y: Any) -> Callable[..., Any]:
    """A function of an estimator's parameters and of its data."""

    def fit(**given: Any) -> Any:
        warnings.filterwarnings("ignore", message=".*Maximum iterations|.*batch_size")
        return kind(**given).fit(X, y).predict(X)

    return fit


def _unchanged(function: Callable[..., Any], networks: Any) -> Callable[..., Any]:
    """The function; a call that fails must leave the networks as they are."""

    def state() -> list[Any]:
        parts = []
        for net in networks:
            arrays = [*net.weights, *net.biases]
            parts += [[np.array(a).tobytes() for a in arrays]]
            parts += [repr(getattr(net, name, None)) for name in ("history", "dropout", "l2", "rng")]
            rngs = [getattr(net, "rng", None), *(getattr(net, "network_rngs", None) or [])]
            parts += [repr(r.bit_generator.state) for r in rngs if r is not None]
        return parts

    def run(**given: Any) -> Any:
        before = state()
        try:
            result = function(**given)
            return list(result) if isinstance(result, Iterator) else result
        except Exception as error:
            if state() != before:
                raise Finding("a call that failed has changed the network") from error
            raise

    return run


def one(rng: np.random.Generator) -> None:
    """One call with one wrong argument."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        table = calls(Path(folder))
        names = sorted(table)
        name = names[rng.integers(len(names))]
        function, given = table[name]
        argument = sorted(given)[rng.integers(len(given))]
        wrong = WRONG[rng.integers(len(WRONG))]()
        if argument in LARGE and np.size(wrong) == 1 and not isinstance(wrong, (str, bytes)):
            wrong = "abc"
        warnings.simplefilter("error")
        text = f"{name}({argument}={' '.join(repr(wrong).split())[:80]})"
        try:
            function(**given | {argument: wrong})
        except Exception as error:
            complaint = judge(error, argument, wrong)
            if complaint:
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                raise Finding(
                    f"{text}: {complaint}: {type(error).__name__}: {str(error)[:200]} [{where}]"
                ) from error


def judge(error: Exception, argument: str, value: Any) -> str:
    """What is wrong with an error; an empty string if nothing is."""
    message = str(error)
    if isinstance(error, Finding):
        return message
    if isinstance(error, Warning):
        return "a warning in place of an error"
    if not isinstance(error, RIGHT) and not type(error).__module__.startswith("bpengine"):
        return "wrong type"
    if len(message) > 500 and not isinstance(error, InvalidParameterError):
        return f"{len(message)} characters"
    named = any(re.search(rf"\b{n}\b", message) for n in [argument, *ALSO.get(argument, [])])
    if isinstance(value, (str, bytes, Path)) and argument in {"path", "filename", "folder", "resume"}:
        named = named or str(value) in message
    if not named and not isinstance(error, OSError):
        return f"{argument!r} not named"
    return ""
