// The loop of a simulated run in C: the accounting of dispatcher.py and the decisions of policies with a native spec.
//
// It does what serve(), Dispatcher and the policies do, the same operations on doubles in the same order, so that both
// give the same records to the last bit. Python owns all tables. The loop returns to Python for what only Python
// has: the next arrivals with their noise, a block that was never formed before, the cores of a pinned block, errors of
// the pressure sensor, and to hand over records; called again, it goes on where it was. A decision that lacked a block
// is made again from the start: its commands are applied only when all are known.

#include "loop_blocks.h"
#include "loop_accounting.h"
#include "loop_shares.h"
#include "loop_state.h"

void loop_free(loop_t *loop) {
    if (!loop) return;
    for (int64_t slab = 0; slab < loop->slab_count; slab++)
        free(loop->slabs[slab]);
    void *parts[] = {loop->by_slot,
                     loop->running,
                     loop->waiting,
                     loop->merged,
                     loop->keys,
                     loop->free_slots,
                     loop->slabs,
                     loop->commands,
                     loop->records,
                     loop->rows,
                     loop->bests,
                     loop->count_indices,
                     loop->present,
                     loop->slacks_s,
                     loop->claims,
                     loop->shares,
                     loop->needs,
                     loop->formed.rows,
                     loop->formed.budgets_s,
                     loop->formed.needs,
                     loop->formed.lengths,
                     loop->formed.before,
                     loop};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++)
        free(parts[part]);
}

// Return a loop over a simulator on which nothing runs, or NULL without memory.
loop_t *loop_new(simulator_t *sim, const plan_t *plan, const run_t *run) {
    loop_t *loop = calloc(1, sizeof *loop);
    if (!loop) return NULL;
    int64_t cores = plan->cores;
    loop->sim = sim;
    loop->plan = *plan;
    loop->run = *run;
    loop->by_slot = calloc(cores, sizeof *loop->by_slot);
    loop->running = calloc(cores, sizeof *loop->running);
    loop->free_slots = calloc(cores, sizeof *loop->free_slots);
    loop->count_indices = calloc(cores + 1, sizeof *loop->count_indices);
    if (!loop->by_slot || !loop->running || !loop->free_slots || !loop->count_indices) {
        loop_free(loop);
        return NULL;
    }
    for (int64_t slot = 0; slot < cores; slot++)
        loop->free_slots[slot] = cores - 1 - slot;
    loop->free_slot_count = cores;
    for (int64_t count = 0; count <= cores; count++)
        loop->count_indices[count] = -1;
    for (int64_t index = 0; index < plan->count_count; index++)
        loop->count_indices[plan->counts[index]] = index;
    loop->state.free_cores = cores;
    return loop;
}

loop_state_t *loop_state(loop_t *loop) { return &loop->state; }

// Go on with the next batch of the trace; Python keeps the arrays until the batch after it.
void loop_add_arrivals(loop_t *loop, const arrivals_t *arrivals) {
    loop->arrivals = *arrivals;
    loop->arrived_of_batch = 0;
}

// Go on with the sensor's errors of the next events, one for each.
void loop_add_errors(loop_t *loop, const double *errors, int64_t count) {
    loop->errors = errors;
    loop->error_count = count;
}

void loop_take_records(loop_t *loop) { loop->state.record_count = 0; }

static int decide(loop_t *loop) {
    loop->command_count = loop->applied = 0;
    loop->pressure_known = false;
    switch (loop->plan.kind) {
    case ALL_CORES:
        return decide_all_cores(loop);
    case SHARES:
        return decide_shares(loop);
    default:
        return decide_blocks(loop);
    }
}

static int need_pinning(loop_t *loop, const account_t *account, int32_t cores, int32_t change) {
    if (!loop->run.pinned) return OK;
    loop->state.slot = account->slot;
    loop->state.cores = cores;
    loop->state.change = change;
    return NEED_PINNING;
}

