#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Compare http_analyzer.py with tshark, httpry and the tutorial's loop: exchanges a second, of one capture.

The capture is made on loopback, of nginx and wrk where they are installed, else of Python's own. It needs root: for
tcpdump, and for a network of its own, in which frames are as long as Ethernet's; loopback's are of up to 64 KiB.
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

EXCHANGES = 160_000
FRAMES = 5.5  # of an exchange
PAGE = "<p>A paragraph of a page, as long as many are on the web, and then some more.</p>\n" * 50  # 4 kB
OURS = [sys.executable, ROOT / "http_analyzer.py", "-r"]
TUTORIAL = [sys.executable, ROOT / "tests" / "ten_lines" / "http_analyzer.py"]
TUTORIAL_SHARE = 100  # it is that slow: its capture is so much smaller
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
        time.sleep(1.5)  # what tcpdump has not written yet
        process.terminate()


def serve(folder, port, rate=None):
    """With a rate, no more than so many requests a second, if it is nginx."""
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
    """Ask for so long, or until tcpdump has enough; how often."""
    if shutil.which("wrk"):
        command = ["wrk", "-t1", "-c16", f"-d{seconds}s", f"http://{HOST}:{port}/index.html"]
        return int(re.search(rb"(\d+) requests in", subprocess.check_output(command))[1])
    client, deadline, count = http.client.HTTPConnection(HOST, port), time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        client.request("GET", "/index.html")
        client.getresponse().read()
        count += 1
    return count


def make_capture(folder, scale):
    port, path = free_port(), folder / "all.pcap"
    packets = int(EXCHANGES * FRAMES * scale)
    dump = ["tcpdump", "-i", "lo", "-B", "262144", "-c", packets, "-Z", "root", "-w", path, "tcp", "port", port]
    with serve(folder, port), running(*dump):
        time.sleep(1.5)
        ask(port, 8 if shutil.which("wrk") else 80)
    return path


def watch_live(folder, seconds):
    """What it shows of what is asked and answered meanwhile."""
    port = free_port()
    command = [sys.executable, ROOT / "http_analyzer.py", "-i", "lo", "tcp", "port", str(port)]
    with (
        serve(folder, port, LIVE_RATE),
        open(folder / "live", "w+b") as lines,
        subprocess.Popen(command, stdout=lines, stderr=subprocess.PIPE) as analyzer,
    ):
        analyzer.stderr.readline()  # it listens
        asked = ask(port, seconds)
        time.sleep(1)
        analyzer.send_signal(signal.SIGINT)
        _, said = analyzer.communicate()
        lines.seek(0)
        shown = sum(line.rstrip().endswith(b" ms") and b" 200 " in line for line in lines)
    print(f"\nLive, {asked / seconds:,.0f} requests/s for {seconds} s: {asked:,} answered, {shown:,} shown whole")
    print(said.decode() or "no packet dropped by the kernel")


def run(command, exchanges):
    """The CPU time is what counts: others use the machine, too."""
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


def main():
    args = start_benchmark(__doc__, rounds=3, peer="what asks")
    enter_namespace()
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500", "gso_max_segs", "1"], check=True)
    os.sched_setaffinity(0, CPUS)  # what makes the capture, and --jobs, may have them all
    folder = build_directory()
    path = make_capture(folder, args.scale)
    found = subprocess.run([*OURS, path, "--json"], capture_output=True, text=True, check=False).stdout
    exchanges = found.count('"problems": []')
    small = folder / "small.pcap"
    frames = path.stat().st_size // 500 // TUTORIAL_SHARE
    subprocess.run(["tcpdump", "-r", path, "-c", str(frames), "-w", small], check=True, capture_output=True)
    few = subprocess.check_output([*OURS, small]).count(b" 200 ")
    runs = {
        "http_analyzer.py": ([*OURS, path], exchanges),
        "http_analyzer.py --json": ([*OURS, path, "--json"], exchanges),
        "tshark": (
            ["tshark", "-r", path, "-Y", "http.request", "-T", "fields", "-e", "http.request.full_uri"],
            exchanges,
        ),
        "httpry": (["httpry", "-r", path, "-o", folder / "httpry", "tcp"], exchanges),
        "the tutorial's loop": ([*TUTORIAL, small], few),
    }
    runs = {name: functools.partial(run, *each) for name, each in runs.items() if shutil.which(each[0][0])}
    size = f"{exchanges:,} exchanges, {path.stat().st_size / 1e6:,.0f} MB"
    print_rates(f"A capture of {size}", "exchanges/s of CPU time", compare(runs, args.rounds), "http_analyzer.py")
    print(f"\nMemory at most: {peak_mb(path):.0f} MB; of a hundredth of the capture: {peak_mb(small):.0f} MB")
    for jobs in (1, 2):
        started = time.monotonic()
        subprocess.run([*OURS, path, path, "--jobs", str(jobs)], stdout=subprocess.DEVNULL, check=True)
        print(f"Two files, --jobs {jobs}: {time.monotonic() - started:.1f} s")
    watch_live(folder, LIVE_S if args.scale == 1 else 1)


if __name__ == "__main__":
    main()
