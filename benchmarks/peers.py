#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Python servers to compare with tcp_server.py and udp_server.py. They listen on 127.0.0.1 only.

They do the same jobs with other modules of the standard library, as briefly as its documentation suggests.
"""

import asyncio
import contextlib
import signal
import socket
import socketserver
import sys

GREETING = b"Hello, World!"
PREFIX = b"Server received: "
READ_BYTES = 65_536
BACKLOG = 4096  # With socketserver's 5, connections would be dropped, and each costs the client a second.
LIFETIME_S = 900  # A server ends by itself if its benchmark has crashed.


class GreetHandler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(GREETING)
        self.request.shutdown(socket.SHUT_WR)
        while self.request.recv(READ_BYTES):
            pass


class EchoHandler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does the same.
        while data := self.request.recv(READ_BYTES):
            self.request.sendall(data)


class UDPHandler(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        if not data.startswith(PREFIX):
            sock.sendto(PREFIX + data, self.client_address)


class ThreadingServer(socketserver.ThreadingTCPServer):
    request_queue_size = BACKLOG
    daemon_threads = True


class UDPServer(socketserver.UDPServer):
    max_packet_size = READ_BYTES  # The default is 8,192.


def announce(port):
    print(f"Listening on 127.0.0.1:{port}", flush=True)


def serve_socketserver(server_class, handler):
    def serve(port):
        with server_class(("127.0.0.1", port), handler) as server:
            announce(server.server_address[1])
            server.serve_forever()

    return serve


async def greet_stream(reader, writer):
    writer.write(GREETING)
    writer.write_eof()
    while await reader.read(READ_BYTES):
        pass
    writer.close()


async def echo_stream(reader, writer):
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()


def serve_streams(handler):
    async def run(port):
        server = await asyncio.start_server(handler, "127.0.0.1", port, backlog=BACKLOG)
        announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    return lambda port: asyncio.run(run(port))


async def greet_sock(loop, sock):
    with sock:
        await loop.sock_sendall(sock, GREETING)
        sock.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(sock, READ_BYTES):
            pass


async def echo_sock(loop, sock):
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := await loop.sock_recv(sock, READ_BYTES):
            await loop.sock_sendall(sock, data)


def serve_sock(handler):
    async def run(port):
        loop = asyncio.get_running_loop()
        tasks = set()  # The event loop has only weak references to tasks.
        with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
            listener.setblocking(False)
            announce(listener.getsockname()[1])
            while True:
                sock, _ = await loop.sock_accept(listener)
                task = loop.create_task(handler(loop, sock))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    return lambda port: asyncio.run(run(port))


class UDPProtocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        if not data.startswith(PREFIX):
            self.transport.sendto(PREFIX + data, addr)


def udp_asyncio(port):
    async def run():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(UDPProtocol, ("127.0.0.1", port))
        announce(transport.get_extra_info("sockname")[1])
        await loop.create_future()

    asyncio.run(run())


def udp_loop(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
        announce(sock.getsockname()[1])
        while True:
            data, peer = sock.recvfrom(READ_BYTES)
            if not data.startswith(PREFIX):
                sock.sendto(PREFIX + data, peer)


PEERS = {
    "greet-threads": serve_socketserver(ThreadingServer, GreetHandler),
    "greet-streams": serve_streams(greet_stream),
    "greet-sock": serve_sock(greet_sock),
    "echo-threads": serve_socketserver(ThreadingServer, EchoHandler),
    "echo-streams": serve_streams(echo_stream),
    "echo-sock": serve_sock(echo_sock),
    "udp-socketserver": serve_socketserver(UDPServer, UDPHandler),
    "udp-asyncio": udp_asyncio,
    "udp-loop": udp_loop,
}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in PEERS:
        sys.exit(f"usage: peers.py {'|'.join(PEERS)} PORT")
    signal.alarm(LIFETIME_S)
    with contextlib.suppress(KeyboardInterrupt):
        PEERS[sys.argv[1]](int(sys.argv[2]))
