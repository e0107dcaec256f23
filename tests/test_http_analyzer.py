"""http_analyzer.py with generated captures and real connections: pairs, problems, formats, memory and time."""

import contextlib
import functools
import gzip
import http.client
import http.server
import io
import itertools
import json
import os
import pickle
import random
import re
import runpy
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib

import pytest
from conftest import ROOT, captures, filters, in_namespace

import http_analyzer
from http_analyzer import CaptureError, HTTPAnalyzer, analyze

TEN_LINES = ROOT / "tests" / "ten_lines" / "http_analyzer.py"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
GET = b"GET /%d HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 %d OK\r\nContent-Length: 5\r\n\r\nhello"
STATUS = b"HTTP/1.1 200 OK\r\n"
EXPECTING = b"PUT /0 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = STATUS + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"


class Wire:
    """One connection, as frames: (time, link type, bytes)."""

    def __init__(self, client=("10.0.0.1", 40000), server=("10.0.0.2", 80), isn=(1000, 2**32 - 40)):
        self.ends, self.seq, self.frames, self.time = (client, server), list(isn), [], 1000.0

    def packet(self, side, seq, ack, flags, data=b""):
        (source, sport), (target, dport) = self.ends[side], self.ends[1 - side]
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        addresses = socket.inet_pton(family, source) + socket.inet_pton(family, target)
        tcp = struct.pack("!HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, 0x50, flags, 9, 0, 0) + data
        if family == socket.AF_INET6:
            return struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + addresses + tcp
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 7, 0, 64, 6, 0) + addresses + tcp

    def put(self, side, flags, data=b"", ack=None):
        ack = self.seq[1 - side] if ack is None else ack
        packet = self.packet(side, self.seq[side], ack, flags, data)
        kind = b"\x86\xdd" if ":" in self.ends[0][0] else b"\x08\x00"
        self.time += 0.001
        self.frames.append((self.time, 1, bytes(12) + kind + packet))
        self.seq[side] += len(data) + (flags & FIN) + (flags >> 1 & 1)
        return self

    def forge(self, side, flags, shift=0):
        """Add a packet that changes no sequence number; shift: the distance from the next one."""
        packet = self.packet(side, self.seq[side] + shift, self.seq[1 - side], flags)
        self.frames.append((self.time, 1, bytes(12) + b"\x08\x00" + packet))
        return self

    def open(self):
        return self.put(0, SYN, ack=0).put(1, SYN | ACK).put(0, ACK)

    def send(self, side, data, cuts=()):
        for start, end in itertools.pairwise([0, *sorted({*cuts} - {0, len(data)}), len(data)]):
            self.put(side, ACK | PSH, data[start:end])
        return self

    def close(self):
        return self.put(0, FIN | ACK).put(1, FIN | ACK).put(0, ACK)


def fed(analyzer, frames):
    return [exchange for frame in frames for exchange in analyzer.feed(*frame)]


def exchanges(frames, **options):
    analyzer = HTTPAnalyzer(**options)
    return fed(analyzer, frames) + analyzer.flush()


def pairs_in(exchanges):
    return [(exchange.target, exchange.status) for exchange in exchanges]


def brief(exchange):
    bodies = exchange.request_bytes, exchange.response_bytes
    return exchange.method, exchange.target, exchange.status, *bodies, exchange.problems


def exchange_lines(frames):
    return sorted(map(brief, exchanges(frames)), key=str)


def one(requests, responses, **options):
    """The exchanges of a connection in which first all requests are sent, then all responses."""
    return exchanges(frames_of(requests, responses, **options))


def frames_of(requests, responses, **options):
    return Wire(**options).open().send(0, requests).send(1, responses).close().frames


def save(path, frames, order="<", unit=1e-6, linktype=None):
    magic = 0xA1B2C3D4 if unit == 1e-6 else 0xA1B23C4D
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262_144, frames[0][1] if linktype is None else linktype)
    for when, _, frame in frames:
        data += struct.pack(order + "IIII", int(when), round(when % 1 / unit), len(frame), len(frame)) + frame
    path.write_bytes(data)
    return path


def block(kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


def save_ng(path, frames):
    """pcapng with an interface for each link type, the second with nanoseconds."""
    types = sorted({linktype for _, linktype, _ in frames})
    data = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    for index, linktype in enumerate(types):
        data += block(1, struct.pack("<HHI", linktype, 0, 0) + (struct.pack("<HHB3xI", 9, 1, 9, 0) if index else b""))
    for when, linktype, frame in frames:
        ticks = round(when * (1e9 if types.index(linktype) else 1e6))
        head = struct.pack("<IIIII", types.index(linktype), ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
        data += block(6, head + frame)
    path.write_bytes(data)
    return path


@pytest.fixture
def capture(tmp_path):
    wire = Wire().open()
    for number in range(3):
        wire.send(0, GET % number).send(1, OK % (200 + number))
    return save(tmp_path / "a.pcap", wire.close().frames)


# Properties


def random_exchanges(rng, count):
    for number in range(count):
        sent, answered = (bytes(rng.choices(b"abcdefgh", k=rng.randrange(1, size))) for size in (60, 300))
        request, response = (
            GET % number,
            b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (200 + number, len(answered)),
        )
        kind, how = rng.randrange(5), rng.randrange(5)
        if kind == 0:
            request = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (number, len(sent)) + sent
        elif kind == 1:
            request = b"PUT /%d HTTP/1.1\nTransfer-Encoding: chunked\n\n%x\r\n%b\r\n0\r\nT: x\r\n\r\n"
            request %= (number, len(sent), sent)
        elif kind == 2:
            yield b"HEAD /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number, response
            continue
        if how == 0:
            response = b"HTTP/1.1 %d OK\r\nTransfer-Encoding: chunked\r\n\r\n%x;e=1\r\n%b\r\n2\r\nab\r\n0\r\n\r\n"
            yield request, response % (200 + number, len(answered), answered)
        else:
            yield request, (b"HTTP/1.1 100 Continue\r\n\r\n" if how == 1 else b"") + response + answered


def random_wire(rng, pairs, pipelined, how):
    def cuts(data):
        return [(), range(len(data)), rng.choices(range(len(data)), k=5)][how]

    wire = Wire(isn=(rng.choice([1, 2**32 - 50]), rng.choice([1, 2**32 - 300]))).open()
    turns = [(0, pair[0]) for pair in pairs] + [(1, pair[1]) for pair in pairs]
    for side, data in turns if pipelined else [turn for pair in pairs for turn in enumerate(pair)]:
        wire.send(side, data, cuts(data))
        if rng.random() < 0.5:
            wire.put(1 - side, ACK)
    return wire.close().frames


def mixed(rng, frames, window):
    late = sorted(enumerate(frames[3:]), key=lambda item: item[0] + rng.random() * window)
    return frames[:3] + [frame for _, frame in late]


@pytest.mark.parametrize("seed", range(20))
def test_segmentation_order_and_repetition_do_not_change_the_exchanges(seed):
    rng = random.Random(seed)
    pairs = list(random_exchanges(rng, rng.randrange(1, 6)))
    truth = exchange_lines(random_wire(rng, pairs, False, 0))
    assert [line[5] for line in truth] == [()] * len(pairs)
    for how in range(3):
        frames = random_wire(rng, pairs, rng.random() < 0.5, how)
        again = [(0, frame) for frame in frames] + [(rng.random() * 20, frame) for frame in frames]
        again = sorted(enumerate(again), key=lambda item: item[0] % len(frames) + item[1][0])
        assert exchange_lines(frames) == truth
        assert exchange_lines(mixed(rng, frames, 8)) == truth
        assert exchange_lines([frame for _, (_, frame) in again]) == truth
        assert exchange_lines(overlapping(rng, frames)) == truth


def overlapping(rng, frames):
    """Every segment with some of the bytes before it, as in a retransmission; half of them also without."""
    sent = {}
    for when, linktype, frame in frames:
        data, key = frame[54:], frame[26:38]
        if data and sent.get(key):
            more = sent[key][-rng.randrange(1, len(sent[key]) + 1) :]
            seq = struct.unpack_from("!I", frame, 38)[0] - len(more)
            head = frame[:16] + struct.pack("!H", 40 + len(more + data)) + frame[18:38] + struct.pack("!I", seq % 2**32)
            yield when, linktype, head + frame[42:54] + more + data
        if not (data and sent.get(key)) or rng.random() < 0.5:
            yield when, linktype, frame
        sent[key] = (sent.get(key, b"") + data)[-400:]


@pytest.mark.parametrize("seed", range(20))
def test_with_one_segment_lost_every_other_exchange_is_right(seed):
    rng = random.Random(seed)
    pairs = list(random_exchanges(rng, rng.randrange(2, 6)))
    truth = exchange_lines(random_wire(rng, pairs, False, 0))
    for how, pipelined in itertools.product((0, 1), (False, True)):
        frames = random_wire(rng, pairs, pipelined, how)
        with_data = [frame for frame in frames if len(frame[2]) > 54]
        for lost in rng.sample(with_data, min(8, len(with_data))):
            result = exchange_lines([frame for frame in frames if frame is not lost])
            whole = [line for line in result if not line[5]]
            assert set(whole) <= set(truth)
            assert pipelined or len(whole) >= len(pairs) - 1


@pytest.mark.parametrize("seed", range(20))
def test_lost_segments_never_cause_a_wrong_pair(seed):
    rng = random.Random(seed)
    for pipelined in (False, False, True):
        frames = random_wire(rng, list(random_exchanges(rng, 6)), pipelined, 2)
        for line in exchange_lines(frame for frame in frames if rng.random() > 0.1):
            assert line[0] is None or line[2] is None or line[1] == f"/{line[2] - 200}"


def test_a_lost_request_does_not_shift_those_after_it():
    wire = Wire().open()
    for number in range(4):
        wire.send(0, GET % number).send(1, OK % (200 + number))
    result = exchanges(wire.frames[:5] + wire.frames[6:])
    assert pairs_in(result) == [("/0", 200), (None, 201), ("/2", 202), ("/3", 203)]
    assert next(exchange for exchange in result if exchange.status == 201).problems == ("gap", "no request")


def alternating(rng, count):
    """A connection's exchanges, each answered before the next."""
    wire = Wire().open()
    for number in range(count):
        body = bytes(rng.choice([5, 3_000]))
        response = b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nContent-Length: %d\r\n\r\n" % (number, len(body)) + body
        wire.send(0, GET % number).send(1, response, range(1448, len(response), 1448))
    return wire.close().frames


@pytest.mark.parametrize("seed", range(10))
def test_after_a_loss_of_several_segments_the_next_exchanges_are_right_again(seed):
    rng, left, losses, skip = random.Random(seed), [], 0, 0
    for frame in alternating(rng, 400):
        if not skip and rng.random() < 0.01:
            skip, losses = rng.randrange(1, 10), losses + 1
        if skip:
            skip -= 1
        else:
            left.append(frame)
    result = exchanges(left, headers=True)
    for exchange in result:
        number = dict(exchange.response_headers or ()).get("X-Number")
        assert exchange.target is None or number is None or exchange.target == f"/{number}"
    assert sum(not exchange.problems for exchange in result) >= 400 - 5 * losses
    requests = sum(frame[2][54:].startswith(b"GET") for frame in left)
    assert sum(exchange.target is not None for exchange in result) == requests


@pytest.mark.parametrize("seed", range(5))
def test_lost_segments_do_not_concern_the_exchanges_that_are_captured_whole(seed):
    rng = random.Random(seed)
    for _ in range(60):
        wire = Wire().open()
        places = []
        for number in range(8):
            first = len(wire.frames)
            body = bytes(rng.choice([0, 3_000]))
            request = POST % (number, b"Content-Length: %d\r\n" % len(body)) + body
            wire.send(0, request, range(1448, len(request), 1448)).send(1, OK % (200 + number))
            places.append(range(first, len(wire.frames)))
        first = rng.randrange(3, len(wire.frames))
        lost = range(first, first + rng.randrange(1, 9))
        result = pairs_in(exchanges([frame for place, frame in enumerate(wire.close().frames) if place not in lost]))
        for number, place in enumerate(places):
            assert not set(place).isdisjoint(lost) or (f"/{number}", 200 + number) in result


@pytest.mark.parametrize("letters", ["rrARRRARARAARA", "RRAARrarAARARRARA", "RaRRaRARARAARRA"])
def test_where_losses_hide_how_many_are_pipelined_nothing_is_paired_wrongly(letters):
    """Of requests (R) and responses (A), each with the next number, those in small letters are lost."""
    wire, numbers = Wire().open(), {0: itertools.count(), 1: itertools.count()}
    for letter in letters:
        side = "RA".index(letter.upper())
        wire.send(side, (GET % next(numbers[0])) if side == 0 else OK % (200 + next(numbers[1])))
    captured = [frame for frame, letter in zip(wire.frames[3:], letters, strict=True) if letter.isupper()]
    result = exchanges(wire.frames[:3] + captured)
    assert sum(exchange.target is not None for exchange in result) == letters.count("R")
    for exchange in result:
        assert exchange.target is None or exchange.status is None or exchange.target == f"/{exchange.status - 200}"


def test_of_two_gaps_the_request_comes_first_that_was_sent_before_the_response_arrived():
    """Of three pipelined requests, the second one and the first response are missing."""
    wire = Wire().open().send(0, GET % 1).send(0, GET % 2).send(0, GET % 3)
    wire.send(1, OK % 201).send(1, OK % 202).send(1, OK % 203)
    frames = [frame for number, frame in enumerate(wire.frames) if number not in (4, 6)]  # without GET 2 and 201
    assert [pair for pair in pairs_in(exchanges(frames)) if None not in pair] == []


def test_a_request_that_is_lost_behind_a_complete_one_shows_that_the_client_pipelines():
    wire = (
        Wire().open().send(0, GET % 1).send(0, GET % 2).send(1, OK % 201 + OK % 202).send(0, GET % 3).send(1, OK % 203)
    )
    pairs = pairs_in(exchanges(wire.frames[:4] + wire.frames[5:]))
    assert pairs == [("/1", 201), (None, 202), (None, 203), ("/3", None)]


def test_a_refused_body_that_was_lost_does_not_end_the_next_request():
    put = b"PUT /0 HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = Wire().open().send(0, put).send(0, b"5\r\nhello\r\n0\r\n\r\n")
    wire.send(0, POST % (1, b"Content-Length: 10\r\n") + b"01234").send(1, OK % 417).send(0, b"56789").send(1, OK % 201)
    result = exchanges(wire.frames[:4] + wire.frames[5:])
    assert [exchange.request_bytes for exchange in result if exchange.method == "POST"] == [10]


@pytest.mark.parametrize(
    ("request_bytes", "cuts"), [(GET % 1, []), (GET % 1, [2]), (GET % 1, [4]), (b"\r\n" + GET % 1, [])]
)
def test_a_refusal_of_a_body_that_was_lost_causes_no_wrong_pair(request_bytes, cuts):
    wire = Wire().open().send(0, EXPECTING).send(1, OK % 417).send(0, request_bytes, cuts).send(1, OK % 201)
    result = exchanges(wire.frames[:4] + wire.frames[5:])
    assert pairs_in(result) == [("/0", None), ("/1", 201)]


def test_a_gap_after_the_head_of_a_refused_request_is_not_counted_as_its_body():
    wire = Wire().open().send(0, EXPECTING).send(1, OK % 417).send(0, GET % 1).send(1, OK % 201).send(0, GET % 2)
    result = exchanges(wire.send(1, OK % 202).frames[:4] + wire.frames[6:])
    assert ("/0", 201) not in pairs_in(result)
    assert ("/2", 202) in pairs_in(result)


def test_thousands_of_pipelined_requests_get_their_responses():
    wire = Wire().open()
    for number in range(5_000):
        wire.send(0, GET % number)
    for number in range(4_000):
        wire.send(1, OK % (205 + number % 95))
    pairs = [(f"/{number}", 205 + number % 95 if number < 4_000 else None) for number in range(5_000)]
    assert pairs_in(exchanges(wire.frames)) == pairs


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 12)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(1, 40)]
            case 2:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 60)]
            case 3:
                data[at : at + 4] = rng.choice([b"\r\n\r\n", b"\xff" * 4, b"\x1b[2J", bytes(4), b"HTTP"])
        if not data:
            return b"\0"
    return bytes(data)


