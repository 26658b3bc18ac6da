"""Training with `DPSGD`: batches drawn at random, and the privacy that the steps have spent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bpengine.backends import Array, Slices
from bpengine.callbacks import Callback
from bpengine.plan import Plan
from bpengine.private import DPSGD, PrivatePlan
from bpengine.sources import Chunk, Indexed, Most, Resident, Source
from bpengine.training import Training

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["Accountant", "Poisson", "PrivateTraining", "privacy_spent"]

# whole orders have a closed form; the fractional ones of the default may fail to converge
ORDERS = [*range(2, 33), 36, 40, 48, 56, 64, 80, 96, 128, 192, 256, 512]
Spent = tuple[float, float, int]  # sampling rate q, noise multiplier σ, steps


class Poisson(Resident):
    """Batches that each example is in with the same probability, whatever the others do.

    They are of different sizes: those of a chunk are filled up to the same one with a row of weight 0.

    Parameters
    ----------
    source : Resident
        The examples, without weights; its batch size is that of a batch on average.
    dtype : str
    rng : numpy.random.Generator
        What draws the batches.
    """

    def __init__(self, source: Resident, dtype: str, rng: np.random.Generator) -> None:
        Indexed.__init__(self, source.examples, source.batch_size, True)
        self.backend, self.outputs, self.weighted = source.backend, source.outputs, True
        self.stack, self.own = source.stack, source.own
        self.rng, self.rate = rng, source.batch_size / source.examples
        N, width = source.rows.shape
        self.rows = self.backend.empty((N + 1, width + 1), dtype)
        self.rows[:N, :width] = source.rows
        self.rows[:N, width] = 1.0
        # the filling: an input of zeros, targets that are some example's, weight 0
        self.rows[N, :] = 0.0
        self.rows[N, width - self.outputs : width] = source.rows[0, width - self.outputs :]

    def chunks(self, rng: np.random.Generator, most: Most) -> Iterator[Chunk]:
        """An epoch: as many steps as there are batches of the average size in the examples."""
        N = self.examples
        sizes = self.rng.binomial(N, self.rate, self.steps)
        step = 0
        while step < self.steps:
            width = self._width(int(sizes[step:].max()))
            some = sizes[step : step + most(step, width)]
            width = self._width(int(some.max()))
            numbers = np.full((len(some), width), N)
            for row, size in zip(numbers, some, strict=True):
                row[:size] = self.rng.choice(N, size, replace=False, shuffle=False)
            yield self._filled(numbers, int(some.sum()))
            step += len(some)

    def _width(self, size: int) -> int:
        """The size that batches are filled up to: one of a few, for which there are plans."""
        grain = max(1, math.isqrt(self.batch_size))
        return max(1, -(-size // grain)) * grain

    def _filled(self, numbers: np.ndarray[Any, Any], total: int) -> Chunk:
        indices = self._placed(numbers.ravel())
        m = numbers.shape[1]
        load, outcomes = partial(self.backend.take, self.rows), partial(self._outcomes, indices, m)
        return Chunk(m, True, Slices(indices, m), load, outcomes, self.rows, total)


class PrivateTraining(Training):
    """Training by `DPSGD`.

    Attributes
    ----------
    spent : list of (float, float, int)
        Sampling rate, noise multiplier and number of steps taken with them: what privacy is counted
        from. A step counts when it begins.
    """

    optimizer: Any
    source: Poisson

    def __init__(
        self,
        network: Network,
        optimizer: DPSGD,
        source: Source,
        epochs: int,
        *,
        validation: tuple[Array, ...] | None = None,
        callbacks: Sequence[Callback] = (),
        monitor: int | str | None = None,
    ) -> None:
        if monitor is not None:
            raise ValueError(
                "monitor shows what DPSGD hides: gradients of single batches. Leave it out."
            )
        if not isinstance(source, Resident):
            raise ValueError(
                "DPSGD draws each batch from all examples: give X and Y as arrays in memory."
            )
        if source.weighted:
            raise ValueError(
                "DPSGD takes no sample_weight and no class_weight: in its promise examples count alike."
            )
        accountant = [] if optimizer.delta is None else [Accountant()]
        rng = optimizer.generator(network.rng)
        super().__init__(
            network,
            optimizer.rule,
            Poisson(source, network.dtype, rng),
            epochs,
            validation=validation,
            callbacks=[*accountant, *callbacks],
        )
        self.optimizer = optimizer
        self.spent: list[Spent] = []

    def _new_plan(self, chunk: Chunk) -> Plan:
        return PrivatePlan(
            self.network,
            chunk.size,
            self.optimizer,
            state=self.state,
            weighted=True,
            expected=self.source.batch_size,
            rng=self.source.rng,
        )

    def _run(self, chunk: Chunk, step: int) -> np.ndarray[Any, Any]:
        self._spend(len(chunk.batches))
        return super()._run(chunk, step)

    def _spend(self, steps: int) -> None:
        now = self.source.rate, self.optimizer.noise_multiplier
        if self.spent and self.spent[-1][:2] == now:
            steps += self.spent.pop()[2]
        self.spent.append((*now, steps))

    def _snapshot(self) -> tuple[dict[str, Array], Any]:
        arrays, random = super()._snapshot()
        rng = self.network.rng
        # steps that are taken again get the same noise; from a generator of its own they get new noise
        return arrays, rng.bit_generator.state if self.source.rng is rng else random


class Accountant(Callback):
    """Notes the privacy spent in ``History.epsilon``, after each epoch and where training ends."""

    def __init__(self) -> None:
        self._spent: list[Spent] = []
        self._told = 0

    def start(self, training: Training) -> None:
        """See that there is an accountant, and go on from what a resumed training has spent."""
        assert isinstance(training, PrivateTraining)
        _accountant()
        if training.epoch and not self._spent:
            raise ValueError(
                "the checkpoint does not say what privacy its training has spent: DPSGD(…, delta=None)."
            )
        training.spent = self._spent
        self._told = sum(steps for _, _, steps in self._spent)

    def epoch(self, training: Training) -> None:
        """Note ε of all steps so far."""
        assert isinstance(training, PrivateTraining)
        self._told = sum(steps for _, _, steps in self._spent)
        training.history.epsilon.append(privacy_spent(self._spent, training.optimizer.delta))

    def end(self, training: Training) -> None:
        """Note it again where an epoch has begun since."""
        assert isinstance(training, PrivateTraining)
        if sum(steps for _, _, steps in training.spent) > self._told:
            self.epoch(training)

    def memory(self) -> dict[str, Any]:
        """What has been spent."""
        return {"spent": [list(entry) for entry in self._spent]}

    def recall(self, memory: dict[str, Any]) -> None:
        """What a checkpoint says has been spent."""
        self._spent = [(float(q), float(σ), int(steps)) for q, σ, steps in memory.get("spent", [])]


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
