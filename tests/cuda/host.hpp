// What the kernels' sources use of CUDA, as C++ on a host.
#pragma once
#define __global__
#define __device__
#define __shared__ static

struct Index {
    unsigned int x;
};
extern "C" {
extern Index threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();
void run_on_host(unsigned int grid, unsigned int block, bool waits, void (*body)());
double exp(double), expm1(double), fabs(double), hypot(double, double), log1p(double), sqrt(double), tanh(double);
float expf(float), expm1f(float), fabsf(float), hypotf(float, float), log1pf(float), sqrtf(float), tanhf(float);
}
static inline float exp(float x) { return expf(x); }
static inline float expm1(float x) { return expm1f(x); }
static inline float fabs(float x) { return fabsf(x); }
static inline float hypot(float x, float y) { return hypotf(x, y); }
static inline float log1p(float x) { return log1pf(x); }
static inline float sqrt(float x) { return sqrtf(x); }
static inline float tanh(float x) { return tanhf(x); }
