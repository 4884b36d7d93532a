// Pinned workers, one for each core, that run the kernels of a block back to back on the cores granted to it.
//
// One thread, the decider, starts and resizes blocks and reads notices. The worker of a block's first core
// leads it; those of its other cores are seated at it and claim chunks of its parallel loops. A worker
// without a block sleeps on a futex. Nothing here takes a lock, and nothing but a kernel may call Python.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "gang_answers.h"
#include "gang_tvm.h"

enum {
    SPIN_NS = 50000,    // how long a worker looks for work at full speed: longer than a decision takes
    YIELD_NS = 200000,  // and then how long it looks between yields, before it sleeps
    SEATED_NS = 2000000,  // the same where its core belongs to a block: the next loop may come soon
    CHUNKS = 4,         // a core's share of a loop that cores may join
    MOST_TASKS = 4095,
    TEXT_BYTES = 256,
    NAME_BYTES = 48,
};

#ifndef GANG_PAUSE
#define GANG_PAUSE()  // where a thread that is held up for long must do no harm: the stress test holds it up
#endif

enum { ENDED = 0, ADOPTED = 1 };                               // kinds of notices
enum { OK = 0, KERNEL_FAILED = 1, CORE_LOST = 2 };             // codes of ended blocks
enum { NO_CORE = -1, CORE_BUSY = -2, NO_CALL = -3, NO_MEMORY = -4, NOT_RUNNING = -5, NOT_FIRST = -6 };

// What Python lays out: see bound_calls.py.
typedef struct {
    safe_call_t function;  // NULL where a layer has no such version
    void *self;
    const any_t *arguments;
    int64_t count;
} call_t;
typedef struct {
    const call_t *calls;  // [layers][versions]
    uint64_t *layer_ns;   // [layers], written as they end
    const array_t *inputs, *outputs;
    uint32_t layers, versions, input_count, output_count;
    char name[NAME_BYTES];
} program_t;

typedef struct {
    uint64_t token, number, time_ns, busy_ns;
    uint32_t kind, code, ended_layers, wrong_outputs;
} notice_t;
typedef struct {  // what a leader is at, for Python to read at any time
    _Alignas(64) _Atomic(uint64_t) token;
    _Atomic(uint64_t) layer_started_ns;
    _Atomic(uint32_t) ended_layers;
} state_t;
typedef struct {  // the same for whoever finds the process dead: kept in a file
    volatile uint64_t query;
    volatile uint32_t layer, is_running;
    volatile char name[NAME_BYTES];
} note_t;

// The cores and versions of a block. `number` grows with every grant of a gang.
typedef struct {
    uint64_t number;
    uint32_t cores, layers;
    uint16_t workers[];  // the leader first; behind them one byte a layer, its version
} grant_t;
typedef struct {
    uint64_t token, query;
    const program_t *program;
    const void *const *inputs, *const *answers;  // NULL: nothing to copy, nothing to compare
    uint32_t start, stop;
    grant_t *grant;
} block_t;

typedef struct {
    _Atomic(uint32_t) bell, asleep;
} sleeper_t;

typedef struct worker {
    _Alignas(64) sleeper_t sleeper;
    _Atomic(uint64_t) seat;       // number of the grant << 16 | leader + 1, or 0
    _Atomic(uint32_t) is_called;  // `block` is to be led
    _Atomic(grant_t *) pending;   // granted, not yet adopted
    // A parallel loop: fields of a job are written before its ticket, and not again before all of it is done.
    _Alignas(64) _Atomic(uint64_t) ticket;  // epoch << 24 | tasks << 12 | tasks claimed
    _Atomic(lambda_t) lambda;
    _Atomic(void *) data;
    _Atomic(uint64_t) number;  // of the grant: a core that was released has a lower one and can claim nothing
    _Alignas(64) _Atomic(uint32_t) done;
    _Atomic(uint32_t) has_failed, lost_core;
    _Atomic(uint32_t) members, to_wake;
    _Atomic(uint16_t) *member;
    // Its own.
    _Alignas(64) struct gang *gang;
    grant_t *grant;
    block_t block;
    uint64_t epoch, last_seat;
    uint32_t index, core;
    pthread_t thread;
    char error[TEXT_BYTES];
} worker_t;

typedef struct {
    _Atomic(uint64_t) turn;
    notice_t notice;
} cell_t;

