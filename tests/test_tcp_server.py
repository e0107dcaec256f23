"""tcp_server.py with real clients: what each of them sends, reads, leaves unread and breaks off."""

import contextlib
import errno
import functools
import os
import queue
import select
import signal
import socket
import ssl
import subprocess
import threading

import pytest
from conftest import FREE_PORT, needs_ipv6, open_files, process_status, reset, resolve_to

import tcp_server
from tcp_server import Echo, Greeter, Handler, TCPServer

resource = pytest.importorskip("resource", reason="limits and signals are POSIX's")

WAIT_S = 10.0  # for what must happen; no test waits so long unless it fails
GREETING = b"Hello, World!"
MIB = 1_048_576
TEN_LINES = "tests/ten_lines/tcp_server.py"


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")
needs_prlimit = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="lowers the limit of a running process")


class Chat(Handler):
    """What one client sends goes to all others in the room."""

    def __init__(self, room):
        self.room = room  # all Chats that are connected

    def connection_made(self, connection):
        self.connection = connection
        self.room.add(self)

    def data_received(self, data):
        for other in self.room - {self}:
            other.connection.send(data)


class Events(queue.Queue):
    """The callbacks of handlers, in order, for tests to wait for."""

    def watch(self, handler_class):
        """Return a factory of handlers that report their callbacks."""

        class Watched(handler_class):
            def connection_made(handler, connection):
                self.put(("made", connection))
                super().connection_made(connection)

            def connection_lost(handler, error):
                super().connection_lost(error)
                self.put(("lost", error))

        return Watched

    def wait_for(self, name):
        """The value that the next event of that name has."""
        while True:
            event, value = self.get(timeout=WAIT_S)
            if event == name:
                return value


@pytest.fixture
def events():
    return Events()


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch):
    """Let servers in this process notice the end of a timeout at once."""
    monkeypatch.setattr(tcp_server, "TICK_S", 0.02)


@pytest.fixture
def closing():
    """closing(socket) closes it at the end of the test."""
    with contextlib.ExitStack() as cleanup:
        yield cleanup.enter_context


@pytest.fixture
def connect(closing):
    """connect(address) is a connected socket, closed at the end of the test."""
    return lambda address: closing(socket.create_connection(address, timeout=WAIT_S))


def read_to_end(sock):
    return b"".join(iter(functools.partial(sock.recv, 65_536), b""))


def read_exactly(sock, length):
    data = bytearray()
    while len(data) < length:
        piece = sock.recv(length - len(data))
        assert piece, f"the connection ended after {len(data)} of {length} bytes"
        data += piece
    return bytes(data)


def ask(sock, data):
    sock.sendall(data)
    return read_exactly(sock, len(data))


def answer_of(client):
    """Return the bytes until the end of the connection or a reset."""
    answer = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65_536):
            answer += piece
    return bytes(answer)


def exchange(sock, data):
    """Send all, half-close, and read the answer meanwhile."""

    def send():
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    answer = read_to_end(sock)
    sender.join()
    return answer


def send_until_full(sock, data=b"x" * 65_536, limit=256 * MIB):
    """Send to a peer until it takes nothing for a fifth of a second; return how many bytes went."""
    sent = 0
    while sent < limit and select.select([], [sock], [], 0.2)[1]:
        with contextlib.suppress(ConnectionError):
            sent += sock.send(data, socket.MSG_DONTWAIT)
            continue
        break
    return sent


