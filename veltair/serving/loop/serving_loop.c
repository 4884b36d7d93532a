// The loop of a run in C: the accounting of dispatcher.py over any backend, with any decider.
//
// It does what serve() and Dispatcher do, the same operations on doubles in the same order, so that both give the same
// records to the last bit. The loop returns to its caller for what only that has: the next arrivals with their noise,
// what a decider lacks, the cores of a pinned block, errors of the pressure sensor, and to hand over records; called
// again, it goes on where it was. A decision that lacked something is made again from the start: its commands are
// applied only when all are known.

#include "loop_accounting.h"
#include "loop_state.h"

void loop_free(loop_t *loop) {
    if (!loop) return;
    loop_take_records(loop);
    for (int64_t slab = 0; slab < loop->slab_count; slab++)
        free(loop->slabs[slab]);
    void *parts[] = {loop->by_slot, loop->view.running,  loop->free_slots,    loop->slabs, loop->commands.items,
                     loop->records, loop->ended_queries, loop->wakes.times_s, loop};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++)
        free(parts[part]);
}

// Return the pressure as the policy reads it. It is computed at most once an event, at the first use.
static double sensed_pressure(void *run) {
    loop_t *loop = run;
    if (loop->pressure_known) return loop->pressure;
    double sensed = loop->backend.pressure(loop->backend.self);
    if (loop->run.is_noisy) {
        sensed = sensed + loop->run.sigma * loop->error;
        sensed = sensed > 0.0 ? sensed : 0.0;
        sensed = sensed < 1.0 ? sensed : 1.0;
    }
    loop->pressure = sensed;
    loop->pressure_known = true;
    return sensed;
}

// Return how far running blocks are, read at most once an event.
static const int32_t *ended_layers(void *run) {
    loop_t *loop = run;
    if (!loop->ended) loop->ended = loop->backend.ended(loop->backend.self);
    return loop->ended;
}

