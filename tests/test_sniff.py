"""sniff.py: its decoding next to scapy's, files next to tcpdump's and tshark's, live captures of the tests' traffic."""

import contextlib
import ctypes
import errno
import gzip
import itertools
import json
import os
import pty
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from conftest import CABLE, ROOT, captures, filters, in_namespace, needs_ipv6, one_error, process_status
from scapy.all import (
    ARP,
    ICMP,
    IP,
    SCTP,
    TCP,
    UDP,
    CookedLinux,
    CookedLinuxV2,
    Dot1AD,
    Dot1Q,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPOption_RR,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Loopback,
    PcapNgWriter,
    Raw,
    conf,
    fuzz,
    raw,
)
from scapy.error import Scapy_Exception
from scapy.layers.dns import dnsqtypes

import sniff
from sniff import decode

TEN_LINES = "tests/ten_lines/sniff.py"
PORT = 20_000 + os.getpid() % 10_000  # so that two suites at a time do not see each other
LO = ("-i", "lo")
CONTROL = re.compile(r"[^\n\t -~]")


def needs(program):
    return pytest.mark.skipif(not shutil.which(program), reason=f"needs {program}")


V4, V6 = IP(src="192.0.2.1", dst="198.51.100.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
# The link types, how scapy makes them, and the version of IP they can carry
LINKS = {
    "Ethernet": (1, Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"), (4, 6)),
    "cooked v1": (113, CookedLinux(), (4, 6)),
    "cooked v2": (276, CookedLinuxV2(), (4, 6)),
    "NULL": (0, Loopback(), (4, 6)),
    "raw 12": (12, None, (4, 6)),
    "raw 14": (14, None, (4, 6)),
    "raw 101": (101, None, (4, 6)),
    "IPv4": (228, None, (4,)),
    "IPv6": (229, None, (6,)),
}
TRANSPORTS = {
    "TCP": TCP(sport=40_912, dport=80, flags="SA"),
    "TCP with options": TCP(sport=1, dport=65_535, flags="FPU", options=[("MSS", 1460), ("WScale", 7)]),
    "UDP": UDP(sport=53, dport=40_000) / b"\x1b[31m",
    "SCTP": SCTP(sport=2, dport=3),
}
FRAMES = {
    f"{link}, IPv{version}, {name}": (number, raw(over / payload if over else payload))
    for link, (number, over, versions) in LINKS.items()
    for version in versions
    for name, payload in {name: (V4 if version == 4 else V6) / layer for name, layer in TRANSPORTS.items()}.items()
}
ETHER = LINKS["Ethernet"][1]
OTHERS = {
    "VLAN": ETHER / Dot1Q(vlan=5) / V4 / UDP(sport=1, dport=2),
    "two VLANs": ETHER / Dot1AD(vlan=6) / Dot1Q(vlan=5) / V6 / UDP(sport=1, dport=2),
    "ARP who-has": ETHER / ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2"),
    "ARP is-at": ETHER / ARP(op=2, psrc="10.0.0.1", pdst="10.0.0.2", hwsrc="02:00:00:00:00:09"),
    "ICMP": ETHER / V4 / ICMP(type=3, code=3) / IP() / UDP(),
    "ICMPv6": ETHER / V6 / ICMPv6DestUnreach(code=4) / IPv6() / UDP(),
    "neighbour": ETHER / V6 / ICMPv6ND_NS(tgt="fe80::1"),
    "IPv4 options": ETHER / IP(src="1.1.1.1", dst="2.2.2.2", options=[IPOption_RR()]) / TCP(sport=7, dport=8),
    "IPv6 extensions": ETHER / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(sport=7, dport=8),
    "IPv4 fragment": ETHER / IP(src="1.1.1.1", dst="2.2.2.2", frag=185, proto=17) / (b"x" * 40),
    "IPv6 fragment": ETHER / V6 / IPv6ExtHdrFragment(offset=181, nh=17) / (b"x" * 40),
    "LLDP": ETHER / Raw(b"x" * 50),
}
ALL_FRAMES = [*FRAMES.values(), *((1, raw(packet)) for packet in OTHERS.values())]
MIXED = [frame for linktype, frame in ALL_FRAMES if linktype == 1]
ETHER_FRAME, NOBODY = raw(ETHER / V4 / UDP()), 65_534


def line_of(frame, linktype, length=None):
    record = (1_700_000_000_123_456_000, length or len(frame), linktype, None, frame)
    fields = sniff.dissect(frame, linktype, length or len(frame))
    json.loads(sniff.to_json([(record, fields)]))
    return sniff.format_line(record, fields)


def other(name):
    return decode(raw(OTHERS[name]), 1)


@pytest.mark.parametrize("name", FRAMES)
def test_every_link_type_and_transport_is_decoded_as_scapy_does(name):
    linktype, frame = FRAMES[name]
    packet = decode(frame, linktype, time=1.5)
    layer = conf.l2types.num2layer.get(linktype) or (IPv6 if frame[0] >> 4 == 6 else IP)
    scapy_packet = layer(frame)
    ip = scapy_packet[IP if IP in scapy_packet else IPv6]
    inner = ip.payload
    assert (packet.time, packet.length, packet.proto) == (1.5, len(frame), type(inner).__name__)
    assert (packet.src, packet.dst, packet.sport, packet.dport) == (ip.src, ip.dst, inner.sport, inner.dport)
    if TCP in scapy_packet:
        letters = {"F": "FIN", "S": "SYN", "P": "PSH", "A": "ACK", "U": "URG"}
        assert packet.flags == ", ".join(letters[letter] for letter in str(inner.flags))
    assert (packet.truncated, packet.malformed, packet.fragment, packet.vlan) == (False, False, None, None)


@pytest.mark.parametrize("family", [10, 24, 28, 30])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("linktype", [0, 108])
def test_every_systems_number_of_ipv6_is_known(family, order, linktype):
    packet = decode(struct.pack(order + "I", family) + raw(V6 / UDP(sport=1, dport=2)), linktype)
    assert (packet.proto, packet.src, packet.sport) == ("UDP", "2001:db8::1", 1)


def test_vlan_tags_from_outside_in():
    assert (other("VLAN").vlan, other("VLAN").sport) == ((5,), 1)
    assert (other("two VLANs").vlan, other("two VLANs").dport) == ((6, 5), 2)


def test_arp_requests_and_answers_are_described():
    assert other("ARP who-has").info == "who-has 10.0.0.2 tell 10.0.0.1"
    assert other("ARP is-at").info == "10.0.0.1 is-at 02:00:00:00:00:09"
    assert (other("ARP who-has").src, other("ARP who-has").dst) == ("10.0.0.1", "10.0.0.2")


def test_icmp_messages_are_described():
    inner = "UDP 127.0.0.1:53 > 127.0.0.1:53"
    assert (other("ICMP").proto, other("ICMP").info, other("ICMP").sport) == (
        "ICMP",
        f"unreachable, port: {inner}",
        None,
    )
    assert (other("ICMPv6").proto, other("ICMPv6").info) == ("ICMPv6", "unreachable, port: UDP [::1]:53 > [::1]:53")
    assert other("neighbour").info == "neighbor solicitation fe80::1"
    assert decode(raw(V4 / ICMP(type=200, code=9)), 101).info == "type 200, code 9"
    assert decode(raw(IP(proto=1) / b"\x08\0\0\0"), 101).info == "echo request"


@pytest.mark.parametrize(
    ("packet", "info"),
    [
        (V4 / ICMP(type=3, code=3) / IP(src="1.1.1.1", dst="2.2.2.2") / UDP(sport=5, dport=6),
         "unreachable, port: UDP 1.1.1.1:5 > 2.2.2.2:6"),
        (V4 / ICMP(type=11) / raw(IP(src="1.1.1.1", dst="2.2.2.2") / TCP(sport=5, dport=80))[:28],
         "time exceeded, in transit: TCP 1.1.1.1:5 > 2.2.2.2:80"),
        (V4 / ICMP(type=3, code=4, nexthopmtu=1400) / IP(src="1.1.1.1", dst="2.2.2.2", proto=50),
         "unreachable, fragmentation needed, MTU 1400: ESP 1.1.1.1 > 2.2.2.2"),
        (V4 / ICMP(type=3, code=1), "unreachable, host"),
        (V4 / ICMP(type=3, code=1) / b"\x45", "unreachable, host: IPv4"),
        (V6 / ICMPv6PacketTooBig(mtu=1280) / IPv6(src="::1", dst="::2") / UDP(sport=5, dport=6),
         "packet too big, MTU 1280: UDP [::1]:5 > [::2]:6"),
        (V6 / ICMPv6DestUnreach(code=4) / IPv6(src="::1", dst="::2") / ICMPv6EchoRequest(id=7, seq=8),
         "unreachable, port: ICMPv6 ::1 > ::2 echo request, id 7, seq 8"),
        (V6 / ICMPv6TimeExceeded() / IPv6(src="::1", dst="::2"), "time exceeded, in transit: IP protocol 59 ::1 > ::2"),
        (V6 / ICMPv6ParamProblem() / IPv6(src="::1", dst="::2"),
         "parameter problem, header field: IP protocol 59 ::1 > ::2"),
    ],
)  # fmt: skip
def test_icmp_errors_show_the_packet_that_caused_them(packet, info):
    assert decode(raw(packet), 101).info == info


def test_ip_options_and_extension_headers_are_skipped():
    assert (other("IPv4 options").sport, other("IPv4 options").flags) == (7, "SYN")
    assert (other("IPv6 extensions").proto, other("IPv6 extensions").dport) == ("TCP", 8)


def test_later_fragments_have_no_ports():
    four, six = other("IPv4 fragment"), other("IPv6 fragment")
    assert (four.proto, four.fragment, four.sport, four.src) == ("UDP", 1480, None, "1.1.1.1")
    assert (six.proto, six.fragment, six.sport, six.src) == ("UDP", 1448, None, "2001:db8::1")
    first = decode(raw(IP(flags="MF") / UDP(sport=1, dport=2)), 101)
    assert (first.fragment, first.sport) == (0, 1)


def test_padding_is_not_read_as_ports():
    packet = decode(raw(ETHER / IP(src="1.1.1.1", dst="2.2.2.2", proto=6, len=20)) + b"\x01" * 26, 1)
    assert (packet.sport, packet.malformed) == (None, True)


def test_what_is_not_ip_has_its_ethernet_type_and_addresses():
    packet = decode(raw(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x1234)), 1)
    assert (packet.proto, packet.src, packet.dst) == ("0x1234", "02:00:00:00:00:01", "02:00:00:00:00:02")
    assert decode(raw(Ether(type=0x88CC)), 1).proto == "LLDP"
    assert decode(raw(Ether(type=40)) + bytes(40), 1).proto == "802.3"


def test_an_unknown_link_type_has_number_and_length():
    assert line_of(b"x" * 30, 147).endswith(" link type 147 30 bytes\n")


def test_a_cut_packet_differs_from_a_malformed_one():
    frame = raw(ETHER / V4 / TCP(sport=1, dport=2))
    assert (decode(frame[:40], 1, length=54).truncated, decode(frame[:40], 1, length=54).malformed) == (True, False)
    assert (decode(frame[:40], 1).truncated, decode(frame[:40], 1).malformed) == (False, True)
    assert decode(frame[:40], 1, length=54).sport == 1
    assert "[truncated]" in line_of(frame[:40], 1, 54)


def changed(packet, at, *values):
    data = bytearray(raw(packet))
    data[at : at + len(values)] = values
    return bytes(data)


@pytest.mark.parametrize(
    "frame",
    [
        changed(V4 / UDP(), 0, 0x55),
        changed(V4 / UDP(), 0, 0x44),
        changed(V4 / UDP(), 2, 0, 19),
        changed(V4 / UDP(), 2, 0, 29),
        changed(V4 / UDP(), 24, 0, 7),
        changed(V4 / TCP(), 32, 0x40),
        changed(V4 / TCP(), 32, 0x60),
        changed(V6 / UDP(), 4, 0, 9),
    ],
    ids=[
        "IP version", "IP header length", "IP length in the header", "IP length beyond the end", "UDP length",
        "TCP offset in the header", "TCP offset beyond the end", "IPv6 length beyond the end",
    ],
)  # fmt: skip
def test_a_packet_whose_lengths_contradict_is_malformed(frame):
    ethertype = b"\x86\xdd" if frame[0] >> 4 == 6 else b"\x08\0"
    assert decode(bytes(12) + ethertype + frame, 1).malformed


def test_ipv6_with_another_version_is_malformed():
    assert decode(bytes(12) + b"\x86\xdd" + changed(V6 / UDP(), 0, 0x50), 1).malformed


def test_other_link_layers_than_ethernet_have_no_link_addresses():
    assert decode(bytes(14) + b"\x88\xcc" + bytes(20), 113).src is None
    assert decode(b"\xff\3\xc0\x21" + bytes(20), 9).proto == "PPP"


def test_lines():
    assert re.fullmatch(
        r"\d\d:\d\d:20\.123456 TCP 192\.0\.2\.1:40912 > 198\.51\.100\.2:80 54 bytes \[SYN, ACK\]\n",
        line_of(raw(ETHER / V4 / TRANSPORTS["TCP"]), 1),
    )
    assert line_of(raw(ETHER / V4 / TCP(flags="A") / "GET / HTTP/1.1\r\n"), 1).endswith(" [ACK] GET / HTTP/1.1\n")
    assert " UDP [2001:db8::1]:1 > [2001:db8::2]:2 " in line_of(raw(OTHERS["two VLANs"]), 1)
    assert line_of(raw(OTHERS["IPv4 fragment"]), 1).endswith(" UDP 1.1.1.1 > 2.2.2.2 74 bytes fragment at 1480\n")


def test_every_frame_cut_anywhere_is_decoded():
    for linktype, frame in ALL_FRAMES:
        for end in range(len(frame)):
            cut, short = decode(frame[:end], linktype, length=len(frame)), line_of(frame[:end], linktype)
            assert cut.truncated
            assert not CONTROL.search(short)


def mutated(chance, data):
    """Return the bytes with one to seven of them replaced, often by values that matter in lengths and pointers."""
    data = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        data[chance.randrange(len(data))] = chance.choice((0, 1, 192, 255, chance.randrange(256)))
    return bytes(data)


def test_ten_thousand_mutated_frames_are_decoded():
    chance = random.Random(4)
    for count in range(10_000):
        linktype, frame = chance.choice(ALL_FRAMES)
        damaged = chance.randbytes(chance.randrange(100)) if count % 10 == 0 else mutated(chance, frame)
        assert not CONTROL.search(line_of(damaged, linktype))


def test_a_thousand_frames_by_scapys_fuzz_are_decoded():
    random.seed(4)
    for _ in range(250):
        for packet in (V4 / fuzz(TCP()), fuzz(IP()) / UDP(), fuzz(IPv6()) / TCP(), V4 / fuzz(ICMP())):
            with contextlib.suppress(struct.error):  # scapy's own
                frame = raw(ETHER / packet)
                assert not CONTROL.search(line_of(frame, 1))
                assert not CONTROL.search(sniff.hex_dump(frame) + sniff.ascii_dump(frame))


def test_dumps_have_a_dot_for_what_is_unprintable():
    assert sniff.ascii_dump(b"GET /\r\n\x1b[31m\xff") == "\tGET /..\n\t.[31m.\n"
    assert sniff.hex_dump(b"\x00A\x1b").endswith("0041 1b                                  .A.\n")


# Files


def records(path):
    with contextlib.ExitStack() as files:
        return [record for batch in sniff.CaptureFile(files, path, "", sniff.Stop()).batches() for record in batch]


def pcap(path, frames, linktype=1, order="<", nano=False):
    """Write a capture, a frame each microsecond, or nanosecond."""
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65_535, linktype)
    for at, frame in enumerate(frames):
        data += struct.pack(order + "IIII", 1_700_000_000, at, len(frame), len(frame)) + frame
    path.write_bytes(data)
    return path


