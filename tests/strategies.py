"""Random networks for the property tests, and plain NumPy forms of them to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import bpengine as bp
from bpengine.reference import per_example

SOFTMAX = "softmax"
ELEMENTWISE = ["sigmoid", "tanh", "relu", "leaky_relu", "linear", "softplus", "gelu", "swish"]
ACTIVATIONS = [*ELEMENTWISE, SOFTMAX]
PAIRS = [
    *((name, "quadratic") for name in ACTIVATIONS),
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "binary_cross_entropy"),
    ("softmax", "softmax_cross_entropy"),
]
CANONICAL = [
    ("linear", "quadratic"),
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "softmax_cross_entropy"),
]

Layer = str | list[str]


def examples(n: int) -> settings:
    """Settings for n examples of a test that takes the `lab` fixture, which no example changes."""
    return settings(max_examples=n, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Case:
    """A network and a batch for it, all from one seed."""

    sizes: list[int]
    activations: list[Layer]
    cost: str
    batch: int = 4
    dtype: str = "float64"
    seed: int = 0

    @property
    def layers(self) -> int:
        return len(self.sizes) - 1

    def network(self, lab: Any, backend: Any = None) -> bp.Network:
        """The network, with biases that keep relu off its kink."""
        net = bp.Network(
            self.sizes,
            activations=self.activations,
            cost=self.cost,
            backend=lab.backend if backend is None else backend,
            dtype=self.dtype,
            rng=self.seed,
        )
        rng = np.random.default_rng([self.seed, 1])
        for b in net.biases:
            b[...] = net.backend.asarray(0.5 * rng.standard_normal(b.shape), self.dtype)
        return net

    def host_data(self) -> tuple[np.ndarray, np.ndarray]:
        """X and Y in NumPy."""
        rng = np.random.default_rng([self.seed, 2])
        X = rng.standard_normal((self.sizes[0], self.batch))
        return X.astype(self.dtype), targets(rng, self.cost, self.sizes[-1], self.batch, self.dtype)

    def data(self, lab: Any) -> tuple[Any, Any]:
        """X and Y as arrays of the lab."""
        X, Y = self.host_data()
        return lab.array(X), lab.array(Y)


def targets(rng: np.random.Generator, cost: str, n: int, m: int, dtype: str = "float64") -> np.ndarray:
    """Targets that a cost is defined for: soft ones in the odd columns, classes in the others."""
    if cost == "quadratic":
        return rng.standard_normal((n, m)).astype(dtype)
    if cost == "binary_cross_entropy":
        Y = rng.random((n, m))
        Y[:, ::2] = Y[:, ::2].round()
    else:
        Y = rng.dirichlet(np.ones(n), m).T
        Y[:, ::2] = np.eye(n)[:, rng.integers(0, n, Y[:, ::2].shape[1])]
    return Y.astype(dtype)


def hidden_layer(n: int) -> st.SearchStrategy[Layer]:
    own = st.lists(st.sampled_from(ELEMENTWISE), min_size=n, max_size=n)
    return st.sampled_from(ACTIVATIONS) | own


def output_layer(cost: str, n: int) -> st.SearchStrategy[Layer]:
    whole = st.sampled_from([σ for σ, of in PAIRS if of == cost])
    if cost == "softmax_cross_entropy":
        return whole
    names = ELEMENTWISE if cost == "quadratic" else ["sigmoid"]
    return whole | st.lists(st.sampled_from(names), min_size=n, max_size=n)


@st.composite
def cases(
    draw: st.DrawFn,
    min_layers: int = 1,
    max_layers: int = 5,
    max_width: int = 5,
    max_batch: int = 6,
    dtypes: tuple[str, ...] = ("float64",),
) -> Case:
    """Networks of 1 to 5 weight layers, with any activations, and a cost that goes with them."""
    layers = draw(st.integers(min_layers, max_layers))
    cost = draw(st.sampled_from(sorted({cost for _, cost in PAIRS})))
    # a softmax of one neuron is 1 whatever it is given
    least = 1 if cost == "quadratic" else 2
    sizes = draw(st.lists(st.integers(1, max_width), min_size=layers, max_size=layers))
    sizes.append(draw(st.integers(least, max_width)))
    return Case(
        sizes,
        [
            *(draw(hidden_layer(n)) for n in sizes[1:-1]),
            draw(output_layer(cost, sizes[-1])),
        ],
        cost,
        batch=draw(st.integers(1, max_batch)),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 2**20)),
    )


def deep(σ: str, cost: str, dtype: str = "float64") -> Case:
    """A network of three weight layers whose hidden and output layers are all σ."""
    return Case([3, 5, 4, 3], [σ, σ, σ], cost, batch=6, dtype=dtype, seed=7)


def sigma(layer: Layer) -> tuple[Any, Any]:
    """σ of one column z, and g ↦ the product of g and σ's Jacobian, in the reference's NumPy."""
    if isinstance(layer, str):
        return per_example.ACTIVATIONS[layer]
    rows = [per_example.ACTIVATIONS[name] for name in layer]

    def function(z: np.ndarray) -> np.ndarray:
        return np.concatenate([σ(z[j : j + 1]) for j, (σ, _) in enumerate(rows)])

    def slope(g: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [prime(g[j : j + 1], z[j : j + 1]) * np.ones((1, 1)) for j, (_, prime) in enumerate(rows)]
        )

    return function, slope


def columns(function: Any, *arrays: np.ndarray) -> np.ndarray:
    """Apply a function of single columns to every column."""
    each = [function(*(x[:, j : j + 1] for x in arrays)) for j in range(arrays[0].shape[1])]
    return np.concatenate(each, axis=1)


def loop(case: Case, net: bp.Network, lab: Any) -> per_example.PerExampleNetwork:
    """The per-example network with the weights, biases, activations and cost of `net`."""
    own = [isinstance(layer, list) for layer in case.activations]
    names = ["linear" if isinstance(layer, list) else layer for layer in case.activations]
    one = per_example.PerExampleNetwork(
        [lab.numpy(w) for w in net.weights], [lab.numpy(b) for b in net.biases], names, case.cost
    )
    one.activations = [sigma(layer) for layer in case.activations]
    one.simplified = one.simplified and not own[-1]
    return one


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float, scale: float = 0.0) -> None:
    """As `Lab.assert_close`, for two NumPy arrays; errors are relative to `scale` if it is greater."""
    assert found.shape == expected.shape
    scale = max(scale, np.abs(expected).max(initial=np.finfo(float).tiny))
    assert np.abs(found - expected).max(initial=0.0) <= tolerance * scale


def flat(arrays: Any, lab: Any = None) -> np.ndarray:
    """A list of arrays as one flat NumPy vector."""
    return np.concatenate([np.ravel(x if lab is None else lab.numpy(x)) for x in arrays])