def test_mutated_captures_raise_nothing_and_print_no_control_character():
    rng = random.Random(5)
    originals = []
    for seed in range(20):
        pairs = list(random_exchanges(random.Random(seed), 3))
        originals.append(random_wire(random.Random(seed), pairs, seed % 2, 2 * (seed % 2)))
    lines = 0
    for number in range(750):
        frames = list(rng.choice(originals))
        for _ in range(3):
            at = rng.randrange(len(frames))
            frames[at] = (frames[at][0], frames[at][1], mutate(rng, frames[at][2]))
        for exchange in exchanges(frames, headers=number % 2 == 1):
            lines += 1
            for form in http_analyzer.FORMATS.values():
                text = form(exchange)
                assert not http_analyzer.UNPRINTABLE.search(text.replace("\n  > ", "").replace("\n  < ", ""))
    assert lines > 1_500


def test_two_thousand_mutated_files_end_with_an_error_of_ours(tmp_path, capture):
    rng, path = random.Random(6), tmp_path / "mutated"
    data = capture.read_bytes()
    for _ in range(2_000):
        path.write_bytes(mutate(rng, data))
        with contextlib.suppress(CaptureError):
            assert len(list(analyze(str(path)))) < 20


# Link layers, IP


def link(header, linktype):
    return lambda packet: [(1.0, linktype, header + packet)]


def fragments(packet, cuts=((48, None), (0, 24), (24, 48))):
    """An IPv4 packet in parts, of which the last one has no end."""
    payload = packet[20:]
    for start, end in cuts:
        part = payload[start:end]
        more = 0x2000 if end else 0
        head = packet[:2] + struct.pack("!HHH", 20 + len(part), 7, start // 8 | more) + packet[8:20]
        yield 1.0, 101, head + part


def fragments6(packet):
    for start, end, more in ((0, 24, 1), (24, None, 0)):
        part = packet[40:][start:end]
        head = packet[:4] + struct.pack("!HB", 8 + len(part), 44) + packet[7:40]
        yield 1.0, 101, head + struct.pack("!BBHI", 6, 0, start | more, 99) + part


def extended(packet):
    """IPv6 with hop-by-hop options, a routing header and destination options."""
    more = bytes([43, 0, *bytes(6)]) + bytes([60, 1, *bytes(14)]) + bytes([6, 0, *bytes(6)])
    head = packet[:4] + struct.pack("!HB", len(packet) - 40 + len(more), 0) + packet[7:40]
    return [(1.0, 101, head + more + packet[40:])]


def with_options(packet):
    return [
        (1.0, 101, b"\x46" + packet[1:2] + struct.pack("!H", len(packet) + 4) + packet[4:20] + bytes(4) + packet[20:])
    ]


def in_ipv4(packet):
    addresses = bytes([192, 0, 2, 1, 192, 0, 2, 2])
    return [(1.0, 101, struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(packet), 0, 0, 9, 41, 0) + addresses + packet)]


def outer(protocol, payload):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 9, protocol, 0)
    return [(1.0, 101, head + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + payload)]


def datagram(port, payload):
    return struct.pack("!HHHH", 50_000, port, 8 + len(payload), 0) + payload


