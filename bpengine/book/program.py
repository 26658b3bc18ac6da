"""Base class of the networks of the book's two programs."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bpengine import validation
from bpengine.backends import Array
from bpengine.backprop.forward import forward_chunks
from bpengine.backprop.plan import Plan
from bpengine.book.costs import engine_cost, sigmoid
from bpengine.book.examples import Examples, no_column
from bpengine.network.network import Network as Engine
from bpengine.optimizers.sgd import SGD

__all__ = ["Program"]

PLANS = 8  # cached, by batch size


class Program(ABC):
    """A network with the attributes and methods of both programs.

    `weights` and `biases` are lists of arrays, which may be changed or replaced at any time. They are
    copied to the engine; training sets new arrays, and does not change existing ones.
    """

    biases: list[Any]
    weights: list[Any]

    def __init__(self, sizes: Sequence[int]) -> None:
        validation.layer_sizes(sizes)
        self.num_layers = len(sizes)
        self.sizes = sizes
        self._engine: Engine | None = None
        self._engine_is_for: Any = None
        self._plans: dict[tuple[int, bool | None], Plan] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.sizes)})"

    def _draw_parameters(self) -> None:
        """Draw biases, then weights, of standard deviation 1."""
        draw = np.random.randn
        self.biases = [draw(n, 1) for n in self.sizes[1:]]
        self.weights = [draw(n, fan_in) for fan_in, n in pairwise(self.sizes)]

    def feedforward(self, a: Array) -> Any:
        """The output activations.

        Parameters
        ----------
        a : array of shape (n_1, 1)
            Or (n_1, m) for m inputs.

        Returns
        -------
        array of shape (n_L, 1), or (n_L, m)

        Raises
        ------
        ValueError
            If it has another shape.
        """
        a = validation.host_numbers(a, "a")
        if a.ndim != 2 or a.shape[0] != self.sizes[0]:
            raise no_column(a, self.sizes[0], "a")
        for w, b in zip(self.weights, self.biases, strict=True):
            a = sigmoid(np.dot(w, a) + b)
        return a

    def backprop(self, x: Array, y: Array) -> tuple[list[Any], list[Any]]:
        """The gradient of one example's cost.

        Parameters
        ----------
        x : array of shape (n_1, 1)
        y : array of shape (n_L, 1)

        Returns
        -------
        nabla_b, nabla_w : lists of arrays
            In the shapes of `biases` and `weights`.

        Raises
        ------
        ValueError
            If x or y has another shape.
        """
        plan = self._plan(1)
        self._fill(plan, Examples([(x, y)], "backprop"))
        gradient = plan.run_loaded().gradient
        return [b.copy() for b in gradient.biases], [w.copy() for w in gradient.weights]

    @abstractmethod
    def _cost(self) -> Any:
        """The cost, in the book's form."""

    def _redefined(self, name: str) -> bool:
        """Whether a method is redefined outside this package."""
        module = getattr(getattr(self, name), "__module__", None)
        return not str(module).startswith(__package__)

    def _take_step(self, mini_batch: Iterable[Any], eta: float, lmbda: float, n: float) -> None:
        """One step of gradient descent; see `update_mini_batch`."""
        eta, lmbda = validation.finite_number(eta, "eta"), validation.finite_number(lmbda, "lmbda")
        batch, n = Examples(mini_batch, "mini_batch"), validation.positive_number(n, "n")
        batch.check_not_empty()
        if self._redefined("backprop"):
            self._take_step_by_examples(batch, eta, lmbda / n)
            return
        plan = self._plan(len(batch), eta, lmbda / n)
        self._fill(plan, batch)
        plan.run_loaded()
        self._read_engine()

    def _take_step_by_examples(self, batch: Examples, eta: float, l2: float) -> None:
        gradients = [self.backprop(x, y) for x, y in batch]
        nabla_b, nabla_w = (
            [sum(layer) / len(batch) for layer in zip(*lists, strict=True)]
            for lists in zip(*gradients, strict=True)
        )
        self.weights = [
            w - eta * (nabla + l2 * w) for w, nabla in zip(self.weights, nabla_w, strict=True)
        ]
        self.biases = [b - eta * nabla for b, nabla in zip(self.biases, nabla_b, strict=True)]

    def _epochs(
        self,
        training_data: Iterable[Any],
        data: Examples,
        epochs: int,
        mini_batch_size: int,
        eta: float,
        lmbda: float,
        update: Callable[[list[Any]], None],
    ) -> Iterator[int]:
        """Train for an epoch per item of this iterator; `data` are the examples of `training_data`.

        A list is shuffled in place, by `random.shuffle`, which for a list of as many numbers does the
        same exchanges. `update` calls `update_mini_batch`, which a subclass may redefine.
        """
        m, n = validation.positive_integer(mini_batch_size, "mini_batch_size"), len(data)
        epochs, eta = validation.whole_number(epochs, "epochs"), validation.finite_number(eta, "eta")
        lmbda = validation.finite_number(lmbda, "lmbda")
        data.check_not_empty()
        order = list(range(n))
        run = None
        if not any(map(self._redefined, ("update_mini_batch", "backprop"))):
            run = self._epoch_on_engine(data, min(m, n), eta, lmbda / n)
        for j in range(epochs):
            random.shuffle(order)
            if isinstance(training_data, list):
                training_data[:] = [data[i] for i in order]
            if run is not None:
                run(order)
            else:
                for k in range(0, n, m):
                    update([data[i] for i in order[k : k + m]])
            yield j

    def _epoch_on_engine(
        self, data: Examples, m: int, eta: float, l2: float
    ) -> Callable[[list[int]], None]:
        engine = self._ready_engine(l2)
        rows, take = data.rows(engine), engine.backend.take
        rest = len(data) % m

        def run(order: list[int]) -> None:
            numbers = np.array(order)
            plan = self._plan(m, eta, l2)
            last = self._plan(rest, eta, l2) if rest else plan
            batch, step = plan.workspace.rows, plan.program.run
            try:
                for k in range(0, len(order) - rest, m):
                    take(rows, numbers[k : k + m], batch)
                    step(1)
                if rest:
                    take(rows, numbers[-rest:], last.workspace.rows)
                    last.program.run(1)
            finally:  # with Ctrl-C, the steps so far
                self._read_engine()

        return run

    def _hits(self, data: Examples, labels: Array) -> int:
        """The number of examples whose greatest output is that of their label."""
        if self._redefined("feedforward"):
            guesses = np.array([np.argmax(self.feedforward(x)) for x, _ in data])
        else:
            engine, X = self._ready_engine(), data.inputs(self.sizes[0]).T
            chunks = [ws.a[-1].argmax(axis=0) for _, ws in forward_chunks(engine, X)]
            guesses = np.concatenate(chunks)
        return int(np.count_nonzero(guesses == labels))

    def _average_cost(self, data: Examples, targets: Array) -> float:
        """The average cost of the examples; `targets` are rows."""
        if self._redefined("feedforward"):
            pairs = zip(data, targets, strict=True)
            total = sum(self._cost().fn(self.feedforward(x), y[:, None]) for (x, _), y in pairs)
            return float(total) / len(data)
        engine, X = self._ready_engine(), data.inputs(self.sizes[0]).T
        σ, total = engine.activations[-1], 0.0
        with np.errstate(all="ignore"):
            for columns, ws in forward_chunks(engine, X):
                values = engine.cost.per_example(σ, ws.z[-1], ws.a[-1], targets.T[:, columns])
                total += float(np.sum(values))
        return total / len(data)

    def _ready_engine(self, l2: float = 0.0) -> Engine:
        """The engine's network of this cost, with the current parameters."""
        cost = self._cost()
        if self._engine is None or self._engine_is_for != cost:
            kind = engine_cost(cost)
            self._plans.clear()
            self._engine = Engine(self.sizes, cost=kind, backend="numpy", dtype="float64", rng=0)
            self._engine_is_for = cost
        engine = self._engine
        engine.l2 = l2
        for kind, views in (("weights", engine.weights), ("biases", engine.biases)):
            arrays = getattr(self, kind)
            if len(arrays) != len(views):
                raise ValueError(f"{kind} has {len(arrays)} arrays; this network has {len(views)}.")
            for l, view in enumerate(views):
                if np.shape(arrays[l]) != view.shape:
                    raise ValueError(
                        f"{kind}[{l}] has shape {np.shape(arrays[l])}; this network of sizes "
                        f"{list(self.sizes)} takes {view.shape}."
                    )
                view[...] = arrays[l]
        return engine

    def _read_engine(self) -> None:
        """Copy the engine's parameters to new arrays."""
        assert self._engine is not None
        self.weights = [w.copy() for w in self._engine.weights]
        self.biases = [b.copy() for b in self._engine.biases]

    def _plan(self, m: int, eta: float | None = None, l2: float = 0.0) -> Plan:
        """A plan for m examples, of a step, or without eta of a gradient."""
        engine = self._ready_engine(l2)
        key = m, None if eta is None else l2 != 0
        if key not in self._plans:
            if len(self._plans) == PLANS:
                self._plans.clear()
            self._plans[key] = Plan(engine, m, None if eta is None else SGD(1.0))
        plan = self._plans[key]
        if eta is not None:
            plan.settings([eta]).set(0)  # below 0 too, as in the book
        return plan

    def _fill(self, plan: Plan, batch: Examples) -> None:
        plan.workspace.rows[...] = batch.rows(plan.network)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_engine": None, "_engine_is_for": None, "_plans": {}}
