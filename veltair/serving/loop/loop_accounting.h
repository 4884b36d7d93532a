// Accounting of a run, as dispatcher.py does it: queue, held cores, records.

#ifndef LOOP_ACCOUNTING_H
#define LOOP_ACCOUNTING_H

#include "loop_state.h"

static void leave_queue(loop_t *loop, account_t *account) {
    *(account->older ? &account->older->newer : &loop->view.oldest) = account->newer;
    *(account->newer ? &account->newer->older : &loop->newest) = account->older;
    loop->view.waiting--;
}

static bool is_older(const account_t *one, const account_t *other) {
    return one->arrival_s < other->arrival_s || (one->arrival_s == other->arrival_s && one->id < other->id);
}

// A new query is the newest; one between two blocks is mostly among the oldest, so it looks from there.
static void join_queue(loop_t *loop, account_t *account) {
    account_t *older = loop->newest, *newer = NULL;
    if (older && !is_older(older, account)) {
        for (newer = loop->view.oldest; is_older(newer, account);)
            newer = newer->newer;
        older = newer->older;
    }
    account->older = older;
    account->newer = newer;
    *(older ? &older->newer : &loop->view.oldest) = account;
    *(newer ? &newer->older : &loop->newest) = account;
    loop->view.waiting++;
}

static void charge(account_t *account, double cores, double time_s) {
    account->core_s += cores * (time_s - account->held_since_s);
    account->held_since_s = time_s;
}

// Return the cores that a block has: those that it holds, or an equal part of those that it shares.
static double held_cores(const loop_t *loop, const account_t *account) {
    if (!account->shares_cores) return reserved_cores(account);
    if (loop->sharing_cores <= loop->run.cores) return account->cores;
    return account->cores * ((double)loop->run.cores / (double)loop->sharing_cores);
}

static void charge_all(loop_t *loop) {
    for (int64_t index = 0; index < loop->view.running_count; index++) {
        account_t *account = loop->view.running[index];
        charge(account, held_cores(loop, account), loop->view.now_s);
    }
}

static void set_cores(loop_t *loop, account_t *account, int32_t cores, int32_t target_cores) {
    int32_t before = reserved_cores(account);
    charge(account, before, loop->view.now_s);
    account->cores = cores;
    account->target_cores = target_cores;
    loop->view.free_cores -= reserved_cores(account) - before;
}

// Return a copy of why a query was rejected, as long as its record is not taken; NULL where nothing is said, or without
// memory.
static char *copied_reason(const command_t *rejection) {
    size_t bytes = rejection && rejection->reason ? strlen(rejection->reason) + 1 : 0;
    char *copy = bytes ? malloc(bytes) : NULL;
    return copy ? memcpy(copy, rejection->reason, bytes) : NULL;
}

// Write the record of a query that ended. rejection: what says so, or NULL.
static int close_account(loop_t *loop, account_t *account, ending_t ending, const command_t *rejection) {
    loop_state_t *state = &loop->state;
    view_t *view = &loop->view;
    int64_t count = state->record_count, ended = view->record_count;
    if (!reserve((void **)&loop->records, &loop->record_capacity, count + 1, sizeof *loop->records)) return NO_MEMORY;
    if (!reserve((void **)&loop->ended_queries, &loop->ended_capacity, ended + 1, sizeof *loop->records))
        return NO_MEMORY;
    state->records = loop->records;
    view->records = loop->ended_queries;
    loop->ended_queries[view->record_count++] = loop->records[state->record_count++] = (record_t){
        .start_s = isnan(account->start_s) ? view->now_s : account->start_s,
        .end_s = view->now_s,
        .core_s = account->core_s,
        .slack_s = rejection ? rejection->slack_s : 0.0,
        .least_s = rejection ? rejection->least_s : 0.0,
        .id = account->id,
        .index = account->index,
        .ending = ending,
        .blocks = account->blocks,
        .conflicts = account->conflicts,
        .batch = account->batch,
    };
    loop->records[count].reason = copied_reason(rejection);
    account->newer = loop->unused;
    loop->unused = account;
    return OK;
}

static int admit(loop_t *loop, const event_t *arrival) {
    account_t *account = new_account(loop);
    if (!account) return NO_MEMORY;
    *account = (account_t){
        .id = arrival->id,
        .index = loop->arrived++,
        .arrival_s = arrival->time_s,
        .deadline_s = arrival->time_s + arrival->target_s,
        .start_s = NAN,
        .model = arrival->model,
        .batch = 1,
        .own = account->own,
    };
    memcpy(account->own, arrival->own, loop->run.own_bytes);
    loop->view.changed = account;
    join_queue(loop, account);
    return OK;
}

// Return the account of a query that has not begun; NULL: there is none such.
static account_t *not_begun(const loop_t *loop, int64_t id) {
    account_t *account = loop->newest;  // it came a moment ago, mostly
    while (account && (account->id != id || account->blocks))
        account = account->older;
    return account;
}

static int withdraw(loop_t *loop, int64_t id) {
    account_t *account = loop->view.changed = not_begun(loop, id);
    if (!account) return OK;
    leave_queue(loop, account);
    return close_account(loop, account, UNFINISHED, NULL);
}

// Close the accounts of all whom a block serves: its cores were held for them in equal parts.
static int close_block(loop_t *loop, account_t *account, ending_t ending) {
    const account_t first = *account;
    double core_s = first.core_s / first.batch;
    for (account_t *next; account; account = next) {
        next = account->others;
        account->start_s = first.start_s;
        account->core_s = core_s;
        account->blocks = first.blocks;
        account->conflicts = first.conflicts;
        account->batch = first.batch;
        if (close_account(loop, account, ending, NULL) != OK) return NO_MEMORY;
    }
    return OK;
}

// Free the cores of a block that ended; its query is served, or waits with the layers that are left.
static int finish_block(loop_t *loop, const event_t *event) {
    view_t *view = &loop->view;
    account_t *account = view->changed = loop->by_slot[event->slot];
    if (account->shares_cores)
        charge_all(loop);  // the parts of those beside it change
    else
        charge(account, held_cores(loop, account), view->now_s);
    view->free_cores += reserved_cores(account);
    loop->sharing_cores -= account->shares_cores ? account->cores : 0;
    account->shares_cores = false;
    loop->free_slots[loop->free_slot_count++] = event->slot;
    int64_t index = 0;
    while (view->running[index] != account)
        index++;
    size_t after = --view->running_count - index;
    memmove(&view->running[index], &view->running[index + 1], after * sizeof *view->running);
    account->next_layer = event->next_layer;
    account->yields = false;
    if (account->next_layer == loop->run.layers[account->model]) return close_block(loop, account, SERVED);
    join_queue(loop, account);
    return OK;
}

static int abandon(loop_t *loop) {
    while (loop->view.oldest) {
        account_t *account = loop->view.oldest;
        leave_queue(loop, account);
        if (close_account(loop, account, UNFINISHED, NULL) != OK) return NO_MEMORY;
    }
    charge_all(loop);
    for (int64_t index = 0; index < loop->view.running_count; index++)
        if (close_block(loop, loop->view.running[index], UNFINISHED) != OK) return NO_MEMORY;
    loop->view.running_count = 0;
    loop->closed = true;
    loop->backend.clear(loop->backend.self);
    return OK;
}

#endif
