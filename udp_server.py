#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Show every UDP datagram that arrives and answer `Server received: ` with its bytes; or, with --send, be the
client that asks. One datagram is one message: nothing is resent, put in order or checked for who sent it.

examples:
  python udp_server.py                      answer on localhost:12345
  python udp_server.py --send hi            ask it, and print the answer
  python udp_server.py --no-reply -q        only receive, and print nothing but the counts at the end
  python udp_server.py --host '' --port 514 on every interface

what the ten-line version gets wrong:
  It answers answers: two such servers, and one forged datagram, keep each other busy forever (CVE-2024-2169). Here
  what begins like an answer, or comes from port 0, is not answered.
  It dies of one datagram: when that is no UTF-8, or when the answer cannot be sent. Here the bytes are kept as they
  are, and a failed answer is a warning.
  It receives 1,024 bytes and loses the rest of a larger datagram without a word.
  It cannot tell what the kernel threw away while it was busy. Here that is counted.
  It answers from whatever address the route prefers, which a client that asked another one throws away.
"""

import argparse
import contextlib
import errno
import io
import logging
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

__all__ = ["UDPServer", "acknowledge", "ask"]

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
PREFIX = b"Server received: "
MAX_DATAGRAM_BYTES = 65_535  # what the length field can say; nothing is ever cut off
CONTROL_BYTES = 256  # of ancillary data: room for one IPV6_PKTINFO, and to spare
RECEIVE_BUFFER_BYTES = 4_194_304  # asked of the kernel (net.core.rmem_max may allow less): bursts wait, not drop
BATCH = 256  # datagrams from one socket in a row, before the others have their turn
DAY_S = 86_400.0
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

# Numbers of Linux that the socket module does not name (ip(7); include/uapi/linux/sock_diag.h).
IP_PKTINFO = 8
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8
ON_LINUX = sys.platform == "linux"

Address = tuple[Any, ...]  # (host, port), and for IPv6 two numbers more


def acknowledge(data: bytes, peer: Address) -> bytes | None:
    """The answer to a datagram: PREFIX and its bytes; none to what may be such an answer itself."""
    return None if data.startswith(PREFIX) else PREFIX + data


class Peer(tuple[Any, ...]):
    """A sender's socket address, with the ancillary data that makes the answer leave from the address it asked."""

    control: list[tuple[int, int, bytes]]


class WildcardSocket:
    """The recvfrom() and sendto() of a socket on every interface, which answer from the address that was asked."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def recvfrom(self, size: int) -> tuple[bytes, Peer]:
        data, control, _, address = self._sock.recvmsg(size, CONTROL_BYTES)
        peer = Peer(address)
        peer.control = answer_from_where_asked(control)
        return data, peer

    def sendto(self, data: bytes, peer: Peer) -> int:
        return self._sock.sendmsg([data], peer.control, 0, peer)


def answer_from_where_asked(control: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """From a datagram's ancillary data, that for its answer.

    IPv4: struct in_pktinfo, ip(7). IPv6: struct in6_pktinfo, RFC 3542 section 6.2. Interface 0: as the route says.
    """
    for level, kind, info in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return [(level, kind, bytes(4) + info[4:8] + bytes(4))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and info[0] != 0xFF:  # not multicast
            return [(level, kind, info[:16] + bytes(4))]
    return []


class UDPServer:
    """A UDP server in socketserver's words, on every address that a host name has, IPv4 and IPv6.

        with UDPServer(("localhost", 0), lambda data, peer: data.upper()) as server:
            threading.Thread(target=server.serve_forever).start()
            ...  # clients send to server.address

    address: (host, port); host '' is every interface, port 0 any free one, the same for all addresses.
    reply: called with a datagram's bytes and its sender's (host, port, ...); returns the answer, None for none. When
    it raises, that is logged. Beware of answering answers: see acknowledge().
    received, dropped: datagrams so far; what the kernel had no room for is known on Linux, when serving is over.
    Raises OSError when the name has no address (socket.gaierror) or one cannot be bound.
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
            self._selector.register(sock, selectors.EVENT_READ, partial(self._take, answering))

    def __enter__(self) -> "UDPServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve_forever(self) -> None:
        """Serve until shutdown(), then close the sockets."""
        with self._serving, contextlib.ExitStack() as after:
            after.callback(self.close)
            with contextlib.suppress(ValueError):  # not the main thread, which alone has signals
                # One that arrives just before select() must end it, too, and on Windows any: it writes a byte.
                before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
                after.callback(signal.set_wakeup_fd, before)
            while not self._stopping:
                for key, _ in self._selector.select():
                    key.data()

    def shutdown(self) -> None:
        """Let serve_forever() return; does not wait for it. From any thread or signal handler; before serving, too."""
        self._stopping = True
        with contextlib.suppress(OSError):  # full: it is awake; closed: it is over
            self._waker.send(b"\0")

    def close(self) -> None:
        """Wait for serve_forever() to return, and free the addresses. Not from `reply`."""
        self.shutdown()
        with self._serving:  # serve_forever() has it already, and comes by at its end
            if ON_LINUX and self.dropped is None:
                self.dropped = sum(count_drops(sock) for sock in self._sockets)
            self._selector.close()
            for sock in (*self._sockets, self._wake_end, self._waker):
                sock.close()

    def _take(self, sock: Any) -> None:
        """Answer what has arrived, up to BATCH datagrams. A failure ends the batch; what is left is taken next."""
        receive, send, reply, verbose = sock.recvfrom, sock.sendto, self._reply, log.isEnabledFor(logging.INFO)
        peer: Address = ("", 0)
        try:
            for _ in range(BATCH):
                data, peer = receive(MAX_DATAGRAM_BYTES)
                self.received += 1
                if verbose:
                    text = printable(data.decode("utf-8", "backslashreplace"))
                    log.info("Received message from %s: %s", format_address(peer), text)
                answer = reply(data, peer)
                if answer is not None:
                    send(answer, peer)
        except (BlockingIOError, ConnectionError):
            pass  # nothing is left; or, on Windows, a former answer found nobody
        except OSError as error:
            self._warn(peer, error)
        except Exception:
            log.exception("no answer to %s: the reply function failed", format_address(peer))

    def _warn(self, peer: Address, error: OSError) -> None:
        """Once for each cause: anybody can cause it, at any rate. No system sends to port 0, a forged sender's."""
        if peer[1] and error.errno not in self._warned:
            self._warned.add(error.errno)
            log.warning("cannot answer %s: %s", format_address(peer), error.strerror)


