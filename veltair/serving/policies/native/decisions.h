// Decisions of policies with a native spec: from a view to commands. native_policy.py reads this header.

#ifndef DECISIONS_H
#define DECISIONS_H

#include "../../loop/view.h"

// Of the Python enums of the same names: Order, Conflict, DropLate, DecisionKind.
typedef enum { FCFS, EDF, LLF } order_t;
typedef enum { WAIT, BACKFILL, SHRINK, SHRINK_ONE_LAYER } conflict_t;
typedef enum { NEVER, AT_DEADLINE, WHEN_DOOMED } drop_late_t;
typedef enum { BLOCKS, ALL_CORES, SHARES, PREEMPTIVE } decision_kind_t;

// layers 0: not formed yet.
typedef struct {
    int32_t layers, cores;
} proposal_t;

// seconds: by level, layer and count (or NULL: Python forms blocks). shares_s: static budgets of single layers.
// remaining: seconds by level, first layer (one more than there are) and count. least: the least of them over counts.
// budgets: static ones from each layer on. averages: Avg_C by level. versions: by level, count and layer.
// proposals: by level, limit, scale and first layer.
typedef struct {
    const double *seconds, *shares_s, *remaining, *least, *budgets, *averages;
    const uint8_t *versions;
    proposal_t *proposals;
    int64_t layers;
} plan_model_t;

// How the policy decides. enough and loaded (or NULL): by level. slightly_more: 1 + tolerance.
typedef struct {
    const plan_model_t *models;
    const double *levels, *scales, *enough, *loaded;
    const int32_t *counts;
    int64_t level_count, count_count, scale_count, limit_count, most_layers;
    double alpha, tolerance, slightly_more;
    decision_kind_t kind;
    order_t order;
    conflict_t conflict;
    drop_late_t drop_late;
    int32_t cores, follows_slack, follows_load, counts_waiting, grows, coalesce_layers;
} plan_t;

// A block that was never formed, by its place in the proposals of its model.
typedef struct {
    int32_t model, level, limit, scale, first;
} unformed_t;

typedef struct policy policy_t;

policy_t *policy_new(const plan_t *plan);
void policy_free(policy_t *policy);
const decider_t *policy_decider(policy_t *policy);
const unformed_t *policy_unformed(const policy_t *policy);

#endif
