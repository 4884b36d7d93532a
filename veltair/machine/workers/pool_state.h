// What the workers of pool.c share: their state, sleeping and waking, and the notices to the decision thread.

#ifndef POOL_STATE_H
#define POOL_STATE_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "pool.h"
#include "pool_tvm.h"
#include "sleeping.h"

enum { MOST_TASKS = 4095, TEXT_BYTES = 256 };

#ifndef POOL_PAUSE
#define POOL_PAUSE()  // where a thread that is held up for long must do no harm: the stress test holds it up
#endif

// The cores and versions of a block. `number` grows with every grant of a pool.
typedef struct {
    uint64_t number;
    uint32_t cores, layers;
    uint16_t workers[];  // the leader first; behind them one byte a layer, its version
} grant_t;
typedef struct {
    uint64_t token, query;
    const call_table_t *table;
    const void *const *inputs, *const *answers;  // NULL: nothing to copy, nothing to compare
    void *const *outputs;  // where they are wanted; NULL: nowhere
    uint32_t start, stop;
    grant_t *grant;
} block_t;

typedef struct worker {
    _Alignas(64) sleeper_t sleeper;
    _Atomic(uint64_t) assignment;       // number of the grant << 16 | leader + 1, or 0
    _Atomic(uint32_t) is_called;  // `block` is to be run
    _Atomic(grant_t *) pending;   // granted, not yet adopted
    _Atomic(uint64_t) yielding;   // token of the block that is to end at its next layer end; of no other one, ever
    // A parallel loop: fields of a job are written before its ticket, and not again before all of it is done.
    _Alignas(64) _Atomic(uint64_t) ticket;  // epoch << 24 | tasks << 12 | tasks claimed
    _Atomic(lambda_t) lambda;
    _Atomic(void *) data;
    _Atomic(uint64_t) number;  // of the grant: a core that was released has a lower one and can claim nothing
    _Atomic(uint64_t) begin_ns, least_ns;  // of the layer: when it began, how long it is to take at least
    _Alignas(64) _Atomic(uint32_t) done;
    _Atomic(uint32_t) has_failed, lost_core;
    _Atomic(uint32_t) members, to_wake;
    _Atomic(uint16_t) *member;
    // Its own.
    _Alignas(64) struct pool *pool;
    grant_t *grant;
    block_t block;
    uint64_t epoch, last_assignment;
    uint32_t index, core;
    pthread_t thread;
    char error[TEXT_BYTES];
} worker_t;

typedef struct {
    _Atomic(uint64_t) turn;
    notice_t notice;
} cell_t;

struct pool {
    worker_t *workers;
    state_t *states;
    crash_note_t *notes;
    cell_t *ring;
    uint32_t cores, ring_size, started;
    double tolerance;
    uint64_t number, head;  // of the decision thread, or of whoever decides
    _Alignas(64) _Atomic(uint64_t) tail;
    _Alignas(64) sleeper_t decision_thread;
    void (*heed)(void *heeder);  // called by whoever posts a notice, where that decides; else the thread is woken
    void *heeder;
    _Atomic(uint32_t) is_poked, is_stopping, gone, spins;  // the last: workers never sleep
};

static _Thread_local worker_t *self;
static _Thread_local bool in_task;

#ifdef POOL_CHECK
static void die(const char *what, uint32_t core) {
    fprintf(stderr, "pool: core %u %s\n", core, what);
    abort();
}
#endif

// Notices: a ring that leaders fill, and that the decision thread empties, or whoever decides.

static void post_notice(pool_t *pool, const notice_t *notice) {
    uint64_t index = atomic_fetch_add(&pool->tail, 1);
    cell_t *cell = &pool->ring[index & (pool->ring_size - 1)];
    while (atomic_load(&cell->turn) != index)
        sched_yield();  // full: the decision thread has not read for long
    cell->notice = *notice;
    atomic_store(&cell->turn, index + 1);
    if (pool->heed)
        pool->heed(pool->heeder);
    else
        wake(&pool->decision_thread);
}

static bool has_notice(pool_t *pool) {
    return atomic_load(&pool->ring[pool->head & (pool->ring_size - 1)].turn) == pool->head + 1;
}

static int read_notices(pool_t *pool, notice_t *notices, int most) {
    int count = 0;
    for (; count < most && has_notice(pool); ++count, ++pool->head) {
        cell_t *cell = &pool->ring[pool->head & (pool->ring_size - 1)];
        notices[count] = cell->notice;
        atomic_store(&cell->turn, pool->head + pool->ring_size);
    }
    return count;
}

static bool has_notice_or_poke(void *owner) {
    pool_t *pool = owner;
    return has_notice(pool) || atomic_load(&pool->is_poked);
}

#endif
