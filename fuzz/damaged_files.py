"""Damaged files: read as they are or refused with their name, and nothing else is changed."""

import gzip
import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import bpengine as bp
from bpengine.book import network2
from fuzz import Finding

X, Y = np.linspace(0, 1, 12).reshape(3, 4), np.linspace(0, 1, 8).reshape(2, 4)


def network(rng: np.random.Generator) -> bp.Network:
    return bp.Network([3, 4, 2], dropout=0.25, rng=0, stack=2 if rng.random() < 0.3 else None)


def fit(net: bp.Network, epochs: int, **options: Any) -> None:
    net.fit(X, Y, epochs=epochs, optimizer=bp.Adam(averaging=0.5), progress=False, **options)


def saved(path: Path, rng: np.random.Generator) -> Callable[[], Any]:
    network(rng).save(path)
    return lambda: bp.load(path)


def checkpoint(path: Path, rng: np.random.Generator) -> Callable[[], Any]:
    net = network(rng)
    fit(net, 2, callbacks=[bp.EarlyStopping(), bp.Checkpoint(path)])
    return resuming(path, net, [bp.EarlyStopping(), bp.Checkpoint(path)])


def log(path: Path, rng: np.random.Generator) -> Callable[[], Any]:
    run = path.with_name("run.npz")
    kind = bp.CSVLog if path.suffix == ".csv" else bp.JSONLinesLog
    net = network(rng)
    fit(net, 2, callbacks=[kind(path), bp.Checkpoint(run)])
    return resuming(run, net, [kind(path)])


def resuming(path: Path, like: bp.Network, callbacks: list[bp.Callback]) -> Callable[[], Any]:
    """A resumed training, which must leave its network as it is if it fails."""
    net = bp.Network([3, 4, 2], dropout=0.25, rng=1, stack=len(like) if like.stack else None)

    def resume() -> None:
        before = net.vector.tobytes(), repr([g.bit_generator.state for g in net.rngs])
        try:
            fit(net, 3, callbacks=callbacks, resume=path)
        except (bp.NonFiniteCostError, RuntimeWarning):
            return  # other numbers, which no checksum protects, and a training that diverges from them
        except Exception:
            if before != (net.vector.tobytes(), repr([g.bit_generator.state for g in net.rngs])):
                raise Finding("a refused file has changed the network") from None
            raise

    return resume


def idx(path: Path, rng: np.random.Generator) -> Callable[[], Any]:
    content = struct.pack(">4B2I", 0, 0, 8, 2, 5, 4) + bytes(range(20))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return lambda: bp.datasets.idx(path)


def book(path: Path, rng: np.random.Generator) -> Callable[[], Any]:
    network2.Network([2, 3, 1]).save(path)
    return lambda: network2.load(path)


FILES = {
    "net.npz": saved,
    "net.safetensors": saved,
    "run.npz": checkpoint,
    "run.safetensors": checkpoint,
    "log.csv": log,
    "log.jsonl": log,
    "some.idx": idx,
    "some.idx.gz": idx,
    "book.json": book,
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, removed, repeated, inserted or exchanged for digits."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(data) + 1)), int(2 ** rng.integers(0, 8))
        part = data[at : at + length]
        digits = [
            48 + int(d) if chr(b).isdigit() else b
            for b, d in zip(part, rng.integers(10, size=len(part)), strict=True)
        ]
        data[at : at + length] = [
            b"",
            bytes(rng.integers(256, size=len(part), dtype=np.uint8)),
            bytes(len(part)),
            bytes(part * 2),
            bytes(rng.integers(256, size=length, dtype=np.uint8)) + bytes(part),
            bytes(digits),
        ][rng.integers(6)]
        if rng.random() < 0.2:
            del data[int(rng.integers(len(data) + 1)) :]
    return bytes(data)


def one(rng: np.random.Generator) -> None:
    """One damaged file."""
    name = sorted(FILES)[rng.integers(len(FILES))]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / name
        read = FILES[name](path, rng)
        path.write_bytes(damaged(path.read_bytes(), rng))
        try:
            read()
        except (ValueError, TypeError, OSError) as error:
            if not isinstance(error, OSError) and name not in str(error):
                raise Finding(f"{name}: without its name: {type(error).__name__}: {error}") from error
            if len(str(error)) > 500 + len(folder):
                raise Finding(f"{name}: {len(str(error))} characters: {str(error)[:200]}") from error
        except Exception as error:
            raise Finding(f"{name}: {type(error).__name__}: {str(error)[:300]}") from error
