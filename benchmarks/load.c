/* SPDX-License-Identifier: 0BSD
 *
 * Generate load. The client is written in C, so that the server limits the rate and not the client.
 *
 *   load greet HOST PORT CONNECTIONS CONCURRENCY        connect, read the greeting to the end, close
 *   load echo HOST PORT CONNECTIONS ROUND_TRIPS SIZE    send messages of SIZE bytes, and read the echoes
 *   load udp HOST PORT DATAGRAMS WINDOW                 send 60-byte datagrams, WINDOW of them under way at once
 *   load idle HOST PORT CONNECTIONS SECONDS             exchange one echo on each connection, and keep all open
 *
 * It prints one line of JSON: the number of correct answers (connections, round trips or datagrams), the seconds,
 * and the number of errors. `idle` prints the line when all connections are open, and ends with standard input or
 * after SECONDS. HOST is an IPv4 address. The program needs Linux (epoll), has one thread, and ends after two minutes.
 *
 * If LOAD_SPINS is in the environment, it polls instead of sleeping, and needs a CPU of its own. On loopback, the
 * server's send() wakes a sleeping client. On a virtual machine, this often costs more than all its other work.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define GREETING "Hello, World!"
#define GREETING_LENGTH 13
#define PREFIX "Server received: "
#define PREFIX_LENGTH 17
#define DATAGRAM_LENGTH 60
#define TIME_LIMIT_S 120
#define STALL_MS 5000      /* give up: the server does not answer any more */
#define SILENCE_MS 200     /* After so long without a reply, datagrams under way count as lost. */
#define MAX_FDS 65536
#define MAX_EVENTS 256

static struct sockaddr_in server;
static char buffer[65536];
static int epoll;
static int spinning;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void report(long count, double started, long errors)
{
    printf("{\"count\": %ld, \"seconds\": %.6f, \"errors\": %ld}\n", count, now() - started, errors);
    fflush(stdout);
}

static void watch(int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event))
        die("epoll_ctl");
}

/* Return how many sockets are ready; 0 if none was ready for STALL_MS or SILENCE_MS. */
static int ready(struct epoll_event *events)
{
    double started = now();
    int count;

    do
        count = epoll_wait(epoll, events, MAX_EVENTS, spinning ? 0 : STALL_MS);
    while (!count && now() - started < STALL_MS / 1e3);
    return count;
}

static int connected(int type)
{
    int fd = socket(AF_INET, type, 0);
    if (fd < 0 || fd >= MAX_FDS)
        die("socket");
    if (connect(fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        die("connect");
    return fd;
}

static void limit_silence(int fd, int milliseconds)
{
    struct timeval t = {milliseconds / 1000, milliseconds % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

/* Read the greeting. Return 0 while more may follow, 1 at its end, -1 if it is not the greeting. */
static int read_greeting(int fd, int *got)
{
    for (;;) {
        ssize_t n = recv(fd, buffer, sizeof buffer, 0);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        if (n == 0)
            return *got == GREETING_LENGTH ? 1 : -1;
        if (n > GREETING_LENGTH - *got || memcmp(buffer, GREETING + *got, n))
            return -1;
        *got += n;
    }
}

static void greet(long total, long concurrency)
{
    static int got[MAX_FDS];
    struct epoll_event events[MAX_EVENTS];
    long started = 0, good = 0, bad = 0;
    int count = 1;
    double start = now();

    while (good + bad < total && count) {
        for (; started < total && started - good - bad < concurrency; started++) {
            int fd = connected(SOCK_STREAM | SOCK_NONBLOCK);
            got[fd] = 0;
            watch(EPOLL_CTL_ADD, fd, EPOLLIN);
        }
        count = ready(events);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd, end = read_greeting(fd, &got[fd]);
            if (!end)
                continue;
            close(fd);
            if (end > 0)
                good++;
            else
                bad++;
        }
    }
    report(good, start, total - good);
}

static int echoes_one(int fd)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    limit_silence(fd, STALL_MS);
    return send(fd, "idle", 4, MSG_NOSIGNAL) == 4 && recv(fd, buffer, 4, MSG_WAITALL) == 4
           && !memcmp(buffer, "idle", 4);
}

/* Send a message. Each one begins one byte later in `pattern`, so that an old one differs from a new one. */
static char *pattern;
static size_t message_size;
static struct pingpong { long done; size_t sent, got; int waits_to_send; } pingpongs[MAX_FDS];

static const char *message(int fd)
{
    return pattern + (pingpongs[fd].done + fd) % 256;
}

static void send_message(int fd)
{
    struct pingpong *p = &pingpongs[fd];
    ssize_t n = send(fd, message(fd) + p->sent, message_size - p->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n > 0)
        p->sent += n;
    int waits = p->sent < message_size;
    if (waits != p->waits_to_send)
        watch(EPOLL_CTL_MOD, fd, waits ? EPOLLIN | EPOLLOUT : EPOLLIN);
    p->waits_to_send = waits;
}

/* Return 1 if the whole message has returned, 0 if a part of it is missing, -1 if it differs. */
static int read_message(int fd)
{
    struct pingpong *p = &pingpongs[fd];
    ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0 || (size_t)n > p->sent - p->got || memcmp(buffer, message(fd) + p->got, n))
        return -1;
    p->got += n;
    if (p->got < message_size)
        return 0;
    p->sent = p->got = 0;
    p->done++;
    return 1;
}

static void echo(long connections, long round_trips, size_t size)
{
    struct epoll_event events[MAX_EVENTS];
    long good = 0, running = connections;
    int *fds = calloc(connections, sizeof *fds);

    pattern = malloc(size + 256);
    message_size = size;
    for (size_t i = 0; i < size + 256; i++)
        pattern[i] = i * 31 + i / 256;
    for (long i = 0; i < connections; i++) {
        fds[i] = connected(SOCK_STREAM);
        if (!echoes_one(fds[i])) /* The server starts its thread or process before the clock. */
            die("echo");
        watch(EPOLL_CTL_ADD, fds[i], EPOLLIN);
    }
    int count = 1;
    double start = now();
    for (long i = 0; i < connections; i++)
        send_message(fds[i]);
    while (running && count) {
        count = ready(events);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd, end = events[i].events & ~EPOLLOUT ? read_message(fd) : 0;
            good += end > 0;
            if (end < 0 || pingpongs[fd].done == round_trips) {
                close(fd);
                running--;
            } else if (end > 0 || pingpongs[fd].waits_to_send) {
                send_message(fd);
            }
        }
    }
    report(good, start, connections * round_trips - good);
}

