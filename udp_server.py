#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Print every UDP datagram that arrives, and answer it with `Server received: ` and its bytes. With --send, be a
client instead: send one datagram and print the answer. The server neither repeats nor orders datagrams, and it does not
check who sent them.

examples:
  python udp_server.py                       answer on localhost:12345
  python udp_server.py --send hi             send a datagram, print the answer
  python udp_server.py --no-reply -q         only receive and count
  python udp_server.py --host '' --port 514  listen on all interfaces
"""

import argparse
import codecs
import contextlib
import errno
import io
import logging
import os
import queue
import re
import selectors
import shutil
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

__all__ = ["UDPServer", "acknowledge", "ask"]
__version__ = "2.0.0"

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
PREFIX = b"Server received: "
MAX_DATAGRAM_BYTES = 65_535  # the largest value of the length field; no datagram is cut
MAX_SHOWN_BYTES = 1_000  # length of a datagram in a log line
CONTROL_BYTES = 256  # space for the ancillary data of one datagram; IPV6_PKTINFO needs less
RECEIVE_BUFFER_BYTES = 4_194_304  # asked of the kernel for bursts; net.core.rmem_max may allow less
BATCH = 256  # datagrams received from one socket before the others get their turn
TICK_S = 0.25  # longest wait, because a signal just before select() does not end it; on Windows, no signal does
MAX_QUEUED_LINES = 10_000  # log lines that wait for a reader of the output; further lines are dropped
COUNTERS_LEVEL = logging.WARNING + 1  # The counters go to standard error, also with -q.
BATCH_S = 0.01  # Log lines are collected for so long, because one write of many lines is cheaper.
FLUSH_S = 0.5  # time to write the last log lines at the end
DAY_S = 86_400.0
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

# Constants of Linux that the socket module lacks (ip(7); include/uapi/linux/sock_diag.h).
IP_PKTINFO = 8
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8
ON_LINUX = sys.platform == "linux"

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the text direction (UAX 9)
NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# The pattern also contains control characters, line and paragraph separators, surrogates and the byte order mark.
UNPRINTABLE = re.compile(f"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{BIDIRECTIONAL}{NONCHARACTERS}]+")

Address = tuple[Any, ...]  # (host, port); for IPv6 also flow label and scope


def acknowledge(data: bytes, peer: Address) -> bytes | None:
    """Return PREFIX and the datagram's bytes. Return None for an answer, or two servers could loop (CVE-2024-2169)."""
    return None if data.startswith(PREFIX) else PREFIX + data


