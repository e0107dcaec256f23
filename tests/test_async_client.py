"""async_client.py over real sockets: one exchange, many at once, and peers that do not play along."""

import asyncio
import collections
import contextlib
import errno
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import (
    CABLE,
    ROOT,
    free_port,
    in_namespace,
    needs_ipv6,
    only_error,
    process_status,
    reset,
    resolve_to,
    wait_for_route,
)

import async_client
from async_client import exchange
from tcp_server import Echo, Greeter, TCPServer

TEN_LINES = "tests/ten_lines/async_client.py"
HELLO = b"Hello, World!"
PATIENCE_S = 10
KEYS = {"succeeded", "failed", "failures", "seconds", "connections_per_second", "messages_per_second"}
KEYS |= {"latency_s", "histogram"}


class Peers:
    """Servers of which each connection is a thread that runs handle(sock, turn); `over` is set when the test ends."""

    def __init__(self):
        self.over = threading.Event()
        self.threads, self.listeners = [], []
        self.turns = 0

    def start(self, handle, host="127.0.0.1", port=0, context=None):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1_000)
        self.listeners.append(listener)
        self.spawn(self.accept, listener, handle, context)
        return listener.getsockname()[1]

    def spawn(self, job, *args):
        thread = threading.Thread(target=job, args=args)
        self.threads.append(thread)
        thread.start()

    def accept(self, listener, handle, context):
        with contextlib.suppress(OSError):
            while True:
                sock = listener.accept()[0]
                self.spawn(self.serve, sock, handle, self.turns, context)
                self.turns += 1

    def serve(self, sock, handle, turn, context):
        with sock, contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            sock.settimeout(PATIENCE_S)
            handle(stack.enter_context(context.wrap_socket(sock, server_side=True)) if context else sock, turn)

    def stop_listening(self):
        for listener in self.listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def stall(self, sock, turn):
        self.over.wait(PATIENCE_S)

    def close(self):
        self.over.set()
        self.stop_listening()
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def peers():
    with contextlib.closing(Peers()) as peers:
        yield peers


@pytest.fixture
def call(capsys):
    """call(*ARGUMENTS) runs main() in this process, where a process of its own adds nothing but time."""

    def run(*arguments):
        try:
            status = async_client.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return (status, *capsys.readouterr())

    return run


def read_all(sock):
    return b"".join(iter(lambda: sock.recv(65_536), b""))


def echo(sock, turn=0):
    while data := sock.recv(65_536):
        sock.sendall(data)


