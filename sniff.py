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
  sudo python sniff.py                        the default interface, until Ctrl+C
  sudo python sniff.py -i any -c 10 port 53   ten packets to or from port 53, on every interface
  sudo python sniff.py -w out.pcap --print    keep them in a file, and show them, too
  python sniff.py -r out.pcap --json 'tcp[tcpflags] & tcp-syn != 0'
  sudo python sniff.py --top                  protocols, addresses and conversations by their bytes

with --json, each line has time (epoch seconds), proto and length; where there are such, src, dst, sport, dport,
flags, info, vlan (several tags: a list), fragment (its offset), interface; and true in truncated or malformed.

what the ten-line version gets wrong:
  It loses most packets and does not say so: dissecting all of each one, it manages a few thousand a second.
  It is blind to IPv6, to ARP, and to whatever else it did not ask for by name.
  It keeps every packet in memory, until there is none left.
  It runs as root to the end, with a parser for hundreds of protocols open to whoever sends a packet.
  It prints what the wire says: an escape sequence in a packet reaches the terminal.
"""

import argparse
import contextlib
import ctypes
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
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

__all__ = ["CaptureError", "Packet", "capture", "decode", "read"]

PROGRAM = os.path.basename(__file__)
CHUNK_BYTES = 65_536  # of a file at once: some hundred packets, and as many lines in one write
MAX_RECORD_BYTES = 16_777_216  # of a file: a longer one is damaged
MAX_FRAME_BYTES = 66_000  # over the largest frame of the loopback interface, 65,550
BATCH = 512  # packets from a socket before their lines are written
TICK_S = 1.0  # how often --top is drawn, and drops are looked for
WARN_S = 3.0  # between two warnings of drops
KEPT_COUNTS = 20_000  # addresses and conversations that --top remembers: half as many after a thinning
DAY_S = 86_400.0
ON_LINUX = sys.platform == "linux"
NANO = 1_000_000_000

# Numbers of Linux that the socket module does not name (packet(7); include/uapi/linux/if_packet.h, if_arp.h).
SOL_PACKET, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 6, 8, 23
SO_RCVBUFFORCE, SO_TIMESTAMPNS, ARPHRD_LOOPBACK, OUTGOING = 33, 35, 772, 4
VLAN_VALID, TPID_VALID = 0x10, 0x40

# Link types (https://www.tcpdump.org/linktypes.html), Ethernet types, IP protocols, ICMP types (IANA's registries)
ETHERNET, RAW, SLL2 = 1, 101, 276
IPV4, IPV6, ARP, VLANS = 0x0800, 0x86DD, 0x0806, (0x8100, 0x88A8, 0x9100)
ETHERTYPES = {0x88CC: "LLDP", 0x888E: "EAPOL", 0x8847: "MPLS", 0x8863: "PPPoE-D", 0x8864: "PPPoE", 0x88F7: "PTP"}
PROTOCOLS = {
    1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "IPv6-in-IP", 47: "GRE", 50: "ESP", 51: "AH",
    58: "ICMPv6", 89: "OSPF", 103: "PIM", 112: "VRRP", 132: "SCTP", 136: "UDPLite",
}  # fmt: skip
WITH_PORTS = (6, 17, 132, 136)
EXTENSIONS = (0, 43, 44, 51, 60, 135)  # of IPv6; 44 is a fragment's, 51 counts its length otherwise
ICMP = {
    0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request",
    9: "router advertisement", 10: "router solicitation", 11: "time exceeded", 12: "parameter problem",
    13: "timestamp request", 14: "timestamp reply", 17: "address mask request", 18: "address mask reply",
}  # fmt: skip
ICMP6 = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request",
    129: "echo reply", 130: "listener query", 131: "listener report", 132: "listener done",
    133: "router solicitation", 134: "router advertisement", 135: "neighbor solicitation",
    136: "neighbor advertisement", 137: "redirect", 143: "listener report v2",
}  # fmt: skip
ICMP_CODES = {
    3: ["network", "host", "protocol", "port", "fragmentation needed", "source route failed", "network unknown",
        "host unknown", "source isolated", "network prohibited", "host prohibited", "network for this service",
        "host for this service", "administratively prohibited", "host precedence", "precedence cutoff"],
    5: ["network", "host", "service and network", "service and host"],
    11: ["in transit", "in reassembly"],
    12: ["pointer", "missing option", "bad length"],
}  # fmt: skip
ICMP6_CODES = {
    1: ["no route", "administratively prohibited", "beyond scope", "address", "port", "policy", "route rejected"],
    3: ["in transit", "in reassembly"],
    4: ["header field", "next header", "option"],
}  # fmt: skip
BITS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE")  # RFC 9293 section 3.1, RFC 9768
FLAGS = [", ".join(name for bit, name in enumerate(BITS) if bits >> bit & 1) or "none" for bits in range(512)]
NOTES = {
    "flags": " [%s]", "info": " %s", "vlan": " vlan %s", "fragment": " fragment at %s",
    "truncated": " [truncated]%.0s", "malformed": " [malformed]%.0s",
}  # fmt: skip
PCAPNG = b"\n\r\r\n"
# Of pcap, in either byte order: microseconds, nanoseconds
MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1),
}  # fmt: skip
NOT_ROOT = "it needs root: use sudo; or setcap cap_net_raw=ep PYTHON, once, and any script of any user may capture"
DOTS = bytes(byte if 32 <= byte < 127 else ord(".") for byte in range(256))

Found = dict[str, Any]  # what is known of a packet: the names are Packet's
Record = tuple[int, int, int, str | None, bytes]  # time in ns, length on the wire, link type, interface, frame


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
    vlan: int | list[int] | None = None
    fragment: int | None = None
    interface: str | None = None
    truncated: bool = False
    malformed: bool = False


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
    found: Found = {"proto": f"link type {linktype}"}
    try:
        if linktype in LINKS:
            LINKS[linktype](found, frame)
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
    found["proto"] = "Ethernet" if size == 14 else "cooked"
    if not network(found, frame, take_16(frame, kind_at)[0], size) and size == 14:
        found["src"], found["dst"] = frame[6:12].hex(":"), frame[:6].hex(":")


def loopback(found: Found, frame: bytes) -> None:
    """BSD's: the address family, in LOOP big-endian, in NULL as in the machine that wrote it."""
    family = max(take_tag(frame))  # the other half is 0
    family = family >> 8 if family > 255 else family
    found["proto"] = f"family {family}"
    kind = {2: IPV4, 10: IPV6, 24: IPV6, 28: IPV6, 30: IPV6}.get(family)  # BSDs, macOS and Linux differ
    if kind:
        network(found, frame, kind, 4)


