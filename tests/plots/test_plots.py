"""Pictures: what is drawn is what was measured, in lines that differ without colour."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import matplotlib
import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

import bpengine as bp
from bpengine import plots
from bpengine.derivatives.gradient_check import WorstEntry
from bpengine.plots import style
from bpengine.reference.nudges import nudge
from bpengine.timing import Ratio
from bpengine.training.history import History, Statistics


@pytest.fixture(autouse=True)
def _nothing_global():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def history(layers=3, epochs=12, steps=()):
    """A history with figures of its own in every entry; monitored at `steps` of each epoch."""
    rng = np.random.default_rng(0)
    figures = [tuple(rng.random(layers)) for _ in range(4 * epochs * max(len(steps), 1))]
    monitored = [
        Statistics(epoch, step, 1.0, *(figures.pop() for _ in range(4)))
        for epoch in range(1, epochs + 1)
        for step in steps
    ]
    return History(
        cost=list(1 / np.arange(1, epochs + 1)),
        validation_cost=list(2 / np.arange(1, epochs + 1)),
        validation_accuracy=list(np.linspace(0.1, 0.9, epochs)),
        seconds=[0.1] * epochs,
        monitored=monitored,
    )


def drawn(axes):
    """The lines of an axes by name: x and y."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def legend(figure):
    found = [axes.get_legend() for axes in figure.axes] + figure.legends
    return {text.get_text() for box in found if box is not None for text in box.get_texts()}


def check(figure):
    """It renders; axes have names; lines of an axes differ in dash or marker, and in lightness."""
    figure.canvas.draw()
    assert type(figure.canvas).__name__ == "FigureCanvasAgg"
    for axes in figure.axes:
        named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
        looks = {(str(line._dash_pattern), str(line.get_marker())) for line in named}
        assert len(looks) == len(named)
        colours = [matplotlib.colors.to_rgb(line.get_markerfacecolor()) for line in named]
        grey = np.array(colours).reshape(-1, 3) @ (0.299, 0.587, 0.114)
        assert all(np.diff(sorted(grey)) > 0.02)
    # nothing is cut off at the figure's edge
    (left, bottom), (right, top) = figure.get_tightbbox().get_points()
    width, height = figure.get_size_inches()
    assert left >= -0.01 and bottom >= -0.01 and right <= width + 0.01 and top <= height + 0.01
    return figure


def test_training_curves_are_the_histories():
    h = history()
    costs, accuracy = check(plots.training_curves(h)).axes
    epochs = list(range(1, 13))
    assert drawn(costs) == {
        "training": (epochs, h.cost),
        "validation": (epochs, h.validation_cost),
    }
    assert drawn(accuracy) == {"validation": (epochs, h.validation_accuracy)}
    assert costs.get_yscale() == "log" and accuracy.get_yscale() == "linear"
    assert {axes.get_xlabel() for axes in (costs, accuracy)} == {"epoch"}
    assert legend(costs.figure) == {"training", "validation"}


def test_training_curves_without_validation_have_one_panel():
    h = History(cost=[3.0, 2.5])
    (axes,) = check(plots.training_curves(h)).axes
    assert drawn(axes) == {"training": ([1, 2], [3.0, 2.5])}
    assert axes.get_yscale() == "linear"


def test_training_curves_of_a_stack_are_medians_within_a_band():
    costs = [np.array([1.0, 2.0, 6.0]), np.array([1.0, 5.0, math.nan])]
    (axes,) = check(plots.training_curves(History(cost=costs))).axes
    assert drawn(axes) == {"training": ([1, 2], [2.0, 3.0])}
    (band,) = axes.collections
    (path,) = band.get_paths()
    corners = {tuple(corner) for corner in path.vertices.tolist()}
    assert corners == {(1.0, 1.0), (1.0, 6.0), (2.0, 1.0), (2.0, 5.0)}


