"""Compiled kernels that draw random numbers: dropout's, and the noise of private training.

They take the bits of a `numpy.random.Generator`'s bit generator, through the C interface that NumPy
documents, and leave it in the state that NumPy would. A PCG64, NumPy's default, is advanced here,
several outputs at a time.

References
----------
M. O'Neill, PCG: a family of simple fast space-efficient statistically good algorithms for random number
generation, 2014.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from bpengine.backends.numba.elementwise import kernel, number, view
from bpengine.backends.numba.intrinsics import call, draw, pointer, real, series, widest
from bpengine.backends.numba.vector_math import scalar
from bpengine.backends.operation import NOISE_BLOCK, Operation

__all__ = ["DRAWS", "draws"]

DRAWS = "uniform", "gaussian noise"
LANES = 16  # outputs of a PCG64 made at a time
A = (2549297995355413924 << 64) | 4865540595714422341
MASK64 = (1 << 64) - 1
I32, I64, I128 = ir.IntType(32), ir.IntType(64), ir.IntType(128)


def draws(
    op: Operation, keep_alive: list[Any], locks: dict[int, Any]
) -> list[tuple[str, list[int]]] | None:
    """Kernels of an operation that draws, with the fields of their instructions.

    None where NumPy has to draw: from a bit generator without the C interface, into an array whose
    rows are padded, or where NumPy does not export its function for normal numbers. Arrays whose
    addresses are fields are added to `keep_alive`, the locks of the generators to `locks`.
    """
    expression: Any = op.expression
    rngs = expression.rngs if op.name == "uniform" else [expression.rng]
    found = [source for source in (_source(rng, op) for rng in rngs) if source is not None]
    if len(found) < len(rngs) or not op.output.flags.c_contiguous:
        return None
    bit_generators = [rng.bit_generator for rng in rngs if rng is not None]
    locks |= {id(one.lock): one.lock for one in bit_generators}
    more: list[int] = []
    if op.name == "gaussian noise":
        keep_alive.append(scratch := np.empty(NOISE_BLOCK, op.output.dtype))
        more = [op.inputs[1].ctypes.data, scratch.ctypes.data]
    parts = zip(op.output.reshape(len(rngs), -1), found, strict=True)
    return [(name, [part.size, part.ctypes.data, *fields, *more]) for part, (name, *fields) in parts]


def _source(rng: np.random.Generator | None, op: Operation) -> tuple[str, int, int] | None:
    """A kernel, and where it finds its bits: a state and a function of it, or zeros."""
    if rng is None:
        return "uniform", 0, 0
    interface: Any = getattr(rng.bit_generator, "ctypes", None)
    if interface is None:
        return None
    single, state = op.output.dtype == np.float32, interface.state_address
    inlined = _has_known_layout(rng.bit_generator, state)
    if op.name == "uniform":
        function = interface.next_uint32 if single else interface.next_double
        return "uniform of PCG64" if inlined else "uniform", state, _address(function)
    if single:
        return "gaussian noise", state, 0 if inlined else _address(interface.next_uint64)
    normal = _normal()
    return None if normal is None else ("normal noise", interface.bit_generator.value, _address(normal))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def _normal() -> Any:
    """NumPy's C function that fills an array with normal numbers, where it shows it to others."""
    try:
        return ctypes.CDLL(np.random._generator.__file__).random_standard_normal_fill
    except (AttributeError, OSError):
        return None


def _has_known_layout(bit_generator: Any, address: int) -> bool:
    """Whether a state is a PCG64's in the layout assumed here, and vectors are wide enough."""
    if type(bit_generator) is not np.random.PCG64 or not FEATURES.get("avx2"):
        return False
    state = bit_generator.state
    x, c = state["state"]["state"], state["state"]["inc"]
    expected = [x & MASK64, x >> 64, c & MASK64, c >> 64, state["uinteger"] << 32 | state["has_uint32"]]
    at, half = (ctypes.c_uint64 * 2).from_address(address)
    return [*(ctypes.c_uint64 * 4).from_address(at), half] == expected


FEATURES = binding.get_host_cpu_features()


def _steps(k):
    """Of a step x ← A x + c, k at once, backwards for k < 0: (q, p) of x ← q x + p c."""
    total = sum(pow(A, i, 2**128) for i in range(min(k, 0), max(k, 0)))
    return pow(A, k, 2**128), (total if k > 0 else -total) % 2**128


