"""The network as a user holds it: predictions, scores, views, copies, seeds."""

from __future__ import annotations

import copy
import pickle
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import array_api_strict
import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bpengine as bp
from bpengine.backprop import forward

few = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def network(lab, sizes=(3, 4, 2), **options):
    return bp.Network(sizes, backend=lab.backend, **{"dtype": "float64", "rng": 3, **options})


def data(m=11, rows=3, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, m)), rng.random((outputs, m))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_hand(lab, net, X):
    """Outputs of a network of sigmoids, one example after the other."""
    columns = []
    for x in X.T[..., np.newaxis]:
        for w, b in zip(net.weights, net.biases, strict=True):
            x = sigmoid(lab.numpy(w) @ x + lab.numpy(b))
        columns.append(x)
    return np.concatenate(columns, axis=1)


@few
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.integers(1, 30),
    st.integers(1, 120),
    st.integers(0, 9),
)
def test_feedforward_in_chunks_of_any_size(lab, sizes, m, elements, seed):
    X, _ = data(m, sizes[0], seed=seed)
    net = network(lab, sizes, initializer="gaussian", rng=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "CHUNK_ELEMENTS", elements)
        chunk = max(1, elements // sum(sizes))
        met = [columns for columns, _ in forward.forward_chunks(net, lab.array(X))]
        found = net.feedforward(lab.array(X))
    assert met == [slice(start, min(m, start + chunk)) for start in range(0, m, min(m, chunk))]
    lab.assert_close(found, by_hand(lab, net, X), 1e-13)


def test_predictions_take_memory_for_a_chunk_alone(lab, monkeypatch):
    if lab.backend.name == "cupy":
        pytest.skip("tracemalloc sees the host's memory alone")
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", 2**13)
    net = network(lab, (2, 100, 1), dtype="float32")
    m = 5_000
    X, Y = lab.array(np.zeros((2, m)), "float32"), lab.array(np.zeros((1, m)), "float32")
    hidden_layer = 4 * 100 * m
    for call in (lambda: net.feedforward(X), lambda: net.evaluate(X, Y)):
        call()  # with Numba, kernels are read from disk
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < hidden_layer / 8


def test_outputs_are_a_new_array_each_time(lab):
    net = network(lab)
    X = lab.array(data()[0])
    first = net.feedforward(X)
    copied = np.array(lab.numpy(first))
    net.feedforward(lab.array(data(seed=1)[0]))
    np.testing.assert_array_equal(lab.numpy(first), copied)
    assert type(first) is type(X)
    assert first.dtype == getattr(lab.backend.xp, net.dtype)


def test_outputs_have_the_network_s_dtype(lab):
    X, Y = data()
    for dtype in ("float32", "float64"):
        net = network(lab, dtype=dtype)
        gradient = net.backprop(lab.array(X), lab.array(Y))
        wanted = getattr(lab.backend.xp, dtype)
        assert net.feedforward(lab.array(X)).dtype == wanted
        assert gradient.vector.dtype == net.vector.dtype == wanted


def test_threads_predict_at_the_same_time(lab, monkeypatch):
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", 9 * 7)
    net = network(lab, activations=["swish", "softmax"])
    batches = [data(20 + i, seed=i) for i in range(16)]
    given_arrays = [(lab.array(X), lab.array(Y / Y.sum(axis=0))) for X, Y in batches]

    def both(pair):
        return np.array(lab.numpy(net.feedforward(pair[0]))), net.evaluate(*pair)

    expected = [both(pair) for pair in given_arrays]
    start = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=start.wait) as pool:
        found = list(pool.map(both, given_arrays))
    for (outputs, result), (wanted, wanted_result) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(outputs, wanted)
        assert result == wanted_result


@few
@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 9))
def test_evaluate_is_the_average_over_examples(lab, m, elements, seed):
    X, Y = data(m, seed=seed)
    net = network(lab, initializer="gaussian")
    outputs = by_hand(lab, net, X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "CHUNK_ELEMENTS", elements)
        found = net.evaluate(lab.array(X), lab.array(Y))
    assert list(found) == ["cost"]
    np.testing.assert_allclose(found["cost"], ((outputs - Y) ** 2).sum() / (2 * m), rtol=1e-12)


