// How threads of C sleep until there is work for them, and the clock that they go by.

#ifndef SLEEPING_H
#define SLEEPING_H

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    _Atomic(uint32_t) bell, asleep;
} sleeper_t;

static inline uint64_t read_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t now_ns(void) { return read_ns(CLOCK_MONOTONIC); }

// For how long this thread has run on a core: not while others had it, nor, where the kernel knows of it, other guests.
static inline uint64_t thread_ns(void) { return read_ns(CLOCK_THREAD_CPUTIME_ID); }

static inline struct timespec span(uint64_t ns) {
    return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

// Sleeping. Whoever sleeps announces it, then looks once more; whoever brings work leaves it, then looks
// whether someone is asleep: in sequentially consistent order one of them sees the other.

static inline long futex(_Atomic(uint32_t) *word, int what, uint32_t value, const struct timespec *timeout) {
    return syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

static inline void wake(sleeper_t *sleeper) {
    if (atomic_load(&sleeper->asleep) && atomic_exchange(&sleeper->asleep, 0)) {
        atomic_fetch_add(&sleeper->bell, 1);
        futex(&sleeper->bell, FUTEX_WAKE, 1, NULL);
    }
}

static inline int sleep_unless(sleeper_t *sleeper, bool (*has_work)(void *), void *owner,
                               const struct timespec *timeout) {
    uint32_t bell = atomic_load(&sleeper->bell);
    int error = 0;
    atomic_store(&sleeper->asleep, 1);
    if (!has_work(owner) && futex(&sleeper->bell, FUTEX_WAIT, bell, timeout) != 0) error = errno;
    atomic_store(&sleeper->asleep, 0);
    return error;
}

#endif
