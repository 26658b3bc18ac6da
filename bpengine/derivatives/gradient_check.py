"""Gradient checking: backpropagation against finite differences of the cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpengine.backends import Array
from bpengine.backprop import equations
from bpengine.backprop.plan import gradient
from bpengine.backprop.workspace import Workspace
from bpengine.model.examples import sample_weights
from bpengine.model.model import Model, check_single
from bpengine.model.parameters import Gradient, Parameters
from bpengine.validation import flag, positive_number

__all__ = ["GradientCheck", "WorstEntry", "check_gradient", "numerical_gradient"]

STACK_ELEMENTS = 2**20  # of all networks that are perturbed at a time


@dataclass(frozen=True)
class WorstEntry:
    """The parameter whose two derivatives differ most.

    Attributes
    ----------
    parameter : str
        For example ``"weights[0][3, 5]"``.
    backprop, numerical : float
        The two derivatives.
    """

    parameter: str
    backprop: float
    numerical: float


@dataclass(frozen=True)
class GradientCheck:
    """Result of `check_gradient`.

    Attributes
    ----------
    relative_error : float
        ``‖num - bp‖ / (‖num‖ + ‖bp‖)`` over all parameters; 0 where both vanish to rounding.
    per_layer : tuple of float
        The same for the weights and biases of each layer.
    tolerance : float
    passed : bool
        Whether `relative_error` is at most `tolerance`.
    worst : WorstEntry
    """

    relative_error: float
    per_layer: tuple[float, ...]
    tolerance: float
    worst: WorstEntry

    @property
    def passed(self) -> bool:
        """Whether the relative error is within the tolerance."""
        return self.relative_error <= self.tolerance

    def __str__(self) -> str:
        return (
            f"{'passed' if self.passed else 'FAILED'}: relative error {self.relative_error:.2e} "
            f"(tolerance {self.tolerance:.0e}); worst at {self.worst.parameter}: "
            f"backprop {self.worst.backprop:.6e}, numerical {self.worst.numerical:.6e}"
        )


def numerical_gradient(
    network: Model,
    X: Array,
    Y: Array,
    *,
    sample_weight: Array | None = None,
    epsilon: float = 1e-5,
    two_sided: bool = True,
) -> Gradient:
    """Gradient of the average cost, penalties included, by finite differences, in float64.

    For every parameter θ, ``(C(θ + ε) - C(θ - ε)) / 2ε``, or with ``two_sided=False``
    ``(C(θ + ε) - C(θ)) / ε``, the chapter's equation 46: two forward passes per parameter, computed
    as stacks of networks.

    Parameters
    ----------
    network : Network
        It is not changed.
    X : array of shape (n_1, m)
    Y : array of shape (n_L, m), or m integer labels
    sample_weight : array of shape (m,), optional
        As for `Network.backprop`.
    epsilon : float, optional
        The perturbation ε.
    two_sided : bool, optional
        Two-sided differences have an error of order ε², one-sided ones of order ε.

    Returns
    -------
    Gradient
        With arrays of float64 on the network's backend.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """
    check_single(network, "numerical_gradient")
    epsilon, two_sided = positive_number(epsilon, "epsilon"), flag(two_sided, "two_sided")
    X, Y = network.check_examples(X, Y)
    relative = sample_weights(sample_weight, int(X.shape[1]), network.backend)
    perturbed = _PerturbedNetworks(network, X, Y)
    result = Gradient(network.sizes, network.backend, "float64")
    result.cost = float((perturbed.unperturbed * relative).mean())
    for l, block in enumerate(perturbed.blocks):
        derivative = np.empty(block.size)
        for start in range(0, block.size, perturbed.count):
            entries = np.arange(start, min(start + perturbed.count, block.size))
            above, up = perturbed.costs(l, entries, epsilon)
            if two_sided:
                below, down = perturbed.costs(l, entries, -epsilon)
            else:
                below, down = block.flat[entries], perturbed.unperturbed
            if (above == below).any():
                raise ValueError(
                    f"epsilon={epsilon} is too small: a parameter plus epsilon rounds to the parameter."
                )
            # differences per example lose fewer digits than differences of averages
            with np.errstate(over="ignore", invalid="ignore"):
                derivative[entries] = ((up - down) * relative).mean(axis=-1) / (above - below)
        gradient, w = derivative.reshape(block.shape), block[:, :-1]
        result.cost += float(_penalty(network, w).sum())
        gradient[:, :-1] += _penalty_derivative(network, w, epsilon, two_sided)
        perturbed.put(result, l, gradient)
    return result


