// Decisions of baselines/preemptive_edf.py: the earliest deadline first, for which later ones may have to yield.

#ifndef DECIDE_PREEMPTIVE_H
#define DECIDE_PREEMPTIVE_H

#include "decide_blocks.h"

// Source: cores as if the running layer had just begun, for how far it is nobody knows.
static core_source_t source_of(const policy_t *policy, account_t *account, int32_t ended) {
    const plan_model_t *model = plan_of(policy, account);
    int32_t last = account->stop - account->first - 1;
    int64_t next_layer = account->first + (ended < last ? ended : last) + 1;
    int64_t index = policy->count_indices[account->cores];
    double rest_s = remaining_s(policy, model, 0, next_layer - 1)[index];
    double layer_s = rest_s - remaining_s(policy, model, 0, next_layer)[index];
    core_source_t source = {.seconds = layer_s, .layer_s = INFINITY, .deadline_s = -INFINITY};
    source.cores = reserved_cores(account);
    if (account->yields || next_layer == account->stop) return source;
    source.seconds = rest_s;
    source.layer_s = layer_s;
    bool is_doomed = policy->view->now_s + least_s(model, 0, next_layer) > account->deadline_s;
    source.deadline_s = is_doomed ? INFINITY : account->deadline_s;
    source.account = account;
    return source;
}

// The free cores come first, then those of running blocks. order: to begin with, as they come.
static void list_sources(policy_t *policy, int32_t free_cores) {
    const view_t *view = policy->view;
    const int32_t *ended = view->ended(view->run);
    policy->sources[0] = (core_source_t){.layer_s = INFINITY, .deadline_s = -INFINITY, .cores = free_cores};
    for (int64_t index = 0; index < view->running_count; index++)
        policy->sources[index + 1] = source_of(policy, view->running[index], ended[view->running[index]->slot]);
    policy->source_count = view->running_count + 1;
    for (int64_t index = 0; index < policy->source_count; index++)
        policy->by_time[index] = &policy->sources[index];
}

static int64_t promisable_cores(const policy_t *policy) {
    int64_t cores = 0;
    for (int64_t index = 0; index < policy->source_count; index++)
        cores += policy->sources[index].cores;
    return cores;
}

static double comes_in_s(const core_source_t *source) { return source->may_yield ? source->layer_s : source->seconds; }

static bool comes_before(const core_source_t *one, const core_source_t *other) {
    double one_s = comes_in_s(one), other_s = comes_in_s(other);
    return one_s < other_s || (one_s == other_s && one->cores < other->cores);
}