SNAP, IP4 = b"\xaa\xaa\x03\0\0\0", b"\x08\x00"
WIFI = b"\x08\x01" + bytes(22)
LAYERS = {
    "Ethernet": link(bytes(12) + IP4, 1),
    "802.1Q": link(bytes(12) + b"\x81\0\0\x07" + IP4, 1),
    "802.1ad and two more": link(bytes(12) + b"\x88\xa8\0\x01\x81\0\0\x02\x81\0\0\x03" + IP4, 1),
    "PPPoE": link(bytes(12) + b"\x88\x64\x11\0\0\x01\0\0\0\x21", 1),
    "Linux cooked v1": link(bytes(14) + IP4, 113),
    "Linux cooked v2": link(IP4 + bytes(18), 276),
    "BSD NULL": link(b"\x02\0\0\0", 0),
    "BSD LOOP": link(b"\0\0\0\x02", 108),
    **{f"raw {number}": link(b"", number) for number in (12, 14, 101, 228)},
    "Cisco HDLC": link(b"\x0f\0" + IP4, 104),
    "PPP": link(b"\xff\x03\0\x21", 9),
    "PPP, compressed": link(b"\0\x21", 9),
    "802.11": link(WIFI + SNAP + IP4, 105),
    "radiotap, QoS": link(b"\0\0\x0c\0" + bytes(8) + b"\x88\x02" + bytes(24) + SNAP + IP4, 127),
    "options": with_options,
    "fragments": fragments,
    "offload": lambda packet: [(1.0, 101, packet[:2] + bytes(2) + packet[4:])],
    "padding": lambda packet: [(1.0, 1, bytes(12) + IP4 + packet + b"padding")],
    "IPv6": link(b"", 229),
    "IPv6 offload": lambda packet: [(1.0, 101, packet[:4] + bytes(2) + packet[6:])],
    "IPv6 extensions": extended,
    "IPv6 fragments": fragments6,
    "6in4": in_ipv4,
    "LLC and SNAP": link(bytes(12) + b"\0\x40" + SNAP + IP4, 1),
    "MPLS, Ethernet": link(bytes(12) + b"\x88\x48" + b"\0\1\1\x40" + b"\2" * 12 + IP4, 1),
    "MPLS, control word, Ethernet": link(bytes(12) + b"\x88\x47" + b"\0\1\1\x40" + bytes(4) + b"\2" * 12 + IP4, 1),
    "MPLS, two labels": link(bytes(12) + b"\x88\x47" + b"\0\1\0\x40\0\2\1\x40", 1),
    "NFLOG": link(b"\2\0\0\0" + b"\5\0\x0a\0x\0\0\0" + b"\x44\0\x09\0", 239),
    "GRE": lambda packet: outer(47, b"\0\0\x08\0" + packet),
    "GRE, key, sequence, Ethernet": lambda packet: outer(47, b"\x30\0\x65\x58" + bytes(20) + IP4 + packet),
    "GRE of PPTP, acknowledgement": lambda packet: outer(47, b"\x20\x81\x88\x0b" + bytes(8) + b"\xff\3\0\x21" + packet),
    "ERSPAN I": lambda packet: outer(47, b"\0\0\x88\xbe" + bytes(12) + IP4 + packet),
    "ERSPAN II": lambda packet: outer(47, b"\x10\0\x88\xbe" + bytes(24) + IP4 + packet),
    "VXLAN": lambda packet: outer(17, datagram(4789, b"\x08" + bytes(19) + IP4 + packet)),
    "Geneve": lambda packet: outer(17, datagram(6081, b"\1\0\x65\x58" + bytes(20) + IP4 + packet)),
    "GTP-U": lambda packet: outer(17, datagram(2152, b"\x32\xff" + bytes(10) + packet)),
    "GTP-U, short": lambda packet: outer(17, datagram(2152, b"\x30\xff" + bytes(6) + packet)),
    "GTP-U, extension": lambda packet: outer(17, datagram(2152, b"\x34\xff" + bytes(9) + b"\x85\1\0\0\0" + packet)),
    "L2TP": lambda packet: outer(17, datagram(1701, b"\0\2" + bytes(4) + b"\xff\3\0\x21" + packet)),
    "AH": lambda packet: outer(51, b"\4\4" + bytes(22) + packet),
    "IP in IP": lambda packet: outer(4, packet),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_link_layer(name):
    addresses = (
        {"client": ("fd00::1", 40000), "server": ("fd00::2", 80)} if "6" in name[:5] and "802" not in name else {}
    )
    addresses = addresses if name in ("IPv6", "IPv6 offload", "IPv6 extensions", "IPv6 fragments", "6in4") else {}
    wire = Wire(**addresses)
    frames = [
        *LAYERS[name](wire.packet(0, 500, 900, ACK, GET % 1)),
        *LAYERS[name](wire.packet(1, 900, 500 + len(GET % 1), ACK, OK % 200)),
    ]
    (exchange,) = exchanges(frames)
    assert brief(exchange) == ("GET", "/1", 200, 0, 5, ())
    assert exchange.client == ("[fd00::1]:40000" if addresses else "10.0.0.1:40000")


def test_overlapping_fragments_do_not_hide_a_hole():
    wire = Wire().send(0, GET % 1)
    packet = wire.frames[0][2][14:]
    frames = [*fragments(packet, [(0, 24), (8, 24), (40, None), (24, 40)])]
    assert len(packet) - 20 <= 24 + 16 + len(packet) - 20 - 40  # Without the last fragment, there are enough bytes.
    assert pairs_in(exchanges(frames)) == [("/1", None)]


def test_an_identification_can_be_used_again():
    wire = Wire()
    for number in range(3):
        packet = wire.packet(0, wire.seq[0], 0, ACK, GET % number)
        wire.frames += fragments(packet)
        wire.seq[0] += len(GET % number)
    assert [exchange.target for exchange in exchanges(wire.frames)] == ["/0", "/1", "/2"]


def test_frames_without_tcp_are_skipped():
    rng = random.Random(1)
    for linktype in (*http_analyzer.LINK_LAYERS, 7, 999):
        for size in range(120):
            assert exchanges([(1.0, linktype, rng.randbytes(size))]) == []


# TCP


def test_the_middle_of_a_connection_and_no_handshake():
    wire = Wire().send(1, b"the end of a long body").send(0, GET % 1).send(1, OK % 200)
    (exchange,) = exchanges(wire.frames)
    assert brief(exchange) == ("GET", "/1", 200, 0, 5, ())
    assert (exchange.client, exchange.server) == ("10.0.0.1:40000", "10.0.0.2:80")


def test_data_in_the_syn():
    wire = Wire().put(0, SYN, GET % 1, ack=0).put(1, SYN | ACK).send(1, OK % 200)
    assert [brief(exchange) for exchange in exchanges(wire.frames)] == [("GET", "/1", 200, 0, 5, ())]


@pytest.mark.parametrize("end", [FIN | ACK, RST, None])
def test_a_reused_port_is_a_new_connection(end):
    wire = Wire().open().send(0, GET % 1).send(1, OK % 201)
    if end:
        wire.put(0, end)
    again = Wire(isn=(777_777, 888_888)).open().send(0, GET % 2).send(1, OK % 202)
    result = pairs_in(exchanges(wire.frames + again.frames))
    assert result == [("/1", 201), ("/2", 202)]


def test_a_new_connection_on_a_used_port_needs_no_handshake():
    wire = Wire().open().send(0, GET % 1).send(1, OK % 201).close()
    again = Wire(isn=(777_777_777, 888_888_888)).send(0, GET % 2).send(1, OK % 202)
    assert pairs_in(exchanges(wire.frames + again.frames)) == [("/1", 201), ("/2", 202)]


def test_a_reset_cuts_off():
    wire = Wire().open().send(0, GET % 1).send(1, (OK % 200)[:-2]).put(1, RST | ACK)
    assert [brief(exchange) for exchange in exchanges(wire.frames)] == [("GET", "/1", 200, 0, 3, ("cut off",))]


@pytest.mark.parametrize(
    ("response", "end", "expected"),
    [
        (STATUS + b"\r\nab", (1, FIN | ACK), ("GET", "/1", 200, 0, 2, ())),
        (STATUS + b"Content-Length: 9\r\n\r\nab", (1, RST | ACK), ("GET", "/1", 200, 0, 2, ("cut off",))),
        (b"", None, ("GET", "/1", None, 0, None, ("no response",))),
        (CHUNKED + b"\r\n", (1, ACK), ("GET", "/1", 200, 0, 1, ())),
        (CHUNKED, (1, FIN | ACK), ("GET", "/1", 200, 0, 1, ())),
    ],
    ids=["FIN of the server", "RST", "both FINs", "last chunk", "no end of the trailer"],
)
def test_an_exchange_is_reported_when_its_end_is_known(response, end, expected):
    wire = Wire().open().send(0, GET % 1).send(1, response)
    wire = wire.put(*end) if end else wire.close()
    other = Wire(client=("10.0.0.9", 1)).put(0, SYN, ack=0).frames[0]
    reported = fed(HTTPAnalyzer(), [*wire.frames, (wire.time + 5, *other[1:])])
    assert [brief(exchange) for exchange in reported] == [expected]


def test_data_after_a_fin_is_ignored():
    wire = Wire().open().send(0, GET % 1).send(1, OK % 201).put(1, FIN | ACK).send(1, OK % 202).send(0, GET % 2)
    assert pairs_in(exchanges(wire.frames)) == [("/1", 201), ("/2", None)]


def test_a_lost_response_at_the_beginning_of_a_capture_is_not_replaced_by_the_next_one():
    wire = Wire().send(0, GET % 1 + GET % 2).send(1, OK % 201).send(1, OK % 202).put(0, ACK)
    assert ("/1", 202) not in pairs_in(exchanges([wire.frames[0], *wire.frames[2:]]))


def test_acknowledgements_alone_open_no_connection():
    analyzer = HTTPAnalyzer()
    analyzer.feed(*Wire().put(0, ACK).frames[0])
    assert len(analyzer._conversations) == 0


def test_segments_after_a_reset_are_no_new_connection():
    wire = Wire().open().send(0, GET % 1).send(1, b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n").put(0, RST)
    wire.seq[1] += 500
    (exchange,) = exchanges(wire.send(1, b"a quotation:\nHTTP/1.1 200 OK\r\n\r\n").frames)
    assert brief(exchange) == ("GET", "/1", 200, 0, 0, ("cut off",))


def test_a_reset_is_no_end_of_a_body_without_a_length():
    wire = Wire().open().send(0, GET % 1).send(1, b"HTTP/1.1 200 OK\r\n\r\nab").put(1, RST | ACK)
    assert brief(exchanges(wire.frames)[0]) == ("GET", "/1", 200, 0, 2, ("cut off",))


def test_a_forged_syn_ends_no_connection():
    wire = Wire().open().send(0, GET % 1).forge(0, SYN, 99_999)
    result = exchanges(wire.send(1, OK % 201).send(0, GET % 2).send(1, OK % 202).frames)
    assert pairs_in(result) == [("/1", 201), ("/2", 202)]


def test_a_response_to_an_uncaptured_request_is_not_paired_with_a_later_one():
    wire = Wire().send(1, b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n").send(0, GET % 1)
    result = exchanges(wire.send(1, b"HTTP/1.1 204 N\r\n\r\n").frames)
    assert pairs_in(result) == [(None, 200), ("/1", 204)]


@pytest.mark.parametrize("unreadable", [b"GET /2 HTTP/2.0", b"JUNK", b"GET\t/2\tHTTP/1.1", b"A" * 40 + b" /2 HTTP/1.1"])
def test_unreadable_messages_do_not_shift_the_pairing(unreadable):
    result = one(GET % 1 + unreadable + b"\r\n\r\n" + GET % 3, OK % 201 + OK % 505 + OK % 203)
    assert all(status in (None, {"/1": 201, "/3": 203}.get(target, status)) for target, status in pairs_in(result))
    assert result[0].target == "/1"


def test_a_late_copy_after_the_end_is_no_new_exchange():
    wire = Wire().open().send(0, GET % 1).send(1, OK % 200).close()
    assert len(exchanges(wire.frames + wire.frames[1:])) == 1


def test_reordering_has_no_limit_in_total():
    body = bytes(2 * http_analyzer.MAX_OUT_OF_ORDER_BYTES)
    response = STATUS + b"Content-Length: %d\r\n\r\n" % len(body) + body
    wire = Wire().open().send(0, GET % 1).send(1, response, range(0, len(response), 30_000))
    frames = [
        *wire.frames[:4],
        *(frame for pair in zip(wire.frames[5::2], wire.frames[4::2], strict=False) for frame in pair),
    ]
    assert len(frames) > 70
    assert brief(exchanges(frames)[0]) == ("GET", "/1", 200, 0, len(body), ())


def test_a_gap_in_a_body_is_marked_and_passed_when_it_is_acknowledged():
    wire = Wire().open().send(0, GET % 1)
    wire.send(1, b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + bytes(3000), [1000, 2000]).put(0, ACK)
    result = exchanges(wire.frames[:5] + wire.frames[6:])
    assert [brief(exchange) for exchange in result] == [("GET", "/1", 200, 0, 3000, ("gap",))]


@pytest.mark.parametrize(
    ("most", "result"),
    [
        (200, [("GET", "/1", 200, 0, 500, ("snapshot length",)), ("GET", "/2", 202, 0, 5, ())]),
        (80, [("GET", "/1", 200, 0, 0, ("snapshot length",)), ("GET", "/2", 202, 0, 0, ("snapshot length",))]),
        (60, []),
    ],
    ids=["body", "head", "start line"],
)
def test_what_the_snapshot_length_cut_is_marked_and_counted(most, result):
    long = STATUS + b"Content-Length: 500\r\n\r\n" + b"a" * 500
    wire = Wire().open().send(0, GET % 1).send(1, long).send(0, GET % 2).send(1, OK % 202)
    analyzer = HTTPAnalyzer()
    reported = fed(analyzer, [(time, linktype, frame[:most]) for time, linktype, frame in wire.frames])
    assert [brief(exchange) for exchange in reported + analyzer.flush()] == result
    assert analyzer.cut_frames == analyzer.notes()["frames cut by the snapshot length: capture with tcpdump -s 0"] > 0


def test_a_gap_that_nobody_acknowledges_is_passed_at_the_end():
    wire = Wire().open().send(0, GET % 1).send(1, STATUS + b"Content-Length: 3000\r\n\r\n" + bytes(3000), [1000, 2000])
    result = exchanges(wire.frames[:5] + wire.frames[6:])
    assert [brief(exchange) for exchange in result] == [("GET", "/1", 200, 0, 3000, ("gap",))]


def test_a_gap_in_a_body_that_was_sent_without_100_continue_is_counted():
    wire = Wire().open().send(0, EXPECTING).send(0, bytes(1000), [200, 400]).send(1, OK % 201)
    result = exchanges(wire.frames[:5] + wire.frames[6:])
    assert [brief(exchange) for exchange in result] == [("PUT", "/0", 201, 1000, 5, ("gap",))]


LONG_RESPONSE = STATUS + b"Content-Length: 100\r\n\r\n" + bytes(100)
BODY_WITH_GAP = Wire().open().send(0, GET % 1).send(1, LONG_RESPONSE, (60, 90)).close().frames
del BODY_WITH_GAP[5]


def test_a_gap_is_reported_even_if_its_connection_sends_nothing_more():
    analyzer = HTTPAnalyzer()
    assert fed(analyzer, BODY_WITH_GAP) == []
    assert brief(analyzer.sweep(BODY_WITH_GAP[-1][0] + 2)[0]) == ("GET", "/1", 200, 0, 100, ("gap",))


def test_in_a_live_capture_time_passes_without_packets():
    now = time.time_ns()
    records = [(now, len(frame), linktype, None, frame) for _, linktype, frame in BODY_WITH_GAP]
    result = http_analyzer.exchanges(HTTPAnalyzer(), itertools.chain([records], itertools.repeat([])), live=True)
    assert brief(next(result)) == ("GET", "/1", 200, 0, 100, ("gap",))


def test_of_too_many_connections_the_one_without_a_packet_for_the_longest_time_is_dropped(monkeypatch):
    monkeypatch.setattr(http_analyzer, "MAX_CONNECTIONS", 2)
    first, second, third = (Wire(client=("10.0.0.9", port)).open().send(0, GET % port) for port in (1, 2, 3))
    analyzer = HTTPAnalyzer()
    fed(analyzer, [*first.frames, *second.frames, (1_100.0, *first.frames[-1][1:])])
    (exchange,) = fed(analyzer, [(1_200.0, *third.frames[0][1:])])
    assert (exchange.target, analyzer.dropped) == ("/2", 1)


def test_a_response_without_request_has_its_own_time_and_no_duration():
    (exchange,) = exchanges(frame for frame in frames_of(GET % 1, OK % 200) if frame[2][26:30] == b"\x0a\0\0\2")
    assert exchange.time > 1000
    assert (exchange.request_bytes, exchange.ttfb_s, exchange.duration_s) == (None, None, None)
    assert exchange.problems == ("no request",)


def test_idle_connections_are_dropped_and_reported():
    wire = Wire().open().send(0, GET % 1)
    later = Wire(client=("10.0.0.9", 1)).put(0, SYN, ack=0).frames[0]
    analyzer = HTTPAnalyzer()
    for frame in wire.frames:
        assert analyzer.feed(*frame) == []
    (exchange,) = analyzer.feed(5_000.0, *later[1:])
    assert exchange.problems == ("no response",)
    assert analyzer.dropped == 0


# HTTP


GET_ROOT = b"GET / HTTP/1.1\r\n\r\n"
CASES = {
    "a method with another one in it": (
        b"M-POST /1 HTTP/1.1\r\n\r\n",
        OK % 200,
        ("M-POST", "/1", 200, 0, 5, ()),
    ),
    "any method": (b"BREW /pot HTTP/1.1\r\n\r\n", b"HTTP/1.1 418 I'm\r\n\r\n", ("BREW", "/pot", 418, 0, 0, ())),
    "HEAD": (b"HEAD / HTTP/1.1\r\n\r\n", STATUS + b"Content-Length: 9\r\n\r\n", ("HEAD", "/", 200, 0, 0, ())),
    "until close": (b"GET / HTTP/1.0\n\n", b"HTTP/1.0 200 OK\n\nuntil the end", ("GET", "/", 200, 0, 13, ())),
    "304": (GET_ROOT, b"HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n", ("GET", "/", 304, 0, 0, ())),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\n\r\n\x16\x03", STATUS + b"\r\n\x16\x03", ("CONNECT", "a:1", 200, 0, 0, ())),
    "upgrade": (GET_ROOT, b"HTTP/1.1 101 S\r\n\r\n\x81\x05HTTP/", ("GET", "/", 101, 0, 0, ())),
    "cut off": (GET_ROOT, STATUS + b"Content-Length: 9\r\n\r\nab", ("GET", "/", 200, 0, 2, ("cut off",))),
    "head of the request cut off": (
        b"GET /1 HTTP/1.1\r\nHost: a\r\nUser",
        b"",
        ("GET", "/1", None, 0, None, ("cut off", "no response")),
    ),
    "head of the response cut off": (GET_ROOT, STATUS + b"Content-Len", ("GET", "/", 200, 0, 0, ("cut off",))),
    "length twice": (GET_ROOT, STATUS + b"Content-Length: 5, 5\r\n\r\nhello", ("GET", "/", 200, 0, 5, ())),
    "two lines": (
        GET_ROOT,
        STATUS + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nab",
        ("GET", "/", 200, 0, 2, ("malformed",)),
    ),
    "two lengths": (GET_ROOT, STATUS + b"Content-Length: 5, 6\r\n\r\nab", ("GET", "/", 200, 0, 2, ("malformed",))),
    "no chunk": (
        GET_ROOT,
        STATUS + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        ("GET", "/", 200, 0, 0, ("malformed",)),
    ),
    "a coding": (GET_ROOT, STATUS + b"Transfer-Encoding: gzip\r\n\r\nab", ("GET", "/", 200, 0, 2, ())),
    "folded": (
        GET_ROOT,
        STATUS + b"Transfer-Encoding: x,\r\n chunked\r\n\r\n0001\r\na\r\n0\r\n\r\n",
        ("GET", "/", 200, 0, 1, ()),
    ),
    "not chunked": (GET_ROOT, STATUS + b"Transfer-Encoding: xchunked\r\n\r\n1\r\n", ("GET", "/", 200, 0, 3, ())),
    "no response": (GET_ROOT, b"", ("GET", "/", None, 0, None, ("no response",))),
    "no request": (b"", OK % 200, (None, None, 200, None, 5, ("no request",))),
}


@pytest.mark.parametrize(("requests", "responses", "expected"), CASES.values(), ids=CASES)
def test_a_message(requests, responses, expected):
    wire = Wire().open()
    for side, data in enumerate((requests, responses)):
        if data:
            wire.send(side, data)
    assert [brief(exchange) for exchange in exchanges(wire.put(1, FIN | ACK).put(0, FIN | ACK).frames)] == [expected]


@pytest.mark.parametrize(
    ("request_head", "url", "host"),
    [
        (b"GET /a?b HTTP/1.1\r\nHost: example.com:81", "http://example.com:81/a?b", "example.com:81"),
        (b"GET http://other/a HTTP/1.1\r\nHost: proxy", "http://other/a", "other"),
        (b"GET /a HTTP/1.0\r\nX: y", "http://10.0.0.2:80/a", None),
        (b"OPTIONS * HTTP/1.1\r\nHost: h", "http://h", "h"),
        (b"GET @evil/ HTTP/1.1\r\nHost: good", "http://good/@evil/", "good"),
        (b"GET http://me:secret@other:81/@a HTTP/1.1\r\nHost: b", "http://me:secret@other:81/@a", "other:81"),
        (b"CONNECT a.b:443 HTTP/1.1\r\nHOST:a.b", "a.b:443", "a.b"),
        (b"GET /\xe4 HTTP/1.1\r\nHost: \xc3\xa4", "http://\u00e4/\u00e4", "\u00e4"),
    ],
)
def test_the_url_of_a_request(request_head, url, host):
    (exchange,) = one(request_head + b"\r\n\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert (exchange.url, exchange.host) == (url, host)


@pytest.mark.parametrize(
    ("requests", "responses", "version", "reason"),
    [
        (GET_ROOT, b"HTTP/1.0 200 All is well\r\n\r\n", "1.1", "All is well"),
        (b"", b"HTTP/1.0 200\r\n\r\n", "1.0", ""),
        (b"", b"HTTP/1.1 200 \r\n\r\n", "1.1", ""),
        (b"", b"ICY 200 OK\r\n\r\n", "1.0", "OK"),
    ],
)
def test_the_version_is_that_of_the_request_if_there_is_one(requests, responses, version, reason):
    (exchange,) = one(requests, responses)
    assert (exchange.version, exchange.reason) == (version, reason)


def test_all_fields_of_an_exchange():
    request = b"POST /p HTTP/1.1\r\nHost: h\r\nUser-Agent: me\r\nContent-Length: 3\r\n\r\nabc"
    response = b"HTTP/1.1 201 All is well\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 2\r\n\r\nok"
    wire = Wire().open().send(0, request, [20, 70]).send(1, response, [10, len(response) - 1])
    (exchange,) = exchanges(wire.frames, headers=True)
    assert pickle.loads(pickle.dumps(exchange)) == exchange
    assert (exchange.version, exchange.reason) == ("1.1", "All is well")
    assert exchange.content_type == "text/html; charset=utf-8"
    assert (exchange.user_agent, exchange.request_bytes, exchange.response_bytes) == ("me", 3, 2)
    assert (exchange.time, exchange.ttfb_s, exchange.duration_s) == pytest.approx((1000.004, 0.003, 0.005))
    assert exchange.request_headers == (("Host", "h"), ("User-Agent", "me"), ("Content-Length", "3"))


def test_the_last_byte_is_not_earlier_than_the_first_one():
    wire = Wire().open().send(0, GET % 1).send(1, OK % 201, [10, 30])
    times = [frame[0] for frame in wire.frames]
    order = [0, 1, 2, 3, 5, 6, 4]  # The first segment of the response is captured last.
    (exchange,) = exchanges((time, *wire.frames[place][1:]) for time, place in zip(times, order, strict=True))
    assert exchange.ttfb_s == exchange.duration_s == pytest.approx(0.003)


def test_the_duration_of_a_body_without_a_length_ends_with_its_last_segment():
    response = STATUS + b"\r\n" + b"a" * 30
    (exchange,) = exchanges(Wire().open().send(0, GET % 1).send(1, response, [20, 25, 30]).close().frames)
    assert exchange.duration_s == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"\x16\x03\x01\x02\0\x01", "TLS"), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12", "HTTP/2")],
)
def test_connections_with_another_protocol_are_counted(data, name):
    wire = Wire().open().send(0, data + bytes(500)).send(1, b"\x16\x03\x03" + bytes(500)).send(0, GET % 1)
    analyzer = HTTPAnalyzer()
    assert fed(analyzer, wire.frames) + analyzer.flush() == []
    assert analyzer.notes() == {f"connections with {name} not read": 1}


@pytest.mark.parametrize(("protocol", "notes"), [(b"h2c", {"connections with HTTP/2 not read": 1}), (b"websocket", {})])
def test_an_upgrade_to_http_2_is_counted(protocol, notes):
    """RFC 7540 section 3.2: the response to the first request is sent in HTTP/2."""
    wire = Wire().open().send(0, GET % 1).send(1, b"HTTP/1.1 101 S\r\nUpgrade: %b\r\n\r\n\0\0\x06\4" % protocol)
    wire.send(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    analyzer = HTTPAnalyzer()
    assert [exchange.status for exchange in fed(analyzer, wire.frames) + analyzer.flush()] == [101]
    assert analyzer.notes() == notes


def test_other_protocols_are_abandoned_after_a_limited_number_of_bytes():
    wire = Wire().open().send(1, b"220 mail ESMTP\r\n")
    for _ in range(100):
        wire.send(0, b"MAIL FROM:<a@b> and so on\r\n" * 40)
    analyzer = HTTPAnalyzer()
    for frame in wire.frames:
        analyzer.feed(*frame)
    assert sum(conversation.memory() for conversation in analyzer._conversations) < 5_000
    assert exchanges(wire.send(0, GET % 1).frames) == []


# Pairing, on its own: events in, pairs out


def request(number, fields=b""):
    return http_analyzer.Message(0.0, (b"GET", b"/%d" % number, b"1.1"), b"\n" + fields)


def response(status):
    return http_analyzer.Message(0.0, (b"1.1", b"%d" % status, b"-"))


def pair(events, has_start=True):
    """Run events: "R1" a request, "A1" its response (status 201), "TURN", "LOST R", "GAP R"; return the pairs.

    "START": the first bytes of both directions are lost.
    """
    pairing = http_analyzer.Pairing(relied_on_turns=not has_start)
    for event in events:
        match event.split():
            case ["TURN"]:
                pairing.turn()
            case ["LOST" | "GAP" as loss, side]:
                problem = {"LOST": "malformed", "GAP": "gap"}[loss]
                (pairing.requests_lost if side == "R" else pairing.responses_lost)(problem)
            case ["START"]:
                pairing.incomplete_sides = 2
                pairing.start_lost()
            case [word] if word[0] == "R":
                pairing.add_request(request(int(word[1:])))
            case [word]:
                answer = response(200 + int(word[1:]))
                pairing.add_response(answer)
                pairing.finish(answer)
    pairing.close()
    assert pairing.memory == 0
    return {
        (one.start[1].decode() if one else None, int(other.start[1]) if other else None) for one, other in pairing.pairs
    }


RULES = {
    "1: a response answers the oldest request": (["R1", "R2", "A1", "A2"], {("/1", 201), ("/2", 202)}),
    "1: a response without a request": (["A1", "R2", "A2"], {(None, 201), ("/2", 202)}),
    "3: lost requests stay in front": (
        ["LOST R", "R2", "R3", "A1", "A2"],
        {(None, 201), (None, 202), ("/2", None), ("/3", None)},
    ),
    "3: a request before the loss is paired": (["R1", "LOST R", "A1", "A2"], {("/1", 201), (None, 202)}),
    "4: one request still gets its response": (["R1", "LOST A", "A1"], {("/1", 201)}),
    "4: of several requests none does": (["R1", "R2", "LOST A", "A2"], {("/1", None), ("/2", None), (None, 202)}),
    "5: a request after an early response that was lost": (["R1", "LOST A", "R2", "A2"], {("/1", None), ("/2", 202)}),
    "5: a turn ends what may be answered": (["R1", "LOST A", "TURN", "R2", "A2"], {("/1", None), ("/2", 202)}),
    "5: a turn keeps a request before a loss": (["R1", "LOST R", "TURN", "A1"], {("/1", 201)}),
    "5: a turn removes lost requests": (["LOST R", "A1", "TURN", "R2", "A2"], {(None, 201), ("/2", 202)}),
    "6: pipelining and a loss": (["R1", "R2", "LOST R", "A1", "A2", "A3", "TURN", "R4", "A4"],
                                 {("/1", 201), ("/2", 202), (None, 203), ("/4", None), (None, 204)}),
    "6: pipelining after a turn was relied on": (["LOST R", "TURN", "R2", "R3", "A2", "A3"],
                                                 {("/2", None), ("/3", None), (None, 202), (None, 203)}),
    "6: pipelining after the start was lost": (["START", "R2", "R3", "A1", "A2"],
                                               {("/2", None), ("/3", None), (None, 201), (None, 202)}),
    "6: a request behind missing ones pipelines": (["GAP R", "R2", "A1", "TURN", "R3", "A3"],
                                                   {(None, 201), ("/2", None), ("/3", None), (None, 203)}),
    "9: requests at the end": (["R1", "R2", "A1"], {("/1", 201), ("/2", None)}),
}  # fmt: skip


@pytest.mark.parametrize(("events", "pairs"), RULES.values(), ids=RULES)
def test_a_pairing_rule(events, pairs):
    assert pair(events) == pairs


def test_pipelined_requests_are_not_paired_if_the_start_of_the_connection_is_missing():
    assert pair(["R2", "R3", "A1", "A2"], has_start=False) == {("/2", None), ("/3", None), (None, 201), (None, 202)}


def test_rule_1_an_interim_response_answers_nothing():
    pairing = http_analyzer.Pairing()
    pairing.add_request(request(1))
    pairing.add_response(response(100))
    assert len(pairing.queue) == 1


@pytest.mark.parametrize(
    ("method", "fields", "status", "signal"),
    [
        (b"PUT", b"Expect: 100-continue\r\n", 417, "no body"),
        (b"PUT", b"Expect: 100-continue\r\n", 100, ""),
        (b"GET", b"", 101, "stop"),
        (b"CONNECT", b"", 200, "tunnel"),
        (b"CONNECT", b"", 407, ""),
    ],
)
def test_rules_7_and_8_signal_the_reader(method, fields, status, signal):
    pairing = http_analyzer.Pairing()
    pairing.add_request(http_analyzer.Message(0.0, (method, b"/", b"1.1"), b"\n" + fields))
    pairing.add_response(response(status))
    assert pairing.signal == signal


def pairs_of(*turns):
    """The pairs of (target, status) of a connection; each turn is (side, data)."""
    wire = Wire().open()
    for side, data in turns:
        wire.send(side, data)
    return pairs_in(exchanges(wire.close().frames))


POST = b"POST /%d HTTP/1.1\r\nHost: a\r\n%b\r\n"


@pytest.mark.parametrize("junk", [b"a=1&b=2", bytes(9), b"<xml/>\r\n\r\n"])
def test_bytes_that_are_not_http_do_not_shift_later_pairs(junk):
    turns = [(0, POST % (0, b"") + junk), (1, OK % 200)]
    turns += [turn for number in (1, 2) for turn in ((0, GET % number), (1, OK % (200 + number)))]
    assert pairs_of(*turns) == [("/0", 200), ("/1", 201), ("/2", 202)]


@pytest.mark.parametrize("cut", [1, 2, 6])
@pytest.mark.parametrize("body", [b"hello", b"0123456789", b"two words", b"OK", bytes(9)])
def test_a_body_without_a_length_is_not_a_part_of_the_next_method(body, cut):
    wire = Wire().open().send(0, POST % (0, b"")).send(0, body).send(1, OK % 200)
    wire.send(0, GET % 1, [cut]).send(1, OK % 201).send(0, b"PROPPATCH / HTTP/1.1\r\n\r\n", [4]).send(1, OK % 207)
    result = [(exchange.method, exchange.status) for exchange in exchanges(wire.frames)]
    assert result == [("POST", 200), ("GET", 201), ("PROPPATCH", 207)]


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 80\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x04\x57\0\x50",
    ],
    ids=["version 1", "version 2"],
)
def test_a_proxy_header_before_the_first_request_is_skipped(header):
    assert pairs_of((0, header + GET % 1), (1, OK % 201)) == [("/1", 201)]


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        (b"a=1&b=2", [("/0", 200), ("/1", 201), ("/2", 202)]),
        (bytes(9), [("/0", 200), ("/1", 201), ("/2", 202)]),
        (b"a=1\nb=2", [("/0", 200), (None, 201), ("/1", None), ("/2", 202)]),  # A line can be a request.
    ],
)
def test_a_body_without_a_length_that_comes_after_the_response_costs_at_most_one_pair(body, pairs):
    sent = [(0, POST % (0, b"")), (1, OK % 200), (0, body), (0, GET % 1), (1, OK % 201), (0, GET % 2), (1, OK % 202)]
    assert pairs_of(*sent) == pairs