def bind_all(address: Address) -> list[socket.socket]:
    """Sockets on every address of a host name, all on one port. Never SO_REUSEADDR: two servers would share it."""
    host, port = address
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    for family, kind, _, _, target in dict.fromkeys(found):  # a hosts file may say the same twice
        sock = None
        try:
            sock = socket.socket(family, kind)
            prepare(sock)
            sock.bind((target[0], port, *target[2:]))
        except OSError as error:
            failure = error
            if sock:
                sock.close()
            if error.errno in NO_SUCH_FAMILY:
                continue  # localhost may be ::1, too, on a machine without IPv6
            for sock in sockets:
                sock.close()
            if sockets and address[1] == 0 and error.errno == errno.EADDRINUSE:
                return bind_all(address)  # free on one address, not on the other: take another port
            raise
        sockets.append(sock)
        port = sock.getsockname()[1]
    if not sockets:
        raise failure
    return sockets


def prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # some systems refuse what is over their limit, others lower it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own


def count_drops(sock: socket.socket) -> int:
    """Datagrams that Linux dropped: the count that SO_RXQ_OVFL attaches to each one, asked for once instead."""
    with contextlib.suppress(OSError):
        memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
        return int.from_bytes(memory[4 * SK_MEMINFO_DROPS :][:4], sys.byteorder)
    return 0


def ask(host: str, port: int, message: bytes, timeout_s: float = 5.0) -> bytes:
    """Send one datagram and return the answer.

    Raises OSError: socket.gaierror, TimeoutError, ConnectionRefusedError, or what sending raises (too long, no route).
    """
    for family, kind, _, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind) as sock:
            sock.settimeout(timeout_s)
            try:
                sock.connect(target)  # only its answers get through, and a port where nobody is, is told
                sock.send(message)
                return sock.recv(MAX_DATAGRAM_BYTES)
            except TimeoutError:
                raise
            except OSError as error:
                failure = error  # the server may be on the next address
    raise failure


def format_address(address: tuple[Any, ...]) -> str:
    """An address as URLs have it: 127.0.0.1:80, [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal or forge a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
    add("--host", default="localhost", help="name or address; '' is every interface (%(default)s)")
    add("--port", type=partial(number, int, 0, 65_535), default=12345, help="port; 0 is any free one (%(default)s)")
    add("--no-reply", action="store_true", help="only receive")
    add("--send", metavar="TEXT", help="send TEXT to a server, print its answer, exit")
    add("--timeout", type=seconds, default=5.0, metavar="S", help="seconds for the answer to --send (%(default)g)")
    add("-q", "--quiet", action="store_true", help="no line for each datagram")
    return parser.parse_args(argv)


def serve(args: argparse.Namespace) -> None:
    reply = (lambda data, peer: None) if args.no_reply else acknowledge
    with UDPServer((args.host, args.port), reply) as server:
        with contextlib.suppress(ValueError):  # not the main thread, which alone has signals
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, lambda *_: server.shutdown())
        for address in server.addresses:
            say(f"Listening on {format_address(address)}")
        server.serve_forever()
    drops = "" if server.dropped is None else f", dropped by the kernel: {server.dropped}"
    complain("info", f"datagrams received: {server.received}{drops}")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's alphabet lacks a letter
    logging.basicConfig(level=logging.WARNING if args.quiet else logging.INFO, handlers=[Console()])
    where, task = format_address((args.host, args.port)), "listen on"
    try:
        if args.send is None:
            serve(args)
        else:
            task = "get an answer from"
            answer = ask(args.host, args.port, os.fsencode(args.send), args.timeout)
            with writing():
                print(printable(answer.decode("utf-8", "backslashreplace")), flush=True)
    except KeyboardInterrupt:
        return 130
    except (OSError, UnicodeError) as error:
        late = isinstance(error, TimeoutError)
        cause = "no answer in time (--timeout)" if late else getattr(error, "strerror", error)
        complain("error", f"cannot {task} {where}: {cause}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
