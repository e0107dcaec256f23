"""The tutorial's TCP server, as it goes around, for the tests to show where it breaks."""

import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
server.bind(("localhost", int(sys.argv[1])))
server.listen(5)
print(f"Listening on 127.0.0.1:{server.getsockname()[1]}", flush=True)
while True:
    client, address = server.accept()
    data = client.recv(1024) if "--echo" in sys.argv else b"Hello, World!"
    client.send(data)
    client.close()
