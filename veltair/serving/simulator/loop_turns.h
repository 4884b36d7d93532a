// What decisions read, and whose turn it is: timetables.py and discipline.py.

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
    int64_t place = loop->count_places[cores];
    return model->versions + (level * loop->plan.count_count + place) * model->layers + first;
}

// Return how many of ascending values are at most value: where it would go, after its equals.
static int64_t place_after(const double *values, int64_t count, double value) {
    int64_t place = 0;
    while (place < count && values[place] <= value)
        place++;
    return place;
}

static int64_t nearest_level(const plan_t *plan, double pressure) {
    int64_t above = place_after(plan->levels, plan->level_count, pressure);
    if (above == plan->level_count) return above - 1;
    if (above == 0) return 0;
    return pressure - plan->levels[above - 1] <= plan->levels[above] - pressure ? above - 1 : above;
}

static int32_t round_down(const plan_t *plan, double cores) {
    int32_t count = 0;
    for (int64_t place = 0; place < plan->count_count && plan->counts[place] <= cores; place++)
        count = plan->counts[place];
    return count;
}

// Return the count on which layers [first, stop) are fastest.
static int32_t best_cores(const loop_t *loop, const plan_model_t *model, int64_t level, int64_t first, int64_t stop) {
    const double *whole = remaining_s(loop, model, level, first), *rest = remaining_s(loop, model, level, stop);
    int64_t best = 0;
    for (int64_t place = 1; place < loop->plan.count_count; place++)
        if (whole[place] - rest[place] < whole[best] - rest[best]) best = place;
    return loop->plan.counts[best];
}

static double pressure_on(const account_t *account, double pressure, int32_t busy_cores) {
    return pressure * (busy_cores - account->cores) / busy_cores;
}

static int32_t busy_cores(const loop_t *loop) {
    int32_t cores = 0;
    for (int64_t place = 0; place < loop->running_count; place++)
        cores += loop->running[place]->cores;
    return cores;
}

// Read once an event, and only if somebody asks.
static double told_pressure(loop_t *loop) {
    if (loop->pressure_known) return loop->pressure;
    double told = simulator_pressure(loop->sim);
    if (loop->run.proxied) {
        const run_t *run = &loop->run;
        told = told * (1.0 + run->relative_sigma * loop->relative_error) + run->sigma * loop->absolute_error;
        if (run->step != 0.0) told = rint(told / run->step) * run->step;
        told = told > 0.0 ? told : 0.0;
        told = told < 1.0 ? told : 1.0;
    }
    loop->pressure = told;
    loop->pressure_known = true;
    return told;
}

static int64_t level_told(loop_t *loop) {
    return loop->plan.level_count > 1 ? nearest_level(&loop->plan, told_pressure(loop)) : 0;
}

// The level that a running block meets itself.
static int64_t level_met(loop_t *loop, const account_t *account, int32_t busy) {
    if (loop->plan.level_count == 1) return 0;
    return nearest_level(&loop->plan, pressure_on(account, told_pressure(loop), busy));
}

static int add_command(loop_t *loop, command_t command) {
    if (!make_room((void **)&loop->commands, &loop->command_room, loop->command_count + 1, sizeof command))
        return NO_MEMORY;
    loop->commands[loop->command_count++] = command;
    return OK;
}

// Sort by keys, equal ones as they were, by merging from the bottom up.
static void sort_waiting(loop_t *loop, int64_t count) {
    account_t **from = loop->waiting, **to = loop->merged;
    double *keys = loop->keys, *merged_keys = loop->keys + loop->waiting_room;
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

static bool make_waiting_room(loop_t *loop) {
    int64_t needed = loop->state.waiting;
    if (needed <= loop->waiting_room) return true;
    int64_t room = 2 * needed + 64;
    account_t **waiting = realloc(loop->waiting, room * sizeof *waiting);
    loop->waiting = waiting ? waiting : loop->waiting;
    account_t **merged = realloc(loop->merged, room * sizeof *merged);
    loop->merged = merged ? merged : loop->merged;
    double *keys = realloc(loop->keys, 2 * room * sizeof *keys);
    loop->keys = keys ? keys : loop->keys;
    if (!waiting || !merged || !keys) return false;
    loop->waiting_room = room;
    return true;
}

// discipline.admit(): give up the late, and put the others in their turn.
static int admit(loop_t *loop, int64_t level) {
    const plan_t *plan = &loop->plan;
    if (!make_waiting_room(loop)) return NO_MEMORY;
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

// The queries that wait, in their turn; the queue itself where it is in their turn anyway.
typedef struct {
    account_t *next;
    int64_t place;
    bool is_list;
} turn_t;

static int begin_turns(loop_t *loop, int64_t level, turn_t *turn) {
    turn->is_list = loop->plan.order == FCFS && loop->plan.drop_late == NEVER;
    turn->next = loop->oldest;
    turn->place = 0;
    loop->waiting_count = loop->state.waiting;
    return turn->is_list ? OK : admit(loop, level);
}

static account_t *take_turn(const loop_t *loop, turn_t *turn) {
    if (!turn->is_list) return turn->place < loop->waiting_count ? loop->waiting[turn->place++] : NULL;
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