@intrinsic
def _pcg64(typing, state, out, count):
    """Write the next `count` outputs of a PCG64: a state's halves xored, rotated by its highest bits."""

    def generate(context, builder, signature, arguments):
        state, out, count = arguments
        pair = builder.load(builder.inttoptr(state, I128.as_pointer().as_pointer()))
        x, c = (builder.load(builder.gep(pair, [I64(i)]), align=8) for i in (0, 1))
        lanes = ir.VectorType(I64, LANES)

        def after(x, k):
            q, p = (I128(number) for number in _steps(k))
            return builder.add(builder.mul(x, q), builder.mul(c, p))

        def halves(x):
            return builder.trunc(builder.lshr(x, I128(64)), I64), builder.trunc(x, I64)

        def put(x, place):
            high, low = x
            folded, rotation = builder.xor(high, low), builder.lshr(high, _constant(high.type, 58))
            left = builder.and_(builder.neg(rotation), _constant(high.type, 63))
            output = builder.or_(builder.lshr(folded, rotation), builder.shl(folded, left))
            where = builder.add(out, builder.shl(place, I64(3)))
            builder.store(output, builder.inttoptr(where, output.type.as_pointer()), align=4)

        def vectors(numbers):
            parts = [ir.Constant(lanes, ir.Undefined)] * 2
            for lane, x in enumerate(numbers):
                pairs = zip(parts, halves(x), strict=True)
                parts = [builder.insert_element(part, half, I32(lane)) for part, half in pairs]
            return parts

        # the latest states, one a lane: all advance by the number of lanes
        states = vectors(after(x, lane + 1 - LANES) for lane in range(LANES))
        high, low = (cgutils.alloca_once_value(builder, part) for part in states)
        q, p = _steps(LANES)
        plus = vectors([builder.mul(c, I128(p))] * LANES)
        whole = builder.udiv(count, I64(LANES))
        with cgutils.for_range(builder, whole) as loop:
            states = _advanced(builder, builder.load(high), builder.load(low), q, plus)
            builder.store(states[0], high)
            builder.store(states[1], low)
            put(states, builder.mul(loop.index, I64(LANES)))
        ends = [builder.extract_element(builder.load(part), I32(LANES - 1)) for part in (high, low)]
        high, low = (builder.zext(end, I128) for end in ends)
        last = cgutils.alloca_once_value(builder, builder.or_(builder.shl(high, I128(64)), low))
        done = builder.mul(whole, I64(LANES))
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            builder.store(after(builder.load(last), 1), last)
            put(halves(builder.load(last)), builder.add(done, loop.index))
        builder.store(builder.load(last), pair, align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _constant(of_type, value):
    """A constant of a type, which may be that of a vector."""
    return ir.Constant(of_type, [value] * LANES if isinstance(of_type, ir.VectorType) else value)


def _advanced(builder, high, low, q, plus):
    """``q x + plus`` for vectors of 128-bit numbers, by long multiplication of 32-bit digits."""

    def times(x, digit):
        return builder.mul(x, _constant(low.type, q >> 32 * digit & 0xFFFFFFFF))

    def first(x):
        return builder.and_(x, _constant(low.type, 0xFFFFFFFF))

    def second(x):
        return builder.lshr(x, _constant(low.type, 32))

    def raised(x):
        return builder.shl(x, _constant(low.type, 32))

    def total(*parts):
        return functools.reduce(builder.add, parts)

    a, b, c, d = first(low), second(low), first(high), second(high)
    units = times(a, 0)
    middle = total(times(b, 0), second(units))
    other = total(times(a, 1), first(middle))
    lower = total(builder.or_(raised(other), first(units)), plus[1])
    carry = builder.zext(builder.icmp_unsigned("<", lower, plus[1]), low.type)
    thirds = total(times(b, 1), second(middle), second(other), times(a, 2), times(c, 0))
    fourths = total(times(a, 3), times(b, 2), times(c, 1), times(d, 0))
    return total(thirds, raised(fourths), plus[0], carry), lower


def _of_bits(shift, exponent, signed):
    """A function that gives a number's bits without the last ones, as an integer times 2^exponent."""

    @intrinsic
    def convert(typing, x):
        def generate(context, builder, signature, arguments):
            which = int(x == types.float64)
            integer, of_type = (I32, I64)[which], context.get_value_type(x)
            bits = builder.lshr(builder.bitcast(arguments[0], integer), integer(shift[which]))
            value = (builder.sitofp if signed else builder.uitofp)(bits, of_type)
            return builder.fmul(value, ir.Constant(of_type, 2.0 ** exponent[which]))

        return x(x), generate

    return convert


_unit = _of_bits((8, 11), (-24, -53), True)  # from 0 to below 1, as NumPy makes it
_count = _of_bits((0, 0), (0, 0), False)  # all bits, from 0 to 2³²
_turn = _of_bits((0, 0), (-30, -62), True)  # from -2 to 2: an angle in quarters of a turn


@kernel("uniform")
def uniform(r, like):
    # count, numbers, state, its function; without a state, zeros
    out, state, function = view(r[2], r[1], like), r[3], r[4]
    for i in range(out.size):
        out[i] = draw(function, state, like) if state else real(0, out[i])


@kernel("uniform of PCG64")
def uniform_of_pcg64(r, like):
    # count, numbers, a PCG64's state, its function
    widest()
    out, state, function = view(r[2], r[1], like), r[3], r[4]
    size = 8 // out.itemsize  # numbers that an output of 64 bits makes
    # half an output may be left, which comes first; the last draw is the generator's, so that the half
    # it leaves is stored
    start = pointer(state, np.int64)[1] & (size - 1)
    bulk = max(0, (out.size - start - size + 1) // size)
    for i in range(start):
        out[i] = draw(function, state, like)
    _pcg64(state, r[2] + start * out.itemsize, bulk)
    bits = out[start : start + bulk * size]
    for i in range(bits.size):
        bits[i] = _unit(bits[i])
    for i in range(start + bits.size, out.size):
        out[i] = draw(function, state, like)


# (log(1 + f) - f + f²/2) / f³ for 1 + f from √½ to √2; (sin y - y) / y³ and (cos y - 1 + y²/2) / y⁴ as
# series of y² for |y| ≤ π/4: interpolation in Chebyshev's points
_log_series = series(
    [
        0.3333333134651184,
        -0.25000306963920593,
        0.20001044869422913,
        -0.166412815451622,
        0.14214496314525604,
        -0.12998183071613312,
        0.12622319161891937,
        -0.0790274366736412,
    ],
    [],
)
_sin_series = series([-0.166666641831398, 0.008332747966051102, -0.00019587890710681677], [])
_cos_series = series([0.0416666641831398, -0.001388830249197781, 2.454794230288826e-05], [])
_shift = series([1.5 * 2**23], [])  # adding it leaves whole numbers


@intrinsic
def _apart(typing, x):
    """Exponent n and fraction 2⁻ⁿ x, from √½ to √2, of a positive normal number of float32."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], I32)
        n = builder.ashr(builder.sub(bits, I32(0x3F3504F3)), I32(23))
        fraction = builder.bitcast(builder.sub(bits, builder.shl(n, I32(23))), ir.FloatType())
        pair = [builder.sitofp(n, ir.FloatType()), fraction]
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(x, 2)(x), generate


@scalar
def _log(x):
    n, m = _apart(x)
    f = m - real(1, x)
    square = f * f
    return n * real(math.log(2), x) + (f - real(0.5, x) * square + f * square * _log_series(f))


@scalar
def _circle(radius_bits, angle_bits, strength):
    """Two normal numbers of 32 random bits each, by Box and Muller."""
    one, half = real(1, strength), real(0.5, strength)
    u = (_count(radius_bits) + half) * real(2.0**-32, strength)
    radius = strength * math.sqrt(real(-2, strength) * _log(u))
    # the angle is k quarters of a turn and at most half a one more
    quarters, shift = _turn(angle_bits), _shift(strength)
    k = (quarters + shift) - shift
    y = (quarters - k) * real(math.pi / 2, strength)
    w = y * y
    s = y + y * w * _sin_series(w)
    c = one - half * w + w * w * _cos_series(w)
    odd = k * k == one
    cos, sin = (s if odd else c), (c if odd else s)
    cos = cos if abs(k + half) < one else -cos
    sin = sin if abs(k - half) < one else -sin
    return radius * cos, radius * sin


@njit(fastmath={"contract"}, error_model="numpy")
def _add_circles(first, second, radii, angles, strength):
    """Add to the second half of a block, which may be 1 shorter, and to the first."""
    widest()
    for i in range(second.size):
        x, y = _circle(radii[i], angles[i], strength)
        first[i] += x
        second[i] += y
    for i in range(second.size, first.size):  # the last of an odd number
        first[i] += _circle(radii[i], angles[i], strength)[0]


@kernel("gaussian noise")
def gaussian_noise(r, like):
    # count, x, state, its function or 0 for a PCG64's, strength, scratch
    widest()
    x, strength, bits = view(r[2], r[1], like), number(r[5], like), view(r[6], NOISE_BLOCK, like)
    outputs, function = carray(pointer(r[6], np.int64), NOISE_BLOCK // 2), r[4]
    for start in range(0, x.size, NOISE_BLOCK):
        size = min(NOISE_BLOCK, x.size - start)
        half = (size + 1) // 2
        if function:
            for i in range(half):
                outputs[i] = draw(function, r[3], np.int64)
        else:
            _pcg64(r[3], r[6], half)
        first, second = x[start : start + half], x[start + half : start + size]
        _add_circles(first, second, bits[:half], bits[half:], strength)


@kernel("normal noise")
def normal_noise(r, like):
    # count, x, bit generator, what fills an array from it, strength, scratch
    widest()
    x, strength, noise = view(r[2], r[1], like), number(r[5], like), view(r[6], NOISE_BLOCK, like)
    for start in range(0, x.size, NOISE_BLOCK):
        size = min(NOISE_BLOCK, x.size - start)
        call(r[4], (r[3], size, r[6]))
        for i in range(size):
            x[start + i] += strength * noise[i]
