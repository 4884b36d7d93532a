// Random blocks, resizes and parallel loops on a pool, checked from outside: every task of a loop runs once, on a
// core that its block holds, and every block ends once. Usage: pool_stress BLOCKS WORKERS SEED

#define POOL_CHECK
#define POOL_UNPINNED  // more workers than the machine has cores
#define POOL_PAUSE() hold_up()
static void hold_up(void);
#include "../../../veltair/machine/workers/pool.c"

static void hold_up(void) {
    static _Thread_local uint32_t times;
    if (++times % 5 == 0) sched_yield();
    if (times % 11 == 0) usleep(times % 300);
}

enum { LAYERS = 12, VERSIONS = 2, MOST_WORKERS = 32, MOST_RESIZES = 6, LOOP_TASKS = MOST_WORKERS * STEPS };
#define EXPECT(condition) \
    if (!(condition)) fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), abort()

typedef struct {  // what a query has: written by tasks of its loops, read by the leader
    uint64_t token;
    int runs[MOST_TASKS + 1];
    uint64_t layers_run;
    uint64_t layer_ns[LAYERS], away_ns[LAYERS], least_ns[LAYERS];
    call_t calls[LAYERS][VERSIONS];
    array_t output;
    float answer[8], made[8];
    const void *answers[1];
    call_table_t table;
    bool is_idle;
} query_t;

typedef struct {
    uint64_t token, number;
    query_t *query;
    uint16_t workers[MOST_WORKERS];
    uint32_t cores, layers, resizes;
    bool is_running, fails, yields;
} running_t;

static _Atomic(uint64_t) holder[MOST_WORKERS];
static uint64_t randomness;

static uint32_t chance(uint32_t below) {
    randomness = randomness * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(randomness >> 33) % below;
}

static int task(int number, env_t *env, void *data) {
    query_t *query = data;
    EXPECT(atomic_load(&holder[self->index]) == query->token);
    EXPECT(number >= 0 && number < env->num_task);
    // Who claims a task often gives its core away, so that others get there in the midst of everything.
    if (number % 4 == 1) sched_yield();
    if (query->layers_run % 3 == 0) usleep(50 * (number % 3));
    query->runs[number] += 1;
    return 0;
}

static int refused_task(int number, env_t *env, void *data) {
    (void)env, (void)data;
    return number == 0 ? -1 : 0;
}

// `self` of a call: the query, and in the lowest bits what the kernel does.
static int kernel(void *object, const any_t *arguments, int32_t count, any_t *result) {
    query_t *query = (query_t *)((uintptr_t)object & ~UINT64_C(7));
    (void)arguments, (void)count, (void)result;
    query->layers_run += 1;
    uint32_t kind = (uint32_t)((uintptr_t)object & 7);
    if (kind == 2) return pool_launch(refused_task, query, 3);
    if (kind == 1) return 0;
    memset(query->runs, 0, LOOP_TASKS * sizeof *query->runs);
    int tasks = query->layers_run % 5 == 0 ? 17 : 0;
    EXPECT(pool_launch(task, query, tasks) == 0);
    int last = 0, all = 0;
    for (int i = 0; i < LOOP_TASKS; ++i) {
        EXPECT(query->runs[i] <= 1);
        all += query->runs[i];
        if (query->runs[i]) last = i + 1;
    }
    EXPECT(all >= 1 && all == last);
    EXPECT(!tasks || all == tasks);
    for (int i = 0; i < 8; ++i)
        query->made[i] = (float)i;
    return 0;
}

static void make_query(query_t *query, uint32_t failing) {
    uintptr_t object = (uintptr_t)query;
    for (uint32_t layer = 0; layer < LAYERS; ++layer) {
        query->calls[layer][0] = (call_t){kernel, (void *)object, NULL, 0};
        query->calls[layer][1] = (call_t){kernel, (void *)(object + 1 + (layer == failing)), NULL, 0};
    }
    for (int i = 0; i < 8; ++i)
        query->answer[i] = (float)i;
    query->answers[0] = query->answer;
    query->output = (array_t){query->made, 8, 4, FLOAT32};
    query->table = (call_table_t){
        query->calls[0], query->layer_ns, NULL, &query->output, LAYERS, VERSIONS, 0, 1, "stress", NULL, NULL};
    if (chance(2)) query->table.away_ns = query->away_ns;
    if (chance(2)) query->table.least_ns = query->least_ns;
    for (uint32_t layer = 0; layer < LAYERS; layer += 3)
        query->least_ns[layer] = 20000;
    query->is_idle = true;
}

static uint32_t take_free(running_t *block, uint32_t wanted, uint32_t workers) {
    uint32_t taken = 0;
    uint32_t first = chance(workers);
    for (uint32_t i = 0; i < workers && taken < wanted; ++i) {
        uint32_t core = (first + i) % workers;
        if (atomic_load(&holder[core])) continue;
        atomic_store(&holder[core], block->token);
        block->workers[block->cores++] = (uint16_t)core;
        ++taken;
    }
    return taken;
}

static void free_others(const running_t *block, uint32_t kept, uint32_t workers) {
    for (uint32_t core = 0; core < workers; ++core) {
        bool keeps = false;
        for (uint32_t i = 0; i < kept; ++i)
            keeps |= block->workers[i] == core;
        if (!keeps && atomic_load(&holder[core]) == block->token) atomic_store(&holder[core], 0);
    }
}

