"""Each bad input gets one error that says what was expected, what came, what to do."""

from __future__ import annotations

import re
from contextlib import contextmanager

import array_api_strict
import numpy as np
import pytest

import bpengine as bp
from bpengine import backends

ROWS, OUTPUTS, M = 3, 2, 5


def regressor(lab):
    return bp.Network([ROWS, 4, OUTPUTS], backend=lab.backend, rng=0)


def classifier(lab):
    return bp.Network(
        [ROWS, 4, OUTPUTS],
        activations=["tanh", "softmax"],
        cost="softmax_cross_entropy",
        backend=lab.backend,
        rng=0,
    )


def detector(lab, outputs=OUTPUTS):
    sizes = [ROWS, 4, outputs]
    return bp.Network(sizes, cost="binary_cross_entropy", backend=lab.backend, rng=0)


def inputs():
    return np.linspace(-1, 1, ROWS * M).reshape(ROWS, M)


def outputs():
    return np.linspace(0, 1, OUTPUTS * M).reshape(OUTPUTS, M)


def state(net):
    numbers = net.backend.to_numpy(net.vector).tobytes()
    return net.backend.name, net.rng.bit_generator.state, numbers


@contextmanager
def refused(kind, *parts, net=None):
    before = state(net) if net is not None else None
    with pytest.raises(kind) as caught:
        yield
    assert caught.type in (kind if isinstance(kind, tuple) else (kind,))
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    if net is not None:
        assert state(net) == before


def load(lab, net, X, Y):
    net.plan(M).load(X, Y)


def fit(lab, net, X, Y, **options):
    net.fit(X, Y, **{"epochs": 1, "batch_size": 2, "progress": False, **options})


def validate(lab, net, X, Y):
    good = outputs() if net.cost.name != "softmax_cross_entropy" else np.full((OUTPUTS, M), 0.5)
    fit(lab, net, lab.array(inputs()), lab.array(good), validation=(X, Y))


TARGET_DOORS = {
    "backprop": lambda lab, net, X, Y: net.backprop(X, Y),
    "evaluate": lambda lab, net, X, Y: net.evaluate(X, Y),
    "check_gradient": lambda lab, net, X, Y: bp.check_gradient(net, X, Y),
    "plan.load": load,
    "fit": fit,
    "validation": validate,
}
DOORS = {"feedforward": lambda lab, net, X, Y: net.feedforward(X), **TARGET_DOORS}


def put(value, row=1, column=3, like=inputs):
    def make(lab):
        array = like()
        array[row, column] = value
        return lab.array(array)

    return make


