/* Puts a steady pressure on the caches and memory of this machine, from one core, until it is told to stop:
 *
 *     corunner CORE FOOTPRINT_BYTES STREAM_BYTES DRAM_BYTES_PER_S DUTY PARENT [writes]
 *
 * Time is cut into slices of 100 us. In each, it streams its share of DRAM_BYTES_PER_S from a buffer of
 * STREAM_BYTES (larger than any L3), then touches the next part of a buffer of FOOTPRINT_BYTES for the fraction
 * DUTY of what is left of the slice, then spins. A rate above what one core can stream leaves the footprint a
 * quarter of each slice. Prints "ready" when warm, and on SIGTERM one line: seconds, bytes streamed, bytes
 * touched. With "writes" the stream is one of stores that pass the caches by. PARENT is the process it belongs
 * to; it dies with it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define LINE 64
#define CHUNK 4096
#define AHEAD 1024
#define SLICE_S 100e-6
#define STREAM_LIMIT 0.75
#define WARM_SLICES 200

struct walk {
    char *buffer;
    size_t bytes;
    size_t at;
    double done;
};

static volatile sig_atomic_t stopped;
static volatile uint64_t sink;
static int writes;

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void pin(int core) {
    size_t size = CPU_ALLOC_SIZE(core + 1);
    cpu_set_t *set = CPU_ALLOC(core + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S(core, size, set);
    if (sched_setaffinity(0, size, set) != 0) fail("cannot pin the co-runner to its core");
    CPU_FREE(set);
}

/* The size is rounded up to whole chunks; no bytes, no buffer. */
static struct walk make_walk(size_t bytes) {
    struct walk walk = {NULL, (bytes + CHUNK - 1) / CHUNK * CHUNK, 0, 0};
    if (walk.bytes == 0) return walk;
    char *buffer = mmap(NULL, walk.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) fail("cannot allocate the co-runner's buffer");
    madvise(buffer, walk.bytes, MADV_HUGEPAGE);
    memset(buffer, 1, walk.bytes);
    walk.buffer = buffer;
    return walk;
}

static void advance(struct walk *walk) {
    walk->at += CHUNK;
    if (walk->at == walk->bytes) walk->at = 0;
    walk->done += CHUNK;
}

/* Reads a chunk with the hint not to keep it, so that a stream adds DRAM traffic but little L3 footprint. */
static void stream(struct walk *walk) {
    const char *chunk = walk->buffer + walk->at;
    uint64_t sum = 0;
    for (size_t byte = 0; byte < CHUNK; byte += LINE) {
        __builtin_prefetch(chunk + byte + AHEAD, 0, 0);
        sum += (unsigned char)chunk[byte];
    }
    sink = sum;
    advance(walk);
}

/* Writes a chunk; without SSE2 through the caches, as there is no portable way around them. */
static void stream_writes(struct walk *walk) {
    char *chunk = walk->buffer + walk->at;
#ifdef __SSE2__
    for (size_t byte = 0; byte < CHUNK; byte += sizeof(__m128i))
        _mm_stream_si128((__m128i *)(chunk + byte), _mm_set1_epi8(1));
#else
    memset(chunk, 1, CHUNK);
#endif
    advance(walk);
}

static void touch(struct walk *walk) {
    const char *chunk = walk->buffer + walk->at;
    uint64_t sum = 0;
    for (size_t byte = 0; byte < CHUNK; byte += LINE)
        sum += (unsigned char)chunk[byte];
    sink = sum;
    advance(walk);
}

/* Runs one slice and returns when the next begins. Time lost to other processes is not made up for: the
 * pressure stays at most the one asked for. `owed` carries what does not fill a chunk to the next slice. */
static double run_slice(struct walk *dram, struct walk *l3, double rate, double duty, double start, double *owed) {
    void (*move)(struct walk *) = writes ? stream_writes : stream;
    double limit = start + (l3->bytes ? STREAM_LIMIT : 1.0) * SLICE_S, time = now();
    *owed += rate * SLICE_S;
    while (dram->bytes && *owed >= CHUNK && time < limit) {
        move(dram);
        *owed -= CHUNK;
        time = now();
    }
    if (*owed > CHUNK) *owed = CHUNK;
    double end = start + SLICE_S, rest = time + duty * (end - time);
    while (l3->bytes && time < rest) {
        touch(l3);
        time = now();
    }
    while (time < end)
        time = now();
    return time < end + SLICE_S ? end : time;
}

int main(int count, char **arguments) {
    writes = count == 8 && strcmp(arguments[7], "writes") == 0;
    if (count != 7 + writes) {
        fprintf(stderr, "usage: %s CORE FOOTPRINT_BYTES STREAM_BYTES DRAM_BYTES_PER_S DUTY PARENT [writes]\n",
                arguments[0]);
        return 2;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != (pid_t)atol(arguments[6])) return 3;
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    signal(SIGINT, SIG_IGN);
    pin(atoi(arguments[1]));
    struct walk l3 = make_walk(strtoull(arguments[2], NULL, 10));
    struct walk dram = make_walk(strtoull(arguments[3], NULL, 10));
    double rate = atof(arguments[4]), duty = atof(arguments[5]), owed = 0, begin = now(), slice = begin;
    for (size_t byte = 0; byte < l3.bytes; byte += CHUNK)
        touch(&l3);
    for (int warm = 0; warm < WARM_SLICES && !stopped; warm++)
        slice = run_slice(&dram, &l3, rate, duty, slice, &owed);
    l3.done = dram.done = 0;
    begin = slice = now();
    printf("ready\n");
    fflush(stdout);
    while (!stopped)
        slice = run_slice(&dram, &l3, rate, duty, slice, &owed);
    printf("%.9f %.0f %.0f\n", now() - begin, dram.done, l3.done);
    return 0;
}
