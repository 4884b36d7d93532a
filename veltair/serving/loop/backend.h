// What a run needs of a backend, which says when things end and decides nothing: Backend of backend.py, in C.

#ifndef BACKEND_H
#define BACKEND_H

#include "view.h"

// Running blocks are named by their slots, a query that is withdrawn by its id. next_layer: the first layer of a block that did not run, at its end; cores:
// what a block runs on since it was resized. Of an arrival: id, model, target_s (from then on) and, in own, what the
// backend keeps of the query, which is copied.
typedef struct {
    double time_s, target_s;
    const void *own;
    int64_t id;
    event_kind_t kind;
    int32_t slot, next_layer, cores, model;
} event_t;

// advance: wait for the next end or change of a block up to limit_s, and return its kind; NULL where events are handed
// to the loop. act: carry out a start, a resize or a yield, after it was entered into the account, and returns OK or
// what is wrong; or hear that a query is rejected, before its account is closed, or of a wake, which the loop keeps.
// ended: layers that have ended, by slot. clear: end all blocks.
typedef struct {
    void *self;
    event_kind_t (*advance)(void *self, double limit_s, event_t *event);
    int (*act)(void *self, const command_t *command, double now_s);
    double (*pressure)(void *self);
    const int32_t *(*ended)(void *self);
    void (*clear)(void *self);
} backend_t;

#endif
