"""Names of modules in version 0.1, for loading its pickles."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

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


class OldModule(ModuleType):
    """A module under its old name, imported when one of its names is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        old = self.__name__.removeprefix("bpengine.")
        return getattr(importlib.import_module(f"bpengine.{OLD[old]}"), name)


def add_old_names() -> None:
    """Register modules under their old names."""
    for old in OLD:
        sys.modules.setdefault(f"bpengine.{old}", OldModule(f"bpengine.{old}"))
