"""CUDA sources: formulas of elementwise operations, and the kernels of all others.

Every kernel is plain C++ over `threadIdx` and `blockIdx`, without intrinsics, so that the same text also
compiles for a host: that is how its arithmetic is tested without a GPU. Comparisons are written so that
NaN propagates.
"""

from __future__ import annotations

__all__ = ["ELEMENTWISE", "HELPERS", "REALS", "SPECIAL", "UNIFORM"]

REALS = {"float32": "float", "float64": "double"}
HELPERS = """
typedef {real} T;
#define ROOT_TINY ((T){root_tiny})
#define UNIT ((T){unit})
#define GELU_SCALE ((T)0.7978845608028654)
__device__ inline T sign(T x) {{ return x > 0 ? (T)1 : x < 0 ? (T)-1 : x; }}
__device__ inline T at_least(T x, T low) {{ return x < low ? low : x; }}
__device__ inline bool infinite(T x) {{ return x == x && x - x != 0; }}
__device__ inline T within(T x, T low, T high) {{ return x < low ? low : x > high ? high : x; }}
__device__ inline T sigmoid(T z) {{
    const T e = exp(-fabs(z));
    return (z >= 0 ? (T)1 : e) / (1 + e);
}}
"""
# $0, $1, … are the inputs, of which some are written too; $o is the output, which is assigned last, as
# it may be one of the inputs
ELEMENTWISE: dict[str, str] = {
    "difference": "$o = ($0 - $1) * $2;",
    "reverse difference": "$o = $0 - $1;",
    "descend": "$o = $0 - $1;",
    "add": "$o = $0 + $1;",
    "shrink": "$o = $0 - $2 * $1;",
    "multiply": "$o = $0 * $1;",
    "hypot": "$o = hypot($0, $1);",
    "linear": "$o = $0;",
    "linear slope": "$o = $0;",
    "sigmoid": "$o = sigmoid($0);",
    "sigmoid slope": "$o = $0 * ($1 * (1 - $1));",
    "tanh": "$o = tanh($0);",
    "tanh slope": "$o = $0 * (1 - $1 * $1);",
    "relu": "$o = $0 < 0 ? (T)0 : $0;",
    "relu slope": "$o = $0 * sign($1);",
    "leaky_relu": "$o = $0 < 0 ? (T)0.01 * $0 : $0;",
    "leaky_relu slope": "$o = $0 * at_least(sign($1), (T)0.01);",
    "softplus": "$o = at_least($0, (T)0) + log1p(exp(-fabs($0)));",
    "softplus slope": "$o = -$0 * expm1(-$1);",
    "exponential": "$o = exp($0);",
    "exponential slope": "$o = $0 * $1;",
    "swish": "$o = $0 * sigmoid($0);",
    "swish slope": "const T s = sigmoid($1); $o = $0 * (s * (1 + $1 * (1 - s)));",
    "gelu": "$o = (T)0.5 * $0 * (1 + tanh(GELU_SCALE * ($0 + (T)0.044715 * $0 * $0 * $0)));",
    "gelu slope": (
        # beyond ±10 the slope is 1 or 0 to all digits; the cut keeps z² from overflowing
        "const T z = within($1, (T)-10, (T)10);"
        " const T t = tanh(GELU_SCALE * (z + (T)0.044715 * z * z * z));"
        " const T inner = GELU_SCALE * (1 + (T)(3 * 0.044715) * z * z);"
        " $o = $0 * ((T)0.5 * (1 + t) + (T)0.5 * z * (1 - t * t) * inner);"
    ),
    "absolute_error slope": "$o = sign($0 - $1) * $2;",
    "huber slope": "$o = within($0 - $1, (T)-1, (T)1) * $2;",
    "poisson slope": "$o = ($0 - $1) / at_least($0, ROOT_TINY) * $2;",
    "binary_cross_entropy slope": "$o = ($0 - $1) / at_least($0 * (1 - $0), ROOT_TINY) * $2;",
    "clip factors": "$o = $2 * ($1 / at_least($0, $1));",
    "l2": "$o = $0 + $2 * $1;",
    "l1": "$o = $0 + $2 * sign($1);",
    "dropout mask": "$o = $0 < $1 ? 1 / $1 : (T)0;",
    # v ← μ v - step, θ ← θ + v
    "momentum": "$2 = $3 * $2 - $1; $o = $0 + $2;",
    "nesterov": "$2 = $3 * $2 - $1; $o = $0 + ($3 * $2 - $1);",
    "rmsprop": "$2 = $3 * $2 + $4 * $1 * $1; $o = $0 - $6 * $1 / (sqrt($2) + $5);",
    "adagrad": "$2 = $2 + $1 * $1; $o = $0 - $4 * $1 / (sqrt($2) + $3);",
    # the sums of the weights, and with them α = η √W₂ / W₁ and ε' = ε √W₂
    "adam weights": (
        "$0 = $2 * $0 + 1; $1 = $3 * $1 + 1;"
        " const T root = sqrt($1); $6 = $5 * root; $o = $4 * root / $0;"
    ),
    # η m̂ / (√v̂ + ε) = α G / (√S + ε')
    "adam": "$2 = $4 * $2 + $1; $3 = $5 * $3 + $1 * $1; $o = $0 - $7 * $2 / (sqrt($3) + $6);",
    "average share": "$0 = $0 + 1; $o = at_least(1 / $0, $1);",
    "average": "$o = $0 + $2 * ($1 - $0);",
}


