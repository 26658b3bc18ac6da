"""Plots of a step: its operations and their costs, and gradient checks."""

from __future__ import annotations

import math
import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

from bpengine.backprop.plan import Plan
from bpengine.derivatives.gradient_check import GradientCheck
from bpengine.plots import style
from bpengine.validation import check_instance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["gradient_check", "plan"]

ROW, LETTER = 0.3, 0.095  # inches of an operation and of a letter


def plan(plan: Plan) -> Figure:
    """The operations of a step by equation, with FLOPs and bytes.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> figure = plots.plan(bp.Network([784, 30, 10], rng=0).plan(10, bp.SGD(0.5)))
    >>> [axes.get_title() for axes in figure.axes]
    ['operation', 'FLOPs', 'bytes']
    """
    check_instance(plan, Plan, "plan", "a bpengine.Plan, from Network.plan")
    operations = plan.operations
    count = len(operations)
    rows = [(op.equation, op.name, op.shapes) for op in operations]
    widths = [LETTER * (3 + max(len(cell) for cell in column)) for column in zip(*rows, strict=True)]
    text, bars = sum(widths), 2.9
    title, *_ = str(plan).splitlines()
    wrapped = textwrap.wrap(title, int((text + 2 * bars) / (1.5 * LETTER)))
    figure = style.figure(text + 2 * bars, ROW * (count + len(wrapped)) + 1.2)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(text, bars, bars))
    start = 0
    for number, (equation, group) in enumerate(groupby(row[0] for row in rows)):
        stop = start + len(list(group))
        middle = (start + stop - 1) / 2
        panels[0].text(LETTER, middle, style.plain(equation), va="center", weight="bold")
        for axes in panels:
            if number % 2 == 0:
                axes.axhspan(start - 0.5, stop - 0.5, color="grey", alpha=0.15, linewidth=0)
        start = stop
    for i, (_, name, shapes) in enumerate(rows):
        panels[0].text(widths[0], i, style.plain(name), va="center")
        panels[0].text(widths[0] + widths[1], i, shapes, va="center")
    panels[0].set(xlim=(0, text), ylim=(count - 0.5, -0.5), xticks=[], yticks=[])
    _bars(panels[1], [op.flops for op in operations], plan.flops, hatch="")
    _bars(panels[2], [op.bytes for op in operations], plan.bytes, hatch="////")
    for axes, name in zip(panels, ("operation", "FLOPs", "bytes"), strict=True):
        axes.set_title(name)
        axes.spines[:].set_visible(False)
    title = "\n".join(wrapped)
    figure.suptitle(f"{style.plain(title)}\n{plan.flops:,} FLOPs, {plan.bytes:,} bytes")
    return figure


def _bars(axes: Axes, values: list[int], total: int, hatch: str) -> None:
    bars = axes.barh(
        range(len(values)), values, height=0.62, color="0.75", edgecolor="0.25", hatch=hatch
    )
    shares = [f" ({value / total:.0%})" if 100 * value >= total > 0 else "" for value in values]
    labels = [f"{value:,}{share}" for value, share in zip(values, shares, strict=True)]
    axes.bar_label(bars, labels, padding=3)
    axes.set(xlim=(0, 2.2 * max(*values, 1)), xticks=[])
    axes.tick_params(left=False)


def gradient_check(check: GradientCheck, *, ax: Axes | None = None) -> Figure:
    """Relative error of the gradient by layer, and the tolerance.

    Parameters
    ----------
    check : GradientCheck
        From `check_gradient`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> check = bp.check_gradient(bp.Network([3, 5, 2], rng=0), np.ones((3, 4)), np.ones((2, 4)))
    >>> figure = plots.gradient_check(check)
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['layer 2', 'layer 3', 'all layers']
    """
    check_instance(check, GradientCheck, "check", "a result of bpengine.check_gradient")
    errors = [*check.per_layer, check.relative_error]
    names = [*(style.layer_name(l) for l in range(len(check.per_layer))), "all layers"]
    # on a logarithmic axis, 0 is drawn at the left end, inf and NaN at the right
    drawn = [error for error in errors if 0 < error < math.inf]
    low = min([*drawn, check.tolerance]) / 10
    high = max([*drawn, check.tolerance]) * 10
    places = [low if error == 0 else error if error < math.inf else high for error in errors]
    figure, (axes,) = style.panels(ax, 1, (7.5, 0.4 * len(errors) + 1.9))
    ink = style.ink(axes)
    for y, (place, error) in enumerate(zip(places, errors, strict=True)):
        good = error <= check.tolerance
        axes.plot(
            place,
            y,
            marker="o" if good else "X",
            markersize=8,
            color=ink,
            markerfacecolor="none" if good else ink,
        )
        axes.annotate(
            f"{error:.1e}" if error else "0",
            (place, y),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            bbox={"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.5},
        )
    axes.axvline(check.tolerance, color=ink, linestyle="--")
    axes.text(
        check.tolerance,
        -0.75,
        f" tolerance {check.tolerance:.0e} ",
        ha="left" if check.tolerance < math.sqrt(low * high) else "right",
        va="center",
    )
    verdict = "passed" if check.passed else "FAILED"
    axes.set(
        xscale="log",
        xlim=(low / 3, high * 3),
        ylim=(len(errors) - 0.5, -1.2),
        xlabel="relative error ‖num − bp‖ / (‖num‖ + ‖bp‖)",
        title=f"gradient check {verdict}; worst at {check.worst.parameter}",
    )
    axes.set_yticks(range(len(names)), names)
    axes.grid(alpha=0.3, axis="x")
    return figure