def sends(*pieces, pause_s=0.0):
    """A handler that sends these pieces when it has read all."""

    def handle(sock, turn):
        read_all(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
            threading.Event().wait(pause_s)

    return handle


def one_error(result):
    """Return the only line of an error; no reply was printed."""
    error = only_error(result)
    assert "Received" not in result[1]
    assert error[-1] not in ": "
    return error


def numbers(result, status=0):
    """The object that --json prints."""
    assert result[::2] == (status, "")
    assert result[1].count("\n") == 1
    return json.loads(result[1], parse_constant=pytest.fail)


def seconds_of(job):
    started = time.monotonic()
    job()
    return time.monotonic() - started


def test_without_options_it_prints_the_lines_of_the_tutorial(run, serving):
    port = serving(TCPServer(("localhost", 0), Echo)).address[1]
    lines = "Sending: Hello, World!\nReceived: Hello, World!\nClosing the connection\n"
    assert run("async_client.py", "--port", port) == (0, lines, "")


def test_without_options_it_prints_a_greeting(run, serving):
    port = serving(TCPServer(("localhost", 0), lambda: Greeter(b"Good day"))).address[1]
    lines = "Sending: hi\nReceived: Good day\nClosing the connection\n"
    assert run("async_client.py", "--port", port, "--message", "hi") == (0, lines, "")


def test_each_line_is_printed_when_it_happens(script, peers):
    port = peers.start(peers.stall)
    client = script("async_client.py", "--port", port)
    assert client.stdout.readline() == "Sending: Hello, World!\n"
    assert client.poll() is None


def test_a_long_reply_is_printed_completely(call, peers):
    port = peers.start(sends(b"x" * 300_000, b"y"))
    status, out, err = call("--port", port)
    assert (status, err) == (0, "")
    assert f"Received: {'x' * 300_000}y\n" in out


def test_a_reply_in_several_segments_is_one_reply(call, peers):
    pieces = [bytes([byte]) for byte in "caf\u00e9 \u2603".encode()]
    port = peers.start(sends(*pieces, pause_s=0.01))
    assert "Received: caf\u00e9 \u2603\n" in call("--port", port)[1]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[2J\x9b\x00", r"\x1b[2J\x9b\x00"),
        (b"one\r\nClosing the connection\n", r"one\r\nClosing the connection\n"),
        ("\u202e\u2028\u0085".encode(), r"\u202e\u2028\x85"),
        (b"\xff\xfe", r"\xff\xfe"),
    ],
)
def test_control_characters_of_a_reply_are_escaped(call, peers, data, shown):
    port = peers.start(echo)
    received = call("--port", peers.start(sends(data)))[1].splitlines()[1]
    assert received == f"Received: {shown}"
    if b"\0" not in data:
        sent = call("--port", port, "--message", os.fsdecode(data))
        assert sent[1].splitlines()[0].startswith("Sending: ")
        assert sent[1].splitlines()[1:] == [f"Received: {shown}", "Closing the connection"]


def test_a_message_of_any_bytes_arrives_unchanged(call, peers):
    arrived = []
    port = peers.start(lambda sock, turn: arrived.append(read_all(sock)))
    call("--port", port, "--message", os.fsdecode(b"\xff\xc3\xa9\n"))
    assert arrived == [b"\xff\xc3\xa9\n"]


def test_an_endless_reply_is_an_error_at_the_limit(call, peers):
    def flood(sock, turn):
        while True:
            sock.sendall(bytes(1_000_000))

    assert "longer than" in one_error(call("--port", peers.start(flood), "--timeout", 20))


def test_a_server_that_never_answers_is_one_line_and_status_1(run, peers):
    port = peers.start(peers.stall)
    assert "in time" in one_error(run("async_client.py", "--port", port, "--timeout", 0.2))


def test_a_server_that_trickles_does_not_outlive_the_deadline(run, peers):
    port = peers.start(sends(*[b"x"] * 500, pause_s=0.01))
    results = []
    assert seconds_of(lambda: results.append(run("async_client.py", "--port", port, "--timeout", 0.3))) < 2
    status, out, err = results[0]
    assert (status, "in time" in err) == (1, True)
    assert re.search(r"^Received: x+$", out, re.MULTILINE)


def test_a_reply_is_printed_even_if_the_connection_stays_open_until_the_deadline(run, peers):
    def handle(sock, turn):
        sock.sendall(b"early reply\n")
        peers.stall(sock, turn)

    status, out, err = run("async_client.py", "--port", peers.start(handle), "--timeout", 0.3)
    assert (status, err.count("\n"), "in time" in err) == (1, 1, True)
    assert out.endswith("Received: early reply\\n\n")  # and not "Closing the connection"


def test_an_incomplete_reply_is_in_the_exception(peers):
    def handle(sock, turn):
        sock.sendall(b"half")
        peers.stall(sock, turn)

    with pytest.raises(async_client.IncompleteReply) as failure:
        asyncio.run(exchange("127.0.0.1", peers.start(handle), HELLO, timeout_s=0.3))
    assert failure.value.received == b"half"
    assert isinstance(failure.value.__cause__, TimeoutError)


def closing_on_eof(answers_after_s):
    """A handler that answers, unless the client ends its input before that, as Node.js's net server does."""

    def handle(sock, turn):
        assert sock.recv(100) == HELLO
        if not select.select([sock], [], [], answers_after_s)[0]:
            sock.sendall(b"the answer")

    return handle


def test_no_shutdown_keeps_the_sending_side_open(run, peers):
    port = peers.start(closing_on_eof(0.3))
    status, out, err = run("async_client.py", "--port", port, "--no-shutdown")
    assert (status, err, "Received: the answer\n" in out) == (0, "", True)


def test_an_empty_reply_after_a_half_close_names_no_shutdown(run, peers):
    status, _, err = run("async_client.py", "--port", peers.start(closing_on_eof(PATIENCE_S)))
    assert (status, err.count("\n"), "--no-shutdown" in err) == (0, 1, True)


def test_an_empty_reply_to_an_empty_message_or_without_a_half_close_needs_no_warning(run, peers):
    for options in (["--message", ""], ["--no-shutdown"]):
        status, _, err = run("async_client.py", "--port", peers.start(lambda sock, turn: sock.recv(100)), *options)
        assert (status, err) == (0, "")


def test_json_alone_means_one_connection(run, peers):
    result = numbers(run("async_client.py", "--port", peers.start(echo), "--json"))
    assert (result["connections"], result["succeeded"]) == (1, 1)


def test_long_replies_of_many_connections_do_not_fill_the_memory(script, peers):
    """50 replies of 20 MB are counted, not kept."""

    def handle(sock, turn):
        read_all(sock)
        for _ in range(20):
            sock.sendall(bytes(1_000_000))

    with open(os.devnull, "w") as output:
        process = script(
            "async_client.py", "--port", peers.start(handle), "-n", 50, "-c", 50, "--timeout", 25, stdout=output
        )
        peak = 0
        while process.poll() is None:
            with contextlib.suppress(OSError, KeyError):
                peak = max(peak, int(process_status(process)["VmHWM"][0]))
            time.sleep(0.05)
    assert process.returncode == 0
    assert peak < 150_000


def test_no_free_local_port_is_explained(call, monkeypatch, peers):
    async def fail(*args, **options):
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(asyncio, "open_connection", fail)
    (cause,) = numbers(call("--port", 1, "-n", 3, "--json"), status=1)["failures"]
    assert "no local port or address is free" in cause
    assert "wait a minute" in cause


def test_a_lost_connection_is_explained_without_the_systems_words():
    words = async_client.explain(OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)))
    assert "the server closed it" in words


