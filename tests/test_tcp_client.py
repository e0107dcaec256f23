"""tcp_client.py as a process and as a module, against servers that each test scripts."""

import contextlib
import functools
import hashlib
import os
import queue
import select
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest
from conftest import FREE_PORT, free_port, needs_ipv6, reset, resolve_to

import tcp_client
from tcp_client import ReceiveError, receive, stream
from tcp_server import Echo, Greeter, TCPServer

resource = pytest.importorskip("resource", reason="limits and signals are POSIX's")

WAIT_S = 10.0  # for what must happen; no test waits so long unless it fails
MIB = 1_048_576
TEN_LINES = "tests/ten_lines/tcp_client.py"


@pytest.fixture
def server_with():
    """server_with(handler) returns the port of a server that calls handler(connection) for its first client."""
    with contextlib.ExitStack() as cleanup:

        def start(handler):
            listener = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(WAIT_S)
            thread = threading.Thread(target=handle_one, args=(listener, handler))
            thread.start()
            cleanup.callback(thread.join, WAIT_S)
            cleanup.callback(listener.shutdown, socket.SHUT_RDWR)
            return listener.getsockname()[1]

        yield start


def handle_one(listener, handler):
    try:
        connection, _ = listener.accept()
    except OSError:
        return  # the test ended without a client
    with connection:
        connection.settimeout(WAIT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handler(connection)


def sending(*pieces):
    """Return a handler that sends each piece in its own segment and waits for the client to close."""

    def handler(connection):
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        receive_all(connection)

    return handler


def receive_all(connection):
    """Return everything that the client sends until it closes."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            received += data
    return bytes(received)


def read_exactly(pipe, length):
    data = b""
    while len(data) < length:
        piece = os.read(pipe.fileno(), length - len(data))
        assert piece, f"the output ended after {len(data)} of {length} bytes"
        data += piece
    return data


@pytest.fixture
def call(capsys):
    """call(*ARGUMENTS) runs main() in this process; returns what the fixture run does."""

    def call(*arguments):
        return tcp_client.main([str(argument) for argument in arguments]), *capsys.readouterr()

    return call


def end_input(client):
    """Close the client's standard input; communicate() would close it once more."""
    with contextlib.suppress(BrokenPipeError):
        client.stdin.close()
    client.stdin = None


def type_letters(client, letters, arrived, pause_s):
    """Write letters to the client's standard input, with a pause after each has arrived. The client must not end."""
    for letter in letters:
        client.stdin.write(letter)
        client.stdin.flush()
        assert arrived.get(timeout=WAIT_S) == letter.encode()
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(pause_s)


@pytest.fixture
def echo(serving):
    return serving(TCPServer(("127.0.0.1", 0), Echo)).address[1]


@pytest.fixture
def tls_echo(serving, tls):
    return serving(TCPServer(("127.0.0.1", 0), Echo, ssl_context=tls)).address[1]


@pytest.fixture
def noise(tmp_path):
    """A file of 8 MiB, more than the buffers between two processes hold."""
    path = tmp_path / "noise"
    path.write_bytes(os.urandom(8 * MIB))
    return path


# Text


def test_without_options_it_connects_to_localhost_12345():
    args = tcp_client.parse_args([])
    assert (args.host, args.port, args.timeout, args.wait) == ("localhost", 12345, 10, 0)


def test_it_prints_what_the_server_sends(run, server_with):
    port = server_with(sending(b"Hello, World!"))
    assert run("tcp_client.py", "--port", port) == (0, "Received: Hello, World!\n", "")


def test_it_prints_the_greeting_of_tcp_server(script, run):
    server = script("tcp_server.py", *FREE_PORT, "--once", "-q")
    _, port = server.wait_until_listening()
    assert run("tcp_client.py", "--port", port) == (0, "Received: Hello, World!\n", "")
    assert server.finish() == (0, "", "")


def test_an_empty_answer_is_printed_as_an_empty_line(run, server_with):
    code, out, err = run("tcp_client.py", "--port", server_with(sending()))
    assert (code, out.strip(), err) == (0, "Received:", "")


def one_by_one(data):
    """Return a handler that sends each byte in its own segment, after the previous byte has arrived."""

    def handler(connection):
        for number in data:
            connection.sendall(bytes([number]))
            while struct.unpack("I", connection_info(connection))[0]:
                select.select([], [], [], 0.001)
        connection.shutdown(socket.SHUT_WR)
        receive_all(connection)

    return handler


def connection_info(connection):
    """TIOCOUTQ: how many bytes the other side has not acknowledged."""
    import fcntl
    import termios

    return fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0")


def test_utf_8_that_arrives_byte_by_byte_is_not_broken(run, server_with):
    text = "Grüße, 世界, 🌍"
    port = server_with(one_by_one(text.encode()))
    assert run("tcp_client.py", "--port", port) == (0, f"Received: {text}\n", "")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"caf\xe9", r"caf\xe9"),
        (b"cut \xf0\x9f\x8c", r"cut \xf0\x9f\x8c"),
        (b"\xed\xa0\x80 surrogate", r"\xed\xa0\x80 surrogate"),
        (b"\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        (b"one\rtwo\ttab\0nul\x7fdel", r"one\rtwo\ttab\x00nul\x7fdel"),
        ("c1 \x9b31m, \u2028line, \u202ebidi".encode(), r"c1 \x9b31m, \u2028line, \u202ebidi"),
        (b"Received: forged\x85\x0bReceived: line", r"Received: forged\x85\x0bReceived: line"),
        ("\ufeff\ufdd0\uffff\U0010ffff".encode(), r"\ufeff\ufdd0\uffff\U0010ffff"),
        ("a\u00a0b\u3000c\u200bd".encode(), "a\u00a0b\u3000c\u200bd"),
        (
            "\u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f4bb".encode(),
            "\u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f4bb",
        ),
    ],
)
def test_bytes_that_are_not_text_are_escaped(call, server_with, data, shown):
    assert call("--port", server_with(sending(data))) == (0, f"Received: {shown}\n", "")


