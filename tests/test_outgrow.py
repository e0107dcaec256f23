"""The programs in docs/beyond-one-machine.md run as they are printed there, if their libraries are installed."""

import collections
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TIME_LIMIT_S, free_port
from test_http_analyzer import OK, Wire, save

PAGE = (ROOT / "docs" / "beyond-one-machine.md").read_text(encoding="utf-8")
CAPTURES = [  # host, status and seconds of the exchanges in each capture
    [("a.example", 200, 0.1), ("b.example", 200, 0.2), ("a.example", 404, 0.3)],
    [("b.example", 500, 3.0), ("a.example", 200, 0.4)],
    [("a.example", 200, 2.0)],
]
EXCHANGES = [exchange for capture in CAPTURES for exchange in capture]
MORE_THAN_BUFFERS_HOLD_BYTES = 16_000_000  # the kernel's on both sides, and the server's


def example(text, kind="python"):
    """The one example that contains `text`."""
    (block,) = (block for block in re.findall(rf"(?ms)^```{kind}\n(.*?)^```$", PAGE) if text in block)
    return block


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


def test_duckdb_queries_the_json_lines(folder):
    needs("duckdb")
    command = example("http.jsonl", kind="text").removeprefix("$ python3 ")
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, cwd=folder, check=True)
    expected = []
    for name in ("b.example", "a.example"):  # the slower one is first
        durations = [duration_s for host, _, duration_s in EXCHANGES if host == name]
        p99_s = statistics.quantiles(durations, n=100, method="inclusive")[-1]
        expected.append([name, str(len(durations)), pytest.approx(p99_s, abs=1e-4)])
    assert [[host, count, float(p99_s)] for host, count, p99_s in printed(example("duckdb"), folder)] == expected


# The chat


def connected(port):
    """A client of a server that is about to listen."""
    deadline = time.monotonic() + TIME_LIMIT_S
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=TIME_LIMIT_S / 2)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(params=["tcp_server", "asyncio", "twisted"])
def join(request, tmp_path):
    """join(others) is another client of the chat on each of the three loops: (its socket, a file to read from).

    The other members have then received a line from it. At the end, the server has printed no error.
    """
    if request.param == "twisted":
        needs("twisted")
    port = free_port()
    program = tmp_path / "examples" / "chat.py"
    program.parent.mkdir()
    if request.param == "tcp_server":
        code = (ROOT / "examples" / "chat.py").read_text()
    else:
        code = example({"asyncio": "import asyncio", "twisted": "from twisted"}[request.param])
    program.write_text(code.replace("12345", str(port)))
    options = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(subprocess.Popen([sys.executable, program], **options))
        cleanup.callback(server.kill)
        connected(port).close()

        def join(*others):
            client = cleanup.enter_context(connected(port))
            if others:
                client.sendall(b"here\n")
            for _, reader in others:
                assert reader.readline() == chat_line(client, b"here")
            return client, cleanup.enter_context(client.makefile("rb"))

        yield join
        server.terminate()
        assert server.communicate(timeout=TIME_LIMIT_S)[0] in (b"", b"Chat on localhost:%d\n" % port)


def chat_line(client, line):
    return b"%d: %s\n" % (client.getsockname()[1], line)


def test_a_chat_passes_lines_on_to_all_others(join):
    ann, ann_reads = join()
    bob, bob_reads = join((ann, ann_reads))
    _, cat_reads = join((ann, ann_reads), (bob, bob_reads))
    ann.sendall(b"how are y")
    bob.sendall(b"fine\n")
    assert [ann_reads.readline(), cat_reads.readline()] == [chat_line(bob, b"fine")] * 2
    ann.sendall(b"ou?\nwell?\n")
    for reader in (bob_reads, cat_reads):
        assert [reader.readline(), reader.readline()] == [chat_line(ann, b"how are you?"), chat_line(ann, b"well?")]


def test_a_member_who_leaves_disturbs_nobody(join):
    ann, ann_reads = join()
    bob, bob_reads = join((ann, ann_reads))
    cat, cat_reads = join((ann, ann_reads), (bob, bob_reads))
    bob.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # Closing then resets the connection.
    bob_reads.close()
    bob.close()
    ann.sendall(b"still there?\n")
    assert cat_reads.readline() == chat_line(ann, b"still there?")
    cat.sendall(b"yes\n")
    assert ann_reads.readline() == chat_line(cat, b"yes")


def test_a_line_that_is_too_long_ends_its_connection(join):
    ann, ann_reads = join()
    bob, bob_reads = join((ann, ann_reads))
    bob.sendall(b"x" * 3000)
    with contextlib.suppress(ConnectionResetError):
        assert bob_reads.read() == b""
    _, cat_reads = join((ann, ann_reads))
    ann.sendall(b"quiet here\n")
    assert cat_reads.readline() == chat_line(ann, b"quiet here")


def test_a_member_who_does_not_read_is_dropped(join):
    ann, ann_reads = join()
    bob, bob_reads = join((ann, ann_reads))
    deaf, _ = join((ann, ann_reads), (bob, bob_reads))
    line = b"x" * 999
    for _ in range(MORE_THAN_BUFFERS_HOLD_BYTES // 100_000):
        ann.sendall((line + b"\n") * 100)
        for _ in range(100):
            assert bob_reads.readline() == chat_line(ann, line)
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while data := deaf.recv(1 << 20):  # fails after a time if it is still connected
            received += len(data)
    assert received < MORE_THAN_BUFFERS_HOLD_BYTES
    bob.sendall(b"I read\n")
    assert ann_reads.readline() == chat_line(bob, b"I read")
