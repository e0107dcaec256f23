#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Generate load without a C compiler. The command line and the output are those of load.c.

This client is much slower. Fast servers wait for it, so that the ratios between servers are too close to 1. It works in
steps: it sends CONCURRENCY connections (or WINDOW datagrams), and waits for all answers before the next step.
"""

import json
import select
import signal
import socket
import sys
import time

GREETING = b"Hello, World!"
PREFIX = b"Server received: "
DATAGRAM_BYTES = 60
READ_BYTES = 65_536
TIME_LIMIT_S = 120
SILENCE_S = 0.2  # After so long without a reply, datagrams under way count as lost.
ECHO_TIMEOUT_S = 5.0


def report(good, errors, started):
    seconds = time.perf_counter() - started
    print(json.dumps({"count": good, "seconds": round(seconds, 6), "errors": errors}), flush=True)


def read_greeting(sock):
    """Return whether the server sends the greeting, nothing else, and the end of file."""
    with sock:
        got = bytearray()
        try:
            while data := sock.recv(READ_BYTES):
                got += data
        except ConnectionError:
            return False
        return got == GREETING


def greet(address, total, concurrency):
    good = done = 0
    started = time.perf_counter()
    while done < total:
        batch = [socket.create_connection(address) for _ in range(min(concurrency, total - done))]
        good += sum(map(read_greeting, batch))
        done += len(batch)
    report(good, total - good, started)


def echoes_one(sock):
    sock.settimeout(ECHO_TIMEOUT_S)
    try:
        sock.sendall(b"idle")
        return sock.recv(4) == b"idle"
    except OSError:
        return False
    finally:
        sock.settimeout(None)


def echo(address, connections, round_trips, size):
    socks = [socket.create_connection(address) for _ in range(connections)]
    for sock in socks:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not echoes_one(sock):  # The server starts its thread or process before the clock.
            raise ConnectionError("no echo")
    pattern = bytes(i % 251 for i in range(size + 256))
    good = 0
    started = time.perf_counter()
    for number in range(round_trips):
        message = pattern[number % 256 :][:size]  # An old message differs from a new one.
        for sock in socks:
            sock.sendall(message)
        good += sum(sock.recv(size, socket.MSG_WAITALL) == message for sock in socks)
    report(good, connections * round_trips - good, started)


def udp(address, total, window):
    good = done = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.settimeout(SILENCE_S)
        started = time.perf_counter()
        while done < total:
            batch = [b"%-*d" % (DATAGRAM_BYTES, number) for number in range(done, min(done + window, total))]
            done += len(batch)
            for datagram in batch:
                sock.send(datagram)
            awaited = {PREFIX + datagram for datagram in batch}
            try:
                while awaited:
                    awaited.discard(sock.recv(READ_BYTES))
            except OSError:  # There is no answer, or the server has ended.
                pass
            good += len(batch) - len(awaited)
        report(good, total - good, started)


def idle(address, connections, seconds):
    started = time.perf_counter()
    socks = [socket.create_connection(address) for _ in range(connections)]
    good = sum(map(echoes_one, socks))
    report(good, connections - good, started)
    select.select([sys.stdin], [], [], seconds)


JOBS = {"greet": (greet, 2), "echo": (echo, 3), "udp": (udp, 2), "idle": (idle, 2)}


def main(arguments):
    if len(arguments) < 3 or len(arguments) - 3 != JOBS.get(arguments[0], (None, -1))[1]:
        sys.exit("usage: load.py greet|echo|udp|idle HOST PORT NUMBER ... (see load.c)")
    job, host, *numbers = arguments
    signal.alarm(TIME_LIMIT_S)
    port, *numbers = map(int, numbers)
    JOBS[job][0]((host, port), *numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
