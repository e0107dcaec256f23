"""What all scripts, all clients, all servers or both sniffers have in common: options, output, signals and limits."""

import ast
import contextlib
import ctypes
import errno
import importlib
import json
import os
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import fake_weather
import pytest
from conftest import (
    FREE_PORT,
    ROOT,
    TIME_LIMIT_S,
    free_port,
    in_namespace,
    needs_ipv6,
    only_error,
    process_status,
    resolve_to,
    write_setting,
)

import async_client
import http_analyzer
import tcp_client
from tcp_server import Greeter, TCPServer
from udp_server import UDPServer

EVIL = bytes(range(256)) + "\x9b31m\u202e\u2066\u2028\x1b]0;owned\x07\r\nforged line".encode()
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))

needs_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="needs root: sudo .venv/bin/python -m pytest"
)


class World:
    """The peers and files of the scripts, on loopback, which contain `text`."""

    def __init__(self, serving, tmp_path, text=b"Hello, World!"):
        self.serving, self.folder, self.text, self.cleanup = serving, tmp_path, text, contextlib.ExitStack()

    def greeting(self):
        return self.serving(TCPServer(("127.0.0.1", 0), lambda: Greeter(self.text))).address[1]

    def datagrams(self):
        return self.serving(UDPServer(("127.0.0.1", 0), lambda data, peer: self.text)).address[1]

    def weather(self, monkeypatch):
        server = self.serving(fake_weather.FakeWeather())
        self.cleanup.callback(server.shutdown)
        words = self.text.decode("utf-8", "replace")
        server.edit["/v1/search"] = lambda answer: answer["results"][0].update(admin1=words, country=words)
        for name in ("OPEN_METEO_URL", "OPEN_METEO_GEOCODING_URL"):
            monkeypatch.setenv(name, server.url)
        return server

    def capture(self):
        """A pcap file of one connection: a request and its response, with the text wherever there can be one."""
        path = self.folder / "capture.pcap"
        request = b"GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (self.text.replace(b"\n", b""), self.text[14:31])
        response = b"HTTP/1.1 200 %s\r\nContent-Type: %s\r\nContent-Length: 0\r\n\r\n" % (b"OK", self.text[14:31])
        frames = [segment(40_000, 80, 1, 1, request), segment(80, 40_000, 1, 1 + len(request), response)]
        records = [
            struct.pack("<IIII", 1_000 + at, 0, len(frame), len(frame)) + frame for at, frame in enumerate(frames)
        ]
        path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101) + b"".join(records))
        return path


def segment(sport, dport, seq, ack, data):
    """Return a raw IPv4 packet with a TCP segment, without checksums."""
    addresses = bytes([127, 0, 0, 1]) * 2
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0, 64, 6, 0) + addresses
    return ip + struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, 0x18, 65_535, 0, 0) + data


