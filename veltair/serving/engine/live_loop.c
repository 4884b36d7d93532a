// The loop over the workers, in real time: whoever brings an event decides what follows from it.
//
// Workers end blocks and adopt cores; the thread at the door brings arrivals, wakes and the end of time; Python may bring
// arrivals. Each posts a notice and then counts it in `unread`. Who raised `unread` from 0 deals with that notice and with
// all that are posted meanwhile, until it is back at 0 (flat combining); the others leave theirs and go on with their
// work. So `unread` is the lock: everything that is not atomic belongs to whoever deals with notices, and no thread
// ever waits for it. A worker that ends a block starts the next one by setting its own call: it finds it when it returns
// to its loop, without a system call. What happens is written to a log, which Python reads.

#define _GNU_SOURCE
#include "live_loop.h"

#include "live_change.h"
#include "live_events.h"

// What follows from events.

static void log_decision(live_t *live, double time_s) {
    const view_t *view = loop_view(live->loop);
    entry_t entry = {.kind = DECIDED, .time_s = time_s, .pressure = NAN, .number = (int32_t)view->waiting};
    entry.seconds = clock_s(live) - time_s;
    if (live->decided_by_pressure) entry.pressure = view->pressure(view->run);
    int64_t running = live->decided_by_progress ? view->running_count : 0;
    int32_t ended[running + 1];
    for (int64_t index = 0; index < running; ++index)
        ended[index] = live->ended[view->running[index]->slot];
    log_arrays(live, &entry, ended, (size_t)running * sizeof *ended, NULL, 0);
    live->decided_by_pressure = live->decided_by_progress = false;
}

static void log_record(live_t *live, const record_t *record) {
    entry_t entry = {
        .kind = QUERY_ENDED,
        .time_s = record->end_s,
        .seconds = record->core_s,
        .since_s = record->start_s,
        .slack_s = record->slack_s,
        .least_s = record->least_s,
        .id = record->id,
        .wanted = record->conflicts,
        .number = record->blocks,
        .code = (int32_t)record->ending,
    };
    entry.first = record->reason != NULL;
    log_arrays(live, &entry, record->reason, record->reason ? strlen(record->reason) : 0, NULL, 0);
    int64_t count = live->completed_count;
    if (!reserve((void **)&live->completed, &live->completed_capacity, count + 1, sizeof *live->completed))
        return break_off(live, record->id, NO_MEMORY, -1);
    live->completed[live->completed_count++] = (outcome_t){
        .sequence = (uint64_t)record->id,
        .began_ns = monotonic_ns(live, record->start_s),
        .ended_ns = monotonic_ns(live, record->end_s),
        .core_s = record->core_s,
        .ending = (uint32_t)record->ending,
        .blocks = (uint32_t)record->blocks,
    };
}

static void tell_loadgen(live_t *live) {
    if (!send_completions(live)) log_entry(live, (entry_t){.kind = LEFT, .time_s = clock_s(live), .code = errno});
}

static void take_records(live_t *live) {
    const loop_state_t *state = loop_state(live->loop);
    for (int64_t index = 0; index < state->record_count; ++index)
        log_record(live, &state->records[index]);
    loop_take_records(live->loop);
    tell_loadgen(live);
}

// Whoever decided until now decides no more once the models are to change.
static void step(live_t *live, const event_t *event) {
    int what = loop_enter(live->loop, event);
    if (what == OK && !live->change) {
        what = loop_decide(live->loop);
        if (what == OK) {
            log_decision(live, event->time_s);
            what = loop_apply(live->loop);
        }
    }
    take_records(live);
    if (what != OK && what != DONE) return break_off(live, -1, what, -1);
    if (what == DONE) end_run(live, (entry_t){.kind = OVER, .time_s = clock_s(live)});
}

// Tell the loop of blocks that wait for buffers and were changed before this notice: not of changes that follow from it,
// or a policy that changes a block at every call would be called for ever.
static void tell_changes(live_t *live, double time_s) {
    const view_t *view = loop_view(live->loop);
    for (int64_t index = 0; index < view->running_count && !live->is_over; ++index) {
        live_block_t *block = &live->blocks[view->running[index]->slot];
        if (!block->changed_at || block->changed_at == live->dealt_with) continue;
        event_t event;
        block->changed_at = 0;
        live->changes--;
        adopt(live, block, time_s, &event);
        step(live, &event);
        index = -1;  // other blocks may run by now
    }
}