@pytest.mark.parametrize("cost", [[1.0], [5.0, 0.0], [5.0, -1.0], [1e3, math.nan], [math.inf, 1.0]])
def test_training_curves_of_any_costs(cost):
    (axes,) = plots.training_curves(History(cost=cost)).axes
    assert axes.get_yscale() == "linear"
    axes.figure.canvas.draw()


def test_of_an_empty_history_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no complete epoch"):
        plots.training_curves(History())


@pytest.mark.parametrize("draw", [plots.norms, plots.saturation])
def test_a_history_without_statistics_says_how_to_get_them(draw):
    with pytest.raises(ValueError, match=r"monitor='epoch'"):
        draw(history())


PANELS = [
    (plots.norms, ("gradient_norms", "weight_norms")),
    (plots.saturation, ("saturated", "mean_activations")),
]


@pytest.mark.parametrize(("draw", "fields"), PANELS)
@pytest.mark.parametrize("layers", [1, 3, 8])
def test_statistics_are_drawn_layer_by_layer(draw, fields, layers):
    h = history(layers, steps=[1])
    figure = check(draw(h))
    for axes, field in zip(figure.axes, fields, strict=True):
        assert drawn(axes) == {
            f"layer {l + 2}": (list(range(1, 13)), [getattr(r, field)[l] for r in h.monitored])
            for l in range(layers)
        }
        assert axes.get_xlabel() == "epoch" and axes.get_ylabel()
    assert legend(figure) == {f"layer {l + 2}" for l in range(layers)}


@pytest.mark.parametrize("k", [1, 3, 4, 5, 7])
def test_statistics_of_every_kth_step_lie_k_steps_apart(k):
    X, labels = bp.datasets.circles(70, rng=0)
    net = bp.Network([2, 3, 1], cost="binary_cross_entropy", rng=0)
    h = net.fit(X, labels, epochs=6, batch_size=10, monitor=k, progress=False)
    axes = plots.norms(h).axes[0]
    x, y = drawn(axes)["layer 2"]
    assert y == [record.gradient_norms[0] for record in h.monitored]
    if k < 7:
        assert axes.get_xlabel() == "step"
        assert x == list(range(1, 6 * 7 + 1, k))
    else:
        assert axes.get_xlabel() == "epoch"
        assert x == [1, 2, 3, 4, 5, 6]


def test_steps_of_a_single_epoch():
    x, _ = drawn(plots.norms(history(epochs=1, steps=[1, 11, 21])).axes[0])["layer 2"]
    assert x == [1, 11, 21]


def test_saturation_is_a_share_of_all():
    share, mean = plots.saturation(history(steps=[1])).axes
    assert share.get_ylim()[0] <= 0 and share.get_ylim()[1] >= 1
    assert mean.get_ylim()[0] == 0


def test_nudges_of_any_library(lab):
    net = bp.Network([3, 4, 2], backend=lab.backend, rng=0)
    x, y = lab.array(np.ones((3, 1))), lab.array(np.zeros((2, 1)))
    cost = drawn(plots.nudges(net, x, y, 0, (1, 2), amounts=lab.array([0.0])).axes[2])["true"][1]
    assert cost == pytest.approx([net.evaluate(x, y)["cost"]], rel=1e-5)


@pytest.mark.parametrize("entry", [(1, 2), (0, 0), (3, 3)])
def test_nudges_are_those_of_the_reference(entry):
    net = bp.Network([3, 4, 4, 2], dtype="float64", rng=0)
    x, y = [[0.5], [-1.0], [2.0]], [[0.0], [1.0]]
    figure = check(plots.nudges(net, x, y, 0, entry, amounts=[0.5, -0.5, 0.1]))
    ordered = [-0.5, 0.1, 0.5]
    names = ["sigmoid"] * 3
    options = {"layer": 0, "entry": entry, "amounts": [0.0, *ordered]}
    found = nudge(net.weights, net.biases, names, "quadratic", x, y, **options)
    for axes, values in zip(figure.axes, (found.z, found.a), strict=False):
        curves = drawn(axes)
        assert len(curves) == 3
        Δ, local = curves[f"layer 2, neuron {entry[0] + 1}"]
        assert ordered == Δ
        np.testing.assert_array_equal(local, values[0][entry[0], 1:] - values[0][entry[0], 0])
    costs = drawn(figure.axes[2])
    np.testing.assert_array_equal(costs["true"][1], found.cost[1:])
    np.testing.assert_array_equal(costs["predicted by ∂C/∂w"][1], found.predicted[1:])
    name = "biases[0][3, 0]" if entry == (3, 3) else f"weights[0][{entry[0]}, {entry[1]}]"
    assert {axes.get_xlabel() for axes in figure.axes} == {f"nudge of {name}"}


