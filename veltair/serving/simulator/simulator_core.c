// The simulator's inner loop: layers end, and running layers are re-timed whenever a neighbour changes.
//
// It does what python_core.py does with contention.py, law.py and sharing.py, the same operations on doubles in the
// same order, so that both give the same events to the last bit (compiled without contraction of products and
// sums). Python owns all tables; only block ends and adopted resizes leave advance().

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simulator_core.h"

// FETCHED: what one core fetches into each of CACHE_BYTES, or NANs.
enum { COMPUTE_S, PARALLELISM, BLOCKING, COMPULSORY, STEEPNESS, FETCHED, LAW_FIELDS = FETCHED + 8 };

// As veltair/compiler/footprint/traffic.py has them.
static const double CACHE_BYTES[LAW_FIELDS - FETCHED] = {0x1p15, 0x1p18, 0x1p19, 0x1p20,
                                                         0x1p21, 0x1p22, 0x1p24, 0x1p25};

static const int64_t NOISE_AHEAD = 6;  // layers

static const double NOT_MET = -1.0;  // below every pressure and time: a layer that has just begun has met none yet

// rows: for each layer, version and core count the seconds and slopes of all levels, then the shares of DRAM and L3.
// laws: for each layer and version LAW_FIELDS, or NULL.
typedef struct {
    const double *rows, *laws, *noise;
    int64_t layers, versions;
    double start_cost_s;
} model_t;

typedef struct {
    const model_t *models;
    const double *levels, *clocks, *limits, *capacities;  // clocks and limits by number of cores
    const int32_t *count_places;                          // by number of cores; -1 if not profiled
    int64_t level_count, count_count, cores, group_cores, groups, resources, most_layers;
    double l3_bytes, total_l3_bytes, fork_s, combine, scale;
    double resize_cost_s, join_cost_s;
    int32_t by_law, seated;
} settings_t;

typedef struct {
    int32_t id, count;
    double part;
} share_t;

// A running block, by slot.
typedef struct {
    const model_t *model;
    const uint32_t *noise;  // of its first layer
    uint8_t *versions, *next_versions;
    share_t *seat, *uses;
    int64_t first, layers, seat_count, use_count;
    double limit, next_due_s;
    int32_t cores, next_cores;  // next_cores 0: no resize is under way
} block_t;

// Its current layer, by place: oldest block first.
typedef struct {
    const double *row, *law;
    int32_t slot, fresh;
} lane_t;

// The numbers of current layers, by place, each an array of its own so that loops over all layers vectorise. met and
// next_s are what a layer meets from now on and its seconds then; the second line is the law's.
enum { DRAM, L3, NOISE, BEGIN_S, END_S, CONDITION, SECONDS, MET, NEXT_S };
enum { FULL_S = NEXT_S + 1, ALONE_S, MOVED, DEMAND, GRANTED, NUMBERS };

struct simulator {
    settings_t settings;
    state_t state;
    double now_s, next_end_s;
    int64_t next_place, busy_cores, offered_cores;  // offered_cores: how many were busy when layers last made offers
    bool stale, seats_changed;
    block_t *blocks;
    lane_t *lanes;
    double *numbers[NUMBERS], *all_numbers;
    int32_t *ended;        // layers that have ended, by slot
    int32_t *busy;         // cores at work, by group
    double *density, *wanted, *taken, *weights;
    int64_t *rising;
    uint8_t *versions;
    share_t *shares;
};

void simulator_free(simulator_t *sim) {
    if (!sim) return;
    void *parts[] = {sim->blocks, sim->lanes,   sim->all_numbers, sim->ended,    sim->busy,   sim->density, sim->wanted,
                     sim->taken,  sim->weights, sim->rising,      sim->versions, sim->shares, sim};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++)
        free(parts[part]);
}

