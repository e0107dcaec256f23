#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Compare sniff.py with the tutorial's scapy loop, tshark and tcpdump: mixed traffic, a file, then live packets.

Needs root, because everything runs on the loopback interface of its own network namespace. With --files, only mixed
traffic is measured, which needs no root.
"""

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import traffic
from common import MEASURED_CPU, ROOT, Result, build_directory, compare, enter_namespace, print_rates, start_benchmark

PACKETS = 300_000
FEWER = 10_000  # for the tutorial's loop, whose rate does not depend on it
LIVE_S, PORT = 4.0, 45_454
RATES = (5_000, 20_000, 50_000, 80_000)
START_S, DRAIN_S = 3.0, 1.0
OURS, LOOP = "sniff.py", "the tutorial's loop"
TUTORIAL = """
import sys
from scapy.all import sniff
source = {"offline": sys.argv[2]} if sys.argv[1] == "-r" else {"iface": sys.argv[2], "filter": sys.argv[3]}
sniff(prn=lambda packet: print(packet.summary(), flush=True), **source)
"""


def programs():
    commands = {
        OURS: [sys.executable, ROOT / "sniff.py"],
        LOOP: [sys.executable, "-c", TUTORIAL],
        "tshark": ["tshark", "-n", "-l"],
        "tcpdump": ["tcpdump", "-nn", "-l", "-Z", "root"],
    }
    return {name: command for name, command in commands.items() if shutil.which(command[0])}


def start(command, **options):
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL, **options)
    os.sched_setaffinity(process.pid, {MEASURED_CPU})
    return process


def talk(server):
    """Serve TCP connections, and echo."""
    while True:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(65_536):
                connection.send(data)


def record(path, count):
    """Let sniff.py write a capture of TCP and UDP over IPv4 and IPv6."""
    writer = start([*programs()[OURS], "-i", "lo", "-c", count, "-w", path])
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=talk, args=[server], daemon=True).start()
    datagrams = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    for sock, host in zip(datagrams, ("127.0.0.1", "::1"), strict=True):
        sock.bind((host, 0))
    while writer.poll() is None:
        with socket.create_connection(server.getsockname()) as client:
            for _ in range(20):
                client.send(b"x" * 100)
                client.recv(65_536)
                for sock in datagrams:
                    sock.sendto(b"y" * 50, sock.getsockname())
                    sock.recv(100)


def read_file(command, path, count):
    command = [word for word in command if word != "-l"]  # The output is not read line by line.
    began = time.perf_counter()
    with start([*command, "-r", path], stdout=subprocess.DEVNULL) as process:
        process.wait()
    return Result(count / (time.perf_counter() - began), process.returncode)


def send(rate, seconds):
    """Send datagrams at a rate, in bursts of a millisecond. Return their number."""
    sent, began = 0, time.perf_counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while (passed := time.perf_counter() - began) < seconds:
            while sent < passed * rate:
                sock.sendto(b"x" * 100, ("127.0.0.1", PORT))
                sent += 1
            time.sleep(0.001)
    return sent


def peak_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def live(name, command, rate, figures):
    """Return how many lines per second a program prints while packets are sent."""
    where = ["live", "lo"] if name == LOOP else ["-i", "lo"]
    with tempfile.TemporaryFile() as output:
        process = start([*command, *where, f"udp dst port {PORT}"], stdout=output)
        time.sleep(START_S)
        sent = send(rate, LIVE_S)
        time.sleep(DRAIN_S)
        peak = peak_mb(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait()
        output.seek(0)
        seen = sum(str(PORT).encode() in line for line in output)
    if name == LOOP:
        seen //= 2  # On loopback, it captures each packet twice: outgoing and incoming.
    figures.setdefault(name, []).append((sent - seen, peak))
    return Result(seen / LIVE_S, 0)


def mixed_traffic(count, rounds):
    """Compare text and JSON with tcpdump, on a capture with names and on one without."""
    for title, plain in (("with names", False), ("without names", True)):
        path = Path(build_directory()) / f"mixed-{count}-{plain}.pcap"
        traffic.write(path, count, plain=plain)
        commands = {name: command for name, command in programs().items() if name in (OURS, "tcpdump")}
        commands[f"{OURS} --json"] = [*commands[OURS], "--json"]
        if "tcpdump" in commands:  # Without TZ, glibc's localtime() calls stat() for each packet.
            commands["tcpdump, TZ=UTC"] = ["env", "TZ=UTC", *commands["tcpdump"]]
        runs = {name: partial(read_file, command, path, count) for name, command in commands.items()}
        print_rates(f"Mixed traffic {title}, {count:,} packets", "packets/s", compare(runs, rounds), "tcpdump")


def main():
    files = ("--files", "only the part with mixed traffic, which needs no root")
    args = start_benchmark(__doc__, rounds=3, peer="what sends", options=[files])
    mixed_traffic(int(PACKETS * args.scale), args.rounds)
    if args.files:
        return
    enter_namespace()
    count = int(PACKETS * args.scale)
    files = {number: Path(build_directory()) / f"{number}.pcap" for number in (count, FEWER)}
    for number, path in files.items():
        record(path, number)
    sizes = {name: FEWER if name == LOOP else count for name in programs()}
    runs = {name: partial(read_file, command, files[sizes[name]], sizes[name]) for name, command in programs().items()}
    print_rates(f"A file of {count:,} packets", "packets/s", compare(runs, args.rounds), LOOP)
    for rate in RATES:
        figures = {}
        runs = {name: partial(live, name, command, rate, figures) for name, command in programs().items()}
        print_rates(f"Live, {rate:,} packets/s for {LIVE_S:g} s", "packets seen/s", compare(runs, args.rounds), LOOP)
        for name, numbers in figures.items():
            missed, peak = (statistics.median(values) for values in zip(*numbers, strict=True))
            print(f"{name}: {missed:,.0f} packets without a line, {peak:.0f} MB")


if __name__ == "__main__":
    main()
