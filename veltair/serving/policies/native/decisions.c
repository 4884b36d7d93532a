// Decisions of policies with a native spec, for every backend: see decisions.h.
//
// They do what `allocate` of these policies does in Python, the same operations on doubles in the same order, so that
// both decide the same to the last bit (to be compiled without contraction of products and sums). Python owns all
// tables. A decision that lacks a block which was never formed before says so, and is made again from the start.

#include "decide_blocks.h"
#include "decide_preemptive.h"
#include "decide_shares.h"
#include "decide_turns.h"
#include "policy_memory.h"

static int decide(void *self, const view_t *view, commands_t *commands) {
    policy_t *policy = self;
    policy->view = view;
    policy->commands = commands;
    switch (policy->plan.kind) {
    case ALL_CORES:
        return decide_all_cores(policy);
    case SHARES:
        return decide_shares(policy);
    case PREEMPTIVE:
        return decide_preemptive(policy);
    default:
        return decide_blocks(policy);
    }
}

void policy_free(policy_t *policy) {
    if (!policy) return;
    void *parts[] = {policy->count_indices, policy->waiting,          policy->merged,       policy->keys,
                     policy->formed.rows,   policy->formed.budgets_s, policy->formed.needs, policy->formed.lengths,
                     policy->formed.before, policy->present,          policy->slacks_s,     policy->rows,
                     policy->bests,         policy->shares,           policy->needs,        policy->claims,
                     policy->sources,       policy->by_time,          policy->chosen,       policy};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++)
        free(parts[part]);
}

// Return a policy that has decided nothing yet, or NULL without memory.
policy_t *policy_new(const plan_t *plan) {
    policy_t *policy = calloc(1, sizeof *policy);
    if (!policy) return NULL;
    policy->plan = *plan;
    policy->decider = (decider_t){decide, policy};
    policy->count_indices = calloc(plan->cores + 1, sizeof *policy->count_indices);
    if (!policy->count_indices) {
        policy_free(policy);
        return NULL;
    }
    for (int64_t count = 0; count <= plan->cores; count++)
        policy->count_indices[count] = -1;
    for (int64_t index = 0; index < plan->count_count; index++)
        policy->count_indices[plan->counts[index]] = index;
    return policy;
}

const decider_t *policy_decider(policy_t *policy) { return &policy->decider; }

// Return the block that the last decision lacked.
const unformed_t *policy_unformed(const policy_t *policy) { return &policy->unformed; }
