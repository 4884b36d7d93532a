// Two threads and a futex: the least that it takes to bring work to a core that is halted.

#define _GNU_SOURCE
#include "wake_up.h"

#include <pthread.h>
#include <sched.h>

#include "../../machine/workers/sleeping.h"

typedef struct {
    sleeper_t sleeper;
    _Atomic(uint64_t) woken_ns;  // 0: it waits
    _Atomic(uint32_t) rounds, is_over;
    int32_t core;
} woken_t;

static void pin_to(int32_t core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    sched_setaffinity(0, sizeof cores, &cores);
}

static bool has_been_rung(void *owner) { return atomic_load(&((woken_t *)owner)->is_over); }

static void *wait_and_note(void *argument) {
    woken_t *woken = argument;
    pin_to(woken->core);
    while (!atomic_load(&woken->is_over)) {
        if (sleep_unless(&woken->sleeper, has_been_rung, woken, NULL) == 0) atomic_store(&woken->woken_ns, now_ns());
    }
    return NULL;
}

typedef struct {
    woken_t *woken;
    int64_t gap_ns;
    double *seconds;
    int32_t core, count;
} waking_t;

static void *wake_and_measure(void *argument) {
    waking_t *waking = argument;
    struct timespec gap = span((uint64_t)waking->gap_ns);
    pin_to(waking->core);
    for (int32_t index = 0; index < waking->count; ++index) {
        atomic_store(&waking->woken->woken_ns, 0);
        nanosleep(&gap, NULL);
        uint64_t began_ns = now_ns(), woken_ns;
        wake(&waking->woken->sleeper);
        while (!(woken_ns = atomic_load(&waking->woken->woken_ns)))
            sched_yield();
        waking->seconds[index] = 1e-9 * (double)(woken_ns - began_ns);
    }
    atomic_store(&waking->woken->is_over, 1);
    wake(&waking->woken->sleeper);
    return NULL;
}

// Measure the seconds from a call that wakes a thread on another core to its first instruction, `count` times, each after
// a rest of both. Returns 0 or an errno.
int measure_wake_ups(int32_t waking_core, int32_t woken_core, int32_t count, int64_t gap_ns, double *seconds) {
    woken_t woken = {.core = woken_core};
    waking_t waking = {&woken, gap_ns, seconds, waking_core, count};
    pthread_t threads[2];
    int error = pthread_create(&threads[0], NULL, wait_and_note, &woken);
    if (error) return error;
    error = pthread_create(&threads[1], NULL, wake_and_measure, &waking);
    if (error) {
        atomic_store(&woken.is_over, 1);
        wake(&woken.sleeper);
    } else {
        pthread_join(threads[1], NULL);
    }
    pthread_join(threads[0], NULL);
    return error;
}