typedef struct gang {
    worker_t *workers;
    state_t *states;
    note_t *notes;
    cell_t *ring;
    uint32_t cores, ring_size, started;
    int malleable;
    double tolerance;
    uint64_t number, head;  // the decider's
    _Alignas(64) _Atomic(uint64_t) tail;
    _Alignas(64) sleeper_t decider;
    _Atomic(uint32_t) is_poked, is_stopping, gone;
} gang_t;

static _Thread_local worker_t *self;
static _Thread_local bool in_task;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct timespec span(uint64_t ns) {
    return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

#ifdef GANG_CHECK
static void die(const char *what, uint32_t core) {
    fprintf(stderr, "gang: core %u %s\n", core, what);
    abort();
}
#endif

// Sleeping. Whoever sleeps announces it, then looks once more; whoever brings work leaves it, then looks
// whether someone is asleep: in sequentially consistent order one of them sees the other.

static long futex(_Atomic(uint32_t) *word, int what, uint32_t value, const struct timespec *timeout) {
    return syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

static void ring(sleeper_t *sleeper) {
    if (atomic_load(&sleeper->asleep) && atomic_exchange(&sleeper->asleep, 0)) {
        atomic_fetch_add(&sleeper->bell, 1);
        futex(&sleeper->bell, FUTEX_WAKE, 1, NULL);
    }
}

static int doze(sleeper_t *sleeper, bool (*has_work)(void *), void *owner, const struct timespec *timeout) {
    uint32_t bell = atomic_load(&sleeper->bell);
    int error = 0;
    atomic_store(&sleeper->asleep, 1);
    if (!has_work(owner) && futex(&sleeper->bell, FUTEX_WAIT, bell, timeout) != 0) error = errno;
    atomic_store(&sleeper->asleep, 0);
    return error;
}

// Notices: a ring that leaders fill and the decider empties.

static void tell(gang_t *gang, const notice_t *notice) {
    uint64_t place = atomic_fetch_add(&gang->tail, 1);
    cell_t *cell = &gang->ring[place & (gang->ring_size - 1)];
    while (atomic_load(&cell->turn) != place)
        sched_yield();  // full: the decider has not read for long
    cell->notice = *notice;
    atomic_store(&cell->turn, place + 1);
    ring(&gang->decider);
}

static bool is_there(gang_t *gang) {
    return atomic_load(&gang->ring[gang->head & (gang->ring_size - 1)].turn) == gang->head + 1;
}

static int read_notices(gang_t *gang, notice_t *notices, int most) {
    int count = 0;
    for (; count < most && is_there(gang); ++count, ++gang->head) {
        cell_t *cell = &gang->ring[gang->head & (gang->ring_size - 1)];
        notices[count] = cell->notice;
        atomic_store(&cell->turn, gang->head + gang->ring_size);
    }
    return count;
}

static bool decider_has_work(void *owner) {
    gang_t *gang = owner;
    return is_there(gang) || atomic_load(&gang->is_poked);
}

// Parallel loops.

static uint32_t tasks_of(uint64_t ticket) { return (uint32_t)(ticket >> 12) & MOST_TASKS; }
static uint32_t claimed_of(uint64_t ticket) { return (uint32_t)ticket & MOST_TASKS; }

// Run tasks of a leader's loop until none is left to claim; return whether there was one. If the claim
// succeeds, the ticket is the one read before the job's fields, so they are that job's: it could not end
// without this task.
static bool claim(worker_t *leader, uint64_t number) {
    uint32_t did = 0;
    uint64_t ticket = atomic_load(&leader->ticket);
    while (claimed_of(ticket) < tasks_of(ticket)) {
        lambda_t lambda = atomic_load_explicit(&leader->lambda, memory_order_relaxed);
        void *data = atomic_load_explicit(&leader->data, memory_order_relaxed);
        if (atomic_load_explicit(&leader->number, memory_order_relaxed) > number) break;
        GANG_PAUSE();
        if (!atomic_compare_exchange_strong(&leader->ticket, &ticket, ticket + 1)) continue;
        env_t env = {NULL, (int32_t)tasks_of(ticket)};
        if (lambda((int)claimed_of(ticket), &env, data) != 0) atomic_store(&leader->has_failed, 1);
        ++did;
        ticket = atomic_load(&leader->ticket);
    }
    if (did) atomic_fetch_add(&leader->done, did);
    return did;
}

// Ring the sleeping members one by one. Those who awake do the same, so that many cores wake each other.
static void wake_more(worker_t *leader) {
    uint32_t next;
    while ((next = atomic_fetch_add(&leader->to_wake, 1)) < atomic_load(&leader->members))
        ring(&leader->gang->workers[atomic_load(&leader->member[next])].sleeper);
}

static void wake_members(worker_t *leader) {
    uint32_t members = atomic_load_explicit(&leader->members, memory_order_relaxed);
    for (uint32_t i = 0; i < members; ++i) {
        uint32_t member = atomic_load_explicit(&leader->member[i], memory_order_relaxed);
        if (!atomic_load(&leader->gang->workers[member].sleeper.asleep)) continue;
        atomic_store(&leader->to_wake, i);
        wake_more(leader);
        return;
    }
}

static int run_loop(worker_t *leader, lambda_t lambda, void *data, uint32_t tasks) {
    atomic_store_explicit(&leader->done, 0, memory_order_relaxed);
    atomic_store_explicit(&leader->has_failed, 0, memory_order_relaxed);
    atomic_store_explicit(&leader->lambda, lambda, memory_order_relaxed);
    atomic_store_explicit(&leader->data, data, memory_order_relaxed);
    atomic_store_explicit(&leader->number, leader->grant->number, memory_order_relaxed);
    atomic_store(&leader->ticket, ++leader->epoch << 24 | (uint64_t)tasks << 12);
    wake_members(leader);
    in_task = true;
    claim(leader, leader->grant->number);
    in_task = false;
    for (uint32_t spins = 0; atomic_load(&leader->done) != tasks; ++spins) {
        if (spins < SPIN_NS / 16)
            _mm_pause();
        else
            sched_yield();
    }
    return atomic_load(&leader->has_failed) ? -1 : 0;
}

// What kernels call instead of TVM's own launch.
int gang_launch(lambda_t lambda, void *data, int wanted) {
    worker_t *leader = self;
    if (!leader) return atomic_load(&pool_launch)(lambda, data, wanted);
    uint32_t tasks = 1;
    if (!in_task) {
        tasks = wanted > 0 ? (uint32_t)wanted : leader->grant->cores * (leader->gang->malleable ? CHUNKS : 1);
        tasks = tasks < MOST_TASKS ? tasks : MOST_TASKS;
    }
    if (tasks > 1) return run_loop(leader, lambda, data, tasks);
    env_t env = {NULL, 1};
    return lambda(0, &env, data);
}

// Seats.

static uint64_t seat_at(const worker_t *leader, uint64_t number) { return number << 16 | (leader->index + 1); }

static void give_seat(worker_t *member, const worker_t *leader, uint64_t number) {
    uint64_t before = atomic_exchange(&member->seat, seat_at(leader, number));
    (void)before;
#ifdef GANG_CHECK
    bool is_others = before && (before & 0xffff) != leader->index + 1;
    if (is_others) die("is granted to two blocks at once", member->core);
    if (atomic_load(&member->gang->states[member->index].token)) die("leads another block", member->core);
#endif
}

// Seat the members of a grant, and release the cores of former grants that it lacks.
static void take_seats(worker_t *leader, const grant_t *grant) {
    gang_t *gang = leader->gang;
    for (uint32_t i = 1; i < grant->cores; ++i) {
        atomic_store(&leader->member[i - 1], grant->workers[i]);
        give_seat(&gang->workers[grant->workers[i]], leader, grant->number);
    }
    atomic_store(&leader->members, grant->cores - 1);
    for (uint32_t i = 0; i < gang->cores; ++i) {
        uint64_t seat = atomic_load(&gang->workers[i].seat);
        if ((seat & 0xffff) == leader->index + 1 && seat >> 16 < grant->number)
            atomic_compare_exchange_strong(&gang->workers[i].seat, &seat, 0);
    }
    wake_members(leader);
}

static void leave_seats(worker_t *leader) {
    gang_t *gang = leader->gang;
    atomic_store(&leader->members, 0);
    for (uint32_t i = 0; i < gang->cores; ++i) {
        uint64_t seat = atomic_load(&gang->workers[i].seat);
        if ((seat & 0xffff) == leader->index + 1) atomic_store(&gang->workers[i].seat, 0);
    }
}

// Samples and answers.

static void put_in(const block_t *block) {
    for (uint32_t i = 0; block->inputs && i < block->program->input_count; ++i) {
        const array_t *input = &block->program->inputs[i];
        memcpy(input->data, block->inputs[i], input->items * input->item_bytes);
    }
}

static uint32_t count_wrong(const gang_t *gang, const block_t *block) {
    uint32_t wrong = 0;
    for (uint32_t i = 0; block->answers && i < block->program->output_count; ++i)
        wrong += gang_relative_error(&block->program->outputs[i], block->answers[i]) > gang->tolerance;
    return wrong;
}

// Leading a block.

static bool is_on_its_core(const worker_t *worker) {
#ifdef GANG_UNPINNED
    (void)worker;
    return true;
#else
    return (uint32_t)sched_getcpu() == worker->core;
#endif
}

static void adopt(worker_t *leader, const block_t *block, uint32_t layer) {
    grant_t *grant = atomic_exchange(&leader->pending, NULL);
    free(leader->grant);
    leader->grant = grant;
    take_seats(leader, grant);
    notice_t notice = {block->token, grant->number, now_ns(), 0, ADOPTED, OK, layer - block->start, 0};
    tell(leader->gang, &notice);
}

static const call_t *call_of(const block_t *block, const grant_t *grant, uint32_t layer) {
    uint8_t version = ((const uint8_t *)&grant->workers[grant->cores])[layer - block->start];
    return &block->program->calls[(uint64_t)layer * block->program->versions + version];
}

static uint32_t run_layers(worker_t *leader, const block_t *block, notice_t *end) {
    state_t *state = &leader->gang->states[leader->index];
    note_t *note = &leader->gang->notes[leader->index];
    uint64_t began_ns = now_ns();
    for (uint32_t layer = block->start; layer < block->stop; ++layer) {
        atomic_store_explicit(&state->layer_started_ns, began_ns, memory_order_relaxed);
        if (atomic_load_explicit(&leader->pending, memory_order_relaxed)) adopt(leader, block, layer);
        note->layer = layer;
        const call_t *call = call_of(block, leader->grant, layer);
        any_t result = {0, 0, 0};
        int failed = call->function(call->self, call->arguments, (int32_t)call->count, &result);
        if (failed) return KERNEL_FAILED;
        uint64_t ended_ns = now_ns();
        block->program->layer_ns[layer] = ended_ns - began_ns;
        end->busy_ns += ended_ns - began_ns;
        began_ns = ended_ns;
        atomic_store_explicit(&state->ended_layers, ++end->ended_layers, memory_order_relaxed);
    }
    return OK;
}

// Everything that belongs to the block is given back before its end is told: the next one may come at once.
static void lead(worker_t *leader) {
    gang_t *gang = leader->gang;
    block_t block = leader->block;
    notice_t end = {.token = block.token, .number = block.grant->number, .kind = ENDED};
    note_t *note = &gang->notes[leader->index];
    note->query = block.query;
    for (uint32_t i = 0; i < NAME_BYTES; ++i)
        note->name[i] = block.program->name[i];
    note->is_running = 1;
    leader->grant = block.grant;
    take_seats(leader, block.grant);
    atomic_store(&leader->lost_core, is_on_its_core(leader) ? 0 : leader->core + 1);
    put_in(&block);
    end.code = run_layers(leader, &block, &end);
    if (end.code == KERNEL_FAILED)
        tell_error(leader->error, TEXT_BYTES);
    else
        end.wrong_outputs = count_wrong(gang, &block);
    uint32_t lost = atomic_load(&leader->lost_core);
    if (end.code == OK && lost) {
        end.code = CORE_LOST;
        snprintf(leader->error, TEXT_BYTES, "%u", lost - 1);
    }
    note->is_running = 0;
    atomic_store(&gang->states[leader->index].token, 0);
    GANG_PAUSE();
    leave_seats(leader);
    GANG_PAUSE();
    end.number = leader->grant->number;
    free(leader->grant);
    leader->grant = NULL;
    end.time_ns = now_ns();
    tell(gang, &end);
}

// A worker's life.

static bool can_claim(worker_t *worker, uint64_t seat) {
    if (!seat) return false;
    worker_t *leader = &worker->gang->workers[(seat & 0xffff) - 1];
    uint64_t ticket = atomic_load(&leader->ticket);
    return claimed_of(ticket) < tasks_of(ticket) && atomic_load(&leader->number) <= seat >> 16;
}

static bool has_work(void *owner) {
    worker_t *worker = owner;
    return atomic_load(&worker->is_called) || atomic_load(&worker->gang->is_stopping) ||
           can_claim(worker, atomic_load(&worker->seat));
}

static bool help(worker_t *worker) {
    uint64_t seat = atomic_load_explicit(&worker->seat, memory_order_acquire);
    if (!can_claim(worker, seat)) return false;
    worker_t *leader = &worker->gang->workers[(seat & 0xffff) - 1];
    GANG_PAUSE();
    in_task = true;
    bool did = claim(leader, seat >> 16);
    in_task = false;
    bool is_lost = seat != worker->last_seat && !is_on_its_core(worker);
    if (is_lost) atomic_store(&leader->lost_core, worker->core + 1);
    worker->last_seat = seat;
    return did;
}

// Return whether the worker was asleep: whoever woke it has work for it soon.
static bool rest(worker_t *worker, uint64_t idle_ns) {
    if (idle_ns < SPIN_NS) {
        for (int i = 0; i < 16; ++i)
            _mm_pause();
        return false;
    }
    if (idle_ns < (atomic_load_explicit(&worker->seat, memory_order_relaxed) ? SEATED_NS : YIELD_NS)) {
        sched_yield();
        return false;
    }
    doze(&worker->sleeper, has_work, worker, NULL);
    uint64_t seat = atomic_load(&worker->seat);
    if (seat) wake_more(&worker->gang->workers[(seat & 0xffff) - 1]);
    return true;
}

static const int CRASHES[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

static void *work(void *argument) {
    worker_t *worker = self = argument;
    // Kernels fill every core, so whoever decides and whoever issues queries must get one at once when they
    // wake. Some containers forbid it: then they wait for a time slice.
#ifndef GANG_UNPINNED
    sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
#endif
    pthread_setname_np(pthread_self(), "gang");
    sigset_t signals;  // left to the threads of Python; but a crash is this thread's own
    sigfillset(&signals);
    for (size_t i = 0; i < sizeof CRASHES / sizeof *CRASHES; ++i)
        sigdelset(&signals, CRASHES[i]);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    for (uint64_t busy_ns = now_ns();;) {
        if (atomic_load_explicit(&worker->is_called, memory_order_acquire)) {
            atomic_store(&worker->is_called, 0);
            lead(worker);
            busy_ns = now_ns();
        } else if (help(worker)) {
            busy_ns = now_ns();
        } else if (atomic_load(&worker->gang->is_stopping)) {
            atomic_fetch_add(&worker->gang->gone, 1);
            futex(&worker->gang->gone, FUTEX_WAKE, 1, NULL);
            return NULL;
        } else {
            if (rest(worker, now_ns() - busy_ns)) busy_ns = now_ns();
        }
    }
}

// What Python calls.

static int pin(pthread_attr_t *attributes, uint32_t core) {
#ifdef GANG_UNPINNED
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

static int start_worker(gang_t *gang, uint32_t index, uint32_t core) {
    worker_t *worker = &gang->workers[index];
    worker->gang = gang, worker->index = index, worker->core = core;
    worker->member = calloc(gang->cores, sizeof *worker->member);
    if (!worker->member) return ENOMEM;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    error = pin(&attributes, core);
    if (!error) error = pthread_create(&worker->thread, &attributes, work, worker);
    pthread_attr_destroy(&attributes);
    gang->started += !error;
    return error;
}

static note_t *map_notes(const char *path, size_t size) {
    if (!path) {
        note_t *notes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return notes == MAP_FAILED ? NULL : notes;
    }
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return NULL;
    note_t *notes = MAP_FAILED;
    if (posix_fallocate(file, 0, (off_t)size) == 0)
        notes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return notes == MAP_FAILED ? NULL : notes;
}

static void forget(gang_t *gang) {
    for (uint32_t i = 0; gang->workers && i < gang->cores; ++i) {
        free(atomic_load(&gang->workers[i].pending));
        free(gang->workers[i].member);
    }
    if (gang->notes) munmap(gang->notes, gang->cores * sizeof(note_t));
    free(gang->workers);
    free(gang->states);
    free(gang->ring);
    free(gang);
}

// Let the blocks under way end and the workers go. Returns how many threads were not gone in time: a kernel
// that hangs cannot be ended, so then the gang is left as it is, and the process has to end.
int gang_close(gang_t *gang, int64_t timeout_ns) {
    uint64_t until_ns = now_ns() + (uint64_t)timeout_ns;
    atomic_store(&gang->is_stopping, 1);
    for (uint32_t i = 0; i < gang->started; ++i)
        ring(&gang->workers[i].sleeper);
    uint32_t gone;
    for (uint64_t time_ns; (gone = atomic_load(&gang->gone)) < gang->started;) {
        if ((time_ns = now_ns()) >= until_ns) return (int)(gang->started - gone);
        struct timespec left = span(until_ns - time_ns);
        futex(&gang->gone, FUTEX_WAIT, gone, &left);
    }
    for (uint32_t i = 0; i < gang->started; ++i)
        pthread_join(gang->workers[i].thread, NULL);
    forget(gang);
    return 0;
}

// Start a worker on each core. Returns NULL and sets `error` (an errno) and `failed` (the place of the core
// that is to blame, or -1).
gang_t *gang_open(const uint32_t *cores, uint32_t count, int malleable, double tolerance, const char *notes, int *error,
                  int *failed) {
    gang_t *gang = aligned_alloc(64, sizeof *gang);
    *failed = -1;
    *error = ENOMEM;
    if (!gang) return NULL;
    memset(gang, 0, sizeof *gang);
    gang->cores = count, gang->malleable = malleable, gang->tolerance = tolerance;
    for (gang->ring_size = 64; gang->ring_size < 8 * count; gang->ring_size *= 2) {
    }
    gang->workers = aligned_alloc(64, count * sizeof(worker_t));
    gang->states = aligned_alloc(64, count * sizeof(state_t));
    gang->ring = calloc(gang->ring_size, sizeof(cell_t));
    if (gang->workers) memset(gang->workers, 0, count * sizeof(worker_t));
    if (gang->states) memset(gang->states, 0, count * sizeof(state_t));
    if (gang->workers && gang->states && gang->ring) {
        errno = ENOMEM;
        gang->notes = map_notes(notes, count * sizeof(note_t));
        *error = gang->notes ? 0 : errno;
    }
    for (uint32_t i = 0; !*error && i < gang->ring_size; ++i)
        atomic_store(&gang->ring[i].turn, i);
    for (uint32_t i = 0; !*error && i < count; ++i) {
        *error = start_worker(gang, i, cores[i]);
        if (*error) *failed = (int)i;
    }
    if (!*error) return gang;
    gang_close(gang, INT64_C(60000000000));
    return NULL;
}

static grant_t *make_grant(gang_t *gang, const uint16_t *workers, uint32_t cores, const uint8_t *versions,
                           uint32_t layers) {
    grant_t *grant = malloc(sizeof *grant + cores * sizeof *workers + layers);
    if (!grant) return NULL;
    grant->number = ++gang->number, grant->cores = cores, grant->layers = layers;
    memcpy(grant->workers, workers, cores * sizeof *workers);
    memcpy(&grant->workers[cores], versions, layers);
    return grant;
}

static int check(const gang_t *gang, const block_t *block, const uint16_t *workers, uint32_t cores,
                 const uint8_t *versions) {
    for (uint32_t i = 0; i < cores; ++i)
        if (workers[i] >= gang->cores) return NO_CORE;
    for (uint32_t layer = block->start; layer < block->stop; ++layer) {
        uint32_t version = versions[layer - block->start];
        if (version >= block->program->versions) return NO_CALL;
        const call_t *calls = &block->program->calls[(uint64_t)layer * block->program->versions];
        if (!calls[version].function) return NO_CALL;
    }
    return OK;
}

// Let the first of some workers lead layers [start, stop) of a program: one version a layer. Returns the
// number of the grant, or what is wrong. `inputs` and `answers` may be NULL.
int64_t gang_start(gang_t *gang, uint64_t token, uint64_t query, const program_t *program, uint32_t start,
                   uint32_t stop, const uint16_t *workers, uint32_t cores, const uint8_t *versions,
                   const void *const *inputs, const void *const *answers) {
    block_t block = {token, query, program, inputs, answers, start, stop, NULL};
    if (!cores || start >= stop || stop > program->layers) return NO_CALL;
    int wrong = check(gang, &block, workers, cores, versions);
    if (wrong) return wrong;
    worker_t *leader = &gang->workers[workers[0]];
    state_t *state = &gang->states[workers[0]];
    if (atomic_load(&state->token)) return CORE_BUSY;
#ifdef GANG_CHECK
    if (atomic_load(&leader->seat)) die("is granted to two blocks at once", leader->core);
#endif
    if (!(block.grant = make_grant(gang, workers, cores, versions, stop - start))) return NO_MEMORY;
    free(atomic_exchange(&leader->pending, NULL));  // one that came too late for the block before
    int64_t number = (int64_t)block.grant->number;
    leader->block = block;
    atomic_store(&state->ended_layers, 0);
    atomic_store(&state->layer_started_ns, now_ns());
    atomic_store(&state->token, token);
    atomic_store(&leader->is_called, 1);
    ring(&leader->sleeper);
    return number;
}

// Grant a running block other cores, its leader first, and versions: adopted at its next layer end. Where
// blocks are malleable, cores that it gains help with the running layer. Returns the number of the grant,
// NOT_RUNNING if the block has just ended, or what is wrong.
int64_t gang_resize(gang_t *gang, uint64_t token, uint32_t leading, const uint16_t *workers, uint32_t cores,
                    const uint8_t *versions) {
    if (!cores || leading >= gang->cores) return NO_CORE;
    if (workers[0] != leading) return NOT_FIRST;
    worker_t *leader = &gang->workers[leading];
    state_t *state = &gang->states[leading];
    if (atomic_load(&state->token) != token) return NOT_RUNNING;
    const block_t *block = &leader->block;
    int wrong = check(gang, block, workers, cores, versions);
    if (wrong) return wrong;
    grant_t *grant = make_grant(gang, workers, cores, versions, block->stop - block->start);
    if (!grant) return NO_MEMORY;
    int64_t number = (int64_t)grant->number;
    GANG_PAUSE();
    for (uint32_t i = 1; gang->malleable && i < cores; ++i) {
        worker_t *member = &gang->workers[workers[i]];
        give_seat(member, leader, grant->number);
        ring(&member->sleeper);
    }
    GANG_PAUSE();
    free(atomic_exchange(&leader->pending, grant));  // one that was not adopted
    // If the block ended meanwhile, its leader may have looked at the seats before they were given.
    if (gang->malleable && atomic_load(&state->token) != token)
        for (uint32_t i = 1; i < cores; ++i)
            atomic_store(&gang->workers[workers[i]].seat, 0);
    return number;
}

// Wait for notices, a poke, a signal or the timeout (below 0: none), and return how many notices were read.
int gang_wait(gang_t *gang, notice_t *notices, int most, int64_t timeout_ns) {
    uint64_t until_ns = timeout_ns < 0 ? UINT64_MAX : now_ns() + (uint64_t)timeout_ns;
    for (;;) {
        int count = read_notices(gang, notices, most);
        if (count || atomic_exchange(&gang->is_poked, 0)) return count;
        uint64_t time_ns = timeout_ns < 0 ? 0 : now_ns();
        if (timeout_ns >= 0 && time_ns >= until_ns) return 0;
        struct timespec left = span(until_ns - time_ns);
        if (doze(&gang->decider, decider_has_work, gang, timeout_ns < 0 ? NULL : &left) == EINTR) return 0;
    }
}

// End a wait, from any thread.
void gang_poke(gang_t *gang) {
    atomic_store(&gang->is_poked, 1);
    ring(&gang->decider);
}

const state_t *gang_states(const gang_t *gang) { return gang->states; }
const char *gang_error(const gang_t *gang, uint32_t worker) { return gang->workers[worker].error; }

// A kernel that does nothing, to measure what all else costs.
int gang_nothing(void *object, const any_t *arguments, int32_t count, any_t *result) {
    (void)object, (void)arguments, (void)count, (void)result;
    return 0;
}

// One that takes as long as a decision, so that arrivals are heeded while it runs, not after its end.
int gang_pass_time(void *object, const any_t *arguments, int32_t count, any_t *result) {
    (void)object, (void)arguments, (void)count, (void)result;
    for (uint64_t until_ns = now_ns() + YIELD_NS; now_ns() < until_ns;)
        _mm_pause();
    return 0;
}
