"""Everything that is timed against the engine: training steps on one resident batch.

Each maker takes the name of a rung of the ladder and a number of steps, and gives a function that
takes so many steps of plain SGD, update included: float32, sigmoid, quadratic cost.
Peers run at their best settings on the same cores.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from ladder import LEARNING_RATE, RUNGS, examples, frozen_step, network, plain_parameters, plan

from bpengine.reference.per_example import PerExampleNetwork
from bpengine.reference.stacked import StackedNetwork

Steps = Callable[[], object]
Maker = Callable[[str, int], Steps]
Make = TypeVar("Make")


def engine(name: str, steps: int) -> Steps:
    """bpengine's plan, replayed."""
    step = plan(name)
    return lambda: step.run(steps)


def compiled_engine(name: str, steps: int) -> Steps:
    """The same plan, replayed by compiled code."""
    step = plan(name, backend="numba")
    return lambda: step.run(steps)


def per_example_loop(name: str, steps: int) -> Steps:
    """One example at a time, as the chapter has it."""
    loop, (X, Y) = PerExampleNetwork(*_network(name)), examples(name)
    return lambda: [loop.update_mini_batch(X, Y, LEARNING_RATE) for _ in range(steps)]


def stacked_matmul(name: str, steps: int) -> Steps:
    """Per-example gradients as a 3-D array by matmul, then their average."""
    stacked, (X, Y) = StackedNetwork(*_network(name)), examples(name)
    return lambda: [stacked.update_mini_batch(X, Y, LEARNING_RATE) for _ in range(steps)]


def stacked_einsum(name: str, steps: int) -> Steps:
    """Per-example gradients as a 3-D array by einsum, then their average."""
    stacked, (X, Y) = StackedNetwork(*_network(name)), examples(name)
    return lambda: [stacked.update_mini_batch(X, Y, LEARNING_RATE, "einsum") for _ in range(steps)]


def batched_numpy(name: str, steps: int) -> Steps:
    """A batch in matrix form as one writes it first."""
    step = frozen_step(name)
    return lambda: [step() for _ in range(steps)]


def products_alone(name: str, steps: int) -> Steps:
    """The matrix products of a step and nothing else: the lower bound."""
    step = network(name).plan(RUNGS[name].batch)
    step.load(*examples(name))
    step.run()  # the buffers then hold numbers of a real step
    calls = [(np.matmul, (*op.inputs, op.output)) for op in step.operations if op.name == "matmul"]

    def run() -> None:
        for _ in range(steps):
            for function, operands in calls:
                function(*operands)

    return run


def jax_scan(name: str, steps: int) -> Steps:
    """JAX: jit of a scan over all steps, buffers donated."""
    import jax

    step = _jax_step(name)
    scan = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: (step(s), None), state, None, length=steps)[0],
        donate_argnums=0,
    )
    return advancing(scan, jax_state(name))


def jax_steps(name: str, steps: int) -> Steps:
    """JAX: jit of one step, called for each."""
    import jax

    jitted = jax.jit(_jax_step(name), donate_argnums=0)

    def several(state: Any) -> Any:
        for _ in range(steps):
            state = jitted(state)
        return state

    return advancing(several, jax_state(name))


def advancing(further: Callable[[Any], Any], state: Any) -> Steps:
    """Calls of a function of JAX, each with the state that the one before returned."""
    import jax

    box = [further(state)]

    def run() -> None:
        box[0] = jax.block_until_ready(further(box[0]))

    return run


def jax_prediction(name: str, m: int | None) -> Steps:
    """JAX: jit of the outputs for a batch."""
    import jax

    X = jax.numpy.asarray(examples(name, m)[0])
    state, predict = jax_state(name), jax.jit(_jax_outputs)
    return lambda: jax.block_until_ready(predict(state, X))


def jax_state(name: str) -> Any:
    """The parameters of a rung as arrays of JAX."""
    import jax.numpy as jnp

    pairs = zip(*plain_parameters(name), strict=True)
    return [(jnp.array(w), jnp.array(b)) for w, b in pairs]


def _jax_outputs(state: Any, X: Any) -> Any:
    import jax

    for w, b in state:
        X = jax.nn.sigmoid(w @ X + b)
    return X


