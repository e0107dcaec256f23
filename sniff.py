#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["scapy>=2.5"]
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
# scapy, which is imported at run time, is GPL-2.0-only: what is shipped together with it must comply.
"""Show who talks to whom: a line for each packet of an interface or of a capture file. It reads the headers that such
a line needs, at tens of thousands of packets a second; it looks up no names and puts no streams together.

examples:
  sudo python sniff.py                        until Ctrl+C
  sudo python sniff.py -i any -c 10 port 53   ten packets of port 53
  sudo python sniff.py -w out.pcap --print    write them to a file, too
  python sniff.py -r out.pcap --json 'tcp[tcpflags] & tcp-syn != 0'
  sudo python sniff.py --top                  tables of traffic by bytes
"""

import argparse
import contextlib
import ctypes
import gzip
import io
import itertools
import json
import logging
import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import textwrap
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

__all__ = ["CaptureError", "Packet", "capture", "decode", "read"]
__version__ = "2.0.0"

PROGRAM = os.path.basename(__file__)
MAX_FRAME_BYTES, MAX_BLOCK_BYTES = 262_144, 1 << 24  # of a file: a longer frame, as in libpcap, or block is damage
LONGEST_BYTES = 66_000  # of a frame: the loopback interface's are of up to 65,550
BATCH = 256  # packets whose lines are written at once
TICK_S = 1.0  # how often --top is drawn, and drops are looked for
KEPT_COUNTS = 20_000  # addresses and conversations that --top remembers: half as many after a thinning
ON_LINUX = sys.platform == "linux"
NANO = 1_000_000_000

# Numbers of Linux that the socket module does not name (packet(7); include/uapi/linux/if_packet.h, if_arp.h).
SOL_PACKET, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 6, 8, 23
SO_RCVBUFFORCE, SO_TIMESTAMPNS, ARPHRD_LOOPBACK, OUTGOING = 33, 35, 772, 4

# Link types (https://www.tcpdump.org/linktypes.html), Ethernet types, IP protocols, ICMP types (IANA's registries)
ETHERNET, RAW = 1, 101
IPV4, IPV6, ARP, VLANS = 0x0800, 0x86DD, 0x0806, (0x8100, 0x88A8, 0x9100)
ETHERTYPES = {
    IPV4: "IPv4", IPV6: "IPv6", ARP: "ARP", 0x8847: "MPLS", 0x8863: "PPPoE-D", 0x8864: "PPPoE", 0x888E: "EAPOL",
    0x88CC: "LLDP", 0x88F7: "PTP",
}  # fmt: skip
PROTOCOLS = {
    1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "IPv6-in-IP", 47: "GRE", 50: "ESP", 51: "AH",
    58: "ICMPv6", 89: "OSPF", 103: "PIM", 112: "VRRP", 132: "SCTP", 136: "UDPLite",
}  # fmt: skip
ICMP = {  # the type, and its codes from 0
    0: "echo reply", 4: "source quench", 5: "redirect: network, host, service and network, service and host",
    3: "unreachable: network, host, protocol, port, fragmentation needed, source route failed, network unknown, "
       "host unknown, source isolated, network prohibited, host prohibited, network for this service, "
       "host for this service, administratively prohibited, host precedence, precedence cutoff",
    8: "echo request", 9: "router advertisement", 10: "router solicitation",
    11: "time exceeded: in transit, in reassembly", 12: "parameter problem: pointer, missing option, bad length",
    13: "timestamp request", 14: "timestamp reply", 17: "address mask request", 18: "address mask reply",
}  # fmt: skip
ICMP6 = {
    1: "unreachable: no route, administratively prohibited, beyond scope, address, port, policy, route rejected",
    2: "packet too big", 3: "time exceeded: in transit, in reassembly",
    4: "parameter problem: header field, next header, option", 128: "echo request", 129: "echo reply",
    130: "listener query", 131: "listener report", 132: "listener done", 133: "router solicitation",
    134: "router advertisement", 135: "neighbor solicitation", 136: "neighbor advertisement", 137: "redirect",
    143: "listener report v2",
}  # fmt: skip
BITS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE")  # RFC 9293 section 3.1, RFC 9768
FLAGS = [", ".join(name for bit, name in enumerate(BITS) if bits >> bit & 1) or "none" for bits in range(512)]
NOTES = {
    "flags": " [%s]", "info": " %s", "vlan": " vlan %s", "fragment": " fragment at %s",
    "truncated": " [truncated]%.0s", "malformed": " [malformed]%.0s",
}  # fmt: skip
PCAPNG = b"\n\r\r\n"
# What pcap begins with: its byte order, and nanoseconds in a unit of its times
UNITS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
MAGICS = {struct.pack(f"{order}I", magic): (order, UNITS[magic]) for order in "<>" for magic in UNITS}
DOTS = bytes(byte if 32 <= byte < 127 else ord(".") for byte in range(256))