ODD_REQUESTS = [
    b"GET /%d HTTP/1.1\r\n\r\n",
    b"GET /%d HTTP/1.1\r\n\r\n\0\0\0",
    b"POST /%d HTTP/1.1\r\n\r\na=1&b=2",
    b"POST /%d HTTP/1.1\r\n\r\nHELLO there",
    b"POST /%d HTTP/1.1\r\nContent-Length: x\r\n\r\na\nb",
    b"POST /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    b"POST /%d HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\nbody",
    b"POST /%d HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
]
ODD_RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Type: t/%d\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Type: t/%d\r\nContent-Length: 2\r\n\r\nok\0junk",
    b"HTTP/1.1 200 OK\r\nContent-Type: t/%d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\nContent-Type: t/%d\r\n\r\nbody\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Type: t/%d\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No\r\nContent-Type: t/%d\r\n\r\nHTTP",
]


@pytest.mark.parametrize(("lost", "least"), [(0, 1_400), (1, 1_200), (2, 1_000)])
def test_clients_and_servers_that_break_the_rules_never_cause_a_wrong_pair(lost, least):
    rng = random.Random(lost)
    paired = 0
    for _ in range(300):
        wire = Wire().open()
        for number in range(5):
            for side, odd in ((0, ODD_REQUESTS), (1, ODD_RESPONSES)):
                data = rng.choice(odd) % number
                wire.send(side, data, [rng.randrange(len(data))])
        for _ in range(lost):
            del wire.frames[rng.randrange(len(wire.frames))]
        for exchange in exchanges(wire.frames):
            assert exchange.method in (None, "GET", "POST")
            if exchange.target and exchange.content_type:
                assert exchange.content_type == f"t{exchange.target}"
                paired += 1
    assert paired >= least  # There are 1,500 exchanges.


