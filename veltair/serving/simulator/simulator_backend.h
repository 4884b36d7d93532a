// The simulator as a backend of the loop in C. native_core.py reads this header.

#ifndef SIMULATOR_BACKEND_H
#define SIMULATOR_BACKEND_H

#include "../loop/backend.h"
#include "simulator_core.h"

void simulator_backend(simulator_t *sim, backend_t *backend);

#endif