Found = dict[str, Any]  # what is known of a packet: the names are Packet's
Record = tuple[int, int, int, str | None, bytes]  # time in ns, length on the wire, link type, interface, frame

NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# Control characters, separators of lines and paragraphs, bidirectional controls, surrogates, the byte order mark.
UNPRINTABLE = re.compile(
    f"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff{NONCHARACTERS}]+"
)


class CaptureError(Exception):
    """There is nothing to capture, or no more; says why in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet; None where it has no such thing. time: epoch seconds; length: bytes on the wire.

    proto: the innermost that is known by name. src, dst: IP addresses, or without IP those of the link. flags: of TCP,
    as "SYN, ACK". info: ICMP's type and code, ARP's question or answer. vlan: the tag's number, or the tags' from
    outside in. fragment: its offset in bytes. truncated: cut by the snapshot length; malformed: not as it should be.
    """

    time: float
    length: int
    proto: str
    src: str | None = None
    dst: str | None = None
    sport: int | None = None
    dport: int | None = None
    flags: str | None = None
    info: str | None = None
    vlan: int | tuple[int, ...] | None = None
    fragment: int | None = None
    interface: str | None = None
    truncated: bool = False
    malformed: bool = False


# A packet: from its bytes to what its line shows.


def decode(
    frame: bytes, linktype: int, *, time: float = 0.0, length: int | None = None, interface: str | None = None
) -> Packet:
    """The packet in the bytes of a frame. Never raises: what cannot be read is marked as truncated or malformed.

    linktype: a number of https://www.tcpdump.org/linktypes.html; length: on the wire, if more than is here.
    """
    length = len(frame) if length is None else length
    return Packet(time=time, length=length, interface=interface, **dissect(frame, linktype, length))


def dissect(frame: bytes, linktype: int, length: int) -> Found:
    """What decode() finds, without the Packet: to make one costs as much as all the rest."""
    link = LINKS.get(linktype)
    found: Found = {"proto": link[0] if link else f"link type {linktype}"}
    try:
        if link:
            link[1](found, frame)
    except (struct.error, IndexError, ValueError):
        found["malformed"] = True
    if len(frame) < length:
        found.pop("malformed", None)  # that may be because it was cut
        found["truncated"] = True
    return found


take_16, take_tag = struct.Struct("!H").unpack_from, struct.Struct("!HH").unpack_from
take_ipv4, take_ipv6 = struct.Struct("!BxHxxHxB10x").unpack_from, struct.Struct("!B3xHBx32x").unpack_from
take_tcp, take_udp = struct.Struct("!12xH6x").unpack_from, struct.Struct("!4xHxx").unpack_from


def typed(kind_at: int, size: int, found: Found, frame: bytes) -> None:
    """A link layer of so many bytes, which has an Ethernet type."""
    if not network(found, frame, take_16(frame, kind_at)[0], size) and size == 14:
        found["src"], found["dst"] = frame[6:12].hex(":"), frame[:6].hex(":")


