"""udp_server.py over real sockets: what it answers, what it does not, and what it survives."""

import contextlib
import errno
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from conftest import (
    CABLE,
    FREE_PORT,
    TIME_LIMIT_S,
    free_port,
    in_namespace,
    needs_ipv6,
    only_error,
    resolve_to,
    wait_for_route,
    write_setting,
)

from udp_server import UDPServer, ask

TEN_LINES = "tests/ten_lines/udp_server.py"
PATIENCE_S = 5
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Only Linux reports what the kernel dropped.")


@contextlib.contextmanager
def client_of(address, source=""):
    """Return a connected socket. It receives only answers from the address that was asked."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
        client.bind((source, 0))
        client.connect(address)
        yield client


def answer_to(client, data):
    client.send(data)
    return client.recv(65_535)


def raw_socket():
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except (AttributeError, OSError):
        pytest.skip("only root can forge a sender: sudo .venv/bin/python -m pytest")


def forge(data, source, target):
    """Send a datagram from a sender that it is not from."""
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0) + data
    addresses = (socket.inet_aton(source[0]), socket.inet_aton(target[0]))
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, *addresses)
    with raw_socket() as raw:
        raw.sendto(header + udp, (target[0], 0))


@contextlib.contextmanager
def running(server):
    """Serve in a thread that inherits the network of this one."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


@pytest.mark.parametrize(
    "data",
    [b"hi", b"", b"\xff\xfe\x80", b"a\0b\0", b"\r\n\x1b[2J", os.urandom(60_000), bytes(65_490)],
    ids=["text", "empty", "not UTF-8", "NUL", "control", "60,000 bytes", "the longest with an answer"],
)
def test_a_datagram_is_answered_with_its_bytes_exactly(serving, data):
    server = serving(UDPServer(("127.0.0.1", 0)))
    with client_of(server.address) as client:
        assert answer_to(client, data) == b"Server received: " + data


def test_it_prints_the_lines_of_the_tutorial_and_answers(script):
    server = script("udp_server.py", *FREE_PORT)
    with client_of(server.wait_until_listening()) as client:
        assert answer_to(client, b"hi") == b"Server received: hi"
        assert server.stdout.readline() == f"Received message from 127.0.0.1:{client.getsockname()[1]}: hi\n"


@needs_ipv6
def test_an_ipv6_address_is_shown_in_brackets(script):
    server = script("udp_server.py", "--host", "::1", "--port", 0)
    line = server.stdout.readline()
    assert line.startswith("Listening on [::1]:")
    with client_of(("::1", int(line.rpartition(":")[2]))) as client:
        assert answer_to(client, b"hi") == b"Server received: hi"
        assert server.stdout.readline() == f"Received message from [::1]:{client.getsockname()[1]}: hi\n"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"one\r\nListening on 10.0.0.1:1", r"one\r\nListening on 10.0.0.1:1"),
        (b"\xff\x00\x9b", r"\xff\x00\x9b"),
        ("caf\u00e9 \u202e\u2028\u0085\u200b".encode(), "caf\u00e9 \\u202e\\u2028\\x85\u200b"),
        (b"", ""),
    ],
)
def test_a_datagram_can_neither_forge_a_line_nor_control_the_terminal(script, data, shown):
    server = script("udp_server.py", *FREE_PORT)
    with client_of(server.wait_until_listening()) as client:
        answer_to(client, data)
        assert server.stdout.readline() == f"Received message from 127.0.0.1:{client.getsockname()[1]}: {shown}\n"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"x" * 1_000, "x" * 1_000),
        (b"x" * 1_001, "x" * 1_000 + "... (1,001 bytes)"),
        (b"\x01" * 60_000, ("\\x01" * 250) + "... (60,000 bytes)"),
        (b"x" * 999 + "\u00e9".encode(), "x" * 999 + "... (1,001 bytes)"),
    ],
    ids=["1000", "1001", "controls", "cut character"],
)
def test_a_long_datagram_is_printed_short_with_its_length_and_answered_completely(script, data, shown):
    server = script("udp_server.py", *FREE_PORT)
    with client_of(server.wait_until_listening()) as client:
        assert answer_to(client, data) == b"Server received: " + data
        assert server.stdout.readline().partition(": ")[2] == f"{shown}\n"


def test_send_minus_sends_standard_input_as_one_datagram(script, serving):
    server = serving(UDPServer(("127.0.0.1", 0)))
    client = script("udp_server.py", "--port", server.address[1], "--send", "-", stdin=subprocess.PIPE)
    out, err = client.communicate("one\ntwo\n", timeout=TIME_LIMIT_S)
    assert (client.returncode, out, err) == (0, "Server received: one\\ntwo\\n\n", "")
    assert server.received == 1