for name in ("clip", "decay", "dropout", "weigh", "scale columns", "column products"):
    ELEMENTWISE[name] = ELEMENTWISE["multiply"]


# NumPy's PCG64: x ← A x + c on 128 bits, of which an output has 64. The state in memory is that of the
# generator before the step: (high, low) of x and of c, whether half of an output is left, and that half.
UNIFORM = """
typedef unsigned long long u64; typedef unsigned __int128 u128;
__device__ inline u128 join(u64 high, u64 low) { return ((u128)high << 64) | low; }
// A^k x + c (A^k - 1) / (A - 1), by squaring: F. Brown, Random number generation with arbitrary strides
__device__ inline u128 after(u128 x, u128 c, u64 k) {
    u128 a = join(2549297995355413924ULL, 4865540595714422341ULL), times = 1, plus = 0;
    while (k) {
        if (k & 1) { times *= a; plus = plus * a + c; }
        c = (a + 1) * c; a *= a; k >>= 1;
    }
    return times * x + plus;
}
__device__ inline u64 output(u128 x) {
    const u64 folded = (u64)(x >> 64) ^ (u64)x; const int rotation = (int)(x >> 122);
    return (folded >> rotation) | (folded << ((64 - rotation) & 63));
}
// the k-th number, from 0 on, that the generator gives next
__device__ inline double uniform(const u64* s, u64 k, double) {
    const u64 x = output(after(join(s[0], s[1]), join(s[2], s[3]), k + 1));
    return (double)(x >> 11) * (1.0 / 9007199254740992.0);
}
__device__ inline float uniform(const u64* s, u64 k, float) {
    unsigned int half;
    if (s[4] && k == 0) {
        half = (unsigned int)s[5];
    } else {
        const u64 at = k - s[4];
        const u64 x = output(after(join(s[0], s[1]), join(s[2], s[3]), at / 2 + 1));
        half = (unsigned int)(at % 2 ? x >> 32 : x);
    }
    return (float)(half >> 8) * (1.0f / 16777216.0f);
}
"""
ADVANCE = """
extern "C" __global__ void advance_state(u64* s, u64 count) {
    u64 steps = count;
    if (sizeof(T) == 4) {
        const u64 left = count - s[4];
        steps = (left + 1) / 2;
        s[4] = left % 2;
    }
    if (!steps) return;
    const u128 x = after(join(s[0], s[1]), join(s[2], s[3]), steps);
    s[0] = (u64)(x >> 64); s[1] = (u64)x;
    if (sizeof(T) == 4) s[5] = output(x) >> 32;
}
"""
COLUMNS = """for (long long c = blockIdx.x * (long long)blockDim.x + threadIdx.x; c < count;
         c += (long long)gridDim.x * blockDim.x)"""