def test_nudges_of_a_network_of_single_neurons():
    figure = check(plots.nudges(bp.Network([1, 1, 1, 1], rng=0), [[1.0]], [[0.0]], 1, (0, 0)))
    assert list(drawn(figure.axes[0])) == ["layer 3", "layer 4"]
    x, y = drawn(figure.axes[0])["layer 3"]
    assert len(x) == 41 and y[0] < 0 < y[-1]


def test_nudges_of_what_is_not_there():
    net = bp.Network([3, 2], rng=0)
    with pytest.raises(IndexError, match="layer is 4"):
        plots.nudges(net, np.ones((3, 1)), np.ones((2, 1)), 4, (0, 0))
    with pytest.raises(ValueError, match="x has shape"):
        plots.nudges(net, np.ones((2, 1)), np.ones((2, 1)), 0, (0, 0))


def gradient_check(per_layer, total, tolerance=1e-7):
    worst = WorstEntry("weights[0][0, 1]", 1.0, 1.1)
    return bp.GradientCheck(total, tuple(per_layer), tolerance, worst)


@pytest.mark.parametrize(
    ("per_layer", "total"),
    [
        ([1e-10, 3e-9], 2e-9),
        ([1e-3, 2e-12], 1e-4),
        ([0.0, 0.0], 0.0),
        ([math.inf, 1e-9], math.inf),
        ([math.nan, 0.0], math.nan),
    ],
)
def test_gradient_check_shows_each_error_and_the_tolerance(per_layer, total):
    found = gradient_check(per_layer, total)
    (axes,) = check(plots.gradient_check(found)).axes
    *errors, tolerance = axes.lines
    assert list(tolerance.get_xdata()) == [1e-7, 1e-7]
    low, high = axes.get_xlim()
    for line, error in zip(errors, [*per_layer, total], strict=True):
        (x,) = line.get_xdata()
        assert low < x < high
        assert x == error or not 0 < error < math.inf
        assert (line.get_marker() == "o") == (error <= 1e-7)
    texts = [text.get_text() for text in axes.texts]
    for error in (*per_layer, total):
        assert (f"{error:.1e}" if error else "0") in texts
    assert ("passed" if found.passed else "FAILED") in axes.get_title()
    assert "weights[0][0, 1]" in axes.get_title()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["layer 2", "layer 3", "all layers"]


def test_gradient_check_of_a_network():
    X, Y = np.ones((3, 4)), np.zeros((2, 4))
    (axes,) = check(plots.gradient_check(bp.check_gradient(bp.Network([3, 5, 2], rng=0), X, Y))).axes
    assert "passed" in axes.get_title()


def plane(lab, m=60, classes=2):
    rng = np.random.default_rng(0)
    X, labels = rng.standard_normal((2, m)), rng.integers(classes, size=m)
    return lab.array(X, "float32"), lab.array(labels, "int64"), X, labels


