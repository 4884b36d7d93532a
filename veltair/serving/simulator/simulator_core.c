// The simulator's inner loop: layers end, and running layers are re-timed whenever a co-running layer changes.
//
// It does what python_core.py does with contention.py, cost_model.py and sharing.py, the same operations on doubles in
// the same order, so that both give the same events to the last bit (compiled without contraction of products and
// sums). Python owns all tables; only block ends and adopted resizes leave advance().

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simulator_core.h"

static const int64_t NOISE_AHEAD = 6;  // layers

static const double NO_CONDITION = -1.0;  // of a layer that has just begun: below every pressure and time

typedef struct {
    int32_t id, count;
    double part;
} share_t;

// A running block, by slot.
typedef struct {
    const model_t *model;
    const uint32_t *noise;  // of its first layer
    uint8_t *versions, *next_versions;
    share_t *groups, *uses;
    int64_t first, layers, group_count, use_count;
    double limit, next_due_s, yield_due_s;  // yield_due_s INFINITY: no yield is under way
    double bytes_per_s, most_share;         // the most that it may draw of memory, also as a share
    double ends_s;                          // if it is_ending
    int32_t cores, next_cores;              // next_cores 0: no resize is under way
    bool is_ending;                         // it yielded, and still holds its cores
} block_t;

// Its current layer, by index: oldest block first.
typedef struct {
    const double *row;
    const cost_model_t *cost_model;
    int32_t slot, fresh;
} lane_t;

// The numbers of current layers, by index, each an array of its own so that loops over all layers vectorise. met and
// next_s are what a layer meets from now on and its seconds then, and least_s what it takes at least, as it may draw no
// more of memory; the second line is for machines with a cost model.
enum { DRAM, L3, LEAST_S, NOISE, BEGIN_S, END_S, CONDITION, SECONDS, MET, NEXT_S };
enum { FULL_S = NEXT_S + 1, ALONE_S, MOVED, DEMAND, GRANTED, WARM, NUMBERS };

struct simulator {
    settings_t settings;
    state_t state;
    double now_s, next_end_s;
    double decided_s;  // when the decision about the last event ends, what follows from it begins
    double stretch;    // of all layers, since blocks share cores as they do
    int64_t next_index, busy_cores, offered_cores;  // offered_cores: how many were busy when layers last made offers
    int64_t ending;                                 // blocks that are
    bool stale, pins_changed, stretch_changed;
    block_t *blocks;
    lane_t *lanes;
    double *numbers[NUMBERS], *all_numbers;
    int32_t *ended;        // layers that have ended, by slot
    int32_t *busy;         // cores at work, by group
    double *density, *wanted, *taken, *weights;
    double moved_bytes;    // by all layers that have ended
    double *last_use;      // moved_bytes when a layer of a model last began; NAN: never
    int64_t *rising;
    uint8_t *versions;
    share_t *shares;
};

void simulator_free(simulator_t *sim) {
    if (!sim) return;
    void *parts[] = {sim->blocks,   sim->lanes,  sim->all_numbers, sim->ended,   sim->busy,
                     sim->density,  sim->wanted, sim->taken,       sim->weights, sim->rising,
                     sim->versions, sim->shares, sim->last_use,    sim};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++)
        free(parts[part]);
}

// Return a simulator for at most settings->slots blocks at once, or NULL without memory.
simulator_t *simulator_new(const settings_t *settings) {
    simulator_t *sim = calloc(1, sizeof *sim);
    if (!sim) return NULL;
    size_t slots = settings->slots, groups = settings->groups, resources = settings->resources;
    size_t group_shares = settings->pinned ? groups : 0, room = group_shares + resources;
    sim->settings = *settings;
    sim->blocks = calloc(slots, sizeof *sim->blocks);
    sim->lanes = calloc(slots, sizeof *sim->lanes);
    sim->ended = calloc(slots, sizeof *sim->ended);
    sim->busy = calloc(groups, sizeof *sim->busy);
    sim->density = calloc(groups, sizeof *sim->density);
    sim->wanted = calloc(resources, sizeof *sim->wanted);
    sim->taken = calloc(resources, sizeof *sim->taken);
    sim->weights = calloc(resources, sizeof *sim->weights);
    sim->all_numbers = calloc(slots * NUMBERS, sizeof *sim->all_numbers);
    sim->rising = calloc(slots, sizeof *sim->rising);
    sim->versions = calloc(slots * 2, settings->most_layers);
    sim->shares = calloc(slots * room, sizeof *sim->shares);
    sim->last_use = calloc(settings->all_layers, sizeof *sim->last_use);
    if (!sim->blocks || !sim->lanes || !sim->all_numbers || !sim->ended || !sim->busy || !sim->density ||
        !sim->wanted || !sim->taken || !sim->weights || !sim->rising || !sim->versions || !sim->shares ||
        !sim->last_use) {
        simulator_free(sim);
        return NULL;
    }
    for (int64_t layer = 0; layer < settings->all_layers; layer++)
        sim->last_use[layer] = NAN;
    for (size_t number = 0; number < NUMBERS; number++)
        sim->numbers[number] = sim->all_numbers + number * slots;
    for (size_t slot = 0; slot < slots; slot++) {
        block_t *block = &sim->blocks[slot];
        block->versions = sim->versions + 2 * slot * settings->most_layers;
        block->next_versions = block->versions + settings->most_layers;
        block->groups = sim->shares + slot * room;
        block->uses = block->groups + group_shares;
        block->uses[0] = (share_t){0, 0, 1.0};
        block->use_count = 1;
    }
    sim->next_end_s = INFINITY;
    sim->stretch = 1.0;
    return sim;
}

