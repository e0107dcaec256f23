/* SPDX-License-Identifier: 0BSD
 *
 * Servers in C to compare with tcp_server.py and udp_server.py. They do the same jobs.
 *
 *   peers greet PORT   send "Hello, World!", half-close, read to the client's end of file, close
 *   peers echo PORT    send back what arrives
 *   peers udp PORT     answer a datagram with "Server received: " and the datagram
 *
 * They listen on 127.0.0.1 only. With PORT 0, the kernel picks a free port. They need Linux (epoll) and one thread.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define GREETING "Hello, World!"
#define PREFIX "Server received: "
#define BACKLOG 4096       /* the default of net.core.somaxconn */
#define LIFETIME_S 900     /* A server ends by itself if its benchmark has crashed. */
#define MAX_FDS 65536
#define PREFIX_LENGTH (sizeof PREFIX - 1)

/* Unsent bytes, one slot for each file descriptor, so that accepting allocates nothing. */
static struct unsent { char *bytes; size_t start, end; } unsent[MAX_FDS];
static char buffer[65536];
static int epoll;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int listening_socket(int type, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int on = 1, fd = socket(AF_INET, type, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length))
        die("bind");
    if ((type & SOCK_STREAM) && listen(fd, BACKLOG))
        die("listen");
    getsockname(fd, (struct sockaddr *)&address, &length);
    printf("Listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void watch(int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event))
        die("epoll_ctl");
}

static int not_now(ssize_t result)
{
    return result < 0 && (errno == EAGAIN || errno == EINTR);
}

static void greet_opened(int fd)
{
    /* 13 bytes always fit into an empty send buffer. */
    send(fd, GREETING, sizeof GREETING - 1, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
}

static void greet_ready(int fd)
{
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0 && !not_now(n))
        close(fd);
}

static void echo_opened(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void drop(int fd)
{
    free(unsent[fd].bytes);
    unsent[fd].bytes = NULL;
    close(fd);
}

static void send_rest(int fd)
{
    struct unsent *rest = &unsent[fd];
    ssize_t n = send(fd, rest->bytes + rest->start, rest->end - rest->start, MSG_NOSIGNAL);

    if (n > 0 && (rest->start += n) == rest->end) {
        free(rest->bytes);
        rest->bytes = NULL;
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    } else if (n < 0 && !not_now(n)) {
        drop(fd);
    }
}

static void keep_rest(int fd, const char *bytes, size_t length)
{
    unsent[fd] = (struct unsent){malloc(length), 0, length};
    if (!unsent[fd].bytes)
        die("malloc");
    memcpy(unsent[fd].bytes, bytes, length);
    watch(EPOLL_CTL_MOD, fd, EPOLLOUT); /* not EPOLLIN: a client that does not read is not read from */
}

static void echo_ready(int fd)
{
    if (unsent[fd].bytes) {
        send_rest(fd);
        return;
    }
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (not_now(n))
        return;
    ssize_t sent = n > 0 ? send(fd, buffer, n, MSG_NOSIGNAL) : -1;
    if (n > 0 && not_now(sent))
        sent = 0;
    if (sent < 0)
        drop(fd);
    else if (sent < n)
        keep_rest(fd, buffer + sent, n - sent);
}

static void accept_all(int listener, void (*opened)(int))
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FDS)
            die("too many connections");
        opened(fd);
        watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    }
    if (!not_now(fd) && errno != ECONNABORTED)
        die("accept");
}

static void serve_tcp(int port, void (*opened)(int), void (*ready)(int))
{
    struct epoll_event events[256];
    int listener = listening_socket(SOCK_STREAM | SOCK_NONBLOCK, port);

    epoll = epoll_create1(0);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener, opened);
            else
                ready(events[i].data.fd);
        }
    }
}

static void serve_udp(int port)
{
    static char reply[PREFIX_LENGTH + 65536] = PREFIX;
    char *datagram = reply + PREFIX_LENGTH; /* It is received behind the prefix, so that nothing is copied. */
    struct sockaddr_in peer;
    int fd = listening_socket(SOCK_DGRAM, port);

    for (;;) {
        socklen_t length = sizeof peer;
        ssize_t n = recvfrom(fd, datagram, 65536, 0, (struct sockaddr *)&peer, &length);
        if (n < 0)
            continue;
        /* Two such servers must not answer each other forever. */
        if ((size_t)n >= PREFIX_LENGTH && !memcmp(datagram, PREFIX, PREFIX_LENGTH))
            continue;
        sendto(fd, reply, PREFIX_LENGTH + n, 0, (struct sockaddr *)&peer, length);
    }
}

int main(int argc, char **argv)
{
    const char *job = argc == 3 ? argv[1] : "";

    alarm(LIFETIME_S);
    if (!strcmp(job, "greet"))
        serve_tcp(atoi(argv[2]), greet_opened, greet_ready);
    else if (!strcmp(job, "echo"))
        serve_tcp(atoi(argv[2]), echo_opened, echo_ready);
    else if (!strcmp(job, "udp"))
        serve_udp(atoi(argv[2]));
    fprintf(stderr, "usage: peers greet|echo|udp PORT\n");
    return 2;
}
