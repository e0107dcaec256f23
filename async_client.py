#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Send a message to a TCP server with asyncio, and print its whole reply. With -n, do so over many connections, and
print how many succeeded and how long the replies took. The times include the server, the network and this client.

examples:
  python async_client.py                     send a message to localhost:12345
  python async_client.py -n 2000 -c 50       2,000 connections, 50 at a time
  python async_client.py -n 50 -r 9 --json   9 messages over each of 50
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
import re
import shutil
import socket
import ssl
import sys
import textwrap
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

__all__ = ["IncompleteReply", "Load", "exchange"]
__version__ = "2.0.0"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PROGRAM = os.path.basename(__file__)
READ_BYTES = 65_536  # size of one read()
ATTEMPT_DELAY_S = 0.25  # head start of an address before the next one is tried (RFC 8305 section 5)
CLOSE_S = 1.0  # limit for the end of TLS, which a dead peer never confirms
PROGRESS_S = 0.2
MAX_REPLY_BYTES = 67_108_864  # of one connection; only exchange() keeps the reply
BAR_WIDTH = 40
NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
EDGES_S = [float(f"{digit}e{exponent}") for exponent in range(-5, 6) for digit in (1, 2, 5)]
SPARE_FILES = 64  # descriptors reserved for standard streams, the event loop and name resolution
DAY_S = 86_400.0
BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the text direction (UAX 9)
NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# The pattern also contains control characters, line and paragraph separators, surrogates and the byte order mark.
UNPRINTABLE = re.compile(f"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{BIDIRECTIONAL}{NONCHARACTERS}]+")


class IncompleteReply(OSError):
    """The exchange failed after a part of the reply had arrived: `received`. The cause is chained."""

    received = b""


async def open_streams(host: str, port: int, context: ssl.SSLContext | None, address: str | None = None) -> Streams:
    """Connect to `address`, or, if it is None, to the address of `host` that answers first."""
    options: dict[str, Any] = {}
    if not address and isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):  # uvloop's lacks this option.
        options["happy_eyeballs_delay"] = ATTEMPT_DELAY_S
    if context:  # The scope of an IPv6 address does not belong to the name.
        options |= {"server_hostname": host.partition("%")[0], "ssl_shutdown_timeout": CLOSE_S}
    try:
        return await asyncio.open_connection(address or host, port, ssl=context, **options)
    except OSError as error:  # asyncio joins the errors of several addresses into one text.
        if error.errno is None and f"[Errno {errno.ECONNREFUSED}]" in str(error):
            raise ConnectionRefusedError from error
        raise


async def ask(streams: Streams, message: bytes, half_close: bool) -> AsyncIterator[bytes]:
    """Send a message, half-close if that is wanted, and yield the reply until the server closes.

    asyncio cannot half-close TLS. With TLS, a reply that is a complete echo of the message ends, too.
    Raises ssl.SSLEOFError if TLS ends without close_notify: an attacker may have cut it (RFC 8446 section 6.1).
    """
    reader, writer = streams
    writer.write(message)
    tls = writer.get_extra_info("ssl_object")
    if half_close and not tls:
        writer.write_eof()
    size = 0
    echo = message if half_close and tls else b""
    while not echo or size < len(echo):
        data = await reader.read(READ_BYTES)
        if not data:
            if tls and not has_close_notify(tls):
                raise ssl.SSLEOFError
            break
        echo = echo if echo.startswith(data, size) else b""
        size += len(data)
        yield data
        if size > MAX_REPLY_BYTES:
            raise OSError(f"the reply is longer than {MAX_REPLY_BYTES:,} bytes")


