"""Errors of wrong arguments have the argument's name."""

from types import ModuleType

import numpy as np
import pytest

import bpengine as bp
from bpengine.backends.array_api import library_name

X, Y = np.ones((2, 5)), np.zeros((1, 5))


def of_stack():
    return bp.Network([2, 1], stack=2, rng=0)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "index i of nets.i. must be a whole number, got 'a'", lambda: of_stack()["a"]),
        (TypeError, "index i of nets.i. must be a whole number", lambda: of_stack()[0:1]),
        (IndexError, "index i of nets.i. must be from -2 to 1, got 2", lambda: of_stack()[2]),
        (IndexError, "index i of nets.i. must be from -2 to 1, got 1000", lambda: of_stack()[10**400]),
        (
            TypeError,
            "numbers must be .* got nested lists",
            lambda: of_stack().take([[0], [0, 1]]),
        ),
        (TypeError, r"numbers must be whole .*, got shape \(\)", lambda: of_stack().take(1)),
        (TypeError, "numbers must be whole .* of float64", lambda: of_stack().take([0.5])),
        (ValueError, "numbers must be from 0 to 1, got 2", lambda: of_stack().take([2])),
        (ValueError, "numbers must be from 0 to 1, got -1", lambda: of_stack().take([-1])),
        (TypeError, r"^Network\(\): missing a required argument: 'sizes'", bp.Network),
        (
            TypeError,
            r"^Network\(\): multiple values for argument 'sizes'",
            lambda: bp.Network(1, sizes=1),
        ),
        (TypeError, r"^SGD\(\): too many positional arguments", lambda: bp.SGD(*range(9))),
        (TypeError, r"^fit\(\): missing a required argument: 'X'", lambda: of_stack().fit()),
        (ValueError, "unknown dtype", lambda: bp.Network([2, 1], dtype=np.ones(3))),
        (ValueError, "unknown dtype 'None'", lambda: bp.Network([2, 1], dtype=None)),
        (
            TypeError,
            "validation sample_weight must be numbers",
            lambda: of_stack().fit(X, Y, batch_size=5, validation=(X, Y, ["a"] * 5), progress=False),
        ),
        (
            ValueError,
            "validation sample_weight is 0 for every example",
            lambda: of_stack().fit(X, Y, batch_size=5, validation=(X, Y, 0 * X[0]), progress=False),
        ),
    ],
)
def test_the_argument_is_named(error, message, call):
    with pytest.raises(error, match=message) as raised:
        call()
    assert len(str(raised.value)) <= 500


def test_a_network_of_a_stack_is_found_by_any_whole_number():
    nets = of_stack()
    for i in (1, -1, np.int8(1), True):
        assert np.array_equal(nets[i].vector, list(nets)[1].vector)
    assert np.array_equal(nets.take([1, 1])[0].vector, nets[1].vector)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("jax.numpy", "jax"),
        ("array_api_compat.torch", "torch"),
        ("array_api_compat.dask.array", "dask"),
        ("array_api_strict", "array_api_strict"),
    ],
)
def test_a_library_has_its_usual_name(namespace, name):
    assert library_name(ModuleType(namespace)) == name
