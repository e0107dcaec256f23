"""sniff.py: its decoding next to scapy's, files next to tcpdump's and tshark's, live captures of the tests' traffic."""

import contextlib
import ctypes
import gzip
import itertools
import json
import os
import pty
import random
import re
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
from conftest import ROOT, in_namespace, process_status
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
    ICMPv6ND_NS,
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

import sniff
from sniff import decode

TEN_LINES = "tests/ten_lines/sniff.py"
PORT = 20_000 + os.getpid() % 10_000  # so that two suites at a time do not see each other
LO = ("-i", "lo")
root_on_linux = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="capturing needs root on Linux: sudo .venv/bin/python -m pytest",
)
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
    for name, payload in {name: (V4 if version == 4 else V6) / each for name, each in TRANSPORTS.items()}.items()
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
    found = sniff.dissect(frame, linktype, length or len(frame))
    json.loads(sniff.to_json(record, found))
    return sniff.format_line(record, found)


def other(name):
    return decode(raw(OTHERS[name]), 1)


@pytest.mark.parametrize("name", FRAMES)
def test_every_link_type_and_transport_is_decoded_as_scapy_does(name):
    linktype, frame = FRAMES[name]
    packet = decode(frame, linktype, time=1.5)
    layer = conf.l2types.num2layer.get(linktype) or (IPv6 if frame[0] >> 4 == 6 else IP)
    theirs = layer(frame)
    ip = theirs[IP if IP in theirs else IPv6]
    inner = ip.payload
    assert (packet.time, packet.length, packet.proto) == (1.5, len(frame), type(inner).__name__)
    assert (packet.src, packet.dst, packet.sport, packet.dport) == (ip.src, ip.dst, inner.sport, inner.dport)
    if TCP in theirs:
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
    assert (other("VLAN").vlan, other("VLAN").sport) == (5, 1)
    assert (other("two VLANs").vlan, other("two VLANs").dport) == ((6, 5), 2)


def test_arp_in_words():
    assert other("ARP who-has").info == "who-has 10.0.0.2 tell 10.0.0.1"
    assert other("ARP is-at").info == "10.0.0.1 is-at 02:00:00:00:00:09"
    assert (other("ARP who-has").src, other("ARP who-has").dst) == ("10.0.0.1", "10.0.0.2")


def test_icmp_in_words():
    assert (other("ICMP").proto, other("ICMP").info, other("ICMP").sport) == ("ICMP", "unreachable, port", None)
    assert (other("ICMPv6").proto, other("ICMPv6").info) == ("ICMPv6", "unreachable, port")
    assert other("neighbour").info == "neighbor solicitation"
    assert decode(raw(V4 / ICMP(type=200, code=9)), 101).info == "type 200, code 9"


def test_options_and_extensions_are_stepped_over():
    assert (other("IPv4 options").sport, other("IPv4 options").flags) == (7, "SYN")
    assert (other("IPv6 extensions").proto, other("IPv6 extensions").dport) == ("TCP", 8)


def test_fragments_have_no_invented_ports():
    four, six = other("IPv4 fragment"), other("IPv6 fragment")
    assert (four.proto, four.fragment, four.sport, four.src) == ("UDP", 1480, None, "1.1.1.1")
    assert (six.proto, six.fragment, six.sport, six.src) == ("UDP", 1448, None, "2001:db8::1")
    first = decode(raw(IP(flags="MF") / UDP(sport=1, dport=2)), 101)
    assert (first.fragment, first.sport) == (0, 1)


def test_padding_is_not_taken_for_ports():
    packet = decode(raw(ETHER / IP(src="1.1.1.1", dst="2.2.2.2", proto=6, len=20)) + b"\x01" * 26, 1)
    assert (packet.sport, packet.malformed) == (None, True)


def test_what_is_not_ip_has_its_ethernet_type_and_addresses():
    packet = decode(raw(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x1234)), 1)
    assert (packet.proto, packet.src, packet.dst) == ("0x1234", "02:00:00:00:00:01", "02:00:00:00:00:02")
    assert decode(raw(Ether(type=0x88CC)), 1).proto == "LLDP"


def test_another_link_type_is_its_number_and_length():
    assert line_of(b"x" * 30, 147).endswith(" link type 147 30 bytes\n")


