"""A step on the device: kernels and products, captured once as a CUDA graph and then replayed.

Whatever differs from step to step is in device memory: learning rate, counts of steps, the indices of a
batch's examples and the number of the step. A replay needs no data from the host and waits for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bpengine.backends.array_api import Call, repeat
from bpengine.backends.base import warn_once
from bpengine.backends.cupy.device import Device
from bpengine.backends.cupy.lowering import Lowering
from bpengine.backends.cupy.proof import Proof, Step, rounded, structure, trusted
from bpengine.backends.cupy.random import advance, packed_state
from bpengine.backends.operation import Array, Operation
from bpengine.backends.program import Batches, Slices

__all__ = ["REPORT", "CUDAProgram"]

STEPS = 8  # in one graph, where a step is short
SHORT = 2**32  # floating-point operations of a step up to which it is
CALLS = 0  # in place of the number of steps in a graph: call by call
ATTEMPTS = 2  # until what fails is given up
REPORT = (
    "The results are right, but it takes longer. Please report it to bpengine's issue tracker, with "
    "this message and the output of `python -m bpengine doctor`"
)


class CaptureError(Exception):
    """A step can't be captured."""


class CUDAProgram:
    """A program that is replayed as a graph from its second step on.

    The first step of a new structure, and the first replay of its graph, are compared with the
    expressions.

    Parameters
    ----------
    device : Device
    operations : sequence of Operation
    calls, expressions : sequence of (function, operands)
        The step by kernels and products, and by the operations' expressions.
    lowering : Lowering
        Where the calls are from; it keeps their arrays alive.
    keep_alive : object
        What else kernels and graphs hold addresses of.
    capturable : bool
        Whether all calls may be captured, as far as is known in advance.
    custom : bool
        Whether operations are custom functions, which their names and shapes don't describe.
    """

    def __init__(
        self,
        device: Device,
        operations: Sequence[Operation],
        calls: Sequence[Call],
        expressions: Sequence[Call],
        lowering: Lowering,
        keep_alive: object,
        capturable: bool,
        custom: bool,
    ) -> None:
        self._device, self.calls = device, calls
        self._operations, self._expressions = operations, expressions
        self._lowering, self._keep_alive = lowering, keep_alive
        self._capturable, self._custom = capturable, custom
        self._many = STEPS if sum(op.flops for op in operations) <= SHORT else 1
        self._loaded = Form(calls)
        self._batched: list[BatchedForm] = []
        self._library: object = None
        self._workspace: Any = None
        self._distrusted = False
        # what is known of programs of the same structure
        self._proven: set[Any] = set() if custom else device.proven
        self._failures: dict[Any, int] = {} if custom else device.failures

    @functools.cached_property
    def _structure(self) -> object:
        return None if self._custom else structure(self._device, self._operations)

    @functools.cached_property
    def _proof(self) -> Proof:
        return Proof(self._device, self._operations)

    def run(self, steps: int) -> None:
        """Run the step `steps` times; the work is queued on the current stream."""
        if self.calls:
            self._device.enter()
            self._take(self._loaded, steps, [0])

    def run_batches(self, batches: Batches, steps_taken: list[int]) -> None:
        """A step on each of some batches, which the device gathers where it can."""
        count = len(batches.batches)
        if not count:
            return
        self._device.enter()
        batched = self._batched_for(batches) if self._capturable and self.calls else None
        if batched is not None:
            batched.start(batches)
            self._take(batched, count, steps_taken)
        self._step_by_step(batches, steps_taken)

    def _step_by_step(self, batches: Batches, steps_taken: list[int]) -> None:
        """The steps that are left."""
        for step in range(steps_taken[0], len(batches.batches)):
            if batches.settings is not None:
                batches.settings.set(step)
            batches.load(batches.batches[step], batches.rows)
            self.run(1)
            steps_taken[0] += 1
            batches.slots[step][...] = batches.output

    def forget_batches(self) -> None:
        """Drop the forms that load them."""
        self._batched = []

    def _batched_for(self, batches: Batches) -> BatchedForm | None:
        found = next((x for x in self._batched if x.batches.same_arrays(batches)), None)
        if found is None:
            found = BatchedForm(self._device, batches, self.calls, self._lowering)
            # prefetched examples alternate between two buffers
            self._batched = [*self._batched[-1:], found]
        return found if found.calls else None

    def _take(self, form: Form, steps: int, taken: list[int]) -> None:
        """Take steps: by graphs of many steps, then of one, once these are ready.

        Fewer where a form that loads its batches fails.
        """
        first, end = taken[0], taken[0] + steps
        while (left := end - taken[0]) > 0 and (self._capturable or form is self._loaded):
            at = taken[0] - first
            if self._distrusted:
                self._by_expressions(form, at, 1)
                taken[0] += 1
                continue
            kind = self._kind(form, left)
            if kind not in form.runs:
                taken[0] += self._begin(form, kind, at)
                continue
            with self._drawing(taken):
                for _ in range(left // (kind or 1)):
                    form.runs[kind]()
                    taken[0] += kind or 1

    def _kind(self, form: Form, left: int) -> int:
        """The number of steps in the next graph, or `CALLS`."""
        # the first step loads kernels and initializes cuBLAS, which a capture does not allow
        if CALLS not in form.runs or not self._capturable:
            return CALLS
        return self._many if left >= self._many else 1

    def _begin(self, form: Form, kind: int, at: int) -> int:
        """The first steps of a kind, by the expressions too if it is new; returns their number."""
        key, count = (self._structure, form.key, kind), kind or 1
        if self._failures.get(key, 0) >= ATTEMPTS:
            self._give_up(form, kind)
            return 0
        prepare = functools.partial(self._prepared, form, kind)
        first = functools.partial(self._first, form, at, count)
        wrong: Exception | str | None = ""
        try:
            if key in self._proven or trusted():
                run = prepare()
                first(run)
            else:
                expressions = functools.partial(self._by_expressions, form, at, count)
                outputs, ends = form.outputs(at, count), functools.partial(self._ends, form, at + count)
                nearby = functools.partial(expressions, np.random.default_rng(0))
                run, wrong = self._proof.compare(
                    expressions, nearby, prepare, first, outputs, ends, alter=kind != CALLS
                )
        except CaptureError as error:
            self._fail(form, key, kind, error)
            return 0
        if wrong == "":
            self._proven.add(key)
            form.runs[kind] = run
        else:
            form.seek(at + count)
            if wrong is not None:
                self._fail(form, key, kind, wrong)
        return count

    def _first(self, form: Form, at: int, count: int, run: Step) -> None:
        taken = [0]
        form.seek(at)
        with self._drawing(taken):
            run()
            taken[0] = count

    def _ends(self, form: Form, step: int) -> list[tuple[Array, np.ndarray[Any, Any]]]:
        """The counters on the device before a step, and the state of its generator."""
        lowering = self._lowering
        if lowering.random is None:
            return form.counters(step)
        state = packed_state(lowering.random).view(np.int64)
        return [*form.counters(step), (lowering.state, state)]

    def _prepared(self, form: Form, kind: int) -> Step:
        """Steps call by call, or captured as a graph."""
        if kind == CALLS:
            return functools.partial(self._call, form.calls)
        steps = functools.partial(repeat, form.calls, kind)
        try:
            if self._workspace is None and self._device.library is not None:
                self._workspace = self._device.library.workspace()
            return self._device.capture(steps, self._workspace).launch
        except Exception as error:
            raise CaptureError(f"{type(error).__name__}: {error}") from error

    def _call(self, calls: Sequence[Call]) -> None:
        """A step without a graph."""
        self._library = self._device.enter_library()  # must stay alive while its work is queued
        repeat(calls, 1)

    def _by_expressions(
        self, form: Form, at: int, count: int, rng: np.random.Generator | None = None
    ) -> None:
        """Steps without kernels; with `rng`, results are rounded once more."""
        device, tf32 = self._device, self._device.precision == "tf32"
        for step in range(at, at + count):
            form.load(step)
            for op, (function, operands) in zip(self._operations, self._expressions, strict=True):
                function(*operands)
                if rng is not None:
                    values = rounded(device.to_numpy(op.output), tf32 and op.name == "matmul", rng)
                    op.output[...] = device.asarray(values, values.dtype.name)
            form.store(step)

    def _fail(self, form: Form, key: object, kind: int, wrong: Exception | str) -> None:
        """Note a failure, and give up the kind after some."""
        failures = self._failures
        failures[key] = failures.get(key, 0) + 1
        if failures[key] < ATTEMPTS:
            return
        self._give_up(form, kind)
        if isinstance(wrong, CaptureError):
            warn_once(f"a step can't be captured as a CUDA graph, and is replayed call by call: {wrong}")
            return
        if isinstance(wrong, Exception):
            wrong = f"{type(wrong).__name__}: {wrong}"
        reported = "reported", self._structure
        if reported in failures:
            return
        failures[reported] = 1
        what = "CUDA kernels" if kind == CALLS else "CUDA graph"
        names = ", ".join(dict.fromkeys(op.name for op in self._operations))
        self._device.distrust(
            f"the {what} of a step did not compute what its operations do, and are not used for such "
            f"steps. {REPORT}: {wrong}; operations: {names}"
        )

    def _give_up(self, form: Form, kind: int) -> None:
        self._distrusted |= kind == CALLS and form is self._loaded
        self._capturable = False

    @contextmanager
    def _drawing(self, taken: list[int]) -> Iterator[None]:
        """Send the generator's state to the device, and advance it by what the device has drawn."""
        lowering, before = self._lowering, taken[0]
        if lowering.random is None:
            yield
            return
        state = packed_state(lowering.random)
        lowering.state[...] = self._device.asarray(state.view(np.int64), "int64")
        try:
            yield
        finally:
            advance(lowering.random, (taken[0] - before) * lowering.drawn, lowering.halves)


class Form:
    """A step as calls, and as graphs of steps, once these are ready.

    Parameters
    ----------
    calls : sequence of (function, operands)

    Attributes
    ----------
    runs : dict of callables
        By the number of steps in a graph, or `CALLS`.
    key : object
        What graphs have in common with others of the same structure.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.runs: dict[int, Step] = {}
        self.key: object = None

    def seek(self, step: int) -> None:
        """Go on with the step of a number."""

    def counters(self, step: int) -> list[tuple[Array, np.ndarray[Any, Any]]]:
        """What counts steps on the device, and its values before a step."""
        return []

    def load(self, step: int) -> None:
        """What precedes the step of a number, without kernels."""

    def store(self, step: int) -> None:
        """What follows it."""

    def outputs(self, at: int, count: int) -> list[Array]:
        """Where some steps store their outputs."""
        return []


class BatchedForm(Form):
    """A step that also loads its batch and stores its output; without calls where it can't."""

    def __init__(
        self, device: Device, batches: Batches, step: Sequence[Call], lowering: Lowering
    ) -> None:
        super().__init__([])
        self._device, self.batches = device, batches
        count, m = len(batches.slots), int(batches.rows.shape[0])
        self._numbers, self._at = (device.empty((n,), "int64") for n in (count * m, 2))
        numbers, at = map(device.view, (self._numbers, self._at))
        around = lowering.batches(batches, numbers, at)
        if around is None or not isinstance(batches.batches, Slices):
            return
        load, store = map(device.as_call, around)
        self.calls = [load, *step, store]
        shapes = batches.examples, batches.rows, batches.output, batches.slots.whole  # type: ignore[attr-defined]
        self.key = *(device.view(x)[1:] for x in shapes), batches.settings is None
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
        self.batches, numbers = batches, batches.batches.whole
        self._numbers[: numbers.shape[0]] = numbers
        self.seek(0)
        if batches.settings is not None:
            dtype = self._device.view(self._table).dtype
            values = self._device.asarray(batches.settings.values, dtype)
            self._table[: values.shape[0], :] = values

    def seek(self, step: int) -> None:
        """Go on with the batch and the slot of a number."""
        self._at[...] = self._device.asarray(np.full(2, step), "int64")

    def counters(self, step: int) -> list[tuple[Array, np.ndarray[Any, Any]]]:
        """The numbers of the next step and of the last one."""
        return [(self._at, np.array([step, step - 1]))]

    def load(self, step: int) -> None:
        """Set the step's scalars, and copy its batch."""
        batches = self.batches
        if batches.settings is not None:
            batches.settings.set(step)
        numbers = batches.batches[step]
        batches.rows[...] = self._device.xp.take(batches.examples, numbers, axis=0)

    def store(self, step: int) -> None:
        """Copy its output."""
        self.batches.slots[step][...] = self.batches.output

    def outputs(self, at: int, count: int) -> list[Array]:
        """The slots of some steps."""
        return [self.batches.slots[i] for i in range(at, at + count)]