static int start(loop_t *loop, const command_t *command) {
    account_t *account = command->account;
    int32_t slot = loop->free_slots[--loop->free_slot_count];
    leave_queue(loop, account);
    loop->by_slot[slot] = loop->running[loop->running_count++] = account;
    account->slot = slot;
    account->first = account->next_layer;
    account->stop = command->stop;
    account->cores = account->target_cores = command->cores;
    account->wanted_cores = command->wanted;
    account->versions = command->versions;
    account->start_s = isnan(account->start_s) ? loop->now_s : account->start_s;
    account->held_since_s = loop->now_s;
    account->blocks++;
    account->conflicts += command->cores < command->wanted;
    loop->state.free_cores -= command->cores;
    int what = simulator_start(loop->sim, slot, account->model, account->first, account->stop, account->cores,
                               account->versions, (const char *)account->noise, loop->now_s);
    return what == OK ? need_pinning(loop, account, account->cores, HOLD) : what;
}

static int resize(loop_t *loop, const command_t *command) {
    account_t *account = command->account;
    set_cores(loop, account, account->cores, command->cores);
    account->versions = command->versions ? command->versions : account->versions;
    double due_s = loop->now_s + loop->run.grant_s;
    int what = simulator_resize(loop->sim, account->slot, command->cores, command->versions, due_s);
    return what == OK ? need_pinning(loop, account, command->cores, RESERVE) : what;
}

static int apply(loop_t *loop, const command_t *command) {
    account_t *account = command->account;
    switch (command->kind) {
    case START:
        return start(loop, command);
    case RESIZE:
        return resize(loop, command);
    default:
        leave_queue(loop, account);
        return close_account(loop, account, REJECTED, command->slack_s, command->least_s);
    }
}

static int take_event(loop_t *loop, int what) {
    const state_t *event = simulator_state(loop->sim);
    account_t *account = loop->by_slot[event->slot];
    loop->now_s = event->time_s;
    if (what == BLOCK_END) {
        int pinning = need_pinning(loop, account, 0, RELEASE);
        int ended = finish_block(loop, event->slot);
        return ended == OK ? pinning : ended;
    }
    set_cores(loop, account, event->cores, account->target_cores);
    return need_pinning(loop, account, event->cores, ADOPT);
}

// Take the next event into account. OK: the policy is to decide.
static int wait_for_event(loop_t *loop) {
    if (loop->closed) return DONE;
    if (loop->arrived < loop->run.queries && loop->arrived_of_batch == loop->arrivals.count) return NEED_ARRIVALS;
    if (loop->run.is_noisy) {
        if (!loop->error_count) return NEED_ERRORS;
        loop->error = *loop->errors++;
        loop->error_count--;
    }
    bool more = loop->arrived < loop->run.queries;
    double due_s = more ? loop->arrivals.arrivals_s[loop->arrived_of_batch] : INFINITY, close_s = loop->run.close_s;
    int what = simulator_advance(loop->sim, due_s < close_s ? due_s : close_s);
    if (what != NOTHING) return take_event(loop, what);
    if (due_s <= close_s) {
        loop->now_s = due_s;
        return admit_next(loop);
    }
    if (!loop->running_count) return DONE;
    int closed = abandon(loop);
    return closed == OK ? DONE : closed;
}

static int stop_at_end(loop_t *loop, int what) {
    loop->state.oldest = loop->oldest ? loop->oldest->index : -1;
    return what;
}

// Run on. Returns what is needed, RECORDS to be taken, DONE (records may be left then), or an error.
int loop_run(loop_t *loop) {
    for (;;) {
        int what;
        switch (loop->phase) {
        case WAITING_FOR_EVENT:
            if (loop->state.record_count >= FLUSH) return RECORDS;
            what = wait_for_event(loop);
            if (what != OK && what != NEED_PINNING) return stop_at_end(loop, what);
            loop->phase = DECIDING;
            if (what == NEED_PINNING) return what;
            break;
        case DECIDING:
            what = decide(loop);
            if (what != OK) return what;
            loop->phase = APPLYING;
            break;
        default:
            while (loop->applied < loop->command_count) {
                what = apply(loop, &loop->commands[loop->applied++]);
                if (what != OK) return what;
            }
            loop->phase = WAITING_FOR_EVENT;
        }
    }
}