def loopback(found: Found, frame: bytes) -> None:
    """BSD's: the address family, in LOOP big-endian, in NULL as in the machine that wrote it."""
    family = max(take_tag(frame))  # the other half is 0
    family = family >> 8 if family > 255 else family
    if family in (2, 10, 24, 28, 30):  # IPv6's differs between BSDs, macOS and Linux
        network(found, frame, IPV4 if family == 2 else IPV6, 4)


def raw_ip(found: Found, frame: bytes) -> None:
    network(found, frame, IPV6 if frame[0] >> 4 == 6 else IPV4, 0)


def network(found: Found, frame: bytes, kind: int, at: int) -> bool:
    """What follows an Ethernet type; False if that is not known."""
    tags: list[int] = []
    while kind in VLANS:
        tag, kind = take_tag(frame, at)
        tags.append(tag & 0xFFF)
        found["vlan"] = tuple(tags) if tags[1:] else tags[0]
        at += 4
    found["proto"] = ETHERTYPES.get(kind) or (f"0x{kind:04x}" if kind >= 0x0600 else "802.3")
    if kind in NETWORKS:
        NETWORKS[kind](found, frame, at)
    return kind in NETWORKS


def arp(found: Found, frame: bytes, at: int) -> None:
    """RFC 826, for IPv4."""
    _, kind, long, short, operation = struct.unpack_from("!HHBBH", frame, at)
    found["info"] = f"operation {operation}"
    if (kind, short) == (IPV4, 4):
        form = f"!{long}s4s{long}s4s"
        hardware, sender, _, target = struct.unpack_from(form, frame, at + 8)
        src, dst = found["src"], found["dst"] = socket.inet_ntoa(sender), socket.inet_ntoa(target)
        said = {1: f"who-has {dst} tell {src}", 2: f"{src} is-at {hardware.hex(':')}"}
        found["info"] = said.get(operation, found["info"])


def ipv4(found: Found, frame: bytes, at: int) -> None:
    first, total, fragment, protocol = take_ipv4(frame, at)
    start = at + (first & 15) * 4
    end = at + total if total else len(frame)  # larger than the field can say, before segmentation offload
    if first >> 4 != 4 or start < at + 20 or (total and end < start):
        raise ValueError
    if fragment & 0x3FFF:
        found["fragment"] = (fragment & 0x1FFF) * 8
    transport(found, frame[:end], frame[at + 12 : at + 20], protocol, start, end)


def ipv6(found: Found, frame: bytes, at: int) -> None:
    """RFC 8200, through the extension headers."""
    first, total, protocol = take_ipv6(frame, at)
    addresses, at = frame[at + 8 : at + 40], at + 40
    if first >> 4 != 6:
        raise ValueError
    found.update(ends(addresses, b""))
    end = at + total if total or protocol else len(frame)  # a jumbogram
    while protocol in (0, 43, 44, 51, 60, 135) and not found.get("fragment"):
        following, size = struct.unpack_from("!BB", frame, at)
        if protocol == 44:
            found["fragment"] = take_16(frame, at + 2)[0] & 0xFFF8
            size = 0
        at += (size + 2) * 4 if protocol == 51 else (size + 1) * 8
        protocol = following
    transport(found, frame[:end], addresses, protocol, at, end)


def transport(found: Found, packet: bytes, addresses: bytes, protocol: int, at: int, end: int) -> None:
    """What IP carries. Only a packet's first fragment has ports."""
    found["proto"], begins = PROTOCOLS.get(protocol) or f"IP protocol {protocol}", not found.get("fragment")
    if len(packet) < end:
        found["malformed"] = True
    found.update(ends(addresses, packet[at : at + 4] if begins and protocol in (6, 17, 132, 136) else b""))
    if begins and protocol in TRANSPORTS:
        TRANSPORTS[protocol](found, packet, at)