def raw_ip(found: Found, frame: bytes) -> None:
    found["proto"] = "IP"
    (ipv6 if frame[0] >> 4 == 6 else ipv4)(found, frame, 0)


def network(found: Found, frame: bytes, kind: int, at: int) -> bool:
    """What follows an Ethernet type; False if that is not known."""
    tags: list[int] = []
    while kind in VLANS:
        tag, kind = take_tag(frame, at)
        tags.append(tag & 0xFFF)
        found["vlan"] = tags if tags[1:] else tags[0]
        at += 4
    if kind in NETWORKS:
        NETWORKS[kind](found, frame, at)
    else:
        found["proto"] = ETHERTYPES.get(kind) or (f"0x{kind:04x}" if kind >= 0x0600 else "802.3")
    return kind in NETWORKS


def arp(found: Found, frame: bytes, at: int) -> None:
    """RFC 826, for IPv4."""
    found["proto"] = "ARP"
    _, kind, long, short, operation = struct.unpack_from("!HHBBH", frame, at)
    found["info"] = f"operation {operation}"
    if (kind, short) == (IPV4, 4):
        form = f"!{long}s4s{long}s4s"
        hardware, sender, _, target = struct.unpack_from(form, frame, at + 8)
        src, dst = found["src"], found["dst"] = socket.inet_ntoa(sender), socket.inet_ntoa(target)
        said = {1: f"who-has {dst} tell {src}", 2: f"{src} is-at {hardware.hex(':')}"}
        found["info"] = said.get(operation, found["info"])


def ipv4(found: Found, frame: bytes, at: int) -> None:
    found["proto"] = "IPv4"
    first, total, fragment, protocol = take_ipv4(frame, at)
    start, end = at + (first & 15) * 4, at + total
    if first >> 4 != 4 or start < at + 20 or 0 < end - at < start - at:
        raise ValueError
    if not total:
        end = len(frame)  # larger than the field can say, before segmentation offload
    if fragment & 0x3FFF:
        found["fragment"] = (fragment & 0x1FFF) * 8
    transport(found, frame[:end], frame[at + 12 : at + 20], protocol, start, end)


