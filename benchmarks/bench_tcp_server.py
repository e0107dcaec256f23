#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Compare tcp_server.py with other TCP servers: greetings, echoes, and ten thousand idle connections."""

import json
import resource
import shutil
import socket
import statistics
import sys
import time
from pathlib import Path

from common import (
    C_PEER,
    HOST,
    KEEP_MEMORY,
    ROOT,
    c_peer,
    compare_servers,
    print_rates,
    python_peer,
    run_load,
    running,
    start_benchmark,
)

CONNECTIONS = 50
IDLE_CONNECTIONS = 10_000
IDLE_SECONDS = 50  # shorter than tcp_server.py's idle timeout
PROBES = 500
SETTLED_S = 0.5  # Memory that has not changed for so long counts as settled.
SETTLE_ATTEMPTS = 10


def servers(job):
    """Return {name: command} of the servers for the job "greet" or "echo"."""
    ours = [sys.executable, ROOT / "tcp_server.py", "--host", HOST, "--port", "0", "-q"]
    if job == "echo":
        ours += ["--echo", "--max-connections", "12000"]
    streams = python_peer(f"{job}-streams")
    return {
        "tcp_server.py": ours,
        **c_peer(job),
        "asyncio streams": streams,
        "asyncio streams, memory kept": [*KEEP_MEMORY, *streams],
        "asyncio sock_*": python_peer(f"{job}-sock"),
        "ThreadingTCPServer": python_peer(f"{job}-threads"),
    }


def forking_servers(job):
    """Return {name: command} of the servers that start one or two processes for each connection."""
    commands = {}
    if shutil.which("ncat"):
        command = {"greet": ["-c", "printf 'Hello, World!'"], "echo": ["-e", "/bin/cat"]}[job]
        commands["ncat"] = ["ncat", "-v", "-k", "-m", "200", "-l", HOST, str(free_port()), *command]
    if shutil.which("socat"):
        listen = f"TCP-LISTEN:0,bind={HOST},fork,backlog=4096"
        command = {"greet": 'SYSTEM:printf \\"Hello\\, World!\\"', "echo": "EXEC:cat"}[job]
        commands["socat"] = ["socat", "-d", "-d", listen, command]
    return commands


def free_port():
    """Return a free port for ncat, which does not print the port that it binds."""
    with socket.create_server((HOST, 0)) as sock:
        return sock.getsockname()[1]


def bench_greet(args):
    total, few = int(20_000 * args.scale), int(500 * args.scale)
    # ncat's backlog is 10. If more clients connect at once, Linux answers with SYN cookies, and a connection that the
    # server never accepts waits for its greeting forever.
    lighter = {"ncat": (few, 8), "socat": (few, CONNECTIONS)}
    commands = servers("greet") | forking_servers("greet")
    results = compare_servers(commands, args.rounds, "greet", (total, CONNECTIONS), lighter)
    title = f"Greeting, {total:,} connections, {CONNECTIONS} at a time"
    print_rates(title, "connections/s", results, C_PEER)


def bench_echo(args):
    trips = int(4_000 * args.scale)
    lighter = {"ncat": (8, trips // 4, 64), "socat": (CONNECTIONS, trips // 8, 64)}
    commands = servers("echo") | forking_servers("echo")
    results = compare_servers(commands, args.rounds, "echo", (CONNECTIONS, trips, 64), lighter)
    print_rates(f"Echo, 64 bytes, {CONNECTIONS} connections", "round trips/s", results, C_PEER)


def bench_large_echo(args):
    trips = int(400 * args.scale)
    results = compare_servers(servers("echo"), args.rounds, "echo", (CONNECTIONS, trips, 65_536))
    print_rates(f"Echo, 64 KiB, {CONNECTIONS} connections", "round trips/s", results, C_PEER)


def rss_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the server has ended")


def settled_rss_bytes(pid):
    before = rss_bytes(pid)
    for _ in range(SETTLE_ATTEMPTS):
        time.sleep(SETTLED_S)
        now = rss_bytes(pid)
        if now == before:
            break
        before = now
    return before


def new_client_waits_s(port):
    """Return the median time in seconds from connect() to the echo, for several clients one after another."""
    waits = []
    for _ in range(PROBES):
        started = time.perf_counter()
        with socket.create_connection((HOST, port), timeout=5) as sock:
            sock.sendall(b"x" * 64)
            sock.recv(64, socket.MSG_WAITALL)
        waits.append(time.perf_counter() - started)
    return statistics.median(waits)


def idle_row(command, connections):
    with running(command) as (port, pid):
        wait_before = new_client_waits_s(port)
        before = settled_rss_bytes(pid)
        with run_load("idle", port, connections, IDLE_SECONDS) as holder:
            opened = json.loads(holder.stdout.readline())
            grown = settled_rss_bytes(pid) - before
            wait = new_client_waits_s(port)
    return (
        f"{before / 1e6:.1f} | {grown / 1e6:.1f} | {grown / connections / 1e3:.1f} | "
        f"{wait_before * 1e6:,.0f} | {wait * 1e6:,.0f} | {opened['errors'] or ''}"
    )


def bench_idle(args):
    """Measure each server once, because memory hardly varies between runs."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200
    connections = min(limit, int(IDLE_CONNECTIONS * args.scale))
    print(f"\n{connections:,} idle echo connections: resident memory, and a new client's wait\n")
    print("| | MB before | MB more | kB a connection | echo after, alone, µs | among them, µs | errors |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, command in servers("echo").items():
        try:
            print(f"| {name} | {idle_row(command, connections)} |", flush=True)
        except (RuntimeError, OSError, ValueError) as error:
            print(f"{name} left out: {error}", file=sys.stderr)


def main():
    args = start_benchmark(__doc__, rounds=7)
    for benchmark in (bench_greet, bench_echo, bench_large_echo, bench_idle):
        benchmark(args)


if __name__ == "__main__":
    main()
