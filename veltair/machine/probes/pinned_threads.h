// What programs of threads that are pinned to cores share. Needs _GNU_SOURCE.

#ifndef PINNED_THREADS_H
#define PINNED_THREADS_H

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// Return the seconds on the monotonic clock.
static inline double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// Let the calling thread run on one core only; end the program where that is not allowed.
static inline void pin(int core) {
    size_t size = CPU_ALLOC_SIZE(core + 1);
    cpu_set_t *set = CPU_ALLOC(core + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S(core, size, set);
    if (sched_setaffinity(0, size, set) != 0) {
        perror("cannot pin a thread to its core");
        exit(1);
    }
    CPU_FREE(set);
}

#endif
