// A policy with a native spec: its plan, and memory that it uses from decision to decision.

#ifndef POLICY_MEMORY_H
#define POLICY_MEMORY_H

#include <stdlib.h>
#include <string.h>

#include "../loop/growing.h"
#include "block_forming.h"
#include "core_shares.h"
#include "decisions.h"

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
};

#endif
