/* Measures this machine: probe (fma|read) SECONDS REPEATS BYTES CORE...
 *
 * One thread pinned to each core. Prints the bits of the vectors it was compiled for, then one number a repeat,
 * summed over the threads: the FLOP/s of fused multiply-adds in registers (fma), or the bytes/s of reading a buffer
 * of BYTES a thread over and over (read).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "pinned_threads.h"

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

/* Enough independent chains to hide the latency of the multiply-adds, few enough to stay in registers. */
#if defined(__x86_64__) && !defined(__AVX512F__)
#define CHAINS 12
#else
#define CHAINS 16
#endif

#define LANES (VECTOR_BYTES / (int)sizeof(float))
#define ROUNDS 4096

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));

enum mode { FMA, READ, MODES };
static const char *const names[MODES] = {"fma", "read"};

struct worker {
    pthread_t thread;
    int core;
    enum mode mode;
    int repeats;
    double seconds;
    size_t bytes;
    double *rates;
};

static pthread_barrier_t barrier;
static volatile uint64_t sink;

static void *allocate(size_t bytes) {
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        perror("cannot allocate the buffer to read");
        exit(1);
    }
    madvise(buffer, bytes, MADV_HUGEPAGE);
    memset(buffer, 1, bytes);
    return buffer;
}

/* Returns the operations done. The chains start below 1 and tend to 0.5: never subnormal, never infinite. */
static double multiply_add(void) {
    const vector factor = (vector){0} + 0.5f, term = (vector){0} + 0.25f;
    vector chains[CHAINS];
    for (int chain = 0; chain < CHAINS; chain++)
        chains[chain] = (vector){0} + 0.01f * (float)(chain + 1);
    for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 16
        for (int chain = 0; chain < CHAINS; chain++)
            chains[chain] = chains[chain] * factor + term;
    }
    for (int chain = 1; chain < CHAINS; chain++)
        chains[0] += chains[chain];
    sink = (uint64_t)chains[0][0];
    return 2.0 * LANES * CHAINS * ROUNDS;
}

static double read_all(const uint64_t *buffer, size_t bytes) {
    uint64_t sum = 0;
    for (size_t word = 0; word < bytes / sizeof *buffer; word++)
        sum += buffer[word];
    sink = sum;
    return (double)bytes;
}

static double one_turn(const struct worker *worker, const void *buffer) {
    return worker->mode == FMA ? multiply_add() : read_all(buffer, worker->bytes);
}

static void *work(void *argument) {
    struct worker *worker = argument;
    pin(worker->core);
    void *buffer = worker->mode == FMA ? NULL : allocate(worker->bytes);
    for (int repeat = 0; repeat < worker->repeats; repeat++) {
        double done = 0, elapsed = 0;
        pthread_barrier_wait(&barrier);
        double start = now();
        while (elapsed < worker->seconds) {
            done += one_turn(worker, buffer);
            elapsed = now() - start;
        }
        worker->rates[repeat] = done / elapsed;
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 6) {
        fprintf(stderr, "usage: %s (fma|read) SECONDS REPEATS BYTES CORE...\n", arguments[0]);
        return 2;
    }
    enum mode mode = FMA;
    while (mode < MODES && strcmp(arguments[1], names[mode]) != 0)
        mode++;
    if (mode == MODES) {
        fprintf(stderr, "%s cannot be measured\n", arguments[1]);
        return 2;
    }
    int threads = count - 5, repeats = atoi(arguments[3]);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int index = 0; index < threads; index++) {
        struct worker *worker = &workers[index];
        worker->core = atoi(arguments[5 + index]);
        worker->mode = mode;
        worker->repeats = repeats;
        worker->seconds = atof(arguments[2]);
        worker->bytes = strtoull(arguments[4], NULL, 10);
        worker->rates = calloc((size_t)repeats, sizeof *worker->rates);
        if (pthread_create(&worker->thread, NULL, work, worker) != 0) {
            perror("cannot start a thread");
            return 1;
        }
    }
    for (int index = 0; index < threads; index++)
        pthread_join(workers[index].thread, NULL);
    printf("%d\n", 8 * VECTOR_BYTES);
    for (int repeat = 0; repeat < repeats; repeat++) {
        double total = 0;
        for (int index = 0; index < threads; index++)
            total += workers[index].rates[repeat];
        printf("%.6e\n", total);
    }
    return 0;
}