def test_exchange_runs_on_uvloop(serving):
    uvloop = pytest.importorskip("uvloop", reason="needs uvloop: pip install uvloop")
    port = serving(TCPServer(("localhost", 0), Echo)).address[1]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(exchange("localhost", port, HELLO)) == HELLO


def test_a_reset_is_one_line_and_status_1(run, peers):
    def handle(sock, turn):
        read_all(sock)
        reset(sock)

    assert "reset" in one_error(run("async_client.py", "--port", peers.start(handle)))


def test_a_refused_connection_is_one_line_and_status_1(run):
    assert "refused" in one_error(run("async_client.py", "--port", free_port()))


@needs_ipv6
@pytest.mark.parametrize("more", [[], ["-n", "3", "--json"]], ids=["bare", "load"])
def test_a_connection_that_all_addresses_refuse_is_refused(monkeypatch, capsys, more):
    resolve_to(monkeypatch, "::1", "127.0.0.1")
    assert async_client.main(["--port", str(free_port()), *more]) == 1
    shown = "".join(capsys.readouterr())
    assert "connection refused" in shown
    assert "Multiple" not in shown


@pytest.mark.parametrize("host", ["fe80::1%no-such-interface", "a..b", "x" * 64, ""])
@pytest.mark.parametrize("more", [(), ("--tls",)], ids=["plain", "TLS"])
def test_an_invalid_host_is_one_error_line_and_status_1(call, host, more):
    one_error(call("--host", host, *more))


@pytest.mark.parametrize("host", ["fe80::1%no-such-interface", "a..b"])
def test_an_invalid_host_is_a_cause_in_the_summary(call, host):
    summary = numbers(call("--host", host, "-n", 3, "--json"), status=1)
    assert summary["failed"] == 3
    assert len(summary["failures"]) == 1


def test_exchange_returns_all_that_the_server_sends(peers):
    port = peers.start(sends(HELLO, bytes(1_000_000)))
    assert asyncio.run(exchange("127.0.0.1", port, b"hi")) == HELLO + bytes(1_000_000)


def test_exchange_echoes_a_large_message_whole(peers):
    message = os.urandom(8_000_000)
    assert asyncio.run(exchange("127.0.0.1", peers.start(echo), message)) == message


def test_without_tls_an_echo_is_not_the_end_of_the_reply(peers):
    port = peers.start(sends(b"echo", b"!", pause_s=0.05))
    assert asyncio.run(async_client.exchange("127.0.0.1", port, b"echo")) == b"echo!"


def test_exchange_of_an_empty_message(peers):
    assert asyncio.run(exchange("127.0.0.1", peers.start(echo), b"")) == b""


def test_exchange_raises_the_cause(peers):
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(exchange("127.0.0.1", free_port(), b"hi"))
    with pytest.raises(TimeoutError):
        asyncio.run(exchange("127.0.0.1", peers.start(peers.stall), b"hi", timeout_s=0.1))
    with pytest.raises(socket.gaierror):
        asyncio.run(exchange("fe80::1%no-such-interface", 9, b"hi"))


def test_exchanges_in_one_loop_do_not_wait_for_each_other(peers):
    barrier = threading.Barrier(20)

    def handle(sock, turn):
        barrier.wait(PATIENCE_S)
        echo(sock, turn)

    port = peers.start(handle)

    async def many():
        return await asyncio.gather(*(exchange("127.0.0.1", port, b"%d" % number) for number in range(20)))

    assert asyncio.run(many()) == [b"%d" % number for number in range(20)]


def test_the_number_of_connections_and_the_concurrency_are_kept(call, peers):
    barrier, lock = threading.Barrier(5), threading.Lock()
    active, peaks, messages = set(), [], []

    def handle(sock, turn):
        with lock:
            active.add(turn)
            peaks.append(len(active))
        messages.append(read_all(sock))
        barrier.wait(PATIENCE_S)
        with lock:
            active.remove(turn)
        sock.sendall(b"ok")

    summary = numbers(call("--port", peers.start(handle), "-n", 20, "-c", 5, "--json"))
    assert summary["succeeded"] == 20
    assert messages == [HELLO] * 20
    assert max(peaks) == 5


