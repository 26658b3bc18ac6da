"""Vector instructions, as LLVM IR."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import platform

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

__all__ = ["I64", "REGISTERS", "WIDTH", "Vectors"]

I32, I64 = ir.IntType(32), ir.IntType(64)


def _width() -> tuple[int, int]:
    """Bytes of a vector register, and how many there are."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32
    if platform.machine().lower() in ("x86_64", "amd64"):
        return (32 if features.get("avx2") else 16), 16
    return 16, 32


WIDTH, REGISTERS = _width()


class Vectors:
    """Builds instructions on vectors of one type, by what Numba gives to an intrinsic."""

    def __init__(self, context, builder, real) -> None:
        self.builder, self.real = builder, context.get_value_type(real)
        self.size = 4 if real == types.float32 else 8
        self.lanes = WIDTH // self.size
        self.type = ir.VectorType(self.real, self.lanes)
        self.zeros = ir.Constant(self.type, [0.0] * self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.size}"

    def offset(self, address, count, stride):
        """``address + count · stride``."""
        return self.builder.add(address, self.builder.mul(count, stride))

    def scalar(self, address):
        """A pointer to one number."""
        return self.builder.inttoptr(address, ir.PointerType(self.real))

    def load(self, address, mask=None):
        """The vector at an address, with zeros where it is masked out."""
        where = self.builder.inttoptr(address, ir.PointerType(self.type))
        if mask is None:
            return self.builder.load(where, align=self.size)
        operands = [where, I32(self.size), mask, self.zeros]
        return self._call(f"llvm.masked.load.{self.suffix}.p0", self.type, operands)

    def store(self, value, address, mask=None) -> None:
        """Store a vector, without the lanes that are masked out."""
        where = self.builder.inttoptr(address, ir.PointerType(self.type))
        if mask is None:
            self.builder.store(value, where, align=self.size)
        else:
            operands = [value, where, I32(self.size), mask]
            self._call(f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(), operands)

    def first(self, count):
        """The mask of the first `count` lanes."""
        lanes = ir.Constant(ir.VectorType(I32, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", lanes, self.splat(self.builder.trunc(count, I32)))

    def splat(self, x):
        """A vector of x in every lane."""
        anything = ir.Constant(ir.VectorType(x.type, self.lanes), ir.Undefined)
        lane = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        one = self.builder.insert_element(anything, x, I32(0))
        return self.builder.shuffle_vector(one, anything, lane)

    def fma(self, x, y, z):
        """``x y + z``."""
        product = self.builder.fmul(x, y, flags=("contract",))
        return self.builder.fadd(product, z, flags=("contract",))

    def sums(self, totals):
        """The sum of the lanes of each vector, several vectors at once, by adding neighbouring lanes."""
        lane = 16 // self.size  # in 128 bits, within which shuffles are cheap
        found = []
        for i in range(0, len(totals), lane):
            part = totals[i : i + lane]
            part = [*part, *[part[-1]] * (lane - len(part))]
            width = 1
            while len(part) > 1:
                pairs = zip(part[::2], part[1::2], strict=True)
                part = [self._halves_added(x, y, lane, width) for x, y in pairs]
                width *= 2
            (x,) = part
            while x.type.count > lane:
                half = x.type.count // 2
                low, high = list(range(half)), list(range(half, 2 * half))
                x = self.builder.fadd(self._shuffle(x, x, low), self._shuffle(x, x, high))
            found += [self.builder.extract_element(x, I32(j)) for j in range(lane)]
        return found[: len(totals)]

    def _halves_added(self, x, y, lane, width):
        """Of every 128 bits, which hold parts of `width` sums: x's halves added, then y's."""
        starts = range(0, self.lanes, lane)
        low: list[int] = []
        high: list[int] = []
        for start in starts:
            for at in range(start, start + lane // 2, width):
                for other in (0, self.lanes):
                    low += range(other + at, other + at + width)
                    high += range(other + at + lane // 2, other + at + lane // 2 + width)
        return self.builder.fadd(self._shuffle(x, y, low), self._shuffle(x, y, high))

    def _shuffle(self, x, y, lanes):
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

    def loop(self, start, stop, step, totals, body):
        """``totals = body(i, totals)`` for i from start to below stop; gives the totals."""
        builder = self.builder
        before, head = builder.block, builder.append_basic_block("head")
        inside, after = builder.append_basic_block("body"), builder.append_basic_block("after")
        builder.branch(head)
        builder.position_at_end(head)
        i, *phis = (builder.phi(x.type) for x in (start, *totals))
        for phi, x in zip((i, *phis), (start, *totals), strict=True):
            phi.add_incoming(x, before)
        builder.cbranch(builder.icmp_signed("<", i, stop), inside, after)
        builder.position_at_end(inside)
        results = body(i, phis)
        for phi, x in zip((i, *phis), (builder.add(i, I64(step)), *results), strict=True):
            phi.add_incoming(x, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return phis

    def clamped(self, count, most: int):
        """0, 1, …, most - 1, none of them above ``count - 1``."""
        last = self.builder.sub(count, I64(1))
        return [
            self.builder.select(self.builder.icmp_signed("<", I64(r), last), I64(r), last)
            for r in range(most)
        ]

    def finish(self, places, totals, α, β, load, store) -> None:
        """``c ← β c + α · total``, without reading c where β is 0."""
        builder = self.builder
        nothing = builder.fcmp_ordered("==", β, ir.Constant(β.type, 0.0))
        if totals[0].type == self.type:
            α, β = self.splat(α), self.splat(β)
        totals = [builder.fmul(α, total) for total in totals]
        with builder.if_else(nothing) as (new, added):
            with new:
                for place, total in zip(places, totals, strict=True):
                    store(total, place)
            with added:
                olds = [load(place) for place in places]  # before a repeated row of the edge is written
                for place, total, old in zip(places, totals, olds, strict=True):
                    store(self.fma(β, old, total), place)

    def _call(self, name, result, operands):
        kind = ir.FunctionType(result, [x.type for x in operands])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, operands)
