"""Estimators with scikit-learn's interface: `MLPClassifier` and `MLPRegressor` that train on bpengine.

Parameters, fitted attributes and behaviour are those of the classes of the same names in
`sklearn.neural_network`, so that changing the import is enough. They need scikit-learn 1.9 or later.
"""

from __future__ import annotations

try:
    import sklearn.callback  # noqa: F401
except ImportError as error:
    raise ImportError(
        "bpengine.estimators needs scikit-learn 1.9 or later: pip install 'bpengine[estimators]'"
    ) from error

from bpengine.estimators.classifier import MLPClassifier
from bpengine.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