def wait_until_refused(address):
    """Until the server listens no more. Who gets through meanwhile is cut off."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            with contextlib.suppress(ConnectionResetError):
                reset(socket.create_connection(address, timeout=WAIT_S))


def limit_files(soft, hard):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(process):
    """What it occupies, in bytes."""
    return int(process_status(process)["VmRSS"][0]) * 1024


def processor_time_s(process):
    with open(f"/proc/{process.pid}/stat") as line:
        user, system = line.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def start_server(script, *arguments, **options):
    process = script("tcp_server.py", *FREE_PORT, *arguments, **options)
    return process, process.wait_until_listening()


# The greeting


def test_without_options_it_listens_on_localhost_12345():
    args = tcp_server.parse_args([])
    assert (args.host, args.port, args.message) == ("localhost", 12345, "Hello, World!")


def test_it_logs_its_address_and_each_client(script, connect):
    process, address = start_server(script)
    with connect(address) as client:
        peer = tcp_server.format_address(client.getsockname())
        assert read_to_end(client) == GREETING
    assert process.stdout.readline() == f"Connection from {peer}\n"
    assert process.finish(signal.SIGINT) == (0, "", "")


def test_the_greeting_can_be_another(script, connect):
    process, address = start_server(script, "--message", "Grüße, \udcff")
    with connect(address) as client:
        assert read_to_end(client) == "Grüße, ".encode() + b"\xff"
    assert process.finish(signal.SIGINT)[::2] == (0, "")


@pytest.mark.parametrize("length", [1, 100_000, 4 * MIB])
def test_a_client_that_sends_first_gets_the_greeting_and_no_reset(serving, connect, length):
    server = TCPServer(("localhost", 0), Greeter)
    client = connect(server.address)
    client.send(b"x" * length)
    serving(server)
    assert read_to_end(client) == GREETING
    client.sendall(b"y" * length)
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b""


def test_a_client_that_reads_after_the_server_has_closed_gets_the_greeting_and_no_reset(serving, connect, events):
    server = TCPServer(("localhost", 0), events.watch(Greeter))
    client = connect(server.address)
    client.sendall(b"x" * 100_000)
    serving(server)
    client.sendall(b"y" * 100_000)
    client.shutdown(socket.SHUT_WR)
    assert events.wait_for("lost") is None
    assert read_to_end(client) == GREETING


def test_the_greeting_is_followed_at_once_by_a_half_close(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Greeter)))
    client = connect(server.address)
    assert read_to_end(client) == GREETING
    assert [event for event, _ in events.queue] == ["made"]


@pytest.mark.parametrize("talking", [False, True])
def test_the_server_lingers_two_seconds_and_no_longer(serving, connect, events, monkeypatch, talking):
    assert tcp_server.LINGER_S == 2
    monkeypatch.setattr(tcp_server, "LINGER_S", 0.3)
    server = serving(TCPServer(("localhost", 0), events.watch(Greeter)))
    client = connect(server.address)
    assert read_to_end(client) == GREETING
    with contextlib.suppress(ConnectionError):
        while talking:
            client.sendall(b"x" * 65_536)
    assert isinstance(events.wait_for("lost"), TimeoutError)


@pytest.mark.parametrize("sent_bytes", [0, 65_536])
def test_a_long_greeting_is_sent_whole_to_a_slow_reader(serving, connect, sent_bytes):
    message = os.urandom(32 * MIB)
    server = serving(TCPServer(("localhost", 0), functools.partial(Greeter, message)))
    client = connect(server.address)
    client.sendall(b"x" * sent_bytes)
    assert read_to_end(client) == message


# The echo


def test_every_byte_value_is_echoed(serving, connect):
    server = serving(TCPServer(("localhost", 0), Echo))
    every = bytes(range(256))
    assert ask(connect(server.address), every) == every


def test_an_echo_client_can_go_on_as_long_as_it_likes(serving, connect):
    client = connect(serving(TCPServer(("localhost", 0), Echo)).address)
    for number in range(500):
        message = b"%d\n" % number
        assert ask(client, message) == message


def test_everything_before_a_half_close_is_echoed(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo)))
    client = connect(server.address)
    client.sendall(b"all I have to say")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b"all I have to say"
    assert events.wait_for("lost") is None


def test_four_mebibytes_and_a_half_close_come_back_intact(serving, connect):
    data = os.urandom(4 * MIB)
    client = connect(serving(TCPServer(("localhost", 0), Echo)).address)
    assert exchange(client, data) == data


def test_a_half_close_before_the_first_byte_is_read_loses_nothing(serving, connect):
    server = serving(TCPServer(("localhost", 0), Echo))
    client = connect(server.address)
    sent = send_until_full(client)
    client.shutdown(socket.SHUT_WR)
    assert len(read_to_end(client)) == sent


@needs_proc
def test_a_peer_that_does_not_read_is_not_read_from_and_memory_stays_flat(script, connect):
    process, address = start_server(script, "--echo", "-q")
    assert ask(connect(address), b"warm") == b"warm"
    before = memory(process)
    flooder = connect(address)
    sent = send_until_full(flooder)
    assert sent < 128 * MIB
    assert memory(process) - before < 4 * MIB
    assert ask(connect(address), b"others are served") == b"others are served"
    flooder.shutdown(socket.SHUT_WR)
    assert len(read_to_end(flooder)) == sent


def test_a_flooding_client_leaves_the_others_their_turn(serving, connect):
    server = serving(TCPServer(("localhost", 0), Echo))
    flooder, other = connect(server.address), connect(server.address)
    over = threading.Event()

    def flood():
        while not over.is_set():
            ask(flooder, b"x" * 65_536)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(50):
            assert ask(other, b"my turn") == b"my turn"
    finally:
        over.set()
        thread.join()


# Idle peers


def test_a_silent_client_is_dropped_and_an_active_one_is_not(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo), timeout_s=0.3))
    silent, talking = connect(server.address), connect(server.address)
    while not select.select([silent], [], [], 0.02)[0]:
        assert ask(talking, b"still here") == b"still here"
    assert silent.recv(1) == b""
    assert isinstance(events.wait_for("lost"), TimeoutError)
    assert ask(talking, b"still here") == b"still here"


def test_a_client_that_only_receives_is_not_idle(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), functools.partial(events.watch(Chat), set()), timeout_s=0.3))
    listener, talker = connect(server.address), connect(server.address)
    events.wait_for("made")
    events.wait_for("made")
    for _ in range(40):
        talker.sendall(b"news\n")
        assert read_exactly(listener, 5) == b"news\n"
        assert select.select([listener], [], [], 0.02)[0] == []


def test_a_client_that_never_reads_is_dropped_for_being_idle(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo), timeout_s=0.3))
    send_until_full(connect(server.address))
    assert isinstance(events.wait_for("lost"), TimeoutError)


def test_the_idle_timeout_is_a_flag_and_its_line_names_the_client(script, connect):
    process, address = start_server(script, "--echo", "--timeout", 0.2)
    client = connect(address)
    peer = tcp_server.format_address(client.getsockname())
    assert client.recv(1) == b""
    assert process.stdout.readline() == f"Connection from {peer}\n"
    assert process.stdout.readline() == f"Connection from {peer} closed: idle for 0.2 s\n"


# Addresses


@needs_ipv6
def test_an_ipv6_address_alone_is_served_and_its_client_is_logged_in_brackets(script, connect):
    process = script("tcp_server.py", "--host", "::1", "--port", 0)
    line = process.stdout.readline()
    assert line.startswith("Listening on [::1]:")
    client = connect(("::1", int(line.rpartition(":")[2])))
    assert read_to_end(client) == GREETING
    assert process.stdout.readline() == f"Connection from [::1]:{client.getsockname()[1]}\n"


# Many clients, and limits


def test_clients_beyond_the_limit_wait_and_are_served_as_places_free(serving, connect):
    server = serving(TCPServer(("localhost", 0), Echo, max_connections=2))
    first, second = connect(server.address), connect(server.address)
    assert ask(first, b"1") + ask(second, b"2") == b"12"
    waiting = [connect(server.address) for _ in range(5)]
    for client in waiting:
        client.sendall(b"?")
    for _ in range(20):
        assert ask(first, b"1") + ask(second, b"2") == b"12"
    assert select.select(waiting, [], [], 0.2)[0] == []
    first.close()
    second.close()
    for _ in range(5):
        served = select.select(waiting, [], [], WAIT_S)[0]
        assert 1 <= len(served) <= 2
        assert served[0].recv(1) == b"?"
        served[0].close()
        waiting.remove(served[0])


@needs_ipv6
def test_the_limit_is_one_for_all_addresses(monkeypatch, serving, connect, events):
    resolve_to(monkeypatch, "127.0.0.1", "::1")
    server = TCPServer(("localhost", 0), events.watch(Echo), max_connections=1)
    clients = [connect(address) for address in server.addresses]
    serving(server)
    for client in clients:
        client.sendall(b"?")
    served = select.select(clients, [], [], WAIT_S)[0]
    assert ask(served[0], b"!") == b"?"
    assert [event for event, _ in events.queue] == ["made"]


def test_hundreds_of_clients_are_open_at_once(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo)))
    clients = [connect(server.address) for _ in range(500)]
    for number, client in enumerate(clients):
        client.sendall(b"%04d" % number)
    assert [read_exactly(client, 4) for client in clients] == [b"%04d" % number for number in range(500)]


def test_the_file_limit_is_raised_for_the_connections_asked_for(script, connect):
    process, address = start_server(
        script, "--echo", "-q", "--max-connections", 250, preexec_fn=limit_files(100, 1_000)
    )
    clients = [connect(address) for _ in range(250)]
    assert b"".join(ask(client, b".") for client in clients) == b"." * 250
    for client in clients:
        client.close()
    assert process.finish(signal.SIGINT) == (0, "", "")


@needs_proc
def test_max_connections_is_lowered_to_the_hard_file_limit_with_a_warning(script, connect):
    process, address = start_server(script, "--echo", "-q", preexec_fn=limit_files(90, 120))
    assert process.stderr.readline() == (
        "tcp_server.py: warning: --max-connections is 56 here: the system allows no more open files (ulimit -Hn)\n"
    )
    clients = [connect(address) for _ in range(100)]
    for client in clients:
        client.sendall(b".")
    assert b"".join(read_exactly(client, 1) for client in clients[:56]) == b"." * 56
    before = processor_time_s(process)
    assert select.select(clients[56:], [], [], 0.5)[0] == []
    assert processor_time_s(process) - before < 0.1
    for client in clients[:56]:
        client.close()
    assert b"".join(read_exactly(client, 1) for client in clients[56:]) == b"." * 44
    for client in clients:
        client.close()
    assert process.finish(signal.SIGINT) == (0, "", "")


WINDOWS_SELECTOR = """
import selectors