@pytest.fixture
def mixed(tmp_path):
    """A capture of one of each."""
    return pcap(tmp_path / "mixed.pcap", MIXED)


def lines(result):
    status, out, err = result
    assert status == 0, err
    return out.splitlines()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_in_either_order_and_both_units(run, tmp_path, order, nano):
    path = pcap(tmp_path / "a.pcap", [ALL_FRAMES[0][1]] * 3, order=order, nano=nano)
    times = [packet.time for packet in sniff.read(path)]
    assert times == [1_700_000_000 + at * (1e-9 if nano else 1e-6) for at in range(3)]
    again = tmp_path / "again.pcap"
    run("sniff.py", "-r", path, "-w", again)
    assert records(again) == records(path)


def test_gzip_and_standard_input(run, script, mixed, tmp_path):
    packed = tmp_path / "mixed.gz"
    packed.write_bytes(gzip.compress(mixed.read_bytes()))
    plain = lines(run("sniff.py", "-r", mixed))
    assert len(plain) == len([*sniff.read(mixed)])
    assert lines(run("sniff.py", "-r", packed)) == plain
    for path in (mixed, packed):
        with path.open("rb") as file:
            assert lines(script("sniff.py", "-r", "-", stdin=file).finish()) == plain


def test_packets_of_standard_input_are_printed_as_they_arrive(script, mixed):
    process = script("sniff.py", "-r", "-", stdin=subprocess.PIPE)
    for byte in mixed.read_bytes()[: 24 + 16 + 54]:
        os.write(process.stdin.fileno(), bytes([byte]))
    assert "TCP" in process.stdout.readline()
    assert process.finish(signal.SIGINT)[0] == 0


def test_pcapng(run, tmp_path, mixed):
    path = str(tmp_path / "mixed.pcapng")
    with PcapNgWriter(path) as writer:
        for time_ns, _, _, _, frame in records(mixed):
            packet = Ether(frame)
            packet.time = time_ns / 1e9
            writer.write(packet)
    assert [(p.proto, p.src, p.dport) for p in sniff.read(path)] == [
        (p.proto, p.src, p.dport) for p in sniff.read(mixed)
    ]
    cut = tmp_path / "cut.pcapng"
    for end in (8, 30, 101, 150, 201):
        cut.write_bytes((tmp_path / "mixed.pcapng").read_bytes()[:end])
        one_error(run("sniff.py", "-r", cut))


def test_a_file_that_is_cut_anywhere_shows_the_packets_before(run, tmp_path):
    frame = ALL_FRAMES[0][1]
    whole = pcap(tmp_path / "a.pcap", [frame] * 2).read_bytes()
    path, size = tmp_path / "cut.pcap", 16 + len(frame)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        shown = []
        if end in (24, 24 + size):
            shown.extend(sniff.read(path))
        else:
            with pytest.raises(sniff.CaptureError):
                shown.extend(sniff.read(path))
        assert len(shown) == max(0, end - 24) // size
    path.write_bytes(whole[:-1])
    assert "cut" in one_error(run("sniff.py", "-r", path))


@pytest.mark.parametrize("data", [b"", b"x", b"no capture at all, but some text", b"\x1f\x8bnot gzip", b"\n\r\r\n" * 9])
def test_a_file_that_is_not_a_capture_is_one_error(run, tmp_path, data):
    path = tmp_path / "\x1b[31mno.pcap"
    path.write_bytes(data)
    assert "\\x1b" in one_error(run("sniff.py", "-r", path))


def test_a_missing_file_is_one_error(run):
    assert "No such file" in one_error(run("sniff.py", "-r", "/no/such/file"))


@needs("tcpdump")
@pytest.mark.parametrize("name", [name for name in LINKS if name != "raw 14"])
def test_tcpdump_reads_what_we_write(run, tmp_path, name):
    number = LINKS[name][0]
    frames = [frame for linktype, frame in ALL_FRAMES if linktype == number]
    run("sniff.py", "-r", pcap(tmp_path / "in.pcap", frames, number), "-w", tmp_path / "out.pcap")
    assert (tmp_path / "out.pcap").read_bytes()[24:] == (tmp_path / "in.pcap").read_bytes()[24:]
    tcpdump = subprocess.run(
        ["tcpdump", "-nn", "-r", tmp_path / "out.pcap"], capture_output=True, text=True, check=True
    )
    assert len(re.findall(r"^\d", tcpdump.stdout, re.MULTILINE)) == len(frames)


@needs("tshark")
def test_tshark_finds_the_same(run, mixed, tmp_path):
    run("sniff.py", "-r", mixed, "-w", tmp_path / "out.pcap")
    fields = [f"-e{field}" for field in ("frame.len", "ip.src", "ipv6.src", "tcp.dstport", "udp.dstport", "vlan.id")]
    command = [
        "tshark",
        "-n",
        "-r",
        tmp_path / "out.pcap",
        "-Y",
        "(tcp or udp) and not icmp and not icmpv6",
        "-Tfields",
    ]
    rows = subprocess.run([*command, *fields], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(rows) >= 10
    ours = [packet for packet in sniff.read(mixed) if packet.proto in ("TCP", "UDP") and packet.sport]
    for row, packet in zip(rows, ours, strict=True):
        length, four, six, tcp, udp, _ = row.split("\t")
        assert (int(length), four or six, int(tcp or udp or packet.dport)) == (packet.length, packet.src, packet.dport)


@needs("tcpdump")
@pytest.mark.parametrize(
    "expression",
    [
        "tcp", "ip6", "udp and port 53", "vlan 5", "vlan and udp", "arp or icmp", "host 192.0.2.1",
        "ip broadcast", "ether broadcast", "not ip broadcast",
    ],
)  # fmt: skip
def test_a_filter_lets_through_what_it_does_in_tcpdump(run, tmp_path, expression):
    path = pcap(tmp_path / "a.pcap", [*MIXED, raw(Ether(dst="ff:ff:ff:ff:ff:ff") / IP(dst="255.255.255.255") / UDP())])
    command = ["tcpdump", "-nr", path, expression]
    tcpdump_lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines(run("sniff.py", "-n", "-r", path, *expression.split()))) == len(tcpdump_lines) > 0


