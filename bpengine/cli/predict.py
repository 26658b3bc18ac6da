"""``python -m bpengine predict``: what a saved network says of examples in a file."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np

from bpengine.network.load import load

__all__ = ["predict"]


def predict(options: argparse.Namespace) -> int:
    """Print a line per example: its class, or for a regression its outputs."""
    predicted = load(options.network).predict(_examples(options.examples))
    np.savetxt(sys.stdout, predicted.reshape(-1, predicted.shape[-1]).T, fmt="%.9g", delimiter=",")
    return 0


def _examples(path: str) -> np.ndarray[Any, Any]:
    """X of shape (n_1, m): an .npy file as it is, or the lines of a CSV file as columns."""
    try:
        if path.endswith(".npy"):
            return np.asarray(np.load(path, allow_pickle=False))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty file
            return np.asarray(np.loadtxt(path, delimiter=",", ndmin=2).T)
    except (ValueError, EOFError, UserWarning) as error:
        raise ValueError(f"{path} holds no examples that can be read: {error}") from None
