#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["scapy>=2.5"]
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
# scapy, which is imported at run time, is GPL-2.0-only: what is shipped together with it must comply.
"""Show HTTP/1 on the wire, or in captures, as exchanges: each request with its response, and what is missing of them.
It pairs nothing by guessing. It decrypts no TLS, reads no HTTP/2 (a note says where they are), and keeps no bodies.

examples:
  sudo python http_analyzer.py                until Ctrl+C
  sudo python http_analyzer.py tcp port 80    only this port
  python http_analyzer.py -r a.pcap b.pcapng.gz --jobs 2 --summary
  tcpdump -U -w - | python http_analyzer.py -r - --json
  python http_analyzer.py -r a.pcap --format combined |
    goaccess --log-format=COMBINED -
"""

import argparse
import contextlib
import ctypes
import gzip
import heapq
import io
import itertools
import json
import logging
import math
import multiprocessing
import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import textwrap
import time
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

__all__ = ["CaptureError", "Exchange", "HTTPAnalyzer", "analyze"]
__version__ = "2.0.0"

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
MAX_HEAD_BYTES = 65_536  # of a start line and headers, and of a look for HTTP: servers allow 8 to 64 KiB
MAX_LINE_BYTES = 4_096  # of a chunk's size with its extensions, and of what may be a start line after a gap
MAX_WAITING = 1_048_576, 1_024  # bytes and segments of a connection that came too early: a large receive window
MAX_PENDING = 1_000  # messages of a connection that wait for each other: nobody pipelines more
MAX_CONNECTIONS = 20_000  # about 30 MB
# Of all connections: early segments, unfinished heads, and those of open requests. When so much has come it is looked
# how much of it is still held; so twice this is the most.
MAX_HELD_BYTES = 12_582_912
MESSAGE_BYTES, SEGMENT_BYTES = 500, 200  # that a message costs beside its head, and a segment beside its payload
MAX_FRAGMENTED, MAX_FRAGMENTS = 64, 256  # datagrams that wait for fragments; of one: at MTU 576 they are 119
GRACE, GRACE_S = 16, 1.0  # segments, seconds: captures mix directions up, and show acknowledgements before the bytes
IDLE_S = 600.0  # then a connection is forgotten: a long poll takes less
REUSE_BYTES = 16_777_216  # behind the end of a closed connection, a segment is a late one of its own
MAX_FRAME_BYTES, MAX_BLOCK_BYTES = 262_144, 1 << 24  # of a file: a longer frame, as in libpcap, or block is damage
LONGEST_BYTES = 66_000  # of a frame: the loopback interface's are of up to 65,550
BATCH = 256  # packets, before somebody may stop it
RECEIVE_BUFFER_BYTES = 33_554_432  # of the kernel: some 40,000 packets
# "tcp" alone would lose VLANs' and what tunnels and extensions hide.
DEFAULT_FILTER = "tcp or ip6 or ip proto 41 or ether proto 0x8100 or ether proto 0x88a8 or ether proto 0x9100"
MAX_HOSTS = 10_000  # that --summary counts one by one
TICK_S = 1.0  # how often progress is shown, and what waits looked at

# Numbers of Linux that the socket module does not name (packet(7); include/uapi/linux/if_packet.h).
SOL_PACKET, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 6, 8, 23
SO_RCVBUFFORCE, SO_TIMESTAMPNS, ARPHRD_LOOPBACK, OUTGOING = 33, 35, 772, 4
ON_LINUX = sys.platform == "linux"
NANO = 1_000_000_000

ETHERNET, RAW, VLANS = 1, 101, (0x8100,)
Record = tuple[int, int, int, str | None, bytes]  # time in ns, length on the wire, link type, interface, frame

FIN, SYN, RST, ACK = 1, 2, 4, 16
MASK, HALF = 0xFFFFFFFF, 0x80000000
IP_TYPES = (b"\x08\x00", b"\x86\xdd", b"\x00\x21", b"\x00\x57")  # EtherTypes, and PPP's (RFC 1332, RFC 5072)
TAGS = {b"\x81\x00": 4, b"\x88\xa8": 4, b"\x91\x00": 4, b"\x88\x64": 8}  # VLANs, PPPoE: the next type ends there
UDP, IPV6_IN_IPV4, FRAGMENT, AUTHENTICATION, TCP = 17, 41, 44, 51, 6
EXTENSIONS = (0, 43, FRAGMENT, AUTHENTICATION, 60, 135)
PLAIN = struct.Struct("!BxHxxHxBxx12sIIBB")  # IPv4 without options, and TCP
PCAPNG = b"\n\r\r\n"
# What pcap begins with: its byte order, and nanoseconds in a unit of its times
UNITS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
MAGICS = {struct.pack(f"{order}I", magic): (order, UNITS[magic]) for order in "<>" for magic in UNITS}

METHODS = rb"GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT|PROPFIND|PROPPATCH|MKCOL|COPY|MOVE|LOCK|UNLOCK|REPORT"
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}"
# Spaces are looked at once, or else a line of them would take hours.
REQUEST = re.compile(rb"(%s) ++([^\r\n]*?)(?<! ) ++HTTP/(1\.\d)[ \t]*+\r?\n" % TOKEN)
RESPONSE = re.compile(rb"HTTP/(1\.\d) ++([1-9]\d\d)(?: ([^\r\n]*))?\r?\n")
PLAUSIBLE = re.compile(rb"(?:%s|HTTP/)(?:(?<=/)|(?= )|\Z)[^\r\n\0]*\r?\Z" % TOKEN)  # what may become either
LOST_REQUEST = re.compile(rb"(?<![A-Z])(?:%s) \S{1,8000} HTTP/1\.[01]\r?\n" % METHODS)
LOST_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-5]\d\d[ \r\n]")
HEAD_END = re.compile(rb"\n\r?\n")
FIELD = re.compile(rb"\n([^\s:]+)[ \t]*:[ \t]*([^\r\n]*)")
FOLD = re.compile(rb"\r?\n[ \t]+")  # a line that goes on in the next (RFC 9112 section 5.2)
LENGTH = re.compile(rb"(\d{1,18})(?:[ \t]*,[ \t]*\1)*")  # the same twice is once (RFC 9112 section 6.3)
CHUNK = re.compile(rb"(?:\r?\n)?[ \t]*(?=[0-9A-Fa-f])0*+([0-9A-Fa-f]{0,15})[ \t]*(?:;[^\n]*)?\r?\n")
HOST = re.compile(r"([\w-]+(\.[\w-]+)*|\[[\da-fA-F:.]+\])(:\d{1,5})?", re.ASCII)
ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
UNTOLD, MALFORMED, CHUNKED, ENDLESS = -1, -2, -3, 1 << 62  # where a body's length stands
UNKNOWN = -1  # where a sequence number stands

NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# Control characters, separators of lines and paragraphs, bidirectional controls, surrogates, the byte order mark.
UNPRINTABLE = re.compile(
    f"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff{NONCHARACTERS}]+"
)


class CaptureError(Exception):
    """A capture that cannot be read to its end, or an interface that cannot be opened."""


class Exchange(NamedTuple):
    """A request and its response, as --json prints them; None where it is not known. Pass arguments by their names.

    No dataclass: to make a frozen one of so many fields would take a seventh of all the time.
    """

    time: float
    client: str
    server: str
    method: str | None
    url: str | None
    host: str | None
    target: str | None
    version: str | None
    status: int | None
    reason: str | None
    request_bytes: int | None
    response_bytes: int | None
    content_type: str | None
    user_agent: str | None
    ttfb_s: float | None
    duration_s: float | None
    problems: tuple[str, ...]
    request_headers: tuple[tuple[str, str], ...] | None = None
    response_headers: tuple[tuple[str, str], ...] | None = None


# Frames: the TCP segment in each.


def locate_wifi(frame: bytes, at: int) -> tuple[int, int]:
    """Of an 802.11 frame with data, in the clear (IEEE 802.11-2020 section 9.3.2); then LLC and SNAP."""
    kind, flags = frame[at], frame[at + 1]
    at += 24 + 6 * (flags & 3 == 3) + (kind >> 7) * (2 + 4 * (flags >> 7))
    return (at + 6, at + 8) if kind & 0x4C == 8 and not flags & 0x40 else (0, 0)


def locate_ppp(frame: bytes, at: int = 0) -> tuple[int, int]:
    return (at + 2, at + 4) if frame[at] == 0xFF else (at, at + 2)


# By link type (tcpdump.org/linktypes.html), where the EtherType is and where its payload begins; IP alone has no type.
LINKS: dict[int, Callable[[bytes], tuple[int, int]]] = {
    **dict.fromkeys((0, 108), lambda frame: (-1, 4)),
    **dict.fromkeys((12, 14, 101, 228, 229), lambda frame: (-1, 0)),
    **dict.fromkeys((9, 50), locate_ppp),
    1: lambda frame: (12, 14),
    104: lambda frame: (2, 4),
    105: lambda frame: locate_wifi(frame, 0),
    113: lambda frame: (14, 16),
    127: lambda frame: locate_wifi(frame, frame[2] + 256 * frame[3]),
    276: lambda frame: (0, 20),
}


