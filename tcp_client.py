#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Connect to a TCP server, send it text or standard input if asked to, and print everything that it sends, line by
line as it arrives, until it closes the connection. The client moves bytes; it implements no protocol on top of TCP.

examples:
  python tcp_client.py                    print the greeting of localhost:12345
  python tcp_client.py --send 'hello'     send, half-close, print the answer
  python tcp_client.py localhost 8000 --send -     send lines as you type them
  python tcp_client.py --raw --send - <in >out     copy bytes in both directions
  python tcp_client.py example.com 443 --tls --send $'HEAD / HTTP/1.0\\r\\n\\r\\n'
"""

import _thread
import argparse
import contextlib
import errno
import io
import logging
import os
import re
import selectors
import shutil
import socket
import ssl
import sys
import textwrap
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

__all__ = ["ReceiveError", "receive", "stream"]
__version__ = "2.0.0"

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
READ_BYTES = 65_536  # size of one recv()
MAX_BYTES = 1_048_576  # default limit of an answer that is printed as text
ATTEMPT_DELAY_S = 0.25  # head start of an address before the next one is tried (RFC 8305 section 5)
RETRY_S = 0.1  # pause between two attempts to reach a server that refuses connections
INPUT_PAUSE_S = 0.5  # After the server has finished sending, a longer pause of the input ends the exchange.
DAY_S = 86_400.0
BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the text direction (UAX 9)
NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# The pattern also contains control characters, line and paragraph separators, surrogates and the byte order mark.
UNPRINTABLE = re.compile(f"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{BIDIRECTIONAL}{NONCHARACTERS}]+")


class ReceiveError(OSError):
    """The exchange failed. The cause is chained; `received` holds the bytes that arrived before the failure."""

    received = b""


class Connection:
    """A TCP connection with or without TLS. One thread may send while another receives, unlike with ssl.SSLSocket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None, host: str) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._version: str | None = None  # The version of TLS, after the handshake.
        if context:  # The scope of an IPv6 address does not belong to the name.
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host.partition("%")[0])
        self._ended = False  # The server has finished sending.
        self._awaits_input = False
        self._sent_bytes, self._sent_at = 0, time.monotonic()
        self._input_ended = threading.Event()
        self._failure: OSError | None = None  # The error of the sending thread.

    def exchange(self, source: Iterable[bytes] | None, half_close: bool, timeout_s: float) -> Iterator[bytes]:
        """Yield what the server sends until it closes, while a thread sends what `source` yields."""
        answer = self._shake_hands()
        # In TLS 1.2, close_notify ends both directions (RFC 5246 section 7.2.1).
        has_half_close = self._version in (None, "TLSv1.3")
        half_close = half_close and has_half_close
        if source is not None:  # Thread.start() waits, and Ctrl+C can break that wait with a RuntimeError.
            _thread.start_new_thread(self._send_from, (source, half_close))
        answered = False
        while True:
            answered = answered or bool(answer)
            yield from answer
            if self._ended:
                break
            try:
                answer = self._receive()
            except TimeoutError:
                answer = []
                if not self._awaits_input and time.monotonic() - self._sent_at >= timeout_s:
                    raise
        if half_close and self._sent_bytes and self._input_ended.is_set() and not answered:
            log.warning("the server closed the connection without an answer; try --no-shutdown")
        if has_half_close and source is not None:
            self._finish_sending()
        if self._failure:
            raise self._failure  # Only the first call after a reset reports it; recv() then returns an ordinary end.
        with contextlib.suppress(OSError):
            self._send_close_notify()

    def _finish_sending(self) -> None:
        """Send the input that is available, because a server that has finished sending may still receive."""
        while not self._input_ended.wait(INPUT_PAUSE_S):
            if self._awaits_input and time.monotonic() - self._sent_at >= INPUT_PAUSE_S:
                break

    def _shake_hands(self) -> list[bytes]:
        """Complete the TLS handshake, if any, and return the data that arrived with its end."""
        while self._tls and not self._version:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                self._version = self._tls.version()  # Later, it is None while OpenSSL reads a session ticket.
            self._send(self._outgoing.read())
            if not self._version:
                wire = self._sock.recv(READ_BYTES)
                if not wire:
                    raise ConnectionResetError
                self._incoming.write(wire)
        return self._decrypt(b"")

    def _receive(self) -> list[bytes]:
        wire = self._sock.recv(READ_BYTES)
        if self._tls and not wire:  # Without close_notify, an attacker may have cut the data (RFC 8446 section 6.1).
            raise ssl.SSLEOFError
        self._ended = not wire
        return self._decrypt(wire)

    def _decrypt(self, wire: bytes) -> list[bytes]:
        if not self._tls:
            return [wire] if wire else []
        data = []
        with self._lock, contextlib.suppress(ssl.SSLWantReadError):
            self._incoming.write(wire)
            with contextlib.suppress(ssl.SSLZeroReturnError):
                while piece := self._tls.read(READ_BYTES):
                    data.append(piece)
            self._ended = True  # by close_notify
        return data

    def _send_from(self, source: Iterable[bytes], half_close: bool) -> None:
        try:
            self._awaits_input = True
            for data in source:
                self._awaits_input = False
                self._send(self._encrypt(data))
                self._sent_bytes += len(data)
                self._awaits_input = True
        except OSError as error:
            self._failure = error
        finally:
            self._awaits_input = False
            self._input_ended.set()
        if half_close and not self._failure:
            with contextlib.suppress(OSError):  # The server may have closed the connection.
                self._send_close_notify()
                self._sock.shutdown(socket.SHUT_WR)

    def _encrypt(self, data: bytes) -> bytes:
        if not self._tls:
            return data
        with self._lock:
            self._tls.write(data)
            return self._outgoing.read()

    def _send_close_notify(self) -> None:
        if self._tls:
            with self._lock, contextlib.suppress(ssl.SSLError):  # unwrap() also waits for the server's close_notify.
                self._tls.unwrap()
            self._send(self._outgoing.read())

    def _send(self, wire: bytes) -> None:
        while wire:  # sendall() has one timeout for all of its data; a slow reader is not a silent one.
            wire = wire[self._sock.send(wire) :]
            self._sent_at = time.monotonic()


