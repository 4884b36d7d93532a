// The reads of the pressure probe, as Python calls them.

#ifndef PRESSURE_PROBE_H
#define PRESSURE_PROBE_H

#include <stddef.h>

void *buffer_new(size_t bytes);
void buffer_free(void *buffer, size_t bytes);
double read_lines(const char *buffer, size_t bytes);

#endif
