"""Compares a step by kernels, or of a graph, with the step by its expressions.

Both start from the same parameters, optimizer state, batch and random numbers. The results are compared
on the host, so that the device needs no memory for copies.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bpengine.backends.cupy.device import Device
from bpengine.backends.cupy.elementwise import View
from bpengine.backends.operation import Array, Operation

__all__ = ["Proof", "Step", "agree", "rounded", "structure", "trusted"]

TRUST = "BPENGINE_TRUST"
TF32 = 2.0**-10  # relative rounding of a factor
NOISE = 2**6  # roundings of the largest number in a step, of which sums that cancel may consist
# part of the entries that may differ by more: where a gradient is 0 but for rounding, Adam makes a whole
# step of it
FLIPS = 1e-5
UNNECESSARY = (
    f" in a first step, which is computed without kernels too, for comparison: {TRUST}=1 skips that"
)

Step = Callable[[], object]
Snapshot = list[np.ndarray[Any, Any]]


def trusted() -> bool:
    """Whether the user wants no comparison."""
    return os.environ.get(TRUST) == "1"


def structure(device: Device, operations: Sequence[Operation]) -> tuple[Any, ...]:
    """What operations have in common with others of the same names, shapes and relations of arrays."""
    numbers: dict[int, int] = {}

    def described(x: Array) -> tuple[Any, ...]:
        view = device.view(x)
        return numbers.setdefault(view.address, len(numbers)), *view[1:]

    return tuple((op.name, *map(described, (*op.inputs, op.output, *op.state))) for op in operations)


class Compared(NamedTuple):
    """An array that is compared."""

    array: Array
    what: str
    given: bool  # whether a step reads it, or a part, as it was before
    written: bool
    updated: bool  # whether it is read, and written by a later operation
    parts: tuple[slice, ...]  # of the flat array, which are compared alone


class Proof:
    """The arrays of a step by which it is judged.

    They are those that it changes for the next step, those that nothing in it reads afterwards, and
    those that it must not change, such as the row of ones beside activations. Later operations read all
    others, whose errors so show in these.

    Parameters
    ----------
    device : Device
    operations : sequence of Operation
    """

    def __init__(self, device: Device, operations: Sequence[Operation]) -> None:
        self._device, self.compared = device, compared(device, operations)
        rngs = (rng for op in operations for rng in generators(op))
        self._rngs = list({id(rng): rng for rng in rngs}.values())

    def compare(
        self,
        expressions: Step,
        nearby: Step,
        prepare: Callable[[], Step],
        take: Callable[[Step], None],
        outputs: Sequence[Array] = (),
        ends: Callable[[], Sequence[tuple[Array, np.ndarray[Any, Any]]]] = list,
        alter: bool = False,
    ) -> tuple[Step, Exception | str | None]:
        """Take steps by the expressions, and then from the same start in another way.

        Where the other way fails or differs, arrays and random numbers are left as the expressions gave
        them. Where there is none, because `prepare` fails, nothing is changed and its error is raised.

        Parameters
        ----------
        expressions, nearby : callable
            `nearby` are the expressions with results that are `rounded` once more.
        prepare : callable
            Makes the other way.
        take : callable
            Called with what `prepare` returns.
        outputs : sequence of arrays
            Arrays to compare besides those of the operations.
        ends : callable
            Called after the expressions: arrays that only the other way writes, and what they must be.
        alter : bool
            Whether `prepare` is called while the arrays of a training step have other values: none that
            is to be read in later steps may be that of the moment.

        Returns
        -------
        tuple of callable and Exception, str or None
            What `prepare` returned, and what is wrong with it: empty if nothing is, None if the results
            are not finite and don't show it.
        """
        compared = [
            *self.compared,
            *(Compared(x, "the stored output", False, False, False, ()) for x in outputs),
        ]
        given = [x for x in compared if x.given]
        # a step that updates nothing reads parameters which other threads may use: these are neither
        # altered nor compared nor restored
        training = any(x.updated for x in given)
        before, drawn = self._copies(given), self._random()
        wrong: Exception | str | None = ""
        try:
            with self._device.memory_errors(UNNECESSARY):
                expressions()
            expected, after = self._copies(compared), self._random()
            counters = ends()
            alter = alter and training
            if alter:
                self._write(given, [(x * 0.5).astype(x.dtype) for x in before], drawn)
            run = prepare()
            try:
                self._write(given, before, drawn, all_of_them=alter)
                take(run)
                found = self._copies(compared)
            except Exception as error:
                wrong = error
            else:
                starts = iter(before)
                start = [next(starts) if x.given else None for x in compared]
                differences = functools.partial(
                    self._differences, compared, found, expected, start, training
                )
                wrong = differences()
                if wrong:  # where sums cancel, nothing but rounding may be left
                    self._write(given, before, drawn, all_of_them=training)
                    nearby()
                    wrong = differences(self._copies(compared))
                    self._write(compared, expected, after, all_of_them=training)
                if not all(np.array_equal(self._device.to_numpy(x), end) for x, end in counters):
                    wrong = wrong or "the next step is not that which follows"
            changes = (y for x, y in zip(compared, expected, strict=True) if x.written)
            if not all(np.isfinite(y).all() for y in changes):
                wrong = None  # where numbers overflow depends on their order
            if wrong != "":
                self._write(compared, expected, after, all_of_them=training)
        except BaseException:
            self._write(given, before, drawn, all_of_them=training)
            raise
        return run, wrong

    @np.errstate(all="ignore")
    def _differences(
        self,
        compared: Sequence[Compared],
        found: Snapshot,
        expected: Snapshot,
        start: Sequence[Any],
        all_of_them: bool,
        nearby: Sequence[Any] = (),
    ) -> str:
        tf32 = self._device.precision == "tf32"
        largest = max((float(np.nan_to_num(np.abs(x)).max(initial=0)) for x in expected), default=0.0)
        for i, x in enumerate(compared):
            if not (all_of_them or x.written):
                continue
            for part in x.parts or (slice(None),):
                a, b = found[i].reshape(-1)[part], expected[i].reshape(-1)[part]
                first = start[i] if start[i] is None else start[i].reshape(-1)[part]
                noise = 0.0
                if nearby and b.dtype.kind == "f":  # errors of a custom function may be larger
                    noise = min(
                        _rms(nearby[i].reshape(-1)[part] - b),
                        NOISE * unit_of_rounding(b, tf32) * largest,
                    )
                if not agree(a, b, first, tf32, noise):
                    off = np.abs(a - b).max()
                    return f"{x.what} of shape {tuple(x.array.shape)} differs by up to {off:.3g}"
        return ""

    def _copies(self, compared: Sequence[Compared]) -> Snapshot:
        return [np.array(self._device.to_numpy(x.array)) for x in compared]

    def _random(self) -> list[Any]:
        return [rng.bit_generator.state for rng in self._rngs]

    def _write(
        self,
        compared: Sequence[Compared],
        values: Snapshot,
        states: Sequence[Any],
        all_of_them: bool = True,
    ) -> None:
        for x, value in zip(compared, values, strict=True):
            if not (all_of_them or x.written):
                continue
            if self._device.to_numpy(x.array).tobytes() != value.tobytes():
                x.array[...] = self._device.asarray(value, value.dtype.name)
        for rng, state in zip(self._rngs, states, strict=True):
            rng.bit_generator.state = state


def generators(op: Operation) -> list[np.random.Generator]:
    """What an operation draws from."""
    rngs = getattr(op.expression, "rngs", [getattr(op.expression, "rng", None)])
    return [rng for rng in rngs if rng is not None]


def unit_of_rounding(x: np.ndarray[Any, Any], tf32: bool) -> float:
    """The relative rounding of a number in the products of a step."""
    return TF32 if tf32 and x.dtype == "float32" else float(np.finfo(x.dtype).eps)


@np.errstate(all="ignore")
def rounded(x: np.ndarray[Any, Any], tf32: bool, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Numbers with errors of some roundings, up or down."""
    if x.dtype.kind != "f":
        return x
    errors = 16 * unit_of_rounding(x, tf32) * rng.choice((-1, 1), x.shape)
    found: np.ndarray[Any, Any] = (x * (1 + errors)).astype(x.dtype)
    return found


