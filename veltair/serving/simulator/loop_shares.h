// Decisions of policies that share the cores out: elastic.py.

#ifndef LOOP_SHARES_H
#define LOOP_SHARES_H

#include "loop_turns.h"

static bool reserve_present(loop_t *loop) {
    int64_t needed = loop->running_count + loop->waiting_count;
    if (needed <= loop->present_capacity) return true;
    int64_t capacity = 2 * needed + 64;
    struct {
        void **values;
        size_t size;
    } arrays[] = {
        {(void **)&loop->present, sizeof *loop->present}, {(void **)&loop->slacks_s, sizeof *loop->slacks_s},
        {(void **)&loop->rows, sizeof *loop->rows},       {(void **)&loop->bests, sizeof *loop->bests},
        {(void **)&loop->shares, sizeof *loop->shares},   {(void **)&loop->needs, sizeof *loop->needs},
        {(void **)&loop->claims, sizeof *loop->claims},
    };
    for (size_t array = 0; array < sizeof arrays / sizeof *arrays; array++) {
        void *moved = realloc(*arrays[array].values, capacity * arrays[array].size);
        if (!moved) return false;
        *arrays[array].values = moved;
    }
    loop->present_capacity = capacity;
    return true;
}

// List who is to share the cores: all that run, then all that wait. Return whether they are those of the last time.
static bool list_present(loop_t *loop, turn_t turn, int64_t *count) {
    bool same = true;
    *count = 0;
    for (int64_t index = 0; index < loop->running_count; index++)
        loop->present[(*count)++] = loop->running[index];
    for (account_t *account; (account = take_turn(loop, &turn));)
        loop->present[(*count)++] = account;
    for (int64_t index = 0; index < *count && same; index++)
        same = loop->present[index]->shared;
    return same && *count == loop->shared_count;
}

// elastic.py: renew the shares and needs of all queries if one came or went since they were made.
static int share_out(loop_t *loop, turn_t turn, int64_t level) {
    const plan_t *plan = &loop->plan;
    if (!reserve_present(loop)) return NO_MEMORY;
    int64_t count;
    if (list_present(loop, turn, &count) || !count) return OK;
    const int32_t *ended = simulator_ended(loop->sim);
    for (int64_t index = 0; index < count; index++) {
        const account_t *account = loop->present[index];
        const plan_model_t *model = plan_of(loop, account);
        bool runs = index < loop->running_count;
        int64_t layer = runs ? account->first + ended[account->slot] : account->next_layer;
        loop->slacks_s[index] = account->deadline_s - loop->now_s;
        loop->rows[index] = remaining_s(loop, model, level, layer);
        loop->bests[index] = best_cores(loop, model, level, 0, model->layers);
    }
    core_grants_t grants = {plan->counts, plan->count_count, plan->cores, plan->tolerance};
    core_shares(&grants, count, loop->slacks_s, loop->rows, loop->bests, loop->claims, loop->shares, loop->needs);
    for (int64_t index = 0; index < count; index++) {
        account_t *account = loop->present[index];
        account->share = loop->shares[index];
        account->need = loop->needs[index];
        account->shared = true;
    }
    loop->shared_count = count;
    return OK;
}

static int start_shares(loop_t *loop, turn_t turn, int64_t level, int32_t *free_cores) {
    const plan_t *plan = &loop->plan;
    bool shrinks = plan->conflict == SHRINK || plan->conflict == SHRINK_ONE_LAYER;
    for (account_t *account; *free_cores >= plan->counts[0] && (account = take_turn(loop, &turn));) {
        int32_t share = account->share, need = account->need;
        int32_t wanted = round_down(plan, need && need < share ? need : share);
        if (!wanted || (wanted > *free_cores && !shrinks)) continue;
        int32_t cores = round_down(plan, share < *free_cores ? share : *free_cores);
        int32_t layers = plan_of(loop, account)->layers - account->next_layer;
        if (add_start(loop, account, level, layers, cores, wanted) != OK) return NO_MEMORY;
        *free_cores -= cores;
    }
    return OK;
}

static int resize_to_shares(loop_t *loop, int32_t free_cores) {
    const plan_t *plan = &loop->plan;
    int32_t busy = busy_cores(loop);
    const int32_t *ended = simulator_ended(loop->sim);
    for (int64_t index = 0; index < loop->running_count; index++) {
        account_t *account = loop->running[index];
        if (ended[account->slot] >= account->stop - account->first - 1)
            continue;  // in its last layer a resize has no effect, and would only keep cores from others
        int32_t share = account->share > plan->counts[0] ? account->share : plan->counts[0];
        int32_t reserved = reserved_cores(account), most = reserved + free_cores;
        int32_t cores = round_down(plan, share < most ? share : most);
        if (account->target_cores > account->cores && cores < account->target_cores)
            cores = account->target_cores;  // a growth under way is not taken back
        int64_t level = level_met(loop, account, busy);
        int64_t before = loop->command_count;
        if (add_resize(loop, account, level, cores) != OK) return NO_MEMORY;
        if (cores == account->target_cores && !loop->commands[before].versions) {
            loop->command_count = before;
            continue;
        }
        free_cores -= (account->cores > cores ? account->cores : cores) - reserved;
    }
    return OK;
}

static int decide_shares(loop_t *loop) {
    int64_t level = current_level(loop);
    int32_t free_cores = loop->state.free_cores;
    turn_t turn;
    int what = begin_turns(loop, level, &turn);
    if (what == OK) what = share_out(loop, turn, level);
    if (what == OK) what = start_shares(loop, turn, level, &free_cores);
    return what == OK ? resize_to_shares(loop, free_cores) : what;
}

#endif
