// Runs the layers of a network in order, for valgrind's callgrind: network_kernels LIBRARY FILE FLUSH_BYTES QUERIES CORES
//
// The file has a line for each piece of memory, `memory BYTES INPUT` (INPUT 1: a query's input, written anew before
// each), and for each layer, `layer SYMBOL TENSOR...`; a tensor is MEMORY@OFFSET=CODE,BITS:EXTENT,EXTENT,… After each
// layer, and before the first one of each query, callgrind writes what it counted since.

#include <valgrind/callgrind.h>

#include "kernel_call.h"

enum { MOST_MEMORIES = 1 << 14, MOST_LAYERS = 1 << 12, MOST_TENSORS = 64, LINE_BYTES = 1 << 16 };

typedef struct {
    char *data;
    uint64_t bytes;
    int input;
} memory_t;

typedef struct {
    char *symbol;
    call_t kernel;
    tensor_t *tensors;
    any_t *values;
    int count;
} layer_t;

static memory_t memories[MOST_MEMORIES];
static layer_t layers[MOST_LAYERS];
static int memory_count, layer_count;

static void add_memory(void) {
    if (memory_count == MOST_MEMORIES) fail("too many lines", "memory");
    memory_t *memory = &memories[memory_count++];
    memory->bytes = strtoull(strtok(NULL, " \n"), NULL, 10);
    memory->input = atoi(strtok(NULL, " \n"));
    memory->data = allocate(memory->bytes);
    memset(memory->data, 0, memory->bytes);
}

static tensor_t place_tensor(char *text) {
    char *rest;
    uint64_t memory = strtoull(text, &rest, 10), offset = strtoull(rest + 1, &rest, 10);
    tensor_t tensor = read_tensor(rest + 1);
    if (memory >= (uint64_t)memory_count || offset + bytes_of(&tensor) > memories[memory].bytes)
        fail("a tensor is not within its memory", text);
    tensor.data = memories[memory].data + offset;
    fill(&tensor);
    return tensor;
}

static void add_layer(void *library) {
    if (layer_count == MOST_LAYERS) fail("too many lines", "layer");
    layer_t *layer = &layers[layer_count++];
    layer->symbol = strdup(strtok(NULL, " \n"));
    layer->kernel = find_kernel(library, layer->symbol);
    layer->tensors = calloc(MOST_TENSORS, sizeof *layer->tensors);
    layer->values = calloc(MOST_TENSORS, sizeof *layer->values);
    for (char *text; (text = strtok(NULL, " \n")); layer->count++) {
        if (layer->count == MOST_TENSORS) fail("too many tensors", layer->symbol);
        layer->tensors[layer->count] = place_tensor(text);
        layer->values[layer->count] = (any_t){.type_index = TENSOR_POINTER, .pointer = &layer->tensors[layer->count]};
    }
}

static void read_network(void *library, const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) fail("cannot read the network", path);
    char *line = malloc(LINE_BYTES);
    while (fgets(line, LINE_BYTES, file)) {
        const char *word = strtok(line, " \n");
        if (word && strcmp(word, "memory") == 0) add_memory();
        if (word && strcmp(word, "layer") == 0) add_layer(library);
    }
    free(line);
    fclose(file);
}

int main(int count, char **arguments) {
    if (count != 6) fail("usage", "network_kernels LIBRARY FILE FLUSH_BYTES QUERIES CORES");
    cores = atoi(arguments[5]);
    if (cores < 1 || cores > MOST_CORES) fail("cores are not between 1 and 64", arguments[5]);
    void *library = open_library(arguments[1]);
    read_network(library, arguments[2]);
    allocate_workspace(0, 0, 0, 0, 0);
    memset(work_space, 0, ALIGNMENT);
    flush(strtoull(arguments[3], NULL, 10));
    for (int query = atoi(arguments[4]); query > 0; query--) {
        for (int i = 0; i < memory_count; i++)
            if (memories[i].input) memset(memories[i].data, 0, memories[i].bytes);
        CALLGRIND_DUMP_STATS_AT("query");
        for (int i = 0; i < layer_count; i++) {
            call(layers[i].kernel, layers[i].values, layers[i].count, layers[i].symbol);
            CALLGRIND_DUMP_STATS_AT("layer");
        }
    }
    return 0;
}