@pytest.mark.parametrize("field", [b"Transfer-Encoding: identity", b"Content-Length: ", b"Transfer-Encoding: zip"])
def test_a_request_has_no_body_that_ends_with_the_connection(field):
    turns = [(0, POST % (0, field + b"\r\n")), (1, OK % 200), (0, GET % 1), (1, OK % 201)]
    assert pairs_of(*turns) == [("/0", 200), ("/1", 201)]


PUT = b"PUT /0 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\n\r\n"
CONNECT, CONNECTED = b"CONNECT h:80 HTTP/1.1\r\n\r\n", STATUS + b"\r\n"
REFUSED, REFUSED_WITHOUT_BODY = OK % 407, b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
NINE = STATUS + b"Content-Length: 9\r\n\r\n"
JUNK, TLS = b"\0\n" * 20_000, b"\x16\3\1\0\5hello"
OK_WITH = b"HTTP/1.1 201 OK\r\nTransfer-Encoding: %b\r\nContent-Length: 5\r\n\r\nhello"
IN_TUNNEL, FIRST, SECOND = ("h:80", 200, 0, 0), ("/1", 201, 0, 5), ("/2", 202, 0, 5)
# What client and server send in turn; and target, status, request bytes and response bytes of each exchange
CONVERSATIONS = {
    "a body after 100 (Continue)": (
        [PUT, b"HTTP/1.1 100 Continue\r\n\r\n", b"0123456789", OK % 201], [("/0", 201, 10, 5)],
    ),
    "an accepted body that looks like a request": (
        [PUT, b"HTTP/1.1 100 Continue\r\n\r\n", b"GET / HTTP", OK % 201], [("/0", 201, 10, 5)],
    ),
    "a body after 100 (Continue) after junk": (
        [GET % 1, NOT_MODIFIED + b"junk", PUT, b"HTTP/1.1 100 Continue\r\n\r\n", b"0123456789", OK % 201],
        [("/1", 304, 0, 0), ("/0", 201, 10, 5)],
    ),
    "an answer while the next request waits for 100 (Continue)": (
        [b"GET /1 HTTP/1.1\r\nExpect: 100-continue\r\n\r\n" + PUT, OK % 201, b"",
         b"HTTP/1.1 100 Continue\r\n\r\n", b"0123456789", OK % 202],
        [FIRST, ("/0", 202, 10, 5)],
    ),
    "an early answer to a body": (
        [PUT + b"01234", REFUSED, b"56789" + GET % 2, OK % 202], [("/0", 407, 5, 5), SECOND],
    ),
    "a request during a response": ([GET % 1, (OK % 201)[:-3], GET % 2, b"llo" + OK % 202], [FIRST, SECOND]),
    "a request during a head": ([GET % 1, (OK % 201)[:-9], GET % 2, (OK % 1)[-9:] + OK % 202], [FIRST, SECOND]),
    "line ends before a request": (
        [GET % 1 + b"\r\n\r\n" + GET % 2, OK % 201 + b"\r\n" + OK % 202], [FIRST, SECOND],
    ),
    "junk before a pipelined request": (
        [POST % (1, b"") + b"HELLO WORLD" + GET % 2, OK % 201 + OK % 202], [FIRST, SECOND],
    ),
    "pipelining later": (
        [GET % 0, OK % 200, GET % 1 + GET % 2, OK % 201 + OK % 202], [("/0", 200, 0, 5), FIRST, SECOND],
    ),
    "trailer fields": (
        [GET % 0 + GET % 1 + GET % 2, CHUNKED + b"A: b\r\nC: d\r\n\r\n" + OK % 201 + OK % 202],
        [("/0", 200, 0, 1), FIRST, SECOND],
    ),
    "no transfer coding": ([GET % 1 + GET % 2, OK_WITH % b"" + OK % 202], [FIRST, SECOND]),
    "no transfer coding, by name": ([GET % 1 + GET % 2, OK_WITH % b"identity" + OK % 202], [FIRST, SECOND]),
    "no end of the trailer": ([GET % 0 + GET % 2, CHUNKED + OK % 202], [("/0", 200, 0, 1), SECOND]),
    "no end of the trailer of a request": (
        [b"POST /1 HTTP/1.1\r\n" + CHUNKED[17:] + GET % 2, OK % 201 + OK % 202], [("/1", 201, 1, 5), SECOND],
    ),
    "a tunnel after a refused one": (
        [CONNECT, REFUSED_WITHOUT_BODY, CONNECT, CONNECTED, GET % 1, OK % 201],
        [("h:80", 407, 0, 0), IN_TUNNEL, FIRST],
    ),
    "a request behind a refused CONNECT": (
        [CONNECT + GET % 1, REFUSED, b"", OK % 201], [("h:80", 407, 0, 5), FIRST],
    ),
    "a request behind a CONNECT": ([CONNECT + GET % 1, CONNECTED, b"", OK % 201], [IN_TUNNEL, FIRST]),
    "a body behind a CONNECT": (
        [CONNECT + POST % (1, b"Content-Length: 10\r\n") + b"01234", CONNECTED, b"56789", OK % 201],
        [IN_TUNNEL, ("/1", 201, 10, 5)],
    ),
    "TLS behind a refused CONNECT": (
        [CONNECT + TLS, REFUSED, CONNECT, CONNECTED, GET % 1, OK % 201], [("h:80", 407, 0, 5), IN_TUNNEL, FIRST],
    ),
    "TLS behind a CONNECT": ([CONNECT + TLS, CONNECTED, b"", TLS * 9, TLS * 9, TLS * 9], [IN_TUNNEL]),
    "a server that begins in a tunnel": ([CONNECT, CONNECTED + b"220 a\r\n", b"HELO\r\n", OK % 201], [IN_TUNNEL]),
    "a client that begins in a tunnel": ([CONNECT, CONNECTED, b"\0\1", b"\2", GET % 1, OK % 201], [IN_TUNNEL]),
    "HEAD with a body": ([b"HEAD /0 HTTP/1.1\r\n\r\n", OK % 200, GET % 1, OK % 201], [("/0", 200, 0, 0), FIRST]),
    "responses to HEAD alone": ([b"", NINE + OK % 201], [(None, 200, None, 0), (None, 201, None, 5)]),
    "chunked responses to HEAD alone": ([b"", CHUNKED[:-9] + OK % 201], [(None, 200, None, 0), (None, 201, None, 5)]),
    "SHOUTcast": ([GET % 1, b"ICY 200 OK\r\nicy-name: x\r\n\r\nmusic"], [("/1", 200, 0, 5)]),
    "an odd method after junk": (
        [GET % 1 + b"\0\n", OK % 201, b"BREW /2 HTTP/1.1\r\n\r\n", OK % 202], [FIRST, SECOND],
    ),
    "a response of the client": ([GET % 1 + STATUS + b"\r\n", OK % 201, GET % 2, OK % 202], [FIRST, SECOND]),
    "a request behind an upgrade": (
        [GET % 1, b"HTTP/1.1 101 S\r\n\r\n", b"\x81\5" + GET % 2, OK % 202], [("/1", 101, 0, 0)],
    ),
    "junk of any length": ([GET % 1, OK % 201 + JUNK, b"", JUNK, GET % 2, OK % 202], [FIRST, SECOND]),
}  # fmt: skip


