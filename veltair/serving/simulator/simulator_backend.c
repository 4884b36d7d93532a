// The simulator as a backend of the loop in C.

#include "simulator_backend.h"

static event_kind_t advance(void *self, double limit_s, event_t *event) {
    event_kind_t kind = simulator_advance(self, limit_s);
    if (kind != NOTHING) *event = simulator_state(self)->event;
    return kind;
}

static int act(void *self, const command_t *command, double now_s) {
    const account_t *account = command->account;
    switch (command->kind) {
    case START:
        return simulator_start(self, account->slot, simulator_batched(self, account->model, account->batch),
                               account->first, account->stop, account->cores, command->bytes_per_s, account->versions,
                               account->own, now_s);
    case RESIZE:
        return simulator_resize(self, account->slot, command->cores, command->versions, now_s);
    case YIELD:
        simulator_yield(self, account->slot, now_s);
        return OK;
    default:
        return OK;
    }
}

static double pressure(void *self) { return simulator_pressure(self); }

static const int32_t *ended(void *self) { return simulator_ended(self); }

static void clear(void *self) { simulator_clear(self); }

// Describe a simulator on which nothing runs to a loop.
void simulator_backend(simulator_t *sim, backend_t *backend) {
    *backend = (backend_t){sim, advance, act, pressure, ended, clear};
}
