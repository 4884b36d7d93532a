/* Reads memory and says how long that took, so that a slower read than on a quiet machine tells of others.
 *
 * Times are processor time of the calling thread: one that had to wait for its core is not taken for one that
 * had to wait for memory.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "pressure_probe.h"

#define LINE 64

static volatile uint64_t sink;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Returns memory, each page of it touched; NULL if there is not enough. */
void *buffer_new(size_t bytes) {
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) return NULL;
    madvise(buffer, bytes, MADV_HUGEPAGE);
    memset(buffer, 1, bytes);
    return buffer;
}

void buffer_free(void *buffer, size_t bytes) { munmap(buffer, bytes); }

/* Reads every cache line of a buffer once, in order. Returns seconds. */
double read_lines(const char *buffer, size_t bytes) {
    uint64_t sum = 0;
    double start = now();
    for (size_t byte = 0; byte < bytes; byte += LINE)
        sum += (unsigned char)buffer[byte];
    sink = sum;
    return now() - start;
}