@few
@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 9))
def test_accuracy_is_the_share_of_right_classes(lab, m, elements, seed):
    X, _ = data(m, seed=seed)
    labels = np.random.default_rng(seed).integers(0, 4, m)
    net = network(
        lab,
        (3, 4),
        cost="binary_cross_entropy",
        initializer="gaussian",
    )
    a = by_hand(lab, net, X)
    right = (a.argmax(axis=0) == labels).sum() / m
    likelihoods = np.where(np.arange(4)[:, None] == labels, a, 1 - a)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "CHUNK_ELEMENTS", elements)
        found = net.evaluate(lab.array(X), lab.array(labels))
        columns = net.evaluate(lab.array(X), lab.array(bp.one_hot(labels, 4)))
    assert found == columns
    assert found["accuracy"] == right
    np.testing.assert_allclose(found["cost"], -np.log(likelihoods).sum() / m, rtol=1e-11)


def test_accuracy_of_one_output_is_by_its_half(lab):
    net = network(lab, (1, 1), cost="binary_cross_entropy")
    net.weights[0][...], net.biases[0][...] = 1.0, 0.0
    X, labels = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]), np.array([0, 1, 1, 1, 0])
    found = net.evaluate(lab.array(X), lab.array(labels))
    assert found["accuracy"] == 3 / 5
    assert net.evaluate(lab.array(X), lab.array(labels[None], "float64")) == found
    assert "accuracy" not in net.evaluate(lab.array(X), lab.array(np.full((1, 5), 0.25)))


@pytest.mark.parametrize(
    "Y",
    [
        [[0.5, 1, 0, 0], [0.5, 0, 1, 1]],
        [[1, 1, 0, 0], [0, 1, 1, 1]],
        [[1, 0, 0, 0], [0, 0, 1, 1]],
        [[1, -1, 1, 1], [-1, 1, -1, -1]],
        [[1, 0, 0, 2], [0, 1, 1, -1]],
        [[2, 0, 1, 1], [0, 1, 0, 0]],
        [[1, 0, 1, 1], [1, 0, 0, 0]],
    ],
    ids=["shares", "several labels", "no label", "signs", "sums to 1", "a 2", "two labels and none"],
)
@pytest.mark.parametrize("elements", [2**22, 9])
def test_no_accuracy_where_targets_are_no_classes(lab, monkeypatch, Y, elements):
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", elements)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        X, targets = data(4)[0][:, order], np.array(Y, "float64")[:, order]
        assert list(network(lab).evaluate(lab.array(X), lab.array(targets))) == ["cost"]


def test_a_cost_beyond_float32_is_infinite(lab):
    net = network(lab, (1, 1), activations="linear", dtype="float32")
    net.weights[0][...] = 1e25
    X, Y = lab.array([[1.0, 0.0]]), lab.array([[0.0, 0.0]])
    assert net.evaluate(X, Y) == {"cost": np.inf, "accuracy": 0.5}
    gradient = net.backprop(X, Y)
    assert gradient.cost == np.inf
    lab.assert_close(gradient.weights[0], [[5e24]], 1e-6)


def test_labels_are_one_hot_columns(lab):
    X, _ = data()
    labels = np.arange(11) % 2
    options = {"activations": ["tanh", "softmax"], "cost": "softmax_cross_entropy"}
    columns = bp.one_hot(labels, 2)
    for kind in ("int64", "int32", "uint8"):
        one, other = network(lab, **options), network(lab, **options)
        given_X, Y, given_labels = lab.array(X), lab.array(columns), lab.array(labels, kind)
        np.testing.assert_array_equal(
            lab.numpy(one.backprop(given_X, given_labels).vector),
            lab.numpy(other.backprop(given_X, Y).vector),
        )
        one.fit(given_X, given_labels, epochs=2, batch_size=4, progress=False)
        other.fit(given_X, Y, epochs=2, batch_size=4, progress=False)
        np.testing.assert_array_equal(lab.numpy(one.vector), lab.numpy(other.vector))
        assert one.evaluate(given_X, given_labels) == other.evaluate(given_X, Y)


