"""What is written can be read: every state of networks, stacks and trainings, to the last bit."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, reject
from hypothesis import strategies as st
from strategies import ALONGSIDE, OPTIMIZERS, cases, examples
from trainings import assert_alike, in_steps

import bpengine as bp
from bpengine.model import files
from bpengine.model.costs import COSTS

SUFFIXES = [".npz", ".safetensors"]
GENERATORS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]
shares = st.sampled_from([0.0, 0.25])
strengths = st.sampled_from([0.0, 0.01])


@st.composite
def settings_of(draw, case, P):
    """Options of a network or a stack of P, whose values may be per network."""

    def maybe_each(values):
        return values if not P else values | st.lists(values, min_size=P, max_size=P)

    dropout = draw(st.lists(maybe_each(shares), min_size=case.layers, max_size=case.layers))
    smoothing = draw(shares) if COSTS[case.cost].classification else 0.0
    return {
        "dropout": dropout,
        "l1": draw(maybe_each(strengths)),
        "l2": draw(maybe_each(strengths)),
        "label_smoothing": smoothing,
    }


def made(lab, case, P, generator, options):
    def rng(seed):
        return np.random.Generator(getattr(np.random, generator)(seed))

    return bp.Network(
        case.sizes,
        case.activations,
        case.cost,
        lab.backend,
        case.dtype,
        stack=P,
        rng=[rng(seed) for seed in range(P)] if P else rng(0),
        **options,
    )


networks = {
    "case": cases(max_layers=3, max_width=3, dtypes=("float32", "float64")),
    "P": st.sampled_from([None, 1, 3]),
    "suffix": st.sampled_from(SUFFIXES),
    "generator": st.sampled_from(GENERATORS),
    "draw": st.data(),
}


@given(**networks)
@examples(20)
def test_networks_and_stacks(lab, tmp_path_factory, case, P, suffix, generator, draw):
    net = made(lab, case, P, generator, draw.draw(settings_of(case, P)))
    path = tmp_path_factory.getbasetemp() / f"net{suffix}"
    net.save(path)
    found = bp.load(path, backend=lab.backend)
    assert repr(found) == repr(net)
    for option in files.OPTIONS:
        np.testing.assert_equal(getattr(found, option), getattr(net, option))
    np.testing.assert_array_equal(lab.numpy(found.vector), lab.numpy(net.vector))


class StopAt(bp.Callback):
    """Ends the training, or that of one network of a stack, after some epoch."""

    def __init__(self, p, after):
        self.p, self.after = p, after

    def epoch(self, training):
        if training.epoch == self.after and training.network.stack:
            training.stop_networks(self.p)


@given(
    **networks,
    optimizer=st.sampled_from(OPTIMIZERS),
    alongside=st.lists(st.sampled_from(list(ALONGSIDE)), unique=True),
    stopping=st.booleans(),
    validated=st.booleans(),
    monitor=st.sampled_from([None, "epoch"]),
    after=st.integers(1, 3),
    stop=st.integers(1, 3),
)
@examples(12)
def test_trainings(
    lab,
    tmp_path_factory,
    case,
    P,
    suffix,
    generator,
    draw,
    optimizer,
    alongside,
    stopping,
    validated,
    monitor,
    after,
    stop,
):
    """Of networks that have stopped, are averaged, stop early: resumed after any epoch."""
    options = draw.draw(settings_of(case, P))
    rule = type(optimizer)(**{**vars(optimizer), **{name: ALONGSIDE[name] for name in alongside}})
    path = tmp_path_factory.getbasetemp() / f"run{suffix}"
    path.unlink(missing_ok=True)
    X, Y = case.data(lab)

    def run(epochs, *callbacks, resume=None):
        net = made(lab, case, P, generator, options)
        history = net.fit(
            X,
            Y,
            epochs=epochs,
            batch_size=min(2, case.batch),
            optimizer=rule,
            validation=(X, Y) if validated else None,
            monitor=monitor,
            callbacks=[
                StopAt(0, stop),
                *([bp.EarlyStopping(patience=1, min_delta=1e-3)] if stopping else []),
                *callbacks,
            ],
            resume=resume,
            progress=False,
        )
        return net, history

    try:
        expected, history = run(4)
    except (bp.NonFiniteCostError, RuntimeWarning):  # poisson costs of exponentials, for example
        reject()
    run(after, bp.Checkpoint(path))
    net, found = run(4, resume=path)
    assert_alike(lab, net, expected)
    for rng, other in zip(net.rngs, expected.rngs, strict=True):
        np.testing.assert_equal(rng.bit_generator.state, other.bit_generator.state)
    # figures that are not finite are equal to themselves
    assert json.dumps(in_steps(found)) == json.dumps(in_steps(history))