@pytest.fixture
def world(serving, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or "API_KEY" in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    world = World(serving, tmp_path)
    with world.cleanup:
        yield world


# How each client and sniffer is started so that it prints something that came from a network, and ends by itself.
SCENES = {
    "tcp_client.py": lambda world, _: ["--port", world.greeting()],
    "tcp_client.py --raw": lambda world, _: ["--port", world.greeting()],
    "udp_server.py --send": lambda world, _: ["hello", "--port", world.datagrams()],
    "async_client.py": lambda world, _: ["--port", world.greeting()],
    "async_client.py -n 3": lambda world, _: ["--port", world.greeting()],
    "async_client.py --json": lambda world, _: ["--port", world.greeting()],
    "weather.py London": lambda world, monkeypatch: [world.weather(monkeypatch) and "--no-cache"],
    "weather.py --forecast London": lambda world, monkeypatch: [world.weather(monkeypatch) and "--no-cache"],
    "weather.py --json London": lambda world, monkeypatch: [world.weather(monkeypatch) and "--no-cache"],
    "sniff.py -A": lambda world, _: ["-r", world.capture()],
    "sniff.py --json": lambda world, _: ["-r", world.capture()],
    "sniff.py --top": lambda world, _: ["-r", world.capture()],
    "http_analyzer.py --headers": lambda world, _: ["-r", world.capture()],
    "http_analyzer.py --json": lambda world, _: ["-r", world.capture()],
    "http_analyzer.py --summary": lambda world, _: ["-r", world.capture()],
}
BARE = {name.partition(" ")[0]: name for name in reversed(SCENES)}  # the first scene of each script
INFORMATIVE = ("weather.py", "sniff.py")  # They print a source or a count to standard error.
CAPTURES = ["sniff.py", "http_analyzer.py"]
SERVERS = {"tcp_server.py": socket.SOCK_STREAM, "udp_server.py": socket.SOCK_DGRAM}

every_script = pytest.mark.parametrize("name", SCRIPTS)
# JSON and forecasts are written by the same code as the other formats of their scripts.
every_writer = pytest.mark.parametrize(
    "scene", [scene for scene in SCENES if "--json" not in scene and "--forecast" not in scene]
)
every_client = pytest.mark.parametrize("scene", BARE.values(), ids=BARE)
every_server = pytest.mark.parametrize("name", SERVERS)
every_sniffer = pytest.mark.parametrize("name", CAPTURES)


@pytest.fixture
def run_scene(script, world, monkeypatch):
    """run_scene(SCENE, **OPTIONS) starts the script of a scene as a process."""
    return lambda scene, **options: script(*scene.split(), *SCENES[scene](world, monkeypatch), **options)


def errors(text):
    return [line for line in text.splitlines() if ": error: " in line]


def ask(name, port, message=b"hello?", host="127.0.0.1"):
    """Return the answer of a server, as soon as it serves."""
    family, deadline = socket.AF_INET6 if ":" in host else socket.AF_INET, time.monotonic() + TIME_LIMIT_S / 2
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(family, SERVERS[name]) as client:
            client.settimeout(0.2)
            client.connect((host, port))
            if client.getsockname()[:2] == (host, port):
                continue  # A free port may become the client's, which is then connected to itself.
            client.sendall(message)
            if answer := client.recv(100):
                return answer
    raise AssertionError("no answer")


# Options


@every_script
def test_help_is_the_docstring_wrapped_to_80_columns(name, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(name, "--help")
    summary, _, examples = ast.get_docstring(ast.parse((ROOT / name).read_text())).partition("\n\n")
    assert (status, err) == (0, "")
    assert " ".join(summary.split()) in " ".join(out.split())
    assert out.endswith(examples + "\n")
    assert examples.startswith("examples:\n")
    assert max(len(line) for line in out.splitlines()) <= 80


@every_script
def test_help_works_on_a_terminal_of_one_column(name, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    assert "examples:" in run(name, "--help")[1]


@every_script
def test_version_is_printed(name, run):
    assert run(name, "--version") == (0, f"{name} {tcp_client.__version__}\n", "")


# Arguments that are wrong, separated by "|".
WRONG_USAGE = {
    "tcp_client.py": "--port 0|--port 65536|--port http|--timeout 0|--timeout nan|--wait -1|--max-bytes 0|--ca file"
    "|--insecure|--bogus|host 12345 more|host port",
    "tcp_server.py": "--port 65536|--port -1|--port http|--timeout 0|--timeout -1|--timeout nan|--timeout inf"
    "|--grace -1|--max-connections 0|--max-connections 1.5|--message hi --echo|--tls-cert cert.pem|--tls-key key.pem"
    "|--bogus|word",
    "udp_server.py": "--port 65536|--port -1|--port x|--timeout 0|--timeout nan|--broadcast|--bogus",
    "async_client.py": "--port 0|--port 65536|-n 0|-c 0|-r 0|-n x|--timeout 0|--timeout nan|--insecure|--ca x|--bogus",
    "weather.py": "|,|London , Paris|London --units kelvin|London --lang x|London --forecast 17|London --bogus",
    "sniff.py": "-c 0|-x -A|-X -A|--duration 0|-w - --print|-w - --top|--buffer 0|-r x -i lo|-W 3|-C 1|-C 1 -w -"
    "|--json -x|--json -X|--json -A|--json -v|--json --top|--bogus",
    "http_analyzer.py": "-c 0|-r x -i lo|--summary --format har|--max-body 0|--bogus",
}


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name in SCRIPTS for words in WRONG_USAGE[name].split("|")]
)
def test_wrong_usage_is_one_error_and_status_2(name, words, run):
    status, out, err = run(name, *words.split())
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"{name}: error: ")
    assert "e+" not in err  # Limits are printed as 1,000,000 and not as 1e+06.


