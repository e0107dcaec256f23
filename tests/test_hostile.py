"""All scripts as an enemy would treat them: each case ends in a clear line and an intact result."""

import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import time
from functools import partial

import fake_weather
import pytest
from conftest import ROOT, TIME_LIMIT_S, free_port, in_namespace, process_status

from tcp_server import Greeter, TCPServer
from udp_server import UDPServer

EVIL = bytes(range(256)) + "\x9b31m\u202e\u2066\u2028\x1b]0;owned\x07\r\nforged line".encode()

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
        records = [struct.pack("<IIII", 1_000 + at, 0, len(each), len(each)) + each for at, each in enumerate(frames)]
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


# What each script is started with, to print something that came from a network, and to end by itself
SCENES = {
    "tcp_client.py": lambda world, _: ["--port", world.greeting()],
    "udp_server.py": lambda world, _: ["--port", world.datagrams(), "--send", "hello"],
    "async_client.py": lambda world, _: ["--port", world.greeting()],
    "weather.py": lambda world, monkeypatch: [world.weather(monkeypatch) and "London", "--no-cache"],
    "sniff.py": lambda world, _: ["-A", "-r", world.capture()],
    "http_analyzer.py": lambda world, _: ["--headers", "-r", world.capture()],
}
SCENES = {name: scene for name, scene in SCENES.items() if (ROOT / name).exists()}
CAPTURES = [name for name in ("sniff.py", "http_analyzer.py") if name in SCENES]
SERVERS = {"tcp_server.py": socket.SOCK_STREAM, "udp_server.py": socket.SOCK_DGRAM}

every_client = pytest.mark.parametrize("name", SCENES)
every_server = pytest.mark.parametrize("name", SERVERS)


def errors(text):
    return [line for line in text.splitlines() if ": error: " in line]


def assert_served(name, port, message=b"hello?"):
    """The server answers, once it does."""
    kind, deadline = SERVERS[name], time.monotonic() + TIME_LIMIT_S / 2
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(0.2)
            client.connect(("127.0.0.1", port))
            client.sendall(message)
            if answer := client.recv(100):
                return answer
    raise AssertionError("no answer")


# Where output goes


@every_client
def test_a_full_disk_is_one_line(name, world, script, monkeypatch):
    with open("/dev/full", "w") as full:
        status, _, err = script(name, *SCENES[name](world, monkeypatch), stdout=full).finish()
    assert status == 1
    assert errors(err) == [f"{name}: error: cannot write the output: No space left on device"]
    assert "Traceback" not in err


