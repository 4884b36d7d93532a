// Table look-ups, and the order of service: latency_tables.py and discipline.py.

#ifndef DECIDE_TURNS_H
#define DECIDE_TURNS_H

#include "policy_memory.h"

static const plan_model_t *plan_of(const policy_t *policy, const account_t *account) {
    return &policy->plan.models[account->model];
}

static const double *remaining_s(const policy_t *policy, const plan_model_t *model, int64_t level, int64_t first) {
    return model->remaining + (level * (model->layers + 1) + first) * policy->plan.count_count;
}

static double least_s(const plan_model_t *model, int64_t level, int64_t first) {
    return model->least[level * (model->layers + 1) + first];
}

static const uint8_t *versions_of(const policy_t *policy, const plan_model_t *model, int64_t level, int32_t cores,
                                  int64_t first) {
    int64_t index = policy->count_indices[cores];
    return model->versions + (level * policy->plan.count_count + index) * model->layers + first;
}

// Return how many of ascending values are at most value: where it would go, after its equals.
static int64_t index_after(const double *values, int64_t count, double value) {
    int64_t index = 0;
    while (index < count && values[index] <= value)
        index++;
    return index;
}

static int64_t nearest_level(const plan_t *plan, double pressure) {
    int64_t above = index_after(plan->levels, plan->level_count, pressure);
    if (above == plan->level_count) return above - 1;
    if (above == 0) return 0;
    return pressure - plan->levels[above - 1] <= plan->levels[above] - pressure ? above - 1 : above;
}

static int32_t round_down(const plan_t *plan, double cores) {
    int32_t count = 0;
    for (int64_t index = 0; index < plan->count_count && plan->counts[index] <= cores; index++)
        count = plan->counts[index];
    return count;
}

// Return the count on which layers [first, stop) are fastest.
static int32_t best_cores(const policy_t *policy, const plan_model_t *model, int64_t level, int64_t first,
                          int64_t stop) {
    const double *whole = remaining_s(policy, model, level, first), *rest = remaining_s(policy, model, level, stop);
    int64_t best = 0;
    for (int64_t index = 1; index < policy->plan.count_count; index++)
        if (whole[index] - rest[index] < whole[best] - rest[best]) best = index;
    return policy->plan.counts[best];
}

static double pressure_on(const account_t *account, double pressure, int32_t busy_cores) {
    return pressure * (busy_cores - account->cores) / busy_cores;
}

static int32_t busy_cores(const policy_t *policy) {
    int32_t cores = 0;
    for (int64_t index = 0; index < policy->view->running_count; index++)
        cores += policy->view->running[index]->cores;
    return cores;
}

static double sensed_pressure(const policy_t *policy) { return policy->view->pressure(policy->view->run); }

static int64_t current_level(policy_t *policy) {
    return policy->plan.level_count > 1 ? nearest_level(&policy->plan, sensed_pressure(policy)) : 0;
}

// Return the level of the pressure that a running block meets from the others.
static int64_t level_met(policy_t *policy, const account_t *account, int32_t busy) {
    if (policy->plan.level_count == 1) return 0;
    return nearest_level(&policy->plan, pressure_on(account, sensed_pressure(policy), busy));
}

static int add_command(policy_t *policy, command_t command) {
    commands_t *commands = policy->commands;
    if (!reserve((void **)&commands->items, &commands->capacity, commands->count + 1, sizeof command)) return NO_MEMORY;
    commands->items[commands->count++] = command;
    return OK;
}

// Sort the waiting queries by key: a bottom-up merge sort, stable.
static void sort_waiting(policy_t *policy, int64_t count) {
    account_t **from = policy->waiting, **to = policy->merged;
    double *keys = policy->keys, *merged_keys = policy->keys + policy->waiting_capacity;
    for (int64_t width = 1; width < count; width *= 2) {
        for (int64_t begin = 0; begin < count; begin += 2 * width) {
            int64_t middle = begin + width < count ? begin + width : count;
            int64_t end = middle + width < count ? middle + width : count;
            for (int64_t left = begin, right = middle, at = begin; at < end; at++) {
                bool takes_left = left < middle && (right == end || keys[left] <= keys[right]);
                int64_t taken = takes_left ? left++ : right++;
                to[at] = from[taken];
                merged_keys[at] = keys[taken];
            }
        }
        account_t **other = from;
        from = to;
        to = other;
        double *other_keys = keys;
        keys = merged_keys;
        merged_keys = other_keys;
    }
    policy->waiting = from;
    policy->merged = to;
}

static bool reserve_waiting(policy_t *policy) {
    int64_t needed = policy->view->waiting;
    if (needed <= policy->waiting_capacity) return true;
    int64_t capacity = 2 * needed + 64;
    account_t **waiting = realloc(policy->waiting, capacity * sizeof *waiting);
    policy->waiting = waiting ? waiting : policy->waiting;
    account_t **merged = realloc(policy->merged, capacity * sizeof *merged);
    policy->merged = merged ? merged : policy->merged;
    double *keys = realloc(policy->keys, 2 * capacity * sizeof *keys);
    policy->keys = keys ? keys : policy->keys;
    if (!waiting || !merged || !keys) return false;
    policy->waiting_capacity = capacity;
    return true;
}

// discipline.admit(): reject late queries and sort the others by the order of service.
static int admit(policy_t *policy, int64_t level) {
    const plan_t *plan = &policy->plan;
    if (!reserve_waiting(policy)) return NO_MEMORY;
    int64_t count = 0;
    for (account_t *account = policy->view->oldest; account; account = account->newer) {
        double least = least_s(plan_of(policy, account), level, account->next_layer);
        double needed_s = plan->drop_late == WHEN_DOOMED ? least : 0.0,
               slack_s = account->deadline_s - policy->view->now_s;
        if (plan->drop_late != NEVER && !(needed_s <= slack_s)) {
            command_t reject = {.account = account, .kind = REJECT, .slack_s = slack_s, .least_s = needed_s};
            if (add_command(policy, reject) != OK) return NO_MEMORY;
            continue;
        }
        policy->keys[count] = plan->order == LLF ? account->deadline_s - least : account->deadline_s;
        policy->waiting[count++] = account;
    }
    if (plan->order != FCFS) sort_waiting(policy, count);
    policy->waiting_count = count;
    return OK;
}

// An iterator over waiting queries in the order of service: over the queue itself where that is its order.
typedef struct {
    account_t *next;
    int64_t index;
    bool is_list;
} turn_t;

static int begin_turns(policy_t *policy, int64_t level, turn_t *turn) {
    turn->is_list = policy->plan.order == FCFS && policy->plan.drop_late == NEVER;
    turn->next = policy->view->oldest;
    turn->index = 0;
    policy->waiting_count = policy->view->waiting;
    return turn->is_list ? OK : admit(policy, level);
}

static account_t *take_turn(const policy_t *policy, turn_t *turn) {
    if (!turn->is_list) return turn->index < policy->waiting_count ? policy->waiting[turn->index++] : NULL;
    account_t *account = turn->next;
    turn->next = account ? account->newer : NULL;
    return account;
}

static int add_resize(policy_t *policy, account_t *account, int64_t level, int32_t cores) {
    const uint8_t *versions = versions_of(policy, plan_of(policy, account), level, cores, account->first);
    bool same = !memcmp(versions, account->versions, account->stop - account->first);
    command_t resize = {.account = account, .kind = RESIZE, .cores = cores, .versions = same ? NULL : versions};
    return add_command(policy, resize);
}

#endif
