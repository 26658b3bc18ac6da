"""Training over ranks: the same as in one process, whatever each rank brings; and ends together."""

from __future__ import annotations

import itertools
import json
import logging
import time

import numpy as np
import pytest
import ranks
import trainings
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import bpengine as bp
from bpengine import collectives, distributed
from bpengine.distributed import DataParallel, RankError
from bpengine.private import DPSGD

SIZES = [3, 5, 4, 2]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Gradients of the small networks here go over the ranks in several buckets and pieces."""
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 100)
    monkeypatch.setattr(collectives, "PIECE_BYTES", 48)
    monkeypatch.setattr(collectives, "SPINS", 3)


def data(N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((SIZES[0], N)), rng.integers(0, SIZES[-1], N)


def network(lab, seed=3, **options):
    options = {"cost": "binary_cross_entropy", "dtype": "float64", **options}
    activations = ["tanh", "tanh", "sigmoid"]
    return bp.Network(SIZES, activations, rng=seed, backend=lab.backend, **options)


def global_batches(shards, batch_sizes):
    """What all ranks take together, step by step: columns of X, Y and weights."""
    steps = max(-(-x[0].shape[1] // m) for x, m in zip(shards, batch_sizes, strict=True))
    return [
        tuple(
            np.concatenate(
                [s[i][..., step * m : (step + 1) * m] for s, m in zip(shards, batch_sizes, strict=True)],
                axis=-1,
            )
            for i in range(len(shards[0]))
        )
        for step in range(steps)
    ]


def fit(lab, net, X, Y, comm, **options):
    options = {"epochs": 2, "batch_size": 4, "progress": False, "shuffle": False, **options}
    return net.fit(lab.array(X), lab.array(Y), comm=comm, **options)


@examples(12)
@given(
    shards=st.lists(st.tuples(st.integers(4, 14), st.integers(1, 4)), min_size=1, max_size=3),
    optimizer=st.sampled_from(list(trainings.OPTIMIZERS)),
    options=st.sampled_from([{}, {"overlap": False}, {"accumulate": 2}, {"accumulate": 3}]),
    weighted=st.booleans(),
    regularized=st.booleans(),
    seed=st.integers(0, 100),
)
def test_ranks_are_one_process_with_the_same_global_batches(
    lab, shards, optimizer, options, weighted, regularized, seed
):
    optimizer = trainings.OPTIMIZERS[optimizer]
    extra = {"l1": 1e-3, "l2": 1e-2, "label_smoothing": 0.1} if regularized else {}
    counts, batch_sizes = zip(*shards, strict=True)
    X, Y = data(sum(counts), seed)
    W = np.random.default_rng(seed).random(sum(counts)) + 0.1 if weighted else np.ones(sum(counts))
    own = list(zip(*(ranks.parts(x, counts) for x in (X, Y, W)), strict=True))

    def rank(comm):
        x, y, w = own[comm.rank]
        net = network(lab, seed + comm.rank, **extra)
        history = fit(
            lab,
            net,
            x,
            y,
            DataParallel(comm, **options),
            batch_size=batch_sizes[comm.rank],
            optimizer=optimizer,
            sample_weight=lab.array(w) if weighted else None,
            validation=(lab.array(x), lab.array(y)),
        )
        return trainings.vector(lab, net), history, net.rng.bit_generator.state

    found = ranks.results(len(shards), rank)
    one = network(lab, seed, **extra)
    W = W / W.mean()
    own = list(zip(*(ranks.parts(x, counts) for x in (X, Y, W)), strict=True))
    batches = [
        tuple(lab.array(x) for x in (batch if weighted else batch[:2]))
        for batch in global_batches(own, batch_sizes)
    ]
    expected = one.fit(
        batches,
        epochs=2,
        optimizer=optimizer,
        validation=(lab.array(X), lab.array(Y)),
        progress=False,
    )
    for vector, history, state in found:
        np.testing.assert_array_equal(vector, found[0][0])
        lab.assert_close(lab.array(vector), trainings.vector(lab, one), 1e-9)
        assert trainings.in_steps(history) == trainings.in_steps(found[0][1])
        np.testing.assert_equal(state, found[0][2])
        for name in ("cost", "validation_cost", "validation_accuracy", "learning_rate"):
            np.testing.assert_allclose(getattr(history, name), getattr(expected, name), rtol=1e-9)
