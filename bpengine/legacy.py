"""Names of modules in version 0.1, for loading its pickles."""

from __future__ import annotations

import importlib
import sys

__all__ = ["add_old_names"]

OLD = {
    "activations": "model.activations",
    "checking": "derivatives.gradient_check",
    "costs": "model.costs",
    "curvature": "derivatives.curvature",
    "history": "training.history",
    "members": "network.ensemble",
    "parameters": "model.parameters",
    "per_example_plans": "backprop.per_example",
    "private": "privacy.dpsgd",
    "regularization": "backprop.dropout",
    "workspace": "backprop.workspace",
}


def add_old_names() -> None:
    """Register modules under their old names."""
    for old, new in OLD.items():
        sys.modules[f"bpengine.{old}"] = importlib.import_module(f"bpengine.{new}")
