// The log of a live run: whoever decides writes it, one thread of Python reads it, and neither waits for the other.

#ifndef LIVE_LOG_H
#define LIVE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "live_loop.h"

enum { CHUNK_BYTES = 1 << 16, ALIGNMENT = 8 };

typedef struct chunk {
    _Atomic(struct chunk *) next;  // set once nothing more is written here
    _Atomic(uint32_t) written;
    _Alignas(ALIGNMENT) char bytes[CHUNK_BYTES];
} chunk_t;

typedef struct {
    chunk_t *last;           // the writer's
    chunk_t *first;          // the reader's, and how much of it was read
    uint32_t read;
} event_log_t;

static inline bool open_log(event_log_t *log) {
    log->first = log->last = calloc(1, sizeof *log->first);
    return log->first;
}

static inline void close_log(event_log_t *log) {
    for (chunk_t *chunk = log->first; chunk;) {
        chunk_t *next = atomic_load(&chunk->next);
        free(chunk);
        chunk = next;
    }
}

// Return where the writer is to put so many bytes, at most CHUNK_BYTES; NULL without memory.
static inline char *room_in_log(event_log_t *log, uint32_t bytes) {
    chunk_t *last = log->last;
    if (atomic_load_explicit(&last->written, memory_order_relaxed) + bytes > CHUNK_BYTES) {
        chunk_t *next = calloc(1, sizeof *next);
        if (!next) return NULL;
        // Release: who sees `next` sees all that was written here, so it can leave this chunk once it has read that.
        atomic_store_explicit(&last->next, next, memory_order_release);
        log->last = last = next;
    }
    return &last->bytes[atomic_load_explicit(&last->written, memory_order_relaxed)];
}

// Write an entry with two arrays behind it, of which it says how long they are together. False without memory.
static inline bool write_entry(event_log_t *log, const entry_t *entry, const void *one, size_t one_bytes,
                               const void *other, size_t other_bytes) {
    uint32_t bytes = (uint32_t)(sizeof *entry + one_bytes + other_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *room = bytes <= CHUNK_BYTES ? room_in_log(log, bytes) : NULL;
    if (!room) return false;
    entry_t *written = (entry_t *)room;
    *written = *entry;
    written->extra_bytes = (uint32_t)(one_bytes + other_bytes);
    if (one_bytes) memcpy(room + sizeof *entry, one, one_bytes);
    if (other_bytes) memcpy(room + sizeof *entry + one_bytes, other, other_bytes);
    // Release: the reader sees whole entries. Only the writer adds, so it need not be one operation.
    uint32_t before = atomic_load_explicit(&log->last->written, memory_order_relaxed);
    atomic_store_explicit(&log->last->written, before + bytes, memory_order_release);
    return true;
}

// Acquire: `written` is read after `next`, so of a chunk that was left it is the last word.
static inline bool has_entries(event_log_t *log) {
    chunk_t *next = atomic_load_explicit(&log->first->next, memory_order_acquire);
    if (log->read < atomic_load_explicit(&log->first->written, memory_order_acquire)) return true;
    if (!next) return false;
    free(log->first);
    log->first = next;
    log->read = 0;
    return has_entries(log);
}

// Copy what has been written since into `to`, whole entries only, at most so many bytes; return how many were copied.
static inline int64_t read_entries(event_log_t *log, char *to, int64_t most) {
    int64_t copied = 0;
    while (has_entries(log)) {
        const entry_t *entry = (const entry_t *)&log->first->bytes[log->read];
        uint32_t bytes = (uint32_t)(sizeof *entry + entry->extra_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        if (copied + bytes > most) break;
        memcpy(to + copied, entry, bytes);
        copied += bytes;
        log->read += bytes;
    }
    return copied;
}

#endif
