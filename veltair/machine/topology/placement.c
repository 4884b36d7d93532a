// Placement in C: the same cores as placement.py picks, for whoever decides without Python.

#include <stdbool.h>

#include "placement.h"

static int32_t size_of(const core_layout_t *layout, int32_t group) {
    return layout->group_begins[group + 1] - layout->group_begins[group];
}

static int32_t count_free(const core_layout_t *layout, int32_t group, const uint8_t *is_free) {
    int32_t count = 0;
    for (int32_t at = layout->group_begins[group]; at < layout->group_begins[group + 1]; ++at)
        count += is_free[layout->cores[at]];
    return count;
}

// Append up to `most` free cores of a group, the lowest ids first.
static int32_t take(const core_layout_t *layout, int32_t group, int32_t most, const uint8_t *is_free,
                    uint16_t *chosen) {
    int32_t count = 0;
    for (int32_t at = layout->group_begins[group]; at < layout->group_begins[group + 1] && count < most; ++at)
        if (is_free[layout->cores[at]]) chosen[count++] = layout->cores[at];
    return count;
}

// Deal cores round-robin over the groups, those in use counting as dealt already.
static int32_t spread(const core_layout_t *layout, int32_t wanted, const uint8_t *is_free, uint16_t *chosen) {
    int32_t next[layout->groups], count = 0, left = 0;
    for (int32_t group = 0; group < layout->groups; ++group) {
        next[group] = layout->group_begins[group];
        left += count_free(layout, group, is_free);
    }
    for (int32_t turn = 0; count < wanted && left > 0; ++turn)
        for (int32_t group = 0; group < layout->groups && count < wanted; ++group) {
            int32_t end = layout->group_begins[group + 1];
            if (turn < size_of(layout, group) - count_free(layout, group, is_free)) continue;
            while (next[group] < end && !is_free[layout->cores[next[group]]])
                ++next[group];
            if (next[group] == end) continue;
            chosen[count++] = layout->cores[next[group]++];
            --left;
        }
    return count;
}

// Choose from groups given by how many free cores each has: of the smallest that suffices, or after all of the largest.
static int32_t fill(const core_layout_t *layout, const int32_t *groups, const int32_t *idle, int32_t group_count,
                    int32_t wanted, const uint8_t *is_free, uint16_t *chosen) {
    int32_t sorted[group_count + 1], count = 0;
    for (int32_t group = 0; group < group_count; ++group) {  // by size, the largest first; equals in their order
        int32_t at = group;
        for (; at > 0 && idle[sorted[at - 1]] < idle[groups[group]]; --at)
            sorted[at] = sorted[at - 1];
        sorted[at] = groups[group];
    }
    for (int32_t at = 0; at < group_count && count < wanted; ++at) {
        int32_t need = wanted - count, tightest = sorted[at];
        for (int32_t other = at; need <= idle[sorted[at]] && other < group_count; ++other)
            if (idle[sorted[other]] >= need && idle[sorted[other]] < idle[tightest]) tightest = sorted[other];
        count += take(layout, tightest, need, is_free, chosen + count);
    }
    return count;
}

// Choose cores that share as few caches with other blocks as possible: groups of the block's own, untouched ones, others.
static int32_t pin(const core_layout_t *layout, int32_t wanted, const uint8_t *is_free, const uint16_t *held,
                   int32_t held_count, uint16_t *chosen) {
    enum { ALONE, UNTOUCHED, SHARED, KINDS };
    int32_t idle[layout->groups], groups[KINDS][layout->groups], counts[KINDS] = {0}, count = 0;
    for (int32_t group = 0; group < layout->groups; ++group) {
        int32_t own = 0, size = size_of(layout, group);
        for (int32_t at = layout->group_begins[group]; at < layout->group_begins[group + 1]; ++at)
            for (int32_t one = 0; one < held_count; ++one)
                own += held[one] == layout->cores[at];
        idle[group] = count_free(layout, group, is_free);
        if (!idle[group]) continue;
        int32_t kind = idle[group] == size ? UNTOUCHED : idle[group] + own == size ? ALONE : SHARED;
        groups[kind][counts[kind]++] = group;
    }
    for (int32_t kind = 0; kind < KINDS; ++kind)
        count += fill(layout, groups[kind], idle, counts[kind], wanted - count, is_free, chosen + count);
    return count;
}

// Choose free cores for a block that has the cores `held`, and return how many were found: fewer where fewer are free.
int32_t place_cores(const core_layout_t *layout, int32_t wanted, const uint8_t *is_free, const uint16_t *held,
                    int32_t held_count, uint16_t *chosen) {
    if (layout->placement == PINNED) return pin(layout, wanted, is_free, held, held_count, chosen);
    return spread(layout, wanted, is_free, chosen);
}
