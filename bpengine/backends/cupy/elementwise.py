"""Elementwise operations as CUDA kernels: successive ones on the same elements are fused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpengine.backends.cupy.cuda_source import ELEMENTWISE, HELPERS, REALS, SPECIAL, UNIFORM
from bpengine.backends.norms import overflow_unit

__all__ = ["ElementwiseOp", "Launch", "View", "fuse", "helpers", "special"]

THREADS = 256
BLOCKS = 2**16  # at most; kernels go on from there in strides
OPERANDS = 24  # that one kernel takes at most


class View(NamedTuple):
    """An array as kernels use it: address, shape and strides, which are in elements."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether it is row-major, without gaps."""
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n > 1 and stride != step:
                return False
            step *= n
        return True

    @property
    def mT(self) -> View:  # noqa: N802, as the array API has it
        """The transpose of the last two axes."""
        shape, strides = self.shape, self.strides
        return self._replace(
            shape=(*shape[:-2], shape[-1], shape[-2]), strides=(*strides[:-2], strides[-1], strides[-2])
        )

    def at(self, axis: int, index: int) -> View:
        """The part at one index of an axis."""
        axis %= len(self.shape)
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        strides = self.strides[:axis] + self.strides[axis + 1 :]
        start = self.address + index * self.strides[axis] * self.itemsize
        return View(start, shape, strides, self.dtype)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 8 if self.dtype in ("float64", "int64") else 4

    @property
    def bounds(self) -> tuple[int, int]:
        """Address of the first byte, and of the first one after the last."""
        if not self.size:
            return self.address, self.address
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return self.address, self.address + (last + 1) * self.itemsize

    def broadcast(self, shape: tuple[int, ...]) -> View:
        """The array broadcast to a shape."""
        missing = len(shape) - len(self.shape)
        strides = [0] * missing
        for n, size, stride in zip(shape[missing:], self.shape, self.strides, strict=True):
            if size not in (n, 1):
                raise ValueError(f"an array of shape {self.shape} can't be broadcast to {shape}.")
            strides.append(stride if size == n and n > 1 else 0)
        return View(self.address, shape, tuple(strides), self.dtype)

    def even(self, last: int) -> int | None:
        """The one stride over all axes but the last few; None where it changes.

        0 where these have one entry, or all entries are the same.
        """
        step, inner = 0, 1
        for n, stride in zip(reversed(self.shape[:-last]), reversed(self.strides[:-last]), strict=True):
            if n == 1:
                continue
            if inner == 1:
                step = stride
            elif stride != step * inner:
                return None
            inner *= n
        return step

    def overlaps(self, other: View) -> bool:
        """Whether the two may have memory in common."""
        (low, high), (first, last) = self.bounds, other.bounds
        return low < last and first < high


@dataclass(frozen=True)
class Launch:
    """A kernel and its arguments, which are integers and addresses."""

    source: str
    name: str
    grid: int
    block: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class ElementwiseOp:
    """An elementwise operation: its code, and the arrays that $0, $1, … stand for.

    Parameters
    ----------
    name : str
        Out of `ELEMENTWISE`, or "uniform".
    inputs : tuple of View
    output : View
        Whose shape is that of the operation.
    extra : tuple of int, optional
        The numbers that $a, $b in the code stand for.
    """

    name: str
    inputs: tuple[View, ...]
    output: View
    extra: tuple[int, ...] = ()

    @property
    def code(self) -> str:
        """The formula."""
        if self.name == "uniform":
            return "$o = uniform((const u64*)$a, (u64)i + $b, (T)0);"
        return ELEMENTWISE[self.name]

    @property
    def operands(self) -> tuple[View, ...]:
        """Inputs and output, all of the operation's shape."""
        shape = self.output.shape
        return *(x.broadcast(shape) for x in self.inputs), self.output.broadcast(shape)

    @property
    def written(self) -> tuple[View, ...]:
        """Those operands that are written."""
        operands = self.operands
        return *(operands[int(i)] for i in re.findall(r"\$(\d) =", self.code)), operands[-1]

    def can_follow(self, others: Sequence[ElementwiseOp]) -> bool:
        """Whether a kernel may compute it after other operations, element by element."""
        if self.output.shape != others[0].output.shape or self.output.dtype != others[0].output.dtype:
            return False
        if len({x for op in (*others, self) for x in op.operands}) > OPERANDS:
            return False
        mine, mine_written = set(self.operands), set(self.written)
        for op in others:
            written = op.written
            for x in op.operands:
                for y in mine:
                    if (x in written or y in mine_written) and x != y and x.overlaps(y):
                        return False
        return True

    def is_noop(self) -> bool:
        """Whether it copies an array to itself."""
        return self.name in ("linear", "linear slope") and self.operands[0] == self.operands[-1]


