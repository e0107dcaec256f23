#!/usr/bin/env python3
# SPDX-License-Identifier: 0BSD
"""Compare udp_server.py with other UDP servers: replies per second to datagrams of 60 bytes."""

import sys

from common import (
    C_PEER,
    HOST,
    KEEP_MEMORY,
    ROOT,
    c_peer,
    compare_servers,
    print_rates,
    python_peer,
    start_benchmark,
)

DATAGRAMS = {1: 50_000, 16: 100_000, 64: 100_000}  # The key is the number of datagrams under way at once.


def main():
    args = start_benchmark(__doc__, rounds=7)
    servers = {
        "udp_server.py": [sys.executable, ROOT / "udp_server.py", "--host", HOST, "--port", "0", "-q"],
        **c_peer("udp"),
        "recvfrom/sendto loop": python_peer("udp-loop"),
        "socketserver.UDPServer": python_peer("udp-socketserver"),
        "asyncio datagrams": python_peer("udp-asyncio"),
        "asyncio datagrams, memory kept": [*KEEP_MEMORY, *python_peer("udp-asyncio")],
    }
    for window, total in DATAGRAMS.items():
        results = compare_servers(servers, args.rounds, "udp", (int(total * args.scale), window))
        title = f"UDP, 60 bytes, {window} under way at once"
        print_rates(title, "replies/s", results, C_PEER)


if __name__ == "__main__":
    main()
