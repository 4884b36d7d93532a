// The loop of a run: what Python gives it, what Python reads, and its functions.

#ifndef SERVING_LOOP_H
#define SERVING_LOOP_H

#include "backend.h"

// Of the Python enum of the same name: CoreChange.
typedef enum { HOLD, RESERVE, ADOPT, RELEASE } core_change_t;

// layers: how many each model has. load_s: how long a load of each takes, or NULL. own_bytes: what a backend keeps of a
// query. slots: how many blocks may run at once. The line after it is for loop_run(): close_s: when the run is cut off;
// sigma: of the error of the pressure sensor (pressure_sensor.py), where it has one.
typedef struct {
    const int32_t *layers;
    const double *load_s;
    int64_t own_bytes, queries;
    double close_s, sigma;
    int32_t cores, slots, pinned, is_noisy;
} run_t;

// A batch of the trace in order of arrival, with own_bytes for each query.
typedef struct {
    const int64_t *ids;
    const int32_t *models;
    const double *arrivals_s, *targets_s;
    const void *own;
    int64_t count;
} arrivals_t;

// oldest: the index in the trace of the query that waits longest. slot, cores, change: the block whose cores change, and first_core
// as of the command that starts it.
typedef struct {
    const record_t *records;
    int64_t record_count, waiting, oldest;
    int32_t free_cores, slot, cores, first_core;
    core_change_t change;
} loop_state_t;

typedef struct loop loop_t;

loop_t *loop_new(const backend_t *backend, const decider_t *decider, const run_t *run);
void loop_free(loop_t *loop);
loop_state_t *loop_state(loop_t *loop);
const view_t *loop_view(const loop_t *loop);
int loop_run(loop_t *loop);
int loop_enter(loop_t *loop, const event_t *event);
int loop_decide(loop_t *loop);
int loop_apply(loop_t *loop);
const commands_t *loop_commands(const loop_t *loop);
double loop_next_wake(const loop_t *loop);
void loop_add_arrivals(loop_t *loop, const arrivals_t *arrivals);
void loop_add_errors(loop_t *loop, const double *errors, int64_t count);
void loop_take_records(loop_t *loop);
bool loop_can_withdraw(const loop_t *loop, int64_t id);
bool loop_renew(loop_t *loop, const decider_t *decider, const int32_t *layers, const int32_t *models);

// A decider in Python, to which each call back and forth is long: it is asked once the pressure is read and there are
// ASKED_COMMANDS commands to be written, all zero; what it makes of them it counts.
enum { ASKED_COMMANDS = 8 };
typedef struct {
    int (*ask)(const view_t *view, commands_t *commands);
    double pressure;
} asked_t;

int decide_by_asking(void *asked, const view_t *view, commands_t *commands);
int commands_make(commands_t *commands, int64_t count);
const int32_t *view_ended(const view_t *view);

#endif
