// A kernel that does nothing but meet on all its cores, and notes how long it took to get there and back.

#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "fork_kernel.h"

// TVM's runtime (tvm/runtime/c_backend_api.h), as kernel libraries have it: the workers put their own launch here.
typedef struct {
    void *sync_handle;
    int32_t num_task;
} env_t;
typedef int (*lambda_t)(int, env_t *, void *);

static int on_this_core(lambda_t lambda, void *data, int tasks) {
    env_t env = {NULL, 1};
    (void)tasks;
    return lambda(0, &env, data);
}

int (*__TVMBackendParallelLaunch)(lambda_t, void *, int) = on_this_core;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1000000000ull * (uint64_t)time.tv_sec + (uint64_t)time.tv_nsec;
}

static int meet(int task, env_t *env, void *data) {
    fork_t *fork = data;
    (void)task, (void)env;
    if (atomic_fetch_add(&fork->arrived, 1) + 1 == fork->tasks) atomic_store(&fork->met_ns, now_ns());
    // Stay until all are here, so that none of the cores runs two of the tasks.
    while (atomic_load(&fork->arrived) < fork->tasks)
        sched_yield();
    return 0;
}

int fork_and_join(void *self, const void *arguments, int32_t count, void *result) {
    fork_t *fork = self;
    (void)arguments, (void)count, (void)result;
    atomic_store(&fork->arrived, 0);
    uint64_t start_ns = now_ns();
    int failed = __TVMBackendParallelLaunch(meet, fork, (int)fork->tasks);
    fork->join_ns = now_ns() - atomic_load(&fork->met_ns);
    fork->launch_ns = atomic_load(&fork->met_ns) - start_ns;
    return failed;
}
