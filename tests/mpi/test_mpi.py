"""Real ranks, under the mpiexec that lies beside the interpreter: ``nox -s mpi``."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bpengine as bp

pytest.importorskip("mpi4py")

PROGRAM = Path(__file__).with_name("program.py")
MPIEXEC = Path(sys.executable).with_name("mpiexec")
SECONDS = 120  # within which any program here has to end


# MPICH over TCP, between ranks of one machine too, where the system counts bytes
TCP = {
    "MPIR_CVAR_NOLOCAL": "1",
    "MPIR_CVAR_CH4_NETMOD": "ofi",
    "FI_PROVIDER": "tcp",
    "UCX_TLS": "tcp",
}


def launch(size, *arguments, fails=False, settings=None):
    """Run the program on so many ranks: what rank 0 printed, or with `fails` all that was said."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    environment |= settings or {}
    done = subprocess.run(
        [MPIEXEC, "-n", str(size), sys.executable, PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
    )
    if fails:
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_are_one_process_and_the_same_each_time(size):
    first = launch(size, "equality", 5, size)
    assert first["worst"] < 1000, "times the rounding of the largest parameter"
    if size > 2:  # a sum of two is the same in either order
        assert launch(size, "equality", 5, size)["digest"] == first["digest"]


def test_a_rank_killed_at_any_step_leaves_a_checkpoint_to_go_on_from(tmp_path):
    draw = random.Random(8)
    for run in range(10):
        path, size = tmp_path / f"{run}.npz", draw.randint(2, 4)
        steps = 60 // size
        start = time.monotonic()
        step = draw.randint(steps + 1, 6 * steps - 1)
        launch(size, "train", path, 6, "kill", draw.randrange(size), step, fails=True)
        assert time.monotonic() - start < SECONDS
        assert sorted(tmp_path.glob(f"{run}*")) == [path], "nothing half written"
        net = bp.load(path)
        history = net.fit(
            np.ones((6, 4)),
            np.zeros(4, int),
            epochs=7,
            batch_size=4,
            progress=False,
            optimizer=bp.SGD(0.1, momentum=0.5),
            resume=path,
        )
        assert len(history.cost) == 7


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise", "RankError: rank 1 of 3 has failed in epoch 2, step 2: ValueError: on purpose"),
        ("exit", "rank 1 was ended by SystemExit. Training ends on all 3 ranks, in epoch 2"),
        ("silent", "has waited 5 s for the others: one of them has died or fallen silent"),
    ],
)
def test_a_rank_that_leaves_ends_all_with_a_message(tmp_path, what, said):
    path = tmp_path / "run.npz"
    start = time.monotonic()
    text = launch(3, "train", path, 6, what, 1, 22, 5, fails=True)
    assert said in text
    assert text.count("bpengine: ") == (what != "raise"), "one message"
    assert time.monotonic() - start < SECONDS
    assert bp.load(path).sizes == (6, 8, 3)


def test_ctrl_c_on_one_rank_ends_all(tmp_path):
    found = launch(3, "train", tmp_path / "run.npz", 6, "interrupt", 2, 50)
    assert found["interrupted"] and len(found["cost"]) == 2


def test_a_checkpoint_goes_on_with_any_number_of_ranks(tmp_path):
    path = tmp_path / "run.npz"
    whole = launch(3, "train", tmp_path / "whole.npz", 5, "nothing", 0, 0)
    begun = launch(3, "train", path, 2, "nothing", 0, 0)
    saved = path.read_bytes()
    assert launch(3, "train", path, 5, "nothing", 0, 0) == whole
    for size in (1, 2, 4):
        path.write_bytes(saved)
        found = launch(size, "train", path, 5, "nothing", 0, 0)
        assert found["cost"][:2] == begun["cost"] and len(found["cost"]) == 5


@pytest.mark.parametrize("size", [2, 3])
def test_what_mpi_is_given_to_sum_is_each_parameter_once_a_step(size):
    found = launch(size, "count")
    costs = 2 * [8 * 5]  # of each epoch: a float64 a step
    assert sorted(found["sums"]) == sorted(10 * [found["parameters"]] + costs)


@pytest.mark.skipif(not Path("/proc/net/dev").exists(), reason="the system does not count bytes")
@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_sends_what_the_best_all_reduce_needs(size):
    found = launch(size, "wire", settings=TCP)
    needed = 2 * (size - 1) / size  # times the parameters' bytes: as around a ring
    assert 0.95 * needed < found["share"] < 1.1 * needed
