#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["scapy>=2.5"]
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
# The script imports scapy at run time. scapy is GPL-2.0-only, which matters if both are distributed together.
"""Print a line for each packet of an interface or of a capture file: addresses, ports and names (DNS, TLS, HTTP). The
script decodes tens of thousands of packets in a second; it resolves no names and reassembles no streams.

examples:
  sudo python sniff.py                        capture until Ctrl+C
  sudo python sniff.py -i any -c 10 port 53   ten packets of port 53
  sudo python sniff.py -w out.pcap --print    write and print packets
  sudo python sniff.py -w ring -C 100 -W 5    the last 400 to 500 MB, in files
  python sniff.py -r out.pcap --json 'tcp[tcpflags] & tcp-syn != 0'
  sudo python sniff.py --top                  tables of traffic and names
"""

import argparse
import codecs
import contextlib
import ctypes
import errno
import functools
import gzip
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
import stat
import struct
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

__all__ = ["CaptureError", "Packet", "capture", "decode", "read"]
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


# Packets: from the bytes of a frame to what its line shows.

MAX_TAGS = 8  # VLAN tags, MPLS labels or IPv6 extension headers; a frame with more of them is malformed
MAX_INFO_CHARS = 200
DECODING_ERRORS = (struct.error, LookupError, ValueError, OSError)  # for damaged packets; inet_ntoa() raises OSError
MAX_NAME_POINTERS, MAX_NAME_BYTES, MAX_RECORDS = 16, 255, 20  # limits for a DNS message (RFC 1035 section 4.1.4)
MAX_FIELDS = 100  # extensions of a TLS ClientHello, or options of a DHCP message
MAX_CUT_HELLOS = 256  # beginnings of ClientHellos that are kept until their next segment arrives
HELLO = "TLS ClientHello"
SHOWN_ANSWERS = 4  # answers of a DNS message that are printed; the others are counted
ARP = 0x0806
ETHERTYPES = {0x8863: "PPPoE-D", 0x888E: "EAPOL", 0x88CC: "LLDP", 0x88F7: "PTP"}
PROTOCOLS = {
    1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "IPv6-in-IP", 47: "GRE", 50: "ESP", 51: "AH",
    58: "ICMPv6", 89: "OSPF", 103: "PIM", 112: "VRRP", 132: "SCTP", 136: "UDPLite",
}  # fmt: skip
ICMP = {  # The name of a type, and the names of its codes from 0.
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
RECORD_TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 35: "NAPTR", 43: "DS",
    46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 252: "AXFR", 255: "ANY", 257: "CAA",
}  # fmt: skip
# By record type: the offset of the target name in the record's data (RFC 1035 section 3.3, RFC 2782, RFC 9460)
TARGET_OFFSETS = {"CNAME": 0, "NS": 0, "PTR": 0, "SOA": 0, "MX": 2, "HTTPS": 2, "SVCB": 2, "SRV": 6}
OPCODES = {4: "NOTIFY ", 5: "UPDATE "}  # RFC 1996, RFC 2136
RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH"}
DHCP_TYPES = ("", "Discover", "Offer", "Request", "Decline", "ACK", "NAK", "Release", "Inform")  # RFC 2132 section 9.6
HTTP_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE", b"PROPFIND")
HTTP_HOST = re.compile(rb"\r\nHost:[ \t]*(\S{1,255})", re.IGNORECASE)