@every_client
def test_a_closed_pipe_is_quiet(name, world, script, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    status, _, err = script(name, *SCENES[name](world, monkeypatch), stdout=writing).finish()
    os.close(writing)
    assert (status, errors(err), "Traceback" in err) == (0, [], False)


@every_client
@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_closed_descriptors_are_no_reason_to_fail(name, closed, world, script, monkeypatch):
    arguments = SCENES[name](world, monkeypatch)
    process = script(name, *arguments, preexec_fn=lambda: [os.close(each) for each in closed])
    status, out, err = process.finish()
    assert "Traceback" not in err
    assert (status, bool(out)) == (0, 1 not in closed)


@every_server
def test_a_server_goes_on_without_a_place_to_write(name, script):
    port = free_port(SERVERS[name])
    with open("/dev/full", "w") as full:
        process = script(name, "--port", port, stdout=full)
        assert assert_served(name, port)
        assert assert_served(name, port)
        status, _, err = process.finish(signal.SIGTERM)
    assert (status, "Traceback" in err) == (0, False)


# Text from the network


@every_client
@pytest.mark.parametrize("how", ["text", "json"])
def test_no_control_character_reaches_the_terminal(name, how, world, script, monkeypatch):
    world.text = EVIL
    arguments = SCENES[name](world, monkeypatch)
    if how == "json":
        help_text = subprocess.run(["python3", ROOT / name, "--help"], capture_output=True, text=True).stdout
        if "--json" not in help_text:
            pytest.skip("it has no --json")
        arguments = [*(argument for argument in arguments if argument not in ("-A", "--headers")), "--json"]
        if name == "async_client.py":
            arguments += ["-n", 1]
    status, out, err = script(name, *arguments).finish()
    assert (status, "Traceback" in err) == (0, False)
    assert out
    for line in (out + err).splitlines():
        assert all(char.isprintable() or char == "\t" for char in line), repr(line)
    assert not any(line.startswith("forged") for line in out.split("\n"))
    if how == "json":
        assert all(json.loads(line) for line in out.splitlines())


@pytest.mark.parametrize("name", ["tcp_client.py", "async_client.py"])
def test_an_endless_peer_is_left(name, script):
    """Send a byte again and again, always before the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = script(name, "--port", listener.getsockname()[1], "--timeout", 2)
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
    process = script(name, "--port", 0, "-q")
    address = process.wait_until_listening()
    before = peak_memory_kb(process)
    for number in range(2_000):
        with socket.socket(socket.AF_INET, SERVERS[name]) as flood:
            flood.connect(address)
            flood.send(EVIL)
            if number % 2 and SERVERS[name] == socket.SOCK_STREAM:
                flood.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert assert_served(name, address[1])
    assert peak_memory_kb(process) - before < 20_000
    status, out, err = process.finish(signal.SIGTERM)
    assert (status, out, errors(err), "Traceback" in err) == (0, "", [], False)


@every_client
def test_without_descriptors_it_ends_in_one_line(name, world, script, monkeypatch):
    """Enough for Python to start, not for what the script is for."""
    arguments = SCENES[name](world, monkeypatch)
    for limit in range(4, 12):
        starve = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, limit))
        status, out, err = script(name, *arguments, preexec_fn=starve).finish()
        if status not in (0, 1) or "init_import_site" in err or "BaseEventLoop.__del__" in err:
            continue  # not even Python starts, or asyncio's event loop
        assert "Traceback" not in err, f"{limit} descriptors: {err}"
        assert (status, bool(out)) == (0, True) or (status, len(errors(err))) == (1, 1), (limit, status, err)


@every_client
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle(name, number, world, script, monkeypatch):
    """Of a wait for a peer, or for input, that never comes."""
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


# A machine that is not as expected


@every_server
def test_a_port_that_is_taken_is_one_line(name, script):
    with socket.socket(socket.AF_INET, SERVERS[name]) as taken:
        taken.bind(("127.0.0.1", 0))
        if SERVERS[name] == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        status, out, err = script(name, "--host", "127.0.0.1", "--port", port).finish()
    assert (status, out, err.count("\n"), "already in use" in err) == (1, "", 1, True)


def give_up_capabilities():
    """As setuid() would, but this Python may be in a folder of root's."""
    for capability in range(64):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, which exec() obeys


@needs_root
@every_server
def test_a_port_that_is_not_allowed_is_one_line(name, script):
    def start():
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as file:
            file.write("1024")
        return script(name, "--port", 80, preexec_fn=give_up_capabilities).finish()

    status, out, err = in_namespace(start)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "Permission denied" in err


@needs_root
@every_server
def test_without_ipv6_there_is_ipv4(name, script):
    def start():
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as file:
            file.write("1")
        process = script(name, "-q")
        assert process.wait_until_listening() == ("127.0.0.1", 12345)
        assert assert_served(name, 12345)
        return process.finish(signal.SIGINT)

    status, out, err = in_namespace(start)
    assert (status, out, errors(err)) == (0, "", [])


@pytest.mark.parametrize("name", CAPTURES)
@pytest.mark.parametrize("cut", [1, 8, 23, 24, 30, 60, -1])
def test_a_file_that_is_cut_is_one_line(name, cut, world, script):
    path = world.capture()
    path.write_bytes(path.read_bytes()[:cut])
    status, out, err = script(name, "-r", path).finish()
    if cut == 24:
        assert (status, out, errors(err)) == (0, "", [])  # a capture without packets is whole
    else:
        assert (status, len(errors(err)), "Traceback" in err) == (1, 1, False)


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_in_which_the_clock_goes_back(name, world, script):
    path = world.capture()
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 2_000_000_000)
    path.write_bytes(data)
    status, out, err = script(name, "-r", path, "--json").finish()
    assert (status, errors(err), "Traceback" in err) == (0, [], False)
    assert len(out.splitlines()) == (2 if name == "sniff.py" else 1)


def test_the_servers_do_not_look_at_the_clock_on_the_wall():
    """Idle connections and grace are counted on a clock that never goes back."""
    for name in ("tcp_server.py", "udp_server.py", "tcp_client.py", "async_client.py"):
        assert not re.search(r"\btime\.time\(|\bdatetime\.now\(", (ROOT / name).read_text())
