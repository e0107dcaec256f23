#!/usr/bin/env python3
"""Count hosts and statuses in many captures on a cluster: http_analyzer.py with PySpark (pip install pyspark; Java).

python3 examples/captures_spark.py captures/*.pcap
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
import http_analyzer


def hosts_and_statuses(path: str) -> list[tuple[str, int]]:
    """Return (host, status) of each exchange in a capture. A damaged capture costs only what cannot be read."""
    from http_analyzer import CaptureError, analyze  # The worker imports its own copy.

    pairs: list[tuple[str, int]] = []
    try:
        pairs.extend((exchange.host or "-", exchange.status or 0) for exchange in analyze(path))
    except (CaptureError, OSError) as error:
        print(f"captures_spark.py: warning: {error}", file=sys.stderr, flush=True)
    return pairs


def main() -> int:
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        sys.exit("captures_spark.py: error: PySpark is not installed; pip install pyspark")
    if not sys.argv[1:]:
        sys.exit("usage: captures_spark.py FILE...")
    context = SparkSession.builder.getOrCreate().sparkContext
    context.addPyFile(http_analyzer.__file__)  # It sends the script to the workers.
    paths = context.parallelize(sys.argv[1:], len(sys.argv[1:]))
    with http_analyzer.output_errors():
        for (host, status), count in sorted(paths.flatMap(hosts_and_statuses).countByValue().items()):
            print(f"{count:>8,} {status or '-'} {http_analyzer.printable(host)}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