def ipv6(found: Found, frame: bytes, at: int) -> None:
    """RFC 8200, through the extension headers."""
    found["proto"] = "IPv6"
    first, total, protocol = take_ipv6(frame, at)
    addresses, at = frame[at + 8 : at + 40], at + 40
    if first >> 4 != 6:
        raise ValueError
    found.update(ends(addresses, b""))
    end = at + total if total else len(frame)  # a jumbogram, or as above
    while protocol in EXTENSIONS and not found.get("fragment"):
        following, size = struct.unpack_from("!BB", frame, at)
        if protocol == 44:
            found["fragment"] = take_16(frame, at + 2)[0] & 0xFFF8
            size = 0
        at += (size + 2) * 4 if protocol == 51 else (size + 1) * 8
        protocol = following
    transport(found, frame[:end], addresses, protocol, at, end)


def transport(found: Found, packet: bytes, addresses: bytes, protocol: int, at: int, end: int) -> None:
    """What IP carries. Only a packet's first fragment has ports."""
    found["proto"] = PROTOCOLS.get(protocol) or f"IP protocol {protocol}"
    if len(packet) < end:
        found["malformed"] = True
    if found.get("fragment"):
        found.update(ends(addresses, b""))
        return
    found.update(ends(addresses, packet[at : at + 4] if protocol in WITH_PORTS else b""))
    if protocol in TRANSPORTS:
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


def icmp(names: dict[int, str], codes: dict[int, list[str]], found: Found, packet: bytes, at: int) -> None:
    kind, code = struct.unpack_from("!BBxx", packet, at)
    found["info"] = names.get(kind, f"type {kind}")
    if code < len(codes.get(kind, "")):
        found["info"] += f", {codes[kind][code]}"
    elif code:
        found["info"] += f", code {code}"


TRANSPORTS: dict[int, Callable[[Found, bytes, int], None]] = {6: tcp, 17: udp, 136: udp}
TRANSPORTS |= {1: partial(icmp, ICMP, ICMP_CODES), 58: partial(icmp, ICMP6, ICMP6_CODES)}
NETWORKS = {IPV4: ipv4, IPV6: ipv6, ARP: arp}
LINKS: dict[int, Callable[[Found, bytes], None]] = {
    ETHERNET: partial(typed, 12, 14), 113: partial(typed, 14, 16), SLL2: partial(typed, 0, 20),
    0: loopback, 108: loopback, 12: raw_ip, 14: raw_ip, RAW: raw_ip,
    228: lambda found, frame: ipv4(found, frame, 0), 229: lambda found, frame: ipv6(found, frame, 0),
}  # fmt: skip


def format_line(record: Record, found: Found) -> str:
    """A packet as a person reads it. Nothing in `found` comes from the wire but numbers and what we call them."""
    time_ns, length, _, interface, _ = record
    second, fraction = divmod(time_ns, NANO)
    get = found.get
    notes = "".join([NOTES[key] % found[key] for key in found if key in NOTES])
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
    try:
        return time.strftime("%H:%M:%S", time.localtime(second))
    except (ValueError, OverflowError, OSError):
        return str(second)  # a file may say any time


