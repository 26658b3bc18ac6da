"""Estimators with scikit-learn's interface: `MLPClassifier` and `MLPRegressor` that train on bpengine.

Parameters, fitted attributes and behaviour equal the classes of the same names in
`sklearn.neural_network`: changing the import is enough. `MLPEnsembleClassifier`, `MLPEnsembleRegressor`
and `StackSearchCV` train many of them as one stack. They need scikit-learn 1.6 or later.
"""

from __future__ import annotations

try:
    from sklearn.utils.validation import validate_data  # noqa: F401
except ImportError as error:
    raise ImportError(
        "bpengine.estimators needs scikit-learn 1.6 or later: pip install 'bpengine[estimators]'"
    ) from error

from bpengine.estimators.classifier import MLPClassifier
from bpengine.estimators.ensembles import MLPEnsembleClassifier, MLPEnsembleRegressor
from bpengine.estimators.regressor import MLPRegressor
from bpengine.estimators.search import StackSearchCV

__all__ = [
    "MLPClassifier",
    "MLPEnsembleClassifier",
    "MLPEnsembleRegressor",
    "MLPRegressor",
    "StackSearchCV",
]
