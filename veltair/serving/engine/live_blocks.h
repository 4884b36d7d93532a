// The workers as a backend of the loop: blocks on the cores that the placement picks.

#ifndef LIVE_BLOCKS_H
#define LIVE_BLOCKS_H

#include "live_door.h"
#include "live_state.h"

enum { FEW_CORES = -100 };  // the accounts of loop and placement differ

static live_query_t *query_of(const account_t *account) { return account->own; }

static const live_model_t *model_of(const live_t *live, const account_t *account) {
    return &live->settings.models[account->model];
}

static bool hold(live_t *live, live_block_t *block, int32_t more) {
    uint16_t *chosen = block->cores + block->held;
    int32_t found = place_cores(&live->settings.layout, more, live->is_free, block->cores, block->held, chosen);
    for (int32_t core = 0; core < found; ++core)
        live->is_free[chosen[core]] = 0;
    block->held += found;
    return found == more;
}

// Hold cores from one on, which the policy named.
static bool hold_from(live_t *live, live_block_t *block, int32_t first, int32_t count) {
    for (int32_t core = first; core < first + count; ++core) {
        if (!live->is_free[core]) return false;
        live->is_free[core] = 0;
        block->cores[block->held++] = (uint16_t)core;
    }
    return true;
}

// Free the cores that a block holds beyond the first `kept`.
static void let_go(live_t *live, live_block_t *block, int32_t kept) {
    while (block->held > kept)
        live->is_free[block->cores[--block->held]] = 1;
}

static bool take_buffers(live_t *live, const account_t *account) {
    idle_buffers_t *idle = &live->idle[account->model];
    if (!query_of(account)->table && idle->count) query_of(account)->table = idle->tables[--idle->count];
    return query_of(account)->table;
}

// Say how long each layer of a block is to take at least, by the bytes that it moves and what the block may draw.
// A change of its cores or versions leaves that as it is.
static void hold_back(const live_t *live, const live_block_t *block) {
    const account_t *account = block->account;
    const live_model_t *model = model_of(live, account);
    uint64_t *least_ns = query_of(account)->table->least_ns;
    int32_t index = block->bytes_per_s > 0.0 ? live->settings.count_indices[account->cores] : -1;
    for (int32_t layer = account->first; least_ns && layer < account->stop; ++layer) {
        least_ns[layer] = 0;
        if (index < 0) continue;
        int64_t row = (int64_t)layer * model->versions + account->versions[layer - account->first];
        double moved = model->moved_bytes[row * live->settings.count_count + index];
        if (moved > 0.0) least_ns[layer] = (uint64_t)(1e9 * moved / block->bytes_per_s);
    }
}

// Let the workers begin with a block that holds cores and has buffers.
static int begin(live_t *live, live_block_t *block) {
    const account_t *account = block->account;
    const live_sample_t *sample = &live->settings.samples[query_of(account)->sample];
    const void *const *inputs = account->first == 0 ? sample->inputs : NULL;
    const void *const *answers = account->stop == model_of(live, account)->layers ? sample->answers : NULL;
    void *const *outputs = account->stop == model_of(live, account)->layers ? sample->outputs : NULL;
    hold_back(live, block);
    int64_t number = live->workers.start(live->pool, block->token, (uint64_t)account->id, query_of(account)->table,
                                         (uint32_t)account->first, (uint32_t)account->stop, block->cores,
                                         (uint32_t)block->target, account->versions, inputs, answers, outputs);
    if (number < 0) return (int)number;
    atomic_fetch_add(&live->under_way, 1);
    block->number = (uint64_t)number;
    if (account->yields) live->workers.yield(live->pool, block->token, block->cores[0]);
    return OK;
}

// Let blocks that wait for buffers of a model begin, the oldest first, as far as there are some.
static void begin_waiting(live_t *live, int32_t model) {
    idle_buffers_t *idle = &live->idle[model];
    const view_t *view = loop_view(live->loop);
    for (int64_t index = 0; index < view->running_count && idle->waiting && idle->count; ++index) {
        account_t *account = view->running[index];
        live_block_t *block = &live->blocks[account->slot];
        if (account->model != model || !block->waits || !take_buffers(live, account)) continue;
        block->waits = false;
        idle->waiting--;
        int what = begin(live, block);
        if (what != OK) return break_off(live, account->id, what, block->cores[0]);
    }
}

// There is room: for all tables that were ever given.
static void return_buffers(live_t *live, const account_t *account) {
    live_query_t *query = query_of(account);
    idle_buffers_t *idle = &live->idle[account->model];
    if (!query->table) return;
    idle->tables[idle->count++] = query->table;
    query->table = NULL;
    begin_waiting(live, account->model);
}