def format_address(address: tuple[Any, ...]) -> str:
    """An address as URLs have it: 127.0.0.1:80, [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal or forge a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def to_json(record: Record, found: Found) -> str:
    named = {"interface": record[3]} if record[3] else {}
    return json.dumps({"time": record[0] / NANO, "length": record[1], **found, **named}) + "\n"


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
    """Packets and bytes by protocol, address and conversation; when there are too many, those of fewest bytes go."""

    def __init__(self) -> None:
        self._packets: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()

    def add(self, found: Found, length: int) -> None:
        proto, src, dst = found["proto"], found.get("src"), found.get("dst")
        keys = [("protocol", proto)]
        if src and dst:
            keys += [("address", each) for each in {src, dst}]
            keys.append(("conversation", f"{proto} {' <> '.join(sorted((src, dst)))}"))
        for key in keys:
            self._packets[key] += 1
            self._bytes[key] += length
        if len(self._bytes) > KEPT_COUNTS:
            self._bytes = Counter(dict(self._bytes.most_common(KEPT_COUNTS // 2)))
            self._packets = Counter({key: self._packets[key] for key in self._bytes})

    def table(self, size: os.terminal_size) -> str:
        """As many rows as fit on the terminal."""
        rows, text = self._bytes.most_common(), []
        for title in ("protocol", "address", "conversation"):
            shown = [(key, length) for key, length in rows if key[0] == title][: max(1, (size.lines - 5) // 3)]
            wide = max([36, *(len(name) for (_, name), _ in shown)])
            text.append(f"{title:{wide}} {'packets':>11} {'bytes':>15}")
            for key, length in shown:
                bar = "█" * round(length * max(8, size.columns - wide - 30) / (shown[0][1] or 1))
                text.append(f"{key[1]:{wide}} {self._packets[key]:11,} {length:15,} {bar}")
        return "\n".join(text)


class Stop:
    """What ends a capture from outside: a signal, which must wake the one who waits, or the end of --duration."""

    def __init__(self, duration_s: float | None = None) -> None:
        self.asked = False
        self._deadline = None if duration_s is None else time.monotonic() + duration_s
        self._wake_end, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def on_signals(self) -> None:
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)  # one just before select() ends it, too
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self.ask)

    def ask(self, *_: object) -> None:
        self.asked = True

    def wait(self, source: Any) -> bool:
        """Wait for a moment; True if `source` can be read."""
        left_s = TICK_S if self._deadline is None else min(TICK_S, self._deadline - time.monotonic())
        ready = select.select([source, self._wake_end], [], [], max(0.0, left_s))[0]
        self.asked = self.asked or left_s <= 0
        return source in ready

    def close(self) -> None:
        self._wake_end.close()
        self._waker.close()


@lru_cache(16)
def compile_filter(expression: str, linktype: int) -> Callable[[bytes, int], int]:
    """A function of a frame and its length that runs a BPF expression in libpcap. Raises CaptureError."""
    from scapy.arch.common import compile_filter
    from scapy.error import Scapy_Exception
    from scapy.libs.winpcapy import _lib, pcap_pkthdr

    skip = 4 if linktype in (0, 108) else 0  # libpcap knows of BSD's families only its own system's
    try:
        program = compile_filter(expression, linktype=12 if skip else linktype)
    except (Scapy_Exception, OSError, ValueError) as error:
        raise CaptureError(printable(str(error))) from None
    number, address = ctypes.c_int, ctypes.c_void_p
    run = ctypes.CFUNCTYPE(number, address, address, ctypes.c_char_p)(("pcap_offline_filter", _lib))
    header = pcap_pkthdr()

    def matches(frame: bytes, length: int) -> int:
        header.caplen, header.len = len(frame) - skip, length - skip
        return len(frame) >= skip and run(ctypes.byref(program), ctypes.byref(header), frame[skip:])

    return matches


class CaptureFile:
    """A pcap or pcapng file, also one packed by gzip; "-" is standard input. Raises CaptureError and OSError."""

    linktype, nano, interface = -1, False, ""

    def __init__(self, path: str, expression: str, stop: Stop) -> None:
        self._file = io.FileIO(0 if path == "-" else path, closefd=path != "-")
        self._stop = None if os.path.isfile(path) else stop  # a pipe may have nothing to read for long
        self._expression, self._order, self._interfaces = expression, "<", list[tuple[int, int]]()
        self._next: Callable[[bytes, int, list[Record]], int] = self._block
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._begin()
            on_failure.pop_all()

    def _begin(self) -> None:
        """Read what the file begins with."""
        self._chunks = self._unpacked()
        self._data = next((data for data in itertools.accumulate(self._chunks) if len(data) >= 24), b"")
        if self._data[:4] != PCAPNG:
            self._next, magic = self._record, MAGICS.get(self._data[:4])
            if not magic:
                raise CaptureError("no capture file: neither pcap nor pcapng")
            self._order, self._scale = magic
            self.nano, self._numbers = self._scale == 1, struct.Struct(self._order + "IIII").unpack_from
            self.linktype = struct.unpack_from(self._order + "I", self._data, 20)[0] & 0x0FFFFFFF
            self._data = self._data[24:]
            self._choose([(0, 0, self.linktype, None, b"")])  # a bad filter is told at once

    def batches(self) -> Iterator[list[Record]]:
        data = self._data
        for chunk in itertools.chain([b""], self._chunks):
            data += chunk
            at, batch = 0, list[Record]()
            try:
                while after := self._next(data, at, batch):
                    at = after
            except (struct.error, IndexError):
                raise CaptureError("the file is damaged") from None
            data = data[at:]
            yield self._choose(batch)
        if data:
            raise CaptureError("the file is cut off in the middle of a packet")

    def _choose(self, batch: list[Record]) -> list[Record]:
        what = self._expression
        return [each for each in batch if compile_filter(what, each[2])(each[4], each[1])] if what else batch

    def _unpacked(self) -> Iterator[bytes]:
        """What is in the file, as it comes."""
        raw = iter(self._read, b"")
        head = next((head for head in itertools.accumulate(raw) if len(head) > 1), b"")
        if head[:2] != b"\x1f\x8b":
            yield from itertools.chain([head], raw)
            return
        unpack = zlib.decompressobj(31)
        try:
            for chunk in itertools.chain([head], raw):
                while chunk:
                    unpack = zlib.decompressobj(31) if unpack.eof else unpack  # several, one after the other
                    yield unpack.decompress(chunk, CHUNK_BYTES)
                    chunk = unpack.unconsumed_tail or unpack.unused_data
            yield unpack.flush()
        except zlib.error:
            raise CaptureError("the file is damaged: gzip cannot unpack it") from None
        if not unpack.eof:
            raise CaptureError("the file is cut off")

    def _read(self) -> bytes:
        while self._stop and not self._stop.wait(self._file):
            if self._stop.asked:
                return b""
        return self._file.read(CHUNK_BYTES) or b""

    def _record(self, data: bytes, at: int, batch: list[Record]) -> int:
        """Where the record after this one begins, 0 if this one is not all there yet."""
        if len(data) < at + 16:
            return 0
        second, fraction, kept, length = self._numbers(data, at)
        end: int = at + 16 + kept
        if kept > MAX_RECORD_BYTES:
            raise IndexError
        if len(data) < end:
            return 0
        batch.append((second * NANO + fraction * self._scale, length, self.linktype, None, data[at + 16 : end]))
        return end

    def _block(self, data: bytes, at: int, batch: list[Record]) -> int:
        """The same for pcapng (draft-ietf-opsawg-pcapng)."""
        if len(data) < at + 12:
            return 0
        if data[at : at + 4] == PCAPNG:
            self._order, self._interfaces = "<" if data[at + 8] == 0x4D else ">", []
        kind, size = map(int, struct.unpack_from(self._order + "II", data, at))
        if size < 12 or size % 4 or size > MAX_RECORD_BYTES:
            raise IndexError
        if len(data) < at + size:
            return 0
        body = data[at + 8 : at + size - 4]
        if kind == 1:
            self._interfaces.append((struct.unpack_from(self._order + "H", body)[0], self._ticks(body)))
        elif kind in (2, 6):  # 2 is obsolete
            number, high, low, kept, length = struct.unpack_from(self._order + ("5I" if kind == 6 else "HxxIIII"), body)
            linktype, ticks = self._interfaces[number]
            batch.append(((high << 32 | low) * NANO // ticks, length, linktype, None, body[20 : 20 + kept]))
        elif kind == 3:  # a simple one: no time, and what is not padding is the packet
            length = int(struct.unpack_from(self._order + "I", body)[0])
            batch.append((0, length, self._interfaces[0][0], None, body[4 : 4 + length]))
        return at + size

    def _ticks(self, body: bytes) -> int:
        """In a second, from an interface's options."""
        at, ticks = 8, 1_000_000
        while at + 4 <= len(body):
            code, size = struct.unpack_from(self._order + "HH", body, at)
            if code == 9:
                ticks = 2 ** (body[at + 4] & 127) if body[at + 4] & 128 else 10 ** body[at + 4]
                self.nano = self.nano or ticks > 1_000_000
            at += 4 + size + -size % 4
        return ticks

    def drops(self) -> int:
        return 0

    def close(self) -> None:
        self._file.close()