@lru_cache(8192)
def ends(addresses: bytes, ports: bytes) -> Found:
    """The addresses and ports of both ends: most packets belong to a conversation that is known already."""
    half = len(addresses) // 2
    family = socket.AF_INET if half == 4 else socket.AF_INET6
    found: Found = {key: socket.inet_ntop(family, addresses[i:][:half]) for key, i in (("src", 0), ("dst", half))}
    if len(ports) == 4:
        found["sport"], found["dport"] = take_tag(ports)
    return found


def tcp(found: Found, packet: bytes, at: int) -> None:
    bits = take_tcp(packet, at)[0]
    found["flags"] = FLAGS[bits & 511]
    if not 20 <= (bits >> 12) * 4 <= len(packet) - at:
        raise ValueError


def udp(found: Found, packet: bytes, at: int) -> None:
    if 0 < take_udp(packet, at)[0] < 8:
        raise ValueError


def icmp(names: dict[int, str], found: Found, packet: bytes, at: int) -> None:
    kind, code = struct.unpack_from("!BBxx", packet, at)
    found["info"], _, codes = names.get(kind, f"type {kind}").partition(": ")
    known = codes.split(", ") if codes else []
    if known or code:
        found["info"] += f", {known[code]}" if code < len(known) else f", code {code}"


TRANSPORTS: dict[int, Callable[[Found, bytes, int], None]] = {
    1: partial(icmp, ICMP), 6: tcp, 17: udp, 58: partial(icmp, ICMP6), 136: udp,
}  # fmt: skip
NETWORKS = {IPV4: ipv4, IPV6: ipv6, ARP: arp}
LINKS: dict[int, tuple[str, Callable[[Found, bytes], object]]] = {
    ETHERNET: ("Ethernet", partial(typed, 12, 14)),
    113: ("cooked", partial(typed, 14, 16)), 276: ("cooked", partial(typed, 0, 20)),
    0: ("BSD loopback", loopback), 108: ("BSD loopback", loopback),
    12: ("IP", raw_ip), 14: ("IP", raw_ip), RAW: ("IP", raw_ip),
    228: ("IPv4", partial(network, kind=IPV4, at=0)), 229: ("IPv6", partial(network, kind=IPV6, at=0)),
}  # fmt: skip


# Formats: a packet as text.


def format_line(record: Record, found: Found) -> str:
    """A packet as a person reads it. Nothing in `found` comes from the wire but numbers and what we call them."""
    (time_ns, length, _, interface, _), get = record, found.get
    second, fraction = divmod(time_ns, NANO)
    notes = "".join([NOTES[key] % (found[key],) for key in found if key in NOTES])
    where = f" {printable(interface)}" if interface else ""
    way = conversation(get("src"), get("dst"), get("sport"), get("dport"))
    return f"{clock(second)}.{fraction // 1000:06d}{where} {found['proto']}{way} {length} bytes{notes}\n"


@lru_cache(8192)
def conversation(src: str | None, dst: str | None, sport: int | None, dport: int | None) -> str:
    if src is None or dst is None:
        return ""
    return f" {src} > {dst}" if sport is None else f" {format_address((src, sport))} > {format_address((dst, dport))}"


@lru_cache(64)
def clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(min(second, 1 << 34)))  # a file may say any time


