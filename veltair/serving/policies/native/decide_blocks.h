// Decisions of policies that start layer blocks: blocks.py, discipline.py and growth.py.

#ifndef DECIDE_BLOCKS_H
#define DECIDE_BLOCKS_H

#include "decide_turns.h"

// The sum of Avg_C that the machine is shared by; it ends early as blocks.py says.
static double total_average(const policy_t *policy, int64_t level, turn_t turn) {
    const plan_t *plan = &policy->plan;
    if (plan->loaded) return plan->loaded[level];
    double total = 0.0, enough = plan->enough[level];
    for (int64_t index = 0; index < policy->view->running_count; index++) {
        total += plan_of(policy, policy->view->running[index])->averages[level];
        if (total > enough) return total;
    }
    for (account_t *account; plan->counts_waiting && (account = take_turn(policy, &turn));) {
        total += plan_of(policy, account)->averages[level];
        if (total > enough) return total;
    }
    return total;
}

// Return the index of a model's dynamic threshold among the core counts.
static int64_t limit_index(const policy_t *policy, const plan_model_t *model, int64_t level, double total) {
    const plan_t *plan = &policy->plan;
    if (!plan->counts_waiting) total += model->averages[level];  // of the query that is to start
    if (total <= 0.0) return plan->count_count - 1;
    double cores = plan->cores * model->averages[level] / total * plan->slightly_more;
    int32_t count = round_down(plan, cores);
    return count ? policy->count_indices[count] : 0;
}

static int64_t scale_index(const policy_t *policy, const account_t *account) {
    const plan_t *plan = &policy->plan;
    if (!plan->follows_slack) return 0;
    double left_s = plan->alpha * (account->deadline_s - policy->view->now_s);
    double scale = left_s / plan_of(policy, account)->budgets[account->next_layer];
    int64_t index = index_after(plan->scales, plan->scale_count, scale * plan->slightly_more) - 1;
    return index > 0 ? index : 0;
}

static bool allocate_forming(policy_t *policy) {
    formed_t *formed = &policy->formed;
    if (formed->before) return true;
    size_t layers = policy->plan.most_layers;
    formed->rows = malloc(layers * policy->plan.count_count * sizeof *formed->rows);
    formed->budgets_s = malloc(layers * sizeof *formed->budgets_s);
    formed->needs = malloc(layers * sizeof *formed->needs);
    formed->lengths = malloc(layers * sizeof *formed->lengths);
    formed->before = malloc(layers * sizeof *formed->before);
    return formed->rows && formed->budgets_s && formed->needs && formed->lengths && formed->before;
}

static int form(policy_t *policy, const plan_model_t *model, int64_t first, int64_t level, int64_t limit, int64_t scale,
                proposal_t *proposal) {
    const plan_t *plan = &policy->plan;
    if (!allocate_forming(policy)) return NO_MEMORY;
    forming_t forming = {
        .seconds = model->seconds + (level * model->layers + first) * plan->count_count,
        .budgets_s = model->shares_s + first,
        .counts = plan->counts,
        .layers = model->layers - first,
        .count_count = plan->count_count,
        .limit = limit,
        .scale = plan->follows_slack ? plan->scales[scale] : 1.0,
        .slightly_more = plan->slightly_more,
        .coalesce_layers = plan->coalesce_layers,
    };
    int64_t need;
    proposal->layers = form_first_block(&forming, &policy->formed, &need);
    proposal->cores = plan->counts[need];
    return OK;
}

static int propose_block(policy_t *policy, const account_t *account, int64_t level, double total,
                         proposal_t *proposal) {
    const plan_t *plan = &policy->plan;
    const plan_model_t *model = plan_of(policy, account);
    int64_t limit = plan->follows_load ? limit_index(policy, model, level, total) : 0;
    int64_t scale = scale_index(policy, account);
    int64_t row = (level * plan->limit_count + limit) * plan->scale_count + scale;
    proposal_t *known = &model->proposals[row * model->layers + account->next_layer];
    int formed =
        known->layers || !model->seconds ? OK : form(policy, model, account->next_layer, level, limit, scale, known);
    *proposal = *known;
    if (proposal->layers || formed != OK) return formed;
    policy->unformed = (unformed_t){account->model, level, limit, scale, account->next_layer};
    return NEED_BLOCK;
}

// discipline.granted_cores(): what a block gets that needs more than is free, 0 if it has to wait.
static int32_t shrunk_cores(const plan_t *plan, int32_t free_cores) {
    return plan->conflict == WAIT || plan->conflict == BACKFILL ? 0 : round_down(plan, free_cores);
}