@pytest.mark.skipif(sys.platform != "linux", reason="127.255.255.255 is a broadcast address on Linux")
def test_a_broadcast_address_needs_the_option_and_its_answer_may_come_from_elsewhere(script, serving):
    server = serving(UDPServer(("", 0)))
    arguments = ("udp_server.py", "--host", "127.255.255.255", "--port", server.address[1], "--send", "hi")
    for message in ("hi", ""):
        error = only_error(script(*arguments[:-1], message).finish())
        assert "Permission denied; a broadcast address needs --broadcast" in error
    assert script(*arguments, "--broadcast").finish() == (0, "Server received: hi\n", "")


def test_no_reply_only_receives(script):
    server = script("udp_server.py", *FREE_PORT, "--no-reply")
    with client_of(server.wait_until_listening()) as client:
        for word in ("one", "two"):
            client.send(word.encode())
            assert server.stdout.readline().endswith(f": {word}\n")
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def counts(err):
    """The numbers of the one line at the end: received and, on Linux, dropped."""
    assert re.fullmatch(r"udp_server\.py: .*received.*\n", err)
    return [int(number) for number in re.findall(r"\d+", err)]


def test_quiet_prints_no_events_and_the_counts_at_the_end(script):
    server = script("udp_server.py", *FREE_PORT, "-q")
    with client_of(server.wait_until_listening()) as client:
        answer_to(client, b"one")
        answer_to(client, b"two")
    status, out, err = server.finish(signal.SIGTERM)
    assert (status, out) == (0, "")
    assert counts(err)[0] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0(script, number):
    server = script("udp_server.py", *FREE_PORT)
    server.wait_until_listening()
    status, out, err = server.finish(number)
    assert (status, out) == (0, "")
    assert counts(err)[0] == 0


def test_send_prints_the_answer(script, serving):
    server = serving(UDPServer(("127.0.0.1", 0)))
    sent = script("udp_server.py", "--port", server.address[1], "--send", "hi").finish()
    assert sent == (0, "Server received: hi\n", "")


def test_send_passes_bytes_as_they_are_and_shows_the_answer_escaped(script, serving):
    server = serving(UDPServer(("127.0.0.1", 0), lambda data, peer: data + b"\x1b[2J\n"))
    sent = script("udp_server.py", "--port", server.address[1], "--send", os.fsdecode(b"\xff\xc3\xa9")).finish()
    assert sent == (0, "\\xff\u00e9\\x1b[2J\\n\n", "")


def test_send_of_an_empty_text_is_an_empty_datagram(script, serving):
    server = serving(UDPServer(("127.0.0.1", 0)))
    assert script("udp_server.py", "--port", server.address[1], "--send", "").finish() == (0, "Server received: \n", "")
    assert server.received == 1


def test_send_to_nobody_is_one_line_and_status_1(run):
    result = run("udp_server.py", "--port", free_port(socket.SOCK_DGRAM), "--send", "hi", "--timeout", 20)
    assert "refused" in only_error(result)
    assert result[1] == ""


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "255.255.255.255"), (99, "::1")])
def test_a_refusal_is_reported_rather_than_the_failure_of_another_address(family, host, run, monkeypatch):
    """A machine without IPv6 may resolve localhost to ::1, too, and then fails in another way."""
    port = free_port(socket.SOCK_DGRAM)
    refused, other = (socket.AF_INET, ("127.0.0.1", port)), (family, (host, port))
    addresses = [(number, socket.SOCK_DGRAM, 0, "", target) for number, target in (other, refused, other)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: addresses)
    assert "refused" in only_error(run("udp_server.py", "--port", port, "--send", "hi"))


def test_send_without_an_answer_in_time_is_one_line_and_status_1(run, serving):
    server = serving(UDPServer(("127.0.0.1", 0), lambda data, peer: None))
    result = run("udp_server.py", "--port", server.address[1], "--send", "hi", "--timeout", 0.2)
    assert "time" in only_error(result)
    assert server.received == 1


def test_send_of_too_long_a_datagram_is_one_error_and_status_1(run, serving):
    server = serving(UDPServer(("127.0.0.1", 0)))
    assert "long" in only_error(
        run("udp_server.py", "--host", "127.0.0.1", "--port", server.address[1], "--send", "x" * 65_508)
    )


