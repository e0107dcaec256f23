#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Connect to a TCP server and show all that it sends until it closes, after sending it something if asked to.
It shows bytes as text, or with --raw passes them on as they are; it speaks no protocol on top of them.

examples:
  python tcp_client.py                          read the greeting of localhost:12345
  python tcp_client.py --wait 5                 the same, from a server that may still be starting
  python tcp_client.py --send 'hello'           send, half-close, read the answer
  python tcp_client.py --raw --send - <in >out  bytes through a server, both ways at once
  python tcp_client.py --host example.com --port 443 --tls --send $'HEAD / HTTP/1.0\\r\\n\\r\\n'

what the ten-line version gets wrong:
  It takes one recv() for one message: TCP is a stream, and the rest of the answer is lost.
  It decodes each piece by itself: a character that two segments share breaks it.
  It waits forever for a server that says nothing, and fills memory for one that never stops.
  It sends everything before it reads: once the buffers on the way are full, both sides wait for each other.
  It prints what the peer says: an escape sequence in it reaches the terminal.
"""

import argparse
import contextlib
import io
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

__all__ = ["ReceiveError", "receive", "stream"]

PROGRAM = os.path.basename(__file__)
READ_BYTES = 65_536  # one recv(): enough for the fastest peer
MAX_BYTES = 1_048_576  # of an answer shown as text; more is no message, and nobody reads it
RETRY_S = 0.1  # between attempts at a server that is not there yet
DAY_S = 86_400.0


class ReceiveError(OSError):
    """The exchange failed; the cause is chained, and `received` holds what came before."""

    received = b""


class Plain:
    """What crosses the wire without TLS: the bytes themselves."""

    ended = False  # the peer has said all it has to say

    def seal(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""

    def unseal(self, wire: bytes | None) -> list[bytes]:
        """What the peer says in what the socket gave: b"" when the peer has closed, None before the first recv()."""
        self.ended = wire == b""
        return [wire] if wire else []


class TLS(Plain):
    """TLS from bytes to bytes, for two threads: SSLSocket is not safe for that, and cannot half-close either."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._lock = threading.Lock()

    def handshake(self, sock: socket.socket) -> None:
        """Raises ssl.SSLError (for a bad certificate ssl.SSLCertVerificationError) and what sockets raise."""
        while True:
            try:
                self._tls.do_handshake()
                return sock.sendall(self._outgoing.read())
            except ssl.SSLWantReadError:
                sock.sendall(self._outgoing.read())
                self._feed(sock.recv(READ_BYTES))

    def seal(self, data: bytes) -> bytes:
        with self._lock:
            self._tls.write(data)
            return self._outgoing.read()

    def end(self) -> bytes:
        """A close_notify, TLS's half-close (RFC 8446 section 6.1)."""
        with self._lock:
            with contextlib.suppress(ssl.SSLWantReadError):  # the peer's own may come much later
                self._tls.unwrap()
            return self._outgoing.read()

    def unseal(self, wire: bytes | None) -> list[bytes]:
        said = []
        with self._lock, contextlib.suppress(ssl.SSLWantReadError):  # subtle: in one go, unwrap() fails on unread data
            self._feed(wire)
            with contextlib.suppress(ssl.SSLZeroReturnError):
                while data := self._tls.read(READ_BYTES):
                    said.append(data)
            self.ended = True
        return said

    def _feed(self, wire: bytes | None) -> None:
        if wire:
            self._incoming.write(wire)
        elif wire is not None:
            self._incoming.write_eof()  # without a close_notify before it, the next read raises


class Sender(threading.Thread):
    """Sends what `source` yields, then half-closes, in a thread of its own: the answer must be read meanwhile."""

    def __init__(self, sock: socket.socket, channel: Plain, source: Iterable[bytes]) -> None:
        super().__init__(daemon=True)  # nobody waits for a standard input that never ends
        self._sock, self._channel, self._source = sock, channel, source
        self.waiting = True  # for the source: the peer need not say anything
        self.sent_at = time.monotonic()
        self.failure: OSError | None = None

    def run(self) -> None:
        try:
            for data in self._source:
                self.waiting = False
                self._send(self._channel.seal(data))
                self.waiting = True
            self.waiting = False
            self._send(self._channel.end())
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.failure, self.waiting = error, False

    def _send(self, wire: bytes) -> None:
        while wire:  # subtle: sendall() has one timeout for all of it, and a peer that reads slowly is not silent
            wire = wire[self._sock.send(wire) :]
            self.sent_at = time.monotonic()


def talk(sock: socket.socket, channel: Plain, sender: Sender | None, timeout_s: float) -> Iterator[bytes]:
    """Yield what the peer says until it closes, sending meanwhile."""
    yield from channel.unseal(None)
    if sender:
        sender.start()
    while not channel.ended:
        try:
            wire = sock.recv(READ_BYTES)
        except TimeoutError:
            if sender and (sender.waiting or time.monotonic() - sender.sent_at < timeout_s):
                continue
            raise
        yield from channel.unseal(wire)
    if sender and isinstance(sender.failure, ConnectionResetError):
        raise sender.failure  # subtle: the first call to meet a reset clears it, and the other sees a plain end


