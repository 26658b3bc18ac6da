"""Gradients and steps of random networks, down to one neuron and one example, against a peer's.

The peer is JAX if it is installed, else complex-step differentiation in NumPy.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import bpengine as bp
from fuzz import Finding

try:
    import jax

    jax.config.update("jax_enable_x64", True)
    xp: Any = jax.numpy
except ImportError:
    jax = None
    xp = np

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda z: 1 / (1 + xp.exp(-z)),
    "tanh": xp.tanh,
    "relu": lambda z: xp.where(z.real > 0, z, 0),
    "leaky_relu": lambda z: xp.where(z.real > 0, z, 0.01 * z),
    "linear": lambda z: z,
    "softmax": lambda z: xp.exp(z) / xp.exp(z).sum(axis=0),
    "softplus": lambda z: xp.log(1 + xp.exp(z)),
    "gelu": lambda z: z * (1 + xp.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3))) / 2,
    "swish": lambda z: z / (1 + xp.exp(-z)),
}
COSTS: dict[str, tuple[list[str], Callable[[Any, Any], Any]]] = {
    "quadratic": (list(ACTIVATIONS), lambda a, y: (a - y) ** 2 / 2),
    "absolute_error": (["linear", "tanh"], lambda a, y: (a - y) * xp.sign((a - y).real)),
    "huber": (["linear", "gelu"], lambda a, y: _huber(a - y)),
    "poisson": (["softplus", "sigmoid"], lambda a, y: a - y * xp.log(a)),
    "binary_cross_entropy": (["sigmoid"], lambda a, y: -y * xp.log(a) - (1 - y) * xp.log(1 - a)),
    "softmax_cross_entropy": (["softmax"], lambda a, y: -y * xp.log(a)),
}


def _huber(d: Any) -> Any:
    return xp.where(abs(d.real) <= 1, d**2 / 2, d * xp.sign(d.real) - 0.5)


def gradient(cost: Callable[[Any], Any], θ: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """∇ cost at the vector θ."""
    if jax is not None:
        return np.asarray(jax.grad(cost)(θ))
    step = 1e-30j * np.eye(len(θ))
    return np.array([cost(θ + h).imag / 1e-30 for h in step])


def cost_of(net: bp.Network, X: Any, Y: Any, weight: Any, θ: Any) -> Any:
    """The average cost and the penalty of the parameters θ, layer by layer [w b] in rows."""
    start, a, penalty = 0, X, 0.0
    for n, before, σ in zip(net.sizes[1:], net.sizes[:-1], net.activations, strict=True):
        block = θ[start : start + n * (before + 1)].reshape(n, before + 1)
        start, w = start + block.size, block[:, :-1]
        a = ACTIVATIONS[σ.name](w @ a + block[:, -1:])
        penalty = penalty + net.l1 * (w * xp.sign(w.real)).sum() + net.l2 / 2 * (w**2).sum()
    return (COSTS[net.cost.name][1](a, Y).sum(axis=0) * weight).mean() / weight.mean() + penalty


def flat(net: bp.Network, parameters: Any) -> np.ndarray[Any, Any]:
    """The vector θ of parameters or of a gradient."""
    layers = zip(parameters.weights, parameters.biases, strict=True)
    return np.concatenate([np.hstack([w, b]).ravel() for w, b in layers])


def one(rng: np.random.Generator) -> None:
    """One network or stack: its gradient, and a step of gradient descent."""
    cost = list(COSTS)[rng.integers(len(COSTS))]
    hidden = rng.integers(0, 3)
    sizes = rng.integers(1, 5, size=hidden + 2).tolist()
    last = str(rng.choice(COSTS[cost][0]))
    if last == "softmax":
        sizes[-1] += 1
    P = int(rng.integers(1, 4)) if rng.random() < 0.5 else None
    net = bp.Network(
        sizes,
        [*map(str, rng.choice([*ACTIVATIONS], size=hidden)), last],
        cost,
        backend=str(rng.choice(["numpy", "numba"])),
        dtype="float64",
        rng=int(rng.integers(2**32)),
        l1=float(rng.choice([0.0, 0.01])),
        l2=float(rng.choice([0.0, 0.1])),
        stack=P,
    )
    for b in net.biases:
        b[...] = rng.normal(size=b.shape) / 2
    m = int(rng.integers(1, 6))
    X, Y = rng.normal(size=(sizes[0], m)), rng.uniform(0.05, 0.95, size=(sizes[-1], m))
    if cost == "softmax_cross_entropy":
        Y /= Y.sum(axis=0)
    weight = rng.uniform(0.5, 2, size=m) if rng.random() < 0.5 else np.ones(m)
    what = f"{net.sizes} {[σ.name for σ in net.activations]} {cost} {m=} {P=} {net.backend.name}"

    def networks() -> list[bp.Network]:
        return list(net) if P else [net]

    before = [flat(net, one) for one in networks()]
    found = net.backprop(X, Y, weight)
    ours = [flat(net, found)] if P is None else _of_stack(net, found)
    peers = [gradient(functools.partial(cost_of, net, X, Y, weight), θ) for θ in before]
    _compare(ours, peers, f"gradient of {what}")
    net.fit(X, Y, epochs=1, batch_size=m, optimizer=bp.SGD(0.5), sample_weight=weight, progress=False)
    after = [flat(net, one) for one in networks()]
    _compare(after, [θ - 0.5 * g for θ, g in zip(before, peers, strict=True)], f"step of {what}")


def _of_stack(net: bp.Network, found: Any) -> list[np.ndarray[Any, Any]]:
    return [
        np.concatenate(
            [np.hstack([w[p], b[p]]).ravel() for w, b in zip(found.weights, found.biases, strict=True)]
        )
        for p in range(len(net))
    ]


def _compare(ours: list[Any], peers: list[Any], what: str) -> None:
    for a, b in zip(ours, peers, strict=True):
        difference = np.abs(a - b).max()
        if not difference <= 1e-9 * (1 + np.abs(b).max()):
            raise Finding(f"{what}: differs by {difference:.2g}")