state_t *simulator_state(simulator_t *sim) { return &sim->state; }

int32_t *simulator_ended(simulator_t *sim) { return sim->ended; }

static const double *row_of(const settings_t *of, const model_t *model, int64_t layer, int64_t version, int64_t index) {
    int64_t cell = (layer * model->versions + version) * of->count_count + index;
    return model->rows + cell * (2 * of->level_count + 2);
}

// Return whether layers [first, last) have these versions on so many cores.
static bool profiled(const settings_t *of, const model_t *model, int64_t first, int64_t last, const uint8_t *versions,
                     int32_t cores) {
    int32_t index = cores >= 1 && cores <= of->cores ? of->count_indices[cores] : -1;
    if (index < 0 || last > model->layers) return false;
    for (int64_t layer = first; layer < last; layer++) {
        int64_t version = versions[layer - first];
        if (version >= model->versions || isinf(row_of(of, model, layer, version, index)[0])) return false;
    }
    return true;
}

// Prefetch the table row of a block's next layer and the noise of later ones: tables and noise are larger than a
// core's caches, and noise is read at random.
static void prefetch_layer(const settings_t *of, const block_t *block, int64_t ended) {
    if (ended >= block->layers) return;
    const model_t *model = block->model;
    int64_t layer = block->first + ended, version = block->versions[ended];
    const char *row = (const char *)row_of(of, model, layer, version, of->count_indices[block->cores]);
    __builtin_prefetch(row);
    __builtin_prefetch(row + 64);
    if (ended + NOISE_AHEAD < block->layers) __builtin_prefetch(model->noise + block->noise[ended + NOISE_AHEAD]);
    if (model->cost_models)
        for (size_t byte = 0; byte < sizeof(cost_model_t); byte += 64)
            __builtin_prefetch((const char *)(model->cost_models + layer * model->versions + version) + byte);
}

// Over how many private caches a block on cores that are spread reaches.
static double spread_groups(const settings_t *of, int64_t cores) {
    return (double)(cores < of->groups ? cores : of->groups);
}

// Return the share of what older queries left for a layer that is still there as it begins.
static double use_older(simulator_t *sim, const block_t *block, int64_t layer, const cost_model_t *cost_model) {
    const settings_t *of = &sim->settings;
    double *last = &sim->last_use[block->model->layers_before + layer], since = sim->moved_bytes - *last;
    bool never = isnan(*last);
    *last = sim->moved_bytes;
    if (never) return 0.0;
    double groups = spread_groups(of, block->cores), copies = cost_model->copies;
    double held = (groups < copies ? groups : copies) * since;
    return held > of->total_l3_bytes ? of->total_l3_bytes / held : 1.0;
}

// Let the block at an index begin its next layer at begin_s.
static void enter_layer(simulator_t *sim, int64_t index, double begin_s) {
    const settings_t *of = &sim->settings;
    lane_t *lane = &sim->lanes[index];
    const block_t *block = &sim->blocks[lane->slot];
    int64_t ended = sim->ended[lane->slot], layer = block->first + ended, version = block->versions[ended];
    int64_t cell = layer * block->model->versions + version;
    lane->row = row_of(of, block->model, layer, version, of->count_indices[block->cores]);
    lane->cost_model = block->model->cost_models ? block->model->cost_models + cell : NULL;
    lane->fresh = true;
    if (lane->cost_model) sim->numbers[WARM][index] = use_older(sim, block, layer, lane->cost_model);
    double share = lane->row[2 * of->level_count], most = block->most_share;
    sim->numbers[DRAM][index] = share > most ? most : share;
    sim->numbers[LEAST_S][index] = share > most ? share * lane->row[0] / most : 0.0;
    sim->numbers[L3][index] = lane->row[2 * of->level_count + 1];
    sim->numbers[NOISE][index] = block->model->noise[block->noise[ended]];
    sim->numbers[BEGIN_S][index] = begin_s;
    sim->numbers[CONDITION][index] = NO_CONDITION;
    prefetch_layer(of, block, ended + 1);
}

