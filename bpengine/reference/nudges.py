"""The effect of changing one weight on z, a and the cost, with the gradient's prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bpengine.reference.per_example import (
    ACTIVATIONS,
    COSTS,
    PerExampleNetwork,
    check_entry,
    check_example,
)

__all__ = ["Nudges", "nudge"]

Array = np.ndarray[Any, Any]


def _log(y: Array, a: Array) -> Any:
    """``y ln a``, which is 0 where y is 0."""
    return y * np.log(np.where(y == 0, 1, a))


# name: C_x of the output activations
OF_A: dict[str, Callable[[Array, Array], Any]] = {
    "quadratic": lambda a, y: ((a - y) ** 2).sum() / 2,
    "absolute_error": lambda a, y: np.abs(a - y).sum(),
    "huber": lambda a, y: np.where(np.abs(a - y) <= 1, (a - y) ** 2 / 2, np.abs(a - y) - 0.5).sum(),
    "poisson": lambda a, y: (a - _log(y, a)).sum(),
    "binary_cross_entropy": lambda a, y: -(_log(y, a) + _log(1 - y, 1 - a)).sum(),
    "softmax_cross_entropy": lambda a, y: -_log(y, a).sum(),
}
# (name, output activation): C_x of the weighted inputs, where the activations may round to 0 or 1
OF_Z: dict[tuple[str, str], Callable[[Array, Array], Any]] = {
    ("poisson", "exponential"): lambda z, y: (np.exp(z) - y * z).sum(),
    ("binary_cross_entropy", "sigmoid"): lambda z, y: (np.logaddexp(0, z) - y * z).sum(),
    ("softmax_cross_entropy", "softmax"): lambda z, y: (y * (np.logaddexp.reduce(z) - z)).sum(),
}


@dataclass(frozen=True)
class Nudges:
    """Result of `nudge` for k changes of a weight.

    Attributes
    ----------
    amounts : array of shape (k,)
        The changes Δw.
    z, a : tuple of arrays of shape (n_l, k)
        Weighted inputs and activations of each layer after the input.
    cost : array of shape (k,)
        ``C_x(w + Δw)``.
    slope : float
        ``∂C_x/∂w``, by backprop.
    predicted : array of shape (k,)
        ``C_x(w) + ∂C_x/∂w Δw``.
    """

    amounts: Array
    z: tuple[Array, ...]
    a: tuple[Array, ...]
    cost: Array
    slope: float
    predicted: Array


def nudge(
    weights: Sequence[Array],
    biases: Sequence[Array],
    activations: Sequence[str],
    cost: str,
    x: Array,
    y: Array,
    *,
    layer: int,
    entry: tuple[int, int],
    amounts: ArrayLike,
) -> Nudges:
    """Change one weight by several amounts, and feed one example forward.

    Parameters
    ----------
    weights, biases, activations, cost
        As for `PerExampleNetwork`; computed in float64.
    x : array of shape (n_1, 1)
    y : array of shape (n_L, 1)
    layer : int
        ``weights[layer]`` has the weight; counted from 0.
    entry : (int, int)
        (j, k), counted from 0; k = n_{l-1} is the bias of neuron j.
    amounts : array of shape (k,)
        The changes Δw.

    Returns
    -------
    Nudges

    Raises
    ------
    ValueError
        If a name is unknown, x or y is not one column that fits, or amounts are not one or more
        finite numbers.
    IndexError
        If there is no such layer or entry.

    Examples
    --------
    A network of one neuron, ``a = 2 x``: C = a²/2 has the slope a x = 18 at x = 3.

    >>> import numpy as np
    >>> from bpengine.reference.nudges import nudge
    >>> w, b, x, y = [np.array([[2.0]])], [np.zeros((1, 1))], np.array([[3.0]]), np.array([[0.0]])
    >>> found = nudge(w, b, ["linear"], "quadratic", x, y, layer=0, entry=(0, 0), amounts=[0, 0.1])
    >>> found.z[0].round(3).tolist(), found.cost.round(3).tolist()
    ([[6.0, 6.3]], [18.0, 19.845])
    >>> found.slope, found.predicted.round(3).tolist()
    (18.0, [18.0, 19.8])
    """
    named = [("activation", name, list(ACTIVATIONS)) for name in activations]
    for kind, name, known in [*named, ("cost", cost, list(COSTS))]:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}, expected one of {', '.join(known)}.")
    Δ = np.asarray(amounts, np.float64)
    if Δ.ndim != 1 or not Δ.size or not np.isfinite(Δ).all():
        raise ValueError(f"amounts must be one or more finite numbers, shape (k,); got {amounts!r:.80}.")
    net = PerExampleNetwork(
        [np.asarray(w, np.float64) for w in weights],
        [np.asarray(b, np.float64) for b in biases],
        activations,
        cost,
    )
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    check_example(net, x, y)
    check_entry(net, layer, entry)

    def forward() -> tuple[list[Array], list[Array], float]:
        zs, activated = net.forward(x)
        of_z = OF_Z.get((cost, activations[-1]))
        C = of_z(zs[-1], y) if of_z else OF_A[cost](activated[-1], y)
        return zs, activated[1:], float(C)

    j, k = entry
    unnudged, (nabla_w, nabla_b) = forward()[2], net.backprop(x, y)
    slope = float(np.hstack([nabla_w[layer], nabla_b[layer]])[j, k])
    w, b = net.weights[layer], net.biases[layer]
    array, at = (w, (j, k)) if k < w.shape[1] else (b, (j, 0))
    saved, passes = array[at], []
    for amount in Δ:
        array[at] = saved + amount
        passes.append(forward())
    zs, activated, C = zip(*passes, strict=True)
    return Nudges(
        Δ,
        tuple(np.hstack(columns) for columns in zip(*zs, strict=True)),
        tuple(np.hstack(columns) for columns in zip(*activated, strict=True)),
        np.array(C),
        slope,
        unnudged + slope * Δ,
    )