@filters
@pytest.mark.parametrize("linktype", [0, 108, 101, 113, 276, 228])
def test_filters_know_the_link_type(tmp_path, linktype):
    frames = [FRAMES[name][1] for name in FRAMES if FRAMES[name][0] == (0 if linktype == 108 else linktype)]
    path = pcap(tmp_path / "a.pcap", frames, linktype)
    assert {packet.proto for packet in sniff.read(path, "udp")} == {"UDP"}
    assert {packet.src for packet in sniff.read(path, "ip")} == {"192.0.2.1"}


def test_a_bad_filter_is_one_error_and_writes_nothing(run, mixed, tmp_path):
    assert "filter" in one_error(run("sniff.py", "-r", mixed, "-w", tmp_path / "out.pcap", "tcp", "and"))
    assert not (tmp_path / "out.pcap").exists()


def test_json_has_only_keys_that_apply(run, mixed):
    objects = [json.loads(line) for line in lines(run("sniff.py", "-r", mixed, "--json"))]
    first = {"time": 1_700_000_000.0, "length": 54, "proto": "TCP", "src": "192.0.2.1", "dst": "198.51.100.2"}
    assert objects[0] == first | {"sport": 40_912, "dport": 80, "flags": "SYN, ACK"}
    assert not any(value is None for values in objects for value in values.values())
    assert any(values.get("vlan") == [5] for values in objects)


def test_text_in_a_packet_cannot_break_a_json_line(run, tmp_path):
    texts = ['GET }, {"time": HTTP/1.1', "GET }, {", "GET {}\r\n"]
    path = pcap(tmp_path / "a.pcap", [raw(ETHER / V4 / TCP(flags="A") / text) for text in texts])
    objects = [json.loads(line) for line in lines(run("sniff.py", "-r", path, "--json"))]
    assert [values["info"] for values in objects] == [text.strip() for text in texts]


@pytest.mark.parametrize("flag", ["-x", "-A", "-v"])
def test_dumps_and_dissections_have_no_control_characters(script, mixed, flag):
    status, out, _ = script("sniff.py", "-r", mixed, flag, "-c", 4, ignored=["DeprecationWarning"]).finish()
    assert status == 0
    assert not CONTROL.search(out)
    assert sum(not line.startswith("\t") for line in out.splitlines()) == 4


def test_v_prints_scapys_dissection_with_a_warning_that_it_is_slow(script, mixed):
    _, out, err = script("sniff.py", "-r", mixed, "-v", "-c", 1, ignored=["DeprecationWarning"]).finish()
    assert "###[ TCP ]###" in out
    assert "slow" in err


def test_top_counts_packets_without_addresses(run, tmp_path):
    path = pcap(tmp_path / "a.pcap", [bytes(30)], 147)
    assert any(
        line.split()[:5] == ["link", "type", "147", "1", "30"] for line in lines(run("sniff.py", "-r", path, "--top"))
    )


def test_top_counts_packets_and_bytes(run, mixed):
    out = "\n".join(lines(run("sniff.py", "-r", mixed, "--top")))
    assert "UDP" in out
    assert "█" in out
    assert re.search(r"TCP 2001:db8::1 <> 2001:db8::2 port 7 +1 ", out)


def test_top_prints_more_rows_into_a_pipe_than_on_a_small_terminal(run, tmp_path, monkeypatch):
    monkeypatch.delenv("LINES", raising=False)
    frames = [raw(ETHER / IP(src=f"192.0.2.{number}", dst="192.0.2.250") / UDP()) for number in range(20)]
    out = run("sniff.py", "-r", pcap(tmp_path / "a.pcap", frames), "--top")[1]
    assert [len(table.splitlines()) for table in out.split("\n\n")] == [2, 18, 18]


def test_top_remembers_a_limited_number():
    top = sniff.Top()
    for number in range(2 * sniff.MAX_COUNTED):
        top.add({"proto": "UDP", "src": str(number), "dst": "x"}, number)
    assert len(top._counts) <= sniff.MAX_COUNTED + 4
    assert "x " in top.table(os.terminal_size((80, 24)))


def test_a_full_disk_is_one_error(run, mixed):
    assert "space" in one_error(run("sniff.py", "-r", mixed, "-w", "/dev/full"))


