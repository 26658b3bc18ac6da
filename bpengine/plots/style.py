"""Figures, and line styles that differ in more than colour; all else is the user's Matplotlib style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bpengine.backends import infer
from bpengine.validation import host_numbers, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["MARKERS", "figure", "host", "ink", "is_log", "layer_name", "legend", "lines", "log_ticks"]
__all__ += ["numbers", "panels", "plain", "shades", "span", "strokes"]

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
MARKED = 10  # markers of a line


def figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    try:
        from bpengine.plots.figure import Picture
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(
            'pictures need Matplotlib, which is not installed: pip install "bpengine[plots]".'
        ) from None
    return Picture(width, height)


def panels(
    ax: Axes | Sequence[Axes] | None, n: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """A figure and `n` of its axes: those given as `ax`, or a new one's of that size."""
    if ax is None:
        made = figure(*size)
        return made, list(made.subplots(1, n, squeeze=False)[0])
    given = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(given) != n or not all(hasattr(one, "plot") for one in given):
        several = (
            "a Matplotlib Axes" if n == 1 else f"{n} Matplotlib Axes, as plt.subplots(1, {n}) gives"
        )
        raise TypeError(f"ax must be {several}, got {shown(ax)}.")
    return given[0].get_figure(), given


def legend(figure: Figure, axes: Axes, *, new: bool, **options: Any) -> None:
    """The legend of `axes`: below the figure if it is `new`, else in them."""
    handles, names = axes.get_legend_handles_labels()
    if new:
        figure.legend(handles, names, loc="outside lower center", **options)
    else:
        axes.legend()


def shades(axes: Axes, n: int) -> list[Any]:
    """`n` colours of evenly spaced lightness, distinct from the background."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    light = np.dot(to_rgb(axes.get_facecolor()), (0.299, 0.587, 0.114)) > 0.5
    low, high = (0.0, 0.62) if light else (0.45, 1.0)
    return [colormaps["viridis"](x) for x in np.linspace(low, high, n)]


def strokes(axes: Axes, n: int) -> Iterator[dict[str, Any]]:
    """Options of `n` lines that differ in lightness, dash and marker."""
    for i, colour in enumerate(shades(axes, n)):
        dash, marker = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
        yield {"color": colour, "linestyle": dash, "marker": marker}


def lines(axes: Axes, x: Sequence[float], curves: Iterable[tuple[str, Sequence[float]]]) -> None:
    """Draw named curves over x.

    Values of shape (epochs, P), of a stack, are drawn as their median and range.
    """
    curves = list(curves)
    every = max(1, len(x) // MARKED)
    drawn = []
    for i, ((name, values), stroke) in enumerate(zip(curves, strokes(axes, len(curves)), strict=True)):
        y = np.asarray(values, "float64")
        drawn.append(y[~np.isnan(y)] if y.ndim > 1 else y)  # networks that have stopped are NaN
        if y.ndim > 1:
            low, high = np.nanmin(y, axis=1), np.nanmax(y, axis=1)
            axes.fill_between(x[: len(y)], low, high, color=stroke["color"], alpha=0.2, linewidth=0)
            y = np.nanmedian(y, axis=1)
        axes.plot(
            x[: len(y)],
            y,
            label=name,
            # markers of different lines don't overlap
            markevery=(i * every // len(curves), every),
            markersize=5,
            **stroke,
        )
    if is_log(np.concatenate(drawn)):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, *axes.get_ylim())
    axes.grid(alpha=0.3)


def span(ends: tuple[float, float], values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The range of an activation; where it is infinite, the end of the values."""
    low, high = ends
    return (
        low if math.isfinite(low) else float(values.min()),
        high if math.isfinite(high) else float(values.max()),
    )


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis from low to high, at least three."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    narrow = MaxNLocator(4, steps=(1, 2, 5, 10))
    wide = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    axis.set_major_locator(narrow if high < 4 * low else wide)
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def is_log(values: np.ndarray[Any, Any]) -> bool:
    """Whether to use a logarithmic scale: all values above 0, the greatest ten times the least."""
    positive = values.size > 0 and np.isfinite(values).all() and values.min() > 0
    return bool(positive and values.max() / 10 >= values.min())


def ink(axes: Axes) -> Any:
    """The colour of text in the user's style: black on white, or white on black."""
    return axes.xaxis.label.get_color()


def layer_name(l: int) -> str:
    """The chapter's name of the output layer of ``weights[l]``; layer 1 is the input."""
    return f"layer {l + 2}"


def plain(text: str) -> str:
    """`text` with escaped ``$``, which Matplotlib reads as mathematics."""
    return str(text).replace("$", r"\$")


def host(x: Any) -> np.ndarray[Any, Any]:
    """An array of any library, or nested lists, as a NumPy array."""
    try:
        return np.asarray(x)
    except (TypeError, RuntimeError):
        if not hasattr(x, "shape"):
            raise
    return infer(x).to_numpy(x)  # of another device


def numbers(x: Any, name: str) -> np.ndarray[Any, Any]:
    """An array of any library, or nested lists of numbers, as a float64 NumPy array."""
    try:
        return host_numbers(x, name)
    except TypeError:
        if not hasattr(x, "shape"):
            raise
    return host_numbers(infer(x, name).to_numpy(x), name)  # of another device