@pytest.mark.parametrize(
    ("sizes", "σ", "cost"),
    [
        ([2, 5, 1], ["tanh", "sigmoid"], "binary_cross_entropy"),
        ([2, 5, 1], ["tanh", "linear"], "quadratic"),
        ([2, 5, 2], ["tanh", "softmax"], "softmax_cross_entropy"),
        ([2, 5, 10], ["relu", "sigmoid"], "quadratic"),
    ],
)
def test_decision_regions(lab, sizes, σ, cost):
    net = bp.Network(sizes, σ, cost, backend=lab.backend, rng=0)
    classes = max(sizes[-1], 2)
    X, labels, points, expected = plane(lab, classes=classes)
    before = lab.numpy(net.vector).copy()
    figure = check(plots.decision_regions(net, X, labels, resolution=30))
    axes = figure.axes[0]
    shown = {f"class {c}" for c in range(classes)}
    assert legend(figure) == set(drawn(axes)) == shown
    for c in range(classes):
        np.testing.assert_array_equal(drawn(axes)[f"class {c}"], points[:, expected == c].astype("f4"))
    a = lab.numpy(net.feedforward(X))
    wrong = ((a[0] >= 0.5) if len(a) == 1 else a.argmax(axis=0)) != expected
    assert axes.get_title() == f"{wrong.sum()} of 60 examples taken for another class"
    assert len(figure.axes) == (2 if sizes[-1] == 1 else 1)
    np.testing.assert_array_equal(lab.numpy(net.vector), before)


