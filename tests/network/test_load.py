"""Files that are damaged, foreign or hostile: each ends in one clear error, and nothing in it is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import bpengine as bp
from bpengine.model import files

KINDS = ["npz", "safetensors"]
kinds = pytest.mark.parametrize("kind", KINDS)

DESCRIPTION = {
    "format": files.FORMAT,
    "sizes": [2, 3, 1],
    "activations": ["tanh", "sigmoid"],
    "cost": "quadratic",
    "dtype": "float32",
    "dropout": [0.0, 0.5],
    "l1": 0.0,
    "l2": 0.25,
    "label_smoothing": 0.0,
}
ARRAYS = {
    "weights_0": np.ones((3, 2), "f4"),
    "weights_1": np.ones((1, 3), "f4"),
    "biases_0": np.ones((3, 1), "f4"),
    "biases_1": np.ones((1, 1), "f4"),
}
NAMES = {
    "weights_0": "0.weight",
    "biases_0": "0.bias",
    "weights_1": "2.weight",
    "biases_1": "2.bias",
}
DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int32": "I32", "uint8": "U8"}


def npz(description=DESCRIPTION, save=np.savez, **changes):
    text = description if isinstance(description, (str, np.ndarray)) else json.dumps(description)
    file = io.BytesIO()
    written = {name: a for name, a in {**ARRAYS, **changes}.items() if a is not None}
    save(file, description=np.array(text), **written)
    return file.getvalue()


def framed(header, data=b""):
    """A safetensors file by the letter of its format."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensors(description=DESCRIPTION, **changes):
    """The same as a safetensors file; nothing checks what is written into it."""
    text = description if isinstance(description, str) else json.dumps(description)
    header, data = {"__metadata__": {"bpengine": text}}, b""
    for name, array in {**ARRAYS, **changes}.items():
        if array is not None:
            shape = array.shape[:1] if array is ARRAYS.get(name) and "bias" in name else array.shape
            header[NAMES.get(name, name)] = {
                "dtype": DTYPES[array.dtype.name],
                "shape": shape,
                "data_offsets": [len(data), len(data) + array.nbytes],
            }
            data += array.tobytes()
    return framed(header, data)


MAKERS = {"npz": npz, "safetensors": tensors}


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return exploded.append, (True,)


exploded = []


def refused(path, content, *parts, **options):
    """Load a file of this content; it has to end in the one error. Gives what that says."""
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
    return message


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def foreign(tmp_path, kind):
    return tmp_path / f"foreign.{kind}"


@pytest.fixture
def foreign_npz(tmp_path):
    return tmp_path / "foreign.npz"


@pytest.fixture
def foreign_tensors(tmp_path):
    return tmp_path / "foreign.safetensors"


def test_the_file_that_the_others_are_variants_of(foreign, kind):
    foreign.write_bytes(MAKERS[kind]())
    net = bp.load(foreign)
    assert (net.sizes, net.cost.name, net.dtype) == ((2, 3, 1), "quadratic", "float32")
    assert [σ.name for σ in net.activations] == DESCRIPTION["activations"]
    assert (net.dropout, net.l1, net.l2, net.label_smoothing) == ((0.0, 0.5), 0.0, 0.25, 0.0)
    assert (net.vector == 1).all()


def test_a_file_of_the_first_format(foreign_npz):
    first = {key: DESCRIPTION[key] for key in ("sizes", "activations", "cost", "dtype")}
    foreign_npz.write_bytes(npz({"format": "bpengine network 1", **first}))
    net = bp.load(foreign_npz)
    assert (net.sizes, net.cost.name, net.dtype) == ((2, 3, 1), "quadratic", "float32")
    assert (net.dropout, net.l1, net.l2, net.label_smoothing) == ((0.0, 0.0), 0.0, 0.0, 0.0)
    assert (net.vector == 1).all()