@np.errstate(all="ignore")
def agree(
    found: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    start: np.ndarray[Any, Any] | None = None,
    tf32: bool = False,
    noise: float = 0.0,
) -> bool:
    """Whether two results of a step from `start` differ by rounding alone.

    `noise` is what rounding is known to make of the errors, in the mean square.

    The difference is compared with what the step has changed, as a wrong update is small against the
    parameters. Rounding is amplified where a sum cancels, and where the slope is that of the other side
    of a kink: a third of the digits must agree, in the mean square.
    """
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return False
    limits, eps = np.finfo(expected.dtype), unit_of_rounding(expected, tf32)
    first = np.zeros(()) if start is None else np.nan_to_num(start[finite], posinf=0, neginf=0)
    found, expected, first = (x.astype("float64") for x in (found[finite], expected[finite], first))
    # relative to the largest number: squares must not overflow
    unit = max(np.abs(x).max(initial=0.0) for x in (expected, first)) or 1.0
    found, expected, first = (x / unit for x in (found, expected, first))
    change, error = np.abs(expected - first), np.abs(found - expected)
    rounding = 8 * float(limits.eps) * (np.abs(expected) + np.abs(first))
    rounding += 16 * float(limits.tiny) / unit + noise / unit
    typical = _rms(change)
    gross = np.count_nonzero(error > 0.5 * (change + typical) + rounding)
    return bool(gross <= FLIPS * error.size and _rms(error) <= eps ** (1 / 3) * typical + _rms(rounding))