// Return a simulator for at most settings->cores blocks at once, or NULL without memory.
simulator_t *simulator_new(const settings_t *settings) {
    simulator_t *sim = calloc(1, sizeof *sim);
    if (!sim) return NULL;
    size_t slots = settings->cores, groups = settings->groups, resources = settings->resources;
    size_t seats = settings->seated ? groups : 0, room = seats + resources;
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
    if (!sim->blocks || !sim->lanes || !sim->all_numbers || !sim->ended || !sim->busy || !sim->density ||
        !sim->wanted || !sim->taken || !sim->weights || !sim->rising || !sim->versions || !sim->shares) {
        simulator_free(sim);
        return NULL;
    }
    for (size_t number = 0; number < NUMBERS; number++)
        sim->numbers[number] = sim->all_numbers + number * slots;
    for (size_t slot = 0; slot < slots; slot++) {
        block_t *block = &sim->blocks[slot];
        block->versions = sim->versions + 2 * slot * settings->most_layers;
        block->next_versions = block->versions + settings->most_layers;
        block->seat = sim->shares + slot * room;
        block->uses = block->seat + seats;
        block->uses[0] = (share_t){0, 0, 1.0};
        block->use_count = 1;
    }
    sim->next_end_s = INFINITY;
    return sim;
}

state_t *simulator_state(simulator_t *sim) { return &sim->state; }

int32_t *simulator_ended(simulator_t *sim) { return sim->ended; }

static const double *row_of(const settings_t *of, const model_t *model, int64_t layer, int64_t version, int64_t place) {
    int64_t cell = (layer * model->versions + version) * of->count_count + place;
    return model->rows + cell * (2 * of->level_count + 2);
}

// Return whether layers [first, last) have these versions on so many cores.
static bool profiled(const settings_t *of, const model_t *model, int64_t first, int64_t last, const uint8_t *versions,
                     int32_t cores) {
    int32_t place = cores >= 1 && cores <= of->cores ? of->count_places[cores] : -1;
    if (place < 0 || last > model->layers) return false;
    for (int64_t layer = first; layer < last; layer++) {
        int64_t version = versions[layer - first];
        if (version >= model->versions || isinf(row_of(of, model, layer, version, place)[0])) return false;
    }
    return true;
}

// Fetch what a block's next layer will need, and noise for later ones, which lies scattered: tables and noise are
// larger than a core's caches.
static void prefetch_layer(const settings_t *of, const block_t *block, int64_t ended) {
    if (ended >= block->layers) return;
    const model_t *model = block->model;
    int64_t layer = block->first + ended, version = block->versions[ended];
    const char *row = (const char *)row_of(of, model, layer, version, of->count_places[block->cores]);
    __builtin_prefetch(row);
    __builtin_prefetch(row + 64);
    if (ended + NOISE_AHEAD < block->layers) __builtin_prefetch(model->noise + block->noise[ended + NOISE_AHEAD]);
    if (model->laws)
        for (size_t byte = 0; byte < LAW_FIELDS * sizeof(double); byte += 64)
            __builtin_prefetch((const char *)(model->laws + (layer * model->versions + version) * LAW_FIELDS) + byte);
}

// Let the block at a place begin its next layer at begin_s.
static void enter_layer(simulator_t *sim, int64_t place, double begin_s) {
    const settings_t *of = &sim->settings;
    lane_t *lane = &sim->lanes[place];
    const block_t *block = &sim->blocks[lane->slot];
    int64_t ended = sim->ended[lane->slot], layer = block->first + ended, version = block->versions[ended];
    int64_t cell = layer * block->model->versions + version;
    lane->row = row_of(of, block->model, layer, version, of->count_places[block->cores]);
    lane->law = block->model->laws ? block->model->laws + cell * LAW_FIELDS : NULL;
    lane->fresh = true;
    sim->numbers[DRAM][place] = lane->row[2 * of->level_count];
    sim->numbers[L3][place] = lane->row[2 * of->level_count + 1];
    sim->numbers[NOISE][place] = block->model->noise[block->noise[ended]];
    sim->numbers[BEGIN_S][place] = begin_s;
    sim->numbers[CONDITION][place] = NOT_MET;
    prefetch_layer(of, block, ended + 1);
}

static void count_seat(simulator_t *sim, const block_t *block, int32_t sign) {
    for (int64_t place = 0; place < block->seat_count; place++)
        sim->busy[block->seat[place].id] += sign * block->seat[place].count;
}