static void count_group_cores(simulator_t *sim, const block_t *block, int32_t sign) {
    for (int64_t index = 0; index < block->group_count; index++)
        sim->busy[block->groups[index].id] += sign * block->groups[index].count;
}

// Say on which cache groups a block's cores are: counts[i] on groups[i]. It draws parts[i] of its bytes through resources[i],
// at most limit bytes/s.
void simulator_pin(simulator_t *sim, int32_t slot, int32_t group_count, const int32_t *groups, const int32_t *counts,
                   int32_t use_count, const int32_t *resources, const double *parts, double limit) {
    block_t *block = &sim->blocks[slot];
    count_group_cores(sim, block, -1);
    int32_t cores = 0;
    for (int32_t index = 0; index < group_count; index++)
        cores += counts[index];
    for (int32_t index = 0; index < group_count; index++)
        block->groups[index] = (share_t){groups[index], counts[index], (double)counts[index] / cores};
    block->group_count = group_count;
    count_group_cores(sim, block, 1);
    for (int32_t index = 0; index < use_count; index++)
        block->uses[index] = (share_t){resources[index], 0, parts[index]};
    block->use_count = use_count;
    block->limit = limit < block->bytes_per_s ? limit : block->bytes_per_s;
    sim->stale = sim->pins_changed = true;
}

static double after_decision(const simulator_t *sim, double now_s) {
    return now_s >= sim->decided_s ? now_s : sim->decided_s;
}

// Return the most that a block on spread cores draws of memory.
static double spread_limit(const settings_t *of, const block_t *block) {
    double limit = of->limits[block->cores];
    return limit < block->bytes_per_s ? limit : block->bytes_per_s;
}

// Start a block of layers [first, last) in a free slot. noise holds an index into the model's noise for each layer,
// bytes_per_s is the most that it may draw of memory, 0 if that is not limited.
int simulator_start(simulator_t *sim, int32_t slot, int32_t model_index, int32_t first, int32_t last, int32_t cores,
                    double bytes_per_s, const uint8_t *versions, const char *noise, double now_s) {
    const settings_t *of = &sim->settings;
    const model_t *model = &of->models[model_index];
    if (!profiled(of, model, first, last, versions, cores)) return NOT_PROFILED;
    block_t *block = &sim->blocks[slot];
    block->model = model;
    block->noise = (const uint32_t *)noise + first;
    block->first = first;
    block->layers = last - first;
    memcpy(block->versions, versions, block->layers);
    memcpy(block->next_versions, versions, block->layers);
    block->cores = cores;
    block->next_cores = 0;
    block->yield_due_s = INFINITY;
    block->is_ending = false;
    block->bytes_per_s = bytes_per_s > 0.0 ? bytes_per_s : INFINITY;
    block->most_share = block->bytes_per_s / of->dram_bytes_per_s;
    block->limit = spread_limit(of, block);
    for (int64_t layer = 0; layer < NOISE_AHEAD && layer < block->layers; layer++)
        __builtin_prefetch(model->noise + block->noise[layer]);
    sim->ended[slot] = 0;
    int64_t index = sim->state.running++;
    sim->lanes[index].slot = slot;
    sim->numbers[END_S][index] = INFINITY;
    enter_layer(sim, index, after_decision(sim, now_s) + model->start_cost_s);
    sim->now_s = now_s;
    sim->busy_cores += cores;
    sim->stale = true;
    return OK;
}

// Return the model whose versions serve so many queries of a model at once, which were built.
int32_t simulator_batched(const simulator_t *sim, int32_t model_index, int32_t queries) {
    return sim->settings.batched[model_index * (sim->settings.most_batch + 1) + queries];
}

// Change a running block at its first layer end once it knows. versions (of all its layers) may be NULL: keep them.
int simulator_resize(simulator_t *sim, int32_t slot, int32_t cores, const uint8_t *versions, double now_s) {
    block_t *block = &sim->blocks[slot];
    int64_t next = sim->ended[slot] + 1;
    const uint8_t *wanted = versions ? versions : block->next_versions;
    int64_t first = block->first + next, last = block->first + block->layers;
    if (next < block->layers && !profiled(&sim->settings, block->model, first, last, wanted + next, cores))
        return NOT_PROFILED;
    if (versions) memcpy(block->next_versions, versions, block->layers);
    block->next_cores = cores;
    block->next_due_s = after_decision(sim, now_s) + sim->settings.grant_s;
    return OK;
}

// Let a running block end at its first layer end once it knows.
void simulator_yield(simulator_t *sim, int32_t slot, double now_s) {
    sim->blocks[slot].yield_due_s = after_decision(sim, now_s) + sim->settings.grant_s;
}

