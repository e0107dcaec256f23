#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Greet every TCP client, or send back what it sends (--echo), with or without TLS. One thread serves thousands of
connections at once. The server moves bytes; a handler of yours can add a protocol on top.

examples:
  python tcp_server.py                      greet clients of localhost:12345
  python tcp_server.py --echo --port 7000   send back what clients send
  python tcp_server.py --host '' --once     serve one client on any interface
  python tcp_server.py --tls-cert cert.pem --tls-key key.pem
"""

import argparse
import contextlib
import errno
import logging
import math
import os
import queue
import selectors
import shutil
import signal
import socket
import ssl
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

__all__ = ["Connection", "Echo", "Greeter", "Handler", "TCPServer"]
__version__ = "2.0.0"

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
READ_BYTES = 65_536  # size of one recv(): small enough that every connection gets its turn
MAX_UNSENT_BYTES = 1_048_576  # A peer that leaves more unread is dropped when there is more to send.
LINGER_S = 2.0  # time for a peer to read the last bytes and close (RFC 2525 section 2.17)
TICK_S = 0.25  # precision of timeouts; also the pause when no file descriptor is left for accept()
ACCEPT_BATCH = 64  # connections accepted in a row before the open ones get their turn
# On Windows, Python uses select(), which handles 512 sockets.
MAX_SOCKETS = 500 if issubclass(selectors.DefaultSelector, selectors.SelectSelector) else sys.maxsize
SPARE_FILES = 64  # descriptors reserved for standard streams, listeners and files of a handler
LOG_INTERVAL_S = 60.0  # A TLS failure with the same cause and address is logged once in this time.
MAX_LOGGED_FAILURES = 10_000  # causes and addresses that are remembered for this
MAX_QUEUED_LINES = 10_000  # log lines that wait for a reader of the output; further lines are dropped
BATCH_S = 0.01  # Log lines are collected for so long, because one write of many lines is cheaper.
FLUSH_S = 0.5  # time to write the last log lines at the end
DAY_S = 86_400.0

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # Other errors of accept(2) affect one client.
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
# A port scanner ends the connection during the handshake. Python 3.11.2 raises SSLZeroReturnError for that.
HANDSHAKE_ABANDONED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)

Address = tuple[str, int]


class Handler:
    """The callbacks of one connection, named as in asyncio.Protocol. Subclass it, and override what you need.

    A callback that blocks stops all connections. A callback that raises an exception ends its connection.
    """

    connection: "Connection"

    def connection_made(self, connection: "Connection") -> None:
        """Handle a new connection. With TLS, the handshake is complete."""
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        """Handle received bytes. TCP does not preserve the boundaries of the peer's messages."""

    def connection_lost(self, error: Exception | None) -> None:
        """Handle the end of the connection. error is None after an orderly close."""


class Greeter(Handler):
    """Send `message`, and close the connection."""

    def __init__(self, message: bytes = b"Hello, World!") -> None:
        self.message = message

    def connection_made(self, connection: "Connection") -> None:
        connection.send(self.message)
        connection.close()


class Echo(Handler):
    """Send back every byte (RFC 862)."""

    def data_received(self, data: bytes) -> None:
        self.connection.send(data)


