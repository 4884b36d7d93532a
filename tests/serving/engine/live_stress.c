// Random decisions, arrivals, cancellations, resizes, yields, wakes, loads of buffers and changes of the models' order on the live
// loop, checked from outside: every layer of every query that is served runs once and in order, no core is given twice, and every query ends once and is told of, and every wake comes in its time.
// Usage: live_stress QUERIES WORKERS SEED

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../../veltair/machine/workers/pool.h"
#include "../../../veltair/machine/workers/sleeping.h"
#include "../../../veltair/serving/engine/live_loop.h"
#include "../../../veltair/serving/loop/growing.h"

enum { MODELS = 2, MOST_LAYERS = 9, MOST_WORKERS = 16, LOG_BYTES = 1 << 17 };
static const int32_t LAYERS[MODELS] = {MOST_LAYERS, 3};
static const int32_t ORDERS[2][MODELS] = {{0, 1}, {1, 0}};  // which model each index means, by turns
#define EXPECT(condition) \
    if (!(condition)) fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), abort()

int pool_launch(int (*lambda)(int, void *, void *), void *data, int wanted);

void hold_up(void) {
    static _Thread_local uint32_t times;
    if (++times % 5 == 0) sched_yield();
    if (times % 13 == 0) usleep(times % 200);
}

typedef struct {  // what a kernel has: of which buffers it is, and its layer
    struct buffers *buffers;
    int32_t layer;
} layer_t;

typedef struct buffers {  // of one query at a time, written by its kernels
    int32_t next_layer;
    _Atomic(int32_t) tasks;
    layer_t layers[MOST_LAYERS];
    call_t calls[MOST_LAYERS];
    uint64_t layer_ns[MOST_LAYERS];
    float made, right;
    const void *answers[1];
    array_t output;
    call_table_t table;
    struct buffers *before;
} buffers_t;

static buffers_t *all_buffers;
static const float RIGHT = 1.0f;
static const void *const ANSWERS[] = {&RIGHT};

static uint32_t chance(uint64_t *randomness, uint32_t below) {
    *randomness = *randomness * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*randomness >> 33) % below;
}

static int task(int number, void *env, void *data) {
    buffers_t *buffers = data;
    (void)env;
    if (number % 3 == 1) sched_yield();
    atomic_fetch_add(&buffers->tasks, 1);
    return 0;
}

static int kernel(void *self, const any_t *arguments, int32_t count, any_t *result) {
    const layer_t *layer = self;
    buffers_t *buffers = layer->buffers;
    (void)arguments, (void)count, (void)result;
    if (layer->layer == 0) buffers->next_layer = 0;
    EXPECT(buffers->next_layer == layer->layer);
    buffers->next_layer++;
    atomic_store(&buffers->tasks, 0);
    EXPECT(pool_launch(task, buffers, 3) == 0 && atomic_load(&buffers->tasks) == 3);
    buffers->made = 1.0f;
    return 0;
}

static const call_table_t *make_buffers(int32_t model) {
    buffers_t *buffers = calloc(1, sizeof *buffers);
    for (int32_t layer = 0; layer < LAYERS[model]; ++layer) {
        buffers->layers[layer] = (layer_t){buffers, layer};
        buffers->calls[layer] = (call_t){kernel, &buffers->layers[layer], NULL, 0};
    }
    buffers->output = (array_t){&buffers->made, 1, sizeof(float), FLOAT32};
    buffers->table = (call_table_t){buffers->calls,
                                    buffers->layer_ns,
                                    NULL,
                                    &buffers->output,
                                    (uint32_t)LAYERS[model],
                                    1,
                                    0,
                                    1,
                                    "stress",
                                    NULL,
                                    NULL};
    buffers->before = all_buffers;
    all_buffers = buffers;
    return &buffers->table;
}

// Decisions.

typedef struct {
    uint64_t randomness;
    int64_t decisions;
    const int32_t *order;
} random_policy_t;

static const uint8_t VERSIONS[MOST_LAYERS];