static double seconds_at(const settings_t *of, const double *row, double pressure) {
    int64_t below = of->level_count - 1;
    while (below > 0 && of->levels[below] > pressure)
        below--;
    return row[below] + (pressure - of->levels[below]) * row[of->level_count + below];
}

// Return the seconds of a layer by its table, at a pressure, where blocks share cores as they do.
static double timed(const simulator_t *sim, const double *row, double pressure, double least_s) {
    double seconds = seconds_at(&sim->settings, row, pressure) * sim->stretch;
    return seconds > least_s ? seconds : least_s;
}

// Apply the new conditions (pressure, or seconds by the cost model) to all layers: what is left of a layer whose
// condition changed is stretched by the ratio of its new time to its old one.
static void meet(simulator_t *sim) {
    const double *restrict noise = sim->numbers[NOISE], *restrict begin_s = sim->numbers[BEGIN_S];
    const double *restrict met = sim->numbers[MET], *restrict next_s = sim->numbers[NEXT_S];
    double *restrict end_s = sim->numbers[END_S], *restrict seconds = sim->numbers[SECONDS];
    double *restrict condition = sim->numbers[CONDITION], now_s = sim->now_s;
    bool changed = sim->stretch_changed;
    for (int64_t index = 0; index < sim->state.running; index++) {
        double from_s = begin_s[index] > now_s ? begin_s[index] : now_s;
        double begun = begin_s[index] + next_s[index] * noise[index];
        double stretched = from_s + (end_s[index] - from_s) * (next_s[index] / seconds[index]);
        double end = condition[index] == NO_CONDITION ? begun : stretched;
        bool same = met[index] == condition[index] && !changed;
        end_s[index] = same ? end_s[index] : end;
        seconds[index] = same ? seconds[index] : next_s[index];
        condition[index] = met[index];
    }
}

// Return the footprint of the other blocks over the L3 that a pinned block's cores share with them.
static double met_l3(const simulator_t *sim, const share_t *groups, int64_t count, double own) {
    double met = 0.0;
    for (int64_t index = 0; index < count; index++)
        met += groups[index].part * (sim->density[groups[index].id] - own * groups[index].part);
    return met * (double)sim->settings.groups;
}

static void sum_density(simulator_t *sim) {
    memset(sim->density, 0, sim->settings.groups * sizeof *sim->density);
    for (int64_t index = 0; index < sim->state.running; index++) {
        const block_t *block = &sim->blocks[sim->lanes[index].slot];
        for (int64_t at = 0; at < block->group_count; at++)
            sim->density[block->groups[at].id] += sim->numbers[L3][index] * block->groups[at].part;
    }
}

static double sum(const double *values, int64_t count) {
    double total = 0.0;
    for (int64_t index = 0; index < count; index++)
        total += values[index];
    return total;
}

static double stretch_of(const simulator_t *sim) { return sim->settings.stretches[sim->busy_cores]; }

static void retime_by_table(simulator_t *sim) {
    int64_t running = sim->state.running;
    const double *restrict drams = sim->numbers[DRAM], *restrict l3s = sim->numbers[L3];
    double *restrict met = sim->numbers[MET], *restrict next_s = sim->numbers[NEXT_S];
    double dram = 0.0, l3 = 0.0, stretch = stretch_of(sim);
    sim->stretch_changed = stretch != sim->stretch;
    sim->stretch = stretch;
    for (int64_t index = 0; index < running; index++) {  // one loop: neither sum waits for the other
        dram += drams[index];
        l3 += l3s[index];
    }
    if (sim->settings.pinned) sum_density(sim);
    for (int64_t index = 0; index < running; index++) {
        double by_dram = dram - drams[index], by_l3 = l3 - l3s[index];
        by_dram = stretch == 1.0 ? by_dram : by_dram / stretch;
        if (sim->settings.pinned) {
            const block_t *block = &sim->blocks[sim->lanes[index].slot];
            by_l3 = met_l3(sim, block->groups, block->group_count, l3s[index]);
        }
        double worse = by_dram > by_l3 ? by_dram : by_l3;
        met[index] = worse < 1.0 ? worse : 1.0;
    }
    const double *restrict condition = sim->numbers[CONDITION], *restrict seconds = sim->numbers[SECONDS];
    const double *restrict least_s = sim->numbers[LEAST_S];
    for (int64_t index = 0; index < running; index++) {
        bool same = met[index] == condition[index] && !sim->stretch_changed;
        next_s[index] = same ? seconds[index] : timed(sim, sim->lanes[index].row, met[index], least_s[index]);
    }
}

// The index of the first of some sizes that is larger than a cache.
static int size_index(const double *sizes, int count, double cache_bytes) {
    int index = 0;
    while (index < count && sizes[index] <= cache_bytes)
        index++;
    return index;
}