def test_the_boundary_lies_where_the_output_is_one_half():
    net = bp.Network([2, 1], dtype="float64", rng=0)
    net.weights[0], net.biases[0] = [[4.0, 0.0]], [[-1.0]]  # a ≥ ½ where x_1 ≥ ¼
    X, labels = np.array([[-1.0, 1.0], [-1.0, 1.0]]), np.array([0, 1])
    axes = plots.decision_regions(net, X, labels).axes[0]
    boundary = [c for c in axes.collections if c.get_edgecolor().size and c.get_facecolor().size == 0]
    (vertices,) = [path.vertices for c in boundary for path in c.get_paths()]
    np.testing.assert_allclose(vertices[:, 0], 0.25, atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
def test_decision_regions_where_all_is_one_class(outputs):
    net = bp.Network([2, outputs], rng=0)
    net.weights[0], net.biases[0] = np.zeros((outputs, 2)), np.eye(3)[:outputs, :1] * 5
    labels = np.zeros(7, int)
    figure = check(plots.decision_regions(net, np.ones((2, 7)), labels, resolution=10))
    assert legend(figure) == {"class 0"}
    linear = bp.Network([2, 1], activations="linear", rng=0)
    linear.vector[...] = 0
    check(plots.decision_regions(linear, np.ones((2, 7)), labels, resolution=10))


@pytest.mark.parametrize("outputs", [1, 4])
def test_targets_say_the_classes_as_well(outputs):
    net = bp.Network([2, 3, outputs], rng=0)
    rng = np.random.default_rng(0)
    X, labels = rng.random((2, 20)), rng.integers(max(outputs, 2), size=20)
    Y = bp.one_hot(labels, outputs) if outputs > 1 else labels[None]
    by_label = drawn(plots.decision_regions(net, X, labels, resolution=10).axes[0])
    by_target = drawn(plots.decision_regions(net, X, Y, resolution=10).axes[0])
    assert by_label == by_target


def test_decision_regions_need_two_inputs_and_labels_that_fit():
    net = bp.Network([2, 3, 2], rng=0)
    X = np.ones((2, 5))
    with pytest.raises(ValueError, match="network has 3 inputs"):
        plots.decision_regions(bp.Network([3, 2], rng=0), np.ones((3, 5)), np.zeros(5, int))
    with pytest.raises(ValueError, match="labels has shape"):
        plots.decision_regions(net, X, np.zeros(4, int))
    with pytest.raises(ValueError, match="dtype float64"):
        plots.decision_regions(net, X, np.zeros(5))
    with pytest.raises(ValueError, match="classes 0 to 1"):
        plots.decision_regions(net, X, np.array([0, 1, 2, 0, 0]))
    with pytest.raises(ValueError, match="resolution"):
        plots.decision_regions(net, X, np.zeros(5, int), resolution=0)


@pytest.mark.parametrize(("shape", "inputs"), [(None, 64), ((8, 8), 64), ((4, 16), 64), ((3, 5), 15)])
def test_first_layer_shows_a_row_of_weights_as_an_image(shape, inputs):
    net = bp.Network([inputs, 7, 2], rng=0)
    figure = check(plots.first_layer(net, shape))
    images, weights = figure.axes[0].images, net.weights[0]
    assert len(images) == 7
    for image, row in zip(images, weights, strict=True):
        np.testing.assert_array_equal(image.get_array(), row.reshape(shape or (8, 8)))
        assert image.norm.vmax == -image.norm.vmin == np.abs(weights).max()
    left = sorted({image.get_extent()[0] for image in images})
    assert all(b - a > (shape or (8, 8))[1] for a, b in pairwise(left))
    assert "7 neurons" in figure.axes[0].get_title()


def test_first_layer_of_any_library(lab):
    net = bp.Network([4, 1], backend=lab.backend, rng=0)
    (image,) = plots.first_layer(net).axes[0].images
    np.testing.assert_array_equal(image.get_array(), lab.numpy(net.weights[0]).reshape(2, 2))


def test_first_layer_of_many_neurons():
    net = bp.Network([16, 150, 2], rng=0)
    assert len(plots.first_layer(net).axes[0].images) == 100
    figure = plots.first_layer(net, neurons=3)
    assert len(figure.axes[0].images) == 3
    assert "3 of 150" in figure.axes[0].get_title()


def test_first_layer_of_zeros():
    net = bp.Network([4, 2], rng=0)
    net.vector[...] = 0
    check(plots.first_layer(net))


def test_first_layer_of_what_is_no_image():
    net = bp.Network([10, 3], rng=0)
    with pytest.raises(ValueError, match="10 inputs, which make no square"):
        plots.first_layer(net)
    with pytest.raises(ValueError, match=r"\(3, 3\) is 9 pixels"):
        plots.first_layer(net, (3, 3))


@pytest.mark.parametrize("optimizer", [None, bp.SGD(0.5, momentum=0.9, max_norm=2, clip_norm=1)])
def test_plan_shows_every_operation(optimizer):
    local = bp.Activation("$wave$", np.sin, np.cos)
    net = bp.Network([20, 8, 6, 3], ["relu", local, ["sigmoid", "tanh", "tanh"]], rng=0)
    plan = net.plan(5, optimizer)
    figure = check(plots.plan(plan))
    text, flops, bytes_ = figure.axes
    for axes, name in ((flops, "flops"), (bytes_, "bytes")):
        assert [bar.get_width() for bar in axes.patches if bar.get_height() < 1][
            -len(plan.operations) :
        ] == [getattr(op, name) for op in plan.operations]
        values = [label.get_text().partition(" ")[0] for label in axes.texts]
        assert values == [f"{getattr(op, name):,}" for op in plan.operations]
    written = [t.get_text().replace(r"\$", "$") for t in text.texts]
    for op in plan.operations:
        assert op.name in written and op.equation in written
    assert "20-8-6-3, batch 5" in " ".join(figure.get_suptitle().split())
    assert f"{plan.flops:,} FLOPs, {plan.bytes:,} bytes" in figure.get_suptitle()
    # columns of text do not run into each other
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in text.texts]
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[:i])
    for axes in (flops, bytes_):
        edge = axes.get_window_extent(renderer).x1
        assert all(t.get_window_extent(renderer).x1 <= edge for t in axes.texts)


def circles(lab, m=40):
    X, labels = bp.datasets.circles(m, rng=0)
    return lab.array(X), lab.array(labels)


def frames(path):
    """Number of frames, size, and each frame's milliseconds."""
    with Image.open(path) as image:
        durations = []
        for i in range(image.n_frames):
            image.seek(i)
            durations.append(image.info["duration"])
        return image.n_frames, image.size, durations


@pytest.mark.parametrize("sizes", [[2, 3, 1], [2, 5, 2, 2]])
def test_hidden_motion_writes_a_frame_for_every_k_epochs(lab, sizes, tmp_path):
    X, labels = circles(lab)
    net = bp.Network(sizes, "tanh", "quadratic", backend=lab.backend, rng=0)
    Y = lab.array(
        lab.numpy(labels)[None] if sizes[-1] == 1 else bp.one_hot(lab.numpy(labels), 2), "float32"
    )
    path = tmp_path / "motion.gif"
    options = {"batch_size": 10, "optimizer": bp.SGD(0.1), "progress": False}
    figure = plots.hidden_motion(net, X, Y, path, epochs=5, every=2, frames_per_second=20, **options)
    count, size, durations = frames(path)
    assert count == 4  # before training, after 2, 4 and 5 epochs
    assert size == tuple(figure.canvas.get_width_height())
    assert durations[:-1] == [50, 50, 50] and durations[-1] > 1000
    assert list(tmp_path.iterdir()) == [path]
    # the last frame is the network as it is now
    check(figure)
    axes = figure.axes[0]
    assert "epoch 5, cost" in axes.get_title()
    hidden = bp.Network(sizes[:-1], "tanh", dtype="float32", backend=lab.backend)
    hidden.vector[...] = net.vector[: hidden.vector.shape[0]]
    a, classes = lab.numpy(hidden.feedforward(X)), lab.numpy(labels)
    for line in axes.lines:
        points = line.get_data_3d() if len(a) == 3 else line.get_data()
        c = int(str(line.get_label()).removeprefix("class "))
        np.testing.assert_allclose(points, a[:, classes == c], atol=1e-6)
    assert legend(figure) == {"class 0", "class 1"}


def test_hidden_motion_trains_as_fit_does(tmp_path):
    X, labels = bp.datasets.circles(40, rng=0)
    nets = [bp.Network([2, 2, 1], cost="binary_cross_entropy", rng=0) for _ in range(2)]
    seen = []
    options = {"epochs": 3, "batch_size": 8, "progress": False}
    plots.hidden_motion(
        nets[0], X, labels, tmp_path / "a.gif", callbacks=[lambda t: seen.append(t.epoch)], **options
    )
    nets[1].fit(X, labels, **options)
    np.testing.assert_array_equal(nets[0].vector, nets[1].vector)
    assert seen == [1, 2, 3]


def test_hidden_motion_that_ends_early_shows_where_it_ended(tmp_path):
    X, labels = bp.datasets.circles(40, rng=0)
    net = bp.Network([2, 2, 1], cost="binary_cross_entropy", rng=0)
    figure = plots.hidden_motion(
        net,
        X,
        labels,
        tmp_path / "a.gif",
        epochs=50,
        every=20,
        callbacks=[lambda training: training.epoch == 3 and training.stop()],
        progress=False,
    )
    assert frames(tmp_path / "a.gif")[0] == 2
    assert "epoch 3, cost" in figure.axes[0].get_title()


def test_hidden_motion_of_targets_that_are_no_classes(tmp_path):
    X, Y = bp.datasets.step(40, rng=0)
    net = bp.Network([1, 2, 1], activations=["relu", "tanh"], rng=0)
    figure = plots.hidden_motion(net, X, Y, tmp_path / "s.GIF", epochs=1, progress=False)
    assert len(figure.axes[0].lines) == 2


def test_hidden_motion_draws_a_thousand_examples_at_most(tmp_path):
    X, labels = bp.datasets.circles(1500, rng=0)
    net = bp.Network([2, 2, 1], cost="binary_cross_entropy", rng=0)
    figure = plots.hidden_motion(net, X, labels, tmp_path / "a.gif", epochs=1, progress=False)
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == 1000


def test_hidden_motion_of_a_chosen_layer(tmp_path):
    X, labels = bp.datasets.circles(40, rng=0)
    net = bp.Network([2, 2, 3, 1], cost="binary_cross_entropy", rng=0)
    options = {"epochs": 1, "progress": False}
    figure = plots.hidden_motion(net, X, labels, tmp_path / "a.gif", layer=0, **options)
    assert "layer 2" in figure.axes[0].get_title()
    figure = plots.hidden_motion(net, X, labels, tmp_path / "a.gif", **options)
    assert "layer 3" in figure.axes[0].get_title()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"path": "a.mp4"}, ValueError, r"ends in \.gif"),
        ({"path": "missing/a.gif"}, FileNotFoundError, "there is no folder"),
        ({"layer": 1}, ValueError, r"layer=1 of a network whose hidden layers have \[3, 8\]"),
        ({"every": 0}, ValueError, "every"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"frames_per_second": 0}, ValueError, "frames_per_second"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_hidden_motion_checks_before_it_trains(changed, error, message, tmp_path):
    X, labels = bp.datasets.circles(40, rng=0)
    net = bp.Network([2, 3, 8, 1], cost="binary_cross_entropy", rng=0)
    before = net.vector.copy()
    arguments = {"path": "a.gif", "progress": False} | changed
    path = tmp_path / arguments.pop("path")
    with pytest.raises(error, match=message):
        plots.hidden_motion(net, X, labels, path, **arguments)
    np.testing.assert_array_equal(net.vector, before)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_leaves_none_behind(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    X, labels = bp.datasets.circles(40, rng=0)
    net = bp.Network([2, 2, 1], cost="binary_cross_entropy", rng=0)
    with pytest.raises(OSError, match="No space"):
        plots.hidden_motion(net, X, labels, tmp_path / "a.gif", epochs=1, progress=False)
    assert not list(tmp_path.iterdir())


def test_throughput_draws_each_curve():
    curves = {"loop": ([1, 16, 64], [5e3, 5e3, 6e3]), "a $b$": ([1, 16], [2e4, 9e4])}
    (axes,) = check(plots.throughput(curves, title="by $size$")).axes
    assert drawn(axes) == {"loop": curves["loop"], r"a \$b\$": curves["a $b$"]}
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "16", "64"]
    with pytest.raises(ValueError, match="curves is empty"):
        plots.throughput({})


def test_ratios_draws_each_with_its_interval():
    def ratio(median):
        return Ratio(median, 0.9 * median, 1.2 * median, 41, 1.0, 1.0)

    found = {"loop": {"tiny": ratio(190.0)}, "NumPy": {"tiny": ratio(2.6), "large": ratio(1.2)}}
    figure = check(plots.ratios(found))
    assert [axes.get_title() for axes in figure.axes] == ["tiny", "large"]
    tiny, large = figure.axes
    medians = [list(container.lines[0].get_xdata()) for container in tiny.containers]
    assert medians == [[190.0], [2.6]]
    (interval,) = large.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(interval[:, 0], [0.9 * 1.2, 1.2 * 1.2])
    assert interval[0, 1] == 1  # the second contender
    assert [text.get_text() for text in tiny.get_yticklabels()] == ["loop", "NumPy"]
    with pytest.raises(ValueError, match="ratios is empty"):
        plots.ratios({"loop": {}})


@pytest.mark.parametrize("background", ["white", "black"])
def test_shades_stand_out_from_the_background(background):
    axes = style.figure(1, 1).subplots()
    axes.set_facecolor(background)
    ground = 1.0 if background == "white" else 0.0
    for n in (1, 2, 9):
        grey = [np.dot(shade[:3], (0.299, 0.587, 0.114)) for shade in style.shades(axes, n)]
        assert len(grey) == n and all(abs(g - ground) > 0.3 for g in grey)
        assert all(np.diff(grey) > 0)


