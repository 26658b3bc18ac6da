"""Networks in files: what is saved comes back to the last bit, whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy as safetensors_numpy
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st
from strategies import cases, examples, stored

import bpengine as bp
from bpengine.model import files, safetensors
from bpengine.model.costs import COSTS

KINDS = ["npz", "safetensors"]
kinds = pytest.mark.parametrize("kind", KINDS)

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
    """To the last bit, that of a NaN too."""
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


@kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("named", [str, lambda path: path], ids=["str", "Path"])
def test_round_trip(lab, tmp_path, kind, layers, dtype, named):
    path = tmp_path / f"net.{kind}"
    net = network(lab, dtype=dtype, **LAYERS[layers])
    net.save(named(path))
    loaded = bp.load(named(path), backend=lab.backend)
    assert repr(loaded) == repr(net)
    assert_same(loaded, net)
    X = lab.array(np.linspace(-2, 2, 15).reshape(3, 5))
    np.testing.assert_array_equal(lab.numpy(loaded.feedforward(X)), lab.numpy(net.feedforward(X)))
    assert os.listdir(tmp_path) == [path.name]


shares = st.floats(0, 0.9)


@kinds
@examples(40)
@given(cases(dtypes=("float32", "float64")), st.data())
def test_every_bit_of_any_network_comes_back(lab, tmp_path, kind, case, data):
    net = bp.Network(
        case.sizes,
        case.activations,
        case.cost,
        lab.backend,
        case.dtype,
        rng=case.seed,
        dropout=data.draw(st.lists(shares, min_size=case.layers, max_size=case.layers)),
        l1=data.draw(st.floats(0, 1e300)),
        l2=data.draw(st.floats(0, 1e300)),
        label_smoothing=data.draw(shares) if COSTS[case.cost].classification else 0.0,
    )
    rng = np.random.default_rng(case.seed)
    for view in (*net.weights, *net.biases):
        bits = rng.bytes(int(np.prod(view.shape)) * np.dtype(case.dtype).itemsize)
        view[...] = net.backend.asarray(np.frombuffer(bits, case.dtype).reshape(view.shape), case.dtype)
    net.save(tmp_path / f"net.{kind}")
    loaded = bp.load(tmp_path / f"net.{kind}", backend=lab.backend)
    assert repr(loaded) == repr(net)
    for option in files.OPTIONS:
        assert getattr(loaded, option) == getattr(net, option)
    assert_same(loaded, net)


@kinds
def test_saved_on_one_backend_and_loaded_on_another(lab, tmp_path, kind):
    net = network(lab)
    net.save(tmp_path / f"net.{kind}")
    X = np.linspace(-2, 2, 15).reshape(3, 5)
    on_numpy = bp.load(tmp_path / f"net.{kind}", backend="numpy")
    assert_same(on_numpy, net)
    on_numpy.save(tmp_path / f"numpy.{kind}")
    back = bp.load(tmp_path / f"numpy.{kind}", backend=lab.backend)
    assert_same(back, net)
    assert back.backend is lab.backend
    inferred = bp.load(tmp_path / f"net.{kind}")
    given_X = lab.array(X)
    assert type(inferred.feedforward(given_X)) is type(given_X)
    lab.assert_close(inferred.feedforward(given_X), on_numpy.feedforward(X), 1e-6)


@kinds
def test_a_loaded_network_learns_on(lab, tmp_path, kind):
    net = network(lab, dtype="float64")
    net.save(tmp_path / f"net.{kind}")
    loaded = bp.load(tmp_path / f"net.{kind}", backend=lab.backend)
    X, Y = lab.array(np.linspace(-2, 2, 15).reshape(3, 5)), lab.array(np.eye(5)[:2])
    for one in (net, loaded):
        one.rng = np.random.default_rng(0)
        one.fit(X, Y, epochs=2, batch_size=2, progress=False)
    assert_same(loaded, net)


@kinds
def test_a_file_is_replaced(lab, tmp_path, kind):
    path = tmp_path / f"net.{kind}"
    network(lab, rng=0).save(path)
    network(lab, rng=1).save(path)
    assert_same(bp.load(path), network(lab, rng=1))


@pytest.mark.parametrize("name", ["net", "net.npz.bak", "safetensors", "net.SafeTensors"])
def test_the_ending_of_the_name_says_the_format(tmp_path, name):
    net = bp.Network([2, 1], rng=0)
    net.save(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert zipfile.is_zipfile(tmp_path / name) == (name != "net.SafeTensors")
    assert_same(bp.load(tmp_path / name), net)


posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        bp.Network([2, 1]).save(tmp_path / "net.npz")
        (tmp_path / "other").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "net.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


@posix
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "net.npz"
    for mode in (0o600, 0o664):
        path.touch()
        path.chmod(mode)
        bp.Network([2, 1]).save(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path, monkeypatch):
    if getattr(os, "geteuid", lambda: 1)() == 0:  # root may write anything
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    path = tmp_path / "net.npz"
    path.write_bytes(b"kept")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match=r"net\.npz"):
        bp.Network([2, 1]).save(path)
    assert path.read_bytes() == b"kept"
    assert os.listdir(tmp_path) == ["net.npz"]
    path.chmod(0o644)


@posix
def test_a_link_stays_one(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "latest.npz").symlink_to("runs/1.npz")
    net = bp.Network([2, 1], rng=0)
    for _ in range(2):
        net.save(tmp_path / "latest.npz")
        assert (tmp_path / "latest.npz").is_symlink()
        assert_same(bp.load(tmp_path / "runs" / "1.npz"), net)


class FullError(OSError):
    pass


def fail(*arguments, **options):
    raise FullError(28, "No space left on device")


def write_half(file, *arguments, **options):
    file.write(b"half of it")
    fail()


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("existing", [True, False], ids=["over a file", "anew"])
@pytest.mark.parametrize(
    ("kind", "where", "what", "failure", "error"),
    [
        ("npz", np, "savez", write_half, FullError),
        ("npz", np, "savez", interrupt, KeyboardInterrupt),
        ("safetensors", safetensors, "write", write_half, FullError),
        ("safetensors", safetensors_numpy, "save", interrupt, KeyboardInterrupt),
        *(
            (kind, os, what, failure, error)
            for kind in KINDS
            for what, failure, error in (
                ("fsync", fail, FullError),
                ("replace", fail, FullError),
                ("replace", interrupt, KeyboardInterrupt),
            )
        ),
    ],
)
def test_all_or_nothing(lab, tmp_path, monkeypatch, kind, where, what, failure, error, existing):
    path = tmp_path / f"net.{kind}"
    if existing:
        network(lab, rng=0).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(where, what, failure)
        with pytest.raises(error):
            network(lab, rng=1).save(path)
    assert os.listdir(tmp_path) == ([path.name] if existing else [])
    if existing:
        assert_same(bp.load(path), network(lab, rng=0))


SAVES_ON_AND_ON = """
import sys, bpengine as bp
nets = [bp.Network([300, 300, 1], rng=seed) for seed in (0, 1)]
while True:
    for net in nets:
        net.save(sys.argv[1])
        print("saved", flush=True)
