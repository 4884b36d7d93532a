// What a run needs of a backend, which says when things end and decides nothing: Backend of backend.py, in C.

#ifndef BACKEND_H
#define BACKEND_H

#include "view.h"

typedef enum { NOTHING, BLOCK_END, RESIZED } event_kind_t;

// Blocks are named by their slots. next_layer: the first layer of a block that did not run, at its end; cores: what a
// block runs on since it was resized.
typedef struct {
    double time_s;
    event_kind_t kind;
    int32_t slot, next_layer, cores;
} event_t;

// advance: wait for the next event up to limit_s and return its kind. act: carry out a start or a resize, after it was
// entered into the account; returns OK or what is wrong. ended: layers that have ended, by slot. clear: end all blocks.
typedef struct {
    void *self;
    event_kind_t (*advance)(void *self, double limit_s, event_t *event);
    int (*act)(void *self, const command_t *command, double now_s);
    double (*pressure)(void *self);
    const int32_t *ended;
    void (*clear)(void *self);
} backend_t;

#endif
