# SPDX-License-Identifier: 0BSD
"""Generate captures of mixed traffic, as in an office network.

In every 100 packets: 40 of bulk TCP (data segments and acknowledgements), 25 of DNS (queries and answers), 8 starts of
TLS connections, 10 HTTP heads, 5 ICMP echoes, 4 ARP messages and 8 UDP datagrams over IPv6. With `plain=True`,
there is no DNS, TLS or HTTP, so that no packet contains a name.
"""

import random
import socket
import struct

HOSTS = 200
FLOWS = 500  # conversations; each has many packets
MACS = bytes.fromhex("020000000002020000000001")


def ipv4(source, target, protocol, payload):
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, target)
    return MACS + b"\x08\0" + header + payload


def tcp(source, target, sport, dport, payload, flags=0x18):
    return ipv4(source, target, 6, struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 5 << 4, flags, 65_535, 0, 0) + payload)


def udp_header(sport, dport, payload):
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def domain_name(name):
    return b"".join(bytes([len(label)]) + label for label in name.split(b".")) + b"\0"


def client_hello(name):
    server_name = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    extensions = b"\0\x17\0\0" + server_name + b"\0\x10\0\x0e\0\x0c\x02h2\x08http/1.1"
    body = b"\3\3" + bytes(32) + b"\x20" + bytes(32) + b"\0\x20" + bytes(32) + b"\1\0"
    body += struct.pack("!H", len(extensions)) + extensions
    handshake = b"\1" + len(body).to_bytes(3) + body
    return b"\x16\3\1" + struct.pack("!H", len(handshake)) + handshake


def kinds(random_source, plain):
    """Yield functions that make a frame, in proportion to their shares."""
    choose = random_source.randrange

    flows = [(socket.inet_aton(f"10.0.0.{1 + choose(HOSTS)}"), socket.inet_aton(f"10.0.1.{1 + choose(HOSTS)}"),
              40_000 + choose(20_000)) for _ in range(FLOWS)]  # fmt: skip

    def name():
        return b"www.host-%d.example.org" % choose(5_000)

    def from_client(port, payload, flags=0x18):
        client, server, client_port = random_source.choice(flows)
        return tcp(client, server, client_port, port, payload, flags)

    def from_server(port, payload, flags=0x18):
        client, server, client_port = random_source.choice(flows)
        return tcp(server, client, port, client_port, payload, flags)

    def bulk():
        return from_server(443, bytes(1_448))

    def acknowledgement():
        return from_client(443, b"", flags=0x10)

    def query():
        client, server, client_port = random_source.choice(flows)
        question = struct.pack("!HHHHHH", choose(65_536), 0x0100, 1, 0, 0, 0) + domain_name(name()) + b"\0\1\0\1"
        return ipv4(client, server, 17, udp_header(client_port, 53, question))

    def answer():
        client, server, client_port = random_source.choice(flows)
        question = domain_name(name()) + b"\0\1\0\1"
        records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + end for end in (client, server))
        message = struct.pack("!HHHHHH", choose(65_536), 0x8180, 1, 2, 0, 0) + question + records
        return ipv4(server, client, 17, udp_header(53, client_port, message))

    def tls():
        return from_client(443, client_hello(name()))

    def request():
        head = b"GET /path/%d HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n" % (
            choose(10_000),
            name(),
        )
        return from_client(80, head)

    def response():
        return from_server(80, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n")

    def echo():
        client, server, _ = random_source.choice(flows)
        return ipv4(client, server, 1, struct.pack("!BBHHH", 8, 0, 0, choose(1_000), choose(1_000)) + bytes(48))

    def arp():
        client, server, _ = random_source.choice(flows)
        return MACS + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + MACS[6:] + client + bytes(6) + server

    def ipv6():
        payload = udp_header(40_000, 4_433, bytes(200))
        ends = b"".join(bytes.fromhex("20010db8") + bytes(11) + bytes([choose(HOSTS // 10)]) for _ in range(2))
        return MACS + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(payload), 17, 64) + ends + payload

    shares = {bulk: 24, acknowledgement: 16, echo: 5, arp: 4, ipv6: 8}
    if not plain:
        shares |= {query: 13, answer: 12, tls: 8, request: 5, response: 5}
    return [kind for kind, share in shares.items() for _ in range(share)]


def write(path, count, plain=False, seed=1):
    """Write a pcap file with `count` packets, 0.1 ms apart."""
    random_source = random.Random(seed)
    choices = kinds(random_source, plain)
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for number in range(count):
            frame = random_source.choice(choices)()
            second, fraction = divmod(number * 100, 1_000_000)
            file.write(struct.pack("<IIII", 1_700_000_000 + second, fraction, len(frame), len(frame)) + frame)
