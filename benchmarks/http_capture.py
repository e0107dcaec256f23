#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Write a capture of HTTP exchanges whose sizes look like those of the web: python http_capture.py FILE EXCHANGES.

Each connection has 1 to 20 exchanges. The bodies have 0 to 20 kB and arrive in segments of 1,448 bytes. The client
acknowledges every second segment. The same arguments give the same file.
"""

import random
import struct
import sys

SEGMENT_BYTES = 1_448
MAX_BODY_BYTES = 20_000
MAX_EXCHANGES = 20  # per connection
FILE_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
SYN, FIN, PSH, ACK = 2, 1, 8, 16
REQUEST = (
    b"GET /path/%d/page-%d.html?session=%d HTTP/1.1\r\nHost: www%d.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nCookie: id=%d\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 %d OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n"
    b"Content-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\nConnection: keep-alive\r\n"
    b'ETag: "65530d1c-%x"\r\nCache-Control: max-age=3600\r\n\r\n'
)


class Connection:
    """One TCP connection that writes its frames to a file."""

    def __init__(self, file, number, time_us):
        self.file, self.time_us = file, time_us
        client, server = struct.pack("!BBH", 10, 1, number & 0xFFFF), bytes([10, 0, 0, 1 + number % 50])
        port = 1_024 + number % 60_000
        self.addresses = [client + server, server + client]
        self.ports = [struct.pack("!HH", port, 80), struct.pack("!HH", 80, port)]
        self.seq = [1_000, 500_000]

    def send(self, side, flags, data=b""):
        tcp = self.ports[side] + struct.pack(
            "!IIBBHHH", self.seq[side], 0 if flags == SYN else self.seq[1 - side], 0x50, flags, 65_535, 0, 0
        )
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(data), 1, 0x4000, 64, 6, 0) + self.addresses[side]
        frame = bytes(12) + b"\x08\x00" + ip + tcp + data
        self.file.write(struct.pack("<IIII", *divmod(self.time_us, 1_000_000), len(frame), len(frame)) + frame)
        self.seq[side] += len(data) + (flags & (SYN | FIN) > 0)
        self.time_us += 50

    def exchange(self, rng, number):
        self.send(0, PSH | ACK, REQUEST % (number % 100, number % 1_000, number, number % 20, number))
        size = int(MAX_BODY_BYTES * rng.random() ** 3)  # on average 5 kB
        data = RESPONSE % (200 if number % 10 else 404, size, size) + rng.randbytes(size)
        for count, at in enumerate(range(0, len(data), SEGMENT_BYTES)):
            self.send(1, ACK, data[at : at + SEGMENT_BYTES])
            if count % 2:
                self.send(0, ACK)

    def run(self, rng, first, count):
        self.send(0, SYN)
        self.send(1, SYN | ACK)
        self.send(0, ACK)
        for number in range(first, first + count):
            self.exchange(rng, number)
        self.send(0, FIN | ACK)
        self.send(1, FIN | ACK)
        self.send(0, ACK)


def write_capture(path, exchanges):
    rng = random.Random(1)
    done, connections, time_us = 0, 0, 1_700_000_000_000_000
    with open(path, "wb") as file:
        file.write(FILE_HEADER)
        while done < exchanges:
            count = min(rng.randint(1, MAX_EXCHANGES), exchanges - done)
            connection = Connection(file, connections, time_us)
            connection.run(rng, done, count)
            done, connections, time_us = done + count, connections + 1, connection.time_us


if __name__ == "__main__":
    write_capture(sys.argv[1], int(sys.argv[2]))