def locate(linktype: int, frame: bytes) -> int:
    """Where IP begins; beyond the end when there is none."""
    where, at = LINKS[linktype](frame) if linktype in LINKS else (0, 0)
    kind = frame[where : where + 2] if where >= 0 else IP_TYPES[0]
    while kind in TAGS:
        at += TAGS[kind]
        kind = frame[at - 2 : at]
    return at if kind in IP_TYPES else len(frame)


def locate_l2tp(frame: bytes, at: int) -> int:
    """Where IP begins that is in PPP in L2TP in UDP (RFC 2661 section 3.1)."""
    ports, flags = struct.unpack_from("!HH", frame, at), frame[at + 8]
    at += 14 + (flags >> 5 & 2) + (flags >> 1 & 4)
    where, at = locate_ppp(frame, at + (2 + int.from_bytes(frame[at : at + 2]) if flags & 2 else 0))
    return at if 1701 in ports and not flags & 0x80 and frame[where:at] in IP_TYPES else len(frame)


class Fragments(OrderedDict[tuple[Any, ...], dict[int, tuple[bytes, int]]]):
    """Puts datagrams together. There is room for so many; the oldest are forgotten."""

    def add(self, key: tuple[Any, ...], offset: int, more: int, data: bytes) -> bytes:
        """The whole datagram, if this completes it."""
        parts = self.setdefault(key, {})
        parts.setdefault(offset, (data, more))
        whole, left = b"", 1
        for start in sorted(parts):
            if start > len(whole):
                break
            whole, left = whole + parts[start][0][len(whole) - start :], parts[start][1]
        if not left or len(parts) > MAX_FRAGMENTS or sum(len(part) for part, _ in parts.values()) > 2 * 65_535:
            del self[key]
        elif len(self) > MAX_FRAGMENTED:
            self.popitem(last=False)
        return b"" if left else whole


Segment = tuple[bytes, int, int, int, bytes]  # addresses and ports as they stand, seq, ack, flags, payload


def segment_of(linktype: int, frame: bytes, fragments: Fragments) -> Segment | None:
    """The TCP segment in a frame. For nearly all of them, the short way."""
    try:
        at = 14 if linktype == 1 and frame[12:14] == b"\x08\x00" else locate(linktype, frame)
        if len(frame) - at >= 34:
            first, total, fragment, protocol, key, seq, ack, offset, flags = PLAIN.unpack_from(frame, at)
            if first == 0x45 and protocol == TCP and not fragment & 0x3FFF:
                start, end = at + 20 + (offset >> 4) * 4, at + total if total else len(frame)
                return key, seq, ack, flags, frame[start:end]
        return unwrap(frame, at, fragments)
    except (IndexError, struct.error):
        return None


def unwrap(frame: bytes, at: int, fragments: Fragments) -> Segment | None:
    """The TCP segment in IP of any kind. Raises IndexError and struct.error."""
    protocol = IPV6_IN_IPV4
    while protocol in (IPV6_IN_IPV4, UDP):
        if frame[at] >> 4 not in (4, 6):
            return None
        addresses, protocol, at, end, *piece = (read_ipv4 if frame[at] >> 4 == 4 else read_ipv6)(frame, at)
        frame = frame[:end]
        if piece:
            frame, at = fragments.add((addresses, protocol, piece[0]), piece[1], piece[2], frame[at:]), 0
        if protocol == UDP:
            at = locate_l2tp(frame, at)
    if protocol != TCP:
        return None
    ports, seq, ack, size, flags = struct.unpack_from("!4sIIBB", frame, at)
    return addresses + ports, seq, ack, flags, frame[at + (size >> 4) * 4 :]


def read_ipv4(frame: bytes, at: int) -> tuple[Any, ...]:
    """Addresses, protocol, start and end of the payload; of a fragment also identification, offset, and if more come.

    A total length of 0 is segmentation offload: the network card was to cut it. What follows the total is padding.
    """
    first, total, ident, fragment, protocol, addresses = struct.unpack_from("!BxHHHxBxx8s", frame, at)
    piece = (ident, (fragment & 0x1FFF) * 8, fragment & 0x2000) if fragment & 0x3FFF else ()
    return addresses, protocol, at + (first & 15) * 4, at + total if total else len(frame), *piece


def read_ipv6(frame: bytes, at: int) -> tuple[Any, ...]:
    """As read_ipv4(), past the extension headers (RFC 8200 section 4)."""
    length, protocol, addresses = struct.unpack_from("!4xHBx32s", frame, at)
    at, end = at + 40, at + 40 + length if length else len(frame)
    while protocol in EXTENSIONS:
        if protocol == FRAGMENT:
            protocol, fragment, ident = struct.unpack_from("!BxHI", frame, at)
            return addresses, protocol, at + 8, end, ident, fragment & 0xFFF8, fragment & 1
        size = (frame[at + 1] + 2) * 4 if protocol == AUTHENTICATION else (frame[at + 1] + 1) * 8
        protocol, at = frame[at], at + size
    return addresses, protocol, at, end


# HTTP/1: the messages in the bytes of one direction.


def text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def lines_of(block: bytes) -> list[tuple[bytes, bytes]]:
    """The names and values of headers, as they stand."""
    return [(name, value.rstrip()) for name, value in FIELD.findall(FOLD.sub(b" ", block))]


@lru_cache(32)  # clients and servers repeat themselves; of the largest heads, with most fields, this is 40 MB
def fields_of(block: bytes) -> tuple[dict[bytes, bytes], int]:
    """The headers by their names in small letters, and the length of the body."""
    fields: dict[bytes, bytes] = {}
    for name, value in lines_of(block):
        name = name.lower()
        fields[name] = fields[name] + b", " + value if name in fields else value
    if b"transfer-encoding" in fields:  # any other than chunked goes on until the connection is closed
        codings = fields[b"transfer-encoding"].lower().replace(b",", b" ").split()
        return fields, CHUNKED if codings[-1:] == [b"chunked"] else ENDLESS
    if b"content-length" not in fields:
        return fields, UNTOLD
    found = LENGTH.fullmatch(fields[b"content-length"])
    return fields, int(found[1]) if found else MALFORMED


