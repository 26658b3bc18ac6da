"""Safetensors: the names that PyTorch gives tensors, and networks that another program saved."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from strategies import cases, examples

import bpengine as bp

rng = np.random.default_rng(0)
W1, b1 = rng.standard_normal((4, 3)).astype("f4"), rng.standard_normal(4).astype("f4")
W2, b2 = rng.standard_normal((2, 4)).astype("f4"), rng.standard_normal(2).astype("f4")
PLAIN = {"0.weight": W1, "0.bias": b1, "2.weight": W2, "2.bias": b2}
GIVEN = {"activations": ["relu", "linear"], "cost": "quadratic"}


def load(tmp_path, tensors, metadata=None, **options):
    path = tmp_path / "theirs.safetensors"
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    return bp.load(path, **{**GIVEN, **options})


@examples(30)
@given(cases(dtypes=("float32", "float64")))
def test_our_tensors_have_the_names_and_shapes_of_linear_layers_in_sequence(lab, tmp_path, case):
    net = case.network(lab)
    net.save(tmp_path / "net.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    assert set(found) == {f"{2 * l}.{of}" for l in range(case.layers) for of in ("weight", "bias")}
    for l, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        assert found[f"{2 * l}.weight"].dtype == found[f"{2 * l}.bias"].dtype == case.dtype
        np.testing.assert_array_equal(found[f"{2 * l}.weight"], lab.numpy(w))
        np.testing.assert_array_equal(found[f"{2 * l}.bias"], lab.numpy(b)[:, 0])


def test_our_description_is_in_the_metadata(tmp_path):
    bp.Network([3, 4, 2], rng=0, l2=0.5).save(tmp_path / "net.safetensors")
    with safetensors.safe_open(tmp_path / "net.safetensors", "numpy") as file:
        description = json.loads(file.metadata()["bpengine"])
    assert (description["sizes"], description["cost"], description["l2"]) == (
        [3, 4, 2],
        "quadratic",
        0.5,
    )


def test_metadata_makes_changed_tensors_a_network(tmp_path):
    path = tmp_path / "net.safetensors"
    net = bp.Network([3, 4, 2], activations=["tanh", "sigmoid"], rng=0)
    net.save(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    changed = {name: 2 * array for name, array in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(changed, path, metadata=metadata)
    loaded = bp.load(path)
    assert repr(loaded) == repr(net)
    np.testing.assert_array_equal(loaded.vector, 2 * net.vector)


NAMES = {
    "Sequential": ["0", "2"],
    "indices with gaps": ["3", "17"],
    "indices that are no text in order": ["9", "10"],
    "a prefix": ["layers.0", "layers.1"],
    "two prefixes": ["module.net.1", "module.net.4"],
    "numbers in a prefix": ["block2.fc0", "block2.fc1"],
    "attributes": ["fc1", "fc2"],
    "zeros in front": ["layer_01", "layer_02"],
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_state_dict_of_another_program(lab, tmp_path, names, metadata):
    one, two = NAMES[names]
    tensors = {f"{two}.bias": b2, f"{one}.bias": b1, f"{two}.weight": W2, f"{one}.weight": W1}
    net = load(tmp_path, tensors, metadata, backend=lab.backend)
    assert (net.sizes, net.dtype, net.cost.name) == ((3, 4, 2), "float32", "quadratic")
    assert (net.dropout, net.l1, net.l2) == ((0.0, 0.0), 0.0, 0.0)
    X = rng.standard_normal((3, 5)).astype("f4")
    expected = W2 @ np.maximum(W1 @ X + b1[:, None], 0) + b2[:, None]
    lab.assert_close(net.feedforward(lab.array(X)), expected, 1e-5)


def test_a_layer_without_a_bias_has_a_bias_of_zero(tmp_path):
    net = load(tmp_path, {"0.weight": W1, "2.weight": W2, "2.bias": b2})
    assert not net.biases[0].any()
    np.testing.assert_array_equal(net.biases[1][:, 0], b2)


def test_one_layer(tmp_path):
    net = load(tmp_path, {"weights.0.weight": W1}, activations="linear")
    assert net.sizes == (3, 4)
    np.testing.assert_array_equal(net.weights[0], W1)


@pytest.mark.parametrize(
    ("weights", "biases", "network"),
    [
        ("float32", "float32", "float32"),
        ("float16", "float16", "float32"),
        ("float16", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("float32", "float64", "float64"),
        ("float64", "float16", "float64"),
    ],
)
def test_dtypes(tmp_path, weights, biases, network):
    dtypes = {"weight": weights, "bias": biases}
    tensors = {name: array.astype(dtypes[name[2:]]) for name, array in PLAIN.items()}
    net = load(tmp_path, tensors)
    assert net.dtype == network
    np.testing.assert_array_equal(net.weights[0], tensors["0.weight"])
    np.testing.assert_array_equal(net.biases[1][:, 0], tensors["2.bias"])


def framed(dtype, shape, data):
    header = {"0.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@examples(50)
@given(values=st.lists(st.floats(width=32), min_size=6, max_size=6))
def test_bfloat16(tmp_path, values):
    exact = np.array(values, "<f4").view("<u4") & 0xFFFF0000  # what a bfloat16 can hold
    path = tmp_path / "half.safetensors"
    path.write_bytes(framed("BF16", [2, 3], (exact >> 16).astype("<u2").tobytes()))
    net = bp.load(path, activations="linear", cost="quadratic")
    assert net.dtype == "float32"
    np.testing.assert_array_equal(net.weights[0].copy().view("u4"), exact.reshape(2, 3))


@pytest.mark.parametrize(
    ("dtype", "size", "says"),
    [("F8_E4M3", 1, "F8_E4M3"), ("I8", 1, "I8"), ("I64", 8, "int64"), ("BOOL", 1, "bool")],
)
def test_dtypes_that_parameters_do_not_have(tmp_path, dtype, size, says):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(framed(dtype, [2, 3], bytes(6 * size)))
    with pytest.raises(ValueError, match=rf"0\.weight.*{says}"):
        bp.load(path, activations="linear", cost="quadratic")


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"activations": None}, "activations="),
        ({"cost": None}, "cost="),
        ({"activations": None, "cost": None}, "activations="),
    ],
)
def test_what_a_state_dict_does_not_say_is_asked_for(tmp_path, options, missing):
    with pytest.raises(ValueError, match=rf"theirs\.safetensors.*pass {missing}"):
        load(tmp_path, PLAIN, **options)


CONVOLUTION = np.zeros((8, 3, 5, 5), "f4")
WRONG = {
    "a convolution": (
        {"0.weight": CONVOLUTION, "0.bias": np.zeros(8, "f4")},
        ["0.weight", "(8, 3, 5, 5)"],
    ),
    "a convolution among others": (PLAIN | {"1.weight": CONVOLUTION}, ["1.weight", "(8, 3, 5, 5)"]),
    "a norm": ({**PLAIN, "1.weight": b1, "1.bias": b1}, ["1.weight", "(4,)"]),
    "a norm's averages": ({**PLAIN, "1.running_mean": b1}, ["1.running_mean"]),
    "an attribute": ({**PLAIN, "out.weight": W2}, ["out.weight"]),
    "two prefixes": ({"a.0.weight": W1, "b.2.weight": W2}, ["a.0.weight", "b.2.weight"]),
    "a bias alone": ({**PLAIN, "4.bias": b2}, ["4.bias"]),
    "a bias of two axes": ({**PLAIN, "0.bias": b1[:, None]}, ["0.bias", "(4, 1)"]),
    "a bias too long": ({**PLAIN, "0.bias": W2[0, :3]}, ["0.bias", "(3,)", "(4,)"]),
    "a layer twice": ({**PLAIN, "00.weight": W1}, ["0.weight", "00.weight", "same layer"]),
    "layers that do not join": ({**PLAIN, "4.weight": W2}, ["layer 2 gives 2", "layer 3 takes 4"]),
    "an order that does not fit": ({"0.weight": W2, "2.weight": W1}, ["layer 1 gives 2", "takes 3"]),
    "our own state": ({**PLAIN, "state_velocity": b1}, ["state_velocity"]),
    "no rows": ({"0.weight": np.zeros((0, 3), "f4")}, ["sizes"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_chain_of_linear_layers(tmp_path, what):
    tensors, parts = WRONG[what]
    with pytest.raises(ValueError) as caught:
        load(tmp_path, tensors, activations="linear")
    for part in ("theirs.safetensors", *parts):
        assert part in str(caught.value)


def test_activations_that_do_not_fit_the_layers(tmp_path):
    with pytest.raises(ValueError, match="3 entries"):
        load(tmp_path, PLAIN, activations=["relu"] * 3)
    with pytest.raises(ValueError, match="softmax output"):
        load(tmp_path, PLAIN, cost="softmax_cross_entropy")