// Hardly anything moves from one fit to the next.
static void sort_by_time(policy_t *policy) {
    core_source_t **sorted = policy->by_time;
    for (int64_t index = 1; index < policy->source_count; index++) {
        core_source_t *source = sorted[index];
        int64_t at = index;
        for (; at && comes_before(source, sorted[at - 1]); at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = source;
    }
}

// Return in how many seconds a query could start first and be in time, and on how many cores; false: it cannot.
static bool fit(policy_t *policy, const account_t *account, double budget_s, double *seconds, int32_t *cores) {
    const plan_t *plan = &policy->plan;
    const plan_model_t *model = plan_of(policy, account);
    const double *rest_s = remaining_s(policy, model, 0, account->next_layer);
    int32_t best = best_cores(policy, model, 0, account->next_layer, model->layers), coming = 0;
    sort_by_time(policy);
    for (int64_t index = 0; index < policy->source_count; index++) {
        coming += policy->by_time[index]->cores;
        *seconds = comes_in_s(policy->by_time[index]);
        *cores = round_down(plan, best < coming ? best : coming);
        if (*cores && *seconds + rest_s[policy->count_indices[*cores]] <= budget_s) return true;
    }
    return false;
}

// No limit for a lost query that is not dropped.
static double budget_of(const policy_t *policy, const account_t *account) {
    double slack_s = account->deadline_s - policy->view->now_s, alpha = policy->plan.alpha;
    double least = least_s(plan_of(policy, account), 0, account->next_layer);
    if (least > slack_s) return INFINITY;
    return least <= alpha * slack_s ? alpha * slack_s : slack_s;
}

// List those whose deadlines are later, the latest first; those alike as they come.
static int64_t list_later(policy_t *policy, const account_t *account) {
    int64_t count = 0;
    for (int64_t index = 0; index < policy->source_count; index++) {
        core_source_t *source = &policy->sources[index];
        if (!(source->deadline_s > account->deadline_s)) continue;
        int64_t at = count++;
        for (; at && policy->chosen[at - 1]->deadline_s < source->deadline_s; at--)
            policy->chosen[at] = policy->chosen[at - 1];
        policy->chosen[at] = source;
    }
    return count;
}

// Let those yield that have to give way to a query: nobody if it needs nobody to, or if nobody's yield helps.
static int make_yield(policy_t *policy, const account_t *account, double budget_s) {
    int64_t later = list_later(policy, account), count = 0;
    double seconds;
    int32_t cores;
    bool helps = fit(policy, account, budget_s, &seconds, &cores);
    while (!helps && count < later) {
        policy->chosen[count++]->may_yield = true;
        helps = fit(policy, account, budget_s, &seconds, &cores);
    }
    for (int64_t index = 0; index < count; index++) {
        core_source_t *source = policy->chosen[index];
        source->may_yield = false;
        if (!helps) continue;
        source->seconds = source->layer_s;
        source->deadline_s = -INFINITY;
        if (add_command(policy, (command_t){.account = source->account, .kind = YIELD}) != OK) return NO_MEMORY;
    }
    return OK;
}

// Take cores that come within so many seconds: those that come last, for who follows may have the others before.
static void promise(policy_t *policy, double seconds, int32_t cores) {
    int64_t count = 0;
    for (int64_t index = 0; index < policy->source_count; index++) {
        core_source_t *source = &policy->sources[index];
        if (source->seconds > seconds) continue;
        int64_t at = count++;
        for (; at && policy->chosen[at - 1]->seconds < source->seconds; at--)
            policy->chosen[at] = policy->chosen[at - 1];
        policy->chosen[at] = source;
    }
    for (int64_t index = 0; index < count && cores; index++) {
        core_source_t *source = policy->chosen[index];
        int32_t taken = cores < source->cores ? cores : source->cores;
        source->cores -= taken;
        cores -= taken;
    }
}

// Start a query that can be in time now, and promise cores to one that can be later.
static int take_cores(policy_t *policy, account_t *account, double budget_s) {
    const plan_model_t *model = plan_of(policy, account);
    double seconds;
    int32_t cores;
    if (!fit(policy, account, budget_s, &seconds, &cores)) return OK;
    if (seconds == 0.0) {
        int32_t best = best_cores(policy, model, 0, account->next_layer, model->layers);
        int32_t layers = (int32_t)model->layers - account->next_layer;
        if (add_start(policy, account, 0, layers, cores, best) != OK) return NO_MEMORY;
    }
    promise(policy, seconds, cores);
    return OK;
}

static bool reserve_sources(policy_t *policy) {
    if (policy->chosen) return true;
    int64_t count = policy->plan.cores + 1;  // a running block has a core
    policy->sources = malloc(count * sizeof *policy->sources);
    policy->by_time = malloc(count * sizeof *policy->by_time);
    policy->chosen = malloc(count * sizeof *policy->chosen);
    return policy->sources && policy->by_time && policy->chosen;
}

static int decide_preemptive(policy_t *policy) {
    turn_t turn;
    int what = begin_turns(policy, 0, &turn);
    if (what != OK) return what;
    if (!policy->waiting_count) return policy->plan.grows ? grow(policy, 0, policy->view->free_cores) : OK;
    if (!reserve_sources(policy)) return NO_MEMORY;
    list_sources(policy, policy->view->free_cores);
    for (account_t *account; what == OK && (account = take_turn(policy, &turn));) {
        if (promisable_cores(policy) < policy->plan.counts[0]) return OK;
        double budget_s = budget_of(policy, account);
        what = make_yield(policy, account, budget_s);
        if (what == OK) what = take_cores(policy, account, budget_s);
    }
    return what;
}

#endif
