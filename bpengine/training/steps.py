"""The steps of a chunk: run, undone, and searched for the one that was not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bpengine.backends import Array
from bpengine.backprop.plan import Plan
from bpengine.model.model import Model

__all__ = ["NonFiniteCostError", "beginning", "finite", "kept_steps"]

KEPT_ELEMENTS = 2**18  # outputs of training steps kept until their costs are added up
KEPT_STEPS = 8, 256  # at least and at most
PLANS = 8  # of batches of different sizes that are kept at a time


class NonFiniteCostError(ArithmeticError):
    """Training met a cost that is NaN or infinite.

    Attributes
    ----------
    epoch, step : int
        Where, counted from 1; the step is within the epoch.
    layer : int
        The layer whose numbers were the first to be non-finite; layer 1 is the input.
    """

    def __init__(self, epoch: int, step: int, layer: int) -> None:
        self.epoch, self.step, self.layer = epoch, step, layer
        super().__init__(
            f"the cost is no longer finite: epoch {epoch}, step {step}, beginning in layer {layer} "
            "(layer 1 is the input). The network keeps the last finite parameters. Try a smaller "
            "learning rate."
        )


def kept_steps(network: Model, m: int) -> int:
    """Of how many steps on m examples the outputs are kept until their costs are added up."""
    (least, most), times = KEPT_STEPS, network.backend.patience
    elements = math.prod(network.stack) * network.sizes[-1] * m
    return min(most * times, max(least, KEPT_ELEMENTS * times // elements))


def beginning(plan: Plan, results: Sequence[Array], p: int | None = None) -> int | None:
    """The layer where a step's first non-finite numbers are; None where all are finite.

    `results` are what the step has made, a block for each layer after the input: parameters or
    gradients. With a number `p`, those of network p of a stack are looked at.
    """
    net, ws = plan.network, plan.workspace
    xp, at = net.backend.xp, ... if p is None else (p, ...)
    forward = [finite(xp, z[at]) for z in ws.z]
    backward = [finite(xp, block[at]) for block in results]
    if not all(forward):
        return forward.index(False) + 2
    if not all(backward):
        return len(backward) + 1 - backward[::-1].index(False)
    values = net.cost.per_example(net.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
    return None if finite(xp, values[at]) else len(forward) + 1


def finite(xp: Any, array: Array) -> bool:
    """Whether there is no NaN and no infinity."""
    return bool(xp.all(xp.isfinite(array)))