// Seat a block: groups[i] with counts[i] cores; it draws parts[i] of its bytes through resources[i], at most limit.
void simulator_seat(simulator_t *sim, int32_t slot, int32_t group_count, const int32_t *groups, const int32_t *counts,
                    int32_t use_count, const int32_t *resources, const double *parts, double limit) {
    block_t *block = &sim->blocks[slot];
    count_seat(sim, block, -1);
    int32_t cores = 0;
    for (int32_t place = 0; place < group_count; place++)
        cores += counts[place];
    for (int32_t place = 0; place < group_count; place++)
        block->seat[place] = (share_t){groups[place], counts[place], (double)counts[place] / cores};
    block->seat_count = group_count;
    count_seat(sim, block, 1);
    for (int32_t place = 0; place < use_count; place++)
        block->uses[place] = (share_t){resources[place], 0, parts[place]};
    block->use_count = use_count;
    block->limit = limit;
    sim->stale = sim->seats_changed = true;
}

// Start a block of layers [first, last) in a free slot. noise holds an index into the model's noise for each layer.
int simulator_start(simulator_t *sim, int32_t slot, int32_t model_place, int32_t first, int32_t last, int32_t cores,
                    const uint8_t *versions, const char *noise, double now_s) {
    const settings_t *of = &sim->settings;
    const model_t *model = &of->models[model_place];
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
    block->limit = of->limits[cores];
    for (int64_t layer = 0; layer < NOISE_AHEAD && layer < block->layers; layer++)
        __builtin_prefetch(model->noise + block->noise[layer]);
    sim->ended[slot] = 0;
    int64_t place = sim->state.running++;
    sim->lanes[place].slot = slot;
    sim->numbers[END_S][place] = INFINITY;
    enter_layer(sim, place, now_s + model->start_cost_s);
    sim->now_s = now_s;
    sim->busy_cores += cores;
    sim->stale = true;
    return OK;
}

// Change a running block at its first layer end from due_s on. versions (of all its layers) may be NULL: keep them.
int simulator_resize(simulator_t *sim, int32_t slot, int32_t cores, const uint8_t *versions, double due_s) {
    block_t *block = &sim->blocks[slot];
    int64_t next = sim->ended[slot] + 1;
    const uint8_t *wanted = versions ? versions : block->next_versions;
    int64_t first = block->first + next, last = block->first + block->layers;
    if (next < block->layers && !profiled(&sim->settings, block->model, first, last, wanted + next, cores))
        return NOT_PROFILED;
    if (versions) memcpy(block->next_versions, versions, block->layers);
    block->next_cores = cores;
    block->next_due_s = due_s;
    return OK;
}

static double seconds_at(const settings_t *of, const double *row, double pressure) {
    int64_t below = of->level_count - 1;
    while (below > 0 && of->levels[below] > pressure)
        below--;
    return row[below] + (pressure - of->levels[below]) * row[of->level_count + below];
}

// Let all layers meet their conditions from now on: those that met others before are stretched.
static void meet(simulator_t *sim) {
    const double *restrict noise = sim->numbers[NOISE], *restrict begin_s = sim->numbers[BEGIN_S];
    const double *restrict met = sim->numbers[MET], *restrict next_s = sim->numbers[NEXT_S];
    double *restrict end_s = sim->numbers[END_S], *restrict seconds = sim->numbers[SECONDS];
    double *restrict condition = sim->numbers[CONDITION], now_s = sim->now_s;
    for (int64_t place = 0; place < sim->state.running; place++) {
        double from_s = begin_s[place] > now_s ? begin_s[place] : now_s;
        double begun = begin_s[place] + next_s[place] * noise[place];
        double stretched = from_s + (end_s[place] - from_s) * (next_s[place] / seconds[place]);
        double end = condition[place] == NOT_MET ? begun : stretched;
        bool same = met[place] == condition[place];
        end_s[place] = same ? end_s[place] : end;
        seconds[place] = same ? seconds[place] : next_s[place];
        condition[place] = met[place];
    }
}

