"""Animation of a hidden layer's activations during training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from bpengine.backends import Array
from bpengine.backprop.forward import forward_chunks
from bpengine.model.labels import true_classes
from bpengine.model.model import check_single
from bpengine.model.storage import in_place_of
from bpengine.network.network import Network
from bpengine.plots import style
from bpengine.training.history import History
from bpengine.training.loop import Callback, Training
from bpengine.validation import file_path, positive_integer, positive_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["hidden_motion"]

POINTS = 1000  # examples at most
PAUSE = 2.0  # seconds of the last frame


def hidden_motion(
    network: Network,
    X: Array,
    Y: Array,
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    epochs: SupportsIndex = 30,
    every: SupportsIndex = 1,
    frames_per_second: float = 10.0,
    callbacks: Sequence[Callback | Callable[[Training], None]] = (),
    **training: Any,
) -> Figure:
    """Train a network, and write an animation of a hidden layer's activations.

    Parameters
    ----------
    network : Network
        With a hidden layer of two or three neurons.
    X : array of shape (n_1, N)
    Y : array of shape (n_L, N), or N integer labels
        As for `Network.fit`. Of more than 1,000 examples, a random 1,000 are drawn.
    path : path
        A ``.gif`` file, written atomically.
    layer : int, optional
        The output layer of ``weights[layer]``; default: the last hidden layer of two or three neurons.
    epochs : int, optional
    every : int, optional
        Epochs between frames. The first frame is before training, the last after it.
    frames_per_second : float, optional
    callbacks, **training
        As for `Network.fit`: batch_size, optimizer, validation, ….

    Returns
    -------
    matplotlib.figure.Figure
        The last frame.

    Raises
    ------
    ValueError, TypeError
        If the network has no such layer, or an argument does not fit.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import bpengine as bp
    >>> from bpengine import plots
    >>> X, labels = bp.datasets.circles(100, rng=0)
    >>> net = bp.Network([2, 3, 1], activations="tanh", rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "circles.gif"
    ...     Y = labels[None].astype("float32")
    ...     figure = plots.hidden_motion(net, X, Y, path, epochs=2, progress=False)
    ...     path.read_bytes()[:6]
    b'GIF89a'
    """
    check_single(network, "hidden_motion")
    path = file_path(path, "path")
    if path.suffix.lower() != ".gif":
        raise ValueError(f"the animation is a GIF: give a path that ends in .gif, not {path.name!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(path.parent)!r} for {path.name!r}.")
    every, epochs = positive_integer(every, "every"), positive_integer(epochs, "epochs")
    seconds = 1 / positive_number(frames_per_second, "frames_per_second")
    layer = _layer(network, layer)
    style.figure(1, 1)  # raises ImportError before training
    shown, targets = (style.host(array) for array in network.check_examples(X, Y))
    if shown.shape[1] > POINTS:
        chosen = np.random.default_rng(0).choice(shown.shape[1], POINTS, replace=False)
        shown, targets = shown[:, chosen], targets[:, chosen]

    frames = [("before training", _activations(network, shown, layer))]

    def record(now: Training) -> None:
        if now.epoch % every == 0:
            frames.append(_frame(now.history, _activations(network, shown, layer)))

    history = network.fit(X, Y, epochs=epochs, callbacks=(*callbacks, record), **training)
    last = _frame(history, _activations(network, shown, layer))
    # training may have ended between two frames, or restored an earlier epoch
    if not np.array_equal(last[1], frames[-1][1]):
        frames.append(last)
    return _animation(network, layer, frames, _groups(targets), path, seconds)


def _frame(history: History, a: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any]]:
    if not history.cost:
        return "interrupted", a
    epoch = history.best_epoch or len(history.cost)
    return f"epoch {epoch}, cost {history.cost[epoch - 1]:.4g}", a


def _layer(network: Network, layer: int | None) -> int:
    hidden = network.sizes[1:-1]
    drawable = [l for l, n in enumerate(hidden) if n in (2, 3)]
    if layer is None and drawable:
        return drawable[-1]
    if layer not in drawable:
        raise ValueError(
            f"the animation needs a hidden layer of 2 or 3 neurons; got layer={layer} of "
            f"a network whose hidden layers have {list(hidden)} neurons."
        )
    return layer


def _activations(network: Network, X: Array, layer: int) -> np.ndarray[Any, Any]:
    chunks = forward_chunks(network, X)
    return np.hstack([network.backend.to_numpy(ws.a[layer]).copy() for _, ws in chunks])


def _groups(Y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Classes; for other targets, whether the first is above its mean."""
    found = true_classes(np, Y)
    return np.asarray(Y[0] > Y[0].mean() if found is None else found, int)


def _animation(
    network: Network,
    layer: int,
    frames: list[tuple[str, np.ndarray[Any, Any]]],
    groups: np.ndarray[Any, Any],
    path: Path,
    seconds: float,
) -> Figure:
    from PIL import Image

    neurons = network.sizes[layer + 1]
    figure = style.figure(6.0, 6.2)
    canvas: Any = figure.canvas
    axes: Any = figure.add_subplot(projection="3d" if neurons == 3 else None)
    names = [f"a of neuron {j + 1}" for j in range(neurons)]
    limits = [_limits(network, layer, np.stack([a[j] for _, a in frames])) for j in range(neurons)]
    for axis, name, limit in zip("xyz", names, limits, strict=False):
        axes.set(**{f"{axis}label": name, f"{axis}lim": limit})
        axes.locator_params(axis, nbins=5)
    axes.set_box_aspect((1, 1, 1) if neurons == 3 else 1)
    classes = np.unique(groups).tolist()
    clouds = []
    for c, shade in zip(classes, style.shades(axes, len(classes)), strict=True):
        (cloud,) = axes.plot(
            *([] for _ in range(neurons)),
            linestyle="",
            marker=style.MARKERS[c % len(style.MARKERS)],
            markersize=4,
            color=shade,
            label=f"class {c}",
        )
        clouds.append((cloud, groups == c))
    figure.legend(loc="outside lower center", ncols=min(len(classes), 5))
    axes.set_title(" ")
    canvas.draw()
    figure.set_layout_engine("none")  # keep the layout
    images = []
    for title, a in frames:
        for cloud, members in clouds:
            (cloud.set_data_3d if neurons == 3 else cloud.set_data)(*a[:, members])
        axes.set_title(f"{style.layer_name(layer)}: {title}")
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
        images.append(Image.fromarray(pixels).convert("RGB").quantize(64))
    durations = [round(1000 * s) for s in [seconds] * (len(images) - 1) + [PAUSE]]
    options = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    with in_place_of(path) as temporary:
        images[0].save(temporary, format="GIF", **options)
    return figure


def _limits(network: Network, layer: int, values: np.ndarray[Any, Any]) -> tuple[float, float]:
    low, high = style.span(network.activations[layer].range, values)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin
