"""Plots: each function returns a new Matplotlib figure, to be saved or shown in a notebook.

All raise ImportError without Matplotlib, ``pip install "bpengine[plots]"``. They don't use pyplot, and
change no global setting. Lines also differ in dash, marker and lightness, for greyscale.
"""

from bpengine.plots.animation import hidden_motion
from bpengine.plots.benchmarks import ratios, throughput
from bpengine.plots.history import norms, saturation, training_curves
from bpengine.plots.regions import decision_regions
from bpengine.plots.steps import gradient_check, plan
from bpengine.plots.weights import first_layer, nudges

__all__ = [
    "decision_regions",
    "first_layer",
    "gradient_check",
    "hidden_motion",
    "norms",
    "nudges",
    "plan",
    "ratios",
    "saturation",
    "throughput",
    "training_curves",
]
