"""What Numba lacks, as LLVM IR: numbers of a kernel's type, memory, calls by address, atomics."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bpengine.backends import norms

__all__ = [
    "atomic_add_one",
    "atomic_load",
    "call",
    "draw",
    "overflow_unit",
    "pointer",
    "real",
    "scaled",
    "series",
    "two_to",
    "widest",
]

I32, I64 = ir.IntType(32), ir.IntType(64)
# of float32 and float64: bits of the fraction, bias of the exponent
FORMATS = {types.float32: (ir.IntType(32), 23, 127), types.float64: (ir.IntType(64), 52, 1023)}


@intrinsic
def real(typing, value, like):
    """``value``, a number of any type, as one of the type of `like`."""

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], value, like)

    return like(value, like), generate


def series(single, double):
    """A polynomial c₀ + c₁ x + c₂ x² + …, with coefficients for float32 and for float64."""

    @intrinsic
    def polynomial(typing, x):
        def generate(context, builder, signature, arguments):
            of_type = context.get_value_type(x)
            *rest, total = (ir.Constant(of_type, c) for c in (single, double)[x == types.float64])
            for c in reversed(rest):
                product = builder.fmul(total, arguments[0], flags=("contract",))
                total = builder.fadd(product, c, flags=("contract",))
            return total

        return x(x), generate

    return polynomial


_greatest = (float(np.finfo(of_type).max) for of_type in ("float32", "float64"))
overflow_unit = series(*([norms.overflow_unit(x)] for x in _greatest))


@intrinsic
def two_to(typing, shifted):
    """2ⁿ for a normal result, where n stands in the last bits of ``shifted = n + 1.5 · 2ᵖ``."""

    def generate(context, builder, signature, arguments):
        return _two_to(builder, shifted, _whole(builder, shifted, arguments[0]))

    return shifted(shifted), generate


@intrinsic
def scaled(typing, x, shifted):
    """``x · 2ⁿ`` with n as in `two_to`, correct also where it overflows or is subnormal."""

    def generate(context, builder, signature, arguments):
        n = _whole(builder, x, arguments[1])
        half = builder.ashr(n, n.type(1))
        for part in (half, builder.sub(n, half)):
            arguments = [builder.fmul(arguments[0], _two_to(builder, x, part))]
        return arguments[0]

    return x(x, x), generate


def _whole(builder, of_type, shifted):
    integer, fraction, _ = FORMATS[of_type]
    bits = builder.bitcast(shifted, integer)
    # 1.5 · 2^fraction: its exponent, and the first bit of its fraction
    zero = ((FORMATS[of_type][2] + fraction) << fraction) + (1 << (fraction - 1))
    return builder.sub(bits, integer(zero))


def _two_to(builder, of_type, n):
    integer, fraction, bias = FORMATS[of_type]
    bits = builder.shl(builder.add(n, integer(bias)), integer(fraction))
    return builder.bitcast(bits, ir.FloatType() if fraction == 23 else ir.DoubleType())


@intrinsic
def pointer(typing, address, like):
    """The memory at an address, as a pointer to a type, or to what another pointer points to."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), generate


@intrinsic
def widest(typing):
    """Let LLVM use vectors of 512 bits in this function's loops, where it prefers 256."""

    def generate(context, builder, signature, arguments):
        # llvmlite writes any attribute, but its own `add` refuses those that it does not know
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def call(typing, function, arguments):
    """Call the C function at an address with a tuple of numbers and addresses; it gives nothing."""

    def generate(context, builder, signature, values):
        operands = cgutils.unpack_tuple(builder, values[1])
        kind = ir.FunctionType(ir.VoidType(), [x.type for x in operands])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), operands)
        return context.get_dummy_value()

    return types.void(function, arguments), generate


@intrinsic
def draw(typing, function, state, like):
    """Call a bit generator's function at an address with its state.

    For float32 it gives 32 bits, of which 24 become a number from 0 to below 1; for float64 such a
    number; for int64 it gives 64 bits.
    """
    single, integer = like.dtype == types.float32, like.dtype == types.int64

    def generate(context, builder, signature, arguments):
        opaque = ir.PointerType(ir.IntType(8))
        kind = I32 if single else (I64 if integer else ir.DoubleType())
        function = ir.FunctionType(kind, [opaque]).as_pointer()
        state = builder.inttoptr(arguments[1], opaque)
        found = builder.call(builder.inttoptr(arguments[0], function), [state])
        if not single:
            return found
        value = builder.uitofp(builder.lshr(found, I32(8)), ir.FloatType())
        return builder.fmul(value, ir.Constant(ir.FloatType(), 2.0**-24))

    return like.dtype(types.int64, types.int64, like), generate


@intrinsic
def atomic_add_one(typing, address):
    """Add 1 to the integer at an address, visible to other threads."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], I64.as_pointer())
        builder.atomic_rmw("add", place, I64(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def atomic_load(typing, address):
    """The integer at an address, as other threads have left it."""

    def generate(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], I64.as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.int64), generate