@every_sniffer
def test_a_filter_without_scapy_is_one_error(name, run, tmp_path, monkeypatch):
    path = tmp_path / "a.pcap"
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1))
    for module in [module for module in sys.modules if module.startswith("scapy")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "scapy", None)
    status, out, err = run(name, "-r", path, "tcp", "port", "9")
    assert (status, out, err.count("\n"), err.count("pip install scapy")) == (1, "", 1, 1)


@every_sniffer
@pytest.mark.parametrize("file", ["capture.pcap", "/tmp/x.pcapng.gz", "./trace"])
def test_a_capture_file_without_r_is_an_error_with_a_hint(name, file, run):
    status, out, err = run(name, file)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"did you mean -r {file}?" in err


@every_sniffer
def test_an_interface_without_i_is_an_error_with_a_hint(name, run):
    interface = socket.if_nameindex()[0][1]
    assert only_error(run(name, interface)).endswith(f"{interface} is not a filter; did you mean -i {interface}?")


@needs_ipv6
@every_server
def test_an_address_in_brackets_is_accepted(name, script):
    assert script(name, "--host", "[::1]", "-p", 0).wait_until_listening()[0] == "::1"


# Output


@every_writer
def test_a_full_disk_is_one_error(scene, run_scene):
    with open("/dev/full", "w") as full:
        status, _, err = run_scene(scene, stdout=full).finish()
    assert status == 1
    assert errors(err) == [f"{scene.split()[0]}: error: cannot write the output: No space left on device"]
    assert "Traceback" not in err
    assert err.count("\n") == 1 or scene.startswith(INFORMATIVE)


@every_writer
def test_a_closed_pipe_ends_it_quietly(scene, run_scene, closed_pipe):
    status, _, err = run_scene(scene, stdout=closed_pipe).finish()
    assert (status, errors(err), "Traceback" in err) == (0, [], False)
    assert err == "" or scene.startswith(INFORMATIVE)


@every_client
@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_closed_standard_descriptors_are_no_error(scene, closed, run_scene):
    status, out, err = run_scene(scene, preexec_fn=lambda: [os.close(descriptor) for descriptor in closed]).finish()
    assert "Traceback" not in err
    assert (status, bool(out)) == (0, 1 not in closed)


@pytest.mark.parametrize("closed", [[0], [1], [2], [1, 2], [0, 1, 2]])
def test_a_socket_gets_no_standard_descriptor(closed):
    code = "import socket, sys, tcp_client\ntcp_client.reserve_standard_descriptors()\n"
    code += "sys.exit(socket.socket().fileno() < 3)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, preexec_fn=lambda: [os.close(number) for number in closed]).returncode == 0


