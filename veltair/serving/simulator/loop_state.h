// What the loop of a simulated run works on: what Python gives it, what Python reads, and its books.

#ifndef LOOP_STATE_H
#define LOOP_STATE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../policies/block_forming.h"
#include "../policies/core_shares.h"
#include "simulator_core.h"

enum { NEED_ARRIVALS = 1, NEED_BLOCK, NEED_SEAT, NEED_ERRORS, RECORDS, DONE };  // what loop_run() returns
enum { NO_MEMORY = -2 };                                                         // or NOT_PROFILED
enum { FCFS, EDF, LLF };                                                         // order
enum { WAIT, BACKFILL, SHRINK, SHRINK_ONE_LAYER };                               // conflict
enum { NEVER, AT_DEADLINE, WHEN_DOOMED };                                        // drop_late
enum { BLOCKS, SLACK_BLOCKS, ALL_CORES, SHARES };                                // asks
enum { SERVED, REJECTED, UNFINISHED };                                           // ending
enum { START, RESIZE, REJECT };
enum { HOLD, RESERVE, ADOPT, RELEASE };  // what became of a block's cores, for whoever seats it
enum { WAITING_FOR_EVENT, DECIDING, APPLYING };

static const int64_t FLUSH = 256;  // records that are worth a return to Python
static const int64_t SLAB = 256;   // accounts that are allocated at once

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

// enough and loaded (or NULL): by level. best: the count on which a whole model is fastest, by model and level.
typedef struct {
    const plan_model_t *models;
    const double *levels, *scales, *enough, *loaded;
    const int32_t *counts;
    int64_t level_count, count_count, scale_count, limit_count;
    double alpha, tolerance, slightly_more;  // the last: 1 + tolerance
    int32_t cores, asks, order, conflict, drop_late, follows_slack, follows_load, grows, block_layers, coalesce_layers;
} plan_t;

// How a trace runs: the cut-off, and what the policy is told of pressure (proxy.py; no errors: exactly that).
typedef struct {
    int64_t queries, most_layers;
    double close_s, grant_s, relative_sigma, sigma, step;
    int32_t seated, proxied;
} run_t;

// What comes from Python: a part of the trace in order of arrival, noise being a row of most_layers for each.
typedef struct {
    const int64_t *ids;
    const int32_t *models;
    const double *arrivals_s, *targets_s;
    const uint32_t *noise;
    int64_t count;
} arrivals_t;

typedef struct {
    double start_s, end_s, core_s, slack_s, least_s;  // the last two: why it was rejected
    int64_t place;                                    // in the trace
    int32_t ending, blocks, conflicts, unused;
} record_t;

typedef struct account {
    struct account *older, *newer;  // in the queue
    int64_t id, place;
    double arrival_s, deadline_s, start_s, held_since_s, core_s;
    int32_t model, next_layer, blocks, conflicts;
    int32_t slot, first, stop, cores, target_cores, wanted_cores;  // while it runs
    const uint8_t *versions;                                       // of its block, as last asked for
    int32_t share, need;
    bool shared;
    uint32_t noise[];
} account_t;

typedef struct {
    account_t *account;
    const uint8_t *versions;
    double slack_s, least_s;
    int32_t kind, stop, cores, wanted;
} command_t;

// What Python reads.
typedef struct {
    const record_t *records;
    int64_t record_count, waiting, oldest;  // oldest: place in the trace of the query that waits longest
    int32_t free_cores, level, limit, scale;  // the block that was never formed: of model, from first on
    int32_t model, first, slot, cores, change;
} loop_state_t;

typedef struct {
    loop_state_t state;
    run_t run;
    plan_t plan;
    arrivals_t arrivals;
    simulator_t *sim;
    int64_t arrived, arrived_of_part;
    int phase;
    double now_s, pressure;
    bool pressure_known, closed;
    const double *errors;  // pairs, of the events to come
    int64_t error_count;
    double relative_error, absolute_error;
    account_t *oldest, *newest, *unused;
    account_t **by_slot, **running, **waiting, **merged;
    double *keys;
    int64_t running_count, waiting_room, waiting_count, shared_count;
    int32_t *free_slots, *count_places;  // places: by number of cores, -1 if it is no count
    int64_t free_slot_count;
    command_t *commands;
    int64_t command_count, command_room, applied;
    record_t *records;
    int64_t record_room;
    void **slabs;
    int64_t slab_count, slab_room;
    formed_t formed;
    account_t **present;  // of the queries that share the cores, with the arrays that core_shares() takes
    double *slacks_s;
    const double **rows;
    int32_t *bests, *shares, *needs;
    core_claim_t *claims;
    int64_t present_room;
} loop_t;

static int32_t reserved_cores(const account_t *account) {
    return account->cores > account->target_cores ? account->cores : account->target_cores;
}

static bool make_room(void **values, int64_t *room, int64_t needed, size_t size) {
    if (needed <= *room) return true;
    int64_t more = *room * 2 > needed ? *room * 2 : needed + 64;
    void *moved = realloc(*values, more * size);
    if (!moved) return false;
    *values = moved;
    *room = more;
    return true;
}

static account_t *new_account(loop_t *loop) {
    if (!loop->unused) {
        size_t size = sizeof(account_t) + loop->run.most_layers * sizeof(uint32_t);
        size = (size + 15) / 16 * 16;
        if (!make_room((void **)&loop->slabs, &loop->slab_room, loop->slab_count + 1, sizeof *loop->slabs)) return NULL;
        char *slab = malloc(SLAB * size);
        if (!slab) return NULL;
        loop->slabs[loop->slab_count++] = slab;
        for (int64_t place = 0; place < SLAB; place++) {
            account_t *account = (account_t *)(slab + place * size);
            account->newer = loop->unused;
            loop->unused = account;
        }
    }
    account_t *account = loop->unused;
    loop->unused = account->newer;
    return account;
}

#endif