// Return one kind of amounts at a cache size, given size_index() of it: amounts of `kinds` kinds lie side by side.
static double between(const double *sizes, int count, const double *amounts, int kinds, int index, double cache_bytes) {
    if (index == 0 || index == count) return amounts[kinds * (index > 0 ? index - 1 : 0)];
    double low = sizes[index - 1], high = sizes[index], before = amounts[kinds * (index - 1)];
    return before + (cache_bytes - low) / (high - low) * (amounts[kinds * index] - before);
}

static double interpolated(const settings_t *of, const double *fetched, double cache_bytes) {
    int index = size_index(of->cache_bytes, CACHE_SIZES, cache_bytes);
    return between(of->cache_bytes, CACHE_SIZES, fetched, 1, index, cache_bytes);
}

static double of_blocks(const cost_model_t *cost_model, double at_work, double cache_bytes) {
    double refetch = sqrt(cost_model->blocking_bytes * at_work / cache_bytes);
    double fetched = cost_model->parallelism * cost_model->blocking_bytes * (refetch > 1.0 ? refetch : 1.0);
    return fetched > cost_model->compulsory_bytes ? fetched : cost_model->compulsory_bytes;
}

// Into how many caches of one core those of some groups part, for the iterations at work: these share what all touch.
static double equal_parts(const cost_model_t *cost_model, double at_work, double groups) {
    return groups + (at_work - groups) * cost_model->private_share;
}

static double traffic_bytes(const settings_t *of, const cost_model_t *cost_model, double cores, double l3_bytes,
                            double groups) {
    double least = cost_model->compulsory_bytes, parallelism = cost_model->parallelism, modelled;
    double at_work = cores < parallelism ? cores : parallelism;
    bool fits = least <= l3_bytes;
    if (!isnan(cost_model->fetched_bytes[0])) {
        double parts = equal_parts(cost_model, at_work, groups < at_work ? groups : at_work);
        modelled = interpolated(of, cost_model->fetched_bytes, fits ? l3_bytes : l3_bytes / parts);
    } else
        modelled = fits ? least : of_blocks(cost_model, at_work, l3_bytes);
    return cost_model->steepness == 1.0 || least == 0.0 ? modelled
                                                        : least * pow(modelled / least, cost_model->steepness);
}

// What a layer moves between DRAM and the L3 of its cores, which are spread over so many private caches.
static double dram_bytes(const settings_t *of, const cost_model_t *cost_model, double cores, double l3_bytes,
                         double groups, double warm) {
    double alone = traffic_bytes(of, cost_model, cores, l3_bytes, groups);
    const double *resident = cost_model->resident_bytes, *sizes = of->resident_cache_bytes;
    if (isnan(resident[0])) return alone;
    double copies = groups < cost_model->copies ? groups : cost_model->copies;
    double own_bytes = l3_bytes / sqrt(copies), old_bytes = l3_bytes / copies;
    int own = size_index(sizes, RESIDENT_SIZES, own_bytes), old = size_index(sizes, RESIDENT_SIZES, old_bytes);
    double within = between(sizes, RESIDENT_SIZES, resident, 3, own, own_bytes);
    double older = between(sizes, RESIDENT_SIZES, resident + 1, 3, old, old_bytes);
    double written = between(sizes, RESIDENT_SIZES, resident + 2, 3, own, own_bytes);
    double filled = alone - within - warm * older;
    return (filled > 0.0 ? filled : 0.0) + written;
}

static double combined(double compute_s, double memory_s, double exponent) {
    double longer = compute_s >= memory_s ? compute_s : memory_s;
    double shorter = compute_s >= memory_s ? memory_s : compute_s;
    if (isinf(exponent) || shorter == 0.0) return longer;
    return longer * pow(1.0 + pow(shorter / longer, exponent), 1.0 / exponent);
}

static double predicted_seconds(const simulator_t *sim, const cost_model_t *cost_model, int32_t cores, double moved,
                                double limit) {
    double rounds = ceil(cost_model->parallelism / cores) / cost_model->parallelism;
    int64_t active = sim->busy_cores < sim->settings.cores ? sim->busy_cores : sim->settings.cores;
    double compute_s = cost_model->compute_s * rounds / sim->settings.clocks[active];
    double fork_s = cost_model->parallelism > 1.0 && cores > 1 ? sim->settings.fork_s : 0.0;
    return combined(compute_s, moved / limit, sim->settings.combine) + fork_s;
}

static double spread_l3_bytes(const settings_t *of, int64_t cores, int64_t busy_cores) {
    double share = of->total_l3_bytes / (double)busy_cores;
    return (double)cores * (share < of->l3_bytes ? share : of->l3_bytes);
}

