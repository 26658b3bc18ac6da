"""Mini-batch training: shuffle, gather, step; costs after each epoch; evaluation in chunks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from bpengine import equations
from bpengine.backends import Array, Program
from bpengine.optimizers import SGD
from bpengine.plan import Plan
from bpengine.validation import positive_integer
from bpengine.workspace import Workspace, example_rows

if TYPE_CHECKING:
    from bpengine.network import Network

__all__ = ["History", "NonFiniteCostError", "evaluate", "fit", "forward_chunks"]

CHUNK_ELEMENTS = 2**22  # elements of all activations that a prediction holds at a time
KEPT_ELEMENTS = 2**18  # outputs of training steps kept until their costs are added up
KEPT_STEPS = 8, 256  # at least and at most


@dataclass
class History:
    """What `fit` saw, one entry an epoch.

    Attributes
    ----------
    cost : list of float
        Average cost over the epoch's training examples, each as its own step met it.
    validation_cost, validation_accuracy : list of float
        Cost and share of right classes on the validation data; empty without such data or classes.
    seconds : list of float
        Time of each epoch's training, without the validation.
    interrupted : bool
        Whether Ctrl-C ended the training.
    """

    cost: list[float] = field(default_factory=list)
    validation_cost: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False

    def keep_complete(self) -> None:
        """Drop what there is of an epoch that was interrupted: its cost is noted last."""
        for entries in (self.seconds, self.validation_cost, self.validation_accuracy):
            del entries[len(self.cost) :]

    def last(self) -> str:
        """The last epoch in one line."""
        parts = [f"cost {self.cost[-1]:.4g}"]
        if self.validation_cost:
            parts.append(f"validation cost {self.validation_cost[-1]:.4g}")
        if self.validation_accuracy:
            parts.append(f"accuracy {self.validation_accuracy[-1]:.4f}")
        return ", ".join(parts)


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


def fit(
    network: Network,
    X: Array,
    Y: Array,
    *,
    epochs: SupportsIndex,
    batch_size: SupportsIndex,
    optimizer: SGD,
    validation: tuple[Array, Array] | None,
    progress: bool,
) -> History:
    """Train `network`; see `Network.fit`."""
    epochs = positive_integer(epochs, "epochs")
    m = positive_integer(batch_size, "batch_size")
    SGD.check(optimizer)
    X, Y = network.check_examples(X, Y)
    if m > X.shape[1]:
        raise ValueError(
            f"batch_size={m} is more than the {X.shape[1]} examples of X; "
            f"use batch_size={X.shape[1]} or less."
        )
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise TypeError("validation must be a pair (X, Y) of examples and targets.")
        validation = network.check_examples(*validation, names=("validation X", "validation Y"))
    trainer = _Trainer(
        network, example_rows(X, Y, network.sizes[-1], network.backend, network.dtype), m, optimizer
    )
    history = History()
    # a cost that overflows is told by NonFiniteCostError, not by warnings
    with np.errstate(all="ignore"), _Progress(progress, epochs, trainer.steps) as report:
        try:
            for epoch in range(1, epochs + 1):
                start = time.perf_counter()
                cost = trainer.epoch(epoch, report)
                seconds = time.perf_counter() - start
                result = {} if validation is None else evaluate(network, *validation)
                if "cost" in result:
                    history.validation_cost.append(result["cost"])
                if "accuracy" in result:
                    history.validation_accuracy.append(result["accuracy"])
                history.seconds.append(seconds)
                history.cost.append(cost)  # the last: an epoch that has a cost is complete
                report.epoch(epoch, history)
        except KeyboardInterrupt:
            history.interrupted = True
            history.keep_complete()
            report.line("interrupted: the network keeps what it has learned.")
    return history


class _Trainer:
    """Runs epochs over prepared examples, in chunks of steps between which it looks at the cost."""

    def __init__(self, network: Network, rows: Array, batch_size: int, optimizer: SGD) -> None:
        self.network = network
        self.rows = rows
        self.examples = int(rows.shape[0])
        self.steps = -(-self.examples // batch_size)
        last = self.examples % batch_size
        self.plan = Plan(network, batch_size, optimizer)
        self.last = Plan(network, last, optimizer) if last else None
        outputs = network.sizes[-1] * batch_size
        least, most = KEPT_STEPS
        self.chunk = min(self.steps, most, max(least, KEPT_ELEMENTS // outputs))
        kept = network.backend.empty((self.chunk, network.sizes[-1], batch_size), network.dtype)
        self.kept = kept
        self.slots = [kept[i, ...] for i in range(self.chunk)]

    def epoch(self, number: int, report: _Progress) -> float:
        """One pass over all examples in random order; gives their average cost."""
        net, m = self.network, self.plan.batch_size
        order = net.backend.asarray(net.rng.permutation(self.examples), "int64")
        full = self.examples // m
        total = 0.0
        for step in range(0, full, self.chunk):
            steps = min(self.chunk, full - step)
            indices = order[step * m : (step + steps) * m]
            total += self._run(self.plan, indices, number, step)
            report.advance(steps)
        if self.last is not None:
            total += self._run(self.last, order[full * m :], number, full)
            report.advance(1)
        return total / self.examples

    def _run(self, plan: Plan, indices: Array, epoch: int, step: int) -> float:
        """Steps on the examples of `indices`, in order; gives the sum of their costs.

        What the cost is taken from is kept of every step, so that all costs are added up in one go.
        """
        net, m, ws = self.network, plan.batch_size, plan.workspace
        xp, take, run = net.backend.xp, net.backend.take, plan.program.run
        rows, batch = self.rows, ws.rows
        vector = net.parameters.vector
        output = ws.z[-1] if net.cost.is_of_z(net.activations[-1]) else ws.a[-1]
        batches = [indices[i : i + m] for i in range(0, indices.shape[0], m)]
        slots = self.slots if plan is self.plan else [output]
        start = xp.asarray(vector, copy=True)
        done = 0
        try:
            for chosen, slot in zip(batches, slots, strict=False):
                take(rows, chosen, batch)
                run(1)
                done += 1
                slot[...] = output
            outputs = net.sizes[-1]
            targets = xp.take(rows[:, rows.shape[1] - outputs :], indices, axis=0)
            y = xp.reshape(targets, (len(batches), m, outputs)).mT
            x = self.kept[: len(batches), ...] if plan is self.plan else output[None, ...]
            values = net.cost.per_example(net.activations[-1], x, x, y)
            cost = float(xp.sum(values, dtype=xp.float64))
            if not (np.isfinite(cost) and _finite(xp, vector)):
                self._find_non_finite(plan, start, batches, epoch, step)
        except KeyboardInterrupt:
            # the interrupt may have come in the middle of a step: take those again that were complete
            vector[...] = start
            for chosen in batches[:done]:
                take(rows, chosen, batch)
                run(1)
            if not _finite(xp, vector):
                vector[...] = start
            raise
        return cost

    def _find_non_finite(
        self, plan: Plan, start: Array, batches: list[Array], epoch: int, step: int
    ) -> None:
        """Replay the steps from `start` one by one, and stop before the one that went wrong."""
        net, ws = self.network, plan.workspace
        xp = net.backend.xp
        vector = net.parameters.vector
        vector[...] = start
        for i, chosen in enumerate(batches, 1):
            before = xp.asarray(vector, copy=True)
            net.backend.take(self.rows, chosen, ws.rows)
            plan.program.run(1)
            forward = [_finite(xp, z) for z in ws.z]
            backward = [_finite(xp, block) for block in net.parameters.blocks]
            values = net.cost.per_example(net.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
            if all(forward) and all(backward) and _finite(xp, values):
                continue
            vector[...] = before
            if not all(forward):
                layer = forward.index(False)
            elif not all(backward):
                layer = len(backward) - 1 - backward[::-1].index(False)
            else:
                layer = len(forward) - 1
            raise NonFiniteCostError(epoch, step + i, layer + 2)


def _finite(xp: Any, array: Array) -> bool:
    return bool(xp.all(xp.isfinite(array)))


def forward_chunks(
    network: Network, X: Array, Y: Array | None = None
) -> Iterator[tuple[slice, Workspace]]:
    """Feed X forward in chunks of bounded memory: the columns of each, and its workspace.

    The workspace holds the chunk's z, a and targets until the next one is asked for.
    """
    m = int(X.shape[1])
    chunk = max(1, min(m, CHUNK_ELEMENTS // sum(network.sizes)))
    outputs, backend, dtype = network.sizes[-1], network.backend, network.dtype
    for start in range(0, m, chunk):
        columns = slice(start, min(m, start + chunk))
        workspace, program = _forward_program(network, columns.stop - columns.start)
        y = None if Y is None else Y[:, columns]
        example_rows(X[:, columns], y, outputs, backend, dtype, out=workspace.rows)
        program.run(1)
        yield columns, workspace


def _forward_program(network: Network, m: int) -> tuple[Workspace, Program]:
    """Feedforward for m examples; each thread keeps the one that it used last."""
    kept = network.forward_programs
    parameters, activations, size = getattr(kept, "made_for", (None, None, 0))
    if parameters is not network.parameters or activations is not network.activations or size != m:
        σ, backend = network.activations, network.backend
        workspace = Workspace(network.sizes, σ, m, backend, network.dtype, errors=False)
        operations = equations.feedforward(network.parameters, σ, workspace)
        kept.program = workspace, backend.compile(operations)
        kept.made_for = network.parameters, σ, m
    found: tuple[Workspace, Program] = kept.program
    return found


def evaluate(network: Network, X: Array, Y: Array) -> dict[str, float]:
    """Average cost and, where the targets are classes, accuracy; see `Network.evaluate`."""
    xp, m = network.backend.xp, int(X.shape[1])
    cost = 0.0
    right: int | None = 0
    for _, ws in forward_chunks(network, X, Y):
        σ = network.activations[-1]
        with np.errstate(over="ignore", invalid="ignore"):
            values = network.cost.per_example(σ, ws.z[-1], ws.a[-1], ws.targets)
        cost += float(xp.sum(values, dtype=xp.float64))
        if right is not None:
            found, wanted = classes(xp, ws.a[-1]), true_classes(xp, ws.targets)
            right = None if wanted is None else right + int(xp.count_nonzero(found == wanted))
    result = {"cost": cost / m}
    if right is not None:
        result["accuracy"] = right / m
    return result


def classes(xp: Any, a: Array) -> Array:
    """The class of each column: the row of the greatest output; with one output, whether it is ≥ ½."""
    return xp.argmax(a, axis=-2) if a.shape[-2] > 1 else a[..., 0, :] >= 0.5


def true_classes(xp: Any, y: Array) -> Array | None:
    """The class that each column of targets stands for, or None where they are not classes."""
    one_hot = xp.all((y == 0) | (y == 1))
    if y.shape[0] > 1:
        one_hot = one_hot & xp.all(xp.sum(y, axis=-2) == 1)
    return classes(xp, y) if bool(one_hot) else None


class _Progress:
    """A tqdm bar where tqdm is installed, a line an epoch where it is not, nothing when not `shown`."""

    def __init__(self, shown: bool, epochs: int, steps: int) -> None:
        self.shown, self.epochs = shown, epochs
        self.bar: Any = None
        if shown:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=epochs * steps, unit="step", leave=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self, steps: int) -> None:
        if self.bar is not None:
            self.bar.update(steps)

    def epoch(self, number: int, history: History) -> None:
        text = f"epoch {number}/{self.epochs}: {history.last()}"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            self.line(text)

    def line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)