Fields = dict[str, Any]  # the values of a packet, with the keys of Packet
Decoder = Callable[[Fields, bytes], None]  # It adds the values of a payload.
Decoded = list[tuple[Record, Fields]]  # the packets of a batch
Types = tuple[int, ...]  # of ICMP messages

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the text direction (UAX 9)
NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# The pattern also contains control characters, line and paragraph separators, surrogates and the byte order mark.
UNPRINTABLE = re.compile(f"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{BIDIRECTIONAL}{NONCHARACTERS}]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet. A value that it does not have is None.

    time: epoch seconds
    length: bytes on the wire
    proto: the innermost protocol of the packet that has a name
    src, dst: IP addresses, or link-layer addresses if it carries no IP
    flags: TCP flags such as "SYN, ACK"
    info: text about the payload (DNS, TLS, HTTP, DHCP, ICMP, ARP, the packet inside a tunnel or an ICMP error)
    name: the name in a DNS query, the server name of TLS, or the host of an HTTP request
    vlan: VLAN IDs, the outermost first
    fragment: offset of an IP fragment in bytes
    truncated: the snapshot length cut the packet
    malformed: the packet violates its protocol
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
    name: str | None = None
    vlan: tuple[int, ...] | None = None
    fragment: int | None = None
    interface: str | None = None
    truncated: bool = False
    malformed: bool = False


def decode(
    frame: bytes, linktype: int, *, time: float = 0.0, length: int | None = None, interface: str | None = None
) -> Packet:
    """Return the packet in a frame. It never raises: what cannot be read is marked as truncated or malformed.

    linktype: a number of https://www.tcpdump.org/linktypes.html. length: bytes on the wire, if the frame was cut.
    """
    length = len(frame) if length is None else length
    fields = dissect(frame, linktype, length)
    if "vlan" in fields:
        fields["vlan"] = tuple(fields["vlan"])
    return Packet(time=time, length=length, interface=interface, **fields)


def dissect(frame: bytes, linktype: int, length: int) -> Fields:
    """Decode a frame into a dict. decode() wraps it in a Packet, which doubles the cost."""
    fields: Fields = {"proto": ""}
    try:
        if linktype == ETHERNET and frame[12:14] == b"\x08\0":  # the most frequent kind
            ipv4(fields, frame, 14)
        elif linktype in LINK_LAYERS:
            fields["proto"], read_header = LINK_LAYERS[linktype]
            network(fields, frame, *read_header(frame))
            if linktype == ETHERNET and "src" not in fields:
                fields["src"], fields["dst"] = frame[6:12].hex(":"), frame[:6].hex(":")
        else:
            fields["proto"] = f"link type {linktype}"
    except DECODING_ERRORS:
        fields["malformed"] = True
    if len(frame) < length:
        fields.pop("malformed", None)  # The packet may be correct beyond the cut.
        fields["truncated"] = True
    return fields


# The beginnings of ClientHellos, by the addresses, ports and sequence number of the next segment
cut_hellos: dict[tuple[Any, ...], bytes] = {}

unpack_16, unpack_2x16 = struct.Struct("!H").unpack_from, struct.Struct("!HH").unpack_from
unpack_ipv4, unpack_ipv6 = struct.Struct("!BxHxxHxB10x").unpack_from, struct.Struct("!B3xHBx32x").unpack_from
unpack_dns, unpack_record = struct.Struct("!2xHHH").unpack_from, struct.Struct("!H6xH").unpack_from
unpack_tcp, unpack_udp = struct.Struct("!4xI4xH6x").unpack_from, struct.Struct("!4xHxx").unpack_from


def network(fields: Fields, frame: bytes, kind: int, at: int) -> None:
    """Decode the payload of an EtherType."""
    if kind in NETWORKS:
        NETWORKS[kind](fields, frame, at)
    elif kind:
        fields["proto"] = ETHERTYPES.get(kind) or (f"0x{kind:04x}" if kind >= 0x0600 else "802.3")
    elif fields["proto"] == "Ethernet":
        fields["proto"] = "802.3"


def vlan(fields: Fields, frame: bytes, at: int) -> None:
    """Decode all VLAN tags (IEEE 802.1Q) that follow each other."""
    tags = fields["vlan"] = list[int]()
    kind = VLANS[0]
    while kind in VLANS:
        tag, kind = unpack_2x16(frame, at)
        at += 4
        tags.append(tag & 0xFFF)
        if len(tags) > MAX_TAGS:
            raise ValueError
    network(fields, frame, kind, at)


def pppoe(fields: Fields, frame: bytes, at: int) -> None:
    """Decode the payload of a PPPoE session (RFC 2516)."""
    fields["proto"] = "PPPoE"
    network(fields, frame, *read_ppp(frame, at + 6))


def arp(fields: Fields, frame: bytes, at: int) -> None:
    """Decode ARP for IPv4 (RFC 826)."""
    fields["proto"] = "ARP"
    _, kind, long, short, operation = struct.unpack_from("!HHBBH", frame, at)
    fields["info"] = f"operation {operation}"
    if (kind, short) == (IPV4, 4):
        form = f"!{long}s4s{long}s4s"
        hardware, sender, _, target = struct.unpack_from(form, frame, at + 8)
        src, dst = fields["src"], fields["dst"] = socket.inet_ntoa(sender), socket.inet_ntoa(target)
        texts = {1: f"who-has {dst} tell {src}", 2: f"{src} is-at {hardware.hex(':')}"}
        fields["info"] = texts.get(operation, fields["info"])


def mpls(fields: Fields, frame: bytes, at: int) -> None:
    """Decode IP below MPLS labels (RFC 3032); the lowest bit of the third byte ends the stack."""
    fields["proto"] = "MPLS"
    end = next((end for end in range(at + 4, at + 4 * MAX_TAGS + 4, 4) if frame[end - 2] & 1), 0)
    if not end:
        raise ValueError
    tunnel(fields, *read_raw(frame, end), frame)


def ipv4(fields: Fields, frame: bytes, at: int) -> None:
    fields["proto"] = "IPv4"
    first, total, fragment, protocol = unpack_ipv4(frame, at)
    start = at + (first & 15) * 4
    end = at + total if total else len(frame)  # With segmentation offload, the field can be 0.
    if first >> 4 != 4 or start < at + 20 or (total and end < start):
        raise ValueError
    if fragment & 0x3FFF:
        fields["fragment"] = (fragment & 0x1FFF) * 8
    transport(fields, frame[:end], frame[at + 12 : at + 20], protocol, start, end)


def ipv6(fields: Fields, frame: bytes, at: int) -> None:
    """Decode IPv6 and its extension headers (RFC 8200)."""
    fields["proto"] = "IPv6"
    first, total, protocol = unpack_ipv6(frame, at)
    addresses, at = frame[at + 8 : at + 40], at + 40
    if first >> 4 != 6:
        raise ValueError
    fields.update(address_fields(addresses, b"")[0])
    end = at + total if total or protocol else len(frame)  # A jumbogram has the length 0.
    headers = 0
    while protocol in (0, 43, 44, 51, 60, 135) and not fields.get("fragment"):
        headers += 1
        if headers > MAX_TAGS:
            raise ValueError
        following, size = struct.unpack_from("!BB", frame, at)
        if protocol == 44:
            fields["fragment"] = unpack_16(frame, at + 2)[0] & 0xFFF8
            size = 0
        at += (size + 2) * 4 if protocol == 51 else (size + 1) * 8
        protocol = following
    transport(fields, frame[:end], addresses, protocol, at, end)


def transport(fields: Fields, packet: bytes, addresses: bytes, protocol: int, at: int, end: int) -> None:
    """Decode the payload of IP. Only the first fragment of a packet has ports."""
    fields["proto"] = PROTOCOLS.get(protocol) or f"IP protocol {protocol}"
    is_first = not fields.get("fragment")
    if len(packet) < end:
        fields["malformed"] = True
    ports = packet[at : at + 4] if is_first and protocol in (6, 17, 132, 136) else b""
    addresses_and_ports, decoder = address_fields(addresses, ports)
    fields.update(addresses_and_ports)
    if is_first and protocol in TRANSPORTS:
        TRANSPORTS[protocol](fields, packet, at, decoder)


@lru_cache(8192)
def address_fields(addresses: bytes, ports: bytes) -> tuple[Fields, Decoder | None]:
    """Return addresses and ports as fields, and the decoder of the ports' payload. Most packets are in the cache."""
    half = len(addresses) // 2
    family = socket.AF_INET if half == 4 else socket.AF_INET6
    fields: Fields = {key: socket.inet_ntop(family, addresses[i:][:half]) for key, i in (("src", 0), ("dst", half))}
    if len(ports) < 4:
        return fields, None
    fields["sport"], fields["dport"] = sport, dport = unpack_2x16(ports)
    return fields, PORT_DECODERS.get(dport) or PORT_DECODERS.get(sport)


def tcp(fields: Fields, packet: bytes, at: int, decoder: Decoder | None) -> None:
    seq, bits = unpack_tcp(packet, at)
    fields["flags"] = FLAGS[bits & 511]
    start = at + (bits >> 12) * 4
    if not at + 20 <= start <= len(packet):
        raise ValueError
    beginning = packet[start : start + 3]
    if beginning in STREAM_DECODERS:
        decode_payload(STREAM_DECODERS[beginning], fields, packet[start:])
    elif decoder is dns and beginning:
        decode_payload(dns, fields, packet[start + 2 :])  # after the length (RFC 1035 section 4.2.2)
    if beginning and (cut_hellos or fields.get("info") == HELLO):
        join_hello(fields, seq, packet[start:])


def join_hello(fields: Fields, seq: int, data: bytes) -> None:
    """Find the server name in a ClientHello that needs several segments, as the key shares of ML-KEM do."""
    ends = (fields["src"], fields["dst"], fields["sport"], fields["dport"])
    beginning = cut_hellos.pop((*ends, seq), b"")
    next_seq = (seq + len(data)) & 0xFFFFFFFF
    data = beginning + data
    if beginning:
        decode_payload(tls, fields, data)
    is_cut = fields.get("info") == HELLO and len(data) < 5 + unpack_16(data, 3)[0]
    if is_cut and "malformed" not in fields:  # The snapshot length has not cut it.
        cut_hellos[(*ends, next_seq)] = data
        if len(cut_hellos) > MAX_CUT_HELLOS:
            del cut_hellos[next(iter(cut_hellos))]


def udp(fields: Fields, packet: bytes, at: int, decoder: Decoder | None) -> None:
    if 0 < unpack_udp(packet, at)[0] < 8:
        raise ValueError
    if decoder:
        decode_payload(decoder, fields, packet[at + 8 :])


def icmp(
    names: dict[int, str], echoes: Types, errors: Types, fields: Fields, packet: bytes, at: int, _: object
) -> None:
    """Decode ICMP (RFC 792, RFC 4443). An error message contains the beginning of the packet that caused it."""
    kind, code = struct.unpack_from("!BBxx", packet, at)
    text, _, codes = names.get(kind, f"type {kind}").partition(": ")
    known = codes.split(", ") if codes else []
    if known or code:
        text += f", {known[code]}" if code < len(known) else f", code {code}"
    if len(packet) >= at + 8:
        word = unpack_2x16(packet, at + 4)
        if kind in echoes:
            text += ", id {}, seq {}".format(*word)
        elif text.endswith(("fragmentation needed", "packet too big")):
            text += f", MTU {word[1]}"  # RFC 1191 section 4, RFC 4443 section 3.2
    if names is ICMP6 and kind in (135, 136) and len(packet) >= at + 24:
        text += f" {socket.inet_ntop(socket.AF_INET6, packet[at + 8 : at + 24])}"  # RFC 4861 section 4.3
    fields["info"] = text
    if kind in errors and len(packet) > at + 8:
        tunnel(fields, *read_raw(packet, at + 8), packet, f"{text}: ")


# Payloads: names and first lines. set_info() escapes and cuts the text, because it comes from the network.


def decode_payload(decoder: Decoder, fields: Fields, data: bytes) -> None:
    """Run a decoder. An error only ends the decoding, because other protocols use the same ports, too."""
    try:
        decoder(fields, data)
    except DECODING_ERRORS:
        return


def set_info(fields: Fields, text: str, name: str = "") -> None:
    fields["info"] = escaped(text)
    if name:
        fields["name"] = escaped(name)


def escaped(text: str) -> str:
    text = text[:MAX_INFO_CHARS]
    return text if text.isprintable() else printable(text)[:MAX_INFO_CHARS]


def dns(fields: Fields, message: bytes) -> None:
    """Decode the questions or the answers of a DNS message (RFC 1035 section 4.1)."""
    bits, questions, answers = unpack_dns(message)
    opcode = OPCODES.get(bits >> 11 & 15, "")
    asked = []
    at = 12
    for _ in range(min(questions, MAX_RECORDS)):
        name, at = dns_name(message, at)
        asked.append((name, record_type(unpack_16(message, at)[0])))
        at += 4
    if not bits >> 15:
        shown = ", ".join([f"{kind}? {name}" for name, kind in asked[:SHOWN_ANSWERS]])
        return set_info(fields, opcode + shown, asked[0][0])
    names = [name for name, _ in asked]
    if bits & 15:
        set_info(fields, opcode + " ".join([RCODES.get(bits & 15) or f"rcode {bits & 15}", *names]))
    else:
        none = "(truncated)" if bits & 0x200 else "(no answer)"  # The client asks again over TCP if it is truncated.
        set_info(fields, opcode + (dns_answers(message, at, answers, names) or " ".join([*asked[0], none])))


def dns_answers(message: bytes, at: int, answers: int, names: list[str]) -> str:
    """Return the name, the types and the first values of the answers, as far as they can be read."""
    texts = names[:1]
    last = ""
    try:
        for _ in range(min(answers, SHOWN_ANSWERS)):
            if texts and message[at] >= 0xC0:
                at += 2  # The owner is a pointer, mostly to the name in the question.
            else:
                owner, at = dns_name(message, at)
                texts = texts or [owner]
            number, size = unpack_record(message, at)
            kind = record_type(number)
            if kind != last:
                texts.append(kind)
            last = kind
            value = dns_value(message, kind, at + 10, at + 10 + size)
            if value:
                texts.append(value)
            at += 10 + size
    except DECODING_ERRORS:
        texts.append("...")
    if answers > SHOWN_ANSWERS:
        texts.append(f"(+{answers - SHOWN_ANSWERS})")
    return " ".join(texts) if last else ""


def record_type(number: int) -> str:
    return RECORD_TYPES.get(number) or f"TYPE{number}"


def dns_name(message: bytes, at: int) -> tuple[str, int]:
    """Return a domain name and the offset behind it. Raise ValueError for a pointer forwards, or too many of them."""
    plain_end = message.find(0, at)
    wire = message[at:plain_end]
    if plain_end >= 0 and wire.isascii():  # A pointer is not ASCII.
        return plain_name(wire), plain_end + 1
    labels = []
    end = 0
    pointers = 0
    total = 0
    while size := message[at]:
        if size < 0x40:
            total += size
            labels.append(message[at + 1 : at + 1 + size])
            at += 1 + size
        else:
            target = (size & 0x3F) << 8 | message[at + 1]
            end = end or at + 2
            pointers += 1
            if size < 0xC0 or target >= at or pointers > MAX_NAME_POINTERS:
                raise ValueError
            at = target
        if total > MAX_NAME_BYTES:
            raise ValueError
    return b".".join(labels).decode("utf-8", "backslashreplace") or ".", end or at + 1


@lru_cache(8192)
def plain_name(wire: bytes) -> str:
    """Return a domain name without pointers. Raise ValueError if a label extends beyond the end of the name."""
    labels = []
    at = 0
    while at < len(wire) and wire[at] < 0x40:
        labels.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    if at != len(wire) or at > MAX_NAME_BYTES:
        raise ValueError
    return b".".join(labels).decode() or "."


def dns_value(message: bytes, kind: str, start: int, end: int) -> str:
    """Return the text of a record's data: an address, a target name, or nothing for other types."""
    data = message[start:end]
    if kind == "A" and len(data) == 4:
        return socket.inet_ntoa(data)
    if kind == "AAAA" and len(data) == 16:
        return socket.inet_ntop(socket.AF_INET6, data)
    if kind in TARGET_OFFSETS:
        return dns_name(message, start + TARGET_OFFSETS[kind])[0]
    return data[1 : 1 + data[0]].decode("utf-8", "backslashreplace") if kind == "TXT" else ""


def tls(fields: Fields, data: bytes) -> None:
    """Find the server name in a ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3)."""
    if data[5] != 1:
        return
    set_info(fields, HELLO)
    at = 43  # after the headers of record and handshake, version and random
    at += 1 + data[at]  # session ID
    at += 2 + unpack_16(data, at)[0]  # cipher suites
    at += 3 + data[at]  # compression methods, and the length of all extensions
    for _ in range(MAX_FIELDS):
        kind, size = unpack_2x16(data, at)
        name = data[at + 9 : at + 4 + size].decode("utf-8", "backslashreplace") if kind == 0 else ""
        if name:
            return set_info(fields, f"TLS {name}", name)
        at += 4 + size


def http(fields: Fields, data: bytes) -> None:
    """Find the first line of an HTTP/1 message, and the host of a request (RFC 9112 section 3)."""
    line = data[: 4 * MAX_INFO_CHARS].partition(b"\n")[0].rstrip(b"\r")
    word = line.partition(b" ")[0]
    if word in HTTP_METHODS:
        host = HTTP_HOST.search(data)
        set_info(fields, line.decode("utf-8", "backslashreplace"), host[1].decode("latin-1") if host else "")
    elif word.startswith(b"HTTP/1."):
        set_info(fields, line.decode("utf-8", "backslashreplace"))


def dhcp(fields: Fields, data: bytes) -> None:
    """Find the type of a DHCP message, and the address that it offers or requests (RFC 2131 section 2)."""
    if data[236:240] != b"\x63\x82\x53\x63":
        return
    options = dict[int, bytes]()
    at = 240
    for _ in range(MAX_FIELDS):
        if data[at] == 255:
            break
        if data[at]:
            options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1] if data[at] else 1
    address = options.get(50) or (data[16:20] if any(data[16:20]) else data[12:16])
    kind = DHCP_TYPES[options[53][0]]
    set_info(fields, f"DHCP {kind} {socket.inet_ntoa(address) if any(address) else ''}".rstrip())


