// Parallel loops of kernels, and which worker helps with which leader's: part of pool.c.

#ifndef POOL_LOOPS_H
#define POOL_LOOPS_H

#include <immintrin.h>

#include "pool_state.h"

enum { SPIN_NS = 50000 };  // how long a worker looks for work at full speed: longer than a decision takes
enum { STEPS = 8 };        // that a core takes of a loop that is held back, so that its traffic comes evenly

static uint32_t tasks_of(uint64_t ticket) { return (uint32_t)(ticket >> 12) & MOST_TASKS; }
static uint32_t claimed_of(uint64_t ticket) { return (uint32_t)ticket & MOST_TASKS; }

static void wait_until(uint64_t time_ns) {
    while (now_ns() < time_ns)
        sched_yield();
}

// Run tasks of a leader's loop until none is left to claim; return whether there was one. If the claim
// succeeds, the ticket is the one read before the job's fields, so they are that job's: it could not end
// without this task.
static bool claim(worker_t *leader, uint64_t number) {
    uint32_t did = 0;
    uint64_t ticket = atomic_load(&leader->ticket);
    while (claimed_of(ticket) < tasks_of(ticket)) {
        lambda_t lambda = atomic_load_explicit(&leader->lambda, memory_order_relaxed);
        void *data = atomic_load_explicit(&leader->data, memory_order_relaxed);
        uint64_t begin_ns = atomic_load_explicit(&leader->begin_ns, memory_order_relaxed);
        uint64_t least_ns = atomic_load_explicit(&leader->least_ns, memory_order_relaxed);
        if (atomic_load_explicit(&leader->number, memory_order_relaxed) > number) break;
        POOL_PAUSE();
        if (!atomic_compare_exchange_strong(&leader->ticket, &ticket, ticket + 1)) continue;
        env_t env = {NULL, (int32_t)tasks_of(ticket)};
        if (least_ns) wait_until(begin_ns + least_ns * claimed_of(ticket) / tasks_of(ticket));
        if (lambda((int)claimed_of(ticket), &env, data) != 0) atomic_store(&leader->has_failed, 1);
        ++did;
        ticket = atomic_load(&leader->ticket);
    }
    if (did) atomic_fetch_add(&leader->done, did);
    return did;
}

// Wake the sleeping members one by one. Those who awake do the same, so that many cores wake each other.
static void wake_more(worker_t *leader) {
    uint32_t next;
    while ((next = atomic_fetch_add(&leader->to_wake, 1)) < atomic_load(&leader->members))
        wake(&leader->pool->workers[atomic_load(&leader->member[next])].sleeper);
}

static void wake_members(worker_t *leader) {
    uint32_t members = atomic_load_explicit(&leader->members, memory_order_relaxed);
    for (uint32_t i = 0; i < members; ++i) {
        uint32_t member = atomic_load_explicit(&leader->member[i], memory_order_relaxed);
        if (!atomic_load(&leader->pool->workers[member].sleeper.asleep)) continue;
        atomic_store(&leader->to_wake, i);
        wake_more(leader);
        return;
    }
}

static int run_loop(worker_t *leader, lambda_t lambda, void *data, uint32_t tasks) {
    atomic_store_explicit(&leader->done, 0, memory_order_relaxed);
    atomic_store_explicit(&leader->has_failed, 0, memory_order_relaxed);
    atomic_store_explicit(&leader->lambda, lambda, memory_order_relaxed);
    atomic_store_explicit(&leader->data, data, memory_order_relaxed);
    atomic_store_explicit(&leader->number, leader->grant->number, memory_order_relaxed);
    atomic_store(&leader->ticket, ++leader->epoch << 24 | (uint64_t)tasks << 12);
    wake_members(leader);
    in_task = true;
    claim(leader, leader->grant->number);
    in_task = false;
    for (uint32_t spins = 0; atomic_load(&leader->done) != tasks; ++spins) {
        if (spins < SPIN_NS / 16)
            _mm_pause();
        else
            sched_yield();
    }
    return atomic_load(&leader->has_failed) ? -1 : 0;
}

// What kernels call instead of TVM's own launch.
int pool_launch(lambda_t lambda, void *data, int wanted) {
    worker_t *leader = self;
    if (!leader) return atomic_load(&tvm_launch)(lambda, data, wanted);
    uint32_t tasks = 1;
    if (!in_task) {
        uint32_t steps = atomic_load_explicit(&leader->least_ns, memory_order_relaxed) ? STEPS : 1;
        tasks = wanted > 0 ? (uint32_t)wanted : leader->grant->cores * steps;
        tasks = tasks < MOST_TASKS ? tasks : MOST_TASKS;
    }
    if (tasks > 1) return run_loop(leader, lambda, data, tasks);
    env_t env = {NULL, 1};
    return lambda(0, &env, data);
}

// Assignments of workers to leaders.

static uint64_t assignment_to(const worker_t *leader, uint64_t number) { return number << 16 | (leader->index + 1); }

static void assign(worker_t *member, const worker_t *leader, uint64_t number) {
    uint64_t before = atomic_exchange(&member->assignment, assignment_to(leader, number));
    (void)before;
#ifdef POOL_CHECK
    bool is_others = before && (before & 0xffff) != leader->index + 1;
    if (is_others) die("is granted to two blocks at once", member->core);
    if (atomic_load(&member->pool->states[member->index].token)) die("leads another block", member->core);
#endif
}

// Assign the members of a grant, and release the cores of former grants that it lacks.
static void assign_members(worker_t *leader, const grant_t *grant) {
    pool_t *pool = leader->pool;
    for (uint32_t i = 1; i < grant->cores; ++i) {
        atomic_store(&leader->member[i - 1], grant->workers[i]);
        assign(&pool->workers[grant->workers[i]], leader, grant->number);
    }
    atomic_store(&leader->members, grant->cores - 1);
    for (uint32_t i = 0; i < pool->cores; ++i) {
        uint64_t assignment = atomic_load(&pool->workers[i].assignment);
        if ((assignment & 0xffff) == leader->index + 1 && assignment >> 16 < grant->number)
            atomic_store(&pool->workers[i].assignment, 0);
    }
    wake_members(leader);
}

static void release_members(worker_t *leader) {
    pool_t *pool = leader->pool;
    atomic_store(&leader->members, 0);
    for (uint32_t i = 0; i < pool->cores; ++i) {
        uint64_t assignment = atomic_load(&pool->workers[i].assignment);
        if ((assignment & 0xffff) == leader->index + 1) atomic_store(&pool->workers[i].assignment, 0);
    }
}

#endif