@pytest.mark.parametrize(("turns", "expected"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation(turns, expected):
    wire = Wire().open()
    for side, data in zip(itertools.cycle((0, 1)), turns, strict=False):
        wire.send(side, data)
    result = exchanges(wire.close().frames)
    assert [brief(exchange)[1:5] for exchange in result] == expected


def test_a_chunked_response_to_head_is_not_malformed_if_the_request_is_missing():
    result = exchanges(frames_of(b"", CHUNKED[:-9] + OK % 201))
    assert [exchange.problems for exchange in result] == [("no request",)] * 2


def test_an_interim_response_that_was_cut_answers_nothing():
    wire = Wire().open().send(0, GET % 1).send(1, b"HTTP/1.1 103 Early\r\nLink: a\r\nLink: b\r\n\r\n", [30])
    wire.send(1, OK % 201).send(0, GET % 2).send(1, OK % 202)
    assert pairs_in(exchanges(wire.frames[:5] + wire.frames[6:])) == [("/1", 201), ("/2", 202)]


def test_a_request_that_begins_in_a_later_segment_has_the_time_of_that_segment():
    wire = Wire().open().send(0, GET % 1 + GET % 2, [10]).send(1, OK % 201 + OK % 202)
    first, second = exchanges(wire.frames)
    assert second.time - first.time == pytest.approx(0.001)


def test_a_reset_outside_the_window_and_one_that_both_ends_ignore_end_nothing():
    for shift, next_sender in itertools.product((0, 5_000_000), (0, 1)):
        wire = Wire().open().send(0, GET % 1).forge(1, RST | ACK, shift)
        if next_sender == 0:
            wire.send(0, GET % 2).send(1, OK % 201 + OK % 202)
        else:
            wire.send(1, OK % 201).send(0, GET % 2).send(1, OK % 202)
        assert pairs_in(exchanges(wire.frames)) == [("/1", 201), ("/2", 202)]


@pytest.mark.parametrize(("shift", "pairs"), [(0, [("/1", None), (None, 201)]), (5_000_000, [("/1", 201)])])
def test_only_a_reset_inside_the_window_ends_a_connection_after_a_pause(shift, pairs):
    wire = Wire().open().send(0, GET % 1).forge(1, RST | ACK, shift)
    wire.time += 5
    assert pairs_in(exchanges(wire.put(0, ACK).send(1, OK % 201).frames)) == pairs


def test_a_reset_is_ignored_if_its_sender_continues_to_acknowledge():
    wire = Wire().open().send(0, GET % 1).send(1, STATUS + b"Content-Length: 3000\r\n\r\n").put(0, ACK)
    wire.forge(0, RST | ACK)
    for _ in range(3):
        wire.time += 0.8
        wire.send(1, bytes(1000)).put(0, ACK)
    assert brief(exchanges(wire.close().frames)[0]) == ("GET", "/1", 200, 0, 3000, ())


def test_a_reset_does_not_hide_the_response_that_it_acknowledges():
    wire = Wire().open().send(0, GET % 1).send(1, OK % 201).put(0, RST | ACK)
    wire.frames[-2:] = reversed(wire.frames[-2:])
    assert pairs_in(exchanges(wire.frames)) == [("/1", 201)]


# Bodies


def bodies_of(head, body, **options):
    data = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (head, len(body)) + body
    wire = Wire().open().send(0, GET % 1).send(1, data, range(0, len(data), 900)).close()
    (exchange,) = exchanges(wire.frames, bodies=True, **options)
    return exchange


@pytest.mark.parametrize(
    ("head", "body", "text"),
    [
        (b"", "gr\u00fcn".encode(), "gr\u00fcn"),
        (b"Content-Type: text/plain; charset=iso-8859-1\r\n", b"gr\xfcn", "gr\u00fcn"),
        (b"Content-Type: text/plain; charset=punycode\r\n", "gr\u00fcn".encode(), "gr\u00fcn"),
        (b"Content-Type: image/png\r\n", b"\x89PNG\0\xff", None),
        (b"", b"a\0b", None),
        (b"Content-Encoding: gzip\r\n", gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0), "onetwo"),
        (b"Content-Encoding: deflate\r\n", zlib.compress(b"zlib"), "zlib"),
        (b"Content-Encoding: deflate\r\n", zlib.compress(b"raw")[2:-4], "raw"),
        (
            b"Content-Encoding: deflate\r\n",
            b"\x08\3\0\xfc\xffraw\1\0\0\xff\xff",
            "raw",
        ),  # This looks like zlib's header.
        (b"Content-Encoding: gzip\r\n", b"no gzip at all \xff", None),
        (b"Content-Encoding: unknown\r\n", b"text", None),
    ],
)
def test_a_body_is_decoded(head, body, text):
    exchange = bodies_of(head, body)
    assert exchange.response_body.text == text
    content = json.loads(http_analyzer.har_entry(exchange))["response"]["content"]
    assert content["size"] == len(exchange.response_body.data)


def test_a_limit_inside_a_character_leaves_text():
    body = bodies_of(b"", "gr\u00fcn".encode(), max_body_bytes=3).response_body
    assert (body.text, body.data, body.is_cut) == ("gr", b"gr\xc3", True)


def test_a_body_stays_within_its_limit_even_if_it_is_a_gzip_bomb():
    bomb = gzip.compress(bytes(100_001)) + gzip.compress(bytes(50_000_000))  # The first member reaches the limit.
    tracemalloc.start()
    exchange = bodies_of(b"Content-Encoding: gzip\r\n", bomb, max_body_bytes=100_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert (len(exchange.response_body.data), exchange.response_body.is_cut) == (100_000, True)
    assert exchange.problems == ("body cut",)
    assert bodies_of(b"", bytes(200_000), max_body_bytes=100_000).problems == ("body cut",)


ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "zstandard"


@pytest.mark.parametrize(("coding", "module"), [(b"br", "brotli"), (b"zstd", ZSTD)])
def test_brotli_and_zstd_are_decoded_within_the_limit_if_their_packages_are_installed(coding, module):
    compress = pytest.importorskip(module, reason=f"needs {module}: pip install {module}").compress
    head = b"Content-Encoding: %b\r\n" % coding
    assert bodies_of(head, compress(b"text" * 1000)).response_body.text == "text" * 1000
    bomb = bodies_of(head, compress(bytes(5_000_000)), max_body_bytes=10_000).response_body
    assert (bomb.data, bomb.is_cut) == (bytes(10_000), True)
    assert bodies_of(head, b"not compressed").response_body.data == b"not compressed"


def test_all_bodies_stay_within_one_limit_and_none_is_kept_without_the_option(monkeypatch):
    monkeypatch.setattr(http_analyzer, "MAX_BODIES_BYTES", 10_000)
    for bodies, limit in ((True, 10_000), (False, 0)):
        analyzer = HTTPAnalyzer(bodies=bodies)
        for number in range(20):
            wire = Wire(client=("10.0.0.1", number + 1)).open().send(0, GET % 1)
            for frame in wire.send(1, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + bytes(1_000)).frames:
                analyzer.feed(*frame)
        messages = [conversation.streams[1].reader.message for conversation in analyzer._conversations]
        assert sum(len(message.body) for message in messages) == limit


def test_printed_bodies_do_not_count_against_the_limit(monkeypatch):
    monkeypatch.setattr(http_analyzer, "MAX_BODIES_BYTES", 10)
    wire = Wire().open()
    for number in range(5):
        wire.send(0, GET % number).send(1, OK % 200)
    assert [exchange.response_body.is_cut for exchange in exchanges(wire.frames, bodies=True)] == [False] * 5


def test_save_makes_safe_names_and_overwrites_nothing(run, tmp_path):
    wire = Wire().open()
    for target in (b"/a/b.txt?q", b"/a/b.txt", b"/../../etc/passwd", b"/" + b"x" * 900 + b".html", b"/%00\x1b"):
        wire.send(0, b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target).send(1, OK % 200)
    wire.send(0, GET % 1).send(1, b"HTTP/1.1 204 No\r\n\r\n")
    path, folder = save(tmp_path / "a", wire.frames), tmp_path / "bodies"
    for _ in range(2):
        status, out, err = run("http_analyzer.py", "-r", path, "--json", "--save", folder)
        assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len({line["saved"] for line in lines if line["status"] == 200}) == 5
    assert "saved" not in lines[-1]
    assert len([*folder.iterdir()]) == 10
    assert {"h_a_b.txt", "h_a_b-1.txt", "h_a_b-2.txt"} <= {file.name for file in folder.iterdir()}
    assert all(len(file.name) <= 255 and file.read_bytes() == b"hello" for file in folder.iterdir())
    assert [file.name for file in tmp_path.iterdir() if file not in (path, folder)] == []
    assert f"-> {folder}" in run("http_analyzer.py", "-r", path, "--save", folder)[1]
    assert run("http_analyzer.py", "-r", path, "--summary", "--save", folder)[0] == 0
    assert len([*folder.iterdir()]) == 20


def test_a_folder_that_cannot_be_written_is_one_error(run, capture):
    status, out, err = run("http_analyzer.py", "-r", capture, "--save", capture)
    assert (status, out) == (1, "")
    assert err == f"http_analyzer.py: error: cannot save to {capture}: File exists\n"


@pytest.mark.parametrize(
    ("name", "number", "numbered"),
    [
        ("a", 0, "a"), ("a", 2, "a-2"), ("a.b.c", 2, "a.b-2.c"), ("a.b_c", 2, "a.b_c-2"), (".a", 2, ".a-2"),
        ("a." + "b" * 11, 2, "a." + "b" * 11 + "-2"), ("a" * 300 + ".b", 2, "a" * 251 + "-2.b"),
    ],
)  # fmt: skip
def test_a_number_stands_before_the_extension(name, number, numbered):
    assert http_analyzer.numbered(name, number) == numbered


@pytest.mark.parametrize("options", [[], ["--format", "combined"], ["--json", "--summary"]])
def test_a_warning_names_the_formats_that_have_bodies(run, capture, options):
    status, _, errors = run("http_analyzer.py", "-r", capture, "--bodies", *options)
    assert (status, errors.count("\n")) == (0, 1)
    assert "warning: --bodies has no effect here; use it with --json or --format har" in errors


def test_bodies_in_json_and_har(run, tmp_path):
    post = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
    path = save(tmp_path / "a", Wire().open().send(0, post).send(1, (OK % 200)[:-5] + b"\xff\0abc").frames)
    (entry,) = json.loads(run("http_analyzer.py", "-r", path, "--format", "har")[1])["log"]["entries"]
    assert ("postData" in entry["request"], "text" in entry["response"]["content"]) == (False, False)
    line = json.loads(run("http_analyzer.py", "-r", path, "--json", "--bodies")[1])
    assert (line["request_body"], line["request_body_encoding"]) == ("hi", None)
    assert (line["response_body"], line["response_body_encoding"]) == ("/wBhYmM=", "base64")
    _, out, err = run("http_analyzer.py", "-r", path, "--format", "har", "--bodies")
    (entry,) = check_har(json.loads(out))
    assert (entry["request"]["method"], err) == ("POST", "")
    assert entry["request"]["postData"] == {"mimeType": "text/plain", "params": [], "text": "hi"}
    assert entry["response"]["content"]["text"] == "/wBhYmM="
    assert entry["response"]["content"]["encoding"] == "base64"


def test_bodies_that_do_not_exist_are_null(run, tmp_path):
    path = save(tmp_path / "a", Wire().open().send(0, GET % 1).frames)
    line = json.loads(run("http_analyzer.py", "-r", path, "--json", "--bodies")[1])
    assert [line[f"{side}_body{end}"] for side in ("request", "response") for end in ("", "_encoding")] == [None] * 4


def test_frames_that_cannot_be_read_are_counted_by_kind(run, tmp_path):
    esp = b"\x45\0\0\x1c\0\0\0\0\x40\x32\0\0" + bytes(16)
    others = [outer(1, bytes(8))[0][2], outer(17, datagram(53, b""))[0][2]]  # ICMP and DNS cannot carry TCP.
    frames = [*[esp + bytes(40)] * 3, *others, bytes(28)]
    path = save(tmp_path / "a", [(1.0, 1, bytes(12) + IP4 + frame) for frame in frames])
    _, _, err = run("http_analyzer.py", "-r", path)
    assert err == "http_analyzer.py: info: 3 frames of IP protocol 50 (ESP) not read\n"
    for linktype, kind in ((147, "147"), (9, "9 (PPP) without IP")):
        path = save(tmp_path / "b", [(1.0, linktype, bytes(60))])
        assert f"1 frame of link type {kind} not read" in run("http_analyzer.py", "-r", path)[2]
    path = save(tmp_path / "c", [(1.0, 1, bytes(60))])  # a frame of IEEE 802.3, such as those of spanning trees
    assert run("http_analyzer.py", "-r", path) == (0, "", "")


def test_kinds_of_frames_that_cannot_be_read_are_limited():
    analyzer = HTTPAnalyzer()
    analyzer.feed(1.0, 1, bytes(12) + b"\x81\0\0\1" * 20 + IP4 + bytes(60))
    assert analyzer.unread == {"with more than 16 headers before TCP": 1}
    for linktype in range(1_000, 1_200):
        analyzer.feed(1.0, linktype, bytes(60))
    assert (len(analyzer.unread), analyzer.unread["of other kinds"]) == (101, 101)


# Limits


def cost(frames):
    """The most memory that an analyzer takes, in MB, and how many connections it dropped."""
    analyzer = HTTPAnalyzer()
    tracemalloc.start()
    for frame in frames:
        analyzer.feed(*frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6, analyzer.dropped


def half_open():
    for number in range(3_000):
        yield Wire(client=(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 9)).put(0, SYN, ack=0).frames[0]


def endless_heads():
    for number in range(700):
        wire = Wire(client=("10.0.0.1", number + 1)).open().send(0, GET.rstrip() % 1 + b"\r\nX: " + bytes(60_000))
        yield from wire.frames


def endless_trailer():
    wire = Wire().open().send(0, GET % 1).send(1, CHUNKED)
    for _ in range(100):
        yield from wire.send(1, b"x" * 60_000).frames
        wire.frames.clear()


def pipelined_forever():
    wire = Wire().open()
    for number in range(3_000):
        yield from wire.send(0, GET % number).frames
        wire.frames.clear()


def far_ahead():
    wire = Wire().open()
    for number in range(40):
        wire.seq[0] += 1 + number
        yield from wire.send(0, bytes(60_000)).frames
        wire.frames.clear()


def fragment(ident, offset, size):
    head = struct.pack("!BBHHHBBH8x", 0x45, 0, 20 + size, ident, 0x2000 | offset, 9, 6, 0)
    return 1.0, 101, head + bytes(size)


def unfinished_datagrams():
    return (fragment(number, 0, 1_400) for number in range(5_000))


def overlapping_fragments():
    return (fragment(7, number, 60_000) for number in range(250))


@pytest.mark.parametrize(
    ("frames", "most_mb", "drops"),
    [
        (half_open, 6, True),
        (endless_heads, 35, True),
        (pipelined_forever, 3, False),
        (far_ahead, 2, False),
        (endless_trailer, 1, False),
        (unfinished_datagrams, 1, False),
        (overlapping_fragments, 1, False),
    ],
)
def test_hostile_traffic_stays_within_the_memory_limit(frames, most_mb, drops, monkeypatch):
    monkeypatch.setattr(http_analyzer, "MAX_CONNECTIONS", 2_000)
    peak, dropped = cost(frames())
    assert peak < most_mb
    assert (dropped > 0) == drops


def test_out_of_order_segments_count_with_their_overhead(monkeypatch):
    monkeypatch.setattr(http_analyzer, "MAX_BUFFERED_BYTES", 500_000)
    analyzer = HTTPAnalyzer()
    for number in range(20):
        wire = Wire(client=("10.0.0.1", number + 1)).open()
        for _ in range(300):
            wire.seq[0] += 1
            wire.put(0, ACK, b"x")
        for frame in wire.frames:
            analyzer.feed(*frame)
    assert 0 < analyzer.dropped < 20


@pytest.mark.parametrize("data", [b"GET" + b" " * 60_000, b"GET /" + b" " * 60_000, b"GET " + b"a HTTP/1.1 " * 6_001])
def test_no_line_takes_longer_the_more_spaces_it_has(data):
    assert exchanges(Wire().open().send(0, data + b"\r\n", range(1448, len(data), 1448)).frames) == []


def test_an_endless_head_is_malformed():
    (exchange,) = exchanges(
        Wire().open().send(0, GET.rstrip() % 1 + b"\r\nX: " + bytes(70_000), range(0, 70_000, 999)).frames
    )
    assert brief(exchange) == ("GET", "/1", None, 0, None, ("malformed", "no response"))


# Files


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("unit", [1e-6, 1e-9])
def test_a_classic_pcap(tmp_path, order, unit):
    frames = Wire().open().send(0, GET % 1).send(1, OK % 200).frames
    (exchange,) = analyze(str(save(tmp_path / "a", frames, order, unit)))
    assert exchange.time == pytest.approx(1000.004)


def test_a_pcapng_with_two_interfaces(tmp_path):
    frames = Wire().open().send(0, GET % 1).send(1, OK % 200).frames
    frames = [
        (when, 101, frame[14:]) if index % 2 else (when, 1, frame) for index, (when, _, frame) in enumerate(frames)
    ]
    (exchange,) = analyze(str(save_ng(tmp_path / "a", frames)))
    assert (exchange.time, exchange.duration_s) == pytest.approx((1000.004, 0.001))


def test_gzip_standard_input_and_several_files(script, capture, tmp_path):
    packed = tmp_path / "a.pcap.gz"
    packed.write_bytes(gzip.compress(capture.read_bytes()))
    with open(capture, "rb") as stdin:
        status, out, err = script("http_analyzer.py", "-r", packed, "-r", "-", "--json", stdin=stdin).finish()
    assert (status, err) == (0, "")
    assert [json.loads(line)["status"] for line in out.splitlines()] == [200, 201, 202] * 2


@pytest.mark.parametrize("form", [save, save_ng])
def test_a_cut_file_gives_the_exchanges_before_and_one_error(run, tmp_path, form):
    path = form(tmp_path / "cut", Wire().open().send(0, GET % 1).send(1, OK % 200).send(0, GET % 2).frames)
    path.write_bytes(path.read_bytes()[:-9])
    status, out, err = run("http_analyzer.py", "-r", path)
    assert (status, len(out.splitlines())) == (1, 1)
    assert re.fullmatch(rf"http_analyzer.py: error: {path}: .*cut off.*\n", err)


@pytest.mark.parametrize(("ticks", "resolution"), [(1 << 63, 0), ((1 << 64) - 1, 6), (0, 6)])
def test_an_absurd_time_is_printed_as_another(run, tmp_path, ticks, resolution):
    frames = Wire().open().send(0, GET % 1).send(1, OK % 200).frames
    path = tmp_path / "odd"
    data = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHB3xI", 9, 1, resolution, 0))
    for _, _, frame in frames:
        data += block(6, struct.pack("<IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame)) + frame)
    path.write_bytes(data)
    for form in http_analyzer.FORMATS:
        status, out, err = run("http_analyzer.py", "-r", path, "--format", form)
        assert (status, err) == (0, "")
        assert "/1" in out


@filters
def test_a_missing_file_is_not_read_as_a_filter(run, capture, tmp_path):
    status, out, err = run("http_analyzer.py", "-r", capture, tmp_path / "nosuch.pcap", "tcp")
    assert (status, out.count("\n")) == (1, 3)
    assert err == f"http_analyzer.py: error: {tmp_path}/nosuch.pcap: No such file or directory\n"


def test_a_peer_cannot_forge_a_column(run, tmp_path):
    wire = Wire().open().send(0, b"GET /x 200 5 bytes HTTP/1.1\r\nHost: a b\r\n\r\n").send(1, OK % 404)
    assert (
        "404     1.0 ms         5 B GET http://a%20b/x%20200%205%20bytes\n"
        in run("http_analyzer.py", "-r", save(tmp_path / "a", wire.frames))[1]
    )


@filters
def test_options_may_stand_inside_the_filter(run, capture):
    whole = run("http_analyzer.py", "-r", capture, "--json", "tcp", "port", "80")
    assert whole[1].count("\n") == 3
    assert run("http_analyzer.py", "-r", capture, "tcp", "--json", "port", "80") == whole


@pytest.mark.parametrize("data", [b"", b"no capture at all", None])
def test_a_file_that_is_not_a_capture_is_one_error(run, tmp_path, data):
    path = tmp_path / "none"
    if data is not None:
        path.write_bytes(data)
    status, out, err = run("http_analyzer.py", "-r", path)
    assert (status, out, err.count("\n")) == (1, "", 1)


@filters
def test_a_filter_needs_no_tcpdump_and_a_wrong_one_is_an_error(script, capture):
    for expression, count in (("tcp port 80", 3), ("tcp port 81", 0), ("vlan", 0)):
        status, out, err = script(
            "http_analyzer.py", "-r", capture, *expression.split(), env={}, ignored=["DeprecationWarning"]
        ).finish()
        assert (status, len(out.splitlines()), err) == (0, count, "")
    status, out, err = script("http_analyzer.py", "-r", capture, "tcp", "prot", ignored=["DeprecationWarning"]).finish()
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_reading_loads_no_scapy(capture):
    code = f"import sys, http_analyzer; list(http_analyzer.analyze({str(capture)!r})); print('scapy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


# Formats


def test_text(script, capture):
    _, out, _ = script("http_analyzer.py", "-r", capture, "-c", 1, env={"TZ": "UTC"}).finish()
    assert out == "00:16:40.004 200     1.0 ms         5 B GET http://example.com/0\n"


def test_headers_follow_the_line(run, capture):
    lines = run("http_analyzer.py", "-r", capture, "--headers")[1].splitlines()
    assert lines[1:3] == ["  > Host: example.com", "  < Content-Length: 5"]


def test_a_line_shows_the_milliseconds_of_the_packet(capture):
    exchange = next(iter(analyze(str(capture))))
    for number in range(1_000):
        line = http_analyzer.text_line(exchange._replace(time=1_700_000_000 + number / 1_000))
        assert line.split()[0].endswith(f".{number:03}")


def test_text_of_half_an_exchange(capture):
    exchange = next(iter(analyze(str(capture))))
    request = exchange._replace(status=None, duration_s=None, response_bytes=None, problems=("no response",))
    response = exchange._replace(method=None, url=None, duration_s=None, problems=("no request", "gap"))
    lines = [http_analyzer.text_line(half).split(maxsplit=1)[1] for half in (request, response)]
    assert lines[0] == "-          -           - GET http://example.com/0 [no response]"
    assert lines[1] == "200          -         5 B - 10.0.0.2:80 [no request] [gap]"


@pytest.mark.parametrize(
    ("environment", "colors"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_colors_are_for_terminals_that_want_them(environment, colors, monkeypatch, capture):
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(os, "environ", {"TERM": "xterm"} | environment)
    assert http_analyzer.wants_colors() == colors
    exchange = next(iter(analyze(str(capture))))
    lines = [http_analyzer.text_line(exchange._replace(status=status), colors=True) for status in (399, 400, 500)]
    assert [re.findall("\x1b\\[(\\d+)m", line) for line in lines] == [[], ["33", "0"], ["31", "0"]]


def test_control_characters_are_escaped_in_every_format(run, tmp_path):
    evil = "GET /\x1b[31m\x9b\u202e HTTP/1.1\r\nHost: a\x07\r\nX: \x1b]0;\r\n\r\n".encode()
    path = save(tmp_path / "evil", Wire().open().send(0, evil).send(1, b"HTTP/1.1 200 \x1b[2J\r\n\r\n").frames)
    for form in http_analyzer.FORMATS:
        status, out, _ = run("http_analyzer.py", "-r", path, "--format", form, "--headers")
        assert status == 0
        assert all(line.isprintable() for line in out.splitlines())
    assert "/\\x1b[31m\\x9b\\u202e" in run("http_analyzer.py", "-r", path)[1]


def test_json_keys(run, capture):
    keys = "time client server method url host target version status reason request_bytes response_bytes content_type "
    keys += "user_agent ttfb_s duration_s problems"
    first = json.loads(run("http_analyzer.py", "-r", capture, "--json")[1].splitlines()[0])
    assert list(first) == keys.split()
    more = json.loads(run("http_analyzer.py", "-r", capture, "--json", "--headers")[1].splitlines()[0])
    assert more["request_headers"] == [["Host", "example.com"]]
    assert more["response_headers"] == [["Content-Length", "5"]]
    assert {key: more[key] for key in first} == first


def odd_capture(tmp_path):
    wire = Wire().open().send(0, b'GET /a"b\\\x1b HTTP/1.1\r\nUser-Agent: "x"\r\nReferer: http://r/\r\n\r\n')
    wire.send(1, OK % 200).send(0, b"GET /unanswered?q=1 HTTP/1.1\r\n\r\n")
    return save(tmp_path / "odd", wire.frames)


def test_combined_has_a_dash_for_an_unknown_request():
    (exchange,) = exchanges(frames_of(b"", OK % 299))
    assert '] "-" 299 5 "-" "-"' in http_analyzer.combined_line(exchange)


def test_combined(script, tmp_path):
    path = odd_capture(tmp_path)
    _, out, _ = script("http_analyzer.py", "-r", path, "--format", "combined", env={"TZ": "UTC"}).finish()
    first, second = out.splitlines()
    request = r'"GET /a\x22b\\\x1b HTTP/1.1" 200 5 "http://r/" "\x22x\x22"'
    assert first == "10.0.0.1 - - [01/Jan/1970:00:16:40 +0000] " + request
    assert second.endswith('"GET /unanswered?q=1 HTTP/1.1" 499 - "-" "-"')


@pytest.mark.skipif(not shutil.which("goaccess"), reason="needs goaccess")
def test_goaccess_reads_every_combined_line(run, tmp_path):
    log = tmp_path / "log"
    log.write_text(run("http_analyzer.py", "-r", odd_capture(tmp_path), "--format", "combined")[1])
    command = ["goaccess", log, "--log-format=COMBINED", "-o", tmp_path / "report.json", "--no-global-config"]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    general = json.loads((tmp_path / "report.json").read_text())["general"]
    assert (general["valid_requests"], general["failed_requests"]) == (2, 0)


def check_har(har):
    """What https://w3c.github.io/web-performance/specs/HAR/Overview.html demands."""
    assert har["log"]["version"] == "1.2"
    assert {"name", "version"} <= set(har["log"]["creator"])
    assert all({"startedDateTime", "id", "title", "pageTimings"} <= set(page) for page in har["log"]["pages"])
    pages = {page["id"] for page in har["log"]["pages"]}
    for entry in har["log"]["entries"]:
        assert {"startedDateTime", "time", "request", "response", "cache", "timings"} <= set(entry)
        assert entry["pageref"] in pages
        for side in (entry["request"], entry["response"]):
            assert {"httpVersion", "cookies", "headers", "headersSize", "bodySize"} <= set(side)
        assert {"method", "url", "queryString"} <= set(entry["request"])
        assert {"status", "statusText", "content", "redirectURL"} <= set(entry["response"])
        assert isinstance(entry["response"]["content"]["size"], int)
        assert "mimeType" in entry["response"]["content"]
        assert isinstance(entry["response"]["statusText"], str)
        assert {"send", "wait", "receive"} <= set(entry["timings"])
        assert sum(max(0, value) for value in entry["timings"].values()) == pytest.approx(entry["time"])
    return har["log"]["entries"]


def test_har(run, tmp_path):
    _, out, _ = run("http_analyzer.py", "-r", odd_capture(tmp_path), "--format", "har")
    first, second = check_har(json.loads(out))
    assert [first["response"][name] for name in ("status", "statusText", "bodySize")] == [200, "OK", 5]
    assert first["response"]["content"] == {"size": 5, "mimeType": "x-unknown"}
    assert first["response"]["headers"] == [{"name": "Content-Length", "value": "5"}]
    assert (second["response"]["status"], second["response"]["bodySize"]) == (0, -1)
    assert second["request"]["queryString"] == [{"name": "q", "value": "1"}]


@pytest.mark.parametrize(
    ("head", "url"),
    [
        (b"GET /a?b=c HTTP/1.1\r\nHost: example.com:8080", "http://example.com:8080/a?b=c"),
        (b"GET /a\x1b HTTP/1.1\r\nHost: [::1]:80", "http://[::1]:80/a%1B"),
        (b"CONNECT 127.0.0.1:443 HTTP/1.1", "http://10.0.0.2:80/"),
        (b"GET foo:bar HTTP/1.1\r\nHost: h:18090", "http://h:18090/foo:bar"),
        (b"GET / HTTP/1.1\r\nHost: a b", "http://10.0.0.2:80/"),
        (b"GET / HTTP/1.1\r\nHost: a:70000", "http://10.0.0.2:80/"),
        (b"GET / HTTP/1.1\r\nHost: 1.2.3.4.5", "http://10.0.0.2:80/"),
        (b"GET javascript://a HTTP/1.1", "http://10.0.0.2:80/"),
    ],
)
def test_har_has_no_url_that_browsers_refuse(head, url):
    (exchange,) = one(head + b"\r\n\r\n", b"HTTP/1.1 404 -\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n")[:1]
    entry = json.loads(http_analyzer.har_entry(exchange))
    assert entry["request"]["url"] == url
    assert (entry["serverIPAddress"], entry["connection"], entry["_client"]) == ("10.0.0.2", "80", "10.0.0.1:40000")


def test_har_has_times_versions_and_types():
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/css\r\nContent-Length: 4\r\n\r\n"
    wire = Wire().open().send(0, b"POST /1 HTTP/1.0\r\nContent-Type: a/b\r\nContent-Length: 1\r\n\r\nx")
    wire.send(1, head).send(1, b"body")
    (exchange,) = exchanges(wire.frames, headers=True, bodies=True, max_body_bytes=2)
    entry = json.loads(http_analyzer.har_entry(exchange))
    assert (entry["time"], entry["timings"]["wait"], entry["timings"]["receive"]) == (2.0, 1.0, 1.0)
    assert entry["request"]["httpVersion"] == entry["response"]["httpVersion"] == "HTTP/1.0"
    assert entry["request"]["postData"]["mimeType"] == "a/b"
    content = {"size": 2, "mimeType": "text/css", "text": "bo", "comment": "The end of the body was cut."}
    assert entry["response"]["content"] == content


def test_har_of_a_response_without_a_request():
    response = b"HTTP/1.1 301 -\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n"
    (exchange,) = exchanges(frames_of(b"", response), headers=True)
    entry = json.loads(http_analyzer.har_entry(exchange))
    assert (entry["request"]["url"], entry["response"]["redirectURL"]) == ("http://10.0.0.2:80/", "/x")
    assert entry["comment"] == "no request"
    assert http_analyzer.safe_name(exchange) == "10.0.0.2_80"


def test_a_har_without_entries_is_valid(run, tmp_path):
    path = save(tmp_path / "empty", Wire().open().frames)
    assert check_har(json.loads(run("http_analyzer.py", "-r", path, "--format", "har")[1])) == []


def test_har_is_whole_after_ctrl_c(script, capture):
    process = script("http_analyzer.py", "-r", "-", "--format", "har", stdin=subprocess.PIPE)
    process.stdin.buffer.write(capture.read_bytes())
    process.stdin.buffer.flush()
    text = "".join(process.stdout.readline() for _ in range(3))
    process.send_signal(signal.SIGINT)
    text += process.stdout.read()
    assert process.wait() == 0
    assert len(check_har(json.loads(text))) == 3


def test_exchanges_from_a_pipe_are_printed_as_they_arrive(script, capture):
    process = script("http_analyzer.py", "-r", "-", stdin=subprocess.PIPE)
    process.stdin.buffer.write(capture.read_bytes())
    process.stdin.buffer.flush()
    assert [process.stdout.readline().split()[-1] for _ in range(3)] == [
        f"http://example.com/{number}" for number in range(3)
    ]
    process.finish(signal.SIGTERM)


def test_progress_is_shown_if_only_standard_error_is_a_terminal(capture, monkeypatch, capsys):
    monkeypatch.setattr(http_analyzer, "SWEEP_S", 0.0)
    for on_terminal, shown in ((True, f"{capture.stat().st_size:,} of {capture.stat().st_size:,} bytes"), (False, "")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda on_terminal=on_terminal: on_terminal)
        monkeypatch.setattr(os, "isatty", lambda _: False)
        assert http_analyzer.main(["-r", str(capture)]) == 0
        assert capsys.readouterr().err.strip("\r ") == shown


SUMMARY = """\
2 exchanges; bodies of requests: 0 bytes, of responses: 5 bytes

host             count   share
10.0.0.2:80          2  100.0%

status      count   share
200             1   50.0%
none            1   50.0%

method      count   share
GET             2  100.0%

response times, from the first byte of the request to the last byte of the response
  p50 1 ms  p90 1 ms  p95 1 ms  p99 1 ms  max 1 ms
  up to 2.15 ms  ████████████████████████████████████████ 1

most frequent URLs
     count      p50      p95      max  URL without query
         1   988 µs   988 µs     1 ms  http://10.0.0.2:80/a"b\\\\x1b
         1        -        -        -  http://10.0.0.2:80/unanswered

slowest URLs
     count      p50      p95      max  URL without query
         1   988 µs   988 µs     1 ms  http://10.0.0.2:80/a"b\\\\x1b

problems
         1  no response: the capture contains no response to the request, or it is not certain which one
"""


def test_the_summary(run, tmp_path):
    assert run("http_analyzer.py", "-r", odd_capture(tmp_path), "--summary") == (0, SUMMARY, "")


def test_the_summary_counts_what_exceeds_its_limits_together(monkeypatch, capture):
    monkeypatch.setattr(http_analyzer, "MAX_HOSTS", 12)
    monkeypatch.setattr(http_analyzer, "MAX_METHODS", 2)
    monkeypatch.setattr(http_analyzer, "MAX_URLS", 3)
    exchange = next(iter(analyze(str(capture))))
    summary = http_analyzer.Summary()
    summary.add(exchange._replace(method=None, host=None, url=None, request_bytes=None))
    for number in range(15):
        changes = {"host": f"h{number}", "method": f"M{number}", "url": f"http://h/{number}", "request_bytes": 2}
        summary.add(exchange._replace(**changes))
    summary.add(exchange._replace(method="M0"))
    assert summary.as_dict()["methods"] == {"(others)": 14, "M0": 2, "unknown": 1}
    assert (summary.as_dict()["request_bytes"], summary.as_dict()["hosts"]["(others)"]) == (30, 5)
    assert summary.as_dict()["frequent_urls"][0]["url"] == "(other URLs)"
    lines = [line.split() for line in summary.lines()]
    assert ["3", "others", "3", "17.6%"] in lines


def test_a_summary_without_responses_has_no_times(run, tmp_path):
    path = save(tmp_path / "a", Wire().open().send(0, GET % 1).frames)
    status, out, err = run("http_analyzer.py", "-r", path, "--summary")
    assert (status, err, "response times" in out) == (0, "", False)
    summary = json.loads(run("http_analyzer.py", "-r", path, "--summary", "--json")[1])
    assert (summary["response_times"], summary["histogram"]) == (None, [])
    assert run("http_analyzer.py", "-r", save(tmp_path / "b", [(1.0, 1, bytes(60))]), "--summary")[1] == (
        "0 exchanges; bodies of requests: 0 bytes, of responses: 0 bytes\n"
    )
    assert summary["frequent_urls"][0] == {
        "url": "http://example.com/1",
        "count": 1,
        "p50_s": None,
        "p95_s": None,
        "max_s": None,
    }


def test_no_percentile_is_above_the_maximum_and_urls_are_counted_without_their_query(run, tmp_path):
    wire = Wire().open()
    for number in range(50):
        wire.send(0, b"GET /page?%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
        wire.time += 0.1 + number / 1000
        wire.send(1, OK % 200)
    path = save(tmp_path / "a", wire.frames)
    summary = json.loads(run("http_analyzer.py", "-r", path, "--summary", "--json")[1])
    times = summary["response_times"]
    assert times["p50_s"] <= times["p90_s"] <= times["p95_s"] <= times["p99_s"] <= times["max_s"]
    assert times["max_s"] == pytest.approx(0.15, abs=0.001)
    assert times["p50_s"] == pytest.approx(0.125, rel=0.02)
    assert times["p95_s"] == pytest.approx(0.148, rel=0.02)
    (page,) = summary["frequent_urls"]
    assert (page["url"], page["count"]) == ("http://h/page", 50)
    assert page["p50_s"] <= page["p95_s"] <= page["max_s"] == times["max_s"]


# Live

BIG = 3_000_000  # a body whose frames are the longest that loopback has


@pytest.fixture
def web():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # A body does not wait for the ACK of its headers.

        def do_GET(self):
            body = bytes(BIG) if self.path == "/big" else b"hello"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address
        server.shutdown()
        thread.join()


@captures
def test_live(script, web):
    analyzer = script("http_analyzer.py", "-i", "lo", "--json", "tcp", "port", web[1], ignored=["DeprecationWarning"])
    assert "Ctrl+C" in analyzer.stderr.readline()
    client, targets = http.client.HTTPConnection(*web), [f"/{number}" for number in range(50)] + ["/big"] * 3
    for target in targets:
        client.request("GET", target)
        client.getresponse().read()
    lines = [json.loads(analyzer.stdout.readline()) for _ in targets]
    status, out, err = analyzer.finish(signal.SIGINT)
    client.close()
    assert (status, out, err) == (0, "", "")
    assert [(line["target"], line["status"], line["problems"]) for line in lines] == [
        (target, 200, []) for target in targets
    ]
    assert {line["response_bytes"] for line in lines} == {5, BIG}
    assert all(0 < line["ttfb_s"] <= line["duration_s"] < 5 and abs(line["time"] - time.time()) < 60 for line in lines)


@captures
def test_every_interface_and_one_that_is_not_there(script, web):
    analyzer = script("http_analyzer.py", "-i", "any", "-c", 1, "tcp", "port", web[1], ignored=["DeprecationWarning"])
    assert "on any" in analyzer.stderr.readline()
    client = http.client.HTTPConnection(*web)
    client.request("GET", "/any")
    client.getresponse().read()
    client.close()
    status, out, err = analyzer.finish()
    assert (status, err) == (0, "")
    assert f" 5 B GET http://127.0.0.1:{web[1]}/any\n" in out
    status, out, err = script("http_analyzer.py", "-i", "nosuch", ignored=["DeprecationWarning"]).finish()
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "there is no interface nosuch; choose one of: " in err


@captures
def test_without_libpcap_a_live_capture_has_no_filter(script, without_libpcap):
    def job():
        analyzer = script("http_analyzer.py", "-i", "lo", "-c", 1)
        assert "on lo" in analyzer.stderr.readline()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            with client, server:
                client.sendall(GET % 1)
                server.recv(100)
                server.sendall(OK % 200)
                return analyzer.finish()

    status, out, err = in_namespace(job)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert " 200 " in out


@captures
def test_any_stack_of_vlan_tags_passes_the_default_filter(monkeypatch):
    monkeypatch.setattr(http_analyzer, "TICK_S", 0.2)

    def job():
        with contextlib.ExitStack() as files, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            live = http_analyzer.Live(files, "two", http_analyzer.DEFAULT_FILTER, 1 << 20, True)
            sender.bind(("one", 0))
            for number, tags in enumerate(("", "81000005", "88a8000681000005", "9100000781000005")):
                wire = Wire(client=("10.0.0.1", 40_000 + number)).open().send(0, GET % number).send(1, OK % 200)
                for _, _, frame in wire.frames:
                    sender.send(frame[:12] + bytes.fromhex(tags) + frame[12:])
                sender.send(bytes(12) + b"\x08\x06" + bytes(46))  # ARP: the filter is there
            batches = list(itertools.takewhile(bool, live.batches()))
        assert not any(frame[12:14] == b"\x08\x06" for batch in batches for *_, frame in batch)
        return [exchange.target for exchange in http_analyzer.exchanges(HTTPAnalyzer(), iter(batches))]

    setup = ["link add one type veth peer name two", "link set one up", "link set two up"]
    assert in_namespace(job, *setup) == ["/0", "/1", "/2", "/3"]


# What the ten-line version gets wrong


def ten_lines(path):
    pytest.importorskip("scapy")
    output = io.StringIO()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        warnings.simplefilter("ignore")  # scapy causes warnings when it is imported.
        patch.setattr(sys, "argv", [TEN_LINES, str(path)])
        runpy.run_path(str(TEN_LINES))
    return output.getvalue().splitlines()


@functools.cache
def shown(path):
    return [brief(exchange) for exchange in analyze(str(path))]


@pytest.mark.parametrize(
    ("data", "cuts", "seen"),
    [
        ([GET % 1 + GET % 2], (), ["GET /1 HTTP/1.1"]),
        ([GET % 1, GET % 2], (2,), []),
        ([GET % 1, GET % 2], (8,), ["GET /1 H", "GET /2 H"]),
        ([(GET % 1).replace(b"GET", b"PUT"), (GET % 2).replace(b"GET", b"PUT")], (), []),
    ],
    ids=["two in a packet", "one in two packets", "cut", "PUT"],
)
def test_ten_lines_take_a_packet_for_a_request(tmp_path, data, cuts, seen):
    wire = Wire().open()
    for piece in data:
        wire.send(0, piece, cuts)
    path = save(tmp_path / "a", wire.frames)
    assert [line.partition(": ")[2] for line in ten_lines(path)] == seen
    assert [line[1] for line in shown(path)] == ["/1", "/2"]


def test_ten_lines_take_port_80_for_http(tmp_path):
    path = save(tmp_path / "a", Wire(server=("10.0.0.2", 8080)).open().send(0, GET % 1).send(1, OK % 200).frames)
    assert ten_lines(path) == []
    assert shown(path) == [("GET", "/1", 200, 0, 5, ())]
    other = save(tmp_path / "b", Wire().open().send(0, b"POSTFIX is no HTTP\r\n").frames)
    assert len(ten_lines(other)) == 1
    assert shown(other) == []


def test_ten_lines_show_no_response_no_host_and_no_time(capture):
    assert ten_lines(capture) == [f"HTTP request from 10.0.0.1: GET /{number} HTTP/1.1" for number in range(3)]


def test_ten_lines_print_an_attackers_bytes(tmp_path):
    path = save(tmp_path / "a", Wire().open().send(0, b"GET /\x1b[2J HTTP/1.1\r\n\r\n").frames)
    assert "\x1b[2J" in ten_lines(path)[0]
    (exchange,) = analyze(str(path))
    assert "\\x1b[2J" in http_analyzer.text_line(exchange)
