"""Plans: a training step, or gradient, recorded for one batch size, to be run many times."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Self, SupportsIndex

import numpy as np

from bpengine.backends import AnyArray, Array, Backend, DeviceMemoryError, Operation, Settings
from bpengine.backprop import equations
from bpengine.backprop.per_example import ExampleNorms
from bpengine.backprop.reduction import Mean
from bpengine.backprop.workspace import Workspace, example_bytes
from bpengine.model.examples import sample_weights
from bpengine.model.model import Model, check_model
from bpengine.model.packed_examples import PARTS, per_network_parts
from bpengine.model.parameters import Gradient
from bpengine.model.tables import as_html, as_text
from bpengine.optimizers.base import Optimizer, check_optimizer
from bpengine.optimizers.update import OptimizerState
from bpengine.validation import check_entries, choose, flag, non_negative_number, positive_integer, shown

__all__ = ["Plan", "gradient"]


class Plan:
    """One training step, or one gradient, of a network for one batch size.

    Made by `Network.plan`. Steps update the network's parameters.

    Parameters
    ----------
    model : Network
    batch_size, optimizer, weighted, per_network
        As for `Network.plan`.
    gradient : Mean, or a reduction derived from it, optional
        How the gradients of the examples are reduced; default: their mean.
    state : OptimizerState, optional
        A state to share with other plans.
    replayer : Backend, optional
        The backend that runs the step, on arrays of the network's backend, which is the default.

    Attributes
    ----------
    operations : list of Operation
        The operations of a step, in order.
    counts : dict
        How often each operation occurs: ``counts["matmul"]`` is 3 times the number of weight
        layers, less 1, for any batch size.
    flops, bytes : int
        Floating-point operations of a step, and bytes if each operation reads its inputs and writes
        its output once.
    reduction : Mean
        A copy of `gradient`, with the buffers of this plan.
    workspace : Workspace
        The buffers of the batch.

    Notes
    -----
    Backends may combine operations. NumPy's folds the update of plain SGD into the products of BP3 and
    BP4 where possible, which needs fewer bytes.

    Examples
    --------
    >>> import numpy as np
    >>> import bpengine as bp
    >>> net = bp.Network([784, 30, 10], rng=0)
    >>> plan = net.plan(batch_size=10, optimizer=bp.SGD(0.5))
    >>> plan.counts["matmul"]
    5
    >>> X, Y = np.ones((784, 10), "float32"), np.ones((10, 10), "float32")
    >>> plan.load(X, Y)
    >>> round(plan.run().cost, 2)
    1.43
    >>> round(plan.run(steps=100).cost, 3)
    0.003
    """

    def __init__(
        self,
        model: Model,
        batch_size: SupportsIndex,
        optimizer: Optimizer | None = None,
        *,
        gradient: Mean | None = None,
        state: OptimizerState | None = None,
        weighted: bool = False,
        per_network: Collection[str] = (),
        replayer: Backend | None = None,
    ) -> None:
        check_model(model)
        m, weighted = positive_integer(batch_size, "batch_size"), flag(weighted, "weighted")
        if optimizer is not None:
            check_optimizer(optimizer)
        self.network, self.optimizer, self.batch_size = model, optimizer, m
        self.per_network = _checked_parts(per_network, model.stack)
        parameters, σ, backend = model.parameters, model.activations, model.backend
        self.state: OptimizerState | None = None
        if optimizer is not None:
            self.state = OptimizerState(optimizer, parameters) if state is None else state
        dropout = model.dropout if optimizer is not None else ()
        failed = None
        try:
            self.workspace = Workspace(
                model.sizes,
                σ,
                m,
                backend,
                model.dtype,
                stack=model.stack,
                per_network=self.per_network,
                weighted=weighted,
                dropout=dropout,
                rngs=model.rngs,
                scales=self.state is not None and self.state.scale_per_network,
            )
        except DeviceMemoryError as error:
            failed = str(error)
        if failed is not None:  # after the except clause, which holds references to buffers
            raise _too_large(model, m, dropout, failed)
        ws = self.workspace
        reduction = self.reduction = Mean() if gradient is None else copy.copy(gradient)
        reduction.prepare(model, ws)
        backprop = equations.backprop(parameters, σ, model.cost, ws, reduction.average)
        self.operations: list[Operation] = [
            *equations.feedforward(parameters, σ, ws),
            *reduction.operations(backprop),
        ]
        _write(reduction.scalars(1.0))
        if optimizer is not None and self.state is not None:
            self.operations += reduction.update(self.state.operations(reduction.average))
            self.learning_rate = self.state.initial_rate
        self.program = reduction.compile(self.operations, replayer or backend)
        self._targets: list[Array] | None = None
        self._loaded = self._ran = False

    @property
    def learning_rate(self) -> Any:
        """The learning rate η; may be set between steps.

        The initial value of a schedule is its first. For an optimizer with per-network rates it is an
        array.
        """
        if self.state is None:
            raise ValueError("this plan has no optimizer, and so no learning rate.")
        return self.state.learning_rate

    @learning_rate.setter
    def learning_rate(self, η: Any) -> None:
        if self.state is None:
            raise ValueError("this plan has no optimizer, and so no learning rate.")
        checked, dtype = check_entries(η, non_negative_number, "learning_rate"), self.network.dtype
        η = checked if isinstance(checked, float) else np.array(checked)
        if np.shape(η) != np.shape(self.state.learning_rate):
            count = np.size(self.state.learning_rate)
            raise ValueError(f"learning_rate has {np.size(η)} values; this plan takes {count}.")
        if np.max(η) > float(np.finfo(dtype).max):
            raise ValueError(f"learning_rate={η} is beyond what {dtype} holds.")
        self.state.learning_rate = η
        _write(self._scalars(self.state, η))

    def settings(self, rates: Sequence[float]) -> Settings:
        """The scalars of steps at these learning rates, to be set before each step."""
        assert self.state is not None
        steps = [list(self._scalars(self.state, η)) for η in rates]
        if self._targets is None:
            self._targets = [array for array, _ in steps[0]]
        return Settings(self._targets, np.array([[value for _, value in step] for step in steps]))

    def _scalars(self, state: OptimizerState, η: Any) -> Iterator[tuple[Array, float]]:
        yield from state.settings(η)
        yield from self.reduction.scalars(state.gradient_scale(η))

    def average_over(self, examples: int) -> None:
        """Divide by this number of examples, of all ranks, from the next step on."""
        if examples != self.reduction.examples:
            self.reduction.examples = examples
            self.learning_rate = self.learning_rate  # writes the gradient's scale

    @property
    def counts(self) -> Counter[str]:
        """How often each operation occurs in a step."""
        return Counter(op.name for op in self.operations)

    @property
    def flops(self) -> int:
        """Floating-point operations of a step."""
        return sum(op.flops for op in self.operations)

    @property
    def bytes(self) -> int:
        """Bytes that the operations of a step read and write."""
        return sum(op.bytes for op in self.operations)

    @property
    def memory(self) -> int:
        """Bytes of the buffers."""
        entries = int(self.network.vector.shape[0])
        return self.workspace.bytes + entries * np.dtype(self.network.dtype).itemsize

    def load(self, X: Array, Y: Array, sample_weight: Array | None = None) -> None:
        """Copy a batch into the plan's buffers.

        Parameters
        ----------
        X, Y
            As for `Network.backprop`.
        sample_weight : array of shape (m,), optional
            For a `weighted` plan. Parts in `per_network` may have a leading axis of P.

        Raises
        ------
        ValueError, TypeError
            If they don't fit the network, or are not m examples.
        """
        X, Y = self.network.check_examples(X, Y)
        if X.shape[-1] != self.batch_size:
            raise ValueError(
                f"X has {X.shape[-1]} examples; this plan is for batches of {self.batch_size}. "
                f"Make one with net.plan(batch_size={X.shape[-1]})."
            )
        if sample_weight is not None and self.workspace.weights is None:
            raise ValueError(
                "this plan takes no sample_weight; make one that does with "
                f"net.plan(batch_size={self.batch_size}, …, weighted=True)."
            )
        self.load_checked(X, Y, sample_weight)

    def load_checked(self, X: Array, Y: Array, sample_weight: Array | None = None) -> None:
        """As `load`, of m examples that fit the network."""
        net, weights = self.network, None
        if self.workspace.weights is not None:
            weights = sample_weights(sample_weight, self.batch_size, net.backend, stack=net.stack)
        if net.stack:
            self._check_shared(X, Y, weights)
        if self.optimizer is not None:
            Y = net.smoothed(Y)
        self.workspace.fill(X, Y, weights)
        self._loaded, self._ran = True, False

    def _check_shared(self, X: Array, Y: Array, weights: Any) -> None:
        """Raise ValueError for a part that differs between the networks, which share it in this plan."""
        for part in per_network_parts(X, Y, weights):
            if not {part, "inputs"} & set(self.per_network):
                raise ValueError(
                    f"the {part} are those of {len(self.network)} networks, one set each; this plan is "
                    f"for {part} that all share. Make one with "
                    f"net.plan(batch_size={self.batch_size}, …, per_network=[{part!r}])."
                )

    def run(self, steps: SupportsIndex = 1) -> Self:
        """Run the step on the loaded batch, `steps` times; return the plan.

        Raises
        ------
        ValueError
            If no batch has been loaded.
        """
        steps = positive_integer(steps, "steps")
        if not self._loaded:
            raise ValueError("no batch is loaded: call plan.load(X, Y) before plan.run().")
        self.program.run(steps)
        self._ran = True
        return self

    def run_loaded(self) -> Self:
        """Run a step on the batch in the workspace's rows."""
        self.program.run(1)
        self._loaded = self._ran = True
        return self

    @property
    def output(self) -> AnyArray:
        """Weighted inputs or activations of the output layer, whichever the cost is computed from."""
        net, ws = self.network, self.workspace
        return ws.z[-1] if net.cost.is_of_z(net.activations[-1]) else ws.a[-1]

    @property
    def cost(self) -> Any:
        """Average cost of the loaded batch at the last step, before its update.

        A float, or for a stack a NumPy array (P,). The penalty is that of the current weights.

        Raises
        ------
        ValueError
            If no step has run on the loaded batch.
        """
        if not self._ran:
            raise ValueError("no step has run on this batch: call plan.run() first.")
        net, ws = self.network, self.workspace
        with np.errstate(all="ignore"):
            values = net.cost.per_example(net.activations[-1], ws.z[-1], ws.a[-1], ws.targets)
        xp = net.backend.xp
        if ws.weights is not None:
            values = xp.astype(values, xp.float64) * xp.astype(ws.weights[..., 0, :], xp.float64)
        total = net.backend.to_float(xp.sum(values, axis=-1, dtype=xp.float64))
        return total / self.batch_size + net.penalty.value(net.parameters)

    @property
    def gradient(self) -> Gradient:
        """Gradient of the average cost at the last step, in a buffer that the next step overwrites.

        With ``per_example="clip"`` the average of clipped gradients, with "gradients" all of them,
        with a leading axis for the examples.

        Raises
        ------
        ValueError
            For a plan with an optimizer or of norms, or if no step has run on the loaded batch.
        """
        if self.optimizer is not None:
            raise ValueError(
                "this plan updates the parameters and keeps no gradient; make one without an "
                f"optimizer: net.plan(batch_size={self.batch_size})."
            )
        found = self.reduction.gradient
        if found is None:
            raise ValueError("this plan takes norms and forms no gradient: see plan.norms.")
        found.cost = self.cost
        return found

    @property
    def norms(self) -> ExampleNorms:
        """Per-example norms before clipping, in buffers that the next step overwrites.

        For a plan with ``per_example="norms"`` or ``per_example="clip"``.

        Raises
        ------
        ValueError
            For any other plan, or if no step has run on the loaded batch.

        Examples
        --------
        >>> import numpy as np
        >>> import bpengine as bp
        >>> plan = bp.Network([784, 30, 10], rng=0).plan(batch_size=10, per_example="norms")
        >>> plan.load(np.ones((784, 10)), np.zeros((10, 10)))
        >>> plan.run().norms.total.shape
        (10,)
        """
        if self.reduction.norms is None:
            raise ValueError("this plan takes gradients; make one with per_example='norms'.")
        return ExampleNorms(*self.reduction.norms, self.cost)

    def __repr__(self) -> str:
        return as_text(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[tuple[str, ...]]]:
        net = self.network
        what = "gradient" if self.optimizer is None else f"training step, {self.optimizer}"
        sizes = "-".join(map(str, net.sizes)) + "".join(f", stack of {P}" for P in net.stack)
        title = f"{what}: {sizes}, batch {self.batch_size}, {net.dtype}, {net.backend.name}"
        rows: list[tuple[str, ...]] = [("", "equation", "operation", "shapes", "FLOPs", "bytes")]
        for i, op in enumerate(self.operations, 1):
            costs = f"{op.flops:,}", f"{op.bytes:,}"
            rows.append((str(i), op.equation, op.name, op.shapes, *costs))
        products = f"{self.counts['matmul']} matrix products"
        rows.append(("", "total", products, "", f"{self.flops:,}", f"{self.bytes:,}"))
        return title, rows