# Tunnels: `info` shows the inner packet.


class Inner(Fields):
    """The fields of a packet inside a tunnel. A tunnel inside it is not opened."""


def tunnel(fields: Fields, kind: int, at: int, packet: bytes, before: str = "") -> None:
    """Decode the inner packet, and show it in `info` after the text `before`."""
    if isinstance(fields, Inner):
        return
    inner = Inner(proto="")
    with contextlib.suppress(*DECODING_ERRORS):
        network(inner, packet, kind, at)
    if inner["proto"]:
        endpoints = conversation(*map(inner.get, ("src", "dst", "sport", "dport")))
        fields["info"] = f"{before}{inner['proto']}{endpoints} {inner.get('info', '')}".rstrip()[:MAX_INFO_CHARS]
        fields.update({key: inner[key] for key in ("name",) if key in inner})


def gre(fields: Fields, packet: bytes, at: int, _: object) -> None:
    """Decode GRE with its optional fields (RFC 2784, RFC 2890)."""
    bits, kind = unpack_2x16(packet, at)
    at += 4 + 4 * sum(bool(bits & bit) for bit in (0x8000, 0x2000, 0x1000))
    if kind in (0x6558, 0x88BE, 0x22EB):  # Ethernet; ERSPAN I has no header of its own, II has one after a sequence
        at += {0x6558: 0, 0x88BE: 8 if bits & 0x1000 else 0, 0x22EB: 12}[kind]
        kind, at = read_ethertype(packet, at + 12)
    tunnel(fields, kind, at, packet)