// Return the others' footprint over the L3 that a seat shares with them.
static double met_l3(const simulator_t *sim, const share_t *seat, int64_t count, double own) {
    double met = 0.0;
    for (int64_t place = 0; place < count; place++)
        met += seat[place].part * (sim->density[seat[place].id] - own * seat[place].part);
    return met * (double)sim->settings.groups;
}

static void sum_density(simulator_t *sim) {
    memset(sim->density, 0, sim->settings.groups * sizeof *sim->density);
    for (int64_t place = 0; place < sim->state.running; place++) {
        const block_t *block = &sim->blocks[sim->lanes[place].slot];
        for (int64_t at = 0; at < block->seat_count; at++)
            sim->density[block->seat[at].id] += sim->numbers[L3][place] * block->seat[at].part;
    }
}

static double sum(const double *values, int64_t count) {
    double total = 0.0;
    for (int64_t place = 0; place < count; place++)
        total += values[place];
    return total;
}

static void retime_by_table(simulator_t *sim) {
    int64_t running = sim->state.running;
    const double *restrict drams = sim->numbers[DRAM], *restrict l3s = sim->numbers[L3];
    double *restrict met = sim->numbers[MET], *restrict next_s = sim->numbers[NEXT_S];
    double dram = 0.0, l3 = 0.0;
    for (int64_t place = 0; place < running; place++) {  // one loop: neither sum waits for the other
        dram += drams[place];
        l3 += l3s[place];
    }
    if (sim->settings.seated) sum_density(sim);
    for (int64_t place = 0; place < running; place++) {
        double by_dram = dram - drams[place], by_l3 = l3 - l3s[place];
        if (sim->settings.seated) {
            const block_t *block = &sim->blocks[sim->lanes[place].slot];
            by_l3 = met_l3(sim, block->seat, block->seat_count, l3s[place]);
        }
        double worse = by_dram > by_l3 ? by_dram : by_l3;
        met[place] = worse < 1.0 ? worse : 1.0;
    }
    const double *restrict condition = sim->numbers[CONDITION], *restrict seconds = sim->numbers[SECONDS];
    for (int64_t place = 0; place < running; place++)
        next_s[place] = met[place] == condition[place] ? seconds[place]
                                                       : seconds_at(&sim->settings, sim->lanes[place].row, met[place]);
}

static double interpolated(const double *fetched, double cache_bytes) {
    int place = 0;
    while (place < LAW_FIELDS - FETCHED && CACHE_BYTES[place] <= cache_bytes)
        place++;
    if (place == 0 || place == LAW_FIELDS - FETCHED) return fetched[place > 0 ? place - 1 : 0];
    double low = CACHE_BYTES[place - 1], high = CACHE_BYTES[place];
    return fetched[place - 1] + (cache_bytes - low) / (high - low) * (fetched[place] - fetched[place - 1]);
}

static double of_blocks(const double *law, double at_work, double cache_bytes) {
    double refetch = sqrt(law[BLOCKING] * at_work / cache_bytes);
    double fetched = law[PARALLELISM] * law[BLOCKING] * (refetch > 1.0 ? refetch : 1.0);
    return fetched > law[COMPULSORY] ? fetched : law[COMPULSORY];
}

static double traffic_bytes(const double *law, double cores, double l3_bytes) {
    double least = law[COMPULSORY], at_work = cores < law[PARALLELISM] ? cores : law[PARALLELISM], modelled;
    bool fits = least <= l3_bytes;
    if (!isnan(law[FETCHED]))
        modelled = interpolated(law + FETCHED, fits ? l3_bytes : l3_bytes / at_work);
    else
        modelled = fits ? least : of_blocks(law, at_work, l3_bytes);
    return law[STEEPNESS] == 1.0 || least == 0.0 ? modelled : least * pow(modelled / least, law[STEEPNESS]);
}

static double combined(double compute_s, double memory_s, double exponent) {
    double longer = compute_s >= memory_s ? compute_s : memory_s;
    double shorter = compute_s >= memory_s ? memory_s : compute_s;
    if (isinf(exponent) || shorter == 0.0) return longer;
    return longer * pow(1.0 + pow(shorter / longer, exponent), 1.0 / exponent);
}