class Selector(selectors.SelectSelector):
    def select(self, timeout=None):
        if len(self.get_map()) > 512:
            raise ValueError("too many file descriptors in select()")
        return super().select(timeout)

selectors.DefaultSelector = selectors.SelectSelector = Selector
"""


def test_on_windows_more_clients_than_select_handles_wait(script, connect, customize):
    customize(WINDOWS_SELECTOR)
    process, address = start_server(script, "--echo", "-q")
    clients = [connect(address) for _ in range(520)]
    for client in clients:
        client.sendall(b".")
    assert b"".join(read_exactly(client, 1) for client in clients[:500]) == b"." * 500
    for client in clients[:20]:
        client.close()
    assert b"".join(read_exactly(client, 1) for client in clients[500:]) == b"." * 20
    for client in clients[20:]:
        client.close()
    assert process.finish(signal.SIGINT) == (0, "", "")


@needs_proc
@needs_prlimit
def test_without_file_descriptors_it_warns_once_pauses_and_recovers(script, connect):
    process, address = start_server(script, "--echo", "-q")
    hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (20, hard))
    clients = [connect(address) for _ in range(40)]
    for client in clients:
        client.sendall(b".")
    warning = process.stderr.readline()
    assert warning.startswith("tcp_server.py: warning: cannot accept connections: Too many open files")
    before = processor_time_s(process)
    assert select.select(clients[-1:], [], [], 0.5)[0] == []
    assert processor_time_s(process) - before < 0.1
    assert ask(clients[0], b"!") == b"."
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert clients[-1].recv(1) == b"."
    for client in clients:
        client.close()
    assert process.finish(signal.SIGINT) == (0, "", "")


@needs_prlimit
def test_a_changing_number_of_descriptors_does_not_fill_the_log(script, connect):
    process, address = start_server(script, "--echo", "-q")
    hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (12, hard))
    clients = [connect(address) for _ in range(20)]
    for client in clients:
        client.sendall(b".")
        assert client.recv(1) == b"."
        client.close()
    code, _, err = process.finish(signal.SIGINT)
    assert (code, err.count("\n")) == (0, 1)


# Resets and port scans


@pytest.mark.parametrize("mode", [[], ["--echo"]])
def test_resets_and_port_scans_leave_no_connection_behind(script, connect, mode):
    process, address = start_server(script, "-q", *mode)
    for number in range(60):
        client = socket.create_connection(address, timeout=WAIT_S)
        if number % 3:
            client.sendall(b"x" * 100_000)
        (reset if number % 2 else socket.socket.close)(client)
    client = connect(address)
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == (b"" if mode else GREETING)
    assert process.finish(signal.SIGINT) == (0, "", "")


def test_a_reset_before_accept_is_no_error(serving, connect):
    server = TCPServer(("localhost", 0), Greeter)
    for _ in range(20):
        reset(socket.create_connection(server.address))
    client = connect(server.address)
    serving(server)
    assert read_to_end(client) == GREETING


def test_a_reset_is_the_error_of_connection_lost(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo)))
    client = connect(server.address)
    assert ask(client, b"hi") == b"hi"
    reset(client)
    assert isinstance(events.wait_for("lost"), ConnectionResetError)


def test_a_reset_while_data_waits_is_noticed(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo)))
    client = connect(server.address)
    send_until_full(client)
    reset(client)
    assert isinstance(events.wait_for("lost"), ConnectionError)


@needs_proc
def test_connections_leave_no_descriptor_behind(serving, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Greeter)))
    before = open_files()
    for number in range(100):
        client = socket.create_connection(server.address, timeout=WAIT_S)
        (reset if number % 2 else socket.socket.close)(client)
        events.wait_for("lost")
    assert open_files() == before


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_accepting_and_lets_connections_finish(script, connect, number):
    process, address = start_server(script, "--echo", "-q", "--grace", 20)
    client = connect(address)
    assert ask(client, b"before") == b"before"
    process.send_signal(number)
    wait_until_refused(address)
    assert ask(client, b"x" * MIB) == b"x" * MIB
    client.close()
    assert process.finish() == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_an_idle_server_ends_it_at_once(script, number):
    process, _ = start_server(script)
    assert process.finish(number) == (0, "", "")


def test_after_the_grace_time_the_rest_is_closed(script, connect):
    process, address = start_server(script, "--echo", "-q", "--grace", 0.3)
    client = connect(address)
    assert ask(client, b"before") == b"before"
    assert process.finish(signal.SIGTERM) == (0, "", "")
    assert client.recv(1) == b""


def test_a_second_signal_ends_at_once(script, connect):
    process, address = start_server(script, "--echo", "-q", "--grace", 1_000)
    client = connect(address)
    assert ask(client, b"before") == b"before"
    process.send_signal(signal.SIGINT)
    wait_until_refused(address)
    assert ask(client, b"between") == b"between"
    assert process.finish(signal.SIGTERM) == (0, "", "")
    assert client.recv(1) == b""


# The server as a module


def test_shutdown_from_a_handler_lets_its_connection_finish(connect):
    class Last(Echo):
        def data_received(self, data):
            server.shutdown()
            super().data_received(data)

    with TCPServer(("localhost", 0), Last) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = connect(server.address)
        assert exchange(client, b"the last") == b"the last"
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_the_shorter_of_two_grace_periods_counts(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo), grace_s=1_000))
    client = connect(server.address)
    assert ask(client, b"hi") == b"hi"
    server.shutdown()
    server.shutdown(0)
    assert isinstance(events.wait_for("lost"), ConnectionAbortedError)
    assert client.recv(1) == b""


def test_close_while_serving_ends_the_open_connections(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo), grace_s=1_000))
    client = connect(server.address)
    assert ask(client, b"hi") == b"hi"
    server.close()
    assert isinstance(events.wait_for("lost"), ConnectionAbortedError)
    assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(server.address)


def test_a_connection_knows_its_peer(serving, connect, events):
    server = serving(TCPServer(("localhost", 0), events.watch(Echo)))
    client = connect(server.address)
    assert events.wait_for("made").peer == client.getsockname()[:2]


def test_send_after_close_and_after_the_loss_is_ignored(serving, connect, events):
    class Late(Greeter):
        def connection_made(self, connection):
            super().connection_made(connection)
            self.connection = connection
            connection.send(b" Too late.")
            connection.close()

        def connection_lost(self, error):
            self.connection.send(b"Far too late.")
            self.connection.close()

    server = serving(TCPServer(("localhost", 0), events.watch(Late)))
    with connect(server.address) as client:
        assert read_to_end(client) == GREETING
    assert events.wait_for("lost") is None


def test_a_peer_that_leaves_too_much_unread_is_dropped_even_if_it_reads_on(serving, connect, events, caplog):
    caplog.set_level("INFO")
    caught_up = threading.Event()

    class Pushing(Handler):
        def data_received(self, data):
            self.connection.send(b"x" * 32 * MIB)
            caught_up.wait(WAIT_S)
            self.connection.send(b"y")

    server = serving(TCPServer(("localhost", 0), events.watch(Pushing)))
    client = connect(server.address)
    client.sendall(b"go")
    read_exactly(client, 1)  # the handler has sent, and waits; how much fits between them is the kernel's affair
    caught_up.set()
    whole = 32 * MIB
    assert len(answer_of(client)) < whole
    assert events.wait_for("lost").strerror == "the peer does not read"
    assert "idle" not in caplog.text


@pytest.mark.parametrize("where", ["factory", "connection_made", "data_received", "connection_lost"])
def test_a_handler_that_raises_ends_only_its_connection_and_is_logged(serving, connect, caplog, where):
    failed = threading.Event()

    class Bad(Echo):
        def fail_in(self, place):
            if place == where and not failed.is_set():
                failed.set()
                raise ZeroDivisionError("a bug in the handler")

        def __init__(self):
            self.fail_in("factory")

        def connection_made(self, connection):
            self.fail_in("connection_made")
            super().connection_made(connection)

        def data_received(self, data):
            self.fail_in("data_received")
            super().data_received(data)

        def connection_lost(self, error):
            self.fail_in("connection_lost")

    server = serving(TCPServer(("localhost", 0), Bad))
    client = connect(server.address)
    peer = tcp_server.format_address(client.getsockname())
    with contextlib.suppress(OSError):
        client.sendall(b"x")
        client.shutdown(socket.SHUT_WR)
        read_to_end(client)
    assert failed.wait(WAIT_S)
    assert ask(connect(server.address), b"others are served") == b"others are served"
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tcp_server", "ERROR")
    assert record.getMessage() == f"the handler of {peer} failed"
    assert record.exc_info[0] is ZeroDivisionError


def test_a_handler_that_raises_gets_its_exception_in_connection_lost(serving, connect, events):
    class Bad(Handler):
        def data_received(self, data):
            raise ZeroDivisionError

    server = serving(TCPServer(("localhost", 0), events.watch(Bad)))
    connect(server.address).sendall(b"x")
    assert isinstance(events.wait_for("lost"), ZeroDivisionError)


# At the command line


def test_once_serves_one_connection_and_exits(script, connect):
    process, address = start_server(script, "--once")
    with connect(address) as client:
        assert read_to_end(client) == GREETING
    code, out, err = process.finish()
    assert (code, out.count("Connection from"), err) == (0, 1, "")


def test_once_waits_as_long_as_the_connection_lasts(script, connect):
    process, address = start_server(script, "--once", "--echo", "--grace", 0)
    client = connect(address)
    wait_until_refused(address)
    assert exchange(client, b"x" * MIB) == b"x" * MIB
    assert process.finish()[::2] == (0, "")


@needs_ipv6
def test_once_serves_one_connection_on_all_addresses_together(monkeypatch, connect):
    resolve_to(monkeypatch, "127.0.0.1", "::1")
    args = tcp_server.parse_args(["--port", "0", "--once"])
    with tcp_server.build_server(args) as server:
        clients = [connect(address) for address in server.addresses]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        answers = [answer_of(client) for client in clients]
        for client in clients:
            client.close()
        thread.join(WAIT_S)
    assert sorted(answers) == [b"", GREETING]


def test_quiet_prints_no_line_for_a_connection(script, connect):
    process, address = start_server(script, "-q")
    with connect(address) as client:
        assert read_to_end(client) == GREETING
    assert process.finish(signal.SIGINT) == (0, "", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--host", "nowhere.invalid"),
        ("--host", "a..b"),
        ("--host", "x" * 64),
        ("--host", "198.51.100.1"),
        ("--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"),
        ("--tls-cert", "/dev/null", "--tls-key", "/dev/null"),
    ],
)
def test_an_unusable_address_or_certificate_is_one_error_and_status_1(run, arguments):
    status, out, err = run("tcp_server.py", "--port", "0", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("tcp_server.py: error: cannot ")
    assert err.count("\n") == 1


def in_time_wait(port):
    """Whether the system keeps a connection of that local port for stragglers (RFC 9293 section 3.3.2)."""
    with open("/proc/net/tcp") as lines:
        fields = [line.split() for line in lines]
    return any(local.endswith(f":{port:04X}") and state == "06" for _, local, _, state, *_ in fields[1:])


@needs_proc
def test_it_restarts_on_the_same_port_at_once(script, connect):
    process, (host, port) = start_server(script)
    with connect((host, port)) as client:
        assert read_to_end(client) == GREETING
    assert process.finish(signal.SIGINT)[0] == 0
    if not in_time_wait(port):
        pytest.skip("the kernel has no room left for TIME_WAIT (net.ipv4.tcp_max_tw_buckets)")
    again = script("tcp_server.py", "--host", host, "--port", port)
    assert again.wait_until_listening() == (host, port)
    with connect((host, port)) as client:
        assert read_to_end(client) == GREETING
    assert again.finish(signal.SIGINT)[0] == 0


# TLS


@pytest.fixture
def connect_tls(connect, closing, trust):
    """connect_tls(address) is a connection after the handshake, the certificate checked."""
    return lambda address: closing(trust.wrap_socket(connect(address), server_hostname="localhost"))


def exchange_tls(sock, trust, data):
    """Send all, close_notify and half-close, and read the answer meanwhile, up to the peer's close_notify.

    A TLS of memory buffers, for SSLSocket can neither half-close nor be used by two threads.
    """
    incoming, outgoing, answer = ssl.MemoryBIO(), ssl.MemoryBIO(), bytearray()
    peer = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")

    def pump():
        if outgoing.pending:
            sock.sendall(outgoing.read())
        wire = sock.recv(65_536)
        incoming.write(wire) if wire else incoming.write_eof()

    while True:
        try:
            peer.do_handshake()
            break
        except ssl.SSLWantReadError:
            pump()
    peer.write(data)
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.unwrap()
    sealed = outgoing.read()

    def send():
        sock.sendall(sealed)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    while True:
        try:
            piece = peer.read(65_536)
        except ssl.SSLWantReadError:
            pump()
            continue
        except ssl.SSLZeroReturnError:
            break
        if not piece:
            break
        answer += piece
    sender.join()
    return bytes(answer)


def test_the_greeting_over_tls_ends_with_close_notify(script, certificate, connect, closing, trust):
    process, address = start_server(script, "--tls-cert", certificate[0], "--tls-key", certificate[1])
    raw = connect(address)
    client = closing(trust.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False))
    assert read_to_end(client) == GREETING
    client.close()
    assert process.finish(signal.SIGINT)[::2] == (0, "")


def test_a_tls_client_that_sends_first_gets_the_greeting_and_no_reset(serving, tls, connect_tls):
    server = serving(TCPServer(("localhost", 0), Greeter, ssl_context=tls))
    client = connect_tls(server.address)
    client.sendall(b"x" * 100_000)
    assert read_to_end(client) == GREETING


def test_echo_over_tls(serving, tls, connect_tls):
    server = serving(TCPServer(("localhost", 0), Echo, ssl_context=tls))
    client = connect_tls(server.address)
    for length in 1, 16_384, 16_385, 100_000:
        data = os.urandom(length)
        assert ask(client, data) == data


@pytest.mark.parametrize("length", [5, 4 * MIB])
def test_a_half_close_over_tls_gets_the_whole_echo(serving, tls, trust, connect, length):
    data = os.urandom(length)
    server = serving(TCPServer(("localhost", 0), Echo, ssl_context=tls))
    assert exchange_tls(connect(server.address), trust, data) == data


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(serving, tls, trust, connect_tls, version):
    trust.minimum_version = trust.maximum_version = version
    server = serving(TCPServer(("localhost", 0), Greeter, ssl_context=tls))
    client = connect_tls(server.address)
    assert client.version() == version.name.replace("v1_", "v1.")
    assert read_to_end(client) == GREETING


def test_an_empty_greeting_over_tls_is_an_orderly_end(serving, tls, trust, connect, closing, events):
    server = TCPServer(("localhost", 0), functools.partial(events.watch(Greeter), b""), ssl_context=tls, timeout_s=2)
    raw = connect(serving(server).address)
    with contextlib.suppress(queue.Empty):
        events.get(timeout=0.1)  # A server could send it before the handshake.
    client = closing(trust.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False))
    assert client.recv(1) == b""


@pytest.mark.parametrize("handler", [Greeter, Echo])
def test_a_client_without_tls_on_a_tls_port_is_one_log_line(serving, tls, connect, connect_tls, caplog, handler):
    server = serving(TCPServer(("localhost", 0), handler, ssl_context=tls))
    caplog.set_level("INFO", "tcp_server")
    other = connect_tls(server.address)
    plain = connect(server.address)
    peer = tcp_server.format_address(plain.getsockname())
    plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert GREETING not in answer_of(plain)
    if handler is Echo:
        assert ask(other, b"others are served") == b"others are served"
    else:
        assert read_to_end(other) == GREETING
    server.close()
    messages = [message for message in caplog.messages if "TLS" in message]
    assert messages == [f"TLS handshake with {peer} failed: HTTP_REQUEST"]


def test_a_client_cannot_renegotiate(certificate):
    assert tcp_server.server_context(*certificate).options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("handler", [Greeter, Echo])
def test_a_client_silent_in_the_handshake_blocks_nobody_and_is_dropped(serving, tls, connect, connect_tls, handler):
    server = serving(TCPServer(("localhost", 0), handler, ssl_context=tls, timeout_s=0.5))
    silent, half_way = connect(server.address), connect(server.address)
    half_way.sendall(b"\x16\x03\x01")
    other = connect_tls(server.address)
    if handler is Echo:
        assert ask(other, b"others are served") == b"others are served"
    else:
        assert read_to_end(other) == GREETING
    assert select.select([silent, half_way], [], [], 0)[0] == []
    assert silent.recv(1) == b""
    assert half_way.recv(1) == b""


@pytest.mark.parametrize(("mode", "lines"), [([], 1), (["-q"], 0)], ids=["verbose", "quiet"])
def test_tls_failures_are_logged_once_for_each_cause_and_address_and_never_with_quiet(
    script, certificate, connect, mode, lines
):
    options = [*mode, "--tls-cert", certificate[0], "--tls-key", certificate[1]]
    process, address = start_server(script, *options, ignored=["ResourceWarning"])
    for _ in range(20):
        with connect(address) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer_of(client)
    status, out, err = process.finish(signal.SIGTERM)
    assert (status, (out + err).count("TLS handshake with")) == (0, lines)


def test_an_encrypted_key_without_a_terminal_is_one_line_and_no_prompt(script, certificate, tmp_path):
    key = tmp_path / "encrypted.pem"
    command = ["openssl", "pkey", "-in", certificate[1], "-out", key, "-aes256", "-passout", "pass:secret"]
    subprocess.run(command, check=True, capture_output=True)
    options = ["--port", 0, "--tls-cert", certificate[0], "--tls-key", key]
    status, out, err = script("tcp_server.py", *options, start_new_session=True).finish()
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "encrypted" in err
    assert "PEM pass phrase" not in err


@pytest.mark.parametrize("mode", [[], ["--echo"]])
def test_port_scans_of_a_tls_port_leave_no_connection_behind(script, certificate, connect_tls, mode):
    options = ["-q", *mode, "--tls-cert", certificate[0], "--tls-key", certificate[1]]
    # Before Python 3.13, ssl leaves a socket that is reset while it is wrapped to the garbage collector, which warns.
    process, address = start_server(script, *options, ignored=["ResourceWarning"])
    for number in range(30):
        client = socket.create_connection(address, timeout=WAIT_S)
        (reset if number % 2 else socket.socket.close)(client)
    client = connect_tls(address)
    if not mode:
        assert read_to_end(client) == GREETING
    client.close()
    assert process.finish(signal.SIGINT) == (0, "", "")


def test_a_tls_peer_that_does_not_read_is_not_read_from(serving, tls, connect_tls):
    server = serving(TCPServer(("localhost", 0), Echo, ssl_context=tls))
    client = connect_tls(server.address)
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 256 * MIB:
            sent += client.send(b"x" * 16_384)
    assert sent < 128 * MIB
    client.settimeout(WAIT_S)
    assert read_exactly(client, sent) == b"x" * sent


# What the ten-line version gets wrong


def start_ten_lines(script, *arguments):
    process = script(TEN_LINES, *(arguments or [0]))
    return process, process.wait_until_listening()


def test_ten_lines_serve_one_client_at_a_time(script, connect, serving):
    _, address = start_ten_lines(script, 0, "--echo")
    silent, other = connect(address), connect(address)
    other.sendall(b"hello?")
    assert select.select([other], [], [], 0.3)[0] == []
    silent.close()
    assert other.recv(6) == b"hello?"

    address = serving(TCPServer(("localhost", 0), Echo)).address
    silent, other = connect(address), connect(address)
    assert ask(other, b"hello?") == b"hello?"


def test_ten_lines_reset_a_client_that_talks_first(script, connect, serving):
    process, address = start_ten_lines(script)
    process.send_signal(signal.SIGSTOP)
    client = connect(address)
    client.sendall(b"x" * 10_000)
    process.send_signal(signal.SIGCONT)
    with pytest.raises(ConnectionResetError):
        read_to_end(client)

    server = TCPServer(("localhost", 0), Greeter)
    client = connect(server.address)
    client.sendall(b"x" * 10_000)
    serving(server)
    assert read_to_end(client) == GREETING


def test_ten_lines_echo_a_part(script, connect, serving):
    data = os.urandom(MIB)
    _, address = start_ten_lines(script, 0, "--echo")
    client = connect(address)
    with contextlib.suppress(ConnectionError):
        client.sendall(data)
    assert len(answer_of(client)) <= 1_024

    address = serving(TCPServer(("localhost", 0), Echo)).address
    assert exchange(connect(address), data) == data


@needs_prlimit
def test_ten_lines_die_without_file_descriptors(script, connect):
    def starve(process):
        hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))
        return hard

    process, address = start_ten_lines(script)
    starve(process)
    connect(address)
    code, _, err = process.finish()
    assert code == 1
    assert f"OSError: [Errno {errno.EMFILE}] Too many open files" in err

    process, address = start_server(script, "-q")
    hard = starve(process)
    client = connect(address)
    assert "Too many open files" in process.stderr.readline()
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert read_to_end(client) == GREETING


@needs_proc
def test_ten_lines_cannot_restart(script, run, connect):
    process, (host, port) = start_ten_lines(script)
    with connect((host, port)) as client:
        assert read_to_end(client) == GREETING
    process.finish(signal.SIGTERM)
    if not in_time_wait(port):
        pytest.skip("the kernel has no room left for TIME_WAIT (net.ipv4.tcp_max_tw_buckets)")
    code, _, err = script(TEN_LINES, port).finish()
    assert code == 1
    assert f"OSError: [Errno {errno.EADDRINUSE}] Address already in use" in err

    process, (host, port) = start_server(script)
    with connect((host, port)) as client:
        assert read_to_end(client) == GREETING
    process.finish(signal.SIGTERM)
    if not in_time_wait(port):
        pytest.skip("the kernel has no room left for TIME_WAIT (net.ipv4.tcp_max_tw_buckets)")
    again = script("tcp_server.py", "--host", host, "--port", port)
    assert again.wait_until_listening() == (host, port)


@needs_ipv6
def test_ten_lines_listen_on_ipv4_only(script, connect, serving, monkeypatch):
    resolve_to(monkeypatch, "127.0.0.1", "::1")
    _, (_, port) = start_ten_lines(script)
    with pytest.raises(ConnectionRefusedError):
        connect(("::1", port))

    _, port = serving(TCPServer(("localhost", 0), Greeter)).address
    assert read_to_end(connect(("::1", port))) == GREETING
