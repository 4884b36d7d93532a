// Arrays that grow.

#ifndef GROWING_H
#define GROWING_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

// Let an array have room for so many values; false without memory, the array being as it was.
static inline bool reserve(void **values, int64_t *capacity, int64_t needed, size_t size) {
    if (needed <= *capacity) return true;
    int64_t more = *capacity * 2 > needed ? *capacity * 2 : needed + 64;
    void *moved = realloc(*values, more * size);
    if (!moved) return false;
    *values = moved;
    *capacity = more;
    return true;
}

#endif
