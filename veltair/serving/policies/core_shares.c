// Core shares for Python: what native_shares.py calls. Python owns all memory.

#include "core_shares.h"

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

// How many bytes the claim of a query takes.
int64_t core_shares_claim_bytes(void) { return sizeof(core_claim_t); }

// Share the cores out among queries that are at rows[query] of a level.
void core_shares_at_level(const sharing_t *sharing, int64_t queries, const double *deadlines_s, const int32_t *rows,
                          double time_s, int64_t level) {
    for (int64_t query = 0; query < queries; query++) {
        int64_t row = level * sharing->rows + rows[query];
        sharing->slack_s[query] = deadlines_s[query] - time_s;
        sharing->row_of[query] = sharing->remaining_s + row * sharing->grants.count_count;
        sharing->best_of[query] = sharing->best_cores[row];
    }
    core_shares(&sharing->grants, queries, sharing->slack_s, sharing->row_of, sharing->best_of, sharing->claims,
                sharing->shares, sharing->needs);
}