def ip_in_ip(fields: Fields, packet: bytes, at: int, _: object) -> None:
    tunnel(fields, *read_raw(packet, at), packet)


def vxlan(fields: Fields, data: bytes) -> None:
    """Decode VXLAN (RFC 7348 section 5)."""
    if data[0] & 8:
        tunnel(fields, *read_ethertype(data, 20), data)


PORT_DECODERS: dict[int, Decoder] = {53: dns, 5353: dns, 5355: dns, 67: dhcp, 68: dhcp, 4789: vxlan, 8472: vxlan}
# the first three bytes of a TCP payload
STREAM_DECODERS: dict[bytes, Decoder] = {b"\x16\x03" + bytes([minor]): tls for minor in range(5)}
STREAM_DECODERS |= {word[:3]: http for word in (*HTTP_METHODS, b"HTTP")}
TRANSPORTS: dict[int, Callable[[Fields, bytes, int, Decoder | None], None]] = {
    1: partial(icmp, ICMP, (0, 8), (3, 4, 5, 11, 12)), 4: ip_in_ip, 6: tcp, 17: udp, 41: ip_in_ip, 47: gre,
    58: partial(icmp, ICMP6, (128, 129), (1, 2, 3, 4)), 136: udp,
}  # fmt: skip
NETWORKS: dict[int, Callable[[Fields, bytes, int], None]] = {
    IPV4: ipv4, IPV6: ipv6, ARP: arp, MPLS: mpls, 0x8848: mpls, 0x8864: pppoe, **dict.fromkeys(VLANS, vlan),
}  # fmt: skip


