// The functions of the worker pool, for Python: pool.c says what each does.

#ifndef POOL_H
#define POOL_H

#include "pool_types.h"

pool_t *pool_open(const uint32_t *cores, uint32_t count, double tolerance, const char *notes, int *error, int *failed);
int pool_close(pool_t *pool, int64_t timeout_ns);
int pool_take_over(void);
void pool_let_spin(pool_t *pool);
int64_t pool_start(pool_t *pool, uint64_t token, uint64_t query, const call_table_t *table, uint32_t start,
                   uint32_t stop, const uint16_t *workers, uint32_t cores, const uint8_t *versions,
                   const void *const *inputs, const void *const *answers, void *const *outputs);
int64_t pool_resize(pool_t *pool, uint64_t token, uint32_t leading, const uint16_t *workers, uint32_t cores,
                    const uint8_t *versions);
int pool_yield(pool_t *pool, uint64_t token, uint32_t leading);
int pool_wait(pool_t *pool, notice_t *notices, int most, int64_t timeout_ns);
void pool_poke(pool_t *pool);
const state_t *pool_states(const pool_t *pool);
const char *pool_error(const pool_t *pool, uint32_t worker);
double pool_relative_error(const array_t *array, const void *right);
int pool_nothing(void *object, const any_t *arguments, int32_t count, any_t *result);
int pool_pass_time(void *object, const any_t *arguments, int32_t count, any_t *result);
const pool_functions_t *pool_functions(void);

#endif
