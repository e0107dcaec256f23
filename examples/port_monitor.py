#!/usr/bin/env python3
"""Check TCP services at an interval, and print changes: tcp_client.py inside a program.

python3 examples/port_monitor.py localhost:22 example.org:443          check every 60 seconds
python3 examples/port_monitor.py --once localhost:22 || mail ...       for cron: status 1 if a service is down
"""

import argparse
import pathlib
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
from tcp_client import bounded, connect, explain, output_errors, printable


def service(text: str) -> tuple[str, int]:
    """Return (host, port) from "HOST:PORT"."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def check(address: tuple[str, int], timeout_s: float) -> str:
    """Return "up", or "down" with the cause."""
    try:
        connect(*address, timeout_s, 0.0).close()
    except (OSError, UnicodeError) as error:
        return f"down: {explain(error)}"
    return "up"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check TCP services, and print changes.")
    parser.add_argument("services", nargs="+", type=service, metavar="HOST:PORT")
    parser.add_argument("--once", action="store_true", help="check once; exit status 1 if a service is down")
    seconds = partial(bounded, float, 0.1, 86_400)
    parser.add_argument("--interval", type=seconds, default=60.0, metavar="S", help="seconds between two checks")
    parser.add_argument("--timeout", type=seconds, default=5.0, metavar="S", help="seconds for each connection")
    args = parser.parse_args()
    states = dict.fromkeys(args.services, "")
    with output_errors(), ThreadPoolExecutor(max_workers=16) as pool:
        while True:
            results = pool.map(lambda address: check(address, args.timeout), args.services)
            for address, state in zip(args.services, results, strict=True):
                if state != states[address]:
                    print(printable(f"{time.strftime('%F %T')} {address[0]}:{address[1]} {state}"), flush=True)
                    states[address] = state
            if args.once:
                return int(any(state != "up" for state in states.values()))
            time.sleep(args.interval)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C does not wait for the running checks.
    sys.exit(main())