# Formats: a packet as text.

DOTS = bytes(byte if 32 <= byte < 127 else ord(".") for byte in range(256))
FIRST_SECOND, LAST_SECOND = -62_135_510_400, 253_402_214_400  # the years 1 to 9999 in all time zones, for strftime()
MAX_COUNTED = 20_000  # rows that --top counts; above that, the half with the fewest bytes is dropped
LOOK_S = 1.0  # interval in which --top and progress are shown
WARNING_INTERVAL_S = 3.0  # interval in which drops are reported
TABLES = ("protocol", "name", "address", "conversation")  # the tables of --top


def format_line(
    record: Record,
    fields: Fields,
    format_time: Callable[[int], str] | None = None,
    link_addresses: bool = False,
    quiet: bool = False,
) -> str:
    """Return the line of a packet. link_addresses, quiet: tcpdump's options -e and -q."""
    time_ns, length, linktype, interface, frame = record
    get = fields.get
    before = time_of_day(time_ns) if format_time is None else format_time(time_ns)
    if interface:
        before += f"{printable(interface)} "
    if link_addresses and linktype == ETHERNET:
        before += f"{frame[6:12].hex(':')} > {frame[:6].hex(':')} "
    endpoints = conversation(get("src"), get("dst"), get("sport"), get("dport"))
    return f"{before}{fields['proto']}{endpoints} {length} bytes{format_notes(fields, quiet)}\n"


def format_notes(fields: Fields, quiet: bool) -> str:
    """Return the end of a line. quiet: only the VLANs."""
    notes = ""
    if "vlan" in fields:
        notes = f" vlan {', '.join(map(str, fields['vlan']))}"
    if quiet:
        return notes
    if "fragment" in fields:
        notes += f" fragment at {fields['fragment']}"
    if "flags" in fields:
        notes += f" [{fields['flags']}]"
    if "info" in fields:
        notes += f" {fields['info']}"
    if "truncated" in fields:
        notes += " [truncated]"
    if "malformed" in fields:
        notes += " [malformed]"
    return notes


@lru_cache(8192)
def conversation(src: str | None, dst: str | None, sport: int | None, dport: int | None) -> str:
    if src is None or dst is None:
        return ""
    return f" {src} > {dst}" if sport is None else f" {format_address((src, sport))} > {format_address((dst, dport))}"


def time_of_day(time_ns: int) -> str:
    second, fraction = divmod(time_ns, NANO)
    return f"{format_second('%H:%M:%S', second)}.{fraction // 1000:06d} "


def date_and_time(time_ns: int) -> str:
    second, fraction = divmod(time_ns, NANO)
    return f"{format_second('%Y-%m-%d %H:%M:%S', second)}.{fraction // 1000:06d} "


@lru_cache(64)
def format_second(form: str, second: int) -> str:
    try:
        return time.strftime(form, time.localtime(min(max(second, FIRST_SECOND), LAST_SECOND)))
    except (OSError, OverflowError):  # On Windows, time begins in 1970; on some 32-bit systems, it ends in 2038.
        return time.strftime(form, time.localtime(0))


def epoch(time_ns: int) -> str:
    sign, (second, fraction) = "-" * (time_ns < 0), divmod(abs(time_ns), NANO)
    return f"{sign}{second}.{fraction // 1000:06d} "


class Elapsed:
    """Format the time since the first packet, or since the one before (tcpdump's -ttttt and -ttt)."""

    def __init__(self, since_first: bool) -> None:
        self._since_first = since_first
        self._start_ns: int | None = None

    def __call__(self, time_ns: int) -> str:
        start = time_ns if self._start_ns is None else self._start_ns
        self._start_ns = start if self._since_first else time_ns
        sign, (second, fraction) = "-" * (time_ns < start), divmod(abs(time_ns - start), NANO)
        return f"{sign}{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{fraction // 1000:06d} "


def time_format(times: int) -> Callable[[int], str]:
    """Return the time format of tcpdump's options -t to -ttttt."""
    formats: tuple[Callable[[int], str], ...] = (
        time_of_day, lambda _: "", epoch, Elapsed(False), date_and_time, Elapsed(True),
    )  # fmt: skip
    return formats[min(times, 5)]


