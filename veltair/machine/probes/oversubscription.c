/* Measures what sharing cores costs: oversubscription TEAMS PASSES SECONDS REPEATS BYTES CORE...
 *
 * Each team has a thread pinned to each core. In each round a thread reads a buffer of BYTES of its own PASSES times, and
 * then waits for the others of its team as the threads of ONNX Runtime do by default: it spins for a million pauses, which
 * is longer than its turn on the core lasts (onnxruntime's EigenNonBlockingThreadPool.h). Prints the rounds/s of all teams
 * together, one number a repeat.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pinned_threads.h"

enum { PAUSES = 1 << 20 };

typedef struct {
    _Alignas(64) _Atomic(int) arrived;
    _Alignas(64) _Atomic(int) round;  // how many are over
    _Atomic(int) last;                // after which the repeat is over: of an earlier one, or that under way
    _Alignas(64) double *rates;
} team_t;

typedef struct {
    pthread_t thread;
    team_t *team;
    int core, leads;
} member_t;

static int team_size, repeats, passes;
static double seconds;
static size_t bytes;
static pthread_barrier_t start;
static volatile uint64_t sink;

static void work(const uint64_t *buffer) {
    uint64_t sum = 0;
    for (int pass = 0; pass < passes; pass++)
        for (size_t word = 0; word < bytes / sizeof *buffer; word++)
            sum += buffer[word] * (uint64_t)(pass + 1);
    sink = sum;
}

static void meet(team_t *team, int round) {
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team_size) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->round, round + 1);
        return;
    }
    for (int pauses = 0; atomic_load(&team->round) == round; pauses++)
        if (pauses < PAUSES)
            _mm_pause();
        else
            sched_yield();
}

static void *take_part(void *argument) {
    const member_t *member = argument;
    team_t *team = member->team;
    pin(member->core);
    uint64_t *buffer = aligned_alloc(64, bytes);
    if (!buffer) {
        fprintf(stderr, "no memory for %zu bytes a thread\n", bytes);
        exit(1);
    }
    memset(buffer, 1, bytes);
    int round = 0;
    for (int repeat = 0; repeat < repeats; repeat++) {
        pthread_barrier_wait(&start);
        double begin = now();
        int first = round;
        do {
            work(buffer);
            /* All of its team know which round is the last before that is over. */
            if (member->leads && now() - begin >= seconds) atomic_store(&team->last, round + 1);
            meet(team, round++);
        } while (atomic_load(&team->last) != round);
        if (member->leads) team->rates[repeat] = (round - first) / (now() - begin);
    }
    free(buffer);
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 7) {
        fprintf(stderr, "usage: %s TEAMS PASSES SECONDS REPEATS BYTES CORE...\n", arguments[0]);
        return 2;
    }
    int teams = atoi(arguments[1]);
    passes = atoi(arguments[2]), seconds = atof(arguments[3]), repeats = atoi(arguments[4]);
    bytes = strtoull(arguments[5], NULL, 10) / 64 * 64;
    team_size = count - 6;
    team_t *all = aligned_alloc(64, (size_t)teams * sizeof *all);
    member_t *members = calloc((size_t)teams * team_size, sizeof *members);
    if (!all || !members) return 1;
    memset(all, 0, (size_t)teams * sizeof *all);
    pthread_barrier_init(&start, NULL, (unsigned)(teams * team_size));
    for (int index = 0; index < teams * team_size; index++) {
        team_t *team = &all[index / team_size];
        if (index % team_size == 0) team->rates = calloc((size_t)repeats, sizeof *team->rates);
        members[index] = (member_t){.team = team, .core = atoi(arguments[6 + index % team_size])};
        members[index].leads = index % team_size == 0;
    }
    for (int index = 0; index < teams * team_size; index++)
        if (pthread_create(&members[index].thread, NULL, take_part, &members[index]) != 0) {
            perror("cannot start a thread");
            return 1;
        }
    for (int index = 0; index < teams * team_size; index++)
        pthread_join(members[index].thread, NULL);
    for (int repeat = 0; repeat < repeats; repeat++) {
        double total = 0;
        for (int team = 0; team < teams; team++)
            total += all[team].rates[repeat];
        printf("%.6e\n", total);
    }
    return 0;
}