def test_a_packet_that_was_cut_is_told_from_one_that_is_malformed():
    frame = raw(ETHER / V4 / TCP(sport=1, dport=2))
    assert (decode(frame[:40], 1, length=54).truncated, decode(frame[:40], 1, length=54).malformed) == (True, False)
    assert (decode(frame[:40], 1).truncated, decode(frame[:40], 1).malformed) == (False, True)
    assert decode(frame[:40], 1, length=54).sport == 1
    assert "[truncated]" in line_of(frame[:40], 1, 54)


def test_lines():
    assert re.fullmatch(
        r"\d\d:\d\d:20\.123456 TCP 192\.0\.2\.1:40912 > 198\.51\.100\.2:80 54 bytes \[SYN, ACK\]\n",
        line_of(raw(ETHER / V4 / TRANSPORTS["TCP"]), 1),
    )
    assert " UDP [2001:db8::1]:1 > [2001:db8::2]:2 " in line_of(raw(OTHERS["two VLANs"]), 1)
    assert line_of(raw(OTHERS["IPv4 fragment"]), 1).endswith(" UDP 1.1.1.1 > 2.2.2.2 74 bytes fragment at 1480\n")


def test_every_frame_cut_anywhere_is_decoded():
    for linktype, frame in ALL_FRAMES:
        for end in range(len(frame)):
            cut, short = decode(frame[:end], linktype, length=len(frame)), line_of(frame[:end], linktype)
            assert cut.truncated
            assert not CONTROL.search(short)