def jax_cost(state: Any, X: Any, Y: Any) -> Any:
    """The quadratic cost, averaged over a batch."""
    return 0.5 * ((_jax_outputs(state, X) - Y) ** 2).sum() / X.shape[1]


def jax_update(state: Any, gradient: Any) -> Any:
    """Parameters after a step of gradient descent."""
    import jax

    return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, state, gradient)


def _jax_step(name: str) -> Callable[[Any], Any]:
    import jax

    X, Y = map(jax.numpy.asarray, examples(name))
    return lambda state: jax_update(state, jax.grad(jax_cost)(state, X, Y))


def torch_eager(name: str, steps: int) -> Steps:
    """PyTorch: eager, with the fused SGD."""
    step = _torch(name, compiled=False)
    return lambda: [step() for _ in range(steps)]


def torch_compile(name: str, steps: int) -> Steps:
    """PyTorch: torch.compile of the forward and backward pass, with the fused SGD."""
    step = _torch(name, compiled=True)
    return lambda: [step() for _ in range(steps)]


def torch_prediction(name: str, m: int | None) -> Steps:
    """PyTorch: the outputs for a batch, without gradients."""
    import torch

    X = torch.from_numpy(np.ascontiguousarray(examples(name, m)[0].T))
    predict = torch.inference_mode()(torch_model(name))
    return lambda: predict(X)


def torch_model(name: str) -> Any:
    import torch

    layers: list[Any] = []
    for w, b in zip(*plain_parameters(name), strict=True):
        layer = torch.nn.Linear(w.shape[1], w.shape[0])
        layer.weight.data = torch.from_numpy(w)
        layer.bias.data = torch.from_numpy(b[:, 0].copy())
        layers += [layer, torch.nn.Sigmoid()]
    return torch.nn.Sequential(*layers)


def _torch(name: str, compiled: bool) -> Steps:
    import torch

    X, Y = (torch.from_numpy(np.ascontiguousarray(x.T)) for x in examples(name))
    model = torch_model(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, fused=True)

    def cost(X: Any, Y: Any) -> Any:
        return 0.5 * ((model(X) - Y) ** 2).sum() / X.shape[0]

    evaluate = torch.compile(cost) if compiled else cost

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        evaluate(X, Y).backward()
        optimizer.step()

    return step


def scikit_learn(name: str, steps: int) -> Steps:
    """scikit-learn: partial_fit of MLPRegressor, whose output layer is linear."""
    from sklearn.neural_network import MLPRegressor

    X, Y = (np.ascontiguousarray(x.T) for x in examples(name))
    model = MLPRegressor(
        hidden_layer_sizes=RUNGS[name].sizes[1:-1],
        activation="logistic",
        solver="sgd",
        alpha=0.0,
        batch_size=RUNGS[name].batch,
        learning_rate_init=LEARNING_RATE / 100,  # a linear output layer diverges with more
        momentum=0.0,
    )
    Y = Y[:, 0] if Y.shape[1] == 1 else Y
    return lambda: [model.partial_fit(X, Y) for _ in range(steps)]


def _network(name: str) -> tuple[Any, Any, list[str], str]:
    weights, biases = plain_parameters(name)
    return weights, biases, ["sigmoid"] * len(weights), "quadratic"


PARTS = {
    "per-example loop": per_example_loop,
    "3-D stack, matmul": stacked_matmul,
    "3-D stack, einsum": stacked_einsum,
    "batched NumPy": batched_numpy,
    "products alone": products_alone,
}
PEERS = {
    "bpengine, Numba": ("numba", compiled_engine),
    "JAX scan": ("jax", jax_scan),
    "JAX, step by step": ("jax", jax_steps),
    "PyTorch eager": ("torch", torch_eager),
    "torch.compile": ("torch", torch_compile),
    "scikit-learn": ("sklearn", scikit_learn),
}
PREDICTIONS = {"JAX": ("jax", jax_prediction), "PyTorch": ("torch", torch_prediction)}


def installed(peers: Mapping[str, tuple[str, Make]]) -> dict[str, Make]:
    """The peers whose packages are there; the others are named on stderr."""
    missing = sorted({package for package, _ in peers.values() if not importlib.util.find_spec(package)})
    if missing:
        print(f"peers that are not installed and not timed: {', '.join(missing)}", file=sys.stderr)
    return {name: make for name, (package, make) in peers.items() if package not in missing}
