"""What all tests share: servers in threads on port 0, scripts as processes, and a limit on each test's time."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TIME_LIMIT_S = 30


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
    """A script as a user starts it, from its command line; `addresses` are those it says it listens on."""

    def __init__(self, name, *arguments, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-W", "error", str(ROOT / name), *map(str, arguments)]
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
def run(script):
    """run(NAME, *ARGUMENTS) runs a script to its end; returns (exit status, stdout, stderr)."""
    return lambda name, *arguments, **options: script(name, *arguments, **options).finish()


def open_files():
    """How many descriptors this process has open (Linux)."""
    return len(os.listdir("/proc/self/fd"))