def test_labels_of_one_output_are_its_targets(lab):
    X, _ = data()
    labels = np.arange(11) % 2
    net = network(lab, (3, 1), cost="binary_cross_entropy")
    np.testing.assert_array_equal(
        lab.numpy(net.backprop(lab.array(X), lab.array(labels)).vector),
        lab.numpy(net.backprop(lab.array(X), lab.array(labels[None], "float64")).vector),
    )


def assert_views(lab, net):
    """The vector, the weights and the biases of a network are the same numbers."""
    for l, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        assert tuple(w.shape) == (net.sizes[l + 1], net.sizes[l])
        assert tuple(b.shape) == (net.sizes[l + 1], 1)
        w[...] = 2.0 * l + 1
        b[...] = 2.0 * l + 2
    found = lab.numpy(net.vector)
    values, counts = np.unique(found[found != 0], return_counts=True)
    sizes = [
        lab.numpy(array).size for pair in zip(net.weights, net.biases, strict=True) for array in pair
    ]
    assert values.tolist() == list(range(1, 2 * len(net.weights) + 1))
    assert counts.tolist() == sizes
    X = np.ones((net.sizes[0], 2))
    lab.assert_close(net.feedforward(lab.array(X)), by_hand(lab, net, X), 1e-6)
    net.vector[...] = 0.0
    for array in (*net.weights, *net.biases):
        assert not lab.numpy(array).any()
    assert (lab.numpy(net.feedforward(lab.array(X))) == 0.5).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_biases_and_vector_share_their_memory(lab, dtype):
    assert_views(lab, network(lab, dtype=dtype))


def test_parameters_written_by_hand_are_used(lab):
    net = network(lab, (1, 1), activations="linear")
    plan = net.plan(1)
    plan.load(lab.array([[2.0]]), lab.array([[0.0]]))
    net.weights[0][...], net.biases[0][...] = 3.0, 4.0
    assert lab.numpy(net.feedforward(lab.array([[2.0]]))) == 10
    assert plan.run().cost == 50
    net.weights[0] -= 3.0
    assert lab.numpy(net.feedforward(lab.array([[2.0]]))) == 4
    assert plan.run().cost == 8


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
}
LAYERS = {
    "sigmoid": {},
    "softmax": {"activations": ["gelu", "softmax"], "cost": "softmax_cross_entropy"},
    "per neuron": {"activations": [["tanh", "tanh", "swish", "relu"], "linear"]},
}


def same_backend(lab, net):
    return net.backend.name == lab.backend.name and net.backend.device == lab.backend.device


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_gives_the_same_results_and_is_its_own(lab, how, layers, dtype):
    X, Y = (lab.array(a) for a in data())
    Y = lab.array(bp.one_hot(np.arange(11) % 2, 2))
    net = network(lab, dtype=dtype, **LAYERS[layers])
    net.fit(X, Y, epochs=1, batch_size=4, progress=False)
    twin = COPIES[how](net)
    assert repr(twin) == repr(net)
    assert same_backend(lab, twin)
    copied = np.array(lab.numpy(net.vector))
    np.testing.assert_array_equal(lab.numpy(twin.vector), copied)
    np.testing.assert_array_equal(lab.numpy(twin.feedforward(X)), lab.numpy(net.feedforward(X)))
    # trained from here on, both see the same batches
    twin.fit(X, Y, epochs=2, batch_size=4, progress=False)
    np.testing.assert_array_equal(lab.numpy(net.vector), copied)
    net.fit(X, Y, epochs=2, batch_size=4, progress=False)
    np.testing.assert_array_equal(lab.numpy(twin.vector), lab.numpy(net.vector))


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_keeps_its_views(lab, how):
    net = network(lab)
    copied = np.array(lab.numpy(net.vector))
    assert_views(lab, COPIES[how](net))
    np.testing.assert_array_equal(lab.numpy(net.vector), copied)


def sine(lab):
    xp = lab.backend.xp
    return bp.Activation("sine", xp.sin, xp.cos)


def test_a_copy_keeps_a_users_activation_and_cost(lab):
    net = network(lab, activations=[sine(lab), "linear"], cost=quartic())
    twin = copy.deepcopy(net)
    X, Y = (lab.array(a) for a in data())
    np.testing.assert_array_equal(
        lab.numpy(twin.backprop(X, Y).vector), lab.numpy(net.backprop(X, Y).vector)
    )


