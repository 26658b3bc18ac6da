"""Ratio of the times of two callables, with a confidence interval, from interleaved timings.

The ratio of consecutive timings depends little on the machine's load. A benchmark can measure its code
against a fixed reference step, and compare the ratio with a stored one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["Ratio", "judge", "measure", "steady"]

Verdict = Literal["slower", "unchanged", "faster"]
CONFIDENCE = 0.95
RESAMPLES = 2000  # the ends of a 95 % interval rest on the 50 lowest and 50 highest of these


@dataclass(frozen=True)
class Ratio:
    """The result of `measure`.

    Attributes
    ----------
    median : float
        Time of ours ÷ time of the reference: the median over the pairs.
    low, high : float
        95 % bootstrap interval of that median.
    pairs : int
        Number of pairs measured.
    ours, reference : float
        Median microseconds of one call, for information.
    control : Ratio, optional
        The reference relative to itself, timed in the same pairs.

    Examples
    --------
    >>> from bpengine.timing import Ratio
    >>> print(Ratio(median=0.712, low=0.7, high=0.731, pairs=151, ours=21.4, reference=30.1))
    0.712 [0.700, 0.731]
    """

    median: float
    low: float
    high: float
    pairs: int
    ours: float
    reference: float
    control: Ratio | None = None

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def measure(
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    pairs: int = 151,
    seconds: float = 0.0005,
    control: bool = False,
    rng: int | np.random.Generator | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time of `ours` relative to that of `reference`.

    Both are timed once in each pair, in random order, with the garbage collector off.

    Parameters
    ----------
    ours, reference : callable
        Called without arguments; they should take a microsecond or more, and every call must do the
        same work.
    pairs : int, optional
        Number of pairs. With fewer than about 20 the interval means little.
    seconds : float, optional
        Approximate length of a timing, which repeats its callable. On a busy machine many short timings
        are better than a few long ones, as most are not interrupted by other processes.
    control : bool, optional
        Whether each pair has a second timing of the reference. The ratio of the two, which should be 1,
        shows what the machine does to ratios: see `steady`.
    rng : int or numpy.random.Generator, optional
        Seed for the order within pairs and for the bootstrap.
    clock : callable, optional
        Returns the time in seconds.

    Returns
    -------
    Ratio

    Raises
    ------
    ValueError
        If `pairs` or `seconds` is not above 0.

    References
    ----------
    B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: percentile intervals.

    Examples
    --------
    >>> import numpy as np
    >>> from bpengine.timing import measure
    >>> x, out = np.ones(1000), np.empty(1000)
    >>> ratio = measure(lambda: np.add(x, x, out), lambda: x + x, pairs=5, control=True, rng=0)
    >>> ratio.low <= ratio.median <= ratio.high
    True
    >>> ratio.control.pairs
    5
    """
    if pairs < 1 or seconds <= 0:
        raise ValueError(f"pairs and seconds must be above 0; got pairs={pairs}, seconds={seconds}.")
    rng = np.random.default_rng(rng)
    sides = [ours, reference, reference][: 3 if control else 2]
    times = np.empty((pairs, len(sides)))
    collecting = gc.isenabled()
    gc.disable()
    try:
        repeats = [_repeats(side, seconds, clock) for side in sides[:2]]
        repeats += repeats[1:]
        for pair in times:
            for i in rng.permutation(len(sides)):
                pair[i] = _time(sides[i], repeats[i], clock) / repeats[i]
    finally:
        if collecting:
            gc.enable()
    checked = _ratio(times[:, 2], times[:, 1], rng) if control else None
    return _ratio(times[:, 0], times[:, 1], rng, checked)


def _ratio(
    ours: np.ndarray[Any, Any],
    reference: np.ndarray[Any, Any],
    rng: np.random.Generator,
    control: Ratio | None = None,
) -> Ratio:
    """The ratio of times in seconds, pair by pair."""
    logs, pairs = np.log(ours / reference), len(ours)
    medians = np.median(rng.choice(logs, (RESAMPLES, pairs)), axis=1)
    tail = (1 - CONFIDENCE) / 2
    median, low, high = np.exp([np.median(logs), *np.quantile(medians, (tail, 1 - tail))]).tolist()
    us, others = (1e6 * float(np.median(times)) for times in (ours, reference))
    return Ratio(median, low, high, pairs, us, others, control)


def judge(measured: Ratio, stored: float, tolerance: float = 1.25) -> Verdict:
    """Compare a measured ratio with a stored one.

    Parameters
    ----------
    measured : Ratio
    stored : float
        The expected ratio.
    tolerance : float, optional
        The factor that counts as a change. `measured` is slower only if all of its interval lies above
        tolerance × stored, and faster only if all of it lies below stored ÷ tolerance.

    Returns
    -------
    {"slower", "unchanged", "faster"}

    Raises
    ------
    ValueError
        If `stored` is not above 0 or `tolerance` is below 1.

    Examples
    --------
    >>> from bpengine.timing import Ratio, judge
    >>> judge(Ratio(1.1, 1.05, 1.2, pairs=151, ours=33, reference=30), stored=0.7)
    'slower'
    """
    if not (stored > 0 and tolerance >= 1):
        raise ValueError(f"stored must be above 0 and tolerance 1 or more; got {stored}, {tolerance}.")
    if measured.low > tolerance * stored:
        return "slower"
    return "faster" if measured.high < stored / tolerance else "unchanged"


def steady(control: Ratio, within: float = 0.05) -> bool:
    """Whether a control, a callable measured against itself, has a ratio near 1.

    Parameters
    ----------
    control : Ratio
    within : float, optional
        Tolerance of the median.

    Examples
    --------
    >>> from bpengine.timing import Ratio, steady
    >>> steady(Ratio(0.9, 0.88, 0.95, pairs=151, ours=27, reference=30))
    False
    """
    return 1 / (1 + within) <= control.median <= 1 + within


def _time(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return clock() - start


def _repeats(call: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> int:
    """How many calls last about `seconds`, by the fastest of three tries."""
    # an interrupted try would make timings shorter than the other side's
    call()
    repeats = 1
    while min(times := [_time(call, repeats, clock) for _ in range(3)]) < seconds / 2:
        repeats *= 2
    return max(1, round(repeats * seconds / min(times)))