class WildcardSocket:
    """The recvfrom() and sendto() of a socket on all interfaces. An answer leaves from the address that was asked.

    IPv4: struct in_pktinfo, ip(7). IPv6: struct in6_pktinfo, RFC 3542 section 6.2. Interface 0 means: use the routes.
    A multicast address (ff00::/8) cannot be the source of an answer.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._control: list[tuple[int, int, bytes]] = []  # for the answer to the last datagram
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def recvfrom(self, size: int) -> tuple[bytes, Address]:
        data, control, _, peer = self._sock.recvmsg(size, CONTROL_BYTES)
        self._control = []
        for level, kind, info in control:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                self._control = [(level, kind, bytes(4) + info[4:8] + bytes(4))]
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and info[0] != 0xFF:
                self._control = [(level, kind, info[:16] + bytes(4))]
        return data, peer

    def sendto(self, data: bytes, peer: Address) -> int:
        return self._sock.sendmsg([data], self._control, 0, peer)


class UDPServer(contextlib.AbstractContextManager["UDPServer"]):
    """A UDP server with socketserver's vocabulary. It listens on all addresses of a host name, IPv4 and IPv6.

    address: (host, port). Host '' means all interfaces; port 0 means any free port, the same for all addresses.
    reply: a function of the datagram's bytes and the sender's (host, port, ...). It returns the answer, or None. If it
    raises an exception, the exception is logged. It must not answer answers: see acknowledge().
    received, dropped: counters. The kernel's drops are known on Linux only, after serving has ended.
    Raises OSError if the name has no address (socket.gaierror) or an address cannot be bound.
    """

    def __init__(self, address: Address, reply: Callable[[bytes, Address], bytes | None] = acknowledge) -> None:
        self._reply = reply
        self.received = 0
        self.dropped: int | None = None
        self._warned: set[int | None] = set()
        self._stopping = False
        self._serving = threading.RLock()
        self._sockets = bind_all(address)
        self.addresses: list[Address] = [sock.getsockname()[:2] for sock in self._sockets]
        self.address = self.addresses[0]
        self._selector = selectors.DefaultSelector()
        self._wake_end, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(self._wake_end, selectors.EVENT_READ, lambda: self._wake_end.recv(BATCH))
        for sock in self._sockets:
            wildcard = ON_LINUX and sock.getsockname()[0] in ("0.0.0.0", "::")
            answering = WildcardSocket(sock) if wildcard else sock
            self._selector.register(sock, selectors.EVENT_READ, partial(self._answer_batch, answering))

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve_forever(self) -> None:
        """Serve until shutdown() is called, then close the sockets."""
        with self._serving, contextlib.closing(self):
            while not self._stopping:
                for key, _ in self._selector.select(TICK_S):
                    key.data()

    def shutdown(self) -> None:
        """Let serve_forever() return, without waiting for it. Call it from any thread, also before serving."""
        self._stopping = True
        with contextlib.suppress(OSError):  # The buffer is full, or the socket is closed.
            self._waker.send(b"\0")

    def close(self) -> None:
        """Wait for serve_forever() to return, and free the addresses. Do not call it from `reply`."""
        self.shutdown()
        with self._serving:  # serve_forever() holds this lock, and calls close() at its end.
            if ON_LINUX and self.dropped is None:
                self.dropped = sum(count_drops(sock) for sock in self._sockets)
            self._selector.close()
            for sock in (*self._sockets, self._wake_end, self._waker):
                sock.close()

    def _answer_batch(self, sock: Any) -> None:
        """Answer up to BATCH datagrams. An error ends the batch early; the next call continues."""
        receive, send, reply, verbose = sock.recvfrom, sock.sendto, self._reply, log.isEnabledFor(logging.INFO)
        peer: Address = ("", 0)
        try:
            for _ in range(BATCH):
                data, peer = receive(MAX_DATAGRAM_BYTES)
                self.received += 1
                if verbose:
                    log.info("Received message from %s: %s", format_address(peer), format_datagram(data))
                answer = reply(data, peer)
                if answer is not None:
                    send(answer, peer)
        except (BlockingIOError, ConnectionError):
            pass  # The queue is empty, or (on Windows) an earlier answer was not received.
        except OSError as error:
            if peer[1] and error.errno not in self._warned:  # Port 0 belongs to a forged sender.
                self._warned.add(error.errno)  # One warning for each cause is enough: any sender can provoke it.
                log.warning("cannot answer %s: %s", format_address(peer), error.strerror)
        except Exception:
            log.exception("no answer to %s: the reply function failed", format_address(peer))


def bind_all(address: Address) -> list[socket.socket]:
    """Return sockets on all addresses of a host name, with the same port. SO_REUSEADDR would let servers share it."""
    host, port = address
    sockets: list[socket.socket] = []
    results = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, target in dict.fromkeys(results):  # A hosts file may contain an address twice.
        try:
            sock = bind((target[0], port, *target[2:]), family)
        except OSError as error:
            failure = error
            if error.errno in NO_SUCH_FAMILY:
                continue  # A machine without IPv6 may resolve localhost to ::1, too.
            for sock in sockets:
                sock.close()
            if sockets and address[1] == 0 and error.errno == errno.EADDRINUSE:
                return bind_all(address)  # The port is free on one address only: choose another port.
            raise
        sockets.append(sock)
        port = sock.getsockname()[1]
    if not sockets:
        raise failure
    return sockets


def bind(address: Address, family: int) -> socket.socket:
    """Return a non-blocking socket that is bound to one address."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # Some systems refuse a size above their limit, others lower it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own socket.
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def count_drops(sock: socket.socket) -> int:
    """Return how many datagrams Linux dropped because the receive buffer was full."""
    with contextlib.suppress(OSError):
        memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
        return int.from_bytes(memory[4 * SK_MEMINFO_DROPS :][:4], sys.byteorder)
    return 0