static int add(commands_t *commands, command_t command) {
    if (!reserve((void **)&commands->items, &commands->capacity, commands->count + 1, sizeof command)) return NO_MEMORY;
    commands->items[commands->count++] = command;
    return OK;
}

static int change_running(random_policy_t *policy, const view_t *view, commands_t *commands, int32_t *free_cores) {
    const int32_t *ended = view->ended(view->run);
    for (int64_t index = 0; index < view->running_count; ++index) {
        account_t *account = view->running[index];
        EXPECT(ended[account->slot] >= 0 && ended[account->slot] <= account->stop - account->first);
        if (account->yields) continue;
        if (chance(&policy->randomness, 9) == 0) {
            if (add(commands, (command_t){.account = account, .kind = YIELD}) != OK) return NO_MEMORY;
        } else if (chance(&policy->randomness, 3) == 0) {
            int32_t reserved = reserved_cores(account);
            int32_t cores = 1 + (int32_t)chance(&policy->randomness, (uint32_t)(reserved + *free_cores));
            if (account->target_cores > account->cores && cores < account->target_cores) continue;
            *free_cores -= (cores > account->cores ? cores : account->cores) - reserved;
            command_t resize = {.account = account, .kind = RESIZE, .cores = cores};
            resize.versions = chance(&policy->randomness, 2) ? VERSIONS : NULL;
            if (add(commands, resize) != OK) return NO_MEMORY;
        }
    }
    return OK;
}

static int decide(void *self, const view_t *view, commands_t *commands) {
    random_policy_t *policy = self;
    int32_t free_cores = view->free_cores;
    if (++policy->decisions % 50 == 0) usleep(100);
    EXPECT(view->pressure(view->run) >= 0.0 && view->pressure(view->run) <= 1.0);
    bool idle = !view->running_count;
    for (account_t *account = view->oldest; account && free_cores; account = account->newer) {
        if (!idle && chance(&policy->randomness, 4) == 0) continue;
        if (!idle && chance(&policy->randomness, 30) == 0) {
            command_t reject = {.account = account, .kind = REJECT};
            reject.reason = chance(&policy->randomness, 2) ? "drawn" : NULL;
            if (add(commands, reject) != OK) return NO_MEMORY;
            continue;
        }
        int32_t left = LAYERS[policy->order[account->model]] - account->next_layer;
        command_t start = {.account = account, .kind = START, .versions = VERSIONS};
        start.stop = account->next_layer + 1 + (int32_t)chance(&policy->randomness, (uint32_t)left);
        start.cores = start.wanted = 1 + (int32_t)chance(&policy->randomness, (uint32_t)free_cores);
        free_cores -= start.cores;
        idle = false;
        if (add(commands, start) != OK) return NO_MEMORY;
    }
    if (chance(&policy->randomness, 6) == 0) {
        command_t wake = {.kind = WAKE, .wake_s = view->now_s + 1e-6 * (1 + chance(&policy->randomness, 2000))};
        if (add(commands, wake) != OK) return NO_MEMORY;
    }
    return change_running(policy, view, commands, &free_cores);
}

// Arrivals: through the socket, as LoadGen brings them, and from a thread.

typedef struct {
    live_t *live;
    int channel;
    int64_t first, count;
    uint64_t randomness;
} arrivals_of_t;

static void *send_queries(void *argument) {
    arrivals_of_t *arrivals = argument;
    for (int64_t id = arrivals->first; id < arrivals->first + arrivals->count; ++id) {
        packet_t packet = {PACKET_ARRIVAL, chance(&arrivals->randomness, MODELS), (uint64_t)id, (int64_t)now_ns(), 0};
        EXPECT(send(arrivals->channel, &packet, sizeof packet, 0) == sizeof packet);
        packet_t cancel = {PACKET_CANCEL, 0, (uint64_t)id, 0, 0};
        if (chance(&arrivals->randomness, 5) == 0)
            EXPECT(send(arrivals->channel, &cancel, sizeof cancel, 0) == sizeof cancel);
        if (chance(&arrivals->randomness, 4) == 0) usleep(chance(&arrivals->randomness, 2000));
    }
    return NULL;
}

