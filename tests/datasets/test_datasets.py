"""The data: what is read, drawn or downloaded is what was asked for, and damage is named."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import math
import os
import socket
import struct
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bpengine import datasets

pytestmark = pytest.mark.filterwarnings("error")

MNIST = sys.modules["bpengine.datasets.mnist"]  # the function hides the module
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist-t10k"
needs_mnist = pytest.mark.skipif(
    not REAL.is_dir(), reason="MNIST's 10,000 test images are not beside the repository"
)
CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def idx_bytes(array):
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim])
    header += struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def little_mnist(examples=12, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (examples, 28, 28), dtype=np.uint8)
    return images, rng.integers(0, 10, examples, dtype=np.uint8)


def columns_contiguous(X):
    return X.T.flags.c_contiguous


# digits


def test_digits_are_the_original_ones():
    X, labels = datasets.digits()
    assert (X.shape, X.dtype, labels.shape, labels.dtype) == ((64, 1797), "f4", (1797,), "i8")
    assert columns_contiguous(X) and X.flags.writeable
    assert (X.min(), X.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    sixteenths = X.T * 16
    pixels = sixteenths.astype(np.uint8)
    assert (sixteenths == pixels).all()
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == (
        "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    )
    assert hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest() == (
        "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0"
    )


def test_digits_are_fresh_arrays():
    X, labels = datasets.digits()
    X[:], labels[:] = 9, 99
    again = datasets.digits()
    assert again[0].max() == 1 and again[1].max() == 9


# IDX files


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("idx") / "file"


@settings(deadline=None, max_examples=150)
@given(st.data(), st.sampled_from(sorted(CODES)), st.booleans())
def test_idx_round_trip(scratch, data, name, zipped):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))
    array = data.draw(hnp.arrays(name, shape))
    content = idx_bytes(array)
    scratch.write_bytes(gzip.compress(content, 1) if zipped else content)
    read = datasets.idx(scratch)
    assert read.dtype == array.dtype and read.dtype.isnative and read.flags.writeable
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


def test_idx_takes_a_string_and_reads_big_endian(scratch):
    scratch.write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 1, 2, 0xFF, 0xFE]))
    assert datasets.idx(str(scratch)).tolist() == [258, -2]


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(sorted(CODES)), st.booleans())
def test_idx_cut_short_or_too_long(scratch, data, name, zipped):
    content = idx_bytes(np.ones((2, 3), name))
    cut = data.draw(st.integers(0, len(content) - 1) | st.just(None))
    changed = content + b"\0" if cut is None else content[:cut]
    scratch.write_bytes(gzip.compress(changed, 1) if zipped else changed)
    with pytest.raises(ValueError, match=r"expected .* got ") as caught:
        datasets.idx(scratch)
    message = str(caught.value)
    assert str(scratch) in message and "\n" not in message
    if cut is None or cut >= 12:
        came = "more" if cut is None else f"{cut - 12} bytes"
        assert f"expected {len(content) - 12} bytes for {name} of shape (2, 3), got {came}" in message


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_idx_damaged_gzip(scratch, data):
    whole = gzip.compress(idx_bytes(np.arange(200, dtype=np.int32)))
    scratch.write_bytes(whole[: data.draw(st.integers(2, len(whole) - 1))])
    with pytest.raises(ValueError, match="Delete it and get it again") as caught:
        datasets.idx(scratch)
    assert str(scratch) in str(caught.value)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64) | st.binary(max_size=60).map(lambda tail: b"\0\0\x08\x01" + tail))
def test_idx_any_bytes_give_an_array_or_a_value_error(scratch, content):
    scratch.write_bytes(content)
    try:
        array = datasets.idx(scratch)
    except ValueError as error:
        assert str(scratch) in str(error)
        assert error.__suppress_context__
    else:
        assert idx_bytes(array) == content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got no byte"),
        (b"\x89PNG\r\n", "got the bytes 89 50 4e 47"),
        (bytes([0, 0, 0x0A, 1, 0, 0, 0, 0]), "among 0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x0e, got 0x0a"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "expected 3 sizes in 12 bytes, got 4 bytes"),
        (bytes([0, 0, 8, 255]) + b"\0\0\0\1" * 255 + b"x", "dimension"),
        (bytes([0, 0, 14, 3]) + bytes(4) + b"\xff" * 8, "too big"),
    ],
)
def test_idx_names_what_is_wrong(scratch, content, said):
    scratch.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        datasets.idx(scratch)
    assert said in str(caught.value) and str(scratch) in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_hostile_header_allocates_nothing(scratch, zipped):
    content = bytes([0, 0, 14, 3]) + b"\xff" * 12 + b"abc"
    scratch.write_bytes(gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="got 3 bytes"):
            datasets.idx(scratch)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with a name")
def test_idx_of_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="no regular file"):
            datasets.idx(path)
    with pytest.raises(IsADirectoryError):
        datasets.idx(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_looks_at_the_header_before_the_content(tmp_path, zipped):
    """However much a file may hold: here values of which none are read."""
    for shape in ((2**32 - 1, 28, 28), (2**26,), (2**20, 8, 8)):
        content = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(2**24)
        path = tmp_path / f"train-images-idx3-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content, 1) if zipped else content)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"expected uint8 images of shape \(m, 28, 28\)"):
                datasets.mnist(tmp_path)
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()
    if not zipped:
        path.write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 2**20))
        os.truncate(path, 2**37)
        with pytest.raises(ValueError, match="got more"):
            datasets.idx(path)


def test_idx_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        datasets.idx(tmp_path / "absent")


# MNIST from a folder


@pytest.mark.parametrize(("part", "prefix"), [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("hyphen", ["-", "."])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("kind", [str, Path])
def test_mnist_from_a_folder(tmp_path, part, prefix, hyphen, ending, kind):
    images, digits = little_mnist()
    for middle, array in ((f"images{hyphen}idx3", images), (f"labels{hyphen}idx1", digits)):
        content = idx_bytes(array)
        path = tmp_path / f"{prefix}-{middle}-ubyte{ending}"
        path.write_bytes(gzip.compress(content) if ending else content)
    X, labels = datasets.mnist(kind(tmp_path), part)
    assert (X.shape, X.dtype, labels.dtype) == ((784, 12), "f4", "i8")
    assert columns_contiguous(X) and X.flags.writeable
    assert labels.tolist() == digits.tolist()
    expected = (images.reshape(12, 784) / 255).T.astype(np.float32)
    assert (expected == X).all()
    other = "test" if part == "train" else "train"
    with pytest.raises(FileNotFoundError):
        datasets.mnist(tmp_path, other)


@needs_mnist
def test_mnist_real_test_part():
    X, labels = datasets.mnist(REAL, part="test")
    assert (X.shape, X.dtype, labels.shape, labels.dtype) == ((784, 10000), "f4", (10000,), "i8")
    assert columns_contiguous(X)
    assert (X.min(), X.max()) == (0, 1)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(labels).tolist() == counts
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    raw = gzip.decompress((REAL / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert np.rint(X.T * 255).astype(np.uint8).tobytes() == raw


def test_mnist_unknown_part(tmp_path):
    with pytest.raises(ValueError, match="unknown part 'validation'"):
        datasets.mnist(tmp_path, "validation")


def test_mnist_folder_without_the_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="found an empty folder"):
        datasets.mnist(tmp_path)
    for number in range(25):
        (tmp_path / f"file{number:02}").touch()
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.mnist(tmp_path)
    message = str(caught.value)
    for name in ("train-images-idx3-ubyte", "train-images.idx3-ubyte"):
        assert f"{name} or" in message and f"{name}.gz" in message
    assert "file00, file01" in message and "file19 and 6 more" in message
    assert str(tmp_path) in message and "\n" not in message
    with pytest.raises(FileNotFoundError, match="found no folder"):
        datasets.mnist(tmp_path / "absent")


def test_mnist_files_that_do_not_belong_together(tmp_path):
    images, labels = little_mnist()
    image_file = tmp_path / "train-images-idx3-ubyte"
    label_file = tmp_path / "train-labels-idx1-ubyte"
    image_file.write_bytes(idx_bytes(images))
    for wrong in (labels[:-1], labels.astype(np.int32), labels[:, None]):
        label_file.write_bytes(idx_bytes(wrong))
        with pytest.raises(ValueError, match="labels-idx1-ubyte: expected uint8 labels of shape"):
            datasets.mnist(tmp_path)
    label_file.write_bytes(idx_bytes(labels))
    for wrong in (images[:, 1:], images.astype(np.int16), labels, np.array(5, np.uint8)):
        image_file.write_bytes(idx_bytes(wrong))
        with pytest.raises(ValueError, match=r"images-idx3-ubyte: expected uint8 images of shape"):
            datasets.mnist(tmp_path)


# MNIST by download


@pytest.fixture
def cache(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "*")
    return tmp_path / "cache"


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`: path -> bytes; a path in `cut` loses the end of its body."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.asked = {}, set(), []

    def mirror(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path in self.server.cut else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setattr(MNIST, "_MIRRORS", [running.mirror("first"), running.mirror("second")])
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def published(server, monkeypatch):
    """A little MNIST training set on both mirrors, with its digests."""
    images, labels = little_mnist()
    contents = {
        "train-images-idx3-ubyte": idx_bytes(images),
        "train-labels-idx1-ubyte": idx_bytes(labels),
    }
    for stem, content in contents.items():
        zipped = gzip.compress(content)
        monkeypatch.setitem(MNIST._SHA256, stem, hashlib.sha256(zipped).hexdigest())
        for mirror in ("first", "second"):
            server.files[f"/{mirror}/{stem}.gz"] = zipped
    return images, labels


def is_published(result, published):
    X, labels = result
    images, digits = published
    same = (np.rint(X.T * 255) == images.reshape(-1, 784)).all()
    return same and labels.tolist() == digits.tolist()


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def test_download_once_then_from_the_cache(cache, server, published):
    assert is_published(datasets.mnist(), published)
    assert server.asked == [f"/first/{IMAGES}", f"/first/{LABELS}"]
    assert files_under(cache) == [IMAGES, LABELS]
    assert is_published(datasets.mnist(), published)
    assert len(server.asked) == 2


@pytest.mark.parametrize("trouble", ["absent", "cut", "damaged", "not gzip"])
def test_download_from_the_second_mirror(cache, server, published, trouble):
    path = f"/first/{IMAGES}"
    if trouble == "absent":
        del server.files[path]
    elif trouble == "cut":
        server.cut.add(path)
    else:
        server.files[path] = gzip.compress(b"other") if trouble == "damaged" else b"<html>log in"
    assert is_published(datasets.mnist(), published)
    assert server.asked == [path, f"/second/{IMAGES}", f"/first/{LABELS}"]
    assert files_under(cache) == [IMAGES, LABELS]


def one_clear_line(error):
    message = str(error)
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
    assert "\n" not in message and "by hand into a folder" in message and "--data DIR" in message
    return message


@pytest.mark.parametrize("trouble", ["absent", "cut", "not gzip"])
def test_download_that_fails_leaves_nothing(cache, server, published, trouble):
    for mirror in ("first", "second"):
        path = f"/{mirror}/{IMAGES}"
        if trouble == "absent":
            del server.files[path]
        elif trouble == "cut":
            server.cut.add(path)
        else:
            server.files[path] = b"<html>log in"
    with pytest.raises(ConnectionError) as caught:
        datasets.mnist()
    message = one_clear_line(caught.value)
    assert all(MNIST._MIRRORS[i] + IMAGES in message for i in (0, 1))
    if trouble == "absent":
        assert "404" in message
    assert files_under(cache) == []
    assert not list(cache.rglob("download-*"))


def test_download_with_a_wrong_digest(cache, server, published, monkeypatch):
    monkeypatch.setitem(MNIST._SHA256, LABELS.removesuffix(".gz"), "0" * 64)
    with pytest.raises(ConnectionError) as caught:
        datasets.mnist()
    came = hashlib.sha256(server.files[f"/first/{LABELS}"]).hexdigest()
    message = one_clear_line(caught.value)
    assert message.count(f"expected {'0' * 64} but got {came}") == 2
    assert files_under(cache) == [IMAGES]


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_download_interrupted_by_the_user(cache, server, published, monkeypatch, moment):
    def writing(self, chunk_size):
        yield b"some bytes"
        raise KeyboardInterrupt

    def renaming(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "writing":
            patch.setattr("requests.Response.iter_content", writing)
        else:
            patch.setattr("shutil.move", renaming)
        with pytest.raises(KeyboardInterrupt):
            datasets.mnist()
    assert files_under(cache) == []
    assert is_published(datasets.mnist(), published)


def test_download_without_a_network(cache, monkeypatch):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{bound.getsockname()[1]}/"
    monkeypatch.setattr(MNIST, "_MIRRORS", [closed + "first/", closed + "second/"])
    with pytest.raises(ConnectionError) as caught:
        datasets.mnist()
    message = one_clear_line(caught.value)
    assert "first/" in message and "second/" in message and "refused" in message
    assert files_under(cache) == []


def test_download_into_a_place_that_is_no_folder(cache, server, published):
    cache.write_text("in the way")
    with pytest.raises(OSError) as caught:
        datasets.mnist()
    assert str(cache) in one_clear_line(caught.value)


def test_download_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pip install "bpengine\[data\]"') as caught:
        datasets.mnist()
    assert caught.value.__suppress_context__


def test_cache_is_the_users_own(monkeypatch, tmp_path):
    pooch = pytest.importorskip("pooch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = pooch.os_cache("bpengine") / "mnist"
    if not folder.is_relative_to(tmp_path):
        pytest.skip("this system's cache directory does not follow XDG_CACHE_HOME")
    folder.mkdir(parents=True)
    images, labels = little_mnist()
    for name, array in ((IMAGES, images), (LABELS, labels)):
        (folder / name).write_bytes(zipped := gzip.compress(idx_bytes(array)))
        digest = hashlib.sha256(zipped).hexdigest()
        monkeypatch.setitem(MNIST._SHA256, name.removesuffix(".gz"), digest)
    assert is_published(datasets.mnist(), (images, labels))


def test_a_damaged_file_in_the_cache_is_replaced(cache, server, published):
    datasets.mnist()
    (damaged,) = cache.rglob(IMAGES)
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert is_published(datasets.mnist(), published)


@pytest.mark.parametrize("has_bar", [False, True])
def test_downloads_show_their_progress(cache, server, published, monkeypatch, capsys, has_bar):
    if has_bar:
        pytest.importorskip("tqdm")
    monkeypatch.setattr(MNIST.importlib.util, "find_spec", lambda name: has_bar or None)
    datasets.mnist()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("100%" in shown.err) == has_bar


def test_mirrors_are_encrypted_and_digests_whole():
    assert len(MNIST._MIRRORS) == 2
    assert all(m.startswith("https://") and m.endswith("/") for m in MNIST._MIRRORS)
    assert all(len(d) == 64 and int(d, 16) for d in MNIST._SHA256.values())
    assert len(set(MNIST._SHA256.values())) == 4


# circles and the step


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_circles_without_noise_lie_on_their_circles(examples, inner, seed):
    X, labels = datasets.circles(examples, inner=inner, noise=0, rng=seed)
    assert (X.shape, X.dtype, labels.dtype) == ((2, examples), "f4", "i8")
    assert columns_contiguous(X)
    assert labels.sum() == examples // 2 and set(labels.tolist()) == {0, 1}
    np.testing.assert_allclose(np.hypot(*X), np.where(labels == 1, inner, 1), rtol=1e-5)


def test_circles_go_all_around_in_shuffled_order():
    X, labels = datasets.circles(4000, rng=0)
    for label in (0, 1):
        x, y = X[:, labels == label]
        quadrants = np.bincount(2 * (x > 0) + (y > 0), minlength=4)
        assert quadrants.min() > 400
    assert 900 < np.count_nonzero(np.diff(labels)) < 3000
    assert datasets.circles(rng=0)[0].shape == (2, 1000)


def test_circles_noise_has_the_asked_spread():
    clean, labels = datasets.circles(5000, noise=0, rng=3)
    noisy, same = datasets.circles(5000, noise=0.1, rng=3)
    assert (labels == same).all()
    spread = (noisy - clean).std(axis=1)
    np.testing.assert_allclose(spread, 0.1, rtol=0.05)


@pytest.mark.parametrize("draw", [datasets.circles, datasets.step])
def test_seeds_and_generators(draw):
    first, _ = draw(50, rng=1)
    assert (first == draw(50, rng=1)[0]).all()
    assert (first == draw(50, rng=np.random.default_rng(1))[0]).all()
    assert (first != draw(50, rng=2)[0]).any()
    assert (draw(50)[0] != draw(50)[0]).any()
    generator = np.random.default_rng(1)
    assert (draw(50, rng=generator)[0] != draw(50, rng=generator)[0]).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"examples": 1},
        {"inner": 0},
        {"inner": 1},
        {"inner": math.nan},
        {"noise": -0.1},
        {"noise": math.nan},
        {"noise": math.inf},
    ],
)
def test_circles_out_of_range(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"\b{name}.*, got .*{value}"):
        datasets.circles(**wrong)


@given(st.integers(1, 300), st.integers(0, 2**32))
def test_step_is_the_sign(examples, seed):
    X, Y = datasets.step(examples, rng=seed)
    assert X.shape == Y.shape == (1, examples)
    assert X.dtype == Y.dtype == np.float32
    assert (abs(X) <= 1).all()
    assert Y.tolist() == [[1.0 if x > 0 else -1.0 for x in X[0]]]


def test_step_fills_the_interval():
    X, Y = datasets.step(10000, rng=0)
    assert X.min() < -0.99 and X.max() > 0.99
    assert abs(Y.mean()) < 0.05
    assert datasets.step(rng=0)[0].shape == (1, 100)
    with pytest.raises(ValueError, match="examples must be 1 or more, got 0"):
        datasets.step(0)


# one_hot


@given(
    st.integers(1, 40).flatmap(
        lambda classes: st.tuples(st.just(classes), st.lists(st.integers(0, classes - 1)))
    ),
    st.sampled_from(["uint8", "int8", "int64", "uint64", "list"]),
    st.sampled_from(["float32", "float64", "int8"]),
)
def test_one_hot_columns(drawn, kind, dtype):
    classes, labels = drawn
    given_labels = labels if kind == "list" else np.array(labels, kind)
    Y = datasets.one_hot(given_labels, classes, dtype)
    assert Y.shape == (classes, len(labels)) and Y.dtype == dtype
    assert columns_contiguous(Y)
    assert ((Y == 0) | (Y == 1)).all() and (Y.sum(axis=0) == 1).all()
    assert Y.argmax(axis=0).tolist() == labels


def test_one_hot_is_float32_unless_asked():
    assert datasets.one_hot(np.array([1]), 3).dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 2, 3, 9], r"labels\[2\] is 3; expected integers from 0 to 2"),
        ([0, -1], r"labels\[1\] is -1; expected integers from 0 to 2"),
        (np.array([0, 2**64 - 1], np.uint64), r"labels\[1\] is 18446744073709551615"),
        ([1.5, 0], r"labels\[0\] is 1.5, of dtype float64; expected integers from 0 to 2"),
        (["1"], r"labels\[0\] is 1, of dtype <U1; expected integers"),
        ([True], r"labels\[0\] is True, of dtype bool; expected integers"),
        ([[0, 1]], r"shape \(1, 2\); expected one axis, \(m,\), of integers from 0 to 2"),
        (1, r"shape \(\); expected one axis"),
    ],
)
def test_one_hot_bad_labels(labels, said):
    with pytest.raises(ValueError, match=said):
        datasets.one_hot(labels, 3)


def test_public_names():
    assert datasets.__all__ == ["circles", "digits", "idx", "mnist", "one_hot", "step"]
