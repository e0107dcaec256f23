"""The tutorial's UDP server, as it goes around, for the tests to show where it breaks."""

import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[2] if len(sys.argv) > 2 else "localhost", int(sys.argv[1])))
print(f"Listening on 127.0.0.1:{server.getsockname()[1]}", flush=True)
while True:
    data, address = server.recvfrom(1024)
    print(f"Received message from {address}: {data.decode()}", flush=True)
    server.sendto(f"Server received: {data.decode()}".encode(), address)
