"""A step on the device: kernels and products, captured once as a CUDA graph and then replayed.

Whatever differs from step to step is in device memory: learning rate, counts of steps, the numbers of a
batch's examples and which step it is. A replay is given nothing by the host and waits for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call, Replay
from bpengine.backends.base import warn_once
from bpengine.backends.cupy.device import Device
from bpengine.backends.cupy.lowering import Maker
from bpengine.backends.cupy.random import advance, words
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
    maker : Maker
        What made them, and keeps what they work on.
    keep : object
        What has to stay besides: kernels and graphs hold addresses alone.
    capturable : bool
        Whether all calls may be captured, as far as is known beforehand.
    flops : int
        Of a step.
    """

    def __init__(
        self,
        device: Device,
        calls: Sequence[Call],
        maker: Maker,
        keep: object,
        capturable: bool,
        flops: int,
    ) -> None:
        self._device, self.calls = device, calls
        self._maker, self._keep = maker, keep
        self._capturable = capturable
        self._many = STEPS if flops <= SHORT else 1
        self._warm = False
        self._graphs: dict[int, Any] = {}
        self._gatherings: list[_Gathering] = []
        self._library: object = None

    def run(self, steps: int) -> None:
        """Run the step `steps` times; the work is queued on the current stream."""
        if not self.calls or not steps:
            return
        self._device.enter()
        self._begin()
        taken = [0]
        try:
            if self._capturable and not self._warm:
                # the first step loads kernels and makes cuBLAS ready, which no capture may
                self._plainly(self.calls, taken)
                self._warm = True
            self._replay(self.calls, self._graphs, steps - taken[0], taken)
        finally:
            self._end(taken[0])

    def run_batches(self, batches: Batches, taken: list[int]) -> None:
        """A step on each of some batches, which the device gathers itself where it can."""
        count = len(batches.batches)
        if not count:
            return
        self._device.enter()
        gathering = self._gathering_for(batches) if self._capturable and self.calls else None
        if gathering is None:
            self._step_by_step(batches, taken)
            return
        gathering.start(batches)
        self._begin()
        before = taken[0]
        try:
            if not gathering.warm:
                self._plainly(gathering.calls, taken)
                self._warm = gathering.warm = True
            self._replay(gathering.calls, gathering.graphs, before + count - taken[0], taken)
        finally:
            self._end(taken[0] - before)

    def _step_by_step(self, batches: Batches, taken: list[int]) -> None:
        for batch, slot in zip(batches.batches, batches.slots, strict=False):
            if batches.settings is not None:
                batches.settings.set(taken[0])
            batches.load(batch, batches.rows)
            self.run(1)
            taken[0] += 1
            slot[...] = batches.output

    def _gathering_for(self, batches: Batches) -> _Gathering | None:
        found = next((each for each in self._gatherings if each.serves(batches)), None)
        if found is None:
            found = _Gathering(self._device, batches, self.calls, self._maker)
            # examples that are streamed come from two buffers in turn
            self._gatherings = [*self._gatherings[-1:], found]
        return found if found.calls else None

    def _replay(
        self, calls: Sequence[Call], graphs: dict[int, Any], steps: int, taken: list[int]
    ) -> None:
        """Launch graphs of many steps, then of one, until all steps are queued."""
        while steps and self._capturable:
            count = self._many if steps >= self._many else 1
            if count not in graphs:
                graphs[count] = self._captured(calls, count)
                continue
            graph, _ = graphs[count]
            graph.launch()
            taken[0] += count
            steps -= count
        for _ in range(steps):
            self._plainly(calls, taken)

    def _plainly(self, calls: Sequence[Call], taken: list[int]) -> None:
        """A step call by call."""
        self._library = self._device.enter_library()  # has to stay as long as its work is under way
        Replay(calls).run(1)
        taken[0] += 1

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

    def _begin(self) -> None:
        """Give the device the generator's state."""
        maker = self._maker
        if maker.random is not None:
            state = words(maker.random)
            maker.state[...] = self._device.asarray(state.view(np.int64), "int64")

    def _end(self, steps: int) -> None:
        """Let the host's generator go on from where the device's is."""
        maker = self._maker
        if maker.random is not None:
            advance(maker.random, steps * maker.drawn, maker.halves)


class _Gathering:
    """A step that loads its batch and keeps its output itself; without calls where it can't."""

    def __init__(self, device: Device, batches: Batches, step: Sequence[Call], maker: Maker) -> None:
        self.warm = False
        self.calls: list[Call] = []
        self.graphs: dict[int, Any] = {}
        self._device, self._batches = device, batches
        count, m = len(batches.slots), int(batches.rows.shape[0])
        self._numbers, self._at = (device.empty((n,), "int64") for n in (count * m, 2))
        self._start = device.asarray(np.zeros(2, np.int64), "int64")
        numbers, at = map(device.view, (self._numbers, self._at))
        around = maker.batches(batches, numbers, at)
        if around is None or not isinstance(batches.batches, Slices):
            return
        load, keep = map(device.as_call, around)
        self.calls = [load, *step, keep]
        if batches.settings is not None:
            targets = batches.settings.targets
            self._table = device.empty((count, len(targets)), device.view(targets[0]).dtype)
            places = np.array([device.view(x).address for x in targets], np.int64)
            self._targets = device.asarray(places, "int64")
            launch = maker.settings(self._table, self._targets, len(targets), at)
            self.calls.insert(0, device.as_call(launch))

    def serves(self, other: Batches) -> bool:
        """Whether other batches come from the same array, and go to the same."""
        own, its = self._batches, other
        if own.settings is not None and its.settings is not None:
            alike = own.settings.targets is its.settings.targets
        else:
            alike = own.settings is its.settings
        names = "examples", "rows", "output", "slots"
        return alike and all(getattr(own, name) is getattr(its, name) for name in names)

    def start(self, batches: Batches) -> None:
        """Begin with the first of some batches and with the first slot."""
        assert isinstance(batches.batches, Slices)
        numbers = batches.batches.whole
        self._numbers[: numbers.shape[0]] = numbers
        self._at[...] = self._start
        if batches.settings is not None:
            values = self._device.asarray(batches.settings.values, self._device.view(self._table).dtype)
            self._table[: values.shape[0], :] = values