def has_close_notify(tls: ssl.SSLObject) -> bool:
    """Return whether the peer has ended TLS. asyncio does not report it; reading once more shows it."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        pass
    return True


async def close(streams: Streams | None) -> None:
    """Close the connection. With TLS, asyncio waits at most CLOSE_S for the server's close_notify."""
    if not streams:
        return
    _, writer = streams
    if writer.can_write_eof():  # Without TLS, there is nothing to wait for.
        return writer.transport.abort()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def exchange(
    host: str,
    port: int,
    message: bytes,
    *,
    half_close: bool = True,
    timeout_s: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
) -> bytes:
    """Connect, send `message`, half-close if that is wanted, and return the server's reply when it closes.

    timeout_s: limit for everything together. Raises OSError (socket.gaierror, TimeoutError, ConnectionError,
    ssl.SSLError). If a part of the reply has arrived, raises IncompleteReply instead.
    """
    streams = None
    received = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            streams = await open_streams(host, port, ssl_context)
            async for data in ask(streams, message, half_close):
                received += data
    except OSError as error:
        if not received or len(received) > MAX_REPLY_BYTES:
            raise
        failure = IncompleteReply(explain(error))
        failure.received = bytes(received)
        raise failure from error
    finally:
        await close(streams)
    return bytes(received)


@dataclass(kw_only=True)
class Load:
    """Many connections to one server, at most `concurrency` at the same time, with `repeat` messages over each.

    timeout_s: limit for each connection. The results are in `succeeded`, `failures` (the number for each cause) and
    `latencies_s` (of each message, from sending it to the end of the reply), also while run() is running.
    """

    host: str
    port: int
    message: bytes
    connections: int
    concurrency: int = 100
    repeat: int = 1
    half_close: bool = True
    timeout_s: float = 10.0
    ssl_context: ssl.SSLContext | None = None
    succeeded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    started: float = field(default_factory=time.perf_counter)
    interrupted: bool = False
    address: str | None = None  # the one that answered first; later connections use it without a name lookup

    async def run(self) -> None:
        """Make all connections. A failure of one does not stop the others."""
        self.started = time.perf_counter()
        turns = iter(range(self.connections))  # The workers share it: a free worker makes the next connection.
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, self.connections)):
                group.create_task(self._work(turns))

    async def _work(self, turns: Iterator[int]) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task
        for _ in turns:
            streams = None
            timer = loop.call_later(self.timeout_s, task.cancel)  # This is cheaper than asyncio.timeout().
            try:
                streams = await open_streams(self.host, self.port, self.ssl_context, self.address)
                await self._converse(streams)
                self.succeeded += 1
            except asyncio.CancelledError:
                if loop.time() < timer.when():
                    raise  # The caller has cancelled run().
                task.uncancel()
                self.failures[explain(TimeoutError())] += 1
            except EOFError:
                self.failures["the server closed the connection without a complete reply"] += 1
            except (OSError, UnicodeError) as error:
                self.failures[explain(error)] += 1
            finally:
                timer.cancel()
                await close(streams)

    async def _converse(self, streams: Streams) -> None:
        reader, writer = streams
        if not self.address:
            peer = writer.get_extra_info("peername")
            if peer:  # It is None if the server has already reset the connection.
                self.address, _ = socket.getnameinfo(peer, NUMERIC)  # This keeps the scope of a link-local address.
        for remaining in reversed(range(self.repeat)):
            started = time.perf_counter()
            if remaining:
                writer.write(self.message)
                is_echo = await reader.readexactly(len(self.message)) == self.message
            else:
                is_echo = await self._read_last_reply(streams)
            if self.repeat > 1 and not is_echo:
                raise OSError("the reply is not the message; --repeat needs an echo server")
            self.latencies_s.append(time.perf_counter() - started)

    async def _read_last_reply(self, streams: Streams) -> bool:
        """Return whether the reply is an echo. It is not kept: many long replies would fill the memory."""
        size = 0
        is_echo = True
        async for data in ask(streams, self.message, self.half_close):
            is_echo = is_echo and self.message.startswith(data, size)
            size += len(data)
        if not size:
            raise EOFError
        return is_echo and size == len(self.message)

    def summary(self) -> dict[str, Any]:
        """Return the results as --json prints them. Times are in seconds."""
        seconds = time.perf_counter() - self.started
        ordered = sorted(self.latencies_s)
        return {
            "connections": self.connections,
            "concurrency": self.concurrency,
            "repeat": self.repeat,
            "interrupted": self.interrupted,
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
    """Return the smallest value that is not exceeded by `share` of all values (nearest rank), or None."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def histogram(ordered: Sequence[float]) -> list[tuple[float, int]]:
    """Return (upper edge, number of values up to it and above the edge before), without empty steps at the ends."""
    below = [bisect.bisect_right(ordered, edge) for edge in EDGES_S]
    counts = [(edge, upper - lower) for edge, lower, upper in zip(EDGES_S, [0, *below], below, strict=False)]
    used = [index for index, (_, count) in enumerate(counts) if count]
    return counts[used[0] : used[-1] + 1] if used else []


def explain(error: Exception) -> str:
    """Return what happened and what the user can do about it."""
    match error:
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return "the name cannot be looked up for now; check the network connection, or try again"
        case socket.gaierror() | UnicodeError():
            return "unknown host; check the spelling of the name, which has no http:// and no port"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message} (--ca, --insecure)"
        case ssl.SSLEOFError():
            return "TLS failed: the server sent no close_notify, so the answer may be incomplete; try again"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or error}; does this port use TLS?"
        case TimeoutError():
            return "no answer in time; is this the right port? (--timeout)"
        case ConnectionRefusedError():
            return "connection refused; is the server running, and is this its port?"
        case ConnectionError() | OSError(errno=errno.ENOTCONN):
            return "connection reset: the server closed it early; its log may contain the reason"
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
            return f"{error.strerror}; check the address and the network connection"
        case OSError(errno=errno.EADDRNOTAVAIL):
            return "no local port or address is free; make fewer connections, wait a minute, or use IPv4 if IPv6 is off"
    return getattr(error, "strerror", None) or str(error)


def raise_file_limit(sockets: int) -> int:
    """Raise the soft limit of open files for that many sockets. Return how many sockets the hard limit allows."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return sockets
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < sockets + SPARE_FILES:
        with contextlib.suppress(ValueError):  # macOS has a lower limit than the hard one (kern.maxfilesperproc).
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(sockets + SPARE_FILES, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(sockets, soft - SPARE_FILES))


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def reserve_standard_descriptors() -> None:
    """Open /dev/null on every closed descriptor of 0 to 2, so that no socket or file gets that number."""
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDONLY)  # Writing to a closed standard output remains an error.
    os.close(descriptor)


