"""Train for one epoch on a memory map, in a process whose memory is limited to less than the map.

python examples/larger_than_memory.py --gib 20 --limit 2 --folder /tmp

Linux only: it sets RLIMIT_DATA and reads /proc.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

import bpengine as bp

GIB = 2**30
WINDOW = 2**16  # examples are shuffled within windows of this length
BLOCK = 2**12  # examples written at a time


def memory(name: str) -> int:
    """Bytes of memory of the process: now, without files (RssAnon), or its peak (VmHWM).

    VmHWM includes pages of mapped files, which the system drops when it needs memory.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; this example needs Linux.")


class Memory(bp.Callback):
    """Records the peak of RssAnon during training."""

    def start(self, training: bp.Training) -> None:
        self.most = 0

    def steps(self, training: bp.Training, count: int) -> None:
        self.most = max(self.most, memory("RssAnon"))


def write(path: Path, examples: int, pixels: np.ndarray) -> None:
    """Write the digits repeatedly, with noise, one example per row."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for start in range(0, examples, BLOCK):
            rows = pixels[np.arange(start, min(start + BLOCK, examples)) % len(pixels)]
            (rows + rng.random((len(rows), 1), "float32") / 10).tofile(file)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # training reads the disk


def main() -> None:
    """Write the map, train on it, and print memory and time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=0.5, help="size of the map in GiB (0.5)")
    parser.add_argument(
        "--limit", type=float, default=2.0, help="memory limit of the process, in GiB (2)"
    )
    parser.add_argument("--folder", type=Path, help="folder for the map (a temporary one)")
    options = parser.parse_args()

    X, labels = bp.datasets.digits()
    wide = np.repeat(np.repeat(X.reshape(8, 8, -1), 4, axis=0), 4, axis=1)  # 32 by 32 pixels
    pixels = np.ascontiguousarray(wide.reshape(1024, -1).T, "float32")
    examples = int(options.gib * GIB) // (4 * pixels.shape[1])
    resource.setrlimit(resource.RLIMIT_DATA, (int(options.limit * GIB),) * 2)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "examples.float32"
        write(path, examples, pixels)
        rows = np.memmap(path, "float32", "r", shape=(examples, pixels.shape[1]))
        try:
            fits = np.empty(rows.shape, "float32") is not None
        except MemoryError:
            fits = False
        y = labels[np.arange(examples) % len(labels)]
        net = bp.Network([1024, 30, 10], cost="binary_cross_entropy", backend="numpy", rng=0)
        peak = Memory()
        start = time.perf_counter()
        net.fit(
            rows.T,
            y,
            epochs=1,
            batch_size=256,
            optimizer=bp.SGD(0.5),
            shuffle=WINDOW,
            callbacks=[peak],
            progress=False,
        )
        seconds = time.perf_counter() - start
        accuracy = net.evaluate(rows[:10_000].T, y[:10_000])["accuracy"]
    print(f"map: {examples:,} examples, {examples * pixels.shape[1] * 4 / GIB:.2f} GiB")
    print(
        f"limit: {options.limit:.2f} GiB, in which an array of that length "
        f"{'fits' if fits else 'does not fit'}"
    )
    print(f"peak memory without the map (RssAnon): {peak.most / GIB:.2f} GiB")
    print(f"peak memory with pages of the map (VmHWM): {memory('VmHWM') / GIB:.2f} GiB")
    print(f"one epoch: {seconds:.0f} s; accuracy on the first 10,000: {accuracy:.3f}")


if __name__ == "__main__":
    main()