def test_ask_finds_the_server_on_the_second_address_of_a_name(serving, monkeypatch):
    server = serving(UDPServer(("127.0.0.2", 0)))
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    assert ask("localhost", server.address[1], b"hi") == b"Server received: hi"


@needs_ipv6
@pytest.mark.parametrize("hosts", [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_ask_finds_the_server_in_the_other_family(serving, monkeypatch, hosts):
    server = serving(UDPServer((hosts[1], 0)))
    resolve_to(monkeypatch, *hosts)
    assert ask("localhost", server.address[1], b"hi") == b"Server received: hi"


def test_ask_goes_on_to_the_next_address_when_there_is_no_route_to_the_first(monkeypatch):
    def job():
        with running(UDPServer(("127.0.0.1", 0))) as server:
            resolve_to(monkeypatch, "203.0.113.1", "127.0.0.1")
            return ask("localhost", server.address[1], b"hi")

    assert in_namespace(job) == b"Server received: hi"


def test_an_answer_is_not_answered(serving):
    server = serving(UDPServer(("127.0.0.1", 0)))
    with client_of(server.address) as client:
        client.send(b"Server received: hi")
        assert answer_to(client, b"Server received") == b"Server received: Server received"
        assert answer_to(client, b" Server received: ") == b"Server received:  Server received: "
    assert server.received == 3


def test_port_0_is_not_answered(serving, caplog):
    server = serving(UDPServer(("127.0.0.1", 0)))
    forge(b"from nobody", ("127.0.0.1", 0), server.address)
    with client_of(server.address) as client:
        answer_to(client, b"hi")
    assert server.received == 2
    assert caplog.messages == []


def test_two_servers_and_a_forged_datagram_do_not_loop(serving):
    one, other = (serving(UDPServer(("127.0.0.1", 0))) for _ in range(2))
    forge(b"forged", other.address, one.address)
    for server in (one, other, one):  # an answer to an answer would be in line before each of these
        with client_of(server.address) as client:
            answer_to(client, b"hi")
    assert (one.received, other.received) == (1 + 2, 1 + 1)


def test_a_datagram_with_the_servers_own_address_does_not_loop(serving):
    server = serving(UDPServer(("127.0.0.1", 0)))
    forge(b"forged", server.address, server.address)
    with client_of(server.address) as client:
        for _ in range(2):
            answer_to(client, b"hi")
    assert server.received == 1 + 1 + 2


def test_ten_lines_loop_on_a_forged_datagram(script):
    one, other = (script(TEN_LINES, 0) for _ in range(2))
    target, source = one.wait_until_listening(), other.wait_until_listening()
    forge(b"forged", source, target)
    for _ in range(20):
        assert "forged" in one.stdout.readline()
        assert "Server received: " in other.stdout.readline()


@pytest.mark.parametrize("cause", ["not UTF-8", "port 0"])
def test_ten_lines_die_of_one_datagram(script, cause):
    server = script(TEN_LINES, 0)
    address = server.wait_until_listening()
    if cause == "port 0":
        forge(b"from nobody", ("127.0.0.1", 0), address)
    else:
        with client_of(address) as client:
            client.send(b"\xff")
    status, _, err = server.finish()
    assert status == 1
    assert "Traceback" in err


def test_ten_lines_lose_the_rest_of_a_large_datagram(script):
    with client_of(script(TEN_LINES, 0).wait_until_listening()) as client:
        assert answer_to(client, b"x" * 1_500) == b"Server received: " + b"x" * 1_024


def test_a_datagram_too_long_for_an_answer_is_one_warning_and_it_goes_on(script):
    server = script("udp_server.py", *FREE_PORT, "-q")
    with client_of(server.wait_until_listening()) as client:
        client.send(bytes(65_507))
        client.send(bytes(65_491))
        assert answer_to(client, b"hi") == b"Server received: hi"
        sender = f"127.0.0.1:{client.getsockname()[1]}"
    status, _, err = server.finish(signal.SIGTERM)
    assert status == 0
    warning, _, end = err.partition("\n")
    assert warning == f"udp_server.py: warning: cannot answer {sender}: Message too long"
    assert counts(end)[0] == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("source", ["127.255.255.255", "255.255.255.255"])
def test_a_broadcast_source_is_one_warning_and_it_goes_on(serving, caplog, host, source):
    server = serving(UDPServer((host, 0)))
    target = ("127.0.0.1", server.address[1])
    for _ in range(3):
        forge(b"forged", (source, 9), target)
    with client_of(target) as client:
        assert answer_to(client, b"hi") == b"Server received: hi"
    assert caplog.messages == [f"cannot answer {source}:9: {os.strerror(errno.EACCES)}"]
    assert server.received == 4


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_no_route_is_one_warning_and_it_goes_on(caplog, host):
    def job():
        with running(UDPServer((host, 0))) as server:
            target = ("127.0.0.1", server.address[1])
            for _ in range(3):
                forge(b"forged", ("203.0.113.1", 9), target)
            with client_of(target) as client:
                return answer_to(client, b"hi")

    assert in_namespace(job) == b"Server received: hi"
    assert caplog.messages == [f"cannot answer 203.0.113.1:9: {os.strerror(errno.ENETUNREACH)}"]


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.2", pytest.param("::1", marks=needs_ipv6)])
def test_a_wildcard_bind_answers_from_the_address_that_was_asked(serving, asked):
    server = serving(UDPServer(("", 0)))
    with client_of((asked, server.address[1])) as client:
        assert answer_to(client, b"hi") == b"Server received: hi"


@needs_ipv6
def test_a_wildcard_bind_answers_from_the_second_ipv6_address_that_was_asked():
    def job():
        for address in ("fd00::7", "fd00::8", "fd00::9"):
            wait_for_route(address)
        with running(UDPServer(("::", 0))) as server:
            for asked in ("fd00::7", "fd00::8", "::1"):
                with client_of((asked, server.address[1]), source="fd00::9") as client:
                    assert answer_to(client, b"hi") == b"Server received: hi"

    addresses = [f"-6 addr add {address}/128 dev lo nodad" for address in ("fd00::7", "fd00::8", "fd00::9")]
    in_namespace(job, *addresses)


@pytest.mark.parametrize("asked", ["192.0.2.1", "192.0.2.255", "255.255.255.255"])
def test_a_wildcard_bind_answers_a_broadcast_from_its_own_address(asked):
    def job():
        with running(UDPServer(("0.0.0.0", 0))) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_S)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            client.sendto(b"hi", (asked, server.address[1]))
            return client.recvfrom(99)

    answer, (host, _) = in_namespace(job, *CABLE, "addr add 192.0.2.1/24 brd + dev here", "route add default dev here")
    assert (answer, host) == (b"Server received: hi", "192.0.2.1")


@needs_ipv6
@pytest.mark.parametrize("asked", ["fe80::7%here", "ff02::1%here"])
def test_a_wildcard_bind_answers_on_a_link(asked):
    def job():
        wait_for_route("fe80::7%here")
        with running(UDPServer(("::", 0))) as server, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_S)
            target = socket.getaddrinfo(asked, server.address[1], type=socket.SOCK_DGRAM)[0][4]
            client.sendto(b"hi", target)
            return client.recvfrom(99)

    answer, (host, *_) = in_namespace(job, *CABLE, "-6 addr add fe80::7/64 dev here nodad")
    assert (answer, host) == (b"Server received: hi", "fe80::7")