def format_address(address: tuple[Any, ...]) -> str:
    """Return an address as in URLs: 127.0.0.1:80 or [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def to_json(record: Record, found: Found) -> str:
    time_ns, length, _, interface, _ = record
    named = {"interface": interface} if interface else {}
    return json.dumps({"time": time_ns / NANO, "length": length, **found, **named}) + "\n"


def as_hex(frame: bytes) -> str:
    rows = [(at, frame[at : at + 16]) for at in range(0, len(frame), 16)]
    return "".join(f"\t0x{at:04x}:  {row.hex(' ', -2):39}  {row.translate(DOTS).decode()}\n" for at, row in rows)


def as_ascii(frame: bytes) -> str:
    return "".join(f"\t{line.translate(DOTS).decode()}\n" for line in frame.splitlines(keepends=True))


def as_dissected(linktype: int, frame: bytes) -> str:
    """What scapy finds in a frame: every field of every layer."""
    from scapy.all import Raw, conf

    try:
        text = str(conf.l2types.num2layer.get(linktype, Raw)(frame).show(dump=True))
    except Exception as error:  # its parsers are many, and raise what they like
        text = f"scapy cannot dissect it: {error!r}"
    return "".join(f"\t{printable(line)}\n" for line in text.splitlines())


class Top:
    """Bytes and packets by protocol, address and conversation; when there are too many, those of fewest bytes go."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}

    def add(self, found: Found, length: int) -> None:
        proto, src, dst = found["proto"], found.get("src"), found.get("dst")
        keys = [("protocol", proto)]
        if src and dst:
            keys += [("address", each) for each in {src, dst}]
            keys.append(("conversation", f"{proto} {' <> '.join(sorted((src, dst)))}"))
        for key in keys:
            count = self._counts.setdefault(key, [0, 0])
            count[0] += length
            count[1] += 1
        if len(self._counts) > KEPT_COUNTS:
            self._counts = dict(self._sorted()[: KEPT_COUNTS // 2])

    def _sorted(self) -> list[tuple[tuple[str, str], list[int]]]:
        return sorted(self._counts.items(), key=lambda item: -item[1][0])

    def table(self, size: os.terminal_size) -> str:
        """As many rows as fit on the terminal."""
        rows, each, text = self._sorted(), max(1, (size.lines - 5) // 3), []
        for title in ("protocol", "address", "conversation"):
            shown = [(key[1], count[0], count[1]) for key, count in rows if key[0] == title][:each]
            wide = min(max([36, *(len(name) for name, _, _ in shown)]), max(12, size.columns - 40))
            text.append(f"{title:{wide}} {'packets':>11} {'bytes':>15}")
            for name, length, packets in shown:
                bar = "█" * round(length * max(0, size.columns - wide - 30) / (shown[0][1] or 1))
                name = name if len(name) <= wide else f"{name[: wide - 1]}…"
                text.append(f"{name:{wide}} {packets:11,} {length:15,} {bar}")
        return "\n".join(text)


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


class CaptureWriter:
    """Writes pcap; whatever happens, the file ends with a whole record."""

    def __init__(self, files: contextlib.ExitStack, path: str) -> None:
        self.file = files.enter_context(io.FileIO(1 if path == "-" else path, "w", closefd=path != "-"))
        self._linktype = -1

    def write(self, batch: list[Record], linktype: int, nano: bool) -> None:
        data = bytearray()
        if self._linktype < 0:
            self._linktype, self._scale = batch[0][2] if batch else linktype, 1 if nano else 1000
            if self._linktype < 0:
                return
            magic = 0xA1B23C4D if nano else 0xA1B2C3D4
            data += struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 262_144, self._linktype)
        alike = [*itertools.takewhile(lambda each: each[2] == self._linktype, batch)]
        for time_ns, length, _, _, frame in alike:
            second, fraction = divmod(time_ns, NANO)
            times, kept = (second & 0xFFFFFFFF, fraction // self._scale), len(frame)
            data += struct.pack("<IIII", *times, kept, max(length, kept)) + frame
        self._write(data)
        if len(alike) < len(batch):
            raise CaptureError("a pcap file has one link type, and here are several: -i or a filter may choose")

    def _write(self, data: bytearray) -> None:
        whole, left = os.fstat(self.file.fileno()).st_size, memoryview(data)
        try:
            while left:
                left = left[self.file.write(left) or 0 :]
        except (OSError, KeyboardInterrupt):
            with contextlib.suppress(OSError):  # a device
                self.file.truncate(whole)
            raise


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


def packets(source: CaptureFile | Live) -> Iterator[Packet]:
    for time_ns, length, linktype, name, frame in itertools.chain.from_iterable(source.batches()):
        yield decode(frame, linktype, time=time_ns / NANO, length=length, interface=name)


def capture(interface: str | None = None, filter: str = "", *, buffer_mib: int = 32) -> Iterator[Packet]:
    """The packets of an interface (default: the default route's; on Linux also "any") that a BPF filter lets through.

    It does not end by itself: leave the loop, or close() it. Raises CaptureError.
    """
    with contextlib.ExitStack() as files:
        yield from packets(Live(files, interface, filter, buffer_mib << 20))


def read(path: str, filter: str = "") -> Iterator[Packet]:
    """The packets of a capture file that a BPF filter lets through. Raises CaptureError and OSError."""
    with contextlib.ExitStack() as files:
        yield from packets(CaptureFile(files, path, filter))


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


SWITCHES = {
    "-D": "list the interfaces",
    "-v": "below each line, every field that scapy knows; slow",
    "--json": "print a JSON object for each packet",
    "--top": "count by protocol, address and conversation",
    "--print": "print the packets with -w or --top, too",
    "-n": "for tcpdump's habit: names are never looked up",
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser()
    add, seconds = parser.add_argument, partial(bounded, float, 0.01, 86_400)
    add("-i", metavar="IFACE", help="the interface, or any (the default route's)")
    add("-r", metavar="FILE", help="read a capture file instead; - is standard input")
    add("-c", type=partial(bounded, int, 1, sys.maxsize), metavar="COUNT", help="stop after so many packets")
    add("--duration", type=seconds, metavar="SECONDS", help="stop after so many seconds")
    add("-w", metavar="FILE", help="write the packets to a pcap file; - is standard output")
    for flag, text in SWITCHES.items():
        add(flag, action="store_true", help=text)
    dumps = parser.add_mutually_exclusive_group()
    dumps.add_argument("-x", action="store_true", help="below each line, the frame in hex and ASCII")
    dumps.add_argument("-A", action="store_true", help="below each line, the frame as text")
    add("--buffer", type=partial(bounded, int, 1, 1023), default=32, metavar="MIB", help="of the kernel (%(default)s)")
    add("--user", metavar="NAME", help="whom to become once all is open (with sudo: who called it)")
    add("filter", nargs="*", metavar="FILTER", help="a BPF expression, as in pcap-filter(7)")
    args = parser.parse_args(argv)
    if args.w == "-" and (args.print or args.top):
        parser.error("-w - leaves no room for --print and --top")
    if args.r is not None and args.i is not None:
        parser.error("-r does not go with -i")
    if args.json and (args.x or args.A or args.v or args.top):
        parser.error("--json leaves no room for -x, -A, -v and --top")
    return args


def list_interfaces() -> None:
    conf = scapy_conf()
    for each in conf.ifaces.values():
        addresses = ", ".join(address for family in each.ips.values() for address in family)
        default = " (default)" if each.name == str(conf.iface) else ""
        print(f"{printable(each.name)} {addresses}".rstrip() + default)


def as_shown(args: argparse.Namespace, record: Record, found: Found) -> str:
    text = to_json(record, found) if args.json else format_line(record, found)
    for wanted, more in ((args.x, as_hex), (args.A, as_ascii), (args.v, partial(as_dissected, record[2]))):
        text += more(record[4]) if wanted else ""
    return text


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


class Output:
    """Where batches of packets go: lines, the table, the file; and what is said of them."""

    def __init__(self, args: argparse.Namespace, source: CaptureFile | Live, writer: CaptureWriter | None) -> None:
        self._args, self._source, self._writer, self._top = args, source, writer, Top() if args.top else None
        self._show = partial(as_shown, args) if args.x or args.A or args.v else to_json if args.json else format_line
        self._lines = args.print or not (args.top or args.w)
        self._refreshes = (
            args.top and not self._lines and sys.stdout and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        )
        self._captured, self._looked_at, self._warned_at, self._drops = 0, 0.0, 0.0, 0

    def run(self, stop: Stop) -> None:
        try:
            for batch in stop.until(showing_progress(self._source)):
                self._take(batch[: self._args.c - self._captured] if self._args.c else batch)
                if self._captured == self._args.c:
                    break
                now = time.monotonic()
                if now - self._looked_at >= TICK_S:
                    self._looked_at = now
                    if self._refreshes:
                        self._draw()
                    self._warn(now)
        finally:
            self._draw()
            dropped = "" if self._args.r else f"\n{self._source.drops()} packets dropped by kernel"
            tell(f"{self._captured} packet{'s' * (self._captured != 1)} captured{dropped}")

    def _take(self, batch: list[Record]) -> None:
        self._captured += len(batch)
        if self._writer:
            self._writer.write(batch, self._source.linktype, self._source.nano)
        if not self._lines and not self._top:
            return
        known = [(record, dissect(record[4], record[2], record[1])) for record in batch]
        if self._top:
            for record, found in known:
                self._top.add(found, record[1])
        if self._lines and batch:
            with output_errors():
                print("".join([self._show(*each) for each in known]), end="", flush=True)

    def _warn(self, now: float) -> None:
        if now - self._warned_at >= 3 and (drops := self._source.drops()) > self._drops:
            self._warned_at, self._drops = now, drops
            print_message("warning", f"the kernel dropped {drops} packets so far: a filter, -w or --buffer may help")

    def _draw(self) -> None:
        if self._top:
            with output_errors():
                start = "\x1b[H\x1b[J" if self._refreshes else ""
                print(start + self._top.table(shutil.get_terminal_size()), flush=True)


def tell(message: str) -> None:
    if sys.stderr:
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> None:
    expression, stop = " ".join(args.filter), Stop(args.duration)
    with contextlib.ExitStack() as files:
        with stop:
            live = Live(files, args.i, expression, args.buffer << 20) if args.r is None else None
            source = live or CaptureFile(files, args.r, expression)
        if args.r and args.w and os.path.exists(args.w) and os.path.samefile(args.r, args.w):
            raise CaptureError("-w would overwrite it while it is read")
        writer = None if args.w is None else CaptureWriter(files, args.w)
        if writer:
            writer.write([], source.linktype, source.nano)  # the header: a file without packets is one, too
        if args.v:
            print_message(
                "info", "-v dissects every field of every packet: slow" + ", and packets may be lost" * bool(live)
            )
            as_dissected(RAW, b"")  # loads scapy while it may be read
        if said := drop_privileges(args.user, writer.file.fileno() if writer and args.w != "-" else None):
            print_message("info", said)
        if live:
            tell(f"Starting packet capture on {printable(live.interface)}... Press Ctrl+C to stop.")
        Output(args, source, writer).run(stop)
        if writer:
            writer.write([], ETHERNET, False)  # a pcapng file without packets becomes a pcap file without


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's alphabet lacks a letter
    logging.getLogger("scapy.runtime").setLevel(logging.CRITICAL)  # what fails, is said here
    try:
        if args.D:
            with output_errors():
                list_interfaces()
        else:
            run(args)
        return 0
    except (KeyboardInterrupt, BrokenPipeError):
        return 0  # what was to be read or done is not needed any more: a signal, or -w - | head
    except ImportError:
        print_message("error", "it needs scapy: pip install scapy")
    except CaptureError as error:
        print_message("error", printable(f"{args.r}: {error}" if args.r else str(error)))
    except OSError as error:
        print_message("error", printable(f"{error.filename or f'cannot write {args.w}'}: {error.strerror}"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