# Lines as they arrive


def next_line(client):
    return client.stdout.readline()


def test_each_line_is_printed_as_soon_as_it_is_complete(script, server_with):
    step = [threading.Event() for _ in range(3)]

    def handler(connection):
        for event, data in zip(step, (b"one\ntw", b"o\r\nth", b"ree"), strict=True):
            connection.sendall(data)
            assert event.wait(WAIT_S)

    client = script("tcp_client.py", "--port", server_with(handler))
    for event, line in zip(step, ("one", "two"), strict=False):
        assert next_line(client) == f"Received: {line}\n"
        event.set()
    step[2].set()
    assert client.finish() == (0, "Received: three\n", "")


def test_an_empty_line_and_the_end_of_a_line_at_the_end_add_nothing(call, server_with):
    assert call("--port", server_with(sending(b"\none\n")))[1] == "Received: \nReceived: one\n"


def test_a_character_is_not_broken_by_a_pause_between_its_bytes(script, server_with):
    seen = threading.Event()

    def handler(connection):
        connection.sendall(b"start\ncaf\xc3")
        assert seen.wait(WAIT_S)
        connection.sendall(b"\xa9\n")

    client = script("tcp_client.py", "--port", server_with(handler))
    assert next_line(client) == "Received: start\n"
    seen.set()
    assert client.finish() == (0, "Received: café\n", "")


def test_ctrl_c_prints_the_incomplete_line(script, server_with):
    gone = threading.Event()

    def handler(connection):
        connection.sendall(b"first\nincompl")
        assert gone.wait(WAIT_S)

    client = script("tcp_client.py", "--port", server_with(handler))
    assert next_line(client) == "Received: first\n"
    status = interrupt(client)
    gone.set()
    assert (status, client.stdout.read()) == (130, "Received: incompl\n")


# The end of the input


def closing_on_eof(answers_after_s):
    """Return a handler that answers a question, unless the client has ended its input, as Node.js's net server does."""

    def handler(connection):
        assert connection.recv(100) == b"question\n"
        if not select.select([connection], [], [], answers_after_s)[0]:
            connection.sendall(b"the answer\n")

    return handler


def test_without_an_answer_after_a_half_close_a_warning_names_no_shutdown(run, server_with):
    status, out, err = run("tcp_client.py", "--port", server_with(closing_on_eof(WAIT_S)), "--send", "question\n")
    assert (status, out, err.count("\n")) == (0, "Received: \n", 1)
    assert err.startswith("tcp_client.py: warning: ")
    assert "--no-shutdown" in err


@pytest.mark.parametrize("source", ["text", "stdin"])
def test_no_shutdown_keeps_the_sending_side_open(script, server_with, source):
    text, stdin = ("question\n", subprocess.DEVNULL) if source == "text" else ("-", subprocess.PIPE)
    client = script(
        "tcp_client.py", "--port", server_with(closing_on_eof(0.3)), "--no-shutdown", "--send", text, stdin=stdin
    )
    if source == "stdin":
        client.stdin.write("question\n")
        end_input(client)
    assert client.finish() == (0, "Received: the answer\n", "")


def test_an_empty_answer_to_nothing_needs_no_warning(run, server_with):
    assert run("tcp_client.py", "--port", server_with(sending()), "--send", "") == (0, "Received: \n", "")


# Where the server is