def test_repeated_messages_use_one_connection_one_after_the_other(call, peers):
    arrived = collections.defaultdict(list)

    def handle(sock, turn):
        while data := sock.recv(65_536):
            arrived[turn].append(data)
            sock.sendall(data)

    port = peers.start(handle)
    summary = numbers(call("--port", port, "-n", 4, "-c", 2, "-r", 25, "--json"))
    assert dict(arrived) == {turn: [HELLO] * 25 for turn in range(4)}
    assert sum(step["messages"] for step in summary["histogram"]) == 100


def test_a_message_over_many_segments_can_be_repeated(call, peers):
    port = peers.start(echo)
    summary = numbers(call("--port", port, "-n", 2, "-r", 5, "--message", "x" * 120_000, "--json"))
    assert summary["succeeded"] == 2


def test_the_summary_as_json_adds_up(call, serving):
    port = serving(TCPServer(("127.0.0.1", 0), Echo)).address[1]
    summary = numbers(call("--port", port, "-n", 40, "-c", 10, "-r", 5, "--json"))
    assert summary.keys() >= KEYS
    assert (summary["succeeded"], summary["failed"], summary["failures"]) == (40, 0, {})
    assert summary["connections_per_second"] * summary["seconds"] == pytest.approx(40)
    assert summary["messages_per_second"] * summary["seconds"] == pytest.approx(200)
    steps, latency = summary["histogram"], summary["latency_s"]
    assert sum(step["messages"] for step in steps) == 200
    assert list(latency) == ["p50", "p90", "p99", "max"]
    assert sorted(latency.values()) == list(latency.values())
    edges = [step["up_to_s"] for step in steps]
    assert edges == sorted(edges)
    assert 0 < latency["max"] <= edges[-1]
    assert steps[0]["messages"] > 0
    assert steps[-1]["messages"] > 0


def test_the_latencies_are_those_of_the_server(call, peers):
    def handle(sock, turn):
        sock.recv(100)  # The latency begins when the message is sent.
        peers.over.wait(0.5 if turn == 0 else 0)
        sends(b"ok")(sock, turn)

    latency = numbers(call("--port", peers.start(handle), "-n", 10, "-c", 1, "--json"))["latency_s"]
    assert latency["p50"] <= latency["p90"] < 0.45 < latency["p99"] == latency["max"] < 5


