#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Greet every TCP client, or with --echo send back what it sends: thousands at once, in one thread, with or
without TLS. It moves bytes and knows no protocol: that is what a handler of yours adds.

examples:
  python tcp_server.py                            greet whoever connects to localhost:12345
  python tcp_server.py --echo --port 7000         send back what comes
  python tcp_server.py --host '' --once           listen on every interface, serve one client, exit
  python tcp_server.py --tls-cert cert.pem --tls-key key.pem

what the ten-line version gets wrong:
  It serves one client at a time: a silent one blocks all others. Here nobody waits, and silence has a limit.
  It closes on unread input: the reset that follows can eat the greeting (RFC 2525 section 2.17). Here the server
  half-closes, reads what the client still says, and closes then.
  It takes send() for delivered: what the peer has no room for is lost. Here it is kept, and nothing more is read
  from a peer that does not read.
  It dies or spins when accept() finds no file descriptor left. Here it waits until there are some.
  It cannot restart ("Address already in use"), listens on IPv4 only, and Ctrl+C cuts everybody off.
"""

import argparse
import contextlib
import errno
import logging
import math
import os
import selectors
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

__all__ = ["Connection", "Echo", "Greeter", "Handler", "TCPServer"]

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
READ_BYTES = 65_536  # one recv(): enough for the fastest peer, small enough for a fair turn to all
MAX_UNSENT_BYTES = 1_048_576  # who leaves so much unread when there is more will not catch up
LINGER_S = 2.0  # for the peer to take the last bytes and close; after that a reset may eat them
TICK_S = 0.25  # how late a timeout may fire, and how long accept() rests without file descriptors
ACCEPT_BATCH = 64  # connections accepted in a row, before those that are open have their turn
SPARE_FILES = 64  # descriptors kept for what is no connection: standard streams, listeners, a handler's files
DAY_S = 86_400.0

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # accept(2); other errors are one client's
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

Address = tuple[str, int]


class Handler:
    """What happens on one connection, in asyncio.Protocol's words: subclass it, override what you need.

    The server makes a handler a connection, and calls it in its one thread: a call that waits makes everybody wait.
    One that raises costs its connection, and is logged.
    """

    connection: "Connection"

    def connection_made(self, connection: "Connection") -> None:
        """The client has connected; with TLS, the handshake is done."""
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        """Some bytes came: cut as the network pleased, not as the peer sent them."""

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone: after an orderly close None, else why."""


