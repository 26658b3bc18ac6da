"""Networks in files: what is saved comes back, whole or not at all, and nothing in a file is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bpengine as bp
from bpengine import persistence

many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

LAYERS = {
    "sigmoid": {},
    "softmax": {"activations": ["gelu", "softmax"], "cost": "softmax_cross_entropy"},
    "per neuron": {
        "activations": [["tanh", "tanh", "swish", "relu"], ["sigmoid", "sigmoid"]],
        "cost": "binary_cross_entropy",
    },
}


def network(lab, **options):
    return bp.Network(
        (3, 4, 2),
        backend=lab.backend,
        **{"initializer": "gaussian", "rng": 3, "dtype": "float32", **options},
    )


def arrays(net):
    return [np.array(net.backend.to_numpy(a)) for a in (*net.weights, *net.biases)]


def assert_same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_round_trip(lab, tmp_path, layers, dtype, kind):
    path = tmp_path / "net.npz"
    net = network(lab, dtype=dtype, **LAYERS[layers])
    net.save(kind(path))
    loaded = bp.load(kind(path), backend=lab.backend)
    assert repr(loaded) == repr(net)
    assert_same(loaded, net)
    X = lab.array(np.linspace(-2, 2, 15).reshape(3, 5))
    np.testing.assert_array_equal(lab.numpy(loaded.feedforward(X)), lab.numpy(net.feedforward(X)))
    assert os.listdir(tmp_path) == ["net.npz"]


def test_saved_on_one_backend_and_loaded_on_another(lab, tmp_path):
    net = network(lab)
    net.save(tmp_path / "net.npz")
    X = np.linspace(-2, 2, 15).reshape(3, 5)
    on_numpy = bp.load(tmp_path / "net.npz", backend="numpy")
    assert_same(on_numpy, net)
    on_numpy.save(tmp_path / "numpy.npz")
    back = bp.load(tmp_path / "numpy.npz", backend=lab.backend)
    assert_same(back, net)
    assert back.backend is lab.backend
    inferred = bp.load(tmp_path / "net.npz")
    given_X = lab.array(X)
    assert type(inferred.feedforward(given_X)) is type(given_X)
    lab.assert_close(inferred.feedforward(given_X), on_numpy.feedforward(X), 1e-6)


def test_a_loaded_network_learns_on(lab, tmp_path):
    net = network(lab, dtype="float64")
    net.save(tmp_path / "net.npz")
    loaded = bp.load(tmp_path / "net.npz", backend=lab.backend)
    X, Y = lab.array(np.linspace(-2, 2, 15).reshape(3, 5)), lab.array(np.eye(5)[:2])
    for one in (net, loaded):
        one.rng = np.random.default_rng(0)
        one.fit(X, Y, epochs=2, batch_size=2, progress=False)
    assert_same(loaded, net)


def test_a_file_is_replaced(lab, tmp_path):
    path = tmp_path / "net.npz"
    network(lab, rng=0).save(path)
    network(lab, rng=1).save(path)
    assert_same(bp.load(path), network(lab, rng=1))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask to speak of")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        bp.Network([2, 1]).save(tmp_path / "net.npz")
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "net.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


class FullError(OSError):
    pass


def fail(*arguments, **options):
    raise FullError(28, "No space left on device")


def write_half(file, **options):
    file.write(b"half of it")
    fail()


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("kept", [True, False], ids=["over a file", "anew"])
@pytest.mark.parametrize(
    ("where", "what", "failure", "error"),
    [
        (np, "savez", write_half, FullError),
        (np, "savez", interrupt, KeyboardInterrupt),
        (os, "fsync", fail, FullError),
        (os, "replace", fail, FullError),
        (os, "replace", interrupt, KeyboardInterrupt),
    ],
    ids=["writing", "Ctrl-C while writing", "flushing", "renaming", "Ctrl-C before renaming"],
)
def test_all_or_nothing(lab, tmp_path, monkeypatch, where, what, failure, error, kept):
    path = tmp_path / "net.npz"
    if kept:
        network(lab, rng=0).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(where, what, failure)
        with pytest.raises(error):
            network(lab, rng=1).save(path)
    assert os.listdir(tmp_path) == (["net.npz"] if kept else [])
    if kept:
        assert_same(bp.load(path), network(lab, rng=0))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        bp.Network([2, 1]).save(tmp_path / "absent" / "net.npz")
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        bp.load(tmp_path / "absent.npz")


DESCRIPTION = {
    "format": persistence.FORMAT,
    "sizes": [2, 3, 1],
    "activations": ["tanh", "sigmoid"],
    "cost": "quadratic",
    "dtype": "float32",
}
ARRAYS = {
    "weights_0": np.ones((3, 2), "f4"),
    "weights_1": np.ones((1, 3), "f4"),
    "biases_0": np.ones((3, 1), "f4"),
    "biases_1": np.ones((1, 1), "f4"),
}


def npz(description=DESCRIPTION, save=np.savez, **changes):
    text = description if isinstance(description, (str, np.ndarray)) else json.dumps(description)
    file = io.BytesIO()
    kept = {name: a for name, a in {**ARRAYS, **changes}.items() if a is not None}
    save(file, description=np.array(text), **kept)
    return file.getvalue()


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return exploded.append, (True,)


exploded = []


def refused(tmp_path, content, *parts, **options):
    """Load a file of this content; give the error, which is the one and clear."""
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            bp.load(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.type is ValueError
    message = str(caught.value)
    assert str(path) in message
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not exploded
    assert peak < 2**23 + 4 * len(content)


def test_the_file_that_the_others_are_variants_of(tmp_path):
    path = tmp_path / "net.npz"
    path.write_bytes(npz())
    net = bp.load(path)
    assert (net.sizes, net.cost.name, net.dtype) == ((2, 3, 1), "quadratic", "float32")
    assert [σ.name for σ in net.activations] == DESCRIPTION["activations"]
    assert (net.vector == 1).all()


FOREIGN = {
    "empty": b"",
    "text": b"weights: 1, 2, 3\n",
    "JSON": json.dumps(DESCRIPTION).encode(),
    "a pickle": pickle.dumps(Bomb()),
    "zeros": bytes(5000),
    "an array alone": (lambda f: (np.save(f, np.ones(3)), f.getvalue())[1])(io.BytesIO()),
    "an array of a pickle": (
        lambda f: (np.save(f, np.array([Bomb()], object), allow_pickle=True), f.getvalue())[1]
    )(io.BytesIO()),
    "an empty archive": (lambda f: (zipfile.ZipFile(f, "w").close(), f.getvalue())[1])(io.BytesIO()),
    "other arrays": (lambda f: (np.savez(f, x=np.ones(3)), f.getvalue())[1])(io.BytesIO()),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(tmp_path, kind):
    refused(tmp_path, FOREIGN[kind], "no network that bpengine saved")


def test_a_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="no network that bpengine saved"):
        bp.load(tmp_path)


def archive(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in entries.items():
            zipped.writestr(name, content)
    return file.getvalue()


def test_an_archive_of_other_things(tmp_path):
    refused(tmp_path, archive({"mimetype": "a document", "content.xml": "<a/>"}))


@pytest.mark.parametrize("name", ["description", "weights_0", "more"])
def test_a_pickle_in_an_archive_is_not_run(tmp_path, name):
    hostile = np.array([Bomb()], object)
    if name == "description":
        refused(tmp_path, npz(hostile), "foreign.npz")
    else:
        refused(tmp_path, npz(**{name: hostile}), "foreign.npz")


def header(shape, descr="<f4"):
    """The beginning of an array's file: what it claims to hold."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def members(**changes):
    """The entries of a good archive, some of them changed."""
    with zipfile.ZipFile(io.BytesIO(npz())) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()} | changes


