"""A step on the device: kernels and products, captured once as a CUDA graph and then replayed.

Whatever differs from step to step is in device memory: learning rate, counts of steps, the indices of a
batch's examples and the number of the step. A replay needs no data from the host and waits for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call, Replay
from bpengine.backends.base import warn_once
from bpengine.backends.cupy.device import Device
from bpengine.backends.cupy.lowering import Lowering
from bpengine.backends.cupy.random import advance, packed_state
from bpengine.backends.program import Batches, Slices

__all__ = ["CUDAProgram"]

STEPS = 8  # in one graph, where a step is short
SHORT = 2**32  # floating-point operations of a step up to which it is


class CUDAProgram:
    """A program that is replayed as a graph from its second step on.

    Parameters
    ----------
    device : Device
    calls : sequence of (function, operands)
        The step.
    lowering : Lowering
        Where the calls are from; it keeps their arrays alive.
    keep_alive : object
        What else kernels and graphs hold addresses of.
    capturable : bool
        Whether all calls may be captured, as far as is known in advance.
    flops : int
        Of a step.
    """

    def __init__(
        self,
        device: Device,
        calls: Sequence[Call],
        lowering: Lowering,
        keep_alive: object,
        capturable: bool,
        flops: int,
    ) -> None:
        self._device, self.calls = device, calls
        self._lowering, self._keep_alive = lowering, keep_alive
        self._capturable = capturable
        self._many = STEPS if flops <= SHORT else 1
        self._warm = False
        self._graphs: dict[int, Any] = {}
        self._batched: list[BatchedProgram] = []
        self._library: object = None

    def run(self, steps: int) -> None:
        """Run the step `steps` times; the work is queued on the current stream."""
        if not self.calls or not steps:
            return
        self._device.enter()
        self._send_random_state()
        steps_taken = [0]
        try:
            if self._capturable and not self._warm:
                # the first step loads kernels and initializes cuBLAS, which a capture does not allow
                self._call(self.calls, steps_taken)
                self._warm = True
            self._replay(self.calls, self._graphs, steps - steps_taken[0], steps_taken)
        finally:
            self._advance_random_state(steps_taken[0])

    def run_batches(self, batches: Batches, steps_taken: list[int]) -> None:
        """A step on each of some batches, which the device gathers where it can."""
        count = len(batches.batches)
        if not count:
            return
        self._device.enter()
        batched = self._batched_for(batches) if self._capturable and self.calls else None
        if batched is None:
            self._step_by_step(batches, steps_taken)
            return
        batched.start(batches)
        self._send_random_state()
        before = steps_taken[0]
        try:
            if not batched.warm:
                self._call(batched.calls, steps_taken)
                self._warm = batched.warm = True
            self._replay(batched.calls, batched.graphs, before + count - steps_taken[0], steps_taken)
        finally:
            self._advance_random_state(steps_taken[0] - before)

    def _step_by_step(self, batches: Batches, steps_taken: list[int]) -> None:
        for batch, slot in zip(batches.batches, batches.slots, strict=False):
            if batches.settings is not None:
                batches.settings.set(steps_taken[0])
            batches.load(batch, batches.rows)
            self.run(1)
            steps_taken[0] += 1
            slot[...] = batches.output

    def _batched_for(self, batches: Batches) -> BatchedProgram | None:
        found = next((x for x in self._batched if x.batches.same_arrays(batches)), None)
        if found is None:
            found = BatchedProgram(self._device, batches, self.calls, self._lowering)
            # prefetched examples alternate between two buffers
            self._batched = [*self._batched[-1:], found]
        return found if found.calls else None

    def _replay(
        self, calls: Sequence[Call], graphs: dict[int, Any], steps: int, steps_taken: list[int]
    ) -> None:
        """Launch graphs of many steps, then of one, until all steps are queued."""
        while steps and self._capturable:
            count = self._many if steps >= self._many else 1
            if count not in graphs:
                graphs[count] = self._captured(calls, count)
                continue
            graph, _ = graphs[count]
            graph.launch()
            steps_taken[0] += count
            steps -= count
        for _ in range(steps):
            self._call(calls, steps_taken)

    def _call(self, calls: Sequence[Call], steps_taken: list[int]) -> None:
        """A step without a graph."""
        self._library = self._device.enter_library()  # must stay alive while its work is queued
        Replay(calls).run(1)
        steps_taken[0] += 1

    def _captured(self, calls: Sequence[Call], steps: int) -> Any:
        """Some steps as a graph, with what it works on; None where a call can't be captured."""
        try:
            return self._device.capture(functools.partial(Replay(calls).run, steps))
        except Exception as error:
            self._capturable = False
            warn_once(
                "a step can't be captured as a CUDA graph, and is replayed call by call: "
                f"{type(error).__name__}: {error}"
            )
            return None

    def _send_random_state(self) -> None:
        lowering = self._lowering
        if lowering.random is not None:
            state = packed_state(lowering.random)
            lowering.state[...] = self._device.asarray(state.view(np.int64), "int64")

    def _advance_random_state(self, steps: int) -> None:
        """Advance the host's generator by what the device has drawn."""
        lowering = self._lowering
        if lowering.random is not None:
            advance(lowering.random, steps * lowering.drawn, lowering.halves)


class BatchedProgram:
    """A step that also loads its batch and stores its output; without calls where it can't."""

    def __init__(
        self, device: Device, batches: Batches, step: Sequence[Call], lowering: Lowering
    ) -> None:
        self.warm = False
        self.calls: list[Call] = []
        self.graphs: dict[int, Any] = {}
        self._device, self.batches = device, batches
        count, m = len(batches.slots), int(batches.rows.shape[0])
        self._numbers, self._at = (device.empty((n,), "int64") for n in (count * m, 2))
        self._start = device.asarray(np.zeros(2, np.int64), "int64")
        numbers, at = map(device.view, (self._numbers, self._at))
        around = lowering.batches(batches, numbers, at)
        if around is None or not isinstance(batches.batches, Slices):
            return
        load, store = map(device.as_call, around)
        self.calls = [load, *step, store]
        if batches.settings is not None:
            targets = batches.settings.targets
            self._table = device.empty((count, len(targets)), device.view(targets[0]).dtype)
            places = np.array([device.view(x).address for x in targets], np.int64)
            self._targets = device.asarray(places, "int64")
            launch = lowering.settings(self._table, self._targets, len(targets), at)
            self.calls.insert(0, device.as_call(launch))

    def start(self, batches: Batches) -> None:
        """Begin with the first of some batches and with the first slot."""
        assert isinstance(batches.batches, Slices)
        numbers = batches.batches.whole
        self._numbers[: numbers.shape[0]] = numbers
        self._at[...] = self._start
        if batches.settings is not None:
            dtype = self._device.view(self._table).dtype
            values = self._device.asarray(batches.settings.values, dtype)
            self._table[: values.shape[0], :] = values
