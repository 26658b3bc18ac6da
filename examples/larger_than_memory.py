"""Train for one epoch on a memory map, in a process that may have less memory than the map is long.

python examples/larger_than_memory.py --gib 20 --limit 2 --folder /tmp
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

import bpengine as bp

GIB = 2**30
WINDOW = 2**16  # neighbours among which examples are shuffled


class Memory(bp.Callback):
    """Watches what memory the process has of its own, beside the pages of files."""

    def start(self, training: bp.Training) -> None:
        self.most = 0

    def steps(self, training: bp.Training, count: int) -> None:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                self.most = max(self.most, int(line.split()[1]) * 1024)


def write(path: Path, examples: int, pixels: np.ndarray) -> None:
    """The digits again and again, each time with noise of their own, an example a row."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for start in range(0, examples, WINDOW):
            rows = pixels[np.arange(start, min(start + WINDOW, examples)) % len(pixels)]
            (rows + rng.random((len(rows), 1), "float32") / 10).tofile(file)


def main() -> None:
    """Write the map, train on it, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=0.5, help="length of the map (0.5)")
    parser.add_argument("--limit", type=float, default=2.0, help="memory of the process's own (2)")
    parser.add_argument("--folder", type=Path, help="where the map is written; a temporary folder")
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
        y = labels[np.arange(examples) % len(labels)]
        net = bp.Network([1024, 30, 10], cost="binary_cross_entropy", backend="numpy", rng=0)
        memory = Memory()
        start = time.perf_counter()
        net.fit(
            rows.T,
            y,
            epochs=1,
            batch_size=256,
            optimizer=bp.SGD(0.5),
            shuffle=WINDOW,
            callbacks=[memory],
            progress=False,
        )
        seconds = time.perf_counter() - start
        accuracy = net.evaluate(rows[:10_000].T, y[:10_000])["accuracy"]
    print(f"map {examples:,} examples, {path.name}: {examples * pixels.shape[1] * 4 / GIB:.1f} GiB")
    print(f"limit {options.limit:.1f} GiB; most memory of the process's own {memory.most / GIB:.2f} GiB")
    print(f"one epoch in {seconds:.0f} s; accuracy on the first 10,000: {accuracy:.3f}")


if __name__ == "__main__":
    main()
