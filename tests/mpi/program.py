"""What the tests run under mpiexec: ``python program.py NAME ARGUMENTS``; rank 0 prints JSON."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI

import bpengine as bp
from bpengine.distributed import collectives, summed_gradient
from bpengine.distributed.options import DataParallel

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.rank, WORLD.size
OPTIMIZERS = [
    bp.SGD(0.05),  # greater ones let rounding grow from step to step
    bp.SGD(0.01, momentum=0.9, clip_norm=0.5),
    bp.Adam(0.05, epsilon=0.01),  # a small one makes much of the rounding of small gradients
    bp.SGD(0.05, averaging=0.9, weight_decay=0.01),
    bp.Adam(bp.schedules.Cosine(0.05, epochs=3), epsilon=0.01),
]
OPTIONS = [{}, {"overlap": False}, {"accumulate": 3}]


def shards(rng, n, outputs):
    """Every rank's examples, the same on all of them; of any number from a single batch on."""
    sizes = rng.integers(8, 40, SIZE)
    return [
        (rng.standard_normal((n, N)).astype("float32"), rng.integers(0, outputs, N), rng.random(N) + 0.1)
        for N in sizes
    ]


def together(parts, batch_sizes):
    """The global batches: what all ranks take in each step."""
    steps = max(-(-x.shape[1] // m) for (x, _, _), m in zip(parts, batch_sizes, strict=True))
    return [
        tuple(
            np.concatenate(
                [part[i][..., s * m : (s + 1) * m] for part, m in zip(parts, batch_sizes, strict=True)],
                axis=-1,
            )
            for i in range(3)
        )
        for s in range(steps)
    ]


def equality(count, seed):
    """Random networks and shards, on the ranks and in one process; the digest of all that came out."""
    summed_gradient.BUCKET_BYTES, collectives.PIECE_BYTES = 400, 4096  # several of each
    digest, worst = hashlib.sha256(), 0.0
    for number in range(int(count)):
        rng = np.random.default_rng([int(seed), number])
        sizes = [int(n) for n in rng.integers(2, 40, int(rng.integers(3, 6)))]
        parts = shards(rng, sizes[0], sizes[-1])
        batch_sizes = [int(m) for m in rng.integers(1, 9, SIZE)]
        dtype = str(rng.choice(["float32", "float64"]))
        optimizer = OPTIMIZERS[number % len(OPTIMIZERS)]
        options = {"epochs": 3, "optimizer": optimizer, "progress": False}

        def build(seed, sizes=sizes, dtype=dtype):
            activations = ["tanh"] * (len(sizes) - 2) + ["softmax"]
            return bp.Network(
                sizes, activations, "softmax_cross_entropy", dtype=dtype, rng=seed, l2=1e-3
            )

        X, Y, W = parts[RANK]
        net = build(RANK)
        comm = DataParallel(WORLD, **OPTIONS[number % len(OPTIONS)])
        history = net.fit(
            X,
            Y,
            sample_weight=W,
            validation=(X, Y),
            batch_size=batch_sizes[RANK],
            shuffle=False,
            comm=comm,
            **options,
        )
        everyone = WORLD.allgather((net.vector.tobytes(), history.cost, history.validation_cost))
        assert all(other == everyone[0] for other in everyone), "ranks differ"
        digest.update(everyone[0][0])
        # shuffling and dropout: the same once more, whatever their figures are
        other = bp.Network(sizes, dropout=0.3, rng=RANK, dtype=dtype)
        other.fit(X, np.eye(sizes[-1])[Y].T, epochs=2, batch_size=4, progress=False, comm=WORLD)
        digest.update(b"".join(WORLD.allgather(other.vector.tobytes())))
        if RANK == 0:
            one = build(0)
            mean = np.concatenate([w for _, _, w in parts]).mean()
            batches = together([(x, y, w / mean) for x, y, w in parts], batch_sizes)
            V = np.concatenate([x for x, _, _ in parts], 1), np.concatenate([y for _, y, _ in parts])
            expected = one.fit(batches, validation=V, **options)
            scale = np.finfo(dtype).eps * np.abs(one.vector).max()
            errors = [np.abs(net.vector - one.vector).max() / scale]
            for name in ("cost", "validation_cost"):
                found, wanted = np.array(getattr(history, name)), np.array(getattr(expected, name))
                errors.append(np.abs(found - wanted).max() / np.finfo(dtype).eps)
            worst = max(worst, *map(float, errors))
    return {"digest": digest.hexdigest(), "worst": worst}


def problem(size=SIZE, rank=RANK):
    """A task of 60 examples shared out over the ranks."""
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((6, 60)), rng.integers(0, 3, 60)
    net = bp.Network([6, 8, 3], cost="binary_cross_entropy", dtype="float64", rng=rank, dropout=0.1)
    return net, X[:, rank::size], Y[rank::size]


class At(bp.Callback):
    """Does something after so many steps on one rank."""

    def __init__(self, rank, step, what):
        self.rank, self.left, self.what = rank, step, what

    def steps(self, training, count):
        self.left -= count
        if self.rank == RANK and self.left <= 0 < self.left + count:
            self.what()


def raising():
    raise ValueError("on purpose")


WHAT = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raise": raising,
    "silent": lambda: time.sleep(600),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    "nothing": lambda: None,
}


def train(path, epochs, what, rank, step, timeout="60"):
    """A training with checkpoints in which something happens on a rank."""
    net, X, Y = problem()
    history = net.fit(
        X,
        Y,
        epochs=int(epochs),
        batch_size=1,
        optimizer=bp.SGD(0.1, momentum=0.5),
        progress=False,
        callbacks=[At(int(rank), int(step), WHAT[what]), bp.Checkpoint(path)],
        monitor=1 if what != "nothing" else None,  # a look at each step: rounds of one
        resume=path,
        comm=DataParallel(WORLD, timeout=float(timeout)),
    )
    everyone = WORLD.allgather((net.vector.tobytes(), history.cost, history.interrupted))
    assert all(other == everyone[0] for other in everyone), "ranks differ"
    return {
        "digest": hashlib.sha256(everyone[0][0]).hexdigest(),
        "cost": history.cost,
        "interrupted": history.interrupted,
    }


class Counting:
    """A communicator that counts the bytes handed over to MPI for sums."""

    IN_PLACE = MPI.IN_PLACE

    def __init__(self, comm, sums=None):
        self.comm, self.sums = comm, [] if sums is None else sums

    def __getattr__(self, name):
        return getattr(self.comm, name)

    def Idup(self):  # noqa: N802
        new, request = self.comm.Idup()
        return Counting(new, self.sums), request

    def Iallreduce(self, local, array):  # noqa: N802
        self.sums.append(array.nbytes)
        return self.comm.Iallreduce(local, array)


IN_PLACE = MPI.IN_PLACE  # of the module that `Counting` is of


def count():
    """Bytes summed in a training of 2 epochs of 5 steps."""
    net, X, Y = problem()
    counting = Counting(WORLD)
    X, Y = X[:, :10], Y[:10]
    net.fit(X, Y, epochs=2, batch_size=2, progress=False, comm=counting)
    return {"sums": counting.sums, "parameters": net.vector.nbytes}


def loopback():
    """Bytes that this machine has sent to itself, if its system reports them."""
    with open("/proc/net/dev", encoding="ascii") as file:
        line = next(line for line in file if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def wire():
    """Bytes that a rank sends a step for each byte of the parameters: MPI over TCP alone."""
    net = bp.Network([500, 1000, 500], rng=0)
    X, Y = np.zeros((500, 10), "float32"), np.zeros((500, 10), "float32")
    sent = []

    def note(training):
        WORLD.Barrier()
        sent.append(loopback())
        WORLD.Barrier()

    net.fit(X, Y, epochs=5, batch_size=1, progress=False, callbacks=[note], comm=WORLD)
    least = min(b - a for a, b in itertools.pairwise(sent))  # others may use the interface too
    return {"share": least / (10 * net.vector.nbytes * SIZE)}


if __name__ == "__main__":
    result = globals()[sys.argv[1]](*sys.argv[2:])
    if RANK == 0:
        print(json.dumps(result))
