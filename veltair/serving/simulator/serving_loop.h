// The loop of a simulated run: what Python gives it, what Python reads, and its functions. native_loop.py reads this.

#ifndef SERVING_LOOP_H
#define SERVING_LOOP_H

#include <stdint.h>

#include "simulator_core.h"

enum { NO_MEMORY = -2 };  // an error of loop_run(), beside NOT_PROFILED
typedef enum { NEED_ARRIVALS = 1, NEED_BLOCK, NEED_PINNING, NEED_ERRORS, RECORDS, DONE } loop_request_t;
// Of the Python enums of the same names: Order, Conflict, DropLate, DecisionKind, Ending, CoreChange.
typedef enum { FCFS, EDF, LLF } order_t;
typedef enum { WAIT, BACKFILL, SHRINK, SHRINK_ONE_LAYER } conflict_t;
typedef enum { NEVER, AT_DEADLINE, WHEN_DOOMED } drop_late_t;
typedef enum { BLOCKS, ALL_CORES, SHARES } decision_kind_t;
typedef enum { SERVED, REJECTED, UNFINISHED } ending_t;
typedef enum { HOLD, RESERVE, ADOPT, RELEASE } core_change_t;

// layers 0: not formed yet.
typedef struct {
    int32_t layers, cores;
} proposal_t;

// seconds: by level, layer and count (or NULL: Python forms blocks). shares_s: static budgets of single layers.
// remaining: seconds by level, first layer (one more than there are) and count. least: the least of them over counts.
// budgets: static ones from each layer on. averages: Avg_C by level. versions: by level, count and layer.
// proposals: by level, limit, scale and first layer.
typedef struct {
    const double *seconds, *shares_s, *remaining, *least, *budgets, *averages;
    const uint8_t *versions;
    proposal_t *proposals;
    int64_t layers;
} plan_model_t;

// How the policy decides. enough and loaded (or NULL): by level. slightly_more: 1 + tolerance.
typedef struct {
    const plan_model_t *models;
    const double *levels, *scales, *enough, *loaded;
    const int32_t *counts;
    int64_t level_count, count_count, scale_count, limit_count;
    double alpha, tolerance, slightly_more;
    decision_kind_t kind;
    order_t order;
    conflict_t conflict;
    drop_late_t drop_late;
    int32_t cores, follows_slack, follows_load, grows, coalesce_layers;
} plan_t;

// How a trace runs: the cut-off, and the error of the pressure sensor (pressure_sensor.py), 0 where it is exact.
typedef struct {
    int64_t queries, most_layers;
    double close_s, grant_s, sigma;
    int32_t pinned, is_noisy;
} run_t;

// A batch of the trace in order of arrival, noise being a row of most_layers for each query.
typedef struct {
    const int64_t *ids;
    const int32_t *models;
    const double *arrivals_s, *targets_s;
    const uint32_t *noise;
    int64_t count;
} arrivals_t;

// slack_s and least_s say why a query was rejected; index is its index in the trace.
typedef struct {
    double start_s, end_s, core_s, slack_s, least_s;
    int64_t index;
    ending_t ending;
    int32_t blocks, conflicts;
} record_t;

// oldest: the index in the trace of the query that waits longest. level, limit, scale, model, first: the block that was
// never formed. slot, cores, change: the block whose cores change.
typedef struct {
    const record_t *records;
    int64_t record_count, waiting, oldest;
    int32_t free_cores, level, limit, scale, model, first, slot, cores;
    core_change_t change;
} loop_state_t;

typedef struct loop loop_t;

loop_t *loop_new(simulator_t *sim, const plan_t *plan, const run_t *run);
void loop_free(loop_t *loop);
loop_state_t *loop_state(loop_t *loop);
int loop_run(loop_t *loop);
void loop_add_arrivals(loop_t *loop, const arrivals_t *arrivals);
void loop_add_errors(loop_t *loop, const double *errors, int64_t count);
void loop_take_records(loop_t *loop);

#endif
