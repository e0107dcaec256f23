#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Send a message to a TCP server with asyncio and show its whole reply; or, with -n, do so over many connections at
once and tell how many succeeded and how long they took. It measures what it waits for, not what the server could do.

examples:
  python async_client.py                             one message to localhost:12345
  python async_client.py -n 2000 -c 50               2,000 connections, 50 at a time
  python async_client.py -n 50 -c 50 -r 400 --json   400 messages over each of 50, to an echo server

what the ten-line version gets wrong:
  It reads at most 100 bytes, once, and takes them for the reply. Here the reply ends when the server closes.
  It never says that it has finished sending, so that an echo server and it wait for each other.
  It has no deadline: one server that stalls keeps it forever, even in wait_closed().
  It gathers all connections and loses every result when one fails. Here each has its own deadline and its own fate.
  It opens all at once, and fails for want of file descriptors.
"""

import argparse
import asyncio
import bisect
import contextlib
import json
import math
import os
import socket
import ssl
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Plan", "Results", "exchange", "load"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PROGRAM = os.path.basename(__file__)
READ_BYTES = 65_536
ATTEMPT_DELAY_S = 0.25  # before the next address is tried as well: Happy Eyeballs, RFC 8305 section 5
CLOSE_S = 1.0  # for an orderly close; wait_closed() by itself may wait for a dead peer
PROGRESS_S = 0.2
MAX_REPLY_BYTES = 67_108_864  # an endless reply ends here
BAR_WIDTH = 40
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
EDGES_S = [float(f"{digit}e{exponent}") for exponent in range(-5, 3) for digit in (1, 2, 5)] + [math.inf]
SPARE_FILES = 64  # descriptors kept for what is no connection: standard streams, the event loop, the resolver
DAY_S = 86_400.0


class Results:
    """What became of many connections: how many succeeded, why others failed, and each message's latency."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.address: str | None = None  # the one of the host's that answered
        self.succeeded = 0
        self.failures: Counter[str] = Counter()
        self.latencies_s = array("d")

    def summary(self) -> dict[str, Any]:
        """The numbers, as --json prints them: rates a second, times in seconds."""
        seconds = time.perf_counter() - self.started
        ordered = sorted(self.latencies_s)
        return {
            "succeeded": self.succeeded,
            "failed": self.failures.total(),
            "failures": dict(self.failures.most_common()),
            "seconds": seconds,
            "connections_per_second": self.succeeded / seconds,
            "messages_per_second": len(ordered) / seconds,
            "latency_s": {name: percentile(ordered, share) for name, share in PERCENTILES.items()},
            "histogram": [{"up_to_s": edge, "messages": count} for edge, count in histogram(ordered)],
        }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all do not exceed (nearest rank); None of nothing."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def histogram(ordered: Sequence[float]) -> list[tuple[float, int]]:
    """(edge, how many are not above it but above the one before), from the first that has any to the last."""
    below = [bisect.bisect_right(ordered, edge) for edge in EDGES_S]
    counts = [(edge, upper - lower) for edge, lower, upper in zip(EDGES_S, [0, *below], below, strict=False)]
    used = [index for index, (_, count) in enumerate(counts) if count]
    return counts[used[0] : used[-1] + 1] if used else []


async def connect(host: str, port: int, context: ssl.SSLContext | None, known: str | None = None) -> Streams:
    """Connect to whichever address of `host` answers first, or to the `known` one."""
    name = host if context else None
    if known:
        return await asyncio.open_connection(known, port, ssl=context, server_hostname=name)
    delay = ATTEMPT_DELAY_S
    return await asyncio.open_connection(host, port, ssl=context, server_hostname=name, happy_eyeballs_delay=delay)


