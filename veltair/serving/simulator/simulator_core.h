// The simulator's inner loop: what it is given, what it returns, and its functions. native_core.py reads this header.

#ifndef SIMULATOR_CORE_H
#define SIMULATOR_CORE_H

#include <stdint.h>

#include "../loop/backend.h"

enum { CACHE_SIZES = 9 };  // how many sizes of veltair.compiler.footprint.traffic.CURVE_BYTES there are
enum { RESIDENT_SIZES = 10, RESIDENT_NUMBERS = 3 * RESIDENT_SIZES };  // likewise of RESIDENT_CACHE_BYTES

// The cost model of one version of a layer: veltair.machine.costs.cost_model.LayerCostModel.
typedef struct {
    double compute_s, parallelism, blocking_bytes, compulsory_bytes, steepness;
    double fetched_bytes[CACHE_SIZES];  // what one core fetches into each cache size; NANs: not known
    double copies, private_share;
    double resident_bytes
        [RESIDENT_NUMBERS];  // of each size: found of its query, of an older one, written; NANs: not known
} cost_model_t;

// rows: for each layer, version and core count the seconds and slopes of all levels, then the shares of DRAM and L3.
// cost_models: for each layer and version, or NULL. noise: factors on the time of a layer.
typedef struct {
    const double *rows;
    const cost_model_t *cost_models;
    const double *noise;
    int64_t layers, versions;
    int64_t layers_before;  // of the models before it
    double start_cost_s;
} model_t;

// batched: by model and number of queries, up to most_batch, the model that serves so many at once: itself for one.
typedef struct {
    const model_t *models;
    const double *levels, *clocks, *limits, *capacities;  // clocks and limits by number of cores
    const double *stretches;       // by number of cores of all blocks: how much longer layers take that share cores
    const int32_t *count_indices;  // by number of cores; -1 if not profiled
    const int32_t *batched;
    int64_t most_batch;
    int64_t level_count, count_count, slots, cores, cores_per_group, groups, resources, most_layers, all_layers;
    double l3_bytes, total_l3_bytes, dram_bytes_per_s, fork_s, combine, scale;
    double grant_s, resize_cost_s, join_cost_s, yield_cost_s, decision_s;
    double cache_bytes[CACHE_SIZES], resident_cache_bytes[RESIDENT_SIZES];
    int32_t by_cost_model, pinned;
} settings_t;

// event: the last one. events: layer ends so far; running: blocks.
typedef struct {
    event_t event;
    int64_t events, running;
} state_t;

typedef struct simulator simulator_t;

simulator_t *simulator_new(const settings_t *settings);
void simulator_free(simulator_t *sim);
state_t *simulator_state(simulator_t *sim);
int32_t *simulator_ended(simulator_t *sim);
int simulator_start(simulator_t *sim, int32_t slot, int32_t model_index, int32_t first, int32_t last, int32_t cores,
                    double bytes_per_s, const uint8_t *versions, const char *noise, double now_s);
int32_t simulator_batched(const simulator_t *sim, int32_t model_index, int32_t queries);
void simulator_pin(simulator_t *sim, int32_t slot, int32_t group_count, const int32_t *groups, const int32_t *counts,
                   int32_t use_count, const int32_t *resources, const double *parts, double limit);
int simulator_resize(simulator_t *sim, int32_t slot, int32_t cores, const uint8_t *versions, double now_s);
void simulator_yield(simulator_t *sim, int32_t slot, double now_s);
event_kind_t simulator_advance(simulator_t *sim, double limit_s);
double simulator_pressure(simulator_t *sim);
void simulator_clear(simulator_t *sim);

#endif