@pytest.mark.parametrize(
    "words",
    [
        ["{host}", "{port}"],
        ["{host}", "-p", "{port}"],
        ["-p", "{port}", "{host}"],
        ["{host}", "--timeout", "5", "{port}"],
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", *(pytest.param(host, marks=needs_ipv6) for host in ("::1", "[::1]"))])
def test_host_and_port_are_positional_as_for_nc(call, host, words):
    with socket.create_server(
        (host.strip("[]"), 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    ) as listener:
        thread = threading.Thread(target=handle_one, args=(listener, sending(b"hi\n")))
        thread.start()
        words = [word.format(host=host, port=listener.getsockname()[1]) for word in words]
        assert call(*words) == (0, "Received: hi\n", "")
        thread.join(WAIT_S)


def test_a_host_alone_means_port_12345():
    assert tcp_client.parse_args(["example.org"]).host == "example.org"
    assert tcp_client.parse_args(["example.org"]).port == 12345


def test_a_dead_address_costs_a_quarter_of_a_second(monkeypatch, server_with, full_listener):
    """Happy Eyeballs: the second address is tried while the first one is silent (RFC 8305 section 5)."""
    port = server_with(sending(b"Hello"))
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", number)) for number in (full_listener, port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: addresses)
    began = time.monotonic()
    assert receive("localhost", port, timeout_s=20) == b"Hello"
    assert 0.2 < time.monotonic() - began < 2


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_errors_a_refused_connection_is_reported(order):
    refused, without_scope = (socket.AF_INET, ("127.0.0.1", free_port())), (socket.AF_INET6, ("fe80::1", 9))
    addresses = [(family, socket.SOCK_STREAM, 0, "", target) for family, target in (refused, without_scope)][::order]
    with pytest.raises(ConnectionRefusedError):
        tcp_client.connect_first(addresses, 5)


def test_ipv6_and_ipv4_addresses_take_turns(monkeypatch):
    """RFC 8305 section 4."""
    six, four = socket.AF_INET6, socket.AF_INET
    addresses = [
        (family, 1, 0, "", name) for family, name in ((six, "a"), (six, "b"), (six, "c"), (four, "d"), (four, "e"))
    ]
    tried = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: addresses)
    monkeypatch.setattr(tcp_client, "connect_first", lambda entries, _: tried.extend(entry[4] for entry in entries))
    tcp_client.connect("localhost", 1, 1.0, 0.0)
    assert tried == ["a", "d", "b", "e", "c"]


@pytest.mark.parametrize(("code", "words"), [(socket.EAI_AGAIN, "try again"), (socket.EAI_NONAME, "spelling")])
def test_a_failure_of_the_lookup_is_not_an_unknown_name(call, monkeypatch, code, words):
    def fail(*args, **options):
        raise socket.gaierror(code, "the resolver's words")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert_fails(call("example.org", 80), words)


# How much


def test_an_answer_of_exactly_max_bytes_is_complete(call, server_with):
    port = server_with(sending(b"12345", b"67890"))
    assert call("--port", port, "--max-bytes", 10) == (0, "Received: 1234567890\n", "")


@pytest.mark.parametrize("pieces", [[b"1234567890!"], [b"12345", b"67890", b"!"]])
def test_an_answer_longer_than_max_bytes_is_cut_and_an_error(call, server_with, pieces):
    code, out, err = call("--port", server_with(sending(*pieces)), "--max-bytes", 10)
    assert (code, out) == (1, "Received: 1234567890\n")
    assert err.startswith("tcp_client.py: error: ")
    assert "longer than 10 bytes (--max-bytes)" in err
    assert err.count("\n") == 1


def test_an_endless_answer_ends_after_one_mebibyte(run, server_with):
    def talk_on(connection):
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(b"x" * 65_536)

    code, out, err = run("tcp_client.py", "--port", server_with(talk_on))
    assert (code, len(out)) == (1, len("Received: \n") + MIB)
    assert "longer than 1,048,576 bytes (--max-bytes)" in err


def test_max_bytes_applies_to_raw(run, server_with):
    code, out, err = run("tcp_client.py", "--port", server_with(sending(b"1234567890!")), "--raw", "--max-bytes", 10)
    assert (code, out) == (1, "1234567890")
    assert "longer than 10 bytes" in err


# Raw


def raw_client(script, port, *arguments, **options):
    """A --raw client, its output to be read as bytes."""
    return script("tcp_client.py", "--port", port, "--raw", *arguments, **options)


def test_raw_copies_every_byte_unchanged(script, server_with):
    data = bytes(range(256)) * 10_000
    client = raw_client(script, server_with(sending(data)))
    assert client.stdout.buffer.read() == data
    assert client.finish()[::2] == (0, "")


def test_raw_has_no_default_limit(script, server_with):
    data = os.urandom(3 * MIB)
    client = raw_client(script, server_with(sending(data)))
    assert hashlib.sha256(client.stdout.buffer.read()).digest() == hashlib.sha256(data).digest()
    assert client.finish()[::2] == (0, "")


def test_raw_writes_the_first_bytes_before_the_server_closes(script, server_with):
    seen = threading.Event()

    def handler(connection):
        connection.sendall(b"first")
        assert seen.wait(WAIT_S)
        connection.sendall(b"second")

    client = raw_client(script, server_with(handler))
    assert read_exactly(client.stdout, 5) == b"first"
    seen.set()
    assert client.stdout.buffer.read() == b"second"
    assert client.finish()[::2] == (0, "")


# Sending


@pytest.mark.parametrize("text", ["hello", "", "Grüße\n", "-n", "\udcff\udcfe"])
def test_send_sends_the_text_and_half_closes(run, server_with, text):
    received = []

    def handler(connection):
        received.append(receive_all(connection))
        connection.sendall(b"received")

    assert run("tcp_client.py", "--port", server_with(handler), f"--send={text}") == (0, "Received: received\n", "")
    assert received == [os.fsencode(text)]


def test_send_minus_sends_standard_input_as_it_arrives(script, echo):
    client = raw_client(script, echo, "--send", "-", stdin=subprocess.PIPE)
    for line in "one\n", "two\n":
        client.stdin.write(line)
        client.stdin.flush()
        assert read_exactly(client.stdout, 4) == line.encode()
    end_input(client)
    assert client.stdout.buffer.read() == b""
    assert client.finish()[::2] == (0, "")


def test_eight_mebibytes_through_an_echo_server_do_not_deadlock(script, echo, noise):
    with noise.open() as source:
        client = raw_client(script, echo, "--send", "-", stdin=source)
    assert client.stdout.buffer.read() == noise.read_bytes()
    assert client.finish()[::2] == (0, "")


def test_eight_mebibytes_through_a_tls_echo_server_do_not_deadlock(script, tls_echo, noise, certificate):
    with noise.open() as source:
        client = raw_client(script, tls_echo, "--tls", "--ca", certificate[0], "--send", "-", stdin=source)
    assert client.stdout.buffer.read() == noise.read_bytes()
    assert client.finish()[::2] == (0, "")


def test_a_large_echo_is_cut_at_max_bytes_as_text(script, echo, noise):
    with noise.open() as source:
        client = script("tcp_client.py", "--port", echo, "--send", "-", "--max-bytes", 200_000, stdin=source)
    code, out, err = client.finish()
    assert (code, err.count("\n")) == (1, 1)
    assert out.startswith("Received: ")


def test_waiting_for_standard_input_is_not_silence_of_the_server(script, echo):
    client = raw_client(script, echo, "--send", "-", "--timeout", 0.2, stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(0.5)
    client.stdin.write("late")
    end_input(client)
    assert client.stdout.buffer.read() == b"late"
    assert client.finish()[::2] == (0, "")


def test_the_silence_counts_from_the_last_byte_sent(script, server_with):
    """The server takes half of the timeout to answer. All pauses together are longer than the timeout."""
    arrived = queue.Queue()

    def handler(connection):
        for expected in (b"a", b"b", b""):
            assert connection.recv(100) == expected
            arrived.put(expected)
        threading.Event().wait(0.5)
        connection.sendall(b"answer")

    client = raw_client(script, server_with(handler), "--send", "-", "--timeout", 1.2, stdin=subprocess.PIPE)
    type_letters(client, "ab", arrived, 0.45)
    end_input(client)
    assert client.stdout.buffer.read() == b"answer"
    assert client.finish()[::2] == (0, "")


def test_the_server_may_close_before_standard_input_ends(script, server_with):
    def handler(connection):
        connection.sendall(b"bye")

    client = raw_client(script, server_with(handler), "--send", "-", stdin=subprocess.PIPE)
    assert client.stdout.buffer.read() == b"bye"
    assert client.wait(WAIT_S) == 0
    assert client.stderr.read() == ""


@pytest.mark.parametrize("pause_s", [0, 1.2])
def test_all_input_is_sent_to_a_server_that_has_finished_sending(script, server_with, noise, pause_s):
    """`ncat -l > FILE < /dev/null` is such a server. It may also receive slowly."""
    received = queue.Queue()

    def handler(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262_144)
        connection.shutdown(socket.SHUT_WR)
        threading.Event().wait(pause_s)
        received.put(receive_all(connection))

    with noise.open("rb") as file:
        client = script("tcp_client.py", "--port", server_with(handler), "--send", "-", stdin=file)
    assert client.finish() == (0, "Received: \n", "")
    assert received.get(timeout=WAIT_S) == noise.read_bytes()


def test_input_with_short_pauses_is_sent_to_a_server_that_has_finished_sending(script, server_with):
    arrived = queue.Queue()

    def handler(connection):
        connection.sendall(b"go on")
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(100):
            arrived.put(data)

    client = raw_client(script, server_with(handler), "--send", "-", stdin=subprocess.PIPE)
    assert read_exactly(client.stdout, 5) == b"go on"
    type_letters(client, "abcd", arrived, 0.2)
    end_input(client)
    assert client.finish() == (0, "", "")


def test_input_that_a_closed_connection_does_not_take_is_an_error(script, server_with, noise):
    def handler(connection):
        connection.sendall(b"bye")

    with noise.open("rb") as file:
        client = script("tcp_client.py", "--port", server_with(handler), "--send", "-", stdin=file)
    assert_fails(client.finish(), "reset", "Received: bye\n")


# Silence, refusal and other ends


def assert_fails(result, cause, out=""):
    """Exit status 1, and one line that names the cause."""
    assert result[:2] == (1, out)
    assert result[2].startswith("tcp_client.py: error: ")
    assert cause in result[2]
    assert result[2].count("\n") == 1


def test_a_silent_server_costs_the_timeout(run, server_with):
    assert_fails(
        run("tcp_client.py", "--port", server_with(receive_all), "--raw", "--timeout", 0.2), "no answer in time"
    )


def test_what_came_before_the_silence_is_printed(run, server_with):
    def handler(connection):
        connection.sendall(b"wait, ")
        receive_all(connection)

    assert_fails(
        run("tcp_client.py", "--port", server_with(handler), "--timeout", 0.2),
        "no answer in time",
        "Received: wait, \n",
    )


def test_the_timeout_is_for_each_silence_not_for_the_whole(call, server_with):
    def handler(connection):
        for _ in range(8):
            connection.sendall(b".")
            select.select([connection], [], [], 0.06)
        connection.shutdown(socket.SHUT_WR)
        receive_all(connection)

    assert call("--port", server_with(handler), "--timeout", 0.4) == (0, "Received: ........\n", "")


@pytest.fixture
def full_listener():
    """The port of a server that is too busy to take another connection, with one waiting for it."""
    with socket.socket() as listener, contextlib.ExitStack() as cleanup:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        taken = True
        while taken:
            filler = cleanup.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            taken = select.select([], [filler], [], 0.2)[1]
        yield listener.getsockname()[1]


def test_a_server_that_does_not_take_the_connection_costs_the_timeout(run, full_listener):
    result = run("tcp_client.py", "--host", "127.0.0.1", "--port", full_listener, "--timeout", 0.2)
    assert_fails(result, "no answer in time")


def test_a_refused_connection_is_one_line(call):
    port = free_port()
    result = call("--port", port)
    assert_fails(result, f"localhost port {port}: connection refused")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 64, "no such host"])
def test_an_unknown_host_is_one_line(call, host):
    assert_fails(call("--host", host), host)


def test_wait_tries_until_the_server_listens(script):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        client = script("tcp_client.py", "--port", port, "--wait", 10)
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.4)
        reserved.listen()
        with reserved.accept()[0] as connection:
            connection.sendall(b"here I am")
        assert client.finish() == (0, "Received: here I am\n", "")


