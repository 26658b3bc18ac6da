"""What a gradient costs: against feedforward, against finite differences; fit against its steps."""

import numpy as np
import pytest
from ladder import LADDER, examples, network

import bpengine as bp
from bpengine.backprop import equations
from bpengine.backprop.workspace import Workspace


def forward(name: str):
    """Feedforward alone, replayed as a plan's is."""
    net, (X, Y) = network(name), examples(name)
    workspace = Workspace(net.sizes, net.activations, X.shape[1], net.backend, net.dtype, errors=False)
    workspace.fill(X, Y)
    operations = equations.feedforward(net.parameters, net.activations, workspace)
    return net.backend.compile(operations)


@pytest.mark.parametrize("rung", ["tiny", "nielsen", "small", "medium"])
@pytest.mark.parametrize("what", ["feedforward", "gradient"])
def test_gradient_and_feedforward(benchmark, group, rung: str, what: str) -> None:
    group(f"gradient and feedforward: {LADDER[rung]}")
    if what == "feedforward":
        program = forward(rung)
        benchmark(lambda: program.run(1))
    else:
        plan = network(rung).plan(LADDER[rung].batch)
        plan.load(*examples(rung))
        benchmark(plan.run)


@pytest.mark.parametrize("what", ["backprop", "finite differences"])
def test_gradient_and_finite_differences(benchmark, group, what: str) -> None:
    net = bp.Network([20, 15, 10], dtype="float64", rng=0, backend="numpy")
    rng = np.random.default_rng(0)
    X, Y = rng.random((20, 50)), rng.random((10, 50))
    group("gradient: 20-15-10, batch 50, float64")
    if what == "backprop":
        benchmark(net.backprop, X, Y)
    else:
        benchmark(bp.numerical_gradient, net, X, Y)


@pytest.mark.parametrize("rung", ["nielsen", "small"])
def test_fit(benchmark, group, rung: str) -> None:
    net = network(rung)
    X, Y = examples(rung, m=8000)
    group(f"an epoch of fit on 8,000 examples: {LADDER[rung]}")
    benchmark.pedantic(
        lambda: net.fit(X, Y, epochs=1, batch_size=LADDER[rung].batch, progress=False), rounds=5
    )


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict", "torch"])
def test_backends(benchmark, group, backend: str) -> None:
    pytest.importorskip(backend)
    X, Y = examples("small")
    net = bp.Network([784, 100, 10], backend=backend, rng=0)
    plan = net.plan(128, bp.SGD(0.1))
    plan.load(X, Y)
    group(f"a training step by backend: {LADDER['small']}")
    benchmark(plan.run)
