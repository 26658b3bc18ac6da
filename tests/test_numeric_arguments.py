"""Numbers and flags: what is checked is converted, and what is no number is refused by its name."""

from __future__ import annotations

import dataclasses
import decimal

import numpy as np
import pytest

import bpengine as bp
from bpengine import schedules
from bpengine.distributed.options import DataParallel
from bpengine.distributed.scaling import Link, Step

INSTANCES = (
    bp.SGD(0.1, 0.5, weight_decay=0.1, clip_norm=1.0, max_norm=1.0, averaging=0.5),
    bp.Adam(0.1),
    bp.RMSprop(0.1),
    bp.Adagrad(0.1),
    bp.LBFGS(),
    bp.DPSGD(0.1, 1.0, 1.0, averaging=0.5, delta=None),
    DataParallel(None),
    Link(1e-5, 1e9),
    Step([2, 1], 1e9, Link(1e-5, 1e9)),
    schedules.StepDecay(0.1, 0.5, 2),
    schedules.Cosine(0.1, 10),
    schedules.InverseScaling(0.1),
    schedules.WarmUp(0.1, 2),
    schedules.OnPlateau(0.1),
)
FIELDS = [
    (instance, field.name)
    for instance in INSTANCES
    for field in dataclasses.fields(instance)
    if any(kind in str(field.type) for kind in ("int", "float", "bool", "Rate"))
    and not any(kind in str(field.type) for kind in ("Sequence", "Callable"))
]
BAD = (
    10**400,
    1j,
    0j,
    float("nan"),
    float("inf"),
    -1,
    "1",
    b"1",
    decimal.Decimal("0.1"),
    np.array("1"),
    np.array(0j),
    np.array("2020", "M8[D]"),
    np.ma.masked,
)
NETWORK = bp.Network([2, 2, 1], rng=0)
X, Y = np.ones((2, 3)), np.ones((1, 3))
CALLS = {
    "l1": lambda x: bp.Network([2, 1], l1=x),
    "l2": lambda x: bp.Network([2, 1], l2=x),
    "dropout": lambda x: bp.Network([2, 2, 1], dropout=x),
    "label_smoothing": lambda x: bp.Network([2, 1], cost="binary_cross_entropy", label_smoothing=x),
    "initial_scale": lambda x: bp.Network([2, 1], initial_scale=x),
    "min_delta": lambda x: bp.EarlyStopping(min_delta=x),
    "restore": lambda x: bp.EarlyStopping(restore=x),
    "weighted": lambda x: NETWORK.plan(3, weighted=x),
    "two_sided": lambda x: bp.check_gradient(NETWORK, X, Y, two_sided=x),
    "epsilon": lambda x: bp.check_gradient(NETWORK, X, Y, epsilon=x),
    "tolerance": lambda x: bp.check_gradient(NETWORK, X, Y, tolerance=x),
}


def shown(x):
    return f"{type(x).__name__}-{str(x)[:8]}"


def named(x):
    return x if isinstance(x, str) else type(x).__name__


@pytest.mark.parametrize("value", BAD, ids=shown)
@pytest.mark.parametrize(("instance", "name"), FIELDS, ids=named)
def test_fields_refuse_what_is_no_number_in_their_range(instance, name, value):
    with pytest.raises((TypeError, ValueError), match=rf"\b({name}|learning_rate|after)\b") as caught:
        dataclasses.replace(instance, **{name: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("instance", "name"), FIELDS, ids=named)
def test_fields_hold_converted_values(instance, name):
    value = getattr(instance, name)
    if value is not None:
        other = dataclasses.replace(instance, **{name: np.asarray(value)[()]})
        assert type(getattr(other, name)) is type(value)
        assert getattr(other, name) == value


@pytest.mark.parametrize("value", BAD, ids=shown)
@pytest.mark.parametrize("name", CALLS)
def test_arguments_refuse_what_is_no_number_in_their_range(name, value):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b") as caught:
        CALLS[name](value)
    assert len(str(caught.value)) < 300