static double pinned_l3_bytes(const simulator_t *sim, const block_t *block) {
    double l3_bytes = 0.0;
    for (int64_t index = 0; index < block->group_count; index++)
        l3_bytes += sim->settings.l3_bytes * ((double)block->groups[index].count / sim->busy[block->groups[index].id]);
    return l3_bytes;
}

// Set a layer's traffic, its time at full bandwidth and its bandwidth demand under the current L3 shares and clock.
static void offer(simulator_t *sim, int64_t index) {
    const settings_t *of = &sim->settings;
    const cost_model_t *cost_model = sim->lanes[index].cost_model;
    const block_t *block = &sim->blocks[sim->lanes[index].slot];
    int32_t cores = block->cores;
    double l3_bytes = of->pinned ? pinned_l3_bytes(sim, block) : spread_l3_bytes(of, cores, sim->busy_cores);
    double groups = of->pinned ? (double)block->group_count : spread_groups(of, cores);
    double warm = sim->numbers[WARM][index];
    double moved = dram_bytes(of, cost_model, cores, l3_bytes, groups, warm);
    double stretch = stretch_of(sim);
    double full_s = predicted_seconds(sim, cost_model, cores, moved, block->limit) * stretch;
    sim->numbers[MOVED][index] = moved;
    sim->numbers[FULL_S][index] = full_s;
    sim->numbers[DEMAND][index] = moved / full_s;
    sim->lanes[index].fresh = false;
    if (of->scale == 1.0) return;
    double alone_bytes = of->pinned ? of->l3_bytes * (double)block->group_count : spread_l3_bytes(of, cores, cores);
    double alone_moved = dram_bytes(of, cost_model, cores, alone_bytes, groups, warm);
    sim->numbers[ALONE_S][index] = predicted_seconds(sim, cost_model, cores, alone_moved, block->limit) * stretch;
}

static void add_uses(const block_t *block, double *to, double amount) {
    for (int64_t at = 0; at < block->use_count; at++)
        to[block->uses[at].id] += amount * block->uses[at].part;
}

static const block_t *block_at(const simulator_t *sim, int64_t index) { return &sim->blocks[sim->lanes[index].slot]; }

// Progressive filling: return the level to which all unsatisfied layers can rise; *full is the resource full there.
static double find_level(simulator_t *sim, int64_t count, int64_t *full) {
    memset(sim->weights, 0, sim->settings.resources * sizeof *sim->weights);
    for (int64_t at = 0; at < count; at++)
        add_uses(block_at(sim, sim->rising[at]), sim->weights, 1.0);
    double level = INFINITY;
    *full = 0;
    for (int64_t resource = 0; resource < sim->settings.resources; resource++) {
        double room = (sim->settings.capacities[resource] - sim->taken[resource]) / sim->weights[resource];
        if (sim->weights[resource] > 0.0 && room < level) {
            level = room;
            *full = resource;
        }
    }
    return level;
}

static bool draws_through(const block_t *block, int64_t resource) {
    for (int64_t at = 0; at < block->use_count; at++)
        if (block->uses[at].id == resource) return true;
    return false;
}

// Fix the grants of layers that demand at most level, or if there are none of those that use the full resource.
static int64_t fix_some(simulator_t *sim, int64_t count, double level, int64_t full) {
    bool content = false;
    for (int64_t at = 0; at < count; at++)
        content |= sim->numbers[DEMAND][sim->rising[at]] <= level;
    int64_t left = 0;
    for (int64_t at = 0; at < count; at++) {
        int64_t index = sim->rising[at];
        const block_t *block = block_at(sim, index);
        if (content ? sim->numbers[DEMAND][index] <= level : draws_through(block, full)) {
            if (!content) sim->numbers[GRANTED][index] = level;
            add_uses(block, sim->taken, sim->numbers[GRANTED][index]);
        } else {
            sim->rising[left++] = index;
        }
    }
    return left;
}

// Share memory bandwidth max-min fair, by progressive filling.
static void grant_all(simulator_t *sim) {
    int64_t count = sim->state.running, resources = sim->settings.resources;
    memset(sim->wanted, 0, resources * sizeof *sim->wanted);
    for (int64_t index = 0; index < count; index++) {
        sim->numbers[GRANTED][index] = sim->numbers[DEMAND][index];
        add_uses(block_at(sim, index), sim->wanted, sim->numbers[DEMAND][index]);
    }
    bool enough = true;
    for (int64_t resource = 0; resource < resources; resource++)
        enough &= sim->wanted[resource] <= sim->settings.capacities[resource];
    if (enough) return;
    memset(sim->taken, 0, resources * sizeof *sim->taken);
    for (int64_t index = 0; index < count; index++)
        sim->rising[index] = index;
    double level = 0.0;
    while (count) {
        int64_t full;
        double room = find_level(sim, count, &full);
        level = room > level ? room : level;
        count = fix_some(sim, count, level, full);
    }
}

