// Calls kernels of a built library without TVM's runtime, whose start would take minutes in a simulator. Parallel
// loops run on as many threads as `cores` says, one part each, as the engine's workers share them; temporaries lie in
// one work space a thread, the last one taken given back first.

#ifndef KERNEL_CALL_H
#define KERNEL_CALL_H

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// DLPack 1 (dlpack.h) and TVM FFI's ABI (tvm/ffi/c_api.h).
typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} tensor_t;

typedef struct {
    int32_t type_index;
    uint32_t padding;
    union {
        void *pointer;
        int64_t number;
    };
} any_t;

typedef struct {
    void *sync_handle;
    int32_t num_task;
} env_t;
typedef int (*lambda_t)(int, env_t *, void *);
typedef int (*call_t)(void *, const any_t *, int32_t, any_t *);

enum { CPU = 1, TENSOR_POINTER = 7, MOST_DIMENSIONS = 16, ALIGNMENT = 64, FLOAT = 2 };
enum { WORK_SPACE_BYTES = 1 << 30 };  // of address space: pages that nobody touches take no memory

static volatile uint64_t sink;

static void fail(const char *what, const char *which) {
    fprintf(stderr, "%s: %s\n", what, which);
    exit(1);
}

// What libraries of kernels need of TVM's runtime.

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    fprintf(stderr, "%s: ", kind);
    for (int32_t i = 0; i < count; i++)
        fputs(parts[i], stderr);
    fputc('\n', stderr);
}

enum { MOST_CORES = 64 };

static int cores = 1;

typedef struct {
    lambda_t lambda;
    void *data;
    int number, tasks, error;
} part_t;

static void *run_part(void *argument) {
    part_t *part = argument;
    env_t env = {NULL, part->tasks};
    part->error = part->lambda(part->number, &env, part->data);
    return NULL;
}

static int launch(lambda_t lambda, void *data, int tasks) {
    int count = tasks > 0 && tasks < cores ? tasks : cores, error = 0;
    part_t parts[MOST_CORES];
    pthread_t threads[MOST_CORES];
    for (int i = count - 1; i >= 0; i--) {
        parts[i] = (part_t){lambda, data, i, count, 0};
        if (i == 0)
            run_part(&parts[i]);
        else if (pthread_create(&threads[i], NULL, run_part, &parts[i]) != 0)
            fail("no thread", "for a core");
    }
    for (int i = 1; i < count; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < count; i++)
        if (parts[i].error) error = parts[i].error;
    return error;
}

static void *allocate(uint64_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, ALIGNMENT, bytes ? bytes : ALIGNMENT) != 0) fail("no memory", "for a tensor");
    return memory;
}

static __thread char *work_space, *work_space_end;

static void *allocate_workspace(int type, int id, uint64_t bytes, int code, int bits) {
    (void)type, (void)id, (void)code, (void)bits;
    if (!work_space) work_space_end = work_space = allocate(WORK_SPACE_BYTES);
    char *memory = work_space_end;
    work_space_end += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (work_space_end > work_space + WORK_SPACE_BYTES) fail("no memory", "for the work space");
    return memory;
}

static int free_workspace(int type, int id, void *memory) {
    (void)type, (void)id;
    work_space_end = memory;
    return 0;
}

static void provide(void *library, const char *name, void *function) {
    void **slot = dlsym(library, name);
    if (slot) *slot = function;
}

static void *open_library(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) fail("cannot load the library", dlerror());
    provide(library, "__TVMBackendParallelLaunch", (void *)launch);
    provide(library, "__TVMBackendAllocWorkspace", (void *)allocate_workspace);
    provide(library, "__TVMBackendFreeWorkspace", (void *)free_workspace);
    return library;
}

static call_t find_kernel(void *library, const char *symbol) {
    call_t kernel = (call_t)dlsym(library, symbol);
    if (!kernel) fail("the library has no such kernel", symbol);
    return kernel;
}

// Return the tensor of a text CODE,BITS:EXTENT,EXTENT,… with DLPack's type codes; its data is the caller's to set.
static tensor_t read_tensor(const char *text) {
    tensor_t tensor = {.device_type = CPU, .lanes = 1};
    char *rest;
    tensor.code = (uint8_t)strtoul(text, &rest, 10);
    tensor.bits = (uint8_t)strtoul(rest + 1, &rest, 10);
    tensor.shape = calloc(2 * MOST_DIMENSIONS, sizeof *tensor.shape);
    tensor.strides = tensor.shape + MOST_DIMENSIONS;
    while (*rest && rest[1] && tensor.dimensions < MOST_DIMENSIONS)
        tensor.shape[tensor.dimensions++] = strtoll(rest + 1, &rest, 10);
    int64_t items = 1;
    for (int i = tensor.dimensions - 1; i >= 0; i--) {
        tensor.strides[i] = items;
        items *= tensor.shape[i];
    }
    return tensor;
}

static uint64_t bytes_of(const tensor_t *tensor) {
    uint64_t items = 1;
    for (int i = 0; i < tensor->dimensions; i++)
        items *= (uint64_t)tensor->shape[i];
    return items * tensor->bits / 8;
}

// Write ordinary numbers, for some kernels are slow on others.
static void fill(const tensor_t *tensor) {
    uint64_t bytes = bytes_of(tensor);
    memset(tensor->data, 0, bytes);
    if (tensor->code == FLOAT && tensor->bits == 32)
        for (uint64_t i = 0; i < bytes / sizeof(float); i++)
            ((float *)tensor->data)[i] = 0.5f;
}

// Read so many bytes, after which no cache up to half that size holds anything else, nor a line to write back.
static void flush(uint64_t bytes) {
    uint64_t *memory = allocate(bytes), sum = 0;
    memset(memory, 1, bytes);
    for (uint64_t i = 0; i < bytes / sizeof *memory; i += 8)
        sum += memory[i];
    sink = sum;
    free(memory);
}

static void call(call_t kernel, const any_t *values, int tensors, const char *symbol) {
    any_t result = {0};
    if (kernel(NULL, values, tensors, &result) != 0) fail("the kernel failed", symbol);
}

#endif
