// What a worker does: it runs blocks, helps with the loops of others, or sleeps. Part of pool.c.

#ifndef POOL_BLOCKS_H
#define POOL_BLOCKS_H

#include <signal.h>
#include <string.h>

#include "pool_answers.h"
#include "pool_loops.h"

enum {
    YIELD_NS = 200000,      // how long a worker looks for work between yields, after SPIN_NS, before it sleeps
    ASSIGNED_NS = 2000000,  // the same where it helps a leader: the next loop may come soon
};

// Samples and answers.

static void copy_inputs(const block_t *block) {
    for (uint32_t i = 0; block->inputs && i < block->table->input_count; ++i) {
        const array_t *input = &block->table->inputs[i];
        memcpy(input->data, block->inputs[i], input->items * input->item_bytes);
    }
}

static void copy_outputs(const block_t *block) {
    for (uint32_t i = 0; block->outputs && i < block->table->output_count; ++i) {
        const array_t *output = &block->table->outputs[i];
        memcpy(block->outputs[i], output->data, output->items * output->item_bytes);
    }
}

static uint32_t count_wrong(const pool_t *pool, const block_t *block) {
    uint32_t wrong = 0;
    for (uint32_t i = 0; block->answers && i < block->table->output_count; ++i)
        wrong += pool_relative_error(&block->table->outputs[i], block->answers[i]) > pool->tolerance;
    return wrong;
}

// Running a block.

static bool is_on_its_core(const worker_t *worker) {
#ifdef POOL_UNPINNED
    (void)worker;
    return true;
#else
    return (uint32_t)sched_getcpu() == worker->core;
#endif
}

static void adopt(worker_t *leader, const block_t *block, uint32_t layer) {
    grant_t *grant = atomic_exchange(&leader->pending, NULL);
    free(leader->grant);
    leader->grant = grant;
    assign_members(leader, grant);
    notice_t notice = {block->token, grant->number, now_ns(), 0, ADOPTED, NO_FAULT, layer - block->start, 0};
    post_notice(leader->pool, &notice);
}

static const call_t *call_of(const block_t *block, const grant_t *grant, uint32_t layer) {
    uint8_t version = ((const uint8_t *)&grant->workers[grant->cores])[layer - block->start];
    return &block->table->calls[(uint64_t)layer * block->table->versions + version];
}

// Note for how much of a layer the leader's thread was not on its core: others on the machine had it, or other guests.
// Return when the next layer begins, for to ask takes a call of the system.
static uint64_t note_away(const call_table_t *table, uint32_t layer, uint64_t *ran_ns) {
    uint64_t before_ns = *ran_ns, took_ns = table->layer_ns[layer];
    *ran_ns = thread_ns();
    table->away_ns[layer] = took_ns > *ran_ns - before_ns ? took_ns - (*ran_ns - before_ns) : 0;
    return now_ns();
}

static uint32_t run_layers(worker_t *leader, const block_t *block, notice_t *end) {
    state_t *state = &leader->pool->states[leader->index];
    crash_note_t *note = &leader->pool->notes[leader->index];
    const call_table_t *table = block->table;
    uint64_t ran_ns = table->away_ns ? thread_ns() : 0, began_ns = now_ns();
    for (uint32_t layer = block->start; layer < block->stop; ++layer) {
        if (end->ended_layers && atomic_load_explicit(&leader->yielding, memory_order_relaxed) == block->token) break;
        atomic_store_explicit(&state->layer_started_ns, began_ns, memory_order_relaxed);
        if (atomic_load_explicit(&leader->pending, memory_order_relaxed)) {
            adopt(leader, block, layer);
            if (leader->pool->heed) began_ns = now_ns();  // a decision that it may have made is not the layer's
        }
        note->layer = layer;
        const call_t *call = call_of(block, leader->grant, layer);
        uint64_t least_ns = table->least_ns ? table->least_ns[layer] : 0;
        atomic_store_explicit(&leader->begin_ns, began_ns, memory_order_relaxed);
        atomic_store_explicit(&leader->least_ns, least_ns, memory_order_relaxed);
        any_t result = {0, 0, 0};
        int failed = call->function(call->self, call->arguments, (int32_t)call->count, &result);
        if (failed) return KERNEL_FAILED;
        if (least_ns) wait_until(began_ns + least_ns);
        uint64_t ended_ns = now_ns();
        uint64_t took_ns = ended_ns - began_ns;
        table->layer_ns[layer] = took_ns;
        end->busy_ns += took_ns;
        began_ns = table->away_ns ? note_away(table, layer, &ran_ns) : ended_ns;
        atomic_store_explicit(&state->ended_layers, ++end->ended_layers, memory_order_relaxed);
    }
    return NO_FAULT;
}