class Message:
    """A request or a response, as far as it has come."""

    __slots__ = ("block", "end", "first", "length", "problems", "size", "switches", "time", "unsure")

    def __init__(self, time: float, first: tuple[bytes, ...] = (), block: bytes = b"") -> None:
        self.time = self.end = time  # of its first byte and its last
        self.first = first  # method, target, version; or version, status, reason; empty when that is lost
        self.block = block  # of headers
        self.length = fields_of(block)[1]
        self.size = 0  # of the body so far
        self.problems: tuple[str, ...] = ("malformed",) if self.length == MALFORMED else ()
        self.unsure = False  # what request it answers
        self.switches = False  # to another protocol; a request: it may

    def mark(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems += (problem,)


class Parser:
    """Finds the messages in one direction of a connection. `answers`: that they are responses; None: not known yet."""

    __slots__ = ("answers", "connection", "left", "lost", "message", "rest", "started", "state", "time")

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.answers: bool | None = None
        self.lost = False  # some of it, before it was known what it is
        self.state: Callable[[Parser, bytes, int], int] | None = Parser._start  # None: it does not matter what comes
        self.message: Message | None = None  # whose head is complete, and whose end is to come
        self.rest = b""  # of a head or a line that is not complete
        self.left = MAX_HEAD_BYTES  # of the body, or of the chunk; before that, of the look for HTTP
        self.time = self.started = 0.0

    def feed(self, time: float, data: bytes) -> None:
        self.time, arrived, at = time, len(data), 0
        if self.rest:
            data, self.rest = self.rest + data, b""
        else:
            self.started = time
        size = len(data)
        while at < size and self.state:
            at = self.state(self, data, at)
        if self.rest:
            self.connection.analyzer.kept += arrived

    def gap(self, size: int) -> None:
        """So many bytes are missing here. Inside a body of known length that does not hide what follows."""
        inside = self.state is Parser._body and self.message
        if inside:
            inside.mark("gap")
            size -= self._take(size)
        if self.state and (size or not inside):
            self.lose("gap")

    def eof(self, clean: bool) -> None:
        """Nothing follows: it has been closed, or else it breaks off here."""
        if self.rest and self.state is Parser._start and self._match(self.rest, 0):
            self.lose("cut off")
        self.bodiless()
        if self.message:
            if not clean or self.state is not Parser._body or self.left < ENDLESS // 2:
                self.message.mark("cut off")
            self._finish()
        self.rest, self.state = b"", None

    def resume(self) -> None:
        """The other side has spoken: if a message was searched for, one begins here."""
        if self.state is Parser._search and self.answers is not None:
            self.rest, self.state = b"", Parser._start

    def bodiless(self) -> None:
        """The request that this answers is not known, and no body has come: it must have been HEAD."""
        if self.message and self.message.unsure and not self.message.size:
            self._finish()

    def _keep(self, data: bytes, at: int) -> int:
        """Wait for what follows on what begins at `at`."""
        self.rest = data[at:]
        return len(data)

    def _match(self, data: bytes, at: int) -> re.Match[bytes] | None:
        answers = data.startswith(b"HTTP/", at)
        if data.find(b"\n", at) < 0 or self.answers not in (None, answers):
            return None
        return (RESPONSE if answers else REQUEST).match(data, at)

    def _start(self, data: bytes, at: int) -> int:
        if data[at] in b"\r\n":  # to be ignored before a message (RFC 9112 section 2.2)
            return at + 1
        found = self._match(data, at)
        if found and (end := HEAD_END.search(data, found.end() - 1)):
            self._head(found, data[found.end() - 1 : end.end()])
            return end.end()
        if len(data) - at < MAX_HEAD_BYTES:
            if found or PLAUSIBLE.match(data, at, at + MAX_LINE_BYTES):
                return self._keep(data, at)
        elif found:
            self._keep(data[: at + MAX_HEAD_BYTES], at)
            self.lose("malformed")
            return len(data)
        self.state = Parser._search
        if self.answers is None:
            self.connection.recognise(data[at : at + 24])
        elif not self.connection.doubt and not any(request.switches for request in self.connection.requests):
            self.lose("malformed")
        return at + 1

    def _head(self, found: re.Match[bytes], block: bytes) -> None:
        message = Message(self.started, found.groups(), block)
        self.started = self.time  # of the next one, if it follows at once
        if self.answers is None:
            self.connection.know(self, found.re is RESPONSE)
        if self.answers and found[2][:1] == b"1" and found[2] != b"101":
            return  # the response is still to come (RFC 9110 section 15.2)
        self.message = message
        bodiless = self.connection.response_begins(message) if self.answers else self.connection.request_begins(message)
        if message.length == CHUNKED and not bodiless:
            self.state = Parser._chunk
        elif bodiless or message.length == 0 or (message.length == UNTOLD and not self.answers):
            self._finish()
        else:
            self.left, self.state = ENDLESS if message.length < 0 else message.length, Parser._body

    def _finish(self) -> None:
        message, self.message, self.state = self.message, None, Parser._start
        if message:
            message.end = self.time
            if self.answers:
                self.connection.response_ends(message)

    def _take(self, size: int) -> int:
        """How much of it belongs to the body, or to the chunk."""
        size = min(size, self.left)
        self.left -= size
        if self.message:
            self.message.size += size
            if not self.left and self.message.length == CHUNKED:
                self.state = Parser._chunk
            elif not self.left:
                self._finish()
        return size

    def _body(self, data: bytes, at: int) -> int:
        message = self.message
        if message and message.unsure and not message.size and b"HTTP/1.".startswith(data[at : at + 7]):
            if len(data) - at < 7:
                return self._keep(data, at)
            self.bodiless()
            return at
        return at + self._take(len(data) - at)

    def _chunk(self, data: bytes, at: int) -> int:
        found = CHUNK.match(data, at)
        if found:
            self.left = int(found[1] or b"0", 16)
            self.state = Parser._body if self.left else Parser._trailer
            return found.end()
        if len(data) - at < MAX_LINE_BYTES and b"\n" not in data[at + 2 :]:
            return self._keep(data, at)
        self.lose("malformed")
        return at

    def _trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1
        if not end and len(data) - at < MAX_HEAD_BYTES:
            return self._keep(data, at)
        if not data[at:end].strip():
            self._finish()
        return end or len(data)

    def _search(self, data: bytes, at: int) -> int:
        """For a message, where it is not known where one begins."""
        found = None if self.answers else LOST_REQUEST.search(data, at)
        found = found or (None if self.answers is False else LOST_RESPONSE.search(data, at))
        if found:
            self.state = Parser._start
            return found.start()
        self.left -= len(data) - at if self.answers is None else 0
        if self.left < 0:
            self.state = None
        return self._keep(data, max(at, data.rfind(b"\n") + 1, len(data) - MAX_LINE_BYTES))

    def lose(self, problem: str) -> None:
        """Neither the end of this message is known, nor how many follow before the next that is found."""
        message, self.message = self.message, None
        found, self.state = self._match(self.rest, 0), Parser._search
        if found and found.re is RESPONSE and found[2][:1] == b"1":
            found = None
        self.lost = self.answers is None and not found
        if message is None and not self.lost:
            message = Message(self.time)
            if found:
                message = Message(self.started, found.groups(), self.rest[found.end() - 1 :])
                if self.answers is None:
                    self.connection.know(self, found.re is RESPONSE)
            if not self.answers:
                self.connection.request_begins(message)
        self.rest = b""
        if message:
            message.mark(problem)
            message.end = self.time
            self.connection.loses(message, self.answers is True)


# TCP: from segments to the bytes of each direction, and from messages to exchanges.

# Sequence number, minus the length, for the longer of two to come first; time, acknowledgement, flags, payload
Waiting = tuple[int, int, float, int, int, bytes]


def ahead(number: int, of: int) -> int:
    """How far one sequence number is ahead of another, around the wrap."""
    return ((number - of + HALF) & MASK) - HALF


@dataclass(slots=True, eq=False)
class Stream:
    """One direction of a connection. Its sequence numbers count on where those on the wire begin anew."""

    connection: "Connection"
    key: bytes
    parser: Parser
    next: int = UNKNOWN  # the sequence number to come
    isn: int = UNKNOWN
    acked: int = UNKNOWN  # by the other side
    ended: int = 0  # by these flags
    waiting: list[Waiting] = field(default_factory=list)
    peer: "Stream" = field(init=False)


class Connection:
    """Both directions. What a segment acknowledges is let through before it, so that a response finds its request.

    Bytes are given up for lost when they are acknowledged and do not come. How many messages were in them nobody knows,
    and so it is in `doubt` which response answers which request: both wait. Where no pipelining was seen, the server
    has answered when the client goes on; one request and one response then belong together, the lost ones included.
    Where it was, that is never known before the connection's end; there they belong together in order if they are as
    many, and only once something was lost. What does not is told alone.
    """

    def __init__(self, analyzer: "HTTPAnalyzer", key: bytes) -> None:
        self.analyzer = analyzer
        self.requests: list[Message] = []  # not answered yet
        self.responses: list[Message] = []  # in doubt to what
        self.closed = self.doubt = False
        self.seen = 0.0
        self.pipelined = False  # a request has come before the last was answered
        self.blurred = False  # the server's last bytes are lost: before or after what the client says next
        self.assumed = False  # a doubt has ended because no pipelining was seen
        self.losses = 0  # since there is doubt
        self.waiting = self.early = 0  # segments, and bytes in them
        half = len(key) // 2 - 2
        back = key[half : 2 * half] + key[:half] + key[-2:] + key[-4:-2]
        self.streams = [Stream(self, each, Parser(self)) for each in (key, back)]  # the client's comes first
        self.last, other = self.streams
        self.last.peer, other.peer = other, self.last

    def held(self) -> int:
        """Bytes in memory."""
        messages = sum(len(each.block) + MESSAGE_BYTES for each in self.requests + self.responses)
        rests = sum(len(stream.parser.rest) for stream in self.streams)
        return self.early + self.waiting * SEGMENT_BYTES + messages + rests

    def arrive(self, stream: Stream, time: float, seq: int, ack: int, flags: int, data: bytes) -> None:
        """Any segment but a plain one in order."""
        peer = stream.peer
        if flags & SYN:
            stream.isn, seq = seq, seq + 1 & MASK
        if stream.next == UNKNOWN:
            stream.next = seq
        if peer.next == UNKNOWN and flags & ACK:
            peer.next = ack
        seq = stream.next + ahead(seq, stream.next)
        ack = peer.next + ahead(ack, peer.next) if flags & ACK else UNKNOWN
        peer.acked = max(peer.acked, ack)
        if (data or flags & (FIN | RST)) and seq + len(data) >= stream.next:
            heapq.heappush(stream.waiting, (seq, -len(data), time, ack, flags, data))
            self.waiting += 1
            self.early += len(data)
            self.analyzer.kept += len(data) + SEGMENT_BYTES
        self.advance(time)

    def advance(self, time: float, at_last: bool = False) -> None:
        """Let through what has its turn, and give up for lost what must be."""
        while self.waiting and not self.closed:
            if any(self._let_through(stream) for stream in self.streams):
                continue
            if not self.waiting:
                return
            first = min(stream.waiting[0][2] for stream in self.streams if stream.waiting)
            over = at_last or self.early > MAX_WAITING[0] or self.waiting > MAX_WAITING[1]
            late = over or self.waiting > GRACE or time - first > GRACE_S
            if not late or not self._give_up(over):
                return

    def _let_through(self, stream: Stream, anyway: bool = False) -> bool:
        moved = False
        while stream.waiting:
            seq, _, time, ack, flags, data = stream.waiting[0]
            fresh = seq + len(data) + (flags & (FIN | RST) > 0) > stream.next
            if fresh and (seq > stream.next or (ack > stream.peer.next and not anyway)):
                break
            heapq.heappop(stream.waiting)
            self.waiting -= 1
            self.early -= len(data)
            if fresh:
                moved = True
                self._pass(stream, time, data[stream.next - seq :], flags)
        return moved

    def _pass(self, stream: Stream, time: float, data: bytes, flags: int) -> None:
        if data and not stream.ended:
            self.proceed(stream, len(data))
            stream.parser.feed(time, data)
        if flags & (FIN | RST):
            stream.next += flags & FIN
            stream.ended = flags
            stream.parser.eof(not flags & RST)
            if flags & RST or stream.peer.ended:
                self.close()

    def proceed(self, stream: Stream, size: int) -> None:
        """When the other side spoke last: a client that has read all there is goes on, or a server answers."""
        stream.next += size
        if stream.parser.answers:
            self.blurred = False
        if self.last is not stream:
            self.last = stream
            stream.parser.resume()
            if stream.parser.answers is False:
                stream.peer.parser.bodiless()
                if self.doubt and not stream.peer.parser.message:
                    self._settle(False)

    def _give_up(self, over: bool) -> bool:
        """Pass over a gap, of the side whose turn it was; not past what the other side answered next."""
        for stream in self.streams[:: -1 if self.requests else 1]:
            gap = stream.waiting[0][0] - stream.next if stream.waiting else ENDLESS
            size = gap if over and stream.waiting else min(gap, stream.acked - stream.next)
            needed = stream.peer.waiting[0][3] - stream.next if stream.peer.waiting else 0
            size = min(size, needed) if needed > 0 else size
            if size > 0:
                self.proceed(stream, size)
                stream.parser.gap(size)
                self.blurred |= stream.parser.answers is True
                return True
        return any(self._let_through(stream, anyway=True) for stream in self.streams)

    def close(self) -> None:
        """Say what there is to say: nothing follows."""
        self.advance(0.0, at_last=True)
        self.closed = True
        for stream in self.streams:
            stream.parser.eof(stream.ended & FIN > 0)
        self._settle(True)

    def know(self, parser: Parser, answers: bool) -> None:
        """Who is the client: the bytes tell."""
        self.streams.sort(key=lambda stream: (stream.parser is parser) == answers)
        for stream, answers in zip(self.streams, (False, True), strict=True):
            stream.parser.answers = answers
        if self.streams[0].parser.lost:
            lost = Message(self.streams[0].parser.time)
            self.request_begins(lost)
            self.loses(lost, False)

    def recognise(self, data: bytes) -> None:
        name = "TLS" if data[:2] == b"\x16\x03" else "HTTP/2" if data.startswith(b"PRI * HTTP/2.0\r\n") else ""
        if name:
            log.info("%s and %s speak %s, which is not read here", *ends_of(self.last.key), name)
            self.ignore()

    def ignore(self) -> None:
        for stream in self.streams:
            stream.parser.state = None

    def request_begins(self, message: Message) -> bool:
        """Whether it has no body for sure."""
        if self.requests and not self.pipelined and (self.requests[-1].first or not self.blurred):
            self.pipelined = True
            if self.assumed:  # and wrongly so: more may be under way than is known
                self.doubt, self.losses = True, 2
        self.requests.append(message)
        self.analyzer.kept += len(message.block) + MESSAGE_BYTES
        message.switches = message.first[:1] == (b"CONNECT",)
        return message.switches

    def response_begins(self, message: Message) -> bool:
        """Whether it has no body for sure (RFC 9112 section 6.3)."""
        asked = self.requests[0].first if self.requests and not self.doubt else ()
        method, status = asked[0] if asked else b"", message.first[1]
        message.unsure = not asked
        message.switches = status == b"101" or (method == b"CONNECT" and status[:1] == b"2")
        return message.switches or method == b"HEAD" or status in (b"204", b"304")

    def response_ends(self, message: Message) -> None:
        if self.doubt:
            self.responses.append(message)
            self.analyzer.kept += len(message.block) + MESSAGE_BYTES
        else:
            self._tell(self.requests.pop(0) if self.requests else None, message)
        if message.switches:
            self.ignore()

    def loses(self, message: Message, answers: bool) -> None:
        """Of a message nobody knows where it ends."""
        self.losses = self.losses + 1 if self.doubt else 1
        self.doubt |= bool(self.requests) and not (answers and message.first)
        if answers:
            self.response_ends(message)
        self.doubt |= bool(self.requests)

    def limit(self) -> None:
        """Of too many that wait, say what there is to say; what belongs together will not be sure any more."""
        if len(self.requests) + len(self.responses) > MAX_PENDING:
            self.losses = 2
            self._settle(True)
            self.doubt, self.losses = True, 2

    def _settle(self, at_last: bool) -> None:
        """End the doubt, if that can be."""
        if self.doubt and self.pipelined and not at_last:
            return
        self.assumed |= self.doubt
        requests, responses = self.requests, self.responses
        if len(requests) != len(responses):
            responses = [response for response in responses if response.first]  # a lost one may have been interim
        pairs: Iterable[tuple[Message | None, Message | None]]
        if len(requests) == len(responses) and (self.losses == 1 if self.pipelined else len(requests) == 1):
            pairs = zip(requests, responses, strict=True)
        else:
            pairs = [(request, None) for request in requests] + [(None, response) for response in self.responses]
        self.requests, self.responses, self.doubt, self.losses = [], [], False, 0
        for request, response in pairs:
            self._tell(request, response)

    def _tell(self, request: Message | None, response: Message | None) -> None:
        problems = (request.problems if request else ()) + (response.problems if response else ())
        request = request if request and request.first else None
        response = response if response and response.first else None
        if request or response:
            key, headers = self.streams[0].key, self.analyzer.headers
            self.analyzer.found.append(exchange(key, request, response, problems, headers))


@lru_cache(4_096)
def ends_of(key: bytes) -> tuple[str, str]:
    """Both addresses with their ports."""
    half = len(key) // 2 - 2
    family = socket.AF_INET if half == 4 else socket.AF_INET6
    hosts, ports = (socket.inet_ntop(family, key[at : at + half]) for at in (0, half)), struct.unpack("!HH", key[-4:])
    client, server = map(format_address, zip(hosts, ports, strict=True))
    return client, server


def format_address(address: tuple[Any, ...]) -> str:
    """Return an address as in URLs: 127.0.0.1:80 or [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def headers_of(message: Message) -> tuple[tuple[str, str], ...]:
    return tuple((text_of(name), text_of(value)) for name, value in lines_of(message.block))


@lru_cache(32)
def asked_for(first: tuple[bytes, ...], block: bytes, server: str) -> tuple[str | None, ...]:
    """What a request says: method, URL, host, target, version, user agent."""
    fields, _ = fields_of(block)
    host, agent = (text_of(fields[name]) if name in fields else None for name in (b"host", b"user-agent"))
    method, target, version = map(text_of, first)
    if absolute := ABSOLUTE.match(target):
        url, host = target, absolute[1]  # and the field does not count (RFC 9112 section 3.2.2)
    elif method == "CONNECT":
        url = target
    else:
        path = "" if target == "*" else target if target.startswith("/") else f"/{target}"
        url = f"http://{host or server}{path}"
    return method, url, host, target, version, agent


@lru_cache(32)
def answered(first: tuple[bytes, ...], block: bytes) -> tuple[str, int, str, str | None]:
    """What a response says: version, status, reason, content type."""
    kind = fields_of(block)[0].get(b"content-type")
    return text_of(first[0]), int(first[1]), text_of(first[2] or b""), None if kind is None else text_of(kind)


def exchange(
    key: bytes, request: Message | None, response: Message | None, problems: tuple[str, ...], headers: bool
) -> Exchange:
    client, server = ends_of(key)
    begun = request.time if request else response.time if response else 0.0
    method = url = host = target = version = agent = status = reason = kind = first_byte = took = None
    if response:
        version, status, reason, kind = answered(response.first, response.block)
        if request:
            first_byte, took = response.time - begun, response.end - begun
            if first_byte < 0 or took < 0:  # a clock may go back
                first_byte = took = 0.0
    else:
        problems += ("no response",)
    if request:
        method, url, host, target, version, agent = asked_for(request.first, request.block, server)
    else:
        problems += ("no request",)
    return Exchange(
        begun, client, server, method, url, host, target, version, status, reason,
        request.size if request else None, response.size if response else None, kind, agent, first_byte, took,
        tuple(dict.fromkeys(problems)) if problems else (),
        headers_of(request) if headers and request else None,
        headers_of(response) if headers and response else None,
    )  # fmt: skip


BODY = Parser._body
NOTHING: list[Exchange] = []


class HTTPAnalyzer:
    """Frames in, exchanges out. headers: whether they carry all header lines, too.

    dropped: connections forgotten because there were too many, or too much of them to keep.
    """

    def __init__(self, *, headers: bool = False) -> None:
        self.headers = headers
        self.dropped = 0
        self.kept = 0  # bytes, since it was looked how many are held
        self.found: list[Exchange] = []
        self._swept = 0.0
        self._fragments = Fragments()
        self._streams: dict[bytes, Stream] = {}
        self._connections: OrderedDict[Connection, None] = OrderedDict()  # the one silent for longest comes first

    def feed(self, time: float, linktype: int, frame: bytes) -> list[Exchange]:
        """The exchanges that end with this frame. time: epoch seconds. linktype: tcpdump.org/linktypes.html."""
        segment = segment_of(linktype, frame, self._fragments)
        if segment is None:
            return NOTHING
        key, seq, ack, flags, data = segment
        stream, special = self._streams.get(key), flags & 7  # FIN, SYN or RST
        if not data and not special and (stream is None or not stream.connection.waiting):
            return NOTHING
        if stream is None or flags & SYN or stream.connection.closed:
            if not data and not flags & SYN:
                return NOTHING
            stream = self._open(stream, key, seq, flags)
            if stream is None:
                return NOTHING
        connection = stream.connection
        if time - connection.seen > GRACE_S:
            connection.seen = time
            self._connections.move_to_end(connection)
            if not 0 <= time - self._swept <= GRACE_S:
                self._sweep(time)
        if seq == stream.next & MASK and ack == stream.peer.next & MASK and not special and not connection.waiting:
            parser, size = stream.parser, len(data)
            if parser.left > size and parser.state is BODY and parser.message and parser.message.size:
                stream.next += size  # the short way for most bytes
                parser.left -= size
                parser.message.size += size
                return NOTHING
            connection.proceed(stream, size)
            parser.feed(time, data)
        elif not connection.closed:
            connection.arrive(stream, time, seq, ack, flags, data)
        if connection.pipelined or connection.doubt:
            connection.limit()
        if self.kept > MAX_HELD_BYTES:
            self._thin()
        return self._take() if self.found else NOTHING

    def sweep(self, time: float) -> list[Exchange]:
        """The exchanges that end because nothing came for a while. time: epoch seconds, now."""
        self._sweep(time)
        return self._take()

    def _sweep(self, time: float) -> None:
        self._swept = time
        for connection in [*self._connections]:
            if connection.seen < time - IDLE_S:
                self._forget(connection)
            elif connection.waiting:
                connection.advance(time)

    def flush(self) -> list[Exchange]:
        """The rest: the capture is over."""
        while self._connections:
            self._forget(next(iter(self._connections)))
        return self._take()

    def _take(self) -> list[Exchange]:
        found, self.found = self.found, []
        return found

    def _open(self, stream: Stream | None, key: bytes, seq: int, flags: int) -> Stream | None:
        """The stream of a segment that may be a connection's first: ports are used again, and segments come twice.

        None: a SYN out of the blue, which anybody can send; the server's answer will tell (RFC 5961 section 4).
        """
        if stream:
            behind = ahead(stream.next, seq)
            again = seq == stream.isn if stream.isn != UNKNOWN else 0 <= behind < MAX_WAITING[0]
            if (again or stream.next == UNKNOWN) if flags & SYN else -MAX_WAITING[0] < behind < REUSE_BYTES:
                return stream
            if flags & (SYN | ACK) == SYN and not stream.connection.closed and stream.peer.isn != UNKNOWN:
                return None
            self._forget(stream.connection)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop()
        connection = Connection(self, key)
        self._connections[connection] = None
        self._streams.update((each.key, each) for each in connection.streams)
        return connection.streams[0]

    def _thin(self) -> None:
        self.kept, held = 0, sum(connection.held() for connection in self._connections)
        while held > MAX_HELD_BYTES:
            held -= next(iter(self._connections)).held()
            self._drop()

    def _drop(self) -> None:
        oldest = next(iter(self._connections))
        self.dropped += not oldest.closed
        self._forget(oldest)

    def _forget(self, connection: Connection) -> None:
        if not connection.closed:
            connection.close()
        del self._connections[connection]
        for stream in connection.streams:
            self._streams.pop(stream.key, None)  # both are one where a packet comes from where it goes to


# Captures: files, and the wire.


@contextlib.contextmanager
def explaining(what: str) -> Iterator[None]:
    """Around what scapy opens or compiles for `what`: whatever fails is a CaptureError."""
    from scapy.error import Scapy_Exception

    try:
        yield
    except PermissionError:
        remedies = "use sudo; or setcap cap_net_raw=ep PYTHON, once, and any script of any user may capture"
        raise CaptureError(f"it needs root: {remedies}") from None
    except (Scapy_Exception, ValueError, OSError) as error:
        raise CaptureError(f"{what}: {getattr(error, 'strerror', None) or error}") from None


@lru_cache(16)
def compile_filter(expression: str, linktype: int) -> Callable[[bytes, int], int]:
    """A function of a frame and its length that runs a BPF expression in libpcap. Raises CaptureError."""
    skip = 4 if linktype in (0, 108) else 0  # libpcap knows of BSD's families only its own system's
    with explaining("the filter"):
        from scapy.arch.common import compile_filter
        from scapy.libs.winpcapy import _lib, pcap_pkthdr

        program = compile_filter(expression, linktype=12 if skip or linktype == 14 else linktype)
    number, address = ctypes.c_int, ctypes.c_void_p
    run = ctypes.CFUNCTYPE(number, address, address, ctypes.c_char_p)(("pcap_offline_filter", _lib))
    header = pcap_pkthdr()

    def matches(frame: bytes, length: int) -> int:
        header.caplen, header.len = len(frame) - skip, length
        return len(frame) >= skip and run(ctypes.byref(program), ctypes.byref(header), frame[skip:])

    return matches


def passing(batch: list[Record], expression: str) -> list[Record]:
    """What a BPF expression lets through; it is compiled for each link type."""
    return [each for each in batch if compile_filter(expression, each[2])(each[4], each[1])] if expression else batch


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Around the reading of a file: it, or gzip's data in it, may end or be wrong anywhere."""
    try:
        yield
    except (OSError, EOFError, zlib.error, struct.error, IndexError) as error:
        raise CaptureError(getattr(error, "strerror", None) or "the file is cut off or damaged") from None


class Pipe(io.FileIO):
    """One that waits before it reads: a signal that came between would not end read(), as it ends select()."""

    def readinto(self, buffer: Any) -> int | None:
        while not select.select([self], [], [], TICK_S)[0]:
            pass
        return super().readinto(buffer)


class CaptureFile:
    """A pcap or pcapng file, also one packed by gzip; "-" is standard input. Raises CaptureError and OSError."""

    linktype, nano = -1, False  # of pcapng, each packet has its own

    def __init__(self, files: contextlib.ExitStack, path: str, expression: str) -> None:
        regular = os.path.isfile(path)
        self._raw = (io.FileIO if regular else Pipe)(0 if path == "-" else path, closefd=path != "-")
        self._file: Any = files.enter_context(io.BufferedReader(self._raw))
        self._expression = expression
        self._at_once = BATCH if regular else 1  # what comes through a pipe is shown as it comes
        with reading():
            if self._file.peek(1)[:1] == b"\x1f":
                self._file = gzip.GzipFile(fileobj=self._file)
            magic = self._file.read(4)
            if magic != PCAPNG and magic not in MAGICS:
                raise CaptureError("no capture file: neither pcap nor pcapng")
            self._records = self._pcapng() if magic == PCAPNG else self._pcap(*MAGICS[magic])
            if expression:  # a bad one is told at once; and scapy is loaded as long as it may be: see drop_privileges()
                first = [*itertools.islice(self._records, 1)]
                passing(first or [(0, 0, max(self.linktype, ETHERNET), None, b"")], expression)
                self._records = itertools.chain(first, self._records)

    def batches(self) -> Iterator[list[Record]]:
        batch = None
        while batch is None or len(batch) == self._at_once:
            batch = list[Record]()
            try:
                with reading():
                    batch.extend(itertools.islice(self._records, self._at_once))
            finally:
                yield passing(batch, self._expression)

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if size <= MAX_BLOCK_BYTES else b""
        if len(data) < size:
            raise EOFError
        return data

    def _pcap(self, order: str, scale: int) -> Iterator[Record]:
        self.linktype = struct.unpack(order + "16xI", self._take(20))[0] & 0x03FFFFFF
        self.nano = scale == 1
        return self._pcap_records(struct.Struct(order + "IIII").unpack, scale)

    def _pcap_records(self, numbers: Callable[[bytes], tuple[int, ...]], scale: int) -> Iterator[Record]:
        read, linktype = self._file.read, self.linktype
        while head := read(16):
            second, fraction, kept, length = numbers(head)
            frame = read(kept) if kept <= MAX_FRAME_BYTES else b""
            if len(frame) < kept:
                raise EOFError
            yield second * NANO + fraction * scale, length, linktype, None, frame

    def _pcapng(self) -> Iterator[Record]:
        """The packets in a file's blocks (draft-ietf-opsawg-pcapng)."""
        order, interfaces, head = "<", list[tuple[int, int, int, int]](), PCAPNG + self._take(8)
        while head:
            if head[:4] == PCAPNG:
                order, interfaces = "<" if head[8] == 0x4D else ">", []
            kind, size = struct.unpack_from(order + "II", head)
            if size < 12 or size % 4:
                raise EOFError
            body = (head[8:] + self._take(size - 12))[:-4]
            if kind == 1:
                linktype, snaplen = struct.unpack_from(order + "HxxI", body)
                interfaces.append((linktype, snaplen, *self._clock(order, body)))
            elif kind in (2, 6):  # 2 is obsolete
                form = order + ("5I" if kind == 6 else "HxxIIII")
                number, high, low, kept, length = struct.unpack_from(form, body)
                if kept > MAX_FRAME_BYTES:
                    raise EOFError
                linktype, _, ticks, offset_s = interfaces[number]
                time_ns = (high << 32 | low) * NANO // ticks + offset_s * NANO
                yield time_ns, length, linktype, None, body[20 : 20 + kept]
            elif kind == 3:  # a simple one: no time, and what is not padding is the packet
                (length,) = struct.unpack_from(order + "I", body)
                linktype, snaplen = interfaces[0][:2]
                yield 0, length, linktype, None, body[4 : 4 + min(length, snaplen or length)]
            head = self._file.read(12)

    def _clock(self, order: str, body: bytes) -> tuple[int, int]:
        """From an interface's options, the ticks in a second and what to add, in seconds."""
        at, ticks, offset_s = 8, 1_000_000, 0
        while at + 4 <= len(body):
            code, size = struct.unpack_from(order + "HH", body, at)
            if code == 9:
                ticks = 2 ** (body[at + 4] & 127) if body[at + 4] & 128 else 10 ** body[at + 4]
                self.nano = self.nano or ticks > 1_000_000
            elif code == 14:
                (offset_s,) = struct.unpack_from(order + "q", body, at + 4)
            at += 4 + size + -size % 4
        return ticks, offset_s

    def progress(self) -> str:
        return f"{self._raw.tell():,} of {os.path.getsize(self._raw.fileno()):,} bytes" if self._at_once > 1 else ""

    def drops(self) -> int:
        return 0


class Live:
    """An interface, opened by scapy; on Linux, `any` is all of them. Raises CaptureError."""

    nano = False

    def __init__(self, files: contextlib.ExitStack, interface: str | None, expression: str, buffer_bytes: int) -> None:
        self.interface, self._dropped, self._late = pick_interface(interface), 0, ""
        with explaining(self.interface):
            (self._open if ON_LINUX else self._open_elsewhere)(files, expression, buffer_bytes)

    def _open(self, files: contextlib.ExitStack, expression: str, buffer_bytes: int) -> None:
        from scapy.arch import common
        from scapy.arch.linux import L2ListenSocket
        from scapy.data import ARPHRD_TO_DLT

        # What a filter of scapy's lets through of a frame: it would cut them at 65,535.
        common.MTU = LONGEST_BYTES  # type: ignore[attr-defined]
        # A filter in the kernel sees neither a VLAN tag, which is kept beside the frame, nor which link type it has.
        self._by_tag = bool(re.search(r"\bvlan\b", expression))
        self._late = expression if self.interface == "any" or self._by_tag else ""
        self._socket: Any
        if self.interface == "any":
            self._socket = files.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        else:
            opened = L2ListenSocket(iface=self.interface, filter=None if self._late else expression or None)
            files.callback(opened.close)
            self._socket = opened.ins
        # 12 is raw IP, on some systems.
        known = {each: dlt for each, dlt in ARPHRD_TO_DLT.items() if dlt not in (-1, 12)}
        self._linktype_of = defaultdict(lambda: RAW, known)
        hardware = self._socket.getsockname()[3]
        self.linktype = ETHERNET if self.interface == "any" else self._linktype_of[hardware]
        if self._late:
            compile_filter(self._late, self.linktype)  # a bad filter is told at once
        set_options(self._socket, buffer_bytes, hardware == ARPHRD_LOOPBACK)

    def _open_elsewhere(self, files: contextlib.ExitStack, expression: str, _: int) -> None:
        self._socket = scapy_conf().L2listen(iface=self.interface, filter=expression or None)
        files.callback(self._socket.close)
        self.linktype = 0 if re.match("lo|utun|gif", self.interface) else ETHERNET

    def batches(self) -> Iterator[list[Record]]:
        receive = self._receive if ON_LINUX else self._receive_elsewhere
        while True:
            batch = list[Record]()
            try:
                batch.extend(receive(TICK_S))
            except KeyboardInterrupt:
                batch.extend(receive(0.0))  # what had come by then
                raise
            except OSError as error:  # it was switched off, or taken away
                raise CaptureError(f"{self.interface}: {error.strerror}") from None
            finally:
                yield batch

    def _receive(self, wait_s: float) -> Iterator[Record]:
        """What has arrived, after a moment at the latest."""
        if not select.select([self._socket], [], [], wait_s)[0]:
            return
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                frame, control, _, address = self._socket.recvmsg(LONGEST_BYTES, 128, socket.MSG_DONTWAIT)
                name, _, direction, hardware, _ = address
                if direction == OUTGOING and hardware == ARPHRD_LOOPBACK:
                    continue  # it comes in again
                linktype, shown = self._linktype_of[hardware], name if self.interface == "any" else None
                time_ns, length, tag = read_control(control, len(frame))
                whole = frame[:12] + tag + frame[12:] if tag else frame
                judged = whole if self._by_tag else frame  # without one, as in the kernel
                if not self._late or compile_filter(self._late, linktype)(judged, length):
                    yield time_ns, length + len(tag), linktype, shown, whole

    def _receive_elsewhere(self, wait_s: float) -> Iterator[Record]:
        for each in self._socket.select([self._socket], wait_s):
            _, frame, when = each.recv_raw()
            if frame:
                yield int((when or time.time()) * NANO), len(frame), self.linktype, None, frame

    def progress(self) -> str:
        return ""

    def drops(self) -> int:
        """What the kernel dropped so far; its own count begins anew when it is read."""
        if ON_LINUX:
            self._dropped += struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        return self._dropped


def set_options(opened: socket.socket, buffer_bytes: int, is_loopback: bool) -> None:
    put = opened.setsockopt
    put(SOL_PACKET, PACKET_AUXDATA, 1)
    put(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    with contextlib.suppress(OSError):  # an old kernel: Live leaves out what goes out
        put(SOL_PACKET, PACKET_IGNORE_OUTGOING, int(is_loopback))
    try:
        put(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
    except PermissionError:
        put(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # its count is from here: there was no such buffer before


def read_control(control: list[tuple[int, int, bytes]], kept: int) -> tuple[int, int, bytes]:
    """From a frame's ancillary data its time in ns, its length on the wire, and the VLAN tag it had."""
    time_ns, length, tag = 0, kept, b""
    for level, kind, data in control:
        if level == SOL_PACKET:  # struct tpacket_auxdata
            status, length, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data)
            if status & 0x10:  # TP_STATUS_VLAN_VALID; 0x40 is TP_STATUS_VLAN_TPID_VALID
                tag = struct.pack("!HH", tpid if status & 0x40 else VLANS[0], tci)
        elif kind == SO_TIMESTAMPNS:
            second, fraction = struct.unpack("ll", data)
            time_ns = second * NANO + fraction
    return time_ns, length, tag


class Stop:
    """Ctrl+C, SIGTERM and the end of --duration: a KeyboardInterrupt where packets are waited for, and nowhere else, so
    that no output is torn. A second one comes anywhere: who reads the lines may have stopped.
    """

    _asked = _waits = False
    _ends_at = 0.0

    def __init__(self, duration_s: float | None) -> None:
        self._duration_s = duration_s or sys.maxsize
        with contextlib.suppress(ValueError):  # not the main thread, which alone has signals
            for name in {"SIGINT", "SIGTERM", "SIGALRM"} & {*dir(signal)}:  # Windows has no alarm
                signal.signal(getattr(signal, name), self._ask)

    def _ask(self, *_: object) -> None:
        again, self._asked = self._asked, True
        if self._waits or again:
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._waits = True
        if self._asked:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        self._waits = False

    def until(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches that come before it; --duration counts from the first. Raises what they raise."""
        if not self._ends_at:
            self._ends_at = time.monotonic() + self._duration_s
            if self._duration_s < sys.maxsize and hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, self._duration_s)
        with contextlib.suppress(KeyboardInterrupt):
            while time.monotonic() < self._ends_at:
                with self:
                    batch = next(batches, None)
                if batch is None:
                    break
                yield batch


def scapy_conf() -> Any:
    """scapy's settings: `ifaces`, those there are now, and `iface`, the default route's."""
    import scapy.route  # noqa: F401 - it fills in iface
    from scapy.config import conf

    conf.ifaces.reload()
    return conf


def pick_interface(wanted: str | None) -> str:
    conf = scapy_conf()
    names = [*conf.ifaces.keys(), *["any"] * ON_LINUX]
    if wanted is not None and wanted not in names:
        raise CaptureError(f"no interface {wanted}; there are: {', '.join(names)}")
    return wanted or str(conf.iface)


def drop_privileges(user: str | None, output: int | None) -> str:
    """Become `user`, or the one who called sudo, and give them the output, if it is a file; what came of it."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return ""
    import pwd

    try:
        uid, gid = (pwd.getpwnam(user) if user else pwd.getpwuid(int(os.environ.get("SUDO_UID", 0))))[2:4]
    except (KeyError, ValueError, OverflowError):
        raise CaptureError(f"no user {user or 'SUDO_UID'}") from None
    if not uid:
        return ""
    printable("\0")  # loads its codec: that user may not be allowed to read this Python's files
    if output is not None and stat.S_ISREG(os.fstat(output).st_mode):
        os.fchown(output, uid, gid)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    return f"privileges given up, running as user {uid} and group {gid}"


def exchanges(analyzer: HTTPAnalyzer, batches: Iterator[list[Record]], live: bool = False) -> Iterator[Exchange]:
    feed = analyzer.feed
    try:
        for batch in batches:
            if live and not batch:
                yield from analyzer.sweep(time.time())
            for time_ns, _, linktype, _, frame in batch:
                if found := feed(time_ns / NANO, linktype, frame):
                    yield from found
    except CaptureError:
        yield from analyzer.flush()
        raise
    yield from analyzer.flush()


def analyze(path: str, filter: str = "", *, headers: bool = False) -> Iterator[Exchange]:
    """The exchanges in a capture file (pcap, pcapng, also packed by gzip; "-" is standard input).

    filter: a BPF expression. headers: as for HTTPAnalyzer. Raises OSError and, after what is whole, CaptureError.
    """
    with contextlib.ExitStack() as files:
        yield from exchanges(HTTPAnalyzer(headers=headers), CaptureFile(files, path, filter).batches())


# Formats: an exchange as text.


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def within(time: float) -> float:
    """A time that can be told: a file may say any."""
    return min(max(time, 0.0), float(1 << 34))


@lru_cache(64)
def time_text(second: int, form: str) -> str:
    return time.strftime(form, time.localtime(within(second)))


def text_line(found: Exchange) -> str:
    kind = (found.content_type or "-").partition(";")[0]
    size = "-" if found.response_bytes is None else f"{found.response_bytes:,} bytes"
    took = "-" if found.duration_s is None else f"{found.duration_s * 1e3:.1f} ms"
    moment = f"{time_text(int(found.time), '%H:%M:%S')}.{int(found.time % 1 * 1e3):03}"
    url = (found.url or found.server).replace(" ", "%20")  # no columns of the peer's
    what = f"{found.method or '-'} {url} {found.status or '-'} {size} {kind.replace(' ', '%20')} {took}"
    line = f"{moment} {found.client} {what}"
    if found.problems:
        line += "".join(f" [{problem}]" for problem in found.problems)
    line = line if line.isprintable() else printable(line)
    if found.request_headers or found.response_headers:
        for arrow, headers in ((">", found.request_headers), ("<", found.response_headers)):
            line += "".join(f"\n  {arrow} {printable(f'{name}: {value}')}" for name, value in headers or ())
    return line


ROW = f"{{{', '.join(f'{json.dumps(name)}: %s' for name in Exchange._fields[:-2])}}}"  # without the headers
ROW_WITH_HEADERS = f"{{{', '.join(f'{json.dumps(name)}: %s' for name in Exchange._fields)}}}"
JSON = lru_cache(4_096)(json.dumps)  # what comes again and again is not encoded again and again


def json_line(found: Exchange) -> str:
    bare = found.request_headers is None is found.response_headers
    texts = [
        repr(value)
        if type(value) is float
        else JSON(value)
        if type(value) is not str or len(value) < 200
        else json.dumps(value)
        for value in (found[:-2] if bare else found)
    ]
    return (ROW if bare else ROW_WITH_HEADERS) % tuple(texts)


def combined_line(found: Exchange) -> str:
    """Apache's Combined Log Format; 499 is nginx's for a request that got no answer."""
    moment = time_text(int(found.time), "%d/%b/%Y:%H:%M:%S %z")
    headers = {name.lower(): value for name, value in found.request_headers or ()}
    size = "-" if found.response_bytes is None else found.response_bytes
    texts = [f"{found.method or '-'} {found.target or '-'} HTTP/{found.version or '1.1'}"]
    texts += [headers.get("referer") or "-", found.user_agent or "-"]
    request, referer, agent = (printable(text.replace("\\", "\\\\")).replace('"', "\\x22") for text in texts)
    address = found.client.rpartition(":")[0].strip("[]")
    return f'{address} - - [{moment}] "{request}" {found.status or 499} {size} "{referer}" "{agent}"'


def har_entry(found: Exchange) -> str:
    """An entry of HAR 1.2, http://www.softwareishard.com/blog/har-12-spec/."""
    taken, first = (round((seconds or 0.0) * 1e3, 3) for seconds in (found.duration_s, found.ttfb_s))
    times = {"blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 0, "wait": first}
    url, version = har_url(found), f"HTTP/{found.version or '1.1'}"
    queries = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    request: dict[str, Any] = {"method": found.method or "GET", "url": url, "queryString": pairs(queries)}
    response: dict[str, Any] = {"status": found.status or 0, "statusText": found.reason or ""}
    size = -1 if found.response_bytes is None else found.response_bytes
    response["content"] = {"size": max(size, 0), "mimeType": found.content_type or "x-unknown"}
    headers = {name.lower(): value for name, value in found.response_headers or ()}
    response["redirectURL"] = headers.get("location", "")
    sides = ((request, found.request_headers, found.request_bytes), (response, found.response_headers, size))
    for side, lines, body in sides:
        side |= {"httpVersion": version, "cookies": [], "headers": pairs(lines or ()), "headersSize": -1}
        side["bodySize"] = -1 if body is None else body
    moment = datetime.fromtimestamp(within(found.time), UTC).isoformat(timespec="milliseconds")
    entry = {"pageref": "page_1", "startedDateTime": moment, "time": taken, "request": request, "response": response}
    entry |= {"cache": {}, "timings": times | {"receive": round(taken - first, 3)}}
    address, _, port = found.server.rpartition(":")
    entry |= {"serverIPAddress": address.strip("[]"), "connection": port, "_client": found.client}
    return json.dumps(entry | {"comment": ", ".join(found.problems)})


def har_url(found: Exchange) -> str:
    """What browsers take for a URL: any other, and a client may send any, would end their import."""
    url = quote(found.url or "", safe="!#$%&'()*+,/:;=?@[]~")
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        host = parts.hostname or ""
        ip_address(host) if host[-1:].isdigit() or ":" in host else host.encode().decode("idna")
        if parts.scheme in ("http", "https") and HOST.fullmatch(parts.netloc) and parts.port != 0:
            return url
    return f"http://{found.server}/"


def pairs(items: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in items]


FORMATS: dict[str, Callable[[Exchange], str]]
FORMATS = {"text": text_line, "json": json_line, "combined": combined_line, "har": har_entry}
PAGE = {"startedDateTime": "1970-01-01T00:00:00Z", "id": "page_1", "title": PROGRAM, "pageTimings": {"onLoad": -1}}
HAR = {"version": "1.2", "creator": {"name": PROGRAM, "version": "1"}, "pages": [PAGE], "entries": []}
HAR_BEGIN, HAR_END = json.dumps({"log": HAR}).split("]}}")[0] + "\n", "\n]}}\n"


class Summary:
    """What --summary shows, in memory that does not grow with the capture: a latency is kept to 2 per cent."""

    def __init__(self) -> None:
        self.exchanges = self.sent = self.received = self.dropped = 0
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in ("host", "status", "method", "problem")}
        self.latencies: Counter[int] = Counter()
        self.slowest: list[tuple[float, str]] = []

    def add(self, found: Exchange) -> None:
        self.exchanges += 1
        self.sent += found.request_bytes or 0
        self.received += found.response_bytes or 0
        hosts, host = self.counts["host"], (found.host or found.server)[:255]
        hosts[host if host in hosts or len(hosts) < MAX_HOSTS else "(others)"] += 1
        self.counts["status"][str(found.status or "none")] += 1
        methods, method = self.counts["method"], found.method or "unknown"
        methods[method if method in methods or len(methods) < 100 else "(others)"] += 1
        self.counts["problem"].update(found.problems)
        if found.duration_s is not None:
            self.latencies[round(50 * math.log(max(found.duration_s, 1e-6)))] += 1
            item = (found.duration_s, found.url or found.server)
            if len(self.slowest) < 5 or item > self.slowest[-1]:
                self.slowest = sorted([*self.slowest, item], reverse=True)[:5]

    def merge(self, other: "Summary") -> None:
        for name in ("exchanges", "sent", "received", "dropped", "latencies"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, counter in other.counts.items():
            self.counts[name] += counter
        self.slowest = sorted(self.slowest + other.slowest, reverse=True)[:5]

    def percentile(self, share: float) -> float:
        below = itertools.accumulate(count for _, count in sorted(self.latencies.items()))
        ranked = zip(sorted(self.latencies), below, strict=True)
        return math.exp(next(each for each, rank in ranked if rank >= share * self.latencies.total()) / 50)

    def lines(self) -> Iterator[str]:
        yield f"{self.exchanges:,} exchanges, bodies: {self.sent:,} bytes sent, {self.received:,} received"
        for name, counter in self.counts.items():
            shown = ", ".join(f"{key} {count:,}" for key, count in counter.most_common(10))
            yield f"by {name}: {printable(shown) or 'none'}"
        if self.latencies:
            points = ((50, 0.5), (90, 0.9), (99, 0.99))
            yield "latency: " + "  ".join(f"p{name} {format_seconds(self.percentile(share))}" for name, share in points)
            steps = Counter[int]()
            for latency, count in self.latencies.items():
                steps[math.ceil(3 * latency / 50 / math.log(10) - 1e-9)] += count
            for step in range(min(steps), max(steps) + 1):
                bar = "█" * math.ceil(40 * steps[step] / max(steps.values()))
                yield f"  up to {format_seconds(10 ** (step / 3)):>7} {bar} {steps[step]:,}"
            yield "slowest:"
            yield from (f"  {format_seconds(seconds):>7} {printable(url)}" for seconds, url in self.slowest)
        if self.dropped:
            yield f"connections forgotten, for there were too many: {self.dropped:,}"


def format_seconds(seconds: float) -> str:
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * scale:.3g} {unit}"


# The command line.


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


def tell(message: str) -> None:
    if sys.stderr:
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """Handle errors of standard output: exit quietly on a closed pipe, print one error line on a full disk."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # The buffered output would fail again at exit.
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        print_message("error", f"cannot write the output: {error.strerror}")
        sys.exit(1)


def bounded(kind: type[float], low: float, high: float, text: str) -> float:
    """Return the number in `text`, which must be from `low` to `high`: an argparse type, once these are bound."""
    with contextlib.suppress(ValueError):
        if low <= kind(text) <= high:
            return kind(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")


def new_parser() -> argparse.ArgumentParser:
    """Return a parser whose --help prints the module's docstring, wrapped to the terminal, and the examples."""
    summary, _, examples = (__doc__ or "").partition("\n\n")
    description = textwrap.fill(" ".join(summary.split()), shutil.get_terminal_size().columns - 2)
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROGRAM, description=description, epilog=examples, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser()
    add, seconds = parser.add_argument, partial(bounded, float, 0.01, 86_400)
    add("-i", metavar="IFACE", help="the interface, or any (the default route's)")
    add("-r", metavar="FILE", nargs="+", action="append", help="read capture files instead; - is standard input")
    add("--format", choices=FORMATS, default="text", help="how to print exchanges (%(default)s)")
    add("--json", dest="format", action="store_const", const="json", help="short for --format json")
    add("--summary", action="store_true", help="at the end, counts, latencies and the slowest URLs")
    add("--headers", action="store_true", help="all header lines, too")
    add("-c", type=partial(bounded, int, 1, sys.maxsize), metavar="COUNT", help="stop after so many exchanges")
    add("--duration", type=seconds, metavar="SECONDS", help="stop after so many seconds")
    add(
        "--jobs", type=partial(bounded, int, 1, 256), default=1, metavar="N", help="files to read at once (%(default)s)"
    )
    add("filter", nargs="*", metavar="FILTER", help="a BPF expression, as in pcap-filter(7) (all TCP)")
    parser.set_defaults(files=[])
    args = parser.parse_args(argv)
    if args.r and args.i:
        parser.error("-r does not go with -i")
    for first, *others in args.r or ():
        args.files += [first, *filter(is_file, others)]
        args.filter = [*itertools.filterfalse(is_file, others), *args.filter]
    return args


def is_file(word: str) -> bool:
    """Nobody but the file system knows where the files end and the filter begins."""
    return word == "-" or os.path.exists(word) or word.endswith((".pcap", ".pcapng", ".cap", ".gz"))


def showing_progress(source: CaptureFile | Live) -> Iterator[list[Record]]:
    """Its batches; and how much of a file is read, on a terminal that shows nothing else."""
    shown_at, text = time.monotonic() if sys.stderr and sys.stderr.isatty() and not os.isatty(1) else sys.maxsize, ""
    for batch in source.batches():
        if time.monotonic() - shown_at >= TICK_S:
            shown_at, text = time.monotonic(), source.progress()
            print(text, end="\r", file=sys.stderr, flush=True)
        yield batch
    if text:
        print(" " * len(text), end="\r", file=sys.stderr, flush=True)


class Run:
    """A run of the program, or of one of its --jobs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.summary, self.stop, self.failed = args, Summary(), Stop(args.duration), False

    def lines(self, path: str | None) -> Iterator[str]:
        """Of the exchanges in a file, or on the wire; what is wrong with it is told after them."""
        analyzer = HTTPAnalyzer(headers=self.args.headers or self.args.format in ("combined", "har"))
        with contextlib.ExitStack() as files:
            try:
                source = self._open(files, path, " ".join(self.args.filter))
                files.callback(self._tell_losses, analyzer, source)
                for found in exchanges(analyzer, self.stop.until(showing_progress(source)), path is None):
                    if self.args.summary:
                        self.summary.add(found)
                    yield FORMATS[self.args.format](found)
            except (CaptureError, OSError, ImportError) as error:
                self.failed = True
                text = getattr(error, "strerror", None) or str(error)
                text = "it needs scapy: pip install scapy" if isinstance(error, ImportError) else text
                print_message("error", printable(text if path is None else f"{path}: {text}"))

    def _tell_losses(self, analyzer: HTTPAnalyzer, source: CaptureFile | Live) -> None:
        self.summary.dropped += analyzer.dropped
        if drops := source.drops():
            print_message(
                "warning", f"the kernel dropped {drops:,} packets: a narrower FILTER, or tcpdump -w, may help"
            )

    def _open(self, files: contextlib.ExitStack, path: str | None, expression: str) -> CaptureFile | Live:
        with self.stop:
            if path is not None:
                return CaptureFile(files, path, expression)
            live = Live(files, self.args.i, expression or DEFAULT_FILTER, RECEIVE_BUFFER_BYTES)
        if said := drop_privileges(None, None):
            print_message("info", said)
        tell(f"Reading HTTP on {printable(live.interface)}... Press Ctrl+C to stop.")
        return live

    def all_lines(self) -> Generator[str]:
        if self.args.jobs == 1 or not self.args.files:
            for path in self.args.files or [None]:
                yield from self.lines(path)
            return
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(self.args.jobs, initializer=undisturbed) as pool,
        ):
            done = [pool.submit(job, self.args, folder, path) for path in self.args.files]
            try:
                for name, summary, failed in self.stop.until(future.result() for future in done):
                    self.failed |= failed
                    self.summary.merge(summary)
                    with open(name, encoding="utf-8", errors="surrogateescape") as lines:
                        os.unlink(name)
                        yield from (line[:-1] for line in lines)
            finally:
                if not all(future.done() for future in done):
                    for process in multiprocessing.active_children():
                        process.kill()

    def write(self, lines: Generator[str]) -> None:
        har, between = self.args.format == "har", ""
        flush = not self.args.files or not all(map(os.path.isfile, self.args.files))
        with output_errors():
            print(HAR_BEGIN if har else "", end="")
            with contextlib.suppress(KeyboardInterrupt), contextlib.closing(lines):
                for line in itertools.islice(lines, self.args.c):
                    print(between + line if har else line + "\n", end="", flush=flush)
                    between = ",\n"
            print(HAR_END if har else "", end="", flush=True)
            if self.args.summary:
                to = sys.stdout if self.args.format == "text" else sys.stderr
                print(*self.summary.lines(), sep="\n", file=to, flush=True)


def undisturbed() -> None:
    """Ctrl+C and the like are for the process that gives the jobs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def job(args: argparse.Namespace, folder: str, path: str) -> tuple[str, Summary, bool]:
    """In a process of its own: the lines of a file, in a file; so that others need not wait, nor memory hold them."""
    run = Run(argparse.Namespace(**{**vars(args), "duration": None}))
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="surrogateescape", dir=folder, delete=False) as file:
        file.writelines(line + "\n" for line in run.lines(path))
    return file.name, run.summary, run.failed


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's alphabet lacks a letter
    logging.basicConfig(format=f"{PROGRAM}: info: %(message)s", level=logging.INFO)
    logging.getLogger("scapy.runtime").setLevel(logging.CRITICAL)  # what fails, is said here
    run = Run(args)
    run.write(run.all_lines())
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
