"""What the README says of outgrowing the scripts: its programs run as they stand there, where their library is."""

import collections
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT, TIME_LIMIT_S
from test_http_analyzer import OK, Wire, save

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = re.search(r"^## When you outgrow it\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL).group(1)
CAPTURES = [  # of each capture, the exchanges: host, status, seconds
    [("a.example", 200, 0.1), ("b.example", 200, 0.2), ("a.example", 404, 0.3)],
    [("b.example", 500, 3.0), ("a.example", 200, 0.4)],
    [("a.example", 200, 2.0)],
]
EXCHANGES = [exchange for capture in CAPTURES for exchange in capture]


def example(text, section=SECTION, kind="python"):
    """The one example that contains `text`."""
    (found,) = (block for block in re.findall(rf"(?ms)^```{kind}\n(.*?)^```$", section) if text in block)
    return found


def needs(module, install="pip install -r requirements-dev.txt"):
    pytest.importorskip(module, reason=f"needs {module}: {install}")


@pytest.fixture
def folder(tmp_path):
    """The captures, and the one script that works on them."""
    (tmp_path / "captures").mkdir()
    for number, exchanges in enumerate(CAPTURES):
        wire = Wire().open()
        for host, status, duration_s in exchanges:
            wire.send(0, b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
            wire.time += duration_s - 0.001  # each packet is a millisecond after the one before
            wire.send(1, OK % status)
        save(tmp_path / "captures" / f"{number}.pcap", wire.close().frames)
    shutil.copy(ROOT / "http_analyzer.py", tmp_path)
    return tmp_path


def printed(code, folder, **environment):
    """The words of each line that a program prints, run in `folder`."""
    assert len([line for line in code.splitlines() if line]) < 10
    (folder / "example.py").write_text(code)
    command, environment = [sys.executable, "example.py"], os.environ | environment
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [line.split() for line in run.stdout.splitlines()]


def assert_counts_of_hosts_and_statuses(lines):
    expected = collections.Counter((host, str(status)) for host, status, _ in EXCHANGES)
    assert sorted(lines) == sorted([*key, str(count)] for key, count in expected.items())


def test_dask_counts_the_exchanges_of_many_captures(folder):
    needs("dask.bag")
    assert_counts_of_hosts_and_statuses(printed(example("import dask"), folder))


def test_pyspark_counts_the_exchanges_of_many_captures(folder):
    needs("pyspark", "pip install pyspark")
    if not shutil.which("java") and "JAVA_HOME" not in os.environ:
        pytest.skip("needs Java, on Debian: apt-get install default-jre-headless")
    if hasattr(signal, "alarm"):
        signal.alarm(4 * TIME_LIMIT_S)  # a virtual machine has to start first
    # Its workers are this Python, and nothing but loopback is needed.
    settings = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    assert_counts_of_hosts_and_statuses(printed(example("import SparkSession"), folder, **settings))


def test_duckdb_asks_the_json_lines(folder):
    needs("duckdb")
    command = example("http.jsonl", kind="text").removeprefix("$ python3 ")
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, cwd=folder, check=True)
    expected = []
    for name in ("b.example", "a.example"):  # the slower one is first
        durations = [duration_s for host, _, duration_s in EXCHANGES if host == name]
        p99_s = statistics.quantiles(durations, n=100, method="inclusive")[-1]
        expected.append([name, str(len(durations)), pytest.approx(p99_s, abs=1e-4)])
    assert [[host, count, float(p99_s)] for host, count, p99_s in printed(example("duckdb"), folder)] == expected
