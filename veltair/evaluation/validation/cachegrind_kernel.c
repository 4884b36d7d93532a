// Calls one kernel of a built library, for valgrind: cachegrind_kernel LIBRARY SYMBOL FLUSH_BYTES CALLS TENSOR...
//
// A tensor is CODE,BITS:EXTENT,EXTENT,… with DLPack's type codes. Parallel loops run on the calling thread. Before
// the calls it reads FLUSH_BYTES, so that no cache holds any of the tensors. Without Python or TVM's runtime: these
// would take minutes to start in a simulator.

#include <dlfcn.h>
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

static int launch(lambda_t lambda, void *data, int tasks) {
    env_t env = {NULL, 1};
    (void)tasks;
    return lambda(0, &env, data);
}

static void *allocate(uint64_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, ALIGNMENT, bytes ? bytes : ALIGNMENT) != 0) fail("no memory", "for a tensor");
    return memory;
}

static void *allocate_workspace(int type, int id, uint64_t bytes, int code, int bits) {
    (void)type, (void)id, (void)code, (void)bits;
    return allocate(bytes);
}

static int free_workspace(int type, int id, void *memory) {
    (void)type, (void)id;
    free(memory);
    return 0;
}

static void provide(void *library, const char *name, void *function) {
    void **slot = dlsym(library, name);
    if (slot) *slot = function;
}

static tensor_t make_tensor(const char *text) {
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
    uint64_t bytes = (uint64_t)items * tensor.bits / 8;
    tensor.data = allocate(bytes);
    memset(tensor.data, 0, bytes);
    if (tensor.code == FLOAT && tensor.bits == 32)
        for (int64_t i = 0; i < items; i++)
            ((float *)tensor.data)[i] = 0.5f;
    return tensor;
}

static void flush(uint64_t bytes) {
    uint64_t *memory = allocate(bytes), sum = 0;
    memset(memory, 1, bytes);
    for (uint64_t i = 0; i < bytes / sizeof *memory; i += 8)
        sum += memory[i];
    sink = sum;
}

int main(int count, char **arguments) {
    if (count < 6) fail("usage", "cachegrind_kernel LIBRARY SYMBOL FLUSH_BYTES CALLS TENSOR...");
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
    if (!library) fail("cannot load the library", dlerror());
    provide(library, "__TVMBackendParallelLaunch", (void *)launch);
    provide(library, "__TVMBackendAllocWorkspace", (void *)allocate_workspace);
    provide(library, "__TVMBackendFreeWorkspace", (void *)free_workspace);
    call_t kernel = (call_t)dlsym(library, arguments[2]);
    if (!kernel) fail("the library has no such kernel", arguments[2]);
    int tensors = count - 5;
    tensor_t *tensor = calloc((size_t)tensors, sizeof *tensor);
    any_t *values = calloc((size_t)tensors, sizeof *values);
    for (int i = 0; i < tensors; i++) {
        tensor[i] = make_tensor(arguments[5 + i]);
        values[i] = (any_t){.type_index = TENSOR_POINTER, .pointer = &tensor[i]};
    }
    flush(strtoull(arguments[3], NULL, 10));
    for (int call = atoi(arguments[4]); call > 0; call--) {
        any_t result = {0};
        if (kernel(NULL, values, tensors, &result) != 0) fail("the kernel failed", arguments[2]);
    }
    return 0;
}
