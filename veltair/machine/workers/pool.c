// Pinned workers, one for each core, that run the kernels of a block back to back on the cores granted to it.
//
// One thread, the decision thread, starts and resizes blocks and reads notices. The worker of a block's first core
// leads it: it calls the kernels. Those of its other cores are assigned to that leader and claim tasks of its
// parallel loops. A worker without a block sleeps on a futex. Nothing here takes a lock, and nothing but a kernel
// may call Python.

#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>

#include "pool.h"
#include "pool_blocks.h"

static int pin(pthread_attr_t *attributes, uint32_t core) {
#ifdef POOL_UNPINNED
    (void)attributes, (void)core;
    return 0;
#else
    size_t size = CPU_ALLOC_SIZE(core + 1);
    cpu_set_t *cores = CPU_ALLOC(core + 1);
    if (!cores) return ENOMEM;
    CPU_ZERO_S(size, cores);
    CPU_SET_S(core, size, cores);
    int error = pthread_attr_setaffinity_np(attributes, size, cores);
    CPU_FREE(cores);
    return error;
#endif
}

static int start_worker(pool_t *pool, uint32_t index, uint32_t core) {
    worker_t *worker = &pool->workers[index];
    worker->pool = pool, worker->index = index, worker->core = core;
    worker->member = calloc(pool->cores, sizeof *worker->member);
    if (!worker->member) return ENOMEM;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    error = pin(&attributes, core);
    if (!error) error = pthread_create(&worker->thread, &attributes, work, worker);
    pthread_attr_destroy(&attributes);
    pool->started += !error;
    return error;
}

static crash_note_t *map_notes(const char *path, size_t size) {
    if (!path) {
        crash_note_t *notes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return notes == MAP_FAILED ? NULL : notes;
    }
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return NULL;
    crash_note_t *notes = MAP_FAILED;
    if (posix_fallocate(file, 0, (off_t)size) == 0)
        notes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return notes == MAP_FAILED ? NULL : notes;
}

static void free_pool(pool_t *pool) {
    for (uint32_t i = 0; pool->workers && i < pool->cores; ++i) {
        free(atomic_load(&pool->workers[i].pending));
        free(pool->workers[i].member);
    }
    if (pool->notes) munmap(pool->notes, pool->cores * sizeof(crash_note_t));
    free(pool->workers);
    free(pool->states);
    free(pool->ring);
    free(pool);
}

// Let the blocks under way end and the workers go. Returns how many threads were not gone in time: a kernel
// that hangs cannot be ended, so then the pool is left as it is, and the process has to end.
int pool_close(pool_t *pool, int64_t timeout_ns) {
    uint64_t until_ns = now_ns() + (uint64_t)timeout_ns;
    atomic_store(&pool->is_stopping, 1);
    for (uint32_t i = 0; i < pool->started; ++i)
        wake(&pool->workers[i].sleeper);
    uint32_t gone;
    for (uint64_t time_ns; (gone = atomic_load(&pool->gone)) < pool->started;) {
        if ((time_ns = now_ns()) >= until_ns) return (int)(pool->started - gone);
        struct timespec left = span(until_ns - time_ns);
        futex(&pool->gone, FUTEX_WAIT, gone, &left);
    }
    for (uint32_t i = 0; i < pool->started; ++i)
        pthread_join(pool->workers[i].thread, NULL);
    free_pool(pool);
    return 0;
}

// Let idle workers look for work all the time from now on. The cores are never idle then.
void pool_let_spin(pool_t *pool) {
    atomic_store(&pool->spins, 1);
    for (uint32_t i = 0; i < pool->started; ++i)
        wake(&pool->workers[i].sleeper);
}

