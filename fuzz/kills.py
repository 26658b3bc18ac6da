"""Trainings with checkpoints and logs, killed at any time: they continue as if nothing had happened."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import bpengine as bp
from fuzz import Finding

EPOCHS = 40
PROGRAM = f"""
import sys
import bpengine as bp
path, *logs = sys.argv[1:]
X, labels = bp.datasets.circles(60, rng=0)
net = bp.Network([2, 6, 2], cost="binary_cross_entropy", dropout=0.25, rng=0)
print("ready", flush=True)
callbacks = [bp.Checkpoint(path), bp.CSVLog(logs[0]), bp.JSONLinesLog(logs[1])]
options = dict(epochs={EPOCHS}, optimizer=bp.Adam(), callbacks=callbacks, progress=False)
net.fit(X, labels, resume=path, **options)
print(net.vector.tobytes().hex(), flush=True)
"""


def start(arguments: list[Path]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise Finding("the training does not start")
    return process


def one(rng: np.random.Generator) -> None:
    """Up to three kills, then a run to the end."""
    with tempfile.TemporaryDirectory() as folder:
        suffix = ["npz", "safetensors"][rng.integers(2)]
        path, *logs = files = [Path(folder) / n for n in (f"run.{suffix}", "log.csv", "log.jsonl")]
        for _ in range(rng.integers(1, 4)):
            process = start(files)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            process.communicate()
            if path.exists():
                bp.load(path)
        output, _ = start(files).communicate()
        whole = [Path(folder) / n for n in (f"whole.{suffix}", "whole.csv", "whole.jsonl")]
        if output != start(whole).communicate()[0]:
            raise Finding(f"{path.name}: another network than without kills")
        for log in logs:
            lines = len(log.read_text().splitlines())
            if lines != EPOCHS + (log.suffix == ".csv"):
                raise Finding(f"{log.name}: {lines} lines after {EPOCHS} epochs")
        left = sorted(p.name for p in Path(folder).iterdir() if p not in {*files, *whole})
        if left:
            raise Finding(f"left behind: {', '.join(left)}")
