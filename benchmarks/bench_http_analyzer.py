#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Compare http_analyzer.py with tshark, httpry and the tutorial's loop: seconds of CPU time for generated captures.

http_capture.py writes the captures: 1 to 20 exchanges per connection, bodies of 0 to 20 kB in segments of 1,448 bytes.
Two more captures show the cost of a frame: one download of 500 MB, and 100 downloads whose segments alternate. The last
part is live: nginx and wrk, or Python's own server and client if they are not installed. It needs root.
"""

import contextlib
import functools
import http.client
import http.server
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import http_capture
from common import (
    CPUS,
    HOST,
    MEASURED_CPU,
    ROOT,
    Result,
    build_directory,
    compare,
    enter_namespace,
    print_rates,
    start_benchmark,
)

EXCHANGES = 20_000, 80_000  # number of exchanges in the two captures
DOWNLOAD_BYTES = 500_000_000
PAGE = "<p>A paragraph of a page, as long as many are on the web, and then some more.</p>\n" * 50  # 4 kB
OURS = [sys.executable, ROOT / "http_analyzer.py", "-r"]
TUTORIAL = [sys.executable, ROOT / "tests" / "ten_lines" / "http_analyzer.py"]
TUTORIAL_FRAMES = 10_000  # The tutorial's loop is so slow that it gets only the first frames.
NGINX = """daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;
events {{}} http {{ access_log off; keepalive_requests 100000000; default_type text/html;
client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; limit_req_zone $binary_remote_addr zone=all:1m rate={rate}r/s;
server {{ listen {host}:{port}; root {folder}; {limit} }} }}"""
LIVE_RATE, LIVE_S = 2_000, 10


def free_port():
    with socket.create_server((HOST, 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(*command):
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE) as process:
        yield process
        time.sleep(1.5)  # tcpdump writes the last packets later.
        process.terminate()


def serve(folder, port, rate=None):
    """Serve a page with nginx, at most `rate` requests per second, or with Python's server."""
    (folder / "index.html").write_text(PAGE)
    folder.chmod(0o755)
    if not shutil.which("nginx"):
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        handler.func.protocol_version, handler.func.log_message = "HTTP/1.1", lambda *_: None
        server = http.server.ThreadingHTTPServer((HOST, port), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return contextlib.closing(server.socket)
    limit = "limit_req zone=all burst=1000;" if rate else ""
    config = NGINX.format(folder=folder, host=HOST, port=port, rate=rate or 1, limit=limit)
    (folder / "nginx.conf").write_text(config)
    return running("nginx", "-p", folder, "-c", folder / "nginx.conf")


def ask(port, seconds):
    """Send requests for `seconds`, or until tcpdump ends. Return their number."""
    if shutil.which("wrk"):
        command = ["wrk", "-t1", "-c16", f"-d{seconds}s", f"http://{HOST}:{port}/index.html"]
        return int(re.search(rb"(\d+) requests in", subprocess.check_output(command))[1])
    client, deadline, count = http.client.HTTPConnection(HOST, port), time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        client.request("GET", "/index.html")
        client.getresponse().read()
        count += 1
    return count


def make_downloads(path, connections, total_bytes):
    """Write a capture of downloads whose segments alternate; return the number of its frames."""
    with open(path, "wb") as file:
        file.write(http_capture.FILE_HEADER)
        size = total_bytes // connections
        downloads = [http_capture.Connection(file, number, number) for number in range(connections)]
        for download in downloads:
            download.send(0, http_capture.PSH | http_capture.ACK, b"GET /file HTTP/1.1\r\nHost: example.com\r\n\r\n")
            download.send(1, http_capture.ACK, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for at in range(0, size, http_capture.SEGMENT_BYTES):
            for download in downloads:
                download.send(1, http_capture.ACK, bytes(min(http_capture.SEGMENT_BYTES, size - at)))
    return connections * (2 + -(-size // http_capture.SEGMENT_BYTES))


def watch_live(folder, seconds):
    """Print how many of the requests http_analyzer.py shows complete in a live capture."""
    port = free_port()
    command = [sys.executable, ROOT / "http_analyzer.py", "-i", "lo", "tcp", "port", str(port)]
    with (
        serve(folder, port, LIVE_RATE),
        open(folder / "live", "w+b") as lines,
        subprocess.Popen(command, stdout=lines, stderr=subprocess.PIPE) as analyzer,
    ):
        analyzer.stderr.readline()  # The server listens.
        asked = ask(port, seconds)
        time.sleep(1)
        analyzer.send_signal(signal.SIGINT)
        _, messages = analyzer.communicate()
        lines.seek(0)
        shown = sum(b" 200 " in line and b" [" not in line for line in lines)
    print(f"\nLive, {asked / seconds:,.0f} requests/s for {seconds} s: {asked:,} answered, {shown:,} shown whole")
    print(messages.decode() or "no packet dropped by the kernel")


def run(command, exchanges):
    """Run a program, and measure its CPU time, because other programs use the machine, too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (
        open(os.devnull, "wb") as null,
        subprocess.Popen([str(word) for word in command], stdout=null, stderr=null) as child,
    ):
        os.sched_setaffinity(child.pid, {MEASURED_CPU})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Result(exchanges / used_s, child.returncode)


def peak_mb(path):
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(subprocess.check_output([sys.executable, "-c", code, *map(str, [*OURS, path])])) / 1024


def compare_capture(path, exchanges, rounds):
    fields = ["http.request.method", "http.request.full_uri", "http.response.code"]
    runs = {
        "http_analyzer.py": [*OURS, path],
        "http_analyzer.py --json": [*OURS, path, "--json"],
        "tshark": [
            "tshark",
            "-r",
            path,
            "-Y",
            "http",
            "-T",
            "fields",
            *(word for field in fields for word in ("-e", field)),
        ],
        "httpry": ["httpry", "-r", path, "-o", path.with_suffix(".httpry"), "tcp"],
    }
    runs = {
        name: functools.partial(run, command, exchanges) for name, command in runs.items() if shutil.which(command[0])
    }
    size = f"{exchanges:,} exchanges, {path.stat().st_size / 1e6:,.0f} MB"
    print_rates(f"A capture of {size}", "exchanges/s of CPU time", compare(runs, rounds), "http_analyzer.py")
    print(f"\nMemory at most: {peak_mb(path):.0f} MB")


def main():
    args = start_benchmark(__doc__, rounds=3, peer="the client")
    folder = build_directory()
    for count in EXCHANGES:
        path = folder / f"{count}.pcap"
        http_capture.write_capture(path, max(int(count * args.scale), 100))
        compare_capture(path, max(int(count * args.scale), 100), args.rounds)
        if count == EXCHANGES[0]:
            small = folder / "small.pcap"
            command = ["tcpdump", "-r", path, "-c", str(TUTORIAL_FRAMES), "-w", small]
            subprocess.run(command, check=True, capture_output=True)
            few = subprocess.check_output([*OURS, small]).count(b"GET ")
            print(f"The tutorial's loop: {run([*TUTORIAL, small], few).rate:,.0f} requests/s of CPU time")
        path.unlink()
    for connections in (1, 100):
        path = folder / "downloads.pcap"
        frames = make_downloads(path, connections, int(DOWNLOAD_BYTES * args.scale))
        rate = run([*OURS, path], frames)
        print(f"{connections} downloads: {rate.rate:,.0f} frames/s of CPU time, {peak_mb(path):.0f} MB")
        path.unlink()
    enter_namespace()
    os.sched_setaffinity(0, CPUS)
    watch_live(folder, LIVE_S if args.scale == 1 else 1)


if __name__ == "__main__":
    main()
