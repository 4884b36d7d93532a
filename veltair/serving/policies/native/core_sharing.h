// What sharing cores out works on, and the function that Python calls. native_shares.py reads this header.

#ifndef CORE_SHARING_H
#define CORE_SHARING_H

#include <stdint.h>

// What can be granted: core counts, ascending, of a machine's cores. Shares are multiples of the smallest count.
typedef struct {
    const int32_t *counts;
    int64_t count_count, cores;
    double tolerance;  // relative for times, absolute for units; blocks.py has it
} core_grants_t;

// A query that has work left, while cores are shared out. need, room and given are units of the smallest count.
typedef struct {
    double weight, key;  // what spare units go by, and what claims are ranked by: least first
    int64_t query;
    int64_t ranked;  // of a heap across the array of claims: which claim is at this index of it
    int32_t need, room, given, whole;
} core_claim_t;

// Rows are those of all models, one after the other: what a query takes from each layer on, and 0 after the last.
// From slack_s on there is room for all queries of a call; shares and needs are the answer.
typedef struct {
    core_grants_t grants;
    const double *remaining_s;  // by level, row and core count
    const int32_t *best_cores;  // by level and row
    int64_t rows;
    double *slack_s;
    const double **row_of;
    int32_t *best_of;
    core_claim_t *claims;
    int32_t *shares, *needs;
} sharing_t;

void core_shares_at_level(const sharing_t *sharing, int64_t queries, const double *deadlines_s, const int32_t *rows,
                          double time_s, int64_t level);

#endif
