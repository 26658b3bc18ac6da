"""PyTorch: networks to and from its modules, by safetensors files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bpengine as bp
from bpengine.model.activations import ACTIVATIONS

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file, save_model  # noqa: E402

nn = torch.nn
GUIDE = Path(__file__).parents[2] / "docs" / "saving-and-resuming.md"
MODULES = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "softmax": lambda: nn.Softmax(dim=1),
    "softplus": nn.Softplus,
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "swish": nn.SiLU,
}
many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sequential(sizes, activations, dtype="float64", bias=True):
    modules = []
    for n_in, n_out, σ in zip(sizes, sizes[1:], activations, strict=False):
        modules += [nn.Linear(n_in, n_out, bias=bias, dtype=getattr(torch, dtype)), MODULES[σ]()]
    return nn.Sequential(*modules)


def assert_same_function(net, model, tolerance=1e-12):
    X = np.random.default_rng(0).standard_normal((net.sizes[0], 7)).astype(net.dtype)
    ours = net.backend.to_numpy(net.feedforward(net.backend.asarray(X, net.dtype)))
    theirs = model(torch.tensor(X.T)).detach().numpy().T
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


@st.composite
def layers(draw):
    activations = draw(st.lists(st.sampled_from(sorted(MODULES)), min_size=1, max_size=4))
    count = len(activations) + 1
    return draw(st.lists(st.integers(1, 6), min_size=count, max_size=count)), activations


def test_all_activations_have_their_module():
    assert set(MODULES) == set(ACTIVATIONS) - {"exponential"}  # PyTorch has none


@many
@given(layers(), st.sampled_from(["numpy", "torch"]))
def test_pytorch_takes_what_we_saved(tmp_path, made, backend):
    net = bp.Network(*made, backend=backend, dtype="float64", initializer="gaussian", rng=1)
    net.save(tmp_path / "net.safetensors")
    model = sequential(*made)
    assert not any(model.load_state_dict(load_file(tmp_path / "net.safetensors")))
    assert_same_function(net, model)


@many
@given(layers(), st.sampled_from(["numpy", "torch"]), st.booleans())
def test_we_take_what_pytorch_saved(tmp_path, made, backend, bias):
    model = sequential(*made, bias=bias)
    save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    net = bp.load(
        tmp_path / "theirs.safetensors", activations=made[1], cost="quadratic", backend=backend
    )
    assert (list(net.sizes), net.dtype) == (made[0], "float64")
    assert_same_function(net, model)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_becomes_single(tmp_path, half):
    model = sequential([3, 5, 2], ["tanh", "sigmoid"], half)
    save_file(model.state_dict(), tmp_path / "half.safetensors")
    net = bp.load(tmp_path / "half.safetensors", activations=["tanh", "sigmoid"], cost="quadratic")
    assert net.dtype == "float32"
    assert_same_function(net, model.float(), 1e-6)
    np.testing.assert_array_equal(net.weights[0], model[0].weight.detach().numpy())


class ByList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 2)])

    def forward(self, x):
        return self.layers[1](torch.relu(self.layers[0](x)))


class ByAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


@pytest.mark.parametrize("kind", [ByList, ByAttribute])
def test_a_module_of_ones_own(tmp_path, kind):
    model = kind()
    save_model(model, tmp_path / "model.safetensors")
    net = bp.load(tmp_path / "model.safetensors", activations=["relu", "linear"], cost="quadratic")
    assert net.sizes == (3, 5, 2)
    assert_same_function(net, model, 1e-6)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2)), r"0\.weight.*\(4, 1, 3, 3\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), r"1\."),
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), r"1\.weight.*\(4,\)"),
        (nn.LSTM(3, 4), "l0"),
    ],
    ids=["Conv2d", "BatchNorm1d", "LayerNorm", "LSTM"],
)
def test_what_is_no_chain_of_linear_layers(tmp_path, model, named):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=named):
        bp.load(tmp_path / "model.safetensors", activations="relu", cost="quadratic")


def test_the_difference_between_the_two_forms_of_gelu():
    z = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    difference = (nn.GELU()(z) - nn.GELU(approximate="tanh")(z)).abs().max().item()
    assert 4e-4 < difference < 5e-4
    assert "differs by up to 5·10⁻⁴" in GUIDE.read_text(encoding="utf-8")


def test_the_guide_s_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    out, back, again = (block for block in blocks if ">>>" not in block)
    options = {"activations": ["tanh", "softmax"], "cost": "softmax_cross_entropy"}
    net = bp.Network([2, 8, 3], **options, l2=1e-4, rng=0)
    net.save("net.safetensors")
    X = np.random.default_rng(0).standard_normal((2, 5)).astype("float32")
    names = {"bp": bp, "X": X}

    exec(out, names)
    assert_same_function(net, names["model"], 1e-6)

    with torch.no_grad():
        names["model"][0].weight *= 2
    exec(back, names)
    assert repr(names["net"]) == repr(net)
    assert_same_function(names["net"], names["model"], 1e-6)
    assert names["net"].l2 == 0

    exec(again, names)
    assert repr(names["net"]) == repr(net)
    assert_same_function(names["net"], names["model"], 1e-6)
    assert names["net"].l2 == 1e-4
