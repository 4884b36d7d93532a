// How long it takes to wake a thread on a halted core, as arrivals.py measures it.

#ifndef WAKE_UP_H
#define WAKE_UP_H

#include <stdint.h>

int measure_wake_ups(int32_t waking_core, int32_t woken_core, int32_t count, int64_t gap_ns, double *seconds);

#endif