def ask(host: str, port: int, message: bytes, timeout_s: float = 5.0, *, broadcast: bool = False) -> bytes:
    """Send one datagram, and return the first answer.

    broadcast: allow a broadcast address, and accept the answer from any address.
    Raises OSError: socket.gaierror, TimeoutError, ConnectionRefusedError, or an error of sending (too long, no route).
    """
    failures: list[OSError] = []
    for family, kind, _, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as sock:
                sock.settimeout(timeout_s)
                if broadcast:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.sendto(message, target)
                else:  # The kernel passes only answers of a connected address, and reports its errors.
                    sock.connect(target)
                    sock.send(message)
                return sock.recv(MAX_DATAGRAM_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            failures.append(error)  # The server may listen on the next address.
    raise min(failures, key=lambda error: not isinstance(error, ConnectionRefusedError))


def format_datagram(data: bytes) -> str:
    """Return the text of a datagram, escaped. A long one is cut, and followed by its length."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    is_cut = len(data) > MAX_SHOWN_BYTES
    text = printable(decoder.decode(data[:MAX_SHOWN_BYTES], final=not is_cut))  # It omits an incomplete character.
    return f"{text[:MAX_SHOWN_BYTES]}... ({len(data):,} bytes)" if is_cut else text


def format_address(address: tuple[Any, ...]) -> str:
    """Return an address as in URLs: 127.0.0.1:80 or [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Console(logging.Handler):
    """Print events, and warnings to standard error. A thread writes them, so that an unread output stops no client."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped = 0
        self._lines: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_lines, daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= MAX_QUEUED_LINES:
            self._dropped += 1
        elif record.levelno < logging.WARNING:
            self._lines.put((1, f"{record.getMessage()}\n"))
        else:
            self._lines.put((2, f"{PROGRAM}: {record.levelname.lower()}: {record.getMessage()}\n"))

    def close(self) -> None:
        """Wait until the lines are written, FLUSH_S at most. logging.shutdown() calls this at the exit."""
        self._lines.put(None)
        self._thread.join(FLUSH_S)
        super().close()

    def _write_lines(self) -> None:
        batch: list[tuple[int, str] | None] = []
        while None not in batch:
            batch = [self._lines.get()]
            time.sleep(BATCH_S)
            batch += [self._lines.get() for _ in range(self._lines.qsize())]
            for descriptor in (1, 2):
                self._write(descriptor, "".join(item[1] for item in batch if item and item[0] == descriptor))
            if self._dropped and self._lines.empty():
                log.warning("%d log lines were dropped, because nobody read the output", self._dropped)
                self._dropped = 0

    def _write(self, descriptor: int, text: str) -> None:
        data = text.encode(getattr(sys.stdout, "encoding", "utf-8"), "backslashreplace")
        with contextlib.suppress(OSError):  # The disk is full, or the reader has closed the pipe.
            while data:  # A blocked sys.stdout.write() would hold a lock that the exit needs.
                data = data[os.write(descriptor, data) :]


def reserve_standard_descriptors() -> None:
    """Open /dev/null on every closed descriptor of 0 to 2, so that no socket or file gets that number."""
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDONLY)  # Writing to a closed standard output remains an error.
    os.close(descriptor)


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
    add = parser.add_argument_group("address").add_argument
    add("--host", default="localhost", help="name or address; '' for all interfaces (default: %(default)s)")
    port = partial(bounded, int, 0, 65_535)
    add("-p", "--port", type=port, default=12345, help="port; 0 for any free port (default: %(default)s)")
    add = parser.add_argument_group("server").add_argument
    add("--no-reply", action="store_true", help="only receive, and send no answers")
    add("-q", "--quiet", action="store_true", help="print no line for each datagram")
    add = parser.add_argument_group("client").add_argument
    add("--send", metavar="TEXT", help="send TEXT (- for standard input) as one datagram, and print the answer")
    add("--broadcast", action="store_true", help="allow --send to a broadcast address; print the first answer")
    seconds = partial(bounded, float, 0.01, DAY_S)
    add("--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait for it (default: %(default)g)")
    args = parser.parse_args(argv)
    args.host = args.host.strip("[]")  # [::1], as in URLs
    if args.broadcast and args.send is None:
        parser.error("--broadcast needs --send")
    return args


def serve(args: argparse.Namespace) -> None:
    reply = (lambda data, peer: None) if args.no_reply else acknowledge
    with UDPServer((args.host, args.port), reply) as server:
        with contextlib.suppress(ValueError):  # Only the main thread receives signals.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: server.shutdown())
        for address in server.addresses:
            log.info("Listening on %s", format_address(address))
        log.setLevel(logging.WARNING if args.quiet else logging.INFO)
        server.serve_forever()
    drops = "" if server.dropped is None else f", dropped by the kernel: {server.dropped}"
    log.log(COUNTERS_LEVEL, "datagrams received: %d%s", server.received, drops)


def send(args: argparse.Namespace) -> None:
    message = os.fsencode(args.send)
    if args.send == "-":
        with open(0, "rb", closefd=False) as stdin:
            message = stdin.read(MAX_DATAGRAM_BYTES + 1)  # Sending one byte too many is an error.
    answer = ask(args.host, args.port, message, args.timeout, broadcast=args.broadcast)
    with output_errors():
        print(printable(answer.decode("utf-8", "backslashreplace")), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    logging.basicConfig(level=logging.INFO, handlers=[Console()])
    logging.addLevelName(COUNTERS_LEVEL, "info")
    task = "listen on" if args.send is None else "get an answer from"
    try:
        (serve if args.send is None else send)(args)
    except KeyboardInterrupt:
        return 130
    except (OSError, UnicodeError) as error:
        cause = "no answer in time" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
        is_client = args.send is not None
        hints = {
            errno.EMSGSIZE: "send less than 65,508 bytes",
            errno.EACCES: "a broadcast address needs --broadcast" if is_client else "choose a --port of 1,024 or more",
        }
        hint = hints.get(getattr(error, "errno", 0), "check --host and --port, or try again")
        log.error("cannot %s %s: %s; %s", task, format_address((args.host, args.port)), cause, hint)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