@pytest.mark.parametrize(("name", "answers_from"), [("udp_server.py", "127.0.0.2"), (TEN_LINES, "127.0.0.1")])
def test_ten_lines_answer_from_another_address(script, name, answers_from):
    server = script(name, *((0, "0.0.0.0") if name == TEN_LINES else ("--host", "0.0.0.0", "--port", 0)))
    port = server.wait_until_listening()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.sendto(b"hi", ("127.0.0.2", port))
        assert client.recvfrom(99) == (b"Server received: hi", (answers_from, port))


@needs_ipv6
def test_port_0_looks_for_one_that_is_free_in_both_families(monkeypatch):
    def job():
        write_setting("net/ipv4/ip_local_port_range", "40000 40007")
        with contextlib.ExitStack() as taken:
            for port in range(40000, 40007):
                sock = taken.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
                sock.bind(("::1", port))
            resolve_to(monkeypatch, "127.0.0.1", "::1")
            with UDPServer(("localhost", 0)) as server:
                return server.addresses

    assert in_namespace(job) == [("127.0.0.1", 40007), ("::1", 40007)]


def test_a_reply_function_decides_the_answer(serving):
    server = serving(UDPServer(("127.0.0.1", 0), lambda data, peer: b"%d " % peer[1] + data.upper()))
    with client_of(server.address) as client:
        assert answer_to(client, b"hi") == b"%d HI" % client.getsockname()[1]


@needs_ipv6
def test_a_reply_function_gets_the_senders_address_in_both_families(serving):
    server = serving(UDPServer(("::1", 0), lambda data, peer: repr(peer).encode()))
    with client_of(server.address) as client:
        assert answer_to(client, b"") == repr(client.getsockname()).encode()