@every_writer
def test_characters_that_the_terminal_lacks_are_escaped(scene, world, run_scene, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    world.text = "\u0107ao \u2603 \u4e16\u754c".encode()
    status, out, err = run_scene(scene).finish()
    assert (status, "Traceback" in err) == (0, False)
    if scene in BARE.values() and scene != "sniff.py -A":  # -A shows a dot for a byte that is not ASCII.
        assert "\\u2603" in out


@every_server
@pytest.mark.parametrize("output", ["full disk", "closed pipe", "closed 1", "closed 2", "closed 1 2", "ascii"])
def test_a_server_continues_without_an_output_to_write_to(name, output, script):
    port = free_port(SERVERS[name])
    closed = [int(word) for word in output.split() if word.isdigit()]
    options = {"preexec_fn": lambda: [os.close(number) for number in closed]}
    with open("/dev/full", "w") as full:
        options |= {"stdout": full} if output == "full disk" else {}
        process = script(name, "--port", port, env=os.environ | {"PYTHONIOENCODING": "ascii"}, **options)
        if output == "closed pipe":
            process.stdout.close()
            process.stdout = None
        for _ in range(3):
            assert ask(name, port, "\u2603".encode())
        status, out, err = process.finish(signal.SIGTERM)
    assert (status, "Traceback" in err) == (0, False)
    assert err.count("\n") == (name == "udp_server.py" and 2 not in closed)  # its counters
    assert all(line.startswith(("Listening", "Connection", "Received")) for line in (out or "").splitlines())
    assert output != "ascii" or name == "tcp_server.py" or "\\u2603" in out


FLOOD = 3_000  # A pipe holds about 1,900 of tcp_server.py's lines.


@pytest.fixture
def flooded(script, tmp_path):
    """flooded(NAME, **OPTIONS) starts a server with a short queue, and prints more lines than the pipe and it hold."""

    def start(name, **options):
        module = name.removesuffix(".py")
        program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport {module}\n"
        program += f"{module}.MAX_QUEUED_LINES = 100\nsys.exit({module}.main())\n"
        (tmp_path / name).write_text(program)
        process = script(tmp_path / name, *FREE_PORT, **options)
        address = process.wait_until_listening()
        for _ in range(FLOOD):
            with socket.socket(type=SERVERS[name]) as client:
                client.connect(address)
                client.send(bytes(200))
                assert client.recv(300)
        return process

    return start


@every_server
def test_a_reader_that_stops_reading_stops_neither_the_server_nor_sigterm(name, flooded):
    process = flooded(name, stderr=subprocess.STDOUT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(4) == 0


@every_server
def test_dropped_lines_are_counted_when_the_reader_reads_again(name, flooded):
    process = flooded(name)
    with ThreadPoolExecutor() as pool:
        output = pool.submit(process.stdout.read)
        line = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
    text = rf"{re.escape(name)}: warning: (\d+) log lines were dropped, because nobody read the output\n"
    assert int(re.fullmatch(text, line)[1]) + output.result().count("\n") == FLOOD


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "x"),
         "the name cannot be looked up for now; check the network connection, or try again"),
        (socket.gaierror(socket.EAI_NONAME, "x"),
         "unknown host; check the spelling of the name, which has no http:// and no port"),
        (ssl.SSLEOFError(), "TLS failed: the server sent no close_notify, so the answer may be incomplete; try again"),
        (TimeoutError(), "no answer in time; is this the right port? (--timeout)"),
        (ConnectionRefusedError(), "connection refused; is the server running, and is this its port?"),
        (ConnectionResetError(), "connection reset: the server closed it early; its log may contain the reason"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"),
         "Network is unreachable; check the address and the network connection"),
        (OSError(errno.EADDRNOTAVAIL, "x"),
         "no local port or address is free; make fewer connections, wait a minute, or use IPv4 if IPv6 is off"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)  # fmt: skip
def test_an_error_of_a_connection_states_the_cause_and_what_to_try(error, text):
    assert tcp_client.explain(error) == async_client.explain(error) == text