static void *bring_queries(void *argument) {
    arrivals_of_t *arrivals = argument;
    for (int64_t id = arrivals->first; id < arrivals->first + arrivals->count; ++id) {
        live_arrive(arrivals->live, id, (int32_t)chance(&arrivals->randomness, MODELS), now_ns());
        live_set_pressure(arrivals->live, (double)chance(&arrivals->randomness, 100) / 100);
        if (chance(&arrivals->randomness, 4) == 0) usleep(chance(&arrivals->randomness, 2000));
    }
    return NULL;
}

typedef struct {
    int channel;
    bool has_outcomes;
    int64_t count;
    uint8_t *told;
} completions_t;

static void *count_completions(void *argument) {
    completions_t *completions = argument;
    static _Alignas(8) char packet[1 << 15];
    size_t step = completions->has_outcomes ? sizeof(outcome_t) : sizeof(uint64_t);
    for (ssize_t size; (size = recv(completions->channel, packet, sizeof packet, 0)) > 0;)
        for (size_t at = 0; at < (size_t)size; at += step) {
            outcome_t outcome = {.ending = SERVED, .blocks = 1};
            memcpy(&outcome, packet + at, step);  // sequences come first
            EXPECT(outcome.began_ns <= outcome.ended_ns && (outcome.blocks || outcome.ending != SERVED));
            EXPECT(!completions->told[outcome.sequence]);
            completions->told[outcome.sequence] = 1;
            completions->count++;
        }
    return NULL;
}

// The log, checked.

typedef struct {
    int64_t arrived, ended, blocks, resizes, yields, rejected, withdrawn, wakes;
    uint32_t changes;
    bool changes_models;  // one is under way
    double last_wake_s;
    int64_t holder[MOST_WORKERS];
    int64_t made[MODELS], at_work[MODELS], most_at_work[MODELS];  // buffers, and queries that have begun
    int32_t *next_layer, *model;
    bool is_over;
    uint64_t randomness;
} seen_t;

static void forget_cores(seen_t *seen, int64_t id) {
    for (int core = 0; core < MOST_WORKERS; ++core)
        if (seen->holder[core] == id) seen->holder[core] = -1;
}

static void hold_cores(seen_t *seen, const entry_t *entry) {
    const char *extra = (const char *)(entry + 1);
    size_t versions = entry->number ? (size_t)(entry->layer - entry->first) : 0;
    size_t count = (entry->extra_bytes - versions) / sizeof(uint16_t);
    for (size_t index = 0; index < count; ++index) {
        uint16_t core;
        memcpy(&core, extra + versions + index * sizeof core, sizeof core);
        EXPECT(seen->holder[core] == -1 || seen->holder[core] == entry->id);
        seen->holder[core] = entry->id;
    }
}

static void check_end(seen_t *seen, const entry_t *entry) {
    EXPECT(entry->code == NO_FAULT && entry->number == 0 && entry->layer > seen->next_layer[entry->id]);
    seen->next_layer[entry->id] = entry->layer;
    forget_cores(seen, entry->id);
}

static int32_t model_of_entry(const seen_t *seen, const entry_t *entry) {
    return ORDERS[seen->changes % 2][entry->model];
}

static void begin_query(seen_t *seen, const entry_t *entry) {
    int32_t model = model_of_entry(seen, entry);
    int64_t *at_work = &seen->at_work[model], *most = &seen->most_at_work[model];
    *at_work += entry->first == 0;
    *most = *at_work > *most ? *at_work : *most;
}

