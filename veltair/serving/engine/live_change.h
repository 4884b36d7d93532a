// The models of a run: at its begin, and when others come and go while it goes on. Part of live_loop.c.

#ifndef LIVE_CHANGE_H
#define LIVE_CHANGE_H

#include "live_state.h"

static void *array_of(int64_t count, size_t size) { return calloc(count > 0 ? (size_t)count : 1, size); }

// Have a model's buffers idle, all of them.
static bool give_buffers(const live_model_t *model, idle_buffers_t *idle) {
    if (!reserve((void **)&idle->tables, &idle->capacity, model->table_count + 1, sizeof *idle->tables)) return false;
    memcpy(idle->tables, model->tables, (size_t)model->table_count * sizeof *idle->tables);
    idle->count = idle->given = model->table_count;
    return true;
}

static void free_buffers(idle_buffers_t *idle, int64_t models) {
    for (int64_t index = 0; idle && index < models; ++index)
        free(idle[index].tables);
    free(idle);
}

// Change over to what was made for other models; `changed` has the new index of each that there was.
static bool change_over(live_t *live, idle_buffers_t *idle, int32_t *layers, const int32_t *changed) {
    const live_settings_t *settings = &live->change->settings;
    if (!loop_renew(live->loop, live->change->decider, layers, changed)) return false;
    for (int64_t index = 0; index < live->settings.model_count; ++index) {
        if (changed[index] < 0) continue;
        idle[changed[index]] = live->idle[index];
        live->idle[index].tables = NULL;
    }
    free_buffers(live->idle, live->settings.model_count);
    free(live->layers);
    live->idle = idle;
    live->layers = layers;
    live->settings.models = settings->models;
    live->settings.samples = settings->samples;
    live->settings.count_indices = settings->count_indices;
    live->settings.model_count = settings->model_count;
    live->settings.sample_count = settings->sample_count;
    live->settings.count_count = settings->count_count;
    return true;
}

// Make the change that is to be made. What runs goes on in the buffers that it has. OK, NO_MEMORY, or UNKNOWN_MODEL where
// a query is of a model that is gone.
static int make_change(live_t *live) {
    const live_change_t *change = live->change;
    int64_t count = change->settings.model_count, before = live->settings.model_count;
    idle_buffers_t *idle = array_of(count, sizeof *idle);
    int32_t *layers = array_of(count, sizeof *layers), *changed = array_of(before, sizeof *changed);
    bool has_memory = idle && layers && changed;
    for (int64_t index = 0; changed && index < before; ++index)
        changed[index] = -1;
    for (int64_t index = 0; has_memory && index < count; ++index) {
        const live_model_t *model = &change->settings.models[index];
        layers[index] = model->layers;
        if (change->kept[index] >= 0)
            changed[change->kept[index]] = (int32_t)index;
        else
            has_memory = give_buffers(model, &idle[index]);
    }
    bool is_over = has_memory && change_over(live, idle, layers, changed);
    if (is_over) {
        free(live->moved);
        live->moved = changed;
        live->changes_made++;
        return OK;
    }
    free_buffers(idle, count);
    free(layers);
    free(changed);
    return has_memory ? UNKNOWN_MODEL : NO_MEMORY;
}

#endif
