"""exp and related functions without branches, so that loops over them become vector instructions.

All are within 2 units in the last place, sigmoid and tanh within 2.5, for float32 and for float64;
infinities, NaN, zeros and subnormal numbers are handled. ``contract`` lets products and sums be fused;
reordering is not allowed, since the rounding of n depends on the order.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
from __future__ import annotations

import math

from numba.extending import register_jitable

from bpengine.backends.numba.intrinsics import real, scaled, series, two_to

__all__ = ["exp", "expm1", "log1p", "scalar", "sigmoid", "tanh"]

scalar = register_jitable(fastmath={"contract"}, error_model="numpy")
# adding it leaves n, rounded, in the last bits
_shift = series([1.5 * 2**23], [1.5 * 2**52])
_high = series([0.693359375], [0.6931471803691238])  # log 2, with zeros at the end: n times it is exact
_low = series([-0.00021219444005469057], [1.9082149292705877e-10])
_least = series([-104.0], [-746.0])  # eˣ of less is 0, of more than the next is infinite
_most = series([89.0], [710.0])
# x above which e⁻ˣ/2 is 0 in `sigmoid`, as far as the exponent's bits reach; below which e⁻ˣ overflows
_no_power, _overflow = series([87.5], [708.5]), series([-88.72283], [-709.782712893384])
# (eʳ - 1 - r) / r² for |r| ≤ log(2) / 2, and 2 (artanh √w - √w) / w^(3/2) for w ≤ 1/9: interpolation
# in Chebyshev's points
_exp_series = series(
    [
        0.5,
        0.1666666716337204,
        0.041666463017463684,
        0.00833331048488617,
        0.0013933820882812142,
        0.00019891180272679776,
    ],
    [
        0.5,
        0.1666666666666667,
        0.04166666666666667,
        0.008333333333326025,
        0.001388888888888367,
        0.00019841269875205077,
        2.4801587325822283e-05,
        2.75572549134867e-06,
        2.7557273295539724e-07,
        2.5105419192016337e-08,
        2.091483135138041e-09,
    ],
)
_log_series = series(
    [0.6666666865348816, 0.3999970555305481, 0.285923570394516, 0.2170657515525818, 0.23224329948425293],
    [
        0.6666666666666666,
        0.40000000000014585,
        0.2857142856710876,
        0.22222222717427864,
        0.18181789436132859,
        0.15385570064958623,
        0.13314144209654935,
        0.12001072809590713,
        0.08800738486144674,
        0.1616404561194353,
    ],
)


@scalar
def _reduced(x):
    """Gives n + shift, and e^r - 1 for r = x - n log 2."""
    shift = _shift(x)
    shifted = x * real(1 / math.log(2), x) + shift
    n = shifted - shift
    head, tail = x - n * _high(x), n * _low(x)
    r = head - tail
    lost = (head - r) - tail
    return shifted, r + (r * r * _exp_series(r) + lost)


@scalar
def exp(x):
    """e^x."""
    x = _least(x) if x < _least(x) else x
    x = _most(x) if x > _most(x) else x
    shifted, p = _reduced(x)
    return scaled(real(1, x) + p, shifted)


@scalar
def expm1(x):
    """e^x - 1."""
    y = real(-40, x) if x < real(-40, x) else x
    y = _most(x) if y > _most(x) else y
    shifted, p = _reduced(y)
    # 2ⁿ (p + 1) - 1; half of it first, so that n may be 1 above the greatest exponent
    half = real(0.5, x)
    power = two_to(shifted - real(1, x))
    far = (power * p + (power - half)) * real(2, x)
    # where n is 0 it is p, which far has no digits of if x is subnormal
    return p if abs(x) < real(0.25, x) else far


@scalar
def log1p(x):
    """log(1 + x), for 0 ≤ x ≤ 1 and NaN."""
    # 2 artanh s for s = x / (2 + x), with 2s = x - s x
    s = x / (real(2, x) + x)
    w = s * s
    return x - s * (x - w * _log_series(w))


@scalar
def sigmoid(x):
    """1 / (1 + e^-x)."""
    # 1/2 / (1/2 + e⁻ˣ/2), for the half does not overflow
    y = _no_power(x) if x > _no_power(x) else x
    y = _overflow(x) if y < _overflow(x) else y
    y = -y
    shift, half = _shift(x), real(0.5, x)
    shifted = y * real(1 / math.log(2), x) + shift
    n = shifted - shift
    r = (y - n * _high(x)) - n * _low(x)
    power, p = two_to(shifted - real(1, x)), r * r * _exp_series(r) + r
    return real(0, x) if x < _overflow(x) else half / (half + power * (real(1, x) + p))


@scalar
def tanh(x):
    """The hyperbolic tangent."""
    # -q / (2 + q) for q = e^(-2|x|) - 1, which is exact also where 2|x| is subnormal: n is 0 there
    y = real(-2, x) * abs(x)
    y = real(-40, x) if y < real(-40, x) else y
    shifted, p = _reduced(y)
    power = two_to(shifted)
    q = power * p + (power - real(1, x))
    return math.copysign(q / (real(2, x) + q), x)
