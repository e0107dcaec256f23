"""Start each program in examples/ with the command in its docstring, and check what it does."""

import http.server
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading

import pytest
from conftest import ROOT, free_port, has_ipv6
from scapy.layers.inet import UDP
from test_http_analyzer import OK, Wire, save
from test_sniff import ETHER, V4, block, pcap, question, raw, section

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SITE = {
    "/": '<a href="http://[">invalid</a> <a href="/a">a</a> <A HREF=b.html>b</A> '
    '<a href="http://other.invalid/">other</a> <a href="/secret/x">x</a>',
    "/a": '<a href="/">home</a> <a href="/missing#part">m</a> <a href="/old">moved</a>',
    "/b.html": "no links",
    "/new": "no links",
    "/robots.txt": "User-agent: *\nDisallow: /secret/\n",
}


@pytest.fixture
def example(script):
    """example(NAME, *ARGUMENTS) starts an example as a process."""
    return lambda name, *arguments, **options: script(f"examples/{name}.py", *arguments, **options)


@pytest.fixture
def site():
    """The URL of a web server on loopback, and the paths that it was asked for."""
    paths = []

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            body = SITE.get(self.path, "").encode()
            if self.path == "/old":
                self.send_response(301)
                self.send_header("Location", "/new")
            else:
                self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_its_docstring_says_how_to_start_it(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert f"examples/{path.name}" in path.read_text().split('"""')[1]
    assert f"| [`{path.name}`](examples/{path.name}) |" in (ROOT / "README.md").read_text()


def test_the_chat_passes_a_line_on_to_the_others_and_drops_an_endless_line(example):
    server = example("chat", "--port", 0)
    port = int(re.fullmatch(r"Chat on localhost:(\d+)\n", server.stdout.readline())[1])
    with socket.create_connection(("localhost", port)) as ann, socket.create_connection(("localhost", port)) as bob:
        bob_port = bob.getsockname()[1]
        with ann.makefile("rb") as ann_reads, bob.makefile("rb") as bob_reads:
            ann.sendall(b"x" * 2_000)
            assert ann_reads.read() == b""
            with socket.create_connection(("localhost", port)) as cat, cat.makefile("rb") as cat_reads:
                cat.sendall(b"one\ntwo\n")
                cat_port = cat.getsockname()[1]
                assert [bob_reads.readline() for _ in "12"] == [b"%d: one\n" % cat_port, b"%d: two\n" % cat_port]
                bob.sendall(b"three\n")
                assert cat_reads.readline() == b"%d: three\n" % bob_port
    server.terminate()
    assert server.finish() == (0, "", "")


@pytest.fixture
def framed(monkeypatch):
    """The module of framed_protocol.py, and the address of its server."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    import framed_protocol

    with framed_protocol.TCPServer(("127.0.0.1", 0), framed_protocol.Shout) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield framed_protocol, server.address
    thread.join()


def test_the_framed_protocol_finds_messages_in_any_segments(framed):
    module, address = framed
    assert module.ask(b"hello", address) == b"HELLO"
    assert module.ask(b"", address) == b""
    wire = b"\0\0\0\x02ab\0\0\0\x03cde"
    with socket.create_connection(address) as client, client.makefile("rb") as stream:
        for byte in wire:
            client.sendall(bytes([byte]))
        assert stream.read(len(wire)) == wire.upper()
        client.sendall(wire)
        assert stream.read(len(wire)) == wire.upper()


def test_the_framed_protocol_refuses_a_long_message(framed):
    module, address = framed
    assert module.ask(b"a" * 65_536, address) == b"A" * 65_536
    with socket.create_connection(address) as client:
        client.sendall(b"\0\1\0\1")
        assert client.recv(1) == b""
    with pytest.raises(ConnectionError):
        module.ask(b"a" * 65_537, address)


def test_the_framed_protocols_client_reports_that_no_server_runs(example):
    code, out, err = example("framed_protocol", "hello").finish()
    assert (code, out) == (1, "")
    # A machine without IPv6 may still have ::1 as an address of localhost.
    without_ipv6 = "(refused|Cannot assign requested address|Address family not supported by protocol)"
    cause = "refused" if has_ipv6() else without_ipv6
    assert re.fullmatch(rf"framed_protocol.py: error: .*{cause}; is the server running\?\n", err)


def test_the_crawler_follows_links_and_redirects_on_one_host_once_and_respects_robots_txt(example, site):
    url, paths = site
    code, out, err = example("crawler", f"{url}/").finish()
    assert sorted(out.splitlines()) == sorted(
        [f"200 {url}/", f"200 {url}/a", f"200 {url}/b.html", f"200 {url}/new", f"301 {url}/old", f"404 {url}/missing"]
    )
    assert sorted(paths) == ["/", "/a", "/b.html", "/missing", "/new", "/old", "/robots.txt"]
    assert (code, err) == (1, "")  # A page is missing.
    assert example("crawler", f"{url}/b.html").finish() == (0, f"200 {url}/b.html\n", "")


def test_the_crawler_reports_a_server_that_does_not_answer(example):
    code, out, err = example("crawler", f"http://127.0.0.1:{free_port()}").finish()
    assert (code, err) == (1, "")
    assert out.startswith("connection refused")
    assert example("crawler", "ftp://x").finish() == (1, "", "usage: crawler.py http://HOST/\n")
    assert example("crawler", "http://[").finish() == (1, "Invalid IPv6 URL http://[\n", "")


def test_the_port_monitor_has_a_status_for_cron(example, serving):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        up, down = f"127.0.0.1:{listener.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        code, out, err = example("port_monitor", "--once", up, down).finish()
        assert (code, err) == (1, "")
        assert re.fullmatch(rf"\S+ \S+ {up} up\n\S+ \S+ {down} down: connection refused.*\n", out)
        assert example("port_monitor", "--once", up).finish()[::2] == (0, "")
        for option in ("--interval", "--timeout"):
            code, out, err = example("port_monitor", "--once", up, option, "inf").finish()
            assert (code, out) == (2, "")
            assert err.endswith(f"argument {option}: 'inf' is not a number from 0.1 to 86,400\n")


def test_the_port_monitor_prints_only_changes(example):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        monitor = example("port_monitor", "--interval", 0.1, f"127.0.0.1:{address[1]}")
        assert monitor.stdout.readline().endswith(" up\n")
        for _ in range(3):
            listener.accept()[0].close()
    assert " down: connection refused" in monitor.stdout.readline()
    with socket.create_server(address):
        assert monitor.stdout.readline().endswith(" up\n")
    monitor.kill()


def test_the_dns_log_shows_who_asks_for_which_names(example, tmp_path):
    path = tmp_path / "dns.pcap"
    names = ("www.example.org", "a\x1b.example.org")
    pcap(path, [raw(ETHER / V4 / UDP(sport=40_000, dport=53) / question(name)) for name in names])
    code, out, err = example("dns_log", "-r", path).finish()
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ 192\.0\.2\.1 A\? www\.example\.org", first)
    assert "\x1b" not in second
    code, out, err = example("dns_log", "-r", tmp_path / "none").finish()
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dns_log.py: error: .*\n", err)


def test_the_dns_log_prints_queries_of_any_time(example, tmp_path):
    query = raw(ETHER / V4 / UDP(sport=40_000, dport=53) / question("www.example.org"))
    data = section("<")
    for offset_s in (1 << 62, -(1 << 62)):
        data += block("<", 1, struct.pack("<HxxIHHq", 1, 0, 14, 8, offset_s))
    for interface in (0, 1):
        data += block("<", 6, struct.pack("<IIIII", interface, 0, 0, len(query), len(query)) + query)
    (tmp_path / "times.pcapng").write_bytes(data)
    code, out, err = example("dns_log", "-r", tmp_path / "times.pcapng").finish()
    assert (code, err) == (0, "")
    assert re.fullmatch(r"(\d+-\d\d-\d\d \S+ 192\.0\.2\.1 A\? www\.example\.org\n){2}", out)


def test_a_closed_pipe_ends_an_example_quietly(example, site, closed_pipe, tmp_path):
    path = pcap(tmp_path / "dns.pcap", [raw(ETHER / V4 / UDP(dport=53) / question())])
    commands = [("crawler", site[0]), ("port_monitor", site[0].removeprefix("http://")), ("dns_log", "-r", path)]
    for command in commands:
        assert example(*command, stdout=closed_pipe).finish()[::2] == (0, ""), command


@pytest.mark.parametrize(("name", "module"), [("captures_dask", "dask.bag"), ("captures_spark", "pyspark")])
def test_many_captures_are_counted_and_a_damaged_one_is_a_warning(name, module, tmp_path):
    pytest.importorskip(module, reason=f"needs {module}: pip install {module.replace('dask.bag', 'dask[bag]')}")
    if module == "pyspark" and not shutil.which("java"):
        pytest.skip("needs Java, on Debian: apt-get install default-jre-headless")
    paths = [tmp_path / name for name in ("a.pcap", "b.pcap", "damaged.pcap")]
    for path in paths:
        wire = Wire().open()
        wire.send(0, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        wire.send(1, OK % 200)
        save(path, wire.close().frames)
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    command = [sys.executable, ROOT / "examples" / f"{name}.py", *paths]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r" +\d 200 a\.example\n", run.stdout)
    assert f"{name}.py: warning: " in run.stderr


@pytest.mark.parametrize("name", ["captures_dask", "captures_spark", "dns_log"])
def test_a_missing_library_is_one_error(name):
    """-S hides the installed packages."""
    run = subprocess.run([sys.executable, "-S", ROOT / "examples" / f"{name}.py", "lo"], capture_output=True, text=True)
    assert run.returncode == 1
    assert re.fullmatch(rf"{name}.py: error: .* is not installed; pip install .*\n", run.stderr)
