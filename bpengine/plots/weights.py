"""Plots of weights: images of the first layer, and the effect of changing a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np

from bpengine.model.model import check_single
from bpengine.network.network import Network
from bpengine.plots import style
from bpengine.reference.nudges import nudge
from bpengine.reference.per_example import parts_of
from bpengine.validation import pair, positive_integer, whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

__all__ = ["first_layer", "nudges"]


def first_layer(
    network: Network,
    shape: tuple[int, int] | None = None,
    *,
    neurons: SupportsIndex = 100,
    ax: Axes | None = None,
) -> Figure:
    """Weights of the first layer after the input as images, one per neuron, on one scale.

    Parameters
    ----------
    network : Network
    shape : (int, int), optional
        Rows and columns of an image of the input; default: a square.
    neurons : int, optional
        Maximum number of neurons to draw, from the first.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Grey is 0, black negative, white positive.

    Raises
    ------
    ValueError, TypeError
        If the inputs don't make an image of that shape.

    Examples
    --------
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> figure = plots.first_layer(bp.Network([784, 30, 10], rng=0), shape=(28, 28))
    >>> len(figure.axes[0].images)
    30
    """
    check_single(network, "first_layer")
    inputs = network.sizes[0]
    side = math.isqrt(inputs)
    if shape is None and side * side != inputs:
        raise ValueError(
            f"network has {inputs} inputs, which make no square image; give its rows and columns, "
            "shape=(rows, columns)."
        )
    height, width = (
        (side, side) if shape is None else (positive_integer(n, "shape") for n in pair(shape, "shape"))
    )
    if height * width != inputs:
        raise ValueError(
            f"shape=({height}, {width}) is {height * width} pixels; this network has {inputs} inputs."
        )
    shown = min(positive_integer(neurons, "neurons"), network.sizes[1])
    weights = network.backend.to_numpy(network.weights[0])[:shown]
    limit = float(np.abs(weights).max()) or 1.0
    columns = math.ceil(math.sqrt(shown * height / width))
    rows = math.ceil(shown / columns)

    gap = 0.08 * max(height, width)
    across, down = columns * (width + gap) - gap, rows * (height + gap) - gap
    scale = 6 / max(across, down)
    figure, (axes,) = style.panels(ax, 1, (across * scale + 1.3, down * scale + 0.6))
    for i, row in enumerate(weights):
        left, top = i % columns * (width + gap), i // columns * (height + gap)
        image = axes.imshow(
            row.reshape(height, width),
            cmap="gray",
            vmin=-limit,
            vmax=limit,
            extent=(left, left + width, top + height, top),
            interpolation="nearest",
        )
    axes.set(xlim=(0, across), ylim=(down, 0))
    axes.set_axis_off()
    of = "" if shown == network.sizes[1] else f"{shown} of "
    axes.set_title(f"weights into {of}{network.sizes[1]} neurons of layer 2")
    figure.colorbar(image, ax=axes, label="weight", shrink=0.9)
    return figure


def nudges(
    network: Network,
    x: ArrayLike,
    y: ArrayLike,
    layer: int,
    entry: tuple[int, int],
    *,
    amounts: ArrayLike | None = None,
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """How a change of one weight changes z, a and the cost of one example.

    Parameters
    ----------
    network : Network
        With built-in activations and a built-in cost.
    x : array of shape (n_1, 1)
    y : array of shape (n_L, 1)
    layer : int
        ``weights[layer]`` has the weight; counted from 0.
    entry : (int, int)
        (j, k), counted from 0; with k one past the weights, it is the bias of neuron j.
    amounts : array of shape (k,), optional
        The changes Δw; default: from -1 to 1.
    ax : three matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Changes of z and a, in the weight's neuron and in the neuron of each later layer whose z changes
        most; and the cost with the gradient's prediction.

    Raises
    ------
    ValueError, IndexError
        If an argument does not fit.

    Examples
    --------
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> net = bp.Network([1, 1, 1], rng=0)
    >>> figure = plots.nudges(net, [[1.0]], [[0.0]], layer=0, entry=(0, 0))
    >>> [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    ['true', 'predicted by ∂C/∂w']
    """
    check_single(network, "nudges")
    if amounts is None:
        amounts = np.linspace(-1, 1, 41)
    amounts = np.ravel(style.numbers(amounts, "amounts"))
    j, k = pair(entry, "entry")
    layer = whole_number(layer, "layer")
    found = nudge(
        *parts_of(network),
        style.numbers(x, "x"),
        style.numbers(y, "y"),
        layer=layer,
        entry=(j, k),
        amounts=[0.0, *np.sort(amounts)],
    )
    Δ = found.amounts[1:].tolist()
    figure, panels = style.panels(ax, 3, (13.0, 4.2))
    for axes, name, values in zip(panels, "za", (found.z, found.a), strict=False):
        curves = []
        for l in range(layer, len(found.z)):
            # the weight's neuron; in later layers the one whose z changes most
            i = j if l == layer else int(np.ptp(found.z[l], axis=1).argmax())
            of = f", neuron {i + 1}" if len(found.z[l]) > 1 else ""
            curves.append((style.layer_name(l) + of, values[l][i, 1:] - values[l][i, 0]))
        style.lines(axes, Δ, curves)
        axes.set_ylabel(f"change of {name}")
        axes.legend()
    curves = [("true", found.cost[1:]), ("predicted by ∂C/∂w", found.predicted[1:])]
    style.lines(panels[2], Δ, curves)
    panels[2].set_ylabel("cost C of the example")
    panels[2].legend()
    name = f"biases[{layer}][{j}, 0]" if k == network.sizes[layer] else f"weights[{layer}][{j}, {k}]"
    for axes in panels:
        axes.set(yscale="linear", xlabel=f"nudge of {name}")
        axes.axvline(0, color="grey", linewidth=0.8)
    return figure