static void check_entry(seen_t *seen, live_t *live, const entry_t *entry) {
    switch (entry->kind) {
    case ARRIVED:
        seen->arrived++;
        seen->model[entry->id] = model_of_entry(seen, entry);
        break;
    case BLOCK_STARTED:
        EXPECT(entry->first == seen->next_layer[entry->id]);
        seen->blocks++;
        begin_query(seen, entry);
        hold_cores(seen, entry);
        break;
    case BLOCK_RESIZED:
        seen->resizes++;
        hold_cores(seen, entry);
        break;
    case CORES_ADOPTED:
        forget_cores(seen, entry->id);
        hold_cores(seen, entry);
        break;
    case BLOCK_YIELDS:
        seen->yields++;
        break;
    case BLOCK_ENDED:
        check_end(seen, entry);
        break;
    case QUERY_ENDED:
        seen->ended++;
        seen->at_work[seen->model[entry->id]] -= entry->number > 0;
        seen->rejected += entry->code == REJECTED;
        EXPECT(!entry->first || (entry->extra_bytes == 5 && !memcmp(entry + 1, "drawn", 5)));
        break;
    case WAKE_SET:
        seen->last_wake_s = entry->seconds > seen->last_wake_s ? entry->seconds : seen->last_wake_s;
        break;
    case WAKE_CAME:
        seen->wakes++;
        break;
    case BUFFERS_LACK:
        usleep(chance(&seen->randomness, 500));
        EXPECT(++seen->made[model_of_entry(seen, entry)] <=
               seen->most_at_work[model_of_entry(seen, entry)]);  // none is lost
        live_add_buffers(live, entry->model, make_buffers(model_of_entry(seen, entry)), seen->changes);
        break;
    case WITHDRAWN_BY_CLIENT:
        EXPECT(seen->next_layer[entry->id] == 0);
        seen->withdrawn++;
        break;
    case CHANGED:
        seen->changes++;
        seen->changes_models = false;
        break;
    case OVER:
        EXPECT(entry->number == 0 && entry->time_s >= seen->last_wake_s);
        seen->is_over = true;
        break;
    case BROKEN:
        fprintf(stderr, "broken: query %lld, code %d\n", (long long)entry->id, entry->code);
        abort();
    default:
        break;
    }
}

static void read_log(seen_t *seen, live_t *live) {
    static _Alignas(8) char log[LOG_BYTES];
    for (int64_t bytes; (bytes = live_read(live, log, sizeof log)) > 0;)
        for (int64_t at = 0; at < bytes;) {
            const entry_t *entry = (const entry_t *)&log[at];
            check_entry(seen, live, entry);
            at += (int64_t)(sizeof *entry + (entry->extra_bytes + 7) / 8 * 8);
        }
}

static live_t *open_run(pool_t *pool, const decider_t *decider, uint32_t workers, live_model_t *models,
                        live_sample_t *samples) {
    static uint16_t cores[MOST_WORKERS];
    static int32_t begins[MOST_WORKERS + 1];
    int32_t groups = 0;
    for (uint32_t core = 0; core < workers; ++core) {
        cores[core] = (uint16_t)core;
        if (core % 3 == 0) begins[groups++] = (int32_t)core;
    }
    begins[groups] = (int32_t)workers;
    core_layout_t layout = {cores, begins, groups, workers % 2 ? PINNED : SPREAD};
    live_settings_t settings = {.models = models,
                                .samples = samples,
                                .layout = layout,
                                .zero_ns = now_ns(),
                                .drain_s = 1000.0,
                                .model_count = MODELS,
                                .sample_count = MODELS,
                                .cores = workers,
                                .tells_outcomes = workers % 3 == 2,
                                .rings = 1u << BUFFERS_LACK | 1u << BROKEN | 1u << OVER};
    int error;
    live_t *live = live_open(pool, pool_functions(), decider, &settings, &error);
    EXPECT(live && !error);
    return live;
}

// Give the models other indices, and let another policy decide.
static void change_models(seen_t *seen, live_t *live, uint64_t seed) {
    static random_policy_t policies[2];
    static decider_t deciders[2];
    static live_model_t models[2][MODELS];
    static live_sample_t samples[2][MODELS];
    static const int32_t SWAPPED[MODELS] = {1, 0};
    static live_change_t changes[2];
    uint32_t number = (seen->changes + 1) % 2;
    const int32_t *order = ORDERS[number];
    for (int32_t index = 0; index < MODELS; ++index) {
        models[number][index] = (live_model_t){.qos_s = 1.0, .layers = LAYERS[order[index]]};
        samples[number][index] = (live_sample_t){.answers = ANSWERS, .model = order[index]};
    }
    policies[number] = (random_policy_t){.randomness = seed + seen->changes, .order = order};
    deciders[number] = (decider_t){decide, &policies[number]};
    live_settings_t settings = {.models = models[number], .samples = samples[number]};
    settings.model_count = settings.sample_count = MODELS;
    changes[number] = (live_change_t){settings, SWAPPED, &deciders[number], chance(&seen->randomness, 2)};
    seen->changes_models = true;
    live_change(live, &changes[number]);
}

