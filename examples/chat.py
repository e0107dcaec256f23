#!/usr/bin/env python3
"""Chat over TCP: pass each line of a client on to all other clients. This shows a handler for tcp_server.py.

python3 examples/chat.py             start the server on localhost:12345
python3 tcp_client.py --send -       join the chat, in another terminal
"""

import argparse
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
from tcp_server import Connection, Handler, TCPServer

MAX_LINE_BYTES = 1_000


class Chat(Handler):
    """One member. The name of a member is the port of its connection."""

    members: "set[Chat]" = set()  # noqa: RUF012 - all members share it

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        self.unfinished = b""
        self.members.add(self)

    def data_received(self, data: bytes) -> None:
        *lines, self.unfinished = (self.unfinished + data).split(b"\n")
        for line in lines:
            for member in self.members - {self}:
                member.connection.send(b"%d: %s\n" % (self.connection.peer[1], line))
        if len(self.unfinished) > MAX_LINE_BYTES:
            self.connection.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.members.discard(self)


def main() -> int:
    parser = argparse.ArgumentParser(description="Chat over TCP.")
    parser.add_argument("--port", type=int, default=12345, help="port of localhost (default: %(default)s)")
    args = parser.parse_args()
    try:
        with TCPServer(("localhost", args.port), Chat, timeout_s=3600) as server:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: server.shutdown(0))  # Members never leave by themselves.
            print(f"Chat on localhost:{server.address[1]}", flush=True)
            server.serve_forever()
    except (OSError, OverflowError) as error:
        print(f"chat.py: error: cannot listen on port {args.port}: {error}; choose another --port", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
