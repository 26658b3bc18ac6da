"""PyTorch: its tensors as a backend, its autograd and its optimizer as a second opinion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpengine as bp
from bpengine.model.activations import ACTIVATIONS
from bpengine.model.costs import COSTS as BUILT_IN_COSTS

torch = pytest.importorskip("torch")
functional = torch.nn.functional

THEIRS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": lambda z: functional.leaky_relu(z, 0.01),
    "linear": lambda z: z,
    "softmax": lambda z: torch.softmax(z, 0),
    "softplus": functional.softplus,
    "exponential": torch.exp,
    "gelu": lambda z: functional.gelu(z, approximate="tanh"),
    "swish": functional.silu,
}
COSTS = {
    "quadratic": lambda a, y: ((a - y) ** 2).sum(0).mean() / 2,
    "absolute_error": lambda a, y: functional.l1_loss(a, y, reduction="none").sum(0).mean(),
    "huber": lambda a, y: functional.huber_loss(a, y, reduction="none").sum(0).mean(),
    "poisson": lambda a, y: (
        functional.poisson_nll_loss(a, y, log_input=False, eps=0, reduction="none").sum(0).mean()
    ),
    "binary_cross_entropy": lambda a, y: (
        functional.binary_cross_entropy(a, y, reduction="none").sum(0).mean()
    ),
    "softmax_cross_entropy": lambda a, y: -(y * torch.log(a)).sum(0).mean(),
}
OUTPUTS = {
    "quadratic": sorted(THEIRS),
    "absolute_error": sorted(THEIRS),
    "huber": sorted(THEIRS),
    "poisson": ["exponential", "sigmoid", "softmax", "softplus"],  # relu's 0 has no logarithm
    "binary_cross_entropy": ["sigmoid", "softmax"],
    "softmax_cross_entropy": ["softmax"],
}


def data(cost, rows, outputs, m, seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((rows, m)), rng.random((outputs, m))
    return X, Y / Y.sum(axis=0) if cost == "softmax_cross_entropy" else Y


def parameters(net):
    """The weights and biases of a network as leaves of a graph, in turn."""
    pairs = zip(net.weights, net.biases, strict=True)
    arrays = (np.array(net.backend.to_numpy(array)) for pair in pairs for array in pair)
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def their_cost(net, leaves, X, Y):
    a = torch.as_tensor(X)
    for σ, w, b in zip(net.activations, leaves[::2], leaves[1::2], strict=True):
        a = THEIRS[σ.name](w @ a + b)
    return COSTS[net.cost.name](a, torch.as_tensor(Y))


def assert_close(found, expected, tolerance):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1e-300, np.abs(expected).max())


@st.composite
def networks(draw):
    cost = draw(st.sampled_from(sorted(COSTS)))
    hidden = draw(st.lists(st.sampled_from(sorted(THEIRS)), max_size=3))
    last = draw(st.sampled_from(OUTPUTS[cost]))
    # a softmax of one neuron is always 1: no cross-entropy goes with it
    fewest = 2 if last == "softmax" and cost != "quadratic" else 1
    return {
        "sizes": [
            *(draw(st.integers(1, 7)) for _ in range(len(hidden) + 1)),
            draw(st.integers(fewest, 7)),
        ],
        "activations": [*hidden, last],
        "cost": cost,
        "backend": draw(st.sampled_from(["numpy", "torch"])),
        "dtype": "float64",
        "rng": draw(st.integers(0, 999)),
    }


def test_all_activations_and_costs_are_compared():
    assert set(THEIRS) == set(ACTIVATIONS)
    assert set(COSTS) == set(BUILT_IN_COSTS)


def check_gradients(made, m, seed):
    net = bp.Network(**made)
    X, Y = data(made["cost"], made["sizes"][0], made["sizes"][-1], m, seed)
    gradient = net.backprop(X, Y)
    leaves = parameters(net)
    cost = their_cost(net, leaves, X, Y)
    cost.backward()
    theirs = [leaf.grad.numpy() for leaf in leaves]
    scale = max(np.abs(array).max() for array in theirs)
    pairs = zip(gradient.weights, gradient.biases, strict=True)
    ours = [net.backend.to_numpy(array) for pair in pairs for array in pair]
    for found, expected in zip(ours, theirs, strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-12 * max(scale, 1.0)
    assert abs(gradient.cost - cost.item()) <= 1e-12 * max(1.0, abs(cost.item()))


@settings(max_examples=100)
@given(networks(), st.integers(1, 9), st.integers(0, 999))
def test_gradients_are_autograd_s(made, m, seed):
    check_gradients(made, m, seed)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", sorted(THEIRS))
def test_each_activation(name, backend):
    for cost, outputs in OUTPUTS.items():
        for last in {name} & set(outputs) or {outputs[0]}:
            made = {"sizes": [4, 6, 5, 3], "activations": [name, name, last], "cost": cost}
            check_gradients({**made, "backend": backend, "dtype": "float64", "rng": 1}, 8, 2)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("cost", sorted(COSTS))
def test_ten_steps_are_those_of_their_optimizer(cost, backend):
    net = bp.Network(
        [4, 6, 3],
        activations=["tanh", OUTPUTS[cost][0]],
        cost=cost,
        backend=backend,
        dtype="float64",
        rng=0,
    )
    X, Y = data(cost, 4, 3, 12, 5)
    leaves = parameters(net)
    sgd = torch.optim.SGD(leaves, lr=0.3)
    costs = []
    for _ in range(10):
        sgd.zero_grad()
        value = their_cost(net, leaves, X, Y)
        costs.append(value.item())
        value.backward()
        sgd.step()
    twin = bp.Network(net.sizes, net.activations, net.cost, backend, "float64", rng=0)
    plan = net.plan(12, bp.SGD(0.3))
    plan.load(X, Y)
    plan.run(10)
    history = twin.fit(X, Y, epochs=10, batch_size=12, optimizer=bp.SGD(0.3), progress=False)
    for one in (net, twin):
        pairs = zip(one.weights, one.biases, strict=True)
        ours = [one.backend.to_numpy(array) for pair in pairs for array in pair]
        for found, leaf in zip(ours, leaves, strict=True):
            assert_close(found, leaf.detach().numpy(), 1e-12)
    np.testing.assert_allclose(history.cost, costs, rtol=1e-12)
    assert abs(plan.cost - costs[-1]) <= 1e-12


@pytest.mark.parametrize("backend", ["torch", None], ids=["by name", "inferred"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "layers",
    [
        {"activations": ["relu", "softmax"], "cost": "softmax_cross_entropy"},
        {
            "activations": [["tanh", "gelu", "swish", "softplus"], "sigmoid"],
            "cost": "binary_cross_entropy",
        },
        {"activations": ["leaky_relu", "linear"]},
    ],
    ids=["softmax", "per neuron", "linear"],
)
def test_tensors_give_what_arrays_give(backend, dtype, layers):
    made = {"sizes": [3, 4, 2], "dtype": dtype, "rng": 2, **layers}
    net, numpy_net = bp.Network(**made, backend=backend), bp.Network(**made, backend="numpy")
    labels = np.arange(11) % 2
    X, Y = data("", 3, 2, 11, 0)[0], bp.one_hot(labels, 2, dtype)
    given_X, given_Y = torch.tensor(X), torch.tensor(Y)
    tolerance = 1e-5 if dtype == "float32" else 1e-13

    out = net.feedforward(given_X)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == getattr(torch, dtype)
    assert net.backend.name == "torch"
    assert_close(out, numpy_net.feedforward(X), tolerance)
    found, expected = net.backprop(given_X, given_Y), numpy_net.backprop(X, Y)
    assert_close(found.vector, expected.vector, tolerance)
    assert abs(found.cost - expected.cost) <= tolerance

    options = {"epochs": 3, "batch_size": 4, "progress": False}
    theirs = net.fit(given_X, given_Y, validation=(given_X, given_Y), **options)
    ours = numpy_net.fit(X, Y, validation=(X, Y), **options)
    assert_close(net.vector, numpy_net.vector, tolerance)
    np.testing.assert_allclose(theirs.cost, ours.cost, rtol=10 * tolerance)
    np.testing.assert_allclose(theirs.validation_cost, ours.validation_cost, rtol=10 * tolerance)
    assert theirs.validation_accuracy == ours.validation_accuracy
    if net.cost.classification:
        assert net.evaluate(given_X, torch.tensor(labels)) == net.evaluate(given_X, given_Y)
    assert np.array_equal(given_X, X) and np.array_equal(given_Y, Y)


def test_tensors_that_are_in_a_graph_stay_out_of_ours():
    net = bp.Network([3, 4, 2], backend="torch", rng=0)
    X, Y = (torch.tensor(a, requires_grad=True) for a in data("", 3, 2, 5, 0))
    expected = bp.Network([3, 4, 2], backend="numpy", rng=0)
    plain = [a.detach().numpy() for a in (X, Y)]
    out = net.feedforward(X)
    assert not out.requires_grad
    assert_close(out, expected.feedforward(plain[0]), 1e-6)
    assert_close(net.backprop(X, Y).vector, expected.backprop(*plain).vector, 1e-5)
    net.fit(X, Y, epochs=2, batch_size=2, progress=False)
    expected.fit(*plain, epochs=2, batch_size=2, progress=False)
    assert not net.vector.requires_grad
    assert_close(net.vector, expected.vector, 1e-5)


def test_a_saved_network_of_tensors(tmp_path):
    net = bp.Network([3, 4, 2], backend="torch", rng=0)
    net.save(tmp_path / "net.npz")
    loaded = bp.load(tmp_path / "net.npz", backend="torch")
    assert torch.equal(loaded.vector, net.vector)
    assert np.array_equal(bp.load(tmp_path / "net.npz", backend="numpy").vector, net.vector)


def test_tensors_and_arrays_are_not_mixed_up():
    X, _ = data("", 3, 2, 5, 0)
    with pytest.raises(TypeError, match="X is an array of torch; this network's backend is 'numpy'"):
        bp.Network([3, 2], backend="numpy").feedforward(torch.tensor(X))
    assert isinstance(bp.Network([3, 2], backend="torch").feedforward(X), torch.Tensor)


def test_read_only_arrays_are_taken_in():
    X, Y = (a.astype("float32") for a in data("", 3, 2, 5, 0))
    X.flags.writeable = Y.flags.writeable = False
    expected = bp.Network([3, 4, 2], backend="numpy", rng=0).backprop(X, Y)
    found = bp.Network([3, 4, 2], backend="torch", rng=0).backprop(X, Y)
    assert_close(found.vector, expected.vector, 1e-5)


def test_tensors_that_do_not_fit():
    net = bp.Network([3, 2], backend="torch")
    with pytest.raises(ValueError, match=r"Did you mean X\.T\?"):
        net.feedforward(torch.zeros((5, 3)))
    with pytest.raises(TypeError, match=r"X has dtype torch\.int64; expected floating point"):
        net.feedforward(torch.zeros((3, 5), dtype=torch.int64))
    with pytest.raises(ValueError, match="X holds 1 value"):
        net.feedforward(torch.tensor([[1.0], [float("nan")], [0.0]]))