static double law_seconds(const simulator_t *sim, const double *law, int32_t cores, double moved, double limit) {
    double rounds = ceil(law[PARALLELISM] / cores) / law[PARALLELISM];
    double compute_s = law[COMPUTE_S] * rounds / sim->settings.clocks[sim->busy_cores];
    double fork_s = law[PARALLELISM] > 1.0 && cores > 1 ? sim->settings.fork_s : 0.0;
    return combined(compute_s, moved / limit, sim->settings.combine) + fork_s;
}

static double spread_l3_bytes(const settings_t *of, int64_t cores, int64_t busy_cores) {
    double share = of->total_l3_bytes / (double)busy_cores;
    return (double)cores * (share < of->l3_bytes ? share : of->l3_bytes);
}

static double seat_l3_bytes(const simulator_t *sim, const block_t *block) {
    double l3_bytes = 0.0;
    for (int64_t place = 0; place < block->seat_count; place++)
        l3_bytes += sim->settings.l3_bytes * ((double)block->seat[place].count / sim->busy[block->seat[place].id]);
    return l3_bytes;
}

// Work out what a layer asks for with the L3 and the clock of the moment.
static void offer(simulator_t *sim, int64_t place) {
    const settings_t *of = &sim->settings;
    const double *law = sim->lanes[place].law;
    const block_t *block = &sim->blocks[sim->lanes[place].slot];
    int32_t cores = block->cores;
    double l3_bytes = of->seated ? seat_l3_bytes(sim, block) : spread_l3_bytes(of, cores, sim->busy_cores);
    double moved = traffic_bytes(law, cores, l3_bytes);
    double full_s = law_seconds(sim, law, cores, moved, block->limit);
    sim->numbers[MOVED][place] = moved;
    sim->numbers[FULL_S][place] = full_s;
    sim->numbers[DEMAND][place] = moved / full_s;
    sim->lanes[place].fresh = false;
    if (of->scale == 1.0) return;
    double alone_bytes = of->seated ? of->l3_bytes * (double)block->seat_count : spread_l3_bytes(of, cores, cores);
    double alone_moved = traffic_bytes(law, cores, alone_bytes);
    sim->numbers[ALONE_S][place] = law_seconds(sim, law, cores, alone_moved, block->limit);
}

static void add_uses(const block_t *block, double *to, double amount) {
    for (int64_t at = 0; at < block->use_count; at++)
        to[block->uses[at].id] += amount * block->uses[at].part;
}

static const block_t *block_at(const simulator_t *sim, int64_t place) { return &sim->blocks[sim->lanes[place].slot]; }

// Return how far all that rise can rise together; *full is the resource that is full then.
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

// Close those that ask for no more than level, or if there are none those that draw through what is full.
static int64_t close_some(simulator_t *sim, int64_t count, double level, int64_t full) {
    bool content = false;
    for (int64_t at = 0; at < count; at++)
        content |= sim->numbers[DEMAND][sim->rising[at]] <= level;
    int64_t left = 0;
    for (int64_t at = 0; at < count; at++) {
        int64_t place = sim->rising[at];
        const block_t *block = block_at(sim, place);
        if (content ? sim->numbers[DEMAND][place] <= level : draws_through(block, full)) {
            if (!content) sim->numbers[GRANTED][place] = level;
            add_uses(block, sim->taken, sim->numbers[GRANTED][place]);
        } else {
            sim->rising[left++] = place;
        }
    }
    return left;
}

// Share memory bandwidth max-min fair, by progressive filling.
static void grant_all(simulator_t *sim) {
    int64_t count = sim->state.running, resources = sim->settings.resources;
    memset(sim->wanted, 0, resources * sizeof *sim->wanted);
    for (int64_t place = 0; place < count; place++) {
        sim->numbers[GRANTED][place] = sim->numbers[DEMAND][place];
        add_uses(block_at(sim, place), sim->wanted, sim->numbers[DEMAND][place]);
    }
    bool enough = true;
    for (int64_t resource = 0; resource < resources; resource++)
        enough &= sim->wanted[resource] <= sim->settings.capacities[resource];
    if (enough) return;
    memset(sim->taken, 0, resources * sizeof *sim->taken);
    for (int64_t place = 0; place < count; place++)
        sim->rising[place] = place;
    double level = 0.0;
    while (count) {
        int64_t full;
        double room = find_level(sim, count, &full);
        level = room > level ? room : level;
        count = close_some(sim, count, level, full);
    }
}

