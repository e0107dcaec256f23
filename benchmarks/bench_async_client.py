#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Compare async_client.py with the same exchanges in bare asyncio, against a server in C."""

import functools
import json
import subprocess
import sys

from common import (
    HERE,
    HOST,
    LOAD_TIMEOUT_S,
    MEASURED_CPU,
    OTHER_CPU,
    ROOT,
    c_peer,
    compare,
    print_rates,
    python_peer,
    result,
    running,
    start_benchmark,
)

BASELINE = "bare loop"


def run_client(command):
    """The client's own figures; on the measured CPU, to which the benchmark itself lends it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)


def run_plain(name, port, connections, concurrency, round_trips):
    numbers = map(str, (port, connections, concurrency, round_trips))
    figures = run([sys.executable, HERE / "clients.py", name, HOST, *numbers])
    return figures["count"] / figures["seconds"]
