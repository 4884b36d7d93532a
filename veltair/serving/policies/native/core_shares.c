// Core shares for Python: what native_shares.py calls. Python owns all memory.

#include "core_shares.h"

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
