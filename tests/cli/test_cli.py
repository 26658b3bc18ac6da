"""The command line: trains, reports in two lines, and says in one line what is wrong."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

import bpengine as bp
from bpengine import datasets
from bpengine.cli import main
from bpengine.optimizers import BY_NAME
from bpengine.reference.per_example import PerExampleNetwork

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist-t10k"
ACCURACY = re.compile(r"^test accuracy (0\.\d{4}|1\.0000)$")
SPEED = re.compile(r"^\d+\.\d times the per-example loop \(measured here\)$")


@pytest.fixture(autouse=True)
def short_loop(monkeypatch):
    monkeypatch.setattr(main, "LOOP_SECONDS", 0.0)


def run(capsys, *arguments):
    """Train; give the accuracy printed, and the lines before it."""
    status = main.main(["train", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 0, err
    *before, accuracy, speed = out.splitlines()
    assert ACCURACY.match(accuracy)
    assert SPEED.match(speed)
    return float(accuracy.split()[-1]), before


def write_idx(folder, part, images, labels):
    header = struct.pack(">4i", 0x803, *images.shape), struct.pack(">2i", 0x801, len(labels))
    (folder / f"{part}-images-idx3-ubyte").write_bytes(header[0] + images.tobytes())
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(header[1] + labels.tobytes())


def draw(examples, seed):
    """Digits as bars at ten places."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, examples).astype("u1")
    images = rng.integers(0, 60, (examples, 28, 28)).astype("u1")
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label : 2 * label + 4] += 150
    return images, labels


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    write_idx(folder, "train", *draw(60, 0))
    write_idx(folder, "t10k", *draw(40, 1))
    return folder


def test_digits(lab, capsys):
    accuracy, before = run(
        capsys, "digits", "--epochs", 2, "--sizes", 64, 10, "--backend", lab.backend.name,
        "--batch-size", 50, "--learning-rate", 2,
    )  # fmt: skip
    assert accuracy > 0.5
    title = f"Network: cost binary_cross_entropy, float32, backend {lab.backend.name}"
    assert before[0] == title and "10 × 64" in before[3]
    assert before[-1] == "1500 examples to learn from, 297 to test on"


def test_circles(lab, capsys):
    accuracy, before = run(
        capsys, "circles", "--epochs", 1, "--batch-size", 100, "--backend", lab.backend.name
    )
    assert accuracy > 0.3
    assert ["tanh" in before[3], "sigmoid" in before[4]] == [True, True]
    assert before[-1] == "800 examples to learn from, 200 to test on"


def test_mnist(lab, capsys, mnist):
    accuracy, before = run(
        capsys, "mnist", "--data", mnist, "--sizes", 784, 10, "--epochs", 10,
        "--backend", lab.backend.name,
    )  # fmt: skip
    assert accuracy > 0.9
    assert "60 examples to learn from, 40 to test on" in "\n".join(before)


def test_mnist_held_out(capsys, mnist, tmp_path):
    sizes = ("--sizes", 784, 10)
    _, before = run(capsys, "mnist", "--data", mnist, "--holdout", 13, "--epochs", 1, *sizes)
    assert "47 examples to learn from, 13 to test on" in "\n".join(before)
    # a folder of the test images alone is enough then
    write_idx(tmp_path, "t10k", *draw(40, 1))
    _, before = run(capsys, "mnist", "--data", tmp_path, "--holdout", 13, "--epochs", 1, *sizes)
    assert "27 examples to learn from, 13 to test on" in "\n".join(before)