// The same where all draw through one resource only: grant_all() without weights, to the same numbers.
static void grant_one(simulator_t *sim) {
    int64_t count = sim->state.running, *restrict rising = sim->rising;
    const double *restrict demand = sim->numbers[DEMAND];
    double *restrict granted = sim->numbers[GRANTED];
    double taken = 0.0, level = 0.0, capacity = sim->settings.capacities[0];
    memcpy(granted, demand, count * sizeof *granted);
    if (sum(demand, count) <= capacity) return;
    for (int64_t place = 0; place < count; place++)
        rising[place] = place;
    while (count) {
        double room = (capacity - taken) / (double)count;
        level = room > level ? room : level;
        int64_t left = 0;
        for (int64_t at = 0; at < count; at++) {
            int64_t place = rising[at];
            bool content = demand[place] <= level;
            taken += content ? demand[place] : 0.0;
            rising[left] = place;
            left += !content;
        }
        if (left == count) break;
        count = left;
    }
    for (int64_t at = 0; at < count; at++)
        granted[rising[at]] = level;
}

static void retime_by_law(simulator_t *sim) {
    int64_t running = sim->state.running;
    bool all = sim->busy_cores != sim->offered_cores || sim->seats_changed;
    for (int64_t place = 0; place < running; place++)
        if (all || sim->lanes[place].fresh) offer(sim, place);
    sim->offered_cores = sim->busy_cores;
    if (sim->settings.resources == 1)
        grant_one(sim);
    else
        grant_all(sim);
    const double *restrict granted = sim->numbers[GRANTED], *restrict demand = sim->numbers[DEMAND];
    const double *restrict full_s = sim->numbers[FULL_S], *restrict moved = sim->numbers[MOVED];
    const double *restrict alone_s = sim->numbers[ALONE_S];
    double *restrict next_s = sim->numbers[NEXT_S], scale = sim->settings.scale;
    for (int64_t place = 0; place < running; place++) {
        double slowed_s = moved[place] / granted[place];
        next_s[place] = granted[place] >= demand[place] ? full_s[place] : slowed_s;
    }
    if (scale != 1.0)
        for (int64_t place = 0; place < running; place++)
            next_s[place] = alone_s[place] + scale * (next_s[place] - alone_s[place]);
    memcpy(sim->numbers[MET], next_s, running * sizeof *next_s);
}

static double least(const double *values, int64_t count) {
    double least[4] = {INFINITY, INFINITY, INFINITY, INFINITY};  // four chains do not wait for each other
    for (int64_t place = 0; place < count; place++)
        least[place % 4] = values[place] < least[place % 4] ? values[place] : least[place % 4];
    double even = least[0] < least[2] ? least[0] : least[2], odd = least[1] < least[3] ? least[1] : least[3];
    return even < odd ? even : odd;
}

static void find_next_end(simulator_t *sim) {
    const double *end_s = sim->numbers[END_S];
    sim->next_end_s = least(end_s, sim->state.running);
    sim->next_place = 0;
    while (sim->next_place < sim->state.running && end_s[sim->next_place] != sim->next_end_s)
        sim->next_place++;
}

static void retime(simulator_t *sim) {
    if (sim->settings.by_law)
        retime_by_law(sim);
    else
        retime_by_table(sim);
    meet(sim);
    find_next_end(sim);
    sim->stale = sim->seats_changed = false;
}

