// Placement in C: which free cores a block gets. Python reads this header; placement.py says what the answers are.

#ifndef PLACEMENT_H
#define PLACEMENT_H

#include <stdint.h>

typedef enum { SPREAD, PINNED } placement_t;

// The cores of a machine by their indices: those of a cache group one after the other, ascending by id. group_begins has
// one entry more than there are groups.
typedef struct {
    const uint16_t *cores;
    const int32_t *group_begins;
    int32_t groups;
    placement_t placement;
} core_layout_t;

int32_t place_cores(const core_layout_t *layout, int32_t wanted, const uint8_t *is_free, const uint16_t *held,
                    int32_t held_count, uint16_t *chosen);

#endif
