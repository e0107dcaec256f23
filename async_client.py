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
import errno
import io
import json
import math
import os
import socket
import ssl
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

__all__ = ["Load", "exchange"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PROGRAM = os.path.basename(__file__)
READ_BYTES = 65_536
ATTEMPT_DELAY_S = 0.25  # before the next address is tried as well: Happy Eyeballs, RFC 8305 section 5
CLOSE_S = 1.0  # for an orderly close; wait_closed() by itself may wait for a dead peer
PROGRESS_S = 0.2
WATCH_S = 0.05  # how late a deadline may be noticed
MAX_REPLY_BYTES = 67_108_864  # an endless reply ends here
BAR_WIDTH = 40
NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
EDGES_S = [float(f"{digit}e{exponent}") for exponent in range(-5, 6) for digit in (1, 2, 5)]
SPARE_FILES = 64  # descriptors kept for what is no connection: standard streams, the event loop, the resolver
DAY_S = 86_400.0


async def open_streams(host: str, port: int, context: ssl.SSLContext | None, address: str | None = None) -> Streams:
    """Connect to the `address` of `host`; when that is not known, to whichever of its addresses answers first."""
    name, delay = host if context else None, None if address else ATTEMPT_DELAY_S
    host = address or host
    try:
        return await asyncio.open_connection(host, port, ssl=context, server_hostname=name, happy_eyeballs_delay=delay)
    except OSError as error:  # asyncio makes one text of what several addresses say
        if error.errno is None and f"[Errno {errno.ECONNREFUSED}]" in str(error):
            raise ConnectionRefusedError from error
        raise


async def ask_last(streams: Streams, message: bytes) -> bytes:
    """Send the last message, half-close, and return what comes until the server closes.

    asyncio cannot half-close TLS: there the reply also ends where it is the message's whole echo.
    """
    reader, writer = streams
    writer.write(message)
    half_closed = writer.can_write_eof()
    if half_closed:
        writer.write_eof()
    reply = bytearray()
    while (half_closed or reply != message) and (data := await reader.read(READ_BYTES)):
        reply += data
        if len(reply) > MAX_REPLY_BYTES:
            raise OSError(f"the reply is longer than {MAX_REPLY_BYTES:,} bytes")
    return bytes(reply)


async def close(streams: Streams | None) -> None:
    """Close without waiting for what may never come: wait_closed() waits for the last byte and for TLS's goodbye."""
    if streams:
        _, writer = streams
        if not writer.can_write_eof():  # TLS; after TCP's half-close there is nothing left to say
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
    streams = None
    try:
        async with asyncio.timeout(timeout_s):
            streams = await open_streams(host, port, ssl_context)
            return await ask_last(streams, message)
    finally:
        await close(streams)


@dataclass(kw_only=True)
class Load:
    """Many connections to one server, at most `concurrency` at once, with `repeat` messages over each.

    timeout_s bounds each connection. While run() is under way and afterwards, `succeeded`, `failures` (how many by
    cause) and `latencies_s` (of each message, to the end of its reply) tell what has happened.
    """

    host: str
    port: int
    message: bytes
    connections: int
    concurrency: int = 100
    repeat: int = 1
    timeout_s: float = 10.0
    ssl_context: ssl.SSLContext | None = None
    succeeded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    started: float = field(default_factory=time.perf_counter)
    _deadlines: dict[asyncio.Task[None], float] = field(default_factory=dict)
    address: str | None = None  # the host's that answered first: the others neither look it up nor race again

    async def run(self) -> None:
        """Make all the connections. What becomes of one does not stop the others."""
        self.started = time.perf_counter()
        turns = iter(range(self.connections))  # shared: whoever is free takes the next
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(self._work(turns)) for _ in range(min(self.concurrency, self.connections))]
            watch = group.create_task(self._watch())
            await asyncio.wait(workers)
            watch.cancel()

    async def _watch(self) -> None:
        """Cancel what is overdue: looking at all now and then costs less than asyncio.timeout() around each."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.perf_counter()
            for task in [task for task, deadline in self._deadlines.items() if deadline < now]:
                del self._deadlines[task]
                task.cancel()

    async def _work(self, turns: Iterator[int]) -> None:
        task = asyncio.current_task()
        assert task
        for _ in turns:
            streams = None
            self._deadlines[task] = time.perf_counter() + self.timeout_s
            try:
                streams = await open_streams(self.host, self.port, self.ssl_context, self.address)
                await self._converse(streams)
                self.succeeded += 1
            except asyncio.CancelledError:
                if task in self._deadlines:
                    raise  # by somebody else
                task.uncancel()
                self.failures[explain(TimeoutError())] += 1
            except EOFError:
                self.failures["closed without a reply"] += 1
            except (OSError, UnicodeError) as error:
                self.failures[explain(error)] += 1
            finally:
                self._deadlines.pop(task, None)
                await close(streams)

    async def _converse(self, streams: Streams) -> None:
        reader, writer = streams
        if not self.address:  # getnameinfo() keeps the scope of a link-local one
            self.address, _ = socket.getnameinfo(writer.get_extra_info("peername"), NUMERIC)
        for left in reversed(range(self.repeat)):
            started = time.perf_counter()
            if left:
                writer.write(self.message)
                reply = await reader.readexactly(len(self.message))
            else:
                reply = await ask_last(streams, self.message)
            if not reply:
                raise EOFError
            if reply != self.message and self.repeat > 1:
                raise OSError("the reply is not the message: --repeat needs an echo server")
            self.latencies_s.append(time.perf_counter() - started)

    def summary(self) -> dict[str, Any]:
        """The numbers, as --json prints them: rates a second, times in seconds."""
        seconds = time.perf_counter() - self.started
        ordered = sorted(self.latencies_s)
        return {
            "connections": self.connections,
            "concurrency": self.concurrency,
            "repeat": self.repeat,
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
    """(edge, how many are not above it but above the edge before), from the first with any to the last."""
    below = [bisect.bisect_right(ordered, edge) for edge in EDGES_S]
    counts = [(edge, upper - lower) for edge, lower, upper in zip(EDGES_S, [0, *below], below, strict=False)]
    used = [index for index, (_, count) in enumerate(counts) if count]
    return counts[used[0] : used[-1] + 1] if used else []


def explain(error: Exception) -> str:
    """The cause in a few words."""
    match error:
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
    return getattr(error, "strerror", None) or str(error) or "the connection was lost"


def raise_file_limit(sockets: int) -> int:
    """Raise the soft limit of open files so that `sockets` fit, as far as the hard one allows; return how many do."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return sockets
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < sockets + SPARE_FILES:
        soft = min(sockets + SPARE_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(sockets, soft - SPARE_FILES))


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal or forge a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def complain(level: str, message: str) -> None:
    if sys.stderr:
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


