// The state of a loop: the queries that are in the system, and what is to be done for them.

#ifndef LOOP_STATE_H
#define LOOP_STATE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "growing.h"
#include "serving_loop.h"
#include "wakes.h"

enum { WAITING_FOR_EVENT, DECIDING, APPLYING };

static const int64_t FLUSH = 256;  // records that are worth a return to Python
static const int64_t SLAB = 256;   // accounts that are allocated at once

struct loop {
    loop_state_t state;
    view_t view;
    run_t run;
    arrivals_t arrivals;
    backend_t backend;
    decider_t decider;
    int64_t arrived, arrived_of_batch;
    int phase;
    double pressure;
    const int32_t *ended;
    bool pressure_known, closed;  // pressure and ended are of the decision under way, if known
    const double *errors;  // standard normal, of the events to come
    int64_t error_count;
    double error;
    account_t *newest, *unused;  // of those that wait; and a list by `newer`
    account_t **by_slot;
    int32_t *free_slots;
    int64_t free_slot_count, sharing_cores;
    commands_t commands;
    int64_t applied;
    wakes_t wakes;
    double load_end_s;  // of the load under way; INFINITY: there is none
    record_t *records, *ended_queries;  // those to be taken; those since the last decision, view.record_count of them
    int64_t record_capacity, ended_capacity;
    void **slabs;
    int64_t slab_count, slab_capacity;
};

// An account is followed by what the backend keeps of its query.
static account_t *new_account(loop_t *loop) {
    if (!loop->unused) {
        size_t size = sizeof(account_t) + loop->run.own_bytes;
        size = (size + 15) / 16 * 16;
        if (!reserve((void **)&loop->slabs, &loop->slab_capacity, loop->slab_count + 1, sizeof *loop->slabs))
            return NULL;
        char *slab = malloc(SLAB * size);
        if (!slab) return NULL;
        loop->slabs[loop->slab_count++] = slab;
        for (int64_t index = 0; index < SLAB; index++) {
            account_t *account = (account_t *)(slab + index * size);
            account->own = account + 1;
            account->newer = loop->unused;
            loop->unused = account;
        }
    }
    account_t *account = loop->unused;
    loop->unused = account->newer;
    return account;
}

#endif
