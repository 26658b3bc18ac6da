"""Random networks for the property tests, and plain NumPy forms of them to compare with."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import bpengine as bp
from bpengine.model import files
from bpengine.reference import per_example

SOFTMAX = "softmax"
# those whose chains stay in range; an exponential of exponentials overflows
CHAINABLE = ["sigmoid", "tanh", "relu", "leaky_relu", "linear", "softplus", "gelu", "swish"]
ELEMENTWISE = [*CHAINABLE, "exponential"]
ACTIVATIONS = [*ELEMENTWISE, SOFTMAX]
HIDDEN = [*CHAINABLE, SOFTMAX]
REGRESSIONS = ["quadratic", "absolute_error", "huber"]
# a cost of any output activation, with each of them; the others like it with some. Poisson with relu,
# whose outputs of 0 have no logarithm, is in test_costs.py
PAIRS = [
    *((name, "quadratic") for name in ACTIVATIONS),
    *((name, "absolute_error") for name in ("linear", "tanh", "softmax")),
    *((name, "huber") for name in ("linear", "relu", "softmax")),
    *((name, "poisson") for name in ("exponential", "softplus", "sigmoid", "softmax")),
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "binary_cross_entropy"),
    ("softmax", "softmax_cross_entropy"),
]
CANONICAL = [
    ("linear", "quadratic"),
    ("exponential", "poisson"),
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "softmax_cross_entropy"),
]

OPTIMIZERS = [
    bp.SGD(0.1),
    bp.SGD(0.1, momentum=0.75),
    bp.SGD(0.1, momentum=0.75, nesterov=True),
    bp.Adam(0.01),
    bp.AdamW(0.01),
    bp.RMSprop(0.01),
    bp.Adagrad(0.1),
]
# what goes with every optimizer, in a strength that matters; and what a network has besides
ALONGSIDE = {"clip_norm": 0.25, "weight_decay": 0.1, "max_norm": 1.0, "averaging": 0.75}
REGULARIZED = {"dropout": 0.25, "l1": 0.01, "l2": 0.1}

Layer = str | list[str]


def examples(n: int) -> settings:
    """Settings for n examples of a test that takes the `lab` fixture, which no example changes."""
    return settings(max_examples=n, suppress_health_check=[HealthCheck.function_scoped_fixture])


def looped(names: str | tuple[str, ...], values: Iterable[Any]) -> Callable[..., Any]:
    """`pytest.mark.parametrize` within one test: for cases that are many and cheap.

    The test stops at the first case that fails, and the error says which. Fixtures are made once.
    """
    names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names
    cases = [dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in values]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            for case in cases:
                try:
                    test(**fixtures, **case)
                except BaseException as error:
                    error.add_note(f"with {case}")
                    raise

        signature = inspect.signature(test)
        left = [p for name, p in signature.parameters.items() if name not in names]
        run.__signature__ = signature.replace(parameters=left)
        return run

    return decorate


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

    def network(self, lab: Any, backend: Any = None, **options: Any) -> bp.Network:
        """The network, with biases that keep relu off its kink."""
        net = bp.Network(
            self.sizes,
            activations=self.activations,
            cost=self.cost,
            backend=lab.backend if backend is None else backend,
            dtype=self.dtype,
            rng=self.seed,
            **options,
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
    if cost in REGRESSIONS:
        return rng.standard_normal((n, m)).astype(dtype)
    if cost == "poisson":
        Y = rng.exponential(2, (n, m))
        Y[:, ::2] = Y[:, ::2].round()
    elif cost == "binary_cross_entropy":
        Y = rng.random((n, m))
        Y[:, ::2] = Y[:, ::2].round()
    else:
        Y = rng.dirichlet(np.ones(n), m).T
        Y[:, ::2] = np.eye(n)[:, rng.integers(0, n, Y[:, ::2].shape[1])]
    return Y.astype(dtype)


def hidden_layer(n: int) -> st.SearchStrategy[Layer]:
    per_neuron = st.lists(st.sampled_from(CHAINABLE), min_size=n, max_size=n)
    return st.sampled_from(HIDDEN) | per_neuron


def output_layer(cost: str, n: int) -> st.SearchStrategy[Layer]:
    names = [σ for σ, of in PAIRS if of == cost]
    whole = st.sampled_from(names)
    if cost == "softmax_cross_entropy":
        return whole
    names = ELEMENTWISE if cost in REGRESSIONS else [σ for σ in names if σ != SOFTMAX]
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
    least = 2 if "cross_entropy" in cost else 1
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
    """A network of three weight layers whose hidden and output layers are all σ, as far as may be."""
    return Case([3, 5, 4, 3], [*chain(σ), σ], cost, batch=6, dtype=dtype, seed=7)


def chain(σ: Layer) -> list[Layer]:
    """Two hidden layers of σ; of σ and tanh where σ of σ overflows."""
    return [σ, "tanh" if σ == "exponential" else σ]


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
    entry = [function(*(x[:, j : j + 1] for x in arrays)) for j in range(arrays[0].shape[1])]
    return np.concatenate(entry, axis=1)


def loop(case: Case, net: bp.Network, lab: Any) -> per_example.PerExampleNetwork:
    """The per-example network with the weights, biases, activations and cost of `net`."""
    per_neuron = [isinstance(layer, list) for layer in case.activations]
    names = ["linear" if isinstance(layer, list) else layer for layer in case.activations]
    one = per_example.PerExampleNetwork(
        [lab.numpy(w) for w in net.weights], [lab.numpy(b) for b in net.biases], names, case.cost
    )
    one.activations = [sigma(layer) for layer in case.activations]
    one.simplified = one.simplified and not per_neuron[-1]
    return one


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float, scale: float = 0.0) -> None:
    """As `Lab.assert_close`, for two NumPy arrays; errors are relative to `scale` if it is greater."""
    assert found.shape == expected.shape
    scale = max(scale, np.abs(expected).max(initial=np.finfo(float).tiny))
    assert np.abs(found - expected).max(initial=0.0) <= tolerance * scale


def stored(path: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and all arrays of a file."""
    with files.reading(path) as found:
        return found.description, found.arrays()


def optimizer_name(optimizer: bp.SGD) -> str:
    """For a test's name: the class and what is not as usual."""
    return re.sub(r"learning_rate=[^,)]*,? ?", "", repr(optimizer))


def flat(arrays: Any, lab: Any = None) -> np.ndarray:
    """A list of arrays as one flat NumPy vector."""
    return np.concatenate([np.ravel(x if lab is None else lab.numpy(x)) for x in arrays])
