// Comparing a query's answers with the right ones: part of pool.c.

#ifndef POOL_ANSWERS_H
#define POOL_ANSWERS_H

#include <stdint.h>
#include <string.h>

#include "pool.h"

#define MAXIMA(name, item_t, bits_t, sign) \
    static void name(const item_t *values, const item_t *right, uint64_t items, double *off, double *largest) { \
        bits_t worst = 0, most = 0; /* of magnitudes, whose bits sort as they do, with NaN at the top */ \
        for (uint64_t i = 0; i < items; ++i) { \
            item_t difference = values[i] - right[i]; \
            bits_t bits, right_bits; \
            memcpy(&bits, &difference, sizeof bits); \
            memcpy(&right_bits, &right[i], sizeof bits); \
            bits &= (sign); \
            right_bits &= (sign); \
            worst = bits > worst ? bits : worst; \
            most = right_bits > most ? right_bits : most; \
        } \
        item_t value; \
        memcpy(&value, &worst, sizeof value); \
        *off = (double)value; \
        memcpy(&value, &most, sizeof value); \
        *largest = (double)value; \
    }
MAXIMA(maxima_float32, float, uint32_t, UINT32_C(0x7fffffff))
MAXIMA(maxima_float64, double, uint64_t, UINT64_C(0x7fffffffffffffff))

#define INTEGER_MAXIMA(item_t) \
    for (uint64_t i = 0; i < array->items; ++i) { \
        double answer = (double)((const item_t *)right)[i]; \
        double one = (double)((const item_t *)array->data)[i] - answer; \
        off = one > off ? one : -one > off ? -one : off; \
        largest = answer > largest ? answer : -answer > largest ? -answer : largest; \
    } \
    break

// The largest difference over the largest right value, as samples.relative_error has it.
double pool_relative_error(const array_t *array, const void *right) {
    double off = 0, largest = 0;
    switch (array->kind) {
    case FLOAT32:
        maxima_float32(array->data, right, array->items, &off, &largest);
        break;
    case FLOAT64:
        maxima_float64(array->data, right, array->items, &off, &largest);
        break;
    case INT8:
        INTEGER_MAXIMA(int8_t);
    case UINT8:
        INTEGER_MAXIMA(uint8_t);
    case INT32:
        INTEGER_MAXIMA(int32_t);
    default:
        INTEGER_MAXIMA(int64_t);
    }
    if (off == 0) return 0;
    return off <= __DBL_MAX__ && largest > 0 ? off / largest : __builtin_inf();
}

#endif