// The same where only one layer is another one, which presses as the one before it: the others meet what they met.
static void retime_one(simulator_t *sim, int64_t place) {
    double **numbers = sim->numbers, met = numbers[MET][place];
    double seconds = seconds_at(&sim->settings, sim->lanes[place].row, met);
    numbers[END_S][place] = numbers[BEGIN_S][place] + seconds * numbers[NOISE][place];
    numbers[SECONDS][place] = seconds;
    numbers[CONDITION][place] = met;
    find_next_end(sim);
    sim->stale = false;
}

static int end_block(simulator_t *sim, int64_t place, block_t *block) {
    sim->busy_cores -= block->cores;
    count_seat(sim, block, -1);
    block->seat_count = 0;
    sim->state.running--;
    size_t after = sim->state.running - place;
    memmove(&sim->lanes[place], &sim->lanes[place + 1], after * sizeof *sim->lanes);
    for (size_t number = 0; number < NUMBERS; number++) {
        double *values = sim->numbers[number];
        memmove(&values[place], &values[place + 1], after * sizeof *values);
    }
    sim->seats_changed = sim->settings.seated;
    return BLOCK_END;
}

static int adopt(simulator_t *sim, int64_t place, block_t *block) {
    double cost_s = block->next_cores != block->cores ? sim->settings.resize_cost_s : 0.0;
    if (block->next_cores > block->cores) cost_s += sim->settings.join_cost_s;
    sim->busy_cores += block->next_cores - block->cores;
    memcpy(block->versions, block->next_versions, block->layers);
    block->cores = block->next_cores;
    block->next_cores = 0;
    block->limit = sim->settings.limits[block->cores];
    enter_layer(sim, place, sim->now_s + cost_s);
    return RESIZED;
}

static int end_layer(simulator_t *sim) {
    int32_t slot = sim->lanes[sim->next_place].slot;
    block_t *block = &sim->blocks[slot];
    sim->state.events++;
    sim->now_s = sim->next_end_s;
    sim->stale = true;
    sim->state.time_s = sim->now_s;
    sim->state.slot = slot;
    if (++sim->ended[slot] == block->layers) return end_block(sim, sim->next_place, block);
    if (block->next_cores && block->next_due_s <= sim->now_s) {
        sim->state.cores = block->next_cores;
        return adopt(sim, sim->next_place, block);
    }
    int64_t place = sim->next_place;
    double dram = sim->numbers[DRAM][place], l3 = sim->numbers[L3][place];
    enter_layer(sim, place, sim->now_s);
    if (!sim->settings.by_law && sim->numbers[DRAM][place] == dram && sim->numbers[L3][place] == l3)
        retime_one(sim, place);
    return NOTHING;
}

// Let layers end up to limit_s, and return at the first event that leaves the simulator: its time, slot and cores
// are in the state then.
int simulator_advance(simulator_t *sim, double limit_s) {
    for (;;) {
        if (sim->stale) retime(sim);
        if (!(sim->next_end_s <= limit_s) || !sim->state.running) return NOTHING;
        int what = end_layer(sim);
        if (what != NOTHING) return what;
    }
}

// Return the pressure that a block started now would meet; seated, it would be on all cores that are free.
double simulator_pressure(simulator_t *sim) {
    const settings_t *of = &sim->settings;
    double dram = sum(sim->numbers[DRAM], sim->state.running), l3 = sum(sim->numbers[L3], sim->state.running);
    if (of->seated) {
        sum_density(sim);
        int64_t free_cores = of->cores - sim->busy_cores;
        l3 = 0.0;
        for (int64_t group = 0; group < of->groups; group++) {
            int64_t idle = of->group_cores - sim->busy[group];
            if (idle) l3 += (double)idle / (double)free_cores * sim->density[group];
        }
        l3 *= (double)of->groups;
    }
    double worse = l3 > dram ? l3 : dram;
    return worse < 1.0 ? worse : 1.0;
}

// End all blocks at once.
void simulator_clear(simulator_t *sim) {
    for (int64_t place = 0; place < sim->state.running; place++) {
        block_t *block = &sim->blocks[sim->lanes[place].slot];
        count_seat(sim, block, -1);
        block->seat_count = 0;
    }
    sim->state.running = sim->busy_cores = 0;
    sim->stale = true;
}
