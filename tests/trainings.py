"""Small networks and data to train on, and what tests of training compare."""

from __future__ import annotations

import functools

import numpy as np
from array_api_compat import array_namespace
from hypothesis import strategies as st

import bpengine as bp

# what a training is left with depends on all of these; each has a memory of another kind
OPTIMIZERS = {
    "sgd": bp.SGD(0.3),
    "momentum": bp.SGD(0.1, momentum=0.9),
    "adam": bp.Adam(0.05),
    "averaging": bp.SGD(0.3, averaging=0.9),
    "schedule": bp.Adam(bp.schedules.Cosine(0.05, epochs=3)),
}
optimizers = st.sampled_from(list(OPTIMIZERS.values()))


def network(lab, sizes=(3, 4, 2), **options):
    return bp.Network(sizes, backend=lab.backend, **{"dtype": "float64", "rng": 7, **options})


def data(m=11, rows=3, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, m)), rng.random((outputs, m))


def blobs(m=40):
    rng = np.random.default_rng(1)
    labels = np.arange(m) % 2
    X = rng.uniform(-1, 1, (2, m)) + np.where(labels, 2.0, -2.0)
    return X, labels


def fit(lab, net, X, Y, **options):
    """`net.fit` on host data, with the defaults of a small test."""
    options = {"epochs": 2, "batch_size": 4, "progress": False, **options}
    if options.get("sample_weight") is not None:
        options["sample_weight"] = lab.array(options["sample_weight"])
    return net.fit(lab.array(X), lab.array(Y), **options)


def arrays(lab, net):
    return [np.array(lab.numpy(array)) for array in (*net.weights, *net.biases)]


def vector(lab, net):
    return np.array(lab.numpy(net.vector))


def assert_same(lab, net, expected):
    for found, wanted in zip(arrays(lab, net), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def assert_alike(lab, one, other):
    """Two networks are the same to the last bit, in parameters and in what they will draw."""
    assert_same(lab, one, arrays(lab, other))
    np.testing.assert_equal(one.rng.bit_generator.state, other.rng.bit_generator.state)


def in_steps(history):
    """All of a history but its times."""
    return {name: value for name, value in history.as_dict().items() if name != "seconds"}


def batches(rng, examples, batch_size):
    order = rng.permutation(examples)
    return [order[i : i + batch_size] for i in range(0, examples, batch_size)]


def by_hand(lab, net, X, Y, epochs, batch_size, optimizer):
    """Yield the epoch, the step and the plan that has taken it, in the order that `fit` is to have.

    Plans of all batch sizes share what the optimizer remembers.
    """
    plans = {}
    for epoch in range(1, epochs + 1):
        for step, chosen in enumerate(batches(net.rng, X.shape[1], batch_size), 1):
            m = len(chosen)
            if m not in plans:
                state = next(iter(plans.values())).state if plans else None
                plans[m] = bp.Plan(net, m, optimizer, state=state)
            plans[m].load(lab.array(X[:, chosen]), lab.array(Y[:, chosen]))
            yield epoch, step, plans[m].run()


def uncompiled(function):
    """The function as an object that Numba does not try to compile, which takes a second for each."""
    return functools.partial(function)


def total(a, y):
    return array_namespace(a).sum(a, axis=-2)


SUM = bp.Cost("sum", total, lambda a, y: array_namespace(a).ones_like(a))