def fuse(items: Iterable[Any]) -> list[Any]:
    """Elementwise operations as kernels, successive ones as one where possible; all else as it is."""
    made: list[Any] = []
    group: list[ElementwiseOp] = []
    for item in items:
        if isinstance(item, ElementwiseOp):
            if item.is_noop() or not item.output.size:
                continue
            if group and not item.can_follow(group):
                made.append(_kernel(group))
                group = []
            group.append(item)
            continue
        if group:
            made.append(_kernel(group))
            group = []
        made.append(item)
    return [*made, _kernel(group)] if group else made


def helpers(dtype: str) -> str:
    """The beginning of the sources of all kernels for `dtype`."""
    limits = np.finfo(dtype)
    root, unit = math.sqrt(limits.tiny), overflow_unit(float(limits.max))
    return HELPERS.format(real=REALS[dtype], root_tiny=root, unit=unit)


def special(name: str, dtype: str, grid: int, arguments: Iterable[int], block: int = THREADS) -> Launch:
    """A kernel of `SPECIAL`."""
    grid = max(1, min(grid, BLOCKS))
    return Launch(helpers(dtype) + SPECIAL[name], name, grid, block, tuple(map(int, arguments)))


def _kernel(ops: Sequence[ElementwiseOp]) -> Launch:
    """Operations of one shape as one kernel, which reads and writes every array once."""
    views = list(dict.fromkeys(x for op in ops for x in op.operands))
    loaded: set[View] = set()
    written: set[View] = set()
    extras: list[int] = []
    body = []
    for op in ops:
        *inputs, output = op.operands
        loaded.update(x for x in inputs if x not in written)
        written.update(op.written)
        names = {f"${i}": f"v{views.index(x)}" for i, x in enumerate(inputs)}
        names["$o"] = f"v{views.index(output)}"
        names |= {f"${letter}": f"e{len(extras) + i}" for i, letter in enumerate("ab")}
        extras += op.extra
        code = "".join(names.get(token, token) for token in re.split(r"(\$.)", op.code))
        body.append(f"{{ {code} }}")
    shape, strides = _merged(ops[0].output.shape, [x.strides for x in views])
    size, dtype = math.prod(shape), ops[0].output.dtype
    reach = max(x.bounds[1] - x.bounds[0] for x in views)
    integer = "int" if max(size, reach) < 2**30 else "long long"
    parameters = ["long long count", *(f"long long n{axis}" for axis in range(1, len(shape)))]
    arguments = [size, *shape[1:]]
    before, load, store = [], [], []
    for k, (x, steps) in enumerate(zip(views, strides, strict=True)):
        parameters.append(f"T* p{k}")
        arguments.append(x.address)
        if not any(steps) and x not in written:  # a number for all elements
            before.append(f"const T v{k} = *p{k};")
            continue
        place = _place(k, steps, parameters, arguments)
        load.append(f"T v{k} = p{k}[{place}];" if x in loaded else f"T v{k};")
        if x in written:
            store.append(f"p{k}[{place}] = v{k};")
    parameters += [f"long long e{k}" for k in range(len(extras))]
    arguments += extras
    where = ["place i0 = i;"]
    for axis in range(len(shape) - 1, 0, -1):
        where.append(f"const place i{axis} = i0 % (place)n{axis}; i0 /= (place)n{axis};")
    # named after its operations, for profilers; the prefix avoids names of C's functions
    name = "elementwise_" + re.sub(r"\W", "_", "_".join(op.name for op in ops))[:100]
    inner = "\n        ".join([*where, *load, *body, *store])
    source = f"""
typedef {integer} place;
extern "C" __global__ void {name}({", ".join(parameters)}) {{
    {" ".join(before)}
    for (place i = blockIdx.x * (place)blockDim.x + threadIdx.x; i < (place)count;
         i += (place)gridDim.x * blockDim.x) {{
        {inner}
    }}
}}
"""
    random = UNIFORM if any(op.name == "uniform" for op in ops) else ""
    grid = max(1, min(-(-size // THREADS), BLOCKS))
    return Launch(helpers(dtype) + random + source, name, grid, THREADS, tuple(arguments))


def _place(k: int, steps: tuple[int, ...], parameters: list[str], arguments: list[int]) -> str:
    """The offset of an operand's element at the loop's index."""
    terms = []
    for axis, step in enumerate(steps):
        if step == 1:
            terms.append(f"i{axis}")
        elif step:
            parameters.append(f"long long s{k}_{axis}")
            arguments.append(step)
            terms.append(f"i{axis} * (place)s{k}_{axis}")
    return " + ".join(terms) or "0"


def _merged(
    shape: tuple[int, ...], strides: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The same elements in the same order with as few axes as possible, at least one."""
    axes: list[tuple[int, tuple[int, ...]]] = []
    for n, *steps in zip(shape, *strides, strict=True):
        if axes and all(outer == n * step for outer, step in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = axes[-1][0] * n, tuple(steps)
        elif n > 1:
            axes.append((n, tuple(steps)))
    sizes, merged = zip(*axes or [(1, (0,) * len(strides))], strict=True)
    return sizes, list(zip(*merged, strict=True))