def test_wait_ends_with_an_error(call):
    assert_fails(call("--port", free_port(), "--wait", 0.3), "connection refused")


def test_what_came_before_a_reset_is_printed(script, server_with):
    seen = threading.Event()

    def handler(connection):
        connection.sendall(b"half of the ans")
        assert seen.wait(WAIT_S)
        reset(connection)

    client = raw_client(script, server_with(handler))
    assert read_exactly(client.stdout, 15) == b"half of the ans"
    seen.set()
    assert_fails(client.finish(), "reset")


def acknowledged(connection):
    """Wait until the client's kernel has acknowledged everything."""
    while struct.unpack("I", connection_info(connection))[0]:
        select.select([], [], [], 0.001)


def test_what_came_before_a_reset_is_printed_as_text(run, server_with):
    def handler(connection):
        assert connection.recv(2) == b"go"
        connection.sendall(b"half of the ans")
        acknowledged(connection)
        reset(connection)

    assert_fails(
        run("tcp_client.py", "--port", server_with(handler), "--send", "go"), "reset", "Received: half of the ans\n"
    )


def test_a_reset_while_sending_is_an_error(server_with, monkeypatch):
    """The sending thread meets the reset, and clears it: the reading one must not take that for the end."""
    reading = threading.Event()

    def handler(connection):
        connection.sendall(b"half")
        assert reading.wait(WAIT_S)
        assert connection.recv(65_536)
        reset(connection)

    sender_met_the_reset, real_send = threading.Event(), socket.socket.send

    def send(self, data):
        try:
            return real_send(self, data)
        except OSError:
            sender_met_the_reset.set()
            raise

    monkeypatch.setattr(socket.socket, "send", send)
    pieces = stream("localhost", server_with(handler), send=iter(lambda: b"x" * 65_536, None))
    assert next(pieces) == b"half"
    reading.set()
    assert sender_met_the_reset.wait(WAIT_S)
    with pytest.raises(ConnectionResetError):
        list(pieces)