def connect(host: str, port: int, timeout_s: float, wait_s: float) -> socket.socket:
    """Return a connection to `host`. While it refuses connections, try again for `wait_s` seconds."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # IPv6 and IPv4 take turns (RFC 8305 section 4): an address is sorted by its position within its family.
    by_turns = sorted(addresses, key=lambda one: [other for other in addresses if other[0] == one[0]].index(one))
    retry_until = time.monotonic() + wait_s
    while True:
        try:
            return connect_first(by_turns, timeout_s)
        except ConnectionRefusedError:
            if time.monotonic() >= retry_until:
                raise
        time.sleep(RETRY_S)


def connect_first(addresses: Iterable[tuple[Any, ...]], timeout_s: float) -> socket.socket:
    """Return a connection to the address that answers first: Happy Eyeballs (RFC 8305 section 5)."""
    deadline = time.monotonic() + timeout_s
    waiting, failures = list(addresses), []
    with selectors.DefaultSelector() as attempts, contextlib.ExitStack() as cleanup:
        while waiting or attempts.get_map():
            try:
                if waiting:
                    family, kind, _, _, address = waiting.pop(0)
                    sock: socket.socket = cleanup.enter_context(socket.socket(family, kind))
                    sock.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        sock.connect(address)
                    attempts.register(sock, selectors.EVENT_WRITE, sock)
                for key, _ in attempts.select(max(0.0, min(ATTEMPT_DELAY_S, deadline - time.monotonic()))):
                    sock = attempts.unregister(key.fileobj).data
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code:
                        raise OSError(code, os.strerror(code))
                    winner = sock.dup()  # The original is closed together with the other attempts.
                    winner.settimeout(timeout_s)
                    return winner
            except OSError as error:
                failures.append(error)
            if time.monotonic() >= deadline:
                raise TimeoutError
    raise min(failures, key=lambda error: not isinstance(error, ConnectionRefusedError))


def stream(
    host: str,
    port: int,
    *,
    send: bytes | Iterable[bytes] | None = None,
    half_close: bool = True,
    timeout_s: float = 10.0,
    wait_s: float = 0.0,
    max_bytes: int | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Generator[bytes, None, None]:
    """Connect to a server, and yield what it sends, as it arrives, until it closes the connection.

    send, half_close: bytes, or an iterable of bytes; shut down the sending side after them (not with TLS 1.2 or older).
    timeout_s: limit for connecting, and for each silence of the server while no input is awaited.
    wait_s, ssl_context: how long to try again while the server refuses connections; a context of a client, for TLS.
    Raises OSError (socket.gaierror, TimeoutError, ConnectionError, ssl.SSLError), also after more than max_bytes.
    """
    with connect(host, port, timeout_s, wait_s) as sock:
        source = [send] if isinstance(send, bytes) else send
        left_bytes = 1 << 62 if max_bytes is None else max_bytes  # sys.maxsize is 2 GiB on 32-bit systems.
        for data in Connection(sock, ssl_context, host).exchange(source, half_close, timeout_s):
            yield data[:left_bytes]
            left_bytes -= len(data)
            if left_bytes < 0:
                raise OSError(f"the answer is longer than {max_bytes:,} bytes (--max-bytes)")


def receive(host: str, port: int, *, max_bytes: int = MAX_BYTES, **options: Any) -> bytes:
    """Return everything that the server sends until it closes. The options are those of stream().

    Raises ReceiveError, with the bytes that arrived before, where stream() raises OSError.
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


