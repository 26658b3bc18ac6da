"""Plots of a training: costs, and monitored statistics of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bpengine.plots import style
from bpengine.training.history import History
from bpengine.validation import check_instance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["norms", "saturation", "training_curves"]


def training_curves(history: History, *, ax: Axes | Sequence[Axes] | None = None) -> Figure:
    """Training and validation cost, and validation accuracy, by epoch.

    Parameters
    ----------
    history : History
        From `Network.fit`.
    ax : matplotlib.axes.Axes or two of them, optional
        Where to draw costs, and the accuracy if `history` has it; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The axis of costs is logarithmic if they fall to a tenth or less. For a stack, the median over
        the networks and their range.

    Raises
    ------
    ValueError
        If no epoch was completed.

    Examples
    --------
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> X, labels = bp.datasets.circles(100, rng=0)
    >>> net = bp.Network([2, 4, 1], cost="binary_cross_entropy", rng=0)
    >>> history = net.fit(X, labels, epochs=3, validation=(X, labels), progress=False)
    >>> figure = plots.training_curves(history)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['average cost C', 'share of right classes']
    """
    _check(history)
    if not history.cost:
        raise ValueError("history has no complete epoch; there is nothing to draw.")
    epochs, accuracy = range(1, len(history.cost) + 1), history.validation_accuracy
    n = 2 if accuracy else 1
    figure, (costs, *rest) = style.panels(ax, n, (6.0 * n, 4.0))
    curves = [("training", history.cost), ("validation", history.validation_cost)]
    style.lines(costs, epochs, [curve for curve in curves if curve[1]])
    costs.set_ylabel("average cost C")
    costs.legend()
    for axes in rest:
        style.lines(axes, epochs, [("validation", accuracy)])
        axes.set(yscale="linear", ylabel="share of right classes")
        axes.legend(loc="lower right")
    for axes in (costs, *rest):
        _count(axes, "epoch")
    return figure


def norms(history: History, *, ax: Sequence[Axes] | None = None) -> Figure:
    """Norms of the gradient and of the weights, by layer.

    Parameters
    ----------
    history : History
        From `Network.fit` with ``monitor=``.
    ax : two matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If nothing was monitored.

    Examples
    --------
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> X, labels = bp.datasets.circles(100, rng=0)
    >>> net = bp.Network([2, 4, 1], cost="binary_cross_entropy", rng=0)
    >>> history = net.fit(X, labels, epochs=3, monitor="epoch", progress=False)
    >>> [line.get_label() for line in plots.norms(history).axes[0].lines]
    ['layer 2', 'layer 3']
    """
    return _per_layer(
        history,
        ax,
        ("gradient_norms", "norm of the gradient ‖∂C/∂[w b]‖"),
        ("weight_norms", "norm of the weights ‖w‖"),
    )[0]


def saturation(history: History, *, ax: Sequence[Axes] | None = None) -> Figure:
    """Fraction of saturated activations and mean ``|a|``, by layer.

    A weight learns slowly if its input activation is small, or its output neuron saturated.

    Parameters
    ----------
    history : History
        From `Network.fit` with ``monitor=``.
    ax : two matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If nothing was monitored.

    References
    ----------
    M. Nielsen, Neural Networks and Deep Learning, chapter 2, after equation BP4.
    """
    figure, (shares, means) = _per_layer(
        history, ax, ("saturated", "share of saturated activations"), ("mean_activations", "mean |a|")
    )
    shares.set(yscale="linear", ylim=(-0.03, 1.03))
    means.set_yscale("linear")
    means.set_ylim(bottom=0)
    return figure


def _per_layer(history: History, ax: Any, *panels: tuple[str, str]) -> tuple[Figure, list[Axes]]:
    _check(history)
    records: Sequence[Any] = history.monitored
    if not records:
        raise ValueError(
            "history has no statistics of layers: train with net.fit(..., monitor='epoch'), or "
            "monitor=k for every k steps."
        )
    figure, drawn = style.panels(ax, len(panels), (6.0 * len(panels), 4.4))
    x, what = _steps(records)
    for axes, (field, label) in zip(drawn, panels, strict=True):
        layers = zip(*(getattr(record, field) for record in records), strict=True)
        style.lines(axes, x, [(style.layer_name(l), values) for l, values in enumerate(layers)])
        axes.set_ylabel(label)
        _count(axes, what)
    style.legend(figure, drawn[0], new=ax is None, ncols=6, handlelength=3.5)
    return figure, drawn


def _check(history: object) -> None:
    check_instance(history, History, "history", "a bpengine.History, from Network.fit")


def _steps(records: Sequence[Any]) -> tuple[list[int], str]:
    """Epochs of the records, or if an epoch has several, steps since the start of training."""
    epochs = [record.epoch for record in records]
    if len(set(epochs)) == len(epochs):
        return epochs, "epoch"
    pairs = list(pairwise(records))
    gap = next(after.step - before.step for before, after in pairs if after.epoch == before.epoch)
    # records are a fixed number of steps apart, also between epochs
    steps = next(
        (
            (gap + before.step - after.step) // (after.epoch - before.epoch)
            for before, after in pairs
            if after.epoch > before.epoch
        ),
        0,
    )
    steps = max(steps, *(record.step for record in records))
    return [(record.epoch - 1) * steps + record.step for record in records], "step"


def _count(axes: Axes, what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
