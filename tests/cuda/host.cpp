// Blocks of threads on a host: block after block, and a block's threads in turns. Where a kernel has
// barriers, a thread runs to its next one, so that shared memory and barriers work as on a device.
#include "host.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;

struct Thread {
    ucontext_t start;
    jmp_buf at;
    std::vector<char> stack;
    bool started, done;
};

static ucontext_t first;
static jmp_buf scheduler;
static std::deque<Thread> threads; // they are used again: a switch between them is no system call
static void (*kernel)();

void __syncthreads() {
    if (!_setjmp(threads[threadIdx.x].at)) _longjmp(scheduler, 1);
}

static void thread() {
    for (;;) {
        kernel();
        threads[threadIdx.x].done = true;
        __syncthreads();
    }
}

static void resume(Thread &t) {
    if (_setjmp(scheduler)) return;
    if (t.started) _longjmp(t.at, 1);
    t.started = true;
    t.stack.resize((1 << 15) + 320);
    getcontext(&t.start);
    t.start.uc_stack.ss_sp = t.stack.data();
    t.start.uc_stack.ss_size = t.stack.size();
    t.start.uc_link = nullptr;
    makecontext(&t.start, thread, 0);
    swapcontext(&first, &t.start);
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
        while (threads.size() < block) threads.emplace_back();
        for (unsigned int i = 0; i < block; i++) threads[i].done = false;
        for (bool any = true; any;) {
            any = false;
            for (unsigned int i = 0; i < block; i++) {
                if (threads[i].done) continue;
                threadIdx.x = i;
                resume(threads[i]);
                any = true;
            }
        }
    }
}
