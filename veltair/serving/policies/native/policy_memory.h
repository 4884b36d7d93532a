// A policy with a native spec: its plan, and memory that it uses from decision to decision.

#ifndef POLICY_MEMORY_H
#define POLICY_MEMORY_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../loop/growing.h"
#include "block_forming.h"
#include "core_shares.h"
#include "decisions.h"

// Cores that come free in `seconds`, less those that are promised. Where they are a running query's that can give way,
// layer_s is when they would come free then, and deadline_s its deadline: infinite if it will miss that anyhow.
typedef struct {
    double seconds, layer_s, deadline_s;
    account_t *account;
    int32_t cores;
    bool may_yield;  // in the fit that is tried
} core_source_t;

struct policy {
    plan_t plan;
    decider_t decider;
    const view_t *view;    // of the decision under way
    commands_t *commands;  // so far
    unformed_t unformed;
    int32_t *count_indices;  // by number of cores, -1 if it is no count
    account_t **waiting, **merged;
    double *keys;
    int64_t waiting_capacity, waiting_count;
    formed_t formed;
    account_t **present;  // of the queries that share the cores, with the arrays that core_shares() takes
    double *slacks_s;
    const double **rows;
    int32_t *bests, *shares, *needs;
    core_claim_t *claims;
    int64_t present_capacity, shared_count;
    core_source_t *sources, **by_time, **chosen;
    int64_t source_count;
};

#endif