def test_the_file_is_valid_up_to_the_point_where_the_disk_was_full(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "out.pcap"
    record = (0, 100, 1, None, b"x" * 100)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with contextlib.ExitStack() as files:
            source = sniff.CaptureFile(files, pcap(tmp_path / "in.pcap", []), "", sniff.Stop())
            writer = sniff.CaptureWriter(str(path), source)
            files.callback(writer.close)
            for _ in range(2):
                writer.write([record] * 3, 1, False)
            with pytest.raises(OSError, match="large"):
                writer.write([record] * 3, 1, False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len([*sniff.read(path)]) == 6


def test_help_loads_no_scapy_and_a_line_no_dns(mixed):
    code = "import sys, sniff; sniff.main(['-r', sys.argv[1], '-c1']); print([m for m in sys.modules if 'scapy' in m])"
    done = subprocess.run([sys.executable, "-c", code, mixed], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")


def test_ten_lines_are_blind_to_ipv6_and_print_what_the_wire_says(run, script, tmp_path):
    bad = raw(ETHER / V4 / UDP(sport=7777, dport=7777) / b"\x1b[31mred")
    path = pcap(tmp_path / "a.pcap", [bad, raw(ETHER / V6 / UDP(sport=1, dport=2)), raw(OTHERS["ARP who-has"])])
    ignored = ["DeprecationWarning"]
    status, out, err = script(TEN_LINES, "-r", path, ignored=ignored).finish()
    assert (status, out.count(">")) == (0, 1), err
    assert "\x1b[31m" in out
    shown = lines(run("sniff.py", "-r", path, "-A"))
    assert sum(">" in line for line in shown) == 3
    assert not CONTROL.search("\n".join(shown))


# Live


class Sniffer:
    """sniff.py with a live capture on lo that has started."""

    def __init__(self, script, *arguments, **options):
        self.process = script("sniff.py", *LO, *arguments, **options)
        self.messages = []
        while not self.messages or not self.messages[-1].startswith("Starting"):
            self.messages.append(self.process.stderr.readline())
            assert self.messages[-1]


def send(count=1, data=b"hi", host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(count):
            sock.sendto(data, (host, PORT))


FILTER = f"udp dst port {PORT}"


@captures
@needs_ipv6
def test_a_line_a_packet_then_the_counts(script):
    sniffer = Sniffer(script, "-c", 4, FILTER)
    assert sniffer.messages == ["Starting packet capture on lo... Press Ctrl+C to stop.\n"]
    send(2)
    send(2, host="::1")
    status, out, err = sniffer.process.finish()
    assert status == 0
    shown = out.splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{6}} UDP 127\.0\.0\.1:\d+ > 127\.0\.0\.1:{PORT} 44 bytes", shown[0])
    assert re.fullmatch(rf".* UDP \[::1\]:\d+ > \[::1\]:{PORT} 64 bytes", shown[2])
    assert err == "4 packets captured\n0 packets dropped by kernel\n"


@captures
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_without_traffic(script, number):
    sniffer = Sniffer(script, FILTER)
    began = time.monotonic()
    status, out, err = sniffer.process.finish(number)
    assert (status, out) == (0, "")
    assert "0 packets captured" in err
    assert time.monotonic() - began < 0.9  # a tick of the loop would be a second


@captures
def test_duration_ends_it(script):
    began = time.monotonic()
    status, _, _ = Sniffer(script, "--duration", 0.2, FILTER).process.finish()
    assert status == 0
    assert time.monotonic() - began < 5


@captures
def test_privileges_are_gone_and_the_file_is_the_users(script, tmp_path):
    path = tmp_path / "out.pcap"
    sniffer = Sniffer(script, "-w", path, FILTER, env=os.environ | {"SUDO_UID": "65534", "SUDO_GID": "65534"})
    assert "running as user 65534" in sniffer.messages[0]
    status = process_status(sniffer.process)
    assert status["Uid"] == status["Gid"] == ["65534"] * 4
    assert (status["Groups"], int(status["CapEff"][0], 16), int(status["CapPrm"][0], 16)) == ([], 0, 0)
    send(3)
    assert path.stat().st_uid == 65_534
    wait_for_size(path, 24 + 3 * (16 + 44))
    assert sniffer.process.finish(signal.SIGINT)[0] == 0
    assert [packet.dport for packet in sniff.read(path)] == [PORT] * 3


def wait_for_size(path, size):
    deadline = time.monotonic() + 5
    while path.stat().st_size < size:
        assert time.monotonic() < deadline


@captures
def test_a_user_who_may_not_read_this_python_can_filter_pcapng(script, tmp_path):
    path = str(tmp_path / "mixed.pcapng")
    with PcapNgWriter(path) as writer:
        writer.write(OTHERS["VLAN"])
    assert "UDP" in lines(script("sniff.py", "-r", path, "--user", "nobody", "vlan 5").finish())[0]


@captures
def test_ten_lines_stay_root(script):
    process = script(TEN_LINES, "lo", ignored=["DeprecationWarning"])
    process.stdout.readline()
    assert process_status(process)["Uid"] == ["0"] * 4
    process.terminate()


@captures
def test_no_such_user_and_no_such_interface_are_one_error(run):
    assert "nobody-here" in one_error(run("sniff.py", *LO, "--user", "nobody-here"))
    assert "lo" in one_error(run("sniff.py", "-i", "no-such"))


@captures
def test_a_bad_filter_captures_nothing(run):
    assert "filter" in one_error(run("sniff.py", *LO, "tcp and"))
    assert "filter" in one_error(run("sniff.py", "-i", "any", "tcp and"))


@captures
def test_without_root_the_error_is_a_command_that_works(script):
    drop = partial(ctypes.CDLL(None).prctl, 24, 13, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_RAW: as any user without it
    error = one_error(script("sniff.py", *LO, preexec_fn=drop).finish())
    assert shlex.join(["sudo", sys.executable, str(ROOT / "sniff.py"), "-i", "lo"]) in error


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is lo")
def test_interfaces_have_their_addresses(run):
    shown = lines(run("sniff.py", "-D"))
    assert [line for line in shown if re.match(r"lo 127\.0\.0\.1\b", line)]
    assert sum(line.endswith(" (default)") for line in shown) == 1


@captures
def test_top_is_drawn_again_on_a_terminal():
    our_end, terminal_end = pty.openpty()
    command = [sys.executable, ROOT / "sniff.py", *LO, "--top", FILTER]
    with subprocess.Popen(
        command, stdout=terminal_end, stderr=subprocess.PIPE, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(terminal_end)
        process.stderr.readline()
        drawn = b""
        while drawn.count(b"\x1b[H\x1b[J") < 2:
            send(2)
            drawn += os.read(our_end, 65_536)
        process.send_signal(signal.SIGINT)
        process.communicate()
    os.close(our_end)
    assert b"127.0.0.1" in drawn
    assert process.returncode == 0


def test_a_second_file_is_an_error_that_names_it(run, tmp_path):
    path = pcap(tmp_path / "a", [raw(ETHER / V4 / UDP())])
    status, out, err = run("sniff.py", "-r", path, "b.pcap")
    assert (status, out) == (1, "")
    assert "b.pcap is not a filter" in err


@captures
def test_any_shows_the_interface_and_filters(script):
    process = script("sniff.py", "-i", "any", "-c", 1, FILTER)
    assert "any" in process.stderr.readline()
    send()
    _, out, _ = process.finish()
    assert re.fullmatch(rf"[\d:.]+ lo UDP .* > 127\.0\.0\.1:{PORT} .*\n", out)


def open_tunnel(hardware):
    """Make the interface "tunnel" with an ARPHRD_* number, and return its descriptor."""
    fcntl = pytest.importorskip("fcntl")
    try:
        tunnel = os.open("/dev/net/tun", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"needs a tunnel device: {error}")
    fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"tunnel", 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
    fcntl.ioctl(tunnel, 0x400454CD, hardware)  # TUNSETLINK
    for command in ("addr add 192.0.2.1/24 dev tunnel", "link set tunnel up"):
        subprocess.run(["ip", *command.split()], check=True)
    return tunnel


@captures
def test_any_keeps_frames_unchanged_and_pcap_has_one_link_type(script, tmp_path):
    path, after = tmp_path / "any.pcap", ("-i", "any", "--print", "-w")

    def job():
        tunnel = open_tunnel(0xFFFE)  # ARPHRD_NONE
        results = []
        for host in ("127.0.0.1", "192.0.2.2"):
            process = script("sniff.py", *after, path, "-c", 2, FILTER)
            process.stderr.readline()
            send()
            send(host=host)
            results.append((process.finish(), [*sniff.read(path)]))
        os.close(tunnel)
        return results

    (same, alike), (mixed, before) = in_namespace(job)
    assert (same[0], [packet.length for packet in alike]) == (0, [44, 44])
    assert "link type" in one_error(mixed)
    assert [packet.proto for packet in before] == ["UDP"]


@captures
def test_the_interface_of_a_modem_delivers_raw_ip(script):
    """Linux removes the PPP header, so that libpcap captures in cooked mode there."""

    def job():
        tunnel = open_tunnel(512)  # ARPHRD_PPP
        sniffer = script("sniff.py", "-i", "tunnel", "-c", 1, FILTER)
        sniffer.stderr.readline()
        send(host="192.0.2.2")
        result = sniffer.finish()
        os.close(tunnel)
        return result

    status, out, _ = in_namespace(job)
    assert status == 0
    assert re.fullmatch(rf".* UDP 192\.0\.2\.1:\d+ > 192\.0\.2\.2:{PORT} 30 bytes\n", out)


# The commands of ip that let this machine send to 192.0.2.2 through a cable whose other end does not answer
ADDRESS = "addr add 192.0.2.1/24 dev here"
NEIGHBOUR = "neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev here"


@captures
def test_an_interface_may_go_down_for_a_while_but_not_disappear(script):
    def job():
        sniffer = script("sniff.py", "-i", "here", "-c", 1, FILTER)
        lost = script("http_analyzer.py", "-i", "here")
        for process in (sniffer, lost):
            process.stderr.readline()
        for command in ("link set here down", "link set here up", NEIGHBOUR):
            subprocess.run(["ip", *command.split()], check=True)
        send(host="192.0.2.2")
        found = sniffer.finish()
        subprocess.run(["ip", "link", "delete", "here"], check=True)
        return found, lost.finish()

    (status, out, err), lost = in_namespace(job, *CABLE, ADDRESS)
    assert (status, out.count("192.0.2.2")) == (0, 1)
    assert err.splitlines()[0] == "sniff.py: info: here is down; the capture continues when it is up"
    assert re.search("here: (no interface with this name|No such device)", one_error(lost))  # Python 3.15


@captures
def test_a_filter_knows_the_netmask_of_the_interface(script):
    def job():
        sniffer = script("sniff.py", "-i", "here", "-c", 1, "ip broadcast and", FILTER)
        sniffer.stderr.readline()
        send(host="192.0.2.2")
        send(host="192.0.2.255")
        return sniffer.finish()

    status, out, _ = in_namespace(job, *CABLE, ADDRESS, NEIGHBOUR)
    assert (status, " > 192.0.2.255:" in out) == (0, True)


@captures
def test_the_kernels_drops_are_reported(script):
    sniffer = Sniffer(script, "--buffer", 1, FILTER)
    sniffer.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sniffer.process.pid, os.WSTOPPED | os.WNOWAIT)
    send(2_000, b"x" * 8_000)  # some 200 fit into the buffer, and their lines into the pipe to here
    sniffer.process.send_signal(signal.SIGCONT)
    assert "warning: the kernel has dropped" in sniffer.process.stderr.readline()
    status, out, err = sniffer.process.finish(signal.SIGINT)
    assert status == 0
    captured, dropped = map(int, re.findall(r"^(\d+) packets", err, re.MULTILINE))
    assert dropped > 0
    assert captured == out.count("\n")
    assert captured + dropped <= 2_000


@captures
def test_a_vlan_tag_that_the_kernel_removed_is_shown_filtered_and_written(tmp_path):
    path = tmp_path / "vlan.pcap"
    setup = [
        "link add one type veth peer name two",
        "link set one up",
        "link set two up",
    ]

    def first(interface, expression):
        with contextlib.ExitStack() as files:
            live = sniff.Live(files, interface, expression, 1 << 20, promiscuous=True)
            writer = sniff.CaptureWriter(str(path), live)
            files.callback(writer.close)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
                sock.bind(("one", 0))
                sock.send(raw(ETHER / V4 / UDP(dport=PORT + 1)))
                sock.send(raw(ETHER / Dot1Q(vlan=5) / V4 / UDP(dport=PORT) / (b"x" * 10)))
            received = (record for record in itertools.chain.from_iterable(live.batches()) if record[3] != "one")
            record = next(received)
            writer.write([record], live.linktype, False)
            return record

    one = in_namespace(lambda: first("two", f"vlan 5 and udp port {PORT}"), *setup)
    for record in (one, in_namespace(lambda: first("any", f"udp port {PORT}"), *setup)):
        packet = decode(record[4], record[2], length=record[1])
        assert (packet.vlan, packet.dport, packet.length, packet.truncated) == ((5,), PORT, 56, False)
        assert [packet.vlan for packet in sniff.read(path)] == [(5,)]


@captures
def test_a_filter_does_not_cut_loopbacks_longest_frames(monkeypatch):
    monkeypatch.setattr(sniff, "TICK_S", 0.2)

    def job():
        with contextlib.ExitStack() as files, socket.create_server(("127.0.0.1", 0)) as server:
            live = sniff.Live(files, "lo", "tcp", 32 << 20, promiscuous=True)
            client = files.enter_context(socket.create_connection(server.getsockname()))
            peer, _ = server.accept()
            with peer:
                threading.Thread(target=client.sendall, args=[bytes(3_000_000)]).start()
                assert len(peer.recv(3_000_000, socket.MSG_WAITALL)) == 3_000_000
            return [record for batch in itertools.takewhile(bool, live.batches()) for record in batch]

    lengths = [(record[1], len(record[4])) for record in in_namespace(job)]
    assert max(lengths) > (65_535, 65_535)
    assert all(length == kept for length, kept in lengths)


def test_progress_is_shown_on_a_terminal_that_shows_nothing_else(tmp_path, monkeypatch):
    path = pcap(tmp_path / "a", [raw(ETHER / V4 / UDP())] * sniff.BATCH * 2)
    size = f"{path.stat().st_size:,}".encode()
    our_end, terminal_end = pty.openpty()
    with open(terminal_end, "w") as terminal:
        monkeypatch.setattr(sniff, "LOOK_S", 0)
        monkeypatch.setattr(sys, "stderr", terminal)
        assert sniff.main(["-r", str(path)]) == 0
        shown = b""
        while b"captured" not in shown:
            shown += os.read(our_end, 65_536)
    os.close(our_end)
    assert b" of " + size + b" bytes\r" in shown
    assert re.search(rb" \r\d+ packets captured", shown)  # The progress is wiped away.


@captures
def test_capture_is_an_iterator_of_packets():
    def job():
        with contextlib.closing(sniff.capture("lo", FILTER)) as packets:
            threading.Timer(0.3, send).start()
            return next(packets)

    packet = in_namespace(job)
    assert (packet.proto, packet.dport, packet.length) == ("UDP", PORT, 44)
    assert abs(packet.time - time.time()) < 5


@captures
def test_other_systems_use_scapys_sockets():
    program = "import sniff, sys; sniff.ON_LINUX = False; sys.exit(sniff.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-i"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}

    def job():
        wrong = subprocess.run([*command, "here", "no filter"], timeout=9, check=False, **pipes)
        unknown = subprocess.run([*command, "any"], timeout=9, check=False, **pipes)
        sniffer = subprocess.Popen([*command, "here", "-c", "1", FILTER], **pipes)
        try:
            assert sniffer.stderr.readline().startswith("Starting")
            send(host="192.0.2.2")
            return wrong.stderr, unknown.stderr, sniffer.communicate(timeout=9)[0]
        finally:
            sniffer.kill()

    wrong, unknown, out = in_namespace(job, *CABLE, ADDRESS, NEIGHBOUR)
    assert re.fullmatch("sniff.py: error: the filter: .*syntax error.*\n", wrong)
    assert re.fullmatch("sniff.py: error: there is no interface any; choose one of: .*here.*\n", unknown)
    assert re.fullmatch(rf".* UDP 192\.0\.2\.1:\d+ > 192\.0\.2\.2:{PORT} 44 bytes\n", out)


def test_a_missing_right_of_scapys_sockets_is_one_error(run, monkeypatch):
    """This is the error of scapy on macOS without sudo."""

    def refuse(**_):
        raise Scapy_Exception("Permission denied: could not open /dev/bpf0. Make sure to be running Scapy as root !")

    monkeypatch.setattr(sniff, "ON_LINUX", False)
    monkeypatch.setattr(conf, "L2listen", refuse)
    assert one_error(run("sniff.py", "-i", "lo")).startswith("sniff.py: error: capturing needs root, ")


# Hostile input


def test_lengths_of_zero_and_other_corners():
    offloaded = bytearray(raw(V4 / TCP(dport=80) / (b"x" * 100)))
    offloaded[2:4] = b"\0\0"
    assert not decode(bytes(offloaded), 101).malformed
    padding = bytearray(raw(IPv6(nh=17)) + bytes(range(6)))
    assert (padding[4:6], decode(bytes(padding), 101).sport) == (b"\0\0", None)
    fragment = decode(raw(IPv6() / IPv6ExtHdrFragment(offset=3, m=1, nh=17) / (b"x" * 16)), 101)
    assert (fragment.fragment, fragment.sport) == (24, None)
    with_ah = bytes([17, 4]) + bytes(22) + raw(UDP(sport=5, dport=6))
    assert decode(raw(IPv6(nh=51, plen=len(with_ah))) + with_ah, 101).dport == 6
    priority_and_drop_bits = ETHER_FRAME[:12] + b"\x81\0\xf0\x05" + ETHER_FRAME[12:]
    assert decode(priority_and_drop_bits, 1).vlan == (5,)
    hash(decode(raw(OTHERS["two VLANs"]), 1))


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def section(order):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


@filters
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_all_its_options(run, tmp_path, order):
    """Units that are powers of two, an offset of the time, packets without one, cut by the snapshot length."""
    frame, path = raw(ETHER / V4 / UDP(sport=5, dport=6)), tmp_path / "options.pcapng"
    options = struct.pack(order + "HHBxxxHHq", 9, 1, 0x80 | 10, 14, 8, 1_000)
    data = section(order)
    data += block(order, 1, struct.pack(order + "HxxI", 1, 35) + options)
    data += block(order, 6, struct.pack(order + "IIIII", 0, 0, 512, len(frame), len(frame)) + frame)
    data += block(order, 3, struct.pack(order + "I", len(frame)) + frame[:35])
    path.write_bytes(data)
    first, simple = [json.loads(line) for line in lines(run("sniff.py", "-r", path, "--json"))]
    assert (first["time"], first["dport"]) == (1_000.5, 6)
    assert (simple["time"], simple["truncated"], "sport" in simple) == (0, True, False)
    assert len(lines(run("sniff.py", "-r", path, "udp", "port", 6))) == 1  # The cut packet has no port.
    written = tmp_path / "written.pcap"
    lines(run("sniff.py", "-r", path, "-w", written))
    assert [(length, len(kept)) for _, length, _, _, kept in records(written)] == [
        (len(frame), len(frame)),
        (len(frame), 35),
    ]


def test_packets_before_damage_are_printed(run, mixed, tmp_path):
    path, whole = tmp_path / "damaged", mixed.read_bytes()
    path.write_bytes(whole + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30) + bytes(50))
    status, out, err = run("sniff.py", "-r", path)
    assert (status, out.count("\n"), err.count(": error: ")) == (1, len(MIXED), 1)
    for packed in (gzip.compress(whole)[:-4], gzip.compress(whole)[:-8] + bytes(8)):
        path.write_bytes(packed)
        status, out, err = run("sniff.py", "-r", path)
        assert (status, out.count("\n"), err.count(": error: ")) == (1, len(MIXED), 1)
    path.write_bytes(gzip.compress(whole[:100]) + gzip.compress(whole[100:]))
    assert len(lines(run("sniff.py", "-r", path))) == len(MIXED)


@pytest.mark.parametrize("arguments", [["-r", ""], ["-i", ""], ["-r", "x", "-i", "lo"], ["--json", "-x"]])
def test_empty_and_conflicting_arguments_are_errors(run, arguments):
    status, out, err = run("sniff.py", *arguments)
    assert (status in (1, 2), out, err.count(": error: ")) == (True, "", 1)
    assert "Starting" not in err


def test_where_interfaces_are_hidden_only_a_live_capture_is_an_error(run, mixed, monkeypatch):
    def if_nameindex():
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "if_nameindex", if_nameindex)  # as on Android
    assert run("sniff.py", "-r", mixed)[0] == 0
    assert one_error(run("sniff.py", "-i", "lo")).startswith("sniff.py: error: capturing needs root, ")


def test_without_libpcap_only_a_filter_is_an_error(script, without_libpcap, mixed):
    assert script("sniff.py", "-r", mixed).finish()[0] == 0
    assert one_error(script("sniff.py", "-r", mixed, "udp").finish()) == (
        f"sniff.py: error: {mixed}: a filter needs libpcap, which tcpdump and Wireshark install: "
        "Cannot find libpcap.so library"
    )


@filters
def test_filters_of_length_and_of_old_raw_ip(run, tmp_path):
    path = tmp_path / "null.pcap"
    packet = raw(V4 / UDP())
    pcap(path, [b"\x02\0\0\0" + packet], linktype=0)
    assert len(lines(run("sniff.py", "-r", path, "greater", len(packet) + 4))) == 1
    assert lines(run("sniff.py", "-r", path, "greater", len(packet) + 5)) == []
    pcap(path, [packet], linktype=14)
    assert len(lines(run("sniff.py", "-r", path, "udp"))) == 1
    pcap(path, [ETHER_FRAME], linktype=1 | 4 << 24)  # with a length of the frame check sequence
    assert " UDP " in lines(run("sniff.py", "-r", path))[0]


def test_a_pcap_file_has_one_link_type_and_keeps_lengths(run, tmp_path):
    path, written = tmp_path / "two.pcapng", tmp_path / "written.pcap"
    data = section("<")
    data += b"".join(block("<", 1, struct.pack("<HxxI", linktype, 0)) for linktype in (1, 101))
    for number, frame in enumerate((ETHER_FRAME, raw(V4 / UDP()))):
        data += block("<", 6, struct.pack("<IIIII", number, 0, 0, len(frame), len(frame)) + frame)
    path.write_bytes(data)
    assert "one link type" in one_error(run("sniff.py", "-r", path, "-w", written))
    assert len(records(written)) == 1
    pcap(path, [])
    data = path.read_bytes() + struct.pack("<IIII", 1, 2, 20, 1_500) + ETHER_FRAME[:20]
    path.write_bytes(data)
    assert lines(run("sniff.py", "-r", path, "-w", written)) == []
    assert [(length, len(kept)) for _, length, _, _, kept in records(written)] == [(1_500, 20)]
    path.write_bytes(section("<"))
    assert lines(run("sniff.py", "-r", path, "-w", written)) == []
    assert (len(written.read_bytes()), records(written)) == (24, [])


def test_the_table_fits_the_terminal():
    top = sniff.Top()
    prefix = "2001:db8:1111:2222:3333:4444"
    fields = {"proto": "UDP", "src": f"{prefix}:5555:6666", "dst": f"{prefix}:0:1"}
    top.add(fields, 1_000)
    back = fields | {"src": fields["dst"], "dst": fields["src"]}
    top.add(back, 500)
    for columns in (60, 80, 200):
        table = top.table(os.terminal_size((columns, 24)))
        assert max(map(len, table.splitlines())) <= max(columns, 70)
    assert next(line for line in table.splitlines() if " <> " in line).split()[4:6] == ["2", "1,500"]


@captures
def test_all_privileges_of_root_are_given_up(script, tmp_path):
    """Further groups, too; and only the file that it made itself changes hands."""
    path = tmp_path / "out.pcap"
    tmp_path.chmod(0o777)
    sniffer = Sniffer(script, "--user", "nobody", "-w", path, FILTER, preexec_fn=lambda: os.setgroups([0, 4, 27]))
    status = process_status(sniffer.process)
    assert status["Groups"] == []
    assert status["Uid"] == [str(NOBODY)] * 4
    assert path.stat().st_uid == NOBODY
    assert len(path.read_bytes()) == 24  # a header, before any packet
    sniffer.process.finish(signal.SIGINT)
    owner = os.stat(os.devnull).st_uid
    sniffer = Sniffer(script, "--user", "nobody", "-w", os.devnull, FILTER)
    assert os.stat(os.devnull).st_uid == owner
    sniffer.process.finish(signal.SIGINT)


@captures
def test_closed_standard_descriptors_do_not_become_the_captures_own(script, mixed):
    for closed in ([1], [2], [0, 1, 2]):
        options = {"preexec_fn": lambda closed=closed: [os.close(descriptor) for descriptor in closed]}
        arguments = ["-w", "-"] if closed == [2] else ["--top"]
        status, out, _ = script("sniff.py", "-r", mixed, *arguments, **options).finish()
        assert (status, "captured" in out) == (0, False)


# Names and first lines in the payload


def udp_info(message, sport=40_000, dport=53):
    return decode(raw(ETHER / V4 / UDP(sport=sport, dport=dport) / message), 1)


def tcp_info(payload, dport=80, length=None):
    frame = raw(ETHER / V4 / TCP(sport=40_000, dport=dport, flags="PA") / payload)
    return decode(frame[: length or len(frame)], 1, length=len(frame))


def question(name="www.example.org", kind=1, bits=0x0100, answers=0):
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    return struct.pack("!HHHHHH", 7, bits, 1, answers, 0, 0) + labels + struct.pack("!xHH", kind, 1)


def answer(kind, data, owner=b"\xc0\x0c"):
    return owner + struct.pack("!HHIH", kind, 1, 60, len(data)) + data


ADDRESSES = b"".join(answer(1, bytes([203, 0, 113, last])) for last in range(5, 12))


def test_response_codes_have_their_names():
    """RFC 1035 section 4.1.1, RFC 2136 section 2.2."""
    names = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH", 11: "rcode 11"}
    infos = {code: udp_info(question(bits=0x8180 | code)).info for code in names}
    assert infos == {code: f"{name} www.example.org" for code, name in names.items()}


def test_record_types_have_their_names():
    names = {number: dnsqtypes[number] for number in sniff.RECORD_TYPES}
    assert names | {255: "ANY"} == sniff.RECORD_TYPES  # scapy: ALL


@pytest.mark.parametrize(
    ("message", "info"),
    [
        (question(), "A? www.example.org"),
        (question("example.org", 15), "MX? example.org"),
        (question("x", 65280), "TYPE65280? x"),
        (question("café.local", 28), "AAAA? café.local"),
        (question(bits=0x8180, answers=2) + ADDRESSES[:32], "www.example.org A 203.0.113.5 203.0.113.6"),
        (question(bits=0x8180, answers=7) + ADDRESSES,
         "www.example.org A 203.0.113.5 203.0.113.6 203.0.113.7 203.0.113.8 (+3)"),
        (question(bits=0x8180, answers=1) + answer(28, bytes(15) + b"\1"), "www.example.org AAAA ::1"),
        (question(bits=0x8180, answers=2) + answer(5, b"\3cdn\xc0\x10") + answer(1, b"\1\2\3\4", b"\3cdn\xc0\x10"),
         "www.example.org CNAME cdn.example.org A 1.2.3.4"),
        (question(bits=0x8180, answers=1) + answer(5, b"\3cdn\xc0\x10"), "www.example.org CNAME cdn.example.org"),
        (question(bits=0x8180, answers=2) + answer(5, b"\3cdn\xc0\x10") + answer(1, b"\1\2\3\4", b"\1y\xc0\x2d"),
         "www.example.org CNAME cdn.example.org A 1.2.3.4"),
        (question(bits=0x8180, answers=3) + ADDRESSES[:20], "www.example.org A 203.0.113.5 ..."),
        (question(bits=0x8180, answers=2) + answer(1, b"abc") + answer(28, b"abcd"), "www.example.org A AAAA"),
        (struct.pack("!HHHHHH", 7, 0x8400, 0, 1, 0, 0) + answer(12, b"\1p\0", b"\5local\0"), "local PTR p"),
        (question(bits=0x8180, answers=2) + answer(65, b"\0\1\0") + answer(257, b"\0"),
         "www.example.org HTTPS . CAA"),
        (question(bits=0x8180, answers=1) + answer(16, b"\3abc"), "www.example.org TXT abc"),
        (question("org", 33, bits=0x8180, answers=1) + answer(33, bytes(6) + b"\1a\0"), "org SRV a"),
        (question("org", 15, bits=0x8180, answers=1) + answer(15, b"\0\12\1a\0"), "org MX a"),
        (question(bits=0x8183), "NXDOMAIN www.example.org"),
        (question(bits=0x8182), "SERVFAIL www.example.org"),
        (question(bits=0x8180), "www.example.org A (no answer)"),
        (question(bits=0x8380), "www.example.org A (truncated)"),
        (question("evil\x1b[31m\n"), r"A? evil\x1b[31m\n"),
        (question(kind=6, bits=0x2400), "NOTIFY SOA? www.example.org"),
        (question(kind=6, bits=0xA400), "NOTIFY www.example.org SOA (no answer)"),
        (question(kind=6, bits=0x2800, answers=1), "UPDATE SOA? www.example.org"),
        (question(kind=6, bits=0xA805), "UPDATE REFUSED www.example.org"),
    ],
)  # fmt: skip
def test_dns_shows_names_answers_and_codes_over_udp_tcp_mdns_and_llmnr(message, info):
    assert udp_info(message).info == info
    assert udp_info(message, dport=5353).info == info
    assert udp_info(message, dport=5355).info == info  # LLMNR (RFC 4795)
    assert tcp_info(struct.pack("!H", len(message)) + message, dport=53).info == info
    assert decode(raw(ETHER / V4 / UDP(sport=53, dport=40_000) / message), 1).info == info


@pytest.mark.parametrize(
    "name",
    [b"\xc0\x0c", b"\xc0\xff", b"\xc0\x0e\xc0\x0c", b"\x01a" * 200, b"\x40" + b"x" * 64 + b"\0", b"\x3f" + b"x" * 5],
    ids=["itself", "forwards", "loop", "long", "reserved", "cut"],
)
def test_a_hostile_name_in_dns_is_not_shown_and_no_error(name):
    packet = udp_info(struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + name + b"\0\0\1\0\1")
    assert (packet.proto, packet.malformed) == ("UDP", False)
    assert packet.info is None


def test_the_records_of_a_hostile_dns_message_are_not_all_read():
    message = struct.pack("!HHHHHH", 7, 0x8180, 65_535, 65_535, 0, 0) + b"\xc0\x00\0\1\0\1" * 10_000
    frame = raw(ETHER / V4 / UDP(sport=40_000, dport=53) / message)
    for _ in range(4_000):  # The limit for the time of a test is less than reading all records needs.
        decode(frame, 1)


def client_hello(name=b"www.example.org"):
    server_name = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    extensions = b"\0\x17\0\0" + b"\0\x2b\0\x0bnot-a-name!" + server_name + b"\0\x10\0\x02\0\0" * 50
    suites = b"\0\6\x13\1\x13\2\xc0\x2f\1\0"  # and no compression
    body = b"\3\3" + bytes(32) + b"\x20" + bytes(32) + suites + struct.pack("!H", len(extensions)) + extensions
    return b"\x16\3\1" + struct.pack("!HB", len(body) + 4, 1) + len(body).to_bytes(3) + body


@pytest.mark.parametrize("port", [443, 4_443])
def test_a_tls_client_hello_shows_the_server_name(port):
    packet = tcp_info(client_hello(), port)
    assert (packet.info, packet.name) == ("TLS www.example.org", "www.example.org")


def hello_segments(*ends, seq=0xFFFFFF00, sport=40_000):
    """Return the packets of a ClientHello that is cut at these offsets. The sequence number wraps."""
    hello, packets = client_hello(), []
    for start, end in zip((0, *ends), (*ends, None), strict=True):
        segment = TCP(sport=sport, dport=443, flags="PA", seq=seq + start & 0xFFFFFFFF) / hello[start:end]
        packets.append(raw(ETHER / V4 / segment))
    return packets


@pytest.mark.parametrize("ends", [(6,), (60, 90), (90, 91, 92), (100,)])
def test_a_client_hello_in_several_segments_shows_the_server_name(ends):
    first, *others = [decode(frame, 1) for frame in hello_segments(*ends)]
    assert (first.info, first.name) == ("TLS ClientHello", None)
    assert [packet.info for packet in others[:-1]] == ["TLS ClientHello"] * (len(others) - 1)
    assert (others[-1].info, others[-1].name) == ("TLS www.example.org", "www.example.org")
    assert decode(hello_segments(*ends)[-1], 1).info is None  # as a retransmission


def test_a_segment_continues_only_the_client_hello_that_it_follows():
    first, second = hello_segments(90)
    decode(first, 1)
    assert decode(hello_segments(90, sport=40_001)[1], 1).info is None
    assert decode(hello_segments(91)[1], 1).info is None
    assert decode(second, 1).info == "TLS www.example.org"


def test_of_client_hellos_that_do_not_continue_a_limited_number_is_kept():
    for sport in range(10_000, 10_300):
        decode(hello_segments(90, sport=sport)[0], 1)
    assert decode(hello_segments(90, sport=10_000)[1], 1).info is None
    assert decode(hello_segments(90, sport=10_299)[1], 1).info == "TLS www.example.org"


def test_a_client_hello_that_the_snapshot_length_cut_is_not_continued():
    whole = hello_segments()[0]
    decode(whole[: 14 + 40 + 90], 1, length=len(whole))
    assert decode(hello_segments(90)[1], 1).info is None


def test_other_handshake_messages_of_tls_have_no_info():
    assert tcp_info(changed(Raw(client_hello()), 5, 2), 443).info is None


def test_a_cut_client_hello_shows_what_is_there():
    whole = tcp_info(client_hello(), 443)
    assert tcp_info(client_hello(), 443, whole.length - 200).info == "TLS www.example.org"
    assert tcp_info(client_hello(), 443, 14 + 20 + 20 + 60).info == "TLS ClientHello"
    before_name = client_hello().index(b"www.example.org")
    assert tcp_info(client_hello(), 443, 14 + 20 + 20 + before_name).info == "TLS ClientHello"


@pytest.mark.parametrize(
    ("payload", "info", "name"),
    [
        (b"GET /a?b=1 HTTP/1.1\r\nHost: example.org\r\n\r\n", "GET /a?b=1 HTTP/1.1", "example.org"),
        (b"GET / HTTP/1.1\r\nHost:  \r\nA: b\r\n\r\n", "GET / HTTP/1.1", None),
        (b"HTTP/1.1 404 Not Found\r\nHost: x\r\n\r\n", "HTTP/1.1 404 Not Found", None),
        (b"POST /\x1b[31m HTTP/1.0\n", r"POST /\x1b[31m HTTP/1.0", None),
        (b"GET /" + b"a" * 500, ("GET /" + "a" * 500)[:200], None),
        (b"GETTING nowhere", None, None),
        (b"\x16\x03\x01", None, None),
    ],
)
def test_http_shows_the_first_line(payload, info, name):
    packet = tcp_info(payload, 8080)
    assert (packet.info, packet.name, packet.malformed) == (info, name, False)


def test_echoes_show_identifier_and_sequence_number():
    assert decode(raw(ETHER / V4 / ICMP(type=8, id=77, seq=3)), 1).info == "echo request, id 77, seq 3"


DHCP = bytes(16) + bytes([192, 0, 2, 10]) + bytes(216) + b"\x63\x82\x53\x63"  # a message without options


def test_dhcp_shows_the_message_type_and_the_address():
    for padding in (b"", b"\0\0"):
        assert udp_info(DHCP + padding + b"\x35\x01\x02\xff", 67, 68).info == "DHCP Offer 192.0.2.10"
    without_address = bytes(236) + DHCP[236:]
    assert udp_info(without_address + b"\x35\x01\x01\xff", 68, 67).info == "DHCP Discover"
    renewal = bytes(12) + bytes([192, 0, 2, 11]) + bytes(220) + DHCP[236:]
    assert udp_info(renewal + b"\x35\x01\x03\xff", 68, 67).info == "DHCP Request 192.0.2.11"


def test_dhcp_messages_are_named():
    """RFC 2132 section 9.6."""
    infos = [udp_info(DHCP + b"\x35\x01%c\xff" % number, 67, 68).info for number in range(1, 9)]
    names = ["Discover", "Offer", "Request", "Decline", "ACK", "NAK", "Release", "Inform"]
    assert infos == [f"DHCP {name} 192.0.2.10" for name in names]


@pytest.mark.parametrize("options", [b"\xff", b"\x35\0\xff", b"\x35\1\2\x32\3\1\2\3\xff", b"\x35\1\x63\xff", b""])
def test_dhcp_without_a_type_or_with_a_short_address_has_no_info(options):
    packet = udp_info(DHCP + options, 67, 68)
    assert (packet.info, packet.proto) == (None, "UDP")


def test_too_many_mpls_labels_are_malformed(run, tmp_path):
    frame = bytes(12) + b"\x88\x47" + b"\0\1\0\x40" * 20 + b"\0\1\1\x40" + bytes(40)
    assert decode(frame, 1).malformed
    assert lines(run("sniff.py", "-r", pcap(tmp_path / "a", [frame])))[0].endswith("bytes [malformed]")


MACS = raw(ETHER)[:12]
WITHOUT_IP = {
    "PPPoE": b"\x88\x64\x11\0\0\1\0\6\xc0\x21\1\1\0\4",  # LCP
    "MPLS": b"\x88\x47\0\1\1\x40" + bytes(4) + MACS + b"\x08\0",  # an Ethernet pseudowire (RFC 4448)
    "LLDP": b"\x88\xa8\0\1\x88\xcc" + bytes(4),
}


@pytest.mark.parametrize("proto", WITHOUT_IP)
def test_a_frame_without_ip_has_link_layer_addresses(proto):
    packet = decode(MACS + WITHOUT_IP[proto], 1)
    assert (packet.proto, packet.src, packet.dst) == (proto, "02:00:00:00:00:01", "02:00:00:00:00:02")


def test_a_vlan_tag_without_an_ethernet_header_gives_no_addresses():
    packet = decode(bytes(14) + b"\x81\0\0\5\x88\xcc" + bytes(4), 113)
    assert (packet.proto, packet.vlan, packet.src) == ("LLDP", (5,), None)


@pytest.mark.parametrize(("kind", "proto"), [(b"\x08\0", "IPv4"), (b"\x86\xdd", "IPv6"), (b"\x88\x47", "MPLS")])
def test_a_header_that_ends_early_is_named(kind, proto):
    packet = decode(MACS + kind + b"\x60\0", 1)
    assert (packet.proto, packet.malformed) == (proto, True)


def test_ten_thousand_mutated_payloads_are_decoded():
    chance = random.Random(4)
    answers = question(bits=0x8180, answers=4) + answer(5, b"\1a\xc0\x10") + answer(28, bytes(16)) + ADDRESSES
    packets = [
        (UDP(dport=53), answers),
        (UDP(dport=67), DHCP + b"\x35\1\2\x32\4\1\2\3\4\xff"),
        (UDP(dport=4_789), b"\x08" + bytes(7) + raw(OTHERS["ARP who-has"])),
        (TCP(dport=443), client_hello()),
    ]
    for layer, payload in packets:
        header = raw(ETHER / V4 / layer)
        header = header[:16] + b"\0\0" + header[18:]  # A packet without a total length ends with the frame.
        for _ in range(2_500):
            damaged = mutated(chance, payload[: chance.randrange(1, 2 * len(payload))])
            assert decode(header + damaged, 1).proto == layer.name


INNER = raw(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2))
INNER_TEXT = "UDP 10.0.0.1:1 > 10.0.0.2:2"


