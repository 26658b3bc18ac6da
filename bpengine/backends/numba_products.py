"""Small matrix products, c ← β c + α a b, in tiles that stay in the processor's vector registers.

Written in LLVM's words, because no compiler turns plain loops into this reliably. There is a tile for
each way the operands may lie in memory: `rows`, where the rows of b are contiguous, and `dots`, where
the rows of a and the columns of b are. Where a tile hangs over the edge, rows are taken twice and
columns masked. All strides are in bytes.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import platform

from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from bpengine.backends.numba_kernels import WORDS, kernel, number, view
from bpengine.backends.numba_llvm import gemm

__all__ = ["OWN", "SHORT"]

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _width() -> tuple[int, int]:
    """Bytes of a vector register, and how many there are."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32
    if platform.machine().lower() in ("x86_64", "amd64"):
        return (32 if features.get("avx2") else 16), 16
    return 16, 32


WIDTH, REGISTERS = _width()
OWN = 2**21  # multiplications: products of up to so many are done here, not by the library
SHORT = 2**15  # and sums of dot products up to so many, unless the vectors are long
# accumulators, what is loaded for them, and one to spare
ROWS, VECTORS, EDGE_ROWS = (4, 4, 8) if REGISTERS == 32 else (4, 2, 8)
DOTS = 5 if REGISTERS == 32 else 3


class Vectors:
    """Writes instructions on vectors of one type.

    Parameters
    ----------
    context, builder
        As Numba gives them to an intrinsic.
    real : types.float32 or types.float64
    """

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
        """Write a vector, but for what is masked out."""
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

    def sum(self, x):
        """Sum of the lanes, in any order."""
        operands = [ir.Constant(self.real, -0.0), x]
        name = f"llvm.vector.reduce.fadd.{self.suffix}"
        return self._call(name, self.real, operands, fastmath=("reassoc",))

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
        totals = [builder.fmul(α, total) for total in totals]
        nothing = builder.fcmp_ordered("==", β, ir.Constant(β.type, _zero(β.type)))
        if isinstance(β.type, ir.VectorType):
            nothing = builder.extract_element(nothing, I32(0))
        with builder.if_else(nothing) as (new, added):
            with new:
                for place, total in zip(places, totals, strict=True):
                    store(total, place)
            with added:
                olds = [load(place) for place in places]  # before a row that is taken twice is written
                for place, total, old in zip(places, totals, olds, strict=True):
                    store(self.fma(β, old, total), place)

    def _call(self, name, result, operands, fastmath=()):
        kind = ir.FunctionType(result, [x.type for x in operands])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, operands, fastmath=fastmath)


def _zero(kind):
    return [0.0] * kind.count if isinstance(kind, ir.VectorType) else 0.0