static int add_start(policy_t *policy, account_t *account, int64_t level, int32_t layers, int32_t cores,
                     int32_t wanted) {
    const plan_model_t *model = plan_of(policy, account);
    command_t start = {.account = account, .kind = START, .stop = account->next_layer + layers, .cores = cores};
    start.wanted = wanted;
    start.versions = versions_of(policy, model, level, cores, account->next_layer);
    return add_command(policy, start);
}

// discipline.start_in_turn(): each query in turn proposes a block; the conflict rule decides how many cores it gets.
static int start_in_turn(policy_t *policy, turn_t turn, int64_t level, int32_t *free_cores, int64_t *starts) {
    const plan_t *plan = &policy->plan;
    if (*free_cores < plan->counts[0]) return OK;
    double total = plan->follows_load && policy->waiting_count ? total_average(policy, level, turn) : 0.0;
    int what;
    for (account_t *account; *free_cores >= plan->counts[0] && (account = take_turn(policy, &turn));) {
        proposal_t proposal;
        if ((what = propose_block(policy, account, level, total, &proposal)) != OK) return what;
        int32_t cores = proposal.cores, layers = proposal.layers;
        if (cores > *free_cores) {
            cores = shrunk_cores(plan, *free_cores);
            if (!cores && plan->conflict == WAIT) return OK;
            if (!cores) continue;
            layers = plan->conflict == SHRINK_ONE_LAYER ? 1 : layers;
        }
        if (add_start(policy, account, level, layers, cores, proposal.cores) != OK) return NO_MEMORY;
        *free_cores -= cores;
        ++*starts;
    }
    return OK;
}

// growth.py: blocks that start take the cores that running ones left, in order.
static void widen_starts(policy_t *policy, int64_t count, int64_t level, int32_t free_cores) {
    const plan_t *plan = &policy->plan;
    for (int64_t index = 0; index < count; index++) {
        command_t *start = &policy->commands->items[index];
        if (start->kind != START) continue;
        const plan_model_t *model = plan_of(policy, start->account);
        int64_t first = start->account->next_layer;
        int32_t best = best_cores(policy, model, level, first, start->stop), most = start->cores + free_cores;
        int32_t cores = round_down(plan, best < most ? best : most);
        if (cores <= start->cores) continue;
        free_cores -= cores - start->cores;
        start->cores = cores;
        start->versions = versions_of(policy, model, level, cores, first);
    }
}

// growth.py: with nobody waiting, running blocks take free cores, the oldest first; then the blocks that start.
static int grow(policy_t *policy, int64_t starting_level, int32_t free_cores) {
    int64_t starts = policy->commands->count;
    const plan_t *plan = &policy->plan;
    int32_t busy = busy_cores(policy);
    const int32_t *ended = policy->view->ended(policy->view->run);
    for (int64_t index = 0; index < policy->view->running_count && free_cores >= plan->counts[0]; index++) {
        account_t *account = policy->view->running[index];
        int64_t next_layer = account->first + ended[account->slot] + 1;
        if (next_layer >= account->stop || account->yields) continue;
        int64_t level = level_met(policy, account, busy);
        int32_t best = best_cores(policy, plan_of(policy, account), level, next_layer, account->stop);
        int32_t reserved = reserved_cores(account), most = reserved + free_cores;
        int32_t cores = round_down(plan, best < most ? best : most);
        if (cores <= account->target_cores) continue;
        if (add_resize(policy, account, level, cores) != OK) return NO_MEMORY;
        free_cores -= cores - reserved;
    }
    widen_starts(policy, starts, starting_level, free_cores);
    return OK;
}

static int decide_blocks(policy_t *policy) {
    const plan_t *plan = &policy->plan;
    int32_t free_cores = policy->view->free_cores;
    if (free_cores < plan->counts[0] && plan->drop_late == NEVER) return OK;
    int64_t level = current_level(policy), starts = 0;
    turn_t turn;
    int what = begin_turns(policy, level, &turn);
    if (what == OK) what = start_in_turn(policy, turn, level, &free_cores, &starts);
    if (what != OK || !plan->grows || starts < policy->waiting_count) return what;
    return grow(policy, level, free_cores);
}

// baselines/fcfs_all.py: one whole model at a time on the cores that suit it best.
static int decide_all_cores(policy_t *policy) {
    turn_t turn;
    int what = begin_turns(policy, 0, &turn);
    account_t *account = what == OK && !policy->view->running_count ? take_turn(policy, &turn) : NULL;
    if (!account) return what;
    const plan_model_t *model = plan_of(policy, account);
    int32_t cores = best_cores(policy, model, 0, 0, model->layers);
    return add_start(policy, account, 0, model->layers - account->next_layer, cores, cores);
}

#endif
