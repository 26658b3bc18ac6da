"""Plots of benchmarks: throughput by batch size, and ratios of times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bpengine.plots import style
from bpengine.timing import Ratio
from bpengine.validation import check_instance, host_numbers, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ratios", "throughput"]


def throughput(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Examples per second by batch size, on logarithmic axes.

    Parameters
    ----------
    curves : dict
        Name to (batch sizes, examples per second).
    title : str, optional
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no curves.

    Examples
    --------
    >>> from bpengine import plots
    >>> figure = plots.throughput({"loop": ([1, 16], [5e3, 5e3]), "plan": ([1, 16], [2e4, 9e4])})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['loop', 'plan']
    """
    check_instance(curves, Mapping, "curves", "a dict of (batch sizes, examples per second)")
    check_instance(title, str, "title", "a str")
    if not curves:
        raise ValueError("curves is empty; there is nothing to draw.")
    for name, curve in curves.items():
        if not isinstance(curve, (tuple, list)) or len(curve) != 2:
            raise TypeError(
                f"curves[{name!r}] must be (batch sizes, examples per second), got {shown(curve)}."
            )
        shapes = [host_numbers(values, f"curves[{name!r}]").shape for values in curve]
        if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            raise ValueError(
                f"curves[{name!r}] has shapes {shapes[0]} and {shapes[1]}; expected one rate for each "
                "batch size."
            )
    figure, (axes,) = style.panels(ax, 1, (7.0, 4.5))
    strokes = style.strokes(axes, len(curves))
    for (name, (batches, rates)), stroke in zip(curves.items(), strokes, strict=True):
        axes.loglog(batches, rates, label=style.plain(name), **stroke)
    every = sorted({int(m) for batches, _ in curves.values() for m in batches})
    axes.set_xticks(every, map(str, every))
    axes.minorticks_off()
    axes.set(xlabel="batch size", ylabel="examples a second", title=style.plain(title))
    axes.grid(alpha=0.3)
    axes.legend(handlelength=3.5)
    return figure


def ratios(ratios: Mapping[str, Mapping[str, Ratio]]) -> Figure:
    """Times relative to bpengine, with intervals, one panel per task.

    Parameters
    ----------
    ratios : dict
        ``ratios[contender][task]``; tasks may be missing.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no ratios.

    Examples
    --------
    >>> from bpengine import plots
    >>> from bpengine.timing import Ratio
    >>> ratio = Ratio(12.7, 12.1, 13.0, pairs=41, ours=760.0, reference=60.0)
    >>> plots.ratios({"per-example loop": {"nielsen": ratio}}).axes[0].get_title()
    'nielsen'
    """
    check_instance(ratios, Mapping, "ratios", "a dict of dicts of bpengine.timing.Ratio")
    for contender, by_task in ratios.items():
        name = f"ratios[{contender!r}]"
        check_instance(by_task, Mapping, name, "a dict of bpengine.timing.Ratio")
        for task, ratio in by_task.items():
            check_instance(ratio, Ratio, f"{name}[{task!r}]", "a bpengine.timing.Ratio")
    tasks = list(dict.fromkeys(task for by_task in ratios.values() for task in by_task))
    if not tasks:
        raise ValueError("ratios is empty; there is nothing to draw.")
    figure = style.figure(2.6 * len(tasks) + 1.5, max(3.0, 0.3 * len(ratios) + 1.2))
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for y, by_task in enumerate(ratios.values()):
            r = by_task.get(task)
            if r is not None:
                error = [[r.median - r.low], [r.high - r.median]]
                axes.errorbar(r.median, y, xerr=error, fmt="o", color=style.ink(axes), capsize=3)
        axes.axvline(1, color="grey", linestyle="--")
        axes.set_xscale("log")
        style.log_ticks(axes.xaxis, *axes.get_xlim())
        axes.set_title(style.plain(task))
    panels[0].set_ylim(len(ratios) - 0.5, -0.5)
    panels[0].set_yticks(range(len(ratios)), map(style.plain, ratios))
    figure.supxlabel("time ÷ time of bpengine (right of 1: bpengine is faster)")
    return figure