def _penalty(network: Model, w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """λ₂/2 w² + λ₁ |w| of each weight."""
    return np.asarray(network.l2 / 2 * w**2 + network.l1 * np.abs(w))


def _penalty_derivative(
    network: Model, w: np.ndarray[Any, Any], epsilon: float, two_sided: bool
) -> np.ndarray[Any, Any]:
    """Finite differences of the penalty, with perturbations that end at 0, the kink of l1."""
    change = np.minimum(epsilon, np.abs(w))
    above, below = w + change, w - change if two_sided else w
    difference = _penalty(network, above) - _penalty(network, below)
    derivative = np.zeros(w.shape)
    np.divide(difference, above - below, out=derivative, where=above > below)
    return derivative


def check_gradient(
    network: Model,
    X: Array,
    Y: Array,
    *,
    sample_weight: Array | None = None,
    epsilon: float = 1e-5,
    two_sided: bool = True,
    tolerance: float | None = None,
) -> GradientCheck:
    """Compare backpropagation with finite differences, in float64.

    Parameters
    ----------
    network : Network
    X, Y, sample_weight, two_sided
        As for `numerical_gradient`.
    epsilon : float, optional
        The perturbation of each parameter. Two-sided differences in float64 are best near 1e-5; at
        the often quoted 1e-7 the rounding of the cost outweighs the error of the difference.
    tolerance : float, optional
        Maximum relative error; default: 1e-7, for one-sided differences ten times `epsilon`.

    Returns
    -------
    GradientCheck
        ``.relative_error``, ``.passed``, ``.worst`` and ``.per_layer``.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    Notes
    -----
    A network with a weighted input within epsilon of a kink, such as relu's at 0, may fail the check.
    At l1's kink, a weight of 0, both derivatives are 0. Dropout and label smoothing are left out.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.standard_normal((3, 10)), rng.random((2, 10))
    >>> check = bp.check_gradient(bp.Network([3, 5, 2], rng=0), X, Y)
    >>> check.passed, check.relative_error < 1e-8
    (True, True)
    """
    epsilon, two_sided = positive_number(epsilon, "epsilon"), flag(two_sided, "two_sided")
    if tolerance is None:
        tolerance = 1e-7 if two_sided else 10 * epsilon
    tolerance = positive_number(tolerance, "tolerance")
    numerical = numerical_gradient(
        network, X, Y, sample_weight=sample_weight, epsilon=epsilon, two_sided=two_sided
    )
    exact = network if network.dtype == "float64" else network.astype("float64")
    backprop = gradient(exact, X, Y, sample_weight)
    to_numpy = network.backend.to_numpy
    differences: list[tuple[float, WorstEntry]] = []
    layers: list[tuple[Any, Any]] = []
    for l, n in enumerate(network.sizes[:-1]):
        num, bp = (to_numpy(g.blocks[l])[:, : n + 1] for g in (numerical, backprop))
        layers.append((num.ravel(), bp.ravel()))
        apart = np.nan_to_num(np.abs(num - bp), nan=np.inf)
        j, k = np.unravel_index(apart.argmax(), apart.shape)
        name = f"weights[{l}][{j}, {k}]" if k < n else f"biases[{l}][{j}, 0]"
        differences.append((float(apart[j, k]), WorstEntry(name, float(bp[j, k]), float(num[j, k]))))
    num, bp = (np.concatenate(arrays) for arrays in zip(*layers, strict=True))
    # rounding error of a difference of costs
    noise = 4 * float(np.finfo("float64").eps) * max(1.0, numerical.cost) / epsilon
    return GradientCheck(
        relative_error=_relative_error(num, bp, noise),
        per_layer=tuple(_relative_error(*layer, noise) for layer in layers),
        tolerance=tolerance,
        worst=max(differences, key=lambda pair: pair[0])[1],
    )


def _relative_error(num: Any, bp: Any, noise: float) -> float:
    norm = np.linalg.norm
    total = float(norm(num) + norm(bp))
    return 0.0 if total <= noise * math.sqrt(num.size) else float(norm(num - bp)) / total


class _PerturbedNetworks:
    """A stack of copies of a network in float64, each with one parameter perturbed."""

    def __init__(self, network: Model, X: Array, Y: Array) -> None:
        self.network = network
        backend, sizes = network.backend, network.sizes
        blocks = zip(network.parameters.blocks, sizes, strict=False)
        self.blocks = [backend.to_numpy(block)[:, : n + 1].astype("float64") for block, n in blocks]
        m, σ = int(X.shape[1]), network.activations
        elements = sum(block.size for block in self.blocks) + 2 * m * sum(sizes)
        self.count = max(1, min(STACK_ELEMENTS // elements, max(block.size for block in self.blocks)))
        stack = (self.count,)
        self.parameters = Parameters(sizes, backend, "float64", stack)
        for l, block in enumerate(self.blocks):
            self.put(self.parameters, l, block)
        self.workspace = Workspace(sizes, σ, m, backend, "float64", errors=False, stack=stack)
        self.workspace.fill(X, Y)
        feedforward = equations.feedforward(self.parameters, σ, self.workspace)
        self.program = backend.compile(feedforward)
        self.unperturbed = self._costs()[0]

    def put(self, parameters: Parameters, l: int, block: np.ndarray[Any, Any]) -> None:
        """Write ``[w b]`` of layer l, for a network or a stack."""
        target = parameters.blocks[l][..., : block.shape[-1]]
        target[...] = self.network.backend.asarray(block, "float64")

    def costs(
        self, l: int, entries: np.ndarray[Any, Any], change: float
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Perturb one entry of layer l in each network; return their values and all costs C_x."""
        block = np.repeat(self.blocks[l][np.newaxis], self.count, axis=0)
        perturbed = block.reshape(self.count, -1)
        which = np.arange(len(entries))
        perturbed[which, entries] += change
        self.put(self.parameters, l, block)
        costs = self._costs()[: len(entries)]
        self.put(self.parameters, l, self.blocks[l])
        return perturbed[which, entries], costs

    def _costs(self) -> np.ndarray[Any, Any]:
        self.program.run(1)
        cost, ws = self.network.cost, self.workspace
        with np.errstate(all="ignore"):
            values = cost.per_example(self.network.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
        return self.network.backend.to_numpy(values)
