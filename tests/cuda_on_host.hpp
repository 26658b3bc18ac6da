// CUDA's kernels on a host: what the sources use of CUDA, as C++. A block's threads take turns: each runs
// until it waits for the others, so that shared memory and barriers are as they are on a device.
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
using std::exp;
using std::expm1;
using std::fabs;
using std::hypot;
using std::log1p;
using std::sqrt;
using std::tanh;

struct Index {
    unsigned int x;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

static ucontext_t scheduler;
static std::vector<ucontext_t> threads;
static std::vector<std::vector<char>> stacks;
static std::vector<bool> done;

static void __syncthreads() { swapcontext(&threads[threadIdx.x], &scheduler); }

static void (*body)();
static void thread() {
    body();
    done[threadIdx.x] = true;
    swapcontext(&threads[threadIdx.x], &scheduler);
}

static void run(unsigned int grid, unsigned int block, bool waits) {
    gridDim.x = grid;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++) {
        if (!waits) {
            for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++) body();
            continue;
        }
        threads.resize(block);
        stacks.resize(block);
        done.assign(block, false);
        for (unsigned int i = 0; i < block; i++) {
            stacks[i].resize(1 << 15);
            getcontext(&threads[i]);
            threads[i].uc_stack.ss_sp = stacks[i].data();
            threads[i].uc_stack.ss_size = stacks[i].size();
            threads[i].uc_link = nullptr;
            makecontext(&threads[i], thread, 0);
        }
        for (bool any = true; any;) {
            any = false;
            for (unsigned int i = 0; i < block; i++) {
                if (done[i]) continue;
                threadIdx.x = i;
                swapcontext(&scheduler, &threads[i]);
                any = true;
            }
        }
    }
}
