// Table look-ups, and the order of service: latency_tables.py and discipline.py.

#ifndef LOOP_TURNS_H
#define LOOP_TURNS_H

#include "loop_state.h"

static const plan_model_t *plan_of(const loop_t *loop, const account_t *account) {
    return &loop->plan.models[account->model];
}

static const double *remaining_s(const loop_t *loop, const plan_model_t *model, int64_t level, int64_t first) {
    return model->remaining + (level * (model->layers + 1) + first) * loop->plan.count_count;
}

static double least_s(const plan_model_t *model, int64_t level, int64_t first) {
    return model->least[level * (model->layers + 1) + first];
}

static const uint8_t *versions_of(const loop_t *loop, const plan_model_t *model, int64_t level, int32_t cores,
                                  int64_t first) {
    int64_t index = loop->count_indices[cores];
    return model->versions + (level * loop->plan.count_count + index) * model->layers + first;
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
static int32_t best_cores(const loop_t *loop, const plan_model_t *model, int64_t level, int64_t first, int64_t stop) {
    const double *whole = remaining_s(loop, model, level, first), *rest = remaining_s(loop, model, level, stop);
    int64_t best = 0;
    for (int64_t index = 1; index < loop->plan.count_count; index++)
        if (whole[index] - rest[index] < whole[best] - rest[best]) best = index;
    return loop->plan.counts[best];
}

static double pressure_on(const account_t *account, double pressure, int32_t busy_cores) {
    return pressure * (busy_cores - account->cores) / busy_cores;
}

static int32_t busy_cores(const loop_t *loop) {
    int32_t cores = 0;
    for (int64_t index = 0; index < loop->running_count; index++)
        cores += loop->running[index]->cores;
    return cores;
}

// Return the pressure as the policy reads it. It is computed at most once an event, at the first use.
static double sensed_pressure(loop_t *loop) {
    if (loop->pressure_known) return loop->pressure;
    double sensed = simulator_pressure(loop->sim);
    if (loop->run.is_noisy) {
        sensed = sensed + loop->run.sigma * loop->error;
        sensed = sensed > 0.0 ? sensed : 0.0;
        sensed = sensed < 1.0 ? sensed : 1.0;
    }
    loop->pressure = sensed;
    loop->pressure_known = true;
    return sensed;
}

static int64_t current_level(loop_t *loop) {
    return loop->plan.level_count > 1 ? nearest_level(&loop->plan, sensed_pressure(loop)) : 0;
}

// Return the level of the pressure that a running block meets from the others.
static int64_t level_met(loop_t *loop, const account_t *account, int32_t busy) {
    if (loop->plan.level_count == 1) return 0;
    return nearest_level(&loop->plan, pressure_on(account, sensed_pressure(loop), busy));
}

static int add_command(loop_t *loop, command_t command) {
    if (!reserve((void **)&loop->commands, &loop->command_capacity, loop->command_count + 1, sizeof command))
        return NO_MEMORY;
    loop->commands[loop->command_count++] = command;
    return OK;
}

// Sort the waiting queries by key: a bottom-up merge sort, stable.
static void sort_waiting(loop_t *loop, int64_t count) {
    account_t **from = loop->waiting, **to = loop->merged;
    double *keys = loop->keys, *merged_keys = loop->keys + loop->waiting_capacity;
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
    loop->waiting = from;
    loop->merged = to;
}

static bool reserve_waiting(loop_t *loop) {
    int64_t needed = loop->state.waiting;
    if (needed <= loop->waiting_capacity) return true;
    int64_t capacity = 2 * needed + 64;
    account_t **waiting = realloc(loop->waiting, capacity * sizeof *waiting);
    loop->waiting = waiting ? waiting : loop->waiting;
    account_t **merged = realloc(loop->merged, capacity * sizeof *merged);
    loop->merged = merged ? merged : loop->merged;
    double *keys = realloc(loop->keys, 2 * capacity * sizeof *keys);
    loop->keys = keys ? keys : loop->keys;
    if (!waiting || !merged || !keys) return false;
    loop->waiting_capacity = capacity;
    return true;
}

// discipline.admit(): reject late queries and sort the others by the order of service.
static int admit(loop_t *loop, int64_t level) {
    const plan_t *plan = &loop->plan;
    if (!reserve_waiting(loop)) return NO_MEMORY;
    int64_t count = 0;
    for (account_t *account = loop->oldest; account; account = account->newer) {
        double least = least_s(plan_of(loop, account), level, account->next_layer);
        double needed_s = plan->drop_late == WHEN_DOOMED ? least : 0.0, slack_s = account->deadline_s - loop->now_s;
        if (plan->drop_late != NEVER && !(needed_s <= slack_s)) {
            command_t reject = {.account = account, .kind = REJECT, .slack_s = slack_s, .least_s = needed_s};
            if (add_command(loop, reject) != OK) return NO_MEMORY;
            continue;
        }
        loop->keys[count] = plan->order == LLF ? account->deadline_s - least : account->deadline_s;
        loop->waiting[count++] = account;
    }
    if (plan->order != FCFS) sort_waiting(loop, count);
    loop->waiting_count = count;
    return OK;
}

// An iterator over waiting queries in the order of service: over the queue itself where that is its order.
typedef struct {
    account_t *next;
    int64_t index;
    bool is_list;
} turn_t;

static int begin_turns(loop_t *loop, int64_t level, turn_t *turn) {
    turn->is_list = loop->plan.order == FCFS && loop->plan.drop_late == NEVER;
    turn->next = loop->oldest;
    turn->index = 0;
    loop->waiting_count = loop->state.waiting;
    return turn->is_list ? OK : admit(loop, level);
}

static account_t *take_turn(const loop_t *loop, turn_t *turn) {
    if (!turn->is_list) return turn->index < loop->waiting_count ? loop->waiting[turn->index++] : NULL;
    account_t *account = turn->next;
    turn->next = account ? account->newer : NULL;
    return account;
}

static int add_resize(loop_t *loop, account_t *account, int64_t level, int32_t cores) {
    const uint8_t *versions = versions_of(loop, plan_of(loop, account), level, cores, account->first);
    bool same = !memcmp(versions, account->versions, account->stop - account->first);
    command_t resize = {.account = account, .kind = RESIZE, .cores = cores, .versions = same ? NULL : versions};
    return add_command(loop, resize);
}

#endif
