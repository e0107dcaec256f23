#!/usr/bin/env python3
"""Exchange messages with a length prefix (4 bytes, big-endian): a protocol of one's own on top of tcp_server.py.

python3 examples/framed_protocol.py serve       answer each message in capital letters
python3 examples/framed_protocol.py hello       send a message and print the answer
"""

import pathlib
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
from tcp_server import Connection, Handler, TCPServer

ADDRESS = ("localhost", 12346)
PREFIX = struct.Struct("!I")
MAX_MESSAGE_BYTES = 65_536  # A longer message ends the connection before it is buffered.


class Shout(Handler):
    def connection_made(self, connection: Connection) -> None:
        self.connection, self.buffer = connection, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= PREFIX.size:
            (length_bytes,) = PREFIX.unpack_from(self.buffer)
            end = PREFIX.size + length_bytes
            if length_bytes > MAX_MESSAGE_BYTES:
                return self.connection.close()
            if len(self.buffer) < end:
                return
            self.connection.send(self.buffer[: PREFIX.size] + self.buffer[PREFIX.size : end].upper())
            self.buffer = self.buffer[end:]


def ask(message: bytes, address: tuple[str, int] = ADDRESS) -> bytes:
    """Send one message and return the answer. Raises OSError."""
    with socket.create_connection(address, timeout=5) as sock, sock.makefile("rb") as stream:
        sock.sendall(PREFIX.pack(len(message)) + message)
        prefix = stream.read(PREFIX.size)
        answer = stream.read(min(*PREFIX.unpack(prefix), MAX_MESSAGE_BYTES)) if len(prefix) == PREFIX.size else b""
        if len(answer) < len(message):
            raise ConnectionError("the server closed the connection before its answer was complete")
        return answer


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["serve"]:
            TCPServer(ADDRESS, Shout).serve_forever()
        print(ascii(ask(" ".join(sys.argv[1:]).encode()).decode("utf-8", "replace")))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"framed_protocol.py: error: {error}; is the server running?")