static void start(pool_t *pool, running_t *block, query_t *queries, uint64_t token) {
    uint8_t versions[LAYERS];
    *block = (running_t){.token = token, .layers = 1 + chance(LAYERS), .is_running = true};
    for (block->query = queries; !block->query->is_idle; ++block->query) {
    }
    for (uint32_t i = 0; i < LAYERS; ++i)
        versions[i] = chance(10) == 0;
    for (uint32_t i = 0; i < block->layers; ++i)
        block->fails |= versions[i] && (uintptr_t)block->query->calls[i][1].self % 8 == 2;
    EXPECT(take_free(block, 1 + chance(pool->cores), pool->cores) > 0);
    block->query->is_idle = false;
    block->query->token = token;
    int64_t number = pool_start(pool, token, token, &block->query->table, 0, block->layers, block->workers,
                                block->cores, versions, NULL, block->query->answers, NULL);
    EXPECT(number > 0);
    block->number = (uint64_t)number;
}

static void resize(pool_t *pool, running_t *block) {
    uint8_t versions[LAYERS] = {0};
    running_t wanted = *block;
    if (block->resizes++ >= MOST_RESIZES) return;
    if (chance(2))
        wanted.cores = 1 + chance(wanted.cores);
    else
        take_free(&wanted, 1 + chance(pool->cores), pool->cores);
    int64_t number = pool_resize(pool, block->token, block->workers[0], wanted.workers, wanted.cores, versions);
    EXPECT(number > 0 || number == NOT_RUNNING);
    if (number < 0) return;  // its end will free what it took
    *block = wanted;
    block->number = (uint64_t)number;
}

// It may yield and be resized, and either may come too late for it or for the other.
static void yield(pool_t *pool, running_t *block) {
    int what = pool_yield(pool, block->token, block->workers[0]);
    EXPECT(what == NO_FAULT || what == NOT_RUNNING);
    block->yields |= what == NO_FAULT;
}

static void on_notice(const pool_t *pool, const notice_t *notice, running_t *blocks, uint64_t *ended) {
    running_t *block = blocks;
    while (!block->is_running || block->token != notice->token)
        EXPECT(++block < blocks + MOST_WORKERS);
    if (notice->kind == ADOPTED) {
        if (notice->number == block->number) free_others(block, block->cores, pool->cores);
        return;
    }
    EXPECT(notice->code == NO_FAULT || (notice->code == KERNEL_FAILED && block->fails));
    bool is_whole = notice->ended_layers == block->layers;
    EXPECT(notice->code != NO_FAULT || is_whole || (block->yields && notice->ended_layers >= 1));
    EXPECT(is_whole || !notice->wrong_outputs);
    block->is_running = false;
    block->query->is_idle = true;
    free_others(block, 0, pool->cores);
    ++*ended;
}

static void *poke_often(void *argument) {
    for (int i = 0; i < 200; ++i)
        pool_poke(argument), usleep(1000);
    return NULL;
}

int main(int count, char **words) {
    EXPECT(count == 4);
    uint64_t all = (uint64_t)atoll(words[1]);
    uint32_t workers = (uint32_t)atoi(words[2]), cores[MOST_WORKERS];
    EXPECT(workers >= 1 && workers <= MOST_WORKERS);
    randomness = (uint64_t)atoll(words[3]);
    for (uint32_t i = 0; i < workers; ++i)
        cores[i] = i;
    query_t *queries = aligned_alloc(64, (sizeof(query_t) * workers + 63) / 64 * 64);
    memset(queries, 0, sizeof(query_t) * workers);
    for (uint32_t i = 0; i < workers; ++i)
        make_query(&queries[i], chance(2 * LAYERS));
    int error, failed;
    pool_t *pool = pool_open(cores, workers, 1e-4, NULL, &error, &failed);
    EXPECT(pool && !error);
    pthread_t poker;
    pthread_create(&poker, NULL, poke_often, pool);
    running_t blocks[MOST_WORKERS] = {0};
    notice_t notices[16];
    uint64_t token = 0, ended = 0, resizes = 0, yields = 0;
    while (ended < all) {
        uint32_t index = chance(workers);
        uint32_t free_cores = 0;
        for (uint32_t i = 0; i < workers; ++i)
            free_cores += !atomic_load(&holder[i]);
        if (blocks[index].is_running && chance(4) == 0)
            yield(pool, &blocks[index]), ++yields;
        else if (blocks[index].is_running)
            resize(pool, &blocks[index]), ++resizes;
        else if (free_cores && token < all)
            start(pool, &blocks[index], queries, ++token);
        int read = pool_wait(pool, notices, 16, chance(3) ? 0 : 200000);
        for (int i = 0; i < read; ++i)
            on_notice(pool, &notices[i], blocks, &ended);
    }
    pthread_join(poker, NULL);
    EXPECT(pool_close(pool, INT64_C(10000000000)) == 0);
    for (uint32_t i = 0; i < workers; ++i)
        EXPECT(!atomic_load(&holder[i]) && queries[i].is_idle);
    free(queries);
    printf("%llu blocks, %llu resizes, %llu yields\n", (unsigned long long)ended, (unsigned long long)resizes,
           (unsigned long long)yields);
    return 0;
}
