// The state of the loop over the workers. Whoever decides has it for itself, but for what is atomic.

#ifndef LIVE_STATE_H
#define LIVE_STATE_H

#include <math.h>
#include <pthread.h>

#include "../../machine/workers/sleeping.h"
#include "../loop/growing.h"
#include "live_log.h"

enum { SLOT_BITS = 16 };
// Kinds of notices beside those of workers. Of NEW_QUERY: token is the query, number the sample, busy_ns when it was sent.
// ROOM: LoadGen's socket takes more. Of NEW_QUERY also: code, in how many microseconds it is due; 0: as its model says. Of
// CANCEL: token is the query. Of NEW_MODELS: token is a live_change_t.
enum { NEW_QUERY = OTHERS, NO_MORE, TIME_IS_UP, NEW_BUFFERS, ROOM, CANCEL, NEW_MODELS };

typedef struct {  // what the loop keeps of a query for this backend
    const call_table_t *table;  // from its first block on
    int64_t sample;
} live_query_t;

typedef struct {  // a running block, by slot
    account_t *account;
    uint64_t token, number;  // number: of its last grant
    uint16_t *cores;         // those that it holds, its leader's first
    int32_t held, target;
    double bytes_per_s;   // the most that it may draw of memory; 0: what it can
    uint64_t changed_at;  // while it waits: the notice since which the loop is to hear of its cores; 0: it knows them
    bool waits;  // for buffers: it holds its cores, but has not begun
} live_block_t;

typedef struct {  // of a model. waiting: blocks that lack buffers; asked: how many Python is to make
    const call_table_t **tables;
    int64_t count, capacity, given, waiting, asked;
} idle_buffers_t;

struct live {
    live_settings_t settings;
    pool_t *pool;
    pool_functions_t workers;
    const state_t *states;
    loop_t *loop;
    _Alignas(64) _Atomic(int64_t) unread;  // notices that were posted, but are not dealt with: above 0 someone decides
    _Atomic(int64_t) under_way;  // blocks that workers have begun, and whose ends nobody has read
    _Alignas(64) _Atomic(double) pressure;
    _Atomic(uint32_t) is_stopped, has_rung, is_cut_short;  // the last: there was no memory for the log
    sleeper_t reader;
    event_log_t log;
    live_block_t *blocks;
    idle_buffers_t *idle;
    uint16_t *block_cores;
    int32_t *ended, *layers;
    uint8_t *is_free;
    uint64_t serial;
    double close_s, due_s;  // when the run is cut off; when the door's timer rings
    uint64_t dealt_with;  // notices
    int64_t changes;  // of blocks that wait, of which the loop is to hear
    const live_change_t *change;  // that is to be made
    int32_t *moved;  // by the last change: the new index of each model that there was
    uint32_t changes_made;
    bool is_flushed, is_over, rings, decided_by_pressure, decided_by_progress;
    outcome_t *completed;
    int64_t completed_count, completed_capacity;
    // The thread at the door.
    pthread_t door;
    int timer, bell;
    _Atomic(int) channel;
    _Atomic(uint32_t) is_full;  // LoadGen's socket took less than there was to say
    bool has_door;
    _Atomic(int) door_id;  // as the system counts threads; 0 before it runs
};

static double seconds_at(const live_t *live, uint64_t time_ns) {
    return 1e-9 * (double)(int64_t)(time_ns - live->settings.zero_ns);
}

static int64_t monotonic_ns(const live_t *live, double time_s) {
    return (int64_t)live->settings.zero_ns + (int64_t)llround(1e9 * time_s);
}

static double clock_s(const live_t *live) { return seconds_at(live, now_ns()); }

static void log_arrays(live_t *live, const entry_t *entry, const void *one, size_t one_bytes, const void *other,
                       size_t other_bytes) {
    live->rings |= live->settings.rings >> entry->kind & 1;
    if (write_entry(&live->log, entry, one, one_bytes, other, other_bytes)) return;
    live->is_over = live->rings = true;
    atomic_store(&live->is_cut_short, 1);
}

static void log_entry(live_t *live, entry_t entry) { log_arrays(live, &entry, NULL, 0, NULL, 0); }

static void end_run(live_t *live, entry_t entry) {
    log_entry(live, entry);
    live->is_over = true;
}

static void break_off(live_t *live, int64_t id, int32_t code, int32_t core) {
    entry_t entry = {.kind = BROKEN, .time_s = clock_s(live), .id = id, .cores = core, .code = code};
    end_run(live, entry);
}

#endif
