"""Errors of wrong arguments: they name the argument, in a type that callers expect."""

import re
from decimal import Decimal
from functools import partial

import numpy as np
import pytest
from strategies import looped

import bpengine as bp
from bpengine import book, datasets, plots, schedules

X, Y = np.ones((3, 4)), np.zeros((2, 4))
NET, NETS = bp.Network([3, 4, 2], rng=0), bp.Network([3, 4, 2], stack=2, rng=0)
NOT_NETWORKS = [5, None, "net", [NET], np.zeros(3), bp.History()]
OF_NETWORKS = [
    partial(bp.check_gradient, X=X, Y=Y),
    partial(bp.numerical_gradient, X=X, Y=Y),
    partial(bp.jacobians, X=X),
    partial(bp.input_gradients, X=X, Y=Y),
    partial(bp.per_example_gradients, X=X, Y=Y),
    partial(bp.Curvature, X=X, Y=Y),
    plots.first_layer,
    partial(plots.decision_regions, X=X[:2], labels=[0, 1, 1, 0]),
    partial(plots.nudges, x=X[:, :1], y=Y[:, :1], layer=0, entry=(0, 0)),
    partial(plots.hidden_motion, X=X, Y=Y, path="motion.gif"),
]
ACTIVATION, COST = partial(bp.Activation, "sine", np.sin), partial(bp.Cost, "cubic", np.add)
FIT = partial(NET.fit, X, Y, epochs=1, progress=False)


@looped("call", OF_NETWORKS)
def test_one_network_is_asked_for(call):
    for value in NOT_NETWORKS:
        with pytest.raises(TypeError, match=r"network must be a bpengine\.Network, got "):
            call(network=value)
    with pytest.raises(ValueError, match=r"network is a stack of 2: use nets\[i\]"):
        call(network=NETS)


