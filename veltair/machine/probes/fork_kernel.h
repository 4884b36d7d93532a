// The kernel of the fork probe, as Python reads it.

#ifndef FORK_KERNEL_H
#define FORK_KERNEL_H

#include <stdint.h>

#ifdef VELTAIR_CFFI  // which reads no _Atomic: the bytes are the same
#define ATOMIC(type) type
#else
#define ATOMIC(type) _Atomic(type)
#endif

typedef struct {  // what workers take for a function object of TVM's, and what was measured
    uint64_t header[3];
    void *safe_call;
    uint64_t launch_ns;
    uint64_t join_ns;
    ATOMIC(uint64_t) met_ns;
    uint32_t tasks;
    ATOMIC(uint32_t) arrived;
} fork_t;

int fork_and_join(void *self, const void *arguments, int32_t count, void *result);

#endif
