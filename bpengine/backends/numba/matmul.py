"""Matrix products of a network or of a stack, c ← β c + α a b, by tiles or by the BLAS library.

Small products are computed in tiles that stay in the processor's vector registers. The tiles are LLVM
IR, because no compiler turns plain loops into this reliably. There is a tile for each memory layout of
the operands: `rows`, where the rows of b are contiguous, or copied to be so, and `dots`, where the rows
of a and the columns of b are. At the edges of c, rows are computed twice and columns masked. All strides
are in bytes.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from bpengine.backends.numba.elementwise import kernel, number, view
from bpengine.backends.numba.intrinsics import call
from bpengine.backends.numba.simd import I64, REGISTERS, WIDTH, Vectors

__all__ = ["cheapest", "panel"]

i32 = np.int32

LIBRARY_FROM = 2**21  # multiplications: products of up to so many are computed here, not by the library
PANEL = 2**15  # bytes of b that stay in the L1 cache while a tile moves along the rows of a
# accumulators, the vectors loaded for them, and a spare one
VECTORS = 4 if REGISTERS == 32 else 2
WIDE_ROWS, NARROW_ROWS = 4, 10  # of tiles of so many vectors, and of one or two
DOTS = 5 if REGISTERS == 32 else 3


def _rows_tile(most: int, vectors: int, masked: int):
    """The tile of `most` rows of c and of so many vectors of columns, the last of them masked."""

    @intrinsic
    def tile(typing, a, a_row, a_column, b, b_row, c, c_row, k, α, β, rows, columns):
        signature = types.void(*[types.int64] * 8, α, β, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            a, a_row, a_column, b, b_row, c, c_row, k, α, β, rows, columns = arguments
            v = Vectors(context, builder, signature.args[8])
            whole = vectors - masked
            rest = [v.first(builder.sub(columns, I64(i * v.lanes))) for i in range(whole, vectors)]
            parts = list(zip(range(0, vectors * WIDTH, WIDTH), [None] * whole + rest, strict=True))
            numbers = v.clamped(rows, most)
            starts = [v.offset(a, r, a_row) for r in numbers]

            def body(i, totals):
                row, column = v.offset(b, i, b_row), builder.mul(i, a_column)
                vectors_of_b = [v.load(builder.add(row, I64(part)), mask) for part, mask in parts]
                factors = [v.splat(builder.load(v.scalar(builder.add(x, column)))) for x in starts]
                pairs = [(x, y) for x in factors for y in vectors_of_b]
                return [v.fma(x, y, total) for (x, y), total in zip(pairs, totals, strict=True)]

            totals = v.loop(I64(0), k, 1, [v.zeros] * (most * vectors), body)
            rows_of_c = [v.offset(c, r, c_row) for r in numbers]
            places = [(builder.add(x, I64(part)), mask) for x in rows_of_c for part, mask in parts]
            v.finish(
                places, totals, α, β, lambda place: v.load(*place), lambda x, place: v.store(x, *place)
            )
            return context.get_dummy_value()

        return signature, generate

    return tile


def _dots_tile(rows_of: int, columns_of: int):
    """The tile of so many rows of a by so many columns of b, both contiguous."""

    @intrinsic
    def tile(typing, a, a_row, b, b_column, c, c_row, k, α, β, rows, columns):
        signature = types.void(*[types.int64] * 7, α, β, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            a, a_row, b, b_column, c, c_row, k, α, β, rows, columns = arguments
            v = Vectors(context, builder, signature.args[7])
            i, j = v.clamped(rows, rows_of), v.clamped(columns, columns_of)
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
            totals = [v.zeros] * (rows_of * columns_of)
            totals = v.loop(I64(0), whole, v.lanes, totals, step(None))
            rest = v.first(builder.sub(k, whole))
            totals = v.loop(whole, k, v.lanes, totals, step(rest))
            rows_of_c = [v.offset(c, r, c_row) for r in i]
            places = [v.scalar(v.offset(x, r, I64(v.size))) for x in rows_of_c for r in j]
            v.finish(places, v.sums(totals), α, β, builder.load, builder.store)
            return context.get_dummy_value()

        return signature, generate

    return tile


_inner = _rows_tile(WIDE_ROWS, VECTORS, 0)
_edge = _rows_tile(WIDE_ROWS, VECTORS, VECTORS // 2)
_one_row = _rows_tile(1, VECTORS, VECTORS // 2)
_two_vectors, _one_vector = _rows_tile(NARROW_ROWS, 2, 1), _rows_tile(NARROW_ROWS, 1, 1)
_dots, _few_dots = _dots_tile(DOTS, DOTS), _dots_tile(1, 4)


@njit(error_model="numpy")
def rows_product(m, n, k, a, a_row, a_column, b, b_row, c, c_row, α, β, size, panel):
    """A product whose b has contiguous rows."""
    lanes = WIDTH // size
    wide = VECTORS * lanes
    whole = n & -wide
    for start in range(0, whole, panel):
        for i in range(0, m, WIDE_ROWS):
            x, rows = a + i * a_row, min(WIDE_ROWS, m - i)
            for j in range(start, min(start + panel, whole), wide):
                y, z = b + j * size, c + i * c_row + j * size
                _inner(x, a_row, a_column, y, b_row, z, c_row, k, α, β, rows, 0)
    b, c, rest = b + whole * size, c + whole * size, n - whole
    if rest == 0:
        return
    if rest > VECTORS // 2 * lanes:
        for i in range(0, m, WIDE_ROWS):
            x, z, rows = a + i * a_row, c + i * c_row, min(WIDE_ROWS, m - i)
            if rows == 1:
                _one_row(x, a_row, a_column, b, b_row, z, c_row, k, α, β, rows, rest)
            else:
                _edge(x, a_row, a_column, b, b_row, z, c_row, k, α, β, rows, rest)
    elif rest > lanes:
        for i in range(0, m, NARROW_ROWS):
            x, z, rows = a + i * a_row, c + i * c_row, min(NARROW_ROWS, m - i)
            _two_vectors(x, a_row, a_column, b, b_row, z, c_row, k, α, β, rows, rest)
    else:
        for i in range(0, m, NARROW_ROWS):
            x, z, rows = a + i * a_row, c + i * c_row, min(NARROW_ROWS, m - i)
            _one_vector(x, a_row, a_column, b, b_row, z, c_row, k, α, β, rows, rest)


@njit(error_model="numpy")
def dots_product(m, n, k, a, a_row, b, b_column, c, c_row, α, β, size, panel):
    """A product whose a has contiguous rows, and b contiguous columns."""
    for start in range(0, n, panel):
        stop = min(start + panel, n)
        for i in range(0, m, DOTS):
            rows = min(DOTS, m - i)
            x, z = a + i * a_row, c + i * c_row
            if rows < DOTS - 1 or stop - start < DOTS - 1:
                for r in range(rows):
                    for j in range(start, stop, 4):
                        y, place = b + j * b_column, z + r * c_row + j * size
                        columns = min(4, stop - j)
                        _few_dots(x + r * a_row, a_row, y, b_column, place, c_row, k, α, β, 1, columns)
            else:
                for j in range(start, stop, DOTS):
                    y, place, columns = b + j * b_column, z + j * size, min(DOTS, stop - j)
                    _dots(x, a_row, y, b_column, place, c_row, k, α, β, rows, columns)


def cheapest(m: int, n: int, k: int, lanes: int, *, packed: int, dots: bool, library: bool) -> str:
    """The name of the fastest kernel of a product, by a model of measured times.

    Parameters
    ----------
    m, n, k : int
        c has m rows and n columns, a has k columns.
    lanes : int
        Numbers in a vector register.
    packed : int
        Numbers of b to copy for a product so that b has contiguous rows.
    dots : bool
        Whether a has contiguous rows, and b contiguous columns.
    library : bool
        Whether the library can read the operands.
    """
    vectors = -(-n // lanes)
    # where the columns are few the library copies a, which costs more than the product; where sums are
    # short it is hardly faster, and threads can share products that are not the library's
    if library and m * n * k > LIBRARY_FROM and vectors > 2 and k > 2 * lanes:
        return "library product"
    # numbers of vector operations, with those that read and write c, or that add up lanes
    by_rows = m * vectors * (k + 4) + 1.5 * packed
    by_dots = m * n * (-(-k // lanes) + 8)
    return "dots product" if dots and by_dots < by_rows else "rows product"


def panel(name: str, k: int, size: int) -> int:
    """How many columns of b, a multiple of a tile's, stay in the L1 cache."""
    tile = DOTS if name == "dots product" else VECTORS * WIDTH // size
    return max(1, PANEL // (k * size * tile)) * tile


# The kernels, c ← β c + α a b, for each network of a stack. Fields: 1, 2, 3 are m, n, k; 4, 5, 6 the
# address of a and its strides; 7, 8, 9 those of b; 10, 11 the address of c and its stride; 12, 13 the
# addresses of α and β; 14, 15 the address of cblas_gemm and the bits of its integers; 16 the number of
# networks; 17, 18, 19 the strides of a, b and c from one network to the next; 20 the address of scratch
# memory for b with contiguous rows, or 0; 21 their stride there; 22 the columns of b of a panel.


@njit(error_model="numpy")
def _transpose(rows, columns, source, row, column, target, target_row, like):
    """Copy a matrix, whose columns are contiguous, to one whose rows are."""
    for i in range(rows):
        for j in range(columns):
            view(target + i * target_row, columns, like)[j] = number(source + i * row + j * column, like)


@kernel("rows product")
def rows(r, like):
    m, n, k, a, b, c = r[1], r[2], r[3], r[4], r[7], r[10]
    α, β, size = number(r[12], like), number(r[13], like), view(r[12], 1, like).itemsize
    for p in range(r[16]):
        y, y_row = b, r[8]
        if r[20]:
            y, y_row = r[20], r[21]
            if p == 0 or r[18]:
                _transpose(k, n, b, r[8], r[9], y, y_row, like)
        rows_product(m, n, k, a, r[5], r[6], y, y_row, c, r[11], α, β, size, r[22])
        a, b, c = a + r[17], b + r[18], c + r[19]


@kernel("dots product")
def dots(r, like):
    m, n, k, a, b, c = r[1], r[2], r[3], r[4], r[7], r[10]
    α, β, size = number(r[12], like), number(r[13], like), view(r[12], 1, like).itemsize
    for _ in range(r[16]):
        dots_product(m, n, k, a, r[5], b, r[9], c, r[11], α, β, size, r[22])
        a, b, c = a + r[17], b + r[18], c + r[19]


@kernel("library product")
def library(r, like):
    m, n, k, a, b, c = r[1], r[2], r[3], r[4], r[7], r[10]
    α, β, size = number(r[12], like), number(r[13], like), view(r[12], 1, like).itemsize
    a_plain, b_plain = r[6] == size, r[9] == size
    lda, ldb = (r[5] if a_plain else r[6]) // size, (r[8] if b_plain else r[9]) // size
    order, a_code, b_code = i32(101), i32(111 if a_plain else 112), i32(111 if b_plain else 112)
    ldc = r[11] // size
    for _ in range(r[16]):
        if r[15] == 64:
            call(r[14], (order, a_code, b_code, m, n, k, α, a, lda, b, ldb, β, c, ldc))
        else:
            sizes = i32(m), i32(n), i32(k)
            call(r[14], (order, a_code, b_code, *sizes, α, a, i32(lda), b, i32(ldb), β, c, i32(ldc)))
        a, b, c = a + r[17], b + r[18], c + r[19]
