"""The privacy that steps have spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bpengine.privacy.sampling import Poisson, Spent
from bpengine.training.loop import Callback, Training

__all__ = ["Accountant", "privacy_spent"]

# whole orders have a closed form; the fractional ones of the default may fail to converge
ORDERS = [*range(2, 33), 36, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512]


class Accountant(Callback):
    """Notes the privacy spent in ``History.epsilon``, after each epoch and where training ends.

    Parameters
    ----------
    batches : Poisson
        Which counts the steps.
    delta : float
    """

    def __init__(self, batches: Poisson, delta: float) -> None:
        self._batches, self._delta = batches, delta
        self._noted = 0

    @property
    def _steps(self) -> int:
        return sum(steps for _, _, steps in self._batches.spent)

    def start(self, training: Training) -> None:
        """See that there is an accountant, and what a resumed training has spent."""
        _accountant()
        if training.epoch and not self._batches.spent:
            raise ValueError(
                "the checkpoint does not say what privacy its training has spent: DPSGD(…, delta=None)."
            )
        self._noted = self._steps

    def epoch(self, training: Training) -> None:
        """Note ε of all steps so far."""
        self._noted = self._steps
        training.history.epsilon.append(privacy_spent(self._batches.spent, self._delta))

    def end(self, training: Training) -> None:
        """Note it again where an epoch has begun since."""
        if self._steps > self._noted:
            self.epoch(training)

    def state_dict(self) -> dict[str, Any]:
        """What has been spent."""
        return {"spent": [list(entry) for entry in self._batches.spent]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What a checkpoint says has been spent."""
        spent = state.get("spent", [])
        self._batches.spent = [(float(q), float(σ), int(steps)) for q, σ, steps in spent]


def privacy_spent(spent: Sequence[Spent], delta: float) -> float:
    """ε of the (ε, δ)-differential privacy of some steps of `DPSGD`, by Rényi accounting.

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
    if any(steps and not σ for _, σ, steps in spent):
        return math.inf
    accountant = rdp.RdpAccountant(ORDERS)
    for q, σ, steps in spent:
        event = accounting.PoissonSampledDpEvent(q, accounting.GaussianDpEvent(σ))
        accountant.compose(event, int(steps))
    return float(accountant.get_epsilon(delta))


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