# TLS


def test_tls_with_a_trusted_certificate(call, serving, tls, certificate):
    port = serving(TCPServer(("127.0.0.1", 0), Greeter, ssl_context=tls)).address[1]
    code, out, err = call("--port", port, "--tls", "--ca", certificate[0], "--timeout", 2)
    assert (code, out, err) == (0, "Received: Hello, World!\n", "")


@pytest.mark.parametrize("text", ["hello", ""])
def test_send_over_tls_half_closes(run, tls_echo, certificate, text):
    result = run("tcp_client.py", "--port", tls_echo, "--tls", "--ca", certificate[0], "--send", text, "--raw")
    assert result == (0, text, "")


def answering_after_a_line(tls, seen, pause_s):
    """Return a handler that reads a line, records whether the end of the input follows within pause_s, and answers."""

    def handler(connection):
        with contextlib.suppress(OSError), tls.wrap_socket(connection, server_side=True) as server:
            assert server.recv(100) == b"question\n"
            server.settimeout(pause_s)
            try:
                seen.append(server.recv(100))
            except TimeoutError:
                seen.append(None)
            server.settimeout(WAIT_S)
            server.sendall(b"answer")
            server.unwrap()

    return handler


@pytest.mark.parametrize(
    ("version", "end"), [(ssl.TLSVersion.TLSv1_2, None), (ssl.TLSVersion.TLSv1_3, b"")], ids=["1.2", "1.3"]
)
def test_tls_is_half_closed_only_if_that_does_not_end_both_directions(server_with, tls, trust, version, end):
    """close_notify ends both directions in TLS 1.2 (RFC 5246 section 7.2.1), one in 1.3 (RFC 8446 section 6.1)."""
    tls.minimum_version = tls.maximum_version = version
    seen = []
    port = server_with(answering_after_a_line(tls, seen, 0.3 if end is None else WAIT_S))
    assert receive("localhost", port, send=b"question\n", ssl_context=trust) == b"answer"
    assert seen == [end]


