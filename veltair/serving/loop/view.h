// What a decision sees and what it answers: the contract of policy.py, in C. It knows no backend and no clock.

#ifndef VIEW_H
#define VIEW_H

#include <stdbool.h>
#include <stdint.h>

// How a step ends; above 0: a request. DECIDER_FAILED: who decides says why.
enum { OK = 0, NOT_PROFILED = -1, NO_MEMORY = -2, SHARES_PINNED_CORES = -3, DECIDER_FAILED = -90 };
// What only the caller of a loop has; called again, the loop goes on where it was.
typedef enum { NEED_ARRIVALS = 1, NEED_BLOCK, NEED_PINNING, NEED_ERRORS, RECORDS, DONE } request_t;
// WITHDRAWN: a query that has not begun is gone. RENEWED: who decides is a new one, and knows no query as yet.
typedef enum { NOTHING, ARRIVAL, BLOCK_END, RESIZED, WOKEN, CLOSED, LOADED, WITHDRAWN, RENEWED } event_kind_t;
typedef enum { START, RESIZE, YIELD, REJECT, WAKE, LOAD, EVICT } command_kind_t;
typedef enum { SERVED, REJECTED, UNFINISHED } ending_t;  // of the Python enum of the same name: Ending

// A query in the system. Decisions read all of it, and remember in share, need and shared what they gave it last. others:
// those that its block serves beside it, the next of each by the same name.
typedef struct account {
    struct account *older, *newer;  // of those that wait, or do not exist yet
    struct account *others;
    int64_t id, index;  // index: in the order of arrival
    double arrival_s, deadline_s, start_s, held_since_s, core_s;
    int32_t model, next_layer, blocks, conflicts;
    int32_t slot, first, stop, cores, target_cores, wanted_cores;  // of its block, while it runs
    int32_t batch;  // how many its block serves
    const uint8_t *versions;  // of its block, as last asked for
    void *own;  // what the backend keeps of it
    int32_t share, need;
    bool shared, yields;  // yields: its block is to end at its next layer end
    bool shares_cores;  // its block: it holds none of its own
} account_t;

#ifndef VELTAIR_CFFI  // which reads declarations only
// Return the cores that nobody else can have: those that a block holds, and those that it will grow into.
static inline int32_t reserved_cores(const account_t *account) {
    if (account->shares_cores) return 0;
    return account->cores > account->target_cores ? account->cores : account->target_cores;
}
#endif

// How a query ended. Why it was rejected say slack_s and least_s, or reason, where that is not NULL. index counts
// arrivals.
typedef struct {
    double start_s, end_s, core_s, slack_s, least_s;
    const char *reason;
    int64_t id, index;
    ending_t ending;
    int32_t blocks, conflicts, batch;
} record_t;

// All that a policy may know. waiting: how many wait, the oldest first, each before its `newer`. running: the oldest
// block first. event: what is to be decided after, and the account that it is about, or was. records: of the queries
// that ended since the last decision, but for their reasons. Of the run, and not read before they are asked for:
// pressure, what a block started now would meet, in [0, 1]; ended, how many layers of a running block have ended, by
// slot. Both are the same all through a decision.
typedef struct {
    double now_s;
    int64_t waiting, running_count, record_count;
    account_t *oldest, **running, *changed;
    const record_t *records;
    double (*pressure)(void *run);
    const int32_t *(*ended)(void *run);
    void *run;
    int32_t free_cores;
    event_kind_t event;
} view_t;

// What to do. versions (by layer, from the first of the block on) may be NULL in a resize: they stay; they are kept by
// who decides as long as the block runs. Of a start: others, whom it serves beside its account, other_count of them;
// bytes_per_s, the most that it draws of memory (0: what it can), whether it shares its cores, and first_core, the number of
// its first one, counted from 1 (0: the placement picks). slack_s and least_s, or reason, say why a query is rejected. A
// WAKE is of no account: wake_s is when to decide again, though nothing happens; nor are a LOAD of a model into memory, one
// at a time, and an EVICT.
typedef struct {
    account_t *account, **others;
    const uint8_t *versions;
    const char *reason;
    double slack_s, least_s, wake_s, bytes_per_s;
    command_kind_t kind;
    int32_t stop, cores, wanted, first_core, other_count, model;
    bool shares_cores;
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
