// The state of the loop of a simulated run: its queries, and memory that decisions use.

#ifndef LOOP_STATE_H
#define LOOP_STATE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../policies/block_forming.h"
#include "../policies/core_shares.h"
#include "serving_loop.h"

enum { START, RESIZE, REJECT };  // kinds of commands
enum { WAITING_FOR_EVENT, DECIDING, APPLYING };

static const int64_t FLUSH = 256;  // records that are worth a return to Python
static const int64_t SLAB = 256;   // accounts that are allocated at once

typedef struct account {
    struct account *older, *newer;  // in the queue
    int64_t id, index;
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

struct loop {
    loop_state_t state;
    run_t run;
    plan_t plan;
    arrivals_t arrivals;
    simulator_t *sim;
    int64_t arrived, arrived_of_batch;
    int phase;
    double now_s, pressure;
    bool pressure_known, closed;
    const double *errors;  // standard normal, of the events to come
    int64_t error_count;
    double error;
    account_t *oldest, *newest, *unused;
    account_t **by_slot, **running, **waiting, **merged;
    double *keys;
    int64_t running_count, waiting_capacity, waiting_count, shared_count;
    int32_t *free_slots, *count_indices;  // indices: by number of cores, -1 if it is no count
    int64_t free_slot_count;
    command_t *commands;
    int64_t command_count, command_capacity, applied;
    record_t *records;
    int64_t record_capacity;
    void **slabs;
    int64_t slab_count, slab_capacity;
    formed_t formed;
    account_t **present;  // of the queries that share the cores, with the arrays that core_shares() takes
    double *slacks_s;
    const double **rows;
    int32_t *bests, *shares, *needs;
    core_claim_t *claims;
    int64_t present_capacity;
};

static int32_t reserved_cores(const account_t *account) {
    return account->cores > account->target_cores ? account->cores : account->target_cores;
}

static bool reserve(void **values, int64_t *capacity, int64_t needed, size_t size) {
    if (needed <= *capacity) return true;
    int64_t more = *capacity * 2 > needed ? *capacity * 2 : needed + 64;
    void *moved = realloc(*values, more * size);
    if (!moved) return false;
    *values = moved;
    *capacity = more;
    return true;
}

static account_t *new_account(loop_t *loop) {
    if (!loop->unused) {
        size_t size = sizeof(account_t) + loop->run.most_layers * sizeof(uint32_t);
        size = (size + 15) / 16 * 16;
        if (!reserve((void **)&loop->slabs, &loop->slab_capacity, loop->slab_count + 1, sizeof *loop->slabs))
            return NULL;
        char *slab = malloc(SLAB * size);
        if (!slab) return NULL;
        loop->slabs[loop->slab_count++] = slab;
        for (int64_t index = 0; index < SLAB; index++) {
            account_t *account = (account_t *)(slab + index * size);
            account->newer = loop->unused;
            loop->unused = account;
        }
    }
    account_t *account = loop->unused;
    loop->unused = account->newer;
    return account;
}

#endif
