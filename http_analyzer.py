#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["scapy>=2.5"]
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
# scapy, which is imported at run time, is GPL-2.0-only: what is shipped together with it must comply.
"""Show the HTTP/1 exchanges on a network or in capture files: each request with its response. An exchange that is not
complete shows why. The program never pairs by guessing: if bytes are missing, it prints a request and a response
separately rather than as a wrong pair. It does not decrypt TLS and does not read HTTP/2; it counts their connections.

examples:
  sudo python http_analyzer.py                live capture until Ctrl+C
  sudo python http_analyzer.py tcp port 80    live capture of one port
  python http_analyzer.py -r a.pcap b.pcapng.gz --summary
  python http_analyzer.py -r a.pcap --save bodies
  python http_analyzer.py -r a.pcap --format har --bodies > a.har
  tcpdump -U -w - | python http_analyzer.py -r - --json
  python http_analyzer.py -r a.pcap --format combined |
    goaccess --log-format=COMBINED -
"""

import argparse
import base64
import codecs
import contextlib
import ctypes
import errno
import functools
import gzip
import heapq
import importlib
import io
import itertools
import json
import logging
import math
import os
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import sys
import textwrap
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

__all__ = ["Body", "CaptureError", "Exchange", "HTTPAnalyzer", "analyze"]
__version__ = "2.0.0"

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)

# Capture: files, interfaces and link layers. sniff.py and http_analyzer.py contain this region word for word.

NANO = 1_000_000_000
MAX_FRAME_BYTES = 262_144  # as in libpcap; a longer frame is damage
MAX_BLOCK_BYTES = 16_777_216  # a longer block of a pcapng file is damage
MAX_INTERFACES = 100_000  # interface blocks in a section of a pcapng file
MAX_LIVE_FRAME_BYTES = 66_000  # The loopback interface has frames of up to 65,550 bytes.
BATCH = 256  # packets that are read before they are printed
TICK_S = 0.25  # longest wait for packets before the stop flag is checked
ON_LINUX = sys.platform == "linux"
# Constants of Linux that the socket module lacks (packet(7), socket(7); include/uapi/linux/if_packet.h, if_arp.h).
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 1, 6, 8, 23
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS, SIOCGIFNETMASK = 26, 33, 35, 0x891B
ARPHRD_LOOPBACK, PACKET_OUTGOING = 772, 4
ETHERNET, RAW = 1, 101  # link types, see https://www.tcpdump.org/linktypes.html
# The link type for an ARPHRD_* number of Linux; it is RAW for all others.
LINKTYPE_OF = {1: ETHERNET, ARPHRD_LOOPBACK: ETHERNET, 801: 105, 803: 127}
IPV4, IPV6, MPLS, VLANS = 0x0800, 0x86DD, 0x8847, (0x8100, 0x88A8, 0x9100)  # EtherTypes
PCAPNG = b"\n\r\r\n"
# The magic number of a pcap file: the unit of its fractions of seconds in ns, and the format of a record's header.
PCAP_FORMATS = {0xA1B2C3D4: (1000, "IIII"), 0xA1B23C4D: (1, "IIII"), 0xA1B2CD34: (1000, "IIII8x")}
MAGICS = {struct.pack(order + "I", magic): (order, *PCAP_FORMATS[magic]) for order in "<>" for magic in PCAP_FORMATS}

Record = tuple[int, int, int, str | None, bytes]  # time in ns, length on the wire, link type, interface, frame


class CaptureError(Exception):
    """A file or an interface cannot be read, or not to its end. The text is for the user."""


class Stop:
    """A flag that Ctrl+C, SIGTERM or the end of --duration sets. It is checked between batches: no output is torn."""

    def __init__(self, duration_s: float | None = None) -> None:
        self._requested = False
        self._ends_at = time.monotonic() + (duration_s or math.inf)

    def catch_signals(self) -> None:
        with contextlib.suppress(ValueError):  # Only the main thread receives signals.
            signal.signal(signal.SIGINT, self._request)
            signal.signal(signal.SIGTERM, self._request)

    def _request(self, number: int, _: object) -> None:
        self._requested = True
        signal.signal(number, signal.SIG_DFL)  # A second signal ends the program at once.

    def __bool__(self) -> bool:
        return self._requested or time.monotonic() >= self._ends_at


@contextlib.contextmanager
def capture_errors(what: str) -> Iterator[None]:
    """Turn the errors of opening or reading `what` into CaptureError."""
    try:
        yield
    except PermissionError:
        if os.path.exists(what):
            raise
        command = shlex.join(["sudo", sys.executable, *sys.argv])
        raise CaptureError(f"capturing needs root, and in a container CAP_NET_RAW; run: {command}") from None
    except (OSError, ValueError) as error:
        raise CaptureError(f"{what}: {getattr(error, 'strerror', None) or error}") from None
    except (EOFError, zlib.error, struct.error, IndexError, OverflowError):
        raise CaptureError("the file is cut off or damaged; the packets before that were read") from None


def compile_filter(expression: str, linktype: int, netmask: int = 0) -> Any:
    """Return libpcap's BPF program for an expression (pcap-filter(7)). Raise CaptureError if there is none."""
    with capture_errors("a filter needs libpcap, which tcpdump and Wireshark install"):
        pcap: Any = importlib.import_module("scapy.libs.winpcapy")
    program = pcap.bpf_program()
    dlt = {14: 12, RAW: 12}.get(linktype, linktype)  # libpcap's number of raw IP
    handle = pcap.pcap_open_dead(dlt, MAX_FRAME_BYTES)
    failed = pcap.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1, netmask)
    message = bytes(pcap.pcap_geterr(handle)).decode(errors="replace")
    pcap.pcap_close(handle)
    if failed:
        raise CaptureError(f"the filter: {message}")
    return program


@functools.lru_cache(16)
def filter_function(expression: str, linktype: int) -> Callable[[bytes, int], int]:
    """Return a function of a frame and its length on the wire that applies a filter as tcpdump does to a file."""
    skip = 4 if linktype in (0, 108) else 0  # libpcap reads only the address families of its own system.
    program = compile_filter(expression, RAW if skip else linktype)
    from scapy.libs.winpcapy import _lib, pcap_pkthdr

    loads = [insn.k & 0xFFFFFFFF for insn in program.bf_insns[: program.bf_len] if insn.code & 0xE7 in (0x20, 0x21)]
    if max(loads, default=0) >= 0xFFFFF000:  # An ancillary load (SKF_AD_OFF) reads what only a live packet has.
        raise CaptureError("the filter: direction and interface are not recorded here")
    pointer = ctypes.c_void_p
    run = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, ctypes.c_char_p)(("pcap_offline_filter", _lib))
    header = pcap_pkthdr()

    def matches(frame: bytes, length: int) -> int:
        header.caplen, header.len = len(frame) - skip, length
        return len(frame) >= skip and run(ctypes.byref(program), ctypes.byref(header), frame[skip:])

    return matches


class Pipe(io.FileIO):
    """Standard input or a FIFO. A requested stop raises KeyboardInterrupt, because read() would continue to wait."""

    stop = Stop()

    def readinto(self, buffer: Any) -> int | None:
        ready = sys.platform == "win32"  # Its select() accepts only sockets.
        while not ready:
            ready = bool(select.select([self], [], [], TICK_S)[0])
            if self.stop:
                raise KeyboardInterrupt
        return super().readinto(buffer)


class CaptureFile:
    """A pcap or pcapng file, also compressed with gzip. "-" is standard input. Raises CaptureError and OSError."""

    interface = ""
    linktype = -1  # A pcapng file can have several link types.
    nano = False

    def __init__(self, files: contextlib.ExitStack, path: str, expression: str, stop: Stop) -> None:
        regular = os.path.isfile(path)
        self.raw = (io.FileIO if regular else Pipe)(0 if path == "-" else path, closefd=path != "-")
        self._file: Any = files.enter_context(io.BufferedReader(self.raw))
        self._expression = expression
        self._batch_size = BATCH if regular else 1  # Packets from a pipe are printed as they arrive.
        if isinstance(self.raw, Pipe):
            self.raw.stop = stop
        with capture_errors(path):
            if self._file.peek(1)[:1] == b"\x1f":
                self._file = gzip.GzipFile(fileobj=self._file)
            magic = self._file.read(4)
            if magic not in (PCAPNG, *MAGICS):
                raise CaptureError("not a capture file: neither pcap nor pcapng")
            self._records = self._pcapng() if magic == PCAPNG else self._pcap(*MAGICS[magic])
            if expression:  # An error in it is reported at once, and scapy is loaded before privileges are dropped.
                first = [*itertools.islice(self._records, 1)]
                filter_function(expression, first[0][2] if first else max(self.linktype, ETHERNET))
                self._records = itertools.chain(first, self._records)

    def batches(self) -> Iterator[list[Record]]:
        """Yield lists of packets. Raise CaptureError for damage, after the packets before it."""
        failure: CaptureError | None = None
        is_last = False
        while not is_last:
            batch = list[Record]()
            try:
                with capture_errors("the file"):
                    batch.extend(itertools.islice(self._records, self._batch_size))
            except CaptureError as error:
                failure = error
            is_last = len(batch) < self._batch_size
            if self._expression:
                batch = [item for item in batch if filter_function(self._expression, item[2])(item[4], item[1])]
            yield batch
        if failure:
            raise failure

    def _read(self, size: int) -> bytes:
        data = self._file.read(size) if size <= MAX_BLOCK_BYTES else b""
        if len(data) < size:
            raise EOFError
        return data

    def _pcap(self, order: str, unit: int, form: str) -> Iterator[Record]:
        """Read the header, and return the packets (draft-ietf-opsawg-pcap)."""
        self.linktype = struct.unpack(order + "16xI", self._read(20))[0] & 0x03FFFFFF
        self.nano = unit == 1
        return self._pcap_records(struct.Struct(order + form), unit)

    def _pcap_records(self, header: struct.Struct, unit: int) -> Iterator[Record]:
        read = self._file.read
        linktype = self.linktype
        unpack = header.unpack
        size = header.size
        while head := read(size):
            second, fraction, captured, length = unpack(head)
            frame = read(captured) if captured <= MAX_FRAME_BYTES else b""
            if len(frame) < captured:
                raise EOFError
            yield second * NANO + fraction * unit, length, linktype, None, frame

    def _pcapng(self) -> Iterator[Record]:
        """Yield the packets in the blocks of a pcapng file (draft-ietf-opsawg-pcapng)."""
        order = "<"
        interfaces = list[tuple[int, int, int, int]]()
        head = PCAPNG + self._read(8)
        while head:
            if head[:4] == PCAPNG:
                order = "<" if head[8] == 0x4D else ">"
                interfaces = []
            kind, size = struct.unpack_from(order + "II", head)
            if size < 12 or size % 4:
                raise EOFError
            body = (head[8:] + self._read(size - 12))[:-4]
            if kind == 1:
                interfaces.append(self._interface(order, body))
                if len(interfaces) > MAX_INTERFACES:
                    raise EOFError
            elif kind in (2, 6):  # an enhanced packet block, or the obsolete packet block
                fields = struct.unpack_from(order + ("5I" if kind == 6 else "HxxIIII"), body)
                yield self._packet(interfaces[fields[0]], body[20:], *fields[1:5])
            elif kind == 3:  # A simple packet block has no time and no captured length.
                (length,) = struct.unpack_from(order + "I", body)
                packet = self._packet(interfaces[0], body[4:], 0, 0, min(length, interfaces[0][1] or length), length)
                yield 0, *packet[1:]
            head = self._file.read(12)

    @staticmethod
    def _packet(
        interface: tuple[int, int, int, int], data: bytes, high: int, low: int, captured: int, length: int
    ) -> Record:
        linktype, _, ticks, offset_s = interface
        if captured > min(len(data), MAX_FRAME_BYTES):
            raise EOFError
        return (high << 32 | low) * NANO // ticks + offset_s * NANO, length, linktype, None, data[:captured]

    def _interface(self, order: str, body: bytes) -> tuple[int, int, int, int]:
        """Return link type, snapshot length, clock ticks in a second and offset in seconds of an interface block."""
        at = 8
        ticks = 1_000_000
        offset_s = 0
        while at + 4 <= len(body):
            code, size = struct.unpack_from(order + "HH", body, at)
            if code == 9:  # if_tsresol
                ticks = 2 ** (body[at + 4] & 127) if body[at + 4] & 128 else 10 ** body[at + 4]
                self.nano = self.nano or ticks > 1_000_000
            elif code == 14:  # if_tsoffset
                (offset_s,) = struct.unpack_from(order + "q", body, at + 4)
            at += 4 + size + -size % 4
        return *struct.unpack_from(order + "HxxI", body), ticks, offset_s

    def drops(self) -> int:
        return 0