@pytest.mark.parametrize(
    ("outer", "proto"),
    [
        (IP(proto=4) / INNER, "IPIP"),
        (IP(proto=47) / (b"\0\0\x08\0" + INNER), "GRE"),
        (IP(proto=47) / (b"\x30\0\x08\0" + bytes(8) + INNER), "GRE"),
        (IP(proto=47) / (b"\0\0\x65\x58" + raw(Ether(type=0x0800)) + INNER), "GRE"),
        (IP(proto=47) / (b"\0\0\x88\xbe" + raw(Ether(type=0x0800)) + INNER), "GRE"),
        (IP(proto=47) / (b"\x10\0\x88\xbe" + bytes(12) + raw(Ether(type=0x0800)) + INNER), "GRE"),
        (IP(proto=47) / (b"\x10\0\x22\xeb" + bytes(16) + raw(Ether(type=0x0800)) + INNER), "GRE"),
        (UDP(dport=4789) / (b"\x08" + bytes(7) + raw(Ether(type=0x0800)) + INNER), "UDP"),
        (UDP(dport=8472) / (b"\x08" + bytes(7) + raw(Ether(type=0x0800)) + INNER), "UDP"),
    ],
    ids=["IP in IP", "GRE", "GRE with key and sequence", "GRE with Ethernet", "ERSPAN I", "ERSPAN II", "ERSPAN III",
         "VXLAN", "VXLAN on Linux' older port"],
)  # fmt: skip
def test_tunnels_show_the_outer_addresses_and_the_inner_packet(outer, proto):
    packet = decode(raw(ETHER / tunnelled(outer)), 1)
    assert (packet.proto, packet.src, packet.info) == (proto, "192.0.2.1", INNER_TEXT)