async def ask_last(streams: Streams, message: bytes) -> bytes:
    """Send the last message, half-close, and return what comes until the server closes.

    asyncio cannot half-close TLS; there the reply also ends where it is the message's whole echo.
    """
    reader, writer = streams
    writer.write(message)
    half_closed = writer.can_write_eof()
    if half_closed:
        writer.write_eof()
    reply = bytearray()
    while data := await reader.read(READ_BYTES):
        reply += data
        if len(reply) > MAX_REPLY_BYTES:
            raise OSError(f"the reply is longer than {MAX_REPLY_BYTES:,} bytes")
        if not half_closed and reply == message:
            break
    return bytes(reply)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close in order, but do not wait long for a peer that does not: by itself wait_closed() would."""
    writer.close()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(CLOSE_S):
            await writer.wait_closed()
    writer.transport.abort()


async def exchange(
    host: str, port: int, message: bytes, *, timeout_s: float = 10.0, ssl_context: ssl.SSLContext | None = None
) -> bytes:
    """Connect, send `message`, half-close, and return all that the server sends until it closes.

    timeout_s bounds the whole. Raises OSError: socket.gaierror, TimeoutError, ConnectionError, ssl.SSLError.
    """
    async with asyncio.timeout(timeout_s):
        streams = await connect(host, port, ssl_context)
        try:
            return await ask_last(streams, message)
        finally:
            await close(streams[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A load: `connections` in all, at most `concurrency` at once, `repeat` messages over each."""

    host: str
    port: int
    message: bytes
    connections: int
    concurrency: int
    repeat: int
    timeout_s: float
    ssl_context: ssl.SSLContext | None


async def load(plan: Plan, results: Results) -> None:
    """Carry out the plan; the results are there to be read at any time."""
    turns = iter(range(plan.connections))

    async def work() -> None:
        for _ in turns:
            try:
                async with asyncio.timeout(plan.timeout_s):
                    await one_connection(plan, results)
            except (OSError, EOFError) as error:
                results.failures[explain(error)] += 1
            else:
                results.succeeded += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(min(plan.concurrency, plan.connections)):
            group.create_task(work())


async def one_connection(plan: Plan, results: Results) -> None:
    streams = await connect(plan.host, plan.port, plan.ssl_context, results.address)
    reader, writer = streams
    results.address = writer.get_extra_info("peername")[0]  # the next need not look it up and race again
    try:
        for _ in range(plan.repeat - 1):
            started = time.perf_counter()
            writer.write(plan.message)
            if await reader.readexactly(len(plan.message)) != plan.message:
                raise OSError("the reply is not the message: only an echo server can take several (--repeat)")
            results.latencies_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        if not await ask_last(streams, plan.message):
            raise EOFError
        results.latencies_s.append(time.perf_counter() - started)
    finally:
        await close(writer)


def explain(error: Exception) -> str:
    """The cause in a few words."""
    match error:
        case EOFError():
            return "closed without a reply"
        case socket.gaierror():
            return "unknown host"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message} (--ca, --insecure)"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or error}"
        case TimeoutError():
            return "no answer in time (--timeout)"
        case ConnectionRefusedError():
            return "connection refused; is the server running?"
    return getattr(error, "strerror", None) or str(error)