CLAIMS = {
    "100 MB": (5_000, 5_000),
    "4 TB": (2**20, 2**20),
    "more than there is": (2**31, 2**31),
    "more than a number holds": (2**62, 2**62),
    "a negative size": (-1, 3),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_an_array_that_claims_to_be_huge(tmp_path, claim):
    content = archive(members(**{"weights_0.npy": header(CLAIMS[claim]) + bytes(24)}))
    refused(tmp_path, content, "foreign.npz")


@pytest.mark.parametrize("descr", ["|O", "<U9", "[('a', '<f4')]", "no dtype", "<f4'", "__import__"])
def test_an_array_of_an_odd_dtype(tmp_path, descr):
    content = archive(members(**{"weights_0.npy": header((3, 2), descr) + bytes(24 * 9)}))
    refused(tmp_path, content, "foreign.npz")


@pytest.mark.parametrize("where", ["weights_0", "more"])
def test_a_compressed_archive_that_would_fill_the_memory(tmp_path, where):
    zeros = np.zeros(2**25, "uint8")
    content = npz(save=np.savez_compressed, **{where: zeros})
    assert len(content) < 10**5
    refused(tmp_path, content, "foreign.npz")


def test_an_encrypted_archive(tmp_path):
    content = bytearray(npz())
    for at in range(len(content)):  # the flag of encryption, in both headers of every entry
        if content[at : at + 4] == b"PK\x03\x04":
            content[at + 6] |= 1
        elif content[at : at + 4] == b"PK\x01\x02":
            content[at + 8] |= 1
    refused(tmp_path, bytes(content), "foreign.npz")


def test_an_archive_compressed_in_an_unknown_way(tmp_path):
    content = bytearray(npz())
    for at in range(len(content)):
        if content[at : at + 4] == b"PK\x03\x04":
            content[at + 8] = 77
        elif content[at : at + 4] == b"PK\x01\x02":
            content[at + 10] = 77
    refused(tmp_path, bytes(content), "foreign.npz")


WRONG_ARRAYS = {
    "transposed": ({"weights_0": np.ones((2, 3), "f4")}, ["weights_0", "(2, 3)", "(3, 2)"]),
    "flat biases": ({"biases_0": np.ones(3, "f4")}, ["biases_0", "(3,)", "(3, 1)"]),
    "float64": ({"weights_1": np.ones((1, 3))}, ["weights_1", "float64", "float32"]),
    "whole numbers": ({"weights_1": np.ones((1, 3), "i4")}, ["weights_1", "int32", "float32"]),
    "missing weights": ({"weights_1": None}, ["weights_1"]),
    "missing biases": ({"biases_0": None}, ["biases_0"]),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_arrays_that_do_not_fit(tmp_path, case):
    changes, parts = WRONG_ARRAYS[case]
    refused(tmp_path, npz(**changes), *parts)


def without(key):
    return {name: value for name, value in DESCRIPTION.items() if name != key}


WRONG_DESCRIPTIONS = {
    "no JSON": ("{", []),
    "a list": ("[]", []),
    "a number": ("NaN", []),
    "deep": ("[" * 100_000, []),
    "a long number": ('{"format": ' + "9" * 10_000 + "}", []),
    "bytes": (np.array(b"\xff\xfe"), []),
    "several": (np.array(["{}", "{}"]), []),
    "another format": ({**DESCRIPTION, "format": "bpengine network 99"}, ["bpengine network 99"]),
    "no format": (without("format"), ["format"]),
    "no sizes": (without("sizes"), ["sizes"]),
    "no activations": (without("activations"), ["activations"]),
    "no cost": (without("cost"), ["cost"]),
    "no dtype": (without("dtype"), ["dtype"]),
    "NaN sizes": ({**DESCRIPTION, "sizes": [float("nan"), 3, 1]}, ["sizes"]),
    "infinite sizes": ({**DESCRIPTION, "sizes": [2, float("inf"), 1]}, ["sizes"]),
    "negative sizes": ({**DESCRIPTION, "sizes": [2, -3, 1]}, ["sizes"]),
    "text for sizes": ({**DESCRIPTION, "sizes": "231"}, ["sizes"]),
    "one size": ({**DESCRIPTION, "sizes": [2]}, ["sizes"]),
    "large sizes": ({**DESCRIPTION, "sizes": [2, 3000, 3000, 1]}, []),
    "huge sizes": ({**DESCRIPTION, "sizes": [2, 10**7, 10**7]}, []),
    "sizes beyond numbers": ({**DESCRIPTION, "sizes": [2, 10**30, 1]}, []),
    "other sizes": ({**DESCRIPTION, "sizes": [2, 4, 1]}, ["weights_0"]),
    "a number for activations": ({**DESCRIPTION, "activations": 3}, ["activation"]),
    "nothing for activations": ({**DESCRIPTION, "activations": None}, ["activation"]),
    "numbers for activations": ({**DESCRIPTION, "activations": [1, 2]}, ["activation"]),
    "too many activations": ({**DESCRIPTION, "activations": ["tanh"] * 3}, ["3 entries"]),
    "a list for a cost": ({**DESCRIPTION, "cost": ["quadratic"]}, ["cost"]),
    "a cost that does not fit": (
        {**DESCRIPTION, "cost": "softmax_cross_entropy"},
        ["needs a softmax output"],
    ),
    "an unknown dtype": ({**DESCRIPTION, "dtype": "float16"}, ["float16"]),
    "nothing for a dtype": ({**DESCRIPTION, "dtype": None}, ["dtype"]),
}


@pytest.mark.parametrize("case", WRONG_DESCRIPTIONS)
def test_descriptions_that_are_wrong(tmp_path, case):
    description, parts = WRONG_DESCRIPTIONS[case]
    refused(tmp_path, npz(description), *parts)


GOOD = npz()


def gives_a_network_or_a_value_error(tmp_path, content):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    try:
        net = bp.load(path)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(path) in str(error)
        return None
    return net


@many
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"PK\x03\x04" + tail))
def test_any_bytes(tmp_path, content):
    assert gives_a_network_or_a_value_error(tmp_path, content) is None