static void change_models(live_t *live, double time_s) {
    if (live->change->at_rest && loop_view(live->loop)->running_count) return;
    int what = make_change(live);
    if (what != OK) return break_off(live, -1, what, -1);
    live->change = NULL;
    log_entry(live, (entry_t){.kind = CHANGED, .time_s = time_s});
    step(live, &(event_t){.kind = RENEWED, .time_s = time_s});
}

static void end_if_over(live_t *live) {
    const view_t *view = loop_view(live->loop);
    bool is_idle = !view->running_count && isinf(loop_next_wake(live->loop));
    if (live->is_over || !live->is_flushed || !is_idle) return;
    end_run(live, (entry_t){.kind = OVER, .time_s = clock_s(live), .number = (int32_t)view->waiting});
}

static void deal_with(live_t *live, const notice_t *notice) {
    event_t event;
    live_query_t query;
    if (notice->kind == ENDED) atomic_fetch_sub(&live->under_way, 1);
    if (atomic_load(&live->is_stopped)) return;
    if (notice->kind == ROOM) return tell_loadgen(live);
    if (live->is_over) return;
    live->dealt_with++;
    if (live->changes) tell_changes(live, seconds_at(live, notice->time_ns));
    if (!live->is_over && take(live, notice, &event, &query) && !live->is_over) step(live, &event);
    if (live->change && !live->is_over) change_models(live, seconds_at(live, notice->time_ns));
    if (notice->kind == TIME_IS_UP && !live->is_over) set_timer(live);
    end_if_over(live);
    if (live->rings) {
        live->rings = false;
        atomic_store(&live->has_rung, 1);
        wake(&live->reader);
    }
}

// Who adds to `unread` has posted before, so that there is a notice for each that is counted. Who finds it at 0 acquires
// what the last one to deal with notices left, by its subtraction; both orders are those of read-modify-write operations
// on one variable, sequentially consistent as all here are unless they say otherwise.
static void heed(void *heeder) {
    live_t *live = heeder;
    if (atomic_fetch_add(&live->unread, 1) != 0) return;
    do {
        notice_t notice;
        live->workers.next(live->pool, &notice);
        deal_with(live, &notice);
    } while (atomic_fetch_sub(&live->unread, 1) != 1);
}

// What other threads call.

// Take in a query of a sample, from any thread.
void live_arrive(live_t *live, int64_t id, int32_t sample, uint64_t time_ns) {
    post(live, NEW_QUERY, (uint64_t)id, (uint32_t)sample, time_ns, time_ns);
}

// No more queries will come.
void live_flush(live_t *live) { post(live, NO_MORE, 0, 0, now_ns(), 0); }

// Return the system's id of the thread at the door, which has just begun.
int live_door_id(const live_t *live) {
    while (!atomic_load(&live->door_id))
        sched_yield();
    return atomic_load(&live->door_id);
}

