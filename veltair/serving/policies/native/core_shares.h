// Core shares by urgency: which query gets how many cores, and what it needs.
//
// It does what core_shares.py does, the same operations on doubles in the same order, so that both give the same
// shares (to be compiled without contraction of products and sums: -ffp-contract=off). Where Python sorts, a heap
// ranks: by the same keys and, at equal ones, by index, as a stable sort does, but only as far as units reach.
//
// All functions are static and nothing is kept between calls: include it in any unit.

#ifndef VELTAIR_CORE_SHARES_H
#define VELTAIR_CORE_SHARES_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "core_sharing.h"

static bool claim_before(const core_claim_t *claims, int64_t one, int64_t other) {
    return claims[one].key < claims[other].key || (claims[one].key == claims[other].key && one < other);
}

// Restore the heap of so many claims below a index.
static void claim_sink(core_claim_t *claims, int64_t index, int64_t count) {
    int64_t sinking = claims[index].ranked;
    for (int64_t child = 2 * index + 1; child < count; child = 2 * index + 1) {
        if (child + 1 < count && claim_before(claims, claims[child + 1].ranked, claims[child].ranked)) child++;
        if (!claim_before(claims, claims[child].ranked, sinking)) break;
        claims[index].ranked = claims[child].ranked;
        index = child;
    }
    claims[index].ranked = sinking;
}

static void claims_rank(core_claim_t *claims, int64_t count) {
    for (int64_t index = 0; index < count; index++)
        claims[index].ranked = index;
    for (int64_t index = count / 2 - 1; index >= 0; index--)
        claim_sink(claims, index, count);
}

// Take the first claim out of the heap.
static core_claim_t *claims_next(core_claim_t *claims, int64_t *count) {
    core_claim_t *first = &claims[claims[0].ranked];
    claims[0].ranked = claims[--*count].ranked;
    claim_sink(claims, 0, *count);
    return first;
}

static double claim_open_weight(const core_claim_t *claim) { return claim->given < claim->room ? claim->weight : 0.0; }

// Set whole: units in proportion to the weights that are open, by largest remainder.
static void claims_round(core_claim_t *claims, int64_t count, int64_t units, double total, double tolerance) {
    int64_t left = units;
    for (int64_t index = 0; index < count; index++) {
        core_claim_t *claim = &claims[index];
        double quota = (double)units * claim_open_weight(claim) / total;
        claim->whole = (int32_t)floor(quota + tolerance);
        claim->key = claim->whole - quota;
        left -= claim->whole;
    }
    if (left <= 0) return;
    claims_rank(claims, count);
    for (int64_t unranked = count; left > 0 && unranked > 0; left--)
        claims_next(claims, &unranked)->whole++;
}

// Give units out in proportion to the weights, none above its room; return how many are left.
static int64_t claims_apportion(core_claim_t *claims, int64_t count, int64_t units, double tolerance) {
    while (units > 0) {
        double total = 0.0;
        for (int64_t index = 0; index < count; index++)
            total += claim_open_weight(&claims[index]);
        if (total == 0.0) break;
        claims_round(claims, count, units, total, tolerance);
        for (int64_t index = 0; index < count; index++) {
            core_claim_t *claim = &claims[index];
            int32_t room = claim->room - claim->given, more = claim->whole < room ? claim->whole : room;
            claim->given += more;
            units -= more;
        }
    }
    return units;
}

// Meet needs from the most urgent claim down; then the spare goes by urgency, and the rest equally.
static void claims_by_urgency(core_claim_t *claims, int64_t count, int64_t units, double tolerance) {
    for (int64_t index = 0; index < count; index++)
        claims[index].key = -claims[index].weight;
    claims_rank(claims, count);
    for (int64_t unranked = count; units > 0 && unranked > 0;) {
        core_claim_t *claim = claims_next(claims, &unranked);
        claim->given = claim->need < units ? claim->need : (int32_t)units;
        units -= claim->given;
    }
    units = claims_apportion(claims, count, units, tolerance);
    for (int64_t index = 0; index < count; index++)
        claims[index].weight = 1.0;
    claims_apportion(claims, count, units, tolerance);
}

// Return the index of the fewest cores whose time is within the slack, -1 if there are none.
static int64_t fewest_cores(const core_grants_t *grants, const double *remaining_s, double slack_s) {
    double bound_s = slack_s * (1 + grants->tolerance);
    for (int64_t index = 0; index < grants->count_count; index++)
        if (remaining_s[index] <= bound_s) return index;
    return -1;
}

// Set the needs of all queries and make claims of those that have work left; return how many these are.
static int64_t claims_of(const core_grants_t *grants, int64_t queries, const double *slack_s,
                         const double *const *remaining_s, const int32_t *best_cores, core_claim_t *claims,
                         int32_t *needs) {
    int64_t count = 0;
    int32_t step = grants->counts[0];
    for (int64_t query = 0; query < queries; query++) {
        const double *row = remaining_s[query];
        needs[query] = 0;
        if (!(row[grants->count_count - 1] > 0.0)) continue;
        int64_t fewest = fewest_cores(grants, row, slack_s[query]);
        needs[query] = fewest < 0 ? 0 : grants->counts[fewest];
        int32_t need = (needs[query] + step - 1) / step, best = best_cores[query] / step;
        double weight = fewest < 0 ? 0.0 : 1 / row[fewest];
        claims[count++] = (core_claim_t){weight, 0.0, query, 0, need, best > need ? best : need, 0, 0};
    }
    return count;
}

// Share the cores out: each query's share, and the fewest cores on which it meets its deadline (0: none). slack_s is
// the time to its deadline, remaining_s[query] the seconds by core count that it still takes (finite and positive, or
// all 0: no work is left), best_cores the count on which its model is fastest. claims is scratch memory with room for
// all queries; shares and needs have an entry a query.
static void core_shares(const core_grants_t *grants, int64_t queries, const double *slack_s,
                        const double *const *remaining_s, const int32_t *best_cores, core_claim_t *claims,
                        int32_t *shares, int32_t *needs) {
    int64_t step = grants->counts[0], units = grants->cores / step, needed = 0, feasible = 0;
    int64_t count = claims_of(grants, queries, slack_s, remaining_s, best_cores, claims, needs);
    for (int64_t index = 0; index < count; index++) {
        needed += claims[index].need;
        feasible += claims[index].need > 0;
    }
    bool all_fit = feasible == count && needed <= units;
    for (int64_t index = 0; index < count; index++) {
        core_claim_t *claim = &claims[index];
        int64_t query = claim->query;
        if (all_fit)
            claim->given = claim->need;
        else if (feasible)
            claim->weight = claim->need ? 1 / (slack_s[query] * needs[query]) : 0.0;
        else
            claim->weight = 1 / remaining_s[query][grants->count_count - 1];
    }
    if (all_fit || !feasible)
        claims_apportion(claims, count, all_fit ? units - needed : units, grants->tolerance);
    else
        claims_by_urgency(claims, count, units, grants->tolerance);
    for (int64_t query = 0; query < queries; query++)
        shares[query] = 0;
    for (int64_t index = 0; index < count; index++)
        shares[claims[index].query] = (int32_t)(claims[index].given * step);
}

#endif
