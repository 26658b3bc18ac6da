"""Weights of examples by class: `class_weight` of the classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpengine.estimators.data import Host
from bpengine.validation import non_negative_number

__all__ = ["class_weights"]


def class_weights(given: Any, binarizer: Any, Y: Host, sample_weight: Any, incremental: bool) -> Any:
    """`sample_weight` times the factors of `given`, for binarized targets Y (n, outputs)."""
    if given is None:
        return sample_weight
    if incremental and given == "balanced":
        raise ValueError(
            "class_weight='balanced' needs all examples at once; for partial_fit give a dict, "
            "such as sklearn.utils.class_weight.compute_class_weight makes."
        )
    classes = binarizer.classes_.tolist()
    if binarizer.y_type_.startswith("multilabel"):
        labels, classes = Y.T.astype(int), [0, 1]
        if given != "balanced" and (isinstance(given, dict) or len(given) != len(labels)):
            raise ValueError(
                f"class_weight must be 'balanced' or a list of {len(labels)} dicts, one for each "
                f"label, got {given!r:.60}."
            )
    else:
        labels = Y.argmax(axis=1)[None] if Y.shape[1] > 1 else Y.T.astype(int)
        if isinstance(given, list):
            raise ValueError(
                "class_weight must be a dict or 'balanced': a list of dicts is for multilabel y."
            )
    tables = given if isinstance(given, list) else [given] * len(labels)
    found = [
        _class_factors(table, classes, y, sample_weight)[y]
        for table, y in zip(tables, labels, strict=True)
    ]
    factors = np.prod(found, axis=0)
    return factors if sample_weight is None else factors * sample_weight


def _class_factors(given: Any, classes: list[Any], y: Host, sample_weight: Any) -> Host:
    """Factors of the weights by class, from the classes' numbers y (n,)."""
    if isinstance(given, str):
        totals = np.bincount(y, sample_weight, minlength=len(classes))
        # classes without weight count as absent
        return np.asarray(totals.sum() / (np.count_nonzero(totals) * np.where(totals == 0, 1, totals)))
    unknown = [label for label in given if label not in classes]
    if unknown and any(label not in given for label in classes):
        raise ValueError(f"class_weight has {unknown!r:.60}, which are not in classes {classes!r:.60}.")
    factors = [non_negative_number(given.get(k, 1.0), f"class_weight[{k!r}]") for k in classes]
    return np.array(factors)