def test_a_copy_of_a_network_without_a_backend_has_none_either(lab):
    X = lab.array(data()[0])
    for make in (*COPIES.values(), lambda net: net.astype("float64")):
        twin = make(bp.Network((3, 4, 2), rng=0))
        assert type(twin.feedforward(X)) is type(X)
        assert twin.backend.name == lab.inferred and twin.backend.device == lab.backend.device


@pytest.mark.parametrize("layers", LAYERS)
def test_astype(lab, layers):
    X = lab.array(data()[0])
    net = network(lab, dtype="float32", **LAYERS[layers])
    before, stored_rng = np.array(lab.numpy(net.vector)), copy.deepcopy(net.rng)
    wide = net.astype("float64")
    assert (net.dtype, wide.dtype) == ("float32", "float64")
    assert same_backend(lab, wide)
    assert repr(wide) == repr(net).replace("float32", "float64")
    for kind in ("weights", "biases"):
        for narrow_array, wide_array in zip(getattr(net, kind), getattr(wide, kind), strict=True):
            assert wide_array.dtype == lab.backend.xp.float64
            np.testing.assert_array_equal(lab.numpy(narrow_array), lab.numpy(wide_array))
    lab.assert_close(net.feedforward(X), lab.numpy(wide.feedforward(X)), 1e-6)
    assert wide.rng.bit_generator.state == net.rng.bit_generator.state
    assert net.rng.bit_generator.state == stored_rng.bit_generator.state
    wide.rng.random()
    assert net.rng.bit_generator.state == stored_rng.bit_generator.state
    wide.vector[...] = 0.0
    np.testing.assert_array_equal(lab.numpy(net.vector), before)
    np.testing.assert_array_equal(lab.numpy(wide.astype("float32").vector), 0 * before)
    with pytest.raises(ValueError, match="unknown dtype 'float16'"):
        net.astype("float16")


def test_repr():
    options = {"dropout": [0.0, 0.5], "l2": 0.1, "backend": "numpy"}
    net = bp.Network([3, 4, 2], ["tanh", ["sigmoid", "linear"]], **options)
    lines = [
        "Network: cost quadratic, float32, backend numpy, l2 0.1",
        "layer  neurons  activation       weights  parameters  dropout",
        "input        3",
        "1            4  tanh             4 × 3            16      0.5",
        "2            2  sigmoid, linear  2 × 4            10",
        "total                                             26",
    ]
    assert repr(net) == "\n".join(lines)
    assert net._repr_html_().count("<tr>") == len(lines) - 1
    assert repr(bp.Network([2, 1], stack=2, l2=[0.1, 0.2], backend="numpy")).splitlines()[0] == (
        "Network: cost quadratic, float32, backend numpy, stack of 2, l2 0.1, 0.2"
    )
    assert repr(net.parameters) == "Parameters(weights 4×3, 2×4, float32, numpy)"


def test_a_backend_is_inferred_once(lab):
    if lab.name == "cuda double":
        pytest.skip("its arrays are array-api-strict's, and so is the backend inferred from them")
    X, Y = (lab.array(a) for a in data())
    net, given_backend = bp.Network((3, 4, 2), rng=1), network(lab, dtype="float32", rng=1)
    results = []
    for entry in (net, given_backend):
        results.append((lab.numpy(entry.feedforward(X)), lab.numpy(entry.backprop(X, Y).vector)))
    assert net.backend.name == lab.inferred and net.backend.device == lab.backend.device
    rounding = 1e-6 if lab.name == "numba" else 0
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)


def test_parameters_set_before_the_backend_is_known_persist(lab):
    net = bp.Network((3, 2), activations="linear", rng=1)
    net.weights[0][...] = 2.0
    net.biases[0][...] = 1.0
    assert (lab.numpy(net.feedforward(lab.array(np.ones((3, 4))))) == 7).all()