SETTINGS = {
    "defaults": {},
    "sizes": {"sizes": [784, 6, 5, 10]},
    "one activation for all": {"activations": ["tanh"], "cost": "quadratic"},
    "an activation a layer": {"activations": ["relu", "softmax"], "cost": "softmax_cross_entropy"},
    "cost": {"cost": "quadratic"},
    "epochs": {"epochs": 3},
    "batch size": {"batch_size": 7},
    "learning rate": {"learning_rate": 0.125},
    "dtype": {"dtype": "float64"},
    "seed": {"seed": 5},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_every_option_is_honoured(lab, capsys, mnist, tmp_path, case):
    chosen = {
        "sizes": [784, 6, 10],
        "activations": ["sigmoid"],
        "cost": "binary_cross_entropy",
        "epochs": 2,
        "batch_size": 10,
        "learning_rate": 0.5,
        "dtype": "float32",
        "seed": 0,
        **SETTINGS[case],
    }
    # what is the default is not said
    said = {"sizes": chosen["sizes"], "epochs": chosen["epochs"], **SETTINGS[case]}
    arguments = []
    for name, value in said.items():
        values = value if isinstance(value, list) else [value]
        arguments += ["--" + name.replace("_", "-"), *values]
    path = tmp_path / "net.npz"
    accuracy, before = run(
        capsys, "mnist", "--data", mnist, "--save", path, "--backend", lab.backend.name, *arguments
    )
    assert before[-1] == f"saved to {path}"

    layers = len(chosen["sizes"]) - 1
    activations = chosen["activations"] * (layers if len(chosen["activations"]) == 1 else 1)
    expected = bp.Network(
        chosen["sizes"],
        activations=activations,
        cost=chosen["cost"],
        backend=lab.backend.name,
        dtype=chosen["dtype"],
        rng=chosen["seed"],
    )
    X, labels = datasets.mnist(mnist, "train")
    expected.fit(
        X,
        datasets.one_hot(labels, 10),
        epochs=chosen["epochs"],
        batch_size=chosen["batch_size"],
        optimizer=bp.SGD(chosen["learning_rate"]),
        progress=False,
    )
    loaded = bp.load(path, backend=lab.backend.name)
    assert repr(loaded) == repr(expected)
    for found, wanted in zip(
        (*loaded.weights, *loaded.biases), (*expected.weights, *expected.biases), strict=True
    ):
        np.testing.assert_array_equal(lab.backend.to_numpy(found), lab.backend.to_numpy(wanted))
    X, labels = datasets.mnist(mnist, "test")
    found = loaded.evaluate(X, datasets.one_hot(labels, 10))["accuracy"]
    assert accuracy == round(found, 4)


@pytest.mark.parametrize("task", ["digits", "circles"])
def test_a_seed_repeats_and_another_does_not(capsys, tmp_path, task):
    def weights(seed):
        run(capsys, task, "--epochs", 1, "--seed", seed, "--save", tmp_path / "net.npz")
        return bp.load(tmp_path / "net.npz").vector

    first = weights(3)
    np.testing.assert_array_equal(first, weights(3))
    assert not np.array_equal(first, weights(4))


@pytest.mark.parametrize("task", ["digits", "circles"])
def test_what_is_held_out_is_not_learned_from(capsys, tmp_path, task):
    path = tmp_path / "net.npz"
    accuracy, before = run(capsys, task, "--epochs", 2, "--seed", 8, "--holdout", 123, "--save", path)
    rng = np.random.default_rng(8)
    X, labels = datasets.digits() if task == "digits" else datasets.circles(rng=rng)
    examples, order = X.shape[1], rng.permutation(X.shape[1])
    assert f"{examples - 123} examples to learn from, 123 to test on" in "\n".join(before)
    net = bp.load(path)
    Y = datasets.one_hot(labels, net.sizes[-1]) if net.sizes[-1] > 1 else labels[None] * 1.0
    test = order[-123:]
    assert accuracy == round(net.evaluate(X[:, test], Y[:, test])["accuracy"], 4)


def test_digits_by_default(capsys):
    accuracy, before = run(capsys, "digits")
    assert accuracy >= 0.97
    assert "100 × 64" in before[3] and "10 × 100" in before[4]


def test_circles_by_default(capsys):
    assert run(capsys, "circles")[0] >= 0.97


@pytest.mark.skipif(not REAL.is_dir(), reason="MNIST's 10,000 test images are not beside the repository")
def test_mnist_by_default(capsys):
    accuracy, before = run(capsys, "mnist", "--data", REAL, "--holdout", 2000)
    assert accuracy >= 0.955
    assert "100 × 784" in before[3] and "10 × 100" in before[4]
    assert "8000 examples to learn from, 2000 to test on" in "\n".join(before)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_optimizer_quietly_with_validation(capsys, name):
    options = ["--optimizer", name, "--quiet", "--validation", "0.1"]
    assert main.main(["train", "circles", "--epochs", "2", *options]) == 0
    assert capsys.readouterr().err == ""


def test_version(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main.main(["--version"])
    assert capsys.readouterr().out == f"bpengine {bp.__version__}\n"


def test_progress_goes_to_stderr(capsys):
    assert main.main(["train", "circles", "--epochs", "2"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 9
    assert "epoch 2/2" in err


ERRORS = {
    "one layer": (["digits", "--sizes", "64"], ["2 layers or more"]),
    "other inputs": (["digits", "--sizes", "10", "10"], ["(64, 1500)", "10 rows"]),
    "too few outputs": (["digits", "--sizes", "64", "5"], ["--sizes ends in 5", "end it in 10"]),
    "too many outputs": (["digits", "--sizes", "64", "100"], ["--sizes ends in 100", "10 classes"]),
    "a rate of lbfgs": (["digits", "--optimizer", "lbfgs", "--learning-rate", "1"], ["not for lbfgs"]),
    "a share": (["digits", "--validation", "1.5"], ["validation must be from 0 to below 1"]),
    "an empty layer": (["digits", "--sizes", "64", "0", "10"], ["1 or more", "[64, 0, 10]"]),
    "activation": (["digits", "--activations", "sigmod"], ["Did you mean 'sigmoid'?"]),
    "activations": (["digits", "--activations", *["tanh"] * 3], ["3 entries", "takes 2"]),
    "cost": (["digits", "--cost", "quadratc"], ["Did you mean 'quadratic'?"]),
    "cost and activation": (
        ["digits", "--cost", "softmax_cross_entropy"],
        ["needs a softmax output", "'sigmoid'"],
    ),
    "backend": (["digits", "--backend", "numpie"], ["Did you mean 'numpy'?"]),
    "no epoch": (["digits", "--epochs", "0"], ["epochs must be 1 or more, got 0"]),
    "empty batch": (["digits", "--batch-size", "0"], ["batch_size must be 1 or more, got 0"]),
    "large batch": (["digits", "--batch-size", "1501"], ["1500 examples", "batch_size=1500"]),
    "learning rate": (["digits", "--learning-rate", "0"], ["learning_rate must be above 0"]),
    "NaN": (["digits", "--learning-rate", "nan"], ["learning_rate must be above 0", "nan"]),
    "seed": (["digits", "--seed", "-1"], ["-1"]),
    "nothing held out": (["digits", "--holdout", "0"], ["--holdout must be from 1 to 1796", "got 0"]),
    "all held out": (["circles", "--holdout", "1000"], ["--holdout must be from 1 to 999", "1000"]),
    "data for digits": (["digits", "--data", "."], ["--data is for mnist", "digits"]),
    "no data": (["mnist", "--data", "absent-folder"], ["absent-folder", "no folder"]),
    "no folder": (
        ["digits", "--epochs", "1", "--save", "absent-folder/net.npz"],
        ["absent-folder"],
    ),
    "a folder": (["digits", "--epochs", "1", "--save", "."], ["a folder"]),
    "no name": (["digits", "--epochs", "1", "--save", ""], ["--save must be a path", "''"]),
    "another format": (["digits", "--epochs", "1", "--save", "net.pkl"], ["net.pkl", ".npz"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(capsys, monkeypatch, tmp_path, case):
    monkeypatch.chdir(tmp_path)
    arguments, parts = ERRORS[case]
    assert main.main(["train", *arguments]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("bpengine: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert "test accuracy" not in out
    assert os.listdir(tmp_path) == []


def test_a_damaged_file_is_one_line(capsys, tmp_path):
    write_idx(tmp_path, "t10k", *draw(4, 1))
    write_idx(tmp_path, "train", *draw(4, 1))
    broken = tmp_path / "train-labels-idx1-ubyte"
    broken.write_bytes(broken.read_bytes()[:-1])
    assert main.main(["train", "mnist", "--data", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("bpengine: ") and err.count("\n") == 1
    assert broken.name in err


def test_divergence_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    arguments = ["--activations", "linear", "--cost", "quadratic", "--learning-rate", "1e30"]
    assert main.main(["train", "circles", *arguments]) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(r"bpengine: the cost is no longer finite: epoch 1, .*\n", err)
    assert "test accuracy" not in out


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["train", "mnits"], ["train", "digits", "--epochs", "two"], ["learn"]],
)
def test_usage(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: bpengine" in err


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "digits", "-h"]])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    if "digits" in arguments:
        for option in ("sizes", "activations", "cost", "epochs", "batch-size", "learning-rate",
                       "backend", "dtype", "seed", "save", "holdout"):  # fmt: skip
            assert f"--{option}" in out


def press_ctrl_c(*arguments):
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_the_comparison(capsys, monkeypatch):
    monkeypatch.setattr(PerExampleNetwork, "update_mini_batch", press_ctrl_c)
    try:
        status = main.main(["train", "circles", "--epochs", "1"])
    except KeyboardInterrupt:
        status = "a traceback"
    assert status == 130
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("interrupted")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Ctrl-C is sent in another way on Windows")
def test_ctrl_c_in_the_training():
    command = [sys.executable, "-m", "bpengine", "train", "circles", "--epochs", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        seen = ""
        while "epoch 2/" not in seen:
            piece = process.stderr.read(1)
            assert piece, seen
            seen += piece
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert "interrupted: the network keeps what it has learned." in err
    assert ACCURACY.match(out.splitlines()[-2])
    assert SPEED.match(out.splitlines()[-1])


def test_as_a_module():
    command = [sys.executable, "-m", "bpengine", "train", "circles", "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *_, accuracy, speed = done.stdout.splitlines()
    assert ACCURACY.match(accuracy)
    assert SPEED.match(speed)
    failed = subprocess.run(
        [*command, "--seed", "x"], capture_output=True, text=True, check=False, timeout=60
    )
    assert failed.returncode == 2
    failed = subprocess.run(
        [*command, "--holdout", "0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (failed.returncode, failed.stdout.count("test accuracy")) == (1, 0)
    assert failed.stderr.count("\n") == 1


def test_the_command_is_main():
    points = entry_points(group="console_scripts", name="bpengine")
    assert {point.load() for point in points} == {main.main}


@pytest.mark.parametrize("layers", [[4, 3], [4, 1]])
@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_predict_prints_a_line_for_each_example(tmp_path, capsys, layers, suffix):
    net = bp.Network(layers, activations="linear" if layers[-1] == 1 else "softmax", rng=0)
    X = np.random.default_rng(1).normal(size=(4, 5))
    net.save(tmp_path / "net.npz")
    path = str(tmp_path / f"X{suffix}")
    np.save(path, X) if suffix == ".npy" else np.savetxt(path, X.T, delimiter=",")
    assert main.main(["predict", str(tmp_path / "net.npz"), path]) == 0
    printed = np.loadtxt(capsys.readouterr().out.splitlines())
    np.testing.assert_allclose(printed, net.predict(X).ravel(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("X.csv", "a,b\n1,2\n", "X.csv holds no examples that can be read"),
        ("X.csv", "", "X.csv holds no examples that can be read"),
        ("X.npy", "no array", "X.npy holds no examples that can be read"),
        ("X.csv", "1,2,3\n", "X has shape (3, 1)"),
        ("Y.csv", None, "Y.csv"),
    ],
)
def test_predict_names_what_it_cannot_read(tmp_path, capsys, name, content, said):
    bp.Network([4, 3], rng=0).save(tmp_path / "net.npz")
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main.main(["predict", str(tmp_path / "net.npz"), str(tmp_path / name)]) == 1
    assert said in capsys.readouterr().err
