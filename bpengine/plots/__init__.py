"""Pictures: each function gives a Matplotlib figure of its own, to be saved or shown in a notebook.

They need Matplotlib, ``pip install "bpengine[plots]"``, but not pyplot, and change no global setting.
Lines differ in dash, marker and lightness, so that they can be distinguished in grey.
"""

from bpengine.plots.benchmarks import ratios, throughput
from bpengine.plots.history import norms, saturation, training_curves
from bpengine.plots.motion import hidden_motion
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
