// What a decision sees and what it answers: the contract of policy.py, in C. It knows no backend and no clock.

#ifndef VIEW_H
#define VIEW_H

#include <stdbool.h>
#include <stdint.h>

enum { OK = 0, NOT_PROFILED = -1, NO_MEMORY = -2 };  // how a step ends; above 0: a request
// What only the caller of a loop has; called again, the loop goes on where it was.
typedef enum { NEED_ARRIVALS = 1, NEED_BLOCK, NEED_PINNING, NEED_ERRORS, RECORDS, DONE } request_t;
typedef enum { START, RESIZE, YIELD, REJECT } command_kind_t;

// A query in the system. Decisions read all of it, and remember in share, need and shared what they gave it last.
typedef struct account {
    struct account *older, *newer;  // of those that wait, or do not exist yet
    int64_t id, index;              // index: in the order of arrival
    double arrival_s, deadline_s, start_s, held_since_s, core_s;
    int32_t model, next_layer, blocks, conflicts;
    int32_t slot, first, stop, cores, target_cores, wanted_cores;  // of its block, while it runs
    const uint8_t *versions;                                       // of its block, as last asked for
    void *own;                                                     // what the backend keeps of it
    int32_t share, need;
    bool shared, yields;  // yields: its block is to end at its next layer end
} account_t;

#ifndef VELTAIR_CFFI  // which reads declarations only
// Return the cores that nobody else can have: those that a block holds, and those that it will grow into.
static inline int32_t reserved_cores(const account_t *account) {
    return account->cores > account->target_cores ? account->cores : account->target_cores;
}
#endif

// All that a policy may know. waiting: how many wait, the oldest first, each before its `newer`. running: the oldest
// block first. Of the run, and not read before they are asked for: pressure, what a block started now would meet, in
// [0, 1]; ended, how many layers of a running block have ended, by slot. Both are the same all through a decision.
typedef struct {
    double now_s;
    int64_t waiting, running_count;
    account_t *oldest, **running;
    double (*pressure)(void *run);
    const int32_t *(*ended)(void *run);
    void *run;
    int32_t free_cores;
} view_t;

// What to do. versions (by layer, from the first of the block on) may be NULL in a resize: they stay. slack_s and
// least_s say why a query is rejected.
typedef struct {
    account_t *account;
    const uint8_t *versions;
    double slack_s, least_s;
    command_kind_t kind;
    int32_t stop, cores, wanted;
} command_t;

typedef struct {
    command_t *items;
    int64_t count, capacity;
} commands_t;

// Who decides: adds commands for a view, and returns OK, NO_MEMORY, or a request after which it is asked again.
typedef struct {
    int (*decide)(void *self, const view_t *view, commands_t *commands);
    void *self;
} decider_t;

#endif
