// Blocks of threads on a host: block after block, and a block's threads in turns. Where a kernel has
// barriers, a thread runs to its next one, so that shared memory and barriers work as on a device.
#include "host.hpp"

#include <ucontext.h>

#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;

static ucontext_t scheduler;
static std::vector<ucontext_t> threads;
static std::vector<std::vector<char>> stacks;
static std::vector<bool> done;
static void (*kernel)();

void __syncthreads() { swapcontext(&threads[threadIdx.x], &scheduler); }

static void thread() {
    kernel();
    done[threadIdx.x] = true;
    swapcontext(&threads[threadIdx.x], &scheduler);
}

void run_on_host(unsigned int grid, unsigned int block, bool waits, void (*body)()) {
    kernel = body;
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
