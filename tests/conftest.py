"""What all tests share: servers in threads on port 0, scripts as processes, and a limit on each test's time."""

import concurrent.futures
import contextlib
import ctypes.util
import importlib
import logging
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import pytest

SUDO = ("SUDO_UID", "SUDO_GID", "SUDO_USER")  # Under sudo, the sniffers would become the caller's user.
LOCALE = ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "PYTHONIOENCODING")
TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTHON_COLORS")
for name in (*SUDO, *LOCALE, *TERMINAL, "PYTHONSAFEPATH"):  # The tests must not depend on the user's settings.
    os.environ.pop(name, None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # The scripts would inherit SIG_IGN.
ROOT = pathlib.Path(__file__).parent.parent
TIME_LIMIT_S = 30
FREE_PORT = ("--host", "127.0.0.1", "--port", 0)  # localhost can have two addresses, and a line for each of them.
CLONE_NEWNET = 0x40000000  # unshare(2)
CABLE = ("link add here type veth peer name there", "link set here up", "link set there up")  # for in_namespace()
LIBPCAP = ctypes.util.find_library("pcap")


@pytest.fixture(autouse=True)
def time_limit():
    """Fail a test that hangs, with the traceback of where it does."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def expire(*_):
        raise AssertionError(f"the test took longer than {TIME_LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(TIME_LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def serving():
    """serving(server) runs it in a thread and returns it; at the end of the test it is closed and the thread joined."""
    with contextlib.ExitStack() as cleanup:

        def start(server):
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            cleanup.callback(join, thread)
            cleanup.callback(server.close)
            return server

        yield start


def join(thread):
    thread.join(TIME_LIMIT_S)
    assert not thread.is_alive()


class Script(subprocess.Popen):
    """A script as a process, started from its command line.

    Warnings are errors, but for those of the categories `ignored`.
    """

    def __init__(self, name, *arguments, ignored=(), **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        filters = ["-Werror", *(f"-Wignore::{category}" for category in ignored)]
        command = [sys.executable, *filters, str(ROOT / name), *map(str, arguments)]
        super().__init__(command, text=True, encoding="utf-8", errors="surrogateescape", **options)

    def wait_until_listening(self):
        """Read the first line; return (host, port) of it."""
        line = self.stdout.readline()
        host, port = re.fullmatch(r"Listening on (.+):(\d+)\n", line).groups()
        return host.strip("[]"), int(port)

    def finish(self, number=None):
        """Send a signal, if one is given; return (exit status, stdout, stderr)."""
        if number:
            self.send_signal(number)
        out, err = self.communicate(timeout=TIME_LIMIT_S)
        return self.returncode, out, err


@pytest.fixture
def customize(tmp_path, monkeypatch):
    """customize(CODE) lets the scripts that this test starts run CODE first."""

    def write(code):
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return write


@pytest.fixture
def without_libpcap(customize):
    """Let the scripts that this test starts find no libpcap."""
    customize("import ctypes.util\nctypes.util.find_library = lambda name: None\n")


@pytest.fixture
def closed_pipe():
    """The end to write of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.fixture
def script():
    """script(NAME, *ARGUMENTS) starts a script; what still runs at the end of the test is killed."""
    started = []

    def start(name, *arguments, **options):
        started.append(Script(name, *arguments, **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        with process:
            pass


@pytest.fixture
def run(capfd):
    """run(NAME, *ARGUMENTS) calls main() of a script in this process: most of a new process's time are its imports.

    It returns (exit status, stdout, stderr).
    """

    def call(name, *arguments):
        module = importlib.import_module(name.removesuffix(".py"))
        capfd.readouterr()
        with state_of_a_process(logging.getLogger(module.__name__)):
            try:
                status = module.main([*map(str, arguments)])
            except SystemExit as end:
                status = end.code
        return status, *capfd.readouterr()

    return call


@contextlib.contextmanager
def state_of_a_process(log):
    """Keep what main() changes for its whole process: the handlers of logging and of signals."""
    root, numbers = logging.getLogger(), (signal.SIGINT, signal.SIGTERM)
    handlers, level, actions = root.handlers[:], root.level, [signal.getsignal(number) for number in numbers]
    root.handlers.clear()
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        log.setLevel(logging.NOTSET)
        for number, action in zip(numbers, actions, strict=True):
            signal.signal(number, action)


def has_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs the address ::1")


def resolve_to(monkeypatch, *hosts):
    """Let localhost have these addresses, in this order."""
    real = socket.getaddrinfo

    def resolve(host, *args, **options):
        return [entry for name in (hosts if host == "localhost" else [host]) for entry in real(name, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def reset(sock):
    """Close with a reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def one_error(result):
    """Return the only error line of a script that has failed."""
    status, _, err = result
    errors = [line for line in err.splitlines() if ": error: " in line]
    assert (status, len(errors), "Traceback" in err) == (1, 1, False)
    return errors[0]


def only_error(result):
    """Return the error line of a script that has failed and has printed nothing else to standard error."""
    error = one_error(result)
    assert result[2] == f"{error}\n"
    return error


def write_setting(path, value):
    """Change a setting of the kernel, as sysctl does. Use it in a network namespace only."""
    (pathlib.Path("/proc/sys") / path).write_text(value)


def open_files():
    """How many descriptors this process has open (Linux)."""
    return len(os.listdir("/proc/self/fd"))


def free_port(kind=socket.SOCK_STREAM):
    """Return a free port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def process_status(process):
    """Return the words after each name in /proc/PID/status (Linux). Sizes are in kB."""
    with open(f"/proc/{process.pid}/status") as file:
        return {name: words.split() for name, _, words in (line.partition(":") for line in file)}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """(certificate, key): two PEM files for localhost."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", files[1], "-out", files[0]]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", "req", "-x509", "-days", "2", *key, *names], check=True, capture_output=True)
    return files


@pytest.fixture
def tls(certificate):
    """What a server with that certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trust(certificate):
    """What a client that trusts it needs."""
    return ssl.create_default_context(cafile=certificate[0])


def may_capture():
    """Whether this user may capture, and filter: root may, but not in every container."""
    if not LIBPCAP:
        return False
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except (AttributeError, OSError):
        return False
    return os.geteuid() == 0


captures = pytest.mark.skipif(
    not may_capture(),
    reason="capturing needs root on Linux, CAP_NET_RAW in a container, and libpcap: sudo .venv/bin/python -m pytest",
)
filters = pytest.mark.skipif(not LIBPCAP, reason="filters need libpcap, on Debian: apt-get install libpcap0.8")


def in_namespace(job, *setup):
    """Do `job` in a thread with a network of its own, set up by `ip` commands; what it sends cannot leave."""

    def enter():
        if not shutil.which("ip"):
            pytest.skip("needs the command ip")
        if sys.platform != "linux" or ctypes.CDLL(None).unshare(CLONE_NEWNET):
            pytest.skip("only root on Linux can make a network namespace: sudo .venv/bin/python -m pytest")
        for command in ("link set lo up", *setup):
            subprocess.run(["ip", *command.split()], check=True)
        return job()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


def wait_for_route(host):
    """A new IPv6 address delivers nothing at first: send to it until it does."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.02)
        probe.bind(socket.getaddrinfo(host, 0)[0][4])
        deadline = time.monotonic() + TIME_LIMIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                probe.sendto(b"there?", probe.getsockname())
                return probe.recv(99)
    raise AssertionError(f"no route to {host}")