class Greeter(Handler):
    """Send `message` and close, whatever the client says."""

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
    """One client, as its handler sees it: `peer` is its (host, port). Only for the thread that serves."""

    def __init__(self, server: "TCPServer", sock: socket.socket, peer: Address) -> None:
        self.peer = peer
        self._server = server
        self._sock = sock
        self._handler: Handler | None = None  # until the connection is made: with TLS, after the handshake
        self._unsent = bytearray()
        self._events = selectors.EVENT_READ
        self._closing = self._half_closed = False
        self._failure: OSError | None = None
        self._deadline = server._fresh_deadline

    def send(self, data: bytes) -> None:
        """Send `data`, now or when the peer takes it. After close() it is ignored.

        Sending more to a peer that has left MAX_UNSENT_BYTES unread drops the connection.
        """
        if self._closing:
            return
        if len(self._unsent) > MAX_UNSENT_BYTES:
            return self._fail(TimeoutError(errno.ETIMEDOUT, "the peer does not read"))
        sent = 0 if self._unsent else self._push(data)
        if sent < len(data):
            self._unsent += data[sent:]
            self._flush()

    def close(self) -> None:
        """Close once everything is sent: half-close, read until the peer closes too or LINGER_S pass, close."""
        self._closing = True
        if not self._unsent and not self._half_closed:
            self._half_close()

    def _ready(self) -> None:
        """The socket can be read or written: get as far as that goes without waiting."""
        if not self._handler:
            return self._shake_hands()
        if self._unsent and not self._failure and not self._flush():
            return  # a peer that does not read is not read from: memory stays flat
        if self._failure:
            return self._drop(self._failure)
        if self._closing and not self._half_closed:
            self._half_close()
        try:
            data = self._sock.recv(READ_BYTES)
        except WOULD_BLOCK:
            return
        except OSError as error:
            return self._drop(error)
        if not data:
            self.close()  # the peer has sent all it has; what is still meant for it goes out first
            if self._half_closed:
                self._drop(None)
        elif not self._closing:
            self._deadline = self._server._fresh_deadline
            self._call(self._handler.data_received, data)

    def _shake_hands(self) -> None:
        try:
            self._sock.do_handshake()  # type: ignore[attr-defined]
        except WOULD_BLOCK as error:
            wants_to_write = isinstance(error, ssl.SSLWantWriteError)
            self._watch(selectors.EVENT_WRITE if wants_to_write else selectors.EVENT_READ)
        except OSError as error:
            if not isinstance(error, ssl.SSLEOFError | ConnectionError):  # those are port scans
                log.warning("TLS with %s failed: %s", format_address(self.peer), error)
            self._drop(error)
        else:
            self._watch(selectors.EVENT_READ)
            self._call(self._open)

    def _open(self) -> None:
        self._handler = self._server._handler_factory()
        self._handler.connection_made(self)

    def _flush(self) -> bool:
        """Send what has been waiting, and have the loop come back for the rest; true when there is none."""
        while self._unsent and (sent := self._push(self._unsent)):
            del self._unsent[:sent]
        self._watch(selectors.EVENT_WRITE if self._unsent else selectors.EVENT_READ)
        return not self._unsent

    def _push(self, data: bytes | bytearray) -> int:
        """Send what goes without waiting; after a failure nothing is left to send."""
        try:
            sent = self._sock.send(data)
            self._deadline = self._server._fresh_deadline
            return sent
        except WOULD_BLOCK:
            return 0
        except OSError as error:
            self._fail(error)
            return len(data)

    def _fail(self, error: OSError) -> None:
        """Have the loop drop it soon; at once would call a handler while another one, or itself, is at work."""
        self._failure, self._closing, self._deadline = error, True, -math.inf

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._server._selector.modify(self._sock, events, self._ready)

    def _half_close(self) -> None:
        if isinstance(self._sock, ssl.SSLSocket):
            try:
                self._sock.unwrap()  # our close_notify; the peer's may never come
            except ssl.SSLWantWriteError:
                return self._watch(selectors.EVENT_WRITE)
            except OSError:
                pass
        self._half_closed = True
        self._deadline = time.monotonic() + LINGER_S
        self._watch(selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # the peer may be gone
            self._sock.shutdown(socket.SHUT_WR)  # subtle: takes TLS off, too; the rest is only read to be forgotten

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        try:
            method(*args)
        except Exception as error:
            log.exception("the handler of %s failed", format_address(self.peer))
            self._drop(error)

    def _drop(self, error: Exception | None) -> None:
        if self in self._server._connections:
            self._server._connections.remove(self)
            self._server._selector.unregister(self._sock)
            self._sock.close()
            self._closing = self._half_closed = True
            if self._handler:
                self._call(self._handler.connection_lost, error)


class TCPServer:
    """A TCP server in socketserver's words, on every address that a host name has, IPv4 and IPv6.

        with TCPServer(("localhost", 0), Echo) as server:
            threading.Thread(target=server.serve_forever).start()
            ...  # clients connect to server.address

    address: (host, port); host '' is every interface, port 0 any free one, the same for all addresses.
    handler_factory: a Handler subclass, or what else returns a handler when called; called once a connection.
    timeout_s: a connection that moves no byte for so long is dropped. max_connections: more wait in the backlog.
    grace_s: what shutdown() gives open connections to finish. ssl_context: a server's, for TLS.
    Raises OSError when the name has no address (socket.gaierror) or none can be bound.
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
        self._timeout_s, self._grace_s = timeout_s, grace_s
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._connections: set[Connection] = set()
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

    def __enter__(self) -> "TCPServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve_forever(self) -> None:
        """Serve until shutdown(), then close everything."""
        with self._serving, contextlib.ExitStack() as after:
            after.callback(self.close)
            with contextlib.suppress(ValueError):  # not the main thread, which alone has signals
                # One that arrives just before select() must end it, too, and on Windows any: it writes a byte.
                before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
                after.callback(signal.set_wakeup_fd, before)
            while not self._stopping:
                self._accept_if(len(self._connections) < self._max_connections and not self._resting)
                self._take_turn()
            self._accept_if(False)
            for listener in self._listeners:
                listener.close()  # who comes now is refused at once
            while self._connections and time.monotonic() < self._stop_at:
                self._take_turn()

    def shutdown(self, grace_s: float | None = None) -> None:
        """Accept no more, and let serve_forever() return when all have finished or `grace_s` is over.

        Does not wait for that. From any thread, handler or signal handler; before serving, too; the first end counts.
        """
        self._stop_at = min(self._stop_at, time.monotonic() + (self._grace_s if grace_s is None else grace_s))
        self._stopping = True
        with contextlib.suppress(OSError):  # full: it is awake; closed: it is over
            self._waker.send(b"\0")

    def close(self) -> None:
        """Cut what is open, wait for serve_forever() to return, free the addresses. Not from a handler."""
        self.shutdown(0)
        with self._serving:  # serve_forever() has it already, and comes by at its end
            for connection in list(self._connections):
                connection._drop(ConnectionAbortedError(errno.ECONNABORTED, "the server shuts down"))
            self._selector.close()
            for sock in (*self._listeners, self._wake_end, self._waker):
                sock.close()

    def _take_turn(self) -> None:
        """Wait for events, and let each connection that has one do its part."""
        events = self._selector.select(TICK_S if self._connections or self._resting else None)
        now = time.monotonic()
        self._fresh_deadline = now + self._timeout_s
        for key, _ in events:
            key.data()
        if now >= self._next_tick:  # a look at all deadlines costs less than keeping them in order
            self._next_tick = now + TICK_S
            self._resting = False
            for connection in [each for each in self._connections if each._deadline <= now]:
                connection._drop(connection._failure or TimeoutError(errno.ETIMEDOUT, "the peer is silent"))

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
                self._warned = False  # all who waited are in
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    continue
                if not self._warned:
                    log.warning("cannot accept connections: %s; waiting until some are closed", error.strerror)
                self._resting = self._warned = True  # to try again at once would only burn the processor
                return
            self._admit(sock, peer[:2])

    def _admit(self, sock: socket.socket, peer: Address) -> None:
        log.info("Connection from %s", format_address(peer))
        sock.setblocking(False)
        if self._ssl_context:
            try:
                sock = self._ssl_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:
                return  # it is gone again, and wrap_socket() has closed its descriptor
        connection = Connection(self, sock, peer)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection._ready)
        if not self._ssl_context:
            connection._call(connection._open)


def listen(address: Address) -> list[socket.socket]:
    """Listening sockets on every address of a host name, all on one port."""
    host, port = address
    listeners: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, target in dict.fromkeys(found):  # a hosts file may say the same twice
        try:
            listener = socket.create_server((target[0], port, *target[2:]), family=family, backlog=socket.SOMAXCONN)
        except OSError as error:
            failure = error
            if error.errno in NO_SUCH_FAMILY:
                continue  # localhost may be ::1, too, on a machine without IPv6
            for listener in listeners:
                listener.close()
            if listeners and address[1] == 0 and error.errno == errno.EADDRINUSE:
                return listen(address)  # free on one address, not on the other: take another port
            raise
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited: answers leave at once
        listeners.append(listener)
        port = listener.getsockname()[1]
    if not listeners:
        raise failure
    return listeners


def format_address(address: tuple[Any, ...]) -> str:
    """An address as URLs have it: 127.0.0.1:80, [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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


class Console(logging.Handler):
    """Events on stdout, a line each; warnings and errors on stderr, after the program's name."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            say(record.getMessage())
        else:
            complain(record.levelname.lower(), record.getMessage())


def say(line: str) -> None:
    """Print to stdout at once; when nobody reads it any more, fall silent."""
    try:
        print(line, flush=True)
    except OSError:  # subtle: the line stays in the buffer, and would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(level: str, message: str) -> None:
    if sys.stderr:
        with contextlib.suppress(OSError):
            print(f"{PROGRAM}: {level}: {message}", file=sys.stderr, flush=True)


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
    add("--host", default="localhost", help="name or address to listen on; '' is every interface (%(default)s)")
    add("--port", type=partial(number, int, 0, 65_535), default=12345, help="port; 0 is any free one (%(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--message", default="Hello, World!", help="the greeting (%(default)s)")
    what.add_argument("--echo", action="store_true", help="send back what comes, instead of greeting")
    seconds_or_0 = partial(number, float, 0, DAY_S)
    counts = partial(number, int, 1, 1_000_000)
    add("--max-connections", type=counts, default=10_000, metavar="N", help="at once; the others wait (%(default)s)")
    add("--timeout", type=seconds, default=60.0, metavar="S", help="seconds a connection may be idle (%(default)g)")
    add("--grace", type=seconds_or_0, default=5.0, metavar="S", help="seconds to finish after Ctrl+C (%(default)g)")
    add("--tls-cert", metavar="FILE", help="speak TLS: the certificate chain, in PEM")
    add("--tls-key", metavar="FILE", help="and its private key, in PEM")
    add("--once", action="store_true", help="serve one connection, then exit")
    add("-q", "--quiet", action="store_true", help="no line for each connection")
    args = parser.parse_args(argv)
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    return args


def server_context(cert: str, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.options |= ssl.OP_NO_RENEGOTIATION  # a client could make it compute without end
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise OSError(f"cannot use {cert} with {key}: {error.strerror or error}") from None
    return context


def build_server(args: argparse.Namespace) -> TCPServer:
    """The server that the flags ask for. Raises OSError with a text for the user."""
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
        cause = str(getattr(error, "strerror", error)).partition(" (while")[0]  # create_server() says too much
        where = format_address((args.host, args.port))
        raise OSError(f"cannot listen on {where}: {cause}; choose another --host or --port") from None
    return server


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING if args.quiet else logging.INFO, handlers=[Console()])
    try:
        with build_server(args) as server:
            graces = iter([args.grace])  # for a second signal, none
            with contextlib.suppress(ValueError):  # not the main thread, which alone has signals
                for each in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(each, lambda *_: server.shutdown(next(graces, 0.0)))
            for address in server.addresses:
                say(f"Listening on {format_address(address)}")
            server.serve_forever()
    except OSError as error:
        complain("error", str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
