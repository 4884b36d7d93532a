// The thread at the door: it reads LoadGen's socket, and says when the time is up to wake the policy, or to end the run.
// Part of live_loop.c.

#ifndef LIVE_DOOR_H
#define LIVE_DOOR_H

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "live_state.h"

static void post(live_t *live, uint32_t kind, uint64_t token, uint64_t number, uint64_t time_ns, uint64_t sent_ns) {
    notice_t notice = {.token = token, .number = number, .time_ns = time_ns, .busy_ns = sent_ns, .kind = kind};
    live->workers.post(live->pool, &notice);
}

// Let the door's thread bring TIME_IS_UP when the run is cut off, or the policy is to be woken.
static void set_timer(live_t *live) {
    double wake_s = loop_next_wake(live->loop), time_s = wake_s < live->close_s ? wake_s : live->close_s;
    if (time_s == live->due_s || isinf(time_s)) return;
    live->due_s = time_s;
    uint64_t after_ns = time_s > 0.0 ? (uint64_t)ceil(1e9 * time_s) : 0;
    struct itimerspec due = {.it_value = span(live->settings.zero_ns + after_ns)};
    timerfd_settime(live->timer, TFD_TIMER_ABSTIME, &due, NULL);
}

// Read what LoadGen has sent so far; return whether more may follow.
static bool read_packets(live_t *live, int channel) {
    for (;;) {
        packet_t packet;
        ssize_t size = recv(channel, &packet, sizeof packet, MSG_DONTWAIT);
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) return true;
        if (size != sizeof packet) break;
        uint64_t time_ns = now_ns();
        if (packet.kind == PACKET_FLUSH)
            post(live, NO_MORE, 0, 0, time_ns, 0);
        else
            post(live, NEW_QUERY, packet.sequence, packet.sample, time_ns, (uint64_t)packet.sent_ns);
    }
    post(live, NO_MORE, 1, 0, now_ns(), 0);
    return false;
}

static void *keep_door(void *argument) {
    live_t *live = argument;
    pthread_setname_np(pthread_self(), "door");
    sigset_t signals;
    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    bool is_open = true;
    uint64_t count;
    while (!atomic_load(&live->is_stopped)) {
        int channel = is_open ? atomic_load(&live->channel) : -1;  // poll() passes over what is negative
        struct pollfd watched[] = {{live->bell, POLLIN, 0}, {live->timer, POLLIN, 0}, {channel, POLLIN, 0}};
        if (poll(watched, 3, -1) < 0) continue;
        if (watched[0].revents && read(live->bell, &count, sizeof count) < 0) continue;
        if (watched[1].revents && read(live->timer, &count, sizeof count) > 0)
            post(live, TIME_IS_UP, 0, 0, now_ns(), 0);
        if (watched[2].revents) is_open = read_packets(live, channel);
    }
    return NULL;
}

static void ring_door(const live_t *live) {
    uint64_t one = 1;
    while (write(live->bell, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

// Tell LoadGen of the queries that have ended, if it asks through a socket. False: it takes nothing.
static bool send_completions(live_t *live) {
    size_t bytes = (size_t)live->completed_count * sizeof *live->completed;
    live->completed_count = 0;
    int channel = atomic_load(&live->channel);
    return !bytes || channel < 0 || send(channel, live->completed, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

static int open_door(live_t *live) {
    live->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    live->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (live->timer < 0 || live->bell < 0) return errno;
    int error = pthread_create(&live->door, NULL, keep_door, live);
    live->has_door = !error;
    return error;
}

static void close_door(live_t *live) {
    if (live->has_door) {
        ring_door(live);
        pthread_join(live->door, NULL);
        live->has_door = false;
    }
}

#endif
