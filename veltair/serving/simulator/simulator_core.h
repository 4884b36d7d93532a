// The simulator's inner loop, as serving_loop.c calls it; simulator_core.c says what each function does.

#ifndef SIMULATOR_CORE_H
#define SIMULATOR_CORE_H

#include <stdint.h>

enum { NOTHING = 0, BLOCK_END = 1, RESIZED = 2 };  // what simulator_advance() returns
enum { OK = 0, NOT_PROFILED = -1 };                // what start and resize return

// What others read.
typedef struct {
    double time_s;
    int64_t events, running;
    int32_t slot, cores;
} state_t;

typedef struct simulator simulator_t;

state_t *simulator_state(simulator_t *sim);
int32_t *simulator_ended(simulator_t *sim);
int simulator_start(simulator_t *sim, int32_t slot, int32_t model_place, int32_t first, int32_t last, int32_t cores,
                    const uint8_t *versions, const char *noise, double now_s);
int simulator_resize(simulator_t *sim, int32_t slot, int32_t cores, const uint8_t *versions, double due_s);
int simulator_advance(simulator_t *sim, double limit_s);
double simulator_pressure(simulator_t *sim);
void simulator_clear(simulator_t *sim);

#endif