def print_lines(chunks: Iterable[bytes]) -> None:
    """Print each line as soon as LF or CRLF completes it; print an incomplete line at the end, or after a failure."""
    line = bytearray()
    printed = complete = False
    try:
        for data in chunks:
            first, *others = data.split(b"\n")
            line += first
            for other in others:
                complete_line, line, printed = line, bytearray(other), True
                print_received(complete_line.removesuffix(b"\r"))
            with output_errors():
                print(end="", flush=True)
        complete = True
    finally:
        if line or (complete and not printed):
            print_received(line, flush=True)


def print_received(line: bytearray, flush: bool = False) -> None:
    with output_errors():
        print(f"Received: {printable(line.decode('utf-8', 'backslashreplace'))}\n", end="", flush=flush)


def copy_bytes(chunks: Iterable[bytes]) -> None:
    """Write the bytes to standard output unchanged, as they arrive."""
    for data in chunks:
        with output_errors(), open(1, "wb", closefd=False) as output:
            output.write(data)


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
    server = parser.add_argument_group("server").add_argument
    port = partial(bounded, int, 1, 65_535)
    server("HOST", nargs="?", help="the same as --host HOST")
    server("PORT", nargs="?", type=port, help="the same as --port PORT")
    server("--host", default="localhost", help="name or address of the server (default: %(default)s)")
    server("-p", "--port", type=port, default=12345, help="its port (default: %(default)s)")
    wait = "try for S seconds while the server refuses"
    server("--wait", type=partial(bounded, float, 0, DAY_S), default=0.0, metavar="S", help=wait)
    timeout = "limit for connecting, and for each silence of the server (default: %(default)g seconds)"
    server("--timeout", type=partial(bounded, float, 0.01, DAY_S), default=10.0, metavar="S", help=timeout)
    data = parser.add_argument_group("data").add_argument
    data("--send", metavar="TEXT", help="send TEXT (- for standard input), then shut down the sending side")
    data("--no-shutdown", action="store_true", help="keep the sending side open, which some servers need")
    data("--raw", action="store_true", help="copy the received bytes to standard output unchanged")
    data("--max-bytes", type=partial(bounded, int, 1, 10**14), metavar="N", help="limit (default for text: 1 MiB)")
    tls = parser.add_argument_group("TLS").add_argument
    tls("--tls", action="store_true", help="use TLS, and check the server's certificate")
    tls("--ca", metavar="FILE", help="trust the certificates in this PEM file instead of the system's")
    tls("--insecure", action="store_true", help="do not check the certificate (only for tests)")
    args = parser.parse_intermixed_args(argv)
    args.port = args.PORT or args.port
    args.host = (args.HOST or args.host).strip("[]")  # [::1], as in URLs
    if (args.ca or args.insecure) and not args.tls:
        parser.error("--ca and --insecure need --tls")
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


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    logging.basicConfig(format=f"{PROGRAM}: warning: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    # os.read() takes no lock, unlike sys.stdin, on which a waiting thread would delay the exit.
    send = iter(partial(os.read, 0, READ_BYTES), b"") if args.send == "-" else args.send and os.fsencode(args.send)
    options = {"send": send, "half_close": not args.no_shutdown, "wait_s": args.wait}
    limits = {"timeout_s": args.timeout, "max_bytes": args.max_bytes or (None if args.raw else MAX_BYTES)}
    try:
        context = tls_context(args) if args.tls else None
        with contextlib.closing(stream(args.host, args.port, ssl_context=context, **options, **limits)) as chunks:
            (copy_bytes if args.raw else print_lines)(chunks)
    except KeyboardInterrupt:
        return 130
    except (OSError, UnicodeError) as error:
        print_message("error", f"{args.host} port {args.port}: {explain(error)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