def tunnelled(outer):
    if UDP in outer:
        return V4 / outer
    outer.src, outer.dst = "192.0.2.1", "198.51.100.2"
    return outer


@pytest.mark.parametrize("kind", [b"\x88\x47", b"\x88\x48"])
def test_mpls_shows_the_inner_packet(kind):
    packet = decode(MACS + kind + b"\0\1\0\x40\0\1\1\x40" + INNER, 1)
    assert (packet.proto, packet.src, packet.info) == ("MPLS", "02:00:00:00:00:01", INNER_TEXT)


def test_the_name_in_a_query_inside_a_tunnel_is_counted():
    query = raw(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=53) / question())
    assert decode(raw(ETHER / tunnelled(IP(proto=4) / query)), 1).name == "www.example.org"


def test_a_later_fragment_has_no_flags_and_no_names():
    packet = decode(raw(ETHER / IP(frag=100, proto=6) / (bytes(13) + b"\x02" + bytes(40))), 1)
    assert (packet.fragment, packet.flags, packet.sport, packet.malformed) == (800, None, None, False)


def test_extension_headers_of_any_length_are_skipped():
    headers = dict.fromkeys((0, 43, 60, 135), b"\x11\1" + bytes(14)) | {51: b"\x11\4" + bytes(22)}
    for protocol, header in headers.items():
        packet = raw(V6)[:4] + struct.pack("!HB", len(header) + 8, protocol) + raw(V6)[7:40]
        assert decode(packet + header + struct.pack("!HHHH", 1, 2, 8, 0), 101).dport == 2


