#!/usr/bin/env python3
"""Log who asks for which names: sniff.py as a module.

sudo .venv/bin/python examples/dns_log.py eth0     log the DNS queries of an interface
python3 examples/dns_log.py -r capture.pcap        log those of a capture file
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
from sniff import CaptureError, Packet, capture, date_and_time, output_errors, printable, read


def queries(packets: Iterator[Packet]) -> Iterator[str]:
    """Yield a line for each DNS query: the time, who asks, and the type and the name."""
    for packet in packets:
        if packet.dport in (53, 5353) and packet.name and packet.info:
            when = date_and_time(round(packet.time * 1e9))  # A capture file may contain any time.
            yield printable(f"{when}{packet.src} {packet.info}")


def main() -> int:
    match sys.argv[1:]:
        case ["-r", path]:
            packets = read(path)
        case [interface]:
            packets = capture(interface, "port 53 or port 5353")
        case _:
            sys.exit("usage: dns_log.py INTERFACE | -r FILE")
    try:
        with contextlib.closing(packets):  # type: ignore[type-var]
            for line in queries(packets):
                with output_errors():
                    print(line, flush=True)
    except ImportError:
        sys.exit("dns_log.py: error: scapy is not installed; pip install scapy")
    except (CaptureError, OSError) as error:
        sys.exit(f"dns_log.py: error: {error}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(0)
