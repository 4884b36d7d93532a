// The times at which a policy asked to be woken: a heap.

#ifndef WAKES_H
#define WAKES_H

#include <math.h>

#include "growing.h"

typedef struct {
    double *times_s;
    int64_t count, capacity;
} wakes_t;

static inline double next_wake(const wakes_t *wakes) { return wakes->count ? wakes->times_s[0] : INFINITY; }

// Add a time, unless it never comes; false without memory.
static inline bool add_wake(wakes_t *wakes, double time_s) {
    if (!(time_s < INFINITY)) return true;
    if (!reserve((void **)&wakes->times_s, &wakes->capacity, wakes->count + 1, sizeof *wakes->times_s)) return false;
    int64_t at = wakes->count++;
    for (; at && wakes->times_s[(at - 1) / 2] > time_s; at = (at - 1) / 2)
        wakes->times_s[at] = wakes->times_s[(at - 1) / 2];
    wakes->times_s[at] = time_s;
    return true;
}

static inline void remove_next_wake(wakes_t *wakes) {
    double last_s = wakes->times_s[--wakes->count];
    int64_t at = 0, count = wakes->count;
    for (int64_t below; (below = 2 * at + 1) < count; at = below) {
        if (below + 1 < count && wakes->times_s[below + 1] < wakes->times_s[below]) below++;
        if (wakes->times_s[below] >= last_s) break;
        wakes->times_s[at] = wakes->times_s[below];
    }
    wakes->times_s[at] = last_s;
}

// Remove the next time. One that was asked for twice comes once.
static inline void take_wake(wakes_t *wakes) {
    for (double time_s = next_wake(wakes); wakes->count && wakes->times_s[0] == time_s;)
        remove_next_wake(wakes);
}

#endif
