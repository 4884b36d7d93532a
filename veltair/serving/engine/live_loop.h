// The loop over the workers, in real time: what Python lays out, what it reads, and the functions. native_engine.py reads
// this header; live_loop.c says what the threads do.

#ifndef LIVE_LOOP_H
#define LIVE_LOOP_H

#include "../../machine/topology/placement.h"
#include "../../machine/workers/pool_types.h"
#include "../loop/serving_loop.h"

// What a client sends: LoadGen's process (loadgen/child.py), or the front of the service. An arrival is due at due_ns of
// the monotonic clock, or as its model says (0). Of a cancellation only the sequence counts.
enum { PACKET_ARRIVAL = 1, PACKET_FLUSH = 2, PACKET_CANCEL = 3 };
typedef struct {
    uint32_t kind, sample;
    uint64_t sequence;
    int64_t sent_ns, due_ns;
} packet_t;

// What a client that asks for it is told of a query that ended: ending is an ending_t, of one that was cancelled
// UNFINISHED. Times are of the monotonic clock; a query that never began has begun at its end.
typedef struct {
    uint64_t sequence;
    int64_t began_ns, ended_ns;
    double core_s;
    uint32_t ending, blocks;
} outcome_t;

// A model; tables are of idle buffers, one for each query at work.
typedef struct {
    const call_table_t *const *tables;
    const double *moved_bytes;  // [layers][versions][core counts]
    double qos_s;
    int64_t table_count;
    int32_t layers, versions;
} live_model_t;

// What a query asks for: the index of its model, and arrays of pointers to its inputs, to right answers, and to where
// its outputs are wanted; or NULL. A model below 0 is none: nobody may ask for it.
typedef struct {
    const void *const *inputs, *const *answers;
    void *const *outputs;
    int64_t model;
} live_sample_t;

enum { CANNOT_SHARE_CORES = -101 };  // what no block can be asked for here
enum { UNKNOWN_MODEL = -102 };  // a query in the system is of a model that a change takes away

// layout: of the workers, by their indices. zero_ns: what times are counted from, on the monotonic clock. drain_s: how
// long the run goes on after the last arrival. rings: kinds of entries that wake who waits for the log, as bits.
// count_indices: by number of cores, -1 where the models were not profiled on so many. tells_outcomes: whether the client
// is told outcomes, not only sequences.
typedef struct {
    const live_model_t *models;
    const live_sample_t *samples;
    const int32_t *count_indices;
    core_layout_t layout;
    uint64_t zero_ns;
    double drain_s;
    int64_t model_count, sample_count, count_count;
    uint32_t cores, rings, tells_outcomes;
} live_settings_t;

// Other models, samples and decisions for a run that goes on. Of `settings` the models, the samples and count_indices
// count; a sample that a query asks for stays where it is. kept: of each model the index that it had, -1 for a new one,
// which alone brings tables. at_rest: only once no block runs; until then no other begins.
typedef struct {
    live_settings_t settings;
    const int32_t *kept;
    const decider_t *decider;
    uint32_t at_rest;
} live_change_t;

// Kinds of entries of the log, and what they say beside their time and the query:
//   ARRIVED   sample, model; seconds: when LoadGen sent it
//   FLUSHED   no more queries will come
//   BLOCK_ENDED   layer: the first that did not run; code: of the notice; number: wrong outputs; seconds: of its layers
//   CORES_ADOPTED   cores; extra: those that it keeps (uint16)
//   DUE       the run is cut off
//   DECIDED   by what was decided after the event before: pressure (NAN: not read); number: how many wait then; seconds:
//             since the event; extra: of each running block, the oldest first, the ended layers (int32), if they were read
//   BLOCK_STARTED   first, layer: its end, cores, wanted; seconds: bytes/s that it may draw, 0: what it can; extra: a byte a layer, its version; then its cores (uint16)
//   BLOCK_RESIZED   cores; number: whether versions are new; extra: those, or none, then its cores
//   BLOCK_YIELDS
//   QUERY_ENDED   code: ending_t, number: blocks, wanted: conflicts; seconds: core_s, since_s: its first start; slack_s
//             and least_s, where it was rejected; first: whether the policy said why, in the extra bytes
//   BUFFERS_LACK  model: of a block that waits for buffers
//   BROKEN    code: of the notice, or what the loop returned, cores: the index of the worker
//   LEFT      LoadGen's end of the socket is closed
//   OVER      nothing runs and nothing is due; number: how many wait, for ever
//   WAKE_CAME  a time has come at which the policy is to be woken
//   WAKE_SET  the policy is to be woken; seconds: when
//   WITHDRAWN_BY_CLIENT  a query that has not begun was cancelled
//   CHANGED   models, samples and the decider are those of live_change()
typedef enum {
    ARRIVED,
    FLUSHED,
    BLOCK_ENDED,
    CORES_ADOPTED,
    DUE,
    DECIDED,
    BLOCK_STARTED,
    BLOCK_RESIZED,
    BLOCK_YIELDS,
    QUERY_ENDED,
    BUFFERS_LACK,
    BROKEN,
    LEFT,
    OVER,
    WAKE_CAME,
    WAKE_SET,
    WITHDRAWN_BY_CLIENT,
    CHANGED
} entry_kind_t;

// extra_bytes follow an entry, and as many more as make the next one begin at a multiple of 8.
typedef struct {
    entry_kind_t kind;
    uint32_t extra_bytes;
    double time_s, seconds, since_s, slack_s, least_s, pressure;
    int64_t id;
    int32_t model, sample, first, layer, cores, wanted, number, code;
} entry_t;

typedef struct live live_t;

live_t *live_open(pool_t *pool, const pool_functions_t *workers, const decider_t *decider,
                  const live_settings_t *settings, int *error);
int live_door_id(const live_t *live);
int live_listen(live_t *live, int channel);
void live_arrive(live_t *live, int64_t id, int32_t sample, uint64_t time_ns);
void live_flush(live_t *live);
void live_change(live_t *live, const live_change_t *change);
void live_add_buffers(live_t *live, int32_t model, const call_table_t *table, uint32_t changes);
void live_set_pressure(live_t *live, double pressure);
int64_t live_read(live_t *live, char *log, int64_t most_bytes);
int live_wait(live_t *live, int64_t timeout_ns);
void live_stop(live_t *live);
int live_is_idle(const live_t *live);
void live_hand_back(live_t *live);
void live_close(live_t *live);

#endif