def _rms(x: np.ndarray[Any, Any]) -> float:
    top = x.max(initial=0.0)  # squares of the numbers themselves may overflow or underflow
    return float(top * np.sqrt(np.mean(np.square(x / top)))) if top else 0.0


class _Access(NamedTuple):
    at: int
    view: View
    array: Array
    op: Operation


class _Accesses:
    """Reads or writes of operations, in order."""

    def __init__(self, accesses: Sequence[_Access]) -> None:
        self.all = accesses
        bounds = np.array([x.view.bounds for x in accesses], np.int64).reshape(-1, 2)
        self._low, self._high = bounds[:, 0], bounds[:, 1]
        self._at = np.array([x.at for x in accesses], np.int64)

    def of(self, view: View) -> np.ndarray[Any, Any]:
        """The operations that may have memory of an array in common, by number."""
        found: np.ndarray[Any, Any] = self._at[self._overlapping(view)]
        return found

    def overlapping(self, view: View) -> list[_Access]:
        """Those accesses."""
        return [self.all[i] for i in np.flatnonzero(self._overlapping(view)).tolist()]

    def _overlapping(self, view: View) -> Any:
        low, high = view.bounds
        return (self._low < high) & (low < self._high)


def compared(device: Device, operations: Sequence[Operation]) -> list[Compared]:
    """The arrays by which a step of these operations is judged."""

    def accesses(of: Callable[[Operation], Sequence[Array]]) -> _Accesses:
        found = [_Access(i, device.view(x), x, op) for i, op in enumerate(operations) for x in of(op)]
        return _Accesses([x for x in found if x.view.size])

    reads, writes = accesses(lambda op: op.inputs), accesses(lambda op: (op.output, *op.state))
    forward = [op.output for op in operations if op.equation == "feedforward"]
    found: dict[View, Compared] = {}

    def add(x: Array, what: str, given: bool, written: bool, updated: bool = False) -> None:
        view = device.view(x)
        parts = _parts(view, reads.overlapping(view))
        found.setdefault(view, Compared(x, what, given, written, updated, parts))

    for _, view, array, op in reversed(writes.all):
        read, written = reads.of(view), writes.of(view)
        given = bool((read <= written.min()).any())
        if given or not (read > written.max()).any():
            updated = bool((read < written.min()).any())
            add(array, f"the result of {op.name!r}", given, True, updated)
    if forward:  # it may go to the next operation within a kernel, and not through memory
        add(forward[-1], "the output", False, True)
    for _, view, array, op in reads.all:
        for x in _unwritten(array, view, writes.overlapping(view)):
            add(x, f"what {op.name!r} only reads", True, False)
    chosen: list[Compared] = []
    whole: list[View] = []
    for view in sorted(found, key=lambda view: (-view.size, not view.contiguous)):
        if any(_within(view, other) for other in whole):
            continue
        if view.contiguous and found[view].given:
            whole.append(view)
        chosen.append(found[view])
    return chosen


def _unwritten(array: Array, view: View, writes: Sequence[_Access]) -> Iterator[Array]:
    """What an operation reads and no one writes: an array, or its last rows."""
    if not writes:
        yield array
        return
    ends = {0}
    matrices = [x.view for x in writes if len(x.view.shape) > 1 and x.view.dtype == view.dtype]
    for written in (form for x in matrices for form in (x, x.mT)):
        if written.strides == view.strides and written.shape[-1] == view.shape[-1]:
            first = (written.address - view.address) // (view.itemsize * max(view.strides[-2], 1))
            ends.add(first + written.shape[-2])
    if 0 < max(ends) < view.shape[-2]:
        yield array[..., max(ends) :, :]


def _within(view: View, whole: View) -> bool:
    (low, high), (start, end) = view.bounds, whole.bounds
    return start <= low and high <= end


def _parts(view: View, reads: Sequence[_Access]) -> tuple[slice, ...]:
    """The matrices in a flat vector: errors in a layer must not be small against another layer's."""
    if not view.contiguous:
        return ()
    offsets = {
        ((x.view.address - view.address) // view.itemsize, x.view.size)
        for x in reads
        if len(x.view.shape) > 1 and x.view.contiguous and _within(x.view, view)
    }
    return tuple(slice(start, start + size) for start, size in sorted(offsets))