@pytest.mark.parametrize("module", [async_client, http_analyzer])
def test_times_have_three_digits_and_the_unit_that_fits(module):
    times = {0.0: "0 µs", 1.234e-6: "1.23 µs", 9.994e-4: "999 µs", 9.996e-4: "1 ms", 0.25: "250 ms", 1.5: "1.5 s"}
    times |= {999.4: "999 s", 1_234.5: "1,234 s"}
    assert {seconds: module.format_seconds(seconds) for seconds in times} == times


# Text from the network


@pytest.mark.parametrize("scene", [scene for scene in SCENES if "--raw" not in scene])
def test_no_control_character_reaches_the_terminal(scene, world, run, monkeypatch):
    world.text = EVIL
    status, out, err = run(*scene.split(), *SCENES[scene](world, monkeypatch))
    assert (status, "Traceback" in err) == (0, False)
    assert out
    for line in (out + err).splitlines():
        assert all(char.isprintable() or char == "\t" for char in line), repr(line)
    assert not any(line.startswith("forged") for line in out.split("\n"))
    if "--json" in scene:
        assert all(json.loads(line) for line in out.splitlines())


@pytest.mark.parametrize("name", ["tcp_client.py", "async_client.py"])
def test_an_endless_answer_is_one_error(name, script):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = script(name, "--port", listener.getsockname()[1], "--timeout", 25)
        with listener.accept()[0] as peer, contextlib.suppress(OSError):
            while True:
                peer.sendall(b"blah" * 1_000)
        status, out, err = process.finish()
    assert (status, len(errors(err))) == (1, 1)
    assert len(out) < 2 << 20


# Too much, and too little


def peak_memory_kb(process):
    return int(process_status(process)["VmHWM"][0])


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
@every_server
def test_a_flood_leaves_a_server_answering_and_small(name, script):
    process = script(name, *FREE_PORT, "-q")
    address = process.wait_until_listening()
    before = peak_memory_kb(process)
    for number in range(2_000):
        with socket.socket(socket.AF_INET, SERVERS[name]) as flood:
            flood.connect(address)
            flood.send(EVIL)
            if number % 2 and SERVERS[name] == socket.SOCK_STREAM:
                flood.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ask(name, address[1])
    assert peak_memory_kb(process) - before < 20_000
    status, out, err = process.finish(signal.SIGTERM)
    assert (status, out, errors(err), "Traceback" in err) == (0, "", [], False)


@pytest.mark.parametrize("name", ["tcp_server", "async_client"])
def test_a_limit_of_open_files_that_cannot_be_raised_is_used(name, monkeypatch):
    def setrlimit(*_):
        raise ValueError("current limit exceeds maximum limit")  # macOS has a limit below the hard one.

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1 << 60))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert importlib.import_module(name).raise_file_limit(1_000) == 256 - 64


@every_client
def test_too_few_descriptors_are_one_error(scene, run_scene):
    """Python itself starts with five descriptors. Seven are enough for each script."""
    for limit in (5, 6, 7):
        starve = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, limit))
        status, out, err = run_scene(scene, preexec_fn=starve).finish()
        if status not in (0, 1) or "init_import_site" in err or "BaseEventLoop.__del__" in err:
            continue  # not even Python starts, or asyncio's event loop
        assert "Traceback" not in err, f"{limit} descriptors: {err}"
        assert (status, bool(out)) == (0, True) or (status, len(errors(err))) == (1, 1), (limit, status, err)


SIGNAL_IN_A_THREAD = """
import signal
import sys
import threading

def wait_for_input():
    sys.stdin.readline()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=wait_for_input, daemon=True).start()
"""