SOFTMAX = f"""
extern "C" __global__ void softmax(long long n, long long m, long long count,
    const T* z, long long zp, long long zr, long long zc,
    T* a, long long ap, long long ar, long long ac) {{
    {COLUMNS} {{
        const T* x = z + c / m * zp + c % m * zc;
        T* y = a + c / m * ap + c % m * ac;
        T top = x[0], sum = 0;
        for (long long k = 1; k < n; k++) {{
            const T next = x[k * zr];
            top = next > top || next != next ? next : top;
        }}
        for (long long k = 0; k < n; k++) {{
            const T e = exp(x[k * zr] - top);
            y[k * ar] = e;
            sum += e;
        }}
        for (long long k = 0; k < n; k++) y[k * ar] /= sum;
    }}
}}
"""
SOFTMAX_SLOPE = f"""
extern "C" __global__ void softmax_slope(long long n, long long m, long long count,
    const T* g, long long gp, long long gr, long long gc, const T* a, long long ap, long long ar,
    long long ac, T* d, long long dp, long long dr, long long dc) {{
    {COLUMNS} {{
        const T* x = g + c / m * gp + c % m * gc;
        const T* y = a + c / m * ap + c % m * ac;
        T* to = d + c / m * dp + c % m * dc;
        T sum = 0;
        for (long long k = 0; k < n; k++) sum += x[k * gr] * y[k * ar];
        for (long long k = 0; k < n; k++) to[k * dr] = y[k * ar] * (x[k * gr] - sum);
    }}
}}
"""
# the sum over a block's threads, in the same order each time; all threads get it
BLOCK_SUM = """
__device__ inline T block_sum(T* shared, T part) {
    shared[threadIdx.x] = part;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    const T sum = shared[0];
    __syncthreads();
    return sum;
}
"""
# where squares overflow, or underflow in a norm above `least`: of numbers times a power of two
BLOCK_NORM = """
__device__ inline T block_norm(T* shared, long long n, const T* x, long long step,
    T least) {
    for (T unit = 1;;) {
        T part = 0;
        for (long long k = threadIdx.x; k < n; k += blockDim.x)
            part += unit * x[k * step] * (unit * x[k * step]);
        const T sum = block_sum(shared, part);
        const bool large = infinite(sum);
        if (unit != 1 || !(large || (sum < UNIT && least * least < UNIT))) return sqrt(sum) / unit;
        unit = large ? UNIT : 1 / UNIT;
    }
}
"""
SQUARE_SUMS = """
extern "C" __global__ void square_sums(long long n, const T* x, T* sums) {
    __shared__ T shared[256];
    T part = 0;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n;
         i += (long long)gridDim.x * blockDim.x) part += x[i] * x[i];
    const T sum = block_sum(shared, part);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
"""
CLIP_FACTOR = """
extern "C" __global__ void clip_factor(long long n, const T* sums, long long size, const T* g,
    const T* bound, T* out) {
    __shared__ T shared[256];
    T part = 0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) part += sums[i];
    const T sum = block_sum(shared, part);
    const T norm = infinite(sum) || sum < UNIT ? block_norm(shared, size, g, 1, *bound) : sqrt(sum);
    if (threadIdx.x == 0) *out = *bound / at_least(norm, *bound);
}
"""
MAX_NORM = """
extern "C" __global__ void max_norm(long long rows, long long n,
    const T* w, long long wr, long long wc, const T* bound, T* out, long long tr, long long tc) {
    __shared__ T shared[256];
    for (long long r = blockIdx.x; r < rows; r += gridDim.x) {
        const T factor = *bound / at_least(block_norm(shared, n, w + r * wr, wc, *bound), *bound);
        for (long long k = threadIdx.x; k < n; k += blockDim.x)
            out[r * tr + k * tc] = w[r * wr + k * wc] * factor;
    }
}
"""
PRODUCT_NORMS = """
extern "C" __global__ void product_norms(long long n, long long k, long long m, long long count,
    const T* d, long long dp, long long dr, long long dc, const T* x, long long xp, long long xr,
    long long xc, T* out, long long op, long long oc) {
    __shared__ T shared[256];
    for (long long c = blockIdx.x; c < count; c += gridDim.x) {
        const T* left = d + c / m * dp + c % m * dc;
        const T* right = x + c / m * xp + c % m * xc;
        const T first = block_norm(shared, n, left, dr, 0);
        const T second = block_norm(shared, k, right, xr, 0);
        if (threadIdx.x == 0) out[c / m * op + c % m * oc] = first * second;
    }
}
"""
# at[0] is the step that gathers, at[1] the one that stores: neither kernel writes what it reads, and
# every replay advances them
GATHER = """
extern "C" __global__ void gather(long long m, long long width, const T* from, long long stride,
    T* rows, long long row, const long long* numbers, long long* at) {
    const long long first = at[0] * m;
    for (long long r = blockIdx.x; r < m; r += gridDim.x) {
        const T* x = from + numbers[first + r] * stride;
        for (long long c = threadIdx.x; c < width; c += blockDim.x) rows[r * row + c] = x[c];
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) at[1] = at[0];
}
"""
STORE = """
extern "C" __global__ void store(long long n, const T* x, T* slots, long long step, long long* at) {
    T* slot = slots + at[1] * step;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n;
         i += (long long)gridDim.x * blockDim.x) {
        slot[i] = x[i];
        if (i == 0) at[0] = at[1] + 1;
    }
}
"""
# the step's row of a table of settings: number i goes to the i-th target
SETTINGS = """
extern "C" __global__ void settings(
    long long n, const T* table, T* const* targets, const long long* at) {
    for (long long i = threadIdx.x; i < n; i += blockDim.x) *targets[i] = table[at[0] * n + i];
}
"""
SPECIAL = {
    "softmax": SOFTMAX,
    "softmax_slope": SOFTMAX_SLOPE,
    "square_sums": BLOCK_SUM + SQUARE_SUMS,
    "clip_factor": BLOCK_SUM + BLOCK_NORM + CLIP_FACTOR,
    "max_norm": BLOCK_SUM + BLOCK_NORM + MAX_NORM,
    "product_norms": BLOCK_SUM + BLOCK_NORM + PRODUCT_NORMS,
    "gather": GATHER,
    "store": STORE,
    "settings": SETTINGS,
    "advance_state": UNIFORM + ADVANCE,
}