def number(kind: type[float], low: float, high: float, text: str) -> float:
    """With all but `text` bound, an argparse type: an int or a float from `low` to `high`."""
    with contextlib.suppress(ValueError):
        if low <= kind(text) <= high:
            return kind(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROGRAM, description=summary, epilog=details, formatter_class=raw)
    add, seconds = parser.add_argument, partial(number, float, 0.01, DAY_S)
    counts = partial(number, int, 1, 100_000_000)
    add("--host", default="localhost", help="name or address of the server (%(default)s)")
    add("--port", type=partial(number, int, 1, 65_535), default=12345, help="port of the server (%(default)s)")
    add("--message", default="Hello, World!", help="what to send (%(default)s)")
    add("-n", "--connections", type=counts, metavar="CONNECTIONS", help="so many connections, and a summary")
    add("-c", "--concurrency", type=counts, default=100, metavar="CONCURRENCY", help="at once, at most (%(default)s)")
    repeat = "messages over each connection; more than one needs an echo server (%(default)s)"
    add("-r", "--repeat", type=counts, default=1, metavar="REPEAT", help=repeat)
    add("--timeout", type=seconds, default=10.0, metavar="S", help="seconds for a connection as a whole (%(default)g)")
    add("--json", action="store_true", help="print the summary as one JSON object")
    add("--tls", action="store_true", help="speak TLS, and check the server's certificate")
    add("--ca", metavar="FILE", help="trust these certificates (PEM) instead of the system's")
    add("--insecure", action="store_true", help="do not check the certificate: for tests only")
    args = parser.parse_args(argv)
    if (args.ca or args.insecure) and not args.tls:
        parser.error("--ca and --insecure go with --tls")
    if args.repeat > 1 or args.json:
        args.connections = args.connections or 1  # a summary, of one connection at least
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


