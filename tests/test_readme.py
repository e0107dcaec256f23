"""The commands in README.md and docs/ print what is shown there, and the Python examples run."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

import tcp_server
import udp_server

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
TEXTS = "\n".join([README, *PAGES.values()])
CONSOLES = list(dict.fromkeys(re.findall(r"^```console\n(.*?)^```$", TEXTS, re.MULTILINE | re.DOTALL)))
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXTS, re.MULTILINE | re.DOTALL)
SETUP = "python3 -m venv"  # the block that installs; .ci/run runs it


def steps(console):
    """(command, the lines it prints), in order."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, *lines = part.splitlines()
        yield command, lines


def without_what_varies(line):
    """Ports of clients, times, rates and the address family of localhost differ from run to run."""
    line = line.replace("[::1]", "127.0.0.1")
    line = re.sub(r"\b(?!12345\b)\d{5}\b", "PORT", line)
    return re.sub(r"[\d,]*\.?\d+ ?(µs|ms|s\b|connections/s|messages/s)|█+ [\d,]+", "N", line)


def own_network():
    """What to put before a command, so that no other program has its port 12345: root on Linux can do that."""
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return command
    return []


class Shell:
    """A shell that reads a command at a time, with the scripts at hand."""

    def __init__(self, folder, network):
        for name in ("python", "python3"):
            (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            (folder / name).chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = [*network, "bash", "--norc"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, text=True, **pipes)

    def run(self, command):
        print(command, file=self.process.stdin, flush=True)

    def lines(self, count):
        """The next lines, less those about a second address of localhost."""
        while count and (line := self.process.stdout.readline()):
            if not line.startswith("Listening on [::1]"):
                count -= 1
                yield line.rstrip("\n")

    def close(self):
        """End the shell and whatever it has left behind; return what was printed and not read."""
        self.process.stdin.close()
        rest = self.process.stdout.read() if self.process.wait(10) == 0 else None
        self.process.stdout.close()
        return rest

    def kill(self):
        if self.process.poll() is None or not self.process.stdout.closed:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()


@pytest.fixture
def shell(tmp_path):
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    network = own_network()
    try:
        if not network:
            socket.create_server(("127.0.0.1", 12345)).close()
    except OSError as error:
        pytest.skip(f"needs port 12345: {error}")
    shell = Shell(tmp_path, network)
    yield shell
    shell.kill()


@pytest.mark.parametrize(
    "console", [block for block in CONSOLES if SETUP not in block], ids=lambda text: text.split("\n")[0]
)
def test_a_console_prints_what_the_readme_says(console, shell):
    for command, expected in steps(console):
        shell.run(command)
        printed = sorted(without_what_varies(line) for line in shell.lines(len(expected)))
        assert printed == sorted(without_what_varies(line) for line in expected), command
    assert shell.close() == ""


def test_the_first_screen_has_the_two_commands():
    first_screen = "\n".join(README.splitlines()[:40])
    assert "$ python3 tcp_server.py --once & python3 tcp_client.py --wait 5" in first_screen
    setup = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python -m pytest"
    assert f"$ {setup}" in first_screen
    assert "sed -n 's/^\\$ \\(python3 -m venv.*\\)/\\1/p' README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", [path.stem for path in sorted(ROOT.glob("*.py"))])
def test_the_page_of_a_script_names_each_test_of_its_ten_lines(page):
    tests = re.findall(r"^def (test_ten_lines_\w+)", (ROOT / "tests" / f"test_{page}.py").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(test_\w+)`", PAGES[page])) == sorted(tests)


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in PAGES)])
def test_links_to_files_and_headings_exist(path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / path).read_text()):
        file, _, heading = target.partition("#")
        linked = (ROOT / path).parent / file if file else ROOT / path
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings], target


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 260


def example(text):
    """The one Python example that contains `text`."""
    return next(block for block in PYTHON if text in block)


def test_the_handler_example_runs(serving):
    namespace = {"__name__": "shout"}
    exec(example("class Shout"), namespace)
    server = serving(tcp_server.TCPServer(("127.0.0.1", 0), namespace["Shout"]))
    with socket.create_connection(server.address) as client, client.makefile("rb") as reader:
        client.sendall(b"he")
        client.sendall(b"llo\nagain\n" + b"x" * 2000)
        assert reader.read() == b"HELLO\nAGAIN\n"


@pytest.mark.parametrize("module", ["tcp_client", "async_client"])
def test_the_clients_examples_run(module, serving):
    greeter = serving(tcp_server.TCPServer(("127.0.0.1", 0), tcp_server.Greeter))
    code = example(f"from {module} import").replace("12345", str(greeter.address[1]))
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("b'Hello, World!'\n", "")


def test_the_udp_example_runs(serving):
    namespace = {"__name__": "shout"}
    exec(example("def shout"), namespace)
    server = serving(namespace["UDPServer"](("127.0.0.1", 0), namespace["shout"]))
    assert udp_server.ask(*server.address, b"hi") == b"HI"
