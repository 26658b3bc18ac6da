"""The cores to use, and fits in several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import joblib
from joblib.parallel import get_active_backend

from bpengine.estimators.base import BaseMLP

__all__ = ["cores", "fit_alone", "is_observed"]

START = 2.0  # seconds that it takes to start processes

T = TypeVar("T")


def cores(n_jobs: int | None) -> int:
    """The number of workers; None is all cores that this process may use, within a worker one."""
    if n_jobs is None:
        n_jobs = 1 if get_active_backend()[0].nesting_level else -1
    return int(joblib.effective_n_jobs(n_jobs))


def fit_alone(estimators: Sequence[BaseMLP], fits: Sequence[Callable[[], T]], workers: int) -> list[T]:
    """Results of the estimators' fits, in processes if by the second one's time this saves time."""
    for est in estimators:  # processes call no callbacks, print nothing and use no device
        if is_observed(est) or est.backend not in (None, "numpy", "numba"):
            workers = 1
    found, seconds = [], 0.0
    for fit in fits[:2]:  # the first one may load Numba
        start = time.perf_counter()
        found.append(fit())
        seconds = time.perf_counter() - start
    rest = fits[2:]
    if workers == 1 or seconds * len(rest) * (1 - 1 / workers) < START:
        return found + [fit() for fit in rest]
    return found + list(joblib.Parallel(workers)(joblib.delayed(fit)() for fit in rest))


def is_observed(est: BaseMLP) -> bool:
    """Whether a fit calls callbacks or prints."""
    return bool(est.callbacks or getattr(est, "_skl_callbacks", None) or est.verbose)