def show_progress(load: Load) -> None:
    failed = load.failures.total()
    line = f"{load.succeeded + failed:,} of {load.connections:,} connections, {failed:,} failed"
    print(f"\r{line}", end="", file=sys.stderr, flush=True)


async def run_with_progress(load: Load) -> None:
    running = asyncio.create_task(load.run())
    try:
        while sys.stderr and sys.stderr.isatty() and not running.done():
            show_progress(load)
            await asyncio.wait([running], timeout=PROGRESS_S)
        await running
    finally:
        if sys.stderr and sys.stderr.isatty():
            show_progress(load)
            print(file=sys.stderr)


def describe(summary: dict[str, Any]) -> str:
    """The summary for a person, with a bar for each step of latency."""
    lines = [
        "{connections:,} connections, {concurrency:,} at once, messages over each: {repeat:,}".format_map(summary),
        "succeeded: {succeeded:,}  failed: {failed:,}  in {seconds:.2f} s".format_map(summary),
        *(f"  {count:,}: {cause}" for cause, count in summary["failures"].items()),
        "{connections_per_second:,.0f} connections/s, {messages_per_second:,.0f} messages/s".format_map(summary),
    ]
    steps = summary["histogram"]
    if steps:
        points = (f"{name} {format_seconds(value)}" for name, value in summary["latency_s"].items())
        lines.append(f"latency: {'  '.join(points)}")
    for step in steps:
        bar = "█" * math.ceil(BAR_WIDTH * step["messages"] / max(step["messages"] for step in steps))
        lines.append(f"  up to {format_seconds(step['up_to_s']):>6} {bar} {step['messages']:,}")
    return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * scale:.3g} {unit}"


def measure(args: argparse.Namespace, context: ssl.SSLContext | None) -> int:
    """Many exchanges, and what became of them: after Ctrl+C, too."""
    wanted = min(args.concurrency, args.connections)
    concurrency = raise_file_limit(wanted)
    if concurrency < wanted:
        complain("warning", f"--concurrency is {concurrency} here: the system allows no more open files (ulimit -Hn)")
    limits = {"concurrency": concurrency, "timeout_s": args.timeout, "ssl_context": context}
    sizes = {"connections": args.connections, "repeat": args.repeat, "message": os.fsencode(args.message)}
    load = Load(host=args.host, port=args.port, **sizes, **limits)
    bytes(1_048_576)  # freed again: from now on glibc keeps asyncio's 256 KiB read buffers, and maps none anew
    interrupted = False
    try:
        asyncio.run(run_with_progress(load))
    except KeyboardInterrupt:
        interrupted = True
    summary = load.summary()
    with writing():
        print(json.dumps(summary) if args.json else describe(summary), flush=True)
    return 130 if interrupted else int(bool(load.failures))


def converse(args: argparse.Namespace, context: ssl.SSLContext | None) -> int:
    """One exchange, told line by line."""
    message = os.fsencode(args.message)
    with writing():
        print(f"Sending: {printable(args.message)}", flush=True)
    reply = asyncio.run(exchange(args.host, args.port, message, timeout_s=args.timeout, ssl_context=context))
    with writing():
        print(f"Received: {printable(reply.decode('utf-8', 'backslashreplace'))}")
        print("Closing the connection", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's alphabet lacks a letter
    try:
        return (measure if args.connections else converse)(args, tls_context(args))
    except KeyboardInterrupt:
        return 130
    except (OSError, UnicodeError) as error:
        complain("error", f"{args.host} port {args.port}: {explain(error)}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