// Hold a block until there are buffers, and ask for some, unless enough are being made for all that wait.
static void wait_for_buffers(live_t *live, live_block_t *block) {
    const account_t *account = block->account;
    idle_buffers_t *idle = &live->idle[account->model];
    block->waits = true;
    if (++idle->waiting <= idle->asked) return;
    idle->asked++;
    entry_t lack = {.kind = BUFFERS_LACK, .time_s = clock_s(live), .id = account->id, .model = account->model};
    log_entry(live, lack);
}

static void log_cores(live_t *live, entry_kind_t kind, const command_t *command, const uint8_t *versions) {
    const account_t *account = command->account;
    const live_block_t *block = &live->blocks[account->slot];
    entry_t entry = {
        .kind = kind,
        .time_s = clock_s(live),
        .id = account->id,
        .model = account->model,
        .first = account->first,
        .layer = account->stop,
        .cores = command->cores,
        .wanted = command->wanted,
        .number = versions != NULL,
        .seconds = command->bytes_per_s,
    };
    size_t layers = versions ? (size_t)(account->stop - account->first) : 0;
    log_arrays(live, &entry, versions, layers, block->cores, (size_t)block->held * sizeof *block->cores);
}

static int start_block(live_t *live, const command_t *command) {
    if (command->shares_cores) return CANNOT_SHARE_CORES;
    account_t *account = command->account;
    live_block_t *block = &live->blocks[account->slot];
    *block = (live_block_t){
        .account = account, .cores = block->cores, .target = command->cores, .bytes_per_s = command->bytes_per_s};
    block->token = ++live->serial << SLOT_BITS | (uint64_t)account->slot;
    bool holds = command->first_core ? hold_from(live, block, command->first_core - 1, command->cores)
                                     : hold(live, block, command->cores);
    if (!holds) return FEW_CORES;
    bool has_buffers = take_buffers(live, account);
    int what = has_buffers ? begin(live, block) : OK;
    log_cores(live, BLOCK_STARTED, command, command->versions);
    if (!has_buffers) wait_for_buffers(live, block);
    return what;
}

// A block that waits changes at once; the loop hears of it at the next notice, as it would of one that runs.
static int resize_block(live_t *live, const command_t *command) {
    const account_t *account = command->account;
    live_block_t *block = &live->blocks[account->slot];
    if (command->cores > block->held && !hold(live, block, command->cores - block->held)) return FEW_CORES;
    block->target = command->cores;
    log_cores(live, BLOCK_RESIZED, command, command->versions);
    if (block->waits) {
        live->changes += !block->changed_at;
        block->changed_at = live->dealt_with;
        return OK;
    }
    int64_t number = live->workers.resize(live->pool, block->token, block->cores[0], block->cores,
                                          (uint32_t)command->cores, account->versions);
    if (number > 0) block->number = (uint64_t)number;
    return number > 0 || number == NOT_RUNNING ? OK : (int)number;
}

static int yield_block(live_t *live, const command_t *command) {
    const live_block_t *block = &live->blocks[command->account->slot];
    log_entry(live, (entry_t){.kind = BLOCK_YIELDS, .time_s = clock_s(live), .id = command->account->id});
    if (!block->waits) live->workers.yield(live->pool, block->token, block->cores[0]);
    return OK;
}

static int wake_at(live_t *live, const command_t *command) {
    log_entry(live, (entry_t){.kind = WAKE_SET, .time_s = clock_s(live), .seconds = command->wake_s});
    set_timer(live);
    return OK;
}

static int act(void *self, const command_t *command, double now_s) {
    live_t *live = self;
    (void)now_s;
    switch (command->kind) {
    case START:
        return start_block(live, command);
    case RESIZE:
        return resize_block(live, command);
    case YIELD:
        return yield_block(live, command);
    case WAKE:
        return wake_at(live, command);
    default:
        return_buffers(live, command->account);
        return OK;
    }
}

// Relaxed: any recent reading will do.
static double read_pressure(void *self) {
    live_t *live = self;
    live->decided_by_pressure = true;
    bool is_idle = !loop_view(live->loop)->running_count;
    return is_idle ? 0.0 : atomic_load_explicit(&live->pressure, memory_order_relaxed);
}

// A block that has ended, unheard of as yet, has run all of its layers or has yielded. Relaxed: counts only grow.
static const int32_t *read_progress(void *self) {
    live_t *live = self;
    const view_t *view = loop_view(live->loop);
    live->decided_by_progress = true;
    for (int64_t index = 0; index < view->running_count; ++index) {
        int32_t slot = view->running[index]->slot;
        const live_block_t *block = &live->blocks[slot];
        const state_t *state = &live->states[block->cores[0]];
        uint32_t ended = block->waits ? 0 : atomic_load_explicit(&state->ended_layers, memory_order_relaxed);
        live->ended[slot] = (int32_t)ended;
    }
    return live->ended;
}

// The blocks under way at the end of a run go on; nobody will hear of their ends.
static void forget_blocks(void *self) { (void)self; }

#endif
