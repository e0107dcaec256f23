#!/usr/bin/env python3
"""Count hosts and statuses in many captures, on all processors: http_analyzer.py with Dask (pip install "dask[bag]").

python3 examples/captures_dask.py captures/*.pcap
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
from http_analyzer import CaptureError, analyze, output_errors, printable


def hosts_and_statuses(path: str) -> list[tuple[str, int]]:
    """Return (host, status) of each exchange in a capture. A damaged capture costs only what cannot be read."""
    pairs: list[tuple[str, int]] = []
    try:
        pairs.extend((exchange.host or "-", exchange.status or 0) for exchange in analyze(path))
    except (CaptureError, OSError) as error:
        print(f"captures_dask.py: warning: {error}", file=sys.stderr, flush=True)
    return pairs


def main() -> int:
    try:
        import dask.bag
    except ImportError:
        sys.exit('captures_dask.py: error: Dask is not installed; pip install "dask[bag]"')
    if not sys.argv[1:]:
        sys.exit("usage: captures_dask.py FILE...")
    pairs = dask.bag.from_sequence(sys.argv[1:], partition_size=1).map(hosts_and_statuses).flatten()
    with output_errors():
        for (host, status), count in sorted(pairs.frequencies().compute(scheduler="processes")):
            print(f"{count:>8,} {status or '-'} {printable(host)}", flush=True)
    return 0


if __name__ == "__main__":  # Each process of Dask imports this file.
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