"""


@kinds
def test_a_process_that_is_killed_leaves_a_whole_file(tmp_path, kind):
    path = tmp_path / f"net.{kind}"
    command = [sys.executable, "-c", SAVES_ON_AND_ON, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for _ in range(5):
            assert process.stdout.readline() == b"saved\n"
        process.kill()
    loaded = bp.load(path)
    wanted = [bp.Network([300, 300, 1], rng=seed).vector for seed in (0, 1)]
    assert any((loaded.vector == vector).all() for vector in wanted)


@posix
@pytest.mark.parametrize("can", [True, False])
def test_file_and_folder_are_flushed_in_this_order(tmp_path, monkeypatch, can):
    flushed, flush = [], os.fsync

    def note(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append("folder" if folder else "file")
        if folder and not can:
            fail()
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    bp.Network([2, 1]).save(tmp_path / "net.npz")
    assert flushed == ["file", "folder"]
    assert bp.load(tmp_path / "net.npz").sizes == (2, 1)


@kinds
def test_a_folder_that_is_not_there(tmp_path, kind):
    path = tmp_path / "absent" / f"net.{kind}"
    for write in (bp.Network([2, 1]).save, lambda path: bp.Checkpoint(path).check(None)):
        with pytest.raises(FileNotFoundError, match=r"no such folder: '.*absent'$"):
            write(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        bp.load(tmp_path / f"absent.{kind}")


@kinds
def test_a_folder_in_place_of_a_file(tmp_path, kind):
    folder = tmp_path / f"net.{kind}"
    folder.mkdir()
    with pytest.raises(ValueError, match="a folder"):
        bp.load(folder)
    with pytest.raises(OSError):
        bp.Network([2, 1]).save(folder)
    assert os.listdir(tmp_path) == [folder.name]


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    net = bp.Network([2, 1])
    net.save(tmp_path / "kept.safetensors")
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install .bpengine\[safetensors\]"):
        net.save(tmp_path / "net.safetensors")
    assert_same(bp.load(tmp_path / "kept.safetensors"), net)  # reading needs no package
    assert os.listdir(tmp_path) == ["kept.safetensors"]
    net.save(tmp_path / "net.npz")
    assert_same(bp.load(tmp_path / "net.npz"), net)


GENERATORS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


@kinds
@pytest.mark.parametrize("bits", GENERATORS)
def test_a_checkpoint_is_a_network_and_more(lab, tmp_path, kind, bits):
    path = tmp_path / f"checkpoint.{kind}"
    net = network(lab)
    net.rng = np.random.Generator(bits(5))
    net.rng.integers(3, dtype="int32")  # half of a number is left over in the generator
    history = [1.5, 0.1, float("nan"), float("inf")]
    training = {"epoch": np.int64(4), "rng": net.rng.bit_generator.state, "history": {"cost": history}}
    state = {"state_velocity": np.arange(5.0), "state_step": np.array(7)}
    description, parameters = files.describe(net)
    files.write(path, {**description, "training": training}, parameters | state)

    assert_same(bp.load(path, backend=lab.backend), net)
    read, found = stored(path)
    assert {key: read[key] for key in description} == description
    assert read["format"] == files.FORMAT
    assert read["training"]["epoch"] == 4
    np.testing.assert_equal(read["training"]["history"]["cost"], history)
    assert set(found) == {*parameters, *state}
    for name, array in state.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)

    other = network(lab, rng=8)
    files.check_kind(other, read, found)
    files.fill(other, found)
    assert_same(other, net)
    other.rng = np.random.Generator(bits(0))
    other.rng.bit_generator.state = read["training"]["rng"]
    for draw in ({"dtype": "int32"}, {}):
        wanted = net.rng.integers(9, size=20, **draw)
        np.testing.assert_array_equal(other.rng.integers(9, size=20, **draw), wanted)


OTHER_NETWORKS = {
    "sizes": ((3, 5, 2), {}),
    "activations": ((3, 4, 2), {"activations": ["tanh", "sigmoid"]}),
    "cost": ((3, 4, 2), {"cost": "binary_cross_entropy"}),
    "dtype": ((3, 4, 2), {"dtype": "float64"}),
}


@kinds
@pytest.mark.parametrize("what", OTHER_NETWORKS)
def test_a_checkpoint_of_another_network_is_not_taken(lab, tmp_path, kind, what):
    path = tmp_path / f"checkpoint.{kind}"
    network(lab).save(path)
    sizes, options = OTHER_NETWORKS[what]
    other = bp.Network(sizes, backend=lab.backend, rng=0, **options)
    with pytest.raises(ValueError, match=f"network has {what} .*, this one "):
        files.check_kind(other, *stored(path))


@pytest.mark.parametrize("name", ["weights_1", "biases_0"])
def test_a_checkpoint_without_all_arrays_is_not_taken(lab, name):
    net = network(lab)
    description, parameters = files.describe(net)
    del parameters[name]
    with pytest.raises(ValueError, match=f"no {name}"):
        files.check_kind(network(lab), description, parameters)


def test_a_description_holds_what_json_can_hold(tmp_path):
    net = bp.Network([2, 1])
    description, parameters = files.describe(net)
    with pytest.raises(TypeError, match="what JSON can hold, not object"):
        files.write(tmp_path / "net.npz", {**description, "training": object()}, parameters)
    assert os.listdir(tmp_path) == []


def quartic(a, y):
    return array_namespace(a).sum((a - y) ** 4, axis=-2)


OWN_ACTIVATION = bp.Activation(
    "own tanh", lambda z: array_namespace(z).tanh(z), lambda a: 1 - a * a, "a"
)
OWN_COST = bp.Cost("quartic", quartic, lambda a, y: 4 * (a - y) ** 3)


@kinds
def test_an_activation_of_the_users_own_is_asked_for(lab, tmp_path, kind):
    path = tmp_path / f"own.{kind}"
    for layers in ([OWN_ACTIVATION, "linear"], [[OWN_ACTIVATION, *["tanh"] * 3], "linear"]):
        net = network(lab, activations=layers)
        net.save(path)
        with pytest.raises(ValueError, match=r"custom 'own tanh'.*activations= to load"):
            bp.load(path)
        loaded = bp.load(path, activations=layers, backend=lab.backend)
        assert_same(loaded, net)
        X = lab.array(np.linspace(-1, 1, 6).reshape(3, 2))
        np.testing.assert_array_equal(lab.numpy(loaded.feedforward(X)), lab.numpy(net.feedforward(X)))


@kinds
def test_a_cost_of_the_users_own_is_asked_for(lab, tmp_path, kind):
    path = tmp_path / f"own.{kind}"
    net = network(lab, cost=OWN_COST)
    net.save(path)
    with pytest.raises(ValueError, match=r"custom 'quartic'.*cost= to load"):
        bp.load(path)
    loaded = bp.load(path, cost=OWN_COST, backend=lab.backend)
    X, Y = lab.array(np.linspace(-1, 1, 6).reshape(3, 2)), lab.array(np.eye(2))
    assert loaded.evaluate(X, Y) == net.evaluate(X, Y)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_stack_is_read_as_it_was_written(tmp_path, suffix):
    pytest.importorskip("safetensors")
    nets = bp.Network([2, 4, 3], stack=2, rng=0, dropout=[0.0, (0.1, 0.2)])
    nets.vector[...] = np.arange(nets.vector.size)
    nets.save(tmp_path / f"nets{suffix}")
    found = bp.load(tmp_path / f"nets{suffix}")
    assert found.stack == (2,) and found.dropout == nets.dropout
    np.testing.assert_array_equal(found.vector, nets.vector)


def test_stacks_whose_biases_version_0_1_wrote_flat_are_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    nets = bp.Network([2, 4, 3], stack=2, rng=0)
    path = tmp_path / "nets.safetensors"
    nets.save(path)
    with open(path, "rb") as file:
        text = safetensors.contents(file)[0]
    tensors = {name: x if x.ndim == 3 else x.ravel() for name, x in numpy.load_file(path).items()}
    numpy.save_file(tensors, path, metadata={"bpengine": text})
    np.testing.assert_array_equal(bp.load(path).vector, nets.vector)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(os.devnull)])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, make):
    path = tmp_path / "net.npz"
    make(path)
    before = path.stat()
    with pytest.raises(OSError, match="no regular file"):
        bp.Network([2, 1]).save(path)
    assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)