@many
@given(st.integers(0, len(GOOD) - 1))
def test_a_file_cut_short(tmp_path, length):
    assert gives_a_network_or_a_value_error(tmp_path, GOOD[:length]) is None


def is_the_good_one(net):
    return net.sizes == (2, 3, 1) and bool((net.vector == 1).all())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.booleans())
def test_a_byte_changed(tmp_path, at, change, compressed):
    content = bytearray(npz(save=np.savez_compressed) if compressed else GOOD)
    content[at % len(content)] ^= change
    net = gives_a_network_or_a_value_error(tmp_path, bytes(content))
    # the archive has checksums of its contents
    assert net is None or is_the_good_one(net)


@many
@given(
    st.sampled_from(sorted(members())),
    st.data(),
)
def test_a_byte_changed_under_a_right_checksum(tmp_path, name, data):
    entries = members()
    content = bytearray(entries[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    net = gives_a_network_or_a_value_error(tmp_path, archive({**entries, name: bytes(content)}))
    assert net is None or net.vector.size == 3 * 3 + 4


def quartic(a, y):
    return array_namespace(a).sum((a - y) ** 4, axis=-2)


OWN_ACTIVATION = bp.Activation(
    "own tanh", lambda z: array_namespace(z).tanh(z), lambda a: 1 - a * a, "a"
)
OWN_COST = bp.Cost("quartic", quartic, lambda a, y: 4 * (a - y) ** 3)


def test_an_activation_of_the_users_own_is_asked_for(lab, tmp_path):
    path = tmp_path / "own.npz"
    for layers in ([OWN_ACTIVATION, "linear"], [[OWN_ACTIVATION, *["tanh"] * 3], "linear"]):
        net = network(lab, activations=layers)
        net.save(path)
        refused(tmp_path, path.read_bytes(), "'own tanh'", "activations=")
        loaded = bp.load(path, activations=layers, backend=lab.backend)
        assert_same(loaded, net)
        X = lab.array(np.linspace(-1, 1, 6).reshape(3, 2))
        np.testing.assert_array_equal(lab.numpy(loaded.feedforward(X)), lab.numpy(net.feedforward(X)))


def test_a_cost_of_the_users_own_is_asked_for(lab, tmp_path):
    path = tmp_path / "own.npz"
    net = network(lab, cost=OWN_COST)
    net.save(path)
    refused(tmp_path, path.read_bytes(), "'quartic'", "cost=")
    loaded = bp.load(path, cost=OWN_COST, backend=lab.backend)
    X, Y = lab.array(np.linspace(-1, 1, 6).reshape(3, 2)), lab.array(np.eye(2))
    assert loaded.evaluate(X, Y) == net.evaluate(X, Y)