def test_arp_for_another_protocol_than_ipv4_shows_its_operation():
    packet = decode(MACS + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x86DD, 6, 16, 1) + bytes(44), 1)
    assert (packet.proto, packet.info, packet.src) == ("ARP", "operation 1", "02:00:00:00:00:01")


def test_six_in_four_shows_the_inner_packet():
    packet = decode(
        raw(ETHER / IP(src="192.0.2.1", dst="198.51.100.2", proto=41) / V6 / TCP(sport=1, dport=2, flags="S")), 1
    )
    assert (packet.proto, packet.info) == ("IPv6-in-IP", "TCP [2001:db8::1]:1 > [2001:db8::2]:2")


def test_tunnels_in_tunnels_cost_no_recursion():
    packet = INNER
    for _ in range(2_000):
        packet = raw(IP(src="192.0.2.1", dst="192.0.2.2", proto=4, len=20 + len(packet))) + packet
    assert decode(packet, 101).info.startswith("IPIP 192.0.2.1 > 192.0.2.2")


@pytest.mark.parametrize(("count", "result"), [(8, (2, False)), (9, (None, True))])
def test_so_many_extension_headers_are_read(count, result):
    payload = bytes(8) * (count - 1) + b"\x11" + bytes(7) + struct.pack("!HHHH", 1, 2, 8, 0)
    packet = decode(struct.pack("!IHBB", 6 << 28, len(payload), 0, 64) + bytes(32) + payload, 101)
    assert (packet.dport, packet.malformed) == result


@pytest.mark.parametrize(
    ("count", "hello", "offer"), [(98, "TLS www.example.org", "DHCP Offer 192.0.2.10"), (101, "TLS ClientHello", None)]
)
def test_so_many_extensions_of_tls_and_options_of_dhcp_are_read(count, hello, offer):
    assert tcp_info(client_hello().replace(b"\0\x17\0\0", b"\0\x17\0\0" * count), 443).info == hello
    assert udp_info(DHCP + bytes(count) + b"\x35\1\2\xff", 67, 68).info == offer


def test_thousands_of_vlan_tags_are_malformed_and_not_all_read():
    frame = bytes(12) + b"\x81\0\0\x07" * 16_000 + b"\x08\0"
    packets = [decode(frame, 1) for _ in range(300)]
    assert packets[0].malformed
    assert len(packets[0].vlan) < 20


def test_the_table_of_names_counts_the_packets_of_their_connections(run, tmp_path):
    ends = {"sport": 40_000, "dport": 443}
    frames = [
        raw(ETHER / V4 / TCP(**ends, flags="PA") / client_hello()),
        raw(ETHER / V4 / TCP(**ends, flags="A")),
        raw(ETHER / IP(src=V4.dst, dst=V4.src) / TCP(sport=443, dport=40_000, flags="A") / bytes(1_000)),
        raw(ETHER / V4 / UDP(sport=5, dport=53) / question("dns.example")),
    ]
    status, out, _ = run("sniff.py", "-r", pcap(tmp_path / "a.pcap", frames), "--top")
    assert status == 0
    assert re.search(r"(?m)^name +packets +bytes$", out)
    assert re.search(r"(?m)^www\.example\.org +3 ", out)
    assert re.search(r"(?m)^dns\.example +1 ", out)
    assert re.search(r"TCP 192\.0\.2\.1 <> 198\.51\.100\.2 port 443 +3 ", out)


# JSON and times


def test_each_key_of_json_has_one_type(run, tmp_path):
    frames = [
        *MIXED,
        raw(ETHER / V4 / UDP(dport=53) / question()),
        raw(ETHER / V4 / TCP(flags="PA") / client_hello()),
        MIXED[0][:30],
    ]
    path = pcap(tmp_path / "all.pcap", frames)
    objects = [json.loads(line) for line in lines(run("sniff.py", "-e", "-r", path, "--json"))]
    types = {}
    for values in objects:
        for key, value in values.items():
            types.setdefault(key, set()).add(float if type(value) is int else type(value))
    assert {key: len(kinds) for key, kinds in types.items()} == dict.fromkeys(types, 1)
    assert types["vlan"] == {list}


@pytest.mark.parametrize("reader", ["duckdb", "polars"])
def test_analytical_libraries_infer_the_schema_of_json(reader, run, tmp_path):
    library = pytest.importorskip(reader, reason=f"needs {reader}: pip install {reader}")
    path, frames = tmp_path / "packets.jsonl", [*MIXED, raw(ETHER / V4 / UDP(dport=53) / question())]
    path.write_text("\n".join(lines(run("sniff.py", "-r", pcap(tmp_path / "all.pcap", frames), "--json"))))
    if reader == "duckdb":
        rows = library.sql(f"SELECT vlan[1] FROM read_json_auto('{path}') WHERE vlan IS NOT NULL").fetchall()
        assert sorted(rows) == [(5,), (6,)]
    else:
        assert library.read_ndjson(path).height == len(frames)