def test_percentiles_are_by_nearest_rank():
    ordered = [float(number) for number in range(1, 101)]
    assert [async_client.percentile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert async_client.percentile([7.0], 0.5) == 7
    assert async_client.percentile([], 0.5) is None


@pytest.mark.parametrize("latency", [1e-9, 1e-5, 0.02, 1.0, 500.0, 86_400.0])
def test_a_histogram_has_a_finite_step_for_every_latency(latency):
    ((edge, count),) = async_client.histogram([latency])
    assert latency <= edge < float("inf")
    assert count == 1


def test_the_summary_as_text_has_the_numbers_of_json(call, serving):
    port = serving(TCPServer(("127.0.0.1", 0), Echo)).address[1]
    status, out, err = call("--port", port, "-n", 40, "-c", 10, "-r", 5)
    assert (status, err) == (0, "")
    assert "succeeded: 40  failed: 0 " in out
    assert re.search(r"[\d,]+ connections/s, [\d,]+ messages/s\n", out)
    assert re.search(r"latency: p50 [\d.]+ .?s,? +p90 [\d.]+ .?s,? +p99 [\d.]+ .?s,? +max [\d.]+ .?s\n", out)
    steps = re.findall(r"^ +up to +[\d.]+ .?s (█*) (\d+)$", out, re.MULTILINE)
    assert sum(int(count) for _, count in steps) == 200
    longest, most = max(steps, key=lambda step: int(step[1]))
    assert len(longest) == max(len(bar) for bar, _ in steps) > 0
    assert all(bar for bar, count in steps if int(count))
    assert int(most) > 0


def test_failures_are_counted_by_cause(call, peers):
    def handle(sock, turn):
        if turn == 1:
            return peers.stall(sock, turn)
        read_all(sock)
        if turn == 0:
            reset(sock)
        elif turn > 2:
            sock.sendall(b"ok")

    result = call("--port", peers.start(handle), "-n", 8, "-c", 8, "--timeout", 0.6, "--json")
    summary = numbers(result, status=1)
    assert (summary["succeeded"], summary["failed"]) == (5, 3)
    assert sorted(summary["failures"].values()) == [1, 1, 1]
    causes = " | ".join(summary["failures"])
    assert all(word in causes for word in ("reset", "in time", "without a complete reply"))
    assert sum(step["messages"] for step in summary["histogram"]) == 5


def test_resets_right_after_the_handshake_are_failures(call, peers):
    """The connection can have no peer name any more when the client looks at it."""
    port = peers.start(lambda sock, turn: reset(sock))
    summary = numbers(call("--port", port, "-n", 300, "-c", 10, "--repeat", 2, "--json"), status=1)
    assert (summary["succeeded"], summary["failed"]) == (0, 300)


def test_the_summary_as_text_has_the_failures_by_cause(call):
    status, out, err = call("--port", free_port(), "-n", 7)
    assert (status, err) == (1, "")
    assert "succeeded: 0  failed: 7 " in out
    assert re.search(r"^ +7: .*refused", out, re.MULTILINE)
    assert "Traceback" not in out


def test_a_refused_load_has_no_latencies(call):
    summary = numbers(call("--port", free_port(), "-n", 7, "--json"), status=1)
    assert summary["latency_s"] == {"p50": None, "p90": None, "p99": None, "max": None}
    assert summary["histogram"] == []
    ((cause, count),) = summary["failures"].items()
    assert "refused" in cause
    assert count == 7


@pytest.mark.parametrize("greeting", [b"Other, Words!", b"hi", b"x" * 100, HELLO])
def test_repeating_to_a_server_that_does_not_echo_is_a_failure(call, serving, greeting):
    port = serving(TCPServer(("127.0.0.1", 0), lambda: Greeter(greeting))).address[1]
    summary = numbers(call("--port", port, "-n", 3, "-r", 3, "--json"), status=1)
    assert (summary["succeeded"], summary["failed"]) == (0, 3)
    if greeting[1:13] != HELLO[1:] and len(greeting) >= len(HELLO):
        assert "echo" in "".join(summary["failures"])


def test_one_stalled_connection_does_not_lose_the_others(call, peers):
    def handle(sock, turn):
        (peers.stall if turn == 0 else echo)(sock, turn)

    result = call("--port", peers.start(handle), "-n", 20, "-c", 2, "--timeout", 0.6, "--json")
    summary = numbers(result, status=1)
    assert (summary["succeeded"], summary["failed"]) == (19, 1)
    assert summary["latency_s"]["max"] < 0.6


def test_each_connection_has_its_own_deadline(call, peers):
    def handle(sock, turn):
        peers.over.wait(0.15)
        echo(sock, turn)

    result = call("--port", peers.start(handle), "-n", 4, "-c", 1, "--timeout", 0.5, "--json")
    summary = numbers(result)
    assert summary["succeeded"] == 4
    assert summary["seconds"] > 0.5


def test_a_deadline_is_for_all_messages_of_a_connection(call, peers):
    def handle(sock, turn):
        while data := sock.recv(99):
            peers.over.wait(0.1)
            sock.sendall(data)

    result = call("--port", peers.start(handle), "-r", 100, "--timeout", 0.3, "--json")
    summary = numbers(result, status=1)
    assert "in time" in "".join(summary["failures"])
    assert summary["seconds"] < 2


def test_a_server_that_dies_does_not_lose_the_results_so_far(call, peers):
    def handle(sock, turn):
        if turn == 4:
            peers.stop_listening()
        echo(sock, turn)

    summary = numbers(call("--port", peers.start(handle), "-n", 12, "-c", 1, "--json"), status=1)
    assert (summary["succeeded"], summary["failed"]) == (5, 7)
    assert "refused" in "".join(summary["failures"])


def on_terminal(script, *arguments):
    """Run to the end with a terminal for stderr; (status, stdout, what the terminal shows)."""
    terminal, stderr = pty.openpty()
    with open(terminal, "rb", buffering=0) as screen, open(stderr, "wb", buffering=0) as tty:
        status, out, _ = script("async_client.py", *arguments, stderr=tty).finish()
        tty.write(b"END")
        shown = b""
        while not shown.endswith(b"END"):
            shown += screen.read(65_536)
    return status, out, shown.decode()


def test_progress_is_shown_on_a_terminal(script, peers):
    status, out, shown = on_terminal(script, "--port", peers.start(echo), "-n", 5, "--json")
    assert json.loads(out)["succeeded"] == status + 5
    assert shown.endswith("\r5 of 5 connections, 0 failed\r\nEND")


def test_the_last_progress_shown_is_the_end(script, peers):
    _, _, shown = on_terminal(script, "--port", peers.start(echo), "-n", 234)
    assert "234 of 234 connections" in shown


def test_a_single_exchange_shows_no_progress_on_a_terminal(script, peers):
    assert on_terminal(script, "--port", peers.start(echo))[2] == "END"


def interrupted(script, peers, *arguments):
    """Ctrl+C when five exchanges are done and two hang."""
    hanging = threading.Semaphore(0)

    def handle(sock, turn):
        if turn < 5:
            return echo(sock, turn)
        sock.recv(1)  # not before: a connection attempt that is cut off leaves asyncio's socket open
        hanging.release()
        return peers.stall(sock, turn)

    client = script("async_client.py", "--port", peers.start(handle), "-n", 1_000, "-c", 2, *arguments)
    for _ in range(2):
        assert hanging.acquire(timeout=PATIENCE_S)
    return client.finish(signal.SIGINT)


def test_ctrl_c_prints_the_results_so_far_as_json_with_status_130(script, peers):
    summary = numbers(interrupted(script, peers, "--json"), status=130)
    assert (summary["succeeded"], summary["failed"], summary["interrupted"]) == (5, 0, True)
    assert sum(step["messages"] for step in summary["histogram"]) == 5


def test_ctrl_c_prints_the_summary_so_far_as_text(script, peers):
    status, out, err = interrupted(script, peers)
    assert (status, err) == (130, "")
    assert "succeeded: 5  failed: 0 " in out
    assert "interrupted" in out


def test_ctrl_c_ends_a_single_exchange_with_status_130(script, peers):
    waiting = threading.Event()

    def handle(sock, turn):
        sock.recv(1)  # not before: a connection attempt that is cut off leaves asyncio's socket open
        waiting.set()
        peers.stall(sock, turn)

    client = script("async_client.py", "--port", peers.start(handle))
    assert waiting.wait(PATIENCE_S)
    assert client.finish(signal.SIGINT) == (130, "Sending: Hello, World!\n", "")


def test_a_peer_that_never_reads_a_large_message_does_not_hang_it(peers):
    port = peers.start(peers.stall)

    def job():
        with pytest.raises(TimeoutError):
            asyncio.run(exchange("127.0.0.1", port, bytes(32_000_000), timeout_s=0.5))

    assert seconds_of(job) < 3


def test_a_peer_that_answers_without_reading_neither_hangs_nor_loses_the_reply(peers):
    def handle(sock, turn):
        sock.sendall(b"no need to read that")
        sock.shutdown(socket.SHUT_WR)
        peers.stall(sock, turn)

    port = peers.start(handle)
    replies = []
    job = exchange("127.0.0.1", port, bytes(32_000_000), timeout_s=1)
    assert seconds_of(lambda: replies.append(asyncio.run(job))) < 4
    assert replies == [b"no need to read that"]


def under_limit(limit, *arguments):
    """Run under a limit of open files: `-n 80` for both, `-Sn 80` for the soft one."""
    command = shlex.join([sys.executable, "-W", "error", *map(str, arguments)])
    shell = ["sh", "-c", f"ulimit {limit} && exec {command}"]
    done = subprocess.run(shell, capture_output=True, encoding="utf-8", timeout=PATIENCE_S, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("files", [80, 64, 24])
def test_the_concurrency_is_lowered_to_the_file_limit_with_one_warning(peers, files):
    port = peers.start(echo)
    limit = f"-n {files}"
    status, out, err = under_limit(limit, "async_client.py", "--port", port, "-n", 200, "-c", 150, "--json")
    assert (status, json.loads(out)["succeeded"]) == (0, 200)
    assert re.fullmatch(r"async_client\.py: warning: .*concurrency.*\n", err)


def test_the_soft_file_limit_is_raised_first(peers):
    barrier = threading.Barrier(150)

    def handle(sock, turn):
        barrier.wait(PATIENCE_S)
        echo(sock, turn)

    port = peers.start(handle)
    status, out, err = under_limit("-Sn 80", "async_client.py", "--port", port, "-n", 150, "-c", 150, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["succeeded"] == 150


@contextlib.contextmanager
def dead_address(host, port):
    """An address that takes no more connections and refuses none: its backlog is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=0), contextlib.ExitStack() as queue:
        for _ in range(2):
            sock = queue.enter_context(socket.socket(family))
            sock.setblocking(False)
            sock.connect_ex((host, port))
        probe = queue.enter_context(socket.socket(family))
        probe.settimeout(0.1)
        if probe.connect_ex((host, port)) == 0:
            pytest.skip("a full backlog does not hold connections up here")
        yield


TWO_ADDRESSES = [
    ("127.0.0.2", "127.0.0.1"),
    pytest.param("::1", "127.0.0.1", marks=needs_ipv6),
    pytest.param("127.0.0.1", "::1", marks=needs_ipv6),
]


@pytest.mark.parametrize(("dead", "alive"), TWO_ADDRESSES)
def test_a_dead_first_address_costs_a_quarter_of_a_second(peers, monkeypatch, dead, alive):
    port = peers.start(echo, host=alive)
    resolve_to(monkeypatch, dead, alive)
    replies = []
    with dead_address(dead, port):
        job = exchange("localhost", port, HELLO, timeout_s=5)
        assert seconds_of(lambda: replies.append(asyncio.run(job))) < 4
    assert replies == [HELLO]


def test_a_load_pays_for_a_dead_first_address_only_once(peers, monkeypatch, capsys):
    port = peers.start(echo, host="127.0.0.1")
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    with dead_address("127.0.0.2", port):
        assert async_client.main(["--port", str(port), "-n", "30", "-c", "1", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["succeeded"] == 30
    assert summary["seconds"] < 2


@needs_ipv6
def test_a_link_local_address_serves_every_connection(peers, capsys):
    def job():
        wait_for_route("fe80::7%here")
        address = socket.getaddrinfo("fe80::7%here", 0)[0][4]
        with socket.create_server(address, family=socket.AF_INET6) as listener:
            peers.listeners.append(listener)
            peers.spawn(peers.accept, listener, echo, None)
            port = listener.getsockname()[1]
            arguments = ["--host", "fe80::7%here", "--port", str(port), "-n", "4", "-c", "1", "--json"]
            status = async_client.main(arguments)
            peers.stop_listening()
            return status

    status = in_namespace(job, *CABLE, "-6 addr add fe80::7/64 dev here nodad")
    assert json.loads(capsys.readouterr().out)["failures"] == {}
    assert status == 0


@pytest.fixture
def pem(certificate):
    return certificate[0]


@pytest.mark.parametrize("handler", [Echo, Greeter])
@pytest.mark.parametrize("how", ["--ca", "--insecure"])
def test_tls_to_a_trusted_server(run, serving, tls, pem, handler, how):
    port = serving(TCPServer(("localhost", 0), handler, ssl_context=tls)).address[1]
    flags = ("--ca", pem) if how == "--ca" else ("--insecure",)
    lines = "Sending: Hello, World!\nReceived: Hello, World!\nClosing the connection\n"
    assert run("async_client.py", "--port", port, "--tls", *flags) == (0, lines, "")


def test_a_load_over_tls(call, serving, tls, pem):
    port = serving(TCPServer(("localhost", 0), Echo, ssl_context=tls)).address[1]
    flags = ("--tls", "--ca", pem, "-n", 20, "-c", 10, "-r", 5, "--json")
    summary = numbers(call("--port", port, *flags))
    assert summary["succeeded"] == 20
    assert sum(step["messages"] for step in summary["histogram"]) == 100


def test_a_large_message_over_tls_is_echoed_whole(serving, tls, trust):
    port = serving(TCPServer(("localhost", 0), Echo, ssl_context=tls)).address[1]
    message = os.urandom(3_000_000)
    assert asyncio.run(exchange("localhost", port, message, ssl_context=trust)) == message


@pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("127.0.0.1", True)])
def test_a_bad_certificate_is_one_line_and_status_1(run, serving, tls, pem, host, trusted):
    port = serving(TCPServer(("localhost", 0), Echo, ssl_context=tls)).address[1]
    result = run("async_client.py", "--host", host, "--port", port, "--tls", *(("--ca", pem) if trusted else ()))
    assert "certificate" in one_error(result)


def test_a_bad_certificate_is_a_cause_of_failures(call, serving, tls):
    port = serving(TCPServer(("localhost", 0), Echo, ssl_context=tls)).address[1]
    summary = numbers(call("--port", port, "--tls", "-n", 3, "--json"), status=1)
    ((cause, count),) = summary["failures"].items()
    assert "certificate" in cause
    assert count == 3


@pytest.mark.parametrize("content", [None, "no certificate", ""])
def test_an_invalid_ca_file_is_one_error_line_and_status_1(call, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    assert "ca.pem" in one_error(call("--tls", "--ca", path))


def test_tls_to_a_plain_server_is_one_line_and_status_1(run, serving):
    port = serving(TCPServer(("localhost", 0), Greeter)).address[1]
    assert "TLS" in one_error(run("async_client.py", "--port", port, "--tls"))


@pytest.mark.parametrize("more", [(), ("-n", 2, "--json")], ids=["bare", "load"])
def test_a_tls_reply_without_close_notify_is_an_error(run, peers, tls, pem, more):
    """Anyone on the path may have cut it (RFC 8446 section 6.1)."""

    def handle(sock, turn):
        sock.recv(99)
        sock.sendall(b"half of the ans")
        os.close(sock.detach())

    result = run("async_client.py", "--port", peers.start(handle, context=tls), "--tls", "--ca", pem, *more)
    if more:
        assert "close_notify" in " ".join(numbers(result, status=1)["failures"])
    else:
        assert result[0] == 1
        assert "Received: half of the ans\n" in result[1]
        assert "close_notify" in result[2]


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("more", [(), ("-n", 2, "--json")], ids=["bare", "load"])
def test_a_handshake_that_the_server_breaks_off_has_a_cause(run, peers, end, more):
    def handle(sock, turn):
        sock.recv(65_536)
        if end == "reset":
            reset(sock)

    result = run("async_client.py", "--port", peers.start(handle), "--tls", *more)
    if more:
        assert all(numbers(result, status=1)["failures"])
    else:
        one_error(result)


def test_a_handshake_that_stalls_ends_in_time(run, peers):
    port = peers.start(peers.stall)
    assert "in time" in one_error(run("async_client.py", "--port", port, "--tls", "--timeout", 0.3))


def test_a_tls_server_without_close_notify_neither_hangs_nor_loses_the_echo(peers, tls, trust, monkeypatch):
    monkeypatch.setattr(async_client, "CLOSE_S", 0.2)

    def handle(sock, turn):
        sock.sendall(sock.recv(99))
        peers.stall(sock, turn)

    port = peers.start(handle, context=tls)
    replies = []
    job = exchange("localhost", port, HELLO, timeout_s=1, ssl_context=trust)
    assert seconds_of(lambda: replies.append(asyncio.run(job))) < 4
    assert replies == [HELLO]


def test_a_load_on_a_tls_server_without_close_notify(call, peers, tls, pem, monkeypatch):
    monkeypatch.setattr(async_client, "CLOSE_S", 0.2)

    def handle(sock, turn):
        sock.sendall(sock.recv(99))
        peers.stall(sock, turn)

    port = peers.start(handle, context=tls)
    flags = ("--tls", "--ca", pem, "-n", 3, "--timeout", 1, "--json")
    assert numbers(call("--port", port, *flags))["succeeded"] == 3


def test_a_tls_server_that_closes_after_its_echo_has_answered(peers, tls, trust):
    def handle(sock, turn):
        sock.recv(99)
        sock.sendall(b"Good day")
        sock.unwrap()

    port = peers.start(handle, context=tls)
    assert asyncio.run(exchange("localhost", port, HELLO, ssl_context=trust)) == b"Good day"


@pytest.mark.parametrize(("name", "length"), [(TEN_LINES, 100), ("async_client.py", 5_000)])
def test_ten_lines_read_100_bytes(script, peers, name, length):
    def handle(sock, turn):
        sock.recv(len(HELLO), socket.MSG_WAITALL)
        sock.sendall(b"x" * 5_000)

    port = peers.start(handle)
    out = script(name, port).finish()[1] if name == TEN_LINES else script(name, "--port", port).finish()[1]
    assert f"Received: {'x' * length}\n" in out


@pytest.mark.parametrize(("name", "ends"), [(TEN_LINES, False), ("async_client.py", True)])
def test_ten_lines_never_finish_sending(script, peers, name, ends):
    ended = []

    def handle(sock, turn):
        message = sock.recv(len(HELLO), socket.MSG_WAITALL)
        sock.settimeout(None if ends else 0.3)
        try:
            ended.append(sock.recv(1) == b"")
        except TimeoutError:
            ended.append(False)
        sock.sendall(message)

    port = peers.start(handle)
    status, out, _ = script(name, port).finish() if name == TEN_LINES else script(name, "--port", port).finish()
    assert status == 0
    assert "Received: Hello, World!\n" in out
    assert ended == [ends]


def test_ten_lines_have_no_deadline(script, peers):
    client = script(TEN_LINES, peers.start(peers.stall))
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(timeout=0.5)
    one_error(script("async_client.py", "--port", peers.start(peers.stall), "--timeout", 0.2).finish())


def test_ten_lines_lose_every_result_when_one_fails(script, peers):
    ended = threading.Event()

    def handle(sock, turn):
        assert ended.wait(PATIENCE_S)
        echo(sock)

    port, dead = peers.start(handle), free_port()
    status, out, err = script(TEN_LINES, port, dead, port).finish()
    ended.set()
    assert status == 1
    assert "Traceback" in err
    assert "Received" not in out


def test_ten_lines_fail_for_want_of_descriptors(peers):
    port = peers.start(echo)
    status, _, err = under_limit("-n 40", TEN_LINES, *[port] * 100)
    assert status == 1
    assert "Too many open files" in err
    status, out, _ = under_limit("-n 40", "async_client.py", "--port", port, "-n", 100, "-c", 100, "--json")
    assert (status, json.loads(out)["succeeded"]) == (0, 100)


def test_a_histogram_counts_up_to_the_edge_and_keeps_the_empty_steps_between():
    counted = async_client.histogram([0.009, 0.02, 0.021, 0.15])
    assert counted == [(0.01, 1), (0.02, 1), (0.05, 1), (0.1, 0), (0.2, 1)]


def test_the_last_reply_of_a_repetition_must_be_the_message_too(call, peers):
    def handle(sock, turn):
        sock.sendall(sock.recv(99))
        sock.recv(99)
        sock.sendall(b"something else")

    summary = numbers(call("--port", peers.start(handle), "-n", 2, "-r", 2, "--json"), status=1)
    assert (summary["succeeded"], summary["failed"]) == (0, 2)
    assert "echo" in "".join(summary["failures"])