@looped(
    "name, call, values",
    [
        ("networks", bp.stack, [5, NET, [5], [NET, None], np.array(0.5)]),
        ("metric", NETS.best, [5, [1.0], ["a", "b"], lambda net: "text", [np.nan, np.nan]]),
        ("history", plots.training_curves, [5, None, {"cost": [1.0]}]),
        ("history", plots.norms, [5, bp.History()]),
        ("check", plots.gradient_check, [True]),
        ("plan", plots.plan, [NET]),
        ("curves", plots.throughput, [5, {"a": 5}, {"a": ([1, 2], ["x", "y"])}, {"a": ([1], [1, 2])}]),
        ("title", lambda value: plots.throughput({"a": ([1], [1.0])}, title=value), [None]),
        ("ratios", plots.ratios, [None, {"a": 5}, {"a": {"b": 5}}]),
        ("shape", partial(plots.first_layer, NET), [5, (-1, -3), "ab"]),
        ("entry", partial(plots.nudges, NET, X[:, :1], Y[:, :1], 0), ["ab", 5, (0.5, 0)]),
        ("function", lambda value: bp.Activation("a", value, np.cos), [5, None, "sin"]),
        ("derivative", lambda value: bp.Activation("a", np.sin, value), [5, None]),
        ("of", lambda value: ACTIVATION(np.cos, of=value), ["x", 5, None]),
        (
            "range",
            lambda value: ACTIVATION(np.cos, range=value),
            [5, (1, 0), "ab", (0, 1, 2), (0, np.nan)],
        ),
        ("derivative", COST, [5, None]),
        ("canonical", lambda value: COST(np.add, canonical=value), ["x", 5]),
        ("within", lambda value: COST(np.add, within=value), [(1, 0), None]),
        ("classification", lambda value: COST(np.add, classification=value), [5, np.nan]),
        ("classes", partial(bp.one_hot, [0, 1]), [None, "", 10**400, 0, 2.5]),
        ("labels", lambda value: bp.one_hot(value, 2), [[[1], [1, 2]], 0.5, ["a"], [2]]),
        ("dtype", partial(bp.one_hot, [0, 1], 2), [-1, "abc", "M8[s]"]),
        ("examples", datasets.circles, ["abc", None, 1, 10**400]),
        ("noise", lambda value: datasets.circles(noise=value), [1j, "a", np.zeros((2, 2)), -1, 1e308]),
        ("rng", lambda value: datasets.step(rng=value), [-1, 0.5, "seed", [np.nan, 1]]),
        ("part", lambda value: datasets.mnist(part=value), [[], None, "both"]),
        ("resume", lambda value: FIT(resume=value), [5, "", "a\0b", "\ud800"]),
        ("monitor", lambda value: FIT(monitor=value), [np.array([None, None]), "step", 0]),
        ("shuffle", lambda value: FIT(shuffle=value), [np.zeros((2, 2)), "all", -1]),
        ("progress", lambda value: FIT(progress=value), [np.zeros(2), None, "yes"]),
        ("callbacks", lambda value: FIT(callbacks=value), [5, "abc", np.array(0.0), NET, [bp.SGD]]),
        ("weighted", lambda value: NET.plan(4, weighted=value), [1e308, None, {}]),
        ("per_network", lambda value: NETS.plan(4, per_network=value), [5, ["nothing"]]),
        ("epsilon", lambda value: bp.check_gradient(NET, X, Y, epsilon=value), [5e-324, 0, None]),
        ("sizes", bp.Network, [[2**62, 2**62], [2**64, 1], 5]),
        ("batch_size", NET.plan, [2**63, 0.5]),
        ("precision", lambda value: NET.to(precision=value), [np.zeros(2), "half"]),
        ("path", NET.save, [5, None, "", np.datetime64("2020-01-01")]),
        ("path", bp.load, [5, "a\0b"]),
        *(("path", kind, [5, None, [], ""]) for kind in (bp.Checkpoint, bp.CSVLog, bp.JSONLinesLog)),
        ("path", datasets.idx, [int, "a\0b"]),
        ("function", bp.callbacks.Function, [5]),
        ("epoch", schedules.Cosine(0.1, 5).rate, [[1, 2], Decimal("NaN"), "a", -1]),
        ("delta", partial(bp.privacy_spent, []), [None, 0, 1, "a"]),
        ("spent", lambda value: bp.privacy_spent(value, 1e-5), [5, [0.5], [(2.0, 1.0, 1)], "abc"]),
        ("filename", book.load, [5, {}]),
        ("filename", book.Network([2, 1]).save, [5, None]),
        ("j", book.vectorized_result, [b"x", 10, -1, 0.5, [[1], [1, 2]]]),
        (
            "training_data",
            lambda value: book.Network([3, 2]).SGD(value, 1, 1, 0.1),
            [np.array(0.0), 5, NET],
        ),
        *(
            (name, lambda value, name=name: _nielsen(**{name: value}), ["abc", None, [1, 2]])
            for name in ("epochs", "eta", "lmbda")
        ),
    ],
)
def test_the_argument_is_named(name, call, values):
    before = NET.vector.copy()
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"\b{re.escape(name)}\b") as caught:
            call(value)
        assert len(str(caught.value)) <= 500
    assert (NET.vector == before).all()


def _nielsen(**wrong):
    settings = {"epochs": 1, "mini_batch_size": 1, "eta": 0.1, "lmbda": 0.0}
    book.Network([3, 2]).SGD([(X[:, :1], Y[:, :1])], **settings | wrong)


def test_top_eigenvalue_takes_numbers():
    pytest.importorskip("scipy")
    for value in (1j, np.zeros((2, 2)), -1.0, None):
        with pytest.raises((TypeError, ValueError), match="tolerance must be"):
            bp.Curvature(NET, X, Y).top_eigenvalue(tolerance=value)


def test_a_book_of_other_bytes(tmp_path):
    path = tmp_path / "net.json"
    path.write_bytes(b'{"sizes": "\xff"}')
    with pytest.raises(ValueError, match=r"net\.json is no network of the book's form"):
        book.load(path)


def test_a_book_that_is_too_large(tmp_path):
    path = tmp_path / "net.json"
    with open(path, "wb") as file:
        file.truncate(2 * 10**11)  # without memory on disk
    with pytest.raises(ValueError, match=r"net\.json is no network of the book's form: it is too large"):
        book.load(path)


def test_paths_are_strings_bytes_or_path_objects(tmp_path):
    path = tmp_path / "net.npz"
    for form in (path, str(path), bytes(path)):
        NET.save(form)
        assert (bp.load(form).vector == NET.vector).all()


def test_arrays_of_jax_are_named_so():
    from types import SimpleNamespace

    from bpengine.backends.array_api import library_name

    for name in ("jax.numpy", "array_api_compat.torch", "array_api_strict"):
        library = name.removeprefix("array_api_compat.").partition(".")[0]
        assert library_name(SimpleNamespace(__name__=name)) == library
