// The kernels of pool_kernels.c, as tests read them.

#ifndef POOL_KERNELS_H
#define POOL_KERNELS_H

#include <stdint.h>

#ifdef VELTAIR_CFFI  // which reads no _Atomic: the bytes are the same
#define ATOMIC(type) type
#else
#define ATOMIC(type) _Atomic(type)
#endif

typedef struct {  // what a test gives as the kernel's own handle
    ATOMIC(int32_t) arrived;
    int32_t wanted;  // how many tasks have to meet
    int32_t tasks;   // how many there were
    int32_t cores[64];
} meeting_t;

int meeting(void *self, const void *arguments, int32_t count, void *result);
int nothing(void *self, const void *arguments, int32_t count, void *result);
int crash(void *self, const void *arguments, int32_t count, void *result);
int refuse(void *self, const void *arguments, int32_t count, void *result);

#endif