def test_ten_thousand_mutated_frames_are_decoded():
    chance = random.Random(4)
    for count in range(10_000):
        linktype, frame = chance.choice(ALL_FRAMES)
        mutated = bytearray(frame)
        for _ in range(chance.randrange(1, 8)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        mutated = chance.randbytes(chance.randrange(100)) if count % 10 == 0 else bytes(mutated)
        assert not CONTROL.search(line_of(mutated, linktype))


def test_a_thousand_frames_by_scapys_fuzz_are_decoded():
    random.seed(4)
    for _ in range(250):
        for packet in (V4 / fuzz(TCP()), fuzz(IP()) / UDP(), fuzz(IPv6()) / TCP(), V4 / fuzz(ICMP())):
            with contextlib.suppress(struct.error):  # scapy's own
                frame = raw(ETHER / packet)
                assert not CONTROL.search(line_of(frame, 1))
                assert not CONTROL.search(sniff.as_hex(frame) + sniff.as_ascii(frame))


def test_dumps_have_a_dot_for_what_is_unprintable():
    assert sniff.as_ascii(b"GET /\r\n\x1b[31m\xff") == "\tGET /..\n\t.[31m.\n"
    assert sniff.as_hex(b"\x00A\x1b").endswith("0041 1b                                  .A.\n")


# Files


def records(path):
    with contextlib.ExitStack() as files:
        return [record for batch in sniff.CaptureFile(files, path, "").batches() for record in batch]


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


def one_error(result):
    status, _, err = result
    assert status == 1
    errors = [line for line in err.splitlines() if line.startswith("sniff.py: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in err
    return errors[0]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_in_either_order_and_both_units(run, tmp_path, order, nano):
    path = pcap(tmp_path / "a.pcap", [ALL_FRAMES[0][1]] * 3, order=order, nano=nano)
    times = [packet.time for packet in sniff.read(path)]
    assert times == [1_700_000_000 + at * (1e-9 if nano else 1e-6) for at in range(3)]
    again = tmp_path / "again.pcap"
    run("sniff.py", "-r", path, "-w", again)
    assert records(again) == records(path)


def test_gzip_and_standard_input(run, mixed, tmp_path):
    packed = tmp_path / "mixed.gz"
    packed.write_bytes(gzip.compress(mixed.read_bytes()))
    plain = lines(run("sniff.py", "-r", mixed))
    assert len(plain) == len([*sniff.read(mixed)])
    assert lines(run("sniff.py", "-r", packed)) == plain
    for path in (mixed, packed):
        with path.open("rb") as file:
            assert lines(run("sniff.py", "-r", "-", stdin=file)) == plain


def test_standard_input_is_shown_as_it_comes(script, mixed):
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


def test_a_file_cut_anywhere_shows_what_is_whole(run, tmp_path):
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
def test_what_is_no_capture_is_one_error(run, tmp_path, data):
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
    theirs = subprocess.run(["tcpdump", "-nn", "-r", tmp_path / "out.pcap"], capture_output=True, text=True, check=True)
    assert len(re.findall(r"^\d", theirs.stdout, re.MULTILINE)) == len(frames)


@needs("tshark")
def test_tshark_finds_the_same(run, mixed, tmp_path):
    run("sniff.py", "-r", mixed, "-w", tmp_path / "out.pcap")
    fields = [f"-e{each}" for each in ("frame.len", "ip.src", "ipv6.src", "tcp.dstport", "udp.dstport", "vlan.id")]
    command = [
        "tshark",
        "-n",
        "-r",
        tmp_path / "out.pcap",
        "-Y",
        "(tcp or udp) and not icmp and not icmpv6",
        "-Tfields",
    ]
    theirs = subprocess.run([*command, *fields], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(theirs) >= 10
    ours = [packet for packet in sniff.read(mixed) if packet.proto in ("TCP", "UDP") and packet.sport]
    for row, packet in zip(theirs, ours, strict=True):
        length, four, six, tcp, udp, _ = row.split("\t")
        assert (int(length), four or six, int(tcp or udp or packet.dport)) == (packet.length, packet.src, packet.dport)


@needs("tcpdump")
@pytest.mark.parametrize("expression", ["tcp", "ip6", "udp and port 53", "vlan 5", "arp or icmp", "host 192.0.2.1"])
def test_filters_on_files_are_tcpdumps(run, mixed, expression):
    command = ["tcpdump", "-nn", "-r", mixed, expression]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ours = lines(run("sniff.py", "-n", "-r", mixed, *expression.split()))
    assert len(ours) == len(theirs) > 0


@pytest.mark.parametrize("linktype", [0, 108, 101, 113, 276, 228])
def test_filters_know_the_link_type(tmp_path, linktype):
    frames = [FRAMES[name][1] for name in FRAMES if FRAMES[name][0] == (0 if linktype == 108 else linktype)]
    path = pcap(tmp_path / "a.pcap", frames, linktype)
    assert {packet.proto for packet in sniff.read(path, "udp")} == {"UDP"}
    assert {packet.src for packet in sniff.read(path, "ip")} == {"192.0.2.1"}


def test_a_bad_filter_is_one_error_and_writes_nothing(run, mixed, tmp_path):
    assert "filter" in one_error(run("sniff.py", "-r", mixed, "-w", tmp_path / "out.pcap", "tcp", "and"))
    assert not (tmp_path / "out.pcap").exists()


def test_json_has_only_what_there_is(run, mixed):
    objects = [json.loads(line) for line in lines(run("sniff.py", "-r", mixed, "--json"))]
    first = {"time": 1_700_000_000.0, "length": 54, "proto": "TCP", "src": "192.0.2.1", "dst": "198.51.100.2"}
    assert objects[0] == first | {"sport": 40_912, "dport": 80, "flags": "SYN, ACK"}
    assert not any(value is None for each in objects for value in each.values())
    assert any(each.get("vlan") == 5 for each in objects)


@pytest.mark.parametrize("flag", ["-x", "-A", "-v"])
def test_what_is_below_the_lines_has_no_control_characters(run, mixed, flag):
    status, out, _ = run("sniff.py", "-r", mixed, flag, "-c", 4, ignored=["DeprecationWarning"])
    assert status == 0
    assert not CONTROL.search(out)
    assert sum(not line.startswith("\t") for line in out.splitlines()) == 4


def test_dissection_is_scapys_and_says_that_it_is_slow(run, mixed):
    _, out, err = run("sniff.py", "-r", mixed, "-v", "-c", 1, ignored=["DeprecationWarning"])
    assert "###[ TCP ]###" in out
    assert "slow" in err


def test_top_counts_packets_and_bytes(run, mixed):
    out = "\n".join(lines(run("sniff.py", "-r", mixed, "--top")))
    assert "UDP" in out
    assert "█" in out
    assert re.search(r"TCP 192\.0\.2\.1 <> 198\.51\.100\.2 +2 ", out)


def test_top_remembers_a_limited_number():
    top = sniff.Top()
    for number in range(100_000):
        top.add({"proto": "UDP", "src": str(number), "dst": "x"}, number)
    assert len(top._counts) <= sniff.KEPT_COUNTS + 4
    assert "x " in top.table(os.terminal_size((80, 24)))


def test_a_full_disk_is_one_error(run, mixed):
    assert "space" in one_error(run("sniff.py", "-r", mixed, "-w", "/dev/full"))
    with open("/dev/full", "w") as full:
        assert "space" in one_error(run("sniff.py", "-r", mixed, stdout=full))


def test_what_was_written_before_the_disk_was_full_is_valid(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "out.pcap"
    record = (0, 100, 1, None, b"x" * 100)
    before, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
        with contextlib.ExitStack() as files:
            writer = sniff.CaptureWriter(files, path)
            for _ in range(2):
                writer.write([record] * 3, 1, False)
            with pytest.raises(OSError, match="large"):
                writer.write([record] * 3, 1, False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, -1))
        signal.signal(signal.SIGXFSZ, handler)
    assert len([*sniff.read(path)]) == 6


def test_a_closed_pipe_ends_quietly(tmp_path):
    path = pcap(tmp_path / "many.pcap", [ALL_FRAMES[0][1]] * 20_000)
    command = f"{sys.executable} -W error {ROOT}/sniff.py -r {path} | head -1; echo ${{PIPESTATUS[0]}}"
    out = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert re.fullmatch(r".* TCP .*\n0\n", out.stdout)
    assert re.fullmatch(r"\d+ packets captured\n", out.stderr)


def test_help_loads_no_scapy_and_a_line_no_dns(mixed):
    code = "import sys, sniff; sniff.main(['-r', sys.argv[1], '-c1']); print([m for m in sys.modules if 'scapy' in m])"
    done = subprocess.run([sys.executable, "-c", code, mixed], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    "flags", [("-c", "0"), ("-x", "-A"), ("--duration", "0"), ("-w", "-", "--print"), ("--buffer", "0")]
)
def test_wrong_flags_are_status_2(run, flags):
    assert run("sniff.py", *flags)[0] == 2


def test_ten_lines_are_blind_to_ipv6_and_print_what_the_wire_says(run, tmp_path):
    bad = raw(ETHER / V4 / UDP(sport=7777, dport=7777) / b"\x1b[31mred")
    path = pcap(tmp_path / "a.pcap", [bad, raw(ETHER / V6 / UDP(sport=1, dport=2)), raw(OTHERS["ARP who-has"])])
    ignored = ["DeprecationWarning"]
    status, out, err = run(TEN_LINES, "-r", path, ignored=ignored)
    assert (status, out.count(">")) == (0, 1), err
    assert "\x1b[31m" in out
    shown = lines(run("sniff.py", "-r", path, "-A"))
    assert sum(">" in line for line in shown) == 3
    assert not CONTROL.search("\n".join(shown))


# Live


class Sniffer:
    """sniff.py capturing on lo, once it says so."""

    def __init__(self, script, *arguments, **options):
        self.process = script("sniff.py", *LO, *arguments, **options)
        self.said = []
        while not self.said or not self.said[-1].startswith("Starting"):
            self.said.append(self.process.stderr.readline())
            assert self.said[-1]


def send(count=1, data=b"hi", host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(data, (host, PORT))


FILTER = f"udp dst port {PORT}"


@root_on_linux
def test_a_line_a_packet_then_the_counts(script):
    sniffer = Sniffer(script, "-c", 4, FILTER)
    assert sniffer.said == ["Starting packet capture on lo... Press Ctrl+C to stop.\n"]
    send(2)
    send(2, host="::1")
    status, out, err = sniffer.process.finish()
    assert status == 0
    shown = out.splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{6}} UDP 127\.0\.0\.1:\d+ > 127\.0\.0\.1:{PORT} 44 bytes", shown[0])
    assert re.fullmatch(rf".* UDP \[::1\]:\d+ > \[::1\]:{PORT} 64 bytes", shown[2])
    assert err == "4 packets captured\n0 packets dropped by kernel\n"


@root_on_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_without_traffic(script, number):
    sniffer = Sniffer(script, FILTER)
    began = time.monotonic()
    status, out, err = sniffer.process.finish(number)
    assert (status, out) == (0, "")
    assert "0 packets captured" in err
    assert time.monotonic() - began < 0.9  # a tick of the loop would be a second


@root_on_linux
def test_duration_ends_it(script):
    began = time.monotonic()
    status, _, _ = Sniffer(script, "--duration", 0.2, FILTER).process.finish()
    assert status == 0
    assert time.monotonic() - began < 5


@root_on_linux
def test_privileges_are_gone_and_the_file_is_the_users(script, tmp_path):
    path = tmp_path / "out.pcap"
    sniffer = Sniffer(script, "-w", path, FILTER, env=os.environ | {"SUDO_UID": "65534", "SUDO_GID": "65534"})
    assert "privileges" in sniffer.said[0]
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


@root_on_linux
def test_a_user_who_may_not_read_this_python_can_filter_pcapng(run, tmp_path):
    path = str(tmp_path / "mixed.pcapng")
    with PcapNgWriter(path) as writer:
        writer.write(OTHERS["VLAN"])
    assert "UDP" in lines(run("sniff.py", "-r", path, "--user", "nobody", "vlan 5"))[0]


@root_on_linux
def test_ten_lines_stay_root(script):
    process = script(TEN_LINES, "lo", ignored=["DeprecationWarning"])
    process.stdout.readline()
    assert process_status(process)["Uid"] == ["0"] * 4
    process.terminate()


@root_on_linux
def test_no_such_user_and_no_such_interface_are_one_error(run):
    assert "nobody-here" in one_error(run("sniff.py", *LO, "--user", "nobody-here"))
    assert "lo" in one_error(run("sniff.py", "-i", "no-such"))


@root_on_linux
def test_a_bad_filter_captures_nothing(run):
    assert "filter" in one_error(run("sniff.py", *LO, "tcp and"))
    assert "filter" in one_error(run("sniff.py", "-i", "any", "tcp and"))


@root_on_linux
def test_without_root_the_error_names_both_remedies(run):
    drop = partial(ctypes.CDLL(None).prctl, 24, 13, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_RAW: as any user without it
    error = one_error(run("sniff.py", *LO, preexec_fn=drop))
    assert "sudo" in error
    assert "setcap" in error


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is lo")
def test_interfaces_have_their_addresses(run):
    shown = lines(run("sniff.py", "-D"))
    assert [line for line in shown if re.match(r"lo 127\.0\.0\.1\b", line)]
    assert sum(line.endswith(" (default)") for line in shown) == 1


@root_on_linux
def test_top_is_drawn_again_on_a_terminal():
    ours, theirs = pty.openpty()
    command = [sys.executable, ROOT / "sniff.py", *LO, "--top", FILTER]
    with subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.PIPE, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        process.stderr.readline()
        drawn = b""
        while drawn.count(b"\x1b[H\x1b[J") < 2:
            send(2)
            drawn += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        process.communicate()
    os.close(ours)
    assert b"127.0.0.1" in drawn
    assert process.returncode == 0


@root_on_linux
def test_any_names_the_interface_and_filters(script):
    process = script("sniff.py", "-i", "any", "-c", 1, FILTER)
    assert "any" in process.stderr.readline()
    send()
    _, out, _ = process.finish()
    assert re.fullmatch(rf"[\d:.]+ lo UDP .* > 127\.0\.0\.1:{PORT} .*\n", out)


@root_on_linux
def test_any_has_frames_as_they_are_and_pcap_one_link_type(script, tmp_path):
    path, after = tmp_path / "any.pcap", ("-i", "any", "--print", "-w")

    def job():
        fcntl = pytest.importorskip("fcntl")
        try:
            tunnel = os.open("/dev/net/tun", os.O_RDWR)
        except OSError as error:
            pytest.skip(f"needs a tunnel device: {error}")
        fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"tunnel", 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
        for command in ("addr add 192.0.2.1/24 dev tunnel", "link set tunnel up"):
            subprocess.run(["ip", *command.split()], check=True)
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


@root_on_linux
def test_the_kernels_drops_are_told(script):
    sniffer = Sniffer(script, "--buffer", 1, FILTER)
    sniffer.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sniffer.process.pid, os.WSTOPPED | os.WNOWAIT)
    send(2_000, b"x" * 8_000)  # some 200 fit into the buffer, and their lines into the pipe to here
    sniffer.process.send_signal(signal.SIGCONT)
    assert "warning: the kernel dropped" in sniffer.process.stderr.readline()
    status, out, err = sniffer.process.finish(signal.SIGINT)
    assert status == 0
    captured, dropped = map(int, re.findall(r"^(\d+) packets", err, re.MULTILINE))
    assert dropped > 0
    assert captured == out.count("\n")
    assert captured + dropped <= 2_000


@root_on_linux
def test_a_vlan_tag_that_the_kernel_keeps_aside_is_seen_filtered_and_written(tmp_path):
    path = tmp_path / "vlan.pcap"
    setup = [
        "link add one type veth peer name two",
        "link set one up",
        "link set two up",
    ]

    def first(interface, expression):
        with contextlib.ExitStack() as files:
            writer = sniff.CaptureWriter(files, path)
            live = sniff.Live(files, interface, expression, 1 << 20)
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
        assert (packet.vlan, packet.dport, packet.length, packet.truncated) == (5, PORT, 56, False)
        assert [each.vlan for each in sniff.read(path)] == [5]


@root_on_linux
def test_a_filter_does_not_cut_loopbacks_longest_frames(monkeypatch):
    monkeypatch.setattr(sniff, "TICK_S", 0.2)

    def job():
        with contextlib.ExitStack() as files, socket.create_server(("127.0.0.1", 0)) as server:
            live = sniff.Live(files, "lo", "tcp", 32 << 20)
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
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal, contextlib.ExitStack() as files:
        monkeypatch.setattr(sniff, "TICK_S", 0)
        monkeypatch.setattr(sys, "stderr", terminal)
        assert sum(map(len, sniff.showing_progress(sniff.CaptureFile(files, path, "")))) == sniff.BATCH * 2
        shown = b""
        while not shown.endswith(b" \r"):  # at the end it is wiped away
            shown += os.read(ours, 65_536)
    os.close(ours)
    assert b" of " + size + b" bytes\r" in shown


@root_on_linux
def test_capture_is_an_iterator_of_packets():
    def job():
        with contextlib.closing(sniff.capture("lo", FILTER)) as packets:
            threading.Timer(0.3, send).start()
            return next(packets)

    packet = in_namespace(job)
    assert (packet.proto, packet.dport, packet.length) == ("UDP", PORT, 44)
    assert abs(packet.time - time.time()) < 5


# What a hostile tester found


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
    assert decode(raw(ETHER / Dot1Q(vlan=5, prio=7, dei=1) / V4 / UDP()), 1).vlan == 5
    hash(decode(raw(OTHERS["two VLANs"]), 1))


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def section(order):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


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
    assert len(lines(run("sniff.py", "-r", path, "udp", "port", 6))) == 1  # of the cut one, there is no port
    written = tmp_path / "written.pcap"
    lines(run("sniff.py", "-r", path, "-w", written))
    assert [(length, len(kept)) for _, length, _, _, kept in records(written)] == [
        (len(frame), len(frame)),
        (len(frame), 35),
    ]


def test_what_is_whole_before_damage_is_shown(run, mixed, tmp_path):
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


def test_the_input_is_not_overwritten(run, mixed):
    before = mixed.read_bytes()
    one_error(run("sniff.py", "-r", mixed, "-w", f"{mixed.parent}/./{mixed.name}"))
    assert mixed.read_bytes() == before


@pytest.mark.parametrize("arguments", [["-r", ""], ["-i", ""], ["-r", "x", "-i", "lo"], ["--json", "-x"]])
def test_no_argument_is_taken_for_another(run, arguments):
    status, out, err = run("sniff.py", *arguments)
    assert (status in (1, 2), out, err.count(": error: ")) == (True, "", 1)
    assert "Starting" not in err


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
    found = {"proto": "UDP", "src": "2001:db8:1111:2222:3333:4444:5555:6666", "dst": "2001:db8:1111:2222:3333:4444:0:1"}
    top.add(found, 1_000)
    back = found | {"src": found["dst"], "dst": found["src"]}
    top.add(back, 500)
    for columns in (60, 80, 200):
        table = top.table(os.terminal_size((columns, 24)))
        assert max(map(len, table.splitlines())) <= max(columns, 70)
    assert next(line for line in table.splitlines() if " <> " in line).split()[4:6] == ["2", "1,500"]


@root_on_linux
def test_all_that_root_has_is_given_up(script, tmp_path):
    """Further groups, too; and only the file that it made itself changes hands."""
    path = tmp_path / "out.pcap"
    tmp_path.chmod(0o777)
    sniffer = Sniffer(script, "--user", "nobody", "-w", path, preexec_fn=lambda: os.setgroups([0, 4, 27]))
    status = process_status(sniffer.process)
    assert status["Groups"] == []
    assert status["Uid"] == [str(NOBODY)] * 4
    assert path.stat().st_uid == NOBODY
    assert len(path.read_bytes()) == 24  # a header, before any packet
    sniffer.process.finish(signal.SIGINT)
    owner = os.stat(os.devnull).st_uid
    sniffer = Sniffer(script, "--user", "nobody", "-w", os.devnull)
    assert os.stat(os.devnull).st_uid == owner
    sniffer.process.finish(signal.SIGINT)


@root_on_linux
def test_closed_standard_descriptors_do_not_become_the_captures_own(run, mixed):
    for closed in ([1], [2], [0, 1, 2]):
        arguments = ["-w", "-"] if closed == [2] else ["--top"]
        status, out, _ = run(
            "sniff.py", "-r", mixed, *arguments, preexec_fn=lambda closed=closed: [os.close(each) for each in closed]
        )
        assert (status, "captured" in out) == (0, False)