@every_server
def test_a_signal_that_does_not_interrupt_select_ends_a_server(name, script, customize):
    """A signal just before select() does not, and one that another thread receives."""
    customize(SIGNAL_IN_A_THREAD)
    process = script(name, "--port", 0, "-q", stdin=subprocess.PIPE)
    wait_until_waiting(process)
    process.stdin.write("\n")
    status, _, err = process.finish()
    assert (status, "Traceback" in err) == (0, False)


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_wait_for_a_peer_or_for_input(name, number, world, script, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket(type=socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        for variable in ("OPEN_METEO_URL", "OPEN_METEO_GEOCODING_URL"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        arguments = {
            "udp_server.py": ["--port", deaf.getsockname()[1], "--send", "hello", "--timeout", 60],
            "weather.py": ["London", "--timeout", 60],
            "sniff.py": ["-r", "-"],
            "http_analyzer.py": ["-r", "-"],
        }.get(name, ["--port", port, "--timeout", 60])
        process = script(name, *arguments, stdin=subprocess.PIPE)
        wait_until_waiting(process)
        status, out, err = process.finish(number)
    stopped = 0 if name in CAPTURES else 130 if number == signal.SIGINT else -signal.SIGTERM
    assert (status, out.replace("Sending: Hello, World!\n", ""), "Traceback" in err) == (stopped, "", False)


def wait_until_waiting(process):
    """Until it has had nothing to do for a while: there is no event to wait for in a process that waits."""
    deadline, before, idle = time.monotonic() + TIME_LIMIT_S / 2, b"", 0
    while idle < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            now = file.read()
        before, idle = now, idle + 1 if now == before else 0


# The servers as modules

MAKE = {"tcp_server.py": partial(TCPServer, handler_factory=Greeter), "udp_server.py": UDPServer}


def serve_to_the_end(server):
    """Run serve_forever() in a thread. It must return by itself."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    thread.join(TIME_LIMIT_S / 2)
    assert not thread.is_alive()


@needs_ipv6
@every_server
def test_all_addresses_of_a_name_are_served_on_one_port(name, serving, monkeypatch):
    resolve_to(monkeypatch, "127.0.0.1", "::1")
    server = serving(MAKE[name](("localhost", 0)))
    port = server.address[1]
    assert server.addresses == [("127.0.0.1", port), ("::1", port)]
    assert ask(name, port) == ask(name, port, host="::1")


@needs_ipv6
@every_server
def test_each_address_is_printed_with_the_same_port(name, script):
    process = script(name, "--host", "", "--port", 0)
    lines = [process.stdout.readline() for _ in range(2)]
    port = lines[0].rpartition(":")[2].strip()
    assert sorted(lines) == [f"Listening on 0.0.0.0:{port}\n", f"Listening on [::]:{port}\n"]


@every_server
def test_an_address_that_this_machine_does_not_have_is_skipped(name, serving, monkeypatch):
    resolve_to(monkeypatch, "198.51.100.1", "127.0.0.1")
    server = serving(MAKE[name](("localhost", 0)))
    assert [host for host, _ in server.addresses] == ["127.0.0.1"]
    assert ask(name, server.address[1])


@every_server
def test_a_name_without_an_address_of_this_machine_is_an_error(name, monkeypatch):
    resolve_to(monkeypatch, "198.51.100.1", "203.0.113.1")
    with pytest.raises(OSError, match="annot assign requested address"):
        MAKE[name](("localhost", 0))


@every_server
@pytest.mark.parametrize("port", [0, None], ids=["any port", "a port"])
def test_an_address_that_a_name_has_twice_is_bound_once(name, port, monkeypatch):
    port = free_port(SERVERS[name]) if port is None else port
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.1")
    with MAKE[name](("localhost", port)) as server:
        assert len(server.addresses) == 1


@needs_ipv6
@every_server
def test_a_port_in_use_on_one_of_two_addresses_is_an_error_and_frees_the_other(name, monkeypatch):
    resolve_to(monkeypatch, "127.0.0.1", "::1")
    with socket.socket(socket.AF_INET6, SERVERS[name]) as other, socket.socket(type=SERVERS[name]) as again:
        other.bind(("::1", 0))
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            MAKE[name](("localhost", port))
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # An ended connection may have had this port.
        again.bind(("127.0.0.1", port))


@every_server
def test_shutdown_before_serving_lets_serving_return(name):
    with MAKE[name](("127.0.0.1", 0)) as server:
        server.shutdown()
        serve_to_the_end(server)


@every_server
def test_shutdown_from_another_thread_and_repeatedly(name):
    with MAKE[name](("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert ask(name, server.address[1])
        for _ in range(2_000):
            server.shutdown()
        thread.join(TIME_LIMIT_S / 2)
        assert not thread.is_alive()
        server.shutdown()


@every_server
def test_close_while_serving_waits_and_frees_the_port(name, serving):
    server = serving(MAKE[name](("127.0.0.1", 0)))
    assert ask(name, server.address[1])
    server.close()
    with MAKE[name](server.address) as again:
        assert again.address == server.address


@every_server
def test_close_without_serving_and_twice_frees_the_port(name):
    server = MAKE[name](("127.0.0.1", 0))
    server.close()
    server.close()
    serve_to_the_end(server)
    with MAKE[name](server.address) as again:
        assert again.address == server.address


# A machine that is not as expected


@pytest.mark.parametrize("host", ["fe80::1%no-such-interface", "a..b", "x" * 64])
@pytest.mark.parametrize("name", ["tcp_server.py", "udp_server.py", "udp_server.py --send hi", "async_client.py"])
def test_an_invalid_host_is_one_error(name, host, run):
    only_error(run(*name.split(), "--host", host))


@every_server
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_in_use_is_one_error(name, host, run):
    with socket.socket(socket.AF_INET, SERVERS[name]) as taken:
        taken.bind(("127.0.0.1", 0))
        if SERVERS[name] == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        result = run(name, "--host", host, "--port", port)
    error = only_error(result)
    assert error.startswith(f"{name}: error: cannot listen on {host}:{port}: Address already in use;")
    assert result[1] == ""


@needs_root
@every_server
def test_a_port_that_is_not_allowed_is_one_error(name, script):
    def start():
        write_setting("net/ipv4/ip_unprivileged_port_start", "1024")
        drop = partial(ctypes.CDLL(None).prctl, 24, 10, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE
        return script(name, "--port", 80, preexec_fn=drop).finish()

    status, out, err = in_namespace(start)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "Permission denied" in err


@needs_root
@every_server
def test_without_ipv6_there_is_ipv4(name, script):
    def start():
        write_setting("net/ipv6/conf/all/disable_ipv6", "1")
        process = script(name, "-q")
        assert process.wait_until_listening() == ("127.0.0.1", 12345)
        assert ask(name, 12345)
        return process.finish(signal.SIGINT)

    status, out, err = in_namespace(start)
    assert (status, out, errors(err)) == (0, "", [])


@needs_root
@pytest.mark.parametrize("words", ["tcp_client.py 203.0.113.1", "async_client.py --host 203.0.113.1"])
def test_no_route_to_a_server_is_one_error(words, script):
    error = only_error(in_namespace(lambda: script(*words.split()).finish()))
    assert "203.0.113.1 port 12345: Network is unreachable; check the address" in error


@every_sniffer
@pytest.mark.parametrize("cut", [1, 8, 23, 24, 30, 60, -1])
def test_a_capture_file_that_is_cut_is_one_error(name, cut, world, run):
    path = world.capture()
    path.write_bytes(path.read_bytes()[:cut])
    status, out, err = run(name, "-r", path)
    if cut == 24:
        assert (status, out, errors(err)) == (0, "", [])  # a capture without packets is whole
    else:
        assert (status, len(errors(err)), "Traceback" in err) == (1, 1, False)


@every_sniffer
def test_times_that_go_back_lose_nothing(name, world, run):
    path = world.capture()
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 2_000_000_000)
    path.write_bytes(data)
    status, out, err = run(name, "-r", path, "--json")
    assert (status, errors(err), "Traceback" in err) == (0, [], False)
    assert len(out.splitlines()) == (2 if name == "sniff.py" else 1)