// Start a worker on each core. Returns NULL and sets `error` (an errno) and `failed` (the index of the core
// that is to blame, or -1).
pool_t *pool_open(const uint32_t *cores, uint32_t count, double tolerance, const char *notes, int *error, int *failed) {
    pool_t *pool = aligned_alloc(64, sizeof *pool);
    *failed = -1;
    *error = ENOMEM;
    if (!pool) return NULL;
    memset(pool, 0, sizeof *pool);
    pool->cores = count, pool->tolerance = tolerance;
    for (pool->ring_size = 64; pool->ring_size < 8 * count; pool->ring_size *= 2) {
    }
    pool->workers = aligned_alloc(64, count * sizeof(worker_t));
    pool->states = aligned_alloc(64, count * sizeof(state_t));
    pool->ring = calloc(pool->ring_size, sizeof(cell_t));
    if (pool->workers) memset(pool->workers, 0, count * sizeof(worker_t));
    if (pool->states) memset(pool->states, 0, count * sizeof(state_t));
    if (pool->workers && pool->states && pool->ring) {
        errno = ENOMEM;
        pool->notes = map_notes(notes, count * sizeof(crash_note_t));
        *error = pool->notes ? 0 : errno;
    }
    for (uint32_t i = 0; !*error && i < pool->ring_size; ++i)
        atomic_store(&pool->ring[i].turn, i);
    for (uint32_t i = 0; !*error && i < count; ++i) {
        *error = start_worker(pool, i, cores[i]);
        if (*error) *failed = (int)i;
    }
    if (!*error) return pool;
    pool_close(pool, INT64_C(60000000000));
    return NULL;
}

static grant_t *make_grant(pool_t *pool, const uint16_t *workers, uint32_t cores, const uint8_t *versions,
                           uint32_t layers) {
    grant_t *grant = malloc(sizeof *grant + cores * sizeof *workers + layers);
    if (!grant) return NULL;
    grant->number = ++pool->number, grant->cores = cores, grant->layers = layers;
    memcpy(grant->workers, workers, cores * sizeof *workers);
    memcpy(&grant->workers[cores], versions, layers);
    return grant;
}

static int check(const pool_t *pool, const block_t *block, const uint16_t *workers, uint32_t cores,
                 const uint8_t *versions) {
    for (uint32_t i = 0; i < cores; ++i)
        if (workers[i] >= pool->cores) return NO_CORE;
    for (uint32_t layer = block->start; layer < block->stop; ++layer) {
        uint32_t version = versions[layer - block->start];
        if (version >= block->table->versions) return NO_CALL;
        const call_t *calls = &block->table->calls[(uint64_t)layer * block->table->versions];
        if (!calls[version].function) return NO_CALL;
    }
    return NO_FAULT;
}

// Let the first of some workers lead layers [start, stop) of a table: one version a layer. Returns the
// number of the grant, or what is wrong. `inputs`, `answers` and `outputs` may be NULL.
int64_t pool_start(pool_t *pool, uint64_t token, uint64_t query, const call_table_t *table, uint32_t start,
                   uint32_t stop, const uint16_t *workers, uint32_t cores, const uint8_t *versions,
                   const void *const *inputs, const void *const *answers, void *const *outputs) {
    block_t block = {token, query, table, inputs, answers, outputs, start, stop, NULL};
    if (!cores || start >= stop || stop > table->layers) return NO_CALL;
    int wrong = check(pool, &block, workers, cores, versions);
    if (wrong) return wrong;
    worker_t *leader = &pool->workers[workers[0]];
    state_t *state = &pool->states[workers[0]];
    if (atomic_load(&state->token)) return CORE_BUSY;
#ifdef POOL_CHECK
    if (atomic_load(&leader->assignment)) die("is granted to two blocks at once", leader->core);
#endif
    if (!(block.grant = make_grant(pool, workers, cores, versions, stop - start))) return NO_GRANT;
    free(atomic_exchange(&leader->pending, NULL));  // one that came too late for the block before
    int64_t number = (int64_t)block.grant->number;
    leader->block = block;
    atomic_store(&state->ended_layers, 0);
    atomic_store(&state->layer_started_ns, now_ns());
    atomic_store(&state->token, token);
    atomic_store(&leader->is_called, 1);
    wake(&leader->sleeper);
    return number;
}