def test_tls_is_half_closed_while_session_tickets_arrive(tls_echo, trust):
    """OpenSSL has no version for a moment when it reads a session ticket after the handshake."""
    for _ in range(60):
        assert receive("localhost", tls_echo, send=b"hello", ssl_context=trust, timeout_s=2) == b"hello"


def test_a_large_echo_over_tls_1_3_is_complete(tls_echo, trust):
    data = os.urandom(MIB)
    assert receive("localhost", tls_echo, send=data, ssl_context=trust) == data


def test_all_bytes_are_sent_to_a_server_that_has_finished_sending_over_tls_1_3(server_with, tls, trust):
    received = queue.Queue()

    def handler(connection):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()  # After SSLSocket.unwrap(), nothing can be received.
        server = tls.wrap_bio(incoming, outgoing, server_side=True)
        data = bytearray()

        def exchange_bytes(step):
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    return step()
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65_536))

        exchange_bytes(server.do_handshake)
        with contextlib.suppress(ssl.SSLWantReadError):
            server.unwrap()
        connection.sendall(outgoing.read())
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while len(data) < len(sent):
                data += exchange_bytes(functools.partial(server.read, 65_536))
        received.put(bytes(data))

    sent = os.urandom(8 * MIB)
    assert receive("localhost", server_with(handler), send=sent, ssl_context=trust) == b""
    assert received.get(timeout=WAIT_S) == sent


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_tls_server_that_speaks_first_needs_the_end_of_the_handshake(server_with, tls, trust, version):
    """The client must send its last flight even if it sends no data."""
    tls.minimum_version = tls.maximum_version = version

    def handler(connection):
        with contextlib.suppress(OSError), tls.wrap_socket(connection, server_side=True) as server:
            server.sendall(b"Hello")
            server.unwrap()

    assert receive("localhost", server_with(handler), ssl_context=trust, timeout_s=2) == b"Hello"


def test_an_untrusted_certificate_is_one_line(call, tls_echo):
    assert_fails(call("--port", tls_echo, "--tls"), "certificate is not trusted: self-signed certificate")


def test_a_certificate_for_another_name_is_one_line(call, tls_echo, certificate):
    result = call("--host", "127.0.0.2", "--port", tls_echo, "--tls", "--ca", certificate[0])
    assert_fails(result, "refused")


def test_a_certificate_without_the_name_is_one_line(call, serving, tls, certificate):
    port = serving(TCPServer(("127.0.0.2", 0), Echo, ssl_context=tls)).address[1]
    result = call("--host", "127.0.0.2", "--port", port, "--tls", "--ca", certificate[0])
    assert_fails(result, "certificate is not trusted: IP address mismatch")


def test_insecure_takes_any_certificate(call, serving, tls):
    port = serving(TCPServer(("127.0.0.1", 0), Greeter, ssl_context=tls)).address[1]
    assert call("--port", port, "--tls", "--insecure", "--timeout", 2) == (
        0,
        "Received: Hello, World!\n",
        "",
    )


def test_a_server_without_tls_is_one_line(call, server_with):
    assert_fails(call("--port", server_with(sending(b"Hello, World!")), "--tls"), "TLS failed")


def test_a_server_silent_in_the_handshake_costs_the_timeout(call, server_with):
    assert_fails(call("--port", server_with(receive_all), "--tls", "--timeout", 0.2), "no answer in time")