// Hear of arrivals through LoadGen's socket from now on, and tell it there of queries that have ended: once a run. The
// caller may close its descriptor; or the thread at the door could read what has its number next. Returns an errno.
int live_listen(live_t *live, int channel) {
    int own = fcntl(channel, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return errno;
    atomic_store(&live->channel, own);
    ring_door(live);
    return 0;
}

// Give the queries of a model further buffers to run in. `model` is its index after so many changes.
void live_add_buffers(live_t *live, int32_t model, const call_table_t *table, uint32_t changes) {
    notice_t notice = {.token = (uint64_t)(uintptr_t)table, .number = (uint64_t)model, .kind = NEW_BUFFERS};
    notice.time_ns = now_ns();
    notice.code = changes;
    live->workers.post(live->pool, &notice);
}

// Go on with other models. CHANGED is logged once that is so: until then the caller keeps `change`, what it points to, and
// the models and the decider before; the latter also until the blocks that ran then have ended.
void live_change(live_t *live, const live_change_t *change) {
    post(live, NEW_MODELS, (uint64_t)(uintptr_t)change, 0, now_ns(), 0);
}

// Relaxed: nothing else is told by it.
void live_set_pressure(live_t *live, double pressure) {
    atomic_store_explicit(&live->pressure, pressure, memory_order_relaxed);
}

// Copy new entries of the log, as many whole ones as there is room for, and return how many bytes they take. One thread
// reads, and waits.
int64_t live_read(live_t *live, char *log, int64_t most_bytes) { return read_entries(&live->log, log, most_bytes); }

static bool has_rung(void *owner) {
    live_t *live = owner;
    return atomic_load(&live->has_rung);
}

// Wait until an entry of a kind that rings was written, or for the timeout. NO_MEMORY: the log is cut short.
int live_wait(live_t *live, int64_t timeout_ns) {
    struct timespec timeout = span((uint64_t)timeout_ns);
    if (!atomic_load(&live->has_rung)) sleep_unless(&live->reader, has_rung, live, &timeout);
    atomic_store(&live->has_rung, 0);
    return atomic_load(&live->is_cut_short) ? NO_MEMORY : OK;
}

// Begin and end.

static bool allocate(live_t *live) {
    uint32_t cores = live->settings.cores;
    int64_t models = live->settings.model_count;
    live->blocks = array_of(cores, sizeof *live->blocks);
    live->block_cores = array_of((int64_t)cores * cores, sizeof *live->block_cores);
    live->ended = array_of(cores, sizeof *live->ended);
    live->is_free = array_of(cores, 1);
    live->layers = array_of(models, sizeof *live->layers);
    live->idle = array_of(models, sizeof *live->idle);
    bool all = live->blocks && live->block_cores && live->ended && live->is_free && live->layers && live->idle;
    if (!all || !open_log(&live->log)) return false;
    for (int64_t index = 0; index < models; ++index) {
        live->layers[index] = live->settings.models[index].layers;
        if (!give_buffers(&live->settings.models[index], &live->idle[index])) return false;
    }
    memset(live->is_free, 1, cores);
    for (uint32_t slot = 0; slot < cores; ++slot)
        live->blocks[slot].cores = live->block_cores + (size_t)slot * cores;
    return true;
}

// Stop deciding and reading the socket. What runs goes on until the pool is closed, which comes next.
void live_stop(live_t *live) {
    atomic_store(&live->is_stopped, 1);
    close_door(live);
}

// Return whether the workers have no block of this run any more, after its end or live_stop(). `unread` is read last: who
// has just made it 0 will not look at this run again.
int live_is_idle(const live_t *live) { return !atomic_load(&live->under_way) && !atomic_load(&live->unread); }

// Hand workers back that have no block of this run any more, so that the run can be closed and another one begin.
void live_hand_back(live_t *live) { live->workers.heed(live->pool, NULL, NULL); }

// Free all. The workers are gone, or were handed back.
void live_close(live_t *live) {
    live_stop(live);
    if (live->loop) loop_free(live->loop);
    close_log(&live->log);
    free_buffers(live->idle, live->settings.model_count);
    if (atomic_load(&live->channel) >= 0) close(atomic_load(&live->channel));
    if (live->timer >= 0) close(live->timer);
    if (live->bell >= 0) close(live->bell);
    void *parts[] = {live->blocks, live->block_cores, live->ended, live->is_free,
                     live->layers, live->completed,   live->moved, live};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; ++part)
        free(parts[part]);
}

// Begin a run over workers without a block. What settings point to is kept by the caller. NULL: `error` is an errno.
live_t *live_open(pool_t *pool, const pool_functions_t *workers, const decider_t *decider,
                  const live_settings_t *settings, int *error) {
    live_t *live = aligned_alloc(64, (sizeof *live + 63) / 64 * 64);
    *error = ENOMEM;
    if (!live) return NULL;
    memset(live, 0, sizeof *live);
    live->settings = *settings;
    live->pool = pool;
    live->workers = *workers;
    live->states = workers->states(pool);
    live->timer = live->bell = -1;
    live->close_s = live->due_s = INFINITY;
    atomic_store(&live->channel, -1);
    backend_t backend = {live, NULL, act, read_pressure, read_progress, forget_blocks};
    if (allocate(live)) {
        run_t run = {.layers = live->layers, .own_bytes = sizeof(live_query_t), .cores = (int32_t)settings->cores};
        run.slots = run.cores;
        live->loop = loop_new(&backend, decider, &run);
    }
    if (live->loop) {
        workers->heed(pool, heed, live);
        *error = open_door(live);
    }
    if (!*error) return live;
    workers->heed(pool, NULL, NULL);
    live_close(live);
    return NULL;
}
