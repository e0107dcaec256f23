"""The tutorial's TCP client, as it goes around, for the tests to show where it breaks."""

import socket
import sys

client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
client.connect(("localhost", int(sys.argv[1])))
if len(sys.argv) > 2:
    client.sendall(b"x" * int(sys.argv[2]))
print(f"Received: {client.recv(1024).decode()}", flush=True)
client.close()
