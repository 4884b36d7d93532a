// Block formation: what form_blocks() and coalesce() of blocks.py do, the same operations in the same order.

#ifndef BLOCK_FORMING_H
#define BLOCK_FORMING_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// seconds: a row by core count for each layer from the first one on; budgets_s: one for each; both of `layers` layers.
typedef struct {
    const double *seconds, *budgets_s;
    const int32_t *counts;  // ascending
    int64_t layers, count_count, limit;
    double scale, slightly_more;  // of all budgets; and 1 + the tolerance of sums
    int64_t coalesce_layers;
} forming_t;

// Scratch memory: blocks by the index of their first layer, a row of times for each.
typedef struct {
    double *rows, *budgets_s;
    int32_t *needs, *lengths, *before;  // before: where the block begins that this one follows
} formed_t;

// Return the index of the fewest cores within a budget, else of the count with the least time.
static int64_t need_index(const forming_t *of, const double *row, double budget_s) {
    double bound_s = budget_s * of->slightly_more;
    int64_t best = 0;
    for (int64_t index = 0; index < of->count_count; index++) {
        if (row[index] <= bound_s) return index;
        best = row[index] < row[best] ? index : best;
    }
    return best;
}

static double limit_slack(const forming_t *of, const formed_t *in, int64_t block) {
    return in->budgets_s[block] - in->rows[block * of->count_count + of->limit];
}

// Return where the first of the neediest blocks begins, -1 if none needs more than the limit.
static int64_t neediest(const forming_t *of, const formed_t *in) {
    int64_t found = -1;
    int32_t most = of->limit;
    for (int64_t block = 0; block < of->layers; block += in->lengths[block])
        if (in->needs[block] > most) {
            most = in->needs[block];
            found = block;
        }
    return found;
}

// Merge a block with the neighbour that has most slack, of equals the one that follows.
static void merge_neediest(const forming_t *of, formed_t *in, int64_t block) {
    int64_t next = block + in->lengths[block];
    bool is_last = next == of->layers;
    if (is_last || (block && limit_slack(of, in, in->before[block]) > limit_slack(of, in, next))) {
        next = block;
        block = in->before[block];
    }
    double *row = in->rows + block * of->count_count;
    const double *more = in->rows + next * of->count_count;
    for (int64_t index = 0; index < of->count_count; index++)
        row[index] += more[index];
    in->budgets_s[block] += in->budgets_s[next];
    in->lengths[block] += in->lengths[next];
    in->needs[block] = need_index(of, row, in->budgets_s[block]);
    int64_t after = block + in->lengths[block];
    if (after < of->layers) in->before[after] = block;
}

// Let the first block take in those that follow and need as much as it did. need: the index of its cores.
static int64_t coalesce_first(const forming_t *of, formed_t *in, int64_t *need) {
    int64_t length = in->lengths[0];
    *need = in->needs[0];
    while (length < of->layers && in->needs[length] == *need && length + in->lengths[length] <= of->coalesce_layers)
        length += in->lengths[length];
    if (length == in->lengths[0]) return length;
    double *row = in->rows, budget_s = of->budgets_s[0] * of->scale;  // nobody needs the first block's any more
    memcpy(row, of->seconds, of->count_count * sizeof *row);
    for (int64_t layer = 1; layer < length; layer++) {
        budget_s += of->budgets_s[layer] * of->scale;
        for (int64_t index = 0; index < of->count_count; index++)
            row[index] += of->seconds[layer * of->count_count + index];
    }
    int64_t merged = need_index(of, row, budget_s);
    if (merged > *need) return in->lengths[0];
    *need = merged;
    return length;
}

// Return how many layers the first block has; need: the index of the cores that it needs.
static int64_t form_first_block(const forming_t *of, formed_t *in, int64_t *need) {
    memcpy(in->rows, of->seconds, of->layers * of->count_count * sizeof *in->rows);
    for (int64_t layer = 0; layer < of->layers; layer++) {
        in->budgets_s[layer] = of->budgets_s[layer] * of->scale;
        in->needs[layer] = need_index(of, in->rows + layer * of->count_count, in->budgets_s[layer]);
        in->lengths[layer] = 1;
        in->before[layer] = layer - 1;
    }
    for (int64_t block; in->lengths[0] < of->layers && (block = neediest(of, in)) >= 0;)
        merge_neediest(of, in, block);
    return coalesce_first(of, in, need);
}

#endif
