#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Two asyncio clients to compare with async_client.py. They make the same exchanges.

  plain    starts a task for each connection, and limits them with a semaphore
  bare     runs a few workers in a loop, and shows the cost of asyncio's streams alone

Neither has deadlines, latencies or statistics. The first failure ends both.
"""

import asyncio
import json
import signal
import sys
import time

MESSAGE = b"Hello, World!"
TIME_LIMIT_S = 120


async def exchange(host, port, round_trips):
    """Exchange messages over one connection, and half-close after the last one."""
    reader, writer = await asyncio.open_connection(host, port)
    for _ in range(round_trips - 1):
        writer.write(MESSAGE)
        await reader.readexactly(len(MESSAGE))
    writer.write(MESSAGE)
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def plain(host, port, connections, concurrency, round_trips):
    limit = asyncio.Semaphore(concurrency)

    async def limited():
        async with limit:
            await exchange(host, port, round_trips)

    await asyncio.gather(*(limited() for _ in range(connections)))


async def bare(host, port, connections, concurrency, round_trips):
    numbers = iter(range(connections))

    async def worker():
        for _ in numbers:  # The workers share the iterator.
            await exchange(host, port, round_trips)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def main(arguments):
    if len(arguments) != 6 or arguments[0] not in ("plain", "bare"):
        sys.exit("usage: clients.py plain|bare HOST PORT CONNECTIONS CONCURRENCY ROUND_TRIPS")
    client, host, *numbers = arguments
    port, connections, concurrency, round_trips = map(int, numbers)
    signal.alarm(TIME_LIMIT_S)
    started = time.perf_counter()
    asyncio.run({"plain": plain, "bare": bare}[client](host, port, connections, concurrency, round_trips))
    seconds = time.perf_counter() - started
    print(json.dumps({"count": connections * round_trips, "seconds": seconds, "errors": 0}))


if __name__ == "__main__":
    main(sys.argv[1:])