def format_address(address: tuple[Any, ...]) -> str:
    """Return an address as in URLs: 127.0.0.1:80 or [::1]:80 (RFC 3986 section 3.2.2)."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def to_json(batch: Decoded, link_addresses: bool = False) -> str:
    """Return the lines of a batch: one JSON object for each packet."""
    objects = []
    for (time_ns, length, linktype, interface, frame), fields in batch:
        columns = {"time": time_ns / NANO, "length": length, **fields}
        if interface:
            columns["interface"] = interface
        if link_addresses and linktype == ETHERNET:
            columns["link_src"], columns["link_dst"] = frame[6:12].hex(":"), frame[:6].hex(":")
        objects.append(columns)
    # Encoding them one by one takes 1.6 times as long. Inside a string, the quotation marks would have backslashes.
    return ENCODE(objects)[1:-1].replace('}, {"time": ', '}\n{"time": ') + "\n"


ENCODE = json.JSONEncoder(check_circular=False).encode


def payload_offset(linktype: int, frame: bytes) -> int:
    """Return where the link header ends, or 0 if that is not known."""
    with contextlib.suppress(KeyError, IndexError, struct.error):
        kind, at = LINK_LAYERS[linktype][1](frame)
        while kind in VLANS:
            kind = unpack_16(frame, at + 2)[0]
            at += 4
        return at
    return 0


def hex_dump(frame: bytes) -> str:
    rows = [(at, frame[at : at + 16]) for at in range(0, len(frame), 16)]
    return "".join(f"\t0x{at:04x}:  {row.hex(' ', -2):39}  {row.translate(DOTS).decode()}\n" for at, row in rows)


def ascii_dump(frame: bytes) -> str:
    return "".join(f"\t{line.translate(DOTS).decode()}\n" for line in frame.splitlines(keepends=True))


def scapy_dump(linktype: int, frame: bytes) -> str:
    """Return all fields of all layers, as scapy dissects them."""
    from scapy.all import Raw, conf

    try:
        text = str(conf.l2types.num2layer.get(linktype, Raw)(frame).show(dump=True))
    except Exception as error:  # scapy has many parsers, which raise exceptions of all kinds.
        text = f"scapy cannot dissect it: {error!r}"
    return "".join(f"\t{printable(line)}\n" for line in text.splitlines())


class Top:
    """Bytes and packets for each protocol, name, address and conversation.

    A name counts the packet that contains it, and all later packets of its conversation.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._names: dict[str, str] = {}  # flow: its name

    def add(self, fields: Fields, length: int) -> None:
        proto, src, dst, name = fields["proto"], fields.get("src"), fields.get("dst"), fields.get("name")
        keys = [("protocol", proto)]
        if src and dst:
            port = f" port {min(fields['sport'], fields['dport'])}" if "sport" in fields else ""
            talk = f"{proto} {' <> '.join(sorted((src, dst)))}{port}"
            keys += [("address", address) for address in {src, dst}]
            keys.append(("conversation", talk))
            if name and proto == "TCP":
                self._names[self._flow(fields)] = name
            elif proto == "TCP" and self._names:
                name = self._names.get(self._flow(fields))
        if name:
            keys.append(("name", name))
        for key in keys:
            count = self._counts.setdefault(key, [0, 0])
            count[0] += length
            count[1] += 1
        if len(self._counts) > MAX_COUNTED:
            self._counts = dict(self._sorted()[: MAX_COUNTED // 2])
        if len(self._names) > MAX_COUNTED:
            self._names.clear()

    @staticmethod
    def _flow(fields: Fields) -> str:
        return "{} {}".format(*sorted(((fields["src"], fields.get("sport")), (fields["dst"], fields.get("dport")))))

    def _sorted(self) -> list[tuple[tuple[str, str], list[int]]]:
        return sorted(self._counts.items(), key=lambda item: -item[1][0])

    def table(self, size: os.terminal_size) -> str:
        """Return the tables, with as many rows as fit on the terminal."""
        rows: dict[str, list[tuple[str, int, int]]] = {title: [] for title in TABLES}
        for (title, label), (length, packets) in self._sorted():
            rows[title].append((label, length, packets))
        tables = {title: entries for title, entries in rows.items() if entries or title != "name"}
        limit = max(1, (size.lines - 2) // len(tables) - 2)
        longest = max((len(label) for entries in tables.values() for label, _, _ in entries[:limit]), default=0)
        wide = min(max(36, longest), max(12, size.columns - 40))
        text = []
        for title, entries in tables.items():
            text.append(f"{title:{wide}} {'packets':>11} {'bytes':>15}")
            for label, length, packets in entries[:limit]:
                bar = "█" * round(length * max(0, size.columns - wide - 30) / (entries[0][1] or 1))
                label = label if len(label) <= wide else f"{label[: wide - 1]}…"
                text.append(f"{label:{wide}} {packets:11,} {length:15,} {bar}".rstrip())
            text.append("")
        return "\n".join(text[:-1])


# Library functions, and files to write.


def packets(source: CaptureFile | Live) -> Iterator[Packet]:
    for time_ns, length, linktype, name, frame in itertools.chain.from_iterable(source.batches()):
        yield decode(frame, linktype, time=time_ns / NANO, length=length, interface=name)


def capture(interface: str | None = None, filter: str = "", *, buffer_mib: int = 32) -> Iterator[Packet]:
    """Yield the packets of an interface that pass a BPF filter, until the loop ends or close() is called.

    interface: its name, "any" for all interfaces (Linux), or None for that of the default route. Raises CaptureError.
    """
    with contextlib.ExitStack() as files:
        yield from packets(Live(files, interface, filter, buffer_mib << 20, promiscuous=True))


def read(path: str, filter: str = "") -> Iterator[Packet]:
    """Yield the packets of a capture file that pass a BPF filter. Raises CaptureError and OSError."""
    with contextlib.ExitStack() as files:
        yield from packets(CaptureFile(files, path, filter, Stop()))


def open_output(path: str, source: io.FileIO | None) -> tuple[io.FileIO, bool]:
    """Return an empty file to write, and whether it was created. Raise CaptureError if that would damage a file.

    In a directory that others can write, links and files of other users are refused: they may be a trap for root.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
    with contextlib.suppress(FileExistsError):
        return io.FileIO(os.open(path, flags | os.O_EXCL, 0o666), "w"), True
    folder = os.stat(os.path.dirname(path) or ".")
    shared = os.name == "posix" and bool(folder.st_mode & 0o022)
    try:
        file = io.FileIO(os.open(path, flags | (os.O_NOFOLLOW if shared else 0), 0o666), "w")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CaptureError(f"{path} is a link in a directory that others can write; choose another -w") from None
        raise
    with contextlib.ExitStack() as unless_usable:
        unless_usable.callback(file.close)
        status = os.fstat(file.fileno())
        if source and os.path.samestat(status, os.fstat(source.fileno())):
            raise CaptureError(f"-w would overwrite {path} while it is read; choose another -w")
        if stat.S_ISREG(status.st_mode):
            owners = (folder.st_uid, os.geteuid(), int(os.environ.get("SUDO_UID", -1))) if shared else (status.st_uid,)
            if status.st_uid not in owners or (shared and status.st_nlink > 1):
                raise CaptureError(f"{path} belongs to another user; choose another -w")
            file.truncate(0)
        unless_usable.pop_all()
    return file, False


class CaptureWriter:
    """Write pcap files. Whatever happens, each file ends with a complete record.

    max_bytes: size above which another file is started (tcpdump's -C), or 0
    max_files: number of files, of which the oldest is reused (tcpdump's -W), or 0
    snaplen: bytes of a packet that are written, or 0 for all
    """

    def __init__(self, path: str, source: CaptureFile | Live, max_bytes: int = 0, max_files: int = 0, snaplen: int = 0):
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._snaplen = snaplen
        self._source = source
        self._number = 0
        self._linktype = -1
        self._size = 0
        self.created: list[int] = []
        self._open()

    def _open(self) -> None:
        if self._path == "-":
            self._file = io.FileIO(1, "w", closefd=False)
            return
        name = self._path
        digits = len(str(self._max_files - 1)) if self._max_files > 1 else 0
        if self._number or digits:
            name += f"{self._number:0{digits}d}"
        self._file, created = open_output(name, self._source.raw)
        if created:
            self.created.append(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def write(self, batch: list[Record], linktype: int, nano: bool) -> None:
        """Write packets, after the header. An empty batch writes the header alone, once the link type is known."""
        data = bytearray()
        if self._linktype < 0:
            self._linktype = batch[0][2] if batch else linktype
            self._unit = 1 if nano else 1000
            if self._linktype < 0:
                return
            data += self._header()
        for time_ns, length, linktype, _, frame in batch:
            if linktype != self._linktype:
                self._write(data)
                raise CaptureError("a pcap file has one link type, and these packets have several; use -i or a filter")
            if self._max_bytes and self._size + len(data) > self._max_bytes:
                self._write(data)
                self._rotate()
                data = self._header()
            second, fraction = divmod(time_ns, NANO)
            captured = frame[: self._snaplen] if self._snaplen else frame
            sizes = len(captured), max(length, len(frame))
            data += struct.pack("<IIII", second & 0xFFFFFFFF, fraction // self._unit, *sizes) + captured
        self._write(data)

    def _header(self) -> bytearray:
        magic = 0xA1B23C4D if self._unit == 1 else 0xA1B2C3D4
        snaplen = self._snaplen or MAX_FRAME_BYTES
        return bytearray(struct.pack("<IHHiIII", magic, 2, 4, 0, 0, snaplen, self._linktype))

    def _rotate(self) -> None:
        self._file.close()
        self._number += 1
        self._size = 0
        if self._max_files:
            self._number %= self._max_files
        self._open()

    def _write(self, data: bytearray) -> None:
        before = os.fstat(self._file.fileno()).st_size
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except (OSError, KeyboardInterrupt):
            with contextlib.suppress(OSError):  # A device cannot be truncated.
                self._file.truncate(before)
            raise
        self._size += len(data)


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
    count = partial(bounded, int, 1, 1_000_000_000_000)
    size = partial(bounded, float, 0.000_1, 1e9)
    add = parser.add_argument_group("capture").add_argument
    add("-i", metavar="IFACE", help='interface, or "any" for all (default: that of the default route)')
    add("-D", action="store_true", help="list the interfaces")
    add("-p", action="store_true", help="do not put the interface into promiscuous mode")
    add("--buffer", type=partial(bounded, int, 1, 1023), default=32, metavar="MIB", help="size of the kernel's buffer")
    add("--user", metavar="NAME", help="user to become after opening everything (default: the caller of sudo)")
    add("filter", nargs="*", metavar="FILTER", help="capture filter, see pcap-filter(7)")
    add = parser.add_argument_group("files").add_argument
    add("-r", metavar="FILE", help="read a capture file; - is standard input")
    add("-w", metavar="FILE", help="write the packets to a pcap file; - is standard output")
    add("-C", type=size, metavar="SIZE", help="start another file after SIZE million bytes")
    add(
        "-W", type=partial(bounded, int, 1, 1_000_000), metavar="COUNT", help="with -C, reuse the oldest of COUNT files"
    )
    add("-s", type=partial(bounded, int, 0, MAX_FRAME_BYTES), default=0, metavar="SNAPLEN", help="bytes that -w writes")
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print a JSON object for each packet")
    add("--top", action="store_true", help="count by protocol, name, address and conversation")
    add("--print", action="store_true", help="print the packets also with -w or --top")
    add("-q", action="store_true", help="print shorter lines, without flags and names")
    add("-e", action="store_true", help="print link-layer addresses")
    add(
        "-t", action="count", default=0, help="print no time; -tt epoch, -ttt delta, -tttt date, -ttttt since the first"
    )
    add("-X", action="count", default=0, help="dump the packet in hex and ASCII; -XX with the link header")
    add("-x", action="store_true", help="the same as -XX")
    add("-A", action="store_true", help="dump the packet as text")
    add("-v", action="store_true", help="print every field that scapy knows; slow")
    for habit in ("-n", "-l", "-U", "-S", "-K", "--immediate-mode"):
        add(habit, action="count", help="accepted as in tcpdump, without effect")
    add = parser.add_argument_group("limits").add_argument
    add("-c", type=count, metavar="COUNT", help="stop after COUNT packets")
    add("--duration", type=partial(bounded, float, 0.01, 86_400), metavar="S", help="stop after S seconds")
    args = parser.parse_intermixed_args(argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with status 2 if options contradict each other."""
    if (args.x or args.X) and args.A:
        parser.error("-x, -X and -A cannot be used together")
    if args.w == "-" and (args.print or args.top):
        parser.error("-w - uses standard output, so --print and --top cannot be used")
    if args.r is not None and args.i is not None:
        parser.error("-r and -i cannot be used together")
    if args.json and (args.X or args.x or args.A or args.v or args.top):
        parser.error("--json cannot be used with -X, -x, -A, -v and --top")
    if args.C and args.w in (None, "-"):
        parser.error("-C needs -w with a file name")
    if args.W and not args.C:
        parser.error("-W needs -C")


def list_interfaces() -> None:
    conf = scapy_conf()
    for interface in conf.ifaces.values():
        addresses = ", ".join(address for _, family in sorted(interface.ips.items()) for address in family)
        default = " (default)" if interface == conf.iface else ""
        print(f"{printable(interface.name)} {addresses}".rstrip() + default)


def batch_format(args: argparse.Namespace) -> Callable[[Decoded], str]:
    """Return the function that formats packets as the options ask for."""
    if args.json:
        return partial(to_json, link_addresses=args.e)
    line: Callable[[Record, Fields], str] = format_line
    if args.t or args.e or args.q:
        line = partial(format_line, format_time=time_format(args.t), link_addresses=args.e, quiet=args.q)
    dumps: list[Callable[[int, bytes], str]] = []
    if args.x or args.X > 1:
        dumps.append(lambda _, frame: hex_dump(frame))
    elif args.X:
        dumps.append(lambda linktype, frame: hex_dump(frame[payload_offset(linktype, frame) :]))
    if args.A:
        dumps.append(lambda _, frame: ascii_dump(frame))
    if args.v:
        dumps.append(scapy_dump)

    def line_and_dumps(record: Record, fields: Fields) -> str:
        return line(record, fields) + "".join(dump(record[2], record[4]) for dump in dumps)

    packet_text = line_and_dumps if dumps else line
    return lambda batch: "".join([packet_text(*item) for item in batch])


class Output:
    """Print and write batches of packets, and report counters."""

    def __init__(self, args: argparse.Namespace, source: CaptureFile | Live, writer: CaptureWriter | None) -> None:
        self._args = args
        self._source = source
        self._writer = writer
        self._top = Top() if args.top else None
        self._format = batch_format(args)
        self._lines = args.print or not (args.top or args.w)
        on_terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._refreshes = args.top and not self._lines and on_terminal
        self._shows_progress = args.r is not None and not on_terminal and sys.stderr is not None and sys.stderr.isatty()
        self._captured = 0
        self._looked_at = time.monotonic()
        self._warned_at = 0.0
        self._drops = 0
        self._progress = ""

    def run(self, stop: Stop) -> None:
        """Process batches until the source ends, enough packets were captured, or a stop is requested."""
        try:
            for batch in self._source.batches():
                self._write(batch[: self._args.c - self._captured] if self._args.c else batch)
                if self._captured == self._args.c or stop:
                    break
                if time.monotonic() - self._looked_at >= LOOK_S:
                    self._look()
        finally:
            print_status(" " * len(self._progress), end="\r")
            self._draw()
            dropped = "" if self._args.r else f"\n{self._source.drops()} packets dropped by kernel"
            print_status(f"{self._captured} packet{'s' * (self._captured != 1)} captured{dropped}")

    def _write(self, batch: list[Record]) -> None:
        self._captured += len(batch)
        if self._writer:
            self._writer.write(batch, self._source.linktype, self._source.nano)
        if not self._lines and not self._top:
            return
        decoded = [(record, dissect(record[4], record[2], record[1])) for record in batch]
        if self._top:
            for record, fields in decoded:
                self._top.add(fields, record[1])
        if self._lines and batch:
            with output_errors():
                print(self._format(decoded), end="", flush=True)

    def _look(self) -> None:
        """Refresh the tables, show progress and warn about dropped packets, once in a while."""
        self._looked_at = now = time.monotonic()
        if self._refreshes:
            self._draw()
        if self._shows_progress and isinstance(self._source, CaptureFile):
            size = os.fstat(self._source.raw.fileno()).st_size
            self._progress = f"{self._source.raw.tell():,} of {size:,} bytes"
            print_status(self._progress, end="\r")
        drops = self._source.drops() if now - self._warned_at >= WARNING_INTERVAL_S else 0
        if drops > self._drops:
            self._warned_at = now
            self._drops = drops
            hint = "use a narrower filter, -w or a larger --buffer"
            print_message("warning", f"the kernel has dropped {drops} packets; {hint}")

    def _draw(self) -> None:
        if self._top:
            with output_errors():
                start = "\x1b[H\x1b[J" if self._refreshes else ""
                size = shutil.get_terminal_size((80, 60))  # A file or a pipe gets 60 lines.
                print(start + self._top.table(size), flush=True)


def print_status(message: str, end: str = "\n") -> None:
    """Print a line to standard error."""
    if sys.stderr and message:
        with contextlib.suppress(OSError):
            print(message, end=end, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> None:
    check_first_word(args.filter)
    expression = " ".join(args.filter)
    stop = Stop(args.duration)
    stop.catch_signals()
    with contextlib.ExitStack() as files:
        if args.r is None:
            source: CaptureFile | Live = Live(files, args.i, expression, args.buffer << 20, not args.p)
        else:
            source = CaptureFile(files, args.r, expression, stop)
        writer = None
        if args.w is not None:
            writer = CaptureWriter(args.w, source, int((args.C or 0) * 1_000_000), args.W or 0, args.s)
            files.callback(writer.close)
            writer.write([], source.linktype, source.nano)  # A file without packets has a header, too.
        if args.v:
            print_message("info", "-v is slow" + ("; packets may be lost" if args.r is None else ""))
            scapy_dump(RAW, b"")  # It imports scapy's layers before privileges are dropped.
        if message := drop_privileges(args.user, writer.created if writer else []):
            print_message("info", message)
        if args.r is None:
            print_status(f"Starting packet capture on {printable(source.interface)}... Press Ctrl+C to stop.")
        Output(args, source, writer).run(stop)
        if writer:
            writer.write([], ETHERNET, False)  # the header, if a pcapng file contained no packets


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    logging.basicConfig(format=f"{PROGRAM}: info: %(message)s", level=logging.INFO)
    logging.getLogger("scapy.runtime").setLevel(logging.CRITICAL)  # main() prints errors itself.
    try:
        if args.D:
            with output_errors():
                list_interfaces()
        else:
            run(args)
        return 0
    except (KeyboardInterrupt, BrokenPipeError):
        return 0  # BrokenPipeError: the reader of -w - has ended.
    except ImportError:
        print_message("error", "scapy is missing; install it with: pip install scapy")
    except CaptureError as error:
        print_message("error", printable(f"{args.r}: {error}" if args.r else str(error)))
    except OSError as error:
        what = f"cannot write {args.w}" if error.filename is None else error.filename
        print_message("error", printable(f"{what}: {error.strerror}"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