def test_a_tls_answer_cut_off_is_printed_and_an_error(run, server_with, tls, certificate):
    """Without a close_notify the answer may have been truncated by anybody (RFC 8446 section 6.1)."""

    def handler(connection):
        with contextlib.suppress(OSError), tls.wrap_socket(connection, server_side=True) as server:
            server.sendall(b"half of the ans")
            socket.socket.shutdown(server, socket.SHUT_WR)
            receive_all(server)

    result = run("tcp_client.py", "--port", server_with(handler), "--tls", "--ca", certificate[0], "--timeout", 2)
    assert_fails(result, "TLS failed", "Received: half of the ans\n")


@pytest.mark.parametrize("path", ["/nonexistent", "/dev/null"])
def test_an_invalid_ca_file_is_one_error_line(call, path):
    assert_fails(call("--tls", "--ca", path), f"cannot use --ca {path}")


# Output that ends


def test_a_closed_pipe_ends_it_quietly(script, server_with):
    def talk_on(connection):
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(b"x" * 65_536)

    client = raw_client(script, server_with(talk_on))
    assert client.stdout.read(5) == "xxxxx"
    client.stdout.close()
    assert client.stderr.read() == ""
    assert client.wait(WAIT_S) == 0


def test_a_disk_that_takes_a_part_of_the_last_bytes_is_an_error(script, server_with, tmp_path):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (5, 5))
    with open(tmp_path / "small", "w") as small:
        port = server_with(sending(b"Hello, World!"))
        code, _, err = script("tcp_client.py", "--port", port, "--raw", stdout=small, preexec_fn=limit).finish()
    assert (tmp_path / "small").read_bytes() == b"Hello"
    assert code == 1
    assert "cannot write the output" in err


def interrupt(client):
    """Ctrl+C, and once more if the first came just before a system call, which it then did not interrupt."""
    client.send_signal(signal.SIGINT)
    try:
        return client.wait(2)
    except subprocess.TimeoutExpired:
        client.send_signal(signal.SIGINT)
        return client.wait(WAIT_S)


@pytest.mark.parametrize("mode", [["--send", "x"], ["--raw", "--send", "x"], ["--send", "-"]])
def test_ctrl_c_is_130(script, server_with, mode):
    reading, gone = threading.Event(), threading.Event()

    def handler(connection):
        assert connection.recv(1) == b"x"
        reading.set()
        assert gone.wait(WAIT_S)

    client = script("tcp_client.py", "--port", server_with(handler), *mode, stdin=subprocess.PIPE)
    client.stdin.write("x")
    client.stdin.flush()
    assert reading.wait(WAIT_S)
    assert interrupt(client) == 130
    assert client.stderr.read() == ""
    gone.set()
    end_input(client)


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads /proc")
def test_ctrl_c_while_connecting_is_130(script, full_listener):
    client = script("tcp_client.py", "--host", "127.0.0.1", "--port", full_listener, "--timeout", 20)
    while connecting(full_listener) < 2:
        select.select([], [], [], 0.01)
    assert interrupt(client) == 130
    assert client.stderr.read() == ""


def connecting(port):
    """How many connections to that port wait for an answer."""
    with open("/proc/net/tcp") as lines:
        fields = [line.split() for line in lines]
    return sum(remote.endswith(f":{port:04X}") and state == "02" for _, _, remote, state, *_ in fields[1:])


# The client as a module


def test_receive_returns_everything(server_with):
    assert receive("localhost", server_with(sending(b"Hello, ", b"World!"))) == b"Hello, World!"


def test_receive_sends_a_message(echo):
    data = os.urandom(8 * MIB)
    assert receive("localhost", echo, send=data, max_bytes=len(data)) == data
    assert receive("localhost", echo, send=[b"in ", b"", b"pieces"]) == b"in pieces"
    assert receive("localhost", echo, send=b"") == b""


def test_receive_error_has_the_bytes_and_the_cause(server_with):
    def handler(connection):
        assert connection.recv(2) == b"go"  # subtle: before, the reset could end connect() itself
        connection.sendall(b"half")
        acknowledged(connection)
        reset(connection)

    with pytest.raises(ReceiveError) as failure:
        receive("localhost", server_with(handler), send=b"go")
    assert failure.value.received == b"half"
    assert isinstance(failure.value.__cause__, ConnectionResetError)


def test_receive_error_above_max_bytes_has_max_bytes(server_with):
    with pytest.raises(ReceiveError, match="longer than 5 bytes") as failure:
        receive("localhost", server_with(sending(b"123", b"456")), max_bytes=5)
    assert failure.value.received == b"12345"


def test_receive_error_of_a_refused_connection_is_empty():
    with pytest.raises(ReceiveError, match="refused") as failure:
        receive("localhost", free_port())
    assert failure.value.received == b""
    assert isinstance(failure.value.__cause__, ConnectionRefusedError)


