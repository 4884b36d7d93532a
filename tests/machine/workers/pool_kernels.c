// Kernels for tests of the workers, with TVM FFI's safe call, and a parallel launch as kernel libraries have it.

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "pool_kernels.h"

typedef struct {
    void *sync_handle;
    int32_t num_task;
} env_t;
typedef int (*lambda_t)(int, env_t *, void *);

static int alone(lambda_t lambda, void *data, int tasks) {
    env_t env = {NULL, 1};
    (void)tasks;
    return lambda(0, &env, data);
}

int (*__TVMBackendParallelLaunch)(lambda_t, void *, int) = alone;

static int meet(int task, env_t *env, void *data) {
    meeting_t *meeting = data;
    meeting->tasks = env->num_task;
    meeting->cores[task % 64] = sched_getcpu();
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < meeting->wanted)
        sched_yield();
    return 0;
}

// Return once `wanted` tasks of the loop run at the same time: on so many cores.
int meeting(void *self, const void *arguments, int32_t count, void *result) {
    (void)arguments, (void)count, (void)result;
    return __TVMBackendParallelLaunch(meet, self, 0);
}

int nothing(void *self, const void *arguments, int32_t count, void *result) {
    (void)self, (void)arguments, (void)count, (void)result;
    return 0;
}

int crash(void *self, const void *arguments, int32_t count, void *result) {
    (void)self, (void)arguments, (void)count, (void)result;
    return *(volatile int *)8;
}

int refuse(void *self, const void *arguments, int32_t count, void *result) {
    (void)self, (void)arguments, (void)count, (void)result;
    return -1;
}