class Connection:
    """One client, as its handler sees it. `peer` is its (host, port). Use it only in the thread that serves."""

    def __init__(self, server: "TCPServer", sock: socket.socket, peer: Address) -> None:
        self.peer = peer
        self._server = server
        self._sock = sock
        self._handler: Handler | None = None  # With TLS, it is created after the handshake.
        self._unsent = bytearray()
        self._events = selectors.EVENT_READ
        self._closing = self._half_closed = False
        self._failure: OSError | None = None
        self._deadline = server._fresh_deadline

    def send(self, data: bytes) -> None:
        """Send data, now or as soon as the peer reads. A peer that leaves MAX_UNSENT_BYTES unread is dropped."""
        if self._closing:
            return
        if len(self._unsent) > MAX_UNSENT_BYTES:
            return self._abort(TimeoutError(errno.ETIMEDOUT, "the peer does not read"))
        sent = 0 if self._unsent else self._push(data)
        if sent < len(data):
            self._unsent += data[sent:]
            self._flush()

    def close(self) -> None:
        """Send everything, half-close, read until the peer closes or LINGER_S have passed, and close."""
        self._closing = True
        if not self._unsent and not self._half_closed:
            self._half_close()

    def _ready(self) -> None:
        """Read or write as much as the socket allows without blocking."""
        if not self._handler:
            return self._shake_hands()
        if self._unsent and not self._failure and not self._flush():
            return  # While a peer does not read, the server does not read from it: memory stays bounded.
        if self._failure:
            return self._remove(self._failure)
        if self._closing and not self._half_closed:
            self._half_close()
        try:
            data = self._sock.recv(READ_BYTES)
        except WOULD_BLOCK:
            return
        except OSError as error:
            return self._remove(error)
        if not data:
            self.close()  # The peer has half-closed; the answer is still sent.
            if self._half_closed:
                self._remove(None)
        elif not self._closing:
            self._deadline = self._server._fresh_deadline
            self._call(self._handler.data_received, data)

    def _shake_hands(self) -> None:
        try:
            self._sock.do_handshake()  # type: ignore[attr-defined]
        except WOULD_BLOCK as error:
            self._watch(selectors.EVENT_WRITE if isinstance(error, ssl.SSLWantWriteError) else selectors.EVENT_READ)
        except OSError as error:
            if not isinstance(error, HANDSHAKE_ABANDONED):
                self._server._log_tls_failure(self.peer, error)
            self._remove(error)
        else:
            self._watch(selectors.EVENT_READ)
            self._call(self._open)

    def _open(self) -> None:
        self._handler = self._server._handler_factory()
        self._handler.connection_made(self)

    def _flush(self) -> bool:
        """Send waiting data, and watch for room if some is left. Return whether everything was sent."""
        while self._unsent:
            sent = self._push(self._unsent)
            if not sent:
                break
            del self._unsent[:sent]
        self._watch(selectors.EVENT_WRITE if self._unsent else selectors.EVENT_READ)
        return not self._unsent

    def _push(self, data: bytes | bytearray) -> int:
        """Send without blocking. Return the number of bytes that need no further attempt."""
        try:
            sent = self._sock.send(data)
            self._deadline = self._server._fresh_deadline
            return sent
        except WOULD_BLOCK:
            return 0
        except OSError as error:
            self._abort(error)
            return len(data)

    def _abort(self, error: OSError) -> None:
        """Let the event loop drop the connection. Dropping it here would call a handler inside a handler."""
        self._failure = error
        self._closing = True
        self._deadline = -math.inf

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._server._selector.modify(self._sock, events, self._ready)

    def _half_close(self) -> None:
        if isinstance(self._sock, ssl.SSLSocket):
            try:
                self._sock.unwrap()  # It sends close_notify. The peer's close_notify may never arrive.
            except ssl.SSLWantWriteError:
                return self._watch(selectors.EVENT_WRITE)
            except OSError:
                pass
        self._half_closed = True
        self._deadline = time.monotonic() + LINGER_S
        self._watch(selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # The peer may have closed.
            self._sock.shutdown(socket.SHUT_WR)  # SSLSocket.shutdown() also ends TLS.

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        try:
            method(*args)
        except Exception as error:
            log.exception("the handler of %s failed", format_address(self.peer))
            self._remove(error)

    def _remove(self, error: Exception | None) -> None:
        if self in self._server._connections:
            self._server._connections.remove(self)
            self._server._selector.unregister(self._sock)
            self._sock.close()
            self._closing = self._half_closed = True
            if self._handler:
                self._call(self._handler.connection_lost, error)


class TCPServer(contextlib.AbstractContextManager["TCPServer"]):
    """A TCP server with socketserver's vocabulary. It listens on all addresses of a host name, IPv4 and IPv6.

    address: (host, port). Host '' means all interfaces; port 0 means any free port, the same for all addresses.
    handler_factory: a Handler subclass, or a function that returns a handler; called once for each connection.
    timeout_s, grace_s: idle timeout; time that shutdown() leaves to open connections.
    max_connections, ssl_context: limit, above which clients wait in the backlog; a server's context, for TLS.
    Raises OSError if the name has no address (socket.gaierror) or no address can be bound.
    """

    def __init__(
        self,
        address: Address,
        handler_factory: Callable[[], Handler],
        *,
        timeout_s: float = 60.0,
        grace_s: float = 5.0,
        max_connections: int = 10_000,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._handler_factory = handler_factory
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._max_connections = min(max_connections, MAX_SOCKETS)
        self._ssl_context = ssl_context
        self._connections: set[Connection] = set()
        self._tls_failures: dict[tuple[str, str], float] = {}  # (cause, host): when it may be logged again
        self._accepting = self._resting = self._warned = self._stopping = False
        self._stop_at = math.inf
        self._next_tick = self._fresh_deadline = -math.inf
        self._serving = threading.RLock()
        self._listeners = listen(address)
        self.addresses: list[Address] = [listener.getsockname()[:2] for listener in self._listeners]
        self.address = self.addresses[0]
        self._selector = selectors.DefaultSelector()
        self._wake_end, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(self._wake_end, selectors.EVENT_READ, lambda: self._wake_end.recv(READ_BYTES))

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve_forever(self) -> None:
        """Serve until shutdown() is called, then close everything."""
        with self._serving, contextlib.closing(self):
            while not self._stopping:
                self._accept_if(len(self._connections) < self._max_connections and not self._resting)
                self._take_turn()
            self._accept_if(False)
            for listener in self._listeners:
                listener.close()  # New clients are refused at once.
            while self._connections and time.monotonic() < self._stop_at:
                self._take_turn()

    def shutdown(self, grace_s: float | None = None) -> None:
        """Stop accepting, and let serve_forever() return when all connections have ended, or after grace_s.

        This method does not wait. Call it from any thread, handler or signal handler, repeatedly, also before serving.
        """
        self._stop_at = min(self._stop_at, time.monotonic() + (self._grace_s if grace_s is None else grace_s))
        self._stopping = True
        with contextlib.suppress(OSError):  # The buffer is full, or the socket is closed.
            self._waker.send(b"\0")

    def close(self) -> None:
        """Drop all connections, wait for serve_forever() to return, and free the addresses. Not from a handler."""
        self.shutdown(0)
        with self._serving:  # serve_forever() holds this lock, and calls close() at its end.
            for connection in list(self._connections):
                connection._remove(ConnectionAbortedError(errno.ECONNABORTED, "the server shuts down"))
            self._selector.close()
            for sock in (*self._listeners, self._wake_end, self._waker):
                sock.close()

    def _take_turn(self) -> None:
        """Wait for events, and let each connection that has one proceed."""
        events = self._selector.select(TICK_S)  # A signal just before select() does not end it; on Windows, none does.
        now = time.monotonic()
        self._fresh_deadline = now + self._timeout_s
        for key, _ in events:
            key.data()
        if now >= self._next_tick:  # Checking all deadlines now and then is cheaper than keeping them sorted.
            self._next_tick = now + TICK_S
            self._resting = False
            expired = [connection for connection in self._connections if connection._deadline <= now]
            for connection in expired:
                if not connection._failure and not connection._half_closed:
                    log.info(
                        "Connection from %s closed: idle for %g s", format_address(connection.peer), self._timeout_s
                    )
                connection._remove(connection._failure or TimeoutError(errno.ETIMEDOUT, "the connection was idle"))

    def _accept_if(self, wanted: bool) -> None:
        if wanted != self._accepting:
            self._accepting = wanted
            for listener in self._listeners:
                if wanted:
                    self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))
                else:
                    self._selector.unregister(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(min(ACCEPT_BATCH, self._max_connections - len(self._connections))):
            if self._stopping:
                return
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                self._warned = False  # No client is waiting.
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    continue
                if not self._warned:
                    log.warning("cannot accept connections: %s; waiting until some are closed", error.strerror)
                self._resting = self._warned = True  # Trying again at once would use the processor fully.
                return
            self._admit(sock, peer[:2])

    def _admit(self, sock: socket.socket, peer: Address) -> None:
        log.info("Connection from %s", format_address(peer))
        sock.setblocking(False)
        if self._ssl_context:
            try:
                sock = self._ssl_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:
                return  # The client has closed already, and wrap_socket() has closed the descriptor.
        connection = Connection(self, sock, peer)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection._ready)
        if not self._ssl_context:
            connection._call(connection._open)

    def _log_tls_failure(self, peer: Address, error: OSError) -> None:
        """Log a failed handshake, at most once in LOG_INTERVAL_S for each cause and address."""
        cause = getattr(error, "reason", None) or str(error)
        now = time.monotonic()
        if now >= self._tls_failures.get((cause, peer[0]), now):
            self._tls_failures[cause, peer[0]] = now + LOG_INTERVAL_S
            log.info("TLS handshake with %s failed: %s", format_address(peer), cause)
        if len(self._tls_failures) > MAX_LOGGED_FAILURES:
            self._tls_failures.clear()