X_CASES = {
    "transposed": (
        lambda lab: lab.array(inputs().T),
        ValueError,
        ["{X} has shape (5, 3)", "takes 3 rows", "Did you mean {X}.T?"],
    ),
    "four rows": (
        lambda lab: lab.array(np.ones((4, M))),
        ValueError,
        ["{X} has shape (4, 5)", "takes 3 rows", "column an example"],
    ),
    "three axes": (
        lambda lab: lab.array(np.ones((1, ROWS, M))),
        ValueError,
        ["{X} has shape (1, 3, 5)", "takes 3 rows"],
    ),
    "one example": (
        lambda lab: lab.array(np.ones(ROWS)),
        ValueError,
        ["{X} has shape (3,)", "one example", "{X}.reshape(3, -1)"],
    ),
    "one axis": (
        lambda lab: lab.array(np.ones(7)),
        ValueError,
        ["{X} has shape (7,)", "takes 3 rows"],
    ),
    "a number": (lambda lab: 3.0, ValueError, ["{X} has shape ()", "takes 3 rows"]),
    "no example": (
        lambda lab: lab.array(np.ones((ROWS, 0))),
        ValueError,
        ["{X} has shape (3, 0)", "empty batch", "1 example or more"],
    ),
    "integers beyond float32": (
        lambda lab: lab.array(np.full((ROWS, M), 2**24 + 1), "int64"),
        ValueError,
        ["{X} holds integers beyond 2^24", "float32 can't represent", "dtype='float64'"],
    ),
    "complex": (
        lambda lab: lab.array(inputs(), "complex128"),
        TypeError,
        ["{X} has dtype", "complex128", "floating point"],
    ),
    "object": (
        lambda lab: inputs().astype(object),
        TypeError,
        ["{X} has dtype object", "floating point"],
    ),
    "string": (
        lambda lab: inputs().astype(str),
        TypeError,
        ["{X} has dtype <U", "floating point"],
    ),
    "nothing": (lambda lab: None, TypeError, ["{X} has dtype object", "floating point"]),
    "ragged": (
        lambda lab: [[1.0, 2.0], [1.0], [2.0, 3.0]],
        (TypeError, ValueError),
        ["{X}", "every row of the same length"],
    ),
    "NaN": (
        put(np.nan),
        ValueError,
        ["{X} holds 1 NaN or infinite value", "column 3", "must be finite"],
    ),
    "infinity": (put(np.inf), ValueError, ["{X} holds 1 NaN or infinite value", "column 3"]),
    "minus infinity": (put(-np.inf), ValueError, ["{X} holds 1 NaN or infinite value", "column 3"]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", X_CASES)
def test_examples_that_do_not_fit(lab, door, case):
    make, kind, parts = X_CASES[case]
    net = regressor(lab)
    name = "validation X" if door == "validation" else "X"
    X, Y = make(lab), lab.array(outputs())
    with refused(kind, *(part.format(X=name) for part in parts), net=net):
        DOORS[door](lab, net, X, Y)


def test_the_hint_to_transpose_is_given_only_where_it_helps(lab):
    with pytest.raises(ValueError, match=r"^(?!.*X\.T)"):
        regressor(lab).feedforward(lab.array(np.ones((4, M))))


Y_CASES = {
    "transposed": (
        regressor,
        lambda lab: lab.array(outputs().T),
        ValueError,
        ["{Y} has shape (5, 2)", "expected (2, 5)", "Did you mean {Y}.T?"],
    ),
    "another length": (
        regressor,
        lambda lab: lab.array(outputs()[:, 1:]),
        ValueError,
        ["{Y} has shape (2, 4)", "expected (2, 5)"],
    ),
    "another number of rows": (
        regressor,
        lambda lab: lab.array(np.ones((3, M))),
        ValueError,
        ["{Y} has shape (3, 5)", "expected (2, 5)"],
    ),
    "three axes": (
        regressor,
        lambda lab: lab.array(outputs()[None]),
        ValueError,
        ["{Y} has shape (1, 2, 5)", "expected (2, 5)"],
    ),
    "nothing": (regressor, lambda lab: None, TypeError, ["{Y}", "floating point"]),
    "complex targets": (
        regressor,
        lambda lab: lab.array(outputs(), "complex128"),
        TypeError,
        ["{Y} has dtype", "complex128", "floating point"],
    ),
    "object targets": (
        regressor,
        lambda lab: outputs().astype(object),
        TypeError,
        ["{Y} has dtype object", "floating point"],
    ),
    "NaN": (
        regressor,
        put(np.nan, 0, 4, outputs),
        ValueError,
        ["{Y} holds 1 NaN or infinite value", "column 4"],
    ),
    "infinity": (
        regressor,
        put(np.inf, 0, 2, outputs),
        ValueError,
        ["{Y} holds 1 NaN or infinite value", "column 2"],
    ),
    "labels for a regression": (
        lambda lab: bp.Network([ROWS, 4, OUTPUTS], "tanh", backend=lab.backend, rng=0),
        lambda lab: lab.array([0, 1, 1, 0, 1]),
        ValueError,
        ["{Y} has one axis", "(2, 5)", "bpengine.one_hot(labels, 2)"],
    ),
    "float labels": (
        classifier,
        lambda lab: lab.array([0.0, 1.0, 1.0, 0.0, 1.0]),
        TypeError,
        ["{Y} has shape (5,)", "float64", "integer labels", "(2, 5)"],
    ),
    "labels of another length": (
        classifier,
        lambda lab: lab.array([0, 1, 1, 0]),
        ValueError,
        ["{Y} has 4 labels", "5 examples"],
    ),
    "a label too great": (
        classifier,
        lambda lab: lab.array([0, 1, 7, 0, 1]),
        ValueError,
        ["{Y}", "[2] is 7", "0 to 1"],
    ),
    "a negative label": (
        classifier,
        lambda lab: lab.array([0, 1, 0, -1, 1]),
        ValueError,
        ["{Y}", "[3] is -1", "0 to 1"],
    ),
    "a label too great for one output": (
        lambda lab: detector(lab, 1),
        lambda lab: lab.array([0, 1, 1, 0, 2]),
        ValueError,
        ["{Y}", "[4] is 2", "0 to 1"],
    ),
    "columns that do not sum to 1": (
        classifier,
        lambda lab: lab.array([[0, 1, 0.5, 0.5, 1], [1, 0, 0.5, 0.25, 0]]),
        ValueError,
        ["{Y}[:, 3]", "0.75", "sum to 1", "one-hot"],
    ),
    "negative probabilities": (
        classifier,
        lambda lab: lab.array([[0, 1, 0.5, 2, 1], [1, 0, 0.5, -1, 0]]),
        ValueError,
        ["{Y}", "-1.0", "2.0", "from 0 to 1"],
    ),
    "above 1": (
        detector,
        put(1.5, 0, 2, outputs),
        ValueError,
        ["{Y}", "1.5", "binary_cross_entropy", "from 0 to 1"],
    ),
    "below 0": (
        detector,
        put(-0.5, 0, 2, outputs),
        ValueError,
        ["{Y}", "-0.5", "binary_cross_entropy", "from 0 to 1"],
    ),
}


@pytest.mark.parametrize("door", TARGET_DOORS)
@pytest.mark.parametrize("case", Y_CASES)
def test_targets_that_do_not_fit(lab, door, case):
    make_net, make, kind, parts = Y_CASES[case]
    if (case, door) == ("nothing", "fit"):
        parts = ["Y is missing", "iterable of batches"]
    net = make_net(lab)
    if door == "validation" and net.sizes[-1] == 1:
        good = lab.array(np.zeros((1, M)))
        call = lambda lab, net, X, Y: fit(lab, net, X, good, validation=(X, Y))  # noqa: E731
    else:
        call = TARGET_DOORS[door]
    name = "validation Y" if door == "validation" else "Y"
    X, Y = lab.array(inputs()), make(lab)
    with refused(kind, *(part.format(Y=name) for part in parts), net=net):
        call(lab, net, X, Y)


def test_targets_of_a_stack_are_not_taken_for_labels(lab):
    nets = bp.Network([3, M], backend=lab.backend, stack=M, rng=0)
    X, eye = lab.array(np.ones((3, M))), np.eye(M)
    with pytest.raises(ValueError, match=r"per-network labels or targets of all networks\..*astype"):
        nets.evaluate(X, lab.array(eye, "int64"))
    with pytest.raises(TypeError, match="targets are floating point"):
        nets.evaluate(X, lab.array(eye, "bool"))
    regression = bp.Network([3, 2], "linear", backend=lab.backend, stack=2, rng=0)
    found = regression.evaluate(X, lab.array(np.ones((2, M)), "int64"))["cost"]
    np.testing.assert_array_equal(found, regression.evaluate(X, lab.array(np.ones((2, M))))["cost"])


def test_class_weights_may_have_labels_of_any_type_that_equals_them(lab):
    X, labels = lab.array(inputs()), lab.array([0, 1, 1, 0, 1])
    costs = []
    for weights in ({0: 1.0, 1: 5.0}, {0.0: 1.0, 1.0: 5.0}, {False: 1.0, True: 5.0}):
        net = detector(lab)
        fit(lab, net, X, labels, class_weight=weights, epochs=2)
        costs.append(net.history.cost)
    assert costs[0] == costs[1] == costs[2]
    with pytest.raises(TypeError, match="class_weight must be a dict"):
        fit(lab, detector(lab), X, labels, class_weight=[1.0, 5.0])


def test_integers_and_bools_are_the_numbers_that_they_stand_for(lab):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 2, (ROWS, M)), rng.integers(0, 2, (OUTPUTS, M))
    expected = regressor(lab).backprop(lab.array(x, "float32"), lab.array(y, "float32")).vector
    for dtype in ("bool", "uint8", "int64"):
        for X, Y in ((lab.array(x, dtype), lab.array(y, dtype)), (x.astype(dtype).tolist(), y.tolist())):
            if isinstance(X, list) and lab.backend.name not in ("numpy", "numba"):
                continue
            found = regressor(lab).backprop(X, Y).vector
            np.testing.assert_array_equal(lab.numpy(found), lab.numpy(expected))


@pytest.mark.parametrize("door", [door for door in DOORS if door != "check_gradient"])
def test_numbers_that_float32_can_not_hold(lab, door):
    net, X, Y = regressor(lab), lab.array(inputs()), lab.array(outputs())
    prefix = "validation " if door == "validation" else ""
    with refused(ValueError, f"{prefix}X ", "column 3", "float32", "float64", net=net):
        DOORS[door](lab, net, put(1e39)(lab), Y)
    if door != "feedforward":
        with refused(ValueError, f"{prefix}Y ", "column 2", "float32", "float64", net=net):
            DOORS[door](lab, net, X, put(-1e39, 0, 2, outputs)(lab))


def test_float64_holds_what_float32_can_not(lab):
    net = bp.Network([ROWS, 4, OUTPUTS], backend=lab.backend, dtype="float64", rng=0)
    assert np.isfinite(lab.numpy(net.feedforward(put(1e39)(lab)))).all()


def test_a_message_on_validation_data_does_not_point_at_the_training_data(lab):
    X, Y = lab.array(inputs()), lab.array([0, 1, 1, 0, 1])
    with pytest.raises(ValueError, match="validation Y has 4 labels and validation X has 5 examples"):
        fit(lab, classifier(lab), X, Y, validation=(X, Y[:4]))


@pytest.mark.parametrize(
    "pair",
    [lambda X, Y: X, lambda X, Y: (X,), lambda X, Y: (X, Y, Y, Y), lambda X, Y: {"X": X, "Y": Y}],
    ids=["an array", "one", "four", "a dict"],
)
def test_validation_data_is_a_pair(lab, pair):
    net, X, Y = regressor(lab), lab.array(inputs()), lab.array(outputs())
    with refused(TypeError, "validation must be a pair (X, Y)", net=net):
        fit(lab, net, X, Y, validation=pair(X, Y))


def test_the_third_of_validation_data_is_a_weight_for_each_example(lab):
    net, X, Y = regressor(lab), lab.array(inputs()), lab.array(outputs())
    with refused(ValueError, "sample_weight has shape (2, 5); expected (5,)", net=net):
        fit(lab, net, X, Y, validation=(X, Y, Y))


@pytest.mark.parametrize(
    ("value", "kind", "parts"),
    [
        (0, ValueError, ["1 or more", "got 0"]),
        (-3, ValueError, ["1 or more", "got -3"]),
        (2.0, TypeError, ["whole number", "2.0"]),
        ("2", TypeError, ["whole number", "'2'"]),
        ([2], TypeError, ["whole number", "[2]"]),
    ],
)
@pytest.mark.parametrize("name", ["batch_size", "epochs", "plan", "steps"])
def test_counts(lab, name, value, kind, parts):
    net, X, Y = regressor(lab), lab.array(inputs()), lab.array(outputs())
    called = "batch_size" if name == "plan" else name
    with refused(kind, f"{called} must be", *parts, net=net):
        if name == "plan":
            net.plan(value)
        elif name == "steps":
            plan = net.plan(M)
            plan.load(X, Y)
            plan.run(value)
        else:
            fit(lab, net, X, Y, **{name: value})


def test_a_batch_of_more_than_there_is(lab):
    net, X, Y = regressor(lab), lab.array(inputs()), lab.array(outputs())
    with refused(ValueError, "batch_size=6", "5 examples", "batch_size=5 or less", net=net):
        fit(lab, net, X, Y, batch_size=6)


@pytest.mark.parametrize("optimizer", [0.5, bp.SGD], ids=["number", "class"])
@pytest.mark.parametrize("door", ["fit", "plan"])
def test_an_optimizer_that_is_none(lab, door, optimizer):
    net, X, Y = regressor(lab), lab.array(inputs()), lab.array(outputs())
    with refused(TypeError, "optimizer", "SGD", net=net):
        if door == "plan":
            net.plan(M, optimizer)
        else:
            fit(lab, net, X, Y, optimizer=optimizer)


@pytest.mark.parametrize(
    ("value", "kind", "part"),
    [
        (0, ValueError, "0.0"),
        (-0.5, ValueError, "-0.5"),
        (float("nan"), ValueError, "nan"),
        (float("inf"), ValueError, "inf"),
        (None, TypeError, "None"),
        ("fast", TypeError, "'fast'"),
        ("0.5", TypeError, "'0.5'"),
        ({}, TypeError, "{}"),
    ],
)
def test_learning_rates(value, kind, part):
    with refused(kind, "learning_rate must be", part):
        bp.SGD(value)


def test_a_plan_takes_its_own_number_of_examples(lab):
    net = regressor(lab)
    plan = net.plan(M - 1)
    with refused(ValueError, "5 examples", "batches of 4", "net.plan(batch_size=5)", net=net):
        plan.load(lab.array(inputs()), lab.array(outputs()))
    with refused(ValueError, "no batch is loaded", "plan.load(X, Y)", net=net):
        plan.run()


def test_a_refused_batch_leaves_the_loaded_one(lab):
    net = regressor(lab)
    plan = net.plan(M)
    plan.load(lab.array(inputs()), lab.array(outputs()))
    before = plan.run().cost
    with pytest.raises(ValueError, match="NaN"):
        plan.load(lab.array(inputs()), put(np.nan, 0, 0, outputs)(lab))
    assert plan.run().cost == before


SIZES = {"sizes": [2, 3, 1]}
CONSTRUCTORS = {
    "one layer": ({"sizes": [3]}, ValueError, ["2 layers or more", "got [3]"]),
    "no layer": ({"sizes": []}, ValueError, ["2 layers or more", "got []"]),
    "an empty layer": ({"sizes": [3, 0, 1]}, ValueError, ["1 or more", "[3, 0, 1]"]),
    "a negative layer": ({"sizes": [3, -2, 1]}, ValueError, ["1 or more", "[3, -2, 1]"]),
    "a float": ({"sizes": [3, 2.0, 1]}, TypeError, ["whole numbers", "[3, 2.0, 1]"]),
    "a string": ({"sizes": "321"}, TypeError, ["whole numbers", "'321'"]),
    "a number": ({"sizes": 3}, TypeError, ["whole numbers", "got 3"]),
    "activation": (
        SIZES | {"activations": "sigmod"},
        ValueError,
        ["unknown activation 'sigmod'", "Did you mean 'sigmoid'?", "softplus"],
    ),
    "activation in a list": (
        SIZES | {"activations": ["tanh", "rellu"]},
        ValueError,
        ["unknown activation 'rellu'", "Did you mean 'relu'?"],
    ),
    "activation like no other": (
        SIZES | {"activations": "zzz"},
        ValueError,
        ["unknown activation 'zzz'. Known: sigmoid"],
    ),
    "activation number": (SIZES | {"activations": 3}, TypeError, ["activation", "int", "sigmoid"]),
    "activation number in a list": (
        SIZES | {"activations": ["tanh", 3]},
        TypeError,
        ["activation must be a name", "int", "sigmoid"],
    ),
    "too many activations": (
        SIZES | {"activations": ["tanh"] * 3},
        ValueError,
        ["3 entries", "[2, 3, 1] takes 2", "one per layer"],
    ),
    "too few activations": (SIZES | {"activations": ["tanh"]}, ValueError, ["1 entries", "takes 2"]),
    "too few in a layer": (
        SIZES | {"activations": [["tanh", "relu"], "linear"]},
        ValueError,
        ["3 neurons", "3 activations", "got 2"],
    ),
    "softmax of one neuron": (
        SIZES | {"activations": [["tanh", "softmax", "tanh"], "linear"]},
        ValueError,
        ["'softmax'", "whole layer", "'sigmoid'"],
    ),
    "another's name": (
        SIZES | {"activations": bp.Activation("tanh", np.sin, np.cos)},
        ValueError,
        ["'tanh' is built in", "another name"],
    ),
    "cost": (
        SIZES | {"cost": "quadratc"},
        ValueError,
        ["unknown cost 'quadratc'", "Did you mean 'quadratic'?", "binary_cross_entropy"],
    ),
    "cost number": (SIZES | {"cost": 3}, TypeError, ["cost must be a name", "int", "quadratic"]),
    "another's cost": (
        SIZES | {"cost": bp.Cost("quadratic", np.add, np.add)},
        ValueError,
        ["'quadratic' is built in", "another name"],
    ),
    "backend": (
        SIZES | {"backend": "numpie"},
        ValueError,
        ["unknown backend 'numpie'", "Did you mean 'numpy'?", "cupy"],
    ),
    "backend module": (
        SIZES | {"backend": np},
        TypeError,
        ["backend must be a name", "module", "numpy"],
    ),
    "dtype": (
        SIZES | {"dtype": "flaot32"},
        ValueError,
        ["unknown dtype 'flaot32'", "Did you mean 'float32'?", "float64"],
    ),
    "half": (SIZES | {"dtype": "float16"}, ValueError, ["unknown dtype 'float16'", "float32"]),
    "initializer": (
        SIZES | {"initializer": "gausian"},
        ValueError,
        ["unknown initializer 'gausian'", "Did you mean 'gaussian'?", "scaled_gaussian"],
    ),
    "seed": (SIZES | {"rng": "seven"}, TypeError, ["rng", "seven"]),
    "negative seed": (SIZES | {"rng": -1}, ValueError, ["rng", "-1"]),
    "softmax's cost without it": (
        SIZES | {"cost": "softmax_cross_entropy", "activations": ["softmax", "sigmoid"]},
        ValueError,
        ["softmax_cross_entropy", "needs a softmax output", "'sigmoid'", "binary_cross_entropy"],
    ),
}
CONSTRUCTORS |= {
    f"cross-entropy of {name}": (
        SIZES | {"cost": "binary_cross_entropy", "activations": ["sigmoid", name]},
        ValueError,
        ["binary_cross_entropy", "from 0 to 1", f"{name!r}", "'sigmoid' in the last layer"],
    )
    for name in ("tanh", "relu", "leaky_relu", "linear", "softplus", "gelu", "swish")
}
CONSTRUCTORS["cross-entropy of one linear neuron"] = (
    {
        "sizes": [2, 2],
        "cost": "binary_cross_entropy",
        "activations": [["sigmoid", "linear"]],
    },
    ValueError,
    ["binary_cross_entropy", "from 0 to 1", "sigmoid, linear"],
)


@pytest.mark.parametrize("case", CONSTRUCTORS)
def test_networks_that_can_not_be(case):
    arguments, kind, parts = CONSTRUCTORS[case]
    with refused(kind, *parts):
        bp.Network(**arguments)


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_cross_entropy_takes_outputs_from_0_to_1(name):
    net = bp.Network([2, 3], activations=name, cost="binary_cross_entropy")
    assert net.cost.name == "binary_cross_entropy"


STRICT = [array_api_strict.Device(f"device{i}") for i in (1, 2)]


def strict_net():
    backend = backends.ArrayAPIBackend(array_api_strict, STRICT[0])
    return bp.Network([ROWS, 4, OUTPUTS], backend=backend, rng=0)


@pytest.mark.parametrize("door", DOORS)
def test_examples_of_another_device(door):
    net = strict_net()
    X, Y = (array_api_strict.asarray(a, device=STRICT[1]) for a in (inputs(), outputs()))

    class Lab:
        def array(self, values):
            return array_api_strict.asarray(values, device=STRICT[0])

    with refused(ValueError, "X is on device", "device2", "device1", "Move one of them", net=net):
        DOORS[door](Lab(), net, X, Y)


@pytest.mark.parametrize("door", TARGET_DOORS)
def test_targets_of_another_device(door):
    net = strict_net()
    X = array_api_strict.asarray(inputs(), device=STRICT[0])
    Y = array_api_strict.asarray(outputs(), device=STRICT[1])

    class Lab:
        def array(self, values):
            return array_api_strict.asarray(values, device=STRICT[0])

    with refused(ValueError, "Y is on device", "device2", "device1", net=net):
        TARGET_DOORS[door](Lab(), net, X, Y)


@pytest.mark.parametrize("backend", ["numpy", None])
def test_arrays_of_another_library(backend):
    net = bp.Network([ROWS, 4, OUTPUTS], backend=backend, rng=0)
    net.feedforward(inputs())
    X = array_api_strict.asarray(inputs())
    with refused(TypeError, "X is an array of array_api_strict", "'numpy'", "Convert X", net=net):
        net.feedforward(X)
    with refused(TypeError, "Y is an array of array_api_strict", "'numpy'", "Convert Y", net=net):
        net.backprop(inputs(), array_api_strict.asarray(outputs()))


def test_host_arrays_are_taken_in_by_every_backend(lab):
    X, Y = inputs(), outputs()
    net = regressor(lab)
    expected = net.backprop(lab.array(X), lab.array(Y))
    lab.assert_close(net.backprop(X.tolist(), Y).vector, lab.numpy(expected.vector), 0)


def test_a_refused_array_does_not_decide_the_backend(lab):
    net = bp.Network([ROWS, 4, OUTPUTS], rng=0)
    with refused(ValueError, "Did you mean X.T?", net=net):
        net.feedforward(lab.array(inputs().T))
    for wanted in (array_api_strict.asarray(inputs(), device=STRICT[1]), lab.array(inputs())):
        fresh = bp.Network([ROWS, 4, OUTPUTS], rng=0)
        with pytest.raises(ValueError, match=re.escape("Did you mean X.T?")):
            fresh.feedforward(lab.array(inputs().T))
        out = fresh.feedforward(wanted)
        assert type(out) is type(wanted)


@pytest.mark.skipif(np.finfo(np.longdouble).maxexp == 1024, reason="no longer float than float64")
@pytest.mark.parametrize(
    "dtype, value", [("float32", "1e300"), ("float32", "1e39"), ("float64", "1e400")]
)
def test_longer_floats_beyond_the_dtype_are_refused(dtype, value):
    net = bp.Network([1, 1], dtype=dtype, rng=0)
    X = np.array([[np.longdouble(value)]])
    for arrays in ((X, np.ones((1, 1))), (np.ones((1, 1)), X)):
        with pytest.raises(ValueError, match=f"beyond what {dtype} holds"):
            net.backprop(*arrays)


@pytest.mark.parametrize("which", ["X", "Y", "sample_weight"])
def test_masked_values_are_refused(which):
    net = bp.Network([1, 1], rng=0)
    arrays = {"X": np.ones((1, 3)), "Y": np.ones((1, 3)), "sample_weight": np.ones(3)}
    whole = net.backprop(**arrays).vector
    unmasked = np.ma.array(arrays[which])
    np.testing.assert_array_equal(net.backprop(**{**arrays, which: unmasked}).vector, whole)
    unmasked[..., 1:] = np.ma.masked
    for masked in (unmasked, [unmasked[i] for i in range(len(unmasked))]):
        with pytest.raises(ValueError, match=rf"{which} has 2 masked values; .* {which}\.filled"):
            net.backprop(**{**arrays, which: masked})


@pytest.mark.parametrize(
    "weights",
    [["1", "2"], [1j, 1], np.zeros(2, "M8[D]"), np.zeros(2, [("a", "f4")]), [None, 1], [10**400, 1]],
    ids=str,
)
def test_sample_weights_are_real_numbers(weights):
    with pytest.raises(TypeError, match="sample_weight must be numbers, got"):
        bp.Network([1, 1], rng=0).backprop(np.ones((1, 2)), np.ones((1, 2)), sample_weight=weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e308, 4e307, 5e-324])
def test_only_the_ratio_of_sample_weights_counts(lab, dtype, scale):
    net = bp.Network([1, 1], dtype=dtype, backend=lab.backend, rng=0)
    X, Y = (lab.array(x, dtype) for x in ([[1.0, 2, 3, 4]], [[0.0, 0, 1, 1]]))
    ones, large = (net.backprop(X, Y, sample_weight=w) for w in ([1, 0, 1, 1], [scale, 0, scale, scale]))
    assert large.cost == pytest.approx(ones.cost, rel=1e-14)
    lab.assert_close(large.vector, lab.numpy(ones.vector), 2 * np.finfo(dtype).eps)


def test_weights_of_a_stream_have_a_sum():
    net = bp.Network([1, 1], rng=0)
    batch = np.ones((1, 4)), np.ones((1, 4)), [1e38] * 4
    with pytest.raises(ValueError, match=r"batch 0: sample_weight has weights up to 1e\+38, whose sum"):
        net.fit([batch], epochs=1, progress=False)