def connect(host: str, port: int, timeout_s: float, wait_s: float) -> socket.socket:
    """A connection to the first address of `host` that answers; while it refuses, try again for `wait_s`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    retry_until = time.monotonic() + wait_s
    while True:
        failures = []
        for family, _, _, _, target in found:
            with contextlib.ExitStack() as unless_connected:
                try:
                    sock = unless_connected.enter_context(socket.socket(family, socket.SOCK_STREAM))
                    sock.settimeout(timeout_s / len(found))  # a dead address leaves time for the next one
                    sock.connect(target)
                except OSError as error:
                    failures.append(error)
                else:
                    sock.settimeout(timeout_s)
                    unless_connected.pop_all()
                    return sock
        failures.sort(key=lambda error: not isinstance(error, ConnectionRefusedError))
        if not isinstance(failures[0], ConnectionRefusedError) or time.monotonic() >= retry_until:
            raise failures[0]
        time.sleep(RETRY_S)


def stream(
    host: str,
    port: int,
    *,
    send: bytes | Iterable[bytes] | None = None,
    timeout_s: float = 10.0,
    wait_s: float = 0.0,
    max_bytes: int | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Generator[bytes, None, None]:
    """Connect, and yield what the server sends, as it comes, until it closes.

    send: bytes, or what yields them; after the last the connection is half-closed. None leaves it open.
    timeout_s: to connect, and for each silence of the server (not while `send` is still waited for).
    wait_s: how long to try again while the connection is refused. ssl_context: a client's, for TLS.
    Raises OSError: socket.gaierror, TimeoutError, ConnectionError, ssl.SSLError; and after `max_bytes`.
    """
    with connect(host, port, timeout_s, wait_s) as sock:
        channel = Plain()
        if ssl_context:
            channel = TLS(ssl_context, host)
            channel.handshake(sock)
        source = [send] if isinstance(send, bytes) else send
        sender = None if source is None else Sender(sock, channel, source)
        left = max_bytes
        for data in talk(sock, channel, sender, timeout_s):
            yield data if left is None else data[:left]
            if left is not None and (left := left - len(data)) < 0:
                raise OSError(f"the answer is longer than {max_bytes:,} bytes (--max-bytes)")


def receive(host: str, port: int, *, max_bytes: int = MAX_BYTES, **options: Any) -> bytes:
    """All that the server sends until it closes. Options as for stream().

    Raises ReceiveError, which has what came until then, for every cause that stream() has.
    """
    received = bytearray()
    try:
        for data in stream(host, port, max_bytes=max_bytes, **options):
            received += data
    except OSError as error:
        failure = ReceiveError(explain(error))
        failure.received = bytes(received)
        raise failure from error
    return bytes(received)


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


def show(chunks: Iterable[bytes]) -> None:
    """Print everything as one line of text; what came before a failure, too."""
    received, complete = bytearray(), False
    try:
        for data in chunks:
            received += data
        complete = True
    finally:
        if received or complete:
            with writing():
                print("Received:", printable(received.decode("utf-8", "backslashreplace")), flush=True)


def pass_on(chunks: Iterable[bytes]) -> None:
    """Write the bytes to stdout unchanged, as they come."""
    for data in chunks:
        with writing(), open(1, "wb", closefd=False) as output:
            output.write(data)


def read_stdin() -> Iterator[bytes]:
    """Subtle: os.read() gives what is there and takes no lock, on which a waiting sys.stdin would hang the exit."""
    while data := os.read(0, READ_BYTES):
        yield data


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
    seconds_or_0 = partial(number, float, 0, DAY_S)
    add("--host", default="localhost", help="name or address of the server (%(default)s)")
    add("--port", type=partial(number, int, 1, 65_535), default=12345, help="port of the server (%(default)s)")
    add("--send", metavar="TEXT", help="send TEXT, or with - standard input, then half-close")
    add("--timeout", type=seconds, default=10.0, metavar="S", help="seconds to connect, and of silence (%(default)g)")
    add("--wait", type=seconds_or_0, default=0.0, metavar="S", help="seconds to retry while refused (%(default)g)")
    limit = f"stop after so many ({MAX_BYTES}, with --raw no limit)"
    add("--max-bytes", type=partial(number, int, 1, sys.maxsize), metavar="N", help=limit)
    add("--raw", action="store_true", help="pass the bytes on to stdout, unchanged, as they come")
    add("--tls", action="store_true", help="speak TLS, and check the server's certificate")
    add("--ca", metavar="FILE", help="trust these certificates (PEM) instead of the system's")
    add("--insecure", action="store_true", help="do not check the certificate: for tests only")
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


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's alphabet lacks a letter
    limit = args.max_bytes or (None if args.raw else MAX_BYTES)
    send = read_stdin() if args.send == "-" else args.send and os.fsencode(args.send)
    limits = {"timeout_s": args.timeout, "wait_s": args.wait, "max_bytes": limit}
    try:
        context = tls_context(args)
        with contextlib.closing(stream(args.host, args.port, send=send, ssl_context=context, **limits)) as chunks:
            (pass_on if args.raw else show)(chunks)
    except KeyboardInterrupt:
        return 130
    except (OSError, UnicodeError) as error:
        complain("error", f"{args.host} port {args.port}: {explain(error)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