def test_a_plan_settles_the_backend_where_no_array_has(lab):
    # its buffers have to be somewhere: on NumPy
    net = bp.Network((3, 4, 2), rng=1)
    plan = net.plan(11, bp.SGD(0.5))
    X, Y = data()
    if lab.inferred != "numpy":
        with pytest.raises(TypeError, match="this network's backend is 'numpy'"):
            plan.load(lab.array(X), lab.array(Y))
        with pytest.raises(TypeError, match="this network's backend is 'numpy'"):
            net.feedforward(lab.array(X))
    twin = bp.Network((3, 4, 2), backend="numpy", rng=1)
    other = twin.plan(11, bp.SGD(0.5))
    for one in (plan, other):
        one.load(X, Y)
    assert plan.run(3).cost == other.run(3).cost
    np.testing.assert_array_equal(net.vector, twin.vector)


def test_a_seed_gives_the_same_network_everywhere(lab):
    for dtype, other in (("float32", "float64"), ("float64", "float32")):
        first = network(lab, dtype=dtype, rng=5)
        for second in (
            network(lab, dtype=dtype, rng=5),
            network(lab, dtype=dtype, rng=np.random.default_rng(5)),
            bp.Network((3, 4, 2), backend="numpy", dtype=dtype, rng=5),
            network(lab, dtype=other, rng=5),
        ):
            for a, b in zip(first.weights, second.weights, strict=True):
                lab.assert_close(a, second.backend.to_numpy(b), 1e-7)
        different = network(lab, dtype=dtype, rng=6)
        assert not np.array_equal(lab.numpy(first.vector), lab.numpy(different.vector))
    unseeded = [lab.numpy(network(lab, rng=None).vector) for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_a_generator_is_used_and_not_copied(lab):
    rng = np.random.default_rng(0)
    net = network(lab, rng=rng)
    assert net.rng is rng
    assert not np.array_equal(lab.numpy(net.vector), lab.numpy(network(lab, rng=rng).vector))


@pytest.mark.parametrize("name", ["gaussian", "scaled_gaussian"])
@pytest.mark.parametrize("sizes", [(400, 250, 100), (50, 1000, 30)])
def test_initial_parameters(lab, name, sizes):
    net = network(lab, sizes, initializer=name)
    for n, w, b in zip(sizes, net.weights, net.biases, strict=False):
        w, b = lab.numpy(w), lab.numpy(b)
        σ = 1 / np.sqrt(n) if name == "scaled_gaussian" else 1
        # five standard errors of the mean and of the standard deviation
        assert abs(w.mean()) < 5 * σ / np.sqrt(w.size)
        assert abs(w.std() - σ) < 5 * σ / np.sqrt(2 * w.size)
        assert abs(((w / σ) ** 3).mean()) < 5 * np.sqrt(15 / w.size)
        if name == "gaussian":
            assert abs(b.mean()) < 5 / np.sqrt(b.size)
            assert abs(b.std() - 1) < 5 / np.sqrt(2 * b.size)
        else:
            assert not b.any()
    assert np.unique(lab.numpy(net.weights[0])).size == sizes[0] * sizes[1]


def test_the_default_initializer(lab):
    np.testing.assert_array_equal(
        lab.numpy(network(lab).vector),
        lab.numpy(network(lab, initializer="scaled_gaussian").vector),
    )


def tanh(z):
    return array_namespace(z).tanh(z)


PARTS = {
    "of a": bp.Activation("own", tanh, lambda a: 1 - a * a, "a"),
    "of z": bp.Activation("own", tanh, lambda z: 1 - tanh(z) ** 2),
}


@pytest.mark.parametrize("of", PARTS)
@pytest.mark.parametrize("place", ["hidden", "last", "one neuron", "all"])
def test_an_activation_of_the_users_own(lab, of, place):
    X, Y = (lab.array(a) for a in data())
    layers = {
        "hidden": lambda σ: [σ, "sigmoid"],
        "last": lambda σ: ["sigmoid", σ],
        "one neuron": lambda σ: [["sigmoid", σ, σ, "relu"], "linear"],
        "all": lambda σ: σ,
    }[place]
    net, twin = network(lab, activations=layers(PARTS[of])), network(lab, activations=layers("tanh"))
    lab.assert_close(net.feedforward(X), lab.numpy(twin.feedforward(X)), 1e-13)
    lab.assert_close(net.backprop(X, Y).vector, lab.numpy(twin.backprop(X, Y).vector), 1e-13)
    for one in (net, twin):
        one.fit(X, Y, epochs=2, batch_size=4, progress=False)
    lab.assert_close(net.vector, lab.numpy(twin.vector), 1e-13)
    assert bp.check_gradient(net, X, Y).passed


def quartic():
    return bp.Cost(
        "quartic",
        lambda a, y: array_namespace(a).sum((a - y) ** 4, axis=-2),
        lambda a, y: 4 * (a - y) ** 3,
    )


def test_a_sine_and_a_quartic(lab):
    X, Y = data()
    net = network(lab, activations=[sine(lab), "linear"], cost=quartic())
    assert bp.check_gradient(net, lab.array(X), lab.array(Y)).passed
    a = np.sin(lab.numpy(net.weights[0]) @ X + lab.numpy(net.biases[0]))
    a = lab.numpy(net.weights[1]) @ a + lab.numpy(net.biases[1])
    found = net.evaluate(lab.array(X), lab.array(Y))
    np.testing.assert_allclose(found["cost"], ((a - Y) ** 4).sum() / 11, rtol=1e-12)


def test_an_activation_of_another_shape_is_named(lab):
    def first_row(z):
        return z[:1, :]

    net = network(lab, activations=[bp.Activation("odd", first_row, first_row), "linear"])
    with pytest.raises(ValueError, match=r"custom odd gave an array of shape \(1, 11\).*\(4, 11\)"):
        net.feedforward(lab.array(data()[0]))


def test_networks_on_two_devices_do_not_meet():
    backends = [
        bp.backends.ArrayAPIBackend(array_api_strict, array_api_strict.Device(f"device{i}"))
        for i in (1, 2)
    ]
    first, second = (bp.Network((3, 2), backend=backend, rng=0) for backend in backends)
    X = data()[0]
    outputs = [net.feedforward(X) for net in (first, second)]
    assert [str(a.device) for a in outputs] == [str(net.backend.device) for net in (first, second)]


def test_setting_a_view_writes_into_the_vector(lab):
    net = network(lab)
    net.weights[1] = lab.array(np.full((2, 4), 7.0), net.dtype)
    assert (lab.numpy(net.parameters.blocks[1])[:, :4] == 7).all()
    width = net.parameters.blocks[1].shape[1]
    assert (lab.numpy(net.vector)[-2 * width :].reshape(2, width)[:, :4] == 7).all()
    with pytest.raises(Exception, match=r"broadcast|shape"):
        net.weights[1] = lab.array(np.ones((4, 2)), net.dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.dtype("float64"), "f8"])
