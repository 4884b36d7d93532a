// What the worker pool and those who give it work pass to each other: layouts that Python makes too, and what is wrong.

#ifndef POOL_TYPES_H
#define POOL_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef VELTAIR_CFFI  // which reads no _Atomic: the bytes are the same
#define ATOMIC(type) type
#else
#define ATOMIC(type) _Atomic(type)
#endif

// Kinds of notices (those of whoever decides begin at OTHERS), codes of ended blocks, and what is wrong with a call.
enum { ENDED = 0, ADOPTED = 1, OTHERS = 2 };
enum { NO_FAULT = 0, KERNEL_FAILED = 1, CORE_LOST = 2 };
enum { NO_CORE = -1, CORE_BUSY = -2, NO_CALL = -3, NO_GRANT = -4, NOT_RUNNING = -5, NOT_FIRST = -6 };

enum { NAME_BYTES = 48 };  // of a model's name
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
typedef struct {  // the buffers of one query, as arguments of its kernels
    const call_t *calls;  // [layers][versions]
    uint64_t *layer_ns;  // [layers], written as they end
    const array_t *inputs, *outputs;
    uint32_t layers, versions, input_count, output_count;
    char name[NAME_BYTES];
    uint64_t *away_ns;  // [layers], for how much of layer_ns the leader's thread had no core; NULL: nobody asks
    uint64_t *least_ns;  // [layers], how long each is to take at least, its parallel loops in even steps; NULL: nothing
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

// For whoever decides in C, in another library: so that there is one copy of the workers' code.
typedef struct {
    int64_t (*start)(pool_t *pool, uint64_t token, uint64_t query, const call_table_t *table, uint32_t start,
                     uint32_t stop, const uint16_t *workers, uint32_t cores, const uint8_t *versions,
                     const void *const *inputs, const void *const *answers, void *const *outputs);
    int64_t (*resize)(pool_t *pool, uint64_t token, uint32_t leading, const uint16_t *workers, uint32_t cores,
                      const uint8_t *versions);
    int (*yield)(pool_t *pool, uint64_t token, uint32_t leading);
    void (*heed)(pool_t *pool, void (*heed)(void *heeder), void *heeder);
    void (*post)(pool_t *pool, const notice_t *notice);
    void (*next)(pool_t *pool, notice_t *notice);
    const state_t *(*states)(const pool_t *pool);
} pool_functions_t;

#endif
