"""Decision regions of a network of two inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from bpengine.backends import Array, infer
from bpengine.model.labels import classes
from bpengine.model.model import check_single
from bpengine.network.network import Network
from bpengine.plots import style
from bpengine.validation import positive_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["decision_regions"]

LIGHT = 0.05, 0.6  # part of the colour map that contrasts with black markers


def decision_regions(
    network: Network, X: Array, labels: Array, *, resolution: SupportsIndex = 200, ax: Axes | None = None
) -> Figure:
    """Classes that a network of two inputs predicts over the plane, and the examples.

    Parameters
    ----------
    network : Network
        With one output, class 1 is where it is ½ or more, and its value is drawn; with several, the
        class is that of the greatest output.
    X : array of shape (2, m)
    labels : array of shape (m,), or targets (n_L, m) with a single 1 in each column
        Classes of the examples. Misclassified examples lie in a region of another shade.
    resolution : int, optional
        Points of the grid in each direction.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError
        If the network does not have two inputs, or X or labels don't fit it.

    Examples
    --------
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> X, labels = bp.datasets.circles(100, rng=0)
    >>> net = bp.Network([2, 4, 1], cost="binary_cross_entropy", rng=0)
    >>> figure = plots.decision_regions(net, X, labels, resolution=20)
    >>> figure.axes[0].get_xlabel()
    'input 1'
    """
    check_single(network, "decision_regions")
    if network.sizes[0] != 2:
        raise ValueError(
            f"network has {network.sizes[0]} inputs; decision regions are drawn for networks of 2."
        )
    resolution = positive_integer(resolution, "resolution")
    outputs = network.sizes[-1]
    found = _classes(network.feedforward(X))
    points, right = style.host(X), _labels(labels, outputs, len(found))
    axis = [_stretched(row, resolution) for row in points]
    grid = np.stack([x.ravel() for x in np.meshgrid(*axis)])
    values = style.host(network.feedforward(infer(X).asarray(grid, network.dtype)))
    values = values.reshape(outputs, resolution, resolution)

    figure, (axes,) = style.panels(ax, 1, (6.6, 5.8))
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    if 0.5 < np.ptp(axis[0]) / np.ptp(axis[1]) < 2:
        axes.set_aspect("equal")
    shades = colormaps["YlGnBu"](np.linspace(*LIGHT, 256))
    fills = colormaps["YlGnBu"](np.linspace(*LIGHT, max(outputs, 2)))
    if outputs == 1:
        ramp = LinearSegmentedColormap.from_list("light", shades)
        low, high = style.span(network.activations[-1].range, values)
        levels = np.linspace(low, high if high > low else low + 1, 11)
        filled = axes.contourf(*axis, values[0], levels=levels, cmap=ramp, extend="both")
        figure.colorbar(filled, ax=axes, label="output activation", extendfrac=0, ticks=levels[::2])
        margins = values - 0.5
    else:
        top = np.partition(values, -2, axis=0)[-2:]
        margins = np.where(values == top[1], values - top[0], values - top[1])
        for margin, fill in zip(margins, fills, strict=True):
            if margin.max() > 0:
                axes.contourf(*axis, margin, levels=(0, math.inf), colors=[fill])
    for margin in margins:
        if margin.min() < 0 < margin.max():
            axes.contour(*axis, margin, levels=(0,), colors="black", linewidths=1.5)
    for c in np.unique(right).tolist():
        axes.plot(
            *points[:, right == c],
            linestyle="",
            marker=style.MARKERS[c % len(style.MARKERS)],
            markersize=5,
            markerfacecolor=fills[c],
            markeredgecolor="black",
            markeredgewidth=0.8,
            label=f"class {c}",
        )
    wrong = int(np.count_nonzero(found != right))
    axes.set(
        xlabel="input 1",
        ylabel="input 2",
        title=f"{wrong:,} of {len(right):,} examples taken for another class",
    )
    style.legend(figure, axes, new=ax is None, ncols=5)
    return figure


def _classes(outputs: Array) -> np.ndarray[Any, Any]:
    return np.asarray(classes(np, style.host(outputs)), int)


def _labels(labels: Array, outputs: int, m: int) -> np.ndarray[Any, Any]:
    try:
        found = style.host(labels)
    except ValueError:
        raise ValueError(f"labels must be {m} whole numbers, one for each column of X.") from None
    if found.ndim == 2 and found.shape == (outputs, m):
        return _classes(found)
    if found.shape != (m,) or found.dtype.kind not in "iub":
        raise ValueError(
            f"labels has shape {found.shape} and dtype {found.dtype}; expected {m} whole numbers, one "
            f"for each column of X, or targets of shape ({outputs}, {m})."
        )
    known = max(outputs, 2)
    if found.min() < 0 or found.max() >= known:
        raise ValueError(
            f"labels go from {found.min()} to {found.max()}; this network has the classes 0 to "
            f"{known - 1}."
        )
    return found.astype(int)


def _stretched(values: np.ndarray[Any, Any], points: int) -> np.ndarray[Any, Any]:
    low, high = float(values.min()), float(values.max())
    margin = 0.08 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, points)
