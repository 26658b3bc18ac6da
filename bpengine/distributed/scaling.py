"""A cost model of distributed training steps: matrix products and all-reduces.

A message of n bytes takes α + n/β seconds, with the latency α and the bandwidth β of a link; a rank
sends and receives one at a time. Sums begin, as in training, when a bucket of layers is written. The
model has no contention and one FLOP rate for products of all shapes: its times are lower bounds.
"""

from __future__ import annotations

import math
import statistics
import timeit
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bpengine.backprop.plan import Plan
from bpengine.distributed.summed_gradient import BUCKET_BYTES
from bpengine.model.model import Model
from bpengine.optimizers.sgd import SGD
from bpengine.validation import (
    convert_fields,
    flag,
    layer_sizes,
    non_negative_number,
    positive_integer,
    positive_number,
)

__all__ = ["Link", "Price", "Step", "measured_rate", "ring", "table", "tree", "useful_ranks"]

MOST = 1024  # ranks
USEFUL = 0.5  # minimum efficiency
MEASURE_SECONDS = 1.0
NAMES = ["ranks", "examples", "gradient", "sums", "hidden", "step", "speed-up", "efficiency", "weak"]
CHECKED = (
    "the model's error: its step was 0.62 of the measured one, of 784-512-512-10 on two ranks of one "
    "machine, and 0.87 of that of 2048 x 5; see docs/benchmarks-distributed.md"
)


@dataclass(frozen=True)
class Link:
    """A network link between two ranks.

    Parameters
    ----------
    latency : float
        α, seconds.
    bandwidth : float
        β, bytes per second.
    """

    latency: float
    bandwidth: float

    def __post_init__(self) -> None:
        convert_fields(self, latency=non_negative_number, bandwidth=positive_number)


def ring(size: float, ranks: int, link: Link) -> float:
    """Seconds of an all-reduce of `size` bytes around a ring: 2 (R - 1) (α + n / (R β)).

    Each rank sends 2 (R - 1) / R times the bytes, the minimum, in many messages.

    References
    ----------
    P. Patarasuk and X. Yuan, Journal of Parallel and Distributed Computing 69, 2009.
    """
    return 2 * (ranks - 1) * (link.latency + size / (ranks * link.bandwidth))


def tree(size: float, ranks: int, link: Link) -> float:
    """Seconds of a sum up a binary tree and a broadcast down it: 2 ⌈log₂ R⌉ (α + n / β)."""
    return 2 * math.ceil(math.log2(ranks)) * (link.latency + size / link.bandwidth)


@dataclass(frozen=True)
class Price:
    """Seconds of a step.

    Attributes
    ----------
    ranks, examples : int
        Number of ranks, and of examples per rank.
    gradient : float
        Products of feedforward and backprop.
    sums : float
        All-reduces, each by ring or tree, whichever is faster.
    step : float
        The whole step, with overlap.
    """

    ranks: int
    examples: int
    gradient: float
    sums: float
    step: float


@dataclass(frozen=True)
class Step:
    """A training step.

    Parameters
    ----------
    sizes : sequence of int
        Neurons per layer, input first.
    rate : float
        FLOP per second of one rank.
    link : Link
    itemsize : int, optional
        Bytes of a number.
    overlap : bool, optional
        As for `DataParallel`.
    """

    sizes: Sequence[int]
    rate: float
    link: Link
    itemsize: int = 4
    overlap: bool = True

    def __post_init__(self) -> None:
        convert_fields(
            self,
            sizes=lambda sizes, _: layer_sizes(sizes),
            rate=positive_number,
            itemsize=positive_integer,
            overlap=flag,
        )

    def flops(self, examples: int) -> int:
        """Floating-point operations of a step's products on one rank."""
        return sum(forward + backward for forward, backward, _ in self._layers(examples))

    def price(self, examples: int, ranks: int) -> Price:
        """The times of a step with `examples` per rank."""
        examples = positive_integer(examples, "examples")
        ranks = positive_integer(ranks, "ranks")
        layers = self._layers(examples)
        now = sum(forward for forward, _, _ in layers) / self.rate
        free = sums = 0.0  # the time when the link is free
        pending = 0
        for l in range(len(layers) - 1, -1, -1):
            _, backward, size = layers[l]
            now += backward / self.rate
            pending += size
            if l == 0 or (self.overlap and pending >= BUCKET_BYTES):
                seconds = min(f(pending, ranks, self.link) for f in (ring, tree))
                free, sums, pending = max(now, free) + seconds, sums + seconds, 0
        return Price(ranks, examples, now, sums, max(now, free))

    def _layers(self, m: int) -> list[tuple[int, int, int]]:
        """FLOPs forward and backward, and bytes of the gradient, of each layer."""
        found = []
        for l, (inputs, n) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            product = 2 * n * (inputs + 1) * m
            through = 2 * n * inputs * m if l else 0  # BP2
            found.append((product, product + through, n * (inputs + 1) * self.itemsize))
        return found


def useful_ranks(step: Step, batch_size: int) -> int:
    """The largest number of ranks, up to 1,024, with an efficiency of ½ or more."""
    return max(
        ranks
        for ranks in range(1, min(batch_size, MOST) + 1)
        if _shared(step, batch_size, ranks) >= USEFUL
    )


def _shared(step: Step, batch_size: int, ranks: int) -> float:
    one, many = step.price(batch_size, 1), step.price(-(-batch_size // ranks), ranks)
    return one.step / (ranks * many.step)


def table(step: Step, batch_size: int, ranks: Iterable[int]) -> str:
    """A table of times: a batch divided over the ranks; in the last column, one on each rank."""
    lines: list[Sequence[str]] = [NAMES]
    for R in ranks:
        R = positive_integer(R, "ranks")
        if batch_size >= R:
            many = step.price(-(-batch_size // R), R)
            shared = _shared(step, batch_size, R)
            hidden = many.gradient + many.sums - many.step
            figures = (
                str(many.examples),
                *(f"{1e3 * x:.3g} ms" for x in (many.gradient, many.sums)),
                f"{hidden / many.sums:.0%}" if many.sums else "–",
                f"{1e3 * many.step:.3g} ms",
                f"{shared * R:.2f}",
                f"{shared:.0%}",
            )
        else:
            figures = ("–",) * 7
        weak = step.price(batch_size, 1).step / step.price(batch_size, R).step
        lines.append((str(R), *figures, f"{weak:.0%}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def measured_rate(sizes: Sequence[int], batch_size: int, dtype: str = "float32") -> float:
    """FLOP per second of the products of training steps on this machine, with NumPy."""
    plan = Plan(Model(sizes, backend="numpy", dtype=dtype, rng=0), batch_size, SGD(0.1))
    rng = np.random.default_rng(0)
    plan.load(*(rng.random((n, batch_size)).astype(dtype) for n in (sizes[0], sizes[-1])))
    plan.run()
    seconds: list[float] = []
    while sum(seconds) < MEASURE_SECONDS:
        seconds.append(timeit.timeit(plan.run, number=1))
    return Step(sizes, 1.0, Link(0.0, 1.0)).flops(batch_size) / statistics.median(seconds)