def test_an_empty_answer_is_sent_and_none_is_not(serving):
    server = serving(UDPServer(("127.0.0.1", 0), lambda data, peer: None if data else b""))
    with client_of(server.address) as client:
        client.send(b"no answer")
        assert answer_to(client, b"") == b""


def fail_on_bad(data, peer):
    if data == b"bad":
        raise KeyError("a mistake in the reply function")
    return data


def test_a_reply_function_that_raises_is_logged_and_serving_continues(serving, caplog):
    server = serving(UDPServer(("127.0.0.1", 0), fail_on_bad))
    with client_of(server.address) as client:
        client.send(b"bad")
        assert answer_to(client, b"good") == b"good"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "a mistake" in caplog.text


def test_a_reply_function_that_returns_text_is_logged_and_serving_continues(serving, caplog):
    server = serving(UDPServer(("127.0.0.1", 0), lambda data, peer: data.decode() if data == b"bad" else data))
    with client_of(server.address) as client:
        client.send(b"bad")
        assert answer_to(client, b"good") == b"good"
    assert len(caplog.records) == 1


def test_shutdown_from_the_reply_function():
    with (
        UDPServer(("127.0.0.1", 0), lambda data, peer: server.shutdown()) as server,
        client_of(server.address) as client,
    ):
        client.send(b"stop")
        server.serve_forever()
    assert server.received == 1


@on_linux
def test_what_the_kernel_dropped_is_counted(serving):
    busy, go_on = threading.Event(), threading.Event()

    def reply(data, peer):
        busy.set()
        go_on.wait(PATIENCE_S)
        return data[:10] if data == b"last" else None

    server = serving(UDPServer(("127.0.0.1", 0), reply))
    with client_of(server.address) as client:
        client.send(b"first")
        assert busy.wait(PATIENCE_S)
        for _ in range(400):
            client.send(bytes(60_000))
        go_on.set()
        sent = 401 + send_until_answered(client)
    server.close()
    assert server.dropped > 0
    assert server.received + server.dropped == sent


def send_until_answered(client):
    """How many datagrams it took, of which the kernel may have dropped all but the last."""
    client.settimeout(0.2)
    for sent in range(1, 25):
        with contextlib.suppress(TimeoutError):
            assert answer_to(client, b"last").endswith(b"last")
            return sent
    raise AssertionError("no answer")


@on_linux
def test_the_receive_buffer_keeps_a_burst_that_the_systems_default_drops(serving):
    burst = [b"%d" % number for number in range(2_000)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain, client_of(("127.0.0.1", 9)) as client:
        plain.bind(("127.0.0.1", 0))
        plain.setblocking(False)
        server = UDPServer(("127.0.0.1", 0), lambda data, peer: None)
        for data in burst:
            client.sendto(data, plain.getsockname())
            client.sendto(data, server.address)
        kept = 0
        with contextlib.suppress(BlockingIOError):
            while plain.recv(100):
                kept += 1
        server.shutdown()
        serving(server)
    assert kept < len(burst)
    server.close()
    assert server.dropped <= len(burst) - 1.5 * kept


@on_linux
def test_the_number_of_drops_is_known_only_at_the_end():
    with UDPServer(("127.0.0.1", 0)) as server:
        assert server.dropped is None
    assert server.dropped == 0


def flood(process, address):
    """Send more than the kernel keeps to a process that sleeps; how many the process was sent in all."""
    with client_of(address) as client:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(400):
            client.send(bytes(60_000))
        process.send_signal(signal.SIGCONT)
        sent = 400
        while True:
            sent += 1
            client.settimeout(0.2)
            client.send(b"last")
            with contextlib.suppress(TimeoutError):
                while not client.recv(65_535).endswith(b"last"):
                    pass
                return sent


@on_linux
def test_the_script_prints_at_the_end_how_many_datagrams_the_kernel_dropped(script):
    server = script("udp_server.py", *FREE_PORT, "-q")
    sent = flood(server, server.wait_until_listening())
    status, _, err = server.finish(signal.SIGINT)
    assert status == 0
    received, dropped = counts(err)
    assert dropped > 0
    assert received + dropped == sent


@on_linux
def test_ten_lines_do_not_tell_what_the_kernel_dropped(script):
    server = script(TEN_LINES, 0, stdout=subprocess.PIPE)
    address = server.wait_until_listening()
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(server.stdout))
    reader.start()
    sent = flood(server, address)
    server.terminate()
    reader.join(PATIENCE_S)
    assert len(lines) < sent
    assert server.stderr.read() == ""