// Return a loop over a backend on which nothing runs, or NULL without memory.
loop_t *loop_new(const backend_t *backend, const decider_t *decider, const run_t *run) {
    loop_t *loop = calloc(1, sizeof *loop);
    if (!loop) return NULL;
    int64_t slots = run->slots;
    loop->backend = *backend;
    loop->decider = *decider;
    loop->run = *run;
    loop->load_end_s = INFINITY;
    loop->by_slot = calloc(slots, sizeof *loop->by_slot);
    loop->free_slots = calloc(slots, sizeof *loop->free_slots);
    account_t **running = calloc(slots, sizeof *running);
    loop->view = (view_t){.free_cores = run->cores, .running = running, .run = loop};
    loop->view.pressure = sensed_pressure;
    loop->view.ended = ended_layers;
    if (!loop->by_slot || !loop->free_slots || !running) {
        loop_free(loop);
        return NULL;
    }
    for (int64_t slot = 0; slot < slots; slot++)
        loop->free_slots[slot] = slots - 1 - slot;
    loop->free_slot_count = slots;
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

// Forget the records, which were read.
void loop_take_records(loop_t *loop) {
    for (int64_t index = 0; index < loop->state.record_count; index++)
        free((char *)loop->records[index].reason);
    loop->state.record_count = 0;
}

const view_t *loop_view(const loop_t *loop) { return &loop->view; }

const commands_t *loop_commands(const loop_t *loop) { return &loop->commands; }

// Return whether a query can still be withdrawn: it has not begun.
bool loop_can_withdraw(const loop_t *loop, int64_t id) { return not_begun(loop, id); }

// Let another decider decide from now on, with other models: `models` has the new index of each, below 0 if it is gone.
// False: a query in the system is of one that is gone; nothing is changed.
bool loop_renew(loop_t *loop, const decider_t *decider, const int32_t *layers, const int32_t *models) {
    view_t *view = &loop->view;
    for (account_t *account = view->oldest; account; account = account->newer)
        if (models[account->model] < 0) return false;
    for (int64_t index = 0; index < view->running_count; index++)
        if (models[view->running[index]->model] < 0) return false;
    for (account_t *account = view->oldest; account; account = account->newer)
        account->model = models[account->model];
    for (int64_t index = 0; index < view->running_count; index++)
        for (account_t *account = view->running[index]; account; account = account->others)
            account->model = models[account->model];
    loop->decider = *decider;
    loop->run.layers = layers;
    view->record_count = 0;  // of queries that it never knew
    return true;
}

// Return when the policy is to be woken next: infinity, if it is not.
double loop_next_wake(const loop_t *loop) { return next_wake(&loop->wakes); }

// Have so many commands to be written, all of them zero. OK or NO_MEMORY.
int commands_make(commands_t *commands, int64_t count) {
    if (!reserve((void **)&commands->items, &commands->capacity, count, sizeof *commands->items)) return NO_MEMORY;
    memset(commands->items, 0, count * sizeof *commands->items);
    return OK;
}

// The `decide` of whoever is asked.
int decide_by_asking(void *asked, const view_t *view, commands_t *commands) {
    asked_t *asks = asked;
    asks->pressure = view->pressure(view->run);
    int what = commands_make(commands, ASKED_COMMANDS);
    return what == OK ? asks->ask(view, commands) : what;
}

const int32_t *view_ended(const view_t *view) { return view->ended(view->run); }

static int need_pinning(loop_t *loop, const account_t *account, int32_t cores, int32_t change) {
    if (!loop->run.pinned) return OK;
    loop->state.first_core = 0;
    loop->state.slot = account->slot;
    loop->state.cores = cores;
    loop->state.change = change;
    return NEED_PINNING;
}

static void start(loop_t *loop, const command_t *command) {
    view_t *view = &loop->view;
    account_t *account = command->account;
    int32_t slot = loop->free_slots[--loop->free_slot_count];
    if (command->shares_cores) charge_all(loop);
    leave_queue(loop, account);
    loop->by_slot[slot] = view->running[view->running_count++] = account;
    account->slot = slot;
    account->first = account->next_layer;
    account->stop = command->stop;
    account->cores = account->target_cores = command->cores;
    account->wanted_cores = command->wanted;
    account->versions = command->versions;
    account->batch = 1 + command->other_count;
    account->others = NULL;
    for (int32_t index = command->other_count; index-- > 0;) {
        account_t *other = command->others[index];
        leave_queue(loop, other);
        other->others = account->others;
        account->others = other;
    }
    account->start_s = isnan(account->start_s) ? view->now_s : account->start_s;
    account->held_since_s = view->now_s;
    account->blocks++;
    account->conflicts += command->cores < command->wanted;
    account->shares_cores = command->shares_cores;
    view->free_cores -= reserved_cores(account);
    loop->sharing_cores += command->shares_cores ? command->cores : 0;
}

static void resize(loop_t *loop, const command_t *command) {
    account_t *account = command->account;
    set_cores(loop, account, account->cores, command->cores);
    account->versions = command->versions ? command->versions : account->versions;
}

static int apply(loop_t *loop, const command_t *command) {
    account_t *account = command->account;
    if (command->kind == REJECT) {
        loop->backend.act(loop->backend.self, command, loop->view.now_s);
        leave_queue(loop, account);
        return close_account(loop, account, REJECTED, command);
    }
    if (command->kind == WAKE && !add_wake(&loop->wakes, command->wake_s)) return NO_MEMORY;
    if (command->kind == START && command->shares_cores && loop->run.pinned) return SHARES_PINNED_CORES;
    if (command->kind == LOAD) loop->load_end_s = loop->view.now_s + loop->run.load_s[command->model];
    if (command->kind == LOAD || command->kind == EVICT) return OK;
    if (command->kind == START) start(loop, command);
    if (command->kind == RESIZE) resize(loop, command);
    if (command->kind == YIELD) account->yields = true;
    int what = loop->backend.act(loop->backend.self, command, loop->view.now_s);
    if (what != OK || command->kind == YIELD || command->kind == WAKE) return what;
    what = need_pinning(loop, account, command->cores, command->kind == START ? HOLD : RESERVE);
    loop->state.first_core = command->first_core;
    return what;
}

static int end_block(loop_t *loop, const event_t *event) {
    int pinning = need_pinning(loop, loop->by_slot[event->slot], 0, RELEASE);
    int ended = finish_block(loop, event);
    return ended == OK ? pinning : ended;
}

static int adopt(loop_t *loop, const event_t *event) {
    account_t *account = loop->view.changed = loop->by_slot[event->slot];
    set_cores(loop, account, event->cores, account->target_cores);
    return need_pinning(loop, account, event->cores, ADOPT);
}

// Take an event into account. OK or NEED_PINNING: the policy is to decide; DONE: there is nothing left to decide.
int loop_enter(loop_t *loop, const event_t *event) {
    loop->view.now_s = event->time_s;
    loop->view.event = event->kind;
    loop->view.changed = NULL;
    switch (event->kind) {
    case ARRIVAL:
        return admit(loop, event);
    case BLOCK_END:
        return end_block(loop, event);
    case RESIZED:
        return adopt(loop, event);
    case WOKEN:
        take_wake(&loop->wakes);
        return OK;
    case LOADED:
        loop->load_end_s = INFINITY;
        return OK;
    case WITHDRAWN:
        return withdraw(loop, event->id);
    case CLOSED:
        return abandon(loop) == OK ? DONE : NO_MEMORY;
    default:
        return OK;
    }
}

// Decide what to do after the event that was entered last; nothing is done yet. Returns what the decider does.
int loop_decide(loop_t *loop) {
    loop->commands.count = loop->applied = 0;
    loop->pressure_known = false;
    loop->ended = NULL;
    int what = loop->decider.decide(loop->decider.self, &loop->view, &loop->commands);
    if (what == OK) loop->view.record_count = 0;
    return what;
}

// Do what was decided. A request is answered by calling it again.
int loop_apply(loop_t *loop) {
    while (loop->applied < loop->commands.count) {
        int what = apply(loop, &loop->commands.items[loop->applied++]);
        if (what != OK) return what;
    }
    return OK;
}

// The next arrival of the trace; its time is infinite after the last.
static event_t next_arrival(const loop_t *loop) {
    if (loop->arrived == loop->run.queries) return (event_t){.time_s = INFINITY};
    const arrivals_t *batch = &loop->arrivals;
    int64_t at = loop->arrived_of_batch;
    return (event_t){
        .time_s = batch->arrivals_s[at],
        .target_s = batch->targets_s[at],
        .own = (const char *)batch->own + at * loop->run.own_bytes,
        .id = batch->ids[at],
        .kind = ARRIVAL,
        .model = batch->models[at],
    };
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
    event_t arrival = next_arrival(loop), event;
    double wake_s = next_wake(&loop->wakes), close_s = loop->run.close_s;
    double due_s = wake_s < arrival.time_s ? wake_s : arrival.time_s;
    due_s = loop->load_end_s < due_s ? loop->load_end_s : due_s;
    if (loop->backend.advance(loop->backend.self, due_s < close_s ? due_s : close_s, &event) != NOTHING)
        return loop_enter(loop, &event);
    if (due_s <= close_s && due_s == loop->load_end_s)
        return loop_enter(loop, &(event_t){.time_s = due_s, .kind = LOADED});
    if (due_s <= close_s && due_s == arrival.time_s) {
        loop->arrived_of_batch++;
        return loop_enter(loop, &arrival);
    }
    if (due_s <= close_s) return loop_enter(loop, &(event_t){.time_s = due_s, .kind = WOKEN});
    if (isinf(due_s) && !loop->view.running_count) return DONE;
    return loop_enter(loop, &(event_t){.time_s = close_s, .kind = CLOSED});
}

static int stop_at_end(loop_t *loop, int what) {
    loop->state.oldest = loop->view.oldest ? loop->view.oldest->index : -1;
    loop->state.waiting = loop->view.waiting;
    loop->state.free_cores = loop->view.free_cores;
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
            what = loop_decide(loop);
            if (what != OK) return what;
            loop->phase = APPLYING;
            break;
        default:
            what = loop_apply(loop);
            if (what != OK) return what;
            loop->phase = WAITING_FOR_EVENT;
        }
    }
}