class CaptureWriter:
    """Writes pcap; whatever happens, the file ends with a whole record."""

    def __init__(self, path: str) -> None:
        self.file = io.FileIO(1 if path == "-" else path, "w", closefd=path != "-")
        self._linktype = -1

    def close(self) -> None:
        self.file.close()

    def write(self, batch: list[Record], linktype: int, nano: bool) -> None:
        data, scale = bytearray(), 1 if nano else 1000
        if self._linktype < 0:
            self._linktype = linktype = batch[0][2] if batch else linktype
            magic = 0xA1B23C4D if nano else 0xA1B2C3D4
            data += struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 262_144, linktype) if linktype >= 0 else b""
        for time_ns, length, linktype, _, frame in batch:
            if linktype != self._linktype:
                raise CaptureError("pcap has one link type a file, and here are more: -r FILTER may choose")
            second, fraction = divmod(time_ns, NANO)
            data += struct.pack("<IIII", second & 0xFFFFFFFF, fraction // scale, len(frame), max(length, len(frame)))
            data += frame
        self._write(data)

    def _write(self, data: bytearray) -> None:
        whole, left = self.file.tell() if self.file.seekable() else 0, memoryview(data)
        try:
            while left:
                left = left[self.file.write(left) or 0 :]
        except OSError:
            with contextlib.suppress(OSError):  # a device
                self.file.truncate(whole)
            raise


class Live:
    """An interface, opened by scapy; on Linux, `any` is all of them. Raises CaptureError."""

    nano = False

    def __init__(self, interface: str | None, expression: str, buffer_bytes: int, stop: Stop) -> None:
        from scapy.error import Scapy_Exception

        self.interface, self._stop, self._dropped = pick_interface(interface), stop, 0
        self._matches: Callable[[bytes, int], int] | None = None
        self._socket: Any = None
        try:
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self.close)
                (self._open if ON_LINUX else self._open_elsewhere)(expression, buffer_bytes)
                on_failure.pop_all()
        except PermissionError:
            raise CaptureError(NOT_ROOT) from None
        except (Scapy_Exception, ValueError, OSError) as error:
            raise CaptureError(printable(str(error))) from None

    def _open(self, expression: str, buffer_bytes: int) -> None:
        from scapy.arch.linux import L2ListenSocket
        from scapy.data import ARPHRD_TO_DLT

        # A filter in the kernel sees neither a VLAN tag, which is kept beside the frame, nor an interface's link layer.
        late = expression and (self.interface == "any" or re.search(r"\bvlan\b", expression))
        if self.interface == "any":
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        else:
            self._opened: Any = L2ListenSocket(iface=self.interface, filter=None if late else expression or None)
            self._socket = self._opened.ins
        hardware = self._socket.getsockname()[3]
        self.linktype = SLL2 if self.interface == "any" else ARPHRD_TO_DLT.get(hardware, RAW)
        self.linktype = RAW if self.linktype == 12 else self.linktype
        self._matches = compile_filter(expression, self.linktype) if late else None
        put = self._socket.setsockopt
        put(SOL_PACKET, PACKET_AUXDATA, 1)
        put(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with contextlib.suppress(OSError):  # an old kernel: _receive() leaves out what goes out
            put(SOL_PACKET, PACKET_IGNORE_OUTGOING, int(hardware == ARPHRD_LOOPBACK))
        try:
            put(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        except PermissionError:
            put(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.drops()
        self._dropped = 0  # not counted: what came before there was a filter and a buffer

    def _open_elsewhere(self, expression: str, _: int) -> None:
        self._opened = self._socket = scapy_conf().L2listen(iface=self.interface, filter=expression or None)
        self.linktype = 0 if re.match("lo|utun|gif", self.interface) else ETHERNET

    def batches(self) -> Iterator[list[Record]]:
        receive = self._receive if ON_LINUX else self._receive_elsewhere
        while not self._stop.asked:
            try:
                batch = [*receive()]
            except OSError as error:  # it was switched off, or taken away
                raise CaptureError(f"{self.interface}: {error.strerror}") from None
            yield batch

    def _receive(self) -> Iterator[Record]:
        """What has arrived, after a moment at the latest."""
        if not self._stop.wait(self._socket):
            return
        cooks, receive = self.linktype == SLL2, self._socket.recvmsg
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                frame, control, _, address = receive(MAX_FRAME_BYTES, 128, socket.MSG_DONTWAIT)
                if address[2] == OUTGOING and address[3] == ARPHRD_LOOPBACK:
                    continue  # it comes in again
                time_ns, length, tag = read_control(control, len(frame))
                length += 4 if tag else 0
                if cooks:
                    frame, length = cook(frame, address, tag), length + 20
                elif tag:
                    frame = frame[:12] + tag + frame[12:]
                if not self._matches or self._matches(frame, length):
                    yield time_ns, length, self.linktype, address[0] if cooks else None, frame

    def _receive_elsewhere(self) -> Iterator[Record]:
        for each in self._opened.select([self._opened], 0.1):
            _, frame, when = each.recv_raw()
            if frame:
                yield int((when or time.time()) * NANO), len(frame), self.linktype, None, frame

    def drops(self) -> int:
        """What the kernel dropped so far; its own count begins anew when it is read."""
        if ON_LINUX:
            self._dropped += struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        return self._dropped

    def close(self) -> None:
        if self._socket:
            self._socket.close()


def read_control(control: list[tuple[int, int, bytes]], kept: int) -> tuple[int, int, bytes]:
    """From a frame's ancillary data its time in ns, its length on the wire, and the VLAN tag it had."""
    time_ns, length, tag = 0, kept, b""
    for level, kind, data in control:
        if level == SOL_PACKET:  # struct tpacket_auxdata
            status, length, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data)
            if status & VLAN_VALID:
                tag = struct.pack("!HH", tpid if status & TPID_VALID else VLANS[0], tci)
        elif kind == SO_TIMESTAMPNS:
            second, fraction = struct.unpack("ll", data)
            time_ns = second * NANO + fraction
    return time_ns, length, tag


def cook(payload: bytes, address: tuple[Any, ...], tag: bytes) -> bytes:
    """A frame of Linux cooked v2, from a packet and its socket address."""
    name, protocol, kind, hardware, link = address
    if tag:
        protocol, payload = VLANS[0], tag[2:] + struct.pack("!H", protocol) + payload
    return struct.pack("!HxxIHBB8s", protocol, index_of(name), hardware, kind, len(link), link) + payload


@lru_cache(512)
def index_of(interface: str) -> int:
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(interface)
    return 0  # it is gone


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
        raise CaptureError(f"no interface {printable(wanted)}; there are: {printable(', '.join(names))}")
    return wanted or str(conf.iface)


def packets(source: CaptureFile | Live) -> Iterator[Packet]:
    with contextlib.closing(source):
        for time_ns, length, linktype, name, frame in itertools.chain.from_iterable(source.batches()):
            yield decode(frame, linktype, time=time_ns / NANO, length=length, interface=name)


def capture(interface: str | None = None, filter: str = "", *, buffer_mib: int = 32) -> Iterator[Packet]:
    """The packets of an interface (default: the default route's; on Linux also "any") that a BPF filter lets through.

    It does not end by itself: leave the loop, or close() it. Raises CaptureError.
    """
    with contextlib.closing(Stop()) as stop:
        yield from packets(Live(interface, filter, buffer_mib << 20, stop))


def read(path: str, filter: str = "") -> Iterator[Packet]:
    """The packets of a capture file that a BPF filter lets through. Raises CaptureError and OSError."""
    with contextlib.closing(Stop()) as stop:
        yield from packets(CaptureFile(path, filter, stop))


def drop_privileges(user: str | None, output: CaptureWriter | None) -> str:
    """Become `user`, or the one who called sudo, and give them the output file; what came of it."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return ""
    import pwd

    try:
        uid, gid = pwd.getpwnam(user)[2:4] if user else (int(os.environ.get(f"SUDO_{id}", 0)) for id in ("UID", "GID"))
    except (KeyError, ValueError):
        raise CaptureError(f"no user {printable(user or 'SUDO_UID')}") from None
    if not uid:
        return ""
    if output and stat.S_ISREG(os.fstat(output.file.fileno()).st_mode):
        os.fchown(output.file.fileno(), uid, gid)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    return f"privileges given up, running as user {uid} and group {gid}"


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
    add("-i", metavar="IFACE", help="the interface, or any (the default route's)")
    add("-r", metavar="FILE", help="read a capture file instead; - is standard input")
    add("-c", type=partial(number, int, 1, sys.maxsize), metavar="COUNT", help="stop after so many packets")
    add("--duration", type=seconds, metavar="SECONDS", help="stop after so long")
    add("-w", metavar="FILE", help="write the packets to a pcap file; - is standard output")
    add("-D", action="store_true", help="list the interfaces")
    dumps = parser.add_mutually_exclusive_group()
    dumps.add_argument("-x", action="store_true", help="below each line, the frame in hex and ASCII")
    dumps.add_argument("-A", action="store_true", help="below each line, the frame as text")
    add("-v", action="store_true", help="below each line, every field that scapy knows; slow")
    add("--json", action="store_true", help="print an object a packet")
    add("--top", action="store_true", help="count by protocol, address and conversation")
    add("--print", action="store_true", help="print the packets with -w or --top, too")
    add("--buffer", type=partial(number, int, 1, 1023), default=32, metavar="MIB", help="of the kernel (%(default)s)")
    add("--user", metavar="NAME", help="whom to become once all is open (with sudo: who called it)")
    add("-n", action="store_true", help="for tcpdump's habit: names are never looked up")
    add("filter", nargs="*", metavar="FILTER", help="a BPF expression, as in pcap-filter(7)")
    args = parser.parse_args(argv)
    if args.w == "-" and (args.print or args.top):
        parser.error("-w - leaves no room for --print and --top")
    if args.r and (args.i or args.r == args.w != "-"):
        parser.error("-r goes neither with -i nor with -w to the same file")
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


class Output:
    """Where batches of packets go: lines, the table, the file."""

    def __init__(self, args: argparse.Namespace, writer: CaptureWriter | None) -> None:
        self.captured, self._writer, self._top = 0, writer, Top() if args.top else None
        plain = to_json if args.json else format_line
        self._show = partial(as_shown, args) if args.x or args.A or args.v else plain
        self._lines = args.print or not (args.top or args.w)
        self._refreshes = args.top and not self._lines and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn_at, self._warned_at, self._drops = 0.0, 0.0, 0

    def take(self, batch: list[Record], source: CaptureFile | Live) -> None:
        self.captured += len(batch)
        if self._writer:
            self._writer.write(batch, source.linktype, source.nano)
        if self._lines or self._top:
            known = [(record, dissect(record[4], record[2], record[1])) for record in batch]
            for record, found in known:
                if self._top:
                    self._top.add(found, record[1])
            if self._lines and batch:
                with writing():
                    print("".join([self._show(*each) for each in known]), end="", flush=True)
        now = time.monotonic()
        if self._refreshes and now - self._drawn_at >= TICK_S:
            self._drawn_at = now
            self.table()
        if now - self._warned_at >= WARN_S and (drops := source.drops()) > self._drops:
            self._warned_at, self._drops = now, drops
            complain("warning", f"the kernel dropped {drops} packets so far: a filter, -w or --buffer may help")

    def table(self) -> None:
        if self._top:
            with writing():
                start = "\x1b[H\x1b[J" if self._refreshes else ""
                print(start + self._top.table(shutil.get_terminal_size()), flush=True)


def run(args: argparse.Namespace, stop: Stop) -> None:
    expression, on_stderr = " ".join(args.filter), dict[str, Any](file=sys.stderr, flush=True)
    with contextlib.ExitStack() as files:
        source: CaptureFile | Live
        source = CaptureFile(args.r, expression, stop) if args.r else Live(args.i, expression, args.buffer << 20, stop)
        files.callback(source.close)
        writer = files.enter_context(contextlib.closing(CaptureWriter(args.w))) if args.w else None
        if args.v:
            complain("info", "-v dissects every field of every packet: slow, and packets may be lost")
            as_dissected(RAW, b"")  # loads scapy while it may be read
        if said := drop_privileges(args.user, writer):
            complain("info", said)
        if not args.r:
            print(f"Starting packet capture on {source.interface}... Press Ctrl+C to stop.", **on_stderr)
        output = Output(args, writer)
        try:
            for batch in source.batches():
                output.take(batch[: args.c - output.captured] if args.c else batch, source)
                if stop.asked or output.captured == args.c:
                    break
        finally:
            output.table()
            print(f"{output.captured} packets captured", **on_stderr)
            if not args.r:
                print(f"{source.drops()} packets dropped by kernel", **on_stderr)


def cause(error: Exception, args: argparse.Namespace) -> str:
    if isinstance(error, CaptureError):
        return f"{args.r}: {error}" if args.r else str(error)
    named = getattr(error, "filename", None) or f"cannot write {args.w}"
    return f"{named}: {getattr(error, 'strerror', error)}"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's alphabet lacks a letter
    logging.getLogger("scapy.runtime").setLevel(logging.CRITICAL)  # what fails, is said here
    stop = Stop(args.duration)
    try:
        with contextlib.closing(stop):
            if args.D:
                with writing():
                    list_interfaces()
                return 0
            with contextlib.suppress(ValueError):  # not the main thread, which alone has signals
                stop.on_signals()
            run(args, stop)
            return 0
    except ImportError:
        complain("error", "it needs scapy: pip install scapy")
    except BrokenPipeError:
        return 0  # -w - | head
    except (CaptureError, OSError) as error:
        if stop.asked and isinstance(error, CaptureError):
            return 0  # of what comes through a pipe, the rest is missing
        complain("error", printable(cause(error, args)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