def raise_file_limit(sockets: int) -> int:
    """Raise the soft limit of open files towards `sockets` and some; return how many sockets fit."""
    try:
        import resource
    except ImportError:  # Windows
        return sockets
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sockets + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, soft - SPARE_FILES)
    return sockets


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal or forge a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def complain(level: str, message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"{PROGRAM}: {level}: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Around output: a closed pipe ends the program quietly, a full disk with one line."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer would fail again at exit
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        complain("error", f"cannot write the output: {error.strerror}")
        sys.exit(1)


def number(low: float, high: float, kind: Callable[[str], float] = int) -> Callable[[str], float]:
    """An argparse type: a number from `low` to `high`."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= kind(text) <= high:
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")

    return parse


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROGRAM, description=summary, epilog=details, formatter_class=raw)
    parser.add_argument("--host", default="localhost", help="name or address of the server (default: localhost)")
    parser.add_argument("--port", type=number(1, 65_535), default=12345, help="(default: 12345)")
    parser.add_argument("--message", default="Hello, World!", help="what to send (default: 'Hello, World!')")
    connections, at_once = "so many, and print a summary", "so many at once (default: 100)"
    parser.add_argument("-n", "--connections", type=number(1, 100_000_000), metavar="CONNECTIONS", help=connections)
    parser.add_argument(
        "-c", "--concurrency", type=number(1, 1_000_000), default=100, metavar="CONCURRENCY", help=at_once
    )
    messages = "messages over each connection, one after the other; over 1 needs an echo server (default: 1)"
    parser.add_argument("-r", "--repeat", type=number(1, 100_000_000), default=1, metavar="REPEAT", help=messages)
    seconds = "for each connection, from first to last (default: 10)"
    parser.add_argument("--timeout", type=number(0.01, DAY_S, float), default=10.0, metavar="S", help=seconds)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.add_argument("--tls", action="store_true", help="speak TLS, and check the server's certificate")
    parser.add_argument("--ca", metavar="FILE", help="trust these certificates (PEM) instead of the system's")
    parser.add_argument("--insecure", action="store_true", help="do not check the certificate: for tests only")
    args = parser.parse_args(argv)
    if (args.ca or args.insecure) and not args.tls:
        parser.error("--ca and --insecure go with --tls")
    return args


def tls_context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if not args.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=args.ca)
    except OSError as error:
        raise OSError(f"cannot use --ca {args.ca}: {error.strerror or error}") from None
    if args.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def converse(args: argparse.Namespace, context: ssl.SSLContext | None) -> None:
    """One exchange, told line by line."""
    async with asyncio.timeout(args.timeout):
        streams = await connect(args.host, args.port, context)
        try:
            with writing():
                print(f"Sending: {printable(args.message)}", flush=True)
            reply = await ask_last(streams, os.fsencode(args.message))
            with writing():
                print(f"Received: {printable(reply.decode('utf-8', 'backslashreplace'))}")
                print("Closing the connection", flush=True)
        finally:
            await close(streams[1])


async def load_with_progress(plan: Plan, results: Results) -> None:
    async def show() -> None:
        while True:
            failed = results.failures.total()
            print(
                f"\r{results.succeeded + failed:,} of {plan.connections:,} connections, {failed:,} failed",
                end=" ",
                file=sys.stderr,
                flush=True,
            )
            await asyncio.sleep(PROGRESS_S)

    progress = asyncio.create_task(show()) if sys.stderr.isatty() else None
    try:
        await load(plan, results)
    finally:
        if progress:
            progress.cancel()
            print(file=sys.stderr)


def describe(plan: Plan, summary: dict[str, Any]) -> str:
    """The summary for a person, with a bar for each step of latency."""
    lines = [
        f"{plan.connections:,} connections, {plan.concurrency:,} at once, messages over each: {plan.repeat:,}",
        f"succeeded: {summary['succeeded']:,}  failed: {summary['failed']:,}  in {summary['seconds']:.2f} s",
        *(f"  {count:,}: {cause}" for cause, count in summary["failures"].items()),
        f"{summary['connections_per_second']:,.0f} connections/s, {summary['messages_per_second']:,.0f} messages/s",
    ]
    if summary["histogram"]:
        points = (f"{name} {format_seconds(value)}" for name, value in summary["latency_s"].items())
        lines.append("latency: " + ", ".join(points))
        most = max(step["messages"] for step in summary["histogram"])
        for step in summary["histogram"]:
            bar = "█" * math.ceil(BAR_WIDTH * step["messages"] / most)
            lines.append(f"  up to {format_seconds(step['up_to_s']):>7} {bar} {step['messages']:,}")
    return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    scale, unit = next(
        pair for pair in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if seconds * pair[0] >= 1 or pair[1] == "µs"
    )
    return f"{seconds * scale:.3g} {unit}"


def measure(args: argparse.Namespace, context: ssl.SSLContext | None) -> int:
    """Many exchanges, and what became of them; also of those until Ctrl+C."""
    connections = args.connections or 1
    concurrency = min(args.concurrency, connections)
    room = raise_file_limit(concurrency)
    if room < concurrency:
        complain("warning", f"--concurrency is {room} here: the system allows no more open files (ulimit -Hn)")
    plan = Plan(
        host=args.host,
        port=args.port,
        message=os.fsencode(args.message),
        connections=connections,
        concurrency=room,
        repeat=args.repeat,
        timeout_s=args.timeout,
        ssl_context=context,
    )
    results = Results()
    status = 0
    try:
        asyncio.run(load_with_progress(plan, results))
    except KeyboardInterrupt:
        status = 130
    summary = results.summary()
    with writing():
        print(json.dumps(summary) if args.json else describe(plan, summary), flush=True)
    return status or (1 if results.failures else 0)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        context = tls_context(args)
        if args.connections or args.repeat > 1 or args.json:
            return measure(args, context)
        asyncio.run(converse(args, context))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        complain("error", f"{args.host} port {args.port}: {explain(error)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
