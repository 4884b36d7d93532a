// The thread at the door: it reads LoadGen's socket, and says when the time is up to wake the policy, or to end the run.
// Part of live_loop.c.

#ifndef LIVE_DOOR_H
#define LIVE_DOOR_H

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "live_state.h"

enum {
    COMPLETION_BYTES = 1 << 15
};  // of a packet: what LoadGen's process reads at once (PACKET_BYTES of loadgen/child.py)

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

// Post an arrival. One that is due already is so in a microsecond: whether it is worth while, the policy knows.
static void post_query(live_t *live, const packet_t *packet, uint64_t time_ns) {
    int64_t left_us = (packet->due_ns - (int64_t)time_ns) / 1000;
    left_us = left_us < 1 ? 1 : left_us > UINT32_MAX ? UINT32_MAX : left_us;
    notice_t notice = {.token = packet->sequence, .number = packet->sample, .time_ns = time_ns, .kind = NEW_QUERY};
    notice.busy_ns = (uint64_t)packet->sent_ns;
    notice.code = packet->due_ns ? (uint32_t)left_us : 0;
    live->workers.post(live->pool, &notice);
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
        else if (packet.kind == PACKET_CANCEL)
            post(live, CANCEL, packet.sequence, 0, time_ns, 0);
        else
            post_query(live, &packet, time_ns);
    }
    post(live, NO_MORE, 1, 0, now_ns(), 0);
    return false;
}

static void *keep_door(void *argument) {
    live_t *live = argument;
    pthread_setname_np(pthread_self(), "door");
    atomic_store(&live->door_id, gettid());
    sigset_t signals;
    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    bool is_open = true;
    uint64_t count;
    while (!atomic_load(&live->is_stopped)) {
        int channel = is_open ? atomic_load(&live->channel) : -1;  // poll() passes over what is negative
        short of_channel = atomic_load(&live->is_full) ? POLLIN | POLLOUT : POLLIN;
        struct pollfd watched[] = {{live->bell, POLLIN, 0}, {live->timer, POLLIN, 0}, {channel, of_channel, 0}};
        if (poll(watched, 3, -1) < 0) continue;
        if (watched[0].revents && read(live->bell, &count, sizeof count) < 0) continue;
        if (watched[1].revents && read(live->timer, &count, sizeof count) > 0)
            post(live, TIME_IS_UP, 0, 0, now_ns(), 0);
        if (watched[2].revents & POLLOUT) {
            atomic_store(&live->is_full, 0);
            post(live, ROOM, 0, 0, now_ns(), 0);
        }
        if (watched[2].revents & ~POLLOUT) is_open = read_packets(live, channel);
    }
    return NULL;
}

static void ring_door(const live_t *live) {
    uint64_t one = 1;
    while (write(live->bell, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

// Send what is to be told of some queries that ended, in one packet: whole, or their sequences only. False: not now.
static bool send_some(const live_t *live, int channel, const outcome_t *outcomes, int64_t count) {
    uint64_t sequences[COMPLETION_BYTES / sizeof(uint64_t)];
    const void *packet = outcomes;
    size_t size = (size_t)count * sizeof *outcomes;
    if (!live->settings.tells_outcomes) {
        for (int64_t index = 0; index < count; ++index)
            sequences[index] = outcomes[index].sequence;
        packet = sequences;
        size = (size_t)count * sizeof *sequences;
    }
    return send(channel, packet, size, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

// Tell LoadGen of the queries that have ended, if it asks through a socket; what it has no room for is told once it has.
// False: it is gone.
static bool send_completions(live_t *live) {
    int channel = atomic_load(&live->channel);
    int64_t sent = 0, count = channel < 0 ? 0 : live->completed_count;
    size_t bytes = live->settings.tells_outcomes ? sizeof(outcome_t) : sizeof(uint64_t);
    int64_t most = COMPLETION_BYTES / (int64_t)bytes;
    while (sent < count) {
        int64_t some = count - sent < most ? count - sent : most;
        if (!send_some(live, channel, live->completed + sent, some)) break;
        sent += some;
    }
    live->completed_count = 0;
    if (sent == count) return true;
    if (errno != EAGAIN && errno != ENOBUFS) return false;
    live->completed_count = count - sent;
    memmove(live->completed, live->completed + sent, (size_t)(count - sent) * sizeof *live->completed);
    atomic_store(&live->is_full, 1);
    ring_door(live);
    return true;
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