def _rows_tile(most: int, vectors: int, masked: bool):
    """The tile of `most` rows of c and of so many vectors of columns; of one, masked, at the edge."""

    @intrinsic
    def tile(typing, a, a_row, a_column, b, b_row, c, c_row, k, α, β, rows, columns):
        signature = types.void(*[types.int64] * 8, α, β, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            a, a_row, a_column, b, b_row, c, c_row, k, α, β, rows, columns = arguments
            v = Vectors(context, builder, signature.args[8])
            mask = v.first(columns) if masked else None
            numbers = v.clamped(rows, most)
            starts = [v.offset(a, r, a_row) for r in numbers]
            parts = [I64(i * WIDTH) for i in range(vectors)]

            def body(i, totals):
                row, column = v.offset(b, i, b_row), builder.mul(i, a_column)
                vectors_of_b = [v.load(builder.add(row, part), mask) for part in parts]
                factors = [v.splat(builder.load(v.scalar(builder.add(x, column)))) for x in starts]
                pairs = [(x, y) for x in factors for y in vectors_of_b]
                return [v.fma(x, y, total) for (x, y), total in zip(pairs, totals, strict=True)]

            totals = v.loop(I64(0), k, 1, [v.zeros] * (most * vectors), body)
            places = [builder.add(v.offset(c, r, c_row), part) for r in numbers for part in parts]
            v.finish(
                places,
                totals,
                v.splat(α),
                v.splat(β),
                lambda place: v.load(place, mask),
                lambda x, place: v.store(x, place, mask),
            )
            return context.get_dummy_value()

        return signature, generate

    return tile


def _dots_tile(most: int):
    """The tile of so many rows of a by so many columns of b, both contiguous."""

    @intrinsic
    def tile(typing, a, a_row, b, b_column, c, c_row, k, α, β, rows, columns):
        signature = types.void(*[types.int64] * 7, α, β, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            a, a_row, b, b_column, c, c_row, k, α, β, rows, columns = arguments
            v = Vectors(context, builder, signature.args[7])
            i, j = v.clamped(rows, most), v.clamped(columns, most)
            of_a = [v.offset(a, r, a_row) for r in i]
            of_b = [v.offset(b, r, b_column) for r in j]

            def step(mask):
                def body(at, totals):
                    at = builder.mul(at, I64(v.size))
                    xs = [v.load(builder.add(x, at), mask) for x in of_a]
                    ys = [v.load(builder.add(y, at), mask) for y in of_b]
                    pairs = [(x, y) for x in xs for y in ys]
                    return [v.fma(x, y, total) for (x, y), total in zip(pairs, totals, strict=True)]

                return body

            whole = builder.and_(k, I64(-v.lanes))
            totals = v.loop(I64(0), whole, v.lanes, [v.zeros] * most**2, step(None))
            rest = v.first(builder.sub(k, whole))
            totals = v.loop(whole, k, v.lanes, totals, step(rest))
            rows_of_c = [v.offset(c, r, c_row) for r in i]
            places = [v.scalar(v.offset(x, r, I64(v.size))) for x in rows_of_c for r in j]
            v.finish(places, [v.sum(total) for total in totals], α, β, builder.load, builder.store)
            return context.get_dummy_value()

        return signature, generate

    return tile


_inner_rows, _edge_rows = _rows_tile(ROWS, VECTORS, False), _rows_tile(EDGE_ROWS, 1, True)
_dots = _dots_tile(DOTS)


@njit
def rows_product(m, n, k, a, a_row, a_column, b, b_row, c, c_row, α, β, size):
    """A product whose b has contiguous rows."""
    j, lanes = 0, WIDTH // size
    while j + VECTORS * lanes <= n:
        at = j * size
        for i in range(0, m, ROWS):
            x, y, rows = a + i * a_row, c + i * c_row + at, min(ROWS, m - i)
            _inner_rows(x, a_row, a_column, b + at, b_row, y, c_row, k, α, β, rows, 0)
        j += VECTORS * lanes
    while j < n:
        at, columns = j * size, min(lanes, n - j)
        for i in range(0, m, EDGE_ROWS):
            x, y, rows = a + i * a_row, c + i * c_row + at, min(EDGE_ROWS, m - i)
            _edge_rows(x, a_row, a_column, b + at, b_row, y, c_row, k, α, β, rows, columns)
        j += lanes


@njit
def dots_product(m, n, k, a, a_row, b, b_column, c, c_row, α, β, size):
    """A product whose a has contiguous rows, and b contiguous columns."""
    for j in range(0, n, DOTS):
        for i in range(0, m, DOTS):
            x, y, place = a + i * a_row, b + j * b_column, c + i * c_row + j * size
            rows, columns = min(DOTS, m - i), min(DOTS, n - j)
            _dots(x, a_row, y, b_column, place, c_row, k, α, β, rows, columns)


# The kernels, c ← β c + α a b: words 1, 2, 3 are m, n, k; 4, 5, 6 the address of a and its strides;
# 7, 8, 9 those of b; 10, 11 the address of c and its stride; 12, 13 the addresses of α and β; 14, 15 the
# address of cblas_gemm and the bits of its integers.


@kernel("rows product")
def rows(row, like):
    r = carray(row, WORDS)
    α, β, size = number(r[12], like), number(r[13], like), view(r[12], 1, like).itemsize
    rows_product(r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[10], r[11], α, β, size)


@kernel("dots product")
def dots(row, like):
    r = carray(row, WORDS)
    α, β, size = number(r[12], like), number(r[13], like), view(r[12], 1, like).itemsize
    dots_product(r[1], r[2], r[3], r[4], r[5], r[7], r[9], r[10], r[11], α, β, size)


@kernel("library product")
def library(row, like):
    r = carray(row, WORDS)
    α, β, size = number(r[12], like), number(r[13], like), view(r[12], 1, like).itemsize
    a_plain, b_plain = r[6] == size, r[9] == size
    lda, ldb = (r[5] if a_plain else r[6]) // size, (r[8] if b_plain else r[9]) // size
    codes = 111 if a_plain else 112, 111 if b_plain else 112
    ldc = r[11] // size
    gemm(r[14], r[15], codes[0], codes[1], r[1], r[2], r[3], α, r[4], lda, r[7], ldb, β, r[10], ldc)