def test_dtypes_as_numpy_writes_them(dtype):
    assert bp.Network([2, 1], dtype=dtype).dtype == "float64"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_that_overflow_give_no_warnings(lab, dtype):
    # nor do products of finite numbers: OpenBLAS's raise flags of numbers that it reads and doesn't use
    net = network(lab, (2, 3, 2), activations="linear", dtype=dtype)
    big = float(np.finfo(dtype).max) ** 0.75
    net.weights[0][...] = lab.array([[big, -big], [-big, big], [big, big]], dtype)
    net.weights[1][...] = lab.array([[big, -big, big], [big, big, -big]], dtype)
    X, Y = lab.array([[big, -big], [big, 1.0]], dtype), lab.array([[1.0, big], [big, -big]], dtype)
    assert not np.isfinite(lab.numpy(net.feedforward(X))).all()
    assert not np.isfinite(net.evaluate(X, Y)["cost"])
    for per_example in (None, "gradients", "norms"):
        plan = net.plan(2, per_example=per_example)
        plan.load(X, Y)
        assert not np.isfinite(plan.run().cost)
    curvature = bp.Curvature(net, X, Y)
    one = network(lab, (2, 2), activations="linear", dtype=dtype)
    one.weights[0][...] = lab.array([[big, big], [big, big]], dtype)
    for found in (
        net.backprop(X, Y).vector,
        bp.input_gradients(one, 0 * X, Y),  # finite but for the last product
        bp.jacobians(net, X),
        curvature.hessian_vector(net.vector),
        curvature.gauss_newton_vector(net.vector),
    ):
        assert not np.isfinite(lab.numpy(found)).all()