def print_message(level: str, message: str) -> None:
    """Print a message to standard error, after the name of the program."""
    if sys.stderr:
        with contextlib.suppress(OSError):
            print(f"{PROGRAM}: {level}: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """Handle errors of standard output: exit quietly on a closed pipe, print one error line on a full disk."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # The buffered output would fail again at exit.
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        sys.exit(f"{PROGRAM}: error: cannot write the output: {error.strerror}")  # with status 1


def bounded(kind: type[float], low: float, high: float, text: str) -> float:
    """Return the number in `text`, which must be from `low` to `high`: an argparse type, once these are bound."""
    with contextlib.suppress(ValueError):
        if low <= kind(text) <= high:
            return kind(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:,.15g} to {high:,.15g}")


def new_parser() -> argparse.ArgumentParser:
    """Return a parser whose --help prints the module's docstring, wrapped to the terminal, and the examples."""
    summary, _, examples = (__doc__ or "").partition("\n\n")
    description = textwrap.fill(" ".join(summary.split()), max(20, shutil.get_terminal_size().columns - 2))
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROGRAM, description=description, epilog=examples, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser()
    counts = partial(bounded, int, 1, 100_000_000)
    seconds = partial(bounded, float, 0.01, DAY_S)
    add = parser.add_argument_group("server").add_argument
    add("--host", default="localhost", help="name or address of the server (default: %(default)s)")
    add("-p", "--port", type=partial(bounded, int, 1, 65_535), default=12345, help="its port (default: %(default)s)")
    add("--timeout", type=seconds, default=10.0, metavar="S", help="limit for a connection (default: %(default)g)")
    add = parser.add_argument_group("data").add_argument
    add("--message", default="Hello, World!", help="the message (default: %(default)s)")
    add("--no-shutdown", action="store_true", help="keep the sending side open, which some servers need")
    add = parser.add_argument_group("load").add_argument
    add("-n", "--connections", type=counts, metavar="N", help="make N connections, and print a summary")
    add("-c", "--concurrency", type=counts, default=100, metavar="N", help="N at the same time (default: %(default)s)")
    add("-r", "--repeat", type=counts, default=1, metavar="N", help="messages over each; above 1, the server must echo")
    add("--json", action="store_true", help="print the summary as one JSON object")
    tls = parser.add_argument_group("TLS").add_argument
    tls("--tls", action="store_true", help="use TLS, and check the server's certificate")
    tls("--ca", metavar="FILE", help="trust the certificates in this PEM file instead of the system's")
    tls("--insecure", action="store_true", help="do not check the certificate (only for tests)")
    args = parser.parse_args(argv)
    args.host = args.host.strip("[]")  # [::1], as in URLs
    if (args.ca or args.insecure) and not args.tls:
        parser.error("--ca and --insecure need --tls")
    if args.repeat > 1 or args.json:
        args.connections = args.connections or 1
    return args


def tls_context(args: argparse.Namespace) -> ssl.SSLContext:
    """Return the context that the options ask for. Raise OSError if --ca is not a file of certificates."""
    try:
        context = ssl.create_default_context(cafile=args.ca)
    except OSError as error:
        raise OSError(f"cannot use --ca {args.ca}: {error.strerror or error}") from None
    if args.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def run_with_progress(load: Load) -> None:
    running = asyncio.create_task(load.run())
    on_terminal = sys.stderr and sys.stderr.isatty()
    try:
        while on_terminal and not running.done():
            await asyncio.wait([running], timeout=PROGRESS_S)
            failed = load.failures.total()
            line = f"{load.succeeded + failed:,} of {load.connections:,} connections, {failed:,} failed"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        await running
    finally:
        if on_terminal:
            print(file=sys.stderr)


def format_summary(summary: dict[str, Any]) -> str:
    """Return the summary as text, with a histogram of the latencies."""
    lines = [
        "{connections:,} connections, {concurrency:,} at once, messages over each: {repeat:,}".format_map(summary),
        "succeeded: {succeeded:,}  failed: {failed:,}  in {seconds:.2f} s".format_map(summary),
        *["interrupted: the other connections were not made"] * summary["interrupted"],
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
    value = seconds
    unit = "s"
    for smaller in ("ms", "µs"):
        if value < 0.9995:  # Three digits would not round it to 1.
            value *= 1e3
            unit = smaller
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


def measure(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Make many connections, and print the summary, also after Ctrl+C. Return the exit status."""
    wanted = min(args.concurrency, args.connections)
    concurrency = raise_file_limit(wanted)
    if concurrency < wanted:
        cause = "the system allows no more open files (ulimit -Hn)"
        print_message("warning", f"--concurrency is {concurrency} here: {cause}")
    sizes = {"connections": args.connections, "concurrency": concurrency, "repeat": args.repeat}
    load = Load(**options, **sizes)
    try:
        asyncio.run(run_with_progress(load))
    except KeyboardInterrupt:
        load.interrupted = True
    summary = load.summary()
    with output_errors():
        print(json.dumps(summary) if args.json else format_summary(summary), flush=True)
    return 130 if load.interrupted else int(bool(load.failures))


def converse(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Make one exchange, and print its steps. Return the exit status."""
    with output_errors():
        print(f"Sending: {printable(args.message)}", flush=True)
    failure = None
    try:
        reply = asyncio.run(exchange(**options))
    except IncompleteReply as error:
        failure, reply = error, error.received
    with output_errors():
        print(f"Received: {printable(reply.decode('utf-8', 'backslashreplace'))}", flush=True)
        if not failure:
            print("Closing the connection", flush=True)
    if failure:
        raise failure
    if args.message and not reply and not args.no_shutdown:
        print_message("warning", "the server closed the connection without an answer; try --no-shutdown")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    try:
        options = {
            "host": args.host,
            "port": args.port,
            "message": os.fsencode(args.message),
            "half_close": not args.no_shutdown,
            "timeout_s": args.timeout,
            "ssl_context": tls_context(args) if args.tls else None,
        }
        return measure(args, options) if args.connections else converse(args, options)
    except KeyboardInterrupt:
        return 130
    except (OSError, UnicodeError) as error:
        print_message("error", f"{args.host} port {args.port}: {explain(error)}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