class Live:
    """An interface of this machine; on Linux, "any" is all of them. Raises CaptureError."""

    raw = None
    nano = False

    def __init__(
        self, files: contextlib.ExitStack, interface: str | None, expression: str, buffer_bytes: int, promiscuous: bool
    ) -> None:
        self.interface = pick_interface(interface)
        self._drops = 0
        with capture_errors(self.interface):
            (self._open if ON_LINUX else self._open_elsewhere)(files, expression, buffer_bytes, promiscuous)

    def _open(self, files: contextlib.ExitStack, expression: str, buffer_bytes: int, promiscuous: bool) -> None:
        name = "" if self.interface == "any" else self.interface
        all_protocols = 0 if name else socket.htons(3)  # ETH_P_ALL
        self._socket: Any = files.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, all_protocols))
        put = self._socket.setsockopt
        if name:
            self._socket.bind((name, 0))  # Without a protocol, nothing is received before the filter is set.
        hardware = self._socket.getsockname()[3] if name else 1
        self.linktype = LINKTYPE_OF.get(hardware, RAW)
        self._by_tag = bool(re.search(r"\bvlan\b", expression))  # The kernel removes the tag before a filter sees it.
        self._late = expression if self._by_tag or not name else ""
        if self._late:
            filter_function(self._late, self.linktype)  # An error in it is reported at once.
        elif expression:
            program = compile_filter(expression, self.linktype, self._netmask(name))
            address = ctypes.addressof(program.bf_insns.contents)
            put(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", program.bf_len, address))
        put(SOL_PACKET, PACKET_AUXDATA, 1)
        put(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with contextlib.suppress(OSError):  # before Linux 4.20
            put(SOL_PACKET, PACKET_IGNORE_OUTGOING, int(hardware == ARPHRD_LOOPBACK))
        if name and promiscuous:  # struct packet_mreq
            put(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("iHH8x", socket.if_nametoindex(name), 1, 0))
        try:
            put(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        except PermissionError:
            put(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        if name:
            self._socket.bind((name, 3))
        self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # The counter of drops starts with the full buffer.

    def _netmask(self, name: str) -> int:
        """Return the IPv4 netmask of an interface as a number, which `ip broadcast` needs; 0 if it has none."""
        import fcntl

        with contextlib.suppress(OSError):
            reply = fcntl.ioctl(self._socket, SIOCGIFNETMASK, struct.pack("256s", name.encode()))
            return int.from_bytes(reply[20:24])
        return 0

    def _open_elsewhere(self, files: contextlib.ExitStack, expression: str, _: int, promiscuous: bool) -> None:
        from scapy.error import Scapy_Exception

        self.linktype = 0 if re.match("lo|utun|gif", self.interface) else ETHERNET
        if expression:
            compile_filter(expression, self.linktype)  # Some versions of scapy ignore an error in it.
        try:
            self._socket = scapy_conf().L2listen(iface=self.interface, filter=expression or None, promisc=promiscuous)
        except (Scapy_Exception, RuntimeError) as error:  # such as a missing right on macOS, or no Npcap on Windows
            raise (PermissionError if "ermission" in str(error) else OSError)(str(error)) from None
        files.callback(self._socket.close)

    def batches(self) -> Iterator[list[Record]]:
        """Yield lists of packets, after TICK_S at the latest. A list can be empty."""
        receive = self._receive if ON_LINUX else self._receive_elsewhere
        while True:
            with capture_errors(self.interface):
                batch = [*receive()]
            yield batch

    def _receive(self) -> Iterator[Record]:
        if not select.select([self._socket], [], [], TICK_S)[0]:
            return
        try:
            for _ in range(BATCH):
                frame, control, _, address = self._socket.recvmsg(MAX_LIVE_FRAME_BYTES, 128, socket.MSG_DONTWAIT)
                name, _, direction, hardware, _ = address
                if direction == PACKET_OUTGOING and hardware == ARPHRD_LOOPBACK:
                    continue  # The loopback interface delivers it a second time.
                linktype = LINKTYPE_OF.get(hardware, RAW)
                shown = name if self.interface == "any" else None
                time_ns, length, tag = read_control(control, len(frame))
                whole = frame[:12] + tag + frame[12:] if tag else frame
                judged = whole if self._by_tag else frame  # as in the kernel, without the tag
                if not self._late or filter_function(self._late, linktype)(judged, length):
                    yield time_ns, length + len(tag), linktype, shown, whole
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENETDOWN:
                raise
            socket.if_nametoindex(self.interface)  # It raises OSError if the interface has disappeared.
            log.info("%s is down; the capture continues when it is up", self.interface)

    def _receive_elsewhere(self) -> Iterator[Record]:
        for ready in self._socket.select([self._socket], TICK_S):
            _, frame, when = ready.recv_raw()
            if frame:
                yield int((when or time.time()) * NANO), len(frame), self.linktype, None, frame

    def drops(self) -> int:
        """Return how many packets the kernel has dropped. Reading its counter resets it."""
        if ON_LINUX:
            self._drops += struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        return self._drops


def read_control(control: list[tuple[int, int, bytes]], captured: int) -> tuple[int, int, bytes]:
    """Return time in ns, length on the wire and VLAN tag of a frame, from its ancillary data (packet(7))."""
    time_ns = 0
    length = captured
    tag = b""
    for level, kind, data in control:
        if level == SOL_PACKET:  # struct tpacket_auxdata
            status, length, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data)
            if status & 0x10:  # TP_STATUS_VLAN_VALID; 0x40 is TP_STATUS_VLAN_TPID_VALID.
                tag = struct.pack("!HH", tpid if status & 0x40 else VLANS[0], tci)
        elif kind == SO_TIMESTAMPNS:
            second, fraction = struct.unpack("ll", data)
            time_ns = second * NANO + fraction
    return time_ns, length, tag


@capture_errors("the interfaces")
def scapy_conf() -> Any:
    """Return scapy's settings: `ifaces` are the interfaces, `iface` is that of the default route."""
    import scapy.route  # noqa: F401 - It sets iface.
    from scapy.config import conf

    conf.ifaces.reload()
    return conf


@capture_errors("the interfaces")
def pick_interface(wanted: str | None) -> str:
    """Return an interface that exists. Raise CaptureError with the names of all interfaces if it does not."""
    conf = scapy_conf()
    if ON_LINUX:
        names = [*(name for _, name in socket.if_nameindex()), "any"]
    else:
        names = [one.name for one in conf.ifaces.values()]
    if wanted is not None and wanted not in names:
        raise CaptureError(f"there is no interface {wanted}; choose one of: {', '.join(names)}")
    return wanted or str(getattr(conf.iface, "name", conf.iface))


def check_first_word(words: list[str]) -> None:
    """Raise CaptureError if a filter begins with a file or an interface: the option -r or -i is missing."""
    first = words[0] if words else ""
    if re.search(r"\.(pcap|pcapng|cap|dump)(\.gz)?$|^[./~].*", first):
        raise CaptureError(f"{first} is not a filter; did you mean -r {shlex.quote(first)}?")
    with contextlib.suppress(OSError):  # Android does not show its interfaces to programs.
        if first in [name for _, name in socket.if_nameindex()]:
            raise CaptureError(f"{first} is not a filter; did you mean -i {first}?")


def drop_privileges(user: str | None, created: list[int]) -> str:
    """Become `user`, or the caller of sudo, after giving them the created files. Return a message, or ""."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return ""
    import pwd

    try:
        uid, gid = (pwd.getpwnam(user) if user else pwd.getpwuid(int(os.environ.get("SUDO_UID", 0))))[2:4]
    except (KeyError, ValueError, OverflowError):
        raise CaptureError(f"there is no user {user or 'SUDO_UID'}; check --user") from None
    if not uid:
        return ""
    codecs.lookup("unicode_escape")  # That user may not be allowed to read this Python's files.
    for descriptor in created:
        os.fchown(descriptor, uid, gid)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    return f"running as user {uid} and group {gid} from now on"


def read_raw(frame: bytes, at: int) -> tuple[int, int]:
    """Return the EtherType of the IP packet at an offset, from its version; 0 if there is no IP packet."""
    return {4: IPV4, 6: IPV6}.get(frame[at] >> 4, 0), at


def read_ethertype(frame: bytes, at: int) -> tuple[int, int]:
    """Return the EtherType at an offset and the offset of its payload, past LLC and SNAP (IEEE 802.2)."""
    (ethertype,) = struct.unpack_from("!H", frame, at)
    return (ethertype, at + 2) if ethertype > 1500 else read_llc(frame, at + 2)


def read_llc(frame: bytes, at: int) -> tuple[int, int]:
    if frame[at : at + 3] == b"\xaa\xaa\x03":  # SNAP
        return struct.unpack_from("!H", frame, at + 6)[0], at + 8
    return (IPV4, at + 3) if frame[at : at + 3] == b"\x06\x06\x03" else (0, at)


def read_ppp(frame: bytes, at: int = 0) -> tuple[int, int]:
    """Read the protocol of a PPP frame (RFC 1661), with or without the HDLC address."""
    at += 2 if frame[at] == 0xFF else 0
    size = 1 if frame[at] & 1 else 2  # RFC 1661 section 6.5: a compressed protocol is one odd byte.
    protocol = int.from_bytes(frame[at : at + size])
    return {0x21: IPV4, 0x57: IPV6, 0x281: MPLS, 0x283: MPLS}.get(protocol, 0), at + size


def read_wifi(frame: bytes, at: int = 0) -> tuple[int, int]:
    """Read an unencrypted data frame of IEEE 802.11-2020 section 9.3.2."""
    kind, flags = frame[at], frame[at + 1]
    at += 24 + 6 * (flags & 3 == 3) + (kind >> 7) * (2 + 4 * (flags >> 7))
    return read_llc(frame, at) if kind & 0x4C == 8 and not flags & 0x40 else (0, at)


def read_nflog(frame: bytes) -> tuple[int, int]:
    """Find the packet in the attributes of Linux' netfilter log (tcpdump.org/linktypes/LINKTYPE_NFLOG.html)."""
    at = 4
    while True:
        size, kind = struct.unpack_from("<HH", frame, at)
        if kind & 0x7FFF == 9:
            return read_raw(frame, at + 4)
        at += max(size + 3 & ~3, 4)


# By link type (tcpdump.org/linktypes.html): the name, and a function that returns the EtherType and the offset of its
# payload. The EtherType is 0 if it is not known. A short frame raises IndexError or struct.error.
LINK_LAYERS: dict[int, tuple[str, Callable[[bytes], tuple[int, int]]]] = {
    **dict.fromkeys((0, 108), ("BSD loopback", lambda frame: read_raw(frame, 4))),
    **dict.fromkeys((12, 14, RAW, 228, 229), ("raw IP", lambda frame: read_raw(frame, 0))),
    **dict.fromkeys((9, 50), ("PPP", read_ppp)),
    ETHERNET: ("Ethernet", lambda frame: read_ethertype(frame, 12)),
    104: ("Cisco HDLC", lambda frame: read_ethertype(frame, 2)),
    105: ("802.11", read_wifi),
    113: ("Linux cooked", lambda frame: read_ethertype(frame, 14)),
    127: ("radiotap", lambda frame: read_wifi(frame, frame[2] + 256 * frame[3])),
    239: ("NFLOG", read_nflog),
    276: ("Linux cooked v2", lambda frame: (read_ethertype(frame, 0)[0], 20)),
}


# Limits and constants.

MAX_ENCAPSULATIONS = 16  # headers between the link layer and TCP, such as VLAN tags, MPLS labels and tunnels
MAX_DATAGRAMS = 64  # IP datagrams that wait for fragments
MAX_FRAGMENTS = 256  # per datagram; at an MTU of 576 bytes, the longest datagram has 119
MAX_UNREAD_KINDS = 100  # kinds of frames that are counted one by one, because they cannot be read
MAX_HEAD_BYTES = 65_536  # the start line with its header lines; servers allow 8 to 64 KiB
MAX_LINE_BYTES = 4_096  # a chunk size with its extensions, or a start line after a gap
MAX_PROBE_BYTES = 65_536  # per direction, in which a connection must show its first HTTP message
MAX_OUT_OF_ORDER_BYTES = 1_048_576  # per connection; a large receive window (RFC 7323)
MAX_OUT_OF_ORDER_SEGMENTS = 1_024  # per connection
MAX_CONNECTIONS = 20_000  # each costs about 2 kB
MAX_BUFFERED_BYTES = 16_777_216  # out-of-order segments, incomplete heads and unprinted messages, all connections
MAX_BODIES_BYTES = 16_777_216  # all bodies that are kept for --bodies and --save
MAX_BODY_BYTES = 1_048_576  # the default of --max-body
MESSAGE_BYTES = 800  # memory that a message costs in addition to its head
SEGMENT_BYTES = 200  # memory that an out-of-order segment costs in addition to its payload
# Missing bytes count as lost after this number of segments or seconds, because captures reorder packets.
GRACE_SEGMENTS = 16
GRACE_S = 1.0
IDLE_S = 3_600.0  # A connection without a packet for so long is dropped. A long poll can take 20 minutes.
# A segment within this distance behind the end of a closed connection is a late one of that connection.
REUSE_BYTES = 16_777_216
RECEIVE_BUFFER_BYTES = 33_554_432  # of the kernel: some 40,000 packets
# The filter "tcp" would miss TCP inside VLANs, tunnels, IP fragments and IPv6 extension headers.
DEFAULT_FILTER = (
    "tcp or ip6 or ip proto 4 or ip proto 41 or ip proto 47 or ip proto 51 or ip proto 137"
    " or udp port 1701 or udp port 2152 or udp port 4789 or udp port 6081 or udp port 8472 or ip[6:2] & 0x3fff != 0"
    " or ether proto 0x8100 or ether proto 0x88a8 or ether proto 0x9100 or ether proto 0x9200"
    " or ether proto 0x8847 or ether proto 0x8848 or ether proto 0x8864 or ether[12:2] <= 1500"
)
MAX_HOSTS = 10_000  # The summary counts this many hosts one by one.
MAX_METHODS = 100  # The summary counts this many methods one by one.
MAX_URLS = 2_000  # The summary counts this many URLs one by one, with their response times.
MAX_URL_CHARACTERS = 300  # The summary prints this much of a URL.
MAX_NAME_BYTES = 255  # the limit for a file name on most file systems
LAST_TIME_S = float(1 << 34 if sys.maxsize > 1 << 32 else (1 << 31) - 1)  # On some 32-bit systems, time ends in 2038.
SWEEP_S = 1.0  # seconds between two updates of the progress and two searches for idle connections

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the text direction (UAX 9)
NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# The pattern also contains control characters, line and paragraph separators, surrogates and the byte order mark.
UNPRINTABLE = re.compile(f"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{BIDIRECTIONAL}{NONCHARACTERS}]+")


class Body(NamedTuple):
    """A message body without its chunked coding, and without gzip or another content coding that can be decoded.

    text is None if the body is not text. is_cut is True if a limit removed the end of the body.
    """

    data: bytes
    text: str | None
    is_cut: bool


class Exchange(NamedTuple):
    """A request and its response, with the keys of --json; None where a value is not known. Pass arguments by name.

    A frozen dataclass with as many fields would cost a seventh of the whole run time.
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
    request_body: Body | None = None
    response_body: Body | None = None


# Frames: from the link layer to the TCP segment.

BRIDGED_ETHERNET, PPP = 0x6558, 0x880B  # EtherTypes
ERSPAN = 0x88BE
TCP, UDP, FRAGMENT, NOTHING_TO_READ = 6, 17, 44, -1  # IP protocols; the last one stands for a payload without TCP


def read_mpls(frame: bytes, at: int) -> tuple[int, int]:
    """Skip MPLS labels (RFC 3032). A pseudowire (RFC 4448) carries Ethernet, often behind a control word of zeros."""
    while not frame[at + 2] & 1:
        at += 4
    at += 4
    if frame[at] >> 4 in (4, 6):
        return read_raw(frame, at)
    return BRIDGED_ETHERNET, at + 4 if frame[at : at + 2] == b"\0\0" else at


def read_gre(frame: bytes, at: int) -> tuple[int, int]:
    """Skip a GRE header with its optional fields (RFC 2784, RFC 2890, RFC 2637) and ERSPAN I or II behind it."""
    flags, protocol = struct.unpack_from("!HH", frame, at)
    if flags & 7 > 1 or flags & 0x4000:  # an unknown version, or source routing (RFC 1701)
        return NOTHING_TO_READ, at
    options = (0x8000, 0x2000, 0x1000) + ((0x80,) if flags & 7 else ())
    at += 4 + 4 * sum(flags & option > 0 for option in options)
    if protocol == ERSPAN:  # Only type II has a sequence number, and a header of 8 bytes.
        return BRIDGED_ETHERNET, at + 8 if flags & 0x1000 else at
    return protocol, at


def read_udp(frame: bytes, at: int) -> tuple[int, int]:
    """Enter a tunnel that runs over UDP, which its port number shows."""
    source, port = struct.unpack_from("!HH", frame, at)
    at += 8
    if port in (4789, 8472):  # VXLAN (RFC 7348), and Linux' older port
        return BRIDGED_ETHERNET, at + 8
    if port == 6081:  # Geneve (RFC 8926)
        return struct.unpack_from("!H", frame, at + 2)[0], at + 8 + 4 * (frame[at] & 0x3F)
    if 2152 in (source, port):
        return read_gtp(frame, at)
    return read_l2tp(frame, at) if 1701 in (source, port) else (NOTHING_TO_READ, at)


def read_gtp(frame: bytes, at: int) -> tuple[int, int]:
    """Read GTP-U (3GPP TS 29.281 section 5.1) with its extension headers."""
    flags, kind = frame[at], frame[at + 1]
    if flags >> 5 != 1 or kind != 255:
        return NOTHING_TO_READ, at
    extension = frame[at + 11] if flags & 4 else 0
    at += 12 if flags & 7 else 8
    while extension:
        at += 4 * max(frame[at], 1)
        extension = frame[at - 1]
    return read_raw(frame, at)


def read_l2tp(frame: bytes, at: int) -> tuple[int, int]:
    """Read a data message of L2TP, which carries PPP (RFC 2661 section 3.1)."""
    flags = frame[at]
    if flags & 0x80:  # a control message
        return NOTHING_TO_READ, at
    at += 6 + 2 * (flags >> 6 & 1) + 4 * (flags >> 3 & 1)
    return read_ppp(frame, at + (2 + int.from_bytes(frame[at : at + 2]) if flags & 2 else 0))


def read_extension(frame: bytes, at: int) -> tuple[int, int]:
    return frame[at], at + 8 * (frame[at + 1] + 1)


def read_tag(frame: bytes, at: int) -> tuple[int, int]:
    return read_ethertype(frame, at + 2)


# By EtherType or IP protocol: a function that returns the next EtherType or IP protocol and the offset of its header.
ENCAPSULATIONS: dict[int, Callable[[bytes, int], tuple[int, int]]] = {
    **dict.fromkeys((0x8100, 0x88A8, 0x9100, 0x9200), read_tag),  # VLANs
    **dict.fromkeys((MPLS, 0x8848, 137), read_mpls),
    **dict.fromkeys((0, 43, 60, 135), read_extension),  # RFC 8200 section 4, RFC 6275
    BRIDGED_ETHERNET: lambda frame, at: read_ethertype(frame, at + 12),
    PPP: read_ppp,
    0x8864: lambda frame, at: read_ppp(frame, at + 6),  # PPPoE (RFC 2516)
    4: lambda frame, at: (IPV4, at),  # RFC 2003
    41: lambda frame, at: (IPV6, at),  # RFC 4213
    47: read_gre,
    51: lambda frame, at: (frame[at], at + 4 * (frame[at + 1] + 2)),  # AH (RFC 4302)
    UDP: read_udp,
}
# These IP protocols carry no TCP: no next header, ICMP, IGMP, ICMPv6, EIGRP, OSPF, PIM, VRRP, SCTP. The EtherTypes are
# ARP, RARP, LLDP, 802.1X, PPPoE discovery, flow control, LACP, loopback tests, PTP, Wake-on-LAN.
WITHOUT_TCP = {NOTHING_TO_READ, 1, 2, 58, 59, 88, 89, 103, 112, 132}
WITHOUT_TCP |= {0x0806, 0x8035, 0x88CC, 0x888E, 0x8863, 0x8808, 0x8809, 0x9000, 0x88F7, 0x0842}
PROTOCOL_NAMES = {50: " (ESP)", 108: " (IPComp)", 115: " (L2TPv3)", 0x88E5: " (MACsec)", 0x22EB: " (ERSPAN III)"}

# The fields are the addresses and ports as in the headers, sequence number, acknowledgement, flags, payload, and the
# number of payload bytes that the snapshot length removed.
Segment = tuple[bytes, int, int, int, bytes, int]
PLAIN = struct.Struct("!BxHxxHxBxx12sIIBB")  # IPv4 without options, and TCP
FIN, SYN, RST, ACK = 1, 2, 4, 16


class Datagrams(OrderedDict[tuple[Any, ...], dict[int, bytes]]):
    """Reassemble IP fragments (RFC 791, RFC 8200 section 4.5). Of too many datagrams, the oldest is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[tuple[Any, ...], list[int]] = {}  # the bytes in fragments, and the datagram's total

    def add(self, key: tuple[Any, ...], offset: int, more: int, data: bytes) -> bytes:
        """Return the payload of the datagram if this fragment completes it, or nothing."""
        parts = self.setdefault(key, {})
        sizes = self._sizes.setdefault(key, [0, sys.maxsize])
        sizes[0] += 0 if offset in parts else len(data)
        parts.setdefault(offset, data)
        if not more:
            sizes[1] = offset + len(data)
        whole = self._join(parts, sizes[1]) if sizes[0] >= sizes[1] else b""
        if whole or len(parts) > MAX_FRAGMENTS or sizes[0] > 2 * 65_535:
            self._drop(key)
        elif len(self) > MAX_DATAGRAMS:
            self._drop(next(iter(self)))
        return whole

    def _join(self, parts: dict[int, bytes], total: int) -> bytes:
        whole = bytearray()
        for offset in sorted(parts):
            if offset > len(whole):
                return b""
            whole += parts[offset][len(whole) - offset :]
        return bytes(whole[:total])

    def _drop(self, key: tuple[Any, ...]) -> None:
        del self[key], self._sizes[key]


class FrameReader:
    """Find the TCP segment in each frame, and count the frames that cannot be read by kind, in `unread`."""

    def __init__(self) -> None:
        self.unread = Counter[str]()
        self._datagrams = Datagrams()

    def segment(self, linktype: int, frame: bytes) -> Segment | None:
        """Return the TCP segment in a frame, or None. Most frames are Ethernet with IPv4 and take the short way."""
        try:
            if linktype == ETHERNET and frame[12:14] == b"\x08\0" and len(frame) >= 48:
                first, total, fragment, protocol, key, seq, ack, offset, flags = PLAIN.unpack_from(frame, 14)
                if first == 0x45 and protocol == TCP and not fragment & 0x3FFF and total:
                    start, end = 34 + (offset >> 4) * 4, 14 + total
                    missing = end - max(len(frame), start) if end > len(frame) else 0
                    return key, seq, ack, flags, frame[start:end], missing
            return self._decapsulate(linktype, frame)
        except (IndexError, struct.error):
            self._count("that end inside a header")
            return None

    def _count(self, kind: str) -> None:
        known = kind in self.unread or len(self.unread) < MAX_UNREAD_KINDS
        self.unread[kind if known else "of other kinds"] += 1

    def _decapsulate(self, linktype: int, frame: bytes) -> Segment | None:
        """Return the TCP segment in a frame with any headers. Raises IndexError and struct.error."""
        if linktype not in LINK_LAYERS:
            self._count(f"of link type {linktype}")
            return None
        name, read_link = LINK_LAYERS[linktype]
        protocol, at = read_link(frame)
        if not protocol:
            if linktype != ETHERNET:  # On Ethernet, these frames are spanning trees and the like.
                self._count(f"of link type {linktype} ({name}) without IP")
            return None
        return self._find_tcp(protocol, frame, at)

    def _find_tcp(self, protocol: int, frame: bytes, at: int) -> Segment | None:
        addresses = b""
        end = len(frame)
        part = None
        for _ in range(MAX_ENCAPSULATIONS):
            if protocol == TCP:
                return read_tcp(frame, at, end, addresses)
            if protocol == IPV4:
                addresses, protocol, at, end, part = read_ipv4(frame, at)
            elif protocol == IPV6:
                addresses, protocol, at, end = read_ipv6(frame, at)
            elif protocol == FRAGMENT:
                protocol, at, part = read_fragment(frame, at)
            elif protocol in ENCAPSULATIONS:
                protocol, at = ENCAPSULATIONS[protocol](frame, at)
                protocol = protocol or NOTHING_TO_READ  # Only an IPv6 header may be followed by protocol 0.
            else:
                self._count_protocol(protocol)
                return None
            frame = frame[:end]
            if part:
                frame = self._datagrams.add((addresses, protocol, part[0]), part[1], part[2], frame[at:])
                at = 0
                end = len(frame)
                part = None
                if not frame:
                    return None
        self._count(f"with more than {MAX_ENCAPSULATIONS} headers before TCP")
        return None

    def _count_protocol(self, protocol: int) -> None:
        if protocol not in WITHOUT_TCP:
            kind = f"of EtherType 0x{protocol:04x}" if protocol > 255 else f"of IP protocol {protocol}"
            self._count(kind + PROTOCOL_NAMES.get(protocol, ""))


def read_ipv4(frame: bytes, at: int) -> tuple[bytes, int, int, int, tuple[int, int, int] | None]:
    """Return addresses, protocol, start and end of the payload, and of a fragment its identification, offset and flag.

    If segmentation offload left the total length at 0, the packet ends with the frame.
    """
    first, total, ident, fragment, protocol, addresses = struct.unpack_from("!BxHHHxBxx8s", frame, at)
    part = (ident, (fragment & 0x1FFF) * 8, fragment & 0x2000) if fragment & 0x3FFF else None
    return addresses, protocol, at + (first & 15) * 4, at + total if total else len(frame), part


def read_ipv6(frame: bytes, at: int) -> tuple[bytes, int, int, int]:
    """Return addresses, protocol, and start and end of the payload (RFC 8200 section 3)."""
    length, protocol, addresses = struct.unpack_from("!4xHBx32s", frame, at)
    return addresses, protocol, at + 40, at + 40 + length if length else len(frame)


def read_fragment(frame: bytes, at: int) -> tuple[int, int, tuple[int, int, int]]:
    """Read the fragment header of IPv6 (RFC 8200 section 4.5)."""
    protocol, fragment, ident = struct.unpack_from("!BxHI", frame, at)
    return protocol, at + 8, (ident, fragment & 0xFFF8, fragment & 1)


def read_tcp(frame: bytes, at: int, end: int, addresses: bytes) -> Segment:
    ports, seq, ack, size, flags = struct.unpack_from("!4sIIBB", frame, at)
    start = at + (size >> 4) * 4
    return addresses + ports, seq, ack, flags, frame[start:end], max(0, end - max(len(frame), start))


# HTTP/1: from the bytes of one direction to messages (RFC 9112).

METHODS = rb"GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT|PROPFIND|PROPPATCH|MKCOL|COPY|MOVE|LOCK|UNLOCK|REPORT"
KNOWN_METHODS = frozenset(METHODS.split(b"|"))
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}"
# The possessive quantifiers keep the time linear for lines that consist of spaces.
REQUEST = re.compile(rb"(%s) ++([^\r\n]*[^\r\n ]) ++HTTP/(1\.\d)[ \t]*+\r?\n" % TOKEN)
RESPONSE = re.compile(rb"(?:HTTP/(1\.\d)|ICY) ++([1-9]\d\d)(?: ([^\r\n]*))?\r?\n")  # ICY: SHOUTcast servers
RESPONSE_STARTS = (b"HTTP/", b"ICY ")
PLAUSIBLE = re.compile(rb"(?:%s|HTTP/)(?:(?<=/)|(?= )|\Z)[^\r\n\0]*\r?\Z" % TOKEN)  # the first bytes of a start line
NEXT_REQUEST = re.compile(rb"(?:\r\n)?(?:(?:%s) |[A-Z]{1,9}\Z)" % METHODS)  # A segment can end inside the method.
PLAUSIBLE_BYTES = 64  # This many bytes show whether a start line can follow.
LOST_REQUEST = re.compile(rb"(?:%s) \S{1,8000} HTTP/1\.[01]\r?\n" % METHODS)
LOST_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-5]\d\d[ \r\n]")
HEAD_END = re.compile(rb"\n\r?\n")
FIELD = re.compile(rb"\n([^\s:]+)[ \t]*:[ \t]*([^\r\n]*)")
USED_FIELDS = rb"host|user-agent|referer|expect|upgrade|content-(?:type|length|encoding)|transfer-encoding"
USED_FIELD = re.compile(rb"\n(%s)[ \t]*:[ \t]*([^\r\n]*)" % USED_FIELDS, re.IGNORECASE)
FOLD = re.compile(rb"\r?\n[ \t]+")  # a header line that continues in the next line (RFC 9112 section 5.2)
LENGTH = re.compile(rb"(\d{1,18})(?:[ \t]*,[ \t]*\1)*")  # A repeated length counts once (RFC 9112 section 6.3).
CHUNK = re.compile(rb"(?:\r?\n)?[ \t]*(?=[0-9A-Fa-f])0*+([0-9A-Fa-f]{0,15})[ \t]*(?:;[^\n]*)?\r?\n")
CHUNKED, UNTIL_CLOSE = -1, -2  # body lengths
ENDLESS = 1 << 62  # bytes; more than any body has
# The first bytes of a connection with another protocol.
OTHER_PROTOCOLS = {
    "TLS": re.compile(rb"[\x14-\x17]\x03[\0-\4]..", re.DOTALL),
    "HTTP/2": re.compile(rb"PRI \* HTTP/2\.0\r\n"),
}


def decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def holds_another(request: re.Match[bytes]) -> bool:
    """Return whether a line that looks like a request is a body with the start line of the next request."""
    at = request.start() + 3  # Three bytes, because M-POST (RFC 2774) and BCOPY (WebDAV) contain other methods.
    is_known = request[1] in KNOWN_METHODS
    return not is_known and LOST_REQUEST.search(request.string, at, request.end()) is not None


def unfold(head: bytes) -> bytes:
    return FOLD.sub(b" ", head) if b"\n " in head or b"\n\t" in head else head


class Message:
    """A request or a response. head holds the header lines; start the parts of the start line.

    start is method, target and version of a request, or version, status and reason of a response.
    """

    __slots__ = (
        "body", "complete", "end", "fields", "head", "is_chunked", "is_cut", "problems", "request", "size", "start",
        "time",
    )  # fmt: skip

    def __init__(self, time: float, start: tuple[bytes, ...], head: bytes = b"\n") -> None:
        self.time = self.end = time  # the times of the first byte and the last byte
        self.start = start
        self.head = head
        self.size = 0  # body bytes that were received
        self.problems: tuple[str, ...] = ()
        self.complete = False
        self.is_chunked = False
        self.request: Message | None = None  # The request that a response answers.
        self.body = bytearray()
        self.is_cut = False  # A limit has removed the end of the body.
        fields: dict[bytes, bytes] = {}
        for name, value in USED_FIELD.findall(unfold(head)):
            name = name.lower()
            fields[name] = fields[name] + b", " + value if name in fields else value.rstrip()
        self.fields = fields

    def add_problem(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems += (problem,)

    def memory(self) -> int:
        return MESSAGE_BYTES + 2 * len(self.head)

    def is_interim(self) -> bool:
        """Return True for a response that another response follows (RFC 9110 section 15.2)."""
        return self.start[1][:1] == b"1" and self.start[1] != b"101"

    def awaits_continue(self) -> bool:
        """Return whether it is not known if the server wants the body of this request (RFC 9110 section 10.1.1)."""
        return b"expect" in self.fields and not self.complete and not self.size

    def body_length(self, is_response: bool) -> int:
        """Return the length of the body in bytes, or CHUNKED or UNTIL_CLOSE (RFC 9112 section 6.3)."""
        unknown = UNTIL_CLOSE if is_response else 0  # A request never has a body that ends with the connection.
        fields = self.fields
        if b"transfer-encoding" in fields:
            codings = fields[b"transfer-encoding"].lower().replace(b",", b" ").split()
            if codings and codings != [b"identity"]:  # RFC 2616 defined "identity" as no coding.
                return CHUNKED if codings[-1] == b"chunked" else unknown
        if b"content-length" not in fields:
            return unknown
        length = LENGTH.fullmatch(fields[b"content-length"])
        if length is None:
            self.add_problem("malformed")
        return int(length[1]) if length else unknown


State = Callable[["MessageReader", bytes, int], int]


class BodyStore:
    """Keep the bytes of bodies within two limits: of each body, and of all bodies that are not yet printed."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._stored_bytes = 0

    def add(self, message: Message, data: bytes) -> None:
        room = min(self._max_body_bytes - len(message.body), MAX_BODIES_BYTES - self._stored_bytes)
        stored = data[: max(room, 0)]
        message.body += stored
        message.is_cut |= len(stored) < len(data)
        self._stored_bytes += len(stored)

    def release(self, message: Message) -> None:
        self._stored_bytes -= len(message.body)


@dataclass(slots=True, eq=False)
class MessageReader:
    """Parse the HTTP messages in one direction of a connection, and pass them to `pairing`.

    A state is a method that parses the bytes from an offset and returns the next offset.
    """

    pairing: "Pairing"
    store: BodyStore | None  # None if no bodies are wanted
    is_response: bool | None = None  # None until the first message of the connection shows it
    state: State | None = None  # None if the bytes are not HTTP
    message: Message | None = None  # whose head is complete, and whose body is not
    left: int = 0  # bytes of the body, or of the chunk, that have not been received
    counting: bool = False  # The next `left` bytes need no parsing.
    pending: bytearray = field(default_factory=bytearray)  # an incomplete line or head
    start: tuple[bytes, ...] = ()  # the start line of the pending head
    started: float = 0.0  # the time of its first bytes
    head_at: int = 0  # the offset of its header lines
    searched: int = 0  # the offset up to which it does not contain its end
    time: float = 0.0  # the time of the last bytes
    probe_left: int = MAX_PROBE_BYTES
    probing: bool = False  # inside a CONNECT tunnel, before the first message
    is_after_gap: bool = False  # The last bytes of this direction are missing.
    lost_before_first: bool = False  # Bytes were missing before the first message was recognised.
    request_is_unknown: bool = False  # The response may be one to HEAD.

    def __post_init__(self) -> None:
        self.state = MessageReader._start_line

    def feed(self, time: float, data: bytes) -> None:
        """Parse the next bytes. time: epoch seconds."""
        self.time = time
        self.is_after_gap = False
        if self.pending:
            self.pending += data
            if b"\n" not in data and PLAUSIBLE_BYTES < len(self.pending) < MAX_LINE_BYTES:
                return  # A pending line ends with a line feed.
            data = bytes(self.pending)
            self.pending.clear()
        else:
            self.started = time
        at = 0
        size = len(data)
        while at < size and self.state:
            at = self.state(self, data, at)

    def gap(self, size: int, problem: str) -> None:
        """Skip a gap of `size` bytes. A gap inside a body of known length loses only bytes of this body."""
        self.is_after_gap = True
        if self.message and self.left and not self._awaits_continue():
            self.message.add_problem(problem)
            inside = min(size, self.left)
            self._count_body(inside)
            size -= inside
        if size and self.state:
            self._abandon(problem)

    def end(self, is_clean: bool) -> None:
        """End the direction: with a FIN, which is clean, or because nothing more was captured."""
        self.finish_open_ended()
        if self.state == MessageReader._head:
            self._abandon("cut off")
        if self.message:
            if not is_clean or self.left < ENDLESS // 2:
                self.message.add_problem("cut off")
            self._finish()
        self.stop()

    def stop(self) -> None:
        self.state = None
        self.left = 0
        self.pending.clear()

    def finish_open_ended(self) -> None:
        """End a message if only the next one would show its end: the other side has sent, or nothing follows."""
        in_trailer = self.state == MessageReader._trailer and not self.pending
        if self.message and (in_trailer or (self.request_is_unknown and not self.message.size)):
            self._finish()

    def is_inside_message(self) -> bool:
        return self.message is not None or self.state == MessageReader._head

    def expect_start_line(self) -> None:
        """Look for a start line in the next bytes, because they are the first ones after the other side has sent."""
        if self.is_after_gap:
            return  # It is not known whether the other side sent before or after the missing bytes.
        if self.state == MessageReader._search or self.is_response is None or self._holds_body():
            self.pending.clear()
            self.state = self.state and MessageReader._start_line

    def _holds_body(self) -> bool:
        """Return whether the pending bytes are a body that the last head did not announce, and no start line."""
        if not self.pending or self.state != MessageReader._start_line:
            return False
        starts = RESPONSE_STARTS if self.is_response else KNOWN_METHODS
        return not any(start.startswith(self.pending) or self.pending.startswith(start) for start in starts)

    def set_role(self, is_response: bool) -> None:
        """Set the role of this direction when the first message in the other direction has shown it."""
        self.is_response = is_response
        self.state = self.state or MessageReader._search
        if self.lost_before_first and not is_response:
            self.pairing.start_lost()

    def enter_tunnel(self) -> None:
        """Look for HTTP inside a CONNECT tunnel. The client may have sent a part of it already."""
        if not self.is_inside_message():
            self.probing = True
            self.pending.clear()
            self.state = MessageReader._start_line

    def skip_body(self) -> None:
        """End the request that waits for 100 (Continue), because the server has refused its body."""
        if self._awaits_continue():
            self._finish()

    def _wait(self, data: bytes, at: int) -> int:
        """Keep the bytes from an offset until more bytes arrive."""
        self.pending += data[at:]
        return len(data)

    def _start_line(self, data: bytes, at: int) -> int:
        if data[at] in b"\r\n":  # to be ignored before a message (RFC 9112 section 2.2)
            return at + 1
        is_response = data.startswith(RESPONSE_STARTS, at)
        if self.is_response in (None, is_response):
            match = (RESPONSE if is_response else REQUEST).match(data, at)
            if match and match.end() - at < MAX_HEAD_BYTES and (is_response or not holds_another(match)):
                self._recognise(is_response)
                self.start = match.groups()
                self.head_at = self.searched = match.end() - 1 - at
                self.state = MessageReader._head
                return self._head(data, at)
        may_be_body = self.is_response is False and not self.probing  # The last head did not announce it.
        line_end = data.find(b"\n", at) + 1
        if not line_end:
            may_follow = len(data) - at < MAX_HEAD_BYTES and PLAUSIBLE.match(data, at, at + PLAUSIBLE_BYTES)
            if may_follow or (may_be_body and len(data) - at < MAX_LINE_BYTES):
                return self._wait(data, at)
        elif may_be_body:
            request = LOST_REQUEST.search(data, at, line_end)
            if request:
                return request.start()
        self._reject()
        return at + 1

    def _recognise(self, is_response: bool) -> None:
        self.probing = False
        if self.is_response is None:
            self.set_role(is_response)

    def _reject(self) -> None:
        """Handle bytes that do not start a message although no byte is missing."""
        if self.probing:
            self.stop()
        elif self.is_response is None:
            self.state = MessageReader._search
        else:
            self._abandon("malformed")

    def _head(self, data: bytes, at: int) -> int:
        end = HEAD_END.search(data, at + self.searched)
        if end:
            message = Message(self.started, self.start, data[at + self.head_at : end.end()])
            self.started = self.time  # The next message may start in the same segment.
            self._begin(message)
            return end.end()
        self.searched = max(self.searched, len(data) - at - 2)
        self._wait(data, at)
        if len(self.pending) >= MAX_HEAD_BYTES:
            self._abandon("malformed")
        return len(data)

    def _begin(self, message: Message) -> None:
        """Start a message whose head is complete."""
        if self.is_response:
            self._begin_response(message)
            return
        self.pairing.add_request(message)
        self._begin_body(message, message.body_length(False))

    def _begin_response(self, message: Message) -> None:
        """Start a response. The request decides whether a body follows (RFC 9112 section 6.3)."""
        request = self.pairing.add_response(message)
        status = message.start[1]
        method = request.start[0] if request else None
        self.request_is_unknown = request is None
        if message.is_interim():
            self.state = MessageReader._start_line
            return
        switches = status == b"101" or (method == b"CONNECT" and status[:1] == b"2")
        has_no_body = switches or method == b"HEAD" or status in (b"204", b"304")
        self._begin_body(message, 0 if has_no_body else message.body_length(True))
        if status == b"101":
            self.stop()
        elif switches:
            self.enter_tunnel()

    def _begin_body(self, message: Message, length: int) -> None:
        self.message = message
        if length == CHUNKED:
            message.is_chunked = True
            self.state = MessageReader._chunk
        elif length == 0:
            self._finish()
        else:
            self.left = ENDLESS if length == UNTIL_CLOSE else length
            self.state = MessageReader._body

    def _finish(self) -> None:
        """End the message."""
        message, self.message = self.message, None
        self.left = 0
        self.state = MessageReader._start_line
        if message:
            message.end = self.time
            message.complete = True
            if self.is_response:
                self.pairing.finish(message)

    def _body(self, data: bytes, at: int) -> int:
        if self._has_no_body(data, at):
            return at
        size = min(self.left, len(data) - at)
        if self.store and self.message:
            self.store.add(self.message, data[at : at + size])
        self._count_body(size)
        return at + size

    def _has_no_body(self, data: bytes, at: int) -> bool:
        """Return True if a start line follows the head: an unknown request was HEAD, or its body was refused."""
        if self.message is None or self.message.size:
            return False
        if self.is_response:
            is_start = self.request_is_unknown and data.startswith(b"HTTP/1.", at)
        else:
            is_start = self._awaits_continue() and NEXT_REQUEST.match(data, at) is not None
        if is_start:
            self._finish()
        return is_start

    def _awaits_continue(self) -> bool:
        message = None if self.is_response else self.message
        return message is not None and message.awaits_continue()

    def _count_body(self, size: int) -> None:
        """Count bytes of the body, or of the chunk, and go on at its end."""
        self.left -= size
        if self.message:
            self.message.size += size
            self.counting = self.store is None
            if self.left == 0 and self.message.is_chunked:
                self.state = MessageReader._chunk
            elif self.left == 0:
                self._finish()

    def _chunk(self, data: bytes, at: int) -> int:
        """Read the size of a chunk (RFC 9112 section 7.1)."""
        if self._has_no_body(data, at):
            return at
        match = CHUNK.match(data, at)
        if match:
            self.left = int(match[1] or b"0", 16)
            self.state = MessageReader._body if self.left else MessageReader._trailer
            return match.end()
        if len(data) - at < MAX_LINE_BYTES and b"\n" not in data[at + 2 :]:
            return self._wait(data, at)
        self._abandon("malformed")
        return at

    def _trailer(self, data: bytes, at: int) -> int:
        """Skip the trailer fields. A start line ends them, too: embedded servers often omit the last CRLF."""
        end = data.find(b"\n", at) + 1
        if not end and len(data) - at < MAX_HEAD_BYTES:
            return self._wait(data, at)
        if (RESPONSE if self.is_response else REQUEST).match(data, at):
            self._finish()
            return at
        if not data[at:end].strip():
            self._finish()
        return end or len(data)

    def _search(self, data: bytes, at: int) -> int:
        """Search for a start line after a gap, or after bytes that are not HTTP."""
        match = None if self.is_response else LOST_REQUEST.search(data, at)
        if match is None and self.is_response is not False:
            match = LOST_RESPONSE.search(data, at)
        if match:
            self.state = MessageReader._start_line
            return match.start()
        # Less than the limit is kept, so that one search covers many short segments.
        rest = max(at, data.rfind(b"\n") + 1, len(data) - MAX_LINE_BYTES // 2)
        self.probe_left -= rest - at if self.is_response is None else 0
        if self.probe_left < 0:
            self.stop()
            return len(data)
        return self._wait(data, rest)

    def _abandon(self, problem: str) -> None:
        """Abandon the current message and search for the next start line."""
        message, self.message = self.message, None
        if self.state == MessageReader._head:
            message = self._incomplete_message()
        self.stop()
        self.state = MessageReader._search
        if message:
            message.add_problem(problem)
            message.end = self.time
            if self.is_response:
                self.pairing.finish(message)
        if self.is_response is None:
            self.pairing.incomplete_sides += not self.lost_before_first
            self.lost_before_first = True
        elif self.is_response:
            self.pairing.responses_lost(problem)
        else:
            self.pairing.requests_lost(problem)

    def _incomplete_message(self) -> Message | None:
        """Return the message of which only the start line and some header lines were received, without a cut line."""
        end = self.pending.rfind(b"\n") + 1
        message = Message(self.started, self.start, bytes(self.pending[self.head_at : end]))
        if not self.is_response:
            self.pairing.add_request(message)
        elif message.is_interim():
            return None
        else:
            self.pairing.add_response(message)
        return message


# Pairing: from messages to pairs of a request and its response.


@dataclass(slots=True, eq=False)
class Pairing:
    """Pair the requests and responses of a connection. `pairs` collects the result, with None for what is missing.

    `queue` holds the requests without a response, the oldest first. A response answers the oldest one when its head is
    complete. LOST in the queue stands for an unknown number of requests: a response that finds it in front is not
    paired. Most clients send a request only after the last response is complete. Of such a client, each request after
    a response (see turn()) ends the exchanges before it and removes LOST. A client that sends a request while the queue
    is not empty pipelines: from then on LOST stays, and so nothing behind it is paired until the connection ends.
    """

    # Pairs depend on the assumption that the client does not pipeline, because turn() has removed something from the
    # queue, or because the start of the connection was not captured.
    relied_on_turns: bool = False
    pairs: list[tuple[Message | None, Message | None]] = field(default_factory=list)
    queue: list[Message | None] = field(default_factory=list)  # None is LOST
    memory: int = 0  # bytes of the messages that are not in a pair yet
    incomplete_sides: int = 0  # directions with missing bytes before the first message
    signal: str = ""  # for the reader of requests: "stop", "HTTP/2", "tunnel" or "no body"
    pipelines: bool = False
    may_be_answered: bool = False  # Lost responses may have answered the requests in the queue.
    loss: str = "gap"  # the problem of a response that finds LOST

    def add_request(self, request: Message) -> None:
        """Add a request whose head is complete."""
        self.memory += request.memory()
        if self.may_be_answered and self.queue[0]:
            self.turn()  # The lost response came before the end of its request.
        if self.queue == [None] and self.loss == "malformed":
            self.may_be_answered = True  # The lost bytes can be a body that the head did not announce.
        elif self.queue:
            if self.may_be_answered or (self.relied_on_turns and not self.pipelines):
                self._mark_front_lost()
            self.pipelines = True
        self.queue.append(request)

    def add_response(self, response: Message) -> Message | None:
        """Add a response whose head is complete. Return its request, or None if that is not known."""
        request = self.queue[0] if self.queue else None
        if response.is_interim():
            if request and response.start[1] == b"100":
                request.fields.pop(b"expect", None)  # The server wants the body.
            return request
        self.memory += response.memory()
        if request:
            del self.queue[0]
            self.may_be_answered = False
        elif self.queue:
            response.add_problem(self.loss)
        response.request = request
        self._set_signal(request, response)
        return request

    def _set_signal(self, request: Message | None, response: Message) -> None:
        """Set the signal for what a response means for the next bytes of the client."""
        status = response.start[1]
        if status == b"101":
            self.signal = "HTTP/2" if response.fields.get(b"upgrade", b"").lower() == b"h2c" else "stop"
        elif request and request.start[0] == b"CONNECT" and status[:1] == b"2":
            self.signal = "tunnel"
        elif request and request.awaits_continue():
            self.signal = "no body"

    def finish(self, response: Message) -> None:
        """Report a response that is complete, with its request."""
        self._report(response.request, response)

    def start_lost(self) -> None:
        """Note that bytes were missing before the first request."""
        if self.incomplete_sides == 2:
            self.relied_on_turns = True  # The responses to the lost requests are missing, too.
        else:
            self.requests_lost("gap")

    def requests_lost(self, problem: str) -> None:
        """Note that an unknown number of requests could not be read."""
        self.loss = problem
        if self.may_be_answered:
            self._mark_front_lost()
        elif self.queue and self.queue[-1] and self.queue[-1].complete and problem == "gap":
            self.pipelines = True  # The missing bytes follow a complete request without a response.
        if not self.queue or self.queue[-1]:
            self.queue.append(None)

    def responses_lost(self, problem: str) -> None:
        """Note that an unknown number of responses could not be read. One request may still get its response."""
        self.loss = problem
        self.may_be_answered = bool(self.queue)
        if len(self.queue) > 1:
            self._mark_front_lost()

    def turn(self) -> None:
        """Note that the client sends again after the server has sent, and that no response is incomplete."""
        if self.pipelines or not (self.may_be_answered or None in self.queue):
            return
        self.relied_on_turns = True
        requests = [request for request in self.queue if request]
        self.queue = [] if self.may_be_answered else [*requests]
        if self.may_be_answered:
            self.may_be_answered = False
            for request in requests:
                self._report(request, None)

    def close(self) -> None:
        """Report the requests that have no response at the end of the connection."""
        for request in self.queue:
            self._report(request, None)
        self.queue.clear()

    def _mark_front_lost(self) -> None:
        if self.queue[0]:
            self.queue.insert(0, None)

    def _report(self, request: Message | None, response: Message | None) -> None:
        self.memory -= (request.memory() if request else 0) + (response.memory() if response else 0)
        if request or response:
            self.pairs.append((request, response))


# TCP: from segments to the bytes of each direction, in the order in which both ends saw them.

MASK, HALF = 0xFFFFFFFF, 0x80000000  # Sequence numbers are counted modulo 2**32.
UNKNOWN = -1  # a sequence number

# The fields are the sequence number, the negative length (the longer of two segments comes first), time,
# acknowledgement, whether it is a FIN, payload, and the number of bytes that the snapshot length removed.
OutOfOrder = tuple[int, int, float, int, bool, bytes, int]


def distance(number: int, origin: int) -> int:
    """Return how far a sequence number is ahead of another one (RFC 9293 section 3.4)."""
    return ((number - origin + HALF) & MASK) - HALF


@dataclass(slots=True, eq=False)
class Stream:
    """One direction of a connection. The sequence numbers here do not wrap, as those on the wire do."""

    conversation: "Conversation"
    key: bytes
    reader: MessageReader
    next: int = UNKNOWN  # the next sequence number in order
    isn: int = UNKNOWN
    acked: int = UNKNOWN  # by the other side
    has_fin: bool = False
    is_reset: bool = False
    out_of_order: list[OutOfOrder] = field(default_factory=list)  # a heap
    peer: "Stream" = field(init=False)

    def push(self, segment: OutOfOrder) -> None:
        heapq.heappush(self.out_of_order, segment)
        self.conversation.out_of_order_segments += 1
        self.conversation.out_of_order_bytes += len(segment[5])

    def pop(self, ignore_ack: bool) -> OutOfOrder | None:
        """Return the next segment in order. It waits until the bytes that it acknowledges have passed."""
        while self.out_of_order:
            seq, minus_size, _, ack, is_fin, data, _ = self.out_of_order[0]
            is_new = seq - minus_size + is_fin > self.next
            if is_new and (seq > self.next or (ack > self.peer.next and not ignore_ack)):
                return None
            segment = heapq.heappop(self.out_of_order)
            self.conversation.out_of_order_segments -= 1
            self.conversation.out_of_order_bytes -= len(data)
            if is_new:
                return segment
        return None

    def waits_for_peer(self) -> bool:
        """Return whether the next segment acknowledges bytes of the other side that have not passed."""
        return bool(self.out_of_order) and self.out_of_order[0][3] > self.peer.next

    def gap(self, is_forced: bool) -> int:
        """Return how many missing bytes count as lost: those that the other side has acknowledged, or all if forced.

        The gap ends where the other side's next segment acknowledges it, so that this segment keeps its place.
        """
        missing = self.out_of_order[0][0] - self.next if self.out_of_order else ENDLESS
        size = missing if is_forced and self.out_of_order else min(missing, self.acked - self.next)
        if self.reader.left:
            size = min(size, self.reader.left)  # The other side may have sent at the end of the body.
        needed = self.peer.out_of_order[0][3] - self.next if self.peer.out_of_order else 0
        return min(size, needed) if needed > 0 else size


class Conversation:
    """A connection: both streams, their readers, and the pairing.

    A segment passes when every byte that it acknowledges has passed. So a response comes after its request, even if the
    capture shows them in another order. Missing bytes become a gap when the other side has acknowledged them.
    """

    def __init__(self, key: bytes, store: BodyStore | None, has_start: bool) -> None:
        self.pairing = Pairing(relied_on_turns=not has_start)
        half = len(key) // 2 - 2
        back = key[half : 2 * half] + key[:half] + key[-2:] + key[-4:-2]
        self.streams = [Stream(self, ends, MessageReader(self.pairing, store)) for ends in (key, back)]  # client first
        self.last, other = self.streams  # the stream that sent last
        self.last.peer, other.peer = other, self.last
        self.is_identified = False  # It is known which stream is the client's.
        self.foreign = ""  # the name of the other protocol that the connection carries
        self.closed = False
        self.is_reset = False  # by a RST, until it is known whether both ends accept it
        self.reset_at = 0.0
        self.seen = 0.0  # the time of the last packet
        self.buffered_bytes = 0  # bytes of memory that were counted for this connection
        self.out_of_order_segments = self.out_of_order_bytes = 0  # out of order

    def memory(self) -> int:
        """Return the bytes of memory that depend on the peers' data."""
        first, second = self.streams
        pending = len(first.reader.pending) + len(second.reader.pending)
        return self.out_of_order_bytes + self.out_of_order_segments * SEGMENT_BYTES + self.pairing.memory + pending

    def receive(self, stream: Stream, time: float, seq: int, ack: int, flags: int, data: bytes, cut: int) -> None:
        """Take any segment of the connection. cut: the bytes that the snapshot length removed from its end."""
        peer = stream.peer
        if flags & SYN:
            stream.isn = seq
            seq = seq + 1 & MASK
        if stream.next == UNKNOWN:
            stream.next = seq
        if peer.next == UNKNOWN and flags & ACK:
            peer.next = ack
        seq = stream.next + distance(seq, stream.next)
        ack = peer.next + distance(ack, peer.next) if flags & ACK else UNKNOWN
        size = len(data) + cut
        is_fin = flags & FIN > 0
        if flags & RST:
            self._reset(stream, time, seq)
            return
        if stream.is_reset and (seq + size > stream.next or ack > peer.acked):
            self.is_reset = stream.is_reset = False  # Its sender continues, and so the RST was not accepted.
        peer.acked = max(peer.acked, ack)
        if size or is_fin:
            stream.push((seq, -size, time, ack, is_fin, data, cut))
        self.advance(time)

    def _reset(self, stream: Stream, time: float, seq: int) -> None:
        """Accept a RST inside the window only (RFC 5961 section 3.2); the captured bytes stand for the window."""
        received = [segment[0] - segment[1] for segment in stream.out_of_order]
        if stream.next <= seq <= max(stream.next, stream.acked, *received):
            self.is_reset = stream.is_reset = True
            self.reset_at = time

    def advance(self, time: float) -> None:
        """Pass on the segments that are in order. After a grace period, declare missing bytes lost."""
        while self.out_of_order_segments and not self.closed:
            if not self._pass_in_order() and not (self._is_late(time) and self._skip_gap(self._is_full())):
                break
        if self.is_reset and time - self.reset_at > GRACE_S:
            self.close()

    def _is_full(self) -> bool:
        has_too_many = self.out_of_order_segments > MAX_OUT_OF_ORDER_SEGMENTS
        return has_too_many or self.out_of_order_bytes > MAX_OUT_OF_ORDER_BYTES

    def _is_late(self, time: float) -> bool:
        if self.out_of_order_segments == 0:
            return False
        first = min(stream.out_of_order[0][2] for stream in self.streams if stream.out_of_order)
        return self.out_of_order_segments > GRACE_SEGMENTS or time - first > GRACE_S or self._is_full()

    def _pass_in_order(self, ignore_ack: bool = False) -> bool:
        """Pass on the segments that are in order. Return whether there were any."""
        moved = False
        for stream in self.streams:
            while segment := stream.pop(ignore_ack):
                self._pass(stream, segment)
                moved = True
        return moved

    def _pass(self, stream: Stream, segment: OutOfOrder) -> None:
        seq, _, time, _, is_fin, data, cut = segment
        data = data[stream.next - seq :] if seq < stream.next else data
        cut = min(cut, seq - segment[1] - stream.next)
        if data:
            self.deliver(stream, time, data)
        if cut:
            self._pass_gap(stream, cut, "snapshot length")
        if is_fin:
            stream.next += 1
            stream.has_fin = True
            stream.reader.end(is_clean=True)
            if stream.peer.has_fin:
                self.close()

    def deliver(self, stream: Stream, time: float, data: bytes) -> None:
        """Pass bytes in order to the reader of a stream."""
        stream.next += len(data)
        if self.last is not stream:
            self._change_sender(stream)
        if not self.is_identified:
            self._check_protocol(data)
        stream.reader.feed(time, data)
        if not self.is_identified and stream.reader.is_response is not None:
            self._identify(stream)
        if self.pairing.signal:
            self._obey_signal()

    def _change_sender(self, stream: Stream) -> None:
        """Note that a stream sends after the other one."""
        self.last = stream
        stream.peer.reader.finish_open_ended()
        stream.reader.expect_start_line()
        is_client = stream.reader.is_response is False
        if is_client and not (stream.reader.is_inside_message() or stream.peer.reader.is_inside_message()):
            self.pairing.turn()

    def _check_protocol(self, data: bytes) -> None:
        for name, pattern in OTHER_PROTOCOLS.items():
            if pattern.match(data) and not self.foreign:
                self._stop_readers(name)

    def _identify(self, stream: Stream) -> None:
        """Set the roles of both streams: one reader has found a message."""
        is_response = stream.reader.is_response is True
        stream.peer.reader.set_role(not is_response)
        self.streams.sort(key=lambda side: side.reader.is_response is True)
        self.is_identified = True

    def _obey_signal(self) -> None:
        """Switch the readers to another protocol, or end a request without its body."""
        signal, self.pairing.signal = self.pairing.signal, ""
        requests = self.streams[0].reader
        if signal == "stop":
            self._stop_readers()
        elif signal == "HTTP/2":
            self._stop_readers(signal)
        elif signal == "tunnel":
            requests.enter_tunnel()
        else:
            requests.skip_body()

    def _stop_readers(self, foreign: str = "") -> None:
        """Stop reading: the rest of the connection is another protocol, which is counted if it has a name."""
        self.foreign = foreign
        for stream in self.streams:
            stream.reader.stop()

    def _pass_gap(self, stream: Stream, size: int, problem: str) -> None:
        stream.next += size
        if self.last is not stream:
            self._change_sender(stream)
        stream.reader.gap(size, problem)
        if stream.peer.reader.is_after_gap and stream.reader.is_response is False:
            self.pairing.turn()  # The order of the two gaps is not known: the lost request may have been answered.
        if self.pairing.signal:
            self._obey_signal()

    def _skip_gap(self, is_forced: bool) -> bool:
        """Declare missing bytes lost, first those of the side that must send now. Return whether it helped."""
        reader = self.last.reader
        continues = reader.is_inside_message() or (reader.is_response and self.pairing.queue)
        first = self.last if continues else self.last.peer
        if first.waits_for_peer() and first.peer.out_of_order and not first.peer.waits_for_peer():
            first = first.peer  # It sent its next segment before it received the missing bytes of the other one.
        for stream in (first, first.peer):
            size = stream.gap(is_forced)
            if size > 0:
                self._pass_gap(stream, size, "gap")
                return True
        return self._pass_in_order(ignore_ack=True)

    def close(self) -> None:
        """End the connection: report what is incomplete."""
        while self.out_of_order_segments and not self.closed:
            # After a RST, only what the other side has acknowledged was accepted.
            if not self._pass_in_order() and not self._skip_gap(is_forced=not self.is_reset):
                break
        if self.closed:
            return
        self.closed = True
        for stream in self.streams:
            stream.reader.end(is_clean=stream.has_fin)
            stream.out_of_order.clear()
        self.out_of_order_segments = self.out_of_order_bytes = 0
        self.pairing.close()


# Exchanges: from pairs to values that can be printed.

TEXT_CHARSET = re.compile(
    r"utf-?(?:8|16(?:le|be)?)|us-ascii|iso-8859-\d+|windows-125\d|gb\w+|big5|shift_jis|euc-\w+|koi8-\w"
)
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?([^/?#]*)")  # The group is the host with the port.
MAX_CODINGS = 3  # content codings that are removed from one body


@lru_cache(4_096)
def endpoints(key: bytes) -> tuple[str, str]:
    """Return the addresses of client and server with their ports."""
    half = len(key) // 2 - 2
    family = socket.AF_INET if half == 4 else socket.AF_INET6
    hosts = socket.inet_ntop(family, key[:half]), socket.inet_ntop(family, key[half : 2 * half])
    client_port, server_port = struct.unpack("!HH", key[-4:])
    return format_address((hosts[0], client_port)), format_address((hosts[1], server_port))


def format_address(address: tuple[Any, ...]) -> str:
    """Return an address as in URLs: 127.0.0.1:80 or [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def request_url(method: str, target: str, authority: str) -> str:
    """Return the URL of a request (RFC 9112 section 3.3)."""
    if target.startswith("/"):
        return f"http://{authority}{target}"
    if method == "CONNECT" or ABSOLUTE.match(target):
        return target
    return f"http://{authority}" + ("" if target == "*" else f"/{target}")


def header_lines(message: Message | None) -> tuple[tuple[str, str], ...] | None:
    if message is None:
        return None
    lines = FIELD.findall(unfold(message.head))
    return tuple((decode_text(name), decode_text(value.rstrip())) for name, value in lines)


def field_text(message: Message, name: bytes) -> str | None:
    value = message.fields.get(name)
    return None if value is None else decode_text(value)


def problems_of(request: Message | None, response: Message | None) -> tuple[str, ...]:
    problems = (request.problems if request else ()) + (response.problems if response else ())
    if request and response:
        return tuple(dict.fromkeys(problems)) if problems else ()
    return (*dict.fromkeys(problems), "no response" if request else "no request")


def make_exchange(key: bytes, request: Message | None, response: Message | None, headers: bool) -> Exchange:
    """Return the exchange of a request and its response, of which one may be None."""
    client, server = endpoints(key)
    method = url = host = target = version = agent = status = reason = kind = ttfb_s = duration_s = None
    begin = request or response
    time = begin.time if begin else 0.0
    if request:
        method, target, version = map(decode_text, request.start)
        host = field_text(request, b"host")
        agent = field_text(request, b"user-agent")
        absolute = None if target.startswith("/") else ABSOLUTE.match(target)
        if absolute:
            host = absolute[1]  # The Host field does not count (RFC 9112 section 3.2.2).
        url = request_url(method, target, host or server)
    if response:
        version = version or decode_text(response.start[0] or b"1.0")
        status = int(response.start[1])
        reason = decode_text(response.start[2] or b"")
        kind = field_text(response, b"content-type")
        if request:  # The clock of the capture may go backwards, and segments may be out of order.
            ttfb_s = max(response.time - time, 0.0)
            duration_s = max(response.end - time, ttfb_s)
    return Exchange(
        time, client, server, method, url, host, target, version, status, reason,
        request.size if request else None, response.size if response else None, kind, agent, ttfb_s, duration_s,
        problems_of(request, response),
        header_lines(request) if headers else None,
        header_lines(response) if headers else None,
    )  # fmt: skip


def make_body(message: Message | None, limit: int) -> Body | None:
    """Return the body of a message, decoded to at most `limit` bytes; None if there is none."""
    if message is None or not message.size:
        return None
    data = bytes(message.body)
    is_cut = message.is_cut
    codings = message.fields.get(b"content-encoding", b"").lower().replace(b",", b" ").split()
    for coding in reversed(codings[-MAX_CODINGS:]):
        decoded = remove_coding(coding.decode("latin-1"), data, limit + 1)
        if decoded is None:
            return Body(data, None, is_cut)
        data = decoded
    is_cut |= len(data) > limit
    return Body(data[:limit], decode_body_text(data[:limit], message, is_cut), is_cut)


def decode_body_text(data: bytes, message: Message, is_cut: bool) -> str | None:
    """Return the body as text, in the charset of its content type or else in UTF-8; None if it is not text."""
    match = CHARSET.search(field_text(message, b"content-type") or "")
    charset = match[1].lower() if match else "utf-8"
    if not TEXT_CHARSET.fullmatch(charset):
        charset = "utf-8"
    with contextlib.suppress(ValueError, LookupError):
        text = codecs.getincrementaldecoder(charset)().decode(data, final=not is_cut)
        return None if "\0" in text else text
    return None


def remove_coding(coding: str, data: bytes, limit: int) -> bytes | None:
    """Remove a content coding (RFC 9110 section 8.4.1). Return at most `limit` bytes; None if that is not possible."""
    decode = CODINGS.get(coding)
    try:
        return decode(data, limit) if decode else None
    except (ImportError, ValueError, zlib.error, EOFError):
        return None
    except Exception as error:  # The classes of brotli's and zstandard's errors are not known here.
        log.debug("cannot decode %s: %s", coding, error)
        return None


def inflate(data: bytes, limit: int) -> bytes:
    """Decode gzip (also of several members) and deflate, with zlib's header or, as some servers send it, without."""
    decoded = b""
    while data and len(decoded) < limit:
        raw = data[:1] != b"\x1f" and (data[0] & 15 != 8 or int.from_bytes(data[:2].ljust(2)) % 31)
        decoder = zlib.decompressobj(-15 if raw else 47)
        decoded += decoder.decompress(data, limit - len(decoded))
        data = decoder.unused_data
    return decoded


def unbrotli(data: bytes, limit: int) -> bytes:
    return bytes(importlib.import_module("brotli").Decompressor().process(data, output_buffer_limit=limit))[:limit]


def unzstd(data: bytes, limit: int) -> bytes:
    if sys.version_info >= (3, 14):
        return bytes(importlib.import_module("compression.zstd").ZstdDecompressor().decompress(data, limit))
    decoder = importlib.import_module("zstandard").ZstdDecompressor()
    return bytes(decoder.stream_reader(data, read_across_frames=True).read(limit))


CODINGS: dict[str, Callable[[bytes, int], bytes]] = {
    **dict.fromkeys(("gzip", "x-gzip", "deflate"), inflate),
    "identity": lambda data, limit: data[:limit],
    "br": unbrotli,
    "zstd": unzstd,
}


class HTTPAnalyzer:
    """Frames in, exchanges out.

    If headers is True, exchanges have all header lines. If bodies is True, they have the bodies, each of at most
    max_body_bytes.
    """

    def __init__(self, *, headers: bool = False, bodies: bool = False, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.dropped = 0  # connections that were dropped because of MAX_CONNECTIONS or MAX_BUFFERED_BYTES
        self.cut_frames = 0  # frames whose TCP payload was cut by the snapshot length
        self.foreign = Counter[str]()  # connections by the other protocol that they carry
        self._headers = headers
        self._max_body_bytes = max_body_bytes
        self._store = BodyStore(max_body_bytes) if bodies else None
        self._frames = FrameReader()
        self._segment = self._frames.segment
        self._ended: list[Exchange] = []
        self._now = self._swept = 0.0
        self._buffered_bytes = 0  # bytes of memory that depend on the peers' data
        self._streams: dict[bytes, Stream] = {}
        # In the order of the last packet. The second one holds those that wait for missing bytes, or after a RST.
        self._conversations: OrderedDict[Conversation, None] = OrderedDict()
        self._unsettled: OrderedDict[Conversation, float] = OrderedDict()

    @property
    def unread(self) -> Counter[str]:
        """Return how many frames could not be read, by the reason."""
        return self._frames.unread

    def feed(self, time: float, linktype: int, frame: bytes) -> list[Exchange]:
        """Return the exchanges that end with this frame (epoch seconds; link types of tcpdump.org/linktypes.html)."""
        segment = self._segment(linktype, frame)
        if segment is None:
            return []
        key, seq, ack, flags, data, cut = segment
        stream = self._streams.get(key)
        if stream is None or flags & SYN or stream.conversation.closed:
            stream = self._open(stream, key, seq, flags) if data or cut or flags & SYN else None
        if stream is None:
            return []
        conversation = stream.conversation
        self._now = max(self._now, time)
        if self._now - conversation.seen > SWEEP_S:
            self._touch(conversation)
        if flags & (FIN | SYN | RST) or cut or conversation.out_of_order_segments or conversation.is_reset:
            self._receive(stream, time, segment)
        elif data:
            reader = stream.reader
            if seq != stream.next & MASK or ack != stream.peer.next & MASK:
                self._receive(stream, time, segment)
            elif len(data) < reader.left and reader.counting and conversation.last is stream:
                stream.next += len(data)  # the short way for most segments: only count the bytes
                reader.left -= len(data)
                reader.message.size += len(data)  # type: ignore[union-attr]
                reader.time = time
            else:
                conversation.deliver(stream, time, data)
                self._update(conversation)
        return self._take() if self._ended else []

    def _receive(self, stream: Stream, time: float, segment: Segment) -> None:
        """Pass on a segment that is not the next one in order."""
        conversation = stream.conversation
        _, seq, ack, flags, data, cut = segment
        if conversation.closed:
            return
        self.cut_frames += cut > 0
        conversation.receive(stream, time, seq, ack, flags, data, cut)
        if conversation.out_of_order_segments or conversation.is_reset:
            self._unsettled[conversation] = self._now
            self._unsettled.move_to_end(conversation)
        self._update(conversation)

    def sweep(self, time: float) -> list[Exchange]:
        """Return the exchanges that end because no packet came for a while. time: epoch seconds, now."""
        self._now = max(self._now, time)
        self._sweep()
        return self._take()

    def flush(self) -> list[Exchange]:
        """Return the exchanges that are not complete: the capture has ended."""
        while self._conversations:
            self._drop(next(iter(self._conversations)))
        return self._take()

    def notes(self) -> Counter[str]:
        """Return what could not be read so far: sentences without their first word, which is the count."""
        notes = Counter({f"frames {kind} not read": count for kind, count in self.unread.items()})
        notes += Counter({f"connections with {name} not read": count for name, count in self.foreign.items()})
        notes["frames cut by the snapshot length: capture with tcpdump -s 0"] = self.cut_frames
        notes["connections dropped, because there were too many, or they needed too much memory"] = self.dropped
        return +notes

    def _take(self) -> list[Exchange]:
        ended, self._ended = self._ended, []
        return ended

    def _touch(self, conversation: Conversation) -> None:
        """Note that a connection is active. This happens at most once per SWEEP_S and connection."""
        conversation.seen = self._now
        self._conversations.move_to_end(conversation)
        if self._now - self._swept > SWEEP_S:
            self._sweep()

    def _sweep(self) -> None:
        """Drop the idle connections, and declare the missing bytes of waiting ones lost."""
        self._swept = self._now
        while self._conversations:
            oldest = next(iter(self._conversations))
            if oldest.seen >= self._now - IDLE_S:
                break
            self._drop(oldest)
        while self._unsettled:
            conversation, since = next(iter(self._unsettled.items()))
            if since >= self._now - GRACE_S:
                break
            del self._unsettled[conversation]
            conversation.advance(self._now)
            self._update(conversation)

    def _update(self, conversation: Conversation) -> None:
        """Collect the pairs of a connection, and count the memory that it needs."""
        if conversation.pairing.pairs:
            self._collect(conversation)
        memory = conversation.memory()
        if memory != conversation.buffered_bytes:
            self._buffered_bytes += memory - conversation.buffered_bytes
            conversation.buffered_bytes = memory
            while self._buffered_bytes > MAX_BUFFERED_BYTES:
                self._drop_oldest()

    def _collect(self, conversation: Conversation) -> None:
        pairs, conversation.pairing.pairs = conversation.pairing.pairs, []
        for request, response in pairs:
            exchange = make_exchange(conversation.streams[0].key, request, response, self._headers)
            self._ended.append(self._with_bodies(exchange, request, response) if self._store else exchange)

    def _with_bodies(self, exchange: Exchange, request: Message | None, response: Message | None) -> Exchange:
        bodies = make_body(request, self._max_body_bytes), make_body(response, self._max_body_bytes)
        for message in (request, response):
            if message and self._store:
                self._store.release(message)
        problems = exchange.problems
        if any(body and body.is_cut for body in bodies):
            problems += ("body cut",)
        return exchange._replace(problems=problems, request_body=bodies[0], response_body=bodies[1])

    def _open(self, stream: Stream | None, key: bytes, seq: int, flags: int) -> Stream | None:
        """Return the stream of a segment that may be the first one of a connection: ports are used again.

        Return None for a SYN that does not belong to the open connection. Anyone can send it; the server's answer
        will show whether it is real (RFC 5961 section 4).
        """
        if stream:
            behind = distance(stream.next, seq)
            is_repeated = seq == stream.isn if stream.isn != UNKNOWN else 0 <= behind < MAX_OUT_OF_ORDER_BYTES
            if flags & SYN:
                is_same = is_repeated or stream.next == UNKNOWN
            else:  # If the sender of a RST continues, the RST was not accepted.
                is_same = -MAX_OUT_OF_ORDER_BYTES < behind < REUSE_BYTES and not stream.is_reset
            if is_same:
                return stream
            if flags & (SYN | ACK) == SYN and not stream.conversation.closed and stream.peer.isn != UNKNOWN:
                return None
            self._drop(stream.conversation)
        if len(self._conversations) >= MAX_CONNECTIONS:
            self._drop_oldest()
        conversation = Conversation(key, self._store, flags & SYN > 0)
        self._conversations[conversation] = None
        self._streams.update((side.key, side) for side in conversation.streams)
        return conversation.streams[0]

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._conversations))
        self.dropped += not oldest.closed
        self._drop(oldest)

    def _drop(self, conversation: Conversation) -> None:
        conversation.close()
        self._collect(conversation)
        self._buffered_bytes -= conversation.buffered_bytes
        if conversation.foreign:
            self.foreign[conversation.foreign] += 1
        self._unsettled.pop(conversation, None)
        del self._conversations[conversation]
        for stream in conversation.streams:  # Both have the same key if a packet goes to its own source.
            self._streams.pop(stream.key, None)


def exchanges(analyzer: HTTPAnalyzer, batches: Iterator[list[Record]], live: bool = False) -> Iterator[Exchange]:
    """Return the exchanges in batches of records. In a live capture, an empty batch shows that time has passed."""
    feed = analyzer.feed
    try:
        for batch in batches:
            if live and not batch:
                yield from analyzer.sweep(time.time())
            for time_ns, _, linktype, _, frame in batch:
                if ended := feed(time_ns / NANO, linktype, frame):
                    yield from ended
    except CaptureError:
        yield from analyzer.flush()
        raise
    yield from analyzer.flush()


def analyze(path: str, filter: str = "", *, headers: bool = False, bodies: bool = False) -> Iterator[Exchange]:
    """Return the exchanges in a capture file (pcap or pcapng, also compressed by gzip; "-" is standard input).

    filter is a BPF expression. headers and bodies have the same meaning as for HTTPAnalyzer. Raises OSError, and
    CaptureError after the packets that can be read if the file is damaged.
    """
    with contextlib.ExitStack() as files:
        source = CaptureFile(files, path, filter, Stop())
        yield from exchanges(HTTPAnalyzer(headers=headers, bodies=bodies), source.batches())


# Formats: from an exchange to text.


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def clamp_time(time: float) -> float:
    """Return a time that datetime accepts: a capture file may contain any."""
    return min(max(time, 0.0), LAST_TIME_S)


@lru_cache(64)
def format_time(second: int, form: str) -> str:
    return time.strftime(form, time.localtime(clamp_time(second)))


def format_seconds(seconds: float) -> str:
    value = seconds
    unit = "s"
    for smaller in ("ms", "µs"):
        if value < 0.9995:  # Three digits would not round it to 1.
            value *= 1e3
            unit = smaller
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


def text_line(exchange: Exchange, saved: str | None = None, colors: bool = False) -> str:
    """Return time, status, duration, size, method and URL; then problems, the saved file, and header lines."""
    second, microseconds = divmod(round(exchange.time * 1e6), 1_000_000)  # The float of 2.1 s can be a little less.
    moment = f"{format_time(second, '%H:%M:%S')}.{microseconds // 1000:03}"
    status = str(exchange.status or "-").rjust(3)
    if colors and (exchange.status or 0) >= 400:
        status = f"\x1b[{33 if exchange.status < 500 else 31}m{status}\x1b[0m"  # type: ignore[operator]
    duration = "-" if exchange.duration_s is None else f"{exchange.duration_s * 1e3:,.1f} ms"
    size = "-" if exchange.response_bytes is None else f"{exchange.response_bytes:,} B"
    url = (exchange.url or exchange.server).replace(" ", "%20")  # A peer must not be able to forge a column.
    end = f"{exchange.method or '-'} {url}" + "".join(f" [{problem}]" for problem in exchange.problems)
    if saved is not None:
        end += f" -> {saved}"
    line = f"{moment} {status} {duration:>10} {size:>11} " + (end if end.isprintable() else printable(end))
    for arrow, headers in ((">", exchange.request_headers), ("<", exchange.response_headers)):
        line += "".join(f"\n  {arrow} {printable(f'{name}: {value}')}" for name, value in headers or ())
    return line


def body_columns(name: str, body: Body | None) -> dict[str, str | None]:
    """Return a body for JSON: text, or base64 if it is not text."""
    if body is None or body.text is not None:
        return {name: body.text if body else None, f"{name}_encoding": None}
    return {name: base64.b64encode(body.data).decode(), f"{name}_encoding": "base64"}


PLAIN_KEYS = Exchange._fields[:-4]  # without headers and bodies
encode_json = json.JSONEncoder(check_circular=False).encode


def json_line(exchange: Exchange, saved: str | None = None, bodies: bool = False) -> str:
    columns: dict[str, Any] = dict(zip(PLAIN_KEYS, exchange, strict=False))
    if exchange.request_headers is not None or exchange.response_headers is not None:
        columns["request_headers"] = exchange.request_headers
        columns["response_headers"] = exchange.response_headers
    if bodies:
        columns |= body_columns("request_body", exchange.request_body)
        columns |= body_columns("response_body", exchange.response_body)
    if saved is not None:
        columns["saved"] = saved
    return encode_json(columns)


def combined_line(exchange: Exchange, saved: str | None = None) -> str:
    """Return a line of Apache's Combined Log Format. 499 is nginx's status for a request that got no response."""
    moment = format_time(int(exchange.time), "%d/%b/%Y:%H:%M:%S %z")
    headers = {name.lower(): value for name, value in exchange.request_headers or ()}
    size = "-" if exchange.response_bytes is None else exchange.response_bytes
    texts = [f"{exchange.method} {exchange.target} HTTP/{exchange.version}" if exchange.method else "-"]
    texts += [headers.get("referer") or "-", exchange.user_agent or "-"]
    request, referer, agent = (printable(text.replace("\\", "\\\\")).replace('"', "\\x22") for text in texts)
    address = exchange.client.rpartition(":")[0].strip("[]")
    return f'{address} - - [{moment}] "{request}" {exchange.status or 499} {size} "{referer}" "{agent}"'


def har_entry(exchange: Exchange, saved: str | None = None) -> str:
    """Return an entry of HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/)."""
    total, wait = (round((seconds or 0.0) * 1e3, 3) for seconds in (exchange.duration_s, exchange.ttfb_s))
    timings = {"blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 0, "wait": wait}
    address, _, port = exchange.server.rpartition(":")
    entry: dict[str, Any] = {
        "pageref": "page_1",
        "startedDateTime": datetime.fromtimestamp(clamp_time(exchange.time), UTC).isoformat(timespec="milliseconds"),
        "time": total,
        "request": har_request(exchange),
        "response": har_response(exchange),
        "cache": {},
        "timings": timings | {"receive": round(total - wait, 3)},
        "serverIPAddress": address.strip("[]"),
        "connection": port,
        "_client": exchange.client,
        "comment": ", ".join(exchange.problems),
    }
    return json.dumps(entry)


def har_request(exchange: Exchange) -> dict[str, Any]:
    url = har_url(exchange)
    queries = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    request: dict[str, Any] = {"method": exchange.method or "GET", "url": url, "queryString": name_value_pairs(queries)}
    request |= har_message(exchange, exchange.request_headers, exchange.request_bytes)
    if exchange.request_body:
        body = exchange.request_body
        kinds = [value for name, value in exchange.request_headers or () if name.lower() == "content-type"]
        request["postData"] = {"mimeType": kinds[0] if kinds else "", "params": [], **har_text(body)}
    return request


def har_response(exchange: Exchange) -> dict[str, Any]:
    body = exchange.response_body
    size = exchange.response_bytes
    locations = [value for name, value in exchange.response_headers or () if name.lower() == "location"]
    content = {"size": len(body.data) if body else size or 0, "mimeType": exchange.content_type or "x-unknown"}
    if body:
        content |= har_text(body)
    return {
        "status": exchange.status or 0,
        "statusText": exchange.reason or "",
        "content": content,
        "redirectURL": locations[0] if locations else "",
        **har_message(exchange, exchange.response_headers, size),
    }


def har_message(exchange: Exchange, headers: Iterable[tuple[str, str]] | None, size: int | None) -> dict[str, Any]:
    """Return what requests and responses have in common."""
    pairs = name_value_pairs(headers or ())
    common: dict[str, Any] = {"httpVersion": f"HTTP/{exchange.version or '1.1'}", "cookies": [], "headers": pairs}
    return common | {"headersSize": -1, "bodySize": -1 if size is None else size}


def har_text(body: Body) -> dict[str, str]:
    text = body_columns("text", body)
    comment = {"comment": "The end of the body was cut."} if body.is_cut else {}
    encoding = {"encoding": "base64"} if body.text is None else {}
    return {"text": str(text["text"])} | encoding | comment


def har_url(exchange: Exchange) -> str:
    """Return a URL that browsers accept. A client may send any, and one that they refuse would end their import."""
    url = quote(exchange.url or "", safe="!#$%&'()*+,/:;=?@[]~")
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        host = parts.hostname or ""
        if host[-1:].isdigit() or ":" in host:
            ip_address(host)
        elif len(host) <= 253:  # RFC 1035; the decoder's time is quadratic
            host.encode().decode("idna")
        if parts.scheme in ("http", "https") and HOST.fullmatch(parts.netloc) and parts.port != 0:
            return url
    return f"http://{exchange.server}/"


def name_value_pairs(items: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in items]


HOST = re.compile(r"(?=.{1,260}\Z)([\w-]+(\.[\w-]+)*|\[[\da-fA-F:.]+\])(:\d{1,5})?", re.ASCII)
# A function of an exchange and the name of the file with its body, or None.
FORMATS: dict[str, Callable[..., str]] = {
    "text": text_line,
    "json": json_line,
    "combined": combined_line,
    "har": har_entry,
}
PAGE: dict[str, Any] = {
    "startedDateTime": "1970-01-01T00:00:00Z",
    "id": "page_1",
    "title": PROGRAM,
    "pageTimings": {"onLoad": -1},
}
HAR: dict[str, Any] = {
    "version": "1.2",
    "creator": {"name": PROGRAM, "version": __version__},
    "pages": [PAGE],
    "entries": [],
}
HAR_BEGIN, HAR_END = json.dumps({"log": HAR}).split("]}}")[0] + "\n", "\n]}}\n"


class BodyFiles:
    """Write response bodies to files in a folder, for --save. No file is overwritten."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers: dict[str, int] = {}  # the last number of a name that was taken

    def save(self, exchange: Exchange) -> str | None:
        """Write the body of a response; return the path of the file, or None if there is no body. Raises OSError."""
        body = exchange.response_body
        if body is None:
            return None
        os.makedirs(self._folder, exist_ok=True)
        name = safe_name(exchange)
        for number in itertools.count(self._numbers.get(name, 0)):
            path = os.path.join(self._folder, numbered(name, number))
            try:
                with open(path, "xb") as file:
                    file.write(body.data)
            except FileExistsError:
                continue
            if len(self._numbers) >= MAX_HOSTS:
                del self._numbers[next(iter(self._numbers))]
            self._numbers[name] = number + 1
            return path
        return None


def safe_name(exchange: Exchange) -> str:
    """Return a file name from host and path, with ASCII letters, digits, and "-", "." and "_" only."""
    path = (exchange.url or exchange.server).partition("://")[2].partition("?")[0].partition("#")[0]
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", (path or exchange.server)[:2_000]).strip("_.")
    return name or "body"


def numbered(name: str, number: int) -> str:
    """Return the name with a number before its extension, if the number is not 0; at most MAX_NAME_BYTES long."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension) > 10 or "_" in extension:
        stem, dot, extension = name, "", ""
    end = (f"-{number}" if number else "") + dot + extension
    return stem[: MAX_NAME_BYTES - len(end)] + end


# Summary: statistics in memory that does not grow with the capture.

EXPLANATIONS = {
    "no response": "the capture contains no response to the request, or it is not certain which one",
    "no request": "the capture contains no request for the response, or it is not certain which one",
    "gap": "the capture lacks bytes of the connection",
    "snapshot length": "the capture contains only the first bytes of each frame",
    "cut off": "the message ends before its length, or the connection was reset",
    "malformed": "the bytes are not HTTP/1, or the head is too long",
    "body cut": "the body is longer than --max-body, or all bodies together reached their limit",
}


class Durations:
    """A histogram of seconds. The buckets are `precision` per power of e."""

    def __init__(self, precision: int) -> None:
        self._precision = precision
        self.buckets = Counter[int]()
        self.maximum = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[round(self._precision * math.log(max(seconds, 1e-6)))] += 1
        self.maximum = max(self.maximum, seconds)

    def percentile(self, share: float) -> float:
        """Return the seconds that a share of the values does not exceed, to the precision of the buckets."""
        below = 0
        total = self.buckets.total()
        for bucket, count in sorted(self.buckets.items()):
            below += count
            if below >= share * total:
                return min(math.exp(bucket / self._precision), self.maximum)
        return self.maximum

    def steps(self) -> list[tuple[float, int]]:
        """Return a coarser histogram: three steps per power of ten, each with its upper end in seconds."""
        steps = Counter[int]()
        for bucket, count in self.buckets.items():
            steps[math.ceil(3 * bucket / self._precision / math.log(10) - 1e-9)] += count
        return [(10 ** (step / 3), steps[step]) for step in range(min(steps), max(steps) + 1)]

    def as_dict(self) -> dict[str, float]:
        points = {f"p{percent}_s": self.percentile(percent / 100) for percent in (50, 90, 95, 99)}
        return points | {"max_s": self.maximum}


class URLStatistics:
    """How often a URL without its query was requested, and the durations."""

    def __init__(self) -> None:
        self.count = 0
        self.durations = Durations(25)


class Summary:
    """The statistics that --summary prints."""

    def __init__(self) -> None:
        self.exchanges = self.request_bytes = self.response_bytes = 0
        self.hosts, self.statuses, self.methods, self.problems = (Counter[str]() for _ in range(4))
        self.durations = Durations(50)
        self.urls: dict[str, URLStatistics] = {}

    def add(self, exchange: Exchange) -> None:
        self.exchanges += 1
        self.request_bytes += exchange.request_bytes or 0
        self.response_bytes += exchange.response_bytes or 0
        count_limited(self.hosts, (exchange.host or exchange.server)[:255], MAX_HOSTS)
        self.statuses[str(exchange.status or "none")] += 1
        count_limited(self.methods, exchange.method or "unknown", MAX_METHODS)
        self.problems.update(exchange.problems)
        if exchange.url:
            self._url(exchange.url.partition("?")[0][:MAX_URL_CHARACTERS]).count += 1
        if exchange.duration_s is not None:
            self.durations.add(exchange.duration_s)
            self._url((exchange.url or "").partition("?")[0][:MAX_URL_CHARACTERS]).durations.add(exchange.duration_s)

    def _url(self, url: str) -> URLStatistics:
        if url not in self.urls and len(self.urls) >= MAX_URLS:
            url = "(other URLs)"
        return self.urls.setdefault(url, URLStatistics())

    def frequent_urls(self) -> list[tuple[str, URLStatistics]]:
        return sorted(self.urls.items(), key=lambda item: -item[1].count)[:10]

    def slowest_urls(self) -> list[tuple[str, URLStatistics]]:
        with_durations = [item for item in self.urls.items() if item[1].durations.buckets]
        return sorted(with_durations, key=lambda item: -item[1].durations.maximum)[:10]

    def lines(self) -> Iterator[str]:
        """Return the summary as text."""
        sent, received = f"{self.request_bytes:,}", f"{self.response_bytes:,}"
        yield f"{self.exchanges:,} exchanges; bodies of requests: {sent} bytes, of responses: {received} bytes"
        yield from count_table("host", self.hosts, self.exchanges)
        yield from count_table("status", self.statuses, self.exchanges)
        yield from count_table("method", self.methods, self.exchanges)
        if self.durations.buckets:
            yield from self._duration_lines()
            yield from url_table("most frequent URLs", self.frequent_urls())
            yield from url_table("slowest URLs", self.slowest_urls())
        if self.problems:
            yield "\nproblems"
            for problem, count in self.problems.most_common():
                yield f"{count:>10,}  {problem}: {EXPLANATIONS.get(problem, '')}"

    def _duration_lines(self) -> Iterator[str]:
        yield "\nresponse times, from the first byte of the request to the last byte of the response"
        points = [
            f"p{percent} {format_seconds(self.durations.percentile(percent / 100))}" for percent in (50, 90, 95, 99)
        ]
        yield "  " + "  ".join([*points, f"max {format_seconds(self.durations.maximum)}"])
        steps = self.durations.steps()
        longest = max(count for _, count in steps)
        for end, count in steps:
            yield f"  up to {format_seconds(end):>7}  {'█' * math.ceil(40 * count / longest)} {count:,}"

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as one JSON object."""
        tables = {"hosts": self.hosts, "statuses": self.statuses, "methods": self.methods, "problems": self.problems}
        return {
            "exchanges": self.exchanges,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            **{name: dict(counter.most_common()) for name, counter in tables.items()},
            "response_times": self.durations.as_dict() if self.durations.buckets else None,
            "histogram": [{"up_to_s": end, "count": count} for end, count in self.histogram()],
            "frequent_urls": [url_columns(*item) for item in self.frequent_urls()],
            "slowest_urls": [url_columns(*item) for item in self.slowest_urls()],
        }

    def histogram(self) -> list[tuple[float, int]]:
        return self.durations.steps() if self.durations.buckets else []


def count_limited(counter: Counter[str], key: str, limit: int) -> None:
    counter[key if key in counter or len(counter) < limit else "(others)"] += 1


def count_table(title: str, counter: Counter[str], total: int) -> Iterator[str]:
    """Return the ten most frequent keys in columns, with counts and shares."""
    if not counter:
        return
    rows = [(printable(key)[:50], count) for key, count in counter.most_common(10)]
    others = sum(counter.values()) - sum(count for _, count in rows)
    rows += [(f"{len(counter) - len(rows):,} others", others)] if others else []
    width = max(len(key) for key, _ in [(title, 0), *rows])
    yield f"\n{title:<{width}}      count   share"
    for key, count in rows:
        yield f"{key:<{width}} {count:>10,} {count / total:>7.1%}"


def url_table(title: str, rows: list[tuple[str, URLStatistics]]) -> Iterator[str]:
    yield f"\n{title}\n{'count':>10} {'p50':>8} {'p95':>8} {'max':>8}  URL without query"
    for url, statistics in rows:
        durations = statistics.durations
        times = [durations.percentile(0.5), durations.percentile(0.95), durations.maximum]
        texts = [format_seconds(seconds) if durations.buckets else "-" for seconds in times]
        yield f"{statistics.count:>10,} {texts[0]:>8} {texts[1]:>8} {texts[2]:>8}  {printable(url)}"


def url_columns(url: str, statistics: URLStatistics) -> dict[str, Any]:
    times = statistics.durations.as_dict() if statistics.durations.buckets else {}
    percentiles = {name: times.get(name) for name in ("p50_s", "p95_s", "max_s")}
    return {"url": url, "count": statistics.count, **percentiles}


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


def print_status(message: str, end: str = "\n") -> None:
    """Print a line to standard error."""
    if sys.stderr and message:
        with contextlib.suppress(OSError):
            print(message, end=end, file=sys.stderr, flush=True)


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
    add_capture_arguments(parser)
    add_output_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    if args.r and args.i:
        parser.error("-r reads files and -i captures: use only one of them")
    if args.summary and args.format not in ("text", "json"):
        parser.error(f"--summary prints text or JSON, not --format {args.format}")
    if args.bodies and (args.summary or args.format not in ("json", "har")):
        print_message("warning", "--bodies has no effect here; use it with --json or --format har, or use --save DIR")
    for first, *others in args.r or ():
        args.files += [first, *filter(is_file, others)]
        args.filter = [*itertools.filterfalse(is_file, others), *args.filter]
    return args


def add_capture_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add("filter", nargs="*", metavar="FILTER", help="a BPF expression, see pcap-filter(7) (default: all TCP)")
    add("-i", metavar="IFACE", help='capture on this interface, or on "any" (default: that of the default route)')
    add("-r", metavar="FILE", nargs="+", action="append", help='read capture files; "-" is standard input')
    count = partial(bounded, int, 1, min(1_000_000_000_000, sys.maxsize))
    add("-c", type=count, metavar="COUNT", help="stop after COUNT exchanges")
    seconds = partial(bounded, float, 0.01, 86_400)
    add("--duration", type=seconds, metavar="SECONDS", help="stop after this time")
    parser.set_defaults(files=[])


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--format", choices=FORMATS, default="text", help="format of the exchanges (default: %(default)s)")
    add("--json", dest="format", action="store_const", const="json", help="same as --format json")
    add("--summary", action="store_true", help="print statistics instead of the exchanges")
    add("--headers", action="store_true", help="print all header lines")
    add("--bodies", action="store_true", help="add the bodies to --json and --format har")
    add("--save", metavar="DIR", help="write each response body to a file in DIR")
    limit = partial(bounded, int, 1, MAX_BODIES_BYTES)
    text = "keep at most this much of a body (default: %(default)s)"
    add("--max-body", type=limit, default=MAX_BODY_BYTES, metavar="BYTES", help=text)


def is_file(word: str) -> bool:
    """Return whether a word after -r is a file and not the beginning of the filter."""
    return word == "-" or os.path.exists(word) or word.endswith((".pcap", ".pcapng", ".cap", ".gz"))


def with_progress(source: CaptureFile | Live) -> Iterator[list[Record]]:
    """Return the batches, and show how much of a file is read if only standard error is a terminal."""
    shown_at = time.monotonic() if sys.stderr and sys.stderr.isatty() and not os.isatty(1) else sys.maxsize
    text = ""
    for batch in source.batches():
        if time.monotonic() - shown_at >= SWEEP_S:
            shown_at = time.monotonic()
            if isinstance(source, CaptureFile) and os.path.isfile(source.raw.name):
                text = f"{source.raw.tell():,} of {os.fstat(source.raw.fileno()).st_size:,} bytes"
                print_status(text, end="\r")
        yield batch
    print_status(" " * len(text), end="\r")


def until_stopped(stop: Stop, batches: Iterator[list[Record]]) -> Iterator[list[Record]]:
    """Return the batches until a stop is requested."""
    with contextlib.suppress(KeyboardInterrupt):
        for batch in batches:
            yield batch
            if stop:
                return


def default_filter() -> str:
    """Return DEFAULT_FILTER. Without libpcap, which compiles filters, return none, and read all packets."""
    try:
        importlib.import_module("scapy.libs.winpcapy")
    except OSError:
        return ""
    return DEFAULT_FILTER


def wants_colors() -> bool:
    return os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Run:
    """A run of the program."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.stop = Stop(args.duration)
        self.failed = False
        self.notes = Counter[str]()
        self._files = BodyFiles(args.save) if args.save else None
        options = {"text": {"colors": wants_colors()}, "json": {"bodies": args.bodies}}
        self._make_line = partial(FORMATS[args.format], **options.get(args.format, {}))

    def exchanges(self) -> Generator[Exchange]:
        """Return the exchanges of all files, or of the network."""
        paths: list[str | None] = self.args.files or [None]
        for path in paths:
            if self.stop:
                return
            try:
                yield from self._exchanges_of(path)
            except (CaptureError, OSError, ImportError) as error:
                self._print_error(path, error)

    def _exchanges_of(self, path: str | None) -> Iterator[Exchange]:
        args = self.args
        headers = args.headers or args.format in ("combined", "har")
        bodies = args.save or (args.bodies and args.format in ("json", "har"))
        analyzer = HTTPAnalyzer(headers=headers, bodies=bool(bodies), max_body_bytes=args.max_body)
        with contextlib.ExitStack() as files:
            source = self._open(files, path)
            files.callback(self._count_notes, analyzer, source)
            yield from exchanges(analyzer, until_stopped(self.stop, with_progress(source)), path is None)

    def _open(self, files: contextlib.ExitStack, path: str | None) -> CaptureFile | Live:
        expression = " ".join(self.args.filter)
        if path is not None:
            return CaptureFile(files, path, expression, self.stop)
        check_first_word(self.args.filter)
        live = Live(files, self.args.i, expression or default_filter(), RECEIVE_BUFFER_BYTES, promiscuous=True)
        if message := drop_privileges(None, []):
            print_message("info", message)
        print_status(f"Reading HTTP on {printable(live.interface)}... Press Ctrl+C to stop.")
        return live

    def _print_error(self, path: str | None, error: Exception) -> None:
        self.failed = True
        text = getattr(error, "strerror", None) or str(error)
        if isinstance(error, ImportError):
            text = "this needs scapy: pip install scapy"
        print_message("error", printable(text if path is None else f"{path}: {text}"))

    def _count_notes(self, analyzer: HTTPAnalyzer, source: CaptureFile | Live) -> None:
        self.notes += analyzer.notes()
        if drops := source.drops():
            print_message("warning", f"the kernel dropped {drops:,} packets: use a narrower FILTER, or tcpdump -w")

    def write(self) -> None:
        """Write the exchanges or the summary to standard output, and the notes to standard error."""
        with output_errors(), contextlib.closing(self.exchanges()) as all_exchanges:
            selected = itertools.islice(all_exchanges, self.args.c)
            if self.args.summary:
                self._write_summary(selected)
            else:
                self._write_exchanges(selected)
        for note, count in self.notes.most_common():
            noun, _, what = note.partition(" ")
            print_message("info", f"{count:,} {noun if count > 1 else noun.removesuffix('s')} {what}")

    def _write_exchanges(self, selected: Iterator[Exchange]) -> None:
        begin, end = (HAR_BEGIN, HAR_END) if self.args.format == "har" else ("", "")
        flush = not self.args.files or not all(map(os.path.isfile, self.args.files))
        print(begin, end="")
        with contextlib.suppress(KeyboardInterrupt):
            for number, exchange in enumerate(selected):
                line = self._make_line(exchange, self._save(exchange))
                if end:
                    print((",\n" if number else "") + line, end="", flush=flush)
                else:
                    print(line, flush=flush)
        print(end, end="", flush=True)

    def _write_summary(self, selected: Iterator[Exchange]) -> None:
        summary = Summary()
        with contextlib.suppress(KeyboardInterrupt):
            for exchange in selected:
                self._save(exchange)
                summary.add(exchange)
        text = json.dumps(summary.as_dict()) if self.args.format == "json" else "\n".join(summary.lines())
        print(text, flush=True)

    def _save(self, exchange: Exchange) -> str | None:
        """Save the body of the response, if that is wanted. Return the path of the file."""
        if self._files is None:
            return None
        try:
            return self._files.save(exchange)
        except OSError as error:
            print_message("error", f"cannot save to {printable(self.args.save)}: {error.strerror}")
            sys.exit(1)


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    logging.basicConfig(format=f"{PROGRAM}: info: %(message)s", level=logging.INFO)
    logging.getLogger("scapy.runtime").setLevel(logging.CRITICAL)  # Errors of scapy are printed by this program.
    run = Run(args)
    run.stop.catch_signals()
    run.write()
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