@pytest.mark.parametrize("resolution", [0, 6, 9, 18, 127, 0x80, 0x80 | 20, 0xFF])
@pytest.mark.parametrize("offset_s", [0, -(1 << 62), (1 << 62), -2_000_000_000])
@pytest.mark.parametrize("option", ["--json", "-t", "-tt", "-ttt", "-tttt", "-ttttt", "-q"])
def test_any_time_is_one_line(resolution, offset_s, option, tmp_path, capsys):
    options = struct.pack("<HHBxxxHHq", 9, 1, resolution, 14, 8, offset_s)
    data = section("<") + block("<", 1, struct.pack("<HxxI", 1, 0) + options)
    for high in (0, 0xFFFFFFFF, 5):
        data += block("<", 6, struct.pack("<IIIII", 0, high, 7, len(ETHER_FRAME), len(ETHER_FRAME)) + ETHER_FRAME)
    (tmp_path / "times.pcapng").write_bytes(data)
    assert sniff.main(["-r", str(tmp_path / "times.pcapng"), option]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 3
    if option == "--json":
        assert all(isinstance(json.loads(line)["time"], float) for line in out.splitlines())


def test_a_time_that_the_system_lacks_is_shown_as_1970(monkeypatch):
    """Time ends in 2038 on some 32-bit systems, and begins in 1970 on Windows."""
    local_time = time.localtime

    def local_time_of_32_bits(second):
        if not 0 <= second < 1 << 31:
            raise OverflowError
        return local_time(second)

    monkeypatch.setattr(time, "localtime", local_time_of_32_bits)
    sniff.format_second.cache_clear()
    for second in (-1, 1 << 31):
        assert sniff.time_format(4)(second * sniff.NANO) == sniff.time_format(4)(0)
    sniff.format_second.cache_clear()


# tcpdump's options


@pytest.mark.parametrize(
    "options", ["-n", "-nn", "-l", "-U", "-p", "-s0", "-nnXs0", "-nneXSKs0", "-ln", "--immediate-mode"]
)
def test_the_options_that_tcpdumps_users_type_are_accepted(options, run, mixed):
    status, out, _ = run("sniff.py", options, "-r", mixed)
    assert (status, "192.0.2.1:40912 > 198.51.100.2:80" in out) == (0, True)


@filters
def test_options_may_stand_inside_the_filter(run, mixed):
    """tcpdump accepts them there, too, if its getopt() is that of glibc."""
    whole = run("sniff.py", "-r", mixed, "-c1", "tcp", "port", "80")[:2]
    assert whole[1]
    assert run("sniff.py", "tcp", "-r", mixed, "port", "-c", 1, "80")[:2] == whole


@pytest.mark.parametrize(
    ("option", "pattern"),
    [
        ("-t", r"TCP 192"),
        ("-tt", r"1700000000\.000000 TCP 192"),
        ("-ttt", r"00:00:00\.000000 TCP 192"),
        ("-tttt", r"2023-11-1\d \d\d:\d\d:\d\d\.000000 TCP 192"),
        ("-e", r"\d\d:\d\d:20\.000000 02:00:00:00:00:01 > 02:00:00:00:00:02 TCP 192"),
        ("-q", r"\d\d:\d\d:20\.000000 TCP [^ ]+ > [^ ]+ 54 bytes\Z"),
    ],
)
def test_options_change_the_line_as_in_tcpdump(option, pattern, run, mixed):
    assert re.match(pattern, lines(run("sniff.py", option, "-c1", "-r", mixed))[0])


@pytest.mark.parametrize(("option", "times"), [("-ttt", [0, 1, 1]), ("-ttttt", [0, 1, 2])])
def test_times_are_those_since_the_packet_before_or_since_the_first(option, times, run, mixed):
    shown = [line.split()[0] for line in lines(run("sniff.py", option, "-c3", "-r", mixed))]
    assert shown == [f"00:00:00.{microseconds:06}" for microseconds in times]


@pytest.mark.parametrize("tags", [b"", b"\x81\0\0\5", b"\x88\xa8\0\5\x81\0\0\6"])
def test_the_hex_dump_begins_behind_the_link_header_or_with_it(tags, run, tmp_path):
    frame = MIXED[0][:12] + tags + MIXED[0][12:]
    path = pcap(tmp_path / "a.pcap", [frame])
    for option, start in (("-X", 14 + len(tags)), ("-XX", 0)):
        _, *dump = lines(run("sniff.py", option, "-r", path))
        digits = "".join(re.sub(r"  .*", "", line.split(":  ")[1]).replace(" ", "") for line in dump)
        assert bytes.fromhex(digits) == frame[start:]
        assert [line.partition(":")[0] for line in dump] == [f"\t0x{at:04x}" for at in range(0, len(frame) - start, 16)]
        text = "".join(line[len("\t0x0000:  ") + 41 :] for line in dump)
        assert text == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in frame[start:])


def test_a_ring_keeps_so_many_complete_files_with_tcpdumps_names(run, tmp_path):
    path = pcap(tmp_path / "many.pcap", [raw(ETHER / V4 / UDP() / bytes(1_000))] * 100)
    assert run("sniff.py", "-r", path, "-w", tmp_path / "ring", "-C", 0.02, "-W", 3)[0] == 0
    files = sorted(file.name for file in tmp_path.glob("ring*"))
    assert files == ["ring0", "ring1", "ring2"]
    assert sum(len(records(tmp_path / name)) for name in files) <= 3 * 20
    assert max((tmp_path / name).stat().st_size for name in files) < 20_000 + 1_100  # As in tcpdump, one packet more.
    assert run("sniff.py", "-r", path, "-w", tmp_path / "row", "-C", 0.05)[0] == 0
    assert sorted(file.name for file in tmp_path.glob("row*")) == ["row", "row1", "row2"]
    assert sum(len(records(file)) for file in tmp_path.glob("row*")) == 100


def test_the_snapshot_length_limits_what_is_written(run, mixed, tmp_path):
    written = tmp_path / "short.pcap"
    run("sniff.py", "-r", mixed, "-s", 20, "-w", written)
    assert {len(kept) for _, _, _, _, kept in records(written)} == {20}
    assert struct.unpack("<I", written.read_bytes()[16:20]) == (20,)
    assert [length for _, length, _, _, _ in records(written)] == [len(frame) for frame in MIXED]


@filters
@pytest.mark.parametrize("expression", ["inbound", "outbound", "ifindex 1"])
def test_a_filter_for_what_a_file_does_not_record_is_an_error(expression, run, mixed):
    name = expression.split()[0]
    new = rf"not a live capture, '{name}' not supported on DLT_EN10MB \(Ethernet\)"  # libpcap itself, since 1.10.5
    error = one_error(run("sniff.py", "-r", mixed, expression))
    assert re.search(rf": the filter: (direction and interface are not recorded here|{new})\Z", error)


# Files that must not be damaged


def test_standard_input_goes_to_an_existing_file(script, mixed, tmp_path):
    for _ in range(2):
        with mixed.open("rb") as source:
            assert script("sniff.py", "-r", "-", "-w", tmp_path / "out.pcap", stdin=source).finish()[0] == 0
    assert records(tmp_path / "out.pcap") == records(mixed)


@pytest.mark.parametrize("how", ["same", "another path", "symlink", "hard link", "standard input"])
def test_the_file_that_is_read_is_not_overwritten(how, script, mixed, tmp_path):
    before, target = mixed.read_bytes(), tmp_path / "link.pcap"
    if how == "symlink":
        target.symlink_to(mixed)
    elif how == "hard link":
        target.hardlink_to(mixed)
    elif how == "another path":
        target = f"{mixed.parent}/./{mixed.name}"
    else:
        target = mixed
    with mixed.open("rb") as source:
        name = "-" if how == "standard input" else mixed
        assert "overwrite" in one_error(script("sniff.py", "-r", name, "-w", target, stdin=source).finish())
    assert mixed.read_bytes() == before


@captures
@pytest.mark.parametrize("trap", ["symlink", "hard link", "file of another user"])
def test_root_does_not_write_to_a_trap_in_a_shared_folder(trap, run, mixed, tmp_path):
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    shared.mkdir()
    shared.chmod(0o1777)
    victim.write_text("precious")
    target = shared / "out.pcap"
    if trap == "symlink":
        target.symlink_to(victim)
    elif trap == "hard link":
        target.hardlink_to(victim)
    else:
        target.write_text("precious")
        os.chown(target, 1234, 1234)
        victim = target
    one_error(run("sniff.py", "-r", mixed, "-w", target))
    assert victim.read_text() == "precious"


@captures
def test_only_a_file_that_was_created_gets_the_callers_owner(script, mixed, tmp_path):
    existing, created = tmp_path / "existing.pcap", tmp_path / "created.pcap"
    existing.touch()
    for path in (existing, created):
        assert script("sniff.py", "-r", mixed, "-w", path, env=os.environ | {"SUDO_UID": "65534"}).finish()[0] == 0
    assert (existing.stat().st_uid, created.stat().st_uid) == (os.geteuid(), 65_534)


@pytest.mark.parametrize("damage", ["interfaces", "simple packet", "block length"])
def test_absurd_pcapng_is_one_error_and_bounded_memory(damage, script, tmp_path):
    resource = pytest.importorskip("resource")
    data = section("<") + block("<", 1, struct.pack("<HxxI", 1, 0))
    if damage == "interfaces":
        data += block("<", 1, struct.pack("<HxxI", 1, 0)) * 500_000
    elif damage == "simple packet":
        data += block("<", 3, struct.pack("<I", 1 << 22) + bytes(1 << 22))
    else:
        data += struct.pack("<II", 6, 0xFFFFFFF0) + bytes(100)
    (tmp_path / "absurd.pcapng").write_bytes(data)
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (400 << 20, 400 << 20))
    assert "cut off or damaged" in one_error(
        script("sniff.py", "-r", tmp_path / "absurd.pcapng", preexec_fn=limit).finish()
    )


SNAP = b"\xaa\xaa\x03\0\0\0\x08\0"
WIFI = b"\x08\x01\0\0" + bytes(18) + b"\0\0" + SNAP


@pytest.mark.parametrize(
    ("linktype", "header"),
    [
        (1, bytes(12) + b"\0\x20" + SNAP),
        (1, bytes(12) + b"\x88\x64\x11\0\0\1\0\x20\0\x21"),
        (9, b"\0\x21"), (50, b"\xff\3\0\x21"), (104, b"\x0f\0\x08\0"), (105, WIFI),
        (127, b"\0\0\x08\0\0\0\0\0" + WIFI), (239, b"\2\0\0\0\x08\0\1\0\x08\0\1\0\xff\xff\x09\0"),
    ],
    ids=["LLC/SNAP", "PPPoE", "PPP", "PPP with HDLC", "C-HDLC", "802.11", "radiotap", "NFLOG"],
)  # fmt: skip
def test_rarer_link_types_are_read(linktype, header):
    packet = decode(header + INNER, linktype)
    assert (packet.proto, packet.src, packet.dport) == ("UDP", "10.0.0.1", 2)


def test_modified_pcap_has_longer_record_headers(tmp_path):
    data = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65_535, 1)
    data += (struct.pack("<IIII", 9, 0, len(ETHER_FRAME), len(ETHER_FRAME)) + bytes(8) + ETHER_FRAME) * 2
    (tmp_path / "modified.pcap").write_bytes(data)
    assert [packet.time for packet in sniff.read(tmp_path / "modified.pcap")] == [9, 9]
