#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Compare async_client.py with the same exchanges in bare asyncio, against a faster server."""

import functools
import json
import os
import subprocess
import sys

from common import (
    HERE,
    HOST,
    KEEP_MEMORY,
    LOAD_TIMEOUT_S,
    MEASURED_CPU,
    OTHER_CPU,
    ROOT,
    Result,
    build,
    c_peer,
    compare,
    print_rates,
    python_peer,
    running,
    start_benchmark,
)


def output_of(command):
    """Run a client on the measured CPU, and return the JSON that it prints."""
    with subprocess.Popen([*KEEP_MEMORY, *command], stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {MEASURED_CPU})
        try:
            output, _ = process.communicate(timeout=LOAD_TIMEOUT_S)
        finally:
            process.kill()
    return json.loads(output)


def run_ours(port, connections, concurrency, repeat):
    load = ["-n", str(connections), "-c", str(concurrency), "-r", str(repeat), "--json"]
    client = [sys.executable, ROOT / "async_client.py", "--host", HOST, "--port", str(port)]
    summary = output_of(client + load)
    return Result(summary["messages_per_second"], summary["failed"])


def run_other(name, port, *numbers):
    figures = output_of([sys.executable, HERE / "clients.py", name, HOST, *map(str, (port, *numbers))])
    return Result(figures["count"] / figures["seconds"], figures["errors"])


CLIENTS = {
    "async_client.py": run_ours,
    "bare loop": functools.partial(run_other, "bare"),
    "task for each connection": functools.partial(run_other, "plain"),
}


def bench(title, unit, job, rounds, *numbers):
    command = [*c_peer(job).values()]
    server = command[0] if command else python_peer(f"{job}-sock")

    def one_run(client):
        with running(server, OTHER_CPU) as (port, _):
            return client(port, *numbers)

    runs = {name: functools.partial(one_run, client) for name, client in CLIENTS.items()}
    print_rates(title, unit, compare(runs, rounds), "bare loop")


def main():
    args = start_benchmark(__doc__, rounds=7, peer="server: " + ("peers.c" if build("peers") else "peers.py"))
    total, repeat = int(20_000 * args.scale), int(2_000 * args.scale)
    title = f"Greeted, {total:,} connections, 50 at a time"
    bench(title, "exchanges/s", "greet", args.rounds, total, 50, 1)
    title = f"Echo, {repeat:,} messages over each of 50 connections"
    bench(title, "messages/s", "echo", args.rounds, 50, 50, repeat)


if __name__ == "__main__":
    main()
