// The worker pool as Python sees it: what it lays out, what it reads, and the functions; pool.c says what each does.

#ifndef POOL_H
#define POOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef VELTAIR_CFFI  // which reads no _Atomic: the bytes are the same
#define ATOMIC(type) type
#else
#define ATOMIC(type) _Atomic(type)
#endif

// Kinds of notices, codes of ended blocks, and what is wrong with a call.
enum { ENDED = 0, ADOPTED = 1 };
enum { OK = 0, KERNEL_FAILED = 1, CORE_LOST = 2 };
enum { NO_CORE = -1, CORE_BUSY = -2, NO_CALL = -3, NO_MEMORY = -4, NOT_RUNNING = -5, NOT_FIRST = -6 };

enum { NAME_BYTES = 48 };                             // of a model's name
enum { OBJECT_HEADER_BYTES = 24, TENSOR_INDEX = 70 };  // of TVM FFI's ABI (tvm/ffi/c_api.h)
enum { FLOAT32, FLOAT64, INT8, UINT8, INT32, INT64 };  // kinds of arrays that can be compared

// TVMFFIAny and TVMFFISafeCallType.
typedef struct {
    int32_t type_index;
    uint32_t padding;
    uint64_t value;
} any_t;
typedef int (*safe_call_t)(void *self, const any_t *arguments, int32_t count, any_t *result);

typedef struct {
    void *data;
    uint64_t items;
    uint32_t item_bytes;
    uint32_t kind;
} array_t;
typedef struct {
    safe_call_t function;  // NULL where a layer has no such version
    void *self;
    const any_t *arguments;
    int64_t count;
} call_t;
typedef struct {          // the buffers of one query, as arguments of its kernels
    const call_t *calls;  // [layers][versions]
    uint64_t *layer_ns;   // [layers], written as they end
    const array_t *inputs, *outputs;
    uint32_t layers, versions, input_count, output_count;
    char name[NAME_BYTES];
} call_table_t;

typedef struct {
    uint64_t token, number, time_ns, busy_ns;
    uint32_t kind, code, ended_layers, wrong_outputs;
} notice_t;
typedef struct {  // what a leader is at, for Python to read at any time: a cache line of its own
    ATOMIC(uint64_t) token;
    ATOMIC(uint64_t) layer_started_ns;
    ATOMIC(uint32_t) ended_layers;
    uint32_t padding[11];
} state_t;
typedef struct {  // the same in a mapped file, which outlives a crash of the process
    volatile uint64_t query;
    volatile uint32_t layer, is_running;
    volatile char name[NAME_BYTES];
} crash_note_t;

typedef struct pool pool_t;

pool_t *pool_open(const uint32_t *cores, uint32_t count, double tolerance, const char *notes, int *error, int *failed);
int pool_close(pool_t *pool, int64_t timeout_ns);
int pool_take_over(void);
int64_t pool_start(pool_t *pool, uint64_t token, uint64_t query, const call_table_t *table, uint32_t start,
                   uint32_t stop, const uint16_t *workers, uint32_t cores, const uint8_t *versions,
                   const void *const *inputs, const void *const *answers);
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

#endif