def gradient(model: Model, X: Array, Y: Array, sample_weight: Array | None = None) -> Gradient:
    """Gradient of the average cost over the columns of X; see `bpengine.Network.backprop`."""
    X, Y = model.check_examples(X, Y)
    m, weighted = int(X.shape[-1]), sample_weight is not None
    per_network = per_network_parts(X, Y, sample_weight) if model.stack else ()
    key = Plan, model.step_key, m, weighted, per_network
    plan = model.recent.take(key) or Plan(model, m, weighted=weighted, per_network=per_network)
    plan.load_checked(X, Y, sample_weight)
    found = plan.run_loaded().gradient.copied()
    model.recent.keep(key, plan, plan.memory)
    return found


def _checked_parts(per_network: Collection[str], stack: tuple[int, ...]) -> tuple[str, ...]:
    try:
        given = list(per_network)
    except TypeError:
        raise TypeError(f"per_network must be a list of names, got {shown(per_network)}.") from None
    names = [choose(name, {part: part for part in PARTS}, "per_network") for name in given]
    if names and not stack:
        raise ValueError(f"per_network={names} is for stacks; this is one network.")
    return tuple(names)


def _too_large(network: Model, m: int, dropout: Sequence[Any], failed: str) -> DeviceMemoryError:
    """The error for a batch that does not fit on the device, with the size that would."""
    backend = network.backend
    size = example_bytes(network.sizes, backend, network.dtype, dropout, network.stack)
    left = backend.memory_left() or 0
    fits = left // size
    advice = f"A batch of {fits} would fit" if fits else "A single example would not fit"
    return DeviceMemoryError(
        f"a batch of {m} examples needs {m * size:,} bytes of buffers on the device ({failed}) {advice}",
        left,
    )


def _write(scalars: Iterable[tuple[Array, float]]) -> None:
    for array, value in scalars:
        array[...] = value
