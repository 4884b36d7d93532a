// What TVM's kernels call and are called by, and how their parallel loops are taken over: part of pool.c.

#ifndef POOL_TVM_H
#define POOL_TVM_H

#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdbool.h>
#include <string.h>

#include "pool.h"

// TVM FFI's ABI (tvm/ffi/c_api.h): the error cell behind its object's header.
typedef struct {
    unsigned char header[OBJECT_HEADER_BYTES];
    struct {
        const char *data;
        size_t size;
    } kind, message;
} ffi_error_t;

// TVM's runtime (tvm/runtime/c_backend_api.h): TVMParallelGroupEnv and the parallel launch.
typedef struct {
    void *sync_handle;
    int32_t num_task;
} env_t;
typedef int (*lambda_t)(int task, env_t *env, void *data);
typedef int (*launch_t)(lambda_t lambda, void *data, int tasks);

typedef void (*take_error_t)(void **error);
typedef int (*drop_error_t)(void *error);

static _Atomic(launch_t) tvm_launch;  // TVM's own, for threads that are no workers
static _Atomic(take_error_t) take_error;
static _Atomic(drop_error_t) drop_error;

int pool_launch(lambda_t lambda, void *data, int wanted);

// Write the error that the kernel which this thread called last has raised into `text`.
static void copy_error(char *text, int bytes) {
    void *raised = NULL;
    snprintf(text, (size_t)bytes, "it returned an error without a message");
    take_error_t take = atomic_load(&take_error);
    if (take) take(&raised);
    if (!raised) return;
    const ffi_error_t *error = raised;
    int kind = error->kind.size < 64 ? (int)error->kind.size : 64;
    int size = error->message.size < (size_t)bytes ? (int)error->message.size : bytes;
    snprintf(text, (size_t)bytes, "%.*s: %.*s", kind, error->kind.data, size, error->message.data);
    atomic_load (&drop_error)(raised);
}

// Taking over parallel loops.

typedef struct {
    char **paths;
    size_t count;
} objects_t;

static int note_object(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    objects_t *objects = data;
    char **paths = realloc(objects->paths, (objects->count + 1) * sizeof *paths);
    if (!paths) return 1;
    objects->paths = paths;
    paths[objects->count] = strdup(info->dlpi_name);
    return !paths[objects->count++];
}

static int take_over(void *library) {
    launch_t *slot = dlsym(library, "__TVMBackendParallelLaunch");
    launch_t launch = (launch_t)dlsym(library, "TVMBackendParallelLaunch");
    take_error_t take = (take_error_t)dlsym(library, "TVMFFIErrorMoveFromRaised");
    drop_error_t drop = (drop_error_t)dlsym(library, "TVMFFIObjectDecRef");
    if (launch) atomic_store(&tvm_launch, launch);
    if (take && drop) atomic_store(&drop_error, drop), atomic_store(&take_error, take);
    if (!slot) return 0;
    if (dlsym(library, "__TVMBackendParallelBarrier")) return -1;
    if (!atomic_load(&tvm_launch) && *slot != pool_launch) atomic_store(&tvm_launch, *slot);
    __atomic_store_n(slot, pool_launch, __ATOMIC_SEQ_CST);
    return 1;
}

// Let the kernels of every library that is loaded now launch their parallel loops here. Returns how many
// there are, or -1 if one has barriers within its loops, which are not supported.
int pool_take_over(void) {
    objects_t objects = {NULL, 0};
    dl_iterate_phdr(note_object, &objects);
    int found = 0;
    for (size_t i = 0; i < objects.count; ++i) {
        bool is_named = objects.paths[i] && *objects.paths[i];
        void *library = is_named ? dlopen(objects.paths[i], RTLD_LAZY | RTLD_NOLOAD) : NULL;
        if (library && found >= 0) {
            int took = take_over(library);
            found = took < 0 ? -1 : found + took;
        }
        if (library) dlclose(library);
        free(objects.paths[i]);
    }
    free(objects.paths);
    return found;
}

#endif