def test_receive_error_after_a_silence(server_with):
    def handler(connection):
        connection.sendall(b"and then ...")
        receive_all(connection)

    with pytest.raises(ReceiveError) as failure:
        receive("localhost", server_with(handler), timeout_s=0.2)
    assert failure.value.received == b"and then ..."
    assert isinstance(failure.value.__cause__, TimeoutError)


def test_a_server_that_reads_slowly_is_not_silent(server_with):
    """Something moves all the time; only the whole takes longer than the timeout."""

    def slow_echo(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        while data := connection.recv(65_536):
            connection.sendall(data)
            threading.Event().wait(0.01)

    data = os.urandom(8 * MIB)
    assert receive("localhost", server_with(slow_echo), send=data, timeout_s=0.6, max_bytes=len(data)) == data


def test_stream_yields_before_the_server_closes(server_with):
    seen = threading.Event()

    def handler(connection):
        connection.sendall(b"first")
        assert seen.wait(WAIT_S)
        connection.sendall(b"second")

    pieces = stream("localhost", server_with(handler))
    assert next(pieces) == b"first"
    seen.set()
    assert b"".join(pieces) == b"second"


def test_a_stream_left_early_closes_the_connection(server_with):
    gone = threading.Event()

    def handler(connection):
        connection.sendall(b"first")
        receive_all(connection)
        gone.set()

    pieces = stream("localhost", server_with(handler))
    assert next(pieces) == b"first"
    pieces.close()
    assert gone.wait(WAIT_S)


def test_an_address_that_refuses_is_followed_by_the_next(monkeypatch, server_with):
    port = server_with(sending(b"Hello"))
    resolve_to(monkeypatch, "127.0.0.3", "127.0.0.1")
    assert receive("localhost", port) == b"Hello"


def test_an_address_of_a_family_the_system_lacks_is_followed_by_the_next(monkeypatch, server_with):
    port = server_with(sending(b"Hello"))
    addresses = [(12_345, socket.SOCK_STREAM, 0, "", ("::1", port)), *socket.getaddrinfo("127.0.0.1", port)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: addresses)
    assert receive("localhost", port) == b"Hello"


def test_ipv6(server_with):
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no ::1")
    with listener:
        thread = threading.Thread(target=handle_one, args=(listener, sending(b"Hello")))
        thread.start()
        assert receive("::1", listener.getsockname()[1]) == b"Hello"
        thread.join(WAIT_S)


# What the ten-line version gets wrong


def in_two(first, second):
    """Return a handler that sends the second half when the client has hung up, or after a pause."""

    def handler(connection):
        connection.sendall(first)
        patience = connection.gettimeout() if handler.until_hung_up else 0.2
        select.select([connection], [], [], patience)
        with contextlib.suppress(OSError):
            connection.sendall(second)
            connection.shutdown(socket.SHUT_WR)
            receive_all(connection)

    handler.until_hung_up = False
    return handler


def test_ten_lines_take_one_recv_for_one_message(run, script, server_with):
    handler = in_two(b"Hello, ", b"World!")
    assert run("tcp_client.py", "--port", server_with(handler)) == (0, "Received: Hello, World!\n", "")
    handler.until_hung_up = True
    assert script(TEN_LINES, server_with(handler)).finish()[:2] == (0, "Received: Hello, \n")


def test_ten_lines_break_a_character_that_two_segments_share(run, script, server_with):
    handler = in_two(b"caf\xc3", b"\xa9")
    assert run("tcp_client.py", "--port", server_with(handler)) == (0, "Received: café\n", "")
    handler.until_hung_up = True
    code, out, err = script(TEN_LINES, server_with(handler)).finish()
    assert (code, out) == (1, "")
    assert "UnicodeDecodeError" in err


def test_ten_lines_wait_forever_for_a_silent_server(script, run, server_with):
    assert_fails(
        run("tcp_client.py", "--port", server_with(receive_all), "--timeout", 0.1, "--raw"), "no answer in time"
    )
    client = script(TEN_LINES, server_with(receive_all))
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(0.5)
    client.kill()


def test_ten_lines_send_everything_before_they_read(script, run, serving, noise):
    port = serving(TCPServer(("127.0.0.1", 0), Echo, timeout_s=1.0)).address[1]
    with noise.open() as source:
        client = raw_client(script, port, "--send", "-", stdin=source)
    assert len(client.stdout.buffer.read()) == 8 * MIB
    assert client.finish()[::2] == (0, "")
    code, out, err = script(TEN_LINES, port, 64 * MIB).finish()
    assert (code, out) == (1, "")
    assert "ConnectionResetError" in err or "BrokenPipeError" in err


def test_ten_lines_let_the_peer_write_to_the_terminal(run, script, server_with):
    handler = sending(b"\x1b[2Jyour screen is mine")
    assert run("tcp_client.py", "--port", server_with(handler)) == (0, "Received: \\x1b[2Jyour screen is mine\n", "")
    assert script(TEN_LINES, server_with(handler)).finish()[1] == "Received: \x1b[2Jyour screen is mine\n"
