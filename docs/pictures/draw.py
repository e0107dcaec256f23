#!/usr/bin/env python3
"""Draw the README's pictures: run the scripts as a user does, and keep what the terminal shows as SVG.

  python docs/pictures/draw.py [NAME ...]     those of these names, else all (sniff and http_analyzer need root)

Needs rich (requirements-dev.txt). The weather comes from the tests' stand-in for the providers, on loopback.
"""

import contextlib
import fcntl
import http.client
import http.server
import io
import os
import pty
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COLUMNS, ROWS = 92, 40
sys.path.insert(0, str(ROOT / "tests"))


def shown(*command, env=None):
    """Run a script on a terminal of its own; return what that shows."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), **(env or {})}
    command = [sys.executable, *command]
    with subprocess.Popen(command, cwd=ROOT, stdin=end, stdout=end, stderr=end, env=environment) as process:
        os.close(end)
        printed = b""
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 65_536):
                printed += data
    os.close(terminal)
    text = without_what_was_overwritten(printed.decode())
    if process.returncode:
        sys.exit(text)
    return text


def without_what_was_overwritten(text):
    """The last state of each line, as progress and tables drawn in place leave it."""
    text = re.split(r"\x1b\[H\x1b\[J", text)[-1].replace("\r\n", "\n")
    return "\n".join(re.split(r"\r(?:\x1b\[K)?", line)[-1] for line in text.split("\n"))


@contextlib.contextmanager
def running(*command):
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process
        process.terminate()


def servers():
    with running("tcp_server.py", "-q"):
        client = shown("tcp_client.py")
    return f"$ python3 tcp_server.py &\nListening on 127.0.0.1:12345\n$ python3 tcp_client.py\n{client}"


def async_client():
    with running("tcp_server.py", "-q"):
        return "$ python3 async_client.py -n 20000 -c 50\n" + shown("async_client.py", "-n", "20000", "-c", "50")


def weather():
    import fake_weather

    fake_weather.NOW = int(time.time()) - 720
    server = fake_weather.FakeWeather()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = ("OPENWEATHERMAP_URL", "OPEN_METEO_URL", "OPEN_METEO_GEOCODING_URL")
    env = dict.fromkeys(names, server.url)
    text = shown("weather.py", "Paris", "--forecast", "7", "--no-cache", env=env)
    server.shutdown()
    server.close()
    return f"$ python3 weather.py Paris --forecast 7\n{text}"


def sniff():
    """An echo server and clients that ask for names, on loopback; needs root."""
    with running("tcp_server.py", "--echo", "-q"), socket.socket(type=socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 53))  # It does not answer. Without it, the kernel would refuse the queries.
        threading.Thread(target=talk).start()
        text = shown("sniff.py", "-i", "lo", "--top", "--duration", "4")
    return f"$ sudo python3 sniff.py -i lo --top\n{text}"


def talk():
    time.sleep(1.5)  # The sniffer has started by then; its message goes to the terminal.
    visits = {"www.example.org": 40, "cdn.example.net": 25, "mail.example.org": 15, "news.example.com": 5}
    for name, count in visits.items():
        for number in range(count):
            ask_for(name)
            first = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % name.encode() if name[0] == "n" else client_hello(name)
            with socket.create_connection(("127.0.0.1", 12345)) as client:
                client.sendall(first + bytes(500 * number))
                client.shutdown(socket.SHUT_WR)
                while client.recv(65_536):
                    pass


def ask_for(name):
    """Send a DNS query (RFC 1035)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(query, ("127.0.0.1", 53))


def client_hello(name):
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class Site(http.server.BaseHTTPRequestHandler):
    """Pages of which some take their time, and some are not there."""

    protocol_version, wbufsize = "HTTP/1.1", -1  # head and body in one segment

    def do_GET(self):
        time.sleep(random.lognormvariate(-6.5, 1.2))
        body = b"<p>Hello, World!</p>" * 100
        self.send_response(404 if self.path.endswith("7") else 200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def http_analyzer():
    """A site and its visitors, on loopback; needs root."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for number in range(4):
        threading.Thread(target=visit, args=[number]).start()
    text = shown("http_analyzer.py", "-i", "lo", "--summary", "--duration", "4")
    server.shutdown()
    server.server_close()
    summary = text.splitlines()[next(n for n, line in enumerate(text.splitlines()) if "exchanges;" in line) :]
    lines = "\n".join(line if len(line) <= COLUMNS else f"{line[: COLUMNS - 1]}…" for line in summary)
    return f"$ sudo python3 http_analyzer.py -i lo --summary --duration 4\n…\n{lines}"


def visit(number):
    time.sleep(1.5)  # until the analyzer listens
    client = http.client.HTTPConnection("127.0.0.1", 8000)
    for page in range(400):
        urls = ("/", "/style.css", f"/search?q={page}", f"/item?id={page}", "/login")
        (url,) = random.choices(urls, weights=(5, 4, 3, 2, 1))
        host = ("www", "www", "shop", "news")[number] + ".example.org"
        client.request("POST" if url == "/login" else "GET", url, headers={"Host": host})
        client.getresponse().read()
    client.close()


SCENES = {
    "servers": servers,
    "async_client": async_client,
    "weather": weather,
    "sniff": sniff,
    "http_analyzer": http_analyzer,
}


def draw(name):
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(SCENES[name]().rstrip()))
    svg = console.export_svg(title=name, theme=MONOKAI, unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # the viewer's own fonts, and no request for any
    svg = svg.replace("Fira Code", "ui-monospace").replace("<svg ", '<svg xml:space="preserve" ', 1)
    (HERE / f"{name}.svg").write_text(svg)


if __name__ == "__main__":
    for name in sys.argv[1:] or SCENES:
        draw(name)
