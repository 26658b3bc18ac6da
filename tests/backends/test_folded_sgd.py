"""Gradient descent in the products of BP3 and BP4: other operations, the same steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cases, examples

import bpengine as bp
from bpengine.backends.folded_sgd import fold
from bpengine.backends.numpy.blas import NUMPY

RULES = [
    bp.SGD(0.1),
    bp.SGD(0.1, weight_decay=0.25),
    bp.SGD(0.1, momentum=0.75),
    bp.SGD(0.1, momentum=0.75, nesterov=True),
    bp.SGD(0.1, max_norm=1.0, averaging=0.75),
]


def trained(backend, case, stack, rule, options, separately):
    """The parameters after three steps, with operations compiled together or separately."""
    net = case.network(None, backend, stack=stack, **options)
    plan = net.plan(case.batch, rule)
    plan.load(*case.host_data())
    programs = [[op] for op in plan.operations] if separately else [plan.operations]
    programs = [backend.compile(operations) for operations in programs]
    for _ in range(3):
        for program in programs:
            program.run(1)
    return backend.to_numpy(net.vector)


@given(
    case=cases(max_layers=3),
    stack=st.sampled_from([None, 1, 2, 4]),
    rule=st.sampled_from(RULES),
    l2=st.sampled_from([0.0, 0.1, "each"]),
    dropout=st.sampled_from([0.0, 0.25]),
)
@examples(100)
def test_a_folded_step_is_the_step(backend, case, stack, rule, l2, dropout):
    """Of networks without a hidden layer too, of one neuron, of one example, of stacks."""
    l2 = (0.1 if stack is None else list(np.linspace(0, 0.2, stack))) if l2 == "each" else l2
    arguments = backend, case, stack, rule, {"l2": l2, "dropout": dropout}
    found, expected = (trained(*arguments, separately) for separately in (False, True))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", [bp.SGD(0.1), bp.SGD(0.1, momentum=0.75)], ids=["plain", "momentum"])
@pytest.mark.parametrize("stack", [None, 1, 3])
def test_a_network_without_a_hidden_layer_is_folded(stack, rule):
    """The penalty is taken off what the product adds itself to: of a stack, its networks' matrices."""
    plan = bp.Network([4, 3], backend="numpy", stack=stack, l2=0.1, rng=0).plan(6, rule)
    found = [op for ops in fold(plan.operations, NUMPY).values() for op in ops]
    assert {"add product", "shrink"} <= {op.name for op in found}
    [shrink] = (op for op in found if op.name == "shrink")
    assert shrink.output.shape == (*plan.network.parameters.stack, 3, 4)