static void send_datagram(int fd, long number)
{
    char datagram[DATAGRAM_LENGTH] = "";
    memcpy(datagram, &number, sizeof number);
    send(fd, datagram, sizeof datagram, 0);
}

/* Return the number in the reply, or -1 if there is no reply or another one. */
static long read_reply(int fd, long sent)
{
    long number;
    double started = now();
    ssize_t n;

    do
        n = recv(fd, buffer, sizeof buffer, spinning ? MSG_DONTWAIT : 0);
    while (n < 0 && errno == EAGAIN && spinning && now() - started < SILENCE_MS / 1e3);
    if (n < 0)
        return -1;
    memcpy(&number, buffer + PREFIX_LENGTH, sizeof number);
    int fits = n == PREFIX_LENGTH + DATAGRAM_LENGTH && !memcmp(buffer, PREFIX, PREFIX_LENGTH);
    return fits && number >= 0 && number < sent ? number : -1;
}

static void udp(long total, long window)
{
    enum { UNDER_WAY, FINISHED };
    char *state = calloc(total, 1);
    long sent = 0, good = 0, lost = 0, oldest = 0;
    int fd = connected(SOCK_DGRAM);
    double start = now();

    limit_silence(fd, SILENCE_MS);
    while (good + lost < total) {
        while (sent < total && sent - good - lost < window)
            send_datagram(fd, sent++);
        long number = read_reply(fd, sent);
        if (number >= 0 && state[number] == UNDER_WAY) {
            state[number] = FINISHED;
            good++;
        } else if (number < 0) {
            for (; oldest < sent; oldest++)
                if (state[oldest] == UNDER_WAY) {
                    state[oldest] = FINISHED;
                    lost++;
                }
        }
    }
    report(good, start, lost);
}

static void idle(long connections, long seconds)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    long good = 0;
    double start = now();

    for (long i = 0; i < connections; i++)
        good += echoes_one(connected(SOCK_STREAM));
    report(good, start, connections - good);
    poll(&input, 1, seconds * 1000);
}

int main(int argc, char **argv)
{
    const char *job = argc > 5 ? argv[1] : "";
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    alarm(TIME_LIMIT_S);
    epoll = epoll_create1(0);
    spinning = getenv("LOAD_SPINS") != NULL;
    if (argc > 5) {
        server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
        inet_pton(AF_INET, argv[2], &server.sin_addr);
    }
    if (!strcmp(job, "greet") && argc == 6)
        greet(atol(argv[4]), atol(argv[5]));
    else if (!strcmp(job, "echo") && argc == 7)
        echo(atol(argv[4]), atol(argv[5]), atol(argv[6]));
    else if (!strcmp(job, "udp") && argc == 6)
        udp(atol(argv[4]), atol(argv[5]));
    else if (!strcmp(job, "idle") && argc == 6)
        idle(atol(argv[4]), atol(argv[5]));
    else {
        fprintf(stderr, "usage: load greet|echo|udp|idle HOST PORT NUMBER ... (see load.c)\n");
        return 2;
    }
    return 0;
}
