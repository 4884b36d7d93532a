// Calls one kernel of a built library, for valgrind: cachegrind_kernel LIBRARY SYMBOL FLUSH_BYTES CALLS TENSOR...
//
// A tensor is CODE,BITS:EXTENT,EXTENT,… with DLPack's type codes. Before the calls it reads FLUSH_BYTES, so that no
// cache holds any of the tensors.

#include "kernel_call.h"

int main(int count, char **arguments) {
    if (count < 6) fail("usage", "cachegrind_kernel LIBRARY SYMBOL FLUSH_BYTES CALLS TENSOR...");
    void *library = open_library(arguments[1]);
    call_t kernel = find_kernel(library, arguments[2]);
    int tensors = count - 5;
    tensor_t *tensor = calloc((size_t)tensors, sizeof *tensor);
    any_t *values = calloc((size_t)tensors, sizeof *values);
    for (int i = 0; i < tensors; i++) {
        tensor[i] = read_tensor(arguments[5 + i]);
        tensor[i].data = allocate(bytes_of(&tensor[i]));
        fill(&tensor[i]);
        values[i] = (any_t){.type_index = TENSOR_POINTER, .pointer = &tensor[i]};
    }
    flush(strtoull(arguments[3], NULL, 10));
    for (int calls = atoi(arguments[4]); calls > 0; calls--)
        call(kernel, values, tensors, arguments[2]);
    return 0;
}
