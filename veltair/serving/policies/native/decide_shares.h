// Decisions of policies that share the cores out: elastic.py.

#ifndef DECIDE_SHARES_H
#define DECIDE_SHARES_H

#include "decide_turns.h"

static bool reserve_present(policy_t *policy) {
    int64_t needed = policy->view->running_count + policy->waiting_count;
    if (needed <= policy->present_capacity) return true;
    int64_t capacity = 2 * needed + 64;
    struct {
        void **values;
        size_t size;
    } arrays[] = {
        {(void **)&policy->present, sizeof *policy->present}, {(void **)&policy->slacks_s, sizeof *policy->slacks_s},
        {(void **)&policy->rows, sizeof *policy->rows},       {(void **)&policy->bests, sizeof *policy->bests},
        {(void **)&policy->shares, sizeof *policy->shares},   {(void **)&policy->needs, sizeof *policy->needs},
        {(void **)&policy->claims, sizeof *policy->claims},
    };
    for (size_t array = 0; array < sizeof arrays / sizeof *arrays; array++) {
        void *moved = realloc(*arrays[array].values, capacity * arrays[array].size);
        if (!moved) return false;
        *arrays[array].values = moved;
    }
    policy->present_capacity = capacity;
    return true;
}

// List who is to share the cores: all that run, then all that wait. Return whether they are those of the last time.
static bool list_present(policy_t *policy, turn_t turn, int64_t *count) {
    bool same = true;
    *count = 0;
    for (int64_t index = 0; index < policy->view->running_count; index++)
        policy->present[(*count)++] = policy->view->running[index];
    for (account_t *account; (account = take_turn(policy, &turn));)
        policy->present[(*count)++] = account;
    for (int64_t index = 0; index < *count && same; index++)
        same = policy->present[index]->shared;
    return same && *count == policy->shared_count;
}

// elastic.py: renew the shares and needs of all queries if one came or went since they were made.
static int share_out(policy_t *policy, turn_t turn, int64_t level) {
    const plan_t *plan = &policy->plan;
    if (!reserve_present(policy)) return NO_MEMORY;
    int64_t count;
    if (list_present(policy, turn, &count) || !count) return OK;
    const int32_t *ended = policy->view->ended(policy->view->run);
    for (int64_t index = 0; index < count; index++) {
        const account_t *account = policy->present[index];
        const plan_model_t *model = plan_of(policy, account);
        bool runs = index < policy->view->running_count;
        int64_t layer = runs ? account->first + ended[account->slot] : account->next_layer;
        policy->slacks_s[index] = account->deadline_s - policy->view->now_s;
        policy->rows[index] = remaining_s(policy, model, level, layer);
        policy->bests[index] = best_cores(policy, model, level, 0, model->layers);
    }
    core_grants_t grants = {plan->counts, plan->count_count, plan->cores, plan->tolerance};
    core_shares(&grants, count, policy->slacks_s, policy->rows, policy->bests, policy->claims, policy->shares,
                policy->needs);
    for (int64_t index = 0; index < count; index++) {
        account_t *account = policy->present[index];
        account->share = policy->shares[index];
        account->need = policy->needs[index];
        account->shared = true;
    }
    policy->shared_count = count;
    return OK;
}

static int start_shares(policy_t *policy, turn_t turn, int64_t level, int32_t *free_cores) {
    const plan_t *plan = &policy->plan;
    bool shrinks = plan->conflict == SHRINK || plan->conflict == SHRINK_ONE_LAYER;
    for (account_t *account; *free_cores >= plan->counts[0] && (account = take_turn(policy, &turn));) {
        int32_t share = account->share, need = account->need;
        int32_t wanted = round_down(plan, need && need < share ? need : share);
        if (!wanted || (wanted > *free_cores && !shrinks)) continue;
        int32_t cores = round_down(plan, share < *free_cores ? share : *free_cores);
        int32_t layers = plan_of(policy, account)->layers - account->next_layer;
        if (add_start(policy, account, level, layers, cores, wanted) != OK) return NO_MEMORY;
        *free_cores -= cores;
    }
    return OK;
}

static int resize_to_shares(policy_t *policy, int32_t free_cores) {
    const plan_t *plan = &policy->plan;
    int32_t busy = busy_cores(policy);
    const int32_t *ended = policy->view->ended(policy->view->run);
    for (int64_t index = 0; index < policy->view->running_count; index++) {
        account_t *account = policy->view->running[index];
        if (ended[account->slot] >= account->stop - account->first - 1)
            continue;  // in its last layer a resize has no effect, and would only keep cores from others
        int32_t share = account->share > plan->counts[0] ? account->share : plan->counts[0];
        int32_t reserved = reserved_cores(account), most = reserved + free_cores;
        int32_t cores = round_down(plan, share < most ? share : most);
        if (account->target_cores > account->cores && cores < account->target_cores)
            cores = account->target_cores;  // a growth under way is not taken back
        int64_t level = level_met(policy, account, busy);
        int64_t before = policy->commands->count;
        if (add_resize(policy, account, level, cores) != OK) return NO_MEMORY;
        if (cores == account->target_cores && !policy->commands->items[before].versions) {
            policy->commands->count = before;
            continue;
        }
        free_cores -= (account->cores > cores ? account->cores : cores) - reserved;
    }
    return OK;
}

static int decide_shares(policy_t *policy) {
    int64_t level = current_level(policy);
    int32_t free_cores = policy->view->free_cores;
    turn_t turn;
    int what = begin_turns(policy, level, &turn);
    if (what == OK) what = share_out(policy, turn, level);
    if (what == OK) what = start_shares(policy, turn, level, &free_cores);
    return what == OK ? resize_to_shares(policy, free_cores) : what;
}

#endif