// Everything that belongs to the block is given back before its end is told: the next one may come at once.
static void run_block(worker_t *leader) {
    pool_t *pool = leader->pool;
    block_t block = leader->block;
    notice_t end = {.token = block.token, .number = block.grant->number, .kind = ENDED};
    crash_note_t *note = &pool->notes[leader->index];
    note->query = block.query;
    for (uint32_t i = 0; i < NAME_BYTES; ++i)
        note->name[i] = block.table->name[i];
    note->is_running = 1;
    leader->grant = block.grant;
    assign_members(leader, block.grant);
    atomic_store(&leader->lost_core, is_on_its_core(leader) ? 0 : leader->core + 1);
    copy_inputs(&block);
    end.code = run_layers(leader, &block, &end);
    if (end.code == KERNEL_FAILED) {
        copy_error(leader->error, TEXT_BYTES);
    } else if (end.ended_layers == block.stop - block.start) {
        copy_outputs(&block);
        end.wrong_outputs = count_wrong(pool, &block);
    }
    uint32_t lost = atomic_load(&leader->lost_core);
    if (end.code == NO_FAULT && lost) {
        end.code = CORE_LOST;
        snprintf(leader->error, TEXT_BYTES, "%u", lost - 1);
    }
    note->is_running = 0;
    atomic_store(&pool->states[leader->index].token, 0);
    POOL_PAUSE();
    release_members(leader);
    POOL_PAUSE();
    end.number = leader->grant->number;
    free(leader->grant);
    leader->grant = NULL;
    end.time_ns = now_ns();
    post_notice(pool, &end);
}

// A worker's life.

static bool can_claim(worker_t *worker, uint64_t assignment) {
    if (!assignment) return false;
    worker_t *leader = &worker->pool->workers[(assignment & 0xffff) - 1];
    uint64_t ticket = atomic_load(&leader->ticket);
    return claimed_of(ticket) < tasks_of(ticket) && atomic_load(&leader->number) <= assignment >> 16;
}

static bool has_work(void *owner) {
    worker_t *worker = owner;
    return atomic_load(&worker->is_called) || atomic_load(&worker->pool->is_stopping) ||
           atomic_load_explicit(&worker->pool->spins, memory_order_relaxed) ||
           can_claim(worker, atomic_load(&worker->assignment));
}

static bool help_leader(worker_t *worker) {
    uint64_t assignment = atomic_load_explicit(&worker->assignment, memory_order_acquire);
    if (!can_claim(worker, assignment)) return false;
    worker_t *leader = &worker->pool->workers[(assignment & 0xffff) - 1];
    POOL_PAUSE();
    in_task = true;
    bool did = claim(leader, assignment >> 16);
    in_task = false;
    bool is_lost = assignment != worker->last_assignment && !is_on_its_core(worker);
    if (is_lost) atomic_store(&leader->lost_core, worker->core + 1);
    worker->last_assignment = assignment;
    return did;
}

// Return whether the worker was asleep: whoever woke it has work for it soon.
static bool rest(worker_t *worker, uint64_t idle_ns, bool is_assigned) {
    if (idle_ns < SPIN_NS) {
        for (int i = 0; i < 16; ++i)
            _mm_pause();
        return false;
    }
    bool spins = atomic_load_explicit(&worker->pool->spins, memory_order_relaxed);
    if (spins || idle_ns < (is_assigned ? ASSIGNED_NS : YIELD_NS)) {
        sched_yield();
        return false;
    }
    sleep_unless(&worker->sleeper, has_work, worker, NULL);
    uint64_t assignment = atomic_load(&worker->assignment);
    if (assignment) wake_more(&worker->pool->workers[(assignment & 0xffff) - 1]);
    return true;
}

static const int CRASHES[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

static void *work(void *argument) {
    worker_t *worker = self = argument;
    pthread_setname_np(pthread_self(), "pool");
    sigset_t signals;  // left to the threads of Python; but a crash is this thread's own
    sigfillset(&signals);
    for (size_t i = 0; i < sizeof CRASHES / sizeof *CRASHES; ++i)
        sigdelset(&signals, CRASHES[i]);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    bool was_assigned = false;
    for (uint64_t busy_ns = now_ns();;) {
        if (atomic_load_explicit(&worker->is_called, memory_order_acquire)) {
            atomic_store(&worker->is_called, 0);
            run_block(worker);
            busy_ns = now_ns();
        } else if (help_leader(worker)) {
            busy_ns = now_ns();
        } else if (atomic_load(&worker->pool->is_stopping)) {
            atomic_fetch_add(&worker->pool->gone, 1);
            futex(&worker->pool->gone, FUTEX_WAKE, 1, NULL);
            return NULL;
        } else {
            // Idle counts anew once a block lets the worker go: the next block may start on the same cores at once.
            bool is_assigned = atomic_load_explicit(&worker->assignment, memory_order_relaxed);
            if (was_assigned && !is_assigned) busy_ns = now_ns();
            was_assigned = is_assigned;
            if (rest(worker, now_ns() - busy_ns, is_assigned)) busy_ns = now_ns();
        }
    }
}

#endif
