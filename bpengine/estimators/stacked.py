"""Several estimators trained as one stack, with the same results, to rounding, as fitted separately.

Examples, initial parameters, order, learning rates, penalties, dropout and stopping may differ within a
stack; layer sizes, activations, the optimizer and the number of steps per epoch may not.
"""

from __future__ import annotations

import dataclasses
import time
import timeit
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from bpengine.backends import Array, Backend, Entries
from bpengine.backprop.plan import Plan
from bpengine.data.source import Chunk
from bpengine.estimators import rules
from bpengine.estimators.base import BaseMLP
from bpengine.estimators.data import Data, Host, pack_examples
from bpengine.estimators.workers import is_observed
from bpengine.model.packed_examples import contiguous_columns
from bpengine.network.network import Network
from bpengine.network.stack import stack
from bpengine.training.backend_choice import for_training
from bpengine.training.steps import StepRunner

__all__ = ["StackedFit", "is_for_stacks", "stacks", "train"]

STACK_BYTES = 2**23  # of a step's activations at most, but for a single network
READBACK_ELEMENTS = 2**18  # outputs of training steps stored until their losses are summed
READBACK_STEPS = 256  # at most; at least 1, as 8 of a large stack's exceed the cache
TRIALS = 3  # steps by which stacks are compared with single networks


def is_for_stacks(estimator: BaseMLP, X: Any) -> bool:
    """Whether an estimator, not yet fitted, can be trained on X within a stack."""
    est = estimator
    return not (est.solver == "lbfgs" or est.warm_start or is_observed(est) or hasattr(X, "tocsr"))