// Grant a running block other cores, its leader first, and versions: adopted at its next layer end. Returns
// the number of the grant, NOT_RUNNING if the block has just ended, or what is wrong.
int64_t pool_resize(pool_t *pool, uint64_t token, uint32_t leading, const uint16_t *workers, uint32_t cores,
                    const uint8_t *versions) {
    if (!cores || leading >= pool->cores) return NO_CORE;
    if (workers[0] != leading) return NOT_FIRST;
    worker_t *leader = &pool->workers[leading];
    state_t *state = &pool->states[leading];
    if (atomic_load(&state->token) != token) return NOT_RUNNING;
    const block_t *block = &leader->block;
    int wrong = check(pool, block, workers, cores, versions);
    if (wrong) return wrong;
    grant_t *grant = make_grant(pool, workers, cores, versions, block->stop - block->start);
    if (!grant) return NO_GRANT;
    int64_t number = (int64_t)grant->number;
    POOL_PAUSE();
    free(atomic_exchange(&leader->pending, grant));  // one that was not adopted
    return number;
}

// Let a running block end at its next layer end. Returns NOT_RUNNING if it has just ended.
int pool_yield(pool_t *pool, uint64_t token, uint32_t leading) {
    if (leading >= pool->cores) return NO_CORE;
    if (atomic_load(&pool->states[leading].token) != token) return NOT_RUNNING;
    POOL_PAUSE();
    atomic_store(&pool->workers[leading].yielding, token);
    return NO_FAULT;
}

// Wait for notices, a poke, a signal or the timeout (below 0: none), and return how many notices were read.
int pool_wait(pool_t *pool, notice_t *notices, int most, int64_t timeout_ns) {
    uint64_t until_ns = timeout_ns < 0 ? UINT64_MAX : now_ns() + (uint64_t)timeout_ns;
    for (;;) {
        int count = read_notices(pool, notices, most);
        if (count || atomic_exchange(&pool->is_poked, 0)) return count;
        uint64_t time_ns = timeout_ns < 0 ? 0 : now_ns();
        if (timeout_ns >= 0 && time_ns >= until_ns) return 0;
        struct timespec left = span(until_ns - time_ns);
        if (sleep_unless(&pool->decision_thread, has_notice_or_poke, pool, timeout_ns < 0 ? NULL : &left) == EINTR)
            return 0;
    }
}

// Let whoever posts a notice from now on call `heed`, once it is posted, in place of waking a thread that waits. It must
// let one thread at a time read notices, start, resize and yield. No block may run meanwhile.
static void pool_heed(pool_t *pool, void (*heed)(void *heeder), void *heeder) {
    pool->heed = heed;
    pool->heeder = heeder;
}

// Post a notice of another kind than those of workers, from any thread.
static void pool_post(pool_t *pool, const notice_t *notice) { post_notice(pool, notice); }

// Read the next notice. If it is still being written it is waited for: by its thread, which may have lost its core to
// this one, so not for long without giving that back.
static void pool_next(pool_t *pool, notice_t *notice) {
    for (uint32_t spins = 0; !has_notice(pool); ++spins) {
        struct timespec moment = span(20000);
        if (spins < SPIN_NS / 16)
            _mm_pause();
        else
            nanosleep(&moment, NULL);
    }
    read_notices(pool, notice, 1);
}

// End a wait, from any thread.
void pool_poke(pool_t *pool) {
    atomic_store(&pool->is_poked, 1);
    wake(&pool->decision_thread);
}

const state_t *pool_states(const pool_t *pool) { return pool->states; }
const pool_functions_t *pool_functions(void) {
    static const pool_functions_t functions = {pool_start, pool_resize, pool_yield, pool_heed,
                                               pool_post,  pool_next,   pool_states};
    return &functions;
}

const char *pool_error(const pool_t *pool, uint32_t worker) { return pool->workers[worker].error; }

// A kernel that does nothing, to measure what all else costs.
int pool_nothing(void *object, const any_t *arguments, int32_t count, any_t *result) {
    (void)object, (void)arguments, (void)count, (void)result;
    return 0;
}

// One that takes as long as a decision, so that arrivals are heeded while it runs, not after its end.
int pool_pass_time(void *object, const any_t *arguments, int32_t count, any_t *result) {
    (void)object, (void)arguments, (void)count, (void)result;
    for (uint64_t until_ns = now_ns() + YIELD_NS; now_ns() < until_ns;)
        _mm_pause();
    return 0;
}
