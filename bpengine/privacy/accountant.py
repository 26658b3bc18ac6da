"""Privacy accounting of DP-SGD steps."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from bpengine.privacy.sampling import Poisson, Spent
from bpengine.training.checkpoint_checks import count, numbers
from bpengine.training.loop import Callback, Training
from bpengine.validation import fraction, non_negative_number, positive_number, shown, whole_number

__all__ = ["Accountant", "privacy_spent"]

# integer orders have a closed form; the default's fractional ones may fail to converge
ORDERS = [*range(2, 33), 36, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512]


class Accountant(Callback):
    """Appends ε to ``History.epsilon`` after each epoch and at the end of training."""

    def __init__(self, batches: Poisson, delta: float) -> None:
        self._batches, self._delta = batches, delta
        self._recorded = 0

    @property
    def _steps(self) -> int:
        return sum(steps for _, _, steps in self._batches.spent)

    def check(self, training: Training) -> None:
        """Check that dp-accounting is installed, and that a resumed training knows its steps."""
        _accountant()
        if training.epoch and not self._batches.spent:
            raise ValueError(
                "the checkpoint does not say what privacy its training has spent: DPSGD(…, delta=None)."
            )

    def start(self, training: Training) -> None:
        """Count the steps that are recorded."""
        self._recorded = self._steps

    def epoch(self, training: Training) -> None:
        """Record ε of all steps so far."""
        self._recorded = self._steps
        training.history.epsilon.append(privacy_spent(self._batches.spent, self._delta))

    def end(self, training: Training) -> None:
        """Record ε of an incomplete epoch."""
        if self._steps > self._recorded:
            self.epoch(training)

    def state_dict(self) -> dict[str, Any]:
        """The steps taken."""
        return {"spent": [list(entry) for entry in self._batches.spent]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the steps taken."""
        self._batches.spent = [
            (
                numbers(q, "sampling rate", bounds=(0, 1)),
                numbers(σ, "noise multiplier", bounds=(0, sys.float_info.max)),
                count(steps, "steps"),
            )
            for q, σ, steps in state.get("spent", [])
        ]


def privacy_spent(spent: Sequence[Spent], delta: float) -> float:
    """ε of the (ε, δ)-differential privacy of steps of `DPSGD`, by Rényi accounting.

    Parameters
    ----------
    spent : sequence of (float, float, int)
        Sampling rate q, noise multiplier σ, and number of steps.
    delta : float

    Returns
    -------
    float
        An upper bound, for data sets that differ by one example added or removed; infinite without
        noise.

    Raises
    ------
    ImportError
        Without the extra ``privacy``.

    References
    ----------
    I. Mironov, K. Talwar and L. Zhang, Rényi differential privacy of the sampled Gaussian mechanism,
    arXiv:1908.10530; the computation is that of Google's dp-accounting.

    Examples
    --------
    >>> round(bp.privacy_spent([(0.01, 1.1, 1000)], delta=1e-5), 2)  # doctest: +SKIP
    1.73
    """
    accounting, rdp = _accountant()
    delta, spent = positive_number(fraction(delta, "delta"), "delta"), _checked(spent)
    if any(steps and not σ for _, σ, steps in spent):
        return math.inf
    accountant = rdp.RdpAccountant(ORDERS)
    for q, σ, steps in spent:
        event = accounting.PoissonSampledDpEvent(q, accounting.GaussianDpEvent(σ))
        accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))


def _checked(spent: Sequence[Spent]) -> list[Spent]:
    if not isinstance(spent, Sequence) or isinstance(spent, (str, bytes)):
        raise TypeError(f"spent must be a list of (q, σ, steps), got {shown(spent)}.")
    found = []
    for i, entry in enumerate(spent):
        if not isinstance(entry, (tuple, list)) or len(entry) != 3:
            raise TypeError(f"spent[{i}] must be (q, σ, steps), got {shown(entry)}.")
        q, σ = (non_negative_number(entry[k], f"spent[{i}][{k}]") for k in (0, 1))
        steps = whole_number(entry[2], f"spent[{i}][2]")
        if q > 1 or steps < 0:
            raise ValueError(
                f"spent[{i}] must be (q, σ, steps) with q at most 1 and steps 0 or more, got "
                f"{shown(entry)}."
            )
        found.append((q, σ, steps))
    return found


def _accountant() -> tuple[Any, Any]:
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError:
        raise ImportError(
            "the privacy that bp.DPSGD has spent is counted by dp-accounting. Install it: "
            'pip install "bpengine[privacy]"; or leave the report out: DPSGD(…, delta=None).'
        ) from None
    return dp_accounting, rdp