class StackedFit:
    """An estimator with an initialized network, and its training examples.

    `numbers` (n,) are the indices of its examples among all; Y (n, n_L) and `weights` (n,) are theirs.
    """

    def __init__(self, estimator: BaseMLP, numbers: Host, Y: Host, weights: Host | None) -> None:
        est = self.estimator = estimator
        self.numbers, self.Y, self.weights = np.asarray(numbers), Y, weights
        self.network = est.network_
        self.optimizer = rules.optimizer(est)
        self.learning_rate = float(est.learning_rate_init)
        self.order, self._chosen = np.arange(len(Y)), None
        self._given = est._held_out()
        if est.early_stopping and self._given is None:
            self.order, self._chosen = rules.split(est, self.order, Y)
        self.batch_size = rules.batch_size(est, len(self.order))
        self.steps = -(-len(self.order) // self.batch_size)
        self.rest = len(self.order) - (self.steps - 1) * self.batch_size  # examples of the last step
        est.n_iter_, est._best = 0, None
        self.all_steps = self.steps * est.max_iter  # at most, of all fits of its kind

    @property
    def steps_each_time(self) -> bool:
        """Whether every batch has a non-zero weight."""
        return self.weights is None or np.sum(self.weights[self.order] == 0) < self.rest

    @property
    def kind(self) -> tuple[Any, ...]:
        """The properties that are equal within a stack."""
        net, est = self.network, self.estimator
        classes = tuple(getattr(est, "classes_", ()))
        return (
            (type(est), net.sizes, net.activations, net.cost, net.dtype, est._loss.name, classes),
            (net.backend.name, str(net.backend.device)),
            dataclasses.replace(self.optimizer, learning_rate=1.0),
            (self.steps, self.batch_size if self.steps > 1 else None, self.weights is None),
            # with dropout, the random numbers depend on the number of examples
            len(self.order) if np.any(net.dropout) else None,
        )

    def record(self, loss: float, X: Host) -> bool:
        """Record an epoch; return whether training has converged. X are the inputs of all examples."""
        held_out = self._given
        if self._chosen is not None:
            weights = None if self.weights is None else self.weights[self._chosen]
            held_out = Data(X[self.numbers[self._chosen]], self.Y[self._chosen], weights)
        rules.record_epoch(self.estimator, loss, len(self.order), held_out)
        self.learning_rate = rules.next_rate(self.estimator, self.learning_rate)
        return rules.converged(self.estimator, self)

    def end(self, view: Network) -> None:
        """Copy the parameters of the stack's network into the estimator's."""
        est, net = self.estimator, self.network
        for block, new in zip(net.parameters.blocks, view.parameters.blocks, strict=True):
            block[...] = new
        net.rng, net.l2 = view.rng, float(est.alpha) / self.batch_size
        est.network_ = net
        rules.restore_best(est)


def stacks(found: Sequence[StackedFit], workers: int = 1) -> list[list[StackedFit]]:
    """Groups of fits to train as stacks, `workers` at the same time; those of one fit are to be alone.

    A large network is faster alone, as it stays in the processor's cache from one step to the next.
    """
    groups: dict[tuple[Any, ...], list[StackedFit]] = {}
    for member in found:
        groups.setdefault(member.kind, []).append(member)
    parts: list[list[StackedFit]] = []
    for group in groups.values():
        all_steps = sum(member.all_steps for member in group)
        for member in group:
            member.all_steps = all_steps
        net, m = group[0].network, max(member.batch_size for member in group)
        network_bytes = m * sum(net.sizes) * np.dtype(net.dtype).itemsize
        count = -(-len(group) // max(1, STACK_BYTES // network_bytes))
        count = min(len(group), max(count, workers))
        if _alone_is_faster(group[0], -(-len(group) // count), workers):
            count = len(group)
        parts += [[group[i] for i in some] for some in np.array_split(np.arange(len(group)), count)]
    return parts


def _executor(member: StackedFit, network: Network, parts: int) -> Backend:
    """What runs the steps of a member's kind, divided among so many processes or networks of a stack."""
    est = member.estimator
    if est.backend is not None:
        return network.backend
    has_state = est.solver == "adam" or bool(est.momentum)
    return for_training(network, member.batch_size, member.all_steps // parts, has_state)


def _alone_is_faster(member: StackedFit, P: int, workers: int) -> bool:
    """Whether P networks take less time for a step on their own than in a stack."""
    net, m = member.network, member.batch_size
    if P == 1:
        return True
    seconds = []
    for count in (None, P):
        model = net.sizes, net.activations, net.cost, net.backend, net.dtype
        twin = Network(*model, dropout=net.dropout, stack=count, rng=0)
        parts = ("inputs", "targets") if count else ()
        executor = _executor(member, twin, count or workers)
        plan = Plan(twin, m, member.optimizer, per_network=parts, replayer=executor)
        plan.workspace.rows[...] = 0.1
        seconds.append(min(timeit.repeat(plan.run_loaded, repeat=TRIALS, number=1)) / (count or 1))
    return seconds[0] < seconds[1]


def train(groups: Sequence[Sequence[StackedFit]], X: Host, workers: int = 1) -> list[float]:
    """Train groups of `stacks`, each in a thread; returns their seconds.

    X (N, n_1) are the validated inputs of all examples.
    """
    threads = max(1, min(workers, len(groups)))
    with threadpool_limits(1 if threads > 1 else None, "blas"):
        parallel = joblib.Parallel(threads, prefer="threads")
        found = list(parallel(joblib.delayed(_train)(group, X) for group in groups))
    unfinished = sum(count for count, _ in found)
    if unfinished:
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations (max_iter) reached and the optimization hasn't "
            f"converged yet, for {unfinished} of {sum(map(len, groups))} networks trained together.",
            ConvergenceWarning,
            stacklevel=5,
        )
    return [seconds for _, seconds in found]


def _train(group: Sequence[StackedFit], X: Host) -> tuple[int, float]:
    """Train a stack; returns how many networks have not converged, and the seconds."""
    start = time.perf_counter()
    Y = np.zeros((len(X), group[0].Y.shape[1]), group[0].Y.dtype)
    for member in group:
        Y[member.numbers] = member.Y  # equal where two have the same example
    rows = pack_examples(group[0].network, X, Y, None)
    running, unfinished = list(group), 0
    steps = StackSteps(group, rows)
    views = steps.views(running)
    try:
        while running:
            with np.errstate(all="ignore"):
                losses = steps.epoch(running)
            left = []
            for p, member in enumerate(running):
                est = member.estimator
                stopped = member.record(float(losses[p]), X)
                if not stopped and est.n_iter_ < est.max_iter:
                    left.append(p)
                    continue
                unfinished += not stopped
                member.end(views[p])
            if len(left) < len(running):
                running = [running[p] for p in left]
                if running:
                    steps.narrow(np.array(left))
                views = steps.views(running)
    finally:
        for member, view in zip(running, views, strict=True):
            member.end(view)
    return unfinished, time.perf_counter() - start


class StackSteps:
    """Epochs of a stack whose networks differ in their examples and their order.

    `rows`, (N, K_1 + n_L), are all examples in the row layout of a workspace without weights.
    """

    def __init__(self, group: Sequence[StackedFit], rows: Array) -> None:
        self.network, self.rows = stack([member.network for member in group]), rows
        self.targets = contiguous_columns(rows, rows.shape[1] - self.network.sizes[-1])
        self.loss = group[0].estimator._loss
        self.alpha = np.array([float(member.estimator.alpha) for member in group])
        constant = group[0].estimator.solver == "adam" or all(
            member.estimator.learning_rate == "constant" for member in group
        )
        self._rates_differ = not constant or len({member.learning_rate for member in group}) > 1
        rates = self._rates(group)
        optimizer = dataclasses.replace(group[0].optimizer, learning_rate=rates)
        self._set_l2(np.full(len(group), group[0].batch_size))
        self.runner = StepRunner(
            self.network, optimizer, executor=_executor(group[0], self.network, len(group))
        )

    def _rates(self, group: Sequence[StackedFit]) -> Any:
        if not self._rates_differ:
            return group[0].learning_rate
        return tuple(member.learning_rate for member in group)

    def _set_l2(self, totals: Host) -> None:
        """Divide the penalties by the sums of a batch's weights, one for each network."""
        self.network.l2 = self.alpha / totals if self.alpha.any() else 0.0

    def views(self, running: Sequence[StackedFit]) -> list[Network]:
        """Views of the stack's networks, which the estimators score with."""
        found = [self.network[p] for p in range(len(running))]
        for member, view in zip(running, found, strict=True):
            member.estimator.network_ = view
        return found

    def narrow(self, left: Host) -> None:
        """Continue with some of the networks."""
        self.runner, self.alpha = self.runner.take(left), self.alpha[left]
        assert isinstance(self.runner.model, Network)
        self.network = self.runner.model

    def epoch(self, running: Sequence[StackedFit]) -> Host:
        """Steps on all examples of each network; return the average losses, (P,)."""
        P, S, m = len(running), running[0].steps, running[0].batch_size
        rests = np.array([member.rest for member in running])
        full, rest = (S - 1) * m, int(rests.max())
        shape = P, full + rest
        # a shorter last batch is padded with examples of weight 0
        numbers, weights = np.empty(shape, np.int64), np.zeros(shape)
        for p, member in enumerate(running):
            order = member.order = rules.shuffled(member.estimator, member.order)
            n = len(order)
            numbers[p, :n], numbers[p, n:] = member.numbers[order], member.numbers[0]
            weights[p, :n] = 1.0 if member.weights is None else member.weights[order]
        weighted, even = running[0].weights is not None, bool((rests == rest).all())
        if even and rest == m:
            full, rest = full + rest, 0
        rates = self._rates(running)
        total = np.zeros(P)
        if full:
            part = _in_steps(numbers[:, :full], m), _in_steps(weights[:, :full], m)
            total += self._run(m, part, np.full(P, m), rates, weighted)
        if rest:
            part = _in_steps(numbers[:, full:], rest), _in_steps(weights[:, full:], rest)
            total += self._run(rest, part, rests, rates, weighted or not even)
        return total / [len(member.order) for member in running]

    def _run(self, m: int, part: tuple[Host, Host], counts: Host, rates: Any, weighted: bool) -> Host:
        """Steps of one batch size; return the sums of the losses of their examples, (P,).

        `part` are indices of examples and their weights, (steps, P, m); in each step the first
        `counts`, (P,), are a network's, and the rest is padding.
        """
        numbers, weights = part
        net, xp = self.network, self.network.backend.xp
        totals = weights.sum(axis=-1) if weighted else np.full(weights.shape[:2], float(m))
        self._set_l2(totals[0])
        shares = weights * (m / totals[..., None]) if weighted else None
        indices: Any = net.backend.asarray(numbers.reshape(len(numbers), -1), "int64")
        penalties = np.zeros(totals.shape[1])
        penalized = bool(self.alpha.any())

        def load(step: int, rows: Array) -> None:
            net.backend.take(self.rows, indices[step, ...], rows[:, : self.rows.shape[1]])
            if shares is not None:
                rows[:, -1] = net.backend.asarray(shares[step].ravel(), net.dtype)
                self._set_l2(totals[step])
                plan.learning_rate = rates
            if penalized:
                penalties[...] += net.l2 * _squares(net)

        plain = shares is None and not penalized
        gather = partial(net.backend.take, self.rows)
        per_network = "inputs", "targets", *(["weights"] if weighted else [])
        found = np.zeros(totals.shape[1])
        elements = totals.shape[1] * net.sizes[-1] * m
        count = min(READBACK_STEPS, max(1, READBACK_ELEMENTS // elements))
        for start in range(0, len(numbers), count):
            stop = min(start + count, len(numbers))
            some = indices[start:stop, ...]
            factors = None if shares is None else net.backend.asarray(shares[start:stop], net.dtype)
            chunk = Chunk(
                m,
                weighted,
                Entries(some) if plain else range(start, stop),
                gather if plain else load,
                partial(self._outcomes, some, m, factors),
                self.rows if plain else None,
                per_network=per_network,
            )
            if start == 0:
                plan = self.runner.plan(chunk)[0]
                plan.learning_rate = rates
            losses = self.loss(*self.runner.outputs(chunk))
            found += net.backend.to_float(xp.sum(losses, axis=(0, -1), dtype=xp.float64))
        return counts / m * found + counts / 2 * penalties

    def _outcomes(self, indices: Array, m: int, shares: Array | None) -> tuple[Array, Array | None]:
        """Targets of batches, (steps, P, n_L, m), and their weights."""
        xp, n = self.network.backend.xp, self.network.sizes[-1]
        taken = xp.take(self.targets, xp.reshape(indices, (-1,)), axis=0)
        return xp.reshape(taken, (indices.shape[0], -1, m, n)).mT, shares


def _in_steps(x: Host, m: int) -> Host:
    """(P, steps m) as (steps, P, m)."""
    return x.reshape(len(x), -1, m).swapaxes(0, 1)


def _squares(network: Network) -> Any:
    """Σ w² over the weights of each network."""
    xp, parameters, backend = network.backend.xp, network.parameters, network.backend
    total: Any = 0.0
    for block, b in zip(parameters.blocks, parameters.biases, strict=True):
        flat, biases = xp.reshape(block, (block.shape[0], -1)), b[..., 0]
        total = total + xp.vecdot(flat, flat) - xp.vecdot(biases, biases)
    return backend.to_float(total)