def test_a_figure_is_shown_by_a_notebook():
    figure = plots.training_curves(History(cost=[1.0, 0.5]))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_figures_are_saved_in_every_form(tmp_path):
    figure = plots.training_curves(history())
    for ending in ("png", "svg", "pdf"):
        figure.savefig(tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").stat().st_size > 1000


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "bpengine.plots.figure", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    net = bp.Network([2, 3, 1], rng=0)
    for draw in (
        lambda: plots.training_curves(history()),
        lambda: plots.plan(net.plan(2)),
        lambda: plots.decision_regions(net, np.ones((2, 3)), np.zeros(3, int)),
        lambda: plots.ratios({"loop": {"tiny": Ratio(1, 1, 1, 1, 1, 1)}}),
        lambda: plots.throughput({"loop": ([1], [1.0])}),
    ):
        with pytest.raises(ImportError, match=r'pip install "bpengine\[plots\]"'):
            draw()


def test_an_import_error_of_another_kind_is_not_hidden(monkeypatch):
    monkeypatch.delitem(sys.modules, "bpengine.plots.figure", raising=False)
    monkeypatch.setitem(sys.modules, "io", None)
    with pytest.raises(ModuleNotFoundError, match="import of io"):
        style.figure(1, 1)


def test_no_picture_needs_pyplot(tmp_path):
    code = (
        "import sys, numpy as np, bpengine as bp\n"
        "from bpengine import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "X, labels = bp.datasets.circles(40, rng=0)\n"
        "net = bp.Network([2, 3, 1], cost='binary_cross_entropy', rng=0)\n"
        "plots.hidden_motion(net, X, labels, sys.argv[1], epochs=1, progress=False)\n"
        "plots.decision_regions(net, X, labels).savefig(sys.argv[2])\n"
        "plots.plan(net.plan(5))._repr_png_()\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.gif", tmp_path / "a.svg"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


DRAWN_IN_AXES = {
    "costs": (1, lambda ax: plots.training_curves(History(cost=[2.0, 1.0], seconds=[1.0] * 2), ax=ax)),
    "costs and accuracy": (2, lambda ax: plots.training_curves(history(), ax=ax)),
    "norms": (2, lambda ax: plots.norms(history(steps=[1]), ax=ax)),
    "saturation": (2, lambda ax: plots.saturation(history(steps=[1]), ax=ax)),
    "gradient check": (1, lambda ax: plots.gradient_check(gradient_check([1e-9], 1e-9), ax=ax)),
    "weights": (1, lambda ax: plots.first_layer(bp.Network([4, 3, 2], rng=0), ax=ax)),
    "throughput": (1, lambda ax: plots.throughput({"loop": ([1, 16], [5e3, 5e3])}, ax=ax)),
    "nudges": (3, lambda ax: plots.nudges(bp.Network([1, 1]), [[1.0]], [[0.0]], 0, (0, 0), ax=ax)),
    "regions": (
        1,
        lambda ax: plots.decision_regions(
            bp.Network([2, 3, 1], rng=0), np.eye(2), [0, 1], resolution=5, ax=ax
        ),
    ),
}


@pytest.mark.parametrize("name", DRAWN_IN_AXES)
def test_pictures_are_drawn_into_the_axes_given(name):
    n, draw = DRAWN_IN_AXES[name]
    figure = matplotlib.figure.Figure()
    _, *given = figure.subplots(1, n + 1)
    drawn = draw(given[0] if n == 1 else given)
    assert drawn is figure
    assert all(axes.has_data() for axes in given)
    assert not figure.axes[0].has_data()
    with pytest.raises(TypeError, match=r"ax must be .* Matplotlib Axes.*, got"):
        draw([*given, given[0]])
    with pytest.raises(TypeError, match=r"ax must be .* Matplotlib Axes.*, got"):
        draw(figure)


def test_host_takes_arrays_of_any_library(lab):
    values = [[1.0, 2.0]]
    np.testing.assert_array_equal(style.host(lab.array(values)), values)
    np.testing.assert_array_equal(style.host(values), values)


def test_labels_of_a_library_without_writable_arrays():
    jax = pytest.importorskip("jax")
    net, X = bp.Network([2, 2], rng=0), np.array([[0.0, 1.0], [1.0, 0.0]])
    assert plots.decision_regions(net, X, jax.numpy.asarray([0, 1]), resolution=4)