int main(int count, char **words) {
    EXPECT(count == 4);
    int64_t queries = atoll(words[1]);
    uint32_t workers = (uint32_t)atoi(words[2]), cores[MOST_WORKERS];
    uint64_t seed = (uint64_t)atoll(words[3]);
    EXPECT(workers >= 1 && workers <= MOST_WORKERS);
    for (uint32_t core = 0; core < workers; ++core)
        cores[core] = core;
    int error, failed, channels[2];
    pool_t *pool = pool_open(cores, workers, 1e-4, NULL, &error, &failed);
    EXPECT(pool && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, channels) == 0);
    const call_table_t *few[MODELS] = {make_buffers(0), make_buffers(1)};
    live_model_t models[MODELS];
    live_sample_t samples[MODELS];
    for (int32_t model = 0; model < MODELS; ++model) {
        models[model] = (live_model_t){.tables = &few[model], .qos_s = 1.0, .table_count = 1, .layers = LAYERS[model]};
        samples[model] = (live_sample_t){.answers = ANSWERS, .model = model};
    }
    random_policy_t policy = {.randomness = seed, .order = ORDERS[0]};
    decider_t decider = {decide, &policy};
    live_t *live = open_run(pool, &decider, workers, models, samples);
    live_listen(live, channels[0]);
    arrivals_of_t sent = {live, channels[1], 0, queries / 2, seed + 1};
    arrivals_of_t brought = {live, -1, queries / 2, queries - queries / 2, seed + 2};
    completions_t completions = {channels[1], workers % 3 == 2, 0, calloc((size_t)queries, 1)};
    pthread_t threads[3];
    pthread_create(&threads[0], NULL, send_queries, &sent);
    pthread_create(&threads[1], NULL, bring_queries, &brought);
    pthread_create(&threads[2], NULL, count_completions, &completions);
    seen_t seen = {.made = {1, 1}, .randomness = seed + 3};
    seen.next_layer = calloc((size_t)queries, sizeof *seen.next_layer);
    seen.model = calloc((size_t)queries, sizeof *seen.model);
    for (int core = 0; core < MOST_WORKERS; ++core)
        seen.holder[core] = -1;
    while (seen.arrived < queries || seen.changes_models) {
        EXPECT(live_wait(live, 1000000) == OK);
        read_log(&seen, live);
        if (seen.arrived < queries && !seen.changes_models) change_models(&seen, live, seed + 4);
    }
    live_flush(live);
    while (!seen.is_over) {
        EXPECT(live_wait(live, 1000000) == OK);
        read_log(&seen, live);
    }
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    live_stop(live);
    EXPECT(pool_close(pool, INT64_C(10000000000)) == 0);
    live_close(live);
    shutdown(channels[0], SHUT_RDWR);
    pthread_join(threads[2], NULL);
    EXPECT(seen.ended == queries && completions.count == queries);
    for (int core = 0; core < MOST_WORKERS; ++core)
        EXPECT(seen.holder[core] == -1);
    EXPECT(seen.wakes > 0 && seen.changes > 1 && seen.withdrawn > 0);
    printf("%lld queries, %lld blocks, %lld resizes, %lld yields, %lld rejections, %lld cancellations, %lld wakes, %u "
           "changes\n",
           (long long)seen.ended, (long long)seen.blocks, (long long)seen.resizes, (long long)seen.yields,
           (long long)seen.rejected, (long long)seen.withdrawn, (long long)seen.wakes, seen.changes);
    for (buffers_t *buffers = all_buffers, *before; buffers; buffers = before) {
        before = buffers->before;
        free(buffers);
    }
    free(completions.told);
    free(seen.next_layer);
    free(seen.model);
    close(channels[0]);
    close(channels[1]);
    return 0;
}
