"""Two ranks against one process: the tables of docs/benchmarks-distributed.md.

It starts mpiexec itself. Two ranks of one BLAS thread each take turns with one process of two threads,
on the same global batches, in the same processes; a figure is the median of the ratios of pairs, with
the middle half of them. What a communicator of one rank costs is measured by the processor's time, which
other programs on the machine disturb less. Needs the extra `mpi` and threadpoolctl.

    python benchmarks/distributed.py --pairs 15
    mpiexec -n 2 python benchmarks/distributed.py link     # latency and bandwidth alone, on a cluster
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpengine as bp  # isort: skip  before NumPy

import numpy as np
import pages
from ladder import LADDER, LEARNING_RATE, network

STEPS = {"medium": 40, "large": 4, "small": 300, "nielsen": 1500}  # of an epoch that is timed
ALONE = ["nielsen", "small", "medium"]  # rungs on which a communicator of one rank is measured


def start(rungs: list[str], pairs: int, only_print: bool) -> None:
    """Run this file on two ranks, and write the page."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [mpiexec, "-n", "2", sys.executable, __file__, "ranks", "--pairs", str(pairs)]
    command += ["--rungs", *rungs]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    link = found["link"]
    columns = ["two ranks ÷ one process", "without overlap", "sync_every=8", "model ÷ measured"]
    rows = {
        rung: [
            *(shown(found[rung][kind]) for kind in ("overlap", "whole", "sync")),
            f"{found[rung]['model']:.2f}",
        ]
        for rung in rungs
    }
    parts = [
        *pages.first_lines(
            "Speed of two ranks with one BLAS thread each, relative to one process with two threads, "
            "through `fit`, on the same global batches.",
            "Above 1, two ranks are faster. `sync_every=8` is another algorithm. The last column is the "
            "time of a step that [the model](many-machines.md#how-many-machines-are-useful) predicts, "
            f"divided by the measured one. {pairs} pairs.",
            ["mpi4py"],
            rungs,
            threads=2,
            interval="the median, and in brackets the middle half",
        ),
        found["library"],
        pages.table("", columns, rows),
        "A communicator of a single rank ÷ none, in the processor's time, with one thread:",
        pages.table("", ["ratio"], {rung: [shown(found["alone"][rung])] for rung in ALONE}),
        f"Latency and bandwidth between the two ranks were {link['latency'] * 1e6:.1f} µs and "
        f"{link['bandwidth'] * 8e-9:.1f} Gbit/s.",
    ]
    pages.write("distributed", "several ranks", parts, only_print)


def shown(ratios: list[float]) -> str:
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def ranks(rungs: list[str], pairs: int) -> None:
    """What runs on each of the two ranks."""
    from mpi4py import MPI
    from threadpoolctl import threadpool_limits

    from bpengine.distributed import scaling
    from bpengine.distributed.options import DataParallel

    world = MPI.COMM_WORLD

    def quiet_barrier() -> None:
        request = world.Ibarrier()
        while not request.Test():
            time.sleep(0.002)  # whoever waits leaves its core to the other

    def alone(run: Callable[[], float]) -> float:
        """On rank 0, while the other sleeps."""
        quiet_barrier()
        seconds = run() if world.rank == 0 else 0.0
        quiet_barrier()
        return seconds

    def fit(rung: str, share: int, comm: Any) -> float:
        """Seconds of an epoch whose steps take the rung's batch, this process a share of it."""
        m = LADDER[rung].batch // share
        net, rule = network(rung), bp.SGD(LEARNING_RATE)
        # the first epoch warms up
        history = net.fit(
            *data[rung, m], epochs=2, batch_size=m, optimizer=rule, progress=False, comm=comm
        )
        return history.seconds[-1]

    def processor(rung: str, comm: Any) -> float:
        """Seconds of the processor that a training takes."""
        begun = time.process_time()
        fit(rung, 1, comm)
        return time.process_time() - begun

    data = {}
    for rung in {*rungs, *ALONE}:
        for share in (1, 2):
            sizes, m = LADDER[rung].sizes, LADDER[rung].batch // share
            rng = np.random.default_rng(world.rank)
            N = m * STEPS[rung]
            data[rung, m] = rng.random((N, sizes[0]), "f4").T, rng.random((N, sizes[-1]), "f4").T

    found: dict[str, Any] = {"library": MPI.Get_library_version().split("\n")[0].replace("\t", " ")}
    found["link"] = link = measured_link(world)
    kinds = {
        "overlap": DataParallel(world),
        "whole": DataParallel(world, overlap=False),
        "sync": DataParallel(world, sync_every=8),
    }
    for rung in rungs:
        found[rung] = {name: [] for name in kinds}
        seconds = []
        for _ in range(pairs):
            for name, comm in kinds.items():
                with threadpool_limits(2):
                    one = alone(lambda rung=rung: fit(rung, 1, None))
                with threadpool_limits(1):
                    both = fit(rung, 2, comm)
                found[rung][name].append(one / both)
                if name == "overlap":
                    seconds.append(both / STEPS[rung])
        sizes, m = LADDER[rung].sizes, LADDER[rung].batch // 2
        with threadpool_limits(1):
            rate = scaling.measured_rate(sizes, m)  # on both at once, as in training
        step = scaling.Step(sizes, rate, scaling.Link(link["latency"], link["bandwidth"]))
        found[rung]["model"] = step.price(m, 2).step / float(np.median(seconds))
    with threadpool_limits(1):
        found["alone"] = {
            rung: [
                alone(lambda rung=rung: processor(rung, MPI.COMM_SELF) / processor(rung, None))
                for _ in range(2 * pairs)
            ]
            for rung in ALONE
        }
    if world.rank == 0:
        print(json.dumps(found))


def measured_link(world: Any) -> dict[str, float]:
    """Latency and bandwidth between two ranks, from sums of two sizes: 2 (α + n / 2β) seconds each."""
    from bpengine.distributed.collectives import PIECE_BYTES, Group

    seconds = {}
    with Group(world, 60.0) as group:
        for size in (8, PIECE_BYTES):
            array = np.zeros(size // 4, "float32")
            times = []
            for _ in range(200):
                group.agree(1.0)
                begun = time.perf_counter()
                group.sum(array)
                times.append(time.perf_counter() - begun)
            seconds[size] = float(np.median(times))
    return {
        "latency": seconds[8] / 2,
        "bandwidth": (PIECE_BYTES - 8) / (seconds[PIECE_BYTES] - seconds[8]),
    }


def main() -> None:
    """Run what the command line asks for."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("what", nargs="?", default="all", choices=["all", "link", "ranks"])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--rungs", nargs="+", default=["medium", "large"])
    pages.options(parser)
    options = parser.parse_args()
    if options.what == "all":
        start(options.rungs, options.pairs, options.print)
    elif options.what == "ranks":
        ranks(options.rungs, options.pairs)
    else:
        from mpi4py import MPI

        link = measured_link(MPI.COMM_WORLD)
        if MPI.COMM_WORLD.rank == 0:
            print(f"--latency {link['latency'] * 1e6:.1f} --bandwidth {link['bandwidth'] * 8e-9:.2f}")


if __name__ == "__main__":
    main()