def archive(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in entries:
            zipped.writestr(name, content)
    return file.getvalue()


def members(**changes):
    """The entries of a good archive, some of them changed."""
    with zipfile.ZipFile(io.BytesIO(npz())) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()} | changes


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
    "an empty archive": archive([]),
    "a document": archive([("mimetype", "a document"), ("content.xml", "<a/>")]),
    "a PyTorch file": archive([("archive/data.pkl", pickle.dumps(Bomb())), ("archive/version", "3")]),
    "no tensors": framed({}),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files(foreign, what):
    refused(foreign, FOREIGN[what], "no network that bpengine can read")


def test_one_format_under_the_name_of_the_other(foreign, kind):
    (other,) = set(MAKERS) - {kind}
    refused(foreign, MAKERS[other](), "no network that bpengine can read")


@pytest.mark.parametrize("name", ["description", "weights_0", "more"])
def test_a_pickle_in_an_archive_is_not_run(foreign_npz, name):
    hostile = np.array([Bomb()], object)
    refused(foreign_npz, npz(hostile) if name == "description" else npz(**{name: hostile}))


def header(shape, descr="<f4"):
    """The beginning of an array's file: what it claims to hold."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


CLAIMS = {
    "100 MB": (5_000, 5_000),
    "4 TB": (2**20, 2**20),
    "more than there is": (2**31, 2**31),
    "more than a number holds": (2**62, 2**62),
    "a negative size": (-1, 3),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_an_array_that_claims_to_be_huge(foreign_npz, claim):
    claimed = {"weights_0.npy": header(CLAIMS[claim]) + bytes(24)}
    refused(foreign_npz, archive(members(**claimed).items()))


@pytest.mark.parametrize("descr", ["|O", "<U9", "[('a', '<f4')]", "no dtype", "<f4'", "__import__"])
def test_an_array_of_an_odd_dtype(foreign_npz, descr):
    odd = {"weights_0.npy": header((3, 2), descr) + bytes(24 * 9)}
    refused(foreign_npz, archive(members(**odd).items()))


@pytest.mark.parametrize("where", ["weights_0", "more", "description"])
def test_a_compressed_archive_that_would_fill_the_memory(foreign_npz, where):
    zeros = np.zeros(2**25, "uint8")
    changes = {"description": zeros} if where == "description" else {where: zeros}
    content = npz(save=np.savez_compressed, **changes)
    assert len(content) < 10**5
    refused(foreign_npz, content, "is compressed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["weights_0.npy", "description.npy"])
def test_an_archive_that_holds_a_name_twice(foreign_npz, name):
    entries = members()
    refused(foreign_npz, archive([*entries.items(), (name, entries[name])]), "twice")


def test_an_encrypted_archive(foreign_npz):
    content = bytearray(npz())
    for at in range(len(content)):  # the flag of encryption, in both headers of every entry
        if content[at : at + 4] == b"PK\x03\x04":
            content[at + 6] |= 1
        elif content[at : at + 4] == b"PK\x01\x02":
            content[at + 8] |= 1
    refused(foreign_npz, bytes(content))


def test_an_archive_compressed_in_an_unknown_way(foreign_npz):
    content = bytearray(npz())
    for at in range(len(content)):
        if content[at : at + 4] == b"PK\x03\x04":
            content[at + 8] = 77
        elif content[at : at + 4] == b"PK\x01\x02":
            content[at + 10] = 77
    refused(foreign_npz, bytes(content))


def claimed(**changes):
    """The header of one tensor of 24 bytes, with something else in it."""
    return {"0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}}


def twice(key, one, other):
    return b"{%s, %s}" % tuple(
        json.dumps(key).encode() + b": " + json.dumps(x).encode() for x in (one, other)
    )


ONE = claimed()["0.weight"]
TEXT = json.dumps(DESCRIPTION)
HEADERS = {
    "longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "of 100 MB": struct.pack("<Q", 10**8) + b"{}",
    "of a terabyte": struct.pack("<Q", 2**40) + b"{}",
    "of a negative length": struct.pack("<q", -1) + b"{}",
    "no JSON": framed(b"{", bytes(24)),
    "no object": framed(b"[]", bytes(24)),
    "no text": framed(b'{"\xff\xfe": 1}', bytes(24)),
    "nested": framed(b'{"a":' * 100_000, bytes(24)),
    "nested lists": framed(b"[" * 100_000, bytes(24)),
    "a tensor that is a number": framed({"0.weight": 1}),
    "a tensor without a shape": framed(
        {"0.weight": {"dtype": "F32", "data_offsets": [0, 24]}}, bytes(24)
    ),
    "a huge shape": framed(claimed(shape=[2**62, 2**62]), bytes(24)),
    "a shape of terabytes": framed(claimed(shape=[2**20, 2**20]), bytes(24)),
    "terabytes, and offsets to match": framed(
        claimed(shape=[2**20, 2**20], data_offsets=[0, 2**42]), bytes(24)
    ),
    "a negative shape": framed(claimed(shape=[2, -3]), bytes(24)),
    "a shape of text": framed(claimed(shape="23"), bytes(24)),
    "an unknown dtype": framed(claimed(dtype="object"), bytes(24)),
    "a dtype that NumPy lacks": framed(claimed(dtype="F8_E4M3", shape=[2, 12]), bytes(24)),
    "offsets backwards": framed(claimed(data_offsets=[24, 0]), bytes(24)),
    "offsets beyond the file": framed(claimed(data_offsets=[8, 32]), bytes(24)),
    "offsets with a gap": framed(claimed(data_offsets=[8, 32]), bytes(32)),
    "tensors that overlap": framed({"0.weight": ONE, "2.weight": ONE}, bytes(24)),
    "a name twice": framed(twice("0.weight", ONE, ONE), bytes(24)),
    "a name twice, of two tensors": framed(
        twice("0.weight", ONE, {**ONE, "data_offsets": [24, 48]}), bytes(48)
    ),
    "metadata twice": framed(twice("__metadata__", {"bpengine": TEXT}, {"bpengine": TEXT})),
    "more data": framed(claimed(), bytes(25)),
    "less data": framed(claimed(), bytes(23)),
    "metadata in a list": framed({"__metadata__": [TEXT], **claimed()}, bytes(24)),
    "a number for metadata": framed({"__metadata__": 1, **claimed()}, bytes(24)),
    "a description that is no text": framed(
        {"__metadata__": {"bpengine": DESCRIPTION}, **claimed()}, bytes(24)
    ),
    "a description that is nothing": framed(
        {"__metadata__": {"bpengine": None}, **claimed()}, bytes(24)
    ),
    "an empty description": framed({"__metadata__": {"bpengine": ""}, **claimed()}, bytes(24)),
    "a name of a million letters": framed({"x" * 10**6: ONE}, bytes(24)),
    "an index of a million digits": framed({"1" * 10**6 + ".weight": ONE}, bytes(24)),
}


@pytest.mark.parametrize("what", HEADERS)
def test_safetensors_with_a_header(foreign_tensors, what):
    refused(foreign_tensors, HEADERS[what], activations="sigmoid", cost="quadratic")


WRONG_ARRAYS = {
    "transposed": {"weights_0": np.ones((2, 3), "f4")},
    "biases of two axes": {"biases_0": np.ones((3, 2), "f4")},
    "too few biases": {"biases_0": np.ones(2, "f4")},
    "no axes": {"weights_0": np.ones((), "f4")},
    "float64": {"weights_1": np.ones((1, 3))},
    "float16": {"weights_1": np.ones((1, 3), "f2")},
    "whole numbers": {"weights_1": np.ones((1, 3), "i4")},
    "missing weights": {"weights_1": None},
    "missing biases": {"biases_0": None},
    "missing layers": {"weights_1": None, "biases_1": None},
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_arrays_that_do_not_fit(foreign, kind, case):
    changes = WRONG_ARRAYS[case]
    name = next(iter(changes))
    message = refused(foreign, MAKERS[kind](**changes))
    assert any(n in message for n in (name, NAMES[name], "2.bias has no weight"))


def without(key):
    return {name: value for name, value in DESCRIPTION.items() if name != key}


def changed(**changes):
    return {**DESCRIPTION, **changes}


def nested(depth):
    """A list in a list in a list …, made without recursion."""
    found = []
    for _ in range(depth):
        found = [found]
    return found


NAN, INFINITY = float("nan"), float("inf")
WRONG_DESCRIPTIONS = {
    "no JSON": ("{", []),
    "a list": ("[]", []),
    "a number": ("NaN", []),
    "deep": ("[" * 100_000, []),
    "deep objects": ('{"a":' * 100_000, []),
    "a long number": ('{"format": ' + "9" * 10_000 + "}", []),
    "a key twice": (TEXT.replace('"l1"', '"sizes"'), ["twice"]),
    "another format": (changed(format="bpengine network 99"), ["bpengine network 99"]),
    "a format of megabytes": (changed(format="x" * 10**6), []),
    "a list for a format": (changed(format=[1]), []),
    "no format": (without("format"), ["format"]),
    "no sizes": (without("sizes"), ["sizes"]),
    "no activations": (without("activations"), ["activations"]),
    "no cost": (without("cost"), ["cost"]),
    "no dtype": (without("dtype"), ["dtype"]),
    "NaN sizes": (changed(sizes=[NAN, 3, 1]), ["sizes"]),
    "infinite sizes": (changed(sizes=[2, INFINITY, 1]), ["sizes"]),
    "negative sizes": (changed(sizes=[2, -3, 1]), ["sizes"]),
    "text for sizes": (changed(sizes="231"), ["sizes"]),
    "an object for sizes": (changed(sizes={"2": 3}), ["sizes"]),
    "nothing for sizes": (changed(sizes=None), ["sizes"]),
    "deep sizes": (changed(sizes=nested(50)), ["sizes"]),
    "one size": (changed(sizes=[2]), ["sizes"]),
    "large sizes": (changed(sizes=[2, 3000, 3000, 1]), []),
    "huge sizes": (changed(sizes=[2, 10**7, 10**7]), []),
    "sizes beyond numbers": (changed(sizes=[2, 10**30, 1]), []),
    "other sizes": (changed(sizes=[2, 4, 1]), ["weights_0"]),
    "a number for activations": (changed(activations=3), ["activation"]),
    "nothing for activations": (changed(activations=None), ["activation"]),
    "numbers for activations": (changed(activations=[1, 2]), ["activation"]),
    "deep activations": (changed(activations=[nested(50), "sigmoid"]), ["activation"]),
    "too many activations": (changed(activations=["tanh"] * 3), ["3 entries"]),
    "too many in a layer": (changed(activations=[["tanh"] * 4, "sigmoid"]), ["3 neurons"]),
    "none in a layer": (changed(activations=[[], "sigmoid"]), []),
    "an activation of megabytes": (changed(activations=["x" * 10**6, "sigmoid"]), []),
    "a list for a cost": (changed(cost=["quadratic"]), ["cost"]),
    "nothing for a cost": (changed(cost=None), ["cost"]),
    "a cost that does not fit": (changed(cost="softmax_cross_entropy"), ["needs a softmax output"]),
    "an unknown dtype": (changed(dtype="float16"), ["float16"]),
    "nothing for a dtype": (changed(dtype=None), ["dtype"]),
    "a dtype of objects": (changed(dtype="O"), []),
    "text for dropout": (changed(dropout="0.5"), ["dropout"]),
    "nothing for dropout": (changed(dropout=None), ["dropout"]),
    "texts for dropout": (changed(dropout=["0.5", 0]), ["dropout"]),
    "true for dropout": (changed(dropout=[True, 0]), ["dropout"]),
    "dropout of NaN": (changed(dropout=[0, NAN]), ["dropout"]),
    "dropout of all": (changed(dropout=[0, 1]), ["dropout"]),
    "negative dropout": (changed(dropout=[0, -0.5]), ["dropout"]),
    "dropout for more layers": (changed(dropout=[0.5] * 3), ["dropout"]),
    "deep dropout": (changed(dropout=nested(50)), ["dropout"]),
    "text for l1": (changed(l1="0.5"), ["l1"]),
    "negative l1": (changed(l1=-0.5), ["l1"]),
    "a list for l1": (changed(l1=[0.5]), ["l1"]),
    "l2 of NaN": (changed(l2=NAN), ["l2"]),
    "infinite l2": (changed(l2=INFINITY), ["l2"]),
    "l2 beyond numbers": (changed(l2=10**400), []),
    "an object for l2": (changed(l2={}), ["l2"]),
    "true for label_smoothing": (changed(label_smoothing=True), ["label_smoothing"]),
    "label_smoothing of 2": (changed(label_smoothing=2), ["label_smoothing"]),
    "negative label_smoothing": (changed(label_smoothing=-1), ["label_smoothing"]),
    "a list for a training": (changed(training=[1]), ["training"]),
    "nothing for a training": (changed(training=None), ["training"]),
}


@pytest.mark.parametrize("case", WRONG_DESCRIPTIONS)
def test_descriptions_that_are_wrong(foreign, kind, case):
    description, parts = WRONG_DESCRIPTIONS[case]
    refused(foreign, MAKERS[kind](description), *parts)


@pytest.mark.parametrize("text", [np.array(b"\xff\xfe"), np.array(["{}", "{}"]), np.ones(3)])
def test_a_description_that_is_no_text(foreign_npz, text):
    refused(foreign_npz, npz(text))


def test_names_of_ones_own_in_a_file_are_asked_for(foreign, kind):
    content = MAKERS[kind](changed(activations=[["tanh", "os.system", "tanh"], "sigmoid"]))
    refused(foreign, content, "'os.system'", "activations=")
    refused(foreign, MAKERS[kind](changed(cost="__import__")), "'__import__'", "cost=")


GOOD = {kind: make() for kind, make in MAKERS.items()}


def gives_a_network_or_a_value_error(path, content):
    path.write_bytes(content)
    try:
        net = bp.load(path)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(path) in str(error)
        assert not exploded
        return None
    return net


BEGINNINGS = {"npz": b"PK\x03\x04", "safetensors": b"\x20\0\0\0\0\0\0\0{"}


@examples(100)
@given(content=st.binary(max_size=200), begun=st.booleans())
def test_any_bytes(foreign, kind, content, begun):
    content = BEGINNINGS[kind] * begun + content
    assert gives_a_network_or_a_value_error(foreign, content) is None


def test_a_file_cut_short_anywhere(foreign, kind):
    for length in range(len(GOOD[kind])):
        assert gives_a_network_or_a_value_error(foreign, GOOD[kind][:length]) is None


@examples(50)
@given(more=st.binary(min_size=1, max_size=50))
def test_a_file_with_more_behind_it(foreign, kind, more):
    net = gives_a_network_or_a_value_error(foreign, GOOD[kind] + more)
    assert net is None or (kind == "npz" and is_the_good_one(net))  # as zip archives may have


def is_the_good_one(net):
    return net.sizes == (2, 3, 1) and bool((net.vector == 1).all())


@examples(300)
@given(at=st.integers(0, 2**20), change=st.integers(1, 255), compressed=st.booleans())
def test_a_byte_changed(foreign, kind, at, change, compressed):
    good = npz(save=np.savez_compressed) if compressed and kind == "npz" else GOOD[kind]
    content = bytearray(good)
    content[at % len(content)] ^= change
    net = gives_a_network_or_a_value_error(foreign, bytes(content))
    if kind == "npz":  # the archive has checksums of its contents
        assert net is None or is_the_good_one(net)
    else:
        # safetensors have none: the byte may have been one of a parameter
        assert net is None or (net.sizes == (2, 3, 1) and (net.vector != 1).sum() <= 1)


@examples(60)
@given(name=st.sampled_from(sorted(members())), data=st.data())
def test_a_byte_changed_under_a_right_checksum(foreign_npz, name, data):
    entries = members()
    content = bytearray(entries[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    entries[name] = bytes(content)
    net = gives_a_network_or_a_value_error(foreign_npz, archive(entries.items()))
    assert net is None or net.vector.size == 3 * 3 + 4


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["tanh", "softmax", "quadratic", "float64", 10**400, -(10**30)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@examples(100)
@given(changes=st.dictionaries(st.sampled_from([*DESCRIPTION, "training"]), json_values, max_size=3))
def test_any_description(foreign, kind, changes):
    content = MAKERS[kind](changed(**changes))
    net = gives_a_network_or_a_value_error(foreign, content)
    assert net is None or is_the_good_one(net)


@examples(100)
@given(shapes=st.dictionaries(st.sampled_from(sorted(ARRAYS)), st.lists(st.integers(0, 4), max_size=4)))
def test_any_shapes(foreign, kind, shapes):
    content = MAKERS[kind](**{name: np.ones(shape, "f4") for name, shape in shapes.items()})
    net = gives_a_network_or_a_value_error(foreign, content)
    assert net is None or is_the_good_one(net)


SPARSE = 200 * 2**30  # bytes of a file that takes none on the disk


@kinds
def test_a_file_larger_than_memory_is_looked_at_first(tmp_path, kind):
    path = tmp_path / f"sparse.{kind}"
    refused(path, b"")
    for content in (b"", MAKERS[kind](), framed({}, b"")):
        path.write_bytes(content)
        os.truncate(path, SPARSE)
        with pytest.raises(ValueError, match="can read, or it is damaged"):
            bp.load(path)


def test_tensors_larger_than_memory_are_of_the_network_first(tmp_path):
    path = tmp_path / "sparse.safetensors"
    metadata = {"__metadata__": {"bpengine": json.dumps(DESCRIPTION)}}
    shapes = {"2.weight": [2**20, 2**10], "state_x": [2**30], "running_mean": [2**30]}
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        content = framed(metadata | header)
        path.write_bytes(content)
        os.truncate(path, len(content) + size)
        with pytest.raises(ValueError, match=r"weight|no tensor"):
            bp.load(path)


@kinds
def test_arrays_of_another_network_are_not_read(tmp_path, kind):
    """Nor is the state of a training, by what reads the network alone."""
    path = tmp_path / f"large.{kind}"
    large = np.ones((2**11, 2**12), "f4")
    for changes in ({"weights_0": large}, {"state_velocity": large}):
        path.write_bytes(MAKERS[kind](**changes))
        tracemalloc.start()
        try:
            if "weights_0" in changes:
                with pytest.raises(ValueError, match="shape"):
                    bp.load(path)
            else:
                assert bp.load(path).sizes == (2, 3, 1)
            assert tracemalloc.get_traced_memory()[1] < large.nbytes / 4
        finally:
            tracemalloc.stop()


@kinds
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with a name")
def test_what_is_no_regular_file_is_not_read(tmp_path, kind):
    pipe, device = tmp_path / f"pipe.{kind}", tmp_path / f"zero.{kind}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(OSError, match="no regular file"):
            bp.load(path)
        with pytest.raises(OSError, match="no regular file"):
            bp.Network([2, 1]).fit(np.ones((2, 3)), np.ones((1, 3)), batch_size=1, resume=path)