def listen(address: Address) -> list[socket.socket]:
    """Return listening sockets on all addresses of a host name, with the same port."""
    host, port = address
    listeners: list[socket.socket] = []
    results = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, target in dict.fromkeys(results):  # A hosts file may contain an address twice.
        try:
            listener = socket.create_server((target[0], port, *target[2:]), family=family, backlog=socket.SOMAXCONN)
        except OSError as error:
            failure = error
            if error.errno in NO_SUCH_FAMILY:
                continue  # A machine without IPv6 may resolve localhost to ::1, too.
            for listener in listeners:
                listener.close()
            if listeners and address[1] == 0 and error.errno == errno.EADDRINUSE:
                return listen(address)  # The port is free on one address only: choose another port.
            raise
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Accepted sockets inherit it.
        listeners.append(listener)
        port = listener.getsockname()[1]
    if not listeners:
        raise failure
    return listeners


def format_address(address: tuple[Any, ...]) -> str:
    """Return an address as in URLs: 127.0.0.1:80 or [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
    add = parser.add_argument_group("answer").add_mutually_exclusive_group().add_argument
    add("--message", default="Hello, World!", help="the greeting (default: %(default)s)")
    add("--echo", action="store_true", help="send back what clients send, instead of a greeting")
    add = parser.add_argument_group("limits").add_argument
    counts = partial(bounded, int, 1, 1_000_000)
    seconds = partial(bounded, float, 0.01, DAY_S)
    add("--max-connections", type=counts, default=10_000, metavar="N", help="others wait (default: %(default)s)")
    add("--timeout", type=seconds, default=60.0, metavar="S", help="idle timeout in seconds (default: %(default)g)")
    graces = partial(bounded, float, 0, DAY_S)
    add("--grace", type=graces, default=5.0, metavar="S", help="seconds to finish after Ctrl+C (default: %(default)g)")
    add("--once", action="store_true", help="serve one connection, then exit")
    add = parser.add_argument_group("TLS").add_argument
    add("--tls-cert", metavar="FILE", help="use TLS with this certificate chain (PEM)")
    add("--tls-key", metavar="FILE", help="the private key of the certificate (PEM)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print no line for each connection")
    args = parser.parse_args(argv)
    args.host = args.host.strip("[]")  # [::1], as in URLs
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls-cert and --tls-key must be used together")
    return args


def refuse_to_prompt() -> str:
    raise OSError("the key is encrypted, and there is no terminal for its passphrase; decrypt it with openssl pkey")


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """Return a context for TLS. Raise OSError if the files cannot be used."""
    interactive = sys.stdin is not None and sys.stdin.isatty()
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.options |= ssl.OP_NO_RENEGOTIATION  # A client could use up the processor with it.
        context.load_cert_chain(cert, key, password=None if interactive else refuse_to_prompt)
    except OSError as error:
        raise OSError(f"cannot use {cert} with {key}: {error.strerror or error}") from None
    return context


def build_server(args: argparse.Namespace) -> TCPServer:
    """Return the server that the options ask for. Raise OSError with a message for the user."""
    room = raise_file_limit(args.max_connections)
    if room < args.max_connections:
        log.warning("--max-connections is %d here: the system allows no more open files (ulimit -Hn)", room)

    def handler() -> Handler:
        if args.once:
            server.shutdown(math.inf)
        return Echo() if args.echo else Greeter(os.fsencode(args.message))

    limits = {"timeout_s": args.timeout, "grace_s": args.grace, "max_connections": room}
    context = server_context(args.tls_cert, args.tls_key) if args.tls_cert else None
    try:
        server = TCPServer((args.host, args.port), handler, ssl_context=context, **limits)
    except (OSError, UnicodeError) as error:
        cause = str(getattr(error, "strerror", error)).partition(" (while")[0]  # create_server() adds the address.
        where = format_address((args.host, args.port))
        raise OSError(f"cannot listen on {where}: {cause}; choose another --host or --port") from None
    return server


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, handlers=[Console()])
    try:
        with build_server(args) as server:
            graces = iter([args.grace])  # A second signal ends the server at once.
            with contextlib.suppress(ValueError):  # Only the main thread receives signals.
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: server.shutdown(next(graces, 0.0)))
            for address in server.addresses:
                log.info("Listening on %s", format_address(address))
            log.setLevel(logging.WARNING if args.quiet else logging.INFO)
            server.serve_forever()
    except OSError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