// Fast path of grant_all() for machines with one bandwidth: no weights, the same numbers.
static void grant_one(simulator_t *sim) {
    int64_t count = sim->state.running, *restrict rising = sim->rising;
    const double *restrict demand = sim->numbers[DEMAND];
    double *restrict granted = sim->numbers[GRANTED];
    double taken = 0.0, level = 0.0, capacity = sim->settings.capacities[0];
    memcpy(granted, demand, count * sizeof *granted);
    if (sum(demand, count) <= capacity) return;
    for (int64_t index = 0; index < count; index++)
        rising[index] = index;
    while (count) {
        double room = (capacity - taken) / (double)count;
        level = room > level ? room : level;
        int64_t left = 0;
        for (int64_t at = 0; at < count; at++) {
            int64_t index = rising[at];
            bool content = demand[index] <= level;
            taken += content ? demand[index] : 0.0;
            rising[left] = index;
            left += !content;
        }
        if (left == count) break;
        count = left;
    }
    for (int64_t at = 0; at < count; at++)
        granted[rising[at]] = level;
}

static void retime_by_cost_model(simulator_t *sim) {
    int64_t running = sim->state.running;
    bool all = sim->busy_cores != sim->offered_cores || sim->pins_changed;
    for (int64_t index = 0; index < running; index++)
        if (all || sim->lanes[index].fresh) offer(sim, index);
    sim->offered_cores = sim->busy_cores;
    if (sim->settings.resources == 1)
        grant_one(sim);
    else
        grant_all(sim);
    const double *restrict granted = sim->numbers[GRANTED], *restrict demand = sim->numbers[DEMAND];
    const double *restrict full_s = sim->numbers[FULL_S], *restrict moved = sim->numbers[MOVED];
    const double *restrict alone_s = sim->numbers[ALONE_S];
    double *restrict next_s = sim->numbers[NEXT_S], scale = sim->settings.scale;
    for (int64_t index = 0; index < running; index++) {
        double slowed_s = moved[index] / granted[index];
        next_s[index] = granted[index] >= demand[index] ? full_s[index] : slowed_s;
    }
    if (scale != 1.0)
        for (int64_t index = 0; index < running; index++)
            next_s[index] = alone_s[index] + scale * (next_s[index] - alone_s[index]);
    memcpy(sim->numbers[MET], next_s, running * sizeof *next_s);
}

static double least(const double *values, int64_t count) {
    double least[4] = {INFINITY, INFINITY, INFINITY, INFINITY};  // four chains do not wait for each other
    for (int64_t index = 0; index < count; index++)
        least[index % 4] = values[index] < least[index % 4] ? values[index] : least[index % 4];
    double even = least[0] < least[2] ? least[0] : least[2], odd = least[1] < least[3] ? least[1] : least[3];
    return even < odd ? even : odd;
}

static void find_next_end(simulator_t *sim) {
    const double *end_s = sim->numbers[END_S];
    sim->next_end_s = least(end_s, sim->state.running);
    sim->next_index = 0;
    while (sim->next_index < sim->state.running && end_s[sim->next_index] != sim->next_end_s)
        sim->next_index++;
}

// Whatever the others do, a block that is ending ends when it does.
static void keep_ends(simulator_t *sim) {
    for (int64_t index = 0; index < sim->state.running; index++)
        if (block_at(sim, index)->is_ending) sim->numbers[END_S][index] = block_at(sim, index)->ends_s;
}

static void retime(simulator_t *sim) {
    if (sim->settings.by_cost_model)
        retime_by_cost_model(sim);
    else
        retime_by_table(sim);
    meet(sim);
    if (sim->ending) keep_ends(sim);
    find_next_end(sim);
    sim->stale = sim->pins_changed = sim->stretch_changed = false;
}

// Fast path of retime(): one layer changed and its DRAM and L3 demand equal its predecessor's, so no other layer's
// pressure changes.
static void retime_one(simulator_t *sim, int64_t index) {
    double **numbers = sim->numbers, met = numbers[MET][index];
    double seconds = timed(sim, sim->lanes[index].row, met, numbers[LEAST_S][index]);
    numbers[END_S][index] = numbers[BEGIN_S][index] + seconds * numbers[NOISE][index];
    numbers[SECONDS][index] = seconds;
    numbers[CONDITION][index] = met;
    find_next_end(sim);
    sim->stale = false;
}

