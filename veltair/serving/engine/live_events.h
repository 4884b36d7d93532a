// Notices become events: what happened is logged and entered into the accounts of cores and buffers. Part of live_loop.c.

#ifndef LIVE_EVENTS_H
#define LIVE_EVENTS_H

#include "live_blocks.h"

static bool take_arrival(live_t *live, const notice_t *notice, event_t *event, live_query_t *query) {
    double time_s = seconds_at(live, notice->time_ns);
    entry_t entry = {
        .kind = ARRIVED, .time_s = time_s, .id = (int64_t)notice->token, .sample = (int32_t)notice->number};
    entry.seconds = seconds_at(live, notice->busy_ns);
    int64_t samples = live->settings.sample_count, asked = (int64_t)notice->number;
    if (asked >= samples || live->settings.samples[asked].model < 0) {
        break_off(live, entry.id, NO_CALL, -1);
        return false;
    }
    const live_sample_t *sample = &live->settings.samples[notice->number];
    entry.model = (int32_t)sample->model;
    log_entry(live, entry);
    *query = (live_query_t){NULL, (int64_t)notice->number};
    *event = (event_t){.kind = ARRIVAL, .time_s = time_s, .id = entry.id, .model = entry.model, .own = query};
    event->target_s = notice->code ? 1e-6 * notice->code : live->settings.models[sample->model].qos_s;
    return true;
}

static bool take_end(live_t *live, const notice_t *notice, event_t *event) {
    live_block_t *block = &live->blocks[notice->token & ((1u << SLOT_BITS) - 1)];
    const account_t *account = block->account;
    int32_t slot = account->slot, next_layer = account->first + (int32_t)notice->ended_layers;
    entry_t entry = {
        .kind = BLOCK_ENDED,
        .time_s = seconds_at(live, notice->time_ns),
        .seconds = 1e-9 * (double)notice->busy_ns,
        .id = account->id,
        .model = account->model,
        .layer = next_layer,
        .number = (int32_t)notice->wrong_outputs,
        .code = (int32_t)notice->code,
    };
    log_entry(live, entry);
    if (notice->code != NO_FAULT) {
        break_off(live, account->id, (int32_t)notice->code, block->cores[0]);
        return false;
    }
    let_go(live, block, 0);
    if (next_layer == model_of(live, account)->layers) return_buffers(live, account);
    block->account = NULL;
    *event = (event_t){.kind = BLOCK_END, .time_s = entry.time_s, .slot = slot, .next_layer = next_layer};
    return true;
}

static void adopt(live_t *live, live_block_t *block, double time_s, event_t *event) {
    entry_t entry = {.kind = CORES_ADOPTED, .time_s = time_s, .id = block->account->id, .cores = block->target};
    let_go(live, block, block->target);
    log_arrays(live, &entry, block->cores, (size_t)block->held * sizeof *block->cores, NULL, 0);
    *event = (event_t){.kind = RESIZED, .time_s = time_s, .slot = block->account->slot, .cores = block->target};
}

// A newer grant than the one that was adopted is on its way or in use: only the last frees cores for sure.
static bool take_adoption(live_t *live, const notice_t *notice, event_t *event) {
    live_block_t *block = &live->blocks[notice->token & ((1u << SLOT_BITS) - 1)];
    if (notice->number != block->number) return false;
    adopt(live, block, seconds_at(live, notice->time_ns), event);
    return true;
}

// The run ends `drain_s` after the last query; LoadGen's leaving is not that, but Python is to know of it.
static bool take_flush(live_t *live, const notice_t *notice) {
    double time_s = seconds_at(live, notice->time_ns);
    log_entry(live, (entry_t){.kind = notice->token ? LEFT : FLUSHED, .time_s = time_s});
    if (notice->token || live->is_flushed) return false;
    live->is_flushed = true;
    live->close_s = time_s + live->settings.drain_s;
    set_timer(live);
    return false;
}

// A timer that was set anew may have rung for a time that is not due any more.
static bool take_due(live_t *live, const notice_t *notice, event_t *event) {
    double time_s = seconds_at(live, notice->time_ns), wake_s = loop_next_wake(live->loop);
    bool wakes = wake_s <= time_s && wake_s <= live->close_s;
    live->due_s = INFINITY;
    if (!wakes && !(live->close_s <= time_s)) {
        set_timer(live);
        return false;
    }
    *event = (event_t){.kind = wakes ? WOKEN : CLOSED, .time_s = time_s};
    log_entry(live, (entry_t){.kind = wakes ? WAKE_CAME : DUE, .time_s = time_s});
    return true;
}

static bool take_cancel(live_t *live, const notice_t *notice, event_t *event) {
    int64_t id = (int64_t)notice->token;
    if (!loop_can_withdraw(live->loop, id)) return false;
    *event = (event_t){.kind = WITHDRAWN, .time_s = seconds_at(live, notice->time_ns), .id = id};
    log_entry(live, (entry_t){.kind = WITHDRAWN_BY_CLIENT, .time_s = event->time_s, .id = id});
    return true;
}

static bool take_buffers_in(live_t *live, const notice_t *notice) {
    // Who made them may not have heard yet of the last change.
    int32_t model = (int32_t)notice->number;
    if (notice->code != live->changes_made) model = live->moved[model];
    if (model < 0) return false;
    idle_buffers_t *idle = &live->idle[model];
    if (!reserve((void **)&idle->tables, &idle->capacity, ++idle->given, sizeof *idle->tables)) {
        break_off(live, -1, NO_MEMORY, -1);
        return false;
    }
    idle->tables[idle->count++] = (const call_table_t *)(uintptr_t)notice->token;
    idle->asked--;
    begin_waiting(live, model);
    return false;
}

// Log a notice, and make an event of it; false if nothing is to be decided.
static bool take(live_t *live, const notice_t *notice, event_t *event, live_query_t *query) {
    switch (notice->kind) {
    case ENDED:
        return take_end(live, notice, event);
    case ADOPTED:
        return take_adoption(live, notice, event);
    case NEW_QUERY:
        return take_arrival(live, notice, event, query);
    case TIME_IS_UP:
        return take_due(live, notice, event);
    case NEW_BUFFERS:
        return take_buffers_in(live, notice);
    case CANCEL:
        return take_cancel(live, notice, event);
    case NEW_MODELS:
        live->change = (const live_change_t *)(uintptr_t)notice->token;
        return false;
    default:
        return take_flush(live, notice);
    }
}

#endif