static event_kind_t end_block(simulator_t *sim, int64_t index, block_t *block) {
    sim->state.event.next_layer = block->first + sim->ended[sim->state.event.slot];
    sim->busy_cores -= block->cores;
    sim->ending -= block->is_ending;
    count_group_cores(sim, block, -1);
    block->group_count = 0;
    sim->state.running--;
    size_t after = sim->state.running - index;
    memmove(&sim->lanes[index], &sim->lanes[index + 1], after * sizeof *sim->lanes);
    for (size_t number = 0; number < NUMBERS; number++) {
        double *values = sim->numbers[number];
        memmove(&values[index], &values[index + 1], after * sizeof *values);
    }
    sim->pins_changed = sim->settings.pinned;
    return BLOCK_END;
}

static event_kind_t yield(simulator_t *sim, int64_t index, block_t *block) {
    if (sim->settings.yield_cost_s == 0.0) return end_block(sim, index, block);
    block->is_ending = true;
    sim->ending++;
    sim->numbers[END_S][index] = block->ends_s = sim->now_s + sim->settings.yield_cost_s;
    return NOTHING;
}

static event_kind_t adopt(simulator_t *sim, int64_t index, block_t *block) {
    sim->state.event.cores = block->next_cores;
    double cost_s = block->next_cores != block->cores ? sim->settings.resize_cost_s : 0.0;
    if (block->next_cores > block->cores) cost_s += sim->settings.join_cost_s;
    sim->busy_cores += block->next_cores - block->cores;
    memcpy(block->versions, block->next_versions, block->layers);
    block->cores = block->next_cores;
    block->next_cores = 0;
    block->limit = spread_limit(&sim->settings, block);
    enter_layer(sim, index, sim->now_s + cost_s);
    return RESIZED;
}

static event_kind_t end_layer(simulator_t *sim) {
    int32_t slot = sim->lanes[sim->next_index].slot;
    block_t *block = &sim->blocks[slot];
    sim->now_s = sim->next_end_s;
    sim->stale = true;
    sim->state.event.time_s = sim->now_s;
    sim->state.event.slot = slot;
    if (block->is_ending) return end_block(sim, sim->next_index, block);
    sim->state.events++;
    if (sim->settings.by_cost_model) sim->moved_bytes += sim->numbers[MOVED][sim->next_index];
    if (++sim->ended[slot] == block->layers) return end_block(sim, sim->next_index, block);
    if (block->yield_due_s <= sim->now_s) return yield(sim, sim->next_index, block);
    if (block->next_cores && block->next_due_s <= sim->now_s) return adopt(sim, sim->next_index, block);
    int64_t index = sim->next_index;
    double dram = sim->numbers[DRAM][index], l3 = sim->numbers[L3][index];
    enter_layer(sim, index, sim->now_s);
    if (!sim->settings.by_cost_model && sim->numbers[DRAM][index] == dram && sim->numbers[L3][index] == l3)
        retime_one(sim, index);
    return NOTHING;
}

static event_kind_t advance(simulator_t *sim, double limit_s) {
    for (;;) {
        if (sim->stale) retime(sim);
        if (!(sim->next_end_s <= limit_s) || !sim->state.running) return NOTHING;
        event_kind_t kind = end_layer(sim);
        if (kind != NOTHING) {
            sim->state.event.kind = kind;
            return kind;
        }
    }
}

// Let layers end up to limit_s, and return at the first event that leaves the simulator, which is in the state then.
// Either way a decision follows: about that event, or about what is due at limit_s. Decisions wait for one another.
event_kind_t simulator_advance(simulator_t *sim, double limit_s) {
    event_kind_t kind = advance(sim, limit_s);
    double event_s = kind == NOTHING ? limit_s : sim->now_s;
    if (event_s < INFINITY) sim->decided_s = after_decision(sim, event_s) + sim->settings.decision_s;
    return kind;
}

// Return the pressure that a block started now would meet; pinned, it would be on all cores that are free.
double simulator_pressure(simulator_t *sim) {
    const settings_t *of = &sim->settings;
    double dram = sum(sim->numbers[DRAM], sim->state.running) / stretch_of(sim);
    double l3 = sum(sim->numbers[L3], sim->state.running);
    if (of->pinned) {
        sum_density(sim);
        int64_t free_cores = of->cores - sim->busy_cores;
        l3 = 0.0;
        for (int64_t group = 0; group < of->groups; group++) {
            int64_t idle = of->cores_per_group - sim->busy[group];
            if (idle) l3 += (double)idle / (double)free_cores * sim->density[group];
        }
        l3 *= (double)of->groups;
    }
    double worse = l3 > dram ? l3 : dram;
    return worse < 1.0 ? worse : 1.0;
}

// End all blocks at once.
void simulator_clear(simulator_t *sim) {
    for (int64_t index = 0; index < sim->state.running; index++) {
        block_t *block = &sim->blocks[sim->lanes[index].slot];
        count_group_cores(sim, block, -1);
        block->group_count = 0;
    }
    sim->state.running = sim->busy_cores = sim->ending = 0;
    sim->stale = true;
}
